"""A sweep: one tuning method at several learning rates and ranks, judged on dev only.

Each setting is a training of its own in a run inside the sweep's; what is done is not done again. Beside the
accuracy stands the loss of dev's right answers, which tells settings apart long before the accuracy does. The test
split stays closed: what the sweep finds is measured by the method's own recipe.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from workbench.command import Flat
from workbench.errors import UserError, check_range
from workbench.files import read_json, write_json
from workbench.harness import evaluate, questions_of
from workbench.identity import from_json, to_json
from workbench.launch import check_single
from workbench.methods import lora, qlora, sft
from workbench.methods.lora import Config as LoraConfig
from workbench.progress import Bar
from workbench.prompts import render, render_answer
from workbench.report import duration, percent, span
from workbench.run_folder import RunFolder
from workbench.session import Session
from workbench.stats import ratio_interval
from workbench.training.card import cost_of
from workbench.tuning import tune
from workbench.types import CostToMake, Interval, Request, System


@dataclass(frozen=True)
class Config:
    """What is swept.

    Attributes:
        method: lora, qlora or sft (all weights).
        learning_rates: each is tried.
        ranks: each is tried with each learning rate; of lora and qlora.
        lora: the settings of all that is tried, but rank and learning rate; of sft the training's alone.

    Raises:
        UserError: nothing to try, or ranks of a method that has none.
    """

    method: Literal["lora", "qlora", "sft"] = "lora"
    learning_rates: tuple[float, ...] = (1e-4, 3e-4, 1e-3, 3e-3)
    ranks: tuple[int, ...] = ()
    lora: Flat[LoraConfig] = field(default_factory=LoraConfig)

    def __post_init__(self) -> None:
        if not self.learning_rates:
            raise UserError("learning_rates is empty; give one or more, as --learning-rates 1e-4 1e-3.")
        for rate in self.learning_rates:
            check_range("learning_rates", rate, 0, 10, open_low=True)
        plain = LoraConfig()
        if self.lora.training.learning_rate != plain.training.learning_rate:
            raise UserError("A sweep's rates are --learning-rates; leave --learning-rate out.")
        if self.ranks and self.lora.rank != plain.rank:
            raise UserError("A sweep's ranks are --ranks; leave --rank out.")
        if self.method == "sft" and (self.ranks or replace(self.lora, training=plain.training) != plain):
            raise UserError("sft trains all weights: --ranks, --rank, --alpha, --targets and the like are LoRA's.")


@dataclass(frozen=True)
class Trial:
    """One setting on dev; accuracy and loss are None where the training diverged for good.

    Attributes:
        name: rank and learning rate.
        accuracy: on the dev questions.
        loss: of their right answers, nats a token, the interval by bootstrap over questions.
        rollbacks: how often the training went wrong and its rate was halved.
        cost: to train.
    """

    name: str
    accuracy: Interval | None
    loss: Interval | None
    rollbacks: int
    cost: CostToMake


def sweep(session: Session, config: Config) -> list[Trial]:
    """Train and judge every setting, print the table, and say which was best; `sweep.json` holds it all.

    Raises:
        UserError: the method cannot work here.
    """
    check_single("a sweep")
    trials = []
    for name, adapt, settings in _settings(config):
        trials.append(trial := _trial(session, name, adapt, settings))
        print(_line(trial), flush=True)
    rows = [
        {**vars(trial), **{k: to_json(getattr(trial, k)) for k in ("accuracy", "loss", "cost")}}
        for trial in trials
    ]
    write_json(session.run.path / "sweep.json", rows)
    print(_summary(trials, len(questions_of(session.task, "dev", session.setup.questions))))
    return trials


def _settings(config: Config) -> list[tuple[str, Any, Any]]:
    """(name, the method, its settings) of every trial."""
    rates = {rate: replace(config.lora.training, learning_rate=rate) for rate in config.learning_rates}
    if config.method == "sft":
        return [(f"rate-{rate:g}", sft.adapt, sft.Config(training=how)) for rate, how in rates.items()]
    adapt, kind = (lora.adapt, lora.Config) if config.method == "lora" else (qlora.adapt, qlora.Config)
    return [
        (f"rank-{rank}-rate-{rate:g}", adapt, kind(**{**vars(config.lora), "rank": rank, "training": how}))
        for rank in config.ranks or (config.lora.rank,)
        for rate, how in rates.items()
    ]


def _trial(session: Session, name: str, adapt: Any, settings: Any) -> Trial:
    file = session.run.path / f"trial-{name}.json"
    if file.exists():
        done = read_json(file)
        return Trial(**{key: from_json(value) for key, value in done.items()})
    folder = session.run.path / name
    try:
        system, run = tune(session, adapt, name, settings)
    except UserError:
        if _events(folder)[-1:] != ["diverged"]:
            raise
        trial = Trial(name, None, None, _events(folder).count("rollback"), _spent(folder))
    else:
        accuracy, loss = _judge(session, system, name)
        trial = Trial(name, accuracy, loss, _events(folder).count("rollback"), cost_of(run))
    write_json(file, {key: to_json(value) for key, value in vars(trial).items()})
    return trial


def _lines(folder: Path) -> list[dict[str, Any]]:
    return RunFolder(folder).metrics() if folder.is_dir() else []


def _events(folder: Path) -> list[str]:
    return [line["event"] for line in _lines(folder) if "event" in line]


def _spent(folder: Path) -> CostToMake:
    """What a training that came to nothing cost."""
    lines = [line for line in _lines(folder) if "loss" in line]
    return CostToMake(
        tokens=sum(line["tokens"] for line in lines),
        seconds=sum(line["seconds"] for line in lines),
        peak_memory_bytes=max((line["peak_memory_bytes"] for line in lines), default=0),
        watt_hours=sum(line["watt_hours"] for line in lines),
    )


def _judge(session: Session, system: System, name: str) -> tuple[Interval, Interval]:
    """Accuracy, and loss of the right answers, on the dev questions."""
    engine, questions = session.engine(system.model), session.setup.questions
    with Bar(f"{name} on dev", quiet=session.setup.quiet) as bar:
        result = evaluate(
            system, session.task, engine, session.store, split="dev", questions=questions, progress=bar.show
        )
    asked = questions_of(session.task, "dev", questions)
    requests = [Request(q.id, render(system.prompt, q), style=system.prompt.style) for q in asked]
    answers = [[render_answer(system.prompt, q)] for q in asked]
    losses, tokens = [], []
    for batch in engine.logprobs(requests, answers):
        for _, scored in batch:
            if scored.logprob is None:  # of other questions the loss would be another
                raise UserError(f"A dev question could not be scored: {scored.error or 'no log-probability'}.")
            losses.append(-scored.logprob)
            tokens.append(scored.completion_tokens)
    return result.score, ratio_interval(losses, tokens)


def _line(trial: Trial) -> str:
    lowered = f", rate halved {trial.rollbacks}×" if trial.rollbacks else ""
    if trial.accuracy is None or trial.loss is None:
        return f"{trial.name:<22} diverged{lowered}"
    loss = f"{trial.loss.value:.3f} ({trial.loss.low:.3f} – {trial.loss.high:.3f})"
    return (
        f"{trial.name:<22} {percent(trial.accuracy.value):>7}  ({span(trial.accuracy)})  loss {loss}  "
        f"{duration(trial.cost.seconds)}{lowered}"
    )


def _summary(trials: Sequence[Trial], questions: int) -> str:
    judged = [(t, t.accuracy, t.loss) for t in trials if t.accuracy is not None and t.loss is not None]
    if not judged:
        return f"\n{questions} dev questions; no setting could be trained. Try lower --learning-rates."
    accurate = max(judged, key=lambda item: (item[1].value, -item[2].value))
    likely = min(judged, key=lambda item: item[2].value)
    return (
        f"\n{questions} dev questions each; the test split was not looked at.\n"
        f"Highest accuracy: {accurate[0].name}, {percent(accurate[1].value)} ({span(accurate[1])}). "
        f"Lowest loss: {likely[0].name}, {likely[2].value:.3f} nats a token."
    )
