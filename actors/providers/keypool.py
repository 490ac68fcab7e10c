"""A provider's keys: which one is used next, and which ones are out.

Keys are ordered.  Every upstream request walks from the first one on and takes the next that
is valid: the first key carries the load, the others step in.  What a provider's answer says
about a key stays known to the pool:

========  ====================  =======================================================
status    the key becomes       until
========  ====================  =======================================================
429       temporarily unusable  the answer's own delay is over, or :data:`DEFAULT_COOLDOWN`
401, 403  permanently unusable  the provider is configured anew or the process restarts
others    (nothing)
========  ====================  =======================================================

The reference has done it in two ways.  The later one has no permanent marks: a 401 takes a
key out for a minute, a 403 not at all.  Here the earlier one is followed, because a revoked
key does not recover, and trying it every minute costs a request a failed attempt each time
and may lock the account.

Time is passed in: seconds of any clock that only moves forward.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Literal, TypeAlias

from attrs import define, field, frozen

from aigateway.actors.providers.interception.credentials import mask
from aigateway.actors.providers.interception.header_list import first_of
from aigateway.actors.providers.interception.interface import Headers

__all__ = [
    "DEFAULT_COOLDOWN",
    "MAX_COOLDOWN",
    "Exhausted",
    "Key",
    "KeyPool",
    "KeyPoolError",
    "KeyState",
    "KeyStatus",
    "KeyTransition",
    "Marked",
    "Reason",
    "Walker",
    "requested_delay",
]

KeyState: TypeAlias = Literal["valid", "temporary", "permanent"]
Reason: TypeAlias = Literal["rate_limited", "unauthorized", "forbidden"]

DEFAULT_COOLDOWN = 60.0
"""Seconds that a key rests after a 429 which names no delay; the reference's value."""

MAX_COOLDOWN = 86400.0
"""Longest rest in seconds.  No provider's window is longer than a day, and one absurd header
must not take a key out for good."""

_REASONS: Mapping[int, Reason] = {429: "rate_limited", 401: "unauthorized", 403: "forbidden"}


class KeyPoolError(ValueError):
    """The configured keys make no pool; the text contains no key."""


@frozen
class Key:
    """One key of a pool."""

    index: int
    secret: str = field(repr=False)
    hint: str
    """The masked key, for logs and records."""


@frozen
class KeyStatus:
    """One key as seen from outside."""

    hint: str
    state: KeyState
    remaining: float = 0.0
    """Seconds until a temporary mark ends."""


@frozen
class KeyTransition:
    """A key's state has changed: to be logged and counted."""

    hint: str
    before: KeyState
    after: KeyState
    reason: Reason
    cooldown: float = 0.0
    """Seconds; 0 for a permanent mark."""


@frozen
class Marked:
    """An answer was about the key, so the next key should be tried."""

    reason: Reason
    transition: KeyTransition | None
    """``None`` when the key was in that state already."""


@frozen
class Exhausted:
    """No key is left for a request: what to answer."""

    outcome: Literal["rate_limited", "auth_failed"]
    status: int
    message: str
    retry_after: int | None = None
    """Whole seconds until the first key is back, when that is known."""
    wait: float = field(default=0.0, eq=False)
    """The same, exactly; 0 when it is not known."""


@define
class _Entry:
    key: Key
    resting_until: float = -math.inf
    permanent: bool = False

    def state(self, now: float) -> KeyState:
        if self.permanent:
            return "permanent"
        return "temporary" if now < self.resting_until else "valid"


