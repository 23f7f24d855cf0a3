"""Merged is adapted, unmerged is the base, removed is the base exactly; and what cannot be is refused."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM

from recipes.adapter import Config, main
from workbench.adapters import load_weights, save_adapter
from workbench.decodes import Greedy
from workbench.engines.encode import Encoder
from workbench.errors import UserError
from workbench.files import write_json
from workbench.folders import check_free, new_folder
from workbench.identity import to_json
from workbench.merging import dequantized, merge, unmerge
from workbench.models import load_base, load_tokenizer
from workbench.prompts import load_prompt
from workbench.run_folder import read_system
from workbench.types import Message, Model, Request, System

pytestmark = pytest.mark.usefixtures("one_thread")

IDS = torch.arange(3, 43).reshape(2, 20)
KINDS: dict[str, dict[str, Any]] = {
    "lora": {},
    "rslora": {"use_rslora": True},
    "dora": {"use_dora": True},
    "nf4": {},
}
Make = Callable[..., Model]


@pytest.fixture
def make(tiny_model: Path, tmp_path: Path) -> Make:
    """Makes an adapter of rank 4 with random weights on the tiny model (or on another seed's)."""
    from peft import LoraConfig, get_peft_model
    from tiny import tiny_weights

    def made(kind: str = "lora", *, seed: int = 0, targets: Any = "all-linear", **more: Any) -> Model:
        model = Model(str(tiny_model), quantization="nf4" if kind == "nf4" else None)
        base = load_base(model, "float32", "cpu") if seed == 0 else tiny_weights(500, seed)
        torch.manual_seed(1)
        settings = {"r": 4, "lora_alpha": 8, "target_modules": targets, "task_type": "CAUSAL_LM"}
        adapted = get_peft_model(base, LoraConfig(**settings, **KINDS.get(kind, {}), **more))
        for name, weight in adapted.named_parameters():
            if "lora_B" in name:
                weight.data.normal_(0, 0.2)
            if "magnitude" in name:
                weight.data.mul_(0.5 + torch.rand_like(weight))
        folder = tmp_path / f"{kind}-{seed}"
        save_adapter(adapted, model, folder)
        return replace(model, adapter=str(folder))

    return made


def logits(weights: Any) -> torch.Tensor:
    with torch.no_grad():
        found: torch.Tensor = weights(input_ids=IDS).logits.float()
    return found


def plain(folder: Path | str) -> Any:
    """As any tool would load it, in whatever its weights are stored in."""
    return AutoModelForCausalLM.from_pretrained(folder).eval()


@pytest.mark.parametrize("kind", KINDS)
def test_merged_is_adapted(make: Make, tmp_path: Path, kind: str) -> None:
    model, out = make(kind), tmp_path / "merged"
    done = merge(model, out)
    adapted = logits(load_weights(model, "float32", "cpu"))
    assert done.dtype == "float32"  # the tiny base's own
    assert (logits(plain(out)) - adapted).abs().max() <= 1e-4
    assert done.arithmetic == done.stored <= 1e-4
    assert (logits(load_base(replace(model, adapter=None), "float32", "cpu")) - adapted).abs().max() > 0.1
    assert "quantization_config" not in json.loads((out / "config.json").read_text())


@pytest.mark.parametrize("kind", ["lora", "nf4"])
def test_in_bfloat16_only_rounding_is_lost_and_it_is_told(make: Make, tmp_path: Path, kind: str) -> None:
    model = make(kind)
    merge(model, tmp_path / "exact", "float32")
    done = merge(model, tmp_path / "merged", "bfloat16")
    exact, stored = (load_file(tmp_path / name / "model.safetensors") for name in ("exact", "merged"))
    assert exact.keys() == stored.keys()
    assert all(torch.equal(exact[name].bfloat16(), weight) for name, weight in stored.items())
    assert plain(tmp_path / "merged").dtype == torch.bfloat16
    assert done.arithmetic <= 1e-4 < done.stored < done.largest / 10
    loaded = load_base(Model(str(tmp_path / "merged")), "float32", "cpu")  # the weights as stored, float32 sums
    difference = (logits(loaded) - logits(load_weights(model, "float32", "cpu"))).abs().max()
    assert 1e-3 < difference < done.largest / 10


def test_a_qlora_adapter_is_merged_into_what_the_codes_stand_for(make: Make, tmp_path: Path) -> None:
    model = make("nf4")
    merge(model, tmp_path / "merged")
    merge(replace(model, quantization=None), tmp_path / "other")
    loaded = plain(model.base), dequantized(model), plain(tmp_path / "merged"), plain(tmp_path / "other")
    name = "model.layers.0.mlp.down_proj.weight"
    base, dense, merged, other = (each.get_parameter(name).detach() for each in loaded)
    assert not torch.equal(base, dense)
    assert torch.allclose(merged - dense, other - base, atol=1e-6)
    assert (logits(loaded[2]) - logits(loaded[3])).abs().max() > 1e-2


def test_the_folder_has_all_that_the_base_had(make: Make, tiny_model: Path, tmp_path: Path) -> None:
    out = tmp_path / "models" / "merged"
    merge(make(), out)
    named = {file.name for file in out.iterdir()}
    assert {"config.json", "generation_config.json", "model.safetensors", "tokenizer.json"} <= named
    assert (out / "chat_template.jinja").read_text() == (tiny_model / "chat_template.jinja").read_text()
    request = Request("x", (Message("user", "What is 2 + 3?"),))
    ours, base = (Encoder(load_tokenizer(Model(str(folder)))) for folder in (out, tiny_model))
    assert ours.encode(request) == base.encode(request)
    assert AutoTokenizer.from_pretrained(out).chat_template
    texts = [file.read_text() for file in out.iterdir() if file.suffix != ".safetensors"]
    assert not any(str(tmp_path) in text or str(tiny_model) in text for text in texts)
    assert [path.name for path in out.parent.iterdir()] == ["merged"]


@pytest.mark.parametrize("kind", ["lora", "rslora", "nf4"])
def test_unmerged_is_the_base(make: Make, tmp_path: Path, kind: str) -> None:
    model = make(kind)
    base = dequantized(model) if kind == "nf4" else load_base(Model(model.base), "float32", "cpu")
    for dtype, rounding in (("float32", 2**-24), ("bfloat16", 2**-8)):
        merged, out = tmp_path / f"merged-{dtype}", tmp_path / f"base-{dtype}"
        merge(model, merged, dtype)
        done = unmerge(merged, str(model.adapter), out, base=model)
        assert done.dtype == dtype
        merged_weights = load_file(merged / "model.safetensors")
        largest = 0.0
        for name, weight in load_file(out / "model.safetensors").items():
            expected = base.get_parameter(name).detach()
            difference = (weight.float() - expected).abs()
            # One rounding of the merged weight, one of the result, and float32's own of the sums.
            size = torch.maximum(merged_weights[name].float().abs(), expected.abs())
            assert (difference <= 2 * rounding * size + 1e-6).all(), name
            largest = max(largest, float(difference.max()))
        assert done.weights == pytest.approx(largest)
        assert done.logits is not None and done.unequal
        assert done.logits < (1e-4 if dtype == "float32" else 1.0)


def test_unmerging_without_a_base_compares_with_nothing(make: Make, tmp_path: Path) -> None:
    model = make()
    merge(model, tmp_path / "merged")
    done = unmerge(tmp_path / "merged", str(model.adapter), tmp_path / "base", "bfloat16")
    assert (done.weights, done.unequal, done.logits, done.dtype) == (None, None, None, "bfloat16")
    assert (logits(plain(tmp_path / "base")) - logits(plain(model.base))).abs().max() < 1


def test_dora_is_not_unmerged(make: Make, tmp_path: Path) -> None:
    model = make("dora")
    merge(model, tmp_path / "merged")
    with pytest.raises(UserError, match=r"DoRA cannot be unmerged.*norms.*adapter remove"):
        unmerge(tmp_path / "merged", str(model.adapter), tmp_path / "base")
    assert not (tmp_path / "base").exists()


@pytest.mark.parametrize("setting", [{"modules_to_save": ["down_proj"]}, {"bias": "all"}])
def test_an_adapter_that_replaced_weights_is_not_unmerged(
    make: Make, tmp_path: Path, setting: dict[str, Any]
) -> None:
    model = make()
    file = Path(str(model.adapter)) / "adapter_config.json"
    write_json(file, json.loads(file.read_text()) | setting)
    with pytest.raises(UserError, match="replaced weights as a whole"):
        unmerge(tmp_path / "merged", str(model.adapter), tmp_path / "base")


def test_only_what_was_merged_is_unmerged(make: Make, tiny_model: Path, tmp_path: Path) -> None:
    model, other = make(), make("rslora")
    merge(model, tmp_path / "merged")
    with pytest.raises(UserError, match="is not the one that was merged"):
        unmerge(tmp_path / "merged", str(other.adapter), tmp_path / "base")
    with pytest.raises(UserError, match=r"has no merged\.json"):
        unmerge(tiny_model, str(model.adapter), tmp_path / "base")


def test_biases_are_merged_but_not_unmerged(tiny_model: Path, tmp_path: Path) -> None:
    from workbench.own_kinds import free_biases

    config = LlamaConfig.from_pretrained(tiny_model, attention_bias=True)
    LlamaForCausalLM(config).save_pretrained(tmp_path / "biased")
    load_tokenizer(Model(str(tiny_model))).save_pretrained(tmp_path / "biased")
    weights = load_base(Model(str(tmp_path / "biased")), "float32", "cpu")
    free_biases(weights)
    for name, weight in weights.named_parameters():
        if name.endswith(".bias"):
            weight.data.normal_()
    save_adapter(weights, Model(str(tmp_path / "biased")), tmp_path / "adapter")
    model = Model(str(tmp_path / "biased"), adapter=str(tmp_path / "adapter"))
    assert merge(model, tmp_path / "merged").stored == 0
    assert torch.equal(logits(plain(tmp_path / "merged")), logits(weights))
    with pytest.raises(UserError, match="replaced weights as a whole"):
        unmerge(tmp_path / "merged", str(model.adapter), tmp_path / "base")


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        ("PROMPT_TUNING", "virtual tokens"),
        ("PREFIX_TUNING", "keys and values"),
        ("HOULSBY", "non-linearity"),
        ("CLASSIFICATION_HEAD", "output layer of its own"),
        ("IA3", "only LoRA"),
    ],
)
def test_what_is_no_sum_is_refused_with_the_reason(make: Make, tmp_path: Path, kind: str, reason: str) -> None:
    model = make()
    file = Path(str(model.adapter)) / "adapter_config.json"
    write_json(file, json.loads(file.read_text()) | {"peft_type": kind})
    with pytest.raises(UserError, match=rf"\({kind}\) cannot be merged: .*{reason}.*--adapter"):
        merge(model, tmp_path / "merged")
    assert not (tmp_path / "merged").exists()


