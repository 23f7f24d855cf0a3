"""Streaming from the embedded engine: the sample of that index in pieces, no half characters, no stop strings."""

import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from soft_adapter import save_adapter

from workbench.decodes import Sampling
from workbench.engines import hf
from workbench.engines.base import Piece
from workbench.engines.hf import HfEngine
from workbench.engines.hf_stream import Row, first_stop, in_pieces
from workbench.types import Completion, Finish, Message, Model, Request

pytestmark = pytest.mark.usefixtures("one_thread")

SOFT = {"task_type": "CAUSAL_LM", "num_layers": 2, "num_attention_heads": 4, "num_transformer_submodules": 1}


@pytest.fixture(scope="module")
def engine(tiny_model: Path) -> HfEngine:
    return HfEngine(Model(str(tiny_model)), dtype="float32", device="cpu")


def ask(text: str, indices: tuple[int, ...] = (0,), style: str = "text") -> Request:
    return Request(f"id of {text}", (Message("user", text),), indices, style)


def streamed(engine: HfEngine, request: Request, sampling: Sampling) -> tuple[list[str], Completion]:
    *pieces, last = engine.stream(request, sampling)
    assert isinstance(last, Completion)
    texts = [piece for piece in pieces if isinstance(piece, Piece)]
    assert len(texts) == len(pieces)
    counts = [piece.tokens for piece in texts]
    assert counts == sorted(set(counts)) and all(0 < count <= last.completion_tokens for count in counts)
    assert "".join(texts) == last.text
    assert "" not in texts
    return [str(text) for text in texts], last


def sampled(engine: HfEngine, request: Request, sampling: Sampling) -> Completion:
    [[(_, completion)]] = engine.sample([request], sampling)
    return completion


def same(first: Completion, second: Completion) -> None:
    for name in ("index", "text", "prompt_tokens", "completion_tokens", "logprob", "finish", "error"):
        assert getattr(first, name) == getattr(second, name), name


@pytest.mark.parametrize("temperature", [0.0, 0.9])
@pytest.mark.parametrize("style", ["text", "chat"])
def test_it_is_the_sample_of_its_index(engine: HfEngine, temperature: float, style: str) -> None:
    for index in (0, 3):
        request = ask("What is 12 plus 7?", (index,), style)
        sampling = Sampling(temperature, top_p=0.95, max_tokens=70, seed=11)  # longer than a buffer's first room
        pieces, last = streamed(engine, request, sampling)
        same(last, sampled(engine, request, sampling))
        assert last.completion_tokens > 40
        assert len(pieces) > 20


def test_the_first_of_several_indices_is_drawn(engine: HfEngine) -> None:
    sampling = Sampling(max_tokens=12)
    _, last = streamed(engine, ask("You are", (5, 6)), sampling)
    same(last, sampled(engine, ask("You are", (5,)), sampling))


