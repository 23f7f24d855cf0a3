"""Drawing tokens: temperature, top-k, top-p, with one stream of random numbers for each sample.

A sample's tokens depend on its own seed alone, never on which other samples share its batch, so stored
samples 0–15 and samples 16–63 drawn a week later are the samples that 0–63 in one go would have been (up to
rounding in the logits, which depend on the batch's shape).
"""

import numpy as np
import torch

from workbench.decodes import Sampling

_NUCLEUS = 1024  # tokens sorted at first for top-p; the whole vocabulary only where they do not suffice


def uniforms(seeds: list[int], length: int) -> torch.Tensor:
    """Uniform numbers in [0, 1), shape [len(seeds), length], each row from its own seed (Philox)."""
    rows = [np.random.Generator(np.random.Philox(key=seed)).random(length) for seed in seeds]
    return torch.from_numpy(np.stack(rows))


def draw(
    logits_BV: torch.Tensor, uniform_B: torch.Tensor | None, sampling: Sampling
) -> tuple[torch.Tensor, torch.Tensor]:
    """One token for each row, and its log-probability before temperature.

    Args:
        logits_BV: float32.
        uniform_B: numbers in [0, 1); None where the temperature is 0.
        sampling: temperature, top-k and top-p, applied in this order (as Hugging Face and vLLM do).

    Returns:
        tokens [B] (int64) and log-probabilities [B] (nats).
    """
    if sampling.temperature == 0 or uniform_B is None:
        tokens = logits_BV.argmax(-1)
    else:
        # The largest is subtracted first, and float32 knows no 1e-300: no infinity, no 0 / 0.
        scaled = (logits_BV - logits_BV.amax(-1, keepdim=True)) / max(sampling.temperature, 1e-30)
        if sampling.top_k:
            floor = scaled.topk(min(sampling.top_k, scaled.shape[-1]), dim=-1).values[:, -1:]
            scaled = scaled.masked_fill(scaled < floor, -torch.inf)
        if sampling.top_p < 1:
            scaled = _keep_nucleus(scaled, sampling.top_p)
        # Inverse of the cumulative distribution, unnormalised: u·total falls into one token's share.
        share = scaled.exp().cumsum(-1, dtype=torch.float64)
        total = share[:, -1:]
        # Below the total whatever rounding does, or the last token would be drawn though it was cut.
        below = torch.nextafter(total, torch.zeros_like(total))
        point = torch.minimum(uniform_B.to(share).unsqueeze(-1) * total, below)
        tokens = torch.searchsorted(share, point, right=True).squeeze(-1)
    picked = logits_BV.gather(-1, tokens.unsqueeze(-1)).squeeze(-1)
    return tokens, picked - logits_BV.logsumexp(-1)


def _keep_nucleus(scaled_BV: torch.Tensor, top_p: float) -> torch.Tensor:
    """Holtzman et al. 2020: the smallest set of most likely tokens whose mass reaches top_p."""
    total = scaled_BV.logsumexp(-1, keepdim=True)
    count = min(_NUCLEUS, scaled_BV.shape[-1])
    top = scaled_BV.topk(count, dim=-1).values
    mass = (top - total).exp().cumsum(-1)
    if bool((mass[:, -1] < top_p).any()):  # a flat distribution: sort all of it
        top = scaled_BV.sort(dim=-1, descending=True).values
        mass = (top - total).exp().cumsum(-1)
    last = (mass < top_p).sum(-1, keepdim=True).clamp_max(top.shape[-1] - 1)
    return scaled_BV.masked_fill(scaled_BV < top.gather(-1, last), -torch.inf)
