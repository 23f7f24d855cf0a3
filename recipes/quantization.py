"""Quantization: bytes of a model's linear layers in bfloat16, NF4, int8 and int4, and the perplexity of each.

All are measured on the same text. `bits` are a parameter's, and `more` is the paired difference of the loss to
bfloat16's, in nats a token.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from workbench.command import run_script
from workbench.forgetting import Losses, perplexity, read_paragraphs, text_losses
from workbench.models import EMBEDDED
from workbench.progress import Bar
from workbench.quantization import Size, linear_size, round_to_int4
from workbench.stats import ratio_interval
from workbench.types import Interval, Model


@dataclass(frozen=True)
class Config:
    """Which model, and on what.

    Attributes:
        model: smollm2-135m-instruct (embedded), a local folder or a Hub id.
        revision: of a Hub id.
        text: a file of paragraphs, parted by blank lines; by default the project's own general text.
        quiet: no progress bars.
    """

    model: str = EMBEDDED
    revision: str | None = None
    text: Path | None = None
    quiet: bool = False


@dataclass(frozen=True)
class Row:
    """One way of keeping the weights; `size` is None where it is simulated on dense ones."""

    name: str
    size: Size | None
    perplexity: Interval
    more: Interval


def main(config: Config) -> list[Row]:
    """Measure and print the table."""
    paragraphs = read_paragraphs(config.text)
    rows: list[Row] = []
    first: Losses = []
    print(f"{'':<14} {'bytes':>13} {'bits':>7} {'perplexity':>10} {'95 %':>17} {'more':>8} {'95 %':>17}")
    for name, size, losses in _measured(config, paragraphs):
        first = first or losses
        more = [loss - before for (loss, _), (before, _) in zip(losses, first, strict=True)]
        rows.append(Row(name, size, perplexity(losses), ratio_interval(more, [count for _, count in losses])))
        print(_line(rows[-1]), flush=True)
    return rows


def _measured(config: Config, paragraphs: tuple[str, ...]) -> Iterator[tuple[str, Size | None, Losses]]:
    """The four ways, one model in memory at a time."""
    from workbench.engines.hf import HfEngine

    for name, quantization in (("bfloat16", None), ("nf4", "nf4"), ("int8", "int8"), ("int4 absmax", None)):
        engine = HfEngine(Model(config.model, config.revision, quantization=quantization))
        size = linear_size(engine.weights)
        if name == "int4 absmax":
            round_to_int4(engine.weights)
            size = None
        with Bar(name, quiet=config.quiet) as bar:
            losses = text_losses(engine, paragraphs, bar.show)
        yield name, size, losses
        engine.close()


def _line(row: Row) -> str:
    size = f"{row.size.bytes:>13,} {row.size.bits:>7.3f}" if row.size else f"{'simulated':>13} {'':>7}"
    found, more = row.perplexity, row.more
    return (
        f"{row.name:<14} {size} {found.value:>10.3f} {f'{found.low:.3f} – {found.high:.3f}':>17} "
        f"{more.value:>8.4f} {f'{more.low:.4f} – {more.high:.4f}':>17}"
    )


if __name__ == "__main__":
    run_script(main, Config, __file__)
