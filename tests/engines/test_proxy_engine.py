"""Proxy tuning: the sum of logits, the expert token for token, weights that are shared, and what is refused."""

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from soft_adapter import save_adapter as save_soft
from tiny import CHATML, tiny_tokenizer, tiny_weights

from workbench.adapters import save_adapter
from workbench.cost import ModelShape, inference_flops, kv_cache_bytes, together
from workbench.decodes import Greedy, Sampling
from workbench.engines import EngineConfig, open_engine
from workbench.engines.hf import HfEngine
from workbench.engines.proxy import ProxyEngine, _can_share, shared_rows, shares_of, summed
from workbench.engines.sampler import draw
from workbench.errors import UserError
from workbench.models import load_base
from workbench.own_kinds import add_bottlenecks, own_parameters
from workbench.proxy import Proxy, steer
from workbench.types import Completion, Finish, Message, Model, Request

pytestmark = pytest.mark.usefixtures("one_thread")

QUESTIONS = (
    "You",
    "What is 12 plus 7?",
    "The company said that sales fell.",
    "The company said that shares rose.",
)
REQUESTS = [Request(f"id of {text}", (Message("user", text),), (0, 1, 2), "text") for text in QUESTIONS]
GREEDY = Sampling(temperature=0, max_tokens=16)
WARM = Sampling(temperature=1.0, max_tokens=16, top_k=50, top_p=0.9, seed=3)
Make = Callable[..., Model]


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Model]:
    """Makes tiny models of other weights, by their seed, on the same tokenizer or one with more tokens or rows."""

    def made(
        seed: int, *, padding: int = 0, tokens: Sequence[str] = (), chat: bool = True, sharp: float = 1.0
    ) -> Model:
        folder = tmp_path_factory.mktemp("models") / f"tiny-{seed}"
        tokenizer = tiny_tokenizer()
        tokenizer.chat_template = CHATML if chat else None
        tokenizer.add_tokens(list(tokens))
        weights = tiny_weights(len(tokenizer) + padding, seed)
        weights.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        return Model(str(folder))

    return made


@pytest.fixture
def lora(tmp_path: Path) -> Callable[..., Model]:
    """Makes an adapter of rank 4 with random weights on a model."""
    from peft import LoraConfig, get_peft_model

    def made(model: Model, seed: int = 1, **more: Any) -> Model:
        torch.manual_seed(seed)
        settings = {"r": 4, "lora_alpha": 8, "target_modules": "all-linear", "task_type": "CAUSAL_LM", **more}
        adapted = get_peft_model(load_base(model, "float32", "cpu"), LoraConfig(**settings))
        for name, weight in adapted.named_parameters():
            if "lora_B" in name or ".modules_to_save." in name:
                weight.data.add_(torch.randn_like(weight), alpha=0.2)
        folder = tmp_path / f"lora-{seed}"
        save_adapter(adapted, model, folder)
        if more:  # as PEFT alone leaves it: what these settings change in the base would tell of another one
            (folder / "base.json").unlink()
        return replace(model, adapter=str(folder))

    return made


def opened(model: Model, **settings: Any) -> Any:
    engine = ProxyEngine if isinstance(model, Proxy) else HfEngine
    return engine(model, dtype="float32", device="cpu", **settings)  # type: ignore[arg-type]


def drawn(engine: HfEngine, sampling: Sampling) -> dict[tuple[str, int], Completion]:
    found = {(id, c.index): replace(c, seconds=0.0) for b in engine.sample(REQUESTS, sampling) for id, c in b}
    assert len(found) == 3 * len(REQUESTS)
    return found


def same(one: dict[tuple[str, int], Completion], other: dict[tuple[str, int], Completion]) -> None:
    assert {k: (c.text, c.completion_tokens, c.finish) for k, c in one.items()} == {
        k: (c.text, c.completion_tokens, c.finish) for k, c in other.items()
    }
    for key, completion in one.items():
        assert completion.logprob == pytest.approx(other[key].logprob, abs=1e-4)


# --- the sum ----------------------------------------------------------------------------------------


