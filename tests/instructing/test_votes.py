"""Votes on questions whose answers nobody knows: who has a voice, what confidence is, what cannot be reached."""

from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from workbench.errors import UserError
from workbench.instructing.vote_words import data_card, nothing_kept, summary
from workbench.instructing.votes import distinct, unlabelled, vote
from workbench.stats import entropy
from workbench.tasks.arithmetic import Config, load
from workbench.types import Completion, Example, Finish

TASK = load(Config(practice=6, dev=2, test=2))
QUESTION = Example.make("What is 1 + 1?", "0")


def said(*texts: str, finish: Finish = Finish.STOP, start: int = 0) -> list[Completion]:
    return [Completion(i, text, finish=finish) for i, text in enumerate(texts, start=start)]


def read(text: str, question: Example) -> str | None:
    return TASK.grade(text, question).answer


def test_the_worked_number_20_7_5() -> None:
    found = vote(QUESTION, said(*["1 + 1 = 2"] * 20, *["It is 3."] * 7, *["4"] * 5), read)
    assert (found.answer, len(found.paths), found.samples, found.confidence) == ("2", 20, 32, 0.625)
    assert found.entropy == pytest.approx(entropy([20, 7, 5]))
    assert len(distinct(found.paths)) == 1


def test_who_has_no_voice_is_in_the_denominator_and_failed_requests_are_not() -> None:
    completions = [
        *said("2", "2", "3"),
        *said("the answer is 2", finish=Finish.LENGTH, start=3),
        *said("I do not know.", start=4),
        *said("", finish=Finish.ERROR, start=5),
    ]
    found = vote(QUESTION, completions, read)
    assert (found.answer, found.samples, found.truncated, found.unparsable, found.failed) == ("2", 5, 1, 1, 1)
    assert [path.index for path in found.paths] == [0, 1] and found.confidence == 0.4
    assert found.entropy == pytest.approx(entropy([2, 1, 2])), "no voice is one answer of its own"


def test_where_nobody_votes_nothing_is_kept() -> None:
    for completions in (said("no idea"), said("2", finish=Finish.LENGTH), said("", finish=Finish.ERROR), []):
        found = vote(QUESTION, completions, read)
        assert (found.answer, found.paths, found.confidence, found.entropy) == (None, (), 0.0, 0.0)


def test_paths_that_differ_by_white_space_are_one() -> None:
    assert [c.text for c in distinct(said("1 + 1 = 2", " 1 + 1\n= 2 ", "1+1 = 2"))] == ["1 + 1 = 2", "1+1 = 2"]


@given(st.lists(st.sampled_from(["2", "3", "4", "what?", None]), max_size=40))
def test_a_vote_counts_every_sample_once(texts: Sequence[str | None]) -> None:
    completions = [
        Completion(i, text or "2", finish=Finish.LENGTH if text is None else Finish.STOP)
        for i, text in enumerate(texts)
    ]
    found = vote(QUESTION, completions, read)
    assert found.samples == len(texts) and found.truncated == texts.count(None)
    assert found.unparsable == texts.count("what?")
    others = max((texts.count(answer) for answer in "234"), default=0)
    assert len(found.paths) == others and 0 <= found.confidence <= 1


class Secret(Example):
    """A question whose answer cannot be read."""

    def __getattribute__(self, name: str) -> Any:
        if name in ("target", "rationale"):
            raise AssertionError(f"{name} was read")
        return super().__getattribute__(name)


def test_targets_cannot_be_reached() -> None:
    secret = [Secret(e.id, e.input, e.target, e.rationale, e.variables) for e in TASK.practice]
    with pytest.raises(AssertionError, match="target was read"):
        _ = secret[0].target
    seen = []
    right = {e.id: e.target for e in TASK.practice}  # as a generator's own scorer has them

    def grade(text: str, question: Example) -> Any:
        seen.append((question.target, question.rationale, right.get(question.id)))
        return TASK.grade(text, question)

    fields = {name: getattr(TASK, name) for name in type(TASK).__dataclass_fields__}
    task = type(TASK)(**{**fields, "practice": tuple(secret), "grade": grade})
    practice = unlabelled(task, 4, "0")
    assert [q.id for q in practice.questions] == [e.id for e in TASK.practice[:4]]
    assert [q.input for q in practice.questions] == [e.input for e in TASK.practice[:4]]
    assert [practice.read("It is 7.", q) for q in practice.questions] == ["7"] * 4
    assert set(seen) == {("0", "", None)}


def test_too_many_questions_are_refused() -> None:
    with pytest.raises(UserError, match="practice_questions is 7"):
        unlabelled(TASK, 7, "0")


def test_a_summary_counts() -> None:
    votes = [vote(QUESTION, said("2", "2", "3", "no idea"), read), vote(QUESTION, said("5", "6"), read)]
    told = summary(1, votes, votes[:1], 1, {"refused": 3})
    assert told["failed"] == {"refused": 3} and told["broken_characters"] == 0
    counts = {name: told[name] for name in ("questions", "kept_questions", "samples", "unparsable", "kept_paths")}
    assert counts == {"questions": 2, "kept_questions": 1, "samples": 6, "unparsable": 1, "kept_paths": 2}
    assert told["kept_distinct"] == 1 and told["agreeing_paths"] == 3
    assert told["confidence"]["value"] == pytest.approx(0.5)


def test_nothing_kept_says_why() -> None:
    assert "the highest is 0.5" in str(nothing_kept([vote(QUESTION, said("2", "3"), read)], 0.9))
    broken = vote(QUESTION, said("\ud83d 2"), read)
    assert "holds broken characters" in str(nothing_kept([broken], 0.9))


def test_where_most_samples_are_mute_the_stand_in_is_named() -> None:
    mute = vote(QUESTION, said("no idea", "what?", "2"), read)
    assert "--stand-in" in str(nothing_kept([mute], 0.9))
    assert "--stand-in" not in str(nothing_kept([vote(QUESTION, said("2", "3", "no idea"), read)], 0.9))
    card = data_card(summary(1, [mute], [mute], 1, {}), "m", "p", "t", [])
    assert "Most samples gave no answer" in card and "--stand-in" in card
    talking = vote(QUESTION, said("2"), read)
    assert "--stand-in" not in data_card(summary(1, [talking], [talking], 1, {}), "m", "p", "t", [])
