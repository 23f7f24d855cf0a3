"""`report.html`: the ladder as one page that asks for nothing from outside and works without JavaScript.

Everything in it that a model, a data set or a person wrote goes through `visible` and Jinja's escaping, and
the page's own policy forbids scripts and requests, so hostile text stays text.
"""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any, Literal

from workbench.compare import changed
from workbench.files import write_atomic
from workbench.report import (
    Rung,
    advice,
    against_first,
    amount,
    artifact,
    costs_to_use,
    counts,
    duration,
    f1_cell,
    p_value,
    percent,
    quantity,
    remarks,
    span,
)
from workbench.report_axes import MARGIN, frame, log_ticks, share_ticks
from workbench.report_forgetting import forgetting_cell, has_forgetting
from workbench.types import CostToMake, Interval

LONGEST = 4_000  # characters of one text that are shown


@dataclass(frozen=True)
class ChangedExample:
    """A question on which a rung did better (`mended`) or worse (`broken`) than the first one.

    Attributes:
        question, target: the question's text and its right answer.
        rung: the rung's name.
        before, after: the first rung's text and this rung's, as generated.
        kind: which way it changed.
    """

    question: str
    target: str
    rung: str
    before: str
    after: str
    kind: Literal["mended", "broken"] = "mended"


@dataclass(frozen=True)
class Tried:
    """A row of what was compared on dev.

    Attributes:
        name: what it is.
        score: its accuracy.
        p: against the first row, in words.
        right: of how many questions, in words.
        chosen: this one was taken.
    """

    name: str
    score: Interval
    p: str
    right: str
    chosen: bool = False


def write_html(
    path: str | Path,
    title: str,
    rungs: Sequence[Rung],
    *,
    looks: int,
    examples: Sequence[ChangedExample] = (),
    tried: Sequence[Tried] = (),
    notes: Sequence[str] = (),
    model: str = "",
    command: str = "",
    versions: Mapping[str, str] | None = None,
) -> None:
    """Write the page.

    Args:
        path: where to; replaced in one step.
        title: the page's heading.
        rungs: the first is the baseline.
        looks: how many Systems have been looked at on this split so far.
        examples: questions whose outcome changed against the first rung; all of them are shown.
        tried: what was compared on dev before the rungs were measured.
        notes: what a reader must know beside the remarks on the rungs.
        model: the model's name, shown as part of the question.
        command: what to type to get this page again.
        versions: package → version.
    """
    first = rungs[0].result
    page = filled(
        "report.html.j2",
        title=title,
        facts={
            "Task": first.task,
            "Model": model,
            "Split": first.split,
            "Questions": f"{len(first.outcomes):,}",
            "Systems looked at": f"{looks:,}",
        },
        advice=advice(rungs),
        rows=rows_of(rungs),
        with_f1=all("macro_f1" in dict(rung.result.metrics) for rung in rungs),
        with_forgetting=has_forgetting([rung.result for rung in rungs]),
        charts=cost_charts(rungs),
        groups=_groups(rungs, examples),
        baseline=rungs[0].name,
        tried=[{**vars(one), **_accuracy(one.score)} for one in tried],
        remarks=[*remarks(rungs, looks), *notes],
        command=command,
        versions=versions or {},
    )
    write_atomic(path, page)


def filled(template: str, **content: Any) -> str:
    """A page from a template of this folder; whatever is put into it stays text."""
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        # Jinja's own Markup is a str too, but these templates make none.
        finalize=lambda value: visible(value) if isinstance(value, str) else value,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    return environment.get_template(template).render(content)


def visible(text: str) -> str:
    """Text with what cannot be seen made visible: control characters, direction marks, lone surrogates."""
    if len(text) > LONGEST:
        text = f"{text[:LONGEST]} … ({len(text) - LONGEST:,} more characters)"
    return _UNSEEN.sub(lambda match: f"⟨U+{ord(match[0]):04X}⟩", text.replace("\r\n", "\n"))


