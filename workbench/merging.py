"""An adapter merged into its base, W + ΔW, as a model folder that needs no PEFT; and taken out again, W − ΔW.

LoRA (Hu et al. 2021, §4.1), with rsLoRA's scale α/√r or α/r, and DoRA (Liu et al. 2024, arXiv 2402.09353, eq. 5),
whose weights become m·(W + ΔW)/‖W + ΔW‖. BitFit's biases take the places of the base's. All of it is computed in
float32, whatever the result is stored in.

A QLoRA adapter was learned beside weights in 4 bits, and is merged into those: the dense weights that NF4's codes
stand for. Merged into the weights from before they were quantised, it would correct errors that these do not have,
and be a model that nobody trained or measured.

What cannot be merged is no sum with a weight of the base: virtual tokens, bottleneck adapters, and heads. What
cannot be taken out again is DoRA: the norms that it divided by are in neither the adapter nor the merged model.
"""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from workbench.adapters import load_weights, with_adapter
from workbench.errors import UserError, unknown_name
from workbench.files import write_json
from workbench.folders import check_free, new_folder
from workbench.identity import folder_hash
from workbench.models import (
    check_adapter,
    first_line,
    is_packed,
    load_base,
    load_tokenizer,
    model_folder,
    quiet_transformers,
    read_object,
)
from workbench.own_kinds import BITFIT, HEAD, HOULSBY
from workbench.proxy import check_one
from workbench.types import Model, System

DTYPES = ("bfloat16", "float16", "float32")

# Texts that the models before and after are compared on.
_PROBES = (
    "Tom has 12 apples and buys 7 more. How many apples does he have?",
    "Operating profit rose to 13.1 million euros from 8.7 million a year earlier.",
    "Once upon a time there was a fisherman who lived with his wife in a hut by the sea.",
)
_RECORD = "merged.json"
_WRONG = 1e-3  # of the largest logit; what another order of float32's sums costs is a hundredth of that

_NOT_A_SUM = {
    "PROMPT_TUNING": "it is virtual tokens before the prompt, and no weight of the base can say the same",
    "PREFIX_TUNING": "it is keys and values of virtual tokens, and no weight of the base can say the same",
    HOULSBY: "its bottleneck layers have a non-linearity between them, which no linear layer of the base has",
    HEAD: "it is an output layer of its own, with classes in the place of tokens",
}


@dataclass(frozen=True)
class Merged:
    """What came of a merge.

    Attributes:
        folder: the model.
        dtype: what its weights are stored in.
        arithmetic: largest difference of a logit on a few texts between the model with its adapter and the merged
            one, both in float32: what another order of sums costs.
        stored: the same, with the merged weights as they are stored: rounding to bfloat16 adds to it.
        largest: the largest logit there, in magnitude, to hold them against.
    """

    folder: Path
    dtype: str
    arithmetic: float
    stored: float
    largest: float


@dataclass(frozen=True)
class Unmerged:
    """What came of taking an adapter out again.

    Attributes:
        folder: the model.
        dtype: what its weights are stored in.
        weights: the largest difference of a weight to the base's; None where no base was at hand, as below.
        unequal: how many weights differ from the base's.
        logits: the largest difference of a logit to the base's on a few texts.
    """

    folder: Path
    dtype: str
    weights: float | None = None
    unequal: int | None = None
    logits: float | None = None


