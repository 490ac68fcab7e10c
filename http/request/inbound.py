"""A request on its way through the edge: as it came (:class:`Inbound`: its name, headers in their
order, the raw path and how logs may show it, the body within its limits), and what has become of
it so far (:class:`Call`).

WSGI folds headers into environment variables: order, repetition and the difference between
``session-id`` and ``session_id`` are lost.  gunicorn's ``pre_request`` hook keeps the
parsed list (:func:`keep_request`); under other servers the variables must do.

Clients decide how long reading a body takes.  A body has so much time in all, and must bring a
least number of bytes in each window of ``WINDOW`` seconds.  All bodies that are being read by
this process together may hold so many bytes; a body that would go over that is refused.  So
clients that stop in the middle, drip, or come all at once cost the others nothing but a moment.
"""

from __future__ import annotations

import random
import re
import socket
import threading
import time
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, Final, TypeAlias
from urllib.parse import unquote

from attrs import define, field
from gunicorn.http.errors import ParseException

from aigateway.actors.codec.headers import HeaderList, Headers, holds, is_secret_name
from aigateway.actors.upstream.waiting import patient

if TYPE_CHECKING:
    from aigateway.actors.control.messages import Caller
    from aigateway.actors.providers.recording import Recording
    from aigateway.actors.values.policy import CallerRules
    from aigateway.actors.values.provider_config import ProviderConfig
    from aigateway.actors.values.tools import ToolResult
    from aigateway.http.request.dump import Dump
    from aigateway.http.tracing.request import RequestTrace

__all__ = [
    "Bodies",
    "BodyTooLarge",
    "BodyTooSlow",
    "Call",
    "ClientVanished",
    "Inbound",
    "MalformedBody",
    "Pace",
    "REQUEST_ID_HEADER",
    "TooManyBodies",
    "Trace",
    "UNTRACED",
    "error_words",
    "keep_request",
    "request_id_of",
    "shown_path",
]

WINDOW = 10.0
"""Seconds in which the least rate is measured."""


class BodyTooLarge(Exception):
    """The request's body is over the limit."""


class BodyTooSlow(Exception):
    """The body did not come in its time; the text says which rule it broke."""


class TooManyBodies(Exception):
    """The bodies that are being read hold as much memory as they may."""


class Bodies:
    """The bodies that this process is reading now.  Safe to use from many threads."""

    def __init__(self, limit: int, timeout: float, least_rate: int) -> None:
        """``limit`` is bytes of all bodies together, ``timeout`` seconds for each,
        ``least_rate`` bytes per second; 0 of the last: none."""
        self._limit = limit
        self._timeout = timeout
        self._least_rate = least_rate
        self._lock = threading.Lock()
        self.held = 0
        """Bytes that they hold."""

    def begin(self, most: int) -> Pace:
        """One more body of at most so many bytes is read; :meth:`Pace.over` must follow."""
        now = time.monotonic()
        until = now + self._timeout
        return Pace(self, most, until, self._timeout, self._least_rate, now + WINDOW)

    def hold(self, size: int) -> None:
        """``size`` more bytes are there.  Raises TooManyBodies."""
        with self._lock:
            if self._limit and self.held + size > self._limit:
                raise TooManyBodies
            self.held += size

    def release(self, size: int) -> None:
        with self._lock:
            self.held -= size


