"""GRPO's losses through TRL's own trainer: worked numbers, its padded pass, and any cut of a batch."""

import itertools
from contextlib import nullcontext
from functools import cache
from pathlib import Path
from typing import Any, get_args

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny import tiny_tokenizer

from workbench.adapters import load_weights
from workbench.engines.forward import use_grouped_attention
from workbench.training.grpo_curve import moving_mean
from workbench.training.grpo_loss import Group, GroupLoss, Sample
from workbench.training.grpo_losses import Loss
from workbench.training.grpo_objective import GroupObjective
from workbench.training.grpo_samples import Question, spare
from workbench.types import Example, Model

LOSSES = get_args(Loss)

pytestmark = pytest.mark.usefixtures("one_thread")


@cache
def loss_of(name: Any, **more: Any) -> GroupLoss:
    return GroupLoss(tiny_tokenizer(), "cpu", name, 8, max_tokens=10, **more)


def group(rewards: list[float], lengths: list[int] | None = None) -> Group:
    return Group([5, 6, 7], [list(range(9, 9 + n)) for n in lengths or [3] * len(rewards)], rewards)


# --- advantages -------------------------------------------------------------------------------------


def test_a_groups_advantages_are_the_worked_ones() -> None:
    [[*found]], _, notes = loss_of("grpo").advantages([group([1, 0, 0, 1, 0, 0, 0, 0])])
    right, wrong = 1.619835, -0.539945
    assert found == pytest.approx([right, wrong, wrong, right, wrong, wrong, wrong, wrong], abs=1e-6)
    assert notes["reward"] == 0.25
    assert notes["completions/mean_length"] == 3


@pytest.mark.parametrize("scale", ["group", "batch", "none"])
def test_a_rewards_distance_is_divided_by_what_was_asked_for(scale: Any) -> None:
    first, second = [1.0, 0, 0, 1, 0, 0, 0, 0], [1.0] * 8
    found, _, _ = loss_of("dapo", scale_rewards=scale).advantages([group(first), group(second)])
    spread = {
        "group": torch.tensor(first).std() + 1e-4,
        "batch": torch.tensor(first + second).std() + 1e-4,
        "none": 1.0,
    }[scale]
    assert found[0] == pytest.approx([float((r - 0.25) / spread) for r in first], abs=1e-5)
    assert found[1] == [0.0] * 8, "all samples had the same reward"


def test_importance_ratios_are_those_of_whole_answers_and_tell_how_far_the_engines_are_apart() -> None:
    drawn = [[-1.0], [-1.0, None], [-9.0, -1.0]] + [[-1.0]] * 5
    own = [[-0.9], [-1.2, -4.0], [-1.0, -1.0]] + [[-1.0]] * 5
    groups = [Group([5, 6], [[9] * len(logps) for logps in own], [1.0, *[0.0] * 7], drawn, own)]
    _, [ratios], notes = loss_of("dapo", corrected=True).advantages(groups)
    assert [r[0] for r in ratios if r] == pytest.approx([1.105171, 0.818731, 0.0, 1, 1, 1, 1, 1], abs=1e-6)
    assert notes["sampling/sampling_logp_difference/mean"] > 0.5


# --- losses -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "expected"), [("grpo", 0.0), ("dapo", 0.333333), ("dr_grpo", 0.1), ("luspo", 1)])
def test_answers_of_two_and_four_tokens_have_the_worked_losses(name: Any, expected: float) -> None:
    samples = [Sample([5], [1, 2], 1.0, [-1.0] * 2), Sample([5], [1, 2, 3, 4], -1.0, [-1.0] * 4)]
    loss = loss_of(name)
    summed, notes = loss(torch.full((6,), -1.0), torch.full((6,), 0.5), samples)
    assert float(summed) / loss.units(samples) == pytest.approx(expected, abs=1e-6)
    assert notes["entropy"] == 0.5


def test_the_divergence_is_the_worked_one() -> None:
    summed, notes = loss_of("grpo", beta=1.0)(torch.tensor([-1.0]), torch.ones(1), [Sample([5], [1], 0.0, [-1.5])])
    assert float(summed) == pytest.approx(0.106531, abs=1e-6)
    assert notes["kl"] == pytest.approx(0.106531, abs=1e-6)


