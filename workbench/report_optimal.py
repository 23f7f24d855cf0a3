"""Compute-optimal beside one strategy for all, as a person reads it: text for the terminal, a picture, a page."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from workbench.files import write_json
from workbench.report import amount, percent, quantity
from workbench.report_curves import (
    Chart,
    Line,
    Table,
    lines_of,
    points_words,
    share_words,
    write_page,
    write_pictures,
)
from workbench.runs import Run

ORDER = ("compute-optimal", "uniform majority", "uniform best-of", "uniform weighted", "one for all")


def text(found: Mapping[str, Any], scorer: str) -> str:
    """The tables and what they say, for the terminal."""
    return "\n\n".join([*(lines_of(table) for table in tables(found)), "\n".join(sentences(found, scorer))])


def sentences(found: Mapping[str, Any], scorer: str) -> list[str]:
    """How the choice was made, and what a larger model does at equal FLOPs."""
    said = [
        f"Difficulty is predicted from the first {found['first']} samples, without the answer, by a line that was "
        f"fitted on {found['dev_questions']:,} dev questions; those samples count in every k. Figures are means "
        f"over {found['looks']} choices of them. What was best on one half of the questions is scored on the "
        "other."
    ]
    said.append(
        "p: sign-flip test over questions, Holm's correction over all budgets; intervals: bootstrap over "
        "questions, Wilson's where each is 0 or 1; those of differences are paired."
    )
    if scorer == "verifier":
        said.append("The scorer is the task's own grader, an oracle: best-of and weighted are ceilings.")
    if found["dearer"] > 1:
        prompt = f", and its reading of the prompt as {found['before']:.2f}" if found["before"] else ""
        said.append(
            f"A sample that the scorer reads counts as {found['dearer']:.2f} samples, by its tokens{prompt}. "
            "Its scores are no part of the first look, which would have to pay for them."
        )
    larger: Mapping[str, Any] = found.get("larger", {})
    for row in larger.get("rows", ()):
        way = f"{row['way']}@{row['k']}" if row["k"] > 1 else row["way"]
        more = " (all that there are)" if row["all"] else ""
        said.append(
            f"{way}{more} for {amount(row['flops'], 'FLOPs')}: {share_words(row['accuracy'])}, "
            f"{points_words(row['gap'])} against {larger['model']} once for {amount(larger['flops'], 'FLOPs')}, "
            f"{share_words(larger['accuracy'])}; {larger['questions']:,} questions."
        )
    if larger and not larger["scoring_known"]:
        said.append("What the scorer costs is not known: at equal FLOPs there is the majority alone.")
    if larger and not larger["rows"]:
        said.append(f"{larger['model']} once costs less than one sample of the smaller model.")
    elif larger and (dear := larger["too_dear"]):
        what = "Two samples" if "majority" in dear else "Two samples and their scores"
        said.append(f"{what} cost more than {larger['model']} once: no {' or '.join(dear)} is within its FLOPs.")
    return said


def tables(found: Mapping[str, Any]) -> list[Table]:
    """Accuracy by budget; what was picked; the bins."""
    accuracy, picked = [], []
    for row in found["budgets"]:
        for name, interval in _ordered(row["accuracy"]):
            gap = row["gaps"].get(name)
            accuracy.append(
                [
                    f"{row['budget']}: {name}",
                    share_words(interval),
                    f"{row['samples'][name]:.1f}",
                    quantity(row["tokens"][name]),
                    points_words(gap) if gap else "",
                ]
            )
        for choice in sorted(row["picked"], key=lambda c: (c["bin"], c["fold"])):
            picked.append(
                [
                    str(row["budget"]),
                    f"{choice['bin'] + 1}",
                    "AB"[choice["fold"]],
                    f"{choice['way']}@{choice['k']}",
                ]
            )
        for choice in row["one"]:
            picked.append([str(row["budget"]), "all", "AB"[choice["fold"]], f"{choice['way']}@{choice['k']}"])
    bins = [
        [
            f"{row['bin'] + 1}",
            percent(row["dev_share"]),
            share_words(row["dev_pass"]) if row["dev_pass"] else "",
            percent(row["share"]),
            share_words(row["pass"]) if row["pass"] else "",
        ]
        for row in found["bins"]
    ]
    return [
        Table(
            "Accuracy by budget",
            ["budget", "accuracy, 95 % interval", "samples", "tokens a question", "compute-optimal less this"],
            accuracy,
            f"Over {found['questions']:,} of {found['asked']:,} questions. Uniform: as many samples as the budget "
            "holds. One for all: the best strategy of the other half, whatever the question.",
        ),
        Table(
            "What was picked",
            ["budget", "bin (1 is hardest)", "scored on half", "strategy"],
            picked,
            "Picked on the other half; bin all is one for all.",
        ),
        Table(
            "Difficulty",
            ["bin (1 is hardest)", "share of dev", "its pass@1", "share of questions", "their pass@1"],
            bins,
            "pass@1 is that of the samples that were not looked at, with its 95 % interval over questions. "
            "Nothing was chosen by the last column.",
        ),
    ]


def chart(found: Mapping[str, Any]) -> Chart:
    """Accuracy against the budget."""
    lines = []
    for colour, name in enumerate(ORDER):
        rows = [row for row in found["budgets"] if name in row["accuracy"]]
        parts = {part: [row["accuracy"][name][part] for row in rows] for part in ("value", "low", "high")}
        if rows:
            budgets = [row["budget"] for row in rows]
            lines.append(Line(name, budgets, parts["value"], parts["low"], parts["high"], colour=colour))
    return Chart(
        "Accuracy against the budget",
        "compute_optimal",
        "budget, samples a question",
        "Share of questions right",
        lines,
        "Bands: 95 %, over questions. All are over the same questions, so that their differences are "
        "surer than the bands look; the table has them.",
    )


def write_report(
    run: Run, found: Mapping[str, Any], scorer: str, facts: Mapping[str, str], notes: Sequence[str], command: str
) -> Path:
    """Write compute_optimal.json, the picture and report.html into the run's folder; gives the page's path.

    Args:
        run: whose folder.
        found: what `against_uniform` gave; with `larger` what `against_larger` gave.
        scorer: its name.
        facts: shown under the page's heading.
        notes: what a reader must know.
        command: what to type to get it again.
    """
    write_json(run.path / "compute_optimal.json", found)
    drawn = chart(found)
    write_pictures(run.path, [drawn])
    said = sentences(found, scorer)
    path = run.path / "report.html"
    write_page(
        path,
        "Samples by difficulty, against one strategy for all",
        [drawn, *tables(found)],
        facts=facts,
        summary=_gain(found["budgets"][-1]),
        notes=[*said, *notes],
        command=command,
        versions=run.info["packages"],
    )
    return path


def _gain(row: Mapping[str, Any]) -> str:
    gaps = [f"{points_words(gap)} against {name}" for name, gap in _ordered(row["gaps"])]
    return f"With {row['budget']} samples a question compute-optimal has {'; '.join(gaps)}."


def _ordered(named: Mapping[str, Any]) -> list[tuple[str, Any]]:
    return [(name, named[name]) for name in ORDER if name in named]
