"""From examples to training data: what the model reads, and which tokens of it it learns to say.

Which tokens are learned comes from the token ids of prompt and answer themselves, never from searching for
strings. The answer ends in exactly one end-of-turn token.
"""

import sys
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from workbench.engines.encode import Encoder
from workbench.engines.packing import Tokens
from workbench.errors import UserError
from workbench.files import read_json, write_json
from workbench.launch import device, is_helper
from workbench.models import context_of, is_packed, load_base, load_tokenizer
from workbench.prompts import render, render_answer
from workbench.runs import Run
from workbench.tasks.base import Task
from workbench.training.batches import Examples, Source
from workbench.training.config import Training
from workbench.training.sources import Counts, encode_row, fitted, hash_of, nothing_fits, rows_of, source_of
from workbench.training.stream import Stream
from workbench.types import Example, Prompt, Request, System


def base_and_source(
    system: System, task: Task, training: Training, run: Run, *, all_weights: bool = False, virtual: int = 0
) -> tuple[Any, Encoder, Source]:
    """What a tuning method starts from: the base's weights, its encoder, and the batches to learn from.

    What is learned, and how much of it was too long, is written into the run's `data.json`:

        source, hash     what the data are, and the hash that tells other data
        format           chat, prompt-completion, text, or practice: the prompt with its answers
        learned          examples that are learned from; of a stream those that its steps take
        too_long         examples left out for their length; of a stream as they are come to
        truncated        examples whose end was cut off
        tokens           of what is learned from, as it is read (not of a stream)
        learned_tokens   those of them that are learned (not of a stream)

    Args:
        system: its model is tuned, on its prompt.
        task: its practice split is learned, unless the training names other data.
        training: how, and on what.
        run: where `data.json` goes.
        all_weights: the base itself is trained, so it is loaded in float32.
        virtual: positions that a soft prompt's virtual tokens take.

    Raises:
        UserError: the model has an adapter already, or cannot be loaded; the data cannot be read, are not those
            that the run began with, or no example is left.
    """
    data = training.data
    about: dict[str, Any] = {"source": f"{task.name}, practice split", "hash": task.hash, "format": "practice"}
    if data.data is not None:
        about = {"source": source_of(data), "hash": hash_of(data), "format": data.data_format}
    record = run.path / "data.json"
    before = about | (read_json(record) if record.exists() else {})
    if before["hash"] != about["hash"]:
        raise UserError(
            f"{run.path} was begun with the data {before['source']} (hash {before['hash']}), and now they are "
            f"{about['source']} (hash {about['hash']}). Give this run another --name, or --overwrite."
        )
    base, encoder = base_and_encoder(system, training, all_weights=all_weights)
    training = within_context(base, training, virtual)
    if data.stream:
        source = Stream(encoder, training, record)
        learned = source.updates * training.batch_size
        write_json(record, {"too_long": 0, "truncated": 0, **before, **about, "learned": learned})
        return base, encoder, source
    examples, counts, formats = learnable(encoder, system.prompt, task, training)
    for line in [] if is_helper() else counts.too_long_lines(training):
        print(line, file=sys.stderr, flush=True)
    write_json(record, about | {"format": ", ".join(sorted(formats))} | counts.as_json())
    return base, encoder, Examples(examples, training)


def within_context(weights: Any, training: Training, virtual: int = 0) -> Training:
    """The training with examples no longer than the model's positions (a sliding window's, where it has one)."""
    return replace(training, max_length=min(training.max_length, context_of(weights) - virtual))


def learnable(
    encoder: Encoder, prompt: Prompt, task: Task, training: Training
) -> tuple[list[Tokens], Counts, set[str]]:
    """Examples that fit, what became of all, and their formats.

    Raises:
        UserError: the data cannot be read, or no example is left.
    """
    kept, counts, formats = [], Counts(), set()
    for form, example in encoded(encoder, prompt, task, training):
        fits = fitted(example, training)
        counts.add(example, fits)
        formats.add(form)
        if fits is not None:
            kept.append(fits)
    if not kept:
        raise nothing_fits(training)
    return kept, counts, formats


def encoded(encoder: Encoder, prompt: Prompt, task: Task, training: Training) -> Iterator[tuple[str, Tokens]]:
    """(format, example) of everything that is to be learned, long ones too, in the order of the data."""
    data = training.data
    if data.data is None:
        for example in task.practice[: training.examples]:
            yield "practice", encode_example(encoder, prompt, example)
        return
    for number, row in rows_of(data, training.examples):
        yield encode_row(encoder, data, number, row)


def base_and_encoder(system: System, training: Training, *, all_weights: bool = False) -> tuple[Any, Encoder]:
    """The base's weights and its encoder; arguments and errors as in `base_and_source`."""
    import torch

    from workbench.engines.forward import use_grouped_attention

    if system.model.adapter is not None:
        raise UserError(
            f"A base model is tuned, and this one has the adapter {system.model.adapter!r} already, which would "
            "be lost. Leave --adapter out, or merge it into its base first (`workbench adapter merge`)."
        )
    if all_weights and is_packed(system.model):
        raise UserError(
            "The model's own weights are to be trained, and they are quantised, which freezes them. Leave "
            "--quantization out, or name the dense model; `workbench lora` trains an adapter beside them."
        )
    torch.manual_seed(training.training_seed)
    dtype = "float32" if all_weights else training.precision
    base = load_base(system.model, dtype, device())
    try:
        use_grouped_attention(base)
    except UserError:  # then it is trained with its own attention, on rows that are padded
        print(f"{base.config.model_type} takes no mask of a packed batch: batches are padded.", file=sys.stderr)
    return base, Encoder(load_tokenizer(system.model))


def encode_example(encoder: Encoder, prompt: Prompt, example: Example) -> Tokens:
    """The prompt that asks an example's question, read, and the answer that its shot shows, learned."""
    request = Request(example.id, render(prompt, example), style=prompt.style)
    asked, said = encoder.encode_completion(request, render_answer(prompt, example))
    ids = [*asked, *said]
    return Tokens(ids, list(range(len(asked), len(ids))))
