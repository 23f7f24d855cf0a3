"""Comparisons without a page: settings and addresses, questions, votes, differences, tokens, samples that stop."""

import asyncio
import copy
import math
import threading
import time
from collections.abc import Iterator
from contextlib import aclosing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from test_report import HOSTILE

from workbench.catalogue import Catalogue, Entry
from workbench.comparing.board import Asked, Board, Pane
from workbench.comparing.drawing import Draw, Progress, working
from workbench.comparing.panes import (
    OWN,
    TEXT,
    Setting,
    prompts,
    read_field,
    run_decodes_otherwise,
    setting_for,
    setting_of,
    system_of,
)
from workbench.comparing.questions import offered, pick
from workbench.comparing.tokens import begun_anew, tokens_of
from workbench.comparing.votes import Verdict, judged, shown, tally
from workbench.comparing.words import MOST_WORDS, Difference, differences
from workbench.conversation import Turn
from workbench.decodes import BestOfN, EarlyMajority, Greedy, LabelLikelihood, Majority, Sample, Sampling
from workbench.engines import EngineConfig
from workbench.engines.base import Batch
from workbench.engines.fake import FakeEngine
from workbench.errors import UserError
from workbench.identity import system_hash
from workbench.lending import Lender
from workbench.model_flags import ModelFlags
from workbench.prompts import load_prompt
from workbench.tasks import load_task
from workbench.tasks.base import open_test
from workbench.types import Completion, Example, Finish, Message, Model, Request, System

ENTRY = Entry("key", "fake", Model("fake:0.6"), EngineConfig("fake"), "weights")


# --- settings and addresses -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("field", "value"),
    [
        *((name, x) for name in ("temperature", "n", "max_tokens") for x in (math.nan, math.inf, -1, None)),
        ("temperature", "warm"), ("temperature", 101), ("n", 0), ("n", 65), ("n", 2.5), ("n", True),
        ("max_tokens", 0), ("max_tokens", 4097), ("max_tokens", 1.5),
    ],
)  # fmt: skip
def test_a_number_that_is_none_is_refused_by_its_name(field: str, value: Any) -> None:
    values = {"temperature": 0.7, "n": 8, "max_tokens": 256, field: value}
    with pytest.raises(UserError, match=f"^{field} is "):
        setting_of(["key", "question", "vote", *values.values()])


def test_settings_of_the_wrong_kind_are_refused() -> None:
    for values in (
        [None, "question", "vote", 0.7, 8, 256],
        ["k", ["question"], "vote", 0.7, 8, 256],
        ["k", "question", "beam", 0.7, 8, 256],
        ["k", "question", {}, 0.7, 8, 256],
    ):
        with pytest.raises(UserError):
            setting_of(values)
    assert setting_of(["k", "question", "vote", 1, 8.0, 256.0]) == Setting("k", "question", "vote", 1, 8, 256)


@given(
    st.sampled_from(["greedy", "sample", "vote"]),
    st.integers(0, 1000).map(lambda i: i / 10),
    st.integers(1, 64),
    st.integers(1, 4096),
)
def test_a_setting_comes_back_from_its_address(way: Any, temperature: float, n: int, most: int) -> None:
    made = Setting("0123456789abcdef", "arithmetic-steps", way, min(temperature, 100.0), n, most)
    assert read_field(made.field()) == made


@pytest.mark.parametrize(
    "value",
    [
        "", "a", "~~~~~", "k~question~vote~nan~8~256", "k~question~vote~inf~8~256", "k~question~vote~0.7~0~256",
        "k~question~vote~0.7~8~999999999", "k~question~vote~0.7~8", "k~question~vote~0.7~8~256~more",
        "k~question~vote~0.7~x~256", "k~../../etc/passwd~vote~0.7~8~256", "<script>~question~vote~0.7~8~256",
        "k" * 10_000, "k~question~vote~0.7~" + "9" * 5000 + "~256", "k~question~vote~٠~8~256", HOSTILE,
    ],
)  # fmt: skip
def test_an_address_that_the_page_does_not_write_is_refused(value: str) -> None:
    with pytest.raises(UserError):
        read_field(value)


