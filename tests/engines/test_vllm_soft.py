"""Soft prompts with the vllm engine: what is sent to the stub server, what is read, what is refused."""

import base64
import io
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from soft_adapter import save_adapter
from stub_server import StubServer, edited, garbage, status

from workbench.decodes import Sampling
from workbench.engines.base import sample_seed
from workbench.engines.encode import Encoder
from workbench.engines.next_token import MAX_IDS, MAX_PROMPTS, parts
from workbench.engines.soft_client import read_embeddings
from workbench.engines.vllm import VllmEngine
from workbench.errors import UserError
from workbench.models import load_tokenizer
from workbench.types import Completion, Finish, Message, Model, Request

SOFT = torch.arange(3 * 32, dtype=torch.float32).reshape(3, 32) / 100
SAMPLING = Sampling(temperature=0.7, top_p=0.9, top_k=40, max_tokens=12, stop=("\n",), seed=3)
# What vLLM 0.32 says where it was started without the flag.
REFUSAL = status(400, "You must set `--enable-prompt-embeds` to input `prompt_embeds`. (parameter=prompt_embeds)")


@pytest.fixture
def model(tiny_model: Path, tmp_path: Path) -> Model:
    return Model(str(tiny_model), adapter=str(save_adapter(tmp_path / "soft", SOFT)))


@pytest.fixture
def server(tiny_model: Path) -> Iterator[StubServer]:
    stub = StubServer(names=(str(tiny_model),))
    yield stub
    stub.die()


def engine_for(model: Model, server: StubServer) -> VllmEngine:
    return VllmEngine(model, [server.url], backoff=0.01, retries=1, timeout=5.0)


def ask(text: str = "What is 12 plus 7?", indices: tuple[int, ...] = (0,), style: str = "chat") -> Request:
    return Request("q", (Message("user", text),), indices, style)


def drawn(engine: VllmEngine, request: Request) -> list[Completion]:
    found = [completion for batch in engine.sample([request], SAMPLING) for _, completion in batch]
    return sorted(found, key=lambda completion: completion.index)


def scored(engine: VllmEngine, request: Request, texts: list[str]) -> list[Completion]:
    [batch] = engine.logprobs([request], [texts])
    return [completion for _, completion in batch]


def sent(embeds: str) -> torch.Tensor:
    found = torch.load(io.BytesIO(base64.b64decode(embeds, validate=True)), weights_only=True)
    assert isinstance(found, torch.Tensor)
    return found


def test_is_soft_prompts_as_PEFT_saves_them(tiny_model: Path, tmp_path: Path, server: StubServer) -> None:
    from peft import PromptTuningConfig, TaskType, get_peft_model
    from transformers import AutoModelForCausalLM

    base = AutoModelForCausalLM.from_pretrained(tiny_model)
    adapted = get_peft_model(base, PromptTuningConfig(task_type=TaskType.CAUSAL_LM, num_virtual_tokens=4))
    adapted.save_pretrained(tmp_path)
    drawn(engine_for(Model(str(tiny_model), adapter=str(tmp_path)), server), ask(text="x", style="text"))
    learned = adapted.get_prompt(batch_size=1)[0].detach()
    torch.testing.assert_close(sent(server.bodies[0]["prompt_embeds"])[:4], learned, rtol=0, atol=0)


# --- what is asked and what comes back --------------------------------------------------------------


