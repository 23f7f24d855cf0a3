"""Where pairs come from: right against wrong, both orders of a judge, revisions, votes; nothing half-said."""

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from workbench.decodes import Greedy
from workbench.decoding.labels import first_of_two
from workbench.drawing import Drawer
from workbench.engines import EngineConfig
from workbench.engines.base import Batch
from workbench.engines.fake import FakeEngine
from workbench.errors import UserError
from workbench.preferring import constitution, judge, verifier, votes
from workbench.preferring.answers import Answered, Sampling, asked, draw_answers, questions_for_pairs
from workbench.prompts import load_prompt, render
from workbench.store import Store
from workbench.tasks.arithmetic import Config as ArithmeticConfig
from workbench.tasks.arithmetic import load
from workbench.tasks.base import Grade
from workbench.types import Completion, Example, Finish, Message, Model, Request, Shots, System

TASK = load(ArithmeticConfig(practice=12, dev=4, test=4))
SYSTEM = System(Model("fake"), load_prompt("arithmetic"), Greedy(6))
TARGETS = {example.input: example.target for example in TASK.practice + TASK.dev}


def target(request: Request) -> str:
    return TARGETS[request.messages[-1].content.partition("\n")[0]]


Letters = Callable[[str], tuple[float | None, float]]


class Scripted(FakeEngine):
    """Answers by a script, and letters by a rule on the request's text."""

    def __init__(
        self,
        script: Callable[[Request, int], str],
        letters: Callable[[str], tuple[float | None, float]] | None = None,
    ) -> None:
        super().__init__(Model("fake"), script)
        self.letters = letters
        self.scored: list[str] = []

    def logprobs(self, requests: Sequence[Request], continuations: Sequence[Sequence[str]]) -> Any:
        assert self.letters is not None
        for request, texts in zip(requests, continuations, strict=True):
            text = request.messages[-1].content
            self.scored.append(text)
            batch: Batch = [
                (request.id, Completion(i, letter, 5, 1, p, finish=Finish.SCORED))
                for i, (letter, p) in enumerate(zip(texts, self.letters(text), strict=True))
                if p is not None
            ]
            yield batch


