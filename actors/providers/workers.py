"""The workers of one provider: started when needed, told what to do, stopped when idle.

Belongs to the provider's actor and is used by it alone.  :mod:`.worker_pool` says who; here it
is done.
"""

from __future__ import annotations

import math
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
    Lent,
    Released,
    Run,
)
from aigateway.actors.providers.keypool import Walker
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
        member = self._hire() if pool.has_room else None
        if member is not None:
            return "running" if self._run(member, job, None) else "died"
        if pool.in_use and pool.enqueue(job, now):
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
        if message.worker is None:
            member = self._hire_for(exchange)
        else:
            member = self.pool.find(message.worker)
            if exchange.detached or (member is not None and member.state != "busy"):
                member = None
        if member is None:
            abandon_elsewhere(message)
        elif self.pool.draining >= self._config.limits.drains:
            self._counters.drains_refused += 1
            # Recording waits for the disk, so it is the worker's business.
            if not tell_quietly(member.ref, Abandon(exchange, message.recording)):
                abandon_elsewhere(message)
        else:
            self._counters.drains += 1
            self.pool.drain(member)
            if not tell_quietly(member.ref, message):
                abandon_elsewhere(message)

    def converse(self, message: Converse) -> None:
        """Let a worker run a session."""
        session = message.session
        member = self._hire_for(session.exchange)
        if member is not None:
            self.pool.converse(member, session)
            if tell_quietly(member.ref, message):
                return
        _elsewhere(session.abandon)

    def _hire_for(self, exchange: Exchange) -> Member | None:
        """Somebody to see to an exchange that was out; None when it was not, or when nobody is
        there."""
        if not self.pool.is_out(exchange):
            return None
        walker = self.pool.end_loan(exchange)
        member = self._hire()
        if member is not None:
            member.walker = walker
        else:
            self._walked(walker)
        return member

    def retire_sessions(self) -> None:
        """Let sessions end as soon as nothing runs on them."""
        for session in self.pool.sessions():
            session.retire()

    def _run(self, member: Member, job: Job, before: Exchange | None) -> bool:
        self._counters.attempts += 1
        job.attempts += 1
        member.exchanges += 1
        member.walker = job.walker
        connection = self.pool.take_kept() if before is None else None
        if tell_quietly(member.ref, Run(job, connection, before)):
            return True
        self._counters.unsent += 1
        self.pool.remove(member.ref)
        if connection is not None:
            connection.close()
        if before is not None:
            before.close()
        return False

    # -- back from work

    def lend(self, worker: _Ref, exchange: Exchange, now: float) -> None:
        """The exchange is out with its request, and the worker has nothing to do."""
        walker = None
        member = self.pool.find(worker)
        if member is not None:
            walker, member.walker = member.walker, None
            self.pool.free(member, now)
        self.pool.lend(exchange, walker)

    def take_back(self, worker: _Ref | None, exchange: Exchange, now: float) -> bool:
        """An exchange is over; returns whether there is room for another.

        ``worker``: who waited for it, or had it.  May be told twice of the same one.
        """
        if exchange.detached:
            return False
        if worker is None:
            if not self.pool.is_out(exchange):
                # A worker has it: the one who gave it away holds it no more.
                return False
            self._walked(self.pool.end_loan(exchange))
        elif (member := self.pool.find(worker)) is not None:
            self.free(member, now)
        else:
            exchange.close()
            exchange.detach()
            return False
        self._counters.connections_reused += exchange.reused
        if exchange.reusable:
            self.pool.keep(exchange.connection, now)
        else:
            exchange.close()
        exchange.detach()
        return True

    def is_draining(self, worker: _Ref | None) -> bool:
        member = self.pool.find(worker) if worker is not None else None
        return member is not None and member.state == "draining"

    def free(self, member: Member, now: float) -> None:
        """The worker has nothing to do, and what it had is over."""
        self._end_walk(member, answered=True)
        self.pool.free(member, now)

    def _end_walk(self, member: Member, *, answered: bool) -> None:
        walker, member.walker = member.walker, None
        self._walked(walker, answered=answered)

    def _walked(self, walker: Walker | None, *, answered: bool = True) -> None:
        if walker is not None:
            self._counters.walked(walker.end(answered=answered))

    # -- coming and going

    def stop_idle(self, before: float) -> None:
        """Stop those who have been idle since ``before``, and close what was not used since."""
        for member in self.pool.take_idle(before):
            member.ref.stop(block=False)
        for connection in self.pool.take_cold(before):
            connection.close()

    def stop_all(self) -> None:
        """Stop everybody as soon as they are done with what they have in hand."""
        for ref in self.pool.refs():
            ref.stop(block=False)
        for connection in self.pool.take_cold(math.inf):
            connection.close()

    def let_go_of_exchanges(self, inbox: Any, now: float) -> None:
        """Of those on their way back to a provider that is dying; replies are not touched."""
        envelopes = []
        while not inbox.empty():
            envelope = inbox.get()
            envelopes.append(envelope)
            match envelope.message:
                case Lent() as message:
                    self.lend(message.worker, message.exchange, now)
                case Drain() as message:
                    self.drain(message)
                case Converse() as message:
                    self.converse(message)
                    message.session.retire()
                case Answered() | GiveBack() | Released() | Drained() as message:
                    message.exchange.close()
        for envelope in envelopes:
            inbox.put(envelope)

    def _hire(self) -> Member | None:
        """Somebody who has nothing to do, or is new; None when the system starts nobody."""
        return self.pool.take() or self._start()

    def _start(self) -> Member | None:
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


def abandon_elsewhere(message: Drain) -> None:
    """End an answer to which no worker can see."""
    _elsewhere(_abandon, message.exchange, message.recording)


def _elsewhere(task: Callable[..., None], *args: object) -> None:
    """Do what may wait, for the disk or a client, in a thread of its own; here where the system
    gives no more of them."""
    try:
        threading.Thread(target=task, args=args, name="abandon", daemon=True).start()
    except RuntimeError:
        task(*args)


def _abandon(exchange: Exchange, recording: Recording) -> None:
    try:
        abandon(exchange, recording)
    except Exception as ex:
        log.error("the end of an interception was not recorded", error=repr(ex))
