"""A provider's keys: which one is used next, and which ones rest.

Theory of operation
-------------------
A key rests, it never dies.  What an answer says about the key that it was asked with:

======  ==========================================================================
status  the key
======  ==========================================================================
429     rests for this model (of a passed request: for this kind of route) as long as
        the answer says, or :data:`DEFAULT_REST`; with ``x-should-retry: false`` and
        no delay the answer is about the request, and nothing rests
401     rests for everything, :data:`DEFAULT_REST` first, twice as long each time it
        is refused again; a success ends that
403     does not rest; it is the last choice for this model and session
others  (nothing)
======  ==========================================================================

No rest is longer than the pool's ``longest``: one absurd header, or a quota that somebody
raises meanwhile, must not take a key away for a day.

A rest after a 429 *excludes* the key, for one model.  A rest after a 401 only *orders* keys:
those that rest come after those that do not, the one whose rest ends first before the others.
So no refusal of a key ever leaves a request without one to try.

Of the keys that may be used a request gets the one of its session (:mod:`.sessions`).  Without
a session it is the first as configured.

Memory is bounded: rests that are over are dropped, and only :data:`MAX_RESTS` are kept.
Clients choose the names of models.

Time is passed in: ``now`` in seconds of any clock that only moves forward, ``wall`` in Unix
seconds.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Iterable
from hashlib import sha256
from typing import Literal, TypeAlias

from attrs import define, field, frozen

from aigateway.actors.codec.headers import Headers, first_of
from aigateway.actors.interception.conversation import NO_AFFINITY, Affinity
from aigateway.actors.interception.headers import mask
from aigateway.actors.providers.delays import requested_delay
from aigateway.actors.providers.sessions import FORGET_AFTER, Sessions

__all__ = [
    "DEFAULT_REST",
    "LONGEST_REST",
    "MAX_RESTS",
    "Key",
    "KeyPool",
    "KeyPoolError",
    "KeyState",
    "KeyStatus",
    "Marked",
    "Reason",
    "Rest",
    "Subject",
    "Walker",
]

KeyState: TypeAlias = Literal["valid", "temporary"]
"""``temporary``: it rests, at least for one model."""
Reason: TypeAlias = Literal["rate_limited", "unauthorized", "forbidden"]

DEFAULT_REST = 60.0
"""Seconds of rest after a 401, and after a 429 that names no delay; the reference's value."""

LONGEST_REST = 300.0
"""Longest rest in seconds unless configured otherwise."""

MAX_RESTS = 1000
"""Rests after a 429 that are kept; beyond that the one that ends first is given up."""
MAX_LAST_CHOICES = 1000
"""Models of sessions for which it is remembered that a key may not use them."""
LONGEST_NAME = 200
"""Characters of a subject's name; a longer one is cut and told apart by a digest."""


class KeyPoolError(ValueError):
    """The configured keys make no pool; the text contains no key."""


@frozen
class Subject:
    """What a rate limit is about: a model, or a kind of passed route."""

    kind: Literal["model", "route"]
    name: str

    @classmethod
    def model(cls, name: str) -> Subject:
        return cls("model", _bounded(name))

    @classmethod
    def route(cls, name: str) -> Subject:
        return cls("route", _bounded(name))

    def __str__(self) -> str:
        return f"{self.kind} {self.name}"


@frozen
class Key:
    """One key of a pool."""

    index: int
    secret: str = field(repr=False)
    hint: str
    """The masked key, for logs and records."""


@frozen
class Rest:
    """One rest of one key as seen from outside."""

    hint: str
    subject: Subject | None
    """None: for everything."""
    reason: Reason
    remaining: float
    """Seconds until it is over."""


@frozen
class KeyStatus:
    """One key as seen from outside."""

    hint: str
    rests: tuple[Rest, ...] = ()

    @property
    def state(self) -> KeyState:
        return "temporary" if self.rests else "valid"


@frozen
class Marked:
    """An answer was about the key, so the next key should be tried."""

    reason: Reason
    begun: Rest | None = None
    """The rest that began; None: there is none, or it had begun before."""


@define
class _Trial:
    """What 401s have brought upon a key."""

    since: float
    until: float
    times: int


@define
class _Entry:
    key: Key
    trial: _Trial | None = None
    """Stays until a success, so that the next 401 is known to be a repetition."""

    def unauthorized_until(self, now: float) -> float:
        """When its rest after a 401 ends; 0 when it has none."""
        return self.trial.until if self.trial is not None and now < self.trial.until else 0.0


