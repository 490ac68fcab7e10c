"""Input schemas in the manner of real MCP servers: made up, with what each kind is known for."""

from __future__ import annotations

from typing import Any

__all__ = ["SERVERS"]

_OBJECT = "object"


def _object(properties: dict[str, Any], *required: str, **more: Any) -> dict[str, Any]:
    made: dict[str, Any] = {"type": _OBJECT, "properties": properties}
    if required:
        made["required"] = list(required)
    return {**made, **more}


_TEXT = {"type": "string"}

SERVERS: dict[str, dict[str, Any]] = {
    # Plain, with enums, bounds and nested arrays of objects.
    "github": _object(
        {
            "owner": _TEXT,
            "state": {"type": "string", "enum": ["open", "closed", "all"]},
            "perPage": {"type": "number", "minimum": 1, "maximum": 100},
            "files": {
                "type": "array",
                "items": _object({"path": _TEXT, "content": _TEXT}, "path", "content"),
            },
        },
        "owner",
    ),
    # Free-form fields, arrays without items, "any".
    "jira": _object(
        {
            "issueIdOrKey": _TEXT,
            "fields": {"type": "any", "description": "Fields by their ids."},
            "labels": {"type": "array"},
            "update": {"type": "object", "additionalProperties": {"type": "array"}},
        },
        "issueIdOrKey",
        "transition",
    ),
    # OData's parameters, and annotations with "@" inside a body.
    "microsoft-graph": _object(
        {
            "$top": {"type": "integer"},
            "$filter": {"type": "string"},
            "$select": {"type": "array", "items": _TEXT},
            "body": _object({"@odata.type": _TEXT, "displayName": _TEXT}, "@odata.type"),
            "top": {"type": "string"},
        },
        "$top",
    ),
    # Filters that contain themselves, by reference.
    "notion": {
        "type": "object",
        "properties": {"filter": {"$ref": "#/$defs/filter"}, "data": {"$ref": "#/$defs/data"}},
        "$defs": {
            "filter": {
                "anyOf": [
                    _object({"and": {"type": "array", "items": {"$ref": "#/$defs/filter"}}}),
                    _object({"property": _TEXT, "title": {"$ref": "#/$defs/text"}}, "property"),
                ]
            },
            "text": _object({"equals": _TEXT, "contains": _TEXT}),
            "data": {"type": ["object", "string"], "properties": {"a b": _TEXT}},
        },
    },
    # A union at the root, told apart by a constant.
    "slack": {
        "oneOf": [
            _object({"kind": {"const": "channel"}, "channel": _TEXT}, "kind", "channel"),
            _object({"kind": {"const": "user"}, "user_id": _TEXT}, "kind", "user_id"),
        ]
    },
    # Form encoding: brackets in keys, metadata of any kind.
    "stripe": _object(
        {
            "expand[]": {"type": "array", "items": _TEXT},
            "created[gte]": {"type": "integer"},
            "created[lte]": {"type": "integer"},
            "metadata": {"type": "object"},
        }
    ),
    # No properties at all, and one tool that is only text.
    "postgres": {"type": "object"},
    # zod: $schema, additionalProperties, a default.
    "filesystem": _object(
        {
            "path": _TEXT,
            "edits": {"type": "array", "items": _object({"oldText": _TEXT, "newText": _TEXT})},
            "dryRun": {"type": "boolean", "default": False},
        },
        "path",
        additionalProperties=False,
        **{"$schema": "http://json-schema.org/draft-07/schema#"},
    ),
    # zod 4: the newer draft's $schema, tuples, patterns with look-ahead.
    "playwright": _object(
        {
            "position": {"type": "array", "prefixItems": [{"type": "number"}, {"type": "number"}]},
            "old": {"type": "array", "items": [{"type": "number"}, _TEXT], "minItems": 2},
            "url": {"type": "string", "pattern": r"^(?!javascript:)https?://"},
            "modifiers": {"type": "array", "items": {"enum": ["Alt", "Shift"]}},
        },
        **{"$schema": "https://json-schema.org/draft/2020-12/schema"},
    ),
    # Either of two, said by what is required.
    "sentry": _object(
        {"issueUrl": _TEXT, "organizationSlug": _TEXT, "issueId": {"type": ["string", "null"]}},
        anyOf=[{"required": ["issueUrl"]}, {"required": ["organizationSlug", "issueId"]}],
    ),
    # Deep, with keys that hold dots and slashes, and int-or-string.
    "kubernetes": _object(
        {
            "metadata": _object(
                {
                    "labels": {"type": "object", "additionalProperties": _TEXT},
                    "app.kubernetes.io/name": _TEXT,
                }
            ),
            "port": {"x-kubernetes-int-or-string": True, "anyOf": [{"type": "integer"}, _TEXT]},
            "spec": {"$ref": "#/definitions/Props"},
        },
        definitions={
            "Props": _object(
                {
                    "properties": {
                        "type": "object",
                        "additionalProperties": {"$ref": "#/definitions/Props"},
                    },
                    "not": {"$ref": "#/definitions/Props"},
                    "allOf": {"type": "array", "items": {"$ref": "#/definitions/Props"}},
                    "$ref": _TEXT,
                    "enum": {"type": "array", "items": {"x-any": True}},
                }
            )
        },
    ),
    # Look-ahead in a pattern, ids with a colon.
    "figma": _object(
        {
            "fileKey": {"type": "string", "pattern": "^(?!undefined$|null$)"},
            "node:id": {"type": "string", "pattern": r"^\d+[:|-]\d+$"},
        },
        "fileKey",
    ),
    # OpenAPI: nullable, format, example, empty enums.
    "google-drive": _object(
        {
            "pageSize": {"type": "integer", "format": "int32", "nullable": True, "example": 10},
            "corpora": {"type": "string", "enum": []},
            "orderBy": {"type": "string", "enum": ["", "name", "modifiedTime desc"]},
            "modifiedAfter": {"type": "string", "format": "date"},
        }
    ),
    # Unions with null, numbers as enum.
    "linear": _object(
        {
            "priority": {"type": "number", "enum": [0, 1, 2, 3, 4]},
            "assignee": {"anyOf": [{"type": "string"}, {"type": "null"}], "default": None},
            "cycle": {"type": ["string", "number", "null"], "enum": ["current", 7, None]},
        }
    ),
    # Long keys, non-ASCII keys, keys that become equal once cleaned.
    "salesforce": _object(
        {
            "Account__r.Owner__r.Profile__r." + "Custom_Object__r." * 4 + "Name": _TEXT,
            "Größe": {"type": "integer"},
            "名前": _TEXT,
            "a b": _TEXT,
            "a/b": _TEXT,
            "a_b": {"type": "integer"},
            "": _TEXT,
        },
        "名前",
    ),
    # Whatever a form holds: unknown types, required as draft 3 has it, properties as a list.
    "zapier": _object(
        {
            "instructions": {"type": "text", "required": True},
            "when": {"type": "datetime", "required": "yes"},
            "choices": {"type": "choice", "enum": "a,b"},
            "nested": {"type": "object", "properties": ["a", "b"], "required": True},
            "nothing": None,
            "always": True,
            "never": False,
            "type": "object",
        },
        "never",
        "when",
    ),
    # voluptuous: enums with a type that does not fit, unions of arrays.
    "home-assistant": _object(
        {
            "area": {"type": ["string", "array"]},
            "brightness": {"type": "string", "enum": [1, 50, 100]},
            "color": {"oneOf": [{"type": "string"}, {"type": "array", "items": [{}, {}, {}]}]},
        },
        "area",
        required=None,
    ),
    # A query language: anything below, booleans as bounds (draft 4).
    "elasticsearch": _object(
        {
            "query": {"type": "object", "patternProperties": {"^[a-z]+$": {}}},
            "size": {"type": "integer", "minimum": 0, "exclusiveMinimum": True},
            "sort": {"type": "array", "items": {"oneOf": [_TEXT, {"type": "object"}]}},
            "knn": {"type": "array", "items": {}},
        }
    ),
    # Generated from OpenAPI: allOf with a reference, discriminators, readOnly.
    "openapi": {
        "allOf": [
            {"$ref": "#/components/schemas/Base"},
            {"$ref": "#/$defs/Named"},
            _object({"filter[id]": {"type": "array", "items": {"type": "string"}}}),
        ],
        "$defs": {"Named": _object({"name": {**_TEXT, "readOnly": True}}, "name")},
        "discriminator": {"propertyName": "kind"},
    },
    # pydantic: $defs with generics in their names, a recursive model, Optional.
    "pydantic": {
        "$ref": "#/$defs/Tree_Node[int]_",
        "$defs": {
            "Tree_Node[int]_": _object(
                {
                    "value": {"title": "Value", "type": "integer"},
                    "left": {
                        "anyOf": [{"$ref": "#/$defs/Tree_Node[int]_"}, {"type": "null"}],
                        "default": None,
                    },
                    "next$": {"$ref": "#/$defs/Tree_Node[int]_"},
                },
                "value",
            )
        },
    },
    # Java: a reference to the root, ids instead of pointers.
    "java": {
        "$id": "urn:jsonschema:Request",
        "type": "object",
        "id": "urn:jsonschema:Request",
        "properties": {
            "parent": {"$ref": "#"},
            "other": {"$ref": "urn:jsonschema:Part"},
            "part": {"type": "object", "id": "urn:jsonschema:Part", "properties": {"n": {}}},
            "same": {"$ref": "#/properties/part"},
            "lost": {"$ref": "https://example.com/schema.json"},
        },
    },
    # Conditions: properties that only come with others.
    "conditions": _object(
        {"mode": {"enum": ["a", "b"]}},
        "mode",
        **{
            "if": {"properties": {"mode": {"const": "a"}}},
            "then": {"properties": {"$a": _TEXT}, "required": ["$a"]},
            "else": {"properties": {"b": {"type": "array"}}},
            "dependentSchemas": {"b": {"properties": {"c": {"type": "float"}}}},
        },
    ),
}
"""By the kind of server."""
