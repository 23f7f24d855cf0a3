"""pass@k and majority@k: how far more samples could carry, and how far a vote does, from one pool of samples."""

from dataclasses import dataclass, field

from workbench.command import Flat, run_script
from workbench.decodes import Sample
from workbench.session import Session, Setup
from workbench.types import Result


@dataclass(frozen=True)
class Config:
    """What to measure, and how samples are drawn."""

    setup: Flat[Setup] = field(default_factory=Setup)
    decode: Flat[Sample] = field(default_factory=lambda: Sample(n=16))


def main(config: Config) -> Result:
    """Draw n samples a question and print both curves."""
    with Session("pass_at_k", config.setup, config) as session:
        result = session.report(session.system(config.decode))
        metrics = dict(result.metrics)
        print(f"{'k':>6} {'pass@k':>8} {'95 % interval':>15} {'majority@k':>11} {'95 % interval':>15}")
        for k in [name.removeprefix("pass@") for name in metrics if name.startswith("pass@") and "_" not in name]:
            cells = [
                f"{metrics[f'{curve}@{k}']:>{width}.1%} "
                f"{100 * metrics[f'{curve}@{k}_low']:>7.1f} – {100 * metrics[f'{curve}@{k}_high']:<5.1f}"
                for curve, width in (("pass", 8), ("majority", 11))
            ]
            print(f"{k:>6} {' '.join(cells)}")
        return result


if __name__ == "__main__":
    run_script(main, Config, __file__)
