"""A file of prompts to a file of samples: what is drawn and kept, what is written, what is refused."""

import json
import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

import recipes.sample
from workbench.batch import read_prompts, sample, system_of
from workbench.decodes import Sample, Sampling
from workbench.engines import EngineConfig
from workbench.engines.base import Batch
from workbench.engines.fake import FakeEngine
from workbench.errors import UserError
from workbench.model_flags import ModelFlags
from workbench.store import Store
from workbench.types import Message, Model, Request

ROOT = Path(__file__).resolve().parents[1]
MODEL = ModelFlags("fake", engine=EngineConfig("fake"))
TALK = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "What is 2 + 2?"},
    {"role": "assistant", "content": "4", "finish": "stop"},
    {"role": "user", "content": "And 3 + 3?"},
]


def write(path: Path, *rows: object) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def written(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_bytes().decode().splitlines()]


class Counting(FakeEngine):
    """The fake engine with a list of the samples that it drew."""

    def __init__(self, script: Callable[[Request, int], str] | None = None) -> None:
        super().__init__(Model("fake"), script)
        self.drawn: list[tuple[tuple[Message, ...], tuple[int, ...]]] = []

    def sample(self, requests: Sequence[Request], sampling: Sampling) -> Any:
        self.drawn += [(request.messages, request.indices) for request in requests]
        return super().sample(requests, sampling)


def run(tmp_path: Path, engine: FakeEngine, n: int, **settings: Any) -> Any:
    style, stop = settings.pop("style", "chat"), settings.pop("stop", ())
    prompts = read_prompts(tmp_path / "p.jsonl", style)
    system = system_of(Model("fake"), Sample(n, **settings), stop, style)
    with Store(tmp_path / "completions.sqlite") as store:
        return sample(prompts, system, engine, store, tmp_path / "s.jsonl", lambda *_: None)


# --- reading ----------------------------------------------------------------------------------------


def test_prompts_and_conversations(tmp_path: Path) -> None:
    path = write(tmp_path / "p.jsonl", {"prompt": "  Hi\n", "split": "x"}, {"id": 7, "messages": TALK})
    first, second = read_prompts(path, "chat").items()
    assert first[1].messages == (Message("user", "  Hi\n"),)
    assert first[0] == first[1].id and len(first[0]) == 16
    assert second[0] == "7" != second[1].id
    assert [(m.role, m.content) for m in second[1].messages] == [(t["role"], t["content"]) for t in TALK]


def test_a_csv_of_prompts(tmp_path: Path) -> None:
    (tmp_path / "p.csv").write_text('id,prompt\na,"one, two"\n', encoding="utf-8")
    assert read_prompts(tmp_path / "p.csv", "chat")["a"].messages == (Message("user", "one, two"),)


@pytest.mark.parametrize("finish", ["length", "stopped"])
def test_a_begun_answer_is_gone_on_with(tmp_path: Path, finish: str) -> None:
    """Whatever file it is in: an answer that did not come to its end says so in `finish`."""
    import pyarrow
    import pyarrow.parquet

    turns = [*TALK, {"role": "assistant", "content": "It is ", "finish": finish}]
    text = json.dumps(turns)
    write(tmp_path / "p.jsonl", {"messages": turns})
    write(tmp_path / "q.jsonl", {"messages": text})
    pyarrow.parquet.write_table(pyarrow.table({"messages": [turns]}), tmp_path / "p.parquet")
    for name in ("p.jsonl", "q.jsonl", "p.parquet"):
        [request] = read_prompts(tmp_path / name, "chat").values()
        assert request.messages[-1] == Message("assistant", "It is ")


def test_the_style_text_is_another_question(tmp_path: Path) -> None:
    path = write(tmp_path / "p.jsonl", {"prompt": "Once upon"})
    [chat], [text] = (read_prompts(path, style).values() for style in ("chat", "text"))
    assert (chat.style, text.style) == ("chat", "text")
    assert chat.id != text.id


def test_no_two_conversations_have_one_name(tmp_path: Path) -> None:
    """Whatever the quotes and roles within them."""
    rows = [
        {"prompt": "a"},
        {"messages": [{"role": "assistant", "content": "a", "finish": "length"}]},
        {"messages": [{"role": "user", "content": "a"}, {"role": "user", "content": "b"}]},
        {"prompt": 'a", "role": "user", "content": "b'},
    ]
    assert len(read_prompts(write(tmp_path / "p.jsonl", *rows), "chat")) == 4


