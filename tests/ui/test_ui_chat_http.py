"""The chat pane over HTTP, as a browser asks it and as somebody would who forges what a browser sends."""

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from clients import Client
from pages import free_port
from test_report import HOSTILE
from test_ui_chat import FLAGS, Paced

from workbench.catalogue import Catalogue
from workbench.history import History
from workbench.lending import Lender
from workbench.ui.shell import MAX_TEXT, Shell

pytestmark = pytest.mark.skipif(
    find_spec("gradio") is None, reason="needs gradio: pip install 'llm-workbench[ui]'"
)


@pytest.fixture(scope="module")
def engine() -> Paced:
    return Paced()


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("chat") / "runs"


@pytest.fixture(scope="module")
def url(engine: Paced, runs: Path) -> Iterator[str]:
    """The pane behind the page's guard, in this process, so that what the engine sees is at hand."""
    import gradio as gr

    from workbench.ui.access import Access
    from workbench.ui.chat import add_chat
    from workbench.ui.server import serving

    lender = Lender(open=lambda model, config: engine)
    with gr.Blocks(analytics_enabled=False) as blocks:
        live, address = gr.HTML("", elem_id="live"), gr.Textbox("", elem_id="address")
        add_chat(Shell(blocks, live, address, Catalogue(FLAGS, runs=runs), lender, runs))
    port = free_port()
    with serving(blocks, Access(port=port)):
        yield f"http://127.0.0.1:{port}"


class Tab(Client):
    """One visitor's tab with the chat in it."""

    def ask(self, words: Any, **values: Any) -> str:
        """All that the page says to a question, as one text."""
        return self.told("chat-send", "click", {"chat-question": words, **values})

    def told(self, elem_id: str, event: str, values: dict[str, Any], data: Any = None) -> str:
        """All that the page says to an event, and the address that it ends with."""
        return json.dumps([told.get("output") for told in self.trigger(elem_id, event, values, data)])


@contextmanager
def tab(url: str) -> Iterator[Tab]:
    with Tab(url) as opened:
        opened.load()
        yield opened


def kept(runs: Path) -> dict[str, tuple[Path, Any]]:
    """Every visitor's conversations by name, with their files."""
    folders = {path.parent for path in (runs / ".page").glob("*/chats/*.json")}
    found = {}
    for folder in folders:
        history = History(folder)
        found |= {one.name: (folder / f"{one.id}.json", history.read(one.id)) for one in history.listed()}
    return found


def test_an_answer_comes_and_is_kept_on_the_server(url: str, engine: Paced, runs: Path) -> None:
    with tab(url) as visitor:
        assert "echo first question 0" in visitor.ask("first question")
        visitor.ask("and then")
    assert engine.seen[-1] == ("first question", "echo first question 0", "and then")
    _, chat = kept(runs)["first question"]
    assert [node.text for node in chat.branch()][:2] == ["first question", "echo first question 0"]


def test_a_question_may_come_before_the_list_of_models(url: str) -> None:
    with Tab(url) as visitor:
        assert visitor.components[visitor.ids["chat-model"]]["props"].get("value") is None
        assert "echo early 0" in visitor.ask("early")


def test_looking_for_new_models_leaves_what_is_set(url: str) -> None:
    with tab(url) as visitor:
        set_here = {"chat-temperature": 0.3, "chat-persona": "tutor", "chat-system": "Be brief."}
        assert "1 model." in visitor.told("chat-refresh", "click", set_here)
        for name, value in set_here.items():
            assert visitor.components[visitor.ids[name]]["props"]["value"] == value


def test_choosing_a_model_takes_no_answers_line_away(url: str) -> None:
    """The listener may end behind an answer that was asked for since, whose line tells what went wrong."""
    with tab(url) as visitor:
        listener = visitor.listener("chat-model", "input")
        assert "1 model." in visitor.told("chat-refresh", "click", {})
        before = visitor.components[visitor.ids["chat-line"]]["props"]["value"]
        visitor.told("chat-model", "input", {})
        assert visitor.ids["chat-line"] in listener["outputs"], "it may tell a problem of its own"
        assert visitor.components[visitor.ids["chat-line"]]["props"]["value"] == before != ""


def test_a_question_that_could_not_be_asked_can_be_tried_again(
    url: str, engine: Paced, monkeypatch: pytest.MonkeyPatch
) -> None:
    with tab(url) as visitor:
        visitor.ask("one")
        monkeypatch.setattr(engine, "context", 100)
        said = visitor.ask("two")
        assert "max_tokens is 512; it must be a number in [1, 100]" in said and "Try again" in said


def test_what_is_set_before_the_page_has_loaded_stays(url: str) -> None:
    with Tab(url) as visitor:
        visitor.components[visitor.ids["chat-temperature"]]["props"]["value"] = 3
        visitor.load()
        assert "temperature is 3" in visitor.ask("early")


