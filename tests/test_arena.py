"""Blind votes without a page: who plays where, what is asked, what is kept once, and what the votes add up to."""

import asyncio
import copy
import json
import math
import threading
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest

import recipes.dpo
from workbench.arena import asked as asking
from workbench.arena.asked import MOST_APART, Asked, draw_sides, drawn, playable, played, typed
from workbench.arena.kept import keep, kept, pairs_file, standings, votes_file
from workbench.arena.names import names_itself
from workbench.arena.rounds import Match, Round
from workbench.catalogue import Entry
from workbench.decodes import Greedy, LabelLikelihood, Majority, Sample, Sampling
from workbench.engines import EngineConfig
from workbench.engines.fake import FakeEngine
from workbench.errors import UserError
from workbench.identity import system_hash, to_json
from workbench.lending import Lender
from workbench.methods.dpo import Config as DpoConfig
from workbench.methods.lora import Config as LoraConfig
from workbench.preferring.given import Pairs
from workbench.preferring.pairs import read_pairs
from workbench.preferring.votes import read_votes
from workbench.prompts import load_prompt
from workbench.session import Setup
from workbench.training.config import Training
from workbench.types import Completion, Example, Finish, Model, Request, Shots, System

HOW = Sampling(temperature=0.7, max_tokens=64)


def entry(name: str, base: str = "fake", **more: Any) -> Entry:
    return Entry(f"key-{name}", name, Model(base), EngineConfig("fake"), f"weights-{name}", **more)


A, B = entry("Alpha One"), entry("Beta Two", "fake:0.9")


class Scripted(FakeEngine):
    """Each model answers with its own words; `fail`, `empty`, `half` and `long` are what they say."""

    seen: list[Request]

    def __init__(self, model: Model, config: EngineConfig) -> None:
        super().__init__(model)
        self.base, self.seen, self.ended = model.base, [], threading.Event()

    def stream(self, request: Request, sampling: Sampling) -> Iterator[str | Completion]:
        self.seen.append(request)
        said = request.messages[-1].content
        try:
            if self.base == "fake:0.9":
                if said == "fail":
                    yield Completion(0, "", finish=Finish.ERROR, error="the connection was cut")
                    return
                if said in ("empty", "half"):
                    text = " \n" if said == "empty" else "\ud800"
                    yield text
                    yield Completion(0, text, 1, 1)
                    return
            while said in ("long", "fail"):
                yield "word "
                time.sleep(0.01)
            text = f"  {self.base}\n\tsays <b>{said}</b> "
            yield text
            yield Completion(0, text, 3, 2)
        finally:
            self.ended.set()


def rooms(keep: int = 4) -> tuple[Lender, dict[str, Scripted]]:
    engines: dict[str, Scripted] = {}

    def open(model: Any, config: EngineConfig) -> Any:
        return engines.setdefault(model.base, Scripted(model, config))

    return Lender(keep, open), engines


async def played_out(match: Match, lender: Lender, asked: Asked, left: Entry = A, right: Entry = B) -> list[Any]:
    return [now async for now in match.play(lender, asked, left, right, HOW)]


def play(match: Match, question: str = "Which?", lender: Lender | None = None, **sides: Entry) -> Round:
    *ticks, last = asyncio.run(played_out(match, lender or rooms()[0], typed(question), **sides))
    assert isinstance(last, Round) and all(isinstance(tick, float) for tick in ticks)
    return last


def row(left: str, right: str, vote: str = "left", **more: Any) -> dict[str, Any]:
    sides = {f"{side}_system": {"key": key, "label": key.upper(), "hash": key * 4} for side, key in
             (("left", left), ("right", right))}  # fmt: skip
    return {"prompt": "Which?", "left": f"{left} says", "right": f"{right} says", "vote": vote, **sides, **more}


# --- who stands where -------------------------------------------------------------------------------


def drawn_rows(keys: list[str], rounds: int) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    for _ in range(rounds):
        rows.append(row(*draw_sides(list(combinations(keys, 2)), rows)))
    return rows


def orders(rows: list[dict[str, Any]]) -> list[tuple[str, str]]:
    return [(one["left_system"]["key"], one["right_system"]["key"]) for one in rows]


