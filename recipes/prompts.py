"""List the prompts: what each is for and where it comes from."""

from dataclasses import dataclass

from workbench.command import run_script
from workbench.prompts import describe, prompt_names


@dataclass(frozen=True)
class Config:
    """Nothing to set."""


def main(config: Config) -> list[str]:
    """Print one prompt a paragraph."""
    names = prompt_names()
    for name in names:
        print(f"{name}\n    {describe(name)}")
    return names


if __name__ == "__main__":
    run_script(main, Config, __file__)
