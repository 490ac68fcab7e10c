"""The messages have the bytes that coderd reads and writes: field numbers, presence, maps."""

from __future__ import annotations

import pytest
from google.protobuf.any_pb2 import Any
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message
from google.protobuf.struct_pb2 import Value
from google.protobuf.timestamp_pb2 import Timestamp

from aigateway.actors.control.coderd.wire import coderd_pb2 as pb

OWNER = "9d3c1a52-7f40-4b1e-8c55-0a6be1f2d3c4"
INTERCEPTION = "5b0f6f0e-93a4-4b7e-b1a3-2f4d5c6b7a89"


def text(number: int, value: str) -> bytes:
    """A length-delimited field below number 16, shorter than 128 bytes, by hand."""
    raw = value.encode()
    return bytes([number << 3 | 2, len(raw)]) + raw


def metadata(number: int, key: str, any_bytes: bytes) -> bytes:
    entry = text(1, key) + bytes([0x12, len(any_bytes)]) + any_bytes
    return bytes([number << 3 | 2, len(entry)]) + entry


# google.protobuf.Any that holds google.protobuf.Value{number_value: 12}: type_url is field 1,
# value is field 2, and inside it number_value is field 2 as a little-endian double.
TWELVE = text(1, "type.googleapis.com/google.protobuf.Value") + bytes.fromhex(
    "1209" + "110000000000002840"
)
# seconds is field 1 (1767225600), nanos is field 2 (250000000).
MOMENT = bytes.fromhex("0880f2d6ca06" + "1080e59a77")


def packed(value: Value) -> Any:
    wrapped = Any()
    wrapped.Pack(value)
    return wrapped


def moment() -> Timestamp:
    return Timestamp(seconds=1767225600, nanos=250000000)


