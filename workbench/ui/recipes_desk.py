"""What the recipes' pane does: checks a form, fills it in from a run, starts a recipe or an estimate."""

import re
import shutil
import warnings
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from workbench.errors import UserError
from workbench.form_fields import form_fields
from workbench.forms import arguments, from_arguments, read_form, texts
from workbench.jobs import KEPT, Job, Jobs
from workbench.run_folder import RunFolder, checked_name, list_runs
from workbench.ui.recipes_estimate import estimated_by, what_is_estimated
from workbench.ui.recipes_form import NOT_FROM_A_PAGE, Recipe, command, form, summary

NOT_SWITCHED_ON = (
    "Recipes are not started from this page: copy the command line. `workbench ui --start-recipes` switches it on "
    "where only this machine reaches the page."
)

_FIELDS = 1000
_RUNS = 50  # that a form can be filled in from, the latest
_ADDRESSES = ("endpoint", "scorer_endpoint", "server")
_ADDRESS = re.compile(r"https?://[^,\s]+", re.IGNORECASE)


@dataclass(frozen=True)
class Asked:
    """A form as a browser sends it, checked for its shape.

    Attributes:
        recipe: whose.
        values: texts by field, of those that are not as by default.
        serial: the browser's number for this state of the form.
    """

    recipe: Recipe
    values: dict[str, str]
    serial: int


