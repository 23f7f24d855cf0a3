"""JSON round trip and content hashes of the types. `system_hash` names a System everywhere.

Equal content gives an equal hash: in the store, in run folders, in reports. A local folder is hashed by
its content, never by its path, so the same path with new weights is another System.
"""

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from enum import StrEnum
from functools import lru_cache
from pathlib import Path
from typing import Any

from workbench.decodes import (
    BestOfN,
    EarlyMajority,
    Greedy,
    LabelLikelihood,
    Majority,
    Sample,
    Sampling,
    WeightedVote,
    reward_folder,
)
from workbench.errors import UserError
from workbench.proxy import Proxy
from workbench.step_decodes import BeamSearch, BudgetForcing, Revision, own_prompts
from workbench.types import (
    Completion,
    CostToMake,
    CostToUse,
    Example,
    Finish,
    Interval,
    Message,
    Model,
    Order,
    Outcome,
    Prompt,
    Request,
    Result,
    Selection,
    Shots,
    Status,
    System,
    text_hash,
)


def to_json(value: Any, *, defaults: bool = True) -> Any:
    """A dataclass of this module (or a container of them) as JSON data; each object names its type.

    Without `defaults`, fields that have their default are left out: the form that hashes and the store's keys
    are made of, so that a field which a later version adds leaves what is stored where it is.

    Raises:
        UserError: a float is NaN or infinite: JSON has no such number.
    """
    if is_dataclass(value) and not isinstance(value, type):
        out: dict[str, Any] = {"type": type(value).__name__}
        for f in fields(value):
            item = getattr(value, f.name)
            if defaults or item != f.default:
                out[f.name] = to_json(item, defaults=defaults)
        return out
    if isinstance(value, (tuple, list)):
        return [to_json(item, defaults=defaults) for item in value]
    if isinstance(value, Mapping):
        return {str(key): to_json(item, defaults=defaults) for key, item in value.items()}
    if isinstance(value, StrEnum):
        return value.value
    if isinstance(value, float) and not math.isfinite(value):
        raise UserError(f"{value} cannot be written as JSON.")
    return value


def from_json(data: Any) -> Any:
    """The inverse of `to_json`: lists come back as tuples, objects with a `type` as their dataclass.

    Raises:
        UserError: the type or one of its fields does not exist.
    """
    if isinstance(data, list):
        return tuple(from_json(item) for item in data)
    if not isinstance(data, dict):
        return data
    if "type" not in data:
        return {key: from_json(item) for key, item in data.items()}
    name = data["type"]
    cls = _TYPES.get(name)
    if cls is None:
        raise UserError(f"There is no type {name!r}. There are: {', '.join(sorted(_TYPES))}.")
    known = {f.name: f for f in fields(cls)}
    unknown = sorted(set(data) - set(known) - {"type"})
    if unknown:
        raise UserError(f"{name} has no field {unknown[0]!r}. It has: {', '.join(known)}.")
    values = {key: from_json(item) for key, item in data.items() if key != "type"}
    for key, enum in _ENUM_FIELDS.items():
        if key[0] == name and key[1] in values:
            values[key[1]] = enum(values[key[1]])
    return cls(**values)


_TYPES: dict[str, Any] = {
    cls.__name__: cls
    for cls in (
        Model, Proxy, Message, Example, Shots, Prompt, Sampling, Greedy, Sample, Majority, EarlyMajority,
        BestOfN, WeightedVote,
        LabelLikelihood, BeamSearch, Revision, BudgetForcing, System,
        Request, Completion, Outcome, Interval, CostToMake, CostToUse, Result,
    )
}  # fmt: skip

_ENUM_FIELDS: dict[tuple[str, str], type[StrEnum]] = {
    ("Shots", "selection"): Selection,
    ("Shots", "order"): Order,
    ("Completion", "finish"): Finish,
    ("Outcome", "status"): Status,
}


