"""An interception together with its ledger: what is held while its answer is read."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Protocol

from attrs import asdict, evolve

from aigateway.actors.codec.headers import Headers
from aigateway.actors.interception.interface import Interception
from aigateway.actors.providers.bedrock.answer import BedrockInterception
from aigateway.actors.providers.request import AbandonedAttempt, Opened
from aigateway.actors.recorder.ledger import Ledger, RecordPolicy
from aigateway.actors.values.records import InterceptionEnded, Metadata, TokenUsage, UsageRecord

__all__ = ["PROVIDER_MODEL", "Recording", "RecordingTrace"]

_ALL = RecordPolicy()

PROVIDER_MODEL = "provider_model"
"""Metadata of a token record: the model that answered, where that is not the one asked for."""
UPSTREAM_MODEL = "upstream_model"
"""Metadata of a token record: what the provider was asked for, where it calls who answers something
else.  Bedrock's ids have regions, which have prices; its answers do not name them."""
PROVIDER_NAME = "provider_name"
"""Metadata of a token record: who answered, where that is not the provider that was asked."""

ABANDONED = "abandoned_attempts"
"""Metadata of an interception's end: other providers' attempts that may be billed."""


class RecordingTrace(Protocol):
    """Told what becomes of an interception, by the holder of its exchange at the time."""

    def found(self, records: Sequence[UsageRecord]) -> None:
        """Records have become known."""

    def ending(self, end: InterceptionEnded) -> None:
        """The answer is over; its records are being written to disk."""

    def ended(self) -> None:
        """All is on disk."""


class Recording:
    """Feeds what arrives to the interception and its records to the ledger.

    Belongs to the holder of the exchange.
    """

    def __init__(
        self,
        interception: Interception,
        ledger: Ledger,
        observe: Callable[[list[UsageRecord]], None] | None = None,
        policy: RecordPolicy = _ALL,
    ) -> None:
        """``observe`` counts all records as they become known, whatever becomes of them;
        ``policy`` says what is recorded of them."""
        self._asked = interception
        self.interception = interception
        """What reads the answer: the client's, in Bedrock's clothes where the answer has them."""
        self.ledger = ledger
        self._observe = observe
        self._policy = policy
        self.credential_hint = ""
        self.provider_name: str | None = None
        self._provider_model = ""
        self._abandoned: tuple[AbandonedAttempt, ...] = ()
        self.tokens: list[TokenUsage] = []
        """What its answers have used."""
        self.prompt_parts = b""
        """Checksums of the prompt's parts, for the end's record."""
        self._stored: Callable[[], None] | None = None
        self.trace: RecordingTrace | None = None
        self.closed = False
        """The end is recorded and, unless the disk refuses, on disk."""

    def sent(
        self, records: Sequence[UsageRecord], stored: Callable[[], None], *, at_once: bool
    ) -> None:
        """Record what is sent; ``stored`` is called when nothing can lose it any more.

        ``at_once``: it is too much to be held until the answer has ended.
        """
        self._stored = stored
        self.ledger.add(self._policy.kept(list(records)), at_once=at_once)

    def begin_answer(self, opened: Opened, *, asked: tuple[str, str]) -> Headers:
        """The head of an answer has arrived; returns the headers that fit what the client gets.

        ``asked`` is which provider was asked for which model; who answers with which, by its
        own name, is noted where it is another.
        """
        self.answered_by(opened, opened.model, asked=asked)
        model = asked[1]
        exchange, headers = opened.exchange, opened.exchange.headers
        if not opened.converted:
            self.interception = self._asked
            self._asked.begin_answer(exchange.status, headers)
            return headers
        self.interception = converted = BedrockInterception(self._asked, model)
        converted.begin_answer(exchange.status, headers)
        return converted.answer_headers(headers)

    def answered_by(self, opened: Opened, answering: str, *, asked: tuple[str, str]) -> None:
        """Note who answers, with the model that it calls ``answering``."""
        provider, model = asked
        self.credential_hint = opened.credential_hint
        if opened.provider_name != provider:
            self.provider_name = opened.provider_name
        self._provider_model = answering if answering != model else ""

    def abandoned(self, attempts: tuple[AbandonedAttempt, ...]) -> None:
        """Note who was asked in vain, and may bill it."""
        self._abandoned += attempts

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
        metadata = self._named(outcome.metadata)
        if self._abandoned:
            metadata = {**metadata, ABANDONED: [asdict(each) for each in self._abandoned]}
        ended = InterceptionEnded(
            id=self.interception.id,
            ended_at=time.time(),
            credential_hint=self.credential_hint,
            error_type=outcome.error_type,
            error_message=outcome.error_message,
            provider_name=self.provider_name,
            metadata=metadata,
            prompt_parts=self.prompt_parts,
        )
        trace = None
        if not self.ledger.ended:
            # A second call records nothing, so there is nothing to log or to trace.
            ended, trace = self._policy.end(ended), self.trace
        if trace is not None:
            trace.ending(ended)
        if self.ledger.end(ended) and self._stored is not None:
            self._stored()
        self.closed = True
        if trace is not None:
            trace.ended()

    def _collect(self) -> None:
        records = self.interception.take_records()
        if records:
            if self._provider_model or self.provider_name:
                records = [self._with_answerer(record) for record in records]
            self.tokens += [each for each in records if isinstance(each, TokenUsage)]
            if self._observe is not None:
                self._observe(records)
            records = self._policy.kept(records)
            self.ledger.add(records)
            if self.trace is not None:
                self.trace.found(records)

    def _with_answerer(self, record: UsageRecord) -> UsageRecord:
        """Tokens cost what the model that was called costs, with whom it was called; what the
        answer says of the model counts more."""
        if not isinstance(record, TokenUsage):
            return record
        metadata = self._named(record.metadata)
        if self._provider_model and metadata[PROVIDER_MODEL] != self._provider_model:
            metadata = {**metadata, UPSTREAM_MODEL: self._provider_model}
        if self.provider_name:
            metadata = {**metadata, PROVIDER_NAME: self.provider_name}
        return record if metadata is record.metadata else evolve(record, metadata=metadata)

    def _named(self, metadata: Metadata) -> Metadata:
        """With the model that was called, unless it is the one asked for or told already."""
        if not self._provider_model or PROVIDER_MODEL in metadata:
            return metadata
        return {**metadata, PROVIDER_MODEL: self._provider_model}
