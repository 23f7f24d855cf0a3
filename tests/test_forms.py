"""The form of every recipe: each field is there, an untouched form is Config(), form and command line agree."""

import dataclasses
import shlex
from dataclasses import dataclass, fields, is_dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, get_type_hints

import pytest
import tyro
from hypothesis import given, settings
from hypothesis import strategies as st

from recipes.__main__ import RECIPES
from workbench.errors import UserError, check_range
from workbench.form_fields import Field, form_fields
from workbench.forms import arguments, command_line, from_arguments, read_form, texts

CONFIGS = {name: import_module(module).Config for name, (module, _) in RECIPES.items()}
NEEDED = {"scheme": "nf4", "out": "made", "expert": "tuned", "action": "merge", "ids": "a\nb", "path": "x.jsonl"}


def parsed(config: type[Any], words: list[str]) -> Any:
    return tyro.cli(config, args=words, config=(tyro.conf.EnumChoicesFromValues,), console_outputs=False)


def needed(config: type[Any]) -> dict[str, str]:
    """Texts of the fields that must be given."""
    told = {f.name: NEEDED.get(f.name) for f in form_fields(config) if f.required}
    return {name: text or (f.choices or ("x",))[0] for name, text in told.items() for f in [named(config, name)]}


def named(config: type[Any], name: str) -> Field:
    return next(field for field in form_fields(config) if field.name == name)


def leaves(config: type[Any], path: tuple[str, ...] = ()) -> set[tuple[str, ...]]:
    found: set[tuple[str, ...]] = set()
    hints = get_type_hints(config)
    for field in fields(config):
        inner = hints[field.name]
        found |= leaves(inner, (*path, field.name)) if is_dataclass(inner) else {(*path, field.name)}
    return found


@pytest.mark.parametrize("recipe", RECIPES)
def test_a_form_has_every_field_of_its_config(recipe: str) -> None:
    config = CONFIGS[recipe]
    known = form_fields(config)
    assert {field.path for field in known} == leaves(config)
    assert len({field.name for field in known}) == len(known)
    assert not known or recipe == "chat" or all(field.help for field in known)
    assert not known or any(field.essential for field in known) or recipe in ("models", "runs", "doctor")


@pytest.mark.parametrize("recipe", RECIPES)
def test_an_untouched_form_is_the_default_and_its_command_line_says_nothing_more(recipe: str) -> None:
    config, given_texts = CONFIGS[recipe], needed(CONFIGS[recipe])
    found, problems = read_form(config, given_texts)
    assert problems == {}
    if given_texts:
        assert set(read_form(config, {})[1]) == set(given_texts), "each one that must be given is named"
    else:
        assert found == config() and arguments(found) == []
    assert parsed(config, arguments(found)) == found
    assert read_form(config, texts(found)) == (found, {}), "a form that shows every value stands for the same"


def a_text(field: Field) -> st.SearchStrategy[str]:
    words = st.text(st.characters(codec="utf-8", exclude_categories=["Cc", "Cs"]), max_size=12)
    numbers = st.one_of(st.integers(-3, 5000).map(str), st.floats(-1, 100, allow_nan=False).map(repr))
    if field.kind == "switch":
        return st.sampled_from(["true", "false"])
    if field.kind == "choice":
        return st.sampled_from([*field.choices, *([""] if field.optional else [])])
    if field.kind == "list":
        return st.lists(st.one_of(numbers, words), max_size=3).map("\n".join)
    if field.kind == "number":
        return numbers
    return st.one_of(words, st.sampled_from(["--overwrite", "-x", "None", "a b", "$(x)", "'", *field.choices]))


@settings(max_examples=12)
@given(data=st.data())
@pytest.mark.parametrize("recipe", sorted(RECIPES.keys() - {"tasks"}))  # which has no field
def test_the_command_line_gives_back_what_the_form_says(recipe: str, data: st.DataObject) -> None:
    config = CONFIGS[recipe]
    known = form_fields(config)
    changed = data.draw(st.lists(st.sampled_from(known), min_size=1, max_size=6, unique_by=lambda f: f.name))
    values = needed(config)
    for field in changed:  # one at a time: what its Config refuses is left out
        more = values | {field.name: data.draw(a_text(field), label=field.name)}
        found, problems = read_form(config, more)
        assert (found is None) == bool(problems)
        if found is not None:
            values = more
    found, problems = read_form(config, values)
    assert found is not None and problems == {}
    words = arguments(found)
    assert parsed(config, words) == found
    assert shlex.split(command_line(recipe, found)) == ["workbench", recipe, *words]
    assert read_form(config, texts(found))[0] == found


