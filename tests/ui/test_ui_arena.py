"""The arena pane without a browser: what it takes, and every byte that it sends before a vote."""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from clients import Client
from pages import served
from test_report import HOSTILE

from workbench.arena.kept import keep, standings, votes_file
from workbench.catalogue import Catalogue
from workbench.decodes import Sampling
from workbench.engines import EngineConfig
from workbench.errors import UserError
from workbench.model_flags import ModelFlags
from workbench.ui import arena_view as view
from workbench.ui.arena import is_local, opened, players, settings, training

# --- as functions -----------------------------------------------------------------------------------


@pytest.fixture
def catalogue(tmp_path: Path) -> Catalogue:
    flags = ModelFlags(model="fake", engine=EngineConfig("fake"))
    return Catalogue(flags, ["fake:0.9", "fake:0.1"], runs=tmp_path)


def test_players_are_of_the_catalogue_and_in_its_order(catalogue: Catalogue) -> None:
    keys = [entry.key for entry in catalogue.entries()]
    assert [entry.key for entry in players(catalogue, keys[::-1])] == keys
    for few in ([], keys[:1], [keys[0], keys[0]], None, "x"):
        with pytest.raises(UserError, match="Choose two"):
            players(catalogue, few)
    for forged in ("http://evil.example", "../x", 3, None, ["x"]):
        with pytest.raises(UserError, match="not among those"):
            players(catalogue, [keys[0], forged])


def test_numbers_are_checked() -> None:
    assert settings(0.5, 16.0) == Sampling(temperature=0.5, max_tokens=16)
    for temperature, longest in (
        (float("nan"), 16), (-1, 16), (None, 16), ("1", 16), (1, None), (1, 0), (1, 1.5), (1, 10**9),
        (1, float("nan")), (1, float("inf")), (True, 16), (1, True),
    ):  # fmt: skip
        with pytest.raises(UserError, match=r"temperature|max_tokens"):
            settings(temperature, longest)


def test_an_address_is_checked(catalogue: Catalogue) -> None:
    keys = [entry.key for entry in catalogue.entries()]
    assert opened(catalogue, {}) == (keys[:2], "my own")
    wanted = {"tab": "arena", "players": f"{keys[2]},<b>,{keys[0]}", "task": "gsm8k"}
    assert opened(catalogue, wanted) == ([keys[0], keys[2]], "gsm8k")
    assert opened(catalogue, {**wanted, "tab": "compare"}) == (keys[:2], "my own"), "another pane's state"
    assert opened(catalogue, {"tab": "arena", "players": keys[2], "task": "../x.yaml"}) == (keys[:2], "my own")


def row(left: str, right: str, vote: str = "left", **more: Any) -> dict[str, Any]:
    sides = {
        f"{side}_system": {"key": key, "label": key, "hash": "0" * 16}
        for side, key in (("left", left), ("right", right))
    }
    ends = {"left_end": "stop", "right_end": "length", "names_itself": False}
    return {"prompt": "Which?", "left": "l", "right": "r", "vote": vote, **sides, **ends, **more}


def test_all_text_is_inert() -> None:
    evil = HOSTILE + "${document.title='owned'}{{7*7}}"
    shown = view.answers(evil, evil, row(evil, evil)) + view.standings(standings([row(evil, "b")]))
    assert "<script>" not in shown and "<img" not in shown and "{{7*7}}" in shown and "⟨U+0000⟩" in shown


def test_standings_as_a_table() -> None:
    assert "No vote is counted yet." in view.standings(standings([]))
    named = view.standings(standings([row("a", "b", names_itself=True)]))
    assert "1 left out: an answer named its model." in named
    votes = [row("a", "b"), row("b", "a"), row("a", "b"), row("a", "b", "tie")]
    shown = view.standings(standings([{**vote, "prompt": str(number)} for number, vote in enumerate(votes)]))
    assert "4 votes counted. The left answer won 100 % (44 – 100) of 3" in shown
    assert '<th scope="row">a</th><td class="number">1044 (' in shown
    assert '<td class="number">67 % (21 – 94)</td><td class="number">4</td>' in shown
    assert "cannot be told while" not in shown and "Systems)" not in shown
    untold = view.standings(standings([row("a", "b")]))
    assert "cannot be told yet" in untold and "no finite strength fits best" in untold
    alike = {**row("a", "b"), "right": "l"}
    alike["left_system"] = {**alike["left_system"], "hash": "1" * 16}
    shown = view.standings(standings([row("a", "b"), alike]))
    assert "2 votes counted, 1 of them for a side of two equal texts" in shown and "of 1;" in shown
    assert '<th scope="row">a (2 Systems)</th>' in shown and '<th scope="row">b</th>' in shown


