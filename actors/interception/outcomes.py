"""What became of an upstream's answer, in the words of the record."""

from __future__ import annotations

from aigateway.actors.codec.reading import (
    Buffer,
    Object,
    count,
    is_null,
    items,
    members,
    text,
)
from aigateway.actors.interception.interface import Outcome

__all__ = [
    "BROKEN_CODING",
    "CLIENT_GONE",
    "ENDED_EARLY",
    "INVALID_ANSWER",
    "MESSAGE_LIMIT",
    "NO_ANSWER",
    "error_outcome",
    "kind_of_name",
    "kind_of_status",
    "message_of",
    "outcome_of",
]

MESSAGE_LIMIT = 2000
"""Characters of an upstream's message that are kept."""

INVALID_ANSWER = (
    "The AI provider returned an invalid response."
    " Try again or contact your administrator if this persists."
)
NO_ANSWER = (
    "The AI provider did not return a response."
    " Try again or contact your administrator if this persists."
)
BROKEN_CODING = "The content coding of the AI provider's answer is broken: {}."
ENDED_EARLY = "The AI provider ended its answer before it was complete."
CLIENT_GONE = "the client left before the answer was complete"
_WORDLESS = "The AI provider reported an error"

_STATUS_KINDS = {
    400: "bad_request",
    401: "unauthorized",
    403: "unauthorized",
    404: "bad_request",
    408: "timeout",
    413: "bad_request",
    422: "bad_request",
    429: "rate_limited",
    529: "overloaded",
}

# The error types of Anthropic's API and the types and codes of OpenAI's.
_NAME_KINDS = {
    "api_error": "server_error",
    "authentication_error": "unauthorized",
    "billing_error": "bad_request",
    "context_length_exceeded": "bad_request",
    "insufficient_quota": "rate_limited",
    "internal_error": "server_error",
    "invalid_api_key": "unauthorized",
    "invalid_prompt": "bad_request",
    "invalid_request_error": "bad_request",
    "not_found_error": "bad_request",
    "overloaded_error": "overloaded",
    "permission_error": "unauthorized",
    "rate_limit_error": "rate_limited",
    "rate_limit_exceeded": "rate_limited",
    "request_too_large": "bad_request",
    "requests": "rate_limited",
    "server_error": "server_error",
    "server_is_overloaded": "overloaded",
    "service_unavailable": "overloaded",
    "slow_down": "overloaded",
    "timeout": "timeout",
    "timeout_error": "timeout",
    "tokens": "rate_limited",
    "vector_store_timeout": "timeout",
}


def kind_of_status(status: int, *, openai: bool) -> str:
    """Name the kind of error of an HTTP status.

    OpenAI says "overloaded" with 503, Anthropic with a status of its own, 529.
    """
    if openai and status == 503:
        return "overloaded"
    if status in _STATUS_KINDS:
        return _STATUS_KINDS[status]
    return "server_error" if 500 <= status < 600 else "unknown"


def kind_of_name(*names: str | None) -> str:
    """Name the kind of error of the first of these types or codes that is known."""
    for name in names:
        if name in _NAME_KINDS:
            return _NAME_KINDS[name]
    return "unknown"


def error_outcome(error: Buffer | Object | None) -> Outcome:
    """Read the outcome from an error within an answer: an object, or only a string."""
    fields = error if isinstance(error, dict) else members(error)
    message = _words(fields.get("message")) or _words(fields.get("detail"))
    if not message and not isinstance(error, dict):
        message = text(error) or ""
    code = text(fields.get("code"))
    kind = kind_of_name(code, text(fields.get("type")))
    status = count(code.encode() if code else fields.get("code"))
    if kind == "unknown" and status:
        # Some report a status: routers that of the provider behind them.
        kind = kind_of_status(status, openai=True)
    return Outcome(kind, (message or code or _WORDLESS)[:MESSAGE_LIMIT])


def outcome_of(document: Buffer) -> Outcome | None:
    """Read the outcome from a document that should be an answer: an error of any shape.

    Its words are those of its ``error``, or stand beside that; or it is a list of one error, or
    only a string.  ``None`` when it tells of no error.
    """
    fields = _fields_of(document)
    error = fields.get("error")
    told = [] if is_null(error) else [error_outcome(error)]
    beside = error_outcome(fields or document)
    if beside.error_message != _WORDLESS:
        told.append(beside)
    return next(
        (each for each in told if each.error_message != _WORDLESS), told[0] if told else None
    )


def message_of(status: int, body: Buffer) -> str:
    """Find the message in the body of an error answer of any shape."""
    fields = _fields_of(body)
    error = fields.get("error")
    message = (
        _words(members(error).get("message"))
        or text(error)
        or _words(fields.get("message"))
        or _words(fields.get("detail"))
    )
    if not message and not fields:
        message = bytes(body[: 4 * MESSAGE_LIMIT]).decode("utf-8", "replace").strip()
    return (message or f"The AI provider answered with HTTP status {status}")[:MESSAGE_LIMIT]


def _fields_of(document: Buffer) -> Object:
    """The members of an error answer; Google's may be a list of one."""
    fields = members(document)
    if not fields and (listed := items(document)):
        fields = members(listed[0])
    return fields


_ITEMS = 20
"""Of what is wrong with a request, so many things are told."""


def _words(value: Buffer | None, depth: int = 4) -> str:
    """The words of a message: a string, or what validators put in its place.

    Those send an object with a ``detail``, or a list of what is wrong, each with its place.
    """
    whole = text(value)
    if whole is not None or not depth:
        return whole or ""
    fields = members(value)
    if not fields:
        each = [_words(item, depth - 1) for item in items(value)[:_ITEMS] if members(item)]
        return "; ".join(filter(None, each))
    names = ("msg", "message", "detail")
    said = next((words for name in names if (words := _words(fields.get(name), depth - 1))), "")
    place = ".".join(text(each) or str(count(each)) for each in items(fields.get("loc"))[:_ITEMS])
    return f"{place}: {said}" if place and said else said
