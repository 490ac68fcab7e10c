"""Workers and exchanges: nobody is lost, doubled, or left waiting, whoever dies when."""

from __future__ import annotations

import gc
import threading
import weakref
from functools import partial
from typing import Any

import pykka
import pytest
from imitation_provider import (
    Close,
    Reset,
    ScriptedProvider,
    Stall,
    WaitFor,
    answer,
    event,
    stream,
)
from provider_rig import KEYS, OWN, PATIENCE, FakeRecording, read_all, running, until

from aigateway.actors.actor import ActorDied, Crash, fail
from aigateway.actors.providers.adapter import UpstreamAdapter
from aigateway.actors.providers.messages import GetProviderState, Opened, Refused, Retire
from aigateway.actors.providers.provider import ProviderLimits
from aigateway.actors.providers.roster import Roster
from aigateway.actors.providers.worker import UpstreamWorker

EVENTS = [event({"n": 1}, "first"), event({"n": 2}, "second")]
ONE = {"max_connections": 1}


def gone(ref: pykka.ActorRef[Any]) -> bool:
    return not ref.is_alive()


def opened_by(reply: Any) -> Opened:
    opened = reply.get(timeout=PATIENCE)
    assert isinstance(opened, Opened), opened
    return opened


# -- coming and going


def test_workers_are_started_when_needed_and_the_last_used_is_used_first(scripted_provider):
    scripted_provider.otherwise = answer("ok")
    with running(scripted_provider.url) as rig:
        opened = [rig.open() for _ in range(3)]
        assert rig.state.busy == 3
        for exchange in opened:
            rig.finish(exchange)
        assert rig.settle().idle == 3
        last = rig.open()
        assert last.worker == opened[-1].worker
        rig.finish(last)
        state = rig.settle()
    assert [worker.exchanges for worker in state.workers] == [1, 1, 2]
    assert state.workers[0].role == "provider/anthropic/worker-1"
    counters = state.counters
    assert (counters.connections_opened, counters.connections_reused) == (3, 1)


def test_a_worker_with_an_open_connection_is_preferred(scripted_provider):
    scripted_provider.play(answer("ok"))
    scripted_provider.play(answer("ok", framing="close"))
    scripted_provider.play(answer("ok"))
    with running(scripted_provider.url) as rig:
        kept, closed = rig.open(), rig.open()
        rig.finish(kept)
        rig.finish(closed)
        assert rig.call() == (200, b"ok")
        assert rig.settle().counters.connections_opened == 2


def test_idle_workers_are_stopped_after_a_while(scripted_provider, monkeypatch):
    monkeypatch.setattr("aigateway.actors.providers.provider.REAP_EVERY", 0.02)
    monkeypatch.setattr("aigateway.actors.providers.provider.IDLE_SECONDS", 0.02)
    scripted_provider.otherwise = answer("ok")
    with running(scripted_provider.url) as rig:
        worker = rig.open()
        rig.finish(worker)
        until(lambda: rig.state.workers == () and gone(worker.worker))
        scripted_provider.wait_until_idle()
        assert rig.call() == (200, b"ok")


def test_a_misconfigured_provider_says_so_and_lives(scripted_provider, tmp_path):
    for settings in (
        {"base_url": "ftp://h"},
        {"base_url": "http://h:99999"},
        {"base_url": "https://h", "ca_file": str(tmp_path / "none.pem")},
        {"proxy": "socks5://h"},
        {"keys": ("same", "same")},
    ):
        url = settings.pop("base_url", scripted_provider.url)
        with running(url, **settings) as rig:
            for _ in range(2):
                refused = rig.refuse()
                assert refused.status == 503
                assert "misconfigured" in refused.message
            assert rig.state.workers == ()
            rig.ref.tell(Retire())
            until(lambda ref=rig.ref: gone(ref))


# -- giving back


def test_an_exchange_given_back_twice_frees_its_worker_once(scripted_provider):
    scripted_provider.otherwise = answer("ok")
    with running(scripted_provider.url) as rig:
        first = rig.open()
        rig.finish(first)
        rig.give_back(first)
        # If the worker were free twice, both requests would run on its connection.
        second, third = rig.open(), rig.open()
        assert second.worker != third.worker
        rig.give_back(first)
        assert rig.state.busy == 2
        assert rig.finish(second) == b"ok"
        assert rig.finish(third) == b"ok"
        assert rig.settle().idle == 2


