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
from workbench.errors import check_range
from workbench.files import atomic_file, read_json, write_json
from workbench.harness import evaluate, questions_of
from workbench.identity import system_hash, to_json
from workbench.methods.proxy_tuning import Config as ProxyConfig
from workbench.methods.proxy_tuning import adapt, made_by, named_model, parts, shown
from workbench.progress import Bar
from workbench.proxy import Proxy
from workbench.report import Rung, p_value, percent, quantity, span, table
from workbench.report_html import Tried, write_html
from workbench.session import Session, one_sample
from workbench.stats.gap import share_of_gap
from workbench.training.card import cost_of, together
from workbench.types import CostToMake, Finish, Interval, Result, System

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
    """Tokens a second, the median of the rounds; the ratio steered : base of each round's pair; tokens a question.

    Where answers are short, much of the time goes to the prompts.
    """

    base: float
    steered: float
    ratios: tuple[float, ...]
    questions: int
    base_tokens: float
    steered_tokens: float


def steer_and_measure(session: Session, config: Config) -> Result:
    """Choose α on dev, measure base, expert and steered model on the setup's split, and tell all of it.

    Returns:
        The steered model's result; among its metrics `gap_closed` with its interval, where there is a gap.

    Raises:
        UserError: as `adapt`, `parts` and `ProxyConfig.check_split`.
    """
    config.proxy.check_split(session.setup.split)
    base, run = session.system(), session.run
    expert, antiexpert, made = parts(config.expert, config.antiexpert, base.model)
    steered = adapt(
        base, session.task, config.proxy, run, session.drawer, expert, antiexpert, quiet=session.setup.quiet
    )
    assert isinstance(steered.model, Proxy)
    anti_made = made_by(config.antiexpert) if config.antiexpert is not None else None
    costs = [cost_of(run), *filter(None, (anti_made, made))]  # the parameters are those of the last
    systems, made_for = {"base": base, "expert": replace(base, model=expert)}, {"expert": made}
    if config.tuned is not None:
        systems["tuned"] = replace(base, model=named_model("tuned", config.tuned, base.model))
        made_for["tuned"] = made_by(config.tuned)
    systems["proxy-tuning"], made_for["proxy-tuning"] = steered, together(costs)
    dev: dict[str, Result] = {}
    results: dict[str, Result] = {}
    for name, system in systems.items():  # one engine after the other
        if name in ("base", "expert"):
            dev[name] = _on_dev(session, name, system, config.proxy)
        results[name] = _on_split(session, name, system, made_for.get(name))
    gap = _gap(results)
    speed, memory = _speed(session, base, steered, config.speed_questions), _memory(session, steered)
    tried = {float(a): _read(session, f"alpha-{shown(a)}") for a in dict.fromkeys(config.proxy.alphas)}

    rows = _dev_rows(dev, tried, steered.model.alpha)
    told = [*_dev_lines(rows, session.setup.split), ""]
    rungs = [Rung(name, result, one_sample(result)) for name, result in results.items()]
    looks = session.store.looks(session.task.hash, session.setup.split)
    notes = [_gap_line(gap, config.tuned is not None), *_speed_lines(speed), memory]
    for name in (name for name, cost in made_for.items() if cost is None):
        one = "tuned base" if name == "tuned" else name
        notes.append(f"What the {one} cost to make is not written beside it, and is left out.")
    print("\n".join(told) + table(rungs, looks) + "\n".join(notes))
    _draw(dev, tried, steered.model.alpha, run.path / PICTURE)
    title = f"{session.task.name}: a model steered by another's tuning"
    write_html(
        run.path / "report.html", title, rungs, looks=looks, model=session.setup.model, command=command_typed(),
        tried=rows, notes=notes, versions=run.info["packages"],
    )  # fmt: skip
    result = results["proxy-tuning"]
    if gap is not None:
        share = {"gap_closed": gap.value, "gap_closed_low": gap.low, "gap_closed_high": gap.high}
        result = replace(result, metrics=tuple({**dict(result.metrics), **share}.items()))
    run.write_result(result)
    scores = {f"α = {shown(alpha)}": one for alpha, one in tried.items()}
    write_json(
        run.path / "proxy_tuning.json",
        {
            "alpha": steered.model.alpha,
            "dev": {name: to_json(one.score) for name, one in {**dev, **scores}.items()},
            "split": session.setup.split,
            "measured": {name: to_json(one.score) for name, one in results.items()},
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
    if not questions:
        return None
    file = session.run.path / "timing.json"
    if file.exists():
        told = read_json(file)
        return Speed(**{**told, "ratios": tuple(told["ratios"])})
    asked = questions_of(session.task, "dev", min(questions, len(session.task.dev)))
    rates: dict[str, list[float]] = {"base": [], "steered": []}
    tokens: dict[str, int] = {}
    with closing(open_engine(base.model, session.setup.engine)) as plain:
        engines = {"base": plain, "steered": session.engine(steered.model)}
        for engine in engines.values():
            _timed(engine, base, asked[:2], session.task.labels)  # to warm up
        for _ in range(ROUNDS):
            for name, engine in engines.items():
                tokens[name], seconds = _timed(engine, base, asked, session.task.labels)
                rates[name].append(tokens[name] / seconds)
    ratios = tuple(s / b for s, b in zip(rates["steered"], rates["base"], strict=True))
    each = {f"{name}_tokens": count / len(asked) for name, count in tokens.items()}
    speed = Speed(median(rates["base"]), median(rates["steered"]), ratios, len(asked), **each)
    write_json(file, asdict(speed))
    return speed


def _timed(engine: Engine, system: System, asked: Sequence[Any], labels: Sequence[str]) -> tuple[int, float]:
    """Tokens written, and the seconds; where labels are scored, tokens read, a prompt once for its labels."""
    requests = requests_of(system, asked)
    started = time.perf_counter()
    if isinstance(system.decode, LabelLikelihood):
        batches = list(engine.logprobs(requests, [list(labels)] * len(requests)))
    else:
        batches = list(engine.sample(requests, replace(system.decode.sampling(), stop=system.prompt.stop)))
    seconds = time.perf_counter() - started
    found = [(id, one) for batch in batches for id, one in batch if one.finish is not Finish.ERROR]
    prompts = {id: one.prompt_tokens for id, one in found if one.finish is Finish.SCORED}
    return sum(prompts.values()) + sum(one.completion_tokens for _, one in found), seconds


def _memory(session: Session, steered: System) -> str:
    """What the engine holds; written down, so that a run that is done loads nothing to tell it again."""
    from workbench.engines.proxy import ProxyEngine

    file = session.run.path / "memory.json"
    if not file.exists():
        engine = session.engine(steered.model)
        assert isinstance(engine, ProxyEngine)
        kept = kv_cache_bytes(engine.shape, 1)
        write_json(file, {"passes": engine.passes, "parameters": engine.parameters_held, "kv_bytes": kept})
    told = read_json(file)
    passes = f"{told['passes']} passes" if told["passes"] > 1 else "1 pass"
    return (
        f"A token takes {passes}; in memory are {quantity(told['parameters'])} parameters, what passes share "
        f"once, and {told['kv_bytes']:,} bytes of keys and values a token (2 bytes a value)."
    )


# --- telling ----------------------------------------------------------------------------------------


def _dev_rows(dev: Mapping[str, Result], tried: Mapping[float, Result], chosen: float) -> list[Tried]:
    rows = {**dev, **{f"α = {shown(alpha)}": result for alpha, result in tried.items()}}
    base, *others = rows.values()
    told = []
    for (name, one), test in zip(rows.items(), [None, *compare_to_baseline(base, others)], strict=True):
        right = f"{dict(one.counts)['correct']} of {one.total}"
        told.append(Tried(name, one.score, p_value(test), right, name == f"α = {shown(chosen)}"))
    return told


def _dev_lines(rows: Sequence[Tried], split: str) -> list[str]:
    lines = [f"{'on dev':<12}{'accuracy':>10}{'95 % interval':>16}{'p':>8}  right of"]
    for row in rows:
        figures = f"{percent(row.score.value):>10}{span(row.score):>16}{row.p:>8}"
        lines.append(f"{row.name:<12}{figures}  {row.right}{'  chosen' * row.chosen}")
    lines.append("p: against the base on the same questions, Holm's correction.")
    if split != "dev":  # where there is one strength, and nothing was chosen
        lines.append("The best of several looks better here than it is; the table below has other questions.")
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
        f"{speed.base:,.0f} the base alone; {median(speed.ratios):.2f}× ({ROUNDS} rounds: {low:.2f} – "
        f"{high:.2f}). A question takes {speed.steered_tokens:,.0f} and {speed.base_tokens:,.0f} of them."
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
    with atomic_file(path) as file:
        figure.savefig(file, dpi=120, format="png")
