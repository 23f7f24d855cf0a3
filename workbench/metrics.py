"""From graded answers to numbers: intervals, curves over samples, a vote against one sample, what use costs."""

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np

from workbench.cost import ModelShape, inference_flops
from workbench.stats import (
    best_of_n_curve,
    bootstrap_interval,
    holm,
    macro_f1_interval,
    majority_curve,
    paired_bootstrap,
    pass_at_k,
    wilson_interval,
)
from workbench.types import Completion, CostToUse, Example, Finish, Interval, Outcome, Status

Graded = tuple[Status, str | None]
"""One completion's status and parsed answer."""


def score_interval(outcomes: Sequence[Outcome]) -> Interval:
    """The mean score over the questions that were answered: Wilson for scores of 0 and 1, else bootstrap."""
    return _interval([outcome.score for outcome in outcomes if outcome.score is not None])


def _interval(scores: Sequence[float]) -> Interval:
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


def by_kind(kind: str, examples: Sequence[Example], outcomes: Sequence[Outcome]) -> str:
    """A sentence with the right answers of each kind of question; of several samples the mean counts.

    Args:
        kind: the variable that says an example's kind.
        examples: the questions.
        outcomes: one a question.
    """
    found: dict[str, list[float]] = {}
    for example, outcome in zip(examples, outcomes, strict=True):
        if outcome.score is not None:
            found.setdefault(dict(example.variables)[kind], []).append(outcome.score)
    told = [f"{name} {sum(scores):g}/{len(scores)}" for name, scores in sorted(found.items())]
    return f"Right answers by {kind}: {', '.join(told)}."


def curves(graded: Sequence[Sequence[Graded]], n: int) -> dict[str, float]:
    """pass@k and majority@k with their intervals for k = 1, 2, 4, … n, over questions with all n samples.

    Args:
        graded: the samples of each question.
        n: samples that were asked for.
    """
    votes = np.array([_votes(samples) for samples in graded if _whole_pool(samples, n)])
    if not len(votes):
        return {}
    ks = _powers(n)
    passes_QK = pass_at_k(n, (votes == 0).sum(axis=1)[:, None], np.array(ks)[None, :])
    agreed_QK = majority_curve(votes, np.zeros(len(votes)), ks)
    return _curve("pass", ks, passes_QK) | _curve("majority", ks, agreed_QK)


def best_of_n_curve_metrics(
    graded: Sequence[Sequence[Graded]], rewards: Sequence[Sequence[float]], n: int
) -> tuple[dict[str, float], str]:
    """Best of k with its intervals for k = 1, 2, 4, … n; at n against a random sample and the majority.

    Everything is over the questions with all n samples and a reward for each that can be chosen. The differences
    have paired bootstrap intervals over questions, and p-values of the sign-flip test, Holm's over the two.

    Args:
        graded: the samples of each question.
        rewards: of each sample; −∞ where it cannot be chosen, NaN where it could not be scored.
        n: samples that were asked for.

    Gives:
        metrics, `curves` over the same questions among them, and a sentence; no question is whole: only that
        `curve_questions` is 0.
    """
    whole = [
        (samples, row)
        for samples, row in zip(graded, rewards, strict=True)
        if _whole_pool(samples, n) and not np.isnan(row).any()
    ]
    metrics: dict[str, float] = {"curve_questions": len(whole)}
    if not whole:
        return metrics, ""
    ks = _powers(n)
    votes = np.array([_votes(samples) for samples, _ in whole])
    best_QK = best_of_n_curve(np.array([row for _, row in whole]), votes == 0, ks)
    metrics |= curves([samples for samples, _ in whole], n) | _curve("best_of", ks, best_QK)
    tests = {}
    against = {
        "random": (votes == 0).mean(axis=1),
        "majority": majority_curve(votes, np.zeros(len(votes)), [n])[:, 0],
    }
    for name, scores in against.items():
        tests[name] = paired_bootstrap(best_QK[:, -1], scores)
    single = bootstrap_interval(against["random"].tolist())
    metrics |= {"one_sample": single.value, "one_sample_low": single.low, "one_sample_high": single.high}
    adjusted = holm([test.p_value for test in tests.values()])
    words = []
    for (name, test), p in zip(tests.items(), adjusted, strict=True):
        d = test.difference
        metrics |= {
            f"best_over_{name}": d.value,
            f"best_over_{name}_low": d.low,
            f"best_over_{name}_high": d.high,
            f"best_over_{name}_p": p,
        }
        words.append(
            f"{100 * d.value:+.1f} points ({100 * d.low:+.1f} to {100 * d.high:+.1f}, p = {p:.2g}) against "
            f"{'a random sample' if name == 'random' else f'the majority of {n}'}"
        )
    return metrics, (
        f"Best of {n} on {len(whole)} questions: {'; '.join(words)} (intervals: paired bootstrap; p: sign-flip "
        "test over questions, Holm's correction over both)."
    )


def _whole_pool(samples: Sequence[Graded], n: int) -> bool:
    return len(samples) == n and all(status is not Status.ERROR for status, _ in samples)


def _votes(samples: Sequence[Graded]) -> list[int]:
    """Answers as small numbers; the right one is 0, a sample without a voice -1."""
    others: dict[str, int] = {}
    return [
        0 if s is Status.CORRECT else -1 if a is None else others.setdefault(a, len(others) + 1)
        for s, a in samples
    ]


def _powers(n: int) -> list[int]:
    """1, 2, 4, … and n."""
    ks = [2**i for i in range(n.bit_length()) if 2**i <= n]
    return ks + ([n] if ks[-1] != n else [])


def _curve(name: str, ks: Sequence[int], scores_QK: Any) -> dict[str, float]:
    """Means over questions with their intervals, as name@k: Wilson's for scores of 0 and 1, else bootstrap."""
    metrics: dict[str, float] = {}
    for k, scores in zip(ks, scores_QK.T, strict=True):
        interval = _interval(scores.tolist())
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
        f"({100 * d.low:+.1f} to {100 * d.high:+.1f}, paired bootstrap; sign-flip test, p = {gain.p_value:.2g})."
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


def with_scoring(
    cost: CostToUse, shape: ModelShape | None, rated: Sequence[Sequence[Completion | None]]
) -> CostToUse:
    """The cost with what a reward model adds, which reads a question's prompt once and each distinct answer.

    Args:
        cost: of drawing the answers.
        shape: the reward model's, or None.
        rated: the rewards of each question that was answered; equal answers have one and the same.
    """
    read = [list({id(c): c for c in row if c is not None}.values()) for row in rated]
    prompts = [max((c.prompt_tokens for c in row), default=0) for row in read]
    texts = [sum(c.completion_tokens for c in row) for row in read]
    count = max(1, len(read))
    flops = None
    if shape is not None and cost.flops is not None:
        flops = (
            cost.flops
            + sum(
                inference_flops(shape, prompt, text / len(row), len(row))
                for row, prompt, text in zip(read, prompts, texts, strict=True)
                if row
            )
            / count
        )
    return CostToUse(
        cost.prompt_tokens + (sum(prompts) + sum(texts)) / count,
        cost.completion_tokens,
        flops,
        cost.seconds + sum(c.seconds for row in read for c in row) / count,
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
