"""Self-Instruct with a scripted teacher: what is kept and why not, provenance, going on after a kill, its ends."""

import json
import random
import re
import shutil
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import combinations, starmap
from pathlib import Path
from typing import Any

import pytest

import workbench.drawing
from recipes.self_instruct import Config, main
from workbench import prompts
from workbench.engines import EngineConfig
from workbench.engines.fake import FakeEngine
from workbench.errors import UserError
from workbench.identity import folder_hash, from_json, model_identity
from workbench.instructing.seeds import read_seeds
from workbench.instructing.similarity import LIMIT, rouge_l, words
from workbench.made_data import read_made
from workbench.methods.self_instruct import Config as SelfInstructConfig
from workbench.model_flags import ModelFlags
from workbench.prompts import load_prompt
from workbench.run_folder import RunFolder
from workbench.store import Store
from workbench.types import CostToMake, Finish, Request

CASES = [("Recall", "ships"), ("Judge", "very wise old towns"), ("Compare", "owls, of any hue"), ("Name", "seas")]
Script = Callable[[Request, int], str]
VERBS = ["Describe", "Name", "Compare", "Explain", "Rank", "Praise", "Judge", "Recall", "Defend", "Imagine"]
THINGS = [f"{a} {b}" for a in ("red", "old", "wise", "loud", "tiny") for b in ("owls", "ships", "towns", "songs")]


def asked(request: Request) -> tuple[str, str]:
    """(which prompt, the question in it)."""
    text = "".join(message.content for message in request.messages)
    for name in ("instructions", "kind", "output-first", "input-first"):
        if text.startswith(load_prompt(f"self-instruct-{name}").messages[0].content.strip()):
            return name, text.rsplit("Task: ", 1)[-1].split("\n")[0]
    raise AssertionError(text)


def teacher(request: Request, index: int) -> str:
    """Lists drawn from the exemplars' text, with some of everything that is left out."""
    name, question = asked(request)
    rng = random.Random("".join(message.content for message in request.messages))
    if name == "instructions":
        items = [
            f"{rng.choice(VERBS)} {rng.choice(THINGS)} and {rng.choice(THINGS)} in a few words" for _ in range(5)
        ]
        items = [*items, "draw a map of it", "- list them all"]
        rng.shuffle(items)
        return "".join(f"{'' if i == 9 else f'{chr(10)}{i}.'} {item}" for i, item in enumerate(items, start=9))
    if name == "kind":
        return " label" if question.startswith(("Rank", "Judge")) else " text"
    if name == "output-first":
        return "Class label: good\nInput: a fine day\nClass label: good\nInput: a fine day\nClass label: bad"
    if question.startswith("Defend"):
        return "I would rather not."
    return (
        "Output: So it is, they say."
        if question.startswith("Name")
        else "Input: the first\nOutput: Well, the last."
    )


@pytest.fixture
def scripted(monkeypatch: pytest.MonkeyPatch) -> Callable[[Script], list[Request]]:
    """Puts a script in the place of the engine; gives the list of what is asked."""

    def put(script: Script) -> list[Request]:
        seen: list[Request] = []

        def answer(request: Request, index: int) -> str:
            seen.append(request)
            return script(request, index)

        monkeypatch.setattr(workbench.drawing, "open_engine", lambda model, config: FakeEngine(model, answer))
        return seen

    return put


def config(folder: Path, **settings: Any) -> Config:
    made = SelfInstructConfig(**{"wanted": 20, "requests": 3, "rounds": 6, **settings})
    model = ModelFlags("fake", engine=EngineConfig(engine="fake"))
    return Config(made, model, runs=folder, name="run", quiet=True)


def proposals(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "instructions.jsonl").read_text().splitlines()]


FILES = ("data.jsonl", "instructions.jsonl", "self_instruct.json", "README.md")


def contents(run: Path) -> dict[str, bytes]:
    return {name: (run / name).read_bytes() for name in FILES}


@pytest.fixture
def found(tmp_path: Path, scripted: Callable[[Script], list[Request]]) -> Iterator[dict[str, Any]]:
    scripted(teacher)
    yield main(config(tmp_path))


