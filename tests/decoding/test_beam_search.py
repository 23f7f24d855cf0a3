"""Beam search over steps: who is kept, what is chosen, what it costs, and that it goes on where it was killed."""

import math
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from stepping import PROMPT, QUESTIONS, Noting, read, said, stages, task, whole_store

from workbench.cost import ModelShape
from workbench.decodes import Sampling
from workbench.decoding.beam_search import search
from workbench.decoding.steps import continued, cut_at
from workbench.errors import UserError
from workbench.harness import evaluate
from workbench.identity import from_json, system_hash, to_json
from workbench.step_decodes import BeamSearch
from workbench.store import Store
from workbench.types import Completion, Finish, Message, Model, Request, Status, System

NEWLINE = ("\n",)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Store(tmp_path / "store.sqlite") as opened:
        yield opened


class Valued(Noting):
    """A model whose samples bring their log-probabilities in their text, as in "step {-0.5}"; dropped from it."""

    def sample(self, requests: Sequence[Request], sampling: Sampling) -> Iterator[Any]:
        for batch in super().sample(requests, sampling):
            yield [(id, self._valued(c)) for id, c in batch]

    @staticmethod
    def _valued(c: Completion) -> Completion:
        value = re.search(r" ?\{(.*?)\}", c.text)
        if value is None or c.finish is Finish.ERROR:
            return c
        text = c.text.replace(value[0], "", 1)
        words = max(1, len(text.split()))
        return replace(c, text=text, completion_tokens=words, logprob=words * float(value[1]))


class Rewards:
    """A reward model that has its rewards from a function of the answer so far."""

    version = "rewards 1"
    shape = ModelShape(parameters=1000, layers=1, hidden=8, heads=1, kv_heads=1, head_dim=8)

    def __init__(self, reward: Any) -> None:
        self.reward = reward
        self.asked: list[str] = []

    def rewards(self, asked: Sequence[tuple[Request, str]]) -> Iterator[list[tuple[int, Completion]]]:
        for place, (_, text) in enumerate(asked):
            self.asked.append(text)
            yield [(place, Completion(0, "", 3, 2, self.reward(text), 0.5, Finish.SCORED))]

    def close(self) -> None:
        """Nothing."""


@pytest.fixture
def folder(tmp_path: Path) -> str:
    made = tmp_path / "scorer"
    made.mkdir()
    (made / "model.safetensors").write_bytes(b"1")
    (made / "config.json").write_text("{}")
    return str(made)


def tree(request: Request, index: int) -> str:
    """First steps a, b, c, d with falling values; behind a, only bad ends; behind b, a good one."""
    path = said(request)
    if not path:
        return ["a {-0.1}\n", "b {-0.2}\n", "c {-0.3}\n", "d {-0.4}\n"][index % 4]
    if path == "a\n":
        return ["5 {-2.0}", "6 {-3.0}"][index % 2]
    return ["7 {-0.5}", "8 {-0.9}"][index % 2]


def test_the_best_of_all_candidates_are_gone_on_with(store: Store) -> None:
    engine = Valued(tree)
    decode = BeamSearch(beams=4, keep=2, separators=NEWLINE)
    stepped = search(decode, stages(engine, store, decode), read)
    paths = Counter(said(request) for request, _ in engine.asked)
    assert paths == {"": 4 * 3, "a\n": 2 * 3, "b\n": 2 * 3}
    whole = stepped.completions[QUESTIONS[0].id]
    # Behind b lie both of the best ends, so that nothing behind a is kept: b 7 has -0.35 a token, b 8 -0.55.
    assert whole.text == "b\n7"
    assert whole.logprob == pytest.approx(-0.2 - 0.5)
    assert whole.completion_tokens == 4 + 4, "every candidate was generated"
    assert whole.prompt_tokens == 2 + 3 + 3, "the question, and the question with each of two beginnings"
    assert stepped.metrics == {"steps": 2, "finished_beams": 2, "answer_tokens": 2}
    assert all(sampling.keep_stop and sampling.stop == NEWLINE for _, sampling in engine.asked)