_UNSEEN = re.compile(
    r"[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff\u061c\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufffe\uffff]"
)


def rows_of(rungs: Sequence[Rung]) -> list[dict[str, Any]]:
    """What the table of Systems says of each rung, in words and numbers as they are shown."""
    rows = []
    for rung, comparison in zip(rungs, against_first(rungs), strict=True):
        result, make, use = rung.result, rung.result.cost_to_make, rung.result.cost_to_use
        made = [f"{quantity(make.parameters)} trained"] if make.parameters else []
        made += [f"{size} saved"] if (size := artifact(rung)) else []
        made += [f"{quantity(make.tokens)} tokens"] if make.tokens else []
        made += [amount(make.flops, "FLOPs")] if make.flops else []
        made += [f"{make.watt_hours:.3g} Wh"] if make.watt_hours else []
        rows.append(
            {
                "name": rung.name,
                "system": result.system,
                **_accuracy(result.score),
                "one_sample": percent(rung.one_sample.value) if rung.one_sample else "",
                "one_sample_interval": span(rung.one_sample) if rung.one_sample else "",
                "p": p_value(comparison),
                "significant": comparison is not None and comparison.significant,
                "f1": f1_cell(result),
                "forgetting": forgetting_cell(result),
                "counts": counts(result),
                "make": duration(make.seconds) if make != CostToMake() else "nothing",
                "make_parts": made,
                "use": amount(use.flops, "FLOPs") if use.flops is not None else "FLOPs unknown",
                "use_parts": [
                    f"{use.prompt_tokens:,.0f} + {use.completion_tokens:,.0f} tokens",
                    duration(use.seconds),
                ],
            }
        )
    return rows


def _accuracy(score: Interval) -> dict[str, Any]:
    """What `report_accuracy.j2` takes of a row."""
    bar = {"value": 100 * score.value, "low": 100 * score.low, "high": 100 * score.high}
    return {"accuracy": percent(score.value), "interval": span(score), "bar": bar}


def _groups(rungs: Sequence[Rung], examples: Sequence[ChangedExample]) -> list[dict[str, Any]]:
    """The examples by rung, in the rungs' order, each group with how many changed in all."""
    first, order = rungs[0].result, {rung.name: i for i, rung in enumerate(rungs)}
    groups = []
    for name, members in groupby(sorted(examples, key=lambda e: order[e.rung]), key=lambda e: e.rung):
        mended, broken = changed(first, rungs[order[name]].result)
        groups.append({"name": name, "mended": len(mended), "broken": len(broken), "examples": list(members)})
    return groups


# --- accuracy against cost --------------------------------------------------------------------------

CHARACTER = 6.9  # mean width of a label's character, in the units of its 13-unit type


def cost_charts(rungs: Sequence[Rung]) -> list[dict[str, Any]]:
    """Accuracy against cost, broad and narrow, as `report_cost.j2` takes it; none without an answer or a cost."""
    return [chart for size in ((960, 400), (328, 340)) if (chart := _chart(rungs, *size))]