def test_what_is_kept_and_what_is_not(found: dict[str, Any], tmp_path: Path) -> None:
    lines = proposals(tmp_path / "run")
    assert len(lines) == found["instructions"]
    assert found["kept"] == sum(line["kept"] for line in lines) > 0
    assert Counter(line["reason"] for line in lines if line["reason"]) == Counter(found["reasons"])
    assert found["kept"] + sum(found["reasons"].values()) == found["instructions"]
    assert found["reasons"]["keyword"] == found["reasons"]["begins with punctuation"] > 0
    assert found["classification"] + found["other"] + found["undecided"] == found["kept"]
    assert found["kept_instances"] + sum(found["instance_reasons"].values()) == found["instances"]
    assert {"duplicate", "no input"} <= found["instance_reasons"].keys()
    for line in lines:
        assert line["kept"] == (line["reason"] is None)
        assert (line["rouge_l"] is None) == (line["reason"] not in (None, "near-duplicate"))
        assert bool(line["instances"]) <= line["kept"]
        if line["kept"]:
            assert line["is_classification"] is line["instruction"].startswith(("Rank", "Judge"))
    for key in ("instructions", "kept", "with_instances", "instances", "kept_instances"):
        assert found[key] == sum(part[key] for part in found["rounds"])


def test_no_kept_pair_is_above_the_limit(found: dict[str, Any], tmp_path: Path) -> None:
    """And what was left out as a near-duplicate is above it, against what was in the pool before."""
    pool = {seed.id: words(seed.instruction) for seed in read_seeds(None, 8)}
    near = 0
    for line in proposals(tmp_path / "run"):
        if line["rouge_l"] is None:
            continue
        own = words(line["instruction"])
        best = max(rouge_l(own, other) for other in pool.values())
        assert line["rouge_l"] == best == rouge_l(own, pool[line["nearest"]])
        assert line["kept"] == (best <= LIMIT)
        near += not line["kept"]
        if line["kept"]:
            pool[line["id"]] = own
    assert near == found["reasons"]["near-duplicate"] > 0
    kept = [words(line["instruction"]) for line in proposals(tmp_path / "run") if line["kept"]]
    assert found["largest_rouge_l"] == max(starmap(rouge_l, combinations(kept, 2))) <= LIMIT


def test_six_people_and_two_machines_are_shown(
    tmp_path: Path, scripted: Callable[[Script], list[Request]]
) -> None:
    seen = scripted(teacher)
    main(config(tmp_path))
    lines = proposals(tmp_path / "run")
    seeds = {seed.id: seed.instruction for seed in read_seeds(None, 8)}
    own = {line["id"]: line for line in lines}
    texts = {id: line["instruction"] for id, line in own.items()} | seeds
    requests = {request.id: request for request in seen}
    for line in lines:
        machine = [id for id in line["exemplars"] if id not in seeds]
        assert len(line["exemplars"]) == len(set(line["exemplars"])) == 8
        assert len(machine) == (0 if line["round"] == 1 else 2)
        assert all(own[id]["kept"] and own[id]["round"] < line["round"] for id in machine)
        asked_for = "".join(message.content for message in requests[line["request"]].messages)
        shown = re.findall(r"^\d+\. (.*)$", asked_for, re.MULTILINE)
        assert shown == [texts[id] for id in line["exemplars"]]
        assert asked_for.endswith("\n9.")


def test_labels_come_first_where_it_classifies(
    tmp_path: Path, scripted: Callable[[Script], list[Request]]
) -> None:
    seen = scripted(teacher)
    main(config(tmp_path))
    kinds = {q: name for name, q in map(asked, seen) if name.endswith("first")}
    assert set(kinds.values()) == {"output-first", "input-first"}
    for question, name in kinds.items():
        assert (name == "output-first") == question.startswith(("Rank", "Judge"))
    seeds = {seed.instruction: seed for seed in read_seeds(None, 8)}
    for request in seen:
        name, question = asked(request)
        text = "".join(message.content for message in request.messages)
        shown = [seeds[task] for task in re.findall(r"^Task: (.*)$", text, re.MULTILINE) if task != question]
        if name.endswith("first"):
            assert len(shown) == 8
            assert {seed.is_classification for seed in shown} == {name == "output-first"}
        elif name == "kind":
            assert [seed.is_classification for seed in shown].count(True) == 8
            assert len(shown) == 20


