"""Parity as a reader sees it: the table for the terminal, and the numbers as JSON.

`report_parity_html.py` shows the same rows as a page.
"""

from collections.abc import Sequence
from io import StringIO
from typing import Any

from workbench.identity import to_json
from workbench.parity.asking import TOP
from workbench.parity.bounds import FEWEST, Config
from workbench.parity.measures import Distance
from workbench.parity.rows import Row
from workbench.report import p_value, percent, quantity, span
from workbench.types import Interval


def table(rows: Sequence[Row], config: Config, looks: int) -> str:
    """The systems as plain text: answers, log-probabilities, verdicts, then what to know."""
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table

    answers = Table(box=SIMPLE_HEAD, pad_edge=False)
    scores = Table(box=SIMPLE_HEAD, pad_edge=False)
    for part, names in (
        (
            answers,
            ("accuracy", "95 %", "points", "p", "same answers", "same texts", "parts at", "failed", "tokens/s"),
        ),
        (scores, ("drift", "95 %", "signed", "99th %", "largest", "KL", "95 %", "tokens", "questions")),
    ):
        part.add_column("system", min_width=12, max_width=60, overflow="fold")
        for name in names:
            part.add_column(name, justify="right", no_wrap=True)
    for row in rows:
        cells = cells_of(row)
        answers.add_row(row.side.name, *(cells[k] for k in (
            "accuracy", "accuracy_span", "points", "p", "answers", "texts", "parts_at", "failed", "speed",
        )))  # fmt: skip
        if row.distance is not None:
            scores.add_row(row.side.name, *(cells[k] for k in (
                "drift", "drift_span", "signed", "p99", "largest", "kl", "kl_span", "tokens", "scored",
            )))  # fmt: skip
    out = StringIO()
    console = Console(file=out, width=200, markup=False, emoji=False, highlight=False, color_system=None)
    console.print(answers)
    console.print(scores)
    lines = [line.rstrip() for line in out.getvalue().splitlines()]
    verdicts = [f"{r.side.name}: {r.verdict} ({r.side.bounds} bounds)" for r in rows if r.verdict is not None]
    return "\n".join([*(line for line in lines if line), "", *verdicts, "", *remarks(rows, config, looks)]) + "\n"


def remarks(rows: Sequence[Row], config: Config, looks: int) -> list[str]:
    """What a reader of the table must know, one sentence or two each."""
    first = rows[0].measured.result
    out = [
        f"{len(first.outcomes)} questions of {first.task}, split {first.split}; greedy answers; "
        f"the reference is {rows[0].side.name}.",
        "drift: mean |Δ log-probability| of the tokens of the reference's answers, which every system reads; nats "
        "a token, 95 % interval by bootstrap over questions. The token that ends an answer is not among them.",
        f"KL: of the reference's next token from the system's, nats a token, over the {TOP} likeliest tokens that "
        "both tell and one event for all the rest: a lower bound of the divergence over all tokens.",
        "parts at: the median token at which differing answers part. tokens/s: of the greedy pass; answers that "
        "were stored before keep the time that they took then.",
    ]
    tests = sorted({row.comparison.test for row in rows if row.comparison is not None})
    if tests:
        out.append(f"points, p: accuracy less the reference's, {' and '.join(tests)}, Holm's correction.")
    for kind in dict.fromkeys(row.side.bounds for row in rows[1:]):
        b = config.of(kind)
        out.append(
            f"{kind} bounds: drift {b.drift:g}, KL {b.kl:g}, accuracy {b.points:g} points. An interval must lie "
            f"below its bound as a whole; {FEWEST} questions at least."
        )
    if first.split == "test":
        systems = "system has" if looks == 1 else "systems have"
        out.append(f"{looks} {systems} been looked at on the test split, these among them.")
    for row in rows[1:]:
        if row.distance is not None:
            out += [
                f"{row.side.name}: {n} questions are not in drift and KL: {why}."
                for why, n in row.distance.left_out
            ]
    return out + [f"{row.side.name}: {note}" for row in rows for note in row.measured.result.notes]


