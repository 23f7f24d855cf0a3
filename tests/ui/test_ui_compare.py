"""The compare pane over HTTP, as a browser asks it and as somebody would who forges what a browser sends."""

import json
import math
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from types import SimpleNamespace
from typing import Any, ClassVar

import httpx
import pytest
from clients import Client
from pages import free_port
from test_report import HOSTILE

from workbench.catalogue import Catalogue
from workbench.comparing.board import Board
from workbench.comparing.panes import Setting
from workbench.comparing.questions import pick
from workbench.conversation import Turn
from workbench.decodes import Sampling
from workbench.engines import EngineConfig
from workbench.engines.base import TokenScore, TokenScores
from workbench.engines.fake import FakeEngine
from workbench.lending import Lender
from workbench.model_flags import ModelFlags
from workbench.types import Completion, Model, Request
from workbench.ui.compare_setup import MOST_IN_ADDRESS, fields_of
from workbench.ui.compare_views import _took, alternatives, differing, spelled
from workbench.ui.shell import MAX_TEXT, Shell

pytestmark = pytest.mark.skipif(
    find_spec("gradio") is None, reason="needs gradio: pip install 'llm-workbench[ui]'"
)

FLAGS = ModelFlags(model="fake:0.1", engine=EngineConfig("fake"))
EVIL = f"  two\n\ttab {HOSTILE}${{document.title='owned'}}{{{{7*7}}}}"


class Told(FakeEngine):
    """Words without end for "long"; hostile text for "hostile"; the model fake:0.9 breaks at "break".

    Scoring the answer to "unscored" is a bug; that to "slowly" ends when `scored` is set.
    """

    seen: ClassVar[list[str]] = []
    idle = threading.Event()
    scoring = threading.Event()
    scored = threading.Event()

    def __init__(self, model: Model) -> None:
        super().__init__(model)
        self.base = model.base

    def stream(self, request: Request, sampling: Sampling) -> Iterator[str | Completion]:
        said = request.messages[-1].content
        self.seen.append(said)
        if "break" in said and self.base == "fake:0.9":
            raise ZeroDivisionError("a bug")
        if "hostile" in said:
            yield EVIL
            yield Completion(0, EVIL, 3, 2)
            return
        self.idle.clear()
        try:
            while "long" in said:
                yield f"{self.base} "
                time.sleep(0.01)
        finally:
            self.idle.set()
        yield from super().stream(request, sampling)

    def token_logprobs(
        self, requests: Sequence[Request], continuations: Sequence[str], top: int = 0
    ) -> Iterator[list[tuple[str, TokenScores]]]:
        said = requests[0].messages[-1].content
        if "unscored" in said and self.base == "fake:0.1":
            raise ZeroDivisionError("a bug")
        if "slowly" in said:
            self.scoring.set()
            self.scored.wait(5)
        tokens = tuple(TokenScore(ord(letter), -0.5) for letter in continuations[0])
        yield [(requests[0].id, TokenScores(tokens))]

    def detokenize(self, groups: Sequence[Sequence[int]]) -> list[str]:
        return ["".join(map(chr, group)) for group in groups]


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The pane behind the page's guard, in this process, so that what the engine sees is at hand."""
    import gradio as gr

    from workbench.ui.access import Access
    from workbench.ui.compare import add_compare
    from workbench.ui.server import serving

    runs = tmp_path_factory.mktemp("compare") / "runs"
    lender = Lender(open=lambda model, config: Told(model))  # type: ignore[arg-type]
    with gr.Blocks(analytics_enabled=False) as blocks:
        live, address = gr.HTML("", elem_id="live"), gr.Textbox("", elem_id="address")
        add_compare(Shell(blocks, live, address, Catalogue(FLAGS, ("fake:0.9",), runs=runs), lender, runs))
    port = free_port()
    with serving(blocks, Access(port=port)):
        yield f"http://127.0.0.1:{port}"


