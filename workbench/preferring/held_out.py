"""A reward model on pairs that it has not learned: how often it is right, how sure it is, and by how much.

Intervals are over prompts, because the pairs of one prompt are not independent.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from workbench.decoding.best_of_n import Scorer, reward
from workbench.errors import UserError
from workbench.identity import from_json, to_json
from workbench.preferring.bias import mean_over, share
from workbench.preferring.pairs import Pair
from workbench.report import percent, span
from workbench.stats import expected_calibration_error, reliability
from workbench.types import Interval, Request, text_hash


def split(pairs: Sequence[Pair], held_out: float) -> tuple[list[Pair], list[Pair]]:
    """(to learn from, held out): all pairs of a prompt on one side, which one the hash of its group says.

    Raises:
        UserError: the pairs are of one prompt only.
    """
    groups = sorted({pair.group for pair in pairs}, key=text_hash)
    if len(groups) < 2:
        raise UserError("The pairs are of one prompt, so that none can be held out: a reward model needs several.")
    count = min(len(groups) - 1, max(1, round(held_out * len(groups))))
    held = set(groups[:count])
    return [p for p in pairs if p.group not in held], [p for p in pairs if p.group in held]


def judged(pairs: Sequence[Pair], scorer: Scorer) -> dict[str, Any]:
    """What a reward model makes of pairs.

    Gives:
        pairs, prompts: that were scored.
        left_out: pairs of which an answer could not be scored.
        accuracy: share of pairs whose chosen answer has the higher reward; equal rewards are one half.
        margin: mean of the chosen answer's reward minus the rejected one's.
        reward: the lowest, the mean and the highest.
        ties: pairs with equal rewards, on which there is no verdict; the figures below leave them out.
        sure: σ(|margin|) of each other pair, the probability that the model gives its own verdict.
        right: of each of them whether the verdict is right.
        groups: of each of them.
        ece, gap, bins: whether that probability can be believed; `gap` is its mean minus their accuracy. None for
            ece and gap where all are ties.
        longer: share of pairs whose chosen answer is the longer one, equal lengths being one half: what length
            alone would have right.

    Raises:
        UserError: no pair could be scored.
    """
    asked = {(p.group, text): Request(p.group, p.prompt, style=p.style) for p in pairs for text in _both(p)}
    order = list(asked)
    rewards: dict[tuple[str, str], float] = {}
    problem = "there is no pair"
    for batch in scorer.rewards([(asked[name], name[1]) for name in order]):
        for place, completion in batch:
            rewards[order[place]] = reward(completion)
            problem = completion.error or problem
    scored = [p for p in pairs if all(math.isfinite(rewards[p.group, text]) for text in _both(p))]
    if not scored:
        raise UserError(f"No held-out pair could be scored: {problem}.")
    margins = [rewards[p.group, p.chosen] - rewards[p.group, p.rejected] for p in scored]
    groups = [p.group for p in scored]
    hits = [0.5 if m == 0 else float(m > 0) for m in margins]
    decided = [(group, m) for group, m in zip(groups, margins, strict=True) if m != 0]
    of = [group for group, _ in decided]
    sure = [1 / (1 + math.exp(-abs(m))) for _, m in decided]
    right = [m > 0 for _, m in decided]
    bins = reliability(sure, right)
    values = [r for r in rewards.values() if math.isfinite(r)]
    return {
        "pairs": len(scored),
        "prompts": len(set(groups)),
        "left_out": len(pairs) - len(scored),
        "accuracy": to_json(share(hits, groups)),
        "margin": to_json(mean_over(margins, groups)),
        "reward": {"lowest": min(values), "mean": sum(values) / len(values), "highest": max(values)},
        "ties": len(scored) - len(decided),
        "ece": expected_calibration_error(bins) if decided else None,
        "gap": to_json(mean_over([c - r for c, r in zip(sure, right, strict=True)], of)) if decided else None,
        "longer": to_json(share([_longer(p) for p in scored], groups)),
        "bins": [{**vars(b), "accuracy": to_json(b.accuracy)} for b in bins],
        "sure": sure,
        "right": right,
        "groups": of,
    }


def in_words(told: Mapping[str, Any]) -> str:
    """A few lines for the terminal and the card."""
    accuracy, longer, ranges = _interval(told["accuracy"]), _interval(told["longer"]), told["reward"]
    left = f", {told['left_out']} left out as too long" if told["left_out"] else ""
    ties, calibration = "", "no pair has a verdict"
    if told["ties"]:
        ties = f" without {told['ties']} of equal rewards, one half each in the accuracy"
    if told["ece"] is not None:
        calibration = (
            f"mean minus accuracy {_mean(told['gap'], '+.3f')}, expected calibration error {told['ece']:.3f}"
        )
    return (
        f"Held-out pairs: {told['pairs']} of {told['prompts']} prompts ({told['source']}){left}.\n"
        f"Accuracy {percent(accuracy.value)} (95 % interval over prompts {span(accuracy)}); taking the longer "
        f"answer would have {percent(longer.value)} ({span(longer)}).\n"
        f"Mean margin {_mean(told['margin'], '.3f')}; rewards {ranges['lowest']:.2f} "
        f"to {ranges['highest']:.2f}, mean {ranges['mean']:.2f}.\n"
        f"Calibration of σ(|margin|){ties}: {calibration}."
    )


def _longer(pair: Pair) -> float:
    gap = len(pair.chosen) - len(pair.rejected)
    return 0.5 if gap == 0 else float(gap > 0)


def _both(pair: Pair) -> tuple[str, str]:
    return pair.chosen, pair.rejected


def _mean(data: Any, form: str) -> str:
    """A mean in words, with its interval where there is one."""
    found = from_json(data)
    if not isinstance(found, Interval):
        return f"{found:{form}} (of one prompt, without an interval)"
    return f"{found.value:{form}} ({found.low:{form}} to {found.high:{form}})"


def _interval(data: Any) -> Interval:
    found = from_json(data)
    assert isinstance(found, Interval)
    return found
