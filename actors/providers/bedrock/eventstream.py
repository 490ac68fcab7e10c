"""AWS's binary event stream (``application/vnd.amazon.eventstream``), without I/O.

A frame is::

    total length (4) | length of headers (4) | CRC-32 of these eight (4)
    | headers | payload | CRC-32 of everything before (4)

all big-endian, and a header is its name's length (1), its name, its type (1) and its value.
Bedrock sends one frame for each of Anthropic's events; the event is in the payload's member
``bytes``, in base64.  Other frames carry errors.
"""

from __future__ import annotations

import binascii
import struct
import zlib
from collections.abc import Mapping
from types import MappingProxyType

import msgspec
from attrs import frozen

from aigateway.actors.codec.reading import members, text

__all__ = ["FRAME_LIMIT", "Frame", "FrameReader", "sse_event"]

FRAME_LIMIT = 24 * 1024 * 1024
"""Bytes of one frame; AWS's own libraries refuse longer payloads."""

_PRELUDE = struct.Struct("!III")
_CRC = struct.Struct("!I")
_LENGTH = struct.Struct("!H")
_OVERHEAD = _PRELUDE.size + _CRC.size

_STRING = 7
_WITH_LENGTH = (6, _STRING)
"""Types whose value begins with its length in two bytes: bytes and string."""
_SIZES = {0: 0, 1: 0, 2: 1, 3: 2, 4: 4, 5: 8, 8: 8, 9: 16}
"""Bytes of a value of the other types: true, false, integers, a time, a UUID."""


@frozen
class Frame:
    """One message of the stream; ``headers`` are those whose value is text."""

    headers: Mapping[str, str]
    payload: bytes


class _DamagedError(ValueError):
    """These bytes are no frame."""


class FrameReader:
    """Cuts a byte stream into frames."""

    def __init__(self) -> None:
        self._pending = bytearray()
        self.damage = ""
        """What is wrong with the stream; from then on nothing is read."""

    @property
    def pending(self) -> int:
        """How many bytes have arrived of the next frame."""
        return len(self._pending)

    def feed(self, data: bytes) -> list[Frame]:
        """Take bytes, return the frames they completed: those before any damage."""
        if self.damage:
            return []
        pending = self._pending
        pending += data
        frames: list[Frame] = []
        start = 0
        try:
            while (end := _end_of_frame(pending, start)) > 0:
                frames.append(_frame(bytes(memoryview(pending)[start:end])))
                start = end
        except _DamagedError as ex:
            self.damage = str(ex)
            pending.clear()
            return frames
        del pending[:start]
        return frames


def _end_of_frame(buffer: bytearray, start: int) -> int:
    """Where the frame that begins at ``start`` ends, or 0 while it is not whole."""
    if len(buffer) - start < _PRELUDE.size:
        return 0
    total, headers, checksum = _PRELUDE.unpack_from(buffer, start)
    if checksum != zlib.crc32(memoryview(buffer)[start : start + 8]):
        raise _DamagedError("the checksum of a frame's beginning is wrong")
    if total > FRAME_LIMIT or headers + _OVERHEAD > total:
        raise _DamagedError(f"a frame has impossible lengths ({total}, {headers})")
    return start + total if len(buffer) - start >= total else 0


def _frame(data: bytes) -> Frame:
    if _CRC.unpack_from(data, len(data) - 4)[0] != zlib.crc32(memoryview(data)[:-4]):
        raise _DamagedError("the checksum of a frame is wrong")
    end = _PRELUDE.size + _PRELUDE.unpack_from(data)[1]
    try:
        headers = _headers(data[_PRELUDE.size : end])
    except (struct.error, IndexError, KeyError, UnicodeDecodeError) as ex:
        raise _DamagedError("the headers of a frame cannot be read") from ex
    return Frame(MappingProxyType(headers), data[end:-4])


def _headers(data: bytes) -> dict[str, str]:
    headers = {}
    at = 0
    while at < len(data):
        value_at = at + 2 + data[at]
        name = data[at + 1 : value_at - 1].decode()
        kind = data[value_at - 1]
        if kind in _WITH_LENGTH:
            at = value_at + 2 + _LENGTH.unpack_from(data, value_at)[0]
            value_at += 2
        else:
            at = value_at + _SIZES[kind]
        if at > len(data):
            raise IndexError("a value reaches over the end")
        if kind == _STRING:
            headers[name] = data[value_at:at].decode()
    return headers


# -- what Bedrock puts into frames

_ERROR_KINDS = {
    "internalServerException": "api_error",
    "modelStreamErrorException": "api_error",
    "modelTimeoutException": "timeout_error",
    "serviceUnavailableException": "overloaded_error",
    "throttlingException": "rate_limit_error",
    "validationException": "invalid_request_error",
}
"""Anthropic's error types for the exceptions of InvokeModelWithResponseStream."""


def sse_event(frame: Frame) -> bytes:
    """The frame as a server-sent event of Anthropic's API; nothing for one without meaning."""
    headers = frame.headers
    match headers.get(":message-type", "event"):
        case "exception":
            code = headers.get(":exception-type", "unknown")
            fields = members(frame.payload)
            said = text(fields.get("message")) or text(fields.get("Message"))
            message = said or frame.payload.decode("utf-8", "replace")
            return _error(code, f"received exception {code}: {message}")
        case "error":
            code = headers.get(":error-code", "unknown")
            return _error(code, f"received error {code}: {headers.get(':error-message', '')}")
        case "event":
            return _event(frame.payload)
        case _:
            return b""


def _event(payload: bytes) -> bytes:
    encoded = text(members(payload).get("bytes"))
    if encoded is None:
        return b""
    try:
        event = binascii.a2b_base64(encoded, strict_mode=True)
    except ValueError:
        return _error("", "received an event that is no base64")
    name = text(members(event).get("type"))
    if name is None or not name.isprintable():
        return _error("", "received an event without a type")
    # In JSON a line break is a blank, in an event stream it is an end.
    event = event.replace(b"\n", b" ").replace(b"\r", b" ")
    return b"event: %s\ndata: %s\n\n" % (name.encode(), event)


def _error(code: str, message: str) -> bytes:
    kind = _ERROR_KINDS.get(code, "api_error")
    error = {"type": "error", "error": {"type": kind, "message": message}}
    return b"event: error\ndata: %s\n\n" % msgspec.json.encode(error)