def test_every_line_says_where_it_comes_from(found: dict[str, Any], tmp_path: Path) -> None:
    rows = read_made(tmp_path / "run" / "data.jsonl")
    own = {line["id"]: line for line in proposals(tmp_path / "run")}
    assert len(rows) == found["examples"] == found["kept_instances"]
    for row in rows:
        line = own[row.source["instruction"]]
        assert row.source["method"] == "self-instruct" and row.source["teacher"] == {
            "type": "Model",
            "base": "fake",
        }
        assert {row.source[key] == line[key] for key in ("round", "request", "exemplars", "nearest")} == {True}
        instance = next(i for i in line["instances"] if i["kept"] and i["output"] == row.completion)
        behind = f"\n\n{instance['input']}" if instance["input"] else ""
        assert row.prompt == line["instruction"] + behind
    assert {row.source["instruction"] for row in rows} == {
        id for id, line in own.items() if any(instance["kept"] for instance in line["instances"])
    }


def test_the_cost_is_that_of_all_that_was_drawn(found: dict[str, Any], tmp_path: Path) -> None:
    cost = from_json(json.loads((tmp_path / "run" / "cost.json").read_text()))
    assert isinstance(cost, CostToMake)
    assert cost.tokens == found["tokens"] > 0 and cost.flops > 0


def test_a_killed_run_goes_on_to_the_same_files(
    tmp_path: Path, scripted: Callable[[Script], list[Request]]
) -> None:
    whole = scripted(teacher)
    main(config(tmp_path / "whole"))
    for limit in (2, 9, 20):  # it dies in lists, decisions, instances and later rounds
        calls = 0

        def dying(request: Request, index: int) -> str:
            nonlocal calls
            calls += 1
            if calls > limit:  # noqa: B023
                raise KeyboardInterrupt
            return teacher(request, index)

        scripted(dying)
        with pytest.raises(KeyboardInterrupt):
            main(config(tmp_path / "killed"))
        run = RunFolder(tmp_path / "killed" / "run")
        assert run.state == "interrupted"
        assert not any((run.path / name).exists() for name in FILES)
    rest = scripted(teacher)
    main(config(tmp_path / "killed"))
    assert len(rest) == len(whole) - (2 + 9 + 20)
    assert contents(tmp_path / "killed" / "run") == contents(tmp_path / "whole" / "run")


def test_a_failed_request_is_no_answer_and_is_asked_again(
    tmp_path: Path, scripted: Callable[[Script], list[Request]]
) -> None:
    scripted(teacher)
    main(config(tmp_path / "whole"))
    failures = iter([False, False, True] + [False] * 20 + [True])

    def failing(request: Request, index: int) -> str:
        if next(failures, False):
            raise RuntimeError("no answer.")
        return teacher(request, index)

    scripted(failing)
    with pytest.raises(UserError, match=r"1 of 3 requests failed \(round 1, instructions\); the first: Runtime"):
        main(config(tmp_path / "failed"))
    with pytest.raises(UserError, match="the same command asks these again"):
        main(config(tmp_path / "failed"))
    main(config(tmp_path / "failed"))
    assert contents(tmp_path / "failed" / "run") == contents(tmp_path / "whole" / "run")


def test_what_always_fails_is_left_out_and_counted_and_does_not_stop_the_run(
    tmp_path: Path, scripted: Callable[[Script], list[Request]]
) -> None:
    refused: set[str] = set()

    def refusing(request: Request, index: int) -> str:
        name, _ = asked(request)
        if name not in refused or request.id in refused:  # the first request of every prompt
            refused.update((name, request.id))
            raise RuntimeError("HTTP 400: no.")
        return teacher(request, index)

    scripted(refusing)
    told = main(config(tmp_path))
    assert told["failed_requests"] == {"request refused by the server": 4} and told["examples"] > 0
    assert told["undecided"] >= 1 and told["without_answer"] >= 2


