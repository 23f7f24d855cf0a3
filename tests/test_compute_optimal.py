"""Strategies by predicted difficulty against one for all: where it pays, where it cannot; a larger model."""

import re
from dataclasses import replace

import numpy as np
import pytest

from workbench import compute_optimal, stats
from workbench.compute_optimal import against_larger, against_uniform, compared, turn, usual_budgets
from workbench.cost import ModelShape
from workbench.errors import UserError
from workbench.metrics import score_interval
from workbench.pools import Pool
from workbench.report_optimal import chart, sentences, tables, text
from workbench.stats import folds
from workbench.types import CostToMake, CostToUse, Outcome, Result, Status

SHAPE = ModelShape(1000, 2, 8, 2, 2, 4)


@pytest.fixture(autouse=True)
def few_orders(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compute_optimal, "WORK", 4e5)


def world(seed: int, split: str, questions: int = 200, n: int = 16, scorer: str = "logprob") -> Pool:
    """Half of the questions are such that the vote is right, half such that only the scorer finds the right one.

    On the latter, few samples are right and wrong ones agree, so that they agree less than on the former.
    """
    rng = np.random.default_rng([seed, len(split)])
    easy = rng.random((questions, 1)) < 0.5
    right = rng.random((questions, n)) < np.where(easy, 0.85, 0.2)
    wrong = np.where(rng.random((questions, n)) < 0.5, 1, rng.integers(2, 30, (questions, n)))
    # The scorer knows the hard ones and is fooled by the easy ones.
    scores = np.where(easy, -3.0 * right, 3.0 * right) + rng.normal(0, 0.2, (questions, n))
    return Pool(
        ids=tuple(f"{split}{i}" for i in range(questions)),
        asked=questions,
        scorer=scorer,
        answers_QN=np.where(right, 0, wrong),
        scores_QN=scores,
        weights_QN=np.exp(scores),
        tokens_QN=np.full((questions, n), 10.0),
        seconds_QN=np.full((questions, n), 0.1),
        prompt_Q=np.full(questions, 20.0),
        read_QN=np.zeros((questions, n)),
        read_prompt_Q=np.zeros(questions),
        reading_QN=np.zeros((questions, n)),
        shape=SHAPE,
        reader=None,
    )


def test_it_pays_where_questions_differ_in_what_suits_them() -> None:
    found = against_uniform(world(0, "dev"), world(0, "test"), first=4, bins=2, budgets=[4, 16])
    row = found["budgets"][1]
    picked = {(p["fold"], p["bin"]): p["way"] for p in row["picked"]}
    assert picked == {(0, 0): "best-of", (1, 0): "best-of", (0, 1): "majority", (1, 1): "majority"}
    for name, gap in row["gaps"].items():
        assert gap["low"] > 0.05 and gap["p"] < 0.01, name
    assert all(samples <= 16 for samples in row["samples"].values())
    assert row["tokens"]["compute-optimal"] <= row["tokens"]["uniform majority"] == 20 + 160
    assert {p["k"] for p in found["budgets"][0]["picked"]} == {4}, "four are spent on the look: no fewer, no more"
    hard, easy = found["bins"]
    assert hard["dev_pass"]["high"] < 0.45 and easy["dev_pass"]["low"] > 0.6
    expected = pytest.approx(hard["dev_pass"]["value"], abs=0.1)
    assert hard["pass"]["value"] == expected, "what dev taught holds on other questions"
    assert hard["pass"]["low"] < hard["pass"]["value"] < hard["pass"]["high"]
    assert hard["dev_share"] == pytest.approx(0.5, abs=0.01)


def test_right_answers_of_the_questions_change_no_bin() -> None:
    dev, test = world(1, "dev"), world(1, "test")
    found = against_uniform(dev, test, first=4, bins=2, budgets=[8])
    # Another answer is the right one: 0 and 1 change places.
    swapped = replace(test, answers_QN=np.where(test.answers_QN < 2, 1 - test.answers_QN, test.answers_QN))
    other = against_uniform(dev, swapped, first=4, bins=2, budgets=[8])
    assert [b["share"] for b in found["bins"]] == [b["share"] for b in other["bins"]]
    assert [b["pass"] for b in found["bins"]] != [b["pass"] for b in other["bins"]]


@pytest.mark.parametrize("half", [0, 1])
def test_right_answers_of_one_half_choose_for_the_other_half_alone(half: int) -> None:
    dev, test = world(1, "dev"), world(1, "test")
    never = np.where((folds(test.ids) == half)[:, None] & (test.answers_QN == 0), 99, test.answers_QN)
    picks = [
        {(p["fold"], p["bin"]): (p["way"], p["k"]) for p in against_uniform(
            dev, pool, first=4, bins=2, budgets=[8])["budgets"][0]["picked"]}
        for pool in (test, replace(test, answers_QN=never))
    ]  # fmt: skip
    same = {place: picks[0][place] == picks[1][place] for place in picks[0]}
    assert all(same[half, name] for name in (0, 1)), "what is scored on a half does not see that half"
    assert not all(same[1 - half, name] for name in (0, 1))


