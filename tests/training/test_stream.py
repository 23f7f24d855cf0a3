"""Streams: the same batches from any position, another order every epoch, steady memory, bad rows named."""

import json
import subprocess
import sys
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file
from training_process import train

from workbench.engines.encode import Encoder
from workbench.engines.packing import Tokens
from workbench.errors import UserError
from workbench.files import read_json, write_json
from workbench.models import load_tokenizer
from workbench.training.config import Data, Training
from workbench.training.stream import Stream
from workbench.types import Model

pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture(scope="module")
def encoder(tiny_model: Path) -> Encoder:
    return Encoder(load_tokenizer(Model(str(tiny_model))))


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Thirty texts, of which every seventh is long."""
    path = tmp_path_factory.mktemp("data") / "data.jsonl"
    rows = [{"text": f"number {n} " + "and so on " * (40 if n % 7 == 6 else 1)} for n in range(30)]
    path.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    return path


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", str(tmp_path / "cache"))


def stream(encoder: Encoder, data: Any, record: Path | None = None, **training: Any) -> Stream:
    made = {"stream": True, "shuffle_buffer": 8, "too_long": training.pop("too_long", "drop")}
    made["shuffle_buffer"] = training.pop("shuffle_buffer", 8)
    settings = {"batch_size": 4, "steps": 9, "max_length": 40} | training
    return Stream(encoder, Training(data=Data(data=str(data), **made), **settings), record)


def numbers(encoder: Encoder, batch: list[Tokens]) -> list[int]:
    return [int(encoder.decode(example.ids).split()[1]) for example in batch]


def epoch(encoder: Encoder, source: Stream, number: int) -> list[int]:
    """The numbers of an epoch's examples in their order, long ones left out."""
    return numbers(encoder, [example for example in source.examples(number) if len(example.ids) <= 40])


def learned(encoder: Encoder, source: Stream, batches: int) -> list[int]:
    """The numbers of the examples of the first batches."""
    return [number for batch, _ in islice(source.batches(), batches) for number in numbers(encoder, batch)]


SHORT = [n for n in range(30) if n % 7 != 6]


def test_every_epoch_has_every_row_once_in_an_order_of_its_own(encoder: Encoder, file: Path) -> None:
    source = stream(encoder, file)
    first, second = epoch(encoder, source, 0), epoch(encoder, source, 1)
    assert sorted(first) == sorted(second) == SHORT
    assert len({tuple(first), tuple(second), tuple(SHORT)}) == 3
    assert epoch(encoder, stream(encoder, file), 1) == second
    assert epoch(encoder, stream(encoder, file, training_seed=1), 0) != first
    assert source.updates == 9
    assert epoch(encoder, stream(encoder, file, shuffle_buffer=1), 0) == SHORT
    assert sorted(epoch(encoder, stream(encoder, file, examples=5), 0)) == [0, 1, 2, 3, 4]
    assert learned(encoder, source, 13) == [*first, *second]


def test_a_batch_that_an_epoch_ends_in_is_filled_up_from_the_next(encoder: Encoder, file: Path) -> None:
    source = stream(encoder, file, examples=3)
    assert learned(encoder, source, 3) == [number for each in range(4) for number in epoch(encoder, source, each)]
    assert [len(batch) for batch, _ in islice(source.batches(), 3)] == [4, 4, 4]


@settings(max_examples=20, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    batch=st.integers(1, 11),
    buffer=st.integers(1, 40),
    seed=st.integers(0, 5),
    taken=st.integers(0, 25),
    rule=st.sampled_from(["drop", "truncate"]),
)
def test_from_any_position_the_batches_are_those_of_an_uninterrupted_stream(
    encoder: Encoder, file: Path, batch: int, buffer: int, seed: int, taken: int, rule: str
) -> None:
    made = {"batch_size": batch, "shuffle_buffer": buffer, "training_seed": seed, "too_long": rule}
    whole = list(islice(stream(encoder, file, **made).batches(), taken + 8))
    position = whole[taken - 1][1] if taken else 0
    assert list(islice(stream(encoder, file, **made).batches(position), 8)) == whole[taken:]
    assert all(len(examples) == batch for examples, _ in whole)
    assert [at for _, at in whole] == sorted({at for _, at in whole})


@pytest.mark.usefixtures("cache")
def test_a_hub_data_set_of_several_files(encoder: Encoder, tmp_path: Path) -> None:
    """A local folder stands for the repository; the files are read in another order every epoch too."""
    for name in "abc":
        rows = [{"text": f"number {10 * 'abc'.index(name) + n}"} for n in range(10)]
        (tmp_path / "repository").mkdir(exist_ok=True)
        (tmp_path / "repository" / f"train-{name}.jsonl").write_text("\n".join(map(json.dumps, rows)))
    source = stream(encoder, tmp_path / "repository")
    first, second = epoch(encoder, source, 0), epoch(encoder, source, 1)
    assert sorted(first) == sorted(second) == list(range(30))
    assert first != second
    whole = list(islice(source.batches(), 20))
    for taken in (1, 5, 8, 13):
        again = stream(encoder, tmp_path / "repository").batches(whole[taken - 1][1])
        assert list(islice(again, 4)) == whole[taken : taken + 4]
    assert len(epoch(encoder, stream(encoder, tmp_path / "repository", examples=7), 0)) == 7


