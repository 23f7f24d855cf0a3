"""DPO: its reference is the model as it was, it goes on where it stopped, and it learns what the pairs say."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from stopping import StoppingRun

from workbench.adapters import load_weights
from workbench.decodes import Greedy
from workbench.drawing import Drawer
from workbench.engines import EngineConfig
from workbench.engines.encode import Encoder
from workbench.errors import UserError
from workbench.files import read_json
from workbench.methods.dpo import Config, adapt
from workbench.methods.lora import Config as LoraConfig
from workbench.models import load_tokenizer
from workbench.preferring.given import Pairs, pairs_for
from workbench.preferring.pair_loss import PairLoss
from workbench.preferring.pair_rows import rows_of_pairs, summed
from workbench.preferring.pairs import read_pairs
from workbench.prompts import load_prompt
from workbench.runs import Run
from workbench.store import Store
from workbench.tasks.arithmetic import Config as ArithmeticConfig
from workbench.tasks.arithmetic import load
from workbench.training.card import cost_of
from workbench.training.config import Data, Training
from workbench.training.objective import Objective
from workbench.types import Model, System

pytestmark = pytest.mark.usefixtures("one_thread")

TASK = load(ArithmeticConfig(practice=8, dev=2, test=2))
TRAINING = Training(learning_rate=1e-2, epochs=2, batch_size=4, micro_batch=4, precision="float32", save_every=1)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "pairs.jsonl"
    rows = [
        {"prompt": f"What is {i} times 3?", "chosen": f"It is {3 * i}{end}", "rejected": f"No idea{end}{end}"}
        for i in range(6)
        for end in (".", "!")
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def config(file: Path | None, **settings: Any) -> Config:
    training = replace(TRAINING, **settings.pop("training", {}))
    return Config(
        pairs=Pairs(pairs=file),
        lora=LoraConfig(rank=8 if settings.get("weights") == "all" else 2, training=training),
        **settings,
    )


def tune(model: Path, root: Path, settings: Config, stop: int | None = None) -> tuple[System, Run]:
    system = System(Model(str(model)), load_prompt("arithmetic"), Greedy(16))
    store = Store(root / "completions.sqlite")
    drawer = Drawer(EngineConfig(dtype="float32", device="cpu"), store, quiet=True)
    with StoppingRun.open(root, "dpo", {"config": settings}, name="tuned") as run:
        assert isinstance(run, StoppingRun)
        run.stop = stop
        found = adapt(system, TASK, settings, run, drawer, quiet=True)
    store.close()
    return found, run


def lines(run: Run) -> list[dict[str, Any]]:
    return [line for line in run.metrics() if "loss" in line]


def test_it_starts_as_the_reference_and_learns_the_pairs(tiny_model: Path, tmp_path: Path, file: Path) -> None:
    tuned, run = tune(tiny_model, tmp_path, config(file, training={"epochs": 6}))
    first, last = lines(run)[0], lines(run)[-1]
    assert first["loss"] == pytest.approx(0.693147, abs=1e-5)
    assert first["rewards/margins"] == pytest.approx(0, abs=1e-4)
    assert last["rewards/margins"] > 0.5
    assert last["rewards/accuracies"] == 1
    assert tuned.model.adapter == str(run.path / "adapter")
    about = read_json(run.path / "data.json")
    assert (about["learned"], about["prompts"]) == (12, 6)
    card = (run.path / "README.md").read_text()
    assert "DPO on pairs.jsonl" in card
    assert "pairs of a better and a worse answer. It learned on 12 examples" in card
    assert "The loss was 0.693 a pair at update 1" in card


@pytest.mark.parametrize("weights", ["lora", "all"])
def test_the_cached_reference_equals_the_live_one(
    weights: Any, tiny_model: Path, tmp_path: Path, file: Path
) -> None:
    """After the training the base still gives what was cached before it: for an adapter with it switched off."""
    tuned, run = tune(tiny_model, tmp_path, config(file, weights=weights))
    encoder = Encoder(load_tokenizer(Model(str(tiny_model))))
    groups, _ = rows_of_pairs(read_pairs(file), encoder, TRAINING)
    cached = read_json(run.path / "reference.json")["logprobs"]
    live = load_weights(tuned.model, "float32", "cpu")
    if weights == "all":
        assert sum(map(len, cached)) == 24
        live = load_weights(Model(str(tiny_model)), "float32", "cpu")
    objective = Objective(live)

    def logps(row: Any) -> float:
        batch = objective.packed([row])
        with torch.no_grad():
            return float(summed(objective.logits(batch), batch)[0])

    moved = [logps(row) for group in groups for row in group.rows]
    if weights == "lora":
        with live.disable_adapter():
            now = [logps(row) for group in groups for row in group.rows]
        assert moved != pytest.approx(now, abs=1e-2), "the adapter does something"
    else:
        now = moved
    assert [v for group in cached for v in group] == pytest.approx(now, abs=1e-3)


@pytest.mark.parametrize("loss", ["sigmoid", "kto"])
def test_interrupted_equals_uninterrupted(loss: Any, tiny_model: Path, tmp_path: Path, file: Path) -> None:
    settings = config(file, loss=loss)
    _, whole = tune(tiny_model, tmp_path / "whole", settings)
    with pytest.raises(KeyboardInterrupt):
        tune(tiny_model, tmp_path / "cut", settings, stop=2)
    reference = (tmp_path / "cut" / "tuned" / "reference.json").stat().st_mtime_ns
    _, again = tune(tiny_model, tmp_path / "cut", settings)
    assert (again.path / "reference.json").stat().st_mtime_ns == reference, "it is computed once"
    last = {line["step"]: line["loss"] for line in lines(again)}
    assert last == {line["step"]: line["loss"] for line in lines(whole)}
    ours, theirs = (load_file(run.path / "adapter" / "adapter_model.safetensors") for run in (again, whole))
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def test_how_a_batch_is_cut_does_not_matter(tiny_model: Path, tmp_path: Path, file: Path) -> None:
    runs = [
        tune(tiny_model, tmp_path / str(parts), config(file, training={"micro_batch": parts}))[1]
        for parts in (1, 4)
    ]
    cut, whole = ([line["loss"] for line in lines(run)] for run in runs)
    assert cut == pytest.approx(whole, rel=1e-4)
    told = [[line["rewards/margins"] for line in lines(run)] for run in runs]
    assert told[0] == pytest.approx(told[1], abs=1e-4)


def test_the_cost_has_the_reference_in_it(tiny_model: Path, tmp_path: Path, file: Path) -> None:
    _, run = tune(tiny_model, tmp_path, config(file))
    cost, tokens = cost_of(run), read_json(run.path / "data.json")["tokens"]
    read = sum(line["tokens"] for line in lines(run))
    assert cost.tokens == 1.5 * read, "two epochs, and the reference's pass"
    assert read < 2 * tokens, "the rows of one prompt have it once"
    assert cost.seconds > 0
    assert cost.flops > 0


def test_a_run_with_other_pairs_is_refused(tiny_model: Path, tmp_path: Path, file: Path) -> None:
    settings = config(file)
    with pytest.raises(KeyboardInterrupt):
        tune(tiny_model, tmp_path, settings, stop=1)
    text = file.read_text()
    file.write_text(text.replace("No idea", "Ask me"))
    with pytest.raises(UserError, match=r"reference\.json is of other pairs"):
        tune(tiny_model, tmp_path, settings)


@pytest.mark.slow
def test_two_processes_train_as_one(tiny_model: Path, tmp_path: Path, file: Path) -> None:
    """Updates of four prompts, two a process; pairs and reference are the first one's."""
    flags = ["dpo", "--model", tiny_model, "--pairs", file, "--questions", "2", "--batch-size", "4", "--rank", "2"]
    flags += ["--task-args", "practice=8", "dev=2", "test=2", "--learning-rate", "1e-2", "--precision", "float32"]
    flags += ["--dtype", "float32", "--name", "tuned", "--quiet", "--paths.n", "2"]
    # `accelerate launch --cpu` starts one process, whatever --num_processes says, where there is no MPI.
    launch = ["-m", "torch.distributed.run", "--nproc_per_node", "2", "--standalone"]
    found = []
    for words in ([], launch):
        runs = tmp_path / ("two" if words else "one")
        command = [sys.executable, *words, "-m", "recipes", *flags, "--runs", runs]
        env = os.environ | {"OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true"}
        done = subprocess.run([str(w) for w in command], env=env, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr[-3000:]
        assert done.stdout.count("KL to the base") == 1, "only the first process measures"
        every = [json.loads(line) for line in (runs / "tuned" / "metrics.jsonl").read_text().splitlines()]
        found.append([line for line in every if "loss" in line])
    one, two = found
    for name in ("loss", "rewards/margins", "logps/chosen", "tokens"):
        assert [line[name] for line in one] == pytest.approx([line[name] for line in two], rel=1e-3, abs=1e-4)


def test_pairs_that_contradict_each_other_are_told(
    tiny_model: Path, tmp_path: Path, file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with file.open("a") as open_file:
        row = {"prompt": "What is 1 times 3?", "chosen": "No idea..", "rejected": "It is 3."}
        open_file.write(json.dumps(row) + "\n")
    tune(tiny_model, tmp_path, config(file))
    assert "pairs.jsonl: 2 of 13 pairs contradict another one of their prompt" in capsys.readouterr().err


def test_a_helper_repeats_no_warning(
    tiny_model: Path, file: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    row = {"prompt": "What is 1 times 3?", "chosen": "No idea..", "rejected": "It is 3."}
    file.write_text(file.read_text() + json.dumps(row) + "\n")
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setattr("workbench.preferring.given.meet", lambda: None)
    system = System(Model("fake"), load_prompt("arithmetic"), Greedy(16))
    unused: Any = None
    encoder = Encoder(load_tokenizer(Model(str(tiny_model))))
    whole, _ = rows_of_pairs(read_pairs(file), encoder, Training())
    limit = max(len(row.ids) for group in whole for row in group.rows) - 1
    for rank in (0, 1):
        monkeypatch.setenv("RANK", str(rank))
        given = pairs_for(Pairs(pairs=file), system, TASK, unused, unused)
        rows_of_pairs(given.pairs, encoder, Training(max_length=limit))
        said = capsys.readouterr().err
        assert ("contradict" in said) == (rank == 0)
        assert ("pairs left out, with more than" in said) == (rank == 0)


def test_what_it_refuses(tiny_model: Path, tmp_path: Path, file: Path) -> None:
    with pytest.raises(UserError, match="beta is 0"):
        Config(beta=0)
    with pytest.raises(UserError, match=r"label_smoothing is 0\.6"):
        Config(loss="cdpo", label_smoothing=0.6)
    with pytest.raises(UserError, match="--label-smoothing means nothing to the loss sigmoid"):
        Config(label_smoothing=0.1)
    with pytest.raises(UserError, match="pairs come from --pairs"):
        Config(lora=LoraConfig(training=Training(data=Data(data="a.jsonl"))))
    with pytest.raises(UserError, match="--samples is for pairs that are yet to be made"):
        Pairs(pairs=file, samples=4)
    with pytest.raises(UserError, match="--rank is LoRA's, and with --weights all there is no LoRA"):
        Config(weights="all", lora=LoraConfig(rank=4))
    (tmp_path / "none.jsonl").write_text("\n")
    with pytest.raises(UserError, match=r"none\.jsonl is empty"):
        tune(tiny_model, tmp_path, config(tmp_path / "none.jsonl"))
    with pytest.raises(UserError, match="No question of the practice split has a right and a wrong sample"):
        tune(tiny_model, tmp_path / "own", Config(pairs=Pairs(samples=2)))


# --- memory -------------------------------------------------------------------------------------------


def test_out_of_memory_in_the_reference_s_pass_takes_smaller_parts(
    tiny_model: Path, tmp_path: Path, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, whole = tune(tiny_model, tmp_path / "whole", config(file))
    logits, tried = Objective.logits, []

    def small(self: Objective, batch: Any) -> torch.Tensor:
        tried.append(batch.count)
        if batch.count > 4 and not torch.is_grad_enabled():
            raise RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried …")
        return logits(self, batch)

    monkeypatch.setattr(Objective, "logits", small)
    _, run = tune(tiny_model, tmp_path / "small", config(file))
    assert max(tried) > 4
    found, expected = (read_json(r.path / "reference.json")["logprobs"] for r in (run, whole))
    assert [v for g in found for v in g] == pytest.approx([v for g in expected for v in g], abs=1e-3)

    def none(self: Objective, batch: Any) -> torch.Tensor:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate …")

    monkeypatch.setattr(Objective, "logits", none)
    with pytest.raises(UserError, match="Out of memory in the reference's pass over one prompt"):
        tune(tiny_model, tmp_path / "none", config(file))


def test_a_loss_that_takes_no_cut_names_the_batch_size(
    tiny_model: Path, tmp_path: Path, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def none(self: PairLoss, batch: Any) -> torch.Tensor:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate …")

    monkeypatch.setattr(PairLoss, "forward", none)
    with pytest.raises(UserError, match=r"with 4 examples at once .*Lower --batch-size or --max-length"):
        tune(tiny_model, tmp_path, config(file, loss="kto"))


def test_more_questions_than_there_are_is_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []

    def stop(*_: Any, questions: Any, **__: Any) -> Any:
        asked.append(questions)
        raise KeyboardInterrupt

    monkeypatch.setattr("workbench.preferring.given.verifier_pairs", stop)
    system, unused = System(Model("fake"), load_prompt("arithmetic"), Greedy(16)), Any
    with Run.open(tmp_path, "dpo", {}, name="tuned") as run:
        for questions in (50, 5, None):
            with pytest.raises(KeyboardInterrupt):
                pairs_for(Pairs(), system, TASK, run, unused, questions=questions)  # type: ignore[arg-type]
    assert asked == [8, 5, None]
