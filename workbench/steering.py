"""Proxy tuning, measured: every α on dev, the chosen one on the split with base and expert, and what it costs.

The share of the gap between base and tuned model that steering closes is told with its interval, and how many
tokens a second come, beside the base alone, both drawn anew and in turns on the same questions.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from statistics import median
from typing import Any

from workbench.command import Flat, command_typed
from workbench.compare import compare_to_baseline
from workbench.cost import kv_cache_bytes
from workbench.decodes import LabelLikelihood
from workbench.drawing import requests_of
from workbench.engines import open_engine
from workbench.engines.base import Engine
from workbench.errors import UserError, check_range
from workbench.files import read_json, write_json
from workbench.harness import evaluate, questions_of
from workbench.identity import system_hash, to_json
from workbench.methods.proxy_tuning import Config as ProxyConfig
from workbench.methods.proxy_tuning import adapt, named_model, parts
from workbench.progress import Bar
from workbench.proxy import Proxy
from workbench.report import Rung, p_value, percent, quantity, span, table
from workbench.report_html import write_html
from workbench.session import Session, one_sample
from workbench.stats.gap import share_of_gap
from workbench.training.card import cost_of, together
from workbench.types import Completion, CostToMake, Finish, Interval, Result, System

PICTURE = "alphas.png"
ROUNDS = 3  # of timing


@dataclass(frozen=True)
class Config:
    """Who steers the setup's model, and how strongly.

    Attributes:
        expert: a folder with an adapter or a model (as RUN/adapter), smollm2-135m-instruct, or a Hub id.
        antiexpert: likewise; by default what the expert was tuned from, as its run or its adapter tells.
        tuned: the base itself, tuned, likewise: the gap is measured to it. By default to the expert.
        speed_questions: dev questions on which tokens a second are measured; 0 leaves it out. The base is then in
            memory once more.
        proxy: the strengths.

    Raises:
        UserError: a value is out of range.
    """

    expert: str
    antiexpert: str | None = None
    tuned: str | None = None
    speed_questions: int = 16
    proxy: Flat[ProxyConfig] = field(default_factory=ProxyConfig)

    def __post_init__(self) -> None:
        check_range("speed_questions", self.speed_questions, 0, 10**6)


@dataclass(frozen=True)
class Speed:
    """Tokens a second, the median of the rounds, and the ratio steered : base of each round's pair."""

    base: float
    steered: float
    ratios: tuple[float, ...]
    questions: int


def steer_and_measure(session: Session, config: Config) -> Result:
    """Choose α on dev, measure base, expert and steered model on the setup's split, and tell all of it.

    Returns:
        The steered model's result; among its metrics `gap_closed` with its interval, where there is a gap.

    Raises:
        UserError: as `adapt` and `parts`; or the split is dev, where α is chosen among several.
    """
    if session.setup.split == "dev" and len(set(config.proxy.alphas)) > 1:
        raise UserError(
            "α is chosen on dev, which cannot measure it: leave --split dev out, or give one --alphas."
        )
    base, run = session.system(), session.run
    expert, antiexpert, made = parts(config.expert, config.antiexpert, base.model)
    steered = adapt(
        base, session.task, config.proxy, run, session.drawer, expert, antiexpert, quiet=session.setup.quiet
    )
    assert isinstance(steered.model, Proxy)
    costs = [cost_of(run), *([made] if made else [])]
    systems = {"base": base, "expert": replace(base, model=expert)}
    dev = {name: _on_dev(session, name, system, config.proxy) for name, system in systems.items()}
    if config.tuned is not None:
        systems["tuned"] = replace(base, model=named_model("tuned", config.tuned, base.model))
    systems["proxy-tuning"] = steered
    made_for = {"expert": made, "proxy-tuning": together(costs)}
    results = {name: _on_split(session, name, system, made_for.get(name)) for name, system in systems.items()}
    gap = _gap(results)
    speed, memory = _speed(session, base, steered, config.speed_questions), _memory(session, steered)
    tried = {float(a): _read(session, f"alpha-{a:g}") for a in dict.fromkeys(config.proxy.alphas)}

    told = [*_dev_lines(dev, tried, steered.model.alpha), ""]
    rungs = [Rung(name, result, one_sample(result)) for name, result in results.items()]
    looks = session.store.looks(session.task.hash, session.setup.split)
    remarks = [_gap_line(gap, config.tuned is not None), *_speed_lines(speed), memory]
    if made is None:
        remarks.append("What the expert cost to make is not written beside it, and is left out.")
    print("\n".join(told) + table(rungs, looks) + "\n".join(remarks))
    _draw(dev, tried, steered.model.alpha, run.path / PICTURE)
    title = f"{session.task.name}: a model steered by another's tuning"
    write_html(
        run.path / "report.html", title, rungs, looks=looks, model=session.setup.model, command=command_typed(),
        versions=run.info["packages"],
    )  # fmt: skip
    result = results["proxy-tuning"]
    if gap is not None:
        share = {"gap_closed": gap.value, "gap_closed_low": gap.low, "gap_closed_high": gap.high}
        result = replace(result, metrics=tuple({**dict(result.metrics), **share}.items()))
    run.write_result(result)
    scores = {f"α = {alpha:g}": one for alpha, one in tried.items()}
    write_json(
        run.path / "proxy_tuning.json",
        {
            "alpha": steered.model.alpha,
            "dev": {name: to_json(one.score) for name, one in {**dev, **scores}.items()},
            session.setup.split: {name: to_json(one.score) for name, one in results.items()},
            "gap_closed": to_json(gap),
            "speed": None if speed is None else asdict(speed),
        },
    )
    print(f"system {result.system}, run {run.path} ({PICTURE}, report.html)")
    return result


