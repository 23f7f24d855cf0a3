"""What the pane of runs shows, section by section, and which of it has changed since it was last sent."""

import sys
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from workbench.errors import UserError
from workbench.run_folder import RunFolder
from workbench.run_views.listing import Listing, matching
from workbench.run_views.metrics import Feeds, parts, progress
from workbench.run_views.pairs import changes, of_kind
from workbench.run_views.reading import (
    asked_rungs,
    looks,
    measured,
    read_card,
    read_part,
    read_results,
    read_run,
    rung_names,
)
from workbench.rungs import DEFAULT, DEFAULTS
from workbench.types import Result
from workbench.ui.runs_list import left_out_html, list_html, page_of
from workbench.ui.runs_live import curves_html, latest_html, progress_html, rungs_progress
from workbench.ui.runs_pair import KINDS, changed_html, pair_html
from workbench.ui.runs_result import (
    OUTCOMES,
    card_html,
    cost_html,
    head_html,
    pool_html,
    questions_html,
    result_html,
    rungs_html,
    rungs_of,
    select_outcomes,
)
from workbench.ui.shell import line

Sections = dict[str, Any]
"""What is to be shown, by the section's name: HTML, or choices for a list of names."""


@dataclass
class Shown:
    """What one browser's pane shows. Every value may have come from the browser: all are looked up, none trusted.

    Attributes:
        text, recipe, state, page: what the list is filtered by, and its page.
        id: the run that is open; "" is the list.
        seen: the state in which the open run was last seen.
        result, part: which of its results and trainings.
        which, asked, whole: outcome, page, and texts shown whole of its questions.
        other: what it is compared with, as "run/result".
        kind, turned, wide: kind, page, and texts shown whole of the changed questions.
        sent: what each section was last sent as.
        stamp: what had been measured then.
    """

    text: str = ""
    recipe: str = ""
    state: str = ""
    page: int = 0
    id: str = ""
    seen: str = ""
    result: str = ""
    part: str = ""
    which: str = "all"
    asked: int = 0
    whole: set[int] = field(default_factory=set)
    other: str = ""
    kind: str = "all"
    turned: int = 0
    wide: set[int] = field(default_factory=set)
    sent: Sections = field(default_factory=dict)
    stamp: Any = None


