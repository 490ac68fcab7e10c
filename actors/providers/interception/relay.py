"""What all APIs share: relaying an answer and reading it on the side.

Theory of operation.  An answer is one of three things: an event stream, a JSON body, or an
error (a status that is no success).  The head says which, and the first bytes of a body may
overrule it, since providers and proxies mislabel.

*Event streams* are cut into events (:mod:`.sse`).  Bytes leave as they came, with two
exceptions.  The beginning of an event that has not arrived whole is held back until the rest
is there: no client can use half an event, and should the upstream break off, the client's
parser stands between two events, where an error event of ours can be understood.  (An event
of more than ``HOLD_LIMIT`` bytes leaves in pieces after all.)  And an API may withhold an
event that its client did not ask for.

*Bodies and errors* pass through untouched, with a copy kept for reading at the end.

Bytes of our own (error events, keepalives) go only into streams that are labelled as such
and not encoded: elsewhere they could not be understood, and a Content-Length would be wrong.

Reading never disturbs relaying.  What cannot be read is not recorded.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from typing import Any, ClassVar

from attrs import frozen

from aigateway.actors.providers.interception.decoding import Decoder, DecodingError, decoder_for
from aigateway.actors.providers.interception.error_bodies import error_body
from aigateway.actors.providers.interception.interface import Headers, Outcome
from aigateway.actors.providers.interception.outcomes import (
    MESSAGE_LIMIT,
    kind_of_status,
    message_of,
)
from aigateway.actors.providers.interception.reading import is_json
from aigateway.actors.providers.interception.routes import MESSAGES, Api
from aigateway.actors.providers.interception.sse import IGNORABLE, EventReader
from aigateway.actors.recorder.records import (
    ModelThought,
    PromptUsage,
    TokenUsage,
    ToolUsage,
    UsageRecord,
)

__all__ = ["BODY_LIMIT", "HOLD_LIMIT", "INCOMPLETE", "End", "Relay", "Request"]

HOLD_LIMIT = 64 * 1024
"""Bytes of an unfinished event that are held back."""

BODY_LIMIT = 64 * 1024 * 1024
"""Bytes of a blocking answer kept for reading; a longer one is relayed and not read."""

_ERROR_LIMIT = 1024 * 1024
"""Bytes of an error answer kept for reading."""

INCOMPLETE: Mapping[str, Any] = {"usage_complete": False}
"""Metadata of usage that was not seen to its end."""

_FOREIGN_TYPES = frozenset({"text/html", "application/xhtml+xml", "application/xml", "text/xml"})
_STREAM_STARTS = (b"event:", b"data:", b"id:", b"retry:", b":")
_SNIFF_LIMIT = 1024
_BLANK = b" \t\r\n"
_BOM = b"\xef\xbb\xbf"

_INVALID_ANSWER = (
    "The AI provider returned an invalid response."
    " Try again or contact your administrator if this persists."
)
_NO_ANSWER = (
    "The AI provider did not return a response."
    " Try again or contact your administrator if this persists."
)
_CLIENT_GONE = "the client left before the answer was complete"
_ENDED_EARLY = "The AI provider ended its answer before it was complete."


@frozen(kw_only=True)
class Request:
    """What was read from a client's request."""

    id: str
    body: bytes
    """What goes upstream."""
    model: str
    streaming: bool
    prompt: str | None = None
    correlating_tool_call_id: str | None = None
    refusal: tuple[int, bytes] | None = None


class Mode(enum.Enum):
    """How the answer is being read."""

    WAITING = "no head yet"
    UNDECIDED = "head seen, nature unknown"
    STREAM = "event stream"
    BODY = "one JSON document"
    ERROR = "error answer"
    UNREADABLE = "encoded in a way that cannot be read"
    ENDED = "no more bytes"


class End(enum.Enum):
    """How the answer ended."""

    WHOLE = "as its API ends answers"
    FAILED = "with an error that the upstream reported"
    CUT = "too early"


