"""Comparisons: worked numbers, what is shared, and what cannot be compared."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from workbench.compare import changed, compare, compare_to_baseline
from workbench.errors import UserError
from workbench.types import CostToMake, CostToUse, Interval, Outcome, Result, Status


def result(scores: list[float | None], system: str = "a" * 16) -> Result:
    """A result with these scores on the questions q0, q1, …; None is a failed request."""
    outcomes = tuple(
        Outcome(f"q{i}", Status.ERROR if s is None else Status.CORRECT if s > 0.5 else Status.WRONG, s, None, "x")
        for i, s in enumerate(scores)
    )
    return Result(
        system, "toy", "0" * 16, "test", Interval(0, 0, 1), outcomes, (), CostToMake(), CostToUse()
    )  # fmt: skip


def test_exact_mcnemar_on_a_worked_case() -> None:
    # 10 questions only the second has right, 2 only the first, 8 neither or both: 2·(1 + 12 + 66)/2^12
    first = result([0] * 10 + [1] * 2 + [1] * 4 + [0] * 4)
    second = result([1] * 10 + [0] * 2 + [1] * 4 + [0] * 4, "b" * 16)
    found = compare(first, second)
    assert (found.first, found.second) == ("a" * 16, "b" * 16)
    assert (found.only_first, found.only_second, found.shared) == (2, 10, 20)
    assert found.p == pytest.approx(0.038574, abs=1e-6)
    assert found.test == "exact McNemar"
    assert found.difference.value == pytest.approx(0.4)
    assert found.difference.low < 0.4 < found.difference.high
    assert 0 < found.detectable < 1
    assert found.significant


def test_scores_that_are_means_of_samples_take_the_paired_bootstrap() -> None:
    first, second = result([0.25] * 30), result([0.75] * 30)
    found = compare(first, second)
    assert found.test == "paired bootstrap"
    assert found.p < 0.001
    assert found.difference.value == pytest.approx(0.5)


def test_failed_requests_are_left_out_on_both_sides() -> None:
    found = compare(result([1, None, 0, 1]), result([1, 0, None, 0, 1]))
    assert (found.shared, found.only_first, found.only_second) == (2, 1, 0)
    assert changed(result([1, None, 0, 1]), result([0, 0, None, 1])) == ([], ["q0"])


def test_holm_is_applied_over_the_baseline_comparisons() -> None:
    base = result([0] * 20)
    others = [result([1] * n + [0] * (20 - n)) for n in (6, 10, 0)]
    found = compare_to_baseline(base, others)
    raw = [2 / 2**6, 2 / 2**10, 1.0]
    assert [c.p for c in found] == pytest.approx(raw)
    assert [c.adjusted_p for c in found] == pytest.approx([raw[0] * 2, raw[1] * 3, 1.0])
    assert compare_to_baseline(base, []) == []


def test_changed_goes_both_ways() -> None:
    assert changed(result([0, 1, 1, 0.25]), result([1, 0, 1, 0.5])) == (["q0", "q3"], ["q1"])


@pytest.mark.parametrize("field", ["task", "split", "task_hash"])
def test_other_tasks_and_splits_are_refused(field: str) -> None:
    other = replace(result([1]), **{field: "other"})
    with pytest.raises(UserError, match=rf"cannot be compared: {field} is .* and 'other'"):
        compare(result([1]), other)


def test_nothing_shared_is_refused() -> None:
    with pytest.raises(UserError, match="share no question"):
        compare(result([1, None]), result([None, 1]))


@given(st.lists(st.tuples(st.sampled_from([0, 1]), st.sampled_from([0, 1])), min_size=1, max_size=30))
def test_swapping_the_systems_mirrors_the_comparison(pairs: list[tuple[float, float]]) -> None:
    first, second = result([a for a, _ in pairs]), result([b for _, b in pairs])
    one, other = compare(first, second), compare(second, first)
    assert one.p == other.p
    assert (one.only_first, one.only_second) == (other.only_second, other.only_first)
    assert one.difference.value == pytest.approx(-other.difference.value)
    assert changed(first, second) == changed(second, first)[::-1]
