"""What is tried for a request, and when it is given up.

Theory of operation
-------------------
A request goes through up to four layers, each of which may end it:

1. The circuit breaker, if configured, admits or rejects it.  It hears the status that the
   client gets, once, however many attempts that took.
2. The key pool gives the key of the request's session, or another one while that rests.  An
   answer that is about the key (401, 403, 429) is noted and the next one is tried, on the same
   connection.  When no key is left the last answer is the client's, as it came; but a 401 is
   about a key that the client does not know, and would read as one about its own.
3. A retry, if configured, tries again after a pause: when no byte was sent, or when the
   answer itself says that another try may help.
4. The fallback, if configured, is another provider.  It gets the request when no key is left,
   the circuit is open, the upstream cannot be reached or breaks off, answers with a 5xx, or
   with a success that is none (:mod:`.beginning`).  A stream goes there on time alone, too.

Nothing of this ever happens after a byte of an answer has reached the client.  A user's own
key is tried once with its own provider: no rests, no further key, no fallback; retries are
for it too.  A request that is bound to an account is tried with that account's key alone.
Waiting for a key to come back may take a minute, so a fallback, if there is one, is preferred
to that; to a short pause it is not.

Like :mod:`.keypool` and :mod:`.breaker` this decides and does nothing: the time and the dice
are passed in, and each method returns a step.
"""

from __future__ import annotations

from collections.abc import Callable

import structlog
from attrs import evolve

from aigateway.actors.interception.headers import centralized
from aigateway.actors.interception.routes import GEMINI
from aigateway.actors.providers.beginning import BadStart
from aigateway.actors.providers.breaker import (
    CircuitBreaker,
    CircuitStatus,
    CircuitTransition,
    Rejected,
    Ticket,
)
from aigateway.actors.providers.counters import Counters
from aigateway.actors.providers.delays import requested_delay
from aigateway.actors.providers.jobs import Job
from aigateway.actors.providers.keypool import (
    KeyPool,
    KeyStatus,
    Marked,
    Subject,
    Walker,
)
from aigateway.actors.providers.making import Maker
from aigateway.actors.providers.pauses import Pauses
from aigateway.actors.providers.refusals import ProviderAnswer
from aigateway.actors.providers.request import Perform, Refused
from aigateway.actors.providers.steps import Deliver, FallBack, Pause, Refuse, Send, Step, reason_of
from aigateway.actors.providers.words import Words
from aigateway.actors.providers.worker import refusal_of
from aigateway.actors.upstream.errors import (
    OutOfFiles,
    Unsendable,
    UpstreamError,
)
from aigateway.actors.values.provider_config import ProviderConfig

__all__ = ["Strategy"]

KEY_STATUSES = frozenset({401, 403, 429})
"""Statuses that say something about a key."""
CREDENTIAL_STATUSES = frozenset({401, 403})
"""Statuses that may say something about a credential that is the only one."""
SUCCESSES = frozenset({101, *range(200, 300)})
"""Statuses that show that a key is accepted."""
RETRY_STATUSES = frozenset({408, 409, 429, *range(500, 600)})
"""Statuses after which the providers' own SDKs try again."""
RESCUED_STATUSES = frozenset({408, *range(500, 600)})
"""Statuses that are the provider's fault, or its server's: another one may do better.  All other
4xx are about the request, the key or the model."""
BOUND_WAIT = 10.0
"""Seconds that a request which no other key may serve waits for its own to come back."""

log = structlog.get_logger("ai-gateway.provider")


_SEND, _DELIVER = Send(), Deliver()


