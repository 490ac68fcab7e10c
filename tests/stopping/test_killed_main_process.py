"""The main process is killed: what it started lets go of the address, and the next one serves."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
from gateway_process import GatewayProcess, free_port, message_of, wait_until
from moments import at_import
from stops import Start, both

from aigateway.http.settings.addresses import when_free

IN_THE_WORKER = ["aigateway.http.app", "falcon", "aigateway.http.diagnosis.service",
                 "aigateway.http.server.control"]  # fmt: skip
KILL_THE_PARENT = "os.kill(os.getppid(), signal.SIGKILL); time.sleep(100)"


@both
@pytest.mark.parametrize("module", IN_THE_WORKER)
def test_a_worker_that_starts_ends_with_its_main_process(
    tmp_path: Path, start: Start, worker_class: str, module: str
) -> None:
    options = ["--worker-class", worker_class]
    address = f"127.0.0.1:{free_port()}"
    environ = at_import(tmp_path / "first", module, KILL_THE_PARENT)
    killed = GatewayProcess(
        tmp_path / "killed", options=options, workers=3, address=address, environ=environ
    )
    with open(tmp_path / "stderr", "wb") as stderr:
        process = subprocess.Popen(
            killed.start_command(), env=killed._environ, stdout=stderr, stderr=stderr
        )
        assert process.wait(60) == -signal.SIGKILL
    gateway = start(*options, folder=killed.folder, workers=3, address=address)
    gateway.stop()


@both
def test_a_worker_that_serves_lets_go_of_the_address_and_finishes(
    start: Start, worker_class: str
) -> None:
    options = ["--worker-class", worker_class, "--prometheus-enable"]
    options += ["--prometheus-address", f"127.0.0.1:{free_port()}"]
    address = f"127.0.0.1:{free_port()}"
    gateway = start(*options, workers=3, address=address)
    workers = [psutil.Process(pid) for pid in gateway.worker_pids()]
    gateway.process.kill()
    gateway.process.wait()
    start(*options, folder=gateway.folder, workers=3, address=address).stop()
    wait_until(lambda: not any(each.is_running() for each in workers), "the former ones end")


def test_metrics_that_start_as_the_main_process_is_killed_leave_nothing(tmp_path: Path) -> None:
    folder = tmp_path / "metrics"
    folder.mkdir()
    with subprocess.Popen(
        [sys.executable, "-m", "aigateway.http.metrics.listener", "127.0.0.1:0"],
        env={**os.environ, "PROMETHEUS_MULTIPROC_DIR": str(folder)},
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    ) as process:  # fmt: skip
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        process.stdin.close()
        assert process.stderr.read() == b""
        assert process.wait(60) == 0
    assert not folder.exists()


def test_an_address_that_is_let_go_in_a_moment_is_waited_for() -> None:
    taken = socket.create_server(("127.0.0.1", 0))
    address = taken.getsockname()
    with when_free(lambda: socket.create_server(address), taken.close) as server:
        assert server.getsockname() == address


def test_an_address_that_stays_in_use_is_an_error(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        gateway = GatewayProcess(tmp_path, address=address)
        with pytest.raises(AssertionError, match="Address already in use"):
            gateway.start()
        waits = [x for x in gateway.logs() if "waiting a moment" in message_of(x)]
    assert len(waits) == 1
