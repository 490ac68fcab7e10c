"""The reference server "everything", written with the TypeScript SDK, as a peer."""

from __future__ import annotations

import contextlib
import json
import time
from typing import Any

import pytest
from mcp_desk import Desk
from mcp_everything_server import address, everything

from aigateway.actors.control.messages import McpServer
from aigateway.actors.mcp import GetMcpState


@pytest.fixture(scope="module")
def desk():
    with contextlib.ExitStack() as stack:
        port = stack.enter_context(everything())
        config = McpServer("everything", address(port), tool_deny_regex="^(toggle|gzip)")
        yield stack.enter_context(Desk(config))


def call(desk: Desk, tool: str, seconds: float = 5, **arguments: Any):
    return desk.call(f"bmcp_everything_{tool}", json.dumps(arguments).encode(), seconds)


def test_its_tools_are_found_but_for_those_that_cannot_be_used(desk):
    tools = desk.tools()
    ids = [tool.id for tool in tools.tools]
    assert "bmcp_everything_echo" in ids
    assert not any("toggle" in one or "gzip" in one for one in ids)
    assert [problem.message for problem in tools.problems] == [
        "tool 'simulate-research-query' can only be run as a task, which the gateway cannot"
    ]
    echo = tools.find("bmcp_everything_echo")
    assert echo is not None
    assert json.loads(echo.input_schema)["required"] == ["message"]


def test_its_tools_are_called(desk):
    assert call(desk, "echo", message="grüß dich").as_texts().texts == ("Echo: grüß dich",)
    assert call(desk, "get-sum", a=2, b=3).as_texts().texts == ("The sum of 2 and 3 is 5.",)


def test_structured_content_is_kept(desk):
    result = call(desk, "get-structured-content", location="Chicago")
    assert result.structured_content is not None
    assert json.loads(result.structured_content)["conditions"] == "Light rain / drizzle"


def test_an_image_is_kept_for_those_who_take_it(desk):
    result = call(desk, "get-tiny-image")
    kinds = [block["type"] for block in json.loads(result.as_json())["content"]]
    assert kinds == ["text", "image", "text"]
    assert result.as_texts().is_error


def test_a_resource_is_told_as_text(desk):
    result = call(desk, "get-resource-reference", resourceType="Text", resourceId=1)
    assert any("Binary resource (MIME: text/plain" in text for text in result.as_texts().texts)


def test_wrong_arguments_are_an_error_for_the_model(desk):
    assert call(desk, "get-sum", a="x").is_error


def test_a_long_operation_is_cut_while_others_go_on(desk):
    begun = time.monotonic()
    long = desk.ask_call(
        "bmcp_everything_trigger-long-running-operation", b'{"duration": 30, "steps": 3}', 0.5
    )
    assert not call(desk, "echo", message="meanwhile").is_error
    assert long.get(timeout=5).transport_error == "the server did not answer in time"
    assert time.monotonic() - begun < 3


def test_its_changes_are_listened_to(desk):
    desk.tools()
    assert desk.mcp.ask(GetMcpState()).listeners == 1


def test_after_its_restart_a_call_opens_a_new_session():
    with contextlib.ExitStack() as stack:
        with everything() as port:
            desk = stack.enter_context(Desk(McpServer("everything", address(port))))
            assert not call(desk, "echo", message="before").is_error
        with everything(port):
            assert call(desk, "echo", message="after").as_texts().texts == ("Echo: after",)
