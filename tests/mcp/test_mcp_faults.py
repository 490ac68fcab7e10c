"""Servers that hang, break off, forget and lie cost a call, never more."""

from __future__ import annotations

import contextlib
import json
import ssl
import threading
import time
from typing import Any

import pytest
import trustme
from mcp_desk import Desk
from mcp_scripted_server import Exchange, ScriptedServer, eventually, tool

from aigateway.actors.control.messages import McpServer

ECHO = "bmcp_s_echo"


@pytest.fixture(params=[False, True], ids=["stateless", "sessions"])
def server(request):
    with ScriptedServer(sessions=request.param) as server:
        yield server


@pytest.fixture
def desk(server):
    with Desk(McpServer("s", server.url, token="bearer-1")) as desk:
        assert desk.ids() == [ECHO]
        yield desk


def text_of(result: Any) -> str:
    assert result.transport_error is None
    return json.loads(result.content)[0]["text"]


def once(server: ScriptedServer, name: str, behaviour: Any) -> None:
    """Do this the first time, and the usual from then on."""

    def first(exchange: Exchange) -> None:
        del server.on[name]
        behaviour(exchange)

    server.on[name] = first


def test_a_call_is_answered(desk, server):
    result = desk.call(ECHO, b'{"a": 1}')
    assert json.loads(text_of(result)) == {"a": 1}
    assert (result.tool, result.server_id, result.server_url) == ("echo", "s", server.url)
    assert not result.is_error
    assert {seen.headers["authorization"] for seen in server.seen} == {"Bearer bearer-1"}
    assert {seen.headers["user-agent"].split("/")[0] for seen in server.seen} == {"aigateway"}


def test_a_hung_call_is_cut_at_its_deadline_and_cancelled(desk, server):
    server.on["tools/call"] = Exchange.hang
    begun = time.monotonic()
    result = desk.call(ECHO, seconds=0.3)
    assert 0.3 <= time.monotonic() - begun < 2
    assert (result.is_error, result.transport_error) == (True, "the server did not answer in time")
    eventually(lambda: server.hung_up)
    if server.sessions:
        cancelled = eventually(lambda: server.got("notifications/cancelled"))
        assert cancelled[0].params["requestId"] == server.got("tools/call")[0].message["id"]


def test_a_stream_that_trickles_is_cut_at_the_deadline_too(desk, server):
    def trickle(exchange: Exchange) -> None:
        exchange.open_stream()
        while not server.stopping.wait(0.02):
            exchange.event({"method": "notifications/progress"})

    server.on["tools/call"] = trickle
    begun = time.monotonic()
    assert desk.call(ECHO, seconds=0.3).is_error
    assert time.monotonic() - begun < 2


@pytest.mark.parametrize(
    ("behaviour", "text"),
    [
        (lambda exchange: exchange.send(500, b"oops"), "the server answered 500"),
        (lambda exchange: exchange.error(-32602, "Unknown tool"), "MCP error -32602: Unknown tool"),
        (lambda exchange: exchange.send(200, b"{", Content_Type="application/json"), "no JSON-RPC"),
        (lambda exchange: exchange.send(200, b"<html>", Content_Type="text/html"), "text/html"),
        (lambda exchange: exchange.send(202), "202 and no body"),
        (lambda exchange: exchange.result(content=5), "result cannot be read"),
        (lambda exchange: exchange.result(resultType="input_required"), "asks for more input"),
        (Exchange.cut, "closed the connection before its answer"),
        (lambda exchange: exchange.send(302, Location="/other"), "redirects to"),
    ],
)
def test_a_wrong_answer_is_an_error_result(desk, server, behaviour, text):
    server.on["tools/call"] = behaviour
    result = desk.call(ECHO)
    assert result.is_error
    assert text in result.transport_error
    server.on.clear()
    assert not desk.call(ECHO).is_error


