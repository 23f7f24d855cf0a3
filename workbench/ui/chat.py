"""The chat pane: conversations with any model of the catalogue, in branches, kept on the server for each visitor.

The browser sends a question, or the name of a button with the id of a message, and shows what it is given. The
server's tree of the conversation is the only one there is.
"""

import asyncio
import sys
import traceback
from collections.abc import AsyncGenerator
from contextlib import aclosing, suppress
from typing import Any

from workbench.catalogue import Entry
from workbench.errors import UserError
from workbench.history import History
from workbench.ui import chat_view
from workbench.ui.chat_asking import Heard, answered
from workbench.ui.chat_controls import Controls, Updates
from workbench.ui.chat_desk import Session, act, asked_again, asked_instead, download, sentence
from workbench.ui.chat_desk import asked as put
from workbench.ui.chat_settings import Settings, restored
from workbench.ui.shell import DOWNLOAD, MAX_TEXT, QUICK, STREAMING, Shell, asked, line, query, said

CSS = chat_view.CSS


class Pane:
    """The pane's components and what its listeners do with them, made where the Blocks are being built."""

    def __init__(self, shell: Shell) -> None:
        import gradio as gr

        self.shell = shell
        self.state = gr.State(Session())
        acting: dict[str, Any] = {"js_on_load": chat_view.ACTS, "apply_default_css": False}
        still: dict[str, Any] = {"js_on_load": None, "apply_default_css": False}
        with gr.Row(elem_id="chat-pane"):
            with gr.Column(scale=1, min_width=270):
                with gr.Column(elem_id="chat-conversations"):
                    gr.HTML(chat_view.FOLD, elem_id="chat-fold", js_on_load=chat_view.FOLDS)
                    self.new = gr.Button("New conversation", elem_id="chat-new", size="sm")
                    self.search = gr.Textbox(
                        label="Search names and texts",
                        show_label=False,
                        container=False,
                        placeholder="Search names and texts",
                        elem_id="chat-search",
                        max_lines=1,
                        max_length=200,
                    )
                    self.listing = gr.HTML("", elem_id="chat-list", elem_classes=["pane", "chat-list"], **acting)
                self.controls = Controls(shell, self.state)
            with gr.Column(scale=3, min_width=320):
                empty = chat_view.head(None, "")
                self.head = gr.HTML(empty, elem_id="chat-head", elem_classes=["pane"], **acting)
                with gr.Column(elem_id="chat-scroll"):
                    self.view = gr.HTML(chat_view.EMPTY, elem_id="chat-view", elem_classes=["pane"], **acting)
                    self.coming = gr.HTML("", elem_id="chat-coming", elem_classes=["pane"], **still)
                self.status = gr.HTML("", elem_id="chat-line", elem_classes=["pane"], **still)
                with gr.Row(elem_id="chat-ask"):
                    self.box = gr.Textbox(
                        label="Question",
                        show_label=False,
                        container=False,
                        placeholder="Your question",
                        elem_id="chat-question",
                        lines=1,
                        max_lines=8,
                        max_length=MAX_TEXT,
                        scale=1,
                    )
                    self.send = gr.Button("Send", elem_id="chat-send", variant="primary", min_width=90)
                    self.stop = gr.Button("Stop (Esc)", elem_id="chat-stop", interactive=False, min_width=90)
        self.file = gr.Textbox("", elem_id="chat-file", visible="hidden", label="File")

    def buttons(self, busy: bool) -> Updates:
        """Send and Stop, while an answer is on its way or while none is."""
        import gradio as gr

        return {self.send: gr.Button(interactive=not busy), self.stop: gr.Button(interactive=busy)}

    def history(self, request: Any) -> History:
        """The visitor's conversations."""
        return History(self.shell.home(request) / "chats")

    def shown(self, sent: Updates, history: History, model: object, asking: bool = False) -> Updates:
        """The conversation as a whole, as the session has it now; `asking` while its last question is asked."""
        session, search = sent[self.state], sent[self.search] or ""
        chat = history.read(session.chat) if session.chat else None
        return {
            self.head: chat_view.head(chat, session.leaf),
            self.view: chat_view.messages(chat, session.leaf, asking),
            self.coming: "",
            self.listing: chat_view.conversations(history.listed(search), session.chat, search),
            self.shell.address: query("chat", {"model": model, "chat": session.chat}),
        }

    async def ask(self, sent: Updates, request: Any) -> AsyncGenerator[Updates, None]:
        """Answer what was typed."""
        session, history = sent[self.state], self.history(request)
        entry, settings = await asyncio.to_thread(self.controls.read, sent)  # a new run's model may be hashed
        session.check_idle()
        id = put(session, history, sent[self.box])
        async with aclosing(self._answer(sent, history, entry, settings, id, {self.box: ""})) as states:
            async for now in states:
                yield now

    async def press(self, sent: Updates, data: Any, request: Any) -> AsyncGenerator[Updates, None]:
        """Do what a button of a message or of a conversation says."""
        session, history = sent[self.state], self.history(request)
        if not isinstance(data, dict):
            raise UserError("The page sent what is no button's.")
        if data.get("act") in ("ask", "again"):
            entry, settings = await asyncio.to_thread(self.controls.read, sent)
            session.check_idle()
            if data["act"] == "ask":
                id = asked_instead(session, history, data.get("id"), data.get("text"))
            else:
                id = asked_again(session, history, data.get("id"))
            async with aclosing(self._answer(sent, history, entry, settings, id, {})) as states:
                async for now in states:
                    yield now
            return
        before = session.chat
        act(session, history, data)
        if session.asking and session.chat == before:  # its answer goes on being shown
            shown = await asyncio.to_thread(self.shown, sent, history, sent[self.controls.model], True)
            del shown[self.coming]
            yield shown
            return
        extra: Updates = {self.status: ""}
        if data["act"] == "open":
            extra = await asyncio.to_thread(self.settings_of, session, history)
        model = extra.get(self.controls.model, sent[self.controls.model])
        yield {**await asyncio.to_thread(self.shown, sent, history, model), **extra}

    def settings_of(self, session: Session, history: History) -> Updates:
        """The settings with which the conversation was left, where they still go."""
        settings = history.read(session.chat).settings
        try:
            return {self.status: "", **(self.controls.show(restored(settings)) if settings else {})}
        except UserError as error:
            return {self.status: line(f"{error} The settings that are shown are for the next answer.", True)}

    async def _answer(
        self, sent: Updates, history: History, entry: Entry, settings: Settings, id: str, extra: Updates
    ) -> AsyncGenerator[Updates, None]:
        session = sent[self.state]
        mine = session.chat
        try:
            with session.answering():
                first = await asyncio.to_thread(self.shown, sent, history, entry.key, True)
                yield {**first, **self.buttons(True), **extra, self.coming: chat_view.coming("")}
                async with aclosing(answered(self.shell.lender, entry, settings, history, session, id)) as states:
                    async for heard in states:
                        if session.chat == mine:  # else another one was opened meanwhile
                            yield await self._heard(sent, history, entry, heard)
        except UserError:
            if session.chat != mine:  # it was deleted while it was answered, or another one was opened
                return
            if not session.asking:
                with suppress(UserError):  # its file is gone
                    yield await asyncio.to_thread(self.shown, sent, history, entry.key)
            raise

    async def _heard(self, sent: Updates, history: History, entry: Entry, heard: Heard) -> Updates:
        if heard.turn is None:
            return {self.coming: chat_view.coming(heard.text or ""), self.status: line(heard.line)}
        whole = await asyncio.to_thread(self.shown, sent, history, entry.key)
        told = {self.status: line(heard.line, heard.problem), self.shell.live: said(sentence(heard.turn))}
        return {**whole, **told, **self.buttons(False)}

    async def guarded(self, sent: Updates, states: AsyncGenerator[Updates, None]) -> AsyncGenerator[Updates, None]:
        """What is yielded; and whatever goes wrong, as a line of the pane."""
        try:
            async with aclosing(states):
                async for now in states:
                    yield now
            if not sent[self.state].asking:
                yield self.buttons(False)
        except UserError as error:
            ended: Updates = {} if sent[self.state].asking else {**self.buttons(False), self.coming: ""}
            yield {self.status: line(error, True), self.shell.live: said(error), **ended}
        except Exception as error:  # a bug: its traceback is for the terminal, the page goes on
            traceback.print_exc(file=sys.stderr)
            failed = f"That failed ({type(error).__name__}). The terminal tells more."
            yield {self.status: line(failed, True), self.coming: "", **self.buttons(False)}


