"""What becomes of prompts' caches, from stored turns of a session to what is shown of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, TypeAlias

import pytest
from click.testing import CliRunner

from aigateway.actors.control.local.cache_turns import compare_more, pending
from aigateway.actors.control.local.postgres_store import PostgresStore
from aigateway.actors.control.local.prices.cost import Pricing
from aigateway.actors.control.local.prices.table import read_table
from aigateway.actors.control.local.retention import Forgetting, Retention
from aigateway.actors.control.local.schema import Database
from aigateway.actors.control.local.sessions import NO_BREAKS, CacheBreaks, sessions_named
from aigateway.actors.control.local.store import Store
from aigateway.actors.control.local.timeline import Cache, timeline
from aigateway.actors.values.attribution import Attribution
from aigateway.actors.values.prompt_parts import PromptParts, encoded
from aigateway.http.cli.session import command as show
from aigateway.http.cli.sessions import command as listing

AnyStore: TypeAlias = Store | PostgresStore
NOON = 1_772_280_000.0
DAY = 86_400.0


def pricing() -> Pricing:
    """Of $2 a million tokens; writing to the cache costs $3, reading from it $1."""
    model = {
        "model": "claude-x",
        "provider": "anthropic",
        "input": 2,
        "output": 2,
        "cache_read": 1,
        "cache_write": 3,
    }
    vendors = {"anthropic": {"address": "https://api.anthropic.com"}}
    return Pricing(
        read_table({"version": "v1", "vendors": vendors, "models": [model]}, packaged=True)
    )


@pytest.fixture
def store(address: str, either: Database) -> Iterator[AnyStore]:
    prices = pricing()
    store: AnyStore = (
        PostgresStore(address, 1, 10, prices) if "://" in address else Store(address, 1, prices)
    )
    yield store
    store.close()


def prompt(messages: str, *, tools: str = "t", explicit: bool = True) -> bytes:
    def part(name: str) -> bytes:
        return name.encode().ljust(6)

    marks = (1, len(messages) + 1) if explicit else ()
    texts = tuple(map(part, messages))
    return encoded(PromptParts.of(part(tools), part("s"), texts, marks, explicit, 300 * explicit))


Turn: TypeAlias = Callable[..., str]


@pytest.fixture
def turn(store: AnyStore, records: Any) -> Turn:
    """Store one turn that reads and writes so many tokens; returns the interception's id."""

    def one(
        parts: bytes,
        at: float,
        *,
        read: int = 0,
        write: int = 0,
        fresh: int = 100,
        user: str = "ada",
        session: str = "s-1",
        agent: str | None = None,
        hint: str = "sk-...a",
        together: bool = False,
        **changes: Any,
    ) -> str:
        start = records.start(
            username=user,
            initiator_id=user,
            started_at=NOON + at,
            attribution=Attribution(session, agent),
            **changes,
        )
        rest = [
            records.tokens(
                start.id,
                record_id="1",
                input_tokens=fresh,
                cache_read_input_tokens=read,
                cache_write_input_tokens=write,
            ),
            records.end(start.id, ended_at=NOON + at + 1, prompt_parts=parts, credential_hint=hint),
        ]
        if together:
            store.write([start], rest)
        else:
            store.write([start], [])
            store.write([], rest)
        return str(start.id)

    return one


def compare(database: Database) -> Database:
    """As the housekeeper does."""
    while compare_more(database, pricing()):
        pass
    assert not pending(database)
    return database


def caches(database: Database, user: str = "ada", session: str = "s-1") -> list[Cache | None]:
    compare(database)
    return [each.cache for each in timeline(database, (user, session)).all_turns()]


@pytest.mark.parametrize("together", [True, False])
def test_a_turn_is_held_against_the_one_before_it(
    turn: Turn, either: Database, together: bool
) -> None:
    turn(prompt("a"), 0, write=10_000, together=together)
    turn(prompt("abc"), 10, read=10_000, write=2_000, together=together)
    turn(prompt("abcde", tools="u"), 20, write=13_000, together=together)
    assert caches(either) == [
        Cache(0, 0, 0, None, None, None),
        Cache(10_000, 10_000, 0, None, None, None),
        # Written at $3 a million instead of read at $1.
        Cache(12_000, 0, 12_000, "tools", None, 24_000_000),
    ]
    (row,) = sessions_named(either, "s-1")
    assert row.cache == CacheBreaks(1, 12_000, 24_000_000, (("tools", 1),))


