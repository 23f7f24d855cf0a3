"""What is told of a quantised model: `quantization.json` for programs, and a card for people."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

from workbench.forgetting import Losses, perplexity
from workbench.hub import base_name, hub_id, join_card, licence_of
from workbench.identity import folder_hash
from workbench.models import model_folder
from workbench.quantization import Size
from workbench.quantizing.schemes import SCHEMES
from workbench.stats import ratio_interval
from workbench.types import Interval, Model

_PACKAGES = (
    "llm-workbench", "torch", "transformers", "bitsandbytes", "llmcompressor", "compressed-tensors", "auto-round",
    "gguf",
)  # fmt: skip


@dataclass(frozen=True)
class Measured:
    """A model before and after.

    Attributes:
        before, after: losses of the same paragraphs.
        dense, packed: what its linear layers take.
        bytes_before, bytes_after: what its whole folder takes, without what is told here.
        text: name of the file that the paragraphs are from; None is the project's own general text.
    """

    before: Losses
    after: Losses
    dense: Size
    packed: Size
    bytes_before: int
    bytes_after: int
    text: str | None

    @property
    def more(self) -> Interval:
        """The paired difference of the losses, after less before, in nats a token."""
        gaps = [new - old for (new, _), (old, _) in zip(self.after, self.before, strict=True)]
        return ratio_interval(gaps, [tokens for _, tokens in self.before])


def record(model: Model, scheme: str, dtype: str, about: Mapping[str, Any], measured: Measured) -> dict[str, Any]:
    """What `quantization.json` holds.

    Args:
        model: the base.
        scheme: by which it was quantised.
        dtype: of what is not quantised, and in which perplexity was measured.
        about: of the method: its name, group_size, calibration, …
        measured: before and after.
    """
    return {
        "base": None if Path(model.base).is_dir() else model.base,
        "revision": model.revision,
        "base_hash": folder_hash(model_folder(model.base, model.revision)),
        "scheme": scheme,
        **about,
        "dtype": dtype,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "versions": _versions(),
        "sizes": {
            "linear_parameters": measured.packed.parameters,
            "linear_bytes_before": measured.dense.bytes,
            "linear_bytes": measured.packed.bytes,
            "linear_bits": round(measured.packed.bits, 4),
            "folder_bytes_before": measured.bytes_before,
            "folder_bytes": measured.bytes_after,
        },
        "perplexity": {
            "text": measured.text or "general_text.txt",
            "paragraphs": len(measured.before),
            "before": _plain(perplexity(measured.before)),
            "after": _plain(perplexity(measured.after)),
            "more_nats_a_token": _plain(measured.more),
        },
    }


def card(model: Model, told: Mapping[str, Any], measured: Measured, command: str) -> str:
    """Markdown with the front matter that the Hub reads; no folder of this machine is named.

    Args:
        model: the base.
        told: what `record` gave.
        measured: before and after.
        command: that made it.
    """
    scheme = SCHEMES[told["scheme"]]
    matter = {
        "base_model": hub_id(model),
        "base_model_relation": "quantized",
        "library_name": "transformers" if told["scheme"] != "gguf" else None,
        "license": licence_of(model),
        "pipeline_tag": "text-generation",
        "tags": [told["scheme"], "quantized"],
    }
    if matter["base_model"] is None:
        del matter["base_model_relation"]
    packages = ", ".join(f"{name} {version}" for name, version in told["versions"].items())
    name = hub_id(model) or "A local model"
    what = told["scheme"] + (f" ({told['gguf']})" if "gguf" in told else "")
    text = f"""
# {name}, quantised: {what}

The linear layers of {base_name(model)}, as
{scheme.what}.
The output layer and the embeddings are {"rounded too" if "gguf" in told else "as they were"}. Method:
{told["method"]}.{_group(told)}

Made on {str(told["created"])[:10]} with {packages}:

    {command}

## Size and perplexity

{_table(measured)}

{_perplexity(measured)}

{_calibrated(told)}## What reads it

It is read by {scheme.readers}.

{_use(told)}

## Limits

It keeps the limits of its base, and of its licence{_licence(model)}. Only the text above was measured; what
quantising costs on a task, `workbench evaluate` and `workbench parity` tell.
"""
    return join_card({key: value for key, value in matter.items() if value is not None}, text)


def _table(measured: Measured) -> str:
    before, after = perplexity(measured.before), perplexity(measured.after)
    rows = [
        ("bytes of the linear layers", f"{measured.dense.bytes:,}", f"{measured.packed.bytes:,}"),
        ("bits a parameter there", f"{measured.dense.bits:.3f}", f"{measured.packed.bits:.3f}"),
        ("bytes of the whole folder", f"{measured.bytes_before:,}", f"{measured.bytes_after:,}"),
        ("perplexity (95 % interval)", _interval(before, 2), _interval(after, 2)),
    ]
    lines = [f"| {what} | {old} | {new} |" for what, old, new in rows]
    return "\n".join(["| | before | after |", "| --- | --- | --- |", *lines])


def _perplexity(measured: Measured) -> str:
    tokens = sum(count for _, count in measured.before)
    where = "the LLM workbench's general text" if measured.text is None else f"the text of {measured.text}"
    return (
        f"Perplexity on {where} ({len(measured.before)} paragraphs, {tokens:,} tokens), the quantised model read "
        f"back from its files. The paired difference of the loss is {_interval(measured.more, 4)} nats a token "
        "(bootstrap over paragraphs; above 0 is lost)."
    )


def _calibrated(told: Mapping[str, Any]) -> str:
    data = told.get("calibration")
    if data is None:
        return ""
    settings = ", ".join(f"{name} {value}" for name, value in data["settings"].items() if value is not None)
    task = f"`{data['task']}`{f' ({settings})' if settings else ''}"
    return (
        f"## Calibration\n\n{data['samples']:,} examples of the practice split of {task}, {data['tokens']:,} "
        f"tokens (hash `{data['hash']}`): each question under the prompt `{data['prompt']}`, with its answer. "
        "Text of another kind may lose more than text like theirs; dev and test questions were not looked at.\n\n"
    )


def _use(told: Mapping[str, Any]) -> str:
    if told["scheme"] == "gguf":
        return "In this folder:\n\n    ollama create NAME -f Modelfile\n    ollama run NAME"
    if told["scheme"] in ("nf4", "int8"):
        return "In this folder:\n\n    workbench evaluate --model . --task TASK"
    return "In this folder:\n\n    vllm serve . --generation-config vllm"


def _group(told: Mapping[str, Any]) -> str:
    size = told.get("group_size")
    return f" {size} weights of a row share a scale." if size else ""


def _licence(model: Model) -> str:
    licence = licence_of(model)
    return f", {licence}" if licence else ", which is not known here"


def _interval(interval: Interval, digits: int) -> str:
    return f"{interval.value:.{digits}f} ({interval.low:.{digits}f} – {interval.high:.{digits}f})"


def _plain(interval: Interval) -> dict[str, float]:
    return {"value": interval.value, "low": interval.low, "high": interval.high}


def _versions() -> dict[str, str]:
    found = {}
    for package in _PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found
