"""Conversations that a page keeps for a visitor: trees of messages, one JSON file each, named and searched.

A message is never changed: an edit or another sample is its sibling. A branch is the way from the root to one.
"""

import re
import secrets
import threading
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from workbench.conversation import Conversation, End, Turn
from workbench.errors import UserError
from workbench.files import json_bytes, read_json, write_atomic

NAME_LENGTH = 80
"""Characters of a conversation's name."""

_ID = re.compile(r"[0-9a-f]{16}")
_LOCK = threading.RLock()  # two tabs of a browser write the same file


def new_id() -> str:
    """An id for a message or a conversation: 16 hexadecimal digits that nobody can guess."""
    return secrets.token_hex(8)


@dataclass(frozen=True)
class Node:
    """A message of a conversation's tree.

    Attributes:
        id: see `new_id`.
        parent: id of the message that it follows; empty at the beginning.
        role: a question is the user's, an answer the assistant's.
        text: exactly as typed or generated.
        end: why an answer ended; `stop` for a question.
        edited: whether a person wrote this answer.
        model: who answered, in words.
        system: content hash of the System that answered.
        system_prompt: what the model was told first.
        request, index: what an answer was drawn for, and which sample of it this is.
        prompt_tokens, completion_tokens: as a `Turn` has them.
        seconds: from the question to the answer's end.
        waited: of them, those before anything came: for the model to load, for other answers' turn, to read.
    """

    id: str
    parent: str
    role: Literal["user", "assistant"]
    text: str
    end: End = "stop"
    edited: bool = False
    model: str = ""
    system: str = ""
    system_prompt: str | None = None
    request: str = ""
    index: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    seconds: float = 0.0
    waited: float = 0.0


@dataclass(frozen=True)
class Chat:
    """A conversation with all of its branches.

    Attributes:
        id: see `new_id`.
        name: what a person finds it by.
        nodes: messages by id, in the order in which they came.
        leaf: the last message of the branch that was last looked at; empty where nothing was said.
        settings: how the last question was asked, as JSON.
    """

    id: str
    name: str
    nodes: Mapping[str, Node] = field(default_factory=dict)
    leaf: str = ""
    settings: Mapping[str, Any] = field(default_factory=dict)

    def branch(self, leaf: str | None = None) -> list[Node]:
        """The messages from the beginning to `leaf`, by default to the chat's own."""
        found: list[Node] = []
        at = self.leaf if leaf is None else leaf
        while at in self.nodes and len(found) <= len(self.nodes):
            found.append(self.nodes[at])
            at = self.nodes[at].parent
        return found[::-1]

    def siblings(self, id: str) -> list[Node]:
        """The versions of a message, itself among them, in the order in which they came."""
        one = self.nodes[id]
        return [node for node in self.nodes.values() if (node.parent, node.role) == (one.parent, one.role)]

    def newest_below(self, id: str) -> str:
        """The end of the branch that goes on from a message by each one's newest follower."""
        for _ in self.nodes:
            followers = [node.id for node in self.nodes.values() if node.parent == id]
            if not followers:
                break
            id = followers[-1]
        return id

    def moved(self, id: object, step: int) -> str:
        """The end of the branch on which an earlier (-1) or later (1) version of a message is.

        Raises:
            UserError: there is no such message or version.
        """
        one = self.message(id)
        found = self.siblings(one.id)
        place = found.index(one) + step
        if not 0 <= place < len(found):
            raise UserError("There is no such version of this message.")
        return self.newest_below(found[place].id)

    def message(self, id: object, role: str | None = None) -> Node:
        """A message by its id, which anyone may have sent.

        Raises:
            UserError: the conversation has none with this id, or it is not of this role.
        """
        node = self.nodes.get(id) if isinstance(id, str) else None
        if node is None or (role is not None and node.role != role):
            raise UserError("This message is not in the conversation. Open the conversation again.")
        return node

    def last_answer(self, leaf: str) -> str:
        """Where a new question goes: the last answer up to `leaf`; empty at the beginning.

        A question that got no answer is passed over: models are asked behind answers only.
        """
        return next((node.id for node in reversed(self.branch(leaf)) if node.role == "assistant"), "")

    def conversation(self, leaf: str | None = None) -> Conversation:
        """A branch as questions with their answers, and the system prompt of its last answer."""
        turns, question = [], ""
        system_prompt = None
        for node in self.branch(leaf):
            if node.role == "user":
                question = node.text
            else:
                counts = (node.prompt_tokens, node.completion_tokens, node.seconds)
                turns.append(Turn(question, node.text, node.end, *counts))
                system_prompt = node.system_prompt
        return Conversation(system_prompt, turns)

    def next_index(self, request: str) -> int:
        """Which sample of a request comes next: the same question in the same place gets another answer."""
        drawn = [node.index for node in self.nodes.values() if node.request == request]
        return max(drawn, default=-1) + 1


