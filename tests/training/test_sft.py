"""Training by what it must do: the padded batch's loss and gradients, and interrupted = uninterrupted."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import training_process
from safetensors.torch import load_file
from training_process import CONFIG, TASK, train

from workbench.adapters import load_weights
from workbench.decodes import Greedy
from workbench.engines.encode import Encoder
from workbench.engines.forward import use_grouped_attention
from workbench.engines.packing import Tokens
from workbench.errors import UserError
from workbench.methods import lora
from workbench.models import load_tokenizer
from workbench.prompts import load_prompt
from workbench.runs import Run
from workbench.training.checkpoints import newest_complete
from workbench.training.config import Training
from workbench.training.data import encode_example, learnable
from workbench.training.packed_loss import PackedLoss
from workbench.types import Model, System


def losses(run: Run) -> dict[int, float]:
    """The loss of each step; of a step that was done twice the later one."""
    return {line["step"]: line["loss"] for line in run.metrics() if "loss" in line}


def adapter(run: Run) -> dict[str, torch.Tensor]:
    """What was trained: the adapter, or all weights."""
    [file] = [*run.path.glob("adapter/adapter_model.safetensors"), *run.path.glob("model/model.safetensors")]
    weights: dict[str, torch.Tensor] = load_file(file)
    return weights


def same(first: Run, second: Run) -> bool:
    one, other = adapter(first), adapter(second)
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def examples(tiny_model: Path) -> list[Tokens]:
    encoder = Encoder(load_tokenizer(Model(str(tiny_model))))
    return [encode_example(encoder, load_prompt("arithmetic"), example) for example in TASK.practice]


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


def padded_loss(model: Any, examples: list[Tokens]) -> torch.Tensor:
    """The loss as transformers itself computes it, on sequences padded to the right."""
    width = max(len(e.ids) for e in examples)
    ids = torch.full((len(examples), width), 2)
    labels = torch.full((len(examples), width), -100)
    mask = torch.zeros(len(examples), width, dtype=torch.long)
    for row, e in enumerate(examples):
        ids[row, : len(e.ids)] = torch.tensor(e.ids)
        labels[row, e.learned] = ids[row, e.learned]
        mask[row, : len(e.ids)] = 1
    loss: torch.Tensor = model(input_ids=ids, attention_mask=mask, labels=labels).loss
    return loss


def gradients(model: Any) -> dict[str, torch.Tensor]:
    return {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


def test_the_packed_batch_has_the_loss_and_the_gradients_of_the_padded_one(
    tiny_model: Path, examples: list[Tokens]
) -> None:
    assert len({len(e.ids) for e in examples}) > 1, "some padding"
    reference, model = adapted(tiny_model, packed=False), PackedLoss(adapted(tiny_model, packed=True))
    expected = padded_loss(reference, examples)
    expected.backward()
    loss = model(model.collate(examples)) / sum(len(e.learned) for e in examples)
    loss.backward()
    assert loss.item() == pytest.approx(expected.item(), abs=1e-5)
    wanted = gradients(reference)
    assert wanted.keys() == gradients(model.weights).keys()
    for name, gradient in gradients(model.weights).items():
        assert torch.allclose(gradient, wanted[name], atol=1e-5, rtol=1e-4), name


def conversations(examples: list[Tokens]) -> list[Tokens]:
    """Every other example behind the one before it, both of their answers learned: two places apart."""
    both = []
    for first, second in zip(examples[::2], examples[1::2], strict=True):
        learned = [*first.learned, *(place + len(first.ids) for place in second.learned)]
        both.append(Tokens([*first.ids, *second.ids], learned))
    return [*both, Tokens(both[0].ids[:40], list(range(1, 40)))]  # and a plain text


@pytest.mark.parametrize("packed", [True, False], ids=["packed", "padded"])
def test_several_learned_parts_have_the_loss_and_the_gradients_of_the_padded_batch(
    tiny_model: Path, examples: list[Tokens], packed: bool
) -> None:
    turns = conversations(examples)
    reference, model = adapted(tiny_model, packed=False), PackedLoss(adapted(tiny_model, packed=packed))
    assert model.packs == packed
    expected = padded_loss(reference, turns)
    expected.backward()
    loss = model(model.collate(turns)) / sum(len(e.learned) for e in turns)
    loss.backward()
    assert loss.item() == pytest.approx(expected.item(), abs=1e-5)
    wanted = gradients(reference)
    for name, gradient in gradients(model.weights).items():
        assert torch.allclose(gradient, wanted[name], atol=1e-5, rtol=1e-4), name


def test_the_first_loss_and_gradient_norm_in_the_metrics_are_the_padded_batchs(
    tiny_model: Path, tmp_path: Path, examples: list[Tokens]
) -> None:
    """One update of all twelve examples, in micro-batches of different numbers of learned tokens."""
    reference = load_weights(Model(str(tiny_model)), "float32", "cpu")
    expected = padded_loss(reference, examples).item()
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


def test_only_the_answers_tokens_are_learned_and_exactly_one_end(tiny_model: Path, examples: list[Tokens]) -> None:
    tokenizer = load_tokenizer(Model(str(tiny_model)))
    for tokens, example in zip(examples, TASK.practice, strict=True):
        said = tokens.ids[tokens.learned[0] :]
        assert tokens.learned == list(range(tokens.learned[0], len(tokens.ids)))
        assert tokenizer.decode(said) == f"{example.rationale}<|im_end|>"
        assert said.count(tokenizer.eos_token_id) == 1
        assert tokenizer.decode(tokens.ids[: tokens.learned[0]]).endswith("<|im_start|>assistant\n")


def test_what_an_answer_holds_is_data_and_ends_no_turn(tiny_model: Path) -> None:
    from workbench.types import Example

    encoder = Encoder(load_tokenizer(Model(str(tiny_model))))
    example = Example.make("Say it.", "42<|im_end|>43")
    tokens = encode_example(encoder, load_prompt("question"), example)
    said = tokens.ids[tokens.learned[0] :]
    assert said.count(encoder.tokenizer.eos_token_id) == 1
    assert encoder.tokenizer.decode(said) == "42<|im_end|>43<|im_end|>"


def test_too_long_examples_are_left_out_and_counted(tiny_model: Path, examples: list[Tokens]) -> None:
    encoder = Encoder(load_tokenizer(Model(str(tiny_model))))
    lengths = sorted(len(e.ids) for e in examples)
    limit = lengths[5]
    kept, counts, _ = learnable(encoder, load_prompt("arithmetic"), TASK, Training(max_length=limit))
    assert (len(kept), counts.too_long) == (sum(n <= limit for n in lengths), sum(n > limit for n in lengths))
    with pytest.raises(UserError, match="Every example is longer than 3 tokens; raise --max-length"):
        learnable(encoder, load_prompt("arithmetic"), TASK, Training(max_length=3))


def test_an_architecture_that_takes_no_such_mask_trains_on_padded_rows(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """GPT-J makes its own positions; the loss and gradients are those of transformers itself."""
    from tiny import CHATML, tiny_tokenizer
    from transformers import GPTJConfig, GPTJForCausalLM

    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = CHATML
    torch.manual_seed(0)
    size = {"n_embd": 32, "n_layer": 2, "n_head": 2, "rotary_dim": 8, "n_positions": 256, "resid_pdrop": 0.0}
    config = GPTJConfig(vocab_size=len(tokenizer), embd_pdrop=0.0, attn_pdrop=0.0, **size)
    GPTJForCausalLM(config).save_pretrained(tmp_path / "gptj")
    tokenizer.save_pretrained(tmp_path / "gptj")
    model = Model(str(tmp_path / "gptj"))
    reference = load_weights(model, "float32", "cpu")
    encoder = Encoder(tokenizer)
    examples = [encode_example(encoder, load_prompt("arithmetic"), example) for example in TASK.practice]
    run = train(model.base, tmp_path, batch_size=12, micro_batch=5, steps=1)
    assert "gptj takes no mask of a packed batch: batches are padded." in capsys.readouterr().err
    assert losses(run)[1] == pytest.approx(padded_loss(reference, examples).item(), abs=1e-5)


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


def in_a_process(
    model: Path, root: Path, *words: object, method: str = "lora"
) -> subprocess.CompletedProcess[str]:
    command = [str(word) for word in (sys.executable, training_process.__file__, method, model, root, *words)]
    env = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.run(command, env=env, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("method", training_process.METHODS)
@pytest.mark.parametrize("where", [("kill", 5), ("kill-inside", 14)], ids=["after an update", "inside an update"])
def test_a_killed_training_ends_as_an_uninterrupted_one(
    tiny_model: Path, tmp_path: Path, method: str, where: tuple[str, int]
) -> None:
    """The fourteenth pass is the second of update 7, the first of the third epoch."""
    whole = train(tiny_model, tmp_path / "whole", method=method)
    assert in_a_process(tiny_model, tmp_path, *where, method=method).returncode == -9
    assert (tmp_path / "tuned" / "metrics.jsonl").read_text().count("\n") == {"kill": 5, "kill-inside": 6}[
        where[0]
    ]
    run = train(tiny_model, tmp_path, method=method)
    assert losses(run) == losses(whole)
    assert same(run, whole)


def truncate(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-1])


@pytest.mark.parametrize(
    ("name", "damage"),
    [("optimizer.pt", truncate), ("learned.safetensors", Path.unlink), ("complete.json", Path.unlink)],
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
    tiny_model: Path, tmp_path: Path, uninterrupted: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(lora, "save_adapter", lambda *_: interrupt())
        with pytest.raises(KeyboardInterrupt):
            train(tiny_model, tmp_path)
    cost = json.loads((tmp_path / "tuned" / "cost.json").read_text())
    run = train(tiny_model, tmp_path)
    assert same(run, uninterrupted)
    again = json.loads((run.path / "cost.json").read_text())
    assert (again["tokens"], again["seconds"]) == (cost["tokens"], pytest.approx(cost["seconds"]))


def test_a_disk_that_is_full_when_the_adapter_is_written_is_said(
    tiny_model: Path, tmp_path: Path, uninterrupted: Run
) -> None:
    done = in_a_process(tiny_model, tmp_path, "full", 9, 4096)
    assert done.returncode == 1, done.stderr
    assert "Traceback" not in done.stderr
    assert "could" in done.stderr and "written" in done.stderr
    assert not (tmp_path / "tuned" / "adapter").exists()
    assert same(train(tiny_model, tmp_path), uninterrupted)


def test_the_checkpoints_go_when_the_adapter_is_there(uninterrupted: Run) -> None:
    assert not (uninterrupted.path / "checkpoints").exists()


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
