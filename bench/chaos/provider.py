"""A provider that misbehaves on command: the answers of ``bench.upstream``, from threads.

The imitation there is built for speed and does not fail; this one is built to fail.
"""

from __future__ import annotations

import contextlib
import json
import random
import socket
import socketserver
import struct
import threading
from collections import Counter
from typing import Self

from bench.chaos.moods import Moods
from bench.upstream.answers import MARKER, answers_for

__all__ = ["ChaosProvider"]

SHARE = 0.4
"""Part of the answers that a fault strikes while it lasts: the others show that it harms no one
but its own."""
EVENTS = 8
INTERVAL = 0.02
"""Seconds between two events."""
_ERRORS = {"provider-500": 500, "provider-503": 503, "provider-429": 429}
_LINGER_0 = struct.pack("ii", 1, 0)
_ANSWERS = answers_for(300, EVENTS)


class ChaosProvider:
    """Serves Chat Completions and Messages on 127.0.0.1 until it is closed."""

    def __init__(self, moods: Moods) -> None:
        self.requests: Counter[str] = Counter()
        """By what was done to them."""
        self._server = _Server(("127.0.0.1", 0), moods, self.requests)
        self.port: int = self._server.server_address[1]
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.1,))
        self._thread.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_raised: object) -> None:
        self._server.ending.set()
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


class _Server(socketserver.ThreadingTCPServer):
    allow_reuse_address = True
    daemon_threads = True
    request_queue_size = 1024

    def __init__(self, address: tuple[str, int], moods: Moods, requests: Counter[str]) -> None:
        self.moods = moods
        self.requests = requests
        self.ending = threading.Event()
        super().__init__(address, _Connection)


class _Connection(socketserver.StreamRequestHandler):
    server: _Server
    request: socket.socket

    def handle(self) -> None:
        self.request.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        with contextlib.suppress(OSError):
            while self._one():
                pass

    def _one(self) -> bool:
        """Answer one request; false at the connection's end."""
        line = self.rfile.readline()
        if not line:
            return False
        length = 0
        while (header := self.rfile.readline()).strip():
            name, _, value = header.partition(b":")
            if name.lower() == b"content-length":
                length = int(value)
        body = self.rfile.read(length)
        if len(body) < length:
            return False
        api = "messages" if b"/messages" in line else "chat"
        mood = self.server.moods.pick("provider-", SHARE)
        self.server.requests[mood or "answered"] += 1
        if mood in _ERRORS:
            return self._error(_ERRORS[mood])
        if mood == "provider-reset":
            return self._reset()
        if json.loads(body).get("stream"):
            return self._stream(api, body, mood)
        return self._blocking(api, mood)

    def _error(self, status: int) -> bool:
        body = json.dumps({"error": {"type": "api_error", "message": f"chaos {status}"}}).encode()
        head = f"HTTP/1.1 {status} Chaos\r\nContent-Type: application/json\r\nRetry-After: 1\r\n"
        self.request.sendall(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
        return True

    def _reset(self) -> bool:
        self.request.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _LINGER_0)
        # The files of the handler hold the socket open otherwise.
        self.rfile.close()
        self.wfile.close()
        self.request.close()
        return False

    def _break(self, mood: str) -> bool:
        if mood == "provider-cut":
            return self._reset() if random.random() < 0.5 else False
        # Silent until the gateway loses patience.
        self.request.settimeout(60)
        while self.request.recv(65536):
            pass
        return False

    def _blocking(self, api: str, mood: str) -> bool:
        answer = _ANSWERS.blocking[api] % random.randrange(10**12)
        if mood:
            self.request.sendall(answer[: len(answer) // 2])
            return self._break(mood)
        self.server.ending.wait(random.random() * 0.1)
        self.request.sendall(answer)
        return True

    def _stream(self, api: str, body: bytes, mood: str) -> bool:
        stream = _ANSWERS.streams[api]
        self.request.sendall(stream.opening)
        for number in range(EVENTS):
            if mood and number == EVENTS // 2:
                return self._break(mood)
            self.server.ending.wait(INTERVAL)
            self.request.sendall(stream.before + MARKER % (number, 0) + stream.after)
        usage = b'"include_usage"' in body
        self.request.sendall(stream.closing_with_usage if usage else stream.closing)
        return True
