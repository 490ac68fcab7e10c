"""What all APIs share: relaying an answer and reading it on the side.

Theory of operation.  An answer is one of three things: an event stream, a JSON body, or an
error (a status that is not a success).  The head says which, and the first bytes of a body may
overrule it, since providers and proxies mislabel.

*Event streams* are cut into events (:mod:`.sse`).  Bytes leave as they came, with two
exceptions.  The beginning of an event that has not arrived whole is held back until the rest
is there: no client can use half an event, and should the upstream break off, the client's
parser stands between two events, where an error event of ours can be understood.  (An event
of more than ``HOLD_LIMIT`` bytes leaves in pieces after all, and where one line end separates
events, each leaves with it.)  And an API may withhold an event that its client did not ask for.

*Bodies and errors* pass through untouched, with a copy kept for reading at the end.

Bytes of our own (error events, keepalives) go only into streams that are labelled as such
and not encoded: elsewhere they could not be understood, and a Content-Length would be wrong.

An answer is *whole* when its API's end was seen, or when a reason to finish was seen and the
framing of the answer is whole.  All else is a cut, and never shown as an end.

Reading never disturbs relaying.  What cannot be read is relayed, and the end's metadata say so:
``unread_events`` counts events, ``unread`` is true when all or the rest could not be read.
"""

from __future__ import annotations

import enum
import re
from abc import ABC, abstractmethod
from typing import ClassVar, Self

from attrs import evolve

from aigateway.actors.codec.decoding import (
    Decoder,
    DecodingError,
    TooLarge,
    decoder_for,
)
from aigateway.actors.codec.headers import Headers, joined
from aigateway.actors.codec.json_array import ArrayReader
from aigateway.actors.codec.reading import Buffer, Object, is_json
from aigateway.actors.codec.sse import (
    BARE,
    FOREIGN_TYPES,
    IGNORABLE,
    SNIFFED,
    EventReader,
    is_junk,
    parse_event,
    sniff,
)
from aigateway.actors.interception._record_maker import ClientRequest, RecordMaker
from aigateway.actors.interception.conversation import NO_OPENING
from aigateway.actors.interception.error_bodies import error_body
from aigateway.actors.interception.interface import Outcome
from aigateway.actors.interception.outcomes import (
    BROKEN_CODING,
    CLIENT_GONE,
    ENDED_EARLY,
    INVALID_ANSWER,
    MESSAGE_LIMIT,
    NO_ANSWER,
    error_outcome,
    kind_of_status,
    message_of,
    outcome_of,
)
from aigateway.actors.interception.routes import MESSAGES, Api

__all__ = ["BODY_LIMIT", "End", "Mode", "Relay"]

BODY_LIMIT = 64 * 1024 * 1024
"""Bytes of a blocking answer kept for reading; a longer one is relayed and not read."""

HOLD_LIMIT = 64 * 1024
"""Bytes of an unfinished event that are held back."""

_STRAY_LIMIT = 64 * 1024
"""Bytes of a stream kept that are no events of its API."""

_ERROR_LIMIT = 1024 * 1024
"""Bytes of an error answer kept for reading."""

_LAST_EVENT = re.compile(
    rb"(?:^|[\r\n])event: ?(?:NAME)[\r\n]|\"type\": ?\"(?:NAME)\"".replace(
        b"NAME", rb"response\.(?:completed|incomplete|failed|done)"
    )
)
"""The beginning of the only last events that can be long: those that repeat a whole answer."""


class Mode(enum.Enum):
    """How an answer is being read."""

    WAITING = "no head yet"
    UNDECIDED = "head seen, nature unknown"
    STREAM = "event stream"
    BODY = "one JSON document"
    ERROR = "error answer"
    UNREADABLE = "encoded in a way that cannot be read"
    ENDED = "no more bytes"


class End(enum.Enum):
    """How an answer ended."""

    WHOLE = "as its API ends answers"
    FAILED = "with an error that the upstream reported"
    CUT = "too early, or without having been read"


