"""The chat pane's logic: what is asked, kept, branched, exported and refused."""

import asyncio
import base64
import copy
import itertools
import json
import math
import re
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import aclosing
from dataclasses import replace
from html import unescape
from pathlib import Path
from typing import Any

import pytest
from test_report import HOSTILE

from workbench.catalogue import Catalogue
from workbench.conversation import Turn
from workbench.decodes import Greedy, Majority, Sample, Sampling
from workbench.engines import EngineConfig
from workbench.engines.base import Piece
from workbench.engines.fake import FakeEngine
from workbench.errors import UserError
from workbench.history import Chat, History
from workbench.identity import system_hash
from workbench.lending import Lender
from workbench.model_flags import ModelFlags
from workbench.prompts import load_prompt, prompts_of
from workbench.runs import Run
from workbench.tasks.rows import iterate_rows, turns_field
from workbench.types import Completion, Example, Finish, Message, Model, Prompt, Request, Shots, System
from workbench.ui import chat_view
from workbench.ui.chat_asking import Heard, answered, messages
from workbench.ui.chat_desk import Session, act, asked, asked_again, asked_instead, download
from workbench.ui.chat_settings import NONE, OWN, SLOTS, START, Settings, checked, own_variables, restored, sampled
from workbench.ui.shell import MAX_TEXT
from workbench.ui.token_words import counted, speed

FLAGS = ModelFlags(model="fake", engine=EngineConfig("fake"))


class Paced(FakeEngine):
    """Does what the question says (`long`, `ten words`, `hostile`, `fail`, `bug`, `silence`), else an echo."""

    def __init__(self) -> None:
        super().__init__(Model("fake"))
        self.seen: list[tuple[str, ...]] = []
        self.drawn: list[Sampling] = []
        self.ended = threading.Event()

    def stream(self, request: Request, sampling: Sampling) -> Iterator[str | Completion]:
        said = tuple(message.content for message in request.messages)
        self.seen.append(said)
        self.drawn.append(sampling)
        self.ended.clear()
        try:
            for count in itertools.count(1) if said[-1] == "long" else ():
                yield Piece("word ", count)
                time.sleep(0.01)
            if said[-1] == "bug":
                raise ZeroDivisionError("a bug")
            if said[-1] == "fail":
                yield "half"
                yield Completion(0, "half", finish=Finish.ERROR, error="the connection was cut")
                return
            if said[-1] == "ten words":
                for _ in range(10):
                    yield "word "
                    time.sleep(0.02)
                yield Completion(0, "word " * 10, 3, 10)
                return
            text = {"hostile": HOSTILE, "silence": ""}.get(said[-1], f"echo {said[-1]} {request.indices[0]}")
            yield text
            yield Completion(0, text, 3, 2)
        finally:
            self.ended.set()


class Desk:
    """One visitor's tab, a lender of one engine, and what they need to ask."""

    def __init__(self, folder: Path, open: Callable[..., Any] | None = None) -> None:
        self.engine = Paced()
        self.lender = Lender(open=open or (lambda model, config: self.engine))
        self.entry = Catalogue(FLAGS, runs=folder / "runs").entries()[0]
        self.history, self.session = History(folder / "chats"), Session()

    def settings(self, **changes: Any) -> Settings:
        return replace(Settings(self.entry.key), **changes)

    def hear(self, id: str, **changes: Any) -> list[Heard]:
        async def whole() -> list[Heard]:
            told = self.settings(**changes)
            states = answered(self.lender, self.entry, told, self.history, self.session, id)
            return [heard async for heard in states]

        return asyncio.run(whole())

    def ask(self, words: object, **changes: Any) -> list[Heard]:
        return self.hear(asked(self.session, self.history, words), **changes)

    @property
    def chat(self) -> Chat:
        return self.history.read(self.session.chat)

    def texts(self) -> list[str]:
        return [node.text for node in self.chat.branch(self.session.leaf)]


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    return Desk(tmp_path)


# --- asking -------------------------------------------------------------------------------------------


