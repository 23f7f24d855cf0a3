"""The guard and who is let in, as pure functions and as a middleware before a small application."""

import asyncio
import base64
import re
import socket
import subprocess
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

from workbench.errors import UserError
from workbench.ui import guard
from workbench.ui.access import Access, Tries, open_access
from workbench.ui.guard import MAX_BODY, Guard, refused
from workbench.ui.server import _listen
from workbench.ui.shell import COOKIE

PASSWORD = "correct horse battery"
LAB = Access("lab.example", 443, PASSWORD, Path("c"), Path("k"))
PROXIED = Access("127.0.0.1", 7860, PASSWORD, proxy="https://lab.example")


# --- which host, origin and route ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "host", "origin", "status"),
    [
        ("/", "127.0.0.1:7860", None, None),
        ("/", "localhost", "http://localhost", None),
        ("/", "[::1]:7860", "http://[::1]:7860", None),
        ("/", "127.0.0.1:7860", "http://127.0.0.1:7860", None),
        ("/", "localhost:9999", "http://localhost:9999", None),  # the near end of an ssh tunnel
        ("/", "evil.example", None, 400),
        ("/", "evil.example:7860", "http://evil.example:7860", 400),
        ("/", "127.0.0.1.evil.example", None, 400),
        ("/", "127.0.0.1:x@evil.example", None, 400),
        ("/", "", None, 400),
        ("/", None, None, 400),
        ("/", "127.0.0.1:7860", "http://evil.example", 403),
        ("/", "127.0.0.1:7860", "null", 403),
        ("/", "127.0.0.1:7860", "http://127.0.0.1:8000", 403),
        ("/", "127.0.0.1:7860", "https://127.0.0.1:7860", 403),
        ("/", "127.0.0.1:7860", "http://localhost:7860", 403),
        ("/theme.css", "127.0.0.1:7860", None, None),
        ("/assets/index-abc.js", "127.0.0.1:7860", None, None),
        ("/gradio_api/queue/data", "127.0.0.1:7860", None, None),
        ("/gradio_api/heartbeat/abc", "127.0.0.1:7860", None, None),
    ],
)
def test_only_its_own_host_and_origin(path: str, host: str | None, origin: str | None, status: int | None) -> None:
    headers = [(b"host", host.encode())] if host is not None else []
    headers += [(b"origin", origin.encode())] if origin is not None else []
    answer = refused("GET", path, headers, Access())
    assert (answer and answer[0]) == status


@pytest.mark.parametrize(
    ("access", "host", "origin", "status"),
    [
        (LAB, "lab.example", "https://lab.example", None),
        (LAB, "LAB.example:443", "https://lab.example:443", None),
        (LAB, "lab.example", "http://lab.example", 403),
        (LAB, "127.0.0.1:443", None, 400),
        (LAB, "localhost", None, 400),
        (LAB, "lab.example.evil.example", None, 400),
        (PROXIED, "lab.example", "https://lab.example", None),
        (PROXIED, "lab.example", "http://lab.example", 403),
        (PROXIED, "127.0.0.1:7860", None, 400),
        (Access("10.0.0.5", 8443, PASSWORD, Path("c"), Path("k")), "10.0.0.5:8443", None, None),
        (Access("10.0.0.5", 8443, PASSWORD, Path("c"), Path("k")), "10.0.0.5", None, 400),
        (
            Access("fd00::5", 8443, PASSWORD, Path("c"), Path("k")),
            "[fd00::5]:8443",
            "https://[fd00::5]:8443",
            None,
        ),
    ],
)
def test_elsewhere_it_answers_to_that_name_only(
    access: Access, host: str, origin: str | None, status: int | None
) -> None:
    headers = [(b"host", host.encode())] + ([(b"origin", origin.encode())] if origin else [])
    answer = refused("GET", "/", headers, access)
    assert (answer and answer[0]) == status


