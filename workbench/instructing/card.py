"""The card of a data set that Self-Instruct made: what made it, what was left out, and what it is not."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from workbench.hub import join_card
from workbench.instructing.rounds import counted, without_instances
from workbench.types import Model


def name_of(model: Model) -> str:
    """A model for a reader who has not this machine: of what lies in a folder, the folder's own name."""
    parts = [model.base, model.adapter] if model.adapter else [model.base]
    return " with ".join(Path(p).resolve().name if Path(p).is_absolute() or Path(p).is_dir() else p for p in parts)


def card(found: Mapping[str, Any], run: str) -> str:
    """Markdown with the front matter that the Hub reads.

    Args:
        found: what self_instruct.json holds.
        run: the run's id.
    """
    named, settings = found["teacher"]["name"], found["settings"]
    matter = {"tags": ["synthetic", "self-instruct"], "task_categories": ["text-generation"]}
    similarity = found["largest_rouge_l"]
    text = f"""
# {counted(found["examples"], "example")} that {named} wrote

Made by Self-Instruct (Wang et al. 2022, arXiv 2212.10560) in the run `{run}` of the LLM workbench. `{named}` was
shown instructions and wrote others, from {found["seeds"]["tasks"]} seed tasks that people wrote
(`{found["seeds"]["file"]}`), which are not in the data; it then wrote inputs and answers itself. No person and no
other model has checked them.

## Format

`data.jsonl`, a line an example: `prompt` (the instruction, and behind an empty line its input), `completion`,
`id`, and `source`: round, request, the instructions that were shown, and the ROUGE-L to the nearest of the pool.
`instructions.jsonl` has every instruction and instance that was written, kept or not, with the reason.

## What was kept

{found["kept"]:,} of {counted(found["instructions"], "instruction")}, {found["with_instances"]:,} of them with
instances; {found["kept_instances"]:,} of {counted(found["instances"], "instance")}. It ended because
{found["stopped"]}.
The largest ROUGE-L between two kept instructions is {"–" if similarity is None else f"{similarity:.3f}"}; above
0.7 the later one is left out.

| instructions left out | |
| --- | --- |
{_table(found["reasons"])}

| instances left out | |
| --- | --- |
{_table(found["instance_reasons"])}

| requests that failed for good | |
| --- | --- |
{_table(found["failed_requests"])}

Of the kept instructions the teacher called {found["classification"]:,} classification and {found["other"]:,} not.
Kept without instances: {without_instances(found)}.

## Settings

Instructions: {counted(settings["requests"], "request")} a round, temperature {settings["temperature"]:g}, top p
{settings["top_p"]:g}, {settings["instruction_tokens"]:,} tokens at most. Instances: greedy,
{settings["instance_tokens"]:,} tokens at most, {settings["shots"]} seed tasks shown, or as many as there are.
Which exemplars and samples: draw seed {settings["draw_seed"]}. Prompts and completions had
{counted(found["tokens"], "token")} in all.

## Limits

What the teacher gets wrong is in it: answers may be false, inputs may not fit their instruction, and what the
teacher prefers is over-represented. The filters look at form, not at truth. The teacher's licence and terms hold
for what it wrote.
"""
    return join_card(matter, text)


def _table(reasons: Mapping[str, int]) -> str:
    return "\n".join(f"| {reason} | {count:,} |" for reason, count in reasons.items()) or "| none | 0 |"
