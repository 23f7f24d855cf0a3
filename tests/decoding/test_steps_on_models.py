"""Stepwise decodes on real weights: with every prompt and style, killed and resumed, and on the embedded model."""

import os
import signal
import sqlite3
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import CHATML, tiny_tokenizer, tiny_weights

import recipes.beam_search
from workbench.decodes import Decode
from workbench.decoding.steps import continued
from workbench.engines import EngineConfig
from workbench.engines.hf import HfEngine
from workbench.engines.reward_head import with_reward_head
from workbench.engines.scorer import RewardModel
from workbench.equal_tokens import Beside
from workbench.harness import evaluate, questions_of
from workbench.identity import short_hash
from workbench.prompts import load_prompt, render
from workbench.session import Setup
from workbench.step_decodes import BeamSearch, BudgetForcing, Revision
from workbench.store import Store
from workbench.tasks import load_task
from workbench.tasks.base import Task
from workbench.types import Example, Finish, Message, Model, Prompt, Request, Result, Shots, Status, System

pytestmark = pytest.mark.usefixtures("one_thread")

ROOT = Path(__file__).resolve().parents[2]
TEXT = Prompt("plain", (Message("user", "Q: {{ input }}\nA:"),), style="text", stop=("\n\n",))
BEGUN = Prompt("begun", (Message("user", "{{ input }}"), Message("assistant", "The answer is")))
SHOT = (Message("user", "{{ input }}"), Message("assistant", "{{ target }}"))
SHOTS = Prompt(
    "shots", (Message("user", "{{ input }}"),), SHOT, shots=Shots((Example.make("What is 1 + 1?", "2"),), 1)
)

DECODES: list[Decode] = [
    BeamSearch(beams=4, keep=2, step_tokens=4, max_tokens=10),
    BeamSearch(beams=4, keep=2, step_tokens=4, max_tokens=10, diverse=True, scorer="judge", choose="vote"),
    Revision(rounds=2, critique_tokens=6, max_tokens=8, choose="majority"),
    BudgetForcing(at_least=4, at_most=8, max_tokens=4, waits=2),
    BudgetForcing(at_least=4, at_most=8, max_tokens=4, begin="", end=".", final="", temperature=1.0),
]


def task() -> Task:
    return load_task("arithmetic", {"practice": "2", "dev": "2", "test": "4"})


def measured(result: Result) -> Result:
    """Without what a clock says."""
    return replace(result, cost_to_use=replace(result.cost_to_use, seconds=0.0))


@pytest.mark.parametrize("decode", DECODES, ids=["beams", "trees", "revision", "thinking", "steps"])
@pytest.mark.parametrize("prompt", [load_prompt("arithmetic"), TEXT, BEGUN, SHOTS], ids=lambda prompt: prompt.name)
def test_every_decode_with_every_prompt(tiny_model: Path, tmp_path: Path, prompt: Prompt, decode: Decode) -> None:
    model = Model(str(tiny_model))
    engine = HfEngine(model, dtype="float32", device="cpu")
    with Store(tmp_path / "store.sqlite") as store:
        result = evaluate(System(model, prompt, decode), task(), engine, store)
        drawn = sum(c.completion_tokens for n, _, _ in list(store.streams()) for _, c in store.rows(n))
        again = evaluate(System(model, prompt, decode), task(), engine, store)
    assert result == again, "all of it was stored, its seconds too"
    assert result.total == 4
    use = result.cost_to_use
    assert use.flops is not None
    assert use.flops > 2 * engine.shape.parameters * use.completion_tokens
    if "judge" not in vars(decode).get("scorer", ""):
        assert use.completion_tokens * 4 == drawn, "every token of every stage, and none twice"
    if isinstance(decode, BudgetForcing):
        assert dict(result.metrics)["thinking_tokens"] <= decode.at_most


def test_what_is_said_so_far_is_what_the_model_reads(tiny_model: Path) -> None:
    engine = HfEngine(Model(str(tiny_model)), dtype="float32", device="cpu")
    for messages, style in [
        ((Message("user", "1 + 1?"),), "chat"),
        ((Message("user", "1 + 1?"), Message("assistant", "It")), "chat"),
        ((Message("user", "Q: 1 + 1?\nA:"),), "text"),
    ]:
        asked = engine.encoder.encode(Request("q", messages, style=style))
        on = engine.encoder.encode(Request("q", continued(messages, " is 2.\n"), style=style))
        assert engine.encoder.decode(on).endswith(engine.encoder.decode(asked) + " is 2.\n")


