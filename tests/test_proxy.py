"""A steered model as data: JSON, hashes by content, paths in run folders, and who refuses it."""

import math
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from safetensors.numpy import save_file

from workbench.adapters import load_weights
from workbench.decodes import Greedy
from workbench.errors import UserError
from workbench.files import read_json, write_json
from workbench.identity import from_json, model_identity, system_hash, to_json
from workbench.merging import merge, without_adapter
from workbench.prompts import load_prompt
from workbench.proxy import Proxy, check_one, steer
from workbench.publishing import publish
from workbench.quantizing.quantize import check
from workbench.quantizing.settings import Settings
from workbench.run_folder import map_model_paths, read_system
from workbench.runs import Run
from workbench.types import Model, System

BASE, SMALL = Model("base"), Model("small")
PROXY = steer(BASE, replace(SMALL, revision="tuned"), SMALL, 1)


def system(model: Model = PROXY) -> System:
    return System(model, load_prompt("arithmetic"), Greedy(8))


@pytest.fixture
def adapter(tmp_path: Path) -> Path:
    import numpy as np

    folder = tmp_path / "adapter"
    folder.mkdir()
    save_file({"w": np.ones(3, dtype=np.float32)}, folder / "adapter_model.safetensors")
    write_json(folder / "adapter_config.json", {"peft_type": "LORA"})
    return folder


def test_it_is_a_model_whose_own_fields_are_the_bases() -> None:
    base = Model("base", "main", "adapter", "nf4")
    model = steer(base, SMALL, SMALL, 0.5)
    assert isinstance(model, Model)
    assert (model.base, model.revision, model.adapter, model.quantization) == ("base", "main", "adapter", "nf4")
    assert model.steered == base
    assert model != base
    assert Proxy("base", expert=SMALL, antiexpert=SMALL, alpha=1) == steer(BASE, SMALL, SMALL, 1.0)


def test_it_goes_through_json_and_back() -> None:
    assert from_json(to_json(system())) == system()
    assert from_json(to_json(system(), defaults=False)) == system()
    assert to_json(PROXY)["expert"] == to_json(PROXY.expert)


def test_every_part_is_in_the_hash() -> None:
    others = [
        BASE,
        replace(PROXY, alpha=0.5),
        replace(PROXY, expert=SMALL),
        replace(PROXY, antiexpert=BASE),
        replace(PROXY, base="other"),
        replace(PROXY, quantization="nf4"),
        steer(BASE, PROXY.antiexpert, PROXY.expert, 1.0),
    ]
    hashes = {system_hash(system(model)) for model in (PROXY, *others)}
    assert len(hashes) == len(others) + 1
    assert system_hash(system(steer(BASE, PROXY.expert, SMALL, 1))) == system_hash(system())  # 1 is 1.0


def test_its_adapters_are_hashed_by_content(adapter: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(adapter, tmp_path / "copy"))
    one, two = (steer(BASE, replace(SMALL, adapter=str(folder)), SMALL, 1.0) for folder in (adapter, copy))
    assert model_identity(one) == model_identity(two)
    assert str(tmp_path) not in str(model_identity(one))
    write_json(copy / "adapter_config.json", {"peft_type": "LORA", "r": 3})
    assert model_identity(one) != model_identity(two)


def test_in_a_run_folder_its_paths_move_with_the_folder(adapter: Path, tmp_path: Path) -> None:
    run = Run.open(tmp_path / "runs", "proxy_tuning", {"recipe": "proxy_tuning"})
    inside = run.path / "adapter"
    shutil.copytree(adapter, inside)
    run.write_system(system(steer(BASE, replace(SMALL, adapter=str(inside)), SMALL, 1.0)))
    run.close()
    assert read_json(run.path / "system.json")["model"]["expert"]["adapter"] == "./adapter"
    moved = run.path.rename(tmp_path / "moved")
    model = read_system(moved / "system.json").model
    assert isinstance(model, Proxy)
    assert model.expert.adapter == str(moved.resolve() / "adapter")
    own = map_model_paths(to_json(replace(PROXY, adapter="a")), str.upper)
    assert (own["base"], own["adapter"], own["antiexpert"]["base"]) == ("BASE", "A", "SMALL")


@pytest.mark.parametrize("alpha", [math.nan, math.inf, -math.inf, 101.0, "1", True])
def test_alpha_must_be_a_number(alpha: float) -> None:
    with pytest.raises(UserError, match="alpha is "):
        steer(BASE, SMALL, SMALL, alpha)


def test_a_part_is_not_steered_itself() -> None:
    with pytest.raises(UserError, match="expert is Proxy"):
        steer(BASE, PROXY, SMALL, 1.0)
    with pytest.raises(UserError, match="antiexpert is None"):
        steer(BASE, SMALL, None, 1.0)  # type: ignore[arg-type]
    with pytest.raises(UserError, match="base is steered already"):
        steer(PROXY, SMALL, SMALL, 1.0)


def test_what_needs_one_set_of_weights_refuses_it_and_says_why(tmp_path: Path) -> None:
    check_one(BASE, "merged")
    with Run.open(tmp_path / "runs", "proxy_tuning", {"recipe": "proxy_tuning"}) as run:
        run.write_system(system())
        with pytest.raises(UserError, match="cannot be published: it is 'base' steered by two other models"):
            publish(run, tmp_path / "out")
    with pytest.raises(UserError, match="cannot be merged"):
        merge(PROXY, tmp_path / "out")
    with pytest.raises(UserError, match="cannot be freed of an adapter"):
        without_adapter(system())
    with pytest.raises(UserError, match="cannot be quantised"):
        check(PROXY, "nf4", Settings(), tmp_path / "out")
    with pytest.raises(UserError, match="cannot be loaded as one"):  # all training goes through here
        load_weights(PROXY, "float32", "cpu")
