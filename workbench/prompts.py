"""Prompt files, and how a prompt becomes the conversation that an engine sees.

A prompt is one YAML file in `prompts/` (or anywhere, given by its path):

    name: arithmetic                   # the file's name without .yaml
    for: what the prompt is for
    source: where it comes from
    style: chat                        # or text: contents are joined as they are, for base models
    variables: [input]                 # what `messages` may use
    messages:                          # the conversation that asks the question
      - {role: user, content: "{{ input }}"}
    shot:                              # optional: one exemplar of a few-shot prompt
      - {role: user, content: "{{ input }}"}
      - {role: assistant, content: "{{ target }}"}
    stop: ["\\n"]                       # optional: strings that end the answer

A shot may use `input`, `target`, `rationale` and the declared variables; `messages` never see the target or
the rationale. The shot's last message is how an answer looks: exemplars show it, and tuning learns it.

Contents are Jinja templates cut down to text, variables, `if`, comparisons and four filters. Without loops,
calls, attributes and arithmetic a template cannot run for long, grow without bound or reach into Python; a
prompt needs none of them. Values are data: braces or control tokens inside a question are never rendered.
One trailing newline of a content is dropped, because a YAML block (`|`) always ends in one; every other
white space stays.

In the style `text`, whoever scores labels puts a space before each label when the prompt does not end in
white space ("Sentiment:" + " positive"); in the style `chat` a label is scored bare.
"""

from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import yaml
from jinja2 import StrictUndefined, Template, TemplateError, nodes
from jinja2.sandbox import ImmutableSandboxedEnvironment

from workbench.errors import UserError, unknown_name
from workbench.types import Example, Message, Prompt, text_hash

FOLDER = Path(__file__).parent.parent / "prompts"
REQUIRED = ("name", "for", "source", "style", "variables", "messages")
OPTIONAL = ("shot", "stop")
ROLES = ("system", "user", "assistant")
STYLES = ("chat", "text")
SHOT_VARIABLES = ("input", "target", "rationale")
FILTERS = ("trim", "lower", "upper", "capitalize")
MAX_FILE_BYTES = 1_000_000

_ALLOWED_NODES = (
    nodes.Template, nodes.Output, nodes.TemplateData, nodes.Name, nodes.Const, nodes.If, nodes.CondExpr,
    nodes.Compare, nodes.Operand, nodes.And, nodes.Or, nodes.Not, nodes.Concat, nodes.Filter,
)  # fmt: skip
# keep_trailing_newline: what a message ends in is decided when its file is read, not by Jinja.
_ENVIRONMENT = ImmutableSandboxedEnvironment(undefined=StrictUndefined, keep_trailing_newline=True)
_ENVIRONMENT.globals.clear()


def prompt_names() -> list[str]:
    """Names of the prompts that ship."""
    return sorted(path.stem for path in FOLDER.glob("*.yaml"))


def describe(name_or_path: str) -> str:
    """What a prompt is for and where it comes from, in one line."""
    path = _path(name_or_path)
    fields = _read(path)
    return f"{_text(path, fields, 'for')} Source: {_text(path, fields, 'source')}"


def load_prompt(name_or_path: str) -> Prompt:
    """A prompt by its name, or from a path that ends in `.yaml`.

    Raises:
        UserError: the prompt does not exist, or its file is at fault; the message names file and field.
    """
    path = _path(name_or_path)
    fields = _read(path)
    name, _, _, style = (_text(path, fields, key) for key in ("name", "for", "source", "style"))
    if name != path.stem:
        raise _fault(path, "name", f"is {name!r}, but the file is called {path.name}")
    if style not in STYLES:
        raise _fault(path, "style", f"is {style!r}; it must be one of: {', '.join(STYLES)}")
    variables = _texts(path, fields, "variables")
    for variable in variables:
        if not variable.isidentifier() or variable in SHOT_VARIABLES[1:]:
            raise _fault(path, "variables", f"has {variable!r}, which cannot be a variable of a question")
    messages = _messages(path, fields, "messages", variables)
    if not messages:
        raise _fault(path, "messages", "is empty")
    return Prompt(
        name=name,
        messages=messages,
        shot=_messages(path, fields, "shot", (*variables, *SHOT_VARIABLES)),
        variables=variables,
        stop=_texts(path, fields, "stop"),
        style=style,
        file_hash=text_hash(path.read_bytes().decode("utf-8")),
    )


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
    question = {**dict(example.variables), "input": example.input}
    out = _fill(prompt, prompt.messages[:leading], question)
    for exemplar in exemplars:
        out += _fill(prompt, prompt.shot, _shot_values(exemplar))
    return (*out, *_fill(prompt, prompt.messages[leading:], question))


def render_answer(prompt: Prompt, example: Example) -> str:
    """What the model should say to the example's question: what the prompt's shot shows after the question.

    Raises:
        UserError: the prompt has no shot, the shot does not begin with the question's own messages, or the
            example lacks what it shows.
    """
    if not prompt.shot:
        raise UserError(f"The prompt {prompt.name!r} shows no answer: its file has no `shot`.")
    shot = _fill(prompt, prompt.shot, _shot_values(example))
    if prompt.style == "chat":
        return shot[-1].content
    question = "".join(message.content for message in render(prompt, example))
    whole = "".join(message.content for message in shot)
    if not whole.startswith(question):
        raise UserError(f"The shot of the prompt {prompt.name!r} does not begin as its messages do.")
    return whole[len(question) :]


