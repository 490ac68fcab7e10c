"""AWS's Converse, which is the same for the models of all makers: who asked what, and for what.

What is relayed is what came; streams are AWS's frames, each with the name of its event, and arrive
here as server-sent events (:mod:`~aigateway.actors.providers.bedrock.native`).
"""

from __future__ import annotations

from typing import ClassVar

import msgspec
from msgspec import Raw, Struct

from aigateway.actors.codec.headers import Headers
from aigateway.actors.codec.reading import Object, is_null, items, members, read_once, text, values
from aigateway.actors.interception._record_maker import ClientRequest, Text
from aigateway.actors.interception.conversation import Prompt, kind_of
from aigateway.actors.interception.relay import End, Relay
from aigateway.actors.interception.routes import CONVERSE, Api
from aigateway.actors.interception.usage import RunningUsage

__all__ = ["ConverseInterception", "read_converse_request"]

_NULL = Raw(b"null")


class _Body(Struct):
    messages: Raw = _NULL
    system: Raw = _NULL
    toolConfig: Raw = _NULL


_body = msgspec.json.Decoder(_Body)


def read_converse_request(
    id: str, readable: bytes, body: bytes, headers: Headers = ()
) -> ClientRequest:
    """Read a request; ``readable`` is ``body`` without its content coding.  The path says which
    model is asked, and whether for a stream.  Raises NotJson."""
    fields = read_once(readable, _body.decode, lambda _no_object: _Body())
    prompt, answered = None, None
    said = items(fields.messages)
    last = members(said[-1]) if said else {}
    if text(last.get("role")) == "user":
        for block in map(members, items(last.get("content"))):
            prompt = text(block.get("text")) or prompt
            result = members(block.get("toolResult"))
            answered = text(result.get("toolUseId")) or answered
    return ClientRequest(
        id=id,
        body=body,
        model="",
        streaming=False,
        prompt=prompt,
        prompt_kind=None if prompt is None else kind_of(headers, _system(fields), prompt),
        correlating_tool_call_id=answered,
        written=Prompt(said, fields.toolConfig, fields.system, compared=False),
    )


def _system(fields: _Body) -> str:
    return "\n".join(text(members(each).get("text")) or "" for each in items(fields.system))


class ConverseInterception(Relay):
    """One such request and its answer."""

    api: ClassVar[Api] = CONVERSE

    __slots__ = ("_said", "_usage")

    def __init__(self, request: ClientRequest) -> None:
        super().__init__(request)
        self._usage = RunningUsage()
        self._said = Text()

    def _read_event(self, piece: bytes, now: float) -> None:
        name, data = self._parsed(piece)
        event = members(data)
        if not event:
            if data:
                self._note_odd_event(data)
            return
        if name == b"error":
            self._fail_with(event.get("error", Raw(bytes(data))))
            return
        self._read_told(event)
        # The usage comes last, behind the reason to stop.
        self._complete = self._complete or name == b"metadata"

    def _read_body(self, data: bytearray, now: float) -> None:
        self._read_told(members(data))

    def _read_told(self, told: Object) -> None:
        if self._answers:
            message = members(members(told.get("output")).get("message"))
            for part in (told.get("delta"), *items(message.get("content"))):
                self._said.write(text(members(part).get("text")) or "")
        self._note_answer(stop_reason=text(told.get("stopReason")))
        if not is_null(usage := told.get("usage")):
            self._usage_unread = False
            self._usage.take(values(usage))

    def _finish(self, end: End, now: float) -> None:
        if not self._answered:
            return
        self._record_prompt("", now)
        cut = end is not End.WHOLE or self._said.truncated
        self._record_answer("", self._said.value(), now, truncated=cut)
        failed = end is End.FAILED or (end is End.WHOLE and self._failed)
        if failed and not self._usage:
            return
        whole = end is End.WHOLE and bool(self._usage)
        self._record_tokens(
            "",
            now,
            metadata=self._metadata_of_call(whole=whole),
            extra={},
            input_tokens=self._usage.count("inputTokens"),
            output_tokens=self._usage.count("outputTokens"),
            cache_read_input_tokens=self._usage.count("cacheReadInputTokens"),
            cache_write_input_tokens=self._usage.count("cacheWriteInputTokens"),
        )

    def error_event(self, error_type: str, message: str) -> bytes:
        return b"event: error\ndata: " + self.error_body(500, message) + b"\n\n"
