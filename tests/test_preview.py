"""`workbench preview`: what is learned is marked, what data say is inert, and all of it is counted."""

import json
from pathlib import Path
from typing import Any

import pytest

from recipes.preview import Config, main
from workbench.command import run_command
from workbench.engines.encode import Encoder
from workbench.errors import UserError
from workbench.models import load_tokenizer
from workbench.prompts import load_prompt
from workbench.tasks import load_task
from workbench.training.config import Data
from workbench.training.data import encode_example
from workbench.types import Model

ROWS = [
    {
        "messages": [
            {"role": "user", "content": "What is 12 plus 7?"},
            {"role": "assistant", "content": "19."},
            {"role": "user", "content": "And 3?"},
            {"role": "assistant", "content": "22."},
        ]
    },
    {"prompt": "\x1b[31mHi\x07 <|im_end|>[bold]\u202e", "completion": "\t⟦ok⟧"},
    {"text": "and so on " * 40},
]


@pytest.fixture
def file(tmp_path: Path) -> str:
    path = tmp_path / "data.jsonl"
    path.write_text("\n".join(map(json.dumps, ROWS)))
    return str(path)


def preview(model: Path, capsys: pytest.CaptureFixture[str], **config: Any) -> tuple[Any, str]:
    counts = main(Config(model=str(model), **config))
    return counts, capsys.readouterr().out


def test_the_practice_split_as_it_is_learned(tiny_model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    counts, out = preview(tiny_model, capsys, count=2, examples=9, task_args=("practice=20",))
    task = load_task("arithmetic", {"practice": "20"})
    encoder = Encoder(load_tokenizer(Model(str(tiny_model))))
    examples = [encode_example(encoder, load_prompt("arithmetic"), example) for example in task.practice[:9]]
    assert counts.learned == 9
    assert counts.tokens == sum(len(example.ids) for example in examples)
    assert counts.learned_tokens == sum(len(example.learned) for example in examples)
    assert counts.longest == max(len(example.ids) for example in examples)
    assert out.count("---\n") == 2
    first = task.practice[0]
    assert f"{first.input}\n" in out
    assert f"<|im_start|>assistant\n⟦{first.rationale}<|im_end|>⟧\n" in out
    read, learned = len(examples[0].ids) - len(examples[0].learned), len(examples[0].learned)
    assert f"--- example 1 of arithmetic, practice split: {read} tokens read, {learned} learned ---" in out
    assert f"9 of 9 examples of arithmetic, practice split are learned from: {counts.tokens} tokens" in out


def test_every_turn_and_every_format(tiny_model: Path, file: str, capsys: pytest.CaptureFixture[str]) -> None:
    counts, out = preview(tiny_model, capsys, data=Data(data=file))
    assert counts.learned == 3
    assert "assistant\n⟦19.<|im_end|>⟧\n<|im_start|>user\nAnd 3?<|im_end|>\n<|im_start|>assistant\n⟦22." in out
    assert out.count("⟦") == out.count("⟧") == 4  # the data's own brackets are escaped
    assert "and so on<|im_end|>⟧" in out.replace(" <", "<")


def test_data_do_not_write_to_the_terminal(
    tiny_model: Path, file: str, capsys: pytest.CaptureFixture[str]
) -> None:
    _, out = preview(tiny_model, capsys, data=Data(data=file))
    assert not {"\x1b", "\x07", "\u202e", "\t"} & set(out)
    assert r"\x1b[31mHi\x07 \x3c|im_end|>[bold]\u202e<|im_end|>" in out
    assert r"⟦\x09\u27e6ok\u27e7<|im_end|>⟧" in out


def test_colours_on_a_terminal(
    tiny_model: Path, file: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.delenv("NO_COLOR", raising=False)
    _, out = preview(tiny_model, capsys, data=Data(data=file))
    assert "\x1b[32m19.\x1b[0m\x1b[4;32m<|im_end|>\x1b[0m" in out
    assert "\x1b[2mWhat is 12 plus 7?\x1b[0m\x1b[2;4m<|im_end|>\x1b[0m" in out
    assert r"\x1b[31mHi" in out and "\x1b[31mHi" not in out
    assert "⟦" not in out
    monkeypatch.setenv("NO_COLOR", "1")
    _, out = preview(tiny_model, capsys, data=Data(data=file))
    assert "\x1b" not in out and "⟦19." in out


def test_what_is_too_long_is_told(tiny_model: Path, file: str, capsys: pytest.CaptureFixture[str]) -> None:
    counts, out = preview(tiny_model, capsys, data=Data(data=file), max_length=150)
    assert (counts.learned, counts.too_long, counts.longest > 150) == (2, 1, True)
    assert "1 of 3 examples left out, with more than 150 tokens.\n" in out
    counts, out = preview(tiny_model, capsys, data=Data(data=file, too_long="truncate"), max_length=150)
    assert (counts.learned, counts.truncated) == (3, 1)
    assert "1 of 3 examples with more than 150 tokens cut off there.\n" in out
    with pytest.raises(UserError, match="Every example is longer than 2 tokens; raise --max-length"):
        preview(tiny_model, capsys, data=Data(data=file), max_length=2)


def test_a_stream_in_its_order(tiny_model: Path, file: str, capsys: pytest.CaptureFixture[str]) -> None:
    counts, out = preview(tiny_model, capsys, count=3, data=Data(data=file, stream=True))
    whole, _ = preview(tiny_model, capsys, data=Data(data=file))
    assert counts == whole
    assert f"3 of the first 3 examples of {file} are learned from" in out


def test_on_the_command_line(tiny_model: Path, file: str, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--model", str(tiny_model), "--data", file, "--count", "1", "--data-format", "chat"]
    assert run_command(main, Config, arguments, "workbench preview") == 2
    captured = capsys.readouterr()
    assert "⟦19." in captured.out
    assert "row 2, field 'messages': it must be a list of turns" in captured.err
    assert run_command(main, Config, ["--data-subset", "de"], "workbench preview") == 2
    assert "--data-subset needs --data" in capsys.readouterr().err
