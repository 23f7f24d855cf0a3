"""The fake engine: deterministic, right as often as it says, and as strict about ends as a real one."""

import math
import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from workbench.decodes import Sampling
from workbench.engines.base import Engine
from workbench.engines.fake import FakeEngine
from workbench.errors import UserError
from workbench.types import Completion, Finish, Message, Model, Request


def ask(text: str, indices: tuple[int, ...] = (0,), style: str = "chat") -> Request:
    return Request(f"id of {text}", (Message("user", text),), indices, style)


def answers(engine: Engine, request: Request, **sampling: object) -> list[Completion]:
    [batch] = engine.sample([request], Sampling(**sampling))  # type: ignore[arg-type]
    assert all(id == request.id for id, _ in batch)
    return [completion for _, completion in batch]


def test_the_same_request_gets_the_same_answers_in_any_split_of_its_indices() -> None:
    engine = FakeEngine(Model("fake"))
    whole = answers(engine, ask("What is 7 + 8?", tuple(range(64))))
    first = answers(FakeEngine(Model("fake")), ask("What is 7 + 8?", tuple(range(16))))
    rest = answers(engine, ask("What is 7 + 8?", tuple(range(16, 64))))
    assert whole == first + rest
    assert len({completion.text for completion in whole}) > 1


@pytest.mark.parametrize(
    ("question", "result"),
    [
        ("What is 7 + 8?", "15"),
        ("What is 3 + 4? 7. What is (2 + 3) * -4?", "-20"),
        ("Compute 1 / 4.", "0.25"),
        ("Is 5 - 6 × 2 less than 10 ÷ 0?", "-7"),
    ],
)
@pytest.mark.parametrize("style", ["chat", "text"])
def test_arithmetic_is_right_with_accuracy_1_and_wrong_with_0(question: str, result: str, style: str) -> None:
    [right] = answers(FakeEngine(Model("fake:1")), ask(question, style=style))
    [wrong] = answers(FakeEngine(Model("fake:0")), ask(question, style=style))
    assert right.text == f"The answer is {result}."
    assert wrong.text != right.text
    assert re.fullmatch(r"The answer is -?[\d.]+\.", wrong.text)


def test_the_accuracy_is_the_stated_one() -> None:
    drawn = answers(FakeEngine(Model("fake:0.8")), ask("What is 20 + 22?", tuple(range(2000))))
    share = sum("42" in completion.text for completion in drawn) / len(drawn)
    assert abs(share - 0.8) < 0.03


def test_greedy_ignores_index_and_seed_but_not_the_prompt() -> None:
    engine = FakeEngine(Model("fake"))
    texts = {c.text for c in answers(engine, ask("7 + 8", (0, 1, 9)), temperature=0.0)}
    texts |= {c.text for c in answers(engine, ask("7 + 8"), temperature=0.0, seed=5)}
    assert len(texts) == 1
    verdicts = ["100." in answers(engine, ask(f"{i} + {100 - i}"), temperature=0.0)[0].text for i in range(1, 40)]
    assert 5 < sum(verdicts) < 34


def test_length_and_stop_strings() -> None:
    engine = FakeEngine(Model("fake"), script=lambda request, index: "one  two three END four")
    [cut] = answers(engine, ask("?"), max_tokens=2)
    assert (cut.text, cut.completion_tokens, cut.finish) == ("one  two", 2, Finish.LENGTH)
    [stopped] = answers(engine, ask("?"), stop=("nothing", "END"))
    assert (stopped.text, stopped.completion_tokens, stopped.finish) == ("one  two three ", 3, Finish.STOP)


def test_a_script_that_raises_is_an_error_and_not_an_answer() -> None:
    def script(request: Request, index: int) -> str:
        if index == 1:
            raise ConnectionError("gone")
        return "fine"

    good, bad = answers(FakeEngine(Model("fake"), script), ask("a question", (0, 1)))
    assert (good.finish, bad.finish) == (Finish.STOP, Finish.ERROR)
    assert (bad.text, bad.error, bad.prompt_tokens) == ("", "ConnectionError: gone", 2)


