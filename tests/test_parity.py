"""Parity's numbers: divergence over what was told, where texts part, distances and verdicts."""

import math
from collections.abc import Sequence
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from workbench.compare import compare
from workbench.engines.base import TokenScore, TokenScores
from workbench.errors import UserError
from workbench.parity.bounds import FEWEST, Bounds, Config, Verdict, judge
from workbench.parity.measures import Distance, Measured, distance, parted_at, told_kl
from workbench.stats import wilson_interval
from workbench.types import CostToMake, CostToUse, Interval, Outcome, Result, Status

# --- KL over what was told --------------------------------------------------------------------------


def told(probabilities: Sequence[float], how_many: int, token: int = 0) -> TokenScore:
    """The likeliest tokens of a distribution, and the one that stands there."""
    logprobs = [math.log(p) for p in probabilities]
    order = sorted(range(len(probabilities)), key=lambda i: -logprobs[i])
    return TokenScore(token, logprobs[token], tuple((i, logprobs[i]) for i in order[:how_many]))


def exact(p: Sequence[float], q: Sequence[float]) -> float:
    return math.fsum(a * math.log(a / b) for a, b in zip(p, q, strict=True))


def distributions(size: int = 12) -> st.SearchStrategy[list[float]]:
    weights = st.lists(st.floats(1e-6, 1.0), min_size=size, max_size=size)
    return weights.map(lambda found: [w / math.fsum(found) for w in found])


def test_kl_on_a_worked_case() -> None:
    # Told: tokens 0 and 1. The rest of (.5, .25, .125, .125) is .25, that of (.25, .25, .4, .1) is .5.
    p, q = [0.5, 0.25, 0.125, 0.125], [0.25, 0.25, 0.4, 0.1]
    first = TokenScore(0, math.log(0.5), ((0, math.log(0.5)), (1, math.log(0.25))))
    second = TokenScore(0, math.log(0.25), ((2, math.log(0.4)), (1, math.log(0.25)), (0, math.log(0.25))))
    assert told_kl(first, second) == pytest.approx(0.5 * math.log(2) + 0.25 * math.log(0.5))
    assert told_kl(first, second) <= exact(p, q)


@given(distributions(), distributions())
def test_kl_is_exact_where_everything_is_told(p: list[float], q: list[float]) -> None:
    assert told_kl(told(p, 12), told(q, 12)) == pytest.approx(exact(p, q), abs=1e-7)


@given(distributions(), distributions(), st.integers(0, 12), st.integers(0, 12), st.integers(0, 11))
def test_kl_is_a_lower_bound_and_never_negative(
    p: list[float], q: list[float], some: int, others: int, token: int
) -> None:
    assert 0 <= told_kl(told(p, some, token), told(q, others, token)) <= exact(p, q) + 1e-7


@given(distributions(), st.integers(0, 12))
def test_kl_of_a_distribution_from_itself_is_nothing(p: list[float], some: int) -> None:
    assert told_kl(told(p, some), told(p, some)) == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize("excess", [0.0, 1e-7, -1e-7, 3e-7])
def test_a_tail_that_rounding_made_negative_is_no_trouble(excess: float) -> None:
    sure = TokenScore(0, 0.0, ((0, 0.0), (1, math.log(3e-7))))  # more than 1 in all
    other = TokenScore(0, math.log(1 - 2e-7 + excess), ((0, math.log(1 - 2e-7 + excess)), (1, math.log(2e-7))))
    assert 0 <= told_kl(sure, other) < 1e-5
    assert 0 <= told_kl(other, sure) < 1e-5


# --- where texts part -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [([1, 2, 3], [1, 2, 4], 2), ([1, 2], [1, 2, 3], 2), ([], [1], 0), ([5], [6], 0), ([1, 2], [1, 2], 2)],
)
def test_the_token_at_which_answers_part(first: list[int], second: list[int], expected: int) -> None:
    assert parted_at(first, second) == parted_at(second, first) == expected


# --- distances --------------------------------------------------------------------------------------


