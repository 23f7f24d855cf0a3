"""Exports hold every row; a CSV never holds a formula, the other formats never hold anything but the text."""

import csv
import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from workbench.errors import UserError
from workbench.export import _harmless, export_completions, export_outcomes
from workbench.store import Store
from workbench.types import (
    Completion,
    CostToMake,
    CostToUse,
    Finish,
    Interval,
    Outcome,
    Result,
    Status,
)

TEXTS = [
    "=cmd|' /C calc'!A0",
    "+1",
    "-3",
    "@SUM(A1)",
    "\tx",
    "\rx",
    "plain",
    'a "quoted", line\nand more',
    "\0",
]


@pytest.fixture
def store(tmp_path: Path) -> Store:
    store = Store(tmp_path / "completions.sqlite")
    stream = store.stream({"model": "fake", "n": 1})
    store.append(stream, [("q1", Completion(i, text, 5, 7, -3.5, 0.25)) for i, text in enumerate(TEXTS)])
    store.append(stream, [("q2", Completion(0, "\udc00", logprob=float("-inf"), finish=Finish.LENGTH))])
    return store


def test_jsonl_holds_the_texts_as_they_are(store: Store, tmp_path: Path) -> None:
    assert export_completions(store, tmp_path / "out.jsonl") == len(TEXTS) + 1
    rows = [json.loads(line) for line in (tmp_path / "out.jsonl").read_bytes().split(b"\n")[:-1]]
    assert [row["text"] for row in rows] == [*TEXTS, "\udc00"]
    assert json.loads(rows[0]["key"]) == {"model": "fake", "n": 1}
    assert (rows[0]["logprob"], rows[-1]["logprob"], rows[-1]["finish"]) == (-3.5, None, "length")


def test_csv_holds_no_formulas_and_keeps_numbers(store: Store, tmp_path: Path) -> None:
    assert export_completions(store, tmp_path / "out.CSV") == len(TEXTS) + 1
    with (tmp_path / "out.CSV").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["text"] for row in rows] == [*(f"'{t}" for t in TEXTS[:6]), *TEXTS[6:], "\\udc00"]
    assert (rows[0]["logprob"], rows[-1]["logprob"]) == ("-3.5", "-inf")


def test_parquet_has_typed_columns(store: Store, tmp_path: Path) -> None:
    assert export_completions(store, tmp_path / "out.parquet") == len(TEXTS) + 1
    table = pq.read_table(tmp_path / "out.parquet")
    assert table["text"].to_pylist() == [*TEXTS, "\\udc00"]
    assert str(table.schema.field("logprob").type) == "double"
    assert str(table.schema.field("index").type) == "int64"


@pytest.mark.parametrize("suffix", [".jsonl", ".csv", ".parquet"])
def test_outcomes_and_empty_exports(tmp_path: Path, suffix: str) -> None:
    outcomes = (Outcome("q1", Status.CORRECT, 1.0, "=4", "4"), Outcome("q2", Status.ERROR, None, None, "5"))
    result = Result("sys", "arithmetic", "hash", "dev", Interval(1, 0, 1), outcomes, (), CostToMake(), CostToUse())
    file = tmp_path / f"out{suffix}"
    assert export_outcomes({"run-1": result, "run-2": result}, file) == 4
    if suffix == ".csv":
        assert "run-1,sys,arithmetic,hash,dev,q1,correct,1.0,'=4,4,1" in file.read_text()
    if suffix == ".parquet":
        assert pq.read_table(file)["score"].to_pylist() == [1.0, None, 1.0, None]
    assert export_outcomes({}, file) == 0
    assert [path.name for path in tmp_path.iterdir()] == [file.name]


def test_an_unknown_suffix_names_the_known_ones(store: Store, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"\.jsonl, \.csv, \.parquet"):
        export_completions(store, tmp_path / "out.xlsx")


@given(st.text())
def test_no_csv_field_starts_like_a_formula(text: str) -> None:
    field = _harmless(text)
    assert not field.startswith(("=", "+", "-", "@", "\t", "\r"))
    assert field.removeprefix("'") == text or field == text
