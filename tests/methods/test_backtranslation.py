"""Instruction backtranslation: instructions for texts, cleaned, graded, kept; and what the grades are worth."""

import json
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import recipes.backtranslate
from workbench.decodes import Sample
from workbench.drawing import Drawer
from workbench.engines import EngineConfig
from workbench.engines.base import Batch, Engine
from workbench.engines.fake import FakeEngine
from workbench.errors import UserError
from workbench.files import read_json
from workbench.instructing.curating import OK, cleaned, read_texts, score_of
from workbench.instructing.grades import histogram
from workbench.made_data import read_made
from workbench.methods.backtranslation import Config, make
from workbench.model_flags import ModelFlags
from workbench.runs import Run, RunFolder
from workbench.store import Store
from workbench.training.card import cost_of
from workbench.types import Completion, Finish, Model, Request

TEXTS = (
    "Bread wants flour, water, salt and time. Knead it well and let it rest.",
    "The moon moves the sea twice a day.",
    "A sonnet has fourteen lines.",
)
MODEL = Model("fake")
REFUSED = RuntimeError("HTTP 400: no")


def scored(*logprobs: float) -> list[Completion]:
    return [Completion(i, str(i + 1), logprob=p, finish=Finish.SCORED) for i, p in enumerate(logprobs)]


# --- the grade ----------------------------------------------------------------------------------------


def test_a_grade_is_the_expectation_over_the_digits() -> None:
    shares = (0.1, 0.2, 0.3, 0.2, 0.2)
    found = score_of(scored(*(math.log(p / 7) for p in shares)))
    assert found is not None
    assert found.value == pytest.approx(0.1 + 0.4 + 0.9 + 0.8 + 1.0)
    assert found.probabilities == pytest.approx(shares)
    flat = score_of(scored(*[-9.0] * 5))
    assert flat is not None and flat.value == pytest.approx(3) and flat.entropy == pytest.approx(math.log(5))


@given(st.lists(st.floats(-50, 0), min_size=5, max_size=5))
def test_a_grade_lies_between_1_and_5(logprobs: list[float]) -> None:
    found = score_of(scored(*logprobs))
    assert found is not None and 1 - 1e-9 <= found.value <= 5 + 1e-9
    assert 0 <= found.entropy <= math.log(5) + 1e-9


def test_a_missing_digit_is_no_grade() -> None:
    assert score_of(scored(-1, -1, -1, -1)) is None
    failed = replace(scored(0, 0, 0, 0, 0)[4], finish=Finish.ERROR, logprob=None)
    assert score_of([*scored(-1, -1, -1, -1), failed]) is None


def test_a_histogram_holds_both_ends() -> None:
    counts = histogram([1, 1.49, 1.5, 3.2, 4.5, 5])
    assert list(counts.values()) == [2, 1, 0, 0, 1, 0, 0, 2] and next(iter(counts)) == "1–1.5"


# --- instructions -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("said", "wanted"),
    [
        ("How is bread made?", ("How is bread made?", OK)),
        ('  "How is\n bread made?" ', ("How is bread made?", OK)),
        ("The request was: How is bread made?", ("How is bread made?", OK)),
        ("The request was to explain bread to me.", ("Explain bread to me.", OK)),
        ("Instruction: Explain bread to me.", ("Explain bread to me.", OK)),
        ("Bread?", ("", "too short")),
        ("word " * 81, ("", "too long")),
        ("How is \x07 bread made?", ("", "characters that cannot be printed")),
        (f"Repeat this: {TEXTS[0]}", ("", "recites the text")),
    ],
)
def test_instructions_are_cleaned(said: str, wanted: tuple[str, str]) -> None:
    assert cleaned(Completion(0, said), TEXTS[0]) == wanted


def test_what_is_cut_off_or_failed_is_no_instruction() -> None:
    assert cleaned(Completion(0, "How is bread made?", finish=Finish.LENGTH), TEXTS[0]) == ("", "cut off")
    assert cleaned(Completion(0, "", finish=Finish.ERROR), TEXTS[0]) == ("", "request failed")


# --- texts --------------------------------------------------------------------------------------------


def test_texts_are_read_from_paragraphs_and_rows(tmp_path: Path) -> None:
    plain, rows = tmp_path / "a.txt", tmp_path / "a.jsonl"
    plain.write_text("\n\n".join([*TEXTS, TEXTS[0]]) + "\n \n\n", encoding="utf-8")
    rows.write_text("".join(json.dumps({"body": text}) + "\n" for text in TEXTS), encoding="utf-8")
    assert read_texts(plain, "text", None) == read_texts(rows, "body", None) == TEXTS
    assert read_texts(rows, "body", 2) == TEXTS[:2]
    assert len(read_texts(None, "text", None)) == 48, "the project's own"


