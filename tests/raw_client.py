"""A client that sees every byte of an answer, framing included."""

from __future__ import annotations

import json
import re
import socket
import ssl
from collections.abc import Iterator, Mapping
from typing import Any, Self

import zstandard
from attrs import frozen
from gateway_process import GatewayProcess

__all__ = ["RawAnswer", "RawClient"]

LAST_CHUNK = b"0\r\n\r\n"


@frozen
class RawAnswer:
    """What came until the gateway closed the connection or the answer was complete."""

    status: int
    headers: Mapping[str, str]
    """Names in lower case."""
    body: bytes
    """Without the chunked coding."""
    ended: bool
    """Whether the framing said that the body was complete."""

    @property
    def interception_id(self) -> str:
        return self.headers["x-ai-gateway-interception-id"]


class RawClient:
    """One connection to the gateway, over TLS with a ``tls`` context."""

    def __init__(
        self, gateway: GatewayProcess, *, key: str = "", tls: ssl.SSLContext | None = None
    ) -> None:
        host, port = gateway.url.partition("://")[2].split(":")
        self._socket = socket.create_connection((host, int(port)), timeout=30)
        if tls is not None:
            self._socket = tls.wrap_socket(self._socket, server_hostname=host)
        self.port: int = self._socket.getsockname()[1]
        """This end's."""
        self._key = key or gateway.key()
        self._buffer = b""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._socket.close()

    def reset(self) -> None:
        """Go away with a RST."""
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        self._socket.close()

    def post(self, path: str, body: Any, **headers: str) -> None:
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        lines = [
            f"POST {path} HTTP/1.1",
            "Host: gateway",
            f"Authorization: Bearer {self._key}",
            "Content-Type: application/json",
            f"Content-Length: {len(data)}",
            *(f"{name}: {value}" for name, value in headers.items()),
        ]
        self.send("\r\n".join([*lines, "", ""]).encode() + data)

    def send(self, data: bytes) -> None:
        self._socket.sendall(data)

    def read_until(self, text: bytes) -> bytes:
        """Read until ``text`` has come; what follows it stays in the buffer."""
        while text not in self._buffer:
            data = self._socket.recv(65536)
            assert data, f"the connection ended before {text!r}: {self._buffer!r}"
            self._buffer += data
        return self._buffer

    def answer(self) -> RawAnswer:
        """Read the whole answer."""
        head = self.read_until(b"\r\n\r\n").split(b"\r\n\r\n", 1)[0].decode("latin-1")
        self._buffer = self._buffer[len(head) + 4 :]
        first, *lines = head.split("\r\n")
        headers = {k.lower(): v.strip() for k, v in (line.split(":", 1) for line in lines)}
        if headers.get("transfer-encoding") == "chunked":
            body, ended = self._chunks()
        elif "content-length" in headers:
            body, ended = self._length(int(headers["content-length"]))
        else:
            body, ended = self._rest(), True
        return RawAnswer(int(first.split(" ")[1]), headers, body, ended)

    def pieces(self) -> Iterator[bytes]:
        """The rest of the connection as it comes, framing and all, up to a final chunk."""
        yield self._buffer
        while data := self._socket.recv(1 << 20):
            yield data
            if data.endswith(LAST_CHUNK):
                return

    def read_rest(self) -> bytes:
        """What comes until the gateway closes the connection."""
        return self._rest()

    def _more(self) -> bool:
        try:
            data = self._socket.recv(65536)
        except ConnectionError:
            return False
        self._buffer += data
        return bool(data)

    def _length(self, length: int) -> tuple[bytes, bool]:
        while len(self._buffer) < length and self._more():
            pass
        body, self._buffer = self._buffer[:length], self._buffer[length:]
        return body, len(body) == length

    def _rest(self) -> bytes:
        while self._more():
            pass
        return self._buffer

    def _chunks(self) -> tuple[bytes, bool]:
        body = b""
        while True:
            match = re.match(rb"([0-9A-Fa-f]+)\r\n", self._buffer)
            if match is None or len(self._buffer) < match.end() + int(match[1], 16) + 2:
                if not self._more():
                    return body, False
                continue
            size = int(match[1], 16)
            body += self._buffer[match.end() : match.end() + size]
            self._buffer = self._buffer[match.end() + size + 2 :]
            if not size:
                return body, True


def unzip(data: bytes, coding: str) -> bytes:
    """Undo a content coding, for assertions on what a client would read."""
    import zlib

    import brotli

    if coding == "br":
        return bytes(brotli.decompress(data))
    if coding == "zstd":
        return zstandard.ZstdDecompressor().decompressobj().decompress(data)
    return zlib.decompress(data, wbits=47)
