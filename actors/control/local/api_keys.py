"""The keys of the embedded control plane: make, list, revoke, and who they let in.

A key is ``<id>-<secret>``, in the shape of a Coder token: ten and twenty-two letters and
digits.  The database keeps the secret's SHA-256 only.  A plain hash will do: with 130 random
bits in the secret there is nothing to guess that a slow one would protect.

A key is a user's, or a machine's: then it belongs to a group and to no user.  What is called the
same in the same group has always the same user id, so a machine keeps its records, and what it has
stored with providers, when its key is replaced.

All functions take a connection from :func:`~aigateway.actors.control.local.opening.open_address`.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
import string
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeAlias

from attrs import evolve, field, frozen

from aigateway.actors.control.local.audit import Change, note_changes
from aigateway.actors.control.local.people import (
    NoSuch,
    User,
    find_group,
    good_id,
    good_name,
    insert_users,
    user_id_for,
)
from aigateway.actors.control.local.schema import Database, marks, moment_of, transaction
from aigateway.actors.control.messages import Caller, Denied
from aigateway.actors.values.records import timestamp

__all__ = [
    "ApiKey",
    "KnownKey",
    "NewApiKey",
    "Uses",
    "WantedKey",
    "create_key",
    "create_keys",
    "find_key",
    "find_callers",
    "list_keys",
    "note_uses",
    "revoke_key",
]

ID_LENGTH, SECRET_LENGTH = 10, 22
"""Characters, as in Coder's own tokens."""

OURSELVES = "aigateway"
"""Who changes what nobody asked for by name."""

USE_NOTED_EVERY = 60.0
"""Seconds: of what is used all the time no more is noted."""

USES_WRITTEN_AFTER = 5.0
"""Seconds for which uses are collected: requests do not wait for that."""

_ALPHABET = string.ascii_letters + string.digits

_UNAUTHORIZED = Denied("unauthorized")

_Found: TypeAlias = tuple[Any, ...]
"""What is stored of a key and of its user's state."""

_COLUMNS = "k.id, k.username, k.user_id, k.created_at, k.expires_at, k.revoked_at, k.name, g.name"
_COLUMNS += ", k.project, k.rules, k.last_used_at, u.disabled_at"
_FROM = (
    "FROM api_keys k LEFT JOIN users u ON u.id = k.user_id LEFT JOIN groups g ON g.id = k.group_id"
)


@frozen
class ApiKey:
    """A key as it is stored; times are RFC 3339 text."""

    id: str
    username: str
    """Of a machine's key ``<group>/<name>``."""
    user_id: str
    created_at: str
    expires_at: str | None
    revoked_at: str | None
    name: str = ""
    group: str | None = None
    """The group that it belongs to; None: it is a user's."""
    project: str | None = None
    rules: str | None = None
    """What the key itself may: JSON as in a policy."""
    last_used_at: str | None = None
    disabled_at: str | None = None
    """When its user was disabled."""

    def state(self, now: float) -> str:
        """``revoked``, ``expired``, ``disabled`` (its user is) or ``active`` at ``now`` (Unix
        seconds)."""
        if self.revoked_at is not None:
            return "revoked"
        if self.expires_at is not None and self.expires_at <= timestamp(now):
            return "expired"
        return "active" if self.disabled_at is None else "disabled"


@frozen
class NewApiKey:
    """A key that was just made, with the only copy of its secret."""

    key: ApiKey
    token: str = field(repr=False)
    """What the client sends."""


@frozen(kw_only=True)
class WantedKey:
    """A key to be made: for ``username``, or for a machine of ``group``."""

    username: str = ""
    user_id: str | None = None
    """None: that of the user of this name, who is made if there is none."""
    group: str = ""
    name: str = ""
    """What it is for; a machine's must have one."""
    project: str = ""
    expires_in: float | None = None
    """Seconds; None: it is good until it is revoked."""
    rules: str | None = None
    """What the key itself may, as :func:`~.policy_document.rules_text` writes it."""


@frozen
class KnownKey:
    """A caller with what is kept beside the key."""

    caller: Caller
    rules: str | None = None
    """What the key itself may, as it is stored."""
    group_id: str | None = None
    """The group that it belongs to; None: it is a user's."""
    last_used_at: str | None = None