def test_an_answer_comes_and_is_kept(desk: Desk) -> None:
    first, *_, last = desk.ask("one")
    assert (first.line, first.text) == ("Loading the model…", "")
    assert last.text is None and last.line.startswith("3 + 2 tokens (prompt + answer)") and last.turn
    assert desk.texts() == ["one", "echo one 0"]
    waiting, *_ = desk.ask("two")
    assert waiting.line == "Waiting for the first word…", "it is loaded by now"
    assert desk.engine.seen[-1] == ("one", "echo one 0", "two")
    assert desk.chat.name == "one" and desk.chat.leaf == desk.session.leaf
    node = desk.chat.message(desk.session.leaf)
    assert (node.model, node.prompt_tokens, node.completion_tokens, node.end) == ("fake", 3, 2, "stop")


def test_the_hash_is_that_of_the_system_that_answered(desk: Desk) -> None:
    desk.ask("one", system_prompt="Say {{ x }}.", sampling=Sampling(0.5, 0.9, 7, 30, seed=3))
    prompt = desk.settings(system_prompt="Say {{ x }}.").prompt(desk.entry)
    assert messages(prompt, [], "q")[0] == Message("system", "Say {{ x }}."), "braces are no template"
    assert desk.engine.seen[-1] == ("Say {{ x }}.", "one")
    expected = system_hash(System(Model("fake"), prompt, Sample(1, 0.5, 0.9, 7, 30, 3)))
    assert desk.chat.message(desk.session.leaf).system == expected
    desk.ask("two", sampling=Sampling(0.0, max_tokens=9))
    greedy = system_hash(System(Model("fake"), desk.settings().prompt(desk.entry), Greedy(9)))
    assert desk.chat.message(desk.session.leaf).system == greedy
    assert desk.engine.drawn[-1] == Sampling(0.0, max_tokens=9)


@pytest.mark.parametrize("ending", ["stop", "gone", "another"])
def test_stop_ends_the_generation_within_a_second(desk: Desk, ending: str) -> None:
    id = asked(desk.session, desk.history, "long")
    mine = desk.session.chat

    async def hear() -> list[Heard]:
        shown = []
        states = answered(desk.lender, desk.entry, desk.settings(), desk.history, desk.session, id)
        async with aclosing(states):
            async for heard in states:
                shown.append(heard)
                if heard.text and len(shown) == 4:
                    if ending == "gone":
                        break
                    if ending == "another":
                        desk.session.begin_anew()
                    desk.session.talk.stop()
        return shown

    before = time.monotonic()
    *states, last = asyncio.run(hear())
    assert desk.engine.ended.wait(1) and time.monotonic() - before < 2
    assert not desk.session.talk.busy
    *_, node = desk.history.read(mine).branch()
    assert node.end == "stopped" and node.text.startswith("word word ") and node.seconds > 0
    assert (node.prompt_tokens, node.completion_tokens) == (0, node.text.count("word"))
    assert desk.session.leaf == ("" if ending == "another" else node.id)
    if ending == "stop":
        assert re.fullmatch(rf"Stopped .* s and {node.completion_tokens} tokens; what came is kept\.", last.line)
    assert re.search(r"Answering… \d+\.\d s, \d+ tokens, \d+\.\d tokens/s", " ".join(now.line for now in states))


def test_a_failure_and_a_bug_are_told_and_not_sent_to_the_model(
    desk: Desk, capsys: pytest.CaptureFixture[str]
) -> None:
    failed = desk.ask("fail")[-1]
    assert failed.problem and "the connection was cut" in failed.line
    assert "ZeroDivisionError: a bug" in desk.ask("bug")[-1].line
    assert "Traceback" in capsys.readouterr().err
    empty = desk.ask("silence")[-1]
    assert empty.problem and empty.line == "Nothing came. Try again, or ask something else."
    assert desk.texts() == ["silence"], "versions of the first question, none of them answered"
    assert [node.text for node in desk.chat.siblings(desk.session.leaf)] == ["fail", "bug", "silence"]
    desk.ask("one")
    assert desk.engine.seen[-1] == ("one",)
    again = asked_again(desk.session, desk.history, next(iter(desk.chat.nodes)))
    assert desk.chat.message(again).text == "fail"


def test_a_model_that_cannot_be_had_is_said(tmp_path: Path) -> None:
    def none(model: Any, config: Any) -> FakeEngine:
        raise UserError("There is no model 'x'.")

    heard = Desk(tmp_path, none).ask("one")[-1]
    assert heard.line == "The answer failed and is not part of the conversation: There is no model 'x'."


