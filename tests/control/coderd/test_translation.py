"""Records and providers in coderd's messages, field by field."""

from __future__ import annotations

import math
from typing import Any

import pytest
from google.protobuf.any_pb2 import Any as PbAny
from google.protobuf.json_format import MessageToDict
from google.protobuf.struct_pb2 import Value
from google.protobuf.timestamp_pb2 import Timestamp
from hypothesis import given
from hypothesis import strategies as st

from aigateway.actors.control.coderd._translation import (
    RecordError,
    encode_record,
    provider_configs,
)
from aigateway.actors.control.coderd.wire import coderd_pb2 as pb
from aigateway.actors.values.models import ModelList
from aigateway.actors.values.provider_config import BedrockConfig, ProviderConfig
from aigateway.actors.values.records import (
    InterceptionBegun,
    InterceptionEnded,
    ModelThought,
    PromptUsage,
    TokenUsage,
    ToolUsage,
)

NOON = 1767268800.000001
STAMP = Timestamp(seconds=1767268800, nanos=1000)
FULL = InterceptionBegun(
    id="i",
    initiator_id="u",
    username="alice",
    api_key_id="k",
    provider="anthropic",
    provider_name="anthropic-eu",
    model="claude",
    client="Claude Code",
    user_agent="agent",
    started_at=NOON,
    client_session_id="session",
    correlating_tool_call_id="call",
    credential_kind="byok",
    credential_hint="sk-a...b",
    metadata={"a": 1},
    agent_firewall_session_id="fw",
    agent_firewall_sequence_number=0,
    workspace_id="w",
)


def unpack(metadata: Any) -> dict[str, Any]:
    found = {}
    for key, wrapped in metadata.items():
        assert isinstance(wrapped, PbAny)
        assert wrapped.type_url == "type.googleapis.com/google.protobuf.Value"
        value = Value()
        assert wrapped.Unpack(value)
        found[key] = MessageToDict(value)
    return found


def test_an_interception_has_every_field() -> None:
    rpc, data = encode_record(FULL)
    assert rpc == "/proto.Recorder/RecordInterception"
    message = pb.RecordInterceptionRequest.FromString(data)
    assert unpack(message.metadata) == {"a": 1.0}
    message.ClearField("metadata")
    assert message == pb.RecordInterceptionRequest(
        id="i",
        initiator_id="u",
        provider="anthropic",
        model="claude",
        started_at=STAMP,
        api_key_id="k",
        client="Claude Code",
        user_agent="agent",
        correlating_tool_call_id="call",
        client_session_id="session",
        provider_name="anthropic-eu",
        credential_kind="byok",
        credential_hint="sk-a...b",
        agent_firewall_session_id="fw",
        agent_firewall_sequence_number=0,
        workspace_id="w",
    )
    assert message.HasField("agent_firewall_sequence_number")


def test_what_an_interception_does_not_have_is_absent() -> None:
    bare = InterceptionBegun(
        id="i",
        initiator_id="u",
        username="a",
        api_key_id="k",
        provider="openai",
        provider_name="openai",
        model="m",
        client="c",
        user_agent="",
        started_at=0.0,
    )
    message = pb.RecordInterceptionRequest.FromString(encode_record(bare)[1])
    for name in (
        "correlating_tool_call_id",
        "client_session_id",
        "agent_firewall_session_id",
        "agent_firewall_sequence_number",
    ):
        assert not message.HasField(name)
    assert message.started_at == Timestamp()
    assert not message.metadata
    assert message.credential_kind == "centralized"


def test_an_empty_text_that_is_there_is_sent() -> None:
    tool = ToolUsage(
        interception_id="i", msg_id="m", tool="t", input="{}", created_at=NOON, server_url=""
    )
    message = pb.RecordToolUsageRequest.FromString(encode_record(tool)[1])
    assert message.HasField("server_url")
    assert not message.HasField("invocation_error")


def test_the_end_of_an_interception() -> None:
    rpc, data = encode_record(
        InterceptionEnded(
            id="i",
            ended_at=NOON,
            credential_hint="h",
            error_type="timeout",
            error_message="too slow",
            provider_name="fallback",
        )
    )
    assert rpc == "/proto.Recorder/RecordInterceptionEnded"
    assert pb.RecordInterceptionEndedRequest.FromString(data) == (
        pb.RecordInterceptionEndedRequest(
            id="i",
            ended_at=STAMP,
            credential_hint="h",
            error_type="timeout",
            error_message="too slow",
        )
    )


