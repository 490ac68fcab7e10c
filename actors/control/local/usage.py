"""Who used what: sums over the records of the embedded control plane."""

from __future__ import annotations

from collections.abc import Sequence

from attrs import frozen

from aigateway.actors.control.local.schema import Database, timestamp

__all__ = ["GROUPS", "UsageRow", "usage_by", "usage_total"]

GROUPS = {
    "user": "username",
    "group": "group_names",
    "project": "project",
    "key": "api_key_id",
    "provider": "provider_name",
    "model": "model",
    "client": "client",
    "repository": "coalesce(repository, '')",
    "branch": "coalesce(branch, '')",
    "day": "substr(started_at, 1, 10)",
}
"""What usage can be grouped by, and the SQL for it; empty is what nobody told.  Days are UTC days.
What somebody uses who is in several groups is of these together, or sums would count it twice."""


_SUMMED = (
    "interceptions",
    "errors",
    "input_tokens",
    "output_tokens",
    "cache_read",
    "cache_write",
    "prompts",
    "tool_calls",
    "cost",
    "priced",
    "unpriced",
)


@frozen
class UsageRow:
    """The sums of one group.  ``group`` has one text for each name that was grouped by."""

    group: tuple[str, ...]
    interceptions: int
    errors: int
    """Interceptions that ended with an error."""
    input_tokens: int
    output_tokens: int
    cache_read_input_tokens: int
    cache_write_input_tokens: int
    prompts: int
    tool_calls: int
    cost_nano_usd: int | None
    """What those token records cost that have a price; ``None``: there are some, and none has."""
    unpriced: int
    """Token records without a cost: they are in no sum of costs."""

    @property
    def tokens(self) -> int:
        """All tokens of the four kinds."""
        return (
            self.input_tokens
            + self.output_tokens
            + self.cache_read_input_tokens
            + self.cache_write_input_tokens
        )


def usage_by(
    connection: Database,
    by: Sequence[str],
    *,
    since: float | None = None,
    until: float | None = None,
    limit: int | None = None,
) -> list[UsageRow]:
    """Sum up the interceptions that started at ``since`` or later and before ``until``.

    ``by`` holds keys of :data:`GROUPS`, times are Unix seconds.  Days come in their order,
    other groups with the most tokens first; ``limit`` keeps the first rows, or with ``day``
    first in ``by`` the last ones, which are the newest.  Records of an interception that is
    not in the database are left out.  Raises ValueError, and what the database raises.
    """
    if not by:
        raise ValueError("nothing to group by")
    unknown = [name for name in by if name not in GROUPS]
    if unknown:
        raise ValueError(f"cannot group by {unknown[0]}: choose from {', '.join(GROUPS)}")
    rows = [
        _usage_row(tuple(row[: len(by)]), row[len(by) :])
        for row in connection.execute(*_query([GROUPS[name] for name in by], since, until))
    ]
    if by[0] == "day":
        rows.sort(key=lambda row: (row.group[0], -row.tokens, row.group))
        return rows if limit is None else rows[max(0, len(rows) - limit) :]
    rows.sort(key=lambda row: (-row.tokens, -row.interceptions, row.group))
    return rows[:limit]


def usage_total(
    connection: Database, *, since: float | None = None, until: float | None = None
) -> UsageRow:
    """Like :func:`usage_by`, with everything in one group without a name."""
    rows = connection.execute(*_query(["CAST('' AS TEXT)"], since, until)).fetchall()
    return _usage_row((), rows[0][1:] if rows else (0,) * len(_SUMMED))


def _usage_row(group: tuple[str, ...], sums: Sequence[int]) -> UsageRow:
    (
        interceptions, errors, given, made, cache_read, cache_write, prompts, tool_calls,
        cost, priced, unpriced,
    ) = sums  # fmt: skip
    return UsageRow(
        group=group,
        interceptions=interceptions,
        errors=errors,
        input_tokens=given,
        output_tokens=made,
        cache_read_input_tokens=cache_read,
        cache_write_input_tokens=cache_write,
        prompts=prompts,
        tool_calls=tool_calls,
        cost_nano_usd=cost if priced or not unpriced else None,
        unpriced=unpriced,
    )


def _query(
    expressions: Sequence[str], since: float | None, until: float | None
) -> tuple[str, list[str]]:
    """The tables are put below each other, not joined with each other: a join of several would
    count every row as often as the others have rows."""
    conditions, times = [], []
    for operator, moment in ((">=", since), ("<", until)):
        if moment is not None:
            conditions.append(f"started_at {operator} ?")
            times.append(timestamp(moment))
    where = f"WHERE {' AND '.join(conditions)}" if conditions else ""
    groups = ", ".join(f"{sql} AS group_{number}" for number, sql in enumerate(expressions))
    names = ", ".join(f"group_{number}" for number in range(len(expressions)))
    # PostgreSQL adds whole numbers up to a numeric, which is no int in Python.
    sums = ", ".join(f"CAST(sum({column}) AS BIGINT)" for column in _SUMMED)
    # The names come from GROUPS, never from a user.
    query = f"""
        WITH chosen AS (SELECT id, error_type, {groups} FROM interceptions {where}),
        spent AS (
            SELECT {names}, 0 AS interceptions, 0 AS errors,
                   input_tokens, output_tokens,
                   cache_read_input_tokens AS cache_read, cache_write_input_tokens AS cache_write,
                   0 AS prompts, 0 AS tool_calls,
                   coalesce(cost_nano_usd, 0) AS cost,
                   CASE WHEN cost_nano_usd IS NULL THEN 0 ELSE 1 END AS priced,
                   CASE WHEN cost_nano_usd IS NULL THEN 1 ELSE 0 END AS unpriced
            FROM chosen JOIN token_usages ON interception_id = id
            UNION ALL
            SELECT {names}, 1, CASE WHEN error_type IS NULL THEN 0 ELSE 1 END,
                   0, 0, 0, 0, 0, 0, 0, 0, 0
            FROM chosen
            UNION ALL
            SELECT {names}, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0
            FROM chosen JOIN user_prompts ON interception_id = id
            UNION ALL
            SELECT {names}, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0
            FROM chosen JOIN tool_usages ON interception_id = id
        )
        SELECT {names}, {sums}
        FROM spent GROUP BY {names}
    """
    return query, times
