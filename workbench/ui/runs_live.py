"""A training as it goes, as HTML: how far it is, its curves, and the latest numbers."""

from collections.abc import Mapping, Sequence
from typing import Any

from workbench.report import duration, quantity
from workbench.report_curves import Chart, Line
from workbench.run_views.metrics import Feed, Progress, Series, number
from workbench.ui.runs_list import wide
from workbench.ui.runs_result import chart_html, legend
from workbench.ui.shell import html, line

SIZE = (460, 250)
"""Of a live chart: two stand side by side on a desk's screen, one fills a phone's."""

_MEAN = 10  # updates of the smooth line

_CHARTS: Sequence[tuple[str, str, tuple[str, ...], float, str]] = (
    # heading, what is measured, the metrics in their order, what they are divided by, the numbers' unit
    ("Loss", "loss", ("loss",), 1, ""),
    ("Reward", "reward", ("reward", "rewards/chosen", "rewards/rejected", "mean_reward"), 1, ""),
    ("Pairs that are told right", "share", ("rewards/accuracies", "accuracy"), 1, ""),
    ("Learning rate", "learning rate", ("learning_rate",), 1, ""),
    ("Speed", "tokens a second", ("tokens_per_second",), 1, "tokens/s"),
    ("Memory", "GiB, the most so far", ("peak_memory_bytes",), 2**30, "GiB"),
    ("Gradient", "norm before clipping", ("grad_norm",), 1, ""),
    ("Divergence from the start", "KL, nats", ("kl",), 1, "nats"),
    ("Entropy", "nats", ("entropy",), 1, "nats"),
)


def progress_html(told: Progress | None, logged: bool) -> str:
    """How many updates are done, of how many, and how long the rest will take at the latest speed.

    Args:
        told: how far the training is; None where it has not learned yet.
        logged: whether anything was written down.
    """
    if told is None:
        return "" if logged else line("Nothing has been logged yet.")
    if told.total is None:
        return line(f"Update {told.done:,}.")
    share = min(1.0, told.done / told.total)
    left = ""
    if told.seconds_left is not None and told.done < told.total:
        left = f", about {duration(told.seconds_left)} left at the speed of the latest updates"
    words = f"Update {told.done:,} of {told.total:,} ({100 * share:.0f} %){left}."
    bar = f"<progress max='{told.total}' value='{min(told.done, told.total)}' aria-label='Updates'></progress>"
    return f"{line(words)}{bar}"


def curves_html(feed: Feed) -> str:
    """The charts of what is logged; nothing where nothing is."""
    drawn = [_figure(chart, number) for number, chart in enumerate(charts_of(feed.series))]
    return f"<div class='live-charts'>{''.join(drawn)}</div>" if drawn else ""


def charts_of(series: Mapping[str, Series]) -> list[Chart]:
    """A chart for each of what is logged of loss, reward, rate, speed and memory, and for what comes with them."""
    charts = []
    for heading, what, names, unit, _ in _CHARTS:
        lines: list[Line] = []
        for name in names:
            if name in series and (found := series[name]).xs:
                ys = [y / unit for y in found.ys]
                several = len([other for other in names if other in series]) > 1
                smooth = not several and name in ("loss", "reward", "grad_norm") and len(ys) >= 3 * _MEAN
                colour = len(lines) % 5
                lines.append(Line(name, found.xs, ys, colour=4 if smooth else colour))
                if smooth:
                    lines.append(Line(f"mean of {_MEAN} points", found.xs, moving_mean(ys), colour=0))
        if lines:
            every = max(series[name].every for name in names if name in series)
            caption = f"Each point is the mean of {every} updates." if every > 1 else ""
            charts.append(Chart(heading, "", "update", what, lines, caption, share=False, log=False))
    return charts


def moving_mean(values: Sequence[float]) -> list[float]:
    """Of each value and up to nine before it."""
    return [sum(part := values[max(0, end - _MEAN) : end]) / len(part) for end in range(1, len(values) + 1)]


def latest_html(feed: Feed) -> str:
    """The latest line as a table, and the events: roll-backs, memory that ran out."""
    rows = []
    named = {name: (unit, word) for _, _, names, unit, word in _CHARTS for name in names}
    for name, series in feed.series.items():
        value = number(feed.last.get(name))
        if value is None:
            continue
        unit, word = named.get(name, (1, ""))
        ys = series.ys or [value]
        rows.append(
            [html(name), *(html(_number(y, word)) for y in (value / unit, min(ys) / unit, max(ys) / unit))]
        )
    if not rows:
        return _events_html(feed)
    step = number(feed.last.get("step")) or 0
    bad = f"; {feed.unreadable:,} lines could not be read" if feed.unreadable else ""
    behind = "; there is more to read" if feed.behind else ""
    caption = f"Latest numbers: update {step:,.0f}, {feed.lines:,} lines{bad}{behind}"
    table = wide("Latest numbers", ["Metric", "Latest", "Lowest", "Highest"], rows, caption=caption, numbers=1)
    return f"{table}{_events_html(feed)}"


def _events_html(feed: Feed) -> str:
    told = "".join(f"<li>{html(_event(event))}</li>" for event in list(feed.events)[-8:])
    return f"<h4>Events</h4><ul class='notes'>{told}</ul>" if told else ""


def _event(event: Mapping[str, Any]) -> str:
    rest = ", ".join(f"{name} {value}" for name, value in event.items() if name not in ("event", "step"))
    at = f" at update {event['step']}" if "step" in event else ""
    return f"{event['event']}{at}{': ' if rest else ''}{rest}"[:400]


def _figure(chart: Chart, place: int) -> str:
    shown = legend(chart) if len(chart.lines) > 1 else ""
    ends = "; ".join(f"{one.name} is {one.ys[-1]:.4g} at update {one.xs[-1]:,.0f}" for one in chart.lines)
    drawn = chart_html(chart, "live", SIZE, f"runs-live-{place}", told=f"{chart.heading} by update. {ends}.")
    caption = f"{chart.y}. {chart.caption}" if chart.caption else chart.y
    return f"<figure><h4>{html(chart.heading)}</h4>{shown}{drawn}<figcaption>{html(caption)}</figcaption></figure>"


def _number(value: float, unit: str) -> str:
    text = f"{value:.4g}" if abs(value) < 1e4 else f"{value:,.0f}" if abs(value) < 1e9 else quantity(value)
    return f"{text} {unit}".rstrip()


def rungs_progress(asked: Sequence[str], done: Sequence[str], training: str, running: bool) -> str:
    """How far a ladder is: rungs that are done, and what is being done now.

    Args:
        asked: names of the rungs that were asked for, in their order.
        done: those that are finished.
        training: the part that is being trained, or nothing.
        running: whether the ladder is.
    """
    rest = [name for name in asked if name not in done]
    words = f"{len(done):,} of {len(done) + len(rest):,} rungs done."
    if running and rest:
        doing = f" (training {training})" if training else ""
        words += f" Now: {rest[0]}{doing}."
        words += f" Then: {', '.join(rest[1:])}." if rest[1:] else ""
    bar = f"<progress max='{len(done) + len(rest)}' value='{len(done)}' aria-label='Rungs'></progress>"
    return f"{line(words)}{bar}" if asked else ""
