"""How long an answer asks to wait, in the words of the providers that are known.

Read in this order, the first that names a time to come wins:

=====================================  ==================================================
``retry-after-ms``                     milliseconds (OpenAI, Azure)
``Retry-After``                        seconds, whole or not, or an HTTP date (RFC 9110,
                                       section 10.2.3)
``x-ratelimit-reset-requests``,        a duration such as ``6m0s`` (OpenAI), if the limit's
``-tokens``                            ``x-ratelimit-remaining-…`` says 0
``anthropic-ratelimit-…-reset``        RFC 3339 (Anthropic), if its ``…-remaining`` says 0
=====================================  ==================================================
"""

from __future__ import annotations

import math
import re
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

from aigateway.actors.providers.interception.header_list import first_of
from aigateway.actors.providers.interception.interface import Headers

__all__ = ["requested_delay"]

_OPENAI_LIMITS = ("requests", "tokens")
_ANTHROPIC_LIMITS = ("requests", "tokens", "input-tokens", "output-tokens")
_NUMBER = re.compile(r"[0-9]{1,400}(?:\.[0-9]{1,400})?", re.ASCII)
_DURATION = re.compile(
    r"(?:([0-9]{1,9})d)?(?:([0-9]{1,9})h)?(?:([0-9]{1,9})m)?(?:([0-9]{1,9}(?:\.[0-9]{1,9})?)s)?"
    r"(?:([0-9]{1,9}(?:\.[0-9]{1,9})?)ms)?",
    re.ASCII,
)
_UNITS = (86400.0, 3600.0, 60.0, 1.0, 0.001)


def requested_delay(headers: Headers, wall: float) -> float:
    """Seconds that an answer asks to wait before the next try; 0 when it names none.

    ``wall`` is the time of the answer in Unix seconds, for delays that are told as a date.
    """
    return (
        _number(first_of(headers, "retry-after-ms")) / 1000
        or _retry_after(first_of(headers, "retry-after"), wall)
        or _openai_reset(headers)
        or _anthropic_reset(headers, wall)
    )


def _retry_after(value: str, wall: float) -> float:
    seconds = _number(value)
    # A date begins with the name of a day; what else cannot be read names no delay.
    if seconds or not value[:1].isalpha():
        return seconds
    try:
        until = parsedate_to_datetime(value)
    except (ValueError, TypeError, IndexError, OverflowError):
        return 0.0
    return _until(until, wall)


def _openai_reset(headers: Headers) -> float:
    delay = 0.0
    for limit in _OPENAI_LIMITS:
        if first_of(headers, f"x-ratelimit-remaining-{limit}") == "0":
            match = _DURATION.fullmatch(first_of(headers, f"x-ratelimit-reset-{limit}"))
            parts = match.groups() if match is not None else ()
            seconds = sum(
                float(part) * unit for part, unit in zip(parts, _UNITS, strict=False) if part
            )
            delay = max(delay, seconds)
    return delay


def _anthropic_reset(headers: Headers, wall: float) -> float:
    delay = 0.0
    for limit in _ANTHROPIC_LIMITS:
        name = f"anthropic-ratelimit-{limit}"
        if first_of(headers, f"{name}-remaining") == "0":
            try:
                until = datetime.fromisoformat(first_of(headers, f"{name}-reset"))
            except ValueError:
                continue
            delay = max(delay, _until(until, wall))
    return delay


def _until(moment: datetime, wall: float) -> float:
    """Seconds from ``wall`` to a moment that is to come, else 0."""
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    try:
        return max(moment.timestamp() - wall, 0.0)
    except (ValueError, OverflowError):
        return 0.0


def _number(text: str) -> float:
    """A number of seconds that is written as digits, with or without a fraction."""
    if not _NUMBER.fullmatch(text):
        return 0.0
    number = float(text)
    return number if math.isfinite(number) else 0.0