class Relay:
    """The base of every API's interception: bytes, modes and ends; no fields.

    Subclasses read events and bodies and make records of them.
    """

    api: ClassVar[Api]
    ping: ClassVar[bytes] = b": keepalive\n\n"

    def __init__(self, request: Request) -> None:
        self.id = request.id
        self.model = request.model
        self.streaming = request.streaming
        self.correlating_tool_call_id = request.correlating_tool_call_id
        self.refusal = request.refusal
        self.event_stream = False
        self.faults = 0
        self._body = request.body
        self._prompt = request.prompt
        self._records: list[UsageRecord] = []
        self._mode = Mode.WAITING
        self._status = 0
        self._decoder: Decoder | None = None
        self._editable = False
        self._reader = EventReader()
        self._held = bytearray()
        self._withheld: list[bytes] = []
        self._swallow_lf = False
        self._last_piece = b""
        self._kept = bytearray()
        self._overflowed = False
        self._outcome = Outcome()
        self._ended = False
        self._complete = False
        self._failed = False
        self._cut = False
        if request.refusal is not None:
            status = request.refusal[0]
            self._fail(kind_of_status(status, openai=True), message_of(status, request.refusal[1]))

    # -- what subclasses provide

    def _read_event(self, piece: bytes, now: float) -> None:
        """Read one piece of the stream."""
        raise NotImplementedError

    def _read_body(self, data: bytearray, now: float) -> None:
        """Read a whole blocking answer."""
        raise NotImplementedError

    def _finish(self, end: End, now: float) -> None:
        """Make the records that are still due; runs once, when no more bytes come."""
        raise NotImplementedError

    def _error_event(self, error_type: str, message: str) -> bytes:
        """Make an error event in the API's own shape."""
        raise NotImplementedError

    def _may_end(self) -> bool:
        """Whether a framed end is a good one although the API's last event is missing."""
        return False

    # -- the answer as it arrives

    def upstream_body(self) -> bytes:
        """The body to send: the client's own bytes unless a splice was needed."""
        return self._body

    def begin_answer(self, status: int, headers: Headers) -> None:
        """The head of the upstream's answer has arrived."""
        self._body = b""
        self._status = status
        fields = {name.lower(): value for name, value in headers}
        content_type = fields.get("content-type", "").partition(";")[0].strip().lower()
        encoding = fields.get("content-encoding", "")
        unreadable = False
        try:
            self._decoder = decoder_for(encoding)
        except DecodingError:
            unreadable = True
        if not 200 <= status < 300:
            self._mode = Mode.ERROR
            self._fail(kind_of_status(status, openai=self.api != MESSAGES), "")
        elif unreadable:
            self._mode = Mode.UNREADABLE
        else:
            self._mode = Mode.UNDECIDED
            # Who asks for a stream and is not told otherwise gets one.
            self.event_stream = content_type == "text/event-stream" or (
                not content_type and self.streaming
            )
            self._editable = self.event_stream and self._decoder is None
            self._refuse_foreign(content_type)

    def receive_data(self, data: bytes, now: float) -> bytes:
        """Take what arrived; return what goes to the client now."""
        if self._editable and self._mode is Mode.STREAM:
            return self._relay_stream(data, now)
        if not self._editable:
            self._read(data, now)
            return data
        return self._read(data, now)

    def _read(self, data: bytes, now: float) -> bytes:
        if self._decoder is not None:
            try:
                data = self._decoder.feed(data)
            except DecodingError:
                self._mode = Mode.UNREADABLE
        match self._mode:
            case Mode.STREAM:
                return self._relay_stream(data, now)
            case Mode.BODY:
                self._keep(data, BODY_LIMIT)
            case Mode.ERROR:
                self._keep(data, _ERROR_LIMIT)
            case Mode.UNDECIDED:
                return self._decide(data, now)
        return data

    def _decide(self, data: bytes, now: float) -> bytes:
        """Find out by the first bytes what the answer is, then read them."""
        self._kept += data
        head = bytes(self._kept)
        start = head.removeprefix(_BOM).lstrip(_BLANK)
        if len(head) < _SNIFF_LIMIT and (not start or _BOM.startswith(head)):
            return b""
        if self.event_stream:
            stream = not start.startswith((b"{", b"["))
        elif any(name.startswith(start) and name != start for name in _STREAM_STARTS):
            return b""
        else:
            stream = start.startswith(_STREAM_STARTS)
        self._kept.clear()
        self._mode = Mode.STREAM if stream else Mode.BODY
        if stream:
            return self._relay_stream(head, now)
        self._keep(head, BODY_LIMIT)
        return head

    def _keep(self, data: bytes, limit: int) -> None:
        if self._overflowed:
            return
        self._kept += data
        if len(self._kept) > limit:
            self._overflowed = True
            del self._kept[MESSAGE_LIMIT:]

    def _relay_stream(self, data: bytes, now: float) -> bytes:
        if self._swallow_lf:
            self._swallow_lf = False
            data = data.removeprefix(b"\n")
        pieces = self._reader.feed(data)
        for piece in pieces:
            try:
                self._read_event(piece, now)
            except Exception:
                # Whatever an upstream may send that nobody thought of, relaying goes on.
                self.faults += 1
        if pieces:
            self._last_piece = pieces[-1]
            if not self._held and not self._withheld and not self._reader.tail:
                return data
        return self._release(data, pieces)

    def _release(self, data: bytes, pieces: list[bytes]) -> bytes:
        """Choose what of the bytes at hand leaves now, and hold the rest."""
        tail = self._reader.tail
        waiting = self._held + data
        end = len(waiting) - (tail if tail <= HOLD_LIMIT else 0)
        self._held = waiting[end:]
        if self._withheld:
            return self._without_withheld(waiting, len(waiting) - tail, end, pieces)
        del waiting[end:]
        return bytes(waiting)

    def _without_withheld(
        self, waiting: bytearray, boundary: int, end: int, pieces: list[bytes]
    ) -> bytes:
        position = boundary - sum(map(len, pieces))
        kept = bytearray(waiting[: max(position, 0)])
        for piece in pieces:
            following = position + len(piece)
            if any(piece is withheld for withheld in self._withheld):
                comments = IGNORABLE.match(piece)
                kept += comments[0] if comments else b""
                self._swallow_lf = piece.endswith(b"\r") and following == len(waiting)
            else:
                kept += waiting[max(position, 0) : following]
            position = following
        self._withheld.clear()
        return bytes(kept + waiting[boundary:end])

    # -- how it ends

    def receive_end(self, now: float, *, framed: bool = True) -> bytes:
        """The upstream's body has ended; return the last bytes for the client."""
        if self._ended:
            return b""
        match self._mode:
            case Mode.WAITING:
                return self.receive_cut(_NO_ANSWER, now)
            case Mode.STREAM:
                return self._end_stream(now, framed)
            case Mode.ERROR:
                kept = self._kept
                self._cut = not framed and kept.startswith(b"{") and not is_json(kept)
                self._end(End.FAILED, now)
            case Mode.UNREADABLE:
                self._end_body(now, framed, readable=False)
            case Mode.UNDECIDED if self.event_stream:
                return self.receive_cut(_NO_ANSWER, now)
            case _:
                self._end_body(now, framed, readable=not self._overflowed)
        return self._take_held()

    def _end_stream(self, now: float, framed: bool) -> bytes:
        rest = self._reader.flush()
        if rest:
            # The last blank line is often forgotten.
            try:
                self._read_event(rest, now)
            except Exception:
                self.faults += 1
            if self._withheld:
                self._held.clear()
        if self._complete or (framed and self._may_end()):
            self._complete = True
            self._end(End.WHOLE, now)
            return self._take_held()
        if self._failed:
            self._cut = not framed
            self._end(End.FAILED, now)
            return self._take_held()
        return self.receive_cut(_ENDED_EARLY, now)

    def _end_body(self, now: float, framed: bool, *, readable: bool) -> None:
        whole = readable and is_json(self._kept)
        if whole:
            self._complete = True
            try:
                self._read_body(self._kept, now)
            except Exception:
                self.faults += 1
            self._end(End.FAILED if self._failed else End.WHOLE, now)
        elif framed and readable:
            self._fail("server_error", _INVALID_ANSWER if self._kept else _NO_ANSWER)
            self._end(End.FAILED, now)
        elif framed:
            self._complete = True
            self._end(End.CUT, now)
        else:
            self.receive_cut(_ENDED_EARLY, now)

    def receive_cut(self, reason: str, now: float, *, error_type: str = "server_error") -> bytes:
        """The upstream broke off; return an error event when a stream had begun."""
        if self._ended:
            return b""
        if self._complete:
            # What followed the API's last event is no loss.
            self._end(End.WHOLE, now)
            return self._take_held()
        in_stream = self._editable and self._mode in {Mode.STREAM, Mode.UNDECIDED}
        told = self._failed
        self._fail(error_type, reason)
        self._cut = True
        inside = self._reader.tail > HOLD_LIMIT
        self._held.clear()
        self._end(End.FAILED if told else End.CUT, now)
        if told or not in_stream:
            return b""
        return (b"\n\n" if inside else b"") + self._error_event(error_type, reason)

    def receive_lost_client(self, now: float) -> None:
        """The client has gone and the upstream will not be read to its end."""
        if self._ended:
            return
        if self._complete:
            self._end(End.WHOLE, now)
            return
        if not self._failed:
            self._fail("unknown", _CLIENT_GONE)
        self._cut = True
        self._held.clear()
        self._end(End.CUT, now)

    @property
    def cut(self) -> bool:
        """Never show the client a clean end."""
        return self._cut

    @property
    def complete(self) -> bool:
        """The API's own last event, or a whole blocking body, has been seen."""
        return self._complete

    @property
    def _answered(self) -> bool:
        """Whether the upstream took the request."""
        return 200 <= self._status < 300

    def keepalive(self) -> bytes:
        """Bytes that keep a silent stream's client waiting, or nothing."""
        if not self._editable or self._complete or self._failed:
            return b""
        begun = self._mode is Mode.STREAM or self._mode is Mode.UNDECIDED
        return self.ping if begun and self._reader.tail <= HOLD_LIMIT else b""

    def take_records(self) -> list[UsageRecord]:
        """Records that have become known since the last call."""
        records, self._records = self._records, []
        return records

    def outcome(self) -> Outcome:
        """How it ended; meaningful after the last receive call."""
        return self._outcome

    def error_body(self, status: int, message: str) -> bytes:
        """A blocking error answer (application/json) in the API's own shape."""
        return error_body(self.api, status, message)

    def _refuse_foreign(self, content_type: str) -> None:
        """Refuse to relay what no provider answers with, a proxy's web page for example."""
        if content_type in _FOREIGN_TYPES:
            self._fail("server_error", f"the provider answered with content type {content_type}")
            self.refusal = (502, self.error_body(502, _INVALID_ANSWER))

    def _fail(self, error_type: str, message: str) -> None:
        """Note what went wrong first."""
        if not self._failed:
            self._failed = True
            self._outcome = Outcome(error_type, message)

    def _end(self, end: End, now: float) -> None:
        self._ended = True
        if self._mode is Mode.ERROR:
            message = message_of(self._status, self._kept)
            self._outcome = Outcome(self._outcome.error_type, message)
        try:
            self._finish(end, now)
        except Exception:
            self.faults += 1
        self._mode = Mode.ENDED
        self._editable = False
        self._decoder = None
        self._kept = bytearray()
        self._last_piece = b""

    def _take_held(self) -> bytes:
        held = bytes(self._held)
        self._held.clear()
        return held

    # -- records

    def _record_prompt(self, msg_id: str, now: float) -> None:
        """Record the prompt unless there is none or it has been."""
        if self._prompt is None:
            return
        self._records.append(
            PromptUsage(interception_id=self.id, msg_id=msg_id, prompt=self._prompt, created_at=now)
        )
        self._prompt = None

    def _record_thought(self, content: str | None, source: str, now: float) -> None:
        if content:
            self._records.append(
                ModelThought(
                    interception_id=self.id,
                    content=content,
                    created_at=now,
                    metadata={"source": source},
                )
            )

    def _record_tokens(self, msg_id: str, now: float, **values: Any) -> None:
        self._records.append(
            TokenUsage(interception_id=self.id, msg_id=msg_id, created_at=now, **values)
        )

    def _record_tool(self, msg_id: str, now: float, **values: Any) -> None:
        self._records.append(
            ToolUsage(interception_id=self.id, msg_id=msg_id, created_at=now, **values)
        )
