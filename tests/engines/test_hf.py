"""The embedded engine: transformers' own answers, whatever shares a batch, and errors that are never answers."""

import math
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from workbench.adapters import load_weights
from workbench.decodes import Sampling
from workbench.engines import forward, hf, hf_scores
from workbench.engines.base import Engine
from workbench.engines.hf import HfEngine
from workbench.errors import UserError
from workbench.types import Completion, Finish, Message, Model, Request

GREEDY = Sampling(temperature=0, max_tokens=24)
PREFIX = "The company said that sales fell in the third quarter. "
QUESTIONS = (
    "You",  # a prompt of one token
    "You are",  # a prompt that begins with another
    "What is 12 plus 7?",
    "Operating profit rose to 13.1 million euros from 8.7 million a year earlier. " * 6,
    "The sentence is positive, negative or neutral.",
    PREFIX + "What is it?",
    PREFIX + "What is it? A café in Zürich sells 3 postcards.",
)


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def engine(tiny_model: Path) -> HfEngine:
    return open_tiny(tiny_model)


@pytest.fixture(scope="module")
def reference(tiny_model: Path) -> Any:
    """The same weights, run by transformers alone."""
    return load_weights(Model(str(tiny_model)), "float32", "cpu")


def open_tiny(folder: Path, **settings: Any) -> HfEngine:
    return HfEngine(Model(str(folder)), dtype="float32", device="cpu", **settings)


def ask(text: str, indices: Sequence[int] = (0,), style: str = "text", name: str | None = None) -> Request:
    return Request(name or f"id of {text}", (Message("user", text),), tuple(indices), style)


def drawn(engine: Engine, requests: Sequence[Request], sampling: Sampling) -> dict[tuple[str, int], Completion]:
    pairs = [pair for batch in engine.sample(requests, sampling) for pair in batch]
    found = {(id, completion.index): completion for id, completion in pairs}
    assert len(found) == len(pairs)
    assert set(found) == {(request.id, index) for request in requests for index in request.indices}
    return found


def texts(completions: dict[tuple[str, int], Completion]) -> dict[tuple[str, int], tuple[str, int, Finish]]:
    return {key: (c.text, c.completion_tokens, c.finish) for key, c in completions.items()}


def generated(reference: Any, engine: HfEngine, request: Request, max_tokens: int) -> list[int]:
    """Greedy tokens by transformers' `generate`."""
    ids = torch.tensor([engine.encoder.encode(request)])
    out = reference.generate(ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=max_tokens)
    return out[0, ids.shape[1] :].tolist()


def teacher_forced(reference: Any, prompt: list[int], continuation: list[int]) -> float:
    with torch.inference_mode():
        logits = reference(input_ids=torch.tensor([prompt + continuation])).logits[0].float()
    scores = logits.log_softmax(-1)
    return float(sum(scores[len(prompt) + i - 1, token] for i, token in enumerate(continuation)))


# --- greedy decoding --------------------------------------------------------------------------------


@pytest.mark.parametrize("style", ["text", "chat"])
@pytest.mark.parametrize("shared", ["", PREFIX], ids=["apart", "shared prefix"])
def test_greedy_is_transformers_greedy(engine: HfEngine, reference: Any, style: str, shared: str) -> None:
    requests = [ask(shared + question, style=style) for question in QUESTIONS]
    found = drawn(engine, requests, GREEDY)
    for request in requests:
        expected = generated(reference, engine, request, GREEDY.max_tokens)
        completion = found[request.id, 0]
        assert completion.text == engine.encoder.decode(expected)
        assert completion.completion_tokens == len(expected)
        assert completion.prompt_tokens == len(engine.encoder.encode(request))


@pytest.mark.parametrize("question", [QUESTIONS[0], QUESTIONS[3]])
def test_one_prompt_alone(engine: HfEngine, reference: Any, question: str) -> None:
    request = ask(question)
    expected = generated(reference, engine, request, GREEDY.max_tokens)
    assert drawn(engine, [request], GREEDY)[request.id, 0].text == engine.encoder.decode(expected)


def test_the_embedded_model_answers_as_in_transformers(embedded_model: Model) -> None:
    engine = HfEngine(embedded_model, dtype="float32", device="cpu")
    requests = [
        ask("What is the capital of France?", style="chat"),
        ask("List three colours, one a line, then say which of them a ripe banana has.", style="chat"),
        ask("The capital of Italy is"),
    ]
    sampling = Sampling(temperature=0, max_tokens=10)
    found = drawn(engine, requests, sampling)
    plain = load_weights(embedded_model, "float32", "cpu")
    for request in requests:
        expected = generated(plain, engine, request, 10)
        assert found[request.id, 0].text == engine.encoder.decode(expected)
    assert "Paris" in found[requests[0].id, 0].text


