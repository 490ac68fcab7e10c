"""A gateway of one's own: a child process on the embedded control plane."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Self

import requests

from aigateway.actors.upstream.adapter import PlainSession

__all__ = ["DemoFailed", "GatewayProcess", "child_environment"]

START_LIMIT = 30.0
"""Seconds that the gateway may take until it is ready."""

STOP_LIMIT = 10.0
"""Seconds after which a gateway that was told to stop is killed."""

_POLL = 0.02


class DemoFailed(Exception):
    """The demonstration cannot go on; the text says why."""


class GatewayProcess:
    """``aigateway start --local`` in ``folder``, with the imitation as both its providers.

    It takes nothing from the caller's own configuration.  Use it as a context manager, or
    :meth:`stop` it: no process stays behind.
    """

    def __init__(
        self,
        folder: Path,
        *,
        imitation: str,
        provider_key: str,
        port: int = 0,
        workers: int = 1,
        console: bool = False,
    ) -> None:
        self.database = folder / "records.db"
        self._log = folder / "gateway.log"
        self._errors = folder / "gateway.err"
        arguments = {
            "--local-db": self.database,
            "--http-address": f"127.0.0.1:{port}",
            "--state-dir": folder / "state",
            "--runtime-dir": folder / "run",
            "--workers": workers,
            "--shutdown-timeout": "2s",
            "--log-json": self._log,
            "--log-human": "",
        }
        command = [sys.executable, "-m", "aigateway.http", "start", "--local"]
        for flag, value in arguments.items():
            command += [flag, str(value)]
        if console:
            command += ["--console", "127.0.0.1:0"]
        with self._errors.open("wb") as errors:
            self._process = subprocess.Popen(
                command,
                cwd=folder,
                env=child_environment(os.environ, imitation, provider_key),
                stdin=subprocess.DEVNULL,
                stdout=errors,
                stderr=errors,
                # Ctrl-C in the terminal is for us; we stop the gateway in good order.
                start_new_session=True,
            )
        self.url = ""

    def wait_until_ready(self, given_up: Callable[[], bool] = lambda: False) -> None:
        """Wait until it serves, and learn its :attr:`url`.

        Returns early, without a url, when ``given_up`` says so.  Raises :class:`DemoFailed` when
        the gateway ends or takes more than 30 s.
        """
        deadline = time.monotonic() + START_LIMIT
        with PlainSession() as session:
            while not given_up():
                address = self._address()
                if address and _is_ready(session, f"http://{address}/readyz"):
                    self.url = f"http://{address}"
                    return
                self.check()
                if time.monotonic() > deadline:
                    late = f"the gateway was not ready after {START_LIMIT:.0f} s"
                    raise DemoFailed(f"{late}:\n{self.last_words()}")
                time.sleep(_POLL)

    def wait_for_link(self, given_up: Callable[[], bool] = lambda: False) -> str:
        """The link that its console prints; empty when ``given_up`` says so.  Raises DemoFailed."""
        deadline = time.monotonic() + START_LIMIT
        while not given_up():
            told = self._errors.read_text(errors="replace")
            if found := re.search(r"^Sign in: (\S+)$", told, re.MULTILINE):
                return found[1]
            self.check()
            if time.monotonic() > deadline:
                raise DemoFailed(f"the console did not start:\n{self.last_words()}")
            time.sleep(_POLL)
        return ""

    def check(self) -> None:
        """Raise :class:`DemoFailed` when the gateway has ended."""
        code = self._process.poll()
        if code is not None:
            raise DemoFailed(f"the gateway ended with exit code {code}:\n{self.last_words()}")

    def last_words(self, lines: int = 15) -> str:
        """The end of what it logged and printed."""
        text = ""
        for file in (self._log, self._errors):
            with contextlib.suppress(OSError):
                text += file.read_text(errors="replace")
        return "\n".join(text.splitlines()[-lines:])

    def stop(self) -> None:
        """Stop it in good order, and by force what is left after 10 s."""
        with contextlib.suppress(subprocess.TimeoutExpired, ProcessLookupError):
            self._process.terminate()
            self._process.wait(STOP_LIMIT)
        # The group outlives its leader when a worker does.
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_raised: object) -> None:
        self.stop()

    def _address(self) -> str:
        """Where it listens, from its log; nothing while it does not."""
        try:
            lines = self._log.read_bytes().splitlines(keepends=True)
        except OSError:
            return ""
        for line in lines:
            # The last line may be half written.
            if b"standalone AI Gateway listening" in line and line.endswith(b"\n"):
                entry = json.loads(line)
                address: str = entry.get("fields", entry)["address"]
                return address
        return ""


def _is_ready(session: requests.Session, url: str) -> bool:
    try:
        return session.get(url, timeout=1).status_code == 200
    except requests.RequestException:
        return False


def _clean_environment(environ: Mapping[str, str]) -> dict[str, str]:
    """The caller's environment without what would configure a child."""
    foreign = ("CODER_", "GUNICORN_", "PROMETHEUS_")
    clean = {name: value for name, value in environ.items() if not name.startswith(foreign)}
    for name in ("http_proxy", "https_proxy", "all_proxy"):
        clean.pop(name, None)
        clean.pop(name.upper(), None)
    return clean


def child_environment(
    environ: Mapping[str, str], imitation: str, provider_key: str
) -> dict[str, str]:
    """The clean environment with the imitation as provider of each kind."""
    clean = _clean_environment(environ)
    kinds = (("anthropic", imitation), ("openai", f"{imitation}/v1"), ("gemini", imitation))
    for number, (kind, url) in enumerate(kinds):
        prefix = f"CODER_AI_GATEWAY_PROVIDER_{number}"
        clean[f"{prefix}_TYPE"] = clean[f"{prefix}_NAME"] = kind
        clean[f"{prefix}_KEY"] = provider_key
        clean[f"{prefix}_BASE_URL"] = url
    return clean
