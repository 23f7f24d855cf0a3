"""LoRA training: TRL's SFTTrainer as it comes, and the workbench, on the same tokens in the same batches.

Both train r = 8 on all linear layers of the embedded model, AdamW, 16 examples an update. TRL has its defaults,
among them gradient checkpointing and, in bfloat16, autocast. In float32 the losses agree. In bfloat16 two ways of
rounding 30 layers differ, the more the longer the texts, and each is held against the losses in float32. Each
side runs in a process of its own, so that peak memory is its own; ours runs before and after theirs, because a
machine's speed drifts.
"""

import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.benchmarks.labels import phrasebank
from tests.benchmarks.table import DATA, ROOT, Row, Skip
from workbench.engines.packing import Tokens
from workbench.models import EMBEDDED, load_base, load_tokenizer
from workbench.prompts import load_prompt
from workbench.tasks import load_task
from workbench.tasks.base import Task
from workbench.training.config import Training
from workbench.types import Model

BATCH, RATE, SEED = 16, 2e-4, 0
TOLERANCE = {"float32": 1e-3, "bfloat16": 0.02}  # of a loss


def labels(quick: bool = False) -> list[Row]:
    """Classification prompts: a long shared instruction, an answer of one word."""
    updates = 3 if quick else 6
    return _rows("phrasebank", "Financial PhraseBank, one-word answers", updates, 2.5)


def solutions(quick: bool = False) -> list[Row]:
    """Worked solutions: little is shared, much is learned."""
    return _rows("gsm8k", "GSM8K solutions", 2 if quick else 4, 1.3)


def _rows(name: str, what: str, updates: int, floor: float) -> list[Row]:
    return [
        found.row(
            what=f"LoRA training, {what}, {updates} updates of {BATCH}, {precision}",
            baseline=f"TRL `SFTTrainer`: {BATCH / found.theirs:.2f} examples/s",
            workbench=f"{BATCH / found.ours:.2f} examples/s",
            checked=f"losses of the {updates} updates",
            floor=floor,
            tolerance=TOLERANCE[precision],
        )
        for precision, found in against_trl("training", name, updates, "losses").items()
    ]


@dataclass(frozen=True)
class AgainstTrl:
    """What the two sides took and computed.

    Attributes:
        theirs, ours: seconds an update, the median; of our two runs the slower one, with its share of what comes
            before the first update.
        apart: the largest difference of our numbers, as a share: in float32 from theirs, in bfloat16 from those
            in float32.
        rounded: the same of their numbers in bfloat16; None in float32.
        memory: peak bytes of each.
    """

    theirs: float
    ours: float
    apart: float
    rounded: float | None
    memory: tuple[int, int]

    def row(self, what: str, baseline: str, workbench: str, checked: str, floor: float, tolerance: float) -> Row:
        """The table's row: each side with its memory; it passes where it is fast enough and computes the same.

        In bfloat16 the same is: as near to float32 as the tolerance, or as TRL is.
        """
        faster = self.theirs / self.ours
        apart, allowed = f"{checked} at most {100 * self.apart:.2g} % apart", tolerance
        if self.rounded is not None:
            apart = f"{checked} at most {100 * self.apart:.2g} % from float32's, TRL's {100 * self.rounded:.2g} %"
            allowed = max(tolerance, self.rounded)
        theirs, ours = (f"{peak / 2**30:.2f} GiB" for peak in self.memory)
        return Row(
            what=what,
            baseline=f"{baseline}, {theirs}",
            workbench=f"{workbench}, {ours}",
            result=f"{faster:.1f}×",
            floor=f"≥ {floor:g}×",
            checked=apart,
            passed=faster >= floor and self.apart <= allowed,
        )


def against_trl(module: str, name: str, updates: int, compared: str) -> dict[str, AgainstTrl]:
    """Run a module's two sides by precision, ours before and after theirs, each in a process of its own.

    Args:
        module: whose command line runs one side.
        name: whose data are trained on.
        updates: how many are timed.
        compared: the numbers that must be the same on both sides, by the name under which a side tells them.

    Raises:
        Skip: the data are not at hand.
    """
    data(name)
    sides, found = ("workbench", "trl", "workbench"), {}
    exact: list[float] = []  # our numbers in float32
    for precision in ("float32", "bfloat16"):
        ours, theirs, again = (in_a_process(module, side, name, precision, updates) for side in sides)
        found[precision] = AgainstTrl(
            theirs=statistics.median(theirs["seconds"]),
            ours=max(statistics.median(s["seconds"]) + s.get("before", 0.0) / updates for s in (ours, again)),
            apart=_apart(ours[compared], exact or theirs[compared]),
            rounded=_apart(theirs[compared], exact) if exact else None,
            memory=(theirs["peak"], ours["peak"]),
        )
        exact = ours[compared]
    return found


def _apart(numbers: list[float], others: list[float]) -> float:
    """The largest difference, as a share of the others."""
    return max(abs(a - b) / b for a, b in zip(numbers, others, strict=True))


