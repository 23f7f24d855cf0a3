"""Statistics: worked numbers, brute force over subsets, other implementations, and laws that must hold."""

import itertools
import math
import subprocess
import sys
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binom, binomtest

from workbench import stats
from workbench.errors import UserError

# --- pass@k -----------------------------------------------------------------------------------------


def test_pass_at_k_worked_numbers():
    assert stats.pass_at_k(10, 3, 5) == pytest.approx(0.916667, abs=1e-6)
    assert stats.pass_at_k(200, 1, 100) == pytest.approx(0.5, abs=1e-12)


@given(st.integers(1, 8).flatmap(lambda n: st.tuples(st.just(n), st.integers(0, n), st.integers(0, n))))
def test_pass_at_k_is_the_share_of_subsets_with_a_hit(case):
    n, c, k = case
    subsets = list(itertools.combinations(range(n), k))
    share = sum(any(i < c for i in subset) for subset in subsets) / len(subsets)
    assert stats.pass_at_k(n, c, k) == pytest.approx(share, abs=1e-12)


@given(st.integers(1, 3000), st.data())
def test_pass_at_k_equals_exact_integers(n, data):
    c, k = data.draw(st.integers(0, n)), data.draw(st.integers(1, n))
    exact = 1 - (math.comb(n - c, k) / math.comb(n, k))
    assert stats.pass_at_k(n, c, k) == pytest.approx(exact, abs=1e-12)


def test_pass_at_k_keeps_its_digits_where_it_is_tiny():
    assert stats.pass_at_k(10**6, 1, 1) == pytest.approx(1e-6, rel=1e-12)


def test_pass_at_k_broadcasts_and_rises_with_k():
    table = stats.pass_at_k(50, np.arange(51)[:, None], np.arange(1, 51)[None, :])
    assert table.shape == (51, 50)
    assert np.all(np.diff(table, axis=1) >= -1e-12)
    assert np.all(table[0] == 0) and not np.any(np.signbit(table))
    assert np.all(table[40:, 10:] == 1)  # ten wrong ones cannot fill a subset of eleven
    assert np.all(table[:, 0] == pytest.approx(np.arange(51) / 50))


@pytest.mark.parametrize(
    ("arguments", "field"),
    [
        ((5, 6, 1), "c"),
        ((5, 1, 6), "k"),
        ((-1, 0, 0), "n"),
        ((5, -1, 1), "c"),
        ((5, 1.5, 1), "c"),
        ((float("nan"), 1, 1), "n"),
        (([5, 5], [1, 6], 1), "c"),
    ],
)
def test_pass_at_k_names_the_field_it_refuses(arguments, field):
    with pytest.raises(UserError, match=f"^{field} "):
        stats.pass_at_k(*arguments)


# --- majority ---------------------------------------------------------------------------------------


def vote(answers, target):
    """One vote, spelt out: the target's share of the point."""
    cast = [answer for answer in answers if answer is not None]
    if not cast or target is None:
        return 0.0
    top = max(map(cast.count, cast))
    winners = {answer for answer in cast if cast.count(answer) == top}
    return (target in winners) / len(winners)


def test_majority_worked_numbers():
    assert stats.majority_at_k(["18", "18", "26"], "18", 3) == 1
    assert stats.majority_at_k(["18", "26"], "18", 2) == 0.5
    chances = {"a": 0.4, "b": 0.35, "c": 0.25}
    expected = sum(
        math.prod(chances[answer] for answer in draw) * stats.majority_at_k(draw, "a", 3)
        for draw in itertools.product(chances, repeat=3)
    )
    assert expected == pytest.approx(0.422, abs=1e-9)


answer_lists = st.lists(st.sampled_from(["a", "b", "c", "d", None]), min_size=1, max_size=9)


@given(answer_lists, st.sampled_from(["a", "b", "zzz", None]), st.data())
def test_majority_is_the_mean_vote_over_all_subsets(answers, target, data):
    k = data.draw(st.integers(1, len(answers)))
    votes = [vote(subset, target) for subset in itertools.combinations(answers, k)]
    assert stats.majority_at_k(answers, target, k) == pytest.approx(sum(votes) / len(votes), abs=1e-12)