class KeyPool:
    """Ordered keys and what is known about them.

    Raises :class:`KeyPoolError` (``no keys provided``, ``duplicate key``, ``empty key``).
    """

    def __init__(self, keys: Iterable[str]) -> None:
        secrets = tuple(keys)
        if not secrets:
            raise KeyPoolError("no keys provided")
        if not all(secrets):
            raise KeyPoolError("empty key")
        if len(set(secrets)) < len(secrets):
            raise KeyPoolError("duplicate key")
        self._entries = [
            _Entry(Key(index, secret, mask(secret))) for index, secret in enumerate(secrets)
        ]

    def __repr__(self) -> str:
        return f"<KeyPool of {len(self._entries)}>"

    def __len__(self) -> int:
        return len(self._entries)

    def walk(self) -> Walker:
        """Begin an upstream request, which tries each key at most once."""
        return Walker(self)

    def mark(self, key: Key, status: int, headers: Headers, now: float) -> Marked | None:
        """Learn from the answer to a request with ``key``.

        Returns ``None`` when the answer says nothing about the key: it is then the client's,
        whatever its status.  ``headers`` may name the delay (``retry-after-ms``,
        ``Retry-After`` in seconds; a date is not understood).
        """
        reason = _REASONS.get(status)
        if reason is None:
            return None
        entry = self._entries[key.index]
        before = entry.state(now)
        cooldown = 0.0
        if reason == "rate_limited":
            cooldown = _cooldown(headers)
            entry.resting_until = max(entry.resting_until, now + cooldown)
        else:
            entry.permanent = True
        after = entry.state(now)
        if before == after:
            return Marked(reason, None)
        return Marked(reason, KeyTransition(key.hint, before, after, reason, cooldown))

    def states(self, now: float) -> tuple[KeyStatus, ...]:
        """Every key's state, in the keys' order."""
        return tuple(
            KeyStatus(
                entry.key.hint,
                state := entry.state(now),
                entry.resting_until - now if state == "temporary" else 0.0,
            )
            for entry in self._entries
        )

    def counts(self, now: float) -> dict[KeyState, int]:
        """How many keys are in each state, zeros included."""
        counts: dict[KeyState, int] = {"valid": 0, "temporary": 0, "permanent": 0}
        for entry in self._entries:
            counts[entry.state(now)] += 1
        return counts

    def _next(self, start: int, now: float) -> Key | None:
        """The first valid key from position ``start`` on."""
        for entry in self._entries[start:]:
            if entry.state(now) == "valid":
                return entry.key
        return None

    def _exhausted(self, now: float) -> Exhausted:
        """What to answer when a walk has found no more key."""
        states = [entry.state(now) for entry in self._entries]
        if all(state == "permanent" for state in states):
            return Exhausted("auth_failed", 502, "all configured keys failed authentication")
        retry_after, wait = None, 0.0
        if "valid" not in states:
            back = min(entry.resting_until for entry in self._entries if not entry.permanent)
            wait = back - now
            retry_after = math.ceil(wait)
        return Exhausted(
            "rate_limited",
            429,
            f"all configured keys are rate-limited (retry after {_duration(retry_after or 0)})",
            retry_after,
            wait,
        )


class Walker:
    """One upstream request's way through a pool."""

    def __init__(self, pool: KeyPool) -> None:
        self._pool = pool
        self._position = 0
        self.attempts = 0
        """Keys handed out so far."""
        self.last: Key | None = None
        """The key handed out last."""

    def next(self, now: float) -> Key | Exhausted:
        """Take the next valid key; what lies behind is not looked at again."""
        key = self._pool._next(self._position, now)
        if key is None:
            self._position = len(self._pool)
            return self._pool._exhausted(now)
        self._position = key.index + 1
        self.attempts += 1
        self.last = key
        return key


def requested_delay(headers: Headers) -> float:
    """Seconds that an answer asks to wait before the next try; 0 when it names none."""
    delay = _number(float, first_of(headers, "retry-after-ms")) / 1000
    if delay <= 0:
        delay = _number(int, first_of(headers, "retry-after"))
    return max(delay, 0.0)


def _cooldown(headers: Headers) -> float:
    """Seconds of rest that a 429 asks for."""
    return min(requested_delay(headers) or DEFAULT_COOLDOWN, MAX_COOLDOWN)


def _number(kind: type[int] | type[float], text: str) -> float:
    """The number that a header holds, 0 when it holds none."""
    try:
        number = float(kind(text))
    except (ValueError, OverflowError):
        return 0.0
    return number if math.isfinite(number) else 0.0


def _duration(seconds: int) -> str:
    """Whole seconds as the reference writes them: ``5s``, ``1m0s``, ``2h0m1s``."""
    minutes, seconds = divmod(seconds, 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours}h{minutes}m{seconds}s"
    return f"{minutes}m{seconds}s" if minutes else f"{seconds}s"
