"""The runs: a table of all, and of one its result, its questions, its rungs and its model card.

This pane only reads. All that it shows may have been written by a model or come with a folder from elsewhere,
so every text is escaped, and what cannot be seen is spelled out.
"""

from functools import partial
from html import escape
from pathlib import Path
from typing import Any

from workbench.errors import UserError
from workbench.inert import visible
from workbench.report import Rung, amount, counts, duration, percent, quantity, table
from workbench.run_folder import RunFolder, find_run, list_runs
from workbench.session import one_sample
from workbench.store import Store
from workbench.types import CostToMake, Interval, Outcome, Result, Status

HEADERS = ["run", "recipe", "state", "score", "made (UTC)"]
OUTCOMES = ["all", *(status.value for status in Status)]
PER_PAGE = 25

_DAMAGE = (UserError, OSError, TypeError, KeyError, ValueError, AttributeError)  # what a damaged file leads to


# --- what there is ----------------------------------------------------------------------------------


def run_rows(root: Path) -> list[list[str]]:
    """One row of `HEADERS` a run, latest first."""
    rows = []
    for info in reversed(list_runs(root)):
        rungs = len(_rung_files(info.path))
        score = _score(RunFolder(info.path)) or (f"{rungs} {'rung' if rungs == 1 else 'rungs'}" if rungs else "")
        made = info.created[:16].replace("T", " ")
        rows.append([visible(cell) for cell in (info.id, info.recipe, info.state, score, made)])
    return rows


def left_out(root: Path) -> list[str]:
    """Folders among the runs that cannot be read as one."""
    known = {info.id for info in list_runs(root)}
    folders = [path.name for path in root.iterdir() if path.is_dir()] if root.is_dir() else []
    return sorted(name for name in folders if name not in known and not name.startswith("."))


def read_results(run: RunFolder) -> tuple[dict[str, Result], list[str]]:
    """The run's results by name, its own first ("result"), then its rungs'; and what could not be read.

    Rungs come in the order of the run's config, others in the order in which they were finished.
    """
    results, problems = {}, []
    asked = run.config.get("ladder", {}).get("rungs") if isinstance(run.config.get("ladder"), dict) else None
    rungs = sorted(
        (file.stem for file in _rung_files(run.path)),
        key=lambda stem: (asked or []).index(stem[5:]) if stem[5:] in (asked or []) else len(asked or []),
    )
    for stem in ["result", *rungs]:
        try:
            result = run.read_result(stem)
        except _DAMAGE as error:
            problems.append(f"{stem}.json cannot be read: {error}")
            continue
        if result is not None:
            results[stem.removeprefix("rung-")] = result
    return results, problems


def rungs_table(root: Path, results: dict[str, Result]) -> str:
    """The terminal's table of a ladder's rungs; empty where there are none.

    The number of systems that have been looked at is the store's, as of now, or without a store the rungs'.
    """
    rungs = [Rung(name, result, one_sample(result)) for name, result in results.items() if name != "result"]
    if not rungs:
        return ""
    first, looks = rungs[0].result, len(rungs)
    if (file := root / "completions.sqlite").is_file():
        store = Store(file)
        try:
            looks = store.looks(first.task_hash, first.split)
        finally:
            store.close()
    return table(rungs, looks)


def select_outcomes(result: Result, which: str) -> list[Outcome]:
    """The questions with this outcome, or all."""
    return [outcome for outcome in result.outcomes if which in ("all", outcome.status.value)]


def read_card(run: RunFolder) -> str:
    """The model card's text; empty where the run made none, or where it is a link out of the folder."""
    file = run.path / "README.md"
    if not file.is_file() or not file.resolve().is_relative_to(run.path.resolve()):
        return ""
    return file.read_text(encoding="utf-8", errors="surrogateescape")


def _rung_files(folder: Path) -> list[Path]:
    return sorted(folder.glob("rung-*.json"), key=lambda file: (file.stat().st_mtime, file.name))


def _score(run: RunFolder) -> str:
    try:
        result = run.read_result()
    except _DAMAGE:
        return "damaged"
    return "" if result is None else _with_interval(result.score)


def _with_interval(score: Interval) -> str:
    return f"{percent(score.value)} ({100 * score.low:.1f} – {100 * score.high:.1f})"


# --- as HTML ----------------------------------------------------------------------------------------


def head_html(run: RunFolder, problems: list[str]) -> str:
    """Which run this is, what could not be read, and where its files lie."""
    report = run.path / "report.html"
    lines = [f"<h2>{_html(run.id)}</h2>", f"<p>Folder: <code>{_html(run.path.resolve())}</code></p>"]
    if report.is_file():
        lines.append(f"<p>Report, a page to open by itself: <code>{_html(report.resolve())}</code></p>")
    return "\n".join([*lines, *(f"<p class='problem'>{_html(problem)}</p>" for problem in problems)])


