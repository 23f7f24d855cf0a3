"""A chat's answers: what a model is asked, the answer as it comes, and how it is kept when it ends."""

import asyncio
import threading
import time
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing, suppress
from dataclasses import dataclass, replace

from workbench.catalogue import Entry
from workbench.comparing.drawing import working
from workbench.conversation import Turn
from workbench.engines.base import Engine
from workbench.errors import UserError, check_range
from workbench.exemplars import choose_fitting
from workbench.history import Chat, History, Node, new_id
from workbench.identity import system_hash
from workbench.lending import Lender
from workbench.prompts import render
from workbench.types import Example, Message, Prompt, Request, text_hash
from workbench.ui.chat_desk import Session
from workbench.ui.chat_settings import Settings
from workbench.ui.token_words import counted, speed


@dataclass(frozen=True)
class Heard:
    """What is to be shown of an answer.

    Attributes:
        line: how it is doing.
        text: what came so far; None when no answer is on its way any more.
        problem: whether `line` tells what went wrong.
        turn: the finished turn, once.
    """

    line: str
    text: str | None = None
    problem: bool = False
    turn: Turn | None = None


def messages(
    prompt: Prompt, said: Sequence[Turn], asked: str, exemplars: Sequence[Example] = ()
) -> tuple[Message, ...]:
    """What a model is sent: the prompt's beginning, each earlier question as the prompt puts it, the new one.

    A prompt of the style `text` has no turns: its question goes behind the exemplars and nothing else.
    """
    example = Example.make(asked, "")
    whole = render(prompt, example, exemplars)
    if prompt.style == "text":
        return whole
    out = list(whole[: len(whole) - len(_put(prompt, asked))])
    for turn in said:
        own = _put(prompt, turn.question)
        begun = own.pop().content if own[-1].role == "assistant" else ""  # the start that the answer went on with
        out += [*own, Message("assistant", begun + turn.answer)]
    return (*out, *_put(prompt, asked))


def _put(prompt: Prompt, asked: str) -> list[Message]:
    """One question as the prompt puts it, without what stands at the prompt's beginning."""
    out = list(render(prompt, Example.make(asked, "")))
    while len(out) > 1 and out[0].role == "system":
        out.pop(0)
    return out


async def answered(
    lender: Lender, entry: Entry, settings: Settings, history: History, session: Session, asked: str
) -> AsyncGenerator[Heard, None]:
    """The answer to a question of the session's conversation, kept in it as it ends.

    Args:
        asked: id of the question's message. The answer is one more beside those that it has.

    Raises:
        UserError: it cannot be asked so.
    """
    chat = history.read(session.chat)
    node = chat.message(asked, "user")
    loaded, context = await asyncio.to_thread(_held, lender, entry)
    if context is not None:
        check_range("max_tokens", settings.sampling.max_tokens, 1, context)
    yield Heard("Waiting for the first word…" if loaded else "Loading the model…", "")
    request, system_prompt = await _request(lender, entry, settings, chat, node, session)
    hashing = asyncio.ensure_future(asyncio.to_thread(system_hash, settings.system(entry)))
    sampling = replace(settings.sampling, stop=settings.prompt(entry).stop)
    if session.stopped:
        yield Heard("Stopped before it began.", problem=True, turn=Turn(node.text, "", "stopped"))
        return
    said, drawn_tokens, turn, saved = "", 0, None, False
    began, waited = time.monotonic(), 0.0

    def keep(turn: Turn, system: str) -> None:
        counts = (turn.prompt_tokens, turn.completion_tokens, turn.seconds, min(waited, turn.seconds))
        drawn = (entry.label, system, system_prompt, request.id, request.indices[0])
        answer = Node(new_id(), node.id, "assistant", turn.answer, turn.end, False, *drawn, *counts)
        history.add(chat.id, [answer], answer.id, settings.kept())
        if session.chat == chat.id:
            session.leaf = answer.id

    try:
        async with aclosing(session.talk.hear(lender, entry, request, sampling)) as pieces:
            async for heard in pieces:
                said, drawn_tokens, turn = heard.text, heard.tokens, heard.turn
                spent = time.monotonic() - began
                waited = waited or (spent if said else 0.0)
                if turn is None:
                    yield Heard(_so_far(drawn_tokens, spent, waited), said)
        assert turn is not None, "an answer ends with its turn"
        kept = turn.end != "error" and bool(turn.answer)
        if not hashing.done():  # who has pressed Stop does not wait for a model's file to be read
            yield Heard(told(turn, kept, waited), said)
        system = ""
        with suppress(UserError, OSError):  # a folder that is gone by now leaves its answer nameless
            system = await hashing
        saved = True
        if kept:
            keep(turn, system)
    finally:
        if not saved and said and (turn is None or turn.end != "error"):  # the browser has gone: what came is kept
            with suppress(UserError):  # unless the conversation was deleted
                spent = time.monotonic() - began
                keep(turn or Turn(node.text, said, "stopped", 0, drawn_tokens, spent), "")
    yield Heard(told(turn, kept, waited), problem=not kept, turn=turn)