def test_the_speed_leaves_out_what_came_before_the_first_word(tmp_path: Path) -> None:
    def slow(model: Any, config: Any) -> FakeEngine:
        time.sleep(1)
        return desk.engine

    desk = Desk(tmp_path, slow)
    last = desk.ask("ten words")[-1]
    node = desk.chat.message(desk.session.leaf)
    assert 1 <= node.waited < node.seconds - 0.1
    told = re.search(r", ([\d.]+) tokens/s$", last.line)
    assert told and 10 < float(told[1]) < 60, "with the second of loading it would be 8"
    assert f"{told[1]} tokens/s" in chat_view.messages(desk.chat, node.id, False)
    assert "tokens/s" not in desk.ask("one")[-1].line, "it came at once, which is no speed"


def test_the_speed_is_that_of_the_tokens_behind_the_first() -> None:
    assert speed(11, 2.0) == "5.0 tokens/s", "what was waited for ended with the first"
    assert speed(22, 2.0, first=2) == "10.0 tokens/s"
    assert speed(1, 2.0) == speed(11, 0.001) == ""
    assert (counted(1), counted(1200)) == ("1 token", "1,200 tokens")


def test_the_context_is_not_asked_for_on_the_event_loop(desk: Desk) -> None:
    class Asks(Paced):
        @property  # type: ignore[override]
        def context(self) -> int:
            asked_in.append(threading.current_thread())
            return 100

    asked_in: list[threading.Thread] = []
    desk.engine = Asks()
    for words in ("one", "two"):
        desk.ask(words, sampling=Sampling(max_tokens=9))
    assert asked_in and threading.main_thread() not in asked_in


def test_stop_while_exemplars_wait_for_the_models_turn(tmp_path: Path) -> None:
    prompt = replace(load_prompt("question"), shots=Shots((Example.make("zero?", "0"),), 1))
    assert prompt.shot
    desk = Desk(tmp_path)
    desk.entry = replace(
        desk.entry, system=System(Model("fake"), prompt, Greedy()), engine=EngineConfig("hf")
    )  # one answer at a time

    async def hear() -> list[Heard]:
        id, shown = asked(desk.session, desk.history, "one?"), []
        states = answered(desk.lender, desk.entry, desk.settings(persona=OWN), desk.history, desk.session, id)
        asyncio.get_running_loop().call_later(0.3, desk.session.stop)
        async for heard in states:
            shown.append(heard)
        return shown

    with desk.lender.lent(desk.entry) as speaker, speaker.working(), desk.session.answering():
        before = time.monotonic()
        assert asyncio.run(hear())[-1].line == "Stopped before it began."
        assert time.monotonic() - before < 2
    assert desk.engine.seen == []


def test_the_longest_answer_is_held_against_the_context(desk: Desk) -> None:
    desk.engine.context = 100
    desk.ask("one", sampling=Sampling(max_tokens=500))
    assert desk.engine.drawn[-1].max_tokens == 99, "before it is loaded nobody knows its context"
    with pytest.raises(UserError, match=r"max_tokens is 500; it must be a number in \[1, 100\]"):
        desk.ask("two", sampling=Sampling(max_tokens=500))


def test_one_answer_at_a_time_and_stop_before_it_began(desk: Desk) -> None:
    with desk.session.answering():
        for data in ({"act": "answer"}, {"act": "earlier"}, {"act": "later"}):
            with pytest.raises(UserError, match="on its way"):
                act(desk.session, desk.history, data)
        with pytest.raises(UserError, match="on its way"), desk.session.answering():
            pass
        id = asked(desk.session, desk.history, "one")
        desk.session.stop()
        assert desk.hear(id)[-1].line == "Stopped before it began." and desk.engine.seen == []
    desk.session.check_idle()


def test_a_conversation_deleted_meanwhile_stays_deleted(desk: Desk) -> None:
    id = asked(desk.session, desk.history, "one")
    desk.history.delete(desk.session.chat)
    with pytest.raises(UserError, match="not among yours"):
        desk.hear(id)


# --- branches -----------------------------------------------------------------------------------------


