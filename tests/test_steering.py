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
from workbench.engines import EngineConfig
from workbench.errors import UserError
from workbench.methods.lora import Config as LoraConfig
from workbench.methods.proxy_tuning import Config as ProxyConfig
from workbench.methods.proxy_tuning import named_model, parts
from workbench.proxy import Proxy
from workbench.run_folder import RunFolder
from workbench.session import Setup
from workbench.stats.gap import share_of_gap
from workbench.steering import Config as SteeringConfig
from workbench.training.config import Training
from workbench.types import Interval, Model

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
    assert {"base", "expert", "proxy-tuning"} <= told["test"].keys()
    for words in ("base", "expert", "proxy-tuning", "on dev", "chosen", "Holm", "Tokens a second", "2 passes"):
        assert words in out
    assert "is not written beside it" not in out, "the expert's run tells its cost"
    made = run.read_result("rung-expert")
    assert made is not None
    assert result.cost_to_make.tokens > made.cost_to_make.tokens > 0
    assert result.cost_to_make.parameters == made.cost_to_make.parameters
    for name in ("alphas.png", "report.html"):
        assert (run.path / name).stat().st_size > 1000
    assert told["speed"]["questions"] == 2
    assert len(told["speed"]["ratios"]) == steering.ROUNDS

    def never(*_: Any, **__: Any) -> Any:
        raise AssertionError("what is done is not done again")

    monkeypatch.setattr("workbench.engines.hf.HfEngine._decode", never)
    assert main(config(setup, adapter)) == result


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
    assert RunFolder(setup.runs / "gap-tuned").read_result("rung-tuned") is not None
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


# --- who steers -------------------------------------------------------------------------------------


def test_the_antiexpert_is_what_the_expert_was_tuned_from(setup: Setup, adapter: Path, tmp_path: Path) -> None:
    base, other = Model(setup.model), Model("other")
    expert, anti, cost = parts(str(adapter), None, other)
    assert (expert, anti) == (replace(base, adapter=str(adapter)), base)
    assert cost is not None
    assert cost.tokens > 0
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
