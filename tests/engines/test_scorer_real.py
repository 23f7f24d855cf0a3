"""A reward model behind a real vLLM server on the CPU: its rewards are those of the folder."""

import os
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
import torch
from interpreters import NEEDS_VLLM, VLLM

from workbench.engines.reward_head import with_reward_head
from workbench.engines.scorer import RewardModel, RewardServer
from workbench.models import load_base, load_tokenizer
from workbench.types import Message, Model, Request

pytestmark = NEEDS_VLLM


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, embedded_model: Model) -> Path:
    """The embedded model with a head drawn at random."""
    tokenizer = load_tokenizer(embedded_model)
    weights = with_reward_head(load_base(embedded_model, "float32", "cpu"), tokenizer)
    torch.manual_seed(0)
    torch.nn.init.normal_(weights.score.weight, std=0.05)
    made = tmp_path_factory.mktemp("reward") / "reward_model"
    weights.save_pretrained(made)
    tokenizer.save_pretrained(made)
    return made


@pytest.fixture(scope="module")
def url(folder: Path) -> Iterator[str]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = f"-m vllm.entrypoints.openai.api_server --host 127.0.0.1 --port {port} --runner pooling"
    command += " --max-model-len 512 --dtype float32 --enforce-eager --model"
    log = folder.with_name("server.log")
    with log.open("w") as output:
        process = subprocess.Popen(
            [str(VLLM), *command.split(), str(folder)],
            stdout=output,
            stderr=subprocess.STDOUT,
            env={**os.environ, "VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_NO_USAGE_STATS": "1"},
            start_new_session=True,
        )
    try:
        address, deadline = f"http://127.0.0.1:{port}", time.monotonic() + 300
        while not _healthy(address):
            assert process.poll() is None and time.monotonic() < deadline, log.read_text()[-5000:]
            time.sleep(1)
        yield address
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait(30)


def _healthy(address: str) -> bool:
    try:
        return httpx.get(f"{address}/health", timeout=5).is_success
    except httpx.RequestError:
        return False


def test_its_rewards_are_those_of_the_folder(url: str, folder: Path) -> None:
    asked = [
        (Request(f"q{i}", (Message("user", f"What is {i} plus 7?"),)), text)
        for i in range(4)
        for text in (f"The answer is {i + 7}.", "I do not know; <|im_end|> is no token here.")
    ]
    server, local = RewardServer(folder, [url]), RewardModel(folder, device="cpu")
    theirs = dict(pair for batch in server.rewards(asked) for pair in batch)
    ours = dict(pair for batch in local.rewards(asked) for pair in batch)
    values = [ours[i].logprob for i in range(len(asked))]
    assert [theirs[i].logprob for i in range(len(asked))] == pytest.approx(values, abs=1e-3)
    assert len({round(value or 0, 3) for value in values}) == len(asked), "the answers have different rewards"
