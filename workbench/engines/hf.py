"""The embedded engine: transformers in this process, on a CPU or a GPU.

What it does beside `generate`: prompts are batched by length; a prefix that a batch shares is computed once
for the batch, a prompt once for its n samples; rows that have ended leave the batch; labels are scored
with logits only where they are read. A batch's content is a function of the requests alone, so a run that
was killed and goes on draws what the uninterrupted run would have drawn.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from textwrap import shorten
from typing import Any

import numpy as np
import torch
import transformers
from numpy.typing import NDArray
from transformers.cache_utils import Cache

from workbench.adapters import load_weights
from workbench.cost import ModelShape
from workbench.decodes import Sampling
from workbench.engines.base import Batch, TokenScores, sample_seed
from workbench.engines.encode import Encoder
from workbench.engines.forward import next_logits, prefill, use_grouped_attention
from workbench.engines.hf_scores import self_certainties, text_scores, token_scores
from workbench.engines.hf_stream import Row, failed, first_stop, in_pieces
from workbench.engines.kv import buffers_from
from workbench.engines.sampler import draw, uniforms
from workbench.engines.soft_prompt import is_soft_prompt, keys_of_adapter
from workbench.errors import UserError
from workbench.models import context_of, load_tokenizer, shape_of
from workbench.own_kinds import labels_of, without_head
from workbench.types import Completion, Finish, Model, Request

_ROOM = 32  # positions a decoding buffer gains when it is full
_STOP_SLACK = 8  # tokens decoded to look for a stop string, beyond one for each of its bytes


class HfEngine:
    """A model loaded by transformers. See `engines/base.py` for what its methods promise.

    Args:
        model: what to load.
        dtype: `bfloat16`, `float32` or `float16`.
        device: `cpu`, `cuda`, …; None takes the GPU where there is one.
        max_rows: samples decoded together.
        max_positions: bound on rows × positions of one batch (memory of keys and values).
        loaded: the model's weights and encoder, where they are there already: what is trained is drawn from.

    Raises:
        UserError: the model cannot be loaded, or the device does not exist.
    """

    watch: Callable[[Sequence[Row]], bool] | None = None
    """Called by `sample` behind every step with the batch's rows; where it says no, the batch ends there without
    the rows that have not ended. So a page shows how far they are, and stops them."""

    def __init__(
        self,
        model: Model,
        *,
        dtype: str = "bfloat16",
        device: str | None = None,
        max_rows: int = 128,
        max_positions: int = 131_072,
        loaded: tuple[Any, Encoder] | None = None,
    ) -> None:
        self.device = device or ("cuda" if torch.cuda.is_available() else "cpu")
        _check_device(self.device)
        weights = load_weights(model, dtype, self.device) if loaded is None else loaded[0]
        soft = is_soft_prompt(weights)
        self.weights = weights.get_base_model() if soft else weights
        self.labels = labels_of(self.weights)
        with without_head(self.weights):  # a head's few scores may be too close together to tell anything
            use_grouped_attention(self.weights)
        self._shape = shape_of(weights)
        self.soft: Cache | None = None  # keys and values of virtual tokens, which stand before every prompt
        if soft:
            with torch.inference_mode():
                self.soft = keys_of_adapter(weights)
        self.virtual = self.soft.get_seq_length() if self.soft is not None else 0
        self.encoder = Encoder(load_tokenizer(model)) if loaded is None else loaded[1]
        self.max_rows, self.max_positions = max_rows, max_positions
        self._context = context_of(self.weights) - self.virtual
        self._version = (
            f"hf transformers-{transformers.__version__} torch-{torch.__version__} {dtype} {self.device}"
        )
        self._ends = end_tokens(self.weights, self.encoder)

    @property
    def version(self) -> str:
        """Library versions, precision and device."""
        return self._version

    @property
    def shape(self) -> ModelShape:
        """The model's size."""
        return self._shape

    @property
    def context(self) -> int:
        """Positions that the model has (a sliding window's, where it has one), less a soft prompt's."""
        return self._context

    def count_tokens(self, requests: Sequence[Request]) -> list[int]:
        """Tokens of each request's prompt, the chat template's among them, a soft prompt's not."""
        return [len(self.encoder.encode(request)) for request in requests]

    def close(self) -> None:
        """Let the weights go."""
        del self.weights
        if self.device.startswith("cuda"):
            torch.cuda.empty_cache()

    # --- sampling -----------------------------------------------------------------------------------

    @torch.inference_mode()
    def sample(self, requests: Sequence[Request], sampling: Sampling) -> Iterator[Batch]:
        """Batches in the order of their prompts' lengths, longest first; none from a classification head."""
        self._check_generates()
        rows: list[Row] = []
        for request in requests:
            prompt = self.encoder.encode(request)
            if problem := self.unfit(len(prompt), 1):
                yield [(request.id, failed(i, len(prompt), problem)) for i in request.indices]
                continue
            rows.extend(Row(request, index, prompt) for index in request.indices)
        for batch in self._batches(rows, sampling):
            yield self._decode(batch, sampling)

    @torch.inference_mode()
    def complete(self, rows: Sequence[Row], sampling: Sampling) -> None:
        """Draw the tokens of rows whose prompts fit, each as `sample` draws them."""
        self._check_generates()
        for batch in self._batches(rows, sampling):
            for _ in self._steps(batch, sampling):
                pass

    def _batches(self, rows: Sequence[Row], sampling: Sampling) -> Iterator[list[Row]]:
        rows = sorted(rows, key=lambda row: (-len(row.prompt), row.request.id, row.index))
        while rows:
            longest = len(rows[0].prompt) + min(sampling.max_tokens, self.context - len(rows[0].prompt))
            count = max(1, min(self.max_rows, self.max_positions // longest))
            yield rows[:count]
            rows = rows[count:]

    @torch.inference_mode()
    def stream(self, request: Request, sampling: Sampling) -> Iterator[str | Completion]:
        """The pieces of one sample, each as soon as its token is drawn and it is certain to be text."""
        self._check_generates()
        row = Row(request, request.indices[0], self.encoder.encode(request))
        if problem := self.unfit(len(row.prompt), 1):
            yield failed(row.index, len(row.prompt), problem)
            return
        yield from in_pieces(row, self._steps([row], sampling), self.encoder.decode, sampling.stop, self.virtual)

    def _check_generates(self) -> None:
        if self.labels:
            labels = ", ".join(self.labels)
            raise UserError(
                f"The model's head scores {labels} and says nothing. Decode by the likelihood of labels."
            )

    def unfit(self, prompt: int, more: int) -> str | None:
        """Why a prompt of so many tokens, and `more` behind it, cannot be run."""
        if prompt == 0:
            return "the prompt has no tokens"
        if prompt + more > self.context:
            return f"the prompt has {prompt} tokens and needs {more} more; the model's context is {self.context}"
        return None

    def _decode(self, rows: list[Row], sampling: Sampling) -> Batch:
        started = time.perf_counter()
        for _ in self._steps(rows, sampling):
            if self.watch is not None and not self.watch(rows):
                rows = [row for row in rows if row.finish is not None]
                break
        seconds = (time.perf_counter() - started) / max(1, len(rows))
        return [(row.request.id, self._completion(row, sampling, seconds)) for row in rows]

    def _steps(self, rows: list[Row], sampling: Sampling) -> Iterator[None]:
        """Draw a token for every row that has not ended, and again, until all have."""
        distinct: dict[tuple[int, ...], int] = {}
        for row in rows:
            distinct.setdefault(tuple(row.prompt), len(distinct))
        cache, logits, padding = prefill(self.weights, [list(prompt) for prompt in distinct], self.soft)

        steps = min(sampling.max_tokens, self.context - min(len(row.prompt) for row in rows))
        picked = torch.tensor([distinct[tuple(row.prompt)] for row in rows], device=self.device)
        used = cache.get_seq_length()
        cache = buffers_from(cache, picked, used + min(_ROOM, steps))
        logits, padding = logits[picked], padding[picked]
        seeds = [sample_seed(sampling.seed, row.request.id, row.index) for row in rows]
        random = uniforms(seeds, steps).to(self.device) if sampling.temperature > 0 else None
        positions = torch.tensor([self.virtual + len(row.prompt) for row in rows], device=self.device)

        active = list(rows)
        for step in range(steps):
            tokens, logprobs = draw(logits, None if random is None else random[:, step], sampling)
            for row, token, logprob in zip(active, tokens.tolist(), logprobs.tolist(), strict=True):
                if row.finish is None:
                    self._take(row, token, logprob, sampling)
            yield
            alive = [i for i, row in enumerate(active) if row.finish is None]
            if not alive:
                break
            # Ended rows leave when they are a quarter of the batch: leaving costs a copy of the cache.
            full = cache.layers[0].buffers[0].shape[2] == cache.get_seq_length()
            if len(alive) <= 0.75 * len(active) or full:
                kept = torch.tensor(alive, device=self.device)
                active = [active[i] for i in alive]
                cache = buffers_from(cache, kept, cache.get_seq_length() + _ROOM)
                padding, positions, tokens = padding[kept], positions[kept], tokens[kept]
                random = None if random is None else random[kept]
            logits = next_logits(self.weights, tokens, positions, padding, cache)
            # Ended rows that stay must not run over the last position.
            positions = (positions + 1).clamp_max(self.virtual + self.context - 1)

    def _take(self, row: Row, token: int, logprob: float, sampling: Sampling) -> None:
        """Add a drawn token to a row and see whether the row has ended."""
        row.tokens.append(token)
        row.logprob += logprob
        if token in self._ends or self._stopped(row.tokens, sampling.stop):
            row.finish = Finish.STOP
        elif (
            len(row.tokens) >= sampling.limit(row.request.max_tokens)
            or len(row.prompt) + len(row.tokens) >= self.context
        ):
            row.finish = Finish.LENGTH

    def _stopped(self, tokens: list[int], stop: tuple[str, ...]) -> bool:
        """Whether a stop string ends within the last token. It has at most one token for each byte."""
        if not stop:
            return False
        tail = self.encoder.decode(tokens[-max(len(s.encode()) for s in stop) - _STOP_SLACK :])
        return any(s in tail for s in stop)

    def _completion(self, row: Row, sampling: Sampling, seconds: float) -> Completion:
        text = self.encoder.decode(row.tokens)
        return row.completion(text[: first_stop(text, sampling.stop, sampling.keep_stop)], self.virtual, seconds)

    # --- scoring ------------------------------------------------------------------------------------

    @torch.inference_mode()
    def logprobs(self, requests: Sequence[Request], continuations: Sequence[Sequence[str]]) -> Iterator[Batch]:
        """Prompts and their continuations as branches of one packed sequence behind the prefix they share."""
        yield from text_scores(self, requests, continuations)

    @torch.inference_mode()
    def token_logprobs(
        self, requests: Sequence[Request], continuations: Sequence[str], top: int = 0
    ) -> Iterator[list[tuple[str, TokenScores]]]:
        """Token by token, in the passes that `logprobs` makes."""
        yield from token_scores(self, requests, continuations, top)

    def detokenize(self, groups: Sequence[Sequence[int]]) -> list[str]:
        """Each group's text as it stands behind other text, special tokens left out."""
        return [self.encoder.decode(group) for group in groups]

    @torch.inference_mode()
    def self_certainty(self, requests: Sequence[Request], texts: Sequence[str]) -> Iterator[Batch]:
        """How sure the model is along a text (Kang et al. 2025, arXiv 2502.18581); higher is surer, 0 the least.

        The mean over the text's tokens of KL(uniform ‖ p) in nats, p being the whole next-token distribution, over
        every row of the output layer, before temperature. One text a request, none empty; it comes back as a
        completion whose `logprob` is that mean. The token that ends an answer is not part of its text.

        Raises:
            UserError: the model has a classification head, which tells nothing of a text.
        """
        self._check_generates()
        yield from self_certainties(self, requests, texts)

    @torch.inference_mode()
    def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Mean over a text's tokens of the last layer's hidden states, shape [len(texts), hidden]."""
        encoded = [self.encoder.encode_text(text)[: self.context] for text in texts]
        order = sorted(range(len(texts)), key=lambda i: len(encoded[i]))
        vectors = np.zeros((len(texts), self._shape.hidden), dtype=np.float32)
        decoder = self.weights.get_decoder()  # the model without its output layer, adapters in place
        for start in range(0, len(order), 32):
            chosen = order[start : start + 32]
            width = max(1, *(len(encoded[i]) for i in chosen))
            ids = torch.zeros(len(chosen), width, dtype=torch.long, device=self.device)
            real = torch.zeros(len(chosen), width, dtype=torch.bool, device=self.device)
            for row, i in enumerate(chosen):
                ids[row, : len(encoded[i])] = torch.tensor(encoded[i], dtype=torch.long)
                real[row, : len(encoded[i])] = True
            causal = torch.ones(width, width, dtype=torch.bool, device=self.device).tril()
            states = decoder(
                input_ids=ids, attention_mask=causal.expand(len(chosen), 1, width, width), use_cache=False
            ).last_hidden_state.float()
            sums = (states * real[..., None]).sum(1) / real.sum(1, keepdim=True).clamp_min(1)
            vectors[chosen] = sums.cpu().numpy()
        return vectors


def end_tokens(weights: Any, encoder: Encoder) -> set[int]:
    """Tokens that end an answer: those of the model's generation settings, and the tokenizer's."""
    ends = weights.generation_config.eos_token_id
    listed = ends if isinstance(ends, list) else [ends]
    return {i for i in [*listed, encoder.tokenizer.eos_token_id] if i is not None}


def _check_device(device: str) -> None:
    """Refuse a device that torch cannot compute on here.

    Raises:
        UserError: it is none, or not there.
    """
    try:
        torch.zeros(1, device=device).item()  # "meta" has no numbers to tell
    except (RuntimeError, AssertionError, ImportError) as error:
        there = ", ".join(["cpu", *(f"cuda:{i}" for i in range(torch.cuda.device_count()))])
        words = shorten(str(error).partition("\n")[0], 120, placeholder=" …")
        raise UserError(
            f"device is {device!r}, on which torch cannot compute here ({words}). There is --device {there}."
        ) from None
