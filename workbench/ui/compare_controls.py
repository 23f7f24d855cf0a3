"""The compare pane's components: one pane's, and the question's."""

from dataclasses import dataclass
from importlib.resources import files
from typing import Any

from workbench.comparing.panes import MOST_SAMPLES, MOST_TOKENS, NAMES, PLAIN, Setting, prompt_choices
from workbench.comparing.questions import offered
from workbench.ui.shell import MAX_TEXT

_OWN = files("workbench.ui")

CSS = _OWN.joinpath("compare.css").read_text(encoding="utf-8")
_CHOOSING = _OWN.joinpath("compare.js").read_text(encoding="utf-8")
_KEYS = _OWN.joinpath("compare_keys.js").read_text(encoding="utf-8")

NO_TASK = ""
VIEWS = [("Answers", "text"), ("Differences from A", "differences"), ("Show probabilities", "probabilities")]


@dataclass(frozen=True)
class PaneParts:
    """One pane's components; `controls` are its settings, in the order of `setting_of`."""

    column: Any
    controls: tuple[Any, ...]
    system: Any
    stop: Any
    retry: Any
    status: Any
    answer: Any
    beside: Any
    votes: Any

    @property
    def shows(self) -> list[Any]:
        """What an answer changes."""
        return [self.status, self.answer, self.beside, self.votes, self.stop, self.retry]


@dataclass(frozen=True)
class QuestionParts:
    """The components above the panes."""

    box: Any
    line: Any
    task: Any
    settings: Any
    number: Any
    take: Any
    another: Any
    reveal: Any
    target: Any
    ask: Any
    stop: Any
    add: Any
    remove: Any
    view: Any


def add_question() -> QuestionParts:
    """The question's box, a task's questions, and the buttons for all panes."""
    import gradio as gr

    gr.HTML("<h2>Compare models on one question</h2>", elem_classes=["pane"], js_on_load=_KEYS)
    box = gr.Textbox(
        elem_id="compare-question",
        label="Question",
        lines=3,
        max_lines=10,
        max_length=MAX_TEXT,
        placeholder="Ask all panes the same; Ctrl+Enter asks, Esc stops",
    )
    with gr.Accordion("Take a question from a task", open=False, elem_id="compare-tasks"):
        with gr.Row():
            task = gr.Dropdown(
                [("No task", NO_TASK), *((name, name) for name in offered())],
                value=NO_TASK,
                label="Task",
                elem_id="compare-task",
                min_width=160,
            )
            settings = gr.Textbox(
                label="Its settings, as terms=3 operations=+",
                elem_id="compare-task-settings",
                max_length=500,
                min_width=200,
            )
            number = gr.Number(1, label="Question of the dev split", elem_id="compare-number", min_width=120)
        with gr.Row():
            take = gr.Button("Take this question", elem_id="compare-take", min_width=120)
            another = gr.Button("Draw another", elem_id="compare-another", min_width=120)
            reveal = gr.Button("Show target", elem_id="compare-reveal", min_width=120)
        target = gr.HTML("", elem_id="compare-target", elem_classes=["pane"], js_on_load=None)
    with gr.Row():
        ask = gr.Button("Ask all", elem_id="compare-ask", variant="primary", min_width=90)
        stop = gr.Button("Stop all", elem_id="compare-stop", min_width=90)
        add = gr.Button("Add a pane", elem_id="compare-add", min_width=90)
        remove = gr.Button("Remove the last pane", elem_id="compare-remove", min_width=90, interactive=False)
    line = gr.HTML("", elem_id="compare-line", elem_classes=["pane"], js_on_load=None)
    view = gr.Radio(VIEWS, value="text", label="Show", elem_id="compare-view")
    radios = "".join(
        f"<label><input type=radio name=compare-show id=compare-show-{name}{' checked' if name == 'a' else ''}> "
        f"{name.upper()}</label>"
        for name in NAMES
    )
    which = f"<fieldset><legend>Pane</legend>{radios}</fieldset>"
    gr.HTML(which, elem_id="compare-which", elem_classes=["pane"], js_on_load=None)
    return QuestionParts(
        box, line, task, settings, number, take, another, reveal, target, ask, stop, add, remove, view
    )


def add_pane(name: str, visible: bool) -> PaneParts:
    """One pane."""
    import gradio as gr

    start = Setting("")
    id = f"compare-{name}"
    with gr.Column(elem_id=f"compare-pane-{name}", elem_classes=["compare-pane"], visible=visible) as column:
        gr.HTML(f"<h3>Pane {name.upper()}</h3>", elem_classes=["pane"], js_on_load=None)
        # Disabled until the visit's settings have come, which would undo what was set before.
        model = gr.Dropdown([], label=f"Model of pane {name.upper()}", elem_id=f"{id}-model", interactive=False)
        prompt = gr.Dropdown(
            prompt_choices(), value=PLAIN, label=f"Prompt of pane {name.upper()}", elem_id=f"{id}-prompt",
            interactive=False,
        )  # fmt: skip
        with gr.Accordion("Decoding", open=False, elem_id=f"{id}-decoding"):
            ways = [("Greedy", "greedy"), ("One sample", "sample"), ("Majority vote among n samples", "vote")]
            way = gr.Radio(ways, value=start.way, label="Decoding", elem_id=f"{id}-way", interactive=False)
            with gr.Row():
                temperature = gr.Number(
                    start.temperature, label="Temperature", step=0.1, elem_id=f"{id}-temperature", min_width=90,
                    visible=False,
                )  # fmt: skip
                n = gr.Number(
                    start.n, label=f"Samples n, 1 to {MOST_SAMPLES}", step=1, elem_id=f"{id}-n", min_width=90,
                    visible=False,
                )  # fmt: skip
                most = gr.Number(
                    start.max_tokens, label=f"Max tokens, 1 to {MOST_TOKENS:,}", step=1,
                    elem_id=f"{id}-max-tokens", min_width=90, interactive=False,
                )  # fmt: skip
        system = gr.HTML("", elem_id=f"{id}-system", elem_classes=["pane"], js_on_load=None)
        with gr.Row():
            stop = gr.Button("Stop", elem_id=f"{id}-stop", interactive=False, min_width=60, size="sm")
            retry = gr.Button("Retry", elem_id=f"{id}-retry", min_width=60, size="sm")
        status = gr.HTML("", elem_id=f"{id}-status", elem_classes=["pane"], js_on_load=None)
        answer = gr.HTML("", elem_id=f"{id}-answer", elem_classes=["pane"], js_on_load=_CHOOSING)
        beside = gr.HTML("", elem_id=f"{id}-beside", elem_classes=["pane"], js_on_load=_CHOOSING)
        votes = gr.HTML("", elem_id=f"{id}-votes", elem_classes=["pane"], js_on_load=None)
    return PaneParts(
        column, (model, prompt, way, temperature, n, most), system, stop, retry, status, answer, beside, votes
    )