@pytest.fixture(scope="module")
def reward_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A reward model as `workbench reward_model` leaves it, whose head was drawn and not learned."""
    folder = tmp_path_factory.mktemp("reward") / "model"
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = CHATML
    weights = with_reward_head(tiny_weights(len(tokenizer), seed=1), tokenizer)
    torch.manual_seed(3)
    torch.nn.init.normal_(weights.score.weight)
    tokenizer.pad_token = tokenizer.convert_ids_to_tokens(weights.config.pad_token_id)
    weights.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def test_a_reward_model_s_folder_judges_every_step(
    tiny_model: Path, reward_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """What is gone on with, and what is the answer, is what the folder's model likes best."""
    engine = EngineConfig("hf", device="cpu", dtype="float32")
    setup = Setup(
        task_args=("practice=2", "dev=2", "test=4"),
        model=str(tiny_model),
        engine=engine,
        runs=tmp_path / "runs",
        quiet=True,
    )
    decode = BeamSearch(
        beams=4, keep=2, separators=("never",), step_tokens=4, max_tokens=8, scorer=str(reward_folder)
    )
    config = recipes.beam_search.Config(setup, decode, Beside(equal="generated"))
    vote, other = recipes.beam_search.main(config)
    assert "points from majority of" in capsys.readouterr().out
    scorer = RewardModel(reward_folder, device="cpu")

    def best(request: Request, texts: list[str], n: int) -> list[str]:
        told = dict(pair for batch in scorer.rewards([(request, text) for text in texts]) for pair in batch)
        return sorted(dict.fromkeys(texts), key=lambda text: -(told[texts.index(text)].logprob or 0.0))[:n]

    read = 0
    with Store(tmp_path / "runs" / "completions.sqlite") as store:
        rows = [row for n, key, _ in list(store.streams()) if key.get("how") != "reward" for row in store.rows(n)]
        judged = [c for n, key, _ in list(store.streams()) if key.get("how") == "reward" for _, c in store.rows(n)]
    for outcome, example in zip(other.result.outcomes, questions_of(task(), "test", None), strict=True):
        request = Request(example.id, render(load_prompt("arithmetic"), example))
        begun = [c for id, c in rows if id.startswith(f"{example.id}:step-0")]
        ended = {c.text for c in begun if c.finish is Finish.STOP}
        first = [c.text if c.text in ended else c.text.rstrip(" ") for c in begun]
        chosen = best(request, first, 2)
        kept = {
            f"{example.id}:step-1:{short_hash([continued(request.messages, text), 4])}": text
            for text in chosen
            if text not in ended
        }
        second = [(id, c) for id, c in rows if id.startswith(f"{example.id}:step-1")]
        assert {id for id, _ in second} == kept.keys()
        last = [kept[id] + c.text for id, c in second]
        whole = ended | {kept[id] + c.text for id, c in second if c.finish is Finish.STOP}
        finalists = [text for text in chosen if text in ended] + best(request, last, len(kept))
        assert outcome.text == best(request, [text for text in finalists if text in whole] or finalists, 1)[0]
        read += len({*first, *last})
    assert len(judged) == read, "every answer so far, once"
    use = other.result.cost_to_use
    own = sum(c.completion_tokens for id, c in rows if ":step-" in id) / 4
    assert use.completion_tokens == own
    assert use.prompt_tokens > sum(c.completion_tokens for c in judged) / 4
    assert use.flops is not None and vote.result.cost_to_use.flops is not None
    assert recipes.beam_search.main(config)[1].result == other.result


FLAGS = [
    *("--beams", "4", "--keep", "2", "--step-tokens", "4", "--max-tokens", "16", "--separators", "never"),
    *("--task-args", "practice=2", "dev=2", "test=4", "--dtype", "float32", "--device", "cpu", "--quiet"),
    *("--equal", "generated"),
]


def stored(runs: Path) -> int:
    try:
        with sqlite3.connect(f"file:{runs / 'completions.sqlite'}?mode=ro", uri=True) as db:
            return int(db.execute("SELECT count(*) FROM completions").fetchone()[0])
    except sqlite3.OperationalError:
        return 0


def test_a_search_killed_in_its_middle_ends_as_one_that_was_not(tiny_model: Path, tmp_path: Path) -> None:
    runs = tmp_path / "killed"
    process = subprocess.Popen(
        [sys.executable, "-m", "recipes", "beam_search", "--model", str(tiny_model), "--runs", str(runs), *FLAGS],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    until = time.monotonic() + 200
    while stored(runs) <= 4 * 4:
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < until
        time.sleep(0.01)
    process.kill()
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    before = stored(runs)

    def main(folder: Path) -> list[Any]:
        setup = Setup(
            task_args=("practice=2", "dev=2", "test=4"),
            model=str(tiny_model),
            engine=EngineConfig("hf", device="cpu", dtype="float32"),
            runs=folder,
            quiet=True,
        )
        decode = BeamSearch(beams=4, keep=2, step_tokens=4, max_tokens=16, separators=("never",))
        config = recipes.beam_search.Config(setup, decode, Beside(equal="generated"))
        return [measured(rung.result) for rung in recipes.beam_search.main(config)]

    resumed = main(runs)
    assert stored(runs) > before
    assert resumed == main(tmp_path / "whole")
    assert stored(runs) == stored(tmp_path / "whole"), "nothing was drawn that the whole one did not draw"


# --- the embedded model -------------------------------------------------------------------------------


def embedded(model: Model, tmp_path: Path, decode: Decode, prompt: str, questions: int) -> Result:
    engine = HfEngine(model, device="cpu")
    easy = load_task("arithmetic", {"practice": "2", "dev": "2", "test": str(questions)})
    with Store(tmp_path / "store.sqlite") as store:
        return evaluate(System(model, load_prompt(prompt), decode), easy, engine, store)


def test_the_embedded_model_searches(embedded_model: Model, tmp_path: Path) -> None:
    decode = BeamSearch(beams=4, keep=2, max_tokens=24, choose="vote")
    result = embedded(embedded_model, tmp_path, decode, "arithmetic", 12)
    assert result.score.value >= 0.25  # three right; which, depends on how a processor rounds
    assert dict(result.metrics)["finished_beams"] > 1


def test_the_embedded_model_is_made_to_think_on_and_to_answer(embedded_model: Model, tmp_path: Path) -> None:
    decode = BudgetForcing(at_least=24, at_most=32, max_tokens=12, begin="", end="The answer is", final="")
    result = embedded(embedded_model, tmp_path, decode, "arithmetic-steps", 3)
    metrics = dict(result.metrics)
    assert metrics["thinking_tokens"] >= 24
    assert metrics["forced_questions"] + metrics["extended_questions"] > 0
    assert all("The answer is" in o.text or o.text.count("Wait") == 8 for o in result.outcomes)
    assert {o.status for o in result.outcomes} <= {Status.CORRECT, Status.WRONG, Status.TRUNCATED}