class Tab(Client):
    """One visitor's tab with a comparison in it; `address` is what stands behind the page's address."""

    def __init__(self, url: str, address: dict[str, str]) -> None:
        super().__init__(url)
        self.address = address

    def join(self, body: dict[str, Any]) -> httpx.Response:
        # By hand: NaN is no JSON, and somebody may send it.
        return self.http.post(
            "/gradio_api/queue/join",
            params=self.address,
            content=json.dumps(body),
            headers={"content-type": "application/json"},
        )

    def told(self, elem_id: str, event: str, values: dict[str, Any], data: Any = None) -> str:
        """All that the page says to an event."""
        return json.dumps(
            [told.get("output") for told in self.trigger(elem_id, event, values, data)], ensure_ascii=False
        )

    def ask(self, words: Any, pane: str = "a", **values: Any) -> str:
        """All that one pane says to a question."""
        return self.told(f"compare-{pane}-retry", "click", {"compare-question": words, **values})


@contextmanager
def tab(url: str, **address: str) -> Iterator[Tab]:
    with Tab(url, address) as opened:
        opened.load()
        yield opened


def ends(events: Iterator[dict[str, Any]]) -> str:
    """What each listener showed at last."""
    return json.dumps([one for one in events if one["msg"] == "process_completed"], ensure_ascii=False)


def value(visitor: Tab, elem_id: str) -> Any:
    return visitor.components[visitor.ids[elem_id]]["props"].get("value")


def test_ask_all_reaches_every_pane_and_the_address(url: str) -> None:
    with tab(url) as visitor:
        visitor.body("compare-ask", "click", {"compare-question": "What is 12 + 7?"})
        target = [visitor.ids["compare-ask"], "click"]
        [listener] = [one for one in visitor.config["dependencies"] if target in one["targets"]]
        assert visitor.join(visitor._body(listener, visitor.ids["compare-ask"], None)).status_code == 200
        said = json.dumps(list(visitor.events()))
        assert said.count("<div class=answer>The answer is ") >= 2, "two panes are shown"
        assert "q=What+is+12+%2B+7%3F" in said and f"a={value(visitor, 'compare-a-model')}~question~greedy" in said
        assert ": Answer finished, 4 tokens." in said


def test_one_pane_fails_and_says_why_and_the_other_finishes(url: str, capsys: pytest.CaptureFixture[str]) -> None:
    with tab(url) as visitor:
        values = {"compare-question": "break 12 + 7"}
        for pane in "ab":
            assert visitor.join(visitor.body(f"compare-{pane}-retry", "click", values)).status_code == 200
        said = ends(visitor.events())
    assert "<p class=problem>Failed: ZeroDivisionError: a bug</p>" in said
    assert said.count("<div class=answer>The answer is ") == 1 and "Pane A: Answer finished" in said
    assert "Traceback" in capsys.readouterr().err


def test_stop_ends_one_of_two_and_then_all(url: str) -> None:
    with tab(url) as visitor:
        for pane in "ab":
            visitor.join(visitor.body(f"compare-{pane}-retry", "click", {"compare-question": "long"}))
        said, stopped, both = "", 0.0, 0.0
        for event in visitor.events():
            said += json.dumps(event, ensure_ascii=False)
            if not stopped and "fake:0.1 " in said and "fake:0.9 " in said:
                stopped = time.monotonic()
                visitor.join(visitor.body("compare-a-stop", "click", {}))
            if stopped and not both and "Pane A: stopped" in said:
                both = time.monotonic()
                assert both - stopped < 1 and "Pane B" not in said
                assert not Told.idle.is_set() or "long" in Told.seen
                visitor.join(visitor.body("compare-stop", "click", {}))
        assert "Pane B: stopped" in said and "■ stopped" in said
    assert Told.idle.wait(1) and time.monotonic() - both < 3


