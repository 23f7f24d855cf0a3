"""A pool: all samples of each question as arrays, from which every curve over k is drawn without asking again."""

import io
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from workbench.choice_metrics import vote_codes, whole_pool
from workbench.cost import ModelShape, inference_flops
from workbench.decoding.best_of_n import weight
from workbench.decoding.choosing import Graded
from workbench.errors import UserError
from workbench.files import write_atomic
from workbench.types import Completion

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Pool:
    """Q questions of N samples each. Questions with a failed sample or score are left out.

    Attributes:
        ids: of the questions.
        asked: questions that were asked, those that are left out among them.
        scorer: its name.
        answers_QN: 0 the right answer, other answers from 1 up within a question, -1 without a voice.
        scores_QN: what the scorer gives; −∞ of a sample that cannot be chosen.
        weights_QN: votes in a weighted vote, from 0 up.
        tokens_QN, seconds_QN: of each sample; seconds are its share of the batch that it was drawn in.
        prompt_Q: tokens of the prompt, which the samples share.
        read_QN, read_prompt_Q: tokens that a scorer computed for each sample, and for the prompt before them.
        reading_QN: seconds of it.
        shape, reader: sizes of the model that draws and of the one that scores; None where not known.
    """

    ids: tuple[str, ...]
    asked: int
    scorer: str
    answers_QN: Ints
    scores_QN: Floats
    weights_QN: Floats
    tokens_QN: Floats
    seconds_QN: Floats
    prompt_Q: Floats
    read_QN: Floats
    read_prompt_Q: Floats
    reading_QN: Floats
    shape: ModelShape | None
    reader: ModelShape | None

    @property
    def n(self) -> int:
        """Samples of each question."""
        return int(self.answers_QN.shape[1])

    def cost(self, k: float, scored: bool) -> tuple[float, float | None, float]:
        """Tokens, FLOPs and seconds of k samples of a question, on average; FLOPs are None without a shape.

        Args:
            k: samples; the prompt counts once for them.
            scored: whether the scorer reads each of them. It counts as if no two samples were alike, which is the
                most that it can cost.
        """
        prompt, each = float(self.prompt_Q.mean()), float(self.tokens_QN.mean())
        tokens, seconds = prompt + k * each, k * float(self.seconds_QN.mean())
        flops = None if self.shape is None else k_flops(self.shape, prompt, each, k)
        read = float(self.read_QN.mean())
        if not scored or not read:
            return tokens, flops, seconds
        before = float(self.read_prompt_Q.mean())
        known = flops is not None and self.reader is not None
        return (
            tokens + before + k * read,
            flops + k_flops(self.reader, before, read, k) if known else None,  # type: ignore[arg-type, operator]
            seconds + k * float(self.reading_QN.mean()),
        )

    def save(self, path: Path) -> None:
        """Write the file, whole or not at all."""
        data: dict[str, Any] = {}
        for field in fields(self):
            value = getattr(self, field.name)
            if isinstance(value, ModelShape):
                value = list(vars(value).values())
            data[field.name] = np.array([] if value is None else value)
        file = io.BytesIO()
        np.savez_compressed(file, **data)
        write_atomic(path, file.getvalue())


def k_flops(shape: ModelShape, prompt: float, each: float, k: float) -> float:
    """FLOPs of a prompt and k samples of it; k may be a mean, and then is no whole number."""
    alone = inference_flops(shape, prompt, each, 0)
    return alone + k * (inference_flops(shape, prompt, each, 1) - alone)


def read_pool(path: Path) -> Pool:
    """The pool that `Pool.save` wrote.

    Raises:
        UserError: the file is no pool.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            data: dict[str, Any] = {field.name: file[field.name] for field in fields(Pool)}
    except (OSError, EOFError, ValueError, TypeError, KeyError, zipfile.BadZipFile, zlib.error) as error:
        raise UserError(
            f"{path} cannot be read as a pool of samples ({error}). Remove it, and the same command makes it anew."
        ) from error
    for name in ("shape", "reader"):
        data[name] = ModelShape(*(int(v) for v in data[name])) if len(data[name]) else None
    data |= {"ids": tuple(map(str, data["ids"])), "asked": int(data["asked"]), "scorer": str(data["scorer"])}
    return Pool(**data)


def pool_of(
    ids: Sequence[str],
    graded: Sequence[Sequence[Graded]],
    drawn: Sequence[Sequence[Completion]],
    scores: Sequence[Sequence[float]],
    rated: Sequence[Sequence[Completion | None]],
    *,
    scorer: str,
    n: int,
    shapes: Mapping[str, ModelShape | None],
) -> Pool:
    """The arrays of what was drawn, graded and scored; all sequences are in the order of `ids`.

    Args:
        ids: the questions.
        graded: the samples' grades.
        drawn: the samples.
        scores: −∞ of a sample that cannot be chosen, NaN of one that could not be scored.
        rated: what was computed to score them; empty where nothing was.
        scorer: its name, which says what weights are made of scores.
        n: samples that were asked for.
        shapes: of the models `model` and `scorer`.

    Raises:
        UserError: no question has all its samples and scores; or no sample has a score.
    """
    whole = [place for place, samples in enumerate(graded) if whole_pool(samples, n)]
    kept = [place for place in whole if not np.isnan(scores[place]).any()]
    if not kept:
        raise UserError(
            f"None of {len(ids)} questions has {n} samples that did not fail."
            if not whole
            else f"No question has all its scores by {scorer!r}: the engine does not tell them, or every request "
            "failed. Use another --scorer."
        )
    empty: list[Completion | None] = [None] * n
    found = [list(rated[place]) if rated else empty for place in kept]
    samples = [drawn[place] for place in kept]

    def table(rows: Sequence[Sequence[float]]) -> Floats:
        return np.array(rows, dtype=np.float64)

    return Pool(
        ids=tuple(ids[place] for place in kept),
        asked=len(ids),
        scorer=scorer,
        answers_QN=np.array([vote_codes(graded[place]) for place in kept], dtype=np.int64),
        scores_QN=table([scores[place] for place in kept]),
        weights_QN=table([[weight(scorer, score) for score in scores[place]] for place in kept]),
        tokens_QN=table([[c.completion_tokens for c in row] for row in samples]),
        seconds_QN=table([[c.seconds for c in row] for row in samples]),
        prompt_Q=np.array([max(c.prompt_tokens for c in row) for row in samples], dtype=np.float64),
        read_QN=table([[c.completion_tokens if c else 0 for c in row] for row in found]),
        read_prompt_Q=np.array([max((c.prompt_tokens for c in row if c), default=0) for row in found], float),
        reading_QN=table([[c.seconds if c else 0.0 for c in row] for row in found]),
        shape=shapes["model"],
        reader=shapes["scorer"],
    )
