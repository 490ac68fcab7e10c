"""Which sessions there are, what they have come to, and what happened in one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

import pytest

from aigateway.actors.control.local.postgres_store import PostgresStore
from aigateway.actors.control.local.schema import Database
from aigateway.actors.control.local.sessions import SessionFilter, find_sessions, sessions_named
from aigateway.actors.control.local.store import Store
from aigateway.actors.control.local.timeline import Agent, Prompt, timeline
from aigateway.actors.values.attribution import Attribution
from aigateway.actors.values.records import timestamp

AnyStore: TypeAlias = Store | PostgresStore
NOON = 1_772_280_000.0

Ask: TypeAlias = Callable[..., str]


@pytest.fixture
def ask(store: AnyStore, records: Any) -> Ask:
    """Store one request and what its answer told; returns the interception's id."""

    def ask_once(
        session: str,
        at: float = 0,
        *,
        user: str = "ada",
        agent: str | None = None,
        parent: str | None = None,
        work: dict[str, Any] | None = None,
        told: Callable[[str], list[Any]] = lambda _id: [],
        **changes: Any,
    ) -> str:
        start = records.start(
            username=user,
            initiator_id=f"id-of-{user}",
            started_at=NOON + at,
            attribution=Attribution(session, agent, parent, **(work or {})),
            **changes,
        )
        numbered = [*told(start.id), records.end(start.id, ended_at=NOON + at + 2)]
        store.write([start], numbered)
        return str(start.id)

    return ask_once


def ids(database: Database, limit: int | None = None, **wanted: Any) -> list[str]:
    return [row.session_id for row in find_sessions(database, SessionFilter(**wanted), limit)]


def test_sessions_come_latest_first(ask: Ask, either: Database) -> None:
    ask("first", 0)
    ask("second", 100)
    ask("third", 200)
    assert ids(either) == ["third", "second", "first"]
    assert ids(either, 2) == ["third", "second"]
    ask("first", 300)
    assert ids(either) == ["first", "third", "second"]
    assert ids(either, 1) == ["first"]


def test_a_limit_holds_for_sessions_however_many_parts_they_have(
    ask: Ask, either: Database
) -> None:
    ask("old", 0)
    for number in range(20):
        ask("new", 100 + number, model=f"model-{number}")
    assert ids(either, 2) == ["new", "old"]
    assert ids(either, 1) == ["new"]


def test_a_session_is_found_by_anything_it_was_seen_with(ask: Ask, either: Database) -> None:
    ask("s-1", 0, work={"project": "shop", "repository": "x.example/a/b", "branch": "main"})
    ask("s-1", 1, model="other", work={"project": "shop", "branch": "fix"})
    ask("s-2", 100, user="bob", client="Codex")
    for wanted in (
        {"user": "ada"}, {"user": "id-of-ada"}, {"project": "shop"}, {"branch": "fix"},
        {"branch": "main", "repository": "x.example/a/b"}, {"model": "other", "branch": "fix"},
        {"client": "Claude Code"}, {"until": NOON + 50},
    ):  # fmt: skip
        assert ids(either, **wanted) == ["s-1"], wanted
    for wanted in ({"client": "Codex"}, {"user": "bob"}, {"since": NOON + 50}):
        assert ids(either, **wanted) == ["s-2"], wanted
    for wanted in ({"user": "carl"}, {"project": "shop", "user": "bob"}, {"since": NOON + 103}):
        assert ids(either, **wanted) == [], wanted


def test_a_sessions_last_request_counts_though_it_was_not_noted(ask: Ask, either: Database) -> None:
    ask("s-1", 0)
    ask("s-1", 50)
    assert ids(either, since=NOON + 51) == ["s-1"]
    (row,) = find_sessions(either, SessionFilter())
    assert row.last_at == timestamp(NOON + 52)


def test_a_session_is_summed_up(ask: Ask, either: Database, records: Any) -> None:
    def first(id: str) -> list[Any]:
        return [
            records.prompt(id, prompt="a title, please", metadata={"prompt_kind": "title"}),
            records.tokens(id, input_tokens=1, output_tokens=2, record_id="1"),
            records.tokens(
                id, cache_read_input_tokens=30, cache_write_input_tokens=40, record_id="2"
            ),
        ]

    ask("s-1", 0, told=first, work={"branch": "main"})
    ask("s-1", 10, told=lambda id: [records.prompt(id, prompt="fix it" + "!" * 999)])
    ask("s-1", 20, agent="a-1", model="small", client="Codex")
    ask("s-1", 20, user="bob")
    (row,) = find_sessions(either, SessionFilter(user="ada"))
    assert (row.session_id, row.username, row.requests, row.errors, row.agents) == (
        "s-1", "ada", 3, 0, 1,
    )  # fmt: skip
    assert (row.clients, row.models) == (("Claude Code", "Codex"), ("claude-x", "small"))
    assert (row.branches, row.projects) == (("main",), ())
    assert (row.started_at, row.last_at) == (timestamp(NOON), timestamp(NOON + 22))
    spent = row.tokens
    assert (spent.input_tokens, spent.output_tokens) == (11, 7)
    assert (spent.cache_read_input_tokens, spent.cache_write_input_tokens) == (30, 40)
    assert (spent.cost_nano_usd, spent.unpriced) == (None, 2)
    assert row.prompt.startswith("fix it!!!")
    assert len(row.prompt) == 300


