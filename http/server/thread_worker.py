"""The gateway's gunicorn worker with plain threads."""

from __future__ import annotations

import contextlib
import errno
import selectors
import socket
import ssl
import threading
import time
from collections import deque
from functools import partial
from typing import Any

from attrs import define
from gunicorn import http
from gunicorn.sock import ssl_context
from gunicorn.workers.gthread import TConn, ThreadWorker

from aigateway.http.server.ending import BACKLOG, LINGER, Ending, EndingWorker, has_bytes
from aigateway.http.server.open_files import OUT_OF_FILES, PAUSE
from aigateway.http.server.parts import use_own_parts
from aigateway.http.server.quiet_errors import QuietErrors
from aigateway.http.server.shortage import FileShortage, FullHouse
from aigateway.http.server.wrong_protocol import begins_tls, note_plain, note_tls

__all__ = ["GatewayThreadWorker"]


HEAD_TIME = 30.0
"""Seconds from the first byte of a request's head, or of a TLS handshake, to its last one."""
HEAD_SIZE = 256 * 1024
"""Bytes of a head that is read; a longer one is refused."""
_TOO_LARGE = (
    b"HTTP/1.1 431 Request Header Fields Too Large\r\n"
    b"Connection: close\r\nContent-Length: 0\r\n\r\n"
)
_READ = 64 * 1024
_END = b"\r\n\r\n"
_WANTED = (BlockingIOError, ssl.SSLWantReadError)


@define(eq=False)
class _Head:
    """What has come of the head of a connection's next request."""

    conn: Any
    data: bytearray
    shaken: bool
    """TLS has begun, or there is none."""
    wants_write: bool = False
    searched: int = 0
    """Bytes in which its end is not."""