def _shot_values(exemplar: Example) -> dict[str, str]:
    values = {**dict(exemplar.variables), "input": exemplar.input, "target": exemplar.target}
    if exemplar.rationale:  # an example without one lacks the variable, and a shot that shows it says so
        values["rationale"] = exemplar.rationale
    return values


def _fill(prompt: Prompt, messages: Iterable[Message], values: Mapping[str, str]) -> list[Message]:
    out = []
    for message in messages:
        try:
            template, used = _compile(message.content)
        except ValueError as error:
            raise UserError(f"A template of the prompt {prompt.name!r} {error}.") from error
        missing = sorted(used - values.keys())
        if missing:
            raise UserError(
                f"The prompt {prompt.name!r} uses the variable {missing[0]!r}, which this example does not "
                f"have. It has: {', '.join(sorted(values))}."
            )
        try:
            content = template.render(values)
        except (TemplateError, TypeError) as error:  # a filter's arguments, a text compared with a number
            raise UserError(f"A template of the prompt {prompt.name!r} cannot be rendered: {error}") from error
        out.append(Message(message.role, content))
    return out


@lru_cache(maxsize=1024)
def _compile(source: str) -> tuple[Template, frozenset[str]]:
    """A checked template and the variables it uses.

    Raises:
        ValueError: it is not a template, or uses more of Jinja than a prompt may; the text completes a
            sentence that starts with the field's name.
    """
    used = set()
    try:
        tree = _ENVIRONMENT.parse(source)
        for node in tree.find_all(nodes.Node):  # before compiling: the compiler folds 'x' * 10**9
            if not isinstance(node, _ALLOWED_NODES):
                kind = type(node).__name__.lower()
                raise TemplateError(f"line {node.lineno} uses Jinja's {kind!r}, which prompts may not")
            if isinstance(node, nodes.Filter) and node.name not in FILTERS:
                raise TemplateError(f"it uses the filter {node.name!r}; there are: {', '.join(FILTERS)}")
            if isinstance(node, nodes.Name):
                used.add(node.name)
        return _ENVIRONMENT.from_string(tree), frozenset(used)
    except (TemplateError, ValueError) as error:  # ValueError: a number of thousands of digits
        raise ValueError(f"is not a prompt's template: {error}") from error
    except (RecursionError, MemoryError, SyntaxError) as error:
        raise ValueError("is nested too deeply") from error


# --- reading a file ---------------------------------------------------------------------------------


def _path(name_or_path: str) -> Path:
    if name_or_path.endswith((".yaml", ".yml")):
        path = Path(name_or_path)
        if not path.is_file():
            raise UserError(f"There is no prompt file {name_or_path!r}.")
        return path
    if name_or_path not in prompt_names():
        raise unknown_name("prompt", name_or_path, prompt_names(), "A file of your own ends in .yaml.")
    return FOLDER / f"{name_or_path}.yaml"


def _read(path: Path) -> dict[str, Any]:
    if path.stat().st_size > MAX_FILE_BYTES:
        raise UserError(f"The prompt file {path} is larger than {MAX_FILE_BYTES:,} bytes.")
    try:
        fields = yaml.safe_load(path.read_bytes().decode("utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as error:
        raise UserError(f"The prompt file {path} is not YAML in UTF-8: {error}") from error
    if not isinstance(fields, dict):
        raise UserError(f"The prompt file {path} holds no fields; it needs: {', '.join(REQUIRED)}.")
    for key in fields:
        if key not in REQUIRED + OPTIONAL:
            listing = ", ".join(REQUIRED + OPTIONAL)
            raise UserError(f"The prompt file {path} has an unknown field {key!r}. There are: {listing}.")
    for key in REQUIRED:
        if key not in fields:
            raise UserError(f"The prompt file {path} has no field {key!r}.")
    return fields


def _fault(path: Path, field: str, what: str) -> UserError:
    return UserError(f"The prompt file {path} is at fault: {field} {what}.")


def _text(path: Path, fields: Mapping[str, Any], key: str) -> str:
    value = fields[key]
    if not isinstance(value, str) or not value.strip():
        raise _fault(path, key, f"is {value!r}; it must be a text")
    return value.strip()


def _texts(path: Path, fields: Mapping[str, Any], key: str) -> tuple[str, ...]:
    value = fields.get(key, [])
    if not isinstance(value, list) or not all(isinstance(item, str) and item for item in value):
        raise _fault(path, key, f"is {value!r}; it must be a list of texts")
    return tuple(value)


def _messages(path: Path, fields: Mapping[str, Any], key: str, variables: Sequence[str]) -> tuple[Message, ...]:
    items = fields.get(key, [])
    if not isinstance(items, list):
        raise _fault(path, key, "must be a list of messages, each with a role and a content")
    out = []
    for i, item in enumerate(items):
        field = f"{key}[{i}]"
        if not isinstance(item, dict) or set(item) != {"role", "content"}:
            raise _fault(path, field, "must have a role and a content, and nothing else")
        role, content = item["role"], item["content"]
        if role not in ROLES:
            raise _fault(path, f"{field}.role", f"is {role!r}; it must be one of: {', '.join(ROLES)}")
        if not isinstance(content, str) or not content:
            raise _fault(path, f"{field}.content", "must be a text")
        content = content.removesuffix("\n")
        try:
            _, used = _compile(content)
        except ValueError as error:
            raise _fault(path, f"{field}.content", str(error)) from error
        undeclared = sorted(used - set(variables))
        if undeclared:
            known = ", ".join(dict.fromkeys(variables)) or "none"
            what = f"uses the variable {undeclared[0]!r}, which is not declared; declared are: {known}"
            raise _fault(path, f"{field}.content", what)
        out.append(Message(role, content))
    return tuple(out)
