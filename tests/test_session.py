"""A session: one engine at a time, the run that a setting belongs to, and what is told before any work."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import workbench.session
from workbench.decodes import BestOfN, Greedy, LabelLikelihood, Majority, Sample
from workbench.engines import EngineConfig
from workbench.errors import UserError
from workbench.methods.grpo import Config as GrpoConfig
from workbench.methods.lora import Config as LoraConfig
from workbench.runs import RunFolder, list_runs
from workbench.session import Session, Setup, content_of, one_sample
from workbench.step_decodes import Revision
from workbench.training.config import Training
from workbench.types import Model


@pytest.fixture
def setup(tmp_path: Path) -> Setup:
    sizes = ("practice=4", "dev=2", "test=3")
    return Setup(task_args=sizes, model="fake", engine=EngineConfig("fake"), runs=tmp_path / "runs", quiet=True)


def test_the_systems_own_decode_and_the_tasks_own_length(setup: Setup, tmp_path: Path) -> None:
    with Session("zero_shot", setup, setup) as session:
        assert session.system().decode == Greedy(max_tokens=32)
        assert session.system(Majority(n=3)).decode == Majority(n=3, max_tokens=32)
        assert session.with_length(Sample(max_tokens=7)) == Sample(max_tokens=7)
        assert session.system().prompt.name == "arithmetic"
    lines = "".join(f'{{"input": "word {i}", "target": "{"ab"[i % 2]}"}}\n' for i in range(40))
    (tmp_path / "labels.jsonl").write_text(lines)
    labelled = replace(setup, task="file", task_args=(f"path={tmp_path / 'labels.jsonl'}", "grader=label"))
    with Session("zero_shot", labelled, labelled) as session:
        assert session.system().decode == LabelLikelihood()
        assert session.system().prompt.name == "classify"


def test_one_engine_at_a_time(setup: Setup) -> None:
    with Session("zero_shot", setup, setup) as session:
        first = session.engine(Model("fake"))
        assert session.engine(Model("fake")) is first
        other = session.engine(Model("fake:0.9"))
        assert other is not first
        assert session.engine(Model("fake")) is not first
        session.close_engine()
        session.close_engine()


def test_an_engine_that_cannot_be_opened_leaves_none(setup: Setup) -> None:
    with Session("zero_shot", setup, setup) as session:
        session.engine(Model("fake"))
        with pytest.raises(UserError, match="no fake model"):
            session.engine(Model("fake:x"))
        assert session.engine(Model("fake")).version == "fake 1"


def ids(root: Path) -> set[str]:
    return {info.id for info in list_runs(root)}


def opened(setup: Setup, config: Any = None) -> str:
    with Session("zero_shot", setup, setup if config is None else config) as session:
        return session.run.id


def test_how_a_run_works_is_not_what_it_computes(setup: Setup) -> None:
    first = opened(setup)
    assert opened(replace(setup, quiet=False)) == first
    assert opened(replace(setup, engine=replace(setup.engine, endpoint=("http://127.0.0.1:1",)))) == first
    others = [
        replace(setup, questions=2),
        replace(setup, split="dev"),
        replace(setup, model="fake:0.7"),
        replace(setup, prompt="arithmetic-steps"),
        replace(setup, task_args=("practice=5", "dev=2", "test=3")),
        replace(setup, engine=EngineConfig("hf")),
    ]
    assert len({first, *map(opened, others)}) == 7


def test_a_changed_prompt_file_is_another_run(setup: Setup, tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    text = (
        "name: mine\npurpose: test\nfor: a test\nsource: this test\nstyle: chat\nvariables: [input]\n"
        'messages: [{role: user, content: "{{ input }}"}]\n'
    )
    file.write_text(text)
    mine = replace(setup, prompt=str(file))
    first = opened(mine)
    assert opened(mine) == first
    file.write_text(text.replace("{{ input }}", "{{ input }} Think."))
    assert opened(mine) != first
    named = replace(mine, name="named")
    opened(named)
    file.write_text(text)
    with pytest.raises(UserError, match="was made with prompt_hash"):
        opened(named)


def test_new_weights_in_the_same_folder_are_another_run(setup: Setup, tmp_path: Path) -> None:
    model = tmp_path / "model"
    model.mkdir()
    (model / "model.safetensors").write_bytes(b"old")
    local = replace(setup, model=str(model))
    first = opened(local)
    (model / "model.safetensors").write_bytes(b"newer")
    assert opened(local) != first


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"prompt": "arithmetik"}, "Did you mean 'arithmetic'"),
        ({"task": "arithmetics"}, "Did you mean 'arithmetic'"),
        ({"questions": 4}, r"questions is 4; it must be a number in \[1, 3\]"),
        ({"split": "train"}, "split is 'train'"),
        ({"task_args": ("=3",)}, "'=3' is not that"),
        ({"name": "../out"}, "name"),
    ],
)
def test_a_mistake_is_told_before_a_run_is_made(setup: Setup, change: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        Session("zero_shot", replace(setup, **change), setup)
    assert ids(setup.runs) == set()


@pytest.mark.parametrize(
    ("error", "state"), [(KeyboardInterrupt, "interrupted"), (RuntimeError, "failed"), (UserError, "failed")]
)
def test_how_a_session_ended_is_written_and_its_folder_is_free(
    setup: Setup, error: type[BaseException], state: str
) -> None:
    with pytest.raises(error), Session("zero_shot", setup, setup):
        raise error
    [info] = list_runs(setup.runs)
    assert info.state == state
    opened(setup)
    assert RunFolder(info.path).state == "done"


def test_two_sessions_do_not_share_a_run(setup: Setup) -> None:
    with Session("zero_shot", setup, setup), pytest.raises(UserError, match="Another process is working in"):
        Session("zero_shot", setup, setup)


def test_a_config_as_content() -> None:
    content = content_of(LoraConfig(training=Training(epochs=2)))
    assert content["training"]["epochs"] == 2 and content["alpha"] is None
    assert "type" not in content


def test_of_a_server_that_draws_only_counts_that_there_is_one() -> None:
    one, other, none = (content_of(GrpoConfig(server=url)) for url in ("http://a:1", "http://a:2", None))
    assert one == other != none


def test_a_scorer_counts_by_its_content(tmp_path: Path) -> None:
    folders = [tmp_path / "here", tmp_path / "there"]
    for folder in folders:
        folder.mkdir()
        (folder / "model.safetensors").write_bytes(b"1")
    one, other = (content_of(BestOfN(scorer=str(folder))) for folder in folders)
    assert one == other
    (folders[1] / "model.safetensors").write_bytes(b"22")
    assert content_of(BestOfN(scorer=str(folders[1]))) != one


def test_a_prompt_of_one_s_own_counts_by_its_content(tmp_path: Path) -> None:
    critique = tmp_path / "critique.yaml"
    critique.write_text("one")
    before = content_of(Revision(critique=str(critique)))
    critique.write_text("another")
    after = content_of(Revision(critique=str(critique)))
    assert before["critique"] != after["critique"] != str(critique)
    assert content_of(Revision())["critique"] == "critique"


def test_one_sample_of_a_vote(setup: Setup) -> None:
    with Session("majority_vote", setup, setup) as session:
        vote = session.measure(session.system(Majority(n=4)))
        interval = one_sample(vote)
        assert interval is not None and interval.value == vote.metric("one_sample")
        assert one_sample(session.measure(session.system())) is None


def test_it_says_things_on_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    workbench.session.say("one moment")
    assert capsys.readouterr() == ("", "one moment\n")
