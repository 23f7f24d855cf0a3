"""The schemes that a model is quantised by: what becomes of its linear layers, and what reads the result."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Scheme:
    """One way of keeping the weights.

    Attributes:
        what: what becomes of the linear layers, as a card tells it.
        readers: what loads the folder.
        package: what must be importable beside the workbench, as in the environment of `make quantize`; None
            where nothing more is needed.
        calibrated: whether it looks at a task's practice split.
    """

    what: str
    readers: str
    package: str | None
    calibrated: bool


_HF = "the engine `hf` (`--model FOLDER`), and transformers with bitsandbytes; not vLLM 0.32"
_VLLM = (
    "vLLM (`workbench serve --model FOLDER`, then `--engine vllm`), on GPUs and on CPUs; the engine `hf` too, "
    "where the package compressed-tensors is installed: it decompresses the weights, and saves no memory"
)
_GPTQ = "GPTQ (Frantar et al. 2023, arXiv 2210.17323)"

SCHEMES = {
    "nf4": Scheme(
        "4-bit NormalFloat with double quantisation (Dettmers et al. 2023, arXiv 2305.14314, §3), by bitsandbytes",
        _HF, None, calibrated=False,
    ),
    "int8": Scheme(
        "8-bit integers with one scale a row (Dettmers et al. 2022, arXiv 2208.07339, §2.1), by bitsandbytes",
        _HF, None, calibrated=False,
    ),
    "w4a16": Scheme(
        f"4-bit integers, symmetric, with one scale a group, by {_GPTQ}; activations stay in 16 bits",
        _VLLM, "llmcompressor", calibrated=True,
    ),
    "w8a8": Scheme(
        f"8-bit integers with one scale a row, by {_GPTQ}; activations are rounded to 8 bits, each token with its "
        "own scale",
        _VLLM, "llmcompressor", calibrated=True,
    ),
    "gguf": Scheme(
        "blocks of a GGUF file (llama.cpp's format), by auto-round",
        "llama.cpp, and Ollama with the Modelfile beside it", "auto_round", calibrated=False,
    ),
}  # fmt: skip
