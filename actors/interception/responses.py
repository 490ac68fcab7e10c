"""OpenAI's Responses API (``/v1/responses``), and what other vendors make of it.

A stream tells the same things several times: an item as deltas, as a finished item, and once more
in the output of the last event.  Vendors leave out one or another of these, so all are read and
matched: a call or a thought is recorded once, from whatever told the most of it.

Events are known by their names or, where they have none that is known, by the ``type`` in their
data, which is what SDKs look at.  Events with one dot in their type (``response.completed``)
tell of the response as a whole, those with more of a part of it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import ClassVar, NamedTuple

import msgspec
from msgspec import Raw, Struct

from aigateway.actors.codec.headers import Headers
from aigateway.actors.codec.reading import (
    Buffer,
    Object,
    as_count,
    boolean,
    count,
    is_null,
    items,
    members,
    read_once,
    source,
    text,
    values,
)
from aigateway.actors.codec.sse import parse_event
from aigateway.actors.interception._record_maker import ClientRequest, Text
from aigateway.actors.interception._response_items import (
    Items,
    Saying,
    Thinking,
    Thought,
    answer_of,
    call_of,
    commentary_of,
    paid_request,
    thoughts_of,
)
from aigateway.actors.interception.conversation import (
    ASIDE,
    Conversation,
    Prompt,
    PromptKind,
    Said,
    kind_of,
    last_said,
    opening_of_response,
    typed,
)
from aigateway.actors.interception.relay import End, Relay
from aigateway.actors.interception.routes import COMPACTION, RESPONSES, Api
from aigateway.actors.interception.stored_ids import is_stored, values_before
from aigateway.actors.interception.usage import RunningUsage

__all__ = [
    "BEGINNINGS",
    "CompactionInterception",
    "ResponsesInterception",
    "is_end",
    "read_compaction_request",
    "read_responses_request",
]


_BACKGROUND = (
    501,
    b'{"code":"501","message":"background requests are currently not supported by AI Bridge"}',
)


# -- requests


_NULL = Raw(b"null")


class _Before:
    """Names what a request goes on from."""


class _Store:
    """Says whether the answer is to be stored."""


class _Tool(Struct):
    type: str = ""


class _Body(Struct):
    """What is wanted of a request's body."""

    model: str = ""
    input: str | list[Raw] = ""
    instructions: Raw = _NULL
    stream: bool | None = None
    background: bool | None = None
    tools: Raw = _NULL
    previous_response_id: _Before | None = None
    conversation: _Before | None = None
    store: _Store = _Store()
    prompt_cache_retention: Raw = _NULL


class _Read(NamedTuple):
    body: _Body
    goes_on: bool
    names_stored: bool
    stored: bool


def _decode(readable: bytes) -> _Read:
    # Of a name that is written twice a provider may take the first, so all values are looked at.
    before: list[object] = []
    store: list[object] = []

    def keep(kind: type, value: object) -> object:
        (before if kind is _Before else store).append(value)
        return kind()

    body = msgspec.json.decode(readable, type=_Body, dec_hook=keep)
    goes_on = any(isinstance(each, str | dict) for each in before)
    return _Read(body, goes_on, bool(before), any(each is not False for each in store or (None,)))


def _by_members(readable: bytes) -> _Read:
    fields = members(readable)
    given = fields.get("input")
    whole = text(given)
    model = fields.get("model")
    body = _Body(
        model=text(model) or _number(model),
        input=items(given) if whole is None else whole,
        instructions=fields.get("instructions", _NULL),
        stream=boolean(fields.get("stream"), loose=True),
        background=boolean(fields.get("background"), loose=True),
        tools=fields.get("tools", _NULL),
        prompt_cache_retention=fields.get("prompt_cache_retention", _NULL),
    )
    before = values_before(readable)
    goes_on = any(each.startswith((b'"', b"{")) for each in before)
    return _Read(body, goes_on, bool(before), is_stored(readable))


def read_responses_request(
    id: str, readable: bytes, body: bytes, headers: Headers = (), *, follows: str = ""
) -> ClientRequest:
    """Read a request; ``readable`` is ``body`` without its content coding.

    ``follows`` is the response that it goes on from, where its prompt may be known here.
    Raises NotJson.
    """
    return _read_request(id, readable, body, headers, follows=follows)


