"""The compare pane's HTML: answers, their differences and tokens, votes and samples. Every text is escaped."""

from collections.abc import Sequence

from workbench.comparing.board import Answered, Pane
from workbench.comparing.drawing import Progress
from workbench.comparing.tokens import Token
from workbench.comparing.votes import SILENT, Kind, Tally, Verdict
from workbench.comparing.words import MOST_WORDS, differences
from workbench.conversation import Turn
from workbench.decodes import Majority, Sample
from workbench.types import System
from workbench.ui.shell import html, line
from workbench.ui.token_words import counted, speed

MARKS: dict[Kind, str] = {
    "answer": "",
    "correct": "✓ right",
    "wrong": "✗ wrong",
    "unparsable": "? no answer found",
    "truncated": "… cut off",
    "error": "! failed",
    "stopped": "■ stopped",
}
"""How a sample's end is told, in words and with a mark."""

STEPS = (0.05, 0.25, 0.5, 0.75)
"""Probabilities between which a token's colour changes."""

LONG_WAIT = 0.5  # seconds before the first piece that are told apart

LEGEND = (
    "<p class=legend>Probability: <span class='p p0'>below 5 %</span> <span class='p p1'>to 25 %</span> "
    "<span class='p p2'>to 50 %</span> <span class='p p3'>to 75 %</span> <span class='p p4'>above</span>. "
    "Choose a token, by mouse or with the arrow keys and Enter, to see what was likely in its place.</p>"
)


def coming(progress: Progress, samples: int) -> str:
    """How far an answer, or several, have come."""
    tokens = f"{counted(progress.tokens)} so far" if progress.tokens else ""
    if samples == 1:
        return line(f"Answering… {tokens}".strip())
    return line(", ".join(filter(None, [f"{progress.ended} of {samples} samples have ended", tokens])) + ".")


def text_of(text: str) -> str:
    """An answer as it is."""
    return f"<div class=answer>{html(text)}</div>" if text else ""


def ended(answered: Answered) -> str:
    """How it ended, what it took, and what the task says to it."""
    turn = answered.turns[answered.which]
    told = []
    if len(answered.turns) == 1:
        told.append(_mark(answered.verdicts[0]))
    if turn.end == "error" and not answered.vote.ended:
        return line(f"Failed: {turn.error}", problem=True) + _took(answered, told)
    return _took(answered, told)


def differing(first: str, text: str) -> str:
    """An answer with what it lacks and what it has beside the first pane's."""
    found = differences(first, text)
    if found is None:
        return line(f"Answers of more than {MOST_WORDS:,} words are not compared.") + text_of(text)
    parts = []
    for part in found:
        if part.same:
            parts.append(html(part.after))
            continue
        if part.before:
            parts.append(f"<del>{html(part.before)}</del>")
        if part.after:
            parts.append(f"<ins>{html(part.after)}</ins>")
    if all(part.same for part in found):
        return line("The same words as in pane A.") + text_of(text)
    return f"<div class=answer>{''.join(parts)}</div>"


def tokens_of(tokens: Sequence[Token]) -> str:
    """An answer's tokens as buttons, of which the arrow keys reach each; their colour says their probability."""
    parts = []
    for at, token in enumerate(tokens):
        step = sum(token.probability >= bound for bound in STEPS)
        named = f"{spelled(token.text)}, {percent(token.probability)}"
        classes = f"p p{step}{' newline' if token.text.startswith(chr(10)) else ''}"
        parts.append(
            f"<span class='{classes}' role=button tabindex={0 if at == 0 else -1} data-token={at} "
            f'title="{html(percent(token.probability))}" aria-label="{html(named)}">'
            f"{html(token.text) or '·'}</span>"
        )
    label = "Tokens of the answer, coloured by probability"
    return f'{LEGEND}<div class="answer tokens" role=group aria-label="{label}">{"".join(parts)}</div>'


def alternatives(pane: Pane) -> str:
    """What was likely in the chosen token's place, each as a button that goes on from there."""
    if pane.token is None or not pane.tokens:
        return ""
    token = pane.tokens[pane.token]
    rows = []
    for choice, other in enumerate(token.alternatives):
        share = percent(other.probability)
        if other.text:
            own = " (as it is)" if other.text == token.text else ""
            rows.append(
                f"<li><button type=button data-choice={choice}>Continue with <code>{html(spelled(other.text))}"
                f"</code></button> {share}{own}</li>"
            )
        else:
            rows.append(f"<li>A control token, as the answer's end: {share}</li>")
    head = f"Token {pane.token + 1}, <code>{html(spelled(token.text))}</code>: {percent(token.probability)}."
    return f"<div class=beside><p>{head} In its place:</p><ol>{''.join(rows)}</ol></div>"


def votes(answered: Answered) -> str:
    """The vote as bars with counts and shares, what did not vote, and every sample with its text."""
    if len(answered.turns) == 1:
        return ""
    return f"{_bars(answered.vote, answered.asked.task is not None)}{_samples(answered)}"


