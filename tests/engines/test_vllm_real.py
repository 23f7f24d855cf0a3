"""The vllm engine against a real vLLM server on the CPU, with the embedded model.

The server is `real_vllm.py`'s, from `.venv-vllm` or the interpreter that WORKBENCH_VLLM_PYTHON names.
"""

import time
from dataclasses import replace
from typing import Any

import httpx
import pytest
from interpreters import NEEDS_VLLM
from soft_adapter import save_adapter

from workbench.decodes import Sampling
from workbench.engines.base import Piece
from workbench.engines.encode import Encoder
from workbench.engines.soft_client import read_embeddings
from workbench.engines.vllm import VllmEngine
from workbench.errors import UserError
from workbench.models import load_tokenizer, model_folder
from workbench.types import Completion, Finish, Message, Model, Request

NAME = "smollm2-135m-instruct"

pytestmark = NEEDS_VLLM


@pytest.fixture(scope="module")
def url(real_vllm: Any) -> str:
    """Of a server that this process does not know as its own: it could be anybody's."""
    address: str = real_vllm.up().url
    return address


@pytest.fixture
def engine(url: str) -> VllmEngine:
    return VllmEngine(Model(NAME), [url])


def ask(text: str, indices: tuple[int, ...] = (0,), style: str = "chat") -> Request:
    return Request("question", (Message("user", text),), indices, style)


def draw(engine: VllmEngine, request: Request, sampling: Sampling) -> list[Completion]:
    batches = list(engine.sample([request], sampling))
    drawn = sorted((completion for batch in batches for _, completion in batch), key=lambda c: c.index)
    assert [completion.error for completion in drawn] == [None] * len(request.indices)
    return drawn


GREEDY = Sampling(temperature=0, max_tokens=24)


def test_version_names_the_software(engine: VllmEngine) -> None:
    assert engine.version.startswith("vllm 0.")


def test_the_context_is_that_of_the_server(engine: VllmEngine) -> None:
    assert engine.context == 2048


def test_tokens_are_counted_as_they_are_read(engine: VllmEngine) -> None:
    requests = [ask("What is the capital of France?"), ask("The capital of France is", style="text")]
    drawn = [draw(engine, request, Sampling(temperature=0, max_tokens=1))[0] for request in requests]
    assert engine.count_tokens(requests) == [completion.prompt_tokens for completion in drawn]
    assert engine.count_tokens([ask("<|im_end|>"), requests[1]])[1] == 5


def test_an_unknown_served_name_is_refused_with_those_that_exist(url: str) -> None:
    with pytest.raises(UserError, match=rf"Did you mean '{NAME}'\? There are: .*{NAME}"):
        VllmEngine(Model("smollm2-135m"), [url]).version  # noqa: B018


def test_greedy_chat(engine: VllmEngine) -> None:
    [completion] = draw(engine, ask("What is the capital of Japan?"), GREEDY)  # sure by 2.5 nats, whatever rounds
    assert "Tokyo" in completion.text
    assert completion.finish is Finish.STOP
    words = completion.text.replace(".", " .").split()  # each is one token of this model
    assert completion.completion_tokens == len(words) + 1, "the end-of-turn token is counted"
    assert completion.prompt_tokens > 20  # the template's own system prompt among them
    assert completion.logprob is not None and -10 < completion.logprob < 0


def test_greedy_text_stops_at_the_string_and_at_the_length(engine: VllmEngine) -> None:
    prompt = ask("The capital of France is", style="text")
    [stopped] = draw(engine, prompt, Sampling(temperature=0, max_tokens=24, stop=(".",)))
    assert (stopped.text, stopped.finish, stopped.prompt_tokens) == (" Paris", Finish.STOP, 5)
    [cut] = draw(engine, prompt, Sampling(temperature=0, max_tokens=1))
    assert (cut.text, cut.finish, cut.completion_tokens) == (" Paris", Finish.LENGTH, 1)


def test_a_begun_answer_is_gone_on_with(engine: VllmEngine) -> None:
    messages = (
        Message("user", "What is the capital of France?"),
        Message("assistant", "Its name starts with"),
    )
    [completion] = draw(engine, Request("question", messages), GREEDY)
    assert not completion.text.startswith("The capital")
    assert completion.text.strip()


