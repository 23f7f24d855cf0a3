"""Four-shot Financial PhraseBank by label likelihood: lm-evaluation-harness's `hf` backend, and the workbench.

Both score the same texts with the same weights in float32. In bfloat16 the two would not agree on near ties,
and neither would be wrong: the harness even takes its softmax in bfloat16.
"""

import logging
import sys
import time
from dataclasses import dataclass, field

from tests.benchmarks.table import DATA, Row, Skip
from workbench.engines.hf import HfEngine
from workbench.models import EMBEDDED, model_folder
from workbench.prompts import load_prompt, render
from workbench.tasks import load_task
from workbench.tasks.base import Task
from workbench.types import Message, Model, Request

FLOOR = 3.0
# Its "auto" tries batches of the model's whole context first: four minutes on two cores, to choose 64.
BATCH_SIZES = (4, 8, 16, 32)
TOLERANCE = 2e-3  # nats; float32 sums in another order


@dataclass
class Side:
    """One side's seconds, pass by pass, and its log-probabilities [questions][labels]."""

    seconds: list[float] = field(default_factory=list)
    scores: list[list[float]] = field(default_factory=list)


def run(quick: bool = False, dtype: str = "float32") -> list[Row]:
    """Questions a second of both on the same questions: ours before and after theirs, the slower of the two."""
    questions = 48 if quick else 300
    texts, labels = _texts(questions)
    harness = _harness(dtype)
    engine = HfEngine(Model(EMBEDDED), dtype=dtype, device="cpu")
    _by_workbench(engine, texts[:8], labels, Side())  # the first call of anything is slower
    _by_harness(harness, 8, texts[:8], labels, Side())
    probe = texts[:: max(1, questions // 40)]  # some 40, long and short
    batch_size = min(BATCH_SIZES, key=lambda size: _by_harness(harness, size, probe, labels, Side()))
    theirs, ours = Side(), Side()
    _by_workbench(engine, texts, labels, ours)
    _by_harness(harness, batch_size, texts, labels, theirs)
    _by_workbench(engine, texts, labels, ours)  # before and after: the machine's speed may drift
    engine.close()

    same = sum(_argmax(a) == _argmax(b) for a, b in zip(theirs.scores, ours.scores, strict=True))
    apart = max(
        abs(x - y) for a, b in zip(theirs.scores, ours.scores, strict=True) for x, y in zip(a, b, strict=True)
    )
    slow, fast = theirs.seconds[0], max(ours.seconds)
    return [
        Row(
            what=f"label likelihood, 4-shot Financial PhraseBank, {questions} questions, {dtype}",
            baseline=f"lm-evaluation-harness (`hf`, batch {batch_size}): {questions / slow:.1f} questions/s",
            workbench=f"{questions / fast:.1f} questions/s",
            result=f"{slow / fast:.1f}×",
            floor=f"≥ {FLOOR:g}×",
            checked=f"{same} of {questions} predictions equal; log-probabilities at most {apart:.1g} apart",
            passed=slow / fast >= FLOOR and same == questions and apart <= TOLERANCE,
        )
    ]


def phrasebank(questions: int) -> Task:
    """The real Financial PhraseBank, all annotators agreeing, with so many dev questions; Skip where it is not."""
    folder = DATA / "financial_phrasebank"
    if not folder.is_dir():
        raise Skip(f"the data set is not at {folder}")
    task = load_task("phrasebank", {"path": str(folder), "agreement": "all"})
    if len(task.dev) < questions:
        raise Skip(f"the dev split has {len(task.dev)} questions, not {questions}")
    return task


def _texts(questions: int) -> tuple[list[str], tuple[str, ...]]:
    """Prompts as plain texts, and the labels, each with its leading space."""
    task, prompt = phrasebank(questions), load_prompt("phrasebank-text")
    prompts = [render(prompt, example, task.practice[:4]) for example in task.dev[:questions]]
    texts = ["".join(message.content for message in messages) for messages in prompts]
    return texts, tuple(f" {label}" for label in task.labels)


def _harness(dtype: str):
    try:
        from lm_eval.models.huggingface import HFLM
    except ImportError:
        raise Skip("lm-evaluation-harness is not installed: pip install -e '.[bench]'") from None
    logging.getLogger("lm_eval").setLevel(logging.ERROR)
    return HFLM(str(model_folder(EMBEDDED)), device="cpu", dtype=dtype, batch_size=8)


def _by_harness(harness, batch_size: int, texts: list[str], labels: tuple[str, ...], side: Side) -> float:
    from lm_eval.api.instance import Instance

    harness.batch_size_per_gpu = batch_size
    pairs = [(text, label) for text in texts for label in labels]
    requests = [Instance("loglikelihood", {}, pair, i) for i, pair in enumerate(pairs)]
    started = time.perf_counter()
    scored = [score for score, _ in harness.loglikelihood(requests, disable_tqdm=True)]
    seconds = time.perf_counter() - started
    print(f"  harness, batch {batch_size}: {len(texts) / seconds:.2f} questions/s", file=sys.stderr, flush=True)
    side.seconds.append(seconds)
    width = len(labels)
    side.scores = [scored[i : i + width] for i in range(0, len(scored), width)]
    return seconds


def _by_workbench(engine: HfEngine, texts: list[str], labels: tuple[str, ...], side: Side) -> float:
    requests = [Request(str(i), (Message("user", text),), style="text") for i, text in enumerate(texts)]
    started = time.perf_counter()
    found = {
        (int(id), c.index): c.logprob
        for batch in engine.logprobs(requests, [labels] * len(requests))
        for id, c in batch
    }
    seconds = time.perf_counter() - started
    print(f"  workbench: {len(texts) / seconds:.2f} questions/s", file=sys.stderr, flush=True)
    side.seconds.append(seconds)
    side.scores = [[found[i, j] for j in range(len(labels))] for i in range(len(texts))]
    return seconds


def _argmax(scores: list[float]) -> int:
    return max(range(len(scores)), key=scores.__getitem__)
