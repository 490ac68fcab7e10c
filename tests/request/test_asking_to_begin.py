"""Who is asked to record that there is an interception, and what comes of it when they die."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from attrs import define

from aigateway.actors.actor.base import GatewayActor, complete
from aigateway.actors.actor.tree import ActorTree
from aigateway.actors.control.messages import Accepted, Unavailable
from aigateway.actors.plan import GatewayPlan
from aigateway.actors.values.records import InterceptionBegun
from aigateway.http.request.runtime import NoAnswer, Runtime

RECORD = InterceptionBegun(
    id="0197c9a0-0000-7000-8000-000000000001",
    initiator_id="u",
    username="alice",
    api_key_id="k",
    provider="anthropic",
    provider_name="anthropic",
    model="m",
    client="c",
    user_agent="",
    started_at=1_700_000_000.0,
)


class Beginner(GatewayActor):
    """Answers with ``answer``, and dies or says nothing where that says so."""

    def __init__(self, role: str, answer: object, told: list[tuple[str, bool]]) -> None:
        super().__init__(role)
        self._answer, self._told = answer, told

    def receive(self, message: Any) -> None:
        self._told.append((self.role, message.again))
        if self._answer == "dies":
            raise RuntimeError("of it")
        if self._answer != "is silent":
            complete(message.reply, self._answer)


@define
class Keeping:
    refusing: bool = False
    state: str = "ok"
    reason: str = ""
    lost: str = ""


@define
class House:
    runtime: Runtime
    told: list[tuple[str, bool]]

    def put(self, role: str, answer: object) -> None:
        self.runtime.tree.put(role, Beginner.start(role, answer, self.told))

    def begin(self, timeout: float = 10.0) -> object:
        return self.runtime.begin(RECORD, None, timeout)


@pytest.fixture
def house() -> Iterator[House]:
    tree = ActorTree()
    tree.keeping = Keeping()
    yield House(Runtime(GatewayPlan.__new__(GatewayPlan), tree, give_up=pytest.fail), [])
    for ref in tree.filled().values():
        ref.stop()


def test_a_start_is_told_to_the_control_plane_itself(house: House) -> None:
    house.put("control-plane", Accepted())
    house.put("recorder", Unavailable("asked in vain"))
    assert house.begin() == Accepted()
    assert house.told == [("control-plane", False)]


def test_where_records_cannot_be_kept_the_recorder_refuses(house: House) -> None:
    house.runtime.tree.keeping = Keeping(refusing=True)
    house.put("control-plane", Accepted())
    house.put("recorder", Unavailable("the disk is full"))
    assert house.begin() == Unavailable("the disk is full")
    assert house.told == [("recorder", False)]


def test_while_the_control_plane_is_restarted_the_recorder_waits_for_it(house: House) -> None:
    house.put("recorder", Accepted())
    assert house.begin() == Accepted()
    assert house.told == [("recorder", False)]


def test_a_start_that_a_control_plane_died_with_is_begun_again(house: House) -> None:
    house.put("control-plane", "dies")
    house.put("recorder", Accepted())
    assert house.begin() == Accepted()
    assert house.told == [("control-plane", False), ("recorder", True)]


def test_a_start_that_is_not_answered_in_time_is_not_begun_again(house: House) -> None:
    house.put("control-plane", "is silent")
    house.put("recorder", Accepted())
    with pytest.raises(NoAnswer):
        house.begin(timeout=0.05)
    assert house.told == [("control-plane", False)]


def test_nothing_begins_without_a_recorder(house: House, monkeypatch: Any) -> None:
    monkeypatch.setattr("aigateway.http.request.runtime.SETTLING", 0.01)
    monkeypatch.setattr("aigateway.http.request.runtime.SUCCESSOR_WAIT", 0.01)
    house.put("control-plane", Accepted())
    with pytest.raises(NoAnswer):
        house.begin()
    assert house.told == []
