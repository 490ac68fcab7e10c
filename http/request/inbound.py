"""A request as it came: its name, headers in their order, the raw path and how logs may show it,
the body within its limit.

WSGI folds headers into environment variables: order, repetition and the difference between
``session-id`` and ``session_id`` are lost.  gunicorn's ``pre_request`` hook keeps the
parsed list (:func:`keep_request`); under other servers the variables must do.
"""

from __future__ import annotations

import random
import re
import socket
from contextvars import ContextVar
from typing import Any
from urllib.parse import unquote

from attrs import define
from gunicorn.http.errors import ParseException

from aigateway.actors.codec.headers import HeaderList, holds, is_secret_name
from aigateway.http.request.body_reading import Bodies, BodyTooLarge, BodyTooSlow, TooManyBodies

__all__ = [
    "BodyTooLarge",
    "BodyTooSlow",
    "ClientVanished",
    "REQUEST_ID_HEADER",
    "Inbound",
    "MalformedBody",
    "TooManyBodies",
    "keep_request",
    "request_id_of",
    "shown_path",
]

REQUEST_ID_HEADER = "X-AI-Gateway-Request-Id"
"""In every answer but those of probes.  Not ``X-Request-Id``: providers use that one."""
GIVEN_HEADER = "X-Request-Id"
"""What clients, and proxies on the way (nginx, Envoy, load balancers), send."""
_SAFE = re.compile(r"[A-Za-z0-9._:+/=@-]{1,128}")
MASK = "********"
_SHORTEST_KEY = 16
"""Characters of the shortest that the patterns below know."""

_KEY = re.compile(
    r"(?<![A-Za-z0-9])(?:(?:sk|pk|rk|xai|gsk|pplx|key|hf|r8|gh[pousr])[-_]|AIza|AKIA|ASIA|eyJ)"
    r"[-_A-Za-z0-9.]{16,}"
    r"|(?<![A-Za-z0-9])[A-Za-z0-9]{10}-[A-Za-z0-9]{22}(?![A-Za-z0-9])"
)
"""Keys of known providers, and a Coder token."""
_OPAQUE = re.compile(r"(?=.*[0-9])(?=.*[a-z])(?=.*[A-Z])[A-Za-z0-9+=~]{24,}")
"""Letters of both cases and digits without a word in front: an id would say what it is of."""
_ESTABLISHED = 1  # TCP_ESTABLISHED, linux/include/net/tcp_states.h
_TCP_INFO: int | None = getattr(socket, "TCP_INFO", None)

_kept: ContextVar[tuple[list[tuple[str, str]], Any] | None] = ContextVar(
    "aigateway_request", default=None
)


class ClientVanished(Exception):
    """The client closed the connection inside its request."""


class MalformedBody(Exception):
    """The body's chunks are not framed as HTTP frames them; the text says what is wrong."""


def keep_request(headers: list[tuple[str, str]], source: Any) -> None:
    """Remember the header list of the request that this thread or greenlet serves next, and
    its ``source``, a :class:`~aigateway.http.server.parts.GatewayUnreader`."""
    _kept.set((headers, source))


