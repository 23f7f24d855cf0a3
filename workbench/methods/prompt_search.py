"""Prompt search (APE, Zhou et al. 2022, arXiv 2211.01910): of many instructions, the one that does best on dev.

The system's own model proposes instructions from practice demonstrations (`propose.py`). Each, written into a
template, is scored on the first few dev questions; the better half goes on to twice as many, until the finalists
have been asked them all. The best are then varied, and the variations compete with them. Test is never seen.

Where it departs from the paper: its filtering of weak candidates becomes successive halving over nested
beginnings of dev, where it draws subsets; one model of any size proposes and answers, a chat model in place of
an infilling one; exemplars that the system's prompt has stay in it, for candidates as for the result.
"""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Literal

from workbench.cost import EnergyMeter
from workbench.engines.base import Engine
from workbench.errors import UserError, check_range
from workbench.files import read_json, write_json
from workbench.identity import system_hash, to_json
from workbench.metrics import cost_to_use
from workbench.progress import Bar
from workbench.prompts import load_prompt, prompts_of, purpose_of, write_prompt
from workbench.runs import Run
from workbench.searching import propose
from workbench.searching.candidates import Candidate, Spent, checked_template, measure, with_instruction
from workbench.searching.state import State
from workbench.searching.summary import Plan, cost_to_make, estimate, provenance, search_json
from workbench.store import Store
from workbench.tasks.base import Task
from workbench.types import Prompt, System


@dataclass(frozen=True)
class Config:
    """How many instructions are tried, and how.

    Attributes:
        candidates: instructions guessed from demonstrations.
        modes: how they are guessed.
        demonstrations: practice examples shown for a guess.
        temperature: of the proposals.
        score: accuracy on dev, or the mean log-probability of the right answers.
        dev_questions: how many dev questions the finalists are asked.
        first_questions: how many every candidate is asked; the number doubles from stage to stage.
        keep: share of the candidates that goes on from a stage.
        halving: without it every candidate is asked all dev questions.
        rounds: how often the best are varied.
        parents: how many of the best are varied in a round.
        variations: new instructions a round.
        budget: tokens that the search may take, prompt and completion; a step that by its estimate does not
            fit is not taken.
        template: a prompt (name or .yaml file) with the variables `input` and `instruction`; by default
            instruct, or instruct-label where the task's examples have no worked solution.
        search_seed: which demonstrations, and which samples.

    Raises:
        UserError: a value is out of range; the message names the field.
    """

    candidates: int = 24
    modes: Literal["both", "forward", "reverse"] = "both"
    demonstrations: int = 5
    temperature: float = 0.8
    score: Literal["accuracy", "log-likelihood"] = "accuracy"
    dev_questions: int = 64
    first_questions: int = 8
    keep: float = 0.5
    halving: bool = True
    rounds: int = 1
    parents: int = 3
    variations: int = 12
    budget: int = 500_000
    template: str | None = None
    search_seed: int = 0

    def __post_init__(self) -> None:
        check_range("candidates", self.candidates, 1, 10_000)
        check_range("demonstrations", self.demonstrations, 1, 100)
        check_range("temperature", self.temperature, 0, 100, open_low=True)
        check_range("dev_questions", self.dev_questions, 1, 10**6)
        check_range("first_questions", self.first_questions, 1, self.dev_questions)
        check_range("keep", self.keep, 0, 1, open_low=True)
        check_range("rounds", self.rounds, 0, 100)
        check_range("parents", self.parents, 1, 1000)
        check_range("variations", self.variations, 1, 10_000)
        check_range("budget", self.budget, 1, 10**12)
        check_range("search_seed", self.search_seed, 0, 2**62)

    def stages(self, pool: int) -> list[tuple[int, int]]:
        """(candidates, dev questions) of each stage of a pool."""
        stages = [(pool, self.first_questions if self.halving else self.dev_questions)]
        while stages[-1][1] < self.dev_questions:
            count, questions = stages[-1]
            stages.append((math.ceil(count * self.keep), min(2 * questions, self.dev_questions)))
        return stages


def plan(system: System, task: Task, config: Config, engine: Engine, store: Store) -> Plan:
    """The estimate, at the rate of the first dev questions: the hand-written prompt is asked them for it.

    Every survivor of a stage is taken to be one that was not asked before, so that it is rather too high.

    Raises:
        UserError: as `adapt`, but for the budget.
    """
    check_range("dev_questions", config.dev_questions, 1, len(task.dev))
    template = checked_template(system, task, config.template, config.score)
    stages = config.stages(config.candidates)
    later = config.stages(stages[-1][0] + config.variations)
    later[0] = (config.variations, later[0][1])  # the finalists of the round before have been asked those
    rate = measure(system, task, config.score, stages[0][1], engine, store)
    guesses = propose.most_tokens(engine, _guesses(task, template, config))
    varied = propose.variations_of([(n, "Answer the question.") for n in range(config.parents)])
    proposing = [guesses, config.rounds * propose.most_tokens(engine, varied)]
    return estimate(rate, [stages, *[later] * config.rounds], proposing, config.dev_questions, config.budget)


def _guesses(task: Task, template: Prompt, c: Config) -> list[propose.Source]:
    return propose.from_demonstrations(task, template, c.modes, c.demonstrations, c.candidates, c.search_seed)