class Desk:
    """What the pane works with.

    Args:
        recipes: all of them by name.
        runs: folder of the page's runs.
        servers: addresses that a recipe started here may ask.
        may_start: whether recipes may be started from this page.
    """

    def __init__(
        self, recipes: Mapping[str, Recipe], runs: Path, servers: frozenset[str], may_start: bool
    ) -> None:
        self.recipes, self.runs, self.may_start = recipes, runs, may_start
        self.jobs = Jobs(runs / ".page" / "jobs")
        self._servers = servers

    def recipe(self, name: object) -> Recipe:
        """The recipe of this name.

        Raises:
            UserError: there is none.
        """
        if not isinstance(name, str) or name not in self.recipes:
            raise UserError("There is no such recipe.")
        return self.recipes[name]

    def asked(self, data: object) -> Asked:
        """What a browser sent.

        Raises:
            UserError: it is no form.
        """
        told = data if isinstance(data, dict) else {}
        recipe, values, serial = self.recipe(told.get("recipe")), told.get("values"), told.get("serial")
        known = isinstance(values, dict) and all(isinstance(text, str) for text in values.values())
        if not isinstance(values, dict) or not known or len(values) > _FIELDS or type(serial) is not int:
            raise UserError("This is not what the form sends. Reload the page.")
        return Asked(recipe, dict(values), serial)

    def form(self, recipe: Recipe, values: Mapping[str, str] | None = None, note: str = "") -> str:
        """The form's HTML; without values as it is at first, its runs in the page's own folder."""
        if values is None:
            values = self._preset(recipe)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # a damaged run is told by the list of runs
            ids = [info.id for info in reversed(list_runs(self.runs)) if info.recipe == recipe.name]
        estimate = what_is_estimated(recipe, self.recipes)
        return form(recipe, values, ids[:_RUNS], self.refusal(recipe), estimate, note)

    def refusal(self, recipe: Recipe) -> str:
        """Why this page does not start a recipe; empty where it does."""
        if recipe.name in NOT_FROM_A_PAGE:
            return f"Not started from a page. {NOT_FROM_A_PAGE[recipe.name]}"
        return "" if self.may_start else NOT_SWITCHED_ON

    def told(self, asked: Asked, problems: Mapping[str, str] | None = None) -> dict[str, Any]:
        """What the browser puts beside the fields: problems, the command line, a line on the whole."""
        words, found = command(asked.recipe, asked.values)
        found |= problems or {}
        return {
            "recipe": asked.recipe.name,
            "serial": asked.serial,
            "problems": found,
            "command": words,
            "summary": summary(found),
        }

    def like(self, recipe: Recipe, run: object) -> str:
        """The form filled in as the command line of a run was, but for --overwrite, which moves that run aside.

        Raises:
            UserError: there is no such run of the recipe, or it does not say.
        """
        folder = RunFolder(self.runs / checked_name(run if isinstance(run, str) else ""))
        words = folder.info.get("argv")
        if folder.recipe != recipe.name or not isinstance(words, list) or not words:
            raise UserError(f"This is no run of {recipe.name}.")
        words = [str(word) for word in words[1:]]
        if (
            words and words[0].replace("-", "_") == recipe.name
        ):  # `workbench lora …`, not `python recipes/lora.py …`
            words = words[1:]
        return self.form(
            recipe, self._changed(recipe, from_arguments(recipe.config, words)), f"As in {folder.id}."
        )

    def start(self, owner: str, asked: Asked) -> Job:
        """Start what the form says.

        Raises:
            UserError: the page does not start it, or a field is at fault.
        """
        config = self._startable(asked)
        where = {field.name: text for field in form_fields(asked.recipe.config) for text in [field.path]}
        runs, name = (_at(config, where.get(key)) for key in ("runs", "name"))
        return self.jobs.start(owner, asked.recipe.name, arguments(config), runs, name)

    def estimate(self, owner: str, asked: Asked) -> Job:
        """Start the estimate of what the form says.

        Raises:
            UserError: as `start`, or there is none.
        """
        config = self._startable(asked)
        found = estimated_by(asked.recipe, config, self.recipes, self.runs / ".page" / "estimates")
        if found is None:
            raise UserError("No estimate of cost is known for this recipe.")
        by, config = found
        self._forget_estimates()
        return self.jobs.start(owner, by, arguments(config), label=f"estimate of {asked.recipe.name}")

    def _forget_estimates(self) -> None:
        """Keep as many estimates as jobs, the latest."""
        times = {}
        for folder in (self.runs / ".page" / "estimates").glob("[!.]*"):
            with suppress(UserError, OSError, TypeError, KeyError):
                if RunFolder(folder).state != "running":
                    times[folder] = folder.stat().st_mtime
        for folder in sorted(times, key=times.__getitem__, reverse=True)[KEPT:]:
            shutil.rmtree(folder, ignore_errors=True)

    def again(self, owner: str, id: object) -> Job:
        """Start a job's command anew.

        Raises:
            UserError: it is not the visitor's, or recipes are not started here.
        """
        if not self.may_start:
            raise UserError(NOT_SWITCHED_ON)
        return self.jobs.again(self.jobs.find(owner, id))

    def _startable(self, asked: Asked) -> Any:
        if refusal := self.refusal(asked.recipe):
            raise UserError(refusal)
        config, problems = read_form(asked.recipe.config, asked.values)
        if config is None:
            raise UserError(summary(problems))
        for field in form_fields(asked.recipe.config):
            value = _at(config, field.path)
            texts = [str(one) for one in (value if isinstance(value, tuple) else (value,)) if one is not None]
            named = (
                texts if field.path[-1] in _ADDRESSES else [a for text in texts for a in _ADDRESS.findall(text)]
            )
            for address in named:
                if address.rstrip("/") not in self._servers:
                    raise UserError(
                        f"{field.name}: {address} is not among the servers of this page. Start the page with "
                        f"`workbench ui --server {address}`, or copy the command line."
                    )
        return config

    def _preset(self, recipe: Recipe) -> dict[str, str]:
        """The page's own folder of runs, where that is not the default."""
        return {
            field.name: str(self.runs)
            for field in form_fields(recipe.config)
            if field.name == "runs" and field.default != self.runs
        }

    def _changed(self, recipe: Recipe, config: Any) -> dict[str, str]:
        shown = texts(config)
        return {
            field.name: shown[field.name]
            for field in form_fields(recipe.config)
            if shown[field.name] != field.text(field.default) and field.path[-1] != "overwrite"
        }


def _at(config: Any, path: tuple[str, ...] | None) -> Any:
    for name in path or ():
        config = getattr(config, name)
    return config if path else None
