"""From a request to token ids. What a person wrote is data: it never becomes a control token.

A model's special tokens (`<|im_end|>`, …) inside a message would let a question end its own turn and speak as
the system. Such a message is tokenised apart from its chat template, with its special strings split into
plain characters; every other request is tokenised in one piece, exactly as the model was trained.
"""

from collections.abc import Sequence
from typing import Any

from workbench.chat_template import render_chat_template
from workbench.errors import UserError
from workbench.types import Message, Request


class Encoder:
    """A tokenizer with the rules above (transformers)."""

    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer = tokenizer
        added = [str(token) for token in tokenizer.added_tokens_decoder.values() if token.special]
        self._special = sorted(set(tokenizer.all_special_tokens) | set(added), key=len, reverse=True)

    def encode(self, request: Request) -> list[int]:
        """The request's prompt as token ids, ready for the model to go on.

        Raises:
            UserError: a chat prompt for a model that has no chat template.
        """
        if request.style == "text":
            return self.encode_text("".join(message.content for message in request.messages))
        if any(token in message.content for message in request.messages for token in self._special):
            return self._encode_apart(request.messages)
        ids: list[int] = self.tokenizer(self._chat(request.messages), add_special_tokens=False)["input_ids"]
        return ids

    def encode_text(self, text: str) -> list[int]:
        """Plain text, with the tokens that the tokenizer itself puts around it (a leading BOS, say)."""
        apart = any(token in text for token in self._special)
        ids: list[int] = self.tokenizer(text, split_special_tokens=apart)["input_ids"]
        return ids

    def encode_pair(self, request: Request, continuation: str) -> tuple[list[int], list[int], str]:
        """(prompt ids, continuation ids, the continuation's text) for scoring the one after the other.

        In text style the two are tokenised together and parted at the prompt's length, as
        lm-evaluation-harness does, so that a word's leading space stays with the word.

        Raises:
            UserError: the continuation has no tokens.
        """
        prompt = self.encode(request)
        own: list[int] = self.tokenizer(continuation, add_special_tokens=False, split_special_tokens=True)[
            "input_ids"
        ]
        if request.style == "text":
            whole = self.encode_text("".join(message.content for message in request.messages) + continuation)
            if whole[: len(prompt)] == prompt:
                own = whole[len(prompt) :]
        if not own:
            raise UserError(f"The continuation {continuation!r} has no tokens, so it has no likelihood.")
        return prompt, own, continuation

    def encode_completion(self, request: Request, target: str) -> tuple[list[int], list[int]]:
        """(prompt ids, target ids with the end-of-turn token) for training: what the model should say."""
        prompt, own, _ = self.encode_pair(request, target)
        return prompt, [*own, self.tokenizer.eos_token_id]

    def decode(self, tokens: Sequence[int]) -> str:
        """Text of generated tokens, special ones left out, nothing else changed."""
        text: str = self.tokenizer.decode(tokens, skip_special_tokens=True, clean_up_tokenization_spaces=False)
        return text

    def _chat(self, messages: Sequence[Message]) -> str:
        template = self.tokenizer.chat_template
        if not template:
            raise UserError(
                "This model has no chat template, so it is a base model: use a prompt of the style 'text' "
                "(`workbench prompts` lists them)."
            )
        prefill = messages[-1].content if messages[-1].role == "assistant" else ""
        turns = messages[:-1] if prefill else messages
        tokens = {k: v for k, v in self.tokenizer.special_tokens_map.items() if isinstance(v, str)}
        return render_chat_template(template, turns, tokens) + prefill

    def _encode_apart(self, messages: Sequence[Message]) -> list[int]:
        """Tokenise the template's own text and the messages' contents separately."""
        # Private-use characters stand for the contents while the template is rendered.
        marks = [f"\ue000{i}\ue001" for i in range(len(messages))]
        rendered = self._chat([Message(m.role, mark) for m, mark in zip(messages, marks, strict=True)])
        ids: list[int] = []
        for mark, message in zip(marks, messages, strict=True):
            before, found, rendered = rendered.partition(mark)
            ids += self.tokenizer(before, add_special_tokens=False)["input_ids"]
            if found:
                ids += self.tokenizer(message.content, add_special_tokens=False, split_special_tokens=True)[
                    "input_ids"
                ]
        return ids + list(self.tokenizer(rendered, add_special_tokens=False)["input_ids"])


def common_prefix(prompts: Sequence[list[int]]) -> int:
    """Number of leading tokens that all prompts share, at least one token short of the shortest."""
    low, high = min(prompts), max(prompts)  # the two that differ earliest, in lexicographic order
    length = min(len(prompt) for prompt in prompts) - 1
    for i in range(length):
        if low[i] != high[i]:
            return i
    return max(length, 0)
