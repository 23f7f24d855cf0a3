"""LoRA (Hu et al. 2021, arXiv 2106.09685): W + (α/r)·BA on chosen linear layers, everything else frozen.

B starts at zero, so the model starts as it was. The model learns the answers that the prompt's shot shows, on
the practice split, through PEFT and TRL. The adapter is in PEFT's format: any tool that reads those reads it.
"""

import shutil
from dataclasses import dataclass, field
from typing import Literal

from workbench.command import Flat
from workbench.errors import UserError, check_range
from workbench.files import read_json, write_json
from workbench.models import load_tokenizer, load_weights
from workbench.runs import Run
from workbench.tasks.base import Task
from workbench.training.card import cost_of, model_card
from workbench.training.config import Training
from workbench.types import Model, System

TARGETS = {
    "all-linear": "all-linear",
    "attention": ["q_proj", "k_proj", "v_proj", "o_proj"],
    "mlp": ["gate_proj", "up_proj", "down_proj"],
    "qv": ["q_proj", "v_proj"],
}


@dataclass(frozen=True)
class Config:
    """LoRA's own settings and how it is trained.

    Attributes:
        rank: r, the rank of the update.
        alpha: α; the update is scaled by α/r. By default 2r, so that the scale stays 2 at every rank.
        targets: which linear layers learn. Names are those of Llama-like models; `all-linear` fits any.
        training: how it is trained.

    Raises:
        UserError: a value is out of range; the message names the field.
    """

    rank: int = 8
    alpha: float | None = None
    targets: Literal["all-linear", "attention", "mlp", "qv"] = "all-linear"
    training: Flat[Training] = field(default_factory=Training)

    def __post_init__(self) -> None:
        check_range("rank", self.rank, 1, 4096)
        if self.alpha is not None:
            check_range("alpha", self.alpha, 0, 1e6, open_low=True)


def adapt(system: System, task: Task, config: Config, run: Run, *, quiet: bool = False) -> System:
    """The system with a LoRA adapter in its model slot; prompt and decode stay as they are.

    Args:
        system: its model is tuned on its prompt without exemplars.
        task: its practice split is learned.
        config: LoRA's settings.
        run: checkpoints, metrics, the adapter and the model card go there; a finished run is not run again.
        quiet: no progress bar.

    Raises:
        UserError: the model has an adapter already, or too little disk; a run that was interrupted goes on.
    """
    if system.model.adapter is not None:
        raise UserError(
            f"LoRA tunes a base model, and this one has the adapter {system.model.adapter!r} already, which would "
            "be lost. Leave --adapter out, or merge it into its base first (PEFT: merge_and_unload)."
        )
    adapter = run.path / "adapter"
    if not adapter.is_dir():
        _train(system, task, config, run, quiet)
    model = Model(system.model.base, system.model.revision, str(adapter))
    tuned = System(model, system.prompt, system.decode)
    run.write_system(tuned)
    learned = read_json(run.path / "data.json")["learned"]
    run.write_card(model_card("LoRA", tuned, task, config, learned, cost_of(run)))
    return tuned


def _train(system: System, task: Task, config: Config, run: Run, quiet: bool) -> None:
    import torch
    from peft import LoraConfig, get_peft_model

    from workbench.engines.encode import Encoder
    from workbench.engines.forward import use_grouped_attention
    from workbench.training.data import encode_examples
    from workbench.training.sft import fit

    training = config.training
    torch.manual_seed(training.training_seed)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    base = load_weights(system.model, training.precision, device)
    use_grouped_attention(base)
    encoder = Encoder(load_tokenizer(system.model))
    practice = task.practice[: training.examples]
    branches, too_long = encode_examples(encoder, system.prompt, practice, training.max_length)
    write_json(run.path / "data.json", {"learned": len(branches), "too_long": too_long})

    settings = LoraConfig(
        r=config.rank,
        lora_alpha=config.alpha or 2 * config.rank,
        target_modules=TARGETS[config.targets],
        lora_dropout=0.0,
        bias="none",
        task_type="CAUSAL_LM",
    )
    weights = get_peft_model(base, settings)
    fit(weights, encoder.tokenizer, branches, training, run, quiet)
    # The adapter appears under its name only when all of it is there.
    scratch = run.path / ".adapter"
    shutil.rmtree(scratch, ignore_errors=True)
    weights.save_pretrained(scratch, safe_serialization=True)
    scratch.rename(run.path / "adapter")
