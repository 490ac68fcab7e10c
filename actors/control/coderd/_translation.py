"""Records, providers and MCP servers in coderd's messages."""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import lru_cache
from typing import Any, Final

from google.protobuf.any_pb2 import Any as PbAny
from google.protobuf.message import Message
from google.protobuf.struct_pb2 import Value
from google.protobuf.timestamp_pb2 import Timestamp

from aigateway.actors.control.coderd.wire import coderd_pb2 as pb
from aigateway.actors.values.models import ModelList
from aigateway.actors.values.provider_config import BedrockConfig, ProviderConfig
from aigateway.actors.values.records import (
    InterceptionBegun,
    InterceptionEnded,
    ModelThought,
    PromptUsage,
    Record,
    TokenUsage,
    ToolUsage,
)

__all__ = ["RecordError", "encode_record", "names_given_twice", "provider_configs"]

_NAME: Final = "^[a-z0-9]+(-[a-z0-9]+)*$"
_SHORT: Final = 64
"""Characters of a text up to which it is kept as it is wrapped."""
_MICRO: Final = 1_000_000
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
    name, convert = _CONVERTERS[type(record)]
    try:
        message: Message = convert(record)
        return f"/proto.Recorder/{name}", message.SerializeToString()
    except _UNFIT as ex:
        raise RecordError(f"invalid record: {ex}") from ex


# -- records


def _interception(record: InterceptionBegun) -> Message:
    return pb.RecordInterceptionRequest(
        id=_text(record.id),
        initiator_id=_text(record.initiator_id),
        provider=_text(record.provider),
        provider_name=_text(record.provider_name),
        model=_text(record.model),
        metadata=_metadata(record.metadata),
        started_at=_timestamp(record.started_at),
        api_key_id=_text(record.api_key_id),
        client=_text(record.client),
        user_agent=_text(record.user_agent),
        correlating_tool_call_id=_optional(record.correlating_tool_call_id),
        client_session_id=_optional(record.client_session_id),
        credential_kind=_text(record.credential_kind),
        credential_hint=_text(record.credential_hint),
        agent_firewall_session_id=_optional(record.agent_firewall_session_id),
        agent_firewall_sequence_number=record.agent_firewall_sequence_number,
        workspace_id=_text(record.workspace_id),
    )


def _interception_ended(record: InterceptionEnded) -> Message:
    return pb.RecordInterceptionEndedRequest(
        id=_text(record.id),
        ended_at=_timestamp(record.ended_at),
        credential_hint=_text(record.credential_hint),
        error_type=_optional(record.error_type or None),
        error_message=_optional(record.error_message or None),
    )


def _token_usage(record: TokenUsage) -> Message:
    return pb.RecordTokenUsageRequest(
        interception_id=_text(record.interception_id),
        msg_id=_text(record.msg_id),
        input_tokens=record.input_tokens,
        output_tokens=record.output_tokens,
        cache_read_input_tokens=record.cache_read_input_tokens,
        cache_write_input_tokens=record.cache_write_input_tokens,
        metadata=_metadata({**record.metadata, **record.extra_token_types}),
        created_at=_timestamp(record.created_at),
    )


def _prompt_usage(record: PromptUsage) -> Message:
    return pb.RecordPromptUsageRequest(
        interception_id=_text(record.interception_id),
        msg_id=_text(record.msg_id),
        prompt=_text(record.prompt),
        metadata=_metadata(record.metadata),
        created_at=_timestamp(record.created_at),
    )


def _tool_usage(record: ToolUsage) -> Message:
    return pb.RecordToolUsageRequest(
        interception_id=_text(record.interception_id),
        msg_id=_text(record.msg_id),
        server_url=_optional(record.server_url),
        tool=_text(record.tool),
        input=_text(record.input),
        injected=record.injected,
        invocation_error=_optional(record.invocation_error),
        metadata=_metadata(record.metadata),
        created_at=_timestamp(record.created_at),
        tool_call_id=_text(record.tool_call_id),
        item_id=_text(record.item_id),
    )


def _model_thought(record: ModelThought) -> Message:
    return pb.RecordModelThoughtRequest(
        interception_id=_text(record.interception_id),
        content=_text(record.content),
        metadata=_metadata(record.metadata),
        created_at=_timestamp(record.created_at),
    )


_CONVERTERS: Final[dict[type[Any], tuple[str, Any]]] = {
    InterceptionBegun: ("RecordInterception", _interception),
    InterceptionEnded: ("RecordInterceptionEnded", _interception_ended),
    TokenUsage: ("RecordTokenUsage", _token_usage),
    PromptUsage: ("RecordPromptUsage", _prompt_usage),
    ToolUsage: ("RecordToolUsage", _tool_usage),
    ModelThought: ("RecordModelThought", _model_thought),
}


