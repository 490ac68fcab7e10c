"""What error answers to the gateway's own credential tell of its account stays in the gateway.

Called by the request that got the answer, before anybody reads or relays it: so the original
is logged with the request's id.  Answers to a user's own key are not touched.
"""

from __future__ import annotations

import time
from collections.abc import Sequence

import structlog
from attrs import evolve

from aigateway.actors.codec.decoding import DecodingError, decode
from aigateway.actors.codec.headers import Headers, joined
from aigateway.actors.interception.error_bodies import error_body
from aigateway.actors.interception.headers import without_account
from aigateway.actors.interception.masking import (
    mask_body,
    mask_headers,
    mask_text,
    without_secrets,
)
from aigateway.actors.providers.request import Opened, Refused
from aigateway.actors.upstream.errors import Quiet, UpstreamCut
from aigateway.actors.upstream.exchange import Exchange

__all__ = ["conceal"]

READ_LIMIT = 1024 * 1024
"""Bytes of an error answer that are read and masked; a larger one is not shown."""
READ_TIME = 30.0
"""Seconds in which they have to come."""
_WHEN_AGAIN = frozenset({"retry-after", "retry-after-ms", "x-should-retry"})
"""Headers that hold also for an error of which the rest is missing."""
LOGGED = 4096
"""Bytes of the original that are logged."""

log = structlog.get_logger("ai-gateway")


def conceal(
    result: Opened | Refused, keys: Sequence[str], dialect: str, *, quotes: bool = True
) -> Opened | Refused:
    """An error answer without what a client is not to know; ``keys`` are the provider's own.

    With ``quotes`` the original is in the log.

    Waits for the body of an error answer.  Of one that does not come whole nothing can be shown,
    since its end may be half a key: the client is told so, in the shape of ``dialect``.
    """
    if isinstance(result, Opened):
        return _conceal_answer(result, keys, dialect, quotes) if result.shared else result
    return _conceal_refusal(result, keys, quotes) if result.quotes else result


def _conceal_answer(
    opened: Opened, keys: Sequence[str], dialect: str, quotes: bool
) -> Opened | Refused:
    exchange = opened.exchange
    headers = exchange.headers
    exchange.headers = mask_headers(without_account(headers))
    try:
        body = _read(exchange)
    except UpstreamCut as ex:
        return _broke_off(opened, ex, dialect)
    masked = mask_body(body, exchange.headers, keys)
    if masked is not None:
        _log(opened.provider_name, exchange.status, body if quotes else b"", headers, keys)
        body, exchange.headers = masked[0], list(masked[1])
    exchange.unread(body)
    return opened


def _broke_off(opened: Opened, ex: UpstreamCut, dialect: str) -> Refused:
    """What to answer instead of an error that did not come whole; gives its exchange back."""
    exchange = opened.exchange
    exchange.close()
    opened.give_back()
    message = f"the provider's answer with status {exchange.status} broke off: {ex}"
    return Refused(
        ex.status,
        message,
        ex.error_type,
        body=error_body(dialect, ex.status, message),
        credential_hint=opened.credential_hint,
        sent=True,
        provider_name=opened.provider_name,
        begun_at=opened.begun_at,
        abandoned=opened.abandoned,
        headers=[field for field in exchange.headers if field[0].lower() in _WHEN_AGAIN],
    )


def _conceal_refusal(refused: Refused, keys: Sequence[str], quotes: bool) -> Refused:
    masked = mask_body(refused.body or b"", refused.headers, keys)
    headers = mask_headers(without_account(refused.headers))
    if masked is None:
        return evolve(refused, headers=headers)
    quoted = (refused.body or b"") if quotes else b""
    _log(refused.provider_name, refused.status, quoted, refused.headers, keys)
    return evolve(
        refused,
        message=mask_text(refused.message, keys),
        body=masked[0],
        headers=mask_headers(without_account(masked[1])),
    )


def _read(exchange: Exchange) -> bytes:
    """All of an error's body.  Raises UpstreamCut when it does not come within the limits."""
    deadline = time.monotonic() + READ_TIME
    read = bytearray()
    while len(read) <= READ_LIMIT:
        left = deadline - time.monotonic()
        try:
            if left <= 0:
                raise Quiet
            exchange.set_quiet(left)
            data = exchange.read()
        except Quiet:
            raise UpstreamCut(f"it was not there within {READ_TIME:g} s") from None
        if not data:
            return bytes(read)
        read += data
    raise UpstreamCut(f"it is over {READ_LIMIT} bytes")


def _log(provider: str, status: int, body: bytes, headers: Headers, keys: Sequence[str]) -> None:
    try:
        body = body and decode(body, joined(headers, "content-encoding"))
    except DecodingError:
        return
    # Of keys that came while it runs the log knows nothing.
    body = without_secrets(body, keys)
    log.warning(
        "account masked in an error answer",
        provider=provider,
        status=status,
        original=body[:LOGGED].decode("utf-8", "replace"),
    )