def read_compaction_request(
    id: str, readable: bytes, body: bytes, headers: Headers = ()
) -> ClientRequest:
    """Read a request to ``/responses/compact``: a conversation to be made shorter.

    Raises NotJson.
    """
    return _read_request(id, readable, body, headers, kind="compaction")


def _read_request(
    id: str,
    readable: bytes,
    body: bytes,
    headers: Headers,
    *,
    kind: str | None = None,
    follows: str = "",
) -> ClientRequest:
    read = read_once(readable, _decode, _by_members)
    fields = read.body
    given = fields.input
    if isinstance(given, str):
        last: Object = {}
        texts = typed([given])
    else:
        last, texts = last_said(Conversation(given), _said)
    prompt = "\n".join(texts) if texts else None
    said: str | None = kind
    if said is None and text(last.get("type")) in _OWN_KINDS:
        said = _OWN_KINDS[text(last["type"]) or ""]
    elif prompt is not None and kind is None:
        said = kind_of(headers, text(fields.instructions) or "", prompt)
    # What is stored with the provider is not here to be compared.
    all_here = not read.goes_on or follows != ""
    compared = all_here and kind is None and not isinstance(given, str)
    return ClientRequest(
        id=id,
        body=body,
        model=fields.model,
        streaming=fields.stream is True,
        prompt=prompt,
        prompt_kind=said,
        correlating_tool_call_id=_answered_call(last),
        refusal=_BACKGROUND if fields.background and kind is None else None,
        opening=opening_of_response(
            readable,
            _types(fields.tools),
            goes_on=read.goes_on,
            names_stored=read.names_stored,
            stored=read.stored,
        ),
        written=Prompt(
            () if isinstance(given, str) else given,
            fields.tools,
            fields.instructions,
            retention=fields.prompt_cache_retention,
            aside=said in ASIDE,
            compared=compared,
            are_items=True,
            follows=follows if read.goes_on else "",
        ),
    )


def _types(tools: Raw) -> list[str]:
    """The types of the tools that are offered."""
    if is_null(tools):
        return []
    try:
        return [each.type for each in _tools.decode(tools)]
    except (ValueError, RecursionError):
        return [text(members(each).get("type")) or "" for each in items(tools)]


_tools = msgspec.json.Decoder(list[_Tool])


def _number(value: Buffer | None) -> str:
    spelled = source(value)
    return spelled if spelled[:1] in set("-0123456789") else ""


def _said(item: Object) -> Said:
    kind = text(item.get("type"))
    if kind in _CONTEXT:
        return Said("developer")
    if kind == "agent_message":
        texts = _texts_of(item)
        # What it is given to do; others are news of those who work beside it.
        return Said("user", texts) if texts and texts[0].startswith(_NEW_TASK) else _NEWS
    role = text(item.get("role")) or ""
    if role != "user":
        return Said(role)
    return Said(role, _texts_of(item))


def _texts_of(item: Object) -> list[str]:
    content = item.get("content")
    whole = text(content)
    if whole is not None:
        return [whole]
    parts = [members(part) for part in items(content)]
    said = [text(part.get("text")) for part in parts if text(part.get("type")) in _TEXT_PARTS]
    return [each for each in said if each is not None]


_NEWS = Said("developer")
_NEW_TASK = "Message Type: NEW_TASK"
"""Codex 0.171: how an agent begins what another is to do.  What that is may be encrypted."""
_OWN_KINDS: Mapping[str, PromptKind] = {
    "agent_message": "agent",
    "compaction_trigger": "compaction",
}
"""Items that, as the last of a conversation, no person has typed, and who has."""
_CONTEXT = frozenset({"additional_context", "additional_tools", "configuration_update"})
"""Items that set a model up, of any role."""
_TEXT_PARTS = frozenset({"input_text", "text"})


def _answered_call(item: Object) -> str | None:
    """The call whose result the item is: one of a function, a shell, a patch, an approval."""
    kind = text(item.get("type")) or ""
    if kind == "mcp_approval_response":
        return text(item.get("approval_request_id")) or None
    if not kind.endswith("_output"):
        return None
    call = text(item.get("call_id"))
    if not call and kind == "local_shell_call_output":
        # Its id is documented to be the call's.
        call = text(item.get("id"))
    return call or None


# -- answers


