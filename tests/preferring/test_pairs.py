"""Preference pairs: what is written is read back, the usual formats are read, and each bad row is named."""

import csv
import json
import math
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from workbench.errors import UserError
from workbench.preferring.pairs import Pair, conflicts, distinct, prompt_group, read_pairs, write_pairs
from workbench.types import Message

USER = (Message("user", "What is 2 + 2?"),)
PAIR = Pair(USER, "chat", "4", "5")
TURN = {"role": "user", "content": "What is 2 + 2?"}
FOUR, FIVE = ({"role": "assistant", "content": text} for text in "45")


def read(folder: Path, *rows: Any) -> list[Pair]:
    file = folder / "pairs.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return read_pairs(file)


text = st.text(st.characters(codec="utf-8"), min_size=1).filter(lambda value: bool(value.strip()))
messages = st.builds(Message, st.sampled_from(["system", "user", "assistant"]), text)
pairs = st.builds(
    Pair,
    st.lists(messages, min_size=1, max_size=3).map(tuple),
    st.sampled_from(["chat", "text"]),
    text,
    text,
    st.none() | st.floats(0, 1e9),
    source=st.dictionaries(text, text | st.integers(), max_size=2),
).filter(lambda pair: pair.chosen != pair.rejected)


@given(st.lists(pairs, min_size=1, max_size=4))
def test_what_is_written_is_read_back(tmp_path_factory: pytest.TempPathFactory, written: list[Pair]) -> None:
    file = tmp_path_factory.mktemp("pairs") / "pairs.jsonl"
    write_pairs(file, written)
    assert read_pairs(file) == written


def test_a_plain_pair_is_three_texts_and_its_group(tmp_path: Path) -> None:
    write_pairs(tmp_path / "p.jsonl", [PAIR])
    row = json.loads((tmp_path / "p.jsonl").read_text())
    assert row == {"prompt": "What is 2 + 2?", "chosen": "4", "rejected": "5", "group": PAIR.group}


@pytest.mark.parametrize(
    "row",
    [
        {"prompt": "What is 2 + 2?", "chosen": "4", "rejected": "5"},
        {"prompt": "What is 2 + 2?", "chosen": 4, "rejected": 5},
        {"prompt": [TURN], "chosen": "4", "rejected": "5"},
        {"prompt": [TURN], "chosen": [FOUR], "rejected": [FIVE]},
        {"prompt": "What is 2 + 2?", "chosen": [TURN, FOUR], "rejected": [TURN, FIVE]},
        {"prompt": [TURN], "chosen": [TURN, FOUR], "rejected": [FIVE]},
        {"chosen": [TURN, FOUR], "rejected": [TURN, FIVE]},
        {"prompt": None, "chosen": [TURN, FOUR], "rejected": [TURN, FIVE], "margin": None, "group": None},
    ],
)
def test_the_usual_formats_are_one_pair(tmp_path: Path, row: dict[str, Any]) -> None:
    assert read(tmp_path, row) == [PAIR]


def test_a_longer_conversation_keeps_its_turns(tmp_path: Path) -> None:
    before = [TURN, FIVE, {"role": "user", "content": "Sure?"}]
    [pair] = read(tmp_path, {"chosen": [*before, FOUR], "rejected": [*before, FIVE]})
    assert [m.role for m in pair.prompt] == ["user", "assistant", "user"]
    assert (pair.chosen, pair.rejected) == ("4", "5")


def test_csv_and_parquet(tmp_path: Path) -> None:
    import pyarrow
    import pyarrow.parquet

    with (tmp_path / "p.csv").open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["prompt", "chosen", "rejected", "margin", "group"])
        table.writerow(["What is 2 + 2?", "4", "5", "", ""])
        table.writerow([json.dumps([TURN]), json.dumps([FOUR]), "6", "0.5", ""])
    first, second = read_pairs(tmp_path / "p.csv")
    assert first == PAIR
    assert second == replace(PAIR, rejected="6", margin=0.5)
    rows = [{"prompt": None, "chosen": [TURN, FOUR], "rejected": [TURN, FIVE]}]
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "p.parquet")
    assert read_pairs(tmp_path / "p.parquet") == [PAIR]


def test_margins_groups_and_sources(tmp_path: Path) -> None:
    row = {"prompt": "q", "chosen": "a", "rejected": "b"}
    scored, named, bare = read(
        tmp_path,
        {**row, "score_chosen": 4.5, "score_rejected": 3, "source": "forum"},
        {**row, "prompt": "r", "margin": 2, "score_chosen": 9, "score_rejected": 1, "group": 7},
        {**row, "prompt": "s", "score_chosen": 9},
    )
    assert scored.margin == 1.5 and scored.source == {"name": "forum"}
    assert named.margin == 2.0 and named.group == "7"
    assert bare.margin is None and bare.source == {} and len(bare.group) == 16


