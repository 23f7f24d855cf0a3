"""Prompt search: the better instruction wins, halving saves, nothing is asked twice, the budget holds."""

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import recipes.prompt_search
from workbench.decodes import Greedy, LabelLikelihood, Sampling
from workbench.engines import EngineConfig
from workbench.engines.base import Batch
from workbench.engines.fake import FakeEngine
from workbench.errors import UserError
from workbench.files import read_json
from workbench.methods.prompt_search import Config, adapt, plan
from workbench.prompts import describe, load_prompt, purpose_of, render, render_answer
from workbench.runs import Run
from workbench.searching import propose
from workbench.searching.candidates import with_instruction
from workbench.session import Setup
from workbench.store import Store
from workbench.tasks.arithmetic import Config as ArithmeticConfig
from workbench.tasks.arithmetic import load
from workbench.tasks.base import Task, make_task
from workbench.tasks.graders import label_grader
from workbench.training.card import cost_of
from workbench.types import Example, Model, Request, Shots, System

TASK = load(ArithmeticConfig(practice=30, dev=32, test=4))
SYSTEM = System(Model("fake"), load_prompt("arithmetic"), Greedy(32))
SMALL = Config(candidates=12, dev_questions=32, first_questions=4, parents=2, variations=4)
BEST = "Write the golden sum."


def share(text: str) -> float:
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "big") / 2**32


def script(request: Request, index: int) -> str:
    """Proposes made-up instructions and, once, the good one; answers right with it, else one time in four."""
    last = request.messages[-1]
    if last.role == "assistant":
        if last.content == "Output:":
            return f" try variation {index} of it, which is {request.id} now."
        good = last.content == "The instruction was to" and index == 2
        return " write the golden sum." if good else f" do thing {index} of {request.id} and then say it."
    question, _, instruction = last.content.partition("\n")
    [example] = [e for e in TASK.dev + TASK.practice if e.input == question]
    right = instruction == BEST or share(last.content) < 0.25
    return example.target if right else "1000"


class Counting(FakeEngine):
    """Counts what is drawn, and dies where it is told to."""

    def __init__(self, dies_after: int | None = None) -> None:
        super().__init__(Model("fake"), script)
        self.drawn: list[tuple[Any, int]] = []
        self.dies_after = dies_after

    def sample(self, requests: Sequence[Request], sampling: Sampling) -> Iterator[Batch]:
        for batch in super().sample(requests, sampling):
            messages = {request.id: request.messages for request in requests}
            self.drawn += [((messages[id], sampling.seed), c.index) for id, c in batch]
            if self.dies_after is not None and len(self.drawn) > self.dies_after:
                raise KeyboardInterrupt
            yield batch


def search(
    root: Path,
    config: Config = SMALL,
    *,
    engine: FakeEngine | None = None,
    system: System = SYSTEM,
    task: Task = TASK,
) -> tuple[System, dict[str, Any], Path]:
    with Run.open(root, "prompt_search", {}) as run, Store(root / "store.sqlite") as store:
        adapted = adapt(system, task, config, run, engine or Counting(), store, quiet=True)
        return adapted, read_json(run.path / "search.json"), run.path


# --- what it finds ------------------------------------------------------------------------------------


def test_the_instruction_that_is_better_wins_with_and_without_halving(tmp_path: Path) -> None:
    first, found, _ = search(tmp_path / "a")
    second, full, _ = search(tmp_path / "b", replace(SMALL, halving=False))
    assert found["winner"]["instruction"] == full["winner"]["instruction"] == BEST
    assert found["winner"]["value"]["value"] == 1.0 and found["winner"]["questions"] == 32
    assert found["beats_hand_written"] and found["hand_written"]["questions"] == 32
    assert first.prompt.messages == second.prompt.messages
    assert BEST in first.prompt.messages[0].content


