"""Who used what: sums over the records of the embedded control plane."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from attrs import frozen

from aigateway.actors.control.local.people import unmistakable_name
from aigateway.actors.control.local.schema import Database
from aigateway.actors.control.local.usage_sums import COUNTS, Span, summed
from aigateway.actors.values.records import timestamp

__all__ = ["GROUPS", "UsageRow", "usage_by", "usage_total"]

GROUPS = {
    "user": "username",
    "group": "group_names",
    "project": "project",
    "key": "api_key_id",
    "provider": "provider_name",
    "model": "model",
    "client": "client",
    "repository": "repository",
    "branch": "branch",
    "day": "day",
}
"""What usage can be grouped by, and the column; empty is what nobody told.  Days are UTC days.
What somebody uses who is in several groups is of these together, or sums would count it twice."""


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
    priced: int
    """Token records with a cost."""
    unpriced: int
    """Token records without a cost: they are in no sum of costs."""
    unpriced_tokens: int
    """Tokens of all kinds of these."""

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
    only: Mapping[str, str] | None = None,
    owner: str | None = None,
) -> list[UsageRow]:
    """Sum up the interceptions that started at ``since`` or later and before ``until``.

    ``by`` holds keys of :data:`GROUPS`, times are Unix seconds.  Days come in their order,
    other groups with the most tokens first; ``limit`` keeps the first rows, or with ``day``
    first in ``by`` the last ones, which are the newest.  ``only`` narrows it to what has these
    values, by names of :data:`GROUPS`, ``owner`` to what the user with this id has used.  Records
    of an interception that is not in the database are left out.  Raises ValueError, and what the
    database raises.
    """
    if not by:
        raise ValueError("nothing to group by")
    unknown = [name for name in by if name not in GROUPS]
    if unknown:
        raise ValueError(f"cannot group by {unknown[0]}: choose from {', '.join(GROUPS)}")
    columns = [GROUPS[name] for name in by]
    narrowed = {GROUPS[name]: value for name, value in (only or {}).items()}
    rows = [
        _usage_row(tuple(row[: len(by)]), row[len(by) :])
        for row in _summed(connection, columns, _span(since, until), narrowed, owner)
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
    rows = summed(connection, (), _span(since, until))
    return _usage_row((), rows[0] if rows else (0,) * len(COUNTS))


def _summed(
    connection: Database,
    columns: Sequence[str],
    span: Span,
    only: Mapping[str, str],
    owner: str | None,
) -> list[tuple[Any, ...]]:
    if owner is None:
        return summed(connection, columns, span, only)
    # Sums are kept by name, which several users may have.
    name = unmistakable_name(connection, owner)
    if name is None:
        return summed(connection, columns, span, only, owner=owner)
    if only.get("username", name) != name:
        return []
    return summed(connection, columns, span, {**only, "username": name})


def _span(since: float | None, until: float | None) -> Span:
    return Span(*(None if moment is None else timestamp(moment) for moment in (since, until)))


def _usage_row(group: tuple[str, ...], sums: Sequence[int]) -> UsageRow:
    (
        interceptions, errors, given, made, cache_read, cache_write, prompts, tool_calls,
        cost, priced, unpriced, unpriced_tokens,
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
        priced=priced,
        unpriced=unpriced,
        unpriced_tokens=unpriced_tokens,
    )
