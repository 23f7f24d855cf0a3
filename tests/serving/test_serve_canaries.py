"""The canaries on servers that compute the tiny model rightly, and wrongly in each way that a check is for."""

import json
import math
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import pytest

from workbench.adapters import load_weights
from workbench.engines.encode import Encoder
from workbench.models import load_tokenizer
from workbench.server_state import Canary, Served, ServerState
from workbench.serving.asking import TOKENS, Asked, Drawn, Ids, Refusal
from workbench.serving.canaries import BOUNDS, QUANTIZED, look
from workbench.serving.log_words import words
from workbench.serving.reference import Reference, find_reference
from workbench.types import Message, Model, Request

pytestmark = pytest.mark.usefixtures("one_thread")


@dataclass
class Computing:
    """A server that computes with transformers.

    Attributes:
        encoder: of the base.
        draws: by served name, the weights that it draws with.
        scores: those that it scores prompts with, where they are others.
        off: added to what it says of each token that it draws.
        rank: which of the likeliest tokens it draws; 0 is greedy.
        cut: tokens that its template leaves out.
        refuses: what it says to every request for answers.
    """

    encoder: Encoder
    draws: dict[str, Any]
    scores: dict[str, Any] = field(default_factory=dict)
    off: float = 0.0
    rank: int = 0
    cut: int = 0
    refuses: str = ""

    def draw(self, asked: Asked, prompts: Sequence[Ids]) -> list[Drawn]:
        import torch

        if self.refuses:
            raise Refusal(self.refuses)
        found = []
        for prompt in prompts:
            ids, said = list(prompt), []
            for _ in range(TOKENS):
                with torch.no_grad():
                    logits = self.draws[asked.name](input_ids=torch.tensor([ids])).logits[0, -1]
                best = torch.log_softmax(logits, -1).topk(self.rank + 1)
                ids.append(int(best.indices[-1]))
                said.append(float(best.values[-1]) + self.off)
            own = ids[len(prompt) :]
            found.append(Drawn(own, said, self.encoder.decode(own)))
        return found

    def score(self, asked: Asked, prompts: Sequence[Ids], answers: Sequence[Ids]) -> list[list[float]]:
        import torch

        weights = self.scores.get(asked.name, self.draws[asked.name])
        found = []
        for prompt, answer in zip(prompts, answers, strict=True):
            with torch.no_grad():
                logprobs = torch.log_softmax(weights(input_ids=torch.tensor([prompt + answer])).logits[0], -1)
            found.append([float(logprobs[len(prompt) - 1 + i, token]) for i, token in enumerate(answer)])
        return found

    def tokenize(self, model: str, style: str, text: str) -> Ids:
        return self.encoder.encode(Request(text, (Message("user", text),), style=style))[self.cut :]


@pytest.fixture(scope="module")
def encoder(tiny_model: Path) -> Encoder:
    return Encoder(load_tokenizer(Model(str(tiny_model))))


@pytest.fixture(scope="module")
def weights(tiny_model: Path, loras: Path) -> dict[str, Any]:
    folders = {"base": None, "one": str(loras / "one"), "soft": str(loras / "soft")}
    return {n: load_weights(Model(str(tiny_model), adapter=f), "float32", "cpu") for n, f in folders.items()}


@pytest.fixture(scope="module")
def reference(tiny_model: Path, loras: Path) -> Reference:
    folders = {"one": ("LORA", str(loras / "one")), "soft": ("PROMPT_TUNING", str(loras / "soft"))}
    return Reference(tiny_model, folders, "float32")


NAMES = [Asked("base", "base"), Asked("one", "one"), Asked("soft", "base", embed=str)]


def failed(seen: Sequence[Canary]) -> set[tuple[str, str]]:
    return {(canary.served, canary.check) for canary in seen if not canary.passed}