def test_halving_costs_less_and_says_what_it_saved(tmp_path: Path) -> None:
    _, found, _ = search(tmp_path / "a")
    _, full, _ = search(tmp_path / "b", replace(SMALL, halving=False))
    assert found["tokens"]["scoring"] < 0.6 * full["tokens"]["scoring"]
    assert full["tokens"]["scoring_without_halving"] == full["tokens"]["scoring"]
    assert full["tokens"]["scoring_without_halving_is"] == "measured"
    assert found["tokens"]["scoring_without_halving_is"].startswith("extrapolated")
    asked = found["tokens"]["scoring_without_halving"]
    assert asked == pytest.approx(full["tokens"]["scoring"], rel=0.1)


def test_the_stages_are_halves_on_twice_as_many_questions() -> None:
    assert Config().stages(24) == [(24, 8), (12, 16), (6, 32), (3, 64)]
    assert Config(dev_questions=50, first_questions=20, keep=0.4).stages(6) == [(6, 20), (3, 40), (2, 50)]
    assert Config(halving=False).stages(7) == [(7, 64)]
    assert Config(dev_questions=5, first_questions=5).stages(3) == [(3, 5)]


def test_nothing_is_asked_twice_and_stages_are_nested(tmp_path: Path) -> None:
    engine = Counting()
    _, found, _ = search(tmp_path, engine=engine)
    assert len(engine.drawn) == len(set(engine.drawn))
    for candidate in found["candidates"]:
        assert [score["questions"] for score in candidate["scores"]] == [4, 8, 16, 32][: len(candidate["scores"])]
    counts = [sum(len(c["scores"]) > stage for c in found["candidates"] if c["round"] == 0) for stage in range(4)]
    assert counts == [12, 6, 3, 2]


def test_the_search_json_tells_all(tmp_path: Path) -> None:
    _, found, folder = search(tmp_path)
    assert len(found["candidates"]) == 16 and [c["number"] for c in found["candidates"]] == list(range(16))
    assert [c["round"] for c in found["candidates"]] == [0] * 12 + [1] * 4
    assert {c["mode"] for c in found["candidates"]} == {"forward", "reverse", "resample"}
    assert all((c["parent"] is None) == (c["round"] == 0) for c in found["candidates"])
    assert found["median"]["questions"] == 32 and found["median"]["instruction"] != BEST
    tokens = found["tokens"]
    assert tokens["total"] == tokens["proposing"] + tokens["scoring"] + tokens["comparing"] <= SMALL.budget
    assert tokens["scoring"] == sum(c["scores"][-1]["tokens"] for c in found["candidates"])
    cost = cost_of(Run.open(folder.parent, "prompt_search", {}))
    assert cost.tokens == tokens["total"] and cost.flops > 0


def test_ties_go_to_the_cheaper_and_then_to_the_earlier(tmp_path: Path) -> None:
    engine = FakeEngine(Model("fake"), lambda r, i: script(r, i) if r.messages[-1].role == "assistant" else "no")
    _, found, _ = search(tmp_path, replace(SMALL, rounds=0, halving=False), engine=engine)
    cost = [c["scores"][0]["tokens"] for c in found["candidates"]]
    assert found["winner"]["number"] == cost.index(min(cost))
    assert found["winner"]["value"]["value"] == 0.0 and not found["beats_hand_written"]


def test_the_likelihood_of_the_answers_can_be_the_score(tmp_path: Path) -> None:
    engine = Counting()
    _, found, folder = search(tmp_path, replace(SMALL, score="log-likelihood"), engine=engine)
    assert all(messages[-1].role == "assistant" for (messages, _), _ in engine.drawn), "only proposals are sampled"
    value = found["winner"]["value"]
    assert value["low"] < value["value"] < value["high"] < 0 and value["method"] == "bootstrap"
    assert "log-likelihood -" in describe(str(folder / f"{found['winner']['prompt']}.yaml"))


# --- what it makes ------------------------------------------------------------------------------------


