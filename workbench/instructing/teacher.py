"""The teacher of Self-Instruct: its prompts, the seeds that they show, its answers, and what they cost."""

import random
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from workbench.decodes import Decode
from workbench.drawing import Drawer
from workbench.instructing.failures import failures
from workbench.instructing.filters import joined
from workbench.instructing.seeds import Seed
from workbench.instructing.similarity import Pool
from workbench.prompts import load_prompt, render
from workbench.training.card import together
from workbench.types import Completion, CostToMake, Example, Finish, Model, Request, System, text_hash

PROMPTS = ("instructions", "kind", "output-first", "input-first")


@dataclass(frozen=True)
class Shown:
    """The seeds that a run shows before its questions, always the same.

    Attributes:
        of_kind: before instances, by whether they classify.
        both: before decisions; of those that do not classify half as many more, as far as there are so many.
        instances: all of theirs, so that a copy is known.
    """

    of_kind: Mapping[bool, Sequence[Seed]]
    both: Sequence[Seed]
    instances: Pool

    @staticmethod
    def of(seeds: Sequence[Seed], shots: int, draw_seed: int) -> "Shown":
        """So many of each kind, drawn from the seeds."""
        rng = random.Random(f"exemplars {draw_seed}")
        by_kind = {kind: [s for s in seeds if s.is_classification is kind] for kind in (True, False)}
        of_kind = {kind: rng.sample(found, min(len(found), shots)) for kind, found in by_kind.items()}
        others = by_kind[False]
        both = of_kind[True] + rng.sample(others, min(len(others), shots * 3 // 2))  # the paper has 12 and 19
        rng.shuffle(both)
        instances = Pool()
        for seed in (*of_kind[True], *of_kind[False]):
            for place, instance in enumerate(seed.instances):
                instances.add(f"{seed.id} {place}", joined(instance))
        return Shown(of_kind, both, instances)


class Teacher:
    """A model with the four prompts of Self-Instruct.

    Args:
        model: who is asked.
        drawer: draws its completions, through the store.
    """

    def __init__(self, model: Model, drawer: Drawer) -> None:
        self._model, self._drawer = model, drawer
        self._prompts = {name: load_prompt(f"self-instruct-{name}") for name in PROMPTS}
        self._costs: list[CostToMake] = []
        self._answered = False
        self.failed: Counter[str] = Counter()
        """Requests that failed for good, by their reasons."""

    @property
    def tokens(self) -> int:
        """Of all prompts and completions so far."""
        return sum(cost.tokens for cost in self._costs)

    def cost(self) -> CostToMake:
        """What everything that was asked cost."""
        return together(self._costs)

    def request(self, name: str, question: str, shots: Sequence[Example]) -> Request:
        """A question behind exemplars; its whole conversation names it, so that no other takes its samples."""
        prompt = self._prompts[name]
        messages = render(prompt, Example.make(question, ""), shots)
        told = "".join(f"{message.role}\n{message.content}\n" for message in messages)
        return Request(text_hash(told), messages, style=prompt.style)

    def ask(self, name: str, decode: Decode, requests: Sequence[Request], title: str) -> dict[str, Completion]:
        """One answer a request, by its id; none for one that failed for good, which is counted.

        Raises:
            UserError: some failed that may pass: the rounds after them would be others than without the failures;
                or nothing that was ever asked was answered.
        """
        if not requests:
            return {}
        drawn = self._drawer.draw(System(self._model, self._prompts[name], decode), requests, title)
        self._costs.append(drawn.cost)
        every = [found[0] for found in drawn.completions.values()]
        self.failed += failures(every, title, answered=self._answered)
        answers = {id: c[0] for id, c in drawn.completions.items() if c[0].finish is not Finish.ERROR}
        self._answered = self._answered or bool(answers)
        return answers
