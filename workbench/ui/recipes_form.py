"""A recipe's form as HTML: essential fields first, the others folded by group, and what is to be done with it."""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from workbench.form_fields import Field, form_fields
from workbench.forms import command_line, read_form
from workbench.prompts import prompt_names
from workbench.tasks import task_names
from workbench.ui.shell import html

KINDS: dict[str, tuple[str, ...]] = {
    "Begin here": ("quickstart", "ladder"),
    "Prompt": ("zero_shot", "few_shot", "prompt_search", "prompt_sensitivity"),
    "Tune": (
        "lora", "qlora", "sft", "adapters", "bitfit", "head", "prompt_tuning", "prefix_tuning", "sweep", "preview",
    ),
    "Sample and search": (
        "majority_vote", "weighted_vote", "best_of_n", "pass_at_k", "compute_optimal", "beam_search", "revise",
        "budget_forcing", "proxy_tuning", "sample",
    ),
    "Learn from preferences and rewards": ("preferences", "dpo", "reward_model", "grpo"),
    "Make data": ("self_instruct", "distill", "backtranslate", "self_improve"),
    "Measure and compare": ("evaluate", "compare", "parity", "quantization"),
}  # fmt: skip
"""The recipes as a newcomer looks for them; those that are not named come last."""

NOT_FROM_A_PAGE = {
    "ui": "It serves a page, and you are on one.",
    "serve": "It starts and ends servers that outlive it, so it is for a terminal.",
    "chat": "It talks in a terminal; here the tab Chat does that.",
    "runs": "Here the tab Runs lists the runs.",
    "publish": "It can send a model to the Hub, which should be decided in a terminal.",
}
"""Recipes that a page does not start, and why."""

_SUGGESTED: dict[str, Callable[[], Iterable[str]]] = {"task": task_names, "prompt": prompt_names}


@dataclass(frozen=True)
class Recipe:
    """A recipe as the page knows it.

    Attributes:
        name: as on the command line.
        config: its Config.
        what: what it does.
    """

    name: str
    config: type[Any]
    what: str


def grouped(recipes: Mapping[str, Recipe]) -> dict[str, list[Recipe]]:
    """All recipes by kind."""
    kinds = {kind: [recipes[name] for name in names if name in recipes] for kind, names in KINDS.items()}
    named = {recipe.name for some in kinds.values() for recipe in some}
    kinds["Others"] = [recipe for name, recipe in recipes.items() if name not in named]
    return {kind: some for kind, some in kinds.items() if some}


def picker(recipes: Mapping[str, Recipe], chosen: str = "") -> str:
    """The list to choose a recipe from."""
    groups = []
    for kind, some in grouped(recipes).items():
        options = "".join(
            f'<option value="{html(one.name)}"{_if("selected", one.name == chosen)}>{html(one.name)}</option>'
            for one in some
        )
        groups.append(f'<optgroup label="{html(kind)}">{options}</optgroup>')
    first = f'<option value=""{_if("selected", not chosen)}>Choose a recipe …</option>'
    return (
        '<label for="recipes-name">Recipe</label>'
        f'<select id="recipes-name" autocomplete="off">{first}{"".join(groups)}</select>'
    )


def overview(recipes: Mapping[str, Recipe]) -> str:
    """What there is to choose from, where nothing is chosen yet."""
    parts = ["<h2>What do you want to do?</h2>"]
    for kind, some in grouped(recipes).items():
        items = "".join(
            f'<li><button type="button" data-act="pick" data-recipe="{html(one.name)}">'
            f"<b>{html(one.name)}</b> <span>{_marked(one.what)}</span></button></li>"
            for one in some
        )
        parts.append(f"<h3>{html(kind)}</h3><ul class=recipes-all>{items}</ul>")
    return "".join(parts)


def form(
    recipe: Recipe, values: Mapping[str, str], runs: Sequence[str], refusal: str, estimate: str, note: str = ""
) -> str:
    """The whole form.

    Args:
        recipe: whose.
        values: texts of the fields that are not as by default.
        runs: ids of the recipe's runs, to fill the form in from.
        refusal: why the page does not start it; empty where it does.
        estimate: what an estimate can say; empty where none is known.
        note: a line above the fields.
    """
    known = form_fields(recipe.config)
    places = {field.name: place for place, field in enumerate(known)}
    shown = [field for field in known if field.essential]
    hidden = [field for field in known if not field.essential]
    groups: dict[tuple[str, str], list[Field]] = {}
    for field in hidden:
        groups.setdefault((field.name.rpartition(".")[0], field.group), []).append(field)
    parts = [
        f'<form data-recipe="{html(recipe.name)}" autocomplete="off" novalidate>',
        f"<h2>{html(recipe.name)}</h2><p>{_marked(_sentence(recipe.what))}</p>",
        f"<p class=recipes-note>{html(note)}</p>" if note else "",
        _like(runs),
        _fields(shown, places, values),
        "<h3>More settings</h3>" if hidden else "",
    ]
    for (prefix, group), some in groups.items():
        title = f"{prefix}: {group}" if prefix else _sentence(group).rstrip(".")
        # The folder of runs is the page's own, where it is not the default: nothing that a person has set.
        changed = " open" if any(field.name in values and field.name != "runs" for field in some) else ""
        parts.append(
            f"<details{changed}><summary>{html(title)} <span>({len(some)})</span></summary>"
            f"{_fields(some, places, values)}</details>"
        )
    lists = {name: names() for name, names in _SUGGESTED.items() if name in places}
    for name, some_names in lists.items():
        options = "".join(f'<option value="{html(one)}"></option>' for one in some_names)
        parts.append(f'<datalist id="recipes-{name}-names">{options}</datalist>')
    parts += [_ending(recipe, values, refusal, estimate), "</form>"]
    return "".join(parts)


