"""The arena's components, and which of its buttons can be pressed."""

from typing import Any

from workbench.arena.asked import offered
from workbench.arena.rounds import Match
from workbench.ui import arena_view as view
from workbench.ui.shell import MAX_TEXT, Shell, line, said

Updates = dict[Any, Any]

OWN = "my own"
"""The source of questions that is no task."""

_KEYS = {"left": "1 or ←", "right": "2 or →", "tie": "3", "both bad": "4"}


class Controls:
    """The pane's components, made where the Blocks are being built, and what is shown in them."""

    def __init__(self, shell: Shell) -> None:
        import gradio as gr

        self.shell = shell
        still: dict[str, Any] = {"elem_classes": ["pane"], "js_on_load": None, "apply_default_css": False}
        gr.HTML(
            "<h2>Arena</h2><p>Two models answer the same question, unnamed. Vote for the better answer; their "
            "names are shown then.</p>",
            elem_id="arena-head",
            **still,
        )
        self.state = gr.State(Match())
        entries = shell.catalogue.entries()
        with gr.Row():
            self.players = gr.CheckboxGroup(
                [(entry.label, entry.key) for entry in entries],
                value=[entry.key for entry in entries[:2]],
                label="Models that play, two or more",
                elem_id="arena-players",
            )
            self.source = gr.Radio(
                [OWN, *offered()], value=OWN, label="Questions: my own, or a task's dev split",
                elem_id="arena-source",
            )  # fmt: skip
        self.own = gr.Textbox(label="My question", elem_id="arena-own", lines=2, max_lines=8, max_length=MAX_TEXT)
        with gr.Accordion("Sampling", open=False, elem_id="arena-sampling"), gr.Row():
            self.temperature = gr.Number(
                0.7, label="Temperature; a run's System draws one answer with its own, or greedily",
                minimum=0, maximum=100, step=0.1, elem_id="arena-temperature",
            )  # fmt: skip
            self.longest = gr.Number(
                256,
                label="Longest answer (tokens)",
                minimum=1,
                maximum=10**6,
                precision=0,
                elem_id="arena-longest",
            )
        with gr.Row():
            self.start = gr.Button("New round (n)", variant="primary", elem_id="arena-start", min_width=120)
            self.stop = gr.Button("Stop", interactive=False, elem_id="arena-stop", min_width=90)
        self.line = gr.HTML("", elem_id="arena-line", **still)
        self.question = gr.HTML(view.question(None), elem_id="arena-question", **still)
        self.answers = gr.HTML("", elem_id="arena-answers", **still)
        self.round = gr.Textbox("", elem_id="arena-round", visible="hidden", label="Round")
        with gr.Row(elem_id="arena-votes"):
            self.votes = {
                word: gr.Button(
                    f"{said_as} ({_KEYS[word]})",
                    elem_id=f"arena-{word.replace(' ', '-')}",
                    interactive=False,
                    min_width=130,
                )
                for word, said_as in view.WORDS.items()
            }
        gr.Checkbox(
            True, label="Vote with the keys 1 – 4, ← →; n begins a round", elem_id="arena-keys", interactive=True
        )
        self.standings = gr.HTML("", elem_id="arena-standings", **still)
        self.named = gr.Checkbox(
            False, label="Count votes on answers that named their model", elem_id="arena-named"
        )
        with gr.Row():
            self.save_votes = gr.Button("Download votes (JSONL)", elem_id="arena-save-votes", size="sm")
            self.save_pairs = gr.Button("Download preference pairs (JSONL)", elem_id="arena-save-pairs", size="sm")
        self.file = gr.Textbox("", elem_id="arena-file", visible="hidden", label="File")
        self.command = gr.Textbox(
            label="Train on these votes, in a terminal", elem_id="arena-command", visible=False, interactive=False,
            buttons=["copy"], lines=2,
        )  # fmt: skip
        self.place = gr.HTML("", elem_id="arena-place", **still)
        self.sentence = [self.line, shell.live]
        self.counts = [self.standings, self.command, self.place]

    def buttons(self, running: bool = False, voting: bool = False) -> Updates:
        """Which can be pressed."""
        import gradio as gr

        votes = {button: gr.Button(interactive=voting) for button in self.votes.values()}
        return {self.start: gr.Button(interactive=not running), self.stop: gr.Button(interactive=running), **votes}

    def told(self, text: str, problem: bool = False) -> Updates:
        """A sentence in the pane, read out too."""
        return {self.line: line(text, problem), self.shell.live: said(text)}
