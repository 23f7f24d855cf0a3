"""Self-improvement: what is kept and learned, that no right answer is reached, rounds, cost, going on."""

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import recipes.self_improve
from workbench.decodes import Greedy, Sample, Sampling
from workbench.drawing import Drawer
from workbench.engines import EngineConfig
from workbench.engines.base import Batch, Engine
from workbench.engines.fake import FakeEngine
from workbench.errors import UserError
from workbench.files import read_json
from workbench.identity import folder_hash, model_identity, system_hash
from workbench.made_data import Made, read_made
from workbench.methods.lora import Config as LoraConfig
from workbench.methods.self_improve import Config, adapt, systems_of
from workbench.prompts import load_prompt
from workbench.runs import Run, RunFolder
from workbench.session import Setup
from workbench.store import Store
from workbench.tasks.arithmetic import Config as ArithmeticConfig
from workbench.tasks.arithmetic import load
from workbench.tasks.base import Grade, Task
from workbench.training.card import cost_of
from workbench.training.config import Data, Training
from workbench.types import CostToMake, Example, Message, Model, Request, System

TASK = load(ArithmeticConfig(practice=6, dev=4, test=4))
LORA = LoraConfig(rank=2, training=Training(steps=2, batch_size=4, micro_batch=4, precision="float32"))
CONFIG = Config(paths=Sample(n=4), rounds=1, lora=LORA)


@pytest.fixture(autouse=True)
def _single(one_thread: None) -> None:
    """A model this small is slower on two threads."""


@pytest.fixture
def system(tiny_model: Path) -> System:
    return System(Model(str(tiny_model)), load_prompt("arithmetic"), Greedy(16))


Script = Callable[[Request, int], str]


class Scripted(Drawer):
    """Every model is a scripted engine; what is asked of which model is noted, and it dies where it is told to."""

    def __init__(self, store: Store, script: Script | None = None, dies_after: int | None = None) -> None:
        super().__init__(EngineConfig("fake"), store, quiet=True)
        self.script, self.dies_after = script, dies_after
        self.asked: list[tuple[str | None, str, int]] = []

    def engine(self, model: Model) -> Engine:
        drawer = self

        class Noting(FakeEngine):
            def sample(self, requests: Sequence[Request], sampling: Sampling) -> Iterator[Batch]:
                for batch in super().sample(requests, sampling):
                    drawer.asked += [(model.adapter, id, c.index) for id, c in batch]
                    if drawer.dies_after is not None and len(drawer.asked) > drawer.dies_after:
                        raise KeyboardInterrupt
                    yield batch

        # Made-up answers depend on the model's name: the same wherever the adapter lies.
        return Noting(replace(model, adapter=model.adapter and Path(model.adapter).parent.name), self.script)


def improve(
    root: Path,
    system: System,
    config: Config = CONFIG,
    *,
    task: Task = TASK,
    script: Script | None = None,
    dies_after: int | None = None,
) -> tuple[System, Path, Scripted]:
    with Run.open(root, "self_improve", {}, name="run") as run, Store(root / "store.sqlite") as store:
        drawer = Scripted(store, script, dies_after)
        return adapt(system, task, config, run, drawer, quiet=True), run.path, drawer


def rows(run: Path, number: int = 1) -> list[Made]:
    return read_made(run / f"round-{number}-data" / "data.jsonl")


def answers(*texts: str) -> Script:
    """The same texts to every question, one a sample."""
    return lambda request, index: texts[index]


# --- what is kept -------------------------------------------------------------------------------------


