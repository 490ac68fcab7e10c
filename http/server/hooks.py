"""What gunicorn calls around a worker's life and each request.

A module of plain functions, so that a configuration file can take them by name:
``gunicorn -c python:aigateway.http.server.conf "aigateway.http.app:create_app()"``.
"""

from __future__ import annotations

import signal
from typing import Any

import structlog

from aigateway.http.inbound import keep_headers
from aigateway.http.server.sockets import remove_socket

__all__ = ["child_exit", "post_worker_init", "pre_request", "worker_exit"]

STOP_SIGNALS = frozenset({signal.SIGTERM, signal.SIGINT, signal.SIGQUIT})
HELD_SIGNALS = STOP_SIGNALS | {signal.SIGUSR2}
"""Those that a worker must not get before it is ready: see :class:`.GatewayArbiter`."""
FLUSH_TIMEOUT = 10.0
"""Seconds for the spool to empty when a worker ends; what is left waits for the next start."""

log = structlog.get_logger("ai-gateway")


def pre_request(_worker: Any, req: Any) -> None:
    """Keep the parsed headers: a WSGI environment cannot hold them as they came."""
    keep_headers(req.headers)


def post_worker_init(worker: Any) -> None:
    """Start the actors: after the fork, in the process that will serve."""
    from aigateway.http.diagnosis.service import Diagnosis
    from aigateway.http.server.control import ControlSocket
    from aigateway.http.server.garbage import collect_seldom

    signal.pthread_sigmask(signal.SIG_UNBLOCK, STOP_SIGNALS)
    metrics = getattr(worker.app, "metrics", None)
    if metrics is not None:
        metrics.in_worker()
    app = worker.app.callable
    runtime = getattr(app, "runtime", None)
    if runtime is None:
        return
    folder = app.gateway.pipeline.settings.runtime_dir
    worker.diagnosis = Diagnosis(runtime.tree, app.gateway.calls, type(worker).__name__)
    worker.diagnosis.start(folder)
    runtime.start()
    if app.gateway.tracing is not None:
        app.gateway.tracing.start()
    if app.gateway.metrics is not None:
        from aigateway.http.metrics.probes import InboxProbes
        from aigateway.http.metrics.sampler import Sampler

        worker.probes = InboxProbes(app.gateway.metrics.series, runtime)
        worker.probes.start()
        worker.sampler = Sampler(
            app.gateway.metrics, runtime, app.gateway.admission, app.gateway.calls
        )
        worker.sampler.start()
    if folder:
        worker.control_socket = ControlSocket(folder, runtime)
        worker.control_socket.start()
    worker.diagnosis.remember()
    collect_seldom()


def worker_exit(_server: Any, worker: Any) -> None:
    """Flush the spool and stop the actors, or their own clean-up never runs."""
    control = getattr(worker, "control_socket", None)
    if control is not None:
        control.close()
    for watching in ("probes", "sampler"):
        if (watcher := getattr(worker, watching, None)) is not None:
            watcher.stop()
    app = getattr(worker.app, "callable", None)
    runtime = getattr(app, "runtime", None)
    if app is None or runtime is None:
        return
    runtime.stop(FLUSH_TIMEOUT)
    if app.gateway.tracing is not None:
        # Last: what the actors did until now is in it.
        app.gateway.tracing.stop()
    # A stop that hangs can be looked at.
    worker.diagnosis.close()


def child_exit(server: Any, worker: Any) -> None:
    """In the master: a worker is gone; its socket and its metrics files must not stay behind."""
    settings = getattr(server.app, "settings", None)
    if settings is not None:
        remove_socket(settings.runtime_dir, worker.pid)
    metrics = getattr(server.app, "metrics", None)
    if metrics is not None:
        metrics.worker_gone(worker.pid)
