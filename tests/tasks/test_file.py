import json
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest

from workbench.errors import UserError
from workbench.tasks import load_task
from workbench.tasks.base import Grade, open_test
from workbench.tasks.rows import hub_rows

ROWS = [{"q": f"What is {n} + 1?", "a": n + 1, "why": f"{n} and 1"} for n in range(60)]
FIELDS = {"input": "q", "target": "a"}


def jsonl(folder: Path, rows: list[dict[str, object]]) -> str:
    path = folder / "data.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


def raw(folder: Path, name: str, content: bytes) -> str:
    (folder / name).write_bytes(content)
    return str(folder / name)


def test_the_three_formats_are_one_task(tmp_path):
    csv = "q,a,why\r\n" + "".join(f'"{r["q"]}",{r["a"]},{r["why"]}\r\n' for r in ROWS)
    parquet = str(tmp_path / "data.parquet")
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(ROWS), parquet)
    paths = [jsonl(tmp_path, ROWS), raw(tmp_path, "data.csv", b"\xef\xbb\xbf" + csv.encode()), parquet]
    tasks = [load_task("file", FIELDS | {"path": p, "grader": "number", "rationale": "why"}) for p in paths]
    assert len({task.hash for task in tasks}) == 1
    assert all(task.practice == tasks[0].practice for task in tasks)
    task = tasks[0]
    assert len(task.practice) + len(task.dev) + len(open_test(task)) == 60
    assert task.practice[0].rationale.endswith("and 1")
    assert task.grade(f"It is ${task.dev[0].target}.00", task.dev[0]).correct
    assert str(tmp_path) not in str(task.settings)


def test_a_split_field_is_obeyed(tmp_path):
    names = ["train", "validation", "test"]
    rows = [{**row, "s": names[n % 3]} for n, row in enumerate(ROWS)]
    task = load_task("file", FIELDS | {"path": jsonl(tmp_path, rows), "split": "s"})
    assert (len(task.practice), len(task.dev), len(open_test(task))) == (20, 20, 20)
    rows[4]["s"] = "exam"
    with pytest.raises(UserError, match=r"row 5, field 's'.*'exam'"):
        load_task("file", FIELDS | {"path": jsonl(tmp_path, rows), "split": "s"})


def test_labels_are_given_or_found(tmp_path):
    rows = [{"q": f"text {n}", "a": ["good", "bad"][n % 2]} for n in range(60)]
    arguments = FIELDS | {"path": jsonl(tmp_path, rows), "grader": "label"}
    task = load_task("file", arguments)
    assert (task.labels, task.prompt) == (("bad", "good"), "classify")
    assert task.dev[0].variables == (("labels", "bad, good"),)
    assert load_task("file", arguments | {"labels": "Good, Bad"}).labels == ("Good", "Bad")
    with pytest.raises(UserError, match=r"row 2, field 'a'.*'bad' is not one of good, poor"):
        load_task("file", arguments | {"labels": "good,poor"})


def test_a_yaml_file_describes_a_task(tmp_path):
    (tmp_path / "data").mkdir()
    jsonl(tmp_path / "data", ROWS)
    description = tmp_path / "sums.yaml"
    description.write_text(
        "path: data/data.jsonl\ninput: q\ntarget: a\ngrader: regex\npattern: '(\\d+) *$'\ndev: 3\n"
    )
    task = load_task(str(description))
    assert len(task.dev) == 3
    assert task.grade(f"1 and {task.dev[0].target}", task.dev[0]).correct
    assert len(load_task(str(description), {"dev": "2"}).dev) == 2
    description.write_text("path: [")
    with pytest.raises(UserError, match="not YAML"):
        load_task(str(description))
    description.write_text("path: data/data.jsonl\ntargets: a\n")
    with pytest.raises(UserError, match=r"'targets'.*Did you mean 'target'"):
        load_task(str(description))
    with pytest.raises(UserError, match="no task file"):
        load_task("nowhere.yaml")


def test_a_python_grader(tmp_path):
    code = (
        "from workbench.tasks.base import Grade\n"
        "def last(text, example): return text.split()[-1] if text else None\n"
        "def near(text, example): return Grade(text, abs(int(text) - int(example.target)) < 2)\n"
        "def wrong(text, example): return 7\n"
        "no_function = 3\n"
    )
    file = raw(tmp_path, "mine.py", code.encode())

    def grader(name: str):
        arguments = {"path": jsonl(tmp_path, ROWS), "grader": "python", "function": f"{file}:{name}"}
        return load_task("file", FIELDS | arguments)

    task = grader("last")
    e = task.dev[0]
    assert task.grade(f"is {e.target}", e) == Grade(e.target, True)
    assert task.grade("", e) == Grade(None, False)
    assert str(tmp_path) not in str(task.settings)
    assert grader("near").grade(str(int(e.target) + 1), e).correct
    with pytest.raises(UserError, match=r"mine\.py:near failed on the question 'What is"):
        grader("near").grade("x", e)
    with pytest.raises(UserError, match="returned 7"):
        grader("wrong").grade("x", e)
    with pytest.raises(UserError, match="no function 'no_function'"):
        grader("no_function")