def test_another_answer_is_another_sample_beside_the_first(desk: Desk) -> None:
    desk.ask("one")
    desk.ask("two")
    first = desk.chat.branch(desk.session.leaf)[1].id
    desk.hear(asked_again(desk.session, desk.history, first))
    assert desk.texts() == ["one", "echo one 1"]
    act(desk.session, desk.history, {"act": "earlier", "id": desk.session.leaf})
    assert desk.texts() == ["one", "echo one 0", "two", "echo two 0"]
    act(desk.session, desk.history, {"act": "later", "id": first})
    assert desk.texts() == ["one", "echo one 1"] and desk.chat.leaf == desk.session.leaf


def test_either_side_is_edited_into_a_branch_of_its_own(desk: Desk) -> None:
    desk.ask("one")
    desk.ask("two")
    question, answer, *_ = desk.chat.branch(desk.session.leaf)
    desk.hear(asked_instead(desk.session, desk.history, question.id, "uno"))
    assert desk.texts() == ["uno", "echo uno 0"] and desk.engine.seen[-1] == ("uno",)
    act(desk.session, desk.history, {"act": "earlier", "id": desk.chat.branch(desk.session.leaf)[0].id})
    assert desk.texts() == ["one", "echo one 0", "two", "echo two 0"]
    act(desk.session, desk.history, {"act": "answer", "id": answer.id, "text": "  mine\t"})
    assert desk.texts() == ["one", "  mine\t"]
    desk.ask("and?")
    assert desk.engine.seen[-1] == ("one", "  mine\t", "and?")
    assert len(desk.chat.nodes) == 9 and desk.chat.siblings(answer.id)[1].edited


def test_what_buttons_may_not_say(desk: Desk) -> None:
    desk.ask("one")
    question, answer = desk.chat.branch(desk.session.leaf)
    before = desk.chat
    for data in (
        {}, {"act": "drop"}, {"act": ["open"]}, {"act": "open", "id": "../x"}, {"act": "open", "id": None},
        {"act": "answer", "id": question.id, "text": "x"}, {"act": "answer", "id": answer.id},
        {"act": "answer", "id": answer.id, "text": ""}, {"act": "answer", "id": answer.id, "text": "\ud800"},
        {"act": "answer", "id": answer.id, "text": "x" * (MAX_TEXT + 1)}, {"act": "earlier", "id": answer.id},
        {"act": "later", "id": {}}, {"act": "rename", "text": " "}, {"act": "rename", "text": 1},
    ):  # fmt: skip
        with pytest.raises(UserError):
            act(desk.session, desk.history, data)
    for id, words in ((answer.id, "x"), ("", "x"), (question.id, " "), (question.id, None)):
        with pytest.raises(UserError):
            asked_instead(desk.session, desk.history, id, words)
    assert desk.chat == before


def test_names_are_given_and_conversations_are_opened_and_deleted(desk: Desk) -> None:
    desk.ask("one")
    first = desk.session.chat
    act(desk.session, desk.history, {"act": "rename", "text": "Numbers"})
    assert desk.chat.name == "Numbers"
    desk.session.begin_anew()
    desk.ask("other")
    act(desk.session, desk.history, {"act": "open", "id": first})
    assert desk.texts() == ["one", "echo one 0"]
    act(desk.session, desk.history, {"act": "delete"})
    assert desk.session.chat == "" and [one.name for one in desk.history.listed()] == ["other"]


def test_a_session_can_be_copied() -> None:
    assert copy.deepcopy(Session()).chat == ""  # as Gradio does for each browser


# --- prompts and settings -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("", "Type a question first."), (" \n", "Type a question first."), (None, "Type a question first."),
        (["a"], "Type a question first."), ("\ud800", "half a character"),
        ("x" * (MAX_TEXT + 1), f"The question has {MAX_TEXT + 1:,} characters; {MAX_TEXT:,} is the most."),
    ],
)  # fmt: skip
def test_what_is_not_asked(desk: Desk, words: object, said: str) -> None:
    with pytest.raises(UserError, match=said):
        desk.ask(words)
    assert desk.engine.seen == [] and desk.history.listed() == []


GOOD = (0.7, 0.9, 40.0, 512.0, 1.0)


