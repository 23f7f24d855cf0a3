"""How far a tuned model went from its base: KL on its own samples of the dev questions, and how long they are."""

from dataclasses import dataclass, replace

from workbench.decodes import Sample
from workbench.drawing import Drawer, requests_of
from workbench.stats import kl_estimates, mean_interval
from workbench.tasks.base import Task
from workbench.types import Finish, Interval, Model, System


@dataclass(frozen=True)
class Divergence:
    """What was seen, over questions whose sample was whole.

    Attributes:
        kl: nats an answer: the tokens' k1 added up, an unbiased estimate; below 0 it is noise.
        kl3: nats an answer: the tokens' k3 added up, unbiased for the same and never below 0.
        tokens: of an answer.
        answers: how many.
        left_out: questions whose sample was cut off, empty or failed.
    """

    kl: Interval
    kl3: Interval
    tokens: Interval
    answers: int
    left_out: int

    def metrics(self) -> dict[str, float]:
        """The numbers by name, as a result's metrics have them."""
        found: dict[str, float] = {}
        for name, value in (("kl", self.kl), ("kl3", self.kl3), ("sample_tokens", self.tokens)):
            found |= {name: value.value, f"{name}_low": value.low, f"{name}_high": value.high}
        return found | {"kl_answers": float(self.answers)}

    def __str__(self) -> str:
        left = f"; {self.left_out} cut off, empty or failed" if self.left_out else ""
        return (
            f"KL to the base {_span(self.kl)} nats an answer (k3 {_span(self.kl3)}), {_span(self.tokens)} tokens, "
            f"on {self.answers} samples of dev questions at temperature 1{left}"
        )


def divergence(
    system: System, base: Model, task: Task, drawer: Drawer, *, questions: int = 200
) -> Divergence | None:
    """KL(tuned ‖ base) and lengths, on one sample at temperature 1 of each of the first dev questions.

    None where no sample is whole.

    Both models score the same tokens of the same texts; the token that ends an answer is not among them.

    Args:
        system: the tuned model under its prompt.
        base: what it was tuned from.
        task: whose dev questions are asked.
        drawer: draws and scores; the base's engine comes last.
        questions: how many, at most.
    """
    asked = requests_of(system, task.dev[:questions])
    longest = getattr(system.decode, "max_tokens", None)
    drawn = drawer.draw(replace(system, decode=Sample(1, 1.0, max_tokens=longest)), asked, "samples for KL")
    whole = {
        id: c[0].text for id, c in drawn.completions.items() if c and c[0].finish is Finish.STOP and c[0].text
    }
    if not whole:
        return None
    requests = [request for request in asked if request.id in whole]
    texts = [whole[request.id] for request in requests]
    scored: list[dict[str, list[float]]] = []
    for model in (system.model, base):
        engine = drawer.engine(model)
        found: dict[str, list[float]] = {}
        for batch in engine.token_logprobs(requests, texts):
            found |= {id: [token.logprob for token in scores.tokens] for id, scores in batch if not scores.error}
        scored.append(found)
    ids = [request.id for request in requests if all(found.get(request.id) for found in scored)]
    if not ids:
        return None
    each = [kl_estimates(scored[0][id], scored[1][id]) for id in ids]
    return Divergence(
        kl=mean_interval([float(k1.sum()) for k1, _, _ in each]),
        kl3=mean_interval([float(k3.sum()) for _, _, k3 in each]),
        tokens=mean_interval([float(len(k1)) for k1, _, _ in each]),
        answers=len(ids),
        left_out=len(asked) - len(ids),
    )


def _span(value: Interval) -> str:
    return f"{value.value:.3g} ({value.low:.3g} – {value.high:.3g})"
