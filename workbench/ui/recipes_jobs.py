"""What the page shows of the recipes that it started: a list, and of one its state, its run and its log."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from urllib.parse import urlencode

from workbench.jobs import Job, Jobs, State, exit_status, next_signal, state_of
from workbench.ui.recipes_log import log_tail
from workbench.ui.shell import html

WORDS: dict[State, str] = {
    "running": "running",
    "stopping": "asked to stop",
    "done": "done",
    "interrupted": "interrupted",
    "failed": "failed",
    "lost": "ended without a word",
}

STOPS = {"SIGINT": "Stop", "SIGTERM": "Stop harder (SIGTERM)", "SIGKILL": "Kill (SIGKILL)"}
"""What the button says that sends a signal."""


def listing(mine: Sequence[Job], states: Mapping[str, State], others: int, chosen: str) -> str:
    """The visitor's jobs, with their states by id, and how many others run."""
    items = []
    for job in mine[:30]:
        state = states[job.id]
        current = ' aria-current="true"' if job.id == chosen else ""
        items.append(
            f'<li><button type="button" data-act="open" data-job="{job.id}"{current}><b>{html(job.label)}</b> '
            f'<span class="recipes-state {state}">{WORDS[state]}</span> <span>{_clock(job)}</span></button></li>'
        )
    parts = ["<h2>Started from this page</h2>"]
    parts.append(f"<ul class=recipes-jobs>{''.join(items)}</ul>" if items else "<p>Nothing yet.</p>")
    if others:
        parts.append(
            "<p>Another visitor's recipe is running.</p>"
            if others == 1
            else f"<p>{others} recipes of other visitors are running.</p>"
        )
    working = others + sum(state in ("running", "stopping") for state in states.values())
    if working > 1:
        parts.append(f"<p>{working} recipes share this machine's cores and memory, and each is slower for it.</p>")
    parts.append("<p class=recipes-help>A recipe goes on when this page or its server is closed.</p>")
    return "".join(parts)


def head(jobs: Jobs, job: Job, runs: Path) -> str:
    """A job's state, its command, and the way to its run."""
    state, status = state_of(job), exit_status(job)
    words = WORDS[state]
    if state == "stopping":
        words += {"SIGTERM": "; it has not yet", "SIGKILL": "; it does not obey"}.get(next_signal(job) or "", "")
    if state in ("failed", "interrupted") and status is not None:
        words += f" (exit status {status})" if status >= 0 else f" (ended by signal {-status})"
    parts = [
        f'<h3 tabindex="-1">{html(job.label)}: <span class="recipes-state {state}">{html(words)}</span></h3>',
        f"<p>Started {_clock(job)}. <code>{html(job.command)}</code></p>",
    ]
    run = jobs.run_of(job)
    if run is not None and job.runs == str(runs.resolve()):
        link = html("?" + urlencode({"tab": "runs", "run": run}))
        parts.append(f'<p><a href="{link}">Its run: {html(run)}</a></p>')
    elif run is not None:
        parts.append(f"<p>Its run: <code>{html(Path(str(job.runs)) / run)}</code></p>")
    if state == "interrupted" and job.runs is not None:
        parts.append("<p>“Go on” starts the same command again, and the run goes on where it stopped.</p>")
    if state == "lost":
        parts.append(
            "<p>Its process is gone without an exit status, as when it is killed or the machine stops.</p>"
        )
    return "".join(parts)


def log(job: Job) -> str:
    """The last lines of what a job says."""
    text = log_tail(job) or "Nothing is said yet."
    kind = "recipes-log" if job.runs is not None else "recipes-log sentences"  # an estimate is a sentence
    return f'<div class="{kind}" tabindex="0" role="region" aria-label="Log"><pre>{html(text)}</pre></div>'


def _clock(job: Job) -> str:
    at = datetime.fromisoformat(job.started).astimezone()
    return f'<time datetime="{html(job.started)}">{at:%d %b %H:%M}</time>'
