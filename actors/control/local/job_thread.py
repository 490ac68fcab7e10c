"""A thread that does an actor's jobs one after the other, so that the actor never waits."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable
from typing import Any

from attrs import frozen

__all__ = ["FIRST_REST", "LONGEST_REST", "JobThread", "Done"]

FIRST_REST, LONGEST_REST = 0.05, 1.0
"""Seconds between two tries while the database is away."""

_SILENT = 5.0
"""Seconds without an answer after which a thread is not relied on."""


@frozen
class Done:
    """From a thread: what came of its job."""

    thread: JobThread
    job: Any
    """With the answers, when there was no error."""
    error: Exception | None = None


class JobThread:
    """A thread that does one job after the other and tells the actor, which owns all but that.

    ``trial`` is the job that only finds out whether such jobs can be done; it is the first.
    """

    def __init__(
        self,
        name: str,
        do: Callable[[Any], Any],
        tell: Callable[[Any], object],
        trial: object,
    ) -> None:
        self.trouble: str | None = "it was not reached yet"
        self.resting = False
        self.rest = FIRST_REST
        self.job: Any = None
        self.given_at = 0.0
        self.heard_at = 0.0
        self._trial = trial
        self._do, self._tell = do, tell
        self._jobs: queue.SimpleQueue[Any] = queue.SimpleQueue()
        threading.Thread(target=self._run, name=name, daemon=True).start()
        self.try_out()

    @property
    def free(self) -> bool:
        return self.job is None and not self.resting

    def give(self, job: object) -> None:
        self.job, self.given_at = job, time.monotonic()
        self._jobs.put(job)

    def try_out(self) -> None:
        self.give(self._trial)

    def why_not(self, now: float) -> str | None:
        """Why it cannot be relied on; None when it can.  ``now`` in monotonic seconds."""
        if self.trouble is None and self.job is not None and now - self.given_at > _SILENT:
            return f"no answer for {now - self.given_at:.0f} s"
        return self.trouble

    def close(self) -> None:
        """Let the thread end when it is done with what it has in hand."""
        self._jobs.put(None)

    def _run(self) -> None:
        while (job := self._jobs.get()) is not None:
            try:
                done = Done(self, self._do(job))
            except Exception as ex:
                done = Done(self, job, ex)
            del job
            self._tell(done)