def test_a_source_is_kept_as_json_has_it(tmp_path: Path) -> None:
    """A table's dates and its empty cells, which are NaN, are no reason to fail when pairs are written."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    source = [{"when": datetime(2026, 1, 2), "score": math.nan, "tags": ["a"]}]
    table = pa.table({"prompt": ["1 + 1?"], "chosen": ["2"], "rejected": ["3"], "source": source})
    pq.write_table(table, tmp_path / "pairs.parquet")
    [pair] = read_pairs(tmp_path / "pairs.parquet")
    assert pair.source == {"when": "2026-01-02 00:00:00", "score": None, "tags": ["a"]}
    write_pairs(tmp_path / "pairs.jsonl", [pair])
    assert read_pairs(tmp_path / "pairs.jsonl") == [pair]


def test_pairs_of_one_prompt_share_their_group() -> None:
    assert Pair(USER, "chat", "4", "6").group == PAIR.group == prompt_group(USER)
    assert Pair(USER, "text", "4", "5").group != PAIR.group
    assert Pair((Message("system", "What is 2 + 2?"),), "chat", "4", "5").group != PAIR.group


BAD = [
    ({"prompt": "q", "chosen": "a"}, "field 'rejected': the row has no such field"),
    ({"prompt": "q", "chosen": "a", "rejected": "a"}, "field 'rejected': it is the same as 'chosen'"),
    ({"chosen": [TURN, FOUR], "rejected": [TURN, FOUR]}, "field 'rejected': it is the same as 'chosen'"),
    ({"chosen": "a", "rejected": "b"}, "field 'prompt': the row has none"),
    ({"prompt": "q", "chosen": " ", "rejected": "b"}, "field 'chosen': the field is empty"),
    ({"prompt": {}, "chosen": "a", "rejected": "b"}, "field 'prompt': {} is neither text nor a number"),
    ({"chosen": [FOUR], "rejected": [FIVE]}, "field 'chosen': it and 'rejected' have no beginning in common"),
    ({"chosen": [TURN, FOUR, TURN, FOUR], "rejected": [TURN, FIVE]}, "field 'chosen': behind the prompt"),
    ({"prompt": "q", "chosen": [TURN, FOUR], "rejected": "b"}, "field 'chosen': behind the prompt"),
    ({"prompt": "q", "chosen": [TURN], "rejected": "b"}, "field 'chosen': behind the prompt"),
    ({"prompt": "q", "chosen": [{"role": "bot", "content": "a"}], "rejected": "b"}, "the role of turn 1"),
    ({"prompt": "q", "chosen": "a", "rejected": "b", "margin": "wide"}, "field 'margin': 'wide' is no number"),
    ({"prompt": "q", "chosen": "a", "rejected": "b", "margin": True}, "field 'margin': True is no number"),
    ({"prompt": "q", "chosen": "a", "rejected": "b", "margin": -1}, "field 'margin': -1 says"),
    ({"prompt": "q", "chosen": "a", "rejected": "b", "group": []}, "field 'group'"),
    ({"prompt": "q", "chosen": "a", "rejected": "b", "style": "poem"}, "field 'style': it is 'poem'"),
    ({"prompt": "q", "chosen": "a", "rejected": "b", "style": ["chat"]}, "field 'style'"),
]


@pytest.mark.parametrize(("row", "problem"), BAD)
def test_a_bad_row_is_named(tmp_path: Path, row: dict[str, Any], problem: str) -> None:
    good = {"prompt": "good", "chosen": "a", "rejected": "b"}
    with pytest.raises(UserError) as caught:
        read(tmp_path, good, row)
    assert "pairs.jsonl, row 2" in str(caught.value) and problem in str(caught.value)


def test_a_prompt_in_two_groups_is_refused(tmp_path: Path) -> None:
    row = {"prompt": "q", "chosen": "a", "rejected": "b"}
    with pytest.raises(UserError, match=r"row 2, field 'group': its prompt is that of row 1"):
        read(tmp_path, {**row, "group": "one"}, {**row, "rejected": "c", "group": "two"})


def test_two_prompts_in_a_group_are_refused(tmp_path: Path) -> None:
    row = {"prompt": "q", "chosen": "a", "rejected": "b", "group": "one"}
    with pytest.raises(UserError, match=r"row 3, field 'group': it is 'one', the group of row 1, whose prompt is"):
        read(tmp_path, row, {**row, "rejected": "c"}, {**row, "prompt": "r"})
    with pytest.raises(UserError, match=r"row 2, field 'group'"):
        read(tmp_path, row, {**row, "style": "text"})


def test_no_file_and_an_empty_one(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="There is no data file"):
        read_pairs(tmp_path / "none.jsonl")
    with pytest.raises(UserError, match="is empty"):
        read(tmp_path)


def test_conflicts_and_repetitions() -> None:
    other = Pair(USER, "chat", "5", "4")
    elsewhere = Pair((Message("user", "And?"),), "chat", "5", "4")
    again = replace(PAIR, margin=1.0)
    assert conflicts([PAIR, elsewhere]) == 0
    assert conflicts([PAIR, other, elsewhere]) == 2
    assert distinct([PAIR, other, again, elsewhere]) == [PAIR, other, elsewhere]
