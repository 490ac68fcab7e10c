"""The Go peer behaves as coderd does on the wire, and its control API does what it says.

The client here replays bytes; the gateway's own client is tested elsewhere.
"""

from __future__ import annotations

import json
import threading
from pathlib import Path
from typing import Any

import pytest
import trustme
import websocket
from go_peer import SOURCES, GoPeer
from go_program import build
from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.descriptor_pb2 import FileDescriptorProto
from google.protobuf.struct_pb2 import Value
from google.protobuf.timestamp_pb2 import Timestamp
from wire_replay import (
    ACK,
    DATA,
    FIN,
    GO_AWAY,
    PING,
    RST,
    SYN,
    WINDOW_UPDATE,
    Replay,
    data,
    dial,
    drpc,
    yamux,
)

from aigateway.actors.control.coderd.wire import coderd_pb2 as pb

NEW_PATH = "/api/v2/ai-gateway/serve"
OLD_PATH = "/api/v2/aibridge/serve"
OWNER = "3f1d8c9e-5a2b-4c6d-9e8f-7a6b5c4d3e2f"
INTERCEPTION = "0c9b8a7d-6e5f-4a3b-8c2d-1e0f9a8b7c6d"
TOKEN = "k1234abcde-0123456789abcdefghij01"

STORED = drpc(0x05, 1) + drpc(0x0D, 2)


@pytest.fixture
def peer(go_peer: GoPeer) -> GoPeer:
    go_peer.add_user(TOKEN, OWNER, "erin", email="erin@example.com", workspace_id="ws-1")
    return go_peer


def refusal(peer: GoPeer, **dialling: Any) -> tuple[int, Any]:
    with pytest.raises(websocket.WebSocketBadStatusException) as caught, dial(peer.url, **dialling):
        pass
    return caught.value.status_code, caught.value.resp_body


def refusal_json(peer: GoPeer, **dialling: Any) -> tuple[int, Any]:
    status, body = refusal(peer, **dialling)
    return status, json.loads(body)


def interception(**changes: str) -> bytes:
    message = pb.RecordInterceptionRequest(
        id=INTERCEPTION, initiator_id=OWNER, api_key_id="k1234abcde"
    )
    for name, value in changes.items():
        setattr(message, name, value)
    return message.SerializeToString()


def prompt(text: str) -> bytes:
    message = pb.RecordPromptUsageRequest(interception_id=INTERCEPTION, prompt=text)
    return message.SerializeToString()


def error(text: str, code: int = 0) -> bytes:
    return drpc(0x07, 1, code.to_bytes(8, "big") + text.encode())


def ask(client: Replay, stream: int, method: str, payload: bytes = b"") -> bytes:
    client.call(stream, method, payload)
    return client.answer(stream)


def read_closed(client: Replay) -> str:
    """How the connection ended: "fin", "reset", or the hex of the close frame."""
    try:
        while True:
            client.frame()
    except ConnectionResetError:
        return "reset"
    except websocket.WebSocketConnectionClosedException:
        return "fin"
    except ConnectionError as ex:
        return str(ex)


# The wire.


def test_the_peer_was_compiled_with_the_messages_of_today(peer: GoPeer) -> None:
    ours = FileDescriptorProto()
    pb.DESCRIPTOR.CopyToProto(ours)
    theirs = FileDescriptorProto.FromString(peer.descriptor())
    for file in (ours, theirs):
        # One runtime fills in the names for JSON, the other does not.
        for message in file.message_type:
            for part in (message, *message.nested_type):
                for field in part.field:
                    field.ClearField("json_name")
    assert theirs == ours


