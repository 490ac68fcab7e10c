"""``python -m bench.load.calls SPEC``: blocking requests over kept-alive connections.

Open loop: requests are due at moments that do not depend on the answers, and latency counts
from the moment a request was due.  A gateway that stalls does not thereby get fewer requests
(no coordinated omission), and requests that never got an answer enter the latencies with the
time they had waited at the end.
"""

from __future__ import annotations

import errno
import gc
import json
import os
import random
import select
import socket
import sys
from collections import deque
from pathlib import Path
from time import monotonic_ns
from typing import Any

import httptools

from bench.load.driver import say
from bench.load.histogram import Histogram
from bench.load.spec import KEY_PLACE, CallsSpec

__all__ = ["CallsDriver"]

MOST_CONNECTIONS = 2000
"""Requests in flight of an open loop; more wait for a connection, and their latency counts."""


def _now() -> int:
    """CLOCK_MONOTONIC in microseconds."""
    return monotonic_ns() // 1000


class _Connection:
    """One connection; carries one request at a time."""

    __slots__ = ("_driver", "_parser", "due", "fresh", "out", "sent_at", "sock", "status")

    def __init__(self, driver: CallsDriver) -> None:
        self._driver = driver
        self.sock = socket.socket()
        self.sock.setblocking(False)
        self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.sock.connect_ex(("127.0.0.1", driver.spec.target.port))
        self.due = 0
        self.sent_at = 0
        self.status = 0
        self.fresh = True
        self.out = b""
        self._parser = httptools.HttpResponseParser(self)

    def send(self, request: bytes, due: int) -> None:
        self.due = due
        self.sent_at = _now()
        self.status = 0
        self.out = request
        self.write()

    def write(self) -> None:
        try:
            sent = self.sock.send(self.out)
        except OSError as ex:
            if ex.errno not in (errno.EAGAIN, errno.ENOTCONN):
                self.sent_at = 0
                self._driver.broken(self, ex.strerror or "write error")
                return
            sent = 0
        self.out = self.out[sent:]
        self._driver.watch(self)

    def read(self) -> None:
        try:
            data = self.sock.recv(262144)
        except BlockingIOError:
            return
        except OSError as ex:
            self._driver.broken(self, ex.strerror or "read error")
            return
        if not data:
            self._driver.broken(self, "closed without an answer")
            return
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError:
            self._driver.broken(self, "answer is not HTTP")

    # Called by the parser.

    def on_message_complete(self) -> None:
        self.status = self._parser.get_status_code()
        self._driver.answered(self, self._parser.should_keep_alive())