def test_where_nothing_is_answered_the_run_says_so(
    tmp_path: Path, scripted: Callable[[Script], list[Request]]
) -> None:
    def refusing(request: Request, index: int) -> str:
        raise RuntimeError("HTTP 400: no.")

    scripted(refusing)
    with pytest.raises(UserError, match=r"All 3 requests failed \(round 1, instructions\)"):
        main(config(tmp_path))


def test_a_finished_run_is_not_run_again(tmp_path: Path, scripted: Callable[[Script], list[Request]]) -> None:
    scripted(teacher)
    first = main(config(tmp_path))
    before = contents(tmp_path / "run")

    def never(request: Request, index: int) -> str:
        raise AssertionError

    assert not scripted(never)
    assert main(config(tmp_path)) == first
    assert contents(tmp_path / "run") == before


def test_another_seed_draws_other_data(tmp_path: Path, scripted: Callable[[Script], list[Request]]) -> None:
    scripted(teacher)
    main(config(tmp_path / "a"))
    main(config(tmp_path / "b", draw_seed=1))
    assert contents(tmp_path / "a" / "run")["data.jsonl"] != contents(tmp_path / "b" / "run")["data.jsonl"]


def test_its_ends(tmp_path: Path, scripted: Callable[[Script], list[Request]]) -> None:
    scripted(teacher)
    found = main(config(tmp_path / "wanted", wanted=5))
    kept = [part["with_instances"] for part in found["rounds"]]
    assert sum(kept) >= 5 > sum(kept[:-1])
    assert found["stopped"] == f"it had kept {sum(kept)} instructions with instances, and 5 were enough"
    found = main(config(tmp_path / "rounds", wanted=10**6, rounds=2))
    assert len(found["rounds"]) == 2 and found["stopped"] == "it had made 2 rounds, the most allowed"
    found = main(config(tmp_path / "budget", wanted=10**6, budget=1))
    assert len(found["rounds"]) == 1 and "the budget is 1" in found["stopped"]


def test_it_ends_where_nothing_new_comes(tmp_path: Path, scripted: Callable[[Script], list[Request]]) -> None:
    def stuck(request: Request, index: int) -> str:
        name, _ = asked(request)
        return (
            " Name the seven seas.\n10. Name the seven seas!"
            if name == "instructions"
            else teacher(request, index)
        )

    scripted(stuck)
    found = main(config(tmp_path, patience=2))
    assert [part["kept"] for part in found["rounds"]] == [1, 0, 0]
    assert found["stopped"] == "2 rounds running kept nothing new"
    assert found["examples"] == 1
    assert found["largest_rouge_l"] is None


def test_nothing_kept_is_said(tmp_path: Path, scripted: Callable[[Script], list[Request]]) -> None:
    scripted(lambda request, index: "")
    with pytest.raises(UserError, match="Nothing was kept"):
        main(config(tmp_path))
    assert not (tmp_path / "run" / "self_instruct.json").exists()


def test_what_is_cut_off_is_left_out(tmp_path: Path, scripted: Callable[[Script], list[Request]]) -> None:
    def long(request: Request, index: int) -> str:
        name, _ = asked(request)
        if name == "instructions":
            return " Name the seven seas.\n10. Recall a long and winding tale of old"
        if name == "input-first":
            return "Input: sea\nOutput: Red.\nInput: sand\nOutput: White and fine and never to be counted"
        return teacher(request, index)

    scripted(long)
    found = main(config(tmp_path, rounds=1, requests=1, instruction_tokens=10, instance_tokens=9))
    assert found["reasons"] == {"cut off": 1} and found["instance_reasons"] == {"cut off": 1}
    [row] = read_made(tmp_path / "run" / "data.jsonl")
    assert (row.prompt, row.completion) == ("Name the seven seas.\n\nsea", "Red.")


