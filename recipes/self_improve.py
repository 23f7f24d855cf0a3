"""Self-improvement (LMSI): a model learns the answers it agrees on, in rounds; measured before and after each."""

from dataclasses import dataclass, field

from workbench.before_after import Measured, table, ways
from workbench.command import Flat, run_script
from workbench.files import write_atomic, write_json
from workbench.instructing.reliability import calibration_section, diagram, read_dev
from workbench.methods.self_improve import Config as SelfImproveConfig
from workbench.methods.self_improve import adapt, systems_of
from workbench.session import Session, Setup
from workbench.training.card import result_section
from workbench.types import Result


@dataclass(frozen=True)
class Config:
    """What to improve and measure, and how."""

    setup: Flat[Setup] = field(default_factory=Setup)
    self_improve: Flat[SelfImproveConfig] = field(default_factory=SelfImproveConfig)


def main(config: Config) -> Result:
    """Improve; then measure every round's model, its votes' confidence on dev, and complete the card."""
    with Session("self_improve", config.setup, config) as session:
        system, task, run, settings = session.system(), session.task, session.run, config.self_improve
        adapt(system, task, settings, run, session.drawer, quiet=config.setup.quiet)
        card = (run.path / "README.md").read_text(encoding="utf-8")
        rows, readings = [], []
        for name, (model, cost) in systems_of(system, settings, run).items():
            for kind, asked in ways(model, settings.paths, task.max_tokens).items():
                result = session.measure(asked, cost, label=f"{name}: {kind}")
                rows.append(Measured(name, kind, result))
                run.write_result(result, f"{name}-{kind}".replace(" ", "-"))
            reading = read_dev(name, model, task, settings.paths, session.drawer)
            run.log(event="dev", **reading.metrics())
            readings.append(reading)
        measured = table(rows, session.store.looks(task.hash, config.setup.split))
        calibration = calibration_section(readings, settings.paths.n, "reliability.svg")
        print(f"{measured}\n{calibration}")
        write_atomic(run.path / "reliability.svg", diagram(readings))
        write_json(run.path / "calibration.json", [reading.as_json() for reading in readings])
        result = rows[-3].result  # the last round's model, as the setup decodes
        run.write_card(f"{card}{result_section(result)}\n## Before and after\n\n{measured}\n{calibration}")
        run.write_result(result)
        print(f"system {result.system}, run {run.path}")
        return result


if __name__ == "__main__":
    run_script(main, Config, __file__)
