"""A model before and after it learned from preferences or rewards, on the same questions, with what it cost it.

Beside the accuracies, greedy and sampled, with their paired tests: KL to the base, the length of answers, and how
the training went.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace

from workbench.before_after import Measured, table, ways
from workbench.decodes import Sample
from workbench.preferring.divergence import Divergence, divergence
from workbench.runs import RunFolder
from workbench.session import Session
from workbench.training.card import cost_of, result_section
from workbench.training.grpo_curve import curve
from workbench.tuning import check_engine
from workbench.types import Result, System

_SMOOTHED = 10  # updates that are averaged at the beginning and the end of a training


def align(session: Session, adapt: Callable[[], System], paths: Sample, told: Sequence[str]) -> Result:
    """Train, measure the base and the tuned model, tell both, and complete the card.

    Args:
        session: its System is the base, its run holds what is trained.
        adapt: trains, and gives the base's System with another model.
        paths: how samples are drawn, for one sample and for a vote of all.
        told: metrics of the training that are told as they were in its first and its last updates.

    Returns:
        The tuned model's result under its own decode, with KL and length among its metrics.

    Raises:
        UserError: the engine is a server's, which does not know the model; or as `adapt`.
    """
    check_engine(session)
    tuned = adapt()
    base, run, split = session.system(), session.run, session.setup.split
    rows = []
    for name, system, cost in (("before", base, None), ("after", tuned, cost_of(run))):
        for kind, asked in ways(system, paths, session.task.max_tokens).items():
            result = session.measure(asked, cost, label=f"{name}: {kind}")
            rows.append(Measured(name, kind, result))
            run.write_result(result, f"{name}-{kind}".replace(" ", "-"))
    found = divergence(tuned, base.model, session.task, session.drawer)
    after = rows[len(rows) // 2].result
    more = found.metrics() if isinstance(found, Divergence) else {}
    result = replace(after, metrics=tuple({**dict(after.metrics), **more}.items()))
    text = table(rows, session.store.looks(session.task.hash, split))
    story = [f"- {line}" for line in [*course(run, told), str(found)]]
    print(text, *story, sep="\n")
    run.write_system(tuned)
    run.write_result(result)
    card = (run.path / "README.md").read_text(encoding="utf-8")
    run.write_card(f"{card}{result_section(result)}\n## Before and after\n\n{text}\n" + "\n".join(story) + "\n")
    print(f"system {result.system}, run {run.path}")
    return result


def course(run: RunFolder, told: Sequence[str]) -> list[str]:
    """A line a metric: its mean over the first and over the last ten updates that have it."""
    lines = []
    for name in told:
        values = curve(run, name)
        if len(values) == 1:
            lines.append(f"{name}: {values[0]:.4g} (1 update)")
        elif values:
            few = max(1, min(_SMOOTHED, len(values) // 2))
            first, last = (sum(part) / len(part) for part in (values[:few], values[-few:]))
            of = f"the first and last {few} of {len(values)} updates" if few > 1 else f"{len(values)} updates"
            lines.append(f"{name}: {first:.4g} → {last:.4g} ({of})")
    return lines
