"""Distillation: a teacher's worked answers that the grader finds right, as data for a student to be tuned on."""

from dataclasses import dataclass, field
from pathlib import Path

from workbench.command import Flat, run_script
from workbench.errors import UserError
from workbench.files import read_json
from workbench.methods.distill import Config as DistillConfig
from workbench.methods.distill import make
from workbench.session import Session, Setup


@dataclass(frozen=True)
class Config:
    """Who teaches what.

    Attributes:
        setup: its model is the teacher, through any engine; its prompt is the one that the student will be
            asked with.
        distill: how the teacher is asked, and what is kept.
    """

    setup: Flat[Setup] = field(default_factory=Setup)
    distill: Flat[DistillConfig] = field(default_factory=DistillConfig)


def main(config: Config) -> Path:
    """Make the data; gives their file.

    Raises:
        UserError: a split or a number of questions to measure on is given, for nothing is measured; or as `make`.
    """
    if config.setup.split != Setup.split or config.setup.questions is not None:
        raise UserError(
            "Distillation asks practice questions alone: leave --split and --questions out, and say how many by "
            "--practice-questions."
        )
    with Session("distill", config.setup, config) as session:
        file = make(session.system(), session.task, config.distill, session.run, session.drawer)
        counts = read_json(session.run.path / "counts.json")
        long = f" {counts['kept_beyond_limit']:,} are longer than {counts['limit']} tokens, the task's limit."
        failed = f" {counts['error']:,} more requests failed for good." if counts["error"] else ""
        print(
            f"{counts['kept']:,} rationales for {counts['solved_questions']:,} of {counts['questions']:,} "
            f"questions in {file}; of {counts['samples']:,} samples {counts['correct']:,} were right, "
            f"{counts['wrong']:,} wrong, {counts['unparsable']:,} without an answer, {counts['truncated']:,} "
            f"cut off.{failed}{long if counts['kept_beyond_limit'] else ''}"
        )
        print(f"Learn them: workbench lora --data {file} --data-format prompt-completion")
        return file


if __name__ == "__main__":
    run_script(main, Config, __file__)
