"""Budget forcing: the worked number, who is forced and who goes on, and that no budget is exceeded."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from stepping import PROMPT, QUESTIONS, Noting, said, stages, task

from workbench.decoding.budget_forcing import force_budget
from workbench.errors import UserError
from workbench.harness import evaluate
from workbench.identity import from_json, to_json
from workbench.step_decodes import BudgetForcing
from workbench.store import Store
from workbench.types import Finish, Model, Request, Status, System

STEPS = {"begin": "", "end": "####", "final": ""}


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Store(tmp_path / "store.sqlite") as opened:
        yield opened


def segment(words: int, end: str = "</think>") -> str:
    """So many words, the last of which ends the thinking."""
    return " ".join(["so"] * (words - 1) + [f"so{end}"])


def thinking(lengths: list[int], answer: str = " 7", dies_at: int | None = None) -> Noting:
    """A model that ends its thinking after so many words, then after so many more, …, and then answers."""

    def script(request: Request, index: int) -> str:
        text = said(request)
        if "</think>" in text:
            return answer
        return segment(lengths[text.count("Wait")])

    return Noting(script, dies_at=dies_at)


def test_the_worked_number_a_budget_of_64_cuts_30_25_20_to_30_25_9(store: Store) -> None:
    engine = thinking([30, 25, 20])
    decode = BudgetForcing(at_least=64, at_most=64)
    stepped = force_budget(decode, stages(engine, store, decode))
    tokens = [len(text.split()) for text in stepped.completions[QUESTIONS[0].id].text.split("Wait")]
    limits = [
        request.max_tokens for request, _ in engine.asked if QUESTIONS[0].input in request.messages[0].content
    ]
    assert limits == [64, 34, 9, None], (
        "what each stage was allowed: all, what was left, what was left; the answer"
    )
    assert tokens[:2] == [31, 25], "30 and the word <think>; 25"
    whole = stepped.completions[QUESTIONS[0].id]
    assert whole.completion_tokens == 30 + 25 + 9 + 1
    assert whole.text.endswith(" so so\n</think>\n\nThe answer is 7"), "cut off, and the answer forced"
    assert whole.finish is Finish.STOP
    assert stepped.metrics == {
        "forced_questions": 3,
        "extended_questions": 3,
        "waits": 6,
        "short_questions": 0,
        "thinking_tokens": 64,
    }
    assert stepped.notes[0].startswith(
        "Of 3 questions the answer was forced in 3, and thinking was made to go on in 3"
    )


def test_enough_thinking_is_left_alone(store: Store) -> None:
    engine = thinking([12])
    decode = BudgetForcing(at_least=10, at_most=20)
    stepped = force_budget(decode, stages(engine, store, decode))
    assert stepped.completions[QUESTIONS[0].id].text == f"<think>\n{segment(12)} 7"
    assert (stepped.metrics["forced_questions"], stepped.metrics["extended_questions"]) == (0, 0)
    assert all(not sampling.keep_stop for request, sampling in engine.asked if "</think>" in said(request))


def test_the_task_s_grade_is_that_of_the_forced_answer(store: Store) -> None:
    decode = BudgetForcing(at_most=5)
    result = evaluate(System(Model("fake"), PROMPT, decode), task(), thinking([50]), store)
    assert {(o.status, o.answer) for o in result.outcomes} == {(Status.CORRECT, "7")}
    assert dict(result.metrics)["forced_questions"] == 3
    assert any("the answer was forced in 3" in note for note in result.notes)
    assert result.cost_to_use.completion_tokens == 5 + 1
    assert result.cost_to_use.prompt_tokens == (2 + 1) + (2 + 1 + 5 + 4), "both conversations were read"


def test_a_step_by_step_prompt_thinks_until_its_marker(store: Store) -> None:
    def script(request: Request, index: int) -> str:
        return " 7" if said(request).endswith("####") else "one two three four five #### 8"

    for at_most, text, forced in [
        (5, "one two three four five\n#### 7", 3),
        (6, "one two three four five #### 7", 0),
    ]:
        decode = BudgetForcing(at_most=at_most, **STEPS)
        stepped = force_budget(decode, stages(Noting(script), store, decode))
        assert stepped.completions[QUESTIONS[0].id].text == text
        assert stepped.metrics["forced_questions"] == forced


def test_a_text_that_ends_without_its_marker_is_the_answer_of_a_step_by_step_prompt(store: Store) -> None:
    engine = Noting(lambda request, index: "it is 7")
    decode = BudgetForcing(**STEPS)
    stepped = force_budget(decode, stages(engine, store, decode))
    assert stepped.completions[QUESTIONS[0].id].text == "it is 7"
    assert len(engine.asked) == 3, "nothing was left to ask"
    section = BudgetForcing(begin="")
    stepped = force_budget(section, stages(engine, store, section))
    assert stepped.metrics["forced_questions"] == 3, "a section that was never closed has no answer behind it"


def test_a_model_that_will_not_think_on_is_let_go(store: Store) -> None:
    decode = BudgetForcing(at_least=50, at_most=60, waits=2)
    stepped = force_budget(decode, stages(thinking([2, 2, 2]), store, decode))
    assert stepped.metrics["waits"] == 2 * 3
    assert stepped.metrics["short_questions"] == 3
    assert "3 have fewer than 50" in stepped.notes[0]
    assert stepped.metrics["thinking_tokens"] == 6


def test_the_prompt_s_stop_strings_end_thinking_and_are_cut_off(store: Store) -> None:
    decode = BudgetForcing(**STEPS)
    engine = Noting(lambda request, index: "it is 7\nQ: next")
    stepped = force_budget(decode, stages(engine, store, decode, stop=("\nQ:",)))
    assert stepped.completions[QUESTIONS[0].id].text == "it is 7"


def test_a_failed_stage_is_no_answer(store: Store) -> None:
    def script(request: Request, index: int) -> str:
        if "</think>" in said(request) and "Question 1" in request.messages[0].content:
            raise RuntimeError("down")
        return " 7" if "</think>" in said(request) else segment(3)

    decode = BudgetForcing()
    result = evaluate(System(Model("fake"), PROMPT, decode), task(), Noting(script), store)
    assert [o.status for o in result.outcomes] == [Status.CORRECT, Status.ERROR, Status.CORRECT]
    assert result.total == 2
    assert any("1 requests failed" in note for note in result.notes)


def test_a_failed_thought_is_asked_for_again(store: Store) -> None:
    def script(request: Request, index: int) -> str:
        if "Wait" in said(request) and "Question 1" in request.messages[0].content:
            raise RuntimeError("down")
        return " 7" if "</think>" in said(request) else segment(3)

    system = System(Model("fake"), PROMPT, BudgetForcing(at_least=6, at_most=9))
    result = evaluate(system, task(), Noting(script), store)
    assert [o.status for o in result.outcomes] == [Status.CORRECT, Status.ERROR, Status.CORRECT]
    again = thinking([3, 3])
    assert evaluate(system, task(), again, store).total == 3
    assert len(again.asked) == 2, "the second thought and the answer of the one question"


def test_resumed_equals_uninterrupted(tmp_path: Path) -> None:
    system = System(Model("fake"), PROMPT, BudgetForcing(at_least=64, at_most=64))
    results = []
    for name, deaths in [("whole", ()), ("killed", (2, 4, 3))]:
        with Store(tmp_path / f"{name}.sqlite") as store:
            for dies_at in deaths:
                with pytest.raises(KeyboardInterrupt):
                    evaluate(system, task(), thinking([30, 25, 20], dies_at=dies_at), store)
            engine = thinking([30, 25, 20])
            results.append(evaluate(system, task(), engine, store))
            assert len(engine.asked) == 12 - sum(deaths)
    assert results[0] == results[1]


def test_an_answer_that_is_cut_off_is_truncated(store: Store) -> None:
    decode = BudgetForcing(max_tokens=2)
    result = evaluate(System(Model("fake"), PROMPT, decode), task(), thinking([3], "it is not 7"), store)
    assert {o.status for o in result.outcomes} == {Status.TRUNCATED}


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    lengths=st.lists(st.integers(1, 40), min_size=9, max_size=9),
    at_most=st.integers(1, 80),
    share=st.floats(0, 1),
    waits=st.integers(0, 8),
)
def test_no_budget_is_exceeded_and_the_tokens_add_up(
    tmp_path_factory: pytest.TempPathFactory, lengths: list[int], at_most: int, share: float, waits: int
) -> None:
    at_least = int(share * at_most)
    decode = BudgetForcing(at_least=at_least, at_most=at_most, waits=waits)
    engine = thinking(lengths)
    with Store(tmp_path_factory.mktemp("budget") / "store.sqlite") as store:
        stepped = force_budget(decode, stages(engine, store, decode))
    thought = stepped.metrics["thinking_tokens"]
    assert thought <= at_most
    assert thought >= at_least or stepped.metrics["waits"] == 3 * waits
    whole = stepped.completions[QUESTIONS[0].id]
    assert whole.completion_tokens == thought + 1
    assert whole.text.endswith(" 7")
    assert whole.text.count("Wait") * 3 == stepped.metrics["waits"]
    assert stepped.flops is not None
    assert min(stepped.flops.values()) > 0


@pytest.mark.parametrize(
    ("field", "values"),
    [
        ("at_most", {"at_most": 0}),
        ("at_least", {"at_least": 65, "at_most": 64}),
        ("at_least", {"at_least": -1}),
        ("waits", {"waits": -1}),
        ("end", {"end": " "}),
        ("wait", {"wait": ""}),
        ("temperature", {"temperature": float("nan")}),
        ("max_tokens", {"max_tokens": 0}),
    ],
)
def test_bad_settings_are_named(field: str, values: dict[str, object]) -> None:
    with pytest.raises(UserError, match=f"^{field} is"):
        BudgetForcing(**values)  # type: ignore[arg-type]


def test_json() -> None:
    decode = BudgetForcing(at_least=3, end="####")
    assert from_json(to_json(decode)) == decode