@pytest.mark.parametrize("nothing", [None, ""])
def test_a_good_end_has_no_error(nothing: str | None) -> None:
    record = InterceptionEnded(id="i", ended_at=NOON, error_type=nothing, error_message=nothing)
    message = pb.RecordInterceptionEndedRequest.FromString(encode_record(record)[1])
    assert not message.HasField("error_type")
    assert not message.HasField("error_message")


def test_token_usage_with_extra_types_over_metadata() -> None:
    rpc, data = encode_record(
        TokenUsage(
            interception_id="i",
            msg_id="m",
            input_tokens=1,
            output_tokens=2,
            cache_read_input_tokens=3,
            cache_write_input_tokens=4,
            extra_token_types={"reasoning": 5, "both": 6},
            metadata={"both": "lost", "own": "kept"},
            created_at=NOON,
            record_id="r",
        )
    )
    assert rpc == "/proto.Recorder/RecordTokenUsage"
    message = pb.RecordTokenUsageRequest.FromString(data)
    assert unpack(message.metadata) == {"reasoning": 5.0, "both": 6.0, "own": "kept"}
    message.ClearField("metadata")
    assert message == pb.RecordTokenUsageRequest(
        interception_id="i",
        msg_id="m",
        input_tokens=1,
        output_tokens=2,
        cache_read_input_tokens=3,
        cache_write_input_tokens=4,
        created_at=STAMP,
    )


def test_prompt_tool_and_thought() -> None:
    rpc, data = encode_record(
        PromptUsage(interception_id="i", msg_id="m", prompt="hé", created_at=NOON)
    )
    assert rpc == "/proto.Recorder/RecordPromptUsage"
    assert pb.RecordPromptUsageRequest.FromString(data) == pb.RecordPromptUsageRequest(
        interception_id="i", msg_id="m", prompt="hé", created_at=STAMP
    )
    rpc, data = encode_record(
        ToolUsage(
            interception_id="i",
            msg_id="m",
            tool="t",
            input='{"a": 1}',
            created_at=NOON,
            tool_call_id="tc",
            item_id="it",
            server_url="https://mcp",
            injected=True,
            invocation_error="broke",
        )
    )
    assert rpc == "/proto.Recorder/RecordToolUsage"
    assert pb.RecordToolUsageRequest.FromString(data) == pb.RecordToolUsageRequest(
        interception_id="i",
        msg_id="m",
        server_url="https://mcp",
        tool="t",
        input='{"a": 1}',
        injected=True,
        invocation_error="broke",
        created_at=STAMP,
        tool_call_id="tc",
        item_id="it",
    )
    rpc, data = encode_record(
        ModelThought(
            interception_id="i", content="hm", created_at=NOON, metadata={"source": "thinking"}
        )
    )
    assert rpc == "/proto.Recorder/RecordModelThought"
    message = pb.RecordModelThoughtRequest.FromString(data)
    assert (message.content, unpack(message.metadata)) == ("hm", {"source": "thinking"})


def thought(metadata: dict[Any, Any], content: str = "") -> pb.RecordModelThoughtRequest:
    record = ModelThought(interception_id="i", content=content, created_at=0.0, metadata=metadata)
    return pb.RecordModelThoughtRequest.FromString(encode_record(record)[1])


def test_metadata_of_every_kind_is_wrapped() -> None:
    metadata = {
        "none": None,
        "yes": True,
        "int": 7,
        "float": 1.5,
        "text": "hé",
        "list": [1, "two", [None], {}],
        "tuple": (1,),
        "map": {"a": {"b": [False]}},
        "empty list": [],
        "empty map": {},
    }
    assert unpack(thought(metadata).metadata) == {
        "none": None,
        "yes": True,
        "int": 7.0,
        "float": 1.5,
        "text": "hé",
        "list": [1.0, "two", [None], {}],
        "tuple": [1.0],
        "map": {"a": {"b": [False]}},
        "empty list": [],
        "empty map": {},
    }