def test_none_never_votes_and_never_equals_none():
    assert stats.majority_at_k([None, None, "7"], "7", 3) == 1
    assert stats.majority_at_k([None, None], None, 2) == 0
    assert stats.majority_at_k([None, "7"], None, 1) == 0
    assert stats.majority_at_k([None, "7"], "7", 1) == 0.5


@given(st.integers(0, 2**32 - 1))
@settings(max_examples=25)
def test_a_table_equals_its_questions_one_by_one(seed):
    rng = np.random.default_rng(seed)
    table, targets = rng.integers(-1, 4, (5, 9)) * 1000, rng.integers(-1, 4, 5) * 1000
    ks = [9, 1, 4]
    curve = stats.majority_curve(table, targets, ks)
    assert curve.shape == (5, 3)
    for row, target, scores in zip(table, targets, curve, strict=True):
        answers = [None if answer < 0 else answer for answer in row]
        for k, score in zip(ks, scores, strict=True):
            alone = stats.majority_at_k(answers, None if target < 0 else target, k)
            assert score == pytest.approx(alone, abs=1e-12)


def test_random_subsets_agree_with_the_exact_sum(monkeypatch):
    rng = np.random.default_rng(5)
    table, targets, ks = rng.integers(-1, 5, (40, 30)), rng.integers(0, 5, 40), [30, 2, 8, 15]
    exact = stats.majority_curve(table, targets, ks)
    monkeypatch.setattr(stats, "EXACT_WORK", 0)
    drawn = stats.majority_curve(table, targets, ks, subsets=2500, seed=1)
    assert np.abs(drawn - exact).max() < 5 * 0.5 / math.sqrt(2500)
    assert np.abs((drawn - exact).mean(axis=0)).max() < 4 * 0.5 / math.sqrt(2500 * 40)
    assert np.abs(drawn - exact)[:, 1:].max() > 0  # it did draw
    assert drawn[:, 0] == pytest.approx(exact[:, 0])  # all thirty: one subset
    assert np.array_equal(drawn, stats.majority_curve(table, targets, ks, subsets=2500, seed=1))
    assert not np.array_equal(drawn, stats.majority_curve(table, targets, ks, subsets=2500, seed=2))


def test_random_subsets_without_a_vote_or_a_target_score_0(monkeypatch):
    monkeypatch.setattr(stats, "EXACT_WORK", 0)
    table = [[-1, -1, -1, -1], [-1, -1, 3, -1], [-1, -1, -1, 3], [3, 3, 3, 3]]
    curve = stats.majority_curve(table, [3, 4, 3, -1], [4, 2], subsets=400)
    assert curve[:, 0].tolist() == [0, 0, 1, 0]
    assert curve[2, 1] == pytest.approx(0.5, abs=0.1)  # half of the pairs hold the one vote


def test_questions_with_the_same_answers_draw_different_subsets(monkeypatch):
    monkeypatch.setattr(stats, "EXACT_WORK", 0)
    row = np.repeat([0, 1], 50)
    curve = stats.majority_curve(np.tile(row, (200, 1)), np.zeros(200), [11], subsets=4)
    assert len(np.unique(curve)) > 1
    assert curve.mean() == pytest.approx(0.5, abs=4 * 0.5 / math.sqrt(800))


def test_more_samples_than_a_double_can_count_subsets_of():
    answers = [0] * 1200 + [1] * 800 + [None] * 200
    assert stats.majority_at_k(answers, 0, 1101, subsets=50) == 1
    assert stats.majority_at_k(answers, 0, 1) == pytest.approx(1200 / 2200)


def test_a_thousand_questions_of_a_thousand_samples_are_quick():
    rng = np.random.default_rng(0)
    table, targets = rng.integers(-1, 20, (1000, 1000)), np.zeros(1000, dtype=int)
    ks = [1, 2, 4, 8, 16, 32, 64, 128, 256, 512]
    started = time.process_time()
    stats.majority_curve(table, targets, ks)
    stats.pass_at_k(1000, (table == 0).sum(axis=1)[:, None], np.array(ks))
    assert time.process_time() - started < 1.0


