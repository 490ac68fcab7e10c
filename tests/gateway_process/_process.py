from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any, Self

import requests
from attrs import frozen
from waiting import PATIENCE, wait_until

from aigateway.actors.control.local.api_keys import create_key
from aigateway.actors.control.local.schema import open_database

__all__ = ["GatewayProcess", "Upstream", "all_stopped", "free_port", "wait_until"]


def free_port() -> int:
    """A port that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@frozen
class Upstream:
    """One provider in the gateway's environment; ``url`` is the root, without ``/v1``."""

    type: str
    url: str
    name: str = ""
    key: str = "sk-upstream-secret-key"
    extra: Mapping[str, str] = {}

    def environ(self, index: int) -> dict[str, str]:
        versionless = self.type in ("anthropic", "copilot", "gemini")
        base = self.url if versionless else f"{self.url}/v1"
        fields = {"TYPE": self.type, "BASE_URL": base, **self.extra}
        if self.name:
            fields["NAME"] = self.name
        if self.key:
            fields["KEY"] = self.key
        return {f"CODER_AI_GATEWAY_PROVIDER_{index}_{k}": v for k, v in fields.items()}


class GatewayProcess:
    """Starts ``aigateway start --local`` in ``folder`` and knows where everything is."""

    def __init__(
        self,
        folder: Path,
        upstreams: Sequence[Upstream] = (),
        options: Sequence[str] = (),
        *,
        workers: int = 1,
        local: bool = True,
        address: str = "127.0.0.1:0",
        environ: Mapping[str, str] | None = None,
    ) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self.workers = workers
        self.database = folder / "gateway.db"
        # Not below `folder`: a unix socket's address has room for about a hundred bytes.
        self.runtime_dir = Path(tempfile.mkdtemp(prefix="aigw-"))
        self.log_file = folder / "gateway.log.json"
        self._options = [
            *(["--local", "--local-db", str(self.database)] if local else []),
            "--http-address", address,
            "--state-dir", str(folder / "state"),
            "--runtime-dir", str(self.runtime_dir),
            "--workers", str(workers),
            "--log-json", str(self.log_file),
            *options,
        ]  # fmt: skip
        self._environ = {
            **{k: v for k, v in os.environ.items() if not k.startswith("CODER_")},
            "PYTHONWARNINGS": "error",
            **(environ or {}),
        }
        for index, upstream in enumerate(upstreams):
            self._environ.update(upstream.environ(index))
        self._process: subprocess.Popen[bytes] | None = None
        self._keys: dict[str, str] = {}
        self.url = ""
        self.allowed_errors: list[str] = []
        """Texts of error lines that the test provokes."""

    # -- life

    def start_command(self) -> list[str]:
        """What is run."""
        return [sys.executable, "-m", "aigateway.http", "start", *self._options]

    def start(self, *, ready: bool = True) -> Self:
        """Start it and wait until it listens, and by default until it can serve."""
        self.log_file.unlink(missing_ok=True)
        with (
            open(self.folder / "stdout.txt", "ab") as stdout,
            open(self.folder / "stderr.txt", "ab") as stderr,
        ):
            self._process = subprocess.Popen(
                self.start_command(),
                env=self._environ,
                cwd=self.folder,
                stdout=stdout,
                stderr=stderr,
                start_new_session=True,
            )
        try:
            line = wait_until(self._listening, "the gateway listens")
            self.url = f"http://{line['fields']['address']}"
            if ready:
                wait_until(self.is_ready, "the gateway is ready")
        except BaseException:
            self.kill()
            raise
        return self

    def kill(self) -> None:
        """End it at once, workers and all."""
        process, self._process = self._process, None
        if process is not None:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        shutil.rmtree(self.runtime_dir, ignore_errors=True)

    def _listening(self) -> dict[str, Any] | None:
        if self.process.poll() is not None:
            raise AssertionError(
                f"the gateway ended with {self.process.returncode}: {self.stderr()}"
            )
        return next(
            (line for line in self.logs() if "AI Gateway listening" in message_of(line)), None
        )

    def is_ready(self) -> bool:
        try:
            return requests.get(f"{self.url}/readyz", timeout=5).status_code == 200
        except requests.RequestException:
            return False

    @property
    def process(self) -> subprocess.Popen[bytes]:
        assert self._process is not None, "the gateway was not started"
        return self._process

    def stop(self, sig: signal.Signals | None = signal.SIGTERM, *, status: int | None = 0) -> None:
        """Stop it and check that it ended as it should and logged nothing unexpected.

        ``sig`` is None when it was told before: a second signal would end it at once.
        """
        process = self.process
        if sig is not None and process.poll() is None:
            process.send_signal(sig)
        try:
            process.wait(PATIENCE)
        except subprocess.TimeoutExpired as ex:
            self.kill()
            raise AssertionError(f"the gateway did not stop: {self.stderr()[-3000:]}") from ex
        self._process = None
        if status is not None:
            assert process.returncode == status, self.stderr()[-3000:]
        self.check_logs()
        assert not self.runtime_dir.exists(), "the runtime folder was left behind"

    def check_logs(self) -> None:
        """Fail on tracebacks and on errors that the test did not allow."""
        bad = [
            line
            for line in self.logs()
            if str(line.get("level", "")).lower() in ("error", "critical")
            and not any(text in json.dumps(line) for text in self.allowed_errors)
        ]
        assert not bad, f"unexpected error lines: {bad}"
        assert "Traceback" not in self.stderr() or self.allowed_errors, self.stderr()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if self._process is None:
            return
        if kind is None:
            self.stop()
        else:
            self.kill()

    # -- what a user has

    def key(self, user: str = "alice") -> str:
        """A key of the embedded control plane for ``user``, the same for each call."""
        if user not in self._keys:
            with closing(open_database(self.database)) as database:
                self._keys[user] = create_key(database, user).token
        return self._keys[user]

    def command(self, *argv: str) -> subprocess.CompletedProcess[str]:
        """Run an ``aigateway`` command against this gateway."""
        return subprocess.run(
            [sys.executable, "-m", "aigateway.http", *argv],
            env=self._environ,
            cwd=self.folder,
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            check=False,
        )

    def worker_pids(self) -> list[int]:
        return sorted(int(p.stem.removeprefix("worker-")) for p in self.runtime_dir.glob("*.sock"))

    # -- what it left behind

    def logs(self) -> list[dict[str, Any]]:
        try:
            text = self.log_file.read_text()
        except FileNotFoundError:
            return []
        return [json.loads(line) for line in text.splitlines(keepends=True) if line.endswith("\n")]

    def stdout(self) -> str:
        return (self.folder / "stdout.txt").read_text()

    def stderr(self) -> str:
        path = self.folder / "stderr.txt"
        return path.read_text() if path.exists() else ""

    def rows(self, sql: str, *params: Any) -> list[dict[str, Any]]:
        """Query the database of the embedded control plane."""
        with sqlite3.connect(f"file:{self.database}?mode=ro", uri=True, timeout=10) as db:
            db.row_factory = sqlite3.Row
            rows = [dict(row) for row in db.execute(sql, params)]
        db.close()
        return rows

    def records(self, interception_id: str) -> dict[str, Any]:
        """All that was recorded of one interception, once it has ended."""

        def ended() -> list[dict[str, Any]]:
            return self.rows(
                "SELECT * FROM interceptions WHERE id = ? AND ended_at IS NOT NULL",
                interception_id,
            )

        found: dict[str, Any] = wait_until(ended, f"interception {interception_id} ends")[0]
        for table in (
            "token_usages", "user_prompts", "tool_usages", "model_thoughts", "model_answers",
        ):  # fmt: skip
            found[table] = self.rows(
                f"SELECT * FROM {table} WHERE interception_id = ? ORDER BY created_at, rowid",
                interception_id,
            )
        return found


def message_of(line: Mapping[str, Any]) -> str:
    """The message of a JSON log line."""
    for name in ("message", "msg", "event"):
        if name in line:
            return str(line[name])
    return ""


@contextmanager
def all_stopped() -> Iterator[list[GatewayProcess]]:
    """A list for gateways: those in it are stopped in good order at the end, where the test has
    not done it, and killed in any case."""
    running: list[GatewayProcess] = []
    yield running
    try:
        for gateway in running:
            if gateway._process is not None:
                gateway.stop()
    finally:
        for gateway in running:
            gateway.kill()
