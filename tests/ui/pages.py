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

import httpx
import pytest

ROOT = Path(__file__).resolve().parents[2]

MARKS = [
    pytest.mark.browser,
    pytest.mark.skipif(find_spec("gradio") is None, reason="needs gradio: pip install 'llm-workbench[ui]'"),
]


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


def free_port() -> int:
    """A port of this machine that nothing listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
