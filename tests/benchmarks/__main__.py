"""`python -m tests.benchmarks [--quick] [name …]`: measure, print the table, write it into README.md."""

import argparse
import os
import sys
from collections.abc import Callable

from tests.benchmarks import (
    faults,
    groups,
    labels,
    page,
    pairs,
    pools,
    sampling,
    serving,
    shots,
    startup,
    storing,
    training,
)
from tests.benchmarks.table import ROOT, Row, Skip, markdown, write

BENCHMARKS: dict[str, Callable[[bool], list[Row]]] = {
    "labels": labels.run,
    "shots": shots.run,
    "training-labels": training.labels,
    "training-solutions": training.solutions,
    "dpo-arithmetic": pairs.short,
    "dpo-solutions": pairs.long,
    "grpo-arithmetic": groups.short,
    "grpo-solutions": groups.long,
    "killed": faults.killed,
    "spoilt": faults.spoilt,
    "gsm8k": sampling.gsm8k,
    "arithmetic": sampling.arithmetic,
    "serving": serving.run,
    "storing": storing.run,
    "pools": pools.run,
    "startup": startup.run,
    "page": page.run,
}

BUSY = 0.7  # load average above which other work disturbs the figures


def main(arguments: list[str] | None = None) -> int:
    """1 where a floor was missed or the two sides did not compute the same."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="name", help=f"of: {', '.join(BENCHMARKS)}; none is all")
    parser.add_argument("--quick", action="store_true", help="small sizes; the README is left alone")
    options = parser.parse_args(arguments)
    if unknown := sorted(set(options.names) - set(BENCHMARKS)):
        parser.error(f"there is no benchmark {unknown[0]!r}; there are: {', '.join(BENCHMARKS)}")
    rows, skipped = [], False
    if (load := os.getloadavg()[0]) > BUSY:
        print(f"warning: load average {load:.1f}; other processes are busy, figures will be off", file=sys.stderr)
    for name in options.names or BENCHMARKS:
        print(f"{name} …", file=sys.stderr, flush=True)
        try:
            rows += BENCHMARKS[name](options.quick)
        except Skip as reason:
            skipped = True
            print(f"{name} skipped: {reason}", file=sys.stderr)
    if not rows:
        return 0
    table = markdown(rows)
    print(table)
    # The README's table is replaced as a whole, so only a whole run may write it.
    if not options.names and not options.quick and not skipped:
        wrote = write(ROOT / "README.md", table)
        print("README.md: " + ("written" if wrote else "has no markers, not written"), file=sys.stderr)
    missed = [row.what for row in rows if not row.passed]
    for what in missed:
        print(f"missed: {what}", file=sys.stderr)
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
