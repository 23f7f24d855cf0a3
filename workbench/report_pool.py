"""What a pool of samples says, as a person reads it: text for the terminal, pictures, a page.

Everything is computed from the pool that lies in the run's folder: nothing is generated.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from workbench.files import write_json
from workbench.report import amount, duration, quantity
from workbench.report_curves import Chart, Line, Table, lines_of, write_page, write_pictures
from workbench.runs import Run

NAMES = {"pass": "pass@k", "majority": "majority@k", "best_of": "best-of@k", "weighted": "weighted@k"}
K = "samples a question, k"
SCORED = ("best_of", "weighted")  # curves that pay for the scorer


# --- as text --------------------------------------------------------------------------------------------


def text(found: Mapping[str, Any], scorer: str) -> str:
    """The curves at powers of two, and what follows from the pool, for the terminal."""
    tables = [_curve_table(found), _cost_table(found, scorer)]
    return "\n\n".join([*(lines_of(table) for table in tables), "\n".join(sentences(found, scorer))])


def sentences(found: Mapping[str, Any], scorer: str) -> list[str]:
    """The law, the votes that stop, the scorer's view: a sentence or two each."""
    n = found["n"]
    said = []
    law = found["law"]
    if isinstance(law, str):
        said.append(f"No coverage law: {law}")
    else:
        ahead = law["coverage"][-1]
        said.append(
            f"Coverage law, log pass@k = a·k^b: a = {_number(law['a'])}, b = {_number(law['b'])} (bootstrap over "
            f"questions, {law['resamples'] - law['failed']} of {law['resamples']} resamples fitted); at most "
            f"{100 * law['residual']:.1f} points off the curve. It foretells {_share(ahead)} at "
            f"k = {law['ks'][-1]}."
        )
    for name, gain in found["gains"].items():
        first, _, second = name.partition(" over ")
        label = NAMES[first].replace("@k", f"@{n}")
        against = "one sample" if second == "one sample" else NAMES[second].replace("@k", f"@{n}")
        said.append(f"{label} against {against}: {_points(gain)}.")
    for vote in found["votes"]:
        rule = (
            "when the leader cannot be caught"
            if vote["stop"] == "certain"
            else f"when it is {100 * vote['stop']:.0f} % sure to be ahead"
        )
        said.append(
            f"Majority of {n}, asked after every sample and stopped {rule}: {vote['drawn']['value']:.1f} samples "
            f"a question ({vote['drawn']['low']:.1f} – {vote['drawn']['high']:.1f}), "
            f"{100 * vote['tokens_saved']['value']:.0f} % fewer completion tokens "
            f"({100 * vote['tokens_saved']['low']:.0f} – {100 * vote['tokens_saved']['high']:.0f}); "
            f"{100 * vote['accuracy']:.1f} % right against {100 * vote['full_accuracy']:.1f} %: "
            f"{_points(vote['difference'])}."
        )
    view = found["scorer"]
    if scorer == "verifier":
        said.append("The scorer is the task's own grader, an oracle: best-of@k and weighted@k are the ceiling.")
    elif view["peak"] == n:
        said.append(f"Best of k by {scorer} is most often right at the largest k: no sign that k is too large.")
    else:
        said.append(
            f"Best of k by {scorer} is most often right at k = {view['peak']}; at {n} it is "
            f"{_points(view['fall'])} from there (that k was found on the same questions, so the fall looks "
            "larger than it is), while the scorer's own score only rises."
        )
    said.append(
        "p: sign-flip test over questions, Holm's correction over the ways of choosing and over the votes that "
        "stop; intervals: paired bootstrap."
    )
    return said


def _curve_table(found: Mapping[str, Any]) -> Table:
    rows = []
    for k in found["ks"]:
        cells = []
        for name in NAMES:
            value, low, high = (found["curves"][name][part][k - 1] for part in ("value", "low", "high"))
            cells.append(f"{100 * value:.1f} % ({100 * low:.1f} – {100 * high:.1f})")
        rows.append([str(k), *cells])
    left_out = found["asked"] - found["questions"]
    return Table(
        "Curves",
        ["k", *NAMES.values()],
        rows,
        f"Over {found['questions']:,} of {found['asked']:,} questions with {found['n']} samples each"
        f"{f' ({left_out} left out: a request failed)' if left_out else ''}; 95 % bands over questions: "
        "bootstrap, Wilson's where each question is 0 or 1.",
    )


def _cost_table(found: Mapping[str, Any], scorer: str) -> Table:
    view = found["scorer"]
    rows = []
    for place, k in enumerate(found["ks"]):
        tokens, flops, seconds = found["costs"]["plain"][place]
        row = [str(k), quantity(tokens), amount(flops, "FLOPs") if flops is not None else "?", duration(seconds)]
        if found["costs"]["plain"] != found["costs"]["scored"]:
            row.append(quantity(found["costs"]["scored"][place][0]))
        row.append(_number(view["proxy"][place]) if view["proxy"] else "?")
        row += [_number(view["kl"][place]), f"{view['kl_bound'][place]:.3f}"]
        rows.append(row)
    extra = ["tokens with scoring, at most"] if found["costs"]["plain"] != found["costs"]["scored"] else []
    heads = ["k", "tokens a question", "FLOPs", "seconds", *extra, "score of the best", "KL, nats", "KL at most"]
    return Table(
        "Cost and the scorer's own view",
        heads,
        rows,
        "The prompt counts once for its samples; seconds are shares of the batches that they were drawn in. "
        f"Score: what {scorer} gives to the sample that it likes best, over the {view['questions']:,} questions "
        "of which one can be chosen in each subset. KL(best of k ‖ one sample) is measured on the pool, beside "
        "its bound log k − (k − 1)/k.",
    )


def _share(interval: Mapping[str, Any]) -> str:
    return f"{100 * interval['value']:.1f} % ({100 * interval['low']:.1f} – {100 * interval['high']:.1f})"


def _number(interval: Mapping[str, Any]) -> str:
    return f"{interval['value']:.3f} ({interval['low']:.3f} – {interval['high']:.3f})"


def _points(interval: Mapping[str, Any]) -> str:
    p = f", p = {interval['p']:.2g}" if "p" in interval else ""
    return (
        f"{100 * interval['value']:+.1f} points ({100 * interval['low']:+.1f} to {100 * interval['high']:+.1f}{p})"
    )


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
        fitted = Line("law", law["ks"], parts["value"], parts["low"], parts["high"], dashed=True, colour=1)
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
                  [Line(scorer, found["ks"], parts["value"], parts["low"], parts["high"])],
                  "It can only rise with k. Whether the chosen samples are right more often too is best-of@k: "
                  "where that falls while this rises, the scorer is being fooled.", share=False)
        )  # fmt: skip
    kl = {part: [c[part] for c in view["kl"]] for part in ("value", "low", "high")}
    drawn.append(
        Chart("How far best of k leaves the model", "kl", K, "KL(best of k ‖ one sample), nats",
              [Line("measured on the pool", found["ks"], kl["value"], kl["low"], kl["high"]),
               Line("bound, log k − (k − 1)/k", found["ks"], view["kl_bound"], dashed=True, colour=1)],
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
    said = sentences(found, scorer)
    path = run.path / "report.html"
    write_page(
        path,
        "One pool of samples, every curve",
        [drawn[0], _curve_table(found), *drawn[1:], _cost_table(found, scorer)],
        facts=facts,
        summary=said[0],
        notes=[*said[1:], *notes],
        command=command,
        versions=run.info["packages"],
    )
    return path
