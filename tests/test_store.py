"""The store keeps every completion through kills, damage, full disks and other writers."""

import os
import random
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from workbench.decodes import Sampling
from workbench.errors import UserError
from workbench.store import MIGRATIONS, Store, salvage
from workbench.types import Completion, Finish


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "runs" / "completions.sqlite"


def batch(question: str, indices: range, text: str = "the answer is 42") -> list[tuple[str, Completion]]:
    return [(question, Completion(i, f"{text} {i}", 50, 7, -1.5, 0.01)) for i in indices]


def test_what_is_appended_is_read_back(path: Path) -> None:
    stored = [
        Completion(2, "  indented\t\n", 5, 7, None, 0.0, Finish.LENGTH),
        Completion(0, "", 5, 0, -0.0, 1.5, Finish.STOP),
        Completion(1, "yes", 5, 1, float("-inf"), 0.1, Finish.SCORED),
    ]
    with Store(path) as store:
        stream = store.stream({"model": "a"})
        store.append(stream, [("q", c) for c in stored])
        store.append(stream, [])
    with Store(path) as store:
        assert store.stream({"model": "a"}) == stream
        assert store.read(stream, ["q", "unknown"], 64) == {"q": sorted(stored, key=lambda c: c.index)}
        assert [c.index for c in store.read(stream, ["q"], 2)["q"]] == [0, 1]
        assert list(store.streams()) == [(stream, {"model": "a"}, 3)]
        assert [(name, c.index) for name, c in store.rows(stream)] == [("q", 0), ("q", 1), ("q", 2)]


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    with Store(tmp_path_factory.mktemp("store") / "completions.sqlite") as store:
        yield store


ANY_TEXT = st.text(st.characters(exclude_categories=()))  # surrogates too


@given(text=ANY_TEXT, question=ANY_TEXT)
@example(text="\t  a\0b\r\n", question="q\0")
@example(text="\ud83d", question="\udc00")
@example(text="\ud83d\ude00", question="😀")
@example(text="\u202edesrever\u2066", question="")
def test_any_text_comes_back_exactly(shared: Store, text: str, question: str) -> None:
    stream = shared.stream({"prompt": text})
    shared.append(stream, [(question, Completion(0, text))])
    assert shared.read(stream, [question], 1) == {question: [Completion(0, text)]}
    assert any(key == {"prompt": text} for _, key, _ in shared.streams())


def test_streams_never_mix(path: Path) -> None:
    key = {
        "model": {"base": "a", "adapter": None},
        "prompt": "x",
        "sampling": Sampling(seed=1),
        "engine": "hf 1",
    }
    with Store(path) as store:
        first = store.stream(key)
        others = [
            store.stream(key | change)
            for change in (
                {"model": {"base": "b", "adapter": None}},
                {"model": {"base": "a", "adapter": "0123456789abcdef"}},
                {"prompt": "x "},
                {"sampling": Sampling(seed=2)},
                {"sampling": Sampling(seed=1, temperature=0.99)},
                {"engine": "hf 2"},
            )
        ]
        assert len({first, *others}) == 7
        assert store.stream(dict(reversed(key.items()))) == first
        store.append(first, batch("q", range(4)))
        assert all(store.read(other, ["q"], 4) == {} for other in others)


def test_missing_names_only_what_is_not_there(path: Path) -> None:
    with Store(path) as store:
        stream = store.stream({})
        store.append(stream, batch("q1", range(16)) + batch("q2", range(3, 5)))
        assert store.missing(stream, ["q1", "q2", "q3"], 5) == {"q2": (0, 1, 2), "q3": (0, 1, 2, 3, 4)}
        assert store.missing(stream, ["q1"], 64) == {"q1": tuple(range(16, 64))}


def test_the_first_writer_of_a_sample_wins(path: Path) -> None:
    with Store(path) as first, Store(path) as second:
        stream = first.stream({"model": "a"})
        assert second.stream({"model": "a"}) == stream
        first.append(stream, batch("q", range(2), "first"))
        second.append(stream, batch("q", range(4), "second"))
        texts = [c.text for c in first.read(stream, ["q"], 4)["q"]]
        assert texts == ["first 0", "first 1", "second 2", "second 3"]


def test_a_failed_request_is_never_stored(path: Path) -> None:
    with Store(path) as store:
        stream = store.stream({})
        failed = Completion(1, "", finish=Finish.ERROR, error="503")
        with pytest.raises(ValueError, match="503"):
            store.append(stream, [("q", Completion(0, "fine")), ("q", failed)])
        assert store.read(stream, ["q"], 9) == {}


