"""JSON over HTTP to servers that all do the same: retries, back-off, failover, and asyncio kept inside.

`results` and `relayed` run jobs in an event loop on a thread of its own and hand over what they give as it
comes, so that callers stay synchronous. A failure is one of three: it may pass (it is tried again), it lies with
one request (`ServerError`: the run goes on without that answer) or nothing more can be answered (`UserError`).
"""

import asyncio
import json
import math
import random
import threading
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Iterator, Sequence
from contextlib import aclosing, contextmanager, suppress
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any, TypeVar

import httpx

from workbench.engines.pump import pumped
from workbench.errors import UserError
from workbench.server_state import LOOPBACK

T = TypeVar("T")
Job = Callable[[httpx.AsyncClient], Awaitable[T]]
Send = Callable[[str, dict[str, Any]], Awaitable[T]]
"""Sends a body to a path: `Servers.post` or `Servers.open`, with a client."""

RETRIED = frozenset({408, 409, 425, 429, 500, *range(502, 600)})
"""Statuses that may pass; 501 and every other 4xx will not."""

OVERLOADED = frozenset({429, 503})
"""Statuses that speak for the whole server, not for one request: the others wait too."""

MAX_WAIT = 60.0
"""Seconds: the longest wait before one try, whatever `Retry-After` says."""

CONNECT_SECONDS = 10.0
GET_SECONDS = 30.0


class ServerError(Exception):
    """One request that failed for good, in the server's words."""


