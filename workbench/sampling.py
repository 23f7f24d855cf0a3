"""How tokens are drawn, whatever is done with them; a frozen dataclass, standard library only."""

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
    keep_stop: bool = False  # the string that ended an answer stays at its end (not in `Engine.stream`)

    def __post_init__(self) -> None:
        check_range("temperature", self.temperature, 0, 100)
        check_range("top_p", self.top_p, 0, 1, open_low=True)
        check_range("top_k", self.top_k, 0, 10**9)
        check_range("max_tokens", self.max_tokens, 1, 10**6)
        check_range("seed", self.seed, 0, 2**63 - 1)
        if "" in self.stop:
            raise UserError("stop holds an empty string, which would end every answer before it began.")

    def limit(self, own: int | None) -> int:
        """Tokens of an answer at most, for a request that has a limit of its own."""
        return self.max_tokens if own is None else min(own, self.max_tokens)