class Relay(RecordMaker, ABC):
    """The base of every API's interception: bytes, modes and ends; no fields.

    Subclasses read events and bodies and make records of them.
    """

    api: ClassVar[Api]
    ping: ClassVar[bytes] = b": keepalive\n"
    """A comment; behind a blank line some SDKs see an event without data, and fail."""
    pings: ClassVar[bool] = False
    """Whether clients are kept waiting unless it is switched off, or only where it is switched
    on: not all SDKs of OpenAI's APIs bear comments."""

    __slots__ = (
        "_body",
        "_broken_coding",
        "_complete",
        "_cut",
        "_decoder",
        "_editable",
        "_ended",
        "_failed",
        "_kept",
        "_labelled",
        "_last_piece",
        "_mode",
        "_outcome",
        "_outlet",
        "_reader",
        "_status",
        "_stray",
        "_tells_cuts",
        "_unread_events",
        "_unreadable",
        "correlating_tool_call_id",
        "event_stream",
        "faults",
        "keepalives",
        "model",
        "opening",
        "refusal",
        "streaming",
        "written",
    )

    def __init__(self, request: ClientRequest) -> None:
        super().__init__(request)
        self.model = request.model
        self.streaming = request.streaming
        self.correlating_tool_call_id = request.correlating_tool_call_id
        self.refusal = request.refusal
        self.opening = request.opening
        self.written = request.written
        self.event_stream = False
        self.keepalives: bool | None = None
        self.faults = 0
        self._body = request.body
        self._mode = Mode.WAITING
        self._status = 0
        self._decoder: Decoder | None = None
        self._editable = False
        self._reader: EventReader | ArrayReader = EventReader(lenient=True)
        # An error event can be understood where the stream breaks off.
        self._tells_cuts = True
        self._outlet = Outlet()
        # Its content type is that of an event stream.
        self._labelled = False
        self._last_piece = b""
        self._kept = bytearray()
        # Too long or badly encoded: `_kept` is not all of it.
        self._unreadable = False
        self._unread_events = 0
        self._stray = Stray()
        self._broken_coding = ""
        self._outcome = Outcome()
        self._ended = False
        self._complete = False
        self._failed = False
        self._cut = False
        if request.refusal is not None:
            status = request.refusal[0]
            self._fail(kind_of_status(status, openai=True), message_of(status, request.refusal[1]))

    # -- what subclasses provide

    @abstractmethod
    def _read_event(self, piece: bytes, now: float) -> None:
        """Read one piece of the stream."""

    @abstractmethod
    def _read_body(self, data: bytearray, now: float) -> None:
        """Read a whole blocking answer."""

    @abstractmethod
    def _finish(self, end: End, now: float) -> None:
        """Make the records that are still due; runs once, when no more bytes come."""

    @abstractmethod
    def error_event(self, error_type: str, message: str) -> bytes:
        """Make an error event in the API's own shape."""

    def another(self) -> Self:
        """For one more answer to this request, which has no prompt of its own."""
        another = type(self)(
            ClientRequest(id=self.id, body=b"", model=self._asked_model, streaming=self.streaming)
        )
        another._answers = self._answers
        return another

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
        self.written = None
        self.opening = NO_OPENING
        self._status = status
        self._mode = Mode.ERROR if not self._answered else Mode.UNDECIDED
        content_type = joined(headers, "content-type").partition(";")[0].strip().lower()
        try:
            coding = joined(headers, "content-encoding")
            self._decoder = decoder_for(coding) if coding else None
        except DecodingError:
            self._give_up_reading()
        if self._mode is Mode.ERROR:
            self._fail(kind_of_status(status, openai=self.api != MESSAGES), "")
            return
        # Who asks for a stream and is not told otherwise gets one.
        unlabelled_stream = not content_type and self.streaming
        self._labelled = content_type == "text/event-stream" or unlabelled_stream
        self.event_stream = self._labelled
        readable = self._decoder is None and self._mode is Mode.UNDECIDED
        self._editable = self.event_stream and readable
        if content_type in FOREIGN_TYPES:
            # A proxy's web page for example: no provider answers so.
            self._fail("server_error", f"the provider answered with content type {content_type}")
            self.refusal = (502, self.error_body(502, INVALID_ANSWER))

    def receive_data(self, data: bytes, now: float) -> bytes:
        """Take what arrived; return what goes to the client now."""
        if not self._editable:
            self._read(data, now)
            return data
        if self._mode is Mode.UNDECIDED:
            return self._decide(data, now)
        pieces = self._read_stream(data, now)
        outlet = self._outlet
        # PERF: nearly always everything leaves as it came, and is one event.
        if pieces and (pieces[0] is data or not self._reader.tail) and outlet.idle:
            return data
        return outlet.release(data, pieces, self._reader.tail)

    def _read(self, data: bytes, now: float) -> None:
        """Read what is relayed as it comes."""
        if self._decoder is not None:
            try:
                data = self._decoder.feed(data)
            except DecodingError as ex:
                if not isinstance(ex, TooLarge):
                    self._broken_coding = str(ex)
                self._give_up_reading()
        match self._mode:
            case Mode.STREAM:
                self._read_stream(data, now)
            case Mode.BODY:
                self._keep(data, BODY_LIMIT)
            case Mode.ERROR:
                self._keep(data, _ERROR_LIMIT)
            case Mode.UNDECIDED:
                self._decide(data, now)

    def _read_stream(self, data: bytes, now: float) -> list[bytes]:
        pieces = self._reader.feed(data)
        for piece in pieces:
            self._read_piece(piece, now)
        if pieces:
            self._last_piece = pieces[-1]
        return pieces

    def _read_piece(self, piece: bytes, now: float) -> None:
        try:
            self._read_event(piece, now)
        except Exception:
            # Whatever an upstream may send that nobody thought of, relaying goes on.
            self.faults += 1

    def _read_rest(self, rest: bytes, now: float) -> None:
        """Read what came last in a stream, and what nothing ended."""
        # The last blank line is often forgotten.
        self._read_piece(rest, now)

    def _parsed(self, piece: bytes) -> tuple[bytes, bytes]:
        """The name and the data of an event; lines of the piece that are no field are noted."""
        if piece.startswith(BARE):
            self._stray.note_lines(piece)
        return parse_event(piece)

    def _note_odd_event(self, data: bytes, *, may_cost: bool = True) -> None:
        """Note an event whose data is not a JSON object.

        It is counted when it cannot be read; ``may_cost`` says that it may have told usage.
        """
        if data == b"[DONE]":
            return
        if is_json(data):
            self._stray.note(data)
        else:
            self._unread_events += 1
            self._usage_unread |= may_cost and not self._complete

    def _stray_outcome(self) -> Outcome | None:
        """The error that was told by something else than an event, unless the answer went on to
        tell how it ended."""
        return None if self._may_end() else self._stray.outcome()

    def _give_up_reading(self) -> None:
        self._decoder = None
        self._unreadable = True
        self._kept.clear()
        if self._mode is not Mode.ERROR:
            self._mode = Mode.UNREADABLE

    def _decide(self, data: bytes, now: float) -> bytes:
        """Find out by the first bytes what the answer is, then take them as that.

        Until then they are kept, and from an editable answer's client held back.
        """
        kept = self._kept
        kept += data
        stream = sniff(bytes(memoryview(kept)[:SNIFFED]), labelled=self._labelled)
        if stream is None:
            return b""
        if stream:
            self._mode = Mode.STREAM
            self._kept = bytearray()
            if self._editable:
                return self.receive_data(bytes(kept), now)
            self._read_stream(bytes(kept), now)
            return b""
        self._mode = Mode.BODY
        self._keep(b"", BODY_LIMIT)
        held_back, self._editable = self._editable, False
        return bytes(kept) if held_back else b""

    def _keep(self, data: bytes, limit: int) -> None:
        if self._unreadable:
            return
        self._kept += data
        if len(self._kept) > limit:
            self._unreadable = True
            del self._kept[MESSAGE_LIMIT:]

    def _withhold(self, piece: bytes) -> None:
        """Keep the piece at hand from the client, where that can be done."""
        if self._editable and len(piece) <= HOLD_LIMIT:
            self._outlet.withheld.append(piece)

    # -- how it ends

    def receive_end(self, now: float, *, framed: bool = True) -> bytes:
        """The upstream's body has ended; return the last bytes for the client."""
        if self._ended:
            return b""
        match self._mode:
            case Mode.WAITING:
                return self.receive_cut(NO_ANSWER, now)
            case Mode.STREAM:
                return self._end_stream(now, framed)
            case Mode.ERROR:
                kept = self._kept
                self._cut = not framed and kept.startswith(b"{") and not is_json(kept)
                self._end(End.FAILED, now)
            case Mode.UNDECIDED if self.event_stream and not self._kept.strip():
                return self.receive_cut(NO_ANSWER, now)
            case Mode.UNDECIDED if self._editable:
                return self._end_undecided(now, framed)
            case _:
                self._end_body(now, framed)
        return self._outlet.take()

    def _end_undecided(self, now: float, framed: bool) -> bytes:
        """It is labelled as a stream, and too short to be one."""
        held_back = bytes(self._kept)
        self._mode = Mode.BODY
        self._editable = False
        self._end_body(now, framed)
        return held_back

    def _end_stream(self, now: float, framed: bool) -> bytes:
        half = self._reader.tail
        rest = self._reader.flush()
        if rest:
            self._read_rest(rest, now)
            if self._outlet.withheld:
                self._outlet.drop()
        if self._complete or (framed and self._may_end()):
            self._complete = True
            if stray := self._stray_outcome():
                self._fail_by(stray)
            self._end(End.WHOLE, now)
        elif self._failed:
            self._cut = not framed
            self._end(End.FAILED, now)
        elif framed and _LAST_EVENT.search(self._reader.overflowed):
            # The API's last event was too long to read.
            self._complete = True
            self._end(End.CUT, now)
        else:
            last_words = self.receive_cut(ENDED_EARLY, now)
            # An event that is half with the client must end before the next can begin.
            return b"\n\n" + last_words if last_words and half > HOLD_LIMIT else last_words
        return self._outlet.take()

    def _end_body(self, now: float, framed: bool) -> None:
        if self._complete:
            self._end(End.WHOLE, now)
        elif self._read_whole_body(now):
            if self._decoder is not None and not self._decoder.whole:
                # The document is there, but clients that check its coding get none.
                self._fail("server_error", BROKEN_CODING.format("it ends too early"))
            self._end(End.WHOLE, now)
        elif framed and self._broken_coding:
            # What was relayed is complete, and no client can read it.
            self._complete = True
            self._fail("server_error", BROKEN_CODING.format(self._broken_coding))
            self._end(End.CUT, now)
        elif framed and not self._unreadable:
            self._fail("server_error", INVALID_ANSWER if self._kept else NO_ANSWER)
            self._end(End.FAILED, now)
        elif framed:
            self._complete = True
            self._end(End.CUT, now)
        else:
            self.receive_cut(ENDED_EARLY, now)

    def _read_whole_body(self, now: float) -> bool:
        """Read the body if all of it is there."""
        if self._unreadable or not is_json(self._kept):
            return False
        self._complete = True
        try:
            self._read_body(self._kept, now)
        except Exception:
            self.faults += 1
        return True

    def receive_cut(self, reason: str, now: float, *, error_type: str = "server_error") -> bytes:
        """The upstream broke off; return an error event when a stream had begun."""
        if self._ended:
            return b""
        if self._has_all(now):
            self._end(End.WHOLE, now)
            return self._outlet.take()
        last_words = b""
        tells = self._editable and self._tells_cuts and not self._failed
        if tells and is_junk(held := self._outlet.take()):
            # Half an event is of no use to anybody; what is not an event may be.
            last_words = held
            self._stray.note_lines(held)
        if stray := self._stray_outcome():
            # Clients cannot see it where it stood.
            reason, error_type = stray.error_message or reason, stray.error_type or error_type
        if tells:
            # What is half with the client must end before an event can begin.
            if last_words or not self._between_events:
                last_words += b"\n\n"
            last_words += self.error_event(error_type, reason)
        self._break_off(error_type, reason, now)
        return last_words

    def receive_lost_client(self, now: float) -> None:
        """The client has gone and the upstream will not be read to its end."""
        if self._ended:
            return
        if self._has_all(now):
            self._end(End.WHOLE, now)
        else:
            self._break_off("unknown", CLIENT_GONE, now)

    def _has_all(self, now: float) -> bool:
        """Whether all that matters has come, though the upstream did not say so."""
        return self._complete or (self._mode is Mode.BODY and self._read_whole_body(now))

    def _break_off(self, error_type: str, reason: str, now: float) -> None:
        end = End.FAILED if self._failed else End.CUT
        self._fail(error_type, reason)
        self._cut = True
        self._outlet.drop()
        self._end(end, now)

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
        if not self._editable or self._complete or self._failed or not self._between_events:
            return b""
        # Between CR and LF a client stands in the middle of a line's end.
        half_line = self._last_piece.endswith(b"\r")
        return b"" if half_line else self.ping_for(self.keepalives)

    @classmethod
    def ping_for(cls, keepalives: bool | None) -> bytes:
        """The keepalive of this API, if there shall be one; ``None`` means its default."""
        return cls.ping if (cls.pings if keepalives is None else keepalives) else b""

    @property
    def _between_events(self) -> bool:
        """Whether the client has whole events only."""
        return self._reader.tail <= HOLD_LIMIT and not self._reader.by_line

    def outcome(self) -> Outcome:
        """How it ended; meaningful after the last receive call."""
        metadata = dict(self._end_metadata)
        if unread := self.faults + self._unread_events:
            metadata["unread_events"] = unread
        if self._unreadable and self._answered:
            metadata["unread"] = True
        return evolve(self._outcome, metadata=metadata) if metadata else self._outcome

    def error_body(self, status: int, message: str) -> bytes:
        """A blocking error answer (application/json) in the API's own shape."""
        return error_body(self.api, status, message)

    def _fail_as_told(self, body: Buffer) -> None:
        """The body of a good status is no answer of the API: its own words say why."""
        self._fail_by(outcome_of(body) or Outcome("server_error", INVALID_ANSWER))

    def _fail_with(self, error: Buffer | Object | None) -> None:
        """The answer tells of an error."""
        self._fail_by(error_outcome(error))

    def _fail_by(self, outcome: Outcome) -> None:
        self._fail(outcome.error_type or "unknown", outcome.error_message or "")

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
        self._reader.flush()
        self._kept = bytearray()
        self._stray = Stray()
        self._last_piece = b""


