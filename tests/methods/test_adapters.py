"""Bottlenecks and BitFit: they start as the base, move only what they may, and come back as they were saved."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from tiny import tiny_tokenizer, tiny_weights

import workbench.training.sft
from recipes import adapters as recipe
from recipes import bitfit as bitfit_recipe
from workbench.adapters import load_weights, save_adapter
from workbench.decodes import Greedy
from workbench.engines.hf import HfEngine
from workbench.engines.vllm import VllmEngine
from workbench.errors import UserError
from workbench.files import read_json
from workbench.methods.adapters import BitFit, Houlsby, adapt
from workbench.models import load_base
from workbench.own_kinds import add_bottlenecks, free_biases, output_projections, own_parameters
from workbench.prompts import load_prompt
from workbench.runs import Run
from workbench.session import Setup
from workbench.tasks.arithmetic import Config as ArithmeticConfig
from workbench.tasks.arithmetic import load
from workbench.training.card import cost_of
from workbench.training.config import Training
from workbench.types import Message, Model, Request, System

TASK = load(ArithmeticConfig(practice=8, dev=1, test=1))
TRAINING = Training(learning_rate=1e-2, epochs=3, batch_size=4, micro_batch=4, precision="float32", save_every=2)
IDS = torch.arange(3, 43).reshape(2, 20)
MASK = torch.ones(20, 20, dtype=torch.bool).tril().expand(2, 1, 20, 20)

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def biased_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A GPT-2 of two layers: biases in every linear layer and norm, transposed weights, and dropout."""
    from transformers import GPT2Config, GPT2LMHeadModel

    folder = tmp_path_factory.mktemp("models") / "gpt2"
    tokenizer = tiny_tokenizer()
    torch.manual_seed(0)
    config = GPT2Config(
        vocab_size=len(tokenizer), n_positions=512, n_embd=32, n_layer=2, n_head=4, initializer_range=0.3,
        bos_token_id=1, eos_token_id=2,
    )  # fmt: skip
    GPT2LMHeadModel(config).save_pretrained(folder)
    tokenizer.chat_template = "{{ messages[0]['content'] }}<|im_end|>"
    tokenizer.save_pretrained(folder)
    return folder


def tune(model: Path, root: Path, config: Houlsby | BitFit, kind: type[Run] = Run) -> tuple[System, Run]:
    system = System(Model(str(model)), load_prompt("arithmetic"), Greedy(16))
    with kind.open(root, "adapters", {"config": config}) as run:
        return adapt(system, TASK, config, run, quiet=True), run


def logits(weights: Any) -> Any:
    with torch.no_grad():
        return weights(input_ids=IDS, attention_mask=MASK).logits


def spied(monkeypatch: pytest.MonkeyPatch, look: Callable[[Any], None]) -> dict[str, Any]:
    """A spy around the training: what `look` finds before, and which parameters have moved after it."""
    fit = workbench.training.sft.fit
    seen: dict[str, Any] = {}

    def watched(weights: Any, *rest: Any) -> None:
        look(weights)
        before = {name: p.detach().clone() for name, p in weights.named_parameters()}
        fit(weights, *rest)
        moved = {name: p for name, p in weights.named_parameters() if not torch.equal(p, before[name])}
        seen.update(moved=moved, weights=weights)

    monkeypatch.setattr(workbench.training.sft, "fit", watched)
    return seen


class Interrupted(Run):
    """A run that is interrupted after three updates."""

    def log(self, **metrics: Any) -> None:
        super().log(**metrics)
        if metrics.get("step") == 3:
            raise KeyboardInterrupt


# --- bottlenecks --------------------------------------------------------------------------------------


