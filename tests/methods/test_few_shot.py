"""Few-shot: exemplars by seed, equally many of each label, and errors that name what is wrong."""

from collections import Counter
from typing import Any

import pytest

from workbench.decodes import Greedy
from workbench.errors import UserError
from workbench.methods.few_shot import Config, adapt
from workbench.prompts import load_prompt
from workbench.tasks.arithmetic import Config as ArithmeticConfig
from workbench.tasks.arithmetic import load
from workbench.tasks.base import Task, make_task
from workbench.tasks.graders import label_grader
from workbench.types import Example, Model, Order, Selection, Shots, System

ARITHMETIC = load(ArithmeticConfig(practice=30, dev=3, test=3))
SYSTEM = System(Model("fake"), load_prompt("arithmetic"), Greedy())


def labelled(**counts: int) -> Task:
    practice = tuple(
        Example.make(f"{label} number {n}", label) for label, count in counts.items() for n in range(count)
    )
    return make_task(
        "labelled",
        settings={},
        splits={"practice": practice, "dev": practice[:1], "test": practice[:1]},
        grade=label_grader(tuple(counts)),
        prompt="classify",
        labels=tuple(counts),
    )


def shots(task: Task, **settings: Any) -> Shots:
    found = adapt(SYSTEM, task, Config(**settings)).prompt.shots
    assert found is not None
    return found


def test_only_the_prompt_slot_changes() -> None:
    adapted = adapt(SYSTEM, ARITHMETIC, Config())
    assert (adapted.model, adapted.decode) == (SYSTEM.model, SYSTEM.decode)
    assert adapted.prompt.messages == SYSTEM.prompt.messages
    assert adapted.prompt.shots is not None


def test_random_exemplars_are_those_of_the_seed() -> None:
    first, again, other = (shots(ARITHMETIC, shots=6, exemplar_seed=seed) for seed in (1, 1, 2))
    assert first == again != other
    assert len(set(first.pool)) == first.k == 6
    assert set(first.pool) <= set(ARITHMETIC.practice)
    assert first.selection is Selection.FIXED


def test_balanced_exemplars_are_equally_many_of_each_label() -> None:
    task = labelled(red=9, green=4, blue=2)
    found = Counter(example.target for example in shots(task, shots=6, exemplars="balanced").pool)
    assert found == {"red": 2, "green": 2, "blue": 2}
    uneven = Counter(example.target for example in shots(task, shots=5, exemplars="balanced").pool)
    assert sorted(uneven.values()) == [1, 2, 2]
    orders = {
        tuple(e.target for e in shots(task, shots=6, exemplars="balanced", exemplar_seed=s).pool) for s in range(9)
    }
    assert len(orders) > 1, "the labels are shuffled"


@pytest.mark.parametrize("exemplars", ["bm25", "embedding"])
def test_neighbours_are_sought_among_the_whole_pool_or_its_beginning(exemplars: str) -> None:
    whole = shots(ARITHMETIC, exemplars=exemplars, shots=3, order=Order.NEAREST_LAST)
    assert whole == Shots(ARITHMETIC.practice, 3, Selection(exemplars), Order.NEAREST_LAST)
    assert shots(ARITHMETIC, exemplars=exemplars, pool=7).pool == ARITHMETIC.practice[:7]
    assert set(shots(ARITHMETIC, shots=7, pool=7).pool) == set(ARITHMETIC.practice[:7])


def test_an_encoder_goes_with_sentence_transformer_alone() -> None:
    found = shots(ARITHMETIC, exemplars="sentence-transformer", encoder="some/encoder")
    assert (found.selection, found.encoder, found.pool) == (
        Selection.SENTENCE,
        "some/encoder",
        ARITHMETIC.practice,
    )
    for settings in ({"exemplars": "sentence-transformer"}, {"encoder": "some/encoder"}):
        with pytest.raises(UserError, match="--exemplars sentence-transformer needs --encoder"):
            shots(ARITHMETIC, **settings)


@pytest.mark.parametrize("exemplars", ["random", "bm25"])
def test_a_seeded_order_is_another_system_for_each_seed(exemplars: str) -> None:
    plain = shots(ARITHMETIC, exemplars=exemplars)
    first, again, other = (
        shots(ARITHMETIC, exemplars=exemplars, order=Order.SEEDED, order_seed=seed) for seed in (1, 1, 2)
    )
    assert first == again != other != plain
    assert first.pool == other.pool == plain.pool, "the same exemplars"


def test_what_is_not_used_stays_out_of_the_system() -> None:
    plain = shots(ARITHMETIC)
    assert shots(ARITHMETIC, order_seed=3) == plain
    assert shots(ARITHMETIC, order=Order.NEAREST_LAST) == plain
    assert shots(ARITHMETIC, exemplars="bm25", order_seed=3) == shots(ARITHMETIC, exemplars="bm25")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"shots": 0}, r"shots is 0; it must be a number in \[1, 1000\]"),
        ({"pool": 0}, "pool is 0"),
        ({"exemplar_seed": -1}, "exemplar_seed is -1"),
        ({"order_seed": -1}, "order_seed is -1"),
        ({"shots": 31}, r"shots is 31; it must be a number in \[1, 30\]"),
        ({"shots": 4, "pool": 3}, r"shots is 4; it must be a number in \[1, 3\]"),
        ({"exemplars": "balanced"}, "'arithmetic' has no labels to balance; use --exemplars random"),
    ],
)
def test_what_cannot_be_is_named(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        adapt(SYSTEM, ARITHMETIC, Config(**settings))


def test_too_few_examples_of_a_label_are_named() -> None:
    with pytest.raises(UserError, match="has only 1 examples of 'blue'; 2 are needed"):
        shots(labelled(red=5, blue=1), shots=4, exemplars="balanced")
