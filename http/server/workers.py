"""The gateway's gunicorn worker: gevent, with a drain that does not wait for idle clients."""

from __future__ import annotations

import ssl
from types import TracebackType
from typing import Any

import gevent
from gunicorn.workers.ggevent import GeventWorker

from aigateway.http.server.parts import use_own_parts
from aigateway.http.server.quiet_errors import QuietErrors

__all__ = ["GatewayWorker"]


LAST_WAIT = 1.0
"""Seconds that a connection accepted in the moment of a stop has for its request."""


class _Idle:
    """Waiting for the next request of a kept-alive connection, for so many seconds."""

    def __init__(self, worker: GatewayWorker, seconds: float) -> None:
        self._worker = worker
        self._timeout = gevent.Timeout(seconds, False)

    def __enter__(self) -> _Idle:
        self._timeout.start()
        self._worker.idle[gevent.getcurrent()] = self._timeout
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        ex: BaseException | None,
        _: TracebackType | None,
    ) -> bool:
        self._worker.idle.pop(gevent.getcurrent(), None)
        self._timeout.close()
        return ex is self._timeout


class GatewayWorker(QuietErrors, GeventWorker):  # type: ignore[misc]
    """gunicorn's gevent worker, for long streams and quick stops."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.idle: dict[Any, gevent.Timeout] = {}

    def init_process(self) -> None:
        use_own_parts()
        super().init_process()

    def run(self) -> None:
        # A client that fails its TLS handshake, or leaves in it, is its own affair: gevent
        # would print a traceback for each.
        hub = gevent.get_hub()
        hub.NOT_ERROR = (*hub.NOT_ERROR, ssl.SSLError, ConnectionError)
        super().run()

    def timeout_ctx(self) -> _Idle:
        return _Idle(self, self.cfg.keepalive if self.alive else LAST_WAIT)

    def handle_exit(self, sig: int, frame: Any) -> None:
        """SIGTERM: no more requests; connections between two requests are closed at once."""
        super().handle_exit(sig, frame)
        gevent.spawn(self._close_idle)

    def _close_idle(self) -> None:
        for greenlet, timeout in list(self.idle.items()):
            greenlet.kill(timeout, block=False)
