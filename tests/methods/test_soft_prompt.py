"""Soft prompts: what they start as, that only they move, and that every way of running them says the same."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file
from tiny import tiny_tokenizer, tiny_weights
from transformers import AutoModelForCausalLM

from recipes import lora as lora_recipe
from recipes import prefix_tuning, prompt_tuning
from workbench.adapters import load_weights, save_adapter
from workbench.decodes import Greedy, Sampling
from workbench.engines.encode import Encoder
from workbench.engines.forward import packed_logits, use_grouped_attention
from workbench.engines.hf import HfEngine
from workbench.engines.packing import Branch, pack
from workbench.engines.soft_prompt import keys_of_adapter
from workbench.errors import UserError
from workbench.files import read_json
from workbench.methods.soft_prompt import (
    PrefixTuning,
    PromptTuning,
    adapt,
    initial_embeddings,
    with_soft_prompt,
)
from workbench.models import load_base
from workbench.prompts import load_prompt
from workbench.runs import Run
from workbench.session import Setup
from workbench.tasks.arithmetic import Config as ArithmeticConfig
from workbench.tasks.arithmetic import load
from workbench.tasks.base import Task, make_task
from workbench.tasks.graders import label_grader
from workbench.training.card import cost_of
from workbench.training.config import Training
from workbench.types import Completion, Example, Finish, Message, Model, Request, System

TASK = load(ArithmeticConfig(practice=8, dev=4, test=4))
TRAINING = Training(learning_rate=1e-2, epochs=3, batch_size=4, micro_batch=4, precision="float32", save_every=2)
TEXT = "First we multiply 6 by 7, which is 42."
QUESTIONS = ("What is 12 plus 7?", "The company said that sales fell in the third quarter, and shares", "You")
KINDS = {"prompt": PromptTuning, "prefix": PrefixTuning}


pytestmark = pytest.mark.usefixtures("one_thread")


def classification() -> Task:
    practice = tuple(
        Example.make(f"{w} number {n}", w, variables={"labels": "red, blue"})
        for w in ("red", "blue")
        for n in range(4)
    )
    splits = {"practice": practice, "dev": practice[:2], "test": practice[:2]}
    labels = ("red", "blue")
    return make_task(
        "colours", settings={}, splits=splits, grade=label_grader(labels), prompt="classify", labels=labels
    )


def text_adapter(model: Model, folder: Path, text: str, *, prefix: bool) -> tuple[Model, list[int]]:
    """An adapter whose virtual tokens are those of a real text."""
    base = load_base(model, "float32", "cpu")
    use_grouped_attention(base)
    encoder = HfEngine(model, dtype="float32", device="cpu").encoder
    tokens = encoder.encode_text(text)
    start = base.get_input_embeddings().weight.detach()[tokens]
    save_adapter(with_soft_prompt(base, start, prefix=prefix), model, folder)
    return Model(model.base, adapter=str(folder)), tokens


def ask(text: str) -> Request:
    return Request(f"id of {text}", (Message("user", text),), style="text")


# --- exactness --------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("which", ["tiny", "embedded"])
def test_a_soft_prompt_of_a_real_text_has_that_texts_logits(
    which: str, kind: str, tiny_model: Path, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    """The issue's bound: 1e-4 in float32. A text before a question is the plain way of saying it."""
    model = Model(str(tiny_model)) if which == "tiny" else request.getfixturevalue("embedded_model")
    soft, tokens = text_adapter(model, tmp_path / "a", TEXT, prefix=kind == "prefix")
    engine = HfEngine(soft, dtype="float32", device="cpu")
    plain = load_base(model, "float32", "cpu")
    worst = 0.0
    for question in QUESTIONS:
        ids = engine.encoder.encode_text(question)
        whole = torch.tensor([[*tokens, *ids]])
        with torch.inference_mode():
            expected = plain(input_ids=whole).logits[0, len(tokens) :]
            branches = [[Branch(ids[: i + 1], [0])] for i in range(len(ids))]
            found = packed_logits(engine.weights, pack(branches, virtual=len(tokens)), _copy(engine))
        worst = max(worst, float((found - expected).abs().max()))
    assert worst <= 1e-4
    # And through the engine's own ways: greedy answers and label scores.
    drawn = {id: c for b in engine.sample([ask(q) for q in QUESTIONS], Sampling(0.0, max_tokens=8)) for id, c in b}
    for question in QUESTIONS:
        found_one = drawn[f"id of {question}"]
        ids = [*tokens, *engine.encoder.encode_text(question)]
        assert found_one.prompt_tokens == len(ids)
        for _ in range(found_one.completion_tokens):
            with torch.inference_mode():
                ids.append(int(plain(input_ids=torch.tensor([ids])).logits[0, -1].argmax()))
        assert found_one.text == engine.encoder.decode(ids[-found_one.completion_tokens :])