def cells_of(row: Row) -> dict[str, str]:
    """Every figure of a row as text; empty where there is none."""
    result, found = row.measured.result, row.distance
    errors = dict(result.counts)["error"]
    cells = dict.fromkeys(
        ("points", "p", "answers", "answers_span", "texts", "texts_span", "parts_at", "drift", "drift_span",
         "signed", "p99", "largest", "kl", "kl_span", "tokens", "scored"), "",
    )  # fmt: skip
    cells |= {
        "accuracy": percent(result.score.value),
        "accuracy_span": span(result.score),
        "failed": str(errors),
        "speed": "" if row.measured.speed is None else quantity(row.measured.speed),
    }
    if row.comparison is not None:
        cells |= {"points": f"{100 * row.comparison.difference.value:+.1f}", "p": p_value(row.comparison)}
    if found is None:
        return cells
    cells |= {
        "answers": f"{round(found.answers.value * found.answered)} of {found.answered}",
        "answers_span": span(found.answers) + " %",
        "texts": f"{round(found.texts.value * found.both)} of {found.both}",
        "texts_span": span(found.texts) + " %",
        "parts_at": _parts_at(found),
        "tokens": f"{found.tokens:,}",
        "scored": str(found.scored),
    }
    if found.drift is not None and found.kl is not None and found.signed is not None:
        cells |= {
            "drift": nats(found.drift.value),
            "drift_span": f"{nats(found.drift.low)} – {nats(found.drift.high)}",
            "signed": f"{found.signed.value:+.4f}",
            "p99": nats(found.p99),
            "largest": nats(found.largest),
            "kl": nats(found.kl.value),
            "kl_span": f"{nats(found.kl.low)} – {nats(found.kl.high)}",
        }
    return cells


def _parts_at(found: Distance) -> str:
    """Where the texts part, as people count: from 1."""
    if found.parts_at is not None:
        return f"{found.parts_at + 1:g}"
    # No place is known either where one could not be had: the system's own answer was not scored.
    return "never" if found.both and found.texts.value == 1 else "–"


def nats(value: float) -> str:
    """0.01234 → "0.0123"; what is below a millionth is told as a power of ten."""
    return "0" if value == 0 else f"{value:.1e}" if value < 1e-4 else f"{value:.3g}"


def as_json(rows: Sequence[Row], config: Config) -> dict[str, Any]:
    """All that was found, as JSON data; lists of per-token numbers stay in the scores' files."""

    def interval(value: Interval | None) -> Any:
        return None if value is None else to_json(value)

    def system(row: Row) -> dict[str, Any]:
        found, against, verdict = row.distance, row.comparison, row.verdict
        told: dict[str, Any] = {
            "name": row.side.name,
            "model": to_json(row.side.model),
            "engine": vars(row.side.engine),
            "system": row.measured.result.system,
            "accuracy": to_json(row.measured.result.score),
            "counts": dict(row.measured.result.counts),
            "tokens_per_second": row.measured.speed,
        }
        if found is None or verdict is None:
            return told
        told |= {
            "bounds": row.side.bounds,
            "verdict": verdict.state,
            "reasons": list(verdict.reasons),
            "left_out": dict(found.left_out),
            "questions": [
                {
                    "id": q.id,
                    "same_text": None if None in (q.reference, q.text) else q.reference == q.text,
                    "same_answer": q.same_answer,
                    "parts_at": q.parts_at,
                    "tokens": len(q.deltas),
                    "drift": q.drift if q.deltas else None,
                    "kl": sum(q.kls) / len(q.kls) if q.kls else None,
                }
                for q in found.questions
            ],
        }
        told |= {name: interval(getattr(found, name)) for name in ("answers", "texts", "drift", "signed", "kl")}
        told |= {
            name: getattr(found, name)
            for name in ("answered", "both", "parts_at", "p99", "largest", "tokens", "scored", "failed")
        }
        if against is not None:
            told |= {"difference": to_json(against.difference), "p": against.p, "adjusted_p": against.adjusted_p}
        return told

    bounds = {"same": vars(config.same), "quantised": vars(config.quantised)}
    return {"systems": [system(row) for row in rows], "bounds": bounds}