def test_two_users_never_share_a_session(ask: Ask, either: Database) -> None:
    mine = ask("same", 0)
    theirs = ask("same", 10, user="bob")
    found = sessions_named(either, "same")
    assert [row.username for row in found] == ["bob", "ada"]
    assert [row.requests for row in found] == [1, 1]
    (row,) = sessions_named(either, "same", "bob")
    assert (row.user_id, row.requests) == ("id-of-bob", 1)
    for user, id in (("ada", mine), ("bob", theirs)):
        tree = timeline(either, (f"id-of-{user}", "same"))
        assert [turn.interception_id for turn in tree.all_turns()] == [id]
    assert sessions_named(either, "other") == []


def test_what_happened_stands_in_its_order(ask: Ask, either: Database, records: Any) -> None:
    def told(id: str) -> list[Any]:
        calls = [records.tool(id, tool=f"t{n}", record_id=str(n)) for n in range(1, 13)]
        return [
            records.prompt(id, metadata={"prompt_kind": "user"}, record_id="1"),
            records.thought(id, record_id="1"),
            records.tokens(id, record_id="1"),
            *calls,
        ]

    ask("s-1", 10)
    first = ask("s-1", 0, told=told, work={"branch": "main", "commit": "0123abc"})
    tree = timeline(either, ("id-of-ada", "s-1"))
    assert tree.agents == ()
    turn, later = tree.turns
    assert later.started_at > turn.started_at
    assert (turn.interception_id, turn.branch, turn.commit) == (first, "main", "0123abc")
    assert turn.prompts == (Prompt("why?", "user"),)
    assert turn.thoughts == ("because",)
    assert [call.tool for call in turn.tools] == [f"t{n}" for n in range(1, 13)]
    assert turn.tokens.input_tokens == 10
    assert later.tokens.input_tokens == 0


def test_a_turn_that_makes_the_conversation_shorter_is_told_apart(
    ask: Ask, either: Database, records: Any
) -> None:
    for place, metadata in enumerate(
        [{}, {"iteration": "message"}, {"iteration": "compaction"}, {"stop_reason": "compaction"}]
    ):
        ask("s-1", place, told=lambda id, told=metadata: [
            records.tokens(id, metadata=told, record_id="1")
        ])  # fmt: skip
    tree = timeline(either, ("id-of-ada", "s-1"))
    assert [turn.compacts for turn in tree.turns] == [False, False, True, False]


def shape(agent: Agent) -> Any:
    return {(each.id, len(each.turns)): shape(each) for each in agent.agents}


def test_subagents_stand_below_who_began_them(ask: Ask, either: Database) -> None:
    ask("s-1", 0)
    ask("s-1", 10, agent="a")
    ask("s-1", 20, agent="b", parent="a")
    ask("s-1", 30, agent="a")
    ask("s-1", 40, agent="c")
    ask("s-1", 50, agent="b", parent="a")
    ask("s-1", 60, agent="orphan", parent="unseen")
    ask("s-1", 70)
    tree = timeline(either, ("id-of-ada", "s-1"))
    assert (tree.id, len(tree.turns)) == (None, 2)
    assert shape(tree) == {("a", 2): {("b", 2): {}}, ("c", 1): {}, ("orphan", 1): {}}
    order = [entry.id if isinstance(entry, Agent) else "turn" for entry in tree.in_order()]
    assert order == ["turn", "a", "c", "orphan", "turn"]


def test_agents_that_say_they_began_each_other_are_all_shown(ask: Ask, either: Database) -> None:
    ask("s-1", 0, agent="a", parent="b")
    ask("s-1", 1, agent="b", parent="a")
    ask("s-1", 2, agent="c", parent="c")
    for depth in range(200):
        ask("s-2", depth, agent=f"d{depth}", parent=f"d{depth - 1}" if depth else None)
    tree = timeline(either, ("id-of-ada", "s-1"))
    assert {turn.agent_id for turn in tree.all_turns()} == {"a", "b", "c"}
    deep = timeline(either, ("id-of-ada", "s-2"))
    assert len(list(deep.all_turns())) == 200
