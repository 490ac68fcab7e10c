"""Arguments that a server wants to see in HTTP headers too, sans-IO.

Since revision 2026-07-28 a property of a tool's input schema may carry ``x-mcp-header``; the
argument at that place is then sent as ``Mcp-Param-<name>`` as well ("Custom Headers from
Tool Parameters").  A definition that breaks the rules for these must not be used.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from attrs import frozen

__all__ = [
    "BadAnnotation",
    "ParamHeader",
    "find_param_headers",
    "header_value",
    "param_header_fields",
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


def _as_text(value: Any) -> str | None:
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