@pytest.mark.parametrize("style", ["chat", "text"])
def test_the_virtual_tokens_and_those_of_the_prompt_are_sent(model: Model, server: StubServer, style: str) -> None:
    request = Request("q", (Message("user", "2 + 2?"), Message("assistant", "It is")), style=style)
    [completion] = drawn(engine_for(model, server), request)
    [(_, path, body)] = server.calls
    ids = Encoder(load_tokenizer(model)).encode(request)
    table = load_file(Path(model.base) / "model.safetensors")["model.embed_tokens.weight"]
    torch.testing.assert_close(sent(body["prompt_embeds"]), torch.cat([SOFT, table[ids]]), rtol=0, atol=0)
    wanted = {"temperature": 0.7, "top_p": 0.9, "top_k": 40, "max_tokens": 12, "stop": ["\n"], "logprobs": 0}
    assert {name: body[name] for name in wanted} == wanted
    assert (path, body["model"], "prompt" in body) == ("/v1/completions", model.base, False)
    assert completion.text == f"seed {sample_seed(3, 'q', 0)}"
    assert (completion.finish, completion.prompt_tokens) == (Finish.STOP, 11)
    assert completion.logprob == pytest.approx(-0.5 * len(completion.text))


def test_samples_have_disjoint_seeds(model: Model, server: StubServer) -> None:
    completions = drawn(engine_for(model, server), ask(indices=tuple(range(40))))
    assert [c.text for c in completions] == [f"seed {sample_seed(3, 'q', i)}" for i in range(40)]
    assert sorted(body["n"] for body in server.bodies) == [8, 32]


def test_text_that_looks_like_control_tokens_is_sent_as_text(model: Model, server: StubServer) -> None:
    [completion] = drawn(engine_for(model, server), ask("<|im_end|>"))
    assert completion.finish is Finish.STOP
    ids = Encoder(load_tokenizer(model)).encode(ask("<|im_end|>"))
    assert len(sent(server.bodies[0]["prompt_embeds"])) == 3 + len(ids)
    assert ids.count(2) == 2, "the template's own, not the question's"


def test_the_virtual_tokens_have_the_dtype_of_the_base(model: Model, tmp_path: Path, server: StubServer) -> None:
    base = tmp_path / "base"
    shutil.copytree(model.base, base)
    weights = load_file(base / "model.safetensors")
    save_file({name: w.bfloat16() for name, w in weights.items()}, base / "model.safetensors")
    server.names = (str(base),)
    drawn(engine_for(Model(str(base), adapter=model.adapter), server), ask())
    embeddings = sent(server.bodies[0]["prompt_embeds"])
    assert embeddings.dtype is torch.bfloat16
    assert torch.equal(embeddings[:3], SOFT.bfloat16())


def test_tokens_are_counted_here_and_the_virtual_ones_taken_off_the_context(
    model: Model, server: StubServer
) -> None:
    engine = engine_for(model, server)
    requests = [ask(), ask("x", style="text")]
    encoder = Encoder(load_tokenizer(model))
    assert engine.count_tokens(requests) == [len(encoder.encode(request)) for request in requests]
    assert server.calls == []
    assert engine.context == 2048 - 3
    assert engine.version == engine_for(Model(model.base), server).version


def test_a_lora_adapter_is_served_under_its_own_name(model: Model, server: StubServer) -> None:
    assert model.adapter is not None
    Path(model.adapter, "adapter_config.json").write_text('{"peft_type": "LORA"}')
    server.names = (model.base, "soft")
    engine = engine_for(model, server)
    assert engine.version.endswith("/models/soft")
    drawn(engine, ask())
    assert server.calls[0][1] == "/v1/chat/completions"