def _chart(rungs: Sequence[Rung], width: int, height: int) -> dict[str, Any] | None:
    """Places of everything in the chart, in SVG units; None where no rung has both an answer and a cost."""
    measured = [rung for rung in rungs if rung.result.total]
    costs, unit = costs_to_use(measured) if measured else ([], "")
    pairs = sorted(
        ((rung, cost) for rung, cost in zip(measured, costs, strict=True) if cost > 0),
        key=lambda pair: (pair[1], -pair[0].result.score.value),
    )
    if not pairs:
        return None
    room = 1.25 if pairs[-1][1] < 100 * pairs[0][1] else 1.6
    x_low, x_high = math.log10(pairs[0][1] / room), math.log10(pairs[-1][1] * room)
    y_ticks = share_ticks(
        min(rung.result.score.low for rung, _ in pairs), max(rung.result.score.high for rung, _ in pairs)
    )
    edges = frame(width, height)
    plot_width, plot_height = edges["right"] - edges["left"], edges["bottom"] - edges["top"]

    def x(cost: float) -> float:
        return edges["left"] + plot_width * (math.log10(cost) - x_low) / (x_high - x_low)

    def y(share: float) -> float:
        return edges["top"] + plot_height * (y_ticks[-1] - share) / (y_ticks[-1] - y_ticks[0])

    points = []
    frontier: list[tuple[float, float]] = []
    for rung, cost in pairs:
        score = rung.result.score
        point: dict[str, Any] = {
            "name": rung.name,
            "text": rung.name,
            "x": x(cost),
            "y": y(score.value),
            "low": y(score.low),
            "high": y(score.high),
        }
        point["best"] = not frontier or point["y"] < frontier[-1][1]
        if point["best"]:
            frontier.append((point["x"], point["y"]))
        points.append(point)
    crowded = _place_labels(points, frontier, width, height)
    if crowded:  # numbers at the points, names in a list below
        for number, point in enumerate(points, start=1):
            point["text"] = str(number)
        _place_labels(points, frontier, width, height)
    steps = [f"M{frontier[0][0]:.1f} {frontier[0][1]:.1f}"]
    steps += [f"H{px:.1f}V{py:.1f}" for px, py in frontier[1:]]
    return {
        **edges,
        "unit": unit,
        "x": f"{unit} a question, log scale",
        "x_ticks": [
            {"x": x(v), "text": quantity(v)} for v in log_ticks(x_low, x_high, 46 * (x_high - x_low) / plot_width)
        ],
        "y_ticks": [{"y": y(v), "text": f"{100 * v:.0f} %"} for v in y_ticks],
        "points": points,
        "key": [point["name"] for point in points] if crowded else [],
        "frontier": "".join(steps) + f"H{edges['right']}",
    }


def _place_labels(
    points: list[dict[str, Any]], frontier: list[tuple[float, float]], width: int, height: int
) -> bool:
    """Put each point's label where it covers least of the points, the lines and the labels placed before.

    True where some label had to go so far or cover so much that it no longer shows whose it is.
    """
    crowded = False
    taken = [(p["x"] - 6, p["y"] - 6, p["x"] + 6, p["y"] + 6) for p in points]
    taken += [(p["x"] - 2, p["high"], p["x"] + 2, p["low"]) for p in points]
    ends = [*(x for x, _ in frontier[1:]), width]
    taken += [(x, y - 2, end, y + 2) for (x, y), end in zip(frontier, ends, strict=True)]
    for p in points:
        wide = CHARACTER * len(p["text"])
        best = None
        for dy in (0, -15, 15, -30, 30, -45, 45):
            for side, left in (
                ("start", p["x"] + 10),
                ("end", p["x"] - 10 - wide),
                ("middle", p["x"] - wide / 2),
            ):
                box = (left, p["y"] + dy - 9, left + wide, p["y"] + dy + 7)
                outside = max(0, MARGIN["left"] - box[0]) + max(0, box[2] - width)
                outside += max(0, -box[1]) + max(0, box[3] - height + MARGIN["bottom"])
                blame = 50 * outside + sum(_overlap(box, other) for other in taken) + abs(dy)
                if best is None or blame < best[0]:
                    anchor_x = {"start": left, "end": left + wide, "middle": p["x"]}[side]
                    best = (blame, {"x": anchor_x, "y": p["y"] + dy + 4, "anchor": side}, box)
        assert best is not None
        p["label"] = best[1]
        taken.append(best[2])
        crowded = crowded or best[0] > 60
    return crowded


Box = tuple[float, float, float, float]


def _overlap(a: Box, b: Box) -> float:
    return max(0.0, min(a[2], b[2]) - max(a[0], b[0])) * max(0.0, min(a[3], b[3]) - max(a[1], b[1]))
