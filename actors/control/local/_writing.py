"""What goes into one transaction of the embedded control plane, and who is told of it."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import count
from typing import TypeVar

from aigateway.actors.actor.base import tell_quietly
from aigateway.actors.control.local.store import Written
from aigateway.actors.control.messages import Spooled, Stored, StoreRecords, Unavailable
from aigateway.actors.values.records import SentContent

__all__ = ["answer_batches", "database_away", "send_back", "take_batches", "take_starts"]

T = TypeVar("T")

_STARTS_AT_ONCE, _RECORDS_AT_ONCE = 256, 1024
_CHARACTERS = 2048
"""Of a part of what was sent that count as a record more."""
"""How much goes into one transaction, so that it holds up nobody for more than some ms."""


def database_away(message: str) -> Unavailable:
    """The answer while the database cannot be asked, for the reason in ``message``."""
    text = "the gateway's database is not available"
    return Unavailable(message, said=text, logged=text)


def take_starts(waiting: list[T]) -> tuple[list[T], list[T]]:
    """Those for the next transaction, and the rest."""
    return waiting[:_STARTS_AT_ONCE], waiting[_STARTS_AT_ONCE:]


def take_batches(waiting: list[StoreRecords]) -> tuple[list[StoreRecords], list[StoreRecords]]:
    """Those for the next transaction, one at least, and the rest."""
    records = taken = 0
    for message in waiting:
        more = sum(map(_weight, message.parcels))
        if taken and records + more > _RECORDS_AT_ONCE:
            break
        records += more
        taken += 1
    return waiting[:taken], waiting[taken:]


def _weight(parcel: Sequence[Spooled]) -> int:
    """As how many records a parcel counts: what was sent may be long."""
    return len(parcel) + sum(
        len(part.text) // _CHARACTERS
        for spooled in parcel
        if isinstance(spooled.record, SentContent)
        for part in spooled.record.parts
    )


def answer_batches(batches: Sequence[StoreRecords], written: Written) -> None:
    """Tell everybody that the records are stored, but for what ``written`` names."""
    positions = count()
    for message in batches:
        done, rejected = [], {}
        for spooled in message.records():
            reason = written.records.get(next(positions))
            if reason is None:
                done.append(spooled.seq)
            else:
                rejected[spooled.seq] = reason
        stored = Stored(tuple(done), rejected=rejected, ticket=message.ticket)
        tell_quietly(message.reply_to, stored)


def send_back(batches: Sequence[StoreRecords], reason: str) -> None:
    """Have the records of ``batches`` sent again: the database is out of reach."""
    for message in batches:
        retry = {spooled.seq: reason for spooled in message.records()}
        stored = Stored(retry=retry, away=True, ticket=message.ticket)
        tell_quietly(message.reply_to, stored)