# --- scores -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("style", ["chat", "text"])
def test_each_token_is_asked_for_behind_those_before_it(model: Model, server: StubServer, style: str) -> None:
    texts = [" positive", " positively", " neutral"]
    completions = scored(engine_for(model, server), ask("12 plus 7", style=style), texts)
    encoder = Encoder(load_tokenizer(model))
    pairs = [encoder.encode_pair(ask("12 plus 7", style=style), text)[:2] for text in texts]
    assert [(c.index, c.text, c.finish) for c in completions] == [
        (i, text, Finish.SCORED) for i, text in enumerate(texts)
    ]
    for completion, (prompt, own) in zip(completions, pairs, strict=True):
        assert completion.logprob == pytest.approx(sum(-0.5 * (token % 7) for token in own))
        assert (completion.prompt_tokens, completion.completion_tokens) == (3 + len(prompt), len(own))
        assert completion.seconds > 0
    [body] = server.bodies
    befores = {tuple(prompt + own[:i]) for prompt, own in pairs for i in range(len(own))}
    assert len(befores) < sum(len(own) for _, own in pairs), "what is shared is sent once"
    table = read_embeddings(Path(model.base))
    expected = {torch.cat([SOFT, table[list(before)]]).numpy().tobytes() for before in befores}
    assert {sent(embeds).numpy().tobytes() for embeds in body["prompt_embeds"]} == expected
    assert len(body["prompt_embeds"]) == len(befores)
    assert body["logprob_token_ids"] == sorted({token for _, own in pairs for token in own})
    wanted = {"model": model.base, "max_tokens": 1, "temperature": 0, "return_tokens_as_token_ids": True}
    assert {name: body[name] for name in wanted} == wanted


def test_a_long_continuation_takes_several_requests(model: Model, server: StubServer) -> None:
    text = " the answer is 19, and the answer is 37." * 5
    [completion] = scored(engine_for(model, server), ask(), [text])
    own = Encoder(load_tokenizer(model)).encode_pair(ask(), text)[1]
    assert len(own) > MAX_PROMPTS
    assert len(server.calls) == -(-len(own) // MAX_PROMPTS)
    assert completion.logprob == pytest.approx(sum(-0.5 * (token % 7) for token in own))


before_and_after = st.dictionaries(
    st.tuples(st.integers(0, 9), st.integers(0, 9)),
    st.sets(st.integers(0, 400), min_size=1, max_size=300),
    max_size=60,
)


@given(before_and_after)
def test_the_parts_hold_everything_once_and_are_small(wanted: dict[tuple[int, ...], set[int]]) -> None:
    asked = []
    for befores, ids in parts(wanted):
        assert 0 < len(befores) <= MAX_PROMPTS and 0 < len(ids) <= MAX_IDS
        assert len(set(befores)) == len(befores)
        asked += [(before, token) for before in befores for token in ids if token in wanted[before]]
    assert set(asked) == {(before, token) for before, tokens in wanted.items() for token in tokens}


@pytest.mark.parametrize(
    "fault",
    [
        garbage({"choices": []}),
        edited(lambda answer: answer["choices"].pop()),
        edited(lambda answer: answer["choices"][0]["logprobs"]["top_logprobs"][0].popitem()),
        edited(lambda answer: answer["choices"][0].update(logprobs=None)),
        edited(lambda answer: answer["choices"][0]["logprobs"]["top_logprobs"][0].update({"token_id:90": None})),
        edited(
            lambda answer: [
                told.update(dict.fromkeys(told, float("nan")))
                for told in answer["choices"][0]["logprobs"]["top_logprobs"]
            ]
        ),
        status(400, "too long"),
    ],
)
def test_a_score_that_is_missing_makes_all_labels_errors(model: Model, server: StubServer, fault: Any) -> None:
    token_90 = load_tokenizer(model).decode([90])
    server.faults = [fault]
    completions = scored(engine_for(model, server), ask(), [token_90, token_90 + token_90 + "?"])
    assert [(c.index, c.finish) for c in completions] == [(0, Finish.ERROR), (1, Finish.ERROR)]


# --- what is refused --------------------------------------------------------------------------------


def test_a_server_without_the_flag(model: Model, server: StubServer) -> None:
    server.always = REFUSAL
    engine = engine_for(model, server)
    for attempt in (lambda: drawn(engine, ask()), lambda: scored(engine, ask(), ["a"])):
        with pytest.raises(UserError, match="Start it with --enable-prompt-embeds, for users whom you trust only"):
            attempt()
    server.always = status(400, "something else")
    assert drawn(engine, ask())[0].finish is Finish.ERROR


def test_a_continuation_without_tokens_and_a_base_without_a_chat_template(
    model: Model, tiny_base_model: Path, server: StubServer
) -> None:
    with pytest.raises(UserError, match="no tokens"):
        scored(engine_for(model, server), ask(), [""])
    engine = engine_for(Model(str(tiny_base_model), adapter=model.adapter), server)
    with pytest.raises(UserError, match="no chat template"):
        drawn(engine, ask())
    assert server.calls == []


@pytest.mark.parametrize("kind", ["PREFIX_TUNING", "P_TUNING", "MULTITASK_PROMPT_TUNING", "CPT"])
def test_virtual_tokens_that_are_no_embeddings(tiny_model: Path, tmp_path: Path, kind: str) -> None:
    adapter = save_adapter(tmp_path, SOFT, peft_type=kind)
    with pytest.raises(UserError, match=f"kind {kind}.*PROMPT_TUNING. Use the engine hf"):
        VllmEngine(Model(str(tiny_model), adapter=str(adapter)), ["http://127.0.0.1:1"])


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({"token_dim": 576}, r"width 576 \(token_dim\), the base '.*tiny' embeddings of width 32"),
        ({"num_virtual_tokens": 4}, r"shape \[3, 32\], but its adapter_config.json says \[4, 32\]"),
    ],
)
def test_an_adapter_that_does_not_fit(
    tiny_model: Path, tmp_path: Path, config: dict[str, int], words: str
) -> None:
    adapter = save_adapter(tmp_path, SOFT, **config)
    with pytest.raises(UserError, match=words):
        VllmEngine(Model(str(tiny_model), adapter=str(adapter)), ["http://127.0.0.1:1"])


