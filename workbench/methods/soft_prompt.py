"""Soft prompts: a few virtual tokens before every prompt are learned, and the model stays as it is.

Prompt tuning (Lester et al. 2021, arXiv 2104.08691) learns the virtual tokens' k × d input embeddings; prefix
tuning (Li & Liang 2021, arXiv 2101.00190) their keys and values in every layer, k × layers × 2 × d_kv, where d_kv
is the width of the keys: under grouped-query attention less than d.

Where it departs from the papers: the optimiser is AdamW, as for every method here, not Adafactor; prefixes are
learned as they are, without the reparametrising network of Li & Liang §4.3, and start as the keys and values
that the model itself gives to the initial embeddings. The adapter is in PEFT's format, with virtual tokens before
the chat template's first.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Literal

from workbench.adapters import save_adapter
from workbench.command import Flat
from workbench.errors import UserError, check_range
from workbench.prompts import render
from workbench.runs import Run
from workbench.tasks.base import Task
from workbench.training.card import finish
from workbench.training.config import Training
from workbench.types import Prompt, System

_FREQUENT = 5000  # Lester §3.2 draws from the 5,000 most frequent tokens; a BPE numbers the frequent ones first


@dataclass(frozen=True)
class PromptTuning:
    """Virtual tokens, what they start as, and how they are trained.

    Attributes:
        tokens: k, how many virtual tokens.
        init: what they start as: the embeddings of a text's tokens, of the labels' words, of tokens drawn from
            the vocabulary, or random numbers of the same spread.
        init_text: the text for `text`, repeated or cut to k tokens; by default what the prompt itself says
            around the question.
        training: how they are trained.

    Raises:
        UserError: a value is out of range; the message names the field.
    """

    name: ClassVar[str] = "prompt tuning"

    tokens: int = 20
    init: Literal["text", "labels", "vocabulary", "random"] = "text"
    init_text: str | None = None
    training: Flat[Training] = field(default_factory=lambda: Training(learning_rate=0.3))

    def __post_init__(self) -> None:
        check_range("tokens", self.tokens, 1, 10_000)
        if self.init_text is not None and (self.init != "text" or not self.init_text.strip()):
            raise UserError("init_text is the text that --init text starts from: it needs words, and that init.")


@dataclass(frozen=True)
class PrefixTuning(PromptTuning):
    """As prompt tuning, for the virtual tokens' keys and values."""

    name: ClassVar[str] = "prefix tuning"

    tokens: int = 10
    training: Flat[Training] = field(default_factory=lambda: Training(learning_rate=0.03))


def by_length(config: PromptTuning, lengths: Sequence[int]) -> dict[str, PromptTuning]:
    """The settings with each of several numbers of virtual tokens, by name; as they are where there are none."""
    return {f"tokens-{tokens}": replace(config, tokens=tokens) for tokens in lengths or (config.tokens,)}


def adapt(system: System, task: Task, config: PromptTuning, run: Run, *, quiet: bool = False) -> System:
    """The system with a soft prompt in its model slot; prompt and decode stay as they are.

    Args:
        system: virtual tokens are learned for its model under its prompt, without exemplars.
        task: its practice split is learned.
        config: `PromptTuning` or `PrefixTuning`.
        run: checkpoints, metrics, the adapter and the model card go there; a finished run is not run again.
        quiet: no progress bar.

    Raises:
        UserError: the model has an adapter already, there are no labels to start from, or too little disk; a run
            that was interrupted goes on.
    """
    adapter = run.path / "adapter"
    if not adapter.is_dir():
        _train(system, task, config, run, quiet)
    tuned = replace(system, model=replace(system.model, adapter=str(adapter)))
    return finish(config.name, tuned, task, config, run)


def _train(system: System, task: Task, config: PromptTuning, run: Run, quiet: bool) -> None:
    from workbench.training.data import base_and_source
    from workbench.training.sft import fit

    base, encoder, source = base_and_source(system, task, config.training, run, virtual=config.tokens)
    start_kD = initial_embeddings(base, encoder, system.prompt, task, config)
    weights = with_soft_prompt(base, start_kD, prefix=isinstance(config, PrefixTuning))
    fit(weights, source, config.training, run, quiet)
    save_adapter(weights, system.model, run.path / "adapter")


def with_soft_prompt(base: Any, start_kD: Any, *, prefix: bool) -> Any:
    """The model with virtual tokens that start as these embeddings [k, d], or as their keys and values (PEFT)."""
    import torch
    from peft import PrefixTuningConfig, PromptTuningConfig, get_peft_model

    from workbench.engines.soft_prompt import keys_of
    from workbench.models import quiet_transformers

    count = start_kD.shape[0]
    with torch.no_grad(), quiet_transformers():
        if prefix:
            layers = keys_of(base, start_kD[None]).layers
            # PEFT's row of a token: layer after layer its key, then its value, head after head.
            states = [states[0] for layer in layers for states in (layer.keys, layer.values)]
            start = torch.stack(states).permute(2, 0, 1, 3).reshape(count, -1)
            weights = get_peft_model(base, PrefixTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=count))
        else:
            start = start_kD
            weights = get_peft_model(base, PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=count))
        table = weights.prompt_encoder["default"].embedding.weight
        table.copy_(start)
    return weights


def initial_embeddings(base: Any, encoder: Any, prompt: Prompt, task: Task, config: PromptTuning) -> Any:
    """What the virtual tokens start as, float32 [k, d].

    Raises:
        UserError: `labels` on a task that has none.
    """
    import torch

    table_VD = base.get_input_embeddings().weight.detach().float()
    count, seed = config.tokens, config.training.training_seed
    if config.init == "random":
        generator = torch.Generator().manual_seed(seed)
        noise = torch.randn(count, table_VD.shape[1], generator=generator)
        return noise.to(table_VD.device) * table_VD.std()
    special = set(encoder.tokenizer.all_special_ids)
    frequent = [i for i in range(min(_FREQUENT, len(table_VD))) if i not in special]
    drawn = random.Random(seed).choices(frequent, k=count)
    if config.init == "vocabulary":
        return table_VD[drawn]
    if config.init == "labels":
        if not task.labels:
            raise UserError(f"The task {task.name!r} has no labels to start from; use --init text.")
        # One virtual token a label, the mean of its tokens (Lester §3.2); the rest from the vocabulary.
        means = [table_VD[encoder.encode_text(label)].mean(0) for label in task.labels]
        return torch.stack([*means, *table_VD[drawn]][:count])
    tokens = encoder.encode_text(config.init_text or _around_the_question(prompt, task))
    return table_VD[[tokens[i % len(tokens)] for i in range(count)]]


def _around_the_question(prompt: Prompt, task: Task) -> str:
    """What a prompt says whatever the question is, without exemplars."""
    example = task.practice[0]
    messages = render(prompt, example)
    return " ".join(" ".join(m.content.replace(example.input, " ").split()) for m in messages).strip() or "Answer:"
