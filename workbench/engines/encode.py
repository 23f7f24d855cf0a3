"""From a request to token ids. What a person wrote is data: it never becomes a control token.

A model's special tokens (`<|im_end|>`, …) inside a message would let a question end its own turn and speak as
the system. In such a request the control tokens are placed by hand and everything else is tokenised with its
special strings split into plain characters; every other request is tokenised in one piece, exactly as the
model was trained.
"""

import re
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

from workbench.chat_template import render_chat_template
from workbench.errors import UserError
from workbench.types import Message, Request

_MARK = re.compile("\ue000([0-9]+)\ue001")  # private-use characters, which no template writes


class Encoder:
    """A tokenizer with the rules above (transformers)."""

    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer = tokenizer
        added = {str(token): token for token in tokenizer.added_tokens_decoder.values()}
        special = set(tokenizer.all_special_tokens) | {text for text, token in added.items() if token.special}
        # The longest first, so that none is cut short by another that it begins with.
        self._special = sorted(special, key=len, reverse=True)
        self._at_control = re.compile("|".join(re.escape(token) for token in self._special) or r"(?!)")
        # A tokenizer's unknown token stands for text; a model's end-of-turn token may be the same one.
        ends = {tokenizer.convert_tokens_to_ids(token) for token in self._special} - {tokenizer.unk_token_id}
        self._ends = ends | {tokenizer.eos_token_id}
        # Some tokens swallow the blanks beside them.
        self._eats_left = {text for text, token in added.items() if token.lstrip}
        self._eats_right = {text for text, token in added.items() if token.rstrip}
        # What the tokenizer puts before any text: a BOS, or nothing. An EOS that it puts behind is left out.
        bare, whole = self._plain("x"), list(tokenizer("x")["input_ids"])
        places = [i for i in range(len(whole)) if whole[i : i + len(bare)] == bare]
        self._lead: list[int] = whole[: places[0]] if places else []
        self._anchor = self._plain("a")
        self._anchor_text = self._decode(self._anchor)
        # A prompt is asked for again for each of its labels, and where its tokens were counted before.
        self._remembered = lru_cache(maxsize=4096)(self._encode)

    def encode(self, request: Request) -> list[int]:
        """The request's prompt as token ids, ready for the model to go on.

        Raises:
            UserError: a chat prompt for a model that has no chat template.
        """
        return list(self._remembered(request.messages, request.style))

    def _encode(self, messages: tuple[Message, ...], style: str) -> list[int]:
        text = "".join(message.content for message in messages)
        if style == "text":
            return self.encode_text(text)
        return self._encode_chat(messages, apart=self._at_control.search(text) is not None)

    def _encode_chat(self, messages: Sequence[Message], *, apart: bool, ask: bool = True) -> list[int]:
        """Tokens of what `_chat` renders; `apart` keeps special strings in the contents plain text."""
        if apart:
            return self._encode_apart(messages, ask)
        chat = _writable(self._chat(messages, ask))
        ids: list[int] = self.tokenizer(chat, add_special_tokens=False)["input_ids"]
        return ids

    def encode_conversation(self, messages: Sequence[Message]) -> tuple[list[int], list[int]]:
        """(ids, learned) of a whole conversation, for training: `learned` are the places that the assistant says.

        The ids are those of the model's chat template. An assistant's turn begins where the ids of all that comes
        before it end, and goes to the special token that ends it, which is learned too.

        Raises:
            UserError: the model has no chat template, or one that does not write turn behind turn.
        """
        apart = self._at_control.search("".join(message.content for message in messages)) is not None
        ids = self._encode_chat(messages, apart=apart, ask=False)
        learned: list[int] = []
        for i, message in enumerate(messages):
            if message.role != "assistant":
                continue
            before = self._encode_chat(messages[:i], apart=apart)
            begin = next((k for k, (a, b) in enumerate(zip(before, ids, strict=False)) if a != b), len(before))
            # Blanks at the turn's beginning may be one token with those before it.
            differs = self._ends & set(before[begin:]) or self.decode(before[begin:]).strip()
            end = next((k for k in range(begin, len(ids)) if ids[k] in self._ends), None)
            if begin == 0 or end is None or differs:
                raise UserError(
                    "The model's chat template does not write one turn behind the other, each with a token that "
                    f"ends it, so it cannot be told which tokens are those of turn {i + 1}. Give the data as "
                    "prompt and completion."
                )
            learned += range(begin, end + 1)
        return ids, learned

    @property
    def has_chat_template(self) -> bool:
        """Whether the model has a chat template; a base model has none."""
        return bool(self._template())

    def encode_text(self, text: str) -> list[int]:
        """Plain text, behind the tokens that the tokenizer itself puts before it (a BOS, say)."""
        return self._lead + self._plain(text)

    def encode_pair(self, request: Request, continuation: str) -> tuple[list[int], list[int], str]:
        """(prompt ids, continuation ids, the continuation's text) for scoring the one after the other.

        In text style the two are tokenised together and parted at the prompt's length, and blanks at the
        prompt's end go to the continuation, as in lm-evaluation-harness: a word's leading space stays with
        the word. Where the joint tokens do not part there, the two are tokenised apart.

        Raises:
            UserError: the continuation has no tokens.
        """
        if not continuation:
            raise UserError("The continuation '' has no tokens, so it has no likelihood.")
        if request.style != "text":
            return self.encode(request), self._plain(continuation), continuation
        text = "".join(message.content for message in request.messages)
        kept = text.rstrip() or text
        prompt = self.encode_text(kept)
        blanks = text[len(kept) :]
        whole = self.encode_text(text + continuation)
        parts = whole[: len(prompt)] == prompt and len(whole) > len(prompt)
        return prompt, whole[len(prompt) :] if parts else self._plain(blanks + continuation), continuation

    def encode_completion(self, request: Request, target: str) -> tuple[list[int], list[int]]:
        """(prompt ids, target ids with the end-of-turn token) for training: what the model should say."""
        prompt, own, _ = self.encode_pair(request, target)
        return prompt, [*own, self.tokenizer.eos_token_id]

    def decode(self, tokens: Sequence[int]) -> str:
        """Text of generated tokens, special ones left out, nothing else changed.

        Some tokenizers drop the space before the first word that they decode, so one is put in front.
        """
        return self._decode([*self._anchor, *tokens])[len(self._anchor_text) :]

    def _decode(self, tokens: Sequence[int]) -> str:
        text: str = self.tokenizer.decode(tokens, skip_special_tokens=True, clean_up_tokenization_spaces=False)
        return text

    def _plain(self, text: str) -> list[int]:
        """Tokens of text in which nothing is a control token."""
        text = _writable(text)
        ids: list[int] = self.tokenizer(text, add_special_tokens=False, split_special_tokens=True)["input_ids"]
        return ids

    def _template(self) -> str | None:
        template: Any = self.tokenizer.chat_template
        return template.get("default") if isinstance(template, dict) else template  # several, by name

    def _chat(self, messages: Sequence[Message], ask: bool) -> str:
        """The conversation up to where the assistant goes on (`ask`), or the whole of it."""
        template = self._template()
        if not template:
            raise UserError(
                "This model has no chat template, so it is a base model: use a prompt of the style 'text' "
                "(`workbench prompts` lists them)."
            )
        turns, prefill = list(messages), ""
        if ask and turns and turns[-1].role == "assistant":
            prefill = turns.pop().content
        tokens = {k: v for k, v in self.tokenizer.special_tokens_map.items() if isinstance(v, str)}
        return render_chat_template(template, turns, tokens, ask=ask) + prefill

    def _encode_apart(self, messages: Sequence[Message], ask: bool) -> list[int]:
        """Place the template's control tokens, and tokenise what is between them as plain text."""
        # Marks stand for the contents while the template is rendered and its control tokens are found.
        marked = [Message(m.role, f"\ue000{i}\ue001") for i, m in enumerate(messages)]
        rendered = self._chat(marked, ask)
        ids: list[int] = []
        controls = [match[0] for match in self._at_control.finditer(rendered)]
        texts = self._at_control.split(rendered)
        for i, text in enumerate(texts):
            plain = _MARK.sub(lambda mark: messages[int(mark[1])].content, text)
            if i > 0 and controls[i - 1] in self._eats_right:
                plain = plain.lstrip()
            if i < len(controls) and controls[i] in self._eats_left:
                plain = plain.rstrip()
            ids += self._plain(plain) if plain else []
            if i < len(controls):
                ids.append(self.tokenizer.convert_tokens_to_ids(controls[i]))
        return ids


def _writable(text: str) -> str:
    """The text with lone surrogates, which UTF-8 has no bytes for, as question marks."""
    return text.encode(errors="replace").decode()


def common_prefix(prompts: Sequence[list[int]]) -> int:
    """Number of leading tokens that all prompts share, at least one token short of the shortest."""
    low, high = min(prompts), max(prompts)  # the two that differ earliest, in lexicographic order
    length = min(len(prompt) for prompt in prompts) - 1
    for i in range(length):
        if low[i] != high[i]:
            return i
    return max(length, 0)
