"""A real console in a process of its own, for tests.

::

    with ConsoleProcess(folder, database, runtime_dir) as console:
        console.get("/spend").text
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Self

import psutil
import requests
from waiting import PATIENCE, wait_until

__all__ = ["ConsoleProcess"]


class ConsoleProcess:
    """Starts ``aigateway console`` on a free port, and signs in by its link."""

    def __init__(
        self,
        folder: Path,
        database: Path | str,
        runtime_dir: Path | None = None,
        *options: str,
        environ: Mapping[str, str] | None = None,
    ) -> None:
        self._output = folder / "console.txt"
        self._errors = folder / "console-errors.txt"
        self._command = [
            sys.executable, "-m", "aigateway.http", "console", "--address", "127.0.0.1:0",
            "--local-db", str(database),
            "--runtime-dir", str(runtime_dir or folder / "nobody"),
            *options,
        ]  # fmt: skip
        self._environ = environ or {}
        self._process: subprocess.Popen[bytes] | None = None
        self.url = ""
        self.link = ""
        self.browser = requests.Session()
        """What the link's cookie is for."""

    def start(self, *, sign_in: bool = True) -> Self:
        clean = {k: v for k, v in os.environ.items() if not k.startswith("CODER_")}
        with self._output.open("wb") as output, self._errors.open("wb") as errors:
            self._process = subprocess.Popen(
                self._command,
                env={**clean, "PYTHONWARNINGS": "error", **self._environ},
                cwd=self._output.parent,
                stdout=output,
                stderr=errors,
                start_new_session=True,
            )
        try:
            told = wait_until(self._told, "the console says where it is")
        except BaseException:
            self.kill()
            raise
        self.url, self.link = told[1], told[2] or ""
        if sign_in:
            assert self.browser.get(self.link, timeout=PATIENCE).status_code == 200
        return self

    def _told(self) -> re.Match[str] | None:
        assert self._process is not None
        if self._process.poll() is not None:
            raise AssertionError(f"the console ended: {self.errors()}")
        text = self._output.read_text()
        return re.search(r"^Console: (\S+)/\n(?:Sign in: (\S+)\n)?.*Ctrl-C.*\n", text)

    def get(self, path: str, status: int = 200, **options: object) -> requests.Response:
        """Ask as the one who has signed in."""
        answer = self.browser.get(
            self.url + path,
            timeout=PATIENCE,
            **options,  # type: ignore[arg-type]
        )
        assert answer.status_code == status, answer.text[:2000]
        return answer

    def cookie(self) -> str:
        """As a header, for hosts that the session would not send it to."""
        return "; ".join(f"{each.name}={each.value}" for each in self.browser.cookies)

    def port(self) -> int:
        """Where it listens, which its address need not say."""
        assert self._process is not None
        main = psutil.Process(self._process.pid)
        (found,) = {
            each.laddr.port
            for process in [main, *main.children()]
            for each in process.net_connections("tcp")
            if each.status == psutil.CONN_LISTEN
        }
        return int(found)

    def errors(self) -> str:
        return self._errors.read_text()

    def stop(self) -> int:
        """Stop it in good order; what it returned."""
        assert self._process is not None
        self._process.send_signal(signal.SIGTERM)
        try:
            return self._process.wait(PATIENCE)
        finally:
            self.kill()

    def kill(self) -> None:
        if self._process is not None:
            with suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
        self.browser.close()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is not None:
            self.kill()
            return
        assert self.stop() == 0
        assert "Traceback" not in self.errors(), self.errors()
        assert "[ERROR]" not in self.errors(), self.errors()