@pytest.mark.usefixtures("cache")
def test_a_bad_row_is_named_when_it_is_come_to(encoder: Encoder, tmp_path: Path) -> None:
    path = tmp_path / "bad.jsonl"
    good = [json.dumps({"text": f"number {n}"}) for n in range(12)]
    for bad, problem in (("{", "the line is not JSON"), ('{"text": ""}', "field 'text': the field is empty")):
        path.write_text("\n".join([*good, bad, *good]))
        batches = stream(encoder, path, shuffle_buffer=2).batches()
        assert numbers(encoder, next(batches)[0])
        with pytest.raises(UserError, match=rf"bad\.jsonl, row 13.*{problem}"):
            list(islice(batches, 9))
    repository = tmp_path / "repository"
    repository.mkdir()
    (repository / "train.jsonl").write_text("\n".join([*good[:2], '{"text": ""}']))
    with pytest.raises(UserError, match=r"repository, train, row [123], field 'text': the field is empty"):
        epoch(encoder, stream(encoder, repository), 0)
    (repository / "train.jsonl").write_text("\n".join([*good, "{"]))
    with pytest.raises(UserError, match="cannot be read on after 0 rows"):
        epoch(encoder, stream(encoder, repository), 0)


def test_an_empty_stream_and_one_of_which_nothing_fits(encoder: Encoder, file: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="Every example is longer than 3 tokens; raise --max-length"):
        next(stream(encoder, file, max_length=3).batches())
    (tmp_path / "empty.jsonl").write_text("")
    with pytest.raises(UserError, match="is empty"):
        next(stream(encoder, tmp_path / "empty.jsonl").batches())


@pytest.mark.parametrize(("rule", "name"), [("drop", "too_long"), ("truncate", "truncated")])
def test_what_is_left_out_is_counted_once_through_interruptions(
    encoder: Encoder, file: Path, tmp_path: Path, rule: str, name: str
) -> None:
    record = tmp_path / "data.json"
    write_json(record, {"learned": 36, "too_long": 0, "truncated": 0})
    positions = [0]
    for back in (3, 2, 4, 1, 0):  # each process gets five batches further, and its successor starts earlier
        made = stream(encoder, file, record, too_long=rule)
        source = made.batches(positions[-1 - min(back, len(positions) - 1)])
        positions += [position for _, position in islice(source, 5)]
    reached = max(positions)
    batches = stream(encoder, file, too_long=rule)
    drawn = 0
    for number in range((reached >> 40) + 1):
        within = reached - (number << 40) if number == reached >> 40 else None
        drawn += sum(len(example.ids) > 40 for example in islice(batches.examples(number), within))
    counts = read_json(record)
    assert counts[name] == drawn > 4
    assert counts["learned"] == 36
    assert counts["too_long"] + counts["truncated"] == drawn


def interrupt() -> None:
    raise KeyboardInterrupt


@pytest.mark.usefixtures("one_thread")
def test_an_interrupted_training_on_a_stream_ends_as_an_uninterrupted_one(
    tiny_model: Path, file: Path, tmp_path: Path
) -> None:
    """Checkpoints are at updates 2, 4, 6 …; an epoch has 6.5 batches, so the second is interrupted too."""
    data = Data(data=str(file), stream=True, shuffle_buffer=8)
    made = {"steps": 11, "max_length": 40, "data": data}
    whole = train(tiny_model, tmp_path / "whole", **made)
    for step in (3, 9):
        with pytest.raises(KeyboardInterrupt):
            train(tiny_model, tmp_path, step, interrupt, **made)
    run = train(tiny_model, tmp_path, **made)
    losses = [{line["step"]: line["loss"] for line in each.metrics()} for each in (run, whole)]
    assert losses[0] == losses[1] and len(losses[0]) == 11
    weights = [load_file(each.path / "adapter" / "adapter_model.safetensors") for each in (run, whole)]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[1])
    about = [read_json(each.path / "data.json") for each in (run, whole)]
    assert about[0] == about[1] and about[0]["learned"] == 44


# --- memory -----------------------------------------------------------------------------------------


def padded(path: Path, rows: int) -> Path:
    """A file of rows of 5 kB each, of which little is learned."""
    with path.open("w") as file:
        for n in range(rows):
            file.write(json.dumps({"text": f"number {n}", "more": "x" * 5000}) + "\n")
    return path


def streamed(tiny_model: Path, path: Path, *limit: str) -> list[str]:
    process = Path(__file__).parent / "streaming_process.py"
    command = [sys.executable, str(process), str(tiny_model), str(path), *limit]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip().split("\n")


@pytest.mark.slow
def test_memory_does_not_grow_with_the_file(tiny_model: Path, tmp_path: Path) -> None:
    """Ten times the rows, and more bytes than the process may take: the peak hardly rises."""
    [small] = streamed(tiny_model, padded(tmp_path / "small.jsonl", 2_000))
    refused, large = streamed(tiny_model, padded(tmp_path / "large.jsonl", 20_000), "60")
    assert refused == "the whole file does not fit"
    count, growth = map(int, large.split())
    assert count >= 19_990
    assert growth < int(small.split()[1]) + 15 * 2**20
