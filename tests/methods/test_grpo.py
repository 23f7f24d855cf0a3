"""GRPO: it starts as the base, goes on where it stopped, and learns from grades, drawn here or by a server."""

import json
import os
import subprocess
import sys
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from engines.stub_server import Handler, StubServer
from safetensors.torch import load_file
from stopping import StoppingRun

from workbench.adapters import load_weights
from workbench.decodes import Greedy, Sampling
from workbench.engines.encode import Encoder
from workbench.errors import UserError
from workbench.files import read_json
from workbench.methods.grpo import Config, adapt
from workbench.methods.lora import Config as LoraConfig
from workbench.models import load_tokenizer
from workbench.prompts import load_prompt
from workbench.runs import Run, RunFolder
from workbench.tasks.arithmetic import Config as ArithmeticConfig
from workbench.tasks.arithmetic import load
from workbench.tasks.base import Grade, Task
from workbench.training.config import Data, Training
from workbench.training.grpo_curve import curve
from workbench.training.grpo_loss import GroupLoss
from workbench.training.grpo_samples import HfSampler, Question
from workbench.training.objective import Objective
from workbench.types import Example, Model, System

pytestmark = pytest.mark.usefixtures("one_thread")

TRAINING = Training(
    learning_rate=3e-2, steps=4, batch_size=2, micro_batch=3, precision="float32", save_every=1, loss_band=1e6
)


def even(text: str, example: Example) -> Grade:
    """Something that a model of two random layers is right about now and then."""
    return Grade(text, len(text) % 2 == 0)


# Two random layers end no turn of their own: a letter that they often say does.
PROMPT = replace(load_prompt("arithmetic"), stop=("e", "a", "o", "i"))
TASK = replace(load(ArithmeticConfig(practice=8, dev=2, test=2)), grade=even)
LOGGED = ("reward", "reward_std", "frac_reward_zero_std", "kl", "entropy", "completions/mean_length",
          "completions/clipped_ratio", "forward_tokens")  # fmt: skip


def config(training: dict[str, Any] | None = None, **settings: Any) -> Config:
    chosen: dict[str, Any] = {"num_generations": 4, "longest": 6} | settings
    return Config(
        lora=LoraConfig(
            rank=8 if chosen.get("weights") == "all" else 2, training=replace(TRAINING, **training or {})
        ),
        **chosen,
    )


def tune(
    model: Path, root: Path, settings: Config, stop: int | None = None, task: Task = TASK
) -> tuple[System, Run]:
    system = System(Model(str(model)), PROMPT, Greedy(16))
    with StoppingRun.open(root, "grpo", {"config": settings}, name="tuned") as run:
        assert isinstance(run, StoppingRun)
        run.stop = stop
        return adapt(system, task, settings, run, quiet=True), run


def lines(run: RunFolder) -> dict[int, dict[str, Any]]:
    """By update; of one that was done twice the later one."""
    return {line["step"]: line for line in run.metrics() if "loss" in line}


def learned(run: Run) -> dict[str, torch.Tensor]:
    [file] = [*run.path.glob("adapter/*.safetensors"), *run.path.glob("model/*.safetensors")]
    weights: dict[str, torch.Tensor] = load_file(file)
    return weights


def test_it_starts_as_the_base_and_tells_reward_divergence_entropy_and_lengths(
    tiny_model: Path, tmp_path: Path
) -> None:
    tuned, run = tune(tiny_model, tmp_path, config())
    found = lines(run)
    assert list(found) == [1, 2, 3, 4]
    for line in found.values():
        assert all(name in line for name in LOGGED), line
        assert 0 <= line["reward"] <= 1
        assert 1 <= line["completions/mean_length"] <= 6
    assert found[1]["kl"] == pytest.approx(0, abs=1e-6)
    assert found[4]["kl"] > 1e-4
    assert tuned.model.adapter == str(run.path / "adapter")
    about = read_json(run.path / "data.json")
    assert (about["format"], about["learned"], about["too_long"]) == ("graded", 8, 0)
    card = (run.path / "README.md").read_text()
    assert "GRPO on arithmetic" in card
    assert "![Reward by update](reward.png)" in card
    assert "all samples had the same reward, from which nothing is learned" in card
    assert (run.path / "reward.png").stat().st_size > 1000
    # Drawn: two prompts and their answers; and the reference's pass over the same, without the last tokens.
    cost = read_json(run.path / "cost.json")
    assert cost["tokens"] == sum(line["tokens"] + line["forward_tokens"] for line in found.values())