def test_the_worked_number() -> None:
    """METHODS.md: [2,1,0] + [1,3,0] − [1,1,0] → softmax (.2595, .7054, .0351)."""
    base, expert, anti = (torch.tensor([row]) for row in ([2.0, 1, 0], [1.0, 3, 0], [1.0, 1, 0]))
    shares = shares_of("b", "e", "a", 1.0)
    found = summed([base, expert, anti], list(shares.values())).softmax(-1)
    assert found[0].tolist() == pytest.approx([0.2595, 0.7054, 0.0351], abs=5e-5)
    alone = summed([base, expert, anti], list(shares_of("b", "e", "a", 0.0).values()))
    assert torch.equal(alone, base)
    assert shares_of("b", "e", "b", 1.0) == {"b": 0.0, "e": 1.0}
    assert torch.equal(summed([base, expert], [0.0, 1.0]), expert)


@given(
    st.sampled_from("abc"), st.sampled_from("abc"), st.sampled_from("abc"), st.floats(-5, 5), st.integers(0, 99)
)
def test_shares_are_those_of_the_formula(base: str, expert: str, anti: str, alpha: float, seed: int) -> None:
    torch.manual_seed(seed)
    logits = dict(zip("abc", torch.randn(3, 2, 7), strict=True))
    shares = shares_of(base, expert, anti, alpha)
    assert next(iter(shares)) == base
    assert math.fsum(shares.values()) == pytest.approx(1.0)
    found = summed([logits[key] for key in shares], list(shares.values()))
    assert torch.allclose(found, logits[base] + alpha * (logits[expert] - logits[anti]), atol=1e-4)


def test_it_is_summed_in_float32_and_before_temperature_and_top_p() -> None:
    base, expert, anti = (torch.tensor([row], dtype=torch.bfloat16) for row in ([8, 7, 0], [1, 4, 0], [1, 1.0, 0]))
    found = summed([base, expert, anti], [1.0, 1.0, -1.0])
    assert found.dtype == torch.float32
    sampling = Sampling(temperature=0.5, top_p=0.6, max_tokens=1)
    # The base alone would cut all but token 0 off; steered, token 1 is all that is left.
    assert all(draw(base.float(), torch.tensor([u]), sampling)[0].item() == 0 for u in (0.0, 0.999))
    assert all(draw(found, torch.tensor([u]), sampling)[0].item() == 1 for u in (0.0, 0.999))


# --- the engine -------------------------------------------------------------------------------------


@pytest.mark.parametrize("sampling", [GREEDY, WARM], ids=["greedy", "sampled"])
def test_with_base_for_antiexpert_it_is_the_expert_token_for_token(models: Make, sampling: Sampling) -> None:
    base, expert = models(0), models(1)
    expected = drawn(opened(expert), sampling)
    found = drawn(opened(steer(base, expert, base, 1.0)), sampling)
    assert found == expected
    assert found != drawn(opened(base), sampling)
    assert any(c.finish is Finish.STOP for c in found.values()) or len(found) > 0


@pytest.mark.parametrize("sampling", [GREEDY, WARM], ids=["greedy", "sampled"])
def test_a_lora_on_the_same_weights_is_the_lora_token_for_token(
    models: Make, lora: Make, sampling: Sampling
) -> None:
    base = models(0)
    expert = lora(base)
    engine = opened(steer(base, expert, base, 1.0))
    assert drawn(engine, sampling) == drawn(opened(expert), sampling)
    same(drawn(opened(steer(base, expert, base, 0.0)), sampling), drawn(opened(base), sampling))
    # One copy of the weights, two passes.
    assert engine.passes == 2
    alone = opened(expert)
    assert engine.parameters_held == sum(weight.numel() for weight in alone.weights.parameters())