@pytest.mark.parametrize("style", ["chat", "text"])
def test_samples_of_two_calls_are_not_copies(engine: VllmEngine, style: str) -> None:
    sampling = Sampling(temperature=1.0, max_tokens=20, seed=1)
    first = draw(engine, ask("Once upon a time there", (0, 1, 2, 3), style), sampling)
    rest = draw(engine, ask("Once upon a time there", (4, 5, 6, 7), style), sampling)
    assert len({completion.text for completion in first + rest}) == 8
    for completion in first + rest:
        assert 0 < completion.completion_tokens <= 20
        assert completion.logprob is not None and completion.logprob < 0
    logprobs = {completion.logprob for completion in first + rest}
    assert len(logprobs) == 8


def test_the_seed_decides_the_first_tokens_of_a_sample(engine: VllmEngine) -> None:
    # A seed alone does not make vLLM deterministic across batch shapes, so only the start is compared.
    sampling = Sampling(temperature=1.0, max_tokens=3, seed=2)
    together = draw(engine, ask("Tell me a story.", (0, 1, 2, 3)), sampling)
    alone = [draw(engine, ask("Tell me a story.", (i,)), sampling)[0] for i in range(4)]
    assert sum(a.text == b.text for a, b in zip(together, alone, strict=True)) >= 3


@pytest.mark.parametrize(
    ("style", "question", "labels"),
    [
        ("text", "The capital of France is", (" Paris", " London")),
        ("chat", "What is the capital of France? Answer with one word.", ("Paris", "London")),
    ],
)
def test_labels_are_scored(engine: VllmEngine, style: str, question: str, labels: tuple[str, ...]) -> None:
    [batch] = engine.logprobs([ask(question, style=style)], [labels])
    right, wrong = (completion for _, completion in batch)
    assert right.finish is wrong.finish is Finish.SCORED
    assert right.logprob is not None and wrong.logprob is not None
    assert 0 > right.logprob > wrong.logprob + 1


def test_a_score_is_the_log_probability_that_sampling_reports(engine: VllmEngine) -> None:
    prompt = ask("The capital of France is", style="text")
    [drawn] = draw(engine, prompt, Sampling(temperature=0, max_tokens=2))
    [[(_, scored)]] = engine.logprobs([prompt], [[drawn.text]])
    assert scored.completion_tokens == drawn.completion_tokens == 2
    assert scored.logprob == pytest.approx(drawn.logprob, abs=0.01)


def test_a_prompt_beyond_the_context_is_an_error_and_not_an_answer(engine: VllmEngine) -> None:
    [[(_, completion)]] = engine.sample([ask("word " * 3000)], GREEDY)
    assert completion.finish is Finish.ERROR
    assert "2048" in (completion.error or "")


# --- tokens, pieces, counts, leaving ----------------------------------------------------------------


def metric(url: str, name: str) -> float:
    """One of the server's own counters."""
    lines = httpx.get(f"{url}/metrics", timeout=30).text.splitlines()
    return sum(float(line.split()[-1]) for line in lines if line.startswith(f"vllm:{name}{{"))


def streamed(engine: VllmEngine, request: Request, sampling: Sampling) -> tuple[list[str], Completion]:
    *pieces, last = engine.stream(request, sampling)
    assert isinstance(last, Completion)
    assert "".join(map(str, pieces)) == last.text
    counts = [piece.tokens for piece in pieces if isinstance(piece, Piece)]
    assert len(counts) == len(pieces) and counts == sorted(counts)
    assert all(0 < count <= last.completion_tokens for count in counts), "as the server counts at the end"
    return [str(piece) for piece in pieces], last


@pytest.mark.parametrize("style", ["chat", "text"])
@pytest.mark.parametrize("stop", [(), (",",)])
def test_a_stream_is_the_sample_in_pieces(engine: VllmEngine, style: str, stop: tuple[str, ...]) -> None:
    request = ask("Count from one to five in words, with commas. Café 👩", style=style)
    sampling = replace(GREEDY, stop=stop)
    [whole] = draw(engine, request, sampling)
    pieces, last = streamed(engine, request, sampling)
    assert replace(last, seconds=0, logprob=None) == replace(whole, seconds=0, logprob=None)
    assert last.logprob == pytest.approx(whole.logprob, abs=0.01)
    assert len(pieces) > 1 or stop
    assert not any(s in last.text for s in stop)