CLOSED = (
    "/config", "/config/", "/login", "/logout", "/monitoring", "/monitoring/summary", "/manifest.json",
    "/robots.txt", "/pwa_icon", "/docs", "/openapi.json", "/svelte/x", "/file=/etc/passwd",
    "/gradio_api/file=/etc/passwd", "/gradio_api/file/etc/passwd", "/gradio_api/upload",
    "/gradio_api/upload_progress", "/gradio_api/proxy=http://127.0.0.1:22", "/gradio_api/info",
    "/gradio_api/openapi.json", "/gradio_api/token", "/gradio_api/user", "/gradio_api/app_id",
    "/gradio_api/login_check", "/gradio_api/deep_link", "/gradio_api/runs", "/gradio_api/component_server",
    "/gradio_api/reset", "/gradio_api/cancel", "/gradio_api/startup-events", "/gradio_api/stream/a",
    "/gradio_api/stream/a/b/1/playlist.m3u8", "/gradio_api/dev/reload", "/gradio_api/process_recording",
    "/gradio_api/vibe-edit", "/gradio_api/run/predict", "/gradio_api/api/predict", "/gradio_api/call/predict",
    "/gradio_api/call/v2/predict", "/gradio_api/mcp", "/gradio_api/heartbeat/a/b", "//evil", "/x",
    "/static/../x", "/assets/..",
    "/assets/a\\b", "/assets/a b", "/static/x\x00", "/theme.css\n",
)  # fmt: skip


@pytest.mark.parametrize("path", CLOSED)
def test_what_the_page_does_not_need_is_not_there(path: str) -> None:
    headers = [(b"host", b"localhost")]
    for method in ("GET", "HEAD", "POST"):
        assert (refused(method, path, headers, Access()) or (0,))[0] == 404
    for method in ("OPTIONS", "PUT", "DELETE", "PATCH", "CONNECT"):
        assert (refused(method, "/", headers, Access()) or (0,))[0] == 404


@pytest.mark.parametrize(
    ("header", "status"),
    [
        ((b"content-length", b"0"), None),
        ((b"content-length", str(MAX_BODY).encode()), None),
        ((b"content-length", str(MAX_BODY + 1).encode()), 413),
        ((b"content-length", b"30000000"), 413),
        ((b"content-length", b"9" * 40), 400),
        ((b"content-length", b"-1"), 400),
        ((b"content-length", "²".encode()), 400),
        ((b"transfer-encoding", b"chunked"), 411),
    ],
)
def test_how_much_may_be_sent(header: tuple[bytes, bytes], status: int | None) -> None:
    answer = refused("POST", "/gradio_api/queue/join", [(b"host", b"localhost"), header], Access())
    assert (answer and answer[0]) == status


# --- who is let in ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return certified(tmp_path_factory.mktemp("tls"))


def certified(folder: Path, name: str = "127.0.0.1") -> tuple[Path, Path]:
    """A certificate that nobody has signed but itself, and its key."""
    certificate, key = folder / "certificate.pem", folder / "key.pem"
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", f"/CN={name}"]
    try:
        subprocess.run([*command, "-out", certificate, "-keyout", key], check=True, capture_output=True)
    except FileNotFoundError:
        pytest.skip("needs openssl, which makes the certificate")
    return certificate, key


def opened(host: str = "127.0.0.1", **given: Any) -> Access:
    return open_access(host, 7860, **{"environment": {}, **given})


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "::1", "[::1]", "127.0.0.2"])
def test_this_machine_alone_needs_no_password(host: str) -> None:
    access = opened(host)
    assert access.local and access.password is None and not access.secure


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.5", "lab.example", "LAB.example"])
def test_others_need_a_password_and_tls_or_a_proxy(host: str, pair: tuple[Path, Path], tmp_path: Path) -> None:
    known = {"WORKBENCH_PASSWORD": PASSWORD}
    certificate, key = pair
    with pytest.raises(UserError, match="--password-file"):
        opened(host)
    with pytest.raises(UserError, match="--password-file"):
        opened(host, certificate=certificate, key=key)
    with pytest.raises(UserError, match="--certificate FILE and --key FILE"):
        opened(host, environment=known)
    if host in ("0.0.0.0", "::"):
        with pytest.raises(UserError, match="none that a browser could name"):
            opened(host, environment=known, certificate=certificate, key=key)
    else:
        assert opened(host, environment=known, certificate=certificate, key=key).secure
    proxied = opened(host, environment=known, proxy="https://lab.example/")
    assert (proxied.address, proxied.local) == ("https://lab.example", False)