def test_it_cannot_pay_where_all_questions_are_alike() -> None:
    rng = np.random.default_rng(0)
    same = {}
    for split in ("dev", "test"):
        answers = np.where(rng.random((150, 16)) < 0.5, 0, rng.integers(1, 4, (150, 16)))
        noise = rng.normal(size=(150, 16))
        same[split] = replace(
            world(0, split, 150), answers_QN=answers, scores_QN=noise, weights_QN=np.ones((150, 16))
        )
    found = against_uniform(same["dev"], same["test"], first=4, bins=3, budgets=[16])
    gap = found["budgets"][0]["gaps"]["uniform majority"]
    assert gap["value"] <= 0.01 and gap["p"] > 0.05


def test_what_a_scorer_reads_is_paid_for() -> None:
    dev, test = (replace(world(0, s), read_QN=np.full((200, 16), 30.0)) for s in ("dev", "test"))
    found = against_uniform(dev, test, first=2, bins=2, budgets=[16])
    row = found["budgets"][0]
    assert found["dearer"] == 4 and row["uniform"] == {"majority": 16, "best-of": 4, "weighted": 4}
    assert row["tokens"]["uniform best-of"] == pytest.approx(20 + 4 * 40)
    assert all(p["k"] <= 4 for p in row["picked"] if p["way"] != "majority")
    assert "counts as 4.00 samples" in text(found, "judge")


def test_scores_that_cost_something_are_no_part_of_the_look() -> None:
    """A majority of the first samples pays for no scorer, so that nothing may be made of one's scores."""
    dev, test = (replace(world(0, s), read_QN=np.full((200, 16), 30.0)) for s in ("dev", "test"))
    other = replace(test, scores_QN=-test.scores_QN)
    bins = [against_uniform(dev, pool, first=4, bins=2, budgets=[4])["bins"] for pool in (test, other)]
    assert bins[0] == bins[1]
    free = [against_uniform(world(0, "dev"), replace(pool, read_QN=np.zeros((200, 16))), first=4, bins=2,
                            budgets=[4])["bins"] for pool in (test, other)]  # fmt: skip
    assert free[0] != free[1]


def test_the_prompt_that_a_scorer_reads_is_paid_for() -> None:
    dev, test = (
        replace(world(0, s), read_QN=np.full((200, 16), 10.0), read_prompt_Q=np.full(200, 60.0))
        for s in ("dev", "test")
    )
    found = against_uniform(dev, test, first=2, bins=2, budgets=[16])
    row = found["budgets"][0]
    assert (found["dearer"], found["before"]) == (2, 6)
    assert row["uniform"] == {"majority": 16, "best-of": 5, "weighted": 5}
    assert row["tokens"]["uniform best-of"] == pytest.approx(20 + 5 * 10 + 60 + 5 * 10), "as much as 16 samples"
    assert row["tokens"]["uniform majority"] == 20 + 160
    assert "counts as 2.00 samples, by its tokens, and its reading of the prompt as 6.00" in text(found, "rm")


def test_the_oracle_is_not_asked_how_hard_a_question_is() -> None:
    dev, test = (world(0, s, scorer="verifier") for s in ("dev", "test"))
    known = replace(test, scores_QN=np.where(test.answers_QN == 0, 50.0, -50.0))
    bins = [against_uniform(dev, pool, first=4, bins=2, budgets=[4])["bins"] for pool in (test, known)]
    assert bins[0] == bins[1]
    assert any("an oracle" in line for line in sentences(against_uniform(dev, test, first=4, bins=2, budgets=[4]),
                                                         "verifier"))  # fmt: skip


def larger(score: float, flops: float | None, ids: list[str]) -> Result:
    outcomes = tuple(
        Outcome(id, Status.CORRECT, float(i < score * len(ids)), "7", "7") for i, id in enumerate(ids)
    )
    use = CostToUse(20, 10, flops, 1.0)
    return Result("h", "t", "h", "test", score_interval(outcomes), outcomes, (), CostToMake(), use)


