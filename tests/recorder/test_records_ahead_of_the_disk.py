"""Records of which a database of this machine may have the only copy."""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from recorder_parts import (
    CONTROL,
    PATIENCE,
    House,
    KeepingPlane,
    end,
    thought,
    tokens,
    wait_until,
)

from aigateway.actors.actor.base import Crash, new_reply
from aigateway.actors.recorder import _desk
from aigateway.actors.recorder.custody import Custody
from aigateway.actors.recorder.messages import Append, ControlPlaneChanged
from aigateway.actors.recorder.spool import Spool


@pytest.fixture
def house(tmp_path: Path) -> Iterator[House]:
    house = House(tmp_path / "state")
    yield house
    house.close()


@pytest.fixture
def at_the_latest(monkeypatch: pytest.MonkeyPatch) -> None:
    """A record that is not stored at once is on disk when the reply comes, and not before."""
    monkeypatch.setattr(_desk, "AHEAD", 0.02)


@pytest.fixture
def long_ahead(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_desk, "AHEAD", 10 * PATIENCE)


@pytest.fixture
def written(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What reaches the spool's file."""
    written: list[Any] = []
    insert = Spool._insert

    def noting(self: Spool, *arguments: Any) -> None:
        written.append(arguments)
        insert(self, *arguments)

    monkeypatch.setattr(Spool, "_insert", noting)
    return written


def told(house: House, *records: Any) -> Any:
    reply = new_reply()
    house.recorder.tell(Append(records, reply))
    return reply


def on_disk(house: House, table: str) -> int:
    """Rows that another program finds now."""
    uri = f"{(house.folder / 'spool-0.sqlite').as_uri()}?mode=ro"
    with contextlib.closing(sqlite3.connect(uri, uri=True)) as connection:
        count: int = connection.execute(f"SELECT count(*) FROM {table}").fetchone()[0]
    return count


@pytest.mark.usefixtures("long_ahead")
def test_what_is_stored_at_once_is_never_spooled(house: House, written: list[Any]) -> None:
    house.plane(kind=KeepingPlane)
    house.start()
    house.append(thought("a", "1"), tokens("a"))
    # Who is told that it is safe finds it stored.
    assert house.stored == ["a:1", "a:TokenUsage"]
    house.append(end("a"))
    assert house.stored == ["a:1", "a:TokenUsage", "a:InterceptionEnded"]
    assert written == []


@pytest.mark.usefixtures("at_the_latest")
def test_what_is_not_stored_at_once_is_spooled_before_anybody_is_told(house: House) -> None:
    house.plane(lambda _record: "stall", kind=KeepingPlane)
    house.start()
    house.append(thought("a"))
    assert on_disk(house, "parcels") == 1
    assert house.stored == []


def test_what_another_plane_takes_is_spooled_as_ever(house: House, written: list[Any]) -> None:
    house.plane()
    house.start()
    house.append(thought("a"))
    assert len(written) == 1


@pytest.mark.usefixtures("long_ahead")
def test_what_is_refused_is_spooled_before_anybody_is_told(house: House) -> None:
    house.plane(lambda _record: "not now", kind=KeepingPlane)
    house.start()
    house.append(thought("a"))
    assert on_disk(house, "held") == 1


@pytest.mark.usefixtures("long_ahead")
def test_what_is_wrong_is_a_dead_letter_before_anybody_is_told(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    reply = new_reply()
    told_before: list[bool] = []
    write = Spool.write

    def noting(self: Spool, *arguments: Any) -> Any:
        told_before.append(reply.known)
        return write(self, *arguments)

    monkeypatch.setattr(Spool, "write", noting)
    house.plane(lambda _record: "wrong in itself", kind=KeepingPlane)
    house.start()
    house.recorder.tell(Append((thought("a"),), reply))
    assert reply.get(timeout=PATIENCE) is True
    assert told_before == [False]
    assert on_disk(house, "dead_letters") == 1


@pytest.mark.usefixtures("at_the_latest")
def test_what_a_dying_plane_had_in_hand_is_spooled_and_goes_to_the_next(house: House) -> None:
    dying = house.plane(lambda _record: "die", kind=KeepingPlane)
    house.start()
    reply = told(house, thought("a"))
    wait_until(lambda: not dying.is_alive(), "it is dead")
    assert reply.get(timeout=PATIENCE) is True
    assert on_disk(house, "parcels") == 1
    house.plane(kind=KeepingPlane)
    house.recorder.tell(ControlPlaneChanged(replaced=True))
    house.wait_stored("a:")


@pytest.mark.usefixtures("long_ahead")
def test_what_a_dying_recorder_had_in_memory_goes_to_its_successor(house: House) -> None:
    stalling = house.plane(lambda _record: "stall", kind=KeepingPlane)
    house._more["custody"] = Custody()
    first = house.start()
    told(house, thought("a"))
    first.tell(Crash())
    wait_until(lambda: not first.is_alive(), "it is dead")
    stalling.tell(lambda _record: None)
    house.start()
    house.wait_stored("a:")
    assert house.tree.find(CONTROL) is stalling


@pytest.mark.usefixtures("long_ahead")
def test_a_recorder_that_stops_spools_what_it_has_in_memory(house: House) -> None:
    house.plane(lambda _record: "stall", kind=KeepingPlane)
    house.start()
    reply = told(house, thought("a"))
    house.recorder.stop(timeout=PATIENCE)
    assert reply.get(timeout=PATIENCE) is True
    assert on_disk(house, "parcels") == 1
