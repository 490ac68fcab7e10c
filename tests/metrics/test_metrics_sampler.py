"""What a worker's sampler makes of what its actors say."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from typing import Any, cast

import pytest
from prometheus_client import CollectorRegistry

from aigateway.actors.actor.base import GatewayActor
from aigateway.actors.actor.tree import ActorHistory, ActorTree
from aigateway.actors.control.local.housekeeper import GetHousekeeping, Housekeeping
from aigateway.actors.control.messages import Status
from aigateway.actors.providers.breaker import CircuitStatus
from aigateway.actors.providers.counters import Counters
from aigateway.actors.providers.keypool import KeyStatus, Rest, Subject
from aigateway.actors.providers.request import GetProviderState, ProviderState
from aigateway.actors.recorder.messages import GetSpoolStats
from aigateway.actors.recorder.spool import SpoolStats
from aigateway.actors.values.provider_config import ProviderConfig
from aigateway.http.metrics import sampler
from aigateway.http.metrics.observer import RequestMetrics
from aigateway.http.metrics.sampler import Sampler
from aigateway.http.metrics.series import Series
from aigateway.http.request.admission import Admission
from aigateway.http.request.inbound import Call, Inbound


class Teller(GatewayActor):
    """Says what it is given to say; hangs where that is None."""

    def __init__(self, role: str, says: dict[type[Any], Any], over: threading.Event) -> None:
        super().__init__(role)
        self.says = says
        self.over = over

    def receive(self, message: Any) -> Any:
        answer = self.says[type(message)]
        if answer is None:
            self.over.wait(30)
        return answer


class Process:
    """What a worker process has, as far as the sampler looks."""

    def __init__(self) -> None:
        self.tree = ActorTree()
        self.status = Status(connected=True, providers_tried_at=20.0, providers_loaded_at=10.0)
        self.calls: set[Call] = set()
        self.admission = Admission(1, 5, 30.0)
        self._registry = CollectorRegistry()
        self.metrics = RequestMetrics(Series(self._registry), initiators=True)
        self.full = False
        self.sampler = Sampler(
            self.metrics,
            self.tree,
            lambda: self.status,
            self.admission,
            self.calls,
            full_house=lambda: self.full,
        )
        self.over = threading.Event()
        self._refs: list[Any] = []
        self.play("recorder", {GetSpoolStats: SpoolStats(3, None, 1, 4096)})

    def play(self, role: str, says: dict[type[Any], Any]) -> Any:
        ref = Teller.start(role, says, self.over)
        self.tree.put(role, ref)
        self._refs.append(ref)
        return ref

    def provider(self, name: str, **state: Any) -> dict[type[Any], Any]:
        """Put a provider that says this into the tree; what it says may be changed."""
        values = {"busy": 0, "idle": 0, "draining": 0, "waiting": 0, "workers": (), **state}
        says = {GetProviderState: ProviderState(name, **values)}
        self.play(f"provider/{name}", says)
        configs = {config.name: config for config in self.tree.provider_configs()}
        configs[name] = ProviderConfig(name=name, type="openai", base_url="http://p")
        self.tree.replace_providers(tuple(configs.values()))
        return cast(Any, says)

    def value(self, series: str, **labels: str) -> float | None:
        return self._registry.get_sample_value(f"coder_ai_gateway_{series}", labels)

    def stop(self) -> None:
        self.over.set()
        for ref in self._refs:
            ref.stop()


@pytest.fixture
def process(monkeypatch: pytest.MonkeyPatch) -> Iterator[Process]:
    monkeypatch.setattr(sampler, "PATIENCE", 0.1)
    process = Process()
    yield process
    process.stop()


def test_the_control_plane_and_the_spool(process: Process) -> None:
    process.sampler.sample()
    assert process.value("coderd_connected") == 1
    assert process.value("providers_last_reload_timestamp_seconds") == 20.0
    assert process.value("providers_last_reload_success_timestamp_seconds") == 10.0
    assert process.value("spool_records") == 3
    assert process.value("dead_letters") == 1
    process.status = Status(connected=False)
    process.sampler.sample()
    assert process.value("coderd_connected") == 0
    assert process.value("providers_last_reload_timestamp_seconds") == 20.0


def test_requests_wait_for_different_things(process: Process) -> None:
    process.provider("a", waiting=2, retrying=1)
    process.provider("b", waiting=3)
    for stages in (0, 1, 2, 2, 4):
        environ = {"REQUEST_METHOD": "POST", "RAW_URI": "/p"}
        call = Call(Inbound.of(environ), 0.0)
        for stage in ("edge", "authorize", "read", "record")[:stages]:
            call.begin(stage)
        process.calls.add(call)
    assert process.admission.enter()
    queued = threading.Thread(target=process.admission.enter)
    queued.start()
    while not process.admission.waiting:
        threading.Event().wait(0.001)
    process.sampler.sample()
    process.admission.leave()
    queued.join()
    assert process.value("requests_running") == 1
    waiting = {
        what: process.value("requests_waiting", **{"for": what})
        for what in ("place", "control_plane", "connection", "retry")
    }
    assert waiting == {"place": 1, "control_plane": 3, "connection": 5, "retry": 1}


def test_a_worker_that_takes_no_connection_is_counted(process: Process) -> None:
    for full in (False, True, False):
        process.full = full
        process.sampler.sample()
        assert process.value("connections_full") == int(full)


RESTS = Rest("k", None, "unauthorized", 60.0)


def test_each_rest_of_a_key_has_its_end_and_a_bounded_number_have_names(process: Process) -> None:
    def until(subject: str, reason: str = "rate_limited") -> float | None:
        labels = {"provider": "a", "key": "k", "subject": subject, "reason": reason}
        return process.value("key_pool_rest_until_timestamp_seconds", **labels)

    def rest(number: int) -> Rest:
        return Rest("k", Subject.model(f"m{number}"), "rate_limited", 60.0 + number)

    says = process.provider("a", keys=(KeyStatus("k", (RESTS, rest(0))),))
    began = time.time()
    process.sampler.sample()
    for end in (until("everything", "unauthorized"), until("model m0")):
        assert end is not None
        assert 59 < end - began < 90
    many = tuple(rest(number) for number in range(1, 200))
    says[GetProviderState] = ProviderState("a", 0, 0, 0, 0, (), keys=(KeyStatus("k", many),))
    process.sampler.sample()
    assert until("model m0") == 0, "it is over"
    assert until("model m49")
    assert until("model m50") is None
    other = until("other")
    assert other is not None
    assert other > began + 250


def test_housekeeping_is_counted_over_its_restarts_and_its_trouble_is_seen(
    process: Process,
) -> None:
    process.sampler.sample()
    assert process.value("housekeeping_failing") == 0

    def keeps(failing: bool, **deleted: int) -> None:
        process.play("housekeeper", {GetHousekeeping: Housekeeping(failing, deleted)})
        process.sampler.sample()

    keeps(False, content=0, records=5)
    keeps(True, content=2, records=1)
    assert process.value("old_requests_deleted_total", kind="records") == 6
    assert process.value("old_requests_deleted_total", kind="content") == 2
    assert process.value("housekeeping_failing") == 1
    keeps(False, content=2, records=1)
    assert process.value("housekeeping_failing") == 0


def test_an_actor_that_hangs_keeps_its_values_and_nobody_elses(process: Process) -> None:
    keys = (KeyStatus("k"),)
    hangs = process.provider("a", keys=keys, waiting=1)
    moves = process.provider("b", keys=keys)
    process.sampler.sample()
    hangs[GetProviderState] = None
    moves[GetProviderState] = ProviderState("b", 0, 0, 0, 0, (), keys=(KeyStatus("k", (RESTS,)),))
    process.sampler.sample()
    assert process.value("key_pool_state", provider="a", state="valid") == 1
    assert process.value("key_pool_state", provider="b", state="valid") == 0
    assert process.value("key_pool_state", provider="b", state="temporary") == 1


def test_inboxes_and_restarts_are_seen_without_asking(process: Process) -> None:
    says = process.provider("a")
    says[GetProviderState] = None
    role = "provider/a"
    process.tree.note(role, ActorHistory(2, "x"))
    ref = process.tree.find(role)
    assert ref is not None
    for _ in range(3):
        ref.tell(GetProviderState())
    process.sampler.sample()
    # One of those, or the sampler's own question, is in hand.
    inbox = process.value("actor_inbox", role=role)
    assert inbox is not None
    assert inbox >= 2
    assert process.value("actor_restarts_total", role=role) == 2
    process.tree.forget(role)
    process.tree.note(role, ActorHistory(1, "x"))
    process.sampler.sample()
    # It has another life behind it, and began to count again.
    assert process.value("actor_restarts_total", role=role) == 3


def test_a_successor_counts_from_0_and_nothing_is_lost(process: Process) -> None:
    def trips() -> float | None:
        return process.value("circuit_breaker_trips_total", provider="a", endpoint="/r", model="m")

    process.provider("a", counters=Counters(trips={("/r", "m"): 5}, keys_tried={2: 1}))
    process.sampler.sample()
    process.sampler.sample()
    assert trips() == 5
    # More than the first had counted, all of it new.
    process.provider("a", counters=Counters(trips={("/r", "m"): 6}, keys_tried={2: 1}))
    process.sampler.sample()
    assert trips() == 11
    assert process.value("key_pool_failover_attempts_count", provider="a") == 2
    assert process.value("key_pool_failover_attempts_sum", provider="a") == 4


def test_fallbacks_are_counted_by_who_could_not_answer_and_why(process: Process) -> None:
    process.provider("a", counters=Counters(fallback_reasons={"slow": 2, "connect": 1}))
    process.sampler.sample()
    for reason, count in (("slow", 2), ("connect", 1)):
        value = process.value("provider_fallbacks_total", provider="a", reason=reason)
        assert value == count


def test_what_is_gone_is_shown_as_nothing(process: Process) -> None:
    process.provider("a", keys=(KeyStatus("k"),), circuits=(CircuitStatus("/r", "m", "open"),))
    process.sampler.sample()
    info = {"provider_name": "a", "provider_type": "openai", "status": "enabled"}
    circuit = {"provider": "a", "endpoint": "/r", "model": "m"}
    assert process.value("provider_info", **info) == 1
    assert process.value("circuit_breaker_state", **circuit) == 1
    process.tree.replace_providers(())
    process.sampler.sample()
    assert process.value("provider_info", **info) == 0
    assert process.value("circuit_breaker_state", **circuit) == 0
    assert process.value("key_pool_state", provider="a", state="valid") == 0


def test_names_that_clients_chose_stand_escaped_in_circuits_and_rests(process: Process) -> None:
    model, shown = "a\x1b[31mred", r"a\x1b[31mred"
    circuit = CircuitStatus("/v1/messages", model, "open")
    key = KeyStatus("sk...1", (Rest("sk...1", Subject.model(model), "rate_limited", 60.0),))
    counters = Counters(trips={("/v1/messages", model): 2}, rejects={("/v1/messages", model): 3})
    process.provider("a", keys=(key,), circuits=(circuit,), counters=counters)
    process.sampler.sample()
    labels = {"provider": "a", "endpoint": "/v1/messages", "model": shown}
    assert process.value("circuit_breaker_state", **labels) == 1
    assert process.value("circuit_breaker_trips_total", **labels) == 2
    assert process.value("circuit_breaker_rejects_total", **labels) == 3
    subject = {"provider": "a", "key": "sk...1", "subject": f"model {shown}"}
    assert process.value("key_pool_rest_until_timestamp_seconds", reason="rate_limited", **subject)