class KeyPool:
    """Ordered keys and what is known about them.

    ``longest`` bounds each rest, in seconds.  Raises :class:`KeyPoolError` (``no keys
    provided``, ``duplicate key``, ``empty key``).
    """

    def __init__(self, keys: Iterable[str], longest: float = LONGEST_REST) -> None:
        secrets = tuple(keys)
        if not secrets:
            raise KeyPoolError("no keys provided")
        if not all(secrets):
            raise KeyPoolError("empty key")
        if len(set(secrets)) < len(secrets):
            raise KeyPoolError("duplicate key")
        self._longest = longest
        self._entries = [
            _Entry(Key(index, secret, mask(secret))) for index, secret in enumerate(secrets)
        ]
        self._limited: dict[tuple[int, Subject], float] = {}
        """When each rest after a 429 ends."""
        self._last_choices: OrderedDict[tuple[str, Subject], dict[int, float]] = OrderedDict()
        """Keys that answered 403, and until when that is remembered."""
        self._sessions = Sessions(secrets)
        self._inflight = [0] * len(secrets)

    def __repr__(self) -> str:
        return f"<KeyPool of {len(self._entries)}, {len(self._limited)} rests>"

    def __len__(self) -> int:
        return len(self._entries)

    def walk(self, subject: Subject, affinity: Affinity = NO_AFFINITY) -> Walker:
        """Begin an upstream request, which tries each key at most once."""
        return Walker(self, subject, affinity)

    def is_on_trial(self, key: Key) -> bool:
        """Whether a success with this key would change what is known about it."""
        return self._entries[key.index].trial is not None

    def accepted(self, key: Key) -> None:
        """The provider has served a request with this key."""
        self._entries[key.index].trial = None

    def states(self, now: float) -> tuple[KeyStatus, ...]:
        """Every key with its rests, in the keys' order; the rest that ends last comes first."""
        self._drop_past(now)
        rests: list[list[Rest]] = [[] for _ in self._entries]
        for entry in self._entries:
            until = entry.unauthorized_until(now)
            if until:
                rests[entry.key.index].append(
                    Rest(entry.key.hint, None, "unauthorized", until - now)
                )
        for (index, subject), until in self._limited.items():
            hint = self._entries[index].key.hint
            rests[index].append(Rest(hint, subject, "rate_limited", until - now))
        return tuple(
            KeyStatus(
                entry.key.hint,
                tuple(sorted(rests[entry.key.index], key=lambda rest: -rest.remaining)),
            )
            for entry in self._entries
        )

    def inflight(self, key: Key) -> int:
        """Requests that are being served with this key."""
        return self._inflight[key.index]

    # -- for walks

    def _wait(self, index: int, subject: Subject, now: float) -> float:
        """Seconds for which a key is excluded."""
        until = self._limited.get((index, subject))
        return max(until - now, 0.0) if until is not None else 0.0

    def _order(self, affinity: Affinity, now: float) -> list[int]:
        """The keys that may serve a request, the one that should first."""
        session = affinity.session
        order = self._sessions.order(session, self._inflight, now, stays=affinity.stays)
        if not session or not affinity.bound:
            return order
        account = self._sessions.account(session, now)
        return order[:1] if account is None else [account]

    def _choose(self, walker: Walker, now: float) -> Key | None:
        if not self._limited and len(self._entries) == 1:
            # PERF: nothing but a 429 keeps an only key from being asked; 2 us less.
            return None if walker.tried else self._entries[0].key
        subject, session = walker.subject, walker.affinity.session
        order = self._order(walker.affinity, now)
        avoided = self._last_choices.get((session, subject), {})
        best: tuple[tuple[bool, float], int] | None = None
        for index in order:
            if index in walker.tried or self._wait(index, subject, now) > 0:
                continue
            place = (avoided.get(index, now) > now, self._entries[index].unauthorized_until(now))
            if best is None or place < best[0]:
                best = place, index
        return None if best is None else self._entries[best[1]].key

    def _mark(
        self, walker: Walker, status: int, headers: Headers, now: float, wall: float
    ) -> Marked | None:
        key = walker.last
        if key is None:
            return None
        if status == 429:
            return self._limit(key, walker.subject, headers, now, wall)
        if status == 401:
            return self._distrust(self._entries[key.index], walker.taken_at, now)
        if status == 403:
            self._avoid(key, walker, now)
            return Marked("forbidden")
        return None

    def _limit(
        self, key: Key, subject: Subject, headers: Headers, now: float, wall: float
    ) -> Marked | None:
        delay = requested_delay(headers, wall)
        if not delay and first_of(headers, "x-should-retry").lower() == "false":
            return None
        delay = min(DEFAULT_REST if delay is None else delay, self._longest)
        if not delay:
            # "Now": the provider wants to be asked again, by this key too.
            return Marked("rate_limited")
        place = (key.index, subject)
        before = self._wait(key.index, subject, now)
        if len(self._limited) >= MAX_RESTS and place not in self._limited:
            self._drop_past(now)
            if len(self._limited) >= MAX_RESTS:
                del self._limited[min(self._limited, key=self._limited.__getitem__)]
        # An answer that was on its way for long may name an earlier end.
        self._limited[place] = max(now + delay, now + before)
        begun = Rest(key.hint, subject, "rate_limited", delay) if not before else None
        return Marked("rate_limited", begun)

    def _distrust(self, entry: _Entry, taken_at: float, now: float) -> Marked:
        trial = entry.trial
        if trial is not None and taken_at < trial.since:
            # It was under way when the rest began: the same trouble once more.
            return Marked("unauthorized")
        times = 1 if trial is None else trial.times + 1
        # Beyond 2^30 minutes doubling says nothing more.
        seconds = min(DEFAULT_REST * 2.0 ** min(times - 1, 30), self._longest)
        rested = bool(entry.unauthorized_until(now))
        entry.trial = _Trial(now, now + seconds, times)
        rest = Rest(entry.key.hint, None, "unauthorized", seconds)
        return Marked("unauthorized", None if rested else rest)

    def _avoid(self, key: Key, walker: Walker, now: float) -> None:
        session = walker.affinity.session
        if not session or len(self._entries) == 1:
            return
        avoided = self._last_choices.setdefault((session, walker.subject), {})
        avoided[key.index] = now + FORGET_AFTER
        self._last_choices.move_to_end((session, walker.subject))
        if len(self._last_choices) > MAX_LAST_CHOICES:
            self._last_choices.popitem(last=False)

    def _drop_past(self, now: float) -> None:
        past = [place for place, until in self._limited.items() if until <= now]
        for place in past:
            del self._limited[place]

    def _back_in(self, walker: Walker, now: float) -> float:
        """Seconds until the first of the keys that a request may use is back; 0: none is out."""
        places = self._order(walker.affinity, now)
        return min(self._wait(index, walker.subject, now) for index in places)

    def _moves(self, before: Key | None, after: Key | None) -> None:
        """A request is served with another key than before."""
        if before is not None:
            self._inflight[before.index] -= 1
        if after is not None:
            self._inflight[after.index] += 1


