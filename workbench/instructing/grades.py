"""What instruction backtranslation says of its grades: their distribution, and whether they tell pairs apart."""

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

from workbench.decodes import Sample
from workbench.errors import UserError
from workbench.hub import base_name
from workbench.identity import to_json
from workbench.instructing.curating import GRADES, Score
from workbench.report import with_span
from workbench.stats import mean_interval, paired_bootstrap
from workbench.types import Interval, Model, System

EDGES = (1.0, 1.5, 2.0, 2.5, 3.0, 3.5, 4.0, 4.5, 5.0)  # of the histogram of expected grades


def summary(
    reasons: Mapping[str, int],
    whose: Sequence[int],
    judged: Sequence[Score | None],
    crossed: Sequence[Score | None],
    kept: Sequence[Score],
    texts: int,
) -> dict[str, Any]:
    """The candidates in numbers, as JSON data.

    Args:
        reasons: what became of the completions, how many of each.
        whose: the text's number of each candidate.
        judged: each candidate's score with its own text.
        crossed: each candidate's score with another text; empty where there is one text.
        kept: the scores of what is kept.
        texts: how many there are.
    """
    own = [score for score in judged if score is not None]
    pairs = [
        (place, a, b)
        for place, a, b in zip(whose, judged, crossed, strict=False)
        if a is not None and b is not None
    ]
    told: dict[str, Any] = {
        "texts": texts,
        "completions": dict(sorted(reasons.items())),
        "candidates": len(judged),
        "not_scored": len(judged) - len(own),
        "kept": len(kept),
        "score": to_json(mean_interval([s.value for s in own])),
        "kept_score": to_json(mean_interval([s.value for s in kept])),
        "kept_lowest": min(s.value for s in kept),
        "entropy": to_json(mean_interval([s.entropy for s in own])),
        "histogram": histogram([s.value for s in own]),
        "likeliest": {
            g: sum(s.probabilities.index(max(s.probabilities)) == i for s in own) for i, g in enumerate(GRADES)
        },
    }
    if pairs:
        told["own_against_other"] = _told_apart(pairs)
    return told


def _told_apart(pairs: Sequence[tuple[int, Score, Score]]) -> dict[str, Any]:
    """Grades with a text's own instruction against those with another's; a text is one unit, whatever it drew."""
    first: dict[int, list[float]] = {}
    second: dict[int, list[float]] = {}
    for place, own, other in pairs:
        first.setdefault(place, []).append((own.value - 1) / 4)
        second.setdefault(place, []).append((other.value - 1) / 4)
    own_T = [sum(values) / len(values) for values in first.values()]
    other_T = [sum(values) / len(values) for values in second.values()]
    paired = paired_bootstrap(own_T, other_T)
    d = paired.difference
    grades = Interval(4 * d.value, 4 * d.low, 4 * d.high, d.confidence, d.method)
    higher = sum(a.value > b.value for _, a, b in pairs)
    return {
        "texts": len(own_T),
        "pairs": len(pairs),
        "own_higher": higher,
        "difference": to_json(grades),
        "p": paired.p_value,
    }


def histogram(values: Sequence[float]) -> dict[str, int]:
    """How many expected grades are in [1, 1.5), …, [4.5, 5]."""
    counts = {f"{low:g}–{high:g}": 0 for low, high in pairwise(EDGES)}
    names = list(counts)
    for value in values:
        counts[names[min(len(names) - 1, int((value - 1) / 0.5))]] += 1
    return counts


def nothing_kept(reasons: Mapping[str, int], found: Sequence[Score], threshold: float | None) -> UserError:
    """The error where no pair is good enough, with what there was; without a threshold none was scored."""
    told = ", ".join(f"{count} {reason}" for reason, count in sorted(reasons.items()))
    if not found or threshold is None:
        return UserError(f"No instruction was usable and scored. Of the completions: {told}.")
    best = max(score.value for score in found)
    return UserError(
        f"No pair has a grade of {threshold:g} or more; the highest of {len(found)} is {best:.2f}. Of the "
        f"completions: {told}. Lower --threshold, leave it out to keep a share of the texts, or take a larger "
        "model."
    )


def lines(told: Mapping[str, Any]) -> list[str]:
    """The summary in words, a sentence or two each."""
    became = ", ".join(f"{count:,} {reason}" for reason, count in told["completions"].items())
    out = [
        f"{told['kept']:,} of {told['texts']:,} texts were kept, each with its best instruction; the lowest grade "
        f"among them is {told['kept_lowest']:.2f}.",
        f"Completions: {became}.",
        f"Grades of {told['candidates'] - told['not_scored']:,} candidates: mean {with_span(told['score'])}; of "
        "those kept "
        f"{with_span(told['kept_score'])}, which says nothing, for they were kept for it.",
        "Expected grades: " + ", ".join(f"{name}: {count}" for name, count in told["histogram"].items()) + ".",
        "The likeliest grade was " + ", ".join(f"{g} for {n}" for g, n in told["likeliest"].items()) + ".",
        f"Entropy over the five grades: mean {with_span(told['entropy'])} nats; no opinion is 1.609.",
    ]
    if told["not_scored"]:
        why = ", ".join(f"{count:,} {reason}" for reason, count in told["score_failures"].items())
        out.append(
            f"{told['not_scored']:,} candidates got no score and were left out ({why or 'a grade missing'})."
        )
    if apart := told.get("own_against_other"):
        d = apart["difference"]
        verdict = "The grades tell a text's own instruction from another's."
        if not d["low"] > 0:
            verdict = "**So these grades do not tell a text's own instruction from another's.**"
        out.append(
            f"With its own text an instruction got {d['value']:+.3f} ({d['low']:+.3f} to {d['high']:+.3f}) grades "
            f"more than with the next text (paired bootstrap over {apart['texts']} texts, p = {apart['p']:.2g}); "
            f"higher for {apart['own_higher']} of {apart['pairs']} candidates. {verdict}"
        )
    return out


def data_card(told: Mapping[str, Any], model: Model, asking: System, rule: str) -> str:
    """The card of the data set; the rule says of which texts the best pair was kept."""
    decode = asking.decode
    assert isinstance(decode, Sample)
    tuned = ", tuned" if model.adapter else ""
    said = "\n".join(f"- {line}" for line in lines(told))
    return f"""# Instructions for texts

Made by instruction backtranslation (Li et al. 2023, arXiv 2308.06259) with
{base_name(Model(model.base, model.revision))}{tuned}, which wrote {decode.n} instructions a text (prompt
`{asking.prompt.name}`, temperature {decode.temperature:g}, seed {decode.seed}) and graded each pair from 1 to
5. Of each text the best pair was kept {rule}. The completions are the texts as they were given; only the
instructions are made.

{said}

`data.jsonl` has a row for each: `prompt`, `completion` and, in `source`, the grade and where it comes from. If
the texts are the project's own general text, a model that learned them cannot be measured by `--forgetting` on
it: give `--forgetting-text` another.
"""
