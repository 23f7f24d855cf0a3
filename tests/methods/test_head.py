"""A classification head: only what may move moves, and the labels' scores are those of a direct computation."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny import CHATML, tiny_tokenizer

import workbench.training.sft
from recipes import head as recipe
from workbench.adapters import load_weights
from workbench.decodes import Greedy, LabelLikelihood, Sampling
from workbench.engines.encode import Encoder
from workbench.engines.hf import HfEngine
from workbench.engines.vllm import VllmEngine
from workbench.errors import UserError
from workbench.files import read_json
from workbench.methods.head import Config, adapt, labelled
from workbench.models import load_base, load_tokenizer
from workbench.own_kinds import add_head, own_parameters, without_head
from workbench.prompts import load_prompt, render
from workbench.run_folder import RunFolder
from workbench.runs import Run
from workbench.session import Setup
from workbench.tasks.arithmetic import Config as ArithmeticConfig
from workbench.tasks.arithmetic import load as load_arithmetic
from workbench.tasks.base import Task, make_task
from workbench.tasks.graders import label_grader
from workbench.training.card import cost_of
from workbench.training.config import Data, Training
from workbench.types import Example, Message, Model, Request, System

LABELS = ("red", "blue", "green")
TRAINING = Training(learning_rate=1e-4, epochs=3, batch_size=4, micro_batch=4, precision="float32", save_every=2)
VARIANTS = ("head", "warm", "cold")
PARAMETERS = 500 * 32 + 2 * (2 * 32 * 32 + 2 * 16 * 32 + 3 * 32 * 64 + 2 * 32) + 32  # of the tiny model, tied

pytestmark = pytest.mark.usefixtures("one_thread")


def colours() -> Task:
    practice = tuple(
        Example.make(f"The {thing} is {colour}.", colour, variables={"labels": ", ".join(LABELS)})
        for colour in LABELS
        for thing in ("house", "door", "postcard", "share")
    )
    splits = {"practice": practice, "dev": practice[:2], "test": practice[:2]}
    return make_task(
        "colours", settings={}, splits=splits, grade=label_grader(LABELS), prompt="classify", labels=LABELS
    )


TASK = colours()


@pytest.fixture(scope="module")
def untied_model(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> Path:
    """The tiny model with an output layer of its own."""
    from transformers import AutoConfig, LlamaForCausalLM

    torch.manual_seed(3)
    folder = tmp_path_factory.mktemp("models") / "untied"
    config = AutoConfig.from_pretrained(tiny_model)
    config.tie_word_embeddings = False
    LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = CHATML
    tokenizer.save_pretrained(folder)
    return folder


def tune(model: Path, root: Path, config: Config, kind: type[Run] = Run, task: Task = TASK) -> tuple[System, Run]:
    system = System(Model(str(model)), load_prompt("classify"), LabelLikelihood())
    with kind.open(root, "head", {"config": config}, name="tuned") as run:
        return adapt(system, task, config, run, quiet=True), run


class Spy:
    """What every training of a method began and ended with."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.before: list[dict[str, torch.Tensor]] = []
        self.after: list[dict[str, torch.Tensor]] = []
        self.rates: list[float] = []
        fit = workbench.training.sft.fit

        def watched(weights: Any, source: Any, training: Training, *rest: Any, more: bool) -> None:
            self.before.append({name: p.detach().clone() for name, p in weights.named_parameters()})
            self.rates.append(training.learning_rate)
            fit(weights, source, training, *rest, more=more)
            self.after.append({name: p.detach().clone() for name, p in weights.named_parameters()})

        monkeypatch.setattr(workbench.training.sft, "fit", watched)

    def moved(self, training: int) -> set[str]:
        before, after = self.before[training], self.after[training]
        return {name for name in before if not torch.equal(before[name], after[name])}


class Interrupted(Run):
    """A run that is interrupted after three updates."""

    def log(self, **metrics: Any) -> None:
        super().log(**metrics)
        if metrics.get("step") == 3:
            raise KeyboardInterrupt