def test_an_authorization_byte_by_byte(peer: GoPeer) -> None:
    peer.server(version="1.2")
    with dial(peer.url, f"{NEW_PATH}?version=1.0") as client:
        client.send(bytes.fromhex("00010001 00000001 00000000"))
        client.send(bytes.fromhex("00000000 00000001 0000004d"))
        client.send(
            bytes.fromhex("0301011e") + b"/proto.Authorizer/IsAuthorized"
            + bytes.fromhex("05010223 0a21") + TOKEN.encode()
            + bytes.fromhex("0d010300")
        )  # fmt: skip
        answer = (
            bytes.fromhex("05010138 0a24") + OWNER.encode()
            + bytes.fromhex("120a") + b"k1234abcde"
            + bytes.fromhex("1a04") + b"erin"
        )  # fmt: skip
        assert client.frame() == (WINDOW_UPDATE, ACK, 1, 0)
        assert client.frame() == (DATA, 0, 1, answer)
        assert client.frame() == (DATA, 0, 1, bytes.fromhex("0d010200"))
        client.send(bytes.fromhex("00000000 00000001 00000004 0b010400"))
        client.send(bytes.fromhex("00010004 00000001 00000000"))
        assert client.frame() == (WINDOW_UPDATE, FIN, 1, 0)


def test_one_yamux_stream_serves_several_calls(peer: GoPeer) -> None:
    with dial(peer.url) as client:
        ask(client, 1, "Recorder/RecordInterception", interception())
        payload = prompt("again")
        packets = drpc(0x03, 1, b"/proto.Recorder/RecordPromptUsage", 2)
        client.send(data(1, packets + drpc(0x05, 2, payload, 2) + drpc(0x0D, 3, stream=2)))
        assert client.answer(1) == drpc(0x05, 1, stream=2) + drpc(0x0D, 2, stream=2)
    assert [r["record"]["prompt"] for r in peer.records("RecordPromptUsage")] == ["again"]


def test_an_unknown_call_is_an_error(peer: GoPeer) -> None:
    with dial(peer.url) as client:
        answer = ask(client, 1, "Recorder/Nope")
    assert answer == error('protocol error: unknown rpc: "/proto.Recorder/Nope"')


def test_a_websocket_message_above_the_limit_closes_with_1009(peer: GoPeer) -> None:
    with dial(peer.url) as client:
        client.send(bytes(262145))
        assert read_closed(client).startswith("closed: 03f1")


# Upgrades.


def test_an_upgrade_without_a_key_is_refused(peer: GoPeer) -> None:
    assert refusal_json(peer, key="") == (401, {"message": "AI Gateway key required."})


def test_an_upgrade_with_an_unknown_key_is_refused(peer: GoPeer) -> None:
    assert refusal_json(peer, key="other") == (401, {"message": "AI Gateway key invalid."})
    seen = peer.upgrades(at_least=1)[0]
    assert (seen["status"], seen["key"], seen["path"]) == (401, "other", NEW_PATH)


def test_a_deployment_without_licence_refuses_every_key(peer: GoPeer) -> None:
    peer.server(licensed=False)
    assert refusal_json(peer)[0] == refusal_json(peer, key="")[0] == 403


@pytest.mark.parametrize(
    ("given", "detail"),
    [
        ("1.4", "server is at version 1.2, behind requested minor version 1.4"),
        ("2.0", "server is at version 1.2, behind requested major version 2.0"),
        ("0.9", "version 0.9 is no longer supported"),
        ("", "invalid version string: "),
        ("one.1", "invalid major version: one.1"),
        ("1.one", "invalid minor version: 1.one"),
    ],
)
def test_an_incompatible_version_is_refused(peer: GoPeer, given: str, detail: str) -> None:
    peer.server(version="1.2")
    status, body = refusal_json(peer, path=f"{NEW_PATH}?version={given}")
    assert status == 400
    assert body == {
        "message": "Incompatible or unparsable version",
        "validations": [
            {"field": "version", "detail": detail},
            {"field": "client_api_version", "detail": given},
            {"field": "server_api_version", "detail": "1.2"},
        ],
    }


def test_a_server_may_know_only_the_old_path(peer: GoPeer) -> None:
    peer.server(paths=[OLD_PATH])
    assert refusal_json(peer)[0] == 404
    with dial(peer.url, f"{OLD_PATH}?version=1.0"):
        assert peer.sessions(open=1)[0]["path"] == OLD_PATH


