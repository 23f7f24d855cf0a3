"""The recipe in the environment of `make quantize`: llmcompressor and auto-round for real, and what they wrote.

The environment is `.venv-quantize`, or the interpreter that WORKBENCH_QUANTIZE_PYTHON names.
"""

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest
import torch
from interpreters import NEEDS_QUANTIZE, QUANTIZE, ROOT
from safetensors import safe_open
from transformers import LlamaConfig, LlamaForCausalLM

from workbench.models import convert_gguf, load_base, load_tokenizer
from workbench.quantization import linear_layers
from workbench.types import Model

pytestmark = [pytest.mark.usefixtures("one_thread"), NEEDS_QUANTIZE]

SMALL = ["--samples", "16", "--task-args", "practice=16", "dev=4", "test=4"]


@pytest.fixture(scope="module")
def wide(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny model's like, in bfloat16 and wide enough for groups of 64."""
    folder = tmp_path_factory.mktemp("models") / "wide"
    load_tokenizer(Model(str(tiny_model))).save_pretrained(folder)
    config = LlamaConfig.from_pretrained(tiny_model, hidden_size=64, intermediate_size=128, head_dim=16)
    torch.manual_seed(0)
    LlamaForCausalLM(config).to(torch.bfloat16).save_pretrained(folder)
    return folder


def quantize(tmp_path: Path, *words: str, status: int = 0) -> tuple[Path, str]:
    """(the folder, what was said) of the command in the other environment."""
    text = tmp_path / "text.txt"
    text.write_text("\n\n".join(f"Paragraph {i} says that sales fell in {1990 + i}." for i in range(8)))
    out = tmp_path / "out"
    command = [str(QUANTIZE), "-m", "recipes", "quantize", "--quiet", "--out", str(out), "--text", str(text)]
    done = subprocess.run([*command, *words], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == status, done.stdout + done.stderr
    return out, done.stdout + done.stderr


def told(out: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((out / "quantization.json").read_text())
    assert (out / "README.md").is_file() and not list(out.parent.glob(".*partial"))
    assert found["perplexity"]["before"]["value"] > 1 and found["perplexity"]["after"]["value"] > 1
    return found


def tensors(out: Path) -> dict[str, torch.Tensor]:
    with safe_open(out / "model.safetensors", framework="pt") as file:
        return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (it is no dict)


def test_w4a16_is_four_bits_with_a_scale_a_group(wide: Path, tmp_path: Path) -> None:
    out, said = quantize(tmp_path, "--scheme", "w4a16", "--model", str(wide), *SMALL)
    assert "w4a16, 4." in said and "WARNING" not in said and "Calibrating" not in said
    found = told(out)
    assert (found["group_size"], found["method"], found["calibration"]["samples"]) == (64, "GPTQ", 16)
    settings = json.loads((out / "config.json").read_text())["quantization_config"]
    weights = settings["config_groups"]["group_0"]["weights"]
    assert (settings["quant_method"], weights["num_bits"], weights["group_size"]) == ("compressed-tensors", 4, 64)
    assert weights["symmetric"] and settings["ignore"] == ["lm_head"]
    assert not (out / "recipe.yaml").exists()

    stored, taken = tensors(out), 0
    layers = linear_layers(load_base(Model(str(wide)), "float32", "cpu"))
    for name, layer in layers.items():
        packed, scale = stored[f"{name}.weight_packed"], stored[f"{name}.weight_scale"].float()
        codes = torch.stack([(packed >> 4 * place & 15) - 8 for place in range(8)], dim=-1).flatten(1)
        dense = codes * scale.repeat_interleave(64, dim=1)
        weight = layer.weight.detach()
        assert dense.shape == weight.shape
        assert (dense - weight).norm() < 0.25 * weight.norm(), name
        taken += sum(t.nbytes for key, t in stored.items() if key.startswith(f"{name}."))
    assert found["sizes"]["linear_bytes"] == taken
    assert found["sizes"]["linear_parameters"] == sum(layer.weight.numel() for layer in layers.values())


def test_w8a8_is_eight_bits_and_rounds_each_tokens_activations(wide: Path, tmp_path: Path) -> None:
    out, _ = quantize(tmp_path, "--scheme", "w8a8", "--model", str(wide), *SMALL)
    found = told(out)
    assert (found["group_size"], found["method"]) == (None, "SmoothQuant 0.8, GPTQ")
    group = json.loads((out / "config.json").read_text())["quantization_config"]["config_groups"]["group_0"]
    assert (group["weights"]["num_bits"], group["weights"]["strategy"]) == (8, "channel")
    activations = group["input_activations"]
    assert (activations["num_bits"], activations["dynamic"], activations["strategy"]) == (8, True, "token")
    stored = tensors(out)
    assert stored["model.layers.0.mlp.up_proj.weight"].dtype == torch.int8
    assert stored["model.layers.0.mlp.up_proj.weight_scale"].shape == (128, 1)
    assert stored["model.embed_tokens.weight"].dtype == torch.bfloat16
    assert abs(found["perplexity"]["more_nats_a_token"]["value"]) < 0.2


def test_a_tokenizer_that_llama_cpp_does_not_know_is_refused(wide: Path, tmp_path: Path) -> None:
    _, said = quantize(tmp_path, "--scheme", "gguf", "--model", str(wide), status=2)
    assert "auto-round cannot write this llama model as GGUF" in said and "Traceback" not in said
    assert sorted(path.name for path in tmp_path.iterdir()) == ["text.txt"]


@pytest.mark.slow
def test_a_gguf_file_is_the_model(embedded_model: Model, tmp_path: Path) -> None:
    out, _ = quantize(tmp_path, "--scheme", "gguf", "--gguf", "q8_0")
    found = told(out)
    assert sorted(path.name for path in out.iterdir()) == [
        "Modelfile", "README.md", "model-q8_0.gguf", "quantization.json",
    ]  # fmt: skip
    assert (out / "Modelfile").read_text() == "FROM ./model-q8_0.gguf\n"
    assert found["sizes"]["linear_bits"] == 8.5  # blocks of 32 with a scale of 16 bits
    assert abs(found["perplexity"]["more_nats_a_token"]["value"]) < 0.2  # a short text, in bfloat16

    convert_gguf(out / "model-q8_0.gguf", tmp_path / "dense")
    dense = Model(str(tmp_path / "dense"))
    assert load_tokenizer(dense).chat_template == load_tokenizer(embedded_model).chat_template
    ids = load_tokenizer(embedded_model).encode("The capital of France is Paris, and that of Italy is Rome.")
    assert load_tokenizer(dense).encode("The capital of France is Paris, and that of Italy is Rome.") == ids
    with torch.no_grad():
        found_logits, logits = (
            load_base(model, "float32", "cpu")(input_ids=torch.tensor([ids])).logits
            for model in (dense, embedded_model)
        )
    assert (found_logits - logits).norm() < 0.06 * logits.norm()  # 0.034 was seen
