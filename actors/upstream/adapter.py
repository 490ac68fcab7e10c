"""The transport adapter that ``requests.Session().mount(...)`` takes.

Its bytes go the way of all others, through :class:`~aigateway.actors.upstream.kept.KeptConnection`:
the same proxies, TLS, framing and limits, and what goes wrong is told in the same words, as
requests' exceptions.  For everything that is not the hot path, which needs no response objects.

Where it differs from the adapter that requests brings along: the whole of a request's body is
sent at once, and the body of a redirection, of which nobody makes anything, is read to its end
only if that comes soon.
"""

from __future__ import annotations

import contextlib
import math
import os
import ssl
import threading
import time
from collections import deque
from collections.abc import Hashable, Iterable, Iterator, Mapping
from email.message import Message
from http.cookiejar import DefaultCookiePolicy
from types import SimpleNamespace
from typing import Any, TypeAlias
from weakref import WeakKeyDictionary

import requests
from attrs import frozen
from requests.adapters import BaseAdapter
from requests.cookies import extract_cookies_to_jar
from requests.structures import CaseInsensitiveDict
from requests.utils import get_encoding_from_headers, select_proxy

from aigateway.actors.codec.decoding import Decoder, DecodingError, decoder_for
from aigateway.actors.codec.headers import joined
from aigateway.actors.upstream.connect import Connectors
from aigateway.actors.upstream.endpoint import Endpoint
from aigateway.actors.upstream.errors import (
    AnswerTimeout,
    ConnectFailed,
    ConnectTimeout,
    ProxyFailed,
    Quiet,
    Unsendable,
    UpstreamCut,
    UpstreamError,
)
from aigateway.actors.upstream.exchange import IDLE_LIMIT, Exchange
from aigateway.actors.upstream.kept import HeaderPairs, KeptConnection, prepare

__all__ = ["AnswerBody", "BodyTimeout", "PlainSession", "UpstreamAdapter"]

CONNECT_TIMEOUT = 30.0
"""Seconds for a connection where the caller names none."""
KEEP_AT_MOST = 10
"""Idle connections kept for each endpoint, as requests' own adapter does."""
TAIL_TIME = 0.25
"""Seconds for the rest of an answer of which nobody makes anything."""

_Timeout: TypeAlias = float | tuple[float | None, float | None] | None
_Path: TypeAlias = str | bytes
_Certificate: TypeAlias = _Path | tuple[_Path, _Path] | None


class BodyTimeout(requests.ReadTimeout, requests.ConnectionError):
    """The answer fell silent inside its body: what requests calls a ConnectionError there."""


class AnswerBody:
    """The ``raw`` of a response: the answer's body, read from its exchange.

    Reading raises requests' exceptions.  At the end of the body its connection is kept for the
    next request, if framing has proven the end.
    """

    def __init__(
        self, exchange: Exchange, timeout: float, adapter: UpstreamAdapter, lent: _Lent
    ) -> None:
        self.exchange = exchange
        """For those who read at their own pace; they end with :meth:`finish`."""
        self.status = exchange.status
        self.reason = exchange.reason
        self._timeout = timeout
        self._adapter = adapter
        self._lent: _Lent | None = lent
        self._rest = b""
        self._over = False
        self._decoder: Decoder | None = None
        self._decoder_chosen = False
        message = Message()
        for name, value in exchange.headers:
            message[name] = value
        # Under this name requests looks for cookies.
        self._original_response = SimpleNamespace(msg=message)

    @property
    def closed(self) -> bool:
        """Whether nothing can be read any more."""
        return self._lent is None

    def read(self, amt: int | None = None, decode_content: bool = False) -> bytes:
        """The next ``amt`` bytes, all that follow without; fewer at the end."""
        wanted = math.inf if amt is None or amt < 0 else amt
        while len(self._rest) < wanted and (data := self._next(decode_content)):
            self._rest += data
        size = len(self._rest) if wanted == math.inf else int(wanted)
        data, self._rest = self._rest[:size], self._rest[size:]
        return data

    def stream(self, amt: int | None = None, decode_content: bool = False) -> Iterator[bytes]:
        """Whatever has arrived, in pieces of ``amt`` bytes at most, as it comes."""
        while data := self._rest or self._next(decode_content):
            size = amt or len(data)
            self._rest = data[size:]
            yield data[:size]

    def finish(self, within: float = TAIL_TIME) -> None:
        """Nobody reads on: keep the connection if the body ends within ``within`` seconds, and
        close it if not."""
        self._rest, self._over = b"", True
        if self._lent is None:
            return
        until = time.monotonic() + within
        with contextlib.suppress(Quiet, UpstreamError, OSError):
            while (left := until - time.monotonic()) > 0:
                self.exchange.set_quiet(left)
                if not self.exchange.read():
                    break
        self._give_back()

    def close(self) -> None:
        """Close the connection unless the body has been read to its end."""
        self._rest, self._over = b"", True
        if self._lent is not None:
            self.exchange.close()
            self._give_back()

    def release_conn(self) -> None:
        """For requests, which calls it where the body is done with."""
        if self._over or self.exchange.complete:
            self.finish(0.0)

    def _give_back(self) -> None:
        lent, self._lent = self._lent, None
        if lent is not None:
            reusable = self.exchange.reusable
            self.exchange.detach()
            self._adapter._take_back(lent, reusable=reusable)

    def _next(self, decode: bool) -> bytes:
        """Some more of the body; empty at its end."""
        if not self._decoder_chosen:
            self._decoder_chosen = True
            coding = joined(self.exchange.headers, "content-encoding")
            try:
                self._decoder = decoder_for(coding) if decode else None
            except DecodingError:
                # One that we do not know is for those who asked for it.
                self._decoder = None
        while data := self._arrived():
            try:
                data = data if self._decoder is None else self._decoder.feed(data)
            except DecodingError as ex:
                self.close()
                raise requests.exceptions.ContentDecodingError(str(ex)) from ex
            if data:
                return data
        return b""

    def _arrived(self) -> bytes:
        if self._over:
            return b""
        try:
            self.exchange.set_quiet(self._timeout)
            data = self.exchange.read()
        except Quiet as ex:
            self.close()
            raise BodyTimeout(f"the upstream was silent for {self._timeout:g} s") from ex
        except UpstreamCut as ex:
            self.close()
            raise requests.exceptions.ChunkedEncodingError(ex) from ex
        if not data:
            self._over = True
            self._give_back()
        return data


