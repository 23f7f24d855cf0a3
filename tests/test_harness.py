"""The harness: what becomes of every kind of answer, what is asked again, and numbers worked out by hand."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from itertools import permutations
from pathlib import Path

import pytest

from workbench.cost import inference_flops
from workbench.decodes import Decode, Greedy, LabelLikelihood, Majority, Sample, Sampling
from workbench.decoding.ask import stream_key
from workbench.engines.base import Batch
from workbench.engines.fake import FakeEngine
from workbench.errors import UserError
from workbench.harness import evaluate, questions_of
from workbench.store import Store
from workbench.tasks.base import Grade, Task, make_task
from workbench.tasks.graders import grade_number, label_grader
from workbench.types import (
    Completion,
    Example,
    Finish,
    Message,
    Model,
    Prompt,
    Request,
    Result,
    Shots,
    Status,
    System,
)

PROMPT = Prompt("plain", (Message("user", "{{ input }}"),))
Script = Callable[[Request, int], str]


class Counting(FakeEngine):
    """The fake engine, with a list of what it was asked for."""

    def __init__(self, script: Script | None = None, version: str = "fake 1") -> None:
        super().__init__(Model("fake"), script)
        self.version = version
        self.asked: list[tuple[str, int]] = []
        self.seen: list[Request] = []

    def sample(self, requests: Sequence[Request], sampling: Sampling) -> Iterator[Batch]:
        self.seen += requests
        self.asked += [(request.id, index) for request in requests for index in request.indices]
        yield from super().sample(requests, sampling)


class Scoring(FakeEngine):
    """Label scores from a table: (log-probability, tokens) of each continuation."""

    def __init__(self, table: dict[str, tuple[float, int]]) -> None:
        super().__init__(Model("fake"))
        self.table = table
        self.continuations: list[Sequence[str]] = []

    def logprobs(self, requests: Sequence[Request], continuations: Sequence[Sequence[str]]) -> Iterator[Batch]:
        for request, texts in zip(requests, continuations, strict=True):
            self.continuations.append(texts)
            batch = []
            for index, text in enumerate(texts):
                logprob, tokens = self.table[text.strip()]
                batch.append((request.id, Completion(index, text, 5, tokens, logprob, finish=Finish.SCORED)))
            yield batch


def questions(*targets: str) -> tuple[Example, ...]:
    return tuple(Example.make(f"question {number}", target) for number, target in enumerate(targets))


def numbers(*targets: str, max_tokens: int = 256) -> Task:
    """A task of numbers whose test questions have these targets, in this order."""
    return make_task(
        "numbers",
        settings={},
        splits={"practice": questions("0"), "dev": questions("0"), "test": questions(*targets)},
        grade=grade_number,
        prompt="question",
        max_tokens=max_tokens,
    )


def colours(*targets: str) -> Task:
    labels = ("red", "blue")
    return make_task(
        "colours",
        settings={},
        splits={"practice": questions("red"), "dev": questions("red"), "test": questions(*targets)},
        grade=label_grader(labels),
        prompt="classify",
        labels=labels,
    )


def system(decode: Decode, prompt: Prompt = PROMPT, model: str = "fake") -> System:
    return System(Model(model), prompt, decode)


def says(*answers: str | Exception) -> Script:
    """Sample i of every question is answer i, as "The answer is …"; an exception is a failed request."""

    def script(request: Request, index: int) -> str:
        answer = answers[index]
        if isinstance(answer, Exception):
            raise answer
        return answer

    return script


def by_question(**answers: str | Exception) -> Script:
    """Question q<number> gets that answer."""

    def script(request: Request, index: int) -> str:
        answer = answers[f"q{request.messages[-1].content.removeprefix('question ')}"]
        if isinstance(answer, Exception):
            raise answer
        return answer

    return script


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Store(tmp_path / "completions.sqlite") as store:
        yield store


def measured(task: Task, decode: Decode, script: Script | None, store: Store) -> Result:
    return evaluate(system(decode), task, Counting(script), store)


# --- the five statuses ------------------------------------------------------------------------------

FIVE = by_question(
    q0="The answer is 4.",
    q1="The answer is 5.",
    q2="I would rather not say.",
    q3="The answer is 4 but there is a lot more to say about it",
    q4=ConnectionError("gone"),
)


def test_the_five_statuses_are_told_apart_and_counted(store: Store) -> None:
    result = measured(numbers(*"44444"), Greedy(max_tokens=6), FIVE, store)
    statuses = [outcome.status for outcome in result.outcomes]
    assert statuses == [Status.CORRECT, Status.WRONG, Status.UNPARSABLE, Status.TRUNCATED, Status.ERROR]
    assert dict(result.counts) == {"correct": 1, "wrong": 1, "unparsable": 1, "truncated": 1, "error": 1}
    assert [outcome.score for outcome in result.outcomes] == [1.0, 0.0, 0.0, 0.0, None]
    assert [outcome.answer for outcome in result.outcomes] == ["4", "5", None, None, None]


def test_a_failed_request_leaves_the_denominator_and_says_so(store: Store) -> None:
    result = measured(numbers(*"44444"), Greedy(max_tokens=6), FIVE, store)
    assert (result.total, result.score.value, result.score.method) == (4, 0.25, "wilson")
    [note] = result.notes
    assert note.startswith("1 requests failed and are no answers; the first: ConnectionError: gone.")


def test_a_task_of_several_kinds_tells_the_right_answers_of_each(store: Store) -> None:
    task = replace(numbers(*"44444"), kind="sort")
    sorts = [("sort", "sum" if number in (0, 1, 4) else "word") for number in range(5)]
    asked = tuple(replace(e, variables=(sort,)) for e, sort in zip(task._test, sorts, strict=True))
    result = measured(replace(task, _test=asked), Greedy(max_tokens=6), FIVE, store)
    assert "Right answers by sort: sum 1/2, word 0/2." in result.notes  # the third sum failed


def test_a_failed_request_is_not_stored_and_is_asked_for_again(store: Store) -> None:
    task, decode = numbers(*"44444"), Greedy(max_tokens=6)
    measured(task, decode, FIVE, store)
    assert sum(count for _, _, count in store.streams()) == 4
    again = Counting(by_question(q4="The answer is 4."))
    result = evaluate(system(decode), task, again, store)
    failed = questions(*"44444")[4].id
    assert again.asked == [(failed, 0)]
    assert dict(result.counts)["error"] == 0
    assert (result.total, result.notes) == (5, ())


def test_where_every_request_failed_there_is_no_result(store: Store) -> None:
    task = numbers("4", "4")
    with pytest.raises(UserError, match=r"No question was answered: 2 requests failed.*gone"):
        measured(task, Greedy(), says(ConnectionError("gone")), store)
    assert store.looks(task.hash, "test") == 0


def test_a_cut_off_answer_is_never_correct_and_never_votes(store: Store) -> None:
    cut, whole = "The answer is 4 and so on and on", "The answer is 5."
    result = measured(numbers("4"), Majority(n=3, max_tokens=6), says(cut, cut, whole), store)
    [outcome] = result.outcomes
    assert (outcome.status, outcome.answer, outcome.samples) == (Status.WRONG, "5", 3)
    assert result.metric("pass@1") == 0.0
    assert result.metric("majority@1") == 0.0


def test_an_answer_that_cannot_be_read_does_not_vote(store: Store) -> None:
    result = measured(numbers("4"), Majority(n=3), says("no idea", "no idea", "The answer is 4."), store)
    [outcome] = result.outcomes
    assert (outcome.status, outcome.answer, outcome.text) == (Status.CORRECT, "4", "The answer is 4.")


def test_a_failed_sample_does_not_vote_and_is_not_counted_among_the_samples(store: Store) -> None:
    gone = ConnectionError("gone")
    result = measured(numbers("4"), Majority(n=3), says(gone, gone, "The answer is 4."), store)
    assert [(o.status, o.samples) for o in result.outcomes] == [(Status.CORRECT, 1)]
    assert result.metric("one_sample") == 1.0
    assert "pass@1" not in dict(result.metrics)  # pass@k needs all n samples


def test_where_nobody_votes_most_samples_say_why(store: Store) -> None:
    cut = "no end in sight at all"
    result = measured(numbers("4"), Majority(n=3, max_tokens=4), says(cut, cut, "no idea"), store)
    [outcome] = result.outcomes
    assert (outcome.status, outcome.answer, outcome.score) == (Status.TRUNCATED, None, 0.0)
    assert dict(result.counts)["truncated"] == 1


def test_a_tied_vote_does_not_depend_on_the_order_of_the_samples(tmp_path: Path) -> None:
    task, winners = numbers("1"), set()
    for number, order in enumerate(permutations(["1", "2", "3", "3", "1", "2"][:4])):
        with Store(tmp_path / f"{number}.sqlite") as store:
            result = measured(task, Majority(n=4), says(*(f"The answer is {a}." for a in order)), store)
        winners.add(result.outcomes[0].answer)
    assert winners == {"3"}  # 1, 2, 3, 3: no tie
    winners = set()
    for number, order in enumerate(permutations("1122")):
        with Store(tmp_path / f"tie-{number}.sqlite") as store:
            result = measured(task, Majority(n=4), says(*(f"The answer is {a}." for a in order)), store)
        winners.add(result.outcomes[0].answer)
    assert len(winners) == 1


# --- metrics, by hand -------------------------------------------------------------------------------


def test_curves_and_gain_of_a_vote_worked_out_by_hand(store: Store) -> None:
    """One question, 4 samples: 4, 4, 5 and one that says nothing.

    pass@1 = 2/4; pass@2 = 1 − C(2,2)/C(4,2) = 5/6; pass@4 = 1. A vote of 2 out of 4 (six pairs): {4,4} → 1;
    {4,5} twice → ½ each; {4,nothing} twice → 1 each; {5,nothing} → 0: 4/6. A vote of all 4 is right.
    """
    script = says("The answer is 4.", "The answer is 4.", "The answer is 5.", "no idea")
    result = measured(numbers("4"), Majority(n=4), script, store)
    expected = {
        "pass@1": 0.5, "pass@2": 5 / 6, "pass@4": 1.0,
        "majority@1": 0.5, "majority@2": 4 / 6, "majority@4": 1.0,
        "one_sample": 0.5, "vote_gain": 0.5,
    }  # fmt: skip
    for name, value in expected.items():
        assert result.metric(name) == pytest.approx(value), name
    assert result.score.value == 1.0


def test_the_gain_is_a_mean_over_questions(store: Store) -> None:
    def script(request: Request, index: int) -> str:
        right = (3, 1)[request.messages[-1].content == "question 1"]  # of 4 samples
        return "The answer is 4." if index < right else "The answer is 5."

    result = measured(numbers("4", "4"), Majority(n=4), script, store)
    assert result.metric("one_sample") == pytest.approx((3 / 4 + 1 / 4) / 2)
    assert result.metric("vote_gain") == pytest.approx((1 + 0) / 2 - 0.5)
    assert result.metric("vote_gain_low") <= result.metric("vote_gain") <= result.metric("vote_gain_high")
    assert "the vote adds +0.0 points" in result.notes[0]


def test_several_samples_a_question_are_one_question_with_a_mean(store: Store) -> None:
    script = says("The answer is 4.", "The answer is 5.", "The answer is 5.", "The answer is 4.")
    result = measured(numbers("4", "4", "5"), Sample(n=4), script, store)
    assert [outcome.score for outcome in result.outcomes] == [0.5, 0.5, 0.5]
    assert (result.total, result.score.value) == (3, 0.5)
    assert "one_sample" not in dict(result.metrics)
    assert result.score.low < 0.2, "three questions, not twelve"


def test_macro_f1_and_the_majority_class_leave_failed_requests_out(store: Store) -> None:
    """Targets red, red, blue against red, blue, blue: F1 2/3 for both labels. The failed fourth is left out."""
    script = by_question(q0="red", q1="blue", q2="blue", q3=ConnectionError("gone"))
    result = measured(colours("red", "red", "blue", "blue"), Greedy(), script, store)
    assert result.metric("macro_f1") == pytest.approx(2 / 3)
    assert result.metric("majority_class") == pytest.approx(2 / 3)


# --- label likelihood -------------------------------------------------------------------------------


def test_the_most_likely_label_is_the_answer_normalized_or_not(tmp_path: Path) -> None:
    """blue: −4 over 4 tokens, −1 a token; red: −3 over 1."""
    engine = Scoring({"red": (-3.0, 1), "blue": (-4.0, 4)})
    task = colours("red")
    with Store(tmp_path / "s.sqlite") as store:
        plain = evaluate(system(LabelLikelihood()), task, engine, store)
        normal = evaluate(system(LabelLikelihood(normalize=True)), task, engine, store)
    assert [(o.answer, o.status) for o in plain.outcomes] == [("red", Status.CORRECT)]
    assert [(o.answer, o.status) for o in normal.outcomes] == [("blue", Status.WRONG)]
    assert plain.system != normal.system
    assert len(engine.continuations) == 1, "the scores are the same; only what is made of them differs"


def test_a_label_that_failed_makes_its_question_an_error(store: Store) -> None:
    class Flaky(Scoring):
        def logprobs(self, requests: Sequence[Request], continuations: Sequence[Sequence[str]]) -> Iterator[Batch]:
            for number, batch in enumerate(super().logprobs(requests, continuations)):
                lost = Completion(1, "blue", finish=Finish.ERROR, error="gone")
                yield [batch[0], (batch[1][0], lost)] if number == 0 else batch

    table = {"red": (-3.0, 1), "blue": (-1.0, 1)}
    task = colours("red", "blue")
    result = evaluate(system(LabelLikelihood()), task, Flaky(table), store)
    assert [(o.status, o.answer) for o in result.outcomes] == [(Status.ERROR, None), (Status.CORRECT, "blue")]
    assert (result.total, result.score.value, len(result.notes)) == (1, 1.0, 1)
    mended = evaluate(system(LabelLikelihood()), task, Scoring(table), store)
    assert [(o.status, o.answer) for o in mended.outcomes] == [(Status.WRONG, "blue"), (Status.CORRECT, "blue")]


def test_equally_likely_labels_go_to_the_first(store: Store) -> None:
    engine = Scoring({"red": (-1.0, 1), "blue": (-1.0, 1)})
    result = evaluate(system(LabelLikelihood()), colours("blue"), engine, store)
    assert result.outcomes[0].answer == "red"


@pytest.mark.parametrize(
    ("style", "content", "expected"),
    [
        ("chat", "{{ input }}:", ["red", "blue"]),
        ("text", "{{ input }}:", [" red", " blue"]),
        ("text", "{{ input }}: ", ["red", "blue"]),
        ("text", "{{ input }}:\n\n", ["red", "blue"]),
    ],
)
def test_a_text_prompt_gives_labels_their_space(
    store: Store, style: str, content: str, expected: list[str]
) -> None:
    engine = Scoring({"red": (-1.0, 1), "blue": (-2.0, 1)})
    prompt = Prompt("p", (Message("user", content),), style=style)
    result = evaluate(system(LabelLikelihood(), prompt), colours("red"), engine, store)
    assert engine.continuations == [expected]
    assert result.outcomes[0].answer == "red", "the label's own name"


def test_likelihood_needs_a_task_with_labels(store: Store) -> None:
    with pytest.raises(UserError, match="has no labels to score"):
        measured(numbers("4"), LabelLikelihood(), None, store)


# --- cost -------------------------------------------------------------------------------------------


def test_a_prompt_is_counted_once_for_its_samples(store: Store) -> None:
    result = measured(numbers("4"), Majority(n=8), says(*["The answer is 4."] * 8), store)
    use = result.cost_to_use
    assert (use.prompt_tokens, use.completion_tokens) == (2, 8 * 4)  # "question 0"; a token is a word
    assert use.flops == inference_flops(FakeEngine.shape, 2, 4, samples=8)


# --- the store --------------------------------------------------------------------------------------


def test_asking_for_16_after_8_draws_the_8_that_are_missing(store: Store) -> None:
    task = numbers("4", "4", "4")
    evaluate(system(Majority(n=8)), task, Counting(), store)
    engine = Counting()
    shown: list[tuple[int, int]] = []
    evaluate(system(Majority(n=16)), task, engine, store, progress=lambda *done: shown.append(done))
    ids = [example.id for example in questions(*"444")]
    assert sorted(engine.asked) == sorted((id, index) for id in ids for index in range(8, 16))
    assert (shown[0], shown[-1]) == ((24, 48), (48, 48))
    last = Counting()
    evaluate(system(Sample(n=12)), task, last, store)
    assert last.asked == [], "samples are samples, whatever is made of them"


def test_an_interrupted_run_draws_only_what_it_had_not_drawn(store: Store) -> None:
    task = numbers(*"4" * 5)

    class Dies(Counting):
        def sample(self, requests: Sequence[Request], sampling: Sampling) -> Iterator[Batch]:
            for number, batch in enumerate(super().sample(requests, sampling)):
                if number == 3:
                    raise KeyboardInterrupt
                yield batch

    with pytest.raises(KeyboardInterrupt):
        evaluate(system(Majority(n=40)), task, Dies(), store)
    engine = Counting()
    resumed = evaluate(system(Majority(n=40)), task, engine, store)
    assert len(engine.asked) == 2 * 40
    with Store(store.path.with_name("other.sqlite")) as other:
        whole = evaluate(system(Majority(n=40)), task, Counting(), other)
    assert resumed == replace(whole, cost_to_use=resumed.cost_to_use)


EXEMPLAR = Example.make("What is 1 + 1?", "2")
OTHERS = {
    "model": system(Greedy(), model="fake:0.9"),
    "adapter": System(Model("fake", adapter="."), PROMPT, Greedy()),
    "revision": System(Model("fake", revision="v2"), PROMPT, Greedy()),
    "template": system(Greedy(), replace(PROMPT, messages=(Message("user", "{{ input }} "),))),
    "system prompt": system(Greedy(), replace(PROMPT, messages=(Message("system", "Hi."), *PROMPT.messages))),
    "stop": system(Greedy(), replace(PROMPT, stop=("\n",))),
    "style": system(Greedy(), replace(PROMPT, style="text")),
    "exemplars": system(Greedy(), replace(PROMPT, shot=PROMPT.messages, shots=Shots((EXEMPLAR,), 1))),
    "temperature": system(Sample(temperature=0.5)),
    "top_p": system(Sample(top_p=0.5)),
    "top_k": system(Sample(top_k=5)),
    "max_tokens": system(Greedy(max_tokens=5)),
    "seed": system(Sample(seed=1)),
    "labels": system(LabelLikelihood()),
}


@pytest.mark.parametrize("what", OTHERS)
def test_whatever_may_change_a_text_is_in_its_key(
    what: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "adapter_model.safetensors").write_bytes(b"weights")
    plain = {str(stream_key(system(d), "fake 1", ())) for d in (Greedy(), Sample())}
    assert str(stream_key(OTHERS[what], "fake 1", ())) not in plain


def test_another_engine_version_and_new_weights_in_the_same_folder_never_hit(tmp_path: Path, store: Store) -> None:
    task = numbers("4")
    adapter = tmp_path / "adapter"
    adapter.mkdir()
    (adapter / "adapter_model.safetensors").write_bytes(b"old weights")
    tuned = System(Model("fake", adapter=str(adapter)), PROMPT, Greedy())
    for version, weights, calls in (
        ("fake 1", b"old weights", 1),
        ("fake 1", b"old weights", 0),
        ("fake 2", b"old weights", 1),
        ("fake 1", b"new weights, at the same path", 1),
    ):
        (adapter / "adapter_model.safetensors").write_bytes(weights)
        engine = Counting(version=version)
        evaluate(tuned, task, engine, store)
        assert len(engine.asked) == calls, (version, weights)


def test_a_better_grader_regrades_what_is_stored(store: Store) -> None:
    task = numbers("4")
    measured(task, Greedy(), says("four"), store)
    better = replace(task, grade=lambda text, example: Grade("4", text == "four"))
    engine = Counting()
    assert evaluate(system(Greedy()), better, engine, store).score.value == 1.0
    assert engine.asked == []


# --- splits -----------------------------------------------------------------------------------------


def test_a_look_at_test_is_recorded_once_a_system(store: Store) -> None:
    task = numbers("4", "5")
    for decode in (Greedy(), Greedy(), Majority(n=2)):
        measured(task, decode, None, store)
    assert store.looks(task.hash, "test") == 2
    evaluate(system(Greedy()), task, Counting(), store, split="dev")
    assert (store.looks(task.hash, "test"), store.looks(task.hash, "dev")) == (2, 0)


def test_questions_of_a_split_from_its_beginning() -> None:
    task = numbers("4", "5", "6")
    assert [e.target for e in questions_of(task, "test", 2)] == ["4", "5"]
    assert questions_of(task, "dev", None) == task.dev
    with pytest.raises(UserError, match=r"questions is 4; it must be a number in \[1, 3\]"):
        questions_of(task, "test", 4)
    with pytest.raises(UserError, match="split is 'train'; it must be practice, dev or test"):
        questions_of(task, "train", None)
