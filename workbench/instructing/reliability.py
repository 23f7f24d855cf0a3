"""How sure a model is of its own votes against how often they are right: measured on dev, drawn as an SVG.

The only place of self-improvement that looks at right answers; it is looked at when all rounds are done.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from html import escape
from typing import Any

from workbench.decodes import Sample
from workbench.drawing import Drawer, requests_of
from workbench.errors import UserError
from workbench.identity import to_json
from workbench.instructing.votes import reader, vote
from workbench.report import with_span
from workbench.stats import (
    Bin,
    calibration_gap,
    correlation,
    expected_calibration_error,
    mean_interval,
    reliability,
)
from workbench.tasks.base import Task
from workbench.types import Interval, System

BINS = 10


@dataclass(frozen=True)
class Reading:
    """One model's votes on dev, a number a question.

    Left out are questions of which every request failed, and those where no sample has a voice: without an answer
    they would be surely wrong at a confidence of 0, and make any model look calibrated.

    Attributes:
        name: the model's, in a report.
        ids: of the questions.
        confidences: the majority's share of the samples, those without a voice among them.
        right: whether the majority's answer is.
        entropies: of the samples' answers, nats.
        mute: how many questions were answered, and no sample of them has a voice.
    """

    name: str
    ids: tuple[str, ...]
    confidences: tuple[float, ...]
    right: tuple[bool, ...]
    entropies: tuple[float, ...]
    mute: int = 0

    def bins(self) -> list[Bin]:
        """The reliability diagram's."""
        return reliability(self.confidences, self.right, BINS)

    def metrics(self) -> dict[str, Any]:
        """One number each, for `metrics.jsonl`; what is not defined is None."""
        told = self.as_json()
        means = {name: told[name] and told[name]["value"] for name in ("gap", "correlation", "entropy")}
        return {"name": self.name, "questions": len(self.ids), "mute": self.mute, "ece": told["ece"], **means}

    def as_json(self) -> dict[str, Any]:
        """The numbers that a report tells, with intervals, and the bins; None where no question has an answer."""
        bins, some = self.bins(), bool(self.ids)
        return {
            "name": self.name,
            "questions": len(self.ids),
            "mute": self.mute,
            "ece": expected_calibration_error(bins) if some else None,
            "gap": to_json(calibration_gap(self.confidences, self.right)) if some else None,
            "correlation": to_json(correlation(self.confidences, self.right)) if some else None,
            "entropy": to_json(mean_interval(self.entropies)) if some else None,
            "bins": [{**vars(b), "accuracy": to_json(b.accuracy)} for b in bins],
        }


def entropy_change(before: Reading, after: Reading) -> Interval | None:
    """Mean of the second's entropy minus the first's over the questions that both answered; None without any."""
    first = dict(zip(before.ids, before.entropies, strict=True))
    pairs = zip(after.ids, after.entropies, strict=True)
    changes = [entropy - first[id] for id, entropy in pairs if id in first]
    return mean_interval(changes) if changes else None


def read_dev(name: str, system: System, task: Task, paths: Sample, drawer: Drawer) -> Reading:
    """The votes of a System's model on the task's dev questions, held against the right answers.

    Args:
        name: for the report.
        system: its model and prompt.
        task: its dev split is asked and graded.
        paths: how samples are drawn.
        drawer: draws them.

    Raises:
        UserError: every request failed.
    """
    decode = replace(paths, max_tokens=paths.max_tokens or task.max_tokens)
    asking = replace(system, decode=decode)
    drawn = drawer.draw(asking, requests_of(system, task.dev), f"{name}: votes on dev").completions
    answered = [v for e in task.dev if (v := vote(e, drawn[e.id], reader(task))).samples]
    votes = [v for v in answered if v.paths]
    if not answered:
        raise UserError(f"No dev question was answered by the model {name!r}: all requests failed.")
    return Reading(
        name,
        tuple(v.question.id for v in votes),
        tuple(v.confidence for v in votes),
        tuple(task.grade(v.paths[0].text, v.question).correct for v in votes),
        tuple(v.entropy for v in votes),
        len(answered) - len(votes),
    )


# --- in words ---------------------------------------------------------------------------------------


