"""The provider actor: decides, and never waits.

Which key, which worker, is there room: each question is answered in microseconds.  Workers
wait for the upstream; requests wait for their reply.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Mapping
from itertools import count
from threading import Timer
from typing import Any

import pykka
import structlog
from attrs import define, frozen

from aigateway.actors.actor import ActorDied, GatewayActor, complete, fail
from aigateway.actors.providers.config import ProviderConfig
from aigateway.actors.providers.connect import Connector, Endpoint
from aigateway.actors.providers.errors import ConnectFailed
from aigateway.actors.providers.interception.credentials import Credential, centralized
from aigateway.actors.providers.messages import (
    Drain,
    GetProviderState,
    GiveBack,
    Perform,
    ProviderState,
    Refused,
    Retire,
    WorkerState,
)
from aigateway.actors.providers.worker import Answered, Drained, Failed, Job, Run, UpstreamWorker

__all__ = ["Provider", "ProviderLimits"]

IDLE_SECONDS = 90.0
"""An idle connection is closed after this long, as in the reference's transport."""
REAP_EVERY = 30.0
QUEUE = 1000
"""Requests that may wait for a connection once all are in use."""

log = structlog.get_logger("ai-gateway.provider")


@frozen
class ProviderLimits:
    """Bounds that hold for each provider of a gateway worker.  Times in seconds."""

    drains: int = 64
    """How many answers may be read on for their usage at once after the client has gone."""
    drain_timeout: float = 60.0


@define(eq=False)
class _Worker:
    ref: pykka.ActorRef[Any]
    role: str
    state: str = "idle"
    since: float = 0.0
    exchanges: int = 0


@frozen
class _WorkerEnded:
    role: str
    error: BaseException | None


@frozen
class _Reap:
    pass


