"""Proxy tuning: a model steered as it decodes by what tuning did to another one; its own weights stay.

workbench lora --name tuned, then workbench proxy_tuning --expert runs/tuned/adapter --alphas 0.5 1 1.5 2
"""

from dataclasses import dataclass, field

from workbench.command import Flat, run_script
from workbench.session import Session, Setup
from workbench.steering import Config as SteeringConfig
from workbench.steering import steer_and_measure
from workbench.types import Result


@dataclass(frozen=True)
class Config:
    """What is steered and measured, and who steers it. The setup's model is the base."""

    steering: Flat[SteeringConfig]
    setup: Flat[Setup] = field(default_factory=Setup)


def main(config: Config) -> Result:
    """Choose how strongly on dev, measure base, expert and steered model, and tell what it costs."""
    with Session("proxy_tuning", config.setup, config) as session:
        return steer_and_measure(session, config.steering)


if __name__ == "__main__":
    run_script(main, Config, __file__)