def test_an_adapter_of_another_base_is_refused(make: Make, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"does not fit the base model.*trained on other weights"):
        merge(make(seed=1), tmp_path / "merged")
    assert not (tmp_path / "merged").exists()


@pytest.mark.filterwarnings("ignore")
def test_an_adapter_of_a_weight_that_is_used_twice_is_refused(make: Make, tmp_path: Path) -> None:
    """The tiny model's output layer is its embeddings: merged, the adapter would change both."""
    with pytest.raises(UserError, match="Merged, this adapter is another model: a logit moves by"):
        merge(make(targets=["lm_head"]), tmp_path / "merged")
    assert not (tmp_path / "merged").exists()


def test_broken_weights_are_refused(make: Make, tmp_path: Path) -> None:
    from safetensors.torch import save_file

    model = make()
    file = Path(str(model.adapter)) / "adapter_model.safetensors"
    save_file({name: weight * float("nan") for name, weight in load_file(file).items()}, file)
    with pytest.raises(UserError, match="cannot be merged: ValueError: NaNs"):
        merge(model, tmp_path / "merged")


def test_a_folder_that_is_not_empty_is_left_alone(make: Make, tmp_path: Path) -> None:
    model = make()
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine.txt").write_text("mine")
    (tmp_path / "file").write_text("mine")
    for name in ("full", "file"):
        with pytest.raises(UserError, match="exists and is not an empty folder"):
            merge(model, tmp_path / name)
    assert (tmp_path / "full" / "mine.txt").read_text() == (tmp_path / "file").read_text() == "mine"
    (tmp_path / "empty").mkdir()
    merge(model, tmp_path / "empty")
    assert (tmp_path / "empty" / "model.safetensors").is_file()


