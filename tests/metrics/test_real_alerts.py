"""Each alert rule fires in a real Prometheus on the fault it is for, and not without it.

Four gateways are watched while all is well, then each of them is in trouble of its own, and in the
end they are gone.  None is left to made-up series alone; but minutes are seconds here, and so is
the age at which records are stuck.  With the times of the documentation promtool evaluates them, in
``test_monitoring.py``.
"""

from __future__ import annotations

import os
import resource
import socket
import sqlite3
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from pathlib import Path

import pytest
import requests
import yaml
from fake_coderd import FakeCoderd
from gateway_process import GatewayProcess, Upstream, wait_until
from imitation_provider import ScriptedProvider, WaitFor, answer, error, imitate
from prometheus_process import WATCHED, Prometheus, metrics_address

from aigateway.actors.control.coderd.wire import coderd_pb2 as pb
from aigateway.http.diagnosis.workers import ask_all
from aigateway.http.metrics.questions import QUESTIONS

ALERTS = {one.alert.name for one in QUESTIONS if one.alert is not None}
PATIENCE = 60.0
FILES = 100
"""As many as the processes of one gateway may have open."""
DISK = 1 << 20
PRICED, UNPRICED = "claude-sonnet-4-5", "claude-x"

Alert = tuple[str, str]
"""Its name, and what its labels say of where the trouble is."""


def _ask(url: str, key: str, model: str = PRICED) -> int:
    body = {"model": model, "max_tokens": 9, "messages": [{"role": "user", "content": "hi"}]}
    headers = {"X-Api-Key": key}
    return requests.post(f"{url}/v1/messages", json=body, headers=headers, timeout=90).status_code


class _Alone:
    """A gateway with a database of its own: whose providers fail in all ways, whose actors die,
    whose database is damaged, and whose users spend."""

    job = "alone"

    def __init__(self, stack: ExitStack, folder: Path) -> None:
        self.failing, self.tripped, self.keyless, self.good = (
            stack.enter_context(ScriptedProvider(otherwise=imitate())) for _ in range(4)
        )
        names = ("failing", "tripped", "keyless", "good")
        upstreams = [Upstream("anthropic", getattr(self, name).url, name) for name in names]
        breaker = "--ai-gateway-circuit-breaker"
        options = [f"{breaker}-enabled", f"{breaker}-failure-threshold", "2", *WATCHED]
        self.folder = folder
        self.gateway = GatewayProcess(folder, upstreams, options)

    def works(self) -> None:
        for name in ("failing", "tripped", "keyless", "good"):
            assert self._ask(name) == 200

    def breaks(self) -> None:
        self.failing.otherwise, self.tripped.otherwise = error(500), error(503)
        self.keyless.otherwise = error(401)
        usage = {"input_tokens": 100_000, "output_tokens": 9}
        self.good.otherwise = lambda _: answer({"id": "m", "content": [], "usage": usage})
        self._cap(0.2)
        assert self._ask("good", model=UNPRICED) == 200
        crash = {"command": "restart", "role": "provider/good", "crash": True}
        done_so_far = 0
        while done_so_far < 5:  # one that is being restarted is not restarted again
            answers = ask_all(self.gateway.runtime_dir, crash, None)
            done_so_far += sum(one["done"] for _, one in answers)
        with closing(sqlite3.connect(self.gateway.database, timeout=10)) as database_file:
            database_file.execute("DROP TABLE prompt_search")

    def _cap(self, usd: float) -> None:
        policy = {"everybody": {"caps": [{"usd": usd, "every": "month"}], "unpriced": "allow"}}
        (self.folder / "policy.yaml").write_text(yaml.safe_dump(policy))
        database = ("--local-db", str(self.gateway.database))
        done = self.gateway.command("policy", "apply", "--yes", "policy.yaml", *database)
        assert done.returncode == 0, done.stderr

    def mends(self) -> set[Alert]:
        """End two of the faults; returns the alerts that end with them."""
        self.failing.otherwise = imitate()
        self._cap(1000)
        return {("AIGatewayRequestsFail", "failing"), ("AIGatewayCapNearlySpent", "spender")}

    def works_again(self) -> None:
        assert self._ask("failing") == 200
        self._ask("good", "spender")

    def suffers(self) -> None:
        for name in ("failing", "tripped", "keyless"):
            assert self._ask(name) >= 400
        self._ask("good", "spender")

    def _ask(self, name: str, user: str = "alice", model: str = PRICED) -> int:
        return _ask(f"{self.gateway.url}/{name}", self.gateway.key(user), model)

    alerts = frozenset(
        {
            ("AIGatewayRequestsFail", "failing"),
            ("AIGatewayRequestsFail", "tripped"),
            ("AIGatewayRequestsFail", "keyless"),
            ("AIGatewayCircuitOpen", "tripped"),
            ("AIGatewayKeysRefused", "keyless"),
            ("AIGatewayUnpriced", "model"),
            ("AIGatewayCapNearlySpent", "spender"),
            ("AIGatewayActorsDie", "provider/good"),
            ("AIGatewayHousekeepingFails", ""),
        }
    )


