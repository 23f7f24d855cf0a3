"""A candidate instruction of a prompt search: the prompt that it makes, its scores on dev, and what they cost."""

import re
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from workbench.decoding.likelihood import answer_logprobs
from workbench.engines.base import Engine
from workbench.errors import UserError
from workbench.exemplars import choose_fitting
from workbench.harness import evaluate, questions_of
from workbench.identity import to_json
from workbench.metrics import cost_to_use
from workbench.prompts import literal, load_prompt, render
from workbench.stats.intervals import percentile_bounds
from workbench.store import Store
from workbench.tasks.base import Task
from workbench.types import CostToUse, Example, Interval, Message, Prompt, System, text_hash

Yardstick = Literal["accuracy", "log-likelihood"]

_SLOT = re.compile(r"\{\{\s*instruction\s*\}\}")


@dataclass(frozen=True)
class Spent:
    """What an engine did: tokens (prompt and completion, a prompt counted once for its samples), FLOPs, seconds.

    FLOPs are 0 where the model's shape is not known.
    """

    tokens: int = 0
    flops: float = 0.0
    seconds: float = 0.0

    @classmethod
    def of(cls, questions: int, use: CostToUse) -> "Spent":
        """So many questions at this mean cost."""
        tokens = round(questions * (use.prompt_tokens + use.completion_tokens))
        return cls(tokens, questions * (use.flops or 0.0), questions * use.seconds)

    def __add__(self, other: "Spent") -> "Spent":
        return Spent(self.tokens + other.tokens, self.flops + other.flops, self.seconds + other.seconds)

    def __sub__(self, other: "Spent") -> "Spent":
        return Spent(self.tokens - other.tokens, self.flops - other.flops, self.seconds - other.seconds)


@dataclass(frozen=True)
class Score:
    """A prompt on the first questions of the dev split.

    Attributes:
        questions: how many were asked.
        answered: how many of them got an answer; a failed request is none.
        value: accuracy, or the mean log-probability of the right answer in nats an answer.
        spent: on all of them.
    """

    questions: int
    answered: int
    value: Interval
    spent: Spent

    @property
    def tokens_each(self) -> float:
        """Tokens of one question, on average."""
        return self.spent.tokens / self.answered

    def to_json(self) -> dict[str, Any]:
        """As search.json holds it. Times are left out: they would differ from one run to the next."""
        value = {"value": to_json(self.value), "tokens": self.spent.tokens}
        return {"questions": self.questions, "answered": self.answered, **value}


@dataclass
class Candidate:
    """An instruction in the search.

    Attributes:
        number: its place in the order of proposing, from 0.
        instruction: its text.
        prompt: the template with it.
        mode: how it was proposed.
        round: 0 for those guessed from demonstrations.
        parent: number of the candidate that it varies.
        scores: by the number of dev questions.
    """

    number: int
    instruction: str
    prompt: Prompt
    mode: str
    round: int
    parent: int | None
    scores: dict[int, Score] = field(default_factory=dict)

    @property
    def widest(self) -> Score:
        """The score on most questions."""
        return self.scores[max(self.scores)]

    def standing(self, questions: int) -> tuple[float, float, int]:
        """Sorts the best first: by score, of equal ones the cheaper to use, of equally cheap the earlier."""
        score = self.scores[questions]
        return -score.value.value, score.tokens_each, self.number

    def to_json(self) -> dict[str, Any]:
        """As search.json holds it."""
        told = ("number", "instruction", "mode", "round", "parent")
        scores = [self.scores[questions].to_json() for questions in sorted(self.scores)]
        return {**{name: getattr(self, name) for name in told}, "scores": scores}


def with_instruction(template: Prompt, instruction: str) -> Prompt:
    """The template with the instruction written in as literal text; its name holds the hash of both.

    Raises:
        UserError: the template's messages have no `{{ instruction }}`.
    """
    if not any(_SLOT.search(message.content) for message in template.messages):
        raise UserError(
            f"The prompt {template.name!r} cannot be a template of prompt search: its messages have no "
            "{{ instruction }}. Name one that has (instruct and instruct-label ship), or write it in."
        )
    written = literal(instruction)

    def fill(messages: tuple[Message, ...]) -> tuple[Message, ...]:
        return tuple(Message(m.role, _SLOT.sub(lambda _: written, m.content)) for m in messages)

    return replace(
        template,
        name=f"prompt-search-{text_hash(f'{template.file_hash}:{instruction}')}",
        messages=fill(template.messages),
        shot=fill(template.shot),
        variables=tuple(name for name in template.variables if name != "instruction"),
        defaults=tuple(pair for pair in template.defaults if pair[0] != "instruction"),
        file_hash="",
    )


def checked_template(system: System, task: Task, name: str | None, score: Yardstick) -> Prompt:
    """The template by its name, else the one that suits the task, with the system's exemplars.

    Raises:
        UserError: an instruction cannot be written into it, it wants a variable that the questions do not bring,
            or it or the system's own prompt has no shot where answers are shown or scored.
    """
    default = "instruct" if task.practice[0].rationale else "instruct-label"
    template = replace(load_prompt(name or default), shots=system.prompt.shots)
    for prompt in (template, system.prompt):
        if not prompt.shot and (prompt.shots or score == "log-likelihood"):
            what = "exemplars show" if prompt.shots else "--score log-likelihood asks about"
            raise UserError(f"The prompt {prompt.name!r} has no `shot`: no form of the answer that {what}.")
    render(with_instruction(template, "Answer."), task.dev[0])
    return template


def measure(
    system: System,
    task: Task,
    score: Yardstick,
    questions: int,
    engine: Engine,
    store: Store,
) -> Score:
    """Score a System on the first dev questions; what is stored is not asked again.

    `log-likelihood` is the paper's (§3.2): log P(answer | prompt), summed over the answer's tokens, its mean
    over the questions. The answer is the prompt's own, and the decode plays no part.

    Raises:
        UserError: no question was answered.
    """
    if score == "accuracy":
        result = evaluate(system, task, engine, store, split="dev", questions=questions)
        return Score(questions, result.total, result.score, Spent.of(result.total, result.cost_to_use))
    import numpy as np

    examples = questions_of(task, "dev", questions)
    exemplars: list[tuple[Example, ...]] = [()] * len(examples)
    if system.prompt.shots is not None:
        exemplars, _ = choose_fitting(system.prompt, examples, engine, task.max_tokens)
    found = answer_logprobs(system, examples, exemplars, engine, store, lambda done, total: None)
    whole = [completion for completion in found if completion.logprob is not None]
    if not whole:
        raise UserError(f"No answer was scored: {len(found)} requests failed. The first: {found[0].error}.")
    logprobs = np.array([completion.logprob for completion in whole], dtype=np.float64)
    low, high = percentile_bounds(logprobs, 0.95, 10_000, 0)
    use = cost_to_use(engine.shape, [[completion] for completion in whole], [], 1)
    mean = Interval(float(logprobs.mean()), low, high, method="bootstrap")
    return Score(questions, len(whole), mean, Spent.of(len(whole), use))
