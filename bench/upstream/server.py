"""The imitation's event loop: one epoll set, one list of due times, no library.

PERF(bench): whatever this costs is taken from the CPU that the measured system may use, so
requests are read with a few ``find`` calls, answers are prepared bytes, and all timers of a
millisecond share one entry.
"""

from __future__ import annotations

import heapq
import select
import socket
from collections.abc import Callable
from time import monotonic_ns
from typing import Any

from bench.upstream.answers import MARKER, Answers, Stream, answers_for
from bench.upstream.behaviour import COUNTER, LISTENERS, Behaviour, Board

__all__ = ["Server", "listen"]

READ_SIZE = 262144
LATE_US = 5000

_CONNECTIONS, _REQUESTS = COUNTER["connections"], COUNTER["requests"]
_ANSWERS, _STREAMS = COUNTER["answers"], COUNTER["streams"]
_EVENTS, _CUT, _LATE = COUNTER["events"], COUNTER["cut"], COUNTER["late"]
_INPUT, _OUTPUT = COUNTER["input_tokens"], COUNTER["output_tokens"]
_PROMPTS = COUNTER["prompts"]

_USER = b'"role":"user"'
_RESULT = _USER + b',"content":[{"type":"tool_result"'

_IN = select.EPOLLIN | select.EPOLLRDHUP


def listen(port: int = 0) -> socket.socket:
    """A listening socket on 127.0.0.1 with a backlog that takes thousands at once."""
    listener = socket.socket()
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind(("127.0.0.1", port))
    listener.listen(16384)
    listener.setblocking(False)
    return listener


class _Side:
    """One listener with its behaviour and counters."""

    def __init__(self, board: Board, process: int, index: int) -> None:
        self._board = board
        self._index = index
        self._version = -1
        self.count = board.cells(process, index)
        self.behaviour = Behaviour()
        self.answers: Answers = answers_for(0, 0)

    def refresh(self) -> None:
        version = self._board.version(self._index)
        if version != self._version:
            self._version = version
            self.behaviour = self._board.behaviour(self._index)
            self.answers = answers_for(
                self.behaviour.answer_bytes,
                self.behaviour.events,
                bool(self.behaviour.agents),
                self.behaviour.at_once,
            )


