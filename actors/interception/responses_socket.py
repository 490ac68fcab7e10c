"""The Responses API over a WebSocket: what each message means, without I/O.

Theory of operation.  Every message is a JSON document.  A client's ``response.create`` has the
fields of an HTTP request; what the server answers are the events of an event stream, one in each
message, without the ``event:`` and ``data:`` around them.  So a response on a connection is an
interception as over HTTP (:class:`SocketResponse`), that is fed messages in the place of bytes.

A connection is a *session*.  On it runs one response at a time, or one in each *lane*: clients that
want several name a ``stream_id`` in each request, and the server names it in each event of it.
:class:`Lanes` knows who runs.  A lane is taken before anybody is asked about a request, and free
again before the client sees the end of its answer.

A request that is refused is answered with an ``error`` message, and the session goes on.  One from
the provider that comes first in a lane, with a status, is what an HTTP answer with that status is.

``response.steer`` gives a running response more input; the provider ends that response and begins
another one by itself.  That is an interception too, with the input as its prompt
(:func:`steered_request`).

What a client says of itself stands in the handshake's headers.  Codex says it again in each request
(``client_metadata``), of that request: a connection outlives turns, and is opened before the first.

A client's messages of other types are refused unless they are known to begin nothing
(:data:`HARMLESS`): what nobody has read must not run.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import ClassVar, Final, Generic, TypeVar

import msgspec
from attrs import evolve, frozen

from aigateway.actors.codec.headers import HeaderList, Headers
from aigateway.actors.codec.reading import (
    Buffer,
    NotJson,
    Object,
    count,
    is_json,
    is_null,
    items,
    members,
    text,
    values,
)
from aigateway.actors.codec.splice import add_member, object_members, set_each
from aigateway.actors.interception._record_maker import ClientRequest
from aigateway.actors.interception.error_bodies import error_body
from aigateway.actors.interception.fingerprint import item_checksum
from aigateway.actors.interception.interface import InvalidRequest
from aigateway.actors.interception.masking import mask_body
from aigateway.actors.interception.relay import Mode
from aigateway.actors.interception.responses import ResponsesInterception, read_responses_request
from aigateway.actors.interception.routes import RESPONSES, Api
from aigateway.actors.values.prompt_parts import PromptParts

__all__ = [
    "BUSY",
    "CREATE",
    "HARMLESS",
    "STEER",
    "ClientMessage",
    "Lanes",
    "SocketResponse",
    "begins_response",
    "error_message",
    "error_message_of",
    "headers_of",
    "mask_error",
    "open_response",
    "read_client_message",
    "refused_status",
    "steered_request",
    "tells_failure",
]

CREATE: Final = "response.create"
STEER: Final = "response.steer"
HARMLESS: Final = frozenset({"response.cancel", "response.interrupt", "response.processed"})
"""What a client may say that makes no model work."""

BUSY: Final = "a response is still running on this connection, or on this stream_id"

_EVENT_STREAM: Final = (("content-type", "text/event-stream"),)
_DOCUMENT: Final = (("content-type", "application/json"),)
_ERROR: Final = re.compile(rb'"type"\s*:\s*"error"')
_FAILURE: Final = re.compile(rb'"type"\s*:\s*"(?:error|response\.failed)"')
_FAILURES: Final = frozenset({"error", "response.failed"})
_ITEM_DONE: Final = b'"response.output_item.done"'
_CREATED: Final = re.compile(rb'"type"\s*:\s*"response\.created"')
_TOLD: Final = {
    "session_id": "session-id",
    "thread_id": "thread-id",
    "x-codex-parent-thread-id": "x-codex-parent-thread-id",
    "x-codex-turn-metadata": "x-codex-turn-metadata",
    "x-openai-subagent": "x-openai-subagent",
}
"""What Codex says in a request's ``client_metadata``, and the header that says it over HTTP."""
_STATUSES: Final[Mapping[str, int]] = {
    "bad_request": 400,
    "overloaded": 503,
    "rate_limited": 429,
    "timeout": 504,
}
"""The status of an error of ours, by its kind; of others 502."""

T = TypeVar("T")


# -- a client's messages


@frozen
class ClientMessage:
    """What a client's message asks for."""

    kind: str
    """Its ``type``."""
    lane: str | None
    """The ``stream_id``; None: it names none."""
    told: Headers = ()
    """What it says of the request, as the headers that would say so over HTTP."""


def headers_of(handshake: HeaderList, asked: ClientMessage) -> HeaderList:
    """The headers that a message has: the handshake's, but for what it says itself."""
    if not asked.told:
        return handshake
    told = {name for name, _value in asked.told}
    kept = [each for each in handshake if each[0].lower() not in told]
    return HeaderList([*kept, *asked.told])