def test_bad_texts_are_named(tmp_path: Path) -> None:
    rows, bad, empty = tmp_path / "a.jsonl", tmp_path / "b.txt", tmp_path / "c.txt"
    rows.write_text('{"text": "x"}\n{"other": "y"}\n')
    bad.write_bytes(b"\xff\xfe\x00")
    empty.write_text(" \n\n \n")
    for path, limit, message in (
        (rows, None, "row 2, field 'text'"),
        (bad, None, "could not be read as UTF-8"),
        (empty, None, "holds no text"),
        (tmp_path / "none.txt", None, "could not be read"),
        (None, 100, "limit is 100"),
    ):
        with pytest.raises(UserError, match=message):
            read_texts(path, "text", limit)


# --- the method ---------------------------------------------------------------------------------------


class Scripted(Drawer):
    """Two instructions a text, and grades that are high for a text with its own good instruction."""

    def __init__(self, store: Store, good: float = 4.6, blind: bool = False, failure: Exception = REFUSED) -> None:
        super().__init__(EngineConfig("fake"), store, quiet=True)
        self.good, self.blind = good, blind
        self.sampled = self.judged = 0
        self.failure = failure

    def engine(self, model: Model) -> Engine:
        drawer = self

        class Judging(FakeEngine):
            def logprobs(
                self, requests: Sequence[Request], continuations: Sequence[Sequence[str]]
            ) -> Iterator[Batch]:
                for request, texts in zip(requests, continuations, strict=True):
                    drawer.judged += 1
                    grade = drawer.grade(request.messages[0].content)
                    high = [max(1e-9, 1 - abs(grade - int(text))) for text in texts]
                    yield [
                        (request.id, Completion(i, text, 9, 1, math.log(p), finish=Finish.SCORED))
                        for i, (text, p) in enumerate(zip(texts, high, strict=True))
                    ]

        return Judging(model, self.script)

    def script(self, request: Request, index: int) -> str:
        self.sampled += 1
        number = next(i for i, text in enumerate(TEXTS) if text in request.messages[0].content)
        if number == 2 and index == 0:
            raise self.failure
        return [f"Please write about thing {number}.", f"Say something on thing {number}."][index]

    def grade(self, asked: str) -> float:
        number = next(i for i, text in enumerate(TEXTS) if text in asked)
        if f"Please write about thing {number}." in asked or (self.blind and "Please" in asked):
            return self.good
        return 2.0


def translate(root: Path, config: Config, **drawing: Any) -> tuple[dict[str, Any], RunFolder, Scripted]:
    texts = root / "texts.txt"
    root.mkdir(exist_ok=True)
    texts.write_text("\n\n".join(TEXTS))
    with Run.open(root, "backtranslate", {}, name="run") as run, Store(root / "store.sqlite") as store:
        drawer = Scripted(store, **drawing)
        return make(MODEL, replace(config, texts=texts), run, drawer), RunFolder(run.path), drawer


CONFIG = Config(candidates=Sample(n=2, max_tokens=96), threshold=4.0)


def test_the_best_pair_of_a_text_is_kept_where_it_is_good_enough(tmp_path: Path) -> None:
    told, run, _ = translate(tmp_path, CONFIG)
    made = read_made(run.path / "data.jsonl")
    assert [(m.prompt, m.completion) for m in made] == [
        (f"Please write about thing {i}.", TEXTS[i]) for i in (0, 1)
    ]
    assert [m.source["score"] for m in made] == pytest.approx([4.6, 4.6])
    assert sum(made[0].source["probabilities"]) == pytest.approx(1)
    assert made[0].source["texts"] == "texts.txt" and made[0].source["text"] == 1
    assert told["completions"] == {"request refused by the server": 1, OK: 5} and told["candidates"] == 5
    assert told["kept"] == 2 and told["likeliest"] == {"1": 0, "2": 3, "3": 0, "4": 0, "5": 2}
    assert cost_of(run).tokens > 0
    card = (run.path / "README.md").read_text()
    assert "2 of 3 texts were kept" in card and "where its grade is 4 or more" in card
    assert "the lowest grade among them is 4.60" in card and str(tmp_path) not in card


@pytest.mark.parametrize(("keep", "texts"), [(0.34, [0]), (0.5, [0, 1]), (0.01, [0]), (1.0, [0, 1, 2])])
def test_by_default_the_share_with_the_highest_grades_is_kept(
    tmp_path: Path, keep: float, texts: list[int]
) -> None:
    told, run, _ = translate(tmp_path, replace(CONFIG, threshold=None, keep=keep), good=3.5)
    assert [m.completion for m in read_made(run.path / "data.jsonl")] == [TEXTS[i] for i in texts]
    assert told["kept"] == len(texts)
    assert (
        f"for the share of {keep:g} of the texts where its grade is highest"
        in (run.path / "README.md").read_text()
    )
    assert Config().threshold is None and Config().keep == 0.5


