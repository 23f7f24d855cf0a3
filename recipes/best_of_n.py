"""Best of n: a reward model chooses among n samples; beside it a random one, a vote, and what n can reach."""

from dataclasses import dataclass, field
from pathlib import Path

from workbench.command import Flat, run_script
from workbench.decodes import BestOfN
from workbench.errors import check_range
from workbench.session import Session, Setup
from workbench.types import CostToMake, Result


@dataclass(frozen=True)
class Config:
    """What to measure, how samples are drawn, and what chooses among them.

    Raises:
        UserError: there is nothing to choose among.
    """

    setup: Flat[Setup] = field(default_factory=Setup)
    decode: Flat[BestOfN] = field(default_factory=BestOfN)

    def __post_init__(self) -> None:
        check_range("n", self.decode.n, 2, 10**6)


def main(config: Config) -> Result:
    """Draw n samples a question, score them, and print what each way of choosing gives of 1, 2, 4, … n of them."""
    from workbench.stats import best_of_n_kl_bound

    with Session("best_of_n", config.setup, config) as session:
        result = session.report(session.system(config.decode), _cost(Path(config.decode.scorer)))
        metrics = dict(result.metrics)
        print(
            f"Over the {metrics['curve_questions']} of {len(result.outcomes)} questions with {config.decode.n} "
            "samples and all their rewards; intervals are Wilson's where every question is 0 or 1, else bootstrap:"
        )
        curves = {"best_of": "best of n", "pass@1": "random", "majority": "majority", "pass": "pass@n"}
        heads = " ".join(f"{f'{name}, 95 % interval':>25}" for name in curves.values())
        print(f"{'n':>4} {heads}  KL at most")
        starts = [name.removeprefix("best_of@") for name in metrics if name.startswith("best_of@")]
        for n in [start for start in starts if start.isdigit()]:
            names = [curve if "@" in curve else f"{curve}@{n}" for curve in curves]
            bounds = [(metrics[name], metrics[f"{name}_low"], metrics[f"{name}_high"]) for name in names]
            cells = [f"{value:>9.1%} {100 * low:>6.1f} – {100 * high:<6.1f}" for value, low, high in bounds]
            print(f"{n:>4} {' '.join(cells)}  {best_of_n_kl_bound(int(n)):.3f} nats")
        return result


def _cost(scorer: Path) -> CostToMake | None:
    """What the reward model cost to make, where it lies in the run that made it."""
    from workbench.runs import RunFolder
    from workbench.training.card import cost_of

    return cost_of(RunFolder(scorer.parent)) if (scorer.parent / "cost.json").is_file() else None


if __name__ == "__main__":
    run_script(main, Config, __file__)