def test_every_path_of_a_confident_majority_is_kept_once(tmp_path: Path, system: System) -> None:
    script = answers("It is 7.", "It is  7.", "7", "8")
    _, run, _ = improve(tmp_path, system, script=script)
    kept = rows(run)
    assert [made.completion for made in kept] == ["It is 7.", "7"] * 6
    assert [made.source["sample"] for made in kept[:2]] == [0, 2]
    [first] = [made for made in kept if made.id == f"{TASK.practice[0].id}-0"]
    assert first.prompt == tuple(
        Message(m.role, m.content.replace("{{ input }}", TASK.practice[0].input)) for m in system.prompt.messages
    )
    told = {name: first.source[name] for name in ("method", "round", "answer", "votes", "samples", "confidence")}
    wanted = {"method": "self_improve", "round": 1, "answer": "7", "votes": 3, "samples": 4, "confidence": 0.75}
    assert told == wanted
    votes = read_json(run / "round-1-data" / "votes.json")
    assert (votes["kept_questions"], votes["kept_paths"], votes["examples"]) == (6, 18, 12)
    card = (run / "round-1-data" / "README.md").read_text()
    assert "No right answer was looked at" in card and str(tmp_path) not in card


def test_with_repeats_all_are(tmp_path: Path, system: System) -> None:
    _, run, _ = improve(tmp_path, system, replace(CONFIG, repeats=True), script=answers("7", "7", "It is 7.", "8"))
    assert len(rows(run)) == 18


def test_a_question_below_the_threshold_is_left_out(tmp_path: Path, system: System) -> None:
    sure = TASK.practice[2].id

    def script(request: Request, index: int) -> str:
        return "7" if request.id == sure or index < 2 else str(index)

    _, run, _ = improve(tmp_path, system, replace(CONFIG, confidence=0.51), script=script)
    assert {made.source["question"] for made in rows(run)} == {sure}


def test_cut_off_and_unparsable_samples_never_vote_and_lower_the_confidence(
    tmp_path: Path, system: System
) -> None:
    long = "7 " * 40  # more than the limit of 32 tokens
    _, run, _ = improve(tmp_path, system, script=answers("It is 8.", long, long, "8"))
    assert {made.completion for made in rows(run)} == {"It is 8.", "8"}
    assert {made.source["confidence"] for made in rows(run)} == {0.5}
    told = read_json(run / "round-1-data" / "votes.json")
    assert (told["truncated"], told["unparsable"], told["samples"]) == (12, 0, 24)
    with pytest.raises(UserError, match=r"No question of 6 has a majority .* the highest is 0\.25"):
        improve(tmp_path / "b", system, script=answers("nothing at all", long, long, "8"))
    assert not (tmp_path / "b" / "run" / "round-1-data" / "data.jsonl").exists()


def test_requests_that_fail_for_good_are_no_samples(tmp_path: Path, system: System) -> None:
    def script(request: Request, index: int) -> str:
        if index == 3:
            raise RuntimeError("HTTP 400: no")
        return "7"

    _, run, _ = improve(tmp_path, system, script=script)
    told = read_json(run / "round-1-data" / "votes.json")
    assert (told["failed"], told["samples"]) == ({"request refused by the server": 6}, 18)
    assert {made.source["confidence"] for made in rows(run)} == {1.0}
    with pytest.raises(
        UserError, match=r"All 24 requests failed \(round 1: paths\); the first: RuntimeError: HTTP"
    ):
        improve(tmp_path / "b", system, script=lambda request, index: script(request, 3))


def test_a_failure_that_may_pass_is_not_written_down_as_done(tmp_path: Path, system: System) -> None:
    def script(request: Request, index: int) -> str:
        if index == 3:
            raise ConnectionError("gone")
        return "7"

    with pytest.raises(UserError, match=r"6 of 24 requests failed .* the same command asks these again"):
        improve(tmp_path, system, script=script)
    assert not (tmp_path / "run" / "round-1-data" / "votes.json").exists()
    _, run, drawer = improve(tmp_path, system, script=answers("7", "7", "7", "8"))
    assert len(drawer.asked) == 6 and read_json(run / "round-1-data" / "votes.json")["samples"] == 24


