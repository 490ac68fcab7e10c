"""Every way in which ``aigateway start`` ends, and what its exit code says."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import psutil
import pytest
from fake_coderd import FakeCoderd
from gateway_process import GatewayProcess, message_of, wait_until
from held import SHUTTING_DOWN, HeldClients, HeldProvider, is_whole
from stops import Start, refuses

# 0 for each way to stop it: test_cuts.py and test_drains.py.


@pytest.fixture
def coderd() -> Iterator[FakeCoderd]:
    with FakeCoderd() as coderd:
        coderd.deployment.add_user("alice", "tok-alice-secret")
        yield coderd


@pytest.mark.parametrize("sig", [signal.SIGTERM, signal.SIGINT])
def test_it_is_0_when_the_gateway_is_stopped_before_it_listens(
    tmp_path: Path, sig: signal.Signals
) -> None:
    settings = tmp_path / "settings"
    os.mkfifo(settings)
    with subprocess.Popen(
        [sys.executable, "-m", "aigateway.http", "start", "--local", "--config", str(settings)],
        cwd=tmp_path, stderr=subprocess.PIPE, text=True,
    ) as starting:  # fmt: skip
        # A reader has come: now it waits for its settings.
        writer = wait_until(lambda: _writer(settings), "the settings are read")
        starting.send_signal(sig)
        assert starting.wait(30) == 0
        assert starting.stderr is not None
        assert starting.stderr.read() == ""
    os.close(writer)


def _writer(fifo: Path) -> int | None:
    with suppress(OSError):
        return os.open(fifo, os.O_WRONLY | os.O_NONBLOCK)
    return None


def test_it_is_0_when_the_gateway_is_stopped_before_its_workers_work(start: Start) -> None:
    gateway = start("--worker-class", "gthread", ready=False)
    gateway.stop()
    assert message_of(gateway.logs()[-1]) == "standalone AI Gateway stopped"


def test_it_is_1_when_a_worker_had_to_be_killed(start: Start) -> None:
    gateway = start("--shutdown-timeout", "100ms")
    gateway.allowed_errors += ["did not end in time", "SIGKILL"]
    (worker,) = gateway.worker_pids()
    os.kill(worker, signal.SIGSTOP)
    gateway.stop(signal.SIGQUIT, status=1)
    (line,) = [x for x in gateway.logs() if "did not end in time" in message_of(x)]
    assert line["fields"]["workers"] == [worker]


def _customized(folder: Path, code: str) -> dict[str, str]:
    """An environment in which each Python runs this first."""
    (folder / "sitecustomize.py").write_text(code)
    return {"PYTHONPATH": str(folder)}


def test_it_is_1_when_the_address_is_taken_in_the_last_moment(tmp_path: Path) -> None:
    # As if it had been free before, and without gunicorn's pauses between its tries.
    environ = _customized(
        tmp_path,
        "import types, gunicorn.sock, aigateway.http.server.application as application\n"
        "gunicorn.sock.time = types.SimpleNamespace(sleep=lambda _seconds: None)\n"
        "application.check_address = lambda _address: None\n",
    )
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"--http-address=127.0.0.1:{taken.getsockname()[1]}"
        ended = _start(tmp_path, address, **environ)
    assert ended.returncode == 1
    assert "Can't connect" in ended.stderr.splitlines()[-1]


def test_it_is_255_for_a_fault_in_the_main_process(tmp_path: Path, start: Start) -> None:
    environ = _customized(
        tmp_path,
        "import os, aigateway.http.server.arbiter as arbiter\n"
        "def fail(self): 1 / (not os.path.exists('fail'))\n"
        "arbiter.GatewayArbiter.murder_workers = fail\n",
    )
    gateway = start("--worker-class", "gthread", environ=environ)
    gateway.allowed_errors.append("Unhandled exception in main loop")
    workers = [psutil.Process(pid) for pid in gateway.worker_pids()]
    (gateway.folder / "fail").touch()
    assert gateway.process.wait(30) == 255
    assert not any(each.is_running() for each in workers)
    assert "ZeroDivisionError" in gateway.stderr()


def _start(folder: Path, *options: str, **environ: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "aigateway.http", "start", "--local", *options],
        cwd=folder, env={**os.environ, "HOME": str(folder), **environ},
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("option", "text"),
    [
        ("--shutdown-timeout=soon", "must be a duration"),
        ("--http-address=127.0.0.1:{port}", "in use"),
    ],
)
def test_it_is_2_for_what_can_be_known_before(tmp_path: Path, option: str, text: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        option = option.format(port=taken.getsockname()[1])
        ended = _start(tmp_path, option)
    assert ended.returncode == 2
    assert text in ended.stderr.splitlines()[-1]
    assert option.partition("=")[0] in ended.stderr.splitlines()[-1]


def _with(coderd: FakeCoderd, start: Start, **more: object) -> GatewayProcess:
    environ = {"CODER_AI_GATEWAY_KEY": "gateway-key"}
    return start("--url", coderd.url, local=False, environ=environ, **more)


def test_it_is_3_when_coderd_refuses_the_key_and_the_reason_is_the_last_line(
    start: Start, coderd: FakeCoderd
) -> None:
    coderd.refuse(401, {"message": "Refused for a test."})
    gateway = _with(coderd, start, workers=2, ready=False)
    assert gateway.process.wait(30) == 3
    last = message_of(gateway.logs()[-1])
    assert "AI Gateway daemon exited: dial coderd: " in last, "as the reference says it"
    assert "Refused for a test." in last
    assert "Refused for a test." in gateway.stderr().splitlines()[-1]
    assert "Traceback" not in gateway.stderr()


def test_running_requests_finish_before_a_gateway_without_a_key_ends(
    start: Start, coderd: FakeCoderd, provider: HeldProvider
) -> None:
    gateway = _with(coderd, start)
    with HeldClients(gateway, 10, provider=provider, key="tok-alice-secret") as held:
        coderd.delete_gateway_key()
        wait_until(lambda: refuses(gateway), "it takes no more connections")
        provider.go_on()
        assert all(is_whole(api, answer) for api, answer in held.answers())
    assert gateway.process.wait(30) == 3
    assert "AI Gateway key invalid" in message_of(gateway.logs()[-1])
    # What coderd did not take waits on disk for a key that it takes.
    assert list((gateway.folder / "state").glob("spool-*.sqlite"))


def test_a_worker_whose_actors_give_up_ends_alone(
    tmp_path: Path, start: Start, provider: HeldProvider
) -> None:
    # Or it would take half a minute of restarts.
    environ = _customized(
        tmp_path, "import aigateway.actors.supervisor as module\nmodule.MAX_DEATHS = 1\n"
    )
    gateway = start("--worker-class", "gthread", workers=2, environ=environ)
    gateway.allowed_errors += ["CrashedOnRequest", "gives up", "giving up", "exited with code 1"]
    victim, survivor = gateway.worker_pids()
    with HeldClients(gateway, 10, provider=provider) as held:
        crash = ["restart", "provider/openai", "--crash", "--worker", str(victim)]
        for _ in range(2):
            gateway.command("actors", "--runtime-dir", str(gateway.runtime_dir), *crash)
        wait_until(lambda: victim not in gateway.worker_pids(), "it has ended")
        wait_until(lambda: len(gateway.worker_pids()) == 2, "it is replaced")
        assert survivor in gateway.worker_pids()
        provider.go_on()
        answers = held.answers()
    for api, answer in answers:
        # Its own streams were cut, and that is recorded.
        error = None if is_whole(api, answer) else SHUTTING_DOWN
        assert gateway.records(answer.interception_id)["error_message"] == error
    gateway.stop()
