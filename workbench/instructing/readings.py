"""`readings.csv`: ten examples of a data set, drawn by chance, for a person to read and to judge.

The recipe writes it with the examples' ids. Where a person has put yes or no into the column `good` (does the
answer do what was asked, and is it right?), the same command, run again, makes the report anew with the verdicts.
"""

import csv
import io
import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from workbench.files import write_atomic
from workbench.made_data import Made
from workbench.stats import wilson_interval
from workbench.tasks.rows import bad_row, read_rows

SHOWN = 10
FILE = "readings.csv"
VERDICTS = {"yes": True, "no": False, "": None}


@dataclass(frozen=True)
class Reading:
    """An example, and what a person says of it; `good` is None where nobody has said anything."""

    example: Made
    good: bool | None
    remark: str


def readings(folder: Path, examples: Sequence[Made]) -> list[Reading]:
    """The examples that are drawn, with the verdicts of the folder's `readings.csv`, which is written if missing.

    Raises:
        UserError: the file cannot be read, names another example, or has another verdict than yes and no.
    """
    chosen = random.Random("examples to read").sample(examples, min(SHOWN, len(examples)))
    path = folder / FILE
    if not path.exists():
        text = io.StringIO()
        csv.writer(text, lineterminator="\n").writerows(
            [("id", "good", "remark"), *((e.id, "", "") for e in chosen)]
        )
        write_atomic(path, text.getvalue().encode())
    said: dict[str, tuple[bool | None, str]] = {}
    for number, row in read_rows(str(path)):
        id, good = str(row.get("id") or ""), str(row.get("good") or "").strip().lower()
        if id not in {e.id for e in chosen}:
            raise bad_row(str(path), number, f"{id!r} is not one of the {len(chosen)} examples to read", "id")
        if good not in VERDICTS:
            raise bad_row(str(path), number, f"it is {good!r}; it must be yes, no or empty", "good")
        said[id] = VERDICTS[good], str(row.get("remark") or "")
    return [Reading(e, *said.get(e.id, (None, ""))) for e in chosen]


def told(read: Sequence[Reading]) -> str:
    """What the verdicts come to, as a sentence."""
    verdicts = [reading.good for reading in read if reading.good is not None]
    if not verdicts:
        return f"Nobody has judged the examples yet: {FILE} in the run's folder is where to say yes or no."
    share = wilson_interval(sum(verdicts), len(verdicts))
    return (
        f"Of {len(verdicts)} examples drawn by chance a person found {sum(verdicts)} good "
        f"(95 % interval {100 * share.low:.0f} – {100 * share.high:.0f} %)."
    )