@pytest.mark.parametrize("keys", [["a", "b"], ["a", "b", "c"], ["a", "b", "c", "d"]])
def test_sides_are_balanced_over_a_thousand_rounds(keys: list[str]) -> None:
    rows = drawn_rows(keys, 1000)
    seen: Counter[tuple[str, str]] = Counter()
    for order in orders(rows):
        seen[order] += 1
        assert abs(seen[order] - seen[order[::-1]]) <= MOST_APART
    pairs = Counter(frozenset(order) for order in orders(rows))
    assert len(pairs) == len(keys) * (len(keys) - 1) / 2
    assert max(pairs.values()) - min(pairs.values()) <= 1, "all pairs meet as often"
    for key in keys:
        left = sum(order[0] == key for order in orders(rows))
        assert abs(left - sum(order[1] == key for order in orders(rows))) <= MOST_APART * (len(keys) - 1)


def test_sides_cannot_be_foretold() -> None:
    """Who guesses by the balance so far is right in 5 of 8 rounds; in blocks of two it would be 6 of 8."""
    rows = drawn_rows(["a", "b"], 4000)
    lead, right, forced, repeats = 0, 0.0, 0, 0
    sides = [order[0] for order in orders(rows)]
    for number, side in enumerate(sides):
        guess = "b" if lead > 0 else "a"
        right += 0.5 if lead == 0 else float(side == guess)
        forced += abs(lead) == MOST_APART
        repeats += number > 0 and side == sides[number - 1]
        lead += 1 if side == "a" else -1
    assert right / len(sides) == pytest.approx(0.625, abs=0.03)
    assert forced / len(sides) == pytest.approx(0.25, abs=0.04)
    assert repeats / len(sides) == pytest.approx(0.375, abs=0.04), "no strict taking of turns"
    assert len({tuple(o[0] for o in orders(drawn_rows(["a", "b"], 20))) for _ in range(5)}) > 1


def test_a_pair_that_is_one_system_is_not_drawn() -> None:
    own = System(Model("fake"), load_prompt("arithmetic"), Sample(1, 0.7))
    twin, question = entry("Twin", system=own), typed("Why?")
    pairs = playable([A, twin, B], question, HOW)
    assert pairs == [(A.key, B.key), (twin.key, B.key)]
    rows: list[dict[str, Any]] = []
    for _ in range(20):
        rows.append(row(*draw_sides(pairs, rows)))
        assert {A.key, twin.key} != set(orders(rows)[-1])
    with pytest.raises(UserError, match="Alpha One and Twin are the same System"):
        playable([A, twin], question, HOW)


# --- what is asked ----------------------------------------------------------------------------------


def test_questions_are_typed_or_of_a_dev_split() -> None:
    text = "  {{ 7*7 }}\n\t<b> "
    assert [turn.content for turn in typed(text).turns()] == [text]
    for bad in ("", " \n", None, ["x"]):
        with pytest.raises(UserError, match="Type a question first"):
            typed(bad)
    with pytest.raises(UserError, match="lone surrogate"):
        typed("\ud800")
    dev = asking._loaded("arithmetic").dev
    rows: list[dict[str, Any]] = []
    for _ in range(len(dev)):
        rows.append({"question": drawn("arithmetic", rows).example.id})
    assert {one["question"] for one in rows} == {example.id for example in dev}, "none twice before all once"
    assert drawn("arithmetic", []).prompt == load_prompt("arithmetic")
    for name in ("file", "gym", "../x.yaml", "nothing", None, 3):
        with pytest.raises(UserError, match="no such task here"):
            drawn(name, [])


def test_a_runs_system_answers_as_it_was_made() -> None:
    shots = Shots((Example.make("1+1", "2", "1+1 is 2."),), 1)
    own = replace(load_prompt("arithmetic"), shots=shots)
    question = drawn("arithmetic", [])
    made = entry("run", system=System(Model("fake"), own, Majority(n=8, temperature=0.3)))
    assert played(made, question, HOW) == System(Model("fake"), own, Sample(1, 0.3, max_tokens=64))
    assert played(made, typed("Why?"), HOW).prompt.shots is None
    labels = entry("run", system=System(Model("fake"), load_prompt("classify"), LabelLikelihood()))
    assert played(labels, question, HOW) == System(Model("fake"), question.prompt, Greedy(64))
    assert played(A, question, HOW) == System(Model("fake"), question.prompt, Sample(1, 0.7, max_tokens=64))
    lender, engines = rooms()
    asyncio.run(played_out(Match(), lender, question, made, B))
    [request] = engines["fake"].seen
    assert len(request.messages) == 3 and request.messages[0].content.startswith("1+1"), "its exemplars are shown"
    assert len(engines["fake:0.9"].seen[0].messages) == 1


