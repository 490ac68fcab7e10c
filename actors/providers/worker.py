"""The upstream worker: asks for one answer at a time, and owns the connection until it is there.

A worker may block: on connecting, on sending, on the answer's head, on draining.  That is
what it is for; its provider never does.  An exchange that its request holds needs no worker: the
next one may have it meanwhile.
"""

from __future__ import annotations

import math
import time
from typing import Any, TypeAlias

import pykka
import requests
import structlog

from aigateway.actors.actor.base import ActorDied, GatewayActor, Watcher, fail
from aigateway.actors.interception.routes import CONVERSE, GEMINI, MODEL_CALL, speaks_bedrock
from aigateway.actors.providers.beginning import BadStart, Beginning
from aigateway.actors.providers.jobs import (
    Abandon,
    Answered,
    Discard,
    Drained,
    Failed,
    Job,
    Lent,
    Released,
    Reported,
    Run,
)
from aigateway.actors.providers.making import Maker
from aigateway.actors.providers.recording import Recording
from aigateway.actors.providers.refusals import ProviderAnswer
from aigateway.actors.providers.request import Attempts, Converse, Drain, Opened, Refused
from aigateway.actors.upstream.connect import Connector
from aigateway.actors.upstream.errors import (
    AnswerTimeout,
    GatewayEnds,
    Quiet,
    UpstreamCut,
    UpstreamError,
)
from aigateway.actors.upstream.exchange import Exchange
from aigateway.actors.upstream.kept import KeptConnection

__all__ = ["UpstreamWorker", "abandon", "open_answer", "refusal_of"]

DISCARD_LIMIT = 64 * 1024
"""Bytes of a refusal, or of an unwanted answer, that are read for the provider to decide, or so
that the connection can be used again."""
DISCARD_TIME = 1.0
"""Seconds for that."""

_Told: TypeAlias = Answered | Failed | Lent | Reported | Released | Drained

log = structlog.get_logger("ai-gateway.provider")


