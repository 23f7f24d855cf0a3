"""A model behind one or several OpenAI-compatible servers; vLLM is the one it is written for.

A request's samples are asked for as runs of consecutive indices: `n` samples with the seed of the first, to
which vLLM gives the seeds s, s + 1, …, so that no two calls share one. Whatever a server answers that is not
a finished completion becomes a completion that finished with `error`: never an answer, right or wrong.
"""

import itertools
from collections.abc import AsyncGenerator, Iterator, Sequence
from contextlib import aclosing
from functools import cached_property, partial
from typing import Any

import httpx
import numpy as np
from numpy.typing import NDArray

from workbench.cost import ModelShape
from workbench.decodes import Sampling
from workbench.engines.answers import read_samples
from workbench.engines.base import Batch, TokenScores, check_top, sample_seed
from workbench.engines.client import ServerError, Servers
from workbench.engines.served import (
    Cards,
    adapter_name,
    base_card,
    cards_of,
    check_kind,
    content_of,
    read_cards,
    started_as,
)
from workbench.engines.soft_client import SoftPrompts, is_soft
from workbench.engines.stream_client import STREAMED, read_pieces
from workbench.engines.text_client import TextPrompts
from workbench.errors import UserError, check_range
from workbench.inert import visible
from workbench.types import Completion, Finish, Model, Request

MAX_N = 32
"""Samples in one HTTP request: what is lost when it fails."""