@pytest.mark.parametrize("repeats", [True, False])
def test_broken_characters_are_left_out_and_counted(tmp_path: Path, system: System, repeats: bool) -> None:
    script = answers("\ud83d 7", "7", "7", "8")
    _, run, _ = improve(tmp_path, system, replace(CONFIG, repeats=repeats), script=script)
    assert [made.source["sample"] for made in rows(run)] == ([1, 2] if repeats else [1]) * 6
    assert read_json(run / "round-1-data" / "votes.json")["broken_characters"] == 6
    assert "6 kept paths hold broken characters" in (run / "round-1-data" / "README.md").read_text()


# --- never a right answer -----------------------------------------------------------------------------


class Secret(Example):
    """A question whose answer cannot be read."""

    def __getattribute__(self, name: str) -> Any:
        if name in ("target", "rationale"):
            raise AssertionError(f"{name} was read")
        return super().__getattribute__(name)


class Hashed(Task):
    """A task that is known by a name in place of the hash of its targets."""

    hash = "0" * 16


def variant(change: Callable[[Example], Example], grade: Callable[[str, Example], Grade] = TASK.grade) -> Task:
    fields = {name: getattr(TASK, name) for name in Task.__dataclass_fields__} | {"grade": grade}
    for split in ("practice", "dev", "_test"):
        fields[split] = tuple(change(example) for example in getattr(TASK, split))
    return Hashed(**fields)


def test_right_answers_cannot_be_reached(tmp_path: Path, system: System) -> None:
    """With targets that raise when they are read, or are all wrong, the data are the same to the byte."""
    seen = set()

    def grade(text: str, example: Example) -> Grade:
        seen.add((example.target, example.rationale, example.id))
        return TASK.grade(text, example)

    def secret(e: Example) -> Example:
        return Secret(e.id, e.input, e.target, e.rationale, e.variables)

    tasks = {
        "known": variant(lambda e: e),
        "secret": variant(secret, grade),
        "poisoned": variant(lambda e: replace(e, target="-98765", rationale="It is -98765.")),
    }
    config = replace(CONFIG, rounds=2, confidence=0.3)
    made = {}
    for name, task in tasks.items():
        _, run, _ = improve(tmp_path / name, system, config, task=task)
        made[name] = [(run / f"round-{n}-data" / "data.jsonl").read_bytes() for n in (1, 2)]
        made[name] += [(run / "adapter" / "adapter_model.safetensors").read_bytes()]
    assert made["known"] == made["secret"] == made["poisoned"]
    assert seen == {("0", "", "")}, "the grader saw nothing but the stand-in"
    assert b"98765" not in made["poisoned"][0], "what no model makes up"


# --- rounds -------------------------------------------------------------------------------------------


def test_a_round_samples_the_model_of_the_one_before_and_trains_the_base(tmp_path: Path, system: System) -> None:
    config = replace(CONFIG, rounds=2, confidence=0.3)
    improved, run, drawer = improve(tmp_path, system, config)
    adapters = [str(run / f"round-{n}" / "adapter") for n in (1, 2)]
    assert list(dict.fromkeys(adapter for adapter, _, _ in drawer.asked)) == [None, adapters[0]]
    assert folder_hash(run / "adapter") == folder_hash(adapters[1]) != folder_hash(adapters[0])
    assert improved == replace(system, model=replace(system.model, adapter=str(run / "adapter")))
    assert system_hash(RunFolder(run).read_system()) == system_hash(improved)
    assert next(made.source["model"] for made in rows(run, 2)) == model_identity(
        replace(system.model, adapter=adapters[0])
    )
    assert next(made.source["round"] for made in rows(run, 2)) == 2
    systems = systems_of(system, config, RunFolder(run))
    assert list(systems) == ["before", "round 1", "round 2"] and systems["before"] == (system, CostToMake())
    after, cost = systems["round 2"]
    assert system_hash(after) == system_hash(improved) and cost == cost_of(RunFolder(run))


