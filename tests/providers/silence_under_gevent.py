"""The watch over silent answers, and turns for others, which are there only where sockets belong to
greenlets.

Run by ``test_providers_under_gevent.py`` in a process of its own.
"""

from __future__ import annotations

import socket
import threading
import time
from contextlib import ExitStack, suppress

import pytest
from imitation_provider import Close, Stall, WaitFor, answer, event, stream
from provider_rig import FakeRecording, running

from aigateway.actors.upstream import silence
from aigateway.actors.upstream.errors import Quiet, UpstreamCut
from aigateway.actors.upstream.exchange import TURN

TICK, SHORTEST = 0.02, 0.05
ONE, TWO = event({"n": 1}), event({"n": 2})


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(silence, "TICK", TICK)
    monkeypatch.setattr(silence, "SHORTEST", SHORTEST)


def test_silence_is_told_again_and_again_and_reading_goes_on(scripted_provider):
    gate = threading.Event()
    scripted_provider.play(stream([ONE, WaitFor(gate), TWO]))
    with running(scripted_provider.url) as rig:
        opened = rig.open()
        exchange = opened.exchange
        exchange.set_quiet(SHORTEST)
        assert exchange.connection.sock.gettimeout() is None
        assert exchange.read() == ONE
        for _ in range(3):
            began = time.monotonic()
            with pytest.raises(Quiet):
                exchange.read()
            assert time.monotonic() - began >= SHORTEST
        gate.set()
        assert rig.finish(opened) == TWO
        # The next request on this connection has its own patience.
        scripted_provider.play(answer("ok"))
        assert rig.call() == (200, b"ok")
        assert rig.settle().counters.connections_reused == 1


def test_a_reader_that_hears_something_in_time_is_left_alone(scripted_provider):
    pauses = [threading.Event() for _ in range(8)]
    parts = [part for gate in pauses for part in (ONE, WaitFor(gate))]
    scripted_provider.play(stream([*parts, TWO]))
    with running(scripted_provider.url) as rig:
        opened = rig.open()
        opened.exchange.set_quiet(20 * SHORTEST)
        heard = b""
        for gate in pauses:
            heard += opened.exchange.read()
            threading.Timer(2 * TICK, gate.set).start()
        assert rig.finish(opened) == heard[len(ONE) * 8 :] + TWO
    assert heard == ONE * 8


def test_a_holder_that_is_busy_elsewhere_is_not_interrupted(scripted_provider):
    gate = threading.Event()
    scripted_provider.play(stream([ONE, WaitFor(gate), TWO]))
    with running(scripted_provider.url) as rig:
        opened = rig.open()
        opened.exchange.set_quiet(SHORTEST)
        assert opened.exchange.read() == ONE
        # As when the client takes nothing: longer than the patience, but not waiting here.
        threading.Event().wait(4 * SHORTEST)
        gate.set()
        assert rig.finish(opened) == TWO


def test_a_cut_is_still_a_cut(scripted_provider):
    gate = threading.Event()
    scripted_provider.play([*stream([ONE, WaitFor(gate)], end=False), Close()])
    with running(scripted_provider.url) as rig:
        opened = rig.open()
        opened.exchange.set_quiet(20.0)
        assert opened.exchange.read() == ONE
        gate.set()
        with pytest.raises(UpstreamCut):
            opened.exchange.read()
        opened.exchange.close()
        rig.give_back(opened)
        rig.settle()


def test_a_silent_drain_ends(scripted_provider):
    scripted_provider.play([*stream([ONE], end=False), Stall()])
    with running(scripted_provider.url, idle_timeout=SHORTEST) as rig:
        recording = FakeRecording()
        rig.drain(rig.open(), recording)
        assert recording.closed.wait(20)
        assert recording.told == ["lost client", "close"]
        assert scripted_provider.requests[0].client_left.wait(20)


def test_an_answer_that_arrives_faster_than_it_is_read_lets_others_on(
    scripted_provider, monkeypatch
):
    gate = threading.Event()
    scripted_provider.play(stream([ONE, WaitFor(gate), TWO]))
    with ExitStack() as stack, running(scripted_provider.url) as rig:
        exchange = rig.open().exchange
        assert exchange.read() == ONE
        turns: list[float] = []
        asking, answering = (stack.enter_context(end) for end in socket.socketpair())

        def answers() -> None:
            with suppress(OSError):
                while said := answering.recv(1):
                    answering.send(said)

        def others() -> None:
            # They wait for what arrives, as requests do, and not for a turn alone.
            with suppress(OSError):
                asking.send(b"?")
                while asking.recv(1):
                    turns.append(time.monotonic())
                    asking.send(b"?")

        for each in (answers, others):
            threading.Thread(target=each, daemon=True).start()
        chunk = b"1f4\r\n" + b"x" * 500 + b"\r\n"

        class Torrent:
            """There is always something to read, so nobody ever waits here."""

            def recv(self, _size: int) -> bytes:
                return chunk

        monkeypatch.setattr(exchange.connection, "incoming", Torrent())
        until = time.monotonic() + 20 * TURN
        while time.monotonic() < until:
            assert exchange.read() == b"x" * 500
        asking.shutdown(socket.SHUT_RDWR)
        gate.set()
        # On a busy machine a turn takes longer; without turns nobody would have come.
        assert len(turns) >= 3
        exchange.close()
