"""The settings of preference data: a source, and what that source takes."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from workbench.errors import UserError, check_range
from workbench.types import Model, System

# What a source takes where nobody says: (samples, pairs_per_question).
USUAL = {"verifier": (8, 4), "judge": (4, 1), "constitution": (1, 1)}

_ONLY_FOR = {
    "samples": ("verifier", "judge", "constitution"),
    "pairs_per_question": ("verifier", "judge", "constitution"),
    "temperature": ("verifier", "judge", "constitution"),
    "pair_seed": ("verifier", "judge", "constitution"),
    "truncated_rejected": ("verifier",),
    "judge": ("judge",),
    "reasons": ("judge",),
    "write_tokens": ("judge", "constitution"),
    "constitution": ("constitution",),
    "file": ("votes", "file"),
}


@dataclass(frozen=True)
class Config:
    """Where pairs come from.

    Attributes:
        source: verifier, judge, constitution, votes or file.
        samples: answers that the model gives to a question; by default 8 for verifier, 4 for judge, 1 for
            constitution.
        pairs_per_question: at most; by default 4 for verifier, 1 for judge and constitution.
        temperature: of the samples, critiques and revisions.
        pair_seed: of the samples, and of what is chosen of several.
        truncated_rejected: verifier: let an answer that was cut off be the rejected one; without it such answers
            are left out.
        judge: judge: another model that judges; by default the one that answers.
        reasons: judge: reasons are written before the verdict, whose probabilities are clamped to 0.4 – 0.6.
        write_tokens: judge, constitution: the longest reasons, critique or revision that is waited for.
        constitution: constitution: a .jsonl, .csv or .parquet file with the field `principle`; by default the
            project's own.
        file: votes, file: a .jsonl, .csv or .parquet file.

    Raises:
        UserError: a value is out of range, or given to a source that has no use for it; the message
            names the field.
    """

    source: Literal["verifier", "judge", "constitution", "votes", "file"] = "verifier"
    samples: int | None = None
    pairs_per_question: int | None = None
    temperature: float = 0.8
    pair_seed: int = 0
    truncated_rejected: bool = False
    judge: str | None = None
    reasons: bool = False
    write_tokens: int = 256
    constitution: str | None = None
    file: str | None = None

    def __post_init__(self) -> None:
        for name, sources in _ONLY_FOR.items():
            if self.source not in sources and getattr(self, name) != type(self).__dataclass_fields__[name].default:
                raise UserError(f"{name} is for --source {' or '.join(sources)}; the source is {self.source}.")
        if self.source == "judge" and not self.reasons and self.write_tokens != 256:
            raise UserError("write_tokens is for --reasons here: a verdict without them is no text.")
        if self.source in ("votes", "file") and self.file is None:
            raise UserError(f"The source {self.source} needs a file: --file FILE.jsonl")
        check_range("temperature", self.temperature, 0, 100, open_low=True)
        check_range("pair_seed", self.pair_seed, 0, 2**62)
        check_range("write_tokens", self.write_tokens, 1, 10**6)
        if self.source in USUAL:
            least = {"verifier": 2, "judge": 2, "constitution": 1}[self.source]
            check_range("samples", self.n, least, 10**6)
            # An answer with its revision, two answers, or a right and a wrong one: no more can come.
            most = {"constitution": self.n, "judge": self.n * (self.n - 1) // 2, "verifier": self.n**2 // 4}
            if self.pairs_per_question is not None:
                check_range("pairs_per_question", self.pairs_per_question, 1, most[self.source])

    @property
    def n(self) -> int:
        """Samples a question."""
        return USUAL[self.source][0] if self.samples is None else self.samples

    @property
    def per_question(self) -> int:
        """Pairs of a question, at most."""
        return USUAL[self.source][1] if self.pairs_per_question is None else self.pairs_per_question

    def judge_of(self, system: System) -> Model:
        """The model that judges a system's answers."""
        return Model(self.judge) if self.judge else system.model

    def used(self) -> dict[str, Any]:
        """The settings that the source has a use for, files by their names."""
        used = {name: getattr(self, name) for name, sources in _ONLY_FOR.items() if self.source in sources}
        if self.source in USUAL:
            used |= {"samples": self.n, "pairs_per_question": self.per_question}
        return {
            name: Path(value).name if name in ("file", "constitution") and value else value
            for name, value in used.items()
            if name != "judge"
        }
