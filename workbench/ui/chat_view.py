"""The chat pane's HTML: messages with what can be done to them, the list of conversations, the styles, the script.

A button that does something has `data-act`; the script tells the server its name, and the id of the message or
conversation that it stands in. All texts are escaped, with what cannot be seen spelled out.
"""

import json
from collections.abc import Sequence
from importlib.resources import files

from workbench.history import Chat, Listed, Node
from workbench.inert import visible
from workbench.ui.shell import html
from workbench.ui.token_words import counted, speed

CSS = files("workbench.ui").joinpath("chat.css").read_text(encoding="utf-8")

ACTS = files("workbench.ui").joinpath("chat.js").read_text(encoding="utf-8")
"""`js_on_load` of each of the pane's HTML components."""

EMPTY = """<div class="chat-empty"><p>Ask something below. Enter sends, Shift+Enter begins a new line.</p>
<p>The model is loaded when you send the first question; conversations are kept on the server.</p></div>"""

FOLD = '<button type="button" aria-expanded="false">Conversations</button>'
"""Shows and hides the list of conversations on a narrow screen."""

FOLDS = """element.addEventListener('click', (e) => {
  const list = element.closest('#chat-conversations');
  list.dataset.open = list.dataset.open !== 'true';
  e.target.closest('button').setAttribute('aria-expanded', list.dataset.open);
});"""
"""`js_on_load` of `FOLD`. Gradio's own accordion would have to be open for the wide screen's sake."""

FOCUS = "() => { document.querySelector('#chat-question textarea')?.focus(); }"
"""Puts the keyboard back where the next question is typed."""


def head(chat: Chat | None, leaf: str) -> str:
    """The conversation's name, and what can be done with the whole of it."""
    if chat is None:
        return "<h2>New conversation</h2>"
    answered = any(node.role == "assistant" for node in chat.branch(leaf))
    save = (
        '<button type="button" data-act="markdown">Save as Markdown</button>'
        '<button type="button" data-act="jsonl">Save as JSONL</button>'
    )
    return (
        f'<h2 class="chat-name"{_exact(chat.name)}>{html(chat.name)}</h2><div class="chat-acts">'
        '<button type="button" data-act="rename">Rename</button>'
        f"{save if answered else ''}"
        '<button type="button" data-act="delete" data-sure="Delete for good?">Delete</button></div>'
    )


def messages(chat: Chat | None, leaf: str, asking: bool) -> str:
    """A branch from its beginning; `asking` while the answer to its last question is on its way."""
    branch = [] if chat is None else chat.branch(leaf)
    if chat is None or not branch:
        return EMPTY
    return "".join(_message(chat, node, node.id == branch[-1].id and not asking) for node in branch)


def coming(text: str) -> str:
    """The answer that is on its way."""
    waiting = "" if text else '<span class="chat-dots" aria-hidden="true">…</span>'
    words = f'<div class="chat-text">{html(text)}{waiting}</div>'
    return f'<article class="chat-said assistant"><h3>Answer</h3>{words}</article>'


def conversations(found: Sequence[Listed], opened: str, search: str) -> str:
    """The list of conversations, with the opened one marked."""
    if not found:
        return f"<p>{'No conversation has these words.' if search.strip() else 'None yet.'}</p>"
    return "<ul>" + "".join(_listed(one, one.id == opened) for one in found) + "</ul>"


def _listed(one: Listed, opened: bool) -> str:
    mark = ' aria-current="true"' if opened else ""
    return (
        f'<li><button type="button" data-act="open" data-id="{html(one.id)}"{mark}>{html(one.name)}</button></li>'
    )


def _message(chat: Chat, node: Node, unanswered: bool) -> str:
    asked = node.role == "user"
    acts = [_versions(chat, node)]
    if asked:
        acts.append(_button("edit", "Edit", "Edit this question and ask it again"))
        if unanswered:
            acts.append(_button("again", "Try again", "Ask this question again"))
    else:
        acts.append(_button("again", "Regenerate", "Draw another answer to the same question"))
        acts.append(_button("edit", "Edit", "Edit this answer and go on from it"))
        acts.append(_button("copy", "Copy", "Copy this answer"))
    return (
        f'<article class="chat-said {node.role}" data-id="{html(node.id)}">'
        f"<h3>{'Question' if asked else 'Answer'}</h3>"
        f'<div class="chat-text"{_exact(node.text)}>{html(node.text)}</div>'
        f"{'' if asked else _facts(node)}"
        f'<div class="chat-acts">{"".join(acts)}</div></article>'
    )


def _exact(text: str) -> str:
    """An attribute with the text for the script, as JSON, where what is shown spells something out."""
    return "" if visible(text) == text else f' data-exact="{html(json.dumps(text))}"'


def _button(act: str, label: str, title: str) -> str:
    return f'<button type="button" data-act="{act}" title="{title}">{label}</button>'


def _versions(chat: Chat, node: Node) -> str:
    """‹ 2/3 ›, where a message has versions."""
    found = [other.id for other in chat.siblings(node.id)]
    if len(found) < 2:
        return ""
    place = found.index(node.id)
    return (
        f'<span class="chat-versions">{_step("earlier", "‹", not place)} '
        f'<span role="img" aria-label="Version {place + 1} of {len(found)}">{place + 1}/{len(found)}</span> '
        f"{_step('later', '›', place + 1 == len(found))}</span>"
    )


def _step(act: str, sign: str, end: bool) -> str:
    label = f'aria-label="{act.capitalize()} version"'
    return f'<button type="button" data-act="{act}" {label}{" disabled" if end else ""}>{sign}</button>'


def _facts(node: Node) -> str:
    """What is known of an answer: who gave it, how it ended, what it cost."""
    if node.edited:
        return '<p class="chat-facts">Edited by hand</p>'
    facts = [html(node.model)]
    if node.system:
        facts.append(f'System <code title="Content hash of the System that answered">{html(node.system)}</code>')
    if node.completion_tokens:
        read = f"{node.prompt_tokens:,} + " if node.prompt_tokens else ""  # of a stopped answer it is not told
        facts.append(read + counted(node.completion_tokens))
        facts += filter(None, [speed(node.completion_tokens, node.seconds - node.waited)])
    if node.end == "stopped":
        facts.append(f"<strong>stopped</strong> after {node.seconds:.1f} s")
    elif node.end == "length":
        facts.append("<strong>cut off</strong>")
    return f'<p class="chat-facts">{" · ".join(facts)}</p>'
