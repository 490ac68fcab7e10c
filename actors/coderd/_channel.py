"""A byte stream over the binary messages of a WebSocket.

Where one message ends means nothing: what is read is one stream, as net.Conn over WebSocket
is for coderd.  The library does the proxy, the handshake and what is sent; frames are read
here, and the answer to a refused upgrade is kept.
"""

from __future__ import annotations

import contextlib
import socket
import ssl
import struct
import time
from collections.abc import Mapping
from typing import Any, Final
from urllib.parse import unquote, urlsplit

import websocket
from websocket import ABNF

from aigateway.actors.coderd._upgrade import DialError, UpgradeRefused, read_refusal
from aigateway.actors.coderd._websocket_frames import FrameReader
from aigateway.actors.coderd._wire_socket import Wire, wrap

__all__ = ["Channel", "ChannelError", "open_channel"]

_READ: Final = 64 * 1024
_NORMAL_CLOSES: Final = (1000, 1001)
_GOODBYE_PATIENCE: Final = 1.0


class ChannelError(Exception):
    """The connection broke, or the peer sent what is no byte stream."""


class _WebSocket(websocket.WebSocket):
    """The library's WebSocket with each socket it opens wrapped."""

    def __init__(self, deadline: float, context: ssl.SSLContext | None) -> None:
        self.wire: Wire | None = None
        self._open = False
        self._deadline = deadline
        super().__init__(sslopt={"context": context} if context else None)

    @property
    def sock(self) -> Any:
        return self.wire if self._open else None

    @sock.setter
    def sock(self, value: socket.socket | None) -> None:
        self._open = value is not None
        if value is not None:
            self.wire = wrap(value, self._deadline)


class Channel:
    """A connected byte stream.  One thread may send, another receive, any may abort."""

    def __init__(self, ws: _WebSocket, wire: Wire) -> None:
        self._ws = ws
        self._wire = wire
        self._frames = FrameReader()
        self._fragmented = False
        self._goodbye: bytes | None = None
        self._aborted = False
        wire.established()

    def send(self, data: bytes) -> None:
        """Send one message; blocks while the peer does not read.  Raises ChannelError."""
        try:
            self._ws.send_binary(data)
        except (OSError, ValueError, websocket.WebSocketException) as ex:
            raise ChannelError(f"send: {_reason(ex)}") from ex

    def receive(self) -> bytes:
        """Wait for bytes; ``b""`` is the end.  Raises ChannelError.

        A close with 1000 or 1001 is an end, and so is a connection that is just closed:
        coderd does either.
        """
        try:
            while True:
                data = self._read_frames()
                if data:
                    return data
                if self._goodbye is not None:
                    return self._closed(self._goodbye)
                more = self._wire.recv(_READ)
                if not more:
                    return b""
                self._frames.receive_data(more)
        except (OSError, ValueError, websocket.WebSocketException) as ex:
            if self._aborted:
                return b""
            raise ChannelError(f"receive: {_reason(ex)}") from ex

    def _read_frames(self) -> bytes:
        """Return the data of all frames that are there, up to a goodbye."""
        pieces = []
        while self._goodbye is None and (frame := self._frames.next()) is not None:
            if frame.opcode == ABNF.OPCODE_CLOSE:
                self._goodbye = frame.payload
            elif frame.opcode == ABNF.OPCODE_PING:
                self._ws.pong(frame.payload)
            elif frame.opcode == ABNF.OPCODE_TEXT:
                self.close(1003)
                raise ChannelError("the peer sent a text message")
            elif frame.opcode != ABNF.OPCODE_PONG:
                if (frame.opcode == ABNF.OPCODE_CONT) != self._fragmented:
                    raise ChannelError("the peer mixed up the frames of two messages")
                self._fragmented = not frame.fin
                pieces.append(frame.payload)
        return b"".join(pieces)

    def _closed(self, payload: bytes) -> bytes:
        code = int.from_bytes(payload[:2], "big") or _NORMAL_CLOSES[0]
        self.close(code)
        if code in _NORMAL_CLOSES:
            return b""
        reason = payload[2:].decode(errors="replace")
        raise ChannelError(f"the peer closed with {code}: {reason}")

    def close(self, code: int = 1000) -> None:
        """Say goodbye if that is possible within a second, and end both directions."""
        frame = ABNF.create_frame(struct.pack("!H", code), ABNF.OPCODE_CLOSE).format()
        # A thread that sends holds this lock, for ever if the peer does not read.
        if self._ws.lock.acquire(timeout=_GOODBYE_PATIENCE):
            try:
                self._wire.end_by(time.monotonic() + _GOODBYE_PATIENCE)
                with contextlib.suppress(OSError):
                    self._wire.send(frame)
            finally:
                self._ws.lock.release()
        self.abort()

    def abort(self) -> None:
        """End both directions at once; a blocked send or receive returns."""
        self._aborted = True
        self._wire.abort()

    def release(self) -> None:
        """Give the descriptor back, once nobody sends or receives any more."""
        self._wire.release()


def open_channel(
    url: str,
    headers: Mapping[str, str],
    *,
    context: ssl.SSLContext | None,
    timeout: float,
    proxy: str | None,
) -> Channel:
    """Connect and upgrade within ``timeout`` seconds.

    ``url`` begins with http or https.  Raises UpgradeRefused for an answer that is not an
    upgrade, DialError for everything else.
    """
    ws = _WebSocket(time.monotonic() + timeout, context)
    try:
        ws.connect(  # type: ignore[no-untyped-call]
            f"ws{url.removeprefix('http')}",
            header=[f"{name}: {value}" for name, value in headers.items()],
            suppress_origin=True,
            redirect_limit=0,
            timeout=timeout,
            **_proxy_options(proxy),
        )
        if ws.wire is None or ws.status != 101:
            raise websocket.WebSocketException("no upgrade")
        return Channel(ws, ws.wire)
    except (OSError, ValueError, websocket.WebSocketException) as ex:
        error = _explain(ws.wire, url, ex)
        if ws.wire is not None:
            ws.wire.release()
        raise error from None if isinstance(error, UpgradeRefused) else ex


def _explain(wire: Wire | None, url: str, ex: Exception) -> DialError:
    status = _status(bytes(wire.handshake)) if wire is not None else None
    if wire is None or status is None or status == 101:
        return DialError(f"GET {url}: {_reason(ex)}")
    return read_refusal(url, status, bytes(wire.handshake), wire.recv)


def _status(answer: bytes) -> int | None:
    words = answer.split(b"\r\n", 1)[0].split(b" ")
    if words[0].startswith(b"HTTP/") and len(words) > 1 and words[1].isdigit():
        return int(words[1])
    return None


def _proxy_options(proxy: str | None) -> dict[str, Any]:
    if proxy is None:
        # The library reads the environment.
        return {}
    if not proxy:
        # Naming one and excepting every host is how the library is told to use none.
        return {"http_proxy_host": "none", "http_proxy_port": 1, "http_no_proxy": ["*"]}
    parts = urlsplit(proxy)
    auth = (unquote(parts.username), unquote(parts.password or "")) if parts.username else None
    return {
        "http_proxy_host": parts.hostname,
        "http_proxy_port": parts.port or 80,
        "http_proxy_auth": auth,
        # Whoever named the proxy has looked at NO_PROXY; an empty list would mean the
        # environment's.
        "http_no_proxy": ["no-proxy.invalid"],
    }


def _reason(ex: Exception) -> str:
    # A refused proxy or upgrade repeats the whole answer behind this mark.
    text = str(ex).partition(" -+-+- ")[0].strip()
    return text or type(ex).__name__
