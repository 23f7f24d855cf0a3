"""What a tuning method starts from: the data, what is written down about them, and whether they are the same."""

import json
from pathlib import Path
from typing import Any

import pytest

from workbench.decodes import Greedy
from workbench.errors import UserError
from workbench.files import read_json
from workbench.prompts import load_prompt
from workbench.runs import Run
from workbench.session import content_of
from workbench.tasks.arithmetic import Config as ArithmeticConfig
from workbench.tasks.arithmetic import load
from workbench.training.config import Data, Training
from workbench.training.data import base_and_source
from workbench.types import Model, System

TASK = load(ArithmeticConfig(practice=12, dev=1, test=1))

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture
def file(tmp_path: Path) -> Path:
    rows = [{"text": f"number {n} " + "and so on " * (9 if n == 3 else 1)} for n in range(6)]
    path = tmp_path / "data.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)))
    return path


def start(model: Path, root: Path, training: Training) -> Any:
    """(the source, data.json) of a run that begins or goes on."""
    system = System(Model(str(model)), load_prompt("arithmetic"), Greedy(16))
    with Run.open(root, "lora", {}, name="tuned") as run:
        _, _, source = base_and_source(system, TASK, training, run)
        return source, read_json(run.path / "data.json")


def test_the_practice_split(tiny_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source, about = start(tiny_model, tmp_path, Training(batch_size=4, epochs=2))
    assert source.updates == 6
    assert (about["source"], about["hash"], about["format"]) == (
        "arithmetic, practice split",
        TASK.hash,
        "practice",
    )
    assert (about["learned"], about["too_long"], about["truncated"]) == (12, 0, 0)
    batches = source.batches()
    examples = [example for _ in range(3) for example in next(batches)[0]]
    assert about["tokens"] == sum(len(example.ids) for example in examples)
    assert about["learned_tokens"] == sum(len(example.learned) for example in examples)
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("rule", "counts", "said"),
    [
        ("drop", (5, 1, 0), "1 of 6 examples left out, with more than 30 tokens.\n"),
        ("truncate", (6, 0, 1), "1 of 6 examples with more than 30 tokens cut off there.\n"),
    ],
)
def test_a_file_and_what_of_it_is_too_long(
    tiny_model: Path,
    tmp_path: Path,
    file: Path,
    capsys: pytest.CaptureFixture[str],
    rule: Any,
    counts: Any,
    said: str,
) -> None:
    training = Training(batch_size=2, epochs=1, max_length=30, data=Data(data=str(file), too_long=rule))
    source, about = start(tiny_model, tmp_path, training)
    assert capsys.readouterr().err == said
    assert (about["learned"], about["too_long"], about["truncated"]) == counts
    assert (about["source"], about["format"]) == (str(file), "text")
    assert source.updates == 3


def test_a_stream(tiny_model: Path, tmp_path: Path, file: Path) -> None:
    data = Data(data=str(file), stream=True, shuffle_buffer=2)
    training = Training(batch_size=2, steps=7, max_length=30, data=data)
    source, about = start(tiny_model, tmp_path, training)
    assert source.updates == 7
    assert (about["learned"], about["too_long"], about["truncated"]) == (14, 0, 0)
    batches = source.batches()
    for _ in range(4):  # into the second epoch, behind the long row of the first
        next(batches)
    assert read_json(tmp_path / "tuned" / "data.json")["too_long"] >= 1
    _, again = start(tiny_model, tmp_path, training)
    assert again["too_long"] >= 1, "a run that goes on keeps what it has counted"


@pytest.mark.parametrize("stream", [False, True])
def test_other_data_are_refused(tiny_model: Path, tmp_path: Path, file: Path, stream: bool) -> None:
    training = Training(steps=2, data=Data(data=str(file), stream=stream))
    before = content_of(training)
    start(tiny_model, tmp_path, training)
    start(tiny_model, tmp_path, training)
    file.write_text(file.read_text().replace("number 5", "number 55"))
    with pytest.raises(UserError, match=r"tuned was begun with the data .*data\.jsonl \(hash .*another --name"):
        start(tiny_model, tmp_path, training)
    assert before["data"]["data"] == str(file)
    assert content_of(training)["data"]["data_hash"] != before["data"]["data_hash"], "so it is another run"


def test_a_file_that_is_not_there_is_told_before_a_run_is_made(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"nowhere\.csv' cannot be read: No such file"):
        content_of(Training(data=Data(data=str(tmp_path / "nowhere.csv"))))