def test_an_older_server_lacks_newer_calls_and_fields(peer: GoPeer) -> None:
    peer.server(version="1.0")
    with dial(peer.url, f"{NEW_PATH}?version=1.0") as client:
        answer = ask(client, 1, "ProviderConfigurator/GetAIProviders")
        assert b"unknown rpc" in answer
        answer = ask(client, 3, "Authorizer/IsAuthorized", b"\x0a\x21" + TOKEN.encode())
        assert b"ws-1" not in answer
        assert b"erin@example.com" not in answer


def test_upgrades_are_refused_as_often_as_told(peer: GoPeer) -> None:
    peer.refuse_upgrades(503, {"message": "busy"}, headers={"Retry-After": "7"}, times=1)
    assert refusal_json(peer) == (503, {"message": "busy"})
    with dial(peer.url):
        assert [u["status"] for u in peer.upgrades(at_least=2)] == [503, 101]


def test_an_upgrade_is_refused_with_a_plain_text(peer: GoPeer) -> None:
    peer.refuse_upgrades(502, text="<html>bad gateway</html>")
    assert refusal(peer) == (502, b"<html>bad gateway</html>")


def test_a_hanging_upgrade_ends_without_an_answer_when_released(peer: GoPeer) -> None:
    peer.disturb_upgrades("hang")
    outcome: list[BaseException] = []

    def try_it() -> None:
        try:
            with dial(peer.url):
                pass
        except (OSError, websocket.WebSocketException) as ex:
            outcome.append(ex)

    thread = threading.Thread(target=try_it)
    thread.start()
    assert peer.upgrades(at_least=1)[0]["status"] == 0
    assert not outcome
    peer.release()
    thread.join()
    assert outcome


# Authorization.


@pytest.mark.parametrize(
    ("user", "text"),
    [
        ({"expired": True}, "expired"),
        ({"state": "deleted"}, "deleted user"),
        ({"state": "system"}, "system user"),
    ],
)
def test_a_user_may_be_refused(peer: GoPeer, user: dict[str, Any], text: str) -> None:
    peer.configure(users=[])
    peer.add_user(TOKEN, OWNER, "erin", **user)
    with dial(peer.url) as client:
        payload = pb.IsAuthorizedRequest(key=TOKEN).SerializeToString()
        assert ask(client, 1, "Authorizer/IsAuthorized", payload) == error(text, 1001)


@pytest.mark.parametrize(
    ("asked", "text"),
    [
        (pb.IsAuthorizedRequest(key="nodash"), "invalid key"),
        (pb.IsAuthorizedRequest(key=TOKEN[:-1]), "invalid key"),
        (pb.IsAuthorizedRequest(key="nosuchkey0-x"), "unknown key"),
        (
            pb.IsAuthorizedRequest(key="a", key_id="b"),
            "both key and key_id set; exactly one required",
        ),
    ],
)
def test_a_bad_token_is_refused_without_a_code_before_1_4(
    peer: GoPeer, asked: pb.IsAuthorizedRequest, text: str
) -> None:
    peer.server(version="1.3")
    with dial(peer.url, f"{NEW_PATH}?version=1.3") as client:
        answer = ask(client, 1, "Authorizer/IsAuthorized", asked.SerializeToString())
    assert answer == error(text)


def test_a_model_may_be_refused(peer: GoPeer) -> None:
    peer.configure(users=[])
    peer.add_user(TOKEN, OWNER, "erin", models=["anthropic/small"])
    codes = {}
    with dial(peer.url) as client:
        for stream, model in ((1, "small"), (3, "large"), (5, "")):
            asked = pb.IsAuthorizedRequest(key=TOKEN, provider_name="anthropic", model=model)
            answer = ask(client, stream, "Authorizer/IsAuthorized", asked.SerializeToString())
            codes[model] = int.from_bytes(answer[4:12], "big") if answer[0] == 0x07 else 0
    assert codes == {"small": 0, "large": 1002, "": 1004}


