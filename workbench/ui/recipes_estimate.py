"""What a recipe will cost, asked before it starts: its own estimate, or the ladder's for the same settings."""

from collections.abc import Mapping
from dataclasses import fields, is_dataclass, replace
from pathlib import Path
from typing import Any

from workbench.rungs import RUNGS
from workbench.ui.recipes_form import Recipe

_OTHER_NAME = {"few_shot": "few-shot-random"}  # recipes whose rung is called otherwise


def estimated_by(recipe: Recipe, config: Any, recipes: Mapping[str, Recipe], runs: Path) -> tuple[str, Any] | None:
    """The recipe and the Config whose start prints an estimate, and does nothing more; None where there is none.

    Args:
        recipe, config: whose cost is asked for.
        recipes: all of them, among which the ladder estimates the tuning and sampling ones.
        runs: a folder for what the estimate leaves.
    """
    if _own(config) is not None:
        return recipe.name, _elsewhere(config, runs)
    rung = _rung(recipe.name)
    if rung is None or "ladder" not in recipes or not hasattr(config, "setup"):
        return None
    ladder = recipes["ladder"].config()
    settings = ladder.ladder
    matched = _matching(config, settings)
    if matched is None:
        return None
    settings = replace(settings, **matched, rungs=(rung,), estimate_only=True)
    return "ladder", _elsewhere(replace(ladder, setup=config.setup, ladder=settings), runs)


def what_is_estimated(recipe: Recipe, recipes: Mapping[str, Recipe]) -> str:
    """What an estimate of the recipe can say; empty where none is known."""
    try:
        config = recipe.config()
    except TypeError:  # it has fields that must be given
        return ""
    if estimated_by(recipe, config, recipes, Path()) is None:
        return ""
    told = "tokens" if recipe.name == "prompt_search" else "tokens, FLOPs and time on this machine"
    return (
        f"The estimate tells {told}, at most, from a few questions that it asks the model; it does not know the "
        "memory."
    )


def _rung(recipe: str) -> str | None:
    name = _OTHER_NAME.get(recipe, recipe.replace("_", "-"))
    return name if name in RUNGS else None


def _own(config: Any) -> str | None:
    """Which part of a Config has the flag --estimate-only; its own name is ""."""
    parts = {"": config, **{f.name: getattr(config, f.name) for f in fields(config)}}
    return next((name for name, part in parts.items() if hasattr(part, "estimate_only")), None)


def _elsewhere(config: Any, runs: Path) -> Any:
    part = _own(config)
    setup = replace(config.setup, runs=runs, name=None, overwrite=False)
    if not part:
        return replace(config, setup=setup, estimate_only=True)
    return replace(config, setup=setup, **{part: replace(getattr(config, part), estimate_only=True)})


def _matching(config: Any, settings: Any) -> dict[str, Any] | None:
    """The ladder's settings of the same type as the recipe's own; None where one has no place there.

    What measuring does beside the method, labels' scoring and a comparison of equal tokens, is left out.
    """
    matched = {}
    for field in fields(config):
        value = getattr(config, field.name)
        if not is_dataclass(value) or field.name in ("setup", "labels", "beside", "paths"):
            continue
        same = [f.name for f in fields(settings) if type(getattr(settings, f.name)) is type(value)]
        if not same:
            return None
        matched[same[0]] = value
    return matched
