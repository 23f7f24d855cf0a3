"""Packed sequences: who sees whom, and that loss and gradients are the padded batch's."""

from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from workbench.adapters import load_weights
from workbench.engines.forward import use_grouped_attention
from workbench.engines.packing import Branch, pack, questions_that_fit
from workbench.types import Model

tokens = st.lists(st.integers(1, 3), min_size=1, max_size=6)
branches = st.builds(Branch, tokens, st.lists(st.integers(4, 6), min_size=1, max_size=4))
questions = st.lists(st.lists(branches, min_size=1, max_size=3), min_size=1, max_size=4)


@settings(max_examples=200)
@given(questions)
def test_a_continuations_token_is_predicted_from_its_own_sequence(questions: list[list[Branch]]) -> None:
    packed = pack(questions)
    ids, positions, mask = packed.ids[0], packed.positions[0], packed.mask[0, 0]
    flat = [branch for question in questions for branch in question]
    assert packed.count == len(flat)
    assert packed.targets.tolist() == [token for branch in flat for token in branch.continuation]
    assert packed.owner.tolist() == [i for i, branch in enumerate(flat) for _ in branch.continuation]
    place = 0
    for branch in flat:
        for offset in range(len(branch.continuation)):
            seen = mask[packed.read_at[place]].nonzero().flatten()
            # What it sees is its prompt and the continuation so far, each once, in order and in place.
            assert ids[seen].tolist() == [*branch.prompt, *branch.continuation[:offset]]
            assert positions[seen].tolist() == list(range(len(branch.prompt) + offset))
            place += 1


@settings(max_examples=100)
@given(questions)
def test_every_token_sees_itself_and_its_own_past_only(questions: list[list[Branch]]) -> None:
    packed = pack(questions)
    mask, positions = packed.mask[0, 0], packed.positions[0]
    assert mask.diagonal().all()
    assert not mask.triu(1).any()
    for row in range(len(mask)):
        assert sorted(positions[mask[row]].tolist()) == list(range(int(positions[row]) + 1))


def test_shared_tokens_are_there_once() -> None:
    prefix, own = list(range(1, 31)), [40, 41]
    packed = pack(
        [[Branch([*prefix, *own], [50, 51]), Branch([*prefix, *own], [52])], [Branch([*prefix, 42], [50])]]
    )
    # The prefix, two prompts' rests, and the first token of the only continuation that has two.
    assert packed.ids.shape[1] == 30 + 2 + 1 + 1


def test_one_prompt_and_prompts_of_one_token() -> None:
    packed = pack([[Branch([7], [8, 9])]])
    assert packed.ids.tolist() == [[7, 8]]
    assert packed.read_at.tolist() == [0, 1]
    twice = pack([[Branch([7], [8])], [Branch([7], [8])]])
    assert twice.ids.tolist() == [[7]]
    assert (twice.read_at.tolist(), twice.targets.tolist(), twice.owner.tolist()) == ([0, 0], [8, 8], [0, 1])


@settings(max_examples=100)
@given(questions, st.lists(st.integers(1, 3), max_size=3), st.integers(0, 4))
def test_what_is_cached_is_seen_by_all_and_left_out(
    questions: list[list[Branch]], shared: list[int], virtual: int
) -> None:
    longer = [[Branch([*shared, *b.prompt], b.continuation) for b in question] for question in questions]
    whole, packed = pack(longer), pack(longer, virtual=virtual, cached=len(shared))
    own, before = packed.ids.shape[1], virtual + len(shared)
    assert whole.ids.tolist() == [[*shared, *packed.ids[0].tolist()]]
    assert (whole.positions[0, len(shared) :] + virtual).tolist() == packed.positions[0].tolist()
    assert packed.mask.shape == (1, 1, own, before + own)
    assert packed.mask[..., :before].all()
    assert torch.equal(packed.mask[..., before:], whole.mask[..., len(shared) :, len(shared) :])
    assert (whole.read_at - len(shared)).tolist() == packed.read_at.tolist()
    assert questions_that_fit(longer, 5, cached=len(shared)) == questions_that_fit(questions, 5)


