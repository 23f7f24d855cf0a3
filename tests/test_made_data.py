"""A data set that a model made: written whole, read back equal, and learned from as it is."""

import json
from pathlib import Path

import pytest

from workbench.errors import UserError
from workbench.made_data import Made, read_made, write_made
from workbench.runs import Run
from workbench.types import Message

ROWS = [
    Made("a", "Say hello.\n\n{{ name }} <|im_end|>", "Hello.", {"method": "self-instruct", "round": 1}),
    Made("b", (Message("system", "Be kind."), Message("user", "Wer bist du?")), "Ein Modell. ü", {}),
]


def open_run(folder: Path) -> Run:
    return Run.open(folder, "made", {})


def test_what_is_written_is_read_back(tmp_path: Path) -> None:
    with open_run(tmp_path) as run:
        path = write_made(run, ROWS, "# A card\n")
    assert path == run.path / "data.jsonl"
    assert read_made(path) == ROWS
    assert (run.path / "README.md").read_text() == "# A card\n"
    assert list(json.loads(path.read_text().splitlines()[0])) == ["id", "prompt", "completion", "source"]


def test_training_reads_it_as_prompts_with_completions(tmp_path: Path, tiny_model: Path) -> None:
    from workbench.engines.encode import Encoder
    from workbench.models import load_tokenizer
    from workbench.training.config import Data
    from workbench.training.sources import encode_row, rows_of
    from workbench.types import Model

    with open_run(tmp_path) as run:
        data = Data(data=str(write_made(run, ROWS, "card")))
    encoder = Encoder(load_tokenizer(Model(str(tiny_model))))
    for (number, row), made in zip(rows_of(data, None), ROWS, strict=True):
        form, example = encode_row(encoder, data, number, row)
        assert form == "prompt-completion"
        learned = encoder.tokenizer.decode([example.ids[place] for place in example.learned])
        assert learned.startswith(made.completion)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([ROWS[0], ROWS[0]], "two rows have the id 'a'"),
        ([Made("a", "x", " ", {})], "empty"),
        ([Made("a", "", "x", {})], "empty"),
        ([Made("a", (), "x", {})], "empty"),
        ([Made("a", "x", "\ud800", {})], "not UTF-8"),
    ],
)
def test_what_no_reader_would_take_is_not_written(tmp_path: Path, rows: list[Made], message: str) -> None:
    with open_run(tmp_path) as run, pytest.raises(ValueError, match=message):
        write_made(run, rows, "card")
    assert not (run.path / "data.jsonl").exists()
    assert not (run.path / "README.md").exists()


def test_no_row_is_no_data_set(tmp_path: Path) -> None:
    with open_run(tmp_path) as run, pytest.raises(UserError, match="Nothing was kept"):
        write_made(run, [], "card")


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"prompt": "x", "completion": "y"}', "row 2, field 'id'"),
        ('{"id": "a", "prompt": "x", "completion": "y"}', "row 2, field 'id': another row"),
        ('{"id": "b", "prompt": "", "completion": "y"}', "row 2, field 'prompt': the field is empty"),
        ('{"id": "b", "prompt": [], "completion": "y"}', "row 2, field 'prompt'"),
        ('{"id": "b", "prompt": "x"}', "row 2, field 'completion'"),
        ('{"id": "b", "prompt": "x", "completion": "y", "source": 3}', "row 2, field 'source': it must be an obj"),
    ],
)
def test_a_bad_row_is_named(tmp_path: Path, line: str, message: str) -> None:
    file = tmp_path / "data.jsonl"
    file.write_text('{"id": "a", "prompt": "x", "completion": "y"}\n' + line + "\n")
    with pytest.raises(UserError) as raised:
        read_made(file)
    assert message in str(raised.value)