def test_the_cost_is_that_of_all_sampling_and_training(tmp_path: Path, system: System) -> None:
    _, run, _ = improve(tmp_path, system, replace(CONFIG, rounds=2, confidence=0.3))
    parts = [cost_of(RunFolder(run / name)) for name in ("round-1-data", "round-1", "round-2-data", "round-2")]
    whole = cost_of(RunFolder(run))
    assert all(part.tokens for part in parts)
    assert whole.tokens == sum(part.tokens for part in parts)
    assert whole.seconds == pytest.approx(sum(part.seconds for part in parts))
    assert whole.parameters == parts[-1].parameters > 0


def test_the_card_tells_the_rounds(tmp_path: Path, system: System) -> None:
    _, run, _ = improve(tmp_path, system, replace(CONFIG, rounds=2, confidence=0.3))
    card = (run / "README.md").read_text()
    assert "self-improvement (LMSI) on arithmetic" in card and "| 2 | 6 |" in card
    assert "with the answers that the model itself agreed on" in card and str(tmp_path) not in card
    lines = RunFolder(run).metrics()
    assert [line["round"] for line in lines if line.get("event") == "round"] == [1, 2]
    assert [line["step"] for line in lines if "loss" in line] == [1, 2]
    assert read_json(run / "rounds.json")[1]["entropy"]["value"] >= 0


def test_the_card_tells_what_went_wrong_in_every_round(tmp_path: Path, system: System) -> None:
    config = replace(CONFIG, rounds=2, confidence=0.3)
    _, run, _ = improve(tmp_path, system, config)
    assert "neither diverged nor ran out of memory" in (run / "README.md").read_text()
    with (run / "round-1" / "metrics.jsonl").open("a") as file:
        file.write('{"event": "rollback", "step": 2, "reason": "the loss is nan", "rate_factor": 0.5}\n')
        file.write('{"event": "halved", "step": 2, "micro_batch": 2}\n')
    improve(tmp_path, system, config)
    card = (run / "README.md").read_text()
    assert "neither diverged" not in card and "Round 1: The training diverged once" in card
    assert "micro_batch went down to 2" in card and "Round 2: " not in card


# --- going on -----------------------------------------------------------------------------------------


def test_a_finished_run_is_not_run_again(tmp_path: Path, system: System) -> None:
    improve(tmp_path, system)
    before = {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*.safetensors")}
    again, _, drawer = improve(tmp_path, system)
    assert drawer.asked == [] and again.model.adapter == str(tmp_path / "run" / "adapter")
    assert before == {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*.safetensors")}


@pytest.mark.parametrize("dies_after", [5, 30])
def test_an_interrupted_run_goes_on_to_the_same_end(tmp_path: Path, system: System, dies_after: int) -> None:
    config = replace(CONFIG, rounds=2, confidence=0.3)
    _, whole, _ = improve(tmp_path / "a", system, config)
    with pytest.raises(KeyboardInterrupt):
        improve(tmp_path / "b", system, config, dies_after=dies_after)
    _, run, drawer = improve(tmp_path / "b", system, config)
    assert len(drawer.asked) <= 48 - dies_after + 4, "what was stored is not drawn again"
    for number in (1, 2):
        name = f"round-{number}-data/data.jsonl"
        assert (run / name).read_bytes() == (whole / name).read_bytes()
    assert folder_hash(run / "adapter") == folder_hash(whole / "adapter")


# --- bad input ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Config(confidence=1.5), "confidence is 1.5"),
        (lambda: Config(rounds=0), "rounds is 0"),
        (lambda: Config(practice_questions=0), "practice_questions is 0"),
        (lambda: Config(stand_in=" "), "stand_in is empty"),
        (lambda: Config(lora=LoraConfig(training=Training(data=Data(data="x.jsonl")))), "leave --data out"),
    ],
)
def test_bad_settings_are_named(make: Callable[[], Config], message: str) -> None:
    with pytest.raises(UserError, match=message):
        make()