def test_empty_tables_and_bad_shapes():
    assert stats.majority_curve(np.zeros((0, 4)), np.zeros(0), [1, 2]).shape == (0, 2)
    for k in (0, 3):
        with pytest.raises(UserError, match="k is"):
            stats.majority_at_k(["a", "b"], "a", k)
    with pytest.raises(UserError, match="shape"):
        stats.majority_curve(np.zeros((2, 4)), np.zeros(3), [1])


# --- intervals --------------------------------------------------------------------------------------


@given(st.integers(1, 2000), st.data(), st.sampled_from([0.8, 0.95, 0.99]))
def test_wilson_equals_scipy(total, data, confidence):
    successes = data.draw(st.integers(0, total))
    ours = stats.wilson_interval(successes, total, confidence)
    theirs = binomtest(successes, total).proportion_ci(confidence, method="wilson")
    assert (ours.low, ours.high) == pytest.approx((theirs.low, theirs.high), abs=1e-9)
    assert 0 <= ours.low <= ours.value <= ours.high <= 1


def test_wilson_covers_what_it_says():
    hits = np.arange(61)
    covered = [stats.wilson_interval(int(c), 60) for c in hits]
    inside = np.array([interval.low <= 0.3 <= interval.high for interval in covered])
    assert binom.pmf(hits, 60, 0.3) @ inside == pytest.approx(0.95, abs=0.02)


def test_nothing_seen_is_known_to_lie_between_0_and_1():
    for interval in (stats.wilson_interval(0, 0), stats.bootstrap_interval([])):
        assert (interval.low, interval.high) == (0, 1)


@pytest.mark.parametrize("arguments", [(5, 4), (-1, 4), (1, 4, 1.0), (1, 4, 95), (1, -1)])
def test_wilson_refuses(arguments):
    with pytest.raises(UserError):
        stats.wilson_interval(*arguments)


def test_bootstrap_is_near_the_normal_interval_and_repeats():
    scores = np.random.default_rng(0).random(400)
    interval = stats.bootstrap_interval(scores, seed=3)
    half = 1.96 * scores.std() / 20
    assert interval.value == pytest.approx(scores.mean())
    assert (interval.low, interval.high) == pytest.approx(
        (scores.mean() - half, scores.mean() + half), abs=0.003
    )
    assert interval == stats.bootstrap_interval(scores, seed=3)
    assert interval != stats.bootstrap_interval(scores, seed=4)
    narrow = stats.bootstrap_interval(scores, confidence=0.5, seed=3)
    assert interval.low < narrow.low < narrow.high < interval.high


@given(st.lists(st.sampled_from([0.0, 0.25, 0.5, 1.0]), min_size=1, max_size=30))
@settings(max_examples=40)
def test_bootstrap_contains_its_estimate_and_has_a_width(scores):
    interval = stats.bootstrap_interval(scores, resamples=500)
    assert 0 <= interval.low <= interval.value <= interval.high <= 1
    assert interval.low < interval.high


@pytest.mark.parametrize("scores", [[1.5], [-0.1, 0.2], [float("nan")], [[0.1, 0.2]]])
def test_scores_out_of_range_are_refused(scores):
    with pytest.raises(UserError, match="scores must be"):
        stats.bootstrap_interval(scores)


# --- two systems ------------------------------------------------------------------------------------


@given(st.integers(0, 200), st.integers(0, 200))
def test_mcnemar_equals_scipys_binomial_test(b, c):
    expected = binomtest(b, b + c).pvalue if b + c else 1.0
    assert stats.mcnemar_exact(b, c) == pytest.approx(expected, rel=1e-9)


def test_mcnemar_by_hand():
    assert stats.mcnemar_exact(0, 5) == 0.0625  # 2/32: five are not enough at .05
    assert stats.mcnemar_exact(6, 0) == 0.03125
    assert 0 <= stats.mcnemar_exact(2000, 9000) < 1e-300


