"""What stepwise decodes ask of every engine: a stop string that stays, and a limit of a request's own."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from stub_server import StubServer

from workbench.decodes import Sampling
from workbench.engines.base import Engine
from workbench.engines.fake import FakeEngine
from workbench.engines.hf import HfEngine
from workbench.engines.hf_stream import first_stop
from workbench.engines.vllm import VllmEngine
from workbench.errors import UserError
from workbench.types import Completion, Finish, Message, Model, Request

pytestmark = pytest.mark.usefixtures("one_thread")

ASK = (Message("user", "What is 12 plus 7?"),)


def one(engine: Engine, sampling: Sampling, max_tokens: int | None = None) -> Completion:
    [[(_, completion)]] = list(engine.sample([Request("q", ASK, max_tokens=max_tokens)], sampling))
    return completion


@pytest.fixture(scope="module")
def tiny(tiny_model: Path) -> HfEngine:
    return HfEngine(Model(str(tiny_model)), dtype="float32", device="cpu")


@pytest.fixture
def server() -> Iterator[StubServer]:
    stub = StubServer()
    yield stub
    stub.die()


@pytest.mark.parametrize("kind", ["hf", "fake"])
def test_a_kept_stop_string_stands_at_the_end(kind: str, tiny: HfEngine) -> None:
    engine: Engine = tiny if kind == "hf" else FakeEngine(Model("fake"), lambda request, index: "one two. three")
    whole = one(engine, Sampling(temperature=0, max_tokens=24)).text
    stop = whole[5:7]
    cut = one(engine, Sampling(temperature=0, max_tokens=24, stop=("never", stop)))
    kept = one(engine, Sampling(temperature=0, max_tokens=24, stop=("never", stop), keep_stop=True))
    assert cut.text == whole[: whole.index(stop)]
    assert kept.text == cut.text + stop
    assert (kept.finish, kept.logprob is None) == (Finish.STOP, False)
    never = one(engine, Sampling(temperature=0, max_tokens=24, stop=("never",), keep_stop=True))
    assert never.text == whole


@given(
    text=st.text("ab\n. ", max_size=12),
    stop=st.lists(st.sampled_from(["a", "\n", "\n\n", ". ", "ab"]), max_size=3),
)
def test_where_a_text_is_cut(text: str, stop: list[str]) -> None:
    cut, kept = text[: first_stop(text, stop)], text[: first_stop(text, stop, keep=True)]
    assert not any(s in cut for s in stop)
    assert kept.startswith(cut)
    assert kept == cut == text or kept.endswith(tuple(stop))
    assert all(not text[len(cut) :].startswith(s) or len(s) <= len(kept) - len(cut) for s in stop), "the longest"


@pytest.mark.parametrize("kind", ["hf", "fake"])
def test_a_request_may_have_a_limit_of_its_own(kind: str, tiny: HfEngine) -> None:
    engine: Engine = tiny if kind == "hf" else FakeEngine(Model("fake"), lambda request, index: "one two 3 four")
    requests = [Request(str(n), ASK, max_tokens=n) for n in (1, 3, None)]  # type: ignore[arg-type]
    found = {id: c for batch in engine.sample(requests, Sampling(temperature=0, max_tokens=4)) for id, c in batch}
    whole = found["None"]
    for n in (1, 3):
        assert (found[str(n)].completion_tokens, found[str(n)].finish) == (n, Finish.LENGTH)
        assert whole.text.startswith(found[str(n)].text)
    assert one(engine, Sampling(temperature=0, max_tokens=2), max_tokens=3).completion_tokens == 2


def test_a_server_is_told_of_both(server: StubServer) -> None:
    engine = VllmEngine(Model("model"), [server.url], backoff=0.01)
    one(engine, Sampling(max_tokens=12, stop=("\n",), keep_stop=True), max_tokens=5)
    one(engine, Sampling(max_tokens=12))
    [(_, _, first), (_, _, second)] = server.calls
    assert (first["max_tokens"], first["stop"], first["include_stop_str_in_output"]) == (5, ["\n"], True)
    assert second["max_tokens"] == 12
    assert "include_stop_str_in_output" not in second


def test_a_server_that_is_not_vllm_cannot_keep_them(server: StubServer) -> None:
    server.is_vllm = False
    engine = VllmEngine(Model("model"), [server.url], backoff=0.01)
    with pytest.raises(UserError, match="which text ended a step: use one of vLLM, or the engine hf"):
        one(engine, Sampling(stop=("\n",), keep_stop=True))


def test_the_store_s_keys_are_what_they_were() -> None:
    from workbench.identity import to_json

    assert "keep_stop" not in to_json(Sampling(), defaults=False)
    assert "max_tokens" not in to_json(Request("q", ASK), defaults=False)