@pytest.mark.parametrize(
    ("settings", "shared"),
    [
        ({"use_dora": True}, True),
        ({"use_rslora": True, "init_lora_weights": "gaussian"}, True),
        ({"modules_to_save": ["norm"]}, True),
        ({"init_lora_weights": "pissa"}, False),  # loading it takes a part of the base's weights away
        ({"init_lora_weights": "olora"}, False),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else "",
)
def test_an_adapter_that_changes_the_base_has_weights_of_its_own(
    models: Make, lora: Make, settings: dict[str, Any], shared: bool
) -> None:
    base = models(0)
    expert = lora(base, **settings)
    alone = opened(expert)
    engine = opened(steer(base, expert, base, 1.0))
    assert drawn(engine, WARM) == drawn(alone, WARM)
    assert drawn(engine, WARM) != drawn(opened(base), WARM)
    same(drawn(engine.at(0.0), WARM), drawn(opened(base), WARM))
    held = sum(weight.numel() for weight in alone.weights.parameters())
    assert (engine.parameters_held == held) == shared


@pytest.mark.parametrize(
    ("config", "shared"),
    [
        ({}, True),
        ({"init_lora_weights": False}, True),
        ({"bias": "lora_only"}, False),
        ({"init_lora_weights": "pissa_niter_4"}, False),
        ({"init_lora_weights": "loftq"}, False),
        ({"layer_replication": [[0, 2], [0, 2]]}, False),
        ({"kasa_config": {"beta": 1e-4}}, False),
        ({"peft_type": "IA3"}, False),
    ],
)
def test_only_what_can_be_switched_off_is_shared(tmp_path: Path, config: dict[str, Any], shared: bool) -> None:
    (tmp_path / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", **config}))
    (tmp_path / "adapter_model.safetensors").touch()
    assert _can_share(Model("base", adapter=str(tmp_path))) == shared
    assert not _can_share(Model("base"))


@pytest.mark.parametrize("alpha", [-0.5, 0.7, 2.0])
def test_scores_are_the_sum_wherever_the_adapters_sit(models: Make, lora: Make, alpha: float) -> None:
    """Every way of sharing weights, against each part alone."""
    base, small = models(0), models(1)
    one, two, houlsby = lora(base, 1), lora(base, 2), _with_bottlenecks(base)
    text = " It is positive."
    for parts in (
        (one, two, base),
        (base, one, two),
        (two, small, one),
        (base, houlsby, base),
        (houlsby, one, base),
    ):
        engine = opened(steer(*parts, alpha))
        for _ in range(2):  # the second time the switches stand where the first left them
            [[(_, found)]] = engine.logprobs(REQUESTS[1:2], [[text]])
        prompt, own, _ = engine.encoder.encode_pair(REQUESTS[1], text)
        ids, total = list(prompt), 0.0
        alone = [opened(part).weights for part in parts]
        for token in own:
            b, e, a = (_alone(weights, ids) for weights in alone)
            total += float((b + alpha * (e - a)).log_softmax(-1)[token])
            ids.append(token)
        assert found.logprob == pytest.approx(total, abs=2e-3)


def _with_bottlenecks(model: Model) -> Model:
    weights = load_base(model, "float32", "cpu")
    add_bottlenecks(weights, 4)
    torch.manual_seed(5)
    for weight in own_parameters(weights).values():
        weight.data.normal_(std=0.3)
    folder = Path(model.base).parent / f"{Path(model.base).name}-bottlenecks"
    save_adapter(weights, model, folder)
    return replace(model, adapter=str(folder))


@pytest.mark.parametrize("sampling", [GREEDY, WARM], ids=["greedy", "sampled"])
def test_with_alpha_0_it_is_the_base(models: Make, sampling: Sampling) -> None:
    base = models(0)
    assert drawn(opened(steer(base, models(1), models(2), 0.0)), sampling) == drawn(opened(base), sampling)


def test_three_models_are_those_of_transformers_alone(models: Make) -> None:
    """Each token is the likeliest of s_base + α(s_expert − s_anti), computed anew without a cache."""
    parts = [models(seed) for seed in (0, 1, 2)]
    engine = opened(steer(*parts, 0.7))
    assert engine.passes == 3
    references = [opened(part).weights for part in parts]
    for (id, _), completion in drawn(engine, GREEDY).items():
        request = next(r for r in REQUESTS if r.id == id)
        ids = engine.encoder.encode(request)
        total = 0.0
        tokens = []
        for _ in range(completion.completion_tokens):
            b, e, a = (_alone(w, ids) for w in references)
            logits = b + 0.7 * (e - a)
            tokens.append(int(logits.argmax()))
            total += float(logits.log_softmax(-1).max())
            ids = [*ids, tokens[-1]]
        assert engine.encoder.decode(tokens) == completion.text
        assert completion.logprob == pytest.approx(total, abs=1e-3)


def _alone(weights: Any, ids: list[int]) -> torch.Tensor:
    width = len(ids)
    mask = torch.ones(1, 1, width, width, dtype=torch.bool).tril()
    with torch.inference_mode():
        found: torch.Tensor = weights(input_ids=torch.tensor([ids]), attention_mask=mask).logits[0, -1]
    return found


def test_a_batch_is_its_rows_one_by_one(models: Make) -> None:
    model = steer(models(0), models(1), models(2), 1.5)
    same(drawn(opened(model), WARM), drawn(opened(model, max_rows=1), WARM))


@pytest.mark.parametrize("fresh", [False, True], ids=["one pass", "cached prefix"])
def test_scores_are_of_the_proxied_distribution(
    models: Make, fresh: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    from workbench.engines import hf_scores

    if fresh:  # a batch a question, behind a prefix that all share
        monkeypatch.setattr(hf_scores, "questions_that_fit", lambda questions, cached=0: 1)
    parts = [models(seed) for seed in (0, 1, 2)]
    engine = opened(steer(*parts, 0.7))
    references = [opened(part).weights for part in parts]
    texts = [" It is positive.", " no"]
    found = {(i, c.index): c for b in engine.logprobs(REQUESTS, [texts] * len(REQUESTS)) for i, c in b}
    scores = dict(p for b in engine.token_logprobs(REQUESTS, [texts[0]] * len(REQUESTS), top=3) for p in b)
    for request in REQUESTS:
        for index, text in enumerate(texts):
            prompt, own, _ = engine.encoder.encode_pair(request, text)
            ids, told = list(prompt), []
            for token in own:
                b, e, a = (_alone(w, ids) for w in references)
                likely = (b + 0.7 * (e - a)).log_softmax(-1)
                told.append(float(likely[token]))
                ids.append(token)
            assert found[request.id, index].logprob == pytest.approx(math.fsum(told), abs=1e-3)
            if index == 0:
                assert [t.logprob for t in scores[request.id].tokens] == pytest.approx(told, abs=1e-3)
                assert scores[request.id].tokens[-1].top[0][1] == pytest.approx(float(likely.max()), abs=1e-3)


def test_a_stream_is_the_sample(models: Make) -> None:
    engine = opened(steer(models(0), models(1), models(2), 1.0))
    request = replace(REQUESTS[1], indices=(2,))
    *pieces, last = engine.stream(request, WARM)
    assert "".join(pieces) == last.text == drawn(engine, WARM)[request.id, 2].text


def test_the_expert_and_the_antiexpert_may_be_adapters_of_one_model(models: Make, lora: Make) -> None:
    base, small = models(0), models(1)
    expert, anti = lora(small, 1), lora(small, 2)
    for parts in ((base, expert, small), (base, expert, anti), (expert, anti, base), (expert, small, base)):
        shared = drawn(opened(steer(*parts, 1.0)), GREEDY)
        merged = [opened(part) for part in parts]
        ids = merged[0].encoder.encode(REQUESTS[0])
        b, e, a = (_alone(engine.weights, ids) for engine in merged)
        first = merged[0].encoder.decode([int((b + e - a).argmax())])
        assert shared[REQUESTS[0].id, 0].text.startswith(first)


def test_equal_adapters_are_one_model_wherever_they_lie(models: Make, lora: Make, tmp_path: Path) -> None:
    import shutil

    expert = lora(models(0))
    copy = replace(expert, adapter=str(shutil.copytree(str(expert.adapter), tmp_path / "copy")))
    assert opened(steer(models(0), expert, copy, 1.0)).passes == 2


def test_a_quantised_base_is_steered_like_any_other(models: Make) -> None:
    pytest.importorskip("bitsandbytes")
    base = replace(models(0), quantization="nf4")
    expert = models(1)
    assert drawn(opened(steer(base, expert, base, 1.0)), GREEDY) == drawn(opened(expert), GREEDY)


def test_an_answer_ends_where_the_base_or_the_expert_ends_it(models: Make) -> None:
    base, expert = models(0), models(1)
    config = Path(expert.base) / "generation_config.json"
    config.write_text('{"eos_token_id": [2, 7]}')
    assert opened(steer(base, expert, base, 1.0))._ends == {2, 7}
    assert opened(steer(base, base, expert, 1.0))._ends == {2}


def test_a_base_without_a_chat_template_reads_the_experts(models: Make) -> None:
    request = Request("x", (Message("user", "What is 2 + 3?"),))
    base, expert = models(0, chat=False), models(1)
    engine = opened(steer(base, expert, base, 1.0))
    assert engine.encoder.encode(request) == opened(expert).encoder.encode(request)
    with pytest.raises(UserError, match="no chat template"):
        opened(steer(base, base, base, 1.0)).encoder.encode(request)


def test_a_chat_template_with_tokens_that_the_base_has_not_is_left_alone(models: Make) -> None:
    """Its prompts would hold ids that the base has no embedding for."""
    base, expert = models(0, chat=False), models(1, tokens=["<|turn|>"])
    config = Path(expert.base) / "chat_template.jinja"
    config.write_text("<|turn|>{{ messages[0]['content'] }}<|turn|>")
    request = Request("x", (Message("user", "What is 2 + 3?"),))
    assert max(opened(expert).encoder.encode(request)) >= opened(base).weights.config.vocab_size
    engine = opened(steer(base, expert, base, 1.0))
    with pytest.raises(UserError, match="no chat template"):
        list(engine.sample([request], GREEDY))
    drawn(engine, GREEDY)  # plain text it goes on with


def test_the_context_is_the_shortest(models: Make) -> None:
    short = models(1)
    config = Path(short.base) / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"max_position_embeddings": 64}))
    assert opened(steer(models(0), models(2), short, 1.0)).context == 64