# --- a round ----------------------------------------------------------------------------------------


def test_a_vote_is_kept_exactly_and_once(tmp_path: Path) -> None:
    match = copy.deepcopy(Match())
    home = tmp_path / "visitor"
    now = play(match, "Which\tone?\n")
    kept_row = match.vote(now.id, "left", home)
    [line] = votes_file(home).read_text(encoding="utf-8").splitlines()
    assert json.loads(line) == kept_row == kept(home)[0]
    assert kept_row["left"] == "  fake\n\tsays <b>Which\tone?\n</b> " and kept_row["prompt"] == "Which\tone?\n"
    question = typed("Which\tone?\n")
    told = {"key": "key-Beta Two", "label": "Beta Two", "hash": system_hash(played(B, question, HOW))}
    assert kept_row["right_system"] == told and kept_row["left_end"] == "stop"
    with pytest.raises(UserError, match="not open any more"):
        match.vote(now.id, "right", home)
    assert len(kept(home)) == 1


def test_a_forged_vote_is_refused_and_the_round_stays_open(tmp_path: Path) -> None:
    match = Match()
    with pytest.raises(UserError, match="not open"):
        match.vote("0" * 32, "left", tmp_path)
    now, other = play(match), play(Match())
    for id in (other.id, "", None, ["x"], {"id": now.id}):
        with pytest.raises(UserError, match="not open"):
            match.vote(id, "left", tmp_path)
    for word in ("both", "LEFT", "", None, ["left"], 1):
        with pytest.raises(UserError, match="A vote is one of left, right, tie, both bad"):
            match.vote(now.id, word, tmp_path)
    assert not votes_file(tmp_path).exists()
    match.vote(now.id, "both bad", tmp_path)


def test_a_vote_that_cannot_be_written_can_be_given_again(tmp_path: Path) -> None:
    match = Match()
    now = play(match)
    (tmp_path / "home").write_text("a file where the folder should be")
    with pytest.raises(UserError, match="could not be written"):
        match.vote(now.id, "left", tmp_path / "home")
    assert match.vote(now.id, "left", tmp_path / "other")["vote"] == "left"


@pytest.mark.parametrize(
    ("question", "said"),
    [
        ("fail", "dropped, because an answer failed: the connection was cut"),
        ("empty", "answered with no readable text"),
        ("half", "answered with no readable text"),
    ],
)
def test_what_is_no_answer_drops_the_round(question: str, said: str, tmp_path: Path) -> None:
    for sides in ({"left": A, "right": B}, {"left": B, "right": A}):
        match, (lender, engines) = Match(), rooms()
        # A lone surrogate cannot be asked for in a question's own text: the model gives it.
        with pytest.raises(UserError, match=said):
            play(match, question, lender, **sides)
        assert engines["fake"].ended.wait(1), "the other answer is stopped too"
        with pytest.raises(UserError, match="not open"):
            match.vote("", "left", tmp_path)
        play(match)  # and the pane goes on


def test_stop_drops_the_round_within_a_second_and_two_do_not_run_at_once() -> None:
    match, (lender, engines) = Match(), rooms()

    begun = 0.0

    async def session() -> None:
        nonlocal begun
        async for _ in match.play(lender, typed("long"), A, B, HOW):
            with pytest.raises(UserError, match="A round is on its way"):
                await anext(match.play(lender, typed("x"), A, B, HOW))
            while not (engines.get("fake") and engines.get("fake:0.9")):
                await asyncio.sleep(0.01)
            begun = time.monotonic()
            match.stop()

    with pytest.raises(UserError, match="Stopped: the round is dropped"):
        asyncio.run(session())
    assert all(engine.ended.wait(1) for engine in engines.values())
    assert begun and time.monotonic() - begun < 1
    play(match)


def test_a_browser_that_has_gone_stops_both() -> None:
    match, (lender, engines) = Match(), rooms()

    async def session() -> None:
        answers = match.play(lender, typed("long"), A, B, HOW)
        await anext(answers)
        while not (engines.get("fake") and engines.get("fake:0.9")):
            await asyncio.sleep(0.01)
        await answers.aclose()

    asyncio.run(session())
    assert all(engine.ended.wait(1) for engine in engines.values())


