"""The share of a gap that is closed: against counting, against a closed case, and where there is no gap."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from workbench.errors import UserError
from workbench.stats.gap import share_of_gap


def scores(*counts: tuple[int, int, int, int]) -> list[list[float]]:
    """Columns (low, reached, high) from (low, reached, high, how many questions)."""
    rows = [row[:3] for row in counts for _ in range(row[3])]
    return [list(map(float, column)) for column in zip(*rows, strict=True)]


def test_a_share_counted_by_hand() -> None:
    low, reached, high = scores((0, 0, 0, 40), (0, 1, 1, 30), (0, 0, 1, 10), (1, 1, 1, 20))
    found = share_of_gap(low, reached, high)
    assert found is not None
    assert found.value == pytest.approx(30 / 40)
    assert 0.55 < found.low < 0.7
    assert 0.8 < found.high < 0.9


def test_reaching_it_is_1_and_staying_is_0_exactly() -> None:
    low, _, high = scores((0, 0, 1, 30), (1, 0, 1, 30))
    for reached, share in ((high, 1.0), (low, 0.0)):
        found = share_of_gap(low, reached, high)
        assert found is not None
        assert (found.low, found.value, found.high) == (share, share, share)


def test_without_a_gap_there_is_no_share() -> None:
    low, reached, high = scores((0, 1, 1, 3), (1, 1, 0, 2), (0, 0, 0, 20))
    assert share_of_gap(low, reached, high) is None  # 3 against 2 is chance
    assert share_of_gap(high, reached, high) is None
    assert share_of_gap([1.0] * 20, [0.5] * 20, [0.0] * 20) is None  # the other way round
    assert share_of_gap([], [], []) is None


def test_bad_scores_are_refused() -> None:
    with pytest.raises(UserError, match="same questions"):
        share_of_gap([0.0], [0.0, 1.0], [1.0])
    with pytest.raises(UserError, match="reached must be"):
        share_of_gap([0.0], [2.0], [1.0])


@given(st.integers(0, 10**6), st.integers(20, 60))
def test_the_interval_is_finite_and_holds_the_value(seed: int, questions: int) -> None:
    rng = np.random.default_rng(seed)
    low, reached, high = (rng.random(questions) < p for p in (0.3, 0.5, 0.7))
    found = share_of_gap(low, reached, high, resamples=400)
    if found is not None:
        assert np.isfinite([found.low, found.high]).all()
        assert found.low <= found.value <= found.high
        assert found.value == pytest.approx(float((reached.mean() - low.mean()) / (high.mean() - low.mean())))