@pytest.fixture
def catalogue(tmp_path: Path) -> Catalogue:
    return Catalogue(ModelFlags(model="fake:0.6", engine=EngineConfig("fake")), ("fake:0.9",), runs=tmp_path)


def test_keys_and_prompts_that_are_not_offered_are_refused(catalogue: Catalogue) -> None:
    key = catalogue.entries()[0].key
    for setting in (
        Setting("0" * 16),
        Setting(""),
        Setting(key, "classify"),  # needs more than the question
        Setting(key, "prompts/question.yaml"),
        Setting(key, "../prompts/question.yaml"),
        Setting(key, OWN),
    ):
        with pytest.raises(UserError):
            system_of(setting, catalogue)
    assert "question" in prompts() and "tutor" in prompts()
    assert not {"classify", "judge-pair", "instruct"} & set(prompts())


def test_a_pane_is_the_system_that_a_recipe_would_make(catalogue: Catalogue) -> None:
    entry = catalogue.entries()[0]
    _, system = system_of(Setting(entry.key, "arithmetic", "vote", 0.7, 16, 100), catalogue)
    wanted = System(Model("fake:0.6"), load_prompt("arithmetic"), Majority(16, 0.7, max_tokens=100))
    assert system_hash(system) == system_hash(wanted)
    _, plain = system_of(Setting(entry.key, TEXT), catalogue)
    assert plain.prompt.style == "text"


def test_a_run_brings_its_own_prompt_and_decode(tmp_path: Path) -> None:
    made = System(Model("fake:0.9"), load_prompt("arithmetic-steps"), Majority(4, 0.9, max_tokens=77))
    catalogue = Catalogue(ModelFlags(model="fake:0.6", engine=EngineConfig("fake")), runs=tmp_path)
    entry = Entry("k", "a run", made.model, EngineConfig("fake"), "w", made, "run")
    setting = setting_for(entry)
    assert setting == Setting("k", OWN, "vote", 0.9, 4, 77)
    catalogue.find = lambda key: entry  # type: ignore[method-assign,assignment]
    assert system_hash(system_of(setting, catalogue)[1]) == system_hash(made)


@pytest.mark.parametrize(
    ("decode", "said"),
    [
        (Greedy(77), ""), (Greedy(), ""), (Majority(4, 0.9, max_tokens=77), ""), (Sample(1, 0.9), ""),
        (Sample(1, 0.9, top_p=0.8, top_k=5, seed=3), "top_p 0.8, top_k 5, seed 3"), (Majority(100), "n 100"),
        (Greedy(9999), "max_tokens 9999"), (Sample(3), "sample, n 3"), (EarlyMajority(), "early majority, n 16"),
        (LabelLikelihood(), "label likelihood"), (BestOfN(scorer="/a/path"), "best of n, n 16"),
    ],
)  # fmt: skip
def test_a_pane_says_where_it_decodes_otherwise_than_its_run(decode: Any, said: str) -> None:
    made = System(Model("fake:0.9"), load_prompt("arithmetic-steps"), decode)
    entry = Entry("k", "a run", made.model, EngineConfig("fake"), "w", made, "run")
    assert run_decodes_otherwise(entry, setting_for(entry).decode) == said
    assert run_decodes_otherwise(ENTRY, Setting("key").decode) == ""


# --- a task's question ------------------------------------------------------------------------------


def test_questions_are_those_of_dev_and_never_of_test() -> None:
    task = load_task("arithmetic", {"dev": "30"})
    closed = {example.id for example in open_test(task)}
    found = {pick("arithmetic", "dev=30", None).example.id for _ in range(100)}
    found |= {pick("arithmetic", "dev=30", number).example.id for number in range(1, 31)}
    assert found == {example.id for example in task.dev} and not found & closed
    assert pick("arithmetic", " operations=+   terms=3 ", 2.0).settings == "operations=+ terms=3"


