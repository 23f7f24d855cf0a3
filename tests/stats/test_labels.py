"""Label probabilities, calibration and macro F1: worked numbers, properties, and what counts as a miss."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from workbench import stats
from workbench.errors import UserError

LOGS = st.lists(st.floats(-50, 0), min_size=2, max_size=5)


def test_probabilities_of_labels_are_the_softmax_of_their_scores():
    assert stats.label_probabilities(np.log([0.11, 0.09])) == pytest.approx([0.55, 0.45])
    assert stats.label_probabilities([[0, 0], [-1000, 0]]) == pytest.approx(np.array([[0.5, 0.5], [0, 1]]))
    assert stats.label_probabilities([-np.inf, -3.0]) == pytest.approx([0, 1])
    assert stats.label_probabilities([-np.inf, -np.inf]) == pytest.approx([0.5, 0.5])


@given(LOGS, st.floats(-300, 300))
def test_probabilities_sum_to_one_and_do_not_change_with_a_shift(scores, shift):
    p = stats.label_probabilities(scores)
    assert p.sum() == pytest.approx(1) and (p >= 0).all()
    assert stats.label_probabilities(np.array(scores) + shift) == pytest.approx(p, abs=1e-12)


def test_the_papers_calibration_flips_the_answer():
    """p_cf = [.618, .382], p = [.55, .45] → [.890, 1.178]."""
    assert stats.calibrated([0.55, 0.45], [[0.618, 0.382]]) == pytest.approx([0.890, 1.178], abs=5e-4)
    mean_of_three = [[0.618, 0.382], [0.7, 0.3], [0.536, 0.464]]
    assert stats.calibrated([0.55, 0.45], mean_of_three) == pytest.approx([0.890, 1.178], abs=5e-4)
    rows = stats.calibrated([[0.55, 0.45], [0.618, 0.382]], [[0.618, 0.382]])
    assert rows[1] == pytest.approx([1, 1])


@given(LOGS, st.floats(1e-3, 1e3))
def test_a_uniform_prompt_changes_no_answer_and_a_common_factor_does_not_count(scores, factor):
    p = stats.label_probabilities(scores)
    uniform = np.full((3, len(p)), 1 / len(p))
    assert stats.calibrated(p, uniform) == pytest.approx(p * len(p))
    free = stats.label_probabilities([scores[::-1], scores])
    assert stats.calibrated(p, factor * free) == pytest.approx(stats.calibrated(p, free), rel=1e-9)


@given(
    LOGS.flatmap(
        lambda row: st.tuples(st.just(row), st.lists(st.floats(-50, 0), min_size=len(row), max_size=len(row)))
    )
)
def test_the_answer_is_the_label_whose_probability_rose_most(rows):
    """argmax of p/p_cf is argmax of log p − log p_cf; what the prompt says without a question says nothing."""
    p, free = (stats.label_probabilities(row) for row in rows)
    scores = stats.calibrated(p, [free])
    best = int(np.argmax(np.log(p) - np.log(free)))
    assert scores[best] == pytest.approx(scores.max())
    assert stats.calibrated(p, [p]) == pytest.approx(np.ones(len(p)))


def test_a_label_that_no_content_free_input_gives_anything_is_no_division_by_zero():
    scores = stats.calibrated([0.5, 0.5, 0.0], [[1.0, 0.0, 0.0]])
    assert np.isfinite(scores).all() and np.argmax(scores) == 1 and scores[2] == 0


@pytest.mark.parametrize("free", [[], [0.5, 0.5], [[0.2, 0.3, 0.5]], [[]]])
def test_calibration_needs_a_row_for_each_input(free):
    with pytest.raises(UserError, match="one row of 2 label probabilities"):
        stats.calibrated([0.5, 0.5], free)


def test_macro_f1_of_the_majority_class_of_phrasebank():
    targets = ["neutral"] * 1391 + ["positive"] * 570 + ["negative"] * 303
    labels = ["negative", "neutral", "positive"]
    assert stats.macro_f1(targets, ["neutral"] * 2264, labels) == pytest.approx(0.2537, abs=5e-5)
    assert stats.macro_f1(targets, targets, labels) == 1


def test_macro_f1_counts_no_answer_as_a_miss():
    # yes: 1 hit of 2 targets, 1 answer → 2/3; no: 1 hit of 1 target, 1 answer → 1
    assert stats.macro_f1(["yes", "yes", "no"], ["yes", None, "no"], ["yes", "no"]) == pytest.approx(5 / 6)
    assert stats.macro_f1(["yes", "yes", "no"], ["yes", "perhaps", "no"], ["yes", "no"]) == pytest.approx(5 / 6)
    assert stats.macro_f1(["yes"], ["yes"], ["yes", "no"]) == 1
    assert stats.macro_f1([], [], ["yes"]) == 0
    with pytest.raises(UserError):
        stats.macro_f1(["yes"], [], ["yes"])


def test_the_interval_of_macro_f1_is_the_bootstrap_over_questions():
    import random

    rng = random.Random(0)
    targets = [rng.choice("aab") for _ in range(60)]
    answers = [t if rng.random() < 0.7 else rng.choice(["a", "b", None]) for t in targets]
    found = stats.macro_f1_interval(targets, answers, "ab")
    pairs = list(zip(targets, answers, strict=True))
    naive = sorted(stats.macro_f1(*zip(*rng.choices(pairs, k=60), strict=True), "ab") for _ in range(4000))
    assert found.value == stats.macro_f1(targets, answers, "ab")
    assert (found.low, found.high) == pytest.approx((naive[100], naive[-100]), abs=0.015)
    right = stats.macro_f1_interval(["a", "b"] * 9, ["a", "b"] * 9, "ab")
    assert (right.low, right.value, right.high) == (1, 1, 1)
    with pytest.raises(UserError, match="no question"):
        stats.macro_f1_interval([], [], "ab")
