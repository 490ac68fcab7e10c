"""How an answer begins, and whether that is the beginning of an answer at all.

A 200 is not a promise: it may hold an error event, a proxy's page, or nothing.  Where another
provider could answer instead, this is fed with an answer's first bytes before any of them is
relayed: of a stream up to its first event, of a blocking answer all that comes within
:data:`HOLD_LIMIT`.  Bytes in, a verdict out; no I/O.

The content decides, not its label: clients read what they asked for under any.  But no
provider answers with a web page.
"""

from __future__ import annotations

from typing import Literal, TypeAlias

from attrs import frozen

from aigateway.actors.codec.decoding import (
    DecodingError,
    TooLarge,
    decoder_for,
)
from aigateway.actors.codec.headers import Headers, first_of, joined
from aigateway.actors.codec.json_array import ArrayReader, begins_array, element_of
from aigateway.actors.codec.reading import Buffer, Object, is_json, members, text
from aigateway.actors.codec.sse import (
    FOREIGN_TYPES,
    SNIFFED,
    EventReader,
    parse_event,
    sniff,
)
from aigateway.actors.interception.model_calls import is_read
from aigateway.actors.interception.outcomes import error_outcome
from aigateway.actors.providers.bedrock.eventstream import FrameReader, sse_event

__all__ = ["HOLD_LIMIT", "BadStart", "Beginning", "Fault"]

HOLD_LIMIT = 1024 * 1024
"""Bytes of a blocking answer that are held back; a longer one is relayed from there on."""
EVENT_LIMIT = 64 * 1024
"""The same of a stream in which no event has ended."""

Fault: TypeAlias = Literal["error_event", "bad_answer", "empty", "broke_off", "slow"]

_BLANK = b"\xef\xbb\xbf \t\r\n"

_OURS = frozenset({"bad_request", "unauthorized"})
"""Kinds of errors that another provider would answer too, or that are about a credential."""


@frozen
class BadStart:
    """What is wrong with an answer of which nothing was relayed."""

    fault: Fault
    message: str
    kind: str = "server_error"
    """In the words of the records."""


