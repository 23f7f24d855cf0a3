"""What to do with an adapter: `merge` it into its base, `unmerge` it again, or `remove` it from a System.

    workbench adapter merge --run NAME --out FOLDER          a whole model that needs no PEFT
    workbench adapter unmerge --run NAME --merged FOLDER --out FOLDER
    workbench adapter remove --run NAME --out system.json    the run's System with its base alone

Nothing is deleted or written over: the adapter stays in its run.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from tyro.conf import Positional

from workbench.command import run_script
from workbench.errors import UserError
from workbench.files import write_json
from workbench.identity import to_json
from workbench.merging import merge, unmerge, without_adapter
from workbench.models import EMBEDDED, model_folder
from workbench.run_folder import map_model_paths, read_system
from workbench.runs import find_run
from workbench.types import Model, System


@dataclass(frozen=True)
class Config:
    """Which adapter, and where to.

    Attributes:
        action: `merge`, `unmerge` or `remove`.
        out: the folder to make; for `remove` the system.json to write. It must not be there yet.
        run: id of the run that made the adapter.
        system: a system.json, in place of a run.
        adapter: an adapter's folder, in place of a run.
        model: the base that `adapter` is for; by default smollm2-135m-instruct (embedded).
        revision: of a Hub id.
        quantization: `nf4` or `int8` for an adapter that was learned beside weights in 4 or 8 bits (QLoRA).
        merged: for `unmerge`, the folder that `merge` made.
        dtype: what the weights are stored in; by default what the base's are. All sums are in float32.
        runs: folder of all runs.
    """

    action: Annotated[Literal["merge", "unmerge", "remove"], Positional]
    out: Path
    run: str | None = None
    system: Path | None = None
    adapter: Path | None = None
    model: str = EMBEDDED
    revision: str | None = None
    quantization: Literal["nf4", "int8"] | None = None
    merged: Path | None = None
    dtype: Literal["bfloat16", "float16", "float32"] | None = None
    runs: Path = Path("runs")


def main(config: Config) -> Path:
    """Do it, print what was measured, and return what was written."""
    if (config.merged is not None) != (config.action == "unmerge"):
        raise UserError(
            "--merged FOLDER is the model that `unmerge` takes an adapter out of, and goes with it only."
        )
    if config.action == "remove":
        return _remove(config)
    model = _model(config)
    if config.merged is None:
        return _merge(model, config)
    return _unmerge(model, config.merged, config)


def _merge(model: Model, config: Config) -> Path:
    done = merge(model, config.out, config.dtype)
    print(f"{done.folder}: {model.base} with {model.adapter} merged into it, stored in {done.dtype}")
    print(
        f"Largest difference of a logit, on three texts whose largest logit is {done.largest:.3g}: "
        f"{done.arithmetic:.2g} from merging, in float32; {done.stored:.2g} as stored."
    )
    if done.dtype != "float32":
        print(f"The rest is rounding to {done.dtype}; --dtype float32 stores the weights without it.")
    print(f"Use it as --model {done.folder}.")
    return done.folder


def _unmerge(model: Model, merged: Path, config: Config) -> Path:
    try:
        model_folder(model.base, model.revision)
        base: Model | None = model
    except UserError as error:
        print(f"The result is compared with nothing. {error}")
        base = None
    done = unmerge(merged, str(model.adapter), config.out, config.dtype, base)
    print(f"{done.folder}: {merged} less {model.adapter}, stored in {done.dtype}")
    if base is not None:
        name = f"{base.base} in {base.quantization}, dequantised" if base.quantization else base.base
        print(f"Against the base, {name}: {done.unequal:,} weights differ, by {done.weights:.2g} at most,")
        print(f"and on three texts a logit by {done.logits:.2g} at most.")
    return done.folder


def _remove(config: Config) -> Path:
    if config.adapter is not None:
        raise UserError("An adapter is removed from a System: say --run ID, or --system FILE.")
    system = _system(config)
    alone = without_adapter(system)
    if config.out.exists():
        raise UserError(f"{str(config.out)!r} exists; name another --out, or move it away.")
    absolute = map_model_paths(to_json(alone), lambda p: str(Path(p).resolve()) if Path(p).is_dir() else p)
    write_json(config.out, absolute)
    print(f"{config.out}: the System with {alone.model.base} alone. {system.model.adapter} is where it was.")
    print(f"Measure it with: workbench evaluate --system {config.out}")
    return config.out


def _model(config: Config) -> Model:
    """The model with its adapter, from wherever it was named."""
    if config.adapter is None:
        return _system(config).model
    if config.run is not None or config.system is not None:
        raise UserError("Name one adapter: --run ID, --system FILE, or --adapter FOLDER with its --model.")
    return Model(config.model, config.revision, str(config.adapter), config.quantization)


def _system(config: Config) -> System:
    if (config.run is None) == (config.system is None):
        raise UserError("Name one: --run ID (`workbench runs` lists them), --system FILE, or --adapter FOLDER.")
    if config.run is not None:
        return find_run(config.runs, config.run).read_system()
    return read_system(Path(str(config.system)))


if __name__ == "__main__":
    run_script(main, Config, __file__)