def test_bottlenecks_start_as_the_base_and_only_they_move(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = load_base(Model(str(tiny_model)), "float32", "cpu")

    def look(weights: Any) -> None:
        base.set_attn_implementation(weights.config._attn_implementation)
        assert torch.equal(logits(weights), logits(base))

    seen = spied(monkeypatch, look)
    tuned, run = tune(tiny_model, tmp_path, Houlsby(4, TRAINING))
    assert seen["moved"].keys() == own_parameters(seen["weights"]).keys()
    assert len(seen["moved"]) == 2 * 2 * 4 and all(".bottleneck." in name for name in seen["moved"])
    moved = sum(p.numel() for p in seen["moved"].values())
    assert moved == cost_of(run).parameters == 2 * 2 * (2 * 4 * 32 + 4 + 32)

    again = load_weights(tuned.model, "float32", "cpu")
    again.set_attn_implementation(base.config._attn_implementation)
    assert torch.equal(logits(again), logits(seen["weights"])) and not torch.equal(logits(again), logits(base))
    assert tuned == System(
        Model(str(tiny_model), adapter=str(run.path / "adapter")), load_prompt("arithmetic"), Greedy(16)
    )
    assert ", bottleneck adapters on arithmetic" in (run.path / "README.md").read_text(encoding="utf-8")


@given(width=st.integers(1, 40), hidden=st.sampled_from([16, 32, 48]), layers=st.integers(1, 3))
@settings(max_examples=15)
def test_their_size_is_the_formula(width: int, hidden: int, layers: int) -> None:
    """2md + m + d each, two a layer."""
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=50, hidden_size=hidden, intermediate_size=24, num_hidden_layers=layers, num_attention_heads=4
    )
    weights = LlamaForCausalLM(config).eval()
    add_bottlenecks(weights, width)
    learned = [p.numel() for p in weights.parameters() if p.requires_grad]
    assert sum(learned) == layers * 2 * (2 * width * hidden + width + hidden)
    assert sum(learned) == sum(p.numel() for p in own_parameters(weights).values())


def test_the_embedded_models_have_4462080_and_leave_its_logits_as_they_are(embedded_model: Model) -> None:
    weights = load_base(embedded_model, "bfloat16", "cpu")
    ids = torch.arange(100, 116)[None]
    with torch.inference_mode():
        before = weights(input_ids=ids).logits
        add_bottlenecks(weights, 64)
        assert torch.equal(weights(input_ids=ids).logits, before)
    own = own_parameters(weights).values()
    assert sum(p.numel() for p in own) == 4_462_080
    assert {p.dtype for p in own} == {torch.float32}


def test_they_stand_before_the_residual_addition(tiny_model: Path) -> None:
    """With W_up = 0 and a bias, what each part says is that much more, and so is the residual stream."""
    weights = load_base(Model(str(tiny_model)), "float32", "cpu")
    layer = weights.model.layers[0]
    said: dict[str, Any] = {}
    for name, module in {"attention": layer.self_attn, "mlp": layer.mlp, "layer": layer}.items():
        module.register_forward_hook(
            lambda m, given, out, name=name: said.update({name: out[0] if isinstance(out, tuple) else out})
        )
    logits(weights)
    before = dict(said)
    add_bottlenecks(weights, 4)
    with torch.no_grad():
        layer.self_attn.o_proj.bottleneck.up.bias.fill_(0.5)
    logits(weights)
    assert torch.allclose(said["attention"], before["attention"] + 0.5)
    assert not torch.allclose(said["mlp"], before["mlp"])  # it reads what the attention has added to the stream
    with torch.no_grad():
        layer.self_attn.o_proj.bottleneck.up.bias.zero_()
        layer.mlp.down_proj.bottleneck.up.bias.fill_(0.5)
    logits(weights)
    assert torch.equal(said["attention"], before["attention"])
    assert torch.allclose(said["layer"], before["layer"] + 0.5, atol=1e-5)


def test_a_bottleneck_is_the_papers(tiny_model: Path) -> None:
    weights = load_base(Model(str(tiny_model)), "float32", "cpu")
    projection = weights.model.layers[1].mlp.down_proj
    given_ = torch.randn(5, 64)
    plain = projection(given_)
    add_bottlenecks(weights, 3, seed=1)
    inner = projection.bottleneck
    spread = inner.down.weight.std()
    assert 0.005 < spread < 0.015 and inner.down.weight.abs().max() <= 0.02
    with torch.no_grad():
        for p in inner.parameters():
            p.normal_()
    middle = torch.nn.functional.gelu(plain @ inner.down.weight.T + inner.down.bias)
    assert torch.allclose(projection(given_), plain + middle @ inner.up.weight.T + inner.up.bias, atol=1e-5)