def test_vectors_are_the_bases(models: Make, lora: Make) -> None:
    base = models(0)
    engine = opened(steer(base, lora(base), base, 1.0))
    list(engine.sample(REQUESTS, GREEDY))  # the last pass was with the adapter
    assert (engine.embed(QUESTIONS) == opened(base).embed(QUESTIONS)).all()


def test_cost_is_that_of_every_pass(models: Make, lora: Make) -> None:
    base = models(0)
    tuned = lora(base)
    alone, expert, both = (opened(model).shape for model in (base, tuned, steer(base, tuned, base, 1.0)))
    for prompt, said in ((10.0, 5.0), (100.0, 0.0)):
        parts = inference_flops(alone, prompt, said, 4) + inference_flops(expert, prompt, said, 4)
        assert inference_flops(both, prompt, said, 4) == pytest.approx(parts)
    assert kv_cache_bytes(both, 7) == 2 * kv_cache_bytes(alone, 7)


@given(st.lists(st.tuples(*(st.integers(1, 50) for _ in range(6))), min_size=1, max_size=3))
def test_together_is_the_sum_of_costs(sizes: list[tuple[int, ...]]) -> None:
    shapes = [ModelShape(*size) for size in sizes]
    one = together(shapes)
    assert inference_flops(one, 12, 7, 3) == pytest.approx(sum(inference_flops(s, 12, 7, 3) for s in shapes))
    assert kv_cache_bytes(one, 9) == sum(kv_cache_bytes(s, 9) for s in shapes)


