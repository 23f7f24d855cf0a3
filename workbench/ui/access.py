"""Who may reach the page: this machine alone, or others with a password over TLS or through a stated proxy."""

import hashlib
import hmac
import ipaddress
import re
import ssl
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

from workbench.errors import UserError

LOOPBACK = "127.0.0.1"

PASSWORD = "WORKBENCH_PASSWORD"
"""The environment variable that may hold the password. A command line is shown to every user of a machine."""

SHORTEST = 12
"""Characters of a password."""

_LOCAL = re.compile(r"(127\.0\.0\.1|localhost|\[::1\])(:[0-9]{1,5})?")
_NAME = re.compile(r"[a-z0-9]([a-z0-9.-]*[a-z0-9])?|[0-9a-f:]+")


@dataclass(frozen=True)
class Access:
    """Where the page is, and what one has to know to be let in.

    Attributes:
        host: the address that is listened on.
        port: its port.
        password: what everybody has to know; None where nobody is asked for one.
        certificate: file with the chain of the TLS certificate; None serves without TLS.
        key: file with the certificate's key.
        proxy: what a browser's address begins with where a proxy stands before the page, as https://lab.example.
    """

    host: str = LOOPBACK
    port: int = 7860
    password: str | None = field(default=None, repr=False)
    certificate: Path | None = None
    key: Path | None = None
    proxy: str | None = None

    @property
    def local(self) -> bool:
        """Whether only this machine's own programs reach it."""
        return self.proxy is None and is_loopback(self.host)

    @property
    def secure(self) -> bool:
        """Whether browsers reach it by https."""
        return self.proxy is not None or self.certificate is not None

    @property
    def address(self) -> str:
        """What is typed into a browser."""
        if self.proxy is not None:
            return self.proxy
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{'https' if self.secure else 'http'}://{host}:{self.port}"

    def is_own_host(self, host: str) -> bool:
        """Whether a request with this Host is meant for this page; any other comes by a name that is not ours.

        A local page may have any port: it is another one at the near end of an ssh tunnel. What another site
        sends to that port is known by its Origin.
        """
        host = host.lower()
        if self.local:
            return _LOCAL.fullmatch(host) is not None
        own = urlsplit(self.address)
        default = own.port in (None, 443)
        return host == own.netloc or (default and host in (own.hostname, f"{own.hostname}:443"))

    def is_own_origin(self, origin: str, host: str) -> bool:
        """Whether a request to this Host, which is our own, comes from our own page."""
        return origin.lower() == f"{'https' if self.secure else 'http'}://{host.lower()}"

    def is_password(self, typed: str) -> bool:
        """Whether it is the password; it takes as long for a near miss as for a far one."""
        if self.password is None:
            return False
        return hmac.compare_digest(_digest(typed), _digest(self.password))


def open_access(
    host: str = LOOPBACK,
    port: int = 7860,
    *,
    password_file: Path | None = None,
    certificate: Path | None = None,
    key: Path | None = None,
    proxy: str | None = None,
    environment: Mapping[str, str],
) -> Access:
    """What the command line asked for, where it is safe.

    Args:
        host, port, certificate, key, proxy: as `Access` has them.
        password_file: its first line is the password; else the environment's PASSWORD is, where it is set.
        environment: variables by name.

    Raises:
        UserError: others than this machine would reach the page without a password, or could read it on its way;
            or a part of this cannot be used.
    """
    host = host.strip().strip("[]").lower()
    if not _NAME.fullmatch(host):
        raise UserError(f"--host is {host!r}; it must be a name or an address of this machine.")
    password = _password(password_file, environment)
    if (certificate is None) != (key is None):
        raise UserError("--certificate and --key belong together: give both files, or neither.")
    if certificate is not None and key is not None:
        _check_certificate(certificate, key)
    access = Access(host, port, password, certificate, key, None if proxy is None else _proxy(proxy))
    if access.local:
        return access
    if password is None:
        raise UserError(
            f"The page would be reached from other machines ({access.address}), and whoever reaches it uses your "
            f"models. Give it a password of {SHORTEST} characters or more, by --password-file FILE or the "
            f"environment variable {PASSWORD}."
        )
    if not access.secure:
        raise UserError(
            "The page would be reached from other machines without encryption, and everybody on the way could "
            "read the password. Give --certificate FILE and --key FILE (TLS), or --proxy https://NAME where a "
            "proxy with TLS stands before it."
        )
    if access.proxy is None and _ip(host) in _ANY:
        raise UserError(
            f"--host {host} is every address of this machine, and none that a browser could name. Give the one "
            "that people type, as --host lab.example, or --proxy https://NAME where a proxy stands before it."
        )
    return access