def test_the_command_line_is_there_when_there_are_pairs(tmp_path: Path, catalogue: Catalogue) -> None:
    home = tmp_path / "a b"
    assert training(home, False, None) == ("", "")
    keep(home, row("a", "b", "tie"))
    keep(home, row("a", "b", names_itself=True))
    assert training(home, False, None) == ("", "")
    assert training(home, True, None) == (f"workbench dpo --pairs '{home.resolve()}/pairs.jsonl'", "")
    assert training(home, True, catalogue.entries()[0])[0].endswith("--model fake")
    keep(home, row("a", "b", task="gsm8k"))
    said = "These pairs are questions of the dev split of gsm8k: measure on test, not dev."
    assert training(home, False, None)[1] == said
    votes_file(home).write_text('{"vote": 3}\n')
    assert training(home, True, None) == ("", "")


def test_paths_are_for_this_machine_only() -> None:
    def seen(client: str | None, host: str) -> bool:
        inner = SimpleNamespace(url=SimpleNamespace(hostname=host))
        return is_local(SimpleNamespace(client=SimpleNamespace(host=client) if client else None, request=inner))

    assert seen("127.0.0.1", "localhost") and seen("::1", "127.0.0.1")
    assert not seen("192.168.0.7", "127.0.0.1") and not seen("127.0.0.1", "page.example") and not seen(None, "")


# --- over HTTP --------------------------------------------------------------------------------------

QUESTION = "What is 3 + 4?"  # the one is always right, the other always wrong


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("arena") / "runs"


@pytest.fixture(scope="module")
def address(runs: Path) -> Iterator[str]:
    pytest.importorskip("gradio", reason="needs gradio: pip install 'llm-workbench[ui]'")
    flags = ["--engine", "fake", "--model", "fake:0.0", "--also", "fake:1.0", "fake:0.37", "--runs", str(runs)]
    with served("ui.py", *flags) as url:
        yield url


@dataclass
class Player:
    """One visitor in the arena, and all that it was sent."""

    client: Client
    sent: list[str] = field(default_factory=list)

    def hear(self, elem_id: str, event: str, values: dict[str, Any]) -> list[Any]:
        """The values of the listener's outputs when it has ended, and every byte that came meanwhile kept."""
        self.sent = []
        outputs: list[Any] = []
        for told in self.client.trigger(elem_id, event, values):
            self.sent.append(json.dumps(told, ensure_ascii=False))
            if told["msg"] == "process_generating" and not outputs:
                outputs = told["output"]["data"]
            elif told["msg"] == "process_generating":
                outputs = [patched(old, new) for old, new in zip(outputs, told["output"]["data"], strict=True)]
            elif told["msg"] == "process_completed":
                outputs = outputs or told["output"]["data"]
        listener = self.client.listener(elem_id, event)
        return [dict(zip(listener["outputs"], outputs, strict=True))[self.client.ids[name]] for name in _OUT]

    def round(self, **values: Any) -> list[Any]:
        given = {"arena-source": "my own", "arena-own": QUESTION, **values}
        return self.hear("arena-start", "click", given)

    def vote(self, word: str, id: Any) -> list[Any]:
        return self.hear(f"arena-{word}", "click", {"arena-round": id})


_TICK = re.compile("are answering: [1-9]|heartbeat")  # of further seconds, on a busy machine
_OUT = ("arena-answers", "arena-round", "arena-line")


def patched(old: Any, changes: Any) -> Any:
    """What a stream's next piece makes of a value: Gradio sends changes as (what, where, new)."""
    for what, where, new in changes:
        assert what in ("replace", "append", "add", "delete"), what
        if not where:
            old = old + new if what == "append" else new
    return old


@pytest.fixture
def player(address: str) -> Iterator[Player]:
    with Client(address) as client:
        yield Player(client)


