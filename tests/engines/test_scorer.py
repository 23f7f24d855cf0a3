"""Reward models as scorers: transformers' own rewards, however rows are packed, and what a server is asked."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from stub_server import KEY, StubServer
from tiny import CHATML, tiny_tokenizer, tiny_weights

from workbench.engines import EngineConfig
from workbench.engines.encode import Encoder
from workbench.engines.reward_head import with_reward_head
from workbench.engines.scorer import RewardModel, RewardServer, open_scorer
from workbench.errors import UserError
from workbench.types import Completion, Finish, Message, Request

pytestmark = pytest.mark.usefixtures("one_thread")


def make(folder: Path, base: Any = None, labels: int = 1) -> Path:
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = CHATML
    weights = with_reward_head(base or tiny_weights(len(tokenizer)), tokenizer)
    torch.manual_seed(3)
    torch.nn.init.normal_(weights.score.weight)
    if labels > 1:
        weights.config.num_labels = labels
        weights.score = torch.nn.Linear(32, labels, bias=False)
    tokenizer.pad_token = tokenizer.convert_ids_to_tokens(weights.config.pad_token_id)
    weights.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make(tmp_path_factory.mktemp("reward") / "reward_model")


ASKED = [
    (Request(f"q{i % 3}", (Message("user", f"What is {i % 3} plus 7?"),)), f"The answer is {7 + i}.")
    for i in range(9)
] + [(Request("t", (Message("user", "Plain text "),), style="text"), "and on")]


def row_of(encoder: Encoder, one: tuple[Request, str]) -> list[int]:
    prompt, said = encoder.encode_completion(*one)
    return [*prompt, *said]


def rewards(scorer: Any, asked: Any = ASKED) -> list[Completion]:
    found = dict(pair for batch in scorer.rewards(asked) for pair in batch)
    return [found[place] for place in range(len(asked))]


def test_its_rewards_are_transformers_own_in_a_padded_batch(folder: Path) -> None:
    """Padded by the folder's own tokenizer: the reward is that of the token which ends the turn."""
    model = transformers.AutoModelForSequenceClassification.from_pretrained(folder)
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    encoder = Encoder(tokenizer)
    rows = [row_of(encoder, one) for one in ASKED]
    assert all(row.count(tokenizer.eos_token_id) == row[:-1].count(tokenizer.eos_token_id) + 1 for row in rows)
    assert all(row[-2:] != [tokenizer.eos_token_id] * 2 for row in rows)
    padded = tokenizer.pad({"input_ids": rows}, return_tensors="pt")
    assert padded["input_ids"].shape[1] > min(map(len, rows)), "some rows are padded"
    with torch.no_grad():
        expected = model(**padded).logits[:, 0].tolist()
    found = rewards(RewardModel(folder, device="cpu"))
    assert [c.logprob for c in found] == pytest.approx(expected, abs=1e-4)
    assert max(expected) - min(expected) > 0.1
    assert {c.finish for c in found} == {Finish.SCORED}
    assert [c.text for c in found] == [text for _, text in ASKED]
    assert [c.prompt_tokens + c.completion_tokens for c in found] == [len(row) for row in rows]


def test_an_answer_without_text_is_read_as_the_end_of_its_turn(folder: Path) -> None:
    scorer = RewardModel(folder, device="cpu")
    model = transformers.AutoModelForSequenceClassification.from_pretrained(folder)
    for request, _ in (ASKED[0], ASKED[-1]):
        ids = [*scorer.encoder.encode(request), scorer.encoder.tokenizer.eos_token_id]
        [found] = rewards(scorer, [(request, "")])
        with torch.no_grad():
            expected = float(model(input_ids=torch.tensor([ids])).logits)
        assert found.logprob == pytest.approx(expected, abs=1e-4)
        assert (found.prompt_tokens, found.completion_tokens) == (len(ids) - 1, 1)


def test_an_architecture_that_takes_no_tree_is_scored_row_by_row(tmp_path: Path) -> None:
    config = transformers.BloomConfig(vocab_size=len(tiny_tokenizer()), hidden_size=32, n_layer=2, n_head=4)
    torch.manual_seed(0)
    made = make(tmp_path / "bloom", transformers.BloomForCausalLM(config))
    scorer = RewardModel(made, device="cpu")
    found = [c.logprob for c in rewards(scorer)]
    assert not scorer._packs
    model = transformers.AutoModelForSequenceClassification.from_pretrained(made)
    alone = []
    for one in ASKED:
        ids = torch.tensor([row_of(scorer.encoder, one)])
        with torch.no_grad():
            alone.append(float(model(input_ids=ids).logits))
    assert found == pytest.approx(alone, abs=1e-4)


