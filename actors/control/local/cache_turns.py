"""Turns of sessions in the database, with what became of their prompts' caches.

Where the end of a turn is stored its checksums are only noted (:data:`PENDING_SQL`), a row that
costs a few microseconds.  They are compared afterwards: by the housekeeper, who keeps what comes
of it (:func:`compare_more`), and by who looks before that (:func:`compared_now`).  By then its
usage is known, and all that went before it is in the database, whichever process served it.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Final, TypeAlias

from aigateway.actors.control.local.cache_breaks import CacheTurn, Verdict, judge
from aigateway.actors.control.local.prices.cost import Pricing, Used
from aigateway.actors.control.local.schema import Database, batches, marks, moment_of, transaction
from aigateway.actors.values.frozen import frozen
from aigateway.actors.values.prompt_parts import PromptParts, decoded
from aigateway.actors.values.records import InterceptionEnded

__all__ = [
    "PENDING_SQL",
    "JudgedTurn",
    "compare_more",
    "compared_now",
    "pending",
    "pending_rows",
    "prompt_key",
]

Row: TypeAlias = tuple[Any, ...]

PENDING_SQL: Final = """
    INSERT INTO cache_pending (interception_id, parts) VALUES (?, ?)
    ON CONFLICT (interception_id) DO NOTHING
"""
_FIRST_SQL: Final = """
    SELECT interception_id, parts FROM cache_pending ORDER BY interception_id LIMIT ?
"""
_OF_SESSIONS_SQL: Final = """
    SELECT p.interception_id, p.parts
    FROM interceptions i JOIN cache_pending p ON p.interception_id = i.id
    WHERE i.session_id IN ({})
"""
_WORK_SQL: Final = """
    SELECT id, session_id, initiator_id, coalesce(agent_id, ''), started_at, model, provider,
           provider_name, credential_hint
    FROM interceptions WHERE id IN ({}) AND session_id IS NOT NULL ORDER BY started_at, id
"""
_TOKENS_SQL: Final = """
    SELECT interception_id, input_tokens, output_tokens, cache_read_input_tokens,
           cache_write_input_tokens, metadata, cost_nano_usd, created_at
    FROM token_usages WHERE interception_id IN ({})
    ORDER BY created_at, length(record_id), record_id
"""
_TURN_SQL: Final = f"""
    INSERT INTO cache_turns (
        interception_id, user_id, session_id, agent_id, began, model, provider_name,
        credential_hint, parts, ttl, prompt_tokens, kept_tokens, read_tokens, could_tokens,
        lost_tokens, cause, place, cost_nano_usd
    ) VALUES ({marks(range(18))})
    ON CONFLICT (interception_id) DO NOTHING
"""
_EARLIER_SQL: Final = """
    SELECT began, model, provider_name, credential_hint, parts, ttl, prompt_tokens, read_tokens,
           kept_tokens
    FROM cache_turns
    WHERE session_id = ? AND user_id = ? AND agent_id = ? AND began < ? AND parts IS NOT NULL
    ORDER BY began DESC LIMIT ?
"""
_BEFORE: Final = 8
"""Turns that one is held against: between two of a conversation its client may have asked for a
title and the like."""
_AT_ONCE: Final = 100
"""Turns of one step: some milliseconds."""
_LOOKED_AT: Final = 500
"""Of one query, for who looks at sessions."""

_STEP: Final = 128
"""OpenAI counts what it has cached in steps of so many tokens."""
_USUAL_TTL: Final = 300
"""Seconds of inactivity after which OpenAI's older models forget: 5 to 10 minutes."""
_WRITTEN_TTL: Final = 1800
"""Those whose writing to the cache is billed keep it for 30 minutes at least."""


def prompt_key(connection: Database) -> bytes:
    """What checksums of prompts' parts are keyed with here.  Raises what the database raises."""
    row = connection.execute("SELECT value FROM installation WHERE name = 'prompt_key'").fetchone()
    return b"" if row is None else bytes.fromhex(row[0])


def pending_rows(records: Iterable[object]) -> list[Row]:
    """For :data:`PENDING_SQL`, of each of ``records`` that ends a turn of a session."""
    return [
        (each.id, each.prompt_parts)
        for each in records
        if isinstance(each, InterceptionEnded) and each.prompt_parts
    ]


def pending(connection: Database) -> bool:
    """Whether there are turns that have not been compared.  Raises what the database raises."""
    return connection.execute("SELECT 1 FROM cache_pending LIMIT 1").fetchone() is not None


@frozen
class JudgedTurn:
    """A turn with what became of its cache."""

    id: str
    agent: tuple[str, str, str]
    """Session, user and agent; that one is empty for the session itself."""
    turn: CacheTurn
    parts: bytes
    verdict: Verdict
    cost: int | None
    """Nano-dollars that reading what was lost would have saved; None: nothing, or there is no
    price."""


def compare_more(connection: Database, pricing: Pricing | None) -> bool:
    """Compare some turns, and keep what comes of it; says whether there may be more.

    Raises what the database raises; then nothing was changed.
    """
    found = connection.execute(_FIRST_SQL, (_AT_ONCE,)).fetchall()
    if not found:
        return False
    # Nobody waits for the lock meanwhile.
    rows = [_row(each) for each in _judged(connection, found, pricing)]
    with transaction(connection):
        if rows:
            connection.executemany(_TURN_SQL, rows)
        ids = [id for id, _parts in found]
        connection.execute(
            f"DELETE FROM cache_pending WHERE interception_id IN ({marks(ids)})", ids
        )
    return len(found) == _AT_ONCE


