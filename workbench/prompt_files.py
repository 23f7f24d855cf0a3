"""What the bytes of a prompt's file mean: its fields, its templates, and both ways between them and a `Prompt`.

The format is described in `prompts.py`. Its templates are Jinja cut down to text, variables, `if`, comparisons
and four filters: without loops, calls, attributes and arithmetic a template cannot run for long, grow without
bound or reach into Python, and a prompt needs none of them.
"""

import re
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import yaml
from jinja2 import StrictUndefined, Template, TemplateError, nodes
from jinja2.sandbox import ImmutableSandboxedEnvironment

from workbench.errors import UserError
from workbench.types import Message, Prompt, text_hash

REQUIRED = ("name", "purpose", "for", "source", "style", "variables", "messages")
OPTIONAL = ("defaults", "shot", "stop")
ROLES = ("system", "user", "assistant")
STYLES = ("chat", "text")
SHOT_VARIABLES = ("input", "target", "rationale")
MAX_FILE_BYTES = 1_000_000

# --- templates ---------------------------------------------------------------------------------------

FILTERS = ("trim", "lower", "upper", "capitalize")

_ALLOWED_NODES = (
    nodes.Template, nodes.Output, nodes.TemplateData, nodes.Name, nodes.Const, nodes.If, nodes.CondExpr,
    nodes.Compare, nodes.Operand, nodes.And, nodes.Or, nodes.Not, nodes.Concat, nodes.Filter,
)  # fmt: skip
# keep_trailing_newline: what a message ends in is decided when its file is read, not by Jinja.
_ENVIRONMENT = ImmutableSandboxedEnvironment(undefined=StrictUndefined, keep_trailing_newline=True)
_ENVIRONMENT.globals.clear()

# What a template would not give back as it is: a brace that opens a tag, or could with the text that is put
# behind it; a carriage return, which Jinja turns into a newline; a last newline, which a prompt file drops.
_NOT_LITERAL = re.compile(r"\{(?=[{%#\r]|\n?\Z)|\r|\n\Z")
_AS_EXPRESSION = {"{": '{{ "{" }}', "\r": '{{ "\\r" }}', "\n": '{{ "\\n" }}'}


def literal(text: str) -> str:
    """A template that renders to exactly this text, whatever braces it holds; more may be put behind it.

    The template holds no trailing newline, so that it may also be the content of a message in a prompt file.
    """
    return _NOT_LITERAL.sub(lambda match: _AS_EXPRESSION[match[0]], text)


@lru_cache(maxsize=1024)
def compile_template(source: str) -> tuple[Template, frozenset[str]]:
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


# --- reading ----------------------------------------------------------------------------------------


def file_fields(path: Path, data: bytes) -> dict[str, Any]:
    """A prompt file's fields: none unknown, none missing, their values unchecked.

    Raises:
        UserError: as `parse_prompt`.
    """
    if len(data) > MAX_FILE_BYTES:
        raise UserError(f"The prompt file {path} is larger than {MAX_FILE_BYTES:,} bytes.")
    try:
        fields = yaml.safe_load(data.decode("utf-8"))
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


def parse_prompt(path: Path, data: bytes) -> Prompt:
    """The prompt that a file's bytes hold.

    Raises:
        UserError: the file is at fault; the message names it and its field.
    """
    fields = file_fields(path, data)
    name, _, _, style = (text_field(path, fields, key) for key in ("name", "for", "source", "style"))
    word_field(path, fields, "purpose")
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
    if not any("input" in compile_template(message.content)[1] for message in messages):
        raise _fault(path, "messages", "never use `input`: a template without the question asks nothing")
    return Prompt(
        name=name,
        messages=messages,
        shot=_messages(path, fields, "shot", (*variables, *SHOT_VARIABLES)),
        variables=variables,
        stop=_texts(path, fields, "stop"),
        style=style,
        file_hash=text_hash(data.decode("utf-8")),
        defaults=_defaults(path, fields, variables),
    )


