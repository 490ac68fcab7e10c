"""A day of deploys under steady load: nothing is lost, and the numbers add up."""

from __future__ import annotations

import os
import re
import signal
import ssl
from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
import requests
import trustme
from deploy_load import DeployLoad
from fake_coderd import FakeCoderd
from gateway_process import GatewayProcess, message_of, wait_until
from held import HeldClients, HeldProvider, is_whole
from stops import (
    Start,
    certify,
    hang_up,
    ready_workers,
    served_by,
    terminate,
    wait_for_drain,
)

KEY = "tok-alice-secret"
RPCS = {"RecordInterception", "RecordPromptUsage", "RecordTokenUsage", "RecordInterceptionEnded"}


class _Day:
    """The surroundings: a deployment, certificates, a load."""

    def __init__(self, folder: Path, start: Start, coderd: FakeCoderd) -> None:
        self.coderd = coderd
        self._start = start
        self._folder = folder
        self.tls = ssl.create_default_context()
        self.renew()
        self.load = DeployLoad([], KEY, self.tls)

    def renew(self) -> None:
        """A new certificate of a new authority, in the same files."""
        authority = trustme.CA()
        authority.configure_trust(self.tls)
        self._certificate = certify(self._folder, authority)
        self.serial = _serial(self._folder / "tls.crt")

    def gateway(self) -> GatewayProcess:
        """One more gateway with two workers, as it would be on another machine."""
        gateway = self._start(
            "--url", self.coderd.url, *self._certificate,
            "--prometheus-enable", "--prometheus-address", "127.0.0.1:0",
            local=False, workers=2, ready=False, environ={"CODER_AI_GATEWAY_KEY": "gateway-key"},
        )  # fmt: skip
        gateway.url = gateway.url.replace("http:", "https:")
        wait_until(lambda: ready_workers(gateway) == 2, "both workers are there")
        return gateway

    def begins(self, phase: str) -> None:
        """Something else happens from now on."""
        self.load.phases.append(phase)

    def more(self, answers: int) -> None:
        goal = len(self.load.outcomes) + answers
        wait_until(lambda: len(self.load.outcomes) >= goal, f"{answers} more answers")

    def check_metrics(self, gateway: GatewayProcess, lost: int = 0) -> None:
        """Its metrics say what its clients have seen, or cannot know of ``lost`` requests."""
        seen = [one for one in self.load.whole if one.address == address_of(gateway)]
        wait_until(lambda: interceptions(gateway)["completed"] >= len(seen), "all are counted")
        counted = interceptions(gateway)
        assert counted["completed"] <= len(seen) + lost
        assert counted["failed"] == 0

    def check_records(self, held: list[str]) -> None:
        """Each answer that a client has seen is recorded, all of it, in the end once."""
        stored: dict[str, Counter[str]] = defaultdict(Counter)
        for record in self.coderd.deployment.stored():
            stored[record.interception_id][record.rpc] += 1
        missing = {
            one.interception_id: RPCS - stored[one.interception_id].keys()
            for one in self.load.whole
            if not stored[one.interception_id].keys() >= RPCS
        }
        assert missing == {}
        assert all(stored[one].keys() >= RPCS for one in held)
        # What coderd had stored when it or a worker went away may be sent again.
        twice = {
            one.phase
            for one in self.load.whole
            if stored[one.interception_id] != dict.fromkeys(RPCS, 1)
        }
        assert twice <= {
            "start",
            "a worker is killed",
            "a certificate is renewed",
            "coderd is away",
        }
        # Nothing is left of the others but what was under way on the worker that was killed.
        ended = {one for one, found in stored.items() if found["RecordInterceptionEnded"]}
        assert len(stored.keys() - ended) <= len(self.load.failed)


def address_of(gateway: GatewayProcess) -> str:
    return gateway.url.partition("://")[2]


