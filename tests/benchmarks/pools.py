"""All curves of one pool: pass@k, majority@k, best-of@k, weighted@k for every k with bands; in its own process."""

import json
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

from tests.benchmarks.table import ROOT, Row
from workbench.stats import best_of_n_at_k, majority_curve, pass_at_k, pool_curves

SAMPLES = 1000
SECONDS, MEGABYTES = 2.0, 1000


def run(quick: bool = False) -> list[Row]:
    """1,000 questions × 1,000 samples, of a process with everything in it: the peak is the whole process's."""
    questions = 50 if quick else 1000
    command = [sys.executable, "-m", "tests.benchmarks.pools", str(questions)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    seen = json.loads(done.stdout)
    seconds, megabytes = min(seen["seconds"]), seen["peak"] / 1e6
    return [
        Row(
            what=f"four curves with bands, all k up to {SAMPLES:,}, {questions:,} questions × {SAMPLES:,} samples",
            baseline="–",
            workbench=f"{megabytes:.0f} MB at most, Python and numpy among them",
            result=f"{seconds:.2f} s",
            floor=f"< {SECONDS:g} s, < {MEGABYTES:,} MB",
            checked=f"exact ones equal those for one k, votes are {100 * seen['apart']:.2f} points apart",
            passed=seconds < SECONDS and megabytes < MEGABYTES and seen["same"] and seen["apart"] < 0.005,
        )
    ]


def _curves(questions: int) -> dict[str, object]:
    rng = np.random.default_rng(0)
    right = rng.beta(0.7, 1.3, size=(questions, 1))  # a difficulty each; wrong answers are over twenty others
    answers = np.where(rng.random((questions, SAMPLES)) < right, 0, rng.integers(1, 21, (questions, SAMPLES)))
    scores = rng.normal(size=(questions, SAMPLES)) + (answers == 0)
    seconds = []
    for _ in range(3):
        started = time.perf_counter()
        found = pool_curves(answers, scores, np.exp(scores))
        seconds.append(time.perf_counter() - started)
    peak = _peak()  # before the check below adds to it
    passes = pass_at_k(SAMPLES, (answers == 0).sum(axis=1), 37)
    best = [best_of_n_at_k(scores[q], answers[q] == 0, 37) for q in range(20)]
    same = np.allclose(found["pass"].scores_QK[:, 36], passes) and np.allclose(
        found["best_of"].scores_QK[:20, 36], best
    )
    voted = majority_curve(answers, np.zeros(questions), [37, 300], subsets=200).mean(axis=0)
    apart = float(np.abs(found["majority"].value_K[[36, 299]] - voted).max())
    return {"seconds": seconds, "peak": peak, "same": bool(same), "apart": apart}


def _peak() -> int:
    """The process's own peak, in bytes; `getrusage` would count the one that started it, too."""
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM:")) * 1024


if __name__ == "__main__":
    print(json.dumps(_curves(int(sys.argv[1]))))