def test_diverse_search_keeps_the_best_of_each_tree(store: Store) -> None:
    engine = Valued(tree)
    decode = BeamSearch(beams=4, keep=2, diverse=True, separators=NEWLINE)
    stepped = search(decode, stages(engine, store, decode), read)
    # The trees' first candidates are a, b and c, d.
    assert Counter(said(request) for request, _ in engine.asked) == {"": 12, "a\n": 6, "c\n": 6}
    assert stepped.completions[QUESTIONS[0].id].text == "c\n7", "-0.4 a token; the other tree's best is a 5"
    assert stepped.metrics["finished_beams"] == 2


def test_trees_with_equal_beginnings_draw_samples_of_their_own(store: Store) -> None:
    engine = Valued(lambda request, index: f"{index} {{-1}}" if said(request) else "a {-0.1}\n")
    decode = BeamSearch(beams=6, keep=2, diverse=True, separators=NEWLINE)
    search(decode, stages(engine, store, decode), read)
    second = [request for request, _ in engine.asked if said(request)]
    assert {request.indices[0] for request in second} == set(range(6))
    assert len({request.id for request in second}) == 3, "one conversation a question"


def test_equal_candidates_take_one_place(store: Store) -> None:
    engine = Valued(
        lambda r, i: "7 {-1}" if said(r) else ["a {-0.1}\n", "a {-0.1}\n", "a {-0.1}\n", "b {-9}\n"][i]
    )
    decode = BeamSearch(beams=4, keep=2, separators=NEWLINE)
    search(decode, stages(engine, store, decode), read)
    assert {said(request) for request, _ in engine.asked} == {"", "a\n", "b\n"}


def test_a_beam_that_ended_keeps_its_place(store: Store) -> None:
    def script(request: Request, index: int) -> str:
        if not said(request):
            return ["8 {-0.1}", "a {-0.2}\n", "b {-0.3}\n", "c {-0.4}\n"][index]
        return "7 {-0.1}"

    engine = Valued(script)
    decode = BeamSearch(beams=4, keep=2, separators=NEWLINE)
    stepped = search(decode, stages(engine, store, decode), read)
    assert Counter(said(request) for request, _ in engine.asked) == {"": 12, "a\n": 6}
    assert stepped.metrics["finished_beams"] == 2
    assert stepped.completions[QUESTIONS[0].id].text == "8", "-0.1 a token; a 7 has -0.15"


def test_the_vote_adds_up_weights(store: Store, folder: str) -> None:
    """METHODS.md: A .6 + .5, B .9: the best is B, the weighted vote says A."""
    logit = {"It is 5": 0.6, "5": 0.5, "It is 6": 0.9}
    values = {text: math.log(p / (1 - p)) for text, p in logit.items()}
    for choose, text in [("score", "It is 6"), ("vote", "It is 5")]:
        engine = Noting(lambda request, index: list(logit)[index])
        decode = BeamSearch(beams=3, keep=3, scorer=folder, choose=choose)  # type: ignore[arg-type]
        found = stages(engine, store, decode)
        assert search(decode, found, read, Rewards(values.get)).completions[QUESTIONS[0].id].text == text


def test_answers_that_were_cut_off_or_say_nothing(store: Store) -> None:
    def script(request: Request, index: int) -> str:
        return ["one two three four {-0.1}", "none {-5}"][index]

    decode = BeamSearch(beams=2, keep=2, max_tokens=3, choose="vote")
    found = search(decode, stages(Valued(script), store, decode), read).completions[QUESTIONS[0].id]
    assert (found.text, found.finish) == ("none", Finish.STOP), "a cut-off beam is chosen only where none finished"
    decode = BeamSearch(beams=2, keep=2, max_tokens=3)
    engine = Noting(lambda request, index: "one two three four")
    found = search(decode, stages(engine, store, decode, stop=("x",)), read).completions[QUESTIONS[0].id]
    assert (found.text, found.finish) == ("one two three", Finish.LENGTH)


