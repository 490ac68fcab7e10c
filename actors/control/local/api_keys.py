"""The keys of the embedded control plane: make, list, revoke.

A key is ``<id>-<secret>``, in the shape of a Coder token: ten and twenty-two letters and
digits.  The database keeps the secret's SHA-256 only.  A plain hash will do: with 130 random
bits in the secret there is nothing to guess that a slow one would protect.

All functions take a connection from :func:`~aigateway.actors.control.local.schema.open_database`.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
import string
import time
import uuid
from collections.abc import Iterable
from typing import TypeAlias

from attrs import evolve, field, frozen

from aigateway.actors.control.local.schema import Database, marks, timestamp
from aigateway.actors.control.messages import Caller, Denied

__all__ = [
    "ApiKey",
    "NewApiKey",
    "create_key",
    "find_callers",
    "list_keys",
    "revoke_key",
    "user_id_for",
]

ID_LENGTH, SECRET_LENGTH = 10, 22
"""Characters, as in Coder's own tokens."""

_ALPHABET = string.ascii_letters + string.digits

_USERS = uuid.UUID("5f0c3a52-6d0b-4f7e-9a53-0d6f1b7c2e84")
"""Name space of the user ids that are made from user names.  Never to be changed."""


_UNAUTHORIZED = Denied("unauthorized")

_Found: TypeAlias = tuple[str, str, str, str | None, str | None]
"""The digest of the secret, user id and name, and when it expires and was revoked."""


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
    connection: Database,
    username: str,
    user_id: str | None = None,
    expires_in: float | None = None,
    *,
    now: float | None = None,
) -> NewApiKey:
    """Make a key that is good for ``expires_in`` seconds, or until it is revoked.

    Raises ValueError for an empty or unprintable name, a ``user_id`` that is no UUID and an
    expiry that is not in the future or beyond the year 9999, and what the database raises.
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


def list_keys(connection: Database) -> list[ApiKey]:
    """All keys, oldest first, revoked and expired ones too.  Raises what the database raises."""
    rows = connection.execute(
        "SELECT id, username, user_id, created_at, expires_at, revoked_at"
        " FROM api_keys ORDER BY created_at, id"
    )
    return [ApiKey(*row) for row in rows]


def revoke_key(connection: Database, key_id: str, *, now: float | None = None) -> bool:
    """Refuse a key from now on; False when there is no such key.

    A key that was revoked before keeps its time of revocation.  Raises what the database raises.
    """
    revoked_at = timestamp(time.time() if now is None else now)
    changed = connection.execute(
        "UPDATE api_keys SET revoked_at = coalesce(revoked_at, ?) WHERE id = ?",
        (revoked_at, key_id),
    )
    return changed.rowcount == 1


def find_callers(
    connection: Database, tokens: Iterable[str], now: float
) -> dict[str, Caller | Denied]:
    """Whose keys are these?  ``now`` in Unix seconds.  Raises what the database raises."""
    ids = {token: _asked_id(token) for token in tokens}
    asked = sorted(set(filter(None, ids.values())))
    found: dict[str, _Found] = {}
    if asked:
        rows = connection.execute(
            "SELECT id, secret_sha256, user_id, username, expires_at, revoked_at"
            f" FROM api_keys WHERE id IN ({marks(asked)})",
            asked,
        )
        found = {id: (digest, *rest) for id, digest, *rest in rows.fetchall()}
    return {token: _verdict(token, found.get(id), now) for token, id in ids.items()}


def _asked_id(token: str) -> str:
    """The id of the key that ``token`` may be; empty when it has not the form of one."""
    key_id, _dash, secret = token.partition("-")
    # Ids that the database could not even be asked for are of nobody.
    return key_id if secret and key_id.isascii() and "\0" not in key_id else ""


def _verdict(token: str, found: _Found | None, now: float) -> Caller | Denied:
    key_id, _dash, secret = token.partition("-")
    if not secret:
        return evolve(_UNAUTHORIZED, reason="invalid key")
    if found is None:
        return evolve(_UNAUTHORIZED, reason="unknown key")
    digest, user_id, username, expires_at, revoked_at = found
    given = hashlib.sha256(secret.encode("utf-8", "surrogatepass")).hexdigest()
    if not hmac.compare_digest(given, digest):
        return evolve(_UNAUTHORIZED, reason="invalid key")
    caller = Caller(user_id, username, key_id)
    if revoked_at is not None:
        return evolve(_UNAUTHORIZED, reason="revoked", caller=caller)
    if expires_at is not None and expires_at <= timestamp(now):
        return evolve(_UNAUTHORIZED, reason="expired", caller=caller)
    return caller


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
