"""Prompt sensitivity: which variants there are, what is asked, what the table says, and going on after a stop."""

import json
import math
import random
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import permutations
from pathlib import Path
from typing import Any

import pytest

import recipes.prompt_sensitivity
from workbench.engines import EngineConfig
from workbench.engines.fake import FakeEngine
from workbench.errors import UserError
from workbench.methods.few_shot import Config as FewShotConfig
from workbench.methods.label_scoring import Config as LabelConfig
from workbench.prompts import prompts_of
from workbench.runs import RunFolder
from workbench.sensitivity import Config, Sensitivity, Variant, orders, remarks, summary
from workbench.session import Setup
from workbench.stats import Spread
from workbench.types import (
    CostToMake,
    CostToUse,
    Interval,
    Order,
    Outcome,
    Request,
    Result,
    Selection,
    Status,
    System,
)

FEW = FewShotConfig(shots=3)
FRUIT = ("apple", "pear")


@pytest.fixture
def setup(tmp_path: Path) -> Setup:
    return Setup(
        task_args=("practice=20", "dev=6", "test=6"),
        model="fake",
        split="dev",
        engine=EngineConfig("fake"),
        runs=tmp_path / "runs",
        quiet=True,
    )


@pytest.fixture
def labels(setup: Setup, tmp_path: Path) -> Setup:
    """A task with two labels."""
    data = tmp_path / "fruit.jsonl"
    lines = [{"input": f"fruit {n} of {n * n}", "target": FRUIT[n % 2]} for n in range(80)]
    data.write_text("\n".join(map(json.dumps, lines)), encoding="utf-8")
    return replace(setup, task="file", task_args=(f"path={data}", "grader=label"))


@pytest.fixture
def systems(monkeypatch: pytest.MonkeyPatch) -> list[System]:
    """Every System that is measured, in order."""
    from workbench import harness

    found: list[System] = []
    evaluate = harness.evaluate

    def spied(system: System, *args: Any, **kwargs: Any) -> Result:
        found.append(system)
        return evaluate(system, *args, **kwargs)

    monkeypatch.setattr(harness, "evaluate", spied)
    return found


def vary(setup: Setup, vary: str, scoring: LabelConfig | None = None, **settings: Any) -> Sensitivity:
    config = Config(vary, **{"variants": 4, "few_shot": FEW, **settings})  # type: ignore[arg-type]
    return recipes.prompt_sensitivity.main(
        recipes.prompt_sensitivity.Config(setup, config, scoring or LabelConfig())
    )


def pools(systems: Sequence[System]) -> list[tuple[str, ...]]:
    return [tuple(e.id for e in s.prompt.shots.pool) for s in systems if s.prompt.shots]


# --- which variants ---------------------------------------------------------------------------------


def test_it_measures_on_dev_unless_told_otherwise() -> None:
    assert recipes.prompt_sensitivity.Config().setup == Setup(split="dev")


def test_seeds_take_other_exemplars(setup: Setup, systems: list[System]) -> None:
    found = vary(setup, "seeds")
    assert [v.name for v in found.variants] == ["seed 0", "seed 1", "seed 2", "seed 3"]
    assert len(set(pools(systems))) == 4 and len({frozenset(pool) for pool in pools(systems)}) > 1
    assert {s.prompt.messages for s in systems} == {systems[0].prompt.messages}


@pytest.mark.parametrize(("variants", "expected"), [(4, 4), (6, 6), (100, 6)])
def test_orders_are_different_orders_of_the_same_exemplars(
    variants: int, expected: int, setup: Setup, systems: list[System]
) -> None:
    found = vary(setup, "orders", variants=variants)
    assert len(found.variants) == len(set(pools(systems))) == expected
    assert len({frozenset(pool) for pool in pools(systems)}) == 1
    assert found.variants[0].name == "order 0 1 2"