@pytest.mark.parametrize(("b", "c"), [(3, 12), (10, 10), (0, 1), (20, 9), (0, 4)])
def test_paired_p_value_is_mcnemars_for_right_and_wrong(b, c):
    first = np.repeat([1, 0, 1, 0], [b, c, 15, 9])
    second = np.repeat([0, 1, 1, 0], [b, c, 15, 9])
    paired = stats.paired_bootstrap(first, second, resamples=20_000)
    assert paired.difference.value == pytest.approx((b - c) / len(first))
    assert paired.p_value == pytest.approx(stats.mcnemar_exact(b, c), abs=0.015)
    assert paired.difference.low <= paired.difference.value <= paired.difference.high


def test_paired_interval_is_near_the_normal_one():
    rng = np.random.default_rng(0)
    second = rng.random(500) * 0.8
    first = np.clip(second + rng.normal(0.05, 0.1, 500), 0, 1)
    gaps = first - second
    half = 1.96 * gaps.std() / math.sqrt(500)
    paired = stats.paired_bootstrap(first, second)
    assert (paired.difference.low, paired.difference.high) == pytest.approx(
        (gaps.mean() - half, gaps.mean() + half), abs=0.001
    )
    assert paired.p_value == 1 / 10_001  # never 0
    assert paired == stats.paired_bootstrap(first, second)


def test_paired_is_antisymmetric():
    first, second = [1, 1, 0, 1, 0.5, 1], [0, 1, 0, 0.25, 1, 0]
    there, back = stats.paired_bootstrap(first, second), stats.paired_bootstrap(second, first)
    assert there.p_value == back.p_value
    assert there.difference.low == pytest.approx(-back.difference.high)


def test_identical_systems_differ_by_0_with_a_width():
    paired = stats.paired_bootstrap([1] * 20, [1] * 20)
    assert paired.p_value == 1
    half = 1.959964 * math.sqrt(2 / 22 / 22)  # one pseudo-question each way, of 22
    assert (paired.difference.low, paired.difference.high) == pytest.approx((-half, half), abs=1e-6)


def test_few_questions_prove_nothing():
    one = stats.paired_bootstrap([1], [0])
    assert one.p_value == 1 and one.difference.low < 0 < one.difference.high
    none = stats.paired_bootstrap([], [])
    assert (none.difference.low, none.difference.high, none.p_value) == (-1, 1, 1)


def test_unequal_lengths_are_refused():
    with pytest.raises(UserError, match=r"3 questions .* 2"):
        stats.paired_bootstrap([1, 0, 1], [1, 0])


def test_holm_by_hand():
    assert stats.holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert stats.holm([0.6, 0.7]) == [1, 1]
    assert stats.holm([]) == []
    with pytest.raises(UserError):
        stats.holm([0.1, 1.1])


@given(st.lists(st.floats(0, 1), min_size=1, max_size=12), st.randoms())
def test_holm_keeps_order_and_lies_between_raw_and_bonferroni(p_values, random):
    adjusted = stats.holm(p_values)
    by_p = sorted(zip(p_values, adjusted, strict=True))
    assert all(low[1] <= high[1] for low, high in itertools.pairwise(by_p))
    assert all(p <= q <= min(1, len(p_values) * p) for p, q in by_p)
    order = list(range(len(p_values)))
    random.shuffle(order)
    assert stats.holm([p_values[i] for i in order]) == [adjusted[i] for i in order]


@given(st.integers(10, 5000), st.floats(0.05, 1.0))
def test_minimum_detectable_effect_solves_its_formula(total, discordance):
    delta = stats.minimum_detectable_effect(total, discordance)
    psi = max(discordance, delta)
    needed = (1.959964 * math.sqrt(psi) + 0.841621 * math.sqrt(psi - delta**2)) ** 2 / delta**2
    assert needed == pytest.approx(total, rel=1e-4)
    assert stats.minimum_detectable_effect(2 * total, discordance) < delta


def test_minimum_detectable_effect_has_its_power():
    rng = np.random.default_rng(0)
    total, psi = 400, 0.3
    delta = stats.minimum_detectable_effect(total, psi)
    draws = rng.multinomial(total, [(psi + delta) / 2, (psi - delta) / 2, 1 - psi], size=2000)
    found = np.mean([stats.mcnemar_exact(int(b), int(c)) < 0.05 for b, c, _ in draws])
    assert found == pytest.approx(0.8, abs=0.05)  # the exact test is a little weaker than the formula


