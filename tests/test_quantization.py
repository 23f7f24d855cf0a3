"""NF4 and int8 bases: the papers' numbers, the gradients of the dequantised model, and the refusals."""

import importlib.util
import json
import shutil
from copy import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from bitsandbytes.functional import dequantize_4bit, get_4bit_type, quantize_4bit
from bitsandbytes.nn import Linear4bit, Linear8bitLt
from hypothesis import given, settings
from hypothesis import strategies as st
from peft import get_peft_model
from transformers import BitsAndBytesConfig, GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

from recipes.quantization import Config as TableConfig
from recipes.quantization import main as table
from workbench.decodes import Greedy, Sampling
from workbench.engines.forward import use_grouped_attention
from workbench.engines.hf import HfEngine
from workbench.engines.vllm import VllmEngine
from workbench.errors import UserError
from workbench.identity import model_identity, system_hash
from workbench.methods.lora import Config, peft_settings
from workbench.models import load_base, load_tokenizer, shape_of
from workbench.prompts import load_prompt
from workbench.quantization import (
    exact_activations,
    int4_and_back,
    keep_gradients_right,
    linear_layers,
    linear_size,
    parameters_in,
    round_to_int4,
)
from workbench.session import Session, Setup
from workbench.types import Message, Model, Request, System

pytestmark = pytest.mark.usefixtures("one_thread")

LEVELS = (
    -1, -0.6962, -0.5251, -0.3949, -0.2844, -0.1848, -0.0911, 0,
    0.0796, 0.1609, 0.2461, 0.3379, 0.4407, 0.5626, 0.7230, 1,
)  # fmt: skip


