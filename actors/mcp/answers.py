"""Read what an MCP server answers over streamable HTTP, sans-IO.

A request is one POST.  Its answer is one JSON object or a stream of server-sent events that
carries notifications, up to revision 2025-11-25 also requests of the server, and at last
the answer.  :class:`AnswerReader` is fed the head and the bytes of one HTTP answer and says
when it has what was asked for; ``result`` then returns it or raises.

A request of the server, in the older revisions, is answered in a POST of its own (see
:meth:`~aigateway.actors.mcp.protocol.Dialogue.decline`): the server may be waiting for it
inside the very call whose answer is read here.
"""

from __future__ import annotations

import enum
import re
from typing import Any, TypeAlias

import msgspec
from attrs import frozen

from aigateway.actors.codec.decoding import Decoder, DecodingError, decoder_for
from aigateway.actors.codec.headers import Headers
from aigateway.actors.codec.sse import EventReader, parse_event
from aigateway.actors.mcp.errors import (
    BadAnswer,
    HttpRefused,
    McpError,
    RpcRefused,
    SessionLost,
    StreamCut,
    Unauthorized,
    Unreachable,
    quoted,
)

__all__ = ["ANSWER_LIMIT", "AnswerReader", "Expect", "Notice", "Notification", "ServerRequest"]

ANSWER_LIMIT = 8 * 1024 * 1024
"""Bytes of one JSON-RPC message.  A model's context holds a fraction of it."""

_ERROR_LIMIT = 64 * 1024
"""Bytes of an HTTP error's body that are read."""

_LOST_CODES = frozenset({-32000, -32001, -32600})
"""What the SDKs' servers say together with 400 for a session they do not know."""

_SESSION_ID = re.compile(r"[\x21-\x7e]{1,4096}")
_LINE = re.compile(rb"[^\r\n]+")


class Expect(enum.Enum):
    """What answers a message."""

    ANSWER = enum.auto()
    """The JSON-RPC answer to a request."""
    NOTHING = enum.auto()
    """Acceptance only: it was a notification, or a DELETE."""
    STREAM = enum.auto()
    """A stream that stays open and carries notifications."""


@frozen
class Notification:
    """The server tells something that wants no answer."""

    method: str


@frozen
class ServerRequest:
    """The server asks something; ``id`` is its id as raw JSON."""

    method: str
    id: bytes


Notice: TypeAlias = Notification | ServerRequest


class _Error(msgspec.Struct):
    code: int
    message: str = ""
    data: msgspec.Raw = msgspec.Raw(b"")


class _Message(msgspec.Struct):
    """A JSON-RPC message of any kind; unknown members are ignored."""

    id: msgspec.Raw = msgspec.Raw(b"")
    method: str | None = None
    result: msgspec.Raw = msgspec.Raw(b"")
    error: _Error | None = None


_decode_message = msgspec.json.Decoder(_Message | list[_Message]).decode


