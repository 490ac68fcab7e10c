"""Prompts are found by their words, whether the index has come to them or not."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator
from typing import Any, TypeAlias

import pytest

from aigateway.actors.control.local.postgres_store import PostgresStore
from aigateway.actors.control.local.prompt_search import (
    index_again,
    index_more,
    search_prompts,
    unindexed,
)
from aigateway.actors.control.local.schema import Database
from aigateway.actors.control.local.sessions import SessionFilter
from aigateway.actors.control.local.store import Store
from aigateway.actors.values.attribution import Attribution

NOON = 1_772_280_000.0

Say: TypeAlias = Callable[..., None]


@pytest.fixture
def say(address: str, either: Database, records: Any) -> Iterator[Say]:
    store = PostgresStore(address, 1, 10) if "://" in address else Store(address, 1)
    said = iter(range(1_000_000))

    def say_once(prompt: str, session: str = "s-1", user: str = "ada", **work: Any) -> None:
        at = NOON + next(said)
        start = records.start(
            username=user,
            initiator_id=f"id-of-{user}",
            started_at=at,
            attribution=Attribution(session, **work),
        )
        store.write([start], [records.prompt(start.id, prompt=prompt, created_at=at)])

    yield say_once
    store.close()


@pytest.fixture(params=["indexed", "not yet"])
def index(request: pytest.FixtureRequest, either: Database) -> Callable[[], None]:
    """Take what was said into the index, or leave it to be looked through."""

    def all_of_it() -> None:
        if request.param == "indexed":
            while index_more(either):
                pass
            assert not unindexed(either)

    return all_of_it


def found(database: Database, text: str, limit: int = 50, **wanted: Any) -> list[str]:
    hits = search_prompts(database, text, SessionFilter(**wanted), limit)
    return [hit.excerpt for hit in hits]


def test_words_and_phrases_are_found_the_latest_first(
    say: Say, index: Callable[[], None], either: Database
) -> None:
    say("fix the Parser of dates")
    say("the parser-of-dates, again")
    say("dates of a parser")
    index()
    assert found(either, "PARSER dates") == [
        "dates of a parser", "the parser-of-dates, again", "fix the Parser of dates",
    ]  # fmt: skip
    assert found(either, '"parser of dates"') == [
        "the parser-of-dates, again", "fix the Parser of dates",
    ]  # fmt: skip
    assert found(either, "parser again") == ["the parser-of-dates, again"]
    assert found(either, "parser", 1) == ["dates of a parser"]
    assert found(either, "pars") == []
    assert found(either, "parser nonesuch") == []


def test_parts_of_paths_and_addresses_are_words(
    say: Say, index: Callable[[], None], either: Database
) -> None:
    say("why does src/http/foo_bar.py:12 ask https://ada@x.example/?q=größe%20now?")
    index()
    for text in ("foo", "foo_bar.py", '"src/http/foo_bar.py:12"', "x.example", "q größe", "ada@x"):
        assert len(found(either, text)) == 1, text
    assert found(either, '"foo/src"') == []


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("NOT", 1), ("it*", 1), ("-it", 1), ("^what", 1), ("(it)", 1), ("it; DROP", 1), ("x'", 1),
        ("NEAR(it what)", 0), ("prompt:it", 0), ("it OR nonesuch", 0), ("it NOT nonesuch", 0),
    ],
)  # fmt: skip
def test_a_search_is_words_and_never_a_query(
    say: Say, index: Callable[[], None], either: Database, text: str, count: int
) -> None:
    say("what is NOT in it; DROP TABLE x")
    index()
    assert len(found(either, text)) == count


def test_without_a_word_there_is_nothing_to_search_for(either: Database) -> None:
    for text in ("", '"', "'; --", "***"):
        with pytest.raises(ValueError, match="no word"):
            found(either, text)


def test_filters_are_about_the_request_that_a_prompt_came_with(
    say: Say, index: Callable[[], None], either: Database
) -> None:
    say("one word", "s-1", project="shop")
    say("two word", "s-2", user="bob", branch="main")
    index()
    assert found(either, "word", user="bob") == ["two word"]
    assert found(either, "word", project="shop") == ["one word"]
    assert found(either, "word", branch="main", client="Claude Code") == ["two word"]
    assert found(either, "word", since=NOON + 1) == ["two word"]
    assert found(either, "word", until=NOON + 1) == ["one word"]
    (hit,) = search_prompts(either, "two", SessionFilter(), 5)
    assert (hit.session_id, hit.user_id, hit.username) == ("s-2", "id-of-bob", "bob")


def test_an_excerpt_shows_what_was_found(
    say: Say, index: Callable[[], None], either: Database
) -> None:
    say("a " * 500 + "needle\n\n here " + "b " * 500)
    index()
    (excerpt,) = found(either, "needle")
    assert "a needle here b" in excerpt
    assert excerpt.startswith("…")
    assert excerpt.endswith("…")
    assert len(excerpt) < 250


def test_only_the_beginning_of_a_very_long_prompt_is_searched(
    say: Say, index: Callable[[], None], either: Database
) -> None:
    say("early " + "x " * 20_000 + "late")
    index()
    assert len(found(either, "early")) == 1
    assert found(either, "late") == []


def test_what_is_deleted_is_not_found_and_what_takes_its_place_is(
    say: Say, index: Callable[[], None], either: Database
) -> None:
    say("old word")
    say("older word")
    index()
    either.execute("DELETE FROM user_prompts WHERE prompt = 'older word'")
    assert found(either, "word") == ["old word"]
    say("new word")
    assert found(either, "word") == ["new word", "old word"]
    index()
    assert found(either, "word") == ["new word", "old word"]
    either.execute("DELETE FROM user_prompts")
    assert found(either, "word") == []
    say("newest word")
    assert found(either, "word") == ["newest word"]


def test_much_is_indexed_in_several_steps(say: Say, either: Database) -> None:
    if not isinstance(either, sqlite3.Connection):
        assert not unindexed(either)
        assert not index_more(either)
        return
    for number in range(20):
        say(f"word{number} " + "y " * 10_000)
    assert unindexed(either)
    steps = 1
    while index_more(either):
        steps += 1
    assert steps >= 3
    assert not unindexed(either)
    assert len(found(either, "word7")) == 1
    index_again(either)
    assert unindexed(either)
    while index_more(either):
        pass
    assert len(found(either, "word7 y")) == 1