@pytest.mark.parametrize(
    ("name", "forged"),
    [
        ("compare-a-model", "0" * 16), ("compare-a-model", None), ("compare-a-model", {"key": 1}),
        ("compare-a-prompt", "classify"), ("compare-a-prompt", "../../etc/passwd"), ("compare-a-prompt", "own"),
        ("compare-a-way", "beam"), ("compare-a-way", ["greedy"]),
    ],
)  # fmt: skip
def test_forged_settings_reach_no_engine(url: str, name: str, forged: Any) -> None:
    with tab(url) as visitor:
        before = len(Told.seen)
        said = visitor.ask("What is 1 + 1?", **{name: forged})
        assert "class=answer" not in said and len(Told.seen) == before
        assert "The answer is" in visitor.ask("What is 1 + 1?", **{name: value_of(visitor, name)})


def value_of(visitor: Tab, name: str) -> Any:
    """A good one."""
    good = {"compare-a-prompt": "question", "compare-a-way": "greedy"}
    return good.get(name) or value(visitor, "compare-b-model")


@pytest.mark.parametrize(
    ("name", "forged", "said"),
    [
        ("compare-a-n", 65, "n is 65"), ("compare-a-n", math.nan, "n is nan"), ("compare-a-n", 1.5, "n is 1.5"),
        ("compare-a-temperature", math.inf, "temperature is inf"), ("compare-a-max-tokens", 0, "max_tokens is 0"),
        ("compare-a-temperature", None, "temperature is None"), ("compare-a-max-tokens", -5, "max_tokens is -5"),
    ],
)  # fmt: skip
def test_numbers_are_refused_by_name(url: str, name: str, forged: Any, said: str) -> None:
    with tab(url) as visitor:
        before = len(Told.seen)
        assert said in visitor.ask("What is 1 + 1?", **{name: forged, "compare-a-way": "vote"})
        assert len(Told.seen) == before


@pytest.mark.parametrize(
    ("words", "said"),
    [("", "Type a question"), (" \n", "Type a question"), (None, "Type a question"), ("\ud800", "surrogate")],
)
def test_what_is_not_asked(url: str, words: Any, said: str) -> None:
    with tab(url) as visitor:
        before = len(Told.seen)
        assert said in visitor.ask(words)
        assert len(Told.seen) == before


def test_a_question_that_is_too_long_is_refused_early(url: str) -> None:
    with tab(url) as visitor:
        assert f"{MAX_TEXT:,} is the most" in visitor.ask("x" * (MAX_TEXT + 1))
        body = visitor.body("compare-a-retry", "click", {"compare-question": "x" * 30_000_000})
        assert visitor.join(body).status_code == 413


def test_a_target_is_nowhere_until_it_is_asked_for(url: str) -> None:
    settings = "operations=+ largest_added=90000000"
    target = pick("arithmetic", settings, 3).example.target
    task = {"compare-task": "arithmetic", "compare-task-settings": settings, "compare-number": 3}
    with tab(url) as visitor, tab(url) as other:
        said = visitor.html + visitor.told("compare-take", "click", task)
        words = pick("arithmetic", settings, 3).example.input
        assert words in said and "Its target is hidden" in said and "number=3" in said
        said += visitor.ask("hostile " + words) + visitor.told(
            "compare-view", "change", {"compare-view": "differences"}
        )
        assert target not in said
        revealed = visitor.told("compare-reveal", "click", {"compare-question": words})
        assert f"Target: <code>{target}</code>" in revealed
        assert "no target" in visitor.told("compare-reveal", "click", {"compare-question": words + " "})
        assert target not in other.told("compare-reveal", "click", {"compare-question": words})