def system_line(system: System, name: str, otherwise: str = "") -> str:
    """A System by its content hash, what it is in a few words, and how the run that it is of decodes otherwise."""
    decode = system.decode
    how = "greedy"
    if isinstance(decode, Sample):
        votes = f"{decode.n} samples that vote" if isinstance(decode, Majority) else "one sample"
        how = f"{votes}, temperature {decode.temperature:g}"
    prompt = html(system.prompt.name)
    told = f"<p class=hash>System <code>{html(name)}</code>: prompt <code>{prompt}</code>, {how}</p>"
    return told + line(f"The run itself decodes otherwise: {otherwise}.") if otherwise else told


def said(name: str, answered: Answered) -> str:
    """What is read out when a pane has ended."""
    if not answered.vote.ended:
        return f"Pane {name}: stopped." if answered.stopped else f"Pane {name} failed."
    what = "Answer" if len(answered.turns) == 1 else f"{len(answered.turns)} samples"
    tokens = f", {answered.tokens:,} tokens" if answered.tokens else ""
    return f"Pane {name}: {what} {'stopped' if answered.stopped else 'finished'}{tokens}."


def spelled(text: str) -> str:
    """A token's text with its blanks seen."""
    return text.replace("\n", "↵").replace("\t", "⇥").replace(" ", "␣") or "(part of a character)"


def percent(share: float) -> str:
    """A share as a person reads it."""
    return f"{100 * share:.1f} %"


def _mark(verdict: Verdict) -> str:
    mark = MARKS[verdict.kind]
    return f"{mark}: {verdict.answer}" if verdict.kind in ("correct", "wrong") else mark


def _took(answered: Answered, told: Sequence[str]) -> str:
    words = [word for word in told if word]
    spent = answered.seconds - answered.waited
    if answered.tokens:
        unknown = any(not turn.completion_tokens and turn.answer for turn in answered.turns)
        least = "at least " if unknown else ""
        # What was waited for ended with the first token of each sample.
        first = sum(turn.completion_tokens > 0 for turn in answered.turns) if answered.waited else 0
        rate = speed(answered.tokens, spent, first)
        words.append(least + counted(answered.tokens) + (f" in {spent:.1f} s, {least}{rate}" if rate else ""))
    else:
        words.append(f"{spent:.1f} s")
    if answered.waited >= LONG_WAIT:
        words.append(f"the first came after {answered.waited:.1f} s")
    begun = " Its beginning was given to the model." if answered.begun else ""
    return line("; ".join(words) + "." + begun)


def _bars(vote: Tally, graded: bool) -> str:
    if not vote.bars:
        rows = "<tr><td colspan=3>No sample has an answer, so nobody won.</td></tr>"
    else:
        rows = "".join(
            f"<tr{' class=winner' if bar.answer == vote.winner else ''}><th scope=row>{html(_short(bar.answer))}"
            f"{'<span class=won> wins</span>' if bar.answer == vote.winner else ''}</th>"
            f"<td class=bar><svg width='100%' height=14 aria-hidden=true><rect class={bar.kind} height=14 "
            f"width='{100 * bar.share:.1f}%'/></svg></td>"
            f"<td>{bar.votes} of {vote.ended} ({percent(bar.share)}) {html(MARKS[bar.kind])}</td></tr>"
            for bar in vote.bars
        )
    silent = "; ".join(f"{count} {MARKS[kind].partition(' ')[2]}" for kind, count in vote.silent)
    apart = f"Without a vote: {silent}. " if silent else ""
    how = (
        "the task's own parser finds the answer"
        if graded
        else "equal texts, blanks and case aside, are one answer"
    )
    return (
        f"<table class=votes><caption>Votes of {vote.ended} samples that ended</caption>{rows}</table>"
        f"<p class=note>{html(apart)}Shares are of the samples that ended; {how}.</p>"
    )


def _samples(answered: Answered) -> str:
    winner = answered.vote.winner
    against = [i for i, v in enumerate(answered.verdicts) if v.kind not in SILENT and v.answer != winner]
    listed = "".join(
        _sample(i, turn, verdict, verdict.kind not in SILENT and verdict.answer == winner)
        for i, (turn, verdict) in enumerate(zip(answered.turns, answered.verdicts, strict=True))
    )
    return (
        f"<details class=samples><summary>All {len(answered.turns)} samples, {len(against)} of them "
        f"for another answer than the winner</summary><ol>{listed}</ol></details>"
    )


def _sample(number: int, turn: Turn, verdict: Verdict, won: bool) -> str:
    named = "with the winner" if won else "for another answer" if verdict.kind not in SILENT else "no vote"
    words = [named, MARKS[verdict.kind]]
    if verdict.answer is not None:
        words.append(f"answer: {_short(verdict.answer)}")
    if turn.completion_tokens:
        words.append(f"{turn.completion_tokens:,} tokens")
    if turn.error:
        words.append(turn.error)
    head = "; ".join(word for word in words if word)
    return f"<li value={number + 1}><p>{html(head)}</p>{text_of(turn.answer)}</li>"


def _short(text: str) -> str:
    return text if len(text) <= 120 else f"{text[:117]}…"
