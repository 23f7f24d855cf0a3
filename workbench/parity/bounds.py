"""What a distance amounts to: the same, drifted, or undecided, against bounds that are stated beforehand.

Too few questions never make two systems the same: an interval must lie below its bound as a whole to pass, and
above it as a whole to fail.
"""

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from workbench.errors import check_range
from workbench.parity.words import Kind
from workbench.types import Interval

if TYPE_CHECKING:  # the recipe's flags are made of this file, and numpy would slow --help down
    from workbench.compare import Comparison
    from workbench.parity.measures import Distance

FEWEST = 8  # scored questions: the intervals resample them


@dataclass(frozen=True)
class Bounds:
    """How far a system may be from the reference.

    Attributes:
        drift: mean |Δ log-probability| of the reference's answers, nats a token.
        kl: mean KL(reference ‖ system), nats a token.
        points: difference in accuracy, in points; one beyond it fails where the paired test finds it, p < .05.
    """

    drift: float
    kl: float
    points: float

    def __post_init__(self) -> None:
        check_range("drift", self.drift, 0, 100, open_low=True)
        check_range("kl", self.kl, 0, 100, open_low=True)
        check_range("points", self.points, 0, 100)


@dataclass(frozen=True)
class Config:
    """The two sets of bounds.

    Of a model of 135M parameters, float32 lies 0.017 nats a token (KL 0.0008) from bfloat16, NF4 0.29 (0.18) and a
    base whose adapter was forgotten 0.39 (0.38); the larger a model, the less its rounding moves it.

    Attributes:
        same: of the same weights elsewhere: merged, served, in another precision.
        quantised: of weights that were rounded (quantization, or a model folder that says so).
    """

    same: Bounds = field(default_factory=lambda: Bounds(drift=0.05, kl=0.005, points=3.0))
    quantised: Bounds = field(default_factory=lambda: Bounds(drift=0.4, kl=0.25, points=5.0))

    def of(self, kind: Kind) -> Bounds:
        """One of the two by its name."""
        return self.same if kind == "same" else self.quantised


@dataclass(frozen=True)
class Verdict:
    """What was found, and the bounds that say so, each with its number."""

    state: Literal["same", "drifted", "undecided"]
    reasons: tuple[str, ...] = ()

    def __str__(self) -> str:
        return f"{self.state}: {'; '.join(self.reasons)}" if self.reasons else self.state


def judge(found: "Distance", comparison: "Comparison | None", bounds: Bounds) -> Verdict:
    """A system's distance against its bounds; the bounds that failed, else those that are undecided.

    Args:
        found: how far the system is.
        comparison: of its accuracy with the reference's; None where they share no answered question.
        bounds: what it is held to.
    """
    if found.drift is None or found.kl is None or comparison is None or found.scored < FEWEST:
        reason = f"{found.scored} questions were scored, {FEWEST} are needed"
        return Verdict("undecided", (reason, *(f"{why}: {n}" for why, n in found.left_out)))
    failed, open_ = [], []
    measures = (("mean drift", found.drift, bounds.drift), ("KL", found.kl, bounds.kl))
    for name, interval, bound in measures:
        if interval.low > bound:
            failed.append(f"{name} {interval.value:.3g} > {bound:g}")
        elif interval.high >= bound:
            open_.append(_undecided(name, interval, bound, found.scored))
    points = 100 * comparison.difference.value
    if comparison.significant and abs(points) > bounds.points:
        failed.append(
            f"accuracy {points:+.1f} points, more than {bounds.points:g} (p = {comparison.adjusted_p:.2g})"
        )
    if failed:
        return Verdict("drifted", tuple(failed))
    return Verdict("undecided", tuple(open_)) if open_ else Verdict("same")


def _undecided(name: str, interval: Interval, bound: float, questions: int) -> str:
    more = "ask more questions"
    if interval.value < bound:  # an interval narrows with the root of their number
        wanted = questions * ((interval.high - interval.value) / (bound - interval.value)) ** 2
        if questions < wanted < 1e6:
            more = f"ask more questions (about {math.ceil(wanted):,})"
    return f"{name} {interval.value:.3g} ({interval.low:.3g} – {interval.high:.3g}) against {bound:g}: {more}"
