"""The workers of one provider: started when needed, told what to do, stopped when idle.

Belongs to the provider's actor and is used by it alone.  :mod:`.worker_pool` says who; here it
is done.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from itertools import count
from typing import Any, Literal, TypeAlias

import pykka
import structlog
from attrs import field, frozen

from aigateway.actors.actor.base import tell_quietly
from aigateway.actors.providers.counters import Counters
from aigateway.actors.providers.jobs import (
    Abandon,
    Answered,
    Discard,
    Drained,
    Job,
    Released,
    Run,
)
from aigateway.actors.providers.making import Maker
from aigateway.actors.providers.recording import Recording
from aigateway.actors.providers.request import Converse, Drain, GiveBack
from aigateway.actors.providers.worker import UpstreamWorker, abandon
from aigateway.actors.providers.worker_pool import Member, WorkerPool
from aigateway.actors.upstream.connect import Connector
from aigateway.actors.upstream.exchange import Exchange

__all__ = [
    "Placed",
    "ProviderLimits",
    "WorkerConfig",
    "Workers",
    "abandon_elsewhere",
    "let_go_of_exchanges",
]

Placed: TypeAlias = Literal["running", "queued", "full", "died"]

_Ref: TypeAlias = "pykka.ActorRef[Any]"

log = structlog.get_logger("ai-gateway.provider")


@frozen
class ProviderLimits:
    """Bounds that hold for each provider of a gateway worker.  Times in seconds."""

    drains: int = 64
    """How many answers may be read on for their usage at once after the client has gone."""
    drain_timeout: float = 60.0


@frozen
class WorkerConfig:
    """What every worker of a provider is started with.  Times in seconds."""

    role: str
    """The provider's; workers are numbered below it."""
    provider: _Ref
    provider_name: str
    watcher: Callable[..., None] = field(repr=False)
    connector: Connector = field(repr=False)
    maker: Maker = field(repr=False)
    head_timeout: float
    idle_timeout: float
    fallback_after: float
    limits: ProviderLimits


