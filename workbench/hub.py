"""What the Hub is told of a tuned model: its base's name and licence, what kind it is, and the lines that load it.

Nothing here names a path of this machine: a base in a local folder goes by the hash of its content.
"""

import re
from pathlib import Path
from typing import Any

import yaml

from workbench.errors import UserError
from workbench.identity import folder_hash
from workbench.models import EMBEDDED, check_adapter, model_folder
from workbench.own_kinds import BITFIT, HEAD, HOULSBY, OWN_KINDS
from workbench.types import Model

EMBEDDED_ID = "HuggingFaceTB/SmolLM2-135M-Instruct"
"""Where the embedded model comes from; as the workbench has it, its weights were rounded to 4 bits (Q4_1)."""

_BESIDE = {
    "nf4": "PEFT reads the adapter too, beside its base in NF4 with double quantisation. Its answers may differ: "
    "on some CPUs bitsandbytes 0.50 rounds the scales, and it errs where 64 does not divide a layer's width; the "
    "workbench leaves such layers dense.",
    "int8": "PEFT reads the adapter too, beside its base in 8 bits (`load_in_8bit`). Its answers may differ: "
    "bitsandbytes 0.50 rounds the activations too where it does not train, which the workbench forbids on a CPU.",
}

_TAGS = {
    "LORA": "lora",
    "PROMPT_TUNING": "prompt-tuning",
    "PREFIX_TUNING": "prefix-tuning",
    HOULSBY: "bottleneck-adapter",
    BITFIT: "bitfit",
    HEAD: "classification-head",
}


def hub_id(model: Model) -> str | None:
    """The Hub's name of a base model; None for a local folder, and for a name that only a server knows."""
    if model.base == EMBEDDED:
        return EMBEDDED_ID
    return model.base if model.base.count("/") == 1 and not _is_local(model) else None


def base_name(model: Model) -> str:
    """A base model for a reader of its card: the Hub's name, or its content's hash where it lies in a folder."""
    if _is_local(model):
        return f"a model in a local folder (content hash {folder_hash(model.base)})"
    if model.base == EMBEDDED:
        return f"{EMBEDDED_ID}, in the workbench's own copy, whose weights were once rounded to 4 bits (Q4_1)"
    return hub_id(model) or model.base


def licence_of(model: Model) -> str | None:
    """The licence of a base model, as the front matter of its own card has it; None where that is not at hand."""
    if model.base == EMBEDDED:
        return "apache-2.0"
    try:
        card = model_folder(model.base, model.revision) / "README.md"
        named = split_card(card.read_text(encoding="utf-8"))[0].get("license")
    except (UserError, OSError, UnicodeDecodeError):
        return None
    return named if isinstance(named, str) and re.fullmatch(r"[\w.+-]{1,60}", named) else None


def kind_of(model: Model) -> str | None:
    """PEFT's name, or this workbench's, of the kind of a model's adapter; None without one."""
    return None if model.adapter is None else str(check_adapter(model.adapter).get("peft_type"))


def about(model: Model, base: Model | None) -> dict[str, Any]:
    """The front matter of a tuned model's card, without results.

    Args:
        model: the tuned one.
        base: what it was tuned from, where that is known.
    """
    kind, name = kind_of(model), None if base is None else hub_id(base)
    whole = base is None or model.base != base.base
    licence = None if base is None else licence_of(base)
    matter = {
        "base_model": name,
        "base_model_relation": None if name is None else "finetune" if whole else "adapter",
        "library_name": "transformers" if kind is None else None if kind in OWN_KINDS else "peft",
        "license": licence,
        "pipeline_tag": "text-classification" if kind == HEAD else "text-generation",
        "tags": _tags(model, whole),
    }
    return {key: value for key, value in matter.items() if value is not None}


def split_card(card: str) -> tuple[dict[str, Any], str]:
    """(front matter, text) of a model card; the front matter is empty where it has none that is YAML."""
    found = re.match(r"\A---\r?\n(.*?\n)---[ \t]*\r?\n", card, re.DOTALL)
    if found is None:
        return {}, card
    try:
        matter = yaml.safe_load(found[1])
    except yaml.YAMLError:
        return {}, card
    return (matter, card[found.end() :]) if isinstance(matter, dict) else ({}, card)