@pytest.fixture(scope="module")
def weights(tiny_model: Path) -> torch.nn.Module:
    torch.set_num_threads(1)
    loaded = load_weights(Model(str(tiny_model)), "float32", "cpu")
    use_grouped_attention(loaded)
    return loaded


def random_branches(seed: int) -> list[Branch]:
    draw = torch.Generator().manual_seed(seed)

    def some(count: int) -> list[int]:
        return torch.randint(3, 500, (count,), generator=draw).tolist()

    prefix = some(20)
    return [Branch([*prefix, *some(1 + 3 * i)], some(1 + i % 4)) for i in range(8)]


def padded_loss(weights: torch.nn.Module, rows: list[Branch]) -> torch.Tensor:
    """The usual way: right padding, and a label for each token of a continuation."""
    width = max(len(row.prompt) + len(row.continuation) for row in rows)
    ids = torch.zeros(len(rows), width, dtype=torch.long)
    labels = torch.full_like(ids, -100)
    for i, row in enumerate(rows):
        whole = row.prompt + row.continuation
        ids[i, : len(whole)] = torch.tensor(whole)
        labels[i, len(row.prompt) : len(whole)] = torch.tensor(row.continuation)
    causal = torch.ones(width, width, dtype=torch.bool).tril().expand(len(rows), 1, width, width)
    logits = weights(input_ids=ids, attention_mask=causal).logits[:, :-1]
    return torch.nn.functional.cross_entropy(logits.flatten(0, 1), labels[:, 1:].flatten(), ignore_index=-100)


def packed_loss(weights: torch.nn.Module, rows: list[Branch]) -> torch.Tensor:
    packed = pack([[row] for row in rows])
    logits = weights(
        input_ids=packed.ids, position_ids=packed.positions, attention_mask=packed.mask,
        logits_to_keep=packed.read_at,
    ).logits[0]  # fmt: skip
    return torch.nn.functional.cross_entropy(logits, packed.targets)


def gradient(weights: torch.nn.Module, loss: torch.Tensor) -> torch.Tensor:
    weights.zero_grad()
    loss.backward()
    return torch.cat([p.grad.flatten() for p in weights.parameters() if p.grad is not None])


@pytest.mark.parametrize("seed", [0, 1])
def test_loss_and_gradient_are_the_padded_batchs(weights: torch.nn.Module, seed: int) -> None:
    rows = random_branches(seed)
    expected, found = padded_loss(weights, rows), packed_loss(weights, rows)
    assert torch.isclose(expected, found, rtol=1e-5)
    one, other = gradient(weights, expected), gradient(weights, found)
    assert torch.nn.functional.cosine_similarity(one, other, dim=0) > 0.9999
    assert torch.isclose(one.norm(), other.norm(), rtol=1e-4)


def test_a_pack_holds_what_it_may_and_never_nothing() -> None:
    def question(prompt: list[int]) -> list[Branch]:
        return [Branch(prompt, [1])]

    assert questions_that_fit([question([5] * 3000)], limit=100) == 1
    assert questions_that_fit([question([5] * 40)] * 10, limit=100) == 10  # they share what they are
    # Twenty that share 500 tokens, and behind them one that shares none: 700 and 325.
    family = [question([5] * 500 + [i] * 10) for i in range(20)]
    stranger = question([6] * 325)
    assert questions_that_fit([*family, stranger], limit=1024) == 20
    assert questions_that_fit([*family, stranger], limit=1025) == 21
    assert pack([*family, stranger]).ids.shape[1] == 1025


@settings(max_examples=100)
@given(questions, st.integers(1, 30))
def test_a_packs_size_is_bounded(questions: list[list[Branch]], limit: int) -> None:
    count = questions_that_fit(questions, limit)
    assert 1 <= count <= len(questions)
    assert count == 1 or pack(questions[:count]).ids.shape[1] <= limit
    assert count == len(questions) or pack(questions[: count + 1]).ids.shape[1] > limit