def command(recipe: Recipe, values: Mapping[str, str]) -> tuple[str, dict[str, str]]:
    """The command line that does what the form says, and what is wrong by field; nothing where there is any."""
    found, problems = read_form(recipe.config, values)
    return ("" if found is None else command_line(recipe.name, found)), problems


def summary(problems: Mapping[str, str]) -> str:
    """What is wrong, as one line below the form."""
    if not problems:
        return ""
    if set(problems) == {""}:
        return problems[""]
    return "To be mended: " + ", ".join(name or "the form" for name in problems) + "."


def _ending(recipe: Recipe, values: Mapping[str, str], refusal: str, estimate: str) -> str:
    words, problems = command(recipe, values)
    waiting = "" if words else f"Still needed: {', '.join(problems)}."
    buttons = ""
    if not refusal:
        buttons = '<button type="button" class="recipes-main" data-act="start">Start</button>'
        if estimate:
            buttons += '<button type="button" data-act="estimate">Estimate the cost first</button>'
    return (
        "<div class=recipes-ending><h3>The command line that does the same</h3>"
        f"<div class=recipes-command><pre><code>{html(words)}</code></pre>"
        '<button type="button" data-act="copy">Copy</button></div>'
        f"<p class=recipes-summary>{html(waiting)}</p>"
        f"<div class=recipes-acts>{buttons}</div>"
        f"<p>{_marked(refusal)}</p>"
        f"<p class=recipes-help>{html(estimate or 'No estimate of cost is known for this recipe.')}</p></div>"
    )


def _like(runs: Sequence[str]) -> str:
    if not runs:
        return ""
    options = "".join(f'<option value="{html(id)}">{html(id)}</option>' for id in runs)
    return (
        '<div class=recipes-like><label for="recipes-like">Fill in from a run</label>'
        f'<select id="recipes-like"><option value="">…</option>{options}</select></div>'
    )


def _fields(some: Sequence[Field], places: Mapping[str, int], values: Mapping[str, str]) -> str:
    cells = "".join(_field(field, places[field.name], values.get(field.name)) for field in some)
    return f"<div class=recipes-fields>{cells}</div>"


def _field(field: Field, place: int, text: str | None) -> str:
    """One field: its label, the control, what it means, and room for what is wrong."""
    default = field.text(field.default)
    text = default if text is None else text
    id = f"recipes-f{place}"
    name = field.name.rpartition(".")[2].replace("-", " ")
    common = (
        f'id="{id}" name="{html(field.name)}" data-default="{html(default)}" '
        f'aria-describedby="{id}-help {id}-told"{_if("required", field.required)}'
    )
    label = f'<label for="{id}">{html(name)}</label>'
    if field.kind == "switch":
        control = f'<input type="checkbox" {common}{_if("checked", text == "true")}>'
        control = f"<span class=recipes-switch>{control}{label}</span>"
        label = ""
    elif field.kind == "choice":
        empty = [""] if field.optional or field.required else []
        options = "".join(
            f'<option value="{html(one)}"{_if("selected", one == text)}>{html(one or "—")}</option>'
            for one in [*empty, *field.choices]
        )
        control = f"<select {common}>{options}</select>"
    elif field.kind == "list" or "\n" in text:
        rows = min(6, max(2, text.count("\n") + 1))
        control = f'<textarea {common} rows="{rows}" spellcheck="false">\n{html(text)}</textarea>'
    else:
        mode = ' inputmode="decimal"' if field.kind == "number" else ""
        names = f' list="recipes-{field.name}-names"' if field.name in _SUGGESTED else ""
        control = f'<input type="text" {common}{mode}{names} value="{html(text)}" spellcheck="false">'
    return (
        f"<div class=recipes-field>{label}{control}"
        f'<p id="{id}-help" class=recipes-help>{_marked(_help(field))}</p>'
        f'<p id="{id}-told" class=problem data-told="{html(field.name)}"></p></div>'
    )


def _help(field: Field) -> str:
    told = [_sentence(field.help)] if field.help else []
    if field.kind == "list":
        told.append("One a line.")
    if field.span:
        told.append(_sentence(field.span))
    default = field.text(field.default)
    if field.required:
        told.append("Must be given.")
    elif default and field.kind != "switch":
        told.append(f"Default: {default.replace(chr(10), ', ')}.")
    return " ".join(told)


def _marked(text: str) -> str:
    """Text whose `code` is marked as such."""
    return re.sub(r"`([^`]+)`", r"<code>\1</code>", html(text))


def _sentence(text: str) -> str:
    if re.match(r"(a|[a-z]{2,}'?[a-z]*)[ ,;:]", text):  # not a name, as nf4 and α are
        text = text[:1].upper() + text[1:]
    return text if not text or text.endswith((".", "!", "?")) else f"{text}."


def _if(word: str, true: bool) -> str:
    return f" {word}" if true else ""
