"""The reward model's loss: the paper's formula through TRL's trainer, however the passes are made."""

import copy
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import tiny_tokenizer, tiny_weights

from workbench.engines.forward import use_grouped_attention
from workbench.engines.packing import Tokens
from workbench.engines.reward_head import padding_token, with_reward_head
from workbench.errors import UserError
from workbench.preferring.pair_rows import PairRows
from workbench.preferring.reward_loss import RewardLoss

pytestmark = pytest.mark.usefixtures("one_thread")


def loss(packs: bool = True) -> RewardLoss:
    tokenizer = tiny_tokenizer()
    base = tiny_weights(len(tokenizer))
    if packs:
        use_grouped_attention(base)
    weights = with_reward_head(base, tokenizer)
    torch.manual_seed(1)
    torch.nn.init.normal_(weights.score.weight)
    return RewardLoss(weights, tokenizer)


def row(prompt: list[int], answer: list[int]) -> Tokens:
    return Tokens([*prompt, *answer], list(range(len(prompt), len(prompt) + len(answer))))


# Two prompts: three answers in three pairs, and two answers in one.
FIRST = [row([5, 6, 7], answer) for answer in ([8, 9, 2], [8, 10, 11, 2], [12, 2])]
SECOND = [row([5, 6, 20, 21], answer) for answer in ([30, 2], [31, 32, 2])]
ITEMS = [
    PairRows((FIRST[0], FIRST[1], FIRST[0], FIRST[2], FIRST[1], FIRST[2]), 3),
    PairRows((SECOND[0], SECOND[1]), 1),
]


def by_hand(objective: RewardLoss) -> float:
    """Each row alone through transformers' own class; the mean over a prompt's pairs, summed over prompts."""
    weights: Any = copy.deepcopy(objective.weights).eval()
    weights.model.set_attn_implementation("eager")

    def r(tokens: Tokens) -> float:
        with torch.no_grad():
            return float(weights(input_ids=torch.tensor([tokens.ids])).logits[0, 0])

    total = 0.0
    for item in ITEMS:
        gaps = [r(item.rows[i]) - r(item.rows[i + 1]) for i in range(0, len(item.rows), 2)]
        total += sum(math.log1p(math.exp(-gap)) for gap in gaps) / len(gaps)
    return total


def test_a_prompt_and_each_of_its_answers_are_read_once() -> None:
    assert loss().read(ITEMS) == (3 + 3 + 4 + 2) + (4 + 2 + 3)
    assert loss(packs=False).read(ITEMS) == (6 + 7 + 5) + (6 + 7)


def test_the_worked_number_through_the_real_trainer() -> None:
    objective = loss()
    scores = torch.tensor([2.0, 1.0, 0.0, -1.0])
    pairs = [(i, j) for i in range(4) for j in range(i + 1, 4)]
    found = objective.loss(scores[[i for i, _ in pairs]], scores[[j for _, j in pairs]])
    assert float(found) == pytest.approx(0.207038, abs=1e-6)
    told = {name: value / weight for name, (value, weight) in objective.told.items()}
    assert told == pytest.approx(
        {"accuracy": 1, "margin": 10 / 6, "max_reward": 2, "min_reward": -1, "mean_reward": 0.5}
    )


@pytest.mark.parametrize("packs", [True, False])
def test_it_is_the_mean_over_a_prompts_pairs_summed_over_prompts(packs: bool) -> None:
    objective = loss(packs)
    assert objective.packs == packs
    expected = by_hand(objective)
    with torch.no_grad():
        together = objective(objective.collate(ITEMS))
        apart = sum(float(objective(objective.collate([item]))) for item in ITEMS)
    assert float(together) == pytest.approx(expected, abs=1e-5)
    assert apart == pytest.approx(expected, abs=1e-5)
    assert objective.units(ITEMS) == 2


def test_each_distinct_answer_is_computed_once_and_what_answers_share_too() -> None:
    objective = loss()
    batch, pairs = objective.collate(ITEMS)
    assert [len(objective.rows(item)) for item in ITEMS] == [3, 2]
    assert batch.count == 5
    assert pairs == [([0, 0, 1], [1, 2, 2]), ([3], [4])]
    # 5 6 | 7 | 8 9 2 | 10 11 2 | 12 2 | 20 21 | 30 2 | 31 32 2: "8" is shared too.
    assert batch.ids.shape[1] == 18
    ends = batch.ids[0, batch.read_at].tolist()
    assert ends == [2] * 5, "the reward is read at the token that ends the turn"


def test_the_head_and_the_body_learn() -> None:
    objective = loss()
    objective(objective.collate(ITEMS)).backward()
    moved = {name for name, weight in objective.named_parameters() if weight.grad is not None}
    assert {"weights.score.weight", "weights.model.embed_tokens.weight"} <= moved


def test_the_padding_is_never_what_ends_a_turn(tiny_model: Path) -> None:
    tokenizer = tiny_tokenizer()
    assert tokenizer.pad_token_id == tokenizer.eos_token_id == 2
    assert padding_token(tokenizer) == tokenizer.unk_token_id == 0
    tokenizer.pad_token = "<|im_start|>"
    assert padding_token(tokenizer) == 1
    tokenizer.unk_token = tokenizer.bos_token = tokenizer.pad_token = None
    assert padding_token(tokenizer) == 0
    tokenizer.eos_token = "<|endoftext|>"
    assert padding_token(tokenizer) == 1


def test_an_architecture_without_sequence_classification_is_refused() -> None:
    from transformers import MambaConfig, MambaForCausalLM

    base = MambaForCausalLM(MambaConfig(vocab_size=64, hidden_size=16, num_hidden_layers=1, state_size=4))
    with pytest.raises(UserError, match="no sequence classification for 'mamba'"):
        with_reward_head(base, tiny_tokenizer())