class Provider(GatewayActor):
    """One configured provider and its upstream workers."""

    def __init__(
        self, role: str, watcher: Any, *, config: ProviderConfig, limits: ProviderLimits
    ) -> None:
        super().__init__(role, watcher)
        self._config = config
        self._limits = limits
        self._workers: dict[str, _Worker] = {}
        self._by_urn: dict[str, _Worker] = {}
        self._idle: list[_Worker] = []
        self._waiting: deque[Job] = deque()
        self._draining = 0
        self._numbers = count(1)
        self._retired = False
        self._reaper: Timer | None = None
        self._connector: Connector | None = None
        self._credential: Credential | None = None

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
        except ConnectFailed as ex:
            log.error("provider cannot be used", provider=config.name, error=str(ex))
        if config.keys:
            self._credential = centralized(config.type, config.keys[0])
        self._schedule_reaper()

    def release(self) -> None:
        if self._reaper is not None:
            self._reaper.cancel()
        for job in self._waiting:
            fail(job.perform.reply, ActorDied(f"{self.role} stopped"))
        for worker in self._workers.values():
            _stop(worker.ref)

    # -- messages

    def receive(self, message: Any) -> Any:
        match message:
            case Perform():
                self._perform(message)
            case GiveBack():
                self._free(message.worker, message.exchange.reusable, message.exchange)
            case Failed():
                self._failed(message)
            case Answered():
                UpstreamWorker.hand_over(
                    message.worker,
                    self.actor_ref,
                    self._config.name,
                    message.job,
                    message.exchange,
                )
            case Drain():
                self._drain(message)
            case Drained():
                self._draining -= 1
                self._free(message.worker, message.exchange.reusable, message.exchange)
            case _WorkerEnded():
                self._worker_ended(message)
            case GetProviderState():
                return self._state()
            case Retire():
                self._retired = True
                self._stop_idle(0.0)
                self._stop_if_done()
            case _Reap():
                self._stop_idle(IDLE_SECONDS)
                self._schedule_reaper()
            case _:
                raise TypeError(f"{self.role}: unknown message {type(message).__name__}")
        return None

    def _perform(self, perform: Perform) -> None:
        refusal = self._refusal(perform)
        if refusal is not None:
            complete(perform.reply, refusal)
            return
        credential = perform.credential or (self._credential if perform.add_credential else None)
        job = Job(perform, credential, frozenset())
        self._dispatch(job)

    def _refusal(self, perform: Perform) -> Refused | None:
        config = self._config
        if self._connector is None:
            return Refused(503, f'provider "{config.name}" is misconfigured')
        if perform.add_credential and perform.credential is None and self._credential is None:
            return Refused(
                502,
                f'provider "{config.name}" has no key configured and the request brought none',
                "unauthorized",
            )
        return None

    def _dispatch(self, job: Job) -> None:
        if self._idle:
            worker = self._idle.pop()
        elif len(self._workers) < self._config.max_connections:
            worker = self._start_worker()
        elif len(self._waiting) < QUEUE:
            self._waiting.append(job)
            return
        else:
            complete(
                job.perform.reply,
                Refused(
                    503,
                    "all upstream connections are in use, try again later",
                    "overloaded",
                    retry_after=1,
                ),
            )
            return
        worker.state = "busy"
        worker.exchanges += 1
        worker.ref.tell(Run(job))

    def _failed(self, message: Failed) -> None:
        error = message.error
        self._free(message.worker, reusable=False, exchange=None)
        log.warning(
            "upstream request failed",
            provider=self._config.name,
            route=message.job.perform.route,
            error=str(error),
        )
        hint = message.job.credential.hint if message.job.credential is not None else ""
        complete(
            message.job.perform.reply,
            Refused(
                error.status,
                str(error),
                error.error_type,
                credential_hint=hint,
                sent=message.job.sent,
            ),
        )

    def _drain(self, message: Drain) -> None:
        worker = self._by_urn.get(message.worker.actor_urn)
        if worker is None or self._draining >= self._limits.drains:
            message.exchange.close()
            message.recording.lost_client()
            message.recording.close()
            self._free(message.worker, reusable=False, exchange=message.exchange)
            return
        self._draining += 1
        worker.state = "draining"
        worker.ref.tell(message)

    # -- workers

    def _start_worker(self) -> _Worker:
        assert self._connector is not None
        role = f"{self.role}/worker-{next(self._numbers)}"
        ref = UpstreamWorker.start(
            role,
            self._watch_worker,
            provider=self.actor_ref,
            provider_name=self._config.name,
            connector=self._connector,
            head_timeout=self._config.first_byte_timeout,
            idle_timeout=self._config.idle_timeout,
            drain_timeout=self._limits.drain_timeout,
        )
        worker = _Worker(ref, role)
        self._workers[role] = worker
        self._by_urn[ref.actor_urn] = worker
        return worker

    def _watch_worker(self, actor: GatewayActor, error: BaseException | None) -> None:
        # In the dying worker's own thread.
        if self.actor_ref.is_alive():
            self.actor_ref.tell(_WorkerEnded(actor.role, error))

    def _worker_ended(self, message: _WorkerEnded) -> None:
        worker = self._workers.pop(message.role, None)
        if worker is None:
            return
        del self._by_urn[worker.ref.actor_urn]
        if worker in self._idle:
            self._idle.remove(worker)
        if worker.state == "draining":
            self._draining -= 1
        if message.error is not None:
            log.error("upstream worker died", worker=message.role, error=repr(message.error))
        if self._waiting:
            self._dispatch(self._waiting.popleft())
        self._stop_if_done()

    def _free(self, ref: pykka.ActorRef[Any], reusable: bool, exchange: Any) -> None:
        if not reusable and exchange is not None:
            exchange.close()
        worker = self._by_urn.get(ref.actor_urn)
        if worker is None:
            return
        worker.state = "idle"
        worker.since = time.monotonic()
        self._idle.append(worker)
        if self._waiting:
            self._dispatch(self._waiting.popleft())
        elif self._retired:
            self._stop_idle(0.0)

    def _stop_idle(self, longer_than: float) -> None:
        """Stop workers that were idle for so long; the most recently used come last."""
        now = time.monotonic()
        keep = []
        for worker in self._idle:
            if now - worker.since >= longer_than:
                _stop(worker.ref)
            else:
                keep.append(worker)
        self._idle = keep

    def _stop_if_done(self) -> None:
        if self._retired and not self._workers:
            self.stop()

    def _schedule_reaper(self) -> None:
        self._reaper = Timer(REAP_EVERY, _tell_quietly, (self.actor_ref, _Reap()))
        self._reaper.daemon = True
        self._reaper.start()

    def _state(self) -> ProviderState:
        states = tuple(
            WorkerState(worker.role, worker.state, worker.exchanges)
            for worker in self._workers.values()
        )
        tally: Mapping[str, int] = {
            name: sum(state.state == name for state in states)
            for name in ("busy", "idle", "draining")
        }
        return ProviderState(
            self._config.name, tally["busy"], tally["idle"], tally["draining"],
            len(self._waiting), states,
        )  # fmt: skip


def _stop(ref: pykka.ActorRef[Any]) -> None:
    ref.stop(block=False)


def _tell_quietly(ref: pykka.ActorRef[Any], message: Any) -> None:
    if ref.is_alive():
        ref.tell(message)
