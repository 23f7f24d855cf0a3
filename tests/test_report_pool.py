"""What a pool says as tables, sentences and charts: shares with intervals, costs by what is paid, colours."""

import re
from dataclasses import replace

import numpy as np
import pytest

from workbench.cost import ModelShape
from workbench.pool_findings import read_off
from workbench.pools import Pool
from workbench.report_pool import charts, sentences, tables, text
from workbench.stats import pool as pool_stats

SHAPE = ModelShape(1000, 2, 8, 2, 2, 4)
SHARE = re.compile(r"[\d.]+ % \([\d.]+ – [\d.]+\)")


@pytest.fixture(autouse=True)
def few_orders(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pool_stats, "ROUNDS", 20)


def drawn(questions: int = 12, n: int = 8) -> Pool:
    rng = np.random.default_rng(0)
    right = rng.random((questions, n)) < rng.random((questions, 1))
    return Pool(
        ids=tuple(f"q{i}" for i in range(questions)),
        asked=questions,
        scorer="rm",
        answers_QN=np.where(right, 0, rng.integers(1, 4, (questions, n))),
        scores_QN=rng.normal(size=(questions, n)),
        weights_QN=rng.random((questions, n)),
        tokens_QN=np.full((questions, n), 10.0),
        seconds_QN=np.full((questions, n), 0.1),
        prompt_Q=np.full(questions, 20.0),
        read_QN=np.full((questions, n), 30.0),
        read_prompt_Q=np.full(questions, 5.0),
        reading_QN=np.full((questions, n), 0.2),
        shape=SHAPE,
        reader=SHAPE,
    )


def test_no_share_goes_without_its_interval() -> None:
    found = read_off(drawn())
    curves, votes, scorer, _ = tables(found, "rm")
    cells = [cell for row in curves.rows for cell in row[1:]]
    cells += [row[3] for row in votes.rows] + [row[2] for row in scorer.rows]
    assert all(SHARE.fullmatch(cell) for cell in cells)
    assert votes.rows[0][:2] == ["never", "8"] and votes.rows[0][3] == curves.rows[-1][2], "the whole vote"
    assert votes.rows[1][3] == votes.rows[0][3]
    assert re.fullmatch(r"\+0\.0 points \(-[\d.]+ to \+[\d.]+, p = 1\)", votes.rows[1][4]), votes.rows[1][4]
    assert [row[2] for row in scorer.rows] == [row[3] for row in curves.rows], "true beside what the scorer sees"
    assert "8 samples" in text(found, "rm")


def test_costs_are_those_of_drawing_and_those_with_scoring() -> None:
    pool = drawn()
    *_, costs = tables(read_off(pool), "rm")
    assert costs.heads[1:] == ["tokens", "FLOPs", "seconds", "tokens, scored", "FLOPs, scored", "seconds, scored"]
    assert [costs.rows[1][i] for i in (0, 1, 3, 4, 6)] == ["2", "40", "0.2 s", "105", "0.6 s"]
    assert costs.rows[1][2] != costs.rows[1][5]
    *_, plain = tables(read_off(replace(pool, read_QN=np.zeros((12, 8)))), "rm")
    assert plain.heads == ["k", "tokens", "FLOPs", "seconds"] and "Scored" not in plain.caption
    *_, unknown = tables(read_off(replace(pool, shape=None)), "rm")
    assert unknown.rows[0][2] == unknown.rows[0][5] == "?"


def test_a_colour_is_one_thing_on_the_page() -> None:
    names: dict[int, set[str]] = {}
    for chart in charts(read_off(drawn()), "rm"):
        for line in chart.lines:
            names.setdefault(line.colour, set()).add(line.name)
    assert names[0] == {"pass@k"} and names[1] == {"majority@k"} and names[3] == {"weighted@k"}
    assert names[2] == {"best-of@k", "rm, of best-of@k", "measured on the pool"}
    assert names[4] == {"law", "bound, log k − (k − 1)/k"}


def test_questions_that_are_all_alike_give_the_law_no_interval() -> None:
    pool = drawn()
    row = np.array([0, 0, 1, 1, 1, 2, 3, 3])
    found = read_off(replace(pool, answers_QN=np.tile(row, (12, 1))))
    assert found["law"]["a"] is None and found["law"]["b"] is None
    law = sentences(found, "rm")[0]
    assert "no interval: one question, or several that are all alike" in law and "resamples" not in law
    assert SHARE.search(law), "what it foretells has one: Wilson's"