def test_the_report_and_the_card(tmp_path: Path, scripted: Callable[[Script], list[Request]]) -> None:
    def hostile(request: Request, index: int) -> str:
        text = teacher(request, index)
        return text.replace("So it is", "<script>alert(1)</script> \u202e So it is").replace(
            "words", "<b>words</b>"
        )

    scripted(hostile)
    found = main(config(tmp_path))
    page = (tmp_path / "run" / "report.html").read_text()
    assert "<script" not in page and "<b>" not in page and "\u202e" not in page
    assert not re.search(r"(?:src|href)=\"(?!data:)", page)
    for reason, count in found["reasons"].items():
        assert re.search(rf"<dt>{reason}</dt><dd>{count} of {found['instructions']}</dd>", page)
    assert page.count('<article class="example">') == min(10, found["examples"])
    assert f"{found['kept']} of {found['instructions']} instructions kept" in page
    card = (tmp_path / "run" / "README.md").read_text()
    assert f"{found['examples']} examples that fake wrote" in card and "self-instruct-seeds.jsonl" in card
    assert str(tmp_path) not in card
    settings = " ".join(card.split("## Settings")[1].split())
    assert (
        "3 requests a round, temperature 0.7, top p 0.5, 1,024 tokens at most. Instances: greedy, 350" in settings
    )
    assert "8 seed tasks shown" in settings and "draw seed 0." in settings


def test_what_a_person_read_is_in_the_report(tmp_path: Path, scripted: Callable[[Script], list[Request]]) -> None:
    scripted(teacher)
    main(config(tmp_path))
    page, file = tmp_path / "run" / "report.html", tmp_path / "run" / "readings.csv"
    assert "Nobody has judged the examples yet" in page.read_text()
    head, *rows = file.read_text().splitlines()
    assert head == "id,good,remark" and len(rows) == len(set(rows)) == 10
    ids = [row.split(",")[0] for row in rows]
    file.write_text("\n".join([head, f"{ids[0]},Yes,<i>true</i>", f"{ids[1]},no,", f"{ids[2]},,later"]) + "\n")
    main(config(tmp_path))
    told = page.read_text()
    assert "Of 2 examples drawn by chance a person found 1 good (95 % interval 9 – 91 %)." in told
    assert f"{ids[0]}: good" in told and f"{ids[1]}: not good" in told and f"<h4>{ids[2]}</h4>" in told
    assert "&lt;i&gt;true&lt;/i&gt;" in told
    for row, field in (("0-0-0-0,yes,", "id"), (f"{ids[0]},perhaps,", "good")):
        file.write_text(f"{head}\n{row}\n")
        with pytest.raises(UserError, match=f"readings.csv, row 2, field '{field}'"):
            main(config(tmp_path))


def test_what_became_of_every_instruction_is_told(
    tmp_path: Path, scripted: Callable[[Script], list[Request]], capsys: pytest.CaptureFixture[str]
) -> None:
    """One undecided, one refused, one without an instance to read, one with none that passes, one kept."""
    lists = "".join(f"\n{place}. {verb} the seven {thing}." for place, (verb, thing) in enumerate(CASES, start=10))

    def cases(request: Request, index: int) -> str:
        name, question = asked(request)
        if name == "instructions":
            return f" Praise a quiet, rainy morning.{lists}"
        if question.startswith("Recall"):
            raise RuntimeError("HTTP 400: no.")
        if name == "kind":
            return "who knows" if question.startswith("Praise") else " text"
        if question.startswith("Judge"):
            return "I would rather not."
        return "Output:" if question.startswith("Compare") else "Output: Well, the last."

    scripted(cases)
    found = main(config(tmp_path, rounds=1, requests=1))
    told = (
        "Kept without instances: 2 where the teacher did not say whether they classify, 1 without an instance "
        "that could be read, 1 with none that passed the filters."
    )
    failed = "Requests that failed for good: 1 request refused by the server."
    printed, card = capsys.readouterr().out, (tmp_path / "run" / "README.md").read_text()
    assert found["undecided"] == 2 and "5 of 5 instructions kept, 1 of them with instances: 1 example." in printed
    assert told in printed and failed in printed and told in card and "# 1 example that fake wrote" in card
    assert "| request refused by the server | 1 |" in card
    assert "it had made 1 round, the most allowed. Tokens" in printed


