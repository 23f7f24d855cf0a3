"""Critique and revise: what is asked, what is chosen, and that every token is counted."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from stepping import PROMPT, QUESTIONS, Noting, read, stages, task

from workbench.decodes import Sample
from workbench.decoding.ask import completions
from workbench.decoding.revision import revise
from workbench.errors import UserError
from workbench.harness import evaluate
from workbench.identity import system_hash
from workbench.prompts import load_prompt, write_prompt
from workbench.step_decodes import Revision
from workbench.store import Store
from workbench.types import Message, Model, Request, Status, System


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Store(tmp_path / "store.sqlite") as opened:
        yield opened


def model(answers: list[str], critique: str = "It is off by one.") -> Noting:
    """A model that gives one answer after the other as its drafts are criticised."""

    def script(request: Request, index: int) -> str:
        text = request.messages[0].content
        if text.endswith("Do not write a new answer."):
            return critique
        if "Critique of the draft:" in text:
            draft = text.split("Draft answer:\n")[1].split("\n")[0]
            assert critique in text
            return answers[answers.index(draft) + 1]
        return answers[0]

    return Noting(script)


def test_the_last_answer_counts_and_every_token_with_it(store: Store) -> None:
    engine = model(["It is 5", "It is 6", "It is 7"])
    system = System(Model("fake"), PROMPT, Revision(rounds=2))
    result = evaluate(system, task(), engine, store)
    assert {(o.status, o.answer, o.text) for o in result.outcomes} == {(Status.CORRECT, "7", "It is 7")}
    assert len(engine.asked) == 3 * 5
    assert result.cost_to_use.completion_tokens == 3 + 5 + 3 + 5 + 3, "answers and critiques"
    words = [len(" ".join(m.content for m in request.messages).split()) for request, _ in engine.asked]
    assert result.cost_to_use.prompt_tokens == sum(words) / 3
    metrics = dict(result.metrics)
    assert [metrics[f"round@{k}"] for k in range(3)] == [0, 0, 1]
    assert metrics["round@2_high"] == 1
    assert metrics["revised_questions"] == 3
    [note] = [note for note in result.notes if "first answer" in note]
    assert "+100.0 points" in note


def test_the_majority_of_all_rounds(store: Store) -> None:
    answers = ["It is 7", "Yes, 7", "Sorry, 8"]
    for choose, text, status in [("last", "Sorry, 8", Status.WRONG), ("majority", "Yes, 7", Status.CORRECT)]:
        system = System(Model("fake"), PROMPT, Revision(rounds=2, choose=choose))  # type: ignore[arg-type]
        result = evaluate(system, task(), model(answers), store)
        assert {(o.status, o.text) for o in result.outcomes} == {(status, text)}


def test_the_first_answer_is_the_plain_sample(store: Store) -> None:
    engine = model(["It is 5", "It is 7"])
    decode = Revision(max_tokens=8)
    found = stages(engine, store, decode)
    revise(decode, found, read)
    plain = System(Model("fake"), PROMPT, Sample(max_tokens=8))
    before = len(engine.asked)
    drawn = completions(plain, list(found.requests.values()), (), engine, store, lambda done, total: None)
    assert len(engine.asked) == before
    assert drawn[QUESTIONS[0].id][0].text == "It is 5"


def test_the_prompts_get_the_question_as_it_was_asked_and_the_draft_with_its_beginning(store: Store) -> None:
    engine = model(["7", "8", "9"])
    engine._script = lambda request, index: " 8"
    decode = Revision()
    messages = (Message("user", "{{ input }} End with a number."), Message("assistant", "The answer is"))
    found = stages(engine, store, decode)
    asked = [replace(m, content=m.content.replace("{{ input }}", "How many?")) for m in messages]
    found.requests = {id: replace(r, messages=tuple(asked)) for id, r in found.requests.items()}
    revise(decode, found, read)
    critique = next(r for r, _ in engine.asked if "Do not write a new answer" in r.messages[0].content)
    assert "How many? End with a number." in critique.messages[0].content
    assert "Draft answer:\nThe answer is 8\n" in critique.messages[0].content


def test_each_round_draws_anew_where_nothing_has_changed(store: Store) -> None:
    engine = Noting(lambda request, index: "It is 7")
    decode = Revision(rounds=3)
    stepped = revise(decode, stages(engine, store, decode), read)
    assert len({request.id for request, _ in engine.asked}) == 3 * 7
    assert stepped.metrics == {"revised_questions": 0}
    assert stepped.completions[QUESTIONS[0].id].completion_tokens == 7 * 3


def test_a_failed_critique_is_no_answer_and_is_asked_for_again(store: Store) -> None:
    def script(request: Request, index: int) -> str:
        if "Do not write" in request.messages[0].content and "Question 1" in request.messages[0].content:
            raise RuntimeError("down")
        return "It is 7"

    system = System(Model("fake"), PROMPT, Revision())
    result = evaluate(system, task(), Noting(script), store)
    assert [o.status for o in result.outcomes] == [Status.CORRECT, Status.ERROR, Status.CORRECT]
    again = Noting(lambda request, index: "It is 7")
    assert evaluate(system, task(), again, store).total == 3
    assert len(again.asked) == 2, "the critique and the revision of the one question"


def test_resumed_equals_uninterrupted(tmp_path: Path) -> None:
    system = System(Model("fake:0.5"), PROMPT, Revision(rounds=2, choose="majority"))
    results = []
    for name, deaths in [("whole", ()), ("killed", (2, 5, 4))]:
        with Store(tmp_path / f"{name}.sqlite") as store:
            for dies_at in deaths:
                with pytest.raises(KeyboardInterrupt):
                    evaluate(system, task(), Noting(None, "fake:0.5", dies_at), store)
            engine = Noting(None, "fake:0.5")
            results.append(evaluate(system, task(), engine, store))
            assert len(engine.asked) == 15 - sum(deaths)
    assert results[0] == results[1]


@pytest.mark.parametrize(
    ("field", "values"),
    [
        ("rounds", {"rounds": 0}),
        ("critique_tokens", {"critique_tokens": 0}),
        ("choose", {"choose": "best"}),
        ("top_p", {"top_p": 0}),
    ],
)
def test_bad_settings_are_named(field: str, values: dict[str, object]) -> None:
    with pytest.raises(UserError, match=f"^{field} is"):
        Revision(**values)  # type: ignore[arg-type]


def test_prompts_that_cannot_serve_are_named(store: Store) -> None:
    for name, why in [("nothing", "There is no prompt named 'nothing'"), ("judge-pair", "'answer_a'")]:
        decode = Revision(critique=name)
        with pytest.raises(UserError, match=why):
            revise(decode, stages(Noting(None), store, decode), read)


def test_a_prompt_of_one_s_own_counts_by_its_content(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    hashes = set()
    for words in ("Criticise", "Praise"):
        prompt = load_prompt("critique")
        prompt = replace(
            prompt, name="mine", shot=(), messages=(Message("user", words + ": {{ input }} {{ draft }}"),)
        )
        write_prompt(path, prompt, purpose="critique", what_for="a test", source="here")
        hashes.add(system_hash(System(Model("fake"), PROMPT, Revision(critique=str(path)))))
    assert len(hashes) == 2