def test_a_budget_may_be_exceeded(peer: GoPeer) -> None:
    peer.set_budget(OWNER, True, 0)
    with dial(peer.url) as client:
        asked = pb.IsBudgetExceededRequest(user_id=OWNER).SerializeToString()
        answer = ask(client, 1, "Authorizer/IsBudgetExceeded", asked)
    assert answer == drpc(0x05, 1, bytes.fromhex("08011000")) + drpc(0x0D, 2)


# Records.


def test_records_are_shown_as_they_came(peer: GoPeer) -> None:
    twelve = AnyMessage()
    twelve.Pack(Value(number_value=12))
    usage = pb.RecordTokenUsageRequest(
        interception_id=INTERCEPTION,
        msg_id="msg",
        input_tokens=2**40,
        metadata={"cached": twelve},
        created_at=Timestamp(seconds=1767225600, nanos=5000),
    )
    with dial(peer.url) as client:
        assert ask(client, 1, "Recorder/RecordInterception", interception()) == STORED
        assert ask(client, 3, "Recorder/RecordTokenUsage", usage.SerializeToString()) == STORED
    start, tokens = peer.records(at_least=2)
    assert start["record"]["client_session_id"] is None
    assert start["record"]["started_at"] is None
    assert (tokens["rpc"], tokens["session"]) == ("RecordTokenUsage", 1)
    assert tokens["record"] == {
        "interception_id": INTERCEPTION,
        "msg_id": "msg",
        "input_tokens": 2**40,
        "output_tokens": 0,
        "metadata": {"cached": 12},
        "created_at": "2026-01-01T00:00:00.000005Z",
        "cache_read_input_tokens": 0,
        "cache_write_input_tokens": 0,
    }
    assert peer.records(interception_id=INTERCEPTION) == [start, tokens]


@pytest.mark.parametrize(
    ("method", "payload", "text"),
    [
        ("RecordInterception", interception(id="x"), 'invalid interception ID "x": '),
        ("RecordInterception", interception(initiator_id="x"), 'invalid initiator ID "x": '),
        ("RecordInterception", interception(api_key_id=""), "empty API key ID"),
        ("RecordPromptUsage", b"", 'failed to parse interception_id "": '),
        (
            "RecordTokenUsage",
            b"\x0a\x24" + INTERCEPTION.encode(),
            f'record token usage and spend: get interception "{INTERCEPTION}": ',
        ),
        ("RecordInterceptionEnded", b"\x0a\x24" + INTERCEPTION.encode(), "end interception: "),
    ],
)
def test_a_wrong_record_is_refused(peer: GoPeer, method: str, payload: bytes, text: str) -> None:
    with dial(peer.url) as client:
        answer = ask(client, 1, f"Recorder/{method}", payload)
    assert answer[0] == 0x07
    assert text in answer.decode()
    assert peer.records() == []
    assert peer.calls(method)[0]["error"].startswith(text)


def test_a_record_is_stored_twice_when_sent_twice_but_an_interception_is_not(peer: GoPeer) -> None:
    with dial(peer.url) as client:
        assert ask(client, 1, "Recorder/RecordInterception", interception()) == STORED
        again = ask(client, 3, "Recorder/RecordInterception", interception())
        assert b"start interception: duplicate" in again
        for stream in (5, 7):
            assert ask(client, stream, "Recorder/RecordPromptUsage", prompt("twice")) == STORED
    assert len(peer.records("RecordPrompt*")) == 2


def test_an_interception_ends_once(peer: GoPeer) -> None:
    end = pb.RecordInterceptionEndedRequest(id=INTERCEPTION).SerializeToString()
    with dial(peer.url) as client:
        assert ask(client, 1, "Recorder/RecordInterception", interception()) == STORED
        assert ask(client, 3, "Recorder/RecordInterceptionEnded", end) == STORED
        again = ask(client, 5, "Recorder/RecordInterceptionEnded", end)
    assert b"end interception: sql: no rows in result set" in again
    assert len(peer.records("RecordInterceptionEnded")) == 1


