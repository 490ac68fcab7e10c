"""The gateway's gunicorn worker: gevent, for long streams and quick stops."""

from __future__ import annotations

import contextlib
import errno
import socket
import ssl
import time
from functools import partial
from types import TracebackType
from typing import Any

import gevent
from attrs import define, field, frozen
from gevent.event import Event
from gevent.pool import Pool
from gevent.server import StreamServer
from gunicorn.sock import ssl_context
from gunicorn.workers.base_async import AsyncWorker
from gunicorn.workers.ggevent import GeventWorker

from aigateway.http.server.ending import BACKLOG, LINGER, Ending, EndingWorker, has_bytes
from aigateway.http.server.open_files import OUT_OF_FILES, PAUSE
from aigateway.http.server.parts import use_own_parts
from aigateway.http.server.quiet_errors import QuietErrors
from aigateway.http.server.shortage import FileShortage, FullHouse
from aigateway.http.server.wrong_protocol import note_plain

__all__ = ["GatewayWorker"]


HANDSHAKE = 30.0
"""Seconds that a client's TLS handshake may take."""
SHARE = 32
"""Open connections for each new one that a worker with siblings takes in one turn of its loop.
Measured with 2,000 streams on two workers."""
ALONE = 100
"""New connections in one turn of a worker without siblings; gevent's own number."""


class _Server(StreamServer):  # type: ignore[misc]  # gevent has no types
    """A server that waits when there are no more files; gevent's writes tracebacks."""

    def __init__(self, shortage: FileShortage, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._shortage = shortage

    def do_read(self) -> Any:
        try:
            accepted = super().do_read()
        except OSError as ex:
            if ex.errno not in OUT_OF_FILES:
                raise
            self._shortage.met(ex)
            self.stop_accepting()
            self._timer = self.loop.timer(PAUSE)
            self._timer.start(self._start_accepting_if_started)
            return None
        if accepted is not None:
            self._shortage.over()
        return accepted


@frozen
class _Listener:
    """The name of a listener, which requests ask for when it may be closed already."""

    name: Any

    def getsockname(self) -> Any:
        return self.name


class _Over(BaseException):
    """A connection has waited for long enough."""


@define(eq=False)
class _Connection:
    """What the worker knows of a client's connection."""

    sock: socket.socket
    since: float
    """When its last request ended, or itself began (monotonic time)."""
    used: bool = False
    """It has carried a request."""
    idle: bool = False
    """It waits for a request, and ``over`` ends that."""
    over: _Over = field(factory=_Over)


class _Idle:
    """Waiting for the next request of a connection, for so many seconds.

    PERF: what gevent.Timeout does, at a fifth of its cost.
    """

    __slots__ = ("_connection", "_seconds", "_timer")

    def __init__(self, connection: _Connection, seconds: float) -> None:
        self._connection = connection
        self._seconds = seconds

    def __enter__(self) -> _Idle:
        self._timer = gevent.get_hub().loop.timer(self._seconds)
        self._timer.start(gevent.getcurrent().throw, self._connection.over)
        self._connection.idle = True
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        ex: BaseException | None,
        _: TracebackType | None,
    ) -> bool:
        self._connection.idle = False
        self._timer.stop()
        self._timer.close()
        return ex is self._connection.over


