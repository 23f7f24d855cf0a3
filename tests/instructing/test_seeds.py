"""Seed tasks: those that ship are sound by the filters' own measure, and a bad row of another file is named."""

import json
from pathlib import Path

import pytest

from workbench.errors import UserError
from workbench.instructing.filters import instance_faults, instruction_fault
from workbench.instructing.seeds import SEEDS, Instance, Seed, read_seeds
from workbench.instructing.similarity import LIMIT, Pool

GOOD = {
    "id": "a",
    "name": "greet",
    "instruction": "Greet  the\nperson.",
    "instances": [{"input": "Tom", "output": "Hello, Tom!"}],
    "is_classification": False,
}


def write(path: Path, *rows: dict[str, object]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_the_seeds_that_ship() -> None:
    seeds = read_seeds(None, 8)
    assert len(seeds) >= 40
    assert sum(seed.is_classification for seed in seeds) >= 10
    assert sum(not seed.instances[0].input for seed in seeds) >= 10
    assert len({seed.id for seed in seeds}) == len(seeds)
    assert len({json.loads(line)["name"] for line in SEEDS.read_text(encoding="utf-8").splitlines()}) == len(seeds)
    for seed in seeds:
        assert instruction_fault(seed.instruction, False) is None, seed
        read = [(instance.input, instance.output) for instance in seed.instances]
        assert set(instance_faults(seed.instruction, read, False, Pool())) == {None}, seed
    pool = Pool()
    for seed in seeds:
        assert pool.nearest(seed.instruction)[1] <= LIMIT, seed
        pool.add(seed.id, seed.instruction)


def test_they_have_the_paper_s_fields() -> None:
    for line in SEEDS.read_text(encoding="utf-8").splitlines():
        assert list(json.loads(line)) == ["id", "name", "instruction", "instances", "is_classification"]


def test_the_authors_own_file_is_read(shared_data: Path) -> None:
    file = shared_data / "self_instruct" / "seed_tasks.jsonl"
    if not file.exists():
        pytest.skip("the authors' seed tasks are not there")
    seeds = read_seeds(file, 8)
    assert len(seeds) == 175
    theirs = Pool()
    for seed in seeds:
        theirs.add(seed.id, seed.instruction)
    for seed in read_seeds(None, 8):
        assert theirs.nearest(seed.instruction)[1] <= LIMIT, seed


def test_a_row(tmp_path: Path) -> None:
    other = {**GOOD, "id": 7, "is_classification": True, "instances": [{"input": "", "output": " x "}]}
    assert read_seeds(write(tmp_path / "s.jsonl", GOOD, other), 2) == [
        Seed("a", "Greet the person.", (Instance("Tom", "Hello, Tom!"),), False),
        Seed("7", "Greet the person.", (Instance("", "x"),), True),
    ]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"id": "a"}, "row 2, field 'id': another row has the id 'a'"),
        ({"id": None}, "row 2, field 'id'"),
        ({"instruction": " "}, "row 2, field 'instruction': the field is empty"),
        ({"is_classification": "false"}, "row 2, field 'is_classification': it must be true or false"),
        ({"instances": []}, "row 2, field 'instances': it must be a list"),
        ({"instances": {"input": "", "output": "x"}}, "row 2, field 'instances': it must be a list"),
        ({"instances": ["x"]}, "row 2, field 'instances[0]': it must have an 'input' and an 'output'"),
        ({"instances": [{"output": "x"}]}, "row 2, field 'instances[0]': it must have an 'input'"),
        ({"instances": [{"input": "", "output": 3}]}, "row 2, field 'instances[0]'"),
        ({"instances": [{"input": "\ud800", "output": "x"}]}, "row 2, field 'instances[0]'"),
        (
            {"instances": [GOOD["instances"][0], {"input": "x", "output": ""}]},
            "instances[1]': the output is empty",
        ),  # type: ignore[index]
    ],
)
def test_a_bad_row_is_named(tmp_path: Path, change: dict[str, object], message: str) -> None:
    file = write(tmp_path / "s.jsonl", GOOD, {**GOOD, "id": "b", **change})
    with pytest.raises(UserError) as raised:
        read_seeds(file, 1)
    assert str(file) in str(raised.value) and message in str(raised.value)


def test_too_few_or_of_one_kind(tmp_path: Path) -> None:
    file = write(tmp_path / "s.jsonl", GOOD, {**GOOD, "id": "b"})
    for least in (2, 3):
        with pytest.raises(UserError, match=rf"has 2 seed tasks; it takes at least {least}, among them one with"):
            read_seeds(file, least)
    with pytest.raises(UserError, match="no data file"):
        read_seeds(tmp_path / "none.jsonl", 8)
