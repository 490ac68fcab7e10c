"""Sessions of the embedded control plane: which there are, and what each has come to.

They are found by their parts (:mod:`.session_parts`); what is told of those that are found is
summed up from their requests, so it is exact.
"""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from typing import Any, Final, TypeAlias

from attrs import field, frozen

from aigateway.actors.control.local.cache_turns import compared_now
from aigateway.actors.control.local.schema import Database, batches, marks
from aigateway.actors.control.local.session_parts import EXACT_ENOUGH
from aigateway.actors.values.records import timestamp

__all__ = [
    "NO_BREAKS",
    "NO_TOKENS",
    "CacheBreaks",
    "SessionFilter",
    "SessionKey",
    "SessionRow",
    "Tokens",
    "described",
    "find_sessions",
    "sessions_named",
    "tokens_by",
]

SessionKey: TypeAlias = tuple[str, str]
"""A user's id and a session's: only together are they one session."""

_PROMPT_SHOWN: Final = 300
"""Characters of the first prompt."""


@frozen(kw_only=True)
class SessionFilter:
    """Which sessions are wanted; None: whatever it is.  Times are Unix seconds."""

    user: str | None = None
    """A name or an id."""
    owner: str | None = None
    """The id of the user that they must be of, whatever else is wanted."""
    client: str | None = None
    model: str | None = None
    project: str | None = None
    repository: str | None = None
    branch: str | None = None
    since: float | None = None
    """Those with a request then or later."""
    until: float | None = None
    """Those that began before then."""

    def conditions(self) -> tuple[list[str], list[str]]:
        """What must hold of a row of ``session_parts``, and the values in it.

        Raises ValueError and OverflowError for a time outside of the calendar.
        """
        conditions, values = self._equal("", "user_id")
        if self.since is not None:
            # The exact time is looked at afterwards.
            conditions.append("last_at >= ?")
            values.append(timestamp(self.since - EXACT_ENOUGH))
        if self.until is not None:
            conditions.append("first_at < ?")
            values.append(timestamp(self.until))
        return conditions, values

    def request_conditions(self) -> tuple[list[str], list[str]]:
        """The same of a row of ``interceptions``, which is ``i``: what began in this time."""
        conditions, values = self._equal("i.", "initiator_id")
        for operator, moment in ((">=", self.since), ("<", self.until)):
            if moment is not None:
                conditions.append(f"i.started_at {operator} ?")
                values.append(timestamp(moment))
        return conditions, values

    def _equal(self, table: str, user_id: str) -> tuple[list[str], list[str]]:
        conditions, values = [], []
        for column in ("client", "model", "project", "repository", "branch"):
            if (wanted := getattr(self, column)) is not None:
                conditions.append(f"{table}{column} = ?")
                values.append(wanted)
        if self.user is not None:
            conditions.append(f"({table}username = ? OR {table}{user_id} = ?)")
            values += [self.user, self.user]
        if self.owner is not None:
            conditions.append(f"{table}{user_id} = ?")
            values.append(self.owner)
        return conditions, values


@frozen
class Tokens:
    """What was billed, as far as it has been recorded."""

    input_tokens: int = 0
    output_tokens: int = 0
    cache_read_input_tokens: int = 0
    cache_write_input_tokens: int = 0
    cost_nano_usd: int | None = 0
    """``None``: there are token records, and none of them has a price."""
    unpriced: int = 0
    """Token records without a cost: they are in no sum of costs."""


NO_TOKENS: Final = Tokens()


@frozen
class CacheBreaks:
    """How often a session's turns found less in the provider's cache than was there before."""

    breaks: int = 0
    lost_tokens: int = 0
    cost_nano_usd: int | None = 0
    """What that cost, as far as there are prices; ``None``: there is none for any of it."""
    causes: tuple[tuple[str, int], ...] = ()
    """Each cause (:data:`~.cache_breaks.CAUSES`) with how often, the most frequent first."""


NO_BREAKS: Final = CacheBreaks()


@frozen(kw_only=True)
class SessionRow:
    """One session.  What it had several of stands in the order in which it came."""

    session_id: str
    user_id: str
    username: str
    clients: tuple[str, ...]
    models: tuple[str, ...]
    projects: tuple[str, ...]
    repositories: tuple[str, ...]
    branches: tuple[str, ...]
    started_at: str
    """RFC 3339 in UTC, as all times here."""
    last_at: str
    """When its last request began or ended."""
    requests: int
    errors: int
    """Requests that ended with an error."""
    agents: int
    """Subagents."""
    tokens: Tokens
    cache: CacheBreaks = NO_BREAKS
    prompt: str = field(default="", repr=False)
    """The beginning of the first thing that somebody typed."""


