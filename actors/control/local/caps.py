"""Caps that hold: windows of time, and whether a request may begin.

Theory of operation.  A cap has a window, and for each window there is a *till*: what is spent,
what is reserved for calls that are running, and how many those are.  Before a call is made its
worst case is reserved; when its usage is known the reservation becomes what was really spent.

- Where as much is spent as the cap allows, nothing begins any more.
- A call begins where its worst case fits: spent, reserved and itself are within the cap.
- Where it does not fit though less than the cap is spent, it waits until that cap has no open
  reservation, and then begins alone.  While it runs nothing else fits.

So what is spent passes a cap by one call at most, as long as no call costs more than its worst
case, and nobody is refused for an estimate.

A request that waits is *next*: later ones wait behind, also in other gateways, or small calls would
keep a large one waiting for ever.  Who is next says so again each time it looks; after
:data:`NEXT_FOR` seconds of silence its place is free.

Where the gateway runs tools a request makes a call for each round.  Between two it is *paused*:
its reservation is what the rounds so far have really cost, and nobody has to wait for its end.  Or
two of them would wait for each other.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping, Sequence
from datetime import date, datetime, timedelta
from typing import TypeAlias
from zoneinfo import ZoneInfo

from attrs import define

from aigateway.actors.values.caps import CapShare
from aigateway.actors.values.frozen import frozen
from aigateway.actors.values.policy import AppliedCap, Every
from aigateway.actors.values.records import timestamp

__all__ = [
    "NEXT_FOR",
    "NOTABLE",
    "Begun",
    "CapTill",
    "CapTills",
    "Full",
    "NoTimeZone",
    "Till",
    "TillKey",
    "Verdict",
    "Wait",
    "Window",
    "begin",
    "tills_of",
    "window_of",
]

NEXT_FOR = 3.0
"""Seconds for which the call that is next keeps its place."""
NOTABLE = 0.75
"""The part of a cap from which on its users are told."""


class NoTimeZone(ValueError):
    """There is no such time zone."""


@frozen
class Window:
    """From one moment to before another, in Unix seconds."""

    start: float
    end: float
    starts_at: str
    ends_at: str
    """As :func:`~.records.timestamp` writes them."""


@functools.lru_cache(maxsize=64)
def _zone(name: str) -> ZoneInfo:
    try:
        return ZoneInfo(name)
    except (LookupError, OSError, ValueError) as ex:
        raise NoTimeZone(f"there is no time zone {name!r}") from ex


def window_of(every: Every, moment: float, zone: str) -> Window:
    """The day, week (from Monday) or month around ``moment`` (Unix seconds), as the clocks of
    ``zone`` show it; a day has 23 or 25 hours when they change.  Raises NoTimeZone."""
    found = _zone(zone)
    return _window(every, datetime.fromtimestamp(moment, found).date(), zone)


@functools.lru_cache(maxsize=1024)
def _window(every: Every, day: date, zone: str) -> Window:
    if every == "day":
        first, last = day, day + timedelta(days=1)
    elif every == "week":
        first = day - timedelta(days=day.weekday())
        last = first + timedelta(days=7)
    else:
        first = day.replace(day=1)
        last = (first + timedelta(days=31)).replace(day=1)
    start, end = _midnight(first, zone), _midnight(last, zone)
    return Window(start, end, timestamp(start), timestamp(end))


def _midnight(day: date, zone: str) -> float:
    # Where a day begins at one o'clock midnight is read with the offset before the change, which
    # is the same moment.
    return datetime(day.year, day.month, day.day, tzinfo=_zone(zone)).timestamp()


TillKey: TypeAlias = tuple[str, str, str, str]
"""Scope, id, kind of window, and its start as it is written."""


CapTill: TypeAlias = tuple[AppliedCap, TillKey, Window]


@frozen
class CapTills:
    """The caps of a caller with the tills of their present windows."""

    caps: tuple[AppliedCap, ...]
    zone: str
    all: tuple[CapTill, ...]
    felt: Mapping[TillKey, CapTill]
    """Of each till the lowest of its caps, which is the one that is felt."""
    start: float
    end: float
    """From this moment to before that one, in Unix seconds, the windows are the present ones."""

    def at(self, now: float) -> CapTills:
        """Those of ``now``."""
        return self if self.start <= now < self.end else tills_of(self.caps, now, self.zone)


@define
class Till:
    """One cap's window.  Nano-dollars."""

    spent: int = 0
    reserved: int = 0
    """For calls that run or are paused."""
    open: int = 0
    """How many run."""
    next_id: str = ""
    """Which call begins before all others; empty: none waits."""
    next_until: float = 0.0

    @property
    def row(self) -> tuple[int, int, int, str, float]:
        return self.spent, self.reserved, self.open, self.next_id, self.next_until