@pytest.fixture(scope="module")
def nf4(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Model:
    """The tiny model's like, as wide as NF4's blocks are long, so that all of its linear layers are packed."""
    folder = tmp_path_factory.mktemp("models") / "wide"
    tokenizer = load_tokenizer(Model(str(tiny_model)))
    tokenizer.save_pretrained(folder)
    config = LlamaConfig.from_pretrained(tiny_model, hidden_size=64, intermediate_size=128, head_dim=16)
    torch.manual_seed(0)
    LlamaForCausalLM(config).save_pretrained(folder)
    return Model(str(folder), quantization="nf4")


def nf4_and_back(weight: torch.Tensor) -> torch.Tensor:
    """The nearest of the levels in blocks of 64 with exact scales: what bitsandbytes is held against."""
    blocks = weight.float().reshape(-1, 64)
    scale = blocks.abs().amax(dim=1, keepdim=True)
    codes = (blocks / scale)[..., None].sub(torch.tensor(LEVELS)).abs().argmin(-1)
    return (torch.tensor(LEVELS)[codes] * scale).reshape(weight.shape)


def dense_weight(layer: Linear4bit | Linear8bitLt) -> torch.Tensor:
    weight: torch.Tensor
    if isinstance(layer, Linear8bitLt):
        scales = layer.weight.SCB if layer.state.SCB is None else layer.state.SCB
        weight = layer.weight.data * (scales[:, None] * (1 / 127))
    else:
        state = copy(layer.weight.quant_state)
        state.dtype = torch.float32  # else that of the weights before
        weight = dequantize_4bit(layer.weight.data, state)
    return weight


def dequantize_in_place(weights: Any, dtype: torch.dtype) -> None:
    """Every quantised layer multiplies with its dequantised weights, which torch differentiates."""
    for module in weights.modules():
        if isinstance(module, (Linear4bit, Linear8bitLt)):
            dense = dense_weight(module).to(dtype)
            module.forward = lambda x, w=dense: torch.nn.functional.linear(x, w)


# --- the method's numbers ---------------------------------------------------------------------------


def test_the_levels_are_the_papers() -> None:
    assert torch.allclose(get_4bit_type("nf4", device="cpu"), torch.tensor(LEVELS, dtype=torch.float32), atol=6e-5)


def test_five_numbers_are_rounded_as_in_the_paper() -> None:
    values = torch.tensor([1, -2, 0.2, 0, 0.5])
    packed, state = quantize_4bit(torch.nn.functional.pad(values, (0, 59)), blocksize=64, quant_type="nf4")
    found = dequantize_4bit(packed, state).flatten()[:5]
    assert torch.allclose(found, torch.tensor([0.8814, -2, 0.1592, 0, 0.4922]), atol=5e-5)


def test_bits_a_parameter_are_counted_on_the_tensors(embedded_model: Model) -> None:
    """4 bits, 8 for every 64 parameters and 32 for every 16,384: 4.127; and a float32 offset a layer."""
    weights = load_base(Model(embedded_model.base, quantization="nf4"), "bfloat16", "cpu")
    size = linear_size(weights)
    assert size.parameters == 106_168_320
    assert round(size.bits, 3) == 4.127
    assert size.bits == pytest.approx(4 + 8 / 64 + 32 / 64 / 256, abs=1e-3)
    assert shape_of(weights).parameters == 134_515_008
    assert weights.get_output_embeddings().weight.dtype == torch.bfloat16
    dense = load_base(embedded_model, "bfloat16", "cpu")
    assert linear_size(dense).bits == 16 and linear_size(dense).parameters == size.parameters


def test_only_the_linear_layers_are_packed(nf4: Model) -> None:
    weights = load_base(nf4, "float32", "cpu")
    layers = linear_layers(weights)
    assert len(layers) == 14 and all(isinstance(layer, Linear4bit) for layer in layers.values())
    for layer in layers.values():
        assert layer.weight.quant_state.nested  # double quantisation
        assert (layer.weight.quant_state.quant_type, layer.weight.quant_state.blocksize) == ("nf4", 64)
        assert layer.weight.quant_state.state2.blocksize == 256
    packed = {name for name, p in weights.named_parameters() if p.dtype == torch.uint8}
    assert packed == {f"{name}.weight" for name in layers}
    assert not any(p.requires_grad for name, p in weights.named_parameters() if name in packed)
    plain = load_base(Model(nf4.base), "float32", "cpu")
    assert shape_of(weights) == shape_of(plain)
    for (name, layer), dense in zip(layers.items(), linear_layers(plain).values(), strict=True):
        expected = nf4_and_back(dense.weight.detach())
        assert (dense_weight(layer) - expected).norm() < 0.01 * expected.norm(), name  # the scales' own rounding
        assert 0.05 < (expected - dense.weight).norm() / dense.weight.norm() < 0.15, name
        assert parameters_in(layer.weight) == dense.weight.numel()


def test_layers_whose_width_64_does_not_divide_stay_dense(tiny_model: Path) -> None:
    """bitsandbytes reads wrong scales there on a CPU. Of the tiny model's only one has a width of 64."""
    weights = load_base(Model(str(tiny_model), quantization="nf4"), "bfloat16", "cpu")
    layers = linear_layers(weights)
    assert len(layers) == 14
    for name, layer in layers.items():
        assert isinstance(layer, Linear4bit) == name.endswith("down_proj"), name
        assert (layer.weight.dtype == torch.bfloat16) != name.endswith("down_proj"), name
    assert shape_of(weights).parameters == sum(
        p.numel() for p in load_base(Model(str(tiny_model)), "float32", "cpu").parameters()
    )
    assert 4.1 < linear_size(weights).bits < 16


def test_the_output_layer_is_not_packed_where_it_is_its_own(nf4: Model, tmp_path: Path) -> None:
    config = LlamaConfig.from_pretrained(nf4.base, tie_word_embeddings=False)
    LlamaForCausalLM(config).save_pretrained(tmp_path / "untied")
    weights = load_base(Model(str(tmp_path / "untied"), quantization="nf4"), "float32", "cpu")
    assert type(weights.lm_head) is torch.nn.Linear
    assert all(isinstance(layer, Linear4bit) for layer in linear_layers(weights).values())


@pytest.mark.parametrize(("quantization", "kind"), [("nf4", Linear4bit), ("int8", Linear8bitLt)])
def test_gpt2s_transposed_layers_are_packed_too(quantization: str, kind: type, tmp_path: Path) -> None:
    config = GPT2Config(n_layer=1, n_embd=64, n_head=2, vocab_size=50, bos_token_id=1, eos_token_id=2)
    torch.manual_seed(0)
    plain = GPT2LMHeadModel(config).eval()
    plain.save_pretrained(tmp_path / "gpt2")
    weights = load_base(Model(str(tmp_path / "gpt2"), quantization=quantization), "float32", "cpu")
    assert {type(layer) for layer in linear_layers(weights).values()} == {kind}
    ids = torch.arange(3, 20)[None]
    with torch.no_grad():
        found, expected = (model(input_ids=ids).logits for model in (weights, plain))
    assert (found - expected).norm() < 0.2 * expected.norm()


@given(
    rows=st.integers(1, 5), columns=st.integers(1, 150), scale=st.sampled_from([1e-6, 1.0, 1e4]),
    seed=st.integers(0, 99),
)  # fmt: skip
@settings(max_examples=40)
def test_int4_is_within_half_a_step_and_keeps_the_largest(
    rows: int, columns: int, scale: float, seed: int
) -> None:
    weight = scale * torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed))
    found = int4_and_back(weight)
    assert found.shape == weight.shape
    for block, kept in zip(weight.reshape(-1).split(64), found.reshape(-1).split(64), strict=True):
        step = block.abs().max() / 7
        assert (block - kept).abs().max() <= step / 2 * 1.001
        assert torch.isclose(block.abs().max(), kept.abs().max())
        assert len((kept / step).round().unique()) <= 15


