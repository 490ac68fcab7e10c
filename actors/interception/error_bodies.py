"""Error answers in the shape that the client's SDK expects.

Every function takes a ``dialect``: an API of :mod:`.routes` or a provider type.  ``messages``,
``anthropic`` and ``bedrock`` answer as Anthropic does, ``gemini`` as Google, everything else as
OpenAI does.  Where both are known pass the API, since Copilot serves both.  All bodies are
``application/json``.
"""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from aigateway.actors.interception.routes import CONVERSE, GEMINI, GEMINI_EMBEDDING, MESSAGES
from aigateway.actors.values.provider_config import ANTHROPIC_TYPES

__all__ = [
    "breaker_open",
    "error_body",
    "is_anthropic",
    "keys_rejected",
    "keys_rate_limited",
]

_BREAKER_OPEN = "circuit breaker is open"
_GOOGLES = frozenset({GEMINI, GEMINI_EMBEDDING})

# https://docs.anthropic.com/en/api/errors, and 503 as the overload that it usually is.
_ANTHROPIC_TYPES: Mapping[int, str] = {
    400: "invalid_request_error",
    401: "authentication_error",
    402: "billing_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    503: "overloaded_error",
    504: "timeout_error",
    529: "overloaded_error",
}

# Type and code.
_OPENAI_TYPES: Mapping[int, tuple[str, str | None]] = {
    401: ("authentication_error", "invalid_api_key"),
    403: ("permission_error", "permission_denied"),
    404: ("invalid_request_error", "not_found"),
    413: ("invalid_request_error", "request_too_large"),
    429: ("rate_limit_error", "rate_limit_exceeded"),
    502: ("api_error", "server_error"),
    503: ("server_error", "service_unavailable"),
    504: ("server_error", "timeout"),
}

# What Google calls an error: https://cloud.google.com/apis/design/errors#handling_errors
_GOOGLE_STATUSES: Mapping[int, str] = {
    400: "INVALID_ARGUMENT",
    401: "UNAUTHENTICATED",
    403: "PERMISSION_DENIED",
    404: "NOT_FOUND",
    408: "DEADLINE_EXCEEDED",
    429: "RESOURCE_EXHAUSTED",
    500: "INTERNAL",
    501: "UNIMPLEMENTED",
    503: "UNAVAILABLE",
    504: "DEADLINE_EXCEEDED",
}


def is_anthropic(dialect: str) -> bool:
    """Whether errors of this API or provider type have Anthropic's shape."""
    return dialect == MESSAGES or dialect in ANTHROPIC_TYPES


def error_body(
    dialect: str, status: int, message: str, kind: str | None = None, code: str | None = None
) -> bytes:
    """Make the body of an error answer.

    ``kind`` is the error's ``type``, by default the one that belongs to ``status``.  ``code``
    goes only into OpenAI's shape; with a ``kind`` of the caller's own it defaults to null.
    """
    if is_anthropic(dialect):
        error = {"type": kind or _anthropic_type(status), "message": message}
        return msgspec.json.encode({"type": "error", "error": error})
    if dialect in _GOOGLES:
        return msgspec.json.encode({"error": _google_error(status, message)})
    if dialect == CONVERSE:
        return msgspec.json.encode({"message": message})
    usual_kind, usual_code = _openai_type(status)
    if kind is None and code is None:
        code = usual_code
    return msgspec.json.encode(
        {
            "error": {
                "message": message,
                "type": kind or usual_kind,
                "param": None,
                "code": code,
            }
        }
    )


def breaker_open(dialect: str) -> bytes:
    """Make the 503 body for a request that a circuit breaker turned away."""
    if dialect == "bedrock":
        error = {"type": "api_error", "message": _BREAKER_OPEN, "code": "service_unavailable"}
        return msgspec.json.encode({"type": "error", "error": error})
    if is_anthropic(dialect) or dialect in (*_GOOGLES, CONVERSE):
        return error_body(dialect, 503, _BREAKER_OPEN)
    error = {"message": _BREAKER_OPEN, "type": "server_error", "code": "service_unavailable"}
    return msgspec.json.encode({"error": error})


def keys_rate_limited(dialect: str, message: str) -> bytes:
    """Make the 429 body for a request that found every key cooling down."""
    return error_body(dialect, 429, message)


def keys_rejected(dialect: str, message: str) -> bytes:
    """Make the 502 body for a request that found every key refused by the provider."""
    return error_body(dialect, 502, message, "api_error", "server_error")


def _google_error(status: int, message: str) -> dict[str, object]:
    usual = "INVALID_ARGUMENT" if 400 <= status < 500 else "INTERNAL"
    return {"code": status, "message": message, "status": _GOOGLE_STATUSES.get(status, usual)}


def _anthropic_type(status: int) -> str:
    if status in _ANTHROPIC_TYPES:
        return _ANTHROPIC_TYPES[status]
    return "invalid_request_error" if 400 <= status < 500 else "api_error"


def _openai_type(status: int) -> tuple[str, str | None]:
    if status in _OPENAI_TYPES:
        return _OPENAI_TYPES[status]
    return ("invalid_request_error", None) if 400 <= status < 500 else ("server_error", None)