class ResponsesInterception(Relay):
    """One request to the Responses API and its answer."""

    api: ClassVar[Api] = RESPONSES

    __slots__ = (
        "_compacts",
        "_finished",
        "_items",
        "_keep_delta",
        "_msg_id",
        "_output_read",
        "_paid_requests",
        "_saying",
        "_thinking",
        "_usage",
        "_usage_recorded",
    )

    def __init__(self, request: ClientRequest) -> None:
        super().__init__(request)
        self._compacts = request.prompt is None and request.prompt_kind == "compaction"
        self._msg_id = ""
        self._usage = RunningUsage()
        self._items = Items()
        self._thinking = Thinking()
        self._keep_delta = self._thinking.keep
        self._saying = Saying()
        self._output_read = False
        self._usage_recorded = False
        self._paid_requests: dict[str, int] = {}
        self._finished = False
        """The response has told how it ended."""

    # -- streams

    def _read_event(self, piece: bytes, now: float) -> None:
        # PERF: most events are deltas; what they add up to comes again in a later event.
        if piece.startswith(b"event: ") and piece.endswith(b".delta", 0, piece.find(b"\n")):
            # Reasoning, of which not all tell the whole, or a refusal.
            if piece[16:17] == b"r":
                self._keep_delta(piece)
            elif self._answers and piece.startswith(_TEXT, 7):
                self._saying.keep(piece)
            return
        # PERF: some leave the event's name out.
        if piece.startswith(_UNNAMED) and piece.find(b"\n\n") == len(piece) - 2:
            at = piece.find(b"response.", 0, _KIND_AT)
            if piece.endswith(b".delta", at, piece.find(b'"', at)):
                if piece[at + 9 : at + 10] == b"r":
                    self._keep_delta(piece)
                elif self._answers and piece.startswith(_TEXT, at):
                    self._saying.keep(piece)
                return
        name, data = self._parsed(piece)
        if not data:
            return
        handler = _HANDLERS.get(name)
        # What is told of a part comes again, or is of no use; so does what has just begun,
        # unless it tells what it has cost.
        if (
            handler is None
            and name
            and self._msg_id
            and (name.count(b".") > 1 or (name in _BEGUN and _USAGE.search(data) is None))
        ):
            return
        event = members(data)
        if not event:
            may_cost = name.count(b".") < 2
            self._note_odd_event(data, may_cost=may_cost)
        if not self._msg_id and "response" in event:
            self._begin(members(event["response"]), now)
        if handler is not None:
            handler(self, event, now)
            return
        kind = text(event.get("type")) or name.decode("utf-8", "replace")
        handler = _HANDLERS.get(kind.encode())
        if handler is not None:
            handler(self, event, now)
        elif kind.startswith("response.") and kind.count(".") > 1:
            return
        elif not is_null(event.get("error")):
            self._on_error(event, now)
        elif kind.startswith("response."):
            self._on_progress(kind, event, now)
        elif not kind:
            self._stray.note(data)

    def _on_item(self, event: Object, now: float) -> None:
        item = members(event.get("item"))
        kind = text(item.get("type")) or ""
        # PERF: nearly all messages are answers, which often nobody records.
        if kind == "message" and "phase" not in item and not self._answers:
            return
        place = count(event["output_index"]) if "output_index" in event else None
        self._items.done(place, kind, item, now)
        if kind == "message" and self._answers and answer_of(item):
            self._saying.forget(place)
        if kind == "reasoning" and thoughts_of(item):
            self._thinking.forget(event)

    def _on_part_of_thought(self, event: Object, now: float) -> None:
        self._thinking.add(event)

    def _on_whole_thought(self, event: Object, now: float) -> None:
        self._thinking.tell(event)

    def _on_final(self, event: Object, now: float) -> None:
        self._complete = True
        self._finished = True
        self._read_response(event, members(event.get("response")), now)

    def _on_progress(self, kind: str, event: Object, now: float) -> None:
        response = members(event.get("response"))
        if is_end(kind, response):
            # No event that is documented, so the framing has to prove the end too.
            self._finished = True
            self._read_response(event, response, now)
        else:
            self._note_response(event, response)

    def _may_end(self) -> bool:
        return self._finished

    def _on_error(self, event: Object, now: float) -> None:
        # Documented with its fields in the event itself, seen with them in `error`.
        nested = event.get("error")
        self._fail_with(event if is_null(nested) else nested)

    # -- blocking answers

    def _read_body(self, data: bytearray, now: float) -> None:
        answer = members(data)
        wrong = not is_null(answer.get("error")) and "output" not in answer
        if wrong or _ANSWER.isdisjoint(answer):
            self._fail_as_told(data)
            return
        self._begin(answer, now)
        self._finished = True
        self._read_response({}, answer, now)

    # -- both

    def _begin(self, response: Object, now: float) -> None:
        self._msg_id = text(response.get("id")) or ""
        if self._msg_id:
            self._record_prompt(self._msg_id, now)

    def _note_response(self, event: Object, response: Object) -> None:
        """Take what a response tells of itself so far."""
        for usage in (response.get("usage"), event.get("usage")):
            if not is_null(usage):
                self._usage_unread = False
                self._usage.take(values(usage))
        self._note_answer(model=text(response.get("model")))
        if tier := text(response.get("service_tier")):
            self._end_metadata["service_tier"] = tier

    def _read_response(self, event: Object, response: Object, now: float) -> None:
        """Read the whole response."""
        self._note_response(event, response)
        status = text(response.get("status"))
        details = members(response.get("incomplete_details"))
        self._note_answer(stop_reason=text(details.get("reason")) or status)
        if status == "failed":
            self._on_error(response, now)
        output = [members(item) for item in items(response.get("output"))]
        if not self._output_read and (output or self._items):
            self._read_output(output, now, cut=status in _BROKEN)
        if self._usage and not self._usage_recorded:
            # Not only at the end: whose response it is must be known before the client knows it.
            self._record_usage(now)

    def _read_output(self, output: list[Object], now: float, *, cut: bool) -> None:
        """Record calls and thoughts, of these items and of those that finished before.

        ``cut`` says that the model was not let finish what it had begun.
        """
        self._output_read = True
        told = set()
        for place, item, when in self._items.merged(output, now):
            kind = text(item.get("type")) or ""
            if kind == "reasoning":
                thoughts = thoughts_of(item) or self._thinking.of(place, cut=cut)
                told |= {each.content for each in thoughts}
                for each in thoughts:
                    self._record_part(each, when)
            elif kind == "message":
                for content in commentary_of(item):
                    self._record_thought(content, "commentary", when)
                if self._answers and (answer := answer_of(item)):
                    self._saying.forget(place)
                    said = Text(answer)
                    self._record_answer(self._msg_id, said.value(), when, truncated=said.truncated)
            elif (call := call_of(kind, item)) is not None:
                if request := paid_request(kind, item):
                    self._paid_requests[request] = self._paid_requests.get(request, 0) + 1
                self._record_tool(
                    self._msg_id,
                    when,
                    call.metadata,
                    tool=call.tool,
                    input=call.input,
                    tool_call_id=call.tool_call_id,
                    item_id=call.item_id,
                    invocation_error=call.error,
                )
        for each in self._thinking.rest(cut=cut):
            if each.content not in told:
                self._record_part(each, now)
        for _place, said in self._saying.rest():
            self._record_answer(self._msg_id, said.value(), now, truncated=cut or said.truncated)

    def _record_part(self, thought: Thought, now: float) -> None:
        content, said_in, truncated = thought
        self._record_thought(content, said_in, now, truncated=truncated)

    def _finish(self, end: End, now: float) -> None:
        if not self._output_read:
            status = self._end_metadata.get("stop_reason")
            self._read_output([], now, cut=end is not End.WHOLE or status in _BROKEN)
        failed = end is End.FAILED or (end is End.WHOLE and self._failed)
        if self._answered and not failed:
            self._record_prompt(self._msg_id, now)
        due = self._usage or (self._answered and not failed)
        if due and not self._usage_recorded:
            self._record_usage(now)

    def _record_usage(self, now: float) -> None:
        self._usage_recorded = True
        usage = self._usage
        given, made = usage.count("input_tokens"), usage.count("output_tokens")
        cached = usage.count("input_tokens_details", "cached_tokens")
        cached = cached or usage.count("cached_tokens")
        written = usage.count("input_tokens_details", "cache_write_tokens")
        reasoning = usage.count("output_tokens_details", "reasoning_tokens")
        total = usage.count("total_tokens")
        if reasoning and total >= given + made + reasoning:
            # Some count reasoning beside the output: the total tells.
            made += reasoning
        details = usage.group("input_tokens_details").get("cache_write_tokens_details")
        kept_for = {
            f"cache_ephemeral_{name[4:-7]}_input": as_count(value)
            for name, value in (details if isinstance(details, dict) else {}).items()
            if name.startswith("ttl_") and name.endswith("_tokens")
        }
        self._record_tokens(
            self._msg_id,
            now,
            input_tokens=max(given - cached - written, 0),
            output_tokens=made,
            cache_read_input_tokens=cached,
            cache_write_input_tokens=written,
            extra={
                "output_reasoning": reasoning,
                "total_tokens": total,
                **kept_for,
                **self._paid_requests,
            },
            metadata=self._metadata_of_call(whole=self._finished and bool(usage)),
        )

    def _metadata_of_call(self, *, whole: bool) -> dict[str, object]:
        told = super()._metadata_of_call(whole=whole)
        return {**told, "iteration": "compaction"} if self._compacts else told

    def error_event(self, error_type: str, message: str) -> bytes:
        code = _EVENT_CODES.get(error_type, "server_error")
        _name, data = parse_event(self._last_piece)
        event = {
            "type": "error",
            "code": code,
            "message": message,
            "param": None,
            "sequence_number": count(members(data).get("sequence_number")) + 1,
            # SDKs raise an error for this member, not for the event's type.
            "error": {"type": code, "code": code, "message": message, "param": None},
        }
        return b"event: error\ndata: " + msgspec.json.encode(event) + b"\n\n"


