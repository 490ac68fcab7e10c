"""What the recorder is told and asked."""

from __future__ import annotations

from typing import Any

import pykka
from attrs import field

from aigateway.actors.actor.base import Inquiry, Reply
from aigateway.actors.recorder.spool import DeadLetter, SpoolStats
from aigateway.actors.values.frozen import frozen
from aigateway.actors.values.records import InterceptionEnded, UsageRecord

__all__ = [
    "Append",
    "ControlPlaneChanged",
    "DiscardDeadLetters",
    "Flushed",
    "GetSpoolStats",
    "ListDeadLetters",
    "Redeliver",
]


@frozen
class Append:
    """Keep these records; replies True when they are on disk.  The reply may be left out."""

    records: tuple[UsageRecord | InterceptionEnded, ...]
    reply: Reply[bool] | None = field(default=None, repr=False, eq=False)


@frozen
class Flushed:
    """Replies True as soon as nothing is waiting any more; what waits is tried at once."""

    reply: Reply[bool] = field(repr=False, eq=False)


@frozen
class ControlPlaneChanged:
    """The control plane actor was replaced, or is connected again: try now.

    ``crashed``: the old one died of an error, which may have been a record's.
    """

    replaced: bool = False
    crashed: bool = False
    plane: pykka.ActorRef[Any] | None = field(default=None, repr=False)
    """The new one; None: the one that fills the role now."""


@frozen
class GetSpoolStats(Inquiry[SpoolStats]):
    """Asked: answers :class:`~aigateway.actors.recorder.spool.SpoolStats`."""


@frozen
class ListDeadLetters(Inquiry[list[DeadLetter]]):
    """Asked: answers a list of :class:`~aigateway.actors.recorder.spool.DeadLetter`, those
    behind number ``after``, the oldest first."""

    after: int = 0
    limit: int = 1000


@frozen
class Redeliver(Inquiry[int]):
    """Asked: puts all dead letters back into the spool, answers how many."""


@frozen
class DiscardDeadLetters(Inquiry[int]):
    """Asked: deletes all dead letters for good, answers how many."""
