"""Whether a record was lost: what the control plane stored against what the provider saw.

The imitation upstream is the witness.  Each request that reached it must have an interception
that has ended, each answer that it sent to the end must have a token usage with the numbers it
reported, unless the client had gone before and the record says so, and a prompt if the request
ended with a person's words.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Protocol

from attrs import frozen

from bench.upstream import Counters

__all__ = ["Ledger", "RecordCounts", "StoredRecord", "losses", "wait_settled"]

STILL = 15.0
"""Seconds without a new record after which nothing more is expected."""
LIMIT = 180.0
"""Seconds after which records that still come are given up."""
_POLL = 0.1


@frozen
class RecordCounts:
    """What a control plane has stored since it was started."""

    interceptions: int = 0
    ended: int = 0
    client_gone: int = 0
    """Ended ones of which the client did not wait for the answer's end."""
    failed: int = 0
    """Ended ones with another error."""
    prompts: int = 0
    usages: int = 0
    """Interceptions with complete token usage; its parts may be several records."""
    input_tokens: int = 0
    output_tokens: int = 0
    """Sums over complete token usages."""


@frozen
class StoredRecord:
    """One record that a control plane has."""

    kind: str
    """interception, ended, prompt or usage."""
    interception: str
    text: str = ""
    """The words of a prompt."""


class Ledger(Protocol):
    """Where records can be counted."""

    def count(self) -> RecordCounts: ...


def losses(counts: RecordCounts, seen: Counters) -> list[str]:
    """What is missing or wrong, in words; empty when all is there."""
    found = []
    if counts.interceptions < seen.requests:
        found.append(
            f"{seen.requests - counts.interceptions} of {seen.requests} requests reached the"
            " provider without a recorded interception"
        )
    if counts.ended < counts.interceptions:
        found.append(f"{counts.interceptions - counts.ended} interceptions have no end")
    if counts.prompts < seen.prompts:
        found.append(f"{seen.prompts - counts.prompts} prompts are missing")
    missing = seen.answers - counts.usages
    if missing > counts.client_gone:
        found.append(
            f"{missing - counts.client_gone} of {seen.answers} complete answers have no complete"
            " token usage"
        )
    elif missing == 0 and (counts.input_tokens, counts.output_tokens) != (
        seen.input_tokens,
        seen.output_tokens,
    ):
        found.append(
            f"the token usages add up to {counts.input_tokens} in and {counts.output_tokens} out,"
            f" the provider reported {seen.input_tokens} and {seen.output_tokens}"
        )
    return found


def _settled(counts: RecordCounts, seen: Counters) -> bool:
    return not seen.open and not losses(counts, seen)


def wait_settled(ledger: Ledger, witness: Callable[[], Counters]) -> tuple[RecordCounts, Counters]:
    """Wait until every record is stored, or until no more come."""
    deadline = time.monotonic() + LIMIT
    before: tuple[RecordCounts, Counters] | None = None
    changed_at = time.monotonic()
    while True:
        now = ledger.count(), witness()
        if _settled(*now):
            return now
        moment = time.monotonic()
        if now != before:
            before, changed_at = now, moment
        if moment - changed_at > STILL or moment > deadline:
            return now
        time.sleep(_POLL)