def result_html(result: Result) -> str:
    """Accuracy with its interval, the five outcomes counted, both costs, and the notes."""
    make, use, score = result.cost_to_make, result.cost_to_use, result.score
    made = "nothing"
    if make != CostToMake():
        parts = [duration(make.seconds)]
        parts += [f"{quantity(make.tokens)} tokens"] if make.tokens else []
        parts += [amount(make.flops, "FLOPs")] if make.flops else []
        parts += [f"{make.peak_memory_bytes / 2**30:.1f} GiB at most"] if make.peak_memory_bytes else []
        parts += [f"{make.watt_hours:.3g} Wh ({make.energy_source})"] if make.watt_hours else []
        made = ", ".join(parts)
    used = [f"{use.prompt_tokens:,.0f} + {use.completion_tokens:,.0f} tokens"]
    used += [amount(use.flops, "FLOPs")] if use.flops is not None else ["FLOPs not known"]
    interval = f"{100 * score.confidence:.0f} % interval {100 * score.low:.1f} – {100 * score.high:.1f}"
    facts = {
        "accuracy": f"{percent(score.value)}, {interval} ({score.method})",
        "of": f"{result.total} answered of {len(result.outcomes)} questions: {result.task}, split {result.split}",
        "to make": made,
        "to use, a question": ", ".join([*used, duration(use.seconds)]),
        "system": result.system,
    }
    tiles = "".join(f"<li class='{name}'><b>{number:,}</b> {name}</li>" for name, number in counts(result).items())
    rows = "".join(f"<dt>{name}</dt><dd>{_html(value)}</dd>" for name, value in facts.items())
    notes = "".join(f"<p>{_html(note)}</p>" for note in result.notes)
    return f"<ul class='counts'>{tiles}</ul><dl>{rows}</dl>{notes}"


