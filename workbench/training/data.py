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
from workbench.prompts import render, render_answer
from workbench.types import Example, Prompt, Request


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
    """A batch of examples as one packed sequence (see `engines/packing.py`), for `sft.PackedTrainer`."""

    def __call__(self, rows: Sequence[dict[str, list[int]]]) -> dict[str, Any]:
        """`labels` [1, M] are the tokens learned, `read_at` [M] the positions that predict them.

        `shift_labels` says that labels stand where they are predicted. The trainer divides the loss by their
        number; of labels alone it leaves the first of every micro-batch out, which here is one too few.
        """
        packed = pack([[Branch(row["prompt"], row["answer"])] for row in rows])
        return {
            "input_ids": packed.ids,
            "position_ids": packed.positions,
            "attention_mask": packed.mask,
            "read_at": packed.read_at,
            "labels": packed.targets[None],
            "shift_labels": packed.targets[None],
        }