def test_a_folder_is_there_whole_or_not_at_all(tmp_path: Path) -> None:
    with pytest.raises(KeyError), new_folder(tmp_path / "out") as scratch:
        (scratch / "half").write_text("half")
        assert not (tmp_path / "out").exists()
        raise KeyError
    assert list(tmp_path.iterdir()) == []
    (tmp_path / ".out.partial").mkdir()  # a process that was killed left it
    (tmp_path / ".out.partial" / "half").write_text("half")
    with new_folder(tmp_path / "out") as scratch:
        (scratch / "whole").write_text("whole")
    assert [path.name for path in tmp_path.rglob("*")] == ["out", "whole"]
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="could not be written"), new_folder(tmp_path / "file" / "out"):
        pass


def test_the_working_directory_is_no_new_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    for name in (".", "../here"):
        with pytest.raises(UserError, match="is the folder that this runs in: name a new one in it"):
            check_free(Path(name))
    with pytest.raises(UserError, match=r"'\.\.' exists and is not an empty folder"):
        check_free(Path(".."))
    with new_folder(Path("x/../new")) as scratch:
        (scratch / "whole").write_text("whole")
    assert (tmp_path / "here" / "new" / "whole").is_file()


def test_an_unknown_dtype_is_named(make: Make, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="There is no dtype named 'float8'"):
        merge(make(), tmp_path / "merged", "float8")


