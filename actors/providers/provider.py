"""The provider actor: decides, and never waits.

Which key, which worker, is there room: each question is answered in microseconds.  Workers
wait for the upstream; requests wait for their reply.  What is tried for a request is decided
in :mod:`.strategy`, who does it in :mod:`.workers`; here the two are brought together.
"""

from __future__ import annotations

import random
import time
from collections.abc import Mapping

import structlog
from attrs import evolve

from aigateway.actors.actor.base import (
    ActorDied,
    GatewayActor,
    Watcher,
    complete,
    fail,
    tell_quietly,
)
from aigateway.actors.actor.tree import ActorTree
from aigateway.actors.interception.routes import upstream_url
from aigateway.actors.providers.agenda import Alarm
from aigateway.actors.providers.counters import Counters
from aigateway.actors.providers.fallback import can_hand_on, hand_on, share
from aigateway.actors.providers.jobs import (
    Answered,
    Drained,
    Expire,
    Failed,
    Job,
    Lent,
    Reap,
    Released,
    Reported,
    Resume,
    Tick,
    Told,
    WorkerEnded,
)
from aigateway.actors.providers.making import Maker, maker_for
from aigateway.actors.providers.request import (
    Converse,
    Drain,
    GetProviderState,
    GiveBack,
    Perform,
    ProviderState,
    Refused,
    Retire,
    model_for,
)
from aigateway.actors.providers.steps import Deliver, FallBack, Pause, Refuse, Send, Step
from aigateway.actors.providers.strategy import Strategy
from aigateway.actors.providers.worker import UpstreamWorker, open_answer
from aigateway.actors.providers.worker_pool import WorkerPool
from aigateway.actors.providers.workers import (
    ProviderLimits,
    WorkerConfig,
    Workers,
)
from aigateway.actors.upstream.connect import Connector
from aigateway.actors.upstream.endpoint import Endpoint
from aigateway.actors.upstream.errors import ConnectFailed
from aigateway.actors.values.provider_config import ProviderConfig
from aigateway.actors.values.reminder import Reminder

__all__ = ["Provider", "ProviderLimits"]

IDLE_SECONDS = 90.0
"""An idle connection is closed after this long, as in the reference's transport."""
REAP_EVERY = 30.0
MAX_DEATHS = 2
"""Workers that may die with one request in hand before it is given up."""

log = structlog.get_logger("ai-gateway.provider")


