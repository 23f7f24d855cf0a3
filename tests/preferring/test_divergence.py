"""KL to the base: METHODS' worked number, what is left out, and what is said where there is nothing to tell."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from workbench.decodes import Greedy, LabelLikelihood, Sampling
from workbench.drawing import Drawer
from workbench.engines import EngineConfig
from workbench.engines.base import TokenScore, TokenScores
from workbench.engines.fake import FakeEngine
from workbench.preferring.divergence import Divergence, divergence
from workbench.prompts import load_prompt
from workbench.stats import kl_estimates
from workbench.store import Store
from workbench.tasks.arithmetic import Config as ArithmeticConfig
from workbench.tasks.arithmetic import load
from workbench.types import Interval, Model, Request, System

TASK = load(ArithmeticConfig(practice=2, dev=4, test=2))
BASE = Model("fake")
SYSTEM = System(Model("fake:0.9"), load_prompt("arithmetic"), Greedy(4))
DEV = [example.id for example in TASK.dev]


class Scorer(FakeEngine):
    """Samples by a script; a token is a word, of −1 nat for the tuned model and −1.5 for its base."""

    fails: Callable[[str, str], str | None] = staticmethod(lambda model, id: None)
    longest: list[int]

    def __init__(self, model: Model, script: Callable[[Request, int], str]) -> None:
        super().__init__(model, script)
        self.model = model

    def sample(self, requests: Sequence[Request], sampling: Sampling) -> Any:
        self.longest.append(sampling.max_tokens)
        return super().sample(requests, sampling)

    def token_logprobs(self, requests: Sequence[Request], continuations: Sequence[str], top: int = 0) -> Any:
        logprob = -1.0 if self.model == SYSTEM.model else -1.5
        for request, text in zip(requests, continuations, strict=True):
            error = self.fails(self.model.base, request.id)
            tokens = () if error else tuple(TokenScore(0, logprob, ()) for _ in text.split())
            yield [(request.id, TokenScores(tokens, error))]


@pytest.fixture
def seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Divergence on samples that a script writes, with scores of which some fail."""
    store = Store(tmp_path / "completions.sqlite")

    def measure(
        texts: Sequence[str],
        fails: Callable[[str, str], str | None] = lambda model, id: None,
        system: System = SYSTEM,
        longest: list[int] | None = None,
    ) -> Divergence | str:
        said = dict(zip(DEV, texts, strict=False))

        def opened(model: Model, config: EngineConfig) -> Scorer:
            engine = Scorer(model, lambda request, index: said[request.id])
            engine.fails, engine.longest = fails, [] if longest is None else longest  # type: ignore[method-assign]
            return engine

        monkeypatch.setattr("workbench.drawing.open_engine", opened)
        drawer = Drawer(EngineConfig("fake"), store, quiet=True)
        return divergence(system, BASE, TASK, drawer, questions=len(texts))

    yield measure
    store.close()


def test_the_worked_number() -> None:
    """log π = −1, reference −1.5: .5, .125 and .106531."""
    k1, k2, k3 = kl_estimates([-1.0], [-1.5])
    assert (k1[0], k2[0], k3[0]) == pytest.approx((0.5, 0.125, 0.106531), abs=1e-6)
    with pytest.raises(ValueError, match="shape"):
        kl_estimates([-1.0], [-1.5, -2.0])


LOGPS = st.floats(-30, 0)


@given(st.lists(st.tuples(LOGPS, LOGPS), min_size=1, max_size=8))
def test_k2_and_k3_are_never_below_0_and_all_are_0_where_the_models_agree(rows: Any) -> None:
    ours, theirs = zip(*rows, strict=True)
    k1, k2, k3 = kl_estimates(ours, theirs)
    assert (k2 >= 0).all() and (k3 >= -1e-12).all() and (k3 >= k1 - 1).all()
    assert all((k == 0).all() for k in kl_estimates(ours, ours))


@given(st.lists(st.floats(0.01, 1), min_size=2, max_size=5), st.lists(st.floats(0.01, 1), min_size=5, max_size=5))
def test_k1_and_k3_are_unbiased(weights: list[float], others: list[float]) -> None:
    """Their expectation under π is KL(π ‖ π_ref), summed over a whole vocabulary."""
    import numpy as np

    p = np.array(weights) / sum(weights)
    q = np.array(others[: len(weights)]) / sum(others[: len(weights)])
    k1, _, k3 = kl_estimates(np.log(p), np.log(q))
    true = float((p * np.log(p / q)).sum())
    assert (p * k1).sum() == pytest.approx(true, abs=1e-9)
    assert (p * k3).sum() == pytest.approx(true, abs=1e-9)


def test_tokens_are_added_up_and_cut_off_samples_are_left_out(seen: Any) -> None:
    found = seen(["one", "one two three", "one two three four five", ""])
    assert (found.answers, found.left_out, found.unscored) == (2, 2, 0)
    assert (found.kl.value, found.kl.low, found.kl.high) == pytest.approx((1.0, 0.5, 1.5))
    assert found.kl3.value == pytest.approx(2 * 0.106531, abs=1e-5)
    assert found.tokens.value == 2
    assert found.metrics()["kl_low"] == pytest.approx(0.5)
    words = str(found)
    assert "KL to the base 1 (0.5 – 1.5) nats an answer" in words
    assert "on 2 whole samples of dev questions at temperature 1, without the end token; 2 cut off" in words
    assert "scored" not in words


def test_what_could_not_be_scored_is_counted_apart(seen: Any) -> None:
    fails = {("fake", DEV[0]): "no room", ("fake:0.9", DEV[1]): "too long"}
    found = seen(["one two"] * 4, lambda model, id: fails.get((model, id)))
    assert (found.answers, found.left_out, found.unscored) == (2, 0, 2)
    assert str(found).endswith("; 2 could not be scored")


def test_one_answer_has_no_interval(seen: Any) -> None:
    found = seen(["one two", "one two three four five"])
    assert found.answers == 1 and found.kl == pytest.approx(1.0)
    assert not isinstance(found.kl, Interval)
    assert "kl_low" not in found.metrics() and found.metrics()["kl"] == pytest.approx(1.0)
    assert "KL to the base 1 (one answer, no interval) nats" in str(found)


def test_why_there_is_none_is_said(seen: Any) -> None:
    assert seen(["a b c d e"] * 3) == (
        "KL to the base cannot be told: none of 3 samples of dev questions at temperature 1 was whole"
    )


def test_the_first_error_of_scores_that_all_failed_is_said(seen: Any) -> None:
    words = seen(["one"] * 4, lambda model, id: f"{model} has no room for {DEV.index(id)}")
    assert words.startswith(
        "KL to the base cannot be told: none of 4 whole samples of dev questions could be scored"
    )
    assert words.endswith("fake:0.9 has no room for 0"), "the first error"


def test_an_answer_is_as_long_as_the_decode_or_the_task_lets_it_be(seen: Any) -> None:
    longest: list[int] = []
    seen(["one"], longest=longest)
    seen(["one"], system=System(SYSTEM.model, SYSTEM.prompt, LabelLikelihood()), longest=longest)
    assert longest == [4, TASK.max_tokens]
