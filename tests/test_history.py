"""Conversations as trees: branches, versions, exact texts, two writers, search, and ids that somebody made up."""

import threading
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from test_report import HOSTILE

from workbench.conversation import Turn
from workbench.errors import UserError
from workbench.history import NAME_LENGTH, Chat, History, Node, first_words


def question(id: str, parent: str, text: str = "") -> Node:
    return Node(id, parent, "user", text or f"question {id}")


def answer(id: str, parent: str, text: str = "", **fields: object) -> Node:
    return replace(Node(id, parent, "assistant", text or f"answer {id}", system_prompt="Be brief."), **fields)


@pytest.fixture
def tree() -> Chat:
    """q1 → a1, a2; a1 → q2 → a3; a2 → q3, q4 (nobody answered q4)."""
    nodes = [
        question("q1", ""), answer("a1", "q1", request="r", index=0), answer("a2", "q1", request="r", index=1),
        question("q2", "a1"), answer("a3", "q2"), question("q3", "a2"), answer("a4", "q3"), question("q4", "a2"),
    ]  # fmt: skip
    return Chat("0" * 16, "name", {node.id: node for node in nodes}, "a3")


def ids(nodes: list[Node]) -> list[str]:
    return [node.id for node in nodes]


# --- the tree -----------------------------------------------------------------------------------------


def test_a_branch_is_the_way_from_the_beginning(tree: Chat) -> None:
    assert ids(tree.branch()) == ["q1", "a1", "q2", "a3"]
    assert ids(tree.branch("a4")) == ["q1", "a2", "q3", "a4"]
    assert tree.branch("") == tree.branch("nowhere") == []


def test_versions_and_moving_among_them(tree: Chat) -> None:
    assert ids(tree.siblings("a2")) == ["a1", "a2"] and ids(tree.siblings("q2")) == ["q2"]
    assert tree.moved("a2", -1) == "a3", "the newest end of that branch"
    assert tree.moved("a1", 1) == "q4"
    assert tree.moved("q4", -1) == "a4"
    for id, step in (("a1", -1), ("a2", 1), ("q1", 1), ("nobody", 1), (None, 1), (["a1"], 1)):
        with pytest.raises(UserError):
            tree.moved(id, step)


def test_a_question_without_an_answer_is_not_built_on(tree: Chat) -> None:
    assert tree.last_answer("q4") == "a2" and tree.last_answer("a3") == "a3"
    assert tree.last_answer("q1") == "" == tree.last_answer("")
    assert [turn.question for turn in tree.conversation("q4").turns] == ["question q1"]


def test_a_branch_is_a_conversation_with_its_last_system_prompt(tree: Chat) -> None:
    said = tree.conversation()
    assert said.system_prompt == "Be brief."
    assert said.turns == [Turn("question q1", "answer a1", "stop"), Turn("question q2", "answer a3", "stop")]


def test_the_same_request_gets_the_next_sample(tree: Chat) -> None:
    assert tree.next_index("r") == 2 and tree.next_index("another") == 0


def test_a_message_is_of_its_role(tree: Chat) -> None:
    assert tree.message("q1", "user").text == "question q1"
    with pytest.raises(UserError, match="not in the conversation"):
        tree.message("a1", "user")


def test_a_tree_that_bites_its_tail_ends(tree: Chat) -> None:
    nodes = {"x": question("x", "y"), "y": answer("y", "x")}
    circle = Chat("0" * 16, "", nodes, "x")
    assert len(circle.branch()) <= 3 and circle.newest_below("x") in nodes


# --- files --------------------------------------------------------------------------------------------


TEXTS = st.text(st.characters(exclude_categories=()) | st.sampled_from("\0\t\n\ud800\u202e"))


@given(TEXTS, TEXTS)
def test_texts_come_back_exactly(tmp_path_factory: pytest.TempPathFactory, asked: str, said: str) -> None:
    # A high half and a low half side by side are one character in JSON, which no decoder generates apart.
    asked, said = (
        text.encode("utf-16", "surrogatepass").decode("utf-16", "surrogatepass") for text in (asked, said)
    )
    history = History(tmp_path_factory.mktemp("h"))
    nodes = [question("q", "", asked or "?"), answer("a", "q", said or "!", end="stopped", seconds=0.5)]
    chat = history.add(history.begin("x").id, nodes, "a", {"model": said})
    assert history.read(chat.id) == chat
    assert list(chat.nodes.values()) == nodes


