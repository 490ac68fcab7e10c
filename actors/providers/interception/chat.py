"""OpenAI's Chat Completions API (``/v1/chat/completions``)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import msgspec
from attrs import define, field

from aigateway.actors.providers.interception._recording import (
    INCOMPLETE,
    NOTHING,
    TRUNCATED,
    Request,
)
from aigateway.actors.providers.interception._states import End, Mode
from aigateway.actors.providers.interception._text import Text
from aigateway.actors.providers.interception.affinity import opening_of
from aigateway.actors.providers.interception.decoding import encode
from aigateway.actors.providers.interception.interface import Headers
from aigateway.actors.providers.interception.outcomes import error_outcome
from aigateway.actors.providers.interception.reading import (
    Object,
    boolean,
    count,
    is_json,
    is_null,
    items,
    json_text,
    members,
    source,
    text,
)
from aigateway.actors.providers.interception.relay import Relay
from aigateway.actors.providers.interception.routes import CHAT_COMPLETIONS, Api
from aigateway.actors.providers.interception.splice import set_member
from aigateway.actors.providers.interception.sse import parse_event

__all__ = ["ChatInterception", "read_chat_request"]

_USAGE_WANTED = b'{"include_usage":true}'


def read_chat_request(
    id: str, readable: bytes, body: bytes, content_encoding: str, headers: Headers = ()
) -> tuple[Request, bool, int]:
    """Read a request; ``readable`` is ``body`` without its content coding.

    Also tells whether usage had to be asked for on behalf of the client, and how many
    choices were ordered.
    """
    fields = members(readable)
    messages = items(fields.get("messages"))
    last = members(messages[-1]) if messages else {}
    streaming = boolean(fields.get("stream"), loose=True)
    asked = None
    if streaming:
        asked = _with_usage(readable, fields)
    request = Request(
        id=id,
        body=body if asked is None else encode(asked, content_encoding),
        model=text(fields.get("model")) or "",
        streaming=streaming,
        prompt=_prompt(last),
        correlating_tool_call_id=_answered_call(last),
        opening=opening_of(CHAT_COMPLETIONS, messages, readable),
    )
    return request, asked is not None, max(count(fields.get("n")), 1)


def _with_usage(body: bytes, fields: Object) -> bytes | None:
    """Make the body ask for usage; ``None`` when it does, or cannot be made to.

    Options of a wrong type are left for the provider to complain about.
    """
    options = source(fields.get("stream_options"))
    if options == "null":
        return set_member(body, _USAGE_WANTED, "stream_options")
    if not options.startswith("{"):
        return None
    wanted = members(fields["stream_options"]).get("include_usage")
    if source(wanted) not in {"false", "null"}:
        return None
    return set_member(body, b"true", "stream_options", "include_usage")


def _prompt(message: Object) -> str | None:
    """The last text of the last message, if the user said it."""
    if text(message.get("role")) != "user":
        return None
    content = message.get("content")
    whole = text(content)
    if whole is not None:
        return whole or None
    for item in reversed(items(content)):
        part = members(item)
        if text(part.get("type")) == "text":
            return text(part.get("text"))
    return None


def _answered_call(message: Object) -> str | None:
    if text(message.get("role")) != "tool":
        return None
    return text(message.get("tool_call_id")) or ""


@define
class _Call:
    """A tool call that is still arriving."""

    id: str = ""
    name: str = ""
    custom: bool = False
    arguments: Text = field(factory=Text)


class ChatInterception(Relay):
    """One request to the Chat Completions API and its answer.

    ``withholds`` says that the client did not ask for the usage chunk of a stream.
    """

    api: ClassVar[Api] = CHAT_COMPLETIONS

    def __init__(self, request: Request, withholds: bool = False, choices: int = 1) -> None:
        super().__init__(request)
        self._withholds = withholds
        self._ordered = choices
        self._msg_id = ""
        self._usage: Object = {}
        self._usage_final = False
        # By the numbers of the choice and of the call in it.
        self._calls: dict[tuple[int, int], _Call] = {}
        self._latest: dict[int, tuple[int, int]] = {}
        self._open: set[int] = set()
        self._finished: set[int] = set()

    # -- streams

    def _read_event(self, piece: bytes, now: float) -> None:
        # PERF: most chunks carry a bit of text.  A name in quotes cannot stand inside a
        # string, where quotes are escaped, so a chunk that shows none of these has none.
        if (
            self._msg_id
            and self._ordered == 1
            and b'"tool_calls"' not in piece
            and b'"error"' not in piece
            and b'"function_call"' not in piece
            and _is_unset(piece, b'"usage"')
            and _is_unset(piece, b'"finish_reason"')
            and b"[DONE]" not in piece
        ):
            return
        _name, data = parse_event(piece)
        if not data:
            return
        if data.startswith(b"[DONE]"):
            self._complete = True
            return
        chunk = members(data)
        if not chunk and self._read_odd_event(piece, data, now):
            return
        if not is_null(chunk.get("error")):
            outcome = error_outcome(chunk["error"])
            self._fail(outcome.error_type or "unknown", outcome.error_message or "")
            return
        self._read_chunk(chunk, piece, now)

    def _read_chunk(self, chunk: Object, piece: bytes, now: float) -> None:
        if not self._msg_id:
            self._msg_id = text(chunk.get("id")) or ""
        if self._msg_id:
            self._record_prompt(self._msg_id, now)
        choices = items(chunk.get("choices"))
        usage = members(chunk.get("usage"))
        if usage:
            # Some send running totals with every chunk: the last one counts.
            self._usage = usage
            self._usage_final = not choices
            if self._withholds and not choices:
                self._withhold(piece)
        for choice in choices:
            self._read_choice(members(choice), now)

    def _read_choice(self, choice: Object, now: float) -> None:
        index = count(choice.get("index"))
        self._open.add(index)
        delta = members(choice.get("delta"))
        for item in items(delta.get("tool_calls")):
            self._read_call_part(index, members(item), now)
        if not is_null(delta.get("function_call")):
            # The only call of a choice, before there were tools.
            self._read_call_part(index, {"function": delta["function_call"]}, now)
        if text(choice.get("finish_reason")) is not None:
            self._finished.add(index)
            self._finish_calls(index, now)

    def _read_call_part(self, choice: int, part: Object, now: float) -> None:
        key = (choice, count(part.get("index")))
        given_id = text(part.get("id")) or ""
        custom = members(part.get("custom"))
        function = custom or members(part.get("function"))
        name = text(function.get("name")) or ""
        call = self._calls.get(key)
        if call is not None and name and call.name and given_id not in {"", call.id}:
            # Some number all their calls 0; others give each part of a call an id of its own.
            self._finish_call(key, now)
            call = None
        if call is None:
            call = self._calls[key] = _Call()
        self._latest[choice] = key
        call.id = call.id or given_id
        call.name = call.name or name
        call.custom = call.custom or bool(custom)
        call.arguments.write(text(function.get("input" if custom else "arguments")) or "")

    def _finish_calls(self, choice: int, now: float) -> None:
        for key in [key for key in self._calls if key[0] == choice]:
            self._finish_call(key, now)

    def _finish_call(self, key: tuple[int, int], now: float) -> None:
        call = self._calls.pop(key)
        metadata = TRUNCATED if call.arguments.truncated else NOTHING
        self._record_call(call.id, call.name, call.arguments.value(), call.custom, now, metadata)

    def _had_ended(self, key: tuple[int, int]) -> bool:
        """Whether a call had come whole when the stream broke off, as far as can be seen."""
        call = self._calls[key]
        whole = call.custom or is_json(call.arguments.value().encode())
        return whole and self._latest[key[0]] != key

    def _may_end(self) -> bool:
        return bool(self._finished) and self._open <= self._finished

    # -- blocking answers

    def _read_body(self, data: bytearray, now: float) -> None:
        answer = members(data)
        if not is_null(answer.get("error")) and "choices" not in answer:
            outcome = error_outcome(answer["error"])
            self._fail(outcome.error_type or "unknown", outcome.error_message or "")
            return
        self._msg_id = text(answer.get("id")) or ""
        self._record_prompt(self._msg_id, now)
        self._record_usage(members(answer.get("usage")), now, NOTHING)
        for choice in items(answer.get("choices")):
            message = members(members(choice).get("message"))
            for item in items(message.get("tool_calls")):
                self._read_call(members(item), now)
            if not is_null(message.get("function_call")):
                self._read_call({"function": message["function_call"]}, now)

    def _read_call(self, call: Object, now: float) -> None:
        custom = members(call.get("custom"))
        function = custom or members(call.get("function"))
        self._record_call(
            text(call.get("id")) or "",
            text(function.get("name")) or "",
            text(function.get("input" if custom else "arguments")) or "",
            bool(custom),
            now,
        )

    # -- both

    def _finish(self, end: End, now: float) -> None:
        unseen = end is End.CUT and self._answered
        if self.streaming or self._mode is Mode.STREAM or unseen:
            self._record_prompt(self._msg_id, now)
        for key in list(self._calls):
            if end is End.WHOLE or self._had_ended(key):
                self._finish_call(key, now)
        known = any(count(value) for value in self._usage.values())
        if known or unseen:
            seen = end is End.WHOLE or self._usage_final
            self._record_usage(self._usage, now, NOTHING if seen else INCOMPLETE)

    def _record_usage(self, usage: Object, now: float, metadata: Mapping[str, object]) -> None:
        prompt = members(usage.get("prompt_tokens_details"))
        completion = members(usage.get("completion_tokens_details"))
        cached = count(prompt.get("cached_tokens"))
        self._record_tokens(
            self._msg_id,
            now,
            input_tokens=max(count(usage.get("prompt_tokens")) - cached, 0),
            output_tokens=count(usage.get("completion_tokens")),
            cache_read_input_tokens=cached,
            extra_token_types={
                "prompt_audio": count(prompt.get("audio_tokens")),
                "completion_accepted_prediction": count(
                    completion.get("accepted_prediction_tokens")
                ),
                "completion_rejected_prediction": count(
                    completion.get("rejected_prediction_tokens")
                ),
                "completion_audio": count(completion.get("audio_tokens")),
                "completion_reasoning": count(completion.get("reasoning_tokens")),
            },
            metadata=metadata,
        )

    def _record_call(
        self,
        call: str,
        name: str,
        arguments: str,
        custom: bool,
        now: float,
        metadata: Mapping[str, object] = NOTHING,
    ) -> None:
        arguments = arguments if custom else arguments.strip()
        if custom:
            arguments = json_text(arguments)
        elif not arguments:
            arguments = "null"
        elif not is_json(arguments.encode()):
            metadata = {**metadata, "invalid_arguments": arguments}
            arguments = "null"
        self._record_tool(
            self._msg_id,
            now,
            tool=name,
            tool_call_id=call,
            input=arguments,
            metadata=metadata,
        )

    def _error_event(self, error_type: str, message: str) -> bytes:
        kind, code = _EVENT_TYPES.get(error_type, ("server_error", None))
        error = {"message": message, "type": kind, "param": None, "code": code}
        return b"data: " + msgspec.json.encode({"error": error}) + b"\n\n"


_EVENT_TYPES = {
    "overloaded": ("server_error", "service_unavailable"),
    "rate_limited": ("rate_limit_error", "rate_limit_exceeded"),
    "timeout": ("server_error", "timeout"),
}


def _is_unset(piece: bytes, name: bytes) -> bool:
    """Whether a member (its name in quotes) is missing, or written once and null."""
    at = piece.find(name)
    if at < 0:
        return True
    at += len(name)
    return piece.startswith((b":null", b": null"), at) and piece.find(name, at) < 0