def read_client_message(payload: bytes) -> ClientMessage:
    """Read what a message asks for.

    Raises InvalidRequest for what is not a JSON object, or can be understood in two ways: of a name
    that is written twice a provider may take the one that nobody has looked at.
    """
    if not is_json(payload) or not payload.lstrip().startswith(b"{"):
        raise _invalid("the message is not a JSON object")
    fields = members(payload)
    names = [each.name for each in object_members(payload)]
    if any(names.count(name) > 1 for name in ("type", "stream_id", "generate")):
        raise _invalid("type, stream_id and generate may each be written once")
    lane = None
    if not is_null(fields.get("stream_id")):
        lane = text(fields["stream_id"])
        if lane is None:
            raise _invalid("stream_id is not a string")
    return ClientMessage(text(fields.get("type")) or "", lane, _told(fields))


def _told(fields: Object) -> Headers:
    given = fields.get("client_metadata")
    if is_null(given):
        return ()
    said = members(given)
    found = [(header, text(said.get(name))) for name, header in _TOLD.items()]
    # Headers are text in which a character is a byte.
    return [(header, value.encode().decode("latin-1")) for header, value in found if value]


def open_response(
    id: str, payload: bytes, headers: Headers = (), lane: str | None = None
) -> SocketResponse:
    """The interception of a ``response.create``.

    Without ``generate`` there is no output, and nobody said anything.  Raises InvalidRequest.
    """
    fields = members(payload)
    follows = ""
    if is_null(fields.get("conversation")):
        follows = text(fields.get("previous_response_id")) or ""
    try:
        request = read_responses_request(id, payload, payload, headers, follows=follows)
    except NotJson as ex:
        raise _invalid("the message is not a JSON object") from ex
    request = evolve(request, streaming=True)
    generates = bytes(fields.get("generate", b"")) != b"false"
    if not generates:
        request = evolve(request, prompt=None, prompt_kind=None)
    return SocketResponse(request, lane, generates=generates)


def steered_request(payload: bytes, model: str) -> bytes:
    """A ``response.steer`` as the request of the response that follows by itself, for reading: it
    has its predecessor's model."""
    return add_member(payload or b"{}", msgspec.json.encode(model), "model")


def _invalid(message: str) -> InvalidRequest:
    return InvalidRequest(message, error_body(RESPONSES, 400, message))


# -- a server's messages


def refused_status(payload: bytes) -> int:
    """The status of an ``error`` message; 0 where it is none, or tells none."""
    if _ERROR.search(payload) is None:
        return 0
    fields = members(payload)
    if text(fields.get("type")) != "error":
        return 0
    return count(fields.get("status") or fields.get("status_code"))


def tells_failure(payload: bytes) -> bool:
    """Whether a message is an error, with a status or without, or the failure of a response."""
    return _FAILURE.search(payload) is not None and text(members(payload).get("type")) in _FAILURES


def begins_response(payload: bytes) -> bool:
    """Whether an event is the first one of a response."""
    found = _CREATED.search(payload)
    return found is not None and text(members(payload).get("type")) == "response.created"


def mask_error(payload: bytes, keys: Iterable[str]) -> bytes:
    """A failure that is told to the gateway's own key, without what tells of its account.

    A 401 is about a key that the client does not know, and would read as one about its own.
    """
    masked = mask_body(payload, _DOCUMENT, keys)
    if masked is not None:
        payload = masked[0]
    if refused_status(payload) == 401:
        for name in ("status", "status_code"):
            if name in members(payload):
                payload = set_each(payload, b"502", name)
    return payload


def error_message(
    status: int, error: Mapping[str, object], lane: str | None = None, number: int | None = None
) -> bytes:
    """An ``error`` message of the gateway's own; ``number`` is its place among the events."""
    said: dict[str, object] = {"type": "error", "status": status, "error": error}
    if number is not None:
        said["sequence_number"] = number
    if lane is not None:
        said["stream_id"] = lane
    return msgspec.json.encode(said)


def error_message_of(status: int, body: bytes, lane: str | None = None) -> bytes:
    """What would be an HTTP answer with this status and body, as a message."""
    fields = members(body)
    if error := values(fields.get("error")):
        return error_message(status, error, lane)
    said = text(fields.get("message")) or body.decode("utf-8", "replace").strip()
    whole = msgspec.json.decode(error_body(RESPONSES, status, said))
    return error_message(status, whole["error"], lane)


# -- who runs


class _Taken:
    """In the place of what is about to run in a lane."""

    __slots__ = ()


