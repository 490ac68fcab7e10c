"""One connection of the scripted provider: reads requests, runs steps."""

from __future__ import annotations

import contextlib
import json
import socket
import struct
import threading
import time
from collections.abc import Iterator
from typing import Any

from attrs import define, field

from ._steps import Close, Reset, Send, Stall, Step, Steps, Tell, WaitFor

__all__ = ["ClientLeft", "Connection", "Ended", "ReceivedRequest", "ScriptError"]

_LINGER_0 = struct.pack("ii", 1, 0)
_POLL = 0.05  # how soon a waiting script notices that the provider is being closed, seconds


class ClientLeft(Exception):
    """The client has closed or broken the connection."""


class ScriptError(Exception):
    """The script cannot be played."""


class Ended(Exception):
    """The script has closed the connection, or the provider is being closed."""


@define(eq=False)
class ReceivedRequest:
    """One request exactly as it arrived."""

    connection: int
    """Which connection brought it, counted from 1."""
    raw_head: bytes
    """Request line and headers with the empty line that ends them."""
    request_line: str
    headers: list[tuple[str, str]]
    """Names and values in the order and the case of the wire."""
    body: bytes = b""
    """The body without chunk framing."""
    raw_body: bytes = b""
    """The body as it was framed."""
    client_left: threading.Event = field(factory=threading.Event, repr=False)
    """Set when a step noticed that the client had gone."""
    done: threading.Event = field(factory=threading.Event, repr=False)
    """Set when the script has ended."""

    @property
    def method(self) -> str:
        return self.request_line.split(" ")[0]

    @property
    def target(self) -> str:
        """Path with query."""
        return self.request_line.split(" ")[1]

    def header(self, name: str) -> str | None:
        """The only value of a header; None when absent."""
        values = self.header_values(name)
        assert len(values) < 2, f"{name} was sent {len(values)} times"
        return values[0] if values else None

    def header_values(self, name: str) -> list[str]:
        return [value for key, value in self.headers if key.lower() == name.lower()]

    def json(self) -> Any:
        return json.loads(self.body)


class Connection:
    """Reads requests from one socket and runs steps on it."""

    def __init__(self, sock: socket.socket, number: int, closing: threading.Event) -> None:
        self._sock = sock
        self._number = number
        self._closing = closing
        self._buffer = b""
        self._unread_body = False

    # -- requests

    def read_head(self) -> ReceivedRequest | None:
        """The next request without its body, None at the end of the connection."""
        while b"\r\n\r\n" not in self._buffer:
            if not self._receive():
                return None
        raw, _, self._buffer = self._buffer.partition(b"\r\n\r\n")
        first, *lines = raw.decode("latin-1").split("\r\n")
        pairs = [line.partition(":") for line in lines]
        self._unread_body = True
        return ReceivedRequest(
            connection=self._number,
            raw_head=raw + b"\r\n\r\n",
            request_line=first,
            headers=[(name, value.strip()) for name, _, value in pairs],
        )

    def read_body(self, request: ReceivedRequest) -> None:
        if (request.header("Expect") or "").lower() == "100-continue":
            self._sock.sendall(b"HTTP/1.1 100 Continue\r\n\r\n")
        if (request.header("Transfer-Encoding") or "").lower() == "chunked":
            for framed, data in self._chunks():
                request.raw_body += framed
                request.body += data
        else:
            request.body = self._exactly(int(request.header("Content-Length") or 0))
            request.raw_body = request.body
        self._unread_body = False

    def _chunks(self) -> Iterator[tuple[bytes, bytes]]:
        size = -1
        while size != 0:
            line = self._line()
            size = int(line.split(b";")[0], 16)
            data = self._exactly(size)
            # The last chunk is followed by trailers (none expected) and an empty line.
            yield line + data + self._exactly(2), data

    def _line(self) -> bytes:
        while b"\r\n" not in self._buffer:
            if not self._receive():
                raise ClientLeft
        line, _, self._buffer = self._buffer.partition(b"\r\n")
        return line + b"\r\n"

    def _exactly(self, size: int) -> bytes:
        while len(self._buffer) < size:
            if not self._receive():
                raise ClientLeft
        data, self._buffer = self._buffer[:size], self._buffer[size:]
        return data

    def _receive(self) -> bool:
        data = self._sock.recv(65536)
        self._buffer += data
        return bool(data)

    # -- steps

    def run(self, steps: Steps, request: ReceivedRequest | None) -> None:
        for step in steps:
            self._step(step, request)

    def _step(self, step: Step, request: ReceivedRequest | None) -> None:
        match step:
            case bytes() as data:
                self._send(data)
            case Send(data):
                self._send(data)
            case WaitFor(event, timeout):
                self._wait_for(event, timeout)
            case Tell(event):
                event.set()
            case Stall(hangup):
                self._await_hangup()
                if request is not None:
                    request.client_left.set()
                hangup.set()
                raise ClientLeft
            case Close():
                self.close()
            case Reset():
                self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _LINGER_0)
                self._sock.close()
                raise Ended
            case _:
                raise ScriptError(f"a script has no step {step!r}")

    def _send(self, data: bytes) -> None:
        try:
            self._sock.sendall(data)
        except OSError as ex:
            if self._closing.is_set():
                raise Ended from ex
            raise ClientLeft from ex

    def _wait_for(self, event: threading.Event, timeout: float) -> None:
        deadline = time.monotonic() + timeout
        while not event.wait(_POLL):
            if self._closing.is_set():
                raise Ended
            if time.monotonic() > deadline:
                raise ScriptError(f"a script waited {timeout} s for an event of the test")

    def _await_hangup(self) -> None:
        with contextlib.suppress(OSError):
            while self._sock.recv(65536):
                pass
        if self._closing.is_set():
            raise Ended

    def close(self) -> None:
        """Close in good order.

        Closing with unread data would reset the connection and take the answer with it, so an
        unread body is read to its end first.
        """
        if self._unread_body:
            with contextlib.suppress(OSError):
                self._sock.shutdown(socket.SHUT_WR)
                while self._sock.recv(65536):
                    pass
        self._sock.close()
        raise Ended