def test_long_steps_are_cut_and_gone_on_with(store: Store) -> None:
    words = [f"w{i}" for i in range(10)]

    def script(request: Request, index: int) -> str:
        done = len(said(request).split())
        return (" " if done else "") + " ".join(words[done:])

    decode = BeamSearch(beams=1, keep=1, step_tokens=4, max_tokens=20)
    engine = Noting(script)
    stepped = search(decode, stages(engine, store, decode), read)
    assert stepped.completions[QUESTIONS[0].id].text == " ".join(words)
    assert stepped.completions[QUESTIONS[0].id].completion_tokens == 10
    assert stepped.metrics["steps"] == 3
    short = replace(decode, max_tokens=6)
    engine = Noting(script)
    stepped = search(short, stages(engine, store, short), read)
    assert {request.max_tokens for request, _ in engine.asked} == {2}, "the first step is in the store"
    assert stepped.completions[QUESTIONS[0].id].finish is Finish.LENGTH


def test_sentences_are_steps_and_the_blank_between_them_is_drawn_again(store: Store) -> None:
    def script(request: Request, index: int) -> str:
        return " So it is 7." if said(request) else "1 + 6 = 7. So it is 8."

    engine = Noting(script)
    decode = BeamSearch(beams=1, keep=1)
    stepped = search(decode, stages(engine, store, decode), read)
    assert {said(request) for request, _ in engine.asked} == {"", "1 + 6 = 7."}
    assert stepped.completions[QUESTIONS[0].id].text == "1 + 6 = 7. So it is 7."


def test_the_prompt_s_stop_strings_end_an_answer(store: Store) -> None:
    def script(request: Request, index: int) -> str:
        return {"": "it is 7\n", "it is 7\n": "\n"}.get(said(request), "Q: more")

    decode = BeamSearch(beams=1, keep=1)
    stepped = search(decode, stages(Noting(script), store, decode, stop=("\n\nQ:",)), read)
    whole = stepped.completions[QUESTIONS[0].id]
    assert (whole.text, whole.finish) == ("it is 7", Finish.STOP)
    assert stepped.metrics["steps"] == 3, "a stop string may go over the ends of steps"
    stepped = search(decode, stages(Noting(script), store, decode, stop=("\n\n",)), read)
    assert stepped.completions[QUESTIONS[0].id].text == "it is 7"


def test_a_search_of_empty_steps_ends(store: Store) -> None:
    decode = BeamSearch(beams=1, keep=1, max_tokens=5)
    stepped = search(decode, stages(Noting(lambda request, index: "\n"), store, decode), read)
    assert stepped.completions[QUESTIONS[0].id].finish is Finish.LENGTH
    assert stepped.metrics["steps"] == 5


def test_a_reward_model_reads_the_answer_so_far_and_is_paid_for(store: Store, folder: str) -> None:
    scorer = Rewards(lambda text: {"a\n": -1.0, "b\n": 1.0, "b\n7": 0.0, "b\n8": -1.0}.get(text, -5.0))
    decode = BeamSearch(beams=4, keep=1, separators=NEWLINE, scorer=folder)
    system = System(Model("fake"), PROMPT, decode)
    result = evaluate(system, task(), Valued(tree), store, scorer=scorer)
    assert {(o.status, o.text) for o in result.outcomes} == {(Status.CORRECT, "b\n7")}
    assert scorer.asked.count("b\n") == 3
    assert len(scorer.asked) == 3 * 6, "four first steps, and two different ends"
    # The question's 2 words, the 3 of it with a beginning; and the scorer's 3 of a prompt with 2 of each answer.
    assert result.cost_to_use.prompt_tokens == 2 + 3 + (3 + 4 * 2) + (3 + 2 * 2)
    assert result.cost_to_use.completion_tokens == 8
    again = Rewards(None)
    assert evaluate(system, task(), Valued(tree), store, scorer=again) == result
    assert again.asked == [], "kept in the store"


