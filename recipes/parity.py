"""Parity: the same prompts through several systems, and whether each is what the first one is.

workbench parity hf vllm,endpoint=http://127.0.0.1:8000 hf,quantization=nf4 --questions 60
"""

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Annotated

from tyro.conf import Positional

from workbench.command import Flat, command_typed, run_script
from workbench.errors import UserError
from workbench.files import write_json
from workbench.inert import visible
from workbench.parity.bounds import Config as Bounds
from workbench.session import Session, Setup

if TYPE_CHECKING:  # numpy would slow --help down
    from workbench.parity.rows import Row


@dataclass(frozen=True)
class Config:
    """Which systems, on what, and how near they must be.

    Attributes:
        systems: two or more, the first is the reference: an engine and its settings behind commas, as hf,
            hf,quantization=nf4, hf,dtype=float32, hf,model=DIR, hf,adapter=DIR, vllm,endpoint=URL,
            vllm,endpoint=URL,adapter=DIR, fake, or run=NAME for a run's model. What a word does not say is as the
            other flags say, but a word with a model of its own takes neither adapter nor quantization from them.
            name=… names a system, bounds=quantised holds it to those bounds.
        setup: the task, and what the words leave open; every system gets the same prompt.
        bounds: how far a system may be from the reference.
        strict: fail unless every verdict is the same.
    """

    systems: Annotated[tuple[str, ...], Positional]
    setup: Flat[Setup] = field(default_factory=lambda: Setup(split="dev"))
    bounds: Flat[Bounds] = field(default_factory=Bounds)
    strict: bool = False


def main(config: Config) -> "list[Row]":
    """Ask, print the table with its verdicts, and write parity.json and report.html."""
    from workbench.harness import questions_of
    from workbench.parity.asking import ask
    from workbench.parity.rows import rows_of
    from workbench.parity.words import read_sides
    from workbench.report_parity import as_json, table
    from workbench.report_parity_html import write_page

    setup = config.setup
    sides = read_sides(config.systems, setup)
    with Session("parity", setup, replace(config, strict=False)) as session:  # it changes nothing that is found
        rows = rows_of(sides, ask(session, sides), config.bounds)
        looks = session.store.looks(session.task.hash, setup.split)
        report = session.run.path / "report.html"
        write_json(session.run.path / "parity.json", as_json(rows, config.bounds))
        write_page(
            report,
            rows,
            config.bounds,
            questions={q.id: q for q in questions_of(session.task, setup.split, setup.questions)},
            looks=looks,
            command=command_typed(),
            versions=session.run.info["packages"],
        )
        print(visible(table(rows, config.bounds, looks)))
        print(f"Report: {report}", flush=True)
    failed = [f"{row.side.name} {row.verdict}" for row in rows if row.verdict and row.verdict.state != "same"]
    if config.strict and failed:
        raise UserError(f"Not the same as {rows[0].side.name}: {' | '.join(failed)}.")
    return rows


if __name__ == "__main__":
    run_script(main, Config, __file__)