@pytest.mark.parametrize(
    ("name", "settings", "number", "said"),
    [
        ("file", "path=/etc/passwd", 1, "no such task"), ("gym", "dataset=x", 1, "no such task"),
        ("../x.yaml", "", 1, "no such task"), (None, "", 1, "no such task"),
        (["arithmetic"], "", 1, "no such task"),
        ("gsm8k", "path=/etc", 1, "no setting"), ("phrasebank", "path=/etc/passwd", 1, "no setting"),
        ("arithmetic", "dev=1000000", 1, "dev is '1000000'"), ("arithmetic", "practice=-1", 1, "practice is"),
        ("arithmetic", "terms=nan", 1, "terms is 'nan'"), ("arithmetic", "'", 1, "cannot be read"),
        ("arithmetic", "x" * 501, 1, "501 characters"), ("arithmetic", "split=test", 1, "no setting"),
        *(("arithmetic", "", n, "number is") for n in (0, 101, math.nan, math.inf, 1.5, "1", True, [1])),
    ],
)  # fmt: skip
def test_what_cannot_be_picked(name: Any, settings: str, number: Any, said: str) -> None:
    with pytest.raises(UserError, match=said):
        pick(name, settings, number)


def test_tasks_that_read_a_file_of_ones_own_are_not_offered() -> None:
    assert offered() == ["arithmetic", "gsm8k", "phrasebank", "following"]


# --- votes ------------------------------------------------------------------------------------------


def test_a_vote_by_worked_numbers() -> None:
    verdicts = [
        Verdict("wrong", "13"), Verdict("correct", "12"), Verdict("correct", "12"), Verdict("truncated"),
        Verdict("error"), Verdict("unparsable"), Verdict("correct", "12"), Verdict("stopped"),
    ]  # fmt: skip
    vote = tally("q", verdicts)
    # Six of eight ended: 3 for 12, 1 for 13, 1 unparsable, 1 cut off. Failed and stopped ones are no answers.
    assert vote.ended == 6 and vote.winner == "12"
    assert [(b.answer, b.votes, b.share, b.kind) for b in vote.bars] == [
        ("12", 3, 0.5, "correct"),
        ("13", 1, 1 / 6, "wrong"),
    ]
    assert dict(vote.silent) == {"unparsable": 1, "truncated": 1, "stopped": 1, "error": 1}
    assert shown(verdicts, vote) == 1


def test_a_vote_of_nobody_and_a_tie() -> None:
    silent = [Verdict("error"), Verdict("truncated"), Verdict("unparsable")]
    vote = tally("q", silent)
    assert vote.winner is None and vote.bars == () and vote.ended == 2
    assert shown(silent, vote) == 1, "the first that ended"
    assert shown([Verdict("error")], tally("q", [Verdict("error")])) == 0
    tie = [Verdict("answer", "a"), Verdict("answer", "b")]
    assert tally("q", tie).winner == tally("q", tie[::-1]).winner, "whatever the order"
    assert tally("q", tie).bars[0].answer == tally("q", tie).winner


def test_a_sample_is_judged_by_its_task_or_by_its_text() -> None:
    task = load_task("arithmetic")
    example = Example.make("What is 7 + 8?", "15")
    turn = Turn("What is 7 + 8?", "The answer is 15.", "stop")
    assert judged(turn, example, task) == Verdict("correct", "15")
    assert judged(Turn("q", "It is 16", "stop"), example, task) == Verdict("wrong", "16")
    assert judged(Turn("q", "no idea", "stop"), example, task) == Verdict("unparsable")
    assert judged(Turn("q", "It is 15", "length"), example, task) == Verdict("truncated")
    assert judged(Turn("q", "It is 15", "stopped"), example, task) == Verdict("stopped")
    assert judged(Turn("q", "It is 15", "error", error="cut"), example, task) == Verdict("error")
    assert judged(Turn("q", " A\n b ", "stop"), example, None) == judged(Turn("q", "a B", "stop"), example, None)
    assert judged(Turn("q", " \n", "stop"), example, None) == Verdict("unparsable")


