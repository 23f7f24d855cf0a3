"""What a comparison is set to: its panes and their Systems, a task's question, and the address that says it."""

from collections.abc import Sequence
from functools import partial
from typing import Any

from workbench.comparing.board import Board
from workbench.comparing.panes import (
    NAMES,
    Setting,
    read_field,
    run_decodes_otherwise,
    setting_for,
    setting_of,
    system_of,
)
from workbench.comparing.questions import pick
from workbench.errors import UserError
from workbench.identity import system_hash
from workbench.ui import compare_views as views
from workbench.ui.chat_settings import question
from workbench.ui.compare_controls import NO_TASK, PaneParts, QuestionParts
from workbench.ui.shell import QUICK, Shell, asked, html, line, query

MOST_IN_ADDRESS = 2000
"""Characters of a question that an address holds; longer ones are left out, and the pane says so."""

LEAST_PANES = 2

Shown = dict[Any, Any]


def fields_of(board: Board, words: object, settings: Sequence[Setting | None]) -> tuple[dict[str, object], str]:
    """The address's fields of a comparison, and a sentence where the question is left out of them.

    Args:
        board: the session's.
        words: what the question's box holds.
        settings: of the panes that are shown; None where one is at fault.
    """
    fields: dict[str, object] = {}
    note = ""
    if board.picked is not None and board.is_picked(words):
        fields |= {"task": board.picked.name, "args": board.picked.settings, "number": board.picked.number}
    elif isinstance(words, str) and len(words) > MOST_IN_ADDRESS:
        note = f"A question of more than {MOST_IN_ADDRESS:,} characters is left out of the address."
    else:
        fields["q"] = words
    fields |= {name: s.field() for name, s in zip(NAMES, settings, strict=False) if s is not None}
    return fields, note


def number_of(text: str) -> int:
    """A question's number from an address.

    Raises:
        UserError: it is none.
    """
    if not (text.isascii() and text.isdigit() and len(text) < 10):
        raise UserError("The address has a question's number that is none.")
    return int(text)


