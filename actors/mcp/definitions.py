"""Read what servers say of their tools and what tools return, sans-IO.

A definition is kept as its server wrote it, if a tool can be made of it at all: what a provider
takes of it is decided where it is offered.  Arguments that a server wants repeated in headers are
found here too.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Iterable, Iterator, Mapping
from functools import lru_cache
from typing import Any

import msgspec
from attrs import frozen

from aigateway.actors.interception.schema_reading import UnusableSchema, read_schema
from aigateway.actors.mcp.errors import BadAnswer, quoted

__all__ = [
    "BadAnnotation",
    "CallOutcome",
    "ParamHeader",
    "ToolDefinition",
    "ToolsPage",
    "find_param_headers",
    "header_value",
    "param_header_fields",
    "read_call_result",
    "read_tools_page",
]

ANNOTATION = "x-mcp-header"

_TOKEN = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
"""A field name (RFC 9110 section 5.6.2)."""
_PLAIN = re.compile(r"(?:[!-~](?:[ -~]*[!-~])?)?")
"""Text that a field value carries unchanged."""
_ENCODED = re.compile(r"=\?base64\?.*\?=", re.DOTALL)
_PRIMITIVE = frozenset({"string", "integer", "boolean"})
_SAFE_INTEGER = 2**53 - 1

_ONE = ("items", "contains", "unevaluatedItems", "additionalProperties", "propertyNames",
        "unevaluatedProperties", "not", "if", "then", "else", "contentSchema")  # fmt: skip
_LISTS = ("allOf", "anyOf", "oneOf", "prefixItems")
_MAPS = ("patternProperties", "dependentSchemas", "$defs", "definitions")
"""Keywords of JSON Schema 2020-12 below which an annotation is not allowed."""


class BadAnnotation(Exception):
    """An ``x-mcp-header`` annotation breaks the rules; the tool must not be used."""


@frozen
class ParamHeader:
    """The argument at ``path`` travels in the header Mcp-Param-``name``."""

    path: tuple[str, ...]
    name: str


def find_param_headers(schema: Mapping[str, Any]) -> tuple[ParamHeader, ...]:
    """Return the annotations of an input schema.  Raises BadAnnotation."""
    found: dict[str, ParamHeader] = {}
    for path, part in _schemas(schema):
        if ANNOTATION not in part:
            continue
        if not path:
            raise BadAnnotation(f"{ANNOTATION} where only a chain of properties may lead")
        name, place = part[ANNOTATION], ".".join(path)
        if not isinstance(name, str) or not _TOKEN.fullmatch(name):
            raise BadAnnotation(f"{ANNOTATION} of property {place!r} is not a header name")
        kind = part.get("type")
        if not isinstance(kind, str) or kind not in _PRIMITIVE:
            raise BadAnnotation(f"{ANNOTATION} on property {place!r}, which is not primitive")
        if name.lower() in found:
            raise BadAnnotation(f"{ANNOTATION} {name!r} is there twice")
        found[name.lower()] = ParamHeader(path, name)
    return tuple(found.values())


def param_header_fields(
    headers: Iterable[ParamHeader], arguments: Mapping[str, Any]
) -> Iterator[tuple[str, str]]:
    """The header fields for these arguments; an argument that is not there has none."""
    for header in headers:
        value: Any = arguments
        for key in header.path:
            value = value.get(key) if isinstance(value, Mapping) else None
        text = _as_text(value)
        if text is not None:
            yield f"Mcp-Param-{header.name}", header_value(text)


def header_value(text: str) -> str:
    """Return ``text`` so that a header field can carry it ("Value Encoding")."""
    if _PLAIN.fullmatch(text) and not _ENCODED.fullmatch(text):
        return text
    return f"=?base64?{base64.b64encode(text.encode()).decode('ascii')}?="


def _as_text(value: object) -> str | None:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, int):
        return str(value) if -_SAFE_INTEGER <= value <= _SAFE_INTEGER else None
    return value if isinstance(value, str) else None


def _schemas(root: Mapping[str, Any]) -> Iterator[tuple[tuple[str, ...], Mapping[str, Any]]]:
    """Every schema inside ``root``, with its path when only properties lead to it.

    The path of the root and of all that is reached in another way is empty.  References are
    not followed, so this ends.
    """
    todo: list[tuple[tuple[str, ...] | None, Any]] = [((), root)]
    while todo:
        path, part = todo.pop()
        if not isinstance(part, Mapping):
            continue
        yield path or (), part
        properties = part.get("properties")
        if isinstance(properties, Mapping):
            for key, inner in properties.items():
                todo.append((None if path is None else (*path, key), inner))
        todo += [(None, part[word]) for word in _ONE if word in part]
        for word in _LISTS:
            if isinstance(part.get(word), list):
                todo += [(None, inner) for inner in part[word]]
        for word in _MAPS:
            if isinstance(part.get(word), Mapping):
                todo += [(None, inner) for inner in part[word].values()]


KEPT = 2048
"""Schemas of which it is known whether they can be used."""
NAME_LIMIT = 256
"""Characters of a tool's name.  The standard says up to 128 (2026-07-28, "Tool Names")."""


