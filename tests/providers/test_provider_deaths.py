"""Whoever dies when: no request is left waiting, no connection and no record is lost."""

from __future__ import annotations

import threading
from typing import Any

import pykka
import pytest
from imitation_provider import (
    Close,
    Stall,
    WaitFor,
    answer,
    event,
    stream,
)
from provider_rig import PATIENCE, FakeRecording, read_all, running, until

from aigateway.actors.actor.base import ActorDied, Crash
from aigateway.actors.providers.request import GetProviderState, Opened, Refused, Retire
from aigateway.actors.providers.worker import UpstreamWorker
from aigateway.actors.upstream.kept import KeptConnection

EVENTS = [event({"n": 1}, "first"), event({"n": 2}, "second")]
ONE = {"max_connections": 1}


def gone(ref: pykka.ActorRef[Any]) -> bool:
    return not ref.is_alive()


def kill_workers() -> None:
    """Let all workers of this process die."""
    for ref in pykka.ActorRegistry.get_by_class(UpstreamWorker):
        ref.tell(Crash())


def no_thread(*_args: object, **_options: object) -> None:
    raise RuntimeError("can't start new thread")


def opened_by(reply: Any) -> Opened:
    opened = reply.get(timeout=PATIENCE)
    assert isinstance(opened, Opened), opened
    return opened


# -- deaths


class Fault(RuntimeError):
    pass


