"""Drawing tokens: the right distribution, in the right order of its steps, from seeds that never meet."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chisquare, kstest

from workbench.decodes import Sampling
from workbench.engines import sampler
from workbench.engines.base import sample_seed
from workbench.engines.sampler import draw, uniforms

DRAWS = 20_000
LOGITS = torch.tensor([2.0, 1.5, 1.0, 0.5, 0.0, -0.5, -1.0, -4.0])


def frequencies(logits: torch.Tensor, sampling: Sampling) -> np.ndarray:
    uniform = torch.from_numpy(np.random.default_rng(7).random(DRAWS))
    tokens, _ = draw(logits.expand(DRAWS, -1), uniform, sampling)
    return np.bincount(tokens.numpy(), minlength=logits.shape[-1])


def check(logits: torch.Tensor, sampling: Sampling, expected: torch.Tensor) -> None:
    found, kept = frequencies(logits, sampling), expected.numpy() > 0
    assert found[~kept].sum() == 0
    if kept.sum() == 1:  # nothing left to be uncertain of
        return
    shares = expected.double().numpy()[kept]
    assert chisquare(found[kept], shares / shares.sum() * DRAWS).pvalue > 1e-3


@pytest.mark.parametrize("temperature", [0.3, 0.7, 1.0, 2.5])
def test_temperature(temperature: float) -> None:
    check(LOGITS, Sampling(temperature), (LOGITS / temperature).softmax(-1))


@pytest.mark.parametrize("k", [1, 3, 8, 100])
def test_top_k(k: int) -> None:
    expected = LOGITS.softmax(-1)
    expected[min(k, 8) :] = 0
    check(LOGITS, Sampling(1.0, top_k=k), expected)


def nucleus(probabilities: torch.Tensor, top_p: float) -> torch.Tensor:
    """Holtzman et al. 2020, for probabilities in falling order."""
    before = probabilities.cumsum(-1) - probabilities
    return torch.where(before < top_p, probabilities, 0)


@pytest.mark.parametrize("top_p", [0.01, 0.5, 0.9, 0.999])
@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_top_p_comes_after_temperature(top_p: float, temperature: float) -> None:
    check(LOGITS, Sampling(temperature, top_p), nucleus((LOGITS / temperature).softmax(-1), top_p))


def test_top_p_comes_after_top_k() -> None:
    kept = LOGITS.softmax(-1)
    kept[3:] = 0
    check(LOGITS, Sampling(1.0, top_p=0.8, top_k=3), nucleus(kept / kept.sum(), 0.8))


def test_top_p_of_a_flat_distribution_sorts_all_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    flat = torch.linspace(0.5, 0.0, 200)
    expected = nucleus(flat.softmax(-1), 0.7)
    assert 100 < int((expected > 0).sum()) < 150
    usual = frequencies(flat, Sampling(1.0, top_p=0.7))
    monkeypatch.setattr(sampler, "_NUCLEUS", 16)
    check(flat, Sampling(1.0, top_p=0.7), expected)
    assert (frequencies(flat, Sampling(1.0, top_p=0.7)) == usual).all()


@settings(max_examples=200)
@given(
    st.lists(st.floats(-50, 50, width=32), min_size=1, max_size=40),
    st.floats(1e-300, 100),
    st.floats(0.01, 1),
    st.integers(0, 50),
    st.floats(0, 1, exclude_max=True),
)
def test_any_settings_give_a_token_that_may_be_drawn(
    values: list[float], temperature: float, top_p: float, top_k: int, uniform: float
) -> None:
    logits = torch.tensor([values], dtype=torch.float32)
    tokens, logprobs = draw(logits, torch.tensor([uniform]), Sampling(temperature, top_p, top_k))
    token = int(tokens[0])
    assert logprobs[0] == pytest.approx(float(logits.log_softmax(-1)[0, token]), abs=1e-4)
    if top_k:
        # Logits that float32 cannot tell apart, once the largest is subtracted, are a tie, and ties stay.
        assert values[token] >= sorted(values, reverse=True)[min(top_k, len(values)) - 1] - 1e-5


def test_temperature_0_is_the_largest() -> None:
    tokens, logprobs = draw(torch.stack([LOGITS, LOGITS.flip(0)]), None, Sampling(temperature=0))
    assert tokens.tolist() == [0, 7]
    assert torch.allclose(logprobs, LOGITS.log_softmax(-1)[0].expand(2))


def test_log_probabilities_are_those_before_temperature_and_cuts() -> None:
    tokens, logprobs = draw(LOGITS[None], torch.tensor([0.1]), Sampling(5.0, top_p=0.2, top_k=2))
    assert torch.allclose(logprobs, LOGITS.log_softmax(-1)[tokens])


def test_a_streams_start_does_not_depend_on_its_length() -> None:
    assert torch.equal(uniforms([1, 2], 50)[:, :20], uniforms([1, 2], 20))
    assert torch.equal(uniforms([1, 2], 20)[1:], uniforms([2], 20))


def test_streams_are_uniform_and_independent() -> None:
    seeds = [sample_seed(0, question, index) for question in "ab" for index in range(100)]
    numbers = uniforms(seeds, 200).numpy()
    assert kstest(numbers.ravel(), "uniform").pvalue > 1e-3
    assert kstest(numbers[:, 0], "uniform").pvalue > 1e-3  # first numbers of neighbouring seeds
    close = np.corrcoef(numbers)[~np.eye(len(seeds), dtype=bool)]
    assert abs(close).max() < 0.4
    assert len(np.unique(numbers)) == numbers.size


@given(st.integers(0, 2**63 - 1), st.lists(st.text(max_size=8), min_size=2, max_size=8, unique=True))
def test_seeds_of_questions_and_samples_never_meet(seed: int, questions: list[str]) -> None:
    seeds = [sample_seed(seed, q, i) for q in questions for i in (0, 1, 63, 2**20 - 1)]
    assert len(set(seeds)) == len(seeds)
    assert max(seeds) < 2**62
    assert sample_seed(seed, questions[0], 1) == sample_seed(seed, questions[0], 0) + 1
