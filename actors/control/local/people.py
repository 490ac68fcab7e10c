"""The users and groups of the embedded control plane.

A user has a name and an id; records carry both.  Users are named by either.  All functions take a
connection from :func:`~aigateway.actors.control.local.opening.open_address`, note what they change
in the table ``audit`` under ``who``, and raise what the database raises besides what they say.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Iterable, Sequence

from attrs import evolve, frozen

from aigateway.actors.control.local.audit import Change, note_changes
from aigateway.actors.control.local.schema import Database, batches, marks, transaction
from aigateway.actors.values.records import timestamp

__all__ = [
    "AlreadyThere",
    "Group",
    "NoSuch",
    "StillNeeded",
    "User",
    "add_members",
    "create_group",
    "create_users",
    "delete_group",
    "find_group",
    "find_user",
    "good_name",
    "list_groups",
    "list_users",
    "remove_members",
    "set_disabled",
    "unmistakable_name",
    "user_called",
    "user_id_for",
]

_USERS = uuid.UUID("5f0c3a52-6d0b-4f7e-9a53-0d6f1b7c2e84")
"""Name space of the user ids that are made from user names.  Never to be changed."""

_AT_ONCE = 500
"""Values in one ``IN (…)``."""


class NoSuch(LookupError):
    """There is no user or group of that name, or more than one."""


class AlreadyThere(ValueError):
    """Another one has that name or id."""


class StillNeeded(ValueError):
    """It cannot go while something else needs it."""


@frozen
class User:
    """A user as stored; times are RFC 3339 text."""

    id: str
    name: str
    created_at: str
    disabled_at: str | None = None
    groups: tuple[str, ...] = ()
    """Names of the groups that the user is in, sorted."""

    @property
    def state(self) -> str:
        return "active" if self.disabled_at is None else "disabled"


@frozen
class Group:
    """A group as stored."""

    id: str
    name: str
    created_at: str
    members: tuple[str, ...] = ()
    """Names of its users, sorted."""


def user_id_for(name: str) -> str:
    """The id of a user who was given none: the same name has always the same id."""
    return str(uuid.uuid5(_USERS, name))


def good_name(name: str, what: str = "user") -> str:
    """``name`` without blanks around it.  Raises ValueError for one that cannot be used."""
    name = name.strip()
    if not name:
        raise ValueError(f"the {what} name is empty")
    if not name.isprintable():
        # It may travel in a header.
        raise ValueError(f"the {what} name has control characters")
    return name


def good_id(text: str) -> str:
    """A user's id in its usual form.  Raises ValueError for what is no UUID."""
    try:
        return str(uuid.UUID(text))
    except ValueError:
        raise ValueError(f'the user id "{text}" is no UUID') from None


# -- users


def create_users(
    database: Database,
    wanted: Sequence[tuple[str, str | None]],
    *,
    who: str,
    now: float | None = None,
) -> list[User]:
    """Make users by name and id (None: made from the name), all or none.

    Raises ValueError for a bad name or id and AlreadyThere.
    """
    now = time.time() if now is None else now
    users = []
    for name, given in wanted:
        name = good_name(name)
        users.append(
            User(user_id_for(name) if given is None else good_id(given), name, timestamp(now))
        )
    with transaction(database):
        names = _names_of(database, [each.name for each in users], "name")
        ids = _names_of(database, [each.id for each in users], "id")
        for user in users:
            if user.name in names:
                raise AlreadyThere(f'there is a user "{user.name}" already')
            if user.id in ids:
                raise AlreadyThere(f'the user "{ids[user.id]}" has the id {user.id} already')
            names[user.name] = ids[user.id] = user.name
        insert_users(database, users)
        note_changes(database, who, [_created(user) for user in users], now)
    return users


def insert_users(database: Database, users: Iterable[User]) -> None:
    """Insert users as they are; one that is there stays."""
    database.executemany(
        "INSERT INTO users (id, name, created_at) VALUES (?, ?, ?) ON CONFLICT DO NOTHING",
        [(user.id, user.name, user.created_at) for user in users],
    )


def _created(user: User) -> Change:
    return Change("user.create", f"user {user.name}", after={"id": user.id, "name": user.name})


