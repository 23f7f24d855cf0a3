"""The arena pane: two unnamed answers to one question, a vote by mouse or keys, the names, and the standings.

Nothing that tells one model from another reaches the browser before the vote: both texts come in one update when
both answers are finished, in frames that differ in nothing else, with no count, time or order of theirs.
"""

import asyncio
import base64
import json
import shlex
import sys
import traceback
from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from contextlib import aclosing
from importlib.resources import files
from pathlib import Path
from typing import Any

from workbench.arena.asked import Asked, draw_sides, drawn, offered, playable, typed
from workbench.arena.kept import kept, pairs_file, standings, votes_file
from workbench.arena.rounds import Match, Round
from workbench.catalogue import Catalogue, Entry
from workbench.decodes import Sampling
from workbench.errors import UserError
from workbench.preferring.pairs import Pair
from workbench.types import Model
from workbench.ui import arena_view as view
from workbench.ui.access import is_loopback
from workbench.ui.arena_controls import OWN, Controls, Updates
from workbench.ui.shell import DOWNLOAD, MAX_TEXT, QUICK, STREAMING, Shell, asked, line, query

CSS = files("workbench.ui").joinpath("arena.css").read_text(encoding="utf-8")
JS = files("workbench.ui").joinpath("arena.js").read_text(encoding="utf-8")

_ALONE = "The arena needs two models. Start the page with --also NAME, or make a run."
_AGAIN = """() => {
  const at = document.activeElement;
  if (!at || at === document.body || at.closest('#arena-votes')) document.getElementById('arena-start')?.focus();
}"""  # a button that is switched off loses the keyboard


def players(catalogue: Catalogue, keys: object) -> list[Entry]:
    """Those who play, in the catalogue's order whatever the browser's.

    Raises:
        UserError: fewer than two, or one that the catalogue does not have.
    """
    chosen = [catalogue.find(key) for key in (keys if isinstance(keys, list) else [])]
    if len({entry.key for entry in chosen}) < 2:
        raise UserError("Choose two models or more.")
    return [entry for entry in catalogue.entries() if entry in chosen]


def settings(temperature: object, longest: object) -> Sampling:
    """How models that are no run's System draw their answers.

    Raises:
        UserError: a number is missing, or out of its range.
    """
    numbers = [number for number in (temperature, longest) if isinstance(number, (int, float))]
    if len(numbers) < 2 or any(isinstance(number, bool) for number in numbers) or numbers[1] % 1:
        raise UserError("The temperature must be a number, and the longest answer a whole number of tokens.")
    return Sampling(temperature=float(numbers[0]), max_tokens=int(numbers[1]))


def training(home: Path, named: bool, entry: Entry | None) -> tuple[str, str]:
    """The command line that trains on the votes and what to mind; both empty where they give no pair.

    Args:
        home: the visitor's folder.
        named: with the votes on answers that name their model.
        entry: whose model is to learn; None leaves it to the recipe.
    """
    if not votes_file(home).is_file():
        return "", ""
    file, pairs = pairs_file(home, named)
    if not pairs:
        return "", ""
    model = [] if entry is None else ["--model", entry.model.base]
    return shlex.join(["workbench", "dpo", "--pairs", str(file.resolve()), *model]), seen_in_dev(pairs)


def seen_in_dev(pairs: Sequence[Pair]) -> str:
    """What whoever trains on pairs of a task must mind; empty where all questions were typed."""
    tasks = sorted({str(pair.source["task"]) for pair in pairs if pair.source.get("task")})
    if not tasks:
        return ""
    return f"These pairs are questions of the dev split of {' and '.join(tasks)}: measure on test, not dev."


def download(name: str, data: bytes) -> str:
    """A file as the page's script saves it."""
    return json.dumps({"name": name, "type": "application/jsonl", "data": base64.b64encode(data).decode()})


def is_local(request: Any) -> bool:
    """Whether the page is seen on the machine that it runs on: only there a path means something."""
    client = request.client.host if request.client else ""
    return is_loopback(client) and is_loopback(str(request.request.url.hostname or ""))