def test_what_the_tool_says_of_itself_is_passed_on(desk, server):
    server.on["tools/call"] = lambda exchange: exchange.result(
        content=[{"type": "text", "text": "no such file"}], isError=True
    )
    result = desk.call(ECHO)
    assert (result.is_error, result.transport_error) == (True, None)


def test_arguments_that_are_no_object_are_not_sent(desk, server):
    result = desk.call(ECHO, b"[1]")
    assert "no JSON object" in result.transport_error
    assert server.got("tools/call") == []


def test_a_stream_answers_among_other_things(desk, server):
    def stream(exchange: Exchange) -> None:
        exchange.open_stream()
        exchange.event(None, "id: 1")
        exchange.event({"method": "notifications/message", "params": {}})
        exchange.answer_event("streamed")

    server.on["tools/call"] = stream
    assert text_of(desk.call(ECHO)) == "streamed"


def test_a_cut_stream_is_continued_where_the_server_can(desk, server):
    def cut(exchange: Exchange) -> None:
        exchange.open_stream()
        exchange.event(None, "id: e1", "retry: 10")
        asked.append(exchange.seen.message["id"])

    def rest(exchange: Exchange) -> None:
        exchange.open_stream()
        result = {"content": [{"type": "text", "text": "continued"}]}
        exchange.event({"id": asked[0], "result": result})

    asked: list[int] = []
    server.on["tools/call"] = cut
    server.on["GET"] = rest
    result = desk.call(ECHO)
    if server.sessions:
        assert text_of(result) == "continued"
        assert server.got("GET")[0].headers["last-event-id"] == "e1"
    else:
        assert "before its answer" in result.transport_error
        assert server.got("GET") == []


def test_a_stream_that_stays_cut_is_given_up(server):
    def cut(exchange: Exchange) -> None:
        exchange.open_stream()
        exchange.event(None, "id: e1", "retry: 5")

    server.on["tools/call"] = server.on["GET"] = cut
    with Desk(McpServer("s", server.url)) as desk:
        desk.tools()
        assert "before its answer" in desk.call(ECHO).transport_error
        assert len(server.got("GET")) == (2 if server.sessions else 0)


def test_waiting_to_continue_ends_at_the_deadline(desk, server):
    def cut(exchange: Exchange) -> None:
        exchange.open_stream()
        exchange.event(None, "id: e1", "retry: 60000")

    server.on["tools/call"] = cut
    begun = time.monotonic()
    assert desk.call(ECHO, seconds=1).is_error
    assert time.monotonic() - begun < 3


def test_requests_of_the_server_are_declined_inside_the_call():
    answers: list[Any] = []

    def ask_back(exchange: Exchange) -> None:
        exchange.open_stream()
        exchange.event({"id": "p", "method": "ping"})
        exchange.event({"id": 5, "method": "elicitation/create", "params": {}})
        eventually(lambda: len(server.got("answer")) == 2)
        answers.extend(seen.message for seen in server.got("answer"))
        exchange.answer_event("after all")

    with ScriptedServer(sessions=True) as server, Desk(McpServer("s", server.url)) as desk:
        desk.tools()
        server.on["tools/call"] = ask_back
        assert text_of(desk.call(ECHO)) == "after all"
    assert answers[0] == {"jsonrpc": "2.0", "id": "p", "result": {}}
    assert (answers[1]["id"], answers[1]["error"]["code"]) == (5, -32601)


# -- sessions that are forgotten


@pytest.mark.parametrize("status", [404, 400])
def test_a_forgotten_session_is_opened_again_and_the_call_repeated(status):
    with ScriptedServer(sessions=True) as server, Desk(McpServer("s", server.url)) as desk:
        desk.tools()
        server.live_sessions.clear()
        if status == 400:
            text = "Bad Request: No valid session ID provided"
            once(server, "tools/call", lambda exchange: exchange.error(-32000, text, 400))
        assert not desk.call(ECHO).is_error
        assert len(server.got("initialize")) == 2
        assert len(server.got("tools/call")) == 2
        assert server.got("tools/call")[1].headers["mcp-session-id"] == "session-2"