# Providers and MCP.


def test_providers_are_listed_and_changes_are_signalled(peer: GoPeer) -> None:
    with dial(peer.url) as client:
        client.call(1, "ProviderConfigurator/WatchAIProviders", b"")
        assert client.frame() == (WINDOW_UPDATE, ACK, 1, 0)
        assert client.frame() == (DATA, 0, 1, drpc(0x05, 1))
        assert peer.signal_watchers(at_least=1) == 1
        assert client.frame() == (DATA, 0, 1, drpc(0x05, 2))
        bedrock = {"region": "eu-west-1"}
        off = {"name": "off", "type": "openai", "enabled": False, "keys": ["hidden"]}
        on = {"name": "on", "type": "anthropic", "keys": ["k1", "k2"], "bedrock": bedrock}
        peer.set_providers([off, on])
        assert client.frame() == (DATA, 0, 1, drpc(0x05, 3))
        answer = ask(client, 3, "ProviderConfigurator/GetAIProviders")
        providers = pb.GetAIProvidersResponse.FromString(answer[3:-4][1:]).providers
        assert [(p.name, p.enabled, list(p.keys)) for p in providers] == [
            ("off", False, []),
            ("on", True, ["k1", "k2"]),
        ]
        assert providers[1].bedrock.region == "eu-west-1"
        peer.end_watches("going down")
        assert client.answer(1)[4:].endswith(b"going down")


def test_mcp_servers_and_tokens_are_answered(peer: GoPeer) -> None:
    server = {"id": "gh", "url": "https://mcp.example.com", "tool_allow_regex": "^get"}
    peer.set_mcp(servers=[server], tokens={OWNER: {"gh": "gho_1"}}, errors={"jira": "expired"})
    with dial(peer.url) as client:
        answer = ask(client, 1, "MCPConfigurator/GetMCPServerConfigs")
        configs = pb.GetMCPServerConfigsResponse.FromString(answer[4:-4])
        assert not configs.HasField("coder_mcp_config")
        assert configs.external_auth_mcp_configs[0].tool_allow_regex == "^get"
        asked = pb.GetMCPServerAccessTokensBatchRequest(
            user_id=OWNER, mcp_server_config_ids=["gh", "jira", "none"]
        )
        method = "MCPConfigurator/GetMCPServerAccessTokensBatch"
        answer = ask(client, 3, method, asked.SerializeToString())
        tokens = pb.GetMCPServerAccessTokensBatchResponse.FromString(answer[4:-4])
    assert dict(tokens.access_tokens) == {"gh": "gho_1"}
    assert dict(tokens.errors) == {"jira": "expired", "none": "no MCP config found"}


# Faults in calls.


def test_the_nth_record_is_rejected(peer: GoPeer) -> None:
    peer.reject_record("RecordPromptUsage", 2, "insert user prompt: disk full")
    with dial(peer.url) as client:
        answers = [
            ask(client, stream, "Recorder/RecordPromptUsage", prompt(str(stream)))
            for stream in (1, 3, 5)
        ]
    assert answers == [STORED, error("insert user prompt: disk full"), STORED]
    assert [r["record"]["prompt"] for r in peer.records()] == ["1", "5"]


def test_a_fault_may_come_after_the_record_was_stored(peer: GoPeer) -> None:
    peer.disturb("Record*", "drop", when="after", match={"prompt": "doomed"})
    with dial(peer.url) as client:
        assert ask(client, 1, "Recorder/RecordPromptUsage", prompt("fine")) == STORED
        client.call(3, "Recorder/RecordPromptUsage", prompt("doomed"))
        assert read_closed(client) in ("reset", "fin")
    assert len(peer.records(at_least=2)) == 2
    peer.sessions(open=0)