def test_the_seed_fixes_what_they_start_as(tiny_model: Path) -> None:
    starts = []
    for seed in (0, 0, 1):
        weights = load_base(Model(str(tiny_model)), "float32", "cpu")
        add_bottlenecks(weights, 3, seed=seed)
        starts.append(weights.model.layers[0].mlp.down_proj.bottleneck.down.weight)
    assert torch.equal(starts[0], starts[1]) and not torch.equal(starts[0], starts[2])


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_an_interrupted_training_ends_as_an_uninterrupted_one(
    tiny_model: Path, tmp_path: Path, precision: str
) -> None:
    config = Houlsby(4, replace(TRAINING, precision=precision))
    _, whole = tune(tiny_model, tmp_path / "whole", config)
    with pytest.raises(KeyboardInterrupt):
        tune(tiny_model, tmp_path / "parts", config, Interrupted)
    tuned, parts = tune(tiny_model, tmp_path / "parts", config)
    first, second = ({line["step"]: line["loss"] for line in run.metrics()} for run in (whole, parts))
    assert first == second and len(first) == 6 and len(parts.metrics()) == 7  # update 3 was made twice
    saved = [load_file(run.path / "adapter" / "adapter_model.safetensors") for run in (whole, parts)]
    assert saved[0].keys() == saved[1].keys()
    assert all(torch.equal(tensor, saved[1][name]) for name, tensor in saved[0].items())
    assert {tensor.dtype for tensor in saved[0].values()} == {torch.float32}
    assert load_weights(tuned.model, "bfloat16", "cpu") is not None


def test_the_engine_answers_with_them(tiny_model: Path, tmp_path: Path) -> None:
    folder, weights = tmp_path / "a", load_base(Model(str(tiny_model)), "float32", "cpu")
    add_bottlenecks(weights, 4)
    with torch.no_grad():
        for p in own_parameters(weights).values():
            p.normal_(std=0.3)
    save_adapter(weights, Model(str(tiny_model)), folder)
    engine = HfEngine(Model(str(tiny_model), adapter=str(folder)), dtype="float32", device="cpu")
    request = Request("q", (Message("user", "What is 12 plus 7?"),), style="text")
    [[(_, scored)]] = engine.logprobs([request], [[" The answer is 19."]])
    prompt, own, _ = engine.encoder.encode_pair(request, " The answer is 19.")
    with torch.no_grad():
        scores = weights(input_ids=torch.tensor([[*prompt, *own]])).logits[0].log_softmax(-1)
    expected = sum(scores[len(prompt) + i - 1, token] for i, token in enumerate(own))
    assert scored.logprob == pytest.approx(float(expected), abs=1e-3)
    assert engine.shape.parameters == sum(p.numel() for p in weights.parameters())


@pytest.mark.parametrize(
    "name", ["GPT2", "OPT", "GPTNeoX", "Phi", "Phi3", "Gemma2", "Qwen3"]
)  # by other names, in another order, with more norms
def test_the_output_projections_are_found_by_what_they_do(name: str) -> None:
    weights = other_architecture(name)
    found = output_projections(weights)
    names = {module: name for name, module in weights.named_modules()}
    ends = {names[module].rpartition(".")[2] for module in found}
    known = {"o_proj", "out_proj", "dense", "c_proj"}, {"down_proj", "fc2", "dense_4h_to_h", "c_proj"}
    assert len(found) == 4 and all(ends & some for some in known) and ends <= known[0] | known[1]


@pytest.mark.parametrize("name", ["Mixtral", "Qwen2Moe", "Bloom"])  # experts; a residual that is added within
def test_an_architecture_without_them_is_refused(name: str) -> None:
    weights = other_architecture(name)
    with pytest.raises(UserError, match=f"The architecture '{weights.config.model_type}' does not show"):
        add_bottlenecks(weights, 4)


