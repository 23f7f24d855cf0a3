"""The pairs that a method learns from: a file's, or right against wrong samples of the model itself."""

import sys
from dataclasses import dataclass
from pathlib import Path

from workbench.drawing import Drawer
from workbench.errors import UserError, check_range
from workbench.files import read_json, write_json
from workbench.identity import file_hash, from_json, to_json
from workbench.launch import from_first, is_helper, meet
from workbench.preferring.pairs import Pair, conflicts, read_pairs, write_pairs
from workbench.preferring.verifier import verifier_pairs
from workbench.runs import Run
from workbench.tasks.base import Task
from workbench.types import CostToMake, System


@dataclass(frozen=True)
class Pairs:
    """Which pairs are learned from.

    Attributes:
        pairs: a .jsonl, .csv or .parquet file with prompt, chosen and rejected; by default right against wrong
            samples of the practice questions, as the task's grader tells them apart.
        samples: drawn for each question, where no file is given.
        pairs_per_question: at most, where no file is given.
        pairs_temperature: of the samples.
        pairs_seed: another seed draws other samples, and takes other pairs of them.

    Raises:
        UserError: a value is out of range, or given beside a file.
    """

    pairs: Path | None = None
    samples: int = 8
    pairs_per_question: int = 4
    pairs_temperature: float = 0.8
    pairs_seed: int = 0

    def __post_init__(self) -> None:
        check_range("samples", self.samples, 2, 10**4)
        check_range("pairs_per_question", self.pairs_per_question, 1, 10**4)
        check_range("pairs_temperature", self.pairs_temperature, 0, 100, open_low=True)
        check_range("pairs_seed", self.pairs_seed, 0, 2**62)
        if self.pairs is not None:
            for name in ("samples", "pairs_per_question", "pairs_temperature", "pairs_seed"):
                if getattr(self, name) != getattr(type(self), name):
                    raise UserError(f"--{name.replace('_', '-')} is for pairs that are yet to be made.")


@dataclass(frozen=True)
class Given:
    """Pairs, and where they come from.

    Attributes:
        pairs: at least one.
        source: in words, for cards and messages.
        hash: another content has another one.
        cost: of making them; nothing for a file's.
    """

    pairs: list[Pair]
    source: str
    hash: str
    cost: CostToMake


def pairs_for(
    config: Pairs,
    system: System,
    task: Task,
    run: Run,
    drawer: Drawer,
    *,
    split: str = "practice",
    questions: int | None = None,
) -> Given:
    """The pairs; what is made is kept in the run as `pairs-<split>.jsonl`, and not made again.

    Args:
        config: which pairs.
        system: whose samples are compared.
        task: asks and grades.
        run: where made pairs are kept.
        drawer: draws the samples.
        split: practice, or dev for pairs that are held out; of no meaning for a file.
        questions: how many of the split's are sampled, from its beginning; None, and more than there are, is all.

    Raises:
        UserError: the file cannot be read or has no pair, or the samples gave none.
    """
    meet()  # before TRL's trainers, which would meet as processes without a GPU
    if config.pairs is not None:
        pairs = read_pairs(config.pairs)
        if (wrong := conflicts(pairs)) and not is_helper():
            print(
                f"warning: {config.pairs}: {wrong} of {len(pairs)} pairs contradict another one of their prompt, "
                "with chosen and rejected the other way round.",
                file=sys.stderr,
            )
        return Given(pairs, str(config.pairs), file_hash(config.pairs), CostToMake())
    return from_first(lambda: _made(config, system, task, run, drawer, split, questions))


def _made(
    config: Pairs, system: System, task: Task, run: Run, drawer: Drawer, split: str, questions: int | None
) -> Given:
    file, about = run.path / f"pairs-{split}.jsonl", run.path / f"pairs-{split}.json"
    if not about.exists():
        pairs, counts, cost = verifier_pairs(
            system,
            task,
            config.samples,
            config.pairs_per_question,
            split,
            config.pairs_seed,
            drawer,
            temperature=config.pairs_temperature,
            questions=None if questions is None else min(questions, len(getattr(task, split))),
        )
        if not pairs:
            raise UserError(
                f"No question of the {split} split has a right and a wrong sample among {config.samples}: "
                f"{', '.join(f'{count} {what}' for what, count in counts.items())}. Raise --samples, or take "
                "pairs from a file with --pairs."
            )
        write_pairs(file, pairs)
        write_json(about, {"counts": dict(counts), "cost": to_json(cost)})  # last: where it is, they are made
    cost = from_json(read_json(about)["cost"])
    assert isinstance(cost, CostToMake)
    return Given(read_pairs(file), f"{task.name}, {split} split: verifier pairs", file_hash(file), cost)
