"""GRPO's samples from a vLLM server, which gets the adapter anew before every update.

The server must read the folder into which the adapter is written. Every adapter has a name of its own: under a
name that it knows, vLLM may answer from blocks that the adapter before has filled.
"""

import secrets
import shutil
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import httpx

from workbench.adapters import save_adapter
from workbench.decodes import Sampling
from workbench.engines.base import sample_seed
from workbench.engines.client import ServerError, Servers
from workbench.engines.encode import Encoder
from workbench.engines.hf import end_tokens
from workbench.errors import UserError
from workbench.training.grpo_samples import Answer, Question, text_of
from workbench.types import Model

_SECONDS = 600.0  # that an answer, or loading an adapter, may take
_AT_ONCE = 32  # questions

Drawn = tuple[int, list[Answer]]


class ServerSampler:
    """Answers of a server to the model with its adapter as it is.

    Args:
        url: the server's address.
        key: that it wants, or None.
        weights: with the adapter that learns.
        encoder: the model's.
        model: the base.
        folder: where adapters are written, one at a time.
        sampling: how tokens are drawn, at temperature 1: log-probabilities are told before the temperature.
        count: samples a question.

    Raises:
        UserError: the server does not answer.
    """

    def __init__(
        self, url: str, key: str | None, weights: Any, encoder: Encoder, model: Model, folder: Path,
        sampling: Sampling, count: int,
    ) -> None:  # fmt: skip
        assert sampling.temperature == 1, sampling
        self._servers = Servers([url], key, _SECONDS, retries=5, backoff=0.5)
        [self._url] = self._servers.urls
        headers = {"authorization": f"Bearer {key}"} if key else {}
        self._client = httpx.Client(base_url=self._url, headers=headers, timeout=_SECONDS, trust_env=False)
        self._weights, self._encoder, self._model, self._folder = weights, encoder, model, folder
        self._sampling, self._count = sampling, count
        self._ends = sorted(end_tokens(weights, encoder))
        self._name: str | None = None
        try:
            self._servers.get(f"{self._url}/v1/models")
        except ServerError as error:
            raise UserError(f"The server at {self._url} does not answer: {error}.") from None
        for left in sorted(folder.iterdir()) if folder.is_dir() else ():  # by a process that was killed
            self._tell("unload_lora_adapter", {"lora_name": left.name}, or_unknown=True)
            shutil.rmtree(left)

    def draw(self, questions: Sequence[Question], step: int) -> list[list[Answer]]:
        """The samples of each question; the server's adapter is the one before.

        Raises:
            UserError: the adapter cannot be loaded, or an answer cannot be had.
        """
        self._renew()
        jobs = [partial(self._ask, place, question, step) for place, question in enumerate(questions)]
        try:
            found = dict(self._servers.results(jobs, _AT_ONCE))
        except ServerError as error:
            raise UserError(f"The server at {self._url} does not answer a question: {error}.") from None
        return [found[place] for place in range(len(questions))]

    def close(self) -> None:
        """Have the server forget the adapter, if it can: if not, what was trained, or why not, is not lost."""
        try:
            self._forget()
        except UserError as error:
            print(f"An adapter may be left on the server. {error}", file=sys.stderr)

    def _forget(self) -> None:
        name, self._name = self._name, None
        if name is not None:
            shutil.rmtree(self._folder / name, ignore_errors=True)
            self._tell("unload_lora_adapter", {"lora_name": name})

    def _renew(self) -> None:
        self._forget()  # first: a server has few places for adapters
        name = f"grpo-{secrets.token_hex(8)}"
        save_adapter(self._weights, self._model, self._folder / name)
        self._tell("load_lora_adapter", {"lora_name": name, "lora_path": str((self._folder / name).resolve())})
        self._name = name

    def _tell(self, what: str, body: dict[str, str], or_unknown: bool = False) -> None:
        try:
            response = self._client.post(f"/v1/{what}", json=body)
        except httpx.RequestError as error:
            problem = self._servers.words(error)
        else:
            if response.is_success or (or_unknown and response.status_code == httpx.codes.NOT_FOUND):
                return
            problem = f"HTTP {response.status_code}: {self._servers.scrub(response.text)[:300]}"
        raise UserError(
            f"The server at {self._url} refuses {what} ({problem}). It must read the run's folder, and take "
            "adapters while it runs: `workbench serve --max-lora-rank`, or vLLM with --enable-lora and "
            "VLLM_ALLOW_RUNTIME_LORA_UPDATING=1."
        )

    async def _ask(self, place: int, question: Question, step: int, client: httpx.AsyncClient) -> Drawn:
        body = {
            "model": self._name,
            "prompt": question.prompt,
            "n": self._count,
            "seed": sample_seed(self._sampling.seed, f"{step}:{question.example.id}", 0),
            "temperature": 1.0,
            # Said although they change nothing: a server may take other defaults from the model's folder.
            "top_p": 1.0,
            "top_k": 0,
            "min_p": 0.0,
            "repetition_penalty": 1.0,
            "max_tokens": self._sampling.max_tokens,
            "stop": list(self._sampling.stop),
            "stop_token_ids": self._ends,
            "logprobs": 0,
            "return_token_ids": True,
        }
        answer, _ = await self._servers.post(client, "/v1/completions", body)
        try:
            choices = sorted(answer["choices"], key=lambda choice: int(choice["index"]))
            read = [self._read(choice) for choice in choices]
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise ServerError(f"its answer cannot be read ({error!r})") from None
        if len(read) != self._count:
            raise ServerError(f"it gave {len(read)} answers in place of {self._count}")
        return place, read

    def _read(self, choice: dict[str, Any]) -> Answer:
        """An answer from one choice.

        Raises:
            KeyError, TypeError, ValueError: it has not what it must have.
        """
        tokens, logprobs = [int(token) for token in choice["token_ids"]], choice["logprobs"]["token_logprobs"]
        if not tokens or len(tokens) != len(logprobs) or choice["finish_reason"] not in ("stop", "length"):
            raise ValueError(f"{len(tokens)} tokens, {len(logprobs)} log-probabilities, {choice['finish_reason']}")
        text = text_of(self._encoder, tokens, self._sampling.stop)
        told = [None if logprob is None else float(logprob) for logprob in logprobs]
        return Answer(tokens, text, choice["finish_reason"] == "stop", told)
