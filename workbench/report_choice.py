"""What each way of choosing makes of 1, 2, 4, … n samples, and what a scorer thinks of its own choice, as text."""

from collections.abc import Mapping

from workbench.stats import best_of_n_kl_bound
from workbench.types import Result

_CURVES = {
    "pass@1": "random",
    "majority": "majority",
    "weighted": "weighted vote",
    "best_of": "best of n",
    "pass": "pass@n",
}


def choice_table(result: Result, n: int, scorer: str) -> str:
    """Two tables with a line for each number of samples: accuracies with intervals; the scorer's view and the KL.

    Args:
        result: of a best of n or of a weighted vote.
        n: samples a question.
        scorer: its name or folder.
    """
    metrics = dict(result.metrics)
    head = (
        f"Scorer {scorer}. Over the {metrics['curve_questions']:.0f} of {len(result.outcomes)} questions with {n} "
        "samples and all their scores; 95 % intervals: Wilson's where every question is 0 or 1, else bootstrap."
    )
    starts = [name.removeprefix("best_of@") for name in metrics if name.startswith("best_of@")]
    ks = [start for start in starts if start.isdigit()]
    if not ks:
        return head
    lines = [head, f"{'n':>5} " + " ".join(f"{name:>24}" for name in _CURVES.values())]
    for k in ks:
        names = [curve if "@" in curve else f"{curve}@{k}" for curve in _CURVES]
        lines.append(f"{k:>5} {' '.join(_share(metrics, name) for name in names)}".rstrip())
    lines += [
        "",
        "What the scorer thinks of the best of n, beside how often it is right; and how far best of n is from one",
        "sample: the KL that these samples show, and the most that it can be.",
        f"{'n':>5} {'score, 95 % interval':>32} {'right, 95 % interval':>24} {'KL':>8} {'at most':>8}",
    ]
    for k in ks:
        told = "none can be chosen"
        if f"proxy@{k}" in metrics:
            low, high = metrics[f"proxy@{k}_low"], metrics[f"proxy@{k}_high"]
            told = f"{metrics[f'proxy@{k}']:.4g}  {low:.4g} – {high:.4g}"
        right, bound = _share(metrics, f"best_of@{k}"), best_of_n_kl_bound(int(k))
        lines.append(f"{k:>5} {told:>32} {right} {metrics[f'kl@{k}']:>8.3f} {bound:>8.3f} nats")
    return "\n".join(lines)


def _share(metrics: Mapping[str, float], name: str) -> str:
    """A share with its interval, 24 characters wide."""
    low, high = metrics[f"{name}_low"], metrics[f"{name}_high"]
    return f"{metrics[name]:>8.1%} {100 * low:>6.1f} – {100 * high:<6.1f}"