class VllmEngine:
    """Client of OpenAI-compatible servers that serve the same model.

    Args:
        model: its served name is the base's where there is no adapter, or a soft prompt, which is sent with
            every request. An adapter, whose folder must be here, has the name that ends in its content's hash,
            else its folder's name. One that only the server has is a model of its own, by the name there.
        endpoints: the servers' addresses, with or without `/v1`; they take turns.
        api_key: the key that the servers want, or None.
        served_name: the name in the servers' /v1/models, where it is another one.
        concurrency: HTTP requests in flight at once, over all endpoints.
        timeout: seconds that one HTTP request may take.
        retries: further tries after 408, 409, 425, 429, 5xx (not 501), a lost connection or a time-out.
        backoff: seconds before the first retry; doubled for every further one.

    Raises:
        UserError: an address that is none, a number out of its range, an adapter that is not here or cannot be
            sent, or a quantised base.
    """

    shape: ModelShape | None = None  # a server does not tell its model's size

    def __init__(
        self,
        model: Model,
        endpoints: Sequence[str],
        *,
        api_key: str | None = None,
        served_name: str | None = None,
        concurrency: int = 32,
        timeout: float = 300.0,
        retries: int = 5,
        backoff: float = 0.5,
    ) -> None:
        if model.quantization is not None:
            raise UserError(
                f"The vllm engine cannot ask for the quantization {model.quantization!r}: vLLM 0.32 reads nothing "
                "of bitsandbytes. Use the engine hf, merge the adapter into a dense base, or serve a model "
                "made by `workbench quantize --scheme w4a16` or w8a8 under its own name, without a quantization."
            )
        check_range("concurrency", concurrency, 1, 1024)
        check_range("timeout", timeout, 0, 86400, open_low=True)
        check_range("retries", retries, 0, 100)
        check_range("backoff", backoff, 0, 60)
        check_kind(model)
        self._servers = Servers(endpoints, api_key, timeout, retries, backoff)
        self._concurrency = concurrency
        self._adapter = model.adapter
        self._told: str | None = served_name or model.base
        self._soft: SoftPrompts | None = None
        if is_soft(model):
            self._soft = SoftPrompts(model, self._servers, self._told)
        elif model.adapter and not served_name:
            self._told = None  # the servers tell

    @cached_property
    def version(self) -> str:
        """The servers' software, what they serve under the name, and how, where this machine knows; asked once.

        Endpoints that do not answer are passed over as long as one does.

        Raises:
            UserError: no endpoint answers, or one does not serve the model.
        """
        # The root is the folder or Hub id behind the name: two models served under one name differ in it.
        told = [(self._software[url], self._content(url), started_as(url)) for url in self._cards]
        return visible(" + ".join(sorted({", ".join(filter(None, words)) for words in told})))

    @cached_property
    def context(self) -> int | None:
        """Tokens that a prompt and its answer may have together, less a soft prompt's; None where it is not told.

        Of several endpoints it is the smallest.

        Raises:
            UserError: as `version`.
        """
        told = [base_card(self._name, self._served[url]).get("max_model_len") for url in self._cards]
        lengths = [length for length in told if isinstance(length, int) and length > 0]
        return min(lengths) - self._prompts.virtual if lengths else None

    @cached_property
    def _served(self) -> dict[str, Cards]:
        return read_cards(self._servers)

    @cached_property
    def _name(self) -> str:
        """What the servers know the model by."""
        return self._told or adapter_name(self._adapter or "", self._served)

    @cached_property
    def _cards(self) -> Cards:
        """What each endpoint that answers tells about the model."""
        return cards_of(self._name, self._served)

    @cached_property
    def _prompts(self) -> SoftPrompts | TextPrompts:
        return self._soft or TextPrompts(self._servers, self._name, lambda: self._is_vllm)

    @cached_property
    def _is_vllm(self) -> bool:
        return all(software.startswith("vllm ") for software in self._software.values())

    @cached_property
    def _software(self) -> dict[str, str]:
        return {url: self._software_of(url) for url in self._served}

    def count_tokens(self, requests: Sequence[Request]) -> list[int]:
        """Tokens of each request's prompt, the chat template's among them, a soft prompt's not.

        0 where the server cannot tell, as for a chat without a template; the request itself says what is wrong.

        Raises:
            UserError: the key is refused, or no endpoint can be reached any more.
        """
        jobs = (partial(self._count, place, request) for place, request in enumerate(requests))
        counts = dict(self._servers.results(jobs, self._concurrency))
        return [counts[place] for place in range(len(requests))]

    def sample(self, requests: Sequence[Request], sampling: Sampling) -> Iterator[Batch]:
        """Draw every index of every request; a batch is one HTTP request's completions.

        Raises:
            UserError: the key is refused, or no endpoint can be reached any more. What came before is whole.
                Or stop strings are to be kept, which vLLM does and other servers do not.
        """
        if sampling.keep_stop and not self._is_vllm:
            raise UserError("This server cannot tell which text ended a step: use one of vLLM, or the engine hf.")
        largest = MAX_N if sampling.temperature > 0 else 1  # vLLM refuses n > 1 where all would be equal
        jobs = (
            partial(self._draw, request, run, sampling)
            for request in requests
            for run in _runs(request.indices, largest)
        )
        return self._servers.results(jobs, self._concurrency)

    def logprobs(self, requests: Sequence[Request], continuations: Sequence[Sequence[str]]) -> Iterator[Batch]:
        """Log-probability of each continuation right after its request's prompt; a batch is one request.

        Raises:
            UserError: as `sample`, or a continuation has no tokens.
        """
        jobs = (
            partial(self._score, request, tuple(texts))
            for request, texts in zip(requests, continuations, strict=True)
        )
        return self._servers.results(jobs, self._concurrency)

    def token_logprobs(
        self, requests: Sequence[Request], continuations: Sequence[str], top: int = 0
    ) -> Iterator[list[tuple[str, TokenScores]]]:
        """Each token of each continuation; a batch is one request.

        Raises:
            UserError: as `logprobs`, or `top` is out of its range.
        """
        check_top(top)
        jobs = (
            partial(self._score_tokens, request, text, top)
            for request, text in zip(requests, continuations, strict=True)
        )
        return self._servers.results(jobs, self._concurrency)

    def detokenize(self, groups: Sequence[Sequence[int]]) -> list[str]:
        """Each group's text, as the server tells it.

        Raises:
            UserError: the server cannot tell, or cannot be reached any more.
        """
        jobs = (partial(self._prompts.text_of, place, group) for place, group in enumerate(groups))
        texts = dict(self._servers.results(jobs, self._concurrency))
        return [texts[place] for place in range(len(groups))]

    def stream(self, request: Request, sampling: Sampling) -> Iterator[str | Completion]:
        """The pieces of one sample as the server sends them; no more than `timeout` seconds between two.

        Raises:
            UserError: the key is refused, or no endpoint can be reached.
        """
        return self._servers.relayed(partial(self._stream, request, sampling))

    def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Not here.

        Raises:
            UserError: always; a server gives no hidden states.
        """
        raise UserError("A server gives no hidden states to embed with. Use the engine hf for embeddings.")

    def close(self) -> None:
        """Nothing to free: connections live as long as the iterator that `sample` returned."""

    def _software_of(self, url: str) -> str:
        try:
            return f"vllm {self._servers.get(f'{url}/version')['version']}"
        except (ServerError, KeyError):
            return "openai-compatible"

    async def _count(self, place: int, request: Request, client: httpx.AsyncClient) -> tuple[int, int]:
        try:
            return place, await self._prompts.count(client, request)
        except ServerError:
            return place, 0

    async def _draw(self, request: Request, run: range, sampling: Sampling, client: httpx.AsyncClient) -> Batch:
        body = _body(request, run, sampling)
        try:
            answer, seconds = await self._prompts.ask(client, partial(self._servers.post, client), request, body)
            completions = read_samples(answer, run, seconds)
        except ServerError as error:
            completions = self._failed(error, dict.fromkeys(run, ""))
        return [(request.id, completion) for completion in completions]

    async def _score(self, request: Request, texts: tuple[str, ...], client: httpx.AsyncClient) -> Batch:
        try:
            completions = await self._prompts.score(client, request, texts)
        except ServerError as error:
            # All of them: one label without a score would leave a choice among the others.
            completions = self._failed(error, dict(enumerate(texts)))
        return [(request.id, completion) for completion in completions]

    async def _score_tokens(
        self, request: Request, text: str, top: int, client: httpx.AsyncClient
    ) -> list[tuple[str, TokenScores]]:
        try:
            scores = TokenScores(await self._prompts.score_tokens(client, request, text, top))
        except ServerError as error:
            scores = TokenScores((), self._servers.scrub(str(error)))
        return [(request.id, scores)]

    async def _stream(
        self, request: Request, sampling: Sampling, client: httpx.AsyncClient
    ) -> AsyncGenerator[str | Completion]:
        index = request.indices[0]
        body = _body(request, range(index, index + 1), sampling) | STREAMED
        try:
            response = await self._prompts.ask(client, partial(self._servers.open, client), request, body)
        except ServerError as error:
            yield self._failed(error, {index: ""})[0]
            return
        async with aclosing(response), aclosing(read_pieces(self._servers, response, index)) as pieces:
            async for piece in pieces:
                yield piece

    def _content(self, url: str) -> str:
        return content_of(self._name, self._served[url], self._adapter if self._told is None else None)

    def _failed(self, error: ServerError, texts: dict[int, str]) -> list[Completion]:
        reason = self._servers.scrub(str(error))
        return [Completion(i, text, finish=Finish.ERROR, error=reason) for i, text in texts.items()]


def _body(request: Request, run: range, sampling: Sampling) -> dict[str, Any]:
    return {
        "n": len(run),
        "seed": sample_seed(sampling.seed, request.id, run.start),
        "temperature": sampling.temperature,
        "top_p": sampling.top_p,
        "top_k": sampling.top_k,
        # Said although they change nothing: a server may take other defaults from the model's folder.
        "min_p": 0.0,
        "repetition_penalty": 1.0,
        "max_tokens": sampling.limit(request.max_tokens),
        "stop": list(sampling.stop),
        **({"include_stop_str_in_output": True} if sampling.keep_stop else {}),
    }


def _runs(indices: Sequence[int], largest: int) -> Iterator[range]:
    """The indices as runs of consecutive ones, none longer than `largest`."""
    for _, group in itertools.groupby(enumerate(sorted(set(indices))), key=lambda pair: pair[1] - pair[0]):
        run = [index for _, index in group]
        for start in range(run[0], run[-1] + 1, largest):
            yield range(start, min(start + largest, run[-1] + 1))
