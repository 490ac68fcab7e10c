"""Who is signed in to the console by an OpenID provider: for each browser a row.

The browser holds a secret of 256 bits, the database its SHA-256.  What somebody may is not kept:
it follows from the groups that are, and from the settings of the console that is asked.

All functions raise what the database raises besides what they say.
"""

from __future__ import annotations

import hashlib
import json
import secrets

from attrs import field, frozen

from aigateway.actors.control.local.audit import Change, note_changes
from aigateway.actors.control.local.schema import Database, transaction
from aigateway.actors.values.records import timestamp

__all__ = ["ConsoleSession", "begin_session", "end_session", "find_session"]


@frozen(kw_only=True)
class ConsoleSession:
    """What an OpenID provider said of somebody."""

    issuer: str
    subject: str
    """Its name for that one, which nobody else ever has there."""
    name: str
    """Which user of the gateway it is."""
    groups: tuple[str, ...] = ()
    id_token: str = field(default="", repr=False)
    """For the provider alone, when somebody signs out."""


def begin_session(
    database: Database, session: ConsoleSession, *, who: str, role: str, seconds: float, now: float
) -> str:
    """Keep a session for so many seconds, and forget those that are over; returns its secret.

    The table of changes has that ``who`` came, as what.
    """
    secret = secrets.token_urlsafe(32)
    with transaction(database):
        database.execute("DELETE FROM console_sessions WHERE expires_at <= ?", (timestamp(now),))
        database.execute(
            "INSERT INTO console_sessions (secret_sha256, issuer, subject, name, group_names,"
            " id_token, created_at, expires_at) VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
            (
                _digest(secret),
                session.issuer,
                session.subject,
                session.name,
                json.dumps(session.groups),
                session.id_token,
                timestamp(now),
                timestamp(now + seconds),
            ),
        )
        after = {"issuer": session.issuer, "subject": session.subject, "role": role}
        note_changes(database, who, [Change("console.sign_in", who, after=after)], now)
    return secret


def find_session(
    database: Database, secret: str, *, issuer: str, now: float
) -> ConsoleSession | None:
    """Whose secret this is; None: nobody's, or it is over, or of another provider's session."""
    row = database.execute(
        "SELECT issuer, subject, name, group_names, id_token FROM console_sessions"
        " WHERE secret_sha256 = ? AND issuer = ? AND expires_at > ?",
        (_digest(secret), issuer, timestamp(now)),
    ).fetchone()
    if row is None:
        return None
    return ConsoleSession(
        issuer=row[0],
        subject=row[1],
        name=row[2],
        groups=tuple(json.loads(row[3])),
        id_token=row[4],
    )


def end_session(database: Database, secret: str) -> None:
    """The secret is worth nothing from now on."""
    with transaction(database):
        database.execute("DELETE FROM console_sessions WHERE secret_sha256 = ?", (_digest(secret),))


def _digest(secret: str) -> str:
    return hashlib.sha256(secret.encode()).hexdigest()