def gradient(name: Any, samples: list[Sample], cuts: list[int], **more: Any) -> tuple[float, torch.Tensor]:
    """(mean loss, its gradient by token) of samples that are computed in parts."""
    loss = loss_of(name, **more)
    count = sum(len(s.answer) for s in samples)
    logps = torch.linspace(-3, -0.1, count).requires_grad_()
    total, units, place = torch.zeros(()), loss.units(samples), 0
    bounds = [0, *sorted(set(cuts)), len(samples)]
    for first, last in itertools.pairwise(bounds):
        part = samples[first:last]
        if part:
            tokens = sum(len(s.answer) for s in part)
            summed, _ = loss(logps[place : place + tokens], torch.ones(tokens), part)
            total, place = total + summed / units, place + tokens
    total.backward()  # type: ignore[no-untyped-call]
    assert logps.grad is not None
    return float(total), logps.grad


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("more", [{}, {"beta": 0.5}, {"corrected": True}], ids=["plain", "beta", "corrected"])
@settings(max_examples=15)
@given(data=st.data())
def test_a_batch_has_the_same_loss_and_gradient_however_it_is_cut(name: Any, more: Any, data: Any) -> None:
    lengths = data.draw(st.lists(st.integers(1, 6), min_size=2, max_size=7))
    cuts = data.draw(st.lists(st.integers(1, len(lengths) - 1)))
    number = st.floats(-2, 2, width=32)
    samples = []
    for n in lengths:
        ratios = None
        if more.get("corrected"):
            ratios = [data.draw(st.floats(0.125, 2, width=32)) for _ in range(n if name == "vespo" else 1)]
        samples.append(Sample([5], [1] * n, data.draw(number), [data.draw(number) - 3.0] * n, ratios))
    whole, parts = gradient(name, samples, [], **more), gradient(name, samples, cuts, **more)
    assert parts[0] == pytest.approx(whole[0], abs=1e-4, rel=1e-4)
    assert torch.allclose(parts[1], whole[1], atol=1e-5, rtol=1e-4)


def test_which_losses_have_one_gradient_where_samples_are_the_models_own() -> None:
    samples = [Sample([5], [1] * n, a, [-1.0] * n) for n, a in ((2, 1.5), (5, -0.5), (1, 0.25), (3, -1.25))]
    found = {name: gradient(name, samples, [])[1] for name in LOSSES}
    for first, *others in (("dapo", "bnpo", "cispo", "vespo"), ("grpo", "sapo")):
        for other in others:
            assert torch.allclose(found[first], found[other], atol=1e-6), other
    assert torch.allclose(found["luspo"], 10 * found["dr_grpo"], atol=1e-6), "10 tokens is the longest answer"
    assert not torch.allclose(found["dapo"], found["grpo"], atol=1e-3)


def test_with_a_divergence_luspo_has_a_gradient_of_its_own() -> None:
    samples = [Sample([5], [1] * n, a, [-1.0] * n) for n, a in ((2, 1.5), (5, -0.5), (1, 0.25), (3, -1.25))]
    found = {name: gradient(name, samples, [], beta=0.5)[1] for name in LOSSES}
    for other in ("bnpo", "cispo", "vespo"):
        assert torch.allclose(found["dapo"], found[other], atol=1e-6), other
    assert torch.allclose(found["grpo"], found["sapo"], atol=1e-6)
    assert not torch.allclose(found["luspo"], 10 * found["dr_grpo"], atol=1e-3)


# --- packed and padded ------------------------------------------------------------------------------

