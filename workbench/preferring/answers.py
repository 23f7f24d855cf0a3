"""A model's own answers to a task's questions, from which pairs are made: drawn, and sorted by their use."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace

from workbench.decodes import Greedy, Sample
from workbench.drawing import Drawer
from workbench.errors import UserError, check_range
from workbench.identity import short_hash
from workbench.inert import is_utf8
from workbench.prompts import render
from workbench.tasks.base import Task
from workbench.types import Completion, CostToMake, Example, Finish, Message, Prompt, Request, System

SPLITS = ("practice", "dev")


@dataclass(frozen=True)
class Answered:
    """A question and the distinct answers to it, in the order in which they were drawn.

    Attributes:
        example: the question.
        prompt: the conversation that asked it.
        whole: texts that the model ended itself.
        cut: texts that the limit of tokens cut off.
    """

    example: Example
    prompt: tuple[Message, ...]
    whole: tuple[str, ...]
    cut: tuple[str, ...]


@dataclass(frozen=True)
class Sampling:
    """Which answers are drawn.

    Attributes:
        n: samples a question.
        temperature: at which they are drawn.
        seed: another seed draws other samples.
    """

    n: int
    temperature: float
    seed: int


def questions_for_pairs(task: Task, split: str, limit: int | None) -> tuple[Example, ...]:
    """The first `limit` questions of a split, all of them for None.

    Raises:
        UserError: the split is not practice or dev, or has fewer questions.
    """
    if split not in SPLITS:
        raise UserError(
            f"split is {split!r}; pairs are made from practice, or from dev to be held out: whoever learned from "
            "test could not be measured on it."
        )
    examples = task.practice if split == "practice" else task.dev
    if limit is not None:
        check_range("questions", limit, 1, len(examples))
    return examples[:limit]


def draw_answers(
    system: System, task: Task, examples: Sequence[Example], sampling: Sampling, drawer: Drawer
) -> tuple[list[Answered], Counter[str], CostToMake]:
    """n samples of each question, sorted; what was drawn and left out is counted.

    Args:
        system: its model and its prompt, without exemplars; its decode's limit of tokens, else the task's own.
        task: whose questions they are.
        examples: the questions.
        sampling: how they are answered.
        drawer: draws what the store does not hold.

    Raises:
        UserError: every request failed, or as `Drawer.draw`.
    """
    decode = system.decode
    longest = decode.max_tokens if isinstance(decode, (Greedy, Sample)) else None
    sampled = System(
        system.model,
        replace(system.prompt, shots=None),
        Sample(sampling.n, sampling.temperature, max_tokens=longest or task.max_tokens, seed=sampling.seed),
    )
    prompts = [render(sampled.prompt, example) for example in examples]
    requests = [
        Request(example.id, prompt, style=sampled.prompt.style)
        for example, prompt in zip(examples, prompts, strict=True)
    ]
    drawn = drawer.draw(sampled, requests, "answers")
    counts = Counter(questions=len(examples))
    found = []
    for example, prompt in zip(examples, prompts, strict=True):
        completions = drawn.completions[example.id]
        counts["samples"] += len(completions)
        counts["samples that failed"] += sum(c.finish is Finish.ERROR for c in completions)
        kept = [c for c in completions if c.finish is not Finish.ERROR]
        texts = [c for c in kept if usable(c.text)]
        counts["samples without a text"] += len(kept) - len(texts)
        whole = _distinct(texts, Finish.STOP)
        cut = _distinct(
            [c for c in texts if c.text.strip() not in {text.strip() for text in whole}], Finish.LENGTH
        )
        counts["samples cut off"] += sum(c.finish is Finish.LENGTH for c in texts)
        counts["samples that repeat another"] += len(texts) - len(whole) - len(cut)
        found.append(Answered(example, prompt, whole, cut))
    if counts["samples that failed"] == counts["samples"]:
        failed = next(c for drawn in drawn.completions.values() for c in drawn)
        raise UserError(f"No question was answered: every request failed. The first: {failed.error}.")
    return found, counts, drawn.cost


def usable(text: str) -> bool:
    """Whether a text can be an answer in a file: it is not empty, and it is UTF-8."""
    return bool(text.strip()) and is_utf8(text)


def _distinct(completions: Sequence[Completion], finish: Finish) -> tuple[str, ...]:
    """Texts that ended so; of those that differ in the white space around them only, the first."""
    first: dict[str, str] = {}
    for completion in completions:
        if completion.finish is finish:
            first.setdefault(completion.text.strip(), completion.text)
    return tuple(first.values())


def asked(prompt: Prompt, example: Example, **values: str) -> Request:
    """A request about an example with more values of the prompt's variables; its id is its conversation's hash."""
    variables = {**dict(example.variables), **values}
    messages = render(prompt, replace(example, variables=tuple(sorted(variables.items()))))
    return Request(f"{prompt.name}-{short_hash(messages)}", messages, style=prompt.style)
