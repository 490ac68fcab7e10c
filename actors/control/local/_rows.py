"""How each record type becomes a row of the embedded database."""

from __future__ import annotations

import json
import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeAlias

import msgspec

from aigateway.actors.control.local.content import CONTENT_SQL, content_rows
from aigateway.actors.control.local.costs import PricedTokens, StoredRecord
from aigateway.actors.control.local.schema import marks
from aigateway.actors.values.records import (
    InterceptionBegun,
    InterceptionEnded,
    ModelAnswer,
    ModelThought,
    PromptUsage,
    SentContent,
    TokenUsage,
    ToolUsage,
    UsageRecord,
    timestamp,
)

__all__ = [
    "END_SQL",
    "START_SQL",
    "Row",
    "end_row",
    "end_updates",
    "grouped",
    "insertions",
    "merged",
    "start_row",
    "without_nul",
    "without_surrogates",
]

Row: TypeAlias = tuple[object, ...]

# A record that was stored before is left as it is.
START_SQL = """
    INSERT INTO interceptions (
        id, initiator_id, username, api_key_id, provider, provider_name, model, client,
        client_session_id, user_agent, correlating_tool_call_id, credential_kind,
        credential_hint, metadata, started_at, group_names, project, session_id, agent_id,
        parent_agent_id, repository, branch, commit_hash
    ) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
    ON CONFLICT (id) DO NOTHING
"""

END_SQL = """
    UPDATE interceptions
    SET ended_at = ?, error_type = ?, error_message = ?,
        credential_hint = coalesce(nullif(?, ''), credential_hint),
        provider_name = coalesce(?, provider_name),
        metadata = json_patch(metadata, ?)
    WHERE id = ?
"""

# PERF: of an answer that nothing is to be said of; half the time of the other, with which SQLite
# looks at each column that sums are made of (see the triggers), and reads and writes JSON.
_PLAIN_END_SQL = """
    UPDATE interceptions
    SET ended_at = ?, credential_hint = coalesce(nullif(?, ''), credential_hint)
    WHERE id = ?
"""


def _insert(table: str, *columns: str) -> str:
    # Columns by their names: a later schema may have more.
    names = ("interception_id", *columns, "metadata", "created_at", "record_id")
    return (
        f"INSERT INTO {table} ({', '.join(names)}) VALUES ({marks(names)})"
        " ON CONFLICT (interception_id, record_id) DO NOTHING"
    )


def _json(metadata: Mapping[str, object]) -> str:
    if not metadata:
        return "{}"
    try:
        return msgspec.json.encode(metadata).decode()
    except UnicodeEncodeError:
        # Escapes what UTF-8 cannot hold, which msgspec never does.
        return json.dumps(metadata)


def start_row(record: InterceptionBegun) -> Row:
    metadata = record.metadata
    extra = {
        name: value
        for name, value in (
            ("workspace_id", record.workspace_id),
            ("agent_firewall_session_id", record.agent_firewall_session_id),
            ("agent_firewall_sequence_number", record.agent_firewall_sequence_number),
        )
        if value is not None and value != ""
    }
    if extra:
        metadata = {**extra, **metadata}
    work = record.attribution
    return (
        record.id,
        record.initiator_id,
        record.username,
        record.api_key_id,
        record.provider,
        record.provider_name or record.provider,
        record.model,
        record.client,
        record.client_session_id,
        record.user_agent,
        record.correlating_tool_call_id,
        record.credential_kind,
        record.credential_hint,
        _json(metadata),
        timestamp(record.started_at),
        record.group_names or "",
        work.project or "",
        work.session_id,
        work.agent_id,
        work.parent_agent_id,
        work.repository,
        work.branch,
        work.commit,
    )


def end_row(record: InterceptionEnded) -> Row:
    return (
        timestamp(record.ended_at),
        record.error_type,
        record.error_message,
        record.credential_hint,
        record.provider_name,
        _json(record.metadata),
        record.id,
    )


def end_updates(ends: Iterable[Row]) -> Iterable[tuple[str, list[Row]]]:
    """The rows of :func:`end_row` by the statement of SQLite's that stores them."""
    plain: list[Row] = []
    others: list[Row] = []
    for row in ends:
        ended_at, error_type, error_message, hint, provider_name, metadata, id = row
        if (
            metadata == "{}"
            and error_type is None
            and error_message is None
            and provider_name is None
        ):
            plain.append((ended_at, hint, id))
        else:
            others.append(row)
    return [(sql, rows) for sql, rows in ((_PLAIN_END_SQL, plain), (END_SQL, others)) if rows]


def _token_row(record: TokenUsage, *cost: object) -> Row:
    metadata = record.metadata
    if record.extra_token_types:
        metadata = {**metadata, **record.extra_token_types}
    return (
        record.interception_id,
        record.msg_id,
        record.input_tokens,
        record.output_tokens,
        record.cache_read_input_tokens,
        record.cache_write_input_tokens,
        *cost,
        _json(metadata),
        timestamp(record.created_at),
        record.record_id or None,
    )