@pytest.mark.parametrize(
    "task",
    [
        {"compare-task": "file", "compare-task-settings": "path=/etc/passwd"},
        {"compare-task": "gsm8k", "compare-task-settings": "path=/etc"},
        {"compare-task": "arithmetic", "compare-task-settings": "split=test"},
        {"compare-task": "arithmetic", "compare-number": 101},
        {"compare-task": "arithmetic", "compare-number": math.nan},
        {"compare-task": ""},
    ],
)
def test_other_files_and_the_test_split_cannot_be_had(url: str, task: dict[str, Any]) -> None:
    with tab(url) as visitor:
        said = visitor.told("compare-take", "click", task)
        assert "dev split." not in said and "root:" not in said


def test_eight_samples_vote_with_marks(url: str) -> None:
    with tab(url) as visitor:
        visitor.told("compare-take", "click", {"compare-task": "arithmetic", "compare-number": 1})
        words = pick("arithmetic", "", 1).example.input
        values = {"compare-question": words, "compare-b-way": "vote"}
        said = ends(visitor.trigger("compare-b-retry", "click", values))
        assert "<caption>Votes of 8 samples that ended</caption>" in said and "✓ right" in said
        assert "the task's own parser finds the answer" in said
        assert said.count("<li value=") == 8


def test_hostile_text_is_text_in_every_view(url: str) -> None:
    with tab(url) as visitor:
        said = visitor.ask("hostile") + visitor.ask("hostile " + EVIL.replace("\ud800", ""), "b")
        said += visitor.ask("hostile", **{"compare-a-way": "vote"})
        for view in ("differences", "probabilities", "text"):
            said += visitor.told("compare-view", "change", {"compare-view": view})
    assert "two" in said and "⟨U+0000⟩" in said and "⟨U+D800⟩" in said
    assert "<script" not in said and "<img" not in said and "\x1b" not in said
    assert "<script" not in differing("", EVIL) + differing(EVIL, "a") + spelled("")


