"""The embedded control plane of several gateways: answers for itself, from PostgreSQL.

The actor itself never waits.  Two threads, each with at most one job in hand, talk to
the database: one looks things up, the other writes.  What comes while a thread is busy is
collected, and goes with its next job: into one query, or one transaction.

While the database is away, questions and starts wait up to ``max_wait`` and at most
``max_waiting`` of them, then they are answered "ask later".  Records go back at once, they have
their place on disk.  A thread that met trouble rests, then tries again, whether anybody waits or
not; the first that gets through says that the database is back.
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable
from typing import Any, ClassVar, Generic, TypeAlias, TypeVar

import structlog
from attrs import define, evolve, field, frozen

from aigateway.actors.actor.base import (
    ActorDied,
    GatewayActor,
    Reply,
    complete,
    fail,
    tell_quietly,
)
from aigateway.actors.control.local._writing import (
    answer_batches,
    database_away,
    send_back,
    take_batches,
    take_starts,
)
from aigateway.actors.control.local.address import shown
from aigateway.actors.control.local.api_keys import USES_WRITTEN_AFTER
from aigateway.actors.control.local.cap_book import Money
from aigateway.actors.control.local.cap_holders import CapRow, Holder
from aigateway.actors.control.local.cap_queue import CapQueue, Start
from aigateway.actors.control.local.job_thread import FIRST_REST, LONGEST_REST, Done, JobThread
from aigateway.actors.control.local.opening import postgresql
from aigateway.actors.control.local.prices.cost import Pricing
from aigateway.actors.control.local.store import DatabaseTrouble, Written
from aigateway.actors.control.messages import (
    Accepted,
    Authorize,
    Begin,
    CallStats,
    CheckIds,
    GetCallStats,
    GetMcpConfiguration,
    GetStatus,
    HoldMore,
    McpConfiguration,
    NotYours,
    ProvidersChanged,
    RememberIds,
    Status,
    StoreRecords,
    SubscribeProviders,
    Unavailable,
)
from aigateway.actors.values.provider_config import ProviderConfig

__all__ = ["SharedControlPlane"]

log = structlog.get_logger("ai-gateway.database")

_CONNECTIONS = 2
"""Per worker process: one for each thread."""

_CONNECTION_PATIENCE = 2.0
"""Seconds that a thread waits for a connection before it says that there is none."""

_UNHEARD = 2.0
"""Seconds after the last answer of the database for which readiness relies on it."""

_QUESTIONS_AT_ONCE = 512
"""How many go into one query."""

T = TypeVar("T")


@define(eq=False)
class _Waiting(Generic[T]):
    """A message that somebody waits for, no longer than ``until`` (monotonic seconds)."""

    message: T
    until: float


_Question: TypeAlias = Authorize | CheckIds
_Note: TypeAlias = tuple[str, tuple[str, ...]]
"""A user, and ids that this user goes on using."""


@frozen
class _WriteUses:
    """To itself: have it written which keys were used."""


@frozen
class _Questions:
    """A job: answer these."""

    waiting: tuple[_Waiting[_Question], ...]
    answers: tuple[Any, ...] = ()
    notes: tuple[_Note, ...] = ()


@frozen
class _Writes:
    """A job: store these."""

    claims: tuple[_Waiting[RememberIds], ...] = ()
    notes: tuple[_Note, ...] = ()
    starts: tuple[_Waiting[Start], ...] = ()
    batches: tuple[StoreRecords, ...] = ()
    uses: bool = False
    """Which keys were used is to be written too."""
    money: Money | None = None
    holder: str = ""
    """Reservations are to be looked after, for this process."""
    written: Written = field(factory=Written)
    found: tuple[int, list[CapRow]] | None = None
    """What came of looking after reservations."""


@frozen
class _Rested:
    """To itself: let this thread try again."""

    thread: JobThread


@frozen
class _Tick:
    """To itself: look after those who wait for caps, and after reservations."""


@frozen
class _Look:
    """To itself: answer those who have waited long enough."""


class SharedControlPlane(GatewayActor):
    """Answers the messages of :mod:`~aigateway.actors.control.messages` from ``address``.

    ``providers`` are fixed for its life, and so are the MCP servers, which all users share, and
    ``pricing``, by which token records get their costs.
    A database that cannot be reached is no reason not to start.  It dies of a
    :class:`~aigateway.actors.control.local.address.LocalDatabaseError` when the database is one
    that it will never be able to use.
    """

    def __init__(
        self,
        role: str,
        watcher: Any,
        address: str,
        providers: tuple[ProviderConfig, ...] = (),
        mcp: McpConfiguration | None = None,
        pricing: Pricing | None = None,
        *,
        max_wait: float = 60.0,
        max_waiting: int = 1000,
        holder: Holder | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        super().__init__(role, watcher)
        self._address = address
        self._providers = providers
        self._mcp = mcp or McpConfiguration()
        self._pricing = pricing
        self._max_wait, self._max_waiting = max_wait, max_waiting
        self._clock = clock
        self._began = clock()
        self._questions: list[_Waiting[_Question]] = []
        self._claims: list[_Waiting[RememberIds]] = []
        self._notes: list[_Note] = []
        self._starts: list[_Waiting[Start]] = []
        self._caps = CapQueue(pricing, holder or Holder(), max_wait)
        self._caps_timer: threading.Timer | None = None
        self._caps_pause = 0.0
        self._batches: list[StoreRecords] = []
        self._told_away = False
        self._timer: threading.Timer | None = None
        self._uses_due = False
        self._uses_timer: threading.Timer | None = None

    def started(self) -> None:
        postgresql(self._address)
        # Late: it needs the extra, and must not be imported before gevent has patched.
        from aigateway.actors.control.local.postgres_store import PostgresStore

        self._store = PostgresStore(
            self._address, _CONNECTIONS, _CONNECTION_PATIENCE, self._pricing
        )
        self._asking = JobThread(f"{self.role} asking", self._ask, self._hear, _Questions(()))
        self._writing = JobThread(f"{self.role} writing", self._write, self._hear, _Writes())
        self._tick_later()

    def receive(self, message: Any) -> Any:
        return self._handlers[type(message)](self, message)

    def release(self) -> None:
        died = ActorDied(f"{self.role} stopped")
        for waiting in self._everybody():
            fail(waiting.message.reply, died)
        self._caps.close(died)
        if self._caps_timer is not None:
            self._caps_timer.cancel()
        send_back(self._batches, str(died))
        for timer in (self._timer, self._uses_timer):
            if timer is not None:
                timer.cancel()
        if hasattr(self, "_writing"):
            if self._writing.job is not None:
                send_back(self._writing.job.batches, str(died))
            self._writing.close()
            self._asking.close()
        if hasattr(self, "_store"):
            self._store.close()

    # -- messages

    def _question(self, message: _Question) -> None:
        self._queue(self._questions, message)

    def _begin(self, message: Begin | HoldMore) -> None:
        start = self._caps.start(message, self._clock())
        if start is not None:
            self._queue(self._starts, start)
        self._tick_later()

    def _remember_ids(self, message: RememberIds) -> None:
        self._queue(self._claims, message)

    def _queue(self, waiting: list[_Waiting[Any]], message: Any) -> None:
        if self._trouble() is not None and len(self._everybody()) >= self._max_waiting:
            complete(message.reply, self._unavailable())
            return
        waiting.append(_Waiting(message, time.monotonic() + self._max_wait))
        if self._timer is None:
            self._timer = self.later(self._max_wait, _Look())
        self._busy_threads()

    def _store_records(self, message: StoreRecords) -> None:
        if self._writing.resting:
            send_back([message], self._detail())
            return
        self._batches.append(message)
        self._busy_threads()

    def _subscribe(self, message: SubscribeProviders) -> None:
        tell_quietly(message.subscriber, ProvidersChanged(self._providers))

    def _get_mcp(self, message: GetMcpConfiguration) -> None:
        complete(message.reply, self._mcp)

    def _get_status(self, _message: GetStatus) -> Status:
        now = time.monotonic()
        if self._asking.free and now - self._asking.heard_at > _UNHEARD:
            # A client that waits for readiness may be the only one that asks for anything.
            self._asking.try_out()
        return Status(
            connected=self._trouble() is None,
            detail=self._detail(),
            providers_tried_at=self._began,
            providers_loaded_at=self._began,
        )

    def _get_call_stats(self, _message: GetCallStats) -> CallStats:
        return CallStats(
            waiting=len(self._everybody()) if self._trouble() is not None else 0,
            unpriced=dict(self._store.unpriced),
            costs=dict(self._store.costs),
            caps=self._caps.stats(),
        )

    # -- the threads, from their own threads

    def _hear(self, message: Any) -> None:
        tell_quietly(self.actor_ref, message)

    def _ask(self, job: _Questions) -> _Questions:
        questions = [waiting.message for waiting in job.waiting]
        tokens = [each.token for each in questions if isinstance(each, Authorize)]
        checks = [each for each in questions if isinstance(each, CheckIds)]
        if not questions:
            self._store.probe()
            return job
        callers, found = self._store.look_up(
            tokens, [(each.user_id, each.ids) for each in checks], self._clock()
        )
        verdicts = iter(found)
        answers: list[Any] = []
        notes: list[_Note] = []
        for question in questions:
            if isinstance(question, Authorize):
                answers.append(callers[question.token])
                continue
            foreign, used = next(verdicts)
            answers.append(Accepted() if foreign is None else NotYours(foreign))
            if used:
                notes.append((question.user_id, used))
        return _Questions(job.waiting, tuple(answers), tuple(notes))

    def _write(self, job: _Writes) -> _Writes:
        found = None
        if job.holder:
            found = self._store.look_after_holds(job.holder, self._clock(), time.monotonic())
        elif not (job.claims or job.notes or job.starts or job.batches or job.money or job.uses):
            self._store.probe(writing=True)
            return job
        claims = [*job.notes, *((each.message.user_id, each.message.ids) for each in job.claims)]
        if claims:
            self._store.remember_ids(claims, self._clock())
        written = job.written
        if job.starts or job.batches or job.money is not None:
            records = [spooled.record for message in job.batches for spooled in message.records()]
            starts = [each.message.record for each in job.starts]
            written = self._store.write([each for each in starts if each], records, job.money)
        if job.uses:
            self._store.note_uses()
        return evolve(job, written=written, found=found)

    # -- the threads, from here

    def _busy_threads(self) -> None:
        """Give each thread that can take it what has been collected."""
        asking, writing = self._asking, self._writing
        if self._questions and asking.free:
            taken = self._questions[:_QUESTIONS_AT_ONCE]
            self._questions = self._questions[_QUESTIONS_AT_ONCE:]
            asking.give(_Questions(tuple(taken)))
        if not writing.free:
            return
        holder = self._caps.beat_due()
        waiting = self._claims or self._notes or self._starts or self._batches
        if waiting or holder or self._caps.released or self._uses_due:
            claims, self._claims = self._claims, []
            notes, self._notes = self._notes, []
            starts, self._starts = take_starts(self._starts)
            batches, self._batches = take_batches(self._batches)
            uses, self._uses_due = self._uses_due, False
            money = self._caps.money([each.message for each in starts], self._clock)
            writing.give(
                _Writes(
                    tuple(claims),
                    tuple(notes),
                    tuple(starts),
                    tuple(batches),
                    uses,
                    money,
                    holder,
                )
            )

    def _done(self, message: Done) -> None:
        thread = message.thread
        thread.job = None
        if isinstance(message.error, DatabaseTrouble):
            self._put_back(message.job)
            self._away(str(message.error), thread)
            return
        if message.error is not None:
            self._put_back(message.job)
            raise message.error
        self._back(thread)
        job = message.job
        if isinstance(job, _Questions):
            self._notes += job.notes
            if self._store.uses and self._uses_timer is None:
                self._uses_timer = self.later(USES_WRITTEN_AFTER, _WriteUses())
            for waiting, said in zip(job.waiting, job.answers, strict=True):
                reply: Reply[Any] = waiting.message.reply
                complete(reply, said)
        else:
            for claim in job.claims:
                complete(claim.message.reply, Accepted())
            self._caps.keyed(self._store.prompt_key)
            self._caps.answer([waiting.message for waiting in job.starts], job.written)
            answer_batches(job.batches, job.written)
            if job.found is not None:
                self._caps.looked(*job.found)
            if job.written.settled:
                # There may be room for who waits.
                self._ask_again()
            self._tick_later()
        self._busy_threads()

    def _put_back(self, job: _Questions | _Writes) -> None:
        """Let those wait on who can; what users go on using can be noted another time."""
        if isinstance(job, _Questions):
            self._questions[:0] = job.waiting
        else:
            self._claims[:0] = job.claims
            self._starts[:0] = job.starts
            self._batches[:0] = job.batches
            self._uses_due = self._uses_due or job.uses
            self._caps.put_back(job.money, [each.message for each in job.starts])
            if job.holder:
                self._caps.missed()

    def _away(self, reason: str, thread: JobThread) -> None:
        thread.trouble = reason
        if not self._told_away:
            self._told_away = True
            log.warning("the local database is away", address=shown(self._address), error=reason)
        if thread is self._writing:
            batches, self._batches = self._batches, []
            send_back(batches, self._detail())
        thread.resting = True
        # Jitter, or all workers would come back at the same moment.
        self.later(thread.rest * random.uniform(0.5, 1.0), _Rested(thread))
        thread.rest = min(thread.rest * 2, LONGEST_REST)

    def _rested(self, message: _Rested) -> None:
        thread = message.thread
        thread.resting = False
        self._busy_threads()
        if thread.free:
            # That it is back must be found out though nobody asks for anything.
            thread.try_out()

    def _back(self, thread: JobThread) -> None:
        thread.trouble, thread.rest, thread.heard_at = None, FIRST_REST, time.monotonic()
        if self._told_away and self._trouble() is None:
            self._told_away = False
            log.info("the local database is back", address=shown(self._address))

    def _trouble(self) -> str | None:
        now = time.monotonic()
        return self._asking.why_not(now) or self._writing.why_not(now)

    def _write_uses(self, _message: _WriteUses) -> None:
        self._uses_timer = None
        self._uses_due = True
        self._busy_threads()

    # -- caps

    def _tick(self, _message: _Tick) -> None:
        self._caps_timer = None
        self._ask_again()
        self._busy_threads()
        self._tick_later()

    def _ask_again(self) -> None:
        until = time.monotonic() + self._max_wait
        self._starts += [_Waiting(start, until) for start in self._caps.take()]
        if self._starts and self._timer is None:
            self._timer = self.later(self._max_wait, _Look())

    def _tick_later(self) -> None:
        """See to it that those who wait for caps are not forgotten."""
        pause = self._caps.pause
        if pause is not None and (self._caps_timer is None or pause < self._caps_pause):
            if self._caps_timer is not None:
                self._caps_timer.cancel()
            self._caps_pause = pause
            self._caps_timer = self.later(pause * random.uniform(0.8, 1.0), _Tick())

    # -- those who wait

    def _look(self, _message: _Look) -> None:
        """Answer those who have waited long enough, also those who are in the hands of a thread."""
        now = time.monotonic()
        still = []
        for waiting in self._everybody():
            if waiting.until > now:
                still.append(waiting.until)
            else:
                complete(waiting.message.reply, self._unavailable())
        self._questions = [each for each in self._questions if each.until > now]
        self._claims = [each for each in self._claims if each.until > now]
        self._starts = [each for each in self._starts if each.until > now]
        self._timer = self.later(min(still) - now, _Look()) if still else None

    def _everybody(self) -> list[_Waiting[Any]]:
        waiting: list[_Waiting[Any]] = [*self._questions, *self._claims, *self._starts]
        if hasattr(self, "_writing"):
            asked, written = self._asking.job, self._writing.job
            waiting += asked.waiting if asked is not None else ()
            waiting += (*written.claims, *written.starts) if written is not None else ()
        return waiting

    def _unavailable(self) -> Unavailable:
        return database_away(self._detail())

    def _detail(self) -> str:
        trouble = self._trouble()
        if trouble is not None:
            # Why no connection could be made is known before a thread has given up.
            return f"local database: {self._store.trouble or trouble}"
        return f"local database {shown(self._address)}"

    _handlers: ClassVar[dict[type, Callable[[SharedControlPlane, Any], Any]]] = {
        Authorize: _question,
        CheckIds: _question,
        Begin: _begin,
        HoldMore: _begin,
        StoreRecords: _store_records,
        RememberIds: _remember_ids,
        SubscribeProviders: _subscribe,
        GetMcpConfiguration: _get_mcp,
        GetCallStats: _get_call_stats,
        GetStatus: _get_status,
        Done: _done,
        _Rested: _rested,
        _Look: _look,
        _WriteUses: _write_uses,
        _Tick: _tick,
    }
