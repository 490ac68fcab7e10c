"""Keys of those who may change people and policy over HTTP; users' keys are none of them.

A key is ``aigwadm-<id>-<secret>``, of ten and forty letters and digits; the database keeps the
secret's SHA-256.  All functions raise what the database raises besides what they say.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
import string
import time

from attrs import field, frozen

from aigateway.actors.control.local.audit import Change, note_changes
from aigateway.actors.control.local.people import good_name
from aigateway.actors.control.local.schema import Database, transaction
from aigateway.actors.values.records import timestamp

__all__ = [
    "PREFIX",
    "AdminKey",
    "NewAdminKey",
    "create_admin_key",
    "find_admin",
    "list_admin_keys",
    "revoke_admin_key",
]

PREFIX = "aigwadm"
_ALPHABET = string.ascii_letters + string.digits


@frozen
class AdminKey:
    """A key as it is stored; times are RFC 3339 text."""

    id: str
    name: str
    """Whose it is, or what for; stands in the table of changes."""
    created_at: str
    revoked_at: str | None = None


@frozen
class NewAdminKey:
    """A key that was just made, with the only copy of its secret."""

    key: AdminKey
    token: str = field(repr=False)


def create_admin_key(
    database: Database, name: str, *, who: str, now: float | None = None
) -> NewAdminKey:
    """Raises ValueError for an empty or unprintable name."""
    now = time.time() if now is None else now
    id, secret = ("".join(secrets.choice(_ALPHABET) for _ in range(length)) for length in (10, 40))
    key = AdminKey(id, good_name(name, "admin's"), timestamp(now))
    with transaction(database):
        database.execute(
            "INSERT INTO admin_keys (id, name, secret_sha256, created_at) VALUES (?, ?, ?, ?)",
            (id, key.name, hashlib.sha256(secret.encode()).hexdigest(), key.created_at),
        )
        change = Change("admin_key.create", f"admin key {id}", after={"name": key.name})
        note_changes(database, who, [change], now)
    return NewAdminKey(key, f"{PREFIX}-{id}-{secret}")


def list_admin_keys(database: Database) -> list[AdminKey]:
    """All keys, oldest first, revoked ones too."""
    rows = database.execute(
        "SELECT id, name, created_at, revoked_at FROM admin_keys ORDER BY created_at, id"
    )
    return [AdminKey(*row) for row in rows.fetchall()]


def revoke_admin_key(
    database: Database, key_id: str, *, who: str, now: float | None = None
) -> bool:
    """Refuse a key from now on; False when there is none of this id that was good."""
    now = time.time() if now is None else now
    with transaction(database):
        changed = database.execute(
            "UPDATE admin_keys SET revoked_at = ? WHERE id = ? AND revoked_at IS NULL",
            (timestamp(now), key_id),
        )
        if changed.rowcount != 1:
            return False
        change = Change(
            "admin_key.revoke",
            f"admin key {key_id}",
            {"revoked_at": None},
            {"revoked_at": timestamp(now)},
        )
        note_changes(database, who, [change], now)
    return True


def find_admin(database: Database, token: str) -> AdminKey | None:
    """Whose key is this?  None: nobody's, or it was revoked."""
    prefix, _, rest = token.partition("-")
    key_id, _, secret = rest.partition("-")
    if prefix != PREFIX or not secret or not token.isascii() or not token.isprintable():
        return None
    row = database.execute(
        "SELECT id, name, created_at, revoked_at, secret_sha256 FROM admin_keys WHERE id = ?",
        (key_id,),
    ).fetchone()
    if row is None:
        return None
    given = hashlib.sha256(secret.encode()).hexdigest()
    if not hmac.compare_digest(given, row[4]) or row[3] is not None:
        return None
    return AdminKey(*row[:4])