GOOD = b'{"q": "one?", "a": "1"}\n'


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("d.jsonl", b"", "is empty"),
        ("d.csv", b"q,a\n", "is empty"),
        ("d.txt", b"q", r"must end in one of"),
        ("d.jsonl", GOOD + b"{'q': 1}\n", "row 2: the line is not JSON"),
        ("d.jsonl", GOOD + b"[1]\n", "row 2: the line is no JSON object"),
        ("d.jsonl", GOOD + b"[" * 100_000 + b"\n", "row 2: the line is not JSON"),
        ("d.jsonl", GOOD + b'\n{"q": "two?"}\n', "row 3, field 'a': the row has no such field; it has 'q'"),
        ("d.jsonl", GOOD + b'{"q": "two?", "a": NaN}\n', "row 2.*NaN"),
        ("d.jsonl", GOOD + b'{"q": "two?", "a": 1e999}\n', "row 2, field 'a': inf"),
        ("d.jsonl", GOOD + b'{"q": "two?", "a": null}\n', "row 2, field 'a': None is neither"),
        ("d.jsonl", GOOD + b'{"q": "two?", "a": true}\n', "row 2, field 'a': True is neither"),
        ("d.jsonl", GOOD + b'{"q": ["two?"], "a": 2}\n', "row 2, field 'q'.*is neither"),
        ("d.jsonl", GOOD + b'{"q": "two?", "a": " "}\n', "row 2, field 'a': the field is empty"),
        ("d.jsonl", GOOD + b'{"q": "caf\xe9?", "a": "2"}\n', "row 2, field 'q': the text is not UTF-8"),
        ("d.jsonl", GOOD + GOOD, "row 2, field 'q': row 1 asks the same question with the same answer"),
        ("d.jsonl", GOOD + b'{"q": " one? ", "a": "2"}', "row 2, field 'q': row 1 asks .* another answer"),
        ("d.jsonl", '{"q": "one?", "a": "1"}\n'.encode("utf-16"), "row 1"),
        ("d.csv", b"q,b\none,1\n", "row 2, field 'a': the row has no such field"),
        ("d.csv", b"q,a,a\none,1,2\n", "row 1, field 'a': two columns"),
        ("d.csv", b'q,a\n"one\nmore",1\ntwo,2,3\n', "row 4: the row has 3 fields where the header has 2"),
        ("d.csv", b'q,a\none,1\n"two,2\n', "row 3: the row is not CSV"),
        ("d.csv", b"q,a\none,1\ntwo,\xff\n", "row 3, field 'a': the text is not UTF-8"),
        ("d.csv", b"q,a\xff\none,1\n", "row 1: the header is not UTF-8"),
        ("d.csv", b"q,a\none,\n", "row 2, field 'a': the field is empty"),
        ("d.parquet", b"PAR1 no", "cannot be read as Parquet"),
    ],
)  # fmt: skip
def test_bad_data_is_refused_by_row_and_field(tmp_path, name, content, message):
    path = raw(tmp_path, name, content)
    with pytest.raises(UserError, match=message) as error:
        load_task("file", FIELDS | {"path": path})
    assert path in str(error.value)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "either path=.* or hub="),
        ({"path": "x.csv", "hub": "a/b"}, "either path=.* or hub="),
        ({"path": "nowhere.csv"}, "no data file 'nowhere.csv'"),
        ({"path": "x.csv", "grader": "regex"}, "pattern=.*grader=regex"),
        ({"path": "x.csv", "function": "f.py:g"}, "function=.*grader=python"),
        ({"path": "x.csv", "labels": "a,b"}, "labels=.*grader=label"),
        ({"path": "x.csv", "grader": "vibes"}, "grader.*'exact'"),
    ],
)
def test_arguments_that_do_not_go_together(arguments, message):
    with pytest.raises(UserError, match=message):
        load_task("file", arguments)


def test_number_targets_must_be_numbers(tmp_path):
    path = jsonl(tmp_path, [{"q": "one?", "a": "seven"}])
    with pytest.raises(UserError, match="row 1, field 'a': 'seven' is no number"):
        load_task("file", FIELDS | {"path": path, "grader": "number"})


def test_a_hub_data_set_in_a_local_folder_brings_its_splits(tmp_path, monkeypatch):
    """`datasets` reads a folder as it reads a Hub repository; the cache is a fresh one."""
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", str(tmp_path / "cache"))
    folder = tmp_path / "repository"
    folder.mkdir()
    for name in ("train", "test"):
        raw(folder, f"{name}.jsonl", json.dumps({"q": f"{name}?", "a": "1"}).encode() + b"\n")
    rows = hub_rows(str(folder))
    assert [(n, row["split"], row["q"]) for n, row in rows] == [(1, "train", "train?"), (2, "test", "test?")]