# --- a sample depends on its question and its index, on nothing else --------------------------------

SAMPLED = Sampling(temperature=0.9, top_p=0.95, max_tokens=40, seed=3)


def test_samples_asked_for_at_once_or_in_parts(engine: HfEngine) -> None:
    whole = drawn(engine, [ask(QUESTIONS[2], range(16))], SAMPLED)
    first = drawn(engine, [ask(QUESTIONS[2], range(8))], SAMPLED)
    rest = drawn(engine, [ask(QUESTIONS[2], range(8, 16))], SAMPLED)
    assert texts(whole) == texts(first) | texts(rest)
    assert len({completion.text for completion in whole.values()}) == 16


def test_samples_do_not_depend_on_their_batch(engine: HfEngine) -> None:
    together = drawn(engine, [ask(question, range(4)) for question in QUESTIONS], SAMPLED)
    for question in QUESTIONS:
        alone = drawn(engine, [ask(question, range(4))], SAMPLED)
        assert texts(alone).items() <= texts(together).items()


@pytest.mark.parametrize(
    ("settings", "room", "mask"),
    [({"max_rows": 3}, 32, 2**25), ({"max_positions": 300}, 1, 2**25), ({}, 2, 5000), ({}, 64, 1)],
    ids=["small batches", "few positions, buffers that grow at every token", "prefill in parts", "row by row"],
)
def test_batches_buffers_and_compaction_change_nothing(
    engine: HfEngine, tiny_model: Path, monkeypatch: pytest.MonkeyPatch, settings: Any, room: int, mask: int
) -> None:
    # Ends that come often, so that rows leave the batch at many steps.
    requests = [ask(question, range(4)) for question in QUESTIONS]
    usual = often_ending(engine, requests)
    monkeypatch.setattr(hf, "_ROOM", room)
    monkeypatch.setattr(forward, "_MASK_ELEMENTS", mask)
    assert often_ending(open_tiny(tiny_model, **settings), requests) == usual
    lengths = {tokens for _, tokens, _ in usual.values()}
    assert len(lengths) > 8, lengths


def often_ending(engine: HfEngine, requests: Sequence[Request]) -> dict[tuple[str, int], tuple[str, int, Finish]]:
    before = engine._ends
    engine._ends = before | set(range(100, 130))
    try:
        return texts(drawn(engine, requests, SAMPLED))
    finally:
        engine._ends = before


def test_a_killed_run_goes_on_to_the_same_completions(tiny_model: Path) -> None:
    engine = open_tiny(tiny_model, max_rows=5)
    requests = [ask(question, range(4)) for question in QUESTIONS]
    whole = drawn(engine, requests, SAMPLED)
    stored: dict[tuple[str, int], Completion] = {}
    while len(stored) < len(whole):  # one batch, then killed, again and again
        missing = [
            Request(r.id, r.messages, tuple(i for i in r.indices if (r.id, i) not in stored), r.style)
            for r in requests
        ]
        batch = next(iter(engine.sample([r for r in missing if r.indices], SAMPLED)))
        stored |= {(id, completion.index): completion for id, completion in batch}
    assert texts(stored) == texts(whole)


def test_equal_prompts_under_two_ids_and_two_prompts_under_one(engine: HfEngine) -> None:
    same = drawn(engine, [ask("You are", range(4), name="a"), ask("You are", range(4), name="b")], SAMPLED)
    assert {same["a", i].text for i in range(4)}.isdisjoint(same["b", i].text for i in range(4))
    pairs = [
        pair
        for batch in engine.sample(
            [ask("You are", [0], name="a"), ask("What is it", [1], name="a")],
            GREEDY,
        )
        for pair in batch
    ]
    found = {completion.index: completion.text for _, completion in pairs}
    assert found[0] == drawn(engine, [ask("You are")], GREEDY)["id of You are", 0].text
    assert found[1] == drawn(engine, [ask("What is it")], GREEDY)["id of What is it", 0].text


# --- how completions end ----------------------------------------------------------------------------