def head_of(run: Run) -> torch.Tensor:
    [(name, tensor)] = load_file(run.path / "adapter" / "adapter_model.safetensors").items()
    assert name == "lm_head.weight"
    return tensor


# --- what trains --------------------------------------------------------------------------------------


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_the_head_alone_moves_and_the_base_stays(
    precision: str, tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spy = Spy(monkeypatch)
    files = {file.name: file.read_bytes() for file in tiny_model.iterdir()}
    tuned, run = tune(tiny_model, tmp_path, Config(training=replace(TRAINING, precision=precision)))
    assert spy.moved(0) == {"lm_head.weight"} and spy.rates == [pytest.approx(1e-2)]
    assert cost_of(run).parameters == head_of(run).numel() == 32 * 3
    assert head_of(run).dtype == torch.float32
    assert {file.name: file.read_bytes() for file in tiny_model.iterdir()} == files
    assert tuned.model == Model(str(tiny_model), adapter=str(run.path / "adapter"))
    assert not (run.path / "model").exists()
    assert read_json(run.path / "adapter" / "adapter_config.json") == {
        "peft_type": "CLASSIFICATION_HEAD",
        "labels": list(LABELS),
    }
    # Forward passes only: no gradient goes through the frozen layers.
    assert cost_of(run).flops == pytest.approx(2 * (PARAMETERS + 96) * cost_of(run).tokens)


def test_a_cold_head_trains_all_weights_and_leaves_a_model_of_its_own(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spy = Spy(monkeypatch)
    tuned, run = tune(tiny_model, tmp_path, Config("cold", training=TRAINING))
    after = spy.after[0]
    assert spy.moved(0) == after.keys() and "model.embed_tokens.weight" in after and spy.rates == [1e-4]
    assert sum(p.numel() for p in after.values()) == cost_of(run).parameters == PARAMETERS + 96
    assert after["lm_head.weight"].shape == (3, 32)
    assert tuned.model == Model(str(run.path / "model"), adapter=str(run.path / "adapter"))
    assert run.read_system().model.base == str((run.path / "model").resolve())

    # A model like any other: its output layer is still its embedding, as trained, and its tokenizer is beside it.
    from transformers import AutoModelForCausalLM

    saved = AutoModelForCausalLM.from_pretrained(run.path / "model")
    assert saved.config.tie_word_embeddings and saved.lm_head.weight is saved.model.embed_tokens.weight
    for name, p in saved.named_parameters():
        assert torch.equal(p, after[name]), name
    assert load_tokenizer(Model(str(run.path / "model"))).chat_template == CHATML


def test_a_warm_head_is_trained_first_and_both_trainings_are_paid_for(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spy = Spy(monkeypatch)
    _, run = tune(tiny_model, tmp_path, Config("warm", training=TRAINING))
    assert spy.moved(0) == {"lm_head.weight"} and spy.moved(1) == spy.after[1].keys()
    assert torch.equal(spy.before[1]["lm_head.weight"], spy.after[0]["lm_head.weight"])
    assert spy.rates == [pytest.approx(1e-2), 1e-4]
    first, both = cost_of(RunFolder(run.path / "head")), cost_of(run)
    assert both.tokens == 2 * first.tokens and both.parameters == PARAMETERS + 96
    assert both.flops == pytest.approx((2 + 6) * (PARAMETERS + 96) * first.tokens)
    assert both.seconds > first.seconds and both.watt_hours > first.watt_hours
    # The head alone is a System too, and what its own run would have given.
    _, alone = tune(tiny_model, tmp_path / "alone", Config("head", training=TRAINING))
    inner = RunFolder(run.path / "head").read_system().model.adapter
    assert torch.equal(load_file(Path(str(inner)) / "adapter_model.safetensors")["lm_head.weight"], head_of(alone))


def test_an_output_layer_of_its_own_stays_as_it_was(untied_model: Path, tmp_path: Path) -> None:
    base = load_base(Model(str(untied_model)), "float32", "cpu")
    _, run = tune(untied_model, tmp_path, Config("cold", training=TRAINING))
    tuned = load_base(Model(str(run.path / "model")), "float32", "cpu")
    assert torch.equal(tuned.lm_head.weight, base.lm_head.weight)
    assert not torch.equal(tuned.model.embed_tokens.weight, base.model.embed_tokens.weight)
    assert cost_of(run).parameters == PARAMETERS + 96


def test_the_embedded_models_head_has_1728(embedded_model: Model) -> None:
    weights = load_base(embedded_model, "bfloat16", "cpu")
    assert sum(p.numel() for p in weights.parameters()) == 134_515_008
    add_head(weights, LABELS)
    assert sum(p.numel() for p in own_parameters(weights).values()) == 1_728
    assert sum(p.numel() for p in weights.parameters()) == 134_515_008 + 1_728


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_an_interrupted_training_ends_as_an_uninterrupted_one(
    variant: Any, precision: str, tiny_model: Path, tmp_path: Path
) -> None:
    config = Config(variant, training=replace(TRAINING, precision=precision))
    tuned, whole = tune(tiny_model, tmp_path / "whole", config)
    with pytest.raises(KeyboardInterrupt):
        tune(tiny_model, tmp_path / "parts", config, Interrupted)
    again, parts = tune(tiny_model, tmp_path / "parts", config)
    assert torch.equal(head_of(whole), head_of(parts))
    assert cost_of(whole).tokens == cost_of(parts).tokens
    first, second = (load_weights(system.model, "float32", "cpu") for system in (tuned, again))
    assert all(torch.equal(p, second.get_parameter(name)) for name, p in first.named_parameters())
    if variant != "head":
        config_saved = read_json(parts.path / "model" / "config.json")
        assert config_saved["dtype"] == precision


def test_it_goes_on_where_it_was_killed_between_model_and_head(tiny_model: Path, tmp_path: Path) -> None:
    _, run = tune(tiny_model, tmp_path, Config("warm", training=TRAINING))
    head, cost = head_of(run), cost_of(run)
    (run.path / "adapter").rename(tmp_path / "gone")
    tune(tiny_model, tmp_path, Config("warm", training=TRAINING))
    assert torch.equal(head_of(run), head)
    assert (cost_of(run).tokens, cost_of(run).flops) == (cost.tokens, cost.flops)


def test_it_learns(tiny_model: Path, tmp_path: Path) -> None:
    training = replace(TRAINING, epochs=20, learning_rate=1e-3)
    tuned, _ = tune(tiny_model, tmp_path, Config(training=training))
    engine = HfEngine(tuned.model, dtype="float32", device="cpu")
    requests = [Request(e.id, render(tuned.prompt, e)) for e in TASK.practice]
    found = scores(engine, requests, LABELS)
    right = sum(max(found[e.id], key=lambda label: found[e.id][label]) == e.target for e in TASK.practice)
    assert right == len(TASK.practice)


# --- what answers -------------------------------------------------------------------------------------


def scores(engine: Any, requests: list[Request], labels: tuple[str, ...]) -> dict[str, dict[str, float]]:
    found: dict[str, dict[str, float]] = {}
    for batch in engine.logprobs(requests, [labels] * len(requests)):
        for id, completion in batch:
            found.setdefault(id, {})[completion.text] = completion.logprob
    return found


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_the_engines_scores_are_the_log_softmax_of_the_last_places_logits(
    variant: Any, dtype: Any, tiny_model: Path, tmp_path: Path
) -> None:
    tuned, run = tune(tiny_model, tmp_path, Config(variant, training=TRAINING))
    engine = HfEngine(tuned.model, dtype=dtype, device="cpu")
    # Many of one length and shape, so that a prefix is shared and there are several batches.
    asked = [Request(f"{i} {e.id}", render(tuned.prompt, e)) for i in range(8) for e in TASK.practice]
    found = scores(engine, asked, LABELS)
    body = load_base(tuned.model, dtype, "cpu").get_decoder()
    for request in asked[: len(TASK.practice)]:
        ids = torch.tensor([engine.encoder.encode(request)])
        with torch.no_grad():
            state = body(input_ids=ids).last_hidden_state[0, -1].float()
        expected = (head_of(run) @ state).log_softmax(-1)
        for i, label in enumerate(LABELS):
            bound = 1e-4 if dtype == "float32" else 0.1
            assert found[request.id][label] == pytest.approx(float(expected[i]), abs=bound)
        assert sum(torch.tensor(list(found[request.id].values())).exp()) == pytest.approx(1.0, abs=1e-5)
    assert engine.shape.parameters == PARAMETERS + 96


def test_labels_come_with_or_without_a_space_and_count_as_one_token(tiny_model: Path, tmp_path: Path) -> None:
    tuned, _ = tune(tiny_model, tmp_path, Config(training=TRAINING))
    engine = HfEngine(tuned.model, dtype="float32", device="cpu")
    request = Request("q", (Message("user", "The house is red. "),), style="text")
    [batch] = engine.logprobs([request], [[" red", "red", " blue"]])
    assert [c.text for _, c in batch] == [" red", "red", " blue"]
    red, bare, blue = (c.logprob for _, c in batch)
    assert red == pytest.approx(bare, abs=1e-5)  # they are rows of one batch, which some processors round apart
    assert abs(red - blue) > 1e-3
    assert {c.completion_tokens for _, c in batch} == {1}
    assert {c.prompt_tokens for _, c in batch} == {len(engine.encoder.encode(request))}


def test_what_a_head_cannot_say_is_refused(tiny_model: Path, tmp_path: Path) -> None:
    tuned, _ = tune(tiny_model, tmp_path, Config(training=TRAINING))
    engine = HfEngine(tuned.model, dtype="float32", device="cpu")
    request = Request("q", (Message("user", "The house is red."),))
    with pytest.raises(UserError, match=r"head has no label 'yellow'\. It has: red, blue, green"):
        next(iter(engine.logprobs([request], [["red", "yellow"]])))
    with pytest.raises(UserError, match="head scores red, blue, green and says nothing"):
        next(iter(engine.sample([request], Sampling())))
    assert engine.embed(["The house is red."]).shape == (1, 32)
    with pytest.raises(UserError, match="of the kind CLASSIFICATION_HEAD, which no server reads"):
        VllmEngine(tuned.model, ["http://127.0.0.1:1"])


def test_without_its_head_a_model_is_what_it_was(tiny_model: Path) -> None:
    weights = load_base(Model(str(tiny_model)), "float32", "cpu")
    ids = torch.arange(3, 23)[None]
    before = weights(input_ids=ids).logits
    add_head(weights, LABELS)
    assert weights(input_ids=ids).logits.shape == (1, 20, 3)
    with without_head(weights):
        assert torch.equal(weights(input_ids=ids).logits, before)
    assert weights(input_ids=ids).logits.shape == (1, 20, 3)


# --- what cannot be -----------------------------------------------------------------------------------


def change_config(adapter: Path, **fields: Any) -> None:
    file = adapter / "adapter_config.json"
    file.write_text(json.dumps({**read_json(file), **fields}))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda a: change_config(a, labels="red"), "its labels are 'red', not two or more"),
        (lambda a: change_config(a, labels=["red", 3]), "its labels are"),
        (lambda a: change_config(a, labels=["red", "red"]), "its labels are"),
        (lambda a: change_config(a, labels=["red"]), "its labels are"),
        (
            lambda a: change_config(a, labels=["red", "blue"]),
            r"lm_head.weight has the shape \[3, 32\], .* \[2, 32\]",
        ),
        (
            lambda a: save_file({"head": torch.zeros(3, 32)}, a / "adapter_model.safetensors"),
            "2 tensors are in only one of them, as 'head'",
        ),
    ],
)
def test_a_damaged_head_is_refused_with_what_is_wrong(
    damage: Callable[[Path], Any], message: str, tiny_model: Path, tmp_path: Path
) -> None:
    tuned, run = tune(tiny_model, tmp_path, Config(training=TRAINING))
    damage(run.path / "adapter")
    with pytest.raises(UserError, match=message):
        load_weights(tuned.model, "float32", "cpu")


