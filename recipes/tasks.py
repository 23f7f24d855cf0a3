"""List the tasks, and the settings that `--task-args name=value` can change."""

from dataclasses import dataclass

from workbench.command import run_script
from workbench.tasks import describe, task_names


@dataclass(frozen=True)
class Config:
    """Nothing to set."""


def main(config: Config) -> tuple[str, ...]:
    """Print each task with its settings, their types and defaults."""
    for name in task_names():
        summary, arguments = describe(name)
        print(f"{name}: {summary}")
        for argument, kind, default in arguments:
            print(f"    {argument}={default or '…'}  ({kind})")
        print()
    return task_names()


if __name__ == "__main__":
    run_script(main, Config, __file__)
