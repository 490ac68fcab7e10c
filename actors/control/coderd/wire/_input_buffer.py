"""Bytes that were received and not read yet."""

from __future__ import annotations

__all__ = ["InputBuffer"]


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