class Provider(GatewayActor):
    """One configured provider and its upstream workers."""

    def __init__(
        self,
        role: str,
        watcher: Watcher,
        *,
        config: ProviderConfig,
        limits: ProviderLimits,
        tree: ActorTree | None = None,
    ) -> None:
        """``tree`` is where the fallback is found; without it there is none."""
        super().__init__(role, watcher)
        self._config = config
        self._limits = limits
        self._tree = tree
        self._patience = config.connect_timeout + config.first_byte_timeout
        self._counters = Counters()
        self._pool = WorkerPool(config.max_connections)
        self._full = Reminder()
        """Of requests that wait for a connection."""
        self._alarm: Alarm[Reap | Expire | Resume] = Alarm(self._ring)
        self._expiry_planned = False
        self._retired = False
        self._connector: Connector
        self._maker: Maker
        self._strategy: Strategy
        self._workers: Workers
        self._usable = False
        """Whether the four above are there."""

    # -- life

    def started(self) -> None:
        config = self._config
        try:
            self._connector = Connector(
                Endpoint.of(config.base_url),
                timeout=config.connect_timeout,
                ca_file=config.ca_file,
                proxy=config.proxy,
            )
            # Whether an address can be made at all.
            upstream_url(config.type, config.base_url, "/")
            self._maker = maker_for(config, self._note_key)
            self._strategy = Strategy(config, self._counters, random.random, self._maker)
        except (ConnectFailed, ValueError) as ex:
            log.error("provider cannot be used", provider=config.name, error=str(ex))
            return
        each = WorkerConfig(
            self.role,
            self.actor_ref,
            config.name,
            self._watch_worker,
            self._connector,
            self._maker,
            config.first_byte_timeout,
            config.idle_timeout,
            config.fallback_after,
            self._limits,
        )
        self._workers = Workers(each, self._pool, self._counters)
        self._usable = True
        self._alarm.add(REAP_EVERY, Reap())

    def release(self) -> None:
        waiting = self._pool.take_waiting()
        paused = [item.job for item in self._alarm.clear() if isinstance(item, Resume)]
        for job in (*waiting, *paused):
            fail(job.reply, ActorDied(f"{self.role} stopped", sent=job.sent))
        if self._usable:
            self._workers.let_go_of_exchanges(self.actor_inbox, time.monotonic())
            self._workers.retire_sessions()
            self._workers.stop_all()
            self._maker.close()

    # -- messages

    def receive(self, message: object) -> object:
        match message:
            case Perform():
                self._perform(message)
            case GiveBack():
                # The one who gave it to be drained holds it no more.
                if not self._workers.is_draining(message.worker):
                    self._take_back(message)
            case Lent():
                now = time.monotonic()
                self._workers.lend(message.worker, message.exchange, now)
                if self._pool.waiting:
                    # For want of a worker.
                    self._next(now)
            case Reported():
                self._strategy.report(message.ticket, message.status, time.monotonic())
            case Answered():
                self._answered(message)
            case Failed():
                self._failed(message)
            case Released():
                self._take_back(message)
            case Drain():
                self._workers.drain(message)
                self._next(time.monotonic())
            case Converse():
                self._workers.converse(message)
                if self._retired:
                    message.session.retire()
                self._next(time.monotonic())
            case Told():
                walker = self._pool.walker_of(message.exchange)
                if walker is not None:
                    self._strategy.told(walker, message.answer, message.model, time.monotonic())
            case Drained():
                self._counters.drains_complete += message.to_the_end
                self._take_back(message)
            case WorkerEnded():
                self._worker_ended(message)
            case GetProviderState():
                return self._state()
            case Retire():
                self._retired = True
                if self._usable:
                    self._workers.retire_sessions()
                self._stop_if_done()
            case Tick():
                self._tick()
            case _:
                raise TypeError(f"{self.role}: unknown message {type(message).__name__}")
        return None

    # -- a request

    def _perform(self, perform: Perform) -> None:
        now = time.monotonic()
        if self._config.group:
            here = share(perform, self._config, self._tree)
            if here is None:
                return
            perform = here
        refused = self._misfit(perform)
        if refused is not None:
            complete(perform.reply, perform.refusal(refused))
            return
        deadline = now + self._patience
        if perform.deadline:
            deadline = min(deadline, perform.deadline)
        request = perform.request
        model: str | None = ""
        if request.route or request.model:
            model = model_for(self._config, request.model, request.provider, path=request.rest)
        if model is None:
            text = f'the provider "{self._config.name}" has no model "{request.model}"'
            refused = self._refused(404, text, "bad_request")
            complete(perform.reply, perform.refusal(refused))
            return
        job, step = self._strategy.begin(perform, model, deadline, now)
        if job.rescued:
            job.rescued = can_hand_on(perform, self._config, self._tree)
        self._follow(job, step, now)

    def _misfit(self, perform: Perform) -> Refused | None:
        """Why this request cannot be served here at all."""
        name = self._config.name
        if not self._usable:
            return self._refused(503, f'provider "{name}" is misconfigured')
        request = perform.request
        needs_key = request.add_credential and request.credential is None
        if needs_key and not self._strategy.has_credentials:
            text = f'provider "{name}" has no key configured and the request brought none'
            return self._refused(502, text, "unauthorized")
        return None

    def _refused(self, status: int, text: str, error_type: str = "server_error") -> Refused:
        return Refused(status, text, error_type, provider_name=self._config.name)

    def _answered(self, message: Answered) -> None:
        now = time.monotonic()
        job, exchange, worker = message.job, message.exchange, message.worker
        step = self._strategy.answered(job, message.answer, now)
        if isinstance(step, FallBack):
            if self._hand_on(job, step, now):
                self._workers.discard(worker, exchange)
                return
            step = step.instead
        match step:
            case Deliver():
                name = self._config.name
                opened = open_answer(None, self.actor_ref, name, self._maker, job, exchange)
                if job.settle(opened):
                    self._workers.lend(worker, exchange, now)
                else:
                    self._workers.discard(worker, exchange)
            case Send():
                if not self._workers.try_again(worker, job, exchange):
                    self._follow(job, step, now)
            case _:
                self._workers.discard(worker, exchange)
                self._follow(job, step, now)

    def _hand_on(self, job: Job, step: FallBack, now: float) -> bool:
        """Hand a request on to the fallback; False when nobody is there to take it."""
        if not hand_on(job, step, self._config, self._tree, now):
            return False
        self._counters.handed_on(step.reason)
        log.warning(
            "request handed on to the fallback",
            provider=self._config.name,
            model=job.model,
            reason=step.reason,
            error=_told_by(step),
        )
        job.let_go()
        return True

    def _failed(self, message: Failed) -> None:
        now = time.monotonic()
        job, error = message.job, message.error
        self._counters.unsent += not error.sent
        log.warning(
            "upstream request failed",
            provider=self._config.name,
            route=job.request.route,
            error=str(error),
        )
        member = self._pool.find(message.worker)
        step = self._strategy.failed(job, error, now)
        if member is not None:
            # The strategy has ended its walk, or will.
            member.walker = None
            self._workers.free(member, now)
        self._follow(job, step, now)
        self._next(now)

    def _follow(self, job: Job, step: Step, now: float) -> None:
        """Do what was decided for a job that no worker has."""
        match step:
            case Send():
                self._place(job, now)
            case Pause(seconds):
                self._alarm.add(seconds, Resume(job))
            case FallBack():
                if not self._hand_on(job, step, now):
                    self._follow(job, step.instead, now)
            case Refuse(refused):
                job.settle(refused)
            case Deliver():
                raise AssertionError("there is no answer to relay")

    def _place(self, job: Job, now: float) -> None:
        match self._workers.place(job, now):
            case "queued":
                self._say_full(now)
                self._plan_expiry(now)
            case "full":
                self._drop_waiting(job, now)
            case "died":
                self._settle_orphan(job, now)

    def _say_full(self, now: float) -> None:
        if self._full.is_due(now):
            log.warning(
                "all connections to a provider are in use, requests wait for one",
                provider=self._config.name,
                connections=self._config.max_connections,
            )

    def _drop_waiting(self, job: Job, now: float) -> None:
        text = "all upstream connections are in use, try again later"
        refused = Refused(503, text, "overloaded", 1)
        self._follow(job, self._strategy.dropped(job, refused, now), now)

    # -- workers

    def _take_back(self, message: GiveBack | Released | Drained) -> None:
        now = time.monotonic()
        if self._workers.take_back(message.worker, message.exchange, now):
            self._next(now)

    def _next(self, now: float) -> None:
        """Somebody may be free: serve who waits longest, else see whether all is done."""
        pool = self._pool
        job = pool.next_waiting() if pool.waiting and pool.has_room else None
        if job is not None:
            self._place(job, now)
        elif self._retired:
            self._stop_if_done()

    def _watch_worker(self, actor: GatewayActor, error: BaseException | None) -> None:
        # In the dying worker's own thread.
        job = actor.job if isinstance(actor, UpstreamWorker) else None
        ended = WorkerEnded(actor.actor_ref, actor.role, error, job)
        if not tell_quietly(self.actor_ref, ended) and job is not None:
            fail(job.reply, ActorDied(f"{actor.role} died", sent=job.sent))

    def _worker_ended(self, message: WorkerEnded) -> None:
        now = time.monotonic()
        if message.error is not None:
            log.error("upstream worker died", worker=message.role, error=repr(message.error))
        member = self._pool.remove(message.worker)
        if message.job is not None:
            self._settle_orphan(message.job, now)
        elif member is not None and member.walker is not None:
            self._counters.walked(member.walker.end())
        if member is not None:
            self._next(now)

    def _settle_orphan(self, job: Job, now: float) -> None:
        """A worker has died with this request in hand."""
        job.deaths += 1
        if not job.sent and job.deaths < MAX_DEATHS:
            self._place(job, now)
            return
        refused = Refused(502, "the connection to the upstream was lost")
        self._follow(job, self._strategy.dropped(job, refused, now), now)

    def _stop_if_done(self) -> None:
        if not self._retired:
            return
        if self._usable:
            self._workers.stop_idle(time.monotonic())
        paused = self._usable and self._strategy.paused
        pool = self._pool
        if not len(pool) and not pool.out and not pool.waiting and not paused:
            self.stop()

    # -- later

    def _ring(self) -> None:
        # In the timer's thread.
        tell_quietly(self.actor_ref, Tick())

    def _tick(self) -> None:
        now = time.monotonic()
        for item in self._alarm.due(now):
            match item:
                case Resume(job):
                    self._follow(job, self._strategy.resume(job, now), now)
                case Expire():
                    self._expiry_planned = False
                    for job in self._pool.take_expired(now):
                        self._counters.queue_full += 1
                        self._drop_waiting(job, now)
                    self._plan_expiry(now)
                case Reap():
                    self._workers.stop_idle(now - IDLE_SECONDS)
                    self._alarm.add(REAP_EVERY, item)
        self._stop_if_done()

    def _plan_expiry(self, now: float) -> None:
        """Look at those who wait again when the first of them has waited too long."""
        until = self._pool.next_expiry()
        if until is not None and not self._expiry_planned:
            self._expiry_planned = True
            self._alarm.add(until - now, Expire())

    def _note_key(self, key: str) -> None:
        """For a keeper's thread."""
        if self._tree is not None:
            self._tree.note_key(self._config.name, key)

    # -- for those who look

    def _state(self) -> ProviderState:
        workers = self._pool.states()
        tally: Mapping[str, int] = {
            name: sum(worker.state == name for worker in workers)
            for name in ("busy", "draining", "session")
        }
        pool = self._pool
        state = ProviderState(
            self._config.name, tally["busy"] + pool.out, pool.kept, tally["draining"],
            pool.waiting, workers, sessions=tally["session"], counters=self._counters.copy(),
        )  # fmt: skip
        if not self._usable:
            return state
        state.counters.connections_opened = self._connector.opened
        state.counters.renewals, state.counters.failed_renewals = self._maker.renewals
        return evolve(
            state,
            retrying=self._strategy.paused,
            keys=self._strategy.keys(time.monotonic()),
            circuits=self._strategy.circuits(),
        )


def _told_by(step: FallBack) -> str:
    """In the provider's words, or in ours."""
    if step.said is not None:
        return step.said.message
    return step.instead.refused.message if isinstance(step.instead, Refuse) else ""