def create_key(
    database: Database,
    username: str,
    user_id: str | None = None,
    expires_in: float | None = None,
    *,
    who: str = OURSELVES,
    now: float | None = None,
) -> NewApiKey:
    """Make a user's key that is good for ``expires_in`` seconds, or until it is revoked.

    Raises what :func:`create_keys` raises.
    """
    wanted = WantedKey(username=username, user_id=user_id, expires_in=expires_in)
    return create_keys(database, [wanted], who=who, now=now)[0]


def create_keys(
    database: Database, wanted: Sequence[WantedKey], *, who: str, now: float | None = None
) -> list[NewApiKey]:
    """Make keys, all or none, and the users of theirs that are not there yet.

    Raises ValueError for an empty or unprintable name, a ``user_id`` that is no UUID, an expiry
    that is not in the future or beyond the year 9999, and for what is neither a user's nor a
    group's; :class:`~.people.NoSuch` for an unknown group; and what the database raises.
    """
    now = time.time() if now is None else now
    made: list[NewApiKey] = []
    rows: list[tuple[Any, ...]] = []
    users: dict[str, User] = {}
    groups: dict[str, str] = {}
    with transaction(database):
        known = _user_ids(database, wanted)
        for each in wanted:
            key, group_id = _key(each, known, database, groups, now)
            secret = _random(SECRET_LENGTH)
            made.append(NewApiKey(key, f"{key.id}-{secret}"))
            digest = hashlib.sha256(secret.encode()).hexdigest()
            rows.append(
                (
                    key.id,
                    digest,
                    key.user_id,
                    key.username,
                    key.expires_at,
                    key.created_at,
                    key.name,
                    group_id,
                    key.project,
                    key.rules,
                )
            )
            if group_id is None and known.get(key.username) != key.user_id:
                known[key.username] = key.user_id
                users[key.user_id] = User(key.user_id, key.username, key.created_at)
        insert_users(database, users.values())
        database.executemany(
            "INSERT INTO api_keys (id, secret_sha256, user_id, username, expires_at, created_at,"
            " name, group_id, project, rules) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            rows,
        )
        note_changes(database, who, [_created(each.key) for each in made], now)
    return made


def _user_ids(database: Database, wanted: Sequence[WantedKey]) -> dict[str, str]:
    """The ids of the users that there are, by name; of several with one name, the first's."""
    if len(wanted) == 1:
        rows = database.execute(
            "SELECT name, id FROM users WHERE name = ? ORDER BY created_at DESC, id",
            (wanted[0].username.strip(),),
        )
    else:
        rows = database.execute("SELECT name, id FROM users ORDER BY created_at DESC, id")
    return dict(rows.fetchall())


def _key(
    wanted: WantedKey, known: dict[str, str], database: Database, groups: dict[str, str], now: float
) -> tuple[ApiKey, str | None]:
    """A key that is not stored yet, and the id of its group."""
    group_id = None
    if wanted.group and (wanted.username or wanted.user_id):
        raise ValueError("a key is of a user or of a group, not of both")
    name = good_name(wanted.name, "key") if wanted.name else ""
    if wanted.group:
        if not name:
            raise ValueError("a group's key needs a name that says what it is for")
        group = wanted.group.strip()
        if group not in groups:
            groups[group] = find_group(database, group).id
        group_id = groups[group]
        username = f"{group}/{name}"
        # No user's: users' ids are made from names without this.
        user_id = user_id_for(f"\0{group_id}\0{name}")
    else:
        username = good_name(wanted.username)
        if wanted.user_id is not None:
            user_id = good_id(wanted.user_id)
        else:
            user_id = known.get(username) or user_id_for(username)
    expires_at = None if wanted.expires_in is None else _expiry(now, wanted.expires_in)
    key = ApiKey(
        id=_random(ID_LENGTH),
        username=username,
        user_id=user_id,
        created_at=timestamp(now),
        expires_at=expires_at,
        revoked_at=None,
        name=name,
        group=wanted.group.strip() or None,
        project=good_name(wanted.project, "project") if wanted.project else None,
        rules=wanted.rules,
    )
    return key, group_id