def test_int4_of_small_numbers() -> None:
    assert torch.allclose(int4_and_back(torch.tensor([7.0, -3.4, 0.6, -0.4])), torch.tensor([7.0, -3, 1, 0]))
    assert torch.equal(int4_and_back(torch.zeros(3, 70)), torch.zeros(3, 70))


def test_rounding_to_int4_leaves_the_embeddings(tiny_model: Path) -> None:
    weights, before = (load_base(Model(str(tiny_model)), "float32", "cpu") for _ in range(2))
    round_to_int4(weights)
    layers = linear_layers(weights)
    for name, tensor in before.state_dict().items():
        changed = not torch.equal(weights.state_dict()[name], tensor)
        assert changed == (name.removesuffix(".weight") in layers), name


# --- right on a CPU ---------------------------------------------------------------------------------


def adapted(model: Model, dtype: str) -> Any:
    """The base with a LoRA adapter whose B is not zero, after passes in evaluation mode."""
    base = load_base(model, dtype, "cpu")
    use_grouped_attention(base)
    torch.manual_seed(0)
    weights = get_peft_model(base, peft_settings(base, Config(rank=4)))
    for name, p in weights.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(p, std=0.02)
    return weights.train()


def gradients(weights: Any, ids: torch.Tensor) -> dict[str, torch.Tensor]:
    length = ids.shape[1]
    mask = torch.ones(length, length, dtype=torch.bool).tril().expand(len(ids), 1, length, length)
    logits = weights(input_ids=ids, attention_mask=mask).logits.float()
    torch.nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), ids[:, 1:].flatten()).backward()
    found = {name: p.grad.double() for name, p in weights.named_parameters() if p.grad is not None}
    assert len(found) == 2 * len(
        [layer for layer in weights.modules() if isinstance(layer, (Linear4bit, Linear8bitLt))]
    )
    return found


def text_ids(model: Model) -> torch.Tensor:
    text = "The answer to the question is that six times seven makes forty-two, as everybody knows."
    return torch.tensor([load_tokenizer(model).encode(text)[:16]])


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("which", ["tiny", "embedded"])
@pytest.mark.parametrize("quantization", ["nf4", "int8"])
def test_gradients_are_those_of_the_dequantised_model(
    quantization: str, which: str, dtype: str, nf4: Model, request: pytest.FixtureRequest
) -> None:
    """Every LoRA tensor's: cosine at least .999 and norms within 1 %."""
    model = replace(nf4, quantization=quantization)
    if which == "embedded":
        model = Model(request.getfixturevalue("embedded_model").base, quantization=quantization)
    ids = text_ids(model)
    weights = adapted(model, dtype)
    found = gradients(weights, ids)
    weights.zero_grad()
    dequantize_in_place(weights, getattr(torch, dtype))
    for name, expected in gradients(weights, ids).items():
        cosine = (found[name] * expected).sum() / (found[name].norm() * expected.norm())
        assert cosine >= 0.999, name
        assert abs(found[name].norm() / expected.norm() - 1) <= 0.01, name


