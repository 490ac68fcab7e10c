"""yamux: many streams of bytes over one connection, without I/O.

Theory of operation
===================

A :class:`Session` is one end of a connection.  It owns no socket, thread or clock.  Bytes
from the peer go in through :meth:`~Session.receive_data`, what they mean comes out of
:meth:`~Session.next_event`, and what has to be sent piles up until the caller takes it with
:meth:`~Session.data_to_send`.  Wherever time matters the caller passes it in, in seconds of
any monotonic clock, and asks :attr:`~Session.deadline` when to call
:meth:`~Session.advance` next.  A session is not safe to use from two threads at once.

The rules below are those of the Go library that coderd uses (hashicorp/yamux 0.1.2).  Its
peer ends the *session*, not the stream, when one of them is broken, so each is checked on
both sides: when we would break it the caller gets :class:`LocalProtocolError` and nothing is
sent; when the peer breaks it the session says GoAway(protocol error), ends, and raises
:class:`RemoteProtocolError` from then on.

Stream ids
    The client opens odd ids, the server even ones, and no id is used twice.  Id 0 is the
    session itself.  Frames for a stream that is not open any more are normal (they crossed
    our reset or FIN on the way) and are read and forgotten.

Opening
    SYN opens, ACK accepts, RST refuses.  Data may follow the SYN at once.  The peer queues
    at most 256 streams that it has not accepted and refuses more, so at most 256 of ours
    may be waiting for their ACK: see :attr:`~Session.can_open`.  A peer that accepts nothing
    for 75 seconds is taken for dead.

Windows
    Each side may send 256 KiB per stream before the other must give window back.  Only
    bodies of Data frames count.  What does not fit waits in the stream and leaves when a
    WindowUpdate arrives.  In the other direction a received byte counts until the caller
    says it is consumed; half a window is given back at a time, which is also when the Go
    side does it, so that a small answer costs no frame.

Closing
    FIN means "no more from me" and must be sent once per direction: a second one ends the
    session.  A stream is forgotten when both FINs have passed.  FIN waits behind queued
    data.  A peer that never answers a FIN is sent RST after five minutes.

Ending
    GoAway(normal) stops new streams and lets the open ones finish; any other GoAway, the
    end of the connection, or a ping unanswered for 10 seconds ends the session.  The last
    event is :class:`SessionEnded`, and the streams that were open get no event of their own.

Frames and messages
    The output is one stream of bytes and may be cut anywhere.  ``data_to_send`` cuts it
    into pieces that fit a WebSocket message that coderd accepts.  Answers to pings overtake
    queued data, or a slow line with a full queue would look like a dead peer.
"""

from __future__ import annotations

from collections import deque
from math import inf
from typing import Final, Literal

from attrs import define, field, frozen

from . import _yamux_events as events
from . import _yamux_frames as frames
from ._protocol import NEED_DATA, LocalProtocolError, NeedData, RemoteProtocolError
from ._yamux_frames import ACK, DATA, FIN, GO_AWAY, MORE, PING, RST, SYN, WINDOW_UPDATE
from ._yamux_stream import INITIAL_WINDOW, Stream

__all__ = ["Deadlines", "INITIAL_WINDOW", "Limits", "MAX_CHUNK", "Session"]

MAX_CHUNK: Final = 256 * 1024
"""Largest WebSocket message coderd reads, in bytes; a larger one closes with 1009."""


