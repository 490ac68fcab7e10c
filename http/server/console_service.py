"""The console beside the gateway: ``aigateway console`` as a child of the main process.

It ends with the main process, however that ends: its standard input does.  When it ends by itself
the gateway goes on, and it is started again, later and later.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from typing import Final

import structlog

from aigateway.http.settings import OPTIONS, Settings
from aigateway.http.settings.addresses import reachable

__all__ = ["ConsoleService"]

FIRST_PAUSE: Final = 1.0
LONGEST_PAUSE: Final = 60.0
"""Seconds before it is started again: the first time, doubling to the longest."""
GOOD: Final = 60.0
"""Seconds after which one that runs counts as started well."""
STOP_PATIENCE: Final = 12.0
"""Seconds for it to end: its open pages have ten."""

log = structlog.get_logger("ai-gateway")


class ConsoleService:
    """Owned by the main process."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._client_address = ""
        self._process: subprocess.Popen[bytes] | None = None
        self._pid = os.getpid()
        self._pause = FIRST_PAUSE
        self._began = 0.0
        self._not_before = 0.0

    def start(self, gateway_address: str) -> None:
        """The gateway listens at this HOST:PORT: start the console.  It prints its link itself."""
        scheme = "https" if self._settings.uses_tls else "http"
        self._client_address = f"{scheme}://{reachable(gateway_address)}"
        self._spawn()

    def in_worker(self) -> None:
        """In a worker process: let go of what the fork has copied, or the console would not see
        the end of its standard input while any worker lives."""
        if self._process is not None:
            if self._process.stdin is not None:
                self._process.stdin.close()
            self._process.returncode = 0

    def watch(self) -> None:
        """Called every second: a console that has ended is started again when its pause is over."""
        if self._process is None:
            if self._client_address and time.monotonic() >= self._not_before:
                self._spawn()
            return
        if self._process.poll() is None:
            return
        self._let_go()
        if time.monotonic() - self._began > GOOD:
            self._pause = FIRST_PAUSE
        log.error("the console has ended, starting it again", seconds=self._pause)
        self._not_before = time.monotonic() + self._pause
        self._pause = min(2 * self._pause, LONGEST_PAUSE)

    def stop(self) -> None:
        """End it.

        Does nothing in a worker process, which comes by here too when it exits.
        """
        if os.getpid() != self._pid or self._process is None:
            return
        process = self._process
        self._let_go()
        try:
            process.wait(STOP_PATIENCE)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    def _spawn(self) -> None:
        self._began = time.monotonic()
        try:
            self._process = subprocess.Popen(
                [
                    *(sys.executable, "-m", "aigateway.http", "console", "--end-with-stdin"),
                    *("--address", self._settings.console),
                    *("--client-address", self._client_address),
                ],
                env=_environment(self._settings),
                stdin=subprocess.PIPE,
                # A signal for the gateway from a terminal is none for the console.
                start_new_session=True,
            )
        except OSError as ex:
            log.error("the console cannot be started", error=str(ex))
            self._not_before = time.monotonic() + LONGEST_PAUSE
            return
        log.info("console started", address=self._settings.console, pid=self._process.pid)

    def _let_go(self) -> None:
        process, self._process = self._process, None
        if process is not None and process.stdin is not None:
            process.stdin.close()


def _environment(settings: Settings) -> dict[str, str]:
    """That of this process, with what was set by flags: the console reads it, and nobody else
    does, as they could its arguments."""
    environ = dict(os.environ)
    for row in OPTIONS:
        source = settings.sources.get(row.name)
        if row.envs and source is not None and source.kind == "flag":
            value = getattr(settings, row.name)
            environ[row.envs[0]] = value if isinstance(value, str) else row.kind.show(value)
    return environ