def test_labels_get_log_probabilities_that_depend_on_prompt_and_label() -> None:
    engine = FakeEngine(Model("fake"))
    requests = [ask("good?"), ask("bad?")]
    batches = list(engine.logprobs(requests, [("yes", "no"), ("yes", "no, never")]))
    scores = [completion.logprob for batch in batches for _, completion in batch]
    assert len(set(scores)) == 4
    assert all(score is not None and score < 0 for score in scores)
    assert [(i, c.index, c.text, c.finish) for i, c in batches[1]] == [
        ("id of bad?", 0, "yes", Finish.SCORED),
        ("id of bad?", 1, "no, never", Finish.SCORED),
    ]


@given(st.lists(st.text(), min_size=1, max_size=5))
def test_embeddings_have_unit_length(texts: list[str]) -> None:
    vectors = FakeEngine(Model("fake")).embed(texts)
    assert (vectors.shape, vectors.dtype) == ((len(texts), 64), np.float32)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, rtol=1e-5)


def test_texts_that_share_words_are_nearer() -> None:
    a, b, c = FakeEngine(Model("fake")).embed(["profit rose in May", "Profit fell in May", "a cat sat down"])
    assert a @ b > a @ c


@given(st.text())
def test_any_prompt_gets_an_answer(text: str) -> None:
    [completion] = answers(FakeEngine(Model("fake")), ask(text))
    assert completion.finish is Finish.STOP, completion


@pytest.mark.parametrize("base", ["fake:", "fake:high", "fake:1.5", "fake:nan"])
def test_a_bad_accuracy_is_refused(base: str) -> None:
    with pytest.raises(UserError, match="fake"):
        FakeEngine(Model(base))


@given(st.text(min_size=1), st.text(min_size=1, max_size=60), st.integers(0, 20))
def test_token_log_probabilities_add_up_to_the_text_s(prompt: str, text: str, top: int) -> None:
    engine = FakeEngine(Model("fake"))
    [[(_, scored)]] = engine.logprobs([ask(prompt)], [[text]])
    [[(id, told)]] = engine.token_logprobs([ask(prompt)], [text], top)
    assert (id, told.error, len(told.tokens)) == (ask(prompt).id, None, scored.completion_tokens)
    assert sum(score.logprob for score in told.tokens) == pytest.approx(scored.logprob, abs=1e-9)
    for score in told.tokens:
        likely = [logprob for _, logprob in score.top]
        assert len(likely) == top
        assert likely == sorted(likely, reverse=True)
        assert sum(math.exp(logprob) for logprob in likely) <= 1 + 1e-9
    assert [told] == [scores for [(_, scores)] in engine.token_logprobs([ask(prompt)], [text], top)]


@pytest.mark.parametrize("top", [-1, 21, 2.5, True, float("nan"), float("inf"), None])
def test_a_number_of_top_tokens_out_of_its_range_is_refused(top: int) -> None:
    with pytest.raises(UserError, match="top is"):
        list(FakeEngine(Model("fake")).token_logprobs([ask("?")], ["yes"], top))


@given(st.text(), st.integers(0, 9), st.integers(1, 6))
def test_a_stream_is_the_sample_in_pieces(text: str, index: int, max_tokens: int) -> None:
    scripts = [None, lambda request, index: f" {text}  {index} \n"]
    for engine in [FakeEngine(Model("fake"), script) for script in scripts]:
        sampling = Sampling(seed=3, max_tokens=max_tokens, stop=("8",))
        [drawn] = answers(engine, ask(f"{text} 7 + 8", (index,)), seed=3, max_tokens=max_tokens, stop=("8",))
        *pieces, last = engine.stream(ask(f"{text} 7 + 8", (index, 11)), sampling)
        assert last == drawn
        assert "".join(map(str, pieces)) == drawn.text
        assert "" not in pieces


def test_a_stream_that_fails_says_so() -> None:
    def script(request: Request, index: int) -> str:
        raise ConnectionError("gone")

    [last] = FakeEngine(Model("fake"), script).stream(ask("?"), Sampling())
    assert isinstance(last, Completion)
    assert (last.finish, last.error) == (Finish.ERROR, "ConnectionError: gone")


def test_an_empty_stop_string_reaches_no_engine() -> None:
    with pytest.raises(UserError, match="stop holds an empty string"):
        Sampling(stop=("\n", ""))
