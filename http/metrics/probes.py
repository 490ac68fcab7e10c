"""How long messages wait in actors' inboxes, tried from time to time.

Timing each message would cost every request something.  A probe costs nobody anything, and
what waits behind the same messages waits as long as they do.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from typing import Any, Final, TypeAlias

import pykka

from aigateway.actors.actor.base import ActorDied, Probe, tell_quietly
from aigateway.http.metrics.series import Series

__all__ = ["InboxProbes"]

Actors: TypeAlias = Mapping[str, pykka.ActorRef[Any]]
"""By role."""

EVERY: Final = 0.2
"""Seconds between two probes of an actor."""


class InboxProbes:
    """A thread of a gateway worker that probes its actors.

    An actor that is busy has one probe in its inbox, not more and more of them.
    """

    def __init__(self, series: Series, actors: Callable[[], Actors]) -> None:
        """``actors`` tells who is there, by role."""
        self._series = series
        self._actors = actors
        self._out: dict[str, Probe] = {}
        self._stopped = threading.Event()

    def start(self) -> None:
        threading.Thread(target=self._run, name="inbox probes", daemon=True).start()

    def stop(self) -> None:
        self._stopped.set()

    def _run(self) -> None:
        while not self._stopped.wait(EVERY):
            self.probe()

    def probe(self) -> None:
        """Take what has come back, and send new ones to those whose last one has."""
        for role, probe in list(self._out.items()):
            if probe.reply.known:
                del self._out[role]
                self._take(role, probe)
        for role, ref in self._actors().items():
            if role not in self._out:
                probe = Probe()
                if tell_quietly(ref, probe):
                    self._out[role] = probe

    def _take(self, role: str, probe: Probe) -> None:
        try:
            seconds = probe.reply.get()
        except (ActorDied, pykka.ActorDeadError):
            return
        self._series.inbox_wait.labels(role).observe(seconds)
