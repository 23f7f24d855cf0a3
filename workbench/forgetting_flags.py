"""Whether forgetting is measured, and on what: the flags of the recipes that tune.

Apart from `forgetting.py`, because --help needs them and not what computes.
"""

from dataclasses import dataclass
from pathlib import Path

from workbench.errors import UserError, check_range


@dataclass(frozen=True)
class Forgetting:
    """Whether forgetting is measured, and on what.

    Attributes:
        forgetting: measure what tuning made the model forget: its loss on general text before and after.
        forgetting_text: a file of paragraphs, parted by blank lines, in place of the project's own text.
        forgetting_tasks: tasks whose accuracy is measured before and after too, on their dev splits: names with
            their settings behind commas, as phrasebank,path=DIR, or .yaml files.
        forgetting_questions: how many questions of each of those tasks, at most.

    Raises:
        UserError: a text or tasks are named, and forgetting is not asked for.
    """

    forgetting: bool = False
    forgetting_text: Path | None = None
    forgetting_tasks: tuple[str, ...] = ()
    forgetting_questions: int = 100

    def __post_init__(self) -> None:
        check_range("forgetting_questions", self.forgetting_questions, 1, 10**9)
        if not self.forgetting and (self.forgetting_text or self.forgetting_tasks):
            raise UserError(
                "forgetting_text and forgetting_tasks say how forgetting is measured: add --forgetting."
            )
