"""Workers and exchanges: nobody is lost, doubled, or left waiting, whoever dies when."""

from __future__ import annotations

import threading
from functools import partial
from typing import Any

import pykka
from imitation_provider import (
    Reset,
    ScriptedProvider,
    Stall,
    WaitFor,
    answer,
    event,
    stream,
)
from provider_rig import KEYS, OWN, PATIENCE, FakeRecording, running, until
from structlog.testing import capture_logs

from aigateway.actors.actor.base import fail
from aigateway.actors.providers.request import Opened, Refused, Retire
from aigateway.actors.providers.worker_pool import WorkerPool

EVENTS = [event({"n": 1}, "first"), event({"n": 2}, "second")]
ONE = {"max_connections": 1}


def gone(ref: pykka.ActorRef[Any]) -> bool:
    return not ref.is_alive()


def opened_by(reply: Any) -> Opened:
    opened = reply.get(timeout=PATIENCE)
    assert isinstance(opened, Opened), opened
    return opened


# -- coming and going


def test_connections_are_opened_when_needed_and_the_last_used_is_used_first(scripted_provider):
    gate = threading.Event()
    for _ in range(3):
        scripted_provider.play(stream([EVENTS[0], WaitFor(gate)]))
    scripted_provider.play(answer("ok"))
    with running(scripted_provider.url) as rig:
        opened = [rig.open() for _ in range(3)]
        connections = [each.exchange.connection for each in opened]
        assert (rig.state.busy, rig.state.idle) == (3, 0)
        gate.set()
        for exchange in opened:
            rig.finish(exchange)
        assert rig.settle().idle == 3
        last = rig.open()
        assert last.exchange.connection is connections[-1]
        assert (rig.state.busy, rig.state.idle) == (1, 2)
        rig.finish(last)
        counters = rig.settle().counters
    assert (counters.connections_opened, counters.connections_reused) == (3, 1)


def test_as_many_streams_as_connections_are_open_at_once_with_the_workers_that_ask(
    scripted_provider,
):
    gate, late = threading.Event(), threading.Event()
    for _ in range(8):
        scripted_provider.play(stream([EVENTS[0], WaitFor(gate), EVENTS[1]]))
    scripted_provider.otherwise = [WaitFor(late), *answer("ok")]
    with running(scripted_provider.url, max_connections=8) as rig:
        opened = [rig.open() for _ in range(8)]
        state = rig.state
        # Each of them was there for the next request as soon as its answer had begun.
        assert [(worker.state, worker.exchanges) for worker in state.workers] == [("idle", 8)]
        assert state.workers[0].role == "provider/anthropic/worker-1"
        assert (state.busy, state.idle) == (8, 0)
        # The connections are what is limited.
        ninth = rig.tell()
        assert rig.state.waiting == 1
        gate.set()
        for each in opened:
            assert rig.finish(each) == b"".join(EVENTS)
        until(lambda: rig.state.waiting == 0)
        assert (rig.state.busy, rig.state.idle) == (1, 7)
        late.set()
        assert rig.finish(opened_by(ninth)) == b"ok"
        state = rig.settle()
    assert (state.counters.connections_opened, state.idle) == (8, 8)


def test_streams_outlive_the_worker_that_asked_for_them(scripted_provider, monkeypatch):
    monkeypatch.setattr("aigateway.actors.providers.provider.REAP_EVERY", 0.02)
    monkeypatch.setattr("aigateway.actors.providers.provider.IDLE_SECONDS", 0.02)
    gate = threading.Event()
    for _ in range(2):
        scripted_provider.play(stream([EVENTS[0], WaitFor(gate), EVENTS[1]]))
    with running(scripted_provider.url) as rig:
        opened = [rig.open() for _ in range(2)]
        until(lambda: rig.state.workers == ())
        assert rig.state.busy == 2
        drained = FakeRecording()
        rig.drain(opened[1], drained)
        gate.set()
        assert rig.finish(opened[0]) == b"".join(EVENTS)
        assert drained.closed.wait(PATIENCE)
        assert drained.received == b"".join(EVENTS)
        rig.settle()


def test_an_open_connection_is_preferred(scripted_provider):
    scripted_provider.play(answer("ok"))
    scripted_provider.play(answer("ok", framing="close"))
    scripted_provider.play(answer("ok"))
    with running(scripted_provider.url) as rig:
        kept, closed = rig.open(), rig.open()
        rig.finish(kept)
        rig.finish(closed)
        assert rig.call() == (200, b"ok")
        assert rig.settle().counters.connections_opened == 2


def test_idle_workers_are_stopped_and_idle_connections_closed_after_a_while(
    scripted_provider, monkeypatch
):
    monkeypatch.setattr("aigateway.actors.providers.provider.REAP_EVERY", 0.02)
    monkeypatch.setattr("aigateway.actors.providers.provider.IDLE_SECONDS", 0.02)
    scripted_provider.otherwise = answer("ok")
    with running(scripted_provider.url) as rig:
        rig.finish(rig.open())
        until(lambda: rig.state.workers == () and rig.state.idle == 0)
        scripted_provider.wait_until_idle()
        assert rig.call() == (200, b"ok")


def test_a_misconfigured_provider_says_so_and_lives(scripted_provider, tmp_path):
    for settings in (
        {"base_url": "ftp://h"},
        {"base_url": "http://h:99999"},
        {"base_url": "https://h", "ca_file": str(tmp_path / "none.pem")},
        {"proxy": "socks4://h"},
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


def test_an_exchange_given_back_twice_frees_its_connection_once(scripted_provider):
    scripted_provider.otherwise = answer("ok")
    with running(scripted_provider.url) as rig:
        first = rig.open()
        rig.finish(first)
        rig.give_back(first)
        # If it were free twice, both requests would run on it.
        second, third = rig.open(), rig.open()
        assert second.exchange.connection is not third.exchange.connection
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
    monkeypatch.setattr("aigateway.actors.providers.pauses.MAX_PAUSED", 0)
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
        with capture_logs() as logs:
            waiting = [rig.tell(body=b"%d" % number) for number in range(3)]
            assert rig.state.waiting == 3
        # That they wait is said, and once.
        (told,) = (line for line in logs if "requests wait for one" in line["event"])
        assert (told["provider"], told["connections"]) == ("anthropic", 1)
        gate.set()
        assert rig.finish(opened_by(first)) == b"first"
        for number, reply in enumerate(waiting):
            assert rig.finish(opened_by(reply)) == b"%d" % number
        assert rig.settle().counters.connections_opened == 1


def test_more_than_enough_do_not_wait(scripted_provider, monkeypatch):
    monkeypatch.setattr(
        "aigateway.actors.providers.provider.WorkerPool", partial(WorkerPool, queue=1, wait=0.05)
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