# --- measuring --------------------------------------------------------------------------------------


def _read(session: Session, name: str) -> Result:
    result = session.run.read_result(name)
    assert result is not None
    return result


def _on_dev(session: Session, name: str, system: System, config: ProxyConfig) -> Result:
    """A System on the dev questions on which α is chosen."""

    def measure() -> Result:
        with Bar(f"{name} on dev", quiet=session.setup.quiet) as bar:
            return evaluate(
                system, session.task, session.engine(system.model), session.store,
                split="dev", questions=config.alpha_questions, progress=bar.show,
            )  # fmt: skip

    return _once(session, f"dev-{name}", system, measure)


def _on_split(session: Session, name: str, system: System, cost: CostToMake | None) -> Result:
    """A row of the table."""
    return _once(session, f"rung-{name}", system, lambda: session.measure(system, cost, label=name))


def _once(session: Session, file: str, system: System, measure: Callable[[], Result]) -> Result:
    """A result from the run's folder where it is done; failed requests are asked for again."""
    done = session.run.read_result(file)
    if done is not None and done.system == system_hash(system):
        return done
    result = measure()
    if not any(outcome.score is None for outcome in result.outcomes):
        session.run.write_result(result, file)
    return result


def _gap(results: Mapping[str, Result]) -> Interval | None:
    rows = [results["base"], results["proxy-tuning"], results.get("tuned", results["expert"])]
    scores = [{o.id: o.score for o in row.outcomes if o.score is not None} for row in rows]
    shared = [id for id in scores[0] if all(id in several for several in scores)]
    low, reached, high = ([several[id] for id in shared] for several in scores)
    return share_of_gap(low, reached, high)


def _speed(session: Session, base: System, steered: System, questions: int) -> Speed | None:
    """Both drawn in turns on the first dev questions, nothing taken from the store."""
    file = session.run.path / "speed.json"
    if file.exists():
        told = read_json(file)
        return Speed(**{**told, "ratios": tuple(told["ratios"])})
    asked = questions_of(session.task, "dev", min(questions, len(session.task.dev)) or None)
    if not questions:
        return None
    rates: dict[str, list[float]] = {"base": [], "steered": []}
    with closing(open_engine(base.model, session.setup.engine)) as plain:
        engines = {"base": plain, "steered": session.engine(steered.model)}
        for engine in engines.values():
            _tokens_a_second(engine, base, asked[:2], session.task.labels)  # to warm up
        for _ in range(ROUNDS):
            for name, engine in engines.items():
                rates[name].append(_tokens_a_second(engine, base, asked, session.task.labels))
    ratios = tuple(s / b for s, b in zip(rates["steered"], rates["base"], strict=True))
    speed = Speed(median(rates["base"]), median(rates["steered"]), ratios, len(asked))
    write_json(file, asdict(speed))
    return speed


