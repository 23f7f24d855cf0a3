"""From a tuning method to a measured System: tune with one or several settings, measure the best on dev."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Protocol

from workbench.errors import UserError
from workbench.files import write_json
from workbench.forgetting import Abilities, Probe, abilities, changes, open_probe, without_head
from workbench.forgetting_flags import Forgetting
from workbench.harness import evaluate
from workbench.identity import to_json
from workbench.launch import check_single
from workbench.progress import Bar
from workbench.report import percent, span
from workbench.report_forgetting import forgetting_remarks
from workbench.runs import Run, RunFolder
from workbench.session import Session, content_of
from workbench.tasks.base import Task
from workbench.training.card import cost_of, load_section, result_section, together, with_load_section
from workbench.types import Interval, Model, Result, System


class Adapt(Protocol):
    """A tuning method's `adapt`."""

    def __call__(self, system: System, task: Task, config: Any, run: Run, *, quiet: bool) -> System:
        """The system with a tuned model."""


def tune(session: Session, adapt: Adapt, name: str, config: Any) -> tuple[System, RunFolder]:
    """Tune in a run of its own inside the session's run, where it has not been done.

    Raises:
        UserError: as the method; and under `accelerate launch`, which is for one training.
    """
    check_single("this recipe")
    check_engine(session)
    session.close_engine()
    content = {"recipe": name, **content_of(config), "task_hash": session.task.hash}
    with Run.open(session.run.path, name, content, name=name) as run:
        return adapt(session.system(), session.task, config, run, quiet=session.setup.quiet), run


def tune_and_measure(
    session: Session, adapt: Adapt, variants: Mapping[str, Any], forgetting: Forgetting | None = None
) -> Result:
    """Tune, measure on the setup's split, and add the result to the model card.

    Of several variants each is tuned in a run of its own inside the session's; the one with the most right
    answers on dev (the first of equals) is measured. What all of them cost is what making it cost.

    Args:
        session: the task, the model, the run.
        adapt: the tuning method.
        variants: its settings, by name.
        forgetting: whether forgetting is measured, and on what.

    Raises:
        UserError: as the method, and as `forgetting.open_probe`, which speaks before hours of training.
    """
    check_engine(session)
    probe = open_probe(forgetting or Forgetting(), session.task)
    dev: dict[str, Interval] = {}
    if len(variants) == 1:
        [config] = variants.values()
        folder: RunFolder = session.run
        system = adapt(session.system(), session.task, config, session.run, quiet=session.setup.quiet)
        cost = cost_of(folder)
    else:
        tuned = {name: tune(session, adapt, name, config) for name, config in variants.items()}
        dev = _on_dev(session, {name: system for name, (system, _) in tuned.items()})
        best = max(dev, key=lambda name: dev[name].value)
        system, folder = tuned[best]
        others = [cost_of(run) for name, (_, run) in tuned.items() if name != best]
        cost = together([*others, cost_of(folder)])
    result = with_weights(session.measure(system, cost), folder)
    if probe is not None:
        result = with_forgetting(session, result, system.model, probe)
    session.tell(system, result)
    parts = " and ".join(f"{_ARTICLE[name]} of {size:,} bytes" for name, size in weights_left(folder).items())
    print(f"{cost.parameters:,} trained parameters in {parts}")
    card = (folder.path / "README.md").read_text(encoding="utf-8") + result_section(result, dev)
    if remarks := forgetting_remarks([("this model", result)]):
        card += "\n## Forgetting\n\n" + "\n\n".join(remarks) + "\n"
    # Of several settings the card is that of the best one's run, and says where in that run the model lies.
    session.run.write_card(with_load_section(card, load_section(system.model, session.run)))
    return result


def check_engine(session: Session) -> None:
    """See that what is yet to be made can be measured: a server does not know it.

    Raises:
        UserError: the engine is a server's.
    """
    if session.setup.engine.engine == "vllm":
        raise UserError(
            "A server does not know a model that is yet to be tuned. Tune and measure with --engine hf; what "
            "comes out can be served, and measured there with `workbench evaluate`."
        )


# --- what tuning leaves and takes away --------------------------------------------------------------

_ARTICLE = {"model": "a model", "adapter": "an adapter"}  # the folders that tuning methods leave, in words


def weights_left(run: RunFolder) -> dict[str, int]:
    """Bytes of the weights that a tuning method left in its run, by the folder's name: `model`, `adapter`."""
    sizes = {name: sum(f.stat().st_size for f in (run.path / name).glob("*.safetensors")) for name in _ARTICLE}
    return {name: size for name, size in sizes.items() if size}


def with_weights(result: Result, run: RunFolder) -> Result:
    """The result with what the tuned weights take on a disk, as the metric `artifact_bytes`."""
    return _with_metrics(result, {"artifact_bytes": float(sum(weights_left(run).values()))})


def with_forgetting(session: Session, result: Result, tuned: Model, probe: Probe) -> Result:
    """The result of a tuned model with what it forgot, as `forgetting.changes` names it.

    What each model shows is measured once in a run, the base's for all models that were tuned from it.
    """

    def shown(model: Model) -> Abilities:
        return abilities(model, probe, session.engine, session.store, session.run, quiet=session.setup.quiet)

    after = shown(without_head(tuned))
    before = shown(replace(session.system().model, quantization=tuned.quantization))
    notes = tuple(dict.fromkeys([*result.notes, *([probe.note] if probe.note else [])]))
    return replace(_with_metrics(result, changes(before, after, probe)), notes=notes)


def _with_metrics(result: Result, metrics: Mapping[str, float]) -> Result:
    return replace(result, metrics=tuple({**dict(result.metrics), **metrics}.items()))


# --- several settings -------------------------------------------------------------------------------


def _on_dev(session: Session, systems: Mapping[str, System]) -> dict[str, Interval]:
    """The Systems' scores on dev, by name; they are told and written into the run, with which is the best."""
    scores = {}
    for name, system in systems.items():
        with Bar(f"{name} on dev", quiet=session.setup.quiet) as bar:
            engine = session.engine(system.model)
            found = evaluate(system, session.task, engine, session.store, split="dev", progress=bar.show)
        scores[name] = found.score
        print(f"{name:<12} {percent(found.score.value):>7}  ({span(found.score)})  {found.total} dev questions")
    best = max(scores, key=lambda name: scores[name].value)
    write_json(session.run.path / "dev.json", {"best": best, "scores": to_json(scores)})
    return scores
