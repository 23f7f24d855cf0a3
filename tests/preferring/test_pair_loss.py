"""Every loss of preferences: METHODS' worked numbers through TRL's trainers, and TRL's own padded batch."""

from pathlib import Path
from typing import Any, get_args

import pytest
import torch
from tiny import CHATML, tiny_tokenizer
from transformers import AutoModelForCausalLM

from workbench.engines.encode import Encoder
from workbench.engines.forward import use_grouped_attention
from workbench.engines.packing import Tokens
from workbench.errors import UserError
from workbench.preferring.losses import LOSSES, Loss, check_loss
from workbench.preferring.pair_loss import REFERENCE_POINT, Answers, PairLoss, _paired, _unpaired
from workbench.preferring.pair_rows import PairRows, rows_of_pairs, summed
from workbench.preferring.pairs import Pair
from workbench.training.config import Training
from workbench.training.trl_trainers import taken
from workbench.types import Message

pytestmark = pytest.mark.usefixtures("one_thread")

SMOOTHING = {name: 0.1 for name, kind in LOSSES.items() if kind.smoothing == "must"}


def pairs(count: int = 3) -> list[Pair]:
    """Pairs of `count` prompts, two each, with answers of several lengths."""
    found = []
    for i in range(count):
        prompt = (Message("user", f"What is {i} plus 7?"),)
        found.append(Pair(prompt, "chat", f"The answer is {i + 7}.", "The answer is large."))
        found.append(Pair(prompt, "chat", f"{i + 7}", f"First we take {i} and then 7, which leaves 3."))
    return found


def talking() -> Encoder:
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = CHATML
    return Encoder(tokenizer)


def objective(model: Path, loss: Loss) -> PairLoss:
    weights = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32)
    use_grouped_attention(weights)
    return PairLoss(weights, tiny_tokenizer(), loss, 0.1, SMOOTHING.get(loss, 0.0))


def groups(loss: Loss, count: int = 3) -> list[PairRows]:
    encoder = talking()
    found, _ = rows_of_pairs(pairs(count), encoder, Training(), mismatched=LOSSES[loss].mismatched)
    return [  # a reference that is near the model, whose tokens have some 6 nats; KTO's KL is above 0
        PairRows(
            g.rows,
            g.pairs,
            tuple(0.3 * j - 6.2 * len(row.learned) - i - 40 * (j >= 2 * g.pairs) for j, row in enumerate(g.rows)),
        )
        for i, g in enumerate(found)
    ]


def test_a_prompt_and_each_of_its_answers_are_read_once(tiny_model: Path) -> None:
    rows = tuple(Tokens([5, 6, 7, *answer], list(range(3, 3 + len(answer)))) for answer in ([8, 2], [9, 10, 2]))
    item = PairRows((*rows, rows[0], Tokens([5, 6, 7, 11, 2], [3, 4])), 2)
    assert objective(tiny_model, "sigmoid").read([item]) == 3 + 2 + 3 + 2


# --- worked numbers ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("loss", "kl", "expected"),
    [
        ("sigmoid", 0, 0.598139),
        ("hinge", 0, 0.8),
        ("ipo", 0, 22.09),
        ("cdpo", 0, 0.618139),
        ("robust", 0, 0.573139),
        ("sppo_hard", 0, 32.0),
        ("kto", 0, 0.475021),
        ("kto", -3, 0.475021),  # TRL cuts it off below 0
        ("kto", 5, 0.476516),  # ((1 − σ(.1·(1 − 5))) + (1 − σ(.1·(5 + 1)))) / 2
        ("apo_zero_unpaired", 0, 0.475021),
    ],
)
def test_worked_numbers(loss: Loss, kl: float, expected: float, tiny_model: Path) -> None:
    """log π = (−10, −14), reference (−11, −13), β = .1, ε = .1, answers of 5 and 10 tokens."""
    trainer = objective(tiny_model, loss)._trainer[0]
    logps, mask = torch.zeros(4, 10), torch.zeros(4, 10, dtype=torch.bool)
    for row, (logp, tokens) in enumerate([(-10, 5), (-14, 10), (-9, 5), (-13, 5)]):
        logps[row, :tokens], mask[row, :tokens] = logp / tokens, True
    reference = torch.tensor([-11.0, -13.0, -9.0 - kl, -13.0 - kl])
    places = [torch.tensor([0]), torch.tensor([1]), torch.tensor([2, 3][: 2 * LOSSES[loss].mismatched])]
    take = _unpaired if LOSSES[loss].unpaired else _paired
    found = take(trainer, Answers(logps, mask), reference, *[p.long() for p in places])
    assert float(found) == pytest.approx(expected, abs=2e-5)
    told = taken(trainer)
    assert told["rewards/chosen"] == pytest.approx(0.1)
    assert told["rewards/margins"] == pytest.approx(0.2, abs=1e-5)
    assert told.get("kl", 0.0) == pytest.approx(max(kl, 0), abs=1e-5)