def test_a_server_that_computes_the_model(encoder: Encoder, weights: dict[str, Any], reference: Reference) -> None:
    seen = look(Computing(encoder, weights), encoder, NAMES, reference.score, BOUNDS)  # type: ignore[arg-type]
    assert failed(seen) == set()
    values = {(canary.served, canary.check): canary.value for canary in seen}
    whole = {"prefill", "decode", "self", "greedy"}
    assert {check for name, check in values if name == "base"} == whole | {"tokens"}
    assert {check for name, check in values if name == "one"} == whole
    assert {check for name, check in values if name == "soft"} == {"decode", "greedy"}
    assert max(values.values()) < 1e-4


def test_the_reference_is_the_base_again_after_an_adapter(reference: Reference) -> None:
    prompts, answers = [[5, 6, 7]], [[8, 9]]
    before = reference.score("base", prompts, answers)
    for name in ("one", "soft"):
        assert reference.score(name, prompts, answers) != before
    assert reference.score("base", prompts, answers) == before


@pytest.mark.parametrize(
    ("wrong", "checks"),
    [
        # An adapter that is not applied, and one that is applied to the base as well.
        ({"draws": {"base": "base", "one": "base"}}, {("one", "prefill"), ("one", "decode"), ("one", "greedy")}),
        ({"draws": {"base": "one", "one": "one"}}, {("base", "prefill"), ("base", "decode"), ("base", "greedy")}),
        # Decoding with other weights than prompts are read with.
        (
            {"draws": {"base": "one", "one": "one"}, "scores": {"base": "base"}},
            {("base", "decode"), ("base", "greedy"), ("base", "self")},
        ),
        # Prompts read with other weights than are decoded with.
        ({"scores": {"base": "one"}}, {("base", "prefill"), ("base", "self")}),
        # Right numbers, and yet not the likeliest token.
        ({"rank": 1}, {("base", "greedy"), ("one", "greedy")}),
        ({"off": 0.2}, {(n, c) for n in ("base", "one") for c in ("decode", "self")}),
        ({"off": math.nan}, {(n, c) for n in ("base", "one") for c in ("decode", "self")}),
        ({"cut": 1}, {("base", "tokens")}),
        ({"refuses": "HTTP 500"}, {("base", "answer"), ("one", "answer")}),
    ],
)
def test_what_each_check_catches(
    encoder: Encoder,
    weights: dict[str, Any],
    reference: Reference,
    wrong: dict[str, Any],
    checks: set[tuple[str, str]],
) -> None:
    told = {"draws": {"base": "base", "one": "one"}, **wrong}
    for side in ("draws", "scores"):
        if side in told:
            told[side] = {served: weights[name] for served, name in told[side].items()}
    server: Any = Computing(encoder, **told)
    assert failed(look(server, encoder, NAMES[:2], reference.score, BOUNDS)) == checks


def test_without_a_reference_a_server_is_compared_with_itself(encoder: Encoder, weights: dict[str, Any]) -> None:
    server: Any = Computing(encoder, weights, scores={"base": weights["one"]})
    seen = look(server, encoder, NAMES, None, BOUNDS)
    assert [(c.served, c.check) for c in seen] == [("base", "tokens"), ("base", "self"), ("one", "self")]
    assert failed(seen) == {("base", "self")}


def test_a_failed_check_says_what_was_seen(
    encoder: Encoder, weights: dict[str, Any], reference: Reference
) -> None:
    server: Any = Computing(encoder, {"base": weights["base"]}, off=0.5)
    seen = look(server, encoder, NAMES[:1], reference.score, BOUNDS)
    said = {canary.check: str(canary) for canary in seen}
    assert said["decode"].startswith("base, decode: 0.500, at most 0.15. '")
    assert "a token as it drew, the engine hf says -" in said["decode"]


# --- which reference ----------------------------------------------------------------------------------


def state_of_a_model(folder: Path, loras: Path) -> ServerState:
    return ServerState(
        url="http://127.0.0.1:8120", host="127.0.0.1", port=8120, model="m", revision=None, folder=str(folder),
        pid=1, created=0.0, mark="", python="", version="0.32.0 cpu", command=(), dtype="bfloat16",
        max_lora_rank=8, room=4, prompt_embeds=False, started="",
        adapters={"one-1": Served(str(loras / "one"), "LORA", "")},
    )  # fmt: skip


