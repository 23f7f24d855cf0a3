"""What is told of pairs: a few lines for the terminal, and the card that lies beside them."""

from collections.abc import Mapping
from typing import Any

from workbench.cost import GRID_KG_PER_KWH, PUE, carbon_kg
from workbench.identity import from_json
from workbench.report import percent, span
from workbench.types import CostToMake, Interval

_MADE = {
    "verifier": "Answers of a model to questions of a task: one that the task's grader calls right is "
    "preferred to one that it calls wrong.",
    "judge": "Answers of a model to questions of a task: the preferred one is that to whose letter a judging "
    "model gives the higher probability, averaged over both orders.",
    "constitution": "Answers of a model to questions of a task, and the same model's revisions of them after "
    "it had criticised them by a principle; the revision is preferred, and nobody checked that it is better.",
    "votes": "Blind votes of people between two answers.",
    "file": "Pairs from a file; how they came about is its author's to tell.",
}

_GOOD_FOR = {
    "verifier": "For DPO and for a reward model on this task, for the model that wrote them: the pairs are "
    "its own answers. They teach which answers are right, not how to put them, and nothing beside the task. A "
    "question that it always or never gets right gives no pair, so that they are of middling difficulty for it.",
    "judge": "For DPO and for a reward model where no grader exists. They are as good as the judge: see how "
    "often its verdict turns with the order, and where the task has a grader how often they agree.",
    "constitution": "For fine-tuning on the revisions (`data.jsonl`) and then for DPO. A small model's "
    "revisions may be no better than its answers; read some of them first.",
    "votes": "For DPO and for a reward model of what these people prefer. They are few, and the people are "
    "not a sample of all people.",
    "file": "For DPO and for a reward model, within what their author says of them.",
}


def summary(told: Mapping[str, Any]) -> str:
    """What `preferences.json` holds, in a few lines."""
    length, counts = told["length"], told["counts"]
    of = f" of {counts['questions']} questions of {told['task']}, split {told['split']}" if "task" in told else ""
    lines = [f"{told['pairs']} pairs of {told['groups']} prompts{of}. {_counted(told)}"]
    if told["conflicting"]:
        lines.append(f"{told['conflicting']} of them contradict another: the same answers the other way round.")
    if told["margin"]:
        margin = told["margin"]
        lines.append(
            f"Margin: mean {margin['mean']:.3g}, median {margin['median']:.3g} ({margin['pairs']} pairs)."
        )
    chosen, rejected = length["chosen"], length["rejected"]
    differing = length["longer"] + length["shorter"]
    longer = "All answers are as long as the other one of their pair."
    if differing:
        longer = (
            f"The chosen answer is the longer one in {length['longer']} of {differing} pairs of different "
            f"lengths: {_share(length['chosen_longer'])}; {length['equal']} are of equal length."
        )
    lines.append(
        f"Length in characters, mean (median): chosen {chosen['mean']:.1f} ({chosen['median']:g}), rejected "
        f"{rejected['mean']:.1f} ({rejected['median']:g}). {longer}"
    )
    if length["margin_correlation"]:
        found: Interval = from_json(length["margin_correlation"])
        lines.append(
            f"Correlation of the margin with how much longer the chosen answer is: {found.value:.2f} "
            f"({found.low:.2f} to {found.high:.2f})."
        )
    return "\n".join([*lines, *_position(told), *_graded(told)])


def card(told: Mapping[str, Any], cost: CostToMake) -> str:
    """Markdown: what the pairs are, with all figures, what they are good for, and what they cost."""
    where = f" on {told['task']}" if "task" in told else ""
    roles = {"model": "Model", "judge": "Judge", "prompt": "Prompt", "split": "Split"}
    who = [f"{name}: {told[key]}." for key, name in roles.items() if key in told]
    settings = "\n".join(f"| {name} | {value} |" for name, value in told["settings"].items() if value is not None)
    counts = "\n".join(f"| {what} | {count:,} |" for what, count in told["counts"].items())
    figures = "\n".join(f"- {line}" for line in summary(told).splitlines())
    data = (
        "`data.jsonl` has prompts with their revisions, which `workbench sft` and `workbench lora` take as "
        "`--data`.\n"
        if told["source"] == "constitution"
        else ""
    )
    spent = (
        f"{cost.tokens:,} tokens, {cost.flops:.3g} FLOPs, {cost.seconds:,.1f} s, {cost.watt_hours:.3g} Wh "
        f"({cost.energy_source}), about {1000 * carbon_kg(cost.watt_hours):.2g} g of CO₂e at {GRID_KG_PER_KWH:g} "
        f"kg/kWh and PUE {PUE:g}, neither of which was measured."
        if cost != CostToMake()
        else "Nothing was drawn."
    )
    return f"""# Preference pairs: {told["source"]}{where}

{_MADE[told["source"]]} {" ".join(who)}

`pairs.jsonl` has a pair a line: `prompt`, `chosen`, `rejected`, `group` (pairs of one prompt share it; a split or
a batch takes all of them or none), and `margin` and `source` where there are any. No token that ends a turn is in
them.
{data}
## Figures

{figures}

Intervals are 95 % over prompts: pairs of one prompt are not independent.

| what | count |
| --- | --- |
{counts}

## Settings

| setting | value |
| --- | --- |
{settings}

## What they are good for

{_GOOD_FOR[told["source"]]}

## Cost to make

{spent}
"""


def _counted(told: Mapping[str, Any]) -> str:
    named = ("questions", "questions with pairs")
    counted = [f"{count:,} {what}" for what, count in told["counts"].items() if what not in named]
    return f"Counted: {', '.join(counted)}."


def _position(told: Mapping[str, Any]) -> list[str]:
    if "position" not in told:
        return []
    found = told["position"]
    first = _share(found["first_preferred"])
    if told["source"] == "votes":
        return [f"The left answer was preferred in {first} of {found['pairs']} votes for a side."]
    lines = [
        f"Position bias over {found['pairs']} pairs, both orders: the verdict turns with the order in "
        f"{_share(found['flips'])}; the first place is preferred in {first} of verdicts, with a mean probability "
        f"of {_share(found['mean_first'])}."
    ]
    if found["flips"]["value"] > 0.5:
        lines.append(
            "This judge follows the place more than the answers: its pairs are worth little. Take another."
        )
    return lines


def _graded(told: Mapping[str, Any]) -> list[str]:
    if "graded" not in told:
        return []
    found, pairs = told["graded"], told["pairs"]
    one = "there is no pair with just one right answer"
    if found["one_right"]:
        share = _share(found["agreement"])
        one = f"where just one is, it is the chosen one in {share} of {found['one_right']} pairs"
    return [
        f"By the task's grader {found['chosen_right']} of {pairs} chosen and {found['rejected_right']} of {pairs} "
        f"rejected answers are right; {one}."
    ]


def _share(data: Any) -> str:
    interval: Interval = from_json(data)
    return f"{percent(interval.value)} ({span(interval)})"