def add_chat(shell: Shell) -> None:
    """Put the pane's components into the Blocks that are being built, and connect them."""
    import gradio as gr

    pane = Pane(shell)
    controls = pane.controls

    async def ask(sent: Updates, request: gr.Request) -> Any:
        async with aclosing(pane.guarded(sent, pane.ask(sent, request))) as states:
            async for now in states:
                yield now

    async def press(sent: Updates, event: gr.EventData, request: gr.Request) -> Any:
        async with aclosing(pane.guarded(sent, pane.press(sent, event._data, request))) as states:
            async for now in states:
                yield now

    def begin_anew(sent: Updates, request: gr.Request) -> Updates:
        sent[pane.state].begin_anew()
        return {**pane.shown(sent, pane.history(request), sent[controls.model]), pane.status: ""}

    def find(sent: Updates, request: gr.Request) -> Updates:
        search = sent[pane.search] or ""
        found = pane.history(request).listed(search)
        return {pane.listing: chat_view.conversations(found, sent[pane.state].chat, search)}

    def save(session: Session, event: gr.EventData, request: gr.Request) -> Updates:
        try:
            kind = event._data.get("act") if isinstance(event._data, dict) else None
            return {pane.file: download(pane.history(request).read(session.chat), session.leaf, kind)}
        except UserError as error:
            return {pane.file: "", pane.status: line(error, True)}

    def load(sent: Updates, request: gr.Request) -> Updates:
        wanted = asked(request)
        session, history = sent[pane.state], pane.history(request)
        extra: Updates = {}
        mine = wanted.get("tab", "chat") == "chat"  # the address tells another pane's state otherwise
        if mine and wanted.get("chat"):
            try:
                session.opened(history.read(wanted["chat"]))
                extra = pane.settings_of(session, history)
            except UserError as error:
                extra = {pane.status: line(error, True)}
        model = extra.get(controls.model, wanted.get("model") if mine else None)
        offered = controls.choices(model)
        if model is None:  # the settings are there already, and somebody may have changed one
            offered = {controls.model: offered[controls.model]}
        shown = pane.shown(sent, history, "")
        shown.pop(shell.address)
        return {**shown, **offered, **extra, controls.model: offered[controls.model]}

    sent = {*controls.inputs, pane.state, pane.box, pane.search}
    whole = [pane.head, pane.view, pane.coming, pane.listing, pane.status, shell.address]
    streamed = [*whole, *controls.outputs, pane.box, pane.send, pane.stop, shell.live]
    gr.on([pane.send.click, pane.box.submit], ask, sent, streamed, **STREAMING)
    pressed = [pane.head.click, pane.view.click, pane.listing.click]
    gr.on(pressed, press, sent, streamed, trigger_mode="multiple", **STREAMING)  # also while an answer comes
    gr.on([pane.send.click, pane.new.click], None, js=chat_view.FOCUS)
    pane.stop.click(lambda session: session.stop(), [pane.state], None, **QUICK)
    pane.new.click(begin_anew, sent, whole, **QUICK)
    pane.search.input(find, sent, [pane.listing], trigger_mode="always_last", **QUICK)
    pane.head.select(save, [pane.state], [pane.file, pane.status], **QUICK)
    pane.file.change(None, [pane.file], None, js=DOWNLOAD)
    shell.blocks.load(load, sent, [*whole, *controls.outputs], **shell.loading)
    controls.connect(pane.status)
