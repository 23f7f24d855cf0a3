"""Sensitivity to the prompt: one System with other exemplars, other orders of them, or another wording.

The first thing that in-context learning is known for is how much hangs on what should not matter (Zhao et al.
2021, arXiv 2102.09690; Lu et al. 2022, arXiv 2104.08786). Each variant is measured plain and, where the task
has labels, with contextual calibration, on the same questions; the table ends with how far the variants
spread. A variant that is done is in the run's folder and is not done again.
"""

import random
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from itertools import permutations
from math import factorial
from typing import Any, Literal

import numpy as np

from workbench.command import Flat
from workbench.decodes import CONTENT_FREE, LabelLikelihood
from workbench.errors import UserError, check_range
from workbench.files import write_json
from workbench.identity import system_hash, to_json
from workbench.methods import few_shot
from workbench.methods.few_shot import Config as FewShotConfig
from workbench.prompts import load_prompt, prompts_of, purpose_of
from workbench.report import percent, span
from workbench.session import Session
from workbench.stats import PairedDifference, Spread, paired_bootstrap, paired_spread_test, spread
from workbench.types import Order, Prompt, Result, Selection, Shots, System

_ROWS = ("worst", "median", "mean", "best", "deviation")  # of `Spread`


@dataclass(frozen=True)
class Config:
    """What is varied.

    Attributes:
        vary: seeds (other random or balanced exemplars), orders (the same exemplars, shuffled), or prompts (every
            prompt that ships for the same purpose; for a prompt of the style text, those of that style).
        variants: how many seeds or orders; all orders where there are no more than that.
        prompt_files: with prompts, .yaml files to measure beside those that ship.
        zero_shot: with prompts, show no exemplars.
        few_shot: the exemplars; what is varied replaces its own setting.

    Raises:
        UserError: a value is out of range, or does not go with what is varied.
    """

    vary: Literal["seeds", "orders", "prompts"] = "orders"
    variants: int = 8
    prompt_files: tuple[str, ...] = ()
    zero_shot: bool = False
    few_shot: Flat[FewShotConfig] = field(default_factory=FewShotConfig)

    def __post_init__(self) -> None:
        check_range("variants", self.variants, 2, 1000)
        if self.vary != "prompts" and (self.prompt_files or self.zero_shot):
            raise UserError("--prompt-files and --zero-shot go with --vary prompts.")
        if self.vary == "seeds" and self.few_shot.exemplars not in ("random", "balanced"):
            raise UserError(
                f"Exemplars by {self.few_shot.exemplars} have no seed to vary. Use --exemplars random or "
                "balanced, or --vary orders."
            )
        if self.vary == "orders" and self.few_shot.shots < 2:
            raise UserError("One exemplar has one order: --vary orders needs --shots 2 or more.")


@dataclass(frozen=True)
class Variant:
    """One variant, measured plain and, where there are labels to score, calibrated."""

    name: str
    plain: Result
    calibrated: Result | None


@dataclass(frozen=True)
class Sensitivity:
    """All variants and how far they spread.

    Attributes:
        vary: what was varied.
        variants: in the order of the table.
        plain, calibrated: spread of the accuracies over the variants.
        gain: calibrated minus plain, each question's mean over the variants; paired over the questions, so it is
            about these variants and no others.
        spread_p: p-value of equal spread over the variants (`paired_spread_test`).
    """

    vary: str
    variants: tuple[Variant, ...]
    plain: Spread
    calibrated: Spread | None = None
    gain: PairedDifference | None = None
    spread_p: float | None = None


