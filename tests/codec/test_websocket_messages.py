"""WebSocket messages are read whole, whatever the pieces in which they come."""

from __future__ import annotations

from collections.abc import Iterable

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pieces import in_pieces
from websockets.datastructures import Headers
from websockets.frames import CloseCode, Frame, Opcode
from websockets.http11 import Request
from websockets.server import ServerProtocol

from aigateway.actors.codec.websocket import (
    BINARY,
    CLOSE,
    PING,
    TEXT,
    Message,
    MessageReader,
    WrongMessage,
    accept_key,
    close_frame,
    encode_frame,
    read_close,
)

MASK = b"\x01\xfe\x33\x80"


def read(pieces: Iterable[bytes], *, masked: bool = False, limit: int = 1 << 20) -> list[Message]:
    reader = MessageReader(masked=masked, limit=limit)
    found = []
    for piece in pieces:
        reader.feed(piece)
        while (message := reader.next()) is not None:
            found.append(message)
    assert reader.held == 0
    return found


def fragments(opcode: int, *parts: bytes, mask: bytes | None = None) -> list[bytes]:
    """A message in frames, as an independent library writes them."""
    frames = []
    for number, part in enumerate(parts):
        kind = Opcode(opcode) if number == 0 else Opcode.CONT
        frame = Frame(kind, part, fin=number == len(parts) - 1)
        frames.append(frame.serialize(mask=mask is not None))
    return frames


@given(
    st.lists(
        st.tuples(
            st.sampled_from([TEXT, BINARY]),
            st.lists(st.binary(max_size=300), min_size=1, max_size=3),
            st.booleans(),
        ),
        max_size=6,
    ),
    st.booleans(),
    st.lists(st.integers(1, 400)),
)
def test_messages_are_the_same_in_any_pieces(
    said: list[tuple[int, list[bytes], bool]], masked: bool, sizes: list[int]
) -> None:
    wire, expected = b"", []
    for opcode, parts, pinged in said:
        if opcode == TEXT:
            parts = [bytes(byte & 0x7F for byte in part) for part in parts]
        frames = fragments(opcode, *parts, mask=MASK if masked else None)
        if pinged:
            # Also between the fragments of a message.
            ping = Frame(Opcode.PING, b"!").serialize(mask=masked)
            frames.insert(1, ping)
            if len(parts) > 1:
                expected.append((PING, b"!", b""))
        bare = [f for f in frames if not pinged or f is not frames[1]]
        expected.append((opcode, b"".join(parts), b"" if masked else b"".join(bare)))
        if pinged and len(parts) == 1:
            expected.append((PING, b"!", b""))
        wire += b"".join(frames)
    found = read(in_pieces(wire, sizes), masked=masked)
    assert [(m.opcode, m.payload, b"" if m.opcode == PING else m.wire) for m in found] == expected


@pytest.mark.parametrize("size", [0, 1, 125, 126, 65535, 65536, 1 << 20])
@pytest.mark.parametrize("masked", [False, True])
def test_what_is_written_is_read_by_an_independent_library_and_by_us(
    size: int, masked: bool
) -> None:
    payload = bytes(i % 251 for i in range(size))
    wire = encode_frame(BINARY, payload, MASK if masked else b"")
    assert wire == Frame(Opcode.BINARY, payload).serialize(mask=False) or masked
    assert [m.payload for m in read([wire], masked=masked)] == [payload]
    assert [m.payload for m in read(in_pieces(wire, [1] * 20), masked=masked)] == [payload]


def test_a_large_message_in_small_reads_is_put_together_once() -> None:
    payload = b"x" * (8 << 20)
    wire = encode_frame(TEXT, payload)
    reader = MessageReader(masked=False, limit=16 << 20)
    for at in range(0, len(wire), 1024):
        reader.feed(wire[at : at + 1024])
        found = reader.next()
        assert len(reader._data) < 2048 or found is not None
    assert found is not None
    assert found.payload == payload