def opened(catalogue: Catalogue, fields: Mapping[str, str]) -> tuple[list[str], str]:
    """(players' keys, source of questions) that an address asks for; what is unknown in it is left out."""
    fields = fields if fields.get("tab") == "arena" else {}  # else the address tells another pane's state
    known = [entry.key for entry in catalogue.entries()]
    wanted = [key for key in known if key in fields.get("players", "").split(",")]
    task = fields.get("task", "")
    return (wanted if len(wanted) > 1 else known[:2]), (task if task in offered() else OWN)


def _problem(error: Exception) -> str:
    if not isinstance(error, UserError):  # a bug: its traceback is for the terminal, the page goes on
        traceback.print_exc(file=sys.stderr)
    return str(error) if isinstance(error, UserError) else f"The arena failed: {type(error).__name__}."


class _Pane(Controls):
    """The components, and what is shown in them."""

    def counted(self, home: Path, named: bool, local: bool, keys: object) -> Updates:
        """What the visitor's votes add up to, and on a local page how to train on them."""
        import gradio as gr

        shown: Updates = {self.standings: view.standings(standings(kept(home), named))}
        if local:
            command, place = "", f"All your votes are in {votes_file(home).resolve()}"
            try:
                command, mind = training(home, named, self._learner(keys))
                place = f"{mind} {place}".strip()
            except UserError as error:
                place = str(error)
            shown[self.command] = gr.Textbox(value=command, visible=bool(command))
            shown[self.place] = line(place if votes_file(home).is_file() else "")
        return shown

    def _learner(self, keys: object) -> Entry | None:
        """The first player that an adapter can be trained on; DPO takes none that has one."""
        for key in keys if isinstance(keys, list) else []:
            entry = self.shell.catalogue.find(key)
            if isinstance(entry.model, Model) and not entry.model.adapter and entry.in_process:
                return entry
        return None

    def prepared(
        self, keys: object, source: object, own: object, how: Sampling, home: Path
    ) -> tuple[Asked, Entry, Entry]:
        """The question, and who answers it as (left, right). Blocks.

        Raises:
            UserError: what the browser asks for cannot be played.
        """
        chosen, rows = players(self.shell.catalogue, keys), kept(home)
        if isinstance(own, str) and len(own) > MAX_TEXT:
            raise UserError(f"The question has {len(own):,} characters; {MAX_TEXT:,} can be asked.")
        question = typed(own) if source == OWN else drawn(source, rows)
        sides = draw_sides(playable(chosen, question, how), rows)
        by_key = {entry.key: entry for entry in chosen}
        return question, by_key[sides[0]], by_key[sides[1]]

    async def play(
        self, question: Asked, left: Entry, right: Entry, match: Match, how: Sampling
    ) -> AsyncGenerator[Updates, None]:
        """A round from its start to where it can be voted on."""
        async with aclosing(match.play(self.shell.lender, question, left, right, how)) as states:
            async for now in states:
                if isinstance(now, Round):
                    yield {
                        self.answers: view.answers(now.left.turn.answer, now.right.turn.answer),
                        self.round: now.id,
                        **self.told("Both answers are there. Which is better?"),
                        **self.buttons(voting=True),
                    }
                else:
                    yield {self.line: line(f"Both models are answering: {now:.0f} s. Both texts come together.")}


def add_arena(shell: Shell) -> None:
    """Put the pane's components into the Blocks that are being built, and connect them."""
    pane = _Pane(shell)
    _connect_rounds(pane)
    _connect_rest(pane)