def short_hash(value: Any) -> str:
    """16 hexadecimal digits of the SHA-256 of a value's canonical JSON."""
    return text_hash(json.dumps(to_json(value, defaults=False), sort_keys=True, ensure_ascii=False))


def model_identity(model: Model) -> dict[str, Any]:
    """What tells one model from another: names for what is fetched by name, content for local folders."""
    identity: dict[str, Any] = to_json(model, defaults=False)
    if Path(model.base).is_dir():
        identity["base"] = folder_hash(model.base)
    if model.adapter is not None:
        identity["adapter"] = folder_hash(model.adapter)
    if isinstance(model, Proxy):
        identity |= {"expert": model_identity(model.expert), "antiexpert": model_identity(model.antiexpert)}
    return identity


def system_hash(system: System) -> str:
    """The System's name everywhere. Equal content gives an equal hash, wherever its folders lie."""
    content = to_json(system, defaults=False)
    content["model"] = model_identity(system.model)
    if (folder := reward_folder(system.decode)) is not None:
        content["decode"]["scorer"] = folder_hash(folder)
    content["decode"] |= {name: file_hash(path) for name, path in own_prompts(system.decode).items()}
    shots = system.prompt.shots
    if shots is not None and shots.encoder is not None and Path(shots.encoder).is_dir():
        # A sentence encoder's parts lie in the folder itself and in folders of their own.
        parts = sorted({path.parent for path in Path(shots.encoder).rglob("*.safetensors")})
        content["prompt"]["shots"]["encoder"] = [folder_hash(part) for part in parts]
    return short_hash(content)


def file_hash(path: str | Path) -> str:
    """16 hexadecimal digits of the SHA-256 of a file's bytes, remembered until its size or time changes.

    Raises:
        UserError: there is no such file, or it cannot be read.
    """
    try:
        stat = Path(path).stat()
        return _file_hash(str(path), stat.st_size, stat.st_mtime_ns)
    except OSError as error:
        raise UserError(f"The file {str(path)!r} cannot be read: {error.strerror or error}.") from error


@lru_cache(maxsize=256)
def _file_hash(path: str, size: int, time: int) -> str:
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:16]


def folder_hash(folder: str | Path) -> str:
    """Hash of a model's or an adapter's folder: its weights' bytes and its JSON files' content.

    Lists of strings in JSON count as sets (PEFT writes `target_modules` in any order), and the base
    model's path does not count. The digest is remembered until a file's size or time changes.

    Raises:
        UserError: the folder does not exist or holds no safetensors weights.
    """
    root = Path(folder)
    if not root.is_dir():
        raise UserError(f"There is no folder {str(folder)!r}.")
    paths = sorted(p for p in root.iterdir() if p.suffix in (".safetensors", ".json", ".jinja"))
    if not any(p.suffix == ".safetensors" for p in paths):
        raise UserError(f"The folder {str(folder)!r} holds no .safetensors weights.")
    stamp = tuple((str(p), p.stat().st_size, p.stat().st_mtime_ns) for p in paths)
    return _folder_hash(stamp)


@lru_cache(maxsize=256)
def _folder_hash(stamp: tuple[tuple[str, int, int], ...]) -> str:
    digest = hashlib.sha256()
    for name, _, _ in stamp:
        path = Path(name)
        if path.suffix == ".json":
            content = json.loads(path.read_text(encoding="utf-8"))
            data = json.dumps(_without_order(content), sort_keys=True).encode()
            digest.update(path.name.encode() + b"\0" + data)
        else:
            digest.update(path.name.encode() + b"\0")
            with path.open("rb") as file:
                while block := file.read(1 << 20):
                    digest.update(block)
    return digest.hexdigest()[:16]


def _without_order(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _without_order(v) for k, v in value.items() if k != "base_model_name_or_path"}
    if isinstance(value, list):
        items = [_without_order(item) for item in value]
        return sorted(items) if all(isinstance(item, str) for item in items) else items
    return value
