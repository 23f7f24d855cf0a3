"""Figures about choosing: curves against brute force over subsets, the scorer's own view, the bound on the KL."""

import math
from itertools import combinations
from statistics import fmean

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from workbench.choice_metrics import curves, decode_metrics, scored_metrics
from workbench.cost import ModelShape, inference_flops
from workbench.decodes import BestOfN, EarlyMajority, Greedy, Majority, WeightedVote
from workbench.metrics import cost_to_use
from workbench.stats import best_of_n_kl_bound
from workbench.types import Completion, Outcome, Status

RIGHT, WRONG, OTHER, MUTE = (
    (Status.CORRECT, "7"),
    (Status.WRONG, "5"),
    (Status.WRONG, "3"),
    (Status.UNPARSABLE, None),
)


def votes(samples: list[tuple[tuple[Status, str | None], float]]) -> float:
    """The right answer's share of the point in a weighted vote."""
    sums: dict[str, float] = {}
    for (_, answer), weight in samples:
        if answer is not None and weight > 0:
            sums[answer] = sums.get(answer, 0.0) + weight
    if not sums:
        return 0.0
    most = max(sums.values())
    tied = [answer for answer, weight in sums.items() if math.isclose(weight, most, rel_tol=1e-9)]
    return float("7" in tied) / len(tied)


@settings(max_examples=15, deadline=None)
@given(
    st.lists(
        st.tuples(st.sampled_from([RIGHT, WRONG, OTHER, MUTE]), st.sampled_from([0.1, 0.2, 0.5, 0.9])),
        min_size=1, max_size=5,
    )
)  # fmt: skip
def test_every_curve_is_the_mean_over_all_subsets(samples: list[tuple[tuple[Status, str | None], float]]) -> None:
    n = len(samples)
    graded, scores = [[grade for grade, _ in samples]], [[score for _, score in samples]]
    metrics, _ = scored_metrics(graded, scores, BestOfN(n, scorer="judge"))
    for k in [k for k in (1, 2, 4, n) if k <= n]:
        subsets = [[samples[i] for i in chosen] for chosen in combinations(range(n), k)]
        likes = [max(subset, key=lambda one: one[1]) for subset in subsets]
        assert metrics[f"best_of@{k}"] == pytest.approx(fmean(one[0] == RIGHT for one in likes))
        assert metrics[f"proxy@{k}"] == pytest.approx(fmean(one[1] for one in likes))
        assert metrics[f"weighted@{k}"] == pytest.approx(fmean(map(votes, subsets)), abs=0.02), "random orders"
        assert metrics[f"pass@{k}"] == pytest.approx(
            fmean(any(s[0] == RIGHT for s in subset) for subset in subsets)
        )
        assert 0 <= metrics[f"kl@{k}"] <= best_of_n_kl_bound(k) + 1e-9
    assert metrics[f"weighted@{n}"] == pytest.approx(votes(samples)), "of all of them, exactly"


def test_a_weighted_vote_is_tested_against_chance_and_the_majority() -> None:
    """METHODS.md's worked number: .6 + .5 for A against .9 for B; the majority of three is A too."""
    graded = [[RIGHT, RIGHT, WRONG]] * 6
    scores = [[0.6, 0.5, 0.9]] * 6
    metrics, sentence = scored_metrics(graded, scores, WeightedVote(3, scorer="judge"))
    assert metrics["weighted@3"] == 1 and metrics["best_of@3"] == 0
    assert metrics["weighted_over_random"] == pytest.approx(1 / 3)
    assert metrics["weighted_over_majority"] == 0
    assert "best_over_random" not in metrics
    assert sentence.startswith("Weighted vote of 3 on 6 questions: +33.3 points")
    best, sentence = scored_metrics(graded, scores, BestOfN(3, scorer="judge"))
    assert best["best_over_majority"] == -1
    assert sentence.startswith("Best of 3 on 6 questions: -66.7 points")
    assert metrics["proxy@3"] == pytest.approx(0.9), "the scorer likes what is wrong: reward hacking"


def test_where_nothing_can_be_chosen_there_is_no_view() -> None:
    cut = (Status.TRUNCATED, None)
    metrics, _ = scored_metrics([[cut, cut]], [[-math.inf, -math.inf]], BestOfN(2, scorer="logprob"))
    assert "proxy@1" not in metrics
    assert metrics["best_of@2"] == metrics["weighted@2"] == 0
    metrics, _ = scored_metrics([[cut, RIGHT]], [[-math.inf, -1.0]], BestOfN(2, scorer="logprob"))
    assert metrics["proxy@1"] == metrics["proxy@2"] == -1, "over the subsets in which one can be"
    assert metrics["best_of@1"] == 0.5


def test_what_is_said_of_each_decode() -> None:
    graded = [[RIGHT, WRONG, RIGHT]]
    outcome = [Outcome("q", Status.CORRECT, 1.0, "7", "7", 3)]
    assert decode_metrics(Greedy(), [[RIGHT]], outcome, []) == ({}, [])
    voted, [sentence] = decode_metrics(Majority(3), graded, outcome, [])
    assert "vote_gain" in voted and "pass@3" in voted and "the vote adds" in sentence
    early, _ = decode_metrics(EarlyMajority(3, block=1), graded, outcome, [])
    assert early["one_sample"] == 0.5, "the first round alone: two samples"
    assert "pass@3" not in early
    _, sentences = decode_metrics(BestOfN(3, scorer="verifier"), graded, outcome, [[1.0, 0.0, 1.0]])
    assert any("oracle" in sentence for sentence in sentences)
    assert curves([[RIGHT]], 2) == {}, "a question without all its samples is in no curve"


def test_a_prompt_is_counted_once_a_round() -> None:
    shape = ModelShape(parameters=1000, layers=1, hidden=8, heads=1, kv_heads=1, head_dim=8)
    answers = [[Completion(0, "a", 10, 4), Completion(1, "b", 10, 6)], [Completion(0, "c", 20, 8)]]
    plain, twice = cost_to_use(shape, answers, [], 1.5), cost_to_use(shape, answers, [], 1.5, [2, 1])
    assert plain.prompt_tokens == 15 and twice.prompt_tokens == 15 + 10 / 2
    assert plain.completion_tokens == twice.completion_tokens == 9
    assert plain.flops is not None and twice.flops is not None
    assert twice.flops - plain.flops == pytest.approx(inference_flops(shape, 10, 0) / 2)
