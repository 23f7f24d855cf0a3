"""Quantise a model into a folder, with a card that tells size and perplexity before and after.

    workbench quantize --scheme nf4 --out FOLDER      4 bits for the engine hf (bitsandbytes); int8 is like it
    workbench quantize --scheme w4a16 --out FOLDER    4-bit weights for vLLM (GPTQ, compressed-tensors)
    workbench quantize --scheme w8a8 --out FOLDER     8-bit weights and activations for vLLM
    workbench quantize --scheme gguf --out FOLDER     a file for llama.cpp and Ollama

w4a16, w8a8 and gguf need the environment of `make quantize`: `.venv-quantize/bin/workbench quantize …`. w4a16 and
w8a8 look at the practice split of --task.
"""

import shlex
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from workbench.command import Flat, run_script
from workbench.errors import UserError
from workbench.models import EMBEDDED
from workbench.quantizing.schemes import SCHEMES
from workbench.quantizing.settings import Settings
from workbench.runs import find_run
from workbench.session import pairs
from workbench.tasks import load_task
from workbench.types import Model


@dataclass(frozen=True)
class Config:
    """Which model, how, and where to.

    Attributes:
        scheme: nf4, int8, w4a16, w8a8 or gguf.
        out: the folder to make.
        model: smollm2-135m-instruct (embedded), a local folder or a Hub id.
        revision: of a Hub id.
        run: id of a run that made a whole model, in place of --model.
        adapter: refused, with the command that merges it into its base first.
        task: the task whose practice split w4a16 and w8a8 look at; by default arithmetic.
        task_args: the task's own settings, as name=value.
        runs: folder of all runs.
        quiet: no progress bars.
    """

    scheme: Literal["nf4", "int8", "w4a16", "w8a8", "gguf"]
    out: Path
    model: str = EMBEDDED
    revision: str | None = None
    run: str | None = None
    adapter: str | None = None
    task: str | None = None
    task_args: tuple[str, ...] = ()
    settings: Flat[Settings] = field(default_factory=Settings)
    runs: Path = Path("runs")
    quiet: bool = False


def main(config: Config) -> dict[str, Any]:
    """Make the folder, print what became of the model, and return what its quantization.json holds."""
    from workbench.quantizing.quantize import check, quantize

    model = _model(config)
    check(model, config.scheme, config.settings, config.out)
    task = None
    if SCHEMES[config.scheme].calibrated:
        task = load_task(config.task or "arithmetic", pairs("--task-args", config.task_args))
    elif config.task is not None or config.task_args:
        raise UserError(f"The scheme {config.scheme} looks at no data: leave --task and --task-args out.")
    told = quantize(model, config.scheme, config.out, config.settings, task, _command(config), quiet=config.quiet)
    size, text = told["sizes"], told["perplexity"]
    before, after, more = text["before"], text["after"], text["more_nats_a_token"]
    print(f"{config.out}: {config.scheme}, {size['linear_bits']:.3f} bits a parameter of the linear layers")
    print(f"bytes       {size['folder_bytes_before']:>13,} → {size['folder_bytes']:>13,}")
    spread = f"{after['low']:.2f} – {after['high']:.2f}"
    print(f"perplexity  {before['value']:>13.2f} → {after['value']:>13.2f} ({spread})")
    print(f"loss, nats a token, paired: {more['value']:+.4f} ({more['low']:+.4f} – {more['high']:+.4f})")
    print(f"It is read by {SCHEMES[config.scheme].readers}.")
    return told


def _model(config: Config) -> Model:
    if config.run is None:
        return Model(config.model, config.revision, config.adapter)
    if config.adapter is not None or (config.model, config.revision) != (EMBEDDED, None):
        raise UserError("Name one model: --run ID, or --model.")
    return find_run(config.runs, config.run).read_system().model


def _command(config: Config) -> str:
    """The command as anyone would type it: without the folders of this machine."""
    base = "FOLDER-OF-THE-BASE" if config.run or Path(config.model).is_dir() else config.model
    words = ["workbench", "quantize", "--model", base, "--scheme", config.scheme, "--out", "FOLDER"]
    given = {"revision": config.revision, "task": config.task, **vars(config.settings)}
    for name, value in given.items():
        if value is not None:
            words += [f"--{name.replace('_', '-')}", _public(str(value))]
    if config.task_args:
        words += ["--task-args", *map(_public, config.task_args)]
    return shlex.join(words)


def _public(value: str) -> str:
    """A setting with a file's name in place of its path."""
    name, equals, path = value.rpartition("=")
    return name + equals + (Path(path).name if "/" in path else path)


if __name__ == "__main__":
    run_script(main, Config, __file__)
