"""The model card: what the run holds, said so that a stranger can use it, and no folder of this machine."""

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from workbench.cost import carbon_kg
from workbench.decodes import Greedy, LabelLikelihood
from workbench.files import write_json
from workbench.hub import EMBEDDED_ID, base_name, hub_id, join_card, licence_of, split_card
from workbench.identity import folder_hash, to_json
from workbench.methods import dpo, head, lora, sft, soft_prompt
from workbench.models import EMBEDDED
from workbench.preferring.given import Pairs
from workbench.prompts import load_prompt
from workbench.runs import Run
from workbench.tasks.arithmetic import Config as ArithmeticConfig
from workbench.tasks.arithmetic import load
from workbench.training.card import (
    base_of,
    finish,
    load_section,
    model_card,
    result_section,
    with_load_section,
)
from workbench.training.config import Data, Training
from workbench.types import CostToMake, CostToUse, Interval, Model, Result, System

TASK = load(ArithmeticConfig(practice=8, dev=1, test=1))
COST = CostToMake(12_345, 6.7e12, 89.0, 3 * 2**30, 2.0, "estimated at 65 W", 2_048)
DATA = {"source": "arithmetic, practice split", "hash": TASK.hash, "format": "practice", "learned": 7}
COUNTS = {"too_long": 1, "truncated": 0, "tokens": 700, "learned_tokens": 70}


def run_of(folder: Path, *, data: Any = None, events: Any = (), setup: Any = None) -> Run:
    """A run as `fit` leaves it."""
    content = {} if setup is None else {"setup": setup}
    run = Run.open(folder.parent, "lora", content, name=folder.name)
    write_json(run.path / "data.json", DATA | COUNTS if data is None else data)
    write_json(run.path / "cost.json", to_json(COST))
    for line in ({"step": 1, "loss": 2.5}, *events, {"step": 9, "loss": 0.125}):
        run.log(**line)
    return run


def adapter_of(run: Run, kind: str = "LORA", **config: Any) -> str:
    folder = run.path / "adapter"
    folder.mkdir(exist_ok=True)
    write_json(folder / "adapter_config.json", {"peft_type": kind, "lora_alpha": 16, **config})
    (folder / "adapter_model.safetensors").write_bytes(b"")
    return str(folder)


def card_of(run: Run, model: Model | None = None, config: Any = None, method: str = "LoRA") -> str:
    model = model or Model(EMBEDDED, adapter=adapter_of(run))
    system = System(model, load_prompt("arithmetic"), Greedy(16))
    return model_card(method, system, TASK, config or lora.Config(), run)


def test_it_is_read_as_the_hub_reads_it(tmp_path: Path) -> None:
    from huggingface_hub import ModelCard

    card = card_of(run_of(tmp_path / "r"))
    data = ModelCard(card).data.to_dict()
    assert data == {
        "base_model": EMBEDDED_ID,
        "base_model_relation": "adapter",
        "library_name": "peft",
        "license": "apache-2.0",
        "pipeline_tag": "text-generation",
        "tags": ["sft", "lora"],
    }
    assert re.findall(r"^## (.*)", card, re.MULTILINE) == [
        "Data", "Prompt", "Settings", "Cost to make", "How to load it", "Intended use and limits",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("kind", "model", "config", "expected"),
    [
        ("LORA", {}, {"use_dora": True}, {"tags": ["sft", "lora", "dora"]}),
        ("LORA", {}, {"use_rslora": True}, {"tags": ["sft", "lora", "rslora"]}),
        ("LORA", {"quantization": "nf4"}, {}, {"tags": ["sft", "lora", "qlora", "nf4"], "library_name": "peft"}),
        ("PROMPT_TUNING", {}, {}, {"tags": ["sft", "prompt-tuning"], "library_name": "peft"}),
        ("HOULSBY", {}, {}, {"tags": ["sft", "bottleneck-adapter"], "library_name": None}),
        ("BITFIT", {}, {}, {"tags": ["sft", "bitfit"], "library_name": None}),
        ("CLASSIFICATION_HEAD", {}, {}, {"pipeline_tag": "text-classification", "library_name": None}),
        ("LORA", {"base": "ada/model"}, {}, {"base_model": "ada/model", "license": None}),
    ],
)
def test_the_front_matter_says_what_kind_it_is(
    tmp_path: Path, kind: str, model: dict[str, Any], config: dict[str, Any], expected: dict[str, Any]
) -> None:
    run = run_of(tmp_path / "r")
    tuned = Model(**{"base": EMBEDDED, "adapter": adapter_of(run, kind, **config), **model})
    matter, _ = split_card(card_of(run, tuned))
    assert {name: matter.get(name) for name in expected} == expected


