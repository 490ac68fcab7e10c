"""How a worker process begins and ends, whatever its worker class.

Signals are for the main process, which tells its workers with other ones:

- SIGTERM: a successor is there, or will be.  Take no more connections, serve what comes on
  those that are open, then go.
- SIGINT: the gateway stops.  The same, but new requests are refused; a Ctrl-C in a terminal
  goes to all processes at once and means the same.
- SIGQUIT: go now.

What runs may run on for ``--shutdown-timeout``.  Then, or now, it is cut: streams get an error
event and requests that wait an error answer, each by the usual way of its own greenlet or
thread, so that all records get to the disk.  Clients that do not take their last bytes lose
their connection.
"""

from __future__ import annotations

import fcntl
import math
import os
import signal
import termios
import time
from collections.abc import Callable
from enum import IntEnum
from typing import TYPE_CHECKING, Any

import structlog

from aigateway.http.server.orphans import end_with
from aigateway.http.server.shortage import FullHouse

if TYPE_CHECKING:
    from aigateway.http.request.runtime import Runtime

__all__ = [
    "BACKLOG",
    "LAST_WAIT",
    "LINGER",
    "STOP_SIGNALS",
    "Ending",
    "EndingWorker",
    "has_bytes",
]

STOP_SIGNALS = frozenset({signal.SIGTERM, signal.SIGINT, signal.SIGQUIT})

LINGER = 2.0
"""Seconds that a replaced worker keeps idle connections for a request that may be on its way:
their clients were not told that the connection will close."""
LAST_WAIT = 0.5
"""Seconds that a connection has for its request when the gateway stops."""
BACKLOG = 4096
"""Connections that a stopping worker still takes from the listener's queue, at most."""
READY_WAIT = 5.0
"""Seconds that a new worker waits for its control plane before it takes connections without."""
CUT_WAIT = 1.0
"""Seconds for cut requests to write their last words and their records."""
LET_GO_WAIT = DROP_WAIT = 0.25
"""Seconds for those that waited for the start of an interception to be recorded, and for the
rest, after their clients' connections were closed."""
LOOK = 0.05
"""Seconds between looks whether all has ended."""
REMIND = 30.0
"""Seconds between log lines about a drain that goes on."""

_NO_BYTES = bytes(4)

log = structlog.get_logger("ai-gateway")


def has_bytes(sock: Any) -> bool:
    """Whether something has come that nobody has read."""
    try:
        return fcntl.ioctl(sock.fileno(), termios.FIONREAD, _NO_BYTES) != _NO_BYTES
    except (OSError, ValueError):
        return False


class Ending(IntEnum):
    """How urgent it is."""

    NOT = 0
    REPLACED = 1
    STOPPING = 2
    NOW = 3


