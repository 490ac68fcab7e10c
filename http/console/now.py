"""What happens now: one look for all pages that are open, each second while there are any."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from datetime import UTC, datetime
from typing import Final

import structlog
from attrs import define, field, frozen

from aigateway.actors.control.local.schema import Database
from aigateway.http.console.asking import Answers, Gateways, Said
from aigateway.http.console.gateway import Running, merged_requests
from aigateway.http.console.records import (
    Away,
    Entry,
    Minute,
    Records,
    Tokens,
    entries,
    last_hour,
    latencies,
    spent_since,
)

__all__ = ["Observer", "Pulse", "Pulses", "Today", "View"]

BEAT: Final = 1.0
"""Seconds between two looks."""
_PACE: Final = 20
"""A look at sums that took so long is not taken again before so many times that have passed."""
_NEWEST: Final = 12
_UNFINISHED: Final = 50
_STALE: Final = 3600.0
"""Seconds after which what never ended is no longer taken for running."""
_PING: Final = 15.0
"""Seconds without news after which a stream says that it is still there."""

log = structlog.get_logger("ai-gateway.console")


@frozen
class Today:
    """Sums, which cost more to find than the rest."""

    minutes: Sequence[Minute] = ()
    median: float | None = None
    slow: float | None = None
    """Seconds that 95 of 100 whole answers of the last hour did not exceed."""
    requests: int = 0
    tokens: Tokens = field(factory=Tokens)

    @property
    def hour_requests(self) -> int:
        return sum(minute.requests for minute in self.minutes)

    @property
    def hour_errors(self) -> int:
        return sum(minute.errors for minute in self.minutes)


@frozen
class View:
    """What the page Now shows."""

    running: Running
    elsewhere: Sequence[Entry]
    """Those that run according to the records, where no gateway says more."""
    newest: Sequence[Entry]
    today: Today
    no_gateway: str
    """Why no gateway answers; empty: one does."""
    silent: Sequence[Said]
    """Workers that should say something and do not."""
    no_records: str
    own: bool = False
    """It is of one user's requests, which the records know, and no gateway is asked for."""


@define
class Observer:
    """Takes the looks.  Only one thread may at a time."""

    records: Records
    gateways: Gateways
    now: Callable[[], float] = time.time
    owner: str | None = None
    """The id of the user whose requests alone are looked at."""
    _today: Today = field(factory=Today, init=False)
    _next_sums: float = field(default=0.0, init=False)

    def look(self) -> View:
        """Look now; what cannot be read is told in the view."""
        own = self.owner is not None
        # What comes in time is in the next look.
        answers = Answers() if own else self.gateways.ask("requests", patient=False)
        running = merged_requests(answers)
        elsewhere: Sequence[Entry] = ()
        newest: Sequence[Entry] = ()
        trouble = ""
        try:
            with self.records.reading() as database:
                newest = entries(database, owner=self.owner, limit=_NEWEST)
                if own or answers.trouble:
                    since = self.now() - _STALE
                    elsewhere = entries(
                        database, owner=self.owner, status="running", since=since,
                        limit=_UNFINISHED,
                    )  # fmt: skip
                if time.monotonic() >= self._next_sums:
                    self._sum_up(database)
        except Away as ex:
            trouble = str(ex)
        return View(
            running, elsewhere, newest, self._today, answers.trouble, answers.silent, trouble, own
        )

    def _sum_up(self, database: Database) -> None:
        began = time.monotonic()
        now = self.now()
        midnight = datetime.fromtimestamp(now, UTC).replace(
            hour=0, minute=0, second=0, microsecond=0
        )
        minutes = last_hour(database, now, self.owner)
        taken = latencies(database, now - 3600, self.owner)
        count, tokens = spent_since(database, midnight.timestamp(), self.owner)
        self._today = Today(minutes, _share(taken, 0.5), _share(taken, 0.95), count, tokens)
        self._next_sums = time.monotonic() + _PACE * (time.monotonic() - began)