def other_architecture(name: str) -> Any:
    import transformers

    sizes = {
        "vocab_size": 100, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4,
        "num_key_value_heads": 4, "intermediate_size": 64, "head_dim": 8, "ffn_dim": 64, "pad_token_id": 0,
        "word_embed_proj_dim": 32, "bos_token_id": 1, "eos_token_id": 2,
    }  # fmt: skip
    config = getattr(transformers, f"{name}Config")
    known = config().to_dict().keys() | set(config.attribute_map)
    if name == "Bloom":
        sizes["n_layer"], sizes["n_head"] = 2, 4
    settings_ = config(**{key: value for key, value in sizes.items() if key in known or name == "Bloom"})
    model = f"{name}LMHeadModel" if name == "GPT2" else f"{name}ForCausalLM"
    return getattr(transformers, model)(settings_).eval()


# --- BitFit -------------------------------------------------------------------------------------------


def test_bitfit_moves_every_bias_and_nothing_else(
    biased_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A layer has d biases in each norm, 3d and d in the attention, 4d and d in the feed-forward; d at the end."""
    seen = spied(monkeypatch, lambda weights: None)
    tuned, run = tune(biased_model, tmp_path, BitFit(TRAINING))
    formula = 2 * (2 * 32 + 3 * 32 + 32 + 4 * 32 + 32) + 32
    assert all(name.endswith(".bias") for name in seen["moved"])
    assert sum(p.numel() for p in seen["moved"].values()) == cost_of(run).parameters == formula
    saved = load_file(run.path / "adapter" / "adapter_model.safetensors")
    assert sum(tensor.numel() for tensor in saved.values()) == formula
    again = load_weights(tuned.model, "float32", "cpu")
    assert all(torch.equal(p, again.get_parameter(name)) for name, p in seen["weights"].named_parameters())


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_an_interrupted_bitfit_ends_as_an_uninterrupted_one(
    biased_model: Path, tmp_path: Path, precision: str
) -> None:
    config = BitFit(replace(TRAINING, precision=precision))
    _, whole = tune(biased_model, tmp_path / "whole", config)
    with pytest.raises(KeyboardInterrupt):
        tune(biased_model, tmp_path / "parts", config, Interrupted)
    _, parts = tune(biased_model, tmp_path / "parts", config)
    saved = [load_file(run.path / "adapter" / "adapter_model.safetensors") for run in (whole, parts)]
    assert all(torch.equal(tensor, saved[1][name]) for name, tensor in saved[0].items())


def test_a_model_without_biases_is_told_so_before_anything_is_trained(tiny_model: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"this model \(llama\) has none.*lora.*adapters"):
        tune(tiny_model, tmp_path, BitFit(TRAINING))
    [run] = tmp_path.iterdir()
    assert not (run / "adapter").exists() and not (run / "checkpoints").exists()


# --- what cannot be -----------------------------------------------------------------------------------


def saved_bottlenecks(model: Path, folder: Path) -> Model:
    weights = load_base(Model(str(model)), "float32", "cpu")
    add_bottlenecks(weights, 4)
    save_adapter(weights, Model(str(model)), folder)
    return Model(str(model), adapter=str(folder))


def change_config(adapter: Path, **fields: Any) -> None:
    file = adapter / "adapter_config.json"
    file.write_text(json.dumps({**read_json(file), **fields}))


def change_tensors(adapter: Path, change: Callable[[dict[str, torch.Tensor]], Any]) -> None:
    file = adapter / "adapter_model.safetensors"
    tensors = load_file(file)
    change(tensors)
    save_file(tensors, file)


FIRST = "model.layers.0.self_attn.o_proj.bottleneck.down.weight"


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda a: change_config(a, bottleneck="4"), "its bottleneck is '4', not a whole number"),
        (lambda a: change_config(a, bottleneck=0), "its bottleneck is 0"),
        (lambda a: change_config(a, bottleneck=10**12), "its bottleneck is 1000000000000"),
        (lambda a: change_config(a, bottleneck=5), rf"{FIRST} has the shape \[4, 32\], its place .* \[5, 32\]"),
        (lambda a: change_tensors(a, lambda t: t.pop(FIRST)), f"1 tensors are in only one of them, as '{FIRST}'"),
        (lambda a: change_tensors(a, lambda t: t.update(odd=torch.ones(1))), "in only one of them, as 'odd'"),
        (lambda a: (a / "adapter_model.safetensors").write_bytes(b"torn"), "does not fit the base model"),
        (lambda a: (a / "adapter_model.safetensors").unlink(), "has no adapter_model.safetensors"),
        (lambda a: change_config(a, peft_type="BOTTLENECK"), "does not fit the base model"),
    ],
)  # fmt: skip
def test_a_damaged_adapter_is_refused_with_what_is_wrong(
    damage: Any, message: str, tiny_model: Path, tmp_path: Path
) -> None:
    model = saved_bottlenecks(tiny_model, tmp_path / "a")
    load_weights(model, "float32", "cpu")
    damage(tmp_path / "a")
    with pytest.raises(UserError, match=message):
        load_weights(model, "float32", "cpu")


@pytest.mark.parametrize("kind", ["bottlenecks", "biases"])
def test_one_for_other_weights_is_refused(kind: str, tiny_model: Path, biased_model: Path, tmp_path: Path) -> None:
    right = tiny_model if kind == "bottlenecks" else biased_model
    weights = load_base(Model(str(right)), "float32", "cpu")
    add_bottlenecks(weights, 4) if kind == "bottlenecks" else free_biases(weights)
    with torch.no_grad():
        for p in own_parameters(weights).values():
            p.normal_()
    save_adapter(weights, Model(str(right)), tmp_path / "a")
    for dtype in ("float32", "bfloat16"):  # rounding makes no other weights of them
        load_weights(Model(str(right), adapter=str(tmp_path / "a")), dtype, "cpu")
    other = load_base(Model(str(right)), "float32", "cpu")
    with torch.no_grad():
        other.get_input_embeddings().weight.mul_(1.1)
    other.save_pretrained(tmp_path / "other")
    with pytest.raises(UserError, match=r"does not fit the base model.*trained on other weights"):
        load_weights(Model(str(tmp_path / "other"), adapter=str(tmp_path / "a")), "float32", "cpu")
    stranger = biased_model if kind == "bottlenecks" else tiny_model
    with pytest.raises(UserError, match="does not fit the base model"):
        load_weights(Model(str(stranger), adapter=str(tmp_path / "a")), "float32", "cpu")


def test_peft_refuses_it_and_so_does_a_server(tiny_model: Path, tmp_path: Path) -> None:
    from peft import PeftModel

    model = saved_bottlenecks(tiny_model, tmp_path / "a")
    with pytest.raises(Exception, match="HOULSBY"):
        PeftModel.from_pretrained(tiny_weights(len(tiny_tokenizer())), str(tmp_path / "a"))
    with pytest.raises(UserError, match="of the kind HOULSBY, which no server reads"):
        VllmEngine(model, ["http://127.0.0.1:1"])


@pytest.mark.parametrize("value", [0, -1, 65_537, float("nan")])
def test_a_width_out_of_range_is_named(value: Any) -> None:
    with pytest.raises(UserError, match=r"^bottleneck is "):
        Houlsby(value)


# --- recipes ------------------------------------------------------------------------------------------


def test_the_recipes_tune_and_measure(
    tiny_model: Path, biased_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ("practice=8", "dev=2", "test=2")
    for model, name in ((tiny_model, "adapters"), (biased_model, "bitfit")):
        setup = Setup(
            task="arithmetic", task_args=arguments, model=str(model), runs=tmp_path, name=name, quiet=True
        )
        training = replace(TRAINING, epochs=1)
        if name == "adapters":
            result = recipe.main(recipe.Config(setup, Houlsby(4, training)))
            assert result.cost_to_make.parameters == 1168
        else:
            bitfit_recipe.main(bitfit_recipe.Config(setup, BitFit(training)))
        assert "trained parameters in an adapter of" in capsys.readouterr().out