@pytest.mark.parametrize("settings", [{}, {"weights": "all"}, {"beta": 0.1, "loss": "grpo"}])
def test_an_interrupted_training_goes_on_as_if_it_had_not_been(
    settings: dict[str, Any], tiny_model: Path, tmp_path: Path
) -> None:
    rate = {"learning_rate": 1e-3} if settings.get("weights") else {}
    whole = tune(tiny_model, tmp_path / "whole", config(rate, **settings))[1]
    with pytest.raises(KeyboardInterrupt):
        tune(tiny_model, tmp_path / "parts", config(rate, **settings), stop=2)
    parts = tune(tiny_model, tmp_path / "parts", config(rate, **settings))[1]
    for step, line in lines(whole).items():
        for name in (*LOGGED, "loss", "grad_norm", "examples"):
            assert lines(parts)[step][name] == line[name], (step, name)
    one, other = learned(whole), learned(parts)
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_it_goes_back_to_the_last_checkpoint_where_the_loss_is_not_finite(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Update 3 is done twice, on the same samples, the second time at half the rate."""
    whole = lines(tune(tiny_model, tmp_path / "whole", config())[1])
    call, calls = GroupLoss.__call__, []

    def broken(self: GroupLoss, *args: Any) -> Any:
        loss, notes = call(self, *args)
        calls.append(None)
        return loss * float("nan" if len(calls) == 7 else 1), notes  # three passes an update

    monkeypatch.setattr(GroupLoss, "__call__", broken)
    _, run = tune(tiny_model, tmp_path / "broken", config())
    [event] = [line for line in run.metrics() if line.get("event") == "rollback"]
    assert (event["to_step"], event["rate_factor"]) == (2, 0.5)
    found = lines(run)
    assert list(found) == [1, 2, 3, 4]
    for name in ("reward", "entropy", "kl", "loss"):
        assert found[3][name] == whole[3][name]
    assert found[3]["learning_rate"] == pytest.approx(whole[3]["learning_rate"] / 2)


@pytest.mark.slow
@pytest.mark.parametrize("scale", ["group", "batch"])
def test_two_processes_train_as_one(scale: str, tiny_model: Path, tmp_path: Path) -> None:
    """Updates of four questions, two a process."""
    script = Path(__file__).with_name("grpo_process.py")
    launch = ["-m", "torch.distributed.run", "--nproc_per_node", "2", "--standalone"]
    found = []
    for words in ([], launch):
        runs = tmp_path / ("two" if words else "one")
        command = [sys.executable, *words, script, tiny_model, runs, scale]
        env = os.environ | {"OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true"}
        env["PYTHONPATH"] = str(Path(__file__).parents[1])
        done = subprocess.run([str(w) for w in command], env=env, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr[-3000:]
        assert f"of {2 if words else 1} processes" in done.stdout
        found.append(lines(RunFolder(runs / "tuned")))
    one, two = found
    assert any(line["reward_std"] > 0 for line in one.values())
    for name in (*LOGGED, "loss", "tokens"):
        for step, line in one.items():
            if name != "forward_tokens":  # what two processes pack, they pack apart
                assert two[step][name] == pytest.approx(line[name], rel=1e-2, abs=1e-3), (step, name)


def test_other_seeds_and_updates_draw_other_samples(tiny_model: Path) -> None:
    def drawn(seed: int, step: int) -> list[list[int]]:
        sampling = Sampling(temperature=1.0, max_tokens=6, seed=seed)
        sampler = HfSampler(weights, encoder, model, sampling, 4, nullcontext())
        [answers] = sampler.draw([question], step)
        return [answer.tokens for answer in answers]

    model = Model(str(tiny_model))
    weights, encoder = load_weights(model, "float32", "cpu"), Encoder(load_tokenizer(model))
    question = Question(TASK.practice[0], [1, 50, 51, 52])
    assert drawn(0, 1) == drawn(0, 1)
    assert drawn(0, 1) != drawn(0, 2)
    assert drawn(0, 1) != drawn(1, 1)


def test_the_reward_rises(tiny_model: Path, tmp_path: Path) -> None:
    """What it is rewarded for here, answers that end early, two random layers can learn."""
    task = replace(TASK, grade=lambda text, example: Grade(text, len(text) <= 2))
    _, run = tune(tiny_model, tmp_path, config({"steps": 24, "batch_size": 4, "micro_batch": 32}), task=task)
    rewards = curve(run, "reward")
    assert sum(rewards[-5:]) / 5 > sum(rewards[:5]) / 5 + 0.3


@pytest.mark.parametrize("right", [False, True])
def test_groups_without_a_difference_teach_nothing_and_stop_nothing(
    right: bool, tiny_model: Path, tmp_path: Path
) -> None:
    """Whole answers that are all graded alike, from a server, which can end them all."""
    server = StubServer()
    server.always = serves(server)
    task = replace(TASK, grade=lambda text, example: Grade(text, right))
    _, run = tune(tiny_model, tmp_path, config({"steps": 2}, server=server.url), task=task)
    server.shutdown()
    for line in lines(run).values():
        assert (line["reward"], line["frac_reward_zero_std"]) == (float(right), 1)
        assert (line["loss"], line["grad_norm"], line["update_norm"]) == (0, 0, 0)
    assert not [line for line in run.metrics() if line.get("event")]


def test_with_a_divergence_in_the_loss_groups_without_a_difference_teach_it(
    tiny_model: Path, tmp_path: Path
) -> None:
    _, run = tune(tiny_model, tmp_path, config({"steps": 1}, beta=0.1))
    assert "from which only the KL divergence teaches" in (run.path / "README.md").read_text()


def test_a_cut_off_answer_is_worth_nothing(tiny_model: Path, tmp_path: Path) -> None:
    task = replace(TASK, grade=lambda text, example: Grade(text, correct=True))
    _, run = tune(tiny_model, tmp_path, config({"steps": 2}), task=task)
    for line in lines(run).values():
        assert line["reward"] == pytest.approx(1 - line["completions/clipped_ratio"])


def test_long_questions_are_left_out(tiny_model: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="No question of 8 leaves room for an answer"):
        tune(tiny_model, tmp_path, config({"max_length": 20}))
    with pytest.raises(UserError, match="longest is 6, and a question and its answer may have 7 tokens together"):
        tune(tiny_model, tmp_path / "answer", config({"max_length": 7}))


def test_what_memory_does_not_hold_is_drawn_and_read_in_fewer_rows_or_said(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    logits, most = Objective.logits, 3

    def small(self: Objective, batch: Any) -> torch.Tensor:
        if batch.count > most and not torch.is_grad_enabled():
            raise RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried …")
        return logits(self, batch)

    whole = lines(tune(tiny_model, tmp_path / "whole", config({"steps": 1}))[1])
    monkeypatch.setattr(Objective, "logits", small)
    parts = lines(tune(tiny_model, tmp_path / "parts", config({"steps": 1}))[1])
    assert parts[1]["kl"] == pytest.approx(whole[1]["kl"], abs=1e-5)
    most = 0
    with pytest.raises(UserError, match=r"Out of memory in a pass over one sample .*Lower --longest"):
        tune(tiny_model, tmp_path / "none", config({"steps": 1}))

    def full(*_: Any) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate …")

    monkeypatch.setattr(HfSampler, "draw", full)
    with pytest.raises(
        UserError, match=r"while 2 questions were answered .*Lower --num-generations, --batch-size"
    ):
        tune(tiny_model, tmp_path / "drawing", config({"steps": 1}))


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"num_generations": 1}, "num_generations"),
        ({"beta": -1}, "beta"),
        ({"temperature": 0}, "temperature"),
        ({"longest": 0}, "longest"),
        ({"lora": LoraConfig(training=Training(data=Data(data="rows.jsonl")))}, "GRPO asks the task's questions"),
        ({"lora": LoraConfig(training=Training(steps=4, epochs=2))}, "epochs is 2, and steps, 4, is in its place"),
        ({"server": "http://127.0.0.1:1", "temperature": 0.7}, "with --server it must be 1"),
        ({"server": "http://127.0.0.1:1", "weights": "all"}, "goes with --weights lora"),
    ],
)
def test_what_is_out_of_range_is_named(settings: dict[str, Any], words: str) -> None:
    with pytest.raises(UserError, match=words):
        Config(**settings)


def test_weights_in_parts_are_refused(tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    with pytest.raises(UserError, match="under FSDP each process holds a part"):
        tune(tiny_model, tmp_path, config())


# --- a server draws ---------------------------------------------------------------------------------


def serves(server: StubServer, logprob: float = -6.0) -> Any:
    """A vLLM server's part: answers by a pattern of its own, an adapter at a time."""

    def handle(handler: Handler, body: dict[str, Any]) -> None:
        if handler.path.endswith("_lora_adapter"):
            name = body["lora_name"]
            if "un" in handler.path:
                server.adapters = tuple(other for other in server.adapters if other != name)
            else:
                assert (Path(body["lora_path"]) / "adapter_model.safetensors").exists()
                server.adapters = (*server.adapters, name)
            handler.reply(200, b"Success")
            return
        assert body["model"] in server.adapters
        answers = [[40 + i, 41, 2] if i % 2 else [40 + i, 41] for i in range(body["n"])]
        choices = [
            {
                "index": i,
                "finish_reason": "stop",
                "token_ids": tokens,
                "logprobs": {"token_logprobs": [logprob] * len(tokens)},
            }
            for i, tokens in enumerate(answers)
        ]
        handler.reply(200, {"choices": choices})

    return handle


def test_a_server_gets_every_updates_adapter_and_its_samples_are_learned(tiny_model: Path, tmp_path: Path) -> None:
    server = StubServer()
    server.always = serves(server)
    _, run = tune(tiny_model, tmp_path, config(server=server.url))
    server.shutdown()
    loaded = [body["lora_name"] for _, path, body in server.calls if path == "/v1/load_lora_adapter"]
    asked = [body for _, path, body in server.calls if path == "/v1/completions"]
    assert len(loaded) == len(set(loaded)) == 4, "a name of its own for each update"
    assert server.adapters == (), "none is left"
    assert not list((run.path / "served").iterdir())
    assert len(asked) == 4 * 2
    assert len({body["seed"] for body in asked}) == 8
    assert {(body["n"], body["max_tokens"], body["return_token_ids"]) for body in asked} == {(4, 6, True)}
    assert {tuple(body["stop_token_ids"]) for body in asked} == {(2,)}
    for line in lines(run).values():
        assert line["completions/mean_length"] == 2.5
        assert line["sampling/sampling_logp_difference/mean"] > 0
    assert (run.path / "adapter").is_dir()


def test_answers_too_far_from_the_models_own_are_not_learned(tiny_model: Path, tmp_path: Path) -> None:
    """TRL leaves out what the model holds three times likelier than the server did."""
    server = StubServer()
    server.always = serves(server, logprob=-60.0)
    _, run = tune(tiny_model, tmp_path, config({"steps": 1}, server=server.url))
    server.shutdown()
    assert lines(run)[1]["sampling/importance_sampling_ratio/mean"] == 0
    assert lines(run)[1]["grad_norm"] == 0


def test_what_a_server_refuses_is_said(tiny_model: Path, tmp_path: Path) -> None:
    server = StubServer()
    server.always = lambda handler, body: handler.reply(404, {"detail": "Not Found"})
    with pytest.raises(UserError, match=r"refuses load_lora_adapter \(HTTP 404"):
        tune(tiny_model, tmp_path, config(server=server.url))
    server.die()
    with pytest.raises(UserError, match="does not answer"):
        tune(tiny_model, tmp_path / "dead", config(server=server.url))


def test_what_a_killed_training_left_on_a_server_goes(tiny_model: Path, tmp_path: Path) -> None:
    server = StubServer()
    good = serves(server)

    def handle(handler: Handler, body: dict[str, Any]) -> None:
        if body.get("lora_name") == "grpo-long-gone":
            handler.reply(404, {"error": "cannot be found"})
        else:
            good(handler, body)

    server.always, server.adapters = handle, ("grpo-left",)
    served = tmp_path / "tuned" / "served"
    with Run.open(tmp_path, "grpo", {"config": config({"steps": 1}, server=server.url)}, name="tuned"):
        for name in ("grpo-left", "grpo-long-gone"):
            (served / name).mkdir(parents=True)
    tune(tiny_model, tmp_path, config({"steps": 1}, server=server.url))
    server.shutdown()
    assert server.adapters == ()
    assert not list(served.iterdir())


def test_a_server_that_cannot_forget_costs_no_training(
    tiny_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    server = StubServer()
    good = serves(server)

    def handle(handler: Handler, body: dict[str, Any]) -> None:
        if "unload" in handler.path:
            handler.reply(500, b"stuck")
        else:
            good(handler, body)

    server.always = handle
    _, run = tune(tiny_model, tmp_path / "done", config({"steps": 1}, server=server.url))
    assert (run.path / "adapter").is_dir()
    assert "An adapter may be left on the server." in capsys.readouterr().err
    assert not list((run.path / "served").iterdir())
    with pytest.raises(UserError, match=r"refuses unload_lora_adapter \(HTTP 500"):
        tune(tiny_model, tmp_path / "two", config({"steps": 2}, server=server.url))

    def fail(handler: Handler, body: dict[str, Any]) -> None:
        if handler.path == "/v1/completions":
            handler.reply(400, b"no such thing")
        else:
            handle(handler, body)

    server.always = fail
    with pytest.raises(UserError, match="does not answer a question"):
        tune(tiny_model, tmp_path / "failed", config({"steps": 1}, server=server.url))
    server.shutdown()


@pytest.mark.parametrize(
    "choices", [[], [{"index": 0}], [{"index": i, "finish_reason": "abort", "token_ids": [3]} for i in range(4)]]
)
def test_an_answer_that_is_none_stops_the_training(choices: list[Any], tiny_model: Path, tmp_path: Path) -> None:
    server = StubServer()
    good = serves(server)

    def handle(handler: Handler, body: dict[str, Any]) -> None:
        if handler.path == "/v1/completions":
            handler.reply(200, json.loads(json.dumps({"choices": choices})))
        else:
            good(handler, body)

    server.always = handle
    with pytest.raises(UserError, match="does not answer a question"):
        tune(tiny_model, tmp_path, config(server=server.url))
    server.shutdown()
    assert server.adapters == (), "the adapter is taken back"
