"""The board in the database, on which gateways show consoles how they are.

A console notes at which subjects somebody looks, and until when.  Each worker process reads that
once a second; of what is looked at it writes a report, and takes up the commands that are for it.
Without anybody who looks it writes only, each :data:`SIGN_EVERY` seconds, that it is there.

Consoles and gateways may be on different machines.  So there is one clock for all of it, the
database's.
"""

from __future__ import annotations

import json
import secrets
import sqlite3
from collections.abc import Collection, Mapping
from typing import Any, Final

from attrs import frozen

from aigateway.actors.control.local.schema import Database, transaction

__all__ = [
    "COMMANDS",
    "SIGN_EVERY",
    "SUBJECTS",
    "Command",
    "Line",
    "Worker",
    "answer",
    "answered",
    "forget",
    "command",
    "look",
    "looked_at",
    "report",
    "reports",
    "sign",
    "take_down",
    "taken",
    "tidy",
]

_MOST_ACTORS: Final = 300
"""Of one worker that are listed: each upstream connection in use is one."""
SUBJECTS: Final[Mapping[str, Mapping[str, Any]]] = {
    "requests": {"command": "requests"},
    "providers": {"command": "providers"},
    "list": {"command": "list", "most": _MOST_ACTORS},
}
"""What a worker can be looked at for, and what it is asked for then."""
COMMANDS: Final = "commands"
"""Looked at like a subject while there may be commands."""
SIGN_EVERY: Final = 15.0
"""Seconds between two signs of life of a worker that nobody looks at."""
KEPT: Final = 900.0
"""Seconds after its last sign of life for which a worker is shown."""


@frozen
class Worker:
    """One worker process of a gateway."""

    id: str
    """Of this process and no other."""
    gateway: str
    """The same for all workers of one gateway."""
    host: str
    address: str
    """Where its gateway listens."""
    pid: int


@frozen
class Line:
    """A worker on the board, and what it has said."""

    worker: Worker
    age: float
    """Seconds since its last sign of life."""
    report_age: float | None
    """Seconds since it said this; None: it never has."""
    report: Mapping[str, Any]


@frozen
class Command:
    """What a console wants of a worker."""

    id: str
    question: Mapping[str, Any]


def _now(database: Database) -> str:
    """The database's clock in SQL: Unix seconds."""
    if isinstance(database, sqlite3.Connection):
        return "((julianday('now') - 2440587.5) * 86400.0)"
    return "CAST(extract(epoch FROM clock_timestamp()) AS DOUBLE PRECISION)"


# -- gateways


def looked_at(database: Database) -> set[str]:
    """The subjects that somebody looks at now, :data:`COMMANDS` among them."""
    rows = database.execute(f"SELECT subject FROM console_looks WHERE until > {_now(database)}")
    return {subject for (subject,) in rows.fetchall()}


def sign(database: Database, worker: Worker) -> None:
    """Write that ``worker`` is there."""
    with transaction(database):
        database.execute(
            "INSERT INTO gateway_workers (id, gateway, host, address, pid, seen_at)"
            f" VALUES (?, ?, ?, ?, ?, {_now(database)})"
            " ON CONFLICT (id) DO UPDATE SET seen_at = excluded.seen_at",
            (worker.id, worker.gateway, worker.host, worker.address, worker.pid),
        )


def report(database: Database, worker_id: str, subject: str, said: str) -> None:
    """Write what a worker says of a subject, as JSON, in the place of what it said before."""
    with transaction(database):
        database.execute(
            "INSERT INTO gateway_reports (worker_id, subject, seen_at, report)"
            f" VALUES (?, ?, {_now(database)}, ?) ON CONFLICT (worker_id, subject)"
            " DO UPDATE SET seen_at = excluded.seen_at, report = excluded.report",
            (worker_id, subject, said),
        )


def taken(database: Database, worker_id: str) -> list[Command]:
    """Take up the commands for a worker.  Nobody gets them a second time."""
    found = database.execute(
        "SELECT id, question FROM console_commands"
        f" WHERE worker_id = ? AND taken = 0 AND until > {_now(database)} ORDER BY until",
        (worker_id,),
    ).fetchall()
    for id, _question in found:
        database.execute("UPDATE console_commands SET taken = 1 WHERE id = ?", (id,))
    return [Command(id, json.loads(question)) for id, question in found]


