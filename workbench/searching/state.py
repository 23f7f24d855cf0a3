"""Where a prompt search stands: its candidates with their scores, what was spent, and what the budget has left."""

from dataclasses import dataclass, field, replace

from workbench.engines.base import Engine
from workbench.searching.candidates import Candidate, Score, Spent, Yardstick, measure
from workbench.store import Store
from workbench.tasks.base import Task
from workbench.types import System


@dataclass
class State:
    """A search under way.

    Attributes:
        system, task, engine, store: what is asked.
        score: what the candidates are measured by.
        dev_questions: how many the finalists are asked.
        budget: tokens.
        quiet: no progress bars.
        candidates: all that were proposed, by number.
        proposing: what proposals took, by round.
        hand_written: the system's own prompt on all dev questions.
        median: a candidate from the middle, and its score for the comparison.
        notes: what was left out, and why.
    """

    system: System
    task: Task
    engine: Engine
    store: Store
    score: Yardstick
    dev_questions: int
    budget: int
    quiet: bool = True
    candidates: list[Candidate] = field(default_factory=list)
    proposing: dict[int, Spent] = field(default_factory=dict)
    hand_written: Score | None = None
    median: tuple[Candidate, Score] | None = None
    notes: list[str] = field(default_factory=list)

    def measure(self, system: System, questions: int) -> Score:
        """A System's score on the first dev questions."""
        return measure(system, self.task, self.score, questions, self.engine, self.store)

    def ranking(self) -> list[Candidate]:
        """The scored candidates: those that were asked most questions first, among them by their standing."""
        scored = [c for c in self.candidates if c.scores]
        return sorted(scored, key=lambda c: (-c.widest.questions, *c.standing(c.widest.questions)))

    def find_median(self, first: int) -> None:
        """Take the middle candidate on the first questions (the lower of two); ask it all if the budget allows."""
        ranked = sorted((c for c in self.candidates if first in c.scores), key=lambda c: c.standing(first))
        candidate = ranked[len(ranked) // 2]
        score = candidate.widest
        missing = self.dev_questions - score.questions
        if missing and self.affords(missing * score.tokens_each, "the median candidate on all dev questions"):
            score = self.measure(replace(self.system, prompt=candidate.prompt), self.dev_questions)
        self.median = candidate, score

    def spent(self) -> dict[str, Spent]:
        """By purpose. What came from the store counts too: a search that goes on tells what a whole one does."""
        comparing = self.hand_written.spent if self.hand_written else Spent()
        if self.median is not None:
            candidate, score = self.median
            comparing += score.spent - candidate.widest.spent
        return {
            "proposing": sum(self.proposing.values(), Spent()),
            "scoring": sum((c.widest.spent for c in self.candidates if c.scores), Spent()),
            "comparing": comparing,
        }

    def affords(self, estimate: float, what: str) -> bool:
        """Whether a step fits into what is left of the budget; one that does not is noted."""
        left = self.budget - sum(part.tokens for part in self.spent().values())
        if estimate > left:
            self.notes.append(f"Left out, as the budget has {left:,} of about {estimate:,.0f} tokens: {what}.")
        return estimate <= left

    def tokens_each(self, candidate: Candidate) -> float:
        """Tokens a question as measured: of the candidate, else of all others, else of the hand-written prompt."""
        if candidate.scores:
            return candidate.widest.tokens_each
        others = [c.widest.tokens_each for c in self.candidates if c.scores]
        if not others:
            assert self.hand_written is not None, "the hand-written prompt is measured first"
            return self.hand_written.tokens_each
        return sum(others) / len(others)