def test_a_head_for_other_weights_is_refused(tiny_model: Path, tmp_path: Path) -> None:
    """A warm head on the model from before it was tuned: it would load, and say something else."""
    training = replace(TRAINING, learning_rate=1e-2)
    tuned, _ = tune(tiny_model, tmp_path, Config("cold", training=training))
    with pytest.raises(UserError, match=r"does not fit the base model.*trained on other weights"):
        load_weights(replace(tuned.model, base=str(tiny_model)), "float32", "cpu")


def test_a_task_without_labels_and_a_target_that_is_none_are_refused(tiny_model: Path, tmp_path: Path) -> None:
    arithmetic = load_arithmetic(ArithmeticConfig(practice=2, dev=1, test=1))
    with pytest.raises(UserError, match="'arithmetic' has no labels for a head to score"):
        tune(tiny_model, tmp_path, Config(), task=arithmetic)
    with pytest.raises(UserError, match=r"'green' of .* is none of the labels: red, blue"):
        tune(tiny_model, tmp_path, Config(), task=replace(TASK, labels=("red", "blue")))


def test_prompts_that_are_too_long_are_left_out_and_counted(tiny_model: Path) -> None:
    encoder = Encoder(load_tokenizer(Model(str(tiny_model))))
    prompt = load_prompt("classify")
    every, _ = labelled(encoder, prompt, TASK, TRAINING)
    assert [example.ids[-1] for example in every] == [LABELS.index(e.target) for e in TASK.practice]
    assert all(example.learned == [len(example.ids) - 1] for example in every)
    limit = sorted(len(example.ids) for example in every)[4]
    kept, counts = labelled(encoder, prompt, TASK, replace(TRAINING, max_length=limit))
    assert counts.learned == len(kept) and counts.learned + counts.too_long == len(every)
    assert 0 < len(kept) < len(every) and max(len(example.ids) for example in kept) == limit
    with pytest.raises(UserError, match="Every example is longer than 5 tokens"):
        labelled(encoder, prompt, TASK, replace(TRAINING, max_length=5))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"head_rate": 0}, r"^head_rate is 0"),
        ({"head_rate": float("nan")}, r"^head_rate is nan"),
        ({"training": Training(data=Data(data="rows.jsonl"))}, "A head learns the labels of a task"),
    ],
)
def test_a_setting_that_cannot_be_is_named(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        Config(**settings)


# --- the recipe ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_recipe_tunes_and_measures(
    variant: Any, tiny_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = tmp_path / "colours.jsonl"
    rows = [
        {"text": f"{thing} {i} is {colour}", "colour": colour}
        for i, thing in enumerate(("house", "door", "share") * 4)
        for colour in LABELS
    ]
    data.write_text("\n".join(json.dumps(row) for row in rows))
    arguments = (f"path={data}", "input=text", "target=colour", "grader=label")
    setup = Setup(task="file", task_args=arguments, model=str(tiny_model), runs=tmp_path / "runs", quiet=True)
    result = recipe.main(recipe.Config(replace(setup, name="h"), Config(variant, training=TRAINING)))
    own = PARAMETERS + 96 if variant != "head" else 96
    assert result.total > 0 and result.cost_to_make.parameters == own
    assert f"{own:,} trained parameters in" in capsys.readouterr().out
    card = (tmp_path / "runs" / "h" / "README.md").read_text(encoding="utf-8")
    assert f", {variant} classification head on file" in card

    # The run's folder can be moved, and its System loads from where it then is.
    (tmp_path / "runs" / "h").rename(tmp_path / "elsewhere")
    moved = RunFolder(tmp_path / "elsewhere").read_system()
    assert isinstance(moved.decode, LabelLikelihood) and not isinstance(moved.decode, Greedy)
    assert load_weights(moved.model, "float32", "cpu") is not None
