"""Pairs from a verifier: of one question's samples one that the grader calls right, and one it calls wrong.

The model that is to learn has written both, so that the pairs are on policy, as DPO's own are (Rafailov et al.
2023, arXiv 2305.18290, §4); the grader is right where a person or a judge may err. A pair's margin is 1, the
difference of its rewards.
"""

import random
from collections import Counter
from collections.abc import Sequence
from itertools import product
from typing import Any

from workbench.drawing import Drawer
from workbench.identity import to_json
from workbench.preferring.answers import Sampling, draw_answers, questions_for_pairs
from workbench.preferring.bias import share
from workbench.preferring.pairs import Pair
from workbench.tasks.base import Task
from workbench.types import CostToMake, Example, System


def verifier_pairs(
    system: System,
    task: Task,
    n: int,
    per_question: int,
    split: str,
    seed: int,
    drawer: Drawer,
    *,
    temperature: float = 0.8,
    questions: int | None = None,
    truncated: bool = False,
) -> tuple[list[Pair], Counter[str], CostToMake]:
    """(pairs, counts, cost) of a split's questions; all pairs of a question have its id as their group.

    Texts are distinct, those of one question by more than the white space around them. Failed requests and
    empty texts are left out, and so is an answer whose check had to be killed. A sample that was cut off is not
    right; it is left out too, because training ends every answer with the end token, where the model did not
    end this one.

    Args:
        system: its model answers under its prompt without exemplars.
        task: asks and grades.
        n: samples a question.
        per_question: pairs of a question, at most; which, where there are more, the seed says.
        split: practice, or dev for pairs to be held out.
        seed: of the samples and of the choice.
        drawer: draws the samples.
        temperature: of the samples.
        questions: how many of the split's questions, from its beginning; None is all.
        truncated: let a sample that was cut off be the rejected one.

    Raises:
        UserError: another split, a number out of range, or as `draw_answers`.
    """
    examples = questions_for_pairs(task, split, questions)
    found, counts, cost = draw_answers(system, task, examples, Sampling(n, temperature, seed), drawer)
    pairs: list[Pair] = []
    for one in found:
        grades = {text: task.grade(text, one.example) for text in one.whole}
        right = [text for text, grade in grades.items() if grade.correct]
        wrong = [text for text, grade in grades.items() if grade.checked and not grade.correct]
        if unchecked := sum(not grade.checked for grade in grades.values()):
            counts["answers whose check was killed"] += unchecked
        counts["distinct right answers"] += len(right)
        counts["distinct wrong answers"] += len(wrong)
        if truncated:
            wrong += one.cut
        possible = list(product(right, wrong))
        if not possible:
            counts[f"questions without {_missing(right, wrong)}"] += 1
            continue
        rng = random.Random(f"{seed}:{one.example.id}")
        taken = rng.sample(possible, min(per_question, len(possible)))
        counts["pairs above the limit a question"] += len(possible) - len(taken)
        for chosen, rejected in taken:
            source = {"kind": "verifier", "task": task.name, "split": split}
            if rejected in one.cut:
                source["rejected"] = "cut off"
            pairs.append(Pair(one.prompt, system.prompt.style, chosen, rejected, 1.0, one.example.id, source))
    counts["questions with pairs"] = len({pair.group for pair in pairs})
    return pairs, counts, cost


def graded(pairs: Sequence[Pair], examples: Sequence[Example], task: Task) -> dict[str, Any]:
    """What a task's grader thinks of pairs that it had no say in, whose groups are the examples' ids.

    Gives:
        chosen_right, rejected_right: pairs of which that answer is right.
        one_right: pairs of which one answer is right and the other is not.
        agreement: share of these of which it is the chosen one, with its interval over questions.
    """
    by_id = {example.id: example for example in examples}
    verdicts = [[task.grade(text, by_id[p.group]).correct for text in (p.chosen, p.rejected)] for p in pairs]
    one = [
        (float(chosen), pair.group)
        for (chosen, rejected), pair in zip(verdicts, pairs, strict=True)
        if chosen != rejected
    ]
    return {
        "chosen_right": sum(chosen for chosen, _ in verdicts),
        "rejected_right": sum(rejected for _, rejected in verdicts),
        "one_right": len(one),
        "agreement": to_json(share([hit for hit, _ in one], [group for _, group in one])),
    }


def _missing(right: list[str], wrong: list[str]) -> str:
    if not right and not wrong:
        return "a whole answer"
    return "a right answer" if not right else "a wrong answer"
