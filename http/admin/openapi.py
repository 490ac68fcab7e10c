"""The admin API as an OpenAPI document."""

from __future__ import annotations

import re
from typing import Any

from aigateway.http.admin.operations import LARGEST_PAGE, OPERATIONS, Operation
from aigateway.http.admin.shapes import SCHEMAS

__all__ = ["ERRORS", "PREFIX", "document"]

PREFIX = "/api/admin/v1"

ERRORS = {
    400: "What was sent cannot be taken.",
    401: "No admin key in the Authorization header, or none that is good.",
    404: "There is no such thing.",
    409: "It is there already, or was changed meanwhile, or is still needed.",
    503: "The database is not available.",
}


def document(version: str) -> dict[str, Any]:
    """OpenAPI 3.1, for this ``version`` of aigateway."""
    paths: dict[str, Any] = {}
    for operation in OPERATIONS:
        paths.setdefault(operation.path, {})[operation.method.lower()] = _operation(operation)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "aigateway admin API",
            "version": version,
            "description": "Users, groups, keys, policy, prices, caps, usage and the table of"
            " changes.",
        },
        "servers": [{"url": PREFIX}],
        "security": [{"adminKey": []}],
        "paths": paths,
        "components": {
            "securitySchemes": {"adminKey": {"type": "http", "scheme": "bearer"}},
            "schemas": SCHEMAS,
        },
    }


def _operation(operation: Operation) -> dict[str, Any]:
    parameters = [
        {"name": name, "in": "path", "required": True, "schema": {"type": "string"}}
        for name in re.findall(r"\{(\w+)\}", operation.path)
    ]
    parameters += [
        {"name": name, "in": "query", "schema": {"type": "string"}} for name in operation.query
    ]
    if operation.paged:
        whole = {"type": "integer", "minimum": 1, "maximum": LARGEST_PAGE, "default": 100}
        parameters += [
            {"name": "limit", "in": "query", "schema": whole},
            {
                "name": "after",
                "in": "query",
                "description": "`next` of the page before.",
                "schema": {"type": "string"},
            },
        ]
    described: dict[str, Any] = {
        "operationId": operation.name,
        "summary": operation.does,
        "parameters": parameters,
        "responses": {
            str(operation.status): _content("Done.", operation.answers),
            **{str(status): _content(said, "Error") for status, said in ERRORS.items()},
        },
    }
    if operation.takes is not None:
        body = _content("", operation.takes)
        described["requestBody"] = {"required": True, "content": body["content"]}
    return described


def _content(description: str, schema: str) -> dict[str, Any]:
    reference = {"$ref": f"#/components/schemas/{schema}"}
    return {
        "description": description,
        "content": {"application/json": {"schema": reference}},
    }