class Beginning:
    """The first bytes of an answer that says it is a success.

    Feed it until ``over``; ``bad`` is then what is wrong, or None.
    """

    def __init__(
        self,
        headers: Headers,
        *,
        streaming: bool,
        converted: bool = False,
        arrays: bool = False,
        anything: bool = False,
    ) -> None:
        """``converted``: streams come in AWS's frames; ``arrays``: one may be a JSON array;
        ``anything``: what is labelled as neither may be an answer, and a stream may be a document.
        """
        self.over = False
        self.bad: BadStart | None = None
        self.began = False
        """Some byte of the body has come."""
        content_type = first_of(headers, "content-type").partition(";")[0].strip().lower()
        if anything:
            streaming = streaming and content_type in ("", "text/event-stream")
        self._opaque = anything and not is_read(content_type)
        self._reader = EventReader(lenient=True) if streaming else None
        self._labelled = streaming and content_type in ("", "text/event-stream")
        self._frames = FrameReader() if streaming and converted else None
        self._is_stream = self._frames is not None
        self._arrays = streaming and arrays
        self._array: ArrayReader | None = None
        self._held = bytearray()
        self._size = 0
        if content_type in FOREIGN_TYPES:
            self._spoil("bad_answer", f"the provider answered with content type {content_type}")
        try:
            self._decoder = decoder_for(joined(headers, "content-encoding"))
        except DecodingError:
            # Clients may know what is not known here.
            self.over = True

    def feed(self, data: bytes) -> None:
        """Take the next bytes of the body."""
        if self.over:
            return
        self.began = self.began or bool(data)
        self._size += len(data)
        if self._opaque:
            self.over = self.began
            return
        try:
            self._take(self._decoder.feed(data) if self._decoder is not None else data)
        except TooLarge:
            self.over = True
        except DecodingError as ex:
            self._spoil("bad_answer", f"the content coding of the answer is broken: {ex}")
        if self._size > (HOLD_LIMIT if self._reader is None else EVENT_LIMIT):
            self.over = True

    def end(self) -> None:
        """The body has ended."""
        if self.over:
            return
        if self._opaque:
            self._spoil("empty", "the provider's answer is empty")
            return
        if self._is_stream:
            assert self._reader is not None
            self._look(self._reader.flush())
        if self._is_stream or self._array is not None:
            if not self.over:
                self._spoil("empty", "the provider's stream ended without an event")
            return
        self._read_document()

    def cut(self, reason: str) -> None:
        """The connection broke, or its framing is none."""
        if not self.over and not (self._reader is None and is_json(self._held)):
            self._spoil("broke_off", reason)

    # -- streams

    def _take(self, data: bytes) -> None:
        if self._frames is not None:
            data = b"".join(map(sse_event, self._frames.feed(data)))
            self._read_events(data)
            if self._frames.damage:
                self._spoil("bad_answer", self._frames.damage)
            return
        if self._is_stream:
            self._read_events(data)
            return
        if self._array is not None:
            self._read_elements(self._array, data)
            return
        self._held += data
        start = bytes(memoryview(self._held)[:SNIFFED])
        stream = sniff(start, labelled=self._labelled)
        if stream is False and self._arrays and begins_array(start):
            self._array = ArrayReader()
            held, self._held = bytes(self._held), bytearray()
            self._read_elements(self._array, held)
        elif stream and self._reader is None:
            self._spoil("bad_answer", "the provider answered with a stream")
        elif stream:
            self._is_stream = True
            held, self._held = bytes(self._held), bytearray()
            self._read_events(held)
        elif stream is False and not start.lstrip(_BLANK).startswith((b"{", b"[")):
            self._spoil("bad_answer", "the provider's answer is neither JSON nor a stream")

    def _read_elements(self, array: ArrayReader, data: bytes) -> None:
        for piece in array.feed(data):
            element = element_of(piece)
            if not is_json(element):
                self._spoil("bad_answer", "the first event of the provider's stream is no JSON")
            if not self.over:
                self._decide(members(element), b"")

    def _read_events(self, data: bytes) -> None:
        assert self._reader is not None
        for piece in self._reader.feed(data):
            if not self.over:
                self._look(piece)

    def _look(self, piece: bytes) -> None:
        """Look at one event; comments and pings are none yet."""
        name, data = parse_event(piece)
        if not data.strip():
            # A proxy may write a bare document into a stream.
            data = piece.strip() if piece.lstrip()[:1] == b"{" else b""
        if name == b"ping" or not data:
            return
        if data.strip() == b"[DONE]":
            self._spoil("empty", "the provider's stream ended without an event")
            return
        if not is_json(data):
            self._spoil("bad_answer", "the first event of the provider's stream is no JSON")
            return
        fields = members(data)
        if text(fields.get("type")) != "ping":
            self._decide(fields, name)

    # -- documents

    def _read_document(self) -> None:
        held = bytes(self._held)
        if not held.strip():
            self._spoil("empty", "the provider's answer is empty")
        elif not is_json(held):
            self._spoil("bad_answer", "the provider's answer is no JSON")
        else:
            self._decide(members(held), b"")
            if self.bad is None and self._reader is not None:
                self._spoil("bad_answer", "the provider answered a stream with a document")

    def _decide(self, fields: Object, name: bytes) -> None:
        """It is a good beginning, unless it is an error that is the provider's."""
        self.over = True
        error = _error_in(fields, name)
        if error is not None:
            outcome = error_outcome(error)
            if outcome.error_type not in _OURS:
                kind = outcome.error_type or "server_error"
                self._spoil("error_event", outcome.error_message or "", kind)

    def _spoil(self, fault: Fault, message: str, kind: str = "server_error") -> None:
        self.over = True
        self.bad = BadStart(fault, message, kind)


def _error_in(fields: Object, name: bytes) -> Buffer | Object | None:
    """The error that an event or a document tells of, in the words of any of the APIs."""
    error = fields.get("error")
    kind = text(fields.get("type"))
    if kind == "response.failed":
        error = members(fields.get("response")).get("error")
        return error if error is not None else fields
    if error is not None and (members(error) or text(error)):
        return error
    return fields if name == b"error" or kind == "error" else None