@define(eq=False)
class Pace:
    """One body's size, time, window and memory."""

    _bodies: Bodies
    _most: int
    _until: float
    _timeout: float
    _least_rate: int
    _window_until: float
    _in_window: int = 0
    _held: int = 0
    _announced: int = 0

    def announce(self, size: int) -> None:
        """The client says that a chunk of ``size`` bytes follows.  Raises BodyTooLarge."""
        self._announced += size
        if self._announced > self._most:
            raise BodyTooLarge

    def receive(self, sock: Any, size: int) -> bytes:
        """What ``sock`` receives.  Raises BodyTooSlow, TooManyBodies, and what a socket raises."""
        before = sock.gettimeout()
        try:
            data = self._receive(sock, size)
        finally:
            sock.settimeout(before)
        self._bodies.hold(len(data))
        self._held += len(data)
        self._in_window += len(data)
        return data

    def _receive(self, sock: Any, size: int) -> bytes:
        while True:
            now = time.monotonic()
            if now >= self._until:
                raise BodyTooSlow(f"it was not there within {self._timeout:g} s")
            until = self._until
            if self._least_rate:
                if now >= self._window_until:
                    self._next_window(now)
                until = min(until, self._window_until)
            sock.settimeout(max(until - now, 0.001))
            try:
                data: bytes = patient(sock).recv(size)
            except TimeoutError:
                continue
            return data

    def _next_window(self, now: float) -> None:
        if self._in_window < self._least_rate * WINDOW:
            raise BodyTooSlow(f"it came with less than {self._least_rate} bytes per second")
        self._in_window = 0
        self._window_until = now + WINDOW

    def over(self) -> None:
        """The body is whole or given up, and where it goes from here holds its memory."""
        held, self._held = self._held, 0
        # What came together with the head was never counted.
        if held:
            self._bodies.release(held)


REQUEST_ID_HEADER = "X-AI-Gateway-Request-Id"
"""In every answer but those of probes.  Not ``X-Request-Id``: providers use that one."""
GIVEN_HEADER = "X-Request-Id"
"""What clients, and proxies on the way (nginx, Envoy, load balancers), send."""
_SAFE = re.compile(r"[A-Za-z0-9._:+/=@-]{1,128}")
MASK = "********"
_SHORTEST_KEY = 16
"""Characters of the shortest that the patterns below know."""
_PLAIN = re.compile(r"[^/=%]{0,15}(?:/[^/=%]{0,15})*")
"""A path of segments that are too short for one, and no name with a value."""

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


def keep_request(_worker: Any, request: Any) -> None:
    """gunicorn's hook before each request: remember its header list for the thread or greenlet
    that serves it next, and what its body is read from."""
    # Not every server's unreader is a :class:`~aigateway.http.server.parts.GatewayUnreader`,
    # which the main process must not import.
    unreader = request.unreader
    _kept.set((request.headers, unreader if hasattr(unreader, "pace") else None))


@define(eq=False)
class Inbound:
    """One request, read from a WSGI environment."""

    method: str
    path: str
    """Percent-encoded, as it came."""
    query: str
    headers: HeaderList
    client_ip: str
    """Of the peer of the connection, until
    :class:`~aigateway.http.request.client_address.ClientAddresses` has looked behind proxies."""
    scheme: str
    host: str
    environ: dict[str, Any]
    _source: Any = None
    body: bytes = b""
    """Empty until it is read."""
    token: str = ""
    """The Coder token, once it is known."""

    @property
    def wants_websocket(self) -> bool:
        """Whether it is a WebSocket's handshake, or was one before a proxy that does not pass
        ``Upgrade`` on."""
        if self.header("Upgrade").lower() == "websocket":
            return True
        return self.method == "GET" and bool(self.header("Sec-WebSocket-Key"))

    def read_ahead(self) -> bytes:
        """What has come behind the head of a request without a body; asked once."""
        return self._source.take_buffered() if self._source is not None else b""

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
    def peer_ip(self) -> str:
        """Who is at the other end of the connection."""
        peer: str = self.environ.get("REMOTE_ADDR", "")
        return peer

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
            raise MalformedBody(error_words(ex)) from ex
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
    # PERF: nearly all paths; looking at each segment takes 8 us and more.
    if (not token or len(token) >= _SHORTEST_KEY) and _PLAIN.fullmatch(path):
        return path
    return "/".join(_shown(segment, token) for segment in path.split("/"))


def _shown(segment: str, token: str) -> str:
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