@pytest.mark.parametrize(
    ("place", "value", "said"),
    [
        (0, math.nan, "temperature is nan"), (0, 2.1, r"temperature is 2.1; it must be a number in \[0, 2\]"),
        (0, -0.1, "temperature"), (0, None, "temperature"), (0, "1", "temperature"), (0, True, "temperature"),
        (1, 0, "top_p"), (1, 1.1, "top_p"), (1, math.nan, "top_p"),
        (2, -1, "top_k"), (2, 1.5, "top_k is 1.5; it must be a whole number"), (2, math.nan, "top_k"),
        (3, 0, "max_tokens"), (3, math.inf, "max_tokens"), (3, None, "max_tokens"),
        (4, -1, "seed"), (4, 2**53, "seed"), (4, math.nan, "seed"), (4, [1], "seed"),
    ],
)  # fmt: skip
def test_numbers_out_of_range_name_their_field(place: int, value: Any, said: str) -> None:
    values: list[Any] = list(GOOD)
    values[place] = value
    with pytest.raises(UserError, match=said):
        sampled(*values)
    assert sampled(*GOOD) == Sampling(0.7, 0.9, 40, 512, seed=1)


def test_settings_from_a_browser_are_checked(tmp_path: Path) -> None:
    catalogue = Catalogue(FLAGS, runs=tmp_path)
    key = catalogue.entries()[0].key
    entry, told = checked(catalogue, key, "tutor", "", ["a pirate", "", "unused"], GOOD)
    assert told.values == (("role", "a pirate"), ("level", "")) and entry.key == key
    for model, persona, system in (
        ("nobody", NONE, ""), (None, NONE, ""), (key, "arithmetic", ""), (key, "../x.yaml", ""), (key, None, ""),
        (key, ["tutor"], ""), (key, NONE, 5), (key, NONE, "\ud800"), (key, NONE, "x" * (MAX_TEXT + 1)),
    ):  # fmt: skip
        with pytest.raises(UserError):
            checked(catalogue, model, persona, system, ["", "", ""], GOOD)
    with pytest.raises(UserError, match="no prompt of its own"):
        Settings(key, OWN).prompt(entry)


def test_settings_are_kept_with_the_conversation(desk: Desk) -> None:
    told = desk.settings(persona="tutor", values=(("role", "a cook"),), sampling=replace(START, seed=9))
    desk.ask("one", persona="tutor", values=(("role", "a cook"),), sampling=replace(START, seed=9))
    assert restored(desk.chat.settings) == told
    with pytest.raises(UserError, match="damaged"):
        restored({"model": "x"})


def test_personas_fit_into_the_pane() -> None:
    assert len(prompts_of("persona")) >= 4
    for name in prompts_of("persona"):
        prompt = load_prompt(name)
        assert len(prompt.variables) - 1 == len(own_variables(name)) <= SLOTS
        assert all(value for _, value in own_variables(name)), "each has a default"
        assert prompt.style == "chat" and name not in (NONE, OWN)
    assert own_variables("arithmetic") == () == own_variables(NONE)


def test_a_persona_speaks_first_and_earlier_turns_follow(desk: Desk) -> None:
    for words in ("one", "two"):
        desk.ask(words, persona="tutor", values=(("role", "{{ input }}"), ("level", "a child")))
    system, *rest = desk.engine.seen[-1]
    assert system.startswith("You are {{ input }}. Explain so that a child can follow")
    assert rest == ["one", "echo one 0", "two"]
    assert desk.chat.message(desk.session.leaf).system_prompt == system


def test_every_question_is_put_as_the_prompt_puts_it() -> None:
    ask = Message("user", "Q: {{ input }}")
    prompt = Prompt(
        "p", (Message("system", "S"), ask, Message("assistant", "A:")), (ask, Message("assistant", "{{ target }}"))
    )
    said = messages(prompt, [Turn("one", " 1", "stop")], "two", [Example.make("zero", "0")])
    assert [(m.role, m.content) for m in said] == [
        ("system", "S"), ("user", "Q: zero"), ("assistant", "0"),
        ("user", "Q: one"), ("assistant", "A: 1"), ("user", "Q: two"), ("assistant", "A:"),
    ]  # fmt: skip
    plain = replace(prompt, style="text")
    assert "one" not in str(messages(plain, [Turn("one", " 1", "stop")], "two"))