def test_the_winner_is_a_prompt_file_that_tells_where_it_comes_from(tmp_path: Path) -> None:
    adapted, found, folder = search(tmp_path)
    [file] = folder.glob("*.yaml")
    assert load_prompt(str(file)) == adapted.prompt and file.stem == found["winner"]["prompt"]
    assert purpose_of(str(file)) == "arithmetic"
    told = describe(str(file))
    for words in ("2211.01910", "proposed by fake", "mode forward, round 0", f"task arithmetic (hash {TASK.hash})",
                  "accuracy 100.0 %", "on 32 questions", "template instruct", f"run {folder.name}"):  # fmt: skip
        assert words in told, words
    system = Run.open(folder.parent, "prompt_search", {}).read_system()
    assert system == adapted
    assert (adapted.model, adapted.decode) == (SYSTEM.model, SYSTEM.decode), "only the prompt slot changes"


def test_the_templates_with_the_hand_written_instructions_are_the_hand_written_prompts() -> None:
    for name, template, instruction in (
        ("arithmetic", "instruct", "Write the calculation and its result, nothing else."),
        ("phrasebank", "instruct-label", load_prompt("phrasebank").messages[0].content),
    ):
        made, own = with_instruction(load_prompt(template), instruction), load_prompt(name)
        assert (made.messages, made.shot, made.variables) == (own.messages, own.shot, own.variables)


@pytest.mark.parametrize("instruction", ["Use {{ input }} {% if %} now.", "{# no #} {", 'Say "\\1" or \\g<0>.'])
def test_an_instruction_is_data(instruction: str) -> None:
    prompt = with_instruction(load_prompt("instruct"), instruction)
    example = TASK.dev[0]
    assert render(prompt, example)[0].content == f"{example.input}\n{instruction}"
    assert render_answer(prompt, example) == example.rationale


def test_exemplars_stay_in_the_prompt(tmp_path: Path) -> None:
    shots = Shots(TASK.practice[:2], 2)
    system = replace(SYSTEM, prompt=replace(SYSTEM.prompt, shots=shots))
    engine = Counting()
    adapted, _, _ = search(tmp_path, engine=engine, system=system)
    assert adapted.prompt.shots == shots
    asked = [messages for (messages, _), _ in engine.drawn if messages[-1].role == "user"]
    assert all(len(messages) == 5 for messages in asked)


def test_labels_get_the_template_of_labels(tmp_path: Path) -> None:
    examples = tuple(Example.make(f"sentence {i}", ("good", "bad")[i % 2]) for i in range(30))
    task = make_task(
        "labelled", settings={}, splits={"practice": examples[:10], "dev": examples[10:26], "test": examples[26:]},
        grade=label_grader(("good", "bad")), prompt="question", labels=("good", "bad"),
    )  # fmt: skip
    config = replace(SMALL, dev_questions=16, rounds=0)
    system = System(Model("fake"), load_prompt("question"), LabelLikelihood())
    _, found, _ = search(tmp_path, config, system=system, task=task)
    assert found["template"] == "instruct-label" and found["winner"]["questions"] == 16


# --- going on, and stopping ---------------------------------------------------------------------------


