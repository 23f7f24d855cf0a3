"""No method sees the test split: each one's `adapt` runs on a task that raises when its test is touched."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import workbench.methods
from workbench.decodes import Greedy, Sample
from workbench.drawing import Drawer
from workbench.engines import EngineConfig, open_engine
from workbench.harness import questions_of
from workbench.methods import (
    adapters,
    dpo,
    few_shot,
    grpo,
    head,
    label_scoring,
    lora,
    prompt_search,
    proxy_tuning,
    qlora,
    reward_model,
    self_improve,
    sft,
    soft_prompt,
)
from workbench.prompts import load_prompt
from workbench.runs import Run
from workbench.store import Store
from workbench.tasks.arithmetic import Config as ArithmeticConfig
from workbench.tasks.arithmetic import load
from workbench.tasks.base import Task
from workbench.training.config import Training
from workbench.types import Model, System


class Touched(AssertionError):
    pass


class Closed(Task):
    """A task whose test split may not be looked at."""

    hash = "0" * 16  # type: ignore[assignment]

    def __getattribute__(self, name: str) -> Any:
        if name == "_test":
            raise Touched
        return super().__getattribute__(name)


@pytest.fixture(scope="module")
def closed() -> Task:
    task = load(ArithmeticConfig(practice=8, dev=2, test=2))
    fields = {name: getattr(task, name) for name in Task.__dataclass_fields__}
    fields["labels"] = tuple(sorted({example.target for example in task.practice}))  # a head wants some
    return Closed(**fields)


def adapt_few_shot(system: System, task: Task, root: Path) -> None:
    for exemplars in ("random", "bm25", "embedding"):
        few_shot.adapt(system, task, few_shot.Config(exemplars=exemplars))  # type: ignore[arg-type]


TRAINING = Training(epochs=1, precision="float32")


def adapt_adapters(system: System, task: Task, root: Path) -> None:
    with Run.open(root, "adapters", {}) as run:
        adapters.adapt(system, task, adapters.Houlsby(bottleneck=2, training=TRAINING), run, quiet=True)


def adapt_grpo(system: System, task: Task, root: Path) -> None:
    training = Training(steps=1, batch_size=2, precision="float32")
    config = grpo.Config(num_generations=2, longest=4, lora=lora.Config(training=training))
    with Run.open(root, "grpo", {}) as run:
        grpo.adapt(system, task, config, run, quiet=True)


def adapt_head(system: System, task: Task, root: Path) -> None:
    with Run.open(root, "head", {}) as run:
        head.adapt(system, task, head.Config("warm", training=TRAINING), run, quiet=True)


def adapt_lora(system: System, task: Task, root: Path) -> None:
    with Run.open(root, "lora", {}) as run:
        lora.adapt(system, task, lora.Config(training=TRAINING), run, quiet=True)


def adapt_qlora(system: System, task: Task, root: Path) -> None:
    with Run.open(root, "qlora", {}) as run:
        qlora.adapt(system, task, qlora.Config(training=TRAINING), run, quiet=True)


def adapt_self_improve(system: System, task: Task, root: Path) -> None:
    settings = lora.Config(training=TRAINING)
    config = self_improve.Config(Sample(2), confidence=0, rounds=1, lora=settings)
    with Run.open(root, "self_improve", {}) as run, Store(root / "completions.sqlite") as store:
        drawer = Drawer(EngineConfig("fake"), store, quiet=True)  # two random layers agree on nothing
        self_improve.adapt(system, task, config, run, drawer, quiet=True)


def adapt_dpo(system: System, task: Task, root: Path) -> None:
    settings = lora.Config(rank=2, training=replace(TRAINING, steps=1))
    with Run.open(root, "dpo", {}) as run, Store(root / "completions.sqlite") as store:
        drawer = Drawer(EngineConfig("fake"), store, quiet=True)  # two random layers are never right
        dpo.adapt(system, task, dpo.Config(lora=settings), run, drawer, quiet=True)


def adapt_reward_model(system: System, task: Task, root: Path) -> None:
    settings = lora.Config(rank=2, training=replace(TRAINING, steps=1))
    with Run.open(root, "reward_model", {}) as run, Store(root / "completions.sqlite") as store:
        drawer = Drawer(EngineConfig("fake"), store, quiet=True)
        reward_model.adapt(system, task, reward_model.Config(lora=settings), run, drawer, quiet=True)


def adapt_sft(system: System, task: Task, root: Path) -> None:
    with Run.open(root, "sft", {}) as run:
        sft.adapt(system, task, sft.Config(training=TRAINING), run, quiet=True)


def adapt_prompt_search(system: System, task: Task, root: Path) -> None:
    config = prompt_search.Config(dev_questions=2, first_questions=1)
    engine = open_engine(Model("fake"), EngineConfig("fake"))  # two random layers propose no instruction
    with Run.open(root, "prompt_search", {}) as run, Store(root / "completions.sqlite") as store:
        prompt_search.adapt(system, task, config, run, engine, store, quiet=True)


def adapt_proxy_tuning(system: System, task: Task, root: Path) -> None:
    assert isinstance(system.model, Model)
    with Run.open(root, "proxy_tuning", {}) as run, Store(root / "completions.sqlite") as store:
        drawer = Drawer(EngineConfig(device="cpu", dtype="float32"), store, quiet=True)
        config = proxy_tuning.Config(alphas=(1.0, 2.0))
        proxy_tuning.adapt(system, task, config, run, drawer, system.model, system.model, quiet=True)


def adapt_label_scoring(system: System, task: Task, root: Path) -> None:
    label_scoring.adapt(system, task, label_scoring.Config())


def adapt_soft_prompt(system: System, task: Task, root: Path) -> None:
    for kind in (soft_prompt.PromptTuning, soft_prompt.PrefixTuning):
        with Run.open(root, kind.__name__, {}) as run:
            soft_prompt.adapt(system, task, kind(tokens=2, training=TRAINING), run, quiet=True)


METHODS: dict[str, Callable[[System, Task, Path], None]] = {
    "adapters": adapt_adapters,
    "dpo": adapt_dpo,
    "few_shot": adapt_few_shot,
    "grpo": adapt_grpo,
    "head": adapt_head,
    "label_scoring": adapt_label_scoring,
    "lora": adapt_lora,
    "prompt_search": adapt_prompt_search,
    "proxy_tuning": adapt_proxy_tuning,
    "qlora": adapt_qlora,
    "reward_model": adapt_reward_model,
    "self_improve": adapt_self_improve,
    "sft": adapt_sft,
    "soft_prompt": adapt_soft_prompt,
}


@pytest.mark.parametrize("method", METHODS)
def test_a_method_never_looks_at_test(method: str, closed: Task, tiny_model: Path, tmp_path: Path) -> None:
    METHODS[method](System(Model(str(tiny_model)), load_prompt("arithmetic"), Greedy(16)), closed, tmp_path)


def test_the_spy_sees_a_look(closed: Task) -> None:
    with pytest.raises(Touched):
        questions_of(closed, "test", None)


def test_every_method_is_watched() -> None:
    [folder] = workbench.methods.__path__
    adapting = {
        path.stem for path in Path(folder).glob("*.py") if "\ndef adapt(" in path.read_text(encoding="utf-8")
    }
    assert adapting == METHODS.keys(), "add a new method to METHODS above"