def test_two_tabs_lose_nothing(tmp_path: Path) -> None:
    history = History(tmp_path)
    id = history.begin("x").id

    def write(tab: int) -> None:
        for i in range(20):
            History(tmp_path).add(id, [question(f"{tab}-{i}", "")], f"{tab}-{i}")

    tabs = [threading.Thread(target=write, args=(tab,)) for tab in range(4)]
    for tab in tabs:
        tab.start()
    for tab in tabs:
        tab.join()
    assert len(history.read(id).nodes) == 80
    again = history.add(id, [question("0-0", "", "another text")])
    assert again.nodes["0-0"].text == "question 0-0", "a message is never changed"


def test_a_deleted_conversation_is_not_made_again_by_an_answer_that_comes_late(tmp_path: Path) -> None:
    history = History(tmp_path)
    id = history.begin("x").id
    history.delete(id)
    with pytest.raises(UserError, match="not among yours"):
        history.add(id, [question("q", "")], "q")
    assert history.listed() == []
    with pytest.raises(UserError):
        history.delete(id)


def test_a_conversation_that_another_tab_deletes_meanwhile_is_not_listed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    history = History(tmp_path)
    kept, gone = history.begin("kept").id, history.begin("gone").id
    usual = Path.stat

    def stat(path: Path, **how: bool) -> object:
        if path.stem == gone:
            path.unlink(missing_ok=True)
        return usual(path, **how)

    monkeypatch.setattr(Path, "stat", stat)
    assert [one.id for one in history.listed()] == [kept]


def test_a_file_from_before_the_wait_was_told_is_read(tmp_path: Path) -> None:
    history = History(tmp_path)
    id = history.begin("x").id
    history.add(id, [question("q", ""), answer("a", "q", seconds=2.0)], "a")
    path = tmp_path / f"{id}.json"
    path.write_text(path.read_text().replace('"waited": 0.0', '"index": 0'))
    assert "waited" not in path.read_text() and history.read(id).message("a").waited == 0.0


def test_search_finds_names_and_texts(tmp_path: Path) -> None:
    history = History(tmp_path)
    first, second = history.begin("How do magnets work?"), history.begin("Bread")
    history.add(second.id, [question("q", "", "How is Bread baked?"), answer("a", "q", "In an OVEN.")], "a")
    assert {one.name for one in history.listed()} == {"How do magnets work?", "Bread"}
    assert [one.id for one in history.listed("magnets")] == [first.id]
    assert [one.id for one in history.listed("oven BREAD")] == [second.id]
    assert [one.id for one in history.listed(" how ")] == [second.id, first.id], "the latest first"
    assert history.listed("nothing") == [] and len(history.listed(most=1)) == 1


def test_names(tmp_path: Path) -> None:
    assert first_words("  two\nwords ") == "two words"
    assert first_words("word " * 100) == "word word word word word word word word"
    assert first_words("x" * 1000) == "x" * (NAME_LENGTH // 2)
    history = History(tmp_path)
    id = history.begin("x").id
    assert history.rename(id, " A\nnew  name ").name == "A new name" == history.read(id).name
    for name in ("", " ", "x" * (NAME_LENGTH + 1)):
        with pytest.raises(UserError, match="1 to 80 characters"):
            history.rename(id, name)
    assert history.rename(id, HOSTILE[:40]).name == " ".join(HOSTILE[:40].split())


@pytest.mark.parametrize(
    "id", ["", "../secret", "/etc/passwd", "0" * 16, "0" * 15 + "\0", None, ["a"], 1, "A" * 16]
)
def test_ids_that_somebody_made_up_open_nothing(tmp_path: Path, id: object) -> None:
    (tmp_path / "secret.json").write_text("{}")
    history = History(tmp_path / "mine")
    history.begin("x")
    with pytest.raises(UserError, match="not among yours"):
        history.read(id)


def test_another_visitors_conversation_is_not_among_mine(tmp_path: Path) -> None:
    theirs = History(tmp_path / "theirs").begin("secret")
    with pytest.raises(UserError, match="not among yours"):
        History(tmp_path / "mine").read(theirs.id)


@pytest.mark.parametrize(
    "content", ["", "[]", "{}", '{"name": 1, "leaf": "", "settings": {}, "nodes": [{"id": 1}]}']
)
def test_a_damaged_file_hides_no_other(tmp_path: Path, content: str) -> None:
    history = History(tmp_path)
    good, bad = history.begin("good"), history.begin("bad")
    (tmp_path / f"{bad.id}.json").write_text(content)
    with pytest.raises(UserError, match="damaged"):
        history.read(bad.id)
    assert [one.id for one in history.listed()] == [good.id]
