"""Instructions proposed by a model: guessed from demonstrations, or varied from another (APE, Zhou et al. 2022).

Forward mode (§3.1 of arXiv 2211.01910) shows demonstrations and lets the model go on with the instruction;
reverse mode puts the instruction's place before them. The paper fills that place with an infilling model; here
a chat model is asked what stands in the blank, and its answer is begun for it.
"""

import math
import random
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from workbench.decodes import Sample
from workbench.decoding.ask import completions
from workbench.engines.base import Engine
from workbench.errors import UserError, check_range
from workbench.prompts import load_prompt, render, render_answer, render_shot
from workbench.searching.candidates import with_instruction
from workbench.store import Store
from workbench.tasks.base import Task
from workbench.types import Completion, Example, Finish, Prompt, Request, System

Mode = Literal["forward", "reverse", "resample"]

SAMPLES, MOST = 4, 16  # proposals of one request at a time, and in all where too few are usable
MAX_TOKENS = 48  # of a proposal
SHORTEST, LONGEST = 3, 40  # words of an instruction


@dataclass(frozen=True)
class Source:
    """One request for proposals.

    Attributes:
        mode: which of the prompts `propose-…` asks.
        shown: its input is what the prompt shows: demonstrations, or the instruction to be varied.
        recited: inputs of the demonstrations, which no instruction may repeat.
        parent: number of the candidate that is varied.
    """

    mode: Mode
    shown: Example
    recited: tuple[str, ...] = ()
    parent: int | None = None


def from_demonstrations(
    task: Task, template: Prompt, modes: Literal["both", "forward", "reverse"], k: int, wanted: int, seed: int
) -> list[Source]:
    """As many requests as `wanted` proposals take, each with k practice examples of its own; modes take turns.

    A demonstration's output is the answer that the template's shot shows, so that its form can be guessed too.

    Raises:
        UserError: practice has fewer than k examples, or one lacks what the shot shows.
    """
    check_range("demonstrations", k, 1, len(task.practice))
    turns: Sequence[Mode] = ("forward", "reverse") if modes == "both" else (modes,)
    answering = with_instruction(template, "Answer.")
    sources: dict[tuple[Mode, str], Source] = {}
    for i in range(max(len(turns), math.ceil(wanted / SAMPLES))):
        mode = turns[i % len(turns)]
        picked = random.Random(f"{seed}:{i}").sample(task.practice, k)
        shot = load_prompt(f"propose-{mode}")
        blocks = []
        for example in picked:
            output = render_answer(answering, example).strip() if template.shot else example.target
            blocks += [message.content for message in render_shot(shot, replace(example, target=output))]
        shown = Example.make("\n\n".join(blocks), "")
        sources[mode, shown.id] = Source(mode, shown, tuple(example.input for example in picked))
    return list(sources.values())


def variations_of(instructions: Sequence[tuple[int, str]]) -> list[Source]:
    """A request for each of these candidates, given by number and text."""
    return [Source("resample", Example.make(text, ""), parent=number) for number, text in instructions]


def _requests(sources: Sequence[Source]) -> list[Request]:
    asked = []
    for source in sources:
        prompt = load_prompt(f"propose-{source.mode}")
        asked.append(Request(source.shown.id, render(prompt, source.shown), style=prompt.style))
    return asked


def most_tokens(engine: Engine, sources: Sequence[Source], *, again: bool = False) -> int:
    """Tokens that so many samples take at most; asked again, the prompts have been counted."""
    prompts = 0 if again else sum(engine.count_tokens(_requests(sources)))
    return prompts + len(sources) * SAMPLES * MAX_TOKENS


def draw(
    system: System,
    sources: Sequence[Source],
    n: int,
    temperature: float,
    seed: int,
    engine: Engine,
    store: Store,
    progress: Callable[[int, int], None],
) -> list[list[Completion]]:
    """n completions of each source from the system's own model, through the store.

    Raises:
        UserError: every request failed.
    """
    found: list[list[Completion]] = [[] for _ in sources]
    requests = _requests(sources)
    decode = Sample(n, temperature, max_tokens=MAX_TOKENS, seed=seed)
    for mode in dict.fromkeys(source.mode for source in sources):
        asking = replace(system, prompt=load_prompt(f"propose-{mode}"), decode=decode)
        places = [i for i, source in enumerate(sources) if source.mode == mode]
        drawn = completions(asking, [requests[i] for i in places], (), engine, store, progress)
        for i in places:
            found[i] = drawn[requests[i].id]
    failed = [c.error for each in found for c in each if c.finish is Finish.ERROR]
    if len(failed) == n * len(sources):
        raise UserError(f"No proposal was made: {len(failed)} requests failed. The first: {failed[0]}.")
    return found


def usable(
    sources: Sequence[Source], drawn: Sequence[Sequence[Completion]], known: Iterable[str]
) -> list[tuple[str, Source]]:
    """The instructions in the completions that are unlike each other and those known.

    The first sample of every source comes before the second of any: with more samples there are more at the end.
    """
    seen = {fold(text) for text in known}
    found = []
    rows = [(c.index, i, c) for i, each in enumerate(drawn) for c in each if c.finish is not Finish.ERROR]
    for _, i, completion in sorted(rows, key=lambda row: row[:2]):
        text = clean(completion, sources[i].recited)
        if text is not None and fold(text) not in seen:
            seen.add(fold(text))
            found.append((text, sources[i]))
    return found


def clean(completion: Completion, recited: Sequence[str] = ()) -> str | None:
    """The instruction in a completion: its first sentence, begun with a capital; None where it is unusable.

    Unusable is what was cut off before the first sentence ended, has fewer than 3 or more than 40 words, a quote
    that is not closed or characters that cannot be printed or are no characters, or repeats a demonstration's
    input: that would be about one question.
    """
    line = next((line for line in completion.text.splitlines() if line.strip()), "")
    sentence = re.match(r".+?[.!?][\"'”’)]*(?=\s+[\"'“‘(]?[A-Z]|\s*$)", line)
    if sentence is None and completion.finish is not Finish.STOP:
        return None
    text = " ".join((sentence[0] if sentence else line).split()).strip(":;,-–*_ ")
    if len(text) > 1 and text[0] + text[-1] in ('""', "“”", "''", "``"):
        text = text[1:-1].strip()
    words = sum(any(character.isalpha() for character in word) for word in text.split())
    if not SHORTEST <= words <= LONGEST or text.count('"') % 2 or not text.isprintable() or "\ufffd" in text:
        return None
    if any(fold(question) in fold(text) for question in recited if question.strip()):
        return None
    return text[0].upper() + text[1:] + ("" if text.endswith((".", "!", "?", '"', "”")) else ".")


def fold(text: str) -> str:
    """What two texts that differ in case, white space or a last stop have in common."""
    return " ".join(text.casefold().split()).rstrip(".!? ")
