"""Examples of a data set that does not fit in memory: read as they are needed, shuffled through a buffer.

`datasets` streams and shuffles. Its own `state_dict` loses what is in the shuffle buffer, so whoever resumed by it
would never see those rows; here the rows of the epoch are drawn again in the same order and passed over, which
costs their reading and nothing else.
"""

from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from random import Random
from typing import Any

from workbench.engines.encode import Encoder
from workbench.engines.packing import Tokens
from workbench.errors import UserError
from workbench.files import read_json, write_json
from workbench.models import first_line
from workbench.tasks.rows import iterate_rows, load_hub
from workbench.training.config import Data, Training
from workbench.training.sources import encode_row, fitted, nothing_fits, source_of

_EPOCH = 1 << 40  # more rows than any epoch has


class Stream:
    """A streamed data set as a `Source`: a new order for every epoch, fixed by the seed.

    A position is the epoch times 2⁴⁰ plus the rows that were drawn in it. Every batch is full: one that an epoch
    ends in is filled up from the next.

    Args:
        encoder: of the model that learns.
        training: how; its `steps` are given.
        record: the run's `data.json`, which is there; examples that were left out or cut are counted in it as
            they are come to, each once, however often the training is interrupted.

    Raises:
        UserError: the data cannot be read; a bad row is named when it is come to.
    """

    def __init__(self, encoder: Encoder, training: Training, record: Path | None = None) -> None:
        self._encoder, self._training, self._record = encoder, training, record
        self._rows = _open(training.data, training.examples)
        self.updates = training.steps or 0

    def batches(self, position: int = 0) -> Iterator[tuple[list[Tokens], int]]:
        """As in `Source`; it never ends."""
        batch: list[Tokens] = []
        while True:
            epoch, drawn = divmod(position, _EPOCH)
            nothing = drawn == 0  # of a whole epoch fits
            for example in self.examples(epoch, drawn):
                position += 1
                kept = fitted(example, self._training)
                self._count(position, example, kept)
                if kept is not None:
                    batch.append(kept)
                    nothing = False
                if len(batch) == self._training.batch_size:
                    yield batch, position
                    batch = []
            if nothing:
                raise nothing_fits(self._training)
            position = (epoch + 1) * _EPOCH

    def examples(self, epoch: int = 0, drawn: int = 0) -> Iterator[Tokens]:
        """The examples of an epoch in its order, long ones too, behind the first `drawn`."""
        data = self._training.data
        seed = Random(f"{self._training.training_seed}:{epoch}").getrandbits(32)
        rows = iter(self._rows.shuffle(seed=seed, buffer_size=data.shuffle_buffer).skip(drawn))
        while True:
            try:
                row = next(rows)
            except StopIteration:
                return
            except UserError:
                raise
            except Exception as error:  # the library's, the Hub's and the network's have no common class
                raise UserError(
                    f"{source_of(data)} cannot be read on after {drawn} rows ({first_line(error)}). When it can "
                    "be again, the same command goes on."
                ) from error
            drawn += 1
            number, content = (row["number"], row["row"]) if data.file else (drawn, row)
            yield encode_row(self._encoder, data, number, content)[1]

    def _count(self, position: int, example: Tokens, kept: Tokens | None) -> None:
        """Count an example that is left out or cut into the record, unless it was before an interruption."""
        if kept is example or self._record is None:
            return
        record = read_json(self._record)
        if position > record.get("counted_to", 0):
            record["too_long" if kept is None else "truncated"] += 1
            write_json(self._record, record | {"counted_to": position})


def _open(data: Data, limit: int | None) -> Any:
    """The rows as a `datasets.IterableDataset`; those of a file as {number, row}.

    Files are read here and not by `datasets`, which reads the whole of a JSONL file when a line is bad.
    """
    from datasets import IterableDataset

    if data.file:
        return IterableDataset.from_generator(_numbered, gen_kwargs={"path": str(data.file), "limit": limit})
    assert data.data is not None
    rows = load_hub(data.data, data.data_subset, data.data_split, stream=True)
    return rows if limit is None else rows.take(limit)


def _numbered(path: str, limit: int | None) -> Iterator[dict[str, Any]]:
    for number, row in islice(iterate_rows(path), limit):
        yield {"number": number, "row": row}