def test_data_and_their_hash_are_told(tmp_path: Path) -> None:
    card = card_of(run_of(tmp_path / "r"))
    assert f"data hash `{TASK.hash}`" in card and "operations +-*, terms 2" in card
    assert (
        "It learned on 7 examples, 700 tokens an epoch, of which 70 are learned; 1 left out as too long." in card
    )
    old = card_of(run_of(tmp_path / "old", data={"learned": 5, "too_long": 0}))
    assert f"(data hash `{TASK.hash}`)" in old and "It learned on 5 examples; none were too long." in old


def test_data_of_ones_own_are_named_without_their_folder(tmp_path: Path) -> None:
    mine = tmp_path / "secret" / "mine.jsonl"
    data = {"source": str(mine), "hash": "abc", "format": "chat", "learned": 3, "truncated": 2, "too_long": 0}
    config = lora.Config(training=Training(data=Data(data=str(mine), data_format="chat")))
    card = card_of(run_of(tmp_path / "r", data=data), config=config)
    assert "mine.jsonl (data hash `abc`): conversations. It learned on 3 examples; 2 cut off at the end." in card
    assert "| data | mine.jsonl |" in card and "| data_format | chat |" in card
    assert "It did not learn it" in card and "For text like that of its data." in card
    assert "# HuggingFaceTB/SmolLM2-135M-Instruct, LoRA on mine.jsonl" in card
    assert "secret" not in card


def test_the_prompt_is_shown_as_it_is(tmp_path: Path) -> None:
    run = run_of(tmp_path / "r")
    prompt = load_prompt("phrasebank")
    system = System(Model(EMBEDDED, adapter=adapter_of(run)), prompt, LabelLikelihood())
    task = replace(TASK, labels=("positive", "negative"))
    card = model_card("LoRA", system, task, lora.Config(), run)
    assert f"`phrasebank` (file hash `{prompt.file_hash}`), through the model's chat template" in card
    assert "The answer is the likeliest of the labels (positive, negative)." in card
    for message in prompt.messages:
        for line in message.content.splitlines():
            assert line.strip() in card


@pytest.mark.parametrize(
    ("config", "shown", "hidden"),
    [
        (lora.Config(rank=4), {"rank": "4", "alpha": "16", "epochs": "3"}, {"data_split", "steps", "tensorboard"}),
        (lora.Config(training=Training(steps=5)), {"steps": "5"}, {"epochs"}),
        (lora.Config(targets="a|b"), {"targets": r"a\|b"}, set()),
        (soft_prompt.PromptTuning(tokens=4), {"tokens": "4", "init": "text"}, {"init_text"}),
        (head.Config(), {"variant": "head"}, {"data"}),
        (sft.Config(), {"learning_rate": "0.0001", "too_long": "drop"}, {"type"}),
        (dpo.Config(), {"samples": "8", "pairs_seed": "0", "rank": "8", "loss": "sigmoid"}, {"pairs"}),
        (
            dpo.Config(pairs=Pairs(pairs=Path("p.jsonl")), weights="all"),
            {"pairs": "p.jsonl", "weights": "all", "epochs": "1"},
            {"samples", "pairs_per_question", "pairs_temperature", "pairs_seed"}
            | {"rank", "alpha", "targets", "rslora", "dora"},
        ),
    ],
)
def test_settings_are_what_they_came_to(
    tmp_path: Path, config: Any, shown: dict[str, str], hidden: set[str]
) -> None:
    model = Model(EMBEDDED) if getattr(config, "weights", "") == "all" else None
    card = card_of(run_of(tmp_path / "r"), model, config=config)
    found = dict(re.findall(r"^\| (\w+) \| (.*) \|$", card, re.MULTILINE))
    assert shown.items() <= found.items() and not hidden & found.keys()
    assert not {"default", "None"} & set(found.values())


