"""A model's own chat template, rendered so that a hostile one can neither reach Python nor run for ever.

A chat template comes with a model and is a program: unlike the prompts in `prompts/`, it needs loops. It
runs in Jinja's sandbox, as in transformers, and here also against a deadline.
"""

import json
import sys
import time
from collections.abc import Mapping, Sequence
from datetime import datetime
from functools import lru_cache
from types import FrameType
from typing import Any, NoReturn

from jinja2 import Template, TemplateError
from jinja2.sandbox import ImmutableSandboxedEnvironment

from workbench.errors import UserError
from workbench.types import Message

_SECONDS = 2.0
_MAX_CHARACTERS = 50_000_000


class _TooSlow(BaseException):
    """Passes through whatever the template itself could catch."""


def render_chat_template(template: str, messages: Sequence[Message], tokens: Mapping[str, str]) -> str:
    """The conversation as the model's template writes it, up to where the assistant's answer begins.

    Args:
        template: the template's source.
        messages: the conversation.
        tokens: the special tokens that a template may name (`bos_token`, `eos_token`, …).

    Raises:
        UserError: the template is broken, reaches for what the sandbox forbids, or does not end in time.
    """
    turns = [{"role": message.role, "content": message.content} for message in messages]
    deadline = time.monotonic() + _SECONDS

    def watch(frame: FrameType, event: str, argument: Any) -> Any:
        if time.monotonic() > deadline:
            raise _TooSlow
        return watch

    before = sys.gettrace()
    try:
        compiled = _compile(template)
        sys.settrace(watch)
        text = compiled.render(messages=turns, add_generation_prompt=True, **tokens)
    except _TooSlow:
        raise UserError(f"The model's chat template did not end within {_SECONDS:g} seconds.") from None
    except (TemplateError, TypeError, ValueError, OverflowError, MemoryError, RecursionError) as error:
        raise UserError(f"The model's chat template failed: {type(error).__name__}: {error}") from None
    finally:
        sys.settrace(before)
    if len(text) > _MAX_CHARACTERS:
        raise UserError(f"The model's chat template wrote {len(text):,} characters; that is no conversation.")
    return text


@lru_cache(maxsize=16)
def _compile(template: str) -> Template:
    # The settings, functions and filters that transformers gives to chat templates.
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"]
    )
    environment.filters["tojson"] = _tojson
    environment.globals["raise_exception"] = _raise
    environment.globals["strftime_now"] = lambda pattern: datetime.now().strftime(pattern)
    return environment.from_string(template)


def _tojson(value: Any, indent: int | None = None) -> str:
    return json.dumps(value, ensure_ascii=False, indent=indent)


def _raise(message: str) -> NoReturn:
    raise TemplateError(message)