def test_turns_of_one_batch_are_held_against_each_other(
    store: AnyStore, either: Database, records: Any
) -> None:
    """As after an outage of the database."""
    starts = [
        records.start(started_at=NOON + at, attribution=Attribution("s-1"), initiator_id="ada")
        for at in range(2)
    ]
    store.write(starts, [])
    rest = []
    for start, parts in zip(starts, (prompt("a"), prompt("ab", tools="u")), strict=True):
        rest += [
            records.tokens(start.id, record_id="1", cache_write_input_tokens=9000),
            records.end(start.id, prompt_parts=parts),
        ]
    # In whatever order they come.
    store.write([], rest[::-1])
    causes = [each and each.cause for each in caches(either)]
    assert causes == [None, "tools"]


def test_what_is_told_twice_is_stored_once(store: AnyStore, either: Database, records: Any) -> None:
    start = records.start(attribution=Attribution("s-1"), initiator_id="ada")
    rest = [
        records.tokens(start.id, record_id="1", cache_write_input_tokens=9000),
        records.end(start.id, prompt_parts=prompt("a")),
    ]
    store.write([start], rest)
    store.write([start], rest)
    compare(either)
    store.write([], rest)
    compare(either)
    assert either.execute("SELECT count(*) FROM cache_turns").fetchone() == (1,)
    assert caches(either) == [Cache(0, 0, 0, None, None, None)]


def test_other_users_sessions_and_agents_have_other_turns_before_them(
    turn: Turn, either: Database
) -> None:
    turn(prompt("a"), 0, write=10_000)
    turn(prompt("ab"), 1, write=10_000, user="bob")
    turn(prompt("ab"), 2, write=10_000, session="s-2")
    turn(prompt("ab"), 3, write=10_000, agent="helper")
    rows = compare(either).execute("SELECT count(*), count(cause) FROM cache_turns").fetchone()
    assert rows == (4, 0)


def test_another_key_or_provider_has_another_cache(turn: Turn, either: Database) -> None:
    turn(prompt("a"), 0, write=10_000)
    turn(prompt("ab"), 1, write=10_000, hint="sk-...b")
    turn(prompt("abc"), 2, write=10_000, hint="sk-...b", provider_name="anthropic-us")
    assert [each and each.cause for each in caches(either)] == [None, "key", "provider"]


def test_who_tells_of_no_cache_at_all_has_none_to_break(turn: Turn, either: Database) -> None:
    """Not all that speak OpenAI's APIs have one."""
    plain = {"provider": "openai", "model": "local", "fresh": 9000}
    turn(prompt("a", explicit=False), 0, **plain)
    turn(prompt("ab", explicit=False), 1, **plain)
    assert caches(either)[1] == Cache(0, 0, 0, None, None, None)
    turn(prompt("abc", explicit=False), 2, **plain, read=4000)
    turn(prompt("xbcd", explicit=False), 3, **plain)
    broken = caches(either)[3]
    assert broken is not None
    assert (broken.cause, broken.place) == ("message", 1)
    # In steps of 128.
    assert broken.could_tokens == 9000


def test_openai_keeps_what_it_is_not_paid_for_writing_for_five_minutes(
    turn: Turn, either: Database
) -> None:
    turn(prompt("a", explicit=False), 0, fresh=4000, read=5000)
    turn(prompt("ab", explicit=False), 400, fresh=10_000)
    turn(prompt("a", explicit=False), 0, fresh=4000, write=5000, session="s-2")
    turn(prompt("ab", explicit=False), 400, fresh=10_000, session="s-2")
    first, second = caches(either)[1], caches(either, session="s-2")[1]
    assert first is not None
    assert first.cause == "pause"
    assert second is None or second.cause != "pause"


def test_what_cannot_be_compared_has_no_row(
    store: AnyStore, turn: Turn, either: Database, records: Any
) -> None:
    turn(b"", 0, write=10_000)
    turn(b"junk", 1, write=10_000)
    turn(prompt("a"), 2, fresh=0)
    start = records.start()
    # Of no session; and one without any usage.
    store.write(
        [start], [records.tokens(start.id), records.end(start.id, prompt_parts=prompt("a"))]
    )
    silent = records.start(attribution=Attribution("s-1"))
    store.write([silent], [records.end(silent.id, prompt_parts=prompt("a"))])
    store.write([], [records.end("nobody", prompt_parts=prompt("a"))])
    assert compare(either).execute("SELECT count(*) FROM cache_turns").fetchone() == (0,)