@pytest.mark.parametrize(
    ("recipe", "name", "text", "said"),
    [
        ("lora", "rank", "0", "rank is 0; it must be a number in [1, 4096]."),
        ("lora", "rank", "1.5", "'1.5' is not a whole number."),
        ("lora", "rank", "9" * 400, f"'{'9' * 400}' is not a whole number."),
        ("lora", "learning-rate", "nan", "'nan' is not a number."),
        ("lora", "learning-rate", "1e999", "'1e999' is not a number."),
        ("lora", "learning-rate", "", "It must be given."),
        ("lora", "precision", "float8", "precision is 'float8'"),
        ("lora", "engine", "cuda", "'cuda' is not one of: hf, vllm, fake."),
        ("lora", "stream", "yes", "It is true or false."),
        ("lora", "data-split", "dev", "--data-split needs --data."),
        ("lora", "name", "../x", "cannot name a run"),
        ("lora", "name", "con", "cannot name a run"),
        ("lora", "name", "/tmp/x", "cannot name a run"),
        ("lora", "name", "a\x00b", "control character"),
        ("lora", "model", "\ud800", "half a character"),
        ("lora", "model", "m" * 30_000, "30,000 characters"),
        ("lora", "task", "arithmatic", "There is no task named 'arithmatic'"),
        ("lora", "prompt", "nonesuch", "There is no prompt named 'nonesuch'"),
        ("lora", "task-args", "a=1\n--overwrite", "'--overwrite' would be read as a flag"),
        ("compare", "ids", "--runs=/", "'--runs=/' would be read as a flag"),
        ("export", "path", "-x", "'-x' would be read as a flag"),
        ("majority_vote", "early-stop", "sometimes", "'sometimes' is not one of: certain, a number."),
        ("ladder", "rungs", "lora\nlota", "There is no rung named 'lota'"),
        ("ladder", "sft.epochs", "0", "epochs is 0"),
        ("beam_search", "keep", "3", "keep is 3; it must divide"),
        ("best_of_n", "n", "1", "n is 1"),
    ],
)
def test_what_is_wrong_is_said_beside_its_field(recipe: str, name: str, text: str, said: str) -> None:
    found, problems = read_form(CONFIGS[recipe], needed(CONFIGS[recipe]) | {name: text})
    assert found is None and list(problems) == [name] and said in problems[name]


def test_a_field_that_is_none_is_refused() -> None:
    assert read_form(CONFIGS["lora"], {"__class__": "x"}) == (None, {"": "There is no field '__class__'."})


def test_several_faults_are_told_at_once() -> None:
    _, problems = read_form(CONFIGS["lora"], {"rank": "x", "epochs": "", "split": "dev"})
    assert set(problems) == {"rank", "epochs"}


def test_a_value_that_looks_like_a_flag_is_none() -> None:
    found, _ = read_form(CONFIGS["lora"], {"model": "--overwrite", "revision": "-x"})
    assert arguments(found) == ["--model=--overwrite", "--revision=-x"]
    assert parsed(CONFIGS["lora"], arguments(found)) == found and not found.setup.overwrite


def test_line_ends_and_backslashes_in_a_list() -> None:
    default = CONFIGS["beam_search"]()
    assert texts(default)["separators"] == "\\n\n. "
    found, _ = read_form(CONFIGS["beam_search"], {"separators": "\\\\n\n\\t\na\\b"})
    assert found.decode.separators == ("\\n", "\t", "a\\b")
    assert read_form(CONFIGS["beam_search"], texts(found))[0] == found


def test_what_a_field_tells() -> None:
    rank, engine, quantization = (named(CONFIGS["lora"], name) for name in ("rank", "engine", "quantization"))
    assert (rank.kind, rank.default, rank.span, rank.essential) == ("number", 8, "from 1 to 4,096", True)
    assert rank.help == "r, the rank of the update." and rank.path == ("lora", "rank")
    assert (engine.kind, engine.choices, engine.optional) == ("choice", ("hf", "vllm", "fake"), False)
    assert (quantization.choices, quantization.optional, quantization.essential) == (("nf4", "int8"), True, False)
    assert named(CONFIGS["lora"], "epochs").group == "how it is trained."
    assert named(CONFIGS["quickstart"], "questions").default == 120
    assert named(CONFIGS["ladder"], "sft.learning-rate").path == ("ladder", "sft", "training", "learning_rate")


@dataclass(frozen=True)
class Checked:
    """Checks.

    Attributes:
        low, high: where it begins and ends,
            in any unit.
        when: is of no type that a form knows.
    """

    low: int = 1
    high: int = 2
    when: bytes = b""

    def __post_init__(self) -> None:
        check_range("low", self.low, 0, 5, open_low=True)
        if self.high < self.low:
            raise UserError("high must not be below low.")


def test_other_types_are_an_error_of_the_recipe() -> None:
    with pytest.raises(TypeError, match="no field for <class 'bytes'>"):
        form_fields(Checked)


def test_docstrings_of_several_fields_and_lines() -> None:
    plain = dataclasses.make_dataclass("Plain", ["high"], bases=(Checked,), frozen=True)
    plain.__annotations__.update(high=int, when=int)
    plain.__doc__ = "Other."
    low, high, _ = form_fields(plain)
    assert low.help == high.help == "where it begins and ends, in any unit."


def test_paths_stay_as_they_are_named() -> None:
    found, _ = read_form(CONFIGS["lora"], {"runs": "../elsewhere/my runs"})
    assert found.setup.runs == Path("../elsewhere/my runs")
    assert command_line("lora", found) == "workbench lora --runs '../elsewhere/my runs'"


def test_a_form_is_filled_in_from_a_command_line() -> None:
    found = from_arguments(CONFIGS["lora"], ["--rank", "4", "--engine", "fake"])
    assert (found.lora.rank, found.setup.engine.engine) == (4, "fake")
    with pytest.raises(UserError, match="cannot be read"):
        from_arguments(CONFIGS["lora"], ["--no-such-flag", "4"])
    with pytest.raises(UserError, match="rank is 0"):
        from_arguments(CONFIGS["lora"], ["--rank", "0"])