def test_an_exchange_given_back_unread_closes_its_connection(scripted_provider):
    scripted_provider.play([*stream(EVENTS, end=False), Stall()])
    scripted_provider.play(answer("ok"))
    with running(scripted_provider.url, **ONE) as rig:
        rig.give_back(rig.open())
        assert scripted_provider.requests[0].client_left.wait(PATIENCE)
        assert rig.call() == (200, b"ok")
        assert rig.settle().counters.connections_opened == 2


def test_a_late_drain_of_an_exchange_that_was_given_back_only_ends_its_records(
    scripted_provider,
):
    gate = threading.Event()
    scripted_provider.play(answer("ok"))
    scripted_provider.play(stream([EVENTS[0], WaitFor(gate), EVENTS[1]]))
    with running(scripted_provider.url, **ONE) as rig:
        first = rig.open()
        rig.finish(first)
        second = rig.open()
        recording = FakeRecording()
        rig.drain(first, recording)
        assert recording.closed.wait(PATIENCE)
        assert recording.told == ["lost client", "close"]
        gate.set()
        assert rig.finish(second) == b"".join(EVENTS)
        assert rig.settle().counters.drains == 0


def test_a_request_that_waits_no_more_costs_its_worker_nothing(scripted_provider):
    gate = threading.Event()
    scripted_provider.play([WaitFor(gate), *stream(EVENTS, end=False), Stall()])
    scripted_provider.play(answer("ok"))
    with running(scripted_provider.url, **ONE) as rig:
        reply = rig.tell()
        scripted_provider.wait_for_request()
        assert fail(reply, TimeoutError("nobody waits any more"))
        gate.set()
        assert rig.call() == (200, b"ok")
        assert rig.settle().counters.drains_complete == 0


def test_an_answer_that_was_asked_back_and_that_nobody_waits_for_is_discarded(
    scripted_provider, monkeypatch
):
    # No retry, but the provider looks at the answer first.
    monkeypatch.setattr("aigateway.actors.providers.strategy.MAX_PAUSED", 0)
    gate = threading.Event()
    scripted_provider.play([WaitFor(gate), *answer("no", 500)])
    scripted_provider.play(answer("ok"))
    with running(scripted_provider.url, max_retries=1, **ONE) as rig:
        reply = rig.tell()
        scripted_provider.wait_for_request()
        fail(reply, TimeoutError("nobody waits any more"))
        gate.set()
        assert rig.call() == (200, b"ok")
        assert rig.settle().counters.connections_opened == 1


# -- waiting for a connection


def test_requests_wait_for_a_connection_in_their_order(scripted_provider):
    gate = threading.Event()
    scripted_provider.play([WaitFor(gate), *answer("first")])
    scripted_provider.otherwise = lambda request: answer(request.body)
    with running(scripted_provider.url, **ONE) as rig:
        first = rig.tell()
        waiting = [rig.tell(body=b"%d" % number) for number in range(3)]
        assert rig.state.waiting == 3
        gate.set()
        assert rig.finish(opened_by(first)) == b"first"
        for number, reply in enumerate(waiting):
            assert rig.finish(opened_by(reply)) == b"%d" % number
        assert rig.settle().counters.connections_opened == 1


def test_more_than_enough_do_not_wait(scripted_provider, monkeypatch):
    monkeypatch.setattr(
        "aigateway.actors.providers.provider.Roster", partial(Roster, queue=1, wait=0.05)
    )
    gate = threading.Event()
    scripted_provider.play([WaitFor(gate), *answer("first")])
    with running(scripted_provider.url, **ONE) as rig:
        first, second = rig.tell(), rig.tell()
        refused = rig.refuse()
        assert (refused.status, refused.retry_after) == (503, 1)
        assert (refused.error_type, refused.sent) == ("overloaded", False)
        # The one that may wait does not wait for ever.
        late = second.get(timeout=PATIENCE)
        assert isinstance(late, Refused)
        assert late.status == 503
        assert rig.counters.queue_full == 2
        gate.set()
        assert rig.finish(opened_by(first)) == b"first"
    assert len(scripted_provider.requests) == 1


def test_a_failed_request_makes_room_for_the_next(scripted_provider):
    scripted_provider.play([Reset()])
    scripted_provider.play(answer("ok"))
    with running(scripted_provider.url, **ONE) as rig:
        first, second = rig.tell(), rig.tell()
        assert isinstance(first.get(timeout=PATIENCE), Refused)
        assert rig.finish(opened_by(second)) == b"ok"


# -- deaths


class Fault(RuntimeError):
    pass


