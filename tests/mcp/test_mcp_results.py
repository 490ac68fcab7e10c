"""What a model is told of a call."""

from __future__ import annotations

import json
from typing import Any

import pytest

from aigateway.actors.mcp import ToolResult


def result(*blocks: Any, **more: Any) -> ToolResult:
    return ToolResult(tool="t", content=json.dumps(blocks).encode(), **more)


def resource(**fields: Any) -> dict[str, Any]:
    return {"type": "resource", "resource": fields}


TEXT = {"type": "text", "text": "hello"}


def test_texts_and_resources_become_texts():
    told = result(
        TEXT,
        resource(uri="file:///a", mimeType="text/plain", text="inside"),
        resource(uri="file:///b", blob="AAEC"),
    ).as_texts()
    assert told.texts == (
        "hello",
        "Binary resource (MIME: text/plain, URI: file:///a): inside",
        "Binary resource (MIME: , URI: file:///b): AAEC",
    )
    assert not told.is_error


@pytest.mark.parametrize(
    ("block", "text"),
    [
        ({"type": "image", "data": "AA", "mimeType": "image/png"}, "unsupported tool result type"),
        ({"type": "audio"}, "unsupported tool result type"),
        ({"type": "resource_link"}, "unsupported tool result type"),
        ({"type": "text"}, "unsupported tool result type"),
        ({}, "unsupported tool result type"),
        (resource(uri="x"), "unknown embedded resource type"),
        ({"type": "resource"}, "embedded resource with no contents"),
    ],
)
def test_what_is_no_text_is_an_error_beside_what_is(block, text):
    told = result(TEXT, block).as_texts()
    assert told.texts == ("hello", f"Error: {text}")
    assert told.is_error


def test_the_word_of_the_tool_that_it_failed_is_passed_on():
    assert result(TEXT, is_error=True).as_texts().is_error


def test_nothing_is_an_error_unless_there_is_structured_content():
    told = result().as_texts()
    assert (told.texts, told.is_error) == (("Error: no valid tool result content",), True)
    told = result(structured_content=b'{"n": 1}').as_texts()
    assert (told.texts, told.is_error) == (('{"n": 1}',), False)


def test_no_result_at_all_is_an_error_with_its_reason():
    failed = ToolResult(tool="t", is_error=True, transport_error="it is away")
    assert failed.as_texts().texts == ("Error: calling tool: it is away",)
    assert failed.as_texts().is_error
    assert json.loads(failed.as_json()) == {"error": True, "message": "it is away"}


def test_a_result_as_json_is_what_the_server_said():
    assert result(TEXT).as_json() == b'{"content":[{"type": "text", "text": "hello"}]}'
    full = result(TEXT, is_error=True, structured_content=b'{"n":1}').as_json()
    assert json.loads(full) == {"content": [TEXT], "structuredContent": {"n": 1}, "isError": True}
