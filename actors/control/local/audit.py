"""Who changed what, in the same transaction as the change."""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterable, Mapping
from typing import Any

from attrs import frozen

from aigateway.actors.control.local.schema import Database, like
from aigateway.actors.values.records import timestamp

__all__ = ["Change", "list_changes", "note_changes"]


@frozen
class Change:
    """One change of one thing; ``before`` and ``after`` are None where there was or is nothing."""

    action: str
    """``user.disable``, for example."""
    subject: str
    """What was changed: ``user alice``."""
    before: Mapping[str, Any] | None = None
    after: Mapping[str, Any] | None = None


def note_changes(database: Database, who: str, changes: Iterable[Change], now: float) -> None:
    """Write changes down; to be called in the transaction that makes them.

    ``now`` in Unix seconds.  Raises what the database raises.
    """
    at = timestamp(now)
    database.executemany(
        "INSERT INTO audit (id, at, who, action, subject, before, after)"
        " VALUES (?, ?, ?, ?, ?, ?, ?)",
        [
            (
                str(uuid.uuid4()),
                at,
                who,
                change.action,
                change.subject,
                _json(change.before),
                _json(change.after),
            )
            for change in changes
        ],
    )


def list_changes(
    database: Database,
    limit: int,
    before: tuple[str, str] | None = None,
    *,
    who: str = "",
    action: str = "",
    subject: str = "",
) -> list[dict[str, Any]]:
    """The newest changes, the newest first; those that come after the one with this time and id.

    With ``who``, ``action`` or ``subject`` only those that have such a text there, in any case of
    its letters.  Raises what the database raises.
    """
    texts = {"who": who, "action": action, "subject": subject}
    sought = {name: text for name, text in texts.items() if text}
    # Both sides by the database, whose idea of letters may be a small one.
    conditions = [f"lower({name}) LIKE lower(?) ESCAPE '!'" for name in sought]
    values = [f"%{like(text)}%" for text in sought.values()]
    if before is not None:
        conditions.append("(at, id) < (?, ?)")
        values += before
    where = f"WHERE {' AND '.join(conditions)}" if conditions else ""
    rows = database.execute(
        "SELECT id, at, who, action, subject, before, after FROM audit"
        f" {where} ORDER BY at DESC, id DESC LIMIT ?",
        (*values, limit),
    )
    names = ("id", "at", "who", "action", "subject")
    return [
        {**dict(zip(names, row, strict=False)), "before": _data(row[5]), "after": _data(row[6])}
        for row in rows.fetchall()
    ]


def _json(data: Mapping[str, Any] | None) -> str | None:
    return None if data is None else json.dumps(data, ensure_ascii=True)


def _data(text: str | None) -> Any:
    return None if text is None else json.loads(text)
