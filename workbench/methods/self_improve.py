"""Self-improvement, LMSI (Huang et al. 2022, arXiv 2210.11610): a model learns the answers that it agrees on.

For each practice question n paths are sampled; the most frequent answer wins, and its share of the samples is the
confidence (§3.1). The paths to it are kept where the confidence is high enough, and a LoRA adapter learns them.
The next round samples from the model so tuned. No right answer is read: the paths are read by `votes.unlabelled`.

Where it departs from the paper: paths are sampled without exemplars, and learned in the form in which they were
asked for, where the paper mixes four; a confidence below a threshold drops the question; equal paths of a question
are one example, unless `repeats`, which is the paper's way; and what learns is LoRA. Adapters do not stack: every
round trains a fresh one on the base, on the paths of the newest model.

It runs in one process: under `accelerate launch` the others would wait for hours of sampling, longer than their
connection does. A round's `data.jsonl` can be learned under it, by `workbench lora --data`.
"""

import shutil
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from workbench.command import Flat
from workbench.decodes import Sample
from workbench.drawing import Drawer, requests_of
from workbench.errors import UserError, check_range
from workbench.files import json_bytes, read_json, write_atomic, write_json
from workbench.folders import new_folder
from workbench.hub import base_name
from workbench.identity import model_identity, to_json
from workbench.instructing.failures import failures
from workbench.instructing.student import asked, check_learnable
from workbench.instructing.vote_words import data_card, nothing_kept, rounds_table, summary
from workbench.instructing.votes import Unlabelled, Vote, distinct, unlabelled, vote, writable
from workbench.launch import check_single
from workbench.made_data import Made, write_made
from workbench.methods.lora import Config as LoraConfig
from workbench.methods.lora import adapt as adapt_lora
from workbench.models import load_tokenizer
from workbench.runs import Run, RunFolder
from workbench.tasks.base import Task
from workbench.training.card import cost_of, finish, together
from workbench.training.trouble import TROUBLES
from workbench.types import Completion, CostToMake, Model, System


@dataclass(frozen=True)
class Config:
    """How paths are drawn and kept, and how they are learned.

    Attributes:
        paths: how many paths a question and how they are drawn; the paper draws 32 at temperature .7.
        confidence: a question whose majority's share of its samples is below this is left out. Samples that are
            cut off, or give no answer, are in the denominator.
        repeats: learn a path as often as it was drawn, not once.
        rounds: how often paths are drawn and learned.
        practice_questions: how many practice questions, the first ones; by default all.
        stand_in: an answer of the form that answers have, which graders get in the place of every right answer: a
            number where they are numbers, a word where they are words (`gym` with a generator of texts); where
            they are classes, any text. No right answer is looked at to tell which: a wrong form makes the votes
            those of other things, or leaves most samples without an answer, which is told.
        lora: how the kept paths are learned.

    Raises:
        UserError: a value is out of range, or the training names data of its own.
    """

    paths: Flat[Sample] = field(default_factory=lambda: Sample(n=32))
    confidence: float = 0.5
    repeats: bool = False
    rounds: int = 2
    practice_questions: int | None = None
    stand_in: str = "0"
    lora: Flat[LoraConfig] = field(default_factory=LoraConfig)

    def __post_init__(self) -> None:
        check_range("confidence", self.confidence, 0, 1)
        check_range("rounds", self.rounds, 1, 100)
        if self.practice_questions is not None:
            check_range("practice_questions", self.practice_questions, 1, 10**9)
        if not self.stand_in.strip():
            raise UserError("stand_in is empty; give an answer of the form that answers have, as 0.")
        if self.lora.training.data.data is not None:
            raise UserError("Self-improvement makes its own data: leave --data out.")


