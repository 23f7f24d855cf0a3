"""What a round of self-improvement says of its votes: counts, confidence and entropy, as data and in words."""

from collections.abc import Mapping, Sequence
from typing import Any

from workbench.errors import UserError
from workbench.identity import to_json
from workbench.instructing.votes import Vote, distinct, writable
from workbench.report import with_span
from workbench.stats import bootstrap_interval, mean_interval


def summary(
    number: int, votes: Sequence[Vote], kept: Sequence[Vote], examples: int, failed: Mapping[str, int]
) -> dict[str, Any]:
    """A round's votes in numbers, as JSON data; nothing in it knows which answers are right.

    Args:
        number: of the round.
        votes: of all questions that were asked.
        kept: those that are confident enough.
        examples: rows that were made of their paths.
        failed: requests that failed for good, by their reasons; they are no samples.
    """
    asked = [v for v in votes if v.samples]
    return {
        "round": number,
        "questions": len(votes),
        "kept_questions": len(kept),
        "samples": sum(v.samples for v in votes),
        "truncated": sum(v.truncated for v in votes),
        "unparsable": sum(v.unparsable for v in votes),
        "failed": dict(failed),
        "agreeing_paths": sum(len(v.paths) for v in votes),
        "kept_paths": sum(len(v.paths) for v in kept),
        "kept_distinct": sum(len(distinct(v.paths)) for v in kept),
        "broken_characters": sum(len(v.paths) - len(writable(v.paths)) for v in kept),
        "examples": examples,
        "confidence": to_json(bootstrap_interval([v.confidence for v in asked])),
        "entropy": to_json(mean_interval([v.entropy for v in asked])),
    }


STAND_IN = (
    "Where answers are no numbers, --stand-in must be a text of their form, for a task may read a number where it "
    "is one."
)


def nothing_kept(votes: Sequence[Vote], threshold: float) -> UserError:
    """The error for votes of which none is confident enough, with what the votes were like."""
    samples, silent = sum(v.samples for v in votes), sum(v.truncated + v.unparsable for v in votes)
    best = max(v.confidence for v in votes)
    if best >= threshold:
        return UserError("Every path of a confident majority holds broken characters. Take another prompt.")
    said = (
        f"No question of {len(votes)} has a majority with a share of {threshold:g} or more; the highest is "
        f"{best:.3g}. Of {samples} samples {silent} were cut off or gave no answer. Lower --confidence, raise "
        "--max-tokens, or take another prompt."
    )
    return UserError(f"{said} {STAND_IN}" if _mute(sum(v.unparsable for v in votes), samples) else said)


def _mute(unparsable: int, samples: int) -> bool:
    """Whether most samples are whole and have no answer."""
    return 2 * unparsable > samples


def data_card(told: Mapping[str, Any], model: str, prompt: str, task: str, settings: Sequence[str]) -> str:
    """The card of a round's data.

    Args:
        told: its `summary`.
        model: whose samples they are, in words.
        prompt: the prompt's name.
        task: the task's name.
        settings: how the paths were drawn and kept, a line each.
    """
    lines = "\n".join(f"- {line}" for line in settings)
    return f"""# Answers that a model agreed on itself, round {told["round"]}

Made by self-improvement (LMSI, Huang et al. 2022, arXiv 2210.11610) from practice questions of `{task}`. The model
is {model}. It was asked them with the prompt `{prompt}`; the most frequent answer of a question was taken
for right, and the samples that gave it are the completions. **No right answer was looked at: some are wrong.**

{_counts(told)}

{lines}

`data.jsonl` has a row for each: `prompt`, `completion`, and in `source` the question's id, the sample's number and
seed, the answer, its votes and the confidence. `workbench lora --data data.jsonl --data-format prompt-completion`
learns it.
"""


def rounds_table(rounds: Sequence[Mapping[str, Any]]) -> str:
    """The rounds, a row each, as Markdown; confidence and entropy are those of the model that was sampled."""
    rows = [
        f"| {told['round']} | {told['questions']:,} | {told['kept_questions']:,} | {told['samples']:,} | "
        f"{told['kept_paths']:,} | {told['examples']:,} | {with_span(told['confidence'])} | "
        f"{with_span(told['entropy'])} |"
        for told in rounds
    ]
    return "\n".join(
        [
            "What the model that a round began with said to the practice questions, and what was kept of it. No",
            "right answer was read. Entropy is of a question's answers, in nats; 95 % intervals by bootstrap.",
            "",
            "| round | questions | kept | samples | kept paths | examples | mean confidence | mean entropy |",
            "| --- | --- | --- | --- | --- | --- | --- | --- |",
            *rows,
        ]
    )


def _counts(told: Mapping[str, Any]) -> str:
    why = ", ".join(f"{count:,} {reason}" for reason, count in told["failed"].items())
    more = f" Requests that failed for good, and are no samples: {why}." if why else ""
    if told["broken_characters"]:
        more += f" {told['broken_characters']:,} kept paths hold broken characters and are not in the data."
    if _mute(told["unparsable"], told["samples"]):
        more += f" **Most samples gave no answer.** {STAND_IN}"
    return (
        f"Of {told['questions']:,} questions {told['kept_questions']:,} were kept. Of {told['samples']:,} samples "
        f"{told['agreeing_paths']:,} agreed with their question's majority, {told['truncated']:,} were cut off "
        f"and {told['unparsable']:,} gave no answer; {told['kept_paths']:,} agreed on a question that was kept, "
        f"{told['kept_distinct']:,} of them distinct. The data have {told['examples']:,} examples.{more} Mean "
        f"confidence {with_span(told['confidence'])}, mean entropy of a question's answers "
        f"{with_span(told['entropy'])} nats."
    )