@pytest.mark.parametrize("dies_after", [3, 40, 100, 200])
def test_a_search_that_was_interrupted_ends_as_one_that_was_not(tmp_path: Path, dies_after: int) -> None:
    _, whole, _ = search(tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        search(tmp_path / "cut", engine=Counting(dies_after))
    assert not list((tmp_path / "cut").glob("*/search.json"))
    _, resumed, _ = search(tmp_path / "cut")
    assert resumed == whole


def test_a_finished_search_is_not_run_again(tmp_path: Path) -> None:
    first, _, folder = search(tmp_path)
    engine = Counting()
    again, _, _ = search(tmp_path, engine=engine)
    assert again == first and engine.drawn == []
    search_json = folder / "search.json"
    changed = json.loads(search_json.read_text())
    changed["made_of"]["template"] = "another"
    search_json.write_text(json.dumps(changed))
    with pytest.raises(UserError, match="was made with another system, task or template"):
        search(tmp_path)


def test_a_step_that_does_not_fit_the_budget_is_not_taken(tmp_path: Path) -> None:
    _, free, _ = search(tmp_path / "free")
    least = plan_of(tmp_path / "plan").least
    for number, budget in enumerate(range(least, free["tokens"]["total"], 500)):
        _, found, _ = search(tmp_path / str(number), replace(SMALL, budget=budget))
        # What a step takes is estimated by what was measured, so it may be off by some of that step.
        assert found["tokens"]["total"] <= 1.03 * budget
        assert any("Left out, as the budget has" in note for note in found["notes"])
        assert found["winner"]["questions"] >= 4
    assert not any("Left out" in note for note in free["notes"])


def plan_of(root: Path, config: Config = SMALL, system: System = SYSTEM, task: Task = TASK) -> Any:
    with Store(root / "store.sqlite") as store:
        return plan(system, task, config, Counting(), store)


def test_the_plan_is_near_what_the_search_takes(tmp_path: Path) -> None:
    expected = plan_of(tmp_path)
    _, found, _ = search(tmp_path)
    _, full, _ = search(tmp_path / "full", replace(SMALL, halving=False))
    for part in ("scoring", "comparing"):
        assert 0.9 * found["tokens"][part] < getattr(expected, part) < 1.4 * found["tokens"][part], part
    assert found["tokens"]["proposing"] <= expected.proposing
    assert expected.without_halving == pytest.approx(full["tokens"]["scoring"], rel=0.1)
    assert f"{expected.scoring:,} to score ({expected.without_halving:,} without halving)" in str(expected)
    assert "too small" not in str(expected) and "too small" in str(replace(expected, budget=expected.least))


def test_too_few_usable_proposals_are_noted(tmp_path: Path) -> None:
    engine = FakeEngine(Model("fake"), lambda request, index: " say the one thing." if index == 9 else "no")
    _, found, _ = search(tmp_path, engine=engine)
    assert len(found["candidates"]) == 1
    assert found["notes"] == [
        "Round 0: 1 usable new instructions, not 12.", "Round 1: 0 usable new instructions, not 4."
    ]  # fmt: skip


# --- what cannot work ---------------------------------------------------------------------------------


def write(path: Path, question: str, **fields: str) -> str:
    extra = "".join(f"{key}: {value}\n" for key, value in fields.items())
    path.write_text(
        f"name: {path.stem}\npurpose: instruct\nfor: a test\nsource: a test\nstyle: chat\n"
        f"variables: [input, instruction]\nmessages:\n  - {{role: user, content: '{question}'}}\n{extra}"
    )
    return str(path)


def test_templates_that_cannot_work_are_refused(tmp_path: Path) -> None:
    shot = "[{role: user, content: '{{ input }}'}, {role: assistant, content: '{{ target }}'}]"
    none = write(tmp_path / "none.yaml", "{{ input }}")
    blind = write(tmp_path / "blind.yaml", "{{ instruction }}")
    twice = write(tmp_path / "twice.yaml", "{{ input }} {{ instruction }} {{ instruction | upper }}")
    bare = write(tmp_path / "bare.yaml", "{{ input }} {{ instruction }}")
    good = write(tmp_path / "good.yaml", "{{ instruction }} {{ input }}", shot=shot)
    shown = replace(SYSTEM, prompt=replace(SYSTEM.prompt, shots=Shots(TASK.practice[:1], 1)))
    cases: list[tuple[Callable[[], Any], str]] = [
        (
            lambda: plan_of(tmp_path, replace(SMALL, template="arithmetic")),
            r"its messages have no \{\{ instruction",
        ),
        (lambda: plan_of(tmp_path, replace(SMALL, template=none)), r"its messages have no \{\{ instruction"),
        (lambda: plan_of(tmp_path, replace(SMALL, template=blind)), "never use `input`"),
        (lambda: plan_of(tmp_path, replace(SMALL, template=twice)), "uses the variable 'instruction'"),
        (lambda: plan_of(tmp_path, replace(SMALL, template="instrukt")), "Did you mean 'instruct'"),
        (
            lambda: plan_of(tmp_path, replace(SMALL, template=bare, score="log-likelihood")),
            "'bare' has no `shot`: no form of the answer that --score log-likelihood asks about",
        ),
        (
            lambda: plan_of(tmp_path, replace(SMALL, template=bare), shown),
            "'bare' has no `shot`: no form of the answer that exemplars show",
        ),
    ]
    for call, message in cases:
        with pytest.raises(UserError, match=message):
            call()
    assert plan_of(tmp_path, replace(SMALL, template=bare)).least > 0
    assert plan_of(tmp_path, replace(SMALL, template=good, score="log-likelihood"), shown).least > 0


def test_splits_that_are_too_small_are_told(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"demonstrations is 31; it must be a number in \[1, 30\]"):
        search(tmp_path, replace(SMALL, demonstrations=31))
    with pytest.raises(UserError, match=r"dev_questions is 64; it must be a number in \[1, 32\]"):
        search(tmp_path, replace(SMALL, dev_questions=64))


def test_a_budget_for_less_than_the_first_stage_is_refused(tmp_path: Path) -> None:
    least = plan_of(tmp_path).least
    with pytest.raises(UserError, match=rf"budget is {least - 1:,} tokens, and the first stage alone takes about"):
        search(tmp_path, replace(SMALL, budget=least - 1))


def test_no_usable_proposal_is_told(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="proposed no usable instruction"):
        search(tmp_path, engine=FakeEngine(Model("fake"), lambda request, index: "no"))


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("candidates", 0), ("demonstrations", 0), ("temperature", 0.0), ("temperature", float("nan")),
        ("dev_questions", 0), ("first_questions", 0), ("first_questions", 65), ("keep", 0.0), ("keep", 1.1),
        ("rounds", -1), ("parents", 0), ("variations", 0), ("budget", 0), ("search_seed", -1),
    ],
)  # fmt: skip
def test_a_setting_out_of_range_is_named(field: str, value: Any) -> None:
    with pytest.raises(UserError, match=rf"^{field} is "):
        Config(**{field: value})


