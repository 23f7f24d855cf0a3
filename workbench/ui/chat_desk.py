"""What a person does to a conversation beside asking: edit, move among versions, name, delete, save as a file."""

import base64
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from workbench.conversation import Turn
from workbench.errors import UserError
from workbench.history import Chat, History, Node, new_id
from workbench.talk import Talk
from workbench.ui.chat_export import jsonl, markdown
from workbench.ui.chat_settings import question, text


@dataclass
class Session:
    """What one tab of a browser has: the conversation and branch that it shows, and the answer on its way.

    Attributes:
        talk: hears the answer.
        chat, leaf: ids of the conversation and of the branch's last message; empty where nothing is shown.
        asking: whether an answer is on its way, or a question on its way to the model.
        stopped: whether it is to end.
        halt: set then, where work with the engine goes before the answer.
    """

    talk: Talk = field(default_factory=Talk)
    chat: str = ""
    leaf: str = ""
    asking: bool = False
    stopped: bool = False
    halt: threading.Event | None = None

    @contextmanager
    def answering(self) -> Iterator[None]:
        """An answer is on its way as long as the block runs.

        Raises:
            UserError: one is already.
        """
        self.check_idle()
        self.asking, self.stopped = True, False
        try:
            yield
        finally:
            self.asking, self.halt = False, None

    def stop(self) -> None:
        """End the answer that is on its way, if one is."""
        self.stopped = True
        if self.halt is not None:
            self.halt.set()
        self.talk.stop()

    def begin_anew(self) -> None:
        """Show no conversation; an answer that is on its way ends with what came, in its own conversation."""
        self.stop()
        self.chat = self.leaf = ""

    def opened(self, chat: Chat) -> None:
        """Show a conversation as it was left. The one whose answer is on its way is shown already."""
        if chat.id == self.chat and self.asking:
            return
        if chat.id != self.chat:
            self.begin_anew()
        self.chat, self.leaf = chat.id, chat.leaf

    def check_idle(self) -> None:
        """Refuse what would change the branch under an answer that is on its way.

        Raises:
            UserError: one is.
        """
        if self.asking:
            raise UserError("An answer is on its way. Stop it, or wait.")


def asked(session: Session, history: History, words: object) -> str:
    """Put a new question at the end of the branch, or begin a conversation with it; the question's id.

    Raises:
        UserError: it is no question, or the conversation is gone.
    """
    words = question(words)
    parent = history.read(session.chat).last_answer(session.leaf) if session.chat else ""
    return _put(session, history, parent, words)


def asked_instead(session: Session, history: History, id: object, words: object) -> str:
    """Put a question beside the one that it is to stand for; its id.

    Raises:
        UserError: as `asked`, or there is no such question.
    """
    parent = history.read(session.chat).message(id, "user").parent
    return _put(session, history, parent, question(words))


def asked_again(session: Session, history: History, id: object) -> str:
    """The question whose answer is to be drawn again, given its own id or its answer's.

    Raises:
        UserError: there is no such message.
    """
    node = history.read(session.chat).message(id)
    session.leaf = node.id if node.role == "user" else node.parent
    return session.leaf


def act(session: Session, history: History, data: dict[str, Any]) -> None:
    """Do what a button of the pane says that needs no model.

    Args:
        data: the button's name in `act`, and whichever of `id` and `text` it needs; a browser sent them.

    Raises:
        UserError: it cannot be done.
    """
    name, id = data.get("act"), data.get("id")
    if name == "open":
        session.opened(history.read(id))
    elif name == "delete":
        history.delete(session.chat)
        session.begin_anew()
    elif name == "rename":
        history.rename(session.chat, text("The name", data.get("text")))
    elif name == "answer":
        session.check_idle()
        _answered_instead(session, history, id, text("The answer", data.get("text")))
    elif name in ("earlier", "later"):
        session.check_idle()
        session.leaf = history.read(session.chat).moved(id, -1 if name == "earlier" else 1)
        history.add(session.chat, [], session.leaf)
    else:
        raise UserError("The page in this browser is older than its server. Reload it.")


def download(chat: Chat, leaf: str, kind: object) -> str:
    """A branch as a file, for `shell.DOWNLOAD`: its name, its type, its bytes in base64.

    Raises:
        UserError: there is nothing to save.
    """
    if kind == "markdown":
        ending, type, data = "md", "text/markdown", markdown(chat, leaf)
    else:
        ending, type, data = "jsonl", "application/jsonl", jsonl(chat, leaf)
    stem = re.sub(r"[^\w-]+", "-", chat.name, flags=re.ASCII).strip("-") or "conversation"
    # Its id tells a second file of the same name apart from the first, also for the page's own sake.
    return json.dumps(
        {"name": f"{stem}.{ending}", "type": type, "data": base64.b64encode(data).decode("ascii"), "id": new_id()}
    )


def sentence(turn: Turn) -> str:
    """What a screen reader says when an answer has ended."""
    if turn.end == "error":
        return "The answer failed."
    tokens = f", {turn.completion_tokens:,} tokens" if turn.completion_tokens else ""
    return f"Answer {'stopped' if turn.end == 'stopped' else 'finished'}{tokens}."


def _put(session: Session, history: History, parent: str, words: str) -> str:
    if not session.chat:
        session.chat = history.begin(words).id
    node = Node(new_id(), parent, "user", words)
    history.add(session.chat, [node], node.id)
    session.leaf = node.id
    return node.id


def _answered_instead(session: Session, history: History, id: object, words: str) -> None:
    if not words:
        raise UserError("An answer has at least one character.")
    old = history.read(session.chat).message(id, "assistant")
    node = Node(new_id(), old.parent, "assistant", words, edited=True, system_prompt=old.system_prompt)
    history.add(session.chat, [node], node.id)
    session.leaf = node.id