def test_a_larger_model_once_at_equal_flops() -> None:
    pool = world(0, "test")
    four = pool.cost(4, scored=False)[1] or 0.0
    found = against_larger(pool, larger(0.5, four * 1.01, list(pool.ids)), "big")
    assert [(row["way"], row["k"]) for row in found["rows"]] == [("majority", 4), ("best-of", 4), ("weighted", 4)]
    assert all(row["flops"] <= found["flops"] for row in found["rows"])
    assert found["accuracy"]["value"] == 0.5 and found["questions"] == 200
    shown = against_larger(pool, larger(0.5, four * 100, [*pool.ids[:50], "unknown"]), "big")
    assert shown["questions"] == 50 and {row["k"] for row in shown["rows"]} == {16}
    assert all(row["all"] for row in shown["rows"])
    dear = replace(pool, read_QN=np.full((200, 16), 30.0), reader=SHAPE)
    costly = against_larger(dear, larger(0.5, four * 1.01, list(pool.ids)), "big")
    assert [(row["way"], row["k"]) for row in costly["rows"]] == [("majority", 4)], "scoring two costs more"
    assert costly["too_dear"] == ["best-of", "weighted"] and found["too_dear"] == []
    one = pool.cost(1, scored=False)[1] or 0.0
    single = against_larger(pool, larger(0.5, one * 1.01, list(pool.ids)), "big")
    assert [(row["way"], row["k"]) for row in single["rows"]] == [("one sample", 1)]
    assert single["too_dear"] == ["majority", "best-of", "weighted"]
    assert against_larger(pool, larger(0.5, 1.0, list(pool.ids)), "big")["rows"] == []
    unknown = against_larger(replace(dear, reader=None), larger(0.5, four * 1.01, list(pool.ids)), "big")
    assert [(row["way"], row["k"]) for row in unknown["rows"]] == [("majority", 4)], (
        "what costs one knows not what"
    )
    told = against_uniform(world(0, "dev"), pool, first=4, bins=2, budgets=[4])
    assert any(
        "What the scorer costs is not known" in line for line in sentences(told | {"larger": unknown}, "rm")
    )
    assert unknown["too_dear"] == []
    assert not any("is not known" in line for line in sentences(told | {"larger": found}, "rm"))
    said = "Two samples and their scores cost more than big once: no best-of or weighted is within its FLOPs."
    assert said in sentences(told | {"larger": costly}, "rm")
    assert any(line.startswith("Two samples cost more") for line in sentences(told | {"larger": single}, "rm"))


def test_what_is_refused() -> None:
    dev, test = world(0, "dev", 20), world(0, "test", 20)
    for arguments, problem in (
        ({"first": 16, "bins": 2, "budgets": [16]}, "first is 16"),
        ({"first": 4, "bins": 2, "budgets": [3]}, "budgets is 3"),
        ({"first": 4, "bins": 2, "budgets": [17]}, "budgets is 17"),
    ):
        with pytest.raises(UserError, match=problem):
            against_uniform(dev, test, **arguments)  # type: ignore[arg-type]
    with pytest.raises(UserError, match="too few for 11 bins"):
        against_uniform(turn(world(0, "dev", 4, n=5), 0), test, first=4, bins=11, budgets=[4])
    with pytest.raises(UserError, match="dev has 4 samples a question"):
        against_uniform(world(0, "dev", 20, n=4), test, first=4, bins=2, budgets=[4])
    with pytest.raises(UserError, match="Equal FLOPs need the sizes of both models"):
        against_larger(test, larger(0.5, None, list(test.ids)), "big")
    with pytest.raises(UserError, match="no question in common"):
        against_larger(test, larger(0.5, 1e9, ["other"]), "big")


def test_budgets_and_tables() -> None:
    assert usual_budgets(64, 4) == (4, 16, 64) and usual_budgets(8, 4) == (4, 8)
    found = against_uniform(world(0, "dev"), world(0, "test"), first=4, bins=2, budgets=[8])
    accuracy, picked, bins = tables(found)
    assert [row[0] for row in accuracy.rows] == [
        "8: compute-optimal", "8: uniform majority", "8: uniform best-of", "8: uniform weighted", "8: one for all",
    ]  # fmt: skip
    assert len(picked.rows) == 6 and len(bins.rows) == 2
    assert [row[1] for row in picked.rows] == ["1", "1", "2", "2", "all", "all"]
    assert all(re.fullmatch(r"[\d.]+ % \([\d.]+ – [\d.]+\)", row[i]) for row in bins.rows for i in (2, 4))
    assert [line.name for line in chart(found).lines] == [row[0].removeprefix("8: ") for row in accuracy.rows]
    assert sorted(line.colour for line in chart(found).lines) == [0, 1, 2, 3, 4]


def test_what_counts_as_a_look() -> None:
    found = against_uniform(world(0, "dev"), world(0, "test"), first=4, bins=2, budgets=[4, 8])
    choices, rules = compared(found)
    assert sorted(choices) == sorted((way, k) for way in ("majority", "best-of", "weighted") for k in (4, 8))
    assert [(rule["rule"], rule["budget"]) for rule in rules] == [
        ("compute-optimal", 4), ("one for all", 4), ("compute-optimal", 8), ("one for all", 8),
    ]  # fmt: skip
    rows = [{"way": "majority", "k": 3}, {"way": "one sample", "k": 1}]
    assert compared(found | {"larger": {"rows": rows}})[0][-1] == ("majority", 3)


def test_a_bin_in_which_all_are_right_has_an_interval_too() -> None:
    there = np.array([[True, True, False], [True, False, False]])
    found = compute_optimal._right_share(there, np.ones((2, 3)))
    assert found is not None and found["value"] == 1 and found["low"] == stats.wilson_interval(2, 2).low
    mixed = compute_optimal._right_share(there, np.array([[1.0, 0.5, 0.0], [0.5, 0.0, 0.0]]))
    assert mixed is not None and mixed["value"] == pytest.approx((1 + 0.5 + 0.5) / 3)
    assert compute_optimal._right_share(~there & False, np.ones((2, 3))) is None
