"""What gunicorn calls around a worker's life and each request.

A module of plain functions, so that a configuration file can take them by name:
``gunicorn -c python:aigateway.http.server.conf "aigateway.http.app:create_app()"``.
"""

from __future__ import annotations

import contextlib
import os
import signal
from pathlib import Path
from typing import Any

import structlog
from gunicorn.arbiter import Arbiter

from aigateway.http.server.ending import STOP_SIGNALS, Ending, EndingWorker
from aigateway.http.server.last_words import LOST
from aigateway.http.server.orphans import end_with
from aigateway.http.settings.sockets import remove_socket

__all__ = [
    "child_exit",
    "on_exit",
    "post_worker_init",
    "when_ready",
    "worker_exit",
]

HELD_SIGNALS = STOP_SIGNALS | {signal.SIGUSR1, signal.SIGUSR2, signal.SIGHUP}
"""Those that a worker must not get before it is ready: see :class:`.arbiter.GatewayArbiter`."""
FLUSH_TIMEOUT = 10.0
"""Seconds for the spool to empty when a worker ends; what is left waits for the next start."""
STOP_TIMEOUT = 3.0
"""Seconds for the actors to stop.  MCP sessions say goodbye, which takes up to two."""
NOW_TIMEOUT = 0.5
"""Seconds for the actors to stop, and for traces to be sent, when a worker ends now."""
WINDOWS = "windows-*.db*"
"""Files of :mod:`~aigateway.http.request.shared_windows`, which the master does not import."""

log = structlog.get_logger("ai-gateway")


def when_ready(server: Any) -> None:
    """In the master: the listeners are there."""
    settings = server.app.settings
    # Without a deployment there is nothing to name.
    deployment = {"coder_url": settings.url} if settings.url and not settings.local else {}
    for listener in server.LISTENERS:
        log.info(
            "standalone AI Gateway listening",
            address=_address_of(listener),
            **deployment,
            tls=settings.uses_tls,
            workers=server.num_workers,
            pid=os.getpid(),
        )
    console = getattr(server.app, "console", None)
    if console is not None:
        console.start(_address_of(server.LISTENERS[0]))


def _address_of(listener: Any) -> str:
    host, port = listener.getsockname()[:2]
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def post_worker_init(worker: Any) -> None:
    """Start the actors: after the fork, in the process that will serve."""
    from aigateway.http.diagnosis.service import Diagnosis
    from aigateway.http.server.control import ControlSocket
    from aigateway.http.server.garbage import collect_seldom

    # From here on there is something to end in good order.
    worker.begun = True
    end_with(worker.ppid, signal.SIGINT)
    # What asks for a dump is waited for by a thread of the diagnosis.
    signal.pthread_sigmask(signal.SIG_UNBLOCK, HELD_SIGNALS - {signal.SIGUSR2})
    metrics = getattr(worker.app, "metrics", None)
    if metrics is not None:
        metrics.in_worker()
    console = getattr(worker.app, "console", None)
    if console is not None:
        console.in_worker()
    app = worker.app.callable
    runtime = getattr(app, "runtime", None)
    if runtime is None:
        return
    folder = app.gateway.pipeline.settings.runtime_dir
    worker.diagnosis = Diagnosis(runtime.tree, app.gateway.calls, type(worker).__name__)
    worker.diagnosis.start(folder)
    if isinstance(worker, EndingWorker):
        _know_ways_out(worker, app.ways_out)
    app.answering.serve(
        runtime,
        app.gateway.calls,
        lambda: worker.diagnosis.snapshot().as_dict(),
        _address_of(worker.sockets[0]),
    )
    runtime.start()
    if app.gateway.tracing is not None:
        app.gateway.tracing.start()
    if app.gateway.metrics is not None:
        from aigateway.http.metrics.probes import InboxProbes
        from aigateway.http.metrics.sampler import Sampler

        worker.probes = InboxProbes(app.gateway.metrics.series, runtime.actors)
        worker.probes.start()
        worker.sampler = Sampler(
            app.gateway.metrics,
            runtime.tree,
            runtime.status,
            app.gateway.admission,
            app.gateway.calls,
            runtime.plan.tool_troubles.counts,
            lambda: worker.full_house.full,
        )
        worker.sampler.start()
    if folder:
        worker.control_socket = ControlSocket(folder, app.answering)
        worker.control_socket.start()
    worker.diagnosis.remember()
    collect_seldom()


def _know_ways_out(worker: EndingWorker, ways_out: Any) -> None:
    """Such a process ends in good order too."""

    def end_gateway(reason: str) -> None:
        worker.app.last_words.say(reason)
        worker.end(Ending.STOPPING, Arbiter.WORKER_BOOT_ERROR)

    ways_out.end_gateway = end_gateway
    ways_out.end_process = lambda _reason: worker.end(Ending.NOW, 1)


def worker_exit(_server: Any, worker: Any) -> None:
    """Flush the spool and stop the actors, or their own clean-up never runs."""
    control = getattr(worker, "control_socket", None)
    if control is not None:
        control.close()
    for watching in ("probes", "sampler"):
        if (watcher := getattr(worker, watching, None)) is not None:
            try:
                watcher.stop()
            except Exception as ex:
                # Records are worth more than numbers.
                log.warning("the last metrics could not be written", error=repr(ex))
    app = getattr(worker.app, "callable", None)
    runtime = getattr(app, "runtime", None)
    if app is None or runtime is None:
        return
    now = getattr(worker, "ending", Ending.NOT) is Ending.NOW
    # Who cannot go on can send nothing either.
    hopeless = now or bool(getattr(worker, "exit_status", False))
    runtime.stop(0.0 if hopeless else FLUSH_TIMEOUT, NOW_TIMEOUT if now else STOP_TIMEOUT)
    if runtime.lost:
        worker.app.last_words.say(LOST + runtime.lost)
    if app.gateway.tracing is not None:
        # Last: what the actors did until now is in it.
        app.gateway.tracing.stop(*([NOW_TIMEOUT] if now else []))
    # A stop that hangs can be looked at.
    worker.diagnosis.close()
    if isinstance(worker, EndingWorker):
        worker.leave()


def child_exit(server: Any, worker: Any) -> None:
    """In the master: a worker is gone; its socket and its metrics files must not stay behind."""
    settings = getattr(server.app, "settings", None)
    if settings is not None:
        remove_socket(settings.runtime_dir, worker.pid)
    metrics = getattr(server.app, "metrics", None)
    if metrics is not None:
        metrics.worker_gone(worker.pid)


def on_exit(server: Any) -> None:
    """In the master: all workers are gone."""
    if not server.reason:
        # Else the reason is the last line.
        log.info("standalone AI Gateway stopped")
    folder = Path(server.app.settings.runtime_dir)
    with contextlib.suppress(OSError):
        for counts in folder.glob(WINDOWS):
            counts.unlink()
        folder.rmdir()