def vary(session: Session, system: System, config: Config) -> Sensitivity:
    """Measure every variant, print the table as it grows, and write `sensitivity.json` into the run's folder.

    Args:
        session: task, engine, store and run.
        system: what is varied: a model, a prompt without exemplars, and a plain decode.
        config: how.

    Raises:
        UserError: there is nothing to vary, or a variant cannot be measured.
    """
    if isinstance(system.decode, LabelLikelihood) and system.decode.content_free:
        raise UserError("Every variant is measured with and without calibration; leave --calibrate out.")
    systems = variants_of(session, system, config)
    wide = max(len(name) for name in (*_ROWS, *(name for name, _ in systems)))
    scored = isinstance(system.decode, LabelLikelihood)
    columns = ("accuracy", "95 % interval") + (("calibrated", "95 % interval") if scored else ())
    print(f"{'variant':<{wide}}" + "".join(f"{name:>16}" for name in columns), flush=True)
    measured = []
    for name, variant in systems:
        plain, calibrated = _measured(session, name, variant), None
        if isinstance(variant.decode, LabelLikelihood):
            decode = replace(variant.decode, content_free=CONTENT_FREE)
            calibrated = _measured(session, f"{name}, calibrated", replace(variant, decode=decode))
        measured.append(Variant(name, plain, calibrated))
        cells = [c for r in (plain, calibrated) if r for c in (percent(r.score.value), span(r.score))]
        print(f"{name:<{wide}}" + "".join(f"{cell:>16}" for cell in cells), flush=True)
    found = summary(config.vary, measured)
    print("\n".join(_summary_rows(found, wide)))
    print("\n" + "\n".join(remarks(found)))
    write_json(session.run.path / "sensitivity.json", _as_json(found))
    print(f"Numbers: {session.run.path / 'sensitivity.json'}", flush=True)
    return found


# --- the variants -----------------------------------------------------------------------------------


def variants_of(session: Session, system: System, config: Config) -> list[tuple[str, System]]:
    """The Systems to measure, by name.

    Raises:
        UserError: there are fewer than two, or exemplars that cannot be had.
    """
    task, shots = session.task, config.few_shot
    if config.vary == "seeds":
        return [
            (f"seed {seed}", few_shot.adapt(system, task, replace(shots, exemplar_seed=seed)))
            for seed in range(config.variants)
        ]
    if config.vary == "orders":
        adapted = few_shot.adapt(system, task, replace(shots, order=Order.NEAREST_FIRST))
        assert adapted.prompt.shots is not None
        if adapted.prompt.shots.selection is Selection.FIXED:
            return [
                (f"order {' '.join(map(str, order))}", _with_order(adapted, adapted.prompt.shots, order))
                for order in orders(shots.shots, config.variants, shots.order_seed)
            ]
        seeded = replace(shots, order=Order.SEEDED)  # a shuffle for each question's own exemplars
        return [
            (f"order seed {seed}", few_shot.adapt(system, task, replace(seeded, order_seed=seed)))
            for seed in range(config.variants)
        ]
    prompts = _prompts(session, config.prompt_files)
    systems = [(prompt.name, replace(system, prompt=prompt)) for prompt in prompts]
    if config.zero_shot:
        return systems
    return [(name, few_shot.adapt(variant, task, shots)) for name, variant in systems]


def orders(count: int, wanted: int, seed: int) -> list[tuple[int, ...]]:
    """Different orders of `count` things: all there are, where those are no more than `wanted`, else seeded ones.

    The first is the order in which they stand.
    """
    if factorial(count) <= wanted:
        return list(permutations(range(count)))
    draw = random.Random(seed)
    found = {tuple(range(count)): None}
    while len(found) < wanted:
        found[tuple(draw.sample(range(count), count))] = None
    return list(found)


def _with_order(system: System, shots: Shots, order: Sequence[int]) -> System:
    pool = tuple(shots.pool[i] for i in order)
    return replace(system, prompt=replace(system.prompt, shots=replace(shots, pool=pool)))


def _prompts(session: Session, files: Sequence[str]) -> list[Prompt]:
    """The setup's own prompt, the others of its purpose, and the given files; each text once."""
    own = session.prompt
    purpose = purpose_of(session.setup.prompt or session.task.prompt)
    others = [load_prompt(name) for name in prompts_of(purpose)]
    # A base model has no chat template, and so no use for a prompt of the style chat.
    fitting = [prompt for prompt in others if own.style in ("chat", prompt.style)]
    found: dict[str, Prompt] = {own.file_hash: own}
    for prompt in [*fitting, *(load_prompt(file) for file in files)]:
        found.setdefault(prompt.file_hash, prompt)
    if len(found) < 2:
        raise UserError(f"{own.name!r} is the only prompt for {purpose}; --prompt-files adds others.")
    return list(found.values())


def _measured(session: Session, name: str, system: System) -> Result:
    """The variant's result, from the run's folder where it is done."""
    file = f"variant-{system_hash(system)}"
    if (done := session.run.read_result(file)) is not None:
        return done
    result = session.measure(system, label=name)
    if not any(outcome.score is None for outcome in result.outcomes):  # failed requests are asked for again
        session.run.write_result(result, file)
    return result


