"""What is said to a server follows from the revision it speaks."""

from __future__ import annotations

import itertools
import json
from typing import Any

import pytest

from aigateway.actors.mcp.answers import AnswerReader, Expect, ServerRequest
from aigateway.actors.mcp.definitions import ParamHeader, ToolDefinition
from aigateway.actors.mcp.errors import (
    BadArguments,
    HttpRefused,
    McpError,
    NoCommonVersion,
    RpcRefused,
    Unauthorized,
    Unreachable,
)
from aigateway.actors.mcp.protocol import (
    ClientInfo,
    Dialogue,
    Negotiation,
    Outgoing,
)

CLIENT = ClientInfo("aigateway", "1.2")
JSON = [("content-type", "application/json")]
TOOL = ToolDefinition("add", "Add.", b"{}")
META = {
    "io.modelcontextprotocol/protocolVersion": "2026-07-28",
    "io.modelcontextprotocol/clientInfo": {"name": "aigateway", "version": "1.2"},
    "io.modelcontextprotocol/clientCapabilities": {},
}


def answer(
    outgoing: Outgoing, body: Any = None, *, status: int = 200, session: str = "", raw: bytes = b""
) -> AnswerReader:
    """The reader of an answer: ``body`` holds ``result`` or ``error``."""
    reader = outgoing.reader()
    headers = [*JSON, ("Mcp-Session-Id", session)] if session else JSON
    reader.begin(status, headers)
    if body is not None:
        raw = json.dumps({"jsonrpc": "2.0", "id": outgoing.request_id, **body}).encode()
    reader.receive(raw)
    reader.end()
    return reader


def fields(outgoing: Outgoing) -> dict[str, str]:
    return {name.lower(): value for name, value in outgoing.headers}


def message(outgoing: Outgoing) -> Any:
    return json.loads(outgoing.body)


def negotiation() -> Negotiation:
    return Negotiation(CLIENT, itertools.count(1))


def discovered(**capabilities: Any) -> dict[str, Any]:
    versions = ["2026-07-28", "2025-11-25"]
    return {
        "result": {
            "resultType": "complete",
            "supportedVersions": versions,
            "capabilities": capabilities,
        }
    }


def opened(version: str = "2025-11-25", **capabilities: Any) -> dict[str, Any]:
    return {"result": {"protocolVersion": version, "capabilities": capabilities}}


def stateless(**changes: Any) -> Dialogue:
    return Dialogue("2026-07-28", CLIENT, itertools.count(1), **changes)


def in_session(session_id: str | None = "s-1") -> Dialogue:
    return Dialogue("2025-06-18", CLIENT, itertools.count(1), session_id)


# -- finding out


def test_a_new_server_is_found_out_with_one_request():
    talk = negotiation()
    first = talk.start()
    assert message(first) == {
        "jsonrpc": "2.0",
        "id": 1,
        "method": "server/discover",
        "params": {"_meta": META},
    }
    assert fields(first)["mcp-protocol-version"] == "2026-07-28"
    assert fields(first)["mcp-method"] == "server/discover"
    assert fields(first)["accept"] == "application/json, text/event-stream"
    dialogue = talk.take(answer(first, discovered(tools={"listChanged": True})))
    assert isinstance(dialogue, Dialogue)
    assert dialogue.stateless
    assert (dialogue.has_tools, dialogue.announces_changes) == (True, True)
    assert dialogue.goodbye() is None


def test_a_server_may_have_no_tools():
    talk = negotiation()
    dialogue = talk.take(answer(talk.start(), discovered(prompts={})))
    assert isinstance(dialogue, Dialogue)
    assert (dialogue.has_tools, dialogue.announces_changes) == (False, False)


OLD_SERVERS = {
    "no such method": {"body": {"error": {"code": -32601, "message": "Method not found"}}},
    "not initialized": {
        "status": 400,
        "body": {"error": {"code": -32000, "message": "Bad Request: Server not initialized"}},
    },
    "no JSON": {"status": 400, "raw": b"bad request"},
    "nothing there": {"status": 404},
    "fell over": {"status": 500},
    "accepted": {"status": 202},
    "another result": {"body": {"result": {"hello": 1}}},
    "only old versions": {
        "body": {"result": {"supportedVersions": ["2025-11-25"], "capabilities": {}}}
    },
    "refused by version": {
        "status": 400,
        "body": {"error": {"code": -32022, "message": "x", "data": {"supported": ["2025-06-18"]}}},
    },
}