class CallsDriver:
    """Runs one spec."""

    def __init__(self, spec: CallsSpec) -> None:
        self.spec = spec
        self._epoll = select.epoll()
        self._connections: dict[int, _Connection] = {}
        self._idle: list[_Connection] = []
        self._waiting: deque[int] = deque()
        self._requests = spec.target.read_requests()
        self._keys = spec.target.read_keys()
        self._turn = 0
        self._ending = False
        self.latency, self.service, self.lateness = Histogram(), Histogram(), Histogram()
        self.sent = self.ok = self.reconnects = 0
        self.errors: dict[str, int] = {}

    def run(self) -> dict[str, Any]:
        """Drive, and return the result."""
        say(phase="measuring")
        began = _now()
        end = began + int(self.spec.seconds * 1e6)
        if self.spec.rate:
            self._open_loop(began, end)
        else:
            self._closed_loop(end)
        self._ending = True
        measured = _now()
        say(phase="measured")
        answered_in_time = self.ok
        self._finish(measured + int(self.spec.grace * 1e6))
        return self._result((measured - began) / 1e6, answered_in_time)

    def _open_loop(self, began: int, end: int) -> None:
        chance = random.Random(self.spec.seed)
        period = 1e6 / self.spec.rate
        due = began + period
        while True:
            now = _now()
            while due <= now:
                self._waiting.append(int(due))
                due += chance.expovariate(1.0) * period if self.spec.poisson else period
            self._dispatch()
            if now >= end:
                return
            self._turn_loop(max(min(due, end) - _now(), 0))

    def _closed_loop(self, end: int) -> None:
        for _ in range(self.spec.concurrency):
            self._waiting.append(0)
        while (now := _now()) < end:
            self._dispatch()
            self._turn_loop(end - now)

    def _finish(self, deadline: int) -> None:
        if not self.spec.rate:
            self._waiting.clear()
        while (self._waiting or self._in_flight()) and (now := _now()) < deadline:
            self._dispatch()
            self._turn_loop(min(deadline - now, 100_000))

    def _in_flight(self) -> int:
        return len(self._connections) - len(self._idle)

    def _turn_loop(self, microseconds: float) -> None:
        # epoll rounds up to milliseconds, select does not.
        if select.select([self._epoll], [], [], microseconds / 1e6)[0]:
            for fd, mask in self._epoll.poll(0, 512):
                connection = self._connections.get(fd)
                if connection is None:
                    continue
                if mask & select.EPOLLOUT and connection.out:
                    connection.write()
                if mask & ~select.EPOLLOUT:
                    connection.read()
        for histogram in (self.latency, self.service, self.lateness):
            histogram.shrink()

    def _dispatch(self) -> None:
        waiting = self._waiting
        while waiting:
            if self._idle:
                connection = self._idle.pop()
            elif len(self._connections) < MOST_CONNECTIONS:
                connection = _Connection(self)
                self._connections[connection.sock.fileno()] = connection
                self._epoll.register(connection.sock, select.EPOLLIN)
            else:
                return
            due = waiting.popleft()
            now = _now()
            if due:
                self.lateness.add(now - due)
            self.sent += 1
            connection.send(self._next_request(), due or now)

    def _next_request(self) -> bytes:
        turn = self._turn
        self._turn += 1
        request = self._requests[turn % len(self._requests)]
        if self._keys:
            return request.replace(KEY_PLACE, self._keys[turn % len(self._keys)], 1)
        return request

    # -- told by connections

    def watch(self, connection: _Connection) -> None:
        events = select.EPOLLIN | (select.EPOLLOUT if connection.out else 0)
        self._epoll.modify(connection.sock, events)

    def answered(self, connection: _Connection, keep: bool) -> None:
        now = _now()
        self.latency.add(now - connection.due)
        self.service.add(now - connection.sent_at)
        if connection.status == 200:
            self.ok += 1
        else:
            self._error(f"status {connection.status}")
        connection.sent_at = 0
        connection.fresh = False
        if keep:
            self._idle.append(connection)
        else:
            self._drop(connection)
        self._again()

    def broken(self, connection: _Connection, reason: str) -> None:
        busy, fresh, due = connection.sent_at or connection.out, connection.fresh, connection.due
        if connection in self._idle:
            self._idle.remove(connection)
        self._drop(connection)
        if not busy:
            return
        if not fresh:
            # A kept-alive connection was closed as we wrote: every client tries again.
            self.reconnects += 1
            self.sent -= 1
            self._waiting.appendleft(due)
            return
        self._error(reason)
        self._again()

    def _again(self) -> None:
        if not self.spec.rate and not self._ending:
            self._waiting.append(0)

    def _drop(self, connection: _Connection) -> None:
        self._connections.pop(connection.sock.fileno(), None)
        connection.sock.close()

    def _error(self, reason: str) -> None:
        self.errors[reason] = self.errors.get(reason, 0) + 1

    def _result(self, seconds: float, in_time: int) -> dict[str, Any]:
        now = _now()
        unanswered = [c.due for c in self._connections.values() if c.sent_at] + list(self._waiting)
        for due in unanswered:
            self.latency.add(now - due)
        times = os.times()
        return {
            "numbers": {
                "seconds": seconds,
                "sent": self.sent,
                "ok": self.ok,
                "ok_in_time": in_time,
                "unanswered": len(unanswered),
                "reconnects": self.reconnects,
                "connections": len(self._connections),
                "driver_cpu": times.user + times.system,
            },
            "histograms": {
                "latency": self.latency.to_json(),
                "service": self.service.to_json(),
                "lateness": self.lateness.to_json(),
            },
            "errors": self.errors,
        }


def main() -> None:
    spec = CallsSpec.from_json(json.loads(Path(sys.argv[1]).read_text()))
    driver = CallsDriver(spec)
    gc.freeze()
    gc.disable()
    say(result=driver.run())


if __name__ == "__main__":
    main()
