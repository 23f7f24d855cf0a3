"""The recipes' pane without a browser: what is shown, what is checked, and what a forged request comes to."""

import json
import os
import time
from collections.abc import Iterator
from html.parser import HTMLParser
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
from clients import Client
from pages import MARKS, served
from test_report import HOSTILE

from recipes.__main__ import RECIPES
from recipes.ui import _recipes
from workbench.errors import UserError
from workbench.form_fields import form_fields
from workbench.forms import arguments
from workbench.runs import Run
from workbench.ui import recipes_desk
from workbench.ui.recipes_desk import NOT_SWITCHED_ON, Desk
from workbench.ui.recipes_estimate import estimated_by, what_is_estimated
from workbench.ui.recipes_form import KINDS, NOT_FROM_A_PAGE, Recipe, form, grouped, overview, picker

ALL = {name: Recipe(name, import_module(module).Config, what) for name, (module, what) in RECIPES.items()}
FAKE = {"engine": "fake", "model": "fake", "quiet": "true", "rungs": "zero-shot\nmajority-vote"}
LONG = {**FAKE, "n": "24", "task-args": "test=3000\nterms=3\nlargest_factor=99"}


class Page(HTMLParser):
    """The fields of a form, their labels, and what describes them."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.fields: dict[str, str] = {}
        self.labels: set[str] = set()
        self.ids: list[str] = []
        self.described: set[str] = set()
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        told = dict(attrs)
        if told.get("id"):
            self.ids.append(str(told["id"]))
        if tag == "label":
            self.labels.add(str(told["for"]))
        if "data-default" in told:
            self.fields[str(told["name"])] = str(told["id"])
            self.described |= set(str(told["aria-describedby"]).split())


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    return Desk(ALL, tmp_path / "runs", frozenset({"http://127.0.0.1:8000"}), may_start=True)


def sent(desk: Desk, recipe: str, values: dict[str, str]) -> Any:
    return desk.asked({"recipe": recipe, "values": values, "serial": 1})


def test_the_page_knows_every_recipe_of_the_command_line() -> None:
    assert _recipes().keys() == RECIPES.keys()
    assert all(what and "\n\n" not in what for _, what in _recipes().values())
    named = [name for names in KINDS.values() for name in names]
    assert (
        len(set(named)) == len(named) and set(named) < RECIPES.keys() and NOT_FROM_A_PAGE.keys() < RECIPES.keys()
    )
    assert [one.name for some in grouped(ALL).values() for one in some].__len__() == len(RECIPES)
    for name in RECIPES:
        assert f'value="{name}"' in picker(ALL, name) and f'data-recipe="{name}"' in overview(ALL)


@pytest.mark.parametrize("recipe", RECIPES)
def test_each_field_has_a_control_with_a_label_and_help(recipe: str, desk: Desk) -> None:
    page = Page(desk.form(ALL[recipe]))
    assert page.fields.keys() == {field.name for field in form_fields(ALL[recipe].config)}
    assert set(page.fields.values()) <= page.labels and page.described <= set(page.ids)
    assert len(set(page.ids)) == len(page.ids)


def test_hostile_text_in_a_form_is_text() -> None:
    evil = HOSTILE.replace("\x00", "").replace("\ud800", "") + "\"'>${1}"
    made = form(ALL["lora"], {"model": evil, "task-args": evil}, [evil], evil, evil, evil)
    assert "<script" not in made and "<img" not in made and "\"'>" not in made
    assert form_fields(ALL["lora"].config)


def test_the_pages_own_folder_of_runs_is_filled_in(desk: Desk) -> None:
    assert f"workbench lora --runs {desk.runs}" in desk.form(ALL["lora"])
    assert "workbench lora</code>" in Desk(ALL, Path("runs"), frozenset(), True).form(ALL["lora"])


def test_what_is_told_of_a_form(desk: Desk) -> None:
    told = desk.told(sent(desk, "lora", {"rank": "16", "model": "my model"}))
    assert told["command"] == "workbench lora --model 'my model' --rank 16" and told["problems"] == {}
    told = desk.told(sent(desk, "lora", {"rank": "0", "learning-rate": "nan"}))
    assert told["command"] == "" and set(told["problems"]) == {"learning-rate"}
    told = desk.told(sent(desk, "lora", {"rank": "0"}))
    assert told["problems"] == {"rank": "rank is 0; it must be a number in [1, 4096]."}
    assert told["summary"] == "To be mended: rank."


@pytest.mark.parametrize(
    "data",
    [
        None, [], {}, {"recipe": "nonesuch", "values": {}, "serial": 1},
        {"recipe": "lora", "values": [], "serial": 1},
        {"recipe": "lora", "values": {"rank": 8}, "serial": 1}, {"recipe": "lora", "values": {}, "serial": "1"},
        {"recipe": ["lora"], "values": {}, "serial": 1},
        {"recipe": "lora", "values": {str(i): "" for i in range(2000)}, "serial": 1},
    ],
)  # fmt: skip
def test_what_no_form_sends_is_refused(desk: Desk, data: Any) -> None:
    with pytest.raises(UserError):
        desk.asked(data)


def test_nothing_is_started_where_it_is_not_switched_on(desk: Desk, tmp_path: Path) -> None:
    shut = Desk(ALL, tmp_path / "runs", frozenset(), may_start=False)
    for do in (shut.start, shut.estimate):
        with pytest.raises(UserError, match="copy the command line"):
            do("ann", sent(shut, "ladder", FAKE))
    with pytest.raises(UserError, match="copy the command line"):
        shut.again("ann", "0" * 16)
    assert 'data-act="start"' not in shut.form(ALL["lora"]) and "--start-recipes" in shut.form(ALL["lora"])
    for name in NOT_FROM_A_PAGE:
        assert 'data-act="start"' not in desk.form(ALL[name])
        with pytest.raises(UserError, match="Not started from a page"):
            desk.start("ann", sent(desk, name, {}))
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("recipe", "values"),
    [
        ("lora", {"engine": "vllm", "endpoint": "http://127.0.0.1:8000\nhttp://evil.example"}),
        ("lora", {"endpoint": "evil.example:80"}),
        ("lora", {"scorer-endpoint": "http://169.254.169.254"}),
        ("grpo", {"server": "http://evil.example"}),
        ("parity", {"systems": "hf\nvllm,endpoint=HTTP://evil.example"}),
    ],
)
def test_only_the_pages_servers_are_asked(desk: Desk, recipe: str, values: dict[str, str]) -> None:
    with pytest.raises(UserError, match="not among the servers of this page"):
        desk.start("ann", sent(desk, recipe, values))
    assert desk.jobs.of("ann") == []


def test_what_is_wrong_is_not_started(desk: Desk) -> None:
    for values in ({"rank": "0"}, {"name": "../x"}, {"name": "con"}, {"no-such": "1"}):
        with pytest.raises(UserError):
            desk.start("ann", sent(desk, "lora", values))
    assert desk.jobs.of("ann") == []


def test_a_form_is_filled_in_from_a_run(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    words = ["workbench", "lora", "--rank", "4", "--engine=fake", "--task-args", "agreement=all", "--overwrite"]
    monkeypatch.setattr("sys.argv", words)
    with Run.open(desk.runs, "lora", {}, name="one"):
        pass
    monkeypatch.setattr("sys.argv", ["lora.py", "--rank", "x"])
    with Run.open(desk.runs, "lora", {}, name="two"):
        pass
    assert '<option value="one">' in desk.form(ALL["lora"]) and ">one<" not in desk.form(ALL["sft"])
    made = desk.like(ALL["lora"], "one")
    assert "workbench lora --task-args agreement=all --engine fake --rank 4<" in made and "As in one." in made
    for recipe, run in (("lora", "two"), ("sft", "one"), ("lora", "../x"), ("lora", "gone"), ("lora", None)):
        with pytest.raises(UserError):
            desk.like(ALL[recipe], run)


def test_estimates_are_those_of_the_same_settings(tmp_path: Path) -> None:
    config = ALL["lora"].config()
    by, found = estimated_by(ALL["lora"], config, ALL, tmp_path) or ("", None)
    assert by == "ladder" and found.ladder.rungs == ("lora",) and found.ladder.lora == config.lora
    assert arguments(found) == ["--runs", str(tmp_path), "--rungs", "lora", "--estimate-only"]
    known = {name for name, recipe in ALL.items() if what_is_estimated(recipe, ALL)}
    assert {"quickstart", "ladder", "prompt_search", "lora", "sft", "dpo", "grpo", "few_shot", "revise"} <= known
    assert not known & {"doctor", "compare", "pass_at_k", "best_of_n", "quantize"}
    assert "No estimate of cost is known" in form(ALL["doctor"], {}, [], "", what_is_estimated(ALL["doctor"], ALL))


def test_old_estimates_are_forgotten(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recipes_desk, "KEPT", 1)
    monkeypatch.setattr(desk.jobs, "start", lambda *_, **__: None)
    folder = desk.runs / ".page" / "estimates"
    with Run.open(folder, "ladder", {}, name="running"):
        for place, name in enumerate(("old", "new")):
            with Run.open(folder, "ladder", {}, name=name):
                pass
            os.utime(folder / name, (place, place))
        os.utime(folder / "running", (0, 0))
        (folder / "completions.sqlite").touch()
        desk.estimate("ann", sent(desk, "majority_vote", {"engine": "fake", "model": "fake"}))
        assert {path.name for path in folder.iterdir()} == {"running", "new", "completions.sqlite"}


def test_an_estimate_is_made_by_a_process_of_its_own(desk: Desk) -> None:
    job = desk.estimate("ann", sent(desk, "majority_vote", {"engine": "fake", "model": "fake"}))
    assert job.label == "estimate of majority_vote" and job.runs is None
    from workbench.jobs import state_of
    from workbench.ui.recipes_log import log_tail

    end = time.monotonic() + 60
    while state_of(job) == "running" and time.monotonic() < end:
        time.sleep(0.1)
    assert "1 rungs, 200 questions each: about" in log_tail(job) and state_of(job) == "done"
    assert not [path for path in desk.runs.iterdir() if not path.name.startswith(".")], (
        "no run is left among the runs"
    )


# --- over HTTP --------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("recipes") / "runs"


@pytest.fixture(scope="module")
def shut(runs: Path) -> Iterator[str]:
    with served("ui.py", "--engine", "fake", "--model", "fake", "--runs", str(runs)) as url:
        yield url


@pytest.fixture(scope="module")
def open_page(runs: Path) -> Iterator[str]:
    settings = {"WORKBENCH_API_KEY": "sk-not-to-be-seen"}
    flags = ("--engine", "fake", "--model", "fake", "--runs", str(runs), "--start-recipes")
    with served("ui.py", *flags, settings=settings) as url:
        yield url


def said(client: Client, elem_id: str, event: str, data: Any) -> str:
    """Everything that the server says to an event."""
    return json.dumps(list(client.trigger(elem_id, event, {}, data)), ensure_ascii=False)


def start(values: dict[str, str], recipe: str = "ladder") -> dict[str, Any]:
    return {"act": "start", "recipe": recipe, "values": values, "serial": 1}


class TestOverHttp:
    pytestmark = MARKS

    def test_a_forged_start_is_refused(self, shut: str, runs: Path) -> None:
        with Client(shut) as client:
            for act in ("start", "estimate"):
                told = said(client, "recipes-form", "click", {**start({**FAKE, "runs": str(runs)}), "act": act})
                assert NOT_SWITCHED_ON.split("`")[0] in told
        assert not (runs / ".page" / "jobs").exists()

    @pytest.mark.parametrize(
        "data", [None, [], "x", {"act": "start"}, {"act": "no"}, {"recipe": {}, "act": "like"}]
    )
    def test_forged_events_leave_the_page_alive(self, open_page: str, runs: Path, data: Any) -> None:
        with Client(open_page) as client:
            for event in ("click", "input"):
                said(client, "recipes-form", event, data)
            said(client, "recipes-pick", "select", data)
            said(client, "recipes-list", "click", data)
            assert "workbench lora" in said(client, "recipes-pick", "select", {"recipe": "lora"})
        assert not list((runs / ".page").glob("jobs/*"))

    def test_a_job_is_its_starters_alone_and_no_key_is_told(self, open_page: str, runs: Path) -> None:
        with Client(open_page) as ann, Client(open_page) as bob:
            told = said(ann, "recipes-form", "click", start({**LONG, "runs": str(runs)}))
            [folder] = (runs / ".page" / "jobs").iterdir()
            assert folder.name in told and "Started: ladder." in told
            assert "--model fake" in told
            other = said(bob, "recipes-list", "click", {"job": folder.name})
            assert "Another visitor's recipe is running." in other and "--model" not in other
            said(bob, "recipes-stop", "click", None)
            assert not (folder / "stop.json").exists(), "another's recipe is not stopped"
            seen = said(ann, "recipes-stop", "click", None)
            end, ended = time.monotonic() + 30, ""
            while "interrupted" not in ended and time.monotonic() < end:
                time.sleep(0.2)
                ended = said(ann, "recipes-list", "click", {"job": folder.name})
            assert "interrupted" in ended  # Ctrl-C, perhaps while Python starts
            seen += told + other + ended + ann.html
        kept = [path.read_bytes() for path in (runs / ".page").rglob("*") if path.is_file()]
        assert "interrupted" in seen and "sk-not-to-be-seen" not in seen
        assert not any(b"sk-not-to-be-seen" in data for data in kept)
        assert "WORKBENCH_API_KEY" not in os.environ
