"""What is tried for a request, and when it is given up.

Theory of operation
-------------------
A request goes through up to four layers, each of which may end it:

1. The circuit breaker, if configured, admits or rejects it.  It hears the status that the
   client gets, once, however many attempts that took.
2. The key pool gives the first valid key.  An answer that is about the key (401, 403, 429)
   marks it and the next one is tried, on the same connection.
3. A retry, if configured, tries again after a pause: when no byte was sent, or when the
   answer itself says that another try may help.
4. The fallback, if configured, is another provider.  It gets the request when no key is left,
   the circuit is open, or the upstream broke off before the first byte of its answer.

Nothing of this ever happens after a byte of an answer has reached the client.  A user's own
key is tried once with its own provider: no marks, no further key, no fallback; retries are
for it too.  Waiting for a key to come back may take a minute, so a fallback, if there is
one, is preferred to that; to a short pause it is not.

Like :mod:`.keypool` and :mod:`.breaker` this decides and does nothing: the time and the dice
are passed in, and each method returns a step.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import structlog
from attrs import evolve, frozen

from aigateway.actors.providers.breaker import (
    CircuitBreaker,
    CircuitStatus,
    CircuitTransition,
    Rejected,
    Ticket,
)
from aigateway.actors.providers.config import ProviderConfig
from aigateway.actors.providers.counters import Counters
from aigateway.actors.providers.errors import (
    AnswerTimeout,
    OutOfFiles,
    Unsendable,
    UpstreamError,
)
from aigateway.actors.providers.interception import error_bodies
from aigateway.actors.providers.interception.credentials import Credential, centralized
from aigateway.actors.providers.interception.header_list import first_of
from aigateway.actors.providers.interception.interface import Headers
from aigateway.actors.providers.jobs import Job
from aigateway.actors.providers.keypool import (
    Exhausted,
    KeyPool,
    KeyStatus,
    KeyTransition,
    requested_delay,
)
from aigateway.actors.providers.messages import Perform, Refused
from aigateway.actors.providers.worker import refusal_of

__all__ = ["FallBack", "Pause", "Refuse", "Relay", "Send", "Step", "Strategy"]

KEY_STATUSES = frozenset({401, 403, 429})
"""Statuses that say something about a key."""
RETRY_STATUSES = frozenset({408, 409, 429, *range(500, 600)})
"""Statuses after which the providers' own SDKs try again."""
FIRST_PAUSE, LONGEST_PAUSE = 0.5, 8.0
"""Seconds before the first retry, doubled for each further one; the SDKs' values."""
PAUSE_JITTER = 0.25
"""Part of a pause that is left to chance; the SDKs' value."""
MAX_PAUSED = 1000
"""Requests of one provider that may wait for a retry; further ones are not tried again."""
LONGEST_REQUESTED = 60.0
"""Seconds of an upstream's Retry-After that are waited; the SDKs' value.  After that long the
client is better off asking again."""

log = structlog.get_logger("ai-gateway.provider")


@frozen
class Send:
    """Send the request with the job's credential."""


@frozen
class Relay:
    """Give the answer to the client."""


@frozen
class Pause:
    """Resume the job after ``seconds``."""

    seconds: float


@frozen
class Refuse:
    """There is no answer: say this instead."""

    refused: Refused


@frozen
class FallBack:
    """Hand the request on to the fallback; say this when there is none."""

    refused: Refused


Step: TypeAlias = Send | Relay | Pause | Refuse | FallBack
_SEND, _RELAY = Send(), Relay()