def test_a_stalled_call_is_answered_when_released(peer: GoPeer) -> None:
    peer.disturb("RecordPromptUsage", "stall")
    with dial(peer.url) as client:
        client.call(1, "Recorder/RecordPromptUsage", prompt("slow"))
        assert peer.calls(state="stalled", at_least=1)[0]["stream"] == 1
        # The session is alive meanwhile.
        assert ask(client, 3, "Recorder/RecordPromptUsage", prompt("quick")) == STORED
        peer.release()
        assert client.answer(1) == STORED


def test_a_call_that_is_abandoned_is_cancelled(peer: GoPeer) -> None:
    peer.disturb("RecordPromptUsage", "stall")
    with dial(peer.url) as client:
        client.call(1, "Recorder/RecordPromptUsage", prompt("slow"))
        peer.calls(state="stalled", at_least=1)
        client.send(yamux(WINDOW_UPDATE, FIN, 1, 0))
        peer.calls(state="cancelled", at_least=1)
    assert peer.records() == []


def test_a_stream_may_end_without_an_answer(peer: GoPeer) -> None:
    peer.disturb("IsAuthorized", "fin")
    peer.disturb("IsAuthorized", "empty")
    with dial(peer.url) as client:
        assert ask(client, 1, "Authorizer/IsAuthorized") == b""
        assert ask(client, 3, "Authorizer/IsAuthorized") == drpc(0x0D, 1)


def test_faults_are_listed_with_their_use_and_cleared(peer: GoPeer) -> None:
    peer.disturb("IsAuthorized", "error", text="away", code=1003, times=0)
    with dial(peer.url) as client:
        for stream in (1, 3):
            assert ask(client, stream, "Authorizer/IsAuthorized") == error("away", 1003)
        assert peer.faults()["rpc"][0]["used"] == 2
        peer.clear_faults()
        assert b"invalid key" in ask(client, 5, "Authorizer/IsAuthorized")


# Faults of sessions.


@pytest.mark.parametrize(
    ("how", "seen"),
    [
        ("reset", {"reset"}),
        ("fin", {"fin"}),
        # A race in coderd's libraries: a close frame or just the end.
        ("cancel", {"fin", "closed: 03e8"}),
        ("yamux", {"fin", "closed: 03e8"}),
    ],
)
def test_a_session_is_dropped(peer: GoPeer, how: str, seen: set[str]) -> None:
    with dial(peer.url) as client:
        peer.sessions(open=1)
        peer.drop(how)
        assert read_closed(client) in seen
        peer.sessions(open=0)


def test_a_session_is_closed_with_a_code(peer: GoPeer) -> None:
    with dial(peer.url) as client:
        peer.sessions(open=1)
        peer.drop("close", code=1011, reason="serve: oh")
        assert read_closed(client) == f"closed: 03f3{b'serve: oh'.hex()}"


def test_a_deleted_gateway_key_ends_its_sessions_and_is_refused(peer: GoPeer) -> None:
    peer.add_gateway_key("second")
    with dial(peer.url) as first, dial(peer.url, key="second") as second:
        peer.sessions(open=2)
        peer.delete_gateway_key("gateway-key", check=False)
        peer.sessions(open=2)
        peer.check_keys()
        assert read_closed(first)
        peer.sessions(open=1)
        assert ask(second, 1, "Recorder/RecordPromptUsage", prompt("alive")) == STORED
    assert refusal_json(peer) == (401, {"message": "AI Gateway key invalid."})


def test_a_stalled_session_is_silent_until_it_goes_on(peer: GoPeer) -> None:
    with dial(peer.url) as client:
        peer.sessions(open=1)
        peer.stall()
        client.call(1, "Recorder/RecordPromptUsage", prompt("late"))
        client.ws.settimeout(0.2)
        with pytest.raises(websocket.WebSocketTimeoutException):
            client.frame()
        assert peer.calls() == []
        peer.unstall()
        client.ws.settimeout(20)
        assert client.answer(1) == STORED


