"""The server's side of WebSocket: the upgrade and the frames, as coderd speaks them."""

from __future__ import annotations

import base64
import hashlib
import json
import struct
from collections.abc import Mapping
from typing import Final

from attrs import frozen

__all__ = [
    "BINARY",
    "CLOSE",
    "MAX_MESSAGE",
    "PING",
    "PONG",
    "TEXT",
    "FrameReader",
    "HttpRequest",
    "accepted",
    "encode_frame",
    "json_answer",
    "parse_request",
]

TEXT: Final = 1
BINARY: Final = 2
CLOSE: Final = 8
PING: Final = 9
PONG: Final = 10

MAX_MESSAGE: Final = 262144


@frozen
class HttpRequest:
    """The head of a request; header names in lower case."""

    method: str
    target: str
    headers: Mapping[str, str]

    @property
    def path(self) -> str:
        return self.target.partition("?")[0]


def parse_request(head: bytes) -> HttpRequest:
    first, *lines = head.decode("latin-1").split("\r\n")
    method, target, _ = first.split(" ")
    pairs = (line.partition(":") for line in lines if line)
    return HttpRequest(method, target, {name.lower(): value.strip() for name, _, value in pairs})


def json_answer(status: int, body: Mapping[str, object]) -> bytes:
    return plain_answer(status, json.dumps(body).encode(), "application/json; charset=utf-8")


def plain_answer(
    status: int, body: bytes, content_type: str, headers: Mapping[str, str] | None = None
) -> bytes:
    lines = [
        f"HTTP/1.1 {status} Status",
        f"Content-Type: {content_type}",
        f"Content-Length: {len(body)}",
        "Connection: close",
        *(f"{name}: {value}" for name, value in (headers or {}).items()),
    ]
    return "\r\n".join([*lines, "", ""]).encode() + body


def accepted(request: HttpRequest) -> bytes:
    magic = request.headers["sec-websocket-key"] + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
    accept = base64.b64encode(hashlib.sha1(magic.encode()).digest()).decode()
    lines = (
        "HTTP/1.1 101 Switching Protocols",
        "Connection: Upgrade",
        f"Sec-WebSocket-Accept: {accept}",
        "Upgrade: websocket",
    )
    return "\r\n".join([*lines, "", ""]).encode()


def encode_frame(opcode: int, payload: bytes, *, fin: bool = True) -> bytes:
    """A frame as a server sends it: not masked."""
    first = opcode | (0x80 if fin else 0)
    if len(payload) < 126:
        return bytes((first, len(payload))) + payload
    if len(payload) < 1 << 16:
        return struct.pack(">BBH", first, 126, len(payload)) + payload
    return struct.pack(">BBQ", first, 127, len(payload)) + payload


class FrameReader:
    """A client's frames, unmasked."""

    def __init__(self) -> None:
        self.buffer = bytearray()

    def next(self) -> tuple[int, bytes] | None:
        """Return opcode and payload, or nothing until more is in the buffer.

        Raises ValueError for a message over the limit and for a frame without a mask.
        """
        data = self.buffer
        if len(data) < 2:
            return None
        if not data[1] & 0x80:
            raise ValueError("unmasked frame")
        size, at = data[1] & 0x7F, 2
        if size >= 126:
            width = 2 if size == 126 else 8
            if len(data) < at + width:
                return None
            size, at = int.from_bytes(data[at : at + width], "big"), at + width
        if size > MAX_MESSAGE:
            raise ValueError("message too big")
        if len(data) < at + 4 + size:
            return None
        mask = bytes(data[at : at + 4])
        payload = bytes(data[at + 4 : at + 4 + size])
        opcode = data[0] & 0x0F
        del data[: at + 4 + size]
        repeated = (mask * (size // 4 + 1))[:size]
        plain = int.from_bytes(payload, "big") ^ int.from_bytes(repeated, "big")
        return opcode, plain.to_bytes(size, "big")


__all__ += ["plain_answer"]