def find_sessions(
    connection: Database, wanted: SessionFilter, limit: int | None = None
) -> list[SessionRow]:
    """The sessions that have a part as ``wanted``, the latest first, ``limit`` at most.

    Raises ValueError and OverflowError for a time outside of the calendar, and what the database
    raises.
    """
    conditions, values = wanted.conditions()
    where = f"WHERE {' AND '.join(conditions)}" if conditions else ""
    keys = None
    if limit is not None and wanted in (SessionFilter(), SessionFilter(since=wanted.since)):
        keys = _latest(connection, where, values, limit)
    if keys is None:
        statement = f"""
            SELECT user_id, session_id, max(last_at) AS last FROM session_parts {where}
            GROUP BY user_id, session_id ORDER BY last DESC, session_id, user_id
        """
        if limit is not None:
            statement += f" LIMIT {int(limit)}"
        keys = [(row[0], row[1]) for row in connection.execute(statement, values).fetchall()]
    rows = described(connection, keys)
    if wanted.since is not None:
        since = timestamp(wanted.since)
        rows = [row for row in rows if row.last_at >= since]
    return rows


def _latest(
    connection: Database, where: str, values: Sequence[str], limit: int
) -> list[SessionKey] | None:
    """The last ``limit`` sessions, if few parts by their time tell them all."""
    # PERF: there is an index for this; all parts need not be looked at.
    parts = 4 * limit
    rows = connection.execute(
        f"SELECT user_id, session_id FROM session_parts {where}"
        f" ORDER BY last_at DESC LIMIT {int(parts)}",
        values,
    ).fetchall()
    keys = list(dict.fromkeys((user, session) for user, session in rows))
    return keys[:limit] if len(keys) >= limit or len(rows) < parts else None


def sessions_named(
    connection: Database, session_id: str, user: str | None = None
) -> list[SessionRow]:
    """The sessions with this id: one for each user that has one, or that of ``user`` alone."""
    values = [session_id]
    condition = "session_id = ?"
    if user is not None:
        condition += " AND (username = ? OR user_id = ?)"
        values += [user, user]
    statement = f"SELECT DISTINCT user_id, session_id FROM session_parts WHERE {condition}"
    return described(connection, connection.execute(statement, values).fetchall())


_AT_ONCE: Final = 500
"""Sessions of one query: SQLite takes 999 values in older versions."""


def described(connection: Database, keys: Sequence[Iterable[Any]]) -> list[SessionRow]:
    """What there is to say of each of these sessions, the latest first.  One without any request
    (they were deleted) is left out."""
    wanted = {(user, session) for user, session in keys}
    ids = list(dict.fromkeys(session for _user, session in wanted))
    rows: list[SessionRow] = []
    for some in batches(ids, _AT_ONCE):
        rows += _described(connection, wanted, some)
    rows.sort(key=lambda row: (row.last_at, row.session_id, row.user_id), reverse=True)
    return rows


def _described(
    connection: Database, wanted: set[SessionKey], ids: Sequence[str]
) -> Iterable[SessionRow]:
    tokens = tokens_by(connection, "i.initiator_id, i.session_id", ids)
    parts = _parts(connection, ids)
    prompts = _first_prompts(connection, ids)
    breaks = _breaks(connection, ids)
    found = connection.execute(
        f"""
        SELECT initiator_id, session_id, max(username), min(started_at), max(started_at),
               max(ended_at), count(*), count(error_type), count(DISTINCT agent_id)
        FROM interceptions WHERE session_id IN ({marks(ids)})
        GROUP BY initiator_id, session_id
        """,
        ids,
    )
    for user, session, username, first, last, ended, requests, errors, agents in found.fetchall():
        key = (user, session)
        if key not in wanted:
            continue
        clients, models, projects, repositories, branches = parts.get(key, ((),) * 5)
        yield SessionRow(
            session_id=session,
            user_id=user,
            username=username,
            clients=clients,
            models=models,
            projects=projects,
            repositories=repositories,
            branches=branches,
            started_at=first,
            last_at=max(last, ended or ""),
            requests=requests,
            errors=errors,
            agents=agents,
            tokens=tokens.get(key, NO_TOKENS),
            cache=breaks.get(key, NO_BREAKS),
            prompt=prompts.get(key, ""),
        )