def _text(text: str) -> str:
    """Half of a surrogate pair, which JSON may hold, is nothing that UTF-8 can say."""
    if text.isascii():
        return text
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def _optional(text: str | None) -> str | None:
    return None if text is None else _text(text)


def _timestamp(seconds: float) -> Timestamp:
    # To the microsecond: a float holds no more of today's time.
    whole, micros = divmod(round(seconds * _MICRO), _MICRO)
    return Timestamp(seconds=whole, nanos=micros * 1000)


def _metadata(metadata: Mapping[str, object]) -> dict[str, PbAny]:
    """Wrap each value as coderd wants it.

    A map with a value that cannot be wrapped is replaced by what went wrong and its text.
    """
    try:
        return {
            _text(key): _wrapped_again(value)
            if value.__class__ is int or (value.__class__ is str and len(value) <= _SHORT)
            else _wrapped(_value(value))
            for key, value in metadata.items()
        }
    except _UNFIT as ex:
        shown = {"error": str(ex), "metadata": str(dict(metadata))}
        return {key: _wrapped(Value(string_value=_text(text))) for key, text in shown.items()}


def _wrapped(value: Value) -> PbAny:
    # PERF: as its ``Pack`` does, which takes three times as long.
    return PbAny(type_url=_TYPE_OF_VALUE, value=value.SerializeToString())


# PERF: counts of few tokens, tiers and models come again and again; 1 us less for each.
@lru_cache(maxsize=1024, typed=True)
def _wrapped_again(value: int | str) -> PbAny:
    return _wrapped(_value(value))


def _value(value: object) -> Value:
    match value:
        case None:
            return Value(null_value=0)  # type: ignore[arg-type]
        case bool():
            return Value(bool_value=value)
        case int() | float():
            return Value(number_value=float(value))
        case str():
            return Value(string_value=_text(value))
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
                wrapped.struct_value.fields[_text(key)].CopyFrom(_value(item))
            return wrapped
        case _:
            raise TypeError(f"invalid type: {type(value).__name__}")


# -- providers


def provider_configs(response: pb.GetAIProvidersResponse) -> tuple[ProviderConfig, ...]:
    """What coderd says of its providers; a wrong one has ``error`` set."""
    found: dict[str, ProviderConfig] = {}
    for provider in response.providers:
        config = _provider_config(provider)
        if config.name in found:
            # The first wins, as in a list that is searched.
            continue
        found[config.name] = config
    return tuple(found.values())


def names_given_twice(response: pb.GetAIProvidersResponse) -> dict[str, str]:
    """Names of which :func:`provider_configs` takes the first provider only, with the types of
    the others."""
    seen: set[str] = set()
    again: dict[str, str] = {}
    for provider in response.providers:
        if provider.name in seen:
            again[provider.name] = provider.type
        seen.add(provider.name)
    return again


def _provider_config(provider: pb.AIProvider) -> ProviderConfig:
    error, what = None, ""
    if not re.fullmatch(_NAME, provider.name):
        error = f'invalid AI provider name "{provider.name}": must match {_NAME}'
        what = "rename it"
    elif provider.HasField("claude_platform_aws"):
        # Its key is one of AWS's: it must not be sent to anybody else.
        region = provider.claude_platform_aws.region
        error = f'Claude Platform on AWS (region "{region}") is not supported by this gateway'
        what = "use Anthropic's own API or AWS Bedrock"
    return ProviderConfig(
        name=provider.name,
        type=provider.type,
        base_url=provider.base_url,
        keys=tuple(provider.keys),
        enabled=provider.enabled,
        error=error,
        way_out=f"{what}, among the AI providers of the Coder deployment" if what else "",
        bedrock=_bedrock(provider.bedrock) if provider.HasField("bedrock") else None,
    )


def _bedrock(bedrock: pb.AIProviderBedrock) -> BedrockConfig:
    pairs = (
        (bedrock.model, bedrock.resolved_model),
        (bedrock.small_fast_model, bedrock.resolved_small_fast_model),
    )
    resolved = {profile: model for profile, model in pairs if profile and model}
    return BedrockConfig(
        region=bedrock.region,
        access_key=bedrock.access_key,
        access_key_secret=bedrock.access_key_secret,
        model=bedrock.model or bedrock.resolved_model,
        small_fast_model=bedrock.small_fast_model or bedrock.resolved_small_fast_model,
        resolved=ModelList(resolved) if resolved else None,
        role_arn=bedrock.role_arn,
        external_id=bedrock.external_id,
        protocol=bedrock.protocol or "invoke-model",
    )
