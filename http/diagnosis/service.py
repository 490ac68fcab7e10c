"""Two threads of a worker process that say what it is doing, even when it does nothing any more.

One waits for SIGUSR2 and writes a snapshot to the log; the other gives it to those who connect
to ``worker-<pid>.trace`` in the runtime folder, for ``aigateway actors --trace``.

Both are threads of the operating system, also under gevent: an actor that never gives control
back stops every greenlet, and with them the control socket and what Python does on a signal.
So nothing in here waits for anything that a greenlet holds.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import time
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

import structlog

from aigateway.actors.actor.tree import ActorTree
from aigateway.http.diagnosis.report import as_text
from aigateway.http.diagnosis.snapshot import Snapshot, take
from aigateway.http.diagnosis.stacks import Process, native
from aigateway.http.logs import ATTACHED, masked
from aigateway.http.request.inbound import Call
from aigateway.http.settings.sockets import trace_path

__all__ = ["Diagnosis", "SIGNAL"]

SIGNAL = signal.SIGUSR2
"""Blocked in every thread of a worker but for one that takes it by waiting for it."""
SEND_TIMEOUT = 10.0
"""Seconds that a client of the socket may take to read."""

log = structlog.get_logger("ai-gateway.diagnosis")


class Diagnosis:
    """Make it in the worker's main thread, before the actors are started."""

    def __init__(self, tree: ActorTree, calls: Collection[Call], server: str) -> None:
        """``server`` names the gunicorn worker class."""
        # Threads take this over from the one that starts them.
        signal.pthread_sigmask(signal.SIG_BLOCK, {SIGNAL})
        self._process = Process()
        self._tree = tree
        self._calls = calls
        self._server = server
        self._since = time.monotonic()
        self._listener: socket.socket | None = None
        self._path: Path | None = None

    def start(self, folder: str) -> None:
        """Begin to listen; without a ``folder``, for the signal only."""
        _start_thread(self._wait_for_signals)
        if folder:
            self._listen(folder)

    def remember(self) -> None:
        """Before ``gc.freeze()``, which hides the greenlets that there are."""
        self._process.remember()

    def close(self) -> None:
        """Remove the socket."""
        if self._listener is not None and self._path is not None:
            with contextlib.suppress(OSError):
                self._listener.shutdown(socket.SHUT_RDWR)
            self._listener.close()
            with contextlib.suppress(OSError):
                self._path.unlink(missing_ok=True)
            self._listener = None

    def snapshot(self) -> Snapshot:
        """Look at this process now."""
        return take(self._process, self._tree, self._calls, server=self._server, since=self._since)

    # -- by signal

    def _wait_for_signals(self) -> None:
        while True:
            with contextlib.suppress(InterruptedError):
                signal.sigwait({SIGNAL})
                self._write()

    def _write(self) -> None:
        try:
            seen = self.snapshot().as_dict()
        except Exception as ex:
            log.error("this process cannot be looked at", exc_info=ex)
            return
        log.info("what this worker does", pid=os.getpid(), **{ATTACHED: as_text(seen)})

    # -- by socket

    def _listen(self, folder: str) -> None:
        path = trace_path(folder, os.getpid())
        try:
            path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            path.unlink(missing_ok=True)
            listener = native("socket", "socket")(socket.AF_UNIX, socket.SOCK_STREAM)
            listener.bind(str(path))
            os.chmod(path, 0o600)
            listener.listen(4)
        except OSError as ex:
            log.warning(
                "no trace socket, `aigateway actors --trace` will not see this worker;"
                " check --runtime-dir",
                path=str(path),
                error=str(ex),
            )
            return
        self._listener, self._path = listener, path
        _start_thread(self._serve, listener)

    def _serve(self, listener: socket.socket) -> None:
        while True:
            try:
                # accept() would make a socket of gevent's.
                descriptor, _ = listener._accept()  # type: ignore[attr-defined]
            except OSError:
                return
            with contextlib.suppress(OSError), type(listener)(fileno=descriptor) as client:
                client.settimeout(SEND_TIMEOUT)
                client.sendall(self._answer())

    def _answer(self) -> bytes:
        try:
            answer = self.snapshot().as_dict()
        except Exception as ex:
            log.error("this process cannot be looked at", exc_info=ex)
            answer = {"error": f"the worker cannot look at itself: {ex!r}"}
        return masked(json.dumps(answer)).encode() + b"\n"


def _start_thread(function: Callable[..., None], *args: Any) -> None:
    native("_thread", "start_new_thread")(_without_signals, (function, args))


def _without_signals(function: Callable[..., None], args: tuple[Any, ...]) -> None:
    """Signals are for the main thread: it would not wake up for one that comes here."""
    signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
    function(*args)
