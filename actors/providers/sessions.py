"""Which key a session has: rendezvous hashing, and what is remembered of recent sessions.

Every key has a rank for a session, made of the key's and the session's digests alone.  So all
processes, and the next start, agree on the order; a key that is added takes its own share of
the sessions and moves no others.

A session that is new here passes over a key that has far more to do than the others, and keeps
what it got.  That is remembered, within bounds, by this process only: so a session whose later
requests are bound to an account never does.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from hashlib import blake2b, sha256

from attrs import define

__all__ = ["FORGET_AFTER", "MAX_SESSIONS", "Sessions"]

MAX_SESSIONS = 10_000
"""Sessions of one provider that are remembered; the one unused for longest goes first."""
FORGET_AFTER = 3600.0
"""Seconds after which an unused session is new again: no prompt cache lives longer."""
CROWD = 3
"""Requests in flight below which no key counts as busy, whatever the others have: with a few
requests chance alone makes one key have them all."""


@define
class _Session:
    home: int
    seen: float
    served: int | None = None
    """The key with which its last request was served."""


class Sessions:
    """The sessions of one provider with ``keys``; keys are named by their places."""

    def __init__(self, keys: Sequence[str]) -> None:
        self._digests = [sha256(key.encode()).digest() for key in keys]
        self._known: OrderedDict[str, _Session] = OrderedDict()

    def __len__(self) -> int:
        return len(self._known)

    def order(
        self, session: str, inflight: Sequence[int], now: float, *, stays: bool = False
    ) -> list[int]:
        """All keys, the session's own first.  Without a session it is the configured order.

        ``inflight`` are the requests of each key; a new session that ``stays`` does not pass
        over the one that has most.
        """
        if not session:
            return list(range(len(self._digests)))
        if len(self._digests) == 1:
            return [0]
        ranked = self._ranked(session)
        known = self._recall(session, now)
        if known is None:
            home = ranked[0] if stays else _first_not_busy(ranked, inflight)
            known = self._known[session] = _Session(home, now)
            if len(self._known) > MAX_SESSIONS:
                self._known.popitem(last=False)
        ranked.remove(known.home)
        return [known.home, *ranked]

    def account(self, session: str, now: float) -> int | None:
        """The key whose account knows what the session has stored; None: a new session."""
        known = self._recall(session, now)
        return None if known is None else known.served

    def served(self, session: str, key: int) -> None:
        """A request of the session was served with ``key``."""
        known = self._known.get(session)
        if known is not None:
            known.served = key

    def _recall(self, session: str, now: float) -> _Session | None:
        known = self._known.get(session)
        if known is None:
            return None
        if now - known.seen > FORGET_AFTER:
            del self._known[session]
            return None
        known.seen = now
        self._known.move_to_end(session)
        return known

    def _ranked(self, session: str) -> list[int]:
        name = session.encode()

        def rank(key: int) -> bytes:
            return blake2b(name, key=self._digests[key], digest_size=8).digest()

        return sorted(range(len(self._digests)), key=rank)


def _first_not_busy(ranked: Sequence[int], inflight: Sequence[int]) -> int:
    """The first key that has no more than twice the mean of requests in flight."""
    most = 2 * sum(inflight) / len(inflight)
    for key in ranked:
        if inflight[key] < CROWD or inflight[key] <= most:
            return key
    return ranked[0]
