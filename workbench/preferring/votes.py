"""Pairs from blind votes: a person saw two answers side by side, without names, and said which is better.

`votes.jsonl`, a vote a line:

    prompt         text (the user's turn), or a list of turns, each with `role` and `content`
    left, right    texts of the two answers, as they stood
    vote           left, right, tie or both bad

Whatever else a row has (which systems answered, when) goes into the pair's `source`. A vote has no margin.
"""

from collections import Counter
from pathlib import Path
from typing import Any

from workbench.identity import to_json
from workbench.preferring.bias import share
from workbench.preferring.pairs import Pair, plain, prompt_field
from workbench.tasks.rows import bad_row, iterate_rows, text_field

VOTES = ("left", "right", "tie", "both bad")

_NO_PAIR = {"tie": "ties", "both bad": "votes against both"}


def read_votes(path: str | Path) -> tuple[list[Pair], Counter[str], dict[str, Any]]:
    """(pairs, counts, position bias) of a .jsonl, .csv or .parquet file of votes.

    Ties, votes against both, and votes between two equal texts are counted and give no pair. The bias is the
    share of the left side among votes for a side.

    Raises:
        UserError: the file cannot be read, or a row is no vote; file, row and field are named.
    """
    source = str(path)
    pairs: list[Pair] = []
    counts: Counter[str] = Counter()
    sides: list[tuple[float, str]] = []
    for number, row in iterate_rows(source):
        pair = vote_pair(source, number, row)
        counts["votes"] += 1
        if pair:
            pairs.append(pair)
            sides.append((float(row["vote"] == "left"), pair.group))
        else:
            counts[_NO_PAIR.get(row["vote"], "votes between equal texts")] += 1
    left = share([side for side, _ in sides], [group for _, group in sides])
    return pairs, counts, {"pairs": len(sides), "first_preferred": to_json(left)}


def vote_pair(source: str, number: int, row: dict[str, Any]) -> Pair | None:
    """The pair that a vote gives; None for a tie, a vote against both, and one between two equal texts.

    Args:
        source, number: the row's file and place in it, for the error.
        row: the vote.

    Raises:
        UserError: the row is no vote; file, row and field are named.
    """
    if row.get("vote") not in VOTES:
        problem = f"it is {row.get('vote')!r:.60}; it must be one of {', '.join(VOTES)}"
        raise bad_row(source, number, problem, "vote")
    prompt = prompt_field(source, number, row)
    sided = {side: text_field(source, number, row, side) for side in ("left", "right")}
    if row["vote"] in _NO_PAIR or sided["left"] == sided["right"]:
        return None
    more = {key: plain(value) for key, value in row.items() if key not in ("prompt", *sided)}
    other = "right" if row["vote"] == "left" else "left"
    return Pair(prompt, "chat", sided[row["vote"]], sided[other], source={**more, "kind": "votes"})