@pytest.mark.parametrize("case", OLD_SERVERS.values(), ids=list(OLD_SERVERS))
def test_an_older_server_gets_a_session(case):
    talk = negotiation()
    initialize = talk.take(answer(talk.start(), **case))
    assert isinstance(initialize, Outgoing)
    assert message(initialize) == {
        "jsonrpc": "2.0",
        "id": 2,
        "method": "initialize",
        "params": {
            "protocolVersion": "2025-11-25",
            "capabilities": {},
            "clientInfo": {"name": "aigateway", "version": "1.2"},
        },
    }
    assert "mcp-protocol-version" not in fields(initialize)
    initialized = talk.take(answer(initialize, opened("2025-06-18", tools={}), session="s-9"))
    assert isinstance(initialized, Outgoing)
    assert message(initialized) == {"jsonrpc": "2.0", "method": "notifications/initialized"}
    assert fields(initialized)["mcp-session-id"] == "s-9"
    assert fields(initialized)["mcp-protocol-version"] == "2025-06-18"
    dialogue = talk.take(answer(initialized, status=202))
    assert isinstance(dialogue, Dialogue)
    assert (dialogue.version, dialogue.session_id) == ("2025-06-18", "s-9")
    assert (dialogue.has_tools, dialogue.announces_changes) == (True, False)


@pytest.mark.parametrize(
    ("case", "error"),
    [
        ({"status": 401}, Unauthorized),
        ({"status": 403}, Unauthorized),
        ({"status": 429}, HttpRefused),
        ({"status": 503}, HttpRefused),
        ({"body": {"error": {"code": -32020, "message": "x"}}}, RpcRefused),
        ({"body": {"error": {"code": -32021, "message": "x"}}}, RpcRefused),
        (
            {"body": {"error": {"code": -32022, "message": "x", "data": {"supported": ["z"]}}}},
            RpcRefused,
        ),
        ({"body": {"error": {"code": -32022, "message": "x"}}}, RpcRefused),
    ],
)
def test_what_says_nothing_of_the_revision_is_no_reason_to_open_a_session(case, error):
    talk = negotiation()
    with pytest.raises(error):
        talk.take(answer(talk.start(), **case))


def test_a_broken_connection_says_nothing_of_the_revision():
    talk = negotiation()
    reader = talk.start().reader()
    reader.begin(200, JSON)
    reader.cut("broke off")
    with pytest.raises(Unreachable, match="broke off"):
        talk.take(reader)


@pytest.mark.parametrize(
    ("body", "text"),
    [
        (opened("1900-01-01"), "requested 2025-11-25, the server answered '1900-01-01'"),
        ({"result": {}}, "answer to initialize is wrong"),
    ],
)
def test_a_server_without_a_common_version_is_refused(body, text):
    talk = negotiation()
    initialize = talk.take(answer(talk.start(), status=404))
    assert isinstance(initialize, Outgoing)
    with pytest.raises(NoCommonVersion, match=text):
        talk.take(answer(initialize, body))


def test_a_server_that_does_not_take_the_last_step_is_refused():
    talk = negotiation()
    initialize = talk.take(answer(talk.start(), status=404))
    assert isinstance(initialize, Outgoing)
    initialized = talk.take(answer(initialize, opened()))
    assert isinstance(initialized, Outgoing)
    with pytest.raises(McpError, match="500"):
        talk.take(answer(initialized, status=500))


# -- the requests


def test_without_sessions_every_request_says_all_there_is_to_know():
    request = stateless().list_tools("c1")
    assert message(request)["params"] == {"cursor": "c1", "_meta": META}
    assert fields(request)["mcp-method"] == "tools/list"
    assert "mcp-session-id" not in fields(request)
    assert not request.in_session