def test_checksums_go_with_content_and_the_rest_with_the_records(
    turn: Turn, either: Database
) -> None:
    turn(prompt("a"), 0, write=10_000)
    compare(either)
    turn(prompt("ab"), 1, write=10_000)

    def left() -> Any:
        return either.execute(
            "SELECT count(*), count(parts), (SELECT count(*) FROM cache_pending) FROM cache_turns"
        ).fetchone()

    assert left() == (1, 1, 1)

    forgetting = Forgetting(Retention(content=1, records=3))
    while forgetting.step(either, NOON + 2 * DAY):
        pass
    assert left() == (1, 0, 0)
    while forgetting.step(either, NOON + 4 * DAY):
        pass
    assert left() == (0, 0, 0)


def test_records_take_what_waits_to_be_compared_with_them(turn: Turn, either: Database) -> None:
    turn(prompt("a"), 0, write=10_000)
    forgetting = Forgetting(Retention(records=3))
    while forgetting.step(either, NOON + 4 * DAY):
        pass
    assert not pending(either)


def test_who_looks_at_a_session_does_not_wait_until_it_is_compared(
    turn: Turn, either: Database
) -> None:
    turn(prompt("a"), 0, write=10_000)
    turn(prompt("ab"), 5, write=500, read=10_000)
    compare(either)
    turn(prompt("abc", tools="u"), 10, write=13_000)
    turn(prompt("abcd", tools="u"), 20, read=13_000)
    turn(prompt("abxd", tools="u"), 30, read=2_000, write=12_000)
    turn(prompt("abc", tools="u"), 10, write=13_000, user="bob")

    def causes() -> list[Any]:
        turns = timeline(either, ("ada", "s-1")).all_turns()
        return [each.cache and (each.cache.cause, each.cache.lost_tokens) for each in turns]

    expected = [(None, 0), (None, 0), ("tools", 10_500), (None, 0), ("message", 11_000)]
    assert causes() == expected
    told = (("message", 1), ("tools", 1))
    of = {row.user_id: row.cache for row in sessions_named(either, "s-1")}
    assert of == {"ada": CacheBreaks(2, 21_500, None, told), "bob": NO_BREAKS}
    # Looking has changed nothing, and what is kept says the same, with the cost.
    assert pending(either)
    compare(either)
    assert causes() == expected
    of = {row.user_id: row.cache for row in sessions_named(either, "s-1")}
    assert of == {"ada": CacheBreaks(2, 21_500, 43_000_000, told), "bob": NO_BREAKS}


def test_turns_that_are_compared_together_come_to_the_same_as_each_by_itself(
    turn: Turn, either: Database
) -> None:
    said = "abcdefghijklmnopqrst"
    for session in ("s-1", "s-2"):
        for at in range(1, len(said)):
            parts = prompt(said[:at] if at % 4 else said[:at][::-1], tools="tu"[at % 7 == 0])
            read = 0 if at % 3 == 0 else 2000 * (at - 1)
            turn(parts, at, read=read, write=2000 * at - read, session=session)
            if session == "s-1":
                compare(either)
    each, together = caches(either), caches(either, session="s-2")
    assert each == together
    assert {one and one.cause for one in each} == {None, "message", "unknown"}


def test_a_session_shows_where_its_cache_broke(
    turn: Turn, address: str, either: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CODER_AI_GATEWAY_LOCAL_DB", address)
    monkeypatch.delenv("CODER_CONFIG_PATH", raising=False)
    turn(prompt("a"), 0, write=10_000)
    turn(prompt("abc", tools="u"), 10, write=12_000)
    turn(prompt("xyz", tools="u"), 20, read=6000, write=7_000)
    compare(either)
    shown = CliRunner().invoke(show, ["s-1"]).stdout
    assert "cache break: other tools; 10,000 of 10,000 tokens were not read again, $0.02" in shown
    assert "cache break: message 1; 6,000 of 12,000 tokens were not read again, $0.01" in shown
    assert "cache     2 breaks (message 1, tools 1): 16,000 tokens not read again, $0.03" in shown
    listed = CliRunner().invoke(listing, ["--json"]).stdout
    assert '"breaks": 2' in listed
    assert '"cost_nano_usd": 32000000' in listed


def test_a_session_without_breaks_has_none(turn: Turn, either: Database) -> None:
    turn(prompt("a"), 0, write=10_000)
    (row,) = sessions_named(either, "s-1")
    assert row.cache == NO_BREAKS


def test_each_installation_has_a_key_of_its_own(store: AnyStore, either: Database) -> None:
    store.write([], [])
    assert len(store.prompt_key) == 32
    ((value,),) = either.execute("SELECT value FROM installation").fetchall()
    assert bytes.fromhex(value) == store.prompt_key
