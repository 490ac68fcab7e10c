"""Answers whose client has gone, and what is kept of a request that is over."""

from __future__ import annotations

import gc
import threading
import weakref

import pytest
from imitation_provider import (
    Close,
    Reset,
    Stall,
    WaitFor,
    answer,
    event,
    stream,
)
from provider_rig import OWN, PATIENCE, FakeRecording, running, until

from aigateway.actors.providers.provider import ProviderLimits
from aigateway.actors.providers.request import Opened

EVENTS = [event({"n": 1}, "first"), event({"n": 2}, "second")]
ONE = {"max_connections": 1}


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
        # Its worker is there for the next request.
        assert [worker.state for worker in rig.settle().workers] == ["idle"]


@pytest.mark.parametrize("moment", ["while it waits", "before it reads on"])
def test_a_drain_can_be_broken_off_from_outside(scripted_provider, moment):
    scripted_provider.play([*stream(EVENTS, end=False), Stall()])
    with running(scripted_provider.url) as rig:
        opened = rig.open()
        recording = FakeRecording()
        if moment == "before it reads on":
            opened.exchange.interrupt("the process ends")
        rig.drain(opened, recording)
        if moment == "while it waits":
            assert recording.begun.wait(PATIENCE)
            opened.exchange.interrupt("the process ends")
        assert recording.closed.wait(PATIENCE)
        assert recording.told == ["lost client", "close"]
        assert [worker.state for worker in rig.settle().workers] == ["idle"]


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