class Server:
    """Serves until the process is ended."""

    def __init__(self, board: Board, process: int, listeners: list[socket.socket]) -> None:
        self._epoll = select.epoll()
        self._handlers: dict[int, Callable[[int], None]] = {}
        self._buckets: dict[int, list[Callable[[int], None]]] = {}
        self._due: list[int] = []
        for index, listener in enumerate(listeners):
            side = _Side(board, process, index)
            self._epoll.register(listener, select.EPOLLIN | select.EPOLLEXCLUSIVE)
            self._handlers[listener.fileno()] = self._acceptor(listener, side)
        assert len(listeners) == len(LISTENERS)

    def run(self) -> None:
        poll, handlers = self._epoll.poll, self._handlers
        due, buckets = self._due, self._buckets
        while True:
            timeout = max(due[0] / 1000 - monotonic_ns() / 1e9, 0) if due else -1
            for fd, mask in poll(timeout, 1024):
                handler = handlers.get(fd)
                if handler is not None:
                    handler(mask)
            now = monotonic_ns() // 1_000_000
            while due and due[0] <= now:
                for callback in buckets.pop(heapq.heappop(due)):
                    callback(monotonic_ns() // 1000)

    def at(self, microseconds: int, callback: Callable[[int], None]) -> None:
        """Call ``callback`` with the time at this time, to the millisecond."""
        millisecond = microseconds // 1000
        bucket = self._buckets.get(millisecond)
        if bucket is None:
            self._buckets[millisecond] = [callback]
            heapq.heappush(self._due, millisecond)
        else:
            bucket.append(callback)

    def _acceptor(self, listener: socket.socket, side: _Side) -> Callable[[int], None]:
        def accept(_mask: int) -> None:
            for _ in range(64):
                try:
                    sock, _address = listener.accept()
                except OSError:
                    return
                sock.setblocking(False)
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                side.count[_CONNECTIONS] += 1
                self._handlers[sock.fileno()] = _Connection(self, sock, side).ready
                self._epoll.register(sock, _IN)

        return accept

    def watch_writes(self, sock: socket.socket, on: bool) -> None:
        self._epoll.modify(sock, _IN | select.EPOLLOUT if on else _IN)

    def forget(self, sock: socket.socket) -> None:
        self._handlers.pop(sock.fileno(), None)
        sock.close()


class _Connection:
    __slots__ = (
        "_answer",
        "_body",
        "_busy",
        "_chunked",
        "_interval",
        "_last",
        "_left",
        "_need",
        "_next_at",
        "_person",
        "_received",
        "_seq",
        "_server",
        "_side",
        "_sock",
        "_stream",
        "_tokens",
        "_unsent",
        "_usage",
    )

    def __init__(self, server: Server, sock: socket.socket, side: _Side) -> None:
        self._server = server
        self._sock = sock
        self._side = side
        self._received = b""
        self._body: list[bytes] = []
        self._need = -1  # bytes of the body still to come; -1: in the head
        self._chunked = False
        self._busy = False
        self._stream: Stream | None = None
        self._answer: Any = b""
        self._unsent: bytes | memoryview = b""
        self._last = False  # whether the unsent bytes are the answer's last
        self._left = self._seq = self._interval = self._next_at = self._tokens = 0
        self._usage = False
        self._person = True

    # -- reading

    def ready(self, mask: int) -> None:
        if mask & select.EPOLLOUT:
            self._flush()
        if mask & ~select.EPOLLOUT:
            self._read()

    def _read(self) -> None:
        try:
            data = self._sock.recv(READ_SIZE)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self._gone()
        elif self._need > 0:
            self._more_body(data)
        else:
            self._received = self._received + data if self._received else data
            if not self._busy:
                self._head()

    def _head(self) -> None:
        received = self._received
        end = received.find(b"\r\n\r\n")
        if end < 0:
            return
        head = received[:end].lower()
        at = head.find(b"\r\ncontent-length:")
        if at >= 0:
            stop = head.find(b"\r\n", at + 2)
            length = int(head[at + 17 : stop if stop > 0 else end])
        elif head.find(b"\r\ntransfer-encoding: chunked") >= 0:
            # Wait for the last chunk; its size lines do no harm in the body.
            last = received.find(b"\r\n0\r\n\r\n", end)
            if last < 0:
                return
            length = last + 7 - end - 4
        else:
            length = 0
        line = received[: received.find(b"\r\n")]
        self._answer = "messages" if b"/messages" in line else "chat"
        if b"POST " not in line:
            self._answer = None
        rest = received[end + 4 : end + 4 + length]
        self._received = received[end + 4 + length :]
        self._body = [rest]
        self._need = length - len(rest)
        if not self._need:
            self._request()

    def _more_body(self, data: bytes) -> None:
        need = self._need
        self._body.append(data if len(data) <= need else data[:need])
        self._need = max(need - len(data), 0)
        if len(data) > need:
            self._received = data[need:]
        if not self._need:
            self._request()

    def _request(self) -> None:
        self._need = -1
        self._busy = True
        side = self._side
        body = self._body[0] if len(self._body) == 1 else b"".join(self._body)
        self._body = []
        if self._answer is None:
            self._busy = False
            self._sock.send(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}")
            return
        side.refresh()
        count = side.count
        count[_REQUESTS] += 1
        self._person = not body.startswith(_RESULT, max(body.rfind(_USER), 0))
        if b'"stream":true' in body or b'"stream": true' in body:
            self._stream = side.answers.streams[self._answer]
            self._usage = b'"include_usage":true' in body or b'"include_usage": true' in body
        else:
            self._stream = None
        think = side.behaviour.think_us
        if think:
            self._server.at(monotonic_ns() // 1000 + think, self._begin)
        else:
            self._begin(0)

    # -- answering

    def _begin(self, _now: int) -> None:
        if not self._busy:
            return
        side = self._side
        if self._stream is None:
            answers = side.answers
            self._tokens = answers.output_tokens
            self._send(answers.blocking[self._answer] % side.count[_REQUESTS], last=True)
            return
        side.count[_STREAMS] += 1
        if side.answers.whole and self._answer == "messages":
            side.count[_EVENTS] += side.behaviour.events
            self._tokens = side.answers.stream_tokens
            self._send(side.answers.whole, last=True)
            return
        self._seq = 0
        self._left = side.behaviour.events
        self._tokens = side.answers.stream_tokens
        self._interval = side.behaviour.interval_us
        now = monotonic_ns() // 1000
        self._next_at = now
        self._send(self._stream.opening, last=False)
        self._event(now)

    def _event(self, now: int) -> None:
        """Send the next event; slip when there is no room, a provider does not hurry after."""
        stream = self._stream
        if not self._busy or stream is None:
            return
        count = self._side.count
        if self._unsent:
            self._next_at = now + self._interval
        elif self._left:
            if now - self._next_at > LATE_US:
                count[_LATE] += 1
            self._left -= 1
            event = stream.before + MARKER % (self._seq, now) + stream.after
            self._seq += 1
            count[_EVENTS] += 1
            self._send(event, last=False)
            self._next_at += self._interval
            if self._next_at < now:
                self._next_at = now + self._interval
        else:
            self._send(stream.closing_with_usage if self._usage else stream.closing, last=True)
            return
        self._server.at(self._next_at, self._event)

    def _send(self, data: bytes, last: bool) -> None:
        if self._unsent:
            self._unsent = bytes(self._unsent) + data
            self._last = last
            return
        try:
            sent = self._sock.send(data)
        except BlockingIOError:
            sent = 0
        except OSError:
            self._gone()
            return
        if sent < len(data):
            # A view: what comes at once is megabytes, of which the kernel takes a part each time.
            self._unsent = memoryview(data)[sent:]
            self._last = last
            self._server.watch_writes(self._sock, True)
        elif last:
            self._done()

    def _flush(self) -> None:
        data = self._unsent
        try:
            sent = self._sock.send(data)
        except BlockingIOError:
            return
        except OSError:
            self._gone()
            return
        self._unsent = data[sent:]
        if not self._unsent:
            self._server.watch_writes(self._sock, False)
            if self._last:
                self._done()

    def _done(self) -> None:
        count = self._side.count
        count[_ANSWERS] += 1
        count[_INPUT] += self._side.answers.input_tokens
        count[_OUTPUT] += self._tokens
        count[_PROMPTS] += self._person
        self._busy = self._last = False
        self._stream = None
        if self._received:
            self._head()

    def _gone(self) -> None:
        if self._sock.fileno() < 0:
            return
        if self._busy:
            self._side.count[_CUT] += 1
        self._busy = False
        self._unsent = b""
        self._server.forget(self._sock)
