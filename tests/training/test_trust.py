"""What a training does when it goes wrong, and what it writes down on its way."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import training_process
from training_process import TRAINING, train

from workbench.errors import UserError
from workbench.training.packed_loss import PackedLoss
from workbench.training.trainer import is_out_of_memory
from workbench.types import Model

pytestmark = pytest.mark.usefixtures("one_thread")


def spoil(monkeypatch: pytest.MonkeyPatch, passes: set[int], spoilt: Any) -> None:
    """Give the so manyth forward passes of the training, counted from 1, another loss."""
    forward, count = PackedLoss.forward, [0]

    def spoiling(self: PackedLoss, batch: Any) -> torch.Tensor:
        count[0] += 1
        loss = forward(self, batch)
        return spoilt(loss) if count[0] in passes else loss

    monkeypatch.setattr(PackedLoss, "forward", spoiling)


def events(run: Any) -> list[dict[str, Any]]:
    return [line for line in run.metrics() if "event" in line]


# --- roll-back --------------------------------------------------------------------------------------


def test_a_nan_loss_goes_back_to_the_last_checkpoint_at_half_the_rate(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    whole = train(tiny_model, tmp_path / "whole")
    spoil(monkeypatch, {10}, lambda loss: loss * float("nan"))  # the second pass of update 5
    run = train(tiny_model, tmp_path)
    assert events(run) == [
        {"event": "rollback", "step": 5, "reason": "the loss is nan", "to_step": 4, "rate_factor": 0.5}
    ]
    said = "update 5: the loss is nan; back to update 4 with 0.5 of the learning rate (roll-back 1 of 3)"
    assert said in capsys.readouterr().err
    lines = [line for line in run.metrics() if "loss" in line]
    assert [line["step"] for line in lines] == [1, 2, 3, 4, 5, 6, 7, 8, 9]
    rates = [line["learning_rate"] for line in whole.metrics()]
    assert [line["learning_rate"] for line in lines] == pytest.approx(rates[:4] + [r / 2 for r in rates[4:]])
    assert lines[4]["loss"] == pytest.approx(whole.metrics()[4]["loss"], abs=1e-6), "the weights of update 4"
    assert (run.path / "adapter").is_dir()


def test_a_gradient_that_is_not_finite_moves_nothing(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def sharp(loss: torch.Tensor) -> torch.Tensor:  # a finite loss whose gradient is infinite
        return loss + (loss - loss.detach()).abs().sqrt()

    spoil(monkeypatch, {1}, sharp)
    run = train(tiny_model, tmp_path)
    [event] = events(run)
    assert (event["step"], event["to_step"]) == (1, 0)
    assert event["reason"].startswith("the gradient's norm is ")


def test_a_mean_loss_that_leaves_its_band_is_divergence(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spoil(monkeypatch, {5, 6}, lambda loss: 9 * loss)
    run = train(tiny_model, tmp_path)
    [event] = events(run)
    first = run.metrics()[0]["loss"]
    assert (event["step"], event["to_step"]) == (3, 2)
    assert event["reason"].startswith("the mean loss of 3 updates, ")
    assert event["reason"].endswith(f"is above {2 * first:.3g}")


def test_a_single_hard_update_is_no_divergence(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spoil(monkeypatch, {5, 6}, lambda loss: 3 * loss)
    assert not events(train(tiny_model, tmp_path))


def test_a_training_that_keeps_diverging_stops_after_three_roll_backs(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spoil(monkeypatch, set(range(10, 100)), lambda loss: loss * float("nan"))
    with pytest.raises(
        UserError, match=r"diverged at update \d \(the loss is nan\) after 3 roll-backs.*Lower --lea"
    ):
        train(tiny_model, tmp_path)
    lines = [json.loads(line) for line in (tmp_path / "tuned" / "metrics.jsonl").read_text().splitlines()]
    found = [(line["event"], line["step"]) for line in lines if "event" in line]
    assert [event for event, _ in found] == ["rollback"] * 3 + ["diverged"]
    assert found[1][1] <= 5, "a checkpoint that failed again is given up for the one before it"
    assert not (tmp_path / "tuned" / "adapter").exists()


def test_a_lowered_rate_stays_lowered_when_the_run_is_interrupted(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt() -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        spoil(patch, {6}, lambda loss: loss * float("nan"))
        whole = train(tiny_model, tmp_path / "whole")
    spoil(monkeypatch, {6}, lambda loss: loss * float("nan"))
    with pytest.raises(KeyboardInterrupt):
        train(tiny_model, tmp_path, after=7, event=interrupt)
    run = train(tiny_model, tmp_path)
    wanted = {line["step"]: line["learning_rate"] for line in whole.metrics() if "loss" in line}
    assert {line["step"]: line["learning_rate"] for line in run.metrics() if "loss" in line} == wanted


# --- memory -----------------------------------------------------------------------------------------


def test_out_of_memory_halves_the_parts_and_keeps_the_batch(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = train(tiny_model, tmp_path / "whole", micro_batch=4)
    forward = PackedLoss.forward

    def small(self: PackedLoss, batch: Any) -> torch.Tensor:
        if batch.count > 1:
            raise RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried …")
        return forward(self, batch)

    monkeypatch.setattr(PackedLoss, "forward", small)
    run = train(tiny_model, tmp_path, micro_batch=4)
    assert [(e["event"], e["micro_batch"]) for e in events(run)] == [("halved", 2), ("halved", 1)]
    losses = [line["loss"] for line in run.metrics() if "loss" in line]
    assert losses == pytest.approx([line["loss"] for line in whole.metrics()], abs=1e-5)
    norms = [line["grad_norm"] for line in run.metrics() if "loss" in line]
    assert norms == pytest.approx([line["grad_norm"] for line in whole.metrics()], rel=1e-4)


@pytest.mark.slow
def test_memory_that_really_runs_out_is_halved(embedded_model: Model, tmp_path: Path) -> None:
    """In a process that may have 250 MB more than it has before its first pass over twelve examples."""
    command = [sys.executable, training_process.__file__, "lora", embedded_model.base, tmp_path, "memory", "250"]
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    lines = [json.loads(line) for line in (tmp_path / "tuned" / "metrics.jsonl").read_text().splitlines()]
    halved = [line["micro_batch"] for line in lines if line.get("event") == "halved"]
    assert halved and halved[0] < 12
    assert [line["step"] for line in lines if "loss" in line] == [1]


def test_out_of_memory_with_one_example_names_what_to_lower(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def none(self: PackedLoss, batch: Any) -> torch.Tensor:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate …")

    monkeypatch.setattr(PackedLoss, "forward", none)
    with pytest.raises(
        UserError, match=r"Out of memory with 1 example at once .*Lower --micro-batch or --max-length"
    ):
        train(tiny_model, tmp_path)


def test_out_of_memory_outside_the_passes_is_said_too(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried …")

    monkeypatch.setattr(torch.optim.AdamW, "step", full)
    with pytest.raises(UserError, match=r"Out of memory \(\[enforce fail\].*LoRA in place of all weights"):
        train(tiny_model, tmp_path)


def test_torchs_own_allocator_running_out_is_recognised() -> None:
    """A real failure, in a process that may not have the memory."""
    code = (
        "import resource, torch\n"
        "from workbench.training.trainer import is_out_of_memory\n"
        "resource.setrlimit(resource.RLIMIT_AS, (2**33, 2**33))\n"
        "try:\n    torch.zeros(2**34, dtype=torch.uint8)\n"
        "except RuntimeError as error:\n    print(is_out_of_memory(error))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "True\n"
    assert not is_out_of_memory(RuntimeError("shapes cannot be multiplied"))


# --- what is written down ---------------------------------------------------------------------------


def test_every_update_has_its_line(tiny_model: Path, tmp_path: Path) -> None:
    run = train(tiny_model, tmp_path)
    lines = run.metrics()
    assert [line["examples"] for line in lines] == [4, 8, 12, 16, 20, 24, 28, 32, 36]
    for line in lines:
        assert line.keys() == {
            "step", "examples", "loss", "learning_rate", "grad_norm", "update_norm", "tokens", "seconds",
            "tokens_per_second", "peak_memory_bytes", "watt_hours",
        }  # fmt: skip
        assert line["tokens_per_second"] == pytest.approx(line["tokens"] / line["seconds"])
    cost = json.loads((run.path / "cost.json").read_text())
    assert cost["tokens"] == sum(line["tokens"] for line in lines)
    assert cost["watt_hours"] == pytest.approx(sum(line["watt_hours"] for line in lines))


def test_the_update_norm_is_how_far_the_weights_moved(tiny_model: Path, tmp_path: Path) -> None:
    """One update: B starts at 0 and A stays, so the adapter's B is the update."""
    from safetensors.torch import load_file

    run = train(tiny_model, tmp_path, steps=1)
    [line] = run.metrics()
    moved = [
        t for name, t in load_file(run.path / "adapter" / "adapter_model.safetensors").items() if "lora_B" in name
    ]
    assert line["update_norm"] == pytest.approx(sum(float(t.pow(2).sum()) for t in moved) ** 0.5, rel=1e-5)