def test_the_model_judges_its_own_steps(store: Store) -> None:
    engine = Valued(tree)
    decode = BeamSearch(beams=4, keep=1, separators=NEWLINE, scorer="judge")
    stepped = search(decode, stages(engine, store, decode), read)
    whole = stepped.completions[QUESTIONS[0].id]
    assert whole.prompt_tokens > 8 * 20, "the verdicts' prompts are counted"
    assert whole.completion_tokens == 8
    assert stepped.completions == search(decode, stages(engine, store, decode), read).completions


def test_what_has_no_score_is_no_answer(store: Store, folder: str) -> None:
    class Untold(Noting):
        def sample(self, requests: Any, sampling: Any) -> Any:
            for batch in super().sample(requests, sampling):
                yield [(id, replace(c, logprob=None)) for id, c in batch]

    decode = BeamSearch(beams=2, keep=1)
    with pytest.raises(UserError, match=r"No question was answered.*no score from 'logprob'"):
        evaluate(System(Model("fake"), PROMPT, decode), task(), Untold(lambda r, i: "7"), store)
    decode = BeamSearch(beams=2, keep=1, scorer=folder)
    with pytest.raises(UserError, match="No question was answered"):
        evaluate(
            System(Model("fake"), PROMPT, decode), task(), Noting(lambda r, i: "7"), store,
            scorer=Rewards(lambda text: math.nan),
        )  # fmt: skip


@pytest.mark.parametrize(
    ("values", "why"), [({}, "that reward model is not loaded"), ({"scorer": "judge", "judge": "no"}, "no prompt")]
)
def test_what_cannot_be_scored_is_not_drawn(store: Store, folder: str, values: dict[str, str], why: str) -> None:
    engine = Noting(lambda request, index: "7")
    decode = BeamSearch(beams=2, keep=1, **({"scorer": folder} | values))  # type: ignore[arg-type]
    with pytest.raises(UserError, match=why):
        evaluate(System(Model("fake"), PROMPT, decode), task(), engine, store)
    assert engine.asked == []


def test_the_candidates_of_a_step_that_failed_are_not_scored(store: Store, folder: str) -> None:
    def script(request: Request, index: int) -> str:
        if "Question 1" in request.messages[0].content and index == 1:
            raise RuntimeError("down")
        return "7"

    scorer = Rewards(lambda text: 1.0)
    system = System(Model("fake"), PROMPT, BeamSearch(beams=2, keep=1, scorer=folder))
    result = evaluate(system, task(), Noting(script), store, scorer=scorer)
    assert result.total == 2
    assert len(scorer.asked) == 2


