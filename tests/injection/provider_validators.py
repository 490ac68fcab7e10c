"""What Anthropic, OpenAI and Google say that they refuse in definitions of tools.

Each function returns the refusals of one definition, in the providers' words where these are
known, from their references and from the errors that they answer.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from jsonschema import Draft202012Validator
from jsonschema.exceptions import SchemaError

__all__ = ["VALIDATORS", "subschemas"]

_KEY = re.compile(r"^[a-zA-Z0-9_.-]{1,64}$")
_TYPES = {
    "string": str, "boolean": bool, "object": dict, "array": list, "null": type(None),
    "integer": int, "number": (int, float),
}  # fmt: skip


def subschemas(schema: Any, where: str = "$") -> Iterator[tuple[str, Any]]:
    """Every schema in a schema, with its place."""
    yield where, schema
    if not isinstance(schema, dict):
        return
    for word in ("properties", "patternProperties", "$defs", "definitions", "dependentSchemas"):
        if isinstance(schema.get(word), dict):
            for key, inner in schema[word].items():
                yield from subschemas(inner, f"{where}.{word}[{key!r}]")
    for word in ("anyOf", "oneOf", "allOf", "prefixItems"):
        if isinstance(schema.get(word), list):
            for number, inner in enumerate(schema[word]):
                yield from subschemas(inner, f"{where}.{word}[{number}]")
    for word in ("items", "additionalProperties", "not", "if", "then", "else", "contains",
                 "propertyNames", "unevaluatedProperties", "unevaluatedItems"):  # fmt: skip
        if word in schema:
            yield from subschemas(schema[word], f"{where}.{word}")


def _is_a(value: Any, kind: str) -> bool:
    if isinstance(value, bool):
        return kind == "boolean"
    return kind in _TYPES and isinstance(value, _TYPES[kind])


def anthropic(name: str, description: str, schema: Any) -> Iterator[str]:
    del description
    if not re.fullmatch(r"[a-zA-Z0-9_-]{1,64}", name):
        yield "name: String should match pattern"
    if not isinstance(schema, dict) or schema.get("type") != "object":
        yield "input_schema.type: Input should be 'object'"
        return
    if schema.keys() & {"oneOf", "allOf", "anyOf"}:
        yield "input_schema does not support oneOf, allOf, or anyOf at the top level"
    try:
        Draft202012Validator.check_schema(schema)
    except SchemaError as ex:
        yield f"JSON schema is invalid. It must match JSON Schema draft 2020-12 ({ex.message})"
    for where, part in subschemas(schema):
        if isinstance(part, dict) and isinstance(part.get("properties"), dict):
            for key in part["properties"]:
                if not _KEY.fullmatch(key):
                    yield f"{where}: Property keys should match pattern ({key!r})"
        if isinstance(part, dict) and "$ref" in part:
            yield f"{where}: a reference that may lead nowhere"


def openai(name: str, description: str, schema: Any) -> Iterator[str]:
    if len(description) > 1024:
        yield "description: string too long. Expected a string with maximum length 1024"
    yield from anthropic(name, "", schema)
    if not isinstance(schema, dict):
        return
    if schema.keys() & {"enum", "not", "const"}:
        yield "schema must have type 'object' and not have 'enum' or 'not' at the top level"
    if "properties" not in schema:
        yield "object schema missing properties"
    for where, part in subschemas(schema):
        if not isinstance(part, dict):
            if where.endswith("additionalProperties"):
                continue
            yield f"{where}: {part!r} is not of type 'object'"
            continue
        given = part.get("type", [])
        types = given if isinstance(given, list) else [given]
        if "array" in types and "items" not in part:
            yield f"{where}: array schema missing items"
        for value in part.get("enum", ()):
            if types and not any(_is_a(value, kind) for kind in types):
                yield f"{where}: enum value {value!r} does not validate against {given!r}"
        if part.get("enum") == []:
            yield f"{where}: [] is too short"
        if isinstance(part.get("pattern"), str):
            if "(?" in part["pattern"].replace("(?:", ""):
                yield f"{where}: regex lookaround is not supported"
            re.compile(part["pattern"])
        if not isinstance(part.get("properties", {}), dict):
            continue
        missing = set(part.get("required") or ()) - part.get("properties", {}).keys()
        if missing:
            yield f"{where}: required names what is not there: {missing}"


_FIELDS = {
    "type", "format", "title", "description", "nullable", "enum", "maxItems", "minItems",
    "properties", "required", "minProperties", "maxProperties", "minLength", "maxLength",
    "pattern", "example", "anyOf", "propertyOrdering", "default", "items", "minimum", "maximum",
}  # fmt: skip
_FORMATS = {
    "string": {"enum", "date-time"},
    "integer": {"int32", "int64"},
    "number": {"float", "double"},
}


def gemini(name: str, description: str, schema: Any) -> Iterator[str]:
    del description
    if not re.fullmatch(r"[a-zA-Z_][a-zA-Z0-9_.:-]{0,63}", name):
        yield "Invalid function name"
    if not isinstance(schema, dict) or schema.get("type") != "object":
        yield "parameters schema should be of type OBJECT"
        return
    for where, part in subschemas(schema):
        if not isinstance(part, dict):
            yield f"{where}: Proto field is not a message"
            continue
        for word in part.keys() - _FIELDS:
            yield f'{where}: Invalid JSON payload received. Unknown name "{word}"'
        kind = part.get("type")
        if "anyOf" in part:
            if set(part) != {"anyOf"}:
                yield f"{where}: when using any_of, it must be the only field set"
            continue
        if not isinstance(kind, str) or kind not in {*_TYPES} - {"null"}:
            yield f"{where}: Invalid value at type: {kind!r}"
            continue
        if kind == "object" and where != "$" and not part.get("properties"):
            yield f"{where}: should be non-empty for OBJECT type"
        if kind != "object" and part.keys() & {"properties", "required"}:
            yield f"{where}: only allowed for OBJECT type"
        if kind == "array" and not part.get("items"):
            yield f"{where}: items: missing field"
        if kind != "array" and "items" in part:
            yield f"{where}: items: only allowed for ARRAY type"
        if "enum" in part:
            if kind != "string":
                yield f"{where}: enum: only allowed for STRING type"
            if not part["enum"] or not all(isinstance(v, str) and v for v in part["enum"]):
                yield f"{where}: enum: cannot be empty"
        if "format" in part and part["format"] not in _FORMATS.get(kind, ()):
            yield f"{where}: format: {part['format']} is not supported for {kind}"
        if not isinstance(part.get("properties", {}), dict):
            yield f"{where}: properties: Proto field is not a map"
            continue
        if set(part.get("required") or ()) - part.get("properties", {}).keys():
            yield f"{where}: required: property is not defined"
        for key in part.get("properties", {}):
            if not re.fullmatch(r"[a-zA-Z_][a-zA-Z0-9_.-]{0,63}", key):
                yield f"{where}: Invalid parameter name {key!r}"


VALIDATORS = {"anthropic": anthropic, "openai": openai, "gemini": gemini}
"""By the names of the rules."""
