"""The byte stream over a WebSocket's messages."""

from __future__ import annotations

import contextlib
import select
import socket
import threading
import time
from collections.abc import Callable, Iterator

import pytest
from coderd_dial import Authority, dialled, echo_through
from fake_coderd import FakeCoderd, encode_frame
from fake_coderd._frames import FrameReader as ClientFrames
from hypothesis import given
from hypothesis import strategies as st

from aigateway.actors.codec.websocket import encode_frame as encode_client_frame
from aigateway.actors.control.coderd._channel import Channel, ChannelError
from aigateway.actors.control.coderd._websocket_frames import FrameReader, Notice
from aigateway.actors.control.coderd._wire_socket import Wire


@pytest.fixture
def coderd() -> Iterator[FakeCoderd]:
    with FakeCoderd() as coderd:
        yield coderd


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("tls"))


def frames(*parts: tuple[int, bytes, bool]) -> bytes:
    return b"".join(encode_frame(opcode, data, fin=fin) for opcode, data, fin in parts)


def test_messages_are_one_stream(coderd: FakeCoderd) -> None:
    coderd.send_after_upgrade(
        frames(
            (2, b"one", True),
            (2, b"", True),
            (10, b"pong", True),
            (2, b"two", False),
            (0, b"three", False),
            (9, b"ping", True),
            (0, b"four", True),
            (2, b"x" * 262144, True),
        )
    )
    with dialled(coderd) as (channel, _):
        received = b""
        while len(received) < 15 + 262144:
            received += channel.receive()
        assert received == b"onetwothreefour" + b"x" * 262144
        coderd.wait_for(lambda: len(coderd.connections) == 1)
        echo_through(channel)
        assert coderd.connections[0].pongs == 1


@pytest.mark.parametrize("payload", [b"", b"\x03\xe8", b"\x03\xe9"])
def test_a_normal_close_is_the_end(coderd: FakeCoderd, payload: bytes) -> None:
    raw = encode_frame(2, b"last words") + encode_frame(8, payload) + encode_frame(2, b"more")
    coderd.send_after_upgrade(raw)
    with dialled(coderd) as (channel, _):
        assert channel.receive() == b"last words"
        assert channel.receive() == b""


def test_a_connection_that_is_just_closed_is_the_end(coderd: FakeCoderd) -> None:
    with dialled(coderd) as (channel, _):
        coderd.wait_for(lambda: len(coderd.connections) == 1)
        coderd.cut_connections()
        assert channel.receive() == b""


@pytest.mark.parametrize(
    ("raw", "text"),
    [
        (encode_frame(8, b"\x03\xf3sorry"), "closed with 1011: sorry"),
        (encode_frame(1, b"text"), "a text message"),
        (encode_frame(0, b"continued"), "mixed up"),
        (encode_frame(2, b"a", fin=False) + encode_frame(2, b"b"), "mixed up"),
        (encode_frame(2, b"x" * 262145), "262145 bytes, at most 262144"),
        (b"\x82\x7f\x7f\xff\xff\xff\xff\xff\xff\xff", "9223372036854775807 bytes"),
        (b"\xf2\x00", "opcode 2, rsv 7"),
        (b"\x83\x00", "opcode 3"),
        (b"\x82\x80", "masked"),
        (b"\x09\x00", "not whole"),
        (encode_frame(9, b"x" * 126), "too long"),
    ],
)
def test_what_is_no_byte_stream_is_an_error(coderd: FakeCoderd, raw: bytes, text: str) -> None:
    coderd.send_after_upgrade(raw)
    with dialled(coderd) as (channel, _), pytest.raises(ChannelError, match=f"(?i){text}"):
        list(iter(channel.receive, b""))


