"""Chat templates: as transformers renders them, and harmless when they are hostile."""

import os
import threading
import time
from typing import Any

import pytest

from workbench import chat_template
from workbench.chat_template import render_chat_template
from workbench.errors import UserError
from workbench.types import Message

HELLO = [Message("user", "Hello <b>&</b> \ud800 \x00 \u2028")]
TOKENS = {"bos_token": "<s>", "eos_token": "</s>"}


def render(template: str, messages: list[Message] | None = None) -> str:
    return render_chat_template(template, messages or HELLO, TOKENS)


@pytest.mark.parametrize(
    "template",
    [
        "{{ bos_token }}{% for m in messages %}[{{ m.role }}] {{ m['content'] }}\n{% endfor %}",
        "{% for m in messages %}{{ m | tojson }}{{ m | tojson(indent=2) }}{% endfor %}",
        "{% if tools is none and documents is none and add_generation_prompt %}yes{% endif %}",
        "{% for m in messages %}{% generation %}{{ m.content }}{% endgeneration %}{% break %}{% endfor %}",
        "  {%- set ns = namespace(n=0) %}\n{% for i in range(3) %}{% set ns.n = ns.n + i %}{% endfor %}{{ ns.n }}",
        "{{ strftime_now('%Y') }}{% if x is defined %}x{% endif %}{{ messages[0].content.split()[0] | trim }}",
    ],
)
def test_templates_render_as_in_transformers(template: str) -> None:
    from transformers.utils.chat_template_utils import render_jinja_template

    turns = [{"role": m.role, "content": m.content} for m in HELLO]
    [[expected], _] = render_jinja_template([turns], chat_template=template, add_generation_prompt=True, **TOKENS)
    assert render(template) == expected


@pytest.mark.parametrize(
    ("template", "says"),
    [
        ("{{ ''.__class__.__mro__ }}", "__class__"),
        ("{{ messages.__class__.__base__.__subclasses__() }}", "__class__"),
        ("{{ raise_exception.__globals__['os'] }}", "__globals__"),
        ("{{ (messages | attr('__class__')).__name__ }}", "SecurityError"),
        ("{{ '{0.__class__.__mro__}'.format(messages) }}", "SecurityError"),
        ("{{ messages.append(1) }}", "SecurityError"),
        ("{{ cycler.__init__.__globals__.os.system('true') }}", "__init__"),
        ("{% include '/etc/passwd' %}", "TypeError"),
        ("{{ raise_exception('Roles must alternate.') }}", "Roles must alternate."),
        ("{% for %}", "TemplateSyntaxError"),
        ("{{ 1 / 0 }}", "ZeroDivisionError"),
        ("{{ messages[7].content.x }}", "UndefinedError"),
        ("{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}", "RecursionError"),
        ("{% for i in range(10**9) %}{% endfor %}", "OverflowError"),
    ],
)
def test_what_a_template_may_not_do_is_an_error_that_says_so(template: str, says: str) -> None:
    with pytest.raises(UserError, match="chat template failed") as failure:
        render(template)
    assert says in str(failure.value)


@pytest.mark.parametrize(
    "template",
    [
        "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}",
        "{{ 9**(9**9) }}",
        "{{ 'x' * 10**11 }}",
        "{{ '%100000000000d' % 1 }}",
        "{{ 'x'.ljust(10**11) }}",
        "{% set n = namespace(s='x') %}{% for i in range(99) %}{% set n.s = n.s ~ n.s %}{% endfor %}{{ n.s }}",
        "{{ 'x' * 90000000 }}",
    ],
)
def test_endless_and_huge_templates_end(template: str) -> None:
    render("warm")  # the process's start is not the template's time
    started = time.monotonic()
    with pytest.raises(UserError, match=r"chat template failed: (it did not end|MemoryError|Overflow|it wrote)"):
        render(template)
    assert time.monotonic() - started < 3
    assert render("{{ messages | length }}") == "1"  # and the next one is served


def test_a_killed_process_is_replaced() -> None:
    assert render("a") == "a"
    process = chat_template._worker._process
    assert process is not None
    process.kill()
    process.wait()
    with pytest.raises(UserError):  # the call that finds it dead
        render("b")
    assert render("c") == "c"


def test_threads_get_their_own_answers() -> None:
    wrong: list[Any] = []

    def ask(name: str) -> None:
        for i in range(20):
            text = render("{{ messages[0].content }}", [Message("user", f"{name} {i}")])
            if text != f"{name} {i}":
                wrong.append(text)

    threads = [threading.Thread(target=ask, args=(name,)) for name in "abcd"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
def test_a_forked_process_starts_its_own() -> None:
    render("a")
    ours = chat_template._worker._process
    child = os.fork()
    if child == 0:
        same = render("child") == "child" and chat_template._worker._process is not ours
        chat_template._worker.close()
        os._exit(0 if same else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert render("parent") == "parent"
    assert chat_template._worker._process is ours
