"""The admin API's server: one process with threads, apart from the gateway's workers."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from contextlib import closing
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Final
from urllib.parse import parse_qsl, unquote, urlsplit

import structlog
from attrs import frozen

from aigateway.actors.control.local.address import LocalDatabaseError, shown
from aigateway.actors.control.local.admin_keys import AdminKey, find_admin
from aigateway.actors.control.local.opening import database_errors, open_address
from aigateway.actors.control.local.people import AlreadyThere, NoSuch, StillNeeded
from aigateway.actors.control.local.policies import PolicyChanged
from aigateway.actors.control.local.prices.cost import Pricing
from aigateway.http.admin.openapi import PREFIX, document
from aigateway.http.admin.operations import OPERATIONS, Operation, OperationCall
from aigateway.http.admin.shapes import SCHEMAS, Schema
from aigateway.http.settings.version import own_version

__all__ = ["AdminServer", "JsonAnswer", "answer_to", "problem_of"]

LARGEST_BODY: Final = 8 * 1024 * 1024
CLIENT_PATIENCE: Final = 30.0
"""Seconds for each read from a client."""

log = structlog.get_logger("ai-gateway.admin")


@frozen
class JsonAnswer:
    """A status and what is sent as JSON."""

    status: int
    data: Any
    headers: tuple[tuple[str, str], ...] = ()


def _error(status: int, code: str, message: str, *headers: tuple[str, str]) -> JsonAnswer:
    return JsonAnswer(status, {"error": {"code": code, "message": message}}, headers)


def answer_to(
    address: str, pricing: Pricing, method: str, target: str, authorization: str, body: bytes
) -> JsonAnswer:
    """Do what a request asks on the database at ``address``.

    ``pricing`` says what models cost, ``authorization`` is the header of that name.
    """
    parts = urlsplit(target)
    if not parts.path.startswith(f"{PREFIX}/"):
        return _error(404, "not_found", f"the API is below {PREFIX}/")
    path = parts.path.removeprefix(PREFIX)
    if path == "/openapi.json" and method == "GET":
        return JsonAnswer(200, document(own_version()))
    allowed = [(each, found) for each in OPERATIONS if (found := _match(each, path)) is not None]
    try:
        with closing(open_address(address, create=False)) as database:
            # APPSEC: from the header alone, never from a query or a cookie, which are logged and
            # sent unasked.
            scheme, _, token = authorization.partition(" ")
            admin = find_admin(database, token.strip()) if scheme.lower() == "bearer" else None
            if admin is None:
                return _error(
                    401,
                    "unauthorized",
                    "give an admin key as Authorization: Bearer KEY;"
                    " `aigateway admin create` makes one",
                    ("WWW-Authenticate", "Bearer"),
                )
            chosen = next((each for each in allowed if each[0].method == method), None)
            if chosen is None and allowed:
                methods = ", ".join(each.method for each, _found in allowed)
                return _error(405, "method_not_allowed", f"use {methods}", ("Allow", methods))
            if chosen is None:
                return _error(404, "not_found", f"there is no {path}")
            operation, names = chosen
            request = _request(operation, admin, pricing, names, parts.query, body)
            data = operation.run(database, request)
    except NoSuch as ex:
        return _error(404, "not_found", str(ex.args[0]))
    except (AlreadyThere, PolicyChanged, StillNeeded) as ex:
        return _error(409, "conflict", str(ex))
    except ValueError as ex:
        return _error(400, "bad_request", str(ex))
    except Exception as ex:
        if not isinstance(ex, (LocalDatabaseError, *database_errors())):
            raise
        log.error("the admin API's database is away", address=shown(address), error=str(ex))
        return _error(503, "unavailable", "the database is not available", ("Retry-After", "5"))
    return JsonAnswer(operation.status, data)


def _match(operation: Operation, path: str) -> dict[str, str] | None:
    names = re.findall(r"\{(\w+)\}", operation.path)
    pattern = re.sub(r"\{\w+\}", "([^/]+)", operation.path)
    found = re.fullmatch(pattern, path)
    return None if found is None else dict(zip(names, map(unquote, found.groups()), strict=True))


def _request(
    operation: Operation,
    admin: AdminKey,
    pricing: Pricing,
    names: dict[str, str],
    query: str,
    body: bytes,
) -> OperationCall:
    """Raises ValueError for what the operation does not take."""
    known = {*operation.query, *(("limit", "after") if operation.paged else ())}
    given = dict(parse_qsl(query, keep_blank_values=True, strict_parsing=bool(query)))
    for name in given:
        if name not in known:
            raise ValueError(f'there is no parameter "{name}" here')
    # What no database can store.
    if any("\0" in text for text in (*names.values(), *given.values())):
        raise ValueError("a text has the character NUL")
    fields: Any = {}
    if operation.takes is not None:
        try:
            fields = json.loads(body)
        except (ValueError, RecursionError) as ex:
            raise ValueError("the body must be JSON in UTF-8") from ex
        if (problem := problem_of(fields, SCHEMAS[operation.takes])) is not None:
            raise ValueError(problem)
        if "\\u0000" in json.dumps(fields):
            raise ValueError("a text has the character NUL")
    return OperationCall(f"admin key {admin.id}: {admin.name}", pricing, names, given, fields)


_TYPES: Final[dict[str, Callable[[Any], bool]]] = {
    "object": lambda value: isinstance(value, dict),
    "array": lambda value: isinstance(value, list),
    "string": lambda value: isinstance(value, str),
    "boolean": lambda value: isinstance(value, bool),
    "integer": lambda value: isinstance(value, int) and not isinstance(value, bool),
    "number": lambda value: isinstance(value, int | float) and not isinstance(value, bool),
    "null": lambda value: value is None,
}


def problem_of(value: object, schema: Schema, path: str = "") -> str | None:
    """Why ``value``, which stands at ``path`` of a body, is not as ``schema`` says; None: it is.

    Knows as much of JSON Schema as bodies' schemas use.
    """
    what = f'the field "{path}"' if path else "the body"
    if "enum" in schema and value not in schema["enum"]:
        return f"{what} must be one of {', '.join(schema['enum'])}"
    types = schema.get("type", [])
    types = [types] if isinstance(types, str) else types
    if types and not any(_TYPES[each](value) for each in types):
        return f"{what} must be of type {' or '.join(types)}"
    if "minimum" in schema and value < schema["minimum"]:
        return f"{what} must be {schema['minimum']} or more"
    if "exclusiveMinimum" in schema and not value > schema["exclusiveMinimum"]:
        return f"{what} must be more than {schema['exclusiveMinimum']}"
    parts: list[tuple[str, Any, Schema]] = []
    if isinstance(value, list) and "items" in schema:
        parts = [(f"{path}[{place}]", each, schema["items"]) for place, each in enumerate(value)]
    if isinstance(value, dict) and "properties" in schema:
        properties, before = schema["properties"], f"{path}." if path else ""
        for name in value:
            if name not in properties:
                known = ", ".join(properties)
                return f'there is no field "{before}{name}"; there are {known}'
        for name in schema["required"]:
            if name not in value:
                return f'the field "{before}{name}" is missing'
        parts = [(f"{before}{name}", each, properties[name]) for name, each in value.items()]
    problems = (problem_of(each, inner, where) for where, each, inner in parts)
    return next((problem for problem in problems if problem is not None), None)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server_version = "aigateway"
    sys_version = ""
    timeout = CLIENT_PATIENCE

    def __init__(self, database: str, pricing: Pricing, *args: Any) -> None:
        self._database, self._pricing = database, pricing
        super().__init__(*args)

    def _serve(self) -> None:
        self._send(self._answer())

    do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = _serve

    def _answer(self) -> JsonAnswer:
        length = self.headers.get("Content-Length", "0")
        if "Transfer-Encoding" in self.headers or not (length.isascii() and length.isdigit()):
            self.close_connection = True
            return _error(411, "length_required", "give the body a Content-Length")
        if len(length) > 10 or int(length) > LARGEST_BODY:
            self.close_connection = True
            return _error(413, "too_large", f"a body has {LARGEST_BODY} bytes at most")
        body = self.rfile.read(int(length))
        try:
            authorization = self.headers.get("Authorization", "")
            return answer_to(
                self._database, self._pricing, self.command, self.path, authorization, body
            )
        except Exception:
            log.exception("a fault of the admin API's own")
            return _error(500, "fault", "the admin API failed; its log has the reason")

    def _send(self, answer: JsonAnswer) -> None:
        body = json.dumps(answer.data, ensure_ascii=False).encode("utf-8", "replace") + b"\n"
        self.send_response(answer.status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        # It may be a key.
        self.send_header("Cache-Control", "no-store")
        for name, value in answer.headers:
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)
        log.info(
            "admin request",
            method=self.command,
            path=urlsplit(self.path).path,
            status=answer.status,
            client_ip=self.client_address[0],
        )

    def log_message(self, format: str, *args: object) -> None:
        """What it would say has a line of its own."""


class AdminServer(ThreadingHTTPServer):
    """Serves the database at ``database``, with these prices, on ``host`` and ``port``.

    Raises OSError.
    """

    daemon_threads = True

    def __init__(self, host: str, port: int, database: str, pricing: Pricing) -> None:
        if ":" in host:
            import socket

            self.address_family = socket.AF_INET6
        super().__init__((host, port), partial(_Handler, database, pricing))
