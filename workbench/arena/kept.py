"""The votes as they are kept, a file a visitor, and what they add up to: win rates, strengths, preference pairs.

`votes.jsonl` is as `preferring/votes.py` reads it. Beside what that needs, a row says who stood left and right
(`left_system`, `right_system`), how each answer ended, the task and the question, and whether an answer named its
model (`names_itself`).
"""

import json
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from workbench.errors import UserError
from workbench.files import append_line, json_bytes
from workbench.preferring.pairs import write_pairs
from workbench.preferring.votes import read_votes
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
            if row["left_system"]["key"] and row["right_system"]["key"]:
                rows.append(row)
        except (ValueError, KeyError, TypeError, RecursionError):
            continue
    return rows


def pairs_file(home: Path, named: bool) -> tuple[Path, int]:
    """The file of the votes as preference pairs, made anew, and how many it has; `workbench dpo --pairs` reads it.

    Args:
        home: the visitor's folder.
        named: take votes on answers that name their model too.

    Raises:
        UserError: there is no vote, a row is damaged, or the file cannot be written.
    """
    found, _, _ = read_votes(votes_file(home))
    pairs = [pair for pair in found if named or not pair.source.get("names_itself")]
    file = home / "pairs.jsonl"
    write_pairs(file, pairs)
    return file, len(pairs)


@dataclass(frozen=True)
class Standing:
    """What the votes say of one model.

    Attributes:
        key, label: which, as in the catalogue.
        wins, losses, ties, both_bad: votes.
        rate: wins among the votes for a side, ties and both bad left out, with Wilson's interval.
        strength: Bradley-Terry on the Elo scale with its bootstrap interval, a tie as half a win each; None where
            the votes cannot tell yet.
    """

    key: str
    label: str
    wins: int
    losses: int
    ties: int
    both_bad: int
    rate: Interval
    strength: Interval | None

    @property
    def votes(self) -> int:
        """All in which it took part."""
        return self.wins + self.losses + self.ties + self.both_bad


@dataclass(frozen=True)
class Standings:
    """What all votes say.

    Attributes:
        rows: the strongest first; where that is not told, the one with the highest win rate.
        votes: how many are counted.
        left_out: votes on answers that named their model, if they are not counted.
        left: share of the left side among votes for a side, with Wilson's interval: 0.5 is no position bias.
        decided: votes for a side.
    """

    rows: tuple[Standing, ...]
    votes: int
    left_out: int
    left: Interval
    decided: int


def standings(rows: Sequence[Row], named: bool = False) -> Standings:
    """What votes add up to.

    Args:
        rows: votes.
        named: count votes on answers that name their model too.
    """
    from workbench.stats import bradley_terry, wilson_interval

    counted = [row for row in rows if named or not row.get("names_itself")]
    labels = {row[f"{side}_system"]["key"]: row[f"{side}_system"]["label"] for row in counted for side in _SIDES}
    place = {key: number for number, key in enumerate(labels)}
    games = [
        (place[row["left_system"]["key"]], place[row["right_system"]["key"]], _POINTS[row["vote"]])
        for row in counted
        if row["vote"] in _POINTS
    ]
    # Who has been in no such vote is not among those who are compared.
    met = sorted({player for *pair, _ in games for player in pair})
    strengths = bradley_terry(
        len(met), [(met.index(left), met.index(right), points) for left, right, points in games]
    )
    strength = dict(zip(met, strengths or [], strict=False))
    tally = _tally(counted)
    told = [
        Standing(
            key,
            labels[key],
            one["won"],
            one["lost"],
            one["tie"],
            one["both bad"],
            wilson_interval(one["won"], one["won"] + one["lost"]),
            strength.get(place[key]),
        )
        for key, one in tally.items()
    ]
    told.sort(key=lambda one: (-(one.strength.value if one.strength else 0.0), -one.rate.value, one.label))
    left, right = (sum(row["vote"] == side for row in counted) for side in _SIDES)
    share = wilson_interval(left, left + right)
    return Standings(tuple(told), len(counted), len(rows) - len(counted), share, left + right)


_SIDES = ("left", "right")


def _tally(rows: Iterable[Row]) -> dict[str, Counter[str]]:
    """Of each key: how many votes it won, lost, and how many were a tie or both bad."""
    tally: dict[str, Counter[str]] = {}
    for row in rows:
        for side in _SIDES:
            ending = row["vote"] if row["vote"] not in _SIDES else "won" if row["vote"] == side else "lost"
            tally.setdefault(row[f"{side}_system"]["key"], Counter())[ending] += 1
    return tally