def test_in_a_session_requests_carry_its_id_and_version():
    dialogue = in_session()
    first, second = dialogue.list_tools(), dialogue.list_tools("c2")
    assert message(first) == {"jsonrpc": "2.0", "id": 1, "method": "tools/list"}
    assert message(second)["params"] == {"cursor": "c2"}
    assert second.request_id == 2
    assert fields(second)["mcp-session-id"] == "s-1"
    assert fields(second)["mcp-protocol-version"] == "2025-06-18"
    assert "mcp-method" not in fields(second)
    assert second.in_session


def test_arguments_travel_as_the_model_wrote_them():
    body = in_session().call_tool(TOOL, b' {"a": 1.10, "b": 12345678901234567890123}').body
    assert b'"arguments": {"a": 1.10, "b": 12345678901234567890123}' in body
    assert json.loads(body)["params"]["name"] == "add"


@pytest.mark.parametrize("arguments", [b"", b" \n"])
def test_no_arguments_are_an_empty_object(arguments):
    assert message(in_session().call_tool(TOOL, arguments))["params"]["arguments"] == {}


@pytest.mark.parametrize("arguments", [b"[1]", b"{", b'"x"', b'{"a": "\xff"}', b"[" * 9999])
def test_arguments_must_be_an_object(arguments):
    with pytest.raises(BadArguments):
        in_session().call_tool(TOOL, arguments)


def test_names_and_annotated_arguments_are_mirrored_in_headers():
    tool = ToolDefinition("wörk", "", b"{}", (ParamHeader(("place", "region"), "Region"),))
    request = stateless().call_tool(tool, b'{"place": {"region": "north"}}')
    assert fields(request)["mcp-name"] == "=?base64?d8O2cms=?="
    assert fields(request)["mcp-param-region"] == "north"
    assert "mcp-name" not in fields(in_session().call_tool(tool, b"{}"))


def test_changes_are_listened_to_in_the_way_of_the_revision():
    new, old = stateless().listen(), in_session().listen()
    assert new.expect is old.expect is Expect.STREAM
    assert message(new)["method"] == "subscriptions/listen"
    assert message(new)["params"]["notifications"] == {"toolsListChanged": True}
    assert (old.method, old.body) == ("GET", b"")
    assert fields(old)["accept"] == "text/event-stream"
    assert fields(old)["mcp-session-id"] == "s-1"


def test_a_cut_stream_is_resumed_only_in_a_session():
    dialogue = in_session()
    request = dialogue.list_tools()
    again = dialogue.resume(request, "e7")
    assert again is not None
    assert (again.method, fields(again)["last-event-id"]) == ("GET", "e7")
    assert (again.request_id, again.expect) == (request.request_id, Expect.ANSWER)
    assert dialogue.resume(request, "") is None
    assert stateless().resume(request, "e7") is None


def test_a_call_is_cancelled_by_a_message_only_in_a_session():
    dialogue = in_session()
    cancel = dialogue.cancel(dialogue.call_tool(TOOL, b""), "too late")
    assert cancel is not None
    assert message(cancel) == {
        "jsonrpc": "2.0",
        "method": "notifications/cancelled",
        "params": {"requestId": 1, "reason": "too late"},
    }
    assert cancel.expect is Expect.NOTHING
    assert stateless().cancel(stateless().call_tool(TOOL, b""), "too late") is None
    assert dialogue.cancel(dialogue.initialized(), "too late") is None


def test_requests_of_a_server_are_declined_but_a_ping_is_answered():
    dialogue = in_session()
    pong = dialogue.decline(ServerRequest("ping", b'"p1"'))
    assert pong is not None
    assert message(pong) == {"jsonrpc": "2.0", "id": "p1", "result": {}}
    no = dialogue.decline(ServerRequest("sampling/createMessage", b"5"))
    assert no is not None
    assert message(no)["error"]["code"] == -32601
    assert stateless().decline(ServerRequest("ping", b"1")) is None


def test_a_session_is_ended_where_there_is_one():
    goodbye = in_session().goodbye()
    assert goodbye is not None
    assert goodbye.method == "DELETE"
    assert fields(goodbye)["mcp-session-id"] == "s-1"
    assert in_session(None).goodbye() is None


def test_neither_session_ids_nor_arguments_are_shown():
    dialogue = in_session("secret-session")
    request = dialogue.call_tool(TOOL, b'{"password": "hunter2"}')
    assert "secret-session" not in f"{dialogue!r}{request!r}"
    assert "hunter2" not in repr(request)
