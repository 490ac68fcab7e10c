"""The embedded control plane of one machine: answers for itself, from a SQLite database.

It works in groups: what is in the inbox when the actor turns to its database goes into one
transaction, and is answered after the commit; a key that several requests present at the
same moment is looked up once.  A request that comes alone does not wait for company.

Several worker processes write to the same file.  When another one holds the lock the actor
rests for a moment and tells itself to try again, so keys are looked up meanwhile (readers
do not need the lock), and after :data:`LOCK_PATIENCE` it answers "ask later".
"""

from __future__ import annotations

import contextlib
import os
import random
import threading
import time
from collections.abc import Callable
from typing import Any, ClassVar

from attrs import frozen

from aigateway.actors.actor.base import (
    ActorDied,
    GatewayActor,
    Watcher,
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
from aigateway.actors.control.local.api_keys import USES_WRITTEN_AFTER
from aigateway.actors.control.local.cap_holders import Holder
from aigateway.actors.control.local.cap_queue import CapQueue, Start
from aigateway.actors.control.local.prices.cost import Pricing
from aigateway.actors.control.local.store import DatabaseBusy, DatabaseTrouble, Store
from aigateway.actors.control.messages import (
    Accepted,
    Authorize,
    Begin,
    Caller,
    CallStats,
    CheckIds,
    Denied,
    GetCallStats,
    GetMcpConfiguration,
    GetStatus,
    HoldMore,
    KeepsRecords,
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

__all__ = ["LOCK_PATIENCE", "LocalControlPlane"]

LOCK_PATIENCE = 5.0
"""Seconds that the database may be locked before writers are told to ask later."""

_OPENING_PATIENCE = 1.0
"""Seconds to wait for a lock at the start; other greenlets wait too."""

_FIRST_REST, _LONGEST_REST = 0.001, 0.02
"""Seconds between two tries for the lock.  Another worker's transaction takes about 0.3 ms."""


@frozen
class _Flush:
    """To itself: write what has been collected."""


_FLUSH = _Flush()


@frozen
class _WriteUses:
    """To itself: write down which keys were used."""


@frozen
class _Tick:
    """To itself: look after those who wait for caps, and after reservations."""


class LocalControlPlane(GatewayActor, KeepsRecords):
    """Answers the messages of :mod:`~aigateway.actors.control.messages` from ``database``.

    ``providers`` are fixed for its life, and so are the MCP servers, which all users share, and
    ``pricing``, by which token records get their costs.  A call waits ``max_wait`` seconds at most
    for its caps; what is reserved is ``holder``'s.
    Its start fails with :class:`~aigateway.actors.control.local.address.LocalDatabaseError` when
    the file is none that can be used; one that cannot be used now, or fails later, is reported and
    tried again.
    """

    def __init__(
        self,
        role: str,
        watcher: Watcher,
        database: str | os.PathLike[str],
        providers: tuple[ProviderConfig, ...] = (),
        mcp: McpConfiguration | None = None,
        *,
        pricing: Pricing | None = None,
        lock_patience: float = LOCK_PATIENCE,
        max_wait: float = 60.0,
        holder: Holder | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        super().__init__(role, watcher)
        self._database = database
        self._providers = providers
        self._mcp = mcp or McpConfiguration()
        self._pricing = pricing
        self._lock_patience = lock_patience
        self._clock = clock
        self._began = clock()
        self._store: Store
        self._lookups: list[Authorize] = []
        self._starts: list[Start] = []
        self._caps = CapQueue(pricing, holder or Holder(), max_wait)
        self._timer: threading.Timer | None = None
        self._pause = 0.0
        self._batches: list[StoreRecords] = []
        self._claims: list[tuple[str, tuple[str, ...], RememberIds | None]] = []
        self._flush_told = False
        self._uses_timer: threading.Timer | None = None
        self._locked_since: float | None = None
        self._rest = _FIRST_REST
        self._trouble: str | None = None

    def started(self) -> None:
        self._store = Store(self._database, _OPENING_PATIENCE, self._pricing)
        self._trouble = self._store.trouble
        self._look_later()

    def receive(self, message: object) -> object:
        return self._handlers[type(message)](self, message)

    def release(self) -> None:
        died = ActorDied(f"{self.role} stopped")
        for lookup in self._lookups:
            fail(lookup.reply, died)
        for start in self._starts:
            fail(start.reply, died)
        self._caps.close(died)
        if self._timer is not None:
            self._timer.cancel()
        for _user_id, _ids, claim in self._claims:
            if claim is not None:
                fail(claim.reply, died)
        send_back(self._batches, str(died))
        if self._uses_timer is not None:
            self._uses_timer.cancel()
        if hasattr(self, "_store"):
            with contextlib.suppress(DatabaseBusy, DatabaseTrouble):
                self._store.note_uses()
            self._store.close()

    # -- messages

    def _authorize(self, message: Authorize) -> None:
        self._lookups.append(message)
        self._flush_soon()

    def _begin(self, message: Begin | HoldMore) -> None:
        start = self._caps.start(message, self._clock())
        if start is not None:
            self._starts.append(start)
            self._flush_soon()
        self._look_later()

    def _store_records(self, message: StoreRecords) -> None:
        self._batches.append(message)
        self._flush_soon()

    def _remember_ids(self, message: RememberIds) -> None:
        self._claims.append((message.user_id, message.ids, message))
        self._flush_soon()

    def _check_ids(self, message: CheckIds) -> None:
        try:
            foreign, used = self._store.foreign_id(message.user_id, message.ids, self._clock())
        except (DatabaseBusy, DatabaseTrouble) as ex:
            complete(message.reply, database_away(f"local database: {ex}"))
            return
        complete(message.reply, Accepted() if foreign is None else NotYours(foreign))
        if used:
            self._claims.append((message.user_id, used, None))
            self._flush_soon()

    def _subscribe(self, message: SubscribeProviders) -> None:
        tell_quietly(message.subscriber, ProvidersChanged(self._providers))

    def _get_mcp(self, message: GetMcpConfiguration) -> None:
        complete(message.reply, self._mcp)

    def _get_status(self, _message: GetStatus) -> Status:
        if self._trouble is not None:
            # A client that waits for readiness sends no writes that would find out.
            try:
                self._store.probe()
            except (DatabaseBusy, DatabaseTrouble) as ex:
                self._trouble = str(ex)
            else:
                self._recovered()
        detail = f"local database: {self._trouble}"
        if self._trouble is None:
            detail = f"local database {os.fspath(self._database)}"
        return Status(
            connected=self._trouble is None,
            detail=detail,
            providers_tried_at=self._began,
            providers_loaded_at=self._began,
        )

    def _get_call_stats(self, _message: GetCallStats) -> CallStats:
        return CallStats(
            unpriced=dict(self._store.unpriced),
            costs=dict(self._store.costs),
            caps=self._caps.stats(),
        )

    # -- looking up

    def _look_up(self) -> None:
        """Answer who has asked: one lookup for all who present the same token."""
        lookups, self._lookups = self._lookups, []
        answers: dict[str, Caller | Denied | Unavailable | None] = {}
        for lookup in lookups:
            if lookup.token not in answers:
                answers[lookup.token] = self._find(lookup.token)
            answer = answers[lookup.token]
            if answer is None:
                self._lookups.append(lookup)
            else:
                complete(lookup.reply, answer)
        if self._store.uses and self._uses_timer is None:
            self._uses_timer = self.later(USES_WRITTEN_AFTER, _WriteUses())

    def _find(self, token: str) -> Caller | Denied | Unavailable | None:
        """Whose key is this?  None when that must be tried again."""
        try:
            return self._store.find_caller(token, self._clock())
        except DatabaseBusy as ex:
            return None if self._patient() else database_away(f"local database: {ex}")
        except DatabaseTrouble as ex:
            return database_away(f"local database: {ex}")

    # -- writing

    def _flush_soon(self) -> None:
        """Flush behind all that is in the inbox; the last that is done with a message."""
        if self._flush_told:
            return
        if self.actor_inbox.empty():
            # PERF: a message to itself would be the next; 1 us less.
            self._flush()
        else:
            self._tell_flush()

    def _tell_flush(self) -> None:
        self._flush_told = True
        self.actor_ref.tell(_FLUSH)

    def _flush(self, _message: _Flush = _FLUSH) -> None:
        self._flush_told = False
        self._look_up()
        written = self._remember() and self._write()
        if self._lookups or not written:
            # Jitter, or two workers would go on meeting each other.
            time.sleep(self._rest * random.uniform(0.5, 1.0))
            self._rest = min(self._rest * 2, _LONGEST_REST)
        elif self._trouble is None:
            self._recovered()
        if self._lookups or self._starts or self._batches or self._claims or self._caps.released:
            self._tell_flush()

    def _remember(self) -> bool:
        """Note whose ids are whose; False when it must be tried again."""
        claims, self._claims = self._claims, []
        if not claims:
            return True
        answer: Accepted | Unavailable = Accepted()
        try:
            self._store.remember_ids([(user_id, ids) for user_id, ids, _ in claims], self._clock())
        except DatabaseBusy as ex:
            if self._patient():
                self._claims[:0] = claims
                return False
            answer = database_away(f"local database: {ex}")
        except DatabaseTrouble as ex:
            self._trouble = str(ex)
            answer = database_away(f"local database: {ex}")
        for _user_id, _ids, message in claims:
            if message is not None:
                complete(message.reply, answer)
        return True

    def _write(self) -> bool:
        """Write what has been collected; False when it must be tried again."""
        starts, self._starts = take_starts(self._starts)
        batches, self._batches = take_batches(self._batches)
        money = self._caps.money(starts, self._clock)
        if not starts and not batches and money is None:
            return True
        records = [spooled.record for message in batches for spooled in message.records()]
        begun = [record for start in starts if (record := start.record) is not None]
        try:
            written = self._store.write(begun, records, money)
        except DatabaseBusy as ex:
            self._caps.put_back(money)
            if self._patient():
                self._starts[:0] = starts
                self._batches[:0] = batches
                return False
            self._refuse(starts, batches, str(ex))
        except DatabaseTrouble as ex:
            self._caps.put_back(money)
            self._refuse(starts, batches, str(ex))
        else:
            self._recovered()
            self._caps.keyed(self._store.prompt_key)
            self._caps.answer(starts, written)
            answer_batches(batches, written)
            if written.settled:
                # There may be room for who waits.
                self._starts += self._caps.take()
            self._look_later()
        return True

    def _write_uses(self, _message: _WriteUses) -> None:
        # What cannot be written now is written after the next lookup.
        self._uses_timer = None
        with contextlib.suppress(DatabaseBusy, DatabaseTrouble):
            self._store.note_uses()

    # -- caps

    def _tick(self, _message: _Tick) -> None:
        self._timer = None
        self._starts += self._caps.take()
        if holder := self._caps.beat_due():
            try:
                found = self._store.look_after_holds(holder, self._clock(), time.monotonic())
            except (DatabaseBusy, DatabaseTrouble):
                self._caps.missed()
            else:
                self._caps.looked(*found)
        if self._starts or self._caps.released:
            self._flush_soon()
        self._look_later()

    def _look_later(self) -> None:
        """See to it that those who wait for caps are not forgotten."""
        pause = self._caps.pause
        if pause is not None and (self._timer is None or pause < self._pause):
            if self._timer is not None:
                self._timer.cancel()
            self._pause = pause
            self._timer = self.later(pause * random.uniform(0.8, 1.0), _Tick())

    def _patient(self) -> bool:
        """Whether to go on waiting for the lock."""
        now = time.monotonic()
        if self._locked_since is None:
            self._locked_since = now
        return now - self._locked_since <= self._lock_patience

    def _refuse(self, starts: list[Start], batches: list[StoreRecords], reason: str) -> None:
        self._trouble = reason
        text = f"local database: {reason}"
        for message in starts:
            complete(message.reply, database_away(text))
        send_back(batches, text)

    def _recovered(self) -> None:
        self._trouble = self._locked_since = None
        self._rest = _FIRST_REST

    _handlers: ClassVar[dict[type, Callable[[LocalControlPlane, Any], Any]]] = {
        Authorize: _authorize,
        Begin: _begin,
        HoldMore: _begin,
        StoreRecords: _store_records,
        RememberIds: _remember_ids,
        CheckIds: _check_ids,
        SubscribeProviders: _subscribe,
        GetMcpConfiguration: _get_mcp,
        GetCallStats: _get_call_stats,
        GetStatus: _get_status,
        _Flush: _flush,
        _WriteUses: _write_uses,
        _Tick: _tick,
    }
