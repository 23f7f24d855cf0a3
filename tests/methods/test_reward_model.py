"""Reward models: they learn what pairs say, go on where they stopped, and are what transformers loads."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file
from stopping import StoppingRun

from workbench.decodes import BestOfN, Decode, Greedy, Sample
from workbench.drawing import Drawer
from workbench.engines import EngineConfig
from workbench.engines.scorer import RewardModel
from workbench.errors import UserError
from workbench.files import read_json
from workbench.identity import from_json
from workbench.instructing.reliability import Reading, diagram
from workbench.methods.lora import Config as LoraConfig
from workbench.methods.reward_model import Config, adapt
from workbench.preferring.given import Pairs
from workbench.preferring.held_out import in_words, judged, split
from workbench.preferring.pairs import Pair, read_pairs
from workbench.prompts import load_prompt
from workbench.runs import Run
from workbench.store import Store
from workbench.tasks.arithmetic import Config as ArithmeticConfig
from workbench.tasks.arithmetic import load
from workbench.training.card import cost_of
from workbench.training.config import Data, Training
from workbench.types import Completion, Finish, Message, Model, Request, System

pytestmark = pytest.mark.usefixtures("one_thread")

TASK = load(ArithmeticConfig(practice=8, dev=4, test=2))
TRAINING = Training(learning_rate=1e-2, epochs=2, batch_size=4, micro_batch=4, precision="float32", save_every=1)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "pairs.jsonl"
    rows = [
        {"prompt": f"What is {i} times 3?", "chosen": f"It is {3 * i}{end}", "rejected": f"No idea{end}{end}"}
        for i in range(10)
        for end in (".", "!")
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def config(file: Path | None, **settings: Any) -> Config:
    training = replace(TRAINING, **settings.pop("training", {}))
    held = {"held_out": 0.3} if file else {}
    return Config(
        pairs=Pairs(pairs=file),
        lora=LoraConfig(rank=8 if settings.get("weights") == "all" else 2, training=training),
        **held,
        **settings,
    )


def train(
    model: Path, root: Path, settings: Config, stop: int | None = None, decode: Decode | None = None
) -> tuple[System, Run]:
    system = System(Model(str(model)), load_prompt("arithmetic"), decode or Greedy(16))
    store = Store(root / "completions.sqlite")
    drawer = Drawer(EngineConfig(dtype="float32", device="cpu"), store, quiet=True)
    with StoppingRun.open(root, "reward_model", {"config": settings}, name="tuned") as run:
        assert isinstance(run, StoppingRun)
        run.stop = stop
        found = adapt(system, TASK, settings, run, drawer, quiet=True)
    store.close()
    return found, run


def lines(run: Run) -> list[dict[str, Any]]:
    return [line for line in run.metrics() if "loss" in line]


def test_it_starts_undecided_and_learns_the_pairs(tiny_model: Path, tmp_path: Path, file: Path) -> None:
    system, run = train(tiny_model, tmp_path, config(file, training={"epochs": 6}))
    first, last = lines(run)[0], lines(run)[-1]
    assert first["loss"] == pytest.approx(0.693147, abs=1e-6)
    assert (first["margin"], first["min_reward"], first["max_reward"]) == (0, 0, 0)
    assert last["accuracy"] == 1
    assert last["margin"] > 0.5
    assert last["min_reward"] < last["mean_reward"] < last["max_reward"]
    told = read_json(run.path / "held_out.json")
    assert (told["pairs"], told["prompts"], told["left_out"]) == (6, 3, 0)
    assert from_json(told["accuracy"]).value == 1
    assert from_json(told["margin"]).low > 0
    assert system.decode == BestOfN(scorer=str(run.path / "reward_model"), max_tokens=16)
    about = read_json(run.path / "data.json")
    assert (about["learned"], about["prompts"]) == (14, 7)
    card = (run.path / "README.md").read_text()
    assert "pipeline_tag: text-classification" in card
    assert "A reward model made with the LLM workbench" in card
    assert "through the model's chat template. Its pairs bring prompts of their own.\n" in card
    assert "BestOfN" not in card
    assert "It learned on 14 examples; none were too long." in card
    assert "The loss was 0.693 nats a pair at update 1" in card
    assert "AutoModelForSequenceClassification.from_pretrained" in card
    assert "Accuracy 100.0 % (95 % interval over prompts" in card
    assert "![Accuracy by confidence](calibration.svg)" in card
    assert "<svg" in (run.path / "calibration.svg").read_text()
    assert not (run.path / "checkpoints").exists()
    assert (
        cost_of(run).parameters
        == sum(
            2 * (layer.in_features + layer.out_features)
            for layer in transformers.AutoModelForCausalLM.from_pretrained(tiny_model).model.modules()
            if isinstance(layer, torch.nn.Linear)
        )
        + 32
    )


@pytest.mark.parametrize("weights", ["lora", "all"])
def test_what_comes_out_is_transformers_own_class(
    weights: Any, tiny_model: Path, tmp_path: Path, file: Path
) -> None:
    _, run = train(tiny_model, tmp_path, config(file, weights=weights, training={"epochs": 3}))
    folder = run.path / "reward_model"
    model = transformers.AutoModelForSequenceClassification.from_pretrained(folder)
    assert type(model).__name__ == "LlamaForSequenceClassification"
    assert model.config.pad_token_id != transformers.AutoTokenizer.from_pretrained(folder).eos_token_id
    scorer, pair = RewardModel(folder, device="cpu"), read_pairs(file)[0]
    request = Request("q", pair.prompt)
    ids = [*scorer.encoder.encode_completion(request, pair.chosen)[0]]
    ids += scorer.encoder.encode_completion(request, pair.chosen)[1]
    with torch.no_grad():
        expected = float(model(input_ids=torch.tensor([ids])).logits)
    [[(_, found)]] = scorer.rewards([(request, pair.chosen)])
    assert found.logprob == pytest.approx(expected, abs=1e-4)
    assert expected != 0
    base = load_file(tiny_model / "model.safetensors")
    ours = load_file(folder / "model.safetensors")
    moved = {name for name, tensor in ours.items() if name in base and not torch.equal(tensor, base[name])}
    assert any("mlp" in name for name in moved)
    assert ("model.embed_tokens.weight" in moved) == (weights == "all")


def test_interrupted_equals_uninterrupted(tiny_model: Path, tmp_path: Path, file: Path) -> None:
    settings = config(file)
    _, whole = train(tiny_model, tmp_path / "whole", settings)
    with pytest.raises(KeyboardInterrupt):
        train(tiny_model, tmp_path / "cut", settings, stop=2)
    text = file.read_text()
    file.write_text(text.replace("It is", "So it is", 1))
    with pytest.raises(UserError, match="was begun with other pairs"):
        train(tiny_model, tmp_path / "cut", settings)
    file.write_text(text)
    _, again = train(tiny_model, tmp_path / "cut", settings)
    last = {line["step"]: line["loss"] for line in lines(again)}
    assert last == {line["step"]: line["loss"] for line in lines(whole)}
    ours, theirs = (load_file(run.path / "reward_model" / "model.safetensors") for run in (again, whole))
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    made = (again.path / "reward_model" / "model.safetensors").stat().st_mtime_ns
    told = read_json(again.path / "held_out.json")
    (again.path / "held_out.json").unlink()  # as if it was killed between training and measuring
    train(tiny_model, tmp_path / "cut", settings)
    assert (again.path / "reward_model" / "model.safetensors").stat().st_mtime_ns == made, "it is not run again"
    assert read_json(again.path / "held_out.json") == told


def test_pairs_that_are_made_are_held_out_from_dev(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from workbench.engines.fake import FakeEngine

    monkeypatch.setattr("workbench.drawing.open_engine", lambda model, config: FakeEngine(Model("fake:0.5")))
    decode = Sample(n=4, temperature=0.5, max_tokens=8)
    system, run = train(tiny_model, tmp_path, config(None), decode=decode)
    practice, dev = (read_pairs(run.path / f"pairs-{name}.jsonl") for name in ("practice", "dev"))
    assert {p.group for p in practice} <= {e.id for e in TASK.practice}
    assert {p.group for p in dev} <= {e.id for e in TASK.dev}
    told = read_json(run.path / "held_out.json")
    assert (told["pairs"], told["source"]) == (len(dev), "arithmetic, dev split: verifier pairs")
    card = (run.path / "README.md").read_text()
    assert "through the model's chat template. Its pairs are answers to it.\n" in card
    assert "BestOfN" not in card
    best = system.decode
    assert isinstance(best, BestOfN)
    assert (best.n, best.temperature, best.max_tokens) == (4, 0.5, 8), "samples are drawn as the System draws them"


# --- held-out pairs -----------------------------------------------------------------------------------


def pair(group: str, chosen: str, rejected: str) -> Pair:
    return Pair((Message("user", group),), "chat", chosen, rejected, group=group)


class Table:
    version, shape = "table", None

    def __init__(self, **rewards: float | None) -> None:
        self.table, self.asked = rewards, 0

    def rewards(self, asked: Any) -> Any:
        for place, (_, text) in enumerate(asked):
            self.asked += 1
            value = self.table[text]
            error = None if value is not None else "too long"
            finish = Finish.SCORED if value is not None else Finish.ERROR
            yield [(place, Completion(0, "", logprob=value, finish=finish, error=error))]

    def close(self) -> None:
        """Nothing."""


def test_accuracy_margin_and_calibration_by_hand() -> None:
    pairs = [
        pair("p", "a", "b"),
        pair("p", "a", "c"),
        pair("q", "a", "b"),
        pair("q", "c", "c2"),
        pair("q", "b", "x"),
    ]
    scorer = Table(a=1.0, b=0.0, c=2.0, c2=2.0, x=None)
    told = judged(pairs, scorer)
    assert (told["pairs"], told["prompts"], told["left_out"]) == (4, 2, 1)
    assert scorer.asked == 3 + 5, "each distinct answer of a prompt once"
    assert from_json(told["accuracy"]).value == pytest.approx((1 + 0 + 1 + 0.5) / 4)
    assert from_json(told["margin"]).value == pytest.approx((1 - 1 + 1 + 0) / 4)
    sure = 1 / (1 + 2.718281828**-1)
    assert told["ties"] == 1, "it has no verdict: neither right nor wrong"
    assert told["sure"] == pytest.approx([sure] * 3)
    assert told["right"] == [True, False, True]
    assert told["groups"] == ["p", "p", "q"]
    assert from_json(told["gap"]).value == pytest.approx(sure - 2 / 3)
    assert told["ece"] == pytest.approx(abs(sure - 2 / 3))
    assert sum(b["total"] for b in told["bins"]) == 3
    assert "without 1 of equal rewards" in in_words({**told, "source": "a file"})
    assert told["reward"] == {"lowest": 0, "mean": pytest.approx((1 + 0 + 2 + 1 + 0 + 2 + 2) / 7), "highest": 2}
    assert "Accuracy 62.5 %" in in_words({**told, "source": "a file"})
    assert "1 left out as too long" in in_words({**told, "source": "a file"})
    with pytest.raises(UserError, match="No held-out pair could be scored: too long"):
        judged(pairs[4:], scorer)


def test_where_all_rewards_are_equal_there_is_no_calibration() -> None:
    told = judged([pair("p", "a", "b"), pair("q", "b", "a")], Table(a=1.0, b=1.0))
    assert (told["ties"], told["ece"], told["gap"]) == (2, None, None)
    words = in_words({**told, "source": "a file"})
    assert "Accuracy 50.0 %" in words
    assert "one half each in the accuracy: no pair has a verdict." in words
    assert diagram([Reading("none", (), (), (), ())]).startswith("<svg")


def test_pairs_of_one_prompt_have_no_interval() -> None:
    told = judged([pair("p", "a", "b"), pair("p", "b", "a")], Table(a=1.0, b=0.0))
    words = in_words({**told, "source": "a file"})
    assert "Accuracy 50.0 % (95 % interval over prompts 0.0 – 100.0)" in words
    assert from_json(told["longer"]).value == 0.5, "equal lengths are one half, as equal rewards are"
    assert "Mean margin 0.000 (of one prompt, without an interval)" in words


def test_a_prompts_pairs_stay_together_when_some_are_held_out() -> None:
    pairs = [pair(f"g{i}", f"a{j}", "b") for j in range(3) for i in range(20)]
    learned, held = split(pairs, 0.2)
    assert {p.group for p in learned} & {p.group for p in held} == set()
    assert (len(learned), len(held)) == (48, 12)
    assert split(list(reversed(pairs)), 0.2)[1] == list(reversed(held)), "it does not depend on their order"
    assert len(split(pairs[:2], 0.001)[1]) == 1
    assert len(split(pairs[:2], 0.9)[1]) == 1
    with pytest.raises(UserError, match="of one prompt"):
        split(pairs[:1], 0.1)


# --- what it refuses ----------------------------------------------------------------------------------


def test_what_it_refuses(tiny_model: Path, tmp_path: Path, file: Path) -> None:
    for settings, problem in (
        ({"held_out": 0.0}, "held_out"),
        ({"held_out": 0.2}, "held_out is for --pairs"),
        ({"lora": LoraConfig(training=Training(data=Data(data="x.jsonl")))}, "pairs come from --pairs"),
    ):
        with pytest.raises(UserError, match=problem):
            Config(**settings)  # type: ignore[arg-type]
    system = System(Model(str(tiny_model), quantization="nf4"), load_prompt("arithmetic"), Greedy(16))
    with Run.open(tmp_path, "reward_model", {}, name="x") as run, pytest.raises(UserError, match="quantised"):
        adapt(system, TASK, config(file), run, None, quiet=True)  # type: ignore[arg-type]
