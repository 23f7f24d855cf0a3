"""Texts survive templates and files exactly; purposes and defaults are read; what cannot be a file is refused."""

from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from workbench.errors import UserError
from workbench.prompts import (
    literal,
    load_prompt,
    prompts_of,
    purpose_of,
    render,
    render_shot,
    with_values,
    write_prompt,
)
from workbench.types import Example, Message, Prompt, Shots

EXAMPLE = Example.make("2 + 3 = ?", "5", "2 + 3 is 5")
ASK = Message("user", "{{ input }}")
QUESTION = Prompt("mine", (ASK,), (ASK, Message("assistant", "{{ target }}")))
FIELDS = {
    "name": "mine",
    "purpose": "test",
    "for": "a test",
    "source": "this test",
    "style": "chat",
    "variables": ["input", "level", "role"],
    "messages": [{"role": "user", "content": "You are {{ role }}. {{ input }} For {{ level }}."}],
}

# Any text at all, and texts of what means something to Jinja or to YAML.
texts = (
    st.text(st.characters()) | st.text(st.sampled_from("{}%#-\n\r \t'\":|>&*!\\a\x85\u2028\ufeff\0😀")) | st.text()
)
one_file = settings(suppress_health_check=[HealthCheck.function_scoped_fixture])


def write(folder: Path, **changes: object) -> str:
    path = folder / "mine.yaml"
    path.write_text(yaml.safe_dump({**FIELDS, **changes}))
    return str(path)


def written(folder: Path, prompt: Prompt, name: str = "mine.yaml") -> Prompt:
    return write_prompt(folder / name, prompt, purpose="test", what_for="a test", source="this test")


# --- literal ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "template"),
    [
        ("Answer with {}.", "Answer with {}."),
        ('{"a": {"b": 1}}', '{"a": {"b": 1}}'),
        ("{{ input }}", '{{ "{" }}{ input }}'),
        ("{% raw %}", '{{ "{" }}% raw %}'),
        ("{# no #}", '{{ "{" }}# no #}'),
        ("open {", 'open {{ "{" }}'),
        ("a line\n", 'a line{{ "\\n" }}'),
        ("a line\r\n", 'a line{{ "\\r" }}{{ "\\n" }}'),
    ],
)
def test_only_what_a_template_would_change_is_escaped(text: str, template: str) -> None:
    assert literal(text) == template


@one_file
@given(texts, texts)
def test_a_literal_renders_to_itself_from_a_file(tmp_path: Path, first: str, second: str) -> None:
    contents = [literal(first) + "{{ input }}" + literal(second), literal(first), "{{ input }}"]
    messages = [{"role": "user", "content": content} for content in contents if content]
    path = tmp_path / "mine.yaml"
    path.write_text(yaml.safe_dump({**FIELDS, "messages": messages}))
    asked = [message.content for message in render(load_prompt(str(path)), EXAMPLE)]
    assert asked == [first + EXAMPLE.input + second, *([first] if first else []), EXAMPLE.input]


# --- writing ----------------------------------------------------------------------------------------


@one_file
@given(st.lists(texts, min_size=1, max_size=3), st.lists(texts.filter(bool), max_size=2), texts)
def test_a_prompt_survives_its_file_exactly(
    tmp_path: Path, contents: list[str], stop: list[str], default: str
) -> None:
    messages = (*(Message("system", literal(content)) for content in contents), ASK)
    raw = tuple(Message("assistant", content.replace("{", "")) for content in contents)
    prompt = Prompt(
        "mine",
        messages,
        (ASK, *raw),
        ("input", "level", "role"),
        tuple(stop),
        "text",
        defaults=(("level", default), ("role", contents[0])),
    )
    loaded = written(tmp_path, prompt)
    assert replace(loaded, file_hash="") == prompt
    assert load_prompt(str(tmp_path / "mine.yaml")) == loaded and len(loaded.file_hash) == 16


def test_a_long_text_is_one_that_people_can_read(tmp_path: Path) -> None:
    long = "Read the question twice. " * 200 + "Then answer: yes or no."
    lines = 'Do this:\n\n  1. read\n  2. answer "it"\n\nQuestion: {{ input }}'
    prompt = Prompt("mine", (Message("system", long), Message("user", lines)))
    assert written(tmp_path, prompt).messages == prompt.messages
    text = (tmp_path / "mine.yaml").read_text()
    assert f"content: '{long}'" in text
    assert '|\n    Do this:\n\n      1. read\n      2. answer "it"\n\n    Question: {{ input }}\n' in text


