"""The console beside the demonstration's gateway: a child process as well."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Self

from aigateway.http.demo.gateway import START_LIMIT, STOP_LIMIT, DemoFailed, clean_environment

__all__ = ["ConsoleProcess", "can_be_shown"]

_POLL = 0.02


def can_be_shown() -> bool:
    """Whether the extra ``console`` is installed."""
    return importlib.util.find_spec("jinja2") is not None


class ConsoleProcess:
    """``aigateway console`` for the gateway whose files are in ``folder``, on a free port.

    Use it as a context manager, or :meth:`stop` it: no process stays behind.
    """

    def __init__(self, folder: Path, gateway_url: str) -> None:
        self._output = folder / "console.txt"
        arguments = {
            "--address": "127.0.0.1:0",
            "--local-db": folder / "records.db",
            "--runtime-dir": folder / "run",
            "--client-address": gateway_url,
        }
        command = [sys.executable, "-m", "aigateway.http", "console"]
        for flag, value in arguments.items():
            command += [flag, str(value)]
        with self._output.open("wb") as output:
            self._process = subprocess.Popen(
                command,
                cwd=folder,
                env=clean_environment(os.environ),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                # Ctrl-C in the terminal is for us; we stop it in good order.
                start_new_session=True,
            )

    def wait_for_link(self, given_up: Callable[[], bool] = lambda: False) -> str:
        """The sign-in link; empty when ``given_up`` says so.  Raises DemoFailed."""
        deadline = time.monotonic() + START_LIMIT
        while not given_up():
            told = self._output.read_text(errors="replace")
            if found := re.search(r"^Sign in: (\S+)$", told, re.MULTILINE):
                return found[1]
            if self._process.poll() is not None or time.monotonic() > deadline:
                raise DemoFailed(f"the console did not start:\n{told}")
            time.sleep(_POLL)
        return ""

    def stop(self) -> None:
        """Stop it in good order, and by force what is left."""
        with contextlib.suppress(subprocess.TimeoutExpired, ProcessLookupError):
            self._process.terminate()
            self._process.wait(STOP_LIMIT)
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_raised: object) -> None:
        self.stop()