def test_a_proxy_needs_a_password_before_a_local_page_too() -> None:
    with pytest.raises(UserError, match="password"):
        opened(proxy="https://lab.example")
    with pytest.raises(UserError, match="by https and without a path"):
        opened(proxy="http://lab.example", environment={"WORKBENCH_PASSWORD": PASSWORD})


@pytest.mark.parametrize(
    "proxy", ["lab.example", "https://", "https://a/b", "https://a:x", "https://u:p@a", "https://a b"]
)
def test_a_proxy_is_named_by_its_address(proxy: str) -> None:
    with pytest.raises(UserError, match="must be what a browser's address begins with"):
        opened(proxy=proxy, environment={"WORKBENCH_PASSWORD": PASSWORD})


def test_a_password_is_long_and_comes_from_a_file_or_the_environment(tmp_path: Path) -> None:
    file = tmp_path / "password"
    file.write_text(f"{PASSWORD}\n# not this line\n", encoding="utf-8")
    assert opened(password_file=file).password == PASSWORD
    assert opened(password_file=file, environment={"WORKBENCH_PASSWORD": "x"}).password == PASSWORD
    for text in ("", "short", "eleven char", "\n" + PASSWORD):
        file.write_text(text, encoding="utf-8")
        with pytest.raises(UserError, match="12 or more"):
            opened(password_file=file)
    with pytest.raises(UserError, match="12 or more"):
        opened(environment={"WORKBENCH_PASSWORD": ""})
    with pytest.raises(UserError, match="cannot be read"):
        opened(password_file=tmp_path / "none")
    assert PASSWORD not in repr(opened(environment={"WORKBENCH_PASSWORD": PASSWORD}))


def test_certificate_and_key_are_tried_before_the_start(pair: tuple[Path, Path], tmp_path: Path) -> None:
    certificate, key = pair
    with pytest.raises(UserError, match="belong together"):
        opened(certificate=certificate)
    with pytest.raises(UserError, match="There is no file"):
        opened(certificate=certificate, key=tmp_path / "none")
    with pytest.raises(UserError, match="cannot serve TLS"):
        opened(certificate=key, key=certificate)
    locked = tmp_path / "locked.pem"
    command = ["openssl", "rsa", "-aes256", "-passout", "pass:secret", "-in", key, "-out", locked]
    subprocess.run(command, check=True, capture_output=True)
    with pytest.raises(UserError, match="without a passphrase"):
        opened(certificate=certificate, key=locked)
    assert opened(certificate=certificate, key=key).address == "https://127.0.0.1:7860"


@pytest.mark.parametrize("host", ["", "a b", "-x", "http://a", "a/b", "a@b", "*"])
def test_a_host_is_a_name_or_an_address(host: str) -> None:
    with pytest.raises(UserError, match="must be a name or an address"):
        opened(host)


def test_tries_run_out_and_come_back() -> None:
    now = [0.0]
    tries = Tries(most=3, seconds=60, clock=lambda: now[0])
    for _ in range(3):
        assert tries.wait("a") == 0
        tries.failed("a")
        now[0] += 1
    assert tries.wait("a") == pytest.approx(57)
    assert tries.wait("b") == 0
    now[0] = 60.5
    assert tries.wait("a") == 0  # the first of the three no longer counts
    tries.failed("a")
    assert tries.wait("a") > 0
    now[0] = 1000
    assert tries.wait("a") == 0 and not tries._wrong


# --- as a middleware ----------------------------------------------------------------------------------


class Inside:
    """An application that says which headers it was given."""

    def __init__(self, headers: Iterable[tuple[bytes, bytes]] = (), status: int = 200) -> None:
        self.seen: list[dict[str, Any]] = []
        self.headers, self.status = list(headers), status

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        body = (await receive())["body"]
        self.seen.append({**scope, "headers": dict(scope["headers"]), "body": body})
        await send({"type": "http.response.start", "status": self.status, "headers": self.headers})
        await send({"type": "http.response.body", "body": b"inside"})


