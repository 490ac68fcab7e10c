"""Credentials that do not last, kept fresh in the background.

A source says what is valid now; a keeper asks it in a thread of its own, long before the end, so
that a request finds a credential ready.  Only the first ones wait, and those that met a refusal:
one fetch is for all of them.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable
from typing import Generic, Protocol, TypeVar

import structlog

__all__ = ["BUDGET", "CredentialKeeper", "CredentialSource", "Expiring", "Keeper", "NoCredentials"]

BUDGET = 30.0
"""Seconds that a request may wait for the first credentials (as in the reference)."""
RENEW_EVERY = 60.0
"""Seconds between looks whether credentials are due; botocore renews them from 15 minutes
before their end on."""
RETRY_EVERY = 5.0
"""Seconds after which fetching is tried again when it failed."""
_AHEAD = 300.0
"""Seconds before their end at which credentials are fetched again.  Azure's own command line tool
says another token then, and not before."""
_PART_AHEAD = 0.2
"""Of what is shorter-lived than that, the part of its life."""
_LEAST_PAUSE = 1.0
"""Seconds between two fetches at least."""
Kept = TypeVar("Kept")
KeptOut = TypeVar("KeptOut", covariant=True)

log = structlog.get_logger("ai-gateway.credentials")


class NoCredentials(Exception):
    """There is nothing to sign with now; the text says why."""


class Keeper(Protocol[KeptOut]):
    """Has credentials ready."""

    def current(self, timeout: float = BUDGET) -> KeptOut:
        """The credentials to sign with now; waits for the first ones, ``timeout`` seconds.

        Raises NoCredentials.
        """

    def renew(self, since: float) -> bool:
        """The provider refuses what was there at ``since`` (monotonic time): fetch again, without
        waiting for it.

        False: there is nothing newer to be had.
        """

    @property
    def renewals(self) -> tuple[int, int]:
        """How often others have come in the place of those before, and how often none."""

    def close(self) -> None:
        """Stop renewing."""


class CredentialSource(Protocol[KeptOut]):
    """Where a keeper's thread gets credentials from.  Both methods may block and raise."""

    def fetch(self) -> KeptOut:
        """The newest credentials, renewed if they are due."""

    def expired(self) -> bool:
        """Whether those that were fetched last have lost their worth."""

    def forget(self) -> None:
        """Begin again with the next fetch, whatever is still valid by its own account."""


class Expiring:
    """The part of a source whose credentials say when they end, or that nobody knows."""

    def __init__(self, expires_at: float | None = None) -> None:
        self.expires_at = expires_at
        """Of those that were fetched last, in Unix seconds."""

    def expired(self) -> bool:
        """See :class:`CredentialSource`."""
        return self.expires_at is not None and self.expires_at <= time.time()

    def due(self) -> float | None:
        """Seconds until the next ones are to be fetched; None: when these are refused."""
        if self.expires_at is None:
            return None
        left = self.expires_at - time.time()
        return max(left - min(_AHEAD, left * _PART_AHEAD), _LEAST_PAUSE)


class CredentialKeeper(Generic[Kept]):
    """Fetches in a thread of its own and keeps what came.  Safe to use from many threads."""

    def __init__(
        self,
        source: CredentialSource[Kept],
        *,
        name: str = "",
        what: str = "AWS credentials",
        renew_every: float = RENEW_EVERY,
        retry_every: float = RETRY_EVERY,
        due: Callable[[], float | None] | None = None,
        first: Kept | None = None,
        noted: Callable[[Kept], None] | None = None,
        same_again: float = 0.0,
    ) -> None:
        """``name`` is the provider's, for logs, as is ``what``.  The thread starts with the first
        request.

        ``due`` says after how many seconds what was fetched last is to be fetched again (None: when
        it is refused), in the place of ``renew_every``.  ``first`` is there already.  ``noted`` is
        told all that come, in the keeper's thread.  When those that come in the place of refused
        ones are the same, nobody is asked again for ``same_again`` seconds.
        """
        self._source = source
        self._name = name
        self._what = what
        self._due = due or (lambda: renew_every)
        self._retry_every = retry_every
        self._noted = noted
        self._same_again = same_again
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._known = threading.Event()
        self._closed = threading.Event()
        self._keys = first
        self._error = "no answer of the credential source"
        self._wake = threading.Event()
        self._fetched_at = -math.inf
        self._stale = False
        self._refused: Kept | None = None
        self._same_until = -math.inf
        self._renewed = 0
        self._failed = 0

    def current(self, timeout: float = BUDGET) -> Kept:
        """See :class:`Keeper`."""
        if self._thread is None:
            self._start()
        if self._keys is None and not self._known.wait(timeout):
            raise NoCredentials(f"no {self._what} within {timeout:g} s: {self._error}")
        keys = self._keys
        if keys is None:
            raise NoCredentials(self._error)
        return keys

    def renew(self, since: float) -> bool:
        """See :class:`Keeper`.  Many may say so of the same ones."""
        with self._lock:
            if self._fetched_at > since or self._stale:
                return True
            if time.monotonic() < self._same_until:
                return False
            self._refused, self._keys = self._keys, None
            self._stale = True
            self._known.clear()
            self._wake.set()
        return True

    @property
    def renewals(self) -> tuple[int, int]:
        """See :class:`Keeper`."""
        return self._renewed, self._failed

    def close(self) -> None:
        """Stop renewing."""
        self._closed.set()
        self._wake.set()

    def _start(self) -> None:
        with self._lock:
            if self._thread is None:
                self._thread = threading.Thread(
                    target=self._run, name=f"credentials-{self._name}", daemon=True
                )
                self._thread.start()

    def _run(self) -> None:
        if self._keys is not None:
            self._wake.wait(self._due())
        while not self._closed.is_set():
            self._wake.clear()
            if self._stale:
                self._source.forget()
            pause = self._due() if self._fetch() else self._retry_every
            self._known.set()
            self._wake.wait(pause)

    def _fetch(self) -> bool:
        try:
            keys = self._source.fetch()
        except Exception as ex:
            # botocore's errors have no common base, and those of its transport come too.
            self._error = str(ex) if isinstance(ex, NoCredentials) else self._fault(ex)
            if self._keys is not None and self._has_expired():
                self._keys = None
            self._failed += 1
            log.warning(
                "cannot renew credentials",
                what=self._what,
                provider=self._name,
                error=self._error,
                still_valid=self._keys is not None,
            )
            self._stale = False
            return False
        if self._noted is not None:
            self._noted(keys)
        with self._lock:
            now = time.monotonic()
            before = self._refused if self._stale else self._keys
            if keys != before:
                self._renewed += before is not None
            elif self._stale:
                self._same_until = now + self._same_again
            self._keys, self._stale, self._refused, self._fetched_at = keys, False, None, now
        return True

    def _has_expired(self) -> bool:
        try:
            return self._source.expired()
        except Exception:
            return True

    def _fault(self, ex: Exception) -> str:
        return f"no {self._what} found: {type(ex).__name__}: {ex}"