def test_bitsandbytes_alone_would_train_wrongly() -> None:
    """Why `keep_gradients_right` is there: after a pass in evaluation mode the layer lets no gradient through."""
    torch.manual_seed(0)
    layer = Linear4bit(64, 64, bias=False, quant_type="nf4", compute_dtype=torch.bfloat16).to("cpu")
    if not layer.support_avx512bf16_for_cpu:
        pytest.skip("this CPU has no AVX512-BF16, and bitsandbytes no such kernel on it")
    kept = dense_weight(layer)
    layer.eval()(torch.ones(1, 64, dtype=torch.bfloat16))
    x = torch.ones(1, 64, dtype=torch.bfloat16, requires_grad=True)
    layer.train()(x).sum().backward()
    assert x.grad is None or not torch.allclose(x.grad.float(), kept.sum(0).float(), rtol=0.05)


def test_bitsandbytes_alone_would_read_wrong_scales() -> None:
    """Why layers that 64 does not divide stay dense: on a CPU its rows begin a block each."""
    weight = torch.randn(4, 96, generator=torch.Generator().manual_seed(0))
    found = dequantize_4bit(*quantize_4bit(weight, blocksize=64, quant_type="nf4"))
    assert not torch.allclose(found, nf4_and_back(weight), atol=0.1)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("quantization", ["nf4", "int8"])
def test_logits_are_those_of_the_dequantised_model_whatever_was_run_before(
    quantization: str, dtype: str, nf4: Model
) -> None:
    weights = load_base(replace(nf4, quantization=quantization), dtype, "cpu")
    packed = {name: p.clone() for name, p in weights.named_parameters()}
    ids = text_ids(nf4)
    with torch.inference_mode():
        first = weights(input_ids=ids).logits
        again = weights(input_ids=ids).logits
    assert all(torch.equal(p, packed[name]) for name, p in weights.named_parameters())
    dequantize_in_place(weights, getattr(torch, dtype))
    with torch.inference_mode():
        assert torch.equal(first, again) and torch.equal(weights(input_ids=ids).logits, first)


@pytest.mark.parametrize("columns", [1, 3])
def test_bitsandbytes_alone_would_round_activations_by_their_batch(columns: int) -> None:
    """Why int8 is held to the state of training: a row's answer depends on an outlier in another row."""
    torch.manual_seed(0)
    layer = Linear8bitLt(64, 8, bias=False, has_fp16_weights=False, threshold=6.0).to("cpu").eval()
    rows = torch.randn(2, 64)
    alone = layer(rows[:1])
    rows[1, :columns] = 100
    assert not torch.equal(layer(rows)[:1], alone)
    keep_gradients_right(layer)
    assert torch.allclose(layer(rows)[:1], layer(rows[:1]), atol=1e-6)
    assert torch.allclose(layer(rows), rows @ dense_weight(layer).T, atol=1e-4)


def test_int8_rows_have_eight_bits_and_a_scale(tiny_model: Path) -> None:
    """Whatever their width. The largest of a row is 127, and a code is half a step off at most."""
    plain, packed = Model(str(tiny_model)), Model(str(tiny_model), quantization="int8")
    weights = load_base(packed, "float32", "cpu")
    layers, dense = linear_layers(weights), linear_layers(load_base(plain, "float32", "cpu"))
    assert len(layers) == 14 and all(isinstance(layer, Linear8bitLt) for layer in layers.values())
    assert shape_of(weights) == shape_of(load_base(plain, "float32", "cpu"))
    rows = parameters = 0
    for name, layer in layers.items():
        weight = dense[name].weight.detach()
        step = weight.abs().amax(dim=1, keepdim=True) / 127
        assert ((dense_weight(layer) - weight).abs() <= 0.51 * step + 2e-3 * weight.abs()).all(), (
            name
        )  # via float16
        assert (layer.weight.data.abs().amax(dim=1) == 127).all()
        rows, parameters = rows + len(weight), parameters + weight.numel()
    for _ in range(2):
        size = linear_size(weights)
        assert (size.parameters, size.bytes) == (parameters, parameters + 4 * rows)
        weights(input_ids=torch.arange(3, 9)[None])  # the scales move