def test_a_stream_that_the_server_refuses_is_an_error(engine: VllmEngine) -> None:
    pieces, last = streamed(engine, ask("word " * 3000), GREEDY)
    assert (pieces, last.finish) == ([], Finish.ERROR)
    assert "2048" in (last.error or "")


def test_leaving_ends_the_generation_at_the_server(url: str, engine: VllmEngine) -> None:
    long = Sampling(max_tokens=1500)
    pieces: Any = engine.stream(ask("Tell a long story.", style="text"), long)
    next(pieces)
    assert metric(url, "num_requests_running") == 1
    pieces.close()
    gone(url)
    refused = replace(ask("word " * 3000), id="refused")
    batches: Any = engine.sample([refused, ask("Tell a long story.", tuple(range(3)), "text")], long)
    [(id, _)] = next(batches)
    deadline = time.monotonic() + 30
    while metric(url, "num_requests_running") < 3:
        assert time.monotonic() < deadline
    batches.close()
    gone(url)
    assert id == "refused"


def gone(url: str) -> None:
    deadline = time.monotonic() + 1
    while (running := metric(url, "num_requests_running") + metric(url, "num_requests_waiting")) > 0:
        assert time.monotonic() < deadline, f"{running} requests go on"
        time.sleep(0.05)


@pytest.mark.parametrize("style", ["chat", "text"])
def test_tokens_are_counted_as_the_server_counts_them(url: str, engine: VllmEngine, style: str) -> None:
    before = metric(url, "generation_tokens_total")
    request = ask("Name a colour.", tuple(range(8)), style)
    drawn = draw(engine, request, Sampling(temperature=1.0, max_tokens=20, seed=4, stop=(".",)))
    assert sum(c.completion_tokens for c in drawn) == metric(url, "generation_tokens_total") - before
    assert len({c.completion_tokens for c in drawn}) > 1


@pytest.mark.parametrize("style", ["chat", "text"])
def test_tokens_are_scored(engine: VllmEngine, style: str) -> None:
    request, text = ask("The capital of France is", style=style), " Paris, and it is large."
    [[(_, scored)]] = engine.logprobs([request], [[text]])
    [[(_, found)]] = engine.token_logprobs([request], [text], 5)
    assert (found.error, len(found.tokens)) == (None, scored.completion_tokens)
    assert sum(score.logprob for score in found.tokens) == pytest.approx(scored.logprob, abs=0.01)
    for score in found.tokens:
        likely = [logprob for _, logprob in score.top]
        assert likely == sorted(likely, reverse=True)
        assert len(likely) == 5
        assert dict(score.top).get(score.token, score.logprob) == score.logprob <= likely[0]


# --- soft prompts -----------------------------------------------------------------------------------

FRONT = "The capital of Italy is Rome.\nThe capital of Spain is Madrid.\n"
QUESTIONS = [
    ask(text, style=style)
    for text in ("The capital of France is", "The capital of Germany is", "The capital of Japan is")
    for style in ("text", "chat")
]


@pytest.fixture(scope="module")
def encoder() -> Encoder:
    return Encoder(load_tokenizer(Model(NAME)))


@pytest.fixture(scope="module")
def soft(url: str, encoder: Encoder, tmp_path_factory: pytest.TempPathFactory) -> VllmEngine:
    """With an adapter whose virtual tokens are those of a text, so that it must do what the text does."""
    virtual = read_embeddings(model_folder(NAME))[encoder.encode_text(FRONT)]
    return VllmEngine(Model(NAME, adapter=str(save_adapter(tmp_path_factory.mktemp("soft"), virtual))), [url])


def behind_the_text(url: str, encoder: Encoder, tokens: list[int], **body: Any) -> dict[str, Any]:
    """The same server's answer to the text's own tokens, and those of the prompt, with no embeddings."""
    prompt = encoder.encode_text(FRONT) + tokens
    body |= {"model": NAME, "prompt": prompt, "temperature": 0, "logprobs": 0}
    choice: dict[str, Any] = httpx.post(f"{url}/v1/completions", json=body, timeout=300).json()["choices"][0]
    return choice


