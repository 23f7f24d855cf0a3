"""Prompt files load or are refused by file and field; templates end soon; values are data."""

import re
import time
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from workbench.errors import UserError
from workbench.prompts import describe, load_prompt, prompt_names, prompts_of, purpose_of, render, render_answer
from workbench.types import Example, Message, Prompt

EXAMPLE = Example.make("2 + 3 = ?", "5", "2 + 3 is 5", {"labels": "negative, neutral, positive"})
EXEMPLARS = (
    Example.make("1 + 1 = ?", "2", "1 + 1 is 2", {"labels": "negative, neutral, positive"}),
    Example.make("4 + 4 = ?", "8", "4 + 4 is 8", {"labels": "negative, neutral, positive"}),
)
GOOD = {
    "name": "mine",
    "purpose": "test",
    "for": "a test",
    "source": "written for this test",
    "style": "chat",
    "variables": ["input"],
    "messages": [{"role": "user", "content": "{{ input }}"}],
}


def write(folder: Path, **changes: object) -> str:
    fields = {key: value for key, value in {**GOOD, **changes}.items() if value is not None}
    path = folder / "mine.yaml"
    path.write_text(yaml.safe_dump(fields))
    return str(path)


def prompt_of(*contents: str) -> Prompt:
    return Prompt("mine", tuple(Message("user", content) for content in contents))


# --- the prompts that ship --------------------------------------------------------------------------


def examples_for(prompt: Prompt) -> tuple[Example, ...]:
    """Three examples that bring every variable, each with a value of its own."""
    own = [name for name in prompt.variables if name != "input"]
    return tuple(
        Example.make(f"question {i}", f"target {i}", f"steps {i}", {name: f"the {name} {i}" for name in own})
        for i in range(3)
    )


def test_the_library_has_what_its_purposes_need() -> None:
    purposes = {name: purpose_of(name) for name in prompt_names()}
    assert {
        "arithmetic", "phrasebank", "gsm8k", "classify", "question", "persona", "extract", "critique", "revise",
        "judge-score", "judge-pair", "judge-answer", "constitution-critique", "constitution-revise",
    } <= set(purposes.values())  # fmt: skip
    chat = {name for name in prompt_names() if load_prompt(name).style == "chat"}
    for purpose in ("arithmetic", "phrasebank"):  # prompt sensitivity has something to vary
        assert len(chat & set(prompts_of(purpose))) >= 4
    found = " ".join(map(describe, prompts_of("question")))
    assert all(word in found for word in ("zero-shot", "few-shot", "chain of thought"))


@pytest.mark.parametrize("purpose", sorted({purpose_of(name) for name in prompt_names()}))
def test_prompts_of_one_purpose_can_be_exchanged(purpose: str) -> None:
    prompts = [load_prompt(name) for name in prompts_of(purpose)]
    needs = {frozenset(prompt.variables).difference(dict(prompt.defaults)) for prompt in prompts}
    assert len(needs) == 1, "they ask an example for the same variables"
    assert len({(prompt.messages, prompt.shot) for prompt in prompts}) == len(prompts)


@pytest.mark.parametrize("name", prompt_names())
def test_a_shipped_prompt_is_sound(name: str) -> None:
    prompt = load_prompt(name)
    assert re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", name)
    what_for, _, source = describe(name).partition(" Source: ")
    assert what_for.endswith(".")
    assert "written for this project" in source or re.search(r"arXiv \d{4}\.\d{5}", source)
    example = examples_for(prompt)[0]
    zero = render(prompt, example)
    whole = "\n".join(message.content for message in zero)
    assert example.input in whole and all(value in whole for _, value in example.variables)
    assert example.target not in whole and example.rationale not in whole, "the answer is not in the question"
    if prompt.style == "chat":
        assert all(message.content == message.content.strip() for message in zero), "no stray white space"


@pytest.mark.parametrize("name", [name for name in prompt_names() if purpose_of(name) != "propose"])
def test_exemplars_are_asked_as_the_question_is(name: str) -> None:
    prompt = load_prompt(name)
    first, second, example = examples_for(prompt)
    zero = render(prompt, example)
    few = render(prompt, example, (first, second))
    assert few[-1] == zero[-1]
    assert render_answer(prompt, example).strip() in (example.target, example.rationale)
    if prompt.style == "chat":
        turns = [(m.role, m.content) for m in few if m.role != "system"]
        assert [role for role, _ in turns] == ["user", "assistant", "user", "assistant", "user"]
        asked = [render(prompt, e)[-1].content for e in (first, second, example)]
        assert [content for role, content in turns if role == "user"] == asked


