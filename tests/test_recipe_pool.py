"""The recipes `pass_at_k` and `compute_optimal`: what they print and leave; a finished run draws nothing."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

import recipes.compute_optimal
import recipes.majority_vote
import recipes.pass_at_k
from workbench import stats
from workbench.decodes import BestOfN, Majority
from workbench.drawing import Drawer
from workbench.engines import EngineConfig, open_engine
from workbench.errors import UserError
from workbench.pools import read_pool
from workbench.runs import RunFolder
from workbench.session import Session, Setup
from workbench.stats import pool

SIZES = ("practice=4", "dev=8", "test=12")


@pytest.fixture
def setup(tmp_path: Path) -> Setup:
    engine = EngineConfig("fake")
    return Setup(task_args=SIZES, model="fake:0.6", engine=engine, runs=tmp_path / "runs", name="r", quiet=True)


@pytest.fixture(autouse=True)
def few_orders(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pool, "ROUNDS", 60)


def no_engine(*_: object) -> None:
    raise AssertionError("a finished run loads no model")


def test_one_pool_gives_every_curve(
    setup: Setup, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    config = recipes.pass_at_k.Config(setup, BestOfN(n=8, scorer="logprob"))
    result = recipes.pass_at_k.main(config)
    out = capsys.readouterr().out
    run = RunFolder(setup.runs / "r")
    found = json.loads((run.path / "curves.json").read_text())
    assert (found["questions"], found["asked"], found["n"], found["ks"]) == (12, 12, 8, [1, 2, 4, 8])
    for name in ("pass", "majority", "best_of", "weighted"):
        curve = found["curves"][name]
        assert len(curve["value"]) == 8
        assert curve["value"][0] == pytest.approx(result.score.value), "of one sample, whatever chooses"
        assert f"{100 * curve['value'][7]:.1f} %" in out
    assert found["curves"]["pass"]["value"][7] >= found["curves"]["majority"]["value"][7]
    assert found["curves"]["majority"]["value"] == pytest.approx(
        [
            dict(result.metrics).get(f"majority@{k}", found["curves"]["majority"]["value"][k - 1])
            for k in range(1, 9)
        ],
        abs=0.02,
    )
    for words in ("Coverage law", "leader cannot be caught", "95 % sure to be ahead", "against one sample"):
        assert words in out
    # One sample; three ways at 2, 4 and 8 samples; three votes that stop.
    assert "13 systems have been looked at on test" in out and "; 13 systems have been looked at on it" in out
    assert "13 systems have been looked at" in (run.path / "report.html").read_text(encoding="utf-8")
    voted = recipes.majority_vote.Config(replace(setup, name="vote"), Majority(n=4))
    recipes.majority_vote.main(voted)
    assert "; 13 systems have been looked at on it" in capsys.readouterr().out, "it is one of them"
    for vote in found["votes"]:
        assert vote["drawn"]["value"] <= 8 and 0 <= vote["tokens_saved"]["value"] < 1
    assert found["votes"][0]["difference"]["value"] == 0, "certain loses nothing"
    whole = {part: values[-1] for part, values in found["curves"]["majority"].items()}
    assert found["votes"][0]["accuracy"] == pytest.approx(whole), "its interval neither"
    assert all(vote["accuracy"]["low"] < vote["accuracy"]["high"] for vote in found["votes"])
    kept = read_pool(run.path / "pool.npz")
    votes = [stats.early_stop(kept.answers_QN, stop) for stop in ("certain", 0.95, 0.99)]
    alone = [stats.paired_bootstrap(vote.score_Q, vote.full_Q).p_value for vote in votes]
    assert [vote["difference"]["p"] for vote in found["votes"]] == stats.holm(alone), "over all that stop"
    told = found["scorer"]["kl"], found["scorer"]["kl_bound"]
    assert all(m["value"] <= bound + 1e-9 for m, bound in zip(*told, strict=True))
    names = {path.name for path in run.path.iterdir()}
    assert {"pool.npz", "curves.png", "tokens.png", "kl.png", "proxy.png", "report.html"} <= names
    assert "Accuracy against tokens" in (run.path / "report.html").read_text(encoding="utf-8")
    monkeypatch.setattr(Drawer, "engine", no_engine)
    (run.path / "curves.json").unlink()
    assert recipes.pass_at_k.main(config) == result
    assert json.loads((run.path / "curves.json").read_text()) == found
    assert capsys.readouterr().out == out


def test_the_oracle_is_called_one(setup: Setup, capsys: pytest.CaptureFixture[str]) -> None:
    recipes.pass_at_k.main(recipes.pass_at_k.Config(setup, BestOfN(n=4, scorer="verifier")))
    curves = json.loads((setup.runs / "r" / "curves.json").read_text())["curves"]
    assert curves["best_of"]["value"] == pytest.approx(curves["pass"]["value"]), "it always finds a right one"
    assert "an oracle" in capsys.readouterr().out


def test_nothing_is_a_look_on_dev(setup: Setup, capsys: pytest.CaptureFixture[str]) -> None:
    recipes.pass_at_k.main(recipes.pass_at_k.Config(replace(setup, split="dev"), BestOfN(n=4, scorer="logprob")))
    out = capsys.readouterr().out
    assert "split dev; 0 systems" in out and "looked at on test" not in out


def test_compute_optimal(
    setup: Setup, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    decode = BestOfN(n=8, scorer="logprob")
    config = recipes.compute_optimal.Config(setup, decode, first=2, bins=2, budgets=(8, 2, 8), larger="fake:0.9")
    result = recipes.compute_optimal.main(config)
    out = capsys.readouterr().out
    run = RunFolder(setup.runs / "r")
    found = json.loads((run.path / "compute_optimal.json").read_text())
    assert [row["budget"] for row in found["budgets"]] == [2, 8]
    assert (found["questions"], found["dev_questions"], found["looks"]) == (12, 8, 4)
    assert found["larger"]["model"] == "fake:0.9" and found["larger"]["questions"] == 12
    for words in ("Accuracy by budget", "8: uniform majority", "fake:0.9 once for", "scored on half"):
        assert words in out or words in (run.path / "report.html").read_text(encoding="utf-8")
    # Two models once; three ways at 2 and 8 samples; two rules at each budget; at equal FLOPs what else there is.
    ways = {(row["way"], row["k"]) for row in found["larger"]["rows"] if row["k"] > 1}
    looks = 2 + 6 + 4 + len({(way, k) for way, k in ways if k not in (2, 8)})
    assert f"{looks} systems have been looked at on test" in out
    assert read_pool(run.path / "dev_pool.npz").n == 8
    assert run.read_result() == result
    alone = replace(config, larger=None, setup=replace(setup, name="alone"))
    recipes.compute_optimal.main(alone)
    monkeypatch.setattr(Drawer, "engine", no_engine)
    assert recipes.compute_optimal.main(alone).outcomes == result.outcomes


def test_what_they_refuse(setup: Setup, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match=r"n is 1; it must be a number in \[2,"):
        recipes.pass_at_k.Config(setup, BestOfN(n=1, scorer="logprob"))
    for flags, problem in (
        ({"budgets": (4, 16)}, "budgets is 16"), ({"budgets": (2,)}, "budgets is 2"), ({"bins": 0}, "bins is 0"),
    ):  # fmt: skip
        with pytest.raises(UserError, match=problem):
            recipes.compute_optimal.Config(setup, BestOfN(n=8, scorer="logprob"), **flags)
    with pytest.raises(UserError, match="first is 8"):
        recipes.compute_optimal.Config(setup, BestOfN(n=8, scorer="logprob"), first=8)
    config = recipes.compute_optimal.Config(replace(setup, split="dev"), BestOfN(n=8, scorer="logprob"))
    with pytest.raises(UserError, match="split is dev, from which difficulty is learned"):
        recipes.compute_optimal.main(config)
    monkeypatch.setattr(Drawer, "draw", no_engine)
    monkeypatch.setattr(Drawer, "engine", lambda self, model: open_engine(model, self.config))
    monkeypatch.setattr(Session, "measure", no_engine)
    few = recipes.compute_optimal.Config(setup, BestOfN(n=8, scorer="logprob"), bins=5)
    with pytest.raises(UserError, match="dev questions are too few for 5 bins"):
        recipes.compute_optimal.main(few)
    setup = replace(setup, name=None)
    unable = recipes.pass_at_k.Config(setup, BestOfN(n=8, scorer="self-certainty"))
    with pytest.raises(UserError, match="Self-certainty needs the probability of every token"):
        recipes.pass_at_k.main(unable)
    with pytest.raises(UserError, match="Best of n needs a scorer"):
        recipes.pass_at_k.main(recipes.pass_at_k.Config(setup, BestOfN(n=8)))