class _Narrow:
    """A gateway that has room for one request, and for few connections."""

    job = "narrow"

    def __init__(self, stack: ExitStack, folder: Path) -> None:
        self.provider = stack.enter_context(ScriptedProvider(otherwise=imitate()))
        self.over = threading.Event()
        self._pool = stack.enter_context(ThreadPoolExecutor(3))
        self._stack = stack
        stack.callback(self.over.set)
        options = ["--ai-gateway-max-concurrency", "1", "--queue-depth", "1", "--queue-wait", "90s"]
        upstreams = [Upstream("anthropic", self.provider.url)]
        self.gateway = GatewayProcess(folder, upstreams, [*options, *WATCHED])

    def works(self) -> None:
        for pid in (self.gateway.process.pid, *self.gateway.worker_pids()):
            resource.prlimit(pid, resource.RLIMIT_NOFILE, (FILES, FILES))
        assert self._ask() == 200

    def breaks(self) -> None:
        self.provider.otherwise = lambda _: [WaitFor(self.over), *imitate()(_)]
        asked = [self._pool.submit(self._ask) for _ in range(3)]
        # One is served, one waits, and one finds the queue full.
        wait_until(lambda: any(one.done() for one in asked), "one is refused")
        (worker,) = self.gateway.worker_pids()
        host, port = self.gateway.url.removeprefix("http://").split(":")
        more = int(0.9 * FILES) - len(os.listdir(f"/proc/{worker}/fd"))
        assert more > 0
        for _ in range(more):
            self._stack.enter_context(socket.create_connection((host, int(port))))

    def suffers(self) -> None:
        pass

    def _ask(self) -> int:
        return _ask(f"{self.gateway.url}/anthropic", self.gateway.key())

    alerts = frozenset(
        {
            ("AIGatewayAtItsLimit", job),
            ("AIGatewayRefuses", "capacity"),
            ("AIGatewayOpenFiles", job),
        }
    )


class _Refused:
    """A gateway whose Coder deployment refuses a record, is silent about others, and has providers
    that cannot be used, before it cannot tell which there are."""

    job = "refused"

    def __init__(self, stack: ExitStack, folder: Path) -> None:
        self.provider = stack.enter_context(ScriptedProvider(otherwise=imitate()))
        self.coderd = stack.enter_context(FakeCoderd())
        self.coderd.deployment.add_user("alice", "alice-secret")
        self.coderd.deployment.providers = (self._one("good"),)
        key = {"CODER_AI_GATEWAY_KEY": "gateway-key"}
        options = ["--url", self.coderd.url, *WATCHED]
        self.gateway = GatewayProcess(folder, [], options, local=False, environ=key)

    def _one(self, name: str, type: str = "anthropic") -> pb.AIProvider:
        fields = {"name": name, "type": type, "base_url": self.provider.url}
        return pb.AIProvider(**fields, enabled=True, keys=["sk-1"])

    def works(self) -> None:
        assert self._ask() == 200

    def breaks(self) -> None:
        faults, deployment = self.coderd.faults, self.coderd.deployment
        faults.fail("RecordPromptUsage", 'failed to parse interception_id "x": bad', times=1)
        assert self._ask() == 200
        log = self.gateway.log_file
        wait_until(lambda: "set aside" in log.read_text(), "a record is set aside")
        faults.hang("RecordTokenUsage")
        assert self._ask() == 200
        loads = deployment.count_calls("GetAIProviders")
        self.coderd.set_providers(self._one("good"), self._one("odd", "of-no-known-type"))
        self.coderd.wait_for_call("GetAIProviders", loads + 1)
        faults.fail("GetAIProviders", "no database")
        self.coderd.set_providers(self._one("good"))

    def suffers(self) -> None:
        pass

    def _ask(self) -> int:
        return _ask(f"{self.gateway.url}/good", "alice-secret")

    alerts = frozenset(
        {
            ("AIGatewayDeadLetters", job),
            ("AIGatewayRecordsStuck", job),
            ("AIGatewayProviderMisconfigured", "odd"),
            ("AIGatewayProvidersNotReloaded", job),
        }
    )


