"""A byte stream over the binary messages of a WebSocket.

Where one message ends means nothing: what is read is one stream, as net.Conn over WebSocket
is for coderd.  The library does the handshake on a connection of ours; the frames are made and
read here.
"""

from __future__ import annotations

import contextlib
import os
import ssl
import struct
import time
from collections.abc import Mapping
from typing import Final

import websocket
from requests.utils import get_environ_proxies

from aigateway.actors.codec.websocket import BINARY, CLOSE, PING, PONG, encode_frame
from aigateway.actors.control.coderd._upgrade import DialError, UpgradeRefused, read_refusal
from aigateway.actors.control.coderd._websocket_frames import FrameReader, Notice, TextMessage
from aigateway.actors.control.coderd._wire_socket import TlsWire, Wire
from aigateway.actors.upstream.connect import Connector
from aigateway.actors.upstream.endpoint import Endpoint
from aigateway.actors.upstream.errors import UpstreamError

__all__ = ["Channel", "ChannelError", "open_channel"]

_NORMAL_CLOSES: Final = (1000, 1001)
_GOODBYE_PATIENCE: Final = 1.0


class ChannelError(Exception):
    """The connection broke, or the peer sent what is not a byte stream."""


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
        """End both directions at once; the one who waits here returns."""
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
    deadline = time.monotonic() + timeout
    try:
        wire = _connect(url, context, deadline, proxy)
    except (OSError, ValueError, UpstreamError) as ex:
        raise DialError(f"GET {url}: {_reason(ex)}") from ex
    ws = websocket.WebSocket()
    try:
        ws.connect(  # type: ignore[no-untyped-call]
            f"ws{url.removeprefix('http')}",
            header=[f"{name}: {value}" for name, value in headers.items()],
            suppress_origin=True,
            redirect_limit=0,
            socket=wire,
        )
        if ws.status != 101:
            raise websocket.WebSocketException("no upgrade")
        return Channel(wire)
    except (OSError, ValueError, websocket.WebSocketException) as ex:
        error = _explain(wire, url, ex)
        wire.release()
        raise error from None if isinstance(error, UpgradeRefused) else ex


def _connect(url: str, context: ssl.SSLContext | None, deadline: float, proxy: str | None) -> Wire:
    endpoint = Endpoint.of(url)
    if proxy is None:
        proxy = _proxy_of_environment(url, endpoint)
    connector = Connector(endpoint, timeout=deadline - time.monotonic(), proxy=proxy, tls=context)
    sock = connector.connect_below_tls()
    if context is None:
        return Wire(sock, deadline)
    wire = TlsWire(sock, deadline, context, endpoint.host)
    try:
        wire.shake_hands()
    except BaseException:
        wire.release()
        raise
    return wire


def _proxy_of_environment(url: str, endpoint: Endpoint) -> str:
    """What ``HTTPS_PROXY`` or ``HTTP_PROXY`` and ``NO_PROXY`` say; empty for none."""
    proxy = get_environ_proxies(url, no_proxy=None).get(endpoint.scheme, "").strip()
    return f"http://{proxy}" if proxy and "://" not in proxy else proxy


def _explain(wire: Wire, url: str, ex: Exception) -> DialError:
    status = _status(bytes(wire.handshake))
    if status is None or status == 101:
        return DialError(f"GET {url}: {_reason(ex)}")
    return read_refusal(url, status, wire.replayed())


def _status(answer: bytes) -> int | None:
    words = answer.split(b"\r\n", 1)[0].split(b" ")
    if words[0].startswith(b"HTTP/") and len(words) > 1 and words[1].isdigit():
        return int(words[1])
    return None


def _reason(ex: Exception) -> str:
    # A refused proxy or upgrade repeats the whole answer behind this mark.
    text = str(ex).partition(" -+-+- ")[0].strip()
    return text or type(ex).__name__
