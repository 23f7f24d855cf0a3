"""The embedded engine: transformers in this process, on a CPU or a GPU.

What it does beside `generate`: prompts are batched by length; a prefix that a batch shares is computed once
for the batch, a prompt once for its n samples; rows that have ended leave the batch; labels are scored
with logits only where they are read. A batch's content is a function of the requests alone, so a run that
was killed and goes on draws what the uninterrupted run would have drawn.
"""

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
import transformers
from numpy.typing import NDArray

from workbench.cost import ModelShape
from workbench.engines.base import Batch, sample_seed
from workbench.engines.encode import Encoder, common_prefix
from workbench.engines.kv import ATTENTION, BufferLayer, buffers_from
from workbench.engines.packing import Branch, pack
from workbench.engines.sampler import draw, uniforms
from workbench.errors import UserError
from workbench.models import load_tokenizer, load_weights, shape_of
from workbench.types import Completion, Finish, Model, Request, Sampling

_ROOM = 32  # positions a decoding buffer gains when it is full
_STOP_WINDOW = 24  # tokens decoded to look for a stop string


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
        self.weights = load_weights(model, dtype, self.device)
        self.weights.set_attn_implementation(ATTENTION)
        self.encoder = Encoder(load_tokenizer(model))
        self.max_rows, self.max_positions = max_rows, max_positions
        config = self.weights.config.get_text_config()
        self.context = min(
            config.max_position_embeddings,
            getattr(config, "sliding_window", None) or config.max_position_embeddings,
        )
        self._shape = shape_of(self.weights)
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

    def close(self) -> None:
        """Let the weights go."""
        del self.weights
        if self.device.startswith("cuda"):
            torch.cuda.empty_cache()

    # --- sampling -----------------------------------------------------------------------------------

    @torch.inference_mode()
    def sample(self, requests: Sequence[Request], sampling: Sampling) -> Iterator[Batch]:
        """Batches in the order of their prompts' lengths, longest first."""
        rows: list[_Row] = []
        for request in requests:
            prompt = self.encoder.encode(request)
            if len(prompt) + 1 > self.context:
                yield [(request.id, self._too_long(i, len(prompt))) for i in request.indices]
                continue
            rows.extend(_Row(request, index, prompt) for index in request.indices)
        rows.sort(key=lambda row: (-len(row.prompt), row.request.id, row.index))
        while rows:
            longest = len(rows[0].prompt) + min(sampling.max_tokens, self.context - len(rows[0].prompt))
            count = max(1, min(self.max_rows, self.max_positions // longest))
            batch, rows = rows[:count], rows[count:]
            yield self._decode(batch, sampling)

    def _too_long(self, index: int, length: int) -> Completion:
        message = f"the prompt has {length} tokens; the model's context is {self.context}"
        return Completion(index, "", prompt_tokens=length, finish=Finish.ERROR, error=message)

    def _decode(self, rows: list[_Row], sampling: Sampling) -> Batch:
        started = time.perf_counter()
        distinct: dict[str, int] = {}
        for row in rows:
            distinct.setdefault(row.request.id, len(distinct))
        prompts = [next(r.prompt for r in rows if r.request.id == key) for key in distinct]
        cache, logits, padding = self._prefill(prompts)

        picked = torch.tensor([distinct[row.request.id] for row in rows], device=self.device)
        used = cache.get_seq_length()
        cache = buffers_from(cache, picked, used + min(_ROOM, sampling.max_tokens))
        logits, padding = logits[picked], padding[picked]
        seeds = [sample_seed(sampling.seed, row.request.id, row.index) for row in rows]
        random = uniforms(seeds, sampling.max_tokens).to(self.device) if sampling.temperature > 0 else None
        positions = torch.tensor([len(row.prompt) for row in rows], device=self.device)

        active = list(rows)
        for step in range(sampling.max_tokens):
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
            length = cache.get_seq_length() + 1
            mask = torch.arange(length, device=self.device)[None, :] >= padding[:, None]
            logits = self._forward(tokens[:, None], positions[:, None], mask[:, None, None, :], cache)
            positions = positions + 1
        seconds = (time.perf_counter() - started) / len(rows)
        return [(row.request.id, self._completion(row, sampling, seconds)) for row in rows]

    def _prefill(self, prompts: list[list[int]]) -> tuple[Any, torch.Tensor, torch.Tensor]:
        """Keys and values of every prompt, last logits [P, V], and each row's left padding [P].

        Layout of a row: shared prefix, padding, the prompt's own rest. Padding sits behind the prefix, so the
        mask of a decoding step hides positions [prefix, prefix + padding): the rows are rolled so that the
        padding comes first, which the mask then tells by one number a row.
        """
        shared = common_prefix(prompts)
        rests = [prompt[shared:] for prompt in prompts]
        width = max(len(rest) for rest in rests)
        pads = torch.tensor([width - len(rest) for rest in rests], device=self.device)
        count = len(prompts)
        prefix = transformers.DynamicCache()
        if shared:
            ids = torch.tensor([prompts[0][:shared]], device=self.device)
            causal = torch.ones(1, 1, shared, shared, dtype=torch.bool, device=self.device).tril()
            self.weights(
                input_ids=ids, position_ids=torch.arange(shared, device=self.device)[None], attention_mask=causal,
                past_key_values=prefix, use_cache=True, logits_to_keep=1,
            )  # fmt: skip
        ids = torch.zeros(count, width, dtype=torch.long, device=self.device)
        for i, rest in enumerate(rests):
            ids[i, width - len(rest) :] = torch.tensor(rest, device=self.device)
        own = torch.arange(width, device=self.device)
        positions = (own[None, :] - pads[:, None] + shared).clamp_min(0)
        visible = own[None, :, None] >= own[None, None, :]  # causal
        visible = visible & (own[None, None, :] >= pads[:, None, None])
        # A padding query must see something, or its softmax is empty: it sees itself.
        visible = visible | torch.eye(width, dtype=torch.bool, device=self.device)
        before = torch.ones(count, width, shared, dtype=torch.bool, device=self.device)
        mask = torch.cat([before, visible], dim=-1)[:, None]
        first = torch.zeros(count, dtype=torch.long, device=self.device)
        cache = buffers_from(prefix, first, shared + width) if shared else prefix
        logits = self._forward(ids, positions, mask, cache)
        _roll(cache, shared, pads)
        return cache, logits, pads

    def _forward(self, ids: torch.Tensor, positions: torch.Tensor, mask: torch.Tensor, cache: Any) -> torch.Tensor:
        """Logits of the last position, float32 [B, V]."""
        out = self.weights(
            input_ids=ids, position_ids=positions, attention_mask=mask, past_key_values=cache, use_cache=True,
            logits_to_keep=1,
        )  # fmt: skip
        logits: torch.Tensor = out.logits[:, -1].float()
        return logits

    def _take(self, row: _Row, token: int, logprob: float, sampling: Sampling) -> None:
        """Add a drawn token to a row and see whether the row has ended."""
        row.tokens.append(token)
        row.logprob += logprob
        if token in self._ends or (
            sampling.stop and any(s in self.encoder.decode(row.tokens[-_STOP_WINDOW:]) for s in sampling.stop)
        ):
            row.finish = Finish.STOP
        elif len(row.tokens) >= sampling.max_tokens or len(row.prompt) + len(row.tokens) >= self.context:
            row.finish = Finish.LENGTH

    def _completion(self, row: _Row, sampling: Sampling, seconds: float) -> Completion:
        text = self.encoder.decode(row.tokens)
        for stop in sampling.stop:
            text = text.split(stop, 1)[0]
        return Completion(
            index=row.index,
            text=text,
            prompt_tokens=len(row.prompt),
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
            branches = [Branch(*self.encoder.encode_pair(request, text)) for text in texts]
            longest = max(len(b.prompt) + len(b.continuation) for b in branches)
            if longest > self.context:
                yield [(request.id, self._too_long(i, longest)) for i in range(len(branches))]
                continue
            work.append((request, branches))
        work.sort(key=lambda item: (item[1][0].prompt, item[0].id))  # neighbours share the longest prefixes
        while work:
            taken = _take_pack([branches for _, branches in work])
            batch, work = work[:taken], work[taken:]
            yield self._score(batch)

    def _score(self, batch: list[tuple[Request, list[Branch]]]) -> Batch:
        started = time.perf_counter()
        packed = pack([branches for _, branches in batch], self.device)
        out = self.weights(
            input_ids=packed.ids, position_ids=packed.positions, attention_mask=packed.mask,
            use_cache=False, logits_to_keep=packed.read_at,
        )  # fmt: skip
        logits = out.logits[0].float()
        scores = logits.gather(-1, packed.targets[:, None]).squeeze(-1) - logits.logsumexp(-1)
        sums = torch.zeros(packed.count, device=self.device).index_add_(0, packed.owner, scores).tolist()
        seconds = (time.perf_counter() - started) / packed.count
        results: Batch = []
        for request, branches in batch:
            for index, branch in enumerate(branches):
                results.append(
                    (
                        request.id,
                        Completion(
                            index=index,
                            text=branch.text,
                            prompt_tokens=len(branch.prompt),
                            completion_tokens=len(branch.continuation),
                            logprob=sums[len(results)],
                            seconds=seconds,
                            finish=Finish.SCORED,
                        ),
                    )
                )
        return results

    @torch.inference_mode()
    def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Mean over a text's tokens of the last layer's hidden states, shape [len(texts), hidden]."""
        encoded = [self.encoder.encode_text(text)[: self.context] for text in texts]
        order = sorted(range(len(texts)), key=lambda i: len(encoded[i]))
        vectors = np.zeros((len(texts), self._shape.hidden), dtype=np.float32)
        inner = self.weights.get_base_model() if hasattr(self.weights, "get_base_model") else self.weights
        for start in range(0, len(order), 32):
            chosen = order[start : start + 32]
            width = max(1, max(len(encoded[i]) for i in chosen))
            ids = torch.zeros(len(chosen), width, dtype=torch.long, device=self.device)
            real = torch.zeros(len(chosen), width, dtype=torch.bool, device=self.device)
            for row, i in enumerate(chosen):
                ids[row, : len(encoded[i])] = torch.tensor(encoded[i], dtype=torch.long)
                real[row, : len(encoded[i])] = True
            causal = torch.ones(width, width, dtype=torch.bool, device=self.device).tril()
            states = inner.model(
                input_ids=ids, attention_mask=causal.expand(len(chosen), 1, width, width), use_cache=False
            ).last_hidden_state.float()
            sums = (states * real[..., None]).sum(1) / real.sum(1, keepdim=True).clamp_min(1)
            vectors[chosen] = sums.cpu().numpy()
        return vectors


def _roll(cache: Any, shared: int, pads: torch.Tensor) -> None:
    """Move each row's padding from behind the shared prefix to the front of the row, in place."""
    if shared == 0 or not bool(pads.any()):
        return
    length = cache.get_seq_length()
    column = torch.arange(length, device=pads.device)[None, :]
    # New column c of a row with p pads: c < p takes padding; c < p + shared the prefix; the rest stays.
    source = torch.where(
        column < pads[:, None],
        column + shared,
        torch.where(column < pads[:, None] + shared, column - pads[:, None], column),
    )
    for layer in cache.layers:
        assert isinstance(layer, BufferLayer)
        for buffer in layer.buffers:
            index = source[:, None, :, None].expand(-1, buffer.shape[1], -1, buffer.shape[3])
            buffer[:, :, :length] = buffer[:, :, :length].gather(2, index)


def _take_pack(work: list[list[Branch]], limit: int = 1024) -> int:
    """How many questions go into one packed sequence: new tokens bounded, attention being quadratic."""
    total = 0
    for count, branches in enumerate(work):
        total += len(branches[0].prompt) - (common_prefix([work[0][0].prompt, branches[0].prompt]) if count else 0)
        total += sum(len(branch.continuation) for branch in branches)
        if total > limit and count:
            return count
    return len(work)
