"""Soft prompts before a served model: what is sent is embeddings, so tokens are made and looked up here.

A server knows nothing of prompt tuning (Lester et al. 2021, arXiv 2104.08691). But vLLM with
--enable-prompt-embeds takes a prompt as input embeddings: the virtual tokens', then those of the prompt's own
tokens. It gives no log-probabilities of such a prompt, so a continuation is scored token by token: each as the
next one behind all that is before it.
"""

import base64
import io
import math
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import httpx

from workbench.adapters import check_embeddings
from workbench.engines.answers import read_likely
from workbench.engines.base import TokenScore
from workbench.engines.client import Send, ServerError, Servers
from workbench.engines.encode import Encoder
from workbench.engines.next_token import MAX_PROMPTS, ONE_TOKEN, Tokens, score_steps, steps_of
from workbench.errors import UserError
from workbench.models import check_adapter, load_tokenizer, model_folder, quiet_transformers
from workbench.types import Completion, Finish, Model, Request

if TYPE_CHECKING:
    import torch

T = TypeVar("T")


def is_soft(model: Model) -> bool:
    """Whether the model has a soft prompt that can be sent as embeddings.

    Raises:
        UserError: its adapter has virtual tokens of a kind that cannot be sent, or is none in PEFT's format.
    """
    if model.adapter is None:
        return False
    config = check_adapter(model.adapter)
    kind = config.get("peft_type")
    if kind != "PROMPT_TUNING" and "num_virtual_tokens" in config:
        raise UserError(
            f"The adapter {model.adapter!r} is of the kind {kind}, whose virtual tokens are no embeddings (keys "
            "and values, say): they cannot be sent to a server. Of the soft prompts, the engine vllm takes "
            "PROMPT_TUNING. Use the engine hf."
        )
    return kind == "PROMPT_TUNING"


class SoftPrompts:
    """How prompts are sent to servers as embeddings, behind the virtual tokens of an adapter.

    Args:
        model: the base, whose tokenizer and input embeddings are read, and the adapter.
        servers: who answers.
        name: the base's name there.

    Raises:
        UserError: the base or the adapter cannot be read, or they do not fit each other.
    """

    def __init__(self, model: Model, servers: Servers, name: str) -> None:
        self._servers = servers
        self._name = name
        self._encoder = Encoder(load_tokenizer(model))
        self._table = read_embeddings(model_folder(model.base, model.revision))
        check_embeddings(model, self._table)
        # A server casts to its own dtype, which it does not tell; unless it is told another, it is the base's.
        self._soft = read_soft_prompt(model, self._table.shape[1]).to(self._table.dtype)
        self.virtual = len(self._soft)

    async def ask(self, client: httpx.AsyncClient, send: Send[T], request: Request, sampling: dict[str, Any]) -> T:
        """What is sent back to a request for samples with their log-probabilities.

        Raises:
            ServerError: it cannot be answered.
            UserError: as `Servers.post`, or the server takes no embeddings.
        """
        prompt = self._embeddings(self._encoder.encode(request))
        return await self._sent(send, {**sampling, "prompt_embeds": prompt, "logprobs": 0})

    async def count(self, client: httpx.AsyncClient, request: Request) -> int:
        """Tokens of the prompt, without the virtual ones.

        Raises:
            UserError: a chat prompt for a model that has no chat template.
        """
        return len(self._encoder.encode(request))

    async def score(self, client: httpx.AsyncClient, request: Request, texts: Sequence[str]) -> list[Completion]:
        """Each continuation with its log-probability behind the prompt.

        Raises:
            ServerError: one of them cannot be had.
            UserError: as `ask`, or a continuation has no tokens.
        """
        pairs = [self._encoder.encode_pair(request, text)[:2] for text in texts]
        steps = [steps_of(prompt, own) for prompt, own in pairs]
        told, seconds = await score_steps(
            partial(self._next, client), [step for own_steps in steps for step in own_steps]
        )
        return [
            Completion(
                index=i,
                text=text,
                prompt_tokens=self.virtual + len(prompt),
                completion_tokens=len(own),
                logprob=math.fsum(told[step] for step in own_steps),
                seconds=seconds / len(texts),
                finish=Finish.SCORED,
            )
            for i, (text, (prompt, own), own_steps) in enumerate(zip(texts, pairs, steps, strict=True))
        ]

    async def text_of(self, place: int, tokens: Sequence[int], client: httpx.AsyncClient) -> tuple[int, str]:
        """The text of token ids by the base's own tokenizer, and the place that it was asked for."""
        return place, self._encoder.decode(tokens)

    async def score_tokens(
        self, client: httpx.AsyncClient, request: Request, text: str, top: int
    ) -> tuple[TokenScore, ...]:
        """Each token of one continuation, with the `top` most likely in its place.

        Raises:
            ServerError, UserError: as `score`.
        """
        prompt, own, _ = self._encoder.encode_pair(request, text)
        steps = steps_of(prompt, own)
        told, _ = await score_steps(partial(self._next, client), steps)
        likely: list[tuple[tuple[int, float], ...]] = [()] * len(steps)
        if top:  # asked for by themselves: a server that is asked for some tokens tells no others
            likely = []
            for start in range(0, len(steps), MAX_PROMPTS):
                befores = [before for before, _ in steps[start : start + MAX_PROMPTS]]
                answer, _ = await self._next(client, befores, {"logprobs": top})
                likely += read_likely(answer, len(befores), top)
        return tuple(TokenScore(step[1], told[step], beside) for step, beside in zip(steps, likely, strict=True))

    async def _next(
        self, client: httpx.AsyncClient, befores: Sequence[Tokens], told: dict[str, Any]
    ) -> tuple[dict[str, Any], float]:
        """What is said of the token behind each of these, and the seconds of it."""
        body = {"prompt_embeds": [self._embeddings(before) for before in befores], **ONE_TOKEN, **told}
        return await self._sent(partial(self._servers.post, client), body)

    def _embeddings(self, tokens: Sequence[int]) -> str:
        """[virtual tokens; tokens] × hidden, as the server takes it: base64 of torch's own file format."""
        import torch

        rows = torch.cat([self._soft, self._table[torch.tensor(tokens, dtype=torch.long)]])
        file = io.BytesIO()
        torch.save(rows, file)
        return base64.b64encode(file.getvalue()).decode("ascii")

    async def _sent(self, send: Send[T], body: dict[str, Any]) -> T:
        try:
            return await send("/v1/completions", {"model": self._name, **body})
        except ServerError as error:
            if "--enable-prompt-embeds" not in str(error):
                raise
            raise UserError(
                "The server takes no embeddings, and a soft prompt can be sent in no other way. Start it with "
                "--enable-prompt-embeds, for users whom you trust only: it loads the tensors that they send."
            ) from None