class Outlet:
    """Lets whole events out and keeps the beginning of one that is not whole.

    ``held`` are the bytes that wait for the rest of their event, ``withheld`` the pieces
    that must not leave.
    """

    __slots__ = ("_swallow_lf", "held", "withheld")

    def __init__(self) -> None:
        self.held = bytearray()
        self.withheld: list[bytes] = []
        self._swallow_lf = False

    @property
    def idle(self) -> bool:
        """Whether nothing is held, withheld or about to be."""
        return not (self.held or self.withheld or self._swallow_lf)

    def release(self, data: bytes, pieces: list[bytes], tail: int) -> bytes:
        """Choose what leaves of the bytes at hand.

        ``data`` is what has just arrived, ``pieces`` what it completed, and ``tail`` how many
        bytes of an unfinished event are there now.
        """
        if self._swallow_lf and pieces:
            self._swallow_lf = False
            if pieces[0] == b"\n":
                data, pieces = data[1:], pieces[1:]
        waiting = self.held
        waiting += data
        boundary = len(waiting) - tail
        leaving = boundary if tail <= HOLD_LIMIT else len(waiting)
        if self.withheld:
            leaves = self._without_withheld(boundary, pieces) + waiting[boundary:leaving]
        else:
            leaves = waiting[:leaving]
        del waiting[:leaving]
        return bytes(leaves)

    def _without_withheld(self, boundary: int, pieces: list[bytes]) -> bytearray:
        """Join what ends at ``boundary``, without the pieces to withhold."""
        waiting = self.held
        # Of a long event some may have left before, so that it begins before these bytes.
        start = boundary - sum(map(len, pieces))
        kept = waiting[: max(start, 0)]
        for piece in pieces:
            end = start + len(piece)
            if any(piece is withheld for withheld in self.withheld):
                comments = IGNORABLE.match(piece)
                kept += comments[0] if comments else b""
                # The other half of a CRLF that a read cut in two.
                self._swallow_lf = piece.endswith(b"\r") and end == len(waiting)
            else:
                kept += waiting[max(start, 0) : end]
            start = end
        self.withheld.clear()
        return kept

    def take(self) -> bytes:
        """Let out what is held."""
        held = bytes(self.held)
        self.held.clear()
        return held

    def drop(self) -> None:
        """Forget what is held or withheld: it will never leave."""
        self.held.clear()
        self.withheld.clear()


class Stray:
    """What came in a stream and is not an event of its API, a line of its own each.

    Should the stream end early, it may say why.
    """

    __slots__ = ("_kept",)

    def __init__(self) -> None:
        self._kept = bytearray()

    def note(self, data: bytes) -> None:
        """Keep this, if there is room."""
        if len(self._kept) + len(data) <= _STRAY_LIMIT:
            self._kept += data + b"\n"

    def note_lines(self, piece: bytes) -> None:
        """Keep those lines of a piece that are no field of an event."""
        for line in piece.splitlines():
            if is_junk(line):
                self.note(line)

    def outcome(self) -> Outcome | None:
        """The error that is told here, if one is."""
        whole = bytes(self._kept)
        # A document of several lines, or several documents: the last one counts.
        documents = [whole, *reversed(whole.splitlines())]
        told = (outcome_of(each) for each in documents if each[:1] in (b"{", b"["))
        return next(filter(None, told), None)
