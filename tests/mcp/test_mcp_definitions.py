"""Definitions and results of servers are read."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aigateway.actors.mcp.definitions import (
    BadAnnotation,
    ParamHeader,
    find_param_headers,
    header_value,
    param_header_fields,
    read_call_result,
    read_tools_page,
)
from aigateway.actors.mcp.errors import BadAnswer

any_json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=8,
)


def page(*tools: Any, **more: Any) -> bytes:
    return json.dumps({"tools": tools, **more}).encode()


def tool(name: Any = "t", **more: Any) -> dict[str, Any]:
    return {"name": name, "inputSchema": {"type": "object"}, **more}


def read_one(definition: Any, *, mirror_params: bool = True) -> Any:
    found = read_tools_page(page(definition), mirror_params=mirror_params)
    assert found.problems == ()
    return found.tools[0]


# -- lists of tools


def test_a_page_has_tools_and_a_way_to_the_next():
    found = read_tools_page(
        page(tool("a", description="A."), tool("b"), nextCursor="c2"), mirror_params=True
    )
    assert [(t.name, t.description) for t in found.tools] == [("a", "A."), ("b", "")]
    assert found.next_cursor == "c2"
    assert read_tools_page(page(nextCursor=""), mirror_params=True).next_cursor is None


def test_a_schema_is_kept_as_its_server_wrote_it():
    definition = (
        b'{"tools": [{"name": "t", "inputSchema": {"$schema": "x",  "oneOf": [{}],'
        b' "properties": {"$top": {"type":  "string"}}}}]}'
    )
    schema = read_tools_page(definition, mirror_params=True).tools[0].input_schema
    assert schema == (
        b'{"$schema": "x",  "oneOf": [{}], "properties": {"$top": {"type":  "string"}}}'
    )


@pytest.mark.parametrize("schema", [None, True, {}, {"type": ["object", "null"]}])
def test_a_schema_that_says_little_is_read(schema):
    assert json.loads(read_one(tool(inputSchema=schema)).input_schema) == schema


def test_a_tool_without_a_schema_takes_nothing():
    assert read_one({"name": "t"}).input_schema == b"{}"


@pytest.mark.parametrize(
    ("definition", "problem"),
    [
        (5, "cannot be read"),
        ({"description": "no name"}, "cannot be read"),
        (tool(inputSchema=5), "is not an object"),
        (tool(""), "not a usable name"),
        (tool("x" * 257), "not a usable name"),
        (tool("a\nb"), "not a usable name"),
        (tool(execution={"taskSupport": "required"}), "as a task"),
        (tool(inputSchema={"type": "array"}), "type of its input schema"),
        (tool(inputSchema={"anyOf": [{"type": "string"}]}), "type of its input schema"),
        (tool(inputSchema={"x-mcp-header": "A"}), "x-mcp-header"),
    ],
)
def test_a_tool_that_cannot_be_used_costs_only_itself(definition, problem):
    found = read_tools_page(page(tool("good"), definition), mirror_params=True)
    assert [t.name for t in found.tools] == ["good"]
    assert problem in found.problems[0]


def test_a_tool_that_may_be_run_as_a_task_can_be_called():
    assert read_one(tool(execution={"taskSupport": "optional"})).name == "t"


def test_annotations_mean_nothing_before_the_revision_that_defines_them():
    definition = tool(inputSchema={"x-mcp-header": 5})
    assert read_one(definition, mirror_params=False).param_headers == ()


@pytest.mark.parametrize(
    "body", [b"{}", b"[]", b'{"tools": 5}', b'{"tools": [], "resultType": "x"}']
)
def test_what_is_no_page_is_refused(body):
    with pytest.raises(BadAnswer):
        read_tools_page(body, mirror_params=True)


@given(st.lists(st.fixed_dictionaries({"name": any_json, "inputSchema": any_json}), max_size=3))
def test_any_definition_is_either_read_or_a_problem(definitions):
    found = read_tools_page(page(*definitions), mirror_params=True)
    assert len(found.tools) + len(found.problems) == len(definitions)


# -- results of calls


def test_a_result_is_kept_as_it_was_written():
    outcome = read_call_result(
        b'{"content": [{"type": "text",  "text": "\\u00e9"}], "structuredContent": {"n": 1.0},'
        b' "isError": true, "_meta": {}}'
    )
    assert outcome.content == b'[{"type": "text",  "text": "\\u00e9"}]'
    assert outcome.structured_content == b'{"n": 1.0}'
    assert outcome.is_error


@pytest.mark.parametrize("body", [b"{}", b'{"content": null, "structuredContent": null}'])
def test_a_result_may_be_empty(body):
    outcome = read_call_result(body)
    assert (outcome.content, outcome.structured_content) == (b"[]", None)
    assert not outcome.is_error


@pytest.mark.parametrize(
    ("body", "text"),
    [
        (b"[]", "cannot be read"),
        (b'{"content": {}}', "cannot be read"),
        (b'{"content": ["x"]}', "cannot be read"),
        (b'{"content": [{"text": "\xff"}]}', "cannot be read"),
        (b'{"content": [{"text": "\\ud800"}]}', "cannot be read"),
        (b'{"resultType": "input_required"}', "asks for more input"),
        (b'{"resultType": "task"}', "unknown type 'task'"),
    ],
)
def test_a_result_that_cannot_be_used_is_refused(body, text):
    with pytest.raises(BadAnswer, match=text):
        read_call_result(body)


# -- arguments in headers


def annotated(name: Any = "Region", kind: Any = "string") -> dict[str, Any]:
    return {"type": kind, "x-mcp-header": name}


def test_annotations_are_found_along_chains_of_properties():
    schema = {
        "properties": {
            "a": annotated(),
            "b": {"type": "object", "properties": {"c": annotated("Depth", "integer")}},
            "d": {"default": annotated("NotASchema")},
        }
    }
    assert set(find_param_headers(schema)) == {
        ParamHeader(("a",), "Region"),
        ParamHeader(("b", "c"), "Depth"),
    }


@pytest.mark.parametrize(
    "schema",
    [
        annotated(),
        {"properties": {"a": {"items": annotated()}}},
        {"properties": {"a": {"anyOf": [annotated()]}}},
        {"$defs": {"D": annotated()}},
        {"$defs": {"D": {"properties": {"a": annotated()}}}},
        {"properties": {"a": annotated("")}},
        {"properties": {"a": annotated("a b")}},
        {"properties": {"a": annotated("a\r\nb")}},
        {"properties": {"a": annotated(5)}},
        {"properties": {"a": annotated(kind="number")}},
        {"properties": {"a": annotated(kind=["string"])}},
        {"properties": {"a": annotated("X"), "b": annotated("x")}},
    ],
)
def test_annotations_that_break_the_rules_are_refused(schema):
    with pytest.raises(BadAnnotation):
        find_param_headers(schema)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("north", "north"),
        (42, "42"),
        (42.0, "42"),
        (True, "true"),
        (False, "false"),
        ("", ""),
        (None, None),
        (1.5, None),
        (2**53, None),
        ({"x": 1}, None),
    ],
)
def test_arguments_become_header_values(value, text):
    headers = dict(param_header_fields([ParamHeader(("p", "a"), "A")], {"p": {"a": value}}))
    assert headers.get("Mcp-Param-A") == text


@pytest.mark.parametrize("arguments", [{}, {"p": 5}, {"p": {}}])
def test_an_argument_that_is_not_there_has_no_header(arguments):
    assert list(param_header_fields([ParamHeader(("p", "a"), "A")], arguments)) == []


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("us-west1", "us-west1"),
        ("two words", "two words"),
        ("Hello, 世界", "=?base64?SGVsbG8sIOS4lueVjA==?="),
        (" padded ", "=?base64?IHBhZGRlZCA=?="),
        ("line1\nline2", "=?base64?bGluZTEKbGluZTI=?="),
        ("=?base64?literal?=", "=?base64?PT9iYXNlNjQ/bGl0ZXJhbD89?="),
    ],
)
def test_header_values_are_encoded_as_the_standard_shows(text, value):
    assert header_value(text) == value
