"""LoRA and its kin: they start as the base, move only what they may, and their adapters are PEFT's."""

import math
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from peft import PeftModel, get_peft_model
from peft.tuners.lora import LoraLayer
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

import workbench.training.sft
from workbench.adapters import load_weights
from workbench.decodes import Greedy
from workbench.errors import UserError
from workbench.files import write_json
from workbench.methods.lora import TARGETS, Config, adapt, peft_settings
from workbench.prompts import load_prompt
from workbench.runs import Run
from workbench.tasks.arithmetic import Config as ArithmeticConfig
from workbench.tasks.arithmetic import load
from workbench.training.card import cost_of
from workbench.training.config import Training
from workbench.types import Model, System

TASK = load(ArithmeticConfig(practice=8, dev=1, test=1))
TRAINING = Training(learning_rate=1e-2, epochs=1, batch_size=8, micro_batch=8, precision="float32")
IDS = torch.arange(3, 43).reshape(2, 20)


pytestmark = pytest.mark.usefixtures("one_thread")


def tune(model: Path, root: Path, config: Config) -> tuple[System, Run]:
    system = System(Model(str(model)), load_prompt("arithmetic"), Greedy(16))
    with Run.open(root, "lora", {"config": config}) as run:
        return adapt(system, TASK, config, run, quiet=True), run


def plain(model: Path) -> Any:
    return AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32).eval()


