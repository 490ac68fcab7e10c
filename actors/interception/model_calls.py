"""Calls of models that are no conversation: embeddings, images, sound, moderations, ranks.

They have one thing in common: whatever comes is relayed as it comes, and a few fields tell what it
was and has cost.  Requests are JSON or a form with files, answers JSON, an event stream, or
something that nobody reads here: sound, subtitles, plain text.  Of those not a byte is kept.

A call whose answer tells no usage gets a token record all the same, which says that its usage is
not complete, so that it has no cost instead of none to pay.  Moderations cost nothing.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import ClassVar

import msgspec
from msgspec import Raw, Struct

from aigateway.actors.codec.headers import Headers, joined
from aigateway.actors.codec.multipart import NotMultipart, Part, boundary_of, parts_of
from aigateway.actors.codec.reading import (
    Object,
    as_number,
    boolean,
    is_null,
    items,
    members,
    read_once,
    text,
    values,
)
from aigateway.actors.interception._record_maker import ClientRequest
from aigateway.actors.interception.conversation import kind_of
from aigateway.actors.interception.outcomes import ENDED_EARLY
from aigateway.actors.interception.relay import End, Mode, Relay
from aigateway.actors.interception.routes import GEMINI_EMBEDDING, MODEL_CALL, MODERATION, Api
from aigateway.actors.interception.usage import RunningUsage

__all__ = [
    "GeminiEmbeddingInterception",
    "ModelCallInterception",
    "ModerationInterception",
    "is_read",
    "read_model_call",
]

_NULL = Raw(b"null")
_LONGEST = 10**9
"""Seconds of a recording, so that what a provider makes up can be stored."""


class _Body(Struct):
    """What is wanted of a request's body."""

    model: Raw = _NULL
    prompt: Raw = _NULL
    stream: Raw = _NULL
    stream_format: Raw = _NULL


_body = msgspec.json.Decoder(_Body)


def read_model_call(id: str, readable: bytes, body: bytes, headers: Headers = ()) -> ClientRequest:
    """Read a request; ``readable`` is ``body`` without its content coding.

    Raises NotJson, or NotMultipart where the headers say that it is a form.
    """
    boundary = boundary_of(joined(headers, "content-type"))
    if boundary:
        model, prompt, streaming = _of_form(readable, parts_of(readable, boundary))
    else:
        fields = read_once(readable, _body.decode, lambda _no_object: _Body())
        model, prompt = text(fields.model) or "", text(fields.prompt)
        streaming = boolean(fields.stream, loose=True) or text(fields.stream_format) == "sse"
    return ClientRequest(
        id=id,
        body=body,
        model=model,
        streaming=streaming,
        prompt=prompt,
        prompt_kind=None if prompt is None else kind_of(headers, "", prompt),
        correlating_tool_call_id=None,
    )


def _of_form(body: bytes, parts: list[Part]) -> tuple[str, str | None, bool]:
    """Model, prompt, and whether a stream is asked for."""
    told: dict[str, str] = {}
    for part in parts:
        if part.is_file:
            continue
        value = body[part.start : part.end].decode("utf-8", "replace")
        if part.name == "model" and told.get("model", value) != value:
            raise NotMultipart("it names two models")
        told[part.name] = value
    # Beside a recording it is not a prompt: it shows how words are spelt.
    asks = not any(part.is_file and part.name == "file" for part in parts)
    streaming = told.get("stream", "").strip().lower() in ("true", "1")
    return told.get("model", ""), told.get("prompt") if asks else None, streaming


def is_read(content_type: str) -> bool:
    """Whether an answer of this type (in lower case, without parameters) may tell anything."""
    return not content_type or content_type.endswith("json") or content_type == "text/event-stream"


