"""Signals that come while the gateway starts: none ends it that does not mean that."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest
from gateway_process import message_of, wait_until
from moments import at_import
from stops import Start, ready_workers

FIRST = ["aigateway.http.cli", "click", "aigateway.http.cli.start", "aigateway.http.settings"]
LATER = ["gunicorn.app.base", "aigateway.http.server.application"]
STOP = [signal.SIGTERM, signal.SIGINT, signal.SIGQUIT]
OTHERS = [signal.SIGUSR1, signal.SIGUSR2, signal.SIGWINCH, signal.SIGTTIN, signal.SIGTTOU]


def _send(*numbers: signal.Signals) -> str:
    return f"[os.kill(os.getpid(), number) for number in {[int(each) for each in numbers]}]"


@pytest.mark.parametrize("module", [*FIRST, *LATER])
@pytest.mark.parametrize("number", STOP)
def test_a_start_that_is_stopped_among_its_imports_ends_well(
    tmp_path: Path, module: str, number: signal.Signals
) -> None:
    # More than once: handlers are put down before the process is gone.
    environ = at_import(tmp_path / "first", module, _send(number, number))
    done = _run(tmp_path, environ, "start", "--local", "--http-address", "127.0.0.1:0")
    assert done.returncode == 0, done.stderr.decode()
    assert b"Traceback" not in done.stderr


def test_other_commands_leave_signals_as_they_are(tmp_path: Path) -> None:
    environ = at_import(tmp_path / "first", "click", _send(signal.SIGTERM), "version")
    assert _run(tmp_path, environ, "version").returncode == -signal.SIGTERM


@pytest.mark.parametrize("module", [*FIRST, *LATER])
def test_what_is_asked_of_a_gateway_that_starts_is_done_when_it_can_be(
    tmp_path: Path, start: Start, module: str
) -> None:
    sent = _send(signal.SIGHUP, *OTHERS, signal.SIGHUP)
    gateway = start(environ=at_import(tmp_path / "first", module, sent), ready=False)
    wait_until(lambda: _reloads(gateway.logs()) == 1, "the reload is done")
    wait_until(lambda: ready_workers(gateway) >= 2, "a worker with the new settings serves")
    gateway.stop()


@pytest.mark.parametrize("worker_class", ["gevent", "gthread"])
def test_no_signal_to_its_group_ends_a_worker_that_starts(
    tmp_path: Path, start: Start, worker_class: str
) -> None:
    # A terminal that closes tells all processes.  Here it does so while a worker, whose signals
    # have no handlers of the main process any more, puts up its own.
    was = "was = signal.siginterrupt"
    patch = f"{was}; signal.siginterrupt = lambda *how: ({_send(signal.SIGHUP)}, was(*how))"
    environ = at_import(tmp_path / "first", "aigateway.http.cli", patch)
    gateway = start("--worker-class", worker_class, environ=environ)
    wait_until(gateway.is_ready, "the gateway is ready")
    assert ready_workers(gateway) == 1, "no other worker had to take its place"
    gateway.stop()


@pytest.mark.parametrize("worker_class", ["gevent", "gthread"])
@pytest.mark.parametrize("number", STOP)
def test_a_stop_does_not_wait_for_workers_that_start(
    tmp_path: Path, start: Start, worker_class: str, number: signal.Signals
) -> None:
    slow = f"os.kill(os.getppid(), {int(number)}); time.sleep(100)"
    environ = at_import(tmp_path / "first", "aigateway.http.app", slow)
    gateway = start("--worker-class", worker_class, environ=environ, workers=2, ready=False)
    gateway.stop(None)


def _reloads(lines: list[dict[str, object]]) -> int:
    return sum(message_of(line) == "settings reloaded" for line in lines)


def _run(folder: Path, environ: dict[str, str], *argv: str) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        [sys.executable, "-m", "aigateway.http", *argv],
        cwd=folder, env={"HOME": str(folder), **environ},
        capture_output=True, timeout=60, check=False,
    )  # fmt: skip