@dataclass(frozen=True)
class Listed:
    """A conversation in a list: its id, its name, and when it was last written, in seconds since 1970."""

    id: str
    name: str
    changed: float


class History:
    """The conversations in a folder.

    Args:
        folder: one visitor's; it is made by the first conversation.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def listed(self, search: str = "", most: int = 50) -> list[Listed]:
        """The conversations that hold every word of `search` in their name or texts, the latest first.

        A file that cannot be read is left out, so that one damaged conversation hides no other.
        """
        words = search.casefold().split()
        times: list[tuple[float, str]] = []
        for path in self.folder.glob("*.json"):
            with suppress(FileNotFoundError):  # another tab has just deleted it
                times.append((path.stat().st_mtime, path.stem))
        found: list[Listed] = []
        for changed, id in sorted(times, reverse=True):
            if len(found) == most:
                break
            try:
                chat = self.read(id)
            except UserError:
                continue
            if words:
                text = "\n".join([chat.name, *(node.text for node in chat.nodes.values())]).casefold()
                if not all(word in text for word in words):
                    continue
            found.append(Listed(chat.id, chat.name, changed))
        return found

    def read(self, id: object) -> Chat:
        """A conversation by its id, which anyone may have sent.

        Raises:
            UserError: the folder has none with this id, or its file is damaged.
        """
        path = self._path(id)
        try:
            kept = read_json(path)
            nodes = {row["id"]: Node(**row) for row in kept["nodes"]}
            return Chat(path.stem, kept["name"], nodes, kept["leaf"], kept["settings"])
        except (UserError, TypeError, KeyError, AttributeError) as error:  # where it lies is nobody's business
            raise UserError("This conversation's file is damaged or was just deleted.") from error

    def begin(self, question: str) -> Chat:
        """A new conversation without a message, named after its first question."""
        chat = Chat(new_id(), first_words(question))
        self._write(chat)
        return chat

    def add(
        self, id: str, nodes: Iterable[Node], leaf: str | None = None, settings: Mapping[str, Any] | None = None
    ) -> Chat:
        """Add messages to what the file holds by now, and tell the whole.

        Args:
            id: the conversation's.
            nodes: new messages; one whose id is there already is left as it is.
            leaf: the message that is looked at from now on.
            settings: how a question was asked.

        Raises:
            UserError: the conversation was deleted meanwhile, or cannot be written.
        """
        with _LOCK:
            chat = self.read(id)
            merged = {**chat.nodes}
            for node in nodes:
                merged.setdefault(node.id, node)
            leaf = chat.leaf if leaf is None else leaf
            chat = replace(chat, nodes=merged, leaf=leaf, settings=chat.settings if settings is None else settings)
            self._write(chat)
        return chat

    def rename(self, id: str, name: str) -> Chat:
        """Give a conversation another name.

        Raises:
            UserError: the name is empty or too long, or the conversation is not there.
        """
        name = " ".join(name.split())
        if not name or len(name) > NAME_LENGTH:
            raise UserError(f"A name has 1 to {NAME_LENGTH} characters.")
        with _LOCK:
            chat = replace(self.read(id), name=name)
            self._write(chat)
        return chat

    def delete(self, id: str) -> None:
        """Delete a conversation with all of its branches.

        Raises:
            UserError: it is not there.
        """
        with _LOCK:
            self._path(id).unlink(missing_ok=True)  # another process may have just deleted it

    def _path(self, id: object) -> Path:
        path = self.folder / f"{id}.json"
        if not isinstance(id, str) or not _ID.fullmatch(id) or not path.is_file():
            raise UserError("This conversation is not among yours: it was deleted, or belongs to somebody else.")
        return path

    def _write(self, chat: Chat) -> None:
        kept = {
            "name": chat.name,
            "leaf": chat.leaf,
            "settings": chat.settings,
            "nodes": [asdict(node) for node in chat.nodes.values()],
        }
        write_atomic(self.folder / f"{chat.id}.json", json_bytes(kept) + b"\n")


def first_words(question: str) -> str:
    """A name for a conversation: its first question's first words."""
    text = " ".join(question[:1000].split())
    if len(text) <= NAME_LENGTH // 2:
        return text
    return text[: NAME_LENGTH // 2].rpartition(" ")[0] or text[: NAME_LENGTH // 2]
