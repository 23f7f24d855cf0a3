"""Training by what it must do: the padded batch's loss and gradients, and interrupted = uninterrupted."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest
import torch
import training_process
from safetensors.torch import load_file
from training_process import CONFIG, TASK, train

from workbench.adapters import load_weights
from workbench.engines.encode import Encoder
from workbench.engines.forward import packed_logits, use_grouped_attention
from workbench.engines.packing import Branch, Packed
from workbench.errors import UserError
from workbench.methods import lora
from workbench.models import load_tokenizer
from workbench.prompts import load_prompt
from workbench.runs import Run
from workbench.training.checkpoints import newest_complete
from workbench.training.data import Collator, encode_examples
from workbench.types import Greedy, Model, System


def losses(run: Run) -> dict[int, float]:
    """The loss of each step; of a step that was done twice the later one."""
    return {line["step"]: line["loss"] for line in run.metrics()}


def adapter(run: Run) -> dict[str, torch.Tensor]:
    weights: dict[str, torch.Tensor] = load_file(run.path / "adapter" / "adapter_model.safetensors")
    return weights


def same(first: Run, second: Run) -> bool:
    one, other = adapter(first), adapter(second)
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def branches(tiny_model: Path) -> list[Branch]:
    encoder = Encoder(load_tokenizer(Model(str(tiny_model))))
    return encode_examples(encoder, load_prompt("arithmetic"), TASK.practice, 1024)[0]


@pytest.fixture(scope="module")
def uninterrupted(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    return train(tiny_model, tmp_path_factory.mktemp("runs"))


# --- loss and gradients -----------------------------------------------------------------------------


def adapted(tiny_model: Path, packed: bool) -> Any:
    """The model with a LoRA whose B is not zero, so that every gradient is some number."""
    from peft import LoraConfig, get_peft_model

    base = load_weights(Model(str(tiny_model)), "float32", "cpu")
    if packed:
        use_grouped_attention(base)
    torch.manual_seed(0)
    return get_peft_model(base, LoraConfig(r=2, target_modules="all-linear", init_lora_weights=False))


def padded_loss(model: Any, branches: list[Branch]) -> torch.Tensor:
    """The loss as transformers itself computes it, on sequences padded to the right."""
    width = max(len(b.prompt) + len(b.continuation) for b in branches)
    ids = torch.full((len(branches), width), 2)
    labels = torch.full((len(branches), width), -100)
    mask = torch.zeros(len(branches), width, dtype=torch.long)
    for row, b in enumerate(branches):
        whole = [*b.prompt, *b.continuation]
        ids[row, : len(whole)] = torch.tensor(whole)
        labels[row, len(b.prompt) : len(whole)] = torch.tensor(b.continuation)
        mask[row, : len(whole)] = 1
    loss: torch.Tensor = model(input_ids=ids, attention_mask=mask, labels=labels).loss
    return loss


def gradients(model: Any) -> dict[str, torch.Tensor]:
    return {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


def test_the_packed_batch_has_the_loss_and_the_gradients_of_the_padded_one(
    tiny_model: Path, branches: list[Branch]
) -> None:
    assert len({len(b.prompt) + len(b.continuation) for b in branches}) > 1, "some padding"
    reference, model = adapted(tiny_model, packed=False), adapted(tiny_model, packed=True)
    expected = padded_loss(reference, branches)
    expected.backward()
    batch = Collator()([{"prompt": b.prompt, "answer": b.continuation} for b in branches])
    logits = packed_logits(model, Packed(**{field.name: batch[field.name] for field in fields(Packed)}))
    loss = torch.nn.functional.cross_entropy(logits, batch["labels"][0])
    loss.backward()
    assert loss.item() == pytest.approx(expected.item(), abs=1e-5)
    wanted = gradients(reference)
    assert wanted.keys() == gradients(model).keys()
    for name, gradient in gradients(model).items():
        assert torch.allclose(gradient, wanted[name], atol=1e-5, rtol=1e-4), name


def test_the_first_loss_and_gradient_norm_in_the_metrics_are_the_padded_batchs(
    tiny_model: Path, tmp_path: Path, branches: list[Branch]
) -> None:
    """One update of all twelve examples, in micro-batches of different numbers of learned tokens."""
    reference = load_weights(Model(str(tiny_model)), "float32", "cpu")
    expected = padded_loss(reference, branches).item()
    found = {}
    for micro in (12, 4, 1):
        config = replace(
            CONFIG, training=replace(CONFIG.training, batch_size=12, micro_batch=micro, epochs=2, save_every=50)
        )
        system = System(Model(str(tiny_model)), load_prompt("arithmetic"), Greedy(16))
        with Run.open(tmp_path, "lora", {"lora": config}) as run:
            lora.adapt(system, TASK, config, run, quiet=True)
        found[micro] = run
        assert losses(run)[1] == pytest.approx(expected, abs=1e-5)
    whole = found[12]
    for run in (found[4], found[1]):
        assert losses(run)[2] == pytest.approx(losses(whole)[2], abs=1e-5)
        norms = [[line["grad_norm"] for line in r.metrics()] for r in (run, whole)]
        assert norms[0] == pytest.approx(norms[1], rel=1e-4)
        for name, weight in adapter(run).items():
            assert torch.allclose(weight, adapter(whole)[name], atol=1e-4), name


def test_only_the_answers_tokens_are_learned_and_exactly_one_end(tiny_model: Path, branches: list[Branch]) -> None:
    tokenizer = load_tokenizer(Model(str(tiny_model)))
    for branch, example in zip(branches, TASK.practice, strict=True):
        assert tokenizer.decode(branch.continuation) == f"{example.rationale}<|im_end|>"
        assert branch.continuation.count(tokenizer.eos_token_id) == 1
        assert tokenizer.decode(branch.prompt).endswith("<|im_start|>assistant\n")
    batch = Collator()([{"prompt": b.prompt, "answer": b.continuation} for b in branches])
    assert batch["labels"][0].tolist() == [token for b in branches for token in b.continuation]


def test_what_an_answer_holds_is_data_and_ends_no_turn(tiny_model: Path) -> None:
    from workbench.types import Example

    encoder = Encoder(load_tokenizer(Model(str(tiny_model))))
    example = Example.make("Say it.", "42<|im_end|>43")
    [branch], _ = encode_examples(encoder, load_prompt("question"), [example], 1024)
    assert branch.continuation.count(encoder.tokenizer.eos_token_id) == 1
    assert encoder.tokenizer.decode(branch.continuation) == "42<|im_end|>43<|im_end|>"


def test_too_long_examples_are_left_out_and_counted(tiny_model: Path, branches: list[Branch]) -> None:
    encoder = Encoder(load_tokenizer(Model(str(tiny_model))))
    lengths = sorted(len(b.prompt) + len(b.continuation) for b in branches)
    limit = lengths[5]
    kept, dropped = encode_examples(encoder, load_prompt("arithmetic"), TASK.practice, limit)
    assert (len(kept), dropped) == (sum(n <= limit for n in lengths), sum(n > limit for n in lengths))
    with pytest.raises(UserError, match="Every example is longer than 3 tokens; raise --max-length"):
        encode_examples(encoder, load_prompt("arithmetic"), TASK.practice, 3)


# --- interrupted = uninterrupted --------------------------------------------------------------------


def interrupt() -> None:
    raise KeyboardInterrupt


def interrupted_at_5(tiny_model: Path, root: Path) -> Path:
    """Stopped in the middle of the second epoch, one step after a checkpoint; its checkpoints' folder."""
    with pytest.raises(KeyboardInterrupt):
        train(tiny_model, root, after=5, event=interrupt)
    return root / "tuned" / "checkpoints"