@pytest.mark.parametrize("end", [Channel.abort, Channel.close])
def test_a_receive_that_waits_returns_when_the_channel_ends(
    coderd: FakeCoderd, end: Callable[[Channel], None]
) -> None:
    with dialled(coderd) as (channel, _):
        got = []
        reader = threading.Thread(target=lambda: got.append(channel.receive()))
        reader.start()
        end(channel)
        reader.join(10.0)
        assert got == [b""]
        assert channel.receive() == b""
        with pytest.raises(ChannelError, match="send"):
            channel.send_now(b"x" * 100_000)


def test_a_reset_is_an_error_until_we_have_ended_ourselves(coderd: FakeCoderd) -> None:
    with dialled(coderd) as (channel, _):
        coderd.wait_for(lambda: len(coderd.connections) == 1)
        coderd.cut_connections(reset=True)
        with pytest.raises(ChannelError, match=r"receive: .*reset"):
            list(iter(channel.receive, b""))
    with dialled(coderd) as (channel, _):
        channel.abort()
        channel.release()
        assert channel.receive() == b""


def wait_until_full(sock: socket.socket) -> None:
    """Wait until nothing more fits; buffers grow, so a moment of being full is not enough."""
    poll = select.poll()
    poll.register(sock.fileno(), select.POLLOUT)
    deadline = time.monotonic() + 10.0
    full_since = time.monotonic()
    while time.monotonic() - full_since < 0.2:
        if poll.poll(0):
            full_since = time.monotonic()
        assert full_since < deadline
        time.sleep(0.001)


@pytest.mark.parametrize("tls", [False, True])
def test_a_send_that_waits_returns_when_the_channel_ends(authority: Authority, tls: bool) -> None:
    with (
        FakeCoderd(tls=authority.server() if tls else None) as coderd,
        dialled(coderd, ca_file=authority.ca_file) as (channel, _),
    ):
        coderd.wait_for(lambda: len(coderd.connections) == 1)
        coderd.stall()
        sent = []
        failed = threading.Event()

        def write() -> None:
            try:
                while True:
                    channel.send_now(b"x" * 262144)
                    channel.flush()
                    sent.append(1)
            except ChannelError:
                failed.set()

        writer = threading.Thread(target=write)
        writer.start()
        # The peer reads nothing: at some point the send has to wait.  Closing says goodbye
        # only if it can, and ends the send in any case.
        wait_until_full(channel._wire.sock)
        channel.close()
        assert failed.wait(10.0)
        writer.join()
        coderd.resume()


@pytest.mark.parametrize("tls", [False, True])
def test_a_message_that_does_not_fit_leaves_with_the_flush(authority: Authority, tls: bool) -> None:
    ping = bytes.fromhex("000200010000000000000007")
    with (
        FakeCoderd(tls=authority.server() if tls else None) as coderd,
        dialled(coderd, ca_file=authority.ca_file) as (channel, _),
    ):
        coderd.wait_for(lambda: len(coderd.connections) == 1)
        coderd.stall()
        messages = 1
        while channel.send_now(ping * 20_000):
            messages += 1
        coderd.resume()
        channel.flush()
        received = 0
        while received < messages * 20_000 * len(ping):
            received += len(channel.receive())
        echo_through(channel)


def test_a_goodbye_that_does_not_fit_is_not_waited_for(coderd: FakeCoderd) -> None:
    with dialled(coderd) as (channel, _):
        coderd.wait_for(lambda: len(coderd.connections) == 1)
        coderd.stall()
        # Buffers grow: only what does not leave for a while does not fit.
        with contextlib.suppress(TimeoutError):
            while True:
                channel.send_now(b"x" * 262144)
                channel._wire.flush(time.monotonic() + 0.3)
        began = time.monotonic()
        channel.close()
        assert time.monotonic() - began < 5.0
        assert channel.receive() == b""
        with pytest.raises(ChannelError, match="send"):
            channel.flush()
        coderd.resume()


