"""Macro F1: worked numbers, and what counts as a miss."""

import pytest

from workbench import stats
from workbench.errors import UserError


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