def test_an_adapter_without_its_tensor(model: Model) -> None:
    path = Path(model.adapter or "", "adapter_model.safetensors")
    save_file({"prompt": SOFT}, path)
    for write in (lambda: None, lambda: path.write_bytes(b"rubbish")):
        write()
        with pytest.raises(UserError, match="no tensor prompt_embeddings that can be read"):
            VllmEngine(model, ["http://127.0.0.1:1"])
    path.unlink()
    with pytest.raises(UserError, match=r"has no adapter_model\.safetensors"):
        VllmEngine(model, ["http://127.0.0.1:1"])


# --- the base's embeddings --------------------------------------------------------------------------


def test_embeddings_are_found_in_whichever_file_they_are(tiny_model: Path, tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM

    weights = AutoModelForCausalLM.from_pretrained(tiny_model)
    weights.save_pretrained(tmp_path, max_shard_size="20KB")
    assert len(list(tmp_path.glob("*.safetensors"))) > 2
    assert torch.equal(read_embeddings(tmp_path), weights.get_input_embeddings().weight)


def test_embeddings_are_found_under_the_names_of_other_families(tmp_path: Path) -> None:
    from transformers import GPT2Config, GPT2LMHeadModel

    weights = GPT2LMHeadModel(GPT2Config(vocab_size=50, n_embd=8, n_layer=1, n_head=2))
    weights.save_pretrained(tmp_path / "whole")
    assert torch.equal(read_embeddings(tmp_path / "whole"), weights.transformer.wte.weight)
    weights.transformer.save_pretrained(tmp_path / "part")  # as the first GPT-2 files are: wte.weight
    assert "wte.weight" in load_file(tmp_path / "part/model.safetensors")
    assert torch.equal(read_embeddings(tmp_path / "part"), weights.transformer.wte.weight)


def test_embeddings_that_cannot_be_taken(tiny_model: Path, tmp_path: Path) -> None:
    from transformers import Gemma2Config, Gemma2ForCausalLM

    config = Gemma2Config(
        vocab_size=50, hidden_size=8, num_hidden_layers=1, num_attention_heads=2, num_key_value_heads=1,
        intermediate_size=8, head_dim=4,
    )  # fmt: skip
    Gemma2ForCausalLM(config).save_pretrained(tmp_path / "gemma")
    with pytest.raises(UserError, match="are Gemma2TextScaledWordEmbedding: more than a table"):
        read_embeddings(tmp_path / "gemma")

    folder = tmp_path / "tiny"
    shutil.copytree(tiny_model, folder)
    weights = load_file(folder / "model.safetensors")
    table = weights.pop("model.embed_tokens.weight")
    for odd in ({}, {"model.embed_tokens.weight": table.to(torch.int8)}, {"embed_tokens.weight": table[:, :16]}):
        save_file({**weights, **{k: w.contiguous() for k, w in odd.items()}}, folder / "model.safetensors")
        with pytest.raises(UserError, match=r"in none of its safetensors as model\.embed_tokens\.weight or"):
            read_embeddings(folder)
    (folder / "model.safetensors").write_bytes(b"rubbish")
    with pytest.raises(UserError, match="cannot be read"):
        read_embeddings(folder)
    (folder / "config.json").write_text('{"model_type": "no-such-model"}')
    with pytest.raises(UserError, match="cannot be found"):
        read_embeddings(folder)


def test_a_soft_prompt_of_a_base_with_other_embeddings_is_refused(model: Model, server: StubServer) -> None:
    """The same width is not the same model: adapters that the workbench makes tell their base."""
    table = read_embeddings(Path(model.base))
    told = float(table.reshape(-1)[table.numel() // 2])
    base = Path(str(model.adapter)) / "base.json"
    base.write_text(json.dumps({"input embeddings": told}))
    engine_for(model, server)
    base.write_text(json.dumps({"input embeddings": told + 1}))
    with pytest.raises(UserError, match=r"does not fit the base model.*trained on other weights"):
        engine_for(model, server)


# --- tokens, and pieces -----------------------------------------------------------------------------


@pytest.mark.parametrize("style", ["chat", "text"])
@pytest.mark.parametrize("top", [0, 3])
def test_tokens_behind_virtual_tokens(model: Model, server: StubServer, style: str, top: int) -> None:
    engine, text = engine_for(model, server), " negative, and so on, " * 5
    [whole] = scored(engine, ask(style=style), [text])
    [[(id, found)]] = engine.token_logprobs([ask(style=style)], [text], top)
    own = Encoder(load_tokenizer(model)).encode_pair(ask(style=style), text)[1]
    assert (id, found.error, [score.token for score in found.tokens]) == ("q", None, own)
    assert len(own) > MAX_PROMPTS
    assert sum(score.logprob for score in found.tokens) == pytest.approx(whole.logprob)
    assert all(score.top == tuple((1000 + k, -0.25 - k) for k in range(top)) for score in found.tokens)
    assert not any("logprob_token_ids" in body for body in server.bodies if body["logprobs"])


def test_tokens_behind_virtual_tokens_that_cannot_be_had(model: Model, server: StubServer) -> None:
    server.faults = [edited(lambda answer: None), garbage({"choices": []})]
    [[(_, found)]] = engine_for(model, server).token_logprobs([ask()], [" a"], 2)
    assert (found.tokens, "lacks log-probabilities" in (found.error or "")) == ((), True)
    server.faults = [REFUSAL]
    with pytest.raises(UserError, match="--enable-prompt-embeds"):
        list(engine_for(model, server).token_logprobs([ask()], [" a"]))


def test_a_stream_behind_virtual_tokens(model: Model, server: StubServer) -> None:
    [whole] = drawn(engine_for(model, server), ask())
    *pieces, last = engine_for(model, server).stream(ask(), SAMPLING)
    assert isinstance(last, Completion)
    assert ("".join(map(str, pieces)), last.text, last.finish) == (whole.text, whole.text, Finish.STOP)
    assert server.bodies[1]["prompt_embeds"] == server.bodies[0]["prompt_embeds"]
    server.faults = [REFUSAL]
    with pytest.raises(UserError, match="--enable-prompt-embeds"):
        list(engine_for(model, server).stream(ask(), SAMPLING))
