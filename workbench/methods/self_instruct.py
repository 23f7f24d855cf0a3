"""Self-Instruct (Wang et al. 2022, arXiv 2212.10560): a model writes instructions, and then answers them itself.

A round: each request shows six instructions of people and two of the model's own, and the model goes on with the
list; what is badly formed or too like an instruction that is there is left out; the model says of each that is
kept whether it classifies; it then writes instances, labels first for classification and inputs first for others.

Where it departs from the paper: its requests have a presence penalty, of 2 for instructions and 1.5 for
instances, which our engines lack, so that a teacher says the same more often, and the filters leave that out (a
small one does better at a top p of .9). Instances follow in the round of their instruction, so that `wanted`
counts instructions with instances. Exemplars of decisions and instances are drawn from the seeds, once a run;
decisions are asked in words that small models answer better. A cut-off list keeps its whole items, a cut-off
answer its whole instances. Instances pass other filters (filters.py says which). A prompt has one form, where the
authors' data has one of several by chance.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from workbench.decodes import Greedy, Sample
from workbench.drawing import Drawer
from workbench.errors import check_range
from workbench.files import json_bytes, read_json, write_atomic, write_json
from workbench.identity import model_identity, to_json
from workbench.instructing import parsing
from workbench.instructing.card import card, name_of
from workbench.instructing.filters import NEAR_DUPLICATE, instance_faults, instruction_fault
from workbench.instructing.rounds import Proposal, counted, counts, examples
from workbench.instructing.seeds import SEEDS, Seed, read_seeds
from workbench.instructing.similarity import LIMIT, Pool
from workbench.instructing.teacher import Shown, Teacher
from workbench.made_data import write_made
from workbench.runs import Run
from workbench.types import Example, Finish, Model

HUMAN, MACHINE = 6, 2  # exemplars of a request; the prompt's stop string ends the list seven items after them


@dataclass(frozen=True)
class Config:
    """How much is made, and how.

    Attributes:
        seeds: tasks in the format of the paper's authors (.jsonl); by default the project's own.
        wanted: instructions with at least one instance; the round that reaches it is the last.
        rounds: at most.
        budget: tokens, prompts and completions; no round begins behind it.
        patience: so many rounds running that keep nothing are the end.
        requests: a round, all asked together.
        temperature: of new instructions.
        top_p: of new instructions.
        instruction_tokens: the longest list of them.
        instance_tokens: the longest answer with an instruction's instances.
        shots: tasks shown before instances; before a decision so many that classify, and half as many more that
            do not.
        draw_seed: which exemplars, and which samples.

    Raises:
        UserError: a value is out of range; the message names the field.
    """

    seeds: Path | None = None
    wanted: int = 300
    rounds: int = 200
    budget: int = 10_000_000
    patience: int = 5
    requests: int = 8
    temperature: float = 0.7
    top_p: float = 0.5
    instruction_tokens: int = 1024
    instance_tokens: int = 350
    shots: int = 8
    draw_seed: int = 0

    def __post_init__(self) -> None:
        for name in ("wanted", "rounds", "patience", "requests", "instruction_tokens", "instance_tokens"):
            check_range(name, getattr(self, name), 1, 10**6)
        check_range("budget", self.budget, 1, 10**12)
        check_range("temperature", self.temperature, 0, 100, open_low=True)
        check_range("top_p", self.top_p, 0, 1, open_low=True)
        check_range("shots", self.shots, 2, 100)
        check_range("draw_seed", self.draw_seed, 0, 2**62)


def make(model: Model, config: Config, run: Run, drawer: Drawer) -> dict[str, Any]:
    """Make the data set in the run's folder: data.jsonl with its card, instructions.jsonl, cost.json.

    All of it follows from the settings and the store's completions, so that a run that was killed goes on where it
    stopped and ends with the same files.

    Args:
        model: the teacher.
        config: the settings.
        run: whose folder it is; a finished one is left as it is.
        drawer: draws the teacher's completions.

    Returns:
        What self_instruct.json holds: counts of everything kept and left out, by round and by reason.

    Raises:
        UserError: the seeds are at fault, requests failed that may pass, or no example was kept.
    """
    summary = run.path / "self_instruct.json"
    if summary.exists():
        found: dict[str, Any] = read_json(summary)
        return found
    seeds = read_seeds(config.seeds, HUMAN + MACHINE)
    teacher = Teacher(model, drawer)
    shown = Shown.of(seeds, config.shots, config.draw_seed)
    people, own = Pool(), Pool()
    for seed in seeds:
        people.add(seed.id, seed.instruction)
    likest: list[float] = []
    made: list[Proposal] = []
    per_round: list[dict[str, Any]] = []
    while not (stopped := _end(per_round, teacher.tokens, config)):
        number = len(per_round) + 1
        proposals = _propose(teacher, config, number, seeds, [p for p in made if p.fault is None])
        likest += _compare(proposals, people, own)
        kept = [proposal for proposal in proposals if proposal.fault is None]
        _decide(teacher, shown, kept)
        for classification in (True, False):
            _answer(
                teacher, config, shown, [p for p in kept if p.classification is classification], classification
            )
        made += proposals
        per_round.append({"round": number, "requests": config.requests, **counts(proposals)})
    rows = examples(made, model_identity(model), run.id)
    summary_json = {
        "method": "self-instruct",
        "teacher": {"name": name_of(model), **model_identity(model)},
        "seeds": {"file": (config.seeds or SEEDS).name, "tasks": len(seeds)},
        "settings": {**to_json(config), "seeds": (config.seeds or SEEDS).name},
        "stopped": stopped,
        "examples": len(rows),
        **counts(made),
        "largest_rouge_l": max(likest, default=None),
        "failed_requests": dict(teacher.failed),
        "tokens": teacher.tokens,
        "rounds": per_round,
    }
    write_atomic(run.path / "instructions.jsonl", b"".join(json_bytes(p.as_json()) + b"\n" for p in made))
    write_json(run.path / "cost.json", to_json(teacher.cost()))
    write_made(run, rows, card(summary_json, run.id))
    write_json(summary, summary_json)
    return summary_json


def _end(rounds: Sequence[dict[str, Any]], tokens: int, config: Config) -> str:
    """Why no further round begins; empty where one does."""
    kept = sum(done["with_instances"] for done in rounds)
    last = rounds[-config.patience :]
    if kept >= config.wanted:
        return f"it had kept {counted(kept, 'instruction')} with instances, and {config.wanted:,} were enough"
    if len(last) == config.patience and not any(done["kept"] for done in last):
        return f"{counted(config.patience, 'round')} running kept nothing new"
    if tokens >= config.budget:
        return f"it had spent {counted(tokens, 'token')}, and the budget is {config.budget:,}"
    return (
        f"it had made {counted(config.rounds, 'round')}, the most allowed" if len(rounds) == config.rounds else ""
    )


def _propose(
    teacher: Teacher, config: Config, number: int, seeds: Sequence[Seed], own: Sequence[Proposal]
) -> list[Proposal]:
    """A round's instructions, with their faults of form."""
    shown: dict[str, tuple[str, ...]] = {}
    requests = {}
    for place in range(config.requests):
        rng = random.Random(f"request {config.draw_seed} {number} {place}")
        chosen = [(p.id, p.text) for p in rng.sample(own, min(MACHINE, len(own)))]
        chosen += [(s.id, s.instruction) for s in rng.sample(seeds, HUMAN + MACHINE - len(chosen))]
        rng.shuffle(chosen)
        shots = [Example.make(str(i), text) for i, (_, text) in enumerate(chosen, start=1)]
        request = teacher.request("instructions", str(len(chosen) + 1), shots)
        requests[request.id] = request  # the same exemplars twice are one request
        shown[request.id] = tuple(id for id, _ in chosen)
    sampling = Sample(1, config.temperature, config.top_p, 0, config.instruction_tokens, config.draw_seed)
    answers = teacher.ask("instructions", sampling, list(requests.values()), f"round {number}, instructions")
    found = []
    for place, (id, answer) in enumerate(answers.items(), start=1):
        texts = parsing.instructions(answer.text)
        for item, text in enumerate(texts, start=1):
            fault = instruction_fault(text, answer.finish is Finish.LENGTH and item == len(texts))
            found.append(Proposal(f"{number}-{place}-{item}", text, number, id, shown[id], fault=fault))
    return found


