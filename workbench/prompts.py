"""Prompt files, and how a prompt becomes the conversation that an engine sees.

A prompt is one YAML file in `prompts/` (or anywhere, given by its path):

    name: extract                      # the file's name without .yaml
    purpose: extract                   # one word: prompts of one purpose may stand in for each other
    for: what the prompt is for
    source: where it comes from
    style: chat                        # or text: contents are joined as they are, for base models
    variables: [input, fields]         # what `messages` may use
    defaults: {fields: "name, date"}   # optional: values that an example need not bring
    messages:                          # the conversation that asks the question
      - {role: user, content: "{{ input }} Fields: {{ fields }}"}
    shot:                              # optional: one exemplar of a few-shot prompt
      - {role: user, content: "{{ input }} Fields: {{ fields }}"}
      - {role: assistant, content: "{{ target }}"}
    stop: ["\\n"]                       # optional: strings that end the answer

`messages` use `input`, the question; they never see the target or the rationale. A shot may use `input`,
`target`, `rationale` and the declared variables. The shot's last message is how an answer looks: exemplars
show it, and tuning learns it. A variable's value is the example's own, else the default, which `--prompt-args`
changes.

Contents are Jinja templates cut down to text, variables, `if`, comparisons and four filters; `prompt_files.py`
says why. Values are data: braces or control tokens inside a question are never rendered. One trailing newline
of a content or of a default is dropped, because a YAML block (`|`) always ends in one; every other white space
stays.

In the style `text`, whoever scores labels puts a space before each label when the prompt does not end in
white space ("Sentiment:" + " positive"); in the style `chat` a label is scored bare.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import dropwhile
from pathlib import Path

from jinja2 import TemplateError

from workbench.errors import UserError, unknown_name
from workbench.files import write_atomic
from workbench.prompt_files import (
    MAX_FILE_BYTES,
    compile_template,
    file_fields,
    literal,
    parse_prompt,
    prompt_bytes,
    text_field,
    word_field,
)
from workbench.types import Example, Message, Prompt

__all__ = [
    "describe", "literal", "load_prompt", "prompt_names", "prompts_of", "purpose_of", "render", "render_answer",
    "render_shot", "with_values", "write_prompt",
]  # fmt: skip

FOLDER = Path(__file__).parent.parent / "prompts"


def prompt_names() -> list[str]:
    """Names of the prompts that ship."""
    return sorted(path.stem for path in FOLDER.glob("*.yaml"))


def prompts_of(purpose: str) -> list[str]:
    """Names of the prompts that ship and ask for the same thing."""
    return [name for name in prompt_names() if purpose_of(name) == purpose]


def purpose_of(name_or_path: str) -> str:
    """A prompt's purpose: prompts of one purpose may stand in for each other."""
    path = _path(name_or_path)
    return word_field(path, file_fields(path, _bytes(path)), "purpose")


def describe(name_or_path: str) -> str:
    """What a prompt is for and where it comes from, in one line."""
    path = _path(name_or_path)
    fields = file_fields(path, _bytes(path))
    return f"{text_field(path, fields, 'for')} Source: {text_field(path, fields, 'source')}"


def load_prompt(name_or_path: str) -> Prompt:
    """A prompt by its name, or from a path that ends in `.yaml`.

    Raises:
        UserError: the prompt does not exist, or its file is at fault; the message names file and field.
    """
    path = _path(name_or_path)
    return parse_prompt(path, _bytes(path))


def write_prompt(path: str | Path, prompt: Prompt, *, purpose: str, what_for: str, source: str) -> Prompt:
    """Write a prompt as a file that `load_prompt` reads back equal, but for its hash; a file there is replaced.

    Args:
        path: where to; its name is the prompt's name with `.yaml`.
        prompt: without exemplars, which belong to a System and not to a prompt's file.
        purpose, what_for, source: as in the file.

    Returns:
        The prompt as it is loaded from the file.

    Raises:
        UserError: the prompt cannot be a file, or the file cannot be written; what was there is as it was.
    """
    path = Path(path)
    if path.suffix != ".yaml":
        raise UserError(f"{path} cannot be a prompt's file: its name must end in .yaml.")
    if prompt.shots is not None:
        raise UserError(f"The prompt {prompt.name!r} has exemplars, and a prompt's file holds none.")
    data = prompt_bytes(prompt, purpose=purpose, what_for=what_for, source=source)
    loaded = parse_prompt(path, data)  # before it is written: what cannot be read takes no good file's place
    assert replace(loaded, file_hash=prompt.file_hash) == prompt, f"{prompt} would be read as {loaded}"
    write_atomic(path, data)
    return loaded