class View:
    """Reads the runs below a folder for all browsers that look."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.listing = Listing(root)
        self.feeds = Feeds()

    # --- the list -------------------------------------------------------------------------------------

    def all(self, shown: Shown) -> Sections:
        """The list as it is filtered; `shown.page` is brought into it."""
        lines, out = self.listing.read()
        found = matching(lines, shown.text, shown.recipe, shown.state)
        shown.page = page_of(len(found), shown.page)
        return {
            "list": list_html(found, shown.page, len(lines)),
            "left-out": left_out_html(out),
            "recipes": sorted({one.recipe for one in lines}),
            "list-paging": len(found),
        }

    # --- one run --------------------------------------------------------------------------------------

    def open(self, shown: Shown, id: object, result: str = "", other: str = "") -> None:
        """Make a run the one that is shown.

        Raises:
            UserError: there is no such run.
        """
        run = self.listing.find(id)
        filters = {name: getattr(shown, name) for name in ("text", "recipe", "state", "page", "sent")}
        vars(shown).update(vars(Shown(**filters)))
        shown.id, shown.seen = run.id, self.listing.state(run)
        shown.result, shown.other = result, f"{other}/result" if other and "/" not in other else other

    def close(self, shown: Shown) -> None:
        """Go back to the list."""
        shown.id = shown.other = ""

    def run(self, shown: Shown) -> Sections:
        """Everything of the open run.

        Raises:
            UserError: it is no longer there.
        """
        run = self.listing.find(shown.id)
        shown.stamp = measured(run.path)
        results, problems = read_results(run)
        if shown.result not in results:
            shown.result = next(iter(results), "")
        rungs = rungs_of(results)
        known = looks(self.root, rungs[0].result.task_hash, rungs[0].result.split) if rungs else None
        seen = max(known or 0, len(rungs))  # a folder from elsewhere has its store there
        return {
            **self.live(shown, run),
            "problems": "".join(line(problem, problem=True) for problem in problems),
            "results": list(results),
            "rungs": guarded("The rungs", rungs_html, rungs, seen),
            "cost": guarded("The chart of costs", cost_html, rungs),
            "pool": guarded("The curves", _pool, run),
            "card": guarded("The model card", lambda: card_html(read_card(run))),
            "others": self._others(shown, list(results)),
            **self.questions(shown, results),
            **self.pair(shown, results),
        }

    def live(self, shown: Shown, run: RunFolder) -> Sections:
        """How the open run is doing: its state, its trainings as far as they are, its rungs that are done."""
        state = self.listing.state(run)
        running = state == "running"
        names = parts(run.path)
        latest = names[0] if names else ""
        if shown.part not in names:
            shown.part = ""
        named = shown.part if shown.part else latest
        told = ""
        if run.recipe == "ladder":
            asked = asked_rungs(run) or _default_rungs(run)
            told = rungs_progress(asked, rung_names(run.path), latest, running)
        sections: Sections = {
            "head": head_html(run.id, run.recipe, state, str(run.info["created"]), str(run.path.resolve()), []),
            "parts": names,
            "running": running,
            "progress": told,
            "training": "",
            "curves": "",
            "latest": "",
        }
        if names or running:
            sections |= self._training(run, named, told, running)
        return sections

    def _training(self, run: RunFolder, part: str, told: str, running: bool) -> Sections:
        try:
            feed = self.feeds.of(run.path / part)
            # A ladder that asks questions trains nothing now: what it trained before has no time left.
            training = running and self.listing.state(read_run(run.path / part)) == "running"
        except (UserError, OSError) as error:
            return {"training": line(error, problem=True)}
        far = guarded(
            "The progress", lambda: progress_html(progress(feed, training), bool(told) or feed.lines > 0)
        )
        title = "<h3>Training</h3>" if feed.lines else ""
        # What is going on now stands at the top, what was is with its curves.
        return {
            "progress": f"{told}{far}" if training else told,
            "training": title if training else f"{title}{far}",
            "curves": guarded("The charts", curves_html, feed),
            "latest": guarded("The latest numbers", latest_html, feed),
            "running": running or feed.behind,
        }

    def questions(self, shown: Shown, results: Mapping[str, Result] | None = None) -> Sections:
        """One page of the questions of the chosen result, by outcome.

        Raises:
            UserError: the run is no longer there.
        """
        results = read_results(self.listing.find(shown.id))[0] if results is None else results
        result = results.get(shown.result)
        if result is None:
            return {"result": line("This run has no result yet."), "questions": "", "questions-paging": 0}
        shown.which = shown.which if shown.which in OUTCOMES else "all"
        found = select_outcomes(result, shown.which)
        shown.asked = page_of(len(found), shown.asked)
        return {
            "result": guarded("The result", result_html, result, shown.result),
            "which": shown.which,
            "questions": guarded("The questions", questions_html, found, shown.asked, shown.whole),
            "questions-paging": len(found),
        }

    def pair(self, shown: Shown, results: Mapping[str, Result] | None = None) -> Sections:
        """The chosen result beside the one that it is compared with, and the questions that changed."""
        if not shown.other:
            return {
                "pair": line("Choose what to compare with."),
                "changed": "",
                "changed-paging": 0,
                "kinds": "",
            }
        empty: Sections = {"changed": "", "changed-paging": 0, "kinds": ""}
        try:
            results = read_results(self.listing.find(shown.id))[0] if results is None else results
            first, second = results.get(shown.result), self._other(shown.other)
            if first is None:
                raise UserError(f"The run {shown.id!r} has no result (yet).")
            a, b = (name.removesuffix("/result") for name in (f"{shown.id}/{shown.result}", shown.other))
            told = pair_html(a, first, b, second)
            shown.kind = shown.kind if shown.kind in KINDS else "all"
            found = of_kind(changes(first, second), shown.kind)
        except UserError as error:
            return {"pair": line(error, problem=True), **empty}
        except Exception as error:
            return {"pair": _failed("The comparison", error), **empty}
        shown.turned = page_of(len(found), shown.turned)
        return {
            "pair": told,
            "changed": guarded("The questions", changed_html, found, shown.turned, a, b, shown.wide),
            "changed-paging": len(found),
            "kinds": shown.kind,
        }

    def follow(self, shown: Shown) -> tuple[Sections, str]:
        """How the open run is now, and a sentence where the open run's state has.

        Raises:
            UserError: the open run is no longer there.
        """
        if not shown.id:
            return {"running": False}, ""
        run = self.listing.find(shown.id)
        before, now = shown.seen, self.listing.state(run)
        shown.seen = now
        sections = self.live(shown, run) if measured(run.path) == shown.stamp else self.run(shown)
        return sections, f"The run {run.id} is {now}." if now != before else ""

    def _other(self, name: str) -> Result:
        id, _, wanted = name.partition("/")
        results = read_results(self.listing.find(id))[0]
        found = results.get(wanted or "result")
        if found is None:
            raise UserError(f"The run {id!r} has no result {wanted[:200]!r} (yet).")
        return found

    def _others(self, shown: Shown, own: list[str]) -> list[str]:
        """What the open run's result can be compared with: its own other results first."""
        found = [f"{shown.id}/{name}" for name in own]
        for one in self.listing.read()[0]:
            if one.id != shown.id:
                found += [f"{one.id}/result"] if one.score is not None else []
                found += [f"{one.id}/{name}" for name in one.rungs]
        return [name for name in found if name != f"{shown.id}/{shown.result}"][:1000]


def changed_only(shown: Shown, sections: Sections) -> Sections:
    """The sections that are not what the browser has, which are then what it has."""
    fresh = {name: value for name, value in sections.items() if shown.sent.get(name, ...) != value}
    shown.sent |= fresh
    return fresh


def guarded(what: str, make: Callable[..., str], *arguments: Any) -> str:
    """A section, or why it cannot be shown: a damaged file costs its own section and no other."""
    try:
        return make(*arguments)
    except UserError as error:
        return line(error, problem=True)
    except Exception as error:
        return _failed(what, error)


def _failed(what: str, error: Exception) -> str:
    traceback.print_exception(error, file=sys.stderr)
    return line(
        f"{what} cannot be shown ({type(error).__name__}); a file of the run may be damaged.", problem=True
    )


def _pool(run: RunFolder) -> str:
    found = read_part(run.path, "curves.json")
    decode = run.config.get("decode")
    scorer = decode.get("scorer") if isinstance(decode, dict) else None
    return "" if found is None else pool_html(found, str(scorer or "the scorer")[:200])


def _default_rungs(run: RunFolder) -> list[str]:
    setup = run.config.get("setup")
    task = setup.get("task") if isinstance(setup, dict) else None
    return list(DEFAULTS.get(task, DEFAULT)) if isinstance(task, str) else list(DEFAULT)
