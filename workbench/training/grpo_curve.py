"""How a GRPO training went, as a picture and in words: reward, divergence, entropy and length by update."""

from collections.abc import Sequence
from pathlib import Path

from workbench.runs import RunFolder

WINDOW = 10
"""Updates of the moving mean."""

PICTURE = "reward.png"

_SHOWN = {
    "reward": "mean reward",
    "kl": "KL to the base (k3), nats a token",
    "entropy": "entropy, nats a token",
    "completions/mean_length": "tokens an answer",
}


def write_curve(run: RunFolder, beta: float) -> str:
    """Draw the picture into the run's folder; gives a section for the card.

    Args:
        run: of the training.
        beta: the weight of its KL divergence.
    """
    series = {name: curve(run, name) for name in _SHOWN}
    _draw(series, run.path / PICTURE)
    flat = curve(run, "frac_reward_zero_std")
    return (
        f"\n## Reward\n\n![Reward by update]({PICTURE})\n\nThe reward is the share of right answers "
        "among the samples of an update's practice questions, at the training's temperature. In "
        f"{100 * _mean(flat):.0f} % of the groups all samples had the same reward, from which "
        f"{'only the KL divergence teaches' if beta else 'nothing is learned'}.\n"
    )


def curve(run: RunFolder, name: str) -> list[float]:
    """A metric by update; of an update that was done twice the later one."""
    lines = {line["step"]: line for line in run.metrics() if line.get("loss") is not None}
    return [float(line[name]) for _, line in sorted(lines.items()) if name in line]


def moving_mean(values: Sequence[float], window: int = WINDOW) -> list[float]:
    """The mean of each value and those before it, `window` in all; of fewer where there are no more."""
    return [_mean(values[max(0, i + 1 - window) : i + 1]) for i in range(len(values))]


def _mean(values: Sequence[float]) -> float:
    return sum(values) / max(1, len(values))


def _draw(series: dict[str, list[float]], path: Path) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 6), layout="constrained")
    for axes, (name, values) in zip(figure.subplots(2, 2).flat, series.items(), strict=True):
        updates = range(1, len(values) + 1)
        axes.plot(updates, values, ".", color="#9ab", markersize=4)
        axes.plot(updates, moving_mean(values), color="#1f5fa8", label=f"mean of {WINDOW}")
        axes.set_title(_SHOWN[name], fontsize=10)
        axes.set_xlabel("update")
        axes.grid(alpha=0.3)
    figure.axes[0].legend(fontsize=8)
    figure.savefig(path, dpi=120)
