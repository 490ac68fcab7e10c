"""The requests that store records in coderd, as bytes.

PERF: written field by field.  The library takes twice as long: it makes a message, and others
within it, that nobody looks at.  Numbers and kinds of fields are those of its descriptors.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from functools import lru_cache
from typing import Any, Final

from google.protobuf.any_pb2 import Any as PbAny
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message
from google.protobuf.struct_pb2 import Value

from aigateway.actors.control.coderd.wire import coderd_pb2 as pb
from aigateway.actors.control.coderd.wire._varints import encode_varint
from aigateway.actors.values.records import (
    InterceptionBegun,
    InterceptionEnded,
    ModelThought,
    PromptUsage,
    Record,
    TokenUsage,
    ToolUsage,
)

__all__ = ["RecordError", "encode_record"]

_SHORT: Final = 64
"""Characters of a text up to which it is kept as it is wrapped."""
_MICRO: Final = 1_000_000
_UINT64: Final = 0xFFFFFFFFFFFFFFFF
"""A negative number is written as what it is as one without a sign."""
_TYPE_OF_VALUE: Final = f"type.googleapis.com/{Value.DESCRIPTOR.full_name}"
_UNFIT: Final = (AttributeError, OverflowError, RecursionError, TypeError, ValueError)
"""What converting raises for values that a message cannot hold."""


class RecordError(ValueError):
    """A record holds what coderd's message cannot."""


def encode_record(record: Record) -> tuple[str, bytes]:
    """Return the RPC that stores a record, and its request.  Raises RecordError."""
    if type(record) not in _CONVERTERS:
        # Left in a spool by a gateway that ran without a deployment.
        raise RecordError("invalid record: a Coder deployment has no place for what it holds")
    rpc, convert = _CONVERTERS[type(record)]
    try:
        return rpc, b"".join(convert(record))
    except _UNFIT as ex:
        raise RecordError(f"invalid record: {ex}") from ex


# -- records


def _tags(message: type[Message]) -> dict[str, bytes]:
    """The bytes before each field's value: its number, and whether a length follows."""
    with_length = (FieldDescriptor.TYPE_STRING, FieldDescriptor.TYPE_MESSAGE)
    return {
        field.name: encode_varint(field.number << 3 | (2 if field.type in with_length else 0))
        for field in message.DESCRIPTOR.fields
    }


_BEGIN: Final = _tags(pb.RecordInterceptionRequest)
_END: Final = _tags(pb.RecordInterceptionEndedRequest)
_TOKENS: Final = _tags(pb.RecordTokenUsageRequest)
_PROMPT: Final = _tags(pb.RecordPromptUsageRequest)
_TOOL: Final = _tags(pb.RecordToolUsageRequest)
_THOUGHT: Final = _tags(pb.RecordModelThoughtRequest)


def _interception(record: InterceptionBegun) -> Iterable[bytes]:
    tags = _BEGIN
    return (
        _text(tags["id"], record.id),
        _text(tags["initiator_id"], record.initiator_id),
        _text(tags["provider"], record.provider),
        _text(tags["model"], record.model),
        _metadata(tags["metadata"], record.metadata),
        _timestamp(tags["started_at"], record.started_at),
        _text(tags["api_key_id"], record.api_key_id),
        _text(tags["client"], record.client),
        _text(tags["user_agent"], record.user_agent),
        _optional(tags["correlating_tool_call_id"], record.correlating_tool_call_id),
        _optional(tags["client_session_id"], record.client_session_id),
        _text(tags["provider_name"], record.provider_name),
        _text(tags["credential_kind"], record.credential_kind),
        _text(tags["credential_hint"], record.credential_hint),
        _optional(tags["agent_firewall_session_id"], record.agent_firewall_session_id),
        _sequence_number(
            tags["agent_firewall_sequence_number"], record.agent_firewall_sequence_number
        ),
        _text(tags["workspace_id"], record.workspace_id),
    )


def _interception_ended(record: InterceptionEnded) -> Iterable[bytes]:
    tags = _END
    return (
        _text(tags["id"], record.id),
        _timestamp(tags["ended_at"], record.ended_at),
        _text(tags["credential_hint"], record.credential_hint),
        _optional(tags["error_type"], record.error_type or None),
        _optional(tags["error_message"], record.error_message or None),
    )


def _token_usage(record: TokenUsage) -> Iterable[bytes]:
    tags, metadata = _TOKENS, record.metadata
    if record.extra_token_types:
        metadata = {**metadata, **record.extra_token_types}
    return (
        _text(tags["interception_id"], record.interception_id),
        _text(tags["msg_id"], record.msg_id),
        _count(tags["input_tokens"], record.input_tokens),
        _count(tags["output_tokens"], record.output_tokens),
        _metadata(tags["metadata"], metadata),
        _timestamp(tags["created_at"], record.created_at),
        _count(tags["cache_read_input_tokens"], record.cache_read_input_tokens),
        _count(tags["cache_write_input_tokens"], record.cache_write_input_tokens),
    )


def _prompt_usage(record: PromptUsage) -> Iterable[bytes]:
    tags = _PROMPT
    return (
        _text(tags["interception_id"], record.interception_id),
        _text(tags["msg_id"], record.msg_id),
        _text(tags["prompt"], record.prompt),
        _metadata(tags["metadata"], record.metadata),
        _timestamp(tags["created_at"], record.created_at),
    )