class Endpoint:
    """One server's address, and when it may be asked again (`time.monotonic` seconds)."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.free_at = 0.0


class Servers:
    """The endpoints of one model, asked in turn.

    Args:
        urls: their addresses, with or without a trailing `/v1`.
        api_key: sent as a bearer token; it appears in no message and in no `repr`.
        timeout: seconds that one request may take.
        retries: further tries after a failure that may pass.
        backoff: seconds before the second try; doubled for every further one, with jitter.

    Raises:
        UserError: no address, one that is none, or a key with characters that no header can hold.
    """

    def __init__(
        self, urls: Sequence[str], api_key: str | None, timeout: float, retries: int, backoff: float
    ) -> None:
        self._endpoints = [Endpoint(address(url)) for url in urls]
        if not self._endpoints:
            raise UserError("No server address was given. Give one such as http://127.0.0.1:8000.")
        self._key = (api_key or "").strip()
        if not (self._key.isascii() and self._key.isprintable()) or " " in self._key:
            raise UserError("The API key holds a space or a character that no HTTP header can carry.")
        self._timeout = httpx.Timeout(timeout, connect=min(timeout, CONNECT_SECONDS), pool=None)
        self._tries = retries + 1
        self._backoff = backoff
        self._next = 0
        self._clock = _ShareClock()
        # Made once, and only for https: reading the certificates takes a tenth of a second.
        https = any(url.startswith("https:") for url in self.urls)
        proxied = any(httpx.URL(url).host not in LOOPBACK for url in self.urls)  # no proxy reaches this machine's
        self._how: dict[str, Any] = {"verify": https and httpx.create_ssl_context(), "trust_env": proxied}

    @property
    def urls(self) -> list[str]:
        """Every endpoint's address."""
        return [endpoint.url for endpoint in self._endpoints]

    def get(self, url: str) -> dict[str, Any]:
        """One GET, tried once. A blocking call, for what is asked before the work starts.

        Raises:
            ServerError: no connection, a status other than 2xx, or no JSON object.
            UserError: the key was refused.
        """
        try:
            response = httpx.get(url, headers=self._headers(), timeout=GET_SECONDS, **self._how)
        except httpx.RequestError as error:
            raise ServerError(self.words(error)) from None
        return self._object(response)

    async def post(
        self, client: httpx.AsyncClient, path: str, body: dict[str, Any]
    ) -> tuple[dict[str, Any], float]:
        """The JSON object that the first endpoint to answer gives, and this request's share of wall time.

        Raises:
            ServerError: this request cannot be answered, or not within the tries.
            UserError: the key was refused, or no endpoint can be reached any more.
        """
        response, seconds = await self._answer(client, path, body, whole=True)
        return self._object(response), seconds

    async def open(self, client: httpx.AsyncClient, path: str, body: dict[str, Any]) -> httpx.Response:
        """The answer of the first endpoint that begins one, its body still to come; the caller closes it.

        Raises:
            ServerError, UserError: as `post`.
        """
        response, _ = await self._answer(client, path, body, whole=False)
        self._check(response)
        return response

    async def _answer(
        self, client: httpx.AsyncClient, path: str, body: dict[str, Any], *, whole: bool
    ) -> tuple[httpx.Response, float]:
        """The first answer that is no failure that may pass, and this request's share of wall time.

        Its body has been read, unless it is not wanted whole and the status is one of success.
        """
        content = json.dumps(body)  # ASCII: a lone surrogate reaches the server as the escape it is
        for attempt in range(self._tries):
            endpoint = self._pick()
            await asyncio.sleep(max(0.0, endpoint.free_at - time.monotonic()))
            wait = min(MAX_WAIT, self._backoff * 2**attempt * random.uniform(1.0, 1.5))
            try:
                with self._clock.running() as seconds:
                    request = client.build_request("POST", endpoint.url + path, content=content)
                    response = await client.send(request, stream=not whole)
                    if not (whole or response.is_success):
                        await response.aread()
            except (httpx.ConnectError, httpx.ConnectTimeout) as error:
                failure, unreachable = self.words(error), True
                others_up = any(other.free_at <= time.monotonic() for other in self._others(endpoint))
                self._hold(endpoint, 20 * self._backoff if others_up else wait)
                continue
            except httpx.RequestError as error:
                failure, unreachable = self.words(error), not isinstance(error, httpx.TimeoutException)
            else:
                if response.status_code not in RETRIED:
                    return response, seconds()
                failure, unreachable = self._status(response), False
                told = _retry_after(response.headers.get("retry-after", ""))
                wait = wait if told is None else min(MAX_WAIT, told)
                if response.status_code in OVERLOADED:
                    self._hold(endpoint, wait)
                    continue
            if attempt + 1 < self._tries:
                await asyncio.sleep(wait)
        if unreachable:
            raise UserError(
                f"The server at {endpoint.url} does not answer ({failure}; tries: {self._tries}). What was "
                "answered before is kept: start the server again and repeat the same command; it goes on "
                "where it stopped."
            )
        raise ServerError(f"{failure} (tries: {self._tries})")

    def results(self, jobs: Iterable[Job[T]], concurrency: int) -> Iterator[T]:
        """The jobs' results in the order in which they finish, `concurrency` jobs at a time.

        A job that raises ends the iterator with that exception, after what had finished before. Closing the
        iterator (or Ctrl-C in its consumer) cancels what is in flight.
        """

        async def worker(client: httpx.AsyncClient, todo: Iterator[Job[T]], put: Callable[[T], None]) -> None:
            for job in todo:
                put(await job(client))

        async def work(put: Callable[[T], None]) -> None:
            todo = iter(jobs)
            async with self._client(concurrency) as client, asyncio.TaskGroup() as group:
                for _ in range(concurrency):
                    group.create_task(worker(client, todo, put))

        return pumped(work)

    def relayed(self, job: Callable[[httpx.AsyncClient], AsyncGenerator[T]]) -> Iterator[T]:
        """What one job gives, piece by piece as it comes; otherwise as `results`."""

        async def work(put: Callable[[T], None]) -> None:
            async with self._client(1) as client, aclosing(job(client)) as pieces:
                async for piece in pieces:
                    put(piece)

        return pumped(work)

    def _client(self, concurrency: int) -> httpx.AsyncClient:
        limits = httpx.Limits(max_connections=None, max_keepalive_connections=concurrency)
        return httpx.AsyncClient(headers=self._headers(), timeout=self._timeout, limits=limits, **self._how)

    def scrub(self, text: str) -> str:
        """The text without the key: a server may repeat it in its errors, no message of ours does."""
        return text.replace(self._key, "***") if self._key else text

    def _headers(self) -> dict[str, str]:
        headers = {"content-type": "application/json"}
        return {**headers, "authorization": f"Bearer {self._key}"} if self._key else headers

    def _pick(self) -> Endpoint:
        """The next endpoint in turn that may be asked now, else the one that may be asked soonest."""
        turn = self._endpoints[self._next :] + self._endpoints[: self._next]
        self._next = (self._next + 1) % len(self._endpoints)
        now = time.monotonic()
        return min(turn, key=lambda endpoint: max(0.0, endpoint.free_at - now))

    def _others(self, endpoint: Endpoint) -> list[Endpoint]:
        return [other for other in self._endpoints if other is not endpoint]

    @staticmethod
    def _hold(endpoint: Endpoint, seconds: float) -> None:
        endpoint.free_at = max(endpoint.free_at, time.monotonic() + seconds)

    def _check(self, response: httpx.Response) -> None:
        if response.status_code in (401, 403):
            raise UserError(
                f"The server at {response.url.copy_with(path='/')} refuses the API key, or wants one "
                f"({self._status(response)}). Check the key that you give."
            )
        if not response.is_success:
            raise ServerError(self._status(response))

    def _object(self, response: httpx.Response) -> dict[str, Any]:
        self._check(response)
        content = None
        with suppress(ValueError):
            content = response.json()
        if not isinstance(content, dict):
            raise ServerError(f"The answer is no JSON object: {self.scrub(response.text[:200])!r}")
        return content

    def _status(self, response: httpx.Response) -> str:
        """`HTTP 400: …` with the server's own words, in whichever of the usual fields they are."""
        words: Any = response.text
        with suppress(ValueError, AttributeError):
            content = response.json()
            error = content.get("error", content)
            words = error.get("message") or content.get("detail") or words
        return f"HTTP {response.status_code}: {self.scrub(str(words)[:500])}"

    def words(self, error: httpx.RequestError) -> str:
        """A lost connection or a time-out in words, without the key."""
        return self.scrub(f"{type(error).__name__}: {error}".removesuffix(": "))