class Strategy:
    """One provider's decisions.  Raises KeyPoolError for keys that make no pool."""

    def __init__(
        self,
        config: ProviderConfig,
        counters: Counters,
        random: Callable[[], float],
        standing: Credential | None = None,
    ) -> None:
        """``random`` returns a number from 0 to 1.

        ``standing`` is the provider's credential where it has no keys; requests are made with
        it elsewhere.
        """
        self._config = config
        self._counters = counters
        self._random = random
        self._standing = standing
        self._pool = KeyPool(config.keys) if config.keys and config.type != "copilot" else None
        self._credentials = (
            [centralized(config.type, key) for key in config.keys] if self._pool else []
        )
        self._breaker = (
            CircuitBreaker(config.breaker, config.type) if config.breaker is not None else None
        )
        self.paused = 0
        """Requests that wait for a retry."""
        self._retried = RETRY_STATUSES if config.max_retries > 0 else frozenset[int]()
        self._asked_back = self._retried | KEY_STATUSES

    @property
    def has_credentials(self) -> bool:
        """Whether a request may go out that brings no credential of its own."""
        return self._pool is not None or self._standing is not None

    # -- a request's way

    def begin(self, perform: Perform, model: str, deadline: float, now: float) -> tuple[Job, Step]:
        """Take up a request; the step is Send, Pause, Refuse or FallBack.

        ``model`` is the provider's name for the one that is asked for.
        """
        request = perform.request
        job = Job(
            perform,
            model,
            request.credential,
            self._retried,
            deadline,
            perform.sent,
            perform.begun_at,
        )
        if request.add_credential and request.credential is None:
            if self._pool is not None:
                job.walker = self._pool.walk()
                job.ask_back = self._asked_back
            else:
                job.credential = self._standing
        if self._breaker is not None and request.route:
            admission = self._breaker.admit(request.route, model, now)
            if isinstance(admission, Rejected):
                self._counters.rejected(request.route, model)
                return job, self._rejected(job, admission)
            if admission.forgotten is not None:
                self._counters.forget_circuit(admission.forgotten)
            self._note_circuit(admission.transition)
            job.ticket = admission.ticket
        return job, self._take_key(job, now)

    def resume(self, job: Job, now: float) -> Step:
        """The pause is over: begin again, with the first key that is valid by now."""
        self.paused -= 1
        self._counters.retries += 1
        if job.walker is not None:
            assert self._pool is not None
            self._counters.walked(job.walker.attempts)
            job.walker = self._pool.walk()
        return self._take_key(job, now)

    def answered(self, job: Job, status: int, headers: Headers, now: float) -> Step:
        """The upstream has answered with one of the job's ``ask_back`` statuses."""
        if job.key is not None:
            assert self._pool is not None
            marked = self._pool.mark(job.key, status, headers, now)
            if marked is not None:
                if marked.transition is not None:
                    self._note_key(marked.transition, status)
                step = self._take_key(job, now)
                if isinstance(step, Send):
                    self._counters.failovers += 1
                return step
        if status in self._retried:
            pause = self._pause(job, headers, now)
            if pause is not None:
                return pause
        self.report_job(job, status, now)
        return _RELAY

    def failed(self, job: Job, error: UpstreamError, now: float) -> Step:
        """No answer came; ``job.sent`` says whether the upstream may have seen the request."""
        if not error.sent and not isinstance(error, Unsendable):
            pause = self._pause(job, (), now)
            if pause is not None:
                return pause
        # A failure without an answer becomes a 502, which does not count; a timeout a 504.
        ours = isinstance(error, OutOfFiles)
        self._end(job, error.status if error.status != 502 and not ours else None, now)
        refused = refusal_of(error, job, self._config.name)
        if ours or isinstance(error, AnswerTimeout | Unsendable):
            # Nobody waits for a second answer; nobody else could send it.
            return Refuse(refused)
        return self._give_up(job, refused)

    def dropped(self, job: Job, refused: Refused, now: float) -> Step:
        """It ends for a reason of ours, which says nothing about the upstream."""
        self._end(job, None, now)
        name = self._config.name
        return Refuse(evolve(refused, credential_hint=job.hint, sent=job.sent, provider_name=name))

    def report_job(self, job: Job, status: int | None, now: float) -> None:
        """Tell the breaker the status that the client gets, None for none that counts."""
        ticket, job.ticket = job.ticket, None
        if ticket is not None:
            self.report(ticket, status, now)

    def report(self, ticket: Ticket, status: int | None, now: float) -> None:
        assert self._breaker is not None
        if status is None:
            self._breaker.abandon(ticket, now)
        else:
            self._note_circuit(self._breaker.report(ticket, status, now))

    # -- for those who look

    def keys(self, now: float) -> tuple[KeyStatus, ...]:
        return self._pool.states(now) if self._pool is not None else ()

    def circuits(self) -> tuple[CircuitStatus, ...]:
        return tuple(self._breaker.states()) if self._breaker is not None else ()

    # -- decisions

    def _take_key(self, job: Job, now: float) -> Step:
        if job.walker is None:
            return _SEND
        key = job.walker.next(now)
        if isinstance(key, Exhausted):
            return self._exhausted(job, key, now)
        job.key = key
        job.credential = self._credentials[key.index]
        return _SEND

    def _exhausted(self, job: Job, exhausted: Exhausted, now: float) -> Step:
        rate_limited = exhausted.outcome == "rate_limited"
        if rate_limited and not self._may_fall_back(job):
            pause = self._pause_for(job, exhausted.wait, now)
            if pause is not None:
                return pause
        self._counters.exhausted(exhausted.outcome)
        # Without an attempt nothing is known of the upstream.
        self._end(job, exhausted.status if job.attempts else None, now)
        body = error_bodies.keys_rate_limited if rate_limited else error_bodies.keys_rejected
        refused = Refused(
            exhausted.status,
            exhausted.message,
            "rate_limited" if rate_limited else "unauthorized",
            exhausted.retry_after,
            body(self._dialect(job), exhausted.message),
            job.hint,
            job.sent,
            self._config.name,
        )
        return self._give_up(job, refused)

    def _rejected(self, job: Job, rejected: Rejected) -> Step:
        refused = Refused(
            503,
            "circuit breaker is open",
            "overloaded",
            rejected.retry_after,
            error_bodies.breaker_open(self._dialect(job)),
            sent=job.sent,
            provider_name=self._config.name,
        )
        return self._give_up(job, refused)

    def _give_up(self, job: Job, refused: Refused) -> Step:
        return FallBack(refused) if self._may_fall_back(job) else Refuse(refused)

    def _may_fall_back(self, job: Job) -> bool:
        """Whether another provider could answer, with a key of its own."""
        request, then = job.request, job.perform.then
        return bool(
            (self._config.fallback if then is None else then)
            and request.route
            and request.credential is None
            and request.add_credential
        )

    def _pause(self, job: Job, headers: Headers, now: float) -> Pause | None:
        """The pause before the next retry, None when there is to be none."""
        if first_of(headers, "x-should-retry").lower() == "false":
            return None
        return self._pause_for(job, requested_delay(headers), now)

    def _pause_for(self, job: Job, requested: float, now: float) -> Pause | None:
        if job.retries >= self._config.max_retries or requested > LONGEST_REQUESTED:
            return None
        if self.paused >= MAX_PAUSED:
            return None
        if requested > 0:
            # Never sooner, and not all at once.
            seconds = requested + PAUSE_JITTER * self._random()
        else:
            usual = min(FIRST_PAUSE * 2.0**job.retries, LONGEST_PAUSE)
            seconds = usual * (1 - PAUSE_JITTER * self._random())
        if now + seconds >= job.deadline:
            return None
        job.retries += 1
        self.paused += 1
        return Pause(seconds)

    def _end(self, job: Job, status: int | None, now: float) -> None:
        """The job ends here, without an exchange: settle what it had taken."""
        if job.walker is not None:
            self._counters.walked(job.walker.attempts)
        self.report_job(job, status, now)

    def _dialect(self, job: Job) -> str:
        # Bedrock's circuit has a body of its own; it speaks one API only.
        name = self._config.type
        return name if name == "bedrock" else job.request.api or name

    # -- what operators hear of

    def _note_key(self, transition: KeyTransition, status: int) -> None:
        self._counters.key_changed(transition.reason)
        permanent = transition.after == "permanent"
        log.warning(
            "key marked permanent" if permanent else "key marked temporary",
            provider=self._config.name,
            api_key_hint=transition.hint,
            status=status,
            cooldown=transition.cooldown or None,
        )

    def _note_circuit(self, transition: CircuitTransition | None) -> None:
        if transition is None:
            return
        if transition.after == "open":
            self._counters.tripped(transition.route, transition.model)
        log.warning(
            "circuit breaker changed",
            provider=self._config.name,
            route=transition.route,
            model=transition.model,
            before=transition.before,
            after=transition.after,
        )
