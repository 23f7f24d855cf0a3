"""A branch of a conversation as a file: a row of JSONL that tuning recipes read, or Markdown."""

from workbench.conversation import Conversation
from workbench.errors import UserError
from workbench.files import json_bytes
from workbench.history import Chat, Node


def jsonl(chat: Chat, leaf: str) -> bytes:
    """A branch as one row that the tuning recipes read, each text exact.

    Raises:
        UserError: nothing was answered on it.
    """
    return json_bytes(_answered(chat, leaf).row()) + b"\n"


def markdown(chat: Chat, leaf: str) -> bytes:
    """A branch as Markdown in UTF-8; texts as they are, but half characters spelled as \\ud800.

    Raises:
        UserError: nothing was answered on it.
    """
    told = _answered(chat, leaf).system_prompt
    parts = [f"# {chat.name}"]
    if told is not None:
        parts += ["## System prompt", told]
    for node in chat.branch(leaf):
        parts += [f"## {'Question' if node.role == 'user' else _answer_heading(node)}", node.text]
    return ("\n\n".join(parts) + "\n").encode("utf-8", "backslashreplace")


def _answer_heading(node: Node) -> str:
    if node.edited:
        return "Answer (edited by hand)"
    system = f", System {node.system}" if node.system else ""
    stopped = {"stopped": ", stopped", "length": ", cut off"}.get(node.end, "")
    return f"Answer ({node.model}{system}{stopped})"


def _answered(chat: Chat, leaf: str) -> Conversation:
    found = chat.conversation(leaf)
    if not found.turns:
        raise UserError("There is nothing to export yet: no question of this branch has an answer.")
    return found