@pytest.mark.parametrize("quantization", ["nf4", "int8"])
@pytest.mark.parametrize("written", ["float32", "bfloat16"])
def test_a_quantised_folder_is_loaded_as_it_was(
    written: str, quantization: str, nf4: Model, tmp_path: Path
) -> None:
    first = load_base(replace(nf4, quantization=quantization), "float32", "cpu")
    load_base(replace(nf4, quantization=quantization), written, "cpu").save_pretrained(tmp_path / "packed")
    weights = load_base(Model(str(tmp_path / "packed")), "float32", "cpu")
    ids = text_ids(nf4)
    with torch.no_grad():
        found, expected = (model(input_ids=ids).logits for model in (weights, first))
    assert written == "bfloat16" or torch.allclose(found, expected, atol=1e-6)  # whose embeddings are rounded
    assert linear_size(weights) == linear_size(first)
    dequantize_in_place(weights, torch.float32)
    with torch.no_grad():  # in the precision that was asked for, whatever the folder was written in
        assert torch.allclose(weights(input_ids=ids).logits, found, atol=1e-6)


def test_a_quantised_folder_is_not_quantised_again(nf4: Model, tmp_path: Path) -> None:
    load_base(nf4, "float32", "cpu").save_pretrained(tmp_path / "packed")
    with pytest.raises(UserError, match=r"is quantised already \(bitsandbytes\): leave the quantization out"):
        load_base(Model(str(tmp_path / "packed"), quantization="int8"), "float32", "cpu")


def test_a_folder_that_another_tool_packed_wrongly_for_a_cpu_is_refused(tiny_model: Path, tmp_path: Path) -> None:
    settings = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4")
    packed = LlamaForCausalLM.from_pretrained(tiny_model, quantization_config=settings, device_map={"": "cpu"})
    packed.save_pretrained(tmp_path / "packed")
    with pytest.raises(UserError, match=r"q_proj is 32 wide, which the 64 of its 4-bit blocks does not divide"):
        load_base(Model(str(tmp_path / "packed")), "float32", "cpu")


