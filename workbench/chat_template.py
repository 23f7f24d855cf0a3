"""A model's own chat template, rendered so that a hostile one can neither reach Python nor run for ever.

A chat template comes with a model and is a program: unlike the prompts in `prompts/`, it needs loops. It
runs in Jinja's sandbox, as in transformers, and here also in a process that is killed when it takes too long
or too much (`killable.py`): `{% set x = x ~ x %}` fills a machine's memory in forty steps.
"""

import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from functools import lru_cache
from typing import Any, NoReturn

from jinja2 import Template, TemplateError, nodes
from jinja2.ext import Extension
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

from workbench.errors import UserError
from workbench.killable import Killed, Worker
from workbench.types import Message

_SECONDS = 2.0  # a conversation takes well under a millisecond
_MAX_CHARACTERS = 50_000_000
_worker = Worker("workbench.chat_template", memory=1 << 30)


def render_chat_template(
    template: str, messages: Sequence[Message], tokens: Mapping[str, str], *, ask: bool = True
) -> str:
    """The conversation as the model's template writes it.

    Args:
        template: the template's source.
        messages: the conversation.
        tokens: the special tokens that a template may name (`bos_token`, `eos_token`, …).
        ask: the text ends where the assistant's next answer begins; else behind the last message.

    Raises:
        UserError: the template is broken, reaches for what the sandbox forbids, or does not end in time.
    """
    turns = [{"role": message.role, "content": message.content} for message in messages]
    try:
        text, problem = _worker.ask([template, turns, dict(tokens), ask], _SECONDS, first=["", [], {}, True])
    except Killed as error:
        text, problem = None, f"{error}."
    if problem:
        raise UserError(f"The model's chat template failed: {problem}")
    assert isinstance(text, str)
    return text


# --- the process's side -----------------------------------------------------------------------------


def answer(question: list[Any]) -> list[str | None]:
    """(text, None), or (None, what went wrong), for (template, turns, tokens, ask). Run in the worker process."""
    template, turns, tokens, ask = question
    try:
        # `tools` and `documents` are what transformers passes where there are none.
        text = _compile(template).render(
            messages=turns, tools=None, documents=None, add_generation_prompt=ask, **tokens
        )
    except Exception as error:  # whatever a template can bring about is the template's failure
        return [None, f"{type(error).__name__}: {error}"[:1000]]
    if len(text) > _MAX_CHARACTERS:
        return [None, f"it wrote {len(text):,} characters; that is no conversation."]
    return [text, None]


class _Generation(Extension):
    """`{% generation %} … {% endgeneration %}` marks what the assistant says; here it changes nothing."""

    tags = {"generation"}  # noqa: RUF012 (as Jinja declares it)

    def parse(self, parser: Parser) -> list[nodes.Node]:
        """The block's own content."""
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


@lru_cache(maxsize=16)
def _compile(template: str) -> Template:
    # The settings, functions and filters that transformers gives to chat templates.
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols", _Generation]
    )
    environment.filters["tojson"] = _tojson
    environment.globals["raise_exception"] = _raise
    environment.globals["strftime_now"] = lambda pattern: datetime.now().strftime(pattern)
    return environment.from_string(template)


def _tojson(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def _raise(message: str) -> NoReturn:
    raise TemplateError(message)
