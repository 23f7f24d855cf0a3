"""The embedded engine: transformers in this process, on a CPU or a GPU.

What it does beside `generate`: prompts are batched by length; a prefix that a batch shares is computed once
for the batch, a prompt once for its n samples; rows that have ended leave the batch; labels are scored
with logits only where they are read. A batch's content is a function of the requests alone, so a run that
was killed and goes on draws what the uninterrupted run would have drawn.
"""

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch
import transformers
from numpy.typing import NDArray
from transformers.cache_utils import Cache

from workbench.adapters import load_weights
from workbench.cost import ModelShape
from workbench.engines.base import Batch, sample_seed
from workbench.engines.encode import Encoder, common_prefix
from workbench.engines.forward import next_logits, packed_logits, prefill, prefix_cache, use_grouped_attention
from workbench.engines.kv import buffers_from
from workbench.engines.packing import Branch, pack, questions_that_fit
from workbench.engines.sampler import draw, uniforms
from workbench.engines.soft_prompt import is_soft_prompt, keys_of_adapter
from workbench.errors import UserError
from workbench.models import context_of, load_tokenizer, shape_of
from workbench.own_kinds import labels_of, without_head
from workbench.types import Completion, Finish, Model, Request, Sampling

_ROOM = 32  # positions a decoding buffer gains when it is full
_STOP_SLACK = 8  # tokens decoded to look for a stop string, beyond one for each of its bytes


@dataclass
class _Row:
    """One sample in the making."""

    request: Request
    index: int
    prompt: list[int]
    tokens: list[int] = field(default_factory=list)
    logprob: float = 0.0
    finish: Finish | None = None


