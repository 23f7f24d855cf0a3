"""Counting a server's tokens: what the samples have together is what the server counted."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from workbench.engines.answers import read_likely, read_samples, read_tokens, token_counts
from workbench.engines.base import TokenScore
from workbench.engines.client import ServerError

COUNTS = st.lists(st.one_of(st.none(), st.integers(0, 300)), min_size=1, max_size=32)


@given(COUNTS.filter(lambda counts: any(count is not None for count in counts)), st.integers(0, 10_000))
def test_counts_add_up_to_the_server_s_own(scored: list[int | None], total: int) -> None:
    counts = token_counts(scored, {"completion_tokens": total})
    assert sum(counts) == total
    assert all(count >= 0 for count in counts)
    assert [count for count, told in zip(counts, scored, strict=True) if told is None] == [0] * scored.count(None)
    known = [0 if told is None else told for told in scored]
    if sum(known) == total > 0:
        assert counts == known
    if sum(known):  # each within one token of its share
        assert all(abs(a - total * b / sum(known)) < 1 for a, b in zip(counts, known, strict=True))


def test_counts_by_largest_remainders() -> None:
    assert token_counts([10, 20, 30], {"completion_tokens": 63}) == [11, 21, 31]  # of 10.5, 21, 31.5
    assert token_counts([1, 1, 1], {"completion_tokens": 5}) == [2, 2, 1]
    assert token_counts([0, 0, None], {"completion_tokens": 3}) == [2, 1, 0]
    assert token_counts([None, None], {"completion_tokens": 3}) == [0, 0]


def answer(tokens: object, *lengths: int) -> dict[str, Any]:
    choices = [
        {"index": i, "text": "x", "finish_reason": "stop", "logprobs": {"token_logprobs": [-0.5] * length}}
        for i, length in enumerate(lengths)
    ]
    return {"choices": choices, "usage": {"prompt_tokens": 3, "completion_tokens": tokens}}


def test_samples_have_the_server_s_counts() -> None:
    read = read_samples(answer(12, 4, 4), range(5, 7), 1.0)
    assert [(c.index, c.completion_tokens, c.logprob) for c in read] == [(5, 6, -2.0), (6, 6, -2.0)]
    [alone] = read_samples(answer(9, 4), range(1), 1.0)
    assert alone.completion_tokens == 9


@pytest.mark.parametrize("tokens", [None, -1, 2.5, "4", float("nan"), [4]])
def test_a_count_that_is_none_is_no_answer(tokens: object) -> None:
    with pytest.raises(ServerError, match="lacks what it must have"):
        read_samples(answer(tokens, 4), range(1), 1.0)


def echoed(**changes: Any) -> dict[str, Any]:
    top: list[Any] = [None, {"token_id:7": -1.0}, {"token_id:8": -3.0, "token_id:4": -0.5, "token_id:5": -2.0}]
    told = {"token_logprobs": [None, -1.0, -3.0], "top_logprobs": top}
    return {"choices": [{"index": 0, "logprobs": told | changes}]}


def test_tokens_with_the_likeliest_first() -> None:
    assert read_tokens(echoed(), 2, [8], 2) == (TokenScore(8, -3.0, ((4, -0.5), (5, -2.0))),)
    assert read_tokens(echoed(), 1, [7, 8], 0) == (TokenScore(7, -1.0), TokenScore(8, -3.0))


@pytest.mark.parametrize(
    "broken",
    [
        {},
        {"choices": []},
        {"choices": [{"logprobs": None}]},
        echoed(token_logprobs=[None, -1.0]),
        echoed(token_logprobs=[None, -1.0, float("nan")]),
        echoed(token_logprobs=[None, -1.0, None]),
        echoed(top_logprobs=None),
        echoed(top_logprobs=[None, {}, None]),
        echoed(top_logprobs=[None, {}, {"token_id:4": -0.5}]),
        echoed(top_logprobs=[None, {}, {" yes": -0.5, "token_id:5": -2.0}]),
        echoed(top_logprobs=[None, {}, {"token_id:4": float("inf"), "token_id:5": -2.0}]),
    ],
)
def test_tokens_that_are_missing_are_no_scores(broken: dict[str, Any]) -> None:
    with pytest.raises(ServerError, match="lacks log-probabilities"):
        read_tokens(broken, 2, [8], 2)


def test_the_likeliest_next_tokens_of_several_prompts() -> None:
    choices = [{"index": i, "logprobs": {"top_logprobs": [{f"token_id:{i}": -1.0}]}} for i in (1, 0)]
    assert read_likely({"choices": choices}, 2, 1) == [((0, -1.0),), ((1, -1.0),)]
    for broken in ({"choices": choices[:1]}, {"choices": [*choices[:1], {"index": 0, "logprobs": None}]}, {}):
        with pytest.raises(ServerError, match="lacks log-probabilities"):
            read_likely(broken, 2, 1)
