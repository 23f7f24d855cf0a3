"""Compute-optimal against one strategy for all (Snell et al. 2024, arXiv 2408.03314), on two pools of samples.

A strategy is a way of choosing (majority, best-of, weighted) among k samples. Its cost is counted in samples: what
a scorer reads, the prompt among it, is turned into samples by its tokens. The first samples, from which a
question's difficulty is predicted, are drawn in any case; every strategy goes on from them, so that they are part
of its k. Scores are looked at only where they cost nothing, because a majority does not pay for them. Measured is
the mean over several choices of the first samples of each question, which is in one fold with all of them.
Departure: the paper also chooses between revisions and searches; here the choice is among what one pool can tell.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from workbench.choice_metrics import mean_score
from workbench.errors import UserError, check_range
from workbench.pools import Pool
from workbench.stats import (
    Difficulty,
    PairedDifference,
    best_of_after,
    check_bins,
    choose,
    first_look,
    fit_difficulty,
    folds,
    holm,
    paired_bootstrap,
    ratio_interval,
    vote_curve,
    wilson_interval,
)
from workbench.stats.pool import WORK
from workbench.types import Result

Floats = NDArray[np.float64]

WAYS = ("majority", "best-of", "weighted")
SCORED = ("best-of", "weighted")
LOOKS = 8  # different first samples that are tried of each question, at most


def usual_budgets(n: int, first: int) -> tuple[int, ...]:
    """Three budgets of a pool of n: a sixteenth, a quarter and all of it, each `first` or more."""
    return tuple(sorted({max(first, n // 16), max(first, n // 4), n}))


def against_uniform(dev: Pool, test: Pool, *, first: int, bins: int, budgets: Sequence[int]) -> dict[str, Any]:
    """The best strategy by predicted difficulty against one for all, at each budget; JSON data.

    Args:
        dev: its right answers teach what a first look says of a question's difficulty.
        test: whose right answers only score what was chosen on the other fold.
        first: samples that are looked at.
        bins: of difficulty.
        budgets: samples a question.

    Raises:
        UserError: an argument is out of range, or there are too few questions.
    """
    check_range("first", first, 1, test.n - 1)
    for budget in budgets:
        check_range("budgets", budget, first, test.n)
    check_bins(len(dev.ids), bins)
    if dev.n <= first:
        raise UserError(f"dev has {dev.n} samples a question; it needs more than the {first} that are looked at.")
    turned = [turn(test, r * first) for r in range(min(LOOKS, test.n // first))]
    learned = [turn(dev, r * first) for r in range(min(LOOKS, dev.n // first))]
    # The right answers of samples that the look has not seen.
    rates_R = np.concatenate([(pool.answers_QN[:, first:] == 0).mean(axis=1) for pool in learned])
    difficulty = fit_difficulty(np.concatenate([_look(pool, first) for pool in learned]), rates_R, bins)
    bins_R = np.concatenate([difficulty.bins(_look(pool, first)) for pool in turned])
    fold_Q = folds(test.ids)
    fold_R = np.tile(fold_Q, len(turned))
    each = max(1.0, float(test.tokens_QN.mean()))
    dearer, before = 1 + float(test.read_QN.mean()) / each, float(test.read_prompt_Q.mean()) / each
    ks = _grid(test.n, first, budgets, dearer, before)
    names = [(way, k) for way in WAYS for k in ks]
    costs_S = np.array([before + k * dearer if way in SCORED else k for way, k in names], dtype=np.float64)
    alone_QS = _all_strategies(test, ks, 0)
    after_RS = np.concatenate([_all_strategies(pool, ks, first) for pool in turned])
    found: dict[str, Any] = {
        "first": first,
        "bins": _told_bins(difficulty, learned, turned, first),
        "looks": len(turned),
        "questions": len(test.ids),
        "dev_questions": len(dev.ids),
        "asked": test.asked,
        "n": test.n,
        "dearer": dearer,
        "before": before,
        "budgets": [],
    }
    tests = []
    for budget in budgets:
        chosen = choose(after_RS, np.tile(costs_S, (len(after_RS), 1)), bins_R, fold_R, budget)
        one = choose(alone_QS, np.tile(costs_S, (len(alone_QS), 1)), np.zeros_like(fold_Q), fold_Q, budget)
        uniform = {way: _largest(names, costs_S, way, budget) for way in WAYS}
        over_looks = chosen.score_Q.reshape(len(turned), -1).mean(axis=0)
        scores = {"compute-optimal": over_looks, "one for all": one.score_Q}
        used = {"compute-optimal": chosen.strategy_Q, "one for all": one.strategy_Q}
        for way, place in uniform.items():
            if place is not None:
                scores[f"uniform {way}"] = alone_QS[:, place]
                used[f"uniform {way}"] = np.full(len(test.ids), place)
        scores = {name: np.clip(row, 0, 1) for name, row in scores.items()}
        gaps = {
            name: paired_bootstrap(scores["compute-optimal"], row)
            for name, row in scores.items()
            if name != "compute-optimal"
        }
        tests += list(gaps.values())
        found["budgets"].append(
            {
                "budget": budget,
                "accuracy": {name: vars(mean_score(row.tolist())) for name, row in scores.items()},
                "samples": {name: float(np.mean([names[s][1] for s in places])) for name, places in used.items()},
                "tokens": {name: _tokens(test, names, places) for name, places in used.items()},
                "uniform": {way: names[place][1] for way, place in uniform.items() if place is not None},
                "picked": [
                    {"fold": fold, "bin": name, "way": names[place][0], "k": names[place][1]}
                    for (fold, name), place in chosen.picked.items()
                ],
                "one": [{"fold": f, "way": names[s][0], "k": names[s][1]} for (f, _), s in one.picked.items()],
                "gaps": {name: vars(gap.difference) for name, gap in gaps.items()},
            }
        )
    adjusted = iter(holm([gap.p_value for gap in tests]))
    for row in found["budgets"]:
        row["gaps"] = {name: gap | {"p": next(adjusted)} for name, gap in row["gaps"].items()}
    return found


def against_larger(pool: Pool, larger: Result, name: str) -> dict[str, Any]:
    """The pool's model with as many samples as cost what a larger model costs once; JSON data.

    Args:
        pool: of the smaller model.
        larger: the larger model, measured on the same questions, one answer each.
        name: of the larger model.

    Raises:
        UserError: a model's size is not known, or they share no question.
    """
    budget = larger.cost_to_use.flops
    one = pool.cost(1, scored=False)[1]
    if budget is None or one is None:
        raise UserError("Equal FLOPs need the sizes of both models, which this engine does not tell: --engine hf.")
    theirs = {outcome.id: outcome.score for outcome in larger.outcomes if outcome.score is not None}
    rows = [place for place, id in enumerate(pool.ids) if id in theirs]
    if not rows:
        raise UserError("The two models have no question in common that both answered.")
    larger_Q = np.array([theirs[pool.ids[place]] for place in rows])
    found: dict[str, Any] = {
        "model": name,
        "flops": budget,
        "scoring_known": pool.cost(1, scored=True)[1] is not None,
        "accuracy": vars(mean_score(larger_Q.tolist())),
        "questions": len(rows),
        "rows": [],
        "too_dear": [],  # ways that cannot choose among two for what the larger model costs
    }
    tests: list[PairedDifference] = []
    for way in WAYS:
        costs = [pool.cost(k, way in SCORED)[1] for k in range(1, pool.n + 1)]
        k = sum(flops is not None and flops <= budget for flops in costs)
        if k < 2 and costs[0] is not None:
            found["too_dear"].append(way)
        if not k or (k == 1 and tests):
            continue  # all ways of choosing among one are one
        ours_Q = np.clip(_strategies(pool, way, [k], 0)[rows, 0], 0, 1)
        tests.append(paired_bootstrap(ours_Q, larger_Q))
        found["rows"].append(
            {
                "way": way if k > 1 else "one sample",
                "k": k,
                "all": k == pool.n,
                "flops": costs[k - 1],
                "accuracy": vars(mean_score(ours_Q.tolist())),
                "gap": vars(tests[-1].difference),
            }
        )
    for row, p in zip(found["rows"], holm([test.p_value for test in tests]), strict=True):
        row["gap"]["p"] = p
    return found


def compared(found: Mapping[str, Any]) -> tuple[list[tuple[str, int]], list[dict[str, Any]]]:
    """Every way of choosing among k samples that was compared, and every rule that picks among several of them.

    Args:
        found: what `against_uniform` gave; with `larger` what `against_larger` gave.
    """
    choices = [(way, k) for row in found["budgets"] for way, k in row["uniform"].items()]
    choices += [(row["way"], row["k"]) for row in found.get("larger", {}).get("rows", ()) if row["k"] > 1]
    settings = {"first": found["first"], "bins": len(found["bins"]), "dev_questions": found["dev_questions"]}
    rules = [
        {"rule": rule, "budget": row["budget"], **settings}
        for row in found["budgets"]
        for rule in ("compute-optimal", "one for all")
    ]
    return choices, rules


def turn(pool: Pool, by: int) -> Pool:
    """The same pool with its samples turned round, so that others come first."""
    rows = ("answers_QN", "scores_QN", "weights_QN", "tokens_QN", "seconds_QN", "read_QN", "reading_QN")
    return replace(pool, **{name: np.roll(getattr(pool, name), -by, axis=1) for name in rows})


def _look(pool: Pool, first: int) -> Floats:
    # Never the oracle's scores, which know the answers; nor such as cost something, which not every strategy pays.
    unseen = pool.scorer == "verifier" or bool(pool.read_QN.any())
    return first_look(pool.answers_QN, None if unseen else pool.scores_QN, first)


def _grid(n: int, first: int, budgets: Sequence[int], dearer: float, before: float) -> list[int]:
    """The ks that are tried: powers of two, and what each budget buys with and without a scorer."""
    powers = [2**i for i in range(n.bit_length())]
    scored = [int((budget - before) / dearer + 1e-9) for budget in budgets]
    return sorted({k for k in (first, n, *powers, *budgets, *scored) if first <= k <= n})


def _strategies(pool: Pool, way: str, ks: Sequence[int], first: int) -> Floats:
    """Expected score of each question at each k; every subset has the first samples."""
    if way == "best-of":
        return best_of_after(pool.scores_QN, pool.answers_QN == 0, first, ks)
    weights = pool.weights_QN if way == "weighted" else None
    # Figures are means over several looks, each of which needs fewer orders.
    work = WORK / LOOKS if first else WORK
    return vote_curve(pool.answers_QN, weights, first=first, work=work)[:, np.array(ks) - 1]


def _all_strategies(pool: Pool, ks: Sequence[int], first: int) -> Floats:
    return np.concatenate([_strategies(pool, way, ks, first) for way in WAYS], axis=1)


def _largest(names: Sequence[tuple[str, int]], costs_S: Floats, way: str, budget: float) -> int | None:
    """The strategy of a way with the most samples within the budget; None where there is none."""
    within = [s for s, (name, _) in enumerate(names) if name == way and costs_S[s] <= budget * (1 + 1e-9)]
    return within[-1] if within else None


def _tokens(pool: Pool, names: Sequence[tuple[str, int]], places: Any) -> float:
    """Mean tokens of a question under its own strategy: prompt, samples, and what a scorer reads of them."""
    each_Q, read_Q = pool.tokens_QN.mean(axis=1), pool.read_QN.mean(axis=1)
    total = 0.0
    for row, s in enumerate(places.tolist()):
        place, (way, k) = row % len(pool.ids), names[s]  # a question comes once for each look at it
        total += pool.prompt_Q[place] + k * each_Q[place]
        if way in SCORED:
            total += pool.read_prompt_Q[place] + k * read_Q[place]
    return float(total / len(places))


def _told_bins(
    difficulty: Difficulty, learned: Sequence[Pool], turned: Sequence[Pool], first: int
) -> list[dict[str, Any]]:
    """Each bin: its share of dev and of the questions, over all looks, and how many other samples are right."""

    def seen(pools: Sequence[Pool]) -> tuple[NDArray[np.int64], Floats]:
        bins = np.stack([difficulty.bins(_look(pool, first)) for pool in pools])
        return bins, np.stack([(pool.answers_QN[:, first:] == 0).mean(axis=1) for pool in pools])

    (dev_LQ, dev_right_LQ), (bins_LQ, right_LQ) = seen(learned), seen(turned)
    return [
        {
            "bin": name,
            "dev_share": float((dev_LQ == name).mean()),
            "dev_pass": _right_share(dev_LQ == name, dev_right_LQ),
            "share": float((bins_LQ == name).mean()),
            "pass": _right_share(bins_LQ == name, right_LQ),
        }
        for name in range(len(difficulty.edges) + 1)
    ]


def _right_share(there_LQ: NDArray[np.bool_], right_LQ: Floats) -> dict[str, Any] | None:
    """The mean over the looks that are in a bin; its interval is over questions. None where no look is."""
    times_Q, sums_Q = there_LQ.sum(axis=0), np.where(there_LQ, right_LQ, 0.0).sum(axis=0)
    some_Q = times_Q > 0
    if not some_Q.any():
        return None
    sums, times = sums_Q[some_Q], times_Q[some_Q]
    if np.ptp(sums / times) < 1e-9:  # the bootstrap would give no width
        return vars(wilson_interval(float(sums.sum() / times.sum()) * len(sums), len(sums)))
    return vars(ratio_interval(sums, times))