def ask(
    before: Guard,
    path: str = "/",
    headers: Iterable[tuple[bytes, bytes]] = (),
    *,
    host: bytes = b"127.0.0.1:7860",
    method: str = "GET",
    parts: Iterable[bytes] = (b"",),
    who: str = "10.0.0.9",
) -> tuple[int, dict[str, str], str]:
    """Status, headers and body of the answer to one request."""
    pieces, answered = list(parts), []

    async def receive() -> Any:
        body = pieces.pop(0)
        return {"type": "http.request", "body": body, "more_body": bool(pieces)}

    async def send(message: Any) -> None:
        answered.append(message)

    scope = {
        "type": "http", "method": method, "path": path, "scheme": "http", "server": ("127.0.0.1", 7860),
        "client": (who, 5), "headers": [(b"host", host), *headers],
    }  # fmt: skip
    asyncio.run(before(scope, receive, send))
    told = {name.decode(): value.decode() for name, value in answered[0]["headers"]}
    return answered[0]["status"], told, answered[1]["body"].decode()


def basic(password: str) -> tuple[bytes, bytes]:
    return b"authorization", b"Basic " + base64.b64encode(f"anybody:{password}".encode())


def test_a_browser_is_known_again_by_its_cookie() -> None:
    inside = Inside()
    before = Guard(inside)
    _, told, _ = ask(before)
    kept = re.fullmatch(
        r"workbench-visitor-7860=([0-9a-f]{32}); HttpOnly; SameSite=Lax; Path=/; Max-Age=31536000",
        told["set-cookie"],
    )
    assert kept and inside.seen[0]["headers"][b"cookie"] == f"{COOKIE}={kept[1]}".encode()
    held = (b"cookie", f"other=1; workbench-visitor-7860={kept[1]}; workbench-visitor-8000={'0' * 32}".encode())
    assert kept[1] in ask(before, headers=[held])[1]["set-cookie"]
    _, told, _ = ask(before, "/gradio_api/queue/join", [held], method="POST")
    assert "set-cookie" not in told
    assert inside.seen[-1]["headers"][b"cookie"] == f"{COOKIE}={kept[1]}".encode()
    assert ask(before)[1]["set-cookie"] != told.get("set-cookie")


@pytest.mark.parametrize(
    "cookie",
    [
        b"workbench-visitor-7860=short",
        b"workbench-visitor=" + b"a" * 32,
        b"workbench-visitor-7860=../..",
        b"\xff=;",
    ],
)
def test_a_cookie_of_another_form_is_none(cookie: bytes) -> None:
    inside = Inside()
    ask(Guard(inside), "/gradio_api/queue/join", [(b"cookie", cookie)], method="POST")
    assert b"cookie" not in inside.seen[0]["headers"]
    assert re.search(r"=[0-9a-f]{32};", ask(Guard(inside), "/", [(b"cookie", cookie)])[1]["set-cookie"])


def test_nothing_that_gradio_would_believe_gets_in() -> None:
    inside = Inside()
    sent = {
        b"origin": b"http://127.0.0.1:7860", b"x-forwarded-host": b"evil.example", b"x-forwarded-proto": b"https",
        b"x-forwarded-for": b"1.2.3.4", b"forwarded": b"host=evil.example", b"x-real-ip": b"1.2.3.4",
        b"authorization": b"Bearer x", b"x-gradio-server": b"http://evil.example", b"accept": b"text/html",
    }  # fmt: skip
    ask(Guard(inside), headers=sent.items())
    assert sorted(inside.seen[0]["headers"]) == [b"accept", b"cookie", b"host"]
    ask(Guard(inside, PROXIED), headers=[basic(PASSWORD)], host=b"lab.example")
    assert (inside.seen[1]["scheme"], inside.seen[1]["headers"][b"host"]) == ("https", b"lab.example")


