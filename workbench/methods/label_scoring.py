"""How a label is found: by its likelihood after the prompt, by that per token, or written and read. Decode slot.

Calibration is contextual calibration (Zhao et al. 2021, arXiv 2102.09690) with the paper's three content-free
inputs; `decoding/labels.py` has the arithmetic, and says where it departs from the paper.
"""

from dataclasses import dataclass, replace
from typing import Literal

from workbench.decodes import CONTENT_FREE, Greedy, LabelLikelihood
from workbench.errors import UserError
from workbench.tasks.base import Task
from workbench.types import System


@dataclass(frozen=True)
class Config:
    """How labels are scored.

    Attributes:
        scoring: likelihood (of the whole label), mean-likelihood (per token, for labels of different lengths),
            or generated (the model writes an answer, and the label is read from it).
        calibrate: divide out what the prompt says without a question (contextual calibration).

    Raises:
        UserError: calibration of generated answers, which have no label probabilities.
    """

    scoring: Literal["likelihood", "mean-likelihood", "generated"] = "likelihood"
    calibrate: bool = False

    def __post_init__(self) -> None:
        if self.calibrate and self.scoring == "generated":
            raise UserError(
                "Generated answers have no label probabilities to calibrate. Use --calibrate with --scoring "
                "likelihood or mean-likelihood."
            )


def adapt(system: System, task: Task, config: Config) -> System:
    """The system with its labels scored so; a task without labels keeps its own decode.

    Raises:
        UserError: settings for a task without labels, or a label that begins another one under the likelihood
            of whole labels; both are named.
    """
    from workbench.decoding.labels import check_labels  # here: numpy would slow --help down

    if not task.labels:
        if config != Config():
            raise UserError(
                f"The task {task.name!r} has no labels: --scoring and --calibrate are for classification."
            )
        return system
    if config.scoring == "generated":
        return replace(system, decode=Greedy(task.max_tokens))
    decode = LabelLikelihood(config.scoring == "mean-likelihood", CONTENT_FREE if config.calibrate else ())
    check_labels(decode, task.name, task.labels)
    return replace(system, decode=decode)