def _tokens_a_second(engine: Engine, system: System, asked: Sequence[Any], labels: Sequence[str]) -> float:
    """Tokens written a second; of labels that are scored, tokens read."""
    requests = requests_of(system, asked)
    started = time.perf_counter()
    if isinstance(system.decode, LabelLikelihood):
        batches = list(engine.logprobs(requests, [list(labels)] * len(requests)))
    else:
        batches = list(engine.sample(requests, replace(system.decode.sampling(), stop=system.prompt.stop)))
    seconds = time.perf_counter() - started

    def tokens(one: Completion) -> int:
        return one.completion_tokens + (one.prompt_tokens if one.finish is Finish.SCORED else 0)

    return sum(tokens(one) for batch in batches for _, one in batch if one.finish is not Finish.ERROR) / seconds


def _memory(session: Session, steered: System) -> str:
    from workbench.engines.proxy import ProxyEngine

    engine = session.engine(steered.model)
    assert isinstance(engine, ProxyEngine)
    passes = f"{engine.passes} passes" if engine.passes > 1 else "1 pass"
    return (
        f"A token takes {passes}; in memory are {quantity(engine.parameters_held)} parameters, what passes share "
        f"once, and {kv_cache_bytes(engine.shape, 1):,} bytes of keys and values a token (2 bytes a value)."
    )


# --- telling ----------------------------------------------------------------------------------------


def _dev_lines(dev: Mapping[str, Result], tried: Mapping[float, Result], chosen: float) -> list[str]:
    rows = {**dev, **{f"α = {alpha:g}": result for alpha, result in tried.items()}}
    base, *others = rows.values()
    tests = [None, *compare_to_baseline(base, others)]
    lines = [f"{'on dev':<12}{'accuracy':>10}{'95 % interval':>16}{'p':>8}  right of"]
    for (name, result), test in zip(rows.items(), tests, strict=True):
        right = f"{dict(result.counts)['correct']} of {result.total}"
        mark = "  chosen" if name == f"α = {chosen:g}" else ""
        score = result.score
        lines.append(f"{name:<12}{percent(score.value):>10}{span(score):>16}{p_value(test):>8}  {right}{mark}")
    lines.append(
        "p: against the base on the same questions, Holm's correction. The best of several looks better here"
    )
    lines.append("than it is; the table below has other questions.")
    return lines


def _gap_line(gap: Interval | None, tuned: bool) -> str:
    to = "the tuned base" if tuned else "the expert"
    if gap is None:
        return f"On these questions {to} is not surely better than the base: there is no gap to close a share of."
    return (
        f"Steering closes {percent(gap.value)} of the gap between the base and {to} (95 % interval {span(gap)}, "
        "bootstrap over questions)."
    )


def _speed_lines(speed: Speed | None) -> list[str]:
    if speed is None:
        return []
    low, high = min(speed.ratios), max(speed.ratios)
    return [
        f"Tokens a second, in turns on {speed.questions} dev questions: {speed.steered:,.0f} steered, "
        f"{speed.base:,.0f} the base alone; {median(speed.ratios):.2f}× ({ROUNDS} rounds: {low:.2f} – {high:.2f})."
    ]


def _draw(dev: Mapping[str, Result], tried: Mapping[float, Result], chosen: float, path: Path) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4.5), layout="constrained")
    axes = figure.subplots()
    for (name, result), colour in zip(dev.items(), ("#888888", "#c8641e"), strict=True):
        axes.axhspan(100 * result.score.low, 100 * result.score.high, color=colour, alpha=0.12, linewidth=0)
        axes.axhline(100 * result.score.value, color=colour, label=name)
    alphas = sorted(tried)
    values = [100 * tried[alpha].score.value for alpha in alphas]
    scores = [tried[alpha].score for alpha in alphas]
    ends = [[100 * (s.value - s.low) for s in scores], [100 * (s.high - s.value) for s in scores]]
    axes.errorbar(alphas, values, yerr=ends, fmt="o-", color="#1f5fa8", capsize=4, label="base, steered")
    axes.plot([chosen], [100 * tried[chosen].score.value], "*", color="#1f5fa8", markersize=15, label="chosen")
    total = next(iter(dev.values())).total
    axes.set_xlabel("α")
    axes.set_ylabel(f"right, % of {total} dev questions (95 % intervals)")
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8)
    figure.savefig(path, dpi=120)
