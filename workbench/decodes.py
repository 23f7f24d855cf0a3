"""The decode slot: how a System gets from a prompt to an answer; frozen dataclasses, standard library only."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from workbench.errors import UserError, check_range
from workbench.sampling import LONGEST, Sampling
from workbench.step_decodes import BeamSearch, BudgetForcing, Revision

__all__ = ["LONGEST", "BestOfN", "Decode", "Greedy", "LabelLikelihood", "Majority", "Sample", "Sampling"]


@dataclass(frozen=True)
class Greedy:
    """The most likely token at every step; one answer a question.

    Attributes:
        max_tokens: the longest answer that is waited for; None takes the task's own limit when a recipe makes
            the System, and `LONGEST` where no task says.
    """

    max_tokens: int | None = None

    def __post_init__(self) -> None:
        self.sampling()

    def sampling(self) -> Sampling:
        """How this decode draws its tokens; the prompt's stop strings are added by the caller."""
        return Sampling(temperature=0.0, max_tokens=LONGEST if self.max_tokens is None else self.max_tokens)


@dataclass(frozen=True)
class Sample:
    """n independent samples a question, each graded for itself: the score is the mean (pass@1).

    Attributes:
        n: samples a question.
        temperature, top_p, top_k: how tokens are drawn; top_k 0 keeps every token.
        max_tokens: as in `Greedy`.
        seed: another seed draws other samples.
    """

    n: int = 1
    temperature: float = 0.7
    top_p: float = 1.0
    top_k: int = 0
    max_tokens: int | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        check_range("n", self.n, 1, 10**6)
        self.sampling()

    def sampling(self) -> Sampling:
        """How this decode draws its tokens; the prompt's stop strings are added by the caller."""
        longest = LONGEST if self.max_tokens is None else self.max_tokens
        return Sampling(self.temperature, self.top_p, self.top_k, longest, seed=self.seed)


@dataclass(frozen=True)
class Majority(Sample):
    """Self-consistency (Wang et al. 2022): n samples, the most frequent parsed answer is the answer."""

    n: int = 16


@dataclass(frozen=True)
class EarlyMajority(Majority):
    """A majority vote that draws no more samples of a question than it needs, and at most n.

    Attributes:
        stop: certain, when what is left cannot change the answer, which is then the whole vote's; or a confidence
            above 0.5: also as soon as the leader is so likely to be ahead of the runner-up
            (Adaptive-Consistency, Aggarwal et al. 2023, arXiv 2305.11860).
        block: samples of a question that are drawn together, at least.
    """

    stop: Literal["certain"] | float = "certain"
    block: int = 4

    def __post_init__(self) -> None:
        super().__post_init__()
        check_range("block", self.block, 1, 10**6)
        if self.stop != "certain" and not (isinstance(self.stop, float) and 0.5 < self.stop < 1):
            raise UserError(f"stop is {self.stop!r}; it must be certain, or a number above 0.5 and below 1.")


OWN_SCORERS = ("verifier", "logprob", "self-certainty", "judge")
"""Scorers that need no model beside the System's own."""


@dataclass(frozen=True)
class BestOfN(Sample):
    """Best of n (Cobbe et al. 2021, arXiv 2110.14168, §4): of n samples the one that a scorer likes best.

    Of equal scores the earlier sample wins. A sample that was cut off cannot be chosen; one without a parsable
    answer can, and is then not right.

    Attributes:
        scorer: the folder of a reward model, as `workbench reward_model` makes it; logprob, the sample's mean
            log-probability a token; self-certainty, how far the model's distributions were from uniform on the
            way (engine hf); judge, the probability that the model gives to "True" when it is asked about the
            answer; or verifier, the task's own grader: an oracle, the ceiling.
    """

    n: int = 16
    scorer: str = ""


@dataclass(frozen=True)
class WeightedVote(BestOfN):
    """Weighted vote (Cobbe et al. 2021; Snell et al. 2024): the answer whose samples' weights add up to the most.

    A sample's weight is made of its score: exp of a mean log-probability, a reward's sigmoid; self-certainty, a
    probability and a grade are weights as they are. A sample that was cut off or has no parsable answer has no
    voice.
    """

    scorer: str = "logprob"


CONTENT_FREE = ("N/A", "[MASK]", "")  # the inputs that Zhao et al. average over


@dataclass(frozen=True)
class LabelLikelihood:
    """Classification: the label whose text is most likely after the prompt; nothing is generated.

    Attributes:
        normalize: divide each label's log-probability by its number of tokens.
        content_free: contextual calibration (Zhao et al. 2021, arXiv 2102.09690): label probabilities are
            divided by their mean over these inputs in the question's place; none is no calibration.
    """

    normalize: bool = False
    content_free: tuple[str, ...] = ()


def reward_folder(decode: object) -> str | None:
    """The folder of the reward model that a decode names, if it names one and the folder is there."""
    if not isinstance(decode, (BestOfN, BeamSearch)) or decode.scorer in ("", *OWN_SCORERS):
        return None
    return decode.scorer if Path(decode.scorer).is_dir() else None


Decode = (
    Greedy
    | Sample
    | Majority
    | EarlyMajority
    | BestOfN
    | WeightedVote
    | LabelLikelihood
    | BeamSearch
    | Revision
    | BudgetForcing
)