def _fault(path: Path, field: str, what: str) -> UserError:
    return UserError(f"The prompt file {path} is at fault: {field} {what}.")


def text_field(path: Path, fields: Mapping[str, Any], key: str) -> str:
    """A field that must be a text, without the white space around it; else a UserError."""
    value = fields[key]
    if not isinstance(value, str) or not value.strip():
        raise _fault(path, key, f"is {value!r}; it must be a text")
    return value.strip()


def word_field(path: Path, fields: Mapping[str, Any], key: str) -> str:
    """A field that must be one word; else a UserError."""
    word = text_field(path, fields, key)
    if len(word.split()) > 1:
        raise _fault(path, key, f"is {word!r}; it must be one word")
    return word


def _texts(path: Path, fields: Mapping[str, Any], key: str) -> tuple[str, ...]:
    value = fields.get(key, [])
    if not isinstance(value, list) or not all(isinstance(item, str) and item for item in value):
        raise _fault(path, key, f"is {value!r}; it must be a list of texts")
    return tuple(value)


def _defaults(path: Path, fields: Mapping[str, Any], variables: Sequence[str]) -> tuple[tuple[str, str], ...]:
    values = fields.get("defaults", {})
    if not isinstance(values, dict):
        raise _fault(path, "defaults", f"is {values!r}; it must be a mapping of variables to texts")
    for name, value in values.items():
        if name == "input" or name not in variables:
            known = ", ".join(variable for variable in variables if variable != "input") or "none"
            raise _fault(path, "defaults", f"has {name!r}; the variables that may have one are: {known}")
        if not isinstance(value, str):
            raise _fault(path, f"defaults.{name}", f"is {value!r}; it must be a text")
    return tuple(sorted((name, value.removesuffix("\n")) for name, value in values.items()))


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
            _, used = compile_template(content)
        except ValueError as error:
            raise _fault(path, f"{field}.content", str(error)) from error
        undeclared = sorted(used - set(variables))
        if undeclared:
            known = ", ".join(dict.fromkeys(variables)) or "none"
            what = f"uses the variable {undeclared[0]!r}, which is not declared; declared are: {known}"
            raise _fault(path, f"{field}.content", what)
        out.append(Message(role, content))
    return tuple(out)


# --- writing ----------------------------------------------------------------------------------------


def prompt_bytes(prompt: Prompt, *, purpose: str, what_for: str, source: str) -> bytes:
    """The file that `parse_prompt` reads as this prompt; exemplars and the hash are no part of it."""
    fields: dict[str, Any] = {
        "name": prompt.name,
        "purpose": purpose,
        "for": what_for,
        "source": source,
        "style": prompt.style,
        "variables": list(prompt.variables),
        "defaults": {name: _Block(value) for name, value in prompt.defaults},
        "messages": [{"role": m.role, "content": _Block(m.content)} for m in prompt.messages],
        "shot": [{"role": m.role, "content": _Block(m.content)} for m in prompt.shot],
        "stop": list(prompt.stop),
    }
    kept = {key: value for key, value in fields.items() if value or key in REQUIRED}
    text: str = yaml.dump(kept, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=float("inf"))
    return text.encode("utf-8")


class _Block(str):
    """A content or a default: a text that is read without its last newline."""


class _Dumper(yaml.SafeDumper):
    """YAML in which every text is exact and long ones stay readable."""

    def ignore_aliases(self, data: Any) -> bool:  # a text that is there twice is written twice
        return True


def _represent(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    """One line bare, several as a block, where YAML gives them back unchanged; else in quotes, with escapes."""
    saved = f"{text}\n" if isinstance(text, _Block) and ("\n" in text or not text) else str(text)
    lines = saved.split("\n")
    exact = lines[0] == lines[0].lstrip() and all(line.isprintable() and line == line.rstrip() for line in lines)
    style = None if exact and len(lines) == 1 else "|" if exact and lines[0] else '"'
    return dumper.represent_scalar("tag:yaml.org,2002:str", saved, style=style)


for _kind in (str, _Block):
    _Dumper.add_representer(_kind, _represent)
