"""Every recipe as a function, by what it leaves on the disk, and as a command, by what it says and returns."""

import json
import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

import recipes.compare
import recipes.doctor
import recipes.evaluate
import recipes.export
import recipes.few_shot
import recipes.ladder
import recipes.lora
import recipes.majority_vote
import recipes.models
import recipes.pass_at_k
import recipes.prompts
import recipes.quickstart
import recipes.runs
import recipes.tasks
import recipes.zero_shot
from recipes.__main__ import RECIPES
from workbench.decodes import BestOfN, Greedy, LabelLikelihood, Majority, Sample
from workbench.engines import EngineConfig
from workbench.errors import UserError
from workbench.identity import system_hash
from workbench.ladder import Config as LadderConfig
from workbench.methods.few_shot import Config as FewShotConfig
from workbench.methods.lora import Config as LoraConfig
from workbench.runs import RunFolder, list_runs
from workbench.session import Setup
from workbench.store import Store
from workbench.tasks import task_names
from workbench.training.config import Training
from workbench.types import Result, Status

ROOT = Path(__file__).resolve().parents[1]
SIZES = ("practice=8", "dev=4", "test=6")
LORA = LoraConfig(rank=2, training=Training(epochs=1, batch_size=4, micro_batch=4, precision="float32"))
VOTE = Majority(n=4)
FEW = FewShotConfig(shots=2)


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    """A model this small is slower on two threads."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def fake(tmp_path: Path) -> Setup:
    engine = EngineConfig("fake")
    return Setup(task_args=SIZES, model="fake:0.8", engine=engine, runs=tmp_path / "runs", quiet=True)


@pytest.fixture
def tiny(tmp_path: Path, tiny_model: Path) -> Setup:
    engine = EngineConfig("hf", device="cpu", dtype="float32")
    return Setup(task_args=SIZES, model=str(tiny_model), engine=engine, runs=tmp_path / "runs", quiet=True)


@pytest.fixture(params=["fake", "tiny"])
def setup(request: pytest.FixtureRequest) -> Setup:
    found: Setup = request.getfixturevalue(request.param)
    return found


def check_run(result: Result, recipe: str, runs: Path, printed: str, looked: str = "1 system has") -> RunFolder:
    """One run of that recipe lies in the folder, whole, and its table was printed."""
    [info] = [info for info in list_runs(runs) if info.recipe == recipe]
    run = RunFolder(info.path)
    assert (run.state, info.score) == ("done", result.score.value)
    assert run.read_result() == result
    system = run.read_system()
    assert system_hash(system) == result.system
    assert run.info["packages"]["torch"] and run.config["task_hash"] == result.task_hash
    assert sum(dict(result.counts).values()) == len(result.outcomes) == 6
    assert set(dict(result.counts)) == {status.value for status in Status}
    assert result.split == "test"
    assert f"system {result.system}, run {info.path}" in printed
    for words in (
        "95 % interval",
        "truncated",
        f"6 questions of arithmetic, split test; {looked} been looked at",
    ):
        assert words in printed
    return run


# --- recipes that measure ---------------------------------------------------------------------------


def test_zero_shot(setup: Setup, capsys: pytest.CaptureFixture[str]) -> None:
    result = recipes.zero_shot.main(recipes.zero_shot.Config(setup))
    run = check_run(result, "zero_shot", setup.runs, capsys.readouterr().out)
    assert run.read_system().decode == Greedy(max_tokens=32)
    assert recipes.zero_shot.main(recipes.zero_shot.Config(setup)) == result


def test_few_shot(setup: Setup, capsys: pytest.CaptureFixture[str]) -> None:
    for exemplars in ("random", "bm25", "embedding"):
        few_shot = replace(FEW, exemplars=exemplars)
        runs = setup.runs / exemplars
        result = recipes.few_shot.main(recipes.few_shot.Config(replace(setup, runs=runs), few_shot))
        run = check_run(result, "few_shot", runs, capsys.readouterr().out)
        shots = run.read_system().prompt.shots
        assert shots is not None and shots.k == 2


def test_majority_vote(setup: Setup, capsys: pytest.CaptureFixture[str]) -> None:
    result = recipes.majority_vote.main(recipes.majority_vote.Config(setup, VOTE))
    printed = capsys.readouterr().out
    run = check_run(result, "majority_vote", setup.runs, printed)
    assert run.read_system().decode == replace(VOTE, max_tokens=32)
    assert "One sample of the same system is right" in printed
    assert {outcome.samples for outcome in result.outcomes} == {4}


def test_pass_at_k(setup: Setup, capsys: pytest.CaptureFixture[str]) -> None:
    config = recipes.pass_at_k.Config(setup, BestOfN(n=4, scorer="logprob"))
    result = recipes.pass_at_k.main(config)
    printed = capsys.readouterr().out
    run = check_run(result, "pass_at_k", setup.runs, printed, "10 systems have")
    assert run.read_system().decode == Sample(n=4, max_tokens=32)
    one = next(line.split() for line in printed.splitlines() if line.split()[:1] == ["1"])
    assert float(one[1]) == pytest.approx(100 * result.score.value, abs=0.06)
    assert (run.path / "report.html").is_file() and (run.path / "curves.png").is_file()


def test_lora(tiny: Setup, capfd: pytest.CaptureFixture[str]) -> None:
    result = recipes.lora.main(recipes.lora.Config(tiny, LORA))
    printed = capfd.readouterr()
    assert printed.err == "", "quiet is quiet, the libraries too"
    run = check_run(result, "lora", tiny.runs, printed.out)
    assert [line["step"] for line in run.metrics()] == [1, 2]
    assert all(line["loss"] > 0 and line["learning_rate"] > 0 for line in run.metrics())
    assert result.cost_to_make.tokens > 0 and result.cost_to_make.flops > 0
    saved = json.loads((run.path / "system.json").read_text())
    assert saved["model"]["adapter"] == "./adapter", "the folder can be moved"
    card = (run.path / "README.md").read_text(encoding="utf-8")
    assert "## Result" in card and "on 6 questions of the test split" in card
    again = recipes.lora.main(recipes.lora.Config(tiny, LORA))
    assert again == result
    assert (run.path / "README.md").read_text(encoding="utf-8") == card


def stored(runs: Path) -> int:
    with Store(runs / "completions.sqlite") as store:
        return sum(count for _, _, count in store.streams())


def test_a_system_json_gives_the_same_result_without_a_new_completion(tiny: Setup, tmp_path: Path) -> None:
    result = recipes.lora.main(recipes.lora.Config(tiny, LORA))
    [info] = list_runs(tiny.runs)
    before = stored(tiny.runs)
    by_id = recipes.evaluate.main(recipes.evaluate.Config(run=info.id[:8], setup=tiny))
    assert replace(by_id, metrics=result.metrics) == result, (
        "its cost to make too; what was left is told by the run"
    )
    system = RunFolder(info.path).read_system()
    file = tmp_path / "mine.json"
    file.write_text((info.path / "system.json").read_text().replace("./adapter", str(system.model.adapter)))
    for path in (file, info.path / "system.json"):  # a run's own names its adapter from its folder
        by_file = recipes.evaluate.main(recipes.evaluate.Config(system=path, setup=tiny))
        assert (by_file.outcomes, by_file.system) == (result.outcomes, result.system)
    assert stored(tiny.runs) == before


@pytest.mark.parametrize("both", [{}, {"run": "a", "system": Path("b")}])
def test_evaluate_wants_one_system(fake: Setup, both: dict[str, Any]) -> None:
    with pytest.raises(UserError, match="Say which System: --run ID"):
        recipes.evaluate.main(recipes.evaluate.Config(setup=fake, **both))


def test_evaluate_refuses_a_file_that_holds_no_system(fake: Setup, tmp_path: Path) -> None:
    (tmp_path / "other.json").write_text('{"type": "Greedy"}')
    with pytest.raises(UserError, match=r"other\.json holds no System"):
        recipes.evaluate.main(recipes.evaluate.Config(system=tmp_path / "other.json", setup=fake))


@pytest.mark.parametrize("name", ["ladder", "quickstart"])
def test_ladders(name: str, fake: Setup, capsys: pytest.CaptureFixture[str]) -> None:
    recipe = import_module(f"recipes.{name}")
    rungs = ("zero-shot", "few-shot-knn", "majority-vote", "few-shot-majority-vote")
    config = recipe.Config(fake, LadderConfig(rungs=rungs, few_shot=FEW, vote=VOTE))
    found = recipe.main(config)
    assert [rung.name for rung in found] == list(rungs)
    printed = capsys.readouterr().out
    [info] = list_runs(fake.runs)
    assert info.state == "done"
    assert (info.path / "report.html").read_text(encoding="utf-8").startswith("<!doctype html>")
    assert printed.startswith("4 rungs, 6 questions each: about ")
    assert printed.rstrip().splitlines()[-1].startswith("Use ")


def test_a_ladder_on_real_weights(tiny: Setup) -> None:
    rungs = ("zero-shot", "few-shot-embedding", "lora", "lora-majority-vote")
    config = recipes.ladder.Config(tiny, LadderConfig(rungs, few_shot=FEW, lora=LORA, vote=VOTE))
    found = {rung.name: rung.result for rung in recipes.ladder.main(config)}
    assert found["lora"].cost_to_make == found["lora-majority-vote"].cost_to_make
    assert found["lora"].cost_to_make.tokens > 0 == found["zero-shot"].cost_to_make.tokens
    assert len({result.system for result in found.values()}) == 4


# --- recipes that look --------------------------------------------------------------------------------


def test_compare_two_runs(fake: Setup, capsys: pytest.CaptureFixture[str]) -> None:
    recipes.zero_shot.main(recipes.zero_shot.Config(fake))
    recipes.majority_vote.main(recipes.majority_vote.Config(fake, VOTE))
    capsys.readouterr()
    rungs = recipes.compare.main(recipes.compare.Config(("zero_shot", "majority"), runs=fake.runs))
    printed = capsys.readouterr().out
    assert [rung.name.rpartition("-")[0] for rung in rungs] == ["zero_shot", "majority_vote"]
    assert "p: against zero_shot-" in printed and "2 systems have been looked at" in printed
    with pytest.raises(UserError, match="compare takes two or more runs"):
        recipes.compare.main(recipes.compare.Config(("zero_shot",), runs=fake.runs))


@pytest.mark.parametrize("suffix", ["jsonl", "csv", "parquet"])
def test_export_of_completions_and_of_outcomes(fake: Setup, tmp_path: Path, suffix: str) -> None:
    recipes.majority_vote.main(recipes.majority_vote.Config(fake, VOTE))
    file = tmp_path / f"out.{suffix}"
    assert recipes.export.main(recipes.export.Config(file, runs=fake.runs)) == 6 * 4
    for ids in (("all",), ("majority",)):
        assert recipes.export.main(recipes.export.Config(file, ids=ids, runs=fake.runs)) == 6
    if suffix == "jsonl":
        assert json.loads(file.read_text().splitlines()[0])["run"].startswith("majority_vote-")


def test_export_without_a_store_or_a_format(fake: Setup, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="There is no store at"):
        recipes.export.main(recipes.export.Config(tmp_path / "out.csv", runs=fake.runs))
    assert not fake.runs.exists()
    recipes.zero_shot.main(recipes.zero_shot.Config(fake))
    with pytest.raises(UserError, match=r"says no format. There are: \.jsonl, \.csv, \.parquet"):
        recipes.export.main(recipes.export.Config(tmp_path / "out.txt", runs=fake.runs))


def test_listings(fake: Setup, capsys: pytest.CaptureFixture[str]) -> None:
    assert recipes.runs.main(recipes.runs.Config(fake.runs)) == []
    assert "`workbench quickstart` makes the first" in capsys.readouterr().out
    result = recipes.zero_shot.main(recipes.zero_shot.Config(fake))
    capsys.readouterr()
    [info] = recipes.runs.main(recipes.runs.Config(fake.runs))
    line = capsys.readouterr().out
    assert info.id in line and "done" in line and f"{100 * result.score.value:.1f} %" in line

    adapter = info.path / "lora" / "adapter"
    adapter.mkdir(parents=True)
    names = recipes.models.main(recipes.models.Config(fake.runs))
    assert names[0] == "smollm2-135m-instruct" and names[-1] == str(adapter)
    assert f"--adapter {adapter}" in capsys.readouterr().out

    assert recipes.tasks.main(recipes.tasks.Config()) == task_names()
    assert "largest_added=20  (int)" in capsys.readouterr().out
    assert "classify" in recipes.prompts.main(recipes.prompts.Config())
    assert "Source: written for this project" in capsys.readouterr().out


def test_doctor(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    findings = recipes.doctor.main(recipes.doctor.Config(tmp_path / "runs" / "not" / "there"))
    printed = capsys.readouterr().out
    assert printed.splitlines()[0].startswith("ok      Python 3.")
    assert len([finding for finding in findings if "GiB free for" in finding.what]) == 1
    assert all(finding.mend for finding in findings if finding.level == "problem")


# --- as commands --------------------------------------------------------------------------------------


def command(*words: object, cwd: Path, **env: str) -> subprocess.CompletedProcess[str]:
    """`python -m recipes …`, in another folder."""
    return subprocess.run(
        [sys.executable, "-m", "recipes", *map(str, words)],
        cwd=cwd,
        env=os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "COLUMNS": "100"} | env,
        capture_output=True,
        text=True,
        check=False,
    )


def test_the_list_of_recipes_is_the_folder() -> None:
    files = {path.stem for path in (ROOT / "recipes").glob("*.py")} - {"__init__", "__main__"}
    assert files == RECIPES.keys()
    for module, what in RECIPES.values():
        recipe = import_module(module)
        assert callable(recipe.main) and recipe.Config and what and recipe.__doc__


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_has_help(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    from workbench.command import run_command

    recipe = import_module(RECIPES[name][0])
    with pytest.raises(SystemExit) as exit:
        run_command(recipe.main, recipe.Config, ["--help"], f"workbench {name}")
    printed = capsys.readouterr().out
    assert exit.value.code == 0
    assert f"usage: workbench {name}" in printed
    assert recipe.__doc__.split()[0] in printed


def test_a_recipe_is_a_script_a_module_and_a_name(fake: Setup, tmp_path: Path) -> None:
    flags = ["--engine", "fake", "--model", "fake:0.8", "--task-args", *SIZES, "--runs", "runs", "--quiet"]
    by_name = command("zero-shot", *flags, cwd=tmp_path)
    assert by_name.returncode == 0, by_name.stderr
    script = subprocess.run(
        [sys.executable, str(ROOT / "recipes" / "zero_shot.py"), *flags],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert script.stdout == by_name.stdout
    [info] = list_runs(tmp_path / "runs")
    result = recipes.zero_shot.main(recipes.zero_shot.Config(fake))
    assert RunFolder(info.path).read_result() == result
    helped = subprocess.run(
        [sys.executable, str(ROOT / "recipes" / "lora.py"), "--help"],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert helped.returncode == 0 and "--rank INT" in helped.stdout


def test_without_a_recipe_there_is_a_list(tmp_path: Path) -> None:
    for words, status in (((), 2), (("--help",), 0)):
        done = command(*words, cwd=tmp_path)
        assert done.returncode == status
        assert all(name in done.stdout for name in RECIPES)


FAKE = ("--engine", "fake", "--model", "fake")
MISTAKES = [
    ("zero_sho", "There is no recipe named 'zero_sho'. Did you mean 'zero_shot'?"),
    ("zero_shot --quetsions 3", "--questions"),
    ("zero_shot --task arithmetics", "There is no task named 'arithmetics'. Did you mean 'arithmetic'?"),
    ("zero_shot --prompt arithmetik", "There is no prompt named 'arithmetik'. Did you mean 'arithmetic'?"),
    ("zero_shot --task-args tems=3", "has no argument 'tems'. Did you mean 'terms'?"),
    ("zero_shot --task-args tems", "--task-args takes name=value"),
    ("zero_shot --questions 0", "questions is 0; it must be a number in [1, 200]"),
    ("lora --questions 201", "questions is 201; it must be a number in [1, 200]"),
    ("zero_shot --split train", "split is 'train'; it must be practice, dev or test"),
    ("ladder --rungs zero-shoot", "There is no rung named 'zero-shoot'. Did you mean 'zero-shot'?"),
    ("evaluate --run zero_shot-1", "There is no run named 'zero_shot-1'"),
    ("compare a b", "There is no run named 'a'"),
    ("lora --rank 0", "rank is 0; it must be a number in [1, 4096]"),
    ("lora --learning-rate nan", "learning_rate is nan"),
    ("lora --precision int4", "precision is 'int4'; it must be bfloat16 or float32"),
    ("majority_vote --n 0", "n is 0"),
    ("majority_vote --temperature -1", "temperature is -1.0"),
    ("majority_vote --top-p 0", "top_p is 0.0"),
    ("few_shot --shots 401", "shots is 401; it must be a number in [1, 400]"),
    ("few_shot --exemplars nearest", "random"),
    ("zero_shot --model nowhere", "There is no model 'nowhere'. A model is 'smollm2-135m-instruct'"),
]


@pytest.mark.parametrize(("words", "said"), MISTAKES, ids=[words for words, _ in MISTAKES])
def test_a_mistake_is_told_in_a_line_and_leaves_no_run(
    words: str, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    from recipes.__main__ import main

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["workbench", *words.split()])
    monkeypatch.setenv("COLUMNS", "120")
    with pytest.raises(SystemExit) as exit:
        main()
    printed = capfd.readouterr()
    assert exit.value.code == 2
    assert said in printed.err + printed.out
    assert "Traceback" not in printed.err
    works_out_later = "shots 401" in words or "nowhere" in words
    assert len(list_runs(tmp_path / "runs")) == works_out_later


def wait_for(happened: Callable[[], bool], process: subprocess.Popen[str]) -> None:
    until = time.monotonic() + 120
    while not happened():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < until
        time.sleep(0.005)


def rows(store: Path) -> int:
    """Completions in a store that another process writes; 0 while there is none."""
    try:
        with sqlite3.connect(f"file:{store}?mode=ro", uri=True) as db:
            count: int = db.execute("SELECT count(*) FROM completions").fetchone()[0]
            return count
    except sqlite3.OperationalError:
        return 0


def test_ctrl_c_stops_and_the_same_command_goes_on(tiny_model: Path, tmp_path: Path) -> None:
    words = [
        *("majority_vote", "--model", str(tiny_model), "--dtype", "float32", "--device", "cpu", "--quiet"),
        *("--task-args", "practice=4", "dev=4", "test=20", "--n", "64", "--runs", "runs"),
    ]
    process = subprocess.Popen(
        [sys.executable, "-m", "recipes", *words],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    store = tmp_path / "runs" / "completions.sqlite"
    wait_for(lambda: rows(store) > 0, process)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 130
    assert said.strip() == "workbench majority_vote: interrupted; the same command goes on from here."
    [info] = list_runs(tmp_path / "runs")
    assert info.state == "interrupted"
    assert 0 < rows(store) < 20 * 64
    done = command(*words, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    [info] = list_runs(tmp_path / "runs")
    assert (info.state, rows(store)) == ("done", 20 * 64)


# --- with language ------------------------------------------------------------------------------------


def embedded(tmp_path: Path, **changes: Any) -> Setup:
    return replace(Setup(questions=6, runs=tmp_path / "runs", quiet=True), **changes)


def test_zero_shot_on_the_embedded_model(embedded_model: object, tmp_path: Path) -> None:
    result = recipes.zero_shot.main(recipes.zero_shot.Config(embedded(tmp_path)))
    assert dict(result.counts)["error"] == 0
    assert all(outcome.text.strip() for outcome in result.outcomes)
    assert any(outcome.answer for outcome in result.outcomes)


def test_labels_of_a_file_on_the_embedded_model(embedded_model: object, tmp_path: Path) -> None:
    words = {
        "animal": ("dog", "cat", "horse", "cow", "sheep", "tiger", "lion", "mouse"),
        "city": ("Paris", "London", "Rome", "Berlin", "Madrid", "Vienna", "Prague", "Oslo"),
    }
    lines = [
        {"input": f"What is {name}?", "target": label, "split": split}
        for label, names in words.items()
        for name, split in zip(names, ("train", "train", "dev", *["test"] * 5), strict=True)
    ]
    file = tmp_path / "words.jsonl"
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    arguments = (f"path={file}", "split=split", "grader=label")
    setup = embedded(tmp_path, task="file", task_args=arguments, questions=None)
    result = recipes.zero_shot.main(recipes.zero_shot.Config(setup))
    [info] = list_runs(setup.runs)
    assert RunFolder(info.path).read_system().decode == LabelLikelihood()
    assert {outcome.answer for outcome in result.outcomes} == {"animal", "city"}
    assert (result.total, dict(result.counts)["unparsable"]) == (10, 0)
    assert result.score.value >= result.metric("majority_class")


@pytest.mark.slow
def test_lora_on_the_embedded_model(embedded_model: object, tmp_path: Path) -> None:
    training = Training(epochs=2, examples=16, batch_size=8, micro_batch=8)
    result = recipes.lora.main(recipes.lora.Config(embedded(tmp_path), LoraConfig(training=training)))
    [info] = list_runs(tmp_path / "runs")
    losses = [line["loss"] for line in RunFolder(info.path).metrics()]
    assert losses[-1] < losses[0]
    assert dict(result.counts)["error"] == 0
