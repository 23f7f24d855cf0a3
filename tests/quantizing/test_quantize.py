"""Folders of quantised weights: nf4 and int8 made and loaded, their cards, and everything that is refused."""

import errno
import json
import math
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM, OlmoConfig, OlmoForCausalLM

from recipes.quantize import Config, main
from workbench.adapters import load_weights
from workbench.decodes import Greedy
from workbench.engines.hf import HfEngine
from workbench.errors import UserError
from workbench.files import read_json
from workbench.forgetting import perplexity, text_losses
from workbench.hub import split_card
from workbench.merging import merge
from workbench.methods import sft
from workbench.methods.lora import Config as LoraConfig
from workbench.methods.lora import adapt
from workbench.models import load_base, load_tokenizer
from workbench.prompts import load_prompt
from workbench.quantizing import bitsandbytes_folder
from workbench.quantizing.calibration import calibration
from workbench.quantizing.compressed import _smooths, group_of
from workbench.quantizing.settings import Settings
from workbench.runs import Run
from workbench.tasks import load_task
from workbench.training.config import Training
from workbench.types import Model, System

pytestmark = pytest.mark.usefixtures("one_thread")

PARAGRAPHS = [f"Paragraph {i} says that {i} plus 7 is {i + 7}, and that sales fell." for i in range(8)]


