"""Distillation: only whole and right rationales are learned, behind the student's prompt."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

import recipes.distill
import recipes.lora
from workbench.decodes import Greedy, Sample
from workbench.drawing import Drawer
from workbench.engines import EngineConfig
from workbench.engines.base import Engine
from workbench.engines.fake import FakeEngine
from workbench.errors import UserError
from workbench.files import read_json
from workbench.made_data import read_made
from workbench.methods.distill import Config, make
from workbench.methods.lora import Config as LoraConfig
from workbench.prompts import load_prompt, render
from workbench.runs import Run, RunFolder
from workbench.session import Setup
from workbench.store import Store
from workbench.tasks.arithmetic import Config as ArithmeticConfig
from workbench.tasks.arithmetic import load
from workbench.training.card import cost_of
from workbench.training.config import Data, Training
from workbench.types import Message, Model, Request, System

TASK = load(ArithmeticConfig(practice=5, dev=2, test=2))
STUDENT = System(Model("fake"), load_prompt("arithmetic"), Greedy(32))
BY_ID = {example.id: example for example in TASK.practice}

Script = Callable[[Request, int], str]


class Scripted(Drawer):
    def __init__(self, store: Store, script: Script) -> None:
        super().__init__(EngineConfig("fake"), store, quiet=True)
        self.script, self.requests = script, list[Request]()

    def engine(self, model: Model) -> Engine:
        def noting(request: Request, index: int) -> str:
            self.requests.append(request)
            return self.script(request, index)

        return FakeEngine(model, noting)


def teach(
    root: Path, config: Config, script: Script, system: System = STUDENT
) -> tuple[Path, RunFolder, list[Request]]:
    with Run.open(root, "distill", {}, name="run") as run, Store(root / "store.sqlite") as store:
        drawer = Scripted(store, script)
        return make(system, TASK, config, run, drawer), RunFolder(run.path), drawer.requests


def by_index(*texts: str) -> Script:
    """Sample i of every question, where T is its right answer."""
    return lambda request, index: texts[index].replace("T", BY_ID[request.id].target)


def test_only_whole_and_right_rationales_are_kept(tmp_path: Path) -> None:
    def script(request: Request, index: int) -> str:
        if index == 5:
            raise RuntimeError("HTTP 400: no")
        kinds = ("We add: it is T.", "It is 1234.", "no idea", "T " * 300, "So it is T.")
        return by_index(*kinds)(request, index)

    file, run, asked = teach(tmp_path, Config(rationales=Sample(6)), script)
    made = read_made(file)
    assert [m.completion for m in made] == [
        text for e in TASK.practice for text in (f"We add: it is {e.target}.", f"So it is {e.target}.")
    ]
    for m in made:
        example = BY_ID[str(m.source["question"])]
        assert TASK.grade(m.completion, example).correct
        assert m.prompt == render(STUDENT.prompt, example)
        assert m.source["teacher_prompt"] == "question-steps" and m.source["answer"] == example.target
    teacher = load_prompt("question-steps")
    assert {r.messages for r in asked} == {render(teacher, e) for e in TASK.practice}
    counts = read_json(run.path / "counts.json")
    wanted = {"correct": 10, "wrong": 5, "unparsable": 5, "truncated": 5, "error": 5, "samples": 25, "kept": 10}
    assert {name: counts[name] for name in wanted} == wanted
    assert counts["one_sample"]["value"] == pytest.approx(0.4)
    assert counts["failures"] == {"request refused by the server": 5}
    card = (run.path / "README.md").read_text()
    assert "Of 25 samples for 5 questions 10 were right, 5 wrong, 5 gave no answer and 5 were cut off" in card
    assert cost_of(run).tokens > 0


def test_a_failure_that_may_pass_is_not_written_down_as_finished(tmp_path: Path) -> None:
    def busy(request: Request, index: int) -> str:
        if index:
            raise ConnectionError("gone")
        return by_index("T")(request, index)

    config = Config(rationales=Sample(2))
    with pytest.raises(
        UserError, match=r"5 of 10 requests failed \(rationales\); the first: ConnectionError: gone"
    ):
        teach(tmp_path, config, busy)
    _, run, asked = teach(tmp_path, config, by_index("T", "It is T."))
    assert len(asked) == 5 and read_json(run.path / "counts.json")["error"] == 0


def test_where_every_request_fails_no_score_is_told(tmp_path: Path) -> None:
    def refusing(request: Request, index: int) -> str:
        raise RuntimeError("HTTP 400: no such parameter.")

    with pytest.raises(UserError) as raised:
        teach(tmp_path, Config(rationales=Sample(2)), refusing)
    assert str(raised.value) == (
        "All 10 requests failed (rationales); the first: RuntimeError: HTTP 400: no such parameter."
    )


def test_broken_characters_are_left_out_and_counted(tmp_path: Path) -> None:
    file, run, _ = teach(tmp_path, Config(rationales=Sample(2)), by_index("\ud83d so it is T", "T"))
    assert [m.source["sample"] for m in read_made(file)] == [1] * 5
    counts = read_json(run.path / "counts.json")
    assert (counts["kept"], counts["right_but_broken_characters"], counts["correct"]) == (5, 5, 10)
    assert "5 right ones hold broken characters" in (run.path / "README.md").read_text()


def test_rationales_that_the_task_would_cut_off_are_told(tmp_path: Path) -> None:
    _, run, _ = teach(tmp_path, Config(rationales=Sample(2)), by_index("so " * 40 + "it is T.", "T"))
    counts = read_json(run.path / "counts.json")
    assert (counts["kept"], counts["kept_beyond_limit"], counts["limit"]) == (10, 5, 32)
    assert "5 of those kept are longer than 32 tokens" in (run.path / "README.md").read_text()


def test_at_most_so_many_distinct_ones_of_a_question(tmp_path: Path) -> None:
    script = by_index("T", " T ", "It is T.", "So: T", "999")
    file, run, _ = teach(tmp_path, Config(rationales=Sample(5), keep=2), script)
    assert [m.source["sample"] for m in read_made(file)] == [0, 2] * 5
    counts = read_json(run.path / "counts.json")
    assert (counts["right_but_repeated"], counts["right_but_beyond_keep"]) == (5, 5)
    assert counts["solved_questions"] == counts["questions"] == 5


def test_where_nothing_is_right_nothing_is_made(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"No rationale is right.*10 wrong"):
        teach(tmp_path, Config(rationales=Sample(2)), by_index("1234", "1235"))
    assert not (tmp_path / "run" / "data.jsonl").exists()


def test_a_finished_run_is_not_run_again_and_not_mixed(tmp_path: Path) -> None:
    config = Config(rationales=Sample(2), practice_questions=3)
    file, _, asked = teach(tmp_path, config, by_index("T", "It is T."))
    assert len({r.id for r in asked}) == 3
    before = file.read_bytes()
    again, _, asked = teach(tmp_path, config, by_index("1", "2"))
    assert asked == [] and again.read_bytes() == before
    with pytest.raises(UserError, match="data of another teacher"):
        teach(tmp_path, config, by_index("T", "T"), replace(STUDENT, prompt=load_prompt("question")))


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (lambda: Config(keep=0), "keep is 0"),
        (lambda: Config(practice_questions=0), "practice_questions is 0"),
    ],
)
def test_bad_settings_are_named(config: Callable[[], Config], message: str) -> None:
    with pytest.raises(UserError, match=message):
        config()


def test_bad_input_is_refused_before_anything_is_drawn(tmp_path: Path) -> None:
    begun = replace(STUDENT.prompt, messages=(*STUDENT.prompt.messages, Message("assistant", "It is")))
    with pytest.raises(UserError, match="begins the answer itself"):
        teach(tmp_path, Config(), by_index(), replace(STUDENT, prompt=begun))
    with pytest.raises(UserError, match="practice_questions is 6"):
        teach(tmp_path, Config(practice_questions=6), by_index())
    with pytest.raises(UserError, match="no prompt named 'nope'"):
        teach(tmp_path, Config(teacher_prompt="nope"), by_index())


def test_the_recipe_makes_data_that_a_student_learns(
    tmp_path: Path, tiny_model: Path, one_thread: None, capsys: pytest.CaptureFixture[str]
) -> None:
    sizes = ("practice=6", "dev=2", "test=4")
    setup = Setup(task_args=sizes, model="fake:0.8", engine=EngineConfig("fake"), runs=tmp_path, quiet=True)
    config = recipes.distill.Config(setup, Config(rationales=Sample(3)))
    file = recipes.distill.main(config)
    printed = capsys.readouterr().out
    assert f"workbench lora --data {file} --data-format prompt-completion" in printed
    assert "of 18 samples" in printed
    assert recipes.distill.main(config) == file
    training = Training(
        steps=2, batch_size=2, precision="float32", data=Data(data=str(file), data_format="prompt-completion")
    )
    student = replace(setup, model=str(tiny_model), engine=EngineConfig("hf", device="cpu", dtype="float32"))
    with pytest.raises(UserError, match="practice questions alone: leave --split and --questions out"):
        recipes.distill.main(replace(config, setup=replace(setup, split="dev")))
    with pytest.raises(UserError, match="--practice-questions"):
        recipes.distill.main(replace(config, setup=replace(setup, questions=3)))
    result = recipes.lora.main(recipes.lora.Config(student, LoraConfig(rank=2, training=training)))
    assert result.total == 4
