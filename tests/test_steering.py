"""The recipe proxy_tuning: α from dev alone, one table, the gap, the speed; who is expert is told by the run."""

import json
import math
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

import workbench.harness
from recipes import evaluate, lora, quantize, zero_shot
from recipes.proxy_tuning import Config, main
from workbench import steering
from workbench.decodes import BestOfN, EarlyMajority, Majority, WeightedVote
from workbench.engines import EngineConfig, open_engine
from workbench.errors import UserError
from workbench.harness import evaluate as evaluate_
from workbench.methods.lora import Config as LoraConfig
from workbench.methods.proxy_tuning import Config as ProxyConfig
from workbench.methods.proxy_tuning import made_by, named_model, parts, shown
from workbench.prompts import load_prompt
from workbench.proxy import Proxy, steer
from workbench.run_folder import RunFolder
from workbench.session import Setup
from workbench.stats.gap import share_of_gap
from workbench.steering import Config as SteeringConfig
from workbench.step_decodes import BeamSearch, BudgetForcing, Revision
from workbench.store import Store
from workbench.tasks import load_task
from workbench.training.config import Training
from workbench.types import Interval, Model, System

pytestmark = pytest.mark.usefixtures("one_thread")

ALPHAS = (0.5, 1.0, 3.0)


@pytest.fixture(scope="module")
def setup(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Setup:
    return Setup(
        model=str(tiny_model), task_args=("practice=8", "dev=6", "test=8"), quiet=True,
        engine=EngineConfig(dtype="float32", device="cpu"), runs=tmp_path_factory.mktemp("runs"),
    )  # fmt: skip


@pytest.fixture(scope="module")
def adapter(setup: Setup) -> Path:
    """Of a run of the recipe lora on the tiny model."""
    torch.set_num_threads(1)
    training = Training(epochs=1, batch_size=4, learning_rate=1e-2, precision="float32")
    lora.main(lora.Config(replace(setup, name="tuned"), LoraConfig(rank=2, training=training)))
    return setup.runs / "tuned" / "adapter"


def config(setup: Setup, expert: Path | str, name: str = "steered", **settings: Any) -> Config:
    alphas = settings.pop("alphas", ALPHAS)
    proxy = ProxyConfig(alphas, settings.pop("alpha_questions", None))
    steer = SteeringConfig(str(expert), proxy=proxy, **{"speed_questions": 2, **settings})
    return Config(steer, replace(setup, name=name))


def test_a_run_steers_by_the_adapter_that_another_made(
    setup: Setup, adapter: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[str] = []
    open_test = workbench.harness.open_test
    monkeypatch.setattr(workbench.harness, "open_test", lambda task: opened.append("test") or open_test(task))
    result = main(config(setup, adapter))
    out = capsys.readouterr().out
    run = RunFolder(setup.runs / "steered")
    told = json.loads((run.path / "proxy_tuning.json").read_text())
    # α is the best on dev, of equals the nearest to 1, and test was opened for base, expert and that one alone.
    on_dev = {alpha: run.read_result(f"alpha-{alpha:g}") for alpha in ALPHAS}
    best = max(ALPHAS, key=lambda a: (on_dev[a].score.value, -abs(a - 1)))  # type: ignore[union-attr]
    assert told["alpha"] == best
    assert all(one is not None and (one.split, len(one.outcomes)) == ("dev", 6) for one in on_dev.values())
    assert len(opened) == 1 + 3, "the session counts its questions"
    model = run.read_system().model
    assert isinstance(model, Proxy)
    assert model.alpha == best
    assert model.expert.adapter == str(adapter.resolve())
    assert model.steered == model.antiexpert == Model(setup.model)
    assert run.read_result() == result
    assert {"base", "expert", "proxy-tuning"} == told["measured"].keys()
    for words in ("base", "expert", "proxy-tuning", "on dev", "chosen", "Holm", "Tokens a second", "2 passes"):
        assert words in out
    assert "is not written beside it" not in out, "the expert's run tells its cost"
    made = run.read_result("rung-expert")
    assert made is not None
    assert result.cost_to_make.tokens > made.cost_to_make.tokens > 0
    assert result.cost_to_make.parameters == made.cost_to_make.parameters
    for name in ("alphas.png", "report.html"):
        assert (run.path / name).stat().st_size > 1000
    page = (run.path / "report.html").read_text(encoding="utf-8")
    for row in [line.split("  ")[0] for line in out.splitlines()[1:] if line.startswith("α = ")]:
        assert row in page
    assert "Tried on dev" in page
    assert "Tokens a second" in page
    assert told["speed"]["questions"] == 2
    assert len(told["speed"]["ratios"]) == steering.ROUNDS

    assert told["speed"]["base_tokens"] > 0
    assert told["speed"]["steered_tokens"] > 0

    def never(*_: Any, **__: Any) -> Any:
        raise AssertionError("what is done is not done again")

    monkeypatch.setattr("workbench.engines.hf.HfEngine.__init__", never)
    assert main(config(setup, adapter)) == result
    assert out.split("system ")[0] in capsys.readouterr().out, "it tells the same, and loads nothing"


def test_with_alpha_1_its_outcomes_are_the_experts(setup: Setup, adapter: Path) -> None:
    result = main(config(setup, adapter, "one", alphas=(1.0,), speed_questions=0))
    expert = RunFolder(setup.runs / "one").read_result("rung-expert")
    assert expert is not None
    assert [o.text for o in result.outcomes] == [o.text for o in expert.outcomes]
    assert json.loads((setup.runs / "one" / "proxy_tuning.json").read_text())["speed"] is None


def test_its_run_is_evaluated_like_any_other_and_not_quantised(
    setup: Setup, adapter: Path, tmp_path: Path
) -> None:
    result = main(config(setup, adapter, "two", alphas=(1.0,), speed_questions=0))
    again = evaluate.main(evaluate.Config(run="two", setup=replace(setup, name="again")))
    assert again.score == result.score
    assert again.system == result.system
    with pytest.raises(UserError, match="cannot be quantised"):
        quantize.main(quantize.Config("nf4", tmp_path / "q", run="two", runs=setup.runs, quiet=True))


def test_the_gap_is_to_the_expert_or_to_the_tuned_base(
    setup: Setup, adapter: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    found: list[int] = []

    def share(low: Any, reached: Any, high: Any) -> Interval | None:
        found.append(len(low))
        return Interval(0.5, 0.25, 0.75)

    monkeypatch.setattr(steering, "share_of_gap", share)
    settings: dict[str, Any] = {"alphas": (1.0,), "speed_questions": 0}
    result = main(config(setup, adapter, "gap", **settings))
    assert found == [8]
    assert (result.metric("gap_closed"), result.metric("gap_closed_low")) == (0.5, 0.25)
    assert (
        "closes 50.0 % of the gap between the base and the expert (95 % interval 25.0 – 75.0"
        in capsys.readouterr().out
    )
    main(config(setup, adapter, "gap-tuned", tuned=str(adapter), **settings))
    out = capsys.readouterr().out
    assert "between the base and the tuned base" in out
    tuned = RunFolder(setup.runs / "gap-tuned").read_result("rung-tuned")
    assert tuned is not None
    assert tuned.cost_to_make.tokens > 0, "its run tells what it cost"
    monkeypatch.setattr(steering, "share_of_gap", share_of_gap)
    main(config(setup, adapter, "no-gap", **settings))
    assert "no gap to close" in capsys.readouterr().out  # two untrained models


def test_labels_are_scored_under_the_steered_model(setup: Setup, adapter: Path, tmp_path: Path) -> None:
    rows = "".join(f"ticket {i} about {w},{w}\n" for i in range(40) for w in ("red", "blue"))
    (tmp_path / "tickets.csv").write_text("text,team\n" + rows)
    args = (f"path={tmp_path / 'tickets.csv'}", "input=text", "target=team", "grader=label")
    labelled = replace(setup, task="file", task_args=args, questions=4)
    result = main(config(labelled, adapter, "labels", alphas=(1.0, 2.0), alpha_questions=3))
    assert result.total == 4
    told = json.loads((setup.runs / "labels" / "proxy_tuning.json").read_text())
    assert told["speed"]["base"] > 0
    base = RunFolder(setup.runs / "labels").read_result("dev-base")
    assert base is not None
    use = base.cost_to_use  # a prompt counts once for all of its labels there
    assert 0.5 < told["speed"]["base_tokens"] / (use.prompt_tokens + use.completion_tokens) < 1.5


def test_dev_questions_that_no_strength_can_be_asked_are_left_out(
    setup: Setup, adapter: Path, tmp_path: Path
) -> None:
    rows = "".join(f"ticket {i} about {w}{' very' * (1 if i % 4 else 300)},{w}\n" for i in range(30) for w in "rg")
    (tmp_path / "long.csv").write_text("text,team\n" + rows)
    args = (f"path={tmp_path / 'long.csv'}", "input=text", "target=team", "grader=label")
    long = replace(setup, task="file", task_args=args)
    result = main(config(long, adapter, "long", alphas=(1.0, 2.0), speed_questions=0))
    tried = [RunFolder(setup.runs / "long").read_result(f"alpha-{alpha}") for alpha in (1, 2)]
    answered = [{o.id for o in one.outcomes if o.score is not None} for one in tried if one is not None]
    assert answered[0] == answered[1] != set()
    assert len(answered[0]) < len(tried[0].outcomes)  # type: ignore[union-attr]
    assert result.total < len(result.outcomes)


def test_a_sweep_that_was_broken_off_goes_on(setup: Setup, adapter: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    evaluate, asked = workbench.harness.evaluate, []

    def broken(system: Any, *args: Any, **named: Any) -> Any:
        if named["split"] == "dev":
            asked.append(system.model.alpha)
            if len(asked) == 2:
                raise KeyboardInterrupt
        return evaluate(system, *args, **named)

    monkeypatch.setattr(workbench.harness, "evaluate", broken)
    broken_off = config(setup, adapter, "broken", alphas=(0.5, 1.0), speed_questions=0)
    with pytest.raises(KeyboardInterrupt):
        main(broken_off)
    assert not (setup.runs / "broken" / "alphas.json").exists()
    result = main(broken_off)
    assert asked == [0.5, 1.0, 1.0]
    whole = main(config(setup, adapter, "whole-sweep", alphas=(0.5, 1.0), speed_questions=0))
    assert result.outcomes == whole.outcomes
    assert result.cost_to_make.tokens == whole.cost_to_make.tokens, "what was done before the break counts too"


def test_strengths_that_differ_late_are_two(setup: Setup, adapter: Path) -> None:
    assert [shown(alpha) for alpha in (1, 0.5, -2.0, 1e-5)] == ["1", "0.5", "-2", "1e-05"]
    main(config(setup, adapter, "near", alphas=(1.0000001, 1.0000002), speed_questions=0))
    run = RunFolder(setup.runs / "near")
    near = [run.read_result(f"alpha-{alpha}") for alpha in (1.0000001, 1.0000002)]
    assert len({one.system for one in near if one is not None}) == 2


def test_one_strength_may_be_measured_on_dev(
    setup: Setup, adapter: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    main(config(replace(setup, split="dev"), adapter, "on-dev", alphas=(1.0,), speed_questions=0))
    assert "other questions" not in capsys.readouterr().out
    told = json.loads((setup.runs / "on-dev" / "proxy_tuning.json").read_text())
    assert (told["split"], set(told["dev"])) == ("dev", {"base", "expert", "α = 1"})


@pytest.mark.parametrize(
    "decode",
    [
        Majority(n=3, max_tokens=8),
        EarlyMajority(n=6, max_tokens=8),
        BestOfN(n=2, scorer="self-certainty", max_tokens=8),
        WeightedVote(n=2, max_tokens=8),
        BeamSearch(beams=2, keep=1, step_tokens=4, max_tokens=8),
        Revision(rounds=1, critique_tokens=4, max_tokens=8),
        BudgetForcing(at_least=4, at_most=6, waits=1, max_tokens=4),
    ],
    ids=lambda decode: type(decode).__name__,
)
def test_every_decode_composes_with_it(setup: Setup, adapter: Path, tmp_path: Path, decode: Any) -> None:
    task, base = load_task("arithmetic", {"practice": "8", "dev": "3", "test": "8"}), Model(setup.model)
    expert = replace(base, adapter=str(adapter))
    uses, stored = [], []
    for i, model in enumerate((expert, steer(base, expert, base, 1.0))):
        system, engine = System(model, load_prompt(task.prompt), decode), open_engine(model, setup.engine)
        with Store(tmp_path / f"{i}.sqlite") as store:
            uses.append(evaluate_(system, task, engine, store, split="dev").cost_to_use)
            rows = [row for number, _, _ in store.streams() for row in store.rows(number)]
            stored.append(sorted((id, c.index, c.text, c.completion_tokens) for id, c in rows))
    assert stored[0] == stored[1] != []
    assert uses[0].prompt_tokens == uses[1].prompt_tokens
    assert uses[0].completion_tokens == uses[1].completion_tokens
    assert uses[0].flops is not None
    assert 1.8 * uses[0].flops < (uses[1].flops or 0.0) < 2 * uses[0].flops, "the base has no adapter"


# --- who steers -------------------------------------------------------------------------------------


def test_the_antiexpert_is_what_the_expert_was_tuned_from(setup: Setup, adapter: Path, tmp_path: Path) -> None:
    base, other = Model(setup.model), Model("other")
    expert, anti, cost = parts(str(adapter), None, other)
    assert (expert, anti) == (replace(base, adapter=str(adapter)), base)
    assert cost is not None
    assert cost.tokens > 0
    assert made_by(str(adapter)) == cost
    assert made_by(setup.model) is None
    # An adapter that has left its run is taken to be the setup's model's; its base.json tells whether it is.
    alone = Path(shutil.copytree(adapter, tmp_path / "alone"))
    assert parts(str(alone), None, base) == (replace(base, adapter=str(alone)), base, None)
    told = json.loads((alone / "adapter_config.json").read_text())
    for name, model in (("HuggingFaceTB/SmolLM2-135M-Instruct", "smollm2-135m-instruct"), ("a/b", "a/b")):
        (alone / "adapter_config.json").write_text(json.dumps(told | {"base_model_name_or_path": name}))
        assert parts(str(alone), None, base)[:2] == (Model(model, adapter=str(alone)), Model(model))
    # A whole model that a run made was tuned from the model that the run was given.
    made = setup.runs / "whole"
    shutil.copytree(setup.model, made / "model")
    for name in ("config.json", "system.json"):
        (made / name).write_text((adapter.parent / name).read_text())
    system = json.loads((made / "system.json").read_text())
    system["model"] |= {"base": "./model", "adapter": None}
    (made / "system.json").write_text(json.dumps(system))
    assert parts(str(made / "model"), None, other)[:2] == (Model(str(made / "model")), base)


def test_a_model_that_does_not_tell_its_base_needs_an_antiexpert(setup: Setup) -> None:
    with pytest.raises(UserError, match="--antiexpert NAME"):
        parts(setup.model, None, Model("other"))
    one = Model(setup.model)
    assert parts(setup.model, setup.model, Model("other")) == (one, one, None)


@pytest.mark.parametrize("name", ["no-such-folder", "./a/b", "/nowhere/adapter", "a/b/c"])
def test_a_folder_that_is_not_there_is_named(name: str) -> None:
    with pytest.raises(UserError, match=f"expert is '{name}', and there is no such folder"):
        named_model("expert", name, Model("base"))


def test_bad_settings_are_refused_by_name(setup: Setup, adapter: Path) -> None:
    for alpha in (math.nan, math.inf, 1e9):
        with pytest.raises(UserError, match="alphas is "):
            ProxyConfig((1.0, alpha))
    with pytest.raises(UserError, match="alphas is empty"):
        ProxyConfig(())
    with pytest.raises(UserError, match="alpha_questions is 0"):
        ProxyConfig(alpha_questions=0)
    with pytest.raises(UserError, match="speed_questions is -1"):
        SteeringConfig("x", speed_questions=-1)
    with pytest.raises(UserError, match="leave --split dev out"):
        main(config(replace(setup, split="dev"), adapter, "dev"))
    for engine in ("vllm", "fake"):
        asked = replace(setup, engine=EngineConfig(engine, endpoint=("http://127.0.0.1:9",)))  # type: ignore[arg-type]
        with pytest.raises(UserError, match=f"--engine {engine}"):
            main(config(asked, adapter, engine))
    with pytest.raises(UserError, match="alpha_questions is 7"):
        main(config(setup, adapter, "seven", alpha_questions=7))


def test_another_expert_at_the_same_path_is_another_run(setup: Setup, adapter: Path, tmp_path: Path) -> None:
    from workbench.session import content_of

    place = tmp_path / "adapter"
    shutil.copytree(adapter, place)
    first = content_of(config(setup, place))
    assert first == content_of(config(setup, adapter)), "equal content is one expert wherever it lies"
    (place / "adapter_config.json").write_text('{"peft_type": "LORA", "r": 7}')
    assert content_of(config(setup, place)) != first


def test_the_base_alone_still_answers_as_ever(setup: Setup, adapter: Path) -> None:
    """Its completions are shared with a run without steering: nothing of the store's keys has moved."""
    main(config(setup, adapter, "three", alphas=(1.0,), speed_questions=0))
    base = RunFolder(setup.runs / "three").read_result("rung-base")
    assert base is not None
    assert zero_shot.main(zero_shot.Config(replace(setup, name="zero"))).outcomes == base.outcomes
