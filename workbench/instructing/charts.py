"""Places of bars in SVG units: stacked bars over rounds or bins, and verbs with their objects in a row each."""

import math
from collections.abc import Sequence
from typing import Any

from workbench.instructing.variety import Verb
from workbench.report_axes import frame

SIZES = {"broad": (960, 300), "narrow": (328, 260)}
_BINS = 24  # of a histogram, at most
_ROW = 26  # of a verb


def stacked(labels: Sequence[str], bars: Sequence[Sequence[int]], *, x: str) -> list[dict[str, Any]]:
    """A chart in both sizes, of one bar a label.

    Args:
        labels: under the bars, as many as there is room for.
        bars: of each, its parts from the ground up.
        x: what the horizontal axis is.
    """
    return [{"kind": kind, **_stacked(labels, bars, x, *size)} for kind, size in SIZES.items()]


def histogram(groups: Sequence[Sequence[float]], *, x: str, width: float | None = None) -> list[dict[str, Any]]:
    """How often values lie between 0 and 1 width, 1 and 2 widths, …; a group is a part of each bar.

    Args:
        groups: values from 0 on.
        x: what they are.
        width: of a bin, which holds its lower edge; by default a round number that gives two dozen bins or fewer.
    """
    top = max((value for group in groups for value in group), default=0)
    step = width or next(s for e in range(9) for s in (10**e, 2 * 10**e, 5 * 10**e) if top / s < _BINS)
    count = math.floor(top / step + 1e-9) + 1
    bars = [[0] * len(groups) for _ in range(count)]
    for part, group in enumerate(groups):
        for value in group:
            bars[math.floor(value / step + 1e-9)][part] += 1
    return stacked([f"{place * step:g}" for place in range(count)], bars, x=x)


def rows(found: Sequence[Verb]) -> list[dict[str, Any]]:
    """Verbs in a row each, in both sizes: the bar's parts are its objects, the rest is its last part."""
    most = max((verb.count for verb in found), default=1)
    charts = []
    for kind, (width, _) in SIZES.items():
        left, right = 90, width * (0.5 if kind == "broad" else 0.95)
        unit = (right - left) / most
        tall = _ROW if kind == "broad" else _ROW + 16  # on a narrow page the objects stand under the bar
        lines = []
        for place, verb in enumerate(found):
            parts, at = [], float(left)
            rest = verb.count - sum(count for _, count in verb.objects)
            for part, count in enumerate([*(count for _, count in verb.objects), rest]):
                parts.append(
                    {"x": at, "width": count * unit, "part": part if part < len(verb.objects) else "rest"}
                )
                at += count * unit
            words = ", ".join(f"{name} {count}" for name, count in verb.objects)
            lines.append(
                {"y": place * tall, "name": verb.name, "count": verb.count, "parts": parts, "words": words}
            )
        charts.append({"kind": kind, "width": width, "height": tall * len(found), "left": left, "lines": lines})
    return charts


def _stacked(
    labels: Sequence[str], bars: Sequence[Sequence[int]], x: str, width: int, height: int
) -> dict[str, Any]:
    edges = frame(width, height)
    y_ticks = _ticks(max((sum(bar) for bar in bars), default=0))
    wide, tall = (edges["right"] - edges["left"]) / max(1, len(bars)), edges["bottom"] - edges["top"]
    unit = tall / y_ticks[-1]
    every = max(1, math.ceil(36 / wide))  # units that a label needs
    drawn = []
    for place, bar in enumerate(bars):
        at = 0
        for part, value in enumerate(bar):
            drawn.append(
                {
                    "x": edges["left"] + wide * (place + 0.1),
                    "y": edges["bottom"] - unit * (at + value),
                    "width": wide * 0.8,
                    "height": unit * value,
                    "part": part,
                }
            )
            at += value
    return {
        **edges,
        "x": x,
        "x_ticks": [
            {"x": edges["left"] + wide * (place + 0.5), "text": label}
            for place, label in enumerate(labels)
            if place % every == 0
        ],
        "y_ticks": [{"y": edges["bottom"] - unit * tick, "text": f"{tick:,}"} for tick in y_ticks],
        "bars": [bar for bar in drawn if bar["height"]],
    }


def _ticks(top: int) -> list[int]:
    """Round whole numbers from 0 to `top` or just above it, at most six."""
    step = next(s for e in range(12) for s in (10**e, 2 * 10**e, 5 * 10**e) if 5 * s >= top)
    return [step * i for i in range(max(1, math.ceil(top / step)) + 1)]
