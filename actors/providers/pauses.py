"""How long a request waits before it is tried again, and how many may."""

from __future__ import annotations

from collections.abc import Callable

from aigateway.actors.providers.jobs import Job

__all__ = ["Pauses"]

FIRST_PAUSE, LONGEST_PAUSE = 0.5, 8.0
"""Seconds before the first retry, doubled for each further one; the SDKs' values."""
PAUSE_JITTER = 0.25
"""Part of a pause that is left to chance; the SDKs' value."""
MAX_PAUSED = 1000
"""Requests of one provider that may wait for a retry; further ones are not tried again."""
LONGEST_REQUESTED = 60.0
"""Seconds of an upstream's Retry-After that are waited; the SDKs' value.  After that long the
client is better off asking again."""


class Pauses:
    """Those of one provider's requests."""

    def __init__(self, most: int, random: Callable[[], float]) -> None:
        """``most`` tries of one request after its first; ``random`` returns a number from 0 to
        1."""
        self._most = most
        self._random = random
        self.waiting = 0
        """Requests that wait."""

    def begin(self, job: Job, requested: float, now: float, *, always: bool) -> float | None:
        """Seconds that the job waits, None when there is to be no other try.

        ``requested`` is what the upstream asks for; ``always`` holds also where retries are not
        configured.
        """
        if job.retries >= self._most and not always:
            return None
        if requested > LONGEST_REQUESTED or self.waiting >= MAX_PAUSED:
            return None
        if requested > 0:
            # Never sooner, and not all at once.
            seconds = requested + PAUSE_JITTER * self._random()
        else:
            usual = min(FIRST_PAUSE * 2.0**job.retries, LONGEST_PAUSE)
            seconds = usual * (1 - PAUSE_JITTER * self._random())
        if now + seconds >= job.deadline:
            return None
        job.retries += 1
        self.waiting += 1
        return seconds

    def over(self) -> None:
        """A request has waited."""
        self.waiting -= 1