@pytest.fixture
def faulty_sending(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """Each True in the list makes a worker die in place of sending."""
    faults: list[bool] = []
    real = KeptConnection.exchange

    def exchange(self: KeptConnection, *args: Any) -> Any:
        if faults and faults.pop(0):
            raise Fault
        return real(self, *args)

    monkeypatch.setattr(KeptConnection, "exchange", exchange)
    return faults


def test_a_worker_that_dies_with_a_request_is_replaced_and_the_request_refused(
    scripted_provider, faulty_sending
):
    faulty_sending.append(True)
    scripted_provider.otherwise = answer("ok")
    with running(scripted_provider.url, **ONE) as rig:
        dying, waiting = rig.tell(), rig.tell()
        refused = dying.get(timeout=PATIENCE)
        assert isinstance(refused, Refused)
        # It may have been sent, so it is not tried again.
        assert (refused.status, refused.sent) == (502, True)
        assert rig.finish(opened_by(waiting)) == b"ok"
        state = rig.settle()
    assert [worker.role for worker in state.workers] == ["provider/anthropic/worker-2"]


def test_a_worker_that_dies_before_it_has_the_request_does_not_matter(scripted_provider):
    scripted_provider.otherwise = answer("ok")
    with running(scripted_provider.url, **ONE) as rig:
        assert rig.call() == (200, b"ok")
        rig.settle()
        kill_workers()
        assert rig.call() == (200, b"ok")
        assert rig.settle().idle == 1


def test_an_exchange_that_is_out_does_not_need_the_worker_that_asked_for_it(scripted_provider):
    gate = threading.Event()
    scripted_provider.play(stream([EVENTS[0], WaitFor(gate), EVENTS[1]]))
    scripted_provider.play(answer("ok"))
    with running(scripted_provider.url, **ONE) as rig:
        opened = rig.open()
        kill_workers()
        until(lambda: rig.state.workers == ())
        gate.set()
        assert rig.finish(opened) == b"".join(EVENTS)
        assert rig.call() == (200, b"ok")
        assert rig.settle().counters.connections_opened == 1


def test_a_drain_gets_a_new_worker_when_none_is_there(scripted_provider):
    gate = threading.Event()
    scripted_provider.play(stream([EVENTS[0], WaitFor(gate), EVENTS[1]]))
    with running(scripted_provider.url) as rig:
        opened = rig.open()
        kill_workers()
        until(lambda: rig.state.workers == ())
        recording = FakeRecording()
        rig.drain(opened, recording)
        gate.set()
        assert recording.closed.wait(PATIENCE)
        assert recording.received == b"".join(EVENTS)
        assert rig.settle().counters.drains_complete == 1


def test_a_drain_for_which_the_system_has_no_thread_ends_the_records(
    scripted_provider, monkeypatch
):
    scripted_provider.play([*stream(EVENTS, end=False), Stall()])
    scripted_provider.play(answer("ok"))
    with running(scripted_provider.url, **ONE) as rig:
        opened = rig.open()
        kill_workers()
        until(lambda: rig.state.workers == ())
        recording = FakeRecording()
        with monkeypatch.context() as patch:
            patch.setattr(UpstreamWorker, "start", no_thread)
            patch.setattr("aigateway.actors.providers.workers.threading.Thread", no_thread)
            rig.drain(opened, recording)
            assert recording.closed.wait(PATIENCE)
        assert recording.told == ["lost client", "close"]
        assert scripted_provider.requests[0].client_left.wait(PATIENCE)
        # Its connection is there for others.
        assert rig.call() == (200, b"ok")


def test_a_fault_while_draining_ends_the_records_and_only_the_worker(scripted_provider):
    scripted_provider.play([*stream(EVENTS, end=False), Stall()])
    scripted_provider.play(answer("ok"))
    with running(scripted_provider.url, **ONE) as rig:
        recording = FakeRecording(fails=True)
        rig.drain(rig.open(), recording)
        assert recording.closed.wait(PATIENCE)
        assert scripted_provider.requests[0].client_left.wait(PATIENCE)
        assert rig.call() == (200, b"ok")
        assert rig.settle().draining == 0


def test_a_system_without_threads_refuses_and_recovers(scripted_provider, monkeypatch):
    scripted_provider.otherwise = answer("ok")
    with running(scripted_provider.url) as rig:
        with monkeypatch.context() as patch:
            patch.setattr(UpstreamWorker, "start", no_thread)
            assert rig.refuse().status == 503
        assert rig.call() == (200, b"ok")


# -- the provider stops


def test_a_retired_provider_ends_when_its_last_exchange_is_back(scripted_provider):
    gate = threading.Event()
    scripted_provider.play(stream([EVENTS[0], WaitFor(gate), EVENTS[1]]))
    scripted_provider.otherwise = answer("ok")
    with running(scripted_provider.url) as rig:
        streaming = rig.open()
        assert rig.call() == (200, b"ok")
        rig.ref.tell(Retire())
        until(lambda: rig.state.workers == () and rig.state.idle == 0)
        assert rig.state.busy == 1
        # Who still found it is served.
        assert rig.call() == (200, b"ok")
        gate.set()
        rig.finish(streaming)
        until(lambda: gone(rig.ref))
    scripted_provider.wait_until_idle()


def test_a_retired_provider_waits_for_retries_and_drains(scripted_provider, monkeypatch):
    monkeypatch.setattr("aigateway.actors.providers.pauses.FIRST_PAUSE", 0.05)
    gate = threading.Event()
    scripted_provider.play(answer("later", 500))
    scripted_provider.play(stream([EVENTS[0], WaitFor(gate), EVENTS[1]]))
    with running(scripted_provider.url, max_retries=1) as rig:
        reply = rig.tell()
        until(lambda: rig.state.retrying)
        rig.ref.tell(Retire())
        opened = opened_by(reply)
        recording = FakeRecording()
        rig.drain(opened, recording)
        assert recording.begun.wait(PATIENCE)
        assert not gone(rig.ref)
        gate.set()
        assert recording.closed.wait(PATIENCE)
        until(lambda: gone(rig.ref))


def test_a_provider_retired_while_idle_ends_at_once(scripted_provider):
    with running(scripted_provider.url) as rig:
        rig.ref.tell(Retire())
        until(lambda: gone(rig.ref))


def test_a_stopped_provider_leaves_running_requests_to_their_workers(scripted_provider):
    gate = threading.Event()
    scripted_provider.play([WaitFor(gate), *answer("ok")])
    with running(scripted_provider.url, **ONE) as rig:
        sent, waiting = rig.tell(), rig.tell()
        scripted_provider.wait_for_request()
        rig.ref.stop(timeout=PATIENCE)
        with pytest.raises(ActorDied) as caught:
            waiting.get(timeout=PATIENCE)
        assert not caught.value.sent
        gate.set()
        opened = opened_by(sent)
        assert read_all(opened.exchange) == b"ok"
        with pytest.raises(pykka.ActorDeadError):
            rig.give_back(opened)
        opened.exchange.close()
        until(lambda: not pykka.ActorRegistry.get_by_class(UpstreamWorker))
    scripted_provider.wait_until_idle()


@pytest.mark.parametrize(
    ("steps", "sent"), [([Close()], True), (answer("no", 401), False), (None, False)]
)
def test_what_happens_after_the_providers_death_is_told_to_the_request(
    scripted_provider, steps, sent, faulty_sending
):
    gate = threading.Event()
    scripted_provider.play([WaitFor(gate), *(steps or answer("ok"))])
    with running(scripted_provider.url) as rig:
        reply = rig.tell()
        scripted_provider.wait_for_request()
        rig.ref.stop(timeout=PATIENCE)
        gate.set()
        if steps is None:
            assert rig_reads(opened_by(reply)) == b"ok"
        elif sent:
            refused = reply.get(timeout=PATIENCE)
            assert isinstance(refused, Refused)
            assert (refused.status, refused.sent) == (502, True)
        else:
            # It was refused for its key: the successor may use another.
            with pytest.raises(ActorDied) as caught:
                reply.get(timeout=PATIENCE)
            assert not caught.value.sent
    scripted_provider.wait_until_idle()


def rig_reads(opened: Opened) -> bytes:
    try:
        return read_all(opened.exchange)
    finally:
        opened.exchange.close()


def test_a_worker_that_dies_after_its_provider_answers_its_request(scripted_provider, monkeypatch):
    begun, die = threading.Event(), threading.Event()

    def exchange(*_args: object) -> None:
        begun.set()
        die.wait(PATIENCE)
        raise Fault

    monkeypatch.setattr(KeptConnection, "exchange", exchange)
    with running(scripted_provider.url) as rig:
        reply = rig.tell()
        assert begun.wait(PATIENCE)
        rig.ref.stop(timeout=PATIENCE)
        die.set()
        with pytest.raises(ActorDied) as caught:
            reply.get(timeout=PATIENCE)
        assert caught.value.sent


def test_what_is_on_its_way_back_when_the_provider_dies_is_neither_leaked_nor_forgotten(
    scripted_provider, monkeypatch
):
    told, go = threading.Event(), threading.Event()
    scripted_provider.otherwise = stream(EVENTS)

    def wait(*_args: object) -> None:
        told.set()
        go.wait(PATIENCE)
        raise Fault

    with running(scripted_provider.url, dies=True) as rig:
        drained, given = rig.open(), rig.open()
        monkeypatch.setattr("aigateway.actors.providers.provider.Provider._state", wait)
        rig.ref.tell(GetProviderState())
        assert told.wait(PATIENCE)
        recording = FakeRecording()
        rig.drain(drained, recording)
        rig.give_back(given)
        waiting = rig.tell()
        go.set()
        assert recording.closed.wait(PATIENCE)
        with pytest.raises(ActorDied):
            waiting.get(timeout=PATIENCE)
        until(lambda: rig.deaths)
        assert isinstance(rig.deaths[0], Fault)
    scripted_provider.wait_until_idle()
