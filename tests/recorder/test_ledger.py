"""The ledger's promise: what a client has seen to its end is on disk."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import pykka
import pytest
from recorder_parts import PATIENCE, end, thought, wait_until

from aigateway.actors.actor.base import ActorDied, Crash, GatewayActor, complete, fail
from aigateway.actors.actor.tree import ActorTree
from aigateway.actors.providers import recording as module
from aigateway.actors.providers.recording import Ledger
from aigateway.actors.recorder.messages import Append


class Disk(GatewayActor):
    """A recorder that keeps what it is told; ``mute`` ones do not answer while they live."""

    def __init__(self, kept: list[Any], *, mute: bool = False) -> None:
        super().__init__("recorder")
        self._kept, self._mute = kept, mute
        self._waiting: list[Append] = []

    def receive(self, message: Any) -> Any:
        match message:
            case Append():
                if self._mute:
                    self._waiting.append(message)
                else:
                    self._kept += message.records
                    complete(message.reply, True)
            case "sync":
                return None

    def release(self) -> None:
        for append in self._waiting:
            fail(append.reply, ActorDied("stopped"))


class Desk:
    """A ledger, and recorders that come and go."""

    def __init__(self) -> None:
        self.tree = ActorTree()
        self.kept: list[Any] = []
        self.ledger = Ledger(self.tree, "a")
        self._refs: list[pykka.ActorRef[Any]] = []

    def recorder(self, *, mute: bool = False) -> pykka.ActorRef[Any]:
        ref = Disk.start(self.kept, mute=mute)
        self._refs.append(ref)
        self.tree.put("recorder", ref)
        return ref

    def kill(self) -> None:
        ref = self.tree.find("recorder")
        assert ref is not None
        ref.tell(Crash())
        wait_until(lambda: not ref.is_alive() and ref.actor_inbox._closed, "it is dead")  # type: ignore[attr-defined]
        self.tree.remove("recorder", ref)

    def add(self, first: int, count: int) -> None:
        self.ledger.add([thought("a", str(n)) for n in range(first, first + count)])

    def end(self) -> threading.Thread:
        thread = threading.Thread(target=self.ledger.end, args=(end("a"),))
        thread.start()
        return thread

    def texts(self) -> list[str]:
        return [getattr(record, "content", "end") for record in self.kept]

    def close(self) -> None:
        for ref in self._refs:
            ref.stop(timeout=PATIENCE)


@pytest.fixture
def desk() -> Iterator[Desk]:
    desk = Desk()
    yield desk
    desk.close()


def everything(count: int) -> list[str]:
    return [*(str(n) for n in range(count)), "end"]


def test_records_are_numbered_and_end_with_the_end(desk: Desk) -> None:
    desk.recorder()
    desk.add(0, 3)
    desk.ledger.end(end("a"))
    assert desk.texts() == everything(3)
    assert [record.record_id for record in desk.kept[:3]] == ["1", "2", "3"]
    desk.ledger.end(end("a"))
    assert desk.texts() == everything(3)


def test_many_records_are_handed_over_before_the_end(desk: Desk) -> None:
    ref = desk.recorder()
    desk.add(0, module.KEEP)
    ref.ask("sync", timeout=PATIENCE)
    assert len(desk.kept) == module.KEEP
    desk.add(module.KEEP, module.KEEP)
    ref.ask("sync", timeout=PATIENCE)
    # What is known to be on disk is not kept any longer.
    desk.add(2 * module.KEEP, module.KEEP)
    assert len(desk.ledger._under_way) == 1
    desk.ledger.end(end("a"))
    assert desk.texts() == everything(3 * module.KEEP)


def test_a_recorder_that_dies_in_mid_stream_costs_no_record_and_no_order(desk: Desk) -> None:
    desk.recorder(mute=True)
    desk.add(0, module.KEEP)
    desk.kill()
    desk.add(module.KEEP, module.KEEP)
    desk.recorder()
    desk.add(2 * module.KEEP, module.KEEP)
    desk.ledger.end(end("a"))
    assert desk.texts() == everything(3 * module.KEEP)


def test_a_recorder_that_dies_at_the_end_is_waited_for(desk: Desk) -> None:
    desk.recorder(mute=True)
    desk.add(0, 1)
    ending = desk.end()
    wait_until(lambda: desk.ledger._under_way, "it waits")
    desk.kill()
    desk.recorder(mute=True)
    wait_until(lambda: desk.ledger._under_way[0].reply is not None, "it waits again")
    desk.kill()
    desk.recorder()
    ending.join(PATIENCE)
    assert desk.texts() == everything(1)


def test_without_a_recorder_the_wait_is_bounded_and_the_loss_is_told(
    desk: Desk, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(module, "SUCCESSOR_WAIT", 0.05)
    desk.add(0, module.KEEP)
    desk.ledger.end(end("a"))
    assert "records are lost" in capsys.readouterr().out
    assert desk.kept == []


def test_a_disk_that_hangs_is_not_waited_for_for_ever(
    desk: Desk, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(module, "DISK_WAIT", 0.05)
    desk.recorder(mute=True)
    desk.add(0, module.KEEP)
    desk.ledger.end(end("a"))
    assert "not on disk yet" in capsys.readouterr().out