def answer(database: Database, command_id: str, said: str) -> None:
    """Write what came of a command, as JSON."""
    database.execute("UPDATE console_commands SET answer = ? WHERE id = ?", (said, command_id))


def take_down(database: Database, worker_id: str) -> None:
    """A worker ends in good order: nothing of it stays."""
    with transaction(database):
        database.execute("DELETE FROM gateway_reports WHERE worker_id = ?", (worker_id,))
        database.execute("DELETE FROM gateway_workers WHERE id = ?", (worker_id,))


def tidy(database: Database) -> None:
    """Delete what nobody is shown any more."""
    now = _now(database)
    old = f"SELECT id FROM gateway_workers WHERE seen_at < {now} - {KEPT}"
    if database.execute(f"{old} LIMIT 1").fetchone() is not None:
        with transaction(database):
            database.execute(f"DELETE FROM gateway_reports WHERE worker_id IN ({old})")
            database.execute(f"DELETE FROM gateway_workers WHERE seen_at < {now} - {KEPT}")
    late = f"FROM console_commands WHERE until < {now} - {KEPT}"
    if database.execute(f"SELECT 1 {late} LIMIT 1").fetchone() is not None:
        database.execute(f"DELETE {late}")


# -- consoles


def look(database: Database, subjects: Collection[str], seconds: float) -> None:
    """Somebody looks at these for so many seconds from now on."""
    with transaction(database):
        for subject in sorted(subjects):
            database.execute(
                f"INSERT INTO console_looks (subject, until) VALUES (?, {_now(database)} + ?)"
                " ON CONFLICT (subject) DO UPDATE SET until = excluded.until"
                " WHERE console_looks.until < excluded.until",
                (subject, seconds),
            )


def reports(database: Database, subject: str) -> list[Line]:
    """The workers of all gateways, each with what it has said of ``subject``, by gateway."""
    now = _now(database)
    rows = database.execute(
        "SELECT workers.id, gateway, host, address, pid, workers.seen_at,"
        f" said.seen_at, report, {now} FROM gateway_workers AS workers"
        " LEFT JOIN gateway_reports AS said ON worker_id = id AND subject = ?"
        f" WHERE workers.seen_at > {now} - {KEPT}"
        f" OR workers.id IN (SELECT worker_id FROM gateway_reports WHERE seen_at > {now} - {KEPT})"
        " ORDER BY host, address, gateway, pid, workers.id",
        (subject,),
    ).fetchall()
    lines = []
    for id, gateway, host, address, pid, seen_at, said_at, text, moment in rows:
        worker = Worker(id, gateway, host, address, pid)
        last = max(seen_at, said_at or 0.0)
        said = None if said_at is None else moment - said_at
        lines.append(Line(worker, moment - last, said, json.loads(text) if text else {}))
    return lines


def command(
    database: Database, worker_id: str, question: Mapping[str, Any], patience: float
) -> str:
    """Want something of a worker within ``patience`` seconds; the command's id."""
    id = secrets.token_hex(16)
    database.execute(
        "INSERT INTO console_commands (id, worker_id, question, until, taken)"
        f" VALUES (?, ?, ?, {_now(database)} + ?, 0)",
        (id, worker_id, json.dumps(question), patience),
    )
    look(database, [COMMANDS], patience)
    return id


def answered(database: Database, command_id: str) -> Mapping[str, Any] | None:
    """What came of a command; None: nothing yet."""
    row = database.execute(
        "SELECT answer FROM console_commands WHERE id = ?", (command_id,)
    ).fetchone()
    said = None if row is None or row[0] is None else json.loads(row[0])
    assert said is None or isinstance(said, dict)
    return said


def forget(database: Database, command_id: str) -> None:
    """Nobody waits for a command's answer any more.  It is not begun with from here on."""
    database.execute("DELETE FROM console_commands WHERE id = ?", (command_id,))
