"""Numbers about choosing among a question's samples: curves over k, a choice beside chance and the vote.

Everything is over questions: the samples of one question are one question.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from workbench.decodes import BestOfN, Decode, EarlyMajority, Majority, Sample, WeightedVote
from workbench.decoding.best_of_n import weight
from workbench.decoding.choosing import Graded
from workbench.decoding.early import first_round
from workbench.stats import (
    best_of_n_curve,
    best_of_n_kl,
    bootstrap_interval,
    holm,
    majority_curve,
    mean_interval,
    paired_bootstrap,
    pass_at_k,
    proxy_view,
    ratio_interval,
    vote_curve,
    wilson_interval,
)
from workbench.types import Completion, Finish, Interval, Outcome, Status

CEILING = (
    "The scorer is the task's own grader, which knows the answers: an oracle, and so the ceiling for every choice "
    "among these samples."
)


def decode_metrics(
    decode: Decode,
    graded: Sequence[Sequence[Graded]],
    outcomes: Sequence[Outcome],
    scores: Sequence[Sequence[float]],
) -> tuple[dict[str, float], list[str]]:
    """What is said of a decode that draws several samples, beside its score: metrics, and sentences.

    Args:
        decode: of the System that was measured.
        graded: the samples of each question.
        outcomes: of the questions, in the same order.
        scores: of each sample, where the decode has a scorer.
    """
    metrics: dict[str, float] = {}
    sentences = []
    early = isinstance(decode, EarlyMajority)
    if isinstance(decode, Sample) and decode.n > 1 and not early:
        metrics |= curves(graded, decode.n)
    if isinstance(decode, BestOfN):
        against, sentence = scored_metrics(graded, scores, decode)
        metrics |= against
        sentences = [sentence] if sentence else []
        if decode.scorer == "verifier":
            sentences.append(CEILING)
    elif isinstance(decode, Majority):
        # Samples that were drawn because the first ones disagreed are no fair sample.
        shown = [row[: first_round(decode)] for row in graded] if isinstance(decode, EarlyMajority) else graded
        against, sentence = against_one_sample(shown, outcomes)
        metrics |= against
        sentences = [sentence] if sentence else []
    return metrics, sentences


def curves(graded: Sequence[Sequence[Graded]], n: int) -> dict[str, float]:
    """pass@k and majority@k with their intervals for k = 1, 2, 4, … n, over questions with all n samples.

    Args:
        graded: the samples of each question.
        n: samples that were asked for.
    """
    votes = np.array([vote_codes(samples) for samples in graded if whole_pool(samples, n)])
    if not len(votes):
        return {}
    ks = powers(n)
    passes_QK = pass_at_k(n, (votes == 0).sum(axis=1)[:, None], np.array(ks)[None, :])
    agreed_QK = majority_curve(votes, np.zeros(len(votes)), ks)
    return _curve("pass", ks, passes_QK) | _curve("majority", ks, agreed_QK)


def scored_metrics(
    graded: Sequence[Sequence[Graded]], scores: Sequence[Sequence[float]], decode: BestOfN
) -> tuple[dict[str, float], str]:
    """What a scorer's scores give of k = 1, 2, 4, … n samples; the decode itself against chance and the majority.

    Everything is over the questions with all n samples and a score for each that can be chosen: `best_of@k` and
    `weighted@k`; `proxy@k`, the scorer's own score of the best of k; `kl@k`, how far best of k is from one sample,
    in nats, as `best_of_n_kl` estimates it. The differences at n have paired bootstrap intervals over questions,
    and p-values of the sign-flip test, Holm's over the two.

    Args:
        graded: the samples of each question.
        scores: of each sample; −∞ where it cannot be chosen, NaN where it could not be scored.
        decode: names n, the scorer, and what is done with the scores.

    Gives:
        metrics, `curves` over the same questions among them, and a sentence; no question is whole: only that
        `curve_questions` is 0.
    """
    n, weighted = decode.n, isinstance(decode, WeightedVote)
    whole = [
        (samples, row)
        for samples, row in zip(graded, scores, strict=True)
        if whole_pool(samples, n) and not np.isnan(row).any()
    ]
    metrics: dict[str, float] = {"curve_questions": len(whole)}
    if not whole:
        return metrics, ""
    ks = powers(n)
    votes_QN = np.array([vote_codes(samples) for samples, _ in whole])
    scores_QN = np.array([row for _, row in whole], dtype=np.float64)
    weights_QN = np.array([[weight(decode.scorer, score) for score in row] for _, row in whole])
    best_QK = best_of_n_curve(scores_QN, votes_QN == 0, ks)
    weighted_QK = vote_curve(votes_QN, weights_QN)[:, np.array(ks) - 1]
    metrics |= curves([samples for samples, _ in whole], n)
    metrics |= _curve("best_of", ks, best_QK) | _curve("weighted", ks, weighted_QK)
    metrics |= _against_the_scorer(scores_QN, votes_QN == 0, ks)
    tests = {}
    against = {
        "random": (votes_QN == 0).mean(axis=1),
        "majority": majority_curve(votes_QN, np.zeros(len(votes_QN)), [n])[:, 0],
    }
    for name, others in against.items():
        tests[name] = paired_bootstrap((weighted_QK if weighted else best_QK)[:, -1], others)
    metrics |= _bounds("one_sample", bootstrap_interval(against["random"].tolist()))
    adjusted = holm([test.p_value for test in tests.values()])
    words = []
    for (name, test), p in zip(tests.items(), adjusted, strict=True):
        over = f"{'weighted' if weighted else 'best'}_over_{name}"
        metrics |= _bounds(over, test.difference) | {f"{over}_p": p}
        words.append(
            f"{_points(test.difference)}, p = {p:.2g}) against "
            f"{'a random sample' if name == 'random' else f'the majority of {n}'}"
        )
    return metrics, (
        f"{'Weighted vote' if weighted else 'Best'} of {n} on {len(whole)} questions: {'; '.join(words)} "
        "(intervals: paired bootstrap; p: sign-flip test over questions, Holm's correction over both)."
    )


def _against_the_scorer(scores_QN: Any, correct_QN: Any, ks: Sequence[int]) -> dict[str, float]:
    """`proxy@k` over the questions of which a sample can be chosen, with intervals, and `kl@k`."""
    metrics: dict[str, float] = {}
    view = proxy_view(scores_QN, correct_QN, ks)
    for place, k in enumerate(ks):
        proxy_Q = view.proxy_QK[:, place]
        if np.isfinite(proxy_Q).any():
            metrics |= _bounds(f"proxy@{k}", mean_interval(proxy_Q[np.isfinite(proxy_Q)]))
        metrics[f"kl@{k}"] = float(best_of_n_kl(scores_QN, k).mean())
    return metrics


def against_one_sample(
    graded: Sequence[Sequence[Graded]], outcomes: Sequence[Outcome]
) -> tuple[dict[str, float], str]:
    """A vote against one sample of the same System, on the same questions: metrics, and a sentence.

    Args:
        graded: samples of each question, as many of each.
        outcomes: what the vote made of them, in the same order.
    """
    votes, singles = [], []
    for samples, outcome in zip(graded, outcomes, strict=True):
        whole = [status for status, _ in samples if status is not Status.ERROR]
        if outcome.score is None or not whole:
            continue
        votes.append(outcome.score)
        singles.append(sum(status is Status.CORRECT for status in whole) / len(whole))
    if not votes:
        return {}, ""
    single, gain = bootstrap_interval(singles), paired_bootstrap(votes, singles)
    metrics = _bounds("one_sample", single) | _bounds("vote_gain", gain.difference) | {"vote_gain_p": gain.p_value}
    sentence = (
        f"One sample of the same system is right {100 * single.value:.1f} % of the time "
        f"({100 * single.low:.1f} – {100 * single.high:.1f}); the vote adds {_points(gain.difference)}, paired "
        f"bootstrap; sign-flip test, p = {gain.p_value:.2g})."
    )
    return metrics, sentence


def early_metrics(
    decode: EarlyMajority,
    outcomes: Sequence[Outcome],
    drawn: Sequence[Sequence[Completion]],
    rounds: Sequence[int],
    full: Sequence[Outcome],
    pool: Sequence[Sequence[Completion]],
) -> tuple[dict[str, float], str]:
    """What stopping early saved: metrics, and a sentence; over the questions that were answered.

    Args:
        decode: what stopped.
        outcomes: of the vote that stopped.
        drawn: the samples that it drew of each question.
        rounds: how often each question was asked.
        full: of the vote among all n samples; empty where they are not at hand.
        pool: those n samples.
    """
    kept = [i for i, outcome in enumerate(outcomes) if outcome.score is not None]
    if not kept:
        return {}, ""
    samples = mean_interval([len(drawn[i]) for i in kept])
    saved = mean_interval([1 - len(drawn[i]) / decode.n for i in kept])
    asked = float(np.mean([rounds[i] for i in kept]))
    metrics = _bounds("samples_drawn", samples) | _bounds("samples_saved", saved) | {"rounds": asked}
    sentence = (
        f"It drew {samples.value:.1f} of {decode.n} samples a question ({samples.low:.1f} – {samples.high:.1f}), "
        f"{100 * saved.value:.0f} % fewer than the whole vote, and read its prompt {asked:.1f} times"
    )
    both = [i for i in kept if full and full[i].score is not None]
    if not both:
        return metrics, f"{sentence}. The whole vote's samples are not all in the store: no comparison with it."
    written, before_written = (
        [sum(c.completion_tokens for c in rows[i] if _whole(c)) for i in both] for rows in (drawn, pool)
    )
    read = [max(c.prompt_tokens for c in pool[i]) for i in both]
    fewer = _saved(written, before_written)
    in_all = _saved(
        [rounds[i] * prompt + said for i, prompt, said in zip(both, read, written, strict=True)],
        [prompt + said for prompt, said in zip(read, before_written, strict=True)],
    )
    before = [full[i].score or 0.0 for i in both]
    gap = paired_bootstrap([outcomes[i].score or 0.0 for i in both], before)
    same = sum(outcomes[i].answer == full[i].answer for i in both)
    metrics |= _bounds("tokens_saved", fewer) | _bounds("all_tokens_saved", in_all)
    metrics |= _bounds("full_vote", mean_score(before))
    metrics |= _bounds("early_minus_full", gap.difference) | {"early_minus_full_p": gap.p_value}
    metrics |= {"same_answer": same / len(both)}
    return metrics, (
        f"{sentence}: {_percent(fewer)} completion tokens, and {_percent(in_all)} tokens in all where a prompt is "
        f"read anew each time. The whole vote, whose samples the store has, gives the same answer to {same} of "
        f"{len(both)} questions; beside it the early one has {_points(gap.difference)}, paired bootstrap; "
        f"sign-flip test, p = {gap.p_value:.2g})."
    )


def _saved(drawn: Sequence[int], whole: Sequence[int]) -> Interval:
    """The share of the whole vote's tokens that stopping saved; below 0 where it took more."""
    gaps = [full - part for part, full in zip(drawn, whole, strict=True)]
    return ratio_interval(gaps, [max(1, full) for full in whole])


