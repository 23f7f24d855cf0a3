"""DPO: TRL's DPOTrainer as it comes, and the workbench, on the same pairs in the same batches.

Both train r = 8 on all linear layers of the embedded model, AdamW, 8 pairs an update, β = 0.1. TRL has its
defaults, among them gradient checkpointing and, in bfloat16, autocast; it computes the reference in each update,
with the adapter switched off. Ours computes it once before the first update, and that time is counted. Each side
runs in a process of its own; ours runs before and after theirs, because a machine's speed drifts.
"""

import itertools
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

from tests.benchmarks.table import Row
from tests.benchmarks.training import SEED, InOrder, against_trl, clock, data, lora
from workbench.models import EMBEDDED, load_base, load_tokenizer
from workbench.preferring.pairs import Pair
from workbench.prompts import load_prompt, render, render_answer
from workbench.training.config import Training
from workbench.types import Model

BATCH, RATE, BETA = 8, 1e-4, 0.1
TOLERANCE = {"float32": 2e-3, "bfloat16": 0.03}  # of a loss


def short(quick: bool = False) -> list[Row]:
    """Arithmetic: a shared prompt, two short answers."""
    return _rows("arithmetic", "arithmetic answers", 4 if quick else 8, 2.0)


def long(quick: bool = False) -> list[Row]:
    """GSM8K: worked solutions, each against that of another question."""
    return _rows("gsm8k", "GSM8K solutions", 2 if quick else 4, 1.5)


def _rows(name: str, what: str, updates: int, floor: float) -> list[Row]:
    return [
        found.row(
            what=f"DPO, {what}, {updates} updates of {BATCH} pairs, {precision}",
            baseline=f"TRL `DPOTrainer`: {BATCH / found.theirs:.2f} pairs/s",
            workbench=f"{BATCH / found.ours:.2f} pairs/s, reference included",
            checked=f"losses of the {updates} updates",
            floor=floor,
            tolerance=TOLERANCE[precision],
        )
        for precision, found in against_trl("pairs", name, updates, "losses").items()
    ]


# --- one side, in its own process -------------------------------------------------------------------


def _pairs(name: str, count: int) -> list[Pair]:
    """Each question's right answer against that of the question behind it, where it is another."""
    task = data(name)
    prompt, examples, found = load_prompt(task.prompt), task.practice, []
    for example, other in itertools.pairwise(examples):
        chosen, rejected = render_answer(prompt, example), render_answer(prompt, other)
        if chosen != rejected and len(found) < count:
            found.append(Pair(render(prompt, example), prompt.style, chosen, rejected, group=example.id))
    return found


def _encoded(pairs: list[Pair]) -> Any:
    from workbench.engines.encode import Encoder
    from workbench.preferring.pair_rows import rows_of_pairs

    return rows_of_pairs(pairs, Encoder(load_tokenizer(Model(EMBEDDED))), Training(max_length=2048))[0]


def _workbench(pairs: list[Pair], precision: str, folder: Path) -> dict[str, Any]:
    import torch
    from peft import get_peft_model

    from workbench.engines.forward import use_grouped_attention
    from workbench.preferring.pair_loss import PairLoss
    from workbench.preferring.pair_rows import with_reference
    from workbench.runs import Run
    from workbench.training.sft import fit

    base = load_base(Model(EMBEDDED), precision, "cpu")
    use_grouped_attention(base)
    torch.manual_seed(SEED)  # as TRL does before it makes an adapter, so that both start from the same
    weights = get_peft_model(base, lora())
    training = Training(learning_rate=RATE, batch_size=BATCH, precision=precision, save_every=10**6)
    objective = PairLoss(weights, load_tokenizer(Model(EMBEDDED)), "sigmoid", BETA, 0.0)
    with Run.open(folder, "bench", {}) as run:
        items = with_reference(_encoded(pairs), objective, run, "bench", precision, quiet=True)
        fit(weights, InOrder(items, BATCH), training, run, quiet=True, objective=objective)
    lines = [line for line in run.metrics() if "loss" in line]
    [before] = [line["seconds"] for line in run.metrics() if line.get("event") == "reference"]
    return {
        "seconds": [line["seconds"] for line in lines], "losses": [line["loss"] for line in lines],
        "before": before,
    }  # fmt: skip


def _trl(pairs: list[Pair], precision: str, folder: Path) -> dict[str, Any]:
    from datasets import Dataset
    from trl import DPOConfig, DPOTrainer

    seconds: list[float] = []

    class SameTokens(DPOTrainer):
        """Without its own tokenisation: both sides read the same tokens."""

        def _prepare_dataset(self, dataset: Any, *_: Any) -> Any:
            return dataset

    rows = []
    for group in _encoded(pairs):
        chosen, rejected = group.rows
        start = chosen.learned[0]
        rows.append(
            {
                "prompt_ids": chosen.ids[:start],
                "chosen_ids": chosen.ids[start:],
                "rejected_ids": rejected.ids[start:],
            }
        )
    settings = DPOConfig(
        output_dir=str(folder),
        seed=SEED,
        per_device_train_batch_size=BATCH,
        num_train_epochs=1,
        learning_rate=RATE,
        beta=BETA,
        warmup_steps=0,
        train_sampling_strategy="sequential",
        max_length=2048,
        logging_steps=1,
        save_strategy="no",
        report_to=[],
        use_cpu=True,
        **({} if precision == "bfloat16" else {"bf16": False}),
    )
    trainer = SameTokens(
        model=load_base(Model(EMBEDDED), precision, "cpu"),
        args=settings,
        train_dataset=Dataset.from_list(rows),
        processing_class=load_tokenizer(Model(EMBEDDED)),
        peft_config=lora(),
        callbacks=[clock(seconds)],
    )
    trainer.train()
    losses = [line["loss"] for line in trainer.state.log_history if "loss" in line]
    return {"seconds": seconds, "losses": losses, "before": 0.0}


if __name__ == "__main__":
    from workbench.cost import peak_memory_bytes

    _, side, name, precision, updates = sys.argv
    pairs = _pairs(name, int(updates) * BATCH)
    with tempfile.TemporaryDirectory() as scratch:
        found = {"workbench": _workbench, "trl": _trl}[side](pairs, precision, Path(scratch))
    # The first update is slower in either: allocations, and the optimiser's state.
    print(json.dumps(found | {"seconds": found["seconds"][1:], "peak": peak_memory_bytes()}))
