"""Compute-optimal: samples spent by how hard a question looks, against one strategy for all; a larger model."""

from dataclasses import dataclass, field

from workbench.command import Flat, command_typed, run_script
from workbench.decodes import BestOfN, Greedy
from workbench.errors import UserError, check_range
from workbench.session import Session, Setup
from workbench.types import Model, Result, System


@dataclass(frozen=True)
class Config:
    """What to measure, how samples are drawn and scored, and what is compared.

    Attributes:
        setup: what is measured; difficulty is learned on dev, so the split must be another.
        decode: how many samples are drawn, and what scores them.
        first: samples of each question that its difficulty is predicted from; they count as drawn.
        bins: of difficulty.
        budgets: samples a question, each from `first` to n; by default a sixteenth, a quarter and all of n.
        dev_questions: from which difficulty is learned; by default all.
        larger: a second model, asked once, greedily: against as many samples of the first as cost as many FLOPs.

    Raises:
        UserError: there is nothing to choose among, or a number is out of range.
    """

    setup: Flat[Setup] = field(default_factory=Setup)
    decode: Flat[BestOfN] = field(default_factory=lambda: BestOfN(n=32, scorer="logprob"))
    first: int = 4
    bins: int = 3
    budgets: tuple[int, ...] = ()
    dev_questions: int | None = None
    larger: str | None = None

    def __post_init__(self) -> None:
        check_range("n", self.decode.n, 2, 10**6)
        check_range("first", self.first, 1, self.decode.n - 1)
        check_range("bins", self.bins, 1, 100)
        for budget in self.budgets:
            check_range("budgets", budget, self.first, self.decode.n)


def main(config: Config) -> Result:
    """Draw both pools, choose on one half and score on the other; the result is that of one sample.

    A finished run's grades stay what they were, until --overwrite grades the stored samples anew.

    Raises:
        UserError: the split is dev, or there are too few questions.
    """
    from workbench.compute_optimal import (  # here and below: numpy would slow --help down
        against_larger,
        against_uniform,
        compared,
        usual_budgets,
    )
    from workbench.harness import questions_of
    from workbench.pooling import kept_pool, measured_pool, tell
    from workbench.report_optimal import text, write_report
    from workbench.stats import check_bins

    setup, n = config.setup, config.decode.n
    if setup.split == "dev":
        raise UserError("split is dev, from which difficulty is learned; measure on --split test.")
    with Session("compute_optimal", setup, config) as session:
        check_bins(len(questions_of(session.task, "dev", config.dev_questions)), config.bins)
        system = session.system(config.decode)
        result, pool = measured_pool(session, config.decode)
        dev = kept_pool(session, system, "dev", config.dev_questions, "dev_pool.npz")
        budgets = sorted(set(config.budgets)) or usual_budgets(n, config.first)
        found = against_uniform(dev, pool, first=config.first, bins=config.bins, budgets=budgets)
        if config.larger:
            once = System(Model(config.larger), session.prompt, session.with_length(Greedy()))
            measured = session.measure(once, label=config.larger)
            session.run.write_result(measured, "larger")
            found["larger"] = against_larger(pool, measured, config.larger)
        choices, rules = compared(found)
        looks = tell(session, config.decode, result, choices, rules=rules)
        print("\n" + "\n".join([text(found, config.decode.scorer), *looks]))
        facts = {"Task": result.task, "Model": setup.model, "Split": result.split, "Larger": config.larger or ""}
        facts |= {"Questions": f"{found['questions']:,}", "Samples each": f"{n:,}"}
        notes = [*result.notes, *looks]
        report = write_report(session.run, found, config.decode.scorer, facts, notes, command_typed())
        print(f"Report: {report}")
        return result


if __name__ == "__main__":
    run_script(main, Config, __file__)
