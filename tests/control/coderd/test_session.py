"""A session on a channel whose other end is the test: who is told what, and when."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterator
from typing import cast

import pytest
from attrs import define, field

from aigateway.actors.control.coderd import _session
from aigateway.actors.control.coderd._alarms import Alarms
from aigateway.actors.control.coderd._channel import Channel, ChannelError
from aigateway.actors.control.coderd._session import Session
from aigateway.actors.control.coderd.versions import ApiVersion
from aigateway.actors.control.coderd.wire.rpc_client import RpcClient
from aigateway.actors.control.coderd.wire.yamux import Limits
from aigateway.actors.control.rpc_results import Failure, RpcAnswer, RpcResult

PING = bytes.fromhex("000200010000000000000007")
CLOSED_HERE = Failure("the connection was closed here")


def answer(*streams: int) -> bytes:
    """An answer without data and its end, on each of these streams."""
    head, body = bytes.fromhex("00000002"), bytes.fromhex("00000008 05010100 0d010200")
    return b"".join(head + stream.to_bytes(4, "big") + body for stream in streams)


@define(eq=False)
class StubChannel:
    """A channel whose other end is the test."""

    broken: bool = False
    sent: queue.Queue[bytes] = field(factory=queue.Queue)
    arriving: queue.Queue[bytes] = field(factory=queue.Queue)
    released: threading.Event = field(factory=threading.Event)
    was_reset: bool = False

    def send_now(self, data: bytes) -> bool:
        if self.broken:
            raise ChannelError("send: broken pipe")
        self.sent.put(data)
        return True

    def flush(self) -> None:
        pass

    def receive(self) -> bytes:
        return self.arriving.get(timeout=10)

    def end(self) -> None:
        """What has arrived is still received."""

    def abort(self) -> None:
        self.arriving.put(b"")

    close = abort

    def reset(self) -> None:
        self.was_reset = True
        self.abort()

    def release(self) -> None:
        self.released.set()


@pytest.fixture
def alarms() -> Iterator[Alarms]:
    alarms = Alarms("test-alarms")
    alarms.start()
    yield alarms
    alarms.stop()


class Rig:
    def __init__(self, alarms: Alarms, limits: Limits | None = None) -> None:
        self.channel = StubChannel()
        self.outcomes: list[RpcResult] = []
        self.turns: queue.Queue[Callable[[], None]] = queue.Queue()
        self.ends: queue.Queue[str] = queue.Queue()
        self.session = Session(
            cast(Channel, self.channel),
            ApiVersion(1, 4),
            alarms,
            self.turns.put,
            self.ends.put,
            client=lambda now: RpcClient(now, limits=limits),
        )

    def call(self, *, can_wait: bool = False) -> None:
        self.session.call("/x", b"", 10.0, self.outcomes.append, can_wait=can_wait)

    def take_turn(self) -> None:
        self.turns.get(timeout=10)()

    def is_over(self) -> bool:
        return self.channel.released.wait(10) and self.turns.empty()


def test_calls_leave_together_and_their_outcomes_come_together(alarms: Alarms) -> None:
    rig = Rig(alarms)
    for _ in range(3):
        rig.call()
    assert rig.channel.sent.empty()
    rig.session.flush()
    assert rig.channel.sent.get(timeout=10).count(b"/x") == 3
    rig.channel.arriving.put(answer(1, 3, 5))
    rig.take_turn()
    assert rig.outcomes == [RpcAnswer(b"")] * 3
    assert rig.channel.sent.empty()
    rig.session.close()
    assert rig.is_over()


def test_a_call_that_can_wait_leaves_with_the_next_one_that_cannot(
    alarms: Alarms, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_session, "_HOLD", 1000.0)
    rig = Rig(alarms)
    rig.call()
    rig.session.flush_pressing()
    assert rig.channel.sent.get(timeout=10).count(b"/x") == 1
    rig.call(can_wait=True)
    rig.session.flush_pressing()
    assert rig.channel.sent.empty()
    rig.call()
    rig.session.flush_pressing()
    assert rig.channel.sent.get(timeout=10).count(b"/x") == 2
    rig.session.close()
    rig.take_turn()
    assert rig.is_over()


def test_a_call_that_can_wait_leaves_after_a_moment_without_another(alarms: Alarms) -> None:
    rig = Rig(alarms)
    rig.call()
    rig.session.flush_pressing()
    rig.channel.sent.get(timeout=10)
    for _ in range(2):
        rig.call(can_wait=True)
        rig.session.flush_pressing()
        if rig.channel.sent.empty():
            rig.take_turn()
        assert rig.channel.sent.get(timeout=10).count(b"/x") == 1
    rig.session.close()
    rig.take_turn()
    assert rig.is_over()


def test_a_call_that_can_wait_leaves_at_once_where_nothing_else_is_going_on(
    alarms: Alarms,
) -> None:
    rig = Rig(alarms)
    rig.call(can_wait=True)
    rig.session.flush_pressing()
    assert rig.channel.sent.get(timeout=10).count(b"/x") == 1
    rig.session.close()
    rig.take_turn()
    assert rig.is_over()


def test_many_calls_that_can_wait_leave_without_another(
    alarms: Alarms, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_session, "_HOLD", 1000.0)
    rig = Rig(alarms)
    rig.call()
    rig.session.flush_pressing()
    rig.channel.sent.get(timeout=10)
    for _ in range(32):
        assert rig.channel.sent.empty()
        rig.call(can_wait=True)
        rig.session.flush_pressing()
    assert rig.channel.sent.get(timeout=10).count(b"/x") == 32
    rig.session.close()
    rig.take_turn()
    assert rig.is_over()


def test_an_answer_that_crosses_the_end_is_forgotten(alarms: Alarms) -> None:
    rig = Rig(alarms)
    rig.call()
    rig.session.flush()
    rig.session.close()
    rig.session.close()
    rig.channel.arriving.put(answer(1))
    rig.take_turn()
    assert rig.outcomes == [CLOSED_HERE]
    assert rig.is_over()
    rig.call()
    rig.session.flush()
    rig.take_turn()
    assert rig.outcomes == [CLOSED_HERE, CLOSED_HERE]
    assert rig.ends.get(timeout=10) == "the connection was closed here"
    assert rig.ends.empty()


def test_answers_that_have_arrived_count_when_sending_fails(alarms: Alarms) -> None:
    rig = Rig(alarms)
    rig.call()
    rig.session.flush()
    rig.channel.broken = True
    rig.call()
    rig.session.flush()
    # There may be another session already.
    assert rig.ends.get(timeout=10) == "send: broken pipe"
    assert rig.session.ended
    rig.call()
    rig.session.flush()
    rig.take_turn()
    assert rig.outcomes == [Failure("send: broken pipe")]
    rig.channel.arriving.put(answer(1))
    rig.take_turn()
    assert rig.outcomes[1:] == [RpcAnswer(b"")]
    rig.channel.arriving.put(b"")
    rig.take_turn()
    assert rig.outcomes[2:] == [Failure("send: broken pipe")]
    assert rig.is_over()
    assert rig.ends.empty()


def test_a_reply_to_a_ping_that_cannot_be_sent_ends_the_session(alarms: Alarms) -> None:
    rig = Rig(alarms)
    rig.channel.broken = True
    rig.channel.arriving.put(PING)
    assert rig.ends.get(timeout=10) == "send: broken pipe"
    rig.channel.arriving.put(b"")
    assert rig.is_over()


def test_what_a_silent_peer_has_not_read_is_thrown_away(alarms: Alarms) -> None:
    rig = Rig(alarms, Limits(keepalive_interval=0.01, keepalive_timeout=0.02))
    rig.call()
    rig.session.flush()
    rig.take_turn()
    assert rig.outcomes == [Failure("the peer did not answer a ping in time")]
    assert rig.channel.was_reset
    assert rig.is_over()


@pytest.mark.parametrize("how", ["end", "close"])
def test_a_peer_that_is_not_silent_may_read_to_the_end(alarms: Alarms, how: str) -> None:
    rig = Rig(alarms)
    if how == "end":
        rig.channel.arriving.put(b"")
    else:
        rig.session.close()
    assert rig.is_over()
    assert not rig.channel.was_reset