def test_it_is_loaded_when_it_is_needed_and_room_is_made_first(folder: Path) -> None:
    made: list[str] = []
    scorer = open_scorer(str(folder), EngineConfig(device="cpu"), lambda: made.append("room"))
    assert scorer.version.startswith("reward transformers-")
    assert scorer.shape is not None
    assert scorer.shape.parameters == sum(
        p.numel() for p in transformers.AutoModelForSequenceClassification.from_pretrained(folder).parameters()
    )
    assert made == []
    rewards(scorer)
    assert made == ["room"]
    scorer.close()


def test_what_is_too_long_is_an_error_of_its_own(folder: Path) -> None:
    long = (ASKED[0][0], "and on " * 600)
    found = rewards(RewardModel(folder, device="cpu"), [long, ASKED[1]])
    assert found[0].finish is Finish.ERROR
    assert "more than the reward model's 512" in str(found[0].error)
    assert found[1].finish is Finish.SCORED


def test_what_is_no_reward_model_is_refused(tiny_model: Path, tmp_path: Path) -> None:
    config = EngineConfig(device="cpu")
    for name, problem in (
        ("", "Best of n needs a scorer: --scorer logprob"),
        (str(tmp_path / "none"), "There is no folder"),
        (str(tiny_model), "holds LlamaForCausalLM, which is no reward model"),
        (str(make(tmp_path / "three", labels=3)), "has 3 labels; a reward model has one"),
    ):
        with pytest.raises(UserError, match=problem):
            open_scorer(name, config)


def test_a_folder_without_its_head_is_refused(folder: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    cut = tmp_path / "cut"
    cut.mkdir()
    for file in folder.iterdir():
        (cut / file.name).write_bytes(file.read_bytes())
    tensors = load_file(cut / "model.safetensors")
    del tensors["score.weight"]
    save_file(tensors, cut / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(UserError, match=r"has no weights for score\.weight"):
        rewards(RewardModel(cut, device="cpu"))


# --- through a server ---------------------------------------------------------------------------------


def classify(handler: Any, body: dict[str, Any]) -> None:
    handler.reply(
        200, {"data": [{"index": 0, "label": None, "probs": [len(body["input"]) / 4], "num_classes": 1}]}
    )


@pytest.fixture
def server() -> Iterator[StubServer]:
    with StubServer(("reward",), key=KEY) as made:
        made.always = classify
        yield made


def test_a_server_is_asked_for_the_reward_itself_by_token_ids(
    server: StubServer, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORKBENCH_API_KEY", KEY)
    scorer = open_scorer(str(folder), EngineConfig(scorer_endpoint=(server.url,)))
    found = rewards(scorer)
    encoder = RewardModel(folder).encoder
    for one, completion in zip(ASKED, found, strict=True):
        assert completion.logprob == len(row_of(encoder, one)) / 4
    assert {path for _, path, _ in server.calls} == {"/classify"}
    body = server.bodies[0]
    assert (body["model"], body["use_activation"], body["add_special_tokens"]) == ("reward", False, False)
    assert scorer.version == "reward vllm /models/reward"
    assert scorer.shape is None


def test_a_servers_faults(server: StubServer, folder: Path) -> None:
    server.key = None
    scorer = RewardServer(folder, [server.url])
    server.faults = [lambda handler, body: handler.reply(400, {"error": {"message": "too long"}})]
    found = rewards(scorer, ASKED[:1])
    assert found[0].finish is Finish.ERROR
    assert "too long" in str(found[0].error)
    server.faults = [lambda handler, body: handler.reply(200, {"data": []})]
    assert "no classification" in str(rewards(scorer, ASKED[:1])[0].error)
    two = {"data": [{"probs": [0.5, 0.5]}]}
    server.faults = [lambda handler, body: handler.reply(200, json.loads(json.dumps(two)))]
    with pytest.raises(UserError, match="2 labels; a reward model has one"):
        rewards(scorer, ASKED[:1])
