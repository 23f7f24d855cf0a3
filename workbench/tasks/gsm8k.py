"""GSM8K: grade-school word problems with worked solutions (Cobbe et al. 2021, arXiv 2110.14168; MIT licence).

The authors' test file is `test`. Their training file is split into `practice` and `dev` by content hash, less
any question that also stands in test. Rationales are the authors' solutions without the calculator's marks
`<<48/2=24>>`; they end in the line "#### N".
"""

import re
from dataclasses import asdict, dataclass
from pathlib import Path

from workbench.tasks.base import Task, make_task, split_of, take
from workbench.tasks.graders import grade_number
from workbench.tasks.numbers import read_number
from workbench.tasks.rows import Row, bad_row, hub_rows, read_rows, text_field
from workbench.types import Example

HUB_NAME = "openai/gsm8k"
DEV_SHARE = 0.1
_MARK = re.compile(r"<<[^<>]*>>")


@dataclass(frozen=True)
class Config:
    """Where the data come from, and how many questions are used.

    Attributes:
        path: a folder with the authors' train.jsonl and test.jsonl; None takes the Hub's openai/gsm8k.
        practice, dev, test: questions in each split; None takes all.
    """

    path: str | None = None
    practice: int | None = None
    dev: int | None = 200
    test: int | None = None


def load(config: Config) -> Task:
    """The task, from a local folder or the Hub.

    Raises:
        UserError: a file is missing, a row is bad, a size is more than there is, or the Hub fails.
    """
    if config.path is not None:
        train, test = (_examples(str(file), read_rows(str(file))) for file in _files(config.path))
    else:
        rows = hub_rows(HUB_NAME, "main", "Or give a folder with train.jsonl and test.jsonl: path=…")
        train = _examples(HUB_NAME, [row for row in rows if row[1]["split"] == "train"])
        test = _examples(HUB_NAME, [row for row in rows if row[1]["split"] == "test"])
    kept = {id: train[id] for id in sorted(train) if id not in test}
    places = {id: split_of(example, practice=1 - DEV_SHARE, dev=DEV_SHARE) for id, example in kept.items()}
    splits = {name: tuple(e for id, e in kept.items() if places[id] == name) for name in ("practice", "dev")}
    splits["test"] = tuple(test[id] for id in sorted(test))
    settings = asdict(config) | {"dropped_from_train": len(train) - len(kept)}
    del settings["path"]
    taken = take(splits, config.practice, config.dev, config.test)
    return make_task("gsm8k", settings=settings, splits=taken, grade=grade_number, prompt="gsm8k")


def _files(folder: str) -> tuple[Path, Path]:
    return Path(folder) / "train.jsonl", Path(folder) / "test.jsonl"


def _examples(source: str, rows: list[Row]) -> dict[str, Example]:
    """Examples by id; a question that is there twice with one answer is kept once."""
    examples: dict[str, Example] = {}
    for number, row in rows:
        question = text_field(source, number, row, "question")
        rationale = _MARK.sub("", text_field(source, number, row, "answer")).strip()
        target = read_number(rationale.rpartition("####")[2]) if "####" in rationale else None
        if target is None:
            raise bad_row(source, number, "it must end in a line '#### N' with a number N", "answer")
        example = Example.make(question, target, rationale)
        if examples.setdefault(example.id, example).target != target:
            raise bad_row(source, number, "the question is there twice with different answers", "question")
    return examples