def measured(
    name: str, texts: Sequence[str | None], logprobs: Sequence[Sequence[float]], own: dict[str, TokenScores]
) -> Measured:
    """A system with these answers; a text's answer is its last word, None is a failed request."""
    outcomes = []
    for i, text in enumerate(texts):
        answer = text.split()[-1] if text and not text.endswith("?") else None
        score = None if text is None else float(answer == "7")
        status = Status.ERROR if text is None else Status.CORRECT if score else Status.WRONG
        outcomes.append(Outcome(f"q{i}", status, score, answer, "7", text=text or ""))
    counts = tuple((s.value, sum(o.status is s for o in outcomes)) for s in Status)
    answered = sum(o.score is not None for o in outcomes)
    right = sum(o.score or 0 for o in outcomes)
    result = Result(
        name * 16, "toy", "0" * 16, "dev", wilson_interval(right, answered), tuple(outcomes), counts,
        CostToMake(), CostToUse(10, 4, None, 0.5),
    )  # fmt: skip
    scores = {f"q{i}": scored(values) for i, values in enumerate(logprobs)}
    return Measured(name, result, scores, own)


def scored(logprobs: Sequence[float], tokens: Sequence[int] | None = None) -> TokenScores:
    ids = tokens or range(len(logprobs))
    return TokenScores(tuple(TokenScore(i, lp) for i, lp in zip(ids, logprobs, strict=True)))


def test_a_distance_on_a_worked_case() -> None:
    reference = measured("a", ["is 7", "is 8", "so 9"], [[-1, -1], [-1, -2, -3], [-1]], {})
    other = measured(
        "b", ["is 7", "is 7", "so 9"], [[-1, -1.5], [-1, -2, -1], [-1]], {"q1": scored([0, 0], [0, 9])}
    )
    found = distance(reference, other)
    assert [q.deltas for q in found.questions] == [(0, -0.5), (0, 0, 2), (0,)]
    assert found.drift is not None and found.signed is not None and found.kl is not None
    assert found.drift.value == pytest.approx(2.5 / 6) and found.signed.value == pytest.approx(1.5 / 6)
    assert found.drift.low <= found.drift.value <= found.drift.high
    assert (found.largest, found.tokens, found.scored, found.failed) == (2, 6, 3, 0)
    assert (found.texts.value, found.both) == (pytest.approx(2 / 3), 3)
    assert (found.answers.value, found.answered) == (pytest.approx(2 / 3), 3)
    assert found.parts_at == 1 and [q.parts_at for q in found.questions] == [None, 1, None]
    # Told are each place's token and the rest: p = e⁻¹ both times where nothing moved.
    p, q = math.exp(-1), math.exp(-1.5)
    assert found.questions[0].kls == (0, pytest.approx(p * 0.5 + (1 - p) * math.log((1 - p) / (1 - q))))
    assert other.speed == 8


def test_a_system_is_no_distance_from_itself() -> None:
    same = measured("a", ["is 7", "is 8"], [[-1, -1], [-1, -2, -3]], {})
    found = distance(same, same)
    assert found.drift == Interval(0, 0, 0, 0.95, "bootstrap") == found.kl
    assert (found.answers.value, found.texts.value, found.parts_at, found.largest) == (1, 1, None, 0)


def test_what_cannot_be_compared_is_left_out_and_counted() -> None:
    texts: list[str | None] = [None, "", "is 7", "is 7", "is 7", "who?", "is 7"]
    reference = measured("a", texts, [[], [], [-1, -1], [-1], [-1], [-1], [-1]], {})
    other = measured("b", ["is 7", "is 7", "is 7", None, "is 8", "who?", "is"], [[]] * 7, {})
    other = replace(other, scores={
        "q2": scored([-1, -1], [0, 5]), "q3": scored([-1.5]), "q4": TokenScores((), "time-out"),
        "q5": scored([-1]), "q6": scored([-1]),
    }, own={"q6": TokenScores((), "time-out")})  # fmt: skip
    found = distance(reference, other)
    assert dict(found.left_out) == {
        "the reference's request failed": 1,
        "the reference's answer is empty": 1,
        "tokenised differently": 1,
        "scoring failed": 1,
    }
    assert (found.scored, found.tokens) == (3, 3), "a system that failed to answer may still have read"
    assert found.failed == 2 and found.both == 5
    assert [q.same_answer for q in found.questions] == [None, False, True, None, False, None, False]
    assert found.parts_at is None, "the tokens of the only text that parts are not known"


def test_an_empty_answer_parts_at_the_first_token() -> None:
    found = distance(measured("a", ["is 7"], [[-1, -1]], {}), measured("b", [""], [[-1, -1]], {}))
    assert found.questions[0].parts_at == 0


def test_nothing_scored_is_no_drift() -> None:
    found = distance(measured("a", [""], [], {}), measured("b", [""], [], {}))
    assert (found.drift, found.kl, found.scored, found.texts.value) == (None, None, 0, 1)