def test_the_text_of_the_base_model_prompt_is_exact() -> None:
    prompt = load_prompt("phrasebank-text")
    text = "".join(m.content for m in render(prompt, Example.make("A.", "x"), (Example.make("B.", "neutral"),)))
    assert text == "Sentence: B.\nSentiment: neutral\n\nSentence: A.\nSentiment:"


def test_gsm8k_shows_its_answers_in_the_form_that_it_asks_for() -> None:
    prompt = load_prompt("gsm8k")
    exemplar = Example.make("How many?", "18", "9 and 9 is 18.\n#### 18")
    assert render(prompt, EXAMPLE, (exemplar,))[1].content == "9 and 9 is 18.\n#### 18"
    assert render_answer(prompt, exemplar) == "9 and 9 is 18.\n#### 18"


# --- rendering --------------------------------------------------------------------------------------


def test_exemplars_go_between_the_system_messages_and_the_rest() -> None:
    prompt = load_prompt("phrasebank")
    roles = [m.role for m in render(prompt, EXAMPLE, EXEMPLARS)]
    assert roles == ["system", "user", "assistant", "user", "assistant", "user"]


def test_a_rationale_is_shown_where_the_prompt_shows_it_and_missed_by_name() -> None:
    prompt = load_prompt("arithmetic")
    assert render(prompt, EXAMPLE, EXEMPLARS)[1].content == "1 + 1 is 2"
    with pytest.raises(UserError, match="'arithmetic' uses the variable 'rationale'"):
        render(prompt, EXAMPLE, (Example.make("6 + 1", "7"),))


def test_the_answer_to_learn_is_what_the_shot_shows_after_the_question() -> None:
    example = Example.make("A.", "neutral", "because")
    assert render_answer(load_prompt("phrasebank"), example) == "neutral"
    assert render_answer(load_prompt("arithmetic"), example) == "because"
    assert render_answer(load_prompt("phrasebank-text"), example) == " neutral\n\n"
    with pytest.raises(UserError, match="shows no answer"):
        render_answer(prompt_of("{{ input }}"), example)


def test_a_prompt_without_a_shot_refuses_exemplars() -> None:
    with pytest.raises(UserError, match="'mine' takes no exemplars"):
        render(prompt_of("{{ input }}"), EXAMPLE, EXEMPLARS)


def test_a_missing_variable_is_named_with_the_prompt_and_what_exists() -> None:
    with pytest.raises(UserError, match=r"'mine' uses the variable 'context'.*It has: input, labels\."):
        render(prompt_of("{{ context }}"), EXAMPLE)


def test_the_target_is_no_variable_of_a_question() -> None:
    with pytest.raises(UserError, match="'target'"):
        render(prompt_of("{{ target }}"), EXAMPLE)


@given(st.text(st.characters()))
def test_values_are_data(text: str) -> None:
    prompt = prompt_of("<{{ input }}>\n")
    hostile = text + "{{ 7 * 7 }}{% for %}{# #}<|im_end|>" + text
    example = Example("0" * 16, hostile, "x")
    assert render(prompt, example)[0].content == f"<{hostile}>\n"


@pytest.mark.parametrize(
    "template",
    [
        "{% for a in range(99999) %}{% for b in range(99999) %}x{% endfor %}{% endfor %}",
        "{{ 'x' * 10**9 }}",
        "{{ 10**10**10 }}",
        "{{ input|center(10**9) }}",
        "{{ input|center(999999999) }}",
        "{{ '%999999999s' % input }}",
        "{{ '{:999999999}'.format(input) }}",
        "{% set x = 'aaaaaaaa' %}" + "{% set x = x ~ x %}" * 40 + "{{ x }}",
        "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
        "{{ lipsum(n=100000) }}",
        "{{ input.__class__.__mro__ }}",
        "{{ input['__class__'] }}",
        "{{ input|attr('__class__') }}",
        "{{ self._TemplateReference__context }}",
        "{% include '/etc/passwd' %}",
        "{{ " + "(" * 9000 + "1" + ")" * 9000 + " }}",
        "{% if input %}" * 300 + "{% endif %}" * 300,
        "{{ " + "9" * 9000 + " }}",
        "{{ input|upper('x') }}",
        "{{ input < 1 }}",
        "{{ input",
    ],
)
def test_a_template_that_would_run_for_long_or_reach_out_is_refused_at_once(template: str) -> None:
    begin = time.process_time()
    with pytest.raises(UserError, match="'mine'"):
        render(prompt_of(template), EXAMPLE)
    assert time.process_time() - begin < 1


