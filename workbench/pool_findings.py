"""What follows from a pool of samples, as data: curves, the coverage law, votes that stop, the scorer's view."""

from typing import Any, Literal

import numpy as np

from workbench.choice_metrics import powers
from workbench.errors import UserError
from workbench.pools import Pool
from workbench.stats import (
    Curve,
    best_of_n_kl,
    best_of_n_kl_bound,
    coverage_law,
    early_stop,
    holm,
    mean_interval,
    paired_bootstrap,
    pool_curves,
    proxy_view,
    ratio_interval,
)
from workbench.stats.pool import bands

STOPS: tuple[Literal["certain"] | float, ...] = ("certain", 0.95, 0.99)
"""Rules by which a majority vote may stop early."""


def read_off(pool: Pool) -> dict[str, Any]:
    """Everything that the report shows, as JSON data; the curves are for all k, the rest for powers of two."""
    curves = pool_curves(pool.answers_QN, pool.scores_QN, pool.weights_QN)
    ks = powers(pool.n)
    found: dict[str, Any] = {
        "questions": len(pool.ids),
        "asked": pool.asked,
        "n": pool.n,
        "curves": {name: _curve(curve) for name, curve in curves.items()},
        "ks": ks,
        "law": _law(curves["pass"], ks),
        "votes": _votes_that_stop(pool),
        "costs": {
            "plain": [pool.cost(k, scored=False) for k in ks],
            "scored": [pool.cost(k, scored=True) for k in ks],
        },
    }
    view = proxy_view(pool.scores_QN, pool.answers_QN == 0, ks)
    some_Q = np.isfinite(view.proxy_QK).all(axis=1)
    found["scorer"] = {
        "questions": int(some_Q.sum()),
        "proxy": [vars(mean_interval(row[some_Q])) for row in view.proxy_QK.T] if some_Q.any() else [],
        "kl": [vars(mean_interval(best_of_n_kl(pool.scores_QN, k))) for k in ks],
        "kl_bound": [best_of_n_kl_bound(k) for k in ks],
        "peak": view.peak,
        "fall": vars(view.fall.difference),  # without its p, which does not know that the peak was looked for
    }
    one_Q, at_n = curves["pass"].scores_QK[:, 0], {name: c.scores_QK[:, -1] for name, c in curves.items()}
    pairs = {f"{name} over one sample": (at_n[name], one_Q) for name in ("majority", "best_of", "weighted")}
    pairs |= {f"{name} over majority": (at_n[name], at_n["majority"]) for name in ("best_of", "weighted")}
    gains = _corrected([{"difference": _difference(*pair)} for pair in pairs.values()])
    found["gains"] = {name: gain["difference"] for name, gain in zip(pairs, gains, strict=True)}
    return found


def _curve(curve: Curve) -> dict[str, list[float]]:
    return {"value": curve.value_K.tolist(), "low": curve.low_K.tolist(), "high": curve.high_K.tolist()}


def _corrected(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Rows with a `difference` each, its p with Holm's correction over them."""
    adjusted = holm([row["difference"]["p"] for row in rows])
    return [row | {"difference": row["difference"] | {"p": p}} for row, p in zip(rows, adjusted, strict=True)]


def _difference(first_Q: Any, second_Q: Any) -> dict[str, Any]:
    test = paired_bootstrap(np.clip(first_Q, 0, 1), np.clip(second_Q, 0, 1))
    return {**vars(test.difference), "p": test.p_value}


def _law(curve: Curve, ks: list[int]) -> dict[str, Any] | str:
    """The law as JSON data, or why there is none."""
    try:
        law = coverage_law(curve.scores_QK[:, np.array(ks) - 1], ks)
    except UserError as error:
        return str(error)
    a, b = (vars(one) if one else None for one in (law.a, law.b))
    # As fine as a line needs, and on to where nobody has measured.
    ahead = sorted({round(k) for k in np.geomspace(1, 4 * ks[-1], 40).tolist()})
    return {
        "fit": {"a": law.fit.a, "b": law.fit.b},
        "a": a,
        "b": b,
        "resamples": len(law.fits) + law.failed,
        "failed": law.failed,
        "residual": law.residual,
        "ks": ahead,
        "coverage": [vars(law.coverage(k)) for k in ahead],
    }


def _votes_that_stop(pool: Pool) -> list[dict[str, Any]]:
    """The majority vote among all n samples, in their order, stopped by each rule.

    The bands are those of the curves, so that a vote that loses nothing has the whole vote's.
    """
    found = [early_stop(pool.answers_QN, stop) for stop in STOPS]
    banded = bands({str(stop): one.score_Q[:, None] for stop, one in zip(STOPS, found, strict=True)})
    all_Q = pool.tokens_QN.sum(axis=1)
    rows = []
    for stop, one in zip(STOPS, found, strict=True):
        used_Q = np.take_along_axis(pool.tokens_QN.cumsum(axis=1), one.drawn_Q[:, None] - 1, axis=1)[:, 0]
        curve = _curve(banded[str(stop)])
        rows.append(
            {
                "stop": stop,
                "drawn": vars(mean_interval(one.drawn_Q)),
                "tokens_saved": vars(ratio_interval(all_Q - used_Q, np.maximum(all_Q, 1))),
                "accuracy": {part: values[0] for part, values in curve.items()},
                "difference": _difference(one.score_Q, one.full_Q),
            }
        )
    return _corrected(rows)
