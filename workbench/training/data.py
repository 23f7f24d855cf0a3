"""From examples to training data: what the model reads, and which tokens of it it learns to say.

Which tokens are learned comes from the token ids of prompt and answer themselves, never from searching for
strings. The answer ends in exactly one end-of-turn token.
"""

from collections.abc import Sequence
from typing import Any

from workbench.engines.encode import Encoder
from workbench.engines.packing import Tokens
from workbench.errors import UserError
from workbench.files import write_json
from workbench.models import load_base, load_tokenizer
from workbench.prompts import render, render_answer
from workbench.runs import Run
from workbench.tasks.base import Task
from workbench.training.batches import Examples, Source
from workbench.training.config import Training
from workbench.types import Example, Prompt, Request, System


def base_and_source(
    system: System, task: Task, training: Training, run: Run, *, all_weights: bool = False
) -> tuple[Any, Encoder, Source]:
    """What a tuning method starts from: the base's weights, its encoder, and the batches to learn from.

    How many examples are learned, and how many were too long, is written into the run's `data.json`.

    Args:
        system: its model is tuned, on its prompt.
        task: its practice split is learned.
        training: how.
        run: where `data.json` goes.
        all_weights: the base itself is trained, so it is loaded in float32.

    Raises:
        UserError: the model has an adapter already, or cannot be loaded; no example is left.
    """
    base, encoder = base_and_encoder(system, training, all_weights=all_weights)
    practice = task.practice[: training.examples]
    examples, too_long = encode_examples(encoder, system.prompt, practice, training.max_length)
    write_json(run.path / "data.json", {"learned": len(examples), "too_long": too_long})
    return base, encoder, Examples(examples, training)


def base_and_encoder(system: System, training: Training, *, all_weights: bool = False) -> tuple[Any, Encoder]:
    """The base's weights and its encoder; arguments and errors as in `base_and_source`."""
    import torch

    from workbench.engines.forward import use_grouped_attention

    if system.model.adapter is not None:
        raise UserError(
            f"A base model is tuned, and this one has the adapter {system.model.adapter!r} already, which would "
            "be lost. Leave --adapter out, or merge it into its base first (PEFT: merge_and_unload)."
        )
    torch.manual_seed(training.training_seed)
    dtype = "float32" if all_weights else training.precision
    base = load_base(system.model, dtype, "cuda" if torch.cuda.is_available() else "cpu")
    use_grouped_attention(base)
    return base, Encoder(load_tokenizer(system.model))


def encode_examples(
    encoder: Encoder, prompt: Prompt, examples: Sequence[Example], max_tokens: int
) -> tuple[list[Tokens], int]:
    """Prompt and answer of every example as tokens, and how many examples were too long and left out.

    Raises:
        UserError: no example is left.
    """
    kept = []
    for example in examples:
        request = Request(example.id, render(prompt, example), style=prompt.style)
        asked, said = encoder.encode_completion(request, render_answer(prompt, example))
        if len(asked) + len(said) <= max_tokens:
            ids = [*asked, *said]
            kept.append(Tokens(ids, list(range(len(asked), len(ids)))))
    if not kept:
        raise UserError(f"Every example is longer than {max_tokens} tokens; raise --max-length.")
    return kept, len(examples) - len(kept)
