"""What happened in one session of the embedded control plane, as a tree of its agents."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterator
from typing import Any

from attrs import field, frozen

from aigateway.actors.control.local.cache_turns import compared_now
from aigateway.actors.control.local.content import results_by_turn
from aigateway.actors.control.local.schema import Database
from aigateway.actors.control.local.sessions import NO_TOKENS, SessionKey, Tokens, tokens_by
from aigateway.actors.interception.tool_results import ToldResult

__all__ = ["Agent", "Cache", "Prompt", "ToolCall", "Turn", "timeline"]


@frozen
class Prompt:
    """What somebody, or the client itself, asked."""

    text: str = field(repr=False)
    kind: str | None = None
    """Who spoke (``prompt_kind`` of the record's metadata), where that is known."""


@frozen
class ToolCall:
    """A call of a tool that the model asked for."""

    tool: str
    input: str = field(repr=False)
    """JSON text."""
    tool_call_id: str
    injected: bool
    error: str | None = field(repr=False)
    """Why the gateway could not call it."""
    result_size: int | None = None
    """Bytes of its result as JSON, where what was sent is recorded; None: not known, or the client
    has brought none."""
    result_failed: bool = False
    """The client said that it failed."""


@frozen
class Cache:
    """What of a turn's prompt the provider's cache could have served, and what it did."""

    could_tokens: int
    read_tokens: int
    lost_tokens: int
    """What it did not read again although it could have; 0 unless there is a cause."""
    cause: str | None
    """What changed first: one of :data:`~.cache_breaks.CAUSES`."""
    place: int | None
    """Which message changed, for that cause; the first one is 1."""
    cost_nano_usd: int | None
    """What that cost; None: nothing, or there is no price."""


@frozen(kw_only=True)
class Turn:
    """One request and what is recorded of its answer.  Times are RFC 3339 in UTC."""

    interception_id: str
    agent_id: str | None
    started_at: str
    ended_at: str | None
    client: str
    provider_name: str
    model: str
    branch: str | None
    commit: str | None
    error_type: str | None
    error_message: str | None = field(repr=False)
    prompts: tuple[Prompt, ...] = ()
    thoughts: tuple[str, ...] = field(default=(), repr=False)
    tools: tuple[ToolCall, ...] = ()
    answers: tuple[str, ...] = field(default=(), repr=False)
    tokens: Tokens = NO_TOKENS
    compacts: bool = False
    """The provider has made the conversation shorter."""
    cache: Cache | None = None
    """None: turns cannot be compared by it."""


@frozen
class Agent:
    """The session itself, or one of its subagents."""

    id: str | None
    """None: the session itself."""
    turns: tuple[Turn, ...]
    agents: tuple[Agent, ...]
    """The subagents that it began, by their first request."""

    @property
    def started_at(self) -> str:
        """When its first request began, or one of an agent below it."""
        return min((turn.started_at for turn in self.all_turns()), default="")

    def all_turns(self) -> Iterator[Turn]:
        """Its own and those of all agents below it."""
        yield from self.turns
        for agent in self.agents:
            yield from agent.all_turns()

    def in_order(self) -> list[Turn | Agent]:
        """Its turns and the agents that it began, by time."""
        return sorted([*self.turns, *self.agents], key=lambda each: each.started_at)


def timeline(connection: Database, key: SessionKey) -> Agent:
    """All requests of a session.  Raises what the database raises.

    An agent whose parent is not known, or is its own descendant, stands below the session.
    """
    user, session = key
    prompts: defaultdict[str, list[Prompt]] = defaultdict(list)
    for id, text, metadata in _rows(connection, key, "user_prompts", "prompt", "metadata"):
        prompts[id].append(Prompt(text, json.loads(metadata).get("prompt_kind")))
    thoughts: defaultdict[str, list[str]] = defaultdict(list)
    for id, text in _rows(connection, key, "model_thoughts", "content"):
        thoughts[id].append(text)
    answers: defaultdict[str, list[str]] = defaultdict(list)
    for id, text in _rows(connection, key, "model_answers", "content"):
        answers[id].append(text)
    results = _Results(connection, key)
    tools: defaultdict[str, list[ToolCall]] = defaultdict(list)
    columns = ("tool", "input", "tool_call_id", "injected", "invocation_error")
    for id, tool, given, call_id, injected, error in _rows(
        connection, key, "tool_usages", *columns
    ):
        tools[id].append(
            ToolCall(tool, given, call_id, bool(injected), error, *results.of(id, tool, call_id))
        )
    tokens = tokens_by(connection, "i.id", [session])
    compacting = {
        id
        for id, metadata in _rows(connection, key, "token_usages", "metadata")
        if '"compaction"' in metadata and json.loads(metadata).get("iteration") == "compaction"
    }
    caches = _caches(connection, key)
    found = connection.execute(
        """
        SELECT id, agent_id, parent_agent_id, started_at, ended_at, client, provider_name, model,
               branch, commit_hash, error_type, error_message
        FROM interceptions WHERE session_id = ? AND initiator_id = ? ORDER BY started_at, id
        """,
        (session, user),
    )
    turns: defaultdict[str | None, list[Turn]] = defaultdict(list)
    parents: dict[str, str | None] = {}
    for (
        id,
        agent,
        parent,
        started,
        ended,
        client,
        provider,
        model,
        branch,
        commit,
        *error,
    ) in found.fetchall():
        if agent is not None and parents.get(agent) is None:
            parents[agent] = parent
        turns[agent].append(
            Turn(
                interception_id=id,
                agent_id=agent,
                started_at=started,
                ended_at=ended,
                client=client,
                provider_name=provider,
                model=model,
                branch=branch,
                commit=commit,
                error_type=error[0],
                error_message=error[1],
                prompts=tuple(prompts[id]),
                thoughts=tuple(thoughts[id]),
                tools=tuple(tools[id]),
                answers=tuple(answers[id]),
                tokens=tokens.get((id,), NO_TOKENS),
                compacts=id in compacting,
                cache=caches.get(id),
            )
        )
    children: defaultdict[str | None, list[str]] = defaultdict(list)
    for agent in parents:
        children[_parent_of(agent, parents)].append(agent)
    return _agent(None, turns, children)


def _agent(
    id: str | None,
    turns: dict[str | None, list[Turn]],
    children: dict[str | None, list[str]],
) -> Agent:
    below = tuple(_agent(child, turns, children) for child in children.get(id, ()))
    return Agent(id, tuple(turns.get(id, ())), below)


def _parent_of(agent: str, parents: dict[str, str | None]) -> str | None:
    """The parent of an agent, if by it one comes to the session in the end."""
    at = parents[agent]
    passed = {agent}
    while at is not None:
        if at in passed or at not in parents or len(passed) > _DEEPEST:
            return None
        passed.add(at)
        at = parents[at]
    return parents[agent]


_DEEPEST = 50
"""Agents below each other.  A client may name as many as it likes."""


class _Results:
    """The results of a session's calls, each for the call that asked for it."""

    def __init__(self, connection: Database, key: SessionKey) -> None:
        self._of_call: dict[str, ToldResult] = {}
        self._of_name: defaultdict[str, list[tuple[str, ToldResult]]] = defaultdict(list)
        for turn, results in results_by_turn(connection, *key).items():
            for each in results:
                if each.tool_call_id:
                    self._of_call.setdefault(each.tool_call_id, each)
                else:
                    self._of_name[each.tool].append((turn, each))

    def of(self, turn: str, tool: str, call_id: str) -> tuple[int | None, bool]:
        """How large the result of a call is, and whether it failed.

        Where calls have no ids, that is the first one of the tool's that a later turn has brought
        and no other call has taken: ids of interceptions rise with the time.
        """
        found = self._of_call.get(call_id) if call_id else None
        if found is None and (named := self._of_name.get(tool)):
            for place, (brought, each) in enumerate(named):
                if brought > turn:
                    found = each
                    del named[place]
                    break
        return (None, False) if found is None else (found.size, found.failed)


def _caches(connection: Database, key: SessionKey) -> dict[str, Cache]:
    user, session = key
    caches: dict[str, Cache] = {}
    for each in compared_now(connection, [session]):
        if each.agent[:2] == (session, user):
            found, read = each.verdict, each.turn.read_tokens
            caches[each.id] = Cache(
                found.could_tokens, read, found.lost_tokens, found.cause, found.place, each.cost
            )
    kept = connection.execute(
        """
        SELECT interception_id, could_tokens, read_tokens, lost_tokens, cause, place, cost_nano_usd
        FROM cache_turns WHERE session_id = ? AND user_id = ?
        """,
        (session, user),
    )
    caches.update((id, Cache(*values)) for id, *values in kept.fetchall())
    return caches


def _rows(connection: Database, key: SessionKey, table: str, *columns: str) -> list[Any]:
    """Rows of a table of records, each behind its interception's id, in their order."""
    user, session = key
    names = ", ".join(f"r.{column}" for column in columns)
    return connection.execute(
        f"""
        SELECT r.interception_id, {names}
        FROM interceptions i JOIN {table} r ON r.interception_id = i.id
        WHERE i.session_id = ? AND i.initiator_id = ?
        ORDER BY r.created_at, length(r.record_id), r.record_id
        """,
        (session, user),
    ).fetchall()