def test_virtual_tokens_of_a_text_answer_as_the_text_does(url: str, soft: VllmEngine, encoder: Encoder) -> None:
    requests = [replace(request, id=str(i)) for i, request in enumerate(QUESTIONS)]
    drawn = dict(pair for batch in soft.sample(requests, Sampling(temperature=0, max_tokens=12)) for pair in batch)
    for request in requests:
        tokens = encoder.encode(request)
        plain = behind_the_text(url, encoder, tokens, max_tokens=12)
        found = drawn[request.id]
        assert (found.text, found.finish.value) == (plain["text"], plain["finish_reason"])
        assert found.prompt_tokens == len(encoder.encode_text(FRONT)) + len(tokens)
        assert found.completion_tokens == len(plain["logprobs"]["token_logprobs"])
        expected = sum(plain["logprobs"]["token_logprobs"])
        assert found.logprob == pytest.approx(expected, abs=0.01)
    assert soft.count_tokens(requests) == [len(encoder.encode(request)) for request in requests]
    assert soft.context == 2048 - len(encoder.encode_text(FRONT))


def test_labels_behind_virtual_tokens_are_scored_as_behind_the_text(
    url: str, soft: VllmEngine, encoder: Encoder
) -> None:
    labels = (" Paris", " Paris, the city of light", " Berlin", " oxygen atoms")
    requests = [replace(request, id=str(i)) for i, request in enumerate(QUESTIONS)]
    scored = {
        (name, completion.text): completion
        for batch in soft.logprobs(requests, [labels] * len(requests))
        for name, completion in batch
    }
    for request in requests:
        for label in labels:
            prompt, own, _ = encoder.encode_pair(request, label)
            told = behind_the_text(url, encoder, prompt + own, max_tokens=0, echo=True)["logprobs"]
            found = scored[request.id, label]
            assert found.finish is Finish.SCORED
            assert found.completion_tokens == len(own)
            expected = sum(told["token_logprobs"][-len(own) :])
            assert found.logprob == pytest.approx(expected, abs=0.01)


def test_samples_behind_virtual_tokens(soft: VllmEngine) -> None:
    request = ask("Once upon a time there", (0, 1, 2, 3), "text")
    first = draw(soft, request, Sampling(temperature=1.0, max_tokens=20, seed=1, stop=(".",)))
    rest = draw(soft, replace(request, indices=(4, 5)), Sampling(temperature=1.0, max_tokens=20, seed=1))
    assert len({completion.text for completion in first + rest}) == 6
    assert all("." not in completion.text for completion in first)


def test_text_that_looks_like_control_tokens_goes_behind_virtual_tokens(soft: VllmEngine) -> None:
    [completion] = draw(soft, ask("Say <|im_end|>."), Sampling(temperature=0, max_tokens=2))
    assert completion.completion_tokens > 0


def test_virtual_tokens_count_against_the_context(soft: VllmEngine) -> None:
    [[(_, completion)]] = soft.sample([ask("word " * 2040, style="text")], GREEDY)
    assert completion.finish is Finish.ERROR
    assert "2048" in (completion.error or "")


def test_tokens_and_pieces_behind_virtual_tokens(soft: VllmEngine) -> None:
    request = ask("The capital of France is", style="text")
    [[(_, scored)]] = soft.logprobs([request], [[" Paris, and it is large."]])
    [[(_, found)]] = soft.token_logprobs([request], [" Paris, and it is large."], 3)
    assert (found.error, len(found.tokens)) == (None, scored.completion_tokens)
    assert sum(score.logprob for score in found.tokens) == pytest.approx(scored.logprob, abs=0.01)
    assert found.tokens[0].top[0][0] == found.tokens[0].token, "Paris is the likeliest"
    [whole] = draw(soft, request, GREEDY)
    pieces, last = streamed(soft, request, GREEDY)
    assert (last.text, last.finish, last.completion_tokens) == (whole.text, whole.finish, whole.completion_tokens)
    assert len(pieces) > 1
