"""What a pane of a comparison is set to: its System, checked, and as a field of the page's address."""

import re
from dataclasses import dataclass, fields
from functools import cache
from typing import Any, Literal, get_args

from workbench.catalogue import Catalogue, Entry
from workbench.decodes import LONGEST, Greedy, Majority, Sample
from workbench.errors import UserError, check_range
from workbench.prompts import load_prompt, prompt_names
from workbench.types import Message, Prompt, System

NAMES = "abcd"
"""The panes, by the names that an address gives them."""

OWN, PLAIN, TEXT = "own", "question", "text"
"""Prompts beside those that ship: a run's own; the question as it is; the question as text to go on with."""

Way = Literal["greedy", "sample", "vote"]
MOST_SAMPLES = 64
MOST_TOKENS = 4096

_FIELD = "~"  # parts a setting's values in an address, where it needs no escape
_WORDS = re.compile(r"[0-9A-Za-z._~-]{1,120}")
_TEXT_PROMPT = Prompt("text", (Message("user", "{{ input }}"),), style="text")


@dataclass(frozen=True)
class Setting:
    """What one pane asks, and how it draws.

    Attributes:
        key: of the catalogue's entry.
        prompt: `own`, `question`, `text` or the name of a prompt that ships.
        way: one greedy answer, one sample, or a majority vote among several.
        temperature: of samples; greedy decoding takes none.
        n: samples of a vote, 1 to 64.
        max_tokens: of each answer.

    Raises:
        UserError: a value is none, or out of its range; the message names the field.
    """

    key: str
    prompt: str = PLAIN
    way: Way = "greedy"
    temperature: float = 0.7
    n: int = 8
    max_tokens: int = LONGEST

    def __post_init__(self) -> None:
        if self.way not in get_args(Way):
            raise UserError(f"decode is {self.way!r}; it must be greedy, sample or vote.")
        check_range("temperature", self.temperature, 0, 100)
        for name, value, most in (("n", self.n, MOST_SAMPLES), ("max_tokens", self.max_tokens, MOST_TOKENS)):
            check_range(name, value, 1, most)
            if value != int(value):
                raise UserError(f"{name} is {value!r}; it must be a whole number.")
            object.__setattr__(self, name, int(value))  # a page sends 8.0

    @property
    def samples(self) -> int:
        """How many samples it draws."""
        return self.n if self.way == "vote" else 1

    @property
    def decode(self) -> Greedy | Sample | Majority:
        """The decode slot of its System."""
        if self.way == "greedy":
            return Greedy(self.max_tokens)
        if self.way == "sample":
            return Sample(1, float(self.temperature), max_tokens=self.max_tokens)
        return Majority(self.n, float(self.temperature), max_tokens=self.max_tokens)

    def field(self) -> str:
        """The setting as a value of an address's field."""
        values = (self.key, self.prompt, self.way, f"{self.temperature:g}", self.n, self.max_tokens)
        return _FIELD.join(map(str, values))


def read_field(value: str) -> Setting:
    """A setting from an address; whoever wrote it.

    Raises:
        UserError: it is none.
    """
    parts = value.split(_FIELD) if _WORDS.fullmatch(value) else []
    if len(parts) != 6:
        raise UserError("The address describes a pane in a way that this page does not write.")
    key, prompt, way, temperature, n, most = parts
    try:
        numbers = (float(temperature), int(n), int(most))
    except ValueError:
        raise UserError("The address has a pane whose temperature, n or max_tokens is no number.") from None
    return Setting(key, prompt, way, *numbers)  # type: ignore[arg-type]  # checked by the Setting


def setting_of(values: Any) -> Setting:
    """A setting from what a browser sent: key, prompt, way, temperature, n, max_tokens.

    Raises:
        UserError: a value is none; the message names the field.
    """
    key, prompt, way, temperature, n, most = values
    for name, value in (("model", key), ("prompt", prompt), ("decode", way)):
        if not isinstance(value, str):
            raise UserError(f"{name} is not chosen.")
    return Setting(key, prompt, way, temperature, n, most)


@cache
def prompts() -> tuple[str, ...]:
    """Names of the prompts that ship and need the question alone, the plain one first."""
    fitting = []
    for name in prompt_names():
        prompt = load_prompt(name)
        if set(prompt.variables) - dict(prompt.defaults).keys() <= {"input"}:
            fitting.append(name)
    return (PLAIN, *(name for name in fitting if name != PLAIN))


def prompt_choices() -> list[tuple[str, str]]:
    """(label, value) of every prompt that a pane may have."""
    first = [
        ("The question as it is", PLAIN),
        ("As text to go on with", TEXT),
        ("The run's own", OWN),
    ]
    return [*first, *((name, name) for name in prompts() if name != PLAIN)]


def system_of(setting: Setting, catalogue: Catalogue) -> tuple[Entry, System]:
    """The entry that a pane talks with, and its System.

    Raises:
        UserError: the key is none of the catalogue's, the prompt none of the page's, or the entry has no own one.
    """
    entry = catalogue.find(setting.key)
    if setting.prompt == OWN:
        if entry.system is None:
            raise UserError(f"{entry.label} is no run's, so it has no prompt of its own. Choose another prompt.")
        prompt = entry.system.prompt
    elif setting.prompt == TEXT:
        prompt = _TEXT_PROMPT
    elif setting.prompt in prompts():
        prompt = load_prompt(setting.prompt)
    else:
        raise UserError("This prompt is not among those that the page offers.")
    return entry, System(entry.model, prompt, setting.decode)


def setting_for(entry: Entry) -> Setting:
    """What a pane is set to when an entry is chosen: a run's own prompt and, where a pane has it, its decode."""
    if entry.system is None:
        return Setting(entry.key)
    decode = entry.system.decode
    most = min(getattr(decode, "max_tokens", None) or LONGEST, MOST_TOKENS)
    if type(decode) is Majority or (type(decode) is Sample and decode.n == 1):
        way: Way = "vote" if type(decode) is Majority else "sample"
        return Setting(entry.key, OWN, way, decode.temperature, min(max(decode.n, 1), MOST_SAMPLES), most)
    return Setting(entry.key, OWN, max_tokens=most)


def run_decodes_otherwise(entry: Entry, decode: Greedy | Sample | Majority) -> str:
    """How a run's own decode differs from a pane's, in a few words; empty where it does not or has no run."""
    if entry.system is None:
        return ""
    own = entry.system.decode
    if type(own) is not type(decode):
        kind = re.sub(r"(?<!^)(?=[A-Z])", " ", type(own).__name__).lower()
        return f"{kind}, n {own.n}" if isinstance(own, Sample) else kind
    values = {field.name: (getattr(own, field.name), getattr(decode, field.name)) for field in fields(decode)}
    values["max_tokens"] = (values["max_tokens"][0] or LONGEST, values["max_tokens"][1])
    return ", ".join(f"{name} {its}" for name, (its, here) in values.items() if its != here)