class Session:
    """One end of a yamux connection.

    ``role`` decides who opens odd ids; ``now`` is the time from which keepalive pings are
    counted, in seconds.
    """

    def __init__(
        self, role: Literal["client", "server"], now: float, limits: Limits | None = None
    ) -> None:
        self.role = role
        self._limits = limits or Limits()
        self._next_id = 1 if role == "client" else 2
        self._streams: dict[int, Stream] = {}
        self._unaccepted: set[int] = set()
        self._input = frames.FrameReader()
        self._eof = False
        self._body_of = 0
        self._body_flags = 0
        self._output = frames.FrameQueue()
        self._events: deque[events.Event] = deque()
        self._deadlines = Deadlines(now + self._limits.keepalive_interval)
        self._next_ping = 0
        self._refusing = False
        self._peer_refuses = False
        self._end_reason: str | None = None
        self._violation: str | None = None

    def __repr__(self) -> str:
        state = "open" if self._end_reason is None else f"ended: {self._end_reason}"
        return f"<yamux {self.role} {state}, {len(self._streams)} streams>"

    # -- state

    @property
    def ended(self) -> bool:
        """Whether the session is over; nothing can be sent any more."""
        return self._end_reason is not None

    @property
    def can_open(self) -> bool:
        """Whether :meth:`open` is allowed now."""
        return self._why_not_open() is None

    @property
    def takes_streams(self) -> bool:
        """Whether the session lives and the peer takes new streams."""
        return self._end_reason is None and not self._peer_refuses

    @property
    def stream_count(self) -> int:
        """Streams that are open in at least one direction."""
        return len(self._streams)

    @property
    def deadline(self) -> float | None:
        """When :meth:`advance` must be called, if nothing happens before."""
        return None if self.ended else self._deadlines.first()

    def pending(self, stream_id: int) -> int:
        """Bytes that wait in the stream for the peer's window."""
        stream = self._streams.get(stream_id)
        return stream.pending if stream else 0

    def _why_not_open(self) -> str | None:
        if self._end_reason is not None:
            return f"the session has ended: {self._end_reason}"
        if self._peer_refuses:
            return "the peer is going away and takes no new streams"
        if len(self._deadlines.opening) >= self._limits.backlog:
            return f"{self._limits.backlog} streams wait for the peer to accept them"
        if self._next_id > frames.MAX_UINT32:
            return "the stream ids of this session are used up"
        return None

    def _stream(self, stream_id: int) -> Stream:
        stream = self._streams.get(stream_id)
        if stream is None:
            raise LocalProtocolError(f"stream {stream_id} is not open")
        return stream

    def _writable(self, stream_id: int) -> Stream:
        stream = self._stream(stream_id)
        if stream.finishing:
            raise LocalProtocolError(f"stream {stream_id} was finished")
        if stream_id in self._unaccepted:
            raise LocalProtocolError(f"stream {stream_id} must be accepted before it is used")
        return stream

    def _forget_if_done(self, stream: Stream) -> None:
        if stream.done:
            self._forget(stream.id)

    def _forget(self, stream_id: int) -> None:
        del self._streams[stream_id]
        self._unaccepted.discard(stream_id)
        self._deadlines.forget(stream_id)

    def _end(self, reason: str) -> None:
        self._end_reason = reason
        self._streams.clear()
        self._unaccepted.clear()
        self._deadlines.clear()
        self._input.clear()

    # -- sending

    def open(self, now: float) -> int:
        """Open a stream and return its id.  Raises LocalProtocolError unless ``can_open``."""
        reason = self._why_not_open()
        if reason is not None:
            raise LocalProtocolError(f"cannot open a stream: {reason}")
        stream = Stream(self._next_id, self._output)
        self._next_id += 2
        self._streams[stream.id] = stream
        self._deadlines.opening[stream.id] = now + self._limits.open_timeout
        self._queue(WINDOW_UPDATE, SYN, stream.id, 0)
        return stream.id

    def accept(self, stream_id: int) -> None:
        """Accept a stream that the peer opened."""
        if stream_id not in self._unaccepted:
            raise LocalProtocolError(f"stream {stream_id} is not waiting to be accepted")
        self._unaccepted.remove(stream_id)
        self._queue(WINDOW_UPDATE, ACK, stream_id, 0)

    def send(self, stream_id: int, data: bytes) -> None:
        """Queue bytes on a stream; what exceeds the peer's window waits for it."""
        stream = self._streams.get(stream_id)
        if stream is None or stream.finishing or stream_id in self._unaccepted:
            # Which says what is wrong.
            stream = self._writable(stream_id)
        stream.send(data)

    def finish(self, stream_id: int, now: float) -> None:
        """Send FIN when everything queued on the stream has left; reading goes on."""
        stream = self._writable(stream_id)
        stream.finishing = True
        self._deadlines.closing[stream_id] = now + self._limits.close_timeout
        stream.flush()
        self._forget_if_done(stream)

    def reset(self, stream_id: int) -> None:
        """Drop a stream in both directions.  Does nothing if it is gone already."""
        if stream_id in self._streams:
            self._forget(stream_id)
            self._queue(WINDOW_UPDATE, RST, stream_id, 0)

    def consume(self, stream_id: int, count: int) -> None:
        """Give ``count`` received bytes of window back.  Does nothing for a gone stream."""
        stream = self._streams.get(stream_id)
        if stream is not None:
            stream.consume(count)

    def ping(self, now: float) -> int:
        """Ask the peer for a sign of life and return the ping's id."""
        if self._end_reason is not None:
            raise LocalProtocolError(f"cannot ping: the session has ended: {self._end_reason}")
        ping_id = self._send_ping()
        self._deadlines.pings[ping_id] = now + self._limits.keepalive_timeout
        return ping_id

    def probe(self) -> None:
        """Ask for a sign of life that may take as long as it likes, and is no event."""
        if self._end_reason is None:
            self._send_ping()

    def _send_ping(self) -> int:
        ping_id = self._next_ping
        self._next_ping = (ping_id + 1) & frames.MAX_UINT32
        self._output.add_urgent(frames.encode_frame(PING, SYN, 0, ping_id))
        return ping_id

    def go_away(self) -> None:
        """Refuse new streams from now on; the open ones go on."""
        if not self.ended:
            self._refusing = True
            self._queue(GO_AWAY, 0, 0, frames.NORMAL)

    def data_to_send(self, limit: int = MAX_CHUNK) -> bytes:
        """Take at most ``limit`` bytes for the peer; empty when there are none."""
        return self._output.take(limit)

    def _queue(self, kind: int, flags: int, stream_id: int, length: int) -> None:
        self._output.add(frames.encode_frame(kind, flags, stream_id, length))

    # -- receiving

    def receive_data(self, data: bytes) -> None:
        """Store bytes from the peer; ``b""`` means that the connection was closed."""
        if data:
            self._input.receive_data(data)
        else:
            self._eof = True

    def next_event(self) -> events.Event | NeedData:
        """Return the next event, or NEED_DATA.

        Raises RemoteProtocolError when the peer broke the protocol, now or before.
        """
        if self._violation is not None:
            raise RemoteProtocolError(self._violation)
        try:
            while not self._events:
                if not self._step():
                    return NEED_DATA
        except RemoteProtocolError as ex:
            self._violation = str(ex)
            self._events.clear()
            self._queue(GO_AWAY, 0, 0, frames.PROTOCOL_ERROR)
            self._end(f"the peer broke the protocol: {ex}")
            raise
        return self._events.popleft()

    def next_body(self) -> tuple[int, bytes] | None:
        """Take what a DataReceived event would tell, and consume it: a stream's id and bytes.

        None if something else comes first, or nothing: :meth:`next_event` tells that.

        PERF: nearly all that coderd sends are whole Data frames; 1.5 us less for each.
        """
        if self._events or self._end_reason is not None:
            return None
        found = self._input.next_plain()
        if found is not None:
            stream_id, body = found
            stream = self._streams.get(stream_id)
            if stream is None or not stream.pass_on(len(body)):
                self._input.put_back(body)
                return None
        return found

    def _step(self) -> bool:
        """Read one frame or piece of one; say whether there was one."""
        if self._end_reason is not None:
            return False
        frame = self._input.next()
        if frame is not None:
            kind, flags, stream_id, length, body = frame
            if kind == DATA:
                self._read_data(flags, stream_id, length, body)
            elif kind == MORE:
                self._read_more(length, body)
            elif kind == WINDOW_UPDATE:
                self._read_window_update(flags, stream_id, length)
            elif kind == PING:
                self._read_ping(flags, length)
            else:
                self._read_go_away(length)
        elif self._eof:
            cut = " in the middle of a frame" if self._input.inside_frame else ""
            self._end_with_event(f"the peer closed the connection{cut}")
        else:
            return False
        return True

    def _end_with_event(self, reason: str) -> None:
        self._end(reason)
        self._events.append(events.SessionEnded(reason))

    def _read_data(self, flags: int, stream_id: int, length: int, body: bytes) -> None:
        self._body_of, self._body_flags = stream_id, flags
        stream = self._read_flags(flags, stream_id) if flags else self._streams.get(stream_id)
        if stream is None:
            return
        stream.announce(length)
        if body or not length:
            self._read_body(stream, body, complete=len(body) == length)

    def _read_more(self, missing: int, body: bytes) -> None:
        stream = self._streams.get(self._body_of)
        if stream is not None:
            self._read_body(stream, body, complete=not missing)

    def _read_body(self, stream: Stream, body: bytes, *, complete: bool) -> None:
        if body:
            stream.receive(len(body))
            self._events.append(events.DataReceived(stream.id, body))
        # The FIN of a frame comes after its body.
        if complete and self._body_flags & FIN:
            self._read_fin(stream)

    def _read_window_update(self, flags: int, stream_id: int, delta: int) -> None:
        stream = self._read_flags(flags, stream_id)
        if stream is None:
            return
        stream.grow_window(delta)
        self._forget_if_done(stream)
        if flags & FIN:
            self._read_fin(stream)

    def _read_flags(self, flags: int, stream_id: int) -> Stream | None:
        """Do what all flags but FIN say; return the stream if it is open then."""
        if flags & SYN and not flags & RST:
            self._read_syn(stream_id)
        stream = self._streams.get(stream_id)
        if stream is None:
            return None
        if flags & RST:
            self._forget(stream_id)
            self._events.append(events.StreamReset(stream_id, "the peer reset the stream"))
            return None
        if flags & ACK and self._deadlines.opening.pop(stream_id, None) is not None:
            self._events.append(events.StreamAccepted(stream_id))
        return stream

    def _read_syn(self, stream_id: int) -> None:
        if stream_id == 0 or stream_id % 2 == self._next_id % 2:
            raise RemoteProtocolError(f"the peer opened stream {stream_id}, which is not its own")
        if stream_id in self._streams:
            raise RemoteProtocolError(f"the peer opened stream {stream_id} twice")
        if self._refusing or len(self._unaccepted) >= self._limits.backlog:
            self._queue(WINDOW_UPDATE, RST, stream_id, 0)
            return
        self._streams[stream_id] = Stream(stream_id, self._output)
        self._unaccepted.add(stream_id)
        self._events.append(events.StreamOpened(stream_id))

    def _read_fin(self, stream: Stream) -> None:
        stream.end()
        self._events.append(events.StreamEnded(stream.id))
        self._forget_if_done(stream)

    def _read_ping(self, flags: int, ping_id: int) -> None:
        if flags & SYN:
            self._output.add_urgent(frames.encode_frame(PING, ACK, 0, ping_id))
        elif self._deadlines.pings.pop(ping_id, None) is not None:
            self._events.append(events.PingAnswered(ping_id))

    def _read_go_away(self, code: int) -> None:
        if code == frames.NORMAL:
            self._peer_refuses = True
            self._events.append(events.PeerGoingAway())
        elif code == frames.PROTOCOL_ERROR:
            self._end_with_event("the peer ended the session: protocol error")
        elif code == frames.INTERNAL_ERROR:
            self._end_with_event("the peer ended the session: internal error")
        else:
            raise RemoteProtocolError(f"GoAway with unknown code {code}")

    # -- time

    def advance(self, now: float) -> None:
        """Do what is due: send a keepalive ping, give up on a peer that is silent."""
        if self.ended:
            return
        reason = self._deadlines.dead(now)
        if reason is not None:
            self._end_with_event(reason)
            return
        for stream_id in self._deadlines.overdue_closes(now):
            self.reset(stream_id)
            self._events.append(
                events.StreamReset(stream_id, "the peer did not answer FIN in time")
            )
        if self._deadlines.ping_due <= now:
            self._deadlines.ping_due = now + self._limits.keepalive_interval
            self.ping(now)