@define(eq=False)
class Inbound:
    """One request, read from a WSGI environment."""

    method: str
    path: str
    """Percent-encoded, as it came."""
    query: str
    headers: HeaderList
    client_ip: str
    scheme: str
    host: str
    environ: dict[str, Any]
    _source: Any = None
    body: bytes = b""
    """Empty until it is read."""
    token: str = ""
    """The Coder token, once it is known."""

    @classmethod
    def of(cls, environ: dict[str, Any]) -> Inbound:
        raw = environ.get("RAW_URI") or environ.get("REQUEST_URI")
        if raw is None:
            path, query = environ.get("PATH_INFO", "/"), environ.get("QUERY_STRING", "")
        else:
            # An absolute-form target carries scheme and host in front of the path.
            if not raw.startswith("/") and "://" in raw:
                raw = "/" + raw.split("://", 1)[1].partition("/")[2]
            path, _, query = raw.partition("#")[0].partition("?")
        headers, source = _kept.get() or (None, None)
        _kept.set(None)
        if headers is None:
            headers = _from_environ(environ)
        return cls(
            environ["REQUEST_METHOD"],
            path,
            query,
            HeaderList(headers),
            environ.get("REMOTE_ADDR", ""),
            environ.get("wsgi.url_scheme", "http"),
            environ.get("HTTP_HOST", ""),
            environ,
            source,
        )

    def header(self, name: str) -> str:
        """The first value of a header without surrounding space, or nothing."""
        values = self.headers.by_name.get(name.lower())
        return values[0] if values else ""

    @property
    def shown_path(self) -> str:
        """The path as logs may have it."""
        return shown_path(self.path, self.token)

    def check_length(self, limit: int) -> None:
        """Raise BodyTooLarge when the declared length is over ``limit`` bytes."""
        declared = self.environ.get("CONTENT_LENGTH")
        if declared and declared.isdecimal() and int(declared) > limit:
            raise BodyTooLarge

    def client_has_left(self) -> bool:
        """Whether the client has closed its connection, as far as can be seen without waiting.

        Where the server or the platform does not tell, the answer is no.
        """
        sock = self.environ.get("gunicorn.socket")
        if sock is None or _TCP_INFO is None:
            return False
        try:
            state: int = sock.getsockopt(socket.IPPROTO_TCP, _TCP_INFO, 1)[0]
        except (OSError, ValueError):
            return False
        return state != _ESTABLISHED

    def read_body(self, limit: int, bodies: Bodies) -> bytes:
        """Read the whole body as one of ``bodies``; it is :attr:`body` then.

        Raises BodyTooLarge, BodyTooSlow, TooManyBodies, MalformedBody and ClientVanished.
        """
        self.check_length(limit)
        pace = bodies.begin(limit)
        if self._source is not None:
            self._source.pace = pace
        try:
            body = self._read(limit)
        except ParseException as ex:
            # Its text may quote the body.
            raise MalformedBody(_words(type(ex).__name__)) from ex
        except OSError as ex:
            raise ClientVanished from ex
        finally:
            pace.over()
            if self._source is not None:
                self._source.pace = None
        if len(body) > limit:
            raise BodyTooLarge
        self.body = body
        return body

    def _read(self, limit: int) -> bytes:
        declared = self.environ.get("CONTENT_LENGTH")
        stream = self.environ["wsgi.input"]
        if declared and declared.isdecimal():
            body: bytes = stream.read(int(declared))
            if len(body) < int(declared):
                raise ClientVanished
            return body
        chunked: bytes = stream.read(limit + 1) if self.header("Transfer-Encoding") else b""
        return chunked


def request_id_of(inbound: Inbound) -> str:
    """The id that the request came with if it can stand in a header and a log line as it is,
    else a new one: 16 hexadecimal digits."""
    given = inbound.header(GIVEN_HEADER)
    if given and _SAFE.fullmatch(given):
        return given
    return f"{random.getrandbits(64):016x}"


def shown_path(path: str, token: str = "") -> str:
    """``path`` with each segment masked that is ``token``, a key, or a value under a secret's
    name (``/key=…``)."""
    if len(path) < 16 and not token:
        return path
    return "/".join(_shown(segment, token) for segment in path.split("/"))


def _shown(segment: str, token: str) -> str:
    # PERF: most segments are too short for a key.
    size = len(segment)
    if size < min(_SHORTEST_KEY, len(token) or size + 1) and not set("=%").intersection(segment):
        return segment
    plain = unquote(segment) if "%" in segment else segment
    if holds(plain, token):
        return MASK
    name, equals, _ = plain.partition("=")
    if equals and is_secret_name(name.rpartition(";")[2]):
        return f"{name}={MASK}"
    if _KEY.search(plain) or _OPAQUE.fullmatch(plain):
        return MASK
    return segment


def _words(name: str) -> str:
    """``InvalidChunkSize`` as "invalid chunk size"."""
    return re.sub(r"(?<=[a-z])(?=[A-Z])", " ", name).lower()


def _from_environ(environ: dict[str, Any]) -> list[tuple[str, str]]:
    headers = [
        (name[5:].replace("_", "-").title(), value)
        for name, value in environ.items()
        if name.startswith("HTTP_")
    ]
    for name, key in (("Content-Type", "CONTENT_TYPE"), ("Content-Length", "CONTENT_LENGTH")):
        if environ.get(key):
            headers.append((name, environ[key]))
    return headers