def test_looks_count_different_systems(path: Path) -> None:
    with Store(path) as store:
        for look in [
            ("t", "test", "a"),
            ("t", "test", "b"),
            ("t", "test", "a"),
            ("t", "dev", "c"),
            ("u", "test", "d"),
        ]:
            store.record_look(*look)
        assert (store.looks("t", "test"), store.looks("t", "dev"), store.looks("x", "test")) == (2, 1, 0)


def test_a_newer_file_is_refused_and_left_alone(path: Path) -> None:
    Store(path).close()
    with sqlite3.connect(path) as db:
        db.execute(f"PRAGMA user_version = {len(MIGRATIONS) + 1}")
    db.close()
    before = path.read_bytes()
    with pytest.raises(UserError, match="newer version"):
        Store(path)
    assert path.read_bytes() == before


def test_a_path_that_cannot_be_opened_is_explained(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot be"):
        Store(tmp_path / "file" / "completions.sqlite")
    (tmp_path / "folder.sqlite").mkdir()
    with pytest.raises(UserError, match="cannot be"):
        Store(tmp_path / "folder.sqlite")


# --- kill -9 and other writers ----------------------------------------------------------------------

WRITER = """
import sys
from workbench.store import Store
from workbench.types import Completion
path, who, batches = sys.argv[1], sys.argv[2], int(sys.argv[3])
store = Store(path)
stream = store.stream({"model": "a"})
for number in range(batches):
    store.append(stream, [(f"{who}-{number}", Completion(i, f"{who} {number} {i}")) for i in range(8)])
    print(number, flush=True)
"""


def start_writer(path: Path, who: str, batches: int) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", WRITER, str(path), who, str(batches)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_kill_9_loses_at_most_the_batch_in_flight(path: Path) -> None:
    rng = random.Random(0)
    for round in range(6):
        writer = start_writer(path, f"round{round}", 10**9)
        assert writer.stdout is not None
        first = writer.stdout.readline()
        assert first == "0\n", writer.communicate()[1]
        time.sleep(rng.uniform(0, 0.25))
        writer.send_signal(signal.SIGKILL)
        acknowledged = 1 + len(writer.stdout.read().splitlines())
        writer.wait()
        with Store(path) as store:
            stream = store.stream({"model": "a"})
            names = [f"round{round}-{number}" for number in range(acknowledged + 2)]
            found = store.read(stream, names, 8)
            assert all(len(samples) == 8 for samples in found.values())  # whole batches only
            assert set(names[:acknowledged]) <= set(found)
            assert len(found) <= acknowledged + 1
            assert not list(path.parent.glob("*damaged*"))


def test_several_writers_lose_nothing_and_never_find_it_locked(path: Path) -> None:
    writers = [start_writer(path, f"writer{i}", 150) for i in range(4)]
    for writer in writers:
        _, errors = writer.communicate(timeout=60)
        assert (writer.returncode, errors) == (0, "")
    with Store(path) as store:
        ((_, _, rows),) = store.streams()
        assert rows == 4 * 150 * 8


# --- damage -----------------------------------------------------------------------------------------

QUESTIONS = [f"question-{i}" for i in range(1000)]


def fill(path: Path) -> int:
    with Store(path) as store:
        stream = store.stream({"model": "a"})
        for question in QUESTIONS:
            store.append(stream, batch(question, range(16)))
        store.record_look("t", "test", "a")
    return stream


def check_salvaged(path: Path, capsys: pytest.CaptureFixture[str], at_least: int) -> int:
    """Opening repairs, says so, keeps whole rows, and what is missing can be appended again."""
    with Store(path) as store:
        warning = capsys.readouterr().err
        assert "was damaged" in warning
        assert "damaged-1.sqlite" in warning
        stream = store.stream({"model": "a"})
        found = store.read(stream, QUESTIONS, 16)
        kept = sum(map(len, found.values()))
        assert f"{kept} completions could be read" in warning
        assert kept >= at_least
        for question, completions in found.items():
            assert completions == [c for _, c in batch(question, range(16)) if c in completions]
        for question, indices in store.missing(stream, QUESTIONS, 16).items():
            store.append(stream, [(question, Completion(i, "again")) for i in indices])
        assert store.missing(stream, QUESTIONS, 16) == {}
    assert path.with_name("completions.damaged-1.sqlite").exists()
    assert not list(path.parent.glob(".salvage-*"))
    Store(path).close()
    assert capsys.readouterr().err == ""
    return kept


@pytest.mark.parametrize("fraction", [0.999, 0.9, 0.5, 0.1])
def test_a_truncated_file_keeps_its_earlier_rows(
    path: Path, capsys: pytest.CaptureFixture[str], fraction: float
) -> None:
    fill(path)
    os.truncate(path, int(path.stat().st_size * fraction))
    kept = check_salvaged(path, capsys, at_least=int(16_000 * (fraction - 0.1)))
    assert kept < 16_000


@pytest.mark.parametrize("size", [0, 100, 5000])
def test_a_file_cut_to_almost_nothing_starts_anew(
    path: Path, capsys: pytest.CaptureFixture[str], size: int
) -> None:
    fill(path)
    os.truncate(path, size)
    assert check_salvaged(path, capsys, at_least=0) == 0


@pytest.mark.parametrize("seed", range(5))
def test_overwritten_pages_cost_only_their_rows(path: Path, capsys: pytest.CaptureFixture[str], seed: int) -> None:
    fill(path)
    rng = random.Random(seed)
    pages = path.stat().st_size // 4096
    with path.open("r+b") as file:
        for page in rng.sample(range(12, pages), 5):  # pages from 12 on: past the roots of tables and indices
            file.seek(page * 4096)
            file.write(rng.randbytes(4096))
    check_salvaged(path, capsys, at_least=14_000)
    with Store(path) as store:
        assert store.looks("t", "test") == 1


def test_damage_that_happens_while_it_is_open_is_explained(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    stream = fill(path)
    with Store(path) as store:
        with path.open("r+b") as file:
            file.seek(20 * 4096)
            file.write(b"\xff" * 20 * 4096)
        store._db.execute("PRAGMA shrink_memory")  # this file is small enough to be cached whole
        with pytest.raises(UserError, match="Run the same command again"):
            list(store.rows(stream))
    check_salvaged(path, capsys, at_least=10_000)


def keep_log(tmp_path: Path) -> Path:
    """As after a kill: copied while it is open, because closing folds the log into the file."""
    source = tmp_path / "open" / "completions.sqlite"
    target = tmp_path / "completions.sqlite"
    with Store(source) as store:
        stream = store.stream({"model": "a"})
        for question in QUESTIONS[:60]:  # few enough for the log not to start over
            store.append(stream, batch(question, range(16)))
        for suffix in ("", "-wal"):
            Path(f"{target}{suffix}").write_bytes(Path(f"{source}{suffix}").read_bytes())
    return target


@pytest.mark.parametrize("cut", [1, 3000, 5000, 100_001])
def test_a_truncated_log_is_noticed_and_its_earlier_batches_are_there(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], cut: int
) -> None:
    path = keep_log(tmp_path)
    log = Path(f"{path}-wal")
    os.truncate(log, log.stat().st_size - cut)
    with Store(path) as store:
        assert "was cut off in the middle of a batch" in capsys.readouterr().err
        found = store.read(store.stream({"model": "a"}), QUESTIONS, 16)
    assert all(len(samples) == 16 for samples in found.values())
    assert 20 < len(found) < 60
    assert list(found) == QUESTIONS[: len(found)]
    Store(path).close()
    assert capsys.readouterr().err == ""


def test_a_whole_log_is_read_without_a_word(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = keep_log(tmp_path)
    with Store(path) as store, Store(path):
        assert len(store.read(store.stream({"model": "a"}), QUESTIONS, 16)) == 60
    assert capsys.readouterr().err == ""


def test_a_garbled_log_is_noticed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = keep_log(tmp_path)
    log = Path(f"{path}-wal")
    with log.open("r+b") as file:
        file.seek(log.stat().st_size // 2)
        file.write(b"garbage")
    with Store(path) as store:
        assert "was cut off in the middle of a batch" in capsys.readouterr().err
        assert 0 < len(store.read(store.stream({"model": "a"}), QUESTIONS, 16)) < 60


def test_salvage_of_a_sound_store_loses_nothing(path: Path) -> None:
    fill(path)
    assert salvage(path) == 16_000


# --- a full disk ------------------------------------------------------------------------------------


@contextmanager
def small_disk(folder: Path, megabytes: int) -> Iterator[Path]:
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"size={megabytes}m", "tmpfs", str(folder)]
    if subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("a disk that can be filled needs the right to mount a tmpfs: run as root")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def test_a_full_disk_costs_only_the_batch_that_met_it(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", 2) as disk:
        path = disk / "completions.sqlite"
        with Store(path) as store:
            stream = store.stream({"model": "a"})
            stored = 0
            with pytest.raises(UserError, match="disk is full"):
                for stored in range(1000):
                    store.append(stream, batch(f"question-{stored}", range(16), "x" * 100))
            assert stored > 10
            questions = [f"question-{i}" for i in range(1000)]
            assert list(store.read(stream, questions, 16)) == questions[:stored]
        with Store(path) as store:
            assert list(store.read(stream, questions, 16)) == questions[:stored]
