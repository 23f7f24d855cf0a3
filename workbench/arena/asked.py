"""What is asked, who is asked, and as what System: all drawn on the server."""

import secrets
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import combinations
from typing import Any

from workbench.catalogue import Entry
from workbench.decodes import Greedy, Sample, Sampling
from workbench.errors import UserError
from workbench.inert import is_utf8
from workbench.prompts import load_prompt, purpose_of, render
from workbench.tasks import load_task, task_names
from workbench.tasks.base import Task
from workbench.types import Example, Message, Prompt, System

MOST_APART = 2
"""How far a pair's two orders may be apart in number. 1 would be blocks of two, of which the second is known as
soon as the first has been voted on and named; with 2 half of the even rounds are forced, and no other (the big
stick design, Soares & Wu 1983)."""

_PLAIN = Prompt("as typed", (Message("user", "{{ input }}"),))
_DRAW = secrets.SystemRandom()


@dataclass(frozen=True)
class Asked:
    """What both models are asked.

    Attributes:
        prompt: how it is asked, where a System does not bring a prompt of the same purpose.
        example: the question.
        task: the name of its task; empty for one that was typed.
    """

    prompt: Prompt
    example: Example
    task: str = ""

    def turns(self) -> tuple[Message, ...]:
        """The conversation that the vote is about."""
        return render(self.prompt, self.example)


def typed(text: object) -> Asked:
    """A person's own question.

    Raises:
        UserError: it is none.
    """
    if not isinstance(text, str) or not text.strip():
        raise UserError("Type a question first.")
    if not is_utf8(text):
        raise UserError("The question holds half a character (a lone surrogate), which no model can read.")
    return Asked(_PLAIN, Example.make(text, ""))


def offered() -> list[str]:
    """The tasks that need no file or name of one's own."""
    return [name for name in task_names() if name not in ("file", "gym")]


def drawn(task: object, rows: Iterable[dict[str, Any]]) -> Asked:
    """A question of a task's dev split: one of those that were voted on least.

    Raises:
        UserError: there is no such task here, or its data cannot be had.
    """
    if not isinstance(task, str) or task not in offered():
        raise UserError(f"There is no such task here. There are: {', '.join(offered())}.")
    loaded = _loaded(task)
    seen = Counter(row.get("question") for row in rows)
    least = min(seen[example.id] for example in loaded.dev)
    example = _DRAW.choice([example for example in loaded.dev if seen[example.id] == least])
    return Asked(load_prompt(loaded.prompt), example, task)


@lru_cache(maxsize=8)
def _loaded(task: str) -> Task:
    return load_task(task)


def playable(players: Sequence[Entry], asked: Asked, sampling: Sampling) -> list[tuple[str, str]]:
    """The pairs of keys whose players are not the same System for a question.

    Raises:
        UserError: there is none.
    """
    systems = {entry.key: played(entry, asked, sampling) for entry in players}
    pairs = [(one, other) for one, other in combinations(systems, 2) if systems[one] != systems[other]]
    if not pairs:
        labels = " and ".join(entry.label for entry in players)
        raise UserError(
            f"To this question {labels} are the same System: what sets them apart is not used for it. Choose "
            "others, or questions of the task that they were made for."
        )
    return pairs


def draw_sides(pairs: Sequence[tuple[str, str]], rows: Iterable[dict[str, Any]]) -> tuple[str, str]:
    """Who plays, as (left, right): a pair of those that were voted on least, in a fair coin's order.

    The coin is not asked where a pair's orders are `MOST_APART` already.

    Args:
        pairs: of keys of players, one or more.
        rows: the visitor's votes.
    """
    stood = Counter((row["left_system"]["key"], row["right_system"]["key"]) for row in rows)
    met = {pair: stood[pair] + stood[pair[::-1]] for pair in pairs}
    one, other = _DRAW.choice([pair for pair in pairs if met[pair] == min(met.values())])
    lead = stood[one, other] - stood[other, one]
    swap = _DRAW.random() < 0.5 if abs(lead) < MOST_APART else lead > 0
    return (other, one) if swap else (one, other)


def played(entry: Entry, asked: Asked, sampling: Sampling) -> System:
    """The System that answers: an entry's own as far as one answer to this question shows it.

    A run's prompt is used where it is of the same purpose as the task's own; of its decode, how tokens are
    drawn. A model alone takes the task's prompt and the arena's sampling.
    """
    own, prompt, how = entry.system, asked.prompt, sampling
    if own is not None:
        if asked.task and _fits(own.prompt, asked.prompt):
            prompt = own.prompt
        if isinstance(own.decode, (Greedy, Sample)):
            longest = own.decode.max_tokens or sampling.max_tokens
            how = replace(own.decode.sampling(), max_tokens=longest)
        else:  # one that scores or works in steps draws no answer by itself
            how = replace(sampling, temperature=0.0)
    if how.temperature == 0:
        return System(entry.model, prompt, Greedy(how.max_tokens))
    decode = Sample(1, how.temperature, how.top_p, how.top_k, how.max_tokens, how.seed)
    return System(entry.model, prompt, decode)


def _fits(prompt: Prompt, other: Prompt) -> bool:
    try:
        return purpose_of(prompt.name) == purpose_of(other.name)
    except UserError:  # a file of one's own, which is not there any more
        return False
