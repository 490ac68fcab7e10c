"""Clients: so many threads, each with one request after the other, on a connection of its own.

A request is written and read by hand, because what matters is how it ended: whole, with an error,
broken off, or not at all.
"""

from __future__ import annotations

import json
import random
import socket
import threading
import time
from collections.abc import Mapping

from attrs import evolve, frozen

from bench.chaos.ledger import Answered, Book
from bench.chaos.moods import Moods
from bench.payloads import MODELS, Endpoint, raw_request

__all__ = ["BOUND", "Clients"]

BOUND = 60.0
"""Seconds from the first byte of a request to the last of its answer; then it hangs.  The gateway
is started with limits of 10 s and less for each thing it may wait for."""
SHARE = 0.4
"""Part of the clients that misbehave while such a fault lasts."""
PAUSE = 2.0
"""Seconds for which a client stalls."""
_THINK = 0.15
"""Longest pause between two requests of a client, in seconds."""
_ENDS = {"chat": b"data: [DONE]", "messages": b'"type":"message_stop"'}
_ERRORS = (b"event: error", b'data: {"error"', b'data: {"type":"error"')


class Clients:
    """``count`` threads; ``start`` them, then ``stop`` them."""

    def __init__(
        self, endpoints: Mapping[str, Endpoint], count: int, book: Book, moods: Moods, seed: int
    ) -> None:
        self._endpoints = endpoints
        self._book = book
        self._moods = moods
        self._ending = threading.Event()
        self._began = time.monotonic()
        self._threads = [
            threading.Thread(target=self._run, args=(f"chaos-{seed}-{number}",))
            for number in range(count)
        ]

    def start(self) -> None:
        self._began = time.monotonic()
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """Let running requests end, each within its bound."""
        self._ending.set()
        for thread in self._threads:
            thread.join()

    def _run(self, name: str) -> None:
        number = 0
        while not self._ending.is_set():
            number += 1
            # The dash at the end: no marker is the beginning of another.
            marker = f"{name}-{number}-"
            api = random.choice(sorted(self._endpoints))
            began = time.monotonic()
            call = _Call(self._endpoints[api], api, marker, random.random() < 0.5, self._moods)
            answer = call.run()
            now = time.monotonic()
            self._book.note(evolve(answer, began=began - self._began, seconds=now - began))
            patience = 0.3 if answer.outcome in ("unreachable", "refused") else _THINK
            self._ending.wait(random.random() * patience)


@frozen
class _Head:
    status: int
    interception: str
    length: int | None
    """None: chunked."""


class _Call:
    """One request."""

    def __init__(
        self, endpoint: Endpoint, api: str, marker: str, stream: bool, moods: Moods
    ) -> None:
        self._endpoint = endpoint
        self._api = api
        self._marker = marker
        self._stream = stream
        self._mood = moods.pick("clients-", SHARE)
        self._deadline = time.monotonic() + BOUND
        self._head: _Head | None = None
        self._received = b""

    def run(self) -> Answered:
        try:
            sock = socket.create_connection(("127.0.0.1", self._endpoint.port), BOUND)
        except TimeoutError:
            return self._ended("hung", "no connection")
        except OSError as ex:
            return self._ended("unreachable", str(ex))
        with sock:
            try:
                self._send(sock)
                return self._read(sock)
            except TimeoutError:
                return self._ended("hung", f"{len(self._received)} bytes of an answer")
            except OSError as ex:
                return self._ended("cut", str(ex))

    def _ended(self, outcome: str, detail: str = "") -> Answered:
        head = self._head
        return Answered(
            outcome,
            self._marker,
            head.interception if head else "",
            f"{self._api}{', streamed' if self._stream else ''}",
            head.status if head else 0,
            detail,
        )

    def _send(self, sock: socket.socket) -> None:
        body: dict[str, object] = {
            "model": MODELS[self._api],
            "max_tokens": 100,
            "messages": [{"role": "user", "content": f"{self._marker} what is chaos?"}],
        }
        if self._stream:
            body["stream"] = True
            if self._api == "chat":
                body["stream_options"] = {"include_usage": True}
        data = raw_request(self._endpoint, json.dumps(body).encode())
        if self._mood == "clients-stall":
            sock.sendall(data[:-40])
            time.sleep(PAUSE)
            data = data[-40:]
        sock.sendall(data)

    def _read(self, sock: socket.socket) -> Answered:
        vanishing = self._mood == "clients-vanish"
        stalling = self._mood == "clients-stall"
        if vanishing and random.random() < 0.3:
            return self._ended("left", "before the answer")
        while True:
            left = self._deadline - time.monotonic()
            if left <= 0:
                raise TimeoutError
            sock.settimeout(left)
            data = sock.recv(4096)
            if not data:
                return self._closed()
            self._received += data
            if self._head is None:
                self._parse_head()
            if self._head is not None and (answer := self._whole(self._head)):
                return answer
            if vanishing:
                return self._ended("left", "within the answer")
            if stalling:
                stalling = False
                time.sleep(PAUSE)

    def _parse_head(self) -> None:
        head, end, rest = self._received.partition(b"\r\n\r\n")
        if not end:
            return
        first, *lines = head.decode("latin-1").split("\r\n")
        fields = {}
        for line in lines:
            name, _, value = line.partition(":")
            fields[name.lower()] = value.strip()
        length = None if "transfer-encoding" in fields else int(fields.get("content-length", 0))
        self._head = _Head(
            int(first.split(" ")[1]), fields.get("x-ai-gateway-interception-id", ""), length
        )
        self._received = rest

    def _whole(self, head: _Head) -> Answered | None:
        if head.length is not None:
            if len(self._received) < head.length:
                return None
        elif not self._received.endswith(b"\r\n0\r\n\r\n"):
            return None
        if head.status != 200:
            return self._ended("refused", self._received[:300].decode(errors="replace"))
        if self._stream and _ENDS[self._api] not in self._received:
            return self._ended("ended by an error event", "with a proper end, which is wrong")
        return self._ended("answered")

    def _closed(self) -> Answered:
        if self._head is not None and any(error in self._received for error in _ERRORS):
            return self._ended("ended by an error event")
        return self._ended("cut", f"closed after {len(self._received)} bytes")