@frozen(kw_only=True)
class Limits:
    """Times in seconds; the defaults are those of the Go library."""

    keepalive_interval: float = 30.0
    keepalive_timeout: float = 10.0
    open_timeout: float = 75.0
    close_timeout: float = 300.0
    backlog: int = 256
    """Streams opened and not yet accepted, in either direction."""


def _first(waits: dict[int, float]) -> float:
    return next(iter(waits.values())) if waits else inf


@define
class Deadlines:
    """When each answer that the peer owes us is due.

    The dicts are in the order of their deadlines, because time does not run backwards and
    each has one duration: only the first entry needs a look.
    """

    ping_due: float
    pings: dict[int, float] = field(factory=dict)
    opening: dict[int, float] = field(factory=dict)
    """Streams that the peer has not accepted."""
    closing: dict[int, float] = field(factory=dict)
    """Streams whose FIN the peer has not answered with its own."""

    def first(self) -> float:
        """The next time at which something is due."""
        return min(self.ping_due, _first(self.pings), _first(self.opening), _first(self.closing))

    def dead(self, now: float) -> str | None:
        """Why the peer must be taken for dead, if it must."""
        if _first(self.pings) <= now:
            return "the peer did not answer a ping in time"
        if _first(self.opening) <= now:
            return "the peer did not accept a stream in time"
        return None

    def overdue_closes(self, now: float) -> list[int]:
        """Streams that have waited too long for the peer's FIN."""
        return [stream_id for stream_id, due in self.closing.items() if due <= now]

    def forget(self, stream_id: int) -> None:
        self.opening.pop(stream_id, None)
        self.closing.pop(stream_id, None)

    def clear(self) -> None:
        for waits in (self.pings, self.opening, self.closing):
            waits.clear()
