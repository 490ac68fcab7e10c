"""Answers that the gateway gives itself.

Plain texts end in a newline and are marked nosniff, as the reference's are; where the route
names an API they get its shape on their way out (:mod:`~aigateway.http.request.refusals`).
"""

from __future__ import annotations

import json
from collections.abc import Iterable

from attrs import field, frozen

from aigateway.actors.interception.error_bodies import error_body

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


def plain(
    status: int, text: str, *, headers: Iterable[tuple[str, str]] = (), close: bool = False
) -> Answer:
    """A text in the form of Go's http.Error, which the reference uses."""
    return Answer(
        status,
        f"{text}\n".encode(),
        "text/plain; charset=utf-8",
        (("X-Content-Type-Options", "nosniff"), *headers),
        close,
        text,
    )


def json_message(
    status: int, message: str, detail: str = "", *, headers: Iterable[tuple[str, str]] = ()
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
    )


def api_error(dialect: str, status: int, message: str, *, retry_after: int | None = None) -> Answer:
    """An error in the shape of the API or provider type ``dialect``."""
    headers = () if retry_after is None else (("Retry-After", str(retry_after)),)
    return Answer(status, error_body(dialect, status, message), "application/json", headers)