def _names_of(database: Database, values: Sequence[str], column: str) -> dict[str, str]:
    """The names of the users that have one of ``values`` in ``column``, by that value."""
    found: dict[str, str] = {}
    for part in batches(values, _AT_ONCE):
        rows = database.execute(
            f"SELECT {column}, name FROM users WHERE {column} IN ({marks(part)})", part
        )
        found.update(rows.fetchall())
    return found


def list_users(database: Database, group: str | None = None) -> list[User]:
    """All users by name, or those of a group.  Raises NoSuch for an unknown group."""
    if group is not None:
        group = find_group(database, group).name
    users = _users(database, "", ())
    return [user for user in users if group is None or group in user.groups]


def find_user(database: Database, named: str) -> User:
    """The user of that name or id.  Raises NoSuch."""
    found = _users(database, "WHERE u.name = ? OR u.id = ?", (named.strip(), named.strip().lower()))
    if not found:
        raise NoSuch(f'there is no user "{named}"')
    if len(found) > 1:
        ids = ", ".join(user.id for user in found)
        raise NoSuch(f'several users are called "{named}": give an id, one of {ids}')
    return found[0]


def _users(database: Database, where: str, values: Sequence[str]) -> list[User]:
    rows = database.execute(
        "SELECT u.id, u.name, u.created_at, u.disabled_at, g.name FROM users u"
        " LEFT JOIN memberships m ON m.user_id = u.id LEFT JOIN groups g ON g.id = m.group_id"
        f" {where} ORDER BY u.name, u.id, g.name",
        values,
    )
    users: dict[str, User] = {}
    groups: dict[str, list[str]] = {}
    for id, name, created_at, disabled_at, group in rows.fetchall():
        users[id] = User(id, name, created_at, disabled_at)
        groups.setdefault(id, []).extend(() if group is None else (group,))
    return [evolve(user, groups=tuple(groups[id])) for id, user in users.items()]


def user_called(database: Database, name: str) -> User | None:
    """The user of that very name, who must not be meant by an id; None: there is none.

    Raises NoSuch when there are several.
    """
    found = _users(database, "WHERE u.name = ?", (name,))
    if len(found) > 1:
        raise NoSuch(f'several users are called "{name}"')
    return found[0] if found else None


def unmistakable_name(database: Database, user_id: str) -> str | None:
    """The name that stands in all records of this user, and in nobody else's; None: there is no
    such name."""
    row = database.execute("SELECT name FROM users WHERE id = ?", (user_id,)).fetchone()
    if row is None:
        return None
    name = str(row[0])
    other = database.execute(
        "SELECT 1 FROM users WHERE name = ? AND id <> ?"
        " UNION ALL SELECT 1 FROM api_keys WHERE username = ? AND user_id <> ?"
        " UNION ALL SELECT 1 FROM api_keys WHERE user_id = ? AND username <> ? LIMIT 1",
        (name, user_id, name, user_id, user_id, name),
    ).fetchone()
    return name if other is None else None


def set_disabled(
    database: Database, named: str, disabled: bool, *, who: str, now: float | None = None
) -> User:
    """Refuse all keys of a user from now on, or let them in again.  Raises NoSuch."""
    now = time.time() if now is None else now
    with transaction(database):
        user = find_user(database, named)
        if disabled == (user.disabled_at is not None):
            return user
        changed = evolve(user, disabled_at=timestamp(now) if disabled else None)
        database.execute(
            "UPDATE users SET disabled_at = ? WHERE id = ?", (changed.disabled_at, user.id)
        )
        change = Change(
            "user.disable" if disabled else "user.enable",
            f"user {user.name}",
            {"state": user.state},
            {"state": changed.state},
        )
        note_changes(database, who, [change], now)
    return changed


# -- groups


def create_group(database: Database, name: str, *, who: str, now: float | None = None) -> Group:
    """Raises ValueError for a bad name and AlreadyThere."""
    now = time.time() if now is None else now
    name = good_name(name, "group")
    if "/" in name:
        raise ValueError('the group name has a "/"')
    group = Group(str(uuid.uuid4()), name, timestamp(now))
    with transaction(database):
        found = database.execute(
            "INSERT INTO groups (id, name, created_at) VALUES (?, ?, ?) ON CONFLICT DO NOTHING",
            (group.id, group.name, group.created_at),
        )
        if not found.rowcount:
            raise AlreadyThere(f'there is a group "{name}" already')
        after = {"id": group.id, "name": name}
        note_changes(database, who, [Change("group.create", f"group {name}", after=after)], now)
    return group


