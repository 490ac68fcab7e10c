"""A provider of raw sockets that does to each request what the test's script says."""

from __future__ import annotations

import contextlib
import itertools
import json
import select
import socket
import ssl
import struct
import threading
import time
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import Any, Self, TypeAlias

from attrs import define, field

from ._steps import Close, Reset, Send, Stall, Step, Steps, Tell, WaitFor, answer

__all__ = ["ReceivedRequest", "Script", "ScriptedProvider"]

_LINGER_0 = struct.pack("ii", 1, 0)
_POLL = 0.05  # how soon a waiting script notices that the provider is being closed, seconds


@define(eq=False)
class ReceivedRequest:
    """One request exactly as it arrived."""

    connection: int
    """Which connection brought it, counted from 1."""
    raw_head: bytes
    """Request line and headers with the empty line that ends them."""
    request_line: str
    headers: list[tuple[str, str]]
    """Names and values in the order and the case of the wire."""
    body: bytes = b""
    """The body without chunk framing."""
    raw_body: bytes = b""
    """The body as it was framed."""
    client_left: threading.Event = field(factory=threading.Event, repr=False)
    """Set when a step noticed that the client had gone."""
    done: threading.Event = field(factory=threading.Event, repr=False)
    """Set when the script has ended."""

    @property
    def method(self) -> str:
        return self.request_line.split(" ")[0]

    @property
    def target(self) -> str:
        """Path with query."""
        return self.request_line.split(" ")[1]

    def header(self, name: str) -> str | None:
        """The only value of a header; None when absent."""
        values = self.header_values(name)
        assert len(values) < 2, f"{name} was sent {len(values)} times"
        return values[0] if values else None

    def header_values(self, name: str) -> list[str]:
        return [value for key, value in self.headers if key.lower() == name.lower()]

    def json(self) -> Any:
        return json.loads(self.body)


Script: TypeAlias = Steps | Callable[[ReceivedRequest], Steps]
_Matches: TypeAlias = Callable[[ReceivedRequest], bool]


class _ClientLeft(Exception):
    pass


class _ScriptError(Exception):
    pass


class _Ended(Exception):
    """The script has closed the connection, or the provider is being closed."""