@frozen
class _Lent:
    """A connection that carries an exchange, for whom, and where it is kept."""

    request: requests.PreparedRequest
    place: Hashable
    connection: KeptConnection


class UpstreamAdapter(BaseAdapter):
    """Sends the requests of sessions; safe to use from many threads.

    A number that is given as ``timeout`` holds for connecting, for the answer's head and for each
    silence in its body; of a pair the first is for connecting.  None is as long as it takes,
    but for connecting.
    """

    def __init__(
        self,
        connectors: Connectors | None = None,
        *,
        keep_idle: float = IDLE_LIMIT,
    ) -> None:
        """``connectors`` may be shared with other adapters; ``keep_idle`` is the seconds for
        which a connection without work is used again."""
        super().__init__()
        self._connectors = connectors or Connectors(timeout=CONNECT_TIMEOUT)
        self._keep_idle = keep_idle
        self._lock = threading.Lock()
        self._idle: dict[Hashable, deque[tuple[float, KeptConnection]]] = {}
        self._under_way: WeakKeyDictionary[requests.PreparedRequest, KeptConnection]
        self._under_way = WeakKeyDictionary()
        self._closed = False

    def send(
        self,
        request: requests.PreparedRequest,
        stream: bool = False,
        timeout: _Timeout = None,
        verify: bool | str = True,
        cert: _Certificate = None,
        proxies: Mapping[str, str] | None = None,
    ) -> requests.Response:
        """Send and wait for the answer's head; its body is in the response's ``raw``.

        Raises kinds of ``requests.RequestException``, whose cause is the
        :class:`~aigateway.actors.upstream.errors.UpstreamError`.
        """
        del stream
        connecting, reading = timeout if isinstance(timeout, tuple) else (timeout, timeout)
        patience = math.inf if reading is None else reading
        try:
            lent = self._lend(request, verify, cert, proxies)
            try:
                with self._lock:
                    self._under_way[request] = lent.connection
                headers, body, host = _as_sent(request)
                exchange = lent.connection.exchange(
                    prepare(request.method or "GET", request.url or "", headers, body),
                    patience,
                    connect_timeout=connecting,
                    host=host,
                )
            except BaseException:
                lent.connection.close()
                raise
        except UpstreamError as ex:
            raise _as_of_requests(ex, request) from ex
        return self._response(request, AnswerBody(exchange, patience, self, lent))

    def interrupt(self, request: requests.PreparedRequest) -> None:
        """From another thread: break the connection that carries this request, if one does.

        Its sender or reader gets an error at once.
        """
        with self._lock:
            # Within the lock: a moment later it may carry the request of another caller.
            if (connection := self._under_way.get(request)) is not None:
                connection.shut()

    def close_idle(self, older_than: float = 0.0) -> float | None:
        """Close connections that were idle for so many seconds; say at which monotonic time to
        look again, if at all."""
        now = time.monotonic()
        old: list[KeptConnection] = []
        with self._lock:
            for place, kept in list(self._idle.items()):
                while kept and now - kept[0][0] >= older_than:
                    old.append(kept.popleft()[1])
                if not kept:
                    del self._idle[place]
            oldest = min((kept[0][0] for kept in self._idle.values()), default=None)
        for connection in old:
            connection.close()
        return None if oldest is None else oldest + older_than

    def close(self) -> None:
        """Keep no idle connections any more.  Requests under way go on."""
        self._closed = True
        self.close_idle()

    # -- connections

    def _lend(
        self,
        request: requests.PreparedRequest,
        verify: bool | str,
        cert: _Certificate,
        proxies: Mapping[str, str] | None,
    ) -> _Lent:
        url = request.url or ""
        try:
            endpoint = Endpoint.of(url)
        except ValueError as ex:
            raise requests.exceptions.InvalidURL(str(ex), request=request) from ex
        proxy = select_proxy(url, {**proxies} if proxies else {}) or ""
        if proxy and "://" not in proxy:
            proxy = f"http://{proxy}"
        pair = _certificate(cert)
        place = (endpoint, proxy, verify, pair)
        with self._lock:
            kept = self._idle.get(place)
            while kept:
                since, connection = kept.pop()
                if time.monotonic() - since < self._keep_idle and connection.is_alive():
                    return _Lent(request, place, connection)
                connection.close()
        connector = self._connectors.get(endpoint, proxy=proxy, verify=verify, cert=pair)
        return _Lent(request, place, KeptConnection(connector))

    def _take_back(self, lent: _Lent, *, reusable: bool) -> None:
        """The exchange is over; one that was shut meanwhile is seen to be dead when it is lent."""
        with self._lock:
            self._under_way.pop(lent.request, None)
            kept = self._idle.setdefault(lent.place, deque())
            if reusable and not self._closed and len(kept) < KEEP_AT_MOST:
                kept.append((time.monotonic(), lent.connection))
                return
        lent.connection.close()

    # -- the answer

    def _response(self, request: requests.PreparedRequest, body: AnswerBody) -> requests.Response:
        response = requests.Response()
        response.status_code = body.status
        response.reason = body.reason
        response.headers = _joined(body.exchange.headers)
        response.encoding = get_encoding_from_headers(response.headers)
        response.url = request.url or ""
        response.request = request
        response.raw = body
        # requests' stubs want urllib3's response; what is read of it is in AnswerBody.
        extract_cookies_to_jar(response.cookies, request, body)  # type: ignore[no-untyped-call]
        if response.is_redirect:
            body.finish()
        return response