def read_soft_prompt(model: Model, hidden: int) -> "torch.Tensor":
    """The adapter's virtual tokens, [virtual tokens, hidden].

    Raises:
        UserError: they are not there, not as many as the adapter says, or not as wide as the base is.
    """
    from safetensors import SafetensorError, safe_open

    assert model.adapter is not None
    config = check_adapter(model.adapter)
    path = Path(model.adapter) / "adapter_model.safetensors"
    try:
        with safe_open(path, framework="pt") as file:
            found: torch.Tensor = file.get_tensor("prompt_embeddings")
    except SafetensorError as error:
        raise UserError(f"{path} has no tensor prompt_embeddings that can be read: {error}.") from None
    count, width = config.get("num_virtual_tokens"), config.get("token_dim")
    if width != hidden:
        raise UserError(
            f"The adapter {model.adapter!r} has virtual tokens of width {width} (token_dim), the base "
            f"{model.base!r} embeddings of width {hidden} (hidden size): it was made for another base."
        )
    if list(found.shape) != [count, width]:
        raise UserError(
            f"{path} holds prompt_embeddings of the shape {list(found.shape)}, but its adapter_config.json says "
            f"[{count}, {width}] (num_virtual_tokens, token_dim)."
        )
    return found


def read_embeddings(folder: Path) -> "torch.Tensor":
    """A model's input embeddings, [vocabulary, hidden], mapped from its files and not copied.

    transformers says which parameter they are, from the model's configuration alone.

    Raises:
        UserError: they are not in the files under that name, or are more than a table that is looked up.
    """
    import torch
    from safetensors import SafetensorError, safe_open
    from transformers import AutoConfig, AutoModelForCausalLM

    refusal = f"The input embeddings of the model in {str(folder)!r}"
    try:
        with quiet_transformers(), torch.device("meta"):
            config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
            skeleton = AutoModelForCausalLM.from_config(config, trust_remote_code=False)
    except (OSError, ValueError, KeyError) as error:
        raise UserError(f"{refusal} cannot be found ({type(error).__name__}). Use the engine hf.") from error
    layer = skeleton.get_input_embeddings()
    if type(layer) is not torch.nn.Embedding:  # Gemma's are scaled, others are put together
        raise UserError(
            f"{refusal} are {type(layer).__name__}: more than a table from which a client can take them. "
            "Use the engine hf."
        )
    own = [name for name, p in skeleton.named_parameters(remove_duplicate=False) if p is layer.weight]
    # Some files name a model's parameters without the name of the part that they all lie in.
    names = list(dict.fromkeys([*own, *(name.removeprefix(f"{skeleton.base_model_prefix}.") for name in own)]))
    for path in sorted(folder.glob("*.safetensors")):
        try:
            with safe_open(path, framework="pt") as file:
                held = set(file.keys())
                tables: list[torch.Tensor] = [file.get_tensor(name) for name in names if name in held]
        except SafetensorError as error:
            raise UserError(f"{path} cannot be read: {error}.") from None
        for table in tables:
            if table.is_floating_point() and table.shape == layer.weight.shape:
                return table
    raise UserError(
        f"{refusal} are in none of its safetensors as {' or '.join(names)}, of the shape "
        f"{list(layer.weight.shape)} and not quantised. Use the engine hf."
    )