# --- the recipe ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["fake", "tiny"])
def test_the_recipe_measures_both_prompts_once(
    kind: str,
    tmp_path: Path,
    request: pytest.FixtureRequest,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model, engine = "fake:0.8", EngineConfig("fake")
    if kind == "tiny":
        model, engine = str(request.getfixturevalue("tiny_model")), EngineConfig(device="cpu", dtype="float32")
        # Two random layers write no sentence: what they write is folded into one.
        monkeypatch.setattr(propose, "clean", lambda c, recited=(): f"Write {len(c.text)} in {c.index} ways.")
    sizes = ("practice=12", "dev=8", "test=6")
    setup = Setup(task_args=sizes, model=model, engine=engine, runs=tmp_path / "runs", quiet=True)
    config = Config(
        candidates=24,
        dev_questions=4,
        first_questions=2,
        demonstrations=2,
        parents=1,
        variations=1,
    )
    recipe = recipes.prompt_search.Config(setup, config)
    assert recipes.prompt_search.main(replace(recipe, estimate_only=True)) is None
    estimate = capsys.readouterr().out
    assert estimate.startswith("Prompt search: about ") and estimate.count("\n") == 1
    result = recipes.prompt_search.main(recipe)
    said = capsys.readouterr().out
    assert said.startswith(estimate[:20])
    assert result is not None and result.split == "test" and result.cost_to_make.tokens > 0
    for words in ("hand-written", "median candidate", "winner", "Instruction: ", "exact McNemar",
                  "6 questions of arithmetic, split test; 2 systems have been looked at"):  # fmt: skip
        assert words in said, words
    [folder] = (tmp_path / "runs").glob("prompt_search-*")
    run = Run.open(folder.parent, "prompt_search", read_json(folder / "config.json")["config"])
    before = run.read_result("rung-hand-written")
    assert before is not None and before.system != result.system == run.read_result().system  # type: ignore[union-attr]
    run.close()
    assert recipes.prompt_search.main(recipe) == result