def test_a_runs_own_system_is_asked_as_it_is(tmp_path: Path) -> None:
    prompt = replace(load_prompt("question"), shots=None)
    if prompt.shot:
        prompt = replace(prompt, shots=Shots((Example.make("zero?", "0"),), 1))
    with Run.open(tmp_path / "runs", "vote", {}, name="mine") as run:
        run.write_system(System(Model("fake"), prompt, Majority(8, 0.6)))
    desk = Desk(tmp_path)
    desk.entry = next(e for e in Catalogue(FLAGS, runs=tmp_path / "runs").entries() if e.kind == "run")
    desk.ask("one?", persona=OWN)
    seen = desk.engine.seen[-1]
    assert "one?" in seen[-1]
    if prompt.shot:
        assert "zero?" in " ".join(seen)


# --- what is shown and saved --------------------------------------------------------------------------


def test_texts_are_escaped_and_spelled_out(desk: Desk) -> None:
    desk.ask("hostile")
    desk.history.rename(desk.session.chat, HOSTILE[:30].strip())
    chat = desk.chat
    assert chat.branch()[-1].text == HOSTILE, "kept exactly"
    page = chat_view.messages(chat, chat.leaf, False) + chat_view.head(chat, chat.leaf)
    page += chat_view.conversations(desk.history.listed(), "", "") + chat_view.coming(HOSTILE)
    assert "<script" not in page and "<img" not in page and "⟨U+0000⟩" in page and "⟨U+D800⟩" in page
    page.encode()


def test_the_exact_text_is_there_for_edit_and_copy(desk: Desk) -> None:
    desk.ask("hostile")
    desk.history.rename(desk.session.chat, "so\u00adft")
    shown = chat_view.messages(desk.chat, desk.session.leaf, False) + chat_view.head(desk.chat, "")
    exact = [json.loads(unescape(told)) for told in re.findall(r'data-exact="([^"]*)"', shown)]
    assert exact == [HOSTILE, "so\u00adft"], "none for what is shown as it is"


def test_versions_are_counted_and_ends_disabled(desk: Desk) -> None:
    desk.ask("one")
    shown = chat_view.messages(desk.chat, desk.session.leaf, False)
    assert "Version" not in shown and "3 + 2 tokens" in shown and desk.chat.branch()[-1].system in shown
    desk.hear(asked_again(desk.session, desk.history, desk.session.leaf))
    shown = chat_view.messages(desk.chat, desk.session.leaf, False)
    assert 'aria-label="Version 2 of 2">2/2' in shown
    assert 'aria-label="Later version" disabled' in shown and 'aria-label="Earlier version">' in shown


def decoded(file: str) -> tuple[str, bytes]:
    told = json.loads(file)
    return told["name"], base64.b64decode(told["data"])


def test_a_branch_is_saved_exactly(desk: Desk) -> None:
    with pytest.raises(UserError, match="nothing to export"):
        download(Chat("0" * 16, "x"), "", "jsonl")
    desk.ask("hostile", system_prompt="Be\tbrief.")
    desk.ask("two", system_prompt="Be\tbrief.")
    name, data = decoded(download(desk.chat, desk.session.leaf, "jsonl"))
    assert name == "hostile.jsonl" and data.count(b"\n") == 1 and rb"\ud800" in data
    [*said, last] = json.loads(data)["messages"]
    assert said == [
        {"role": "system", "content": "Be\tbrief."}, {"role": "user", "content": "hostile"},
        {"role": "assistant", "content": HOSTILE, "finish": "stop", "tokens": 2},
        {"role": "user", "content": "two"},
    ]  # fmt: skip
    assert last["content"] == "echo two 0"
    name, data = decoded(download(desk.chat, desk.session.leaf, "markdown"))
    assert name == "hostile.md"
    assert data.startswith(
        b"# hostile\n\n## System prompt\n\nBe\tbrief.\n\n## Question\n\nhostile\n\n## Answer (fake, Sys"
    )
    assert HOSTILE.encode("utf-8", "backslashreplace") in data
    desk.history.rename(desk.session.chat, "../..\\a:b*ü")
    assert decoded(download(desk.chat, desk.session.leaf, "jsonl"))[0] == "a-b.jsonl"


def test_a_saved_row_is_one_that_tuning_reads(desk: Desk, tmp_path: Path) -> None:
    desk.ask("one")
    path = tmp_path / "chat.jsonl"
    path.write_bytes(decoded(download(desk.chat, desk.session.leaf, "jsonl"))[1])
    [turns] = [turns_field("c", number, row, "messages") for number, row in iterate_rows(str(path))]
    assert [turn.content for turn in turns] == ["one", "echo one 0"]