def test_an_interrupted_training_ends_as_an_uninterrupted_one(
    tiny_model: Path, tmp_path: Path, uninterrupted: Run
) -> None:
    checkpoints = interrupted_at_5(tiny_model, tmp_path)
    newest = newest_complete(checkpoints)
    assert newest is not None and newest.name == "checkpoint-4"
    run = train(tiny_model, tmp_path)
    assert [line["step"] for line in run.metrics()] == [1, 2, 3, 4, 5, 5, 6, 7, 8, 9]
    assert losses(run) == losses(uninterrupted)
    assert same(run, uninterrupted)


def in_a_process(model: Path, root: Path, *words: object) -> subprocess.CompletedProcess[str]:
    command = [str(word) for word in (sys.executable, training_process.__file__, model, root, *words)]
    env = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.run(command, env=env, capture_output=True, text=True, check=False)


def test_a_killed_training_ends_as_an_uninterrupted_one(
    tiny_model: Path, tmp_path: Path, uninterrupted: Run
) -> None:
    assert in_a_process(tiny_model, tmp_path, "kill", 5).returncode == -9
    assert (tmp_path / "tuned" / "metrics.jsonl").read_text().count("\n") == 5
    run = train(tiny_model, tmp_path)
    assert losses(run) == losses(uninterrupted)
    assert same(run, uninterrupted)


def truncate(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-1])


@pytest.mark.parametrize(
    ("name", "damage"),
    [("optimizer.pt", truncate), ("adapter_model.safetensors", Path.unlink), ("complete.json", Path.unlink)],
)
def test_an_incomplete_checkpoint_costs_a_warning_and_its_steps(
    tiny_model: Path,
    tmp_path: Path,
    uninterrupted: Run,
    capsys: pytest.CaptureFixture[str],
    name: str,
    damage: Callable[[Path], None],
) -> None:
    checkpoints = interrupted_at_5(tiny_model, tmp_path)
    damage(checkpoints / "checkpoint-4" / name)
    run = train(tiny_model, tmp_path)
    assert "checkpoint-4 is incomplete; going on from the one before it" in capsys.readouterr().err
    assert [line["step"] for line in run.metrics()][5:] == [3, 4, 5, 6, 7, 8, 9]
    assert losses(run) == losses(uninterrupted)
    assert same(run, uninterrupted)


def test_a_training_that_ended_before_its_adapter_was_written_writes_it(
    tiny_model: Path, tmp_path: Path, uninterrupted: Run
) -> None:
    run = train(tiny_model, tmp_path)
    (run.path / "adapter").rename(run.path / ".adapter")
    cost = json.loads((run.path / "cost.json").read_text())
    run = train(tiny_model, tmp_path)
    assert same(run, uninterrupted)
    again = json.loads((run.path / "cost.json").read_text())
    assert again["tokens"] == cost["tokens"]
    assert again["seconds"] == pytest.approx(cost["seconds"])


@pytest.mark.parametrize("limit", [4096, 30_000], ids=["weights", "optimizer"])
def test_a_full_disk_leaves_the_checkpoint_before_intact(
    tiny_model: Path, tmp_path: Path, uninterrupted: Run, limit: int
) -> None:
    done = in_a_process(tiny_model, tmp_path, "full", 3, limit)
    assert done.returncode == 1, done.stderr
    assert "training: The disk is full: a checkpoint could not be written" in done.stderr
    assert "checkpoint-2 is intact; free some space, and the same command goes on." in done.stderr
    assert "Traceback" not in done.stderr
    run = train(tiny_model, tmp_path)
    assert same(run, uninterrupted)
