"""Texts and the instructions that they may answer: read, cleaned, and scored by a model from 1 to 5."""

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from workbench.decodes import LabelLikelihood
from workbench.drawing import Drawer
from workbench.errors import UserError, check_range
from workbench.forgetting import GENERAL_TEXT
from workbench.identity import short_hash
from workbench.instructing.failures import failures, lasting
from workbench.prompts import load_prompt, render
from workbench.stats import entropy, label_probabilities
from workbench.tasks.rows import FILES, iterate_rows, text_field
from workbench.types import Completion, CostToMake, Example, Finish, Model, Request, System

GRADES = ("1", "2", "3", "4", "5")
SHORTEST, LONGEST_INSTRUCTION = 3, 80  # words of an instruction

OK = "usable"

# "The request was to explain …": a model tells of the instruction, where it should write it.
_TOLD = re.compile(
    r"(?:the )?(?:request|instruction|prompt)(?:(?: was| is)?\s*:|(?: was| is) to\b)\s*", re.IGNORECASE
)


def read_texts(path: Path | None, field: str, limit: int | None) -> tuple[str, ...]:
    """The different texts of a file, in its order, white space at their ends cut off.

    Args:
        path: a .jsonl, .csv or .parquet file, or a text whose paragraphs blank lines part; None is the project's
            own general text.
        field: of a row, holds its text; of a file of paragraphs it says nothing.
        limit: how many, the first ones; None is all.

    Raises:
        UserError: the file cannot be read or holds no text, a row is at fault, or there are fewer texts.
    """
    source = path or GENERAL_TEXT
    if source.suffix in FILES:
        found = [text_field(str(source), number, row, field) for number, row in iterate_rows(str(source))]
    else:
        try:
            whole = source.read_text(encoding="utf-8-sig")
        except (OSError, UnicodeDecodeError) as error:
            raise UserError(f"The text {str(source)!r} could not be read as UTF-8: {error}.") from error
        found = re.split(r"\n[ \t]*\n", whole)
    texts = tuple(dict.fromkeys(text.strip() for text in found if text.strip()))
    if not texts:
        raise UserError(f"{str(source)!r} holds no text.")
    if limit is not None:
        check_range("limit", limit, 1, len(texts))
    return texts[:limit]


def cleaned(completion: Completion, text: str) -> tuple[str, str]:
    """The instruction in a completion and `OK`, or an empty one and why there is none.

    Its white space is folded; quotes around it and a leading "Request:" or "The request was to" are taken off. It
    must be whole, of 3 to 80 words, of printable characters, and may not recite the text's first words, its
    answer.
    """
    if completion.finish is Finish.ERROR:
        return "", lasting(str(completion.error)) or "request failed"
    if completion.finish is Finish.LENGTH:
        return "", "cut off"
    said = " ".join(completion.text.split())
    if told := _TOLD.match(said):
        said = said[told.end() :]
        said = said[:1].upper() + said[1:]
    if len(said) > 1 and said[0] + said[-1] in ('""', "“”", "''"):
        said = said[1:-1].strip()
    words = len(said.split())
    faults = {
        "too short": words < SHORTEST,
        "too long": words > LONGEST_INSTRUCTION,
        "characters that cannot be printed": not said.isprintable() or "\ufffd" in said,
        "recites the text": " ".join(text.casefold().split()[:8]) in said.casefold(),
    }
    fault = next((name for name, found in faults.items() if found), None)
    return ("", fault) if fault else (said, OK)


@dataclass(frozen=True)
class Score:
    """What a model thinks of a pair of instruction and text.

    Attributes:
        value: the expectation of the grade, 1 to 5.
        probabilities: of the grades 1, 2, 3, 4, 5, renormalised over them.
    """

    value: float
    probabilities: tuple[float, ...]

    @property
    def entropy(self) -> float:
        """Of the probabilities, nats; ln 5 = 1.609 is no opinion."""
        return entropy(self.probabilities)


def score_of(completions: Sequence[Completion]) -> Score | None:
    """The score from the log-probabilities of the grades as answers; None where one is missing."""
    found = {c.text: c.logprob for c in completions if c.finish is not Finish.ERROR and c.logprob is not None}
    if not all(grade in found for grade in GRADES):
        return None
    shares = label_probabilities([found[grade] for grade in GRADES]).tolist()
    return Score(sum(int(grade) * p for grade, p in zip(GRADES, shares, strict=True)), tuple(shares))


def scores(
    model: Model, pairs: Sequence[tuple[str, str]], prompt: str, drawer: Drawer
) -> tuple[list[Score | None], Counter[str], CostToMake]:
    """The score of each pair of instruction and text, in their order; requests that failed for good; the cost.

    Nothing is generated: the grades are scored as continuations, so that a model that would rather talk still
        grades.

    Args:
        model: the judge.
        pairs: instructions with texts.
        prompt: a prompt with the variables `input` and `answer`.
        drawer: draws.

    Raises:
        UserError: the prompt has not these variables, requests failed that may pass, or the server died.
    """
    template = load_prompt(prompt)
    asking = System(model, template, LabelLikelihood())
    requests = []
    for instruction, text in pairs:
        messages = render(template, Example.make(instruction, "", variables={"answer": text}))
        requests.append(Request(short_hash(messages), messages, style=template.style))
    drawn = drawer.draw(asking, list({r.id: r for r in requests}.values()), "scores", GRADES)
    # One completion a request, which failed where any did.
    told = [next((c for c in f if c.finish is Finish.ERROR), f[0]) for f in drawn.completions.values()]
    return (
        [score_of(drawn.completions[r.id]) for r in requests],
        failures(told, "scores", answered=True),
        drawn.cost,
    )
