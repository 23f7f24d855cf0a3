"""Instruction backtranslation (Li et al. 2023, arXiv 2308.06259): from texts to the instructions that they answer.

The model writes the instruction that a text answers (self-augmentation, §2.2), and then grades each pair of
instruction and text from 1 to 5 (self-curation, §2.3); texts whose best pairs have the highest grades are kept.
The text is the completion, so that what is learned was written by whoever wrote the texts.

Where it departs from the paper: a chat model is asked for the instruction by a prompt, where the paper tunes a
model on pairs turned round; the grade is its expectation over the likelihoods of the digits, where the paper reads
the one that is generated; a share of the texts is kept, where the paper keeps those of grade 5, or 4 and more, to
which an expectation seldom comes; and one pass is made, where the paper curates again with the tuned model.

That kept pairs have higher grades says nothing: they were kept for it. Whether the grades mean something is
seen from what the model gives a text with the instruction of another text.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from workbench.command import Flat
from workbench.decodes import Sample
from workbench.drawing import Drawer
from workbench.errors import UserError, check_range
from workbench.files import read_json, write_json
from workbench.identity import model_identity, short_hash, to_json
from workbench.instructing.curating import OK, Score, cleaned, read_texts, scores
from workbench.instructing.failures import failures
from workbench.instructing.grades import data_card, nothing_kept, summary
from workbench.made_data import Made, write_made
from workbench.prompts import load_prompt, render
from workbench.runs import Run
from workbench.training.card import together
from workbench.types import Example, Model, Request, System, text_hash


@dataclass(frozen=True)
class Config:
    """Which texts, how instructions are drawn for them, and what is kept.

    Attributes:
        texts: a .jsonl, .csv or .parquet file, or a text file of paragraphs that blank lines part; by default the
            project's own general text, which `--forgetting` measures on, so that what learned it needs another one
            there.
        text_field: the field of a row that holds its text.
        limit: how many texts, the first ones; by default all.
        candidates: how many instructions a text, and how they are drawn.
        keep: the share of the texts that is kept, those whose best pairs have the highest grades.
        threshold: the grade, 1 to 5, that a text's best pair must have to be kept; it takes the place of `keep`.
        instruction_prompt: asks for the instruction; its input is the text.
        score_prompt: asks for the grade; its input is the instruction, `answer` the text.

    Raises:
        UserError: a value is out of range; the message names the field.
    """

    texts: Path | None = None
    text_field: str = "text"
    limit: int | None = None
    candidates: Flat[Sample] = field(default_factory=lambda: Sample(n=4, max_tokens=96))
    keep: float = 0.5
    threshold: float | None = None
    instruction_prompt: str = "backtranslate"
    score_prompt: str = "curate-score"

    def __post_init__(self) -> None:
        check_range("keep", self.keep, 0, 1, open_low=True)
        if self.threshold is not None:
            check_range("threshold", self.threshold, 1, 5)
        if self.limit is not None:
            check_range("limit", self.limit, 1, 10**9)


@dataclass(frozen=True)
class Candidate:
    """A text by its number, an instruction for it, which sample that is, and the pair's score."""

    text: int
    instruction: str
    sample: int
    score: Score