# --- what they say ----------------------------------------------------------------------------------


def summary(varied: str, variants: Sequence[Variant]) -> Sensitivity:
    """Spreads of both columns, and calibration against plain, paired."""
    plain = [variant.plain for variant in variants]
    calibrated = [variant.calibrated for variant in variants if variant.calibrated is not None]
    spreads = spread([result.score.value for result in plain])
    if len(calibrated) < len(plain):
        return Sensitivity(varied, tuple(variants), spreads)
    before, after = _mean_scores([*plain, *calibrated])
    p = paired_spread_test([r.score.value for r in plain], [r.score.value for r in calibrated])
    after_spread = spread([result.score.value for result in calibrated])
    return Sensitivity(varied, tuple(variants), spreads, after_spread, paired_bootstrap(after, before), p)


def _mean_scores(results: Sequence[Result]) -> tuple[list[float], list[float]]:
    """Each question's mean over the first half of the results and over the second, where all have a score."""
    scores = [{o.id: o.score for o in r.outcomes if o.score is not None} for r in results]
    shared = [id for id in scores[0] if all(id in several for several in scores)]
    scores_RQ = np.array([[several[id] for id in shared] for several in scores]).reshape(len(results), -1)
    half = len(results) // 2
    return scores_RQ[:half].mean(axis=0).tolist(), scores_RQ[half:].mean(axis=0).tolist()


def _summary_rows(found: Sensitivity, wide: int) -> list[str]:
    rows = [""]
    for name in _ROWS:
        cells = [f"{percent(getattr(found.plain, name)):>16}"]
        if found.calibrated is not None:
            cells.append(f"{percent(getattr(found.calibrated, name)):>32}")
        rows.append(f"{name:<{wide}}" + "".join(cells))
    return rows


def remarks(found: Sensitivity) -> list[str]:
    """What a reader of the table must know, one sentence or two each."""
    first, n = found.variants[0].plain, len(found.variants)
    out = [
        f"{len(first.outcomes)} questions of {first.task}, split {first.split}, the same for each of {n} "
        f"{found.vary}.",
        f"The best is {100 * (found.plain.best - found.plain.worst):.1f} points above the worst; part of that is "
        "the chance of these questions, as the intervals show.",
    ]
    if found.calibrated is not None and found.gain is not None and found.spread_p is not None:
        d = found.gain.difference
        verb = "changes" if found.gain.p_value >= 0.05 else "raises" if d.value > 0 else "lowers"
        out.append(
            f"Calibration {verb} the mean over these {n} {found.vary} by {100 * d.value:+.1f} points "
            f"({100 * d.low:+.1f} to {100 * d.high:+.1f}; paired bootstrap over questions, "
            f"p = {found.gain.p_value:.2g})."
        )
        lowest = 2 / 2**n
        change = f"from {100 * found.plain.deviation:.1f} to {100 * found.calibrated.deviation:.1f} points"
        tested = f"exchange test of equal variances over the variants, p = {found.spread_p:.2g}"
        if lowest > 0.05:
            out.append(f"The standard deviation goes {change}; {n} variants are too few to test that.")
        elif found.spread_p >= 0.05:
            out.append(f"The standard deviation goes {change}, which may be chance ({tested}).")
        else:
            how = "narrows" if found.calibrated.deviation < found.plain.deviation else "widens"
            out.append(f"Calibration {how} the spread: the standard deviation goes {change} ({tested}).")
    results = [(v.name, r) for v in found.variants for r in (v.plain, v.calibrated) if r is not None]
    return out + list(dict.fromkeys(f"{name}: {note}" for name, result in results for note in result.notes))


def _as_json(found: Sensitivity) -> dict[str, Any]:
    def numbers(result: Result | None) -> dict[str, Any] | None:
        if result is None:
            return None
        return {
            "system": result.system,
            "score": to_json(result.score),
            "counts": dict(result.counts),
            "metrics": dict(result.metrics),
        }

    return {
        "vary": found.vary,
        "variants": [
            {"name": v.name, "plain": numbers(v.plain), "calibrated": numbers(v.calibrated)}
            for v in found.variants
        ],
        "plain": asdict(found.plain),
        "calibrated": None if found.calibrated is None else asdict(found.calibrated),
        "gain": None
        if found.gain is None
        else {"difference": to_json(found.gain.difference), "p": found.gain.p_value},
        "spread_p": found.spread_p,
    }