def test_one_failed_sample_of_a_stage_makes_an_error(store: Store) -> None:
    def script(request: Request, index: int) -> str:
        if said(request) and "Question 1" in request.messages[0].content and index == 1:
            raise RuntimeError("down")
        return tree(request, index)

    system = System(Model("fake"), PROMPT, BeamSearch(beams=4, keep=2, separators=NEWLINE))
    result = evaluate(system, task(), Valued(script), store)
    assert [o.status for o in result.outcomes] == [Status.CORRECT, Status.ERROR, Status.CORRECT]
    engine = Valued(tree)
    assert evaluate(system, task(), engine, store).total == 3
    assert {request.messages[0].content for request, _ in engine.asked} == {"Question 1?"}


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    keep=st.integers(1, 4),
    width=st.integers(1, 3),
    diverse=st.booleans(),
    step_tokens=st.integers(1, 6),
    max_tokens=st.integers(1, 20),
    choose=st.sampled_from(["score", "vote"]),
    seed=st.integers(0, 5),
)
def test_counts_add_up_and_no_budget_is_exceeded(
    tmp_path_factory: pytest.TempPathFactory,
    keep: int, width: int, diverse: bool, step_tokens: int, max_tokens: int, choose: Any, seed: int,
) -> None:  # fmt: skip
    words = ["one", "two", ".", "so", "7\n", "8", "then.", "9"]

    def script(request: Request, index: int) -> str:
        start = (index * 7 + len(said(request)) * 3 + seed) % len(words)
        return " ".join([*words[start:], *words[: (index + seed) % 5]])

    decode = BeamSearch(
        beams=keep * width,
        keep=keep,
        diverse=diverse,
        step_tokens=step_tokens,
        max_tokens=max_tokens,
        choose=choose,
    )
    path = tmp_path_factory.mktemp("beams") / "store.sqlite"
    with Store(path) as store:
        engine = Noting(script)
        stepped = search(decode, stages(engine, store, decode), read)
        again = search(decode, stages(Noting(None, dies_at=0), store, decode), read)
    assert again == stepped, "all of it was stored"
    drawn = whole_store(path)
    assert sum(drawn.values()) == len(engine.asked)
    for question in QUESTIONS:
        asked = [(r, s) for r, s in engine.asked if r.messages[0].content == question.input]
        first = sum(not said(request) for request, _ in asked)
        assert first == keep * width
        depth = max(int(request.id.split(":step-")[1].split(":")[0]) for request, _ in asked)
        assert len(asked) <= (depth + 1) * keep * width, "no step has more candidates than beams"
        whole = stepped.completions[question.id]
        assert len(whole.text.split()) <= max_tokens
        assert whole.finish in (Finish.STOP, Finish.LENGTH)
        generated = [c for request, s in asked for _, c in next(iter(Noting(script).sample([request], s)))]
        assert whole.completion_tokens == sum(c.completion_tokens for c in generated)
    assert stepped.metrics["finished_beams"] <= keep


@pytest.mark.parametrize("diverse", [False, True])
def test_resumed_equals_uninterrupted(tmp_path: Path, diverse: bool) -> None:
    system = System(Model("fake"), PROMPT, BeamSearch(beams=4, keep=2, diverse=diverse, separators=NEWLINE))
    results = []
    for name, deaths in [("whole", ()), ("killed", (3, 6, 5))]:
        with Store(tmp_path / f"{name}.sqlite") as store:
            for dies_at in deaths:
                with pytest.raises(KeyboardInterrupt):
                    evaluate(system, task(), Valued(tree, dies_at=dies_at), store)
            engine = Valued(tree)
            results.append(evaluate(system, task(), engine, store))
            assert len(engine.asked) == 24 - sum(deaths)
    assert results[0] == results[1]


@pytest.mark.parametrize(
    ("field", "values"),
    [
        ("beams", {"beams": 0}),
        ("keep", {"keep": 0}),
        ("keep", {"beams": 4, "keep": 5}),
        ("keep", {"beams": 4, "keep": 3}),
        ("step_tokens", {"step_tokens": 0}),
        ("separators", {"separators": ()}),
        ("separators", {"separators": ("\n", "")}),
        ("scorer", {"scorer": ""}),
        ("scorer", {"scorer": "verifier"}),
        ("choose", {"choose": "best"}),
        ("top_k", {"top_k": -1}),
        ("max_tokens", {"max_tokens": 0}),
    ],
)
def test_bad_settings_are_named(field: str, values: dict[str, Any]) -> None:
    with pytest.raises(UserError, match=f"^{field} is"):
        BeamSearch(**values)


def test_the_reward_model_counts_by_its_content(folder: str) -> None:
    system = System(Model("fake"), PROMPT, BeamSearch(scorer=folder))
    before = system_hash(system)
    (Path(folder) / "model.safetensors").write_bytes(b"2")
    assert system_hash(system) != before
    assert from_json(to_json(system)) == system


def test_how_an_answer_is_gone_on_with() -> None:
    user, begun = Message("user", "Q"), Message("assistant", "The answer")
    assert continued([user], "") == (user,)
    assert continued([user], "so") == (user, Message("assistant", "so"))
    assert continued([user, begun], " is") == (user, Message("assistant", "The answer is"))
    assert cut_at("a\n\nb", ("b", "\n\n")) == "a"
    assert cut_at("a", ("b",)) is None
