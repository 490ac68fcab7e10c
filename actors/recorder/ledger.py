"""One interception's way to the recorder, for whoever holds the exchange.

The ledger hands records over and waits until they are on disk, so that an answer that a
client has seen to its end is an answer whose records cannot be lost any more.
"""

from __future__ import annotations

import time

import attrs
import pykka
import structlog

from aigateway.actors.actor import ActorDied, Reply, new_reply
from aigateway.actors.recorder.messages import Append
from aigateway.actors.recorder.recorder import Recorder
from aigateway.actors.recorder.records import InterceptionEnded, UsageRecord
from aigateway.actors.tree import ActorTree

__all__ = ["Ledger"]

SUCCESSOR_WAIT = 10.0
"""Seconds to wait for a recorder that is being restarted."""
DISK_WAIT = 30.0
"""Seconds to wait for the disk; the recorder goes on trying after that."""
KEEP = 32
"""Records kept back, at most, before they are handed over in mid-stream."""

log = structlog.get_logger("ai-gateway.recorder")


_Records = tuple[UsageRecord | InterceptionEnded, ...]


class Ledger:
    """Collects the records of one interception and hands them over."""

    def __init__(self, tree: ActorTree, interception_id: str) -> None:
        self._tree = tree
        self._id = interception_id
        self._count = 0
        self._kept: list[UsageRecord | InterceptionEnded] = []
        self._unconfirmed: list[tuple[_Records, Reply[bool] | None]] = []
        self.ended = False

    def add(self, records: list[UsageRecord]) -> None:
        """Take records; hand them over without waiting when many have gathered."""
        for record in records:
            self._count += 1
            self._kept.append(attrs.evolve(record, record_id=str(self._count)))
        if len(self._kept) >= KEEP:
            self._hand_over()

    def end(self, record: InterceptionEnded) -> None:
        """Hand over what is left and the end; returns when all is on disk.

        A second call does nothing.
        """
        if self.ended:
            return
        self.ended = True
        self._kept.append(record)
        self._hand_over()
        for records, reply in self._unconfirmed:
            self._confirm(records, reply)

    def _hand_over(self) -> None:
        records, self._kept = tuple(self._kept), []
        self._unconfirmed.append((records, self._tell(records, self._tree.find("recorder"))))

    def _tell(
        self, records: _Records, recorder: pykka.ActorRef[Recorder] | None
    ) -> Reply[bool] | None:
        if recorder is None:
            return None
        reply = new_reply()
        try:
            recorder.tell(Append(records, reply))
        except pykka.ActorDeadError:
            return None
        return reply

    def _confirm(self, records: _Records, reply: Reply[bool] | None) -> None:
        """Wait until the records are on disk; a recorder that died is replaced soon."""
        deadline = time.monotonic() + SUCCESSOR_WAIT
        while True:
            if reply is not None:
                try:
                    reply.get(timeout=DISK_WAIT)
                except ActorDied:
                    pass
                except pykka.Timeout:
                    log.warning("records are not on disk yet", interception_id=self._id)
                    return
                else:
                    return
            left = deadline - time.monotonic()
            recorder = self._tree.wait_for("recorder", left) if left > 0 else None
            if recorder is None:
                break
            reply = self._tell(records, recorder)
        log.error("no recorder: records are lost", interception_id=self._id, records=len(records))
