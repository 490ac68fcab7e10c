"""The clocks of a yamux session: which peer is dead, what is due."""

from __future__ import annotations

from math import inf

from attrs import define, field, frozen

__all__ = ["Deadlines", "Limits"]


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