def with_values(prompt: Prompt, values: Mapping[str, str]) -> Prompt:
    """The prompt with these values of its own variables as defaults, in place of its file's.

    Raises:
        UserError: a variable does not exist; the message lists those that do.
    """
    own = [name for name in prompt.variables if name != "input"]
    for name in values:
        if name not in own:
            there = f"It has: {', '.join(own)}." if own else "It has none but the question itself, `input`."
            raise UserError(f"The prompt {prompt.name!r} has no variable {name!r} to be given. {there}")
    return replace(prompt, defaults=tuple(sorted({**dict(prompt.defaults), **values}.items())))


def render(prompt: Prompt, example: Example, exemplars: Sequence[Example] = ()) -> tuple[Message, ...]:
    """The conversation that asks one question; exemplars come after any leading system messages.

    Raises:
        UserError: a variable is missing, an exemplar has no rationale where one is to be shown, the prompt
            shows no exemplars, or a template is at fault.
    """
    if exemplars and not prompt.shot:
        raise UserError(f"The prompt {prompt.name!r} takes no exemplars: its file has no `shot`.")
    leading = 0
    while leading < len(prompt.messages) and prompt.messages[leading].role == "system":
        leading += 1
    question = _values(prompt, example)
    out = _fill(prompt, prompt.messages[:leading], question)
    for exemplar in exemplars:
        out += render_shot(prompt, exemplar)
    return (*out, *_fill(prompt, prompt.messages[leading:], question))


def render_shot(prompt: Prompt, example: Example) -> tuple[Message, ...]:
    """One exemplar as the prompt shows it: its question and its answer.

    Raises:
        UserError: the example lacks what the shot shows.
    """
    values = {**_values(prompt, example), "target": example.target}
    if example.rationale:  # an example without one lacks the variable, and a shot that shows it says so
        values["rationale"] = example.rationale
    return tuple(_fill(prompt, prompt.shot, values))


def render_answer(prompt: Prompt, example: Example) -> str:
    """What the model should say to the example's question: what the prompt's shot shows after the question.

    Raises:
        UserError: the prompt has no shot, the shot does not begin with the question's own messages, or the
            example lacks what it shows.
    """
    if not prompt.shot:
        raise UserError(f"The prompt {prompt.name!r} shows no answer: its file has no `shot`.")
    shot = render_shot(prompt, example)
    if prompt.style == "chat":
        return shot[-1].content
    asked = dropwhile(lambda message: message.role == "system", render(prompt, example))  # shots have none before
    question = "".join(message.content for message in asked)
    whole = "".join(message.content for message in shot)
    if not whole.startswith(question):
        raise UserError(f"The shot of the prompt {prompt.name!r} does not begin as its messages do.")
    return whole[len(question) :]


def _values(prompt: Prompt, example: Example) -> dict[str, str]:
    return {**dict(prompt.defaults), **dict(example.variables), "input": example.input}


def _fill(prompt: Prompt, messages: Iterable[Message], values: Mapping[str, str]) -> list[Message]:
    out = []
    for message in messages:
        try:
            template, used = compile_template(message.content)
        except ValueError as error:
            raise UserError(f"A template of the prompt {prompt.name!r} {error}.") from error
        missing = sorted(used - values.keys())
        if missing:
            name = missing[0]
            given = name in prompt.variables and name != "input"
            raise UserError(
                f"The prompt {prompt.name!r} uses the variable {name!r}, which this example does not "
                f"have. It has: {', '.join(sorted(values))}."
                + (f" Give one for all examples: --prompt-args {name}=…" if given else "")
            )
        try:
            content = template.render(values)
        except (TemplateError, TypeError) as error:  # a filter's arguments, a text compared with a number
            raise UserError(f"A template of the prompt {prompt.name!r} cannot be rendered: {error}") from error
        out.append(Message(message.role, content))
    return out


def _path(name_or_path: str) -> Path:
    if name_or_path.endswith((".yaml", ".yml")):
        path = Path(name_or_path)
        if not path.is_file():
            raise UserError(f"There is no prompt file {name_or_path!r}.")
        return path
    if name_or_path not in prompt_names():
        raise unknown_name("prompt", name_or_path, prompt_names(), "A file of your own ends in .yaml.")
    return FOLDER / f"{name_or_path}.yaml"


def _bytes(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(MAX_FILE_BYTES + 1)  # one more tells that it is too large