class HfEngine:
    """A model loaded by transformers. See `engines/base.py` for what its methods promise.

    Args:
        model: what to load.
        dtype: `bfloat16`, `float32` or `float16`.
        device: `cpu`, `cuda`, …; None takes the GPU where there is one.
        max_rows: samples decoded together.
        max_positions: bound on rows × positions of one batch (memory of keys and values).

    Raises:
        UserError: the model cannot be loaded, or the device does not exist.
    """

    def __init__(
        self,
        model: Model,
        *,
        dtype: str = "bfloat16",
        device: str | None = None,
        max_rows: int = 128,
        max_positions: int = 131_072,
    ) -> None:
        self.device = device or ("cuda" if torch.cuda.is_available() else "cpu")
        if self.device.startswith("cuda") and not torch.cuda.is_available():
            raise UserError("device is 'cuda', but torch sees no GPU here. Use --device cpu.")
        loaded = load_weights(model, dtype, self.device)
        soft = is_soft_prompt(loaded)
        self.weights = loaded.get_base_model() if soft else loaded
        self._labels = labels_of(self.weights)
        with without_head(self.weights):  # a head's few scores may be too close together to tell anything
            use_grouped_attention(self.weights)
        self._shape = shape_of(loaded)
        self.soft: Cache | None = None  # keys and values of virtual tokens, which stand before every prompt
        if soft:
            with torch.inference_mode():
                self.soft = keys_of_adapter(loaded)
        self._virtual = self.soft.get_seq_length() if self.soft is not None else 0
        self.encoder = Encoder(load_tokenizer(model))
        self.max_rows, self.max_positions = max_rows, max_positions
        self._context = context_of(self.weights) - self._virtual
        self._version = (
            f"hf transformers-{transformers.__version__} torch-{torch.__version__} {dtype} {self.device}"
        )
        ends = self.weights.generation_config.eos_token_id
        listed = ends if isinstance(ends, list) else [ends]
        self._ends = {i for i in [*listed, self.encoder.tokenizer.eos_token_id] if i is not None}

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
        if self._labels:
            labels = ", ".join(self._labels)
            raise UserError(
                f"The model's head scores {labels} and says nothing. Decode by the likelihood of labels."
            )
        if "" in sampling.stop:
            raise UserError("stop holds an empty string, which would end every answer before it began.")
        rows: list[_Row] = []
        for request in requests:
            prompt = self.encoder.encode(request)
            if problem := self._unfit(len(prompt), 1):
                yield [(request.id, _failed(i, len(prompt), problem)) for i in request.indices]
                continue
            rows.extend(_Row(request, index, prompt) for index in request.indices)
        rows.sort(key=lambda row: (-len(row.prompt), row.request.id, row.index))
        while rows:
            longest = len(rows[0].prompt) + min(sampling.max_tokens, self.context - len(rows[0].prompt))
            count = max(1, min(self.max_rows, self.max_positions // longest))
            batch, rows = rows[:count], rows[count:]
            yield self._decode(batch, sampling)

    def _unfit(self, prompt: int, more: int) -> str | None:
        """Why a prompt of so many tokens, and `more` behind it, cannot be run."""
        if prompt == 0:
            return "the prompt has no tokens"
        if prompt + more > self.context:
            return f"the prompt has {prompt} tokens and needs {more} more; the model's context is {self.context}"
        return None

    def _decode(self, rows: list[_Row], sampling: Sampling) -> Batch:
        started = time.perf_counter()
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
        positions = torch.tensor([self._virtual + len(row.prompt) for row in rows], device=self.device)

        active = list(rows)
        for step in range(steps):
            tokens, logprobs = draw(logits, None if random is None else random[:, step], sampling)
            for row, token, logprob in zip(active, tokens.tolist(), logprobs.tolist(), strict=True):
                if row.finish is None:
                    self._take(row, token, logprob, sampling)
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
            positions = (positions + 1).clamp_max(self._virtual + self.context - 1)
        seconds = (time.perf_counter() - started) / len(rows)
        return [(row.request.id, self._completion(row, sampling, seconds)) for row in rows]

    def _take(self, row: _Row, token: int, logprob: float, sampling: Sampling) -> None:
        """Add a drawn token to a row and see whether the row has ended."""
        row.tokens.append(token)
        row.logprob += logprob
        if token in self._ends or self._stopped(row.tokens, sampling.stop):
            row.finish = Finish.STOP
        elif len(row.tokens) >= sampling.max_tokens or len(row.prompt) + len(row.tokens) >= self.context:
            row.finish = Finish.LENGTH

    def _stopped(self, tokens: list[int], stop: tuple[str, ...]) -> bool:
        """Whether a stop string ends within the last token. It has at most one token for each byte."""
        if not stop:
            return False
        tail = self.encoder.decode(tokens[-max(len(s.encode()) for s in stop) - _STOP_SLACK :])
        return any(s in tail for s in stop)

    def _completion(self, row: _Row, sampling: Sampling, seconds: float) -> Completion:
        text = self.encoder.decode(row.tokens)
        text = text[: min((at for s in sampling.stop if (at := text.find(s)) >= 0), default=len(text))]
        return Completion(
            index=row.index,
            text=text,
            prompt_tokens=self._virtual + len(row.prompt),
            completion_tokens=len(row.tokens),
            logprob=row.logprob,
            seconds=seconds,
            finish=row.finish or Finish.LENGTH,
        )

    # --- scoring ------------------------------------------------------------------------------------

    @torch.inference_mode()
    def logprobs(self, requests: Sequence[Request], continuations: Sequence[Sequence[str]]) -> Iterator[Batch]:
        """Prompts and their continuations as branches of one packed sequence behind the prefix they share."""
        work: list[tuple[Request, list[Branch]]] = []
        for request, texts in zip(requests, continuations, strict=True):
            branches = [self._branch(request, text) for text in texts]
            if not branches:
                continue
            more = max(len(b.continuation) for b in branches)
            if problem := self._unfit(min(len(b.prompt) for b in branches), more):
                yield [(request.id, _failed(i, len(branch.prompt), problem)) for i, branch in enumerate(branches)]
                continue
            work.append((request, branches))
        work.sort(key=lambda item: (item[1][0].prompt, item[0].id))  # neighbours share the longest prefixes
        questions = [branches for _, branches in work]
        # What every prompt begins with is computed once for all batches, where there are several.
        cached = 0
        if questions_that_fit(questions) < len(work):
            cached = common_prefix([branch.prompt for branches in questions for branch in branches])
        started = time.perf_counter()
        start = prefix_cache(self.weights, questions[0][0].prompt[:cached], self.soft) if work else None
        while work:
            taken = questions_that_fit([branches for _, branches in work], cached=cached)
            batch, work = work[:taken], work[taken:]
            scored = self._score(batch, start, cached)
            seconds = (time.perf_counter() - started) / len(scored)  # the prefix's are the first batch's
            yield [(name, replace(completion, seconds=seconds)) for name, completion in scored]
            started = time.perf_counter()

    def _branch(self, request: Request, text: str) -> Branch:
        """A continuation's tokens behind the prompt's, or its label's number where a head scores labels."""
        if not self._labels:
            return Branch(*self.encoder.encode_pair(request, text))
        label = text if text in self._labels else text.removeprefix(" ")  # as `decoding/ask.py` puts it
        if label not in self._labels:
            raise UserError(f"The model's head has no label {text!r}. It has: {', '.join(self._labels)}.")
        return Branch(self.encoder.encode(request), [self._labels.index(label)], text)

    def _score(self, batch: list[tuple[Request, list[Branch]]], start: Cache | None, cached: int) -> Batch:
        packed = pack([branches for _, branches in batch], self.device, virtual=self._virtual, cached=cached)
        scored = [(request, i, branch) for request, branches in batch for i, branch in enumerate(branches)]
        behind = None
        if self._virtual + cached:  # room for this batch behind a copy of what all batches share
            first = torch.zeros(1, dtype=torch.long, device=self.device)
            behind = buffers_from(start, first, packed.mask.shape[-1])
        logits = packed_logits(self.weights, packed, behind)
        scores = logits.gather(-1, packed.targets[:, None]).squeeze(-1) - logits.logsumexp(-1)
        sums = torch.zeros(packed.count, device=self.device).index_add_(0, packed.owner, scores).tolist()
        return [
            (
                request.id,
                Completion(
                    index=index,
                    text=branch.text,
                    prompt_tokens=self._virtual + len(branch.prompt),
                    completion_tokens=len(branch.continuation),
                    logprob=logprob,
                    finish=Finish.SCORED,
                ),
            )
            for (request, index, branch), logprob in zip(scored, sums, strict=True)
        ]

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


def _failed(index: int, prompt_tokens: int, problem: str) -> Completion:
    return Completion(index, "", prompt_tokens=prompt_tokens, finish=Finish.ERROR, error=problem)
