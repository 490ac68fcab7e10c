"""The upstream worker: owns one connection, runs one exchange at a time.

A worker may block: on connecting, on sending, on the answer's head, on draining.  That is
what it is for; its provider never does.
"""

from __future__ import annotations

import time
from typing import Any

import pykka
import structlog
from attrs import define, field, frozen

from aigateway.actors.actor import GatewayActor, Reply, complete
from aigateway.actors.providers.adapter import HeaderPairs, UpstreamAdapter, prepare
from aigateway.actors.providers.connect import Connector
from aigateway.actors.providers.errors import Quiet, UpstreamCut, UpstreamError
from aigateway.actors.providers.exchange import Exchange
from aigateway.actors.providers.interception.credentials import Credential
from aigateway.actors.providers.messages import Drain, Opened, Perform, Refused

__all__ = ["Answered", "Drained", "Failed", "Job", "Run", "UpstreamWorker"]

log = structlog.get_logger("ai-gateway.provider")


@define(eq=False)
class Job:
    """A request on its way through a provider; owned by whoever holds the message."""

    perform: Perform
    credential: Credential | None
    ask_back: frozenset[int]
    """Statuses that the provider wants to see before the client does (another key may help)."""
    attempt: int = 1
    sent: bool = False
    """Whether any byte of any attempt may have reached the upstream."""
    state: Any = None
    """The provider's own notes (its walk through the keys)."""


@frozen
class Run:
    """Send the job's request."""

    job: Job = field(repr=False)

    @property
    def reply(self) -> Reply[Opened | Refused]:
        return self.job.perform.reply

    @property
    def sent(self) -> bool:
        return self.job.sent


@frozen
class Answered:
    """Told to the provider: this head has a status it asked to see; the exchange comes along."""

    worker: pykka.ActorRef[Any] = field(repr=False)
    job: Job = field(repr=False)
    exchange: Exchange = field(repr=False)
    sent = True

    @property
    def reply(self) -> Reply[Opened | Refused]:
        return self.job.perform.reply


@frozen
class Failed:
    """Told to the provider: no head came."""

    worker: pykka.ActorRef[Any] = field(repr=False)
    job: Job = field(repr=False)
    error: UpstreamError

    @property
    def reply(self) -> Reply[Opened | Refused]:
        return self.job.perform.reply

    @property
    def sent(self) -> bool:
        return self.job.sent


@frozen
class Drained:
    """Told to the provider: a drain is over and the worker is free again."""

    worker: pykka.ActorRef[Any] = field(repr=False)
    exchange: Exchange = field(repr=False)
    to_the_end: bool


class UpstreamWorker(GatewayActor):
    """One connection to the upstream of ``provider``."""

    def __init__(
        self,
        role: str,
        watcher: Any,
        *,
        provider: pykka.ActorRef[Any],
        provider_name: str,
        connector: Connector,
        head_timeout: float,
        idle_timeout: float,
        drain_timeout: float,
    ) -> None:
        super().__init__(role, watcher)
        self._provider = provider
        self._provider_name = provider_name
        self._adapter = UpstreamAdapter(connector)
        self._head_timeout = head_timeout
        self._idle_timeout = idle_timeout
        self._drain_timeout = drain_timeout
        self._lent: Exchange | None = None

    def receive(self, message: Any) -> Any:
        match message:
            case Run():
                self._run(message.job)
            case Drain():
                self._drain(message)
            case _:
                raise TypeError(f"worker: unknown message {type(message).__name__}")

    def release(self) -> None:
        # A connection whose exchange is out belongs to its holder.
        if self._lent is None or self._lent.complete:
            self._adapter.close()

    def _run(self, job: Job) -> None:
        perform = job.perform
        self._lent = None
        headers = HeaderPairs(perform.headers)
        if job.credential is not None:
            headers.extend(job.credential.headers)
        if perform.body or perform.method in ("POST", "PUT", "PATCH"):
            headers.append(("Content-Length", str(len(perform.body))))
        request = prepare(perform.method, perform.url, headers, perform.body)
        sent_before, job.sent = job.sent, True
        try:
            exchange = self._adapter.exchange(request, self._head_timeout)
        except UpstreamError as ex:
            job.sent = sent_before or self._adapter.sending
            self._adapter.close()
            self._provider.tell(Failed(self.actor_ref, job, ex))
            return
        self._lent = exchange
        if exchange.status in job.ask_back:
            self._provider.tell(Answered(self.actor_ref, job, exchange))
        else:
            self.hand_over(self.actor_ref, self._provider, self._provider_name, job, exchange)

    @staticmethod
    def hand_over(
        worker: pykka.ActorRef[Any],
        provider: pykka.ActorRef[Any],
        provider_name: str,
        job: Job,
        exchange: Exchange,
    ) -> None:
        """Give the open exchange to the request; close it if the request waits no more."""
        hint = job.credential.hint if job.credential is not None else ""
        opened = Opened(exchange, worker, provider, provider_name, hint)
        if not complete(job.perform.reply, opened):
            exchange.close()
            provider.tell(Drained(worker, exchange, to_the_end=False))

    def _drain(self, message: Drain) -> None:
        """Read on after the client has gone, until the end or the drain timeout."""
        exchange, recording = message.exchange, message.recording
        deadline = time.monotonic() + self._drain_timeout
        to_the_end = False
        try:
            while time.monotonic() < deadline:
                exchange.set_quiet(max(0.01, min(self._idle_timeout, deadline - time.monotonic())))
                data = exchange.read()
                if data:
                    recording.data(data)
                if not data or recording.interception.complete:
                    to_the_end = True
                    recording.end(framed=exchange.complete)
                    break
        except (Quiet, UpstreamCut):
            pass
        if not to_the_end:
            recording.lost_client()
        if not exchange.reusable:
            exchange.close()
        recording.close()
        self._lent = None
        self._provider.tell(Drained(self.actor_ref, exchange, to_the_end))