# --- differences ------------------------------------------------------------------------------------


def test_differences_by_words() -> None:
    assert differences("a b  c", "a x  c\n") == [
        Difference("a ", "a ", True),
        Difference("b  ", "x  ", False),
        Difference("c", "c\n", True),
    ]
    assert differences("", "new") == [Difference("", "new", False)]
    assert differences("a " * (MOST_WORDS + 1), "a") is None


@given(st.text("ab \n\t", max_size=40), st.text("ab \n\t", max_size=40))
def test_both_texts_are_in_their_differences_exactly(before: str, after: str) -> None:
    found = differences(before, after)
    assert found is not None
    assert "".join(part.before for part in found) == before
    assert "".join(part.after for part in found) == after
    assert all(part.before.split() == part.after.split() for part in found if part.same)


# --- samples that come and stop ---------------------------------------------------------------------


class Slow(FakeEngine):
    """Words without end for "long", an exception for "bug", a failed sample for "odd" ones; else as the fake."""

    def __init__(self) -> None:
        super().__init__(Model("fake:0.6"))
        self.running = 0
        self.idle = threading.Event()
        self._count = threading.Lock()

    def stream(self, request: Request, sampling: Sampling) -> Iterator[str | Completion]:
        question = request.messages[-1].content
        with self._count:
            self.running += 1
            self.idle.clear()
        try:
            while "long" in question:
                yield "word "
                time.sleep(0.01)
            if "bug" in question:
                raise ZeroDivisionError("a bug")
            if "odd" in question and request.indices[0] % 2:
                yield "half"
                yield Completion(request.indices[0], "half", finish=Finish.ERROR, error="the connection was cut")
                return
            yield from super().stream(request, sampling)
        finally:
            with self._count:
                self.running -= 1
                if not self.running:
                    self.idle.set()


def lending(engine: Any) -> Lender:
    return Lender(open=lambda model, config: engine)


def asked(question: str, samples: int = 1, entry: Entry = ENTRY, most: int = 64, heat: float = 0.7) -> Asked:
    decode = Majority(samples, heat, max_tokens=most) if samples > 1 else Greedy(most)
    example, task = Example.make(question, ""), None
    return Asked(entry, System(entry.model, load_prompt("question"), decode), samples, example, task)


async def everything(pane: Pane, lender: Lender, what: Asked, again: bool = False) -> list[Progress]:
    async with aclosing(pane.ask(lender, what, again)) as steps:
        return [step async for step in steps]


def test_eight_samples_vote_and_a_retry_draws_others() -> None:
    pane, lender = Pane(), lending(Slow())
    asyncio.run(everything(pane, lender, asked("What is 12 + 7?", 8)))
    first = pane.answered
    assert first is not None and len(first.turns) == 8 and first.vote.winner == "the answer is 19."
    assert first.text == "The answer is 19." and first.tokens == 32 and not first.stopped
    asyncio.run(everything(pane, lender, asked("What is 12 + 7?", 8), again=True))
    second = pane.answered
    assert second is not None
    assert [t.answer for t in second.turns] != [t.answer for t in first.turns]
    asyncio.run(everything(pane, lender, asked("What is 12 + 7?", 8)))
    assert pane.answered is not None
    assert [t.answer for t in pane.answered.turns] == [t.answer for t in first.turns], "asked anew, the same"


def test_failed_samples_are_counted_apart() -> None:
    pane = Pane()
    asyncio.run(everything(pane, lending(Slow()), asked("odd 12 + 7", 8)))
    assert pane.answered is not None
    vote = pane.answered.vote
    assert vote.ended == 4 and dict(vote.silent)["error"] == 4
    assert "half" not in [bar.answer for bar in vote.bars]


