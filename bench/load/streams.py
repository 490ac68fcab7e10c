"""``python -m bench.load.streams SPEC``: many event streams, open at once.

Every content event of the imitation has a number and the moment it was sent, so loss,
merging (several events in what one read returned) and the delay on the way are counted
exactly.  What has not arrived is not left out: streams that are silent when the measurement
ends enter the gaps with their silence, and streams without an end are reported.
"""

from __future__ import annotations

import gc
import json
import os
import random
import re
import select
import socket
import struct
import sys
from collections.abc import Callable
from pathlib import Path
from time import monotonic_ns
from typing import Any

from bench.load.driver import say
from bench.load.histogram import Histogram
from bench.load.spec import KEY_PLACE, StreamsSpec

__all__ = ["StreamsDriver"]

STALLED_US = 1_000_000
"""A stream that was silent for so long when the measurement ended counts as stalled."""

RETRY_US = 200_000
"""Pause before a client whose stream failed tries again."""

_markers = re.compile(rb"#(\d{6})\.(\d{15})#").finditer
_TAIL = 64
"""Bytes kept between reads: more than any text that is searched for is long."""
_RESET = struct.pack("ii", 1, 0)


def _now() -> int:
    """CLOCK_MONOTONIC in microseconds, which the imitation uses too."""
    return monotonic_ns() // 1000


class _Client:
    """One place of the load: a connection and the stream on it, one after the other."""

    __slots__ = (
        "began",
        "closing",
        "driver",
        "first",
        "head",
        "last_event",
        "leave_at",
        "measured",
        "number",
        "out",
        "reused",
        "seen",
        "sock",
        "tail",
        "terminal",
    )

    def __init__(self, driver: StreamsDriver, number: int) -> None:
        self.driver = driver
        self.number = number
        self.sock: socket.socket | None = None
        self.reused = False
        self.out = self.head = self.tail = b""
        self.began = self.first = self.last_event = self.seen = self.leave_at = 0
        self.closing = self.terminal = self.measured = False

    def begin(self, now: int) -> None:
        """Ask for the next stream, on the same connection when there is one."""
        driver = self.driver
        if driver.ending:
            return
        self.began = now
        self.first = self.last_event = self.seen = 0
        self.head = self.tail = b""
        self.terminal = self.closing = False
        self.measured = driver.measuring or driver.spec.all_first_bytes
        self.leave_at = driver.pick_leave()
        self.out = driver.next_request()
        driver.begun += 1
        self.reused = self.sock is not None
        if self.sock is None:
            self.sock = socket.socket()
            self.sock.setblocking(False)
            self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self.sock.connect_ex(("127.0.0.1", driver.spec.target.port))
            driver.register(self)
        self.write()

    @property
    def open(self) -> bool:
        """Whether a stream was begun that has not ended."""
        return self.began != 0

    def write(self) -> None:
        assert self.sock is not None
        try:
            sent = self.sock.send(self.out)
        except (BlockingIOError, OSError) as ex:
            if not isinstance(ex, BlockingIOError) and ex.errno != 107:  # not connected yet
                self._failed(ex.strerror or "write error")
                return
            sent = 0
        self.out = self.out[sent:]
        self.driver.watch_writes(self, bool(self.out))

    def read(self) -> None:
        if self.sock is None:
            return
        try:
            data = self.sock.recv(262144)
        except BlockingIOError:
            return
        except OSError as ex:
            self._failed(ex.strerror or "read error")
            return
        now = _now()
        if not data:
            self._closed(now)
        elif self.began:
            if not self.first:
                self.first = now
                self.driver.first_byte(self, now - self.began)
            if self.head is not None:
                data = self._read_head(data)
            if data:
                self._events(data, now)

    def _read_head(self, data: bytes) -> bytes:
        head = self.head + data
        end = head.find(b"\r\n\r\n")
        if end < 0:
            self.head = head
            return b""
        status = head[9:12]
        if status != b"200":
            self._failed(f"status {status.decode(errors='replace')}")
            return b""
        self.closing = b"\r\nconnection: close" in head[:end].lower()
        self.head = None  # type: ignore[assignment]
        return head[end + 4 :]

    def _events(self, data: bytes, now: int) -> None:
        text = self.tail + data
        driver = self.driver
        last = found = 0
        for match in _markers(text):
            found += 1
            number, sent_at = match.groups()
            driver.arrived(now - int(sent_at))
            seen = int(number)
            if seen != self.seen:
                if seen > self.seen:
                    driver.lost += seen - self.seen
                else:
                    driver.doubled += 1
            self.seen = seen + 1
            last = match.end()
        if found:
            driver.gaps(found, now - self.last_event if self.last_event else -1)
            self.last_event = now
            if self.leave_at and self.seen >= self.leave_at:
                self._leave(now)
                return
        if not self.terminal and (b"[DONE]" in text or b"message_stop" in text):
            self.terminal = True
        if self.terminal and text.endswith(b"0\r\n\r\n"):
            self._finished(now, keep=not self.closing)
        else:
            self.tail = text[max(last, len(text) - _TAIL) :]

    # -- ends

    def _finished(self, now: int, keep: bool) -> None:
        driver = self.driver
        driver.finished += 1
        driver.lost += driver.spec.events - self.seen
        self.began = 0
        if not keep:
            self._drop()
        self.begin(now)

    def _leave(self, now: int) -> None:
        assert self.sock is not None
        self.driver.left += 1
        if self.driver.left % 2:
            self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
        self.began = 0
        self._drop()
        self.begin(now)

    def _closed(self, now: int) -> None:
        if not self.began:
            self._drop()
        elif self.terminal:
            self._finished(now, keep=False)
        elif self.reused and not self.first:
            # A kept-alive connection was closed as we wrote: every client tries again.
            self.driver.begun -= 1
            self.driver.reconnects += 1
            self._drop()
            self.begin(self.began)
        else:
            self._failed("closed inside the stream" if self.first else "closed without an answer")

    def _failed(self, reason: str) -> None:
        self.driver.error(reason)
        self.began = 0
        self._drop()
        self.driver.later(RETRY_US, self.begin)

    def _drop(self) -> None:
        if self.sock is not None:
            self.driver.forget(self)
            self.sock.close()
            self.sock = None