def test_no_questions_detect_nothing():
    assert stats.minimum_detectable_effect(0) == 1
    assert stats.minimum_detectable_effect(2) == 1


# --- laws and labels --------------------------------------------------------------------------------


@pytest.mark.parametrize(("n", "bound"), [(1, 0), (4, 0.636294), (16, 1.835089), (64, 3.174508)])
def test_best_of_n_kl_bound(n, bound):
    assert stats.best_of_n_kl_bound(n) == pytest.approx(bound, abs=1e-6)


def test_best_of_n_kl_is_below_its_bound_for_a_coin():
    best = 1 - 0.5**4  # best of 4 where half of the answers are good
    kl = best * math.log(best / 0.5) + (1 - best) * math.log((1 - best) / 0.5)
    assert kl < stats.best_of_n_kl_bound(4)


def test_coverage_law_through_two_points():
    fit = stats.fit_coverage([1, 250], [0.159, 0.56])
    assert (fit.a, fit.b) == pytest.approx((-1.8389, -0.2090), abs=1e-4)
    assert [fit.coverage(k) for k in (1, 5, 250)] == pytest.approx([0.159, 0.2689, 0.56], abs=1e-4)
    assert fit.a_error is None and fit.b_error is None


def test_coverage_law_is_recovered_with_errors_that_cover_it():
    ks = 2.0 ** np.arange(10)
    truth = np.exp(-2.0 * ks**-0.3)
    exact = stats.fit_coverage(list(ks), list(truth))
    assert (exact.a, exact.b) == pytest.approx((-2.0, -0.3), abs=1e-6)
    rng = np.random.default_rng(0)
    fits = [stats.fit_coverage(list(ks), list(truth + rng.normal(0, 0.01, 10))) for _ in range(100)]
    for name, value in (("a", -2.0), ("b", -0.3)):
        within = [abs(getattr(fit, name) - value) < 2 * getattr(fit, f"{name}_error") for fit in fits]
        assert 0.85 < np.mean(within) <= 1


def test_coverage_law_takes_saturated_points():
    fit = stats.fit_coverage([1, 4, 16, 64], [0.2, 0.6, 0.95, 1.0])
    assert fit.coverage(64) > 0.9 and fit.a < 0


@pytest.mark.parametrize(
    ("ks", "coverage"),
    [([1], [0.5]), ([1, 2], [0, 1]), ([2, 2], [0.4, 0.5]), ([1, 2], [0.5]), ([0, 2], [0.1, 0.2])],
)
def test_coverage_law_refuses_what_it_cannot_fit(ks, coverage):
    with pytest.raises(UserError):
        stats.fit_coverage(ks, coverage)


def test_macro_f1_of_the_majority_class_of_phrasebank():
    targets = ["neutral"] * 1391 + ["positive"] * 570 + ["negative"] * 303
    labels = ["negative", "neutral", "positive"]
    assert stats.macro_f1(targets, ["neutral"] * 2264, labels) == pytest.approx(0.2537, abs=5e-5)
    assert stats.macro_f1(targets, targets, labels) == 1


def test_macro_f1_counts_no_answer_as_a_miss():
    # yes: 1 hit of 2 targets, 1 answer → 2/3; no: 1 hit of 1 target, 1 answer → 1
    assert stats.macro_f1(["yes", "yes", "no"], ["yes", None, "no"], ["yes", "no"]) == pytest.approx(5 / 6)
    assert stats.macro_f1(["yes", "yes", "no"], ["yes", "perhaps", "no"], ["yes", "no"]) == pytest.approx(
        5 / 6
    )
    assert stats.macro_f1(["yes"], ["yes"], ["yes", "no"]) == 1
    assert stats.macro_f1([], [], ["yes"]) == 0
    with pytest.raises(UserError):
        stats.macro_f1(["yes"], [], ["yes"])


def test_importing_stats_and_cost_loads_nothing_heavy():
    heavy = "{'scipy', 'torch', 'pynvml', 'pandas'}"
    code = f"import sys, workbench.stats, workbench.cost; print(sorted({heavy} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