class UpstreamWorker(GatewayActor):
    """Asks the upstream of ``provider``."""

    def __init__(
        self,
        role: str,
        watcher: Watcher,
        *,
        provider: pykka.ActorRef[Any],
        provider_name: str,
        connector: Connector,
        maker: Maker,
        head_timeout: float,
        idle_timeout: float,
        drain_timeout: float,
        fallback_after: float,
    ) -> None:
        super().__init__(role, watcher)
        self._provider = provider
        self._provider_name = provider_name
        self._connection = KeptConnection(connector)
        self._maker = maker
        self._head_timeout = head_timeout
        self._idle_timeout = idle_timeout
        self._drain_timeout = drain_timeout
        self._fallback_after = fallback_after or math.inf
        self.job: Job | None = None
        """The request in hand: what to settle if the worker dies."""

    def receive(self, message: object) -> None:
        match message:
            case Run():
                self.job = message.job
                self._connection.connection = message.connection
                if message.before is not None:
                    self._take_over(message.before)
                self._run(message.job)
                self.job = None
            case Discard():
                self._connection.connection = message.exchange.connection
                _discard(message.exchange)
                self._connection.let_go()
                self._tell_provider(Released(self.actor_ref, message.exchange))
            case Drain():
                self._drain(message)
            case Abandon():
                abandon(message.exchange, message.recording)
                self._tell_provider(Released(self.actor_ref, message.exchange))
            case Converse():
                message.session.run()
                self._tell_provider(Released(self.actor_ref, message.session.exchange))
            case _:
                raise TypeError(f"worker: unknown message {type(message).__name__}")

    def release(self) -> None:
        self._connection.close()
        kept = []
        while not self.actor_inbox.empty():
            envelope = self.actor_inbox.get()
            match envelope.message:
                case Run() as message:
                    self.job = message.job
                    if message.connection is not None:
                        message.connection.close()
                    if message.before is not None:
                        message.before.close()
                case Drain() | Abandon() as message:
                    abandon(message.exchange, message.recording)
                case Discard() as message:
                    message.exchange.close()
                case Converse() as message:
                    message.session.abandon()
                case _:
                    kept.append(envelope)
        for envelope in kept:
            self.actor_inbox.put(envelope)

    # -- one exchange

    def _take_over(self, before: Exchange) -> None:
        """Get rid of an answer, and use its connection if that is clean then."""
        self._connection.connection = before.connection
        _discard(before)
        if not before.reusable:
            self._connection.close()
        before.detach()

    def _run(self, job: Job) -> None:
        sent_before, job.sent = job.sent, True
        job.begun_at = job.begun_at or time.monotonic()
        try:
            exchange = self._send(job)
        except UpstreamError as ex:
            job.sent = sent_before or ex.sent
            self._connection.close()
            self._tell_provider(Failed(self.actor_ref, job, ex))
            return
        bad = None
        if job.rescued and 200 <= exchange.status < 300:
            bad = self._look(exchange, job)
        if bad is not None or exchange.status in job.ask_back:
            answer = _heard(exchange, job, bad)
            self._connection.let_go()
            self._tell_provider(Answered(self.actor_ref, job, exchange, answer))
        else:
            self._open(job, exchange)

    def _send(self, job: Job) -> Exchange:
        request = job.request
        attempts = request.attempts
        try:
            made = self._maker.make(request, job.model, job.credential)
            job.sent_at = time.monotonic()
            if attempts is not None:
                _show(attempts, made, self._provider_name)
            timeout = min(self._head_timeout, job.deadline - time.monotonic())
            if job.rescued and request.streaming:
                timeout = min(timeout, self._fallback_after)
            if timeout <= 0:
                error = AnswerTimeout("no time was left to send the request")
                error.sent = False
                raise error
            exchange = self._connection.exchange(made, timeout)
        except UpstreamError as ex:
            if attempts is not None:
                attempts.error(str(ex))
            raise
        if attempts is not None:
            exchange.copy = attempts.answer(exchange)
        return exchange

    def _look(self, exchange: Exchange, job: Job) -> BadStart | None:
        """Read how an answer begins; what is read is still there for the next reader.

        A stream is waited for no longer than a head; a blocking answer that dribbles goes to
        its client as it comes, after that long.
        """
        streaming = job.request.streaming
        beginning = Beginning(
            exchange.headers,
            streaming=streaming,
            converted=self._maker.converted,
            arrays=job.request.api == GEMINI,
            anything=job.request.api in (MODEL_CALL, CONVERSE),
        )
        # A copy of the answer is shown it when it is read for good.
        copy, exchange.copy = exchange.copy, None
        read = bytearray()
        until = min(job.deadline, time.monotonic() + self._fallback_after)
        if streaming:
            until = min(job.deadline, job.sent_at + self._fallback_after)
        try:
            while not beginning.over:
                waits = not streaming and not beginning.began
                end = min(job.deadline, exchange.head_at + self._idle_timeout) if waits else until
                left = min(end - time.monotonic(), self._idle_timeout)
                if left <= 0:
                    raise Quiet
                exchange.set_quiet(left)
                data = exchange.read()
                read += data
                if data:
                    beginning.feed(data)
                if not data or exchange.complete:
                    beginning.end()
                    break
        except Quiet:
            return self._too_quiet(exchange, job, streaming)
        except GatewayEnds:
            pass
        except UpstreamCut as ex:
            beginning.cut(str(ex))
        finally:
            exchange.unread(bytes(read))
            exchange.copy = copy
        return beginning.bad

    def _too_quiet(self, exchange: Exchange, job: Job, streaming: bool) -> BadStart | None:
        now = time.monotonic()
        silent = now - exchange.last_data_at
        if silent >= self._idle_timeout:
            return BadStart("slow", f"the upstream was silent for {silent:.0f} s", "timeout")
        after = now - job.sent_at
        if streaming and after >= self._fallback_after:
            return BadStart("slow", f"no answer began within {after:.0f} s", "timeout")
        return None

    def _open(self, job: Job, exchange: Exchange) -> None:
        if job.ticket is not None:
            # Before the client can ask again.
            self._tell_provider(Reported(job.ticket, exchange.status))
        self._connection.let_go()
        worker: pykka.ActorRef[Any] | None = self.actor_ref
        if not exchange.complete:
            # PERF: of one that is whole there is nothing to wait for, so the worker comes back
            # with it, and the message is spared.
            worker = None
            self._tell_provider(Lent(self.actor_ref, exchange))
        opened = open_answer(
            worker, self._provider, self._provider_name, self._maker, job, exchange
        )
        if not job.settle(opened):
            opened.give_back()

    # -- a client has gone

    def _drain(self, message: Drain) -> None:
        exchange, recording = message.exchange, message.recording
        to_the_end = False
        try:
            to_the_end = self._read_on(exchange, recording)
        finally:
            # Also when the interception fails: the end must be recorded.
            if not to_the_end:
                exchange.close()
                recording.lost_client()
            recording.close()
        if to_the_end:
            _discard(exchange)
        self._tell_provider(Drained(self.actor_ref, exchange, to_the_end))

    def _read_on(self, exchange: Exchange, recording: Recording) -> bool:
        """Read until the last event, the end or the drain timeout; False when it was cut."""
        deadline = time.monotonic() + self._drain_timeout
        try:
            while (left := deadline - time.monotonic()) > 0:
                exchange.set_quiet(min(self._idle_timeout, left))
                data = exchange.read()
                if data:
                    recording.data(data)
                if not data or recording.interception.complete:
                    recording.end(framed=exchange.complete)
                    return True
        except (Quiet, UpstreamCut):
            pass
        return False

    # -- the provider may be dead

    def _tell_provider(self, message: _Told) -> None:
        try:
            self._provider.tell(message)
        except pykka.ActorDeadError:
            self._settle(message)

    def _settle(self, message: _Told) -> None:
        """Do what is left to do when nobody decides any more."""
        match message:
            case Failed(job=job, error=error) if job.sent:
                job.settle(refusal_of(error, job, self._provider_name))
            case Failed() | Answered():
                if isinstance(message, Answered):
                    message.exchange.close()
                fail(message.reply, ActorDied("the provider's actor died", sent=message.sent))
            case Released() | Drained():
                message.exchange.close()
            case _:
                pass