def merge(model: Model, out: Path, dtype: str | None = None) -> Merged:
    """Write a model with its adapter as a model without one: safetensors, tokenizer, chat template.

    Args:
        model: a base and a LoRA adapter; with `quantization`, the base is what its 4-bit weights stand for.
        out: the folder to make.
        dtype: what the weights are stored in, one of `DTYPES`; by default what the base's are.

    Raises:
        UserError: there is no adapter, it is of a kind that cannot be merged, or it does not fit the base; `out`
            is not empty.
    """
    kind = _mergeable(model)["peft_type"]
    check_free(out)
    dtype = _checked(dtype) or _stored_dtype(model)
    adapted = load_weights(model, "float32", "cpu")
    ids = _probe_ids(model)
    before = _logits(adapted, ids)
    if is_packed(model):
        adapted = with_adapter(dequantized(model), model).eval()
    weights = adapted if kind == BITFIT else _into_base(adapted)
    arithmetic, largest = _distance(before, _logits(weights, ids)), max(float(x.abs().max()) for x in before)
    if not arithmetic <= _WRONG * largest:  # NaN too
        raise UserError(
            f"Merged, this adapter is another model: a logit moves by {arithmetic:.3g} (the largest is "
            f"{largest:.3g}). It adapts a weight that the base uses twice, or computes otherwise than LoRA does."
        )
    _round(weights, dtype)
    stored = _distance(before, _logits(weights, ids))
    name = None if Path(model.base).is_dir() else model.base
    record = {"base": name, "quantization": model.quantization, "adapter": folder_hash(str(model.adapter))}
    _write(weights, model, dtype, out, record)
    return Merged(out, dtype, arithmetic, stored, largest)


def unmerge(
    merged: Path, adapter: str, out: Path, dtype: str | None = None, base: Model | None = None
) -> Unmerged:
    """Write the base back from a merged model: its weights less what the adapter added.

    In float32 this gives the base within float32's rounding. Where the merged weights were stored in bfloat16, the
    base comes back within bfloat16's rounding, and not one weight in it is surer than that.

    Args:
        merged: a folder that `merge` made.
        adapter: the adapter's folder.
        out: the folder to make.
        dtype: what the weights are stored in; by default what the merged ones are.
        base: what was merged into, to measure the difference to it.

    Raises:
        UserError: the adapter is DoRA, or not the one that was merged, or brought whole layers; the folder was not
            made by `merge`; `out` is not empty.
    """
    from peft import PeftModel
    from peft.tuners.lora import LoraLayer

    source = Model(str(merged), adapter=adapter)
    _check_sum(_mergeable(source))
    check_free(out)
    if not (merged / _RECORD).is_file():
        raise UserError(f"{str(merged)!r} has no {_RECORD}: only what `workbench adapter merge` made is unmerged.")
    if read_object(merged / _RECORD).get("adapter") != folder_hash(adapter):
        raise UserError(f"The adapter {adapter!r} is not the one that was merged into {str(merged)!r}.")
    dtype = _checked(dtype) or _stored_dtype(source)
    with quiet_transformers():  # not `with_adapter`, which sees that these are not the adapter's base
        adapted = PeftModel.from_pretrained(load_base(source, "float32", "cpu"), adapter)
    for module in adapted.modules():
        if isinstance(module, LoraLayer):
            module.scale_layer(-1)  # what is merged is −ΔW
    weights = _into_base(adapted)
    _round(weights, dtype)
    result = Unmerged(out, dtype) if base is None else _compared(weights, base, Unmerged(out, dtype))
    _write(weights, source, dtype, out, None)
    return result


def without_adapter(system: System) -> System:
    """The System with its base alone in the model slot, quantised as it was; prompt and decode stay.

    Raises:
        UserError: its model has no adapter.
    """
    check_one(system.model, "freed of an adapter")
    if system.model.adapter is None:
        raise UserError(
            f"The model {system.model.base!r} has no adapter to remove. What SFT made is a model of its own; what "
            "it was before is the --model that it was tuned from."
        )
    return replace(system, model=replace(system.model, adapter=None))


def dequantized(model: Model) -> Any:
    """A quantised base, dense: the float32 weights that its 4-bit codes stand for, without an adapter."""
    import torch

    with quiet_transformers():
        dense = load_base(replace(model, adapter=None), "float32", "cpu").dequantize(torch.float32).eval()
    if model.quantization is None:  # its folder was packed, and what unpacks one cannot be turned round for saving
        dense._weight_conversions = None
    return dense


def _mergeable(model: Model) -> dict[str, Any]:
    """The adapter's configuration, if its kind can be merged."""
    check_one(model, "merged into one")
    if model.adapter is None:
        raise UserError("There is no adapter: name a run that made one, or --model and --adapter.")
    config = check_adapter(model.adapter)
    kind = config.get("peft_type")
    if kind not in ("LORA", BITFIT):
        why = _NOT_A_SUM.get(str(kind), "only LoRA and its kin, and BitFit, can be")
        raise UserError(
            f"The adapter {model.adapter!r} ({kind}) cannot be merged: {why}. "
            "Use it beside its base, with --adapter."
        )
    return config