@pytest.mark.parametrize(
    ("wire", "masked", "code"),
    [
        (encode_frame(TEXT, b"a"), True, 1002),
        (encode_frame(TEXT, b"a", MASK), False, 1002),
        (b"\xc1\x01a", False, 1002),
        (b"\x83\x01a", False, 1002),
        (b"\x80\x01a", False, 1002),
        (b"\x01\x01a\x81\x01b", False, 1002),
        (b"\x09\x01a", False, 1002),
        (b"\x89\x7e\x00\x7e" + b"a" * 126, False, 1002),
        (b"\x81\x7f" + (1 << 20).to_bytes(8, "big"), False, 1009),
        (b"\x01\x7e\x02\x00" + b"a" * 512 + b"\x80\x7e\x02\x00", False, 1009),
        (b"\x01\x00" + b"\x00\x00" * 100, False, 1009),
        (encode_frame(TEXT, b"\xff", MASK), True, 1007),
        (encode_frame(CLOSE, b"\x03", MASK), True, 1002),
        (encode_frame(CLOSE, (999).to_bytes(2, "big"), MASK), True, 1002),
        (encode_frame(CLOSE, (1005).to_bytes(2, "big"), MASK), True, 1002),
        (encode_frame(CLOSE, b"\x03\xe8\xff", MASK), True, 1007),
    ],
)
def test_what_nobody_may_send_ends_the_connection(wire: bytes, masked: bool, code: int) -> None:
    with pytest.raises(WrongMessage) as caught:
        read([wire], masked=masked, limit=1000)
    assert caught.value.code == code


def test_a_text_that_is_not_utf_8_in_all_of_its_fragments_ends_the_connection() -> None:
    with pytest.raises(WrongMessage) as caught:
        read(fragments(TEXT, b"a\xc3", b"(", mask=MASK), masked=True)
    assert caught.value.code == 1007


def test_what_a_provider_says_goes_on_as_it_came() -> None:
    wires = [encode_frame(TEXT, b"\xff"), encode_frame(CLOSE, b"\x03")]
    assert [message.wire for message in read(wires)] == wires


def test_what_a_client_may_say_is_read() -> None:
    payloads = ["é".encode(), b"\x03\xe8", "\x03\xe8bye é".encode("latin-1")[:5], b""]
    wires = [
        encode_frame(TEXT, payloads[0], MASK),
        b"".join(fragments(TEXT, b"a\xc3", b"\xa9", mask=MASK)),
        *(encode_frame(CLOSE, payload, MASK) for payload in payloads[1:]),
    ]
    found = read(wires, masked=True)
    assert [message.payload for message in found] == [payloads[0], "aé".encode(), *payloads[1:]]


def test_a_close_says_why_within_a_control_frame() -> None:
    [message] = read([close_frame(1012, "é" * 200)])
    assert message.opcode == CLOSE
    code, reason = read_close(message.payload)
    assert code == CloseCode.SERVICE_RESTART
    assert reason == "é" * 61
    assert read_close(b"") == read_close((1006).to_bytes(2, "big")) == (None, "")
    assert read_close((4001).to_bytes(2, "big") + b"gone") == (4001, "gone")


def test_a_handshake_is_answered_as_a_library_answers_it() -> None:
    key = "dGhlIHNhbXBsZSBub25jZQ=="
    headers = Headers(
        {
            "Host": "localhost",
            "Upgrade": "websocket",
            "Connection": "Upgrade",
            "Sec-WebSocket-Key": key,
            "Sec-WebSocket-Version": "13",
        }
    )
    answer = ServerProtocol().accept(Request("/", headers))
    assert answer.headers["Sec-WebSocket-Accept"] == accept_key(key)


@pytest.mark.parametrize("size", [0, 1, 3, 125, 511, 512, 513, 514, 515, 4096, 70_001])
def test_each_byte_of_a_masked_payload_is_mixed_with_its_own_of_the_mask(size: int) -> None:
    payload = bytes(at * 7 % 256 for at in range(size))
    frame = encode_frame(BINARY, payload, MASK)
    mixed = bytes(byte ^ MASK[at % 4] for at, byte in enumerate(payload))
    assert frame.endswith(MASK + mixed)
    assert read([frame], masked=True) == [Message(BINARY, payload)]