class GatewayThreadWorker(QuietErrors, EndingWorker, ThreadWorker):  # type: ignore[misc]
    """gunicorn's gthread worker with an end of its own.

    A connection that waits for its next request is in one of gunicorn's two queues:
    ``keepalived_conns`` when nothing of it has come, ``pending_conns`` while its head comes.
    The main thread reads heads, so that nobody holds a thread who only drips.  One whose body
    is read, or that is served, is in the hands of a thread.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._lingering: dict[int, tuple[Any, float]] = {}
        """Connections whose request has ended but that a thread still has in hand, for the rest
        of a body or for their clients to close, and since when (monotonic time)."""
        self._shortage = FileShortage()
        self.full_house = FullHouse(self.worker_connections)
        self._accept_after = 0.0
        self._tls: ssl.SSLContext | None = None

    def init_process(self) -> None:
        use_own_parts(self.cfg)
        self._tls = ssl_context(self.cfg) if self.cfg.is_ssl else None
        super().init_process()

    # -- serving

    def run(self) -> None:
        queue = self.method_queue
        self.poller.register(queue.fileno(), selectors.EVENT_READ, queue.run_callbacks)
        self.get_ready()
        while self.alive:
            self.notify()
            now = time.monotonic()
            full = self.nr_conns >= self.worker_connections
            self.full_house.look(full)
            self.set_accept_enabled(not full and now >= self._accept_after)
            self.pause(PAUSE if now < self._accept_after else 1.0)
        self.set_accept_enabled(False)
        for listener in self.sockets:
            if self.ending >= Ending.STOPPING:
                self._empty_backlog(listener)
            listener.close()
        self._cap_waits(time.monotonic() + LINGER)
        self.finish()

    def accept(self, listener: Any) -> None:
        """Take a connection."""
        try:
            client, address = listener.accept()
        except OSError as ex:
            if ex.errno in OUT_OF_FILES:
                self._shortage.met(ex)
                self._accept_after = time.monotonic() + PAUSE
                self.set_accept_enabled(False)
            elif ex.errno not in (errno.EAGAIN, errno.ECONNABORTED, errno.EWOULDBLOCK):
                raise
            return
        self._shortage.over()
        self.nr_conns += 1
        client.setblocking(False)
        conn = TConn(self.cfg, client, address, listener.getsockname())
        if self._tls is not None:
            conn.sock = self._tls.wrap_socket(
                client, server_side=True, do_handshake_on_connect=False
            )
        conn.parser = http.get_parser(self.cfg, conn.sock, conn.client)
        conn.initialized = True
        self._take_head(_Head(conn, bytearray(), self._tls is None))

    def on_client_socket_readable(self, conn: Any, client: Any) -> None:
        """The next request of a connection begins to come."""
        self.poller.unregister(client)
        self.keepalived_conns.remove(conn)
        self._take_head(_Head(conn, bytearray(), shaken=True))

    def finish_request(self, conn: Any, fs: Any) -> None:
        """A thread is done with a connection."""
        ahead = b""
        with contextlib.suppress(Exception):
            if fs.result():
                ahead = conn.parser.unreader.take_buffered()
        if ahead:
            # Something of the next request came with this one.
            conn.sock.setblocking(False)
            self._take_head(_Head(conn, bytearray(ahead), shaken=True))
        else:
            super().finish_request(conn, fs)

    def _take_head(self, head: _Head) -> None:
        """Begin to read a head; usually all of it is there."""
        head.conn.timeout = time.monotonic() + HEAD_TIME
        if not self._read_head(head):
            return
        self.pending_conns.append(head.conn)
        self.poller.register(head.conn.sock, _wanted(head), partial(self._more_of_head, head))

    def _more_of_head(self, head: _Head, sock: Any) -> None:
        if self._read_head(head):
            self.poller.modify(sock, _wanted(head), partial(self._more_of_head, head))
            return
        with contextlib.suppress(ValueError):
            self.pending_conns.remove(head.conn)

    def _read_head(self, head: _Head) -> bool:
        """Read what has come; False when the connection is with a thread, or closed."""
        conn, data = head.conn, head.data
        try:
            if not head.shaken:
                conn.sock.do_handshake()
                head.shaken = True
            while data.find(_END, head.searched) < 0 and len(data) < HEAD_SIZE:
                head.searched = max(0, len(data) - len(_END) + 1)
                arrived = conn.sock.recv(_READ)
                if not arrived:
                    self._drop(conn)
                    return False
                data += arrived
                if self._tls is None and not head.searched and begins_tls(data):
                    note_tls(conn.sock)
                    self._drop(conn)
                    return False
            if data.find(_END, head.searched) < 0:
                conn.sock.send(_TOO_LARGE)
                self._drop(conn)
                return False
        except _WANTED:
            head.wants_write = False
            return True
        except ssl.SSLWantWriteError:
            head.wants_write = True
            return True
        except (OSError, ValueError) as ex:
            # A client that fails its handshake, or leaves: its own affair.
            note_plain(ex, conn.sock)
            self.log.debug("connection ended before a request: %s", ex)
            self._drop(conn)
            return False
        with contextlib.suppress(KeyError, ValueError):
            self.poller.unregister(conn.sock)
        conn.parser.unreader.unread(bytes(data))
        self.enqueue_req(conn)
        return False

    def _drop(self, conn: Any) -> None:
        with contextlib.suppress(OSError, KeyError, ValueError):
            self.poller.unregister(conn.sock)
        self.nr_conns -= 1
        conn.close()

    def murder_pending(self) -> None:
        """Close connections whose heads did not come in their time."""
        now = time.monotonic()
        for conn in [each for each in self.pending_conns if each.timeout <= now]:
            self.pending_conns.remove(conn)
            self._drop(conn)

    def handle(self, conn: Any) -> Any:
        thread = threading.get_ident()
        try:
            keep = super().handle(conn)
            if not keep:
                # Here, because it may wait for the client; gunicorn would in the main thread.
                self._lingering[thread] = (conn, time.monotonic())
                conn.close(graceful=True)
                conn.close = _is_closed
            return keep
        finally:
            self._lingering.pop(thread, None)

    def handle_request(self, req: Any, conn: Any) -> Any:
        thread = threading.get_ident()
        self.serving[thread] = conn.sock
        try:
            return super().handle_request(req, conn)
        finally:
            # NOTE: its silence begins now.  The main thread may look at any moment, and the
            # next request may be in the connection already, behind one that took long.
            self._lingering[thread] = (conn, time.monotonic())
            del self.serving[thread]

    # -- ending

    def wake(self) -> None:
        self.method_queue.defer(lambda: None)

    def pause(self, seconds: float) -> None:
        self.wait_for_and_dispatch_events(timeout=seconds)
        self.murder_keepalived()
        self.murder_pending()
        if self.ending >= Ending.STOPPING:
            self.close_idle()

    @property
    def has_connections(self) -> bool:
        return bool(self.nr_conns > 0)

    def close_idle(self) -> None:
        self._close(self.keepalived_conns)

    def close_silent(self, before: float) -> None:
        self._close(self.keepalived_conns)
        self._close(self.pending_conns)
        for conn, since in list(self._lingering.values()):
            if since < before:
                with contextlib.suppress(OSError, ValueError):
                    conn.sock.shutdown(socket.SHUT_RDWR)

    def drop_clients(self) -> None:
        for sock in list(self.serving.values()):
            with contextlib.suppress(OSError, ValueError):
                sock.shutdown(socket.SHUT_RDWR)

    def _close(self, connections: deque[Any]) -> None:
        """Close those that have said nothing."""
        for conn in [each for each in connections if not has_bytes(each.sock)]:
            connections.remove(conn)
            with contextlib.suppress(OSError, KeyError, ValueError):
                self.poller.unregister(conn.sock)
            self.nr_conns -= 1
            conn.close()

    def _cap_waits(self, deadline: float) -> None:
        for conn in (*self.keepalived_conns, *self.pending_conns):
            conn.timeout = min(conn.timeout, deadline)

    def _empty_backlog(self, listener: Any) -> None:
        """Take the connections that are made but not accepted: closing would reset them."""
        for _ in range(BACKLOG):
            before = self.nr_conns
            self.accept(listener)
            if self.nr_conns == before:
                return


def _is_closed(graceful: bool = False) -> None:
    """In the place of a connection's ``close``."""


def _wanted(head: _Head) -> int:
    return selectors.EVENT_WRITE if head.wants_write else selectors.EVENT_READ
