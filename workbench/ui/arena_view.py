"""The arena's HTML: two answers side by side, who gave them once that is told, and what the votes add up to."""

import math
from collections.abc import Mapping
from typing import Any

from workbench.arena.asked import Asked
from workbench.arena.kept import Standing, Standings
from workbench.types import Interval
from workbench.ui.shell import html, line

WORDS = {"left": "Left is better", "right": "Right is better", "tie": "Tie", "both bad": "Both are bad"}
"""The votes, as their buttons say them."""


def question(asked: Asked | None) -> str:
    """The question, and how the task's prompt asks it where that is more than the question."""
    if asked is None:
        return "<p>Two answers will stand here, without names. Start a round.</p>"
    text = asked.example.input
    turns = asked.turns()
    asked_as = ""
    if [turn.content for turn in turns] != [text]:
        told = "".join(f"<p><b>{html(turn.role)}</b></p><p class=exact>{html(turn.content)}</p>" for turn in turns)
        asked_as = f"<details><summary>As the task asks it</summary>{told}</details>"
    return f"<h3>Question</h3><p class=exact>{html(text)}</p>{asked_as}"


def answers(left: str, right: str, row: Mapping[str, Any] | None = None) -> str:
    """Both answers in the same frame; with a vote's row also who gave them, and what was voted."""
    sides = (
        f'<section class="arena-side{" arena-best" if row and row["vote"] == side else ""}"'
        f' aria-label="{side.title()} answer"><h3>{side.title()}</h3>{_named(side, row)}'
        f"<p class=exact>{html(text)}</p></section>"
        for side, text in (("left", left), ("right", right))
    )
    return f'<div class="arena-sides">{"".join(sides)}</div>'


def _named(side: str, row: Mapping[str, Any] | None) -> str:
    if row is None:
        return ""
    told = row[f"{side}_system"]
    voted = {side: "voted better", "tie": "tie", "both bad": "voted bad"}.get(row["vote"], "")
    end = " · cut off at the longest answer" if row[f"{side}_end"] == "length" else ""
    return (
        f"<p class=arena-name><b>{html(told['label'])}</b> <code>{html(told['hash'])}</code>"
        f"{f' · {voted}' if voted else ''}{end}</p>"
    )


def voted(row: Mapping[str, Any]) -> str:
    """A vote in a sentence, with the names."""
    left, right = (row[f"{side}_system"]["label"] for side in ("left", "right"))
    flag = ""
    if row["names_itself"]:
        flag = " An answer named its model, so the vote is left out of the standings unless you count such votes."
    return f"Vote kept: {WORDS[row['vote']].lower()}. Left was {left}, right was {right}.{flag}"


def standings(told: Standings) -> str:
    """The table of all models, and how votes fell to the left side."""
    head = "<h3>Standings</h3>"
    if not told.rows:
        left_out = f" {told.left_out} left out: an answer named its model." if told.left_out else ""
        return f"{head}<p>No vote is counted yet.{left_out}</p>"
    columns = ("Strength", "Win rate", "Votes", "Won", "Lost", "Tie", "Both bad")
    heads = "".join(f'<th scope="col" class="number">{column}</th>' for column in columns)
    rows = "".join(_row(one) for one in told.rows)
    untold = any(one.strength is None for one in told.rows)
    open_bound = any(one.strength and not math.isfinite(one.strength.high - one.strength.low) for one in told.rows)
    notes = [
        "Win rate: wins among the votes for a side; ties and both bad left out.",
        "Strength: Bradley–Terry on the Elo scale, mean 1000, a tie as half a win each, both bad left out. "
        "400 points are odds of ten to one.",
        "Intervals are 95 % and over questions, for votes on one question are not independent: Wilson's for rates "
        "where each question has one vote or all say the same, else the bootstrap that draws whole questions.",
        "A run's System is played as far as one answer shows it. Its prompt is used for questions of a task of "
        "the same purpose, never for typed ones. It answers once: with its own temperature where it draws samples "
        "(without the vote or the ranking over them), else greedily (without its search or scoring).",
        "A row is a model or a run, with all its votes. With another prompt, temperature or longest answer it is "
        "another System; a row that pools several says how many.",
    ]
    if open_bound:
        notes.append("∞: the votes give no bound on that side; they are too few, or all questions say the same.")
    counted = f"{_votes(told.votes)} counted"
    if told.left_out:
        counted += f", {told.left_out} left out because an answer named its model"
    if told.equal:
        counted += f", {told.equal} of them for a side of two equal texts and so in no rate or strength"
    side = "No vote for a side yet."
    if told.decided:
        side = f"The left answer won {_share(told.left)} of {told.decided}; 50 % is no position bias."
    why = ""
    if untold:
        why = (
            "<p>A strength cannot be told while a model has won all its votes against the others, or lost all, "
            "or has not met them: the further apart the strengths, the likelier such votes, so that no finite "
            "strength fits best. It is told once a chain of wins or ties leads from every model to every other."
            "</p>"
        )
    return (
        f"{head}<p>{counted}. {side}</p>"
        '<div class="wide" tabindex="0" role="region" aria-label="Standings"><table>'
        f'<caption>By strength</caption><thead><tr><th scope="col">Model</th>{heads}</tr></thead>'
        f"<tbody>{rows}</tbody></table></div>{why}"
        f"<details><summary>How these are computed</summary>{''.join(map(line, notes))}</details>"
    )


def _row(one: Standing) -> str:
    rate = _share(one.rate) if one.wins + one.losses else "–"
    strength = _elo(one.strength) if one.strength else "cannot be told yet"
    cells = (strength, rate, one.votes, one.wins, one.losses, one.ties, one.both_bad)
    told = "".join(f'<td class="number">{cell}</td>' for cell in cells)
    pooled = f" ({one.systems} Systems)" if one.systems > 1 else ""
    return f'<tr><th scope="row">{html(one.label)}{pooled}</th>{told}</tr>'


def _votes(count: int) -> str:
    return f"{count:,} vote{'' if count == 1 else 's'}"


def _share(share: Interval) -> str:
    return f"{100 * share.value:.0f} % ({100 * share.low:.0f} – {100 * share.high:.0f})"


def _elo(strength: Interval) -> str:
    return f"{strength.value:.0f} ({_bound(strength.low)} to {_bound(strength.high)})"


def _bound(value: float) -> str:
    return f"{value:.0f}" if math.isfinite(value) else ("∞" if value > 0 else "−∞")
