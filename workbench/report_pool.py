"""What a pool of samples says, as a person reads it: text for the terminal, pictures, a page.

Everything is computed from the pool that lies in the run's folder: nothing is generated.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from workbench.files import write_json
from workbench.report import duration, quantity, with_span
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

NAMES = {"pass": "pass@k", "majority": "majority@k", "best_of": "best-of@k", "weighted": "weighted@k"}
K = "samples a question, k"
SCORED = ("best_of", "weighted")  # curves that pay for the scorer
BEST, FITTED = 2, 4  # colours: of best-of@k and what the scorer sees of it; of laws and bounds


# --- as text --------------------------------------------------------------------------------------------


def text(found: Mapping[str, Any], scorer: str) -> str:
    """The curves at powers of two, and what follows from the pool, for the terminal."""
    return "\n\n".join([*map(lines_of, tables(found, scorer)), "\n".join(sentences(found, scorer))])


def sentences(found: Mapping[str, Any], scorer: str) -> list[str]:
    """The law, each way of choosing beside others, the scorer's view: a sentence or two each."""
    n = found["n"]
    said = []
    law = found["law"]
    if isinstance(law, str):
        said.append(f"No coverage law: {law}")
    else:
        ahead = law["coverage"][-1]
        a, b = (with_span(law[name]) if law[name] else f"{law['fit'][name]:.3f}" for name in ("a", "b"))
        how = (
            f"bootstrap over questions, {law['resamples'] - law['failed']} of {law['resamples']} resamples fitted"
            if law["resamples"]
            else "no interval: one question, or several that are all alike, say nothing of how others differ"
        )
        said.append(
            f"Coverage law, log pass@k = a·k^b: a = {a}, b = {b} ({how}); at most {100 * law['residual']:.1f} "
            f"points off the curve. It foretells {share_words(ahead)} at k = {law['ks'][-1]}."
        )
    for name, gain in found["gains"].items():
        first, _, second = name.partition(" over ")
        label = NAMES[first].replace("@k", f"@{n}")
        against = "one sample" if second == "one sample" else NAMES[second].replace("@k", f"@{n}")
        said.append(f"{label} against {against}: {points_words(gain)}.")
    view = found["scorer"]
    if scorer == "verifier":
        said.append("The scorer is the task's own grader, an oracle: best-of@k and weighted@k are the ceiling.")
    elif view["peak"] == n:
        said.append(f"Best of k by {scorer} is most often right at the largest k: no sign that k is too large.")
    else:
        said.append(
            f"Best of k by {scorer} is most often right at k = {view['peak']}; at {n} it is "
            f"{points_words(view['fall'])} from there (that k was found on the same questions, so the fall looks "
            "larger than it is), while the scorer's own score only rises."
        )
    said.append(
        "p: sign-flip test over questions, Holm's correction over the ways of choosing and over the votes that "
        "stop; intervals: paired bootstrap."
    )
    return said


def tables(found: Mapping[str, Any], scorer: str) -> list[Table]:
    """The curves at powers of two, the votes that stop, the scorer's view, the costs."""
    return [_curve_table(found), _vote_table(found), _scorer_table(found, scorer), _cost_table(found, scorer)]


def _curve_table(found: Mapping[str, Any]) -> Table:
    rows = []
    for k in found["ks"]:
        rows.append([str(k), *(_at(found, name, k) for name in NAMES)])
    left_out = found["asked"] - found["questions"]
    return Table(
        "Curves",
        ["k", *NAMES.values()],
        rows,
        f"Over {found['questions']:,} of {found['asked']:,} questions with {found['n']} samples each"
        f"{f' ({left_out} left out: a request failed)' if left_out else ''}; 95 % bands over questions: "
        "bootstrap, Wilson's where each question is 0 or 1.",
    )


def _vote_table(found: Mapping[str, Any]) -> Table:
    n = found["n"]
    rows = [["never", f"{n}", "", _at(found, "majority", n), ""]]
    for vote in found["votes"]:
        certain = vote["stop"] == "certain"
        sure = "cannot be caught" if certain else f"is {100 * vote['stop']:.0f} % sure to be ahead"
        saved = {part: -vote["tokens_saved"][part] for part in ("value", "low", "high")}
        rows.append(
            [
                f"leader {sure}",
                f"{vote['drawn']['value']:.1f} ({vote['drawn']['low']:.1f} – {vote['drawn']['high']:.1f})",
                f"{100 * saved['value']:+.0f} % ({100 * saved['high']:+.0f} to {100 * saved['low']:+.0f})",
                share_words(vote["accuracy"]),
                points_words(vote["difference"]),
            ]
        )
    return Table(
        f"Majority of {n}, stopped early",
        ["stops when", "samples a question", "completion tokens", "right", "against never"],
        rows,
        f"Majority of {n} that is asked after every sample, in the order in which they were drawn; one that draws "
        "several at once saves less. Prompts that are read again are not counted.",
    )


def _scorer_table(found: Mapping[str, Any], scorer: str) -> Table:
    view = found["scorer"]
    rows = [
        [
            str(k),
            with_span(view["proxy"][place]) if view["proxy"] else "?",
            _at(found, "best_of", k),
            with_span(view["kl"][place]),
            f"{view['kl_bound'][place]:.3f}",
        ]
        for place, k in enumerate(found["ks"])
    ]
    return Table(
        "What the scorer sees, and what is right",
        ["k", "score of the best", "best-of@k", "KL, nats", "KL at most"],
        rows,
        f"Score: what {scorer} gives to the sample that it likes best, over the {view['questions']:,} questions "
        "of which one can be chosen in each subset. KL(best of k ‖ one sample) is measured on the pool, beside "
        "its bound log k − (k − 1)/k.",
    )