@pytest.fixture
def drawer_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A drawer whose engine is the one given."""
    stores = []

    def make(engine: FakeEngine, name: str = "store") -> Drawer:
        stores.append(Store(tmp_path / f"{name}.sqlite"))
        monkeypatch.setattr("workbench.drawing.open_engine", lambda model, config: engine)
        return Drawer(EngineConfig("fake"), stores[-1], quiet=True)

    yield make
    for store in stores:
        store.close()


# --- answers ------------------------------------------------------------------------------------------


def test_answers_are_distinct_whole_and_counted(drawer_of: Any) -> None:
    said = ["5", " 5\n", "6", "", "one two three four five six seven", "boom", "6", "seven"]

    def script(request: Request, index: int) -> str:
        assert index != 5, "this one fails"
        return said[index]

    drawer = drawer_of(Scripted(script))
    found, counts, cost = draw_answers(SYSTEM, TASK, TASK.practice[:2], Sampling(8, 0.8, 0), drawer)
    assert [one.whole for one in found] == [("5", "6", "seven")] * 2
    assert [one.cut for one in found] == [("one two three four five six",)] * 2
    assert counts == {
        "questions": 2,
        "samples": 16,
        "samples that failed": 2,
        "samples without a text": 2,
        "samples cut off": 2,
        "samples that repeat another": 4,
    }
    assert cost.tokens > 0 and cost.flops > 0


def test_every_request_failed(drawer_of: Any) -> None:
    def script(request: Request, index: int) -> str:
        raise RuntimeError("no")

    with pytest.raises(UserError, match=r"every request failed. The first: RuntimeError: no"):
        draw_answers(SYSTEM, TASK, TASK.practice[:2], Sampling(2, 0.8, 0), drawer_of(Scripted(script)))


def test_exemplars_of_the_system_are_left_out(drawer_of: Any) -> None:
    shown = replace(SYSTEM, prompt=replace(SYSTEM.prompt, shots=Shots(TASK.practice[:2], 2)))
    drawer = drawer_of(Scripted(lambda request, index: str(len(request.messages))))
    found, _, _ = draw_answers(shown, TASK, TASK.practice[2:3], Sampling(1, 0.8, 0), drawer)
    assert found[0].whole == ("1",) and len(found[0].prompt) == 1


def test_pairs_are_made_of_practice_and_dev_only() -> None:
    assert questions_for_pairs(TASK, "dev", None) == TASK.dev
    assert questions_for_pairs(TASK, "practice", 3) == TASK.practice[:3]
    with pytest.raises(UserError, match="split is 'test'; pairs are made from practice"):
        questions_for_pairs(TASK, "test", None)
    with pytest.raises(UserError, match="questions is 99"):
        questions_for_pairs(TASK, "dev", 99)


# --- verifier -----------------------------------------------------------------------------------------


def by_question(request: Request, index: int) -> str:
    """Of six questions: two mixed, one right, one wrong, one cut off and right, one empty."""
    right = target(request)
    kind = [example.id for example in TASK.practice].index(request.id)
    long = "and so on and on and on"
    return [
        [right, "1000", f"It is {right}", "2000"][index],
        [right, "1000", "boring", right][index],
        right,
        f"{1000 + index}",
        [right, long, long, right][index],
        "",
    ][kind]


def pairs_of(drawer: Drawer, **options: Any) -> Any:
    return verifier.verifier_pairs(SYSTEM, TASK, 4, 3, "practice", 0, drawer, questions=6, **options)


def test_right_against_wrong(drawer_of: Any) -> None:
    drawer = drawer_of(Scripted(by_question))
    pairs, counts, _ = pairs_of(drawer)
    questions = TASK.practice
    assert [pair.group for pair in pairs] == [questions[0].id] * 3 + [questions[1].id] * 2
    for pair in pairs:
        example = next(e for e in questions if e.id == pair.group)
        assert TASK.grade(pair.chosen, example).correct and not TASK.grade(pair.rejected, example).correct
        assert pair.margin == 1.0 and pair.prompt == render(SYSTEM.prompt, example)
        assert pair.source == {"kind": "verifier", "task": "arithmetic", "split": "practice"}
    assert len({(p.chosen, p.rejected) for p in pairs}) == 5
    assert counts["pairs above the limit a question"] == 1
    assert counts["questions with pairs"] == 2
    assert counts["questions without a wrong answer"] == 2, "what was cut off is no wrong answer"
    assert counts["questions without a right answer"] == counts["questions without a whole answer"] == 1
    assert sum(count for what, count in counts.items() if what.startswith("questions w")) == counts["questions"]


def test_an_answer_whose_check_was_killed_is_not_the_wrong_one(drawer_of: Any) -> None:
    """It may be right: nobody knows."""
    unknown: list[str] = []

    def grade(text: str, example: Example) -> Grade:
        found = TASK.grade(text, example)
        if found.correct or example.id != TASK.practice[0].id:
            return found
        unknown.append(text)
        return Grade(None, False, checked=False)

    pairs, counts, _ = verifier.verifier_pairs(
        SYSTEM, replace(TASK, grade=grade), 4, 3, "practice", 0, drawer_of(Scripted(by_question)), questions=6
    )
    assert unknown and counts["answers whose check was killed"] == len(unknown)
    assert TASK.practice[0].id not in {pair.group for pair in pairs}, "it has no wrong answer left"


def test_a_cut_off_answer_is_rejected_only_where_asked_for_and_never_chosen(drawer_of: Any) -> None:
    pairs, _, _ = pairs_of(drawer_of(Scripted(by_question)), truncated=True)
    [pair] = [pair for pair in pairs if pair.group == TASK.practice[4].id]
    assert pair.rejected == "and so on and on and" and pair.source["rejected"] == "cut off"

    def cut(request: Request, index: int) -> str:  # right as far as it goes
        return f"{target(request)} " * 7 if index else "1000"

    with_cut, _, _ = pairs_of(drawer_of(Scripted(cut), "cut"), truncated=True)
    assert with_cut == []


def test_the_choice_is_seeded(drawer_of: Any) -> None:
    drawer = drawer_of(Scripted(by_question))

    def chosen(seed: int) -> list[tuple[str, str]]:
        pairs, _, _ = verifier.verifier_pairs(SYSTEM, TASK, 4, 1, "practice", seed, drawer, questions=2)
        return [(pair.chosen, pair.rejected) for pair in pairs]

    assert chosen(0) == chosen(0)
    assert len({tuple(chosen(seed)) for seed in range(8)}) > 1


# --- judge --------------------------------------------------------------------------------------------


def answered(*texts: tuple[str, ...]) -> list[Answered]:
    return [
        Answered(example, render(SYSTEM.prompt, example), whole, ())
        for example, whole in zip(TASK.practice, texts, strict=False)
    ]


def logit(p: float) -> tuple[float, float]:
    return math.log(p), math.log(1 - p)


def parts(text: str) -> tuple[str, str]:
    first = text.partition("Answer A:\n")[2].partition("\n")[0]
    return first, text.partition("Answer B:\n")[2].partition("\n")[0]


def judged(drawer: Drawer, found: list[Answered], **options: Any) -> Any:
    return judge.judge_pairs(found, "chat", Model("fake"), 1, 0, drawer, **options)


def test_both_orders_are_asked_and_averaged(drawer_of: Any) -> None:
    """Good against bad: .9 in the first place, and .7 in the second: .8 on average, a margin of .6."""

    def letters(text: str) -> tuple[float, float]:
        return logit(0.9) if parts(text)[0] == "good" else logit(0.3)

    engine = Scripted(lambda request, index: "", letters)
    pairs, counts, _, bias = judged(drawer_of(engine), answered(("bad", "good"), ("good", "bad"), ("same",)))
    assert sorted(map(parts, engine.scored)) == [("bad", "good")] * 2 + [("good", "bad")] * 2
    for pair in pairs:
        assert (pair.chosen, pair.rejected) == ("good", "bad")
        assert pair.margin == pytest.approx(0.6)
        assert sorted(pair.source["chosen_probability"]) == pytest.approx([0.7, 0.9])
        assert pair.source["flipped"] is False
    assert counts == {"questions without two distinct whole answers": 1, "questions with pairs": 2,
                      "pairs above the limit a question": 0}  # fmt: skip
    assert bias["pairs"] == 2 and bias["flips"]["value"] == 0.0
    assert bias["first_preferred"]["value"] == 0.5
    assert bias["mean_first"]["value"] == pytest.approx(0.6)


def test_a_judge_that_looks_at_the_place_only_prefers_nothing(drawer_of: Any) -> None:
    """The first place gets .8 whoever stands there: a tie, and all of it is seen as position bias."""
    engine = Scripted(lambda request, index: "", lambda text: logit(0.8))
    pairs, counts, _, bias = judged(drawer_of(engine), answered(("a", "b"), ("c", "d")))
    assert pairs == [] and counts["ties"] == 2
    assert bias["flips"]["value"] == bias["first_preferred"]["value"] == 1.0
    assert bias["flips"]["low"] < 1.0, "an interval of two pairs"
    assert bias["mean_first"]["value"] == pytest.approx(0.8)


def test_a_verdict_that_turns_is_told(drawer_of: Any) -> None:
    def letters(text: str) -> tuple[float, float]:
        return logit(0.9) if parts(text)[0] == "good" else logit(0.6)

    pairs, _, _, bias = judged(drawer_of(Scripted(lambda r, i: "", letters)), answered(("good", "bad")))
    assert pairs[0].chosen == "good" and pairs[0].margin == pytest.approx(0.3)
    assert pairs[0].source["flipped"] is True and bias["flips"]["value"] == 1.0


def test_with_reasons_probabilities_are_clamped(drawer_of: Any) -> None:
    """.99 and .45 for the good one: clamped to .6 and .45, so .525 and a margin of .05."""
    seen = []

    def letters(text: str) -> tuple[float, float]:
        seen.append("Because." in text)
        return logit(0.99) if parts(text)[0] == "good" else logit(0.55)

    drawer = drawer_of(Scripted(lambda request, index: "Because.", letters))
    pairs, _, _, bias = judged(drawer, answered(("good", "bad")), reasons=True)
    assert pairs[0].chosen == "good" and pairs[0].margin == pytest.approx(0.05) and seen == [True, True]
    assert bias["mean_first"]["value"] == pytest.approx((0.99 + 0.55) / 2), "before clamping"


def test_reasons_that_are_cut_off_and_verdicts_that_fail_give_no_pair(drawer_of: Any) -> None:
    def script(request: Request, index: int) -> str:
        return "on and on and on" if parts(request.messages[-1].content)[0] == "good" else "Because."

    drawer = drawer_of(Scripted(script, lambda text: logit(0.9)))
    pairs, counts, _, bias = judged(drawer, answered(("good", "bad")), reasons=True, reason_tokens=2)
    assert pairs == [] and counts["pairs whose reasons were cut off or failed"] == 1 and bias["pairs"] == 0
    failing = Scripted(script, lambda text: (None, -1.0) if parts(text)[0] == "good" else logit(0.9))
    pairs, counts, _, _ = judged(drawer_of(failing, "other"), answered(("good", "bad")))
    assert pairs == [] and counts["pairs whose verdict failed"] == 1


@pytest.mark.parametrize(
    ("a", "b", "expected"),
    [(-1.0, -1.0, 0.5), (math.log(0.2), math.log(0.6), 0.25), (-2000.0, -1.0, 0.0), (-1.0, -2000.0, 1.0)],
)
def test_a_letter_s_probability_is_normalised_over_both(a: float, b: float, expected: float) -> None:
    scored = [Completion(0, "A", logprob=a), Completion(1, "B", logprob=b)]
    assert first_of_two(scored) == pytest.approx(expected)
    assert first_of_two(scored[:1]) is None
    assert first_of_two([replace(scored[0], finish=Finish.ERROR), scored[1]]) is None
    assert first_of_two([replace(scored[0], logprob=-math.inf), scored[1]]) is None


def test_requests_about_other_texts_have_other_ids() -> None:
    prompt, example = load_prompt("judge-pair"), TASK.practice[0]
    first = asked(prompt, example, answer_a="1", answer_b="2")
    assert first.id != asked(prompt, example, answer_a="2", answer_b="1").id
    assert first.id == asked(prompt, example, answer_a="1", answer_b="2").id
    assert example.input in first.messages[-1].content


# --- constitution -------------------------------------------------------------------------------------


def revise(drawer: Drawer, found: list[Answered], principles: Sequence[str] = ("Be brief.",)) -> Any:
    return constitution.constitution_pairs(found, "chat", Model("fake"), principles, 1, 8, 0.8, 0, drawer)


def step(request: Request) -> str:
    return "critique" if "Say where the answer falls short" in request.messages[-1].content else "revision"


def test_a_revision_is_preferred_and_learned(drawer_of: Any) -> None:
    def script(request: Request, index: int) -> str:
        if step(request) == "critique":
            assert "Be brief." in request.messages[-1].content
            return "Too long."
        assert "Too long." in request.messages[-1].content
        return " short "

    found = answered(("a long answer", "another"), ())
    pairs, made, counts, cost = revise(drawer_of(Scripted(script)), found)
    [pair], [row] = pairs, made
    assert (pair.chosen, pair.rejected, pair.margin) == ("short", "a long answer", None)
    assert pair.source == {"kind": "constitution", "principle": "Be brief.", "critique": "Too long."}
    assert row.completion == "short" and row.prompt == pair.prompt and row.source["draft"] == "a long answer"
    assert counts["questions without a whole answer"] == 1 and cost.tokens > 0


def test_what_is_half_said_or_unchanged_is_left_out(drawer_of: Any) -> None:
    def script(request: Request, index: int) -> str:
        text, kind = request.messages[-1].content, step(request)
        if "draft0" in text:
            return "word " * 9 if kind == "critique" else "never"
        if "draft1" in text:
            return "Fine." if kind == "critique" else "word " * 9
        if "draft2" in text:
            return "Fine." if kind == "critique" else "draft2 "
        if "draft3" in text:
            assert kind == "revision", "the request fails"
        return "Fine." if kind == "critique" else ""

    pairs, made, counts, _ = revise(drawer_of(Scripted(script)), answered(*((f"draft{i}",) for i in range(5))))
    assert pairs == made == []
    assert {what: count for what, count in counts.items() if count} == {
        "critiques cut off": 1,
        "critiques that failed": 1,
        "revisions cut off": 1,
        "revisions that change nothing": 1,
        "revisions without a text": 1,
    }


def test_principles_are_drawn_by_seed(drawer_of: Any) -> None:
    own = constitution.read_principles(constitution.OWN)
    assert len(own) >= 8
    found = answered(*((f"answer {i}",) for i in range(12)))
    drawer = drawer_of(Scripted(lambda request, index: f"{step(request)} {request.id}"))
    drawn = [[p.source["principle"] for p in revise(drawer, found, own)[0]] for _ in range(2)]
    assert drawn[0] == drawn[1] and len(set(drawn[0])) > 3


def test_bad_principles_and_a_prompt_that_begins_the_answer(tmp_path: Path) -> None:
    file = tmp_path / "mine.jsonl"
    file.write_text('{"principle": "Be brief."}\n{"principle": "Be brief. "}\n')
    with pytest.raises(UserError, match=r"mine.jsonl, row 2, field 'principle': row 1 has it already"):
        constitution.read_principles(file)
    file.write_text('{"rule": "Be brief."}\n')
    with pytest.raises(UserError, match=r"row 1, field 'principle': the row has no such field"):
        constitution.read_principles(file)
    prompt = replace(SYSTEM.prompt, messages=(*SYSTEM.prompt.messages, Message("assistant", "It is")))
    with pytest.raises(UserError, match="begins the answer itself"):
        constitution.check_prompt(prompt)


# --- votes --------------------------------------------------------------------------------------------


def vote_file(folder: Path, *rows: dict[str, Any]) -> Path:
    file = folder / "votes.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


def test_votes_become_pairs(tmp_path: Path) -> None:
    row = {"prompt": "Which?", "left": "l", "right": "r", "left_system": "abc", "time": "2026-11-22T10:00:00"}
    turns = [{"role": "system", "content": "Be kind."}, {"role": "user", "content": "Which?"}]
    file = vote_file(
        tmp_path,
        {**row, "vote": "left"},
        {**row, "vote": "right", "prompt": turns},
        {**row, "vote": "tie"},
        {**row, "vote": "both bad"},
        {**row, "vote": "left", "right": "l"},
    )
    pairs, counts, bias = votes.read_votes(file)
    assert [(pair.chosen, pair.rejected) for pair in pairs] == [("l", "r"), ("r", "l")]
    assert [len(pair.prompt) for pair in pairs] == [1, 2]
    assert pairs[0].source == {
        "kind": "votes", "vote": "left", "left_system": "abc", "time": "2026-11-22T10:00:00"
    }  # fmt: skip
    assert counts == {"votes": 5, "ties": 1, "votes against both": 1, "votes between equal texts": 1}
    assert bias["pairs"] == 2 and bias["first_preferred"]["value"] == 0.5


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"vote": "both"}, "field 'vote': it is 'both'; it must be one of left, right, tie, both bad"),
        ({"vote": None}, "field 'vote': it is None"),
        ({"right": ""}, "field 'right': the field is empty"),
        ({"prompt": None}, "field 'prompt'"),
    ],
)
def test_a_bad_vote_is_named(tmp_path: Path, change: dict[str, Any], problem: str) -> None:
    row = {"prompt": "Which?", "left": "l", "right": "r", "vote": "left"}
    with pytest.raises(UserError) as caught:
        votes.read_votes(vote_file(tmp_path, row, {**row, **change}))
    assert "votes.jsonl, row 2" in str(caught.value) and problem in str(caught.value)