def adapt(
    system: System, task: Task, config: Config, run: Run, engine: Engine, store: Store, *, quiet: bool = False
) -> System:
    """The system with the best instruction that was found in its prompt slot; model and decode stay.

    Args:
        system: its prompt is the hand-written one that the report compares with; it is no candidate.
        task: demonstrations come from practice, scores from dev.
        config: the search.
        run: the winner's prompt file, search.json and cost.json go there. A finished search is not run again;
            an interrupted one goes on, for all that was asked is in the store.
        engine: the system's model, ready.
        store: completions are taken from it and put into it.
        quiet: no progress bars.

    Raises:
        UserError: practice or dev is too small, the template does not fit, the budget is too small for the
            first stage, no proposal is propose.usable, or the run holds a search of something else.
    """
    file = run.path / "search.json"
    template = checked_template(system, task, config.template, config.score)
    made_of = {"system": system_hash(system), "task": task.hash, "template": template.file_hash}
    made_of |= {name: load_prompt(name).file_hash for name in prompts_of("propose")}
    if not file.exists():
        plan(system, task, config, engine, store).check()
        state = State(system, task, engine, store, config.score, config.dev_questions, config.budget, quiet)
        with EnergyMeter() as meter:
            winner = _search(state, template, config)
            state.find_median(config.stages(1)[0][1])
        told = {"made_of": made_of, "task": task.name, "template": template.name, "config": asdict(config)}
        found = search_json(state, winner, told)
        write_prompt(
            run.path / f"{winner.prompt.name}.yaml",
            replace(winner.prompt, shots=None),
            purpose=purpose_of(task.prompt),
            what_for=f"The task {task.name}, with an instruction that prompt search found.",
            source=provenance(found, system, run.id),
        )
        write_json(run.path / "cost.json", to_json(cost_to_make(state.spent(), meter)))
        write_json(file, found)  # last: where it is, the search is done
    found = read_json(file)
    if found["made_of"] != made_of:
        raise UserError(
            f"{file} was made with another system, task or template, or other prompts for proposals. Give this "
            "run another --name, or --overwrite to start anew there."
        )
    prompt = load_prompt(str(run.path / f"{found['winner']['prompt']}.yaml"))
    adapted = replace(system, prompt=replace(prompt, shots=system.prompt.shots))
    run.write_system(adapted)
    return adapted


def _search(state: State, template: Prompt, config: Config) -> Candidate:
    """Guess, halve, vary the best and halve again; the winner."""
    state.hand_written = state.measure(state.system, config.dev_questions)
    fresh = _propose(state, template, config, _guesses(state.task, template, config), 0)
    _halve(state, fresh, config, 0)
    for number in range(1, config.rounds + 1):
        best = [(c.number, c.instruction) for c in state.ranking()[: config.parents]]
        finalists = [c for c in state.candidates if config.dev_questions in c.scores]
        if fresh := _propose(state, template, config, propose.variations_of(best), number):
            _halve(state, [*finalists, *fresh], config, number)
    return state.ranking()[0]


def _propose(
    state: State, template: Prompt, config: Config, sources: Sequence[propose.Source], number: int
) -> list[Candidate]:
    """New candidates, unlike all before. Where too few samples are usable, more are drawn, up to a limit.

    Raises:
        UserError: the first round has none.
    """
    wanted = config.variations if number else config.candidates
    known = [c.instruction for c in state.candidates]
    found: list[tuple[str, propose.Source]] = []
    n = 0
    while len(found) < wanted and n < propose.MOST:
        most = propose.most_tokens(state.engine, sources, again=n > 0)
        if not state.affords(most, f"proposals of round {number}"):
            break
        n += propose.SAMPLES
        seed = config.search_seed + number
        with Bar(f"round {number}: proposals", quiet=state.quiet) as bar:
            drawn = propose.draw(
                state.system, sources, n, config.temperature, seed, state.engine, state.store, bar.show
            )
        state.proposing[number] = Spent.of(len(drawn), cost_to_use(state.engine.shape, drawn, [], n))
        found = propose.usable(sources, drawn, known)[:wanted]
    if len(found) < wanted:
        state.notes.append(f"Round {number}: {len(found)} usable new instructions, not {wanted}.")
    if not found and number == 0:
        raise UserError(
            "The model proposed no usable instruction. Raise --candidates, lower --temperature, or search with a "
            "larger model."
        )
    fresh = [
        Candidate(i, text, with_instruction(template, text), source.mode, number, source.parent)
        for i, (text, source) in enumerate(found, start=len(state.candidates))
    ]
    state.candidates += fresh
    return fresh


def _halve(state: State, pool: Sequence[Candidate], config: Config, number: int) -> None:
    """Successive halving: all of the pool is asked a few questions, the best of it those and more, and so on.

    Raises:
        UserError: not even the first stage of the first round fits into the budget.
    """
    for count, questions in config.stages(len(pool)):
        pool = pool[:count]
        more = sum(state.tokens_each(c) * max(0, questions - max(c.scores, default=0)) for c in pool)
        if not state.affords(more, f"{count} instructions on {questions} questions in round {number}"):
            break
        with Bar(f"round {number}: {count} instructions, {questions} questions", quiet=state.quiet) as bar:
            for done, candidate in enumerate(pool, start=1):
                system = replace(state.system, prompt=candidate.prompt)
                candidate.scores[questions] = state.measure(system, questions)
                bar.show(done, count)
        pool = sorted(pool, key=lambda c: c.standing(questions))
    if not state.ranking():
        raise UserError(f"budget is {config.budget:,} tokens. {state.notes[-1]} Raise --budget.")