def test_with_room_for_one_model_they_answer_in_turn() -> None:
    inside = EngineConfig("hf")
    lender, _ = rooms(keep=1)
    play(Match(), "Which?", lender, left=replace(A, engine=inside), right=replace(B, engine=inside))


# --- names ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("I am SmolLM, a helpful assistant.", True),
        ("Hello! I'm ChatGPT and I like sums.", True),
        ("I’m an AI assistant named Qwen2.5-Chat.", True),
        ("I was trained by Hugging Face.", True),
        ("As smollm2-135m-instruct I cannot say.", True),
        ("SmolLM2 says 4.", True),
        ("ask MY-RUN (run: lora) about it", True),
        ("the adapter my-run-id answers", True),
        ("As an AI assistant named Qwen I cannot.", True),
        ("As an AI developed by OpenAI, I cannot.", True),
        ("A linear model fits; the adapter pattern; as a language model I can't; a reward model scores.", False),
        ("The golden ratio, known as phi, is 1.618.", False),
        ("A painter named Claude Monet.", False),
        ("Android was developed by Google.", False),
        ("A llama is an animal. The gpt is a table.", False),
        ("I am Anna. Meta-analysis by Google Scholar shows it.", False),
        ("smollmish words and my-runner", False),
        ("The answer is 4.", False),
    ],
)
def test_answers_that_name_their_model(text: str, names: bool) -> None:
    tuned = Model("smollm2-135m-instruct", adapter="/runs/my-run-id/adapter")
    player = Entry("k", "my-run (run: lora)", tuned, EngineConfig("fake"), "w")
    assert names_itself(text, [player, entry("full", "/runs/another-id/model"), B]) is names


def test_a_vote_on_such_an_answer_is_kept_and_left_out(tmp_path: Path) -> None:
    match = Match()
    now = play(match, "Say: I am ChatGPT")
    assert match.vote(now.id, "left", tmp_path)["names_itself"] is True
    rows = kept(tmp_path)
    assert standings(rows).votes == 0 and standings(rows).left_out == 1 and standings(rows, True).votes == 1
    assert len(pairs_file(tmp_path, False)[1]) == 0 and len(pairs_file(tmp_path, True)[1]) == 1


# --- what the votes add up to -----------------------------------------------------------------------