def data(name: str) -> Task:
    """A benchmark's task.

    Raises:
        Skip: its data are not at hand.
    """
    if name == "phrasebank":
        return phrasebank(1)
    if name == "arithmetic":
        return load_task("arithmetic", {})
    folder = DATA / "gsm8k"
    if not folder.is_dir():
        raise Skip(f"the data set is not at {folder}")
    return load_task("gsm8k", {"path": str(folder)})


def in_a_process(module: str, side: str, name: str, precision: str, updates: int) -> dict[str, Any]:
    """What a benchmark's module prints as JSON when it is run for one side."""
    command = [sys.executable, "-m", f"tests.benchmarks.{module}", side, name, precision, str(updates)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(done.stderr[-3000:])
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    per_update = statistics.median(found["seconds"])
    print(f"  {side}, {name}, {precision}: {per_update:.2f} s an update", file=sys.stderr, flush=True)
    return found


# --- one side, in its own process -------------------------------------------------------------------


class InOrder:
    """A source that gives the examples in their order."""

    def __init__(self, examples: list[Any], size: int) -> None:
        self.examples, self.size = examples, size
        self.updates = len(examples) // size

    def batches(self, position: int = 0) -> Iterator[tuple[list[Any], int]]:
        for start in range(position, len(self.examples), self.size):
            yield self.examples[start : start + self.size], start + self.size


def _examples(name: str, count: int) -> list[Tokens]:
    from workbench.engines.encode import Encoder
    from workbench.training.data import encode_example

    task = data(name)
    encoder, prompt = Encoder(load_tokenizer(Model(EMBEDDED))), load_prompt(task.prompt)
    return [encode_example(encoder, prompt, example) for example in task.practice[:count]]


def clock(seconds: list[float]) -> Any:
    """A callback for a Trainer that notes the seconds of each update."""
    from transformers import TrainerCallback

    class Clock(TrainerCallback):
        def on_step_begin(self, *_: Any, **__: Any) -> None:
            self.started = time.perf_counter()

        def on_step_end(self, *_: Any, **__: Any) -> None:
            seconds.append(time.perf_counter() - self.started)

    return Clock()


def lora() -> Any:
    from peft import LoraConfig

    return LoraConfig(r=8, lora_alpha=16, target_modules="all-linear", task_type="CAUSAL_LM")


def _workbench(examples: list[Tokens], precision: str, folder: Path) -> tuple[list[float], list[float]]:
    import torch
    from peft import get_peft_model

    from workbench.engines.forward import use_grouped_attention
    from workbench.runs import Run
    from workbench.training.sft import fit

    base = load_base(Model(EMBEDDED), precision, "cpu")
    use_grouped_attention(base)
    torch.manual_seed(SEED)  # as TRL does before it makes an adapter, so that both start from the same
    training = Training(learning_rate=RATE, batch_size=BATCH, precision=precision, save_every=10**6)
    with Run.open(folder, "bench", {}) as run:
        fit(get_peft_model(base, lora()), InOrder(examples, BATCH), training, run, quiet=True)
    lines = [line for line in run.metrics() if "loss" in line]
    return [line["seconds"] for line in lines], [line["loss"] for line in lines]


def _trl(examples: list[Tokens], precision: str, folder: Path) -> tuple[list[float], list[float]]:
    from datasets import Dataset
    from trl import SFTConfig, SFTTrainer

    seconds: list[float] = []
    rows = [
        {"input_ids": e.ids, "completion_mask": [int(i >= e.learned[0]) for i in range(len(e.ids))]}
        for e in examples
    ]
    settings = SFTConfig(
        output_dir=str(folder),
        seed=SEED,
        per_device_train_batch_size=BATCH,
        num_train_epochs=1,
        learning_rate=RATE,
        warmup_steps=0,
        train_sampling_strategy="sequential",
        completion_only_loss=True,  # it would be found out from columns that tokenised data do not have
        logging_steps=1,
        save_strategy="no",
        report_to=[],
        use_cpu=True,
        **({} if precision == "bfloat16" else {"bf16": False}),
    )
    trainer = SFTTrainer(
        model=load_base(Model(EMBEDDED), precision, "cpu"),
        args=settings,
        train_dataset=Dataset.from_list(rows),
        processing_class=load_tokenizer(Model(EMBEDDED)),
        peft_config=lora(),
        callbacks=[clock(seconds)],
    )
    trainer.train()
    return seconds, [line["loss"] for line in trainer.state.log_history if "loss" in line]


if __name__ == "__main__":
    from workbench.cost import peak_memory_bytes

    _, side, name, precision, updates = sys.argv
    examples = _examples(name, int(updates) * BATCH)
    with tempfile.TemporaryDirectory() as scratch:
        seconds, losses = {"workbench": _workbench, "trl": _trl}[side](examples, precision, Path(scratch))
    # The first update is slower in either: allocations, and the optimiser's state.
    print(json.dumps({"seconds": seconds[1:], "losses": losses, "peak": peak_memory_bytes()}))
