"""How a model is trained and on what: the settings that every tuning method shares."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from workbench.command import Flat
from workbench.errors import UserError, check_range
from workbench.tasks.rows import FILES


@dataclass(frozen=True)
class Data:
    """What is learned from, where that is not the task's practice split.

    Attributes:
        data: a .jsonl, .csv or .parquet file, or a Hub data set as owner/name, in place of the practice split.
        data_subset: the Hub data set's configuration, where it has several.
        data_split: the Hub data set's split.
        data_format: `chat` (the field `messages`), `prompt-completion` (`prompt` and `completion`) or `text`
            (`text`); `auto` takes the first of them that a row has.
        stream: read the rows as they are needed, for data that do not fit in memory; it needs steps.
        shuffle_buffer: rows of a stream that are held in memory, to be drawn from at random.
        too_long: what becomes of an example of more than max_length tokens: `drop` leaves it out, `truncate`
            cuts its end off. Both are counted.

    Raises:
        UserError: a value is out of range, or given where it means nothing.
    """

    data: str | None = None
    data_subset: str | None = None
    data_split: str = "train"
    data_format: Literal["auto", "chat", "prompt-completion", "text"] = "auto"
    stream: bool = False
    shuffle_buffer: int = 1000
    too_long: Literal["drop", "truncate"] = "drop"

    def __post_init__(self) -> None:
        check_range("shuffle_buffer", self.shuffle_buffer, 1, 10**7)
        if self.data is None:
            self._refuse(("data_subset", "data_split", "data_format", "stream"), "needs --data")
        if self.file is not None:
            self._refuse(("data_subset", "data_split"), "is of a Hub data set, and --data is a file")
        if not self.stream:
            self._refuse(("shuffle_buffer",), "goes with --stream")

    def _refuse(self, names: tuple[str, ...], why: str) -> None:
        """Refuse a setting that is not its default and would do nothing."""
        for name in names:
            if getattr(self, name) != getattr(type(self), name):
                raise UserError(f"--{name.replace('_', '-')} {why}.")

    @property
    def file(self) -> Path | None:
        """The data file; None where the data are the practice split or on the Hub."""
        if self.data is not None and (Path(self.data).suffix in FILES or Path(self.data).is_file()):
            return Path(self.data)
        return None


@dataclass(frozen=True)
class Training:
    """How a model is trained.

    Attributes:
        learning_rate: AdamW's, after a linear warm-up over the first tenth; then it falls linearly to 0.
        epochs: passes over the examples.
        steps: updates, in place of epochs; a stream needs them.
        batch_size: examples an update.
        micro_batch: the most examples computed at once; it changes memory, not the result.
        examples: how many examples to learn from, the first ones; by default all.
        max_length: examples with more tokens are left out or cut (too_long), and counted.
        precision: of the frozen weights, and of a whole model when it is saved; what is trained is float32.
        save_every: updates between checkpoints.
        training_seed: order of the examples and initial weights.
        loss_band: where the mean loss of five updates is more than so many times the first one's (or than so many
            nats, where that is below 1), the training goes back to the last checkpoint and on at half the rate;
            three times at most.
        tensorboard: write the metrics for TensorBoard too, into the run's folder `tensorboard`.
        data: what is learned from; by default the task's practice split.

    Raises:
        UserError: a value is out of range; the message names the field.
    """

    learning_rate: float = 1e-3
    epochs: int = 3
    steps: int | None = None
    batch_size: int = 16
    micro_batch: int = 16
    examples: int | None = None
    max_length: int = 1024
    precision: str = "bfloat16"
    save_every: int = 20
    training_seed: int = 0
    loss_band: float = 2.0
    tensorboard: bool = False
    data: Flat[Data] = field(default_factory=Data)

    def __post_init__(self) -> None:
        check_range("learning_rate", self.learning_rate, 0, 10, open_low=True)
        for name in ("epochs", "batch_size", "micro_batch", "max_length", "save_every"):
            check_range(name, getattr(self, name), 1, 10**6)
        for name in ("steps", "examples"):
            if getattr(self, name) is not None:
                check_range(name, getattr(self, name), 1, 10**9)
        if self.data.stream and self.steps is None:
            raise UserError("A stream has no length that is known before, so --stream needs --steps.")
        check_range("loss_band", self.loss_band, 1, 10**6)
        check_range("training_seed", self.training_seed, 0, 2**32 - 1)
        if self.precision not in ("bfloat16", "float32"):
            raise UserError(f"precision is {self.precision!r}; it must be bfloat16 or float32.")
