"""An interception together with its ledger: what is held while its answer is read."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Protocol

from aigateway.actors.providers.interception.interface import Interception, Outcome
from aigateway.actors.recorder.ledger import Ledger
from aigateway.actors.recorder.records import InterceptionEnded, UsageRecord

__all__ = ["Recording", "RecordingTrace"]


class RecordingTrace(Protocol):
    """Told what becomes of an interception, by whoever holds its exchange at the time."""

    def found(self, records: Sequence[UsageRecord]) -> None:
        """Records have become known."""

    def ending(self, outcome: Outcome) -> None:
        """The answer is over; its records are being written to disk."""

    def ended(self) -> None:
        """All is on disk."""


class Recording:
    """Feeds what arrives to the interception and its records to the ledger.

    Belongs to whoever holds the exchange.
    """

    def __init__(
        self,
        interception: Interception,
        ledger: Ledger,
        observe: Callable[[list[UsageRecord]], None] | None = None,
    ) -> None:
        """``observe`` is shown all records as they become known, whatever becomes of them."""
        self.interception = interception
        self.ledger = ledger
        self._observe = observe
        self.credential_hint = ""
        self.provider_name: str | None = None
        self.trace: RecordingTrace | None = None
        self.closed = False
        """The end is recorded and, unless the disk refuses, on disk."""

    def data(self, arrived: bytes) -> bytes:
        """Feed bytes of the answer; returns what goes to the client."""
        interception = self.interception
        out = interception.receive_data(arrived, time.time())
        self._collect()
        return out

    def end(self, *, framed: bool) -> bytes:
        """The answer has ended; returns the last bytes for the client."""
        out = self.interception.receive_end(time.time(), framed=framed)
        self._collect()
        return out

    def cut(self, reason: str, error_type: str) -> bytes:
        """The upstream broke off; returns an error event for the client."""
        out = self.interception.receive_cut(reason, time.time(), error_type=error_type)
        self._collect()
        return out

    def lost_client(self) -> None:
        """The client has gone and the rest of the answer will not be read."""
        self.interception.receive_lost_client(time.time())
        self._collect()

    def close(self) -> None:
        """Record the end as the interception knows it; returns when all is on disk."""
        outcome = self.interception.outcome()
        trace = self.trace if not self.ledger.ended else None
        if trace is not None:
            trace.ending(outcome)
        self.ledger.end(
            InterceptionEnded(
                id=self.interception.id,
                ended_at=time.time(),
                credential_hint=self.credential_hint,
                error_type=outcome.error_type,
                error_message=outcome.error_message,
                provider_name=self.provider_name,
                metadata=outcome.metadata,
            )
        )
        self.closed = True
        if trace is not None:
            trace.ended()

    def _collect(self) -> None:
        records = self.interception.take_records()
        if records:
            self.ledger.add(records)
            if self._observe is not None:
                self._observe(records)
            if self.trace is not None:
                self.trace.found(records)
