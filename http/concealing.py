"""What answers to the gateway's own credential tell of its account stays in the gateway.

Called by the request that got the answer, before anybody reads or relays it: so the original
is logged with the request's id.  Answers to a user's own key are not touched.
"""

from __future__ import annotations

import time
from collections.abc import Sequence

import structlog
from attrs import evolve

from aigateway.actors.providers.errors import Quiet, UpstreamCut
from aigateway.actors.providers.exchange import Exchange
from aigateway.actors.providers.interception.decoding import DecodingError, decode
from aigateway.actors.providers.interception.header_list import values_of
from aigateway.actors.providers.interception.interface import Headers
from aigateway.actors.providers.interception.masking import (
    mask_body,
    mask_text,
    without_account,
)
from aigateway.actors.providers.messages import Opened, Refused

__all__ = ["conceal"]

READ_LIMIT = 1024 * 1024
"""Bytes of an error answer that are read and masked; the connection is cut behind them."""
READ_TIME = 30.0
"""Seconds in which they have to come."""
LOGGED = 4096
"""Bytes of the original that are logged."""

log = structlog.get_logger("ai-gateway")


def conceal(
    result: Opened | Refused, keys: Sequence[str], *, quotes: bool = True
) -> Opened | Refused:
    """``result`` without what a client is not to know; ``keys`` are the provider's own.

    With ``quotes`` the original is in the log.

    Waits for the body of an error answer.
    """
    if isinstance(result, Opened):
        if result.shared:
            _conceal_answer(result, keys, quotes)
        return result
    return _conceal_refusal(result, keys, quotes) if result.quotes else result


def _conceal_answer(opened: Opened, keys: Sequence[str], quotes: bool) -> None:
    exchange = opened.exchange
    headers = exchange.headers
    if exchange.status < 400:
        exchange.headers = without_account(headers)
        return
    exchange.headers = without_account(headers, error=True)
    body = _read(exchange)
    masked = mask_body(body, exchange.headers, keys)
    if masked is None:
        exchange.unread(body)
        return
    _log(opened.provider_name, exchange.status, body if quotes else b"", headers)
    body, exchange.headers = masked[0], list(masked[1])
    exchange.unread(body)


def _conceal_refusal(refused: Refused, keys: Sequence[str], quotes: bool) -> Refused:
    masked = mask_body(refused.body or b"", refused.headers, keys)
    headers = without_account(refused.headers, error=True)
    if masked is None:
        return evolve(refused, headers=headers)
    quoted = (refused.body or b"") if quotes else b""
    _log(refused.provider_name, refused.status, quoted, refused.headers)
    return evolve(
        refused,
        message=mask_text(refused.message, keys),
        body=masked[0],
        headers=without_account(masked[1], error=True),
    )


def _read(exchange: Exchange) -> bytes:
    """All of an error's body; what does not come within the limits is cut off."""
    deadline = time.monotonic() + READ_TIME
    read = bytearray()
    try:
        while len(read) <= READ_LIMIT and (left := deadline - time.monotonic()) > 0:
            exchange.set_quiet(left)
            data = exchange.read()
            if not data:
                return bytes(read)
            read += data
    except (Quiet, UpstreamCut):
        pass
    exchange.close()
    return bytes(read)


def _log(provider: str, status: int, body: bytes, headers: Headers) -> None:
    try:
        body = body and decode(body, ",".join(values_of(headers, "content-encoding")))
    except DecodingError:
        return
    log.warning(
        "account masked in an error answer",
        provider=provider,
        status=status,
        original=body[:LOGGED].decode("utf-8", "replace"),
    )
