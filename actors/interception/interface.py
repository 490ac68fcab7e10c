"""What every interception offers to the one that carries its bytes.

An :class:`Interception` is one request and its answer.  The holder reads ``upstream_body``,
sends it, tells the interception how the answer begins, feeds it what arrives and writes
what comes back to the client.  Time is passed in (``now``: Unix seconds); nothing here
reads a clock, a socket or a log.

Order of calls::

    begin_answer  →  receive_data*  →  receive_end | receive_cut

``take_records`` may be called at any time and returns each record once.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from attrs import field

from aigateway.actors.codec.headers import Headers
from aigateway.actors.values.frozen import frozen
from aigateway.actors.values.records import UsageRecord

__all__ = ["Interception", "InvalidRequest", "Outcome"]


class InvalidRequest(Exception):
    """The client's request cannot be intercepted (empty or broken JSON).

    ``body`` is the complete answer in the API's own error shape, to be sent with ``status``
    and content type application/json.
    """

    def __init__(self, message: str, body: bytes, status: int = 400) -> None:
        super().__init__(message)
        self.body = body
        self.status = status


@frozen
class Outcome:
    """How the interception ended, for its InterceptionEnded record."""

    error_type: str | None = None
    error_message: str | None = None
    metadata: Mapping[str, object] = field(factory=dict)
    """What else is known of the end, JSON types only: ``stop_reason`` as the provider put it,
    where it was none of those that say that the model was done;
    ``provider_model`` when another model answered than was asked for, ``unread_events`` how
    many events could not be read, ``unread`` when nothing more could be."""


class Interception(Protocol):
    """One intercepted request and its answer."""

    id: str
    model: str
    streaming: bool
    """Whether the client asked for a stream."""
    correlating_tool_call_id: str | None
    refusal: tuple[int, bytes] | None
    """Status and body (application/json) to answer with instead.

    Set from the start: do not call the upstream.  Set by ``begin_answer``: what the upstream
    answers cannot be relayed; close it and call ``receive_cut``.  :meth:`outcome` knows of it.
    """
    event_stream: bool
    """Known from ``begin_answer`` on: the answer goes out as an event stream.

    Bytes may be added to it or taken from it, so leave out its Content-Length.
    """

    keepalives: bool | None
    """Whether a silent stream's client is to be kept waiting; ``None``: as is usual for the API.

    Set it before the answer begins.
    """

    def upstream_body(self) -> bytes:
        """The body to send: the client's own bytes unless a splice was needed.

        It is let go of when the answer begins, so decide about retries before that.
        """

    def begin_answer(self, status: int, headers: Headers) -> None:
        """The head of the upstream's answer has arrived."""

    def receive_data(self, data: bytes, now: float) -> bytes:
        """Take what arrived; return what goes to the client now (usually ``data`` itself)."""

    def receive_end(self, now: float, *, framed: bool = True) -> bytes:
        """The upstream's body has ended; return the last bytes for the client.

        ``framed`` is false when the end was only a closed connection, with no length or final
        chunk to prove it complete.  Afterwards :attr:`cut` says whether the client must
        see a broken connection rather than an end.
        """

    def receive_cut(self, reason: str, now: float, *, error_type: str = "server_error") -> bytes:
        """The upstream broke off (reset, idle timeout, shutdown).

        Returns an error event in the API's own shape when a stream had begun, else nothing.
        """

    def receive_lost_client(self, now: float) -> None:
        """The client has gone and the upstream will not be read to its end."""

    @property
    def cut(self) -> bool:
        """The answer did not end as its API ends: never show the client a clean end."""

    @property
    def complete(self) -> bool:
        """The API's own last event, or a whole blocking body, has been seen."""

    def keepalive(self) -> bytes:
        """Bytes that keep a silent stream's client waiting, or nothing.

        Never inside an event; nothing before the answer has begun as a stream, and nothing
        where :attr:`keepalives` or the API's default say no.
        """

    def take_records(self) -> list[UsageRecord]:
        """Records that have become known since the last call."""

    def outcome(self) -> Outcome:
        """How it ended; meaningful after the last receive call."""

    def error_body(self, status: int, message: str) -> bytes:
        """A blocking error answer (application/json) in the API's own shape."""
