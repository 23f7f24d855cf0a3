"""How far a tuned model is from the one that it was: estimators of KL(π ‖ π_ref) from samples of π.

Schulman 2020, "Approximating KL divergence". With r = π_ref / π at a sampled token: k1 = −log r and
k3 = r − 1 − log r are unbiased; k2 = ½(log r)² is biased, and varies less than k1. k1 may be negative, k2 and k3
may not.
"""

import numpy as np
from numpy.typing import ArrayLike, NDArray


def kl_estimates(
    logprobs: ArrayLike, reference: ArrayLike
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """(k1, k2, k3) of each token, nats.

    Args:
        logprobs: of tokens sampled from π, under π.
        reference: of the same tokens under π_ref, of the same shape.

    Raises:
        ValueError: the shapes differ.
    """
    ours, theirs = np.asarray(logprobs, dtype=np.float64), np.asarray(reference, dtype=np.float64)
    if ours.shape != theirs.shape:
        raise ValueError(f"logprobs have the shape {ours.shape} and reference {theirs.shape}")
    log_ratio = theirs - ours
    return -log_ratio, 0.5 * log_ratio**2, np.expm1(log_ratio) - log_ratio
