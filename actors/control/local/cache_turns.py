"""Turns of sessions in the database, with what became of their prompts' caches.

A turn is compared when its end is stored: then its usage is known, and all that went before it is
in the database, whichever process served it.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final, TypeAlias

from aigateway.actors.control.local.cache_breaks import CacheTurn, Verdict, judge
from aigateway.actors.control.local.costs import Asked, PricedTokens, StoredRecord
from aigateway.actors.control.local.prices.cost import Pricing, Used
from aigateway.actors.control.local.schema import Database, marks
from aigateway.actors.values.prompt_parts import PromptParts, decoded
from aigateway.actors.values.records import Interception, InterceptionEnded, TokenUsage

__all__ = ["TURN_SQL", "prompt_key", "turn_rows"]

Row: TypeAlias = tuple[Any, ...]

TURN_SQL: Final = f"""
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
    ORDER BY began DESC LIMIT 8
"""
# Between two turns of a conversation its client may have asked for a title and the like.

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


def turn_rows(
    connection: Database,
    starts: Sequence[Interception],
    records: Sequence[StoredRecord],
    asked: Callable[[Sequence[str]], Iterable[tuple[str, Asked]]],
    pricing: Pricing | None,
) -> list[Row]:
    """For each of ``records`` that ends a turn of a session, its row.

    ``asked`` looks up what was asked for by interceptions that are not among ``starts``.  Raises
    what the database raises.
    """
    ends = {
        each.id: each
        for each in records
        if isinstance(each, InterceptionEnded) and each.prompt_parts
    }
    if not ends:
        return []
    tokens: defaultdict[str, list[TokenUsage | PricedTokens]] = defaultdict(list)
    for record in records:
        if isinstance(record, TokenUsage | PricedTokens):
            id = _record(record).interception_id
            if id in ends:
                tokens[id].append(record)
    begun = {each.id: Asked.by(each) for each in starts if each.id in tokens}
    begun.update(asked(sorted(tokens.keys() - begun.keys())))
    known = {id: each for id, each in begun.items() if each.session_id is not None}
    rows: list[Row] = []
    new: defaultdict[tuple[str, ...], list[CacheTurn]] = defaultdict(list)
    for id in sorted(known, key=lambda id: known[id].began):
        work, end = known[id], ends[id]
        parts = decoded(end.prompt_parts)
        if parts is None:
            continue
        turn = _turn(work, end, parts, [_record(each) for each in tokens[id]])
        if turn is None:
            continue
        agent = (work.session_id or "", work.user_id, work.agent_id or "")
        earlier = [*_earlier(connection, agent, work.began), *new[agent]]
        new[agent].append(turn)
        verdict = judge(turn, earlier)
        cost = _cost(tokens[id][0], work, verdict, pricing)
        if (
            not parts.explicit
            and not cost
            and not any(each.read_tokens for each in (turn, *earlier))
        ):
            # Not all that speak OpenAI's APIs have a cache, or tell of one.
            verdict, cost = Verdict(turn.read_tokens), None
        rows.append(_row(id, agent, turn, end.prompt_parts, verdict, cost))
    return rows


def _record(tokens: TokenUsage | PricedTokens) -> TokenUsage:
    return tokens.record if isinstance(tokens, PricedTokens) else tokens


def _turn(
    work: Asked, end: InterceptionEnded, parts: PromptParts, tokens: Sequence[TokenUsage]
) -> CacheTurn | None:
    """None: nothing is known of what the provider read."""
    first, last = Used.of(tokens[0]), Used.of(tokens[-1])
    if not first.all_input:
        return None
    kept, ttl = last.cache_read_input_tokens + last.cache_write_input_tokens, parts.ttl
    if not parts.explicit:
        ttl = ttl or (_WRITTEN_TTL if last.cache_write_input_tokens else _USUAL_TTL)
        if not last.cache_write_input_tokens:
            kept = last.all_input // _STEP * _STEP
    return CacheTurn(
        began=work.began,
        model=work.model,
        provider=end.provider_name or work.provider_name,
        key=end.credential_hint,
        parts=parts,
        ttl=ttl,
        prompt_tokens=first.all_input,
        read_tokens=first.cache_read_input_tokens,
        kept_tokens=kept,
    )


def _earlier(connection: Database, agent: tuple[str, ...], began: float) -> list[CacheTurn]:
    found = []
    for row in connection.execute(_EARLIER_SQL, (*agent, began)).fetchall():
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
    return found


def _cost(
    tokens: TokenUsage | PricedTokens, work: Asked, verdict: Verdict, pricing: Pricing | None
) -> int | None:
    """Nano-dollars that reading what was lost would have saved; None: there is no price."""
    if not verdict.lost_tokens or pricing is None or not isinstance(tokens, PricedTokens):
        return None
    record, paid = tokens.record, tokens.cost.nano_usd
    written = min(record.cache_write_input_tokens, verdict.lost_tokens)
    read = Used(
        max(record.input_tokens - (verdict.lost_tokens - written), 0),
        record.output_tokens,
        record.cache_read_input_tokens + verdict.lost_tokens,
        record.cache_write_input_tokens - written,
        Used.of(record).metadata,
    )
    saved = pricing.cost(
        read,
        work.model,
        provider=work.provider,
        provider_name=work.provider_name,
        moment=record.created_at,
    ).nano_usd
    return None if paid is None or saved is None else max(paid - saved, 0)


def _row(
    id: str,
    agent: tuple[str, ...],
    turn: CacheTurn,
    parts: bytes,
    verdict: Verdict,
    cost: int | None,
) -> Row:
    session, user, name = agent
    return (
        id,
        user,
        session,
        name,
        turn.began,
        turn.model,
        turn.provider,
        turn.key,
        parts,
        round(turn.ttl),
        turn.prompt_tokens,
        turn.kept_tokens,
        turn.read_tokens,
        verdict.could_tokens,
        verdict.lost_tokens,
        verdict.cause,
        verdict.place,
        cost,
    )
