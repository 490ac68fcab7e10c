"""gunicorn as a library: ``aigateway start`` without a configuration file."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import structlog
from gunicorn.app.base import BaseApplication
from gunicorn.arbiter import Arbiter
from gunicorn.errors import HaltServer

from aigateway.http.gunicorn_logs import GunicornLogger
from aigateway.http.logs import configure
from aigateway.http.server import hooks
from aigateway.http.server.last_words import LAST_WORDS
from aigateway.http.server.reloading import reloaded
from aigateway.http.settings import Settings, SettingsError

if TYPE_CHECKING:
    from aigateway.http.metrics.service import MetricsService

__all__ = ["GatewayApplication", "check_address", "gunicorn_options"]

HEARTBEAT = 60
"""Seconds without a sign of life after which the master kills a gevent worker."""
WORKER_CLASSES = {
    "gevent": "aigateway.http.server.workers.GatewayWorker",
    "gthread": "aigateway.http.server.thread_worker.GatewayThreadWorker",
}

log = structlog.get_logger("ai-gateway")


def gunicorn_options(settings: Settings) -> dict[str, Any]:
    """gunicorn's settings for ours."""
    gevent = settings.worker_class == "gevent"
    options: dict[str, Any] = {
        "bind": settings.http_address,
        "workers": settings.workers,
        "worker_class": WORKER_CLASSES[settings.worker_class],
        "worker_connections": settings.worker_connections,
        "threads": settings.threads,
        "keepalive": max(1, int(settings.keepalive)),
        "graceful_timeout": max(1, int(settings.shutdown_timeout)),
        # A gthread worker that drains does not send signs of life.
        "timeout": HEARTBEAT if gevent else HEARTBEAT + int(settings.shutdown_timeout),
        "logger_class": GunicornLogger,
        # Names with underscores (Codex sends `session_id`) arrive in the header list as they
        # are; nothing reads the ambiguous WSGI variables.
        "header_map": "dangerous",
        "forwarder_headers": "",
        "limit_request_line": 8190,
        "limit_request_fields": 200,
        "limit_request_field_size": 65536,
        "control_socket_disable": True,
        "pre_request": hooks.pre_request,
        "post_worker_init": hooks.post_worker_init,
        "worker_exit": hooks.worker_exit,
        "child_exit": hooks.child_exit,
    }
    if os.path.isdir("/dev/shm"):  # noqa: S108 - heartbeats on a disk can stall a worker
        options["worker_tmp_dir"] = "/dev/shm"  # noqa: S108
    if settings.uses_tls:
        options["certfile"] = settings.tls_cert_file
        options["keyfile"] = settings.tls_key_file
    return options


class GatewayArbiter(Arbiter):  # type: ignore[misc]
    """gunicorn's master, but a worker cannot miss a signal between its fork and its handlers.

    There it has a copy of the master's handlers, which only note the signal, and the master
    would wait for such a worker until the graceful timeout.  So stop signals are held back
    until the worker is ready for them (``post_worker_init``).

    And a worker that says why the gateway must end has the last word.
    """

    fatal = ""
    """Why a worker had the gateway end."""
    _halting = False

    def spawn_worker(self) -> Any:
        held = signal.pthread_sigmask(signal.SIG_BLOCK, hooks.HELD_SIGNALS)
        try:
            return super().spawn_worker()
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, held)

    def reap_workers(self) -> None:
        try:
            super().reap_workers()
        except HaltServer as ex:
            # While the gateway ends because of one worker others may find out the same.
            if self._halting:
                return
            self.fatal = LAST_WORDS.heard()
            raise HaltServer(self.fatal or ex.reason, ex.exit_status) from None

    def halt(self, reason: str | None = None, exit_status: int = 0) -> None:
        self._halting = True
        super().halt(reason, exit_status)

    def manage_workers(self) -> None:
        """Each second: see that all processes are there."""
        super().manage_workers()
        metrics = getattr(self.app, "metrics", None)
        if metrics is not None:
            metrics.watch()

    def handle_usr2(self) -> None:
        """Let the workers write what they are doing.

        gunicorn would start another master beside this one; a new version of the gateway is
        rolled out by its supervisor instead.
        """
        self.kill_workers(signal.SIGUSR2)


class GatewayApplication(BaseApplication):  # type: ignore[misc]
    """The gateway under gunicorn."""

    def __init__(
        self,
        settings: Settings,
        metrics: MetricsService | None = None,
        reread: Callable[[], Settings] | None = None,
    ) -> None:
        """``reread`` makes the settings anew for SIGHUP; it may raise SettingsError."""
        self.settings = settings
        self.metrics = metrics
        self._reread = reread
        super().__init__()

    def load_config(self) -> None:
        for name, value in gunicorn_options(self.settings).items():
            if name in self.cfg.settings:
                self.cfg.set(name, value)
        self.cfg.set("when_ready", self._when_ready)
        self.cfg.set("on_exit", self._on_exit)

    def reload(self) -> None:
        """SIGHUP: gunicorn starts new workers with what this leaves in ``settings``, and lets
        the old ones finish what they are serving."""
        if self._reread is not None:
            self.settings = reloaded(self.settings, self._reread)
            try:
                configure(self.settings)
            except SettingsError as ex:
                log.error("logging goes on as before", error=str(ex))
        super().reload()

    def run(self) -> None:
        LAST_WORDS.listen()
        GatewayArbiter(self).run()

    def load(self) -> Any:
        # Imported in the worker, after gevent has patched: not before the fork.
        from aigateway.http.app import create_app

        return create_app(self.settings)

    def _when_ready(self, server: Any) -> None:
        for listener in server.LISTENERS:
            host, port = listener.sock.getsockname()[:2]
            log.info(
                "standalone AI Gateway listening",
                address=f"[{host}]:{port}" if ":" in host else f"{host}:{port}",
                coder_url=self.settings.url or None,
                tls=self.settings.uses_tls,
                workers=self.settings.workers,
                pid=os.getpid(),
            )

    def _on_exit(self, server: GatewayArbiter) -> None:
        with contextlib.suppress(OSError):
            Path(self.settings.runtime_dir).rmdir()
        log.info("standalone AI Gateway stopped")
        if server.fatal:
            log.critical("AI Gateway daemon exited", reason=server.fatal)


def check_address(address: str) -> None:
    """Find out before any process is started whether ``address`` can be listened on.

    Raises SettingsError with the reference's text.
    """
    host, _, port = address.rpartition(":")
    host = host.strip("[]")
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((host, int(port)))
    except (OSError, ValueError, OverflowError) as ex:
        raise SettingsError(f'listen on "{address}": {ex}; choose another --http-address') from ex