@pytest.fixture(scope="module")
def wide(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny model's like, as wide as NF4's blocks are long."""
    folder = tmp_path_factory.mktemp("models") / "wide"
    load_tokenizer(Model(str(tiny_model))).save_pretrained(folder)
    config = LlamaConfig.from_pretrained(tiny_model, hidden_size=64, intermediate_size=128, head_dim=16)
    torch.manual_seed(0)
    LlamaForCausalLM(config).save_pretrained(folder)
    return folder


@pytest.fixture
def text(tmp_path: Path) -> Path:
    file = tmp_path / "paragraphs.txt"
    file.write_text("\n\n".join(PARAGRAPHS), encoding="utf-8")
    return file


@pytest.fixture
def make(wide: Path, text: Path, tmp_path: Path) -> Callable[..., Config]:
    """A recipe's Config for the wide model, quiet and on a short text."""

    def config(scheme: str, settings: Settings | None = None, **more: Any) -> Config:
        settings = replace(settings or Settings(), text=text)
        return Config(
            scheme, **{"out": tmp_path / "out", "model": str(wide), "settings": settings, "quiet": True} | more
        )

    return config


@pytest.fixture
def libraries(monkeypatch: pytest.MonkeyPatch) -> None:
    """As though every library were there: what is refused below is refused before one is used."""
    monkeypatch.setattr("workbench.quantizing.quantize.find_spec", lambda name: object())


# --- nf4 and int8 -----------------------------------------------------------------------------------


@pytest.mark.parametrize(("scheme", "bits"), [("nf4", (4.1, 4.25)), ("int8", (8.2, 8.6))])
def test_the_folder_is_the_model_that_quantization_gives(
    scheme: str, bits: tuple[float, float], make: Callable[..., Config], wide: Path, tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    told = main(make(scheme))
    out = tmp_path / "out"
    assert f"{scheme}, " in capsys.readouterr().out
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "paragraphs.txt"], "nothing half-made"
    assert not [
        path.name for path in out.iterdir() if path.suffix not in (".json", ".safetensors", ".jinja", ".md")
    ]

    assert read_json(out / "quantization.json") == told
    assert (told["scheme"], told["base"], told["dtype"]) == (scheme, None, "float32")
    assert bits[0] < told["sizes"]["linear_bits"] < bits[1]
    assert told["sizes"]["linear_bytes_before"] == 4 * told["sizes"]["linear_parameters"]
    names = ("*.json", "*.safetensors", "*.jinja")
    assert told["sizes"]["folder_bytes"] == sum(
        path.stat().st_size for name in names for path in out.glob(name) if path.name != "quantization.json"
    )

    packed, folder = Model(str(wide), quantization=scheme), Model(str(out))
    ids = torch.tensor([load_tokenizer(folder).encode("What is 12 plus 7? The answer is 19.")])
    with torch.no_grad():
        found, expected = (load_base(model, "float32", "cpu")(input_ids=ids).logits for model in (folder, packed))
    assert torch.allclose(found, expected, atol=1e-6)
    assert load_tokenizer(folder).chat_template == load_tokenizer(packed).chat_template

    losses = []
    for model in (Model(str(wide)), folder):
        engine = HfEngine(model, dtype="float32", device="cpu")
        losses.append(text_losses(engine, PARAGRAPHS))
        engine.close()
    for name, each in zip(("before", "after"), losses, strict=True):
        assert told["perplexity"][name]["value"] == pytest.approx(perplexity(each).value, rel=1e-5)
    (old, tokens), (new, _) = (map(sum, zip(*each, strict=True)) for each in losses)
    more = told["perplexity"]["more_nats_a_token"]
    assert more["value"] == pytest.approx((new - old) / tokens, abs=1e-5)
    assert more["low"] <= more["value"] <= more["high"]
    assert math.log(told["perplexity"]["after"]["value"] / told["perplexity"]["before"]["value"]) == pytest.approx(
        more["value"], abs=1e-5
    )


def test_the_card_tells_sizes_perplexity_command_and_readers_and_no_path(
    make: Callable[..., Config], wide: Path, tmp_path: Path
) -> None:
    told = main(make("nf4"))
    card = (tmp_path / "out" / "README.md").read_text(encoding="utf-8")
    matter, body = split_card(card)
    assert matter == {
        "library_name": "transformers", "pipeline_tag": "text-generation", "tags": ["nf4", "quantized"]
    }  # fmt: skip
    sizes = told["sizes"]
    assert f"| bytes of the linear layers | {sizes['linear_bytes_before']:,} | {sizes['linear_bytes']:,} |" in body
    assert f"| bytes of the whole folder | {sizes['folder_bytes_before']:,} | {sizes['folder_bytes']:,} |" in body
    assert f"| bits a parameter there | 32.000 | {sizes['linear_bits']:.3f} |" in body
    before, after = told["perplexity"]["before"], told["perplexity"]["after"]
    assert f"| {before['value']:.2f} ({before['low']:.2f} – {before['high']:.2f}) | {after['value']:.2f} (" in body
    assert "the text of paragraphs.txt (8 paragraphs, " in body and "paired difference" in body
    command = "workbench quantize --model FOLDER-OF-THE-BASE --scheme nf4 --out FOLDER --text paragraphs.txt"
    assert f"    {command}\n" in body
    assert "the engine `hf` (`--model FOLDER`)" in body and "## Calibration" not in body
    for name in ("README.md", "quantization.json", "config.json"):
        assert str(tmp_path) not in (tmp_path / "out" / name).read_text() and str(wide) not in card


def test_the_embedded_models_card_has_its_name_and_licence(
    embedded_model: Model, tmp_path: Path, text: Path
) -> None:
    told = main(Config("nf4", tmp_path / "out", settings=Settings(text=text), quiet=True))
    assert (told["base"], told["dtype"], told["sizes"]["linear_bits"]) == (embedded_model.base, "bfloat16", 4.127)
    matter, body = split_card((tmp_path / "out" / "README.md").read_text(encoding="utf-8"))
    assert (matter["base_model"], matter["base_model_relation"], matter["license"]) == (
        "HuggingFaceTB/SmolLM2-135M-Instruct", "quantized", "apache-2.0",
    )  # fmt: skip
    assert "| 212,336,640 | 54,770,040 |" in body


# --- what is refused --------------------------------------------------------------------------------


def refused(config: Config, match: str) -> None:
    """The recipe refuses, and leaves no folder."""
    there = config.out.exists()
    with pytest.raises(UserError, match=match):
        main(config)
    assert config.out.exists() == there and not list(config.out.parent.glob(".*partial"))


def test_an_unknown_scheme(make: Callable[..., Config]) -> None:
    refused(make("nf5"), r"no scheme named 'nf5'. Did you mean 'nf4'\? There are: gguf, int8, nf4, w4a16, w8a8")


@pytest.mark.parametrize(
    ("scheme", "settings", "match"),
    [
        ("nf4", Settings(samples=64), r"samples is for the scheme w4a16 and w8a8, and the scheme is nf4"),
        ("gguf", Settings(prompt="arithmetic"), r"prompt is for the scheme w4a16 and w8a8"),
        ("w8a8", Settings(group_size=64), r"group_size is for the scheme w4a16, and the scheme is w8a8"),
        ("w4a16", Settings(gguf="q8_0"), r"gguf is for the scheme gguf, and the scheme is w4a16"),
        ("gguf", Settings(gguf="q9"), r"no gguf named 'q9'.* There are: q4_0, q4_1, q4_k_m, q8_0"),  # type: ignore[arg-type]
        ("w4a16", Settings(group_size=48), r"no group_size named '48'.* There are: 128, 32, 64"),  # type: ignore[arg-type]
    ],
)
def test_a_setting_of_another_scheme_or_none(
    scheme: str, settings: Settings, match: str, make: Callable[..., Config]
) -> None:
    refused(make(scheme, settings), match)


def test_a_task_for_a_scheme_that_looks_at_none(make: Callable[..., Config]) -> None:
    refused(make("nf4", task="gsm8k"), r"nf4 looks at no data: leave --task")
    refused(make("int8", task_args=("practice=20",)), r"int8 looks at no data")


def test_what_is_in_the_way(make: Callable[..., Config], tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine").write_text("kept")
    refused(make("nf4"), r"exists and is not an empty folder")
    assert (tmp_path / "out" / "mine").read_text() == "kept"


def test_a_folder_within_the_base(make: Callable[..., Config], wide: Path) -> None:
    refused(make("int8", out=wide / "int8"), "is within the folder of the model that is quantised: name another")
    assert not (wide / "int8").exists()


def test_an_adapter_is_sent_to_be_merged(make: Callable[..., Config], wide: Path, tmp_path: Path) -> None:
    system = System(Model(str(wide)), load_prompt("arithmetic"), Greedy(16))
    run = Run.open(tmp_path / "runs", "lora", {"recipe": "lora"}, name="mine")
    training = Training(steps=1, batch_size=2, precision="float32")
    task = load_task("arithmetic", {"practice": "8", "dev": "4", "test": "4"})
    with run:
        adapter = adapt(system, task, LoraConfig(rank=2, training=training), run).model.adapter
    advice = r"is an adapter, and a whole model is quantised: .*`workbench adapter merge --run NAME --out FOLDER`"
    refused(make("nf4", adapter=adapter), advice)
    refused(make("nf4", model=str(adapter)), advice)
    refused(make("nf4", model="smollm2-135m-instruct", run="mine", runs=tmp_path / "runs"), advice)
    refused(make("nf4", run="mine", runs=tmp_path / "runs"), r"Name one model: --run ID, or --model")


def test_a_model_that_is_quantised_already(make: Callable[..., Config], tmp_path: Path) -> None:
    main(make("nf4"))
    refused(
        make("int8", model=str(tmp_path / "out"), out=tmp_path / "more"), r"quantised already \(bitsandbytes\)"
    )


@pytest.mark.parametrize("scheme", ["w4a16", "w8a8", "gguf"])
def test_a_library_that_is_missing(
    scheme: str, make: Callable[..., Config], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("workbench.quantizing.quantize.find_spec", lambda name: None)
    needed = r"needs (llmcompressor|auto_round).*`make quantize`, then `\.venv-quantize/bin/workbench quantize"
    refused(make(scheme), needed + r".*pip install 'llm-workbench\[quantize\]'")


@pytest.mark.usefixtures("libraries")
def test_widths_that_the_group_does_not_divide(make: Callable[..., Config], tiny_model: Path) -> None:
    refused(
        make("w4a16", Settings(group_size=128)),
        r"group_size 128 does not divide model\.layers\.0\.self_attn\.q_proj, which is 64 wide. .*fit: 64, 32\.",
    )
    refused(
        make("w4a16", Settings(group_size=64), model=str(tiny_model)), r"which is 32 wide. Sizes that fit: 32\."
    )


def test_norms_without_weights_are_not_smoothed() -> None:
    shape = {"vocab_size": 32, "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1}
    heads = {"num_attention_heads": 2, "num_key_value_heads": 2}
    assert _smooths(LlamaForCausalLM(LlamaConfig(**shape, **heads)))
    assert not _smooths(OlmoForCausalLM(OlmoConfig(**shape, **heads, pad_token_id=0, eos_token_id=0)))


def test_the_largest_group_that_fits_is_taken() -> None:
    layers = {str(wide): torch.nn.Linear(wide, 8) for wide in (576, 1536)}
    assert group_of(layers, None) == 64 and group_of(layers, 32) == 32
    assert group_of({"a": torch.nn.Linear(4096, 8)}, None) == 128
    with pytest.raises(
        UserError, match=r"group_size 32 does not divide a, which is 40 wide. --scheme w8a8 takes any"
    ):
        group_of({"a": torch.nn.Linear(40, 8)}, None)


@pytest.mark.usefixtures("libraries")
@pytest.mark.parametrize(
    ("samples", "practice", "match"),
    [
        (None, 20, r"practice split of arithmetic has 20 examples, and samples is 256\. .*: --samples 20\."),
        (30, 8, r"has 8 examples, and samples is 30\. Calibration takes 16 at least: name another --task"),
        (2, 20, r"samples is 2; it must be a number in \[16"),
    ],
)
def test_too_few_examples(samples: int | None, practice: int, match: str, make: Callable[..., Config]) -> None:
    sizes = (f"practice={practice}", "dev=4", "test=4")
    refused(make("w8a8", Settings(samples=samples), task_args=sizes), match)


@pytest.mark.usefixtures("libraries")
def test_a_task_without_a_practice_split(make: Callable[..., Config], tmp_path: Path) -> None:
    rows = [{"question": f"{i}?", "answer": str(i), "part": part} for i, part in enumerate(["dev", "test"] * 20)]
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    described = tmp_path / "task.yaml"
    described.write_text("path: rows.jsonl\ninput: question\ntarget: answer\nsplit: part\n", encoding="utf-8")
    refused(make("w4a16", task=str(described)), r"has no question in its practice split")


@pytest.mark.usefixtures("libraries")
def test_a_prompt_that_shows_no_answer(make: Callable[..., Config], tmp_path: Path) -> None:
    prompt = tmp_path / "bare.yaml"
    prompt.write_text(
        "name: bare\npurpose: ask\nfor: a test\nsource: here\nstyle: chat\nvariables: [input]\n"
        'messages:\n  - {role: user, content: "{{ input }}"}\n',
        encoding="utf-8",
    )
    refused(
        make("w4a16", Settings(prompt=str(prompt), samples=16)), r"'bare' shows no answer: its file has no `shot`"
    )


def test_a_model_without_linear_layers(make: Callable[..., Config], wide: Path, tmp_path: Path) -> None:
    config = LlamaConfig.from_pretrained(wide, num_hidden_layers=0)
    LlamaForCausalLM(config).save_pretrained(tmp_path / "none")
    refused(make("int8", model=str(tmp_path / "none")), r"\(llama\) has no linear layers to quantise")


@pytest.mark.usefixtures("libraries")
def test_gpt2s_transposed_layers_are_not_passed_over(make: Callable[..., Config], tmp_path: Path) -> None:
    config = GPT2Config(n_layer=1, n_embd=64, n_head=2, vocab_size=50, bos_token_id=1, eos_token_id=2)
    GPT2LMHeadModel(config).save_pretrained(tmp_path / "gpt2")
    refused(
        make("w4a16", model=str(tmp_path / "gpt2")), r"c_attn keeps its weight transposed .*--scheme int8 or gguf"
    )


def test_no_such_model(make: Callable[..., Config], tmp_path: Path) -> None:
    refused(make("nf4", model=str(tmp_path / "nowhere")), r"There is no model")
    (tmp_path / "strange").mkdir()
    (tmp_path / "strange" / "config.json").write_text('{"model_type": "strange"}')
    (tmp_path / "strange" / "model.safetensors").write_bytes(b"")
    refused(make("nf4", model=str(tmp_path / "strange")), r"strange' cannot be loaded: ValueError")


def test_a_full_disk_leaves_nothing(make: Callable[..., Config], monkeypatch: pytest.MonkeyPatch) -> None:
    def full(model: Model, scheme: str, folder: Path, dtype: str, device: str) -> None:
        shutil.copy(Path(model.base) / "config.json", folder)
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(bitsandbytes_folder, "write", full)
    refused(make("nf4"), r"could not be written: \[Errno 28\] No space left on device")


# --- calibration ------------------------------------------------------------------------------------


def test_calibration_reads_practice_questions_with_their_answers(wide: Path) -> None:
    task = load_task("arithmetic", {"practice": "20", "dev": "4", "test": "4"})
    model, prompt = Model(str(wide)), load_prompt(task.prompt)
    data = calibration(model, task, prompt, 16)
    assert len(data.rows) == data.record["samples"] == 16
    assert (data.record["split"], data.record["task_hash"]) == ("practice", task.hash)
    tokenizer = load_tokenizer(model)
    for ids, example in zip(data.rows, task.practice, strict=False):
        said = tokenizer.decode(ids)
        assert example.input in said and said.endswith(f"{example.target}<|im_end|>")
    assert data.record["tokens"] == sum(map(len, data.rows))
    assert calibration(model, task, prompt, 17).record["hash"] != data.record["hash"]
    assert calibration(model, task, prompt, 16).record == data.record


# --- what is done with a quantised folder -----------------------------------------------------------


def test_an_adapter_learned_beside_a_quantised_folder_merges_into_what_its_codes_stand_for(
    make: Callable[..., Config], tmp_path: Path
) -> None:
    main(make("nf4"))
    packed = Model(str(tmp_path / "out"))
    task = load_task("arithmetic", {"practice": "8", "dev": "4", "test": "4"})
    with Run.open(tmp_path / "runs", "lora", {"recipe": "lora"}, name="mine") as run:
        training = Training(steps=2, batch_size=2, precision="float32")
        system = System(packed, load_prompt("arithmetic"), Greedy(16))
        tuned = adapt(system, task, LoraConfig(rank=2, training=training), run).model
    merged = merge(tuned, tmp_path / "merged")
    assert merged.arithmetic < 1e-3 * merged.largest
    assert "quantization_config" not in read_json(tmp_path / "merged" / "config.json")
    ids = torch.tensor([load_tokenizer(packed).encode("What is 12 plus 7? The answer is 19.")])
    with torch.no_grad():
        dense = load_base(Model(str(tmp_path / "merged")), "float32", "cpu")(input_ids=ids).logits
        adapted = load_weights(tuned, "float32", "cpu")(input_ids=ids).logits
    assert torch.allclose(dense, adapted, atol=1e-3)


def test_all_weights_of_a_quantised_folder_cannot_be_trained(make: Callable[..., Config], tmp_path: Path) -> None:
    main(make("int8"))
    task = load_task("arithmetic", {"practice": "8", "dev": "4", "test": "4"})
    system = System(Model(str(tmp_path / "out")), load_prompt("arithmetic"), Greedy(16))
    with (
        Run.open(tmp_path / "runs", "sft", {"recipe": "sft"}, name="mine") as run,
        pytest.raises(UserError, match=r"they are quantised, which freezes them\. .*name the dense model"),
    ):
        sft.adapt(system, task, sft.Config(training=Training(steps=1, batch_size=2)), run)
