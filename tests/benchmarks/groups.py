"""GRPO: the training step of TRL's GRPOTrainer as it comes, and the workbench's, on the same samples.

A step is a forward and a backward pass over graded samples: 8 of each question, r = 8 on all linear layers of the
embedded model, the loss dapo without KL, which is TRL's default. TRL has its defaults, among them gradient
checkpointing and, in bfloat16, autocast. Drawing the samples is no part of it. Each side runs in a process of its
own; ours runs before and after theirs, because a machine's speed drifts.
"""

import contextlib
import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from tests.benchmarks.table import Row
from tests.benchmarks.training import SEED, against_trl, data, lora
from workbench.engines.encode import Encoder
from workbench.engines.packing import rows_that_fit
from workbench.models import EMBEDDED, load_base, load_tokenizer
from workbench.prompts import load_prompt, render, render_answer
from workbench.training.grpo_loss import GroupLoss, Sample
from workbench.types import Model, Request

GROUP = 8  # samples a question
TOLERANCE = {"float32": 2e-3, "bfloat16": 0.05}  # of the gradient's norm


def short(quick: bool = False) -> list[Row]:
    """Arithmetic: 8 questions, short answers."""
    return _rows("arithmetic", "8 arithmetic questions", 3 if quick else 5)


def long(quick: bool = False) -> list[Row]:
    """GSM8K: 2 questions, worked solutions."""
    return _rows("gsm8k", "2 GSM8K questions", 2 if quick else 3)


def _rows(name: str, what: str, steps: int) -> list[Row]:
    return [
        found.row(
            what=f"GRPO's training step, {what} × {GROUP} samples, {precision}",
            baseline=f"TRL `GRPOTrainer`: {found.theirs:.2f} s",
            workbench=f"{found.ours:.2f} s",
            checked="norms of the gradient",
            floor=1.5,
            tolerance=TOLERANCE[precision],
        )
        for precision, found in against_trl("groups", name, steps, "norms").items()
    ]


# --- one side, in its own process -------------------------------------------------------------------


def _samples(name: str) -> list[Sample]:
    """Groups of a question with the right answers to eight questions, of which the first is its own."""
    task = data(name)
    encoder, prompt = Encoder(load_tokenizer(Model(EMBEDDED))), load_prompt(task.prompt)
    found = []
    for start in range(0, GROUP * (8 if name == "arithmetic" else 2), GROUP):
        asked = task.practice[start]
        request = Request(asked.id, render(prompt, asked), style=prompt.style)
        for place, other in enumerate(task.practice[start : start + GROUP]):
            ids, said = encoder.encode_completion(request, render_answer(prompt, other))
            advantage = 1.0 if place == 0 else -1.0 / (GROUP - 1)
            found.append(Sample(ids, said, advantage, [0.0] * len(said)))
    return found


def _workbench(samples: list[Sample], precision: str, folder: Path) -> Any:
    import torch
    from peft import get_peft_model

    from workbench.engines.forward import use_grouped_attention
    from workbench.training.grpo_objective import GroupObjective

    base = load_base(Model(EMBEDDED), precision, "cpu")
    use_grouped_attention(base)
    torch.manual_seed(SEED)
    weights = get_peft_model(base, lora())
    loss = GroupLoss(load_tokenizer(Model(EMBEDDED)), "cpu", "dapo", GROUP)
    objective = GroupObjective(
        weights, loss, sampler=None, reward=None, temperature=1.0, others_draw=False,
        autocast=contextlib.nullcontext(),
    )  # fmt: skip
    objective.train()

    def step() -> float:
        rest, units = samples, objective.units(samples)
        while rest:
            count = rows_that_fit([objective.rows(item) for item in rest], 1024)
            part, rest = rest[:count], rest[count:]
            (objective(objective.collate(part)) / units).backward()
        return _norm(weights)

    return step


def _trl(samples: list[Sample], precision: str, folder: Path) -> Any:
    import torch
    from datasets import Dataset
    from trl import GRPOConfig, GRPOTrainer
    from trl.trainer.utils import pad

    tokenizer = load_tokenizer(Model(EMBEDDED))

    def rows(values: list[list[int]], side: str, filler: int) -> Any:
        return pad([torch.tensor(v) for v in values], padding_value=filler, padding_side=side)

    prompts, answers = [s.prompt for s in samples], [s.answer for s in samples]
    inputs = {
        "prompt_ids": rows(prompts, "left", tokenizer.pad_token_id),
        "prompt_mask": rows([[1] * len(p) for p in prompts], "left", 0),
        "completion_ids": rows(answers, "right", tokenizer.pad_token_id),
        "completion_mask": rows([[1] * len(a) for a in answers], "right", 0),
        "advantages": torch.tensor([s.advantage for s in samples]),
        "num_items_in_batch": torch.tensor(float(sum(map(len, answers)))),
    }

    class SameSamples(GRPOTrainer):
        """Without drawing: both sides learn from the same samples."""

        def _prepare_inputs(self, _: Any) -> Any:
            return inputs

    settings = GRPOConfig(
        output_dir=str(folder),
        seed=SEED,
        per_device_train_batch_size=len(samples),
        num_generations=GROUP,
        report_to=[],
        use_cpu=True,
        **({} if precision == "bfloat16" else {"bf16": False}),
    )
    trainer = SameSamples(
        model=load_base(Model(EMBEDDED), precision, "cpu"),
        reward_funcs=lambda **_: [],
        args=settings,
        train_dataset=Dataset.from_list([{"prompt": "a"}]),
        processing_class=tokenizer,
        peft_config=lora(),
    )
    trainer.current_gradient_accumulation_steps = 1
    trainer.model.train()

    def step() -> float:
        trainer.training_step(trainer.model, None, None)
        return _norm(trainer.model)

    return step


def _norm(weights: Any) -> float:
    """The gradient's norm; the gradient is then gone."""
    squares = [float(w.grad.float().pow(2).sum()) for w in weights.parameters() if w.grad is not None]
    weights.zero_grad()
    return float(sum(squares) ** 0.5)


if __name__ == "__main__":
    from workbench.cost import peak_memory_bytes

    _, side, name, precision, steps = sys.argv
    seconds, norms = [], []
    with tempfile.TemporaryDirectory() as scratch:
        step = {"workbench": _workbench, "trl": _trl}[side](_samples(name), precision, Path(scratch))
        for _ in range(int(steps) + 1):
            started = time.perf_counter()
            norms.append(step())
            seconds.append(time.perf_counter() - started)
    # The first step is slower in either: allocations.
    print(json.dumps({"seconds": seconds[1:], "norms": norms, "peak": peak_memory_bytes()}))
