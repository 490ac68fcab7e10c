"""A chunk of a streamed completion, or a whole completion: the fields that are read of it.

Vendors have names of their own for what a model thinks aloud (:func:`thought_in`), and ways of
their own to tell where one call ends and another begins (:class:`OpenCall`).

PERF: one typed pass over the JSON costs less than looking for single words in it.  Where a
vendor puts something unexpected the pass gives up, and the same fields are read one by one,
each as far as it can be.
"""

from __future__ import annotations

from typing import Any

import msgspec
from attrs import define, field
from msgspec import Raw, Struct

from aigateway.actors.codec.reading import (
    Buffer,
    Object,
    boolean,
    count,
    is_json,
    is_null,
    items,
    members,
    text,
    values,
)
from aigateway.actors.interception._record_maker import Text

__all__ = [
    "CallPart",
    "Choice",
    "Chunk",
    "Function",
    "OpenCall",
    "Delta",
    "answer_in",
    "finish_reason",
    "read_call_part",
    "read_chunk",
    "thought_in",
]

_NULL = Raw(b"null")


class Function(Struct):
    """What is to be called, or a part of it."""

    name: str | None = None
    arguments: Raw = _NULL
    input: Raw = _NULL


class CallPart(Struct):
    """A tool call, or a part of one."""

    index: int | None = None
    id: str | None = None
    function: Function | None = None
    custom: Function | None = None

    @property
    def name(self) -> str:
        """The name that this part gives; mostly it is empty but for the first one."""
        given = self.custom or self.function
        return (given and given.name) or ""

    @property
    def arguments(self) -> str:
        """The text that this part adds; some vendors send an object instead of its text."""
        given = self.custom or self.function
        if given is None:
            return ""
        value = given.input if self.custom else given.arguments
        written = text(value)
        if written is not None:
            return written
        raw = bytes(value)
        return raw.decode("utf-8", "replace") if raw.startswith((b"{", b"[")) else ""


class Delta(Struct):
    """A message, or what a chunk adds to it."""

    content: Raw = _NULL
    refusal: str | None = None
    reasoning_content: str | None = None
    reasoning: str | None = None
    reasoning_details: list[Raw] | None = None
    thinking_blocks: list[Raw] | None = None
    tool_calls: list[CallPart] | None = None
    function_call: Function | None = None
    executed_tools: list[Raw] | None = None
    annotations: list[Raw] | None = None
    extra_content: dict[str, Raw] | None = None


def finish_reason(given: str | None) -> str:
    """The reason to finish; empty when there is none.

    Some vendors write one in each chunk: an empty one, or null as a string.
    """
    return given if given and given.lower() not in ("null", "none") else ""


class Choice(Struct):
    """One of the answers that were ordered."""

    index: int = 0
    delta: Delta | None = None
    message: Delta | None = None
    finish_reason: str | None = None
    usage: dict[str, Any] | None = None
    error: Any = None

    @property
    def reason(self) -> str:
        """Why it ended; empty while it has not."""
        return finish_reason(self.finish_reason)


class Chunk(Struct):
    """A chunk or a completion."""

    id: str | None = None
    object: str | None = None
    model: str | None = None
    service_tier: str | None = None
    choices: list[Choice] | None = None
    usage: dict[str, Any] | None = None
    error: Any = None
    x_groq: dict[str, Raw] | None = None
    metrics: dict[str, Any] | None = msgspec.field(
        default=None, name="amazon-bedrock-invocationMetrics"
    )


_decoder = msgspec.json.Decoder(Chunk)


def read_chunk(data: Buffer) -> Chunk | None:
    """Read a chunk or a completion; ``None`` when it is not a JSON object."""
    try:
        return _decoder.decode(data)
    except (ValueError, RecursionError):
        fields = members(data)
    if not fields:
        return Chunk() if bytes(data[:1]) == b"{" and _is_object(data) else None
    return Chunk(
        id=text(fields.get("id")),
        object=text(fields.get("object")),
        model=text(fields.get("model")),
        service_tier=text(fields.get("service_tier")),
        choices=[_choice(each) for each in items(fields["choices"])]
        if not is_null(fields.get("choices"))
        else None,
        usage=values(fields.get("usage")) or None,
        error=_anything(fields.get("error")),
        x_groq=_object(fields.get("x_groq")),
        metrics=values(fields.get("amazon-bedrock-invocationMetrics")) or None,
    )


def read_call_part(part: Buffer) -> CallPart:
    """Read a tool call, or a part of one."""
    fields = members(part)
    index = fields.get("index")
    return CallPart(
        index=None if is_null(index) else count(index),
        id=text(fields.get("id")),
        function=_function(fields.get("function")),
        custom=_function(fields.get("custom")),
    )


def _choice(raw: Raw) -> Choice:
    fields = members(raw)
    return Choice(
        index=count(fields.get("index")),
        delta=_said(fields.get("delta")),
        message=_said(fields.get("message")),
        finish_reason=text(fields.get("finish_reason")),
        usage=values(fields.get("usage")) or None,
        error=_anything(fields.get("error")),
    )


