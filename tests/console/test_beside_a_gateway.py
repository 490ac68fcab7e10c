"""``start --console``: the console comes and goes with the gateway, and not the other way round."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import requests
from gateway_process import GatewayProcess, message_of, wait_until
from waiting import PATIENCE

BESIDE = ["--console", "127.0.0.1:0"]


def links(gateway: GatewayProcess, count: int = 1) -> list[str]:
    """The links that were printed, once there are so many."""

    def found() -> list[str] | None:
        told = re.findall(r"^Sign in: (\S+)$", gateway.stdout(), re.MULTILINE)
        return told if len(told) >= count else None

    printed: list[str] = wait_until(found, f"{count} links are printed")
    return printed


def console_pid(gateway: GatewayProcess) -> int:
    """Of the one that was started last."""
    started = [line for line in gateway.logs() if message_of(line) == "console started"]
    return int(started[-1]["fields"]["pid"])


def is_there(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    stat = Path(f"/proc/{pid}/stat").read_text()
    # A zombie is waited for by whoever has it now.
    return stat.rpartition(")")[2].split()[0] != "Z"


def test_its_pages_show_the_gateway_and_it_ends_with_it(tmp_path: Path) -> None:
    with GatewayProcess(tmp_path, options=BESIDE) as gateway:
        (link,) = links(gateway)
        with requests.Session() as browser:
            assert browser.get(link, timeout=PATIENCE).status_code == 200
            address = link.partition("/sign-in")[0]
            page = browser.get(f"{address}/actors", timeout=PATIENCE).text
            assert f"Worker {gateway.worker_pids()[0]}" in page
            # Clients are told where the gateway really listens.
            assert gateway.url in browser.get(f"{address}/setup", timeout=PATIENCE).text
        # The link is a secret.
        token = link.partition("token=")[2]
        assert token not in gateway.log_file.read_text() + gateway.stderr()
        pid = console_pid(gateway)
    wait_until(lambda: not is_there(pid), "the console has ended")
    assert gateway.stderr().count("Traceback") == 0


def test_one_that_dies_is_started_again_and_harms_nobody(tmp_path: Path) -> None:
    with GatewayProcess(tmp_path, options=BESIDE) as gateway:
        gateway.allowed_errors.append("the console has ended, starting it again")
        links(gateway)
        first = console_pid(gateway)
        os.killpg(first, signal.SIGKILL)
        again = links(gateway, 2)[1]
        assert requests.get(again, timeout=PATIENCE).status_code == 200
        assert gateway.is_ready()
        assert console_pid(gateway) != first
        (told,) = [line for line in gateway.logs() if "console has ended" in message_of(line)]
        assert told["fields"] == {"seconds": 1.0}


def test_it_does_not_outlive_a_gateway_that_is_killed(tmp_path: Path) -> None:
    gateway = GatewayProcess(tmp_path, options=BESIDE, workers=2).start()
    links(gateway)
    pid = console_pid(gateway)
    gateway.kill()
    wait_until(lambda: not is_there(pid), "the console has ended")


@pytest.mark.parametrize("address", ["0.0.0.0:4002", "127.0.0.1:x", "nonsense"])
def test_an_address_that_cannot_be_stops_the_start(tmp_path: Path, address: str) -> None:
    done = subprocess.run(
        [
            *(sys.executable, "-m", "aigateway.http", "start", "--local"),
            *("--local-db", str(tmp_path / "x.db"), "--state-dir", str(tmp_path / "state")),
            *("--http-address", "127.0.0.1:0", "--console", address),
        ],
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )
    assert done.returncode == 2
    assert "console" in done.stderr
