"""Stands before the page: who is let in, what may be asked, how much may be sent, and what a browser is told.

A server on 127.0.0.1 is reached by every page that the browser has open. Without this, one of them could name
its own host 127.0.0.1 (DNS rebinding) or post here from its own address. Nothing of Gradio's answers before it.
"""

import asyncio
import base64
import re
import secrets
from collections.abc import Awaitable, Callable, MutableMapping
from http.cookies import CookieError, SimpleCookie
from typing import Any

from workbench.ui.access import Access, Tries
from workbench.ui.shell import COOKIE

# Gradio starts by inline code, and fills its HTML components by code made from a template, which is fixed.
# Whatever is loaded or asked for comes from this server.
POLICY = "; ".join(
    (
        "default-src 'self'",
        "script-src 'self' 'unsafe-inline' 'unsafe-eval'",
        "style-src 'self' 'unsafe-inline'",
        "img-src 'self' data:",
        "font-src 'self' data:",
        "connect-src 'self'",
        "object-src 'none'",
        "frame-src 'none'",
        "frame-ancestors 'none'",
        "base-uri 'self'",
        "form-action 'self'",
    )
)

MAX_BODY = 1_000_000
"""Bytes of a request: more than the page itself ever sends."""

PATIENCE = 30.0
"""Seconds in which a request's body must have come."""

AT_ONCE = 64
"""Bodies that may be on their way at the same time."""

_YEAR = 365 * 24 * 3600

# What a browser asks for that has the page open. Gradio serves more: uploads, files, proxies, logins, monitoring.
_READ = re.compile(
    r"/|/theme\.css|/favicon\.ico|/(assets|static)/(?!.*\.\.)[\w./@+~-]{1,200}"
    r"|/gradio_api/(queue/data|heartbeat/[\w-]{1,64})",
    re.ASCII,
)
_POSTED = ("/gradio_api/queue/join",)

_HELD = ("/assets/", "/static/")  # files of the installed Gradio; all else is not to be kept

# What a browser or a proxy says beside the request, which Gradio would believe or answer to.
_DROPPED = re.compile(rb"cookie|origin|authorization|forwarded|x-forwarded-.*|x-real-ip|x-gradio-.*")

_Headers = list[tuple[bytes, bytes]]
_Scope = MutableMapping[str, Any]
_Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]


class Guard:
    """ASGI middleware; what it refuses, it answers itself, and nothing of it goes further.

    400 to a foreign Host, 403 to a foreign Origin, 401 and 429 to whoever does not know the password, 404 to what
    the page does not need, 413 to what is too long, 408 to what is too slow. A browser gets a cookie with the
    page, by which it is known again.
    """

    def __init__(self, app: Any, access: Access | None = None) -> None:
        self.app, self.access = app, access or Access()
        self.tries = Tries()
        self._entered: dict[str, None] = {}  # visitors that knew the password: others' tries do not lock them out
        self._bodies = 0

    async def __call__(self, scope: _Scope, receive: Any, send: _Send) -> None:
        """Refuse the request, or pass it on."""
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
            return
        if scope["type"] != "http":
            return  # nothing here speaks WebSocket: a connection that is not accepted is closed
        headers, path = scope["headers"], scope["path"]
        name = f"{COOKIE}-{scope['server'][1]}"
        token = _held(headers, name) or (secrets.token_hex(16) if path == "/" else "")
        refusal = refused(scope["method"], path, headers, self.access) or self._unknown(scope, token)
        if refusal is None:
            body = await self._body(headers, receive)
            if isinstance(body, bytes):
                cookie = f"{name}={token}; HttpOnly; SameSite=Lax; Path=/; Max-Age={_YEAR}"
                cookie += "; Secure" if self.access.secure else ""
                answering = _telling(send, path, cookie if path == "/" else "")
                try:
                    await self.app(_inside(scope, token, self.access), _replay(body, receive), answering)
                except RuntimeError as error:
                    # A browser asks for the events of a session that ended with the server before this one. Gradio
                    # says so to it, and then raises the 404 in the middle of the answer.
                    if getattr(error.__cause__, "status_code", None) != 404:
                        raise
                    await send({"type": "http.response.body", "body": b""})
                return
            refusal = body
        await _answer(send, *refusal)

    def _unknown(self, scope: _Scope, token: str) -> tuple[int, str] | None:
        if self.access.password is None:
            return None
        who = scope["client"][0] if scope.get("client") else ""
        if token not in self._entered and (wait := self.tries.wait(who)):
            return 429, f"Too many wrong passwords came from there. Try again in {wait:.0f} seconds."
        typed = _typed(scope["headers"])
        if typed is None:
            return 401, "This page asks for a password. Any name will do."
        if not self.access.is_password(typed):
            self.tries.failed(who)
            return 401, "This is not the password."
        if token:
            self._entered.pop(token, None)
            self._entered[token] = None
            if len(self._entered) > 1_000:
                del self._entered[next(iter(self._entered))]
        return None

    async def _body(self, headers: _Headers, receive: Any) -> bytes | tuple[int, str]:
        """The whole body, or why it is not waited for."""
        if not int(dict(headers).get(b"content-length", b"0")):
            return b""
        if self._bodies >= AT_ONCE:
            return 503, "Too many requests are on their way. Try again in a moment."
        self._bodies += 1
        try:
            async with asyncio.timeout(PATIENCE):
                return await _whole(receive)
        except TimeoutError:
            return 408, f"The request did not come within {PATIENCE:.0f} seconds."
        finally:
            self._bodies -= 1