def test_what_cannot_be_improved_is_refused_before_anything_is_drawn(tmp_path: Path, system: System) -> None:
    begun = replace(system.prompt, messages=(*system.prompt.messages, Message("assistant", "It is")))
    text = replace(system.prompt, style="text")
    for bad, message in (
        (replace(system, model=replace(system.model, adapter="somewhere")), "has the adapter 'somewhere' already"),
        (replace(system, prompt=begun), "begins the answer itself"),
        (replace(system, prompt=text), "is plain text, and a model with a chat template"),
    ):
        with pytest.raises(UserError, match=message):
            improve(tmp_path, bad)
    with pytest.raises(UserError, match="practice_questions is 7"):
        improve(tmp_path, system, replace(CONFIG, practice_questions=7))
    with Run.open(tmp_path, "x", {}, name="x") as run, Store(tmp_path / "s.sqlite") as store:
        drawer = Drawer(EngineConfig("vllm"), store, quiet=True)
        with pytest.raises(UserError, match="--engine hf"):
            adapt(system, TASK, CONFIG, run, drawer, quiet=True)
    assert not list(tmp_path.glob("run/round-1*"))


def test_several_processes_are_refused_before_anything_is_drawn(
    tmp_path: Path, system: System, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(
        UserError, match=r"`accelerate launch` is for one training, and self-improvement is several"
    ):
        improve(tmp_path, system)


def test_a_base_model_learns_its_plain_prompt(tmp_path: Path, tiny_base_model: Path) -> None:
    system = System(Model(str(tiny_base_model)), replace(load_prompt("arithmetic"), style="text"), Greedy(16))
    _, run, _ = improve(tmp_path, system, script=answers(" 7", " 7", " 7", "8"))
    first = rows(run)[0]
    assert isinstance(first.prompt, str) and first.prompt.startswith(TASK.practice[0].input)
    assert first.completion == " 7"


# --- the recipe ---------------------------------------------------------------------------------------


def test_the_recipe_measures_before_and_after(
    tmp_path: Path, tiny_model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    setup = Setup(
        task_args=("practice=6", "dev=4", "test=6"),
        model=str(tiny_model),
        engine=EngineConfig("fake"),
        runs=tmp_path,
        name="it",
        quiet=True,
    )
    config = recipes.self_improve.Config(setup, replace(CONFIG, confidence=0.3))
    result = recipes.self_improve.main(config)
    printed = capsys.readouterr().out
    run = RunFolder(tmp_path / "it")
    assert run.state == "done" and run.read_result() == result
    assert system_hash(run.read_system()) == result.system
    for name in ("before-greedy", "before-one-sample", "before-vote-of-4", "round-1-vote-of-4"):
        assert run.read_result(name) is not None
    assert "| vote of 4 | round 1 |" in printed and "exact McNemar" in printed and "paired bootstrap" in printed
    assert "6 systems have been looked at" in printed
    [before, after] = read_json(run.path / "calibration.json")
    assert before["questions"] == after["questions"] == 4
    assert sum(b["total"] for b in before["bins"]) == 4
    lines = [line for line in run.metrics() if line.get("event") == "dev"]
    assert [line["name"] for line in lines] == ["before", "round 1"]
    assert lines[1]["entropy"] == after["entropy"]["value"]
    assert (run.path / "reliability.svg").read_text().startswith("<svg ")
    card = (run.path / "README.md").read_text()
    for heading in ("## Rounds", "## Result", "## Before and after", "## Confidence and accuracy"):
        assert card.count(heading) == 1
    assert result.cost_to_make == cost_of(run)
    before_cost = run.read_result("before-greedy")
    assert before_cost is not None and before_cost.cost_to_make.tokens == 0
    assert recipes.self_improve.main(config) == result
    assert (run.path / "README.md").read_text() == card
    assert json.loads((run.path / "state.json").read_text())["state"] == "done"