def _serial(path: Path) -> int:
    from cryptography.x509 import load_pem_x509_certificate

    return load_pem_x509_certificate(path.read_bytes()).serial_number


def _served_serial(gateway: GatewayProcess) -> int:
    from cryptography.x509 import load_pem_x509_certificate

    host, port = address_of(gateway).split(":")
    pem = ssl.get_server_certificate((host, int(port)))
    return load_pem_x509_certificate(pem.encode()).serial_number


def interceptions(gateway: GatewayProcess) -> Counter[str]:
    """Interceptions that have ended, by status, as Prometheus sees them."""
    line = next(x for x in gateway.logs() if message_of(x) == "http server listening")
    text = requests.get(f"http://{line['fields']['addr']}/", timeout=10).text
    found: Counter[str] = Counter()
    for labels, value in re.findall(
        r"^coder_ai_gateway_interceptions_total\{(.*)\} (\S+)$", text, re.M
    ):
        status = re.search(r'status="(\w+)"', labels)
        assert status is not None
        found[status[1]] += int(float(value))
    return found


@pytest.fixture
def day(tmp_path: Path, start: Start, provider: HeldProvider) -> Iterator[_Day]:
    with FakeCoderd() as coderd:
        coderd.deployment.add_user("alice", KEY)
        yield _Day(tmp_path, start, coderd)


def test_a_day_of_deploys(day: _Day, provider: HeldProvider) -> None:
    load, coderd = day.load, day.coderd
    first = day.gateway()
    first.allowed_errors.append("SIGKILL")
    load.addresses.append(address_of(first))
    with load:
        day.more(30)

        day.begins("a worker is killed")
        victim = first.worker_pids()[0]
        os.kill(victim, signal.SIGSTOP)
        stopped = psutil.STATUS_STOPPED
        wait_until(lambda: psutil.Process(victim).status() == stopped, "nothing moves in it")
        victims = {port for port, pid in served_by(first).items() if pid == victim}
        os.kill(victim, signal.SIGKILL)
        wait_until(lambda: len(set(first.worker_pids()) - {victim}) == 2, "it is replaced")
        day.more(30)
        with HeldClients(first, 12, provider=provider, key=KEY, tls=day.tls) as held:
            day.begins("reload")
            hang_up(first)
            day.more(30)

            day.begins("a certificate is renewed")
            day.renew()
            hang_up(first)
            wait_until(lambda: _served_serial(first) == day.serial, "the new one is served")
            day.more(30)

            day.begins("coderd is away")
            coderd.refuse(503, "away")
            coderd.cut_connections()
            tries = len(coderd.requests)
            wait_until(lambda: len(coderd.requests) > tries + 6, "gateways try to come back")
            coderd.admit()
            day.more(30)

            day.begins("rolling restart")
            second = day.gateway()
            load.addresses.append(address_of(second))
            day.more(30)
            terminate(first)
            wait_for_drain(first)
            load.addresses.remove(address_of(first))
            day.more(30)
            # All but the held streams have ended there.
            day.check_metrics(first, lost=len(load.failed))
            provider.go_on()
            streams = held.answers()
        first.stop(None)

        day.begins("stop")
        provider.hold_again()
        with HeldClients(second, 4, provider=provider, key=KEY, tls=day.tls) as held:
            day.more(30)
            load.last_words.set()
            terminate(second)
            wait_until(lambda: load.ended, "all clients are turned away")
            day.check_metrics(second)
            provider.go_on()
            streams += held.answers()
        second.stop(None)

    assert {one.phase for one in load.failed} <= {"start", "a worker is killed"}, load.failed
    assert {one.port for one in load.failed} <= victims, load.failed
    # Only a gateway that stops turns anybody away, and a second one takes them.
    assert {one.phase for one in load.whole if one.turned_away} <= {"rolling restart"}
    assert all(is_whole(api, answer) for api, answer in streams)
    day.check_records([answer.interception_id for _, answer in streams])
