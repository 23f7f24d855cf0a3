"""Prompt sensitivity: how far accuracy goes up and down over exemplars, their orders, or the prompt's wording.

workbench prompt_sensitivity --task phrasebank --task-args path=DIR --vary orders --variants 24
"""

from dataclasses import dataclass, field

from workbench.command import Flat, run_script
from workbench.methods import label_scoring
from workbench.methods.label_scoring import Config as LabelConfig
from workbench.sensitivity import Config as SensitivityConfig
from workbench.sensitivity import Sensitivity, vary
from workbench.session import Session, Setup


@dataclass(frozen=True)
class Config:
    """What to measure, what is varied, and how labels are scored. On `dev` unless you say otherwise."""

    setup: Flat[Setup] = field(default_factory=lambda: Setup(split="dev"))
    sensitivity: Flat[SensitivityConfig] = field(default_factory=SensitivityConfig)
    labels: Flat[LabelConfig] = field(default_factory=LabelConfig)


def main(config: Config) -> Sensitivity:
    """Measure every variant; the same command goes on where an interrupted one stopped."""
    with Session("prompt_sensitivity", config.setup, config) as session:
        system = label_scoring.adapt(session.system(), session.task, config.labels)
        return vary(session, system, config.sensitivity)


if __name__ == "__main__":
    run_script(main, Config, __file__)
