"""Trainings that are disturbed, on the embedded model: killed at random, and given a batch whose loss is NaN.

Not speed: what is shown is that a LoRA training killed with -9 three times ends as an undisturbed one, and what a
roll-back leaves of the score. Both learn Financial PhraseBank, 16 sentences an update in passes of four.
"""

import json
import random
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from tests.benchmarks.labels import phrasebank
from tests.benchmarks.table import DATA, ROOT, Row

KILLS, UPDATES = 3, 12
SPOILT = 90  # the pass whose loss is NaN: of update 23 of 40


def killed(quick: bool = False) -> list[Row]:
    """The same training undisturbed and killed three times at random: losses and weights compared."""
    phrasebank(1)  # Skip where the data are not at hand
    updates = 4 if quick else UPDATES
    with tempfile.TemporaryDirectory() as scratch:
        whole, disturbed = Path(scratch, "whole"), Path(scratch, "disturbed")
        started = time.perf_counter()
        _wait(_start(whole, updates))
        lasted = time.perf_counter() - started
        clock, died = random.Random(time.time_ns()), []
        while len(died) < KILLS:
            process = _start(disturbed, updates)
            try:
                process.wait(timeout=clock.uniform(0.3, 0.8) * lasted)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
                died.append(len(_lines(disturbed)))
                print(f"  killed after {died[-1]} updates written", file=sys.stderr, flush=True)
                continue
            break  # it ended before it could be killed so often
        _wait(_start(disturbed, updates))
        losses = [{line["step"]: line["loss"] for line in _lines(runs)} for runs in (whole, disturbed)]
        one, other = (
            load_file(runs / "run" / "adapter" / "adapter_model.safetensors") for runs in (whole, disturbed)
        )
        same = sum(torch.equal(one[name], other[name]) for name in one)
        equal = sum(losses[0][step] == losses[1].get(step) for step in losses[0])
    return [
        Row(
            what=f"LoRA training of {updates} updates, killed with -9 {len(died)} times at random",
            baseline=f"undisturbed: {len(losses[0])} losses, {len(one)} tensors",
            workbench=f"killed after {', '.join(map(str, died))} lines of metrics, and finished",
            result=f"{equal} losses and {same} tensors equal",
            floor="all",
            checked="bit for bit",
            passed=equal == len(losses[0]) == updates and same == len(one) == len(other) and len(died) == KILLS,
        )
    ]


def spoilt(quick: bool = False) -> list[Row]:
    """A training in which one pass gives NaN: the roll-back, and the score on dev beside an undisturbed one's."""
    phrasebank(1)
    scores, events = [], []
    for disturbed in (False, True):
        with tempfile.TemporaryDirectory() as scratch:
            _wait(_start(Path(scratch), 8 if quick else 40, nan_at=(10 if quick else SPOILT) if disturbed else 0))
            score = json.loads((Path(scratch) / "run" / "result.json").read_text(encoding="utf-8"))["score"]
            scores.append(f"{100 * score['value']:.1f} % ({100 * score['low']:.1f} – {100 * score['high']:.1f})")
            events += _lines(Path(scratch), "event")
    [event] = events
    return [
        Row(
            what="LoRA training with a batch whose loss is NaN, 150 dev questions",
            baseline=f"undisturbed: {scores[0]}",
            workbench=scores[1],
            result=f"update {event['step']}: {event['reason']}; back to update {event['to_step']}, half the rate",
            floor="–",
            checked="one roll-back in metrics.jsonl",
        )
    ]


def _start(runs: Path, updates: int, nan_at: int = 0) -> subprocess.Popen[str]:
    code = "import sys; from tests.benchmarks.faults import train; train(*sys.argv[1:])"
    command = [sys.executable, "-c", code, str(runs), str(updates), str(nan_at)]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def _wait(process: "subprocess.Popen[str]") -> None:
    out, _ = process.communicate()
    if process.returncode:
        raise RuntimeError(out[-3000:])
    for line in re.findall(r"update \d+: .*roll-back.*", out):
        print(f"  {line}", file=sys.stderr, flush=True)


def _lines(runs: Path, field: str = "loss") -> list[dict[str, Any]]:
    file = runs / "run" / "metrics.jsonl"
    whole = file.read_bytes().rpartition(b"\n")[0].split(b"\n") if file.exists() else []
    lines: list[dict[str, Any]] = [json.loads(line) for line in whole if line]
    return [line for line in lines if field in line]


def train(runs: str, updates: str, nan_at: str) -> None:
    """The recipe `lora`, with the so manyth pass spoilt (0: none); in a process of its own."""
    from recipes import lora
    from workbench.methods.lora import Config
    from workbench.session import Setup
    from workbench.training.config import Training

    if int(nan_at):
        from workbench.training.packed_loss import PackedLoss

        forward, count = PackedLoss.forward, [0]

        def spoiling(self: PackedLoss, batch: Any) -> torch.Tensor:
            count[0] += 1
            return forward(self, batch) * (float("nan") if count[0] == int(nan_at) else 1)

        PackedLoss.forward = spoiling  # type: ignore[method-assign]
    data = (f"path={DATA / 'financial_phrasebank'}", "agreement=all")
    training = Training(5e-4, steps=int(updates), micro_batch=4, save_every=5)
    setup = Setup("phrasebank", data, questions=150, split="dev", runs=Path(runs), name="run")
    lora.main(lora.Config(setup, Config(training=training)))
