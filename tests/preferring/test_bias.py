"""Biases of pairs: worked numbers, and intervals over groups and not over pairs."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from workbench.preferring.bias import length_bias, mean_over, position_bias, share
from workbench.preferring.card import summary
from workbench.preferring.pairs import Pair
from workbench.stats import wilson_interval
from workbench.types import Interval, Message


def pair(group: str, chosen: int, rejected: int, margin: float | None = None) -> Pair:
    return Pair((Message("user", group),), "chat", "c" * chosen, "r" * rejected, margin, group)


def test_one_pair_a_group_is_wilson_s_interval() -> None:
    assert share([1.0, 0.0, 1.0], ["a", "b", "c"]) == wilson_interval(2, 3)
    assert share([], []) == wilson_interval(0, 0)


def test_a_group_counts_once_however_many_pairs_it_has() -> None:
    one = share([1.0, 0.0, 1.0, 0.0], ["a", "b", "c", "d"])
    hits = [hit for hit in (1.0, 0.0, 1.0, 0.0) for _ in range(50)]
    many = share(hits, [group for group in "abcd" for _ in range(50)])
    assert many.value == one.value == 0.5
    assert many.high - many.low > 0.7 * (one.high - one.low), "200 pairs of four prompts are not 200"
    assert share([1.0] * 100, ["a"] * 50 + ["b"] * 50) == wilson_interval(2, 2), "all alike: two prompts say so"


@given(st.lists(st.tuples(st.sampled_from([0.0, 0.5, 1.0]), st.sampled_from("abcd")), min_size=1, max_size=12))
def test_a_share_lies_in_its_interval_which_has_a_width(rows: list[tuple[float, str]]) -> None:
    found = share([hit for hit, _ in rows], [group for _, group in rows])
    assert found.value == pytest.approx(sum(hit for hit, _ in rows) / len(rows))
    assert 0 <= found.low <= found.value + 1e-9 and found.value - 1e-9 <= found.high <= 1
    assert found.high > found.low


def test_one_group_says_nothing_of_others() -> None:
    found = share([1.0, 1.0, 0.0], ["a", "a", "a"])
    assert (found.value, found.low, found.high) == (pytest.approx(2 / 3), 0.0, 1.0)
    assert share([1.0, 0.0] * 3, list("aabbcc")) == wilson_interval(1.5, 3), "three groups that are alike"
    assert mean_over([1.0, 3.0], ["a", "a"]) == 2.0
    assert isinstance(mean_over([1.0, 3.0], ["a", "b"]), Interval)


def test_lengths() -> None:
    found = length_bias([pair("a", 10, 4, 0.9), pair("b", 6, 4, 0.5), pair("c", 3, 4, 0.1), pair("d", 5, 5, 0.4)])
    assert found["chosen"] == {"mean": 6.0, "median": 5.5}
    assert found["rejected"] == {"mean": 4.25, "median": 4.0}
    assert (found["longer"], found["shorter"], found["equal"]) == (2, 1, 1)
    assert found["chosen_longer"]["value"] == pytest.approx(2 / 3), "of those of different lengths"
    # Deviations .425 .025 -.375 -.075 of the margins, and 4.25 .25 -2.75 -1.75 of the differences.
    assert found["margin_correlation"]["value"] == pytest.approx(2.975 / (0.3275 * 28.75) ** 0.5)
    assert -1 <= found["margin_correlation"]["low"] <= found["margin_correlation"]["high"] <= 1 + 1e-9


@pytest.mark.parametrize("margins", [(1.0, 1.0, 1.0), (None, None, None), (0.5, None, None), (0.5, 0.7, None)])
def test_no_correlation_where_margins_say_nothing(margins: Any) -> None:
    pairs = [pair(str(i), i + 2, 1, margin) for i, margin in enumerate(margins)]
    assert length_bias(pairs)["margin_correlation"] is None


def test_positions() -> None:
    """Three pairs: both times the first, both times the second, and the same answer in both orders."""
    found = position_bias([(0.9, 0.6), (0.2, 0.4), (0.8, 0.3)], ["a", "b", "c"])
    assert found["pairs"] == 3
    assert found["flips"]["value"] == pytest.approx(2 / 3)
    assert found["first_preferred"]["value"] == pytest.approx(0.5)
    assert found["mean_first"]["value"] == pytest.approx((0.75 + 0.3 + 0.55) / 3)
    assert position_bias([(0.5, 0.5)], ["a"])["flips"]["value"] == 0.0
    assert position_bias([], [])["first_preferred"] == position_bias([], [])["flips"]


def test_no_share_of_no_pairs_is_told() -> None:
    pairs = [pair("a", 3, 3), pair("b", 4, 4)]
    told = {
        "pairs": 2, "groups": 2, "counts": {}, "conflicting": 0, "margin": None, "length": length_bias(pairs),
        "source": "file",
    }  # fmt: skip
    words = summary(told)
    assert "All answers are as long as the other one of their pair." in words and "%" not in words