def _cost_table(found: Mapping[str, Any], scorer: str) -> Table:
    costs = found["costs"]
    reads = costs["plain"] != costs["scored"]
    kinds = ["plain", "scored"] if reads else ["plain"]
    rows = [
        [str(k), *(cell for kind in kinds for cell in _cost_cells(costs[kind][place]))]
        for place, k in enumerate(found["ks"])
    ]
    heads = ["tokens", "FLOPs", "seconds"]
    return Table(
        "Cost of a question",
        ["k", *heads, *([f"{head}, scored" for head in heads] if reads else [])],
        rows,
        "Means. The prompt counts once for its samples; seconds are shares of the batches that they were drawn in."
        + (f" Scored: with what {scorer} reads, as if no two samples were alike." if reads else ""),
    )


def _cost_cells(cost: tuple[float, float | None, float]) -> list[str]:
    tokens, flops, seconds = cost
    return [quantity(tokens), quantity(flops), duration(seconds)]


def _at(found: Mapping[str, Any], name: str, k: int) -> str:
    return share_words({part: values[k - 1] for part, values in found["curves"][name].items()})


# --- as pictures and a page -----------------------------------------------------------------------------


def charts(found: Mapping[str, Any], scorer: str) -> list[Chart]:
    """The curves against k, tokens, FLOPs and seconds; the law; the scorer's view."""
    ks = list(range(1, found["n"] + 1))
    lines = {name: _line(name, ks, found["curves"][name]) for name in NAMES}
    band = "Bands: 95 %, bootstrap over questions, point by point."
    drawn = [
        Chart("Accuracy against the number of samples", "curves", K, "Share of questions right",
              list(lines.values()), f"pass@k is what a perfect choice would reach. Scorer: {scorer}. {band}"),
    ]  # fmt: skip
    law = found["law"]
    if not isinstance(law, str):
        parts = {part: [c[part] for c in law["coverage"]] for part in ("value", "low", "high")}
        fitted = Line("law", law["ks"], parts["value"], parts["low"], parts["high"], dashed=True, colour=FITTED)
        drawn.append(
            Chart("Coverage and its law", "law", K, "pass@k", [lines["pass"], fitted],
                  f"log pass@k = a·k^b; beyond k = {found['n']} the law is an extrapolation. {band}")
        )  # fmt: skip
    for place, (name, unit) in enumerate({"tokens": "tokens", "flops": "FLOPs", "seconds": "seconds"}.items()):
        costs = {key: [row[place] for row in rows] for key, rows in found["costs"].items()}
        if all(value is not None and value > 0 for row in costs.values() for value in row):
            drawn.append(_against_cost(found, name, unit, costs))
    view = found["scorer"]
    if view["proxy"]:
        parts = {part: [c[part] for c in view["proxy"]] for part in ("value", "low", "high")}
        drawn.append(
            Chart("What the scorer sees", "proxy", K, "Mean score of the best of k",
                  [Line(f"{scorer}, of best-of@k", found["ks"], parts["value"], parts["low"], parts["high"],
                        colour=BEST)],
                  "It can only rise with k. Whether the chosen samples are right more often too is best-of@k: "
                  "where that falls while this rises, the scorer is being fooled.", share=False)
        )  # fmt: skip
    kl = {part: [c[part] for c in view["kl"]] for part in ("value", "low", "high")}
    drawn.append(
        Chart("How far best of k leaves the model", "kl", K, "KL(best of k ‖ one sample), nats",
              [Line("measured on the pool", found["ks"], kl["value"], kl["low"], kl["high"], colour=BEST),
               Line("bound, log k − (k − 1)/k", found["ks"], view["kl_bound"], dashed=True, colour=FITTED)],
              "Equal scores, as equal short answers have, keep it below the bound.", share=False)
    )  # fmt: skip
    return drawn


def _line(name: str, xs: Any, curve: Mapping[str, Any]) -> Line:
    colour = list(NAMES).index(name)
    return Line(NAMES[name], xs, curve["value"], curve["low"], curve["high"], colour=colour)


def _against_cost(found: Mapping[str, Any], name: str, unit: str, costs: Mapping[str, list[float]]) -> Chart:
    at = [k - 1 for k in found["ks"]]
    lines = []
    for curve in ("majority", "best_of", "weighted"):
        points = {part: [found["curves"][curve][part][i] for i in at] for part in ("value", "low", "high")}
        lines.append(_line(curve, costs["scored" if curve in SCORED else "plain"], points))
    caption = "Mean cost of a question. What a scorer reads is counted, as if no two samples were alike."
    return Chart(
        f"Accuracy against {unit}", name, f"{unit} a question", "Share of questions right", lines, caption
    )


def write_report(
    run: Run, found: Mapping[str, Any], scorer: str, facts: Mapping[str, str], notes: Sequence[str], command: str
) -> Path:
    """Write curves.json, a PNG a chart, and report.html into the run's folder; gives the page's path.

    Args:
        run: whose folder.
        found: what `read_off` gave.
        scorer: its name.
        facts: shown under the page's heading.
        notes: what a reader must know.
        command: what to type to get it again.
    """
    write_json(run.path / "curves.json", found)
    drawn = charts(found, scorer)
    write_pictures(run.path, drawn)
    said, told = sentences(found, scorer), tables(found, scorer)
    path = run.path / "report.html"
    write_page(
        path,
        "One pool of samples, every curve",
        [drawn[0], told[0], *drawn[1:], *told[1:]],
        facts=facts,
        summary=said[0],
        notes=[*said[1:], *notes],
        command=command,
        versions=run.info["packages"],
    )
    return path