def test_it_starts_at_log_two(tiny_model: Path) -> None:
    """DPO's loss before the first update, where policy and reference are one: .693147."""
    model = objective(tiny_model, "sigmoid")
    items = groups("sigmoid")
    rows = [row for item in items for row in item.rows]
    batch = model.packed(rows)
    with torch.no_grad():
        logps = summed(model.logits(batch), batch).tolist()
    items = [PairRows(i.rows, i.pairs, tuple(logps[4 * place : 4 * place + 4])) for place, i in enumerate(items)]
    loss = model(model.collate(items)) / model.units(items)
    assert float(loss.detach()) == pytest.approx(0.693147, abs=1e-6)


# --- TRL's own padded batch -------------------------------------------------------------------------


def padded_loss(model: Path, loss: Loss, items: list[PairRows], folder: Path) -> tuple[float, torch.Tensor]:
    """The loss of TRL's trainer with its own model, its own collator, its own pass; and its gradient."""
    import trl
    from datasets import Dataset

    weights = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32)
    fixed = {
        "output_dir": str(folder), "use_cpu": True, "bf16": False, "gradient_checkpointing": False, "beta": 0.1,
        "report_to": [], "disable_dropout": False, "per_device_train_batch_size": 12, "max_length": None,
    }  # fmt: skip
    columns = [(item, place) for item in items for place in range(0, 2 * item.pairs, 2)]
    kinds: Any = (trl.KTOTrainer, trl.KTOConfig) if LOSSES[loss].unpaired else (trl.DPOTrainer, trl.DPOConfig)
    settings: dict[str, Any] = {"loss_type": loss}
    if SMOOTHING.get(loss):
        settings["label_smoothing"] = SMOOTHING[loss]
    if loss == "cdpo":
        settings |= {"loss_type": ["sigmoid", "robust"], "loss_weights": [1.8, -0.8]}

    class Bare(kinds[0]):  # type: ignore[misc]
        def _prepare_dataset(self, dataset: Any, *_: Any) -> Any:
            return dataset

    trainer = Bare(
        model=weights,
        ref_model=AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32),
        args=kinds[1](**fixed, **settings),
        train_dataset=Dataset.from_list([{"prompt": "a"}]),
        processing_class=tiny_tokenizer(),
    )
    trainer.precompute_ref_logps = True

    def split(row: Any) -> tuple[list[int], list[int]]:
        return row.ids[: row.learned[0]], row.ids[row.learned[0] :]

    if LOSSES[loss].unpaired:
        rows = [
            (item, j + k, item.rows[2 * item.pairs :]) for k in (0, 1) for item, j in columns
        ]  # all chosen, then all rejected
        examples = []
        for item, j, others in rows:
            asked, said = split(item.rows[j])
            example = {
                "prompt_ids": asked, "completion_ids": said, "label": j % 2 == 0, "ref_logps": item.reference[j],
            }  # fmt: skip
            if others:
                example["KL_completion_ids"] = split(others[j])[1]
                example["ref_KL_logps"] = item.reference[2 * item.pairs + j]
            examples.append(example)
    else:
        examples = [
            {
                "prompt_ids": split(item.rows[j])[0],
                "chosen_ids": split(item.rows[j])[1],
                "rejected_ids": split(item.rows[j + 1])[1],
                "ref_chosen_logps": item.reference[j],
                "ref_rejected_logps": item.reference[j + 1],
            }
            for item, j in columns
        ]
    trainer.model.train()
    found = trainer._compute_loss(trainer.model, trainer.data_collator(examples), False)
    found.backward()
    return float(found), torch.cat([w.grad.flatten() for w in weights.parameters() if w.grad is not None])


