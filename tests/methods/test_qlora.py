"""QLoRA: LoRA over a base in 4 bits; interrupted = uninterrupted; where its adapter loads, and where not."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from bitsandbytes.nn import Linear4bit
from safetensors.torch import load_file
from transformers import LlamaConfig, LlamaForCausalLM

import workbench.training.sft
from recipes.qlora import Config as RecipeConfig
from recipes.qlora import main
from workbench.adapters import load_weights
from workbench.decodes import Greedy
from workbench.errors import UserError
from workbench.methods.qlora import Config, adapt
from workbench.models import load_tokenizer
from workbench.prompts import load_prompt
from workbench.runs import Run
from workbench.session import Setup
from workbench.tasks.arithmetic import Config as ArithmeticConfig
from workbench.tasks.arithmetic import load
from workbench.training.card import cost_of
from workbench.training.config import Training
from workbench.types import Model, System

TASK = load(ArithmeticConfig(practice=8, dev=1, test=1))
TRAINING = Training(learning_rate=1e-2, epochs=3, batch_size=4, micro_batch=2, precision="float32", save_every=2)
IDS = torch.arange(3, 43).reshape(2, 20)


pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def base(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny model's like, of which every linear layer is packed."""
    return wide(tiny_model, tmp_path_factory.mktemp("models") / "wide", seed=0)


def wide(like: Path, folder: Path, seed: int) -> Path:
    torch.manual_seed(seed)
    config = LlamaConfig.from_pretrained(like, hidden_size=64, intermediate_size=128, head_dim=16)
    LlamaForCausalLM(config).save_pretrained(folder)
    load_tokenizer(Model(str(like))).save_pretrained(folder)
    return folder


class FaultyRun(Run):
    """A run in which a step's metrics are the last thing that happens."""

    ends_after: int | None = None

    def log(self, **metrics: Any) -> None:
        super().log(**metrics)
        if metrics.get("step") == self.ends_after:
            raise KeyboardInterrupt


def tune(base: Path, root: Path, config: Config, ends_after: int | None = None) -> tuple[System, Run]:
    system = System(Model(str(base)), load_prompt("arithmetic"), Greedy(16))
    with FaultyRun.open(root, "qlora", {"config": config}, name="tuned") as run:
        run.ends_after = ends_after
        return adapt(system, TASK, config, run, quiet=True), run


