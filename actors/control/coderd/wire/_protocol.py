"""What both protocols are made on: who broke one, no event, and bytes that were received."""

from __future__ import annotations

from typing import Final

__all__ = [
    "InputBuffer",
    "LocalProtocolError",
    "NEED_DATA",
    "NeedData",
    "ProtocolError",
    "RemoteProtocolError",
]


class ProtocolError(Exception):
    """A rule of the protocol was broken."""


class LocalProtocolError(ProtocolError):
    """Our side asked for something the protocol does not allow; nothing was sent."""


class RemoteProtocolError(ProtocolError):
    """The peer sent bytes that the protocol does not allow."""


class NeedData:
    """The class of :data:`NEED_DATA`."""

    def __repr__(self) -> str:
        return "NEED_DATA"


NEED_DATA: Final = NeedData()
"""There is no event until more bytes are received."""


class InputBuffer:
    """What readers of frames are made on: subclasses move ``_at`` through ``_data``.

    PERF: nothing is copied or moved while whatever comes can be read to its end, as it nearly
    always can.
    """

    def __init__(self) -> None:
        self._data: bytes | bytearray = b""
        self._at = 0

    def receive_data(self, data: bytes) -> None:
        """Store bytes from the peer."""
        if self._at == len(self._data):
            self._data = data
        elif isinstance(self._data, bytes):
            self._data = bytearray(self._data[self._at :]) + data
        else:
            del self._data[: self._at]
            self._data += data
        self._at = 0