class StreamsDriver:
    """Runs one spec."""

    def __init__(self, spec: StreamsSpec) -> None:
        self.spec = spec
        self.ending = self.measuring = False
        self._epoll = select.epoll()
        self._clients: dict[int, _Client] = {}
        self._places: list[_Client] = []
        self._later: list[tuple[int, int, Callable[[int], None]]] = []
        self._chance = random.Random(spec.seed)
        self._requests = spec.target.read_requests()
        self._keys = spec.target.read_keys()
        self.begun = self.finished = self.left = self.reconnects = 0
        self.lost = self.doubled = self.merged = self.events = 0
        self.errors: dict[str, int] = {}
        self._gaps, self._ttfb, self._delay = Histogram(), Histogram(), Histogram()

    def run(self) -> dict[str, Any]:
        """Drive, and return the result."""
        spec = self.spec
        began = _now()
        for number in range(spec.streams):
            client = _Client(self, number)
            self._places.append(client)
            self.later(int(spec.ramp * 1e6 * number / spec.streams), client.begin)
        self._until(began + int(spec.ramp * 1e6))
        say(phase="measuring")
        self.measuring, begun_before = True, self.begun
        start = _now()
        self._until(start + int(spec.seconds * 1e6))
        self.measuring, measured = False, _now()
        say(phase="measured")
        begun, stalled = self.begun - begun_before, self._take_stalled(measured)
        self.ending = True
        self._until(measured + int(spec.grace * 1e6), lambda: not self._open())
        self._take_speechless(_now())
        return self._result((measured - start) / 1e6, begun, stalled)

    def _until(self, deadline: int, over: Callable[[], bool] = lambda: False) -> None:
        later, clients = self._later, self._clients
        while (now := _now()) < deadline and not over():
            while later and later[-1][0] <= now:
                later.pop()[2](now)
            due = min(later[-1][0] if later else deadline, deadline)
            if self.ending:
                due = min(due, now + 20_000)
            # epoll rounds up to milliseconds; nothing here is due more exactly than that.
            for fd, mask in self._epoll.poll(max(due - _now(), 0) / 1e6, 1024):
                client = clients.get(fd)
                if client is None:
                    continue
                if mask & select.EPOLLOUT and client.out:
                    client.write()
                if mask & ~select.EPOLLOUT:
                    client.read()
            for histogram in (self._gaps, self._delay):
                histogram.shrink()

    def _open(self) -> int:
        return sum(client.open for client in self._places)

    def _take_stalled(self, now: int) -> int:
        stalled = 0
        for client in self._places:
            if not client.open:
                continue
            silent = now - (client.last_event or client.began)
            if silent > STALLED_US:
                stalled += 1
                if client.last_event:
                    self._gaps.add(silent)
                else:
                    self._ttfb.add(silent)
                    client.measured = False
        return stalled

    def _take_speechless(self, now: int) -> None:
        """Streams of the measurement that never had a first byte enter with their silence."""
        for client in self._places:
            if client.open and client.measured and not client.first:
                self._ttfb.add(now - client.began)

    # -- told by clients

    def arrived(self, delay: int) -> None:
        self.events += self.measuring
        if self.measuring:
            self._delay.add(delay)

    def gaps(self, found: int, gap: int) -> None:
        """``found`` events came at once, ``gap`` after the one before (-1: the first)."""
        if self.measuring:
            if gap >= 0:
                self._gaps.add(gap)
            self.merged += found - 1
            for _ in range(found - 1):
                self._gaps.add(0)

    def first_byte(self, client: _Client, took: int) -> None:
        if self.measuring or client.measured:
            self._ttfb.add(took)

    def error(self, reason: str) -> None:
        self.errors[reason] = self.errors.get(reason, 0) + 1

    def pick_leave(self) -> int:
        """After how many events the next client leaves; 0: never."""
        most = self.spec.leave_after
        return self._chance.randint(1, 2 * most - 1) if most else 0

    def next_request(self) -> bytes:
        turn = self.begun
        request = self._requests[turn % len(self._requests)]
        if self._keys:
            return request.replace(KEY_PLACE, self._keys[turn % len(self._keys)], 1)
        return request

    def later(self, microseconds: int, callback: Callable[[int], None]) -> None:
        self._later.append((_now() + microseconds, len(self._later), callback))
        self._later.sort(key=lambda entry: -entry[0])

    def register(self, client: _Client) -> None:
        assert client.sock is not None
        self._clients[client.sock.fileno()] = client
        self._epoll.register(client.sock, select.EPOLLIN)

    def watch_writes(self, client: _Client, on: bool) -> None:
        assert client.sock is not None
        self._epoll.modify(client.sock, select.EPOLLIN | (select.EPOLLOUT if on else 0))

    def forget(self, client: _Client) -> None:
        assert client.sock is not None
        self._clients.pop(client.sock.fileno(), None)

    def _result(self, seconds: float, begun: int, stalled: int) -> dict[str, Any]:
        times = os.times()
        return {
            "numbers": {
                "seconds": seconds,
                "streams_begun": self.begun,
                "streams_begun_measured": begun,
                "streams_finished": self.finished,
                "streams_unfinished": self._open(),
                "streams_stalled": stalled,
                "streams_left": self.left,
                "reconnects": self.reconnects,
                "events": self.events,
                "events_lost": self.lost,
                "events_doubled": self.doubled,
                "events_merged": self.merged,
                "driver_cpu": times.user + times.system,
            },
            "histograms": {
                "gap": self._gaps.to_json(),
                "ttfb": self._ttfb.to_json(),
                "delay": self._delay.to_json(),
            },
            "errors": self.errors,
        }


def main() -> None:
    spec = StreamsSpec.from_json(json.loads(Path(sys.argv[1]).read_text()))
    driver = StreamsDriver(spec)
    gc.freeze()
    gc.disable()
    say(result=driver.run())


if __name__ == "__main__":
    main()