@pytest.fixture(scope="module")
def tuned(base: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[System, Run]:
    return tune(base, tmp_path_factory.mktemp("runs"), Config(rank=2, training=TRAINING))


def logits(model: Model) -> torch.Tensor:
    with torch.no_grad():
        found: torch.Tensor = load_weights(model, "float32", "cpu")(input_ids=IDS).logits
    return found


def test_the_model_slot_says_how_the_base_is_loaded(base: Path, tuned: tuple[System, Run]) -> None:
    system, run = tuned
    adapter = str(run.path / "adapter")
    assert system == System(
        Model(str(base), adapter=adapter, quantization="nf4"), load_prompt("arithmetic"), Greedy(16)
    )
    assert run.read_system().model.quantization == "nf4"
    assert "QLoRA" in (run.path / "README.md").read_text(encoding="utf-8")


def test_it_trains_a_float32_adapter_of_the_formulas_size_over_packed_layers(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """r·(d_in + d_out), summed; nothing of the base moves; it starts as the base."""
    fit = workbench.training.sft.fit
    seen: list[str] = []

    def spied(weights: Any, *rest: Any) -> None:
        before = {name: p.detach().clone() for name, p in weights.named_parameters()}
        assert sum(isinstance(module, Linear4bit) for module in weights.modules()) == 14
        assert {p.dtype for p in weights.parameters() if p.requires_grad} == {torch.float32}
        mask = torch.ones(20, 20, dtype=torch.bool).tril().expand(2, 1, 20, 20)
        with torch.no_grad(), weights.disable_adapter():
            without = weights(input_ids=IDS, attention_mask=mask).logits
        with torch.no_grad():
            assert torch.equal(weights(input_ids=IDS, attention_mask=mask).logits, without)
        fit(weights, *rest)
        after = dict(weights.named_parameters())
        seen.extend(name for name in before if not torch.equal(before[name], after[name]))

    monkeypatch.setattr(workbench.training.sft, "fit", spied)
    config = Config(rank=2, training=replace(TRAINING, precision="bfloat16"))
    _, run = tune(base, tmp_path, config)
    q, kv, o, mlp = 64 + 64, 64 + 32, 64 + 64, 3 * (64 + 128)
    assert seen and all("lora_" in name for name in seen)
    weights = load_file(run.path / "adapter" / "adapter_model.safetensors")
    assert {weight.dtype for weight in weights.values()} == {torch.float32}
    assert sum(w.numel() for w in weights.values()) == cost_of(run).parameters == 2 * 2 * (q + 2 * kv + o + mlp)
    [first, *_, last] = [line["loss"] for line in run.metrics() if "loss" in line]
    assert last < first


def test_an_interrupted_run_ends_as_an_uninterrupted_one(
    base: Path, tmp_path: Path, tuned: tuple[System, Run]
) -> None:
    """Stopped after update 3, whose checkpoint is one behind."""
    config = Config(rank=2, training=TRAINING)
    with pytest.raises(KeyboardInterrupt):
        tune(base, tmp_path, config, ends_after=3)
    _, run = tune(base, tmp_path, config)
    whole = tuned[1]
    assert [line["step"] for line in run.metrics()] == [1, 2, 3, 3, 4, 5, 6]
    assert {line["step"]: line["loss"] for line in run.metrics()} == {
        line["step"]: line["loss"] for line in whole.metrics()
    }
    one, other = (load_file(r.path / "adapter" / "adapter_model.safetensors") for r in (run, whole))
    assert one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize("kind", [{"rslora": True}, {"dora": True}], ids=["rsQLoRA", "QDoRA"])
def test_loras_kin_over_a_packed_base(kind: Any, base: Path, tmp_path: Path) -> None:
    system, run = tune(base, tmp_path, Config(rank=2, training=replace(TRAINING, epochs=2), **kind))
    found = logits(system.model)
    assert torch.isfinite(found).all()
    assert not torch.allclose(found, logits(replace(system.model, adapter=None)), atol=1e-2)
    expected = "QDoRA" if kind.get("dora") else "rsQLoRA"
    assert expected in (run.path / "README.md").read_text(encoding="utf-8")


def test_the_adapter_loads_on_the_plain_base_too(tuned: tuple[System, Run]) -> None:
    """It changes the plain base as well, whose answers are not those of the packed one."""
    model = tuned[0].model
    plain = replace(model, quantization=None)
    assert not torch.allclose(logits(plain), logits(replace(plain, adapter=None)), atol=1e-2)
    assert not torch.allclose(logits(plain), logits(model), atol=1e-2)


@pytest.mark.parametrize("quantization", [None, "nf4"])
def test_on_another_base_it_is_refused(
    quantization: str | None, tiny_model: Path, tmp_path: Path, tuned: tuple[System, Run]
) -> None:
    """The embeddings tell, which are never packed."""
    other = wide(tiny_model, tmp_path / "other", seed=1)
    model = replace(tuned[0].model, base=str(other), quantization=quantization)
    with pytest.raises(UserError, match=r"does not fit the base model.*it was trained on other weights \("):
        load_weights(model, "float32", "cpu")


def test_a_plain_bases_adapter_loads_on_it_packed_and_on_no_other(tiny_model: Path, tmp_path: Path) -> None:
    """The other way round: of the base's values that the adapter knows, those of packed layers tell nothing."""
    from workbench.methods import lora

    base = wide(tiny_model, tmp_path / "base", seed=0)
    system = System(Model(str(base)), load_prompt("arithmetic"), Greedy(16))
    with Run.open(tmp_path, "lora", {}) as run:
        model = lora.adapt(system, TASK, lora.Config(rank=2, training=TRAINING), run, quiet=True).model
    assert torch.isfinite(logits(replace(model, quantization="nf4"))).all()
    other = wide(tiny_model, tmp_path / "other", seed=1)
    with pytest.raises(UserError, match="it was trained on other weights"):
        load_weights(replace(model, base=str(other), quantization="nf4"), "float32", "cpu")


def test_a_model_that_has_an_adapter_is_refused(base: Path, tmp_path: Path) -> None:
    system = System(Model(str(base), adapter="somewhere"), load_prompt("arithmetic"), Greedy())
    with Run.open(tmp_path, "qlora", {}) as run, pytest.raises(UserError, match="'somewhere' already"):
        adapt(system, TASK, Config(), run)


def test_a_setting_out_of_range_is_named_as_loras() -> None:
    with pytest.raises(UserError, match=r"^rank is 0"):
        Config(rank=0)


def test_the_recipe_tunes_and_measures(base: Path, tmp_path: Path) -> None:
    setup = Setup(
        task_args=("practice=8", "dev=1", "test=2"), model=str(base), runs=tmp_path, name="q", quiet=True
    )
    result = main(RecipeConfig(setup=setup, qlora=Config(rank=2, training=replace(TRAINING, steps=2))))
    assert result.total == 2
    assert result.cost_to_make.parameters == 2 * 2 * (2 * (64 + 64) + 2 * (64 + 32) + 3 * (64 + 128))