def is_loopback(host: str) -> bool:
    """Whether nothing but this machine reaches what listens there."""
    address = _ip(host)
    return host == "localhost" if address is None else address.is_loopback


def _ip(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(host)
    except ValueError:
        return None


_ANY = (ipaddress.IPv4Address("0.0.0.0"), ipaddress.IPv6Address("::"))


class Tries:
    """Counts who typed a wrong password lately, so that nobody can type many.

    Args:
        most: wrong ones that one address may send in `seconds`.
        seconds: how long a wrong one counts.
        clock: seconds since whenever.
    """

    def __init__(self, most: int = 10, seconds: float = 60.0, clock: Callable[[], float] = time.monotonic) -> None:
        self.most, self.seconds, self._clock = most, seconds, clock
        self._wrong: dict[str, deque[float]] = {}

    def wait(self, who: str) -> float:
        """Seconds until this address may try again; 0 where it may now."""
        self._forget()
        times = self._wrong.get(who)
        return 0.0 if times is None or len(times) < self.most else self.seconds - (self._clock() - times[0])

    def failed(self, who: str) -> None:
        """One more wrong password came from there."""
        self._wrong.setdefault(who, deque(maxlen=self.most)).append(self._clock())

    def _forget(self) -> None:
        now = self._clock()
        for who, times in list(self._wrong.items()):
            while times and now - times[0] >= self.seconds:
                times.popleft()
            if not times:
                del self._wrong[who]


def _password(file: Path | None, environment: Mapping[str, str]) -> str | None:
    if file is not None:
        try:
            lines = file.read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise UserError(f"The password file {file} cannot be read: {error}") from error
        password, where = lines[0].strip() if lines else "", f"in {file}"
    elif PASSWORD in environment:
        password, where = environment[PASSWORD].strip(), f"in {PASSWORD}"
    else:
        return None
    if len(password) < SHORTEST:
        raise UserError(
            f"The password {where} has {len(password)} characters; it must have {SHORTEST} or more. "
            'One is made by: python -c "import secrets; print(secrets.token_urlsafe(16))"'
        )
    return password


def _check_certificate(certificate: Path, key: Path) -> None:
    for file in (certificate, key):
        if not file.is_file():
            raise UserError(f"There is no file {file}, which --certificate or --key names.")
    try:
        # An encrypted key would be asked for at the terminal, in the middle of the start.
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(certificate, key, password=lambda: b"")
    except (OSError, ValueError) as error:
        raise UserError(
            f"{certificate} and {key} cannot serve TLS: {error}. They must be a PEM certificate and its own key, "
            "the key without a passphrase."
        ) from error


def _proxy(address: str) -> str:
    parts = urlsplit(address.strip().lower())
    try:
        port = parts.port
    except ValueError:
        port = -1
    bare = parts.path in ("", "/") and not (parts.query or parts.fragment or parts.username or parts.password)
    if (
        parts.scheme != "https"
        or not parts.hostname
        or not _NAME.fullmatch(parts.hostname)
        or not bare
        or port == -1
    ):
        raise UserError(
            f"--proxy is {address!r}; it must be what a browser's address begins with, by https and without a "
            "path, as https://lab.example."
        )
    return f"https://{parts.netloc}"


def _digest(text: str) -> bytes:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()
