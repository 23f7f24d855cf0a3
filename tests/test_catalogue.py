"""What a page may talk with: named models, what servers serve, what runs made; nothing else is found."""

from pathlib import Path

import pytest
from engines.stub_server import StubServer

from workbench.catalogue import Catalogue, Entry
from workbench.decodes import Greedy, Majority
from workbench.engines import EngineConfig
from workbench.errors import UserError
from workbench.model_flags import ModelFlags
from workbench.prompts import load_prompt
from workbench.runs import Run
from workbench.types import Model, System

FAKE = ModelFlags("fake", engine=EngineConfig("fake"))


def made(root: Path, name: str, system: System) -> None:
    with Run.open(root, "majority_vote", {"name": name}, name=name) as run:
        run.write_system(system)


def labels(entries: list[Entry]) -> list[str]:
    return [entry.label for entry in entries]


def test_named_models_come_first_and_runs_after_them_the_latest_first(tmp_path: Path) -> None:
    prompt = load_prompt("arithmetic")
    made(tmp_path, "one", System(Model("fake"), prompt, Greedy()))
    made(tmp_path, "two", System(Model("fake:0.9"), prompt, Majority(n=8)))
    catalogue = Catalogue(FAKE, also=["fake:0.1"], runs=tmp_path)
    assert labels(catalogue.entries()) == [
        "fake",
        "fake:0.1",
        "two (run: majority_vote)",
        "one (run: majority_vote)",
    ]
    named, _, two, one = catalogue.entries()
    assert (named.system, named.kind) == (None, "named")
    assert two.system is not None and two.system.decode == Majority(n=8) and two.engine.engine == "fake"
    assert one.weights == named.weights != two.weights, "one model, loaded once"
    assert len({entry.key for entry in catalogue.entries()}) == 4


@pytest.mark.parametrize("key", ["", "fake", "../../etc/passwd", "http://127.0.0.1:9", None, 7, ["x"], {"a": 1}])
def test_only_what_is_listed_is_found(tmp_path: Path, key: object) -> None:
    catalogue = Catalogue(FAKE, runs=tmp_path)
    assert catalogue.find(catalogue.entries()[0].key).label == "fake"
    with pytest.raises(UserError, match="not among those that the page offers"):
        catalogue.find(key)


def test_a_run_is_listed_as_soon_as_it_has_a_system_and_found_no_more_when_it_has_none(tmp_path: Path) -> None:
    catalogue = Catalogue(FAKE, runs=tmp_path)
    assert len(catalogue.entries()) == 1
    made(tmp_path, "one", System(Model("fake:0.3"), load_prompt("question"), Greedy()))
    key = catalogue.entries()[1].key
    assert catalogue.find(key).label == "one (run: majority_vote)"
    (tmp_path / "one" / "system.json").unlink()
    assert catalogue.find(key), "runs are not looked at for a key that is known"
    assert len(catalogue.entries()) == 1
    with pytest.raises(UserError):
        catalogue.find(key)


def test_a_run_that_was_made_since_is_found_without_asking_for_the_list(tmp_path: Path) -> None:
    catalogue = Catalogue(FAKE, runs=tmp_path)
    catalogue.entries()
    made(tmp_path, "one", System(Model("fake:0.3"), load_prompt("question"), Greedy()))
    key = Catalogue(FAKE, runs=tmp_path).entries()[1].key
    assert catalogue.find(key).label == "one (run: majority_vote)"


def test_a_damaged_run_is_said_and_leaves_the_others(tmp_path: Path) -> None:
    made(tmp_path, "bad", System(Model("fake:0.2"), load_prompt("question"), Greedy()))
    made(tmp_path, "good", System(Model("fake:0.3"), load_prompt("question"), Greedy()))
    (tmp_path / "bad" / "system.json").write_text('{"type": "System"')
    catalogue = Catalogue(FAKE, runs=tmp_path)
    assert labels(catalogue.entries()) == ["fake", "good (run: majority_vote)"]
    assert "bad" in catalogue.problems[0]


def test_a_server_offers_what_it_serves_and_a_silent_one_is_said(tmp_path: Path) -> None:
    with StubServer() as server:
        server.adapters = ("tuned",)
        catalogue = Catalogue(FAKE, servers=[server.url, "http://127.0.0.1:9"], runs=tmp_path)
        served = [entry for entry in catalogue.entries() if entry.kind == "served"]
    assert labels(served) == sorted([*(f"{name} (server)" for name in server.names), "tuned (server)"])
    assert all(entry.engine == EngineConfig("vllm", endpoint=(server.url,)) for entry in served)
    assert not any(entry.in_process for entry in served)
    assert "http://127.0.0.1:9" in catalogue.problems[0]


def test_the_key_of_a_server_is_in_no_problem(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORKBENCH_API_KEY", "sk-wrong")
    with StubServer(key="sk-right") as server:
        catalogue = Catalogue(FAKE, servers=[server.url], runs=tmp_path)
        assert labels(catalogue.entries()) == ["fake"]
    assert "sk-" not in " ".join(catalogue.problems)


def test_two_entries_never_share_a_label(tmp_path: Path) -> None:
    for folder in ("a/model", "b/model"):
        (tmp_path / folder).mkdir(parents=True)
        (tmp_path / folder / "config.json").write_text(f'{{"from": "{folder}"}}')
        (tmp_path / folder / "model.safetensors").write_bytes(b"weights")
    flags = ModelFlags(str(tmp_path / "a/model"), engine=EngineConfig("hf"))
    first, second = Catalogue(flags, also=[str(tmp_path / "b/model")], runs=tmp_path / "runs").entries()
    assert first.label == "model"
    assert second.label == f"model {second.key[:6]}"
