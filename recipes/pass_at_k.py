"""One pool of samples, every curve: pass@k, majority@k, best-of@k, weighted@k, the coverage law, what it costs."""

from dataclasses import dataclass, field

from workbench.command import Flat, command_typed, run_script
from workbench.decodes import BestOfN
from workbench.errors import check_range
from workbench.session import Session, Setup
from workbench.types import Result


@dataclass(frozen=True)
class Config:
    """What to measure, how samples are drawn, and what scores them.

    Raises:
        UserError: there is nothing to choose among.
    """

    setup: Flat[Setup] = field(default_factory=Setup)
    decode: Flat[BestOfN] = field(default_factory=lambda: BestOfN(n=16, scorer="logprob"))

    def __post_init__(self) -> None:
        check_range("n", self.decode.n, 2, 10**6)


def main(config: Config) -> Result:
    """Draw n samples a question, once; print the curves, and write them as JSON, pictures and a page.

    The result is that of one sample. A finished run draws its curves from its own pool and loads no model; its
    grades stay what they were, until --overwrite grades the stored samples anew.
    """
    from workbench.pool_findings import read_off  # here and below: numpy would slow --help down
    from workbench.pooling import WAYS, measured_pool, tell
    from workbench.report_pool import text, write_report

    with Session("pass_at_k", config.setup, config) as session:
        result, pool = measured_pool(session, config.decode)
        found = read_off(pool)
        choices = [(way, k) for way in WAYS for k in found["ks"]]
        looks = tell(session, config.decode, result, choices, stops=[vote["stop"] for vote in found["votes"]])
        print("\n" + "\n".join([text(found, config.decode.scorer), *looks]))
        facts = {"Task": result.task, "Model": config.setup.model, "Split": result.split}
        facts |= {"Questions": f"{found['questions']:,}", "Samples each": f"{pool.n:,}"}
        notes = [*result.notes, *looks]
        report = write_report(session.run, found, config.decode.scorer, facts, notes, command_typed())
        print(f"Curves: {session.run.path / 'curves.json'}\nReport: {report}")
        return result


if __name__ == "__main__":
    run_script(main, Config, __file__)