def join_card(matter: dict[str, Any], text: str) -> str:
    """A model card from its front matter and its text."""
    return f"---\n{yaml.safe_dump(matter, sort_keys=False, allow_unicode=True)}---\n{text}"


def loading(model: Model, base: Model | None, folder: str, adapter: str, repo: str | None = None) -> str:
    """The section of a card that says how the model is loaded, in lines of Python that run.

    Args:
        model: the tuned one.
        base: what it was tuned from, where that is known.
        folder: where the model lies, if it is a whole one, as a path from its card.
        adapter: where its adapter lies, if it has one, as such a path.
        repo: the card's folder on the Hub, if it is there.
    """
    kind, whole = kind_of(model), base is None or model.base != base.base
    own, notes = kind in OWN_KINDS or model.quantization is not None, []
    ours, theirs = model.base, hub_id(model) or model.base
    if whole:
        ours, theirs = folder, repo or folder
    elif _is_local(model):
        ours = theirs = "FOLDER-OF-THE-BASE"
        notes.append("Its base was a model in a local folder: put that folder's name in.")
    elif model.base == EMBEDDED and not own:
        notes.append(
            f"It learned beside the workbench's own copy of this base, `{EMBEDDED}`. Beside the Hub's weights, as "
            "here, it answers a little otherwise, and how well was not measured."
        )
    if own:
        lines = _with_workbench(ours, adapter, model.quantization)
    elif kind is not None:
        lines = _with_peft(theirs, repo or adapter, model.revision)
    else:
        lines = _with_transformers(theirs)
    if kind not in OWN_KINDS and own:
        notes.append(_BESIDE[str(model.quantization)])
    command = f"--model {ours}" + (f" --adapter {adapter}" if kind else "")
    command += f" --quantization {model.quantization}" if model.quantization else ""
    fetched = f" (`hf download {repo} --local-dir FOLDER`)" if repo else ""
    where = "In Python:" if repo and not own else f"In Python, in the folder of this card{fetched}:"
    notes.append(f"In the workbench, in the folder of this card{fetched}: `{command}`.")
    text = "\n\n".join(notes)
    return f"## How to load it\n\n{where}\n\n```python\n{lines}\n```\n\n{text}\n\n"


def _with_transformers(place: str) -> str:
    return f"""from transformers import AutoModelForCausalLM, AutoTokenizer

model = AutoModelForCausalLM.from_pretrained("{place}")
tokenizer = AutoTokenizer.from_pretrained("{place}")"""


def _with_peft(base: str, adapter: str, revision: str | None) -> str:
    options = "" if revision is None else f', revision="{revision}"'
    return f"""from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

base = AutoModelForCausalLM.from_pretrained("{base}"{options})
model = PeftModel.from_pretrained(base, "{adapter}")
tokenizer = AutoTokenizer.from_pretrained("{base}"{options})"""


def _with_workbench(base: str, adapter: str, quantization: str | None) -> str:
    more = "" if quantization is None else f', quantization="{quantization}"'
    return f"""from workbench.adapters import load_weights
from workbench.models import load_tokenizer
from workbench.types import Model

model = Model("{base}", adapter="{adapter}"{more})
weights, tokenizer = load_weights(model, "bfloat16", "cpu"), load_tokenizer(model)"""


def _tags(model: Model, whole: bool) -> list[str]:
    tags = ["sft"]
    if model.adapter is not None:
        config = check_adapter(model.adapter)
        tags.append(_TAGS.get(str(config.get("peft_type")), "adapter"))
        tags += [name for name in ("dora", "rslora") if config.get(f"use_{name}")]
    if whole:
        tags.append("full-fine-tuning")
    if model.quantization is not None:
        tags += ["qlora", model.quantization]
    return tags


def _is_local(model: Model) -> bool:
    return model.base != EMBEDDED and Path(model.base).is_dir()
