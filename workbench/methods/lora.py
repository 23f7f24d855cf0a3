"""LoRA (Hu et al. 2021, arXiv 2106.09685) and its kin: W + s·BA on chosen linear layers, everything else frozen.

B starts at zero, so the model starts as it was. The scale s is α/r; under rsLoRA (Kalajdzievski 2023,
arXiv 2312.03732, §3.2) α/√r, which lets high ranks learn as fast as low ones at one α. DoRA (Liu et al. 2024,
arXiv 2402.09353, §4.1) learns each output row's magnitude apart from its direction: m·(W + s·BA)/‖W + s·BA‖,
where m starts as the norms of W; its gradient treats the norms below the line as constants (§4.3).

A layer from d_in to d_out has r·(d_in + d_out) trained parameters, and d_out more under DoRA. The model learns the
answers that the prompt's shot shows, through PEFT. Unlike the paper's, A starts uniform, as PEFT has it, and not
Gaussian. The adapter is in PEFT's format: any tool that reads those reads it, but vLLM 0.32 reads no DoRA.
"""

from dataclasses import dataclass, field, replace
from typing import Any

from workbench.adapters import save_adapter
from workbench.command import Flat
from workbench.errors import UserError, check_range, unknown_name
from workbench.quantization import linear_layers
from workbench.runs import Run
from workbench.tasks.base import Task
from workbench.training.card import finish
from workbench.training.config import Training
from workbench.types import System

TARGETS: dict[str, str | list[str]] = {
    "all-linear": "all-linear",
    "attention": ["q_proj", "k_proj", "v_proj", "o_proj"],
    "mlp": ["gate_proj", "up_proj", "down_proj"],
    "qv": ["q_proj", "v_proj"],
}

RSLORA_ALPHA = 16.0
"""rsLoRA's α where none is given: the same at every rank, and LoRA's own at rank 8."""


@dataclass(frozen=True)
class Config:
    """LoRA's own settings and how it is trained.

    Attributes:
        rank: r, the rank of the update.
        alpha: α; the update is scaled by α/r, under rsLoRA by α/√r. By default 2r, so that LoRA's scale stays 2 at
            every rank, and 16 at every rank under rsLoRA. A number is kept at every rank.
        targets: which linear layers learn: all-linear, attention, mlp or qv, where the names of the last three are
            those of Llama-like models; or modules by their own names, parted by commas.
        rslora: scale by α/√r.
        dora: learn the magnitude of each layer's rows apart from their direction.
        training: how it is trained.

    Raises:
        UserError: a value is out of range; the message names the field.
    """

    rank: int = 8
    alpha: float | None = None
    targets: str = "all-linear"
    rslora: bool = False
    dora: bool = False
    training: Flat[Training] = field(default_factory=Training)

    def __post_init__(self) -> None:
        check_range("rank", self.rank, 1, 4096)
        if self.alpha is not None:
            check_range("alpha", self.alpha, 0, 1e6, open_low=True)


def check_weights(weights: str, config: Config) -> None:
    """See that LoRA's own settings are not given where all weights learn.

    Raises:
        UserError: one is.
    """
    for name in ("rank", "alpha", "targets", "rslora", "dora") if weights == "all" else ():
        if getattr(config, name) != getattr(type(config), name):
            raise UserError(f"--{name} is LoRA's, and with --weights all there is no LoRA.")


def adapt(system: System, task: Task, config: Config, run: Run, *, quiet: bool = False) -> System:
    """The system with a LoRA adapter in its model slot; prompt and decode stay as they are.

    Args:
        system: its model is tuned on its prompt without exemplars. A quantised base makes it QLoRA.
        task: its practice split is learned.
        config: LoRA's settings.
        run: checkpoints, metrics, the adapter and the model card go there; a finished run is not run again.
        quiet: no progress bar.

    Raises:
        UserError: the model has an adapter already or no such modules, or too little disk; a run that was
            interrupted goes on.
    """
    adapter = run.path / "adapter"
    if not adapter.is_dir():
        _train(system, task, config, run, quiet)
    tuned = System(replace(system.model, adapter=str(adapter)), system.prompt, system.decode)
    kind = (
        f"{'rs' * config.rslora}{'Q' * (system.model.quantization is not None)}{'Do' if config.dora else 'Lo'}RA"
    )
    return finish(kind, tuned, task, config, run)


def _train(system: System, task: Task, config: Config, run: Run, quiet: bool) -> None:
    from peft import get_peft_model

    from workbench.training.data import base_and_source
    from workbench.training.sft import fit

    base, _, source = base_and_source(system, task, config.training, run)
    weights = get_peft_model(base, peft_settings(base, config))
    fit(weights, source, config.training, run, quiet)
    save_adapter(weights, system.model, run.path / "adapter")


def peft_settings(base: Any, config: Config) -> Any:
    """The `LoraConfig` with which PEFT puts the adapter on a base.

    Raises:
        UserError: the model has none of the modules.
    """
    from peft import LoraConfig

    return LoraConfig(
        r=config.rank,
        lora_alpha=config.alpha or (RSLORA_ALPHA if config.rslora else 2 * config.rank),
        target_modules=_modules(base, config.targets),
        lora_dropout=0.0,
        bias="none",
        use_rslora=config.rslora,
        use_dora=config.dora,
        task_type="CAUSAL_LM",
    )


def _modules(base: Any, targets: str) -> str | list[str]:
    """The modules that learn, as PEFT takes them: the ends of their names.

    Raises:
        UserError: the model has no linear layer of such a name.
    """
    wanted = TARGETS.get(targets) or [name.strip() for name in targets.split(",")]
    if isinstance(wanted, str):
        return wanted
    layers = linear_layers(base)
    for name in wanted:
        if not any(f".{layer}".endswith(f".{name}") for layer in layers):
            known = {layer.rpartition(".")[2] for layer in layers}
            raise unknown_name("linear module", name, known, f"Or --targets {', '.join(TARGETS)}.")
    return wanted