@frozen
class ToolDefinition:
    """A tool as its server describes it."""

    name: str
    description: str
    input_schema: bytes
    """JSON, as the server wrote it: a schema of objects."""
    param_headers: tuple[ParamHeader, ...] = ()
    """Arguments that the server wants to see in headers too (since 2026-07-28)."""


@frozen
class ToolsPage:
    """One page of tools/list."""

    tools: tuple[ToolDefinition, ...]
    next_cursor: str | None
    problems: tuple[str, ...]
    """Why some tools of the page were left out."""


@frozen
class CallOutcome:
    """The result of tools/call: ``content`` and ``structured_content`` are raw JSON."""

    content: bytes = b"[]"
    """An array of content blocks."""
    structured_content: bytes | None = None
    is_error: bool = False


class _Execution(msgspec.Struct, rename="camel"):
    task_support: str | None = None


class _Tool(msgspec.Struct, rename="camel"):
    name: str
    description: str | None = None
    input_schema: msgspec.Raw = msgspec.Raw(b"{}")
    execution: _Execution | None = None


class _Page(msgspec.Struct, rename="camel"):
    tools: list[msgspec.Raw]
    next_cursor: str | None = None
    result_type: str = "complete"


class _CallResult(msgspec.Struct, rename="camel"):
    content: msgspec.Raw = msgspec.Raw(b"")
    structured_content: msgspec.Raw = msgspec.Raw(b"")
    is_error: bool = False
    result_type: str = "complete"


_FAULTS = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)


def read_tools_page(result: bytes, *, mirror_params: bool) -> ToolsPage:
    """Read the result of tools/list.  Raises BadAnswer.

    ``mirror_params``: the session's revision knows ``x-mcp-header`` annotations.  A tool that
    cannot be used is left out and named in ``problems``.
    """
    try:
        page = msgspec.json.decode(result, type=_Page)
    except _FAULTS as ex:
        raise BadAnswer(f"the server's list of tools cannot be read: {ex}") from ex
    _check_complete(page.result_type)
    tools, problems = [], []
    for raw in page.tools:
        try:
            tools.append(_definition(raw, mirror_params))
        except _Unusable as ex:
            problems.append(str(ex))
    return ToolsPage(tuple(tools), page.next_cursor or None, tuple(problems))


def read_call_result(result: bytes) -> CallOutcome:
    """Read the result of tools/call.  Raises BadAnswer."""
    try:
        # The whole of it once: what is passed on raw must be valid down to its last string.
        msgspec.json.decode(result)
        read = msgspec.json.decode(result, type=_CallResult)
        content = bytes(read.content) or b"[]"
        blocks = msgspec.json.decode(content, type=list[dict[str, Any]] | None)
    except _FAULTS as ex:
        raise BadAnswer(f"the tool's result cannot be read: {ex}") from ex
    _check_complete(read.result_type)
    structured = bytes(read.structured_content)
    return CallOutcome(
        content=content if blocks is not None else b"[]",
        structured_content=structured if structured not in (b"", b"null") else None,
        is_error=read.is_error,
    )


class _Unusable(Exception):
    pass


def _check_complete(result_type: str) -> None:
    if result_type == "input_required":
        raise BadAnswer("the tool asks for more input, which the gateway cannot give")
    if result_type != "complete":
        raise BadAnswer(f"the server gave a result of the unknown type {quoted(result_type)!r}")


def _definition(raw: msgspec.Raw, mirror_params: bool) -> ToolDefinition:
    try:
        tool = msgspec.json.decode(raw, type=_Tool)
        # The whole of it once: what is passed on raw must be valid down to its last string.
        schema: Any = msgspec.json.decode(raw).get("inputSchema", {})
    except _FAULTS as ex:
        raise _Unusable(f"a tool's definition cannot be read: {ex}") from ex
    name = tool.name
    if not name or len(name) > NAME_LIMIT or not name.isprintable():
        raise _Unusable(f"tool {quoted(name)[:NAME_LIMIT]!r}: not a usable name")
    if tool.execution is not None and tool.execution.task_support == "required":
        raise _Unusable(f"tool {name!r} can only be run as a task, which the gateway cannot")
    problem = _problem_of(bytes(tool.input_schema))
    if problem:
        raise _Unusable(f"tool {name!r}: {problem}")
    try:
        annotated = mirror_params and isinstance(schema, dict)
        headers = find_param_headers(schema) if annotated else ()
    except BadAnnotation as ex:
        raise _Unusable(f"tool {name!r}: {ex}") from ex
    return ToolDefinition(name, tool.description or "", bytes(tool.input_schema), headers)


@lru_cache(KEPT)
def _problem_of(schema: bytes) -> str:
    """Why nothing can be made of a schema; empty: something can.

    PERF: each user's session lists the same definitions again and again.
    """
    try:
        read_schema(msgspec.json.decode(schema))
    except UnusableSchema as ex:
        return str(ex)
    return ""
