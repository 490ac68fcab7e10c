"""``aigateway export``: every record once, whatever happens in between."""

from __future__ import annotations

import csv
import io
import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeAlias

import pytest
from click.testing import CliRunner, Result

from aigateway.actors.control.local.cache_turns import compare_more
from aigateway.actors.control.local.export import COLUMNS
from aigateway.actors.control.local.opening import open_address
from aigateway.actors.control.local.postgres_store import PostgresStore
from aigateway.actors.control.local.store import Store
from aigateway.actors.values.attribution import Attribution
from aigateway.actors.values.prompt_parts import PromptParts, encoded
from aigateway.http.cli.export import command

AnyStore: TypeAlias = Store | PostgresStore
Put: TypeAlias = Callable[..., str]


PARTS = encoded(PromptParts.of(b"tools.", b"system", (b"first.",)))


@pytest.fixture
def put(address: str, monkeypatch: pytest.MonkeyPatch, records: Any) -> Iterator[Put]:
    """Store a request of so many seconds ago, with a row of everything; returns its id."""
    monkeypatch.setenv("CODER_AI_GATEWAY_LOCAL_DB", address)
    monkeypatch.delenv("CODER_CONFIG_PATH", raising=False)
    database = open_address(address)
    store: AnyStore = PostgresStore(address, 1, 10) if "://" in address else Store(address, 1)

    def one(
        ago: float,
        *,
        ended: bool = True,
        prompts: tuple[str, ...] = ("why?",),
        compared: bool = True,
    ) -> str:
        at = time.time() - ago
        start = records.start(started_at=at, attribution=Attribution("s-1", project="shop"))
        store.write(
            [start],
            [
                records.tokens(start.id, record_id="1", created_at=at, metadata={"tier": "x"}),
                *(
                    records.prompt(start.id, record_id=str(n), created_at=at, prompt=prompt)
                    for n, prompt in enumerate(prompts)
                ),
                records.tool(start.id, record_id="1", created_at=at),
                records.thought(start.id, record_id="1", created_at=at),
                records.answer(start.id, record_id="1", created_at=at),
                records.sent(start.id, "why?"),
                *([records.end(start.id, ended_at=at + 1, prompt_parts=PARTS)] if ended else []),
            ],
        )
        if compared:
            compare_more(database, None)
        return str(start.id)

    yield one
    store.close()
    database.close()


def run(*arguments: str) -> Result:
    result = CliRunner().invoke(command, arguments)
    assert result.exception is None or isinstance(result.exception, SystemExit)
    return result


def rows(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines()]


def ids(text: str) -> list[str]:
    return [row["interception_id"] for row in rows(text)]


def test_what_is_not_compared_yet_stops_the_export_of_caches_and_no_other(put: Put) -> None:
    first = put(1000)
    waiting, last = put(900, compared=False), put(800, compared=False)
    assert ids(run("--kind", "caches").stdout) == [first]
    assert ids(run("--kind", "requests").stdout) == [first, waiting, last]
    put(700)
    assert len(ids(run("--kind", "caches").stdout)) == 4


@pytest.mark.parametrize("kind", COLUMNS)
def test_each_kind_has_its_rows_under_the_tables_names(put: Put, kind: str) -> None:
    put(1000)
    (row,) = rows(run("--kind", kind).stdout)
    assert tuple(row) == COLUMNS[kind]
    assert (row["username"], row["session_id"]) == ("ada", "s-1")
    if kind not in ("caches", "content"):
        assert row["metadata"] == ({"tier": "x"} if kind == "tokens" else {})
    found = list(csv.DictReader(io.StringIO(run("--kind", kind, "--format", "csv").stdout)))
    assert [tuple(each) for each in found] == [COLUMNS[kind]]
    assert found[0]["interception_id"] == row["interception_id"]


def test_the_oldest_come_first_and_times_choose(put: Put) -> None:
    new, old, middle = put(1000), put(3000), put(2000)
    assert ids(run().stdout) == [old, middle, new]
    borders = [time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(time.time() - ago))
               for ago in (2500, 1500)]  # fmt: skip
    assert ids(run("--since", borders[0], "--until", borders[1]).stdout) == [middle]
    assert run("--since", borders[1], "--until", borders[0]).exit_code == 2


