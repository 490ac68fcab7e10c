"""An interception together with its ledger: what is held while its answer is read.

An interception has an id (:func:`new_interception_id`), and a policy says what of it is recorded,
and whether it is written to the log as well.  The ledger hands records over to the recorder and
waits until they are on disk, so that an answer that a client has seen to its end is an answer
whose records cannot be lost any more.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final, Protocol, TypeAlias

import attrs
import pykka
import structlog
from attrs import asdict, evolve, frozen

from aigateway.actors.actor.base import ActorDied, Reply, new_reply, tell_quietly
from aigateway.actors.actor.tree import ActorTree
from aigateway.actors.codec.headers import Headers
from aigateway.actors.interception.interface import Interception
from aigateway.actors.providers.bedrock.answer import BedrockInterception
from aigateway.actors.providers.request import AbandonedAttempt, Opened
from aigateway.actors.recorder.messages import Append
from aigateway.actors.values.records import (
    INVALID_ARGUMENTS,
    RECORD_LINE,
    InterceptionBegun,
    InterceptionEnded,
    Metadata,
    ModelAnswer,
    ModelThought,
    PromptUsage,
    Record,
    SentContent,
    TokenUsage,
    ToolUsage,
    UsageRecord,
    timestamp,
)

__all__ = [
    "Ledger",
    "PROVIDER_MODEL",
    "RecordPolicy",
    "Recording",
    "RecordingTrace",
    "new_interception_id",
]


def new_interception_id(now: float | None = None) -> str:
    """Make a UUID of version 7 (RFC 9562): it begins with the time, ``now`` in Unix seconds.

    Ids in the order of time keep the indexes of a database that stores them compact and warm:
    the embedded one takes less than half of the CPU time per record that it needs for random
    ids.

    PERF: nobody is to guess anything by them, so the other bits are of Python's generator,
    which the system seeds in each process and after each fork.
    """
    micros = int((time.time() if now is None else now) * 1_000_000)
    millis, rest = divmod(micros, 1000)
    # Twelve bits for the part of a millisecond, as section 6.2 method 3 has it.
    value = (
        (millis & 0xFFFF_FFFF_FFFF) << 80
        | 0x7 << 76
        | (rest * 4096 // 1000) << 64
        | 0b10 << 62
        | random.getrandbits(62)
    )
    text = f"{value:032x}"
    return f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"


record_log = structlog.get_logger("ai-gateway.records")

_TYPES: Final[dict[type[Record], str]] = {
    InterceptionBegun: "interception_start",
    InterceptionEnded: "interception_end",
    TokenUsage: "token_usage",
    PromptUsage: "prompt_usage",
    ToolUsage: "tool_usage",
    ModelThought: "model_thought",
}
"""How the reference calls them in its own log lines.  It has none for answers, which are not
written to logs."""
_TIMES: Final = frozenset({"started_at", "ended_at", "created_at"})
_LEFT_OUT: Final = {
    "record_id",
    "extra_token_types",
    "agent_firewall_session_id",
    "agent_firewall_sequence_number",
    "prompt_parts",
}
_WITHHELD: Final = {"content": "none"}
"""Metadata of a record whose content was taken out."""


@frozen(kw_only=True)
class RecordPolicy:
    """Applied where records leave an interception, before anything else sees them."""

    content: bool = True
    """Whether what users and models said may be recorded: prompts, tools' inputs, thoughts, and
    texts of errors, which may quote them."""
    answers: bool = False
    """Whether answers are recorded as well, and all that is sent to models."""
    lines: bool = False
    """Write each record to the log, once, wherever the control plane is."""

    def kept(self, records: list[UsageRecord]) -> list[UsageRecord]:
        """What is recorded of these, and perhaps logged."""
        if not self.content:
            records = [kept for record in records if (kept := _without_content(record))]
        if self.lines:
            for record in records:
                self.log(record)
        return records

    def end(self, record: InterceptionEnded) -> InterceptionEnded:
        """What is recorded of the end, and perhaps logged."""
        if not self.content:
            record = attrs.evolve(record, error_message=None)
        self.log(record)
        return record

    def log(self, record: Record) -> None:
        """Write a line, where lines are wanted."""
        if not self.lines or type(record) not in _TYPES:
            return
        fields = attrs.asdict(record, recurse=False, filter=_is_shown)
        for name in _TIMES & fields.keys():
            fields[name] = timestamp(fields[name])
        if "id" in fields:
            fields["interception_id"] = fields.pop("id")
        if isinstance(record, InterceptionBegun):
            fields |= attrs.asdict(fields.pop("attribution"), filter=_is_shown)
        if isinstance(record, TokenUsage) and record.extra_token_types:
            fields["metadata"] = {**record.metadata, **record.extra_token_types}
        record_log.info(RECORD_LINE, record_type=_TYPES[type(record)], **fields)


def _without_content(record: UsageRecord) -> UsageRecord | None:
    match record:
        case PromptUsage() | ModelThought() | ModelAnswer() | SentContent():
            return None
        case ToolUsage():
            error = None if record.invocation_error is None else "failed"
            metadata = {k: v for k, v in record.metadata.items() if k != INVALID_ARGUMENTS}
            return attrs.evolve(
                record,
                input="{}",
                invocation_error=error,
                metadata={**metadata, **_WITHHELD},
            )
        case TokenUsage():
            return record


def _is_shown(attribute: attrs.Attribute[object], value: object) -> bool:
    return attribute.name not in _LEFT_OUT and value is not None


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

    def add(self, records: Iterable[UsageRecord], *, at_once: bool = False) -> None:
        """Take records; hand them over without waiting when many have gathered, or ``at_once``."""
        for record in records:
            self._count += 1
            # PERF: nobody else holds it yet; a copy takes 1.5 us.
            object.__setattr__(record, "record_id", str(self._count))
            self._kept.append(record)
        if len(self._kept) >= KEEP or at_once:
            self._hand_over()

    def end(self, record: InterceptionEnded) -> bool:
        """Hand over what is left and the end; returns when all is on disk, and says whether it is.

        A second call does nothing.
        """
        if self.ended:
            return False
        self.ended = True
        self._kept.append(record)
        self._hand_over()
        return self._confirm()

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
                reply: Reply[bool] = new_reply()
                told = tell_quietly(recorder, Append(hand_over.records, reply))
                hand_over.reply = reply if told else None

    def _confirm(self) -> bool:
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
                return False
            else:
                del self._under_way[0]
        lost = sum(len(hand_over.records) for hand_over in self._under_way)
        if lost:
            log.error("no recorder: records are lost", interception_id=self._id, records=lost)
        return not lost


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
        if records := interception.take_records():
            self._keep(records)
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
        if records := self.interception.take_records():
            self._keep(records)

    def _keep(self, records: list[UsageRecord]) -> None:
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