PROMPTS = ([1, 50, 51, 52], [1, 50, 61])
SAMPLES = [
    Sample(PROMPTS[place // 3], [70 + place, *range(80, 80 + length)], advantage, [-5.0 - place] * (length + 1))
    for place, (length, advantage) in enumerate(((2, 1.2), (5, -0.6), (0, -0.6), (3, 0.0), (7, 0.9), (1, -0.9)))
]


def weights_of(folder: Path) -> Any:
    return load_weights(Model(str(folder)), "float32", "cpu").requires_grad_(True)


def trls_own(folder: Path, name: Any, beta: float) -> tuple[float, dict[str, torch.Tensor]]:
    """Loss and gradients of TRL's trainer around the model itself, on rows that it pads."""
    import trl

    from workbench.training.trl_trainers import trl_trainer

    given = {
        "loss_type": name, "num_generations": 8, "max_completion_length": 10,
        "importance_sampling_level": "sequence" if name == "luspo" else "token",
        "epsilon_high": 5.0 if name == "cispo" else None,
    }  # fmt: skip
    weights = weights_of(folder)
    trainer = trl_trainer(
        trl.GRPOTrainer, trl.GRPOConfig, tiny_tokenizer(), "cpu", settings=given, model=weights,
        reward_funcs=lambda **_: [],
    )  # fmt: skip
    trainer.current_gradient_accumulation_steps, trainer.beta = 1, beta
    trainer.accelerator.autocast = nullcontext

    def rows(lists: list[list[Any]], left: bool = False) -> tuple[torch.Tensor, torch.Tensor]:
        width = max(map(len, lists))
        pads = [[0] * (width - len(row)) for row in lists]
        whole = [[*p, *r] if left else [*r, *p] for r, p in zip(lists, pads, strict=True)]
        ones = [[*p, *[1] * len(r)] if left else [*[1] * len(r), *p] for r, p in zip(lists, pads, strict=True)]
        return torch.tensor(whole), torch.tensor(ones)

    prompts, prompt_mask = rows([s.prompt for s in SAMPLES], left=True)
    answers, answer_mask = rows([s.answer for s in SAMPLES])
    inputs = {
        "prompt_ids": prompts, "prompt_mask": prompt_mask, "completion_ids": answers,
        "completion_mask": answer_mask, "advantages": torch.tensor([s.advantage for s in SAMPLES]),
        "num_items_in_batch": answer_mask.sum().float(),
        "ref_per_token_logps": rows([s.reference for s in SAMPLES])[0].float(),
    }  # fmt: skip
    loss = trainer._compute_loss(weights, inputs)
    loss.backward()
    return float(loss), gradients(weights)


def gradients(weights: Any) -> dict[str, torch.Tensor]:
    return {name: weight.grad for name, weight in weights.named_parameters() if weight.grad is not None}


def objective_of(folder: Path, name: Any, beta: float = 0.0) -> GroupObjective:
    weights = weights_of(folder)
    use_grouped_attention(weights)
    sampler: Any = None
    return GroupObjective(weights, loss_of(name, beta=beta), sampler, lambda *_: 0.0, 1.0, False, nullcontext())


@pytest.mark.parametrize("beta", [0.0, 0.3])
@pytest.mark.parametrize("name", LOSSES)
def test_the_packed_tree_has_the_loss_and_gradients_of_trls_padded_rows(
    name: Any, beta: float, tiny_model: Path
) -> None:
    expected, wanted = trls_own(tiny_model, name, beta)
    for parts in ([SAMPLES], [SAMPLES[:1], SAMPLES[1:5], SAMPLES[5:]]):
        objective = objective_of(tiny_model, name, beta)
        units = objective.units(SAMPLES)
        losses = [objective(objective.collate(part)) / units for part in parts]
        loss = sum(losses[1:], losses[0])
        loss.backward()
        assert float(loss) == pytest.approx(expected, abs=1e-5)
        found = gradients(objective.weights)
        assert found.keys() == wanted.keys()
        one, other = (torch.cat([g[key].flatten() for key in sorted(g)]) for g in (found, wanted))
        assert torch.nn.functional.cosine_similarity(one, other, dim=0) >= 0.9999
        assert float(one.norm()) == pytest.approx(float(other.norm()), rel=1e-3)


def test_a_groups_prompt_is_in_the_tree_once(tiny_model: Path) -> None:
    packed = objective_of(tiny_model, "dapo").collate(SAMPLES[:3]).packed
    answers = sum(len(s.answer) - 1 for s in SAMPLES[:3])  # a last token predicts nothing
    assert packed.ids.numel() == len(PROMPTS[0]) + answers
    assert len(packed.read_at) == sum(len(s.answer) for s in SAMPLES[:3])


@pytest.mark.parametrize("packs", [True, False])
def test_a_prompt_is_read_once_for_its_samples(packs: bool, tiny_model: Path) -> None:
    objective = objective_of(tiny_model, "dapo")
    objective.packs = packs
    answers = sum(len(s.answer) for s in SAMPLES)
    prompts = 1 if packs else 3
    assert objective.read(SAMPLES) == prompts * sum(map(len, PROMPTS)) + answers


@pytest.mark.parametrize("scale", ["group", "batch", "none"])
def test_groups_whose_samples_have_one_reward_are_counted(
    scale: Any, tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    objective = objective_of(tiny_model, "dapo")
    objective._loss = loss_of("dapo", scale_rewards=scale)
    found = [group([1.0, 0, 0, 1, 0, 0, 0, 0]), group([1.0] * 8)]
    monkeypatch.setattr(objective, "_groups", lambda items, step: found)
    monkeypatch.setattr(objective, "_reference", lambda rows: [[-1.0] * len(row.learned) for row in rows])
    objective.prepare([], 0)
    assert objective.told["frac_reward_zero_std"] == (0.5, 1.0)


def test_divergence_and_entropy_are_told_as_means_over_tokens(tiny_model: Path) -> None:
    objective = objective_of(tiny_model, "dapo")
    with torch.no_grad():
        objective(objective.collate(SAMPLES[:2]))
        objective(objective.collate(SAMPLES[2:]))
    tokens = sum(len(s.answer) for s in SAMPLES)
    assert {weight for _, weight in objective.told.values()} == {tokens}
    own = objective._logps(objective, [row for s in SAMPLES for row in objective.rows(s)])
    apart = torch.tensor(
        [r - p for s, logps in zip(SAMPLES, own, strict=True) for r, p in zip(s.reference, logps, strict=True)]
    )
    total, weight = objective.told["kl"]
    assert total / weight == pytest.approx(float((apart.exp() - 1 - apart).mean()), abs=1e-5)


def test_where_a_process_has_no_sample_a_question_passes_and_counts_nothing(tiny_model: Path) -> None:
    objective = objective_of(tiny_model, "dapo")
    question = Question(Example.make("What?", "4"), [1, 50, 51])
    assert spare(question).answer == [51]
    loss = objective(objective.collate([question]))
    loss.backward()
    assert float(loss) == 0
    assert all(float(g.abs().max()) == 0 for g in gradients(objective.weights).values())


def test_the_moving_mean_takes_what_there_is() -> None:
    assert moving_mean([1, 2, 3, 4], window=3) == [1, 1.5, 2, 3]
