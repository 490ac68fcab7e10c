"""How long an answer asks to wait, in the words of the providers that are known.

Read in this order, the first that names a time wins; of ``retry-after-ms`` and ``Retry-After``
the first that names one to come, else both mean "now":

=====================================  ==================================================
``retry-after-ms``                     milliseconds (OpenAI, Azure)
``Retry-After``                        seconds, whole or not, or an HTTP date (RFC 9110,
                                       section 10.2.3)
``x-ratelimit-reset-requests``,        a duration such as ``6m0s`` (OpenAI), if the limit's
``-tokens``                            ``x-ratelimit-remaining-…`` says 0
``anthropic-ratelimit-…-reset``        RFC 3339 (Anthropic), if its ``…-remaining`` says 0
=====================================  ==================================================

Google tells it in the body of the error, as one of its details: a ``google.rpc.RetryInfo`` with
a ``retryDelay`` such as ``"12s"``.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

from aigateway.actors.codec.headers import Headers, first_of
from aigateway.actors.codec.reading import Object, items, members, text

__all__ = ["delay_in_body", "google_details", "requested_delay"]

_OPENAI_LIMITS = ("requests", "tokens")
_ANTHROPIC_LIMITS = ("requests", "tokens", "input-tokens", "output-tokens")
_NUMBER = re.compile(r"[0-9]{1,400}(?:\.[0-9]{1,400})?", re.ASCII)
_DURATION = re.compile(
    r"(?:([0-9]{1,9})d)?(?:([0-9]{1,9})h)?(?:([0-9]{1,9})m)?(?:([0-9]{1,9}(?:\.[0-9]{1,9})?)s)?"
    r"(?:([0-9]{1,9}(?:\.[0-9]{1,9})?)ms)?",
    re.ASCII,
)
_UNITS = (86400.0, 3600.0, 60.0, 1.0, 0.001)


def requested_delay(headers: Headers, wall: float) -> float | None:
    """Seconds that an answer asks to wait before the next try; None when it names none.

    0 means that it says "now", in digits or as a time that has passed.  ``wall`` is the time of
    the answer in Unix seconds, for delays that are told as a date.
    """
    milliseconds = _number(first_of(headers, "retry-after-ms"))
    seconds = _retry_after(first_of(headers, "retry-after"), wall)
    if milliseconds:
        return milliseconds / 1000
    if seconds is not None:
        return seconds
    if milliseconds is not None:
        return milliseconds
    delays = [*_openai_resets(headers), *_anthropic_resets(headers, wall)]
    return max(delays, default=None)


def delay_in_body(body: bytes) -> float | None:
    """Seconds that Google asks to wait before the next try; None when it names none."""
    if b"RetryInfo" not in body:
        return None
    for detail in google_details(body):
        if (text(detail.get("@type")) or "").endswith("/google.rpc.RetryInfo"):
            delay = text(detail.get("retryDelay")) or ""
            return _number(delay.removesuffix("s")) if delay.endswith("s") else None
    return None


def google_details(body: bytes) -> list[Object]:
    """The details of an error, which is an object, or the only one of a list."""
    document = members(body) or members(next(iter(items(body)), None))
    return [members(each) for each in items(members(document.get("error")).get("details"))]


def _retry_after(value: str, wall: float) -> float | None:
    # A date begins with the name of a day; what else cannot be read names no delay.
    if not value[:1].isalpha():
        return _number(value)
    try:
        until = parsedate_to_datetime(value)
    except (ValueError, TypeError, IndexError, OverflowError):
        return None
    return _until(until, wall)


def _openai_resets(headers: Headers) -> Iterator[float]:
    for limit in _OPENAI_LIMITS:
        if first_of(headers, f"x-ratelimit-remaining-{limit}") == "0":
            match = _DURATION.fullmatch(first_of(headers, f"x-ratelimit-reset-{limit}"))
            if match is not None and any(match.groups()):
                parts = zip(match.groups(), _UNITS, strict=True)
                yield sum(float(part) * unit for part, unit in parts if part)


def _anthropic_resets(headers: Headers, wall: float) -> Iterator[float]:
    for limit in _ANTHROPIC_LIMITS:
        name = f"anthropic-ratelimit-{limit}"
        if first_of(headers, f"{name}-remaining") == "0":
            try:
                until = datetime.fromisoformat(first_of(headers, f"{name}-reset"))
            except ValueError:
                continue
            delay = _until(until, wall)
            if delay is not None:
                yield delay


def _until(moment: datetime, wall: float) -> float | None:
    """Seconds from ``wall`` to a moment, 0 when it has passed."""
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    try:
        return max(moment.timestamp() - wall, 0.0)
    except (ValueError, OverflowError):
        return None


def _number(text: str) -> float | None:
    """A number that is written as digits, with or without a fraction."""
    if not _NUMBER.fullmatch(text):
        return None
    number = float(text)
    return number if math.isfinite(number) else None