class GatewayWorker(QuietErrors, EndingWorker, GeventWorker):  # type: ignore[misc]
    """gunicorn's gevent worker with an end of its own.

    PERF: ``handle`` and ``handle_request`` do themselves the little that GeventWorker's add to
    AsyncWorker's.  Python keeps the pages on which a greenlet's frames have ever been for as long
    as that lives, 4 KB at a time: what lies below a request is there for each open stream.
    """

    def init_process(self) -> None:
        self._woken = Event()
        self._servers: list[StreamServer] = []
        self._shortage = FileShortage()
        self.full_house = FullHouse(self.worker_connections)
        self._connections: dict[Any, _Connection] = {}
        use_own_parts(self.cfg)
        super().init_process()

    # -- serving

    def run(self) -> None:
        self.get_ready()
        self._tls = ssl_context(self.cfg) if self.cfg.is_ssl else None
        for sock in self.sockets:
            sock.setblocking(1)
            handle = partial(self.handle, _Listener(sock.getsockname()))
            server = _Server(self._shortage, sock, handle, spawn=Pool(self.worker_connections))
            self._servers.append(server)
            self._share()
            server.start()
        while self.alive:
            self.notify()
            self.full_house.look(any(server.pool.full() for server in self._servers))
            self.pause(1.0)
        for server in self._servers:
            if self.ending >= Ending.STOPPING:
                _empty_backlog(server)
            server.close()
        self.finish()

    def _share(self) -> None:
        """Say how many connections are taken in one turn of the loop.

        An idle worker takes one, or its siblings would get none.  The more it has open, the
        longer its turns are, and with one for each of them clients would wait for seconds.
        """
        batch = 1 + len(self._connections) // SHARE if self.cfg.workers > 1 else ALONE
        for server in self._servers:
            server.max_accept = batch

    def handle(self, listener: Any, client: socket.socket, addr: Any) -> None:
        greenlet = gevent.getcurrent()
        connection = self._connections[greenlet] = _Connection(client, time.monotonic())
        self._share()
        try:
            if self._tls is None or self._shake_hands(connection, self._tls):
                connection.sock.setblocking(True)
                AsyncWorker.handle(self, listener, connection.sock, addr)
        finally:
            del self._connections[greenlet]

    def _shake_hands(self, connection: _Connection, context: ssl.SSLContext) -> bool:
        """Begin TLS.  Not left to the server, which once closed drops those that are at it."""
        sock = connection.sock = context.wrap_socket(
            connection.sock, server_side=True, do_handshake_on_connect=False
        )
        try:
            with _Idle(connection, HANDSHAKE):
                sock.do_handshake()
                return True
        except (ssl.SSLError, OSError) as ex:
            # A client that fails its handshake, or leaves in it: its own affair.
            note_plain(ex, sock)
            self.log.debug("TLS handshake: %s", ex)
        sock.close()
        return False

    def timeout_ctx(self) -> _Idle:
        seconds = self.cfg.keepalive if self.alive else LINGER
        return _Idle(self._connections[gevent.getcurrent()], seconds)

    def handle_request(self, listener_name: Any, req: Any, sock: socket.socket, addr: Any) -> Any:
        greenlet = gevent.getcurrent()
        connection = self._connections[greenlet]
        connection.used = True
        self.serving[greenlet] = sock
        try:
            return AsyncWorker.handle_request(self, listener_name, req, sock, addr)
        except (gevent.GreenletExit, SystemExit):
            return None
        finally:
            del self.serving[greenlet]
            connection.since = time.monotonic()

    # -- ending

    def wake(self) -> None:
        self._woken.set()

    def pause(self, seconds: float) -> None:
        self._woken.wait(seconds)
        self._woken.clear()

    @property
    def has_connections(self) -> bool:
        return any(len(server.pool) for server in self._servers)

    def close_idle(self) -> None:
        for greenlet, connection in list(self._connections.items()):
            if connection.idle and connection.used and not has_bytes(connection.sock):
                greenlet.kill(connection.over, block=False)

    def close_silent(self, before: float) -> None:
        for greenlet in [each for server in self._servers for each in server.pool]:
            connection = self._connections.get(greenlet)
            if connection is None or greenlet in self.serving or connection.since >= before:
                continue
            if not (connection.idle and has_bytes(connection.sock)):
                over = connection.over if connection.idle else gevent.GreenletExit
                greenlet.kill(over, block=False)

    def drop_clients(self) -> None:
        for greenlet in list(self.serving):
            # Closing the socket would raise what gunicorn takes for a fault.
            greenlet.kill(BrokenPipeError(errno.EPIPE, "the client does not read"), block=False)


def _empty_backlog(server: StreamServer) -> None:
    """Take the connections that are made but not accepted: closing would reset them."""
    for _ in range(BACKLOG):
        if server.full():
            return
        with contextlib.suppress(OSError):
            if (accepted := server.do_read()) is not None:
                server.do_handle(*accepted)
                continue
        return
