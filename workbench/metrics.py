"""From graded answers to numbers: intervals, curves over samples, a vote against one sample, what use costs."""

from collections import Counter
from collections.abc import Sequence

import numpy as np

from workbench.cost import ModelShape, inference_flops
from workbench.stats import (
    bootstrap_interval,
    macro_f1_interval,
    majority_curve,
    paired_bootstrap,
    pass_at_k,
    wilson_interval,
)
from workbench.types import Completion, CostToUse, Finish, Interval, Outcome, Status

Graded = tuple[Status, str | None]
"""One completion's status and parsed answer."""


def score_interval(outcomes: Sequence[Outcome]) -> Interval:
    """The mean score over the questions that were answered: Wilson for scores of 0 and 1, else bootstrap."""
    scores = [outcome.score for outcome in outcomes if outcome.score is not None]
    if set(scores) <= {0.0, 1.0}:
        return wilson_interval(int(sum(scores)), len(scores))
    return bootstrap_interval(scores)


def class_metrics(outcomes: Sequence[Outcome], labels: Sequence[str]) -> dict[str, float]:
    """Macro F1 with its interval, and the share of the most frequent target, over the answered questions."""
    kept = [outcome for outcome in outcomes if outcome.score is not None]
    targets = [outcome.target for outcome in kept]
    if not targets:
        return {"macro_f1": 0.0, "majority_class": 0.0}
    f1 = macro_f1_interval(targets, [outcome.answer for outcome in kept], labels)
    return {
        "macro_f1": f1.value,
        "macro_f1_low": f1.low,
        "macro_f1_high": f1.high,
        "majority_class": Counter(targets).most_common(1)[0][1] / len(targets),
    }


def curves(graded: Sequence[Sequence[Graded]], n: int) -> dict[str, float]:
    """pass@k and majority@k with their intervals for k = 1, 2, 4, … n, over questions with all n samples.

    Args:
        graded: the samples of each question.
        n: samples that were asked for.
    """
    right, votes, targets = [], [], []
    for samples in graded:
        if len(samples) < n or any(status is Status.ERROR for status, _ in samples):
            continue
        # Answers as small numbers; the right one is 0, a sample without a voice -1.
        others: dict[str, int] = {}
        row = [
            0 if s is Status.CORRECT else -1 if a is None else others.setdefault(a, len(others) + 1)
            for s, a in samples
        ]
        votes.append(row)
        right.append(row.count(0))
        targets.append(0)
    if not votes:
        return {}
    ks = [2**i for i in range(n.bit_length()) if 2**i <= n]
    ks += [n] if ks[-1] != n else []
    passes_QK = pass_at_k(n, np.array(right)[:, None], np.array(ks)[None, :])
    agreed_QK = majority_curve(np.array(votes), np.array(targets), ks)
    metrics: dict[str, float] = {}
    for name, scores_QK in (("pass", passes_QK), ("majority", agreed_QK)):
        for k, scores in zip(ks, scores_QK.T, strict=True):
            interval = bootstrap_interval(scores.tolist())
            metrics |= {
                f"{name}@{k}": float(scores.mean()),
                f"{name}@{k}_low": interval.low,
                f"{name}@{k}_high": interval.high,
            }
    return metrics


def against_one_sample(
    graded: Sequence[Sequence[Graded]], outcomes: Sequence[Outcome]
) -> tuple[dict[str, float], str]:
    """A vote against one sample of the same System, on the same questions: metrics, and a sentence.

    Args:
        graded: the samples of each question.
        outcomes: what the vote made of them, in the same order.
    """
    votes, singles = [], []
    for samples, outcome in zip(graded, outcomes, strict=True):
        if outcome.score is None:
            continue
        whole = [status for status, _ in samples if status is not Status.ERROR]
        votes.append(outcome.score)
        singles.append(sum(status is Status.CORRECT for status in whole) / len(whole))
    if not votes:
        return {}, ""
    single, gain = bootstrap_interval(singles), paired_bootstrap(votes, singles)
    d = gain.difference
    metrics = {
        "one_sample": single.value,
        "one_sample_low": single.low,
        "one_sample_high": single.high,
        "vote_gain": d.value,
        "vote_gain_low": d.low,
        "vote_gain_high": d.high,
        "vote_gain_p": gain.p_value,
    }
    sentence = (
        f"One sample of the same system is right {100 * single.value:.1f} % of the time "
        f"({100 * single.low:.1f} – {100 * single.high:.1f}); the vote adds {100 * d.value:+.1f} points "
        f"({100 * d.low:+.1f} to {100 * d.high:+.1f}; paired bootstrap, p = {gain.p_value:.2g})."
    )
    return metrics, sentence


def cost_to_use(
    shape: ModelShape | None,
    answers: Sequence[Sequence[Completion]],
    shared: Sequence[Sequence[Completion]],
    samples: int,
) -> CostToUse:
    """Means over the questions that were answered; a prompt counts once for its samples or labels.

    Args:
        shape: the model's, or None.
        answers: the completions of each question that was answered.
        shared: those of each prompt that the questions needed beside their own, as calibration does: its cost
            is shared out over the questions.
        samples: completions that were asked for a question.
    """
    answers = [whole for found in answers if (whole := _whole(found))]
    shared = [whole for found in shared if (whole := _whole(found))]
    if not answers:
        return CostToUse()
    prompt, completion, seconds = _means(answers)
    flops = inference_flops(shape, prompt, completion / samples, samples) if shape else None
    if not shared:
        return CostToUse(prompt, completion, flops, seconds)
    each = len(shared) / len(answers)  # prompts that fall to one question
    more_prompt, more_completion, more_seconds = _means(shared)
    if shape and flops is not None:
        flops += each * inference_flops(shape, more_prompt, more_completion)
    return CostToUse(
        prompt + each * more_prompt, completion + each * more_completion, flops, seconds + each * more_seconds
    )


def _whole(found: Sequence[Completion]) -> list[Completion]:
    return [completion for completion in found if completion.finish is not Finish.ERROR]


def _means(answers: Sequence[Sequence[Completion]]) -> tuple[float, float, float]:
    """Mean tokens of a prompt, tokens of its completions together, and seconds of them together."""
    return (
        float(np.mean([max(c.prompt_tokens for c in found) for found in answers])),
        float(np.mean([sum(c.completion_tokens for c in found) for found in answers])),
        float(np.mean([sum(c.seconds for c in found) for found in answers])),
    )