def test_a_teacher_in_folders_is_named_by_content_and_no_path_is_told(
    tmp_path: Path, scripted: Callable[[Script], list[Request]]
) -> None:
    for name in ("base", "tuned"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "model.safetensors").write_bytes(name.encode())
    model = ModelFlags(
        str(tmp_path / "base") + "/", None, str(tmp_path / "tuned"), "int8", EngineConfig(engine="fake")
    )
    scripted(teacher)
    main(replace(config(tmp_path / "runs"), model=model))
    run = tmp_path / "runs" / "run"
    assert not [name for name in FILES if str(tmp_path).encode() in contents(run)[name]]
    identity = model_identity(model.reference())
    assert identity["quantization"] == "int8" and identity["adapter"] == folder_hash(tmp_path / "tuned")
    assert {json.dumps(row.source["teacher"]) for row in read_made(run / "data.jsonl")} == {json.dumps(identity)}
    assert "examples that base with tuned wrote" in contents(run)["README.md"].decode()
    assert "<h1>Self-Instruct by base with tuned</h1>" in (run / "report.html").read_text()


def test_seeds_of_ones_own(tmp_path: Path, scripted: Callable[[Script], list[Request]]) -> None:
    own = tmp_path / "mine.jsonl"
    rows = [
        {"id": f"s{i}", "instruction": f"{verb} my {thing}.", "instances": [{"input": "a", "output": f"b{i}"}]}
        | {"is_classification": i % 2 == 0}
        for i, (verb, thing) in enumerate(zip(VERBS, THINGS, strict=False))
    ]
    own.write_text("".join(json.dumps(row) + "\n" for row in rows))
    seen = scripted(teacher)
    found = main(config(tmp_path, seeds=own))
    assert found["seeds"] == {"file": "mine.jsonl", "tasks": 10}
    assert all(
        id.startswith("s") for line in proposals(tmp_path / "run") for id in line["exemplars"] if "-" not in id
    )
    assert any("Describe my red owls." in "".join(m.content for m in request.messages) for request in seen)
    own.write_text("".join(json.dumps(row | {"id": f"t{row['id']}"}) + "\n" for row in rows))
    with pytest.raises(UserError, match="seeds_hash"):
        main(config(tmp_path, seeds=own))
    with pytest.raises(UserError, match="cannot be read"):
        main(config(tmp_path, seeds=tmp_path / "none.jsonl"))


@pytest.mark.parametrize("name", ["instructions", "kind", "output-first", "input-first"])
def test_a_finished_run_of_other_prompts_is_not_taken_for_this_one(
    tmp_path: Path, scripted: Callable[[Script], list[Request]], monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    scripted(teacher)
    small = config(tmp_path, rounds=1, requests=1)
    main(small)
    shutil.copytree(prompts.FOLDER, tmp_path / "prompts")
    monkeypatch.setattr(prompts, "FOLDER", tmp_path / "prompts")
    main(small)  # wherever they lie
    edited = tmp_path / "prompts" / f"self-instruct-{name}.yaml"
    edited.write_text(edited.read_text() + "# another\n")
    with pytest.raises(UserError, match="prompts_hash"):
        main(small)


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        *((name, 0) for name in ("wanted", "rounds", "requests", "patience", "budget", "top_p", "temperature")),
        *(("instruction_tokens", 0), ("instance_tokens", 0), ("shots", 1), ("top_p", 1.1), ("draw_seed", -1)),
    ],
)
def test_a_setting_out_of_range_is_named(setting: str, value: float) -> None:
    with pytest.raises(UserError, match=setting):
        replace(SelfInstructConfig(), **{setting: value})


def test_a_real_model_through_the_whole_pipeline(tmp_path: Path, tiny_model: Path) -> None:
    """A random model's lists are noise; that nothing is kept is said, and its answers are stored."""
    made = SelfInstructConfig(rounds=1, requests=2, instruction_tokens=24, instance_tokens=16)
    flags = ModelFlags(str(tiny_model), engine=EngineConfig(dtype="float32", device="cpu"))
    try:
        found = main(Config(made, flags, runs=tmp_path, name="run", quiet=True))
        assert found["examples"] > 0
    except UserError as error:
        assert "Nothing was kept" in str(error)
    with Store(tmp_path / "completions.sqlite") as store:
        [stream] = [id for id, key, _ in store.streams() if key["prompt"]["name"] == "self-instruct-instructions"]
        answers = [completion for _, completion in store.rows(stream)]
    assert len(answers) == 2
    for answer in answers:
        assert answer.finish is not Finish.ERROR and 0 < answer.completion_tokens <= 24 < answer.prompt_tokens
