"""The votes as they are kept, a file a visitor, and what they add up to: win rates, strengths, preference pairs.

`votes.jsonl` is as `preferring/votes.py` reads it. Beside what that needs, a row says who stood left and right
(`left_system`, `right_system`), how each answer ended, the task and the question, and whether an answer named its
model (`names_itself`).
"""

import json
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from workbench.errors import UserError
from workbench.files import append_line, json_bytes
from workbench.preferring.bias import share
from workbench.preferring.pairs import Pair, write_pairs
from workbench.preferring.votes import vote_pair
from workbench.types import Interval

Row = dict[str, Any]

_POINTS = {"left": 1.0, "tie": 0.5, "right": 0.0}


def votes_file(home: Path) -> Path:
    """Where a visitor's votes are."""
    return home / "votes.jsonl"


def keep(home: Path, row: Row) -> None:
    """Add a vote to a visitor's.

    Raises:
        UserError: it cannot be written.
    """
    file = votes_file(home)
    try:
        home.mkdir(parents=True, exist_ok=True)
        torn = file.is_file() and file.stat().st_size and not _ends_in_line(file)
    except OSError as error:
        raise UserError(f"{file} could not be written: {error.strerror or error}.") from error
    # Behind a line that a killed process left half-written, the next one begins on a line of its own.
    append_line(file, (b"\n" if torn else b"") + json_bytes(row))


def _ends_in_line(file: Path) -> bool:
    with file.open("rb") as lines:
        lines.seek(-1, 2)
        return lines.read(1) == b"\n"


def kept(home: Path) -> list[Row]:
    """A visitor's votes, in their order. A line that is damaged is left out."""
    try:
        lines = votes_file(home).read_bytes().splitlines()
    except OSError:  # there are none yet
        return []
    rows = []
    for line in lines:
        try:
            row = json.loads(line)
            vote_pair("", 0, row)
            if all(row[f"{side}_system"][name] for side in _SIDES for name in ("key", "label", "hash")):
                rows.append(row)
        except (UserError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
            continue
    return rows


def pairs_file(home: Path, named: bool) -> tuple[Path, list[Pair]]:
    """The file of the votes as preference pairs, made anew, and the pairs; `workbench dpo --pairs` reads it.

    Args:
        home: the visitor's folder.
        named: take votes on answers that name their model too.

    Raises:
        UserError: the file cannot be written.
    """
    found = [vote_pair("", 0, row) for row in kept(home) if named or not row.get("names_itself")]
    pairs = [pair for pair in found if pair]
    file = home / "pairs.jsonl"
    write_pairs(file, pairs)
    return file, pairs


@dataclass(frozen=True)
class Standing:
    """What the votes say of one model.

    Attributes:
        key, label: which, as in the catalogue.
        systems: as how many Systems it answered: with another prompt, temperature or length it is another one.
        wins, losses, ties, both_bad: votes.
        equal: votes for a side between two equal texts, which say nothing.
        rate: wins among wins and losses, with its interval over questions.
        strength: Bradley-Terry on the Elo scale with its bootstrap interval over questions, a tie as half a win
            each; None where the votes cannot tell yet.
    """

    key: str
    label: str
    systems: int
    wins: int
    losses: int
    ties: int
    both_bad: int
    equal: int
    rate: Interval
    strength: Interval | None

    @property
    def votes(self) -> int:
        """All in which it took part."""
        return self.wins + self.losses + self.ties + self.both_bad + self.equal


@dataclass(frozen=True)
class Standings:
    """What all votes say.

    Attributes:
        rows: the strongest first; where that is not told, the one with the highest win rate.
        votes: how many are counted.
        left_out: votes on answers that named their model, if they are not counted.
        left: share of the left side among decided votes, with its interval over questions: 0.5 is no position
            bias.
        decided: votes for a side, of two texts that differ.
        equal: votes for a side between two equal texts: in no rate, and in no strength.
    """

    rows: tuple[Standing, ...]
    votes: int
    left_out: int
    left: Interval
    decided: int
    equal: int


def standings(rows: Sequence[Row], named: bool = False) -> Standings:
    """What votes add up to. Votes on one question are not independent, so that intervals are over questions.

    Args:
        rows: votes.
        named: count votes on answers that name their model too.
    """
    from workbench.stats import bradley_terry

    counted = [row for row in rows if named or not row.get("names_itself")]
    labels = {row[f"{side}_system"]["key"]: row[f"{side}_system"]["label"] for row in counted for side in _SIDES}
    place = {key: number for number, key in enumerate(labels)}
    played = [row for row in counted if _ending(row) in _POINTS]
    games = [
        (place[row["left_system"]["key"]], place[row["right_system"]["key"]], _POINTS[row["vote"]])
        for row in played
    ]
    # Who has been in no such vote is not among those who are compared.
    met = sorted({player for *pair, _ in games for player in pair})
    strengths = bradley_terry(
        len(met),
        [(met.index(left), met.index(right), points) for left, right, points in games],
        [_question(row) for row in played],
    )
    strength = dict(zip(met, strengths or [], strict=False))
    told = [_standing(counted, key, labels[key], strength.get(place[key])) for key in labels]
    told.sort(key=lambda one: (-(one.strength.value if one.strength else 0.0), -one.rate.value, one.label))
    left, decided = _share(counted, lambda row: "left")
    equal = sum(_ending(row) == "equal" for row in counted)
    return Standings(tuple(told), len(counted), len(rows) - len(counted), left, decided, equal)


_SIDES = ("left", "right")


def _standing(counted: Sequence[Row], key: str, label: str, strength: Interval | None) -> Standing:
    """One model's, of all votes that are counted."""
    own = [(row, side) for row in counted for side in _SIDES if row[f"{side}_system"]["key"] == key]
    endings = Counter("won" if _ending(row) == side else _ending(row) for row, side in own)
    rate, _ = _share([row for row, _ in own], lambda row: _side_of(row, key))
    return Standing(
        key,
        label,
        len({row[f"{side}_system"]["hash"] for row, side in own}),
        endings["won"],
        endings["left"] + endings["right"],
        endings["tie"],
        endings["both bad"],
        endings["equal"],
        rate,
        strength,
    )


def _side_of(row: Row, key: str) -> str:
    return "left" if row["left_system"]["key"] == key else "right"


def _ending(row: Row) -> str:
    """The vote; `equal` where it is for a side and both texts are the same."""
    return "equal" if row["vote"] in _SIDES and row["left"] == row["right"] else str(row["vote"])


def _question(row: Row) -> str:
    """What was asked, equal where a pair's `group` is."""
    return json.dumps(row["prompt"])


def _share(rows: Iterable[Row], side: Callable[[Row], str]) -> tuple[Interval, int]:
    """(share of the decided votes that are for a side, how many are decided)."""
    decided = [row for row in rows if _ending(row) in _SIDES]
    hits = [float(row["vote"] == side(row)) for row in decided]
    return share(hits, [_question(row) for row in decided]), len(decided)