# --- the recipe -------------------------------------------------------------------------------------


def saved_system(model: Model, folder: Path) -> Path:
    write_json(folder / "system.json", to_json(System(model, load_prompt("arithmetic"), Greedy(16))))
    return folder / "system.json"


def test_there_and_back_on_the_command_line(
    make: Make, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = make()
    system = saved_system(model, tmp_path)
    merged, back = tmp_path / "merged", tmp_path / "back"
    main(Config("merge", merged, system=system, dtype="bfloat16"))
    told = capsys.readouterr().out
    assert "stored in bfloat16" in told and "Largest difference of a logit" in told and "rounding to" in told
    named: dict[str, Any] = {"adapter": Path(str(model.adapter)), "model": model.base, "merged": merged}
    main(Config("unmerge", back, **named))
    assert "weights differ" in capsys.readouterr().out
    main(Config("unmerge", tmp_path / "alone", **(named | {"model": "nobody/nothing"})))
    assert "compared with nothing" in capsys.readouterr().out
    assert load_file(back / "model.safetensors").keys() == load_file(merged / "model.safetensors").keys()


def test_removed_is_the_base_exactly_and_nothing_is_deleted(
    make: Make, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = make()
    before = saved_system(model, tmp_path)
    main(Config("remove", tmp_path / "alone.json", system=before))
    alone = read_system(tmp_path / "alone.json")
    assert alone == replace(read_system(before), model=Model(model.base))
    assert torch.equal(logits(load_weights(alone.model, "float32", "cpu")), logits(plain(model.base)))
    assert Path(str(model.adapter)).is_dir() and "evaluate --system" in capsys.readouterr().out
    with pytest.raises(UserError, match=r"alone\.json' exists"):
        main(Config("remove", tmp_path / "alone.json", system=before))
    with pytest.raises(UserError, match="has no adapter to remove"):
        main(Config("remove", tmp_path / "other.json", system=tmp_path / "alone.json"))


def test_a_quantised_base_stays_quantised(make: Make, tmp_path: Path) -> None:
    main(Config("remove", tmp_path / "alone.json", system=saved_system(make("nf4"), tmp_path)))
    assert read_system(tmp_path / "alone.json").model.quantization == "nf4"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"action": "merge"}, "Name one: --run ID"),
        ({"action": "merge", "run": "a", "system": Path("b")}, "Name one: --run ID"),
        ({"action": "merge", "run": "a", "adapter": Path("b")}, "Name one adapter"),
        ({"action": "merge", "run": "nobody"}, "There is no run named 'nobody'"),
        ({"action": "merge", "run": "a", "merged": Path("b")}, "goes with it only"),
        ({"action": "unmerge", "run": "a"}, "--merged FOLDER is the model"),
        ({"action": "remove", "adapter": Path("b")}, "removed from a System"),
        ({"action": "merge", "adapter": Path("nowhere")}, r"has no adapter_config\.json"),
    ],
)
def test_what_is_missing_is_named(tmp_path: Path, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        main(Config(out=tmp_path / "out", runs=tmp_path, **settings))
    assert not (tmp_path / "out").exists()
