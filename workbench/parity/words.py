"""Which systems are compared: each is one word, an engine and its settings behind commas.

`hf`, `hf,quantization=nf4`, `vllm,endpoint=http://127.0.0.1:8000,adapter=DIR`, `run=NAME`. What a word leaves open
is as the command's own flags say; a word that names a model of its own takes nothing of the command's.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, cast, get_args, get_type_hints

from workbench.engines import EngineConfig
from workbench.errors import UserError, unknown_name
from workbench.identity import model_identity
from workbench.models import model_folder, read_object
from workbench.quantization import QUANTIZATIONS
from workbench.runs import find_run
from workbench.session import Setup
from workbench.types import Model

Kind = Literal["same", "quantised"]
"""Which bounds a system is held to: those of the same weights elsewhere, or those of rounded ones."""

SETTINGS = {
    "hf": ("model", "revision", "adapter", "quantization", "dtype", "device"),
    "vllm": ("model", "adapter", "endpoint", "served_name"),
    "fake": ("model",),
    "run": ("quantization", "dtype", "device"),
}
"""What may stand behind each engine, and behind `run=NAME`, beside `name` and `bounds`."""

_OF_MODEL = ("model", "revision", "adapter", "quantization")


@dataclass(frozen=True)
class Side:
    """One of the systems.

    Attributes:
        name: what it is called in tables; by default its word.
        model: what answers.
        engine: where and how.
        bounds: what it is held to; the first system, which is the reference, is held to none.
    """

    name: str
    model: Model
    engine: EngineConfig
    bounds: Kind = "same"


def read_sides(words: Sequence[str], setup: Setup) -> list[Side]:
    """The systems, the reference first.

    Args:
        words: as they are typed.
        setup: the command's own model and engine settings, for what the words leave open.

    Raises:
        UserError: fewer than two, one that is there twice, an engine, a setting or a value that does not exist, or
            weights that cannot be had.
    """
    if len(words) < 2:
        raise UserError(
            "parity takes two or more systems, the first of which is the reference: "
            "workbench parity hf vllm,endpoint=http://127.0.0.1:8000"
        )
    read = [_read(word, setup) for word in words]
    first, given = read[0]
    if given is not None:
        raise UserError(f"{words[0]!r} is the reference, which is held to no bounds: leave bounds={given} out.")
    sides = [first]
    for side, given in read[1:]:
        sides.append(replace(side, bounds=given or _kind(side.model, first.model)))
    seen: dict[str, str] = {}
    for word, side in zip(words, sides, strict=True):
        for key, what in ((repr(_content(side)), "the same system"), (f"name {side.name}", "of the same name")):
            if key in seen:
                raise UserError(
                    f"{seen[key]!r} and {word!r} are {what}: nothing could be told apart. Leave one out, or "
                    "change a setting (name=… names it)."
                )
            seen[key] = word
    return sides


def _read(word: str, setup: Setup) -> tuple[Side, Kind | None]:
    """A word as a system, and the bounds that it asks for."""
    head, *settings = word.split(",")
    what, equals, run = head.partition("=")
    if what not in SETTINGS or bool(equals) != (what == "run"):
        raise unknown_name("engine", head, [name for name in SETTINGS if name != "run"], "Or write run=NAME.")
    if what == "run" and not run:
        raise UserError(f"run in {word!r} has no value: write run=NAME (`workbench runs` lists them).")
    values = _values(word, settings, (*SETTINGS[what], "name", "bounds"))
    model = _model(run, values, setup)
    engine = replace(setup.engine, engine="hf" if what == "run" else what)  # type: ignore[arg-type]
    if "model" in values or "adapter" in values:
        engine = replace(engine, served_name=None)  # the command's own is that of its own model
    changes: dict[str, Any] = {f: values[f][0] for f in ("dtype", "device", "served_name") if f in values}
    if "endpoint" in values:
        changes["endpoint"] = tuple(values["endpoint"])
    if engine.engine == "hf":
        model_folder(model.base, model.revision)  # what cannot be had is said before the first system is asked
    plain = ",".join([head, *(setting for setting in settings if not setting.startswith("bounds="))])
    name, bounds = values.get("name", [plain])[0], values.get("bounds", [None])[0]
    return Side(name, model, replace(engine, **changes)), cast(Kind | None, bounds)


def _values(word: str, settings: Sequence[str], allowed: Sequence[str]) -> dict[str, list[str]]:
    """The settings of a word by their fields; only `endpoint`, of which several share the work, has several."""
    known = {"quantization": QUANTIZATIONS, "bounds": get_args(Kind), "dtype": _dtypes()}
    values: dict[str, list[str]] = {}
    for setting in settings:
        field, _, value = setting.partition("=")
        if field not in allowed:
            raise unknown_name(f"setting of {word.partition(',')[0]}", field, allowed, f"It stands in {word!r}.")
        if not value:
            raise UserError(f"{field} in {word!r} has no value: write {field}=…")
        if field in values and field != "endpoint":
            raise UserError(f"{field} stands twice in {word!r}.")
        if field in known and value not in known[field]:
            raise unknown_name(field, value, known[field], f"It stands in {word!r}.")
        values.setdefault(field, []).append(value)
    return values


def _model(run: str, values: Mapping[str, Sequence[str]], setup: Setup) -> Model:
    given = {{"model": "base"}.get(field, field): values[field][0] for field in _OF_MODEL if field in values}
    if run:
        model = find_run(setup.runs, run).read_system().model
    elif "base" in given:  # an adapter or a revision of the command's own model is none of another
        model = Model(given["base"])
    else:
        model = Model(setup.model, setup.revision, setup.adapter, setup.quantization)
    model = replace(model, **given)
    model_identity(model)  # reads an adapter's folder: one that is not there is said now
    return model


def _dtypes() -> tuple[str, ...]:
    return get_args(get_type_hints(EngineConfig)["dtype"])


def _content(side: Side) -> list[Any]:
    """What tells one system from another, whatever its word."""
    how = side.engine
    where = {"hf": (how.dtype, how.device), "vllm": (how.endpoint, how.served_name), "fake": ()}[how.engine]
    return [how.engine, where, model_identity(side.model)]


def _kind(model: Model, reference: Model) -> Kind:
    """Rounded weights against others are held to the wider bounds; equal weights, rounded or not, are the same."""
    if model_identity(model) == model_identity(reference):
        return "same"
    return "quantised" if is_quantised(model) or is_quantised(reference) else "same"


def is_quantised(model: Model) -> bool:
    """Whether a model's weights are rounded: it is loaded so, or its folder says so."""
    if model.quantization is not None:
        return True
    folder = Path(model.base)
    if (folder / "quantization.json").is_file():
        return True
    config = folder / "config.json"
    return config.is_file() and "quantization_config" in read_object(config)
