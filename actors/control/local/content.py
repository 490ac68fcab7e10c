"""What was sent to models, in the database: parts that are there once, and chains of them.

A turn names the link that its prompt ends with; each link names its part and the link before it
(:class:`~aigateway.actors.values.records.SentContent`).  So a session takes about as much room as
it is long, however often it was sent.  A link stays as long as a turn or another link names it, a
part as long as a link does.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Final, TypeAlias

from attrs import field, frozen

from aigateway.actors.control.local.schema import Database, batches, marks
from aigateway.actors.interception.tool_results import ToldResult, results_in
from aigateway.actors.values.records import SentContent

__all__ = [
    "CONTENT_SQL",
    "StoredPart",
    "content_rows",
    "forget_chains",
    "parts_of",
    "results_by_turn",
]

Row: TypeAlias = tuple[Any, ...]

_PART_SQL: Final = (
    "INSERT INTO content_parts (id, interception_id, place, kind, size, content)"
    " VALUES (?, ?, ?, ?, ?, ?) ON CONFLICT (id) DO NOTHING"
)
_LINK_SQL: Final = (
    "INSERT INTO content_links (id, before, part) VALUES (?, ?, ?) ON CONFLICT (id) DO NOTHING"
)
_TURN_SQL: Final = (
    "INSERT INTO content_turns (interception_id, last) VALUES (?, ?)"
    " ON CONFLICT (interception_id) DO NOTHING"
)
CONTENT_SQL: Final = (_PART_SQL, _LINK_SQL, _TURN_SQL)
"""The statements that store content, in the order in which everybody does it."""

_AT_ONCE: Final = 500
"""Names in one statement."""


def content_rows(record: SentContent) -> Iterator[tuple[str, Row]]:
    """The statements that store a record, with their rows."""
    for part in record.parts:
        yield (
            _PART_SQL,
            (part.id, record.interception_id, part.place, part.kind, part.size, part.text),
        )
    for link in record.links:
        yield _LINK_SQL, (link.id, link.before or None, link.part)
    if record.last:
        yield _TURN_SQL, (record.interception_id, record.last)


# -- reading


@frozen
class StoredPart:
    """A part of what was sent, as :class:`~aigateway.actors.values.records.ContentPart` has it."""

    kind: str
    size: int
    """Bytes in all."""
    content: str = field(repr=False)


def parts_of(connection: Database, interception_id: str) -> list[StoredPart]:
    """All that was sent with a request, in its order; what is not there any more is left out."""
    found = connection.execute(
        """
        WITH RECURSIVE chain(id, before, part, depth) AS (
            SELECT l.id, l.before, l.part, 0
            FROM content_turns t JOIN content_links l ON l.id = t.last
            WHERE t.interception_id = ?
            UNION ALL
            SELECT l.id, l.before, l.part, c.depth + 1
            FROM chain c JOIN content_links l ON l.id = c.before
        )
        SELECT p.kind, p.size, p.content FROM chain c JOIN content_parts p ON p.id = c.part
        ORDER BY c.depth DESC
        """,
        (interception_id,),
    )
    return [StoredPart(*row) for row in found.fetchall()]


def results_by_turn(
    connection: Database, user_id: str, session_id: str
) -> Mapping[str, Sequence[ToldResult]]:
    """The results of tools that each request of a session was the first one to bring, by its id."""
    turns = connection.execute(
        """
        SELECT i.id, t.last FROM interceptions i JOIN content_turns t ON t.interception_id = i.id
        WHERE i.session_id = ? AND i.initiator_id = ? ORDER BY i.started_at, i.id
        """,
        (session_id, user_id),
    ).fetchall()
    if not turns:
        return {}
    links = connection.execute(
        """
        WITH RECURSIVE chain(id, before, part) AS (
            SELECT l.id, l.before, l.part
            FROM interceptions i
            JOIN content_turns t ON t.interception_id = i.id
            JOIN content_links l ON l.id = t.last
            WHERE i.session_id = ? AND i.initiator_id = ?
            UNION
            SELECT l.id, l.before, l.part FROM chain c JOIN content_links l ON l.id = c.before
        )
        SELECT c.id, c.before, c.part FROM chain c
        """,
        (session_id, user_id),
    ).fetchall()
    chain = {bytes(id): (_bytes(before), bytes(part)) for id, before, part in links}
    contents = _messages(connection, {part for _before, part in chain.values()})
    told: defaultdict[str, list[ToldResult]] = defaultdict(list)
    seen: set[bytes] = set()
    seen_parts: set[bytes] = set()
    for id, last in turns:
        new: list[bytes] = []
        at = bytes(last)
        while at in chain and at not in seen:
            seen.add(at)
            at, part = chain[at]
            new.append(part)
        for part in reversed(new):
            # After an edit of what was before, the rest comes again in other links.
            if part in seen_parts or part not in contents:
                continue
            seen_parts.add(part)
            if results := results_in(contents[part].encode()):
                told[id] += results
    return told


def _messages(connection: Database, names: Iterable[bytes]) -> dict[bytes, str]:
    found: dict[bytes, str] = {}
    for some in batches([*names], _AT_ONCE):
        rows = connection.execute(
            "SELECT id, content FROM content_parts"
            f" WHERE kind = 'message' AND id IN ({marks(some)})",
            some,
        )
        found |= {bytes(id): content for id, content in rows.fetchall()}
    return found


def _bytes(value: Any) -> bytes:
    return b"" if value is None else bytes(value)


# -- forgetting


def forget_chains(connection: Database, interception_ids: Sequence[str]) -> None:
    """Forget what these requests sent, as far as no other one did.  In the caller's transaction."""
    there = f"interception_id IN ({marks(interception_ids)})"
    found = connection.execute(f"SELECT last FROM content_turns WHERE {there}", interception_ids)
    ends = {bytes(last) for (last,) in found.fetchall()}
    if not ends:
        return
    connection.execute(f"DELETE FROM content_turns WHERE {there}", interception_ids)
    parts: set[bytes] = set()
    while ends:
        dead = [row for some in batches([*ends], _AT_ONCE) for row in _unnamed(connection, some)]
        gone = {bytes(id) for id, _before, _part in dead}
        for some in batches([*gone], _AT_ONCE):
            connection.execute(f"DELETE FROM content_links WHERE id IN ({marks(some)})", some)
        parts |= {bytes(part) for _id, _before, part in dead}
        # Where chains of several that went met, the rest of them may have to go too.
        ends = {_bytes(before) for _id, before, _part in dead} - gone - {b""}
    for some in batches([*parts], _AT_ONCE):
        connection.execute(
            f"DELETE FROM content_parts WHERE id IN ({marks(some)})"
            " AND NOT EXISTS (SELECT 1 FROM content_links l WHERE l.part = content_parts.id)",
            some,
        )


def _unnamed(connection: Database, ends: Sequence[bytes]) -> list[Row]:
    """Those of the links that nothing names, and those before them that only they name."""
    return connection.execute(
        f"""
        WITH RECURSIVE dead(id, before, part) AS (
            SELECT l.id, l.before, l.part FROM content_links l
            WHERE l.id IN ({marks(ends)})
                AND NOT EXISTS (SELECT 1 FROM content_turns t WHERE t.last = l.id)
                AND NOT EXISTS (SELECT 1 FROM content_links n WHERE n.before = l.id)
            UNION
            SELECT l.id, l.before, l.part
            FROM dead d JOIN content_links l ON l.id = d.before
            WHERE NOT EXISTS (SELECT 1 FROM content_turns t WHERE t.last = l.id)
                AND NOT EXISTS (
                    SELECT 1 FROM content_links n WHERE n.before = l.id AND n.id <> d.id
                )
        )
        SELECT id, before, part FROM dead
        """,
        ends,
    ).fetchall()