class PlainSession(requests.Session):
    """Brings each answer as it came: follows no redirection, keeps no cookie, and reads neither
    ``.netrc`` nor any variable of the environment."""

    def __init__(self, adapter: UpstreamAdapter | None = None, *, proxy: str = "") -> None:
        super().__init__()
        self.trust_env = False
        self.cookies.set_policy(DefaultCookiePolicy(allowed_domains=()))
        if proxy:
            self.proxies = {"all": proxy}
        self.adapters.clear()
        for scheme in ("http://", "https://"):
            self.mount(scheme, adapter or UpstreamAdapter())

    def get_redirect_target(self, resp: requests.Response) -> None:
        """There is none to follow."""


def _as_sent(request: requests.PreparedRequest) -> tuple[HeaderPairs, bytes, str]:
    """Headers, body and ``Host`` of a request, as they are written."""
    # Whatever a caller has given as data, says requests' documentation; its stubs say less.
    body: Any = request.body
    if body is None:
        data = b""
    elif isinstance(body, str):
        data = body.encode()
    elif isinstance(body, bytes | bytearray):
        data = bytes(body)
    else:
        data = _whole(body)
    headers, host = HeaderPairs(), ""
    value: Any
    for name, value in request.headers.items():
        text = value.decode("latin-1") if isinstance(value, bytes) else str(value)
        match name.lower():
            case "host":
                host = text
            case "transfer-encoding" if data or body is not None:
                # The body of unknown length that was announced is whole now.
                headers.append(("Content-Length", str(len(data))))
            case _:
                headers.append((name, text))
    return headers, data, host


def _whole(body: Any) -> bytes:
    """What a file or an iterable holds."""
    pieces: Iterable[str | bytes] = [body.read()] if hasattr(body, "read") else body
    return b"".join(piece.encode() if isinstance(piece, str) else piece for piece in pieces)


def _certificate(cert: _Certificate) -> str | tuple[str, str] | None:
    if isinstance(cert, tuple):
        return os.fsdecode(cert[0]), os.fsdecode(cert[1])
    return os.fsdecode(cert) if cert else None


def _joined(headers: Iterable[tuple[str, str]]) -> CaseInsensitiveDict[str]:
    joined: CaseInsensitiveDict[str] = CaseInsensitiveDict()
    for name, value in headers:
        joined[name] = f"{joined[name]}, {value}" if name in joined else value
    return joined


def _as_of_requests(
    error: UpstreamError, request: requests.PreparedRequest
) -> requests.RequestException:
    """What requests calls this."""
    found: type[requests.RequestException]
    match error:
        case Unsendable():
            found = requests.exceptions.InvalidHeader
        case ConnectTimeout():
            found = requests.ConnectTimeout
        case ProxyFailed():
            found = requests.exceptions.ProxyError
        case ConnectFailed() if isinstance(error.__cause__, ssl.SSLError):
            found = requests.exceptions.SSLError
        case AnswerTimeout():
            found = requests.ReadTimeout
        case _:
            found = requests.ConnectionError
    return found(error, request=request)
