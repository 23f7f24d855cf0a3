"""The decode slot: how a System gets from a prompt to an answer; frozen dataclasses, standard library only."""

from dataclasses import dataclass

from workbench.errors import UserError, check_range

LONGEST = 256  # tokens of an answer where nobody says


@dataclass(frozen=True)
class Sampling:
    """How tokens are drawn. Temperature 0 is greedy decoding.

    Raises:
        UserError: a value is NaN, infinite or out of its range, or a stop string is empty; the message names the
            field.
    """

    temperature: float = 1.0  # 0 takes the most likely token
    top_p: float = 1.0  # keeps the likeliest tokens, until their probabilities add up to this
    top_k: int = 0  # keeps so many of the likeliest tokens; 0 keeps every one
    max_tokens: int = LONGEST  # of an answer
    stop: tuple[str, ...] = ()  # strings that end an answer
    seed: int = 0  # another seed draws other samples

    def __post_init__(self) -> None:
        check_range("temperature", self.temperature, 0, 100)
        check_range("top_p", self.top_p, 0, 1, open_low=True)
        check_range("top_k", self.top_k, 0, 10**9)
        check_range("max_tokens", self.max_tokens, 1, 10**6)
        check_range("seed", self.seed, 0, 2**63 - 1)
        if "" in self.stop:
            raise UserError("stop holds an empty string, which would end every answer before it began.")


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
class BestOfN(Sample):
    """Best of n (Cobbe et al. 2021, arXiv 2110.14168, §4): of n samples the one that a reward model likes best.

    Of equal rewards the earlier sample wins. A sample that was cut off cannot be chosen; one without a parsable
    answer can, and is then not right.

    Attributes:
        scorer: the folder of a reward model, as `workbench reward_model` makes it.
    """

    n: int = 16
    scorer: str = ""


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


Decode = Greedy | Sample | Majority | BestOfN | LabelLikelihood