def test_steps_stand_in_place_of_epochs(tiny_model: Path, tmp_path: Path) -> None:
    run = train(tiny_model, tmp_path, steps=7)
    assert [line["step"] for line in run.metrics()] == list(range(1, 8))
    assert run.metrics()[-1]["examples"] == 28


def test_tensorboard_gets_the_metrics(tiny_model: Path, tmp_path: Path) -> None:
    pytest.importorskip("tensorboard", reason="pip install 'llm-workbench[tensorboard]'")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    run = train(tiny_model, tmp_path, tensorboard=True)
    board = EventAccumulator(str(run.path / "tensorboard")).Reload()
    found = [(event.step, event.value) for event in board.Scalars("training/loss")]
    assert found == [(line["step"], pytest.approx(line["loss"])) for line in run.metrics()]


def test_without_tensorboard_the_error_says_what_to_install(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(UserError, match=r"pip install 'llm-workbench\[tensorboard\]'"):
        train(tiny_model, tmp_path, tensorboard=True)


# --- several processes ------------------------------------------------------------------------------

PLACED = [*((i, "practice") for i in range(12)), *((i, "dev") for i in (20, 21)), *((i, "test") for i in (30, 31))]


@pytest.mark.slow
@pytest.mark.parametrize("recipe", ["lora", "sft", "qlora", "adapters", "prompt_tuning", "prefix_tuning", "head"])
def test_two_processes_train_as_one(recipe: str, tiny_model: Path, tmp_path: Path) -> None:
    """Nine updates of five examples from twelve: shares of three and two, and a last batch of two in an epoch."""
    rows = [
        f'{{"input": "What is {i}?", "target": "{"odd" if i % 2 else "even"}", "split": "{s}"}}' for i, s in PLACED
    ]
    (tmp_path / "rows.jsonl").write_text("\n".join(rows))
    task = f"path: {tmp_path / 'rows.jsonl'}\ngrader: label\nsplit: split\n"
    (tmp_path / "parity.yaml").write_text(task)
    flags = [recipe, "--model", tiny_model, "--task", tmp_path / "parity.yaml", "--questions", "2"]
    flags += ["--variant", "warm", "--head-rate", "1"] if recipe == "head" else []
    flags += ["--learning-rate", "1e-2", "--batch-size", "5", "--micro-batch", "2", "--precision", "float32"]
    flags += ["--dtype", "float32", "--name", "tuned", "--quiet"]
    # `accelerate launch --cpu` starts one process, whatever --num_processes says, where there is no MPI.
    launch = ["-m", "torch.distributed.run", "--nproc_per_node", "2", "--standalone"]
    env = os.environ | {"OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true"}
    lines = []
    for words in ([], launch):
        runs = tmp_path / ("two" if words else "one")
        command = [sys.executable, *words, "-m", "recipes", *flags, "--runs", runs]
        done = subprocess.run([str(w) for w in command], env=env, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr[-3000:]
        assert done.stdout.count("trained parameters") == 1, "only the first process measures"
        lines.append([json.loads(line) for line in (runs / "tuned" / "metrics.jsonl").read_text().splitlines()])
    one, two = lines
    assert [line["examples"] for line in one] == [line["examples"] for line in two]
    assert [line["loss"] for line in one] == pytest.approx([line["loss"] for line in two], abs=1e-4)
    assert [line["grad_norm"] for line in one] == pytest.approx([line["grad_norm"] for line in two], rel=1e-3)


def test_every_setting_of_these_tests_has_two_passes_an_update() -> None:
    assert TRAINING.batch_size == 2 * TRAINING.micro_batch
    assert len(training_process.TASK.practice) == 12