def test_no_byte_before_the_vote_tells_one_from_the_other(player: Player) -> None:
    """Everything that the server sends of a round is the same whoever stands left, but for the texts."""
    choices = player.client.components[player.client.ids["arena-players"]]["props"]["choices"]
    assert [label for label, _ in choices] == ["fake:0.0", "fake:1.0", "fake:0.37"]
    names = [name for choice in choices for name in choice]
    kinds: dict[str, set[str]] = {}
    hashes: set[str] = set()
    for _ in range(8):
        answers, id, said = player.round()
        whole = "\n".join(player.sent)
        assert "Which is better?" in said and re.fullmatch("[0-9a-f]{32}", id)
        for name in (*names, *hashes):
            assert name not in whole
        assert {told.count("The answer is") for told in player.sent} == {0, 2}, "both come in one update"
        right = "left" if answers.index("The answer is 7.") < len(answers) / 2 else "right"
        shown, _, said = player.vote("left", id)
        order = re.findall(r"<b>(fake:[\d.]+)</b> <code>([0-9a-f]{16})</code>", shown)
        assert order[0 if right == "left" else 1][0] == "fake:1.0" and len(order) == 2, "the names, after the vote"
        assert f"Left was {order[0][0]}, right was {order[1][0]}." in said
        hashes |= {hash for _, hash in order}
        kinds.setdefault(order[0][0], set()).add(alike(whole))
    assert len(kinds) == 2, "8 rounds with at most two apart have both orders"
    first, second = kinds.values()
    assert first == second and len(first) == 1
    assert len(hashes) == 2


def alike(traffic: str) -> str:
    """Traffic without what is another in every round: texts, ids, and how long both took together."""
    traffic = "\n".join(
        told for told in traffic.splitlines() if "heartbeat" not in told and not _TICK.search(told)
    )
    traffic = re.sub(r"The answer is -?[\d.]+", "TEXT", traffic)
    traffic = re.sub(r"\b[0-9a-f]{32}\b|[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", "ID", traffic)
    return re.sub(
        r'("(?:duration|average_duration|cache_duration|avg_time|rank_eta|eta)": )[^,}]+', r"\1N", traffic
    )


def test_a_vote_is_the_servers_but_for_its_word(player: Player, address: str, runs: Path) -> None:
    _, id, _ = player.round()
    files = set(runs.glob(".page/*/votes.jsonl"))
    with Client(address) as other:  # another visitor, with this round's id
        _, _, said = Player(other).vote("left", id)
        assert "not open any more" in said
    for forged in ("0" * 32, "", None, {"id": id}, [id], "<img src=x onerror=alert(1)>"):
        _, _, said = player.vote("left", forged)
        assert "not open any more" in said
    assert set(runs.glob(".page/*/votes.jsonl")) == files
    player.vote("both-bad", id)
    _, _, said = player.vote("left", id)
    assert "not open any more" in said, "a second vote"
    [file] = set(runs.glob(".page/*/votes.jsonl")) - files
    [kept] = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
    assert kept["vote"] == "both bad" and {kept["left_system"]["label"], kept["right_system"]["label"]} == {
        "fake:0.0",
        "fake:1.0",
    }
    assert [kept[side].startswith("The answer is") for side in ("left", "right")] == [True, True]
    assert kept["prompt"] == QUESTION


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"arena-own": " "}, "Type a question first"),
        ({"arena-own": "x" * 100_001}, "The question has 100,001 characters; 100,000 can be asked."),
        ({"arena-players": []}, "Choose two models or more"),
        ({"arena-temperature": None}, "The temperature must be a number"),
    ],
)
def test_what_is_refused_is_said(player: Player, values: dict[str, Any], said: str) -> None:
    _, _, line = player.round(**values)
    assert said in line and "class=problem" in line


def test_what_is_refused_leaves_the_open_round(player: Player) -> None:
    _, id, _ = player.round()
    for refused in ({"arena-own": " "}, {"arena-players": []}, {"arena-temperature": None}):
        answers, round, line = player.round(**refused)
        assert "class=problem" in line
        for kept in (answers, round):  # an update without a value: nothing is taken away
            assert kept["__type__"] == "update" and '"value"' not in json.dumps(kept)
    shown, _, said = player.vote("left", id)
    assert "Vote kept" in said and "arena-name" in shown