def greedy_tokens(engine: HfEngine, reference: Any) -> tuple[Request, list[int]]:
    request = ask(QUESTIONS[2])
    return request, generated(reference, engine, request, GREEDY.max_tokens)


def test_max_tokens_cuts_off(engine: HfEngine, reference: Any) -> None:
    request, tokens = greedy_tokens(engine, reference)
    for length in (1, 5):
        found = drawn(engine, [request], Sampling(temperature=0, max_tokens=length))[request.id, 0]
        assert (found.text, found.completion_tokens) == (engine.encoder.decode(tokens[:length]), length)
        assert found.finish is Finish.LENGTH


def test_an_end_token_ends(engine: HfEngine, reference: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    request, tokens = greedy_tokens(engine, reference)
    end = tokens[6]
    first = tokens.index(end)
    monkeypatch.setattr(engine, "_ends", {end})
    found = drawn(engine, [request], GREEDY)[request.id, 0]
    assert found.finish is Finish.STOP
    assert found.completion_tokens == first + 1
    assert found.text == engine.encoder.decode(tokens[: first + 1])  # special tokens would be left out


def test_ends_are_those_of_the_generation_config_and_the_tokenizer(tiny_model: Path, tmp_path: Path) -> None:
    import json

    copy = tmp_path / "m"
    shutil.copytree(tiny_model, copy)
    settings = json.loads((copy / "generation_config.json").read_text())
    settings["eos_token_id"] = [7, 9]
    (copy / "generation_config.json").write_text(json.dumps(settings))
    assert open_tiny(copy)._ends == {2, 7, 9}


def test_a_stop_string_ends_and_is_cut_off(engine: HfEngine, reference: Any) -> None:
    request, tokens = greedy_tokens(engine, reference)
    whole = engine.encoder.decode(tokens)
    boundaries = [len(engine.encoder.decode(tokens[:i])) for i in range(len(tokens) + 1)]
    at = boundaries[4] - 1  # begins inside one token, ends inside another
    stop = whole[at : boundaries[6] + 1]
    found = drawn(engine, [request], Sampling(temperature=0, max_tokens=24, stop=("\0never", stop)))[request.id, 0]
    assert found.text == whole[: whole.index(stop)]
    assert found.finish is Finish.STOP
    assert found.completion_tokens <= 8  # and no token is drawn after it


def test_a_stop_string_longer_than_any_window(engine: HfEngine, reference: Any) -> None:
    request = ask(QUESTIONS[2])
    tokens = generated(reference, engine, request, 80)
    whole = engine.encoder.decode(tokens)
    stop = engine.encoder.decode(tokens[2:60])
    assert len(tokens) == 80
    found = drawn(engine, [request], Sampling(temperature=0, max_tokens=80, stop=(stop,)))[request.id, 0]
    assert found.text == whole[: whole.index(stop)]
    assert (found.finish, found.completion_tokens) == (Finish.STOP, 60)


def test_of_overlapping_stop_strings_the_first_in_the_text_counts(engine: HfEngine, reference: Any) -> None:
    request, tokens = greedy_tokens(engine, reference)
    whole = engine.encoder.decode(tokens)
    early, late = whole[5:8], whole[6:9]
    for stop in ((early, late), (late, early)):
        found = drawn(engine, [request], Sampling(temperature=0, max_tokens=24, stop=stop))[request.id, 0]
        assert found.text == whole[: min(whole.index(early), whole.index(late))]


def test_an_empty_stop_string_is_refused(engine: HfEngine) -> None:
    with pytest.raises(UserError, match="stop"):
        next(iter(engine.sample([ask("You")], Sampling(stop=("",)))))


def test_the_contexts_end_cuts_off_and_too_long_a_prompt_is_an_error(engine: HfEngine, reference: Any) -> None:
    filler = "the " * 1000

    def of_length(tokens: int) -> Request:
        text = engine.encoder.decode(engine.encoder.encode_text(filler)[:tokens])
        request = ask(text, [0, 1])
        assert len(engine.encoder.encode(request)) == tokens
        return request

    fits, full, short = of_length(engine.context - 3), of_length(engine.context), ask("You", [0, 1])
    found = drawn(engine, [full, fits, short], Sampling(max_tokens=30, seed=1))
    for index in (0, 1):
        error = found[full.id, index]
        assert (error.finish, error.text) == (Finish.ERROR, "")
        assert f"{engine.context} tokens" in str(error.error)
        assert found[fits.id, index].completion_tokens == 3 or found[fits.id, index].finish is Finish.STOP
        assert found[short.id, index].finish in (Finish.LENGTH, Finish.STOP)
    [[(_, scored)]] = list(engine.logprobs([full], [[" yes"]]))
    assert scored.finish is Finish.ERROR
    assert scored.logprob is None
    assert scored.error is not None


def test_an_empty_prompt_is_an_error(engine: HfEngine) -> None:
    found = drawn(engine, [ask("", name="empty"), ask("You")], GREEDY)
    assert found["empty", 0].error == "the prompt has no tokens"
    assert found["id of You", 0].error is None
    [[(_, scored)]] = list(engine.logprobs([ask("", name="empty")], [["yes"]]))
    assert scored.error == "the prompt has no tokens"


def test_a_huge_max_tokens_costs_nothing(engine: HfEngine) -> None:
    found = drawn(engine, [ask("You", range(3))], Sampling(max_tokens=10**6))
    assert all(c.completion_tokens + c.prompt_tokens <= engine.context for c in found.values())


def test_text_in_mid_character(engine: HfEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    """A completion that was cut off inside a character is text all the same."""
    smile = engine.encoder.tokenizer("👩")["input_ids"]
    row = hf.Row(ask("You"), 0, [5], tokens=smile[:3], finish=Finish.LENGTH)
    assert engine._completion(row, GREEDY, 0.0).text.encode() == "\ufffd".encode()


# --- log-probabilities ------------------------------------------------------------------------------


@pytest.mark.parametrize("sampling", [GREEDY, SAMPLED], ids=["greedy", "sampled"])
def test_logprobs_of_what_was_generated(
    engine: HfEngine, reference: Any, sampling: Sampling, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows: list[hf.Row] = []
    original = HfEngine._completion

    def keep(self: HfEngine, row: hf.Row, *rest: Any) -> Completion:
        rows.append(row)
        return original(self, row, *rest)

    monkeypatch.setattr(HfEngine, "_completion", keep)
    found = drawn(engine, [ask(question, range(2)) for question in QUESTIONS], sampling)
    assert len(rows) == len(found)
    for row in rows:
        completion = found[row.request.id, row.index]
        assert completion.logprob == pytest.approx(teacher_forced(reference, row.prompt, row.tokens), abs=2e-3)


LABELS = (" positive", " negative", " neutral", " 19", " a café, of all things: 42.", " p")


@pytest.mark.parametrize("style", ["text", "chat"])
@pytest.mark.parametrize("shared", ["", PREFIX * 3], ids=["apart", "shared prefix"])
def test_label_logprobs_are_the_references(
    engine: HfEngine, reference: Any, monkeypatch: pytest.MonkeyPatch, style: str, shared: str
) -> None:
    monkeypatch.setattr(hf_scores, "questions_that_fit", lambda work, cached=0: min(5, len(work)))
    requests = [ask(f"{shared}{question} ({i})", style=style) for i in range(3) for question in QUESTIONS]
    labels = [LABELS[: 1 + i % len(LABELS)] for i in range(len(requests))]
    batches = list(engine.logprobs(requests, labels))
    assert len(batches) > 1
    found = {(id, c.index): c for batch in batches for id, c in batch}
    assert len(found) == sum(map(len, labels))
    for request, own in zip(requests, labels, strict=True):
        for index, label in enumerate(own):
            prompt, continuation, _ = engine.encoder.encode_pair(request, label)
            completion = found[request.id, index]
            assert completion.text == label
            assert completion.finish is Finish.SCORED
            assert completion.completion_tokens == len(continuation)
            assert completion.logprob == pytest.approx(teacher_forced(reference, prompt, continuation), abs=1e-3)


def test_labels_of_equal_questions_and_no_labels(engine: HfEngine) -> None:
    requests = [ask("You are", name="a"), ask("You are", name="b"), ask("You", name="c")]
    found = {
        (id, c.index): c.logprob
        for batch in engine.logprobs(requests, [[" a", " b"], [" a"], []])
        for id, c in batch
    }
    assert set(found) == {("a", 0), ("a", 1), ("b", 0)}
    assert found["a", 0] == pytest.approx(found["b", 0], abs=1e-4)


# --- embeddings -------------------------------------------------------------------------------------


def test_embeddings_are_means_of_last_hidden_states(engine: HfEngine, reference: Any) -> None:
    vectors = engine.embed(QUESTIONS)
    assert vectors.shape == (len(QUESTIONS), 32)
    assert vectors.dtype == np.float32
    for question, vector in zip(QUESTIONS, vectors, strict=True):
        ids = torch.tensor([engine.encoder.encode_text(question)])
        with torch.inference_mode():
            states = reference.model(input_ids=ids).last_hidden_state
        np.testing.assert_allclose(vector, states[0].mean(0).numpy(), atol=1e-4)
        np.testing.assert_allclose(vector, engine.embed([question])[0], atol=1e-4)
    assert engine.embed([]).shape == (0, 32)
    assert np.isfinite(engine.embed(["", "the " * 2000])).all()


# --- adapters ---------------------------------------------------------------------------------------


def make_adapter(folder: Path, base: Path, target: Path, **settings: Any) -> Path:
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(1)
    weights = load_weights(Model(str(base)), "float32", "cpu")
    settings = {"target_modules": ["q_proj", "v_proj", "down_proj"], **settings}
    config = LoraConfig(r=4, init_lora_weights=False, task_type="CAUSAL_LM", **settings)
    get_peft_model(weights, config).save_pretrained(target)
    return target


@pytest.mark.parametrize("targets", [["q_proj", "v_proj", "down_proj"], ["embed_tokens", "v_proj"]], ids=str)
def test_an_adapter_changes_the_answers_as_in_peft(
    engine: HfEngine, tiny_model: Path, tmp_path: Path, targets: list[str]
) -> None:
    adapter = make_adapter(tmp_path, tiny_model, tmp_path / "lora", target_modules=targets)
    model = Model(str(tiny_model), adapter=str(adapter))
    tuned = HfEngine(model, dtype="float32", device="cpu")
    plain = load_weights(model, "float32", "cpu")
    request = ask(QUESTIONS[2])
    found = drawn(tuned, [request], GREEDY)[request.id, 0].text
    assert found == tuned.encoder.decode(generated(plain, tuned, request, GREEDY.max_tokens))
    assert found != drawn(engine, [request], GREEDY)[request.id, 0].text
    assert not np.allclose(tuned.embed(["You"]), engine.embed(["You"]))
    half = HfEngine(model, dtype="bfloat16", device="cpu")
    assert {p.dtype for p in half.weights.parameters()} == {torch.bfloat16}


def other_model(folder: Path, tiny_model: Path, **changes: Any) -> Path:
    from transformers import AutoConfig, AutoModelForCausalLM

    shutil.copytree(tiny_model, folder)
    config = AutoConfig.from_pretrained(folder)
    for name, value in changes.items():
        setattr(config, name, value)
    AutoModelForCausalLM.from_config(config).float().save_pretrained(folder)
    return folder


@pytest.mark.parametrize(
    "changes",
    [{"hidden_size": 64, "head_dim": 16}, {"num_hidden_layers": 1}, {"num_hidden_layers": 3}],
    ids=["wider", "fewer layers", "more layers"],
)
def test_an_adapter_of_another_base_is_refused(tiny_model: Path, tmp_path: Path, changes: dict[str, int]) -> None:
    adapter = make_adapter(tmp_path, tiny_model, tmp_path / "lora")
    base = other_model(tmp_path / "other", tiny_model, **changes)
    with pytest.raises(UserError, match="does not fit the base model"):
        HfEngine(Model(str(base), adapter=str(adapter)), dtype="float32", device="cpu")


def test_an_adapter_whose_weights_are_cut_off_is_refused(tiny_model: Path, tmp_path: Path) -> None:
    adapter = make_adapter(tmp_path, tiny_model, tmp_path / "lora")
    file = adapter / "adapter_model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(UserError, match="does not fit"):
        HfEngine(Model(str(tiny_model), adapter=str(adapter)), dtype="float32", device="cpu")


# --- other architectures ----------------------------------------------------------------------------

SIZES = {
    "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 256, "initializer_range": 0.3,
}  # fmt: skip
GPT = {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 256, "initializer_range": 0.3}
GEMMA = {**SIZES, "head_dim": 8, "query_pre_attn_scalar": 8, "sliding_window": 64}


def save_architecture(kind: str, settings: dict[str, Any], tiny_model: Path, folder: Path) -> Path:
    from transformers import AutoConfig, AutoModelForCausalLM

    shutil.copytree(tiny_model, folder)
    torch.manual_seed(0)
    config = AutoConfig.for_model(kind, vocab_size=500, bos_token_id=1, eos_token_id=2, pad_token_id=2, **settings)
    AutoModelForCausalLM.from_config(config).float().save_pretrained(folder)
    return folder


@pytest.mark.parametrize(
    ("kind", "settings", "context"),
    [
        ("qwen2", SIZES, 256),
        ("qwen3", {**SIZES, "head_dim": 8}, 256),
        ("mistral", {**SIZES, "sliding_window": 64}, 64),
        ("gemma2", {**GEMMA, "attn_logit_softcapping": 2.0}, 64),
        ("gemma3_text", GEMMA, 64),
        ("gpt2", GPT, 256),
        ("gpt_neox", SIZES, 256),
        ("gpt_oss", {**SIZES, "head_dim": 8, "num_local_experts": 2, "num_experts_per_tok": 1}, 128),
    ],
)
def test_other_architectures_answer_as_in_transformers(
    kind: str, settings: dict[str, Any], context: int, tiny_model: Path, tmp_path: Path
) -> None:
    from transformers import AutoModelForCausalLM

    folder = save_architecture(kind, settings, tiny_model, tmp_path / "m")
    engine = open_tiny(folder)
    assert engine.context == context
    plain = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager").eval()
    requests = [ask(question) for question in (*QUESTIONS[:3], QUESTIONS[4])]
    found = drawn(engine, requests, Sampling(temperature=0, max_tokens=16))
    scored = {id: c.logprob for batch in engine.logprobs(requests, [[" yes."]] * 4) for id, c in batch}
    for request in requests:
        assert found[request.id, 0].text == engine.encoder.decode(generated(plain, engine, request, 16))
        prompt, own, _ = engine.encoder.encode_pair(request, " yes.")
        assert scored[request.id] == pytest.approx(teacher_forced(plain, prompt, own), abs=2e-3)
    assert engine.embed(["You", "You are"]).shape == (2, 32)


def test_a_row_that_ended_at_the_contexts_end_does_not_run_over_it(tiny_model: Path, tmp_path: Path) -> None:
    """GPT-2 has a table of positions; a row stays in its batch for a while after it has ended."""
    engine = open_tiny(save_architecture("gpt2", GPT, tiny_model, tmp_path / "m"))
    engine._ends = set()
    short = [ask(f"You {i}") for i in range(4)]
    found = drawn(engine, [*short, ask("the " * 250)], Sampling(temperature=0, max_tokens=40))
    assert found["id of " + "the " * 250, 0].completion_tokens < 10
    assert all(found[request.id, 0].completion_tokens == 40 for request in short)


@pytest.mark.parametrize(
    ("kind", "settings"),
    [
        ("bloom", {"hidden_size": 32, "n_layer": 2, "n_head": 4}),  # ALiBi from a mask of its own
        ("mamba", {"hidden_size": 32, "num_hidden_layers": 2, "state_size": 4}),  # no attention
        ("gptj", {**GPT, "rotary_dim": 4}),  # does not take another attention
    ],
)
def test_architectures_that_would_be_computed_wrongly_are_refused(
    kind: str, settings: dict[str, Any], tiny_model: Path, tmp_path: Path
) -> None:
    folder = save_architecture(kind, settings, tiny_model, tmp_path / "m")
    with pytest.raises(UserError, match=rf"'{kind}' cannot be run by the hf engine.*--engine vllm"):
        open_tiny(folder)


def test_a_pass_without_a_mask_is_refused_rather_than_wrong(engine: HfEngine) -> None:
    with pytest.raises(ValueError, match="mask"):
        engine.weights(input_ids=torch.tensor([[5, 6, 7]]))


@pytest.mark.parametrize("device", ["cuda:99", "tpu", "nonsense", "xpu", "meta", "hpu", "cuda:x"])
def test_a_device_that_is_not_there(tiny_model: Path, device: str) -> None:
    with pytest.raises(UserError, match=f"device is '{device}', .*--device cpu") as caught:
        HfEngine(Model(str(tiny_model)), device=device)
    assert len(str(caught.value)) < 300


def test_a_base_model_refuses_chat(tiny_base_model: Path) -> None:
    engine = open_tiny(tiny_base_model)
    assert drawn(engine, [ask("You are")], GREEDY)
    with pytest.raises(UserError, match="style 'text'"):
        list(engine.sample([ask("You are", style="chat")], GREEDY))
    assert math.isfinite(next(iter(engine.logprobs([ask("You are")], [[" a"]])))[0][1].logprob or math.nan)