@pytest.mark.parametrize("loss", get_args(Loss))
def test_loss_and_gradient_are_those_of_trls_padded_batch(loss: Loss, tiny_model: Path, tmp_path: Path) -> None:
    items, model = groups(loss), objective(tiny_model, loss)
    found = model(model.collate(items)) / model.units(items)
    found.backward()
    ours = torch.cat([w.grad.flatten() for w in model.weights.parameters() if w.grad is not None])
    expected, theirs = padded_loss(tiny_model, loss, items, tmp_path)
    assert float(found) == pytest.approx(expected, rel=1e-5)
    assert float(torch.nn.functional.cosine_similarity(ours, theirs, dim=0)) > 0.99999
    assert float(ours.norm()) == pytest.approx(float(theirs.norm()), rel=1e-4)
    assert set(model.told) >= {"rewards/margins", "rewards/accuracies", "logps/chosen", "logps/rejected"}
    assert "kl" not in model.told, "the reference point is not KL to the base, and others measure none"
    assert (REFERENCE_POINT in model.told) == (loss == "kto")
    if loss == "kto":
        assert model.told[REFERENCE_POINT][0] > 1, "where it is 0 the mismatched rows are not tested"


@pytest.mark.parametrize("loss", [name for name, kind in LOSSES.items() if not kind.whole])
def test_a_batch_that_is_cut_has_the_whole_ones_loss(loss: Loss, tiny_model: Path) -> None:
    items, model = groups(loss), objective(tiny_model, loss)
    whole = model(model.collate(items)) / model.units(items)
    parts = sum(model(model.collate([item])) for item in items) / model.units(items)
    assert float(parts) == pytest.approx(float(whole), rel=1e-5)


# --- what a loss takes ------------------------------------------------------------------------------


@pytest.mark.parametrize("loss", get_args(Loss))
def test_label_smoothing_is_never_ignored(loss: Loss) -> None:
    kind = LOSSES[loss].smoothing
    if kind == "none":
        with pytest.raises(UserError, match=f"nothing to the loss {loss}; it is for cdpo, robust"):
            check_loss(loss, 0.1)
    else:
        check_loss(loss, 0.1)
    if kind == "must":
        with pytest.raises(UserError, match=f"The loss {loss} needs --label-smoothing"):
            check_loss(loss, 0.0)
    else:
        check_loss(loss, 0.0)


# --- rows -------------------------------------------------------------------------------------------


def test_pairs_of_a_prompt_stay_together_and_answers_end_in_one_end_token() -> None:
    encoder = talking()
    shuffled = [pairs()[i] for i in (0, 2, 4, 1, 3, 5)]
    found, counts = rows_of_pairs(shuffled, encoder, Training())
    assert [group.pairs for group in found] == [2, 2, 2]
    assert counts["learned"] == 6
    end = encoder.tokenizer.eos_token_id
    for group in found:
        starts = {tuple(row.ids[: row.learned[0]]) for row in group.rows}
        assert len(starts) == 1, "one prompt"
        for row in group.rows:
            said = row.ids[row.learned[0] :]
            assert said[-1] == end
            assert said.count(end) == 1
            assert row.learned == list(range(row.learned[0], len(row.ids)))


def test_mismatched_rows_have_the_next_prompts_answers() -> None:
    found = groups("kto")
    for i, group in enumerate(found):
        own = group.rows[: 2 * group.pairs]
        after = found[(i + 1) % len(found)].rows
        assert len(group.rows) == 2 * len(own)
        for j, row in enumerate(group.rows[2 * group.pairs :]):
            assert row.ids[: row.learned[0]] == own[0].ids[: own[0].learned[0]]
            assert row.ids[row.learned[0] :] == after[j].ids[after[j].learned[0] :]
    with pytest.raises(UserError, match="there is one prompt"):
        groups("kto", 1)


def test_a_pair_that_is_too_long_is_left_out(capsys: pytest.CaptureFixture[str]) -> None:
    encoder = talking()
    everything, _ = rows_of_pairs(pairs(), encoder, Training())
    limit = max(len(row.ids) for group in everything for row in group.rows[:2])  # of the first pairs
    found, counts = rows_of_pairs(pairs(), encoder, Training(max_length=limit))
    assert counts["too_long"] == 3
    assert sum(group.pairs for group in found) == 3
    assert f"3 pairs left out, with more than {limit} tokens" in capsys.readouterr().err
    with pytest.raises(UserError, match="all 6 have more than 5 tokens"):
        rows_of_pairs(pairs(), encoder, Training(max_length=5))
