"""The recorder below a real supervisor, which replaces control planes that die."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pykka
import pytest
from delivery_model import thought
from recorder_parts import CONTROL, PATIENCE, Plane, wait_until

from aigateway.actors.actor.base import new_reply
from aigateway.actors.actor.tree import ActorTree
from aigateway.actors.control.messages import Spooled
from aigateway.actors.plan import GatewayPlan
from aigateway.actors.recorder.messages import Append, Flushed, ListDeadLetters
from aigateway.actors.supervisor import RestartActor, StopAll, Supervisor

Rule = Callable[[Spooled], str | None]


class House:
    """A supervisor whose control planes keep what they store in one list."""

    def __init__(self, folder: Path) -> None:
        self.tree = ActorTree()
        self.rule: Rule = lambda _spooled: None
        self.stored: list[str] = []
        self.planes: list[pykka.ActorRef[Any]] = []
        self.gave_up: list[str] = []
        self.supervisor = Supervisor.start(
            GatewayPlan(start_control_plane=self._start_plane, state_dir=folder),
            self.tree,
            self.gave_up.append,
        )
        assert self.tree.wait_for(CONTROL, PATIENCE)

    def _start_plane(self, role: str, watcher: Any) -> pykka.ActorRef[Any]:
        rule = self.rule
        self.planes.append(Plane.start(role, watcher, rule=rule, store=self.stored))
        return self.planes[-1]

    @property
    def recorder(self) -> pykka.ActorRef[Any]:
        recorder = self.tree.wait_for("recorder", PATIENCE)
        assert recorder is not None
        return recorder

    def append(self, *records: Any) -> None:
        reply = new_reply()
        self.recorder.tell(Append(records, reply))
        assert reply.get(timeout=PATIENCE) is True

    def flush(self) -> None:
        reply = new_reply()
        self.recorder.tell(Flushed(reply))
        assert reply.get(timeout=PATIENCE) is True


@pytest.fixture
def house(tmp_path: Path) -> Iterator[House]:
    house = House(tmp_path)
    yield house
    house.supervisor.ask(StopAll(), timeout=PATIENCE)
    house.supervisor.stop(timeout=PATIENCE)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_record_that_control_planes_die_of_is_set_aside_before_all_is_given_up(
    house: House,
) -> None:
    house.rule = lambda s: "die" if "poison" in s.record.content else None  # type: ignore[union-attr]
    house.planes[0].tell(house.rule)
    for number in range(10):
        house.append(thought(str(number), "poison" if number == 4 else "fine"))
    house.flush()
    (letter,) = house.recorder.ask(ListDeadLetters(), timeout=PATIENCE)
    assert (letter.interception_id, letter.reason) == ("4", "the control plane dies of it")
    assert {text.split(":")[0] for text in house.stored} == set("012356789")
    assert house.gave_up == []


def test_nothing_is_stored_twice_when_a_control_plane_is_replaced(house: House) -> None:
    # The first one holds all that it gets; the second one stores all that it gets.
    for turn in range(20):
        house.planes[-1].tell(lambda _spooled: "stall")
        house.append(thought(f"a{turn}"))
        before, told = len(house.planes), threading.Event()
        # What comes meanwhile may meet the new one before the recorder has heard of it.
        threading.Thread(target=_append_until, args=(house, told, turn), daemon=True).start()
        assert house.supervisor.ask(RestartActor(CONTROL), timeout=PATIENCE)
        wait_until(lambda n=before: len(house.planes) > n, "a successor was started")
        house.flush()
        told.set()
    house.flush()
    assert len(house.stored) == len(set(house.stored))


def _append_until(house: House, told: threading.Event, turn: int) -> None:
    number = 0
    while not told.is_set():
        house.recorder.tell(Append((thought(f"b{turn}.{number}"),)))
        number += 1
        told.wait(0.0005)
