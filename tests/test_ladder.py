"""The ladder: rungs fill slots and compose, what is done is not done again, and the estimate comes first."""

import json
import re
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import pytest

from workbench.decodes import Majority, Sampling
from workbench.engines import EngineConfig
from workbench.engines.fake import FakeEngine
from workbench.errors import UserError
from workbench.ladder import DRAWING, TUNING, climb
from workbench.methods.dpo import Config as DpoConfig
from workbench.methods.few_shot import Config as FewShotConfig
from workbench.methods.grpo import Config as GrpoConfig
from workbench.methods.lora import Config as LoraConfig
from workbench.methods.prompt_search import Config as SearchConfig
from workbench.methods.proxy_tuning import Config as ProxyConfig
from workbench.methods.reward_model import Config as RewardConfig
from workbench.methods.soft_prompt import PrefixTuning, PromptTuning
from workbench.preferring.given import Pairs
from workbench.proxy import Proxy
from workbench.report import Rung
from workbench.run_folder import RunFolder
from workbench.rungs import DEFAULT, DEFAULTS, RUNGS, Config, Tuned
from workbench.session import Session, Setup
from workbench.training.config import Training
from workbench.types import Model, Request, Selection

CONFIG = Config(few_shot=FewShotConfig(shots=2), vote=Majority(n=4))


