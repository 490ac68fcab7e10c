"""One interception's way to the recorder, for whoever holds the exchange.

The ledger hands records over and waits until they are on disk, so that an answer that a
client has seen to its end is an answer whose records cannot be lost any more.
"""

from __future__ import annotations

import time
from typing import Any, TypeAlias

import attrs
import pykka
import structlog

from aigateway.actors.actor.base import ActorDied, Reply, new_reply, tell_quietly
from aigateway.actors.actor.tree import ActorTree
from aigateway.actors.recorder.messages import Append
from aigateway.actors.values.records import InterceptionEnded, UsageRecord

__all__ = ["Ledger"]

SUCCESSOR_WAIT = 10.0
"""Seconds to wait for a recorder that is being restarted."""
DISK_WAIT = 30.0
"""Seconds to wait for the disk; the recorder goes on trying after that."""
KEEP = 32
"""Records kept back, at most, before they are handed over in mid-stream."""

log = structlog.get_logger("ai-gateway.recorder")

_Records: TypeAlias = tuple[UsageRecord | InterceptionEnded, ...]


@attrs.define(eq=False)
class _HandOver:
    """Records that were, or are to be, told to a recorder."""

    records: _Records
    reply: Reply[bool] | None = None
    """None: nobody was there to be told."""

    def open(self) -> bool:
        """Whether nobody has them: nobody was told, or who was told died."""
        if self.reply is None:
            return True
        return self.reply.known and not self.done()

    def done(self) -> bool:
        """Whether they are on disk."""
        if self.reply is None or not self.reply.known:
            return False
        try:
            self.reply.get()
        except ActorDied:
            return False
        return True


class Ledger:
    """Collects the records of one interception and hands them over."""

    def __init__(self, tree: ActorTree, interception_id: str) -> None:
        self._tree = tree
        self._id = interception_id
        self._count = 0
        self._kept: list[UsageRecord | InterceptionEnded] = []
        self._under_way: list[_HandOver] = []
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
        self._confirm()

    def _hand_over(self) -> None:
        records, self._kept = tuple(self._kept), []
        under_way = self._under_way
        while under_way and under_way[0].done():
            del under_way[0]
        under_way.append(_HandOver(records))
        self._tell(self._tree.find("recorder"))

    def _tell(self, recorder: pykka.ActorRef[Any] | None) -> None:
        """Tell what nobody has, in order.

        A recorder is only found when its predecessor is dead for good, and has said so to
        those that waited for it.
        """
        for hand_over in self._under_way:
            if hand_over.open():
                reply = new_reply()
                told = tell_quietly(recorder, Append(hand_over.records, reply))
                hand_over.reply = reply if told else None

    def _confirm(self) -> None:
        """Wait until all is on disk; a recorder that died is replaced soon."""
        began = time.monotonic()
        while self._under_way:
            reply = self._under_way[0].reply
            try:
                if reply is None:
                    raise ActorDied("nobody was told")
                reply.get(timeout=max(0.0, began + DISK_WAIT - time.monotonic()))
            except ActorDied:
                left = began + SUCCESSOR_WAIT - time.monotonic()
                recorder = self._tree.wait_for("recorder", left) if left > 0 else None
                if recorder is None:
                    break
                self._tell(recorder)
            except pykka.Timeout:
                log.warning("records are not on disk yet", interception_id=self._id)
                return
            else:
                del self._under_way[0]
        lost = sum(len(hand_over.records) for hand_over in self._under_way)
        if lost:
            log.error("no recorder: records are lost", interception_id=self._id, records=lost)
