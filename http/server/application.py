"""gunicorn as a library: ``aigateway start`` without a configuration file."""

from __future__ import annotations

import os
import socket
import tempfile
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import structlog
from gunicorn.app.base import BaseApplication

from aigateway.http.logs import configure
from aigateway.http.request.inbound import keep_request
from aigateway.http.server import hooks
from aigateway.http.server.arbiter import GatewayArbiter
from aigateway.http.server.gunicorn_logs import GunicornLogger
from aigateway.http.server.last_words import LastWords
from aigateway.http.server.reloading import FileWatch, reloaded
from aigateway.http.settings import Settings, SettingsError
from aigateway.http.settings.addresses import when_free

if TYPE_CHECKING:
    from aigateway.http.metrics.service import MetricsService
    from aigateway.http.server.console_service import ConsoleService

__all__ = ["GatewayApplication", "check_address", "gunicorn_options"]

HEARTBEAT = 60
"""Seconds without a sign of life after which the master kills a worker."""
WORKER_CLASSES = {
    "gevent": "aigateway.http.server.workers.GatewayWorker",
    "gthread": "aigateway.http.server.thread_worker.GatewayThreadWorker",
}

log = structlog.get_logger("ai-gateway")


def gunicorn_options(settings: Settings) -> dict[str, object]:
    """gunicorn's settings for ours."""
    options: dict[str, object] = {
        "bind": settings.http_address,
        "workers": settings.workers,
        "worker_class": WORKER_CLASSES[settings.worker_class],
        "worker_connections": settings.worker_connections,
        "threads": settings.threads,
        "keepalive": max(1, int(settings.keepalive)),
        # Drains are the gateway's own affair.
        "graceful_timeout": 0,
        "timeout": HEARTBEAT,
        "logger_class": GunicornLogger,
        # Names with underscores (Codex sends `session_id`) arrive in the header list as they
        # are; nothing reads the ambiguous WSGI variables.
        "header_map": "dangerous",
        "forwarder_headers": "",
        "limit_request_line": 8190,
        "limit_request_fields": 200,
        "limit_request_field_size": 65536,
        "control_socket_disable": True,
        "pre_request": keep_request,
        "post_worker_init": hooks.post_worker_init,
        "worker_exit": hooks.worker_exit,
        "child_exit": hooks.child_exit,
        "when_ready": hooks.when_ready,
        "on_exit": hooks.on_exit,
    }
    if (folder := _heartbeats(settings.runtime_dir)) is not None:
        options["worker_tmp_dir"] = folder
    if settings.uses_tls:
        options["certfile"] = settings.tls_cert_file
        options["keyfile"] = settings.tls_key_file
    return options


def _heartbeats(instead: str) -> str | None:
    """Where workers' heartbeats are: in memory if that can be, since a disk can stall a worker.

    Else in the folder for temporary files (None), or in ``instead`` where there is none.
    Raises SettingsError when that cannot be made.
    """
    memory = "/dev/shm"  # noqa: S108
    if os.path.isdir(memory) and os.access(memory, os.W_OK | os.X_OK):
        return memory
    try:
        tempfile.gettempdir()
    except FileNotFoundError:
        try:
            os.makedirs(instead, mode=0o700, exist_ok=True)
        except OSError as ex:
            text = f"cannot make the folder {instead}: {ex.strerror}; set TMPDIR or --runtime-dir"
            raise SettingsError(text) from ex
        return instead
    return None


class GatewayApplication(BaseApplication):  # type: ignore[misc]
    """The gateway under gunicorn."""

    def __init__(
        self,
        settings: Settings,
        make_app: Callable[[Settings], object],
        metrics: MetricsService | None = None,
        reread: Callable[[], Settings] | None = None,
        console: ConsoleService | None = None,
    ) -> None:
        """``make_app`` is called in each worker process and makes what that serves; ``reread``
        makes the settings again for SIGHUP, and may raise SettingsError."""
        self.settings = settings
        self.metrics = metrics
        self.console = console
        self.last_words = LastWords()
        self.watched_files = FileWatch(settings.watched_files)
        self._make_app = make_app
        self._reread = reread
        super().__init__()

    def load_config(self) -> None:
        for name, value in gunicorn_options(self.settings).items():
            if name in self.cfg.settings:
                self.cfg.set(name, value)

    def reload(self) -> None:
        """SIGHUP: gunicorn starts new workers with what this leaves in ``settings``, and lets
        the old ones finish what they are serving."""
        if self._reread is not None:
            # What changes while it is read has changed since.
            self.watched_files.look()
            self.settings = reloaded(self.settings, self._reread)
            self.watched_files = FileWatch(self.settings.watched_files, self.watched_files)
            try:
                configure(self.settings)
            except SettingsError as ex:
                log.error("logging goes on as before", error=str(ex))
        super().reload()

    def run(self) -> None:
        GatewayArbiter(self).run()

    def load(self) -> Any:
        return self._make_app(self.settings)


def check_address(address: str) -> None:
    """Find out before any process is started whether ``address`` can be listened on.

    Workers whose main process was killed are about to let go of it: they are waited for.
    Raises SettingsError with the reference's text.
    """

    def say() -> None:
        log.info("the address is in use, waiting a moment for it", address=address)

    try:
        when_free(lambda: _try_to_bind(address), say)
    except (OSError, ValueError, OverflowError) as ex:
        raise SettingsError(f'listen on "{address}": {ex}; choose another --http-address') from ex


def _try_to_bind(address: str) -> None:
    host, _, port = address.rpartition(":")
    host = host.strip("[]")
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        probe.bind((host, int(port)))
