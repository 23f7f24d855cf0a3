import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from workbench.errors import UserError
from workbench.tasks import load_task
from workbench.tasks.base import open_test

ROOT = Path(__file__).parents[2]
REAL = ROOT.parent / "shared/data/gsm8k"


def write(folder: Path, train: list[dict[str, str]], test: list[dict[str, str]]) -> dict[str, str]:
    for name, rows in (("train", train), ("test", test)):
        text = "".join(json.dumps(row) + "\n" for row in rows)
        (folder / f"{name}.jsonl").write_text(text, encoding="utf-8")
    return {"path": str(folder), "dev": "1"}


def row(n: int, answer: str | None = None) -> dict[str, str]:
    return {
        "question": f"What is {n} + {n}?",
        "answer": answer or f"It is <<{n}+{n}={2 * n}>>{2 * n}.\n#### {2 * n}",
    }


@pytest.mark.skipif(not REAL.is_dir(), reason=f"the data set is not at {REAL}")
def test_the_real_data():
    task = load_task("gsm8k", {"path": str(REAL), "dev": "200"})
    test = open_test(task)
    assert (len(task.dev), len(test)) == (200, 1319)
    assert 6500 < len(task.practice) < 7000
    assert len({e.id for e in (*task.practice, *task.dev, *test)}) == len((*task.practice, *task.dev, *test))
    for e in task.practice:
        assert "<<" not in e.rationale
        assert task.grade(e.rationale, e).correct
        assert task.grade(f"A: {e.target}", e).correct
    assert "path" not in task.settings
    assert task.hash == load_task("gsm8k", {"path": f"{REAL}/../gsm8k", "dev": "200"}).hash


def test_a_training_question_that_stands_in_test_is_dropped(tmp_path):
    task = load_task("gsm8k", write(tmp_path, [row(n) for n in range(60)], [row(n) for n in range(50, 70)]))
    assert task.settings["dropped_from_train"] == 10
    assert not {e.id for e in task.practice} & {e.id for e in open_test(task)}
    assert len(open_test(task)) == 20


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ({"question": "x"}, r"train\.jsonl, row 2, field 'answer'.*no such field"),
        ({"question": "x", "answer": "12"}, r"row 2, field 'answer'.*#### N"),
        (row(0, "#### 1"), r"row 2, field 'question'.*different answers"),
        (row(1, "#### none"), r"row 2, field 'answer'.*#### N"),
    ],
)
def test_bad_rows_are_named(tmp_path, bad, message):
    with pytest.raises(UserError, match=message):
        load_task("gsm8k", write(tmp_path, [row(0), bad], [row(5)]))


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(UserError, match=r"train\.jsonl"):
        load_task("gsm8k", {"path": str(tmp_path)})


def test_without_a_network_the_error_says_what_to_fetch(tmp_path):
    code = (
        "from workbench.tasks import load_task\nfrom workbench.errors import UserError\n"
        "try: load_task('gsm8k')\nexcept UserError as error: print(error)"
    )
    env = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path)}
    out = subprocess.run(
        [sys.executable, "-c", code], env=env, cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert "'openai/gsm8k' cannot be loaded" in out.stdout
    assert "path=" in out.stdout
