"""A run's model as a folder for the Hub: safetensors, tokenizer, model card. `--push owner/name` sends it."""

from dataclasses import dataclass
from pathlib import Path

from workbench.command import run_script
from workbench.errors import UserError
from workbench.publishing import check_repo, publish, push
from workbench.runs import find_run


@dataclass(frozen=True)
class Config:
    """What, and where to.

    Attributes:
        run: id of a run that tuned a model.
        out: the folder to make.
        push: send the folder to the Hub as owner/name. It needs `hf auth login`, or HF_TOKEN.
        private: only for those whom its owner lets see it.
        runs: folder of all runs.
    """

    run: str
    out: Path
    push: str | None = None
    private: bool = False
    runs: Path = Path("runs")


def main(config: Config) -> Path:
    """Make the folder, send it if asked to, and return it."""
    if config.push is not None:
        check_repo(config.push)
    elif config.private:
        raise UserError("--private goes with --push owner/name: nothing is sent without it.")
    run = find_run(config.runs, config.run)
    files = publish(run, config.out, config.push)
    size = sum((config.out / name).stat().st_size for name in files)
    print(f"{config.out}: {size:,} bytes in {', '.join(files)}")
    if run.read_result() is None:
        print("The run was not measured, so that the card tells no result.")
    print("Read README.md before others do.")
    if config.push is not None:
        print(push(config.out, config.push, private=config.private))
    return config.out


if __name__ == "__main__":
    run_script(main, Config, __file__)
