"""The components of the pane of runs, in their places."""

from dataclasses import dataclass, field
from typing import Any

from workbench.run_views.listing import STATES
from workbench.ui.runs_pair import KINDS
from workbench.ui.runs_result import OUTCOMES
from workbench.ui.shell import Shell, html

EVERY = 1.5
"""Seconds between two looks at a run that is running."""

_CLICKS = """
element.addEventListener('click', (event) => {
  const what = event.target.closest('[data-act]');
  if (!what || event.ctrlKey || event.metaKey || event.shiftKey) return;
  event.preventDefault();
  trigger('click', { ...what.dataset });
});
"""


@dataclass
class Layout:
    """The pane's components.

    Attributes:
        htmls: HTML by the name of the section that is shown in it.
        boxes: inputs, buttons and columns by name.
        rows: buttons that turn pages, (row, back, further), by name.
    """

    htmls: dict[str, Any] = field(default_factory=dict)
    boxes: dict[str, Any] = field(default_factory=dict)
    rows: dict[str, tuple[Any, Any, Any]] = field(default_factory=dict)

    def outputs(self) -> list[Any]:
        """Everything that a listener may change."""
        return [*self.htmls.values(), *self.boxes.values(), *(row for row, _, _ in self.rows.values())]

    def section(self, name: str, clicks: bool = False) -> None:
        """Add HTML; with `clicks` whatever has `data-act` in it can be clicked."""
        import gradio as gr

        self.htmls[name] = gr.HTML(
            elem_id=f"runs-{name}", elem_classes=["pane", "runs"], js_on_load=_CLICKS if clicks else None
        )

    def paging(self, name: str) -> None:
        """Add the buttons that turn pages, hidden until there are several."""
        import gradio as gr

        with gr.Row(visible=False, elem_id=f"runs-{name}-paging") as row:
            back = gr.Button("Back", elem_id=f"runs-{name}-back", size="sm", min_width=90)
            further = gr.Button("Further", elem_id=f"runs-{name}-further", size="sm", min_width=90)
        self.rows[name] = row, back, further


def lay_out(shell: Shell) -> Layout:
    """Put the components into the Blocks that are being built."""
    import gradio as gr

    made = Layout()
    boxes = made.boxes
    boxes["timer"] = gr.Timer(EVERY, active=False)
    with gr.Column() as boxes["everything"]:
        place = f"<h2>Runs</h2><p>in <code>{html(shell.runs.resolve())}</code></p>"
        gr.HTML(place, elem_classes=["pane"], js_on_load=None)
        with gr.Row(elem_id="runs-filters"):
            _filters(boxes)
        made.section("message")
        made.section("list", clicks=True)
        made.paging("list")
        made.section("left-out")
    with gr.Column(visible=False, elem_id="runs-one") as boxes["one"]:
        boxes["close"] = gr.Button("All runs", elem_id="runs-close", size="sm", scale=0, min_width=120)
        made.section("head")
        made.section("problems")
        boxes["result"] = gr.Dropdown(
            [], label="Result of", elem_id="runs-which-result", filterable=False, visible=False
        )
        with gr.Tabs(elem_id="runs-tabs") as boxes["tabs"]:
            _tabs(made)
    return made


def _filters(boxes: dict[str, Any]) -> None:
    import gradio as gr

    boxes["text"] = gr.Textbox(
        label="Find", placeholder="part of a name", max_lines=1, elem_id="runs-text", min_width=160
    )
    boxes["recipe"] = gr.Dropdown(
        [("all", "")], value="", label="Recipe", elem_id="runs-recipe", min_width=130, filterable=False
    )
    states = [("all", ""), *((name, name) for name in STATES)]
    boxes["state"] = gr.Dropdown(
        states, value="", label="State", elem_id="runs-state", min_width=130, filterable=False
    )
    boxes["refresh"] = gr.Button("Refresh", elem_id="runs-refresh", size="sm", scale=0, min_width=110)


def _tabs(made: Layout) -> None:
    import gradio as gr

    boxes = made.boxes
    with gr.Tab("Overview", id="overview"):
        made.section("progress")
        for name in ("rungs", "cost", "result", "pool"):
            made.section(name)
        boxes["part"] = gr.Dropdown([], label="Training", elem_id="runs-part", filterable=False, visible=False)
        for name in ("training", "curves", "latest"):
            made.section(name)
    with gr.Tab("Questions", id="questions"):
        boxes["which"] = gr.Radio(OUTCOMES, value="all", label="Outcome", elem_id="runs-which")
        made.section("questions", clicks=True)
        made.paging("questions")
    with gr.Tab("Compare with", id="compare"):
        boxes["other"] = gr.Dropdown([], label="Another result (type to search)", elem_id="runs-other")
        made.section("pair")
        kinds = [(words, name) for name, words in KINDS.items()]
        boxes["kind"] = gr.Radio(kinds, value="all", label="Changed questions", elem_id="runs-kind", visible=False)
        made.section("changed", clicks=True)
        made.paging("changed")
    with gr.Tab("Model card", id="card"):
        made.section("card")