class ScriptedProvider:
    """A provider on 127.0.0.1, one thread per connection; use it as a context manager.

    The k-th request gets the k-th script given to :meth:`play` (or the first whose ``when``
    matches), later ones ``otherwise``.  A request nobody planned for gets a 500 and is a
    failure at :meth:`close`.
    """

    def __init__(
        self, *scripts: Script, otherwise: Script | None = None, tls: ssl.SSLContext | None = None
    ) -> None:
        self.otherwise = otherwise
        self.failures: list[str] = []
        """What went wrong in scripts; :meth:`close` raises when there is any."""
        self._tls = tls
        self._planned: list[tuple[Script, _Matches, bool]] = []
        self._on_connect: list[Steps] = []
        self._received: list[ReceivedRequest] = []
        self._sockets: dict[int, socket.socket] = {}
        self._threads: list[threading.Thread] = []
        self._numbers = itertools.count(1)
        self._accepted = 0
        self._news = threading.Condition()
        self._closing = threading.Event()
        self._listener = self._acceptor = self._wake = None
        self.port = 0
        self.listen()
        for script in scripts:
            self.play(script)

    # -- what the test says

    def play(
        self, script: Script, *, when: _Matches = lambda _request: True, early: bool = False
    ) -> None:
        """Plan the answer to one more request; ``early`` plays it before the body is read."""
        with self._news:
            self._planned.append((script, when, early))

    def play_on_connect(self, steps: Steps) -> None:
        """Plan what one more connection gets before any request is read."""
        with self._news:
            self._on_connect.append(steps)

    def listen(self) -> None:
        """Accept connections (again), on the port of before."""
        self._listener = socket.create_server(("127.0.0.1", self.port), backlog=512)
        self.port = self._listener.getsockname()[1]
        self._wake, wake = socket.socketpair()
        self._acceptor = threading.Thread(target=self._accept, args=(self._listener, wake))
        self._acceptor.start()

    def refuse(self) -> None:
        """Refuse new connections until :meth:`listen`; open ones go on."""
        if self._wake is None or self._acceptor is None:
            return
        self._wake.close()
        self._acceptor.join()
        self._wake = self._acceptor = None

    # -- what the test sees

    @property
    def url(self) -> str:
        return f"http{'s' if self._tls else ''}://127.0.0.1:{self.port}"

    @property
    def requests(self) -> list[ReceivedRequest]:
        with self._news:
            return list(self._received)

    @property
    def connections(self) -> int:
        """How many connections were accepted so far."""
        with self._news:
            return self._accepted

    @property
    def open_connections(self) -> int:
        with self._news:
            return len(self._sockets)

    def wait_for_request(self, number: int = 1, timeout: float = 10.0) -> ReceivedRequest:
        """The ``number``-th request, as soon as it is there."""
        self._wait(lambda: len(self._received) >= number, f"request {number}", timeout)
        return self.requests[number - 1]

    def wait_for_connections(self, number: int, timeout: float = 10.0) -> None:
        self._wait(lambda: self._accepted >= number, f"{number} connections", timeout)

    def wait_until_idle(self, timeout: float = 10.0) -> None:
        """Wait until no connection is open."""
        self._wait(lambda: not self._sockets, "the last connection to close", timeout)

    def _wait(self, condition: Callable[[], bool], what: str, timeout: float) -> None:
        with self._news:
            if not self._news.wait_for(condition, timeout):
                raise AssertionError(
                    f"waited {timeout} s for {what}: there were {self._accepted} connections, "
                    f"{len(self._received)} requests, {len(self._sockets)} connections are open"
                )

    # -- life

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, _ex: BaseException | None, _tb: TracebackType | None
    ) -> None:
        self.close(check=kind is None)

    def close(self, *, check: bool = True) -> None:
        """End everything; raise AssertionError when a script failed."""
        self._closing.set()
        self.refuse()
        with self._news:
            open_sockets = list(self._sockets.values())
        for sock in open_sockets:
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join(10)
            assert not thread.is_alive(), "a connection's thread did not end"
        if check and self.failures:
            raise AssertionError("scripted provider: " + "; ".join(self.failures))

    # -- connections

    def _accept(self, listener: socket.socket, wake: socket.socket) -> None:
        with listener, wake:
            while wake not in select.select([listener, wake], [], [])[0]:
                sock, _ = listener.accept()
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                with self._news:
                    self._accepted += 1
                    number = next(self._numbers)
                    self._sockets[number] = sock
                    on_connect = self._on_connect.pop(0) if self._on_connect else None
                    self._news.notify_all()
                thread = threading.Thread(target=self._serve, args=(number, sock, on_connect))
                self._threads.append(thread)
                thread.start()

    def _serve(self, number: int, sock: socket.socket, on_connect: Steps | None) -> None:
        try:
            if self._tls is not None:
                sock = self._tls.wrap_socket(sock, server_side=True)
                with self._news:
                    self._sockets[number] = sock
            connection = _Connection(sock, number, self._closing)
            if on_connect is not None:
                connection.run(on_connect, None)
            while (request := connection.read_head()) is not None:
                self._serve_request(connection, request)
        except (_Ended, _ClientLeft, OSError):
            pass
        except Exception as ex:
            self.failures.append(f"{ex!r}")
        finally:
            sock.close()
            with self._news:
                del self._sockets[number]
                self._news.notify_all()

    def _serve_request(self, connection: _Connection, request: ReceivedRequest) -> None:
        # An early script must be known before the body is there.
        early = self._take(request, early=True)
        if early is None:
            connection.read_body(request)
        with self._news:
            self._received.append(request)
            self._news.notify_all()
        script = early or self._take(request, early=False) or self.otherwise
        if script is None:
            self.failures.append(f"no script for {request.request_line}")
            script = answer("no script for this request", 500, content_type="text/plain")
        try:
            connection.run(script(request) if callable(script) else script, request)
        except _ClientLeft:
            request.client_left.set()
            raise
        finally:
            request.done.set()
            with self._news:
                self._news.notify_all()
        if early is not None or (request.header("Connection") or "").lower() == "close":
            connection.close()

    def _take(self, request: ReceivedRequest, *, early: bool) -> Script | None:
        with self._news:
            for place, (script, matches, script_early) in enumerate(self._planned):
                if script_early == early and matches(request):
                    del self._planned[place]
                    return script
        return None

    @property
    def unplayed(self) -> int:
        """How many planned answers nobody asked for."""
        with self._news:
            return len(self._planned)


