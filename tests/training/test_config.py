"""Settings of training: what is out of range is refused under its name."""

from typing import Any

import pytest

from workbench.errors import UserError
from workbench.training.config import Training


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("learning_rate", 0.0), ("learning_rate", -1e-3), ("learning_rate", float("nan")),
        ("learning_rate", float("inf")), ("learning_rate", 11.0),
        ("epochs", 0), ("batch_size", 0), ("micro_batch", -1), ("examples", 0), ("max_length", 0),
        ("save_every", 0), ("training_seed", -1), ("training_seed", 2**32), ("precision", "float16"),
    ],
)  # fmt: skip
def test_a_setting_out_of_range_is_named(field: str, value: Any) -> None:
    with pytest.raises(UserError, match=rf"^{field} is "):
        Training(**{field: value})