class Walker:
    """One upstream request's way through a pool."""

    def __init__(self, pool: KeyPool, subject: Subject, affinity: Affinity) -> None:
        self._pool = pool
        self.subject = subject
        self.affinity = affinity
        self.tried: set[int] = set()
        """The places of the keys handed out so far."""
        self.last: Key | None = None
        """The key handed out last."""
        self.taken_at = -math.inf
        self._refused = False
        self._ended = False

    def next(self, now: float) -> Key | None:
        """Take the best key that was not tried; None: no key is left."""
        key = self._pool._choose(self, now)
        if key is None:
            return None
        self._pool._moves(self.last, key)
        self.tried.add(key.index)
        self.last, self.taken_at = key, now
        self._refused = False
        return key

    def refused(self, status: int, headers: Headers, now: float, wall: float) -> Marked | None:
        """Learn from the answer to the request with the last key.

        Returns None when it says nothing about the key: it is then the client's, whatever its
        status.
        """
        marked = self._pool._mark(self, status, headers, now, wall)
        self._refused = status >= 400
        return marked

    def once_more(self, subject: Subject, now: float) -> Walker:
        """Another request with the last key, which was not chosen for it: on one connection."""
        walker = Walker(self._pool, subject, self.affinity)
        walker.last, walker.taken_at = self.last, now
        return walker

    def accepted(self) -> None:
        """The provider has served the request with the last key."""
        if self.last is not None:
            self._pool.accepted(self.last)

    def back_in(self, now: float) -> float:
        """Seconds until the first key that this request may use comes back from a rest after a
        429; 0: one may be used now."""
        return self._pool._back_in(self, now)

    @property
    def attempts(self) -> int:
        """Keys handed out so far."""
        return len(self.tried)

    def end(self, *, answered: bool = False) -> int:
        """The request is over, with an answer or without one.

        Returns how many keys it took; of a second end 0.
        """
        if self._ended:
            return 0
        self._ended = True
        self._pool._moves(self.last, None)
        if answered and self.last is not None and not self._refused:
            self._pool._sessions.served(self.affinity.session, self.last.index)
        return self.attempts


def _bounded(name: str) -> str:
    if len(name) <= LONGEST_NAME:
        return name
    digest = sha256(name.encode("utf-8", "replace")).hexdigest()
    return f"{name[: LONGEST_NAME - 17]} {digest[:16]}"