def list_groups(database: Database) -> list[Group]:
    """All groups by name."""
    return _groups(database, "", ())


def find_group(database: Database, name: str) -> Group:
    """Raises NoSuch."""
    found = _groups(database, "WHERE g.name = ?", (name.strip(),))
    if not found:
        raise NoSuch(f'there is no group "{name}"; `aigateway groups create` makes one')
    return found[0]


def _groups(database: Database, where: str, values: Sequence[str]) -> list[Group]:
    rows = database.execute(
        "SELECT g.id, g.name, g.created_at, u.name FROM groups g"
        " LEFT JOIN memberships m ON m.group_id = g.id LEFT JOIN users u ON u.id = m.user_id"
        f" {where} ORDER BY g.name, u.name",
        values,
    )
    groups: dict[str, Group] = {}
    members: dict[str, list[str]] = {}
    for id, name, created_at, member in rows.fetchall():
        groups[id] = Group(id, name, created_at)
        members.setdefault(id, []).extend(() if member is None else (member,))
    return [evolve(group, members=tuple(members[id])) for id, group in groups.items()]


def delete_group(database: Database, name: str, *, who: str, now: float | None = None) -> Group:
    """Forget a group; its users stay.

    Raises NoSuch, and StillNeeded while a key of the group is good.
    """
    now = time.time() if now is None else now
    with transaction(database):
        group = find_group(database, name)
        rows = database.execute(
            "SELECT id FROM api_keys WHERE group_id = ? AND revoked_at IS NULL"
            " AND (expires_at IS NULL OR expires_at > ?) ORDER BY id",
            (group.id, timestamp(now)),
        )
        keys = [id for (id,) in rows.fetchall()]
        if keys:
            raise StillNeeded(
                f'the group "{group.name}" has keys: revoke them first: {", ".join(keys)}'
            )
        database.execute("DELETE FROM memberships WHERE group_id = ?", (group.id,))
        database.execute("DELETE FROM groups WHERE id = ?", (group.id,))
        before = {"id": group.id, "name": group.name, "members": list(group.members)}
        change = Change("group.delete", f"group {group.name}", before=before)
        note_changes(database, who, [change], now)
    return group


def add_members(
    database: Database,
    group: str,
    users: Iterable[str],
    *,
    who: str,
    now: float | None = None,
) -> Group:
    """Put users into a group, all or none; who is in it stays.  Raises NoSuch."""
    now = time.time() if now is None else now
    return _change_members(
        database,
        group,
        users,
        "INSERT INTO memberships (group_id, user_id, created_at) VALUES (?, ?, ?)"
        " ON CONFLICT DO NOTHING",
        (timestamp(now),),
        "group.add",
        who,
        now,
    )


def remove_members(
    database: Database,
    group: str,
    users: Iterable[str],
    *,
    who: str,
    now: float | None = None,
) -> Group:
    """Take users out of a group, all or none; who is not in it stays out.  Raises NoSuch."""
    return _change_members(
        database,
        group,
        users,
        "DELETE FROM memberships WHERE group_id = ? AND user_id = ?",
        (),
        "group.remove",
        who,
        time.time() if now is None else now,
    )


def _change_members(
    database: Database,
    group: str,
    users: Iterable[str],
    statement: str,
    values: tuple[str, ...],
    action: str,
    who: str,
    now: float,
) -> Group:
    with transaction(database):
        before = find_group(database, group)
        found = [find_user(database, named) for named in users]
        database.executemany(statement, [(before.id, user.id, *values) for user in found])
        after = find_group(database, group)
        gone = sorted(set(before.members) - set(after.members))
        new = sorted(set(after.members) - set(before.members))
        if gone or new:
            change = Change(
                action,
                f"group {before.name}",
                {"members": gone} if gone else None,
                {"members": new} if new else None,
            )
            note_changes(database, who, [change], now)
    return after