def _created(key: ApiKey) -> Change:
    after = {
        "user": None if key.group else key.username,
        "group": key.group,
        "name": key.name,
        "project": key.project,
        "expires_at": key.expires_at,
        "rules": key.rules,
    }
    shown = {name: value for name, value in after.items() if value}
    return Change("key.create", f"key {key.id}", after=shown)


def list_keys(
    database: Database, *, user_id: str | None = None, group: str | None = None
) -> list[ApiKey]:
    """All keys, oldest first, revoked and expired ones too; or those of one user or group.

    Raises what the database raises.
    """
    conditions = {"k.user_id": user_id, "g.name": group}
    asked = {name: value for name, value in conditions.items() if value is not None}
    where = f"WHERE {' AND '.join(f'{name} = ?' for name in asked)}" if asked else ""
    rows = database.execute(
        f"SELECT {_COLUMNS} {_FROM} {where} ORDER BY k.created_at, k.id", list(asked.values())
    )
    return [ApiKey(*row) for row in rows.fetchall()]


def find_key(database: Database, key_id: str) -> ApiKey:
    """The key with this id.  Raises :class:`~.people.NoSuch`, and what the database raises."""
    rows = database.execute(f"SELECT {_COLUMNS} {_FROM} WHERE k.id = ?", (key_id,)).fetchall()
    if not rows:
        raise NoSuch(f'there is no key "{key_id}"')
    return ApiKey(*rows[0])


def revoke_key(
    database: Database, key_id: str, *, who: str = OURSELVES, now: float | None = None
) -> bool:
    """Refuse a key from now on; False when there is no such key.

    A key that was revoked before keeps its time of revocation.  Raises what the database raises.
    """
    now = time.time() if now is None else now
    with transaction(database):
        changed = database.execute(
            "UPDATE api_keys SET revoked_at = ? WHERE id = ? AND revoked_at IS NULL",
            (timestamp(now), key_id),
        )
        if changed.rowcount == 1:
            change = Change(
                "key.revoke", f"key {key_id}", {"revoked_at": None}, {"revoked_at": timestamp(now)}
            )
            note_changes(database, who, [change], now)
            return True
        found = database.execute("SELECT 1 FROM api_keys WHERE id = ?", (key_id,))
        return found.fetchone() is not None


def find_callers(
    database: Database, tokens: Iterable[str], now: float, *, groups: bool = True
) -> dict[str, KnownKey | Denied]:
    """Whose keys are these?  ``now`` in Unix seconds.  Raises what the database raises.

    ``groups``: say in which groups callers are, which is for those who need to know it.
    """
    ids = {token: _asked_id(token) for token in tokens}
    asked = sorted(set(filter(None, ids.values())))
    found: dict[str, _Found] = {}
    if asked:
        # A machine's key has no user.
        rows = database.execute(
            "SELECT k.id, k.secret_sha256, k.user_id, k.username, k.expires_at, k.revoked_at,"
            " k.project, k.rules, k.last_used_at, k.group_id, u.disabled_at"
            " FROM api_keys k LEFT JOIN users u ON u.id = k.user_id"
            f" WHERE k.id IN ({marks(asked)})",
            asked,
        )
        found = {id: tuple(rest) for id, *rest in rows.fetchall()}
    known = {token: _verdict(token, found.get(id), now) for token, id in ids.items()}
    return _with_groups(database, known) if groups else known


def _with_groups(
    database: Database, known: dict[str, KnownKey | Denied]
) -> dict[str, KnownKey | Denied]:
    keys = [each for each in known.values() if isinstance(each, KnownKey)]
    users = sorted({each.caller.user_id for each in keys if each.group_id is None})
    machines = sorted({each.group_id for each in keys if each.group_id is not None})
    names: dict[str, list[str]] = {}
    for values, statement in (
        (users, "SELECT m.user_id, g.name FROM memberships m JOIN groups g ON g.id = m.group_id"
         " WHERE m.user_id IN ({}) ORDER BY g.name"),
        (machines, "SELECT id, name FROM groups WHERE id IN ({})"),
    ):  # fmt: skip
        if values:
            for id, name in database.execute(statement.format(marks(values)), values).fetchall():
                names.setdefault(id, []).append(name)
    if not names:
        return known
    return {token: _in_groups(each, names) for token, each in known.items()}


