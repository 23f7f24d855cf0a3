"""Pairs from a judge: which of two answers is better, by the log-probabilities of A and B, in both orders.

Constitutional AI's preference labels (Bai et al. 2022, arXiv 2212.08073, §4.1): the verdict is the normalised
probability of the letter. Judges favour a place, so that every pair is asked about in both orders and the two
probabilities are averaged. With reasons written first the probabilities are extreme, and are clamped to 0.4 – 0.6
before they are averaged, as there. Where it departs from the paper: one principle for all pairs, which the prompt
file has; and the average is a hard choice with the probabilities' difference as its margin, where the paper's
preference model learns the probability itself.
"""

import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

from workbench.decodes import Greedy, LabelLikelihood
from workbench.decoding.labels import first_of_two
from workbench.drawing import Drawer
from workbench.preferring.answers import Answered, asked, usable
from workbench.preferring.bias import position_bias
from workbench.preferring.pairs import Pair
from workbench.prompts import load_prompt
from workbench.training.card import together
from workbench.types import CostToMake, Example, Finish, Model, Request, System

LETTERS = ("A", "B")
CLAMP = (0.4, 0.6)
PROMPTS = ("judge-pair", "judge-reasons", "judge-reasoned")


@dataclass(frozen=True)
class Duel:
    """Two answers to a question, of which one is to be preferred."""

    example: Example
    answers: tuple[str, str]


def judge_pairs(
    answered: Sequence[Answered],
    style: str,
    judge: Model,
    per_question: int,
    seed: int,
    drawer: Drawer,
    *,
    reasons: bool = False,
    reason_tokens: int = 256,
) -> tuple[list[Pair], Counter[str], CostToMake, dict[str, Any]]:
    """(pairs, counts, cost, position bias) of the answers' distinct texts.

    Left out and counted: questions without two distinct whole answers, pairs of which a request failed or whose
    reasons were cut off, and ties. The bias is that of all pairs with a verdict, ties among them, before clamping.

    Args:
        answered: the questions with their answers.
        style: of the prompt that the answers follow.
        judge: the model that judges.
        per_question: pairs of a question, at most; which, where there are more, the seed says.
        seed: of that choice.
        drawer: asks the judge.
        reasons: let the judge write reasons first, and clamp.
        reason_tokens: the longest reasons that are waited for.

    Raises:
        UserError: as `Drawer.draw`.
    """
    counts: Counter[str] = Counter()
    duels: list[tuple[Answered, Duel]] = []
    for one in answered:
        possible = list(combinations(one.whole, 2))
        if not possible:
            counts["questions without two distinct whole answers"] += 1
            continue
        taken = random.Random(f"{seed}:{one.example.id}").sample(possible, min(per_question, len(possible)))
        counts["pairs above the limit a question"] += len(possible) - len(taken)
        duels += [(one, Duel(one.example, answers)) for answers in taken]
    told, cost = preferences([duel for _, duel in duels], judge, drawer, reasons, reason_tokens, counts)
    judged = [(one, duel, both) for (one, duel), both in zip(duels, told, strict=True) if both is not None]
    pairs = []
    for one, duel, both in judged:
        clamped = [min(max(p, CLAMP[0]), CLAMP[1]) if reasons else p for p in both]
        first = sum(clamped) / 2
        if first == 0.5:
            counts["ties"] += 1
            continue
        chosen, rejected = duel.answers if first > 0.5 else duel.answers[::-1]
        flipped = (both[0] - 0.5) * (both[1] - 0.5) < 0
        won = both if first > 0.5 else (1 - both[0], 1 - both[1])
        source = {"kind": "judge", "chosen_probability": list(won), "flipped": flipped}
        pairs.append(Pair(one.prompt, style, chosen, rejected, abs(2 * first - 1), one.example.id, source))
    counts["questions with pairs"] = len({pair.group for pair in pairs})
    bias = position_bias([(p, 1 - q) for _, _, (p, q) in judged], [duel.example.id for _, duel, _ in judged])
    return pairs, counts, cost, bias


def preferences(
    duels: Sequence[Duel],
    judge: Model,
    drawer: Drawer,
    reasons: bool,
    reason_tokens: int,
    counts: Counter[str],
) -> tuple[list[tuple[float, float] | None], CostToMake]:
    """For each duel the probabilities of its first answer: where it stands first, and where it stands second.

    None where there is no verdict in both orders; why is counted. The other arguments are those of `judge_pairs`.
    """
    placed = [(d.example, d.answers) for d in duels] + [(d.example, d.answers[::-1]) for d in duels]
    values = [{"answer_a": a, "answer_b": b} for _, (a, b) in placed]
    examples = [example for example, _ in placed]
    costs = [CostToMake()]
    prompt = load_prompt("judge-reasoned" if reasons else "judge-pair")
    cut = [False] * len(placed)
    if reasons:
        thinking = load_prompt("judge-reasons")
        requests = [asked(thinking, example, **given) for example, given in zip(examples, values, strict=True)]
        drawn = drawer.draw(System(judge, thinking, Greedy(reason_tokens)), _once(requests), "reasons")
        costs.append(drawn.cost)
        written = [drawn.completions[request.id][0] for request in requests]
        cut = [c.finish is not Finish.STOP or not usable(c.text) for c in written]
        values = [{**given, "reasons": c.text} for given, c in zip(values, written, strict=True)]
    letters = [
        asked(prompt, example, **given)
        for example, given, bad in zip(examples, values, cut, strict=True)
        if not bad
    ]
    scored = drawer.draw(System(judge, prompt, LabelLikelihood()), _once(letters), "verdicts", LETTERS)
    costs.append(scored.cost)
    ids = iter(letters)
    for_a = [None if bad else first_of_two(scored.completions[next(ids).id]) for bad in cut]
    found: list[tuple[float, float] | None] = []
    for i in range(len(duels)):
        first, second = for_a[i], for_a[i + len(duels)]
        if first is None or second is None:
            why = (
                "whose reasons were cut off or failed" if cut[i] or cut[i + len(duels)] else "whose verdict failed"
            )
            counts[f"pairs {why}"] += 1
            found.append(None)
        else:
            found.append((first, 1 - second))
    return found, together(costs)


def _once(requests: Sequence[Request]) -> list[Request]:
    return list({request.id: request for request in requests}.values())