def test_a_ping_goes_out_and_its_answer_is_measured(peer: GoPeer) -> None:
    with dial(peer.url) as client:
        peer.sessions(open=1)
        results: list[Any] = []
        thread = threading.Thread(target=lambda: results.extend(peer.ping()))
        thread.start()
        kind, flags, stream, number = client.frame()
        assert (kind, flags, stream) == (PING, SYN, 0)
        assert isinstance(number, int)
        client.send(yamux(PING, ACK, 0, number))
        thread.join()
        assert results[0]["result"]["rtt_us"] > 0


def test_after_go_away_new_streams_are_refused_and_old_ones_finish(peer: GoPeer) -> None:
    peer.disturb("RecordPromptUsage", "stall")
    with dial(peer.url) as client:
        client.call(1, "Recorder/RecordPromptUsage", prompt("old"))
        peer.calls(state="stalled", at_least=1)
        peer.go_away()
        client.call(3, "Recorder/RecordPromptUsage", prompt("new"))
        assert client.frame() == (WINDOW_UPDATE, ACK, 1, 0)
        assert client.frame() == (GO_AWAY, 0, 0, 0)
        assert client.frame() == (WINDOW_UPDATE, RST, 3, 0)
        peer.release()
        assert client.answer(1) == STORED


def test_bytes_can_be_injected(peer: GoPeer) -> None:
    with dial(peer.url) as client:
        peer.sessions(open=1)
        peer.inject(bytes.fromhex("0103"))
        assert client.ws.recv_data() == (websocket.ABNF.OPCODE_BINARY, bytes.fromhex("0103"))


def test_a_closed_listener_refuses_and_opens_again_on_the_same_port(peer: GoPeer) -> None:
    with dial(peer.url) as client:
        peer.close_listener()
        with pytest.raises(ConnectionRefusedError), dial(peer.url):
            pass
        assert ask(client, 1, "Recorder/RecordPromptUsage", prompt("still here")) == STORED
        peer.open_listener()
        with dial(peer.url):
            peer.sessions(open=2)


# The process.


def test_a_peer_checks_keys_and_pings_at_its_intervals(go_peer_process: GoPeer) -> None:
    with GoPeer(keepalive=0.05, heartbeat=0.05, write_timeout=0.05) as peer:
        with dial(peer.url) as client:
            assert client.frame() == (PING, SYN, 0, 0)
            # Unanswered: the session ends.
            assert read_closed(client)
            peer.sessions(open=0)
        with dial(peer.url):
            peer.sessions(open=1)
            peer.delete_gateway_key("gateway-key", check=False)
            peer.sessions(open=0)


def test_a_peer_speaks_tls(tmp_path: Path) -> None:
    authority = trustme.CA()
    certificate = authority.issue_cert("127.0.0.1")
    certificate.cert_chain_pems[0].write_to_path(str(tmp_path / "cert.pem"))
    certificate.private_key_pem.write_to_path(str(tmp_path / "key.pem"))
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    with GoPeer(tls=(tmp_path / "cert.pem", tmp_path / "key.pem")) as peer:
        assert peer.url.startswith("https://")
        with dial(peer.url, sslopt={"ca_certs": str(tmp_path / "ca.pem")}) as client:
            assert ask(client, 1, "Recorder/RecordPromptUsage", prompt("secret")) == STORED
            peer.drop("reset")
            assert read_closed(client)


def test_a_misspelt_setting_is_an_error(peer: GoPeer) -> None:
    with pytest.raises(AssertionError, match="unknown field"):
        peer.add_user(TOKEN, OWNER, "erin", expird=True)


@pytest.mark.parametrize(
    ("ci", "outcome"), [("true", pytest.fail.Exception), ("", pytest.skip.Exception)]
)
def test_without_go_a_test_is_skipped_but_fails_in_ci(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, ci: str, outcome: type[BaseException]
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("CI", ci)
    with pytest.raises(outcome, match="needs Go"):
        build(SOURCES, "coderd-peer")
