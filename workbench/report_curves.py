"""Curves with bands: as PNG, and in a page that asks for nothing from outside and works without JavaScript."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from workbench.files import atomic_file, write_atomic
from workbench.report import quantity
from workbench.report_axes import frame, log_ticks, share_ticks
from workbench.report_html import filled

SIZES = {"broad": (960, 400), "narrow": (328, 320)}
COLOURS = ("#1d5c9f", "#c9773f", "#6d9a5b", "#8a5fa8", "#5f6873")  # those of the template
POINTS = 160  # of a line in the page: a screen has no more


@dataclass(frozen=True)
class Line:
    """One line of a chart.

    Attributes:
        name: in the legend.
        xs, ys: its points; xs above 0, rising.
        lows, highs: its band; empty for none.
        dashed: for what is no measurement: a bound, a law.
        colour: 0 to 4; what is measured in one way has the same one in every chart of a page.
    """

    name: str
    xs: Sequence[float]
    ys: Sequence[float]
    lows: Sequence[float] = ()
    highs: Sequence[float] = ()
    dashed: bool = False
    colour: int = 0


@dataclass(frozen=True)
class Chart:
    """Up to five lines over one axis.

    Attributes:
        heading: above the chart.
        name: of its PNG file, without ending.
        x, y: what the axes are.
        lines: what is drawn.
        caption: what a reader must know.
        share: ys are shares, shown in per cent.
        log: the horizontal axis is logarithmic.
    """

    heading: str
    name: str
    x: str
    y: str
    lines: Sequence[Line]
    caption: str = ""
    share: bool = True
    log: bool = True


@dataclass(frozen=True)
class Table:
    """Rows of words: the first cell of each names the row."""

    heading: str
    heads: Sequence[str]
    rows: Sequence[Sequence[str]]
    caption: str = ""


def lines_of(table: Table) -> str:
    """A table in columns, under its caption, for the terminal."""
    rows = [list(table.heads), *[list(row) for row in table.rows]]
    widths = [max(len(row[i]) for row in rows) for i in range(len(table.heads))]
    told = ["  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)) for row in rows]
    return "\n".join([table.caption, *told])


def share_words(interval: Mapping[str, Any]) -> str:
    """A share with its interval, as JSON data: "61.3 % (55.2 – 67.1)"."""
    return f"{100 * interval['value']:.1f} % ({100 * interval['low']:.1f} – {100 * interval['high']:.1f})"


def points_words(gap: Mapping[str, Any]) -> str:
    """A difference of shares with its interval and p, as JSON data: "+2.1 points (-0.4 to +4.6, p = 0.1)"."""
    value, low, high = (100 * gap[part] for part in ("value", "low", "high"))
    p = f", p = {gap['p']:.2g}" if "p" in gap else ""
    return f"{value:+.1f} points ({low:+.1f} to {high:+.1f}{p})"


def write_pictures(folder: Path, charts: Sequence[Chart]) -> list[Path]:
    """Each chart as a PNG in the folder; gives their paths."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import FuncFormatter, PercentFormatter

    paths = []
    for chart in charts:
        figure = Figure(figsize=(8, 4.5))
        axes = figure.add_axes((0.1, 0.13, 0.87, 0.79))  # a layout that is computed takes as long as the drawing
        for line in chart.lines:
            colour = COLOURS[line.colour]
            axes.plot(line.xs, line.ys, "--" if line.dashed else "-", color=colour, label=line.name)
            if len(line.lows):
                axes.fill_between(line.xs, line.lows, line.highs, color=colour, alpha=0.15, linewidth=0)
        axes.set_xscale("log")
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: quantity(value)))
        if chart.share:
            axes.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
        axes.set_title(chart.heading, fontsize=11)
        axes.set_xlabel(chart.x)
        axes.set_ylabel(chart.y)
        axes.grid(alpha=0.3)
        axes.legend(fontsize=9)
        path = folder / f"{chart.name}.png"
        with atomic_file(path) as file:
            figure.savefig(file, dpi=120, format="png")
        paths.append(path)
    return paths