class Strategy:
    """One provider's decisions.  Raises KeyPoolError for keys that make no pool."""

    def __init__(
        self,
        config: ProviderConfig,
        counters: Counters,
        random: Callable[[], float],
        maker: Maker | None = None,
    ) -> None:
        """``random`` returns a number from 0 to 1.

        ``maker`` makes the requests; it may have a credential of its own where there are no
        keys.
        """
        self._config = config
        self._counters = counters
        self._maker = maker
        self._standing = maker.standing if maker is not None else None
        # A key that a command says is renewed, and never rests.
        pooled = config.keys and config.type != "copilot" and config.key_command is None
        self._pool = KeyPool(config.keys, config.key_rest_max) if pooled else None
        self._credentials = (
            [centralized(config.type, key) for key in config.keys] if self._pool else []
        )
        self._breaker = (
            CircuitBreaker(config.breaker, config.type) if config.breaker is not None else None
        )
        self._pauses = Pauses(config.max_retries, random)
        self._words = Words(config)
        self._retried = RETRY_STATUSES if config.max_retries > 0 else frozenset[int]()
        self._asked_back = self._retried | KEY_STATUSES
        self._credential_statuses = CREDENTIAL_STATUSES
        if config.type == GEMINI:
            # So Google answers to a key that it does not know.
            self._asked_back |= {400}
            self._credential_statuses |= {400}
        self._asked_on_trial = self._asked_back | SUCCESSES
        self._rescued = RESCUED_STATUSES | {429}

    @property
    def has_credentials(self) -> bool:
        """Whether a request may go out that brings no credential of its own."""
        return self._pool is not None or self._standing is not None

    @property
    def paused(self) -> int:
        """Requests that wait for a retry."""
        return self._pauses.waiting

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
        job.rescued = self._may_fall_back(job)
        if job.shared:
            if self._pool is not None:
                job.walker = self._walk(job)
            else:
                job.credential = self._standing
                job.ask_back = self._retried | self._credential_statuses
                if job.rescued:
                    job.ask_back |= self._rescued
        if self._breaker is not None and request.route:
            admission = self._breaker.admit(request.route, model, now)
            if isinstance(admission, Rejected):
                self._counters.rejected(request.route, model)
                refused = Refuse(self._words.circuit_open(job, admission.retry_after))
                return job, self._give_up(job, refused, "circuit_open")
            if admission.forgotten is not None:
                self._counters.forget_circuit(admission.forgotten)
            self._note_circuit(admission.transition)
            job.ticket = admission.ticket
        return job, self._take_key(job, now)

    def resume(self, job: Job, now: float) -> Step:
        """The pause is over: begin again, with the best key by now."""
        self._pauses.over()
        self._counters.retries += 1
        if job.walker is not None:
            job.walker = self._walk(job)
        return self._take_key(job, now)

    def answered(self, job: Job, answer: ProviderAnswer, now: float) -> Step:
        """The upstream has answered with one of the job's ``ask_back`` statuses."""
        status = answer.status
        if job.walker is not None:
            if status in SUCCESSES:
                job.walker.accepted()
            marked = job.walker.refused(answer.of_key, answer.told, now, answer.received_at)
            if marked is not None:
                return self._after_refusal(job, answer, marked, now)
        elif job.shared and answer.rejects_credential:
            if not job.renewed and self._maker is not None and self._maker.renew(job.sent_at):
                job.renewed = True
                log.warning("credentials refused, renewing them", provider=self._config.name)
                return _SEND
            self._end(job, 502, now)
            return self._give_up(
                job, Refuse(self._words.credential_refused(job, answer)), "unauthorized"
            )
        if answer.bad is not None:
            return self._begun_badly(job, answer, answer.bad, now)
        if status in self._retried:
            pause = self._pause(job, answer, now)
            if pause is not None:
                return pause
        if not job.rescued or not self._is_its_fault(answer):
            self.report_job(job, status, now)
            return _DELIVER
        self._end(job, status, now)
        reason = "rate_limited" if status == 429 else "error_status"
        return self._give_up(job, _DELIVER, reason, said=self._words.quoted(job, answer))

    def failed(self, job: Job, error: UpstreamError, now: float) -> Step:
        """No answer came; ``job.sent`` says whether the upstream may have seen the request."""
        if not error.sent and not isinstance(error, Unsendable):
            pause = self._pause_for(job, 0.0, now)
            if pause is not None:
                return pause
        # A failure without an answer becomes a 502, which does not count; a timeout a 504.
        ours = isinstance(error, OutOfFiles)
        self._end(job, error.status if error.status != 502 and not ours else None, now)
        refused = refusal_of(error, job, self._config.name)
        if ours or isinstance(error, Unsendable):
            # It is not the upstream's fault; nobody else could send it.
            return Refuse(refused)
        instead = Refuse(self._told_before(job) or refused)
        return self._give_up(job, instead, reason_of(error), abandoned=error.sent)

    def dropped(self, job: Job, refused: Refused, now: float) -> Step:
        """It ends for a reason of ours, which says nothing about the upstream."""
        self._end(job, None, now)
        name = self._config.name
        refused = evolve(refused, credential_hint=job.hint, sent=job.sent, provider_name=name)
        return Refuse(self._told_before(job) or refused)

    def told(self, walker: Walker, answer: ProviderAnswer, model: str, now: float) -> None:
        """A message of a session is about the key with which that was opened."""
        again = walker.once_more(Subject.model(model), now)
        marked = again.refused(answer.of_key, answer.told, now, answer.received_at)
        if marked is not None:
            self._note_key(marked, answer)

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

    def _walk(self, job: Job) -> Walker:
        assert self._pool is not None
        request = job.request
        subject = Subject.model(job.model) if request.route else Subject.route(request.passed)
        return self._pool.walk(subject, request.affinity)

    def _take_key(self, job: Job, now: float) -> Step:
        """Choose a key for a request that has asked nobody since it began, or began again."""
        if job.walker is None:
            return _SEND
        return _SEND if self._next_key(job, now) else self._all_rest(job, now)

    def _next_key(self, job: Job, now: float) -> bool:
        """Take the next key for the job; False when none is left."""
        assert self._pool is not None
        assert job.walker is not None
        key = job.walker.next(now)
        if key is None:
            return False
        job.credential = self._credentials[key.index]
        on_trial = self._pool.is_on_trial(key)
        job.ask_back = self._asked_on_trial if on_trial else self._asked_back
        if job.rescued:
            job.ask_back |= self._rescued
        return True

    def _after_refusal(self, job: Job, answer: ProviderAnswer, marked: Marked, now: float) -> Step:
        """The answer was about the key: try the next one, or say what becomes of the request."""
        assert job.walker is not None
        self._note_key(marked, answer)
        if not job.request.affinity.bound and self._next_key(job, now):
            self._counters.failovers += 1
            if answer.of_key != 401 and answer.whole:
                job.refusal = answer
            return _SEND
        if marked.reason == "rate_limited":
            back_in = job.walker.back_in(now)
            if not self._may_fall_back(job) and not answer.says_no_retry:
                pause = self._pause_for(job, back_in, now)
                if pause is not None:
                    return pause
            self._counters.exhausted("rate_limited")
            self._end(job, answer.status, now)
            said = self._words.quoted(job, answer)
            return self._give_up(job, _DELIVER, "rate_limited", said=said)
        if marked.reason == "unauthorized":
            self._counters.exhausted("auth_failed")
            self._end(job, 502, now)
            refused = self._told_before(job) or self._words.credential_refused(job, answer)
            return self._give_up(job, Refuse(refused), "unauthorized")
        self._end(job, answer.status, now)
        return _DELIVER

    def _all_rest(self, job: Job, now: float) -> Step:
        """Every key that may serve the request rests after a 429: nobody is asked."""
        assert job.walker is not None
        back_in = job.walker.back_in(now)
        if not self._may_fall_back(job):
            bound = job.request.affinity.bound and back_in <= BOUND_WAIT
            pause = self._pause_for(job, back_in, now, always=bound and not job.retries)
            if pause is not None:
                return pause
        self._counters.exhausted("rate_limited")
        # Without an attempt nothing is known of the upstream.
        self._end(job, 429 if job.attempts else None, now)
        refused = self._words.keys_rest(job, back_in)
        return self._give_up(job, Refuse(self._told_before(job) or refused), "rate_limited")

    def _begun_badly(self, job: Job, answer: ProviderAnswer, bad: BadStart, now: float) -> Step:
        """The status was a success, and what came behind it was none."""
        said = None
        if bad.fault == "error_event":
            pause = self._pause(job, answer, now) if self._retried else None
            if pause is not None:
                return pause
            said = self._words.error_told(job, bad)
        self._end(job, 503 if bad.kind == "overloaded" else None, now)
        return self._give_up(job, _DELIVER, bad.fault, said=said, abandoned=said is None)

    def _is_its_fault(self, answer: ProviderAnswer) -> bool:
        """Whether another provider may do better than this refusal."""
        if answer.status != 429:
            return answer.status in RESCUED_STATUSES
        # One that names no delay and wants no other try is about the request.
        return not answer.says_no_retry or bool(requested_delay(answer.told, answer.received_at))

    def _told_before(self, job: Job) -> Refused | None:
        """The answer to an earlier key of this request, if one was kept."""
        return self._words.quoted(job, job.refusal)

    def _give_up(
        self,
        job: Job,
        instead: Refuse | Deliver,
        reason: str,
        *,
        said: Refused | None = None,
        abandoned: bool = False,
    ) -> Step:
        if not self._may_fall_back(job):
            return instead
        if isinstance(instead, Refuse) and instead.refused.quotes:
            said = instead.refused
        return FallBack(instead, reason, said, abandoned)

    def _may_fall_back(self, job: Job) -> bool:
        """Whether another provider could answer, with a key of its own."""
        request, then = job.request, job.perform.then
        return bool(
            (self._config.fallback if then is None else then)
            and request.route
            and request.credential is None
            and request.add_credential
            and not request.affinity.bound
        )

    def _pause(self, job: Job, answer: ProviderAnswer, now: float) -> Pause | None:
        """The pause before the next retry, None when there is to be none."""
        if answer.says_no_retry:
            return None
        return self._pause_for(job, requested_delay(answer.told, answer.received_at) or 0.0, now)

    def _pause_for(
        self, job: Job, requested: float, now: float, *, always: bool = False
    ) -> Pause | None:
        """``always``: also where retries are not configured."""
        seconds = self._pauses.begin(job, requested, now, always=always)
        if seconds is None:
            return None
        self._end_walk(job)
        return Pause(seconds)

    def _end(self, job: Job, status: int | None, now: float) -> None:
        """The job ends here, without an exchange: settle what it had taken."""
        self._end_walk(job)
        self.report_job(job, status, now)

    def _end_walk(self, job: Job) -> None:
        if job.walker is not None:
            self._counters.walked(job.walker.end())

    # -- what operators hear of

    def _note_key(self, marked: Marked, answer: ProviderAnswer) -> None:
        rest = marked.begun
        if rest is None:
            return
        self._counters.key_rests(rest.reason)
        log.warning(
            "key rests",
            provider=self._config.name,
            api_key_hint=rest.hint,
            subject=str(rest.subject) if rest.subject is not None else "everything",
            status=answer.status,
            seconds=round(rest.remaining, 3),
            error_type=answer.error_type,
            error=answer.message if self._config.quoted else "",
            provider_request_id=answer.request_id,
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