def test_a_session_that_is_forgotten_again_and_again_is_an_error():
    with ScriptedServer(sessions=True) as server, Desk(McpServer("s", server.url)) as desk:
        desk.tools()
        server.on["tools/call"] = lambda exchange: exchange.send(404)
        assert "does not know the session" in desk.call(ECHO).transport_error
        assert len(server.got("tools/call")) == 2


def test_calls_side_by_side_share_the_new_session():
    with ScriptedServer(sessions=True) as server, Desk(McpServer("s", server.url)) as desk:
        desk.tools()
        server.live_sessions.clear()
        replies = [desk.ask_call(ECHO) for _ in range(6)]
        assert not any(reply.get(timeout=10).is_error for reply in replies)
        assert len(server.got("initialize")) == 2


def test_a_server_that_moved_to_new_headers_gets_them():
    plain = {"type": "object", "properties": {"region": {"type": "string"}}}
    annotated = json.loads(json.dumps(plain))
    annotated["properties"]["region"]["x-mcp-header"] = "Region"
    with ScriptedServer(tool("echo", inputSchema=plain)) as server:

        def demand(exchange: Exchange) -> None:
            if "mcp-param-region" in exchange.seen.headers:
                exchange.text("welcome")
            else:
                server.tools = [tool("echo", inputSchema=annotated)]
                exchange.error(-32020, "Header mismatch", 400)

        server.on["tools/call"] = demand
        with Desk(McpServer("s", server.url)) as desk:
            desk.tools()
            assert text_of(desk.call(ECHO, b'{"region": "north"}')) == "welcome"


# -- many calls


def test_calls_run_side_by_side_up_to_a_limit_and_wait_in_line(desk, server):
    go, running = threading.Event(), []

    def wait(exchange: Exchange) -> None:
        running.append(exchange.seen)
        go.wait(10)
        exchange.text("done")

    server.on["tools/call"] = wait
    replies = [desk.ask_call(ECHO, seconds=10) for _ in range(6)]
    eventually(lambda: len(running) == 4)
    # A fifth waits; its deadline holds there too.
    late = desk.call(ECHO, seconds=0.2)
    assert late.transport_error == "the server did not answer in time"
    assert len(running) == 4
    go.set()
    assert [text_of(reply.get(timeout=10)) for reply in replies] == ["done"] * 6
    assert len(running) == 6


def test_a_line_that_is_too_long_is_refused(desk, server):
    server.on["tools/call"] = Exchange.hang
    replies = [desk.ask_call(ECHO, seconds=0.8) for _ in range(70)]
    refused = [reply.get(timeout=10).transport_error for reply in replies]
    assert refused.count("too many calls wait for the server") == 2


# -- where requests go


def test_a_redirection_at_the_same_origin_is_followed(desk, server):
    def move(exchange: Exchange) -> None:
        if exchange.seen.path == "/mcp":
            exchange.send(307, Location="/mcp/")
        else:
            server.do(exchange)

    server.on["tools/call"] = move
    assert not desk.call(ECHO).is_error
    assert [seen.path for seen in server.got("tools/call")] == ["/mcp", "/mcp/"]


def test_a_redirection_elsewhere_is_not_followed_with_the_token(desk, server):
    with ScriptedServer() as elsewhere:
        server.on["tools/call"] = lambda exchange: exchange.send(307, Location=elsewhere.url)
        assert elsewhere.url in desk.call(ECHO).transport_error
        assert elsewhere.seen == []


def test_redirections_in_a_circle_end(desk, server):
    server.on["tools/call"] = lambda exchange: exchange.send(308, Location="/mcp")
    assert "more than 3 times" in desk.call(ECHO).transport_error


@pytest.fixture(scope="module")
def authority():
    return trustme.CA()