@pytest.fixture
def faulty_sending(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """Each True in the list makes a worker die in place of sending."""
    faults: list[bool] = []
    real = UpstreamAdapter.exchange

    def exchange(self: UpstreamAdapter, *args: Any) -> Any:
        if faults and faults.pop(0):
            raise Fault
        return real(self, *args)

    monkeypatch.setattr(UpstreamAdapter, "exchange", exchange)
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
        idle = rig.open()
        rig.finish(idle)
        rig.settle()
        idle.worker.tell(Crash())
        assert rig.call() == (200, b"ok")
        assert rig.settle().idle == 1


def test_a_worker_that_dies_while_its_exchange_is_out_leaves_it_to_its_holder(scripted_provider):
    gate = threading.Event()
    scripted_provider.play(stream([EVENTS[0], WaitFor(gate), EVENTS[1]]))
    scripted_provider.play(answer("ok"))
    with running(scripted_provider.url, **ONE) as rig:
        opened = rig.open()
        opened.worker.tell(Crash())
        until(lambda: rig.state.workers == ())
        gate.set()
        assert rig.finish(opened) == b"".join(EVENTS)
        # There is no worker for the connection any more, so it is closed.
        scripted_provider.wait_until_idle()
        assert rig.call() == (200, b"ok")


def test_a_drain_whose_worker_is_dead_ends_the_records(scripted_provider):
    scripted_provider.play([*stream(EVENTS, end=False), Stall()])
    with running(scripted_provider.url) as rig:
        opened = rig.open()
        opened.worker.tell(Crash())
        until(lambda: rig.state.workers == ())
        recording = FakeRecording()
        rig.drain(opened, recording)
        assert recording.closed.wait(PATIENCE)
        assert recording.told == ["lost client", "close"]
        assert scripted_provider.requests[0].client_left.wait(PATIENCE)


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

            def start(*_args: object, **_options: object) -> None:
                raise RuntimeError("can't start new thread")

            patch.setattr(UpstreamWorker, "start", start)
            assert rig.refuse().status == 503
        assert rig.call() == (200, b"ok")


# -- the provider stops


def test_a_retired_provider_ends_when_its_last_exchange_is_back(scripted_provider):
    gate = threading.Event()
    scripted_provider.play(stream([EVENTS[0], WaitFor(gate), EVENTS[1]]))
    scripted_provider.otherwise = answer("ok")
    with running(scripted_provider.url) as rig:
        idle = rig.open(), rig.open()
        rig.finish(idle[1])
        streaming = idle[0]
        rig.ref.tell(Retire())
        until(lambda: len(rig.state.workers) == 1)
        # Who still found it is served.
        assert rig.call() == (200, b"ok")
        gate.set()
        rig.finish(streaming)
        until(lambda: gone(rig.ref))
        until(lambda: gone(streaming.worker))
    scripted_provider.wait_until_idle()


def test_a_retired_provider_waits_for_retries_and_drains(scripted_provider, monkeypatch):
    monkeypatch.setattr("aigateway.actors.providers.strategy.FIRST_PAUSE", 0.05)
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
        until(lambda: gone(opened.worker))
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

    monkeypatch.setattr(UpstreamAdapter, "exchange", exchange)
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


# -- drains


@pytest.mark.parametrize("framing", ["whole", "without its last chunk"])
def test_a_drained_answer_is_read_to_its_end(scripted_provider, framing):
    gate = threading.Event()
    whole = framing == "whole"
    steps = stream([EVENTS[0], WaitFor(gate), EVENTS[1]], end=whole)
    scripted_provider.play([*steps, *([] if whole else [Close()])])
    scripted_provider.play(answer("ok"))
    with running(scripted_provider.url, **ONE) as rig:
        opened = rig.open()
        opened.exchange.set_quiet(PATIENCE)
        assert opened.exchange.read() == EVENTS[0]
        recording = FakeRecording(last=EVENTS[1])
        rig.drain(opened, recording)
        until(lambda: rig.state.draining == 1)
        # A holder that has given it away cannot free its worker.
        rig.give_back(opened)
        assert rig.state.draining == 1
        gate.set()
        assert recording.closed.wait(PATIENCE)
        assert recording.received == EVENTS[1]
        assert recording.told[0].startswith("end framed=")
        assert recording.told[1:] == ["close"]
        counters = rig.settle().counters
        assert (counters.drains, counters.drains_complete) == (1, 1)
        assert rig.call() == (200, b"ok")
        assert rig.settle().counters.connections_reused == (1 if whole else 0)


@pytest.mark.parametrize("how", [Reset(), Close()])
def test_a_cut_drain_is_recorded_as_incomplete(scripted_provider, how):
    gate = threading.Event()
    scripted_provider.play([*stream([EVENTS[0], WaitFor(gate)], end=False), how])
    with running(scripted_provider.url) as rig:
        recording = FakeRecording()
        rig.drain(rig.open(), recording)
        gate.set()
        assert recording.closed.wait(PATIENCE)
        assert recording.told == ["lost client", "close"]
        counters = rig.settle().counters
        assert (counters.drains, counters.drains_complete) == (1, 0)


@pytest.mark.parametrize("limit", ["time", "silence"])
def test_a_drain_takes_only_so_long(scripted_provider, limit):
    scripted_provider.play([*stream(EVENTS, end=False), Stall()])
    settings = {"idle_timeout": 0.05} if limit == "silence" else {}
    limits = ProviderLimits(drain_timeout=PATIENCE if limit == "silence" else 0.05)
    with running(scripted_provider.url, limits=limits, **settings) as rig:
        recording = FakeRecording()
        rig.drain(rig.open(), recording)
        assert recording.closed.wait(PATIENCE)
        assert recording.told == ["lost client", "close"]
        assert scripted_provider.requests[0].client_left.wait(PATIENCE)
        rig.settle()


def test_only_so_many_drain_at_once_and_the_provider_waits_for_no_disk(scripted_provider):
    for _ in range(3):
        scripted_provider.play([*stream(EVENTS, end=False), Stall()])
    scripted_provider.play(answer("ok"))
    disk = threading.Event()

    class SlowRecording(FakeRecording):
        def close(self) -> None:
            disk.wait(PATIENCE)
            super().close()

    with running(scripted_provider.url, limits=ProviderLimits(drains=1, drain_timeout=0.5)) as rig:
        first, *others = (rig.open() for _ in range(3))
        recordings = [FakeRecording(), SlowRecording(), SlowRecording()]
        rig.drain(first, recordings[0])
        for opened, recording in zip(others, recordings[1:], strict=True):
            rig.drain(opened, recording)
        assert all(asked.client_left.wait(PATIENCE) for asked in scripted_provider.requests[1:3])
        # While those two wait for the disk everything else goes on.
        assert rig.call(credential=OWN) == (200, b"ok")
        state = rig.state
        assert (state.busy, state.counters.drains_refused) == (2, 2)
        disk.set()
        for recording in recordings:
            assert recording.closed.wait(PATIENCE)
            assert recording.told == ["lost client", "close"]
        assert rig.settle().counters.drains == 1


class Headers(list[tuple[str, str]]):
    """Headers that can be watched; a body is kept as long as they are."""


@pytest.mark.parametrize("steps", [stream(EVENTS, end=False), [Reset()]])
def test_a_worker_forgets_a_request_when_it_is_answered(scripted_provider, steps):
    scripted_provider.play([*steps, Stall()])
    with running(scripted_provider.url) as rig:
        headers = Headers()
        watched = weakref.ref(headers)
        result = rig.perform(headers=headers)
        del headers
        # Asking for the state replaces the last message of the provider, not of the worker.
        until(lambda: rig.state.name and watched() is None)
        if isinstance(result, Opened):
            rig.give_back(result)


def test_an_exchange_is_gone_when_it_was_given_back(scripted_provider):
    scripted_provider.otherwise = answer("ok")
    with running(scripted_provider.url) as rig:
        gc.collect()
        gc.disable()
        try:
            opened = rig.open()
            watched = weakref.ref(opened.exchange)
            rig.finish(opened)
            del opened
            # The actors keep their last messages until the next one.
            until(lambda: rig.call() and rig.state.name and watched() is None)
        finally:
            gc.enable()


def test_secrets_are_in_no_repr(scripted_provider):
    scripted_provider.otherwise = answer("ok")
    with running(scripted_provider.url) as rig:
        opened = rig.open(credential=OWN)
        shown = repr(opened) + repr(rig.state) + repr(rig.config)
        rig.finish(opened)
    for secret in (*KEYS, OWN.secret, "sk-mine-0123456789abcdef"):
        assert secret not in shown


def test_one_provider_serves_many_clients_at_once():
    with ScriptedProvider(otherwise=answer("ok")) as provider, running(provider.url) as rig:
        results = []

        def client() -> None:
            for _ in range(10):
                results.append(rig.call())

        threads = [threading.Thread(target=client) for _ in range(16)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(PATIENCE)
        assert results == [(200, b"ok")] * 160
        counters = rig.settle().counters
        assert counters.attempts == 160 == len(provider.requests)
        assert counters.connections_opened + counters.connections_reused == 160
        assert counters.connections_opened == provider.connections <= 16