class _Cut:
    """A gateway whose disk is full, where one can be had, and whose Coder deployment is away."""

    job = "cut"

    def __init__(self, stack: ExitStack, folder: Path) -> None:
        self.provider = stack.enter_context(ScriptedProvider(otherwise=imitate()))
        self.coderd = stack.enter_context(FakeCoderd())
        self.coderd.deployment.add_user("alice", "alice-secret")
        self._pool = stack.enter_context(ThreadPoolExecutor(1))
        self._disk = folder / "state"
        self._disk.mkdir(mode=0o700, parents=True)
        mount = ["mount", "-t", "tmpfs", "-o", f"size={DISK},mode=700", "tmpfs", str(self._disk)]
        self.has_disk = not os.geteuid() and not subprocess.run(mount, check=False).returncode
        if self.has_disk:
            stack.callback(subprocess.run, ["umount", "-l", str(self._disk)], check=True)
        self.gateway = GatewayProcess(
            folder,
            [Upstream("anthropic", self.provider.url)],
            ["--url", self.coderd.url, *WATCHED],
            local=False,
            environ={"CODER_AI_GATEWAY_KEY": "gateway-key"},
        )

    def works(self) -> None:
        assert self._ask() == 200

    def breaks(self) -> None:
        self.coderd.faults.hang("RecordTokenUsage")
        assert self._ask() == 200
        if self.has_disk:
            self._fill()
            # Aside: one begins before the disk is known to be full, and waits to be recorded.
            self._pool.submit(self._ask_until_refused)
            ready = f"{self.gateway.url}/readyz"
            wait_until(lambda: "full" in requests.get(ready, timeout=9).text, "the disk is full")
            assert self._ask() == 503
        self.coderd.refuse(503, {"message": "away"})
        self.coderd.cut_connections()

    def _ask_until_refused(self) -> None:
        while self._ask() == 200:
            pass

    def _fill(self) -> None:
        with open(self._disk / "filler", "ab", buffering=0) as filler:
            for size in (4096, 1):
                try:
                    while True:
                        filler.write(bytes(size))
                except OSError:
                    continue

    def suffers(self) -> None:
        pass

    def _ask(self) -> int:
        return _ask(f"{self.gateway.url}/anthropic", "alice-secret")

    @property
    def alerts(self) -> frozenset[Alert]:
        of_disk = {("AIGatewayDisk", "full"), ("AIGatewayRefuses", "not_recorded")}
        away = {("AIGatewayControlPlaneAway", self.job), ("AIGatewayRecordsStuck", self.job)}
        return frozenset(away | of_disk if self.has_disk else away)


Watched = _Alone | _Narrow | _Refused | _Cut


@pytest.fixture
def watched(tmp_path: Path) -> Iterator[list[Watched]]:
    with ExitStack() as stack:
        kinds: tuple[Callable[[ExitStack, Path], Watched], ...]
        kinds = (_Alone, _Narrow, _Refused, _Cut)
        found = [kind(stack, tmp_path / str(at)) for at, kind in enumerate(kinds)]
        for one in found:
            stack.callback(one.gateway.kill)
        with ThreadPoolExecutor(len(found)) as pool:
            list(pool.map(lambda one: one.gateway.start(), found))
        yield found


def _where(labels: dict[str, str]) -> Alert:
    """The alert, and the first that there is of the labels that say where."""
    names = ("provider", "provider_name", "reason", "subject", "role", "state", "job")
    return labels["alertname"], next((labels[name] for name in names if name in labels), "")


def _fired(prometheus: Prometheus, seconds: float) -> set[Alert]:
    """What has fired in the last ``seconds``: some faults last, others are over soon."""
    found = prometheus.query(f'last_over_time(ALERTS{{alertstate="firing"}}[{int(seconds) + 1}s])')
    return {_where(one["metric"]) for one in found}


def test_each_alert_fires_on_its_fault_and_not_without_it(
    watched: list[Watched], tmp_path: Path
) -> None:
    expected = {alert for one in watched for alert in one.alerts}
    jobs = {one.job: metrics_address(one.gateway) for one in watched}
    with Prometheus(tmp_path, jobs) as prometheus:

        def all_sampled() -> bool:
            seen = prometheus.query("coder_ai_gateway_coderd_connected == 1")
            return len(seen) == len(watched) and prometheus.alerts("pending", "firing") == []

        for one in watched:
            one.works()
        wait_until(prometheus.evaluated_at, "the rules are evaluated", PATIENCE)
        wait_until(all_sampled, "all is well", PATIENCE)
        for _ in range(8):  # while gateways look at themselves at least once more
            for one in watched:
                one.works()
            prometheus.wait_for_evaluation()
            assert prometheus.alerts("pending", "firing") == []

        began = time.monotonic()
        seen: set[Alert] = set()

        def all_fire() -> bool:
            for one in watched:
                one.suffers()
            prometheus.wait_for_evaluation()
            seen.update(_fired(prometheus, time.monotonic() - began))
            return seen >= expected

        for one in watched:
            one.breaks()

        try:
            wait_until(all_fire, "each alert fires", PATIENCE)
        finally:
            assert seen == expected

        (alone,) = [one for one in watched if isinstance(one, _Alone)]
        mended = alone.mends()
        assert mended <= {_where(labels) for labels in prometheus.alerts("firing")}

        def they_end() -> bool:
            alone.works_again()
            prometheus.wait_for_evaluation()
            return not mended & {_where(labels) for labels in prometheus.alerts("firing")}

        wait_until(they_end, "they end with their faults", PATIENCE)

        for one in watched:
            one.gateway.kill()
        wait_until(lambda: "AIGatewayAbsent" in prometheus.firing(), "absence", PATIENCE)
    fired = {name for name, _ in expected} | {"AIGatewayAbsent"}
    if not all(one.has_disk for one in watched if isinstance(one, _Cut)):
        assert fired == ALERTS - {"AIGatewayDisk"}
        pytest.skip("all but AIGatewayDisk: cannot mount a tmpfs here")
    assert fired == ALERTS