def test_cost_and_carbon_come_with_their_assumptions(tmp_path: Path) -> None:
    card = card_of(run_of(tmp_path / "r"))
    for told in ("2,048 trained parameters", "12,345 tokens", "6.7e+12 FLOPs", "89.0 s", "3.00 GiB", "2 Wh"):
        assert told in card
    assert "(estimated at 65 W)" in card and "0.4289 kg/kWh" in card and "PUE 1" in card
    assert 1000 * carbon_kg(2.0) == pytest.approx(0.8578) and "about 0.86 g of CO₂e" in card
    assert "2.5 nats a learned token at update 1 and 0.125 at update 9" in card


def test_training_trouble_is_counted_and_told(tmp_path: Path) -> None:
    assert "neither diverged nor ran out of memory" in card_of(run_of(tmp_path / "calm"))
    events = [
        {"event": "rollback", "step": 3, "reason": "the loss is nan", "to_step": 2, "rate_factor": 0.5},
        {"event": "rollback", "step": 5, "reason": "the loss is 9.1", "to_step": 4, "rate_factor": 0.25},
        {"event": "halved", "step": 6, "micro_batch": 4},
    ]
    card = card_of(run_of(tmp_path / "rough", events=events))
    assert "The training diverged twice and went back" in card
    assert "(update 3: the loss is nan; update 5: the loss is 9.1); it ended at 0.25 of the learning rate" in card
    assert "Memory ran out once: micro_batch went down to 4, batch_size stayed." in card


def test_a_base_in_a_local_folder_goes_by_its_content(tmp_path: Path, tiny_model: Path) -> None:
    run = run_of(tmp_path / "r")
    card = card_of(run, Model(str(tiny_model), adapter=adapter_of(run)))
    assert str(tiny_model) not in card and str(tmp_path) not in card and "base_model" not in split_card(card)[0]
    assert f"Its base is a model in a local folder (content hash {folder_hash(tiny_model)})." in card
    assert "FOLDER-OF-THE-BASE" in card and "licence, which is not known here" in card


def test_a_whole_model_names_what_it_was_tuned_from(tmp_path: Path) -> None:
    run = run_of(tmp_path / "runs" / "r", setup={"model": EMBEDDED, "revision": None})
    inner = run_of(run.path / "sft")
    (inner.path / "model").mkdir()
    whole = Model(str(inner.path / "model"))
    assert base_of(whole, inner) == base_of(whole, run) == Model(EMBEDDED)
    card = card_of(inner, whole, sft.Config(), "SFT")
    matter, text = split_card(card)
    assert matter["base_model"] == EMBEDDED_ID and matter["base_model_relation"] == "finetune"
    assert matter["library_name"] == "transformers" and matter["tags"] == ["sft", "full-fine-tuning"]
    assert 'AutoModelForCausalLM.from_pretrained("model")' in text and "--model model`" in text
    assert '("sft/model")' in load_section(whole, run), "from a run further out"

    alone = run_of(tmp_path / "others" / "r")
    (alone.path / "model").mkdir()
    orphan = Model(str(alone.path / "model"))
    assert base_of(orphan, alone) is None
    assert "Its base is not recorded in its run." in card_of(alone, orphan, sft.Config(), "SFT")


def test_a_name_is_no_folder_of_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = run_of(tmp_path / "r")
    monkeypatch.chdir(run.path)
    assert base_of(Model(EMBEDDED), run) == Model(EMBEDDED)
    assert base_of(Model("ada/model", "v1"), run) == Model("ada/model", "v1")


