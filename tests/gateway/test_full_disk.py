"""The state folder on a disk of 1 MiB, filled and freed: nothing is lost, nothing gets stuck.

Needs to mount a tmpfs; where that is not allowed the tests are skipped.
"""

from __future__ import annotations

import os
import signal
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests
from fake_coderd import FakeCoderd
from gateway_process import GatewayProcess, Upstream, wait_until
from imitation_provider import ScriptedProvider, imitate

SIZE = 1 << 20
ID = "X-AI-Gateway-Interception-Id"
DISK_TEXTS = ["cannot use the spool", "the record spool is full", "records", "is full"]


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A folder on a disk of its own."""
    folder = tmp_path / "state"
    folder.mkdir(mode=0o700)
    mount = ["mount", "-t", "tmpfs", "-o", f"size={SIZE},mode=700", "tmpfs", str(folder)]
    if os.geteuid() or subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("cannot mount a tmpfs here")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


@pytest.fixture
def coderd() -> Iterator[FakeCoderd]:
    with FakeCoderd() as coderd:
        yield coderd


@pytest.fixture
def gateway(tmp_path: Path, disk: Path, coderd: FakeCoderd) -> Iterator[GatewayProcess]:
    coderd.deployment.add_user("alice", "alice-secret")
    with ScriptedProvider(otherwise=imitate()) as provider:
        gateway = GatewayProcess(
            tmp_path,
            [Upstream("anthropic", provider.url)],
            ["--url", coderd.url, "--prometheus-enable", "--prometheus-address", "127.0.0.1:0"],
            local=False,
            environ={"CODER_AI_GATEWAY_KEY": "gateway-key"},
        )
        gateway.allowed_errors = DISK_TEXTS
        yield gateway.start()
        gateway.kill()


def fill(disk: Path) -> None:
    """Take all the room that there is."""
    with open(disk / "filler", "ab", buffering=0) as filler:
        for size in (4096, 1):
            try:
                while True:
                    filler.write(bytes(size))
            except OSError:
                continue


def free(disk: Path) -> None:
    (disk / "filler").unlink()


def ask(gateway: GatewayProcess, prompt: str = "hi") -> requests.Response:
    return requests.post(
        f"{gateway.url}/anthropic/v1/messages",
        json={"model": "c", "max_tokens": 5, "messages": [{"role": "user", "content": prompt}]},
        headers={"X-Api-Key": "alice-secret"},
        timeout=60,
    )


class Load:
    """Clients that go on asking, and what they were answered."""

    def __init__(self, gateway: GatewayProcess, prompt: str) -> None:
        self._gateway, self._prompt = gateway, prompt
        self.served: list[str] = []
        self.refused = 0
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._run) for _ in range(6)]

    def __enter__(self) -> Load:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def _run(self) -> None:
        while not self._stop.is_set():
            answer = ask(self._gateway, self._prompt)
            if answer.status_code == 200:
                self.served.append(answer.headers[ID])
            else:
                assert answer.status_code == 503, answer.text
                self.refused += 1

    def wait_for_more(self, count: int) -> None:
        seen = len(self.served)
        wait_until(lambda: len(self.served) >= seen + count, "requests are served", 60)

    def wait_for_refusals(self) -> None:
        seen = self.refused
        wait_until(lambda: self.refused > seen, "requests are refused", 60)


def ready_text(gateway: GatewayProcess) -> tuple[int, str]:
    answer = requests.get(f"{gateway.url}/readyz", timeout=10)
    return answer.status_code, answer.text.strip()


def check(coderd: FakeCoderd, served: list[str]) -> None:
    """Each record of what was served is there, once."""

    def ended() -> set[str]:
        return {r.interception_id for r in coderd.deployment.stored("RecordInterceptionEnded")}

    wait_until(lambda: set(served) <= ended(), "all records have arrived", 60)
    counts: dict[tuple[str, str], int] = {}
    for record in coderd.deployment.stored():
        key = (record.interception_id, record.rpc)
        counts[key] = counts.get(key, 0) + 1
    assert {key: count for key, count in counts.items() if count > 1} == {}
    for one in served:
        assert {"RecordTokenUsage", "RecordPromptUsage"} <= {r for i, r in counts if i == one}


@pytest.mark.timeout(300)
def test_a_disk_that_is_filled_and_freed_ten_times_loses_doubles_and_stops_nothing(
    gateway: GatewayProcess, disk: Path, coderd: FakeCoderd
) -> None:
    with Load(gateway, "p" * 500) as load:
        for _ in range(10):
            load.wait_for_more(10)
            seen = load.refused
            full = (503, "the disk for records is full")
            # As long as all is delivered, what the spool has is room enough.
            coderd.faults.fail("RecordTokenUsage", "the database is away")

            def notices(seen: int = seen, full: tuple[int, str] = full) -> bool:
                # What is delivered makes room, which is taken again.
                fill(disk)
                return ready_text(gateway) == full and load.refused > seen

            wait_until(notices, "it refuses, and is not ready", 60)
            coderd.faults.clear()
            free(disk)
            wait_until(lambda: ready_text(gateway) == (200, ""), "it is ready again")
        load.wait_for_more(10)
    check(coderd, load.served)
    gateway.stop(status=0)
    assert [path.suffix for path in disk.iterdir()] == [".lock"]


@pytest.mark.timeout(300)
def test_a_disk_that_coderd_was_too_slow_for_is_emptied_when_it_is_back(
    gateway: GatewayProcess, disk: Path, coderd: FakeCoderd
) -> None:
    """Deleting needs room itself."""
    for _ in range(3):
        gate = threading.Event()
        for rpc in ("RecordPromptUsage", "RecordTokenUsage"):
            coderd.faults.delay(rpc, gate)
        with Load(gateway, "p" * 20_000) as load:
            load.wait_for_refusals()
            gate.set()
            coderd.faults.clear()
        check(coderd, load.served)
        wait_until(lambda: ready_text(gateway) == (200, ""), "it is ready again")
        assert ask(gateway).status_code == 200
    gateway.stop(status=0)


def test_records_in_memory_are_sent_while_the_disk_is_full(
    gateway: GatewayProcess, disk: Path, coderd: FakeCoderd
) -> None:
    gate = threading.Event()
    coderd.faults.delay("RecordInterception", gate, times=1)
    answers: list[requests.Response] = []
    asking = threading.Thread(target=lambda: answers.append(ask(gateway, "p" * 100_000)))
    asking.start()
    coderd.wait_for_call("RecordInterception")
    fill(disk)
    gate.set()
    asking.join()
    assert answers[0].status_code == 200
    check(coderd, [answers[0].headers[ID]])
    assert ready_text(gateway) == (503, "the disk for records is full")
    # All is delivered, so nothing is lost by the stop.
    gateway.stop(status=0)


def test_an_exit_that_loses_records_says_how_many_and_is_not_0(
    gateway: GatewayProcess, disk: Path, coderd: FakeCoderd
) -> None:
    gate = threading.Event()
    coderd.faults.delay("RecordInterception", gate, times=1)
    coderd.faults.hang("RecordPromptUsage")
    coderd.faults.hang("RecordTokenUsage")
    asking = threading.Thread(target=lambda: ask(gateway, "p" * 100_000))
    asking.start()
    coderd.wait_for_call("RecordInterception")
    fill(disk)
    gate.set()
    wait_until(lambda: ready_text(gateway)[0] == 503, "the disk is found full")
    gateway.process.send_signal(signal.SIGTERM)
    asking.join()
    gateway.stop(None, status=4)
    lines = [line for line in gateway.logs() if line.get("msg") == "records were lost"]
    assert "3 records are lost: the disk of the state folder is full" in str(lines)
