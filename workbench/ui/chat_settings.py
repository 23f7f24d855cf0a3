"""How a chat's questions are asked: settings as a browser sent them, checked field by field."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from workbench.catalogue import Catalogue, Entry
from workbench.decodes import Greedy, Sample, Sampling
from workbench.errors import UserError, check_range
from workbench.inert import is_utf8
from workbench.prompts import literal, load_prompt, prompts_of, with_values
from workbench.types import Message, Prompt, System
from workbench.ui.shell import MAX_TEXT

SLOTS = 3
"""Variables of a persona that can be filled in."""

OWN, NONE = "run", "none"
"""Stand for a run's own prompt, and for no persona, where one is chosen; no persona that ships is called so."""

START = Sampling(temperature=0.7, max_tokens=512)
"""What the pane begins with."""

WARMEST = 2.0
"""The highest temperature: beyond it answers are noise."""

LARGEST_SEED = 2**53 - 1
"""A browser holds no larger whole number exactly."""


@dataclass(frozen=True)
class Settings:
    """How a question is asked.

    Attributes:
        model: an entry's key.
        persona: a prompt's name, `OWN`, or `NONE`: then it is `system_prompt`.
        system_prompt: what the model is told first; nothing leaves it to the model's own template.
        values: the persona's variables, as (name, value) pairs.
        sampling: how the answer is drawn.
    """

    model: str
    persona: str = NONE
    system_prompt: str = ""
    values: tuple[tuple[str, str], ...] = ()
    sampling: Sampling = START

    def prompt(self, entry: Entry) -> Prompt:
        """How each question is put.

        Raises:
            UserError: the persona or one of its variables does not exist.
        """
        if self.persona == OWN:
            if entry.system is None:
                raise UserError(
                    "This model was made by no run, so it has no prompt of its own. Choose another persona."
                )
            return entry.system.prompt
        if self.persona != NONE:
            return with_values(load_prompt(self.persona), dict(self.values))
        first = [Message("system", literal(self.system_prompt))] if self.system_prompt.strip() else []
        return Prompt("chat", (*first, Message("user", "{{ input }}")))

    def system(self, entry: Entry) -> System:
        """The whole System that answers, one sample a question."""
        s = self.sampling
        decode = (
            Sample(1, s.temperature, s.top_p, s.top_k, s.max_tokens, s.seed)
            if s.temperature
            else Greedy(s.max_tokens)
        )
        return System(entry.model, self.prompt(entry), decode)

    def kept(self) -> dict[str, Any]:
        """As JSON; `restored` reads it."""
        return asdict(self)


def restored(kept: Mapping[str, Any]) -> Settings:
    """Settings as a conversation keeps them.

    Raises:
        UserError: they are damaged.
    """
    try:
        sampling = {**kept["sampling"], "stop": tuple(kept["sampling"]["stop"])}
        values = tuple((str(name), str(value)) for name, value in kept["values"])
        return Settings(kept["model"], kept["persona"], kept["system_prompt"], values, Sampling(**sampling))
    except (TypeError, KeyError, ValueError) as error:
        raise UserError(f"The conversation's settings are damaged: {type(error).__name__}: {error}.") from error


def own_variables(persona: str) -> tuple[tuple[str, str], ...]:
    """A persona's variables with their defaults, in the file's order."""
    if persona not in prompts_of("persona"):
        return ()
    prompt = load_prompt(persona)
    defaults = dict(prompt.defaults)
    return tuple((name, defaults.get(name, "")) for name in prompt.variables if name != "input")[:SLOTS]


def checked(
    catalogue: Catalogue,
    model: Any,
    persona: Any,
    system_prompt: Any,
    values: Sequence[Any],
    numbers: Sequence[Any],
) -> tuple[Entry, Settings]:
    """What a browser sent as settings, once every field of it is known to be right.

    Args:
        values: of the persona's variables, in their order.
        numbers: temperature, top_p, top_k, max_tokens, seed.

    Raises:
        UserError: a field is wrong; the message names it.
    """
    entry = catalogue.find(model)
    if not isinstance(persona, str) or persona not in (NONE, OWN, *prompts_of("persona")):
        raise UserError("There is no such persona.")
    told = text("The system prompt", system_prompt or "")
    names = [name for name, _ in own_variables(persona)]
    filled = tuple((name, text(name, value or "")) for name, value in zip(names, values, strict=False))
    return entry, Settings(entry.key, persona, told, filled, sampled(*numbers))


def text(name: str, value: object) -> str:
    """A text that a browser sent.

    Raises:
        UserError: it is none, is too long, or holds a lone surrogate.
    """
    if not isinstance(value, str):
        raise UserError(f"{name} is no text.")
    if len(value) > MAX_TEXT:
        raise UserError(f"{name} has {len(value):,} characters; {MAX_TEXT:,} is the most.")
    if not is_utf8(value):
        raise UserError(f"{name} holds half a character (a lone surrogate), which no model can read.")
    return value


def question(value: object) -> str:
    """A question that a browser sent.

    Raises:
        UserError: there is nothing in it, or as `text`.
    """
    if not isinstance(value, str) or not value.strip():
        raise UserError("Type a question first.")
    return text("The question", value)


def sampled(temperature: Any, top_p: Any, top_k: Any, max_tokens: Any, seed: Any) -> Sampling:
    """Numbers that a browser sent, as sampling parameters.

    Raises:
        UserError: one is missing, NaN, no whole number where it must be one, or out of its range.
    """
    check_range("temperature", temperature, 0, WARMEST)
    check_range("seed", seed, 0, LARGEST_SEED)
    whole = {"top_k": top_k, "max_tokens": max_tokens, "seed": seed}
    for name, value in whole.items():
        if isinstance(value, float) and math.isfinite(value) and value.is_integer():
            whole[name] = int(value)
        elif isinstance(value, float) and math.isfinite(value):
            raise UserError(f"{name} is {value:g}; it must be a whole number.")
    return Sampling(temperature, top_p, **whole)
