import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from workbench.errors import UserError
from workbench.tasks import load_task
from workbench.tasks.base import open_test
from workbench.tasks.phrasebank import ARCHIVE, FILES, LABELS, parse

ROOT = Path(__file__).parents[2]
REAL = ROOT.parent / "shared/data/financial_phrasebank"
real_data = pytest.mark.skipif(not REAL.is_dir(), reason=f"the data set is not at {REAL}")


def splits_of(agreement: str) -> dict[str, str]:
    task = load_task("phrasebank", {"path": str(REAL), "agreement": agreement})
    splits = {"practice": task.practice, "dev": task.dev, "test": open_test(task)}
    return {example.id: name for name, examples in splits.items() for example in examples}


@real_data
def test_a_sentence_is_in_the_same_split_in_every_agreement_level():
    levels = [splits_of(agreement) for agreement in FILES]
    everything = levels[-1]
    for level in levels[:-1]:
        # what conflicts at 50 % is not there at all; all else is where it is in the smaller files
        assert all(everything.get(id, split) == split for id, split in level.items())
    assert [len(level) for level in levels] == sorted(len(level) for level in levels)


@real_data
@pytest.mark.parametrize(("agreement", "rows"), [("all", 2264), ("75", 3453), ("66", 4217), ("50", 4846)])
def test_the_real_data(agreement, rows):
    examples, repeated, conflicting = parse("", (REAL / FILES[agreement]).read_bytes())
    assert len(examples) + repeated + conflicting == rows
    assert {e.target for e in examples} == set(LABELS)
    assert not any("\r" in e.input or "\ufffd" in e.input for e in examples)


@real_data
def test_settings_hold_no_path():
    task = load_task("phrasebank", {"path": str(REAL), "practice": "100"})
    assert str(REAL) not in str(task.settings)
    assert len(task.practice) == 100
    assert task.labels == LABELS
    assert task.grade("Positive", task.dev[0]).answer == "positive"


def test_lines_as_the_authors_wrote_them():
    content = "Caf\xe9 a@b rose 5 %@positive\r\r\nX fell .\r@negative\r\n"
    content += "\r\nX  fell .@negative\nY@neutral\nY@positive\n"
    examples, repeated, conflicting = parse("f.txt", content.encode("iso-8859-1"))
    assert [(e.input, e.target) for e in examples] == [
        ("Café a@b rose 5 %", "positive"),
        ("X fell .", "negative"),
    ]
    assert (repeated, conflicting) == (2, 1)


@pytest.mark.parametrize(
    ("line", "message"),
    [("no label", "row 2, field 'label'"), ("x@good", "'good'"), ("@neutral", "'sentence'")],
)
def test_bad_rows_are_named(line, message):
    with pytest.raises(UserError, match=message):
        parse("f.txt", f"fine@neutral\n{line}\n".encode())


def test_a_missing_file_and_a_wrong_level(tmp_path):
    with pytest.raises(UserError, match="Sentences_AllAgree"):
        load_task("phrasebank", {"path": str(tmp_path)})
    with pytest.raises(UserError, match=r"agreement.*'75'"):
        load_task("phrasebank", {"agreement": "80"})


def test_without_a_network_what_is_cached_works_and_what_is_not_is_named(tmp_path):
    """The Hub's own cache folder, offline: first empty, then with the archive in it."""
    code = (
        "from workbench.tasks import load_task\nfrom workbench.errors import UserError\n"
        "try: print(len(load_task('phrasebank').practice))\nexcept UserError as error: print(error)"
    )
    env = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_HUB_CACHE": str(tmp_path)}

    def output() -> str:
        command = [sys.executable, "-c", code]
        return subprocess.run(command, env=env, cwd=ROOT, capture_output=True, text=True, check=True).stdout

    assert "takala/financial_phrasebank" in output()
    repository = tmp_path / "datasets--takala--financial_phrasebank"
    archive = repository / "snapshots" / ("0" * 40) / ARCHIVE
    archive.parent.mkdir(parents=True)
    (repository / "refs").mkdir()
    (repository / "refs/main").write_text("0" * 40)
    with zipfile.ZipFile(archive, "w") as files:
        rows = "".join(f"Sentence {n}@{LABELS[n % 3]}\r\n" for n in range(100))
        files.writestr(f"FinancialPhraseBank-v1.0/{FILES['all']}", rows)
    assert 40 < int(output()) < 80
