"""Forgetting as a reader sees it: the cell of a table, and the sentences below it, from a result's metrics.

`forgetting.py` measures it and says what the metrics are called.
"""

import re
from collections.abc import Mapping, Sequence

from workbench.stats import holm
from workbench.types import Result


def has_forgetting(results: Sequence[Result]) -> bool:
    """Whether forgetting was measured for one of them."""
    return any("forgetting" in dict(result.metrics) for result in results)


def forgetting_cell(result: Result) -> tuple[str, str]:
    """Change of the loss on general text in nats a token, and its interval.

    A System without trained parameters has its base's weights: "0" by construction, which needs no interval.
    Empty where forgetting was not measured.
    """
    metrics = dict(result.metrics)
    if "forgetting" not in metrics:
        return ("", "") if result.cost_to_make.parameters else ("0", "")
    low, high = metrics["forgetting_low"], metrics["forgetting_high"]
    return f"{metrics['forgetting']:+.3f}", f"{low:+.3f} to {high:+.3f}"


def forgetting_remarks(results: Sequence[tuple[str, Result]]) -> list[str]:
    """What stands behind the cells, and the accuracies on other tasks; nothing where nothing was measured.

    Systems that share a tuned model share its sentences, and count once in Holm's correction.

    Args:
        results: each with its name.
    """
    names: dict[tuple[tuple[str, float], ...], list[str]] = {}
    for name, result in results:
        if has_forgetting([result]):
            found = tuple(pair for pair in result.metrics if re.match("general_|forgetting|other_", pair[0]))
            names.setdefault(found, []).append(name)
    if not names:
        return []
    tests = [(found, task) for found in names for task in _tasks(dict(found))]
    adjusted = holm([dict(found)[f"other_{task}_p"] for found, task in tests])
    corrected = dict(zip(tests, adjusted, strict=True))
    out = [
        "forgetting: change of the loss on general text that was not tuned on, nats a token, with its 95 % "
        "interval (paired bootstrap over paragraphs); above 0 is forgotten, and unchanged weights forget nothing."
    ]
    for found, systems in names.items():
        metrics, who = dict(found), ", ".join(systems)
        out.append(
            f"{who}: the loss on {metrics['general_paragraphs']:.0f} paragraphs was "
            f"{_told(metrics, 'general_loss_before', '.3f')} before and "
            f"{_told(metrics, 'general_loss', '.3f')} after."
        )
        for task in _tasks(metrics):
            name, p = f"other_{task}", corrected[found, task]
            out.append(
                f"{who}: of {metrics[f'{name}_questions']:.0f} dev questions of {task}, "
                f"{_told(metrics, f'{name}_before', '.1f', 100)} % were right before and "
                f"{_told(metrics, name, '.1f', 100)} % after, {_told(metrics, f'{name}_change', '+.1f', 100)} "
                f"points (exact McNemar, Holm's correction, p {'< 0.001' if p < 0.001 else f'= {p:.3f}'})."
            )
    return out


def _tasks(metrics: Mapping[str, float]) -> list[str]:
    """The other tasks that the metrics tell of."""
    return [match[1] for name in metrics if (match := re.fullmatch("other_(.+)_p", name))]


def _told(metrics: Mapping[str, float], name: str, form: str, scale: int = 1) -> str:
    value, low, high = (f"{scale * metrics[name + end]:{form}}" for end in ("", "_low", "_high"))
    return f"{value} ({low} {'to' if form.startswith('+') else '–'} {high})"
