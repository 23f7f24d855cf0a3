"""Each rule on texts that follow it and on those that nearly do."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from workbench.tasks.rules import NEVER_LAST, RULES, normal, paragraphs, sentences, words

HOLDS = [
    ("begin", "Today", "Today, all is well."),
    ("begin", "Today", "**today** is fine"),
    ("begin", "Today", "“Today” is a word"),
    ("begin", "Today", "Today—or so"),
    ("end", "That is all", "Well. That is all."),
    ("end", "That is all", 'He said: "that is ALL!"'),
    ("end", "That is all", "so\n\n**That is\nall**"),
    ("keywords", "flour, oven", "The OVEN is for flour-based food."),
    ("keywords", "café", "The CAFE\u0301 opens."),
    ("avoid", "the", "There is other bread."),
    ("avoid", "is", "This"),
    ("most_words", "3", "well-known café — ***\n\nfood"),
    ("most_words", "3", "It costs 3.50 …"),
    ("least_words", "3", "well-known café food"),
    ("lowercase", "", "straße, 3 cats & ña!"),
    ("capitals", "", "BREAD, 3 CATS & ÑA!"),
    ("bullets", "2", "Two:\n- a\n  - b\nThat is all."),
    ("bullets", "2", "* **a**\n• b"),
    ("numbered", "2", "Here:\n1. a\n\n2) b\nDone."),
    ("numbered", "2", "1. a\n   - more\n2. b"),
    ("yes_no", "", "Yes."),
    ("yes_no", "", "**NO**!"),
    ("json", "fact, topic", '{"topic": 1, "fact": {"a": [null]}}'),
    ("json", "fact, topic", '```json\n{"fact": "x",\n"topic": ""}\n```'),
    ("quoted", "", '"Bread is good."'),
    ("quoted", "", "“Bread is good.”"),
    ("quoted", "", '"He said "hi" to me."'),
    ("quoted", "", "“He said “hi” to me.”"),
    ("no_commas", "", "Bread; water. 'cake'"),
    ("repeat", "What is tea?", '"what is tea"\n\nA drink.'),
    ("repeat", "Tell me about the sea.", "**Tell me  about the sea:** it is wet"),
    ("title", "", "x <<My title>> y"),
    ("title", "", "# <<été>>"),
    ("placeholder", "", "Dear [name],"),
    ("placeholder", "", "See [a](b) on [your date]."),
    ("postscript", "", "Bread.\n\nP.S. More."),
    ("postscript", "", "Bread.\n**P. S.** More"),
    ("postscript", "", "Bread.\n\np.s.\n\nMore of it\n\nand more"),
    ("sentences", "2", "It is 3.5 m. Good"),
    ("paragraphs", "2", "a\nb\n \n\nc"),
]
FAILS = [
    ("begin", "Today", "Today's bread"),
    ("begin", "Today", "1. Today"),
    ("begin", "Today", "It is today"),
    ("end", "That is all", "That is all, folks."),
    ("end", "That is all", "all"),
    ("keywords", "flour, oven", "flour and ovens"),
    ("keywords", "flour, oven", "oven, flourish"),
    ("avoid", "the", "Bread is THE food."),
    ("avoid", "the", "the-end"),
    ("most_words", "3", "one two three 4"),
    ("least_words", "3", "one - two — …"),
    ("lowercase", "", "bread Is"),
    ("lowercase", "", "123"),
    ("lowercase", "", "été À"),
    ("capitals", "", "BREAD IS gOOD"),
    ("capitals", "", "！!"),
    ("bullets", "2", "- a\n- b\n- c"),
    ("bullets", "2", "**a**\n-b\n- \n---\n* c"),
    ("bullets", "2", "1. a\n2. b"),
    ("numbered", "2", "1. a\n1. b"),
    ("numbered", "2", "2. a\n1. b"),
    ("numbered", "2", "1. a\n2. b\n3. c"),
    ("numbered", "2", "1. a\n2."),
    ("numbered", "2", "It costs 1.5\n1.5 is 2"),
    ("yes_no", "", "Yes, it is."),
    ("yes_no", "", "yes no"),
    ("json", "fact, topic", '{"fact": 1}'),
    ("json", "fact, topic", '{"fact": 1, "topic": 2, "more": 3}'),
    ("json", "fact, topic", '{"fact": 1, "topic": 2, "topic": 3}'),
    ("json", "fact, topic", 'Here: {"fact": 1, "topic": 2}'),
    ("json", "fact, topic", '{"fact": NaN, "topic": 2}'),
    ("json", "fact, topic", "{'fact': 1, 'topic': 2}"),
    ("json", "fact, topic", '["fact", "topic"]'),
    ("json", "fact, topic", '[["fact", 1], ["topic", 2]]'),
    ("json", "fact, topic", '"fact, topic"'),
    ("json", "fact, topic", "[" * 100_000),
    ("json", "fact, topic", '{"fact": ' + "9" * 5000 + ', "topic": 2}'),
    ("quoted", "", "'Bread is good.'"),
    ("quoted", "", '"Bread is good."\n\nThat is all.'),
    ("quoted", "", '"Bread," he said. "Water."'),
    ("quoted", "", '"'),
    ("quoted", "", '" . "'),
    ("no_commas", "", "Bread, water"),
    ("no_commas", "", "面包，水"),
    ("repeat", "What is tea?", "What is tea?"),
    ("repeat", "What is tea?", "Sure! What is tea? A drink."),
    ("repeat", "What is tea?", "What is a tea? A drink."),
    ("title", "", "<< >> <title>"),
    ("title", "", "<<a\nb>>"),
    ("title", "", "a << b and c > d"),
    ("placeholder", "", "[a](http://b) and [ ]"),
    ("placeholder", "", "(name) [x"),
    ("postscript", "", "P.S. Bread."),
    ("postscript", "", "Bread.\n\nP.S."),
    ("postscript", "", "Bread, P.S. more"),
    ("postscript", "", "Bread.\nPS: more"),
    ("sentences", "2", "One. Two. Three."),
    ("paragraphs", "2", "a\n\n---\n\nb\n\nc"),
]


@pytest.mark.parametrize(("rule", "value", "text"), HOLDS)
def test_a_text_that_follows(rule: str, value: str, text: str) -> None:
    assert RULES[rule](normal(text), value)


@pytest.mark.parametrize(("rule", "value", "text"), FAILS)
def test_a_text_that_does_not(rule: str, value: str, text: str) -> None:
    assert not RULES[rule](normal(text), value)


def test_every_rule_is_tried_both_ways() -> None:
    assert {rule for rule, _, _ in HOLDS} == {rule for rule, _, _ in FAILS} == set(RULES)


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("", 0),
        ("…", 0),
        ("Bread", 1),
        ("Bread is good. It is warm", 2),
        ("bread is good. it is warm.", 2),
        ("Dr. Smith met Mrs. J. K. Jones, e.g. at 3 p.m. in the U.S. market.", 1),
        ("It opens at 3 p.m. Then it closes.", 2),
        ("So do I. He does not.", 2),
        ("It is 3.14 or v2.0.1, see a.b.com.", 1),
        ("Well... maybe. Wait… What?! Yes!!!", 4),
        ('"Stop!" he said. "Why?" She left.', 3),
        ("First (a rule). **Then** more.**", 2),
        ("# A heading\nBread is good.\nIt is\nwarm.", 2),
        ("1. Bread\n2. Water. And salt.\n- Oil", 4),
        ("A line\n\nAnother line", 2),
        ("面包很好。水也很好！真的？", 3),
        ("Bread.Water.", 1),
    ],
)
def test_sentences_are_counted(text: str, count: int) -> None:
    assert sentences(normal(text)) == count


def test_words_and_paragraphs() -> None:
    assert words("“It’s 3.50 — well-known/new…” *** a_b -- Ünï") == [
        "it's",
        "3.50",
        "well-known",
        "new",
        "a_b",
        "ünï",
    ]
    assert words("") == words(" ,.!\n👍") == []
    assert paragraphs("a\nb\n\n***\n\n\n c") == ["a\nb", " c"]


texts = (
    st.text(st.sampled_from("aA1 \n\t.,!?-*#[]()<>\"'“”P.S…。，é\u0301ßǅ👍\ud800\u2028:{}"), max_size=80)
    | st.text()
)


@given(texts)
def test_any_text_is_judged_by_what_is_left_of_its_white_space(text: str) -> None:
    kept = normal(text)
    assert normal(kept) == kept == normal(f"\n {text} \r\n")
    for name, rule in RULES.items():
        value = {"keywords": "a, b", "json": "a, b"}.get(name, "3")
        assert rule(kept, value) in (True, False)
    assert len(paragraphs(kept)) <= len(words(kept)) <= sum(map(str.isalnum, kept)) >= sentences(kept)


word = st.text(st.sampled_from("abcdefghij"), min_size=2, max_size=6).filter(lambda w: w not in NEVER_LAST)


@given(st.lists(st.lists(word, min_size=1, max_size=6), min_size=1, max_size=6))
def test_what_is_put_together_is_counted(lines: list[list[str]]) -> None:
    said = [" ".join(line) + "." for line in lines]
    total = sum(map(len, lines))
    for text in (" ".join(said), "\n".join(said), "\n\n".join(said)):
        assert len(words(text)) == total
        assert sentences(text) == len(lines)
        assert RULES["most_words"](text, str(total)) and not RULES["most_words"](text, str(total - 1))
        assert RULES["least_words"](text, str(total)) and not RULES["least_words"](text, str(total + 1))
        assert RULES["keywords"](text, ", ".join(lines[-1])) and not RULES["avoid"](text, lines[-1][0])
        assert RULES["lowercase"](text, "") and RULES["capitals"](text.upper(), "")
        assert RULES["quoted"](f'"{text}"', "") and RULES["end"](text, " ".join(lines[-1]))
    assert len(paragraphs("\n\n".join(said))) == len(said)
    for count in range(1, 8):
        assert RULES["bullets"]("\n".join(f"- {line}" for line in said), str(count)) is (count == len(said))
        listed = "\n".join(f"{place}. {line}" for place, line in enumerate(said, start=1))
        assert RULES["numbered"](listed, str(count)) is (count == len(said))
    assert sentences(listed) == len(said)


@pytest.mark.parametrize(
    "piece", [".", "!", "[", "<<", "<<a", "[a", "- ", "1. ", "\n", " \n", '"', "P.S. ", "“", "a. ", "-"]
)
def test_a_long_text_of_marks_is_judged_at_once(piece: str) -> None:
    """Nothing here needs more than linear time: a quadratic search would take minutes."""
    text = normal("x" + piece * (60_000 // len(piece)) + "x")
    for rule in random.Random(0).sample(sorted(RULES), len(RULES)):
        RULES[rule](text, "3")