class Setup:
    """The listeners of everything but the answers.

    Args:
        shell: the page's.
        state: the session's `Board`.
        top: the components above the panes.
        parts: the panes' components.
    """

    def __init__(self, shell: Shell, state: Any, top: QuestionParts, parts: Sequence[PaneParts]) -> None:
        self._shell, self._state, self._top, self._parts = shell, state, top, parts
        self._controls = [control for part in parts for control in part.controls]
        self.sent = {state, top.box, top.view, *self._controls}
        """Whose values the listeners get."""

    def connect(self) -> None:
        """Connect the controls, and what a visit begins with."""
        import gradio as gr

        top, state, blocks = self._top, self._state, self._shell.blocks
        systems, columns = [part.system for part in self._parts], [part.column for part in self._parts]
        told = [self._shell.address, top.line, *systems, *self._controls]
        sizes = [*columns, top.add, top.remove]

        def restored(board: Board, request: gr.Request) -> Shown:
            return self._restored(board, asked(request))

        above = [top.box, top.line, top.task, top.settings, top.number]
        blocks.load(restored, [state], [*above, *self._controls, *systems, *sizes], **self._shell.loading)
        others = [control.input for part in self._parts for control in part.controls[1:]]
        gr.on(others, self._described, self.sent, told, **QUICK, trigger_mode="always_last")
        for place, part in enumerate(self._parts):
            outputs = [*part.controls, part.system]
            chosen = part.controls[0].input(partial(self._chosen, place), self.sent, outputs, **QUICK)
            chosen.then(self._described, self.sent, told, **QUICK)
        for button, by in ((top.add, 1), (top.remove, -1)):
            button.click(partial(self._resized, by), self.sent, [*told, *sizes], **QUICK)
        picking = {*self.sent, top.task, top.settings, top.number}
        for button, drawn in ((top.take, False), (top.another, True)):
            outputs = [self._shell.address, top.line, top.box, top.number, top.target]
            button.click(partial(self._taken, drawn), picking, outputs, **QUICK)
        top.reveal.click(self._revealed, self.sent, [top.target], **QUICK)

    def setting(self, sent: Shown, place: int) -> Setting:
        """What a pane is set to.

        Raises:
            UserError: a value is none; the message names the field.
        """
        return setting_of([sent[control] for control in self._parts[place].controls])

    # --- Systems ------------------------------------------------------------------------------------

    def _address(self, sent: Shown) -> Shown:
        """The address, and the line above the panes."""
        settings: list[Setting | None] = []
        for place in range(sent[self._state].count):
            try:
                settings.append(self.setting(sent, place))
            except UserError:  # told in its pane
                settings.append(None)
        fields, note = fields_of(sent[self._state], sent[self._top.box], settings)
        return {self._shell.address: query("compare", fields), self._top.line: line(note)}

    def _named(self, part: PaneParts, made: Setting) -> Shown:
        """A pane's System by its hash, and which numbers its way of decoding has."""
        import gradio as gr

        try:
            entry, system = system_of(made, self._shell.catalogue)
            told = views.system_line(system, system_hash(system), run_decodes_otherwise(entry, made.decode))
        except UserError as error:
            told = line(error, True)
        _, _, _, temperature, n, _ = part.controls
        return {
            part.system: told,
            temperature: gr.Number(visible=made.way != "greedy"),
            n: gr.Number(visible=made.way == "vote"),
        }

    def _set(self, part: PaneParts, made: Setting) -> Shown:
        """A pane's controls, as they are to be."""
        import gradio as gr

        _, prompt, way, temperature, n, most = part.controls
        return {
            **self._named(part, made),
            prompt: gr.Dropdown(value=made.prompt, interactive=True),
            way: gr.Radio(value=made.way, interactive=True),
            temperature: gr.Number(made.temperature, visible=made.way != "greedy"),
            n: gr.Number(made.n, visible=made.way == "vote"),
            most: gr.Number(made.max_tokens, interactive=True),
        }

    def _described(self, sent: Shown) -> Shown:
        found = self._address(sent)
        for place, part in enumerate(self._parts[: sent[self._state].count]):
            try:
                found |= self._named(part, self.setting(sent, place))
            except UserError as error:
                found[part.system] = line(error, True)
        return found

    def _chosen(self, place: int, sent: Shown) -> Shown:
        """What a pane is set to when another model is chosen: a run brings its own prompt and decode."""
        part = self._parts[place]
        try:
            return self._set(part, setting_for(self._shell.catalogue.find(sent[part.controls[0]])))
        except UserError as error:
            return {part.system: line(error, True)}

    def asking(self, sent: Shown) -> Shown:
        """What is shown above the panes when all are asked, and the address."""
        try:
            question(sent[self._top.box])
        except UserError as error:
            return {self._top.line: line(error, True)}
        return self._address(sent)

    # --- how many panes -----------------------------------------------------------------------------

    def _panes(self, board: Board) -> Shown:
        import gradio as gr

        return {
            **{part.column: gr.Column(visible=place < board.count) for place, part in enumerate(self._parts)},
            self._top.add: gr.Button(interactive=board.count < len(NAMES)),
            self._top.remove: gr.Button(interactive=board.count > LEAST_PANES),
        }

    def _resized(self, by: int, sent: Shown) -> Shown:
        board: Board = sent[self._state]
        board.count = min(max(board.count + by, LEAST_PANES), len(NAMES))
        for pane in board.panes[board.count :]:
            pane.stop()
        return {**self._described(sent), **self._panes(board)}

    # --- a task's question --------------------------------------------------------------------------

    def _taken(self, drawn: bool, sent: Shown) -> Shown:
        """Put a question of the dev split into the box; its target stays here."""
        top = self._top
        try:
            if sent[top.task] == NO_TASK:
                raise UserError("Choose a task first.")
            picked = pick(sent[top.task], sent[top.settings], None if drawn else sent[top.number])
        except UserError as error:
            return {top.target: line(error, True)}
        sent[self._state].picked = picked
        words = picked.example.input
        told = f"Question {picked.number:,} of {len(picked.task.dev):,} of the dev split. Its target is hidden."
        shown = {top.box: words, top.number: picked.number, top.target: line(told)}
        return {**self._address({**sent, top.box: words}), **shown}

    def _revealed(self, sent: Shown) -> str:
        board: Board = sent[self._state]
        if board.picked is None or not board.is_picked(sent[self._top.box]):
            return line("The box holds no question of a task, so there is no target.", True)
        return f"<p>Target: <code>{html(board.picked.example.target)}</code></p>"

    # --- what the address says ----------------------------------------------------------------------

    def _restored(self, board: Board, fields: dict[str, str]) -> Shown:
        """The comparison of the address; nothing is asked by itself."""
        import gradio as gr

        top, problems = self._top, list[str]()
        entries = self._shell.catalogue.entries()
        choices = [(entry.label, entry.key) for entry in entries]
        fields = fields if fields.get("tab") == "compare" else {}
        given = [place for place, name in enumerate(NAMES) if name in fields]
        board.count = max([LEAST_PANES, *(place + 1 for place in given)])
        shown: Shown = {}
        for place, part in enumerate(self._parts):
            made = setting_for(entries[min(place, len(entries) - 1)])
            if place in given:
                try:
                    wanted = read_field(fields[NAMES[place]])
                    system_of(wanted, self._shell.catalogue)
                    made = wanted
                except UserError as error:
                    problems.append(f"Pane {NAMES[place].upper()}: {error}")
            models = gr.Dropdown(choices, value=made.key, interactive=True)
            shown |= {part.controls[0]: models, **self._set(part, made)}
        try:
            shown |= self._question(board, fields)
        except UserError as error:
            problems.append(str(error))
        return {**shown, **self._panes(board), top.line: line(" ".join(problems), True)}

    def _question(self, board: Board, fields: dict[str, str]) -> Shown:
        top = self._top
        if "task" not in fields:
            return {top.box: fields["q"][:MOST_IN_ADDRESS]} if "q" in fields else {}
        picked = pick(fields["task"], fields.get("args", ""), number_of(fields.get("number", "1")))
        board.picked = picked
        return {
            top.box: picked.example.input,
            top.task: picked.name,
            top.settings: picked.settings,
            top.number: picked.number,
        }