@pytest.mark.parametrize("discard", [True, False])
def test_what_was_not_read_arrives_unless_it_is_discarded(discard: bool) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        near = socket.create_connection(listener.getsockname())
        far, _ = listener.accept()
    with near, far:
        wire = Wire(near, time.monotonic() + 10.0)
        wire.established()
        sent = 0
        while wire.send_now(b"x" * 100_000):
            sent += 100_000
        if discard:
            wire.discard()
        wire.end()
        wire.release()
        received = 0
        with contextlib.suppress(ConnectionResetError):
            while data := far.recv(1 << 20):
                received += len(data)
        assert (received < sent) is discard


def test_what_had_arrived_is_received_after_the_end() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        near = socket.create_connection(listener.getsockname())
        far, _ = listener.accept()
    with near, far:
        wire = Wire(near, time.monotonic() + 10.0)
        wire.established()
        far.sendall(b"an answer")
        assert select.select([near], [], [], 10.0)[0]
        wire.end()
        assert wire.receive() == b"an answer"
        assert wire.receive() == b""


def test_what_is_behind_a_ping_counts_though_it_cannot_be_answered() -> None:
    near, far = socket.socketpair()
    with near, far:
        channel = Channel(Wire(near, time.monotonic() + 10.0))
        far.sendall(encode_frame(9, b"ping") + encode_frame(2, b"an answer"))
        far.shutdown(socket.SHUT_RDWR)
        assert channel.receive() == b"an answer"
        assert channel.receive() == b""


@given(
    st.lists(
        st.tuples(st.sampled_from([2, 2, 8, 9, 10]), st.integers(0, 300), st.booleans()),
        max_size=10,
    ),
    st.integers(1, 400),
)
def test_frames_are_read_in_any_cut(parts: list[tuple[int, int, bool]], cut: int) -> None:
    data, inside = b"", False
    sent: list[bytes | Notice] = [b""]
    for opcode, size, fin in parts:
        if opcode == 2:
            payload = bytes(range(256))[-size:] * 2
            sent[-1] += payload
            data += encode_frame(0 if inside else 2, payload, fin=fin)
            inside = not fin
        else:
            payload = b"n" * (size % 126)
            sent += [Notice(opcode, payload), b""]
            data += encode_frame(opcode, payload)
    reader = FrameReader()
    got: list[bytes | Notice] = [b""]
    for at in range(0, len(data), cut):
        reader.receive_data(data[at : at + cut])
        while (found := reader.next()) is not None:
            if isinstance(found, Notice):
                got += [found, b""]
            else:
                assert found
                got[-1] += found
    assert got == sent


@pytest.mark.parametrize("size", [125, 126, 65535, 65536, 262144])
def test_frames_of_every_length_are_read(size: int) -> None:
    data = encode_frame(2, b"x" * size)
    reader = FrameReader()
    got = b""
    for piece in (*(data[at : at + 1] for at in range(11)), data[11:]):
        reader.receive_data(piece)
        got += reader.next() or b""
    assert got == b"x" * size


@pytest.mark.parametrize("size", [0, 1, 125, 126, 65535, 65536, 262144])
def test_frames_of_every_length_are_masked(size: int) -> None:
    payload = (bytes(range(256)) * 1024)[:size]
    coderd = ClientFrames()
    coderd.buffer += encode_client_frame(2, payload, b"\x01\x80\xff\x00")
    assert coderd.next() == (2, payload)
    assert not coderd.buffer


def test_data_that_came_before_nonsense_are_not_lost() -> None:
    reader = FrameReader()
    reader.receive_data(encode_frame(2, b"an answer") + b"\xff\xff")
    assert reader.next() == b"an answer"
    with pytest.raises(ValueError, match="opcode 15"):
        reader.next()


@given(st.binary(max_size=40))
def test_any_bytes_are_frames_or_an_error(data: bytes) -> None:
    reader = FrameReader()
    reader.receive_data(data)
    with contextlib.suppress(ValueError):
        list(iter(reader.next, None))