def error_words(ex: BaseException) -> str:
    """What kind of error it is, and nothing of its text: ``InvalidChunkSize`` as "invalid chunk
    size"."""
    return re.sub(r"(?<=[a-z])(?=[A-Z])", " ", type(ex).__name__).lower()


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


class Untraced:
    """In the place of a :class:`~aigateway.http.tracing.request.RequestTrace` that nobody wants:
    takes the same words and does nothing."""

    def head(self, status: str, headers: list[tuple[str, str]]) -> list[tuple[str, str]]:
        return headers

    def relaying(self) -> None: ...

    def handled(self) -> None: ...

    def finished(self, outcome: str) -> None: ...

    def refused(self, status: int, body: bytes) -> None: ...

    def passthrough(self, route: str, url: str, method: str) -> None: ...

    def turn(self) -> Untraced:
        return self

    def intercept(self, *, provider: str, kind: str, user: str, api: str, route: str) -> None: ...

    def created(self, recording: Recording, *, model: str, bedrock: bool | None) -> None: ...

    def recorded(self, session: str | None) -> None: ...

    def calling(self, headers: Headers) -> Headers:
        return headers

    def answered(self) -> None: ...

    def tools_asked(self) -> Any:
        return None

    def tools_known(self, span: Any, error: str = "") -> None: ...

    def tool_call(self, tool: str) -> Any:
        return None

    def tool_called(self, span: Any, result: ToolResult) -> None: ...


UNTRACED: Final = Untraced()

Trace: TypeAlias = "RequestTrace | Untraced"
"""What is told how a request goes; a real one exists only where traces are switched on."""


@define(eq=False)
class Call:
    """Filled in step by step, and what the log line is made of."""

    inbound: Inbound
    began: float
    request_id: str = ""
    proxy_id: str = ""
    """What a proxy of the Coder deployment calls it."""
    auth_mode: str = "centralized"
    caller: Caller | None = None
    provider: ProviderConfig | None = None
    route: str = ""
    interception_id: str = ""
    model: str = ""
    """The model that is asked for and recorded."""
    client: str = ""
    session_id: str | None = None
    """What its program calls the conversation, if it says."""
    recorded: bool = False
    """The interception's start was accepted by the control plane."""
    dump: Dump | None = None
    trace: Trace = UNTRACED
    stages: dict[str, float] = field(factory=dict)
    """Seconds spent in each stage that is over."""
    stage: str = "edge"
    """The stage that it is in: edge, authorize, read, place (it waits for one), record,
    provider (until the head of its answer is there), relay."""
    reason: str = ""
    """Why the gateway has refused it; empty: it has not."""
    rule: str = ""
    """By which rule."""
    cap_warning: tuple[str, str] | None = None
    """A header of the answer, where much of a cap is spent."""
    admitted: bool = False
    """It has a place."""
    upgraded: bool = False
    """It is a WebSocket, or runs on one."""
    _marked: float = 0.0

    def begin(self, stage: str) -> None:
        """The stage so far is over, the next one begins."""
        now = time.monotonic()
        seconds = now - (self._marked or self.began)
        self.stages[self.stage] = self.stages.get(self.stage, 0.0) + seconds
        self._marked = now
        self.stage = stage

    def answered(self, begun_at: float) -> None:
        """The answer's head is there; a worker began to ask for it at ``begun_at``, 0: none did.

        What was before that was the provider's actor: admission, the choice of a key, the
        wait for a worker.
        """
        since = self._marked or self.began
        if begun_at > since:
            self.stages["provider"] = begun_at - since
            self._marked = begun_at
        if begun_at:
            self.stage = "first_byte"
        self.begin("relay")

    @property
    def provider_name(self) -> str:
        return self.provider.name if self.provider is not None else ""

    @property
    def rules(self) -> CallerRules | None:
        """What the policy has for the caller."""
        return self.caller.rules if self.caller is not None else None

    @property
    def user_id(self) -> str:
        return self.caller.user_id if self.caller is not None else ""
