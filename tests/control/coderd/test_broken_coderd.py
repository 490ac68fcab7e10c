"""A coderd that sends nonsense: an error, a new connection, nothing left behind."""

from __future__ import annotations

import contextlib
import os
import struct
import threading
from collections.abc import Iterator

import pytest
import structlog
from coderd_talk import Talk, eventually
from fake_coderd import FakeCoderd, encode_frame
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from aigateway.actors.control.coderd.wire.yamux import Limits
from aigateway.actors.control.messages import Caller, Denied, Unavailable

TOKEN = "tok-alice-secret"
QUICK = Limits(keepalive_interval=0.1, keepalive_timeout=0.3)


@pytest.fixture(scope="module")
def coderd() -> Iterator[FakeCoderd]:
    with FakeCoderd() as coderd:
        coderd.deployment.add_user("alice", TOKEN)
        yield coderd


@pytest.fixture(scope="module")
def talk(coderd: FakeCoderd) -> Iterator[Talk]:
    with Talk(coderd, limits=QUICK, call_timeout=0.5, actor={"providers": None}) as talk:
        yield talk


def yamux(kind: int, flags: int, stream: int, length: int | None, body: bytes) -> bytes:
    size = len(body) if length is None else length
    return struct.pack(">BBHII", 0, kind, flags, stream, size) + body


def drpc(kind: int, stream: int, message: int, body: bytes) -> bytes:
    return bytes((kind, stream, message, len(body))) + body


small = st.integers(0, 5)
streams = st.sampled_from([1, 1, 1, 3, 3, 5, 0, 2])
"""Mostly those that the gateway has opened."""
calls = small | st.integers(100, 127)
"""Of which the latter have not been made."""
bodies = st.one_of(
    st.binary(max_size=40),
    st.builds(drpc, st.integers(0, 255), calls, small, st.binary(max_size=20)),
)
frames = st.builds(
    yamux,
    st.integers(0, 4),
    st.sampled_from([0, 1, 2, 4, 8, 6, 15]),
    streams,
    st.one_of(st.none(), st.none(), st.integers(0, 300_000)),
    bodies,
)


@given(
    st.lists(frames | st.binary(max_size=30), min_size=1, max_size=8),
    st.booleans(),
    st.booleans(),
)
@settings(max_examples=50, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_nonsense_costs_the_connection_at_most(
    talk: Talk, coderd: FakeCoderd, nonsense: list[bytes], one_message: bool, early: bool
) -> None:
    messages = [b"".join(nonsense)] if one_message else nonsense
    data = b"".join(encode_frame(2, message) for message in messages)
    with structlog.testing.capture_logs() as logs:
        (greet_with if early else interrupt_with)(talk, coderd, data)
        # It may have to find out first that this connection answers nothing.
        eventually(lambda: isinstance(talk.authorize(TOKEN), Caller))
        eventually(lambda: len(coderd.open_connections()) == 1)
    assert coderd.open_connections()[0].streams <= 4
    # Whatever it was, it was foreseen.
    assert not [entry for entry in logs if entry["log_level"] == "error"]


def greet_with(talk: Talk, coderd: FakeCoderd, data: bytes) -> None:
    """Send this right behind the upgrade."""
    coderd.send_after_upgrade(data)
    count = len(coderd.connections)
    coderd.cut_connections()
    coderd.wait_for(lambda: len(coderd.connections) > count)
    coderd.send_after_upgrade(b"")


def interrupt_with(talk: Talk, coderd: FakeCoderd, data: bytes) -> None:
    """Send this while calls are on their way, and go on."""
    eventually(lambda: isinstance(talk.authorize(TOKEN), Caller))
    coderd.faults.hang("IsAuthorized", times=2)
    calls = coderd.deployment.count_calls("IsAuthorized")
    replies = [talk.begin_authorize(TOKEN), talk.begin_authorize("tok-bob-secret")]
    coderd.wait_for_call("IsAuthorized", calls + 2)
    connection = coderd.open_connections()[0]
    with connection._lock, contextlib.suppress(OSError):
        connection._sock.sendall(data)
    for reply in replies:
        assert isinstance(reply.get(timeout=10), Caller | Denied | Unavailable)
    coderd.faults.clear()


def test_nothing_is_left_behind(talk: Talk, coderd: FakeCoderd) -> None:
    """After all that nonsense."""
    talk.wait_connected()

    def ours() -> int:
        return sum(thread.name.startswith("control-plane-") for thread in threading.enumerate())

    eventually(lambda: ours() <= 4 + 2, timeout=15)
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(5):
        count = len(coderd.connections)
        coderd.cut_connections()
        coderd.wait_for(lambda count=count: len(coderd.connections) > count)
        eventually(lambda: isinstance(talk.authorize(TOKEN), Caller))
    eventually(lambda: len(os.listdir("/proc/self/fd")) <= before + 1, timeout=15)


@pytest.mark.parametrize(
    "raw",
    [
        encode_frame(1, b"text"),
        encode_frame(2, b"\x09" * 12),
        encode_frame(2, yamux(3, 0, 0, 1, b"")),
        encode_frame(2, yamux(0, 1, 1, None, b"")),
        encode_frame(2, b"x" * 262145),
        encode_frame(9, b"x" * 126),
        b"\xff\xff\xff\xff",
    ],
)
def test_a_request_survives_a_connection_that_breaks(
    coderd: FakeCoderd, talk: Talk, raw: bytes
) -> None:
    eventually(lambda: isinstance(talk.authorize(TOKEN), Caller))
    coderd.faults.hang("IsAuthorized", times=1)
    calls = coderd.deployment.count_calls("IsAuthorized")
    reply = talk.begin_authorize(TOKEN)
    coderd.wait_for_call("IsAuthorized", calls + 1)
    connection = coderd.open_connections()[0]
    with connection._lock:
        connection._sock.sendall(raw)
    assert isinstance(reply.get(timeout=10), Caller)
    assert connection.closed.wait(10)
    eventually(lambda: isinstance(talk.authorize(TOKEN), Caller))


def test_an_error_of_our_own_in_reading_is_not_the_end(
    coderd: FakeCoderd, talk: Talk, monkeypatch: pytest.MonkeyPatch
) -> None:
    from aigateway.actors.control.coderd import _session

    eventually(lambda: isinstance(talk.authorize(TOKEN), Caller))
    real = _session.RpcClient.receive_data
    surprises = [RuntimeError("surprise")]

    def receive_data(self: _session.RpcClient, data: bytes) -> None:
        if surprises:
            raise surprises.pop()
        real(self, data)

    monkeypatch.setattr(_session.RpcClient, "receive_data", receive_data)
    eventually(lambda: isinstance(talk.authorize(TOKEN), Caller))
    assert not surprises