LINES = [
    (b"not json\n", "row 1: the line is not JSON"),
    (b"[1]\n", "row 1: the line is no JSON object"),
    (b'{"prompt": NaN}\n', "row 1: the line is not JSON"),
    (b'{"prompt": "ok"}\n{"text": "x"}\n', r"row 2: .* one of 'prompt' and 'messages'; it has 'text'"),
    (b"{}\n", "row 1: .* it has no field"),
    (b'{"prompt": "a", "messages": []}\n', "row 1: .* it has prompt and messages"),
    (b'{"prompt": ""}\n', "row 1, field 'prompt': the field is empty"),
    (b'{"prompt": ["a"]}\n', "row 1, field 'prompt': .* neither text nor a number"),
    (b'{"prompt": "caf\xe9"}\n', "row 1, field 'prompt': the text is not UTF-8"),
    (b'{"prompt": "\\ud800"}\n', "row 1, field 'prompt': the text is not UTF-8"),
    (b'{"prompt": null}\n', "row 1: .* one of 'prompt' and 'messages'; its prompt is null"),
    (b'{"messages": null, "prompt": null}\n', "row 1: .*; its prompt and messages are null"),
    (b'{"messages": []}\n', "row 1, field 'messages': it must be a list of turns"),
    (b'{"messages": ["hi"]}\n', "row 1, field 'messages': it must be a list of turns"),
    (b'{"messages": [{"role": "human", "content": "a"}]}\n', "the role of turn 1 is 'human'; it must be one of"),
    (b'{"messages": [{"role": "user"}]}\n', "field 'messages, turn 1, content'"),
    (b'{"messages": [{"role": "system", "content": "a"}]}\n', "field 'messages': its last turn is the system's"),
    (
        b'{"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}\n',
        "row 1, field 'messages': its last turn is the assistant's, so it is answered already; leave that",
    ),
    (
        b'{"messages": [{"role": "assistant", "content": "b", "finish": "stop"}]}\n',
        'if the model is to go on with it, give it "finish": "length"',
    ),
    (b'{"id": "a", "prompt": "x"}\n{"id": "a", "prompt": "y"}\n', "row 2, field 'id': row 1 has the id 'a' with"),
    (b'{"id": [], "prompt": "x"}\n', "row 1, field 'id'"),
    (b"", "is empty: it holds no row"),
    ("{}".encode("utf-16"), "row 1: the line is not JSON"),
]


@pytest.mark.parametrize(("data", "said"), LINES, ids=[said for _, said in LINES])
def test_a_bad_row_is_named_and_nothing_is_written(tmp_path: Path, data: bytes, said: str) -> None:
    (tmp_path / "p.jsonl").write_bytes(data)
    config = recipes.sample.Config(tmp_path / "p.jsonl", tmp_path / "s.jsonl", model=MODEL, runs=tmp_path / "runs")
    with pytest.raises(UserError, match=said):
        recipes.sample.main(config)
    assert [path.name for path in tmp_path.iterdir()] == ["p.jsonl"]


def test_a_conversation_is_no_text_to_go_on_with(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="row 1, field 'messages': the style text goes on with a prompt"):
        read_prompts(write(tmp_path / "p.jsonl", {"messages": TALK}), "text")


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        ("--n 0", "n is 0; it must be a number in [1, 1e+06]"),
        ("--temperature nan", "temperature is nan"),
        ("--top-p inf", "top_p is inf"),
        ("--max-tokens 0", "max_tokens is 0"),
        ("--stop=", "stop holds an empty string"),
        ("--style prose", "--style"),
        ("--input none.jsonl", "There is no data file 'none.jsonl'"),
        ("--input p.txt", "p.txt is not one of .jsonl, .csv, .parquet"),
        ("--output s.json", "output is 's.json'; samples are JSONL"),
        ("--output folder.jsonl", "output is 'folder.jsonl', which is a folder"),
        ("--output p.jsonl", "output is 'p.jsonl', the file of prompts, which would be lost"),
        ("--engine vllm", "--endpoint"),
    ],
)
def test_a_bad_setting_is_told_in_a_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], flags: str, said: str
) -> None:
    from workbench.command import run_command

    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "120")
    write(tmp_path / "p.jsonl", {"prompt": "a"})
    write(tmp_path / "p.txt", {"prompt": "a"})
    (tmp_path / "folder.jsonl").mkdir()
    words = "--input p.jsonl --output s.jsonl --engine fake --model fake " + flags
    try:
        status = run_command(recipes.sample.main, recipes.sample.Config, words.split(), "sample")
    except SystemExit as exit:  # a flag that does not exist is the parser's to refuse
        status = exit.code  # type: ignore[assignment]
    printed = capsys.readouterr()
    assert status == 2
    assert said in printed.err + printed.out
    assert not (tmp_path / "s.jsonl").exists() and not (tmp_path / "runs").exists()


# --- drawing and writing ----------------------------------------------------------------------------