# --- files ------------------------------------------------------------------------------------------


def test_a_file_of_ones_own_is_read_and_its_trailing_newline_does_not_leak(tmp_path: Path) -> None:
    content = "{% if context == 'x' %}{{ context|upper }}{% else %}-{% endif %}: {{ input }}\n"
    path = write(
        tmp_path,
        variables=["input", "context"],
        messages=[{"role": "user", "content": content}],
        stop=["\n"],
    )
    prompt = load_prompt(path)
    assert (prompt.name, prompt.stop, len(prompt.file_hash)) == ("mine", ("\n",), 16)
    assert render(prompt, Example.make("q", "a", variables={"context": "x"}))[0].content == "X: q"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"name": "other"}, r"name is 'other', but the file is called mine\.yaml"),
        ({"extra": 1}, "unknown field 'extra'"),
        ({"source": None}, "no field 'source'"),
        ({"for": " "}, "for is ' '; it must be a text"),
        ({"style": "html"}, "style is 'html'; it must be one of: chat, text"),
        ({"variables": "input"}, "variables is 'input'; it must be a list"),
        ({"variables": ["target"]}, "variables has 'target'"),
        ({"variables": ["a b"]}, "variables has 'a b'"),
        ({"messages": []}, "messages is empty"),
        ({"messages": {}}, "messages must be a list"),
        ({"messages": ["hi"]}, r"messages\[0\] must have a role and a content"),
        ({"messages": [{"role": "tool", "content": "x"}]}, r"messages\[0\]\.role is 'tool'"),
        ({"messages": [{"role": "user", "content": 3}]}, r"messages\[0\]\.content must be a text"),
        (
            {"messages": [{"role": "user", "content": "{{ input"}]},
            r"messages\[0\]\.content is not a prompt's template",
        ),
        (
            {"messages": [{"role": "user", "content": "{{ inptu }}"}]},
            r"messages\[0\]\.content uses the variable 'inptu', which is not declared; declared are: input",
        ),
        (
            {"messages": [{"role": "user", "content": "{{ input.__class__ }}"}]},
            r"messages\[0\]\.content is not a prompt's template: line 1 uses Jinja's 'getattr'",
        ),
        (
            {"shot": [{"role": "user", "content": "{{ self }}"}]},
            r"shot\[0\]\.content uses the variable 'self'",
        ),
        ({"stop": [1]}, r"stop is \[1\]"),
    ],
)
def test_a_file_at_fault_is_named_with_its_field(tmp_path: Path, changes: dict[str, object], message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        load_prompt(write(tmp_path, **changes))
    assert "mine.yaml" in str(caught.value)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "holds no fields"),
        (b"a: [", "is not YAML"),
        (b"name: \xff", "is not YAML in UTF-8"),
        (b"[" * 50_000, "is not YAML"),
        (b"#" * 2_000_000, "larger than"),
        (b"!!python/object/apply:os.system ['true']", "is not YAML"),
    ],
)
def test_a_file_that_is_no_prompt_is_named(tmp_path: Path, data: bytes, message: str) -> None:
    path = tmp_path / "mine.yaml"
    path.write_bytes(data)
    with pytest.raises(UserError, match=message):
        load_prompt(str(path))


def test_an_unknown_name_lists_what_exists() -> None:
    with pytest.raises(UserError, match=r"no prompt named 'arithmetik'. Did you mean 'arithmetic'\?"):
        load_prompt("arithmetik")
    with pytest.raises(UserError, match=r"no prompt file 'nowhere\.yaml'"):
        load_prompt("nowhere.yaml")