def _held(lender: Lender, entry: Entry) -> tuple[bool, int | None]:
    """Whether a model is loaded, and its context where it is; a server may be asked for it. For a thread."""
    with lender.lent(entry) as speaker:
        return speaker.is_loaded, speaker.engine.context if speaker.is_loaded else None


async def _request(
    lender: Lender, entry: Entry, settings: Settings, chat: Chat, node: Node, session: Session
) -> tuple[Request, str | None]:
    """What is sent for a question, and the system prompt in it."""
    prompt = settings.prompt(entry)
    exemplars: tuple[Example, ...] = ()
    if prompt.shots is not None:
        room = settings.sampling.max_tokens

        def choose(engine: Engine) -> tuple[Example, ...]:
            [found], _ = choose_fitting(prompt, [Example.make(node.text, "")], engine, room)
            return found

        session.halt = halt = threading.Event()
        if session.stopped:
            halt.set()
        try:
            exemplars = await working(lender, entry, choose, halt)
        except UserError:
            if not session.stopped:
                raise
        finally:
            halt.set()  # also when the browser has gone
    sent = messages(prompt, chat.conversation(node.parent).turns, node.text, exemplars)
    id = text_hash("\0".join(f"{message.role}\0{message.content}" for message in sent))
    first = [message.content for message in sent if message.role == "system"]
    request = Request(id, sent, indices=(chat.next_index(id),), style=prompt.style)
    return request, "\n\n".join(first) if first else None


def _so_far(tokens: int, seconds: float, waited: float) -> str:
    """A line on an answer that is on its way, whose first piece came after `waited` seconds."""
    known = [counted(tokens), speed(tokens, seconds - waited)] if tokens else []
    return ", ".join(filter(None, [f"Answering… {seconds:.1f} s", *known]))


def told(turn: Turn, kept: bool, waited: float) -> str:
    """A line on how an answer ended, whose first piece came after `waited` of its seconds."""
    if turn.end == "error":
        return f"The answer failed and is not part of the conversation: {turn.error}"
    if not kept:
        return "Nothing came. Try again, or ask something else."
    if turn.end == "stopped":
        drawn = turn.completion_tokens
        came = counted(drawn) if drawn else f"{len(turn.answer):,} characters"
        return f"Stopped after {turn.seconds:.1f} s and {came}; what came is kept."
    tokens = f"{turn.prompt_tokens:,} + {counted(turn.completion_tokens)} (prompt + answer)"
    counts = ", ".join(filter(None, [tokens, speed(turn.completion_tokens, turn.seconds - waited)]))
    return f"{counts}; cut off at the longest answer or the context's end." if turn.end == "length" else counts