def _percent(saved: Interval) -> str:
    return f"{-100 * saved.value:+.0f} % ({-100 * saved.high:+.0f} to {-100 * saved.low:+.0f})"


def mean_score(scores: Sequence[float]) -> Interval:
    """The mean of scores in [0, 1], one a question: Wilson for scores of 0 and 1, else bootstrap."""
    if set(scores) <= {0.0, 1.0}:
        return wilson_interval(int(sum(scores)), len(scores))
    return bootstrap_interval(scores)


def _whole(completion: Completion) -> bool:
    return completion.finish is not Finish.ERROR


def whole_pool(samples: Sequence[Graded], n: int) -> bool:
    """Whether all n samples of a question came, none of them failed."""
    return len(samples) == n and all(status is not Status.ERROR for status, _ in samples)


def vote_codes(samples: Sequence[Graded]) -> list[int]:
    """Answers as small numbers; the right one is 0, a sample without a voice -1."""
    others: dict[str, int] = {}
    return [
        0 if s is Status.CORRECT else -1 if a is None else others.setdefault(a, len(others) + 1)
        for s, a in samples
    ]


def powers(n: int) -> list[int]:
    """1, 2, 4, … and n."""
    ks = [2**i for i in range(n.bit_length()) if 2**i <= n]
    return ks + ([n] if ks[-1] != n else [])


def _curve(name: str, ks: Sequence[int], scores_QK: Any) -> dict[str, float]:
    """Means over questions with their intervals, as name@k."""
    metrics: dict[str, float] = {}
    for k, scores in zip(ks, scores_QK.T, strict=True):
        metrics |= _bounds(f"{name}@{k}", mean_score(scores.tolist())) | {f"{name}@{k}": float(scores.mean())}
    return metrics


def _bounds(name: str, interval: Interval) -> dict[str, float]:
    return {name: interval.value, f"{name}_low": interval.low, f"{name}_high": interval.high}


def _points(d: Interval) -> str:
    return f"{100 * d.value:+.1f} points ({100 * d.low:+.1f} to {100 * d.high:+.1f}"
