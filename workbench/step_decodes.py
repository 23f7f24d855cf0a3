"""The decodes that answer in several stages, each of which asks the model anew; frozen dataclasses.

What they do is in `decoding/beam_search.py`, `decoding/revision.py` and `decoding/budget_forcing.py`.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from workbench.errors import UserError, check_range
from workbench.sampling import LONGEST, Sampling


@dataclass(frozen=True)
class Stepwise:
    """How the tokens of every stage are drawn.

    Attributes:
        temperature, top_p, top_k: as in `Sample`.
        max_tokens: the longest answer that is waited for; None takes the task's own limit.
        seed: another seed draws other samples.
    """

    temperature: float = 0.7
    top_p: float = 1.0
    top_k: int = 0
    max_tokens: int | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        Sampling(self.temperature, self.top_p, self.top_k, self.longest, seed=self.seed)

    @property
    def longest(self) -> int:
        """Tokens of the longest answer."""
        return LONGEST if self.max_tokens is None else self.max_tokens

    def sampling(self) -> Sampling:
        """How one whole answer is drawn; the prompt's stop strings are added by the caller."""
        return Sampling(self.temperature, self.top_p, self.top_k, self.longest, seed=self.seed)


@dataclass(frozen=True)
class BeamSearch(Stepwise):
    """Beam search over steps (Snell et al. 2024, arXiv 2408.03314, §5.2), or diverse tree search.

    Attributes:
        beams: N, the candidates of a step.
        keep: M, how many of them are gone on with, each in N / M ways. The paper's M is our N / M.
        diverse: M independent subtrees, of each of whose N / M candidates the best is gone on with, in place of
            the best M of all (diverse verifier tree search, Beeching et al. 2024).
        separators: texts that end a step. In a shell a line's end is $'\\n'.
        step_tokens: the longest step.
        scorer: what a step is judged by. `logprob`: the step's mean log-probability a token; `judge`: the model's
            own probability of True behind the prompt `judge`; else the folder of a reward model, which reads the
            answer so far.
        judge: that prompt; its variable `answer` is the answer so far.
        choose: the answer among the finished beams: `score`, the best of them, by the mean log-probability a token
            of the whole answer under the scorer `logprob`; `vote`, the answer whose beams' weights add up to the
            most: exp of that mean, P(True), or the reward's sigmoid.

    Raises:
        UserError: a value is out of its range, or `keep` does not divide `beams`; the message names the field.
    """

    beams: int = 8
    keep: int = 2
    diverse: bool = False
    separators: tuple[str, ...] = ("\n", ". ")
    step_tokens: int = 64
    scorer: str = "logprob"
    judge: str = "judge-step"
    choose: Literal["score", "vote"] = "score"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_range("beams", self.beams, 1, 10**4)
        check_range("keep", self.keep, 1, self.beams)
        if self.beams % self.keep:
            raise UserError(f"keep is {self.keep}; it must divide the number of beams, {self.beams}.")
        check_range("step_tokens", self.step_tokens, 1, 10**6)
        if not self.separators or "" in self.separators:
            raise UserError(f"separators is {self.separators!r}; it must be one or more texts, none empty.")
        if self.scorer in ("", "verifier", "self-certainty"):
            raise UserError(
                f"scorer is {self.scorer!r}, which judges no steps; it must be logprob, judge or the folder of a "
                "reward model."
            )
        if self.choose not in ("score", "vote"):
            raise UserError(f"choose is {self.choose!r}; it must be score or vote.")


@dataclass(frozen=True)
class Revision(Stepwise):
    """Critique and revise (Self-Refine, Madaan et al. 2023, arXiv 2303.17651), k rounds.

    Attributes:
        rounds: k; each asks for a critique of the answer and for an answer that heeds it.
        critique, revise: the prompts that ask for them: names, or .yaml files.
        critique_tokens: the longest critique.
        choose: `last` is the answer of the last round; `majority` the most frequent answer of all rounds, the
            first one's among them.
    """

    rounds: int = 1
    critique: str = "critique"
    revise: str = "revise"
    critique_tokens: int = 128
    choose: Literal["last", "majority"] = "last"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_range("rounds", self.rounds, 1, 100)
        check_range("critique_tokens", self.critique_tokens, 1, 10**6)
        if self.choose not in ("last", "majority"):
            raise UserError(f"choose is {self.choose!r}; it must be last or majority.")


@dataclass(frozen=True)
class BudgetForcing(Stepwise):
    """Budget forcing (s1, Muennighoff et al. 2025, arXiv 2501.19393, §3.1): thinking no shorter and no longer.

    For a model with a thinking section, `begin` and `end` part it from the answer. For a step-by-step prompt the
    thinking is what comes before the answer's marker: `begin` and `final` are empty, `end` is the marker ("####").

    Attributes:
        at_least: thinking tokens; an earlier end is left out, `wait` is put in its place, and the model goes on.
        at_most: thinking tokens; there thinking is cut off and the answer forced.
        waits: how often `wait` may be put in, whatever `at_least` is.
        begin: put before the answer, so that it begins with thinking; empty where the model's template does it.
        end: ends the thinking, and comes before the answer.
        final: put behind `end` where an answer must be forced, in the words that the task's prompt asks for.
        wait: what goes on in place of the end.
        max_tokens: of the answer, behind the thinking.
    """

    temperature: float = 0.0
    at_least: int = 0
    at_most: int = LONGEST
    waits: int = 8
    begin: str = "<think>\n"
    end: str = "</think>"
    final: str = "\n\nThe answer is"
    wait: str = "\nWait"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_range("at_most", self.at_most, 1, 10**6)
        check_range("at_least", self.at_least, 0, self.at_most)
        check_range("waits", self.waits, 0, 1000)
        for name in ("end", "wait"):
            if not getattr(self, name).strip():
                raise UserError(f"{name} is {getattr(self, name)!r}; it must be a text.")

    def sampling(self) -> Sampling:
        """How thinking and answer are drawn together."""
        longest = self.at_most + self.longest
        return Sampling(self.temperature, self.top_p, self.top_k, longest, seed=self.seed)


def own_prompts(decode: object) -> dict[str, str]:
    """The files of one's own that a decode takes its prompts from, by field; those that ship have names."""
    named = {name: str(getattr(decode, name, "")) for name in ("judge", "critique", "revise")}
    return {name: path for name, path in named.items() if isinstance(decode, Stepwise) and Path(path).is_file()}