class Lanes(Generic[T]):
    """What runs on a session.

    Used by the one who reads the client and by the one who reads the provider, each in its own
    thread: the one that gets a ``T`` out of here has it alone.
    """

    __slots__ = ("_lanes", "_named")

    def __init__(self) -> None:
        self._lanes: dict[str | None, T | _Taken] = {}
        self._named = False
        """A request has named its lane: then events do too."""

    def __len__(self) -> int:
        return len(self._lanes)

    def take(self, lane: str | None) -> bool:
        """Take a lane for a request that is about to be made; False while one runs there."""
        self._named = self._named or lane is not None
        mine = _Taken()
        # Atomic: the other thread may take and free lanes at the same time.
        return self._lanes.setdefault(lane, mine) is mine

    def fill(self, lane: str | None, running: T) -> bool:
        """This runs in a lane that was taken; False: meanwhile something else runs there."""
        if not isinstance(self._lanes.get(lane), _Taken):
            return False
        self._lanes[lane] = running
        return True

    def free(self, lane: str | None) -> None:
        """Nothing runs in a lane that was taken."""
        if isinstance(self._lanes.get(lane), _Taken):
            self._lanes.pop(lane, None)

    def put(self, lane: str | None, running: T) -> None:
        """This runs, no matter who has taken the lane."""
        self._lanes[lane] = running

    def pop(self, lane: str | None) -> T | None:
        """The lane is free; returns what ran there, to the first who asks."""
        found = self._lanes.pop(lane, None)
        return None if isinstance(found, _Taken) else found

    def running(self) -> list[str | None]:
        """The lanes in which something runs."""
        return [lane for lane, ran in list(self._lanes.items()) if not isinstance(ran, _Taken)]

    def pop_all(self) -> list[T]:
        """All lanes are free; returns what ran."""
        return [ran for lane in list(self._lanes) if (ran := self.pop(lane)) is not None]

    def lane_of(self, payload: bytes) -> str | None:
        """The lane that an event of the provider is about."""
        # PERF: nearly all sessions have one lane, and nothing has to be looked for.
        if not self._named or b"stream_id" not in payload:
            return None
        return text(members(payload).get("stream_id"))

    def find(self, payload: bytes) -> T | None:
        """What an event of the provider is about; None: nothing that runs."""
        if not self._named:
            found = self._lanes.get(None)
        else:
            lane = self.lane_of(payload)
            found = self._lanes.get(lane)
            if found is None and lane is None and _ERROR.search(payload) is not None:
                # A refusal that does not say of what: there may be one thing only.
                running = self.running()
                found = self._lanes.get(running[0]) if len(running) == 1 else None
        return None if isinstance(found, _Taken) else found


# -- one response


class SocketResponse(ResponsesInterception):
    """One request on a session and its answer: :meth:`receive_data` takes a message each time."""

    api: ClassVar[Api] = RESPONSES

    __slots__ = ("_has_items", "_prompt_key", "generates", "lane", "parts")

    def __init__(
        self, request: ClientRequest, lane: str | None = None, *, generates: bool = True
    ) -> None:
        super().__init__(request)
        self.lane = lane
        self.generates = generates
        """It is asked for output; else for preparing what others go on from."""
        self.parts: PromptParts | None = None
        """Checksums of its prompt and of the items that it has told; None: nobody wants them."""
        self._prompt_key = b""
        self._has_items = False

    @property
    def msg_id(self) -> str:
        """Its id; nothing before it is told."""
        return self._msg_id

    def remember(self, key: bytes, parts: PromptParts) -> None:
        """Put the checksums of its items, which are keyed with ``key``, behind those of its
        prompt."""
        self._prompt_key, self.parts = key, parts

    def receive_data(self, data: bytes, now: float) -> bytes:
        """Take a message; it goes to the client as it came."""
        if self._mode is Mode.WAITING and (status := refused_status(data)) >= 400:
            self.begin_answer(status, _DOCUMENT)
            self._read(data, now)
            return data
        self._begin_stream()
        line = data
        if b"\n" in data or b"\r" in data:
            # Between JSON's words only, where a blank means the same.
            line = data.replace(b"\n", b" ").replace(b"\r", b" ")
        self._last_piece = piece = b"data: " + line + b"\n\n"
        self._read_piece(piece, now)
        if self.parts is not None:
            self._add_items(self.parts, data)
        return data

    def _add_items(self, parts: PromptParts, data: bytes) -> None:
        """Take note of the items that an event tells."""
        told: list[Buffer] = []
        # PERF: most are deltas, in which there is no such word.
        if _ITEM_DONE in data:
            event = members(data)
            if text(event.get("type")) == "response.output_item.done":
                told = [event.get("item", b"")]
        elif self._finished and not self._has_items:
            told = list(items(members(members(data).get("response")).get("output")))
        if told:
            self._has_items = True
            sums = [item_checksum(self._prompt_key, each) for each in told]
            self.parts = evolve(parts, joined=b"".join((parts.joined, *sums)))

    def _begin_stream(self) -> None:
        if self._mode is Mode.WAITING:
            self.begin_answer(200, _EVENT_STREAM)
            self._mode = Mode.STREAM

    @property
    def status(self) -> int:
        """As of an HTTP answer; 502: none has come."""
        return self._status or 502

    @property
    def over(self) -> bool:
        """Whether no more events of it come."""
        return self._complete or self._failed or self._finished

    def error_event(self, error_type: str, message: str) -> bytes:
        """An ``error`` message."""
        status = _STATUSES.get(error_type, 502)
        error = values(members(error_body(RESPONSES, status, message))["error"])
        last = self._last_piece.removeprefix(b"data: ")
        number = count(members(last).get("sequence_number")) + 1 if last else None
        return error_message(status, error, self.lane, number)

    def keepalive(self) -> bytes:
        """A session is kept alive by pings of the WebSocket."""
        return b""