def questions_html(outcomes: list[Outcome], page: int) -> str:
    """One page of questions: id, what became of it, target, answer and the whole text."""
    if not outcomes:
        return "<p>No question had this outcome.</p>"
    start = min(max(page, 0), (len(outcomes) - 1) // PER_PAGE) * PER_PAGE
    shown = outcomes[start : start + PER_PAGE]
    items = [f"<p>{start + 1} – {start + len(shown)} of {len(outcomes):,}</p>"]
    for outcome in shown:
        of = f", text of one of {outcome.samples} samples" if outcome.samples > 1 else ""
        answer = "<i>none found</i>" if outcome.answer is None else f"<code>{_html(outcome.answer)}</code>"
        text = f"<pre>{_html(outcome.text)}</pre>" if outcome.text else "<p><i>No text.</i></p>"
        items.append(
            f"<article class='{outcome.status.value}'><p><b>{outcome.status.value}</b> "
            f"<code>{_html(outcome.id)}</code>{of}</p>"
            f"<p>target <code>{_html(outcome.target)}</code>, answer {answer}</p>{text}</article>"
        )
    return "".join(items)


def pre_html(title: str, text: str) -> str:
    """A text as it is, below its title; nothing where it is empty."""
    return f"<h3>{_html(title)}</h3><pre>{_html(text)}</pre>" if text else ""


def _html(text: object) -> str:
    return escape(visible(text), quote=True)


# --- the pane ---------------------------------------------------------------------------------------

CSS = """
.gradio-container { width: 100%; min-width: 0 !important; max-width: 1200px !important; margin: auto; }
.gradio-container :is(main, .main, .wrap, .column, .row, .block, .form, .html-container) { min-width: 0 !important;
    max-width: 100%; }
.pane h2 { font-size: 1.25rem; overflow-wrap: anywhere; margin: .5rem 0; }
.pane h3 { font-size: 1.05rem; margin: 1rem 0 .3rem; }
.pane p { margin: .25rem 0; overflow-wrap: anywhere; }
.pane code, .pane pre { font-family: ui-monospace, monospace; font-size: .85rem; }
.pane code { white-space: pre-wrap; overflow-wrap: anywhere; background: var(--background-fill-secondary);
    padding: .05rem .25rem; border-radius: 3px; }
.pane pre { white-space: pre; overflow-x: auto; padding: .6rem; margin: .3rem 0; line-height: 1.35;
    background: var(--background-fill-secondary); border-radius: 4px; }
.pane .problem { color: var(--error-text-color, #b91c1c); }
.pane dl { display: grid; grid-template-columns: max-content 1fr; gap: .2rem 1rem; margin: .6rem 0; }
.pane dt { opacity: .75; } .pane dd { margin: 0; overflow-wrap: anywhere; }
.pane .counts { display: flex; flex-wrap: wrap; gap: .5rem; list-style: none; padding: 0; margin: .6rem 0; }
.pane .counts li { border: 1px solid var(--border-color-primary); border-radius: 4px; padding: .2rem .6rem;
    margin: 0; }
.pane article { border-left: 3px solid #b45309; padding: .1rem 0 .1rem .8rem; margin: .9rem 0; }
.pane article pre { white-space: pre-wrap; overflow-wrap: anywhere; }
.pane article.correct { border-color: #15803d; } .pane article.error { border-color: #6b7280; }
"""


def add_runs(blocks: Any, root: Path) -> None:
    """Put the pane's components into the Blocks that are being built, and connect them.

    What the browser names (a run, a result, an outcome) is looked up among what there is, never opened as a path.
    """
    import gradio as gr

    def html(name: str) -> Any:
        return gr.HTML(elem_id=name, elem_classes=["pane"], js_on_load=None)

    chosen, page = gr.State(""), gr.State(0)
    with gr.Row():
        gr.HTML(f"<p>Runs in <code>{_html(root.resolve())}</code></p>", elem_classes=["pane"], js_on_load=None)
        refresh = gr.Button("Refresh", elem_id="refresh", scale=0, min_width=120)
    runs = gr.Dataframe(
        headers=HEADERS,
        datatype="str",
        type="array",
        interactive=False,
        elem_id="runs",
        label="Runs: click one",
        column_widths=["350px", "170px", "140px", "230px", "200px"],
        buttons=[],
    )
    message = html("message")
    with gr.Column(visible=False, elem_id="run") as detail:
        head, rungs = html("head"), html("rungs")
        with gr.Column(visible=False) as measured:
            name = gr.Dropdown([], label="Result of", elem_id="name", filterable=False)
            result = html("result")
            which = gr.Radio(OUTCOMES, value="all", label="Questions", elem_id="which")
            questions = html("questions")
            with gr.Row(visible=False) as paging:
                back = gr.Button("Back", elem_id="back", size="sm")
                forward = gr.Button("Further", elem_id="forward", size="sm")
        card = html("card")

    def show_list() -> tuple[list[list[str]], str]:
        rows, out = run_rows(root), left_out(root)
        notes = [] if rows else ["There are no runs yet. `workbench quickstart` makes the first."]
        if out:
            notes.append(f"Left out, because they hold no readable run: {', '.join(out)}.")
        return rows, "".join(f"<p>{_html(note)}</p>" for note in notes)

    def show_run(event: gr.SelectData) -> dict[Any, Any]:
        try:
            row = event.row_value
            run = find_run(root, row[0] if isinstance(row, list) and row and isinstance(row[0], str) else "")
            found, problems = read_results(run)
            rungs_text = rungs_table(root, found)
            card_text = read_card(run)
        except _DAMAGE as error:
            return {message: f"<p class='problem'>{_html(error)}</p>", detail: gr.Column(visible=False)}
        names = list(found)
        return {
            chosen: run.id,
            page: 0,
            message: "",
            detail: gr.Column(visible=True),
            measured: gr.Column(visible=bool(found)),
            head: head_html(run, problems or ([] if found else ["This run has no result yet."])),
            rungs: pre_html("Rungs", rungs_text),
            name: gr.Dropdown(names, value=names[0] if names else None, visible=len(names) > 1),
            result: result_html(found[names[0]]) if names else "",
            which: "all",
            questions: questions_html(select_outcomes(found[names[0]], "all"), 0) if names else "",
            paging: gr.Row(visible=bool(names) and len(found[names[0]].outcomes) > PER_PAGE),
            card: pre_html("Model card", card_text),
        }

    def show_questions(step: int, id: str, wanted: str, outcome: str, number: int) -> dict[Any, Any]:
        try:
            found = read_results(find_run(root, id))[0][wanted]
        except _DAMAGE:
            return {questions: "<p class='problem'>This result is no longer there. Refresh the list.</p>"}
        outcomes = select_outcomes(found, outcome)
        number = min(max(number + step, 0), max(len(outcomes) - 1, 0) // PER_PAGE) if step else 0
        return {
            page: number,
            result: result_html(found),
            questions: questions_html(outcomes, number),
            paging: gr.Row(visible=len(outcomes) > PER_PAGE),
        }

    asked = [chosen, name, which, page]
    quick: dict[str, Any] = {"api_visibility": "private", "concurrency_limit": 4, "show_progress": "hidden"}
    refresh.click(show_list, None, [runs, message], **quick)
    blocks.load(show_list, None, [runs, message], **quick)
    shown = [page, result, questions, paging]
    runs.select(
        show_run, None, [chosen, message, detail, measured, head, rungs, name, which, card, *shown], **quick
    )
    for listener, step in ((name.input, 0), (which.input, 0), (back.click, -1), (forward.click, 1)):
        listener(partial(show_questions, step), asked, shown, **quick)