@pytest.mark.parametrize("samples", [1, 6])
def test_stop_ends_the_generation_within_a_second(samples: int) -> None:
    pane, engine = Pane(), Slow()

    async def session() -> None:
        async with aclosing(pane.ask(lending(engine), asked("long", samples))) as steps:
            async for step in steps:
                if step.turns is None:
                    pane.stop()

    before = time.monotonic()
    asyncio.run(session())
    assert engine.idle.wait(1) and time.monotonic() - before < 2
    assert pane.answered is not None and pane.answered.stopped and not pane.busy
    assert pane.answered.vote.winner is None, "what was stopped is no answer"
    assert pane.answered.turns[0].answer.startswith("word ")


def test_who_leaves_ends_the_generation() -> None:
    pane, engine = Pane(), Slow()

    async def session() -> None:
        async with aclosing(pane.ask(lending(engine), asked("long", 4))) as steps:
            async for _ in steps:
                break

    asyncio.run(session())
    assert engine.idle.wait(1) and not pane.busy


def test_one_pane_fails_and_the_others_finish(capsys: pytest.CaptureFixture[str]) -> None:
    board, lender = Board(), lending(Slow())

    async def session() -> None:
        questions = ("bug", "What is 1 + 1?", "What is 2 + 2?")
        await asyncio.gather(
            *(everything(pane, lender, asked(q)) for pane, q in zip(board.panes, questions, strict=False))
        )

    asyncio.run(session())
    failed, *others = [pane.answered for pane in board.panes[:3]]
    assert failed is not None and failed.turns[0].error == "ZeroDivisionError: a bug" and failed.vote.ended == 0
    assert all(one is not None and one.vote.ended == 1 for one in others)
    assert "Traceback" in capsys.readouterr().err


def test_one_question_at_a_time_in_a_pane() -> None:
    pane, lender = Pane(), lending(Slow())

    async def session() -> None:
        async with aclosing(pane.ask(lender, asked("long"))) as steps:
            await anext(steps)
            with pytest.raises(UserError, match="An answer is on its way"):
                await everything(pane, lender, asked("What is 1 + 1?"))
            assert pane.busy

    asyncio.run(session())
    assert not pane.busy


def test_what_cannot_be_lent_is_said_and_the_pane_is_free() -> None:
    def none(model: Any, config: Any) -> Any:
        raise UserError("There is no model 'x'.")

    pane = Pane()
    asyncio.run(everything(pane, Lender(open=none), asked("q", 3)))
    assert pane.answered is not None and {t.error for t in pane.answered.turns} == {"There is no model 'x'."}
    assert not pane.busy


def test_an_empty_board_can_be_copied() -> None:
    board = copy.deepcopy(Board())
    assert board.count == 2 and len(board.panes) == 4
    assert board.panes[0] is not Board().panes[0]


# --- the model in this process ----------------------------------------------------------------------


@pytest.fixture(scope="module")
def tiny(tiny_model: Path, one_thread: None) -> Any:
    from workbench.engines.hf import HfEngine

    return HfEngine(Model(str(tiny_model)), dtype="float32", device="cpu")


def inside(engine: Any) -> Entry:
    return Entry("tiny", "tiny", Model("tiny"), EngineConfig("hf"), "tiny")


def test_samples_of_a_batch_are_those_that_a_recipe_draws(tiny: Any) -> None:
    pane, entry = Pane(), inside(tiny)
    steps = asyncio.run(everything(pane, lending(tiny), asked("What is 12 plus 7?", 5, entry, 12)))
    assert pane.answered is not None and tiny.watch is None
    request = pane.answered.request
    [batch] = tiny.sample([request], Sampling(0.7, max_tokens=12))
    assert [c.text for _, c in batch] == [turn.answer for turn in pane.answered.turns]
    assert pane.answered.tokens == sum(c.completion_tokens for _, c in batch)
    assert steps[-1].turns is not None and steps[-1].ended == 5