# --- the vocabulary ---------------------------------------------------------------------------------


@pytest.mark.parametrize("more", [{"padding": 40}, {"tokens": ["<|extra|>", "<|more|>"]}], ids=["rows", "tokens"])
def test_rows_behind_the_shared_ones_are_never_drawn(models: Make, more: dict[str, Any]) -> None:
    """With logits of 1,000 for them in every model that has them."""
    base, expert = models(0), models(1, **more)
    rows = 500
    engine = opened(steer(base, expert, base, 1.0))
    assert engine.weights.rows <= rows
    weights = engine.weights.passes[1].weights
    plain = weights.forward

    def loud(*args: Any, **given: Any) -> Any:
        out = plain(*args, **given)
        out.logits[..., engine.weights.rows :] = 1000.0
        return out

    weights.forward = loud
    found = drawn(engine, WARM)
    assert all(c.logprob is not None and math.isfinite(c.logprob) and c.logprob < 0 for c in found.values())
    row = next(pair for b in engine.token_logprobs(REQUESTS[:1], [" no"], top=20) for pair in b)[1].tokens[0]
    assert max(id for id, _ in row.top) < engine.weights.rows


def test_shared_rows() -> None:
    base = ({"a": 0, "b": 1}, 4)
    assert shared_rows({"base": base, "expert": base}) == 4  # padding that all have stays
    assert shared_rows({"base": base, "expert": ({"a": 0, "b": 1}, 3)}) == 3
    assert shared_rows({"base": base, "expert": ({"a": 0, "b": 1, "c": 2}, 8)}) == 2  # the base has no text for c
    with pytest.raises(UserError, match="token 'b' has the id 1; in the expert it has no such token"):
        shared_rows({"base": base, "expert": ({"a": 0, "c": 1}, 4)})
    with pytest.raises(UserError, match="token 'a' has the id 0; in the antiexpert its id there is 1"):
        shared_rows({"base": base, "expert": base, "antiexpert": ({"b": 0, "a": 1}, 4)})
    with pytest.raises(UserError, match="share 1 rows"):
        shared_rows({"base": ({"a": 0, "b": 2}, 4), "expert": ({"a": 0, "x": 1, "b": 2}, 4)})


