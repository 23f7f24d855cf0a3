"""Axes of the pages' charts: where they stand, and the numbers at them."""

import math
from itertools import pairwise

MARGIN = {"left": 54, "right": 14, "top": 14, "bottom": 46}


def frame(width: int, height: int) -> dict[str, int]:
    """A chart's size, and the edges of what is drawn between its axes, in SVG units."""
    return {
        "width": width,
        "height": height,
        "left": MARGIN["left"],
        "right": width - MARGIN["right"],
        "top": MARGIN["top"],
        "bottom": height - MARGIN["bottom"],
    }


def share_ticks(low: float, high: float) -> list[float]:
    """Ticks that hold [low, high], at most seven of them."""
    step = next(s for s in (0.02, 0.05, 0.1, 0.2) if high - low <= 5 * s)
    first, last = math.floor(low / step + 1e-9), max(math.ceil(high / step - 1e-9), 1)
    return [step * i for i in range(min(first, last - 1), last + 1)]


def log_ticks(low: float, high: float, closest: float) -> list[float]:
    """Round numbers from 10^low to 10^high, as many as stay `closest` (in powers of ten) apart."""
    ticks: list[float] = []
    for leads in (range(1, 10), (1, 2, 3, 5), (1, 2, 5), (1, 3), (1,)):
        grid = [lead * 10.0**e for e in range(math.floor(low), math.ceil(high) + 1) for lead in leads]
        ticks = [t for t in grid if low <= math.log10(t) <= high]
        if all(math.log10(b / a) >= closest for a, b in pairwise(ticks)):
            return ticks
    return ticks[:: math.ceil(closest)]
