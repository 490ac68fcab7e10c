"""Answers that the gateway gives itself.

Plain texts end in a newline and are marked nosniff, as the reference's are; where the route
names an API they get its shape on their way out (:mod:`~aigateway.http.request.refusals`).
"""

from __future__ import annotations

import json
from collections.abc import Iterable

from attrs import field, frozen

from aigateway.actors.interception.error_bodies import error_body
from aigateway.http.metrics.reasons import Reason

__all__ = ["Answer", "api_error", "json_message", "plain"]


@frozen
class Answer(Exception):
    """A complete answer; raise it to end the request."""

    status: int
    body: bytes
    content_type: str
    headers: tuple[tuple[str, str], ...] = field(default=())
    close: bool = False
    """Close the connection behind it (the request's body was not read)."""
    text: str = ""
    """What it says, where the form may still be that of the API that is called."""
    detail: str = ""
    reason: Reason = Reason.BAD_REQUEST
    """Of an error: why it is one."""
    rule: str = ""
    """For the log: which rule it is, where more is known than the reason says."""


def plain(
    status: int,
    text: str,
    *,
    reason: Reason,
    rule: str = "",
    headers: Iterable[tuple[str, str]] = (),
    retry_after: int | None = None,
    close: bool = False,
) -> Answer:
    """A text in the form of Go's http.Error, which the reference uses."""
    return Answer(
        status,
        f"{text}\n".encode(),
        "text/plain; charset=utf-8",
        (("X-Content-Type-Options", "nosniff"), *headers, *_ask_again(retry_after)),
        close,
        text,
        reason=reason,
        rule=rule,
    )


def json_message(
    status: int,
    message: str,
    detail: str = "",
    *,
    reason: Reason,
    headers: Iterable[tuple[str, str]] = (),
) -> Answer:
    """The JSON form of coderd's own API errors."""
    document = {"message": message}
    if detail:
        document["detail"] = detail
    return Answer(
        status,
        json.dumps(document).encode(),
        "application/json; charset=utf-8",
        tuple(headers),
        text=message,
        detail=detail,
        reason=reason,
    )


def api_error(
    dialect: str, status: int, message: str, *, reason: Reason, retry_after: int | None = None
) -> Answer:
    """An error in the shape of the API or provider type ``dialect``."""
    body = error_body(dialect, status, message)
    return Answer(status, body, "application/json", _ask_again(retry_after), reason=reason)


def _ask_again(seconds: int | None) -> tuple[tuple[str, str], ...]:
    return () if seconds is None else (("Retry-After", str(seconds)),)