def _priced_row(priced: PricedTokens) -> Row:
    cost = priced.cost
    return _token_row(priced.record, cost.nano_usd, cost.price, cost.table)


def _prompt_row(record: PromptUsage) -> Row:
    return (
        record.interception_id,
        record.msg_id,
        record.prompt,
        _json(record.metadata),
        timestamp(record.created_at),
        record.record_id or None,
    )


def _tool_row(record: ToolUsage) -> Row:
    return (
        record.interception_id,
        record.msg_id,
        record.tool_call_id,
        record.item_id,
        record.server_url,
        record.tool,
        record.input,
        int(record.injected),
        record.invocation_error,
        _json(record.metadata),
        timestamp(record.created_at),
        record.record_id or None,
    )


def _thought_row(record: ModelThought) -> Row:
    return (
        record.interception_id,
        record.content,
        _json(record.metadata),
        timestamp(record.created_at),
        record.record_id or None,
    )


def _answer_row(record: ModelAnswer) -> Row:
    return (
        record.interception_id,
        record.msg_id,
        record.content,
        _json(record.metadata),
        timestamp(record.created_at),
        record.record_id or None,
    )


_COUNTS = (
    "msg_id",
    "input_tokens",
    "output_tokens",
    "cache_read_input_tokens",
    "cache_write_input_tokens",
)
_COST = ("cost_nano_usd", "price", "price_table")
_TOOL = _insert(
    "tool_usages",
    "msg_id",
    "tool_call_id",
    "item_id",
    "server_url",
    "tool",
    "input",
    "injected",
    "invocation_error",
)

_INSERTS: Mapping[type, tuple[str, Callable[[Any], Row]]] = {
    TokenUsage: (_insert("token_usages", *_COUNTS), _token_row),
    PricedTokens: (_insert("token_usages", *_COUNTS, *_COST), _priced_row),
    PromptUsage: (_insert("user_prompts", "msg_id", "prompt"), _prompt_row),
    ToolUsage: (_TOOL, _tool_row),
    ModelThought: (_insert("model_thoughts", "content"), _thought_row),
    ModelAnswer: (_insert("model_answers", "msg_id", "content"), _answer_row),
}
"""For each usage record type but that of content, the statement that stores it and what makes its
row."""


def insertions(record: UsageRecord | PricedTokens) -> Iterable[tuple[str, Row]]:
    """The statements that store a usage record, mostly one, and their rows."""
    if isinstance(record, SentContent):
        return content_rows(record)
    statement, row = _INSERTS[type(record)]
    return ((statement, row(record)),)


def grouped(records: Iterable[StoredRecord]) -> tuple[Mapping[str, list[Row]], list[Row]]:
    """The rows of usage records by the statement that stores them, and those of ends."""
    tables: defaultdict[str, list[Row]] = defaultdict(list)
    ends: list[Row] = []
    for record in records:
        # PERF: of nearly all records one row is made; asked by what it is, they take half the time.
        if (made := _INSERTS.get(type(record))) is not None:
            tables[made[0]].append(made[1](record))
        elif isinstance(record, InterceptionEnded):
            ends.append(end_row(record))
        else:
            for statement, row in insertions(record):
                tables[statement].append(row)
    for statement in CONTENT_SQL:
        # Several gateways may store the same parts at a time: in one order, or they would wait for
        # each other.
        if statement in tables:
            tables[statement] = sorted(tables.pop(statement), key=_first)
    return tables, ends


def _first(row: Row) -> Any:
    return row[0]


_SURROGATES = re.compile("[\ud800-\udfff]")


def without_surrogates(row: Row) -> Row:
    """The row with lone surrogates (legal in JSON, not in UTF-8) as U+FFFD."""
    return tuple(
        _SURROGATES.sub("\ufffd", value) if isinstance(value, str) else value for value in row
    )


def without_nul(row: Row) -> Row:
    """The row with NUL, which no text of PostgreSQL may hold, as U+FFFD."""
    return tuple(
        value.replace("\0", "\ufffd") if isinstance(value, str) else value for value in row
    )


def merged(stored: str, added: str) -> str:
    """One JSON object with another put over it as SQLite's json_patch does it (RFC 7396)."""
    if stored == "{}":
        return added
    return _json(_patched(json.loads(stored), json.loads(added)))


def _patched(target: Any, patch: Any) -> Any:
    if not isinstance(patch, dict):
        return patch
    result = dict(target) if isinstance(target, dict) else {}
    for name, value in patch.items():
        if value is None:
            result.pop(name, None)
        else:
            result[name] = _patched(result.get(name), value)
    return result
