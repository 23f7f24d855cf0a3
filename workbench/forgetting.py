"""Forgetting: what a tuned model lost on general text, and on other tasks, measured before and after.

Biderman et al. 2024 (arXiv 2405.09673): what tuning takes away is seen on what was not tuned on. Here that is the
loss on held-out text, by default `general_text.txt`, which was written for this project, and, for the tasks that
one names, the accuracy on their dev splits: nothing that is reported as a result elsewhere is used up.
"""

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from workbench.compare import compare
from workbench.decodes import Greedy, LabelLikelihood
from workbench.engines.base import Engine
from workbench.errors import UserError
from workbench.files import read_json, write_json
from workbench.forgetting_flags import Forgetting
from workbench.harness import Progress, evaluate
from workbench.identity import from_json, model_identity, short_hash, to_json
from workbench.models import check_adapter
from workbench.own_kinds import HEAD
from workbench.progress import Bar
from workbench.prompts import load_prompt
from workbench.runs import Run
from workbench.stats import ratio_interval
from workbench.store import Store
from workbench.tasks import load_task
from workbench.tasks.base import Task
from workbench.types import Completion, Interval, Message, Model, Request, Result, System

# --- the loss on a text -----------------------------------------------------------------------------

GENERAL_TEXT = Path(__file__).parent / "general_text.txt"
FEWEST = 8  # paragraphs: the interval resamples them

Losses = list[tuple[float, int]]
"""Of each paragraph the sum of its tokens' losses in nats, and how many tokens were predicted."""


def read_paragraphs(path: str | Path | None = None) -> tuple[str, ...]:
    """A text's paragraphs, which blank lines part; None is the project's own text of 48 paragraphs.

    Raises:
        UserError: the file cannot be read as UTF-8, has fewer than 8 paragraphs, or one of a single word.
    """
    source = Path(path or GENERAL_TEXT)
    try:
        text = source.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise UserError(f"{source} is not UTF-8 ({error}); save it as UTF-8.") from error
    except OSError as error:
        raise UserError(f"The text {source} could not be read: {error.strerror or error}.") from error
    paragraphs = tuple(part.strip() for part in re.split(r"\n[ \t]*\n", text) if part.strip())
    if len(paragraphs) < FEWEST:
        raise UserError(
            f"{source} has {len(paragraphs)} paragraphs; it needs {FEWEST}, parted by blank lines, because the "
            "interval of the loss is found by resampling them."
        )
    for number, paragraph in enumerate(paragraphs, start=1):
        if len(paragraph.split()) < 2:
            raise UserError(
                f"Paragraph {number} of {source} is the single word {paragraph[:40]!r}; its first word is only "
                "read, so that a paragraph needs two."
            )
    return paragraphs


def text_losses(
    engine: Engine, paragraphs: Sequence[str], progress: Progress = lambda done, total: None
) -> Losses:
    """The negative log-likelihood of each paragraph under a model, teacher-forced, in the paragraphs' order.

    The first word is read, behind whatever the tokenizer puts before a text, and the rest is predicted.

    Args:
        engine: the model's.
        paragraphs: of two words or more.
        progress: called with (done, total) as paragraphs are scored.

    Raises:
        UserError: the engine tells no log-probabilities, or a paragraph is longer than the model's context.
    """
    requests, rests = [], []
    for place, paragraph in enumerate(paragraphs):
        first = paragraph.split(maxsplit=1)[0]
        requests.append(Request(str(place), (Message("user", first),), style="text"))
        rests.append([paragraph[len(first) :]])
    found: dict[int, Completion] = {}
    for batch in engine.logprobs(requests, rests):
        found |= {int(name): completion for name, completion in batch}
        progress(len(found), len(paragraphs))
    losses = []
    for place in range(len(paragraphs)):
        scored = found[place]
        if scored.error is not None:
            raise UserError(f"Paragraph {place + 1} of the text could not be scored: {scored.error}.")
        if scored.logprob is None or not math.isfinite(scored.logprob):
            raise UserError(
                f"The loss of paragraph {place + 1} of the text is unknown: the engine gave the log-probability "
                f"{scored.logprob}."
            )
        losses.append((-scored.logprob, scored.completion_tokens))
    return losses


def mean_loss(losses: Losses) -> Interval:
    """Loss in nats a token over all paragraphs, with its interval by bootstrap over paragraphs."""
    return ratio_interval([loss for loss, _ in losses], [tokens for _, tokens in losses])


def perplexity(losses: Losses) -> Interval:
    """e to the mean loss, and to its interval's ends."""
    loss = mean_loss(losses)
    return replace(loss, value=math.exp(loss.value), low=math.exp(loss.low), high=math.exp(loss.high))


# --- before and after -------------------------------------------------------------------------------


@dataclass(frozen=True)
class Probe:
    """What a model is asked before and after: paragraphs, and other tasks by the names that they go by.

    `note` tells a result's reader of a text that is not the project's own; else it is empty.
    """

    note: str
    paragraphs: tuple[str, ...]
    tasks: tuple[tuple[str, Task], ...]
    questions: int