def test_every_sample_is_a_row(tmp_path: Path) -> None:
    write(tmp_path / "p.jsonl", {"id": "b", "prompt": "one"}, {"id": "a", "messages": TALK})
    counts = run(tmp_path, Counting(lambda request, index: f" \t{len(request.messages)}\n\x1b\ud800{index}"), 2)
    rows = written(tmp_path / "s.jsonl")
    assert [(row["id"], row["index"]) for row in rows] == [("b", 0), ("b", 1), ("a", 0), ("a", 1)]
    assert [row["text"] for row in rows][::2] == [" \t1\n\x1b\ud8000", " \t4\n\x1b\ud8000"]
    assert list(rows[0]) == [
        "id",
        "index",
        "text",
        "finish",
        "prompt_tokens",
        "completion_tokens",
        "logprob",
        "error",
    ]
    assert (rows[0]["finish"], rows[0]["error"], rows[0]["prompt_tokens"]) == ("stop", None, 1)
    assert (counts.samples, counts.drawn, counts.failed, counts.truncated) == (4, 4, 0, 0)
    assert counts.tokens == sum(row["completion_tokens"] for row in rows)


def test_more_samples_draw_only_those_that_are_missing(tmp_path: Path) -> None:
    write(tmp_path / "p.jsonl", {"prompt": "one"}, {"prompt": "two"})
    engine = Counting()
    run(tmp_path, engine, 16)
    first = written(tmp_path / "s.jsonl")
    engine.drawn.clear()
    counts = run(tmp_path, engine, 64)
    assert [indices for _, indices in engine.drawn] == [tuple(range(16, 64))] * 2
    assert (counts.samples, counts.drawn) == (128, 96)
    assert [row for row in written(tmp_path / "s.jsonl") if row["index"] < 16] == first
    engine.drawn.clear()
    assert run(tmp_path, engine, 64).drawn == 0 == len(engine.drawn)
    assert run(tmp_path, engine, 16).samples == 32 == len(written(tmp_path / "s.jsonl"))


def test_a_conversation_in_several_rows_is_drawn_once(tmp_path: Path) -> None:
    same = {"prompt": "one"}
    write(tmp_path / "p.jsonl", same, same, {"id": "x", **same}, {"id": "y", **same}, {"id": "y", **same})
    engine = Counting()
    counts = run(tmp_path, engine, 2, max_tokens=1)
    assert len(engine.drawn) == 1
    assert counts.line(Path("s.jsonl")) == (
        "2 samples in s.jsonl: 2 drawn now"
        f" (2 tokens, {2 / counts.seconds:,.0f} tokens/s), 0 from the store, 0 errors; 2 truncated."
        " 4 more rows repeat samples under another id."
    )
    again = run(tmp_path, engine, 2, max_tokens=1)
    assert again.line(Path("s.jsonl")).startswith("2 samples in s.jsonl: 0 drawn now, 2 from the store, 0 errors;")
    rows = written(tmp_path / "s.jsonl")
    assert [row["id"] for row in rows[2:]] == ["x", "x", "y", "y"]
    assert len({row["text"] for row in rows if row["index"] == 0}) == 1
    assert len(rows) == 6, "a row that stands twice is one"


@pytest.mark.parametrize(
    "change",
    [{"temperature": 0.1}, {"top_p": 0.5}, {"top_k": 5}, {"max_tokens": 9}, {"seed": 1}, {"stop": ("x",)}],
)
def test_other_settings_never_hit(tmp_path: Path, change: dict[str, Any]) -> None:
    write(tmp_path / "p.jsonl", {"id": "a", "prompt": "one"})
    engine = Counting()
    run(tmp_path, engine, 2)
    run(tmp_path, engine, 2, **change)
    assert len(engine.drawn) == 2


def test_another_text_never_hits(tmp_path: Path) -> None:
    engine = Counting()
    for row in ({"prompt": "one"}, {"prompt": "one "}, {"messages": TALK}, {"messages": TALK[1:]}):
        write(tmp_path / "p.jsonl", {"id": "a", **row})
        run(tmp_path, engine, 2)
    write(tmp_path / "p.jsonl", {"id": "a", "prompt": "one"})
    run(tmp_path, engine, 2, style="text")
    assert len(engine.drawn) == 5