class AnswerReader:
    """Reads one HTTP answer.  Order of calls: ``begin``, ``receive``*, ``end``.

    ``in_session``: the request carried a session id, so that the server may say that it has
    lost the session.  ``last_event_id``: this answer continues a stream that was cut there.
    """

    def __init__(
        self,
        request_id: int | None = None,
        expect: Expect = Expect.ANSWER,
        *,
        in_session: bool = False,
        last_event_id: str = "",
    ) -> None:
        self.status = 0
        self.session_id: str | None = None
        """The session that the server opened with this answer."""
        self.answered = False
        """Nothing more needs to be read."""
        self.last_event_id = last_event_id
        self.retry = 0.0
        """Seconds to wait before a cut stream is asked for again."""
        self._id = request_id
        self._expect = expect
        self._in_session = in_session
        self._decoder: Decoder | None = None
        self._events: EventReader | None = None
        self._body = bytearray()
        self._limit = ANSWER_LIMIT
        self._result: bytes | None = None
        self._fault: McpError | None = None

    def begin(self, status: int, headers: Headers) -> None:
        """The head has arrived."""
        self.status = status
        fields = {name.lower(): value for name, value in headers}
        session_id = fields.get("mcp-session-id", "")
        if _SESSION_ID.fullmatch(session_id):
            self.session_id = session_id
        try:
            self._decoder = decoder_for(fields.get("content-encoding", ""))
        except DecodingError as ex:
            self._fail(BadAnswer(f"the server's answer cannot be decoded: {ex}"))
            return
        if not 200 <= status < 300:
            self._limit = _ERROR_LIMIT
            return
        if self._expect is Expect.NOTHING:
            self._succeed(b"")
            return
        kind = fields.get("content-type", "").partition(";")[0].strip().lower()
        if kind == "text/event-stream":
            self._events = EventReader(ANSWER_LIMIT)
        elif kind != "application/json" or self._expect is Expect.STREAM:
            what = f"a body of type {quoted(kind)!r}" if kind else "no body"
            self._fail(BadAnswer(f"the server answered a request with {status} and {what}"))

    def receive(self, data: bytes) -> list[Notice]:
        """Take bytes of the body; return what the server tells or asks beside the answer."""
        if self.answered:
            return []
        if self._decoder is not None:
            try:
                data = self._decoder.feed(data)
            except DecodingError as ex:
                self._fail(BadAnswer(f"the server's answer cannot be decoded: {ex}"))
                return []
        if self._events is None:
            self._body += data[: self._limit + 1 - len(self._body)]
            if len(self._body) > self._limit:
                self._body_too_long()
            return []
        notices: list[Notice] = []
        for piece in self._events.feed(data):
            notices += self._take_event(piece)
        if self._events.overflowed:
            self._fail(BadAnswer(f"the server sent an event over {ANSWER_LIMIT} bytes"))
        return notices

    def end(self) -> list[Notice]:
        """The body has ended, properly or not."""
        if self.answered:
            return []
        notices: list[Notice] = []
        if not 200 <= self.status < 300:
            self._fail(self._refusal())
        elif self._events is None:
            notices = self._take_message(bytes(self._body))
            if not self.answered:
                self._fail(BadAnswer("the server's answer does not answer the request"))
        else:
            # The end of a stream dispatches nothing (HTML standard, "Server-sent events").
            text = "the server ended the event stream before its answer"
            self._fail(StreamCut(text, self.last_event_id, self.retry))
        return notices

    def cut(self, reason: str) -> None:
        """The connection broke inside the body."""
        if self._events is None:
            self._fail(Unreachable(reason))
        else:
            self._fail(StreamCut(reason, self.last_event_id, self.retry))

    def result(self) -> bytes:
        """Return the ``result`` member as raw JSON.  Raises :class:`McpError`."""
        if self._fault is not None:
            raise self._fault
        assert self._result is not None, "result() before the answer"
        return self._result

    # -- pieces of a body

    def _succeed(self, result: bytes) -> None:
        if not self.answered:
            self.answered = True
            self._result = result

    def _fail(self, error: McpError) -> None:
        if not self.answered:
            self.answered = True
            self._fault = error

    def _body_too_long(self) -> None:
        if self._limit == _ERROR_LIMIT:
            self._fail(self._refusal())
        else:
            self._fail(BadAnswer(f"the server's answer is over {ANSWER_LIMIT} bytes"))

    def _take_event(self, piece: bytes) -> list[Notice]:
        if self.answered:
            return []
        for line in _LINE.findall(piece):
            name, _, value = line.partition(b":")
            value = value.removeprefix(b" ")
            if name == b"id" and b"\0" not in value:
                self.last_event_id = value.decode("latin-1")
            elif name == b"retry" and value.isdigit() and len(value) < 10:
                self.retry = int(value) / 1000
        name, data = parse_event(piece)
        if not data or name not in (b"", b"message"):
            return []
        return self._take_message(data)

    def _take_message(self, data: bytes) -> list[Notice]:
        try:
            decoded: Any = _decode_message(data)
        except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as ex:
            if self._expect is not Expect.STREAM:
                self._fail(BadAnswer(f"the server's answer is no JSON-RPC message: {ex}"))
            return []
        # A batch: only revision 2025-03-26 knows them.
        messages = decoded if isinstance(decoded, list) else [decoded]
        notices: list[Notice] = []
        for message in messages:
            notice = self._read(message)
            if notice is not None:
                notices.append(notice)
        return notices

    def _read(self, message: _Message) -> Notice | None:
        identity = bytes(message.id)
        if message.method is not None:
            if identity in (b"", b"null"):
                return Notification(message.method)
            return ServerRequest(message.method, identity)
        own = self._is_own(message)
        if message.error is not None and (own or identity in (b"", b"null")):
            error = message.error
            self._fail(RpcRefused(error.code, error.message, bytes(error.data), self.status))
        elif own and message.result:
            self._succeed(bytes(message.result))
        elif own:
            self._fail(BadAnswer("the server's answer has neither a result nor an error"))
        return None

    def _refusal(self) -> McpError:
        """What an HTTP error means."""
        error: _Error | None = None
        try:
            decoded: Any = _decode_message(bytes(self._body))
        except (msgspec.DecodeError, RecursionError, UnicodeDecodeError):
            decoded = None
        if isinstance(decoded, _Message):
            error = decoded.error
        own = isinstance(decoded, _Message) and self._is_own(decoded)
        if self._in_session and self._lost_session(error, own):
            return SessionLost("the server does not know the session any more")
        text = f"the server answered {self.status}"
        if self.status in (401, 403):
            detail = f": {quoted(error.message)}" if error is not None else ""
            return Unauthorized(f"{text}, the token was not accepted{detail}", self.status)
        if error is not None:
            return RpcRefused(error.code, error.message, bytes(error.data), self.status)
        return HttpRefused(text, self.status)

    def _lost_session(self, error: _Error | None, own: bool) -> bool:
        """Whether an error means that the server does not know the session.

        The standard asks for 404 (2025-11-25, "Session Management").  Others say 410, or 400
        and something with "session" in it, in JSON-RPC or any other form.
        """
        if self.status in (404, 410):
            return True
        if self.status != 400:
            return False
        if error is None:
            return b"session" in self._body.lower()
        # An error that answers the very request is the tool's, unless it is one of the SDKs'.
        speaks = "session" in error.message.lower()
        return speaks and (not own or error.code in _LOST_CODES)

    def _is_own(self, message: _Message) -> bool:
        # Some servers keep ids as text.
        return self._id is not None and bytes(message.id).strip(b'"') == b"%d" % self._id
