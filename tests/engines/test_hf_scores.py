"""Log-probabilities token by token: those that `logprobs` adds up, with the likeliest beside them."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from soft_adapter import save_adapter

from workbench.engines import hf_scores
from workbench.engines.base import TokenScores
from workbench.engines.hf import HfEngine
from workbench.errors import UserError
from workbench.types import Completion, Finish, Message, Model, Request

pytestmark = pytest.mark.usefixtures("one_thread")

PREFIX = "The company said that sales fell in the third quarter. "
TEXTS = (" positive", " negative, and so on", " 19", " a café, of all things: 42.", "p")

SOFT = {"task_type": "CAUSAL_LM", "num_layers": 2, "num_attention_heads": 4, "num_transformer_submodules": 1}


@pytest.fixture(scope="module")
def engine(tiny_model: Path) -> HfEngine:
    return HfEngine(Model(str(tiny_model)), dtype="float32", device="cpu")


@pytest.fixture(scope="module")
def soft(tiny_model: Path, engine: HfEngine, tmp_path_factory: pytest.TempPathFactory) -> HfEngine:
    virtual = engine.weights.get_input_embeddings().weight[40:44].detach()
    adapter = save_adapter(tmp_path_factory.mktemp("soft"), virtual, **SOFT)
    return HfEngine(Model(str(tiny_model), adapter=str(adapter)), dtype="float32", device="cpu")


def requests(style: str, shared: str) -> list[Request]:
    return [
        Request(f"{i}", (Message("user", f"{shared}Question {i}: what is {i} + {i * i}?"),), style=style)
        for i in range(12)
    ]


def told(engine: HfEngine, asked: Sequence[Request], texts: Sequence[str], top: int = 0) -> dict[str, TokenScores]:
    pairs = [pair for batch in engine.token_logprobs(asked, texts, top) for pair in batch]
    assert sorted(id for id, _ in pairs) == sorted(request.id for request in asked)
    return dict(pairs)


@pytest.mark.parametrize("style", ["text", "chat"])
@pytest.mark.parametrize("shared", ["", PREFIX * 3], ids=["apart", "shared prefix"])
@pytest.mark.parametrize("kind", ["engine", "soft"])
def test_they_add_up_to_the_text_s_log_probability(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, style: str, shared: str, kind: str
) -> None:
    engine: HfEngine = request.getfixturevalue(kind)
    monkeypatch.setattr(hf_scores, "questions_that_fit", lambda work, cached=0: min(5, len(work)))
    asked = requests(style, shared)
    texts = [TEXTS[i % len(TEXTS)] for i in range(len(asked))]
    sums = {id: c.logprob for batch in engine.logprobs(asked, [[text] for text in texts]) for id, c in batch}
    found = told(engine, asked, texts)
    for question, text in zip(asked, texts, strict=True):
        scores = found[question.id]
        assert scores.error is None
        assert [score.token for score in scores.tokens] == engine.encoder.encode_pair(question, text)[1]
        assert sum(score.logprob for score in scores.tokens) == pytest.approx(sums[question.id], abs=1e-4)


def test_the_likeliest_are_the_model_s_own(engine: HfEngine) -> None:
    asked, texts = requests("chat", "")[:4], TEXTS[:4]
    found = told(engine, asked, texts, 20)
    for question, text in zip(asked, texts, strict=True):
        prompt, own, _ = engine.encoder.encode_pair(question, text)
        ids = torch.tensor([prompt + own])
        causal = torch.ones(1, 1, ids.shape[1], ids.shape[1], dtype=torch.bool).tril()
        with torch.inference_mode():
            logprobs = engine.weights(input_ids=ids, attention_mask=causal).logits[0].float().log_softmax(-1)
        for place, score in enumerate(found[question.id].tokens, start=len(prompt) - 1):
            likely, at = logprobs[place].topk(20)
            assert [token for token, _ in score.top] == at.tolist()
            assert [logprob for _, logprob in score.top] == pytest.approx(likely.tolist(), abs=1e-3)
            assert score.logprob == pytest.approx(float(logprobs[place, score.token]), abs=1e-3)


def test_what_does_not_fit_is_an_error_and_the_others_are_scored(engine: HfEngine) -> None:
    asked = [
        Request("long", (Message("user", "word " * 600),), style="text"),
        Request("empty", (Message("user", ""),), style="text"),
        *requests("text", "")[:1],
    ]
    found = told(engine, asked, [" yes"] * 3)
    assert found["long"].tokens == found["empty"].tokens == ()
    assert "context is 512" in (found["long"].error or "")
    assert "no tokens" in (found["empty"].error or "")
    assert found["0"].tokens
    assert told(engine, [], []) == {}


@pytest.mark.parametrize("top", [-1, 21, 1.5, float("nan"), float("inf")])
def test_a_bad_number_of_top_tokens_and_an_empty_text_are_refused(engine: HfEngine, top: Any) -> None:
    with pytest.raises(UserError, match="top is"):
        told(engine, requests("text", "")[:1], [" yes"], top)
    with pytest.raises(UserError, match="no tokens"):
        told(engine, requests("text", "")[:1], [""])


def certain(engine: HfEngine, asked: Sequence[Request], texts: Sequence[str]) -> dict[str, Completion]:
    pairs = [pair for batch in engine.self_certainty(asked, texts) for pair in batch]
    assert sorted(id for id, _ in pairs) == sorted(request.id for request in asked)
    return dict(pairs)


@pytest.mark.parametrize("style", ["text", "chat"])
def test_self_certainty_is_how_far_from_uniform_the_model_is(
    engine: HfEngine, monkeypatch: pytest.MonkeyPatch, style: str
) -> None:
    monkeypatch.setattr(hf_scores, "questions_that_fit", lambda work, cached=0: min(5, len(work)))
    asked = requests(style, PREFIX)
    texts = [TEXTS[i % len(TEXTS)] for i in range(len(asked))]
    found = certain(engine, asked, texts)
    for question, text in zip(asked, texts, strict=True):
        prompt, own, _ = engine.encoder.encode_pair(question, text)
        ids = torch.tensor([prompt + own])
        causal = torch.ones(1, 1, ids.shape[1], ids.shape[1], dtype=torch.bool).tril()
        with torch.inference_mode():
            p_TV = engine.weights(input_ids=ids, attention_mask=causal).logits[0].double().softmax(-1)
        p_TV = p_TV[len(prompt) - 1 : -1]
        uniform = 1 / p_TV.shape[1]
        told = found[question.id]
        assert told.logprob == pytest.approx(float((uniform * (uniform / p_TV).log()).sum(-1).mean()), abs=1e-5)
        assert (told.completion_tokens, told.prompt_tokens) == (len(own), len(prompt))
        assert told.finish is Finish.SCORED


def test_self_certainty_by_hand(engine: HfEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    """p = (½, ¼, ¼): KL(uniform ‖ p) = ⅓·log(⅔) + ⅔·log(4/3) = .0566; p uniform: 0; the mean of both .0283."""
    rows = {2: [[0.5, 0.25, 0.25], [1 / 3] * 3]}

    def logits(weights: Any, packed: Any, start: Any) -> torch.Tensor:
        return torch.tensor(rows[len(packed.targets)]).log() + 7  # what all logits share says nothing

    monkeypatch.setattr(hf_scores, "packed_logits", logits)
    monkeypatch.setattr(engine.encoder, "encode_pair", lambda request, text: ([1], [0, 2], text))
    [told] = certain(engine, requests("chat", "")[:1], ["two tokens"]).values()
    assert told.logprob == pytest.approx(0.0283, abs=5e-5)
    assert told.logprob == pytest.approx((math.log(2 / 3) / 3 + 2 * math.log(4 / 3) / 3) / 2, abs=1e-6)


def test_self_certainty_of_what_does_not_fit_is_an_error(engine: HfEngine) -> None:
    asked = requests("chat", "")[:2]
    found = certain(engine, asked, ["short", "long " * engine.context])
    assert found[asked[0].id].error is None
    assert "the model's context is" in str(found[asked[1].id].error)
