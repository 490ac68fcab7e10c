"""Servers that keep silent, forget their sessions in their own words, and change tokens."""

from __future__ import annotations

import json
from typing import Any

import pytest
from mcp_desk import Desk
from mcp_scripted_server import Exchange, ScriptedServer, eventually

from aigateway.actors.control.messages import McpServer
from aigateway.actors.mcp import conversation

ECHO = "bmcp_s_echo"


@pytest.fixture
def server():
    with ScriptedServer(sessions=True) as server:
        yield server


def ping_for_ever(exchange: Exchange) -> None:
    exchange.open_stream()
    while not exchange.server.stopping.wait(0.02):
        exchange.event({"method": "ping", "id": 1})


# -- servers that never answer the newer revision's question


@pytest.mark.parametrize("behaviour", [Exchange.hang, ping_for_ever])
def test_a_server_that_never_answers_the_probe_gets_a_session(server, behaviour, monkeypatch):
    monkeypatch.setattr(conversation, "PROBE", 0.2)
    server.on["server/discover"] = behaviour
    with Desk(McpServer("s", server.url)) as desk:
        assert desk.ids() == [ECHO]
        assert len(server.got("initialize")) == 1
        assert not desk.call(ECHO).is_error


def test_the_probe_takes_a_part_of_the_time_that_a_request_waits_for_tools():
    assert conversation.PROBE == 3.0


def test_a_newer_server_that_is_slow_is_asked_again_with_more_time(monkeypatch):
    monkeypatch.setattr(conversation, "PROBE", 0.2)
    with ScriptedServer() as server:

        def slow_once(exchange: Exchange) -> None:
            del server.on["server/discover"]
            exchange.hang()

        server.on["server/discover"] = slow_once
        server.on["initialize"] = lambda exchange: exchange.error(-32601, "no such method", 404)
        with Desk(McpServer("s", server.url)) as desk:
            assert desk.ids() == [ECHO]
            assert len(server.got("server/discover")) == 2
            assert not desk.call(ECHO).is_error


def test_a_server_that_answers_nothing_at_all_is_a_problem(server, monkeypatch):
    monkeypatch.setattr(conversation, "PROBE", 0.1)
    server.on["server/discover"] = server.on["initialize"] = Exchange.hang
    with Desk(McpServer("s", server.url), tools_wait=0.5) as desk:
        assert desk.ids() == []


# -- lost sessions


def as_text(text: str) -> Any:
    return lambda exchange: exchange.send(400, text.encode(), Content_Type="text/plain")


def as_json(status: int, body: Any) -> Any:
    data = json.dumps(body).encode()
    return lambda exchange: exchange.send(status, data, Content_Type="application/json")


def rpc(code: int, message: str, identity: Any = None) -> dict[str, Any]:
    return {"jsonrpc": "2.0", "id": identity, "error": {"code": code, "message": message}}


LOST = {
    "404": lambda exchange: exchange.send(404),
    "410": lambda exchange: exchange.send(410),
    "410 with JSON": as_json(410, {"error": "gone"}),
    "400 with text": as_text("Bad Request: No valid session ID provided\n"),
    "400 with HTML": as_text("<html><body>Invalid Session</body></html>"),
    "400 with JSON": as_json(400, {"error": "Session not found"}),
    "400 with nested JSON": as_json(400, {"error": {"message": "unknown session"}}),
    "400 with JSON-RPC": as_json(400, rpc(-32000, "Bad Request: Server not initialized, session")),
    "400 with another code": as_json(400, rpc(-31999, "Session expired")),
    "400 with an id of its own": as_json(400, rpc(-31999, "Session expired", "server-error")),
}


@pytest.mark.parametrize("how", LOST)
def test_a_lost_session_is_opened_again_and_the_call_repeated(server, how):
    with Desk(McpServer("s", server.url)) as desk:
        assert desk.ids() == [ECHO]

        def lost_once(exchange: Exchange) -> None:
            del server.on["tools/call"]
            LOST[how](exchange)

        server.on["tools/call"] = lost_once
        result = desk.call(ECHO, b'{"a": 1}')
        assert result.transport_error is None
        assert len(server.got("initialize")) == 2
        assert [seen.headers["mcp-session-id"] for seen in server.got("tools/call")] == [
            "session-1",
            "session-2",
        ]


@pytest.mark.parametrize("how", LOST)
def test_a_lost_session_that_the_list_finds_is_opened_again(server, how):
    with Desk(McpServer("s", server.url), keep=10.0) as desk:
        assert desk.ids() == [ECHO]
        server.on["tools/list"] = lambda exchange: (
            LOST[how](exchange)
            if exchange.seen.headers["mcp-session-id"] == "session-1"
            else server.do(exchange)
        )
        desk.now += 100
        assert desk.ids() == [ECHO]
        assert len(server.got("initialize")) == 2