def make(model: Model, config: Config, run: Run, drawer: Drawer) -> dict[str, Any]:
    """Make the data set; gives what backtranslation.json tells of it.

    Args:
        model: writes the instructions and grades them.
        config: the method's settings.
        run: data.jsonl, its card, cost.json and backtranslation.json go there. A finished run is not run again; an
            interrupted one goes on, for what was drawn is in the store.
        drawer: draws instructions and scores.

    Raises:
        UserError: the texts cannot be read, requests failed that may pass, nothing is kept, or the run holds data
            of other texts or another model.
    """
    texts = read_texts(config.texts, config.text_field, config.limit)
    prompts = [load_prompt(name).file_hash for name in (config.instruction_prompt, config.score_prompt)]
    made_of = {"texts": short_hash(list(texts)), "model": model_identity(model), "prompts": prompts}
    done = run.path / "backtranslation.json"
    if done.exists():
        found: dict[str, Any] = read_json(done)
        if found["made_of"] != made_of:
            raise UserError(
                f"{run.path} holds data of other texts, another model or other prompts. Give this run another "
                "--name, or --overwrite."
            )
        return found
    prompt = load_prompt(config.instruction_prompt)
    asking = System(model, prompt, config.candidates)
    asked = [Request(text_hash(t), render(prompt, Example.make(t, "")), style=prompt.style) for t in texts]
    drawn = drawer.draw(asking, asked, "instructions")
    failures([completion for found in drawn.completions.values() for completion in found], "instructions")
    reasons: Counter[str] = Counter()
    pairs: dict[tuple[int, str], int] = {}
    for place, request in enumerate(asked):
        for completion in drawn.completions[request.id]:
            instruction, reason = cleaned(completion, texts[place])
            if reason == OK and (place, instruction) in pairs:
                reason = "repeats another of its text"
            reasons[reason] += 1
            if reason == OK:
                pairs[place, instruction] = completion.index
    if not pairs:
        raise nothing_kept(reasons, [], config.threshold)
    own = [(instruction, texts[place]) for place, instruction in pairs]
    # Each instruction with the text after its own: what a grade is worth shows in what it gives to these.
    others = [(instruction, texts[(place + 1) % len(texts)]) for place, instruction in pairs]
    judged, failed, scoring = scores(model, own, config.score_prompt, drawer)
    crossed, _, crossing = scores(model, others if len(texts) > 1 else [], config.score_prompt, drawer)
    candidates = [
        Candidate(place, instruction, sample, score)
        for ((place, instruction), sample), score in zip(pairs.items(), judged, strict=True)
        if score is not None
    ]
    best: dict[int, Candidate] = {}
    for c in candidates:  # the first of equals
        if c.text not in best or c.score.value > best[c.text].score.value:
            best[c.text] = c
    kept = _chosen(list(best.values()), config)
    if not kept:
        raise nothing_kept(reasons, [c.score for c in candidates], config.threshold)
    whose = [place for place, _ in pairs]
    told = summary(reasons, whose, judged, crossed, [c.score for c in kept], len(texts))
    told |= {"score_failures": dict(failed), "made_of": made_of}
    if config.threshold is None:
        rule = f"for the share of {config.keep:g} of the texts where its grade is highest"
    else:
        rule = f"where its grade is {config.threshold:g} or more"
    write_made(run, [_row(model, config, texts[c.text], c) for c in kept], data_card(told, model, asking, rule))
    write_json(run.path / "cost.json", to_json(together([drawn.cost, scoring, crossing])))
    write_json(done, told)  # last: where it is, the data are made
    return told


def _chosen(best: Sequence[Candidate], config: Config) -> list[Candidate]:
    """Those that are kept of the texts' best, in their order; of equals the first."""
    if config.threshold is not None:
        return [c for c in best if c.score.value >= config.threshold]
    wanted = max(1, round(config.keep * len(best)))
    ranked = sorted(best, key=lambda c: (-c.score.value, c.text))[:wanted]
    return sorted(ranked, key=lambda c: c.text)


def _row(model: Model, config: Config, text: str, candidate: Candidate) -> Made:
    """A pair as an example, with where it comes from."""
    source = {
        "method": "backtranslation",
        "model": model_identity(model),
        "texts": config.texts.name if config.texts else "general_text.txt",
        "text": candidate.text + 1,
        "sample": candidate.sample,
        "seed": config.candidates.seed,
        "temperature": config.candidates.temperature,
        "score": candidate.score.value,
        "probabilities": list(candidate.score.probabilities),
        "prompts": [config.instruction_prompt, config.score_prompt],
    }
    return Made(f"{text_hash(text)}-{candidate.sample}", candidate.instruction, text, source)
