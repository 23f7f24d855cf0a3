"""The page as others reach it: it does not start unsafely; TLS, a password and a proxy, in a real browser."""

import base64
import http.client
import json
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import pytest
from pages import MARKS, ROOT, free_port, served
from test_ui_guard import certified

PASSWORD = "correct horse battery"
KNOWN = {"WORKBENCH_PASSWORD": PASSWORD}
FAKE = ("--engine", "fake", "--model", "fake")

pytestmark = MARKS


def refusal(*flags: str, **settings: str) -> str:
    """What the page says that does not start."""
    done = subprocess.run(
        [sys.executable, "ui.py", *FAKE, "--port", str(free_port()), *flags],
        cwd=ROOT,
        env={**os.environ, **settings},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 2 and "Traceback" not in done.stderr
    assert PASSWORD not in done.stdout + done.stderr
    return " ".join(done.stderr.split())


def test_it_does_not_start_where_others_would_reach_it_unsafely(tmp_path: Path) -> None:
    assert "--password-file FILE or the environment variable WORKBENCH_PASSWORD" in refusal("--host", "0.0.0.0")
    assert "--certificate FILE and --key FILE" in refusal("--host", "0.0.0.0", WORKBENCH_PASSWORD=PASSWORD)
    assert "12 or more" in refusal("--host", "0.0.0.0", WORKBENCH_PASSWORD="short")
    assert "password" in refusal("--proxy", "https://lab.example")
    assert "https" in refusal("--proxy", "http://lab.example", WORKBENCH_PASSWORD=PASSWORD)
    assert "nrecognized" in refusal("--share", WORKBENCH_PASSWORD=PASSWORD)
    assert "nrecognized" in refusal("--password", PASSWORD[:7])
    started = refusal("--start-recipes", "--proxy", "https://lab.example", WORKBENCH_PASSWORD=PASSWORD)
    assert "the page must be at 127.0.0.1" in started


def test_a_port_that_is_taken_is_said() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert f"Try --port {port + 1}" in refusal("--port", str(port))


@pytest.fixture(scope="module")
def tls(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The page with TLS and a password that is in a file."""
    folder = tmp_path_factory.mktemp("tls")
    certificate, key = certified(folder)
    password = folder / "password"
    password.write_text(PASSWORD + "\n", encoding="utf-8")
    flags = ("--certificate", certificate, "--key", key, "--password-file", password, "--runs", folder / "runs")
    with served("ui.py", *FAKE, *map(str, flags), scheme="https") as url:
        yield url


def says_hello(page: Any) -> None:
    """Ask in the chat pane, and see the fake engine's answer."""
    box = page.locator("#chat textarea:visible, textarea:visible").first
    box.fill("hello there")
    page.get_by_role("button", name="Send").first.click()
    page.get_by_text("The answer is").first.wait_for()


def nobody_is_let_in(browser: Any, address: str) -> None:
    """A browser with nobody before it, who could be asked for the password, sees an error of its own."""
    from playwright.sync_api import Error

    with browser.new_context(ignore_https_errors=True) as nobody:
        page = nobody.new_page()
        with pytest.raises(Error, match="ERR_INVALID_AUTH_CREDENTIALS"):
            page.goto(address)
        assert page.get_by_role("tab").count() == 0


def test_over_tls_the_password_lets_in_and_a_wrong_one_does_not(browser: Any, tls: str) -> None:
    nobody_is_let_in(browser, tls)
    wrong = {"username": "a", "password": "wrong password"}
    with browser.new_context(ignore_https_errors=True, http_credentials=wrong) as stranger:
        page = stranger.new_page()
        assert page.goto(tls).status == 401
        assert "This is not the password." in page.content() and page.get_by_role("tab").count() == 0
    right = {"username": "anybody", "password": PASSWORD}
    with browser.new_context(ignore_https_errors=True, http_credentials=right) as friend:
        page = friend.new_page()
        urls: list[str] = []
        page.on("request", lambda request: urls.append(request.url))
        assert page.goto(tls).status == 200
        says_hello(page)
        [cookie] = friend.cookies()
        assert (cookie["secure"], cookie["httpOnly"], cookie["sameSite"]) == (True, True, "Lax")
        assert [url for url in urls if not url.startswith((f"{tls}/", "data:"))] == []


def test_every_route_asks_for_the_password_and_wrong_ones_run_out(tls: str) -> None:
    with httpx.Client(verify=False, base_url=tls) as client:
        for path in ("/", "/theme.css", "/gradio_api/queue/data?session_hash=a", "/gradio_api/heartbeat/a"):
            assert client.get(path).status_code == 401
        assert client.post("/gradio_api/queue/join", json={}).status_code == 401
        for _ in range(20):
            last = client.get("/", auth=("a", "wrong password"))
        assert last.status_code == 429 and "Try again in" in last.text
        assert client.get("/", auth=("a", PASSWORD)).status_code == 429
    with pytest.raises(httpx.TransportError):  # and nothing is said without TLS
        httpx.get(tls.replace("https", "http"))


class Relay(BaseHTTPRequestHandler):
    """A reverse proxy with TLS before the page, as small as one can be: it hands on each piece as it comes."""

    protocol_version = "HTTP/1.1"
    port = 0
    host = ""

    def do_GET(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        behind = http.client.HTTPConnection("127.0.0.1", self.port)
        headers = {name: value for name, value in self.headers.items() if name.lower() != "connection"}
        behind.request(self.command, self.path, body or None, {**headers, "X-Forwarded-Host": "evil.example"})
        answer = behind.getresponse()
        self.send_response(answer.status)
        for name, value in answer.getheaders():
            if name.lower() not in ("transfer-encoding", "connection", "date", "server"):
                self.send_header(name, value)
        self.send_header("Connection", "close")
        self.end_headers()
        try:
            while piece := answer.read1(65536):
                self.wfile.write(piece)
                self.wfile.flush()
        except OSError:
            pass  # the browser has gone
        finally:
            behind.close()
        self.close_connection = True

    do_POST = do_GET

    def log_message(self, *parts: Any) -> None:
        pass


@contextmanager
def relayed(page_port: int, port: int, folder: Path) -> Iterator[None]:
    """A proxy at https://127.0.0.1:port, until the block ends."""
    import ssl

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*certified(folder))
    server = ThreadingHTTPServer(("127.0.0.1", port), type("To", (Relay,), {"port": page_port}))
    server.daemon_threads = True
    server.socket = context.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def test_behind_a_stated_proxy(browser: Any, tmp_path: Path) -> None:
    outside, inside = free_port(), free_port()
    proxy = f"https://127.0.0.1:{outside}"
    flags = (*FAKE, "--proxy", proxy, "--runs", str(tmp_path / "runs"))
    right = {"username": "anybody", "password": PASSWORD}
    with served("ui.py", *flags, settings=KNOWN, port=inside) as url, relayed(inside, outside, tmp_path):
        assert httpx.get(url, auth=("a", PASSWORD)).status_code == 400  # it has the proxy's name only
        forged = {"Host": f"127.0.0.1:{outside}", "Origin": "https://evil.example"}
        assert httpx.get(url, headers=forged, auth=("a", PASSWORD)).status_code == 403
        nobody_is_let_in(browser, proxy)
        with browser.new_context(ignore_https_errors=True, http_credentials=right) as friend:
            page = friend.new_page()
            urls: list[str] = []
            page.on("request", lambda request: urls.append(request.url))
            assert page.goto(proxy).status == 200
            assert "evil.example" not in page.content()
            says_hello(page)
            assert [url for url in urls if not url.startswith((f"{proxy}/", "data:"))] == []


def test_a_password_may_guard_a_local_page_too(tmp_path: Path) -> None:
    with served("ui.py", *FAKE, "--runs", str(tmp_path / "runs"), settings=KNOWN) as url:
        assert httpx.get(url).status_code == 401
        answer = httpx.get(url, auth=("", PASSWORD))
        assert answer.status_code == 200 and PASSWORD not in answer.text
        assert base64.b64encode(f":{PASSWORD}".encode()).decode() not in json.dumps(dict(answer.headers))
