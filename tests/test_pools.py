"""A pool: from graded completions to arrays, its file, what its samples cost."""

import io
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from workbench.cost import ModelShape, inference_flops
from workbench.errors import UserError
from workbench.pools import Pool, pool_of, read_pool
from workbench.types import Completion, Finish, Status

SHAPE = ModelShape(1000, 2, 8, 2, 2, 4)
RIGHT, WRONG = (Status.CORRECT, "7"), (Status.WRONG, "8")
SILENT, FAILED = (Status.UNPARSABLE, None), (Status.ERROR, None)


def drawn(*tokens: int) -> list[Completion]:
    return [Completion(i, "text", 20, count, -float(count), count / 10) for i, count in enumerate(tokens)]


def made(scorer: str = "logprob", rated: bool = False) -> Pool:
    graded = [[RIGHT, WRONG, SILENT], [WRONG, WRONG, RIGHT], [RIGHT, FAILED, RIGHT], [WRONG, WRONG, WRONG]]
    scores = [[-1.0, -0.5, -2.0], [-1.0, -math.inf, -1.0], [-1.0, -1.0, -1.0], [-1.0, math.nan, -1.0]]
    read = Completion(0, "", 20, 30, 0.5, 0.2, Finish.SCORED)
    return pool_of(
        ["a", "b", "c", "d"],
        graded,
        [drawn(4, 6, 8), drawn(2, 2, 2), drawn(1, 1, 1), drawn(1, 1, 1)],
        scores,
        [[read] * 3] * 4 if rated else [],
        scorer=scorer,
        n=3,
        shapes={"model": SHAPE, "scorer": SHAPE if rated else None},
    )


def test_it_holds_the_whole_questions_alone() -> None:
    pool = made()
    assert (pool.ids, pool.asked, pool.n) == (("a", "b"), 4, 3), "a failed sample, a missing score"
    assert pool.answers_QN.tolist() == [[0, 1, -1], [1, 1, 0]]
    assert pool.scores_QN.tolist() == [[-1, -0.5, -2], [-1, -math.inf, -1]]
    assert pool.weights_QN[0] == pytest.approx(np.exp([-1, -0.5, -2]))
    assert pool.weights_QN[1, 1] == 0, "what cannot be chosen has no voice"
    assert pool.tokens_QN.tolist() == [[4, 6, 8], [2, 2, 2]] and pool.prompt_Q.tolist() == [20, 20]


def test_what_k_samples_cost() -> None:
    pool = made()
    tokens, flops, seconds = pool.cost(2, scored=True)
    assert (tokens, seconds) == pytest.approx((20 + 2 * 4, 2 * 0.4)), "a log-probability costs nothing more"
    assert flops == pytest.approx(inference_flops(SHAPE, 20, 4, 2))
    dear = made(rated=True)
    assert dear.cost(2, scored=False) == pool.cost(2, scored=False)
    read = dear.cost(2, scored=True)
    assert read[0] == pytest.approx(28 + 20 + 2 * 30) and read[2] == pytest.approx(0.8 + 2 * 0.2)
    assert read[1] == pytest.approx((flops or 0) + inference_flops(SHAPE, 20, 30, 2))
    assert replace(dear, reader=None).cost(1, scored=True)[1] is None
    assert replace(pool, shape=None).cost(1, scored=False)[1] is None


def test_its_file(tmp_path: Path) -> None:
    for pool in (made(rated=True), made()):
        pool.save(tmp_path / "pool.npz")
        again = read_pool(tmp_path / "pool.npz")
        for name, value in vars(pool).items():
            assert np.array_equal(getattr(again, name), value), name
        assert again.shape == SHAPE and again.scorer == "logprob"


def test_a_damaged_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "pool.npz"
    made().save(path)
    whole = path.read_bytes()
    table = io.BytesIO()
    np.save(table, np.ones(3))
    flipped = bytes(b ^ 255 if place == 200 else b for place, b in enumerate(whole))
    for content in (b"not a pool", b"", whole[:100], whole[:-5], flipped, table.getvalue()):
        path.write_bytes(content)
        with pytest.raises(UserError, match="cannot be read as a pool of samples"):
            read_pool(path)


def test_what_it_refuses() -> None:
    shapes = {"model": None, "scorer": None}
    with pytest.raises(UserError, match="None of 1 questions has 2 samples that did not fail"):
        pool_of(["a"], [[RIGHT, FAILED]], [drawn(1, 1)], [[0.0, 0.0]], [], scorer="logprob", n=2, shapes=shapes)
    with pytest.raises(UserError, match="No question has all its scores by 'logprob'"):
        pool_of(["a"], [[RIGHT]], [drawn(1)], [[math.nan]], [], scorer="logprob", n=1, shapes=shapes)
