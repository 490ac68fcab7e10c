"""What was sent, in either database: chains that share what is the same, read and forgotten."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any, TypeAlias

import pytest

from aigateway.actors.control.local._writing import take_batches
from aigateway.actors.control.local.content import forget_chains, parts_of, results_by_turn
from aigateway.actors.control.local.postgres_store import PostgresStore
from aigateway.actors.control.local.prompt_search import index_more, search_prompts
from aigateway.actors.control.local.schema import Database, transaction
from aigateway.actors.control.local.sessions import SessionFilter
from aigateway.actors.control.local.store import Store
from aigateway.actors.control.local.timeline import Turn, timeline
from aigateway.actors.control.messages import Spooled, StoreRecords
from aigateway.actors.values.attribution import Attribution

AnyStore: TypeAlias = Store | PostgresStore
NOON = 1_772_280_000.0
Turns: TypeAlias = Callable[..., str]


@pytest.fixture
def send(store: AnyStore, records: Any) -> Turns:
    """Store a request that sends these messages; returns its id."""
    at = iter(range(1_000_000))

    def send_one(*sent: Any, told: Callable[[str], list[Any]] = lambda _id: []) -> str:
        start = records.start(
            started_at=NOON + next(at), initiator_id="u-1", attribution=Attribution("s-1")
        )
        store.write([start], [records.sent(start.id, *sent), *told(start.id)])
        return str(start.id)

    return send_one


def sent(database: Database, id: str) -> list[Any]:
    return [json.loads(part.content) for part in parts_of(database, id)]


def counts(database: Database) -> dict[str, int]:
    return {
        table: database.execute(f"SELECT count(*) FROM content_{table}").fetchone()[0]
        for table in ("parts", "links", "turns")
    }


def forget(database: Database, *ids: str) -> None:
    with transaction(database):
        forget_chains(database, ids)


def test_long_parts_are_spread_over_transactions(records: Any) -> None:
    def batch(text: str) -> StoreRecords:
        spooled = Spooled(1, records.sent("i", text))
        return StoreRecords(((spooled,),), reply_to=None)  # type: ignore[arg-type]

    short, long = [batch("x")] * 8, [batch("x" * 1_000_000)] * 8
    assert [len(some) for some in take_batches(short)] == [8, 0]
    assert [len(some) for some in take_batches(long)] == [2, 6]


def message(text: str) -> dict[str, str]:
    return {"role": "user", "content": text}


def test_what_is_the_same_is_stored_once_and_each_turn_reads_as_it_was(
    send: Turns, either: Database
) -> None:
    first, second = send("a"), send("a", "b", "c")
    edited = send("a", "x", "c")
    assert counts(either) == {"parts": 4, "links": 5, "turns": 3}
    assert sent(either, first) == [message("a")]
    assert sent(either, second) == [*map(message, "abc")]
    assert sent(either, edited) == [*map(message, "axc")]


def test_a_record_that_comes_twice_is_stored_once(
    store: AnyStore, records: Any, either: Database
) -> None:
    start = records.start()
    for _time in range(2):
        store.write(
            [start], [records.sent(start.id, "a", "b"), records.answer(start.id, record_id="1")]
        )
    assert counts(either) == {"parts": 2, "links": 2, "turns": 1}
    assert either.execute("SELECT count(*) FROM model_answers").fetchone()[0] == 1


def test_one_bad_record_does_not_keep_content_from_being_stored(
    store: AnyStore, records: Any, either: Database
) -> None:
    start = records.start()
    bad = records.tokens(start.id, input_tokens=2**70, record_id="1")
    written = store.write(
        [start], [bad, records.sent(start.id, "a", "b"), records.answer(start.id)]
    )
    assert list(written.records) == [0]
    assert sent(either, start.id) == [message("a"), message("b")]


def test_a_link_goes_when_nothing_names_it_and_a_part_with_the_last_link(
    send: Turns, either: Database
) -> None:
    first, second = send("a", "b"), send("a", "b", "c", "b")
    edited = send("a", "x", "b")
    forget(either, first)
    assert counts(either) == {"parts": 4, "links": 6, "turns": 2}
    forget(either, second)
    assert sent(either, edited) == [*map(message, "axb")]
    assert counts(either) == {"parts": 3, "links": 3, "turns": 1}
    forget(either, edited)
    assert counts(either) == {"parts": 0, "links": 0, "turns": 0}


def test_chains_that_met_go_together(send: Turns, either: Database) -> None:
    ids = [send("a", "b", each, f"{each} and more") for each in "xyz"]
    forget(either, *ids)
    assert counts(either) == {"parts": 0, "links": 0, "turns": 0}


def test_a_session_that_goes_on_while_its_past_is_forgotten_stays_whole(
    send: Turns, either: Database
) -> None:
    said = [str(number) for number in range(40)]
    ids = [send(*said[: number + 1]) for number in range(40)]
    for id in ids[:-1]:
        forget(either, id)
    assert sent(either, ids[-1]) == [*map(message, said)]
    forget(either, ids[-1])
    assert counts(either) == {"parts": 0, "links": 0, "turns": 0}


def test_what_is_not_there_any_more_is_left_out(send: Turns, either: Database) -> None:
    id = send("a", "b", "c")
    (link,) = either.execute(
        "SELECT l.before FROM content_links l JOIN content_turns t ON t.last = l.id"
    ).fetchone()
    either.execute("DELETE FROM content_links WHERE id = ?", (link,))
    assert sent(either, id) == [message("c")]


def given(kind: str, call: str, size: int) -> dict[str, Any]:
    """A message with a result of this many bytes of JSON."""
    text = "x" * (size - 2)
    return {
        "messages": {
            "role": "user",
            "content": [{"type": "tool_result", "tool_use_id": call, "content": text}],
        },
        "chat": {"role": "tool", "tool_call_id": call, "content": text},
        "responses": {"type": "function_call_output", "call_id": call, "output": text},
        "gemini": {
            "role": "user",
            "parts": [{"functionResponse": {"id": call, "name": "Bash", "response": text}}],
        },
        "converse": {
            "role": "user",
            "content": [{"toolResult": {"toolUseId": call, "content": text}}],
        },
    }[kind]


def turns_of(database: Database) -> list[Turn]:
    return list(timeline(database, ("u-1", "s-1")).turns)


@pytest.mark.parametrize("kind", ["messages", "chat", "responses", "gemini", "converse"])
def test_a_call_is_told_with_the_size_of_its_result(
    send: Turns, records: Any, either: Database, kind: str
) -> None:
    send(
        "a",
        told=lambda id: [
            records.tool(id, tool_call_id="call_1", record_id="1"),
            records.tool(id, tool_call_id="call_2", record_id="2"),
            records.answer(id, content="I look", record_id="3"),
        ],
    )
    send("a", given(kind, "call_1", 1234))
    send("a", given(kind, "call_1", 1234), "b")
    first, *_others = turns_of(either)
    assert [(call.tool_call_id, call.result_size) for call in first.tools] == [
        ("call_1", 1234),
        ("call_2", None),
    ]
    assert first.answers == ("I look",)


def test_a_result_is_of_the_turn_that_brought_it_first(send: Turns, either: Database) -> None:
    send("a")
    second = send("a", given("messages", "call_1", 10))
    # An edit of what was before sends it again behind other links.
    send("edited", given("messages", "call_1", 10), given("messages", "call_2", 20))
    found = results_by_turn(either, "u-1", "s-1")
    assert [[each.tool_call_id for each in results] for results in found.values()] == [
        ["call_1"],
        ["call_2"],
    ]
    assert next(iter(found)) == second


def test_a_result_that_failed_says_so(send: Turns, records: Any, either: Database) -> None:
    send("a", told=lambda id: [records.tool(id, tool_call_id="call_1")])
    failed = given("messages", "call_1", 10)
    failed["content"][0]["is_error"] = True
    send("a", failed)
    assert turns_of(either)[0].tools[0].result_failed


def test_results_without_ids_belong_to_calls_by_name_and_order(
    send: Turns, records: Any, either: Database
) -> None:
    def result(size: int) -> dict[str, Any]:
        response = {"name": "Bash", "response": "x" * (size - 2)}
        return {"role": "user", "parts": [{"functionResponse": response}]}

    def calls(id: str) -> list[Any]:
        return [records.tool(id, tool_call_id="Bash-1234", tool="Bash")]

    send("a", told=calls)
    send("a", result(10), told=calls)
    send("a", result(10), result(20), told=calls)
    assert [turn.tools[0].result_size for turn in turns_of(either)] == [10, 20, None]


def test_what_is_no_message_or_was_cut_has_no_results(send: Turns, either: Database) -> None:
    send("a", [1], {"role": "user", "content": 5}, {"content": [None, {"type": "tool_result"}]})
    found = results_by_turn(either, "u-1", "s-1")
    assert [each.size for results in found.values() for each in results] == [0]


@pytest.mark.parametrize("indexed", [True, False])
def test_answers_are_searched_with_prompts(
    send: Turns, records: Any, either: Database, indexed: bool
) -> None:
    def told(id: str) -> list[Any]:
        return [
            records.prompt(id, prompt="where is the needle?", created_at=NOON, record_id="1"),
            records.answer(
                id, content="the needle is in the hay", created_at=NOON + 1, record_id="2"
            ),
        ]

    send("a", told=told)
    while indexed and index_more(either):
        pass
    hits = search_prompts(either, "needle", SessionFilter(), 10)
    assert [(hit.what, hit.excerpt) for hit in hits] == [
        ("answer", "the needle is in the hay"),
        ("prompt", "where is the needle?"),
    ]
    assert [hit.what for hit in search_prompts(either, "needle", SessionFilter(), 1)] == ["answer"]
    (hit,) = search_prompts(either, '"the hay"', SessionFilter(user="ada"), 10)
    assert (hit.what, hit.session_id) == ("answer", "s-1")
    assert search_prompts(either, "hay", SessionFilter(user="bob"), 10) == []
    either.execute("DELETE FROM model_answers")
    (hit,) = search_prompts(either, "needle", SessionFilter(), 10)
    assert hit.what == "prompt"
