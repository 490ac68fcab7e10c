"""The official Python SDK's server as a peer, in both of its ways to speak."""

from __future__ import annotations

import contextlib
import json
import time
from contextlib import AbstractContextManager
from typing import Any

import pytest
from mcp_desk import Desk
from mcp_process import SDK_SERVER, mcp_server
from mcp_scripted_server import eventually

from aigateway.actors.control.messages import McpServer


def sdk_server(*options: str) -> AbstractContextManager[str]:
    return mcp_server(SDK_SERVER, *options)


MODES = {
    "stateless": [],
    "stateless-json": ["--json"],
    "sessions": ["--sessions"],
    "sessions-json": ["--sessions", "--json"],
}


@pytest.fixture(scope="module", params=MODES.values(), ids=list(MODES))
def desk(request):
    with contextlib.ExitStack() as stack:
        url = stack.enter_context(sdk_server(*request.param, "--token", "t-1"))
        yield stack.enter_context(Desk(McpServer("sdk", url, token="t-1")))


def told(desk: Desk, tool: str, **arguments: Any) -> tuple[str, ...]:
    result = desk.call(f"bmcp_sdk_{tool}", json.dumps(arguments).encode())
    assert result.transport_error is None
    return result.as_texts().texts


def test_tools_are_found_with_their_schemas(desk):
    tools = desk.tools()
    assert tools.problems == ()
    found = tools.find("bmcp_sdk_add")
    assert found is not None
    assert found.description == "Add two numbers."
    schema = json.loads(found.input_schema)
    assert (schema["type"], schema["required"]) == ("object", ["a", "b"])


def test_tools_are_called(desk):
    assert told(desk, "add", a=2, b=3) == ("5",)
    result = desk.call("bmcp_sdk_add", b'{"a": 2, "b": 3}')
    assert json.loads(result.as_json())["structuredContent"] == {"result": 5}


def test_many_calls_run_side_by_side(desk):
    begun = time.monotonic()
    replies = [desk.ask_call("bmcp_sdk_slow", b'{"seconds": 0.3}') for _ in range(4)]
    assert not any(reply.get(timeout=10).is_error for reply in replies)
    assert time.monotonic() - begun < 1.2


def test_a_document_is_told_as_text(desk):
    assert told(desk, "document") == (
        "see",
        "Binary resource (MIME: text/plain, URI: file:///a.txt): inside",
    )


def test_a_tool_that_fails_says_so(desk):
    # Its server draws a traceback first, which takes a busy machine seconds.
    result = desk.call("bmcp_sdk_broken", seconds=60)
    assert (result.is_error, result.transport_error) == (True, None)
    assert "broken" in result.as_texts().texts[0]


def test_wrong_arguments_are_an_error_for_the_model(desk):
    result = desk.call("bmcp_sdk_add", b'{"a": "x"}')
    assert result.is_error


def test_a_call_that_takes_too_long_is_cut(desk):
    begun = time.monotonic()
    result = desk.call("bmcp_sdk_slow", b'{"seconds": 60}', seconds=0.5)
    assert result.transport_error == "the server did not answer in time"
    assert time.monotonic() - begun < 2
    assert told(desk, "add", a=1, b=1) == ("2",)


def test_arguments_travel_in_headers_where_the_server_wants_it(desk, request):
    (said,) = told(desk, "where", region="nörd")
    region, header, name = said.split()
    assert region == "nörd"
    if "stateless" in request.node.callspec.id:
        assert (header, name) == ("=?base64?bsO2cmQ=?=", "where")
    else:
        assert (header, name) == ("None", "None")


def test_a_new_tool_is_heard_of(desk):
    assert "bmcp_sdk_grown" not in desk.ids()
    # The stream of changes is opened after the tools were listed: ask until it is there.
    eventually(lambda: told(desk, "grow") and _appears(desk, "bmcp_sdk_grown"), timeout=20)
    assert told(desk, "grown", a=4, b=4) == ("8",)
    told(desk, "shrink")


def _appears(desk: Desk, tool_id: str) -> bool:
    end = time.monotonic() + 3
    while time.monotonic() < end:
        if tool_id in desk.ids():
            return True
        time.sleep(0.02)
    return False


def test_a_wrong_token_is_a_problem():
    with sdk_server("--token", "right") as url, Desk(McpServer("sdk", url, token="wrong")) as desk:
        (problem,) = desk.tools().problems
        assert "401" in problem.message


def test_an_interrupted_stream_is_continued():
    with sdk_server("--sessions", "--resumable") as url, Desk(McpServer("sdk", url)) as desk:
        desk.tools()
        assert told(desk, "interrupted") == ("after the interruption",)
