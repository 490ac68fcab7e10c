"""Probing the inboxes of actors, one of them stuck."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import pykka
import pytest
from prometheus_client import CollectorRegistry

from aigateway.actors.actor.base import Crash, GatewayActor
from aigateway.actors.actor.tree import ActorTree
from aigateway.http.metrics.probes import InboxProbes
from aigateway.http.metrics.series import Series

PATIENCE = 10.0


class Stuck(GatewayActor):
    """Does not go on until it may."""

    def receive(self, message: Any) -> Any:
        if isinstance(message, threading.Event):
            assert message.wait(PATIENCE)


class House:
    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.tree = ActorTree()
        self.probes = InboxProbes(Series(self.registry), self.tree.filled)

    def start(self, role: str) -> pykka.ActorRef[Any]:
        ref = Stuck.start(role)
        self.tree.put(role, ref)
        return ref

    def value(self, suffix: str, role: str, **labels: str) -> float:
        name = f"coder_ai_gateway_actor_wait_seconds_{suffix}"
        return self.registry.get_sample_value(name, {"role": role, **labels}) or 0.0

    def settle(self, ref: pykka.ActorRef[Any]) -> None:
        """Let an actor come to the end of its inbox."""
        ref.ask("anything", timeout=PATIENCE)


@pytest.fixture
def house() -> Iterator[House]:
    house = House()
    yield house
    for ref in house.tree.filled().values():
        ref.stop(timeout=PATIENCE)


def test_the_wait_in_every_inbox_is_seen(house: House) -> None:
    actors = [house.start("recorder"), house.start("provider/a")]
    for _ in range(3):
        house.probes.probe()
        for ref in actors:
            house.settle(ref)
    house.probes.probe()
    assert house.value("count", "recorder") == house.value("count", "provider/a") == 3
    assert 0 <= house.value("sum", "recorder") < PATIENCE


def test_a_stuck_actor_has_one_probe_and_its_whole_wait_counts(house: House) -> None:
    ref, go_on = house.start("recorder"), threading.Event()
    ref.tell(go_on)
    for _ in range(5):
        house.probes.probe()
    assert ref.actor_inbox.qsize() <= 2
    # What is measured is time: let some pass.
    threading.Event().wait(0.06)
    go_on.set()
    house.settle(ref)
    house.probes.probe()
    assert house.value("count", "recorder") == 1
    assert house.value("sum", "recorder") > 0.05
    assert house.value("bucket", "recorder", le="0.05") == 0


def test_an_actor_that_dies_with_a_probe_counts_for_nothing(house: House) -> None:
    ref, go_on = house.start("recorder"), threading.Event()
    ref.tell(go_on)
    ref.tell(Crash())
    house.probes.probe()
    go_on.set()
    ref.actor_stopped.wait(PATIENCE)
    successor = house.start("recorder")
    for _ in range(3):
        house.probes.probe()
        house.settle(successor)
    house.probes.probe()
    assert 2 <= house.value("count", "recorder") <= 3