def adapt(system: System, task: Task, config: Config, run: Run, drawer: Drawer, *, quiet: bool = False) -> System:
    """The system with the last round's adapter in its model slot; prompt and decode stay as they are.

    Args:
        system: its model is sampled and tuned, on its prompt; its decode plays no part.
        task: its practice questions are asked. Of its examples no target and no rationale is read.
        config: the method's settings.
        run: each round's data, with provenance and card, go to `round-<n>-data`, its training to `round-<n>`; the
            last adapter, `rounds.json`, `cost.json` (sampling and training of all rounds) and the card to the run
            itself. What is done is not done again; an interrupted run goes on.
        drawer: draws the paths.
        quiet: no progress bars.

    Raises:
        UserError: `accelerate launch` started several processes, the model has an adapter already, the engine is a
            server's, the prompt cannot be learned, there are too few questions, requests failed that may pass, or
            no question is confident enough.
    """
    check_single("self-improvement")
    _check(system, drawer)
    practice = unlabelled(task, config.practice_questions, config.stand_in)
    costs: list[CostToMake] = []
    tuned = system
    for number in range(1, config.rounds + 1):
        data, cost = _sampled(tuned, practice, task, config, run, number, drawer)
        drawer.close()
        tuned, training_cost = _trained(system, task, config, run, number, data, quiet)
        costs += [cost, training_cost]
    return _finished(tuned, task, config, run, costs)


def _sampled(
    system: System, practice: Unlabelled, task: Task, config: Config, run: Run, number: int, drawer: Drawer
) -> tuple[Path, CostToMake]:
    """A round's data, and what sampling it cost: from its folder where it is done."""
    content = {"round": number, "model": model_identity(system.model)}
    with Run.open(run.path, "self_improve_data", content, name=f"round-{number}-data") as made:
        done = made.path / "votes.json"
        if not done.exists():
            decode = replace(config.paths, max_tokens=config.paths.max_tokens or task.max_tokens)
            sampling = replace(system, decode=decode)
            drawn = drawer.draw(sampling, requests_of(system, practice.questions), f"round {number}: paths")
            every = [completion for found in drawn.completions.values() for completion in found]
            failed = failures(every, f"round {number}: paths")
            votes = [vote(q, drawn.completions[q.id], practice.read) for q in practice.questions]
            kept = [v for v in votes if v.paths and v.confidence >= config.confidence]
            rows = [
                _row(sampling, v, path, number)
                for v in kept
                for path in (writable(v.paths) if config.repeats else distinct(writable(v.paths)))
            ]
            if not rows:
                raise nothing_kept(votes, config.confidence)
            told = summary(number, votes, kept, len(rows), failed)
            write_made(made, rows, data_card(told, *_words(sampling, task, config)))
            write_json(made.path / "cost.json", to_json(drawn.cost))
            write_json(done, told)  # last: where it is, the round's data are made
        return made.path / "data.jsonl", cost_of(made)


def _check(system: System, drawer: Drawer) -> None:
    if system.model.adapter is not None:
        raise UserError(
            f"A base model improves itself, and this one has the adapter {system.model.adapter!r} already. Leave "
            "--adapter out, or merge it into its base first (`workbench adapter merge`)."
        )
    if drawer.config.engine == "vllm":
        raise UserError("A server does not know a model that is yet to be tuned: improve it with --engine hf.")
    check_learnable(system.prompt)
    if system.prompt.style == "text" and load_tokenizer(system.model).chat_template:
        raise UserError(
            f"The prompt {system.prompt.name!r} is plain text, and a model with a chat template learns what "
            "follows a user's turn: take a prompt of the style chat."
        )


def _words(system: System, task: Task, config: Config) -> tuple[str, str, str, list[str]]:
    """What the data's card says of where they come from."""
    decode, model = system.decode, system.model
    assert isinstance(decode, Sample)
    tuned = ", tuned in the round before," if model.adapter else ""
    drawn = (
        f"{decode.n} samples a question at temperature {decode.temperature:g}, top_p {decode.top_p:g}, top_k "
        f"{decode.top_k}, seed {decode.seed}, at most {decode.max_tokens} tokens"
    )
    kept = f"kept where the majority's share of the samples is {config.confidence:g} or more"
    texts = "as often as it was drawn" if config.repeats else "once, however often it was drawn"
    name = base_name(Model(model.base, model.revision))
    return f"{name}{tuned}", system.prompt.name, task.name, [drawn, kept, f"an equal text of a question {texts}"]