def tokens_by(
    connection: Database, columns: str, sessions: Sequence[str]
) -> dict[tuple[Any, ...], Tokens]:
    """The tokens of all requests of ``sessions`` (ids), summed up by ``columns`` of
    ``interceptions``, which is ``i``."""
    # PostgreSQL adds whole numbers up to a numeric, which is no int in Python.
    sums = ", ".join(
        f"CAST(sum({column}) AS BIGINT)"
        for column in (
            "t.input_tokens",
            "t.output_tokens",
            "t.cache_read_input_tokens",
            "t.cache_write_input_tokens",
            "t.cost_nano_usd",
        )
    )
    found = connection.execute(
        f"""
        SELECT {columns}, {sums}, count(*) - count(t.cost_nano_usd)
        FROM interceptions i JOIN token_usages t ON t.interception_id = i.id
        WHERE i.session_id IN ({marks(sessions)}) GROUP BY {columns}
        """,
        sessions,
    )
    return {tuple(row[:-6]): Tokens(*row[-6:]) for row in found.fetchall()}


def _breaks(connection: Database, ids: Sequence[str]) -> dict[SessionKey, CacheBreaks]:
    found = connection.execute(
        f"""
        SELECT user_id, session_id, cause, count(*), CAST(sum(lost_tokens) AS BIGINT),
               CAST(sum(cost_nano_usd) AS BIGINT)
        FROM cache_turns WHERE session_id IN ({marks(ids)}) AND cause IS NOT NULL
        GROUP BY user_id, session_id, cause
        """,
        ids,
    ).fetchall()
    # Behind the others: what is compared at this moment is not counted twice, but by the next look.
    for each in compared_now(connection, ids):
        if each.verdict.cause is not None:
            session, user, _agent = each.agent
            found.append((user, session, each.verdict.cause, 1, each.verdict.lost_tokens, None))
    of: defaultdict[SessionKey, list[tuple[str, int, int, int | None]]] = defaultdict(list)
    for user, session, *about in found:
        of[user, session].append((about[0], about[1], about[2], about[3]))
    return {key: _summed(about) for key, about in of.items()}


def _summed(breaks: Sequence[tuple[str, int, int, int | None]]) -> CacheBreaks:
    """Of one session: causes with how often, tokens lost, and their cost."""
    causes: Counter[str] = Counter()
    for cause, times, _lost, _cost in breaks:
        causes[cause] += times
    priced = [cost for *_, cost in breaks if cost is not None]
    return CacheBreaks(
        causes.total(),
        sum(lost for _cause, _times, lost, _cost in breaks),
        sum(priced) if priced else None,
        tuple(sorted(causes.items(), key=lambda each: (-each[1], each[0]))),
    )


def _parts(
    connection: Database, ids: Sequence[str]
) -> dict[SessionKey, tuple[tuple[str, ...], ...]]:
    found = connection.execute(
        f"""
        SELECT user_id, session_id, client, model, project, repository, branch
        FROM session_parts WHERE session_id IN ({marks(ids)}) ORDER BY first_at, id
        """,
        ids,
    )
    seen: defaultdict[SessionKey, tuple[dict[str, None], ...]] = defaultdict(
        lambda: ({}, {}, {}, {}, {})
    )
    for user, session, *values in found.fetchall():
        for several, value in zip(seen[user, session], values, strict=True):
            if value is not None:
                several[value] = None
    return {key: tuple(map(tuple, several)) for key, several in seen.items()}


def _first_prompts(connection: Database, ids: Sequence[str]) -> dict[SessionKey, str]:
    """What somebody typed first; what a client said for itself only where there is nothing else."""
    found = connection.execute(
        f"""
        SELECT i.initiator_id, i.session_id, substr(p.prompt, 1, {_PROMPT_SHOWN}), p.metadata
        FROM interceptions i JOIN user_prompts p ON p.interception_id = i.id
        WHERE i.session_id IN ({marks(ids)}) ORDER BY i.started_at, i.id
        """,
        ids,
    )
    typed: dict[SessionKey, str] = {}
    others: dict[SessionKey, str] = {}
    for user, session, prompt, metadata in found.fetchall():
        key = (user, session)
        if key in typed:
            continue
        kind = json.loads(metadata).get("prompt_kind") if metadata != "{}" else None
        if kind in (None, "user"):
            typed[key] = prompt
        else:
            others.setdefault(key, prompt)
    return {**others, **typed}