def _share(values: Sequence[float], share: float) -> float | None:
    """The value that so many of these, in their order, do not exceed."""
    return values[min(len(values) - 1, int(share * len(values)))] if values else None


class Pulse:
    """Renders each second for those who listen, once for all of them, and rests without any."""

    def __init__(self, render: Callable[[], str], most: int) -> None:
        """``render`` makes a fragment of HTML; at most ``most`` may listen at once."""
        self._render = render
        self._most = most
        self._changed = threading.Condition()
        self._listeners = 0
        self._beating = False
        self._stopped = False
        self._number = 0
        self._text = ""

    def join(self) -> bool:
        """Take a place among those who listen; False: there is none.  Pairs with
        :meth:`listen`, which gives it back."""
        with self._changed:
            if self._listeners >= self._most or self._stopped:
                return False
            self._listeners += 1
            if not self._beating:
                self._beating = True
                threading.Thread(target=self._beat, name="console-pulse", daemon=True).start()
            return True

    def listen(self) -> Iterator[bytes]:
        """Server-sent events, each a whole fragment, until :meth:`stop`."""
        seen = 0
        try:
            # So that the head leaves at once.
            yield b": hello\n\n"
            while not self._stopped:
                with self._changed:
                    if self._number == seen and not self._stopped:
                        self._changed.wait(_PING)
                    news, seen, text = self._number > seen, self._number, self._text
                yield _event(text) if news else b": ping\n\n"
        finally:
            with self._changed:
                self._listeners -= 1

    def stop(self) -> None:
        """End all streams, for good."""
        with self._changed:
            self._stopped = True
            self._changed.notify_all()

    def _beat(self) -> None:
        last = ""
        while True:
            began = time.monotonic()
            try:
                text = self._render()
            except Exception as ex:
                log.error("the page Now could not be made", exc_info=ex)
                text = last
            with self._changed:
                if text != last or not self._number:
                    last = self._text = text
                    self._number += 1
                    self._changed.notify_all()
                left = max(0.05, BEAT - (time.monotonic() - began))
                self._changed.wait_for(lambda: self._stopped or not self._listeners, left)
                if self._stopped or not self._listeners:
                    self._beating = False
                    return


class Pulses:
    """A pulse for those who see all, and one for each who sees their own alone."""

    def __init__(self, render: Callable[[str | None], Callable[[], str]], most: int) -> None:
        """``render`` makes what a pulse renders with, from the id of the user who it is for (None:
        all); at most ``most`` may listen at once, to whichever."""
        self._render = render
        self._most = most
        self._lock = threading.Lock()
        self._pulses: dict[str | None, tuple[Pulse, int]] = {}
        """Each with how many listen."""
        self._stopped = False

    def listen(self, owner: str | None) -> Generator[bytes] | None:
        """What a page that is open is told (:meth:`Pulse.listen`); None: there is no place."""
        with self._lock:
            if self._stopped or sum(count for _pulse, count in self._pulses.values()) >= self._most:
                return None
            pulse, count = self._pulses.get(owner) or (Pulse(self._render(owner), self._most), 0)
            if not pulse.join():
                return None
            self._pulses[owner] = pulse, count + 1
        return self._heard(owner, pulse)

    def _heard(self, owner: str | None, pulse: Pulse) -> Generator[bytes]:
        try:
            yield from pulse.listen()
        finally:
            with self._lock:
                count = self._pulses[owner][1] - 1
                if count or owner is None:
                    # That of all is kept: it knows what was dear to sum up.
                    self._pulses[owner] = pulse, count
                else:
                    del self._pulses[owner]

    def stop(self) -> None:
        """End all streams, for good."""
        with self._lock:
            self._stopped = True
            pulses = [pulse for pulse, _count in self._pulses.values()]
        for pulse in pulses:
            pulse.stop()


def _event(text: str) -> bytes:
    lines = text.encode().split(b"\n")
    return b"".join(b"data: " + line.rstrip(b"\r") + b"\n" for line in lines) + b"\n"