class CompactionInterception(ResponsesInterception):
    """One request to ``/responses/compact`` and its answer.

    It is a call of a model like others.  Its output repeats the conversation, so nothing in it
    has been called or thought now.
    """

    api: ClassVar[Api] = COMPACTION
    __slots__ = ()

    def _read_output(self, output: list[Object], now: float, *, cut: bool) -> None:
        self._output_read = True

    def _metadata_of_call(self, *, whole: bool) -> dict[str, object]:
        return {**super()._metadata_of_call(whole=whole), "iteration": "compaction"}


_ANSWER = frozenset({"incomplete_details", "output", "usage"})
"""Members of which every response has one: what has none is something else."""
_UNNAMED = (b'data: {"type":"response.', b'data: {"type": "response.')
_KIND_AT = max(map(len, _UNNAMED))
"""Where the name of an event of one line of data has begun."""
_TEXT = b"response.output_text."
_USAGE = re.compile(rb'"usage"\s*:\s*\{')


_BROKEN = frozenset({"failed", "cancelled", "interrupted"})
"""Those ends of a response before which the model was not done with what it had begun."""
_FINALS = frozenset(
    {
        "response.completed",
        "response.incomplete",
        "response.failed",
        "response.cancelled",
        "response.done",
    }
)
"""Events that are the last one of a stream, the documented ones and what vendors made of them."""
BEGINNINGS = frozenset({"response.created", "response.queued", "response.in_progress"})
"""Events that tell of a response of which nothing has come yet."""
_BEGUN = frozenset(each.encode() for each in BEGINNINGS)
_OVER = frozenset({"completed", "incomplete", "failed", "cancelled", "interrupted"})
"""https://developers.openai.com/api/reference: the values of ``status`` that no others follow; and
what Codex 0.171 may ask for over a WebSocket."""


def is_end(kind: str, response: Object) -> bool:
    """Whether an event of this type, about this response, is the stream's end."""
    if kind in _FINALS:
        return True
    of_response = kind.startswith("response.") and kind.count(".") == 1
    return of_response and kind not in BEGINNINGS and text(response.get("status")) in _OVER


_EVENT_CODES = {
    "overloaded": "service_unavailable",
    "rate_limited": "rate_limit_exceeded",
    "timeout": "timeout",
}

_HANDLERS: Mapping[bytes, Callable[[ResponsesInterception, Object, float], None]] = {
    b"response.output_item.done": ResponsesInterception._on_item,
    b"response.reasoning_text.done": ResponsesInterception._on_whole_thought,
    b"response.reasoning_summary_text.done": ResponsesInterception._on_whole_thought,
    b"response.reasoning_text.delta": ResponsesInterception._on_part_of_thought,
    b"response.reasoning_summary_text.delta": ResponsesInterception._on_part_of_thought,
    b"error": ResponsesInterception._on_error,
    **{kind.encode(): ResponsesInterception._on_final for kind in _FINALS},
}