def _connect_rounds(pane: _Pane) -> None:
    """The round, its end and the votes."""
    import gradio as gr

    shell = pane.shell

    async def begin(
        keys: Any, source: Any, own: Any, temperature: Any, longest: Any, match: Match, request: gr.Request
    ) -> AsyncIterator[Updates]:
        home = shell.home(request)
        try:
            match.check_free()
            how = settings(temperature, longest)
            question, left, right = await asyncio.to_thread(pane.prepared, keys, source, own, how, home)
        except Exception as error:  # a round that is open stays open
            yield pane.told(_problem(error), problem=True)
            return
        try:
            yield {
                pane.question: view.question(question),
                pane.answers: view.answers("…", "…"),
                pane.round: "",
                **pane.told("Both models are answering."),
                **pane.buttons(running=True),
            }
            async with aclosing(pane.play(question, left, right, match, how)) as states:
                async for updates in states:
                    yield updates
        except Exception as error:
            yield {pane.answers: "", **pane.told(_problem(error), problem=True), **pane.buttons()}

    def voting(word: str) -> Any:
        async def vote(id: Any, named: Any, keys: Any, match: Match, request: gr.Request) -> Updates:
            home = shell.home(request)
            try:
                row = match.vote(id, word, home)
            except Exception as error:
                return pane.told(_problem(error), problem=True)
            return {
                pane.answers: view.answers(row["left"], row["right"], row),
                pane.round: "",
                **pane.told(view.voted(row)),
                **pane.buttons(),
                **await asyncio.to_thread(pane.counted, home, bool(named), is_local(request), keys),
            }

        return vote

    pressed = [pane.start, pane.stop, *pane.votes.values()]
    pane.start.click(
        begin,
        [pane.players, pane.source, pane.own, pane.temperature, pane.longest, pane.state],
        [pane.question, pane.answers, pane.round, *pane.sentence, *pressed],
        **STREAMING,
    )
    pane.stop.click(Match.stop, [pane.state], None, **QUICK)
    for word, button in pane.votes.items():
        voted = button.click(
            voting(word),
            [pane.round, pane.named, pane.players, pane.state],
            [pane.answers, pane.round, *pane.sentence, *pressed, *pane.counts],
            **QUICK,
        )
        voted.then(None, None, None, js=_AGAIN)


def _connect_rest(pane: _Pane) -> None:
    """What is chosen, what the votes add up to, the files, and the page's opening."""
    import gradio as gr

    shell = pane.shell

    def count(named: Any, keys: Any, request: gr.Request) -> Updates:
        return pane.counted(shell.home(request), bool(named), is_local(request), keys)

    def choose(keys: Any, source: Any) -> Updates:
        shown = {pane.own: gr.Textbox(visible=source == OWN)}
        try:
            chosen = players(shell.catalogue, keys)
        except UserError as error:
            return {**shown, pane.line: line(error, problem=True)}
        task = source if source in offered() else ""
        address = query("arena", {"task": task, "players": ",".join(entry.key for entry in chosen)})
        return {**shown, pane.line: "", shell.address: address}

    def open_page(named: Any, request: gr.Request) -> Updates:
        chosen, source = opened(shell.catalogue, asked(request))
        labels = [(entry.label, entry.key) for entry in shell.catalogue.entries()]
        shown = {} if len(labels) > 1 else {pane.line: line(_ALONE)}
        return {
            pane.players: gr.CheckboxGroup(choices=labels, value=chosen),
            pane.source: source,
            pane.own: gr.Textbox(visible=source == OWN),
            **shown,
            **count(named, chosen, request),
        }

    def save(name: str) -> Any:
        def saved(named: Any, request: gr.Request) -> Updates:
            home = shell.home(request)
            try:
                if not votes_file(home).is_file():
                    raise UserError("There is no vote yet.")
                file, mind = votes_file(home), ""
                if name == "pairs.jsonl":
                    file, pairs = pairs_file(home, bool(named))
                    mind = seen_in_dev(pairs)
                done = f"{name} is saved. {mind}".strip()
                return {pane.file: download(name, file.read_bytes()), **pane.told(done)}
            except Exception as error:
                return {pane.file: "", **pane.told(_problem(error), problem=True)}

        return saved

    pane.named.change(count, [pane.named, pane.players], pane.counts, **QUICK)
    gr.on(
        [pane.players.input, pane.source.input],
        choose,
        [pane.players, pane.source],
        [pane.own, pane.line, shell.address],
        **QUICK,
    )
    for button, name in ((pane.save_votes, "votes.jsonl"), (pane.save_pairs, "pairs.jsonl")):
        saved = button.click(save(name), [pane.named], [pane.file, *pane.sentence], **QUICK)
        saved.then(None, [pane.file], None, js=DOWNLOAD)
    shell.blocks.load(
        open_page,
        [pane.named],
        [pane.players, pane.source, pane.own, pane.line, *pane.counts],
        **shell.loading,
    )
