"""The interception of a call in Bedrock's own form: read like any other, relayed as it came.

What reads answers knows event streams; it is shown AWS's frames as such.  What it would add for its
client, an error in a stream that broke off, becomes a frame as AWS's own exceptions are.
"""

from __future__ import annotations

import struct
import zlib

import msgspec

from aigateway.actors.codec.headers import Headers
from aigateway.actors.interception.interface import Interception
from aigateway.actors.interception.routes import CONVERSE
from aigateway.actors.providers.bedrock.answer import BedrockInterception
from aigateway.actors.providers.bedrock.eventstream import Frame, sse_event

__all__ = ["NativeInterception", "exception_frame"]


def exception_frame(kind: str, message: str) -> bytes:
    """A frame that ends a stream with an exception."""
    headers = b"".join(
        bytes([len(name)]) + name + b"\x07" + struct.pack("!H", len(value)) + value
        for name, value in (
            (b":exception-type", kind.encode()),
            (b":content-type", b"application/json"),
            (b":message-type", b"exception"),
        )
    )
    payload = msgspec.json.encode({"message": message})
    # Lengths, their checksum, headers, payload, and the checksum of it all.
    start = struct.pack("!II", 16 + len(headers) + len(payload), len(headers))
    frame = start + struct.pack("!I", zlib.crc32(start)) + headers + payload
    return frame + struct.pack("!I", zlib.crc32(frame))


class NativeInterception(BedrockInterception):
    """Wraps the interception of a request whose client speaks Bedrock's own API."""

    def __init__(self, inner: Interception, api: str) -> None:
        super().__init__(inner, inner.model)
        self._event = converse_event if api == CONVERSE else sse_event

    def answer_headers(self, headers: Headers) -> Headers:
        """They stay as they came; what reads the answer is told of an event stream."""
        return headers

    def _shown_headers(self, headers: Headers) -> Headers:
        return super().answer_headers(headers)

    def receive_data(self, data: bytes, now: float) -> bytes:
        """Take what arrived; all of it goes to the client now."""
        if self._inner.cut:
            return b""
        super().receive_data(data, now)
        return data

    def receive_end(self, now: float, *, framed: bool = True) -> bytes:
        """The upstream's body has ended; return the last bytes for the client."""
        return self._told(super().receive_end(now, framed=framed))

    def receive_cut(self, reason: str, now: float, *, error_type: str = "server_error") -> bytes:
        """The upstream broke off; return an exception when a stream had begun."""
        return self._told(super().receive_cut(reason, now, error_type=error_type))

    def _told(self, added: bytes) -> bytes:
        """What is added for the client behind what came."""
        frames = self._frames
        if not added or frames is None or frames.pending or frames.damage:
            # Inside a frame nothing can be said.
            return b""
        said = self._inner.outcome().error_message or "the answer broke off"
        return exception_frame("internalServerException", said)

    def keepalive(self) -> bytes:
        """Nothing: there is no frame that says nothing."""
        return b""


def converse_event(frame: Frame) -> bytes:
    """A frame of ConverseStream as a server-sent event with its name."""
    headers = frame.headers
    if headers.get(":message-type", "event") != "event":
        return sse_event(frame)
    name = headers.get(":event-type", "")
    if not name.isidentifier():
        return b""
    payload = frame.payload.replace(b"\n", b" ").replace(b"\r", b" ")
    return b"event: %s\ndata: %s\n\n" % (name.encode(), payload)