def compared_now(connection: Database, sessions: Sequence[str]) -> list[JudgedTurn]:
    """The turns of some sessions that have not been compared yet; their costs are not worked out.

    To be asked before the others are read: what is compared meanwhile is then in both, and not in
    none.  Raises what the database raises.
    """
    if not pending(connection):
        return []
    found: list[Row] = []
    for some in batches(sessions, _LOOKED_AT):
        found += connection.execute(_OF_SESSIONS_SQL.format(marks(some)), some).fetchall()
    judged: list[JudgedTurn] = []
    for waiting in batches(found, _LOOKED_AT):
        judged += _judged(connection, waiting, None)
    return judged


def _judged(
    connection: Database, waiting: Sequence[Row], pricing: Pricing | None
) -> Iterator[JudgedTurn]:
    """Of interceptions with their checksums those that are turns of a session."""
    told = {id: bytes(parts) for id, parts in waiting}
    ids = list(told)
    tokens: defaultdict[str, list[Row]] = defaultdict(list)
    for row in connection.execute(_TOKENS_SQL.format(marks(ids)), ids).fetchall():
        tokens[row[0]].append(row)
    agents: defaultdict[tuple[str, str, str], list[_Work]] = defaultdict(list)
    for id, session, user, agent, *about in connection.execute(
        _WORK_SQL.format(marks(ids)), ids
    ).fetchall():
        if tokens[id]:
            agents[session, user, agent].append(_Work(id, *about))
    for who, several in agents.items():
        last = moment_of(several[-1].started_at)
        known = _earlier(connection, who, last, _BEFORE + len(several))
        for work in several:
            rows = tokens[work.id]
            used = _used(rows[0])
            parts = decoded(told[work.id])
            turn = None if parts is None else _turn(work, parts, used, _used(rows[-1]))
            if turn is None:
                continue
            earlier = [each for each in known if each.began < turn.began][-_BEFORE:]
            verdict = judge(turn, earlier)
            cost = _cost(rows[0], used, work, verdict, pricing)
            if not _has_cache(turn, earlier, cost):
                verdict, cost = Verdict(turn.read_tokens), None
            known.append(turn)
            known.sort(key=lambda each: each.began)
            yield JudgedTurn(work.id, who, turn, told[work.id], verdict, cost)


@frozen
class _Work:
    """What is stored of an interception."""

    id: str
    started_at: str
    model: str
    provider: str
    provider_name: str
    credential_hint: str


def _used(row: Row) -> Used:
    _id, given, made, read, written, metadata, _cost, _at = row
    return Used(given, made, read, written, {} if metadata == "{}" else json.loads(metadata))


def _turn(work: _Work, parts: PromptParts, first: Used, last: Used) -> CacheTurn | None:
    """``first`` and ``last`` are what its first and its last round used.

    None: nothing is known of what the provider read.
    """
    if not first.all_input:
        return None
    kept, ttl = last.cache_read_input_tokens + last.cache_write_input_tokens, parts.ttl
    if not parts.explicit:
        ttl = ttl or (_WRITTEN_TTL if last.cache_write_input_tokens else _USUAL_TTL)
        if not last.cache_write_input_tokens:
            kept = last.all_input // _STEP * _STEP
    return CacheTurn(
        began=moment_of(work.started_at),
        model=work.model,
        provider=work.provider_name,
        key=work.credential_hint,
        parts=parts,
        ttl=ttl,
        prompt_tokens=first.all_input,
        read_tokens=first.cache_read_input_tokens,
        kept_tokens=kept,
    )


def _has_cache(turn: CacheTurn, earlier: Iterable[CacheTurn], cost: int | None) -> bool:
    """Not all that speak OpenAI's APIs have a cache, or tell of one."""
    return turn.parts.explicit or bool(cost) or any(each.read_tokens for each in (turn, *earlier))


def _earlier(
    connection: Database, agent: tuple[str, str, str], before: float, most: int
) -> list[CacheTurn]:
    """The last turns of an agent that are kept, the latest last."""
    found = []
    for row in connection.execute(_EARLIER_SQL, (*agent, before, most)).fetchall():
        parts = decoded(bytes(row[4]))
        if parts is not None:
            found.append(
                CacheTurn(
                    began=row[0],
                    model=row[1],
                    provider=row[2],
                    key=row[3],
                    parts=parts,
                    ttl=row[5],
                    prompt_tokens=row[6],
                    read_tokens=row[7],
                    kept_tokens=row[8],
                )
            )
    return found[::-1]


def _cost(
    tokens: Row, used: Used, work: _Work, verdict: Verdict, pricing: Pricing | None
) -> int | None:
    """Nano-dollars that reading what was lost would have saved; None: there is no price."""
    paid = tokens[6]
    if not verdict.lost_tokens or pricing is None or paid is None:
        return None
    written = min(used.cache_write_input_tokens, verdict.lost_tokens)
    read = Used(
        max(used.input_tokens - (verdict.lost_tokens - written), 0),
        used.output_tokens,
        used.cache_read_input_tokens + verdict.lost_tokens,
        used.cache_write_input_tokens - written,
        used.metadata,
    )
    saved = pricing.cost(
        read,
        work.model,
        provider=work.provider,
        provider_name=work.provider_name,
        moment=moment_of(tokens[7]),
    ).nano_usd
    return None if saved is None else max(paid - saved, 0)


def _row(judged: JudgedTurn) -> Row:
    session, user, agent = judged.agent
    turn, verdict = judged.turn, judged.verdict
    return (
        judged.id,
        user,
        session,
        agent,
        turn.began,
        turn.model,
        turn.provider,
        turn.key,
        judged.parts,
        round(turn.ttl),
        turn.prompt_tokens,
        turn.kept_tokens,
        turn.read_tokens,
        verdict.could_tokens,
        verdict.lost_tokens,
        verdict.cause,
        verdict.place,
        judged.cost,
    )
