"""A decode beside majority vote at equal tokens: what it is worth is what more votes would not have brought.

Comparing at unequal budgets is the usual mistake with these methods. All tokens that are read and generated
count, or only those that are generated, as where a server keeps what it has read; the vote reads its prompt
once. It gets as many samples as fit into the decode's mean tokens a question, on the questions that are
measured. Only tokens are looked at to choose that number, and no grade.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from workbench.command import command_typed
from workbench.compare import compare
from workbench.decodes import Majority
from workbench.drawing import requests_of
from workbench.harness import questions_of
from workbench.report import Rung, table
from workbench.report_html import write_html
from workbench.session import Session, one_sample
from workbench.step_decodes import Stepwise
from workbench.types import Completion, Finish, Request, Result, System

MOST = 1024  # samples a question that the vote gets at most


@dataclass(frozen=True)
class Beside:
    """The vote that a decode is measured beside.

    Attributes:
        vote_temperature: of its samples.
        equal: `all` tokens, read and generated, are as many as the decode's, or only those that are `generated`.
    """

    vote_temperature: float = 0.7
    equal: Literal["all", "generated"] = "all"


def beside_vote(session: Session, name: str, system: System, beside: Beside) -> list[Rung]:
    """Measure a System and a majority vote that costs as many tokens; print both, and the paired test.

    The run keeps the System and its result, the vote's as `majority_vote.json`, and both in `report.html`.

    Args:
        session: task, engine and run.
        name: of the decode, in the table.
        system: its decode asks in stages; its prompt has no exemplars.
        beside: how the vote draws, and what is equal.

    Gives:
        the vote, and the System.
    """
    decode = system.decode
    assert isinstance(decode, Stepwise)
    result = session.measure(system, label=name)
    longest = decode.sampling().max_tokens
    vote = Majority(1, beside.vote_temperature, decode.top_p, decode.top_k, longest, decode.seed)
    questions = questions_of(session.task, session.setup.split, session.setup.questions)
    requests = requests_of(system, questions)
    n = votes_within(session, replace(system, decode=vote), requests, tokens(result, beside), beside)
    voted = session.measure(replace(system, decode=replace(vote, n=n)), label=f"majority of {n}")
    session.run.write_system(system)
    session.run.write_result(voted, "majority_vote")
    session.run.write_result(result)
    rungs = [Rung(f"majority of {n}", voted, one_sample(voted)), Rung(name, result)]
    looks = session.store.looks(session.task.hash, session.setup.split)
    difference, page = at_equal_tokens(rungs[0], rungs[1], beside), session.run.path / "report.html"
    write_html(
        page, f"{session.task.name}: {name} beside a vote of as many tokens", rungs, looks=looks,
        notes=difference.splitlines(), model=session.setup.model, command=command_typed(),
        versions=session.run.info["packages"],
    )  # fmt: skip
    print(table(rungs, looks))
    print(f"{difference}\nReport: {page}")
    return rungs


def tokens(result: Result, beside: Beside) -> float:
    """Tokens of a question that count."""
    read = result.cost_to_use.prompt_tokens if beside.equal == "all" else 0.0
    return read + result.cost_to_use.completion_tokens


def votes_within(
    session: Session, system: System, requests: Sequence[Request], budget: float, beside: Beside
) -> int:
    """The most samples, 1 to 1024, with which a vote's mean tokens a question are at most the budget.

    Args:
        session: draws the samples; those that are too many stay in the store.
        system: its decode is the vote, of whatever n.
        requests: the questions.
        budget: tokens a question that count. Where one sample is more, the answer is 1.
        beside: which tokens count.

    Raises:
        UserError: as `Drawer.draw`.
    """
    assert isinstance(system.decode, Majority)
    drawn, n = 4, 0
    while True:
        voting = replace(system, decode=replace(system.decode, n=drawn))
        found = session.drawer.draw(voting, requests, f"votes, at most {drawn}").completions.values()
        while n < drawn and mean_tokens(found, n + 1, beside) <= budget:
            n += 1
        if n < drawn or drawn == MOST:
            return max(1, n)
        each = (mean_tokens(found, n, beside) - mean_tokens(found, 0, beside)) / n
        left = budget - mean_tokens(found, n, beside)
        drawn = min(MOST, drawn + 1 + int(left / each) if each else MOST)


def mean_tokens(found: Iterable[Sequence[Completion]], n: int, beside: Beside) -> float:
    """Mean tokens that count of a question's first n samples; failed ones are none."""
    totals = []
    for samples in found:
        whole = [c for c in samples if c.finish is not Finish.ERROR]
        if whole:
            said = sum(c.completion_tokens for c in whole if c.index < n)
            totals.append(said + (max(c.prompt_tokens for c in whole) if beside.equal == "all" else 0))
    return sum(totals) / max(1, len(totals))


def at_equal_tokens(vote: Rung, other: Rung, beside: Beside) -> str:
    """Both token counts, and the difference with its interval and paired test, in words."""
    costs = []
    for rung in (vote, other):
        use = rung.result.cost_to_use
        read, said = use.prompt_tokens, use.completion_tokens
        costs.append(f"{rung.name} {read:.1f} read + {said:.1f} generated = {read + said:.1f}")
    c = compare(vote.result, other.result)
    over = tokens(vote.result, beside) > tokens(other.result, beside)
    what = "read and generated" if beside.equal == "all" else "generated"
    return (
        f"Tokens a question: {'; '.join(costs)}.\n"
        f"At equal tokens, {what}{' (one vote has more already)' if over else ''}, {other.name} is "
        f"{100 * c.difference.value:+.1f} points from {vote.name} ({100 * c.difference.low:+.1f} to "
        f"{100 * c.difference.high:+.1f}; {c.test}, p = {c.p:.2g}) on the {c.shared} questions that both "
        f"answered, of which {c.only_second} are better with {other.name} and {c.only_first} with the vote; a "
        f"difference of {100 * c.detectable:.1f} points is found four times in five."
    )