def test_a_bug_in_scoring_is_said_in_its_pane_and_the_next_is_shown(
    url: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with tab(url) as visitor:
        for pane in "ab":
            visitor.ask("unscored", pane)
        said = visitor.told("compare-view", "change", {"compare-view": "probabilities"})
    assert "<p class=problem>Failed: ZeroDivisionError.</p><div class=answer>" in said
    assert "class='p p3'" in said, "the other pane's tokens"
    assert "Traceback" in capsys.readouterr().err


def test_answers_are_not_overwritten_by_tokens_that_come_too_late(url: str) -> None:
    Told.scoring.clear()
    Told.scored.clear()
    with tab(url) as visitor:
        [listener] = [
            one
            for one in visitor.config["dependencies"]
            if [visitor.ids["compare-view"], "change"] in one["targets"]
        ]
        assert listener["trigger_mode"] == "multiple", "the browser does not wait for the first to end"
        visitor.ask("slowly")
        visitor.join(visitor.body("compare-view", "change", {"compare-view": "probabilities"}))
        assert Told.scoring.wait(5)
        visitor.join(visitor.body("compare-view", "change", {"compare-view": "text"}))
        said = ""
        for event in visitor.events():
            said += json.dumps(event, ensure_ascii=False)
            if "<div class=answer>" in said:
                Told.scored.set()
    assert "<div class=answer>" in said and "answer tokens" not in said


@pytest.mark.parametrize("token", [-1, 10**9, True, "0", None, [0], {"at": 0}, math.nan])
def test_forged_tokens_choose_nothing(url: str, token: Any) -> None:
    with tab(url) as visitor:
        visitor.ask("What is 1 + 1?")
        said = visitor.told("compare-a-answer", "click", {}, {"token": token})
        assert "In its place" not in said
        said = visitor.told("compare-a-beside", "click", {}, {"choice": token})
        assert "Choose a token of an answer first" in said and "class=answer" not in said


def test_two_visitors_share_nothing(url: str) -> None:
    with tab(url) as mine, tab(url) as theirs:
        assert "The answer is" in mine.ask("secret of mine")
        said = theirs.told("compare-view", "change", {"compare-view": "text"})
        said += theirs.told("compare-view", "change", {"compare-view": "differences"})
        said += theirs.told("compare-stop", "click", {})
        assert "secret" not in said and "class=answer" not in said


def test_an_address_restores_the_comparison_and_asks_nothing(url: str) -> None:
    before = len(Told.seen)
    with tab(url) as visitor:
        key = value(visitor, "compare-b-model")
    made = Setting(key, "arithmetic", "vote", 0.9, 12, 99)
    with tab(url, tab="compare", q="Why <b>?", a=made.field(), c=Setting(key).field()) as visitor:
        found = {
            name: value(visitor, f"compare-a-{name}") for name in ("model", "prompt", "way", "temperature", "n")
        }
        assert found == {"model": key, "prompt": "arithmetic", "way": "vote", "temperature": 0.9, "n": 12}
        assert value(visitor, "compare-a-max-tokens") == 99 and value(visitor, "compare-question") == "Why <b>?"
    fields = {"tab": "compare", "task": "arithmetic", "args": "terms=3", "number": "2", "a": made.field()}
    with tab(url, **fields) as visitor:
        assert value(visitor, "compare-question") == pick("arithmetic", "terms=3", 2).example.input
        assert value(visitor, "compare-task") == "arithmetic" and value(visitor, "compare-number") == 2
    assert len(Told.seen) == before


@pytest.mark.parametrize(
    "fields",
    [
        {"a": HOSTILE.replace("\ud800", "")}, {"a": "0" * 16 + "~question~greedy~0.7~8~256"}, {"a": ""},
        {"task": "file", "args": "path=/etc/passwd"}, {"task": "arithmetic", "number": "9" * 5000},
        {"task": "arithmetic", "number": "-1"}, {"task": "arithmetic", "args": "dev=99999999"}, {"d": "x~~~"},
    ],
)  # fmt: skip
def test_a_hostile_address_opens_the_page_and_says_what_is_wrong(url: str, fields: dict[str, str]) -> None:
    with tab(url, tab="compare", **fields) as visitor:
        problem = value(visitor, "compare-line")
        assert problem.startswith("<p class=problem>") and "<script" not in problem
        assert value(visitor, "compare-a-prompt") == "question" and value(visitor, "compare-question") in (
            "",
            None,
        )


def test_the_speed_is_that_of_the_tokens_behind_the_first_ones() -> None:
    turns = (Turn("q", "a", "stop", 3, 11), Turn("q", "b", "stop", 3, 11), Turn("q", "", "stop", 3, 0))
    answered = SimpleNamespace(turns=turns, tokens=22, seconds=3.0, waited=1.0, begun="")
    assert "22 tokens in 2.0 s, 10.0 tokens/s; the first came after 1.0 s" in _took(answered, ())  # type: ignore[arg-type]
    at_once = SimpleNamespace(**{**vars(answered), "waited": 0.0})
    assert "22 tokens in 3.0 s, 7.3 tokens/s" in _took(at_once, ())  # type: ignore[arg-type]
    too_fast = SimpleNamespace(**{**vars(answered), "seconds": 1.01})
    assert "22 tokens; the first" in _took(too_fast, ())  # type: ignore[arg-type]


def test_what_an_address_holds() -> None:
    board, setting = Board(), Setting("k")
    assert fields_of(board, "Why?", [setting, None]) == ({"q": "Why?", "a": "k~question~greedy~0.7~8~256"}, "")
    fields, note = fields_of(board, "x" * (MOST_IN_ADDRESS + 1), [setting])
    assert "q" not in fields and "left out of the address" in note
    board.picked = pick("arithmetic", "", 4)
    fields, _ = fields_of(board, board.picked.example.input, [])
    assert fields == {"task": "arithmetic", "args": "", "number": 4}
    assert fields_of(board, "edited", [])[0] == {"q": "edited"}
    assert alternatives(board.panes[0]) == ""
