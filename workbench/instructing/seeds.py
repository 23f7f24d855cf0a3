"""Seed tasks in the format of Self-Instruct's authors: an instruction, instances, and whether it classifies."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from workbench.errors import UserError
from workbench.inert import is_utf8
from workbench.prompts import FOLDER
from workbench.tasks.rows import bad_row, iterate_rows, text_field

SEEDS = FOLDER / "self-instruct-seeds.jsonl"


@dataclass(frozen=True)
class Instance:
    """One case of an instruction.

    Attributes:
        input: what the instruction is applied to; empty where it needs nothing.
        output: what a good answer is.
    """

    input: str
    output: str


@dataclass(frozen=True)
class Seed:
    """A task that a person wrote.

    Attributes:
        id: its own in the file.
        instruction: what is to be done.
        instances: one or more.
        is_classification: whether the outputs are a few labels.
    """

    id: str
    instruction: str
    instances: tuple[Instance, ...]
    is_classification: bool


def read_seeds(path: Path | None, least: int) -> list[Seed]:
    """The tasks of a file, in its order; without a path those that ship.

    Args:
        path: rows with `id`, `instruction`, `instances` (each with `input` and `output`) and `is_classification`;
            other fields are passed over.
        least: so many must be there, among them one that classifies and one that does not.

    Raises:
        UserError: the file cannot be read, holds too few, or a row is at fault; the message names row and field.
    """
    source = str(path or SEEDS)
    seeds: dict[str, Seed] = {}
    for number, row in iterate_rows(source):
        id = text_field(source, number, row, "id")
        if id in seeds:
            raise bad_row(source, number, f"another row has the id {id!r}", "id")
        classifies = row.get("is_classification")
        if not isinstance(classifies, bool):
            raise bad_row(source, number, "it must be true or false", "is_classification")
        instruction = " ".join(text_field(source, number, row, "instruction").split())
        seeds[id] = Seed(id, instruction, _instances(source, number, row), classifies)
    kinds = {seed.is_classification for seed in seeds.values()}
    if len(seeds) < least or len(kinds) < 2:
        raise UserError(
            f"{source} has {len(seeds)} seed tasks; it takes at least {least}, among them one with "
            "is_classification true and one with false."
        )
    return list(seeds.values())


def _instances(source: str, number: int, row: dict[str, Any]) -> tuple[Instance, ...]:
    given = row.get("instances")
    if not isinstance(given, list) or not given:
        problem = "it must be a list of instances, each with 'input' and 'output'"
        raise bad_row(source, number, problem, "instances")
    found = []
    for place, item in enumerate(given):
        texts = [item.get(key) for key in ("input", "output")] if isinstance(item, dict) else []
        whole = [text.strip() for text in texts if isinstance(text, str) and is_utf8(text)]
        if len(whole) != 2:
            problem = "it must have an 'input' and an 'output', both text in UTF-8"
            raise bad_row(source, number, problem, f"instances[{place}]")
        if not whole[1]:
            raise bad_row(source, number, "the output is empty", f"instances[{place}]")
        found.append(Instance(whole[0], whole[1]))
    return tuple(found)