def test_an_end_token_a_stop_string_and_the_context_end_it(
    engine: HfEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    greedy = Sampling(temperature=0, max_tokens=40)
    whole = sampled(engine, ask("You are"), greedy).text
    for length in (1, 2, 5, 9):
        stop = whole[12 : 12 + length]
        sampling = Sampling(temperature=0, max_tokens=40, stop=("never seen", stop))
        _, last = streamed(engine, ask("You are"), sampling)
        same(last, sampled(engine, ask("You are"), sampling))
        assert last.finish is Finish.STOP
        assert stop not in last.text
    _, last = streamed(engine, ask("word " * 150), Sampling(temperature=0, max_tokens=10**6))
    same(last, sampled(engine, ask("word " * 150), Sampling(temperature=0, max_tokens=10**6)))
    assert (last.finish, last.prompt_tokens + last.completion_tokens) == (Finish.LENGTH, engine.context)
    end = sampled_tokens(engine, ask("You are"), greedy)[7]
    monkeypatch.setattr(engine, "_ends", {end})
    _, last = streamed(engine, ask("You are"), greedy)
    same(last, sampled(engine, ask("You are"), greedy))
    assert (last.finish, last.completion_tokens <= 8) == (Finish.STOP, True)


def sampled_tokens(engine: HfEngine, request: Request, sampling: Sampling) -> list[int]:
    row = Row(request, 0, engine.encoder.encode(request))
    list(engine._steps([row], sampling))
    return row.tokens


def test_behind_a_soft_prompt(tiny_model: Path, engine: HfEngine, tmp_path: Path) -> None:
    virtual = engine.weights.get_input_embeddings().weight[40:44].detach()
    soft = HfEngine(Model(str(tiny_model), adapter=str(save_adapter(tmp_path, virtual, **SOFT))), dtype="float32")
    sampling = Sampling(max_tokens=20, seed=2)
    _, last = streamed(soft, ask("You are"), sampling)
    same(last, sampled(soft, ask("You are"), sampling))
    assert last.prompt_tokens == 4 + len(engine.encoder.encode(ask("You are")))


def test_closing_it_computes_nothing_more(engine: HfEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    passes = 0
    original = hf.next_logits

    def counting(*given: Any) -> Any:
        nonlocal passes
        passes += 1
        return original(*given)

    monkeypatch.setattr(hf, "next_logits", counting)
    pieces: Any = engine.stream(ask("You are"), Sampling(temperature=0, max_tokens=400))
    assert passes == 0
    next(pieces)
    after_one = passes
    assert after_one < 5, "the first piece comes with the first tokens"
    next(pieces)
    pieces.close()
    assert passes < after_one + 5
    assert list(pieces) == []


def test_the_reader_s_time_is_not_the_sample_s(engine: HfEngine) -> None:
    seen = []
    for piece in engine.stream(ask("You are"), Sampling(temperature=0, max_tokens=3)):
        seen.append(piece)
        time.sleep(0.5)
    last = seen[-1]
    assert isinstance(last, Completion)
    assert 0 < last.seconds < 0.5


def test_what_cannot_be_streamed(engine: HfEngine) -> None:
    for text, words in (("word " * 600, "context is 512"), ("", "no tokens")):
        [last] = engine.stream(ask(text, (4,)), Sampling())
        assert isinstance(last, Completion)
        assert (last.finish, last.index, last.text) == (Finish.ERROR, 4, "")
        assert words in (last.error or "")


# --- from tokens to pieces --------------------------------------------------------------------------

ALPHABET = st.sampled_from(["a", "b", "ab", " ", "é", "€", "👩", "\n", "\ufffd"])


def cut(text: str, sizes: Sequence[int]) -> list[bytes]:
    """The text's bytes in tokens of the given sizes, the last of one byte each."""
    data, tokens = text.encode(), []
    for size in [*sizes, *[1] * len(data)]:
        tokens.append(data[:size])
        data = data[size:]
    return [token for token in tokens if token]


def pieces_of(tokens: Sequence[bytes], stop: tuple[str, ...]) -> tuple[list[str], Completion]:
    """What streaming makes of tokens that are these bytes, up to the one that completes a stop string."""
    row = Row(ask("?"), 0, [1])

    def decode(ids: Sequence[int]) -> str:
        return b"".join(tokens[i] for i in ids).decode(errors="replace")

    def steps() -> Iterator[None]:
        for i in range(len(tokens)):
            row.tokens.append(i)
            if any(s in decode(row.tokens) for s in stop):
                row.finish = Finish.STOP
            elif i + 1 == len(tokens):
                row.finish = Finish.LENGTH
            yield
            if row.finish:
                return

    *pieces, last = in_pieces(row, steps(), decode, stop, 0)
    assert isinstance(last, Completion)
    return [str(piece) for piece in pieces], last


@given(
    st.lists(ALPHABET, min_size=1, max_size=20).map("".join),
    st.lists(st.integers(1, 6), max_size=20),
    st.lists(st.lists(ALPHABET, min_size=1, max_size=4).map("".join), max_size=3),
    st.integers(0, 3),
)
def test_pieces_hold_no_half_character_and_nothing_of_a_stop_string(
    text: str, sizes: list[int], stop: list[str], missing: int
) -> None:
    tokens = cut(text, sizes)[: -missing or None]
    if not tokens:
        return
    pieces, last = pieces_of(tokens, tuple(stop))
    drawn = b"".join(tokens[: last.completion_tokens]).decode(errors="replace")
    assert "".join(pieces) == last.text == drawn[: first_stop(drawn, stop)]
    # A broken character is given out at the very end only, or where it is one that was said.
    for i in range(len(pieces) - 1):
        assert text.startswith("".join(pieces[: i + 1]))
    assert "" not in pieces


def test_text_that_only_begins_like_a_stop_string_is_given_out() -> None:
    pieces, last = pieces_of([b"a", b"EN", b"DI", b"EN", b"D", b"x"], ("END.", "ENDX"))
    assert (pieces, last.text, last.finish) == (["a", "ENDI", "ENDx"], "aENDIENDx", Finish.LENGTH)
    pieces, last = pieces_of([b"a", b"EN", b"D", b".x"], ("END.", "ENDX"))
    assert (pieces, last.text, last.finish, last.completion_tokens) == (["a"], "a", Finish.STOP, 4)


def test_an_answer_cut_off_inside_a_character() -> None:
    smile = "👩".encode()
    pieces, last = pieces_of([b"ok ", smile[:2], smile[2:3]], ())
    assert (pieces, last.text) == (["ok ", "\ufffd"], "ok \ufffd")
    pieces, last = pieces_of([b"ok" + smile[:2], smile[2:] + b"!"], ())
    assert (pieces, last.text) == (["ok", "👩!"], "ok👩!")
