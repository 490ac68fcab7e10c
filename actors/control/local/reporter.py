"""The actor that shows consoles how its worker process is, on the board in the database.

It reads once a second whether anybody looks, on a connection of its own, and never waits for a
lock.  What it is asked is answered by the edge, which may take a while: so a thread does that, and
each command has another.  Nothing of it is in a request's way, and a database that is away is tried
again.
"""

from __future__ import annotations

import json
import random
import sqlite3
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import closing
from typing import Any, Final

import structlog
from attrs import frozen

from aigateway.actors.actor.base import GatewayActor, Watcher, tell_quietly
from aigateway.actors.control.local import board
from aigateway.actors.control.local.address import LocalDatabaseError, is_postgresql
from aigateway.actors.control.local.job_thread import Done, JobThread
from aigateway.actors.control.local.opening import database_errors, open_address
from aigateway.actors.control.local.schema import Database, is_busy, open_database

__all__ = ["Answer", "Reporter"]

log = structlog.get_logger("ai-gateway.database")

Answer = Callable[[Mapping[str, Any]], Mapping[str, Any]]
"""Answers a question about this process, or does what it asks for; ``error`` in what it returns
says why it cannot.  May take seconds."""

EVERY: Final = 1.0
"""Seconds between two looks at the board."""
_BUSY_REST: Final = 0.05
"""Seconds, at least, before the next try after somebody else's lock was in the way."""
_TROUBLE_REST: Final = 5.0
"""Seconds before the next try after the database failed."""
_LEAVING: Final = 1.0
"""Seconds for a farewell.  Without one the sign of life grows old by itself."""
_FAREWELL_TRIES: Final = 5
_ANSWER_TRIES: Final = 50
"""How often the answer to a command is written before it is given up."""


@frozen
class _Look:
    """To itself, and a job: read the board, and write what is wanted."""


@frozen
class _Leave:
    """A job, the last: take this worker from the board."""


class Reporter(GatewayActor):
    """Shows ``worker`` on the board in the database at ``address``; ``answer`` says how it is."""

    def __init__(
        self,
        role: str,
        watcher: Watcher,
        address: str,
        worker: board.Worker,
        answer: Answer,
        *,
        every: float = EVERY,
    ) -> None:
        super().__init__(role, watcher)
        self._address = address
        self._worker = worker
        self._answer = answer
        self._every = every
        self._connection: Database | None = None
        self._next_sign = 0.0
        self._troubled = False
        self._timer: threading.Timer | None = None
        self._left = threading.Event()

    def started(self) -> None:
        self._thread = JobThread(f"{self.role} writing", self._work, self._hear, _Look())

    def release(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._thread.give(_Leave())
        self._thread.close()
        # What it has in hand may ask an actor that waits for this one's end.
        self._left.wait(_LEAVING)

    def receive(self, message: object) -> None:
        if isinstance(message, Done):
            self._done(message)
            return
        assert isinstance(message, _Look)
        self._thread.give(message)

    def _hear(self, done: Done) -> None:
        tell_quietly(self.actor_ref, done)

    def _done(self, done: Done) -> None:
        self._thread.job = None
        rest = self._every
        if done.error is not None:
            rest = self._failed(done.error)
        elif self._troubled:
            self._troubled = False
            log.info("consoles see this worker again")
        self._timer = self.later(rest, _Look())

    def _failed(self, ex: Exception) -> float:
        """How many seconds to rest after a failure."""
        if _is_busy(ex):
            return _short_rest()
        if not self._troubled:
            known = isinstance(ex, (*database_errors(), LocalDatabaseError, OSError))
            why = {"error": str(ex)} if known else {"exc_info": ex}
            log.warning("consoles do not see this worker", **why)
        self._troubled = True
        self._close()
        return _TROUBLE_REST

    # -- in that thread

    def _work(self, job: _Look | _Leave) -> _Look | _Leave:
        if isinstance(job, _Leave):
            self._leave()
            return job
        database = self._opened()
        looked_at = board.looked_at(database)
        if time.monotonic() >= self._next_sign:
            board.sign(database, self._worker)
            board.tidy(database)
            self._next_sign = time.monotonic() + board.SIGN_EVERY
        for subject, question in board.SUBJECTS.items():
            if subject in looked_at:
                said = self._answered(question)
                board.report(database, self._worker.id, subject, said)
        if board.COMMANDS in looked_at:
            for command in board.taken(database, self._worker.id):
                threading.Thread(
                    target=self._obey, args=(command,), name=f"{self.role} command", daemon=True
                ).start()
        return job

    def _leave(self) -> None:
        try:
            for _ in range(_FAREWELL_TRIES if self._connection is not None else 0):
                try:
                    board.take_down(self._opened(), self._worker.id)
                    return
                except sqlite3.Error as ex:
                    if not _is_busy(ex):
                        raise
                time.sleep(_short_rest())
        finally:
            self._close()
            self._left.set()

    def _opened(self) -> Database:
        if self._connection is None:
            self._connection = self._open()
            self._next_sign = 0.0
        return self._connection

    def _open(self) -> Database:
        if is_postgresql(self._address):
            return open_address(self._address)
        # Not made where it is missing, and never waiting: other greenlets would wait too.
        database = open_database(self._address, create=False, patience=0)
        database.execute("PRAGMA busy_timeout = 0")
        return database

    def _close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    # -- in a thread of its own

    def _obey(self, command: board.Command) -> None:
        """Do it, and write what came of it: on a connection of its own, since this actor may be
        the one that was to be restarted."""
        said = self._answered(command.question)
        for _ in range(_ANSWER_TRIES):
            try:
                with closing(self._open()) as database:
                    board.answer(database, command.id, said)
                return
            except Exception as ex:
                if not _is_busy(ex):
                    log.warning("a console does not hear what came of its command", error=str(ex))
                    return
            time.sleep(_short_rest())

    def _answered(self, question: Mapping[str, Any]) -> str:
        """What the edge says, as JSON.  A fault in there is told, and harms nobody."""
        try:
            return json.dumps(self._answer(question))
        except Exception as ex:
            log.error("a console's question failed", question=question, exc_info=ex)
            return json.dumps({"error": f"the worker could not answer: {ex!r}"})


def _is_busy(ex: Exception) -> bool:
    cause = ex.__cause__ if isinstance(ex, LocalDatabaseError) else ex
    return isinstance(cause, sqlite3.Error) and is_busy(cause)


def _short_rest() -> float:
    return random.uniform(_BUSY_REST, 3 * _BUSY_REST)