class _Connection:
    """Reads requests from one socket and runs steps on it."""

    def __init__(self, sock: socket.socket, number: int, closing: threading.Event) -> None:
        self._sock = sock
        self._number = number
        self._closing = closing
        self._buffer = b""
        self._unread_body = False

    # -- requests

    def read_head(self) -> ReceivedRequest | None:
        """The next request without its body, None at the end of the connection."""
        while b"\r\n\r\n" not in self._buffer:
            if not self._receive():
                return None
        raw, _, self._buffer = self._buffer.partition(b"\r\n\r\n")
        first, *lines = raw.decode("latin-1").split("\r\n")
        pairs = [line.partition(":") for line in lines]
        self._unread_body = True
        return ReceivedRequest(
            connection=self._number,
            raw_head=raw + b"\r\n\r\n",
            request_line=first,
            headers=[(name, value.strip()) for name, _, value in pairs],
        )

    def read_body(self, request: ReceivedRequest) -> None:
        if (request.header("Expect") or "").lower() == "100-continue":
            self._sock.sendall(b"HTTP/1.1 100 Continue\r\n\r\n")
        if (request.header("Transfer-Encoding") or "").lower() == "chunked":
            for framed, data in self._chunks():
                request.raw_body += framed
                request.body += data
        else:
            request.body = self._exactly(int(request.header("Content-Length") or 0))
            request.raw_body = request.body
        self._unread_body = False

    def _chunks(self) -> Iterator[tuple[bytes, bytes]]:
        size = -1
        while size != 0:
            line = self._line()
            size = int(line.split(b";")[0], 16)
            data = self._exactly(size)
            # The last chunk is followed by trailers (none expected) and an empty line.
            yield line + data + self._exactly(2), data

    def _line(self) -> bytes:
        while b"\r\n" not in self._buffer:
            if not self._receive():
                raise _ClientLeft
        line, _, self._buffer = self._buffer.partition(b"\r\n")
        return line + b"\r\n"

    def _exactly(self, size: int) -> bytes:
        while len(self._buffer) < size:
            if not self._receive():
                raise _ClientLeft
        data, self._buffer = self._buffer[:size], self._buffer[size:]
        return data

    def _receive(self) -> bool:
        data = self._sock.recv(65536)
        self._buffer += data
        return bool(data)

    # -- steps

    def run(self, steps: Steps, request: ReceivedRequest | None) -> None:
        for step in steps:
            self._step(step, request)

    def _step(self, step: Step, request: ReceivedRequest | None) -> None:
        match step:
            case bytes() as data:
                self._send(data)
            case Send(data):
                self._send(data)
            case WaitFor(event, timeout):
                self._wait_for(event, timeout)
            case Tell(event):
                event.set()
            case Stall(hangup):
                self._await_hangup()
                if request is not None:
                    request.client_left.set()
                hangup.set()
                raise _ClientLeft
            case Close():
                self.close()
            case Reset():
                self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _LINGER_0)
                self._sock.close()
                raise _Ended
            case _:
                raise _ScriptError(f"a script has no step {step!r}")

    def _send(self, data: bytes) -> None:
        try:
            self._sock.sendall(data)
        except OSError as ex:
            if self._closing.is_set():
                raise _Ended from ex
            raise _ClientLeft from ex

    def _wait_for(self, event: threading.Event, timeout: float) -> None:
        deadline = time.monotonic() + timeout
        while not event.wait(_POLL):
            if self._closing.is_set():
                raise _Ended
            if time.monotonic() > deadline:
                raise _ScriptError(f"a script waited {timeout} s for an event of the test")

    def _await_hangup(self) -> None:
        with contextlib.suppress(OSError):
            while self._sock.recv(65536):
                pass
        if self._closing.is_set():
            raise _Ended

    def close(self) -> None:
        """Close in good order.

        Closing with unread data would reset the connection and take the answer with it, so an
        unread body is read to its end first.
        """
        if self._unread_body:
            with contextlib.suppress(OSError):
                self._sock.shutdown(socket.SHUT_WR)
                while self._sock.recv(65536):
                    pass
        self._sock.close()
        raise _Ended