def _said(raw: Raw | None) -> Delta | None:
    if is_null(raw):
        return None
    fields = members(raw)
    calls = items(fields.get("tool_calls"))
    return Delta(
        content=fields.get("content", _NULL),
        refusal=text(fields.get("refusal")),
        reasoning_content=text(fields.get("reasoning_content")),
        reasoning=text(fields.get("reasoning")),
        reasoning_details=items(fields.get("reasoning_details")) or None,
        thinking_blocks=items(fields.get("thinking_blocks")) or None,
        tool_calls=[read_call_part(each) for each in calls] or None,
        function_call=_function(fields.get("function_call")),
        executed_tools=items(fields.get("executed_tools")) or None,
        annotations=items(fields.get("annotations")) or None,
        extra_content=_object(fields.get("extra_content")),
    )


def _function(raw: Raw | None) -> Function | None:
    fields = members(raw)
    if not fields:
        return None
    return Function(
        name=text(fields.get("name")),
        arguments=fields.get("arguments", _NULL),
        input=fields.get("input", _NULL),
    )


def _object(raw: Raw | None) -> Object | None:
    return members(raw) or None


def _anything(raw: Raw | None) -> Any:
    if is_null(raw):
        return None
    assert raw is not None
    try:
        return msgspec.json.decode(raw)
    except (ValueError, RecursionError):
        return text(raw) or True


def _is_object(data: Buffer) -> bool:
    try:
        msgspec.json.decode(data, type=dict)
    except (ValueError, RecursionError):
        return False
    return True


# -- calls that arrive in parts


@define
class OpenCall:
    """A tool call that is still arriving.

    OpenAI numbers the calls of a choice and names each once, in its first part.  Others number
    all of them 0 or none, leave their ids out, repeat the name in each part, or give each part
    an id of its own.  So a part belongs to the call with its number, unless :meth:`ends_before`
    it.
    """

    id: str = ""
    name: str = ""
    custom: bool = False
    arguments: Text = field(factory=Text)

    @property
    def is_whole(self) -> bool:
        """Whether what has come can be all; of a custom tool's text nobody can tell."""
        return self.custom or is_json(self.arguments.value().encode())

    def ends_before(self, part: CallPart) -> bool:
        """Whether a part with this call's number is the first one of another call."""
        name = part.name
        if not name or not self.name:
            return False
        if part.id and self.id and part.id != self.id:
            return True
        if name != self.name:
            return self.is_whole or not self.arguments.value().strip()
        if part.id and part.id == self.id:
            return False
        # The same name again: the same call, unless nothing can be added to it.
        return part.arguments.lstrip().startswith("{") and self.is_whole

    def add(self, part: CallPart) -> None:
        """Take what the part says."""
        self.id = self.id or part.id or ""
        self.name = self.name or part.name
        self.custom = self.custom or part.custom is not None
        self.arguments.write(part.arguments)


# -- thoughts


def thought_in(said: Delta) -> tuple[str, str]:
    """The text of a thought and the field that it stands in; both empty when there is none.

    Some write the same under two names for old and new clients: it counts once.  Text within
    ``<think>`` in the content is content: the client shows it, and so did the model.
    """
    # DeepSeek, Kimi, vLLM, xAI, LiteLLM.
    if said.reasoning_content:
        return said.reasoning_content, "reasoning_content"
    # OpenRouter, vLLM, Groq, Ollama.
    if said.reasoning:
        return said.reasoning, "reasoning"
    if said.reasoning_details and (found := _thoughts_of(said.reasoning_details)):
        return found, "reasoning_details"
    if said.thinking_blocks and (found := _thoughts_of(said.thinking_blocks)):
        return found, "thinking_blocks"
    # Mistral: parts of the content.
    if bytes(memoryview(said.content)[:1]) == b"[" and (found := _thoughts_of(items(said.content))):
        return found, "thinking"
    # Gemini's compatible API marks content as a thought.
    if said.extra_content:
        google = members(said.extra_content.get("google"))
        if boolean(google.get("thought")) and (found := text(said.content) or ""):
            return found, "thought"
    return "", ""


def answer_in(said: Delta, thought_in: str) -> str:
    """The text of the answer; ``thought_in`` is the field of a thought that came with it."""
    if thought_in == "thought":
        return ""
    whole = text(said.content)
    if whole is None:
        parts = (members(part) for part in items(said.content))
        whole = "".join(text(part.get("text")) or "" for part in parts if _is_text(part))
    return whole + said.refusal if said.refusal else whole


def _is_text(part: Object) -> bool:
    return text(part.get("type")) in ("text", "output_text")


def _thoughts_of(parts: list[Raw]) -> str:
    """The text of parts that think or reason; other parts, and encrypted ones, have none."""
    return "".join(_thought_of(part) for part in parts)


def _thought_of(part: Raw) -> str:
    fields = members(part)
    kind = text(fields.get("type")) or ""
    if kind == "thinking":
        thinking = fields.get("thinking")
        whole = text(thinking)
        if whole is not None:
            return whole
        return "".join(text(members(each).get("text")) or "" for each in items(thinking))
    if kind.startswith("reasoning."):
        return text(fields.get("text")) or text(fields.get("summary")) or ""
    return ""
