"""Points in time and spans of time as a user writes them: callbacks of click options."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta

import click

from aigateway.actors.values.records import moment_told

__all__ = ["minute", "moment", "seconds_of", "span", "within_the_calendar"]

_UNITS = {"w": 604_800, "d": 86_400, "h": 3_600, "m": 60, "s": 1}
_SPAN = re.compile(r"([0-9]{1,12})([wdhms])")


def span(_context: click.Context, _option: click.Parameter, text: str | None) -> int | None:
    """Read a duration; returns seconds.  Raises click.BadParameter."""
    if text is None:
        return None
    seconds = seconds_of(text)
    if seconds is None:
        raise click.BadParameter(f'"{text}" is no duration: write for example 90d, 12h or 1w2d')
    return seconds


def moment(_context: click.Context, _option: click.Parameter, text: str | None) -> float | None:
    """Read a date, a time, or how long ago; returns Unix seconds.  Raises click.BadParameter.

    What names no time zone is UTC.
    """
    if text is None:
        return None
    midnight = datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    if text in ("today", "yesterday"):
        return (midnight - timedelta(days=text == "yesterday")).timestamp()
    ago = seconds_of(text)
    if ago is not None:
        return time.time() - ago
    try:
        return moment_told(text)
    except (ValueError, OverflowError) as ex:
        raise click.BadParameter(
            f'"{text}" is no time: write for example 2026-03-01, 2026-03-01T12:00:00Z,'
            " today, yesterday, or 7d for seven days ago"
        ) from ex


@contextmanager
def within_the_calendar() -> Iterator[None]:
    """Around what makes dates of --since and --until.  Raises click.UsageError for those that no
    date can be made of."""
    try:
        yield
    except (ValueError, OverflowError, OSError) as ex:
        raise click.UsageError(f"--since or --until is outside of the calendar: {ex}") from ex


def minute(moment: str) -> str:
    """A time of the database as tables show it."""
    return moment[:16].replace("T", " ")


def seconds_of(text: str) -> int | None:
    """A duration as a user writes it, in seconds; None for what is none."""
    parts = _SPAN.findall(text)
    if not parts or "".join(amount + unit for amount, unit in parts) != text:
        return None
    return sum(int(amount) * _UNITS[unit] for amount, unit in parts)