def refused(method: str, path: str, headers: _Headers, access: Access) -> tuple[int, str] | None:
    """Status and reason where a request must not be answered, whoever sends it, else None."""
    hosts = [value.decode("latin-1") for name, value in headers if name == b"host"]
    if len(hosts) != 1 or not access.is_own_host(hosts[0]):
        return 400, f"This page is at {access.address} only."
    origins = [value.decode("latin-1") for name, value in headers if name == b"origin"]
    if not all(access.is_own_origin(origin, hosts[0]) for origin in origins):
        return 403, "Another site may not ask this page."
    if not _is_needed(method, path):
        return 404, "There is nothing here that the page needs."
    return _length(dict(headers))


def _length(told: dict[bytes, bytes]) -> tuple[int, str] | None:
    if b"transfer-encoding" in told:  # how much it is would be known at its end only
        return 411, "Say how long it is."
    length = told.get(b"content-length", b"0")
    if not re.fullmatch(rb"[0-9]{1,18}", length):
        return 400, "Say how long it is, in bytes."
    if int(length) > MAX_BODY:
        return 413, f"This page takes {MAX_BODY:,} bytes at most."
    return None


def _is_needed(method: str, path: str) -> bool:
    if method == "POST":
        return path in _POSTED
    return method in ("GET", "HEAD") and bool(_READ.fullmatch(path))


def _held(headers: _Headers, name: str) -> str:
    """The visitor's token, where one is held.

    Browsers send the cookies of all ports of a host to each of them, so a page's own has its port in its name. It
    is not `SameSite=Strict`: a browser that follows a link to here would come without it, get another, and lose
    what it has.
    """
    cookies = b"; ".join(value for key, value in headers if key == b"cookie").decode("latin-1")
    try:
        morsel = SimpleCookie(cookies).get(name)
    except CookieError:
        return ""
    return morsel.value if morsel is not None and re.fullmatch(r"[0-9a-f]{32}", morsel.value) else ""


def _typed(headers: _Headers) -> str | None:
    """The password that a browser sends (HTTP Basic); None where it sends none."""
    kind, _, value = dict(headers).get(b"authorization", b"").partition(b" ")
    if kind.lower() != b"basic":
        return None
    try:
        return base64.b64decode(value.strip(), validate=True).decode("utf-8").partition(":")[2]
    except ValueError:
        return ""


def _inside(scope: _Scope, token: str, access: Access) -> _Scope:
    """The request as the page sees it: its visitor under one name, and nothing that it could believe wrongly."""
    headers = [(name, value) for name, value in scope["headers"] if not _DROPPED.fullmatch(name)]
    if token:
        headers.append((b"cookie", f"{COOKIE}={token}".encode()))
    return {**scope, "headers": headers, "scheme": "https" if access.secure else "http"}


async def _whole(receive: Any) -> bytes:
    body = bytearray()
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            return bytes(body)
        body += message.get("body", b"")
        if not message.get("more_body"):
            return bytes(body)


def _replay(body: bytes, receive: Any) -> Callable[[], Awaitable[MutableMapping[str, Any]]]:
    """The body in one piece, then whatever comes: that the browser has gone."""
    told = False

    async def receiving() -> MutableMapping[str, Any]:
        nonlocal told
        if told:
            message: MutableMapping[str, Any] = await receive()
            return message
        told = True
        return {"type": "http.request", "body": body, "more_body": False}

    return receiving


def _telling(send: _Send, path: str, cookie: str) -> _Send:
    own = {
        b"content-security-policy": POLICY.encode(),
        b"x-content-type-options": b"nosniff",
        b"x-frame-options": b"DENY",
        b"referrer-policy": b"same-origin",
        b"cache-control": f"private, max-age={_YEAR}".encode() if path.startswith(_HELD) else b"no-store",
    }
    if cookie:
        own[b"set-cookie"] = cookie.encode()

    async def sending(message: MutableMapping[str, Any]) -> None:
        if message["type"] == "http.response.start":
            if message["status"] >= 400:
                own[b"cache-control"] = b"no-store"
            theirs = [pair for pair in message.get("headers", ()) if pair[0].lower() not in own]
            message["headers"] = [*theirs, *own.items()]
        await send(message)

    return sending


async def _answer(send: _Send, status: int, reason: str) -> None:
    headers = [
        (b"content-type", b"text/plain; charset=utf-8"),
        (b"cache-control", b"no-store"),
        (b"x-content-type-options", b"nosniff"),
    ]
    if status == 401:
        headers.append((b"www-authenticate", b'Basic realm="LLM workbench", charset="UTF-8"'))
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": reason.encode()})