def _check_sum(config: dict[str, Any]) -> None:
    """See that merging with this adapter added something, and did nothing else."""
    if config.get("use_dora"):
        raise UserError(
            "DoRA cannot be unmerged: its merged weights are m·(W + ΔW)/‖W + ΔW‖, and the norms that they were "
            "divided by are kept in neither the adapter nor the merged model. Go back to the base itself "
            "(`workbench adapter remove`)."
        )
    replaced = config.get("modules_to_save") or config.get("bias", "none") != "none"
    if replaced or config["peft_type"] == BITFIT:
        raise UserError(
            "This adapter replaced weights as a whole (biases, or modules_to_save): what was there before is in "
            "neither it nor the merged model. Go back to the base itself (`workbench adapter remove`)."
        )


def _checked(dtype: str | None) -> str | None:
    if dtype is not None and dtype not in DTYPES:
        raise unknown_name("dtype", dtype, DTYPES)
    return dtype


def _stored_dtype(model: Model) -> str:
    """What a base's weights are stored in, as its configuration says."""
    stored = read_object(model_folder(model.base, model.revision) / "config.json")
    dtype = stored.get("dtype") or stored.get("torch_dtype")
    return dtype if dtype in DTYPES else "float32"


def _into_base(adapted: Any) -> Any:
    with quiet_transformers():
        try:
            return adapted.merge_and_unload(safe_merge=True)
        except ValueError as error:
            raise UserError(f"The adapter cannot be merged: {first_line(error)}") from error


def _round(weights: Any, dtype: str) -> None:
    """Round every weight to what it will be stored as, and keep it in float32."""
    import torch

    for weight in weights.parameters():
        weight.data = weight.data.to(getattr(torch, dtype)).float()


def _write(weights: Any, tokenized_by: Model, dtype: str, out: Path, record: dict[str, Any] | None) -> None:
    """Make the folder; the weights stay in `dtype`."""
    import torch

    for weight in weights.parameters():
        weight.data = weight.data.to(getattr(torch, dtype))
    with new_folder(out) as scratch, quiet_transformers():
        weights.save_pretrained(scratch)
        load_tokenizer(tokenized_by).save_pretrained(scratch)
        if record is not None:
            write_json(scratch / _RECORD, record)


def _compared(weights: Any, base: Model, result: Unmerged) -> Unmerged:
    """What came of unmerging, with how far it is from the base."""
    base = replace(base, adapter=None)
    dense = dequantized(base) if is_packed(base) else load_base(base, "float32", "cpu")
    found, told = ({name: p.detach() for name, p in each.named_parameters()} for each in (weights, dense))
    if {name: p.shape for name, p in found.items()} != {name: p.shape for name, p in told.items()}:
        raise UserError(f"{base.base!r} is no base of this model: its weights have other names or sizes.")
    moved = [(found[name] - weight).abs() for name, weight in told.items()]
    ids = _probe_ids(base)
    return replace(
        result,
        weights=max(float(difference.max()) for difference in moved),
        unequal=sum(int((difference > 0).sum()) for difference in moved),
        logits=_distance(_logits(dense, ids), _logits(weights, ids)),
    )


def _probe_ids(model: Model) -> list[Any]:
    """Token ids [1, T] of each of the texts."""
    tokenizer = load_tokenizer(model)
    return [tokenizer(text, return_tensors="pt", add_special_tokens=False).input_ids for text in _PROBES]


def _logits(weights: Any, ids: list[Any]) -> list[Any]:
    """Logits [1, T, V] after every token of each of the texts."""
    import torch

    with torch.no_grad():
        return [weights(input_ids=ids_1T, use_cache=False).logits.float() for ids_1T in ids]


def _distance(first: list[Any], second: list[Any]) -> float:
    return max(float((one - other).abs().max()) for one, other in zip(first, second, strict=True))
