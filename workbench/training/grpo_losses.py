"""GRPO's losses, and what rewards are divided by, as TRL names them: without torch, for a recipe's --help."""

from typing import Literal

Loss = Literal["dapo", "grpo", "dr_grpo", "bnpo", "cispo", "sapo", "luspo", "vespo"]
Scale = Literal["group", "batch", "none"]
