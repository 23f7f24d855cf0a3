"""From outcomes and completions to numbers: the score with its interval, macro F1, what use costs."""

from collections import Counter
from collections.abc import Sequence

import numpy as np

from workbench.choice_metrics import mean_score
from workbench.cost import ModelShape, inference_flops
from workbench.stats import macro_f1_interval
from workbench.types import Completion, CostToUse, Example, Finish, Interval, Outcome


def score_interval(outcomes: Sequence[Outcome]) -> Interval:
    """The mean score over the questions that were answered: Wilson for scores of 0 and 1, else bootstrap."""
    return mean_score([outcome.score for outcome in outcomes if outcome.score is not None])


def class_metrics(outcomes: Sequence[Outcome], labels: Sequence[str]) -> dict[str, float]:
    """Macro F1 with its interval, and the share of the most frequent target, over the answered questions."""
    kept = [outcome for outcome in outcomes if outcome.score is not None]
    targets = [outcome.target for outcome in kept]
    if not targets:
        return {"macro_f1": 0.0, "majority_class": 0.0}
    f1 = macro_f1_interval(targets, [outcome.answer for outcome in kept], labels)
    return {
        "macro_f1": f1.value,
        "macro_f1_low": f1.low,
        "macro_f1_high": f1.high,
        "majority_class": Counter(targets).most_common(1)[0][1] / len(targets),
    }


def by_kind(kind: str, examples: Sequence[Example], outcomes: Sequence[Outcome]) -> str:
    """A sentence with the right answers of each kind of question; of several samples the mean counts.

    Args:
        kind: the variable that says an example's kind.
        examples: the questions.
        outcomes: one a question.
    """
    found: dict[str, list[float]] = {}
    for example, outcome in zip(examples, outcomes, strict=True):
        if outcome.score is not None:
            found.setdefault(dict(example.variables)[kind], []).append(outcome.score)
    told = [f"{name} {sum(scores):g}/{len(scores)}" for name, scores in sorted(found.items())]
    return f"Right answers by {kind}: {', '.join(told)}."


def cost_to_use(
    shape: ModelShape | None,
    answers: Sequence[Sequence[Completion]],
    shared: Sequence[Sequence[Completion]],
    samples: float,
    rounds: Sequence[int] = (),
) -> CostToUse:
    """Means over the questions that were answered; a prompt counts once for the samples or labels of a round.

    Args:
        shape: the model's, or None.
        answers: the completions of each question that was answered.
        shared: those of each prompt that the questions needed beside their own, as calibration does: its cost
            is shared out over the questions.
        samples: completions that were asked for a question, in the mean.
        rounds: how often each question of `answers` was asked; once where none is told.
    """
    again = [rounds[i] - 1 for i, found in enumerate(answers) if _whole(found)] if rounds else []
    answers = [whole for found in answers if (whole := _whole(found))]
    shared = [whole for found in shared if (whole := _whole(found))]
    if not answers:
        return CostToUse()
    prompt, completion, seconds = _means(answers)
    flops = inference_flops(shape, prompt, completion / samples, samples) if shape else None
    for more, found in zip(again, answers, strict=False):  # read once more for each round behind the first
        read = max(c.prompt_tokens for c in found)
        prompt += more * read / len(answers)
        if shape and flops is not None:
            flops += more * inference_flops(shape, read, 0) / len(answers)
    if not shared:
        return CostToUse(prompt, completion, flops, seconds)
    each = len(shared) / len(answers)  # prompts that fall to one question
    more_prompt, more_completion, more_seconds = _means(shared)
    if shape and flops is not None:
        flops += each * inference_flops(shape, more_prompt, more_completion)
    return CostToUse(
        prompt + each * more_prompt, completion + each * more_completion, flops, seconds + each * more_seconds
    )


def with_scoring(
    cost: CostToUse, shape: ModelShape | None, rated: Sequence[Sequence[Completion | None]]
) -> CostToUse:
    """The cost with what a reward model adds, which reads a question's prompt once and each distinct answer.

    Args:
        cost: of drawing the answers.
        shape: the reward model's, or None.
        rated: the rewards of each question that was answered; equal answers have one and the same.
    """
    read = [list({id(c): c for c in row if c is not None}.values()) for row in rated]
    prompts = [max((c.prompt_tokens for c in row), default=0) for row in read]
    texts = [sum(c.completion_tokens for c in row) for row in read]
    count = max(1, len(read))
    flops = None
    if shape is not None and cost.flops is not None:
        flops = (
            cost.flops
            + sum(
                inference_flops(shape, prompt, text / len(row), len(row))
                for row, prompt, text in zip(read, prompts, texts, strict=True)
                if row
            )
            / count
        )
    return CostToUse(
        cost.prompt_tokens + (sum(prompts) + sum(texts)) / count,
        cost.completion_tokens,
        flops,
        cost.seconds + sum(c.seconds for row in read for c in row) / count,
    )


def _whole(found: Sequence[Completion]) -> list[Completion]:
    return [completion for completion in found if completion.finish is not Finish.ERROR]


def _means(answers: Sequence[Sequence[Completion]]) -> tuple[float, float, float]:
    """Mean tokens of a prompt, tokens of its completions together, and seconds of them together."""
    return (
        float(np.mean([max(c.prompt_tokens for c in found) for found in answers])),
        float(np.mean([sum(c.completion_tokens for c in found) for found in answers])),
        float(np.mean([sum(c.seconds for c in found) for found in answers])),
    )
