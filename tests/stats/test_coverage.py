"""The coverage law over resampled questions: the worked numbers, intervals that cover, what cannot be fitted."""

import numpy as np
import pytest

from workbench import stats
from workbench.errors import UserError

KS = [1, 2, 4, 8, 16, 32, 64]


def test_the_worked_numbers():
    law = stats.coverage_law([[0.159, 0.56]] * 5, [1, 250])
    assert (law.fit.a, law.fit.b) == pytest.approx((-1.8389, -0.2090), abs=1e-4)
    assert law.coverage(5).value == pytest.approx(0.2689, abs=1e-4)
    assert (law.failed, law.residual) == (0, pytest.approx(0, abs=1e-12))


def test_questions_that_are_all_alike_give_no_interval_of_no_width():
    for questions in (1, 5):
        law = stats.coverage_law([[0.159, 0.56]] * questions, [1, 250])
        assert (law.a, law.b, law.fits, law.failed) == (None, None, (), 0)
        ahead = law.coverage(500)
        wilson = stats.wilson_interval(ahead.value * questions, questions)
        assert (ahead.low, ahead.high, ahead.method) == (wilson.low, wilson.high, "wilson")
    law = stats.coverage_law([[0.1, 0.5], [0.2, 0.6]], [1, 250])
    assert law.a.low < law.a.value < law.a.high and law.coverage(500).method == "bootstrap"


def pool(seed, questions=60):
    rng = np.random.default_rng(seed)
    easy = rng.beta(0.6, 2.0, (questions, 1))
    return stats.pass_curve(rng.random((questions, 64)) < easy)[:, [k - 1 for k in KS]]


def test_intervals_hold_the_law_of_many_questions():
    truth = stats.coverage_law(pool(0, 20_000), KS, resamples=1)
    held = {"a": 0, "b": 0, "next": 0}
    for seed in range(1, 31):
        law = stats.coverage_law(pool(seed), KS, resamples=120, seed=seed)
        held["a"] += law.a.low <= truth.fit.a <= law.a.high
        held["b"] += law.b.low <= truth.fit.b <= law.b.high
        ahead = law.coverage(128)
        held["next"] += ahead.low <= truth.fit.coverage(128) <= ahead.high
        assert law.a.low <= law.a.value <= law.a.high
    assert all(count >= 24 for count in held.values()), held


def test_questions_that_are_never_answered_leave_some_resamples_without_a_law():
    passes = np.zeros((4, 3))
    passes[0] = [0.2, 0.4, 0.7]
    law = stats.coverage_law(passes, [1, 2, 4], resamples=200, seed=1)
    assert 20 < law.failed < 120 and len(law.fits) == 200 - law.failed, "three in ten have none of it"


def test_what_it_refuses():
    with pytest.raises(UserError, match="A coverage law needs two different ks"):
        stats.coverage_law(np.zeros((4, 3)), [1, 2, 4])
    for bad in ([0.1, 0.2], np.zeros((0, 2))):
        with pytest.raises(UserError, match="passes must be numbers"):
            stats.coverage_law(bad, [1, 2])