def test_all_orders_where_there_are_no_more_else_seeded_ones() -> None:
    assert orders(4, 24, 0) == list(permutations(range(4)))
    some = orders(4, 23, 0)
    assert len(set(some)) == 23 and some[0] == (0, 1, 2, 3)
    assert orders(5, 8, 1) == orders(5, 8, 1) != orders(5, 8, 2)
    assert orders(5, 8, 1)[:4] == orders(5, 4, 1)
    assert all(sorted(order) == list(range(30)) for order in orders(30, 50, 0))


def test_orders_of_neighbours_are_seeds_of_their_shuffles(setup: Setup, systems: list[System]) -> None:
    vary(setup, "orders", few_shot=replace(FEW, exemplars="bm25"))
    shots = [s.prompt.shots for s in systems if s.prompt.shots]
    assert [s.order_seed for s in shots] == [0, 1, 2, 3]
    assert {(s.order, s.selection) for s in shots} == {(Order.SEEDED, Selection.BM25)}


def test_prompts_are_all_of_the_purpose_and_the_given_files(
    setup: Setup, systems: list[System], tmp_path: Path
) -> None:
    own = tmp_path / "mine.yaml"
    own.write_text(
        "name: mine\npurpose: arithmetic\nfor: x\nsource: x\nstyle: chat\nvariables: [input]\n"
        "messages: [{role: user, content: '{{ input }} Go!'}]\n"
        "shot: [{role: user, content: '{{ input }}'}, {role: assistant, content: '{{ target }}'}]\n",
        encoding="utf-8",
    )
    found = vary(setup, "prompts", prompt_files=(str(own),), zero_shot=True)
    names = [v.name for v in found.variants]
    assert names[0] == "arithmetic" and names[-1] == "mine"
    assert sorted(names) == sorted([*prompts_of("arithmetic"), "mine"]) and len(names) > 2
    assert pools(systems) == []
    systems.clear()
    vary(replace(setup, prompt="arithmetic-terse"), "prompts")
    assert systems[0].prompt.name == "arithmetic-terse", "the setup's own is the first"
    assert len(set(pools(systems))) == 1 and len(pools(systems)) == len(names) - 1


