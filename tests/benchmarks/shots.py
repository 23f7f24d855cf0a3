"""What exemplars cost when all questions show the same: 8-shot label scoring against zero-shot, on the hf engine.

An 8-shot prompt is some five times as long; what the questions share is computed once for all of them.
"""

import sys
import time
from statistics import median

import torch

from tests.benchmarks.labels import phrasebank
from tests.benchmarks.table import Row
from workbench.adapters import load_weights
from workbench.engines.hf import HfEngine
from workbench.models import EMBEDDED
from workbench.prompts import load_prompt, render
from workbench.types import Model, Request

CEILING = 1.3
TOLERANCE = 2e-3  # nats; float32 sums in another order
PLAIN = 24  # questions that are scored the plain way too


def run(quick: bool = False, dtype: str = "float32") -> list[Row]:
    """Seconds a question, zero-shot and 8-shot in turns; the ratio of the medians."""
    count, turns = (150, 1) if quick else (300, 3)  # over fewer the exemplars' one pass is no small part
    task, prompt = phrasebank(count), load_prompt("phrasebank")
    requests = {
        shots: [Request(q.id, render(prompt, q, task.practice[:shots])) for q in task.dev[:count]]
        for shots in (0, 8)
    }
    model = Model(EMBEDDED)
    engine = HfEngine(model, dtype=dtype, device="cpu")
    _score(engine, requests[0][:8], task.labels)  # the first call of anything is slower
    seconds: dict[int, list[float]] = {0: [], 8: []}
    scores: dict[str, list[float]] = {}
    for _ in range(turns):
        for shots, timed in seconds.items():
            started = time.perf_counter()
            scores = _score(engine, requests[shots], task.labels)
            timed.append((time.perf_counter() - started) / count)
            print(f"  {shots}-shot: {timed[-1]:.3f} s a question", file=sys.stderr, flush=True)
    tokens = {shots: sum(engine.count_tokens(asked)) / count for shots, asked in requests.items()}
    plain = _plain(model, engine, requests[8][:PLAIN], task.labels, dtype)
    engine.close()
    same = sum(row.index(max(row)) == scores[id].index(max(scores[id])) for id, row in plain.items())
    apart = max(abs(a - b) for id, row in plain.items() for a, b in zip(row, scores[id], strict=True))
    zero, eight = median(seconds[0]), median(seconds[8])
    return [
        Row(
            what=f"8-shot label likelihood with shared exemplars, {count} sentences, {dtype}",
            baseline=f"zero-shot: {zero:.3f} s a question of {tokens[0]:.0f} tokens",
            workbench=f"{eight:.3f} s a question of {tokens[8]:.0f} tokens",
            result=f"{eight / zero:.2f}×",
            floor=f"≤ {CEILING:g}×",
            checked=f"{same} of {len(plain)} predictions equal to transformers' one by one; "
            f"log-probabilities at most {apart:.1g} apart",
            passed=eight / zero <= CEILING and same == len(plain) and apart <= TOLERANCE,
        )
    ]


def _score(engine: HfEngine, requests: list[Request], labels: tuple[str, ...]) -> dict[str, list[float]]:
    found = {(id, c.index): c.logprob for b in engine.logprobs(requests, [labels] * len(requests)) for id, c in b}
    return {r.id: [found[r.id, i] or 0.0 for i in range(len(labels))] for r in requests}


def _plain(
    model: Model, engine: HfEngine, requests: list[Request], labels: tuple[str, ...], dtype: str
) -> dict[str, list[float]]:
    """Each prompt with each label through transformers, alone."""
    weights = load_weights(model, dtype, "cpu")
    out = {}
    for request in requests:
        row = []
        for label in labels:
            prompt, own, _ = engine.encoder.encode_pair(request, label)
            with torch.inference_mode():
                ids = torch.tensor([[*prompt, *own]])
                logits = weights(input_ids=ids, logits_to_keep=len(own) + 1).logits[0].float().log_softmax(-1)
            row.append(sum(float(logits[i, token]) for i, token in enumerate(own)))
        out[request.id] = row
    return out
