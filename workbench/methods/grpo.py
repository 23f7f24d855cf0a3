"""GRPO (Shao et al. 2024, arXiv 2402.03300): a model learns from how its own answers are graded.

For each question of an update a group of answers is drawn from the model as it is. An answer's reward is the
task's own grade, 1 or 0, and 0 where it was cut off; its advantage is how far the reward is from its group's mean,
over their standard deviation (§4.1.2). Tokens of answers with a positive advantage become likelier, others less.
DAPO (Yu et al. 2025, arXiv 2503.14476) counts all tokens alike, which is the default; Dr. GRPO (Liu et al. 2025,
arXiv 2503.20783) divides by a constant, and goes with --scale-rewards none. Advantages and losses are TRL's.

Where it departs: every update draws its own samples and learns from them once (strictly on-policy), so that
probability ratios are 1, nothing is clipped and no ε is chosen; beta is 0 unless asked for, as in DAPO and TRL,
where the paper has 0.04. The divergence from the base is measured either way, in one more pass without gradients.
What learns is a LoRA adapter, or all weights.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from workbench.adapters import save_adapter
from workbench.command import Flat
from workbench.decodes import LONGEST, Sampling
from workbench.errors import UserError, check_range
from workbench.files import write_json
from workbench.methods.lora import Config as LoraConfig
from workbench.methods.lora import check_weights, peft_settings
from workbench.runs import Run
from workbench.tasks.base import Task
from workbench.training.card import finish
from workbench.training.config import Data, Training
from workbench.training.grpo_losses import Loss, Scale
from workbench.types import Example, Model, System

# A policy gradient's loss says nothing of how good the model is, so no band is kept by default; a loss or a
# gradient that is not finite still goes back.
_NO_BAND = 1e6


@dataclass(frozen=True)
class Config:
    """How answers are drawn, what their grades count, and how it is trained.

    Attributes:
        num_generations: answers a question.
        loss: as TRL names them. On-policy dapo, bnpo, cispo and vespo have the same gradient, a mean over all
            tokens; grpo and sapo a mean over answers of their tokens' means; luspo a mean over answers of their
            tokens' sums; dr_grpo that of luspo over the longest answer's length.
        scale_rewards: a reward's distance from its group's mean is divided by the standard deviation of the group
            or of the batch, or not at all.
        beta: weight of the KL divergence to the base in the loss. What `loss` says of luspo holds without it: the
            divergence's tokens are weighted there by the ratio of their whole answer.
        temperature: at which answers are drawn.
        longest: tokens of an answer; by default the decode's or the task's own limit.
        server: address of a vLLM server of the same model that draws the answers, as http://127.0.0.1:8000; by
            default they are drawn here. It gets the adapter before every update and must read the run's folder.
            Its samples are weighted by importance ratios, and are not the same ones when a training goes on.
        weights: what learns: a LoRA adapter, or all weights.
        lora: the adapter, where one learns, and the training: its batch_size and examples count questions, its
            micro_batch answers. Its length is that of `steps`, not of `epochs`.

    Raises:
        UserError: a value is out of range, or goes with what was not asked for.
    """

    num_generations: int = 8
    loss: Loss = "dapo"
    scale_rewards: Scale = "group"
    beta: float = 0.0
    temperature: float = 1.0
    longest: int | None = None
    server: str | None = None
    weights: Literal["lora", "all"] = "lora"
    lora: Flat[LoraConfig] = field(
        default_factory=lambda: LoraConfig(
            training=Training(
                learning_rate=1e-4, steps=100, batch_size=8, micro_batch=64, save_every=10, loss_band=_NO_BAND
            )
        )
    )

    def __post_init__(self) -> None:
        check_range("num_generations", self.num_generations, 2, 1024)
        check_range("beta", self.beta, 0, 1000)
        check_range("temperature", self.temperature, 0, 100, open_low=True)
        if self.longest is not None:
            check_range("longest", self.longest, 1, 10**6)
        training = self.lora.training
        if training.steps is not None and training.epochs != type(training).epochs:
            raise UserError(
                f"epochs is {training.epochs}, and steps, {training.steps}, is in its place: GRPO counts updates. "
                "Set --steps alone."
            )
        check_weights(self.weights, self.lora)
        if self.lora.training.data != Data():
            raise UserError("--data and what goes with it are of fine-tuning; GRPO asks the task's questions.")
        if self.server is not None and self.temperature != 1:
            raise UserError(
                f"temperature is {self.temperature:g}, and a server tells log-probabilities before the "
                "temperature: with --server it must be 1."
            )
        if self.server is not None and self.weights == "all":
            raise UserError("A server takes adapters, not whole models: --server goes with --weights lora.")


def adapt(system: System, task: Task, config: Config, run: Run, *, quiet: bool = False) -> System:
    """The system with a model in its slot that learned from its grades; prompt and decode stay as they are.

    Args:
        system: its model learns, under its prompt without exemplars.
        task: its practice questions are asked, and its grader gives the rewards.
        config: how.
        run: checkpoints, metrics, a picture of the rewards, what was trained and its card go there; a finished run
            is not run again.
        quiet: no progress bar.

    Raises:
        UserError: the model has an adapter already, the engine hf cannot run it, the server does not answer, or
            too little disk; a run that was interrupted goes on.
    """
    from workbench.training.grpo_curve import write_curve

    made = run.path / ("adapter" if config.weights == "lora" else "model")
    if not made.is_dir():
        _train(system, task, config, run, quiet)
    model = replace(system.model, adapter=str(made)) if config.weights == "lora" else Model(str(made))
    tuned = finish("GRPO", System(model, system.prompt, system.decode), task, config, run)
    run.write_card((run.path / "README.md").read_text(encoding="utf-8") + write_curve(run, config.beta))
    return tuned


def _train(system: System, task: Task, config: Config, run: Run, quiet: bool) -> None:
    import torch
    from peft import get_peft_model

    from workbench.training.batches import Examples
    from workbench.training.data import base_and_encoder, within_context
    from workbench.training.grpo_loss import GroupLoss
    from workbench.training.grpo_objective import GroupObjective
    from workbench.training.grpo_samples import questions_of
    from workbench.training.saving import save_model
    from workbench.training.sft import fit

    _check_whole_weights()
    training, whole = config.lora.training, config.weights == "all"
    base, encoder = base_and_encoder(system, training, all_weights=whole)
    adapted: Any = None if whole else get_peft_model(base, peft_settings(base, config.lora))
    weights = base.train().requires_grad_(True) if whole else adapted
    limit = getattr(system.decode, "max_tokens", None) or task.max_tokens or LONGEST
    sampling = Sampling(
        temperature=config.temperature,
        max_tokens=config.longest or limit,
        stop=system.prompt.stop,
        seed=training.training_seed,
    )
    both = within_context(base, training).max_length
    room = both - sampling.max_tokens
    if room < 2:
        raise UserError(
            f"longest is {sampling.max_tokens}, and a question and its answer may have {both} tokens together "
            "(max_length, or the model's context). Lower --longest or raise --max-length."
        )
    questions, too_long = questions_of(task.practice[: training.examples], system.prompt, encoder, room)
    about = {"source": f"{task.name}, practice split", "hash": task.hash, "format": "graded"}
    counts = {"learned": len(questions), "too_long": too_long}

    def reward(text: str, example: Example) -> float:
        # One whose check was killed gets nothing either: GRPO must give every sample a number.
        return float(task.grade(text, example).correct)

    # Whole weights are float32, and what is drawn from them is rounded as their training's passes are.
    rounded = whole and training.precision == "bfloat16"
    autocast = torch.autocast(weights.device.type, torch.bfloat16, enabled=rounded)
    loss = GroupLoss(
        encoder.tokenizer, weights.device, config.loss, config.num_generations, config.scale_rewards, config.beta,
        sampling.max_tokens, corrected=config.server is not None,
    )  # fmt: skip
    write_json(run.path / "data.json", about | counts | {"loss_is": "a token" if loss.by_token else "a sample"})
    with _sampler(weights, encoder, system.model, config, sampling, run, autocast) as sampler:
        objective = GroupObjective(
            weights, loss, sampler, reward, config.temperature, config.server is not None, autocast
        )
        fit(weights, Examples(questions, training), training, run, quiet, objective=objective)
    if whole:
        save_model(base, encoder.tokenizer, run.path / "model", training.precision)
    else:
        save_adapter(weights, system.model, run.path / "adapter")


@contextmanager
def _sampler(
    weights: Any, encoder: Any, model: Model, config: Config, sampling: Sampling, run: Run, autocast: Any
) -> Iterator[Any]:
    """Whoever draws the answers; a server forgets the adapter at the end."""
    from workbench.training.grpo_samples import HfSampler
    from workbench.training.grpo_server import ServerSampler

    count = config.num_generations
    if config.server is None:
        yield HfSampler(weights, encoder, model, sampling, count, autocast)
        return
    key = os.environ.get("WORKBENCH_API_KEY")
    server = ServerSampler(config.server, key, weights, encoder, model, run.path / "served", sampling, count)
    try:
        yield server
    finally:
        server.close()


def _check_whole_weights() -> None:
    """See that this process has all weights: it samples from them.

    Raises:
        UserError: every process holds a part of them.
    """
    for name in ("FSDP", "DEEPSPEED"):
        if os.environ.get(f"ACCELERATE_USE_{name}", "").lower() == "true":
            raise UserError(
                f"GRPO draws samples from the weights that it trains, and under {name} each process holds a part "
                "of them. Launch it with plain data parallelism (accelerate launch --multi_gpu or --cpu)."
            )