def test_the_reference_is_the_model_where_it_fits(
    tiny_model: Path, loras: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found, bounds, note = find_reference(state_of_a_model(tiny_model, loras))
    assert found is not None and bounds == BOUNDS and note == ""
    free = psutil.virtual_memory()._replace(available=2**20)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: free)
    found, _, note = find_reference(state_of_a_model(tiny_model, loras))
    assert found is None
    assert note == "compared with itself only: the engine hf would need 1.0 GiB, and 0.0 GiB are free"


def test_the_reference_of_a_quantised_model_is_what_it_was_made_from(
    tiny_model: Path, loras: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "quantised"
    shutil.copytree(tiny_model, folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"quantization_config": {"quant_method": "gptq"}}))
    found, bounds, note = find_reference(state_of_a_model(folder, loras))
    assert (
        found is None
        and note == "compared with itself only: the model is quantised, and does not say by name from what"
    )
    (folder / "quantization.json").write_text(json.dumps({"base": str(tiny_model), "scheme": "w4a16"}))
    found, bounds, note = find_reference(state_of_a_model(folder, loras))
    assert found is not None and found._model.base == str(tiny_model)
    assert bounds == QUANTIZED and note == ""
    told = {"base": str(tiny_model), "base_hash": "0" * 16}
    (folder / "quantization.json").write_text(json.dumps(told))
    found, _, note = find_reference(state_of_a_model(folder, loras))
    assert found is None and "quantised from other weights than" in note
    (folder / "quantization.json").write_text(json.dumps({"base": "gone"}))
    found, _, note = find_reference(state_of_a_model(folder, loras))
    assert found is None and "There is no model 'gone'" in note


# --- what a log says ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("log", "told", "advice"),
    [
        (
            "(EngineCore pid=7) ERROR 11-21 22:15:15 [core.py:1512] ValueError: To serve at least one request "
            "with the models's max seq len (8192), 2.1 GiB KV cache is needed\n"
            "(APIServer pid=6) RuntimeError: Engine core initialization failed. See root cause above.",
            "ValueError: To serve at least one request",
            "lower --max-model-len",
        ),
        ("OSError: [Errno 98] Address already in use", "OSError: [Errno 98]", "say another --port"),
        ("torch.OutOfMemoryError: CUDA out of memory. Tried to", "CUDA out of memory", "Memory ran out"),
        (
            "ValueError: Free memory on device cuda:0 (3/80 GiB) on startup is less than desired",
            "Free memory",
            "Too little memory is free",
        ),
        ("ValueError: Bfloat16 is only supported on GPUs with", "Bfloat16", "--dtype float16"),
        ("  Value error, Unknown quantization method: foo.", "Unknown quantization", "does not read that quant"),
        ("ModuleNotFoundError: No module named 'torch'", "No module named", "environment is broken"),
        ("api_server.py: error: unrecognized arguments: --foo", "--foo", "see --vllm-args"),
        ("one\ntwo\n\nthree", "    one\n    two\n    three", ""),
        ("", "", ""),
    ],
)
def test_the_words_of_a_log(log: str, told: str, advice: str) -> None:
    said = words(log)
    assert told in said and advice in said
    assert "initialization failed" not in said


def test_a_server_that_the_system_killed() -> None:
    assert "The system killed it, most likely for memory" in words("INFO: loading\n", -9)
    assert "killed" not in words("INFO: loading\n", 1)


def test_advice_is_drawn_from_errors_only() -> None:
    log = "(APIServer pid=1) INFO 11-21 10:00:00 [loggers.py:259] Engine 000: GPU KV cache usage: 0.1%\n"
    assert "context does not fit" not in words(log)
    assert "The system killed it" in words(log, -9)
    assert "ended without an error line: killed from outside, or for memory" in words(log, ended=True)
    assert "ended without" not in words("OSError: no\n", ended=True)
    assert "say another --port" in words(
        "ERROR:    [Errno 98] error while attempting to bind: address already in use"
    )
