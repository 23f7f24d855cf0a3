"""How a model is quantised, beside the scheme: what a person may set."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

GGUF_TYPES = ("q4_k_m", "q4_0", "q4_1", "q8_0")
GROUP_SIZES = (128, 64, 32)
"""Those that vLLM's kernels for GPUs have; the CPU's takes them too."""


@dataclass(frozen=True)
class Settings:
    """How a model is quantised, beside the scheme.

    Attributes:
        samples: examples of the task's practice split that GPTQ looks at (w4a16, w8a8); by default 256.
        prompt: under which it looks at them; by default the task's own.
        group_size: weights of a row that share a scale (w4a16): 128, 64 or 32; by default the largest that divides
            the width of every layer.
        gguf: type of the GGUF file's blocks: q4_k_m (by default), q4_0, q4_1 or q8_0.
        text: a file of paragraphs to measure perplexity on; by default the project's own general text.
    """

    samples: int | None = None
    prompt: str | None = None
    group_size: Literal[128, 64, 32] | None = None
    gguf: Literal["q4_k_m", "q4_0", "q4_1", "q8_0"] | None = None
    text: Path | None = None