def test_a_text_prompt_is_varied_with_text_prompts_alone(setup: Setup) -> None:
    with pytest.raises(UserError, match="'phrasebank-text' is the only prompt for phrasebank; --prompt-files"):
        vary(replace(setup, prompt="phrasebank-text"), "prompts")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"variants": 1}, r"variants is 1; it must be a number in \[2, 1000\]"),
        ({"vary": "orders", "zero_shot": True}, "go with --vary prompts"),
        ({"vary": "seeds", "prompt_files": ("a.yaml",)}, "go with --vary prompts"),
        ({"vary": "seeds", "few_shot": FewShotConfig(exemplars="bm25")}, "Exemplars by bm25 have no seed to vary"),
        ({"vary": "orders", "few_shot": FewShotConfig(shots=1)}, "needs --shots 2 or more"),
    ],
)
def test_what_cannot_be_is_named(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        Config(**settings)


# --- plain and calibrated ---------------------------------------------------------------------------


def test_each_variant_is_measured_plain_and_calibrated_and_nothing_is_scored_twice(
    labels: Setup, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[Any, ...]] = []
    logprobs = FakeEngine.logprobs

    def spied(self: FakeEngine, requests: Sequence[Request], continuations: Any) -> Iterator[Any]:
        asked.extend(request.messages for request in requests)
        return logprobs(self, requests, continuations)

    monkeypatch.setattr(FakeEngine, "logprobs", spied)
    found = vary(labels, "orders")
    questions = len(found.variants[0].plain.outcomes)
    assert len(asked) == len(set(asked)) == 4 * (questions + 3)
    assert all(v.calibrated and v.calibrated.system != v.plain.system for v in found.variants)
    assert found.calibrated is not None and found.gain is not None and found.spread_p is not None


def test_without_label_scores_there_is_one_column(
    labels: Setup, setup: Setup, capsys: pytest.CaptureFixture[str]
) -> None:
    for plain in (vary(setup, "orders"), vary(labels, "orders", LabelConfig("generated"))):
        assert plain.calibrated is plain.gain is plain.spread_p is None
        assert all(v.calibrated is None for v in plain.variants)
        assert "alibrat" not in capsys.readouterr().out
    with pytest.raises(UserError, match="with and without calibration; leave --calibrate out"):
        vary(labels, "orders", LabelConfig(calibrate=True))


def test_the_table_and_the_file_hold_the_same_numbers(labels: Setup, capsys: pytest.CaptureFixture[str]) -> None:
    found = vary(labels, "orders")
    printed = capsys.readouterr().out
    lines = printed.splitlines()
    for variant, line in zip(found.variants, lines[1:], strict=False):
        assert variant.calibrated is not None
        assert line.startswith(variant.name)
        for result in (variant.plain, variant.calibrated):
            assert f"{100 * result.score.value:.1f} %" in line and f"{100 * result.score.low:.1f} –" in line
    [path] = labels.runs.glob("prompt_sensitivity-*")
    data = json.loads((path / "sensitivity.json").read_text(encoding="utf-8"))
    assert f"Numbers: {path / 'sensitivity.json'}" in lines
    assert data["vary"] == "orders" and len(data["variants"]) == 4
    assert found.calibrated is not None and found.gain is not None
    for name in ("worst", "median", "mean", "best", "deviation"):
        [row] = [line for line in lines if line.startswith(f"{name} ")]
        for key, spread in (("plain", found.plain), ("calibrated", found.calibrated)):
            assert data[key][name] == getattr(spread, name)
            assert f"{100 * getattr(spread, name):.1f} %" in row
    for variant, row in zip(found.variants, data["variants"], strict=True):
        assert variant.calibrated is not None
        assert row["name"] == variant.name
        assert row["plain"]["system"] == variant.plain.system
        assert row["calibrated"]["score"]["value"] == variant.calibrated.score.value
        assert "macro_f1" in row["plain"]["metrics"]
    assert data["gain"]["p"] == found.gain.p_value and data["spread_p"] == found.spread_p
    assert RunFolder(path).state == "done"


@pytest.mark.parametrize("varied", ["seeds", "orders", "prompts"])
def test_with_a_real_model(varied: str, labels: Setup, tiny_model: Path) -> None:
    engine = EngineConfig("hf", device="cpu", dtype="float32")
    real = replace(labels, model=str(tiny_model), engine=engine, questions=3)
    if varied == "prompts":
        real = replace(real, prompt="phrasebank", task_args=(*real.task_args, "prompt=phrasebank"))
    found = vary(real, varied, variants=2)
    assert found.calibrated is not None and len(found.variants) >= 2
    assert all(r.total == 3 for v in found.variants for r in (v.plain, v.calibrated) if r)


def test_an_interrupted_run_goes_on_where_it_stopped(
    labels: Setup, systems: list[System], monkeypatch: pytest.MonkeyPatch
) -> None:
    logprobs = FakeEngine.logprobs
    calls = 0

    def dying(self: FakeEngine, requests: Any, continuations: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == 4:
            raise KeyboardInterrupt
        return logprobs(self, requests, continuations)

    monkeypatch.setattr(FakeEngine, "logprobs", dying)
    with pytest.raises(KeyboardInterrupt):
        vary(labels, "orders")
    assert len(systems) == 4
    systems.clear()
    whole = vary(labels, "orders")
    assert len(systems) == 8 - 3, "three were done"
    systems.clear()
    assert vary(labels, "orders") == whole
    assert systems == []


def test_a_variant_with_failed_requests_is_asked_again(setup: Setup, monkeypatch: pytest.MonkeyPatch) -> None:
    answer, broken = FakeEngine._answer, True

    def flaky(self: FakeEngine, request: Request, index: int, sampling: Any) -> str:
        if broken and "1" in request.messages[-1].content:
            raise ConnectionError("gone")
        return answer(self, request, index, sampling)

    monkeypatch.setattr(FakeEngine, "_answer", flaky)
    assert any("requests failed" in line for line in remarks(vary(setup, "orders")))
    broken = False
    assert all(dict(v.plain.counts)["error"] == 0 for v in vary(setup, "orders").variants)


# --- what it says -----------------------------------------------------------------------------------


def result(scores: Sequence[float | None]) -> Result:
    outcomes = tuple(
        Outcome(str(i), Status.ERROR if s is None else Status.CORRECT if s else Status.WRONG, s, None, "")
        for i, s in enumerate(scores)
    )
    kept = [s for s in scores if s is not None]
    score = Interval(sum(kept) / len(kept), 0, 1)
    return Result("s", "t", "h", "dev", score, outcomes, (), CostToMake(), CostToUse())


def shares(*rights: int, of: int = 100) -> list[Result]:
    """Results with so many right answers, at places of their own."""
    out = []
    for seed, right in enumerate(rights):
        scores = [1.0] * right + [0.0] * (of - right)
        random.Random(seed).shuffle(scores)
        out.append(result(scores))
    return out


def test_the_summary_by_hand() -> None:
    """Two variants, four questions; the last failed once and is left out of the paired mean."""
    plain = [result([1, 0, 0, 1]), result([0, 0, 0, 0])]
    calibrated = [result([1, 1, 0, None]), result([1, 0, 0, 1])]
    found = summary(
        "seeds", [Variant(str(i), p, c) for i, (p, c) in enumerate(zip(plain, calibrated, strict=True))]
    )
    assert found.plain == Spread(0.0, 0.25, 0.25, 0.5, pytest.approx(math.sqrt(2 * 0.25**2)))
    assert found.calibrated is not None and found.calibrated.best == pytest.approx(2 / 3)
    assert found.gain is not None
    # Plain means over the variants ½, 0, 0 and calibrated 1, ½, 0.
    assert found.gain.difference.value == pytest.approx((0.5 + 0.5 + 0) / 3)
    assert found.spread_p is not None


def said(plain: Sequence[int], calibrated: Sequence[int]) -> str:
    pairs = zip(shares(*plain), shares(*calibrated), strict=True)
    return "\n".join(remarks(summary("orders", [Variant(str(i), p, c) for i, (p, c) in enumerate(pairs)])))


def test_it_says_what_was_tested_and_what_is_only_described() -> None:
    narrow = said([20, 80, 20, 80, 20, 80, 20, 80], [70, 72, 70, 72, 70, 72, 70, 72])
    assert "The best is 60.0 points above the worst" in narrow
    assert "Calibration raises the mean over these 8 orders by +21.0 points" in narrow
    assert "Calibration narrows the spread: the standard deviation goes from 32.1 to 1.1 points" in narrow
    assert "p = 0.0078" in narrow
    wide = said([70, 72, 70, 72, 70, 72, 70, 72], [20, 80, 20, 80, 20, 80, 20, 80])
    assert "Calibration lowers the mean" in wide and "Calibration widens the spread" in wide
    same = said([40, 60, 41, 59, 42, 58], [41, 60, 40, 59, 43, 58])
    assert "Calibration changes the mean" in same and "which may be chance" in same
    few = said([20, 80, 20, 80, 50], [50, 51, 50, 51, 50])
    assert "5 variants are too few to test that" in few


def test_notes_of_a_result_are_said_with_its_variant() -> None:
    noted = replace(result([1, 0]), notes=("lost an exemplar",))
    found = Sensitivity(
        "seeds", (Variant("seed 0", noted, noted), Variant("seed 1", result([1, 1]), None)), Spread(*[0.5] * 5)
    )
    assert remarks(found)[-1] == "seed 0: lost an exemplar"