class EndingWorker:
    """Goes before a gunicorn worker class, whose ``run`` calls :meth:`finish` at its end."""

    age: int
    alive: bool
    app: Any
    cfg: Any
    full_house: FullHouse
    ppid: int
    tmp: Any

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.ending = Ending.NOT
        self.exit_status = 0
        self.serving: dict[Any, Any] = {}
        """The clients' sockets of running requests, by greenlet or thread."""
        self.begun = False
        """Something is there that has to end in good order."""
        self._orphan = False
        self._finished = False

    # -- what the worker classes provide

    def wake(self) -> None:
        """Wake :meth:`pause`; called in signal handlers."""
        raise NotImplementedError

    def pause(self, seconds: float) -> None:
        """Let others run until :meth:`wake`, for so long at most."""
        raise NotImplementedError

    def close_idle(self) -> None:
        """Close connections that wait for their next request."""
        raise NotImplementedError

    def close_silent(self, before: float) -> None:
        """Close connections that have had no request in hand since ``before`` (monotonic)."""
        raise NotImplementedError

    def drop_clients(self) -> None:
        """Break the connections of running requests: their writes fail."""
        raise NotImplementedError

    @property
    def has_connections(self) -> bool:
        raise NotImplementedError

    # -- told from outside

    def init_process(self) -> None:
        # Until there is something to end in good order: at once.
        end_with(self.ppid, signal.SIGKILL)
        super().init_process()  # type: ignore[misc]

    def init_signals(self) -> None:
        super().init_signals()  # type: ignore[misc]
        signal.signal(signal.SIGINT, self.handle_int)
        signal.siginterrupt(signal.SIGINT, False)
        # A terminal that closes tells every process; what it means is the main process' affair.
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        # The main process held them back until there are handlers.
        signal.pthread_sigmask(signal.SIG_UNBLOCK, STOP_SIGNALS)

    def handle_exit(self, _sig: int, _frame: object) -> None:
        """SIGTERM."""
        self.end(Ending.REPLACED)

    def handle_int(self, _sig: int, _frame: object) -> None:
        """SIGINT."""
        self.end(Ending.STOPPING)

    def handle_quit(self, _sig: int, _frame: object) -> None:
        """SIGQUIT."""
        if self._finished:
            # All records are on disk; what is left to do is to send them.
            os._exit(self.exit_status)
        self.end(Ending.NOW)

    def end(self, how: Ending, status: int = 0) -> None:
        """End this process; a more urgent way replaces a less urgent one."""
        if not self.begun:
            # Its imports may take long on a busy machine, and nobody needs them any more.
            os._exit(status)
        self.ending = max(self.ending, how)
        self.exit_status = self.exit_status or status
        self.alive = False
        self.wake()

    def notify(self) -> None:
        """Sign of life.  Without a main process there is nobody to read it, nor to replace this
        worker: it ends in good order."""
        self._look_for_parent()
        self.tmp.notify()

    def _look_for_parent(self) -> None:
        if self.ppid != os.getppid() and not self._orphan:
            self._orphan = True
            log.warning("the main process is gone, stopping")
            self.end(Ending.STOPPING)

    # -- the beginning

    def get_ready(self) -> None:
        """Before connections are taken: a worker that comes later, in the place of another one,
        first makes sure that it can let requests through.

        Those of the start do not: probes are to be answered at once.
        """
        runtime: Runtime | None = getattr(self.app.callable, "runtime", None)
        until = time.monotonic() + READY_WAIT
        while runtime is not None and self.alive and self.age > self.cfg.workers:
            if runtime.ready() or time.monotonic() > until:
                return
            self._look_for_parent()
            self.pause(LOOK)

    # -- the end

    def leave(self) -> None:
        """The last step of all."""
        for sig in (*STOP_SIGNALS, signal.SIGUSR1):
            # Python puts its handlers down before the process is gone.
            signal.signal(sig, signal.SIG_IGN)
        if self.ending is Ending.NOW or self.serving:
            # Threads that are still busy with a client would be waited for.
            os._exit(self.exit_status)

    def finish(self) -> None:
        """Serve what is running, cut what does not end; connections are taken no more.

        Raises SystemExit when this process is to end with another status than 0.
        """
        runtime: Runtime | None = getattr(getattr(self.app, "callable", None), "runtime", None)
        if self.ending is Ending.NOT:
            # gunicorn has ended it, after so many requests for example.
            self.ending = Ending.REPLACED
        if runtime is not None and not self._drain(runtime):
            runtime.draining = True
            self._cut(runtime)
        self._finished = True
        if self.exit_status:
            raise SystemExit(self.exit_status)

    def _drain(self, runtime: Runtime) -> bool:
        """Wait for the end of all that runs; False when it must be cut."""
        began = reminded = time.monotonic()
        until = began + self.app.callable.gateway.pipeline.settings.shutdown_timeout
        silent_until = began + LINGER
        if self.ending is Ending.REPLACED:
            count = self._count(runtime)
            log.info("replaced, finishing what is running", requests=count, pid=os.getpid())
        sockets = self.app.callable.gateway.pipeline.sockets
        while self.ending < Ending.NOW:
            # Also those that have come since.
            sockets.retire()
            now = time.monotonic()
            if self.ending is Ending.STOPPING and not runtime.draining:
                runtime.draining = True
                self.close_idle()
                silent_until = now + LAST_WAIT
                if count := self._count(runtime):
                    log.info("draining, another signal (Ctrl-C) ends it now", requests=count)
            if now >= silent_until:
                patience = LAST_WAIT if self.ending is Ending.STOPPING else LINGER
                self.close_silent(now - patience)
            count = self._count(runtime)
            if not count and not self.has_connections:
                return True
            if now >= until:
                log.warning("the shutdown timeout is over, cutting requests", requests=count)
                return False
            if now - reminded >= REMIND:
                reminded = now
                log.info("still draining", requests=count)
            self.notify()
            self.pause(min(LOOK, until - now))
        return False

    def _cut(self, runtime: Runtime) -> None:
        self.close_silent(math.inf)
        steps: tuple[tuple[Callable[[], None], float], ...] = (
            (runtime.inflight.cut, CUT_WAIT),
            # Who is left waits for coderd,
            (runtime.inflight.let_go, LET_GO_WAIT),
            # or for a client that does not read.
            (self.drop_clients, DROP_WAIT),
        )
        for step, seconds in steps:
            step()
            if self._all_over(runtime, seconds):
                return
        log.error("requests were given up at the end", requests=self._count(runtime))

    def _all_over(self, runtime: Runtime, seconds: float) -> bool:
        until = time.monotonic() + seconds
        while self._count(runtime):
            if time.monotonic() >= until:
                return False
            self.notify()
            self.pause(LOOK / 5)
        return True

    def _count(self, runtime: Runtime) -> int:
        """Requests that run, those whose clients have left included."""
        return max(len(self.serving), runtime.inflight.recordings)
