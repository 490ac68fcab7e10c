"""One request in several rounds: the model calls tools that the gateway runs.

Theory of operation.  Each round is one request to the provider and its answer.  A round is
read by an ordinary interception, which makes the records and holds back events that are not
whole; what it lets out is edited here so that the client sees one answer: calls of injected
tools are taken out, the numbers of what follows are made good, and the end of an answer that
goes on is kept back.

The holder carries each round as it would carry any exchange.  When a round has ended and
:attr:`InjectedInterception.calls` are waiting, it runs them and hands in the results with
:meth:`~InjectedInterception.answer`.  Then, while :attr:`~InjectedInterception.goes_on`, it
sends :meth:`~InjectedInterception.upstream_body` and begins the next round; else the bytes
that came back were the last.

An answer with calls of the client's own tools beside injected ones ends the loop: the calls
are run, and the client gets its own to answer.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Sequence
from typing import ClassVar

from attrs import define, evolve, field, frozen

from aigateway.actors.codec.decoding import (
    Decoder,
    DecodingError,
    decoder_for,
    encode,
)
from aigateway.actors.codec.headers import Headers, joined
from aigateway.actors.codec.reading import Object, is_json, json_text, members, text
from aigateway.actors.codec.splice import set_member
from aigateway.actors.codec.sse import EventReader, parse_event
from aigateway.actors.interception._one_answer import Numbering, Totals
from aigateway.actors.interception.injection import Injected
from aigateway.actors.interception.interface import Outcome
from aigateway.actors.interception.outcomes import CLIENT_GONE
from aigateway.actors.interception.relay import Relay
from aigateway.actors.interception.routes import Api
from aigateway.actors.values.records import INVALID_ARGUMENTS, ToolUsage, UsageRecord
from aigateway.actors.values.tools import ToolResult, Tools

__all__ = ["InjectedCall", "InjectedInterception"]

CUT_SHORT = "the call was not run: the answer ended before it was complete"
OVER_LIMIT = "the call was not run: the limit on rounds of tool calls was reached"


@frozen
class InjectedCall:
    """A call of an injected tool that the model asked for."""

    id: str
    tool: str
    """The tool's name as the model knows it."""
    arguments: str
    """As the model wrote them: a JSON object, if it did well."""
    msg_id: str
    created_at: float


@define
class _Called:
    """Takes the calls of injected tools out of a round's records."""

    tools: Tools
    calls: list[InjectedCall] = field(factory=list)

    def take(self, usage: ToolUsage) -> bool:
        """Whether this record is not to be made: it is a call that is to be run."""
        if usage.tool not in self.tools:
            return False
        arguments = str(usage.metadata.get(INVALID_ARGUMENTS, usage.input))
        if arguments.startswith('"'):
            arguments = text(arguments.encode()) or ""
        elif arguments == "null":
            arguments = ""
        id = usage.tool_call_id
        if not id or id not in {known.id for known in self.calls}:
            call = InjectedCall(id, usage.tool, arguments, usage.msg_id, usage.created_at)
            self.calls.append(call)
        return True


