"""The page as a process, for the tests in a browser."""

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import httpx
import pytest

ROOT = Path(__file__).resolve().parents[2]

MARKS = [
    pytest.mark.browser,
    pytest.mark.skipif(find_spec("gradio") is None, reason="needs gradio: pip install 'llm-workbench[ui]'"),
]

_CUT = ("AbortError: signal is aborted", "Connection errored out.")


@contextmanager
def served(
    script: str,
    *flags: str,
    settings: Mapping[str, str] | None = None,
    port: int | None = None,
    scheme: str = "http",
    log: Path | None = None,
) -> Iterator[str]:
    """The address of the page that a script of the repository serves, until the block ends.

    Args:
        script: from the repository's folder.
        flags: the script's, but for the port.
        settings: environment variables beside this process's own.
        port: of the page; a free one by default.
        scheme: https where the flags say so.
        log: takes what the page's process prints.
    """
    port = port or free_port()
    with (log or Path(os.devnull)).open("ab") as out:
        server = subprocess.Popen(
            [sys.executable, script, *flags, "--port", str(port)],
            cwd=ROOT,
            env={**os.environ, **(settings or {})},
            stdout=out,
            stderr=out,
        )
    url = f"{scheme}://127.0.0.1:{port}"
    try:
        for _ in range(240):
            assert server.poll() is None, "the server ended"
            try:
                httpx.get(url, timeout=5, verify=False)
                break
            except httpx.TransportError:
                time.sleep(0.25)
        yield url
    finally:
        server.terminate()
        server.wait(timeout=20)


def complaints_of(page: Any) -> list[str]:
    """Errors and dialogs of a browser's page, as they come.

    When a page is left, Gradio's script tells of each request that this cuts off in the two sentences of `_CUT`:
    those that came before the next page was there are taken out again.
    """
    found: list[str] = []
    page.on("pageerror", lambda error: found.append(str(error)))
    page.on("console", lambda told: found.append(told.text) if told.type == "error" else None)
    page.on("dialog", lambda dialog: (found.append(dialog.message), dialog.dismiss()))

    def left(_: Any) -> None:
        found[:] = [told for told in found if not any(words in told for words in _CUT)]

    page.on("domcontentloaded", left)
    return found


def choose(page: Any, dropdown: str, option: str) -> None:
    """Choose what a dropdown offers by that name, once it can be used.

    The list is the dropdown's own: that of another one takes a moment to close.
    """
    box = page.locator(dropdown).locator("input")
    box.click()
    lists = page.locator(f"[id='{box.get_attribute('aria-controls')}']")
    lists.get_by_role("option", name=option, exact=True).click()


def free_port() -> int:
    """A port of this machine that nothing listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
