"""A conversation with the model of the command line: answers as they come, Stop, and Clear.

The conversation is kept on the server; the browser sends one question at a time and shows what it is given. All
that a model says is text: nothing of it is markup, and what cannot be seen is spelled out.
"""

import asyncio
import sys
import traceback
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing, suppress
from dataclasses import dataclass, field, replace
from html import escape
from typing import Any

from workbench.chatting import Answer, Speaker
from workbench.conversation import Conversation, Turn
from workbench.decodes import Sampling
from workbench.engines import open_engine
from workbench.inert import is_utf8, visible

MAX_QUESTION = 100_000
"""Characters of a question. The model's context is shorter or says so itself."""

_PAUSE = 0.05  # seconds between two updates of the page

CSS = """
#talk .message, #talk .message * { white-space: pre-wrap; overflow-wrap: anywhere; }
"""


@dataclass
class Talk:
    """What one browser session has: its conversation, and the answer that is on its way."""

    conversation: Conversation = field(default_factory=Conversation)
    answer: Answer | None = None


def refusal(question: object, talk: Talk) -> str:
    """Why a question is not asked, or nothing. The browser's own limits bind nobody."""
    if talk.answer is not None:
        return "An answer is on its way. Stop it, or wait."
    if not isinstance(question, str) or not question.strip():
        return "Type a question first."
    if len(question) > MAX_QUESTION:
        return f"The question has {len(question):,} characters; {MAX_QUESTION:,} can be asked."
    if not is_utf8(question):
        return "The question holds half a character (a lone surrogate), which no model can read."
    return ""


def messages(turns: list[Turn]) -> list[dict[str, Any]]:
    """The conversation as the Chatbot takes it."""
    shown = []
    for turn in turns:
        shown.append(_message("user", turn.question))
        shown.append(_message("assistant", turn.answer + (" ⟨stopped⟩" if turn.end == "stopped" else "")))
    return shown


def told(turn: Turn, kept: bool) -> str:
    """A line on how an answer ended."""
    if turn.end == "error":
        return f"The answer failed and is not part of the conversation: {turn.error}"
    if not kept:
        return "Nothing came, so the question is not kept."
    if turn.end == "stopped":
        return f"Stopped after {turn.seconds:.1f} s; what came is kept."
    speed = f"{turn.completion_tokens:,} tokens, {turn.completion_tokens / max(turn.seconds, 1e-9):.1f} tokens/s"
    return f"{speed}; cut off at the longest answer or the context's end." if turn.end == "length" else speed


@dataclass(frozen=True)
class Shown:
    """What the pane shows now.

    Attributes:
        line: how the answer is doing, or why there is none.
        turns: the conversation; None leaves what is shown.
        busy: whether an answer is on its way.
        taken: whether the question has just been taken, so that the next one can be typed.
    """

    line: str
    turns: list[Turn] | None
    busy: bool
    taken: bool = False


async def answered(question: Any, talk: Talk, speaker: Speaker) -> AsyncGenerator[Shown, None]:
    """Ask a question, and tell what is to be shown as the answer comes. Closing the iterator stops the answer."""
    if problem := refusal(question, talk):
        yield Shown(problem, None, talk.answer is not None)
        return
    conversation, loop = talk.conversation, asyncio.get_running_loop()
    pieces: asyncio.Queue[str | None] = asyncio.Queue()

    def hear(piece: str | None) -> None:
        with suppress(RuntimeError):  # the server has ended
            loop.call_soon_threadsafe(pieces.put_nowait, piece)

    answer = talk.answer = speaker.answer(conversation.ask(question), hear)
    answer.start()
    said = Turn(question, "", "stop")
    try:
        yield Shown("…", [*conversation.turns, said], True, taken=True)
        while (piece := await pieces.get()) is not None:
            said = replace(said, answer=said.answer + piece)
            if pieces.empty():
                yield Shown("…", [*conversation.turns, said], True)
                await asyncio.sleep(_PAUSE)
    finally:  # also when the browser has gone
        answer.stop()
        talk.answer = None
    try:
        turn = answer.turn()
    except Exception as error:  # a bug: its traceback is for the terminal, the page goes on
        traceback.print_exc(file=sys.stderr)
        turn = replace(said, end="error", error=f"{type(error).__name__}: {error}")
    kept = conversation.keep(turn)
    if talk.conversation is conversation:
        yield Shown(told(turn, kept), conversation.turns, False)
    else:  # it was cleared meanwhile
        yield Shown("", talk.conversation.turns, False)  # an update of the old one may have come after the clear


def _message(role: str, text: str) -> dict[str, Any]:
    # A block, because of a plain string Gradio takes the indentation away; escaped, because without Markdown too
    # it makes HTML of what is left after sanitizing.
    return {"role": role, "content": [{"type": "text", "text": escape(visible(text), quote=False)}]}


def _line(text: str) -> str:
    return f"<p>{escape(visible(text))}</p>" if text else ""


def add_chat(shell: Any) -> None:
    """Put the pane's components into the Blocks that are being built, and connect them."""
    import gradio as gr

    entry = shell.catalogue.entries()[0]
    system_prompt, name = None, entry.label
    speaker = Speaker(lambda: open_engine(entry.model, entry.engine), Sampling())
    state = gr.State(Talk(Conversation(system_prompt)))
    gr.HTML(f"<p>Model: <code>{escape(visible(name))}</code></p>", elem_classes=["pane"], js_on_load=None)
    view = gr.Chatbot(
        elem_id="talk",
        label="Conversation",
        height=460,
        buttons=[],
        feedback_options=None,
        latex_delimiters=[],
        render_markdown=False,
        sanitize_html=True,
        allow_tags=False,
        allow_file_downloads=False,
        group_consecutive_messages=False,
        placeholder="The model is loaded when you send the first question.",
    )
    line = gr.HTML(elem_id="line", elem_classes=["pane"], js_on_load=None)
    box = gr.Textbox(elem_id="question", label="Question", max_lines=8, max_length=MAX_QUESTION)
    with gr.Row():
        send = gr.Button("Send", elem_id="send", variant="primary", min_width=90)
        stop = gr.Button("Stop", elem_id="stop", interactive=False, min_width=90)
        clear = gr.Button("Clear", elem_id="clear", min_width=90)

    async def ask(question: Any, talk: Talk) -> AsyncIterator[dict[Any, Any]]:
        async with aclosing(answered(question, talk, speaker)) as states:
            async for now in states:
                yield {
                    line: _line(now.line),
                    send: gr.Button(interactive=not now.busy),
                    stop: gr.Button(interactive=now.busy),
                    **({} if now.turns is None else {view: messages(now.turns)}),
                    **({box: ""} if now.taken else {}),
                }

    def end(talk: Talk) -> None:
        if talk.answer is not None:
            talk.answer.stop()

    def begin_anew(talk: Talk) -> dict[Any, Any]:
        end(talk)
        talk.conversation = Conversation(system_prompt, asked=talk.conversation.asked)
        return {view: [], line: ""}

    quick: dict[str, Any] = {"api_visibility": "private", "concurrency_limit": 16, "show_progress": "hidden"}
    # More than the model answers at once: those that wait can be stopped too.
    gr.on([send.click, box.submit], ask, [box, state], [box, line, view, send, stop], **quick)
    stop.click(end, [state], None, **quick)
    # The Chatbot has a button of its own, which would clear the browser's view alone.
    gr.on([clear.click, view.clear], begin_anew, [state], [view, line], **quick)