class _ShareClock:
    """Wall time, every second of it shared evenly among the requests then in flight.

    So the seconds of all requests add up to the time that the work took, however many ran at once.
    """

    def __init__(self) -> None:
        self._shared = 0.0
        self._mark = 0.0
        self._active = 0
        self._lock = threading.Lock()  # two streams may run at once, each on its thread

    @contextmanager
    def running(self) -> Iterator[Callable[[], float]]:
        """Count one request as in flight. The function it gives tells its share, once it is over."""
        start = end = self._advance(+1)
        try:
            yield lambda: end - start
        finally:
            end = self._advance(-1)

    def _advance(self, change: int) -> float:
        with self._lock:
            now = time.monotonic()
            if self._active:
                self._shared += (now - self._mark) / self._active
            self._mark = now
            self._active += change
            return self._shared


def address(url: str) -> str:
    """The address without a trailing slash or `/v1`.

    Raises:
        UserError: it is no http address, or it holds a user name or password, which messages would show.
    """
    shown: object = url.rpartition("@")[2]
    with suppress(httpx.InvalidURL, UnicodeError):  # the latter of a host that cannot be encoded
        parsed = httpx.URL(url.strip() if url.isprintable() else "")
        shown = parsed.copy_with(userinfo=b"") if parsed.userinfo else url
        bare = not parsed.userinfo and not parsed.query and (parsed.port or 0) < 65536
        if parsed.scheme in ("http", "https") and parsed.host and bare:
            return str(parsed).rstrip("/").removesuffix("/v1")
    raise UserError(
        f"endpoint is {str(shown)!r}, which is no server address. Write one such as http://127.0.0.1:8000, "
        "without a user name or password."
    )


def _retry_after(value: str) -> float | None:
    """`Retry-After` in seconds, given as a number or an HTTP date (RFC 9110, §10.2.3); None if unreadable."""
    try:
        seconds = float(value)
    except ValueError:
        try:
            date = parsedate_to_datetime(value)
        except ValueError:
            return None
        seconds = (date.replace(tzinfo=date.tzinfo or UTC) - datetime.now(UTC)).total_seconds()
    return max(0.0, seconds) if math.isfinite(seconds) else None