class InjectedInterception(ABC):
    """An :class:`~.interface.Interception` of several rounds; subclasses know the APIs."""

    api: ClassVar[Api]
    no_tools: ClassVar[bytes] = b'"none"'
    """The choice of tools by which the model is asked for words."""

    def __init__(
        self, first: Relay, injected: Injected, content_encoding: str, max_rounds: int
    ) -> None:
        """``first`` is the client's request without the tools.  At most ``max_rounds`` rounds
        of calls are run; then the model is asked once more, without tools."""
        self.id = first.id
        self.model = first.model
        self.streaming = first.streaming
        self.correlating_tool_call_id = first.correlating_tool_call_id
        self.refusal = first.refusal
        self.event_stream = False
        self.keepalives = first.keepalives
        self._injected = injected
        self.tools: Tools = injected.tools
        self.rounds = 1
        self.calls: Sequence[InjectedCall] = ()
        """What is to be run now."""
        self.goes_on = False
        """Another round is to be sent."""
        self.body: bytes = injected.body
        """The request of this round, without content coding."""
        self.answer_body = bytearray()
        """What the client gets when it gets no event stream; whole after the last round."""
        self.client_left = False
        """Nobody waits any more: what is called from now on is not run."""
        self.edit_faults = 0
        self._coding = content_encoding
        self._max_rounds = max_rounds
        self._started = False
        self._decoder: Decoder | None = None
        self._reader = EventReader()
        self._records: list[UsageRecord] = []
        self._outcome: Outcome | None = None
        self._cut = False
        self._over = False
        self._totals = Totals()
        self._parts = Numbering()
        self._begin_round(first)

    def _begin_round(self, relay: Relay) -> None:
        """``relay`` reads the next answer; what is known of the one before is no more needed."""
        self._round = relay
        self._called = _Called(self.tools)
        relay.divert_tools(self._called.take)
        self._totals.begin_answer()
        self._parts.begin_answer()
        self._kept_back: list[bytes] = []
        self._client_has_calls = False
        self._stop_reason = ""

    # -- what subclasses provide

    @abstractmethod
    def _is_plain(self, piece: bytes) -> bool:
        """Whether an event of a first answer without injected calls so far may leave unread."""

    @abstractmethod
    def _edit(self, piece: bytes, name: str, event: Object) -> bytes:
        """What the client sees now of an event of the round's stream."""

    @abstractmethod
    def _edit_last(self, piece: bytes) -> bytes:
        """An event that was kept back, now that the round turns out to be the last."""

    @abstractmethod
    def _read_answer(self, answer: Object) -> None:
        """Take from a blocking answer what a stream tells bit by bit."""

    @abstractmethod
    def _edit_body(self, body: bytes) -> bytes:
        """The last round's blocking answer as the client is to see it."""

    @abstractmethod
    def _wants_results(self) -> bool:
        """Whether the answer ended in order to have its calls run."""

    @abstractmethod
    def _next_body(self, answered: Sequence[tuple[InjectedCall, ToolResult]]) -> bytes:
        """The next request: this round's, with the answer and the results behind it."""

    # -- requests

    def upstream_body(self) -> bytes:
        """The body to send in this round."""
        return encode(self.body, self._coding) if self._coding else self.body

    def leave_out(self, tools: Collection[str]) -> None:
        """Offer the first round without these tools: its provider refuses a request with them."""
        if self._injected.without is None:
            raise ValueError("it is not known how the request looks without tools")
        injected = self._injected = self._injected.without(tools)
        self.body, self.tools = injected.body, injected.tools
        self._called.tools = self.tools

    def arguments_of(self, call: InjectedCall) -> str:
        """The arguments of a call as the tool's server expects them."""
        way_back = self._injected.ways_back.get(call.tool)
        return call.arguments if way_back is None else way_back.arguments(call.arguments)

    # -- the answer of a round

    def begin_answer(self, status: int, headers: Headers) -> None:
        """The head of the round's answer has arrived."""
        self.goes_on = False
        try:
            self._decoder = decoder_for(joined(headers, "content-encoding"))
        except DecodingError:
            # The round reads nothing and relays everything.
            self._decoder = None
        else:
            headers = self.answer_headers(headers) if self._decoder else headers
        self._round.begin_answer(status, headers)
        if not self._started:
            self._started = True
            self.event_stream = self._round.event_stream
            self.refusal = self._round.refusal
        elif self._round.refusal is not None and not self.event_stream:
            self.refusal = self._round.refusal

    def answer_headers(self, headers: Headers) -> Headers:
        """The headers that fit what the client gets: it is not encoded."""
        about = ("content-encoding", "content-length")
        return [(name, value) for name, value in headers if name.lower() not in about]

    def receive_data(self, data: bytes, now: float) -> bytes:
        """Take what arrived; return what goes to the client now."""
        if self._cut:
            return b""
        if self._decoder is not None:
            try:
                data = self._decoder.feed(data)
            except DecodingError as ex:
                return self.receive_cut(f"the answer's content coding is broken: {ex}", now)
        return self._let_out(self._round.receive_data(data, now))

    def _let_out(self, data: bytes) -> bytes:
        if not self.event_stream:
            self.answer_body += data
            return b""
        if self.rounds > 1 and not self._round.event_stream:
            # An error in the middle of the stream; it is told as an event, at its end.
            return b""
        return b"".join([self._shown_of(piece) for piece in self._reader.feed(data)])

    def _shown_of(self, piece: bytes) -> bytes:
        # PERF: nearly all events of a first answer leave as they came.
        if self.rounds == 1 and not self._parts.hides and self._is_plain(piece):
            return piece
        try:
            name, data = parse_event(piece)
            return self._edit(piece, name.decode("utf-8", "replace"), members(data))
        except Exception:
            # Whatever an upstream may send that nobody thought of, relaying goes on.
            self.edit_faults += 1
            return piece

    def _keep_back(self, piece: bytes) -> bytes:
        """The event belongs to an end of which it is open whether the client sees it."""
        self._kept_back.append(piece)
        return b""

    def receive_end(self, now: float, *, framed: bool = True) -> bytes:
        """The round's body has ended; return the last bytes for the client, so far."""
        if self._over or self.calls or self.goes_on:
            return b""
        out = self._let_out(self._round.receive_end(now, framed=framed))
        return out + self._end_round(now)

    def receive_cut(self, reason: str, now: float, *, error_type: str = "server_error") -> bytes:
        """The upstream broke off, or refused the next round."""
        if self._over or self.calls:
            return b""
        self.goes_on = False
        last_words = self._round.receive_cut(reason, now, error_type=error_type)
        if self.rounds > 1 and self.event_stream and not self._round.event_stream:
            # Not even begun.
            last_words = self._round.error_event(error_type, reason)
        out = self._let_out(last_words) if self._round.event_stream else last_words
        return out + self._end_round(now)

    def _end_round(self, now: float) -> bytes:
        rest = self._reader.flush()
        out = self._shown_of(rest) if rest else b""
        self._reader = EventReader()
        failed = self._round.cut or self._round.outcome().error_type is not None
        if not failed and not self.event_stream:
            self._read_answer(members(self.answer_body))
        calls = self._called.calls
        if failed or not calls or not self._wants_results():
            self._not_run(calls, CUT_SHORT)
            return out + self._end(now)
        if self.client_left:
            self._not_run(calls, CLIENT_GONE)
            self._fail("unknown", CLIENT_GONE)
            return out + self._end(now)
        if self.rounds > self._max_rounds:
            self._not_run(calls, OVER_LIMIT)
            return out + self._end(now)
        self.calls = tuple(calls)
        return out

    def answer(self, results: Sequence[ToolResult], now: float) -> bytes:
        """The results of :attr:`calls`, in their order; returns bytes for the client.

        Then :attr:`goes_on` says whether another round follows.
        """
        answered = list(zip(self.calls, results, strict=True))
        self.calls = ()
        for call, result in answered:
            error = result.transport_error
            if error is None and result.is_error:
                error = "; ".join(result.as_texts().texts)
            self._record(call, result.tool, result.server_url, error)
        if self._client_has_calls:
            return self._end(now)
        try:
            self.body = self._next_body(answered)
            if self.rounds >= self._max_rounds:
                self.body = set_member(self.body, self.no_tools, "tool_choice")
        except ValueError as ex:
            self._fail("server_error", f"the conversation cannot be continued: {ex}")
            return self._end(now)
        self._records += self._round.take_records()
        self.rounds += 1
        self.answer_body = bytearray()
        self._begin_round(self._round.another())
        self.goes_on = True
        return b""

    def leave(self, now: float) -> None:
        """No further round will be sent: the client has gone."""
        self._over = True
        self.goes_on = False
        self._fail("unknown", CLIENT_GONE)
        self._cut = True

    def _end(self, now: float) -> bytes:
        """That was the last round."""
        del now
        self._over = True
        if not self.event_stream:
            body = bytes(self.answer_body)
            if not self._round.cut and self._round.outcome().error_type is None:
                body = self._edit_body(body)
            self.answer_body = bytearray(body)
            return b""
        if self.rounds > 1 and not self._round.event_stream and not self._round.cut:
            # The provider refused the continuation, or answered in another way.
            outcome = self._round.outcome()
            message = outcome.error_message or "The AI provider did not answer with a stream."
            kind = outcome.error_type or "server_error"
            self._fail(kind, message)
            self._cut = True
            return self._round.error_event(kind, message)
        kept_back, self._kept_back = self._kept_back, []
        return b"".join(map(self._edit_last, kept_back))

    def _fail(self, error_type: str, message: str) -> None:
        if self._outcome is None:
            self._outcome = Outcome(error_type, message)

    def receive_lost_client(self, now: float) -> None:
        """The client has gone and the upstream will not be read to its end."""
        self._round.receive_lost_client(now)
        self._not_run(self._called.calls, CUT_SHORT)
        self._over = True

    # -- records

    def _not_run(self, calls: Sequence[InjectedCall], why: str) -> None:
        for call in calls:
            tool = self.tools[call.tool]
            self._record(call, tool.name, tool.server_url, why)

    def _record(self, call: InjectedCall, tool: str, server_url: str, error: str | None) -> None:
        known = self.tools[call.tool]
        self._records.append(
            ToolUsage(
                interception_id=self.id,
                msg_id=call.msg_id,
                # A tool that has vanished is known by the model's name alone.
                tool=known.name if tool == call.tool else tool,
                input=_as_json(self.arguments_of(call)),
                created_at=call.created_at,
                tool_call_id=call.id,
                server_url=server_url or known.server_url,
                injected=True,
                invocation_error=error,
            )
        )

    def take_records(self) -> list[UsageRecord]:
        """Records that have become known since the last call."""
        records, self._records = self._records, []
        return records + self._round.take_records()

    # -- what is known of it

    @property
    def cut(self) -> bool:
        """The answer did not end as its API ends."""
        return self._cut or self._round.cut

    @property
    def complete(self) -> bool:
        """All has been seen: nothing is to be run and no round follows."""
        return self._round.complete and not self._called.calls

    def keepalive(self) -> bytes:
        """Bytes that keep a silent stream's client waiting, or nothing.

        Only whole events are let out, so it may come at any time.
        """
        if not self.event_stream or self._over or self._cut:
            return b""
        return self._round.ping_for(self.keepalives)

    def first_words(self) -> bytes:
        """What may be sent before anything else, so that a client has the answer's head."""
        return self._round.ping if self.event_stream and not self._cut else b""

    def outcome(self) -> Outcome:
        """How it ended; meaningful after the last receive call."""
        of_round = self._round.outcome()
        if self._outcome is None:
            return of_round
        return evolve(self._outcome, metadata=of_round.metadata)

    def error_body(self, status: int, message: str) -> bytes:
        """A blocking error answer (application/json) in the API's own shape."""
        return self._round.error_body(status, message)

    @property
    def faults(self) -> int:
        """Events of this round that could not be read."""
        return self._round.faults + self.edit_faults


def _as_json(arguments: str) -> str:
    if not arguments.strip():
        return "null"
    return arguments if is_json(arguments.encode()) else json_text(arguments)