@pytest.fixture
def secured(authority):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    with ScriptedServer(sessions=True, tls=context) as server:
        yield server


def test_over_tls_it_is_the_same(secured, authority):
    with contextlib.ExitStack() as stack:
        ca_file = stack.enter_context(authority.cert_pem.tempfile())
        desk = stack.enter_context(Desk(McpServer("s", secured.url), ca_file=ca_file))
        assert desk.ids() == [ECHO]
        assert not desk.call(ECHO).is_error
        secured.on["tools/call"] = Exchange.hang
        begun = time.monotonic()
        assert desk.call(ECHO, seconds=0.3).is_error
        assert time.monotonic() - begun < 2
        eventually(lambda: secured.hung_up)


def test_a_certificate_that_nobody_knows_is_a_problem(secured):
    with Desk(McpServer("s", secured.url)) as desk:
        (problem,) = desk.tools().problems
        assert "certificate" in problem.message


def test_authorities_that_cannot_be_read_are_a_problem(secured):
    with Desk(McpServer("s", secured.url), ca_file="/does/not/exist") as desk:
        (problem,) = desk.tools().problems
        assert "/does/not/exist" in problem.message


# -- lists


def test_a_list_may_have_many_pages(server):
    server.tools = [tool(f"t{i}") for i in range(7)]
    server.page_size = 3
    with Desk(McpServer("s", server.url)) as desk:
        assert desk.ids() == [f"bmcp_s_t{i}" for i in range(7)]
        assert len(server.got("tools/list")) == 3


def test_a_list_that_goes_round_in_a_circle_ends(server):
    server.on["tools/list"] = lambda exchange: exchange.result(
        tools=[tool("echo")], nextCursor="again"
    )
    with Desk(McpServer("s", server.url)) as desk:
        tools = desk.tools()
        assert [one.id for one in tools.tools] == [ECHO]
        texts = [problem.message for problem in tools.problems]
        assert "tool 'echo' is there twice, the later one is used" in texts
        assert "the list of tools goes round in a circle" in texts


def test_an_endless_list_is_cut(server):
    def endless(exchange: Exchange) -> None:
        page = int(exchange.seen.params.get("cursor", "0"))
        names = [tool(f"t{page}-{i}") for i in range(400)]
        exchange.result(tools=names, nextCursor=str(page + 1))

    server.on["tools/list"] = endless
    with Desk(McpServer("s", server.url)) as desk:
        tools = desk.tools()
        assert len(tools.tools) == 1000
        assert "too long" in tools.problems[0].message


@pytest.mark.parametrize(
    "behaviour",
    [
        lambda exchange: exchange.send(500),
        lambda exchange: exchange.send(200, b"[", Content_Type="application/json"),
        lambda exchange: exchange.error(-32603, "broken"),
        Exchange.cut,
    ],
)
def test_a_list_that_cannot_be_had_is_a_problem_of_that_server(server, behaviour):
    server.on["tools/list"] = behaviour
    with ScriptedServer() as good:
        servers = (McpServer("s", server.url), McpServer("good", good.url))
        with Desk(*servers) as desk:
            tools = desk.tools()
            assert [one.id for one in tools.tools] == ["bmcp_good_echo"]
            assert [problem.server_id for problem in tools.problems] == ["s"]


def test_a_server_without_tools_has_none(server):
    def no_tools(exchange: Exchange) -> None:
        if exchange.seen.rpc == "initialize":
            exchange.result(protocolVersion="2025-11-25", capabilities={})
        elif server.sessions:
            exchange.send(404)
        else:
            exchange.result(supportedVersions=["2026-07-28"], capabilities={})

    server.on["server/discover"] = server.on["initialize"] = no_tools
    server.on["notifications/initialized"] = lambda exchange: exchange.send(202)
    with Desk(McpServer("s", server.url)) as desk:
        tools = desk.tools()
        assert (tools.tools, tools.problems) == ((), ())
        assert server.got("tools/list") == []