def write_page(
    path: Path,
    title: str,
    parts: Sequence[Chart | Table],
    *,
    facts: Mapping[str, str],
    summary: str,
    notes: Sequence[str],
    command: str,
    versions: Mapping[str, str],
) -> None:
    """Write the page.

    Args:
        path: where to; replaced in one step.
        title: the page's heading.
        parts: charts and tables, in their order.
        facts: shown under the heading.
        summary: what came out, in a few lines.
        notes: what a reader must know.
        command: what to type to get it again.
        versions: package → version.
    """
    page = filled(
        "report_curves.html.j2",
        title=title,
        facts=facts,
        summary=summary,
        parts=[
            {"kind": "table", "table": part}
            if isinstance(part, Table)
            else {"kind": "chart", "chart": part, "drawn": drawings(part)}
            for part in parts
        ],
        notes=notes,
        command=command,
        versions=versions,
    )
    write_atomic(path, page)


def drawings(chart: Chart) -> list[dict[str, Any]]:
    """Places of everything in the chart, in SVG units, in both sizes."""
    return [{"kind": kind, **drawing(chart, *size)} for kind, size in SIZES.items()]


def drawing(chart: Chart, width: int, height: int) -> dict[str, Any]:
    """Places of everything in the chart, in SVG units, as `report_lines.j2` takes them."""
    edges = frame(width, height)
    scale = math.log10 if chart.log else float
    xs = [scale(x) for line in chart.lines for x in line.xs]
    low, high = min(xs), max(xs)
    if high - low < 1e-9:
        low, high = low - 0.5, high + 0.5
    ys = [y for line in chart.lines for row in (line.ys, line.lows, line.highs) for y in row]
    ticks = share_ticks(min(ys), max(ys)) if chart.share else _ticks(min(ys), max(ys))
    wide, tall = edges["right"] - edges["left"], edges["bottom"] - edges["top"]

    def place(x: float, y: float) -> str:
        across = edges["left"] + wide * (scale(x) - low) / (high - low)
        down = edges["top"] + tall * (ticks[-1] - y) / (ticks[-1] - ticks[0])
        return f"{across:.1f} {down:.1f}"

    lines = []
    for line in chart.lines:
        some = _spread([scale(x) for x in line.xs], POINTS if width > 500 else POINTS // 2)
        points = [place(line.xs[i], line.ys[i]) for i in some]
        band = ""
        if len(line.lows):
            there = [place(line.xs[i], line.highs[i]) for i in some]
            back = [place(line.xs[i], line.lows[i]) for i in reversed(some)]
            band = f"M{'L'.join([*there, *back])}Z"
        path = f"M{'L'.join(points)}"
        lines.append({"path": path, "band": band, "dashed": line.dashed, "colour": line.colour})
    closest = 46 * (high - low) / wide
    x_ticks = log_ticks(low, high, closest) if chart.log else [v for v in _ticks(low, high) if low <= v <= high]
    return {
        **edges,
        "x": f"{chart.x}, log scale" if chart.log else chart.x,
        "x_ticks": [
            {"x": edges["left"] + wide * (scale(v) - low) / (high - low), "text": quantity(v)} for v in x_ticks
        ],
        "y_ticks": [
            {
                "y": edges["top"] + tall * (ticks[-1] - v) / (ticks[-1] - ticks[0]),
                "text": f"{100 * v:.0f} %" if chart.share else _value(v),
            }
            for v in ticks
        ],
        "lines": lines,
    }


def _spread(xs: Sequence[float], count: int) -> list[int]:
    """Places of at most about `count` xs, as even as they come on the axis; the first and the last."""
    if len(xs) <= count:
        return list(range(len(xs)))
    low, high = xs[0], xs[-1]
    chosen = {0, len(xs) - 1}
    last = -1
    for i, x in enumerate(xs):
        cell = math.floor(count * (x - low) / (high - low))
        if cell > last:
            chosen.add(i)
            last = cell
    return sorted(chosen)


def _value(v: float) -> str:
    return f"{v:.3g}" if abs(v) < 1e4 else quantity(v)


def _ticks(low: float, high: float) -> list[float]:
    """Round numbers that hold [low, high], at most seven of them."""
    span = max(high - low, 1e-9 * max(1.0, abs(high)))
    step = next(
        lead * 10.0**e for e in range(-12, 16) for lead in (1, 2, 5) if span <= 5 * lead * 10.0**e * (1 + 1e-9)
    )
    first = math.floor(low / step + 1e-9)
    return [step * i for i in range(first, max(math.ceil(high / step - 1e-9), first + 1) + 1)]
