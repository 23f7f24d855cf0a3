"""Prompts that the server itself tokenises: a conversation for its chat template, or plain text."""

import math
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, TypeVar

import httpx

from workbench.engines.answers import read_scores, read_tokens
from workbench.engines.base import TokenScore
from workbench.engines.client import Send, ServerError, Servers
from workbench.engines.next_token import ONE_TOKEN, Tokens, score_steps, steps_of
from workbench.errors import UserError
from workbench.types import Completion, Finish, Request

T = TypeVar("T")

CONTROL = re.compile(r"<[|｜][^<>]*[|｜]>|</?(?:s|bos|eos|pad|unk|start_of_turn|end_of_turn)>|\[/?INST\]")
"""What the usual chat templates part turns with. A server reads it as control tokens wherever it stands."""


class TextPrompts:
    """How prompts are sent to servers as text.

    Args:
        servers: who answers.
        name: the model's name there.
        is_vllm: whether they tell the log-probability of any token as the next one, as vLLM does.
    """

    virtual = 0

    def __init__(self, servers: Servers, name: str, is_vllm: Callable[[], bool]) -> None:
        self._servers = servers
        self._name = name
        self._is_vllm = is_vllm
        self._label_tokens: dict[str, list[int]] = {}

    async def ask(self, client: httpx.AsyncClient, send: Send[T], request: Request, sampling: dict[str, Any]) -> T:
        """What is sent back to a request for samples with their log-probabilities.

        Raises:
            ServerError: it cannot be answered, or the text looks like control tokens.
            UserError: as `Servers.post`.
        """
        _check_no_control(message.content for message in request.messages)
        body = {"model": self._name, **sampling}
        if self._goes_on(request):
            prompt = await self._prompt(client, request)
            return await send("/v1/completions", body | {"prompt": prompt, "logprobs": 0})
        body |= _said(request)
        if request.style == "chat":
            return await send("/v1/chat/completions", body | {"logprobs": True, "top_logprobs": 0})
        return await send("/v1/completions", body | {"logprobs": 0})

    async def count(self, client: httpx.AsyncClient, request: Request) -> int:
        """Tokens of the prompt, also where its text would not be sent to be answered.

        Raises:
            ServerError: the server cannot tell.
            UserError: as `Servers.post`.
        """
        return len(await self._prompt(client, request))

    async def score(self, client: httpx.AsyncClient, request: Request, texts: Sequence[str]) -> list[Completion]:
        """Each continuation with its log-probability behind the prompt.

        Raises:
            ServerError: one of them cannot be had, or the text looks like control tokens.
            UserError: as `Servers.post`, or a continuation has no tokens.
        """
        prompt, owns = await self._tokens(client, request, texts)
        steps = [steps_of(prompt, own) for own in owns]
        every = [step for own_steps in steps for step in own_steps]
        # Labels of one token are all told behind the one prompt, which the prefix cache may know; a text of many
        # tokens is read once as a whole.
        if len({before for before, _ in every}) <= len(texts) and self._is_vllm():
            told, seconds = await score_steps(partial(self._next, client), every)
            scores = [math.fsum(told[step] for step in own_steps) for own_steps in steps]
        else:
            answer, seconds = await self._echoed(client, [prompt + own for own in owns], {"logprobs": 0})
            scores = read_scores(answer, len(prompt), owns)
        return [
            Completion(i, text, len(prompt), len(own), score, seconds / len(texts), Finish.SCORED)
            for i, (text, own, score) in enumerate(zip(texts, owns, scores, strict=True))
        ]

    async def score_tokens(
        self, client: httpx.AsyncClient, request: Request, text: str, top: int
    ) -> tuple[TokenScore, ...]:
        """Each token of one continuation, with the `top` most likely in its place.

        Raises:
            ServerError, UserError: as `score`.
        """
        prompt, [own] = await self._tokens(client, request, [text])
        told = {"logprobs": top, "return_tokens_as_token_ids": True}
        answer, _ = await self._echoed(client, [prompt + own], told)
        return read_tokens(answer, len(prompt), own, top)

    async def text_of(self, place: int, tokens: Sequence[int], client: httpx.AsyncClient) -> tuple[int, str]:
        """The text of token ids, and the place that it was asked for; a control token by itself has none.

        Raises:
            UserError: the server does not tell; vLLM does.
        """
        body = {"model": self._name, "tokens": list(tokens)}
        try:
            answer, _ = await self._servers.post(client, "/detokenize", body)
        except ServerError as error:
            raise UserError(
                f"The server does not tell its tokens' text: {self._servers.scrub(str(error))}"
            ) from None
        text = answer.get("prompt")
        if not isinstance(text, str):
            raise UserError(f"The server does not tell its tokens' text: {self._servers.scrub(str(answer)[:200])}")
        # vLLM writes control tokens out, which the other engines leave out.
        return place, "" if CONTROL.fullmatch(text) else text

    async def _tokens(
        self, client: httpx.AsyncClient, request: Request, texts: Sequence[str]
    ) -> tuple[list[int], list[list[int]]]:
        """The prompt's tokens, and each continuation's behind them, as the engine hf has them.

        In text style the two are tokenised together and parted at the prompt's length, and blanks at the prompt's
        end go to the continuation: a word's leading space stays with the word. Where the joint tokens do not part
        there, and after a chat template, a continuation's tokens are those of its text by itself.
        """
        _check_no_control([*(message.content for message in request.messages), *texts])
        if "" in texts:
            raise UserError("The continuation '' has no tokens, so it has no likelihood.")
        if request.style != "text":
            prompt = await self._prompt(client, request)
            return prompt, [await self._alone(client, text) for text in texts]
        text = _text(request)
        kept = text.rstrip() or text
        prompt = await self._tokenize(client, {"prompt": kept})
        owns = []
        for continuation in texts:
            whole = await self._tokenize(client, {"prompt": text + continuation})
            parts = whole[: len(prompt)] == prompt and len(whole) > len(prompt)
            blanks = text[len(kept) :]
            owns.append(whole[len(prompt) :] if parts else await self._alone(client, blanks + continuation))
        return prompt, owns

    async def _echoed(
        self, client: httpx.AsyncClient, prompts: list[list[int]], told: dict[str, Any]
    ) -> tuple[dict[str, Any], float]:
        """The prompts' own log-probabilities: `echo` with max_tokens=0 gives them and draws nothing."""
        body: dict[str, Any] = {"model": self._name, "prompt": prompts, "max_tokens": 0, "echo": True}
        return await self._servers.post(client, "/v1/completions", body | told)

    async def _next(
        self, client: httpx.AsyncClient, befores: Sequence[Tokens], told: dict[str, Any]
    ) -> tuple[dict[str, Any], float]:
        """What is said of the token behind each of these, and the seconds of it."""
        body = {"model": self._name, "prompt": [list(before) for before in befores], **ONE_TOKEN, **told}
        return await self._servers.post(client, "/v1/completions", body)

    async def _alone(self, client: httpx.AsyncClient, text: str) -> list[int]:
        """A text's own tokens, with nothing put before it."""
        if text not in self._label_tokens:
            own = await self._tokenize(client, {"prompt": text, "add_special_tokens": False})
            if not own:
                raise UserError(f"The continuation {text!r} has no tokens, so it has no likelihood.")
            self._label_tokens[text] = own
        return self._label_tokens[text]

    def _goes_on(self, request: Request) -> bool:
        """Whether the model goes on with an answer that is begun, and the server can be told so by its tokens."""
        begun = len(request.messages) > 1 and request.messages[-1].role == "assistant"
        return request.style == "chat" and begun and self._is_vllm()

    async def _prompt(self, client: httpx.AsyncClient, request: Request) -> list[int]:
        """The prompt's tokens; those of a begun answer stand behind what the template puts before any answer.

        A template that is given the begun answer as a turn may take its thinking out, put an empty section of
        thinking before it or strip its blanks, and the model would go on with another text.
        """
        if not self._goes_on(request):
            return await self._tokenize(client, _said(request))
        *before, begun = request.messages
        asked = await self._tokenize(client, _said(replace(request, messages=tuple(before))))
        own = {"prompt": begun.content, "add_special_tokens": False}
        return [*asked, *await self._tokenize(client, own)] if begun.content else asked

    async def _tokenize(self, client: httpx.AsyncClient, what: dict[str, Any]) -> list[int]:
        answer, _ = await self._servers.post(client, "/tokenize", {"model": self._name, **what})
        tokens = answer.get("tokens")
        if not isinstance(tokens, list):
            raise ServerError(f"/tokenize gave no tokens: {str(answer)[:200]}")
        return tokens


def _check_no_control(texts: Iterator[str] | Sequence[str]) -> None:
    for text in texts:
        if found := CONTROL.search(text):
            raise ServerError(
                f"The text holds {found.group()!r}, which a server would read as a control token instead of "
                "as text, so it was not sent. The engine hf takes it as text."
            )


def _text(request: Request) -> str:
    return "".join(message.content for message in request.messages)


def _said(request: Request) -> dict[str, Any]:
    """The prompt as a server takes it: a conversation, or plain text."""
    if request.style != "chat":
        return {"prompt": _text(request)}
    messages = [{"role": message.role, "content": message.content} for message in request.messages]
    begun = request.messages[-1].role == "assistant"  # the start of the answer, which the model goes on with
    return {"messages": messages, "add_generation_prompt": not begun, "continue_final_message": begun}
