"""The gateway's gunicorn worker with plain threads."""

from __future__ import annotations

import contextlib
import selectors
import socket
import threading
import time
from collections import deque
from typing import Any

from gunicorn.workers.gthread import ThreadWorker

from aigateway.http.server.ending import BACKLOG, LINGER, Ending, EndingWorker, has_bytes
from aigateway.http.server.parts import use_own_parts
from aigateway.http.server.quiet_errors import QuietErrors

__all__ = ["GatewayThreadWorker"]


class GatewayThreadWorker(QuietErrors, EndingWorker, ThreadWorker):  # type: ignore[misc]
    """gunicorn's gthread worker with an end of its own.

    A connection that waits for its next request is in one of gunicorn's two queues, one
    whose request is being read or served is in the hands of a thread.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._handled: dict[int, tuple[Any, float]] = {}
        """What each thread has in hand, and since when (monotonic time)."""

    def init_process(self) -> None:
        use_own_parts(self.cfg)
        super().init_process()

    # -- serving

    def run(self) -> None:
        queue = self.method_queue
        self.poller.register(queue.fileno(), selectors.EVENT_READ, queue.run_callbacks)
        self.get_ready()
        while self.alive:
            self.notify()
            self.set_accept_enabled(self.nr_conns < self.worker_connections)
            self.pause(1.0)
        self.set_accept_enabled(False)
        for listener in self.sockets:
            if self.ending >= Ending.STOPPING:
                self._empty_backlog(listener)
            listener.close()
        self._cap_waits(time.monotonic() + LINGER)
        self.finish()

    def handle(self, conn: Any) -> Any:
        thread = threading.get_ident()
        self._handled[thread] = (conn, time.monotonic())
        try:
            keep = super().handle(conn)
            if not keep:
                # Here, because it may wait for the client; gunicorn would in the main thread.
                conn.close(graceful=True)
                conn.close = _is_closed
            return keep
        finally:
            del self._handled[thread]

    def handle_request(self, req: Any, conn: Any) -> Any:
        thread = threading.get_ident()
        self.serving[thread] = conn.sock
        try:
            return super().handle_request(req, conn)
        finally:
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
        for thread, (conn, since) in list(self._handled.items()):
            if since < before and thread not in self.serving:
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