class ModelCallInterception(Relay):
    """One such request and its answer."""

    api: ClassVar[Api] = MODEL_CALL
    costs: ClassVar[bool] = True

    __slots__ = ("_images", "_opaque", "_usage")

    def __init__(self, request: ClientRequest) -> None:
        super().__init__(request)
        self._usage = RunningUsage()
        self._images = 0
        self._opaque = False

    # -- answers that nobody reads

    def begin_answer(self, status: int, headers: Headers) -> None:
        """The head of the upstream's answer has arrived."""
        super().begin_answer(status, headers)
        content_type = joined(headers, "content-type").partition(";")[0].strip().lower()
        if self._mode is Mode.UNDECIDED and not is_read(content_type):
            self._opaque = True
            self._decoder = None
            self._mode = Mode.BODY

    def _keep(self, data: bytes, limit: int) -> None:
        if not self._opaque:
            super()._keep(data, limit)

    def _end_body(self, now: float, framed: bool) -> None:
        if not self._opaque:
            super()._end_body(now, framed)
        elif framed:
            self._complete = True
            self._end(End.WHOLE, now)
        else:
            self.receive_cut(ENDED_EARLY, now)

    # -- streams

    def _read_event(self, piece: bytes, now: float) -> None:
        name, data = self._parsed(piece)
        if not data:
            return
        if data.startswith(b"[DONE]"):
            self._complete = True
            return
        event = members(data)
        if not event:
            self._note_odd_event(data)
            return
        kind = text(event.get("type")) or name.decode("utf-8", "replace")
        if not is_null(error := event.get("error")) or kind == "error":
            self._fail_with(event if error is None else error)
        self._read_told(event)
        if "b64_json" in event and kind.endswith(".completed"):
            self._images += 1
        self._complete = self._complete or kind.endswith((".completed", ".done"))

    # -- documents

    def _read_body(self, data: bytearray, now: float) -> None:
        document = members(data)
        if not is_null(document.get("error")):
            self._fail_as_told(data)
            return
        made = [members(each) for each in items(document.get("data"))]
        self._images = sum("b64_json" in each or "url" in each for each in made)
        self._read_told(document)

    # -- both

    def _read_told(self, told: Object) -> None:
        self._note_answer(model=text(told.get("model")))
        # Cohere tells in ``meta`` what it bills.
        billed = members(told.get("meta")).get("billed_units")
        for usage in map(values, (told.get("usage"), told.get("usageMetadata"), billed)):
            if usage:
                self._usage_unread = False
                self._usage.take(usage)

    def _finish(self, end: End, now: float) -> None:
        if not self._answered:
            return
        self._record_prompt("", now)
        failed = end is End.FAILED or (end is End.WHOLE and self._failed)
        counts, extra = _counts(self._usage, self._images)
        if not (self._usage or (self.costs and not failed)):
            return
        whole = end is End.WHOLE and bool(self._usage or extra)
        self._record_tokens(
            "", now, metadata=self._metadata_of_call(whole=whole), extra=extra, **counts
        )

    def error_event(self, error_type: str, message: str) -> bytes:
        return b"event: error\ndata: " + self.error_body(500, message) + b"\n\n"


class ModerationInterception(ModelCallInterception):
    """The same for moderations, which nobody pays for."""

    api: ClassVar[Api] = MODERATION
    costs: ClassVar[bool] = False

    __slots__ = ()


class GeminiEmbeddingInterception(ModelCallInterception):
    """The same for embeddings of Google's own API, whose older models tell no usage."""

    api: ClassVar[Api] = GEMINI_EMBEDDING

    __slots__ = ()


def _counts(usage: RunningUsage, images: int) -> tuple[dict[str, int], dict[str, int]]:
    """The four counts, and those of other kinds."""
    given = usage.count("input_tokens") or usage.count("prompt_tokens")
    given = given or usage.count("promptTokenCount")
    written = usage.count("output_tokens") or usage.count("completion_tokens")
    if not (given or written):
        # Who ranks may tell the sum only.
        given = usage.count("total_tokens")
    inside = _details(usage, "input", "prompt")
    outside = _details(usage, "output", "completion")
    cached = min(inside("cached_tokens"), given)
    extra = {
        "prompt_image": inside("image_tokens"),
        "prompt_audio": inside("audio_tokens"),
        "completion_image": outside("image_tokens"),
        "completion_audio": outside("audio_tokens"),
        "audio_seconds": math.ceil(_seconds(usage)),
        "search_units": usage.count("search_units"),
    }
    if images and not any(map(outside, ("image_tokens", "text_tokens"))):
        extra["completion_image"] = written
    if images and not usage:
        # Older models are paid by the image.
        extra["images"] = images
    counts = {
        "input_tokens": given - cached,
        "output_tokens": written,
        "cache_read_input_tokens": cached,
        "cache_write_input_tokens": 0,
    }
    return counts, {name: n for name, n in extra.items() if n}


def _details(usage: RunningUsage, *kinds: str) -> Callable[[str], int]:
    """Asks for what is counted among the tokens of a kind."""
    groups = [
        f"{kind}_{ending}" for kind in kinds for ending in ("tokens_details", "token_details")
    ]
    return lambda name: next(filter(None, (usage.count(each, name) for each in groups)), 0)


def _seconds(usage: RunningUsage) -> float:
    """How long a recording was, where that is what counts."""
    told = usage.fields.get("seconds") if usage.fields.get("type") == "duration" else None
    return min(max(as_number(told) or 0.0, 0.0), _LONGEST)