# --- verdicts ---------------------------------------------------------------------------------------

BOUNDS = Bounds(drift=0.05, kl=0.005, points=3)


def far(
    drift: tuple[float, float, float], kl: tuple[float, float, float] = (0, 0, 0), scored: int = 40
) -> Distance:
    whole = wilson_interval(scored, scored)
    return Distance(
        (), whole, scored, whole, scored, None, Interval(*drift), Interval(0, 0, 0), Interval(*kl), 0, 0, 100,
        scored, 0, (("tokenised differently", 2),),
    )  # fmt: skip


def verdict(found: Distance, better: int = 0, worse: int = 0) -> Verdict:
    """With so many of 40 questions that only the system, and only the reference, has right."""
    before = ["is 7"] * worse + ["is 8"] * (40 - worse)
    after = ["is 8"] * worse + ["is 7"] * better + ["is 8"] * (40 - worse - better)
    comparison = compare(measured("a", before, [], {}).result, measured("b", after, [], {}).result)
    return judge(found, comparison, BOUNDS)


def test_the_same_is_what_lies_below_all_bounds_for_sure() -> None:
    assert verdict(far((0.01, 0.005, 0.02), (0.001, 0, 0.002))) == Verdict("same")
    assert str(verdict(far((0, 0, 0)))) == "same"


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        (far((0.31, 0.2, 0.4)), "drifted: mean drift 0.31 > 0.05"),
        (far((0.01, 0, 0.02), (0.02, 0.01, 0.03)), "drifted: KL 0.02 > 0.005"),
        (far((0.31, 0.2, 0.4), (0.02, 0.01, 0.03)), "drifted: mean drift 0.31 > 0.05; KL 0.02 > 0.005"),
        (far((0.01, 0, 0.06), (0.02, 0.01, 0.03)), "drifted: KL 0.02 > 0.005"),
    ],
)
def test_a_bound_that_failed_is_named_with_by_how_much(found: Distance, expected: str) -> None:
    assert str(verdict(found)) == expected


def test_few_questions_leave_it_undecided_whichever_side_the_mean_lies() -> None:
    # The upper end is (.06 − .03)/(.05 − .03) = 1.5 times too far: 1.5² times as many questions bring it in.
    assert str(verdict(far((0.03, 0.01, 0.06)))) == (
        "undecided: mean drift 0.03 (0.01 – 0.06) against 0.05: ask more questions (about 90)"
    )
    assert str(verdict(far((0.07, 0.04, 0.1)))) == (
        "undecided: mean drift 0.07 (0.04 – 0.1) against 0.05: ask more questions"
    )
    assert verdict(far((0.01, 0.01, 0.05))).state == "undecided", "the bound itself is not below it"


def test_no_interval_of_too_few_questions_is_believed() -> None:
    found = verdict(far((0, 0, 0), scored=FEWEST - 1))
    assert found.state == "undecided"
    assert found.reasons == (
        f"{FEWEST - 1} questions were scored, {FEWEST} are needed",
        "tokenised differently: 2",
    )
    assert verdict(far((9, 9, 9), scored=FEWEST - 1)).state == "undecided"
    assert judge(far((0, 0, 0)), None, BOUNDS).state == "undecided"


def test_accuracy_fails_where_the_test_finds_a_difference_beyond_the_bound() -> None:
    still = far((0.01, 0.005, 0.02))
    assert str(verdict(still, worse=10)) == "drifted: accuracy -25.0 points, more than 3 (p = 0.002)"
    assert verdict(still, better=10).state == "drifted", "better is not the same either"
    assert verdict(still, worse=3).state == "same", "three of 40 may be chance"
    wide = replace(BOUNDS, points=30)
    comparison = compare(
        measured("a", ["is 7"] * 10 + ["is 8"] * 30, [], {}).result,
        measured("b", ["is 8"] * 40, [], {}).result,
    )
    assert judge(still, comparison, wide).state == "same"


@pytest.mark.parametrize("field", ["drift", "kl", "points"])
@pytest.mark.parametrize("value", [-1, math.nan, math.inf])
def test_a_bound_that_is_none_is_refused_by_its_name(field: str, value: float) -> None:
    with pytest.raises(UserError, match=f"^{field} is"):
        Bounds(**{"drift": 0.1, "kl": 0.1, "points": 1, field: value})


def test_the_quantised_bounds_are_wider() -> None:
    same, wide = Config().of("same"), Config().of("quantised")
    assert same.drift < wide.drift and same.kl < wide.kl and same.points < wide.points