def _copy(engine: HfEngine) -> Any:
    from workbench.engines.kv import buffers_from

    assert engine.soft is not None
    return buffers_from(engine.soft, torch.zeros(1, dtype=torch.long), 512)


@pytest.mark.parametrize("kind", KINDS)
def test_batched_and_single_scores_agree_and_so_does_pefts_own_pass(
    kind: str, tiny_model: Path, tmp_path: Path
) -> None:
    soft, tokens = text_adapter(Model(str(tiny_model)), tmp_path / "a", TEXT, prefix=kind == "prefix")
    engine = HfEngine(soft, dtype="float32", device="cpu", max_positions=400)
    labels = (" positive", " negative", " neutral or so")
    requests = [ask(f"The sentence is {i}: {q}") for i in range(12) for q in QUESTIONS]
    together = {(id, c.index): c for b in engine.logprobs(requests, [labels] * len(requests)) for id, c in b}
    assert len(together) == 36 * 3
    peft = PeftModel.from_pretrained(load_base(Model(str(tiny_model)), "float32", "cpu"), str(soft.adapter)).eval()
    peft.base_model.set_attn_implementation("eager")
    for request in requests[:4]:
        alone = {c.index: c for b in engine.logprobs([request], [labels]) for _, c in b}
        for index, label in enumerate(labels):
            batched = together[request.id, index]
            assert batched.logprob == pytest.approx(alone[index].logprob, abs=1e-4)
            prompt, own, _ = engine.encoder.encode_pair(request, label)
            assert batched.prompt_tokens == len(tokens) + len(prompt)
            with torch.inference_mode():
                logits = peft(input_ids=torch.tensor([[*prompt, *own]])).logits[0].log_softmax(-1)
            offset = len(tokens) if kind == "prompt" else 0  # PEFT's logits hold the virtual tokens' own
            scores = [logits[offset + len(prompt) + i - 1, token] for i, token in enumerate(own)]
            assert batched.logprob == pytest.approx(float(sum(scores)), abs=1e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_a_packed_batch_has_the_gradient_of_pefts_padded_one(kind: str, tiny_model: Path) -> None:
    base = load_base(Model(str(tiny_model)), "float32", "cpu")
    use_grouped_attention(base)
    torch.manual_seed(0)
    weights = with_soft_prompt(base, torch.randn(3, 32), prefix=kind == "prefix")
    rows = [Branch([5, 6, 7], [8, 9]), Branch([5, 6, 11, 12, 13], [14])]
    learned = weights.prompt_encoder["default"].embedding.weight

    packed = pack([[row] for row in rows], virtual=3)
    logits = packed_logits(weights.get_base_model(), packed, keys_of_adapter(weights))
    loss = torch.nn.functional.cross_entropy(logits, packed.targets, reduction="sum")
    loss.backward()
    found = learned.grad.clone()

    learned.grad = None
    weights.base_model.set_attn_implementation("eager")
    expected = torch.zeros(())
    for row in rows:
        out = weights(input_ids=torch.tensor([[*row.prompt, *row.continuation]])).logits[0]
        out = out[-len(row.prompt) - len(row.continuation) :]
        said = out[len(row.prompt) - 1 : -1]
        expected = expected + torch.nn.functional.cross_entropy(
            said, torch.tensor(row.continuation), reduction="sum"
        )
    expected.backward()
    assert loss.item() == pytest.approx(expected.item(), abs=1e-5)
    assert torch.allclose(found, learned.grad, atol=1e-5, rtol=1e-4)


# --- what they start as -----------------------------------------------------------------------------


def test_the_four_starts(tiny_model: Path) -> None:
    base, encoder = load_base(Model(str(tiny_model)), "float32", "cpu"), Encoder(tiny_tokenizer())
    table, task, prompt = base.get_input_embeddings().weight.detach(), classification(), load_prompt("classify")

    def start(**settings: Any) -> torch.Tensor:
        found = initial_embeddings(base, encoder, prompt, task, PromptTuning(**settings))
        assert found.shape == (settings.get("tokens", 20), 32)
        return found

    words = encoder.encode_text("red or blue?")
    twice = start(tokens=2 * len(words), init_text="red or blue?")
    assert torch.equal(twice, table[words * 2]), "a short text is repeated"
    assert torch.equal(start(tokens=2, init_text="red or blue?"), table[words[:2]]), "a long one is cut"
    own = encoder.encode_text("Answer with one of these and nothing else: red, blue.")
    assert torch.equal(start(tokens=len(own)), table[own]), "by default what the prompt says around the question"

    labels = start(tokens=5, init="labels")
    for row, label in enumerate(("red", "blue")):
        assert torch.allclose(labels[row], table[encoder.encode_text(label)].mean(0))
    rows = {tuple(row.tolist()) for row in table}
    assert all(tuple(row.tolist()) in rows for row in labels[2:])
    drawn = start(tokens=30, init="vocabulary")
    assert all(tuple(row.tolist()) in rows for row in drawn)
    assert torch.equal(drawn, start(tokens=30, init="vocabulary"))
    assert not torch.equal(drawn, start(tokens=30, init="vocabulary", training=Training(training_seed=1)))

    noise = start(tokens=400, init="random")
    assert not any(tuple(row.tolist()) in rows for row in noise)
    assert float(noise.std()) == pytest.approx(float(table.std()), rel=0.05)


@pytest.mark.parametrize("kind", KINDS)
def test_sizes_are_the_formulas(kind: str, embedded_model: Model) -> None:
    """METHODS: k = 20 → 20 · 576 = 11,520; k = 10 → 10 · 30 · 2 · 192 = 115,200 (three key heads of 64)."""
    base = load_base(embedded_model, "bfloat16", "cpu")
    use_grouped_attention(base)
    tokens, size = {"prompt": (20, 11_520), "prefix": (10, 115_200)}[kind]
    start = base.get_input_embeddings().weight.detach()[:tokens]
    weights = with_soft_prompt(base, start, prefix=kind == "prefix")
    assert sum(p.numel() for p in weights.parameters() if p.requires_grad) == size


# --- training ---------------------------------------------------------------------------------------


class Interrupted(Exception):
    pass


class FaultyRun(Run):
    """A run that ends after a step's metrics are written."""

    after = 0

    def log(self, **metrics: Any) -> None:
        super().log(**metrics)
        if metrics.get("step") == self.after:
            raise Interrupted


def learn(model: Path, root: Path, config: PromptTuning, after: int = 0) -> tuple[System, FaultyRun]:
    system = System(Model(str(model)), load_prompt("arithmetic"), Greedy(16))
    with FaultyRun.open(root, "soft", {"config": config}, name="soft") as run:
        run.after = after
        return adapt(system, TASK, config, run, quiet=True), run


@pytest.mark.parametrize("kind", KINDS)
def test_only_the_virtual_tokens_move_and_the_loss_falls(kind: str, tiny_model: Path, tmp_path: Path) -> None:
    files = {file.name: file.read_bytes() for file in tiny_model.iterdir()}
    config = KINDS[kind](tokens=4, training=replace(TRAINING, epochs=10))
    tuned, run = learn(tiny_model, tmp_path, config)
    assert {file.name: file.read_bytes() for file in tiny_model.iterdir()} == files
    saved = load_file(run.path / "adapter" / "adapter_model.safetensors")
    assert {name: tuple(t.shape) for name, t in saved.items()} == {
        "prompt_embeddings": (4, 32) if kind == "prompt" else (4, 2 * 2 * 16)
    }
    losses = [line["loss"] for line in run.metrics()]
    assert sum(losses[-4:]) < sum(losses[:4])
    cost = cost_of(run)
    assert cost.parameters == saved["prompt_embeddings"].numel()
    assert f"{cost.parameters:,} trained parameters" in (run.path / "README.md").read_text(encoding="utf-8")
    assert (tuned.prompt, tuned.decode) == (load_prompt("arithmetic"), Greedy(16))
    assert len(
        learn(tiny_model, tmp_path, KINDS[kind](tokens=4, training=replace(TRAINING, epochs=10)))[1].metrics()
    ) == len(losses)


@pytest.mark.parametrize("kind", KINDS)
def test_an_interrupted_training_ends_as_an_uninterrupted_one(kind: str, tiny_model: Path, tmp_path: Path) -> None:
    config = KINDS[kind](tokens=3, training=TRAINING)
    _, whole = learn(tiny_model, tmp_path / "whole", config)
    with pytest.raises(Interrupted):
        learn(tiny_model, tmp_path / "parts", config, after=3)
    _, parts = learn(tiny_model, tmp_path / "parts", config)
    expected, found = (
        load_file(run.path / "adapter" / "adapter_model.safetensors")["prompt_embeddings"]
        for run in (whole, parts)
    )
    assert torch.equal(expected, found)
    assert {line["step"]: line["loss"] for line in parts.metrics()} == {
        line["step"]: line["loss"] for line in whole.metrics()
    }


# --- recipes ----------------------------------------------------------------------------------------


def setup(tiny_model: Path, runs: Path) -> Setup:
    return Setup(
        model=str(tiny_model), task_args=("practice=8", "dev=4", "test=4"), questions=3, runs=runs, quiet=True
    )


def test_the_recipes_learn_measure_and_write_the_card(
    tiny_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    runs = tmp_path / "runs"
    base = setup(tiny_model, runs)
    result = prompt_tuning.main(
        prompt_tuning.Config(replace(base, name="p"), PromptTuning(tokens=4, training=TRAINING))
    )
    assert result.total == 3 and result.cost_to_make.parameters == 4 * 32
    prefix_tuning.main(prefix_tuning.Config(replace(base, name="q"), PrefixTuning(tokens=4, training=TRAINING)))
    assert "256 trained parameters in an adapter of" in capsys.readouterr().out
    for name, method in (("p", "prompt tuning"), ("q", "prefix tuning")):
        card = (runs / name / "README.md").read_text(encoding="utf-8")
        assert f", {method} on arithmetic" in card and card.count("## Result") == 1


def test_of_several_lengths_the_best_on_dev_is_measured(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The grader calls right what the model of two tokens says, so that two tokens must win."""
    import workbench.tuning

    seen: list[tuple[str, int]] = []
    evaluate = workbench.tuning.evaluate

    def spied(system: System, *rest: Any, **settings: Any) -> Any:
        found = evaluate(system, *rest, **settings)
        tokens = read_json(Path(str(system.model.adapter)) / "adapter_config.json")["num_virtual_tokens"]
        seen.append((settings["split"], tokens))
        return replace(found, score=replace(found.score, value=1.0 if tokens == 2 else 0.0))

    monkeypatch.setattr(workbench.tuning, "evaluate", spied)
    config = prompt_tuning.Config(
        replace(setup(tiny_model, tmp_path), name="s"), PromptTuning(training=TRAINING), lengths=(1, 2, 3)
    )
    result = prompt_tuning.main(config)
    assert seen == [("dev", 1), ("dev", 2), ("dev", 3)]
    assert read_json(tmp_path / "s" / "dev.json")["best"] == "tokens-2"
    parts = [cost_of(Run(tmp_path / "s" / f"tokens-{n}", None)) for n in (1, 2, 3)]
    assert result.cost_to_make.tokens == sum(part.tokens for part in parts)
    assert result.cost_to_make.parameters == 2 * 32
    assert "tokens-2" in capsys.readouterr().out


# --- what cannot be ---------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [*KINDS, "lora"])
def test_an_adapter_for_other_weights_is_refused(kind: str, tiny_model: Path, tmp_path: Path) -> None:
    """The same shape, other values: it would load, and talk nonsense."""
    if kind == "lora":
        config = lora_recipe.Config(replace(setup(tiny_model, tmp_path), name="l"))
        lora_recipe.main(replace(config, lora=replace(config.lora, rank=2, training=TRAINING)))
        adapter = tmp_path / "l" / "adapter"
    else:
        text_adapter(Model(str(tiny_model)), adapter := tmp_path / "a", TEXT, prefix=kind == "prefix")
    other = tmp_path / "other"
    tiny_weights(len(tiny_tokenizer()), seed=1).save_pretrained(other)
    tiny_tokenizer().save_pretrained(other)
    with pytest.raises(UserError, match=r"does not fit the base model.*trained on other weights"):
        load_weights(Model(str(other), adapter=str(adapter)), "float32", "cpu")
    for dtype in ("float32", "bfloat16", "float16"):  # rounding makes no other weights of them
        load_weights(Model(str(tiny_model), adapter=str(adapter)), dtype, "cpu")
    (adapter / "base.json").unlink()  # made by another tool: nothing is known, and it loads
    load_weights(Model(str(other), adapter=str(adapter)), "float32", "cpu")


@pytest.mark.parametrize(
    ("kind", "field", "value"),
    [("prompt", "token_dim", 64), ("prefix", "token_dim", 32), ("prefix", "num_layers", 3)],
)
def test_an_adapter_of_another_size_is_refused(
    kind: str, field: str, value: int, tiny_model: Path, tmp_path: Path
) -> None:
    import json

    text_adapter(Model(str(tiny_model)), adapter := tmp_path / "a", TEXT, prefix=kind == "prefix")
    config = read_json(adapter / "adapter_config.json")
    (adapter / "adapter_config.json").write_text(json.dumps({**config, field: value}))
    with pytest.raises(UserError, match=f"does not fit the base model.*its {field} is {value}, the model's"):
        load_weights(Model(str(tiny_model), adapter=str(adapter)), "float32", "cpu")


def test_virtual_tokens_of_another_kind_are_refused(tiny_model: Path, tmp_path: Path) -> None:
    from peft import PromptEncoderConfig, get_peft_model

    plain = AutoModelForCausalLM.from_pretrained(tiny_model, dtype=torch.float32)
    config = PromptEncoderConfig(task_type="CAUSAL_LM", num_virtual_tokens=3, encoder_hidden_size=8)
    get_peft_model(plain, config).save_pretrained(tmp_path / "a", safe_serialization=True)
    with pytest.raises(
        UserError, match="of the kind P_TUNING; of soft prompts there are: PROMPT_TUNING, PREFIX_TUNING"
    ):
        HfEngine(Model(str(tiny_model), adapter=str(tmp_path / "a")), dtype="float32", device="cpu")


def test_a_damaged_soft_prompt_is_named(tiny_model: Path, tmp_path: Path) -> None:
    text_adapter(Model(str(tiny_model)), adapter := tmp_path / "a", TEXT, prefix=False)
    save_file({"prompt_embeddings": torch.zeros(2, 7)}, adapter / "adapter_model.safetensors")
    with pytest.raises(UserError, match="does not fit the base model"):
        HfEngine(Model(str(tiny_model), adapter=str(adapter)), dtype="float32", device="cpu")


def test_a_prompt_that_has_no_room_behind_the_virtual_tokens(tiny_model: Path, tmp_path: Path) -> None:
    soft, tokens = text_adapter(Model(str(tiny_model)), tmp_path / "a", TEXT, prefix=False)
    engine = HfEngine(soft, dtype="float32", device="cpu")
    assert engine.context == 512 - len(tokens)
    found: list[Completion] = [c for b in engine.sample([ask("the " * 600)], Sampling(max_tokens=2)) for _, c in b]
    assert found[0].finish is Finish.ERROR


def test_labels_to_start_from_are_needed(tiny_model: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="'arithmetic' has no labels to start from; use --init text"):
        learn(tiny_model, tmp_path, PromptTuning(init="labels", training=TRAINING))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"tokens": 0}, "tokens is 0"),
        ({"tokens": 10_001}, "tokens is 10001"),
        ({"init": "random", "init_text": "a text"}, "init_text is the text that --init text starts from"),
        ({"init_text": "  "}, "it needs words"),
    ],
)
def test_a_setting_that_cannot_be_is_named(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        PromptTuning(**settings)