@frozen
class Begun:
    """It may begin, and its worst case is reserved; the fullest cap, if that is notable."""

    share: CapShare | None = None


@frozen
class Wait:
    """It does not fit; it is to ask again."""

    share: CapShare


@frozen
class Full:
    """All that the cap allows is spent."""

    share: CapShare


Verdict: TypeAlias = Begun | Wait | Full


def tills_of(caps: Sequence[AppliedCap], now: float, zone: str) -> CapTills:
    """Some caps with their present tills.  Raises NoTimeZone."""
    found: list[CapTill] = []
    felt: dict[TillKey, CapTill] = {}
    for cap in caps:
        every, subject = cap.cap.every, cap.subject
        window = window_of(every, now, zone)
        key = subject.per, subject.id, every, window.starts_at
        found.append((cap, key, window))
        if key not in felt or cap.cap.nano_usd < felt[key][0].cap.nano_usd:
            felt[key] = found[-1]
    windows = [window for _cap, _key, window in found]
    start = max((window.start for window in windows), default=-math.inf)
    end = min((window.end for window in windows), default=math.inf)
    return CapTills(tuple(caps), zone, tuple(found), felt, start, end)


def begin(
    id: str,
    worst: int,
    caps: Sequence[CapTill],
    tills: Mapping[TillKey, Till],
    now: float,
) -> Verdict:
    """May the call of interception ``id``, that costs ``worst`` at most, begin?  If it may, that
    is reserved in ``tills``; if it has to wait, it takes its place there.

    A later round is paused when it asks.  What costs nothing always begins.
    """
    fullest: CapShare | None = None
    short: list[tuple[CapShare, Till]] = []
    for cap, key, window in caps:
        till = tills[key]
        share = CapShare(cap, till.spent, window.end)
        if fullest is None or share.part > fullest.part:
            fullest = share
        if not worst:
            continue
        # Where nothing runs all that is reserved was spent between rounds.
        if till.spent + (till.reserved if not till.open else 0) >= cap.cap.nano_usd:
            return Full(share)
        if not _fits(id, worst, cap, till, now):
            short.append((share, till))
    if short:
        for _share, till in short:
            _stand_next(id, till, now)
        return Wait(short[0][0])
    for key in dict.fromkeys(key for _cap, key, _window in caps):
        till = tills[key]
        till.reserved += worst
        till.open += 1
        if till.next_id == id:
            till.next_id, till.next_until = "", 0.0
    return Begun(fullest if fullest is not None and fullest.part >= NOTABLE else None)


def _stand_next(id: str, till: Till, now: float) -> None:
    """Take or keep the place of who is next, where nobody else has it."""
    if till.next_id in ("", id) or till.next_until <= now:
        till.next_id, till.next_until = id, now + NEXT_FOR


def _fits(id: str, worst: int, cap: AppliedCap, till: Till, now: float) -> bool:
    if till.next_id not in ("", id) and till.next_until > now:
        return False
    return till.open == 0 or till.spent + till.reserved + worst <= cap.cap.nano_usd