def calibration_section(readings: Sequence[Reading], samples: int, picture: str) -> str:
    """Markdown: the picture, and its numbers for each model.

    Args:
        readings: the first is the model before.
        samples: drawn for a question.
        picture: the SVG's name.
    """
    lines = [
        "| model | questions | without an answer | ECE | confidence − accuracy | correlation | entropy, nats | "
        "change of entropy |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for reading in readings:
        told = reading.as_json()
        cells = [reading.name, len(reading.ids), reading.mute, *["not defined"] * 4, ""]
        if reading.ids:
            cells[3] = f"{told['ece']:.3f}"
            cells[4] = _signed(calibration_gap(reading.confidences, reading.right))
            cells[5] = _signed(correlation(reading.confidences, reading.right))
            cells[6] = with_span(told["entropy"])
        if reading is not readings[0]:
            cells[7] = _signed(entropy_change(readings[0], reading))
        lines.append(f"| {' | '.join(map(str, cells))} |")
    table = "\n".join(lines)
    return f"""
## Confidence and accuracy

On dev, after the last round: the majority's share of {samples} samples against whether it is right, in {BINS}
bins. Vertical lines are Wilson's 95 % intervals, the numbers at the foot how many questions a bin has. Right
answers were looked at for this alone; no path was chosen by them. Questions of which no sample has an answer are
counted beside the others, and are in none of the numbers.

![Accuracy by confidence]({picture})

{table}

ECE is the mean distance of a bin's accuracy from its confidence; few questions make it larger than it is. The
correlation is Pearson's, of confidence with being right. 95 % intervals by bootstrap over questions.
"""


def _signed(interval: Interval | None) -> str:
    if interval is None:
        return "not defined"
    return f"{interval.value:+.3f} ({interval.low:+.3f} to {interval.high:+.3f})"


# --- as a picture -----------------------------------------------------------------------------------

_SIDE, _LEFT, _TOP, _FOOT, _GAP = 220, 46, 34, 58, 26


def diagram(readings: Sequence[Reading]) -> str:
    """The reliability diagrams side by side, as an SVG that asks for nothing from outside."""
    width = len(readings) * (_LEFT + _SIDE + _GAP)
    height = _TOP + _SIDE + _FOOT
    panels = [_panel(reading, place * (_LEFT + _SIDE + _GAP)) for place, reading in enumerate(readings)]
    style = (
        "text{font:12px sans-serif;fill:#333}.soft{fill:#666}.grid{stroke:#ddd}.axis{stroke:#666}"
        ".even{stroke:#999;stroke-dasharray:4 4}.interval{stroke:#2a6f97;stroke-width:1.5}circle{fill:#2a6f97}"
    )
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" '
        f'height="{height}" role="img" aria-label="Accuracy by confidence"><style>{style}</style>'
        f'<rect width="{width}" height="{height}" fill="#fff"/>\n' + "\n".join(panels) + "\n</svg>\n"
    )


def _panel(reading: Reading, start: float) -> str:
    left, bottom = start + _LEFT, _TOP + _SIDE

    def x(share: float) -> str:
        return f"{left + _SIDE * share:.1f}"

    def y(share: float) -> str:
        return f"{bottom - _SIDE * share:.1f}"

    parts = [f'<text x="{x(0)}" y="{_TOP - 14}" font-weight="bold">{escape(reading.name)}</text>']
    for tick in (0.0, 0.25, 0.5, 0.75, 1.0):
        parts.append(f'<line class="grid" x1="{x(0)}" x2="{x(1)}" y1="{y(tick)}" y2="{y(tick)}"/>')
        parts.append(
            f'<text x="{left - 6}" y="{float(y(tick)) + 4:.1f}" text-anchor="end">{100 * tick:.0f} %</text>'
        )
        parts.append(f'<text x="{x(tick)}" y="{bottom + 32}" text-anchor="middle">{100 * tick:.0f} %</text>')
    parts.append(f'<line class="axis" x1="{x(0)}" x2="{x(1)}" y1="{bottom}" y2="{bottom}"/>')
    parts.append(f'<line class="even" x1="{x(0)}" y1="{y(0)}" x2="{x(1)}" y2="{y(1)}"/>')
    for b in reading.bins():
        middle = x((b.low + b.high) / 2)
        parts.append(f'<text class="soft" x="{middle}" y="{bottom + 15}" text-anchor="middle">{b.total}</text>')
        if b.total:
            at = x(b.confidence)
            low, high = y(b.accuracy.low), y(b.accuracy.high)
            parts.append(f'<line class="interval" x1="{at}" x2="{at}" y1="{low}" y2="{high}"/>')
            parts.append(f'<circle cx="{at}" cy="{y(b.accuracy.value)}" r="4.5"/>')
    parts.append(f'<text x="{x(1)}" y="{bottom + 50}" text-anchor="end">confidence (accuracy upwards)</text>')
    return "".join(parts)