def test_metadata_that_cannot_be_wrapped_is_described() -> None:
    assert unpack(thought({"fine": 1, "bytes": b"x"}).metadata) == {
        "error": "invalid type: bytes",
        "metadata": "{'fine': 1, 'bytes': b'x'}",
    }
    assert unpack(thought({"deep": [{1: 2}]}).metadata) == {
        "error": "invalid type of a key: int",
        "metadata": "{'deep': [{1: 2}]}",
    }
    assert "error" in unpack(thought({1: 2}).metadata)
    assert "error" in unpack(thought({"big": 10**400}).metadata)


def test_metadata_without_end_is_rejected_not_fatal() -> None:
    deep: list[Any] = []
    for _ in range(100_000):
        deep = [deep]
    with pytest.raises(RecordError):
        thought({"deep": deep})


def test_half_a_surrogate_pair_is_replaced() -> None:
    message = thought({"k\ud800": ["v\udc00"]}, content="a\ud83d b")
    assert message.content == "a� b"
    assert unpack(message.metadata) == {"k�": ["v�"]}
    assert thought({}, content="\U0001f600").content == "\U0001f600"


@given(st.floats(0, 4e9))
def test_times_are_exact_to_the_microsecond(seconds: float) -> None:
    record = ModelThought(interception_id="i", content="", created_at=seconds)
    stamp = pb.RecordModelThoughtRequest.FromString(encode_record(record)[1]).created_at
    assert math.isclose(stamp.seconds + stamp.nanos / 1e9, seconds, abs_tol=1e-6)
    assert 0 <= stamp.nanos < 1e9


@pytest.mark.parametrize(
    "change", [{"input_tokens": 1 << 64}, {"output_tokens": "many"}, {"created_at": math.inf}]
)
def test_what_no_message_can_hold_is_named(change: dict[str, Any]) -> None:
    values = {
        "interception_id": "i",
        "msg_id": "m",
        "input_tokens": 1,
        "output_tokens": 1,
        "created_at": 0.0,
        **change,
    }
    with pytest.raises(RecordError, match="invalid record: "):
        encode_record(TokenUsage(**values))


# -- providers


def test_providers_are_taken_as_coderd_gives_them() -> None:
    response = pb.GetAIProvidersResponse(
        providers=[
            pb.AIProvider(
                name="openai",
                type="openai",
                enabled=True,
                base_url="https://api.example/v1",
                keys=["k1", "k2"],
            ),
            pb.AIProvider(name="off", type="anthropic"),
            pb.AIProvider(
                name="aws",
                type="bedrock",
                enabled=True,
                bedrock=pb.AIProviderBedrock(
                    region="eu-west-1",
                    access_key="AK",
                    access_key_secret="SK",
                    model="alias",
                    resolved_model="real",
                    small_fast_model="small",
                    role_arn="arn",
                    external_id="ext",
                    protocol="mantle",
                ),
            ),
            pb.AIProvider(
                name="aws-2",
                type="bedrock",
                enabled=True,
                bedrock=pb.AIProviderBedrock(model="m", resolved_small_fast_model="s"),
            ),
        ]
    )
    openai, off, aws, aws_2 = provider_configs(response)
    assert openai == ProviderConfig(
        name="openai", type="openai", base_url="https://api.example/v1", keys=("k1", "k2")
    )
    assert off == ProviderConfig(name="off", type="anthropic", base_url="", enabled=False)
    assert aws.bedrock == BedrockConfig(
        region="eu-west-1",
        access_key="AK",
        access_key_secret="SK",
        model="alias",
        small_fast_model="small",
        role_arn="arn",
        external_id="ext",
        protocol="mantle",
        resolved=ModelList({"alias": "real"}),
    )
    assert aws_2.bedrock == BedrockConfig(model="m", small_fast_model="s", protocol="invoke-model")


def test_a_wrong_name_is_the_problem_of_that_provider_alone() -> None:
    response = pb.GetAIProvidersResponse(
        providers=[
            pb.AIProvider(name="Bad Name", type="openai", enabled=True),
            pb.AIProvider(name="good", type="openai", enabled=True, base_url="first"),
            pb.AIProvider(name="good", type="openai", enabled=True, base_url="second"),
        ]
    )
    bad, good = provider_configs(response)
    assert bad.error == ('invalid AI provider name "Bad Name": must match ^[a-z0-9]+(-[a-z0-9]+)*$')
    assert good.error is None
    assert good.base_url == "first"