def test_a_failure_that_may_pass_is_not_written_down_as_finished(tmp_path: Path) -> None:
    with pytest.raises(
        UserError, match=r"1 of 6 requests failed \(instructions\); the first: ConnectionError: gone"
    ):
        translate(tmp_path, CONFIG, failure=ConnectionError("gone"))
    assert not (tmp_path / "run" / "backtranslation.json").exists()
    told, _, drawer = translate(tmp_path, CONFIG)
    assert drawer.sampled == 1 and told["kept"] == 2


@pytest.mark.parametrize("error", ["ReadTimeout", "HTTP 400: too long"])
def test_scores_that_fail_follow_the_same_rule(
    tmp_path: Path, error: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Failing(FakeEngine):
        def logprobs(self, requests: Sequence[Request], continuations: Sequence[Sequence[str]]) -> Iterator[Batch]:
            for place, batch in enumerate(super().logprobs(requests, continuations)):
                yield [(id, replace(c, finish=Finish.ERROR, error=error) if not place else c) for id, c in batch]

    with Run.open(tmp_path, "backtranslate", {}, name="run") as run, Store(tmp_path / "s.sqlite") as store:
        drawer = Drawer(EngineConfig("fake"), store, quiet=True)
        monkeypatch.setattr(drawer, "engine", Failing)
        if error.startswith("HTTP"):
            told = make(MODEL, Config(limit=3, candidates=Sample(n=2)), run, drawer)
            assert told["not_scored"] == 1
            assert "(1 request longer than the context)" in (run.path / "README.md").read_text()
        else:
            with pytest.raises(UserError, match=r"1 of 6 requests failed \(scores\)"):
                make(MODEL, Config(limit=3, candidates=Sample(n=2)), run, drawer)


def test_grades_that_mean_something_tell_a_text_from_another(tmp_path: Path) -> None:
    told, _, _ = translate(tmp_path / "a", CONFIG)
    apart = told["own_against_other"]
    assert (apart["texts"], apart["pairs"], apart["own_higher"]) == (3, 5, 2)
    assert apart["difference"]["value"] == pytest.approx((1.3 + 1.3 + 0) / 3)
    told, run, _ = translate(tmp_path / "b", CONFIG, blind=True)
    assert told["own_against_other"]["difference"]["value"] == pytest.approx(0)
    assert "do not tell a text's own instruction from another's" in (run.path / "README.md").read_text()


def test_nothing_good_enough_makes_nothing(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"No pair has a grade of 4 or more; the highest of 5 is 3\.50"):
        translate(tmp_path, CONFIG, good=3.5)
    assert not (tmp_path / "run" / "data.jsonl").exists()


def test_a_finished_run_is_not_run_again_and_not_mixed(tmp_path: Path) -> None:
    told, run, _ = translate(tmp_path, CONFIG)
    before = (run.path / "data.jsonl").read_bytes()
    again, _, drawer = translate(tmp_path, CONFIG)
    assert again == told and drawer.sampled == drawer.judged == 0
    assert (run.path / "data.jsonl").read_bytes() == before
    with pytest.raises(UserError, match="other texts"):
        translate(tmp_path, replace(CONFIG, limit=2))


def test_one_text_has_no_other(tmp_path: Path) -> None:
    told, run, _ = translate(tmp_path, replace(CONFIG, limit=1))
    assert "own_against_other" not in told and told["kept"] == 1
    assert read_json(run.path / "backtranslation.json") == told


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (lambda: Config(threshold=0.5), "threshold is 0.5"),
        (lambda: Config(keep=0), "keep is 0"),
        (lambda: Config(keep=1.1), "keep is 1.1"),
        (lambda: Config(limit=0), "limit is 0"),
    ],
)
def test_bad_settings_are_named(config: Callable[[], Config], message: str) -> None:
    with pytest.raises(UserError, match=message):
        config()


def test_the_recipe(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    method = Config(limit=5, threshold=1.5, candidates=Sample(n=2))
    flags = ModelFlags("fake", engine=EngineConfig("fake"))
    config = recipes.backtranslate.Config(method, flags, runs=tmp_path, quiet=True)
    told = recipes.backtranslate.main(config)
    printed = capsys.readouterr().out
    assert f"{told['kept']:,} of 5 texts were kept" in printed and "--data-format prompt-completion" in printed
    assert recipes.backtranslate.main(config) == told
