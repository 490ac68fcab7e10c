"""The keys of the embedded control plane: make, list, revoke.

A key is ``<id>-<secret>``, in the shape of a Coder token: ten and twenty-two letters and
digits.  The database keeps the secret's SHA-256 only.  A plain hash will do: with 130 random
bits in the secret there is nothing to guess that a slow one would protect.

All functions take a connection from :func:`~aigateway.actors.control.local.schema.open_database`.
"""

from __future__ import annotations

import hashlib
import secrets
import sqlite3
import string
import time
import uuid

from attrs import field, frozen

from aigateway.actors.control.local.schema import timestamp

__all__ = ["ApiKey", "NewApiKey", "create_key", "list_keys", "revoke_key", "user_id_for"]

ID_LENGTH, SECRET_LENGTH = 10, 22
"""Characters, as in Coder's own tokens."""

_ALPHABET = string.ascii_letters + string.digits

_USERS = uuid.UUID("5f0c3a52-6d0b-4f7e-9a53-0d6f1b7c2e84")
"""Name space of the user ids that are made from user names.  Never to be changed."""


@frozen
class ApiKey:
    """A key as it is stored; times are RFC 3339 text."""

    id: str
    username: str
    user_id: str
    created_at: str
    expires_at: str | None
    revoked_at: str | None

    def state(self, now: float) -> str:
        """``revoked``, ``expired`` or ``active`` at ``now`` (Unix seconds)."""
        if self.revoked_at is not None:
            return "revoked"
        if self.expires_at is not None and self.expires_at <= timestamp(now):
            return "expired"
        return "active"


@frozen
class NewApiKey:
    """A key that was just made, with the only copy of its secret."""

    key: ApiKey
    token: str = field(repr=False)
    """What the client sends."""


def user_id_for(username: str) -> str:
    """The id of a user who was given none: the same name has always the same id."""
    return str(uuid.uuid5(_USERS, username))


def create_key(
    connection: sqlite3.Connection,
    username: str,
    user_id: str | None = None,
    expires_in: float | None = None,
    *,
    now: float | None = None,
) -> NewApiKey:
    """Make a key that is good for ``expires_in`` seconds, or until it is revoked.

    Raises ValueError for an empty or unprintable name, a ``user_id`` that is no UUID and an
    expiry that is not in the future or beyond the year 9999, and sqlite3.Error.
    """
    username = username.strip()
    if not username:
        raise ValueError("the user name is empty")
    if not username.isprintable():
        # It may travel in a header.
        raise ValueError("the user name has control characters")
    user_id = user_id_for(username) if user_id is None else _uuid(user_id)
    created = time.time() if now is None else now
    expires_at = None if expires_in is None else _expiry(created, expires_in)
    secret = _random(SECRET_LENGTH)
    key = ApiKey(_random(ID_LENGTH), username, user_id, timestamp(created), expires_at, None)
    connection.execute(
        "INSERT INTO api_keys (id, secret_sha256, user_id, username, expires_at, created_at)"
        " VALUES (?, ?, ?, ?, ?, ?)",
        (
            key.id,
            hashlib.sha256(secret.encode()).hexdigest(),
            key.user_id,
            key.username,
            key.expires_at,
            key.created_at,
        ),
    )
    return NewApiKey(key, f"{key.id}-{secret}")


def list_keys(connection: sqlite3.Connection) -> list[ApiKey]:
    """All keys, oldest first, revoked and expired ones too.  Raises sqlite3.Error."""
    rows = connection.execute(
        "SELECT id, username, user_id, created_at, expires_at, revoked_at"
        " FROM api_keys ORDER BY created_at, id"
    )
    return [ApiKey(*row) for row in rows]


def revoke_key(connection: sqlite3.Connection, key_id: str, *, now: float | None = None) -> bool:
    """Refuse a key from now on; False when there is no such key.

    A key that was revoked before keeps its time of revocation.  Raises sqlite3.Error.
    """
    revoked_at = timestamp(time.time() if now is None else now)
    changed = connection.execute(
        "UPDATE api_keys SET revoked_at = coalesce(revoked_at, ?) WHERE id = ?",
        (revoked_at, key_id),
    )
    return changed.rowcount == 1


def _random(length: int) -> str:
    return "".join(secrets.choice(_ALPHABET) for _ in range(length))


def _uuid(text: str) -> str:
    try:
        return str(uuid.UUID(text))
    except ValueError:
        raise ValueError(f'the user id "{text}" is no UUID') from None


def _expiry(created: float, expires_in: float) -> str:
    if not expires_in > 0:
        raise ValueError("the key would have expired already")
    try:
        return timestamp(created + expires_in)
    except (OverflowError, OSError, ValueError):
        raise ValueError("the expiry is beyond the year 9999") from None
