"""The actor that keeps a local database in order: old records go, prompts become searchable, turns
of sessions are compared, and usage is summed up.

Every worker process of every gateway has one, and one at a time works: who holds the lease that
is noted in the database.  It works in steps of some milliseconds on a connection of its own, with
rests between them that are longer than the steps, so requests go on.  All of it can be done twice;
so clocks that differ, or a holder that was away for too long, do no harm.
"""

from __future__ import annotations

import random
import sqlite3
import threading
import time
import uuid
from collections.abc import Callable, Mapping
from typing import Final

import structlog
from attrs import frozen

from aigateway.actors.actor.base import GatewayActor, Inquiry, Watcher
from aigateway.actors.control.local.address import LocalDatabaseError, is_postgresql
from aigateway.actors.control.local.cache_turns import compare_more, pending
from aigateway.actors.control.local.opening import database_errors, open_address
from aigateway.actors.control.local.prices.cost import Pricing
from aigateway.actors.control.local.prompt_search import index_more, unindexed
from aigateway.actors.control.local.retention import Forgetting, Retention, give_back
from aigateway.actors.control.local.schema import Database, is_busy, open_database
from aigateway.actors.control.local.usage_rolling import Rolling

__all__ = ["LEASE", "GetHousekeeping", "Housekeeper", "Housekeeping", "leave", "take_lease"]

log = structlog.get_logger("ai-gateway.database")

LEASE: Final = 30.0
"""Seconds for which a holder is believed to be at work."""

_TASK: Final = "keeping"
_IDLE: Final = 5.0
"""Seconds between two looks when there was nothing to do."""
_TROUBLE_REST: Final = 30.0
"""Seconds before the next try after the database failed."""
_FORGET_EVERY: Final = 60.0
"""Seconds between two looks for what has become old."""
_COMPARE_EVERY: Final = 10.0
"""Seconds between two looks for turns to compare.  Who looks at a session does not wait for it, and
several turns of one are compared for less."""
_REST: Final = 4.0
"""How many times longer than a step the rest behind it is."""
_LEAST_REST: Final = 0.02
"""Seconds that a rest has at least."""


def take_lease(connection: Database, holder: str, now: float) -> bool:
    """Become, or go on to be, the one who keeps the database in order; False: another one is.

    ``now`` in Unix seconds.
    """
    # Looked at first, since it is asked often in vain.
    other = connection.execute(
        "SELECT 1 FROM housekeeping WHERE task = ? AND holder <> ? AND until >= ?",
        (_TASK, holder, now),
    ).fetchone()
    if other is not None:
        return False
    taken = connection.execute(
        "INSERT INTO housekeeping (task, holder, until, done) VALUES (?, ?, ?, 0)"
        " ON CONFLICT (task) DO UPDATE SET holder = excluded.holder, until = excluded.until"
        " WHERE housekeeping.holder = excluded.holder OR housekeeping.until < ?",
        (_TASK, holder, now + LEASE, now),
    )
    return taken.rowcount == 1


def leave(connection: Database, holder: str) -> None:
    """Let somebody else do it."""
    connection.execute(
        "UPDATE housekeeping SET until = 0 WHERE task = ? AND holder = ?", (_TASK, holder)
    )


@frozen
class Housekeeping:
    """What has come of it, for metrics."""

    failing: bool
    """The last try met a database that failed."""
    deleted: Mapping[str, int]
    """Requests that this actor has deleted, by what of them."""


@frozen
class GetHousekeeping(Inquiry[Housekeeping]):
    """Asked: answers :class:`Housekeeping`."""


@frozen
class _Look:
    """To itself: do a step if there is something to do."""


