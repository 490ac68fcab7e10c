"""Metrics in the master process: the folder, the listener, the end of worker processes."""

from __future__ import annotations

import os
import subprocess
import time
from pathlib import Path

import structlog

from aigateway.http.metrics.folder import forget_process, make_folder, remove_folder, use_folder
from aigateway.http.settings import SettingsError

__all__ = ["MetricsService"]

RESTART_PAUSE = 10.0
"""Seconds until a listener that could not be started is tried again."""

log = structlog.get_logger("ai-gateway")


class MetricsService:
    """Owned by the master; make it before the first fork."""

    def __init__(self, address: str, folder: str = "") -> None:
        """Start the listener on ``address``.  Raises SettingsError when that cannot be.

        ``folder`` is for files where there is none for temporary ones.
        """
        # The listener's process imports what gevent must patch; the master must not.
        from aigateway.http.metrics._listener_process import start_listener

        self._pid = os.getpid()
        self._not_before = 0.0
        try:
            self._folder: Path = make_folder(folder)
        except OSError as ex:
            raise SettingsError(
                f"no folder for metrics: {ex.strerror}; set TMPDIR or --runtime-dir"
            ) from ex
        log.info("starting Prometheus endpoint", address=address)
        try:
            self._process: subprocess.Popen[bytes]
            self._process, self.address = start_listener(address, self._folder)
        except OSError as ex:
            remove_folder(self._folder)
            raise SettingsError(
                f'listen on "{address}": {ex}; choose another --prometheus-address'
            ) from ex
        log.info("http server listening", addr=self.address, name="prometheus")

    def in_worker(self) -> None:
        """In a worker process: let go of what the fork has copied, or the listener would not
        see the end of its standard input while any worker lives."""
        if self._process.stdin is not None:
            self._process.stdin.close()
        self._process.returncode = 0
        self._use = use_folder(self._folder)

    def watch(self) -> None:
        """Called every second: a listener that has ended is started again, where it was."""
        if self._process.poll() is None or time.monotonic() < self._not_before:
            return
        log.error("the Prometheus endpoint has ended, starting it again", addr=self.address)
        if self._process.stdin is not None:
            self._process.stdin.close()
        # Imported when the first was started.
        from aigateway.http.metrics._listener_process import start_listener

        try:
            self._process, self.address = start_listener(self.address, self._folder)
        except OSError as ex:
            self._not_before = time.monotonic() + RESTART_PAUSE
            log.error("no Prometheus endpoint", addr=self.address, error=str(ex))

    def worker_gone(self, pid: int) -> None:
        """A worker process has ended: keep its counters, drop its gauges."""
        forget_process(self._folder, pid)

    def stop(self) -> None:
        """End the listener, remove the folder.

        Does nothing in a worker process: it comes by here too when it exits, out of the
        master's stack that it was forked with.
        """
        if os.getpid() != self._pid:
            return
        if self._process.stdin is not None:
            self._process.stdin.close()
        try:
            self._process.wait(5)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        remove_folder(self._folder)
