"""Financial PhraseBank: the sentiment of sentences from financial news (Malo et al. 2014, arXiv 1307.5336).

Licence: CC BY-NC-SA 3.0. 4,846 sentences, labelled from an investor's point of view; four files, one inside
the other, keep those that all, 75 %, 66 % or 50 % of the annotators agreed on. A sentence's split is the hash
of its text, so it is the same in all four. Of sentences that stand there twice one is kept, or none where the
labels differ; the settings count both.
"""

import io
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from workbench.errors import UserError
from workbench.tasks.base import Task, make_task, split_examples, take
from workbench.tasks.graders import label_grader
from workbench.tasks.rows import bad_row
from workbench.types import Example

LABELS = ("negative", "neutral", "positive")
HUB_NAME = "takala/financial_phrasebank"
# The Hub data set is a loading script, which `datasets` no longer runs, around the authors' own archive.
ARCHIVE = "data/FinancialPhraseBank-v1.0.zip"
FILES = {
    "all": "Sentences_AllAgree.txt",
    "75": "Sentences_75Agree.txt",
    "66": "Sentences_66Agree.txt",
    "50": "Sentences_50Agree.txt",
}


@dataclass(frozen=True)
class Config:
    """Which sentences, where they come from, and how many are used.

    Attributes:
        agreement: how many of the annotators agreed, in percent, at least.
        path: a folder with the authors' four .txt files; None takes them from the Hub data set.
        practice, dev, test: sentences in each split; None takes all.
    """

    agreement: Literal["all", "75", "66", "50"] = "all"
    path: str | None = None
    practice: int | None = None
    dev: int | None = None
    test: int | None = None


def load(config: Config) -> Task:
    """The task, from a local folder or the Hub.

    Raises:
        UserError: the file is missing or a row is bad, a size is more than there is, or the Hub fails.
    """
    name = FILES[config.agreement]
    content = _hub_file(name) if config.path is None else _local_file(Path(config.path) / name)
    examples, repeated, conflicting = parse(name, content)
    settings = {
        "agreement": config.agreement,
        "practice": config.practice,
        "dev": config.dev,
        "test": config.test,
        "repeated": repeated,
        "conflicting": conflicting,
    }
    return make_task(
        "phrasebank",
        settings=settings,
        splits=take(split_examples(examples), config.practice, config.dev, config.test),
        grade=label_grader(LABELS),
        prompt="phrasebank",
        labels=LABELS,
        max_tokens=8,
    )


def parse(source: str, content: bytes) -> tuple[list[Example], int, int]:
    """The examples of a file of lines `sentence@label`, and how many rows were repeated and conflicting.

    The files are ISO-8859-1 with CRLF ends and stray CRs; a sentence may have an @ of its own.

    Raises:
        UserError: a line has no sentence or none of the labels; the row is named.
    """
    examples: dict[str, Example] = {}
    conflicting: set[str] = set()
    rows = 0
    for number, line in enumerate(content.decode("iso-8859-1").split("\n"), start=1):
        if not line.strip():
            continue
        sentence, _, label = (part.strip() for part in line.replace("\r", " ").rpartition("@"))
        if label not in LABELS:
            raise bad_row(source, number, f"{label!r:.60} is not one of {', '.join(LABELS)}", "label")
        if not sentence:
            raise bad_row(source, number, "the field is empty", "sentence")
        rows += 1
        example = Example.make(sentence, label)
        if examples.setdefault(example.id, example).target != label:
            conflicting.add(example.id)
    kept = [example for id, example in examples.items() if id not in conflicting]
    return kept, rows - len(examples), len(conflicting)


def _local_file(path: Path) -> bytes:
    if not path.is_file():
        raise UserError(
            f"There is no file {str(path)!r}; path must be the folder with {', '.join(FILES.values())}."
        )
    return path.read_bytes()


def _hub_file(name: str) -> bytes:
    from huggingface_hub import hf_hub_download

    try:
        archive = Path(hf_hub_download(HUB_NAME, ARCHIVE, repo_type="dataset")).read_bytes()
    # The Hub client raises its own errors, its HTTP library's and the system's, with no common class.
    except Exception as error:
        raise UserError(
            f"{ARCHIVE} of the Hub data set {HUB_NAME!r} cannot be fetched ({type(error).__name__}) and is "
            "not in the cache. Fetch it once with a network, or unpack the authors' archive and give its "
            "folder: path=…"
        ) from error
    with zipfile.ZipFile(io.BytesIO(archive)) as files:
        return files.read(next(member for member in files.namelist() if member.endswith("/" + name)))
