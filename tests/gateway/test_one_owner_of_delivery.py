"""Actors restarted and workers killed under load: who sends what, and what is there twice.

``AIGATEWAY_TEST_RESTARTS=200`` makes the restarts as many, for each actor; with ``-n 0 -s`` they
say what was counted.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import requests
from any_coderd import AnyCoderd, Start, all_ended, per_interception
from gateway_process import GatewayProcess, wait_until

from aigateway.http.diagnosis.workers import ask_all

RESTARTS = int(os.environ.get("AIGATEWAY_TEST_RESTARTS", "4"))
CRASHES = min(RESTARTS, 6)
"""More of one role within a minute end its worker."""
IN_THE_AIR = 32
"""Records of a worker that are in doubt when it is killed, at most (docs/coderd.md)."""
ID = "X-AI-Gateway-Interception-Id"


class Load:
    """Requests one after the other, from several clients; knows what was answered."""

    def __init__(self, gateway: GatewayProcess, key: str, clients: int = 8) -> None:
        self._gateway, self._key = gateway, key
        self.served: list[str] = []
        self.refused = 0
        self.cut = 0
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._run) for _ in range(clients)]

    def _run(self) -> None:
        with requests.Session() as session:
            while not self._stop.is_set():
                self._ask(session)

    def _ask(self, session: requests.Session) -> None:
        try:
            answer = session.post(
                f"{self._gateway.url}/anthropic/v1/messages",
                json={
                    "model": "claude-x",
                    "max_tokens": 5,
                    "messages": [{"role": "user", "content": "whose is it"}],
                },
                headers={"X-Api-Key": self._key},
                timeout=60,
            )
        except requests.RequestException:
            self.cut += 1
            return
        if answer.status_code == 200:
            self.served.append(answer.headers[ID])
        else:
            self.refused += 1

    @contextmanager
    def running(self) -> Iterator[None]:
        for thread in self._threads:
            thread.start()
        try:
            yield
        finally:
            self._stop.set()
            for thread in self._threads:
                thread.join()

    def wait_for_more(self, count: int = 10) -> None:
        seen = len(self.served)
        wait_until(lambda: len(self.served) >= seen + count, "requests are served", 60)


def twice(coderd: AnyCoderd, load: Load) -> Counter[str]:
    """Wait for all records of what was served; return how many of each interception came twice."""
    served = list(load.served)
    wait_until(lambda: all_ended(coderd, served), "all records have arrived", 60)
    counts = per_interception(coderd.stored())
    # A blocking answer has one record of each of its kinds.
    kinds = {"RecordInterception", "RecordTokenUsage", "RecordPromptUsage"}
    for one in served:
        assert kinds < set(counts[one]), f"{one}: {counts[one]}"
    return Counter(
        {one: more for one, found in counts.items() if (more := found.total() - len(found))}
    )


@pytest.mark.timeout(120 + 3 * RESTARTS)
@pytest.mark.parametrize("role", ["recorder", "control-plane", "provider/anthropic", "mcp"])
def test_actors_that_are_restarted_under_load_double_and_lose_nothing(
    start: Start, coderd: AnyCoderd, role: str
) -> None:
    gateway = start(workers=3)
    load = Load(gateway, coderd.add_alice())
    crash = [False] * RESTARTS + [True] * CRASHES
    done = 0
    with load.running():
        load.wait_for_more()
        for number, crashed in enumerate(crash):
            question = {"command": "restart", "role": role, "crash": crashed}
            # One that is being restarted already is not restarted again, so ask until two were.
            enough = done + 2
            while done < enough:
                done += sum(a["done"] for _, a in ask_all(gateway.runtime_dir, question, None))
                load.wait_for_more(5 if number % 4 else 1)
    assert not twice(coderd, load)
    assert not load.cut
    sys.stdout.write(f"{role}: {done} restarts, {len(load.served)} requests served,")
    sys.stdout.write(f" {load.refused} refused, none doubled or lost\n")


@pytest.mark.timeout(240)
def test_a_killed_worker_doubles_no_more_than_what_was_in_the_air(
    start: Start, coderd: AnyCoderd
) -> None:
    kills = 8 if RESTARTS > 4 else 3
    gateway = start(workers=2)
    load = Load(gateway, coderd.add_alice())
    with load.running():
        for _ in range(kills):
            load.wait_for_more(20)
            pids = gateway.worker_pids()
            os.kill(pids[0], signal.SIGKILL)
            wait_until(
                lambda pids=pids: len(set(gateway.worker_pids()) - set(pids)) == 1, "a new worker"
            )
        load.wait_for_more(20)
    doubles = twice(coderd, load)
    # One record of an interception, and few in all.
    assert max(doubles.values(), default=0) <= 1
    assert doubles.total() <= IN_THE_AIR * kills
    sys.stdout.write(f"{kills} kills, {len(load.served)} requests served, doubled: {doubles}\n")
