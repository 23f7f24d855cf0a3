"""Keeps other web sites away from the page: it answers only to its own host and its own origin.

A server on 127.0.0.1 is reached by every page that the browser has open. Without this, one of them could name
its own host 127.0.0.1 (DNS rebinding) or post here from its own address.
"""

import re
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

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

_Scope = MutableMapping[str, Any]
_Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]


class Guard:
    """ASGI middleware: 400 to a foreign Host, 403 to a foreign Origin, 404 to files, 413 to what is too long.

    All else passes, and its answer gets a CSP.
    """

    def __init__(self, app: Any) -> None:
        self.app = app

    async def __call__(self, scope: _Scope, receive: Any, send: _Send) -> None:
        """Refuse the request, or pass it on."""
        if scope["type"] == "http":
            if refusal := refused(scope["path"], scope["headers"]):
                await _answer(send, *refusal)
            else:
                await self.app(scope, receive, _with_policy(send))
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


def _with_policy(send: _Send) -> _Send:
    async def sending(message: MutableMapping[str, Any]) -> None:
        if message["type"] == "http.response.start":
            own = [(b"content-security-policy", POLICY.encode()), (b"x-content-type-options", b"nosniff")]
            message["headers"] = [*message.get("headers", ()), *own]
        await send(message)

    return sending


async def _answer(send: _Send, status: int, reason: str) -> None:
    headers = [(b"content-type", b"text/plain; charset=utf-8")]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": reason.encode()})