def _in_groups(known: KnownKey | Denied, names: dict[str, list[str]]) -> KnownKey | Denied:
    if isinstance(known, Denied):
        return known
    groups = names.get(known.group_id or known.caller.user_id, ())
    return evolve(known, caller=evolve(known.caller, groups=tuple(groups)))


def _asked_id(token: str) -> str:
    """The id of the key that ``token`` may be; empty when it has not the form of one."""
    key_id, _dash, secret = token.partition("-")
    # Ids that the database could not even be asked for are of nobody.
    return key_id if secret and key_id.isascii() and "\0" not in key_id else ""


def _verdict(token: str, found: _Found | None, now: float) -> KnownKey | Denied:
    key_id, _dash, secret = token.partition("-")
    if not secret:
        return evolve(_UNAUTHORIZED, reason="invalid key")
    if found is None:
        return evolve(_UNAUTHORIZED, reason="unknown key")
    digest, user_id, username, expires_at, revoked_at, project, rules, *rest = found
    last_used_at, group_id, disabled_at = rest
    given = hashlib.sha256(secret.encode("utf-8", "surrogatepass")).hexdigest()
    if not hmac.compare_digest(given, digest):
        return evolve(_UNAUTHORIZED, reason="invalid key")
    caller = Caller(user_id, username, key_id, project=project or "")
    if revoked_at is not None:
        return evolve(_UNAUTHORIZED, reason="revoked", caller=caller)
    if expires_at is not None and expires_at <= timestamp(now):
        return evolve(_UNAUTHORIZED, reason="expired", caller=caller)
    if disabled_at is not None:
        return evolve(_UNAUTHORIZED, reason="user disabled", caller=caller)
    return KnownKey(caller, rules, group_id, last_used_at)


class Uses:
    """Which keys were used, until that is written: late, and for each key once a minute at most.

    Safe to use from many threads.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._pending: dict[str, float] = {}
        self._written: dict[str, float] = {}

    def __bool__(self) -> bool:
        return bool(self._pending)

    def note(self, key_id: str, last_used_at: str | None, now: float) -> None:
        """The key was used at ``now`` (Unix seconds), and before that as the database says."""
        # PERF: nearly always it is known here that it was noted a moment ago.
        written = self._written.get(key_id, -USE_NOTED_EVERY)
        if now - written < USE_NOTED_EVERY or key_id in self._pending:
            return
        if last_used_at is not None:
            written = max(written, moment_of(last_used_at))
        with self._lock:
            if now - written < USE_NOTED_EVERY:
                self._written[key_id] = written
            else:
                self._pending[key_id] = now

    def written(self, write: Callable[[dict[str, float]], None]) -> None:
        """Have what is pending written; it stays pending where ``write`` raises."""
        with self._lock:
            taken = dict(self._pending)
        if not taken:
            return
        write(taken)
        latest = max(taken.values())
        with self._lock:
            kept = {id: at for id, at in self._written.items() if latest - at < USE_NOTED_EVERY}
            self._written = kept | taken
            for key_id in taken:
                self._pending.pop(key_id, None)


def note_uses(database: Database, uses: dict[str, float]) -> None:
    """Write down when keys were used, by id, in Unix seconds.  Raises what the database raises."""
    rows = [(timestamp(at), id, timestamp(at)) for id, at in sorted(uses.items())]
    # In the order of ids, so that two gateways on one database never wait for each other.
    with transaction(database):
        database.executemany(
            "UPDATE api_keys SET last_used_at = ?"
            " WHERE id = ? AND (last_used_at IS NULL OR last_used_at < ?)",
            rows,
        )


def _random(length: int) -> str:
    return "".join(secrets.choice(_ALPHABET) for _ in range(length))


def _expiry(created: float, expires_in: float) -> str:
    if not expires_in > 0:
        raise ValueError("the key would have expired already")
    try:
        return timestamp(created + expires_in)
    except (OverflowError, OSError, ValueError):
        raise ValueError("the expiry is beyond the year 9999") from None