def test_what_a_browser_is_told() -> None:
    theirs = [(b"Cache-Control", b"public"), (b"content-type", b"text/html"), (b"X-Frame-Options", b"ALLOWALL")]
    _, told, body = ask(Guard(Inside(theirs)))
    assert body == "inside"
    assert told["x-frame-options"] == "DENY" and told["x-content-type-options"] == "nosniff"
    assert told["referrer-policy"] == "same-origin" and told["cache-control"] == "no-store"
    assert "img-src 'self' data:" in told["content-security-policy"]
    assert "Cache-Control" not in told and told["content-type"] == "text/html"
    assert ask(Guard(Inside()), "/assets/a.js")[1]["cache-control"].startswith("private, max-age")
    assert ask(Guard(Inside(status=404)), "/assets/a.js")[1]["cache-control"] == "no-store"
    assert "Secure" not in ask(Guard(Inside()))[1]["set-cookie"]
    _, told, _ = ask(Guard(Inside(), LAB), headers=[basic(PASSWORD)], host=b"lab.example")
    assert told["set-cookie"].endswith("; Secure")


def test_the_password_opens_every_route_and_tries_are_limited() -> None:
    inside = Inside()
    before = Guard(inside, PROXIED)

    def tried(path: str = "/", *headers: tuple[bytes, bytes], who: str = "10.0.0.9") -> int:
        return ask(before, path, headers, host=b"lab.example", who=who)[0]

    for path in ("/", "/assets/a.js", "/theme.css", "/gradio_api/queue/data", "/gradio_api/heartbeat/a"):
        assert tried(path) == 401
    assert ask(before, host=b"lab.example")[1]["www-authenticate"].startswith("Basic ")
    assert tried("/", (b"authorization", b"Bearer x")) == 401
    assert tried("/", basic(PASSWORD)) == 200 and len(inside.seen) == 1
    known = (b"cookie", inside.seen[0]["headers"][b"cookie"].replace(b"visitor=", b"visitor-7860="))
    wrong = (
        basic("wrong"),
        basic(""),
        basic(PASSWORD + " "),
        (b"authorization", b"Basic !!"),
        basic(PASSWORD.upper()),
    )
    for credentials in wrong * 2:
        assert tried("/", credentials) == 401
    assert tried("/", basic(PASSWORD)) == 429, "the right one too: else tries would not be limited"
    assert tried("/", basic(PASSWORD), who="10.0.0.10") == 200
    assert tried("/", basic(PASSWORD), known) == 200, (
        "who was in before is not locked out by others behind a proxy"
    )
    assert len(inside.seen) == 3


def test_a_body_is_handed_on_whole_and_a_slow_one_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    inside = Inside()
    length = (b"content-length", b"6")
    ask(Guard(inside), "/gradio_api/queue/join", [length], method="POST", parts=[b"ab", b"cd", b"ef"])
    assert inside.seen[0]["body"] == b"abcdef"
    monkeypatch.setattr(guard, "PATIENCE", 0.05)
    before = Guard(inside)
    answered: list[Any] = []

    async def never() -> Any:
        await asyncio.sleep(60)

    async def send(message: Any) -> None:
        answered.append(message.get("status"))

    scope = {
        "type": "http", "method": "POST", "path": "/gradio_api/queue/join", "scheme": "http",
        "server": ("127.0.0.1", 7860), "client": None, "headers": [(b"host", b"localhost"), length],
    }  # fmt: skip

    async def many() -> None:
        await asyncio.gather(*(before(dict(scope), never, send) for _ in range(guard.AT_ONCE + 3)))

    asyncio.run(many())
    assert (answered.count(503), answered.count(408)) == (3, guard.AT_ONCE)
    assert before._bodies == 0 and len(inside.seen) == 1


def test_websockets_are_closed_and_bugs_are_not_hidden() -> None:
    inside = Inside()
    asyncio.run(Guard(inside)({"type": "websocket", "path": "/"}, None, None))  # type: ignore[arg-type]
    assert inside.seen == []

    async def broken(scope: Any, receive: Any, send: Any) -> None:
        raise RuntimeError("a bug")

    with pytest.raises(RuntimeError, match="a bug"):
        ask(Guard(broken))


def test_words_do_not_wait_for_each_other() -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with _listen(Access(port=port)) as listening:
        assert listening.proto == socket.IPPROTO_TCP  # by which asyncio knows to switch Nagle's algorithm off
        with pytest.raises(UserError, match=f"Try --port {port + 1}"):
            _listen(Access(port=port))
