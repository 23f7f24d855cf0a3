"""Doctor: what this machine has, what would not work, and the mend for each."""

from dataclasses import dataclass
from pathlib import Path

from workbench.command import run_script
from workbench.doctor import Finding, examine


@dataclass(frozen=True)
class Config:
    """Where.

    Attributes:
        runs: folder of all runs; its disk is looked at.
    """

    runs: Path = Path("runs")


def main(config: Config) -> list[Finding]:
    """Print the findings: ok, a remark, or what would not work with its mend."""
    findings = examine(config.runs)
    for finding in findings:
        print(f"{finding.level:<7} {finding.what}")
        if finding.mend:
            print(f"        → {finding.mend}")
    return findings


if __name__ == "__main__":
    run_script(main, Config, __file__)