class Workers:
    """Who works for a provider, and the requests that wait for somebody."""

    def __init__(self, config: WorkerConfig, pool: WorkerPool, counters: Counters) -> None:
        self._config = config
        self._counters = counters
        self._numbers = count(1)
        self.pool = pool

    # -- work

    def place(self, job: Job, now: float) -> Placed:
        """Give ``job`` to a worker, or let it wait for one.

        ``died``: it was given to one that is dead, and is the caller's again.
        """
        pool = self.pool
        member = pool.take() or self._start()
        if member is not None:
            return "running" if self._run(member, job, None) else "died"
        if len(pool) and pool.enqueue(job, now):
            return "queued"
        self._counters.queue_full += 1
        return "full"

    def try_again(self, worker: _Ref, job: Job, before: Exchange) -> bool:
        """Let the worker discard the answer ``before`` and send the job once more."""
        member = self.pool.find(worker)
        if member is None:
            before.close()
            return False
        self._counters.connections_reused += before.reused
        return self._run(member, job, before)

    def discard(self, worker: _Ref, exchange: Exchange) -> None:
        """Let the worker get rid of an answer, after which it is released."""
        member = self.pool.find(worker)
        if member is not None:
            self._end_walk(member, answered=False)
        if not tell_quietly(worker, Discard(exchange)):
            exchange.close()

    def drain(self, message: Drain) -> None:
        """Let the worker read on, or give the answer up when too many do already."""
        exchange = message.exchange
        member = self.pool.find(message.worker)
        if exchange.detached or member is None or member.state != "busy":
            abandon_elsewhere(message)
        elif self.pool.draining >= self._config.limits.drains:
            self._counters.drains_refused += 1
            # Recording waits for the disk, so it is the worker's business.
            if not tell_quietly(member.ref, Abandon(exchange, message.recording)):
                abandon_elsewhere(message)
        else:
            self._counters.drains += 1
            self.pool.drain(member)
            _pass_on(message)

    def converse(self, message: Converse) -> None:
        """Let the worker run a session."""
        member = self.pool.find(message.worker)
        if member is not None and member.state == "busy":
            self.pool.converse(member, message.session)
        _pass_on_session(message)

    def retire_sessions(self) -> None:
        """Let sessions end as soon as nothing runs on them."""
        for session in self.pool.sessions():
            session.retire()

    def _run(self, member: Member, job: Job, before: Exchange | None) -> bool:
        self._counters.attempts += 1
        job.attempts += 1
        member.exchanges += 1
        member.walker = job.walker
        if tell_quietly(member.ref, Run(job, before)):
            return True
        self._counters.unsent += 1
        self.pool.remove(member.ref)
        if before is not None:
            before.close()
        return False

    # -- back from work

    def take_back(self, worker: _Ref, exchange: Exchange, now: float) -> bool:
        """An exchange is over; returns whether a worker is free for another.

        May be told twice of the same one.
        """
        if exchange.detached:
            return False
        member = self.pool.find(worker)
        reusable = exchange.reusable and member is not None
        if not reusable:
            exchange.close()
        exchange.detach()
        if member is None:
            return False
        self._counters.connections_reused += exchange.reused
        self.free(member, now, connected=reusable)
        return True

    def is_draining(self, worker: _Ref) -> bool:
        member = self.pool.find(worker)
        return member is not None and member.state == "draining"

    def free(self, member: Member, now: float, *, connected: bool) -> None:
        """The worker has nothing to do."""
        self._end_walk(member, answered=True)
        self.pool.free(member, now, connected=connected)

    def _end_walk(self, member: Member, *, answered: bool) -> None:
        walker, member.walker = member.walker, None
        if walker is not None:
            self._counters.walked(walker.end(answered=answered))

    # -- coming and going

    def stop_idle(self, before: float) -> None:
        """Stop those who have been idle since ``before``."""
        for member in self.pool.take_idle(before):
            member.ref.stop(block=False)

    def stop_all(self) -> None:
        """Stop everybody as soon as they are done with what they have in hand."""
        for ref in self.pool.refs():
            ref.stop(block=False)

    def _start(self) -> Member | None:
        if not self.pool.has_room:
            return None
        config = self._config
        role = f"{config.role}/worker-{next(self._numbers)}"
        try:
            ref = UpstreamWorker.start(
                role,
                config.watcher,
                provider=config.provider,
                provider_name=config.provider_name,
                connector=config.connector,
                maker=config.maker,
                head_timeout=config.head_timeout,
                idle_timeout=config.idle_timeout,
                drain_timeout=config.limits.drain_timeout,
                fallback_after=config.fallback_after,
            )
        except RuntimeError as ex:
            # The system gives no more threads; with those that are there work goes on.
            log.error("cannot start an upstream worker", worker=role, error=str(ex))
            return None
        return self.pool.add(ref, role)


def let_go_of_exchanges(inbox: Any) -> None:
    """Of those on their way back to a provider that is dying; replies are not touched."""
    envelopes = []
    while not inbox.empty():
        envelope = inbox.get()
        envelopes.append(envelope)
        match envelope.message:
            case Drain() as message:
                _pass_on(message)
            case Converse() as message:
                _pass_on_session(message)
                message.session.retire()
            case Answered() | GiveBack() | Released() | Drained() as message:
                message.exchange.close()
    for envelope in envelopes:
        inbox.put(envelope)


def _pass_on(message: Drain) -> None:
    """Let the worker drain if it still can."""
    if message.exchange.detached or not tell_quietly(message.worker, message):
        abandon_elsewhere(message)


def _pass_on_session(message: Converse) -> None:
    """Let the worker run it if it still can.  Abandoning may wait."""
    if not tell_quietly(message.worker, message):
        session = message.session
        threading.Thread(target=session.abandon, name="abandon", daemon=True).start()


def abandon_elsewhere(message: Drain) -> None:
    """End an answer whose worker is gone; recording may wait, so it gets a thread of its own."""
    args = (message.exchange, message.recording)
    threading.Thread(target=_abandon, args=args, name="abandon", daemon=True).start()


def _abandon(exchange: Exchange, recording: Recording) -> None:
    try:
        abandon(exchange, recording)
    except Exception as ex:
        log.error("the end of an interception was not recorded", error=repr(ex))
