"""From rows of data to training examples: conversations, prompts with completions, or plain text, as tokens.

What is learned of a row:

    chat                every assistant turn with the token that ends it (`messages`: role and content)
    prompt-completion   the completion and the end-of-turn token (`prompt`: text or messages; `completion`)
    text                all but the first token, and the end token (`text`)

A prompt with its completion is a user's turn and the assistant's where the model has a chat template, and plain
text where it has none. Whatever a row says is data: in it nothing is a control token.
"""

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from itertools import islice, pairwise
from typing import Any

from workbench.engines.encode import Encoder
from workbench.engines.packing import Tokens
from workbench.errors import UserError
from workbench.identity import file_hash
from workbench.tasks.rows import Row, bad_row, hub_hash, iterate_rows, load_hub, text_field, turns_field
from workbench.training.config import Data, Training
from workbench.types import Message, Request

FORMATS = {"chat": ("messages",), "prompt-completion": ("prompt", "completion"), "text": ("text",)}


@dataclass
class Counts:
    """What became of a data set's examples.

    Attributes:
        learned: examples that are learned from.
        too_long: examples that are left out for their length.
        truncated: examples that are learned from with their end cut off.
        tokens: tokens of what is learned from, as it is read.
        learned_tokens: those of them that are learned.
        longest: tokens of the longest example, before anything was left out or cut.
    """

    learned: int = 0
    too_long: int = 0
    truncated: int = 0
    tokens: int = 0
    learned_tokens: int = 0
    longest: int = 0

    def add(self, example: Tokens, kept: Tokens | None) -> None:
        """Count an example, of which `fitted` made `kept`."""
        self.longest = max(self.longest, len(example.ids))
        if kept is None:
            self.too_long += 1
            return
        self.learned += 1
        self.truncated += len(kept.ids) < len(example.ids)
        self.tokens += len(kept.ids)
        self.learned_tokens += len(kept.learned)

    def as_json(self) -> dict[str, int]:
        """The counts, as `data.json` has them."""
        counts = asdict(self)
        del counts["longest"]
        return counts

    def too_long_lines(self, training: Training) -> list[str]:
        """What to tell whoever trains; nothing where every example fits."""
        total, limit = self.learned + self.too_long, training.max_length
        behind = (
            training.data.too_long == "truncate"
        )  # what is cut is left out only where nothing is left to learn
        reason = f"nothing to learn in their first {limit}" if behind else f"more than {limit}"
        lines = [
            (self.truncated, f"of {total} examples with more than {limit} tokens cut off there."),
            (self.too_long, f"of {total} examples left out, with {reason} tokens."),
        ]
        return [f"{count} {what}" for count, what in lines if count]


def fitted(example: Tokens, training: Training) -> Tokens | None:
    """The example in at most `max_length` tokens; None where it, or nothing that it teaches, fits."""
    limit = training.max_length
    if len(example.ids) <= limit:
        return example
    learned = [place for place in example.learned if place < limit]
    if training.data.too_long == "drop" or not learned:
        return None
    return Tokens(example.ids[:limit], learned)


def nothing_fits(training: Training) -> UserError:
    """The error for data of which nothing is left."""
    return UserError(
        f"Every example is longer than {training.max_length} tokens; raise --max-length, as far as the model's "
        "context goes."
    )


def source_of(data: Data) -> str:
    """The data's name, as messages and `data.json` have it."""
    assert data.data is not None, "the practice split has no source of its own"
    parts = [data.data] if data.file else [data.data, data.data_subset, data.data_split]
    return ", ".join(part for part in parts if part)


def hash_of(data: Data) -> str:
    """A hash that another content changes: of a file's bytes, or of a Hub data set's revision and files.

    Raises:
        UserError: there is no such file or data set.
    """
    assert data.data is not None
    return file_hash(data.file) if data.file else hub_hash(data.data, data.data_subset)