@dataclass(frozen=True)
class Abilities:
    """What one model showed: the losses of the probe's paragraphs, and a result for each of its tasks."""

    losses: Losses
    results: tuple[Result, ...]


def open_probe(config: Forgetting, tuned: Task) -> Probe | None:
    """The texts and tasks that the config names, read; None where forgetting is not asked for.

    Args:
        config: what is asked for.
        tuned: the task that the model is tuned on, which cannot be one of the others.

    Raises:
        UserError: the text or a task cannot be had, or a task is named twice or is the tuned one.
    """
    if not config.forgetting:
        return None
    tasks: dict[str, Task] = {}
    for named in config.forgetting_tasks:
        name, *settings = named.split(",")
        if odd := [setting for setting in settings if "=" not in setting.strip("=")]:
            raise UserError(
                f"{named!r} is no task: behind its name stand settings as name=value, and {odd[0]!r} is none."
            )
        task = load_task(name, dict(setting.split("=", 1) for setting in settings))
        label = Path(name).stem if name.endswith((".yaml", ".yml")) else name
        if task.hash == tuned.hash or (task.name == tuned.name != "file"):
            raise UserError(
                f"The model is tuned on {tuned.name}, so {named!r} tells nothing of forgetting: name another task."
            )
        if label in tasks:
            raise UserError(f"forgetting_tasks names {label!r} twice.")
        tasks[label] = task
    text = config.forgetting_text
    note = f"The general text is that of {text.name}." if text else ""
    return Probe(note, read_paragraphs(text), tuple(tasks.items()), config.forgetting_questions)


def without_head(model: Model) -> Model:
    """The model whose text is scored: a classification head as an adapter has no say in text, and is left off."""
    if model.adapter is None or check_adapter(model.adapter).get("peft_type") != HEAD:
        return model
    return replace(model, adapter=None)


def abilities(
    model: Model, probe: Probe, engine_of: Callable[[Model], Engine], store: Store, run: Run, *, quiet: bool
) -> Abilities:
    """What a model shows on the probe, from the run's folder where it was measured there.

    Args:
        model: without a classification head.
        probe: what it is asked.
        engine_of: gives the model's engine; not called where nothing is left to measure.
        store: completions are taken from it and put into it.
        run: the measurement is written there.
        quiet: no progress bars.

    Raises:
        UserError: as `text_losses` and `harness.evaluate`.
    """
    asked = [probe.paragraphs, [task.hash for _, task in probe.tasks], probe.questions]
    file = run.path / f"abilities-{short_hash([model_identity(model), asked])}.json"
    if file.exists():
        done = read_json(file)
        return Abilities([(loss, tokens) for loss, tokens in done["losses"]], from_json(done["results"]))
    engine = engine_of(model)
    with Bar("general text", quiet=quiet) as bar:
        losses = text_losses(engine, probe.paragraphs, bar.show)
    results = []
    for name, task in probe.tasks:
        decode = LabelLikelihood() if task.labels else Greedy(task.max_tokens)
        system = System(model, load_prompt(task.prompt), decode)
        questions = min(probe.questions, len(task.dev))
        with Bar(f"{name} on dev", quiet=quiet) as bar:
            results.append(
                evaluate(system, task, engine, store, split="dev", questions=questions, progress=bar.show)
            )
    if all(outcome.score is not None for result in results for outcome in result.outcomes):
        write_json(file, {"losses": losses, "results": to_json(results)})  # else failed requests are sent again
    return Abilities(losses, tuple(results))


def changes(before: Abilities, after: Abilities, probe: Probe) -> dict[str, float]:
    """Metrics of a tuned model: what it showed, what its base showed, and the paired difference, with intervals.

    general_loss_before, general_loss: nats a token. forgetting: the second minus the first, so that above 0 is
    forgotten; its interval resamples paragraphs, each with both of its losses. Of a task NAME the accuracies
    other_NAME_before and other_NAME, their paired difference other_NAME_change, and other_NAME_p, the exact
    McNemar test's p-value before any correction. An interval's ends are the name with _low and _high.
    """
    tokens = [count for _, count in before.losses]
    assert tokens == [count for _, count in after.losses], "both models must read the text as the same tokens"
    gaps = [new - old for (old, _), (new, _) in zip(before.losses, after.losses, strict=True)]
    metrics = {"general_paragraphs": float(len(gaps))}
    metrics |= _told("general_loss_before", mean_loss(before.losses))
    metrics |= _told("general_loss", mean_loss(after.losses))
    metrics |= _told("forgetting", ratio_interval(gaps, tokens))
    for (name, _), old, new in zip(probe.tasks, before.results, after.results, strict=True):
        compared = compare(old, new)
        metrics |= _told(f"other_{name}_before", old.score) | _told(f"other_{name}", new.score)
        metrics |= _told(f"other_{name}_change", compared.difference)
        metrics |= {f"other_{name}_p": compared.p, f"other_{name}_questions": float(compared.shared)}
    return metrics


def _told(name: str, interval: Interval) -> dict[str, float]:
    return {name: interval.value, f"{name}_low": interval.low, f"{name}_high": interval.high}
