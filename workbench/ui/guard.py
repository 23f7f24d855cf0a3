"""Keeps other web sites away from the page: it answers only to its own host and its own origin.

A server on 127.0.0.1 is reached by every page that the browser has open. Without this, one of them could name
its own host 127.0.0.1 (DNS rebinding) or post here from its own address.
"""

import re
import secrets
from collections.abc import Awaitable, Callable, MutableMapping
from http.cookies import CookieError, SimpleCookie
from typing import Any

from workbench.ui.shell import COOKIE

_OWN = re.compile(r"(127\.0\.0\.1|localhost)(:[0-9]{1,5})?")

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

_CLOSED = ("/gradio_api/upload", "/gradio_api/file")  # the page takes no files and gives none

_YEAR = 365 * 24 * 3600

_Scope = MutableMapping[str, Any]
_Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]


class Guard:
    """ASGI middleware: 400 to a foreign Host, 403 to a foreign Origin, 404 to files, 413 to what is too long.

    All else passes, and its answer gets a CSP. A browser gets a cookie with the page, by which it is known again.
    """

    def __init__(self, app: Any) -> None:
        self.app = app

    async def __call__(self, scope: _Scope, receive: Any, send: _Send) -> None:
        """Refuse the request, or pass it on."""
        if scope["type"] == "http":
            if refusal := refused(scope["path"], scope["headers"]):
                await _answer(send, *refusal)
            else:
                given = _visited(scope)
                await self.app(scope, receive, _with_policy(send, given))
        elif scope["type"] == "lifespan":
            await self.app(scope, receive, send)
        # Nothing here speaks WebSocket: a connection that is not accepted is closed.


def refused(path: str, headers: list[tuple[bytes, bytes]]) -> tuple[int, str] | None:
    """Status and reason where a request must not be answered, else None."""
    hosts = [value.decode("latin-1").lower() for name, value in headers if name == b"host"]
    if len(hosts) != 1 or not _OWN.fullmatch(hosts[0]):
        return 400, "This page is at 127.0.0.1 only."
    origins = [value.decode("latin-1").lower() for name, value in headers if name == b"origin"]
    if any(origin != f"http://{hosts[0]}" for origin in origins):
        return 403, "Another site may not ask this page."
    told = dict(headers)
    if b"transfer-encoding" in told:  # how much it is would be known at its end only
        return 411, "Say how long it is."
    if not told.get(b"content-length", b"0").isdigit() or int(told.get(b"content-length", b"0")) > MAX_BODY:
        return 413, f"This page takes {MAX_BODY:,} bytes at most."
    if path.startswith(_CLOSED):
        return 404, "This page takes no files and gives none."
    return None


def _visited(scope: _Scope) -> bytes | None:
    """Tell the page which browser asks; what the browser is to keep, where it asks for the page itself.

    Browsers send the cookies of all ports of a host to each of them, so a page's own has its port in its name.
    Inside, there is one name, and no other cookie is let in. It is not `Strict`: a browser that follows a link
    to here would come without it, get another, and lose what it has.
    """
    name = f"{COOKIE}-{scope['server'][1]}"
    held = b"; ".join(value for key, value in scope["headers"] if key == b"cookie").decode("latin-1")
    try:
        morsel = SimpleCookie(held).get(name)
    except CookieError:
        morsel = None
    token = morsel.value if morsel is not None and re.fullmatch(r"[0-9a-f]{32}", morsel.value) else ""
    page = scope["path"] == "/"
    if page and not token:
        token = secrets.token_hex(16)
    scope["headers"] = [(key, value) for key, value in scope["headers"] if key != b"cookie"]
    if token:
        scope["headers"].append((b"cookie", f"{COOKIE}={token}".encode()))
    secure = "; Secure" if scope.get("scheme") == "https" else ""
    kept = f"{name}={token}; HttpOnly; SameSite=Lax; Path=/; Max-Age={_YEAR}{secure}"
    return kept.encode() if page else None


def _with_policy(send: _Send, cookie: bytes | None) -> _Send:
    async def sending(message: MutableMapping[str, Any]) -> None:
        if message["type"] == "http.response.start":
            own = [(b"content-security-policy", POLICY.encode()), (b"x-content-type-options", b"nosniff")]
            if cookie is not None:
                own.append((b"set-cookie", cookie))
            message["headers"] = [*message.get("headers", ()), *own]
        await send(message)

    return sending


async def _answer(send: _Send, status: int, reason: str) -> None:
    headers = [(b"content-type", b"text/plain; charset=utf-8")]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": reason.encode()})
