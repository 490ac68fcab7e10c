"""The days, weeks and months of caps, as the clocks of a place show them."""

from __future__ import annotations

from datetime import UTC, datetime
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aigateway.actors.control.local.caps import NoTimeZone, window_of
from aigateway.actors.values.policy import Every


def at(text: str, zone: str = "UTC") -> float:
    return datetime.fromisoformat(text).replace(tzinfo=ZoneInfo(zone)).timestamp()


@pytest.mark.parametrize(
    ("every", "moment", "zone", "start", "end"),
    [
        ("day", "2026-11-29T12:00", "UTC", "2026-11-29T00:00", "2026-11-30T00:00"),
        ("week", "2026-11-29T12:00", "UTC", "2026-11-23T00:00", "2026-11-30T00:00"),
        ("week", "2026-11-23T00:00", "UTC", "2026-11-23T00:00", "2026-11-30T00:00"),
        ("month", "2026-12-31T23:59", "UTC", "2026-12-01T00:00", "2027-01-01T00:00"),
        ("month", "2028-02-29T12:00", "UTC", "2028-02-01T00:00", "2028-03-01T00:00"),
        (
            "month",
            "2026-12-01T00:00",
            "Asia/Kathmandu",
            "2026-12-01T00:00",
            "2027-01-01T00:00",
        ),
    ],
)
def test_a_window_begins_and_ends_at_midnight(
    every: Every, moment: str, zone: str, start: str, end: str
) -> None:
    found = window_of(every, at(moment, zone), zone)
    assert (found.start, found.end) == (at(start, zone), at(end, zone))


@pytest.mark.parametrize(
    ("day", "zone", "hours"),
    [
        ("2026-03-29", "Europe/Berlin", 23),
        ("2026-10-25", "Europe/Berlin", 25),
        # Its clocks go from midnight to one o'clock.
        ("2026-04-24", "Africa/Cairo", 23),
        # And here from midnight back to eleven: the day before has the hour twice.
        ("2026-10-29", "Africa/Cairo", 25),
        ("2026-04-05", "Australia/Lord_Howe", 24.5),
    ],
)
def test_a_day_is_as_long_as_the_clocks_make_it(day: str, zone: str, hours: float) -> None:
    found = window_of("day", at(f"{day}T12:00", zone), zone)
    assert (found.end - found.start) / 3600 == hours
    first = datetime.fromtimestamp(found.start, ZoneInfo(zone))
    before = datetime.fromtimestamp(found.start - 1, ZoneInfo(zone))
    assert first.date().isoformat() == day
    assert before.date() < first.date()


@given(
    st.sampled_from(["day", "week", "month"]),
    st.floats(0, 4_000_000_000),
    st.sampled_from(["UTC", "Europe/Berlin", "America/Sao_Paulo", "Africa/Cairo", "Asia/Beirut"]),
)
def test_every_moment_is_in_one_window_and_windows_have_no_gaps(
    every: Every, moment: float, zone: str
) -> None:
    found = window_of(every, moment, zone)
    assert found.start <= moment < found.end
    assert window_of(every, found.end, zone).start == found.end
    assert window_of(every, found.start, zone) == found
    assert datetime.fromtimestamp(found.start, UTC).microsecond == 0


def test_an_unknown_time_zone_is_said_to_be_none() -> None:
    with pytest.raises(NoTimeZone, match="'Mars/Base'"):
        window_of("day", 0.0, "Mars/Base")
