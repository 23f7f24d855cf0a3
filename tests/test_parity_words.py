"""A word says which system is meant; what is wrong with one is said by the name of the field."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

import recipes.zero_shot
from workbench.engines import EngineConfig
from workbench.errors import UserError
from workbench.parity.words import is_quantised, read_sides
from workbench.session import Setup
from workbench.types import Model

URL = "http://127.0.0.1:8150"


@pytest.fixture
def setup(tiny_model: Path, tmp_path: Path) -> Setup:
    return Setup(model=str(tiny_model), split="dev", runs=tmp_path / "runs", quiet=True)


@pytest.fixture
def copy(tiny_model: Path, tmp_path: Path) -> Path:
    """The tiny model in another folder, with other weights' hash."""
    folder = shutil.copytree(tiny_model, tmp_path / "copy")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"rope_theta": 9_999.0}))
    return folder


def test_what_a_word_leaves_open_is_the_command_s_own(setup: Setup) -> None:
    own = replace(
        setup, quantization="nf4", engine=EngineConfig(dtype="float32", endpoint=(URL,), served_name="x")
    )
    plain, dense, served = read_sides(["hf", "hf,dtype=bfloat16,name=half", f"vllm,endpoint={URL}1"], own)
    assert plain.model == dense.model == served.model == Model(setup.model, quantization="nf4")
    assert (plain.name, plain.engine) == ("hf", own.engine)
    assert (dense.name, dense.engine) == ("half", replace(own.engine, dtype="bfloat16"))
    assert served.engine == replace(own.engine, engine="vllm", endpoint=(f"{URL}1",))
    assert read_sides(["hf", "vllm"], own)[1].engine.endpoint == (URL,)


def test_a_model_of_its_own_takes_nothing_of_the_command_s(setup: Setup, copy: Path) -> None:
    own = replace(setup, quantization="nf4", engine=EngineConfig("vllm", endpoint=(URL,), served_name="x"))
    first, other = read_sides(["vllm", f"vllm,model={copy}"], own)
    assert other.model == Model(str(copy)) and first.model.quantization == "nf4"
    assert (first.engine.served_name, other.engine.served_name) == ("x", None)


def test_several_endpoints_share_the_work(setup: Setup) -> None:
    _, side = read_sides(["hf", f"vllm,endpoint={URL},endpoint={URL}0,served_name=here"], setup)
    assert (side.engine.endpoint, side.engine.served_name) == ((URL, f"{URL}0"), "here")


def test_a_run_brings_its_model(setup: Setup) -> None:
    fake = replace(setup, model="fake:0.8", name="fruit", task_args=("practice=4", "dev=4", "test=4"))
    recipes.zero_shot.main(recipes.zero_shot.Config(replace(fake, engine=EngineConfig("fake"))))
    (setup.runs / "fruit" / "system.json").write_text(
        (setup.runs / "fruit" / "system.json").read_text().replace("fake:0.8", setup.model)
    )
    other = replace(setup, model="fake", engine=EngineConfig("vllm"))
    _, side = read_sides(["fake", "run=fruit,dtype=float32"], other)
    assert (side.model, side.engine.engine, side.engine.dtype) == (Model(setup.model), "hf", "float32")
    assert side.name == "run=fruit,dtype=float32"
    with pytest.raises(UserError, match="There is no run named 'pear'"):
        read_sides(["fake", "run=pear"], other)


def test_bounds_go_by_what_a_system_is_unless_its_word_says(setup: Setup, copy: Path) -> None:
    def bounds(*words: str) -> list[str]:
        return [side.bounds for side in read_sides(words, setup)[1:]]

    assert bounds("hf", "hf,dtype=float32", "hf,quantization=nf4") == ["same", "quantised"]
    assert bounds("hf", "hf,dtype=float32,bounds=quantised", "hf,quantization=nf4,bounds=same") == [
        "quantised",
        "same",
    ]
    assert bounds("hf,quantization=nf4", "hf,quantization=nf4,dtype=float32") == ["same"], "the same weights"
    assert bounds("hf,quantization=nf4", "hf") == ["quantised"]
    assert bounds("hf", f"hf,model={copy}") == ["same"]
    assert read_sides(["hf", "hf,dtype=float32,bounds=quantised"], setup)[1].name == "hf,dtype=float32"


@pytest.mark.parametrize("how", ["config.json", "quantization.json"])
def test_a_folder_says_that_its_weights_are_rounded(how: str, copy: Path) -> None:
    assert not is_quantised(Model(str(copy)))
    config = json.loads((copy / "config.json").read_text())
    if how == "quantization.json":
        (copy / how).write_text("{}")
    else:
        (copy / how).write_text(json.dumps(config | {"quantization_config": {"quant_method": "awq"}}))
    assert is_quantised(Model(str(copy)))
    assert is_quantised(Model("x", quantization="nf4"))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "parity takes two or more systems"),
        (["hf"], "parity takes two or more systems"),
        (["hf", "hf"], "'hf' and 'hf' are the same system"),
        (["hf", "hf,name=x"], "'hf' and 'hf,name=x' are the same system"),
        (["hf", "hf,dtype=bfloat16"], "are the same system"),
        (["hf,name=x", "hf,dtype=float32,name=x"], "are of the same name"),
        (["hf", "tgi"], "There is no engine named 'tgi'.* There are: fake, hf, vllm"),
        (["hf", ""], "There is no engine named ''"),
        (["run=", "fake"], "run in 'run=' has no value: write run=NAME"),
        (["hf", "run=,dtype=float32"], "run in 'run=,dtype=float32' has no value"),
        (["hf", "run"], "There is no engine named 'run'"),
        (["hf", "vllm=x"], "There is no engine named 'vllm=x'"),
        (["hf", "hf,endpoint=x"], "no setting of hf named 'endpoint'.*adapter, bounds, device, .*'hf,endpoint=x'"),
        (["hf", "vllm,quantization=nf4"], "no setting of vllm named 'quantization'"),
        (["hf", "run=x,model=y"], "no setting of run=x named 'model'"),
        (["hf", "hf,dtype"], "dtype in 'hf,dtype' has no value"),
        (["hf", "hf,dtype="], "dtype in 'hf,dtype=' has no value"),
        (["hf", "hf,"], "There is no setting of hf named ''"),
        (["hf", "hf,dtype=float8"], "There is no dtype named 'float8'.*bfloat16, float16, float32"),
        (["hf", "hf,quantization=int3"], "There is no quantization named 'int3'"),
        (["hf", "hf,dtype=float32,bounds=wide"], "There is no bounds named 'wide'.*quantised, same"),
        (["hf,bounds=quantised", "hf,dtype=float32"], "is the reference.*leave bounds=quantised out"),
        (["hf", "hf,dtype=float32,dtype=float16"], "dtype stands twice"),
        (["hf", "hf,model=nowhere"], "There is no model 'nowhere'"),
        (["hf", "hf,adapter=nowhere"], "There is no folder 'nowhere'"),
    ],
)
def test_a_bad_word_is_refused_before_anything_is_asked(words: list[str], message: str, setup: Setup) -> None:
    with pytest.raises(UserError, match=f"(?s){message}"):
        read_sides(words, setup)
    assert not setup.runs.exists()
