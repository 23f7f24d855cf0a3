"""How far a tuned model went from its base: KL on its own samples of the dev questions, and how long they are."""

from dataclasses import dataclass, replace

from workbench.decodes import Sample
from workbench.drawing import Drawer, requests_of
from workbench.preferring.bias import mean_over
from workbench.stats import kl_estimates
from workbench.tasks.base import Task
from workbench.types import Finish, Interval, Model, System


@dataclass(frozen=True)
class Divergence:
    """What was seen, over questions whose sample was whole and could be scored.

    KL is that of the texts of answers that end in time, without the token that ends them: samples that were cut
    off are left out, so that it is no estimate of KL over all answers, the less the more there are of them. Of one
    answer there is no interval.

    Attributes:
        kl: nats an answer: the tokens' k1 added up; below 0 it is noise.
        kl3: nats an answer: the tokens' k3 added up, never below 0.
        tokens: of an answer.
        answers: how many.
        left_out: questions whose sample was cut off, empty or failed.
        unscored: questions whose sample one of the models could not score.
    """

    kl: Interval | float
    kl3: Interval | float
    tokens: Interval | float
    answers: int
    left_out: int = 0
    unscored: int = 0

    def metrics(self) -> dict[str, float]:
        """The numbers by name, as a result's metrics have them."""
        found: dict[str, float] = {}
        for name, value in (("kl", self.kl), ("kl3", self.kl3), ("sample_tokens", self.tokens)):
            if isinstance(value, Interval):
                found |= {name: value.value, f"{name}_low": value.low, f"{name}_high": value.high}
            else:
                found[name] = value
        return found | {"kl_answers": float(self.answers)}

    def __str__(self) -> str:
        left = f"; {self.left_out} cut off, empty or failed" if self.left_out else ""
        left += f"; {self.unscored} could not be scored" if self.unscored else ""
        return (
            f"KL to the base {_span(self.kl)} nats an answer (k3 {_span(self.kl3)}), {_span(self.tokens)} tokens, "
            f"on {self.answers} whole samples of dev questions at temperature 1, without the end token{left}"
        )


def divergence(
    system: System, base: Model, task: Task, drawer: Drawer, *, questions: int = 200
) -> Divergence | str:
    """KL(tuned ‖ base) and lengths, on one sample at temperature 1 of each of the first dev questions.

    A text, why there is none, where no sample is whole or none could be scored.

    Both models score the same tokens of the same texts; the token that ends an answer is not among them.

    Args:
        system: the tuned model under its prompt.
        base: what it was tuned from.
        task: whose dev questions are asked.
        drawer: draws and scores; the base's engine comes last.
        questions: how many, at most.
    """
    asked = requests_of(system, task.dev[:questions])
    longest = getattr(system.decode, "max_tokens", None) or task.max_tokens
    drawn = drawer.draw(replace(system, decode=Sample(1, 1.0, max_tokens=longest)), asked, "samples for KL")
    whole = {
        id: c[0].text for id, c in drawn.completions.items() if c and c[0].finish is Finish.STOP and c[0].text
    }
    none = "KL to the base cannot be told: none of"
    if not whole:
        return f"{none} {len(asked)} samples of dev questions at temperature 1 was whole"
    requests = [request for request in asked if request.id in whole]
    texts = [whole[request.id] for request in requests]
    scored: list[dict[str, list[float]]] = []
    problem = ""
    for model in (system.model, base):
        engine = drawer.engine(model)
        found: dict[str, list[float]] = {}
        for batch in engine.token_logprobs(requests, texts):
            for id, scores in batch:
                if scores.error:
                    problem = problem or scores.error
                else:
                    found[id] = [token.logprob for token in scores.tokens]
        scored.append(found)
    ids = [request.id for request in requests if all(found.get(request.id) for found in scored)]
    if not ids:
        why = problem or "they have no token"
        return f"{none} {len(whole)} whole samples of dev questions could be scored by both models: {why}"
    each = [kl_estimates(scored[0][id], scored[1][id]) for id in ids]
    return Divergence(
        kl=mean_over([float(k1.sum()) for k1, _, _ in each], ids),
        kl3=mean_over([float(k3.sum()) for _, _, k3 in each], ids),
        tokens=mean_over([float(len(k1)) for k1, _, _ in each], ids),
        answers=len(ids),
        left_out=len(asked) - len(whole),
        unscored=len(whole) - len(ids),
    )


def _span(value: Interval | float) -> str:
    if not isinstance(value, Interval):
        return f"{value:.3g} (one answer, no interval)"
    return f"{value.value:.3g} ({value.low:.3g} – {value.high:.3g})"
