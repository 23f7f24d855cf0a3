"""Pairs from a constitution: a model criticises its own answer by a principle and rewrites it, which is chosen.

The supervised part of constitutional AI (Bai et al. 2022, arXiv 2212.08073, §3.1). A principle is drawn for each
answer. Where it departs from the paper: one round of critique and revision, where theirs were up to four; no
exemplars of critiques; the questions are the task's, where theirs were written to draw out harm; and the revisions
are also the chosen side of pairs, where the paper only fine-tunes on them and asks a judge for preferences.
"""

import random
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from workbench.decodes import Sample
from workbench.drawing import Drawer
from workbench.errors import UserError
from workbench.made_data import Made
from workbench.preferring.answers import Answered, asked, usable
from workbench.preferring.pairs import Pair
from workbench.prompts import FOLDER, load_prompt
from workbench.tasks.rows import bad_row, read_rows, text_field
from workbench.training.card import together
from workbench.types import Completion, CostToMake, Finish, Model, Prompt, System

OWN = FOLDER / "constitution.jsonl"
"""The principles that ship."""

PROMPTS = ("constitution-critique", "constitution-revise")


def read_principles(path: str | Path) -> list[str]:
    """The principles of a .jsonl, .csv or .parquet file: its field `principle`, one a row.

    Raises:
        UserError: the file cannot be read, or a row has no principle or one that is there already.
    """
    source = str(path)
    principles: list[str] = []
    for number, row in read_rows(source):
        principle = text_field(source, number, row, "principle").strip()
        if principle in principles:
            raise bad_row(source, number, f"row {principles.index(principle) + 1} has it already", "principle")
        principles.append(principle)
    return principles


def check_prompt(prompt: Prompt) -> None:
    """Refuse a prompt whose answers would begin inside it, which revisions do not.

    Raises:
        UserError: its last message is the assistant's.
    """
    if prompt.messages[-1].role == "assistant":
        raise UserError(
            f"The prompt {prompt.name!r} begins the answer itself, and a revision is a whole answer. Use a prompt "
            "that ends in a user's message."
        )


def constitution_pairs(
    answered: Sequence[Answered],
    style: str,
    model: Model,
    principles: Sequence[str],
    per_question: int,
    tokens: int,
    temperature: float,
    seed: int,
    drawer: Drawer,
) -> tuple[list[Pair], list[Made], Counter[str], CostToMake]:
    """(pairs, rows for fine-tuning on the revisions, counts, cost) of the first whole answers of each question.

    Left out and counted: answers whose critique or revision failed, was cut off or is empty, and revisions that
    are the answer itself. A pair has no margin: nobody judged it.

    Args:
        answered: the questions with their answers.
        style: of the prompt that the answers follow.
        model: criticises and revises.
        principles: one is drawn for each answer.
        per_question: answers of a question that are revised, at most.
        tokens: the longest critique or revision that is waited for.
        temperature: of critiques and revisions.
        seed: of the principles and of the samples.
        drawer: draws what the store does not hold.

    Raises:
        UserError: as `Drawer.draw`.
    """
    decode = Sample(1, temperature, max_tokens=tokens, seed=seed)
    critique, revise = map(load_prompt, PROMPTS)
    counts: Counter[str] = Counter()
    counts["questions without a whole answer"] = sum(not one.whole for one in answered)
    drafts = [(one, text) for one in answered for text in one.whole[:per_question]]
    drawn = [random.Random(f"{seed}:{one.example.id}:{text}").choice(principles) for one, text in drafts]
    asks = [
        asked(critique, one.example, answer=text, principle=principle)
        for (one, text), principle in zip(drafts, drawn, strict=True)
    ]
    criticised = drawer.draw(System(model, critique, decode), asks, "critiques")
    open_ = []
    for (one, text), principle, request in zip(drafts, drawn, asks, strict=True):
        said = _kept(criticised.completions[request.id][0], "critiques", counts)
        if said is not None:
            rewrite = asked(revise, one.example, answer=text, principle=principle, critique=said)
            open_.append((one, text, principle, said, rewrite))
    revised = drawer.draw(System(model, revise, decode), [request for *_, request in open_], "revisions")
    pairs: list[Pair] = []
    made: list[Made] = []
    for one, text, principle, said, request in open_:
        better = _kept(revised.completions[request.id][0], "revisions", counts)
        if better is None:
            continue
        if better.strip() == text.strip():
            counts["revisions that change nothing"] += 1
            continue
        source = {"kind": "constitution", "principle": principle, "critique": said}
        pairs.append(Pair(one.prompt, style, better, text, None, one.example.id, source))
        made.append(Made(f"{one.example.id}-{len(made)}", one.prompt, better, {**source, "draft": text}))
    counts["questions with pairs"] = len({pair.group for pair in pairs})
    return pairs, made, counts, together([criticised.cost, revised.cost])


def _kept(completion: Completion, what: str, counts: Counter[str]) -> str | None:
    """The text of a whole completion, else None, counted."""
    if completion.finish is Finish.STOP and usable(completion.text):
        return completion.text.strip()
    why = {Finish.ERROR: "that failed", Finish.LENGTH: "cut off"}.get(completion.finish, "without a text")
    counts[f"{what} {why}"] += 1
    return None
