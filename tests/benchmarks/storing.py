"""A million completions stored and read, and the estimators over a thousand samples a question."""

import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from tests.benchmarks.table import Row
from workbench.stats import majority_curve, pass_at_k
from workbench.store import Store
from workbench.types import Completion, Finish

SAMPLES = 1000
BATCH = 128  # what the embedded engine hands over at once
KS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512)
SECONDS = 1.0


def run(quick: bool = False) -> list[Row]:
    """1,000 questions × 1,000 samples."""
    questions = 20 if quick else 1000
    return [*_store(questions), _estimators(questions)]


def _store(questions: int) -> list[Row]:
    count = questions * SAMPLES
    text = " The answer is {}. Let us check it: half of it, and then as much again, gives it back."
    written = [
        (f"{q:016x}", Completion(i, text.format(q * i), 60, 24, -0.5 - i, 0.25, Finish.STOP))
        for q in range(questions)
        for i in range(SAMPLES)
    ]
    ids = [f"{q:016x}" for q in range(questions)]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "completions.sqlite"
        started = time.perf_counter()
        with Store(path) as store:
            stream = store.stream({"model": "benchmark"})
            for start in range(0, count, BATCH):
                store.append(stream, written[start : start + BATCH])
        writing = time.perf_counter() - started
        size = path.stat().st_size
        started = time.perf_counter()
        with Store(path) as store:
            opening = time.perf_counter() - started
            absent = store.missing(stream, ids, SAMPLES)
            asking = time.perf_counter() - started - opening
            read = store.read(stream, ids, SAMPLES)
        reading = time.perf_counter() - started - opening - asking
    same = not absent and all(read[id][c.index] == c for id, c in written)
    kept = "every completion read back as written" if same else "what was read is NOT what was written"
    what = f"{count:,} completions of {len(text)} characters"
    print(f"  stored in {writing:.1f} s, read in {reading:.1f} s", file=sys.stderr, flush=True)
    return [
        Row(
            f"storing {what}, {BATCH} a transaction",
            "–",
            f"{size / 1e6:.0f} MB",
            f"{writing:.1f} s",
            "–",
            kept,
            same,
        ),
        Row(
            f"reading {what}",
            "–",
            f"opened and checked in {opening:.1f} s, asked what is missing in {asking:.1f} s",
            f"{reading:.1f} s",
            "–",
            kept,
            same,
        ),
    ]


def _estimators(questions: int) -> Row:
    rng = np.random.default_rng(0)
    # Each question has a difficulty; wrong answers are spread over twenty others.
    right = rng.beta(0.7, 1.3, size=(questions, 1))
    answers = np.where(rng.random((questions, SAMPLES)) < right, 0, rng.integers(1, 21, (questions, SAMPLES)))
    targets = np.zeros(questions, dtype=np.int64)
    seconds = []
    for _ in range(3):
        started = time.perf_counter()
        correct = (answers == targets[:, None]).sum(1)
        passed = pass_at_k(SAMPLES, correct[:, None], np.array(KS)[None, :]).mean(0)
        voted = majority_curve(answers, targets, KS).mean(0)
        seconds.append(time.perf_counter() - started)
    # One sample votes for itself: both estimators are then the plain share of right answers.
    share = correct.mean() / SAMPLES
    same = abs(passed[0] - share) < 1e-9 and abs(voted[0] - share) < 0.005
    return Row(
        what=f"pass@k and majority@k, {questions:,} questions × {SAMPLES:,} samples, {len(KS)} values of k",
        baseline="–",
        workbench=f"{questions * SAMPLES * len(KS) / min(seconds) / 1e6:.0f} million samples/s for each k",
        result=f"{min(seconds):.2f} s",
        floor=f"< {SECONDS:g} s",
        checked=f"at k = 1 both are the share of right answers ({share:.3f})",
        passed=min(seconds) < SECONDS and bool(same),
    )
