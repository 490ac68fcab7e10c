"""A request as it came: headers in their order, the raw path, the body within its limit.

WSGI folds headers into environment variables: order, repetition and the difference between
``session-id`` and ``session_id`` are lost.  gunicorn's ``pre_request`` hook keeps the
parsed list (:func:`keep_headers`); under other servers the variables must do.
"""

from __future__ import annotations

import socket
from contextvars import ContextVar
from typing import Any

from attrs import define

from aigateway.actors.providers.interception.header_list import HeaderList, values_of

__all__ = ["BodyTooLarge", "ClientVanished", "Inbound", "keep_headers"]

_ESTABLISHED = 1  # TCP_ESTABLISHED, linux/include/net/tcp_states.h
_TCP_INFO: int | None = getattr(socket, "TCP_INFO", None)

_kept: ContextVar[list[tuple[str, str]] | None] = ContextVar("aigateway_headers", default=None)


class BodyTooLarge(Exception):
    """The request's body is over the limit."""


class ClientVanished(Exception):
    """The client closed the connection inside its request."""


def keep_headers(headers: list[tuple[str, str]]) -> None:
    """Remember the header list of the request that this thread or greenlet serves next."""
    _kept.set(headers)


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
    _body: bytes | None = None

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
        headers = _kept.get()
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
        )

    def header(self, name: str) -> str:
        """The first value of a header without surrounding space, or nothing."""
        values = values_of(self.headers, name)
        return values[0] if values else ""

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

    def body(self, limit: int) -> bytes:
        """Read the whole body, once.  Raises BodyTooLarge and ClientVanished."""
        if self._body is not None:
            return self._body
        self.check_length(limit)
        declared = self.environ.get("CONTENT_LENGTH")
        stream = self.environ["wsgi.input"]
        chunked = self.environ.get("HTTP_TRANSFER_ENCODING")
        try:
            if declared and declared.isdecimal():
                body = stream.read(int(declared))
                if len(body) < int(declared):
                    raise ClientVanished
            elif chunked:
                body = stream.read(limit + 1)
            else:
                body = b""
        except OSError as ex:
            raise ClientVanished from ex
        if len(body) > limit:
            raise BodyTooLarge
        self._body = body
        return self._body


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
