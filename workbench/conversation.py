"""A conversation: questions with their answers, and what a model is asked behind them."""

from dataclasses import dataclass, field
from typing import Any, Literal

from workbench.types import Message, Request, text_hash

End = Literal["stop", "length", "stopped", "error"]
"""Why an answer ended: by itself, by its limit, by the person, by a failure."""


@dataclass(frozen=True)
class Turn:
    """A question and its answer.

    Attributes:
        question: what was asked.
        answer: exactly as generated.
        end: why it ended.
        prompt_tokens, completion_tokens: by the engine's count. Of an answer that did not come to its end the
            first is 0, and the second what was drawn until its last piece; 0 where the engine does not tell.
        seconds: from the question to the answer's end.
        error: what went wrong, where `end` is `error`.
    """

    question: str
    answer: str
    end: End
    prompt_tokens: int = 0
    completion_tokens: int = 0
    seconds: float = 0.0
    error: str = ""


@dataclass
class Conversation:
    """What was said so far. Failed answers are not in it, so that the next question is not asked behind them.

    Attributes:
        system_prompt: what the model is told first; None leaves it to the model's template.
        turns: questions with their answers.
        asked: questions since the beginning, those before a `clear` too: the same question gets another sample.
    """

    system_prompt: str | None = None
    turns: list[Turn] = field(default_factory=list)
    asked: int = 0

    def ask(self, question: str) -> Request:
        """The request for the answer to one more question."""
        messages = (*self._messages(), Message("user", question))
        said = "\0".join(f"{message.role}\0{message.content}" for message in messages)
        self.asked += 1
        return Request(text_hash(said), messages, indices=(self.asked - 1,))

    def keep(self, turn: Turn) -> bool:
        """Remember a turn, and tell whether it is one: an answer that failed, or of which nothing came, is not."""
        kept = turn.end != "error" and bool(turn.answer)
        if kept:
            self.turns.append(turn)
        return kept

    def clear(self) -> None:
        """Begin anew."""
        self.turns.clear()

    def row(self) -> dict[str, Any]:
        """The conversation as a row of data, which the tuning recipes read.

        `finish` is how an answer ended: `workbench sample` goes on with a last one that did not come to its end.
        """
        messages: list[dict[str, Any]] = [{"role": m.role, "content": m.content} for m in self._messages()]
        answers = [message for message in messages if message["role"] == "assistant"]
        for message, turn in zip(answers, self.turns, strict=True):
            message |= {"finish": turn.end, "tokens": turn.completion_tokens or None}
        return {"messages": messages}

    def _messages(self) -> tuple[Message, ...]:
        first = () if self.system_prompt is None else (Message("system", self.system_prompt),)
        pairs = ((Message("user", t.question), Message("assistant", t.answer)) for t in self.turns)
        return (*first, *(message for pair in pairs for message in pair))
