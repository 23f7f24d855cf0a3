"""Verbs and objects by the rule that the report states, and the places of its bars."""

from hypothesis import given
from hypothesis import strategies as st

from workbench.instructing.charts import histogram, rows, stacked
from workbench.instructing.variety import OTHER, QUESTION, Verb, pair_count, verb_and_object, verbs


def test_the_rule() -> None:
    assert verb_and_object("Write a short poem about the sea.") == ("write", "poem")
    assert verb_and_object("Please name three birds.") == ("name", "birds")
    assert verb_and_object("Can you list all the Nobel-prize winners?") == ("list", "nobel-prize")
    assert verb_and_object("What is gravity?") == verb_and_object("What's gravity?") == (QUESTION, "")
    assert verb_and_object("What’s gravity?") == (QUESTION, "")
    for said in ("Let's write a poem.", "Let’s write a poem.", "Lets write a poem.", "Let us write a poem."):
        assert verb_and_object(said) == ("write", "poem")
    assert (
        verb_and_object("Name a baker’s tools.") == verb_and_object("Name a baker's tools.") == ("name", "baker's")
    )
    assert verb_and_object("If it rains, stay in.") == (OTHER, "")
    assert verb_and_object("Translate.") == ("translate", "")
    assert verb_and_object("123 !") == ("", "")


def test_the_commonest() -> None:
    texts = ["Write a poem.", "Write the poem.", "Write a letter.", "Name a bird.", "Why?", "Sing."]
    assert verbs(texts, 3, 1) == [
        Verb("write", 3, (("poem", 2),)),
        Verb(QUESTION, 1, ()),
        Verb("name", 1, (("bird", 1),)),
    ]
    assert pair_count(texts) == 3


@given(st.lists(st.lists(st.floats(0, 500), max_size=20), min_size=1, max_size=3))
def test_a_histogram_holds_every_value(groups: list[list[float]]) -> None:
    for chart in histogram(groups, x="words"):
        unit = (chart["y_ticks"][0]["y"] - chart["y_ticks"][1]["y"]) / int(
            chart["y_ticks"][1]["text"].replace(",", "")
        )
        total = sum(bar["height"] for bar in chart["bars"]) / unit
        assert round(total) == sum(map(len, groups))
        assert len(chart["x_ticks"]) <= 25
        for bar in chart["bars"]:
            assert chart["left"] <= bar["x"] and bar["x"] + bar["width"] <= chart["right"] + 1e-6
            assert bar["y"] >= chart["top"] - 1e-6
            assert bar["y"] + bar["height"] <= chart["bottom"] + 1e-6


def test_a_bin_holds_its_lower_edge() -> None:
    chart = histogram([[0.65, 0.7], [0.75, 1.0]], x="ROUGE-L", width=0.05)[0]
    step = (chart["right"] - chart["left"]) / 21
    places = [round((bar["x"] - chart["left"]) / step - 0.1) for bar in chart["bars"]]
    assert places == [13, 14, 15, 20]


def test_parts_stand_on_each_other() -> None:
    [broad, narrow] = stacked(["1", "2"], [[1, 2], [0, 4]], x="round")
    assert (broad["kind"], narrow["kind"]) == ("broad", "narrow")
    low, high, alone = broad["bars"]
    assert [bar["part"] for bar in broad["bars"]] == [0, 1, 1]
    assert abs(high["y"] + high["height"] - low["y"]) < 1e-9
    assert abs(alone["height"] - 4 * low["height"]) < 1e-9


def test_a_verb_s_bar_is_its_objects_and_the_rest() -> None:
    for chart in rows([Verb("write", 4, (("poem", 2), ("letter", 1))), Verb("name", 2, ())]):
        write, name = chart["lines"]
        assert [part["part"] for part in write["parts"]] == [0, 1, "rest"]
        assert abs(sum(p["width"] for p in write["parts"]) - 2 * sum(p["width"] for p in name["parts"])) < 1e-9
        assert write["words"] == "poem 2, letter 1"
    assert rows([])[0]["lines"] == []
