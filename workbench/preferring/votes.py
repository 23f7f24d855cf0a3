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
        if row.get("vote") not in VOTES:
            problem = f"it is {row.get('vote')!r:.60}; it must be one of {', '.join(VOTES)}"
            raise bad_row(source, number, problem, "vote")
        prompt = prompt_field(source, number, row)
        sided = {side: text_field(source, number, row, side) for side in ("left", "right")}
        counts["votes"] += 1
        if row["vote"] in ("tie", "both bad"):
            counts["ties" if row["vote"] == "tie" else "votes against both"] += 1
        elif sided["left"] == sided["right"]:
            counts["votes between equal texts"] += 1
        else:
            more = {key: plain(value) for key, value in row.items() if key not in ("prompt", *sided)}
            other = "right" if row["vote"] == "left" else "left"
            told = {**more, "kind": "votes"}
            pairs.append(Pair(prompt, "chat", sided[row["vote"]], sided[other], source=told))
            sides.append((float(row["vote"] == "left"), pairs[-1].group))
    left = share([side for side, _ in sides], [group for _, group in sides])
    return pairs, counts, {"pairs": len(sides), "first_preferred": to_json(left)}
