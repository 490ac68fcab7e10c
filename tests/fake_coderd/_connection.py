"""One gateway's connection: a thread that reads, and answers from wherever they come."""

from __future__ import annotations

import contextlib
import select
import socket
import struct
import threading
import time
from typing import TYPE_CHECKING, Any

from aigateway.actors.control.coderd.wire import NEED_DATA, RemoteProtocolError
from aigateway.actors.control.coderd.wire import coderd_pb2 as pb
from aigateway.actors.control.coderd.wire.yamux import Limits
from fake_coderd.rpc_server import Abandoned, Request, RpcServer

from ._deployment import CallError
from ._frames import BINARY, CLOSE, PING, PONG, TEXT, FrameReader, encode_frame

if TYPE_CHECKING:
    from ._server import FakeCoderd

__all__ = ["Connection"]

WATCH = "/proto.ProviderConfigurator/WatchAIProviders"


class Connection:
    """Serves one gateway until either side ends it."""

    def __init__(
        self, coderd: FakeCoderd, sock: socket.socket, number: int, limits: Limits
    ) -> None:
        self.number = number
        self.closed = threading.Event()
        self.pongs = 0
        self._coderd = coderd
        self._sock = sock
        self._server = RpcServer(time.monotonic(), limits)
        self._lock = threading.RLock()
        self._watchers: set[int] = set()
        self._frames = FrameReader()
        self._running = threading.Event()
        self._running.set()

    @property
    def streams(self) -> int:
        return self._server.stream_count

    # -- on command

    def cut(self, *, reset: bool = False) -> None:
        """End the TCP connection without a word."""
        how = socket.SHUT_RDWR
        if reset:
            # With this, closing resets; a shutdown of both directions would send FIN first.
            how = socket.SHUT_RD
            with contextlib.suppress(OSError):
                self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        with contextlib.suppress(OSError):
            self._sock.shutdown(how)

    def close(self, code: int = 1000) -> None:
        """Say goodbye, then end."""
        self.send_frame(CLOSE, struct.pack(">H", code))
        self.cut()

    def stall(self) -> None:
        """Read and answer nothing until :meth:`resume`."""
        self._running.clear()

    def resume(self) -> None:
        self._running.set()

    def go_away(self) -> None:
        with self._lock:
            self._server.go_away()
            self._flush()

    def signal_watchers(self) -> None:
        with self._lock:
            for call in self._watchers:
                self._server.send(call, pb.WatchAIProvidersResponse().SerializeToString())
            self._flush()

    def end_watches(self, error: str | None = None) -> None:
        with self._lock:
            for call in self._watchers:
                if error is None:
                    self._server.end(call)
                else:
                    self._server.fail(call, error)
            self._watchers.clear()
            self._flush()

    def send_frame(self, opcode: int, payload: bytes, *, fin: bool = True) -> None:
        """Send a WebSocket frame past the session."""
        with self._lock, contextlib.suppress(OSError):
            self._sock.sendall(encode_frame(opcode, payload, fin=fin))

    # -- serving

    def serve(self) -> None:
        try:
            while self._step():
                pass
        except (OSError, ValueError, RemoteProtocolError) as ex:
            self._coderd.note(f"connection {self.number}: {ex!r}")
            if isinstance(ex, ValueError):
                self.close(1009)
        finally:
            self.closed.set()
            self._sock.close()

    def _step(self) -> bool:
        deadline = self._server.deadline
        if deadline is None:
            return False
        pending = getattr(self._sock, "pending", lambda: 0)()
        left = max(0.0, deadline - time.monotonic())
        if not pending:
            poll = select.poll()
            poll.register(self._sock, select.POLLIN)
            if not poll.poll(left * 1000):
                with self._lock:
                    self._server.advance(time.monotonic())
                    self._read_events()
                return True
        data = self._sock.recv(65536)
        self._running.wait()
        if not data:
            return False
        self._frames.buffer += data
        while (frame := self._frames.next()) is not None:
            if not self._take(*frame):
                return False
        return True

    def _take(self, opcode: int, payload: bytes) -> bool:
        if opcode == CLOSE:
            self.close()
            return False
        if opcode == PING:
            self.send_frame(PONG, payload)
        elif opcode == PONG:
            self.pongs += 1
        elif opcode == TEXT:
            self.close(1003)
            return False
        elif payload:
            with self._lock:
                self._server.receive_data(payload)
                self._read_events()
        return True

    def _read_events(self) -> None:
        while (event := self._server.next_event(time.monotonic())) is not NEED_DATA:
            if isinstance(event, Request):
                self._answer(event)
            elif isinstance(event, Abandoned):
                self._watchers.discard(event.call)
        self._flush()

    def _answer(self, request: Request) -> None:
        name = request.rpc.rpartition("/")[2]
        kind, value = self._coderd.faults.meet(name)
        if kind == "fail":
            assert isinstance(value, tuple)
            self._coderd.note_call(name)
            self._server.fail(request.call, *value)
        elif kind == "hang":
            self._coderd.note_call(name)
        elif kind == "hang up" and not value:
            self._server.hang_up(request.call, time.monotonic())
        elif kind == "garble":
            assert isinstance(value, bytes)
            self._server.answer(request.call, value)
        elif request.rpc == WATCH:
            self._watch(request.call)
        else:
            self._handle(request, kind, value)

    def _watch(self, call: int) -> None:
        self._coderd.note_call("WatchAIProviders")
        self._watchers.add(call)
        self._server.send(call, b"")

    def _handle(self, request: Request, kind: str, value: Any) -> None:
        try:
            answer = self._coderd.deployment.handle(request.rpc, request.data, self.number)
            data = answer.SerializeToString()
        except CallError as ex:
            self._server.fail(request.call, ex.text, ex.code)
            return
        if kind == "drop":
            self.cut()
        elif kind == "hang up":
            self._server.hang_up(request.call, time.monotonic())
        elif kind == "delay":
            threading.Thread(
                target=self._answer_later, args=(request.call, data, value), daemon=True
            ).start()
        else:
            self._server.answer(request.call, data)

    def _answer_later(self, call: int, data: bytes, gate: threading.Event) -> None:
        gate.wait()
        with self._lock:
            self._server.answer(call, data)
            self._flush()

    def _flush(self) -> None:
        if not self._running.is_set():
            return
        while chunk := self._server.data_to_send():
            with contextlib.suppress(OSError):
                self._sock.sendall(encode_frame(BINARY, chunk))