@pytest.fixture
def setup(tmp_path: Path) -> Setup:
    sizes = ("practice=20", "dev=2", "test=8")
    return Setup(task_args=sizes, model="fake", engine=EngineConfig("fake"), runs=tmp_path / "runs", quiet=True)


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many samples each call of the engine draws."""
    calls: list[int] = []
    sample = FakeEngine.sample

    def counting(self: FakeEngine, requests: Sequence[Request], sampling: Sampling) -> Any:
        calls.append(sum(len(request.indices) for request in requests))
        return sample(self, requests, sampling)

    monkeypatch.setattr(FakeEngine, "sample", counting)
    return calls


def climbed(setup: Setup, *rungs: str, **changes: Any) -> list[Rung]:
    config = replace(CONFIG, rungs=rungs, **changes)
    with Session("ladder", setup, config) as session:
        return climb(session, config)


PLAIN = tuple(
    name
    for name, slots in RUNGS.items()
    if not (slots.tuned or slots.steered or slots.searched or slots.calibrated)
    and slots.scorer not in ("reward-model", "self-certainty")
    and slots.exemplars not in ("balanced", "sentence-transformer")
)


def test_each_rung_fills_its_slots(setup: Setup, monkeypatch: pytest.MonkeyPatch) -> None:
    systems: dict[str, Any] = {}
    measure = Session.measure

    def spied(self: Session, system: Any, cost: Any = None, label: str = "") -> Any:
        systems[label] = system
        return measure(self, system, cost, label)

    monkeypatch.setattr(Session, "measure", spied)
    climbed(setup, *PLAIN)
    assert set(systems) == set(PLAIN)
    for name, system in systems.items():
        slots = RUNGS[name]
        assert isinstance(system.decode, Majority) == slots.vote
        assert (system.prompt.shots is not None) == (slots.exemplars is not None)
    assert systems["few-shot-knn"].prompt.shots.selection is Selection.BM25
    assert systems["few-shot-embedding"].prompt.shots.selection is Selection.EMBEDDING
    assert systems["few-shot-majority-vote"].prompt == systems["few-shot-random"].prompt
    assert systems["chain-of-thought"].prompt.name == "question-steps"
    assert systems["chain-of-thought"].decode.max_tokens == 256, "steps take more than the task's own limit"
    assert systems["chain-of-thought-majority-vote"].decode.max_tokens == 256


def test_calibrated_rungs_of_a_task_with_labels(setup: Setup, tmp_path: Path) -> None:
    rows = "".join(f"ticket {i} about {w},{w}\n" for i in range(40) for w in ("red", "blue"))
    (tmp_path / "tickets.csv").write_text("text,team\n" + rows)
    args = (f"path={tmp_path / 'tickets.csv'}", "input=text", "target=team", "grader=label")
    names = [name for name, slots in RUNGS.items() if slots.calibrated]
    found = climbed(replace(setup, task="file", task_args=args, questions=4), "zero-shot", *names)
    assert [rung.name for rung in found] == ["zero-shot", *names]
    assert len({rung.result.system for rung in found}) == len(found)


def test_prompt_search_and_its_vote_share_one_search(setup: Setup, asked: list[int]) -> None:
    search = SearchConfig(candidates=4, dev_questions=2, first_questions=1, variations=2)
    found = climbed(setup, "zero-shot", "prompt-search", "prompt-search-majority-vote", prompt_search=search)
    assert found[1].result.cost_to_make == found[2].result.cost_to_make
    assert found[1].result.cost_to_make.tokens > 0
    [prompt] = setup.runs.glob("ladder-*/prompt-search/prompt-search-*.yaml")
    assert "prompt search" in prompt.read_text(encoding="utf-8")


def test_soft_prompts_are_learned_once_for_all_their_rungs(setup: Setup, tiny_model: Path) -> None:
    training = Training(epochs=1, batch_size=4, micro_batch=4, examples=8, precision="float32")
    real = replace(setup, model=str(tiny_model), engine=EngineConfig(dtype="float32"), questions=2)
    names = [name for name, slots in RUNGS.items() if slots.tuned in ("prompt-tuning", "prefix-tuning")]
    found = climbed(
        real, "zero-shot", *names,
        prompt_tuning=PromptTuning(tokens=3, training=training), prefix_tuning=PrefixTuning(3, training=training),
    )  # fmt: skip
    costs = {rung.name: rung.result.cost_to_make for rung in found}
    for kind, parameters in (("prompt-tuning", 3 * 32), ("prefix-tuning", 3 * 2 * 2 * 16)):
        assert costs[kind] == costs[f"{kind}-majority-vote"]
        assert costs[kind].parameters == parameters


def test_the_adapter_of_the_rung_lora_steers_the_model(setup: Setup, tiny_model: Path) -> None:
    training = Training(epochs=1, batch_size=4, micro_batch=4, examples=8, precision="float32")
    real = replace(setup, model=str(tiny_model), engine=EngineConfig(dtype="float32"), questions=2)
    names, settings = ("zero-shot", "lora", "proxy-tuning"), ProxyConfig(alphas=(1.0, 2.0), alpha_questions=1)
    found = climbed(real, *names, lora=LoraConfig(rank=2, training=training), proxy_tuning=settings)
    zero, lora, steered = (rung.result for rung in found)
    assert steered.cost_to_make.parameters == lora.cost_to_make.parameters > 0
    assert steered.cost_to_make.tokens > lora.cost_to_make.tokens
    assert zero.cost_to_use.flops is not None
    assert steered.cost_to_use.flops is not None
    assert steered.cost_to_use.flops > 1.5 * zero.cost_to_use.flops, "two passes a token"
    [folder] = setup.runs.glob("ladder-*/proxy-tuning")
    model = RunFolder(folder).read_system().model
    assert isinstance(model, Proxy)
    assert (model.steered, model.antiexpert) == (Model(str(tiny_model)), Model(str(tiny_model)))
    assert Path(str(model.expert.adapter)) == folder.parent.resolve() / "lora" / "adapter"
    again = climbed(real, *names, lora=LoraConfig(rank=2, training=training), proxy_tuning=settings)
    assert [rung.result for rung in again] == [rung.result for rung in found]


def test_the_split_that_alpha_is_chosen_on_is_not_measured(setup: Setup, asked: list[int]) -> None:
    with pytest.raises(UserError, match="leave --split dev out"):
        climbed(replace(setup, split="dev"), "zero-shot", "proxy-tuning")
    assert asked == [], "before anything is done"


def test_every_way_of_tuning_is_there() -> None:
    assert set(get_args(Tuned)) == TUNING.keys() | DRAWING.keys()
    assert not TUNING.keys() & DRAWING.keys()
    assert all(Config().tuning(how) is not None for how in get_args(Tuned))


def test_rungs_of_preferences_and_rewards(setup: Setup, tiny_model: Path, tmp_path: Path) -> None:
    rows = [
        {"prompt": f"What is {i} plus 2?", "chosen": f"It is {i + 2}.", "rejected": "Who knows?"}
        for i in range(12)
    ]
    (tmp_path / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    pairs = Pairs(pairs=tmp_path / "pairs.jsonl")
    training = Training(epochs=1, batch_size=4, precision="float32")
    drawing = Training(steps=2, batch_size=2, precision="float32")
    real = replace(setup, model=str(tiny_model), engine=EngineConfig(dtype="float32"), questions=2)
    settings = {
        "dpo": DpoConfig(pairs=pairs, lora=LoraConfig(rank=2, training=training)),
        "grpo": GrpoConfig(num_generations=2, longest=4, lora=LoraConfig(rank=2, training=drawing)),
        "best_of_n": RewardConfig(pairs=pairs, held_out=0.3, lora=LoraConfig(rank=2, training=training)),
    }
    names = ("zero-shot", "dpo", "dpo-majority-vote", "grpo", "best-of-n", "majority-vote")
    found = {rung.name: rung.result for rung in climbed(real, *names, **settings)}
    assert found["dpo"].cost_to_make == found["dpo-majority-vote"].cost_to_make
    assert found["dpo"].cost_to_make.parameters == found["grpo"].cost_to_make.parameters > 0
    assert found["grpo"].cost_to_make.tokens > 0
    assert found["best-of-n"].cost_to_make.tokens > 0
    [folder] = setup.runs.glob("ladder-*/reward-model/reward_model")
    assert (folder / "config.json").exists()
    assert climbed(real, *names, **settings)[1].result == found["dpo"], "what is done is not done again"


def test_a_finished_rung_is_not_done_again_and_a_new_one_is(setup: Setup, asked: list[int]) -> None:
    first = climbed(setup, "zero-shot", "majority-vote")
    assert asked == [16, 8, 8 * 4]  # the estimate's practice questions, then the rungs
    asked.clear()
    assert climbed(setup, "zero-shot", "majority-vote") == first
    assert asked == [16]
    asked.clear()
    longer = climbed(setup, "zero-shot", "majority-vote", "few-shot-random")
    assert longer[:2] == first, "another ladder, the same completions"
    assert asked == [16, 8]


def test_a_rung_with_failed_requests_is_asked_again(setup: Setup, monkeypatch: pytest.MonkeyPatch) -> None:
    answer = FakeEngine._answer
    broken = True

    def flaky(self: FakeEngine, request: Request, index: int, sampling: Sampling) -> str:
        text = answer(self, request, index, sampling)
        if broken and "1" in request.messages[-1].content:
            raise ConnectionError("gone")
        return text

    monkeypatch.setattr(FakeEngine, "_answer", flaky)
    [rung] = climbed(setup, "zero-shot")
    assert 0 < dict(rung.result.counts)["error"] < 8
    broken = False
    [rung] = climbed(setup, "zero-shot")
    assert dict(rung.result.counts)["error"] == 0


def test_the_estimate_comes_first_and_can_be_all(
    setup: Setup, asked: list[int], capsys: pytest.CaptureFixture[str]
) -> None:
    assert climbed(setup, "zero-shot", "majority-vote", estimate_only=True) == []
    assert asked == [16]
    printed = capsys.readouterr().out
    assert printed.startswith("2 rungs, 8 questions each: about ")
    assert "FLOPs, at most about" in printed and printed.count("\n") == 1
    climbed(setup, "zero-shot", "majority-vote")
    assert capsys.readouterr().out.startswith(printed.partition(":")[0]), "in the same run"


def test_the_table_grows_and_ends_with_report_and_advice(
    setup: Setup, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", ["/anywhere/bin/workbench", "ladder", "--name", "two words"])
    rungs = climbed(setup, "zero-shot", "few-shot-random", "majority-vote")
    lines = capsys.readouterr().out.splitlines()
    for line, rung in zip(lines[1:4], rungs, strict=True):
        assert line.startswith(rung.name) and f"{100 * rung.result.score.value:.1f} %" in line
    assert lines[-1].startswith("Use ")
    [report] = setup.runs.glob("ladder-*/report.html")
    assert f"Report: {report}" in lines
    page = report.read_text(encoding="utf-8")
    assert "workbench ladder --name" in page and "/anywhere" not in page and "majority-vote" in page
    assert rungs[2].one_sample is not None and rungs[0].one_sample is None


def test_its_rungs_are_checked_by_name() -> None:
    with pytest.raises(UserError, match=r"There is no rung named 'lorra'\. Did you mean 'lora'"):
        Config(rungs=("zero-shot", "lorra"))
    assert {*DEFAULT, *(name for names in DEFAULTS.values() for name in names)} <= RUNGS.keys()
    told = set(re.findall(r"[a-z]+(?:-[a-z]+)*", (Config.__doc__ or "").partition("The first is")[0]))
    assert RUNGS.keys() <= told, "--help names them all"
    assert {slots.tuned for slots in RUNGS.values()} - {None} == TUNING.keys() | DRAWING.keys()


def test_a_searchs_flops_are_those_of_many_short_prompts(setup: Setup, monkeypatch: pytest.MonkeyPatch) -> None:
    """Attention grows with the square of a prompt: all tokens taken for one prompt would cost many times more."""
    told: list[float] = []
    monkeypatch.setattr("workbench.ladder_estimate.quantity", lambda value: told.append(value) or "1")
    search = SearchConfig(candidates=40, dev_questions=2, first_questions=1)
    for rungs in (("zero-shot",), ("zero-shot", "prompt-search")):
        climbed(setup, *rungs, prompt_search=search, estimate_only=True)
    (tokens, flops), (more_tokens, more_flops) = told[:2], told[2:]
    each = (more_flops - flops) / (more_tokens - tokens)
    assert more_tokens > 2 * tokens and each < 1.1 * flops / tokens
