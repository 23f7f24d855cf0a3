"""Proxy tuning's model slot: a base that an expert and an antiexpert steer (Liu et al. 2024, arXiv 2401.08565)."""

from dataclasses import dataclass

from workbench.errors import UserError, check_range
from workbench.types import Model

LARGEST = 100.0
"""Of α, whichever its sign."""


@dataclass(frozen=True, kw_only=True)
class Proxy(Model):
    """A base model steered as it decodes: the next token's logits are s_base + α·(s_expert − s_antiexpert) (§2).

    It stands wherever a `Model` does. The fields that it inherits are the base's: `base`, `revision`, `adapter`,
    `quantization`. No weights are made, so what needs one set of weights refuses it (`check_one`).

    Attributes:
        expert: a model with the base's vocabulary, tuned.
        antiexpert: what the expert was tuned from.
        alpha: α; 1 is the paper's, 0 the base alone.

    Raises:
        UserError: α is no number from −100 to 100, or a part is itself steered.
    """

    expert: Model
    antiexpert: Model
    alpha: float

    def __post_init__(self) -> None:
        check_range("alpha", self.alpha, -LARGEST, LARGEST)
        object.__setattr__(self, "alpha", float(self.alpha))  # 1 and 1.0 are one model, with one hash
        for name in ("expert", "antiexpert"):
            part = getattr(self, name)
            if not isinstance(part, Model) or isinstance(part, Proxy):
                raise UserError(f"{name} is {part!r:.80}; it must be a Model that is not itself steered.")

    @property
    def steered(self) -> Model:
        """The base alone."""
        return Model(self.base, self.revision, self.adapter, self.quantization)


def steer(base: Model, expert: Model, antiexpert: Model, alpha: float) -> Proxy:
    """The base with an expert and an antiexpert. Errors as `Proxy`, and where the base is steered already."""
    if isinstance(base, Proxy):
        raise UserError("base is steered already; steer the model that it was.")
    return Proxy(**vars(base), expert=expert, antiexpert=antiexpert, alpha=alpha)


def check_one(model: Model, doing: str) -> None:
    """Refuse a proxy-tuned model where one set of weights is needed.

    Args:
        model: what was given.
        doing: what cannot be done with it, as in "merged into one".

    Raises:
        UserError: it is a `Proxy`.
    """
    if isinstance(model, Proxy):
        raise UserError(
            f"A proxy-tuned model cannot be {doing}: it is {model.base!r} steered by two other models as it "
            "decodes, and has no weights of its own. Name its base or its expert, or measure it with --engine hf."
        )
