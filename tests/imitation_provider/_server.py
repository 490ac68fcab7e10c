"""A provider of raw sockets that does to each request what the test's script says."""

from __future__ import annotations

import contextlib
import itertools
import select
import socket
import ssl
import threading
from collections.abc import Callable
from types import TracebackType
from typing import Self, TypeAlias

from ._connection import ClientLeft, Connection, Ended, ReceivedRequest
from ._steps import Steps, answer

__all__ = ["ReceivedRequest", "Script", "ScriptedProvider"]


Script: TypeAlias = Steps | Callable[[ReceivedRequest], Steps]
_Matches: TypeAlias = Callable[[ReceivedRequest], bool]


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
            connection = Connection(sock, number, self._closing)
            if on_connect is not None:
                connection.run(on_connect, None)
            while (request := connection.read_head()) is not None:
                self._serve_request(connection, request)
        except (Ended, ClientLeft, OSError):
            pass
        except Exception as ex:
            self.failures.append(f"{ex!r}")
        finally:
            sock.close()
            with self._news:
                del self._sockets[number]
                self._news.notify_all()

    def _serve_request(self, connection: Connection, request: ReceivedRequest) -> None:
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
        except ClientLeft:
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

    def forget(self) -> None:
        """Drop the planned answers that nobody asked for."""
        with self._news:
            self._planned.clear()

    @property
    def unplayed(self) -> int:
        """How many planned answers nobody asked for."""
        with self._news:
            return len(self._planned)