EXAMPLES: dict[str, tuple[Message, bytes]] = {
    "a token to authorize": (
        pb.IsAuthorizedRequest(key="tok-carol-secret"),
        bytes.fromhex("0a10") + b"tok-carol-secret",
    ),
    "a delegated key": (
        pb.IsAuthorizedRequest(key_id="tok-carol"),
        bytes.fromhex("1209") + b"tok-carol",
    ),
    "a model to authorize": (
        pb.IsAuthorizedRequest(key="k-s", provider_name="anthropic", model="claude"),
        text(1, "k-s") + text(3, "anthropic") + text(4, "claude"),
    ),
    "who the caller is": (
        pb.IsAuthorizedResponse(owner_id=OWNER, api_key_id="tok-carol", username="carol"),
        bytes.fromhex("0a24") + OWNER.encode() + text(2, "tok-carol") + text(3, "carol"),
    ),
    "the workspace and mail of the caller": (
        pb.IsAuthorizedResponse(workspace_id="w", email="c@example.com"),
        text(4, "w") + text(5, "c@example.com"),
    ),
    "token usage": (
        pb.RecordTokenUsageRequest(
            interception_id=INTERCEPTION,
            msg_id="msg_7",
            input_tokens=300,
            output_tokens=66,
            metadata={"cache_creation": packed(Value(number_value=12))},
            created_at=moment(),
            cache_read_input_tokens=5,
            cache_write_input_tokens=1,
        ),
        text(1, INTERCEPTION)
        + text(2, "msg_7")
        + bytes.fromhex("18ac02" + "2042")
        + metadata(5, "cache_creation", TWELVE)
        + bytes([0x32, len(MOMENT)])
        + MOMENT
        + bytes.fromhex("3805" + "4001"),
    ),
    "an interception with every optional field": (
        pb.RecordInterceptionRequest(
            correlating_tool_call_id="call",
            client_session_id="",
            provider_name="anthropic-eu",
            credential_kind="byok",
            credential_hint="sk-...1",
            agent_firewall_session_id="fw",
            agent_firewall_sequence_number=0,
            workspace_id="ws",
        ),
        text(10, "call")
        + bytes.fromhex("5a00")  # client_session_id: present and empty
        + text(12, "anthropic-eu")
        + text(13, "byok")
        + text(14, "sk-...1")
        + text(15, "fw")
        + bytes.fromhex("800100")  # field 16: the tag takes two bytes
        + bytes.fromhex("8a0102")  # field 17
        + b"ws",
    ),
    "a failed interception's end": (
        pb.RecordInterceptionEndedRequest(
            id=INTERCEPTION, ended_at=moment(), error_type="timeout", error_message="too late"
        ),
        text(1, INTERCEPTION)
        + bytes([0x12, len(MOMENT)])
        + MOMENT
        + text(4, "timeout")
        + text(5, "too late"),
    ),
    "a prompt": (
        pb.RecordPromptUsageRequest(interception_id="i", msg_id="m", prompt="why?"),
        text(1, "i") + text(2, "m") + text(3, "why?"),
    ),
    "an injected tool call": (
        pb.RecordToolUsageRequest(
            interception_id="i",
            msg_id="m",
            server_url="https://mcp.example.com",
            tool="search",
            input="{}",
            injected=True,
            invocation_error="refused",
            tool_call_id="toolu_1",
            item_id="fc_1",
        ),
        text(1, "i")
        + text(2, "m")
        + text(3, "https://mcp.example.com")
        + text(4, "search")
        + text(5, "{}")
        + bytes.fromhex("3001")
        + text(7, "refused")
        + text(10, "toolu_1")
        + text(11, "fc_1"),
    ),
    "a thought": (
        pb.RecordModelThoughtRequest(interception_id="i", content="hm"),
        text(1, "i") + text(2, "hm"),
    ),
    "an exhausted budget": (
        pb.IsBudgetExceededResponse(exceeded=True, spend_limit_micros=0),
        bytes.fromhex("0801" + "1000"),
    ),
    "a budget without limit": (pb.IsBudgetExceededResponse(), b""),
    "a Bedrock provider": (
        pb.GetAIProvidersResponse(
            providers=[
                pb.AIProvider(
                    name="aws",
                    type="bedrock",
                    enabled=True,
                    bedrock=pb.AIProviderBedrock(region="eu-west-1", protocol="mantle"),
                )
            ]
        ),
        bytes.fromhex("0a25")
        + text(1, "aws")
        + text(2, "bedrock")
        + bytes.fromhex("1801")
        + bytes.fromhex("3213")
        + text(1, "eu-west-1")
        + text(8, "mantle"),
    ),
    "a provider with two keys": (
        pb.AIProvider(base_url="https://api.example.com", keys=["a", "b"]),
        text(4, "https://api.example.com") + text(5, "a") + text(5, "b"),
    ),
    "MCP servers": (
        pb.GetMCPServerConfigsResponse(
            external_auth_mcp_configs=[
                pb.MCPServerConfig(id="gh", url="u", tool_allow_regex="^a", tool_deny_regex="b$")
            ]
        ),
        bytes.fromhex("120f") + text(1, "gh") + text(2, "u") + text(3, "^a") + text(4, "b$"),
    ),
    "MCP tokens": (
        pb.GetMCPServerAccessTokensBatchResponse(access_tokens={"gh": "t"}, errors={"x": "e"}),
        bytes.fromhex("0a07") + text(1, "gh") + text(2, "t")
        + bytes.fromhex("1206") + text(1, "x") + text(2, "e"),
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", EXAMPLES)
def test_a_message_has_exactly_these_bytes(name: str) -> None:
    message, raw = EXAMPLES[name]
    assert message.SerializeToString(deterministic=True) == raw


@pytest.mark.parametrize("name", EXAMPLES)
def test_these_bytes_are_read_as_the_message(name: str) -> None:
    message, raw = EXAMPLES[name]
    assert type(message).FromString(raw) == message


def test_an_absent_optional_field_differs_from_an_empty_one() -> None:
    absent = pb.RecordInterceptionRequest.FromString(b"")
    empty = pb.RecordInterceptionRequest.FromString(bytes.fromhex("5a00"))
    assert not absent.HasField("client_session_id")
    assert empty.HasField("client_session_id")
    assert empty.client_session_id == ""


def test_a_field_of_a_newer_coderd_is_skipped() -> None:
    answer = pb.IsAuthorizedResponse.FromString(text(3, "carol") + text(15, "from the future"))
    assert answer.username == "carol"


def test_an_inferred_field_of_another_type_does_no_harm() -> None:
    # Field 5 as a varint: should "email" turn out to be something else, it reads as empty.
    answer = pb.IsAuthorizedResponse.FromString(text(3, "carol") + bytes.fromhex("2801"))
    assert (answer.username, answer.email) == ("carol", "")


OPTIONAL = {
    ("RecordInterceptionRequest", "correlating_tool_call_id"),
    ("RecordInterceptionRequest", "client_session_id"),
    ("RecordInterceptionRequest", "agent_firewall_session_id"),
    ("RecordInterceptionRequest", "agent_firewall_sequence_number"),
    ("RecordInterceptionEndedRequest", "error_type"),
    ("RecordInterceptionEndedRequest", "error_message"),
    ("RecordToolUsageRequest", "server_url"),
    ("RecordToolUsageRequest", "invocation_error"),
    ("IsAuthorizedRequest", "provider_name"),
    ("IsAuthorizedRequest", "model"),
    ("IsBudgetExceededResponse", "spend_limit_micros"),
}


def test_presence_is_tracked_for_the_optional_fields_and_no_others() -> None:
    tracked = {
        (message.name, field.name)
        for message in pb.DESCRIPTOR.message_types_by_name.values()
        for field in message.fields
        if field.has_presence and field.type != FieldDescriptor.TYPE_MESSAGE
    }
    assert tracked == OPTIONAL


def test_the_services_have_these_methods() -> None:
    services = {
        service.full_name: [method.name for method in service.methods]
        for service in pb.DESCRIPTOR.services_by_name.values()
    }
    assert services == {
        "proto.Recorder": [
            "RecordInterception",
            "RecordInterceptionEnded",
            "RecordTokenUsage",
            "RecordPromptUsage",
            "RecordToolUsage",
            "RecordModelThought",
        ],
        "proto.MCPConfigurator": ["GetMCPServerConfigs", "GetMCPServerAccessTokensBatch"],
        "proto.Authorizer": ["IsAuthorized", "IsBudgetExceeded"],
        "proto.ProviderConfigurator": ["GetAIProviders", "WatchAIProviders"],
    }
