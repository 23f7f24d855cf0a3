"""The compare pane: two to four Systems answer one question beside each other.

The browser sends what its controls are set to; answers, tokens and the task's target stay on the server until
they are shown. A pane that fails or waits leaves the others alone.
"""

from workbench.comparing.board import Board
from workbench.comparing.panes import NAMES
from workbench.ui.compare_answers import Answers
from workbench.ui.compare_controls import CSS, add_pane, add_question
from workbench.ui.compare_setup import Setup
from workbench.ui.shell import Shell

__all__ = ["CSS", "add_compare"]


def add_compare(shell: Shell) -> None:
    """Put the pane's components into the Blocks that are being built, and connect them."""
    import gradio as gr

    state = gr.State(Board())
    with gr.Column(elem_id="compare"):
        top = add_question()
        with gr.Row(elem_id="compare-panes", equal_height=False):
            parts = [add_pane(name, visible=place < 2) for place, name in enumerate(NAMES)]
    setup = Setup(shell, state, top, parts)
    setup.connect()
    Answers(shell, state, top, parts, setup.setting, setup.asking).connect(setup.sent)
