"""What the canaries ask of a server, token by token: greedy answers, and scores of the same tokens as a prompt.

Prompts go as token ids, and answers come back as such, so that nothing is lost between tokens and text.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import httpx

TOKENS = 24
"""Of each answer; the end of a turn does not end it."""

SECONDS = 600.0  # that one request may take, of a large model on a CPU

Ids = list[int]


@dataclass(frozen=True)
class Asked:
    """One served name.

    Attributes:
        name: as the state has it.
        model: what requests are sent to: a soft prompt's go to the base.
        embed: of a soft prompt: from a prompt's ids to what is sent in their place.
    """

    name: str
    model: str
    embed: Callable[[Ids], str] | None = None


@dataclass(frozen=True)
class Drawn:
    """An answer: its tokens, what the server said of each (nats), and its text."""

    tokens: Ids
    said: list[float]
    text: str


class Refusal(Exception):
    """The server did not answer as it must; in words."""


class Server:
    """A server's side of the canaries.

    Args:
        url: its address.
        key: that it wants, or None; it is in no message.
    """

    def __init__(self, url: str, key: str | None) -> None:
        headers = {"authorization": f"Bearer {key}"} if key else {}
        self._key = key
        # A proxy that the environment names is not for this machine's own server.
        self._client = httpx.Client(base_url=url, headers=headers, timeout=SECONDS, trust_env=False)

    def close(self) -> None:
        """End its connections."""
        self._client.close()

    def takes_key(self) -> bool:
        """Whether the server does not refuse the key, or its absence; so too where it does not answer."""
        try:
            return self._client.get("/v1/models").status_code not in (401, 403)
        except httpx.RequestError:
            return True

    def draw(self, asked: Asked, prompts: Sequence[Ids]) -> list[Drawn]:
        """Greedy answers.

        Raises:
            Refusal: there are none, or they are not told token by token.
        """
        what: Any = {"prompt": list(prompts)}
        if asked.embed is not None:
            what = {"prompt_embeds": [asked.embed(prompt) for prompt in prompts]}
        body = {"max_tokens": TOKENS, "ignore_eos": True, "return_tokens_as_token_ids": True, **what}
        choices = self._complete(asked.model, body, len(prompts))
        try:
            return [
                Drawn(
                    [int(token.removeprefix("token_id:")) for token in choice["logprobs"]["tokens"]],
                    [_number(value) for value in choice["logprobs"]["token_logprobs"]],
                    self._scrub(str(choice["text"])),
                )
                for choice in choices
            ]
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            told = self._scrub(repr(error))
            raise Refusal(f"its answers have no tokens with log-probabilities ({told})") from None

    def score(self, asked: Asked, prompts: Sequence[Ids], answers: Sequence[Ids]) -> list[list[float]]:
        """Log-probability of each answer's tokens behind its prompt, all of them read as one prompt.

        Raises:
            Refusal: they cannot be had.
        """
        whole = [prompt + answer for prompt, answer in zip(prompts, answers, strict=True)]
        choices = self._complete(asked.model, {"prompt": whole, "max_tokens": 0, "echo": True}, len(whole))
        try:
            return [
                [_number(value) for value in choice["logprobs"]["token_logprobs"][len(prompt) :]]
                for choice, prompt in zip(choices, prompts, strict=True)
            ]
        except (KeyError, TypeError) as error:
            raise Refusal(f"its scores cannot be read ({error!r})") from None

    def tokenize(self, model: str, style: str, text: str) -> Ids:
        """A question's tokens as the server has them, behind its chat template in the style `chat`.

        Raises:
            Refusal: it does not tell.
        """
        what: dict[str, Any] = {"prompt": text}
        if style == "chat":
            what = {"messages": [{"role": "user", "content": text}], "add_generation_prompt": True}
        tokens = self._post("/tokenize", {"model": model, **what}).get("tokens")
        return tokens if isinstance(tokens, list) else []

    def load(self, name: str, folder: str) -> None:
        """Have the server load an adapter from a folder that it can read.

        Raises:
            Refusal: it does not, in its own words.
        """
        self._request("/v1/load_lora_adapter", {"lora_name": name, "lora_path": folder})

    def _complete(self, model: str, body: dict[str, Any], count: int) -> list[dict[str, Any]]:
        answer = self._post("/v1/completions", {"model": model, "temperature": 0, "logprobs": 0, **body})
        try:
            choices = sorted(answer["choices"], key=lambda choice: int(choice["index"]))
        except (KeyError, TypeError, ValueError):
            choices = []
        if len(choices) != count:
            raise Refusal(f"it gave {len(choices)} answers to {count} prompts")
        return choices

    def _post(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        response = self._request(path, body)
        try:
            content = response.json()
        except ValueError:
            content = None
        if not isinstance(content, dict):
            raise Refusal(f"{path} gave no JSON object")
        return content

    def _request(self, path: str, body: dict[str, Any]) -> httpx.Response:
        try:
            response = self._client.post(path, json=body)
        except httpx.RequestError as error:
            raise Refusal(f"{path} does not answer ({type(error).__name__})") from None
        if not response.is_success:
            raise Refusal(f"{path} gave HTTP {response.status_code}: {self._scrub(response.text)[:300]}")
        return response

    def _scrub(self, text: str) -> str:
        """The text without the key: a server may repeat it, no state and no message of ours does."""
        return text.replace(self._key, "***") if self._key else text


def _number(value: Any) -> float:
    return float(value) if isinstance(value, (int, float)) else math.nan