def test_the_embedded_copy_is_told_from_the_hubs(tmp_path: Path) -> None:
    run = run_of(tmp_path / "r")
    card = card_of(run)
    assert f'from_pretrained("{EMBEDDED_ID}")' in card and "rounded to 4 bits (Q4_1)" in card
    assert "Beside the Hub's weights, as here, it answers a little otherwise" in card
    own = card_of(run, Model(EMBEDDED, adapter=adapter_of(run, "HOULSBY")))
    assert f'Model("{EMBEDDED}", adapter="adapter")' in own and "Beside the Hub's weights" not in own
    packed = card_of(run, Model(EMBEDDED, adapter=adapter_of(run), quantization="nf4"))
    assert (
        'quantization="nf4")' in packed
        and "PEFT reads the adapter too" in packed
        and "--quantization nf4`" in packed
    )
    eight = card_of(run, Model(EMBEDDED, adapter=adapter_of(run), quantization="int8"))
    assert "beside its base in 8 bits" in eight and "NF4" not in eight


def test_names_and_licences_of_bases(tmp_path: Path, tiny_model: Path) -> None:
    assert hub_id(Model("ada/model")) == "ada/model" == base_name(Model("ada/model"))
    assert hub_id(Model(str(tiny_model))) is None and hub_id(Model("name-on-a-server")) is None
    folder = tmp_path / "with-card"
    folder.mkdir()
    for name in ("config.json", "model.safetensors"):
        (folder / name).write_bytes((tiny_model / name).read_bytes())
    model = Model(str(folder))
    assert licence_of(model) is None
    (folder / "README.md").write_text(join_card({"license": "mit"}, "# A model\n"))
    assert licence_of(model) == "mit"
    for bad in ("---\nlicense: [a\n---\n", "---\nlicense: |\n  a\n  b: c\n---\n", "---\n- a\n---\n", "no card"):
        (folder / "README.md").write_text(bad)
        assert licence_of(model) is None


def test_a_card_is_split_and_joined() -> None:
    matter = {"base_model": "a/b", "tags": ["x"], "note": "café: yes"}
    assert split_card(join_card(matter, "\n# Text\n---\nmore\n")) == (matter, "\n# Text\n---\nmore\n")
    assert split_card("# Text\n") == ({}, "# Text\n")
    assert yaml.safe_load(join_card(matter, "").strip("-\n")) == matter


def test_how_it_is_loaded_can_be_said_anew(tmp_path: Path) -> None:
    card = card_of(run_of(tmp_path / "r"))
    new = with_load_section(card, "## How to load it\n\nAsk \\1 Ada.\n\n")
    assert "Ask \\1 Ada." in new and "PeftModel" not in new and "## Intended use" in new and "## Settings" in new


METRICS = (
    ("macro_f1", 0.4321), ("macro_f1_low", 0.3), ("macro_f1_high", 0.5), ("majority_class", 0.6),
)  # fmt: skip


RESULT = Result(
    "s", "phrasebank", "t" * 16, "test", Interval(0.5, 0.25, 0.75), (), (("correct", 5), ("wrong", 5)),
    COST, CostToUse(), METRICS, ("2 requests failed",),
)  # fmt: skip


def test_the_result_comes_with_its_interval(tmp_path: Path) -> None:
    section = result_section(RESULT)
    assert section.startswith(
        "\n## Result\n\n50.0 % (95 % interval 25.0 – 75.0 %) on 0 questions of the test split"
    )
    for told in (
        "Macro F1 0.432 (95 % interval 0.300 – 0.500).",
        "alone would score 60.0 %",
        "5 correct, 5 wrong",
        "2 requests failed.",
        "wilson",
    ):
        assert told in section
    assert "dev" not in section
    chosen = result_section(RESULT, {"tokens-1": Interval(0.25, 0, 1), "tokens-8": Interval(0.5, 0, 1)})
    assert "Chosen among 2 settings on the dev split: tokens-1 25.0 % (95 %" in chosen
    assert "All of them together took 12,345 tokens" in chosen


def test_finish_writes_system_and_card(tmp_path: Path) -> None:
    run = run_of(tmp_path / "r")
    system = System(Model(EMBEDDED, adapter=adapter_of(run)), load_prompt("arithmetic"), Greedy(16))
    assert finish("LoRA", system, TASK, lora.Config(), run) is system
    assert run.read_system().model.base == EMBEDDED
    assert (run.path / "README.md").read_text(encoding="utf-8") == card_of(run)