def rows_of(data: Data, limit: int | None) -> Iterator[Row]:
    """The first rows of the data, all where there is no limit, in their order.

    Raises:
        UserError: the data cannot be read.
    """
    if data.file:
        return islice(iterate_rows(str(data.file)), limit)
    assert data.data is not None
    return islice(enumerate(load_hub(data.data, data.data_subset, data.data_split), start=1), limit)


def encode_row(encoder: Encoder, data: Data, number: int, row: dict[str, Any]) -> tuple[str, Tokens]:
    """(format, example) of a row.

    Raises:
        UserError: the row is not of the format that is asked for, or of none; data set, row and field are named.
    """
    source = source_of(data)
    form = _format(source, number, row, data.data_format)
    if form == "chat":
        ids, learned = _conversation(encoder, source, number, row)
    elif form == "prompt-completion":
        ids, learned = _completion(encoder, source, number, row)
    else:
        ids = [*encoder.encode_text(text_field(source, number, row, "text")), encoder.tokenizer.eos_token_id]
        learned = list(range(1, len(ids)))
    return form, Tokens(ids, learned)


def _format(source: str, number: int, row: dict[str, Any], wanted: str) -> str:
    """The format asked for, or the first that the row has all fields of. An empty field of a table is None."""
    if wanted != "auto":
        return wanted
    for form, fields in FORMATS.items():
        if all(row.get(field) is not None for field in fields):
            return form
    known = "; ".join(f"{form} has {' and '.join(map(repr, fields))}" for form, fields in FORMATS.items())
    has = ", ".join(map(repr, row)) or "none"
    raise bad_row(source, number, f"it is of no known format by its fields: it has {has}, and {known}")


def _conversation(encoder: Encoder, source: str, number: int, row: dict[str, Any]) -> tuple[list[int], list[int]]:
    messages = turns_field(source, number, row, "messages")
    roles = [message.role for message in messages]
    if "assistant" not in roles:
        raise bad_row(source, number, "the assistant says nothing, so there is nothing to learn", "messages")
    if roles[0] == "assistant" or ("assistant", "assistant") in pairwise(roles):
        raise bad_row(source, number, "an assistant's turn does not follow another's turn", "messages")
    _need_template(encoder, source, number, "messages")
    try:
        return encoder.encode_conversation(messages)
    except UserError as error:  # the model's template, with this conversation
        raise bad_row(source, number, str(error).removesuffix("."), "messages") from error


def _completion(encoder: Encoder, source: str, number: int, row: dict[str, Any]) -> tuple[list[int], list[int]]:
    if isinstance(row.get("prompt"), (list, tuple)):
        messages = turns_field(source, number, row, "prompt")
        if messages[-1].role == "assistant":
            raise bad_row(source, number, "its last turn is the assistant's; the completion is that", "prompt")
        _need_template(encoder, source, number, "prompt")
    else:
        messages = (Message("user", text_field(source, number, row, "prompt")),)
    style = "chat" if encoder.has_chat_template else "text"
    said = _said(source, number, row)
    asked, answer = encoder.encode_completion(Request(str(number), messages, style=style), said)
    ids = [*asked, *answer]
    return ids, list(range(len(asked), len(ids)))


def _said(source: str, number: int, row: dict[str, Any]) -> str:
    """The completion: text, or a list of one turn of the assistant."""
    if not isinstance(row.get("completion"), (list, tuple)):
        return text_field(source, number, row, "completion")
    turns = turns_field(source, number, row, "completion")
    if [turn.role for turn in turns] != ["assistant"]:
        raise bad_row(source, number, "it must be text, or one turn of the assistant", "completion")
    return turns[0].content


def _need_template(encoder: Encoder, source: str, number: int, field: str) -> None:
    if not encoder.has_chat_template:
        problem = "the model has no chat template, so its data must be text, or a prompt and completion of text"
        raise bad_row(source, number, problem, field)