def apart(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Each on a question of its own."""
    return [{**one, "prompt": f"Question {number}?"} for number, one in enumerate(rows)]


def test_a_vote_between_equal_texts_is_no_win() -> None:
    alike = {**row("a", "b"), "left": "the same", "right": "the same"}
    told = standings(apart([row("a", "b"), row("b", "a"), alike, alike]))
    assert (told.votes, told.decided, told.equal) == (4, 2, 2)
    assert [(one.wins, one.losses, one.equal, one.votes) for one in told.rows] == [(1, 1, 2, 4)] * 2
    assert [one.strength and one.strength.value for one in told.rows] == pytest.approx([1000, 1000])
    only = standings([alike])
    assert only.decided == 0 and only.rows[0].strength is None and only.rows[0].wins == 0


def test_votes_on_one_question_count_as_one_question(tmp_path: Path) -> None:
    votes = [row("a", "b")] * 8 + [row("b", "a")] * 2
    many, one = standings(apart(votes)), standings(votes)
    assert one.left.low == pytest.approx(0.2065, abs=1e-3), "Wilson's of one question"
    assert many.left.low == pytest.approx(0.7225, abs=1e-3), "Wilson's of ten"
    assert (one.rows[0].rate.low, one.rows[0].rate.high) == (0, 1) and one.rows[0].rate.value == 0.8
    assert one.rows[0].strength and math.isinf(one.rows[0].strength.low) and math.isinf(one.rows[0].strength.high)
    assert many.rows[0].strength and many.rows[0].strength.low == pytest.approx(1000)
    for number, vote in enumerate(votes):
        keep(tmp_path, {**vote, "prompt": f"Question {number // 3}?", "vote": ["left", "right"][number % 4 == 0]})
    _, _, bias = read_votes(votes_file(tmp_path))
    assert to_json(standings(kept(tmp_path)).left) == bias["first_preferred"]


def test_a_row_that_pools_systems_says_so() -> None:
    other = row("a", "b")
    other["left_system"] = {**other["left_system"], "hash": "another"}
    assert {one.key: one.systems for one in standings([row("a", "b"), other]).rows} == {"a": 2, "b": 1}


def test_standings_by_hand() -> None:
    rows = apart([row("a", "b"), row("b", "a", "right"), row("a", "b", "right"), row("a", "b", "tie"),
                  row("b", "a", "both bad"), row("a", "b", "left", names_itself=True)])  # fmt: skip
    told = standings(rows)
    first, second = told.rows
    assert (first.label, first.wins, first.losses, first.ties, first.both_bad, first.votes) == ("A", 2, 1, 1, 1, 5)
    assert (second.label, second.wins, second.losses) == ("B", 1, 2)
    assert first.rate.value == pytest.approx(2 / 3) and first.rate.method == "wilson"
    assert first.strength and second.strength
    gap = 400 * math.log10(2.5 / 1.5)  # a tie is half a win
    assert first.strength.value - second.strength.value == pytest.approx(gap)
    assert (told.votes, told.left_out, told.decided, told.left.value) == (5, 1, 3, pytest.approx(1 / 3))


def test_standings_that_cannot_be_told_yet() -> None:
    assert standings([]).rows == ()
    won = standings(apart([row("a", "b")] * 9))
    assert [one.strength for one in won.rows] == [None, None]
    assert won.rows[0].rate.low == pytest.approx(0.7008, abs=1e-3) and won.left.value == 1.0
    only_bad = standings([row("a", "b", "left"), row("a", "b", "right"), row("a", "c", "both bad")])
    assert [bool(one.strength) for one in only_bad.rows] == [True, True, False]


def test_a_torn_line_costs_one_vote(tmp_path: Path) -> None:
    for _ in range(2):
        keep(tmp_path, row("a", "b"))
    file = votes_file(tmp_path)
    file.write_bytes(file.read_bytes()[:-20])
    keep(tmp_path, row("b", "a"))
    for damaged in ({"left": None}, {"vote": "up"}, {"left_system": "a"}):
        keep(tmp_path, {**row("a", "b"), **damaged})
    assert orders(kept(tmp_path)) == [("a", "b"), ("b", "a")]
    file, pairs = pairs_file(tmp_path, False)
    assert [pair.chosen for pair in read_pairs(file)] == [pair.chosen for pair in pairs] == ["a says", "b says"]


def test_the_votes_become_pairs_that_dpo_learns_from(
    tmp_path: Path, tiny_model: Path, capsys: pytest.CaptureFixture[str], one_thread: None
) -> None:
    match, home = Match(), tmp_path / "visitor"
    votes = ["left", "right", "tie", "left", "both bad", "right"]
    for number, vote in enumerate(votes):
        now = play(match, f"Question {number}?")
        match.vote(now.id, vote, home)
    pairs, counts, _ = read_votes(votes_file(home))
    assert counts == {"votes": 6, "ties": 1, "votes against both": 1}
    says = {base: f"  {base}\n\tsays <b>Question 0?</b> " for base in ("fake", "fake:0.9")}
    assert (pairs[0].chosen, pairs[0].rejected) == (says["fake"], says["fake:0.9"])
    assert pairs[1].chosen.startswith("  fake:0.9\n")
    file, found = pairs_file(home, False)
    assert not found, "each names its base"
    file, found = pairs_file(home, True)
    assert len(found) == 4 and [(p.chosen, p.rejected) for p in read_pairs(file)] == [
        (p.chosen, p.rejected) for p in pairs
    ]
    setup = Setup(
        task_args=("practice=8", "dev=4", "test=2"),
        model=str(tiny_model),
        engine=EngineConfig("hf", device="cpu", dtype="float32"),
        runs=tmp_path / "runs",
        name="voted",
        quiet=True,
    )
    training = Training(batch_size=2, precision="float32", learning_rate=1e-2, loss_band=1e6, epochs=1)
    config = DpoConfig(pairs=Pairs(pairs=file), lora=LoraConfig(rank=2, training=training))
    result = recipes.dpo.main(recipes.dpo.Config(setup, config, Sample(n=2, max_tokens=8)))
    assert result.total == 2 and (tmp_path / "runs" / "voted" / "adapter").is_dir()
