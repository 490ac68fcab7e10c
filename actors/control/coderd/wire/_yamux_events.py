"""What a yamux session tells its owner."""

from __future__ import annotations

from typing import TypeAlias

from aigateway.actors.values.frozen import frozen

__all__ = [
    "DataReceived",
    "Event",
    "PeerGoingAway",
    "PingAnswered",
    "SessionEnded",
    "StreamAccepted",
    "StreamEnded",
    "StreamOpened",
    "StreamReset",
]


@frozen
class StreamOpened:
    """The peer opened a stream: accept it or reset it."""

    stream_id: int


@frozen
class StreamAccepted:
    """The peer accepted a stream that we opened."""

    stream_id: int


@frozen
class DataReceived:
    """Bytes of a stream, in any split.  Give the window back with ``consume``."""

    stream_id: int
    data: bytes


@frozen
class StreamEnded:
    """The peer will send no more on this stream; we still may."""

    stream_id: int


@frozen
class StreamReset:
    """The stream is gone in both directions, and what was queued for it is dropped."""

    stream_id: int
    reason: str


@frozen
class PingAnswered:
    """The peer answered a ping of ours."""

    ping_id: int


@frozen
class PeerGoingAway:
    """The peer takes no new streams; the open ones go on."""


@frozen
class SessionEnded:
    """The last event of a session: all its streams are gone."""

    reason: str


Event: TypeAlias = (
    StreamOpened
    | StreamAccepted
    | DataReceived
    | StreamEnded
    | StreamReset
    | PingAnswered
    | PeerGoingAway
    | SessionEnded
)
