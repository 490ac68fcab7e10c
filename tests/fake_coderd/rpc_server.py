"""The answering end of a session: coderd's part, which tests play.

:class:`RpcServer` accepts every stream, serves the calls on it one after the other and
closes it when the client does, as coderd's server does.  Like the gateway's end it has no I/O.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from typing import TypeAlias

from attrs import define, field, frozen

from aigateway.actors.control.coderd.wire import _yamux_events as yamux_events
from aigateway.actors.control.coderd.wire import drpc, yamux
from aigateway.actors.control.coderd.wire._protocol import NEED_DATA, NeedData, RemoteProtocolError
from aigateway.actors.control.coderd.wire._yamux_events import SessionEnded

__all__ = ["Abandoned", "Request", "RpcServer", "ServerEvent"]


@frozen
class Request:
    """A call with its request: answer it."""

    call: int
    rpc: str
    data: bytes
    metadata: Mapping[str, str]


@frozen
class Abandoned:
    """The client no longer waits for this call."""

    call: int


ServerEvent: TypeAlias = Request | Abandoned | SessionEnded


@define(eq=False)
class _Transport:
    stream_id: int
    server: drpc.Server = field(factory=drpc.Server)
    called: drpc.Called | None = None
    """A call whose request has not come yet."""
    drpc_id: int = 0
    number: int | None = None
    """The call that waits for its answer."""


class RpcServer:
    """The answering end; not safe to use from two threads at once.

    What is sent for a call that the client has abandoned is dropped.
    """

    def __init__(self, now: float, limits: yamux.Limits | None = None) -> None:
        self._session = yamux.Session("server", now, limits)
        self._transports: dict[int, _Transport] = {}
        self._calls: dict[int, _Transport] = {}
        self._next_call = 1
        self._events: deque[ServerEvent] = deque()

    def __repr__(self) -> str:
        return f"<RpcServer {len(self._calls)} calls, {self._session!r}>"

    @property
    def deadline(self) -> float | None:
        """When :meth:`advance` must be called, if nothing happens before."""
        return self._session.deadline

    @property
    def stream_count(self) -> int:
        """yamux streams that are open in at least one direction."""
        return self._session.stream_count

    # -- answering

    def answer(self, number: int, data: bytes) -> None:
        """Send the only answer and end the call."""
        self.send(number, data)
        self.end(number)

    def send(self, number: int, data: bytes) -> None:
        """Send one of several answers.  Raises LocalProtocolError above 4 MiB."""
        transport = self._calls.get(number)
        if transport is not None:
            transport.server.send(transport.drpc_id, data)
            self._send(transport)

    def end(self, number: int) -> None:
        """End the call; no answer follows."""
        transport = self._over(number)
        if transport is not None:
            transport.server.end(transport.drpc_id)
            self._send(transport)

    def fail(self, number: int, text: str, code: int = 0) -> None:
        """Answer with an error."""
        transport = self._over(number)
        if transport is not None:
            transport.server.fail(transport.drpc_id, text, code)
            self._send(transport)

    def hang_up(self, number: int, now: float) -> None:
        """Close the call's stream without an answer."""
        transport = self._over(number)
        if transport is not None:
            self._close(transport, now)

    def go_away(self) -> None:
        """Tell the client to open no more streams."""
        self._session.go_away()

    def _over(self, number: int) -> _Transport | None:
        transport = self._calls.pop(number, None)
        if transport is not None:
            transport.number = None
        return transport

    def _send(self, transport: _Transport) -> None:
        if not self._session.ended:
            self._session.send(transport.stream_id, transport.server.data_to_send())

    def _close(self, transport: _Transport, now: float) -> None:
        self._abandon(transport)
        if self._transports.pop(transport.stream_id, None) and not self._session.ended:
            self._session.finish(transport.stream_id, now)

    def _abandon(self, transport: _Transport) -> None:
        if transport.number is not None:
            self._events.append(Abandoned(transport.number))
            self._over(transport.number)

    # -- bytes

    def data_to_send(self, limit: int = yamux.MAX_CHUNK) -> bytes:
        """Take at most ``limit`` bytes for the client; empty when there are none."""
        return self._session.data_to_send(limit)

    def receive_data(self, data: bytes) -> None:
        """Store bytes from the client; ``b""`` means that the connection was closed."""
        self._session.receive_data(data)

    def advance(self, now: float) -> None:
        """Do what is due; see :meth:`yamux.Session.advance`."""
        self._session.advance(now)

    def next_event(self, now: float) -> ServerEvent | NeedData:
        """Return the next event, or NEED_DATA.  Raises RemoteProtocolError."""
        while not self._events:
            event = self._session.next_event()
            if isinstance(event, NeedData):
                return NEED_DATA
            self._handle(event, now)
        return self._events.popleft()

    def _handle(self, event: yamux_events.Event, now: float) -> None:
        if isinstance(event, yamux_events.StreamOpened):
            self._session.accept(event.stream_id)
            self._transports[event.stream_id] = _Transport(event.stream_id)
        elif isinstance(event, yamux_events.DataReceived):
            self._session.consume(event.stream_id, len(event.data))
            transport = self._transports.get(event.stream_id)
            if transport is not None:
                self._read(transport, event.data, now)
        elif isinstance(event, yamux_events.StreamEnded):
            transport = self._transports.get(event.stream_id)
            if transport is not None:
                self._close(transport, now)
        elif isinstance(event, yamux_events.StreamReset):
            transport = self._transports.pop(event.stream_id, None)
            if transport is not None:
                self._abandon(transport)
        elif isinstance(event, SessionEnded):
            self._events.append(event)

    def _read(self, transport: _Transport, data: bytes, now: float) -> None:
        transport.server.receive_data(data)
        try:
            while not isinstance(event := transport.server.next_event(), NeedData):
                self._read_event(transport, event)
        except RemoteProtocolError:
            # The Go server closes a broken transport without a word.
            self._close(transport, now)

    def _read_event(self, transport: _Transport, event: drpc.ServerEvent) -> None:
        if isinstance(event, drpc.Called):
            transport.called = event
            transport.drpc_id = event.call
        elif isinstance(event, drpc.Cancelled):
            transport.called = None
            self._abandon(transport)
        elif transport.called is None:
            # The end of a request that is known, or more of it than a unary call has.
            return
        elif isinstance(event, drpc.Message):
            transport.number = self._next_call
            self._next_call += 1
            self._calls[transport.number] = transport
            rpc, metadata = transport.called.rpc, transport.called.metadata
            transport.called = None
            self._events.append(Request(transport.number, rpc, event.data, metadata))
        else:
            transport.called = None
            transport.server.fail(transport.drpc_id, "EOF")
            self._send(transport)