def test_what_is_no_prompt_takes_no_good_files_place(tmp_path: Path) -> None:
    good = written(tmp_path, QUESTION)
    bad = {
        "never use `input`": replace(QUESTION, messages=(Message("user", "hi"),)),
        r"messages\[0\]\.content is not a prompt's template": replace(QUESTION, messages=(Message("user", "{{"),)),
        "name is 'other'": replace(QUESTION, name="other"),
        "'mine' has exemplars": replace(QUESTION, shots=Shots((EXAMPLE,), 1)),
        "larger than 1,000,000 bytes": replace(QUESTION, shot=(ASK, Message("assistant", "x" * 1_000_000))),
    }
    for message, prompt in bad.items():
        with pytest.raises(UserError, match=message):
            written(tmp_path, prompt)
    with pytest.raises(UserError, match=r"must end in \.yaml"):
        written(tmp_path, QUESTION, "mine.txt")
    assert load_prompt(str(tmp_path / "mine.yaml")) == good
    assert [path.name for path in tmp_path.iterdir()] == ["mine.yaml"]


def test_a_file_is_replaced(tmp_path: Path) -> None:
    first = written(tmp_path, QUESTION)
    second = written(tmp_path, replace(QUESTION, messages=(Message("user", "Again: {{ input }}"),)))
    assert load_prompt(str(tmp_path / "mine.yaml")) == second != first


# --- purpose, defaults, values ----------------------------------------------------------------------


def test_prompts_of_one_purpose() -> None:
    assert {"arithmetic", "arithmetic-number", "arithmetic-steps"} <= set(prompts_of("arithmetic"))
    assert "phrasebank" not in prompts_of("arithmetic")
    assert prompts_of("nothing") == []
    assert purpose_of("phrasebank-text") == "phrasebank"


def test_the_purpose_of_a_file_of_ones_own(tmp_path: Path) -> None:
    assert purpose_of(write(tmp_path)) == "test"
    with pytest.raises(UserError, match="purpose is 'two words'; it must be one word"):
        purpose_of(write(tmp_path, purpose="two words"))


def test_an_examples_own_value_comes_before_the_default(tmp_path: Path) -> None:
    prompt = load_prompt(write(tmp_path, defaults={"role": "a cook\n", "level": "a child"}))
    assert prompt.defaults == (("level", "a child"), ("role", "a cook"))
    assert render(prompt, EXAMPLE)[0].content == "You are a cook. 2 + 3 = ? For a child."
    own = Example.make("Why?", "so", variables={"role": "a judge"})
    assert render(prompt, own)[0].content == "You are a judge. Why? For a child."


def test_a_missing_value_says_how_to_give_it(tmp_path: Path) -> None:
    prompt = load_prompt(write(tmp_path, defaults={"role": "a cook"}))
    with pytest.raises(UserError, match=r"'level', .* It has: input, role\. .*: --prompt-args level=…"):
        render(prompt, EXAMPLE)
    assert render(with_values(prompt, {"level": "all"}), EXAMPLE)[0].content.endswith("For all.")


def test_values_take_the_defaults_place_and_unknown_ones_are_told(tmp_path: Path) -> None:
    prompt = load_prompt(write(tmp_path, defaults={"role": "a cook"}))
    assert with_values(prompt, {}) == prompt
    assert with_values(prompt, {"role": "x=y", "level": ""}).defaults == (("level", ""), ("role", "x=y"))
    for name in ("rôle", "input", "target"):
        with pytest.raises(UserError, match=rf"no variable '{name}' to be given\. It has: level, role\."):
            with_values(prompt, {name: "x"})
    with pytest.raises(UserError, match="It has none but the question itself"):
        with_values(QUESTION, {"role": "x"})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"purpose": ""}, "purpose is ''; it must be a text"),
        ({"defaults": ["role"]}, r"defaults is \['role'\]; it must be a mapping"),
        ({"defaults": {"rule": "x"}}, "defaults has 'rule'; the variables that may have one are: level, role"),
        ({"defaults": {"input": "x"}}, "defaults has 'input'"),
        ({"defaults": {1: "x"}}, "defaults has 1;"),
        ({"defaults": {"role": 3}}, r"defaults\.role is 3; it must be a text"),
        ({"messages": [{"role": "user", "content": "{{ role }}"}]}, "a template without the question"),
    ],
)
def test_a_fault_is_named(tmp_path: Path, changes: dict[str, object], message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        load_prompt(write(tmp_path, **changes))
    assert "mine.yaml is at fault" in str(caught.value)


# --- one exemplar -----------------------------------------------------------------------------------


def test_one_exemplar_as_the_prompt_shows_it(tmp_path: Path) -> None:
    assert render_shot(QUESTION, EXAMPLE) == (Message("user", "2 + 3 = ?"), Message("assistant", "5"))
    assert render_shot(replace(QUESTION, shot=()), EXAMPLE) == ()
    few = render(QUESTION, EXAMPLE, (EXAMPLE, EXAMPLE))
    assert few == (*render_shot(QUESTION, EXAMPLE) * 2, Message("user", "2 + 3 = ?"))
    steps = replace(QUESTION, shot=(ASK, Message("assistant", "{{ rationale }}")))
    with pytest.raises(UserError, match="'rationale'"):
        render_shot(steps, Example.make("q", "a"))