def test_what_may_change_yet_is_left_for_the_next_time(put: Put) -> None:
    done = put(3000)
    put(2000, ended=False)
    put(1000)
    assert ids(run().stdout) == [done]
    lost = put(90_000, ended=False)
    assert ids(run().stdout) == [lost, done]


def test_a_request_that_has_just_begun_is_left_for_the_next_time(put: Put) -> None:
    done = put(1000)
    put(1)
    assert ids(run().stdout) == [done]


@pytest.mark.parametrize("form", ["jsonl", "csv"])
def test_going_on_brings_each_row_once_wherever_the_file_ended(
    put: Put, tmp_path: Path, form: str
) -> None:
    output = tmp_path / "prompts"
    prompts = ("=1+1", 'two\n"lines",\r', "größe " * 20_000)
    options = ("--kind", "prompts", "--format", form, "--output", str(output), "--resume")
    for ago in (3000, 2000):
        put(ago, prompts=prompts)
    assert run(*options).exit_code == 0
    put(1500, prompts=())
    put(1000, prompts=prompts)
    whole = run("--kind", "prompts", "--format", form).stdout_bytes
    first = output.read_bytes()
    assert whole.startswith(first)
    assert whole.count(b"\n") == 9 + (form == "csv")
    for cut in (0, 1, 100, len(first) // 3, len(first) // 2, len(first) - 1, len(first)):
        output.write_bytes(first[:cut])
        result = run(*options)
        assert result.exit_code == 0, result.output
        assert output.read_bytes() == whole
    assert run(*options).exit_code == 0
    assert output.read_bytes() == whole


def test_a_file_is_for_its_owner_and_is_written_anew_unless_it_is_gone_on_with(
    put: Put, tmp_path: Path
) -> None:
    put(1000)
    output = tmp_path / "requests.jsonl"
    for _ in range(2):
        assert run("--output", str(output)).exit_code == 0
        assert output.read_text() == run().stdout
    assert output.stat().st_mode & 0o777 == 0o600


def test_a_file_of_something_else_is_left_alone(put: Put, tmp_path: Path) -> None:
    put(1000)
    output = tmp_path / "other"
    tokens = run("--kind", "tokens").stdout
    table = run("--format", "csv").stdout
    for text in ("hello\n", "[]\n", '{"a": 1}\n', tokens, table):
        output.write_text(text)
        result = run("--output", str(output), "--resume")
        assert result.exit_code == 1
        assert "other records, or in another format" in result.stderr
        assert output.read_text() == text
    assert run("--resume").exit_code == 2
    missing = run("--output", str(tmp_path / "none" / "x"))
    assert missing.exit_code == 1
    assert "no such file" in missing.stderr


def test_more_than_a_page_of_requests_comes_whole(put: Put, address: str, records: Any) -> None:
    store: AnyStore = PostgresStore(address, 1, 10) if "://" in address else Store(address, 1)
    began = time.time() - 5000
    # Many at the same moment, so that a page ends between them.
    starts = [records.start(started_at=began + number // 300) for number in range(1200)]
    store.write(starts, [records.end(start.id) for start in starts])
    store.close()
    found = ids(run().stdout)
    assert len(found) == 1200
    assert set(found) == {start.id for start in starts}


def test_what_was_sent_is_exported_once_in_the_order_in_which_it_was_sent(
    put: Put, records: Any, address: str
) -> None:
    first, second = put(1000), put(900)
    store: AnyStore = PostgresStore(address, 1, 10) if "://" in address else Store(address, 1)
    store.write([], [records.sent(second, "why?", "therefore", "and then?", record_id="2")])
    store.close()
    found = rows(run("--kind", "content").stdout)
    assert [(row["interception_id"], row["place"]) for row in found] == [
        (first, 0),
        (second, 1),
        (second, 2),
    ]
    assert [json.loads(row["content"])["content"] for row in found] == [
        "why?",
        "therefore",
        "and then?",
    ]
    answers = rows(run("--kind", "answers").stdout)
    assert [each["content"] for each in answers] == ["it is done"] * 2
