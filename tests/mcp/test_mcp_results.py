"""What a model is told of a call."""

from __future__ import annotations

import json
from typing import Any

import pytest

from aigateway.actors.values.tools import ToolResult


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


def test_nothing_is_an_empty_success_unless_there_is_structured_content():
    told = result().as_texts()
    assert (told.texts, told.is_error) == ((), False)
    told = result(structured_content=b'{"n": 1}').as_texts()
    assert (told.texts, told.is_error) == (('{"n": 1}',), False)


def test_empty_texts_are_dropped():
    told = result({"type": "text", "text": ""}, TEXT, {"type": "text", "text": " \n"}).as_texts()
    assert told.texts == ("hello",)
    assert result({"type": "text", "text": ""}).as_texts().texts == ()


def test_a_tool_that_fails_without_a_word_is_an_error_with_one():
    told = result(is_error=True).as_texts()
    assert (len(told.texts), told.is_error) == (1, True)
    assert "did not say why" in told.texts[0]


def test_no_result_at_all_is_an_error_with_its_reason():
    failed = ToolResult(tool="t", is_error=True, transport_error="it is away")
    assert failed.as_texts().texts == ("Error: calling tool: it is away",)
    assert failed.as_texts().is_error
    assert json.loads(failed.as_json()) == {"error": True, "message": "it is away"}


def test_a_result_as_json_is_what_the_server_said():
    assert result(TEXT).as_json() == b'{"content":[{"type": "text", "text": "hello"}]}'
    full = result(TEXT, is_error=True, structured_content=b'{"n":1}').as_json()
    assert json.loads(full) == {"content": [TEXT], "structuredContent": {"n": 1}, "isError": True}


# -- long results


def test_a_result_that_is_short_enough_stays_the_same():
    short = result(TEXT, structured_content=b'{"n": 1}')
    assert short.within(1000) is short


@pytest.mark.parametrize("char", ["a", "é", "世", "😀"])
@pytest.mark.parametrize("limit", [0, 1, 2, 3, 4, 5, 99, 100, 101])
def test_a_long_text_is_cut_between_characters_and_the_model_is_told(char: str, limit: int):
    cut = result({"type": "text", "text": char * 200}).within(limit)
    *kept, note = cut.as_texts().texts
    assert "".join(kept) == char * (limit // len(char.encode()))
    assert f"{len(''.join(kept).encode())} bytes of about" in note
    assert "too long" in note


def test_what_comes_first_is_kept_and_what_cannot_be_cut_is_left_out():
    blocks = (
        {"type": "text", "text": "a" * 10},
        {"type": "image", "data": "A" * 500, "mimeType": "image/png"},
        resource(uri="file:///a", text="b" * 50),
    )
    cut = json.loads(result(*blocks, structured_content=b'{"same": "again"}').within(40).content)
    assert cut[0] == blocks[0]
    assert cut[1]["resource"] == {"uri": "file:///a", "text": "b" * 30}
    assert "40 bytes of about" in cut[2]["text"]
    assert len(cut) == 3


def test_structured_content_alone_is_cut_as_the_text_it_is():
    long = result(structured_content=json.dumps({"rows": ["x" * 100]}).encode()).within(20)
    assert long.structured_content is None
    assert long.as_texts().texts[0] == '{"rows": ["xxxxxxxxx'


def test_that_a_tool_failed_is_not_lost_by_the_cut():
    failed = result({"type": "text", "text": "x" * 100}, is_error=True).within(10)
    assert failed.is_error
    assert failed.as_texts().is_error
