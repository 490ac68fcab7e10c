"""The least client that can talk to a coderd: sends given bytes, collects what comes back.

It knows frame headers and nothing more, so that what it proves does not rest on the code
that the gateway uses.
"""

from __future__ import annotations

import contextlib
import struct
from collections.abc import Iterator
from typing import Any

import websocket

__all__ = [
    "ACK",
    "DATA",
    "FIN",
    "GO_AWAY",
    "PING",
    "RST",
    "SYN",
    "WINDOW_UPDATE",
    "Replay",
    "data",
    "dial",
    "drpc",
    "yamux",
]

KEY_HEADER = "X-Coder-AI-Governance-Gateway-Key"

WINDOW_UPDATE, DATA, PING, GO_AWAY = 1, 0, 2, 3
SYN, ACK, FIN, RST = 1, 2, 4, 8


def yamux(kind: int, flags: int, stream: int, length: int) -> bytes:
    return struct.pack(">BBHII", 0, kind, flags, stream, length)


def data(stream: int, payload: bytes) -> bytes:
    return yamux(DATA, 0, stream, len(payload)) + payload


def drpc(control: int, message: int, payload: bytes = b"", stream: int = 1) -> bytes:
    """One DRPC frame with ids below 128."""
    length = b""
    rest = len(payload)
    while rest > 127:
        length += bytes([rest & 127 | 128])
        rest >>= 7
    return bytes([control, stream, message]) + length + bytes([rest]) + payload


def request(method: str, payload: bytes, stream: int = 1) -> bytes:
    """The three packets of a call: Invoke, Message, CloseSend."""
    return (
        drpc(0x03, 1, f"/proto.{method}".encode(), stream)
        + drpc(0x05, 2, payload, stream)
        + drpc(0x0D, 3, stream=stream)
    )


class Replay:
    """One WebSocket; :attr:`received` holds the yamux bytes that no one has read yet."""

    def __init__(self, ws: Any) -> None:
        self.ws = ws
        self.received = b""

    def send(self, *frames: bytes) -> None:
        for frame in frames:
            self.ws.send_binary(frame)

    def call(self, stream: int, method: str, payload: bytes) -> None:
        """Open a yamux stream and start a call on it."""
        self.send(yamux(WINDOW_UPDATE, SYN, stream, 0), data(stream, request(method, payload)))

    def frame(self) -> tuple[int, int, int, bytes | int]:
        """The next yamux frame: type, flags, stream, and its body or its length field."""
        _, kind, flags, stream, length = struct.unpack(">BBHII", self._take(12))
        return kind, flags, stream, self._take(length) if kind == DATA else length

    def answer(self, stream: int) -> bytes:
        """The DRPC bytes that come on a stream up to CloseSend, Error or FIN."""
        out = b""
        while True:
            kind, flags, number, body = self.frame()
            if number != stream:
                continue
            if kind == DATA and isinstance(body, bytes):
                out += body
            # A server's packets each travel in a Data frame of their own.
            last = isinstance(body, bytes) and body[:1] in (b"\x07", b"\x0d")
            if last or flags & (FIN | RST):
                return out

    def _take(self, count: int) -> bytes:
        while len(self.received) < count:
            opcode, payload = self.ws.recv_data()
            if opcode == websocket.ABNF.OPCODE_CLOSE:
                raise ConnectionError(f"closed: {payload.hex()}")
            self.received += payload
        taken, self.received = self.received[:count], self.received[count:]
        return taken


@contextlib.contextmanager
def dial(
    url: str,
    path: str = "/api/v2/ai-gateway/serve?version=1.4",
    key: str = "gateway-key",
    sslopt: dict[str, Any] | None = None,
) -> Iterator[Replay]:
    """Connect as a gateway does; raises WebSocketBadStatusException when refused."""
    header = [f"{KEY_HEADER}: {key}"] if key else []
    ws: Any = websocket.create_connection(
        url.replace("http", "ws", 1) + path,
        header=header,
        timeout=20,
        sslopt=sslopt,
        suppress_origin=True,
        http_no_proxy=["127.0.0.1"],
    )
    try:
        yield Replay(ws)
    finally:
        ws.shutdown()
