"""Preference data: pairs of a preferred and a rejected answer, from one of five sources, and their biases.

    verifier      right against wrong samples of one question, by the task's grader
    judge         two samples of a question, by a model that is asked in both orders (Bai et al. 2022, §4.1)
    constitution  an answer against its revision after a critique by a principle (Bai et al. 2022, §3.1)
    votes         a file of blind votes
    file          a file of pairs in one of the usual formats

`preferring/` has a file for each, which says where it departs from its paper. Whatever the source, repetitions are
left out, and the report tells how far length and place decide.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from statistics import mean, median
from typing import Any

from workbench.drawing import Drawer
from workbench.errors import UserError
from workbench.files import read_json, write_json
from workbench.hub import base_name
from workbench.identity import file_hash, model_identity, short_hash, system_hash, to_json
from workbench.made_data import Made, write_made
from workbench.preferring import constitution, judge
from workbench.preferring.answers import Sampling, draw_answers, questions_for_pairs
from workbench.preferring.bias import length_bias
from workbench.preferring.card import card
from workbench.preferring.pairs import Pair, conflicts, distinct, read_pairs, write_pairs
from workbench.preferring.settings import USUAL, Config
from workbench.preferring.verifier import graded, verifier_pairs
from workbench.preferring.votes import read_votes
from workbench.prompts import load_prompt
from workbench.runs import Run
from workbench.tasks.base import Task
from workbench.training.card import together
from workbench.types import CostToMake, Model, System

_HINTS = {
    "verifier": "Raise --samples or --temperature, or take questions that the model gets right now and then.",
    "judge": "Raise --samples or --temperature.",
    "constitution": "Raise --write-tokens, or take a larger model.",
}


@dataclass
class _Found:
    """What a source gave: pairs, what was left out and why, what it cost, and what is known beside."""

    pairs: list[Pair]
    counts: Counter[str]
    cost: CostToMake = field(default_factory=CostToMake)
    more: dict[str, Any] = field(default_factory=dict)
    data: list[Made] = field(default_factory=list)


def make_pairs(
    system: System,
    task: Task,
    config: Config,
    run: Run,
    drawer: Drawer,
    *,
    split: str = "practice",
    questions: int | None = None,
) -> dict[str, Any]:
    """What `preferences.json` holds, after the pairs were made where they had not been.

    Args:
        system: its model answers under its prompt; the sources votes and file have no use for it, nor for the
            task, the split and the questions.
        task: whose questions are answered, and whose grader is the verifier.
        config: the source.
        run: pairs.jsonl, preferences.json, cost.json, README.md and, of a constitution, data.jsonl go there. A
            finished run is not run again; an interrupted one goes on, for all that was asked is in the store.
        drawer: draws what the store does not hold.
        split: practice, or dev for pairs to be held out.
        questions: how many of them, from the beginning; None is all.

    Raises:
        UserError: the split is another, a file is at fault, no pair was found, or the run holds pairs that were
            made of something else.
    """
    file = run.path / "preferences.json"
    made_of = _made_of(system, task, config)
    if not file.exists():
        found = _find(system, task, config, drawer, split, questions)
        pairs = distinct(found.pairs)
        if not pairs:
            counts = ", ".join(f"{count} {what}" for what, count in found.counts.items() if count)
            raise UserError(f"No pair was found: {counts}. {_HINTS.get(config.source, '')}".rstrip())
        found.counts["pairs that repeat another"] = len(found.pairs) - len(pairs)
        told = _report(pairs, found, system, task, config, split) | {"made_of": made_of}
        write_pairs(run.path / "pairs.jsonl", pairs)
        write_json(run.path / "cost.json", to_json(found.cost))
        text = card(told, found.cost)
        if found.data:
            write_made(run, found.data, text)
        else:
            run.write_card(text)
        write_json(file, told)  # last: where it is, the run is done
    told = read_json(file)
    if told["made_of"] != made_of:
        raise UserError(
            f"{file} was made of another model, task, prompt or file. Give this run another --name, or "
            "--overwrite to start anew there."
        )
    return dict(told)


def _find(system: System, task: Task, c: Config, drawer: Drawer, split: str, questions: int | None) -> _Found:
    if c.source == "file":
        pairs = read_pairs(str(c.file))
        return _Found(pairs, Counter({"rows": len(pairs)}))
    if c.source == "votes":
        pairs, counts, bias = read_votes(str(c.file))
        return _Found(pairs, counts, more={"position": bias})
    if c.source == "verifier":
        how: dict[str, Any] = {"temperature": c.temperature, "truncated": c.truncated_rejected}
        return _Found(
            *verifier_pairs(
                system, task, c.n, c.per_question, split, c.pair_seed, drawer, questions=questions, **how
            )
        )
    principles: list[str] = []
    if c.source == "constitution":  # what is wrong is said before hours of sampling
        principles = constitution.read_principles(c.constitution or constitution.OWN)
        constitution.check_prompt(system.prompt)
    examples = questions_for_pairs(task, split, questions)
    sampling = Sampling(c.n, c.temperature, c.pair_seed)
    answered, counts, drawing = draw_answers(system, task, examples, sampling, drawer)
    style = system.prompt.style
    if c.source == "judge":
        how = {"reasons": c.reasons, "reason_tokens": c.write_tokens}
        pairs, judged, cost, bias = judge.judge_pairs(
            answered, style, c.judge_of(system), c.per_question, c.pair_seed, drawer, **how
        )
        result = _Found(pairs, counts + judged, together([drawing, cost]), {"position": bias})
    else:
        pairs, made, revised, cost = constitution.constitution_pairs(
            answered,
            style,
            system.model,
            principles,
            c.per_question,
            c.write_tokens,
            c.temperature,
            c.pair_seed,
            drawer,
        )
        result = _Found(pairs, counts + revised, together([drawing, cost]), data=made)
    result.more["graded"] = graded(pairs, examples, task)
    return result


def _report(
    pairs: Sequence[Pair], found: _Found, system: System, task: Task, config: Config, split: str
) -> dict[str, Any]:
    margins = [pair.margin for pair in pairs if pair.margin is not None]
    told: dict[str, Any] = {"source": config.source, "settings": config.used()}
    if config.source in USUAL:
        told |= {"model": _name(system.model), "prompt": system.prompt.name, "task": task.name, "split": split}
    if config.source == "judge":
        told["judge"] = _name(config.judge_of(system))
    return told | {
        "pairs": len(pairs),
        "groups": len({pair.group for pair in pairs}),
        "conflicting": conflicts(pairs),
        "counts": {what: count for what, count in found.counts.items() if count},
        "margin": {"pairs": len(margins), "mean": mean(margins), "median": median(margins)} if margins else None,
        "length": length_bias(pairs),
        **found.more,
    }


def _name(model: Model) -> str:
    return base_name(model) + (" with an adapter" if model.adapter else "")


def _made_of(system: System, task: Task, config: Config) -> dict[str, Any]:
    """Hashes of all that the pairs depend on, beside the settings, which the run's own config has."""
    if config.file is not None:
        return {"file": file_hash(config.file)}
    made_of = {"system": system_hash(system), "task": task.hash}
    if config.source == "judge":
        made_of["judge"] = short_hash(model_identity(config.judge_of(system)))
        made_of |= {name: load_prompt(name).file_hash for name in judge.PROMPTS}
    elif config.source == "constitution":
        made_of["constitution"] = file_hash(config.constitution or constitution.OWN)
        made_of |= {name: load_prompt(name).file_hash for name in constitution.PROMPTS}
    return made_of
