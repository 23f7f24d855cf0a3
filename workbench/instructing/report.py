"""`report.html` of Self-Instruct: what was kept and why not, by round; lengths, likeness, variety, ten examples.

It is made from the run's own files, asks for nothing from outside and works without JavaScript. What the teacher
wrote goes through `visible` and Jinja's escaping: text stays text.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from workbench.files import write_atomic
from workbench.instructing.charts import histogram, rows, stacked
from workbench.instructing.filters import NEAR_DUPLICATE
from workbench.instructing.readings import readings, told
from workbench.instructing.rounds import counted, without_instances
from workbench.instructing.similarity import LIMIT
from workbench.instructing.variety import pair_count, verbs
from workbench.made_data import read_made
from workbench.report import duration
from workbench.report_html import filled
from workbench.runs import Run
from workbench.training.card import cost_of

ROUNDS = 40  # bars, at most; beyond it several rounds share one
VERBS, OBJECTS = 20, 4


def summary(found: Mapping[str, Any]) -> str:
    """What self_instruct.json holds, in a few lines for a person."""
    halves = [_rate(half) for half in _halves(found["rounds"])]
    fell = f" In the first half of the rounds {halves[0]}, in the second {halves[1]}." if len(halves) == 2 else ""
    similarity = found["largest_rouge_l"]
    told = "no two to compare" if similarity is None else f"{similarity:.3f}"
    return "\n".join(
        [
            f"{found['kept']:,} of {counted(found['instructions'], 'instruction')} kept, "
            f"{found['with_instances']:,} of them with instances: {counted(found['examples'], 'example')}.{fell}",
            f"Instructions left out: {_listed(found['reasons'])}.",
            f"Instances left out, of {found['instances']:,}: {_listed(found['instance_reasons'])}.",
            f"Kept without instances: {without_instances(found)}.",
            f"Requests that failed for good: {_listed(found['failed_requests'])}.",
            f"Largest ROUGE-L between two kept instructions: {told} (above {LIMIT:g} the later is left out).",
            f"It ended because {found['stopped']}. Tokens: {found['tokens']:,}.",
        ]
    )


def write_report(run: Run, found: Mapping[str, Any], command: str) -> Path:
    """Write the page into the run's folder; gives its path.

    Args:
        run: with instructions.jsonl, data.jsonl and cost.json.
        found: what self_instruct.json holds.
        command: what to type to get it again.

    Raises:
        UserError: a file cannot be read or written.
    """
    lines = (run.path / "instructions.jsonl").read_text(encoding="utf-8").splitlines()
    proposals = [json.loads(line) for line in lines]
    kept = [p for p in proposals if p["kept"]]
    whole = [instance for p in kept for instance in p["instances"] if instance["kept"]]
    texts = [p["instruction"] for p in kept]
    examples = read_made(run.path / "data.jsonl")
    read = readings(run.path, examples)
    cost = cost_of(run)
    page = filled(
        "report_self_instruct.html.j2",
        title=f"Self-Instruct by {found['teacher']['name']}",
        facts={
            "Seed tasks": f"{found['seeds']['tasks']:,}",
            "Instructions written": f"{found['instructions']:,}",
            "Kept": f"{found['kept']:,}",
            "With instances": f"{found['with_instances']:,}",
            "Examples": f"{found['examples']:,}",
            "Tokens": f"{cost.tokens:,}",
            "Time": duration(cost.seconds),
        },
        summary=summary(found),
        rounds=_by_round(found["rounds"]),
        reasons=[
            ("Instructions", found["instructions"], found["reasons"]),
            ("Instances", found["instances"], found["instance_reasons"]),
        ],
        lengths=[
            ("Instructions", histogram([[len(text.split()) for text in texts]], x="words")),
            (
                "Inputs, where there is one",
                histogram([[n for i in whole if (n := _words(i, "input"))]], x="words"),
            ),
            ("Outputs", histogram([[_words(i, "output") for i in whole]], x="words")),
        ],
        likeness=histogram(
            [
                [p["rouge_l"] for p in proposals if p["kept"]],
                [p["rouge_l"] for p in proposals if p["reason"] == NEAR_DUPLICATE],
            ],
            x="ROUGE-L to the nearest in the pool",
            width=0.05,
        ),
        verbs=rows(verbs(texts, VERBS, OBJECTS)),
        pairs=pair_count(texts),
        kept=len(kept),
        readings=read,
        judged=told(read),
        total=len(examples),
        command=command,
        versions=run.info["packages"],
    )
    path = run.path / "report.html"
    write_atomic(path, page)
    return path


def _words(instance: Mapping[str, str], key: str) -> int:
    return len(instance[key].split())


def _by_round(rounds: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """A bar a round, or a few rounds: kept, near-duplicates, left out for another reason."""
    together = -(-len(rounds) // ROUNDS)
    labels, bars = [], []
    for start in range(0, len(rounds), together):
        part = rounds[start : start + together]
        written, kept, near = (
            sum(r["instructions"] for r in part),
            sum(r["kept"] for r in part),
            sum(r["reasons"].get(NEAR_DUPLICATE, 0) for r in part),
        )
        labels.append(str(part[0]["round"]))
        bars.append([kept, near, written - kept - near])
    return stacked(labels, bars, x="round" if together == 1 else f"round, {together} in a bar")


def _halves(rounds: list[dict[str, Any]]) -> list[list[dict[str, Any]]]:
    middle = len(rounds) // 2
    return [rounds[:middle], rounds[middle:]] if middle else []


def _rate(rounds: list[dict[str, Any]]) -> str:
    # No interval: it is a count of all that this run wrote, and items of one list are no independent draws.
    kept, written = sum(r["kept"] for r in rounds), sum(r["instructions"] for r in rounds)
    return f"{kept:,} of {written:,} were kept" + (f" ({100 * kept / written:.0f} %)" if written else "")


def _listed(reasons: Mapping[str, int]) -> str:
    return ", ".join(f"{count:,} {reason}" for reason, count in reasons.items()) or "none"
