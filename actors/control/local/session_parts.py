"""What each session was seen with, noted as interceptions are stored.

A session may change its model, its branch or its project.  A *part* is what it was seen with
together, and when; so sessions are found by any of these without looking at their interceptions,
of which there are many times more.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from hashlib import blake2b
from typing import Final, TypeAlias

from attrs import frozen

from aigateway.actors.values.records import InterceptionBegun, timestamp

__all__ = ["PART_SQL", "EXACT_ENOUGH", "Part", "PartNotes", "part_rows"]

EXACT_ENOUGH: Final = 60.0
"""Seconds by which a part's times may be off, so that most requests of a session write none."""

_KEPT: Final = 4096
"""Parts that a process remembers having written."""

Part: TypeAlias = tuple[str, str, str, str, str | None, str | None, str | None]

PART_SQL: Final = """
    INSERT INTO session_parts (
        id, session_id, user_id, username, client, model, project, repository, branch,
        first_at, last_at
    ) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
    ON CONFLICT (id) DO UPDATE SET
        first_at = CASE WHEN excluded.first_at < session_parts.first_at
            THEN excluded.first_at ELSE session_parts.first_at END,
        last_at = CASE WHEN excluded.last_at > session_parts.last_at
            THEN excluded.last_at ELSE session_parts.last_at END
"""


def part_rows(starts: Iterable[InterceptionBegun]) -> list[tuple[object, ...]]:
    """The rows of the parts that ``starts`` belong to, one for each, in an order that is the same
    for all who write some of them at once.  Raises ValueError and OverflowError for bad times."""
    rows: dict[str, tuple[object, ...]] = {}
    for start in sorted(starts, key=lambda start: start.started_at):
        part = _part_of(start)
        if part is None:
            continue
        text = "\0".join(value if value is not None else "\1" for value in part)
        digest = blake2b(text.encode("utf-8", "replace"), digest_size=16).hexdigest()
        now = timestamp(start.started_at)
        first_at = rows[digest][-2] if digest in rows else now
        session, user, *rest = part
        rows[digest] = (digest, session, user, start.username, *rest, first_at, now)
    return [rows[digest] for digest in sorted(rows)]


@frozen
class PartNotes:
    """Remembers which parts were written when; so that it is not done with each request."""

    _written: dict[Part, float]

    @classmethod
    def empty(cls) -> PartNotes:
        return cls({})

    def unwritten(self, starts: Sequence[InterceptionBegun]) -> list[InterceptionBegun]:
        """Those of ``starts`` whose parts are to be written."""
        return [
            start for start in starts if (part := _part_of(start)) and self._is_new(part, start)
        ]

    def written(self, starts: Iterable[InterceptionBegun]) -> None:
        """They are in the database."""
        if len(self._written) > _KEPT:
            self._written.clear()
        for start in starts:
            if part := _part_of(start):
                self._written[part] = start.started_at

    def _is_new(self, part: Part, start: InterceptionBegun) -> bool:
        before = self._written.get(part)
        return before is None or abs(start.started_at - before) >= EXACT_ENOUGH


def _part_of(start: InterceptionBegun) -> Part | None:
    work = start.attribution
    if work.session_id is None:
        return None
    return (
        work.session_id,
        start.initiator_id,
        start.client,
        start.model,
        work.project,
        work.repository,
        work.branch,
    )
