"""What a prompt search says: its estimate before it starts, what it found, and what it cost."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from workbench.cost import EnergyMeter
from workbench.errors import UserError
from workbench.identity import from_json
from workbench.report import duration, percent, span
from workbench.searching.candidates import Candidate, Score, Spent
from workbench.searching.state import State
from workbench.types import CostToMake, Interval, System


@dataclass(frozen=True)
class Plan:
    """What a search will take in tokens, at the rate of the hand-written prompt's first dev questions.

    Attributes:
        least: up to the end of the first stage; a smaller budget is refused.
        proposing, scoring, comparing: of the whole search; the last is what only its report needs.
        without_halving: scoring, were every candidate asked all dev questions.
        budget: what the search may take.
        seconds_each: of a token, at the speed of those first questions.
    """

    least: int
    proposing: int
    scoring: int
    comparing: int
    without_halving: int
    budget: int
    seconds_each: float

    def check(self) -> None:
        """Refuse a budget that ends before a single candidate is scored.

        Raises:
            UserError: it says how much is needed.
        """
        if self.least > self.budget:
            raise UserError(
                f"budget is {self.budget:,} tokens, and the first stage alone takes about {self.least:,}. Raise "
                "--budget, or lower --candidates, --first-questions or --dev-questions."
            )

    def __str__(self) -> str:
        total = self.proposing + self.scoring + self.comparing
        time = f", about {duration(total * self.seconds_each)} on this machine" if self.seconds_each else ""
        text = (
            f"Prompt search: about {total:,} tokens{time}: {self.proposing:,} to propose, {self.scoring:,} to "
            f"score ({self.without_halving:,} without halving), {self.comparing:,} to compare. "
            f"Budget: {self.budget:,}."
        )
        if total > self.budget:
            text += " It is too small for all of it: the search will end early."
        return text


def estimate(
    rate: Score,
    rounds: Sequence[Sequence[tuple[int, int]]],
    proposing: Sequence[int],
    dev_questions: int,
    budget: int,
) -> Plan:
    """The plan of a search whose candidates take what the hand-written prompt takes.

    Args:
        rate: of the hand-written prompt, on the questions of the first stage.
        rounds: (candidates, dev questions) of the stages of each round; a candidate is asked a question once.
        proposing: tokens at most, of the first proposals and of all others.
        dev_questions, budget: the search's.
    """
    asked = 0
    for stages in rounds:
        before = 0
        for count, questions in stages:
            asked += count * (questions - before)
            before = questions
    full = rate.tokens_each * dev_questions
    candidates, first = rounds[0][0]
    return Plan(
        least=round(full + proposing[0] + rate.tokens_each * candidates * first),
        proposing=sum(proposing),
        scoring=round(rate.tokens_each * asked),
        comparing=round(2 * full),
        without_halving=round(full * sum(stages[0][0] for stages in rounds)),
        budget=budget,
        seconds_each=rate.spent.seconds / max(1, rate.spent.tokens),
    )


def search_json(state: State, winner: Candidate, told: Mapping[str, Any]) -> dict[str, Any]:
    """What search.json holds, and nothing that differs between an interrupted search and one that was not.

    Args:
        state: at the search's end.
        winner: of the candidates.
        told: whatever else is to be told, first.
    """
    hand_written, median, best = state.hand_written, state.median, winner.widest
    assert hand_written is not None and median is not None, "a search measures both"
    scored = [c.widest for c in state.candidates if c.scores]
    measured = all(score.questions == state.dev_questions for score in scored)
    spent = state.spent()
    return {
        **told,
        "hand_written": {"prompt": state.system.prompt.name, **hand_written.to_json()},
        "median": {"number": median[0].number, "instruction": median[0].instruction, **median[1].to_json()},
        "winner": {"number": winner.number, "instruction": winner.instruction, "prompt": winner.prompt.name}
        | {"mode": winner.mode, "round": winner.round, **best.to_json()},
        "beats_hand_written": best.value.value > hand_written.value.value,
        "tokens": {
            **{name: part.tokens for name, part in spent.items()},
            "total": sum(part.tokens for part in spent.values()),
            "scoring_without_halving": sum(round(score.tokens_each * state.dev_questions) for score in scored),
            "scoring_without_halving_is": "measured"
            if measured
            else "extrapolated from each one's tokens a question",
        },
        "notes": state.notes,
        "candidates": [candidate.to_json() for candidate in state.candidates],
    }


def cost_to_make(spent: Mapping[str, Spent], meter: EnergyMeter) -> CostToMake:
    """What the search cost; an interrupted one's first part is counted in, its energy at the meter's power."""
    total = sum(spent.values(), Spent())
    share = total.seconds / meter.seconds if meter.seconds else 1.0
    return CostToMake(
        tokens=total.tokens,
        flops=total.flops,
        seconds=total.seconds,
        peak_memory_bytes=meter.peak_memory_bytes,
        watt_hours=meter.watt_hours * share,
        energy_source=meter.source,
    )


def provenance(found: Mapping[str, Any], system: System, run: str) -> str:
    """Where the winner comes from, for its prompt file; `found` is what search.json holds."""
    winner, score = found["winner"], found["config"]["score"]
    return (
        f"prompt search (APE, Zhou et al. 2022, arXiv 2211.01910), run {run}: proposed by {system.model.base}, "
        f"mode {winner['mode']}, round {winner['round']}; the best of {len(found['candidates'])} on dev of the "
        f"task {found['task']} (hash {found['made_of']['task']}), {score} {_told(winner, score)}; written into "
        f"the template {found['template']} (hash {found['made_of']['template']})"
    )


def summary(found: Mapping[str, Any]) -> str:
    """What search.json holds, in a few lines for a person."""
    score, tokens = found["config"]["score"], found["tokens"]
    lines = [f"{score} on dev:"]
    for name, label in (("hand_written", "hand-written"), ("median", "median candidate"), ("winner", "winner")):
        lines.append(f"  {label:<18}{_told(found[name], score)}")
    verdict = "better than" if found["beats_hand_written"] else "no better than"
    lines += [
        f"The winner of {len(found['candidates'])} is {verdict} the hand-written prompt on dev, where it was "
        "chosen, which flatters it.",
        f"Tokens: {tokens['total']:,} ({tokens['proposing']:,} to propose, {tokens['scoring']:,} to score, "
        f"{tokens['comparing']:,} to compare); scoring every candidate on all dev questions: "
        f"{tokens['scoring_without_halving']:,} ({tokens['scoring_without_halving_is']}).",
        *found["notes"],
        f"Instruction: {found['winner']['instruction']}",
    ]
    return "\n".join(lines)


def _told(part: Mapping[str, Any], score: str) -> str:
    """A score in words: the value, its interval, the number of questions."""
    value: Interval = from_json(part["value"])
    on = f"on {part['answered']} questions"
    if score == "accuracy":
        return f"{percent(value.value)} ({span(value)}) {on}"
    return f"{value.value:.3f} ({value.low:.3f} to {value.high:.3f}) nats {on}"
