"""Which user's are the ids under which providers store answers and conversations.

All users share the provider's account, so the provider cannot tell.  An id is known for
:data:`KEPT` after it was last used, which is a little longer than OpenAI keeps a response.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from aigateway.actors.control.local.schema import Database, marks, transaction
from aigateway.actors.values.records import timestamp

__all__ = ["FRESH", "KEPT", "foreign_id", "remember"]

KEPT = 35 * 86400.0
"""Seconds after its last use for which an id is known."""
FRESH = 86400.0
"""Seconds for which a use need not be noted again."""
_FORGET_AT_ONCE = 100
"""Old ids that go with each write; more than come with it, so that they become fewer."""

_REMEMBER = """
    INSERT INTO stored_ids (id, user_id, used_at) VALUES (?, ?, ?)
    ON CONFLICT (id) DO UPDATE SET
        user_id = CASE
            WHEN stored_ids.used_at < ? THEN excluded.user_id ELSE stored_ids.user_id
        END,
        used_at = excluded.used_at
    WHERE stored_ids.user_id = excluded.user_id OR stored_ids.used_at < ?
"""
_FORGET = """
    DELETE FROM stored_ids WHERE id IN
        (SELECT id FROM stored_ids WHERE used_at < ? ORDER BY used_at LIMIT ?)
"""


def remember(connection: Database, claims: Iterable[tuple[str, Sequence[str]]], now: float) -> None:
    """Note ids as those of users, and forget some that are old.  Who had an id first keeps it.

    ``claims`` are user ids with what is theirs; ``now`` in Unix seconds.  Raises what the
    database raises.
    """
    moment, old = timestamp(now), timestamp(now - KEPT)
    rows = [(id, user_id, moment, old, old) for user_id, ids in claims for id in ids]
    # In one order for all, or two gateways would wait for each other's rows.
    rows.sort(key=lambda row: row[0])
    with transaction(connection):
        connection.executemany(_REMEMBER, rows)
        connection.execute(_FORGET, (old, _FORGET_AT_ONCE + len(rows)))


def foreign_id(
    connection: Database, user_id: str, ids: Sequence[str], now: float
) -> tuple[str | None, tuple[str, ...]]:
    """The first id that is another user's, and those of this user whose use is to be noted.

    Raises what the database raises.
    """
    found = connection.execute(
        f"SELECT id, user_id, used_at FROM stored_ids WHERE id IN ({marks(ids)})",
        ids,
    )
    known = {id: (owner, used_at) for id, owner, used_at in found}
    old, stale = timestamp(now - KEPT), timestamp(now - FRESH)
    for id in ids:
        owner, used_at = known.get(id, (user_id, ""))
        if owner != user_id and used_at >= old:
            return id, ()
    return None, tuple(
        id for id, (owner, used_at) in known.items() if owner == user_id and used_at < stale
    )