def test_a_batch_stops_between_two_tokens(tiny: Any) -> None:
    draw, entry = Draw(), inside(tiny)
    request = Request("q", (Message("user", "What is 12 plus 7?"),), tuple(range(32)))
    lender = lending(tiny)

    async def session() -> Progress:
        async with aclosing(draw.hear(lender, entry, request, Sampling(5.0, max_tokens=400))) as steps:
            found = []
            async for step in steps:
                draw.stop()
                found.append(step)
        return found[-1]

    last = asyncio.run(session())
    assert last.turns is not None and len(last.turns) == 32
    stopped = [turn for turn in last.turns if turn.end == "stopped"]
    assert stopped and all(turn.completion_tokens < 400 for turn in stopped)
    before = time.monotonic()
    with lender.lent(entry) as speaker, speaker.working() as engine:  # its turn is free: the generation has ended
        assert engine.watch is None
    assert time.monotonic() - before < 1


class Stepped(FakeEngine):
    """A batch of which two samples have ended after the first token; a token takes 0.2 s."""

    watch: Any = None
    steps = 0

    def sample(self, requests: Any, sampling: Sampling) -> Iterator[Batch]:
        [request] = requests
        done = request.indices[:2]
        rows = [Row(i, [7], Finish.STOP if i in done else None) for i in request.indices]
        while self.steps < 20:
            time.sleep(0.2)
            self.steps += 1
            if not self.watch(rows):
                break
        yield [(request.id, Completion(i, f"sample {i}", 3, 1)) for i in done]


@dataclass
class Row:
    """A sample that is being drawn."""

    index: int
    tokens: list[int]
    finish: Finish | None


def test_samples_that_have_ended_are_kept_when_the_rest_is_stopped() -> None:
    pane, engine = Pane(), Stepped(Model("fake"))

    async def session() -> float:
        stopped = 0.0
        async with aclosing(pane.ask(lending(engine), asked("q", 8, inside(None)))) as steps:
            async for step in steps:
                if step.turns is None and step.ended == 2:
                    stopped = stopped or time.monotonic()
                    pane.stop()
        return time.monotonic() - stopped

    assert asyncio.run(session()) < 1 and engine.steps < 20
    assert pane.answered is not None
    assert [turn.end for turn in pane.answered.turns] == ["stop"] * 2 + ["stopped"] * 6
    assert [turn.answer for turn in pane.answered.turns[:2]] == ["sample 0", "sample 1"]


@pytest.mark.parametrize("loading", [True, False])
def test_who_waits_for_work_is_told_of_a_stop_at_once(loading: bool) -> None:
    stopped, go_on, begun = threading.Event(), threading.Event(), threading.Event()

    def blocked(*_: Any) -> FakeEngine:
        begun.set()
        go_on.wait(10)
        return FakeEngine(Model("fake"))

    lender = Lender(open=blocked) if loading else lending(FakeEngine(Model("fake")))
    ran: list[bool] = []
    work: Any = ran.append if loading else blocked

    async def session() -> float:
        waiting = asyncio.create_task(working(lender, ENTRY, work, stopped))
        await asyncio.to_thread(begun.wait, 5)
        before = time.monotonic()
        stopped.set()
        with pytest.raises(UserError, match=r"^Stopped"):
            await waiting
        return time.monotonic() - before

    assert asyncio.run(session()) < 0.5
    go_on.set()
    with lender.lent(ENTRY) as speaker, speaker.working():
        assert not ran, "what is stopped before it begins is not done"


def test_watch_leaves_out_what_has_not_ended(tiny: Any) -> None:
    request = Request("q", (Message("user", "Say."),), (0, 1, 2))
    seen: list[int] = []

    def watch(rows: Any) -> bool:
        seen.append(len(rows[0].tokens))
        return len(seen) < 4

    tiny.watch = watch
    try:
        [batch] = tiny.sample([request], Sampling(1.0, max_tokens=50))
    finally:
        tiny.watch = None
    assert seen == [1, 2, 3, 4]
    assert all(completion.finish is Finish.STOP for _, completion in batch), "only whole samples"