class Housekeeper(GatewayActor):
    """Keeps the database at ``address`` in order, by ``retention``; what breaks of caches have cost
    is worked out by ``pricing``."""

    def __init__(
        self,
        role: str,
        watcher: Watcher,
        address: str,
        retention: Retention,
        pricing: Pricing | None = None,
        *,
        idle: float = _IDLE,
        forget_every: float = _FORGET_EVERY,
        compare_every: float = _COMPARE_EVERY,
        clock: Callable[[], float] = time.time,
    ) -> None:
        super().__init__(role, watcher)
        self._address = address
        self._idle, self._forget_every = idle, forget_every
        self._compare_every = compare_every
        self._pricing = pricing
        self._clock = clock
        self._holder = uuid.uuid4().hex
        self._until = 0.0
        self._connection: Database | None = None
        self._forgetting = Forgetting(retention)
        self._told = dict(self._forgetting.deleted)
        self._rolling = Rolling(retention.records)
        self._next_forgetting = self._next_comparing = 0.0
        self._troubled = False
        self._timer: threading.Timer | None = None

    def started(self) -> None:
        # Not all at once, where many are started together.
        self._look_in(self._idle * random.uniform(0.2, 1.0))

    def release(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        if self._connection is not None:
            try:
                if self._until:
                    leave(self._connection, self._holder)
            except database_errors():
                # The lease ends by itself.
                pass
            self._close()

    def receive(self, message: object) -> object:
        if isinstance(message, GetHousekeeping):
            return Housekeeping(
                self._troubled, {str(kind): n for kind, n in self._forgetting.deleted.items()}
            )
        assert isinstance(message, _Look)
        began = time.monotonic()
        try:
            more = self._step()
        except Exception as ex:
            if not isinstance(ex, (*database_errors(), LocalDatabaseError, OSError)):
                raise
            self._look_in(self._failed(ex))
            return None
        self._troubled = False
        took = time.monotonic() - began
        self._look_in(max(_LEAST_REST, _REST * took) if more else self._idle)
        return None

    def _failed(self, ex: Exception) -> float:
        """How many seconds to rest after a failure."""
        cause = ex.__cause__ if isinstance(ex, LocalDatabaseError) else ex
        if isinstance(cause, sqlite3.Error) and is_busy(cause):
            return random.uniform(_LEAST_REST, 5 * _LEAST_REST)
        if not self._troubled:
            log.warning("the local database is not kept in order", error=str(ex))
        self._troubled = True
        self._close()
        return _TROUBLE_REST

    def _look_in(self, seconds: float) -> None:
        self._timer = self.later(seconds, _Look())

    def _step(self) -> bool:
        """Do a little; says whether there may be more to do at once."""
        now = self._clock()
        connection = self._opened()
        forget = time.monotonic() >= self._next_forgetting
        retained = self._forgetting.retention != Retention()
        rolling = self._rolling.due(connection, now)
        compare = time.monotonic() >= self._next_comparing and pending(connection)
        if not (compare or (forget and retained) or rolling or unindexed(connection)):
            return False
        # Renewed in time, and not written with each step.
        if now > self._until - LEASE / 2 or now < self._until - LEASE:
            if not take_lease(connection, self._holder, now):
                self._until = 0.0
                return False
            self._until = now + LEASE
        if index_more(connection):
            return True
        if compare:
            if compare_more(connection, self._pricing):
                return True
            self._next_comparing = time.monotonic() + self._compare_every
        if forget and retained:
            more = self._forgetting.step(connection, now)
            # Both: what is given back is not to grow while there is more to forget.
            if give_back(connection) or more:
                return True
            self._next_forgetting = time.monotonic() + self._forget_every
            self._tell()
        return self._rolling.step(connection, now)

    def _tell(self) -> None:
        for kind, count in self._forgetting.deleted.items():
            if count > self._told[kind]:
                log.info("old records deleted", kind=kind, requests=count - self._told[kind])
        self._told = dict(self._forgetting.deleted)

    def _opened(self) -> Database:
        if self._connection is None:
            if is_postgresql(self._address):
                self._connection = open_address(self._address)
            else:
                # Not made where it is missing, and never waiting: other greenlets would wait too.
                self._connection = open_database(self._address, create=False, patience=0)
                self._connection.execute("PRAGMA busy_timeout = 0")
        return self._connection

    def _close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None
        self._until = 0.0
