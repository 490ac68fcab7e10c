"""Calls over a session: which call goes on which stream, and what became of it.

:class:`RpcClient` joins one yamux session and the DRPC transports on its streams.  It has
no I/O, like the two below it.  Calls are numbered by the client; a call's number has
nothing to do with the ids on the wire.

coderd's own client opens a yamux stream per call.  coderd also serves calls one after the
other on a stream, which spares three frames and a goroutine per call, so streams are kept
for the next call unless ``reuse`` is off.  A stream takes the next call only when the
server has ended the last one.  ``depth`` above 1 allows unfinished calls to share a stream
once all ``max_streams`` are busy; coderd cancels the earlier one then (see
:mod:`~aigateway.actors.control.coderd.wire.drpc`), so it is for other servers.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from typing import TypeAlias

from attrs import define, field

from aigateway.actors.values.frozen import frozen

from . import _yamux_events as yamux_events
from . import drpc, yamux
from ._protocol import NEED_DATA, LocalProtocolError, NeedData, RemoteProtocolError
from ._yamux_events import PeerGoingAway, SessionEnded

__all__ = ["Answered", "ClientEvent", "Finished", "Lost", "ErrorAnswered", "RpcClient"]


@frozen
class Answered:
    """The answer of a call, or one of many if it is streaming."""

    call: int
    data: bytes


@frozen
class Finished:
    """The server ended a streaming call."""

    call: int


@frozen
class ErrorAnswered:
    """The server answered with an error; ``code`` is 0 when it has none."""

    call: int
    code: int
    text: str


@frozen
class Lost:
    """No answer will come, and whether the server has acted on the call is not known."""

    call: int
    reason: str


ClientEvent: TypeAlias = Answered | Finished | ErrorAnswered | Lost | PeerGoingAway | SessionEnded


@define(eq=False)
class _Call:
    number: int
    rpc: str
    request: bytes
    streaming: bool
    metadata: Mapping[str, str] | None
    transport: _Transport | None = None
    drpc_id: int = 0


@define(eq=False)
class _Transport:
    stream_id: int
    client: drpc.Client = field(factory=drpc.Client)
    calls: dict[int, _Call] = field(factory=dict)
    """By DRPC id: calls that the server has not ended, answered or not."""
    idle: bool = False


class RpcClient:
    """The calling end of a session; not safe to use from two threads at once.

    ``now`` is a monotonic time in seconds, as in :class:`yamux.Session`.  After a
    SessionEnded event or a RemoteProtocolError every call that was made is lost.
    """

    def __init__(
        self,
        now: float,
        *,
        reuse: bool = True,
        depth: int = 1,
        max_streams: int = 256,
        limits: yamux.Limits | None = None,
    ) -> None:
        self._session = yamux.Session("client", now, limits)
        self._reuse = reuse
        self._depth = depth
        self._max_streams = max_streams
        self._transports: dict[int, _Transport] = {}
        self._idle: list[_Transport] = []
        # Answered, but the server has not ended the call: of no use until it does.
        self._lingering: dict[int, _Transport] = {}
        self._calls: dict[int, _Call] = {}
        self._queue: dict[int, _Call] = {}
        self._next_call = 1
        self._events: deque[ClientEvent] = deque()

    def __repr__(self) -> str:
        return f"<RpcClient {len(self._calls)} calls, {self._session!r}>"

    # -- state

    @property
    def in_flight(self) -> int:
        """Calls without an answer, those that wait for a stream included."""
        return len(self._calls)

    @property
    def accepts_calls(self) -> bool:
        """Whether :meth:`call` is allowed: the session lives and the peer is not leaving."""
        return self._session.takes_streams

    @property
    def deadline(self) -> float | None:
        """When :meth:`advance` must be called, if nothing happens before."""
        return self._session.deadline

    @property
    def stream_count(self) -> int:
        """yamux streams that are open in at least one direction."""
        return self._session.stream_count

    # -- calling

    def call(
        self,
        rpc: str,
        request: bytes,
        now: float,
        *,
        streaming: bool = False,
        metadata: Mapping[str, str] | None = None,
    ) -> int:
        """Begin a call and return its number.

        Raises LocalProtocolError unless ``accepts_calls``, and for requests over 4 MiB.
        """
        if not self._session.takes_streams:
            raise LocalProtocolError(f"cannot call {rpc}: {self._session!r}")
        if len(request) > drpc.MAX_PACKET:
            raise LocalProtocolError(
                f"{rpc}: a request of {len(request)} bytes is over the limit of {drpc.MAX_PACKET}"
            )
        call = _Call(self._next_call, rpc, request, streaming, metadata)
        self._next_call += 1
        self._calls[call.number] = call
        if self._queue:
            self._queue[call.number] = call
            self._place_queued(now)
        elif (transport := self._free_transport(now)) is None:
            self._queue[call.number] = call
        else:
            self._place(call, transport)
        return call.number

    def give_up(self, number: int, now: float) -> None:
        """Forget a call: no event follows.  Its stream is closed, which cancels it."""
        call = self._calls.pop(number, None)
        if call is None:
            return
        self._queue.pop(number, None)
        if call.transport is not None and not self._session.ended:
            del call.transport.calls[call.drpc_id]
            self._drop(call.transport, now, "another call on the same stream was given up")
            self._place_queued(now)

    def _place_queued(self, now: float) -> None:
        while self._queue and not self._session.ended:
            transport = self._free_transport(now)
            if transport is None:
                return
            self._place(self._queue.pop(next(iter(self._queue))), transport)

    def _place(self, call: _Call, transport: _Transport) -> None:
        call.transport = transport
        call.drpc_id = transport.client.call(call.rpc, call.request, call.metadata)
        call.request = b""
        transport.calls[call.drpc_id] = call
        self._session.send(transport.stream_id, transport.client.data_to_send())

    def _free_transport(self, now: float) -> _Transport | None:
        if self._idle:
            transport = self._idle.pop()
            transport.idle = False
            return transport
        if len(self._transports) >= self._max_streams and self._lingering:
            self._drop(next(iter(self._lingering.values())), now, "")
        if len(self._transports) < self._max_streams and self._session.can_open:
            transport = _Transport(self._session.open(now))
            self._transports[transport.stream_id] = transport
            return transport
        if self._depth == 1:
            return None
        shared = [
            transport
            for transport in self._transports.values()
            if len(transport.calls) < self._depth
            and not any(call.streaming for call in transport.calls.values())
        ]
        return min(shared, key=lambda transport: len(transport.calls), default=None)

    def _drop(self, transport: _Transport, now: float, reason: str) -> None:
        """Close a transport; calls that are still unanswered on it are lost."""
        self._detach(transport, reason)
        if self._session.pending(transport.stream_id):
            # FIN would wait behind the rest of a request that nobody wants any more.
            self._session.reset(transport.stream_id)
        else:
            self._session.finish(transport.stream_id, now)

    def _detach(self, transport: _Transport, reason: str) -> None:
        del self._transports[transport.stream_id]
        self._lingering.pop(transport.stream_id, None)
        if transport.idle:
            self._idle.remove(transport)
        for call in transport.calls.values():
            if self._calls.pop(call.number, None) is not None:
                self._events.append(Lost(call.number, reason))

    # -- bytes

    def data_to_send(self, limit: int = yamux.MAX_CHUNK) -> bytes:
        """Take at most ``limit`` bytes for the server; empty when there are none."""
        return self._session.data_to_send(limit)

    def receive_data(self, data: bytes) -> None:
        """Store bytes from the server; ``b""`` means that the connection was closed."""
        self._session.receive_data(data)

    def advance(self, now: float) -> None:
        """Do what is due; see :meth:`yamux.Session.advance`."""
        self._session.advance(now)

    def probe(self) -> None:
        """See :meth:`yamux.Session.probe`."""
        self._session.probe()

    def next_event(self, now: float) -> ClientEvent | NeedData:
        """Return the next event, or NEED_DATA.

        Raises RemoteProtocolError when the session is broken; a broken stream only costs
        the calls on it, which are Lost.
        """
        session = self._session
        while not self._events:
            if (found := session.next_body()) is not None:
                transport = self._transports.get(found[0])
                if transport is not None:
                    self._read(transport, found[1], now)
            else:
                event = session.next_event()
                if isinstance(event, NeedData):
                    return NEED_DATA
                self._handle(event, now)
            if self._queue:
                self._place_queued(now)
        return self._events.popleft()

    def _handle(self, event: yamux_events.Event, now: float) -> None:
        if isinstance(event, yamux_events.DataReceived):
            self._session.consume(event.stream_id, len(event.data))
            transport = self._transports.get(event.stream_id)
            if transport is not None:
                self._read(transport, event.data, now)
        elif isinstance(event, yamux_events.StreamEnded):
            transport = self._transports.get(event.stream_id)
            if transport is not None:
                self._drop(transport, now, "the server closed the stream before it answered")
        elif isinstance(event, yamux_events.StreamReset):
            transport = self._transports.get(event.stream_id)
            if transport is not None:
                self._detach(transport, event.reason)
        elif isinstance(event, yamux_events.StreamOpened):
            # coderd opens none, and there is nothing here to answer.
            self._session.reset(event.stream_id)
        elif isinstance(event, PeerGoingAway):
            self._lose_queued()
            self._events.append(event)
        elif isinstance(event, SessionEnded):
            self._events.append(event)

    def _lose_queued(self) -> None:
        for number in self._queue:
            del self._calls[number]
            self._events.append(Lost(number, "the server is going away"))
        self._queue.clear()

    def _read(self, transport: _Transport, data: bytes, now: float) -> None:
        client = transport.client
        try:
            whole = client.whole_answer(data)
            if whole is not None:
                self._read_answer(transport, *whole)
            else:
                client.receive_data(data)
                while not isinstance(event := client.next_event(), NeedData):
                    self._read_event(transport, event)
        except RemoteProtocolError as ex:
            self._session.reset(transport.stream_id)
            self._detach(transport, f"the server broke the protocol: {ex}")
            return
        if transport.calls:
            for call in transport.calls.values():
                if call.number in self._calls:
                    return
            self._linger(transport, now)
        elif not self._reuse:
            self._drop(transport, now, "")
        elif not transport.idle:
            self._lingering.pop(transport.stream_id, None)
            transport.idle = True
            self._idle.append(transport)

    def _read_event(self, transport: _Transport, event: drpc.ClientEvent) -> None:
        if isinstance(event, drpc.Message):
            self._read_answer(transport, event.call, event.data)
        elif isinstance(event, drpc.Ended):
            self._read_answer(transport, event.call, None)
        else:
            call = transport.calls.pop(event.call)
            if self._calls.pop(call.number, None) is not None:
                self._events.append(ErrorAnswered(call.number, event.code, event.text))

    def _read_answer(self, transport: _Transport, drpc_id: int, answer: bytes | None) -> None:
        """An answer, or None: the end of the call."""
        call = transport.calls[drpc_id]
        if answer is not None:
            if call.streaming or self._calls.pop(call.number, None) is not None:
                self._events.append(Answered(call.number, answer))
            return
        del transport.calls[drpc_id]
        if self._calls.pop(call.number, None) is None:
            return
        if call.streaming:
            self._events.append(Finished(call.number))
        else:
            self._events.append(Lost(call.number, "the server ended the call without an answer"))

    def _linger(self, transport: _Transport, now: float) -> None:
        if self._reuse:
            self._lingering[transport.stream_id] = transport
            return
        for drpc_id in transport.calls:
            transport.client.close(drpc_id)
        self._session.send(transport.stream_id, transport.client.data_to_send())
        self._drop(transport, now, "")
