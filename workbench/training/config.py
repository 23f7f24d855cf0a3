"""How a model is trained: the settings that every tuning method shares."""

from dataclasses import dataclass

from workbench.errors import UserError, check_range


@dataclass(frozen=True)
class Training:
    """How a model is trained.

    Attributes:
        learning_rate: AdamW's, after a linear warm-up over the first tenth; then it falls linearly to 0.
        epochs: passes over the examples.
        steps: updates, in place of epochs; a stream needs them.
        batch_size: examples an update.
        micro_batch: examples computed at once; it must divide batch_size and changes memory, not the result.
        examples: how many practice examples to learn from; by default all.
        max_length: examples with more tokens are left out, and counted.
        precision: of the frozen weights; what is trained is float32.
        save_every: updates between checkpoints.
        training_seed: order of the examples and initial weights.
        loss_band: a loss of more than so many times the first update's (or than so many nats, where that is below
            1) is divergence: the training goes back to the last checkpoint and on at half the rate, three times.
        tensorboard: write the metrics for TensorBoard too, into the run's folder `tensorboard`.

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

    def __post_init__(self) -> None:
        check_range("learning_rate", self.learning_rate, 0, 10, open_low=True)
        for name in ("epochs", "batch_size", "micro_batch", "max_length", "save_every"):
            check_range(name, getattr(self, name), 1, 10**6)
        for name in ("steps", "examples"):
            if getattr(self, name) is not None:
                check_range(name, getattr(self, name), 1, 10**9)
        check_range("loss_band", self.loss_band, 1, 10**6)
        check_range("training_seed", self.training_seed, 0, 2**32 - 1)
        if self.batch_size % self.micro_batch:
            raise UserError(f"micro_batch is {self.micro_batch}; it must divide batch_size, {self.batch_size}.")
        if self.precision not in ("bfloat16", "float32"):
            raise UserError(f"precision is {self.precision!r}; it must be bfloat16 or float32.")
