"""The losses of preference optimisation by name, and what each takes; `pair_loss.py` computes them through TRL."""

from dataclasses import dataclass
from typing import Literal

from workbench.errors import UserError

Loss = Literal[
    "sigmoid", "cdpo", "robust", "hinge", "ipo", "sigmoid_norm", "exo_pair", "nca_pair", "bco_pair", "sppo_hard",
    "aot", "aot_unpaired", "apo_zero", "apo_down", "discopop", "sft", "kto", "apo_zero_unpaired",
]  # fmt: skip


@dataclass(frozen=True)
class Kind:
    """What there is to know of a loss.

    Attributes:
        smoothing: whether it takes label smoothing: `none`, `may` or `must`.
        whole: its pairs are not independent: a batch of it must not be cut.
        unpaired: it judges each answer for itself; TRL's KTOTrainer has it.
        mismatched: it measures KL on a prompt with the answers to another one.
    """

    smoothing: Literal["none", "may", "must"] = "none"
    whole: bool = False
    unpaired: bool = False
    mismatched: bool = False


LOSSES: dict[Loss, Kind] = {
    "sigmoid": Kind(),  # DPO
    "cdpo": Kind("must"),  # Mitchell 2023: labels that are wrong with probability ε
    "robust": Kind("must"),  # Chowdhury et al. 2024, arXiv 2403.00409: unbiased under such labels
    "hinge": Kind(),  # SLiC, Zhao et al. 2023, arXiv 2305.10425
    "ipo": Kind(),  # Azar et al. 2023, arXiv 2310.12036, eq. 17, a token's mean
    "sigmoid_norm": Kind(),  # DPO on a token's mean, Meng et al. 2024, arXiv 2405.14734
    "exo_pair": Kind("must"),  # Ji et al. 2024, arXiv 2402.00856, eq. 16
    "nca_pair": Kind(),  # Chen et al. 2024, arXiv 2402.05369
    "bco_pair": Kind(),  # Jung et al. 2024, arXiv 2404.04656
    "sppo_hard": Kind(),  # Wu et al. 2024, arXiv 2405.00675, eq. 4.7
    "aot": Kind("may", whole=True),  # Melnyk et al. 2024, arXiv 2406.05882: sorted over the batch
    "aot_unpaired": Kind("may", whole=True),
    "apo_zero": Kind(),  # D'Oosterlinck et al. 2024, arXiv 2408.06266, eq. 7
    "apo_down": Kind(),  # eq. 8
    "discopop": Kind(),  # Lu et al. 2024, arXiv 2406.08414, eq. 5
    "sft": Kind(whole=True),  # the chosen answers alone, a token's mean
    "kto": Kind(whole=True, unpaired=True, mismatched=True),  # Ethayarajh et al. 2024, arXiv 2402.01306, eq. 7
    "apo_zero_unpaired": Kind(unpaired=True),
}


def check_loss(loss: Loss, label_smoothing: float) -> None:
    """See that the label smoothing is what the loss takes.

    Raises:
        UserError: the loss would take no notice of it, or needs it.
    """
    kind = LOSSES[loss].smoothing
    if kind == "none" and label_smoothing:
        able = ", ".join(name for name, kind in LOSSES.items() if kind.smoothing != "none")
        raise UserError(f"--label-smoothing means nothing to the loss {loss}; it is for {able}.")
    if kind == "must" and not label_smoothing:
        raise UserError(f"The loss {loss} needs --label-smoothing, the share of labels that are wrong, above 0.")
