"""Training on a GPU: the losses are those of the CPU, in float32 and over a base in 4 bits."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import training_process
from training_process import train

from workbench.run_folder import RunFolder

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU; on a machine with one: pytest -m gpu"),
]


@pytest.mark.parametrize("method", training_process.METHODS)
def test_the_losses_are_the_cpus(method: str, tiny_model: Path, tmp_path: Path) -> None:
    never = ("kill", "0")  # no update has that number
    command = [sys.executable, training_process.__file__, method, tiny_model, tmp_path / "cpu", *never]
    env = os.environ | {"CUDA_VISIBLE_DEVICES": ""}
    subprocess.run([str(word) for word in command], env=env, check=True)
    cpu = RunFolder(tmp_path / "cpu" / "tuned").metrics()
    gpu = train(tiny_model, tmp_path / "gpu", method=method).metrics()
    assert [line["loss"] for line in gpu] == pytest.approx([line["loss"] for line in cpu], abs=2e-2)
