"""Records of the embedded control plane one after the other, in an order that can be gone on with.

Requests come by when they began, and with each all its rows of one kind.  Only what will not change
any more is told: a request that has not ended stops the export in front of it, unless it is so
old that it never will.  So who goes on behind the last request misses nothing and has nothing
twice.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final, TypeAlias

from attrs import frozen

from aigateway.actors.control.local.schema import Database, marks
from aigateway.actors.values.records import timestamp

__all__ = ["COLUMNS", "WITHOUT_CONTENT", "Place", "Row", "export", "settled_until"]

_OF_REQUEST: Final = ("started_at", "interception_id", "username", "session_id")

_TABLES: Final[Mapping[str, tuple[str, tuple[str, ...]]]] = {
    "requests": (
        "interceptions",
        (
            "initiator_id", "api_key_id", "group_names", "project", "repository", "branch",
            "commit_hash", "agent_id", "parent_agent_id", "client", "client_session_id",
            "user_agent", "provider", "provider_name", "model", "credential_kind",
            "credential_hint", "correlating_tool_call_id", "ended_at", "error_type",
            "error_message", "metadata",
        ),
    ),
    "tokens": (
        "token_usages",
        (
            "created_at", "msg_id", "input_tokens", "output_tokens", "cache_read_input_tokens",
            "cache_write_input_tokens", "cost_nano_usd", "price", "price_table", "metadata",
        ),
    ),
    "prompts": ("user_prompts", ("created_at", "msg_id", "prompt", "metadata")),
    "tools": (
        "tool_usages",
        (
            "created_at", "msg_id", "tool_call_id", "item_id", "server_url", "tool", "input",
            "injected", "invocation_error", "metadata",
        ),
    ),
    "thoughts": ("model_thoughts", ("created_at", "content", "metadata")),
    "answers": ("model_answers", ("created_at", "msg_id", "content", "metadata")),
    "content": ("content_parts", ("place", "kind", "size", "content")),
    "caches": (
        "cache_turns",
        (
            "prompt_tokens", "kept_tokens", "read_tokens", "could_tokens", "lost_tokens", "cause",
            "place", "cost_nano_usd",
        ),
    ),
}  # fmt: skip

COLUMNS: Final[Mapping[str, tuple[str, ...]]] = {
    kind: (*_OF_REQUEST, *columns) for kind, (_table, columns) in _TABLES.items()
}
"""For each kind that there is, the names of what a row of it has, as in the tables."""

WITHOUT_CONTENT: Final = frozenset({"requests", "tokens", "caches"})
"""Kinds that have nothing of what users and models have said."""

_REQUESTS_AT_ONCE: Final = 500
"""Requests of one query, so that no reader stands in the way of a checkpoint for long."""

_NEVER_ENDS: Final = 86_400.0
"""Seconds after which a request without an end is taken as it is."""
_ARRIVES: Final = 120.0
"""Seconds that a request may take from its beginning to the database."""

Row: TypeAlias = tuple[Any, ...]


@frozen(order=True)
class Place:
    """A request in the order of the export."""

    started_at: str
    interception_id: str


def settled_until(connection: Database, now: float, kind: str = "requests") -> str:
    """Up to when all requests are as they will stay, as far as ``kind`` tells of them.  RFC 3339;
    ``now`` in Unix seconds."""
    unsettled = ["SELECT min(started_at) FROM interceptions WHERE ended_at IS NULL"]
    if kind == "caches":
        unsettled.append(
            "SELECT min(started_at) FROM cache_pending JOIN interceptions ON id = interception_id"
            " WHERE true"
        )
    until = [timestamp(now - _ARRIVES)]
    for statement in unsettled:
        row = connection.execute(
            f"{statement} AND started_at >= ?", (timestamp(now - _NEVER_ENDS),)
        ).fetchone()
        if row is not None and row[0] is not None:
            until.append(str(row[0]))
    return min(until)


def export(
    connection: Database,
    kind: str,
    *,
    until: str,
    since: str = "",
    at: Place | None = None,
) -> Iterator[Row]:
    """The rows of a kind (a key of :data:`COLUMNS`) of requests that began at ``since`` or later
    and before ``until``; with ``at`` from this request on, it included.

    Raises KeyError for another kind, and what the database raises.
    """
    table, columns = _TABLES[kind]
    place = at or Place(since, "")
    operator = ">="
    while True:
        found = connection.execute(
            "SELECT started_at, id FROM interceptions"
            f" WHERE started_at >= ? AND (started_at > ? OR id {operator} ?) AND started_at < ?"
            f" ORDER BY started_at, id LIMIT {_REQUESTS_AT_ONCE}",
            (place.started_at, place.started_at, place.interception_id, until),
        ).fetchall()
        if found:
            yield from _rows(connection, table, columns, [id for _started, id in found])
        if len(found) < _REQUESTS_AT_ONCE:
            return
        place, operator = Place(*found[-1]), ">"


def _rows(
    connection: Database, table: str, columns: tuple[str, ...], ids: list[str]
) -> Iterator[Row]:
    own = table == "interceptions"
    names = ", ".join(f"{'i' if own else 'r'}.{column}" for column in columns)
    join = "" if own else f"JOIN {table} r ON r.interception_id = i.id"
    order = ", r.place" if table == "content_parts" else ""
    if "created_at" in columns:
        order = ", r.created_at, length(r.record_id), r.record_id"
    yield from connection.execute(
        f"SELECT i.started_at, i.id, i.username, i.session_id, {names} FROM interceptions i {join}"
        f" WHERE i.id IN ({marks(ids)}) ORDER BY i.started_at, i.id{order}",
        ids,
    ).fetchall()