@pytest.mark.parametrize(
    ("kind", "moving"),
    [
        ({}, ("lora_B",)),
        ({"rslora": True}, ("lora_B",)),
        ({"dora": True}, ("lora_B", "magnitude")),
    ],
    ids=["LoRA", "rsLoRA", "DoRA"],
)
def test_it_starts_as_the_base_and_the_first_step_moves_only_b(
    kind: Any, moving: tuple[str, ...], tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A spy around the training sees the model before and after its only step."""
    base = plain(tiny_model)
    fit = workbench.training.sft.fit
    before: dict[str, torch.Tensor] = {}
    seen: list[Any] = []

    def spied(weights: Any, *rest: Any) -> None:
        mask = torch.ones(20, 20, dtype=torch.bool).tril().expand(2, 1, 20, 20)
        with torch.no_grad():
            fresh = weights(input_ids=IDS, attention_mask=mask).logits
            weights.disable_adapter_layers()
            without = weights(input_ids=IDS, attention_mask=mask).logits
            weights.enable_adapter_layers()
            assert torch.allclose(fresh, without, atol=1e-5) if kind.get("dora") else torch.equal(fresh, without)
            assert torch.allclose(fresh, base(input_ids=IDS).logits, atol=1e-5)
        before.update({name: p.detach().clone() for name, p in weights.named_parameters()})
        fit(weights, *rest)
        seen.append(weights)

    monkeypatch.setattr(workbench.training.sft, "fit", spied)
    _, run = tune(tiny_model, tmp_path, Config(rank=2, training=TRAINING, **kind))
    assert len(run.metrics()) == 1
    for name, p in seen[0].named_parameters():
        moved = not torch.equal(p, before[name])
        assert moved == any(part in name for part in moving), name


def test_no_weight_of_the_base_ever_moves_and_the_update_has_the_rank(tiny_model: Path, tmp_path: Path) -> None:
    files = {file.name: file.read_bytes() for file in tiny_model.iterdir()}
    tuned, run = tune(tiny_model, tmp_path, Config(rank=2, training=replace(TRAINING, epochs=4)))
    assert {file.name: file.read_bytes() for file in tiny_model.iterdir()} == files
    weights = load_file(run.path / "adapter" / "adapter_model.safetensors")
    assert all("lora_A" in name or "lora_B" in name for name in weights)
    merged = PeftModel.from_pretrained(plain(tiny_model), str(tuned.model.adapter)).merge_and_unload()
    base = plain(tiny_model).state_dict()
    for name, weight in merged.state_dict().items():
        change = (weight - base[name]).float()
        assert change.ndim < 2 or torch.linalg.matrix_rank(change, rtol=1e-3) <= 2, name


@pytest.mark.parametrize("targets", ["all-linear", "attention", "mlp", "qv"])
def test_its_size_is_the_formula(tiny_model: Path, tmp_path: Path, targets: Any) -> None:
    """r·(d_in + d_out), summed: hidden 32, feed-forward 64, 4 heads and 2 key heads of 8, two layers."""
    q, k, v, o = 32 + 32, 32 + 16, 32 + 16, 32 + 32
    mlp = (32 + 64) * 3
    sums = {"all-linear": q + k + v + o + mlp, "attention": q + k + v + o, "mlp": mlp, "qv": q + v}
    _, run = tune(tiny_model, tmp_path, Config(rank=3, targets=targets, training=TRAINING))
    weights = load_file(run.path / "adapter" / "adapter_model.safetensors")
    assert sum(w.numel() for w in weights.values()) == cost_of(run).parameters == 3 * 2 * sums[targets]
    assert set(TARGETS) == set(sums)


@pytest.mark.parametrize("kind", [{}, {"rslora": True}, {"dora": True}], ids=["LoRA", "rsLoRA", "DoRA"])
def test_what_the_formula_counts_moves_and_merged_is_unmerged(
    kind: Any, tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In three steps every single one of the numbers; and any tool that reads PEFT's format reads the adapter."""
    fit = workbench.training.sft.fit
    moved: list[int] = []

    def spied(weights: Any, *rest: Any) -> None:
        before = {name: p.detach().clone() for name, p in weights.named_parameters()}
        fit(weights, *rest)
        moved.append(sum(int((p != before[name]).sum()) for name, p in weights.named_parameters()))

    monkeypatch.setattr(workbench.training.sft, "fit", spied)
    tuned, run = tune(tiny_model, tmp_path, Config(rank=2, training=replace(TRAINING, epochs=3), **kind))
    weights = load_file(run.path / "adapter" / "adapter_model.safetensors")
    outputs = 2 * (32 + 16 + 16 + 32 + 64 + 64 + 32) if kind.get("dora") else 0
    formula = 2 * 2 * 512 + outputs
    assert formula == sum(w.numel() for w in weights.values()) == cost_of(run).parameters == moved[0]

    assert tuned.model.adapter is not None
    unmerged = PeftModel.from_pretrained(plain(tiny_model), tuned.model.adapter).eval()
    with torch.no_grad():
        expected = unmerged(input_ids=IDS).logits
        assert torch.equal(load_weights(tuned.model, "float32", "cpu")(input_ids=IDS).logits, expected)
        assert torch.allclose(unmerged.merge_and_unload()(input_ids=IDS).logits, expected, atol=1e-4)
        assert not torch.allclose(plain(tiny_model)(input_ids=IDS).logits, expected, atol=1e-2)
    names = {"rslora": "rsLoRA", "dora": "DoRA"}
    card = (run.path / "README.md").read_text(encoding="utf-8")
    assert f", {names.get(next(iter(kind), ''), 'LoRA')} on arithmetic" in card


def test_the_embedded_model_has_these_parameters_a_rank() -> None:
    """A model of its shape without weights: 30 layers, hidden 576, feed-forward 1536, 3 key heads of 64."""
    shape = LlamaConfig(
        vocab_size=49152, hidden_size=576, intermediate_size=1536, num_hidden_layers=30, num_attention_heads=9,
        num_key_value_heads=3, tie_word_embeddings=True,
    )  # fmt: skip

    def trained(**settings: Any) -> int:
        with torch.device("meta"):
            base = LlamaForCausalLM(shape)
            adapted = get_peft_model(base, peft_settings(base, Config(**settings)))
        return sum(p.numel() for p in adapted.parameters() if p.requires_grad)

    expected = {"qv": 57_600, "attention": 115_200, "mlp": 190_080, "all-linear": 305_280}
    assert {targets: trained(rank=1, targets=targets) for targets in expected} == expected
    assert trained(rank=8) == 2_442_240
    assert trained(rank=8, dora=True) == 2_442_240 + 155_520


def test_modules_by_their_own_names(tiny_model: Path, tmp_path: Path) -> None:
    _, run = tune(tiny_model, tmp_path, Config(rank=3, targets="v_proj, layers.1.mlp.up_proj", training=TRAINING))
    weights = load_file(run.path / "adapter" / "adapter_model.safetensors")
    assert sum(w.numel() for w in weights.values()) == 3 * (2 * (32 + 16) + (32 + 64))


@pytest.mark.parametrize("targets", ["w_proj", "q_proj,oproj", "proj", "", "lm_head"])
def test_a_module_that_the_model_lacks_is_refused(targets: str, tiny_model: Path) -> None:
    """Also a name's end that is no whole name, and the output layer, which is the embeddings."""
    expected = (
        r"no linear module named .* There are: down_proj, .*q_proj, up_proj, v_proj\. Or --targets all-linear"
    )
    with pytest.raises(UserError, match=expected):
        peft_settings(plain(tiny_model), Config(targets=targets))


def test_names_of_another_architecture_are_refused() -> None:
    with torch.device("meta"):
        gpt2 = GPT2LMHeadModel(GPT2Config(n_layer=1, n_embd=32, n_head=2, vocab_size=64))
    with pytest.raises(UserError, match=r"named 'q_proj'.*There are: c_attn, c_fc, c_proj\."):
        peft_settings(gpt2, Config(targets="attention"))
    assert set(peft_settings(gpt2, Config(targets="c_attn,c_fc")).target_modules) == {"c_attn", "c_fc"}


@given(rank=st.integers(1, 256), alpha=st.none() | st.floats(0.5, 1000), rslora=st.booleans())
@settings(max_examples=25)
def test_the_scale_is_alpha_by_r_or_by_its_root(rank: int, alpha: float | None, rslora: bool) -> None:
    """Without α it is 2 at every rank; under rsLoRA 16/√r. The layer's own scale tells."""
    with torch.device("meta"):
        base = LlamaForCausalLM(
            LlamaConfig(
                vocab_size=8, hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=1
            )
        )
        config = Config(rank=rank, alpha=alpha, targets="v_proj", rslora=rslora)
        adapted = get_peft_model(base, peft_settings(base, config))
    [layer] = [module for module in adapted.modules() if isinstance(module, LoraLayer)]
    expected = (16.0 if alpha is None else alpha) / math.sqrt(rank) if rslora else (alpha or 2 * rank) / rank
    assert math.isclose(layer.scaling["default"], expected)


def test_only_the_model_slot_changes_and_a_finished_run_is_not_run_again(tiny_model: Path, tmp_path: Path) -> None:
    config = Config(rank=2, training=TRAINING)
    tuned, run = tune(tiny_model, tmp_path, config)
    assert tuned == System(
        Model(str(tiny_model), adapter=str(run.path / "adapter")), load_prompt("arithmetic"), Greedy(16)
    )
    assert run.read_system().model.adapter == str((run.path / "adapter").resolve())
    _, again = tune(tiny_model, tmp_path, config)
    assert len(again.metrics()) == 1


def test_the_model_card_tells_data_settings_and_cost(tiny_model: Path, tmp_path: Path) -> None:
    config = Config(rank=2, training=replace(TRAINING, examples=5))
    _, run = tune(tiny_model, tmp_path, config)
    card = (run.path / "README.md").read_text(encoding="utf-8")
    for expected in (
        "learned on 5 examples",
        f"data hash `{TASK.hash}`",
        "| rank | 2 |",
        "| learning_rate | 0.01 |",
    ):
        assert expected in card
    cost = cost_of(run)
    assert cost.tokens > 0 and cost.flops > 0 and cost.seconds > 0 and cost.watt_hours > 0
    assert f"{cost.tokens:,} tokens" in card and f"({cost.energy_source})" in card


def test_a_model_that_has_an_adapter_is_refused(tiny_model: Path, tmp_path: Path) -> None:
    system = System(Model(str(tiny_model), adapter="somewhere"), load_prompt("arithmetic"), Greedy())
    with (
        Run.open(tmp_path, "lora", {}) as run,
        pytest.raises(UserError, match="has the adapter 'somewhere' already"),
    ):
        adapt(system, TASK, Config(), run)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("rank", 0), ("rank", float("nan")), ("rank", -1), ("rank", 5000),
        ("alpha", 0.0), ("alpha", float("inf")), ("alpha", -2.0),
    ],
)  # fmt: skip
def test_a_setting_out_of_range_is_named(field: str, value: Any) -> None:
    with pytest.raises(UserError, match=rf"^{field} is "):
        Config(**{field: value})


def test_on_norms_that_smoothquant_divided_it_is_refused_unless_it_learned_on_them(
    tiny_model: Path, tmp_path: Path
) -> None:
    base = tmp_path / "base"
    shutil.copytree(tiny_model, base)
    model = tune(base, tmp_path, Config(rank=2, training=TRAINING))[0].model
    told, weights = base / "quantization.json", base / "model.safetensors"
    write_json(told, {"scheme": "w8a8", "method": "SmoothQuant 0.8, GPTQ"})
    load_weights(model, "float32", "cpu")
    stored = {name: value * (0.5 if "layernorm" in name else 1) for name, value in load_file(weights).items()}
    save_file(stored, weights, metadata={"format": "pt"})
    divided = r"does not fit the base model.*SmoothQuant divided the base's norms.*Merge the adapter.*w4a16"
    with pytest.raises(UserError, match=divided):
        load_weights(model, "float32", "cpu")
    (Path(str(model.adapter)) / "base.json").unlink()
    with pytest.raises(UserError, match=divided):  # nothing shows what it was trained on
        load_weights(model, "float32", "cpu")
    write_json(told, {"scheme": "w4a16", "method": "GPTQ"})
    load_weights(model, "float32", "cpu")