def _compare(proposals: Sequence[Proposal], people: Pool, own: Pool) -> list[float]:
    """Leave out what is near another of people or of its own; gives each kept one's likeness to the latter."""
    likest = []
    for proposal in proposals:
        if proposal.fault is None:
            near = (people.nearest(proposal.text), own.nearest(proposal.text))
            proposal.nearest, proposal.rouge_l = max(near, key=lambda found: found[1])
            if proposal.rouge_l > LIMIT:
                proposal.fault = NEAR_DUPLICATE
                continue
            likest += [score for id, score in near[1:] if id]  # the first has no other
            own.add(proposal.id, proposal.text)
    return likest


def _decide(teacher: Teacher, shown: Shown, kept: Sequence[Proposal]) -> None:
    """Ask of each whether it classifies."""
    shots = [Example.make(s.instruction, parsing.KINDS[s.is_classification]) for s in shown.both]
    requests = [teacher.request("kind", proposal.text, shots) for proposal in kept]
    answers = teacher.ask("kind", Greedy(8), requests, "classification or not")
    for proposal, request in zip(kept, requests, strict=True):
        if request.id in answers:
            proposal.classification = parsing.decision(answers[request.id].text)


def _answer(
    teacher: Teacher, config: Config, shown: Shown, kept: Sequence[Proposal], classification: bool
) -> None:
    """Ask for the instances of each, all of one kind, and set their faults."""
    name = "output-first" if classification else "input-first"
    shots = [
        Example.make(s.instruction, parsing.show(s.instances, classification))
        for s in shown.of_kind[classification]
    ]
    requests = [teacher.request(name, proposal.text, shots) for proposal in kept]
    answers = teacher.ask(name, Greedy(config.instance_tokens), requests, f"instances, {name}")
    for proposal, request in zip(kept, requests, strict=True):
        if (answer := answers.get(request.id)) is None:
            continue
        read = parsing.read(answer.text, classification)
        faults = instance_faults(proposal.text, read, answer.finish is Finish.LENGTH, shown.instances)
        proposal.instances = [(*pair, fault) for pair, fault in zip(read, faults, strict=True)]
