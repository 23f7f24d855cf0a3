"""Best of n's divergence against its bound and brute force; the scorer's view beside the true one."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from workbench import stats
from workbench.errors import UserError

SCORES = st.lists(st.sampled_from([-math.inf, 0.0, 1.0, 2.5]), min_size=1, max_size=5)


@given(SCORES, st.data())
@settings(deadline=None)
def test_it_is_the_divergence_of_every_draw_spelt_out(scores, data):
    n = data.draw(st.integers(1, len(scores)))
    base = {s: scores.count(s) / len(scores) for s in scores}
    best = dict.fromkeys(base, 0.0)
    for draw in itertools.product(scores, repeat=n):  # with replacement: the pool stands for the model
        best[max(draw)] += 1 / len(scores) ** n
    spelt = sum(p * math.log(p / base[s]) for s, p in best.items() if p)
    [measured] = stats.best_of_n_kl([scores], n)
    assert measured == pytest.approx(spelt, abs=1e-9)
    assert measured <= stats.best_of_n_kl_bound(n) + 1e-12


def test_worked_numbers():
    coin = [[0.0, 1.0]]
    assert stats.best_of_n_kl(coin, 2)[0] == pytest.approx(0.75 * math.log(1.5) + 0.25 * math.log(0.5))
    rng = np.random.default_rng(0)
    many = rng.normal(size=(2, 4096))
    for n, bound in ((4, 0.636294), (16, 1.835089), (64, 3.174508)):
        assert stats.best_of_n_kl(many, n) == pytest.approx(bound, abs=1e-3), "no two alike: the bound itself"
        alike = stats.best_of_n_kl(np.round(many * 2), n)
        assert np.all(alike < bound - 0.01), "equal scores keep it below"
    assert stats.best_of_n_kl(many[:, :64], 64)[0] == pytest.approx(3.174508 - 0.0407, abs=1e-3)
    assert stats.best_of_n_kl(np.zeros((1, 9)), 9)[0] == 0, "a scorer that likes all alike chooses nothing"


@given(SCORES, st.data())
@settings(deadline=None)
def test_the_proxy_is_the_mean_of_the_best_score_over_subsets(scores, data):
    k = data.draw(st.integers(1, len(scores)))
    best = [max(subset) for subset in itertools.combinations(scores, k)]
    can = [value for value in best if value > -math.inf]
    view = stats.proxy_view([scores], [[0] * len(scores)], [k])
    if can:
        assert view.proxy_QK[0, 0] == pytest.approx(sum(can) / len(can))
    else:
        assert math.isnan(view.proxy_QK[0, 0])


def test_a_scorer_that_likes_long_wrong_answers_is_seen_through():
    rng = np.random.default_rng(0)
    correct = rng.random((60, 32)) < 0.5
    scores = rng.normal(size=(60, 32)) + correct  # right answers are better …
    scores = np.where(
        ~correct & (rng.random((60, 32)) < 0.08), scores + 20, scores
    )  # … but some wrong ones fool it
    ks = [1, 2, 4, 8, 16, 32]
    view, true = stats.proxy_view(scores, correct, ks), stats.best_of_n_curve(scores, correct, ks).mean(axis=0)
    assert np.all(np.diff(view.proxy_QK.mean(axis=0)) > 0), "the scorer sees nothing but progress"
    assert view.peak in (2, 4) and true[-1] < true[0]
    assert view.fall.difference.high < 0 and view.fall.p_value < 0.01
    assert view.fall.difference.value == pytest.approx(true[-1] - true.max())


def test_what_it_refuses():
    with pytest.raises(UserError, match="n is 3"):
        stats.best_of_n_kl([[0.0, 1.0]], 3)
    with pytest.raises(UserError, match="scores must be numbers"):
        stats.best_of_n_kl([[math.nan, 1.0]], 1)