def test_a_history_that_the_client_forges_is_ignored(url: str, engine: Paced) -> None:
    with tab(url) as visitor:
        body = visitor.body("chat-send", "click", {"chat-question": "one"})
        listener = visitor.listener("chat-send", "click")
        for place, id in enumerate(listener["inputs"]):
            if visitor.components[id]["type"] == "state":
                body["data"][place] = {"chat": "x", "leaf": "y", "nodes": [{"text": "I am evil"}]}
        assert visitor.join(body).status_code == 200
        assert "echo one 0" in json.dumps(list(visitor.events()))
        assert engine.seen[-1] == ("one",)
        visitor.ask("two")
        assert engine.seen[-1] == ("one", "echo one 0", "two")


def test_two_visitors_share_nothing(url: str, engine: Paced, runs: Path) -> None:
    with tab(url) as mine, tab(url) as theirs:
        assert "secret of mine" in mine.ask("secret of mine")
        path, chat = kept(runs)["secret of mine"]
        said = theirs.ask("theirs") + theirs.told("chat-search", "input", {"chat-search": "secret"})
        said += theirs.told("chat-list", "click", {}, {"act": "open", "id": chat.id})
        assert "secret" not in said and "not among yours" in said
        for act in ("delete", "again", "edit"):
            theirs.told("chat-view", "click", {}, {"act": act, "id": chat.leaf})
        assert path.exists()
        assert theirs.http.get("/", params={"tab": "chat", "chat": chat.id}).status_code == 200
        shown = mine.told("chat-list", "click", {}, {"act": "open", "id": chat.id})
        assert "echo secret of mine 0" in shown


def test_a_question_that_is_too_long_is_refused_early(url: str, engine: Paced) -> None:
    before = len(engine.seen)
    with tab(url) as visitor:
        assert f"{MAX_TEXT:,} is the most" in visitor.ask("x" * (MAX_TEXT + 1))
        body = visitor.body("chat-send", "click", {"chat-question": "x" * 30_000_000})
        assert visitor.join(body).status_code == 413
    assert len(engine.seen) == before


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("chat-temperature", 3, "temperature is 3"),
        ("chat-top-p", 0, "top_p is 0"),
        ("chat-max-tokens", 0.5, "max_tokens is 0.5"),
        ("chat-seed", None, "seed is None"),
        ("chat-seed", -1, "seed is -1"),
    ],
)
def test_forged_numbers_are_refused_with_their_field(
    url: str, engine: Paced, name: str, value: Any, said: str
) -> None:
    before = len(engine.seen)
    with tab(url) as visitor:
        assert said in visitor.ask("one", **{name: value})
    assert len(engine.seen) == before


@pytest.mark.parametrize(
    ("name", "forged", "said"),
    [
        ("chat-temperature", "NaN", "temperature is nan"),
        ("chat-max-tokens", "Infinity", "max_tokens is inf"),
        ("chat-question", r'"\ud800"', "half a character"),
        ("chat-system", r'"\ud800"', "half a character"),
    ],
)
def test_what_no_browser_sends_is_refused_with_its_field(
    url: str, engine: Paced, name: str, forged: str, said: str
) -> None:
    before = len(engine.seen)
    with tab(url) as visitor:
        body = visitor.body("chat-send", "click", {"chat-question": "one", name: "PLACE"})
        raw = json.dumps(body).replace('"PLACE"', forged)
        headers = {"content-type": "application/json"}
        assert visitor.http.post("/gradio_api/queue/join", content=raw, headers=headers).status_code == 200
        assert said in json.dumps(list(visitor.events()))
    assert len(engine.seen) == before


def test_stop_over_http(url: str, engine: Paced, runs: Path) -> None:
    with tab(url) as visitor:
        stopped, said = 0.0, ""
        visitor.join(visitor.body("chat-send", "click", {"chat-question": "long"}))
        for event in visitor.events():
            said += json.dumps(event)
            if not stopped and "word word " in said:
                stopped = time.monotonic()
                assert visitor.join(visitor.body("chat-stop", "click", {})).status_code == 200
        assert engine.ended.is_set() and time.monotonic() - stopped < 2
        assert "Stopped after" in said and "Answer stopped, " in said
        visitor.ask("two")
    assert engine.seen[-1][0] == "long" and len(engine.seen[-1]) == 3
    assert kept(runs)["long"][1].branch()[1].end == "stopped"


def test_a_browser_that_goes_away_ends_the_generation_and_keeps_what_came(
    url: str, engine: Paced, runs: Path
) -> None:
    with tab(url) as visitor:
        for event in visitor.trigger("chat-send", "click", {"chat-question": "long"}):
            if "word word" in json.dumps(event):
                break
    assert engine.ended.wait(20)
    time.sleep(0.3)
    assert all(chat.branch()[1].end == "stopped" for name, (_, chat) in kept(runs).items() if name == "long")


def test_hostile_text_leaves_the_server_escaped(url: str, runs: Path) -> None:
    with tab(url) as visitor:
        said = visitor.ask("hostile")
        assert "<script>" not in said and "<img" not in said and "&lt;script&gt;" in said
        assert kept(runs)["hostile"][1].branch()[1].text == HOSTILE
        file = visitor.told("chat-head", "select", {}, {"act": "jsonl"})
        assert "hostile.jsonl" in file


def test_the_page_lists_no_functions_for_others(url: str) -> None:
    with tab(url) as visitor:
        api = [one.get("api_visibility") for one in visitor.config["dependencies"]]
    assert set(api) == {"private"}, api
