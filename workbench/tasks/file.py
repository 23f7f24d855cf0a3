"""Your own data: a JSONL, CSV or Parquet file or a Hub data set, with its fields and grader named by you.

On the command line by arguments (path=… input=… target=… grader=…), or in a YAML file with the same keys,
whose path stands in place of the task's name.
"""

import importlib.util
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from workbench.errors import UserError
from workbench.tasks.base import Grade, Task, make_task, split_of, take
from workbench.tasks.graders import Grader, grade_exact, grade_number, label_grader, regex_grader
from workbench.tasks.numbers import find_expression, read_number
from workbench.tasks.rows import Row, bad_row, hub_rows, read_rows, text_field
from workbench.types import Example, text_hash

SPLITS = {
    "practice": "practice", "train": "practice",
    "dev": "dev", "validation": "dev", "valid": "dev",
    "test": "test",
}  # fmt: skip


@dataclass(frozen=True)
class Config:
    """Where the data are, what their fields mean, and how an answer is judged.

    Attributes:
        path: a .jsonl, .csv or .parquet file. In a YAML file it is relative to that file's folder.
        hub: a Hub data set in the place of a file, as owner/name; all of its splits are read.
        subset: the Hub data set's configuration, where it has several.
        input, target, rationale: the fields of the question, the answer and (if any) the worked solution.
        split: the field that says practice/train, dev/validation or test; a Hub data set has `split`. None
            splits by the hash of the question.
        grader: `exact` (the whole text), `number`, `label`, `regex` (the pattern's last match) or `python`.
        labels: the classes, for `label`; none given takes them from the data.
        pattern: the regular expression, for `regex`; its first group, if it has one, is the answer.
        function: `file.py:name`, for `python`: called with (text, example), it returns the answer as text,
            None where there is none, or a `workbench.tasks.base.Grade`. It runs as part of this program.
        prompt: None takes `classify` for labels, which may use the variable `labels`, and `question` else.
        max_tokens: the longest answer that is waited for.
        practice, dev, test: questions in each split; None takes all.
    """

    path: str | None = None
    hub: str | None = None
    subset: str | None = None
    input: str = "input"
    target: str = "target"
    rationale: str | None = None
    split: str | None = None
    grader: Literal["exact", "number", "label", "regex", "python"] = "exact"
    labels: tuple[str, ...] = ()
    pattern: str | None = None
    function: str | None = None
    prompt: str | None = None
    max_tokens: int = 256
    practice: int | None = None
    dev: int | None = None
    test: int | None = None

    def __post_init__(self) -> None:
        if (self.path is None) == (self.hub is None):
            raise UserError("The task 'file' needs either path=… (a data file) or hub=… (a Hub data set).")
        for needed, grader in (("pattern", "regex"), ("function", "python")):
            if (getattr(self, needed) is not None) != (self.grader == grader):
                raise UserError(f"{needed}=… goes with grader={grader}, and grader={grader} needs it.")
        if self.labels and self.grader != "label":
            raise UserError("labels=… goes with grader=label.")


def load(config: Config) -> Task:
    """Read every row, then split them.

    Raises:
        UserError: the data, the grader or a size is wrong; a bad row is named with its field.
    """
    source = config.path or config.hub or ""
    rows = read_rows(config.path) if config.path else hub_rows(source, config.subset)
    labels = config.labels
    if config.grader == "label" and not labels:
        labels = tuple(sorted({text_field(source, n, row, config.target).strip() for n, row in rows}))
    grade = _grader(config, labels)
    splits = _split(config, source, rows, labels)
    settings = asdict(config) | {"labels": list(labels)}
    del settings["path"]
    if config.function is not None:
        file, _, name = config.function.rpartition(":")
        settings["function"] = f"{text_hash(Path(file).read_text(encoding='utf-8'))}:{name}"
    return make_task(
        "file",
        settings=settings,
        splits=take(splits, config.practice, config.dev, config.test),
        grade=grade,
        prompt=config.prompt or ("classify" if labels else "question"),
        labels=labels,
        max_tokens=config.max_tokens,
    )


def _split(
    config: Config, source: str, rows: list[Row], labels: tuple[str, ...]
) -> dict[str, tuple[Example, ...]]:
    """The examples of each split, in the order of their ids, so that the first n are a fair sample."""
    splits: dict[str, list[Example]] = {"practice": [], "dev": [], "test": []}
    first: dict[str, tuple[int, str]] = {}
    for number, row in rows:
        example = _example(config, source, number, row, labels)
        row_before, target_before = first.setdefault(example.id, (number, example.target))
        if row_before != number:
            how = "the same answer" if target_before == example.target else "another answer"
            raise bad_row(source, number, f"row {row_before} asks the same question with {how}", config.input)
        place = split_of(example)
        if config.split is not None:
            named = text_field(source, number, row, config.split)
            if named not in SPLITS:
                raise bad_row(source, number, f"{named!r} is not one of {', '.join(SPLITS)}", config.split)
            place = SPLITS[named]
        splits[place].append(example)
    return {name: tuple(sorted(examples, key=lambda e: e.id)) for name, examples in splits.items()}


def _example(config: Config, source: str, number: int, row: dict[str, Any], labels: tuple[str, ...]) -> Example:
    question = text_field(source, number, row, config.input)
    target = text_field(source, number, row, config.target).strip()
    if labels:
        spelling = {label.casefold(): label for label in labels}
        if target.casefold() not in spelling:
            raise bad_row(source, number, f"{target!r:.60} is not one of {', '.join(labels)}", config.target)
        target = spelling[target.casefold()]
    if config.grader == "number" and read_number(target) is None and find_expression(target) is None:
        raise bad_row(source, number, f"{target!r:.60} is no number", config.target)
    rationale = ""
    if config.rationale is not None:
        rationale = text_field(source, number, row, config.rationale)
    return Example.make(question, target, rationale, {"labels": ", ".join(labels)} if labels else None)


def _grader(config: Config, labels: tuple[str, ...]) -> Grader:
    if config.grader == "label":
        return label_grader(labels)
    if config.pattern is not None:
        return regex_grader(config.pattern)
    if config.function is not None:
        return _python_grader(config.function)
    return {"exact": grade_exact, "number": grade_number}[config.grader]


def _python_grader(where: str) -> Grader:
    """The user's own function as a grader; what it raises or returns wrongly names the function."""
    file, _, name = where.rpartition(":")
    if not file.endswith(".py") or not Path(file).is_file():
        raise UserError(f"function is {where!r}; it must be file.py:name, with a file that exists.")
    module_name = f"workbench_user_{text_hash(str(Path(file).resolve()))}"
    spec = importlib.util.spec_from_file_location(module_name, file)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[module_name] = module  # dataclasses and pickle look their module up by name
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        raise UserError(f"{file} cannot be imported: {type(error).__name__}: {error}") from error
    function: Callable[[str, Example], object] | None = getattr(module, name, None)
    if not callable(function):
        raise UserError(f"{file} has no function {name!r}.")

    def grade(text: str, example: Example) -> Grade:
        try:
            answer = function(text, example)
        except Exception as error:
            problem = f"{type(error).__name__}: {error}"
            raise UserError(f"{where} failed on the question {example.input[:80]!r}: {problem}") from error
        if isinstance(answer, Grade):
            return Grade(answer.answer, answer.correct and answer.answer is not None)
        if answer is not None and not isinstance(answer, str):
            raise UserError(f"{where} returned {answer!r:.60}; it must return text, None or a Grade.")
        return Grade(answer, answer is not None and answer == example.target)

    return grade