def test_tokens_joined_are_the_answer_and_their_alternatives_are_likely(tiny: Any) -> None:
    request = Request("q", (Message("user", "What is 12 plus 7?"),))
    [(_, drawn)] = next(tiny.sample([request], Sampling(0.0, max_tokens=12)))
    tokens = tokens_of(tiny, request, drawn.text)
    assert "".join(token.text for token in tokens) == drawn.text
    for token in tokens:
        assert len(token.alternatives) == 5
        chances = [other.probability for other in token.alternatives]
        assert chances == sorted(chances, reverse=True) and 0 < sum(chances) <= 1 + 1e-6
        assert 0 < token.probability <= chances[0] + 1e-6


@pytest.mark.parametrize("text", ["a 🙂 b", "naïve — café", "  two\n\ttab\n", "🙂🙂", "<|im_end|> is text"])
def test_characters_of_several_tokens_stay_whole(tiny: Any, text: str) -> None:
    tokens = tokens_of(tiny, Request("q", (Message("user", "Say."),)), text)
    assert "".join(token.text for token in tokens) == text
    assert "\ufffd" not in "".join(token.text for token in tokens)


def test_the_model_goes_on_from_an_alternative(tiny: Any) -> None:
    pane, entry, lender = Pane(), inside(tiny), lending(tiny)
    what = asked("What is 12 plus 7?", 1, entry, 10)

    async def session() -> str:
        await everything(pane, lender, what)
        await pane.score(lender)
        pane.token = 2
        choice = next(
            i for i, other in enumerate(pane.tokens[2].alternatives) if other.text != pane.tokens[2].text
        )
        begun = begun_anew(pane.tokens, 2, choice)
        async with aclosing(pane.go_on(lender, choice)) as steps:
            async for step in steps:
                assert step.text.startswith(begun)
        return begun

    begun = asyncio.run(session())
    assert pane.answered is not None and pane.answered.begun == begun and pane.answered.text.startswith(begun)
    asked_anew = Request("q", (Message("user", "What is 12 plus 7?"), Message("assistant", begun)))
    [(_, wanted)] = next(tiny.sample([asked_anew], Sampling(0.0, max_tokens=10)))
    assert pane.answered.text == begun + wanted.text
    assert pane.tokens == () and pane.token is None, "they were the old answer's"
    asyncio.run(pane.score(lender))
    assert "".join(token.text for token in pane.tokens) == pane.answered.text


def test_what_there_is_nothing_to_go_on_from(tiny: Any) -> None:
    pane = Pane()
    with pytest.raises(UserError, match="Choose a token"):
        asyncio.run(anext(pane.go_on(lending(tiny), 0)))
    tokens = tokens_of(tiny, Request("q", (Message("user", "Say."),)), "a b")
    for at, choice in ((-1, 0), (99, 0), (0, -1), (0, 5)):
        with pytest.raises(UserError, match="no such alternative"):
            begun_anew(tokens, at, choice)


def test_an_engine_that_cannot_tell_says_so() -> None:
    pane, lender = Pane(), lending(FakeEngine(Model("fake")))
    asyncio.run(everything(pane, lender, asked("What is 1 + 1?")))
    with pytest.raises(UserError, match="fake engine makes its probabilities up"):
        asyncio.run(pane.score(lender))


class Broken(FakeEngine):
    """A batch engine that dies."""

    def sample(self, requests: Any, sampling: Sampling) -> Iterator[Batch]:
        raise UserError("The server died.")


def test_a_batch_that_dies_is_samples_that_failed() -> None:
    pane = Pane()
    asyncio.run(everything(pane, lending(Broken(Model("fake"))), asked("q", 3, inside(None))))
    assert pane.answered is not None
    assert [turn.error for turn in pane.answered.turns] == ["The server died."] * 3
    assert pane.answered.vote.ended == 0
