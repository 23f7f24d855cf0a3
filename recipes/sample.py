"""Sample from a file of prompts: n answers to each row, through the store, into a JSONL file.

A row is {"prompt": "text"} or {"messages": [{"role": "user", "content": "text"}, ...]}, with an "id" if you like.
A conversation that ends in a finished answer is refused; where that answer broke off (its "finish" is "length" or
"stopped", as `workbench chat` saves it), the model goes on with it.

Samples are kept in the store as they come: a command that was killed goes on when you type it again, and 64
samples after 16 draw 48. A conversation that stands in several rows is drawn once, and written for every id.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from workbench.command import Flat, run_script
from workbench.decodes import Sample
from workbench.errors import UserError
from workbench.model_flags import ModelFlags
from workbench.progress import Bar
from workbench.store import Store


@dataclass(frozen=True)
class Config:
    """What to answer, and where to put it.

    Attributes:
        input: the prompts, a row each: a .jsonl, .csv or .parquet file.
        output: the samples, a row each: a .jsonl file, which is written when all are there.
        decode: how many samples, and how they are drawn.
        stop: strings that end an answer.
        style: `chat` takes a prompt as a user's message; `text` goes on with it as it is.
        model: who answers.
        runs: folder of the store of completions.
        quiet: no progress bar.
    """

    input: Path
    output: Path
    decode: Flat[Sample] = field(default_factory=Sample)
    stop: tuple[str, ...] = ()
    style: Literal["chat", "text"] = "chat"
    model: Flat[ModelFlags] = field(default_factory=ModelFlags)
    runs: Path = Path("runs")
    quiet: bool = False


def main(config: Config) -> Any:
    """Draw what is missing and write the file; returns its `Counts`.

    Raises:
        UserError: a row or a setting is at fault, the server died, or some requests failed; in the last case the
            file is written and has them as errors.
    """
    from workbench.batch import check_output, read_prompts, sample, system_of  # numpy would slow --help down

    check_output(config.output, config.input)
    prompts = read_prompts(config.input, config.style)
    system = system_of(config.model.reference(), config.decode, config.stop, config.style)
    engine = config.model.open()
    try:
        with Store(config.runs / "completions.sqlite") as store, Bar("samples", quiet=config.quiet) as bar:
            counts = sample(prompts, system, engine, store, config.output, bar.show)
    finally:
        engine.close()
    print(counts.line(config.output))
    if counts.failed:
        raise UserError(
            f"{counts.failed:,} of {counts.samples:,} samples failed and stand in {config.output} as errors; the "
            f"first: {counts.first_error.rstrip('.')}. The same command asks for them again."
        )
    return counts


if __name__ == "__main__":
    run_script(main, Config, __file__)