def _row(system: System, v: Vote, path: Completion, number: int) -> Made:
    """A path as an example, with where it comes from."""
    assert isinstance(system.decode, Sample)
    source = {
        "method": "self_improve",
        "round": number,
        "model": model_identity(system.model),
        "prompt": system.prompt.name,
        "question": v.question.id,
        "sample": path.index,
        "seed": system.decode.seed,
        "temperature": system.decode.temperature,
        "answer": v.answer,
        "votes": len(v.paths),
        "samples": v.samples,
        "confidence": v.confidence,
    }
    return Made(f"{v.question.id}-{path.index}", asked(system.prompt, v.question), path.text, source)


def _trained(
    system: System, task: Task, config: Config, run: Run, number: int, file: Path, quiet: bool
) -> tuple[System, CostToMake]:
    """The base with a fresh adapter that learned a round's data, in a run of its own."""
    training = config.lora.training
    data = replace(training.data, data=str(file), data_format="prompt-completion")
    settings = replace(config.lora, training=replace(training, data=data))
    with Run.open(run.path, "lora", {"round": number}, name=f"round-{number}") as own:
        return adapt_lora(system, task, settings, own, quiet=quiet), cost_of(own)


def _finished(system: System, task: Task, config: Config, run: Run, costs: Sequence[CostToMake]) -> System:
    """What the last round made, in the run itself, with what all rounds cost and the card."""
    last = RunFolder(run.path / f"round-{config.rounds}")
    adapter = run.path / "adapter"
    if not adapter.is_dir():
        with new_folder(adapter) as folder:
            shutil.copytree(last.path / "adapter", folder, dirs_exist_ok=True)
    rounds = [read_json(run.path / f"round-{n}-data" / "votes.json") for n in range(1, config.rounds + 1)]
    source = f"{task.name}, practice split, with the answers that the model itself agreed on"
    write_json(
        run.path / "data.json", {**read_json(last.path / "data.json"), "source": source, "format": "practice"}
    )
    write_json(run.path / "cost.json", to_json(together(costs)))
    lines = [{"event": "round", **told} for told in rounds]
    for number in range(1, config.rounds):  # their losses are their own, but what went wrong is this model's too
        told = RunFolder(run.path / f"round-{number}").metrics()
        lines += [{**line, "round": number} for line in told if line.get("event") in TROUBLES]
    lines += [{**line, "round": config.rounds} for line in last.metrics()]
    write_atomic(run.path / "metrics.jsonl", b"".join(json_bytes(line) + b"\n" for line in lines))
    write_json(run.path / "rounds.json", rounds)
    tuned = replace(system, model=replace(system.model, adapter=str(adapter)))
    finish("self-improvement (LMSI)", tuned, task, config, run)
    card = (run.path / "README.md").read_text(encoding="utf-8")
    run.write_card(f"{card}\n## Rounds\n\n{rounds_table(rounds)}\n")
    return tuned


def systems_of(system: System, config: Config, run: RunFolder) -> dict[str, tuple[System, CostToMake]]:
    """The System before, and after each round, by name, with what it cost to come there."""
    found = {"before": (system, CostToMake())}
    costs: list[CostToMake] = []
    for number in range(1, config.rounds + 1):
        own = RunFolder(run.path / f"round-{number}")
        costs += [cost_of(RunFolder(run.path / f"round-{number}-data")), cost_of(own)]
        tuned = replace(system, model=replace(system.model, adapter=str(own.path / "adapter")))
        found[f"round {number}"] = (tuned, together(costs))
    return found
