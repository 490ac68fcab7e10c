"""A byte stream over the binary messages of a WebSocket.

Where one message ends means nothing: what is read is one stream, as net.Conn over WebSocket
is for coderd.  The library does the proxy and the handshake, and keeps the answer to a refused
upgrade; the frames are made and read here.
"""

from __future__ import annotations

import contextlib
import os
import socket
import ssl
import struct
import time
from collections.abc import Mapping
from typing import Any, Final
from urllib.parse import unquote, urlsplit

import websocket

from aigateway.actors.control.coderd._upgrade import DialError, UpgradeRefused, read_refusal
from aigateway.actors.control.coderd._websocket_frames import (
    BINARY,
    CLOSE,
    PING,
    PONG,
    FrameReader,
    Notice,
    TextMessage,
    encode_frame,
)
from aigateway.actors.control.coderd._wire_socket import TlsContext, Wire

__all__ = ["Channel", "ChannelError", "open_channel"]

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
        super().__init__(sslopt={"context": TlsContext(context, deadline)} if context else None)

    @property
    def sock(self) -> Any:
        return self.wire if self._open else None

    @sock.setter
    def sock(self, value: Wire | socket.socket | None) -> None:
        self._open = value is not None
        if value is not None:
            self.wire = value if isinstance(value, Wire) else Wire(value, self._deadline)


class Channel:
    """A connected byte stream.

    One thread receives, any may send, close or abort.
    """

    def __init__(self, wire: Wire) -> None:
        self._wire = wire
        self._frames = FrameReader()
        self._aborted = False
        wire.established()

    # -- sending

    def send_now(self, data: bytes) -> bool:
        """Send one message, and say whether all of it has left.

        Does not wait: what does not fit stays here, and should be flushed before more is
        sent.  Raises ChannelError.
        """
        try:
            return self._send(BINARY, data)
        except (OSError, ValueError) as ex:
            raise ChannelError(f"send: {_reason(ex)}") from ex

    def flush(self) -> None:
        """Send what has stayed here; waits while the peer does not read.  Raises ChannelError."""
        try:
            self._wire.flush(None)
        except (OSError, ValueError) as ex:
            raise ChannelError(f"send: {_reason(ex)}") from ex

    def _send(self, opcode: int, payload: bytes) -> bool:
        return self._wire.send_now(encode_frame(opcode, payload, os.urandom(4)))

    # -- receiving

    def receive(self) -> bytes:
        """Wait for bytes; ``b""`` is the end.  Raises ChannelError.

        A close with 1000 or 1001 is an end, and so is a connection that is just closed:
        coderd does either.
        """
        try:
            while not self._aborted:
                found = self._frames.next()
                if isinstance(found, bytes):
                    return found
                if found is not None:
                    self._read_notice(found)
                elif more := self._wire.receive():
                    self._frames.receive_data(more)
                else:
                    break
        except TextMessage as ex:
            self.close(1003)
            raise ChannelError(str(ex)) from ex
        except (OSError, ValueError) as ex:
            if not self._aborted:
                raise ChannelError(f"receive: {_reason(ex)}") from ex
        return b""

    def _read_notice(self, notice: Notice) -> None:
        if notice.opcode == PING:
            # More may have arrived behind it, whether or not anything can be sent.
            with contextlib.suppress(OSError):
                self._send(PONG, notice.payload)
        elif notice.opcode == CLOSE:
            code = int.from_bytes(notice.payload[:2], "big") or _NORMAL_CLOSES[0]
            self.close(code)
            if code not in _NORMAL_CLOSES:
                reason = notice.payload[2:].decode(errors="replace")
                raise ChannelError(f"the peer closed with {code}: {reason}")

    # -- the end

    def close(self, code: int = 1000) -> None:
        """Say goodbye if that is possible within a second, and end both directions."""
        with contextlib.suppress(OSError, ValueError):
            self._send(CLOSE, struct.pack("!H", code))
            self._wire.flush(time.monotonic() + _GOODBYE_PATIENCE)
        self.abort()

    def end(self) -> None:
        """End both directions; what has arrived can still be received."""
        self._wire.end()

    def reset(self) -> None:
        """End both directions at once, and throw away what has not left the machine."""
        self._wire.discard()
        self.abort()

    def abort(self) -> None:
        """End both directions at once; whoever waits here returns."""
        self._aborted = True
        self._wire.end()

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
        return Channel(ws.wire)
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