@pytest.mark.parametrize(
    "behaviour",
    [
        as_text("Bad Request: unknown argument"),
        as_json(400, {"error": "unknown argument"}),
        lambda exchange: exchange.error(-32602, "argument session_name is missing", 400),
        lambda exchange: exchange.error(-32000, "no such session", 200),
    ],
    ids=["text", "JSON", "the tool's own session", "a result"],
)
def test_an_error_that_is_about_something_else_opens_no_session(server, behaviour):
    with Desk(McpServer("s", server.url)) as desk:
        assert desk.ids() == [ECHO]
        server.on["tools/call"] = behaviour
        assert desk.call(ECHO).transport_error
        assert (len(server.got("initialize")), len(server.got("tools/call"))) == (1, 1)


def test_a_session_that_is_lost_inside_a_call_repeats_nothing(server):
    """Its request was taken, so it may have been done."""
    with Desk(McpServer("s", server.url)) as desk:
        assert desk.ids() == [ECHO]

        def begin(exchange: Exchange) -> None:
            exchange.open_stream()
            exchange.event(None, "id: 1", "retry: 10")

        server.on["tools/call"] = begin
        server.on["GET"] = lambda exchange: exchange.send(404)
        assert "lost the session" in desk.call(ECHO).transport_error
        assert len(server.got("tools/call")) == 1


# -- tokens


def refusing(token: str, status: int = 401) -> Any:
    def behaviour(exchange: Exchange) -> None:
        if exchange.seen.headers["authorization"] == f"Bearer {token}":
            exchange.send(status)
        else:
            exchange.server.do(exchange)

    return behaviour


def test_a_call_whose_token_has_expired_is_repeated_once_with_the_new_one(server):
    with Desk(McpServer("s", server.url, token="old")) as desk:
        assert desk.ids() == [ECHO]
        server.on["tools/call"] = refusing("old")
        desk.configure(McpServer("s", server.url, token="new"))
        result = desk.call(ECHO, b'{"a": 1}')
        assert result.transport_error is None
        assert json.loads(json.loads(result.content)[0]["text"]) == {"a": 1}
        tokens = [seen.headers["authorization"] for seen in server.got("tools/call")]
        assert tokens == ["Bearer old", "Bearer new"]


def test_calls_side_by_side_are_all_repeated(server):
    with Desk(McpServer("s", server.url, token="old")) as desk:
        assert desk.ids() == [ECHO]
        server.on["tools/call"] = refusing("old")
        desk.configure(McpServer("s", server.url, token="new"))
        replies = [desk.ask_call(ECHO) for _ in range(6)]
        assert [reply.get(timeout=10).transport_error for reply in replies] == [None] * 6


@pytest.mark.parametrize("status", [401, 403])
def test_without_another_token_the_call_fails_and_is_not_repeated(server, status):
    with Desk(McpServer("s", server.url, token="old")) as desk:
        assert desk.ids() == [ECHO]
        server.on["tools/call"] = refusing("old", status)
        assert "token was not accepted" in desk.call(ECHO).transport_error
        assert len(server.got("tools/call")) == 1


def test_a_new_token_that_is_refused_too_ends_it(server):
    with Desk(McpServer("s", server.url, token="old")) as desk:
        assert desk.ids() == [ECHO]
        server.on["tools/call"] = lambda exchange: exchange.send(401)
        desk.configure(McpServer("s", server.url, token="new"))
        assert "token was not accepted" in desk.call(ECHO).transport_error
        assert len(server.got("tools/call")) == 2


def test_while_the_control_plane_is_away_such_a_call_fails_in_time(server):
    with Desk(McpServer("s", server.url, token="old"), tools_wait=0.3) as desk:
        assert desk.ids() == [ECHO]
        server.on["tools/call"] = refusing("old")
        desk.configuration = None
        assert "token was not accepted" in desk.call(ECHO).transport_error
        eventually(lambda: len(desk.asked) >= 2)


def test_such_a_call_has_a_result_at_its_deadline(server):
    with Desk(McpServer("s", server.url, token="old"), tools_wait=30.0) as desk:
        assert desk.ids() == [ECHO]
        server.on["tools/call"] = refusing("old")
        desk.configuration = None
        assert "token was not accepted" in desk.call(ECHO, seconds=0.3).transport_error


# -- arguments


@pytest.mark.parametrize("arguments", [b"", b" ", b"null", b" null\n"])
def test_arguments_that_never_came_are_none(server, arguments):
    with Desk(McpServer("s", server.url)) as desk:
        assert desk.ids() == [ECHO]
        assert not desk.call(ECHO, arguments).is_error
        assert server.got("tools/call")[0].params["arguments"] == {}