def test_compressed_tensors_without_their_package_tell_who_reads_them(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = shutil.copytree(tiny_model, tmp_path / "model")
    config = json.loads((folder / "config.json").read_text())
    config["quantization_config"] = {"quant_method": "compressed-tensors"}
    (folder / "config.json").write_text(json.dumps(config))
    monkeypatch.setattr("workbench.quantization.find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"are compressed-tensors: serve them with vLLM .*`make quantize`"):
        load_base(Model(str(folder)), "float32", "cpu")


def test_rounding_of_activations_rests_and_comes_back(tiny_model: Path) -> None:
    """As compressed-tensors has it: a layer with a scheme rounds unless `quantization_enabled` is false."""
    weights = load_base(Model(str(tiny_model)), "float32", "cpu")
    layer = weights.model.layers[0].mlp.up_proj
    layer.quantization_scheme = "W8A8"
    with pytest.raises(ZeroDivisionError), exact_activations(weights):
        assert layer.quantization_enabled is False
        assert not hasattr(weights.model.layers[0].mlp.down_proj, "quantization_enabled")
        raise ZeroDivisionError
    assert layer.quantization_enabled is True


def test_nothing_dense_is_kept_for_the_backward_pass(nf4: Model) -> None:
    """What autograd keeps are activations and packed weights, but no layer's weights of full size."""
    weights = adapted(nf4, "float32")
    shapes = {
        tuple(layer.weight.quant_state.shape) for layer in weights.modules() if isinstance(layer, Linear4bit)
    }
    kept: list[tuple[int, ...]] = []

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        kept.append(tuple(tensor.shape))
        return tensor

    ids = torch.arange(3, 10)[None]
    mask = torch.ones(1, 1, 7, 7, dtype=torch.bool).tril()
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        weights(input_ids=ids, attention_mask=mask)
    assert kept and not shapes & set(kept) and not shapes & {shape[::-1] for shape in kept}


# --- the engine and the table -----------------------------------------------------------------------


def test_the_engine_answers_and_scores_with_a_quantised_base(nf4: Model) -> None:
    engine = HfEngine(nf4, dtype="float32", device="cpu")
    request = Request("a", (Message("user", "What is 12 plus 7?"),), (0, 1))
    [batch] = list(engine.sample([request], Sampling(temperature=0.7, max_tokens=4)))
    assert [completion.index for _, completion in batch] == [0, 1]
    [scored] = list(engine.logprobs([request], [[" positive", " negative"]]))
    assert engine.shape.parameters == shape_of(load_base(Model(nf4.base), "float32", "cpu")).parameters

    dequantize_in_place(engine.weights, torch.float32)
    [expected] = list(engine.logprobs([request], [[" positive", " negative"]]))
    for (_, one), (_, other) in zip(scored, expected, strict=True):
        assert one.logprob is not None and one.logprob == pytest.approx(other.logprob)


def test_the_table_has_its_rows(nf4: Model, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = tmp_path / "text.txt"
    text.write_text("\n\n".join(f"This is paragraph {i} of a short text." for i in range(8)), encoding="utf-8")
    rows = table(TableConfig(model=nf4.base, text=text, quiet=True))
    assert [row.name for row in rows] == ["bfloat16", "nf4", "int8", "int4 absmax"]
    assert rows[0].size is not None and rows[0].size.bits == 16
    assert rows[1].size is not None and 4.1 < rows[1].size.bits < 4.2
    assert rows[2].size is not None and 8 < rows[2].size.bits < 9
    assert rows[3].size is None and "simulated" in capsys.readouterr().out
    assert rows[0].more.value == rows[0].more.low == rows[0].more.high == 0
    for row in rows:
        assert row.perplexity.low <= row.perplexity.value <= row.perplexity.high
    assert len({row.perplexity.value for row in rows}) == 4


def test_the_setup_puts_it_into_the_model_and_its_names(tiny_model: Path, tmp_path: Path) -> None:
    for quantization in ("nf4", "int8", None):
        setup = Setup(model=str(tiny_model), quantization=quantization, runs=tmp_path, quiet=True)  # type: ignore[arg-type]
        with Session("zero_shot", setup, setup) as session:
            assert session.system().model == Model(str(tiny_model), quantization=quantization)
    plain, packed = Model(str(tiny_model)), Model(str(tiny_model), quantization="nf4")
    assert "quantization" not in model_identity(plain)
    assert model_identity(packed)["quantization"] == "nf4"
    prompt = load_prompt("arithmetic")
    assert system_hash(System(plain, prompt, Greedy(8))) != system_hash(System(packed, prompt, Greedy(8)))
    assert len([path for path in tmp_path.iterdir() if path.is_dir()]) == 3  # three runs, not one


# --- what is refused --------------------------------------------------------------------------------


def test_an_unknown_quantization_lists_what_exists(tiny_model: Path) -> None:
    with pytest.raises(UserError, match=r"no quantization named 'nf5'. Did you mean 'nf4'\? There are: int8, nf4"):
        load_base(Model(str(tiny_model), quantization="nf5"), "float32", "cpu")


def test_without_bitsandbytes_the_mend_is_told(nf4: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(
        "workbench.quantization.find_spec", lambda name: None if name == "bitsandbytes" else find(name)
    )
    with pytest.raises(UserError, match=r"pip install 'bitsandbytes>=0\.50\.2,<0\.51'"):
        load_base(nf4, "float32", "cpu")


def test_a_model_with_nothing_to_quantise_is_refused(tmp_path: Path) -> None:
    """Without layers, and with layers that 64 never divides."""
    for layers, width in ((0, 64), (1, 40)):
        config = LlamaConfig(
            vocab_size=8, hidden_size=width, intermediate_size=width, num_hidden_layers=layers,
            num_attention_heads=1, bos_token_id=1, eos_token_id=2,
        )  # fmt: skip
        LlamaForCausalLM(config).save_pretrained(tmp_path / "small")
        with pytest.raises(UserError, match=r"The llama model in .* has no linear layers to quantise"):
            load_base(Model(str(tmp_path / "small"), quantization="nf4"), "float32", "cpu")


def test_the_vllm_engine_refuses_it(nf4: Model) -> None:
    with pytest.raises(UserError, match=r"quantization 'nf4'.*Use the engine hf"):
        VllmEngine(nf4, ["http://127.0.0.1:9"])


@pytest.mark.gpu
def test_a_gpu_gives_the_same_gradients(nf4: Model) -> None:
    if not torch.cuda.is_available():
        pytest.skip("no GPU; `pytest -m gpu` on a machine with one")
    weights = load_base(nf4, "float32", "cuda")
    [layer, *_] = linear_layers(weights).values()
    x = torch.randn(3, layer.in_features, device="cuda", requires_grad=True)
    layer(x).sum().backward()
    assert x.grad is not None
    assert torch.allclose(x.grad, dense_weight(layer).float().sum(0).expand(3, -1), rtol=1e-3, atol=1e-4)
