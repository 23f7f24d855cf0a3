"""Examples as training data: what the model reads, and what it learns to say. Loss on the answer only.

Which tokens are learned comes from the token ids of prompt and answer themselves, never from searching for
strings. The answer ends in exactly one end-of-turn token.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from workbench.engines.encode import Encoder
from workbench.engines.packing import Branch, pack
from workbench.errors import UserError
from workbench.files import write_json
from workbench.models import load_base, load_tokenizer
from workbench.prompts import render, render_answer
from workbench.runs import Run
from workbench.tasks.base import Task
from workbench.training.config import Training
from workbench.types import Example, Prompt, Request, System


def base_and_examples(
    system: System, task: Task, training: Training, run: Run
) -> tuple[Any, Encoder, list[Branch]]:
    """What a tuning method starts from: the base's weights, its encoder, and the examples as tokens.

    How many examples are learned, and how many were too long, is written into the run's `data.json`.

    Raises:
        UserError: the model has an adapter already, or cannot be loaded; no example is left.
    """
    import torch

    from workbench.engines.forward import use_grouped_attention

    if system.model.adapter is not None:
        raise UserError(
            f"A base model is tuned, and this one has the adapter {system.model.adapter!r} already, which would "
            "be lost. Leave --adapter out, or merge it into its base first (PEFT: merge_and_unload)."
        )
    torch.manual_seed(training.training_seed)
    base = load_base(system.model, training.precision, "cuda" if torch.cuda.is_available() else "cpu")
    use_grouped_attention(base)
    encoder = Encoder(load_tokenizer(system.model))
    practice = task.practice[: training.examples]
    branches, too_long = encode_examples(encoder, system.prompt, practice, training.max_length)
    write_json(run.path / "data.json", {"learned": len(branches), "too_long": too_long})
    return base, encoder, branches


def encode_examples(
    encoder: Encoder, prompt: Prompt, examples: Sequence[Example], max_tokens: int
) -> tuple[list[Branch], int]:
    """Prompt and answer tokens of every example, and how many examples were too long and left out.

    Raises:
        UserError: no example is left.
    """
    branches = []
    for example in examples:
        request = Request(example.id, render(prompt, example), style=prompt.style)
        answer = render_answer(prompt, example)
        asked, said = encoder.encode_completion(request, answer)
        if len(asked) + len(said) <= max_tokens:
            branches.append(Branch(asked, said, answer))
    if not branches:
        raise UserError(f"Every example is longer than {max_tokens} tokens; raise --max-length.")
    return branches, len(examples) - len(branches)


@dataclass(frozen=True)
class Collator:
    """A batch of examples as one packed sequence (see `engines/packing.py`), for `sft.PackedTrainer`.

    Attributes:
        virtual: positions before a prompt's first token, which a soft prompt takes.
    """

    virtual: int = 0

    def __call__(self, rows: Sequence[dict[str, list[int]]]) -> dict[str, Any]:
        """The fields of `Packed`, and under `labels` [1, M] the tokens learned, for the trainer to count.

        `shift_labels` says that labels stand where they are predicted. The trainer divides the loss by their
        number; of labels alone it leaves the first of every micro-batch out, which here is one too few.
        """
        packed = pack([[Branch(row["prompt"], row["answer"])] for row in rows], virtual=self.virtual)
        labels = packed.targets[None]
        return {**vars(packed), "labels": labels, "shift_labels": labels}