def _tool_usage(record: ToolUsage) -> Iterable[bytes]:
    tags = _TOOL
    return (
        _text(tags["interception_id"], record.interception_id),
        _text(tags["msg_id"], record.msg_id),
        _optional(tags["server_url"], record.server_url),
        _text(tags["tool"], record.tool),
        _text(tags["input"], record.input),
        tags["injected"] + b"\x01" if record.injected else b"",
        _optional(tags["invocation_error"], record.invocation_error),
        _metadata(tags["metadata"], record.metadata),
        _timestamp(tags["created_at"], record.created_at),
        _text(tags["tool_call_id"], record.tool_call_id),
        _text(tags["item_id"], record.item_id),
    )


def _model_thought(record: ModelThought) -> Iterable[bytes]:
    tags = _THOUGHT
    return (
        _text(tags["interception_id"], record.interception_id),
        _text(tags["content"], record.content),
        _metadata(tags["metadata"], record.metadata),
        _timestamp(tags["created_at"], record.created_at),
    )


_CONVERTERS: Final[dict[type[Any], tuple[str, Callable[[Any], Iterable[bytes]]]]] = {
    InterceptionBegun: ("/proto.Recorder/RecordInterception", _interception),
    InterceptionEnded: ("/proto.Recorder/RecordInterceptionEnded", _interception_ended),
    TokenUsage: ("/proto.Recorder/RecordTokenUsage", _token_usage),
    PromptUsage: ("/proto.Recorder/RecordPromptUsage", _prompt_usage),
    ToolUsage: ("/proto.Recorder/RecordToolUsage", _tool_usage),
    ModelThought: ("/proto.Recorder/RecordModelThought", _model_thought),
}


# -- fields; what is as a message has it from the start is left out


def _text(tag: bytes, text: str) -> bytes:
    if not text:
        return b""
    data = text.encode() if text.isascii() else _whole(text).encode()
    return tag + encode_varint(len(data)) + data


def _optional(tag: bytes, text: str | None) -> bytes:
    return (_text(tag, text) or tag + b"\0") if text is not None else b""


def _whole(text: str) -> str:
    """Half of a surrogate pair, which JSON may hold, is nothing that UTF-8 can say."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def _count(tag: bytes, number: int) -> bytes:
    if not number:
        return b""
    if not -(1 << 63) <= number < 1 << 63:
        raise ValueError(f"value out of range: {number}")
    return tag + encode_varint(number & _UINT64)


def _sequence_number(tag: bytes, number: int | None) -> bytes:
    if number is None:
        return b""
    if not -(1 << 31) <= number < 1 << 31:
        raise ValueError(f"value out of range: {number}")
    return tag + encode_varint(number & _UINT64)


def _timestamp(tag: bytes, seconds: float) -> bytes:
    # To the microsecond: a float holds no more of today's time.
    whole, micros = divmod(round(seconds * _MICRO), _MICRO)
    data = _seconds(whole)
    if micros:
        data += b"\x10" + encode_varint(micros * 1000)
    return tag + encode_varint(len(data)) + data


@lru_cache(maxsize=4)
def _seconds(whole: int) -> bytes:
    return _count(b"\x08", whole)


# -- metadata


def _metadata(tag: bytes, metadata: Mapping[str, object]) -> bytes:
    """Wrap each value as coderd wants it.

    A map with a value that cannot be wrapped is replaced by what went wrong and its text.
    """
    if not metadata:
        return b""
    try:
        return b"".join(
            [
                _entry_again(tag, key, value)
                if value.__class__ is int or (value.__class__ is str and len(value) <= _SHORT)
                else _entry(tag, key, value)
                for key, value in metadata.items()
            ]
        )
    except _UNFIT as ex:
        shown = {"error": str(ex), "metadata": str(dict(metadata))}
        return b"".join([_entry(tag, key, text) for key, text in shown.items()])


def _entry(tag: bytes, key: str, value: object) -> bytes:
    """An entry of a map is a message of a key and a value."""
    wrapped = PbAny(type_url=_TYPE_OF_VALUE, value=_value(value).SerializeToString())
    data = wrapped.SerializeToString()
    entry = b"".join((_optional(b"\x0a", key), b"\x12", encode_varint(len(data)), data))
    return b"".join((tag, encode_varint(len(entry)), entry))


# PERF: counts of few tokens, tiers and models come again and again.
_entry_again: Final = lru_cache(maxsize=1024, typed=True)(_entry)


def _value(value: object) -> Value:
    match value:
        case None:
            return Value(null_value=0)  # type: ignore[arg-type]
        case bool():
            return Value(bool_value=value)
        case int() | float():
            return Value(number_value=float(value))
        case str():
            return Value(string_value=_whole(value))
        case list() | tuple():
            wrapped = Value()
            wrapped.list_value.values.extend(_value(item) for item in value)
            # An empty list is a list too.
            wrapped.list_value.SetInParent()
            return wrapped
        case Mapping():
            wrapped = Value()
            wrapped.struct_value.SetInParent()
            for key, item in value.items():
                if not isinstance(key, str):
                    raise TypeError(f"invalid type of a key: {type(key).__name__}")
                wrapped.struct_value.fields[_whole(key)].CopyFrom(_value(item))
            return wrapped
        case _:
            raise TypeError(f"invalid type: {type(value).__name__}")