def test_failed_requests_are_rows_and_asked_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    broken = [True]

    def script(request: Request, index: int) -> str:
        if broken[0] and index == 1 and request.messages[0].content == "two":
            raise RuntimeError("the pipe burst")
        return "word " * (index + 1)

    engine = Counting(script)
    monkeypatch.setattr(ModelFlags, "open", lambda self: engine)
    path = write(tmp_path / "p.jsonl", {"id": "1", "prompt": "one"}, {"id": "2", "prompt": "two"})
    decode = Sample(3, max_tokens=2)
    config = recipes.sample.Config(path, tmp_path / "s.jsonl", decode, model=MODEL, runs=tmp_path, quiet=True)
    with pytest.raises(UserError, match=r"1 of 6 samples failed .* first: RuntimeError: the pipe burst"):
        recipes.sample.main(config)
    assert "6 samples in " in (said := capsys.readouterr().out)
    assert "5 drawn now (8 tokens, " in said and "0 from the store, 1 errors; 2 truncated." in said
    rows = written(tmp_path / "s.jsonl")
    assert [row["finish"] for row in rows] == ["stop", "stop", "length", "stop", "error", "length"]
    assert rows[4]["error"] == "RuntimeError: the pipe burst" and rows[4]["text"] == ""
    broken[0] = False
    engine.drawn.clear()
    assert recipes.sample.main(config).failed == 0
    assert [indices for _, indices in engine.drawn] == [(1,)]


def test_a_server_that_dies_leaves_what_came_and_no_file(tmp_path: Path) -> None:
    class Dying(Counting):
        def sample(self, requests: Sequence[Request], sampling: Sampling) -> Any:
            batches = super().sample(requests, sampling)
            yield next(batches)
            raise UserError("The server does not answer")

    write(tmp_path / "p.jsonl", *({"prompt": f"{i}"} for i in range(3)))
    with pytest.raises(UserError, match="does not answer"):
        run(tmp_path, Dying(), 4)
    assert not (tmp_path / "s.jsonl").exists()
    engine = Counting()
    assert run(tmp_path, engine, 4).drawn == 8
    assert [messages[0].content for messages, _ in engine.drawn] == ["1", "2"]


def test_each_batch_is_stored_before_the_next_one_starts(tmp_path: Path) -> None:
    seen: list[int] = []

    class Looking(Counting):
        def sample(self, requests: Sequence[Request], sampling: Sampling) -> Any:
            batch: Batch
            for batch in super().sample(requests, sampling):
                with sqlite3.connect(tmp_path / "completions.sqlite") as db:
                    seen.append(db.execute("SELECT count(*) FROM completions").fetchone()[0])
                yield batch

    write(tmp_path / "p.jsonl", *({"prompt": f"{i}"} for i in range(3)))
    run(tmp_path, Looking(), 4)
    assert seen == [0, 4, 8]


def test_progress_tells_the_speed(tmp_path: Path) -> None:
    told: list[tuple[int, int, str]] = []
    write(tmp_path / "p.jsonl", {"prompt": "a"}, {"prompt": "b"})
    system = system_of(Model("fake"), Sample(2), (), "chat")
    prompts = read_prompts(tmp_path / "p.jsonl", "chat")
    with Store(tmp_path / "completions.sqlite") as store:
        sample(prompts, system, Counting(), store, tmp_path / "s.jsonl", lambda *now: told.append(now))
    assert [(done, total) for done, total, _ in told] == [(0, 4), (2, 4), (4, 4)]
    assert told[0][2] == "" and told[1][2].endswith(" tokens/s")


def stored(runs: Path) -> int:
    try:
        with sqlite3.connect(f"file:{runs / 'completions.sqlite'}?mode=ro", uri=True) as db:
            count: int = db.execute("SELECT count(*) FROM completions").fetchone()[0]
            return count
    except sqlite3.OperationalError:
        return 0


def test_a_killed_command_goes_on(tiny_model: Path, tmp_path: Path) -> None:
    path = write(tmp_path / "p.jsonl", *({"prompt": f"What is {i} plus 7?"} for i in range(40)))

    def command(output: str, runs: str) -> list[str]:
        flags = f"--n 16 --max-tokens 40 --dtype float32 --device cpu --quiet --runs {tmp_path / runs}"
        flags += f" --model {tiny_model} --input {path} --output {tmp_path / output}"
        return [sys.executable, "-m", "recipes", "sample", *flags.split()]

    env = os.environ | {"OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(command("s.jsonl", "runs"), cwd=ROOT, env=env)
    until = time.monotonic() + 120
    while not (there := stored(tmp_path / "runs")):
        assert process.poll() is None and time.monotonic() < until
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.wait()
    there = stored(tmp_path / "runs")
    assert 0 < there < 640 and not (tmp_path / "s.jsonl").exists()
    done = subprocess.run(
        command("s.jsonl", "runs"), cwd=ROOT, env=env, capture_output=True, text=True, check=True
    )
    assert f"{640 - there} drawn now" in done.stdout and f"{there} from the store" in done.stdout
    subprocess.run(command("whole.jsonl", "other"), cwd=ROOT, env=env, check=True, capture_output=True)
    rows, whole = (written(tmp_path / name) for name in ("s.jsonl", "whole.jsonl"))
    assert [(row["id"], row["index"], row["text"]) for row in rows] == [
        (row["id"], row["index"], row["text"]) for row in whole
    ]