def test_another_vocabulary_is_refused_by_its_first_difference(models: Make) -> None:
    base, other = models(0), models(1)
    tokenizer = Path(other.base) / "tokenizer.json"
    tokenizer.write_text(tokenizer.read_text().replace("<|im_end|>", "<|eot|>"))
    with pytest.raises(UserError, match=r"expert has another vocabulary than the base: .*im_end.*the id 2"):
        opened(steer(base, other, base, 1.0))


# --- what is refused --------------------------------------------------------------------------------


def test_a_model_that_cannot_be_read_is_named(models: Make) -> None:
    expert = models(1)
    config = Path(expert.base) / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"model_type": "nonsense"}))
    with pytest.raises(UserError, match=f"{expert.base}' cannot be loaded"):
        opened(steer(models(0), expert, models(0), 1.0))


def test_soft_prompts_and_heads_are_refused_by_name(models: Make, tmp_path: Path) -> None:
    base = models(0)
    soft = replace(base, adapter=str(save_soft(tmp_path / "soft", torch.randn(3, 32), num_layers=2)))
    with pytest.raises(UserError, match=r"The expert has the adapter .*soft', a soft prompt"):
        opened(steer(base, soft, base, 1.0))
    with pytest.raises(UserError, match="The base has the adapter"):
        opened(steer(soft, models(1), models(2), 1.0))


@pytest.mark.parametrize(
    ("expert", "told"),
    [
        (Model("no/such/folder"), "There is no model 'no/such/folder'"),
        (Model("smollm2-135m-instruct", adapter="nowhere"), "There is no folder 'nowhere'"),
    ],
)
def test_what_is_not_there_is_named(models: Make, expert: Model, told: str) -> None:
    with pytest.raises(UserError, match=told):
        opened(steer(models(0), expert, models(0), 1.0))


@pytest.mark.parametrize("engine", ["vllm", "fake"])
def test_other_engines_refuse_it(engine: Any) -> None:
    model = steer(Model("fake"), Model("fake"), Model("fake"), 1.0)
    with pytest.raises(UserError, match=f"--engine {engine}"):
        open_engine(model, EngineConfig(engine=engine, endpoint=("http://127.0.0.1:9",)))


def test_the_hf_engine_opens_it(models: Make) -> None:
    model = steer(models(0), models(1), models(0), 1.0)
    engine = open_engine(model, EngineConfig(device="cpu", dtype="float32"))
    assert isinstance(engine, ProxyEngine)
    assert engine.version.endswith(" proxy")
    engine.close()
    assert Greedy().sampling().temperature == 0


def test_self_certainty_is_of_the_proxied_distribution(models: Make) -> None:
    base, expert = models(0), models(1)
    told = [
        {
            id: c.logprob
            for batch in opened(model).self_certainty(REQUESTS[:2], [" no way."] * 2)
            for id, c in batch
        }
        for model in (steer(base, expert, base, 1.0), expert, base)
    ]
    assert told[0] == pytest.approx(told[1], abs=1e-4)
    assert told[0] != pytest.approx(told[2], abs=1e-2)