def _show(attempts: Attempts, made: requests.PreparedRequest, provider: str) -> None:
    """Show an attempt to the one who keeps a copy of it."""
    body = made.body if isinstance(made.body, bytes) else b""
    headers = [*made.headers.items()]
    attempts.request(made.method or "", made.url or "", headers, body, provider=provider)


def _discard(exchange: Exchange) -> None:
    """Read a small rest; close the connection on a large or a slow one."""
    _read_small(exchange)
    if not exchange.reusable:
        exchange.close()


def _heard(exchange: Exchange, job: Job, bad: BadStart | None) -> ProviderAnswer:
    """What the provider decides on; of a refusal the body too, if it is small and there.

    Only of answers to the gateway's own credential: a user's is relayed as it comes.
    """
    body, whole = b"", False
    if exchange.status >= 400 and job.shared:
        body, whole = _read_small(exchange)
        exchange.unread(body)
    return ProviderAnswer(exchange.status, exchange.headers, body, whole, time.time(), bad)


def _read_small(exchange: Exchange) -> tuple[bytes, bool]:
    """What comes of the rest within :data:`DISCARD_TIME`, and whether that is all of it."""
    deadline = time.monotonic() + DISCARD_TIME
    read = bytearray()
    try:
        while len(read) <= DISCARD_LIMIT and (left := deadline - time.monotonic()) > 0:
            exchange.set_quiet(left)
            data = exchange.read()
            if not data:
                return bytes(read), True
            read += data
    except (Quiet, UpstreamCut):
        pass
    return bytes(read), False


def open_answer(
    worker: pykka.ActorRef[Any] | None,
    provider: pykka.ActorRef[Any],
    provider_name: str,
    maker: Maker,
    job: Job,
    exchange: Exchange,
) -> Opened:
    """What the request is told of an answer that becomes its own."""
    return Opened(
        exchange,
        worker,
        provider,
        provider_name,
        job.hint,
        job.begun_at,
        job.model,
        maker.converted and not speaks_bedrock(job.request.rest),
        job.shared,
        job.perform.abandoned,
    )


def refusal_of(error: UpstreamError, job: Job, provider_name: str) -> Refused:
    """What to answer when no answer came."""
    return Refused(
        error.status,
        str(error),
        error.error_type,
        error.retry_after,
        credential_hint=job.hint,
        sent=job.sent,
        provider_name=provider_name,
    )


def abandon(exchange: Exchange, recording: Recording) -> None:
    """Give up an answer whose client has gone.  Waits until its records are on disk."""
    exchange.close()
    recording.lost_client()
    recording.close()
