"""What the pages show of the records."""

from __future__ import annotations

import csv
import io
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from html import unescape
from pathlib import Path
from typing import Any

import pytest
from console_process import ConsoleProcess
from waiting import PATIENCE

from aigateway.actors.control.local.board import looked_at
from aigateway.actors.control.local.schema import open_database, read_database


def rows(page: str) -> list[list[str]]:
    """The cells of a page's tables, as text."""
    found = []
    for line in re.findall(r"<tr[^>]*>(.*?)</tr>", page, re.DOTALL):
        cells = re.findall(r"<t[dh][^>]*>(.*?)</t[dh]>", line, re.DOTALL)
        texts = [" ".join(unescape(re.sub(r"<[^>]+>", "", cell)).split()) for cell in cells]
        found.append(texts)
    return found


def usage(database: Path, by: str) -> dict[str, dict[str, Any]]:
    """What the command says of the same records."""
    done = subprocess.run(
        [
            sys.executable, "-m", "aigateway.http", "usage", "--local-db", str(database),
            "--by", by, "--format", "json",
        ],
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=True,
    )  # fmt: skip
    return {row[by]: row for row in json.loads(done.stdout)["rows"]}


@pytest.mark.parametrize("by", ["user", "model", "provider", "client", "day"])
def test_the_csv_has_the_sums_that_the_command_has(
    console: ConsoleProcess, weeks: Path, by: str
) -> None:
    answer = console.get(f"/spend.csv?by={by}&days=90")
    assert answer.headers["Content-Type"] == "text/csv; charset=utf-8"
    found = {line[by]: line for line in csv.DictReader(io.StringIO(answer.text))}
    told = usage(weeks, by)
    assert found.keys() == told.keys()
    for name, line in found.items():
        assert int(line["requests"]) == told[name]["interceptions"]
        for column in (
            "errors", "input_tokens", "output_tokens", "cache_read_input_tokens",
            "cache_write_input_tokens", "cost_nano_usd", "unpriced",
        ):  # fmt: skip
            assert int(line[column]) == told[name][column], (name, column)


def test_the_page_shows_what_its_csv_has(console: ConsoleProcess) -> None:
    table = {row[0]: row for row in rows(console.get("/spend?by=model&days=90").text)}
    for line in csv.DictReader(io.StringIO(console.get("/spend.csv?by=model&days=90").text)):
        dollars = int(line["cost_nano_usd"]) / 1e9
        assert float(table[line["model"]][1].removeprefix("$")) == pytest.approx(dollars, abs=0.006)


def test_sums_are_narrowed_by_what_is_chosen(console: ConsoleProcess) -> None:
    page = console.get("/spend?by=model&days=90&user=edsger&client=Gemini+CLI").text
    names = {row[0] for row in rows(page)}
    assert names >= {"gemini-2.5-flash", "gemini-3-pro-preview"}
    assert not any(name.startswith(("claude", "gpt")) for name in names)
    assert '<option value="edsger" selected>' in page


@pytest.mark.parametrize("query", ["by=moon", "by=record_id", "days=0", "days=100000", "days=x"])
def test_a_sum_that_there_is_not_is_refused(console: ConsoleProcess, query: str) -> None:
    console.get(f"/spend?{query}", 400)


def test_pages_of_requests_lead_through_all_of_them_once(
    console: ConsoleProcess, weeks: Path
) -> None:
    with closing(open_database(weeks)) as database:
        told = [
            row[0]
            for row in database.execute(
                "SELECT id FROM interceptions WHERE username = 'edsger'"
                " ORDER BY started_at DESC, id DESC"
            )
        ]
    found: list[str] = []
    address: str | None = "/requests?user=edsger"
    while address is not None:
        page = console.get(address).text
        found += re.findall(r'<tr id="r-([^"]+)"', page)
        older = re.search(r'href="([^"]+)">Older<', page)
        address = unescape(older[1]) if older else None
    assert found == told
    assert len(found) > 100


def test_requests_that_failed_can_be_looked_for(console: ConsoleProcess) -> None:
    table = rows(console.get("/requests?status=failed").text)[1:]
    assert table
    assert {row[8] for row in table} <= {"rate_limited", "overloaded", "unknown"}


def test_a_request_is_shown_with_all_that_was_recorded(
    console: ConsoleProcess, weeks: Path
) -> None:
    with closing(open_database(weeks)) as database:
        (chosen, prompt, tool, given, session) = database.execute(
            "SELECT id, prompt, tool, tool_usages.input, client_session_id FROM interceptions"
            " JOIN user_prompts ON user_prompts.interception_id = id"
            " JOIN tool_usages ON tool_usages.interception_id = id LIMIT 1"
        ).fetchone()
    page = unescape(console.get(f"/requests/{chosen}").text)
    for text in (chosen, prompt, tool, given, session, "Into cache", "claude-cli"):
        if text != "claude-cli" or "claude" in page:
            assert text in page
    assert re.findall(r'class="kind">(\w+)', page)[0] == "prompt"
    assert console.get(f"/requests/{chosen}/prompt/0").text == prompt
    console.get(f"/requests/{chosen}/prompt/7", 404)
    console.get(f"/requests/{chosen}/secret/0", 404)
    console.get("/requests/nobody-knows", 404)


def test_sessions_lead_to_what_happened_in_them(console: ConsoleProcess, weeks: Path) -> None:
    with closing(open_database(weeks)) as database:
        (session, agent, prompt) = database.execute(
            "SELECT session_id, max(agent_id), max(prompt) FROM interceptions"
            " LEFT JOIN user_prompts ON interception_id = id WHERE username = 'ada'"
            " GROUP BY session_id HAVING max(agent_id) IS NOT NULL AND max(prompt) IS NOT NULL"
            " ORDER BY max(started_at) DESC LIMIT 1"
        ).fetchone()
    page = console.get("/sessions?user=ada&client=Claude+Code").text
    assert {row[1] for row in rows(page)[1:]} == {"ada"}
    (address,) = re.findall(rf'href="(/sessions/[^"]+{session}[^"]*)"', page)
    page = unescape(console.get(unescape(address)).text)
    for text in (session, agent, prompt):
        assert text in page
    # Each of its requests, whoever of the agents made it.
    with closing(open_database(weeks)) as database:
        ids = database.execute("SELECT id FROM interceptions WHERE session_id = ?", [session])
        assert set(re.findall(r'"/requests/([^"?]+)"', page)) == {row[0] for row in ids}
    console.get("/sessions/one?user=nobody&session=nothing", 404)
    assert "No such session" in console.get("/sessions?branch=no-such-branch").text


def test_a_session_that_no_page_could_hold_says_so(tmp_path: Path, weeks: Path) -> None:
    database = tmp_path / "long.db"
    database.write_bytes(weeks.read_bytes())
    with closing(open_database(database)) as changed:
        changed.execute("UPDATE interceptions SET session_id = 'all' WHERE username = 'ada'")
        changed.execute(
            "UPDATE session_parts SET session_id = 'all' WHERE id = (SELECT id FROM session_parts"
            " WHERE username = 'ada' ORDER BY last_at DESC LIMIT 1)"
        )
    with ConsoleProcess(tmp_path, database) as console:
        (address,) = re.findall(r'href="(/sessions/one[^"]+=all)"', console.get("/sessions").text)
        page = console.get(unescape(address)).text
    assert "more than one page shows" in page
    assert len(page) < 20_000


def test_a_model_without_a_price_is_named(tmp_path: Path, weeks: Path) -> None:
    database = tmp_path / "unpriced.db"
    database.write_bytes(weeks.read_bytes())
    with closing(open_database(database)) as changed:
        changed.execute("UPDATE interceptions SET model = 'house-model' WHERE username = 'ada'")
        changed.execute(
            "UPDATE token_usages SET cost_nano_usd = NULL, price = NULL WHERE interception_id IN"
            " (SELECT id FROM interceptions WHERE model = 'house-model')"
        )
    with ConsoleProcess(tmp_path, database) as console:
        page = console.get("/spend?by=user").text
    assert "Without a price" in page
    table = {row[0]: row for row in rows(page)}
    assert table["anthropic"][1] == "house-model"
    # What has no price is said to have none, and is not free.
    assert table["ada"][1] == "unpriced"


@pytest.fixture
def empty(tmp_path: Path) -> Iterator[ConsoleProcess]:
    database = tmp_path / "empty.db"
    open_database(database).close()
    with ConsoleProcess(tmp_path, database) as console:
        yield console


def test_empty_pages_say_what_to_do(empty: ConsoleProcess) -> None:
    assert "Set up a client" in empty.get("/now").text
    assert "No request yet" in empty.get("/now").text
    assert "Nothing was used" in empty.get("/spend").text
    assert "No such request" in empty.get("/requests").text
    for path in ("/providers", "/actors"):
        page = empty.get(path).text
        assert "No gateway answers" in page
        assert "aigateway start --local" in page
    assert empty.get("/spend.csv").text.count("\n") == 1


def test_a_database_that_is_not_there_is_named(tmp_path: Path) -> None:
    with ConsoleProcess(tmp_path, tmp_path / "nowhere.db") as console:
        for path in ("/spend", "/requests"):
            assert "nowhere.db: there is no such file" in console.get(path, 503).text
        # What does not need it is shown all the same.
        for path in ("/now", "/providers"):
            assert "nowhere.db: there is no such file" in console.get(path).text
        console.get("/setup")
        # And it is there as soon as it is there.
        open_database(tmp_path / "nowhere.db").close()
        console.get("/spend")


def test_pages_without_what_anybody_said_write_only_that_somebody_looks(
    console: ConsoleProcess, weeks: Path
) -> None:
    def kept() -> list[str]:
        with closing(read_database(weeks)) as database:
            return [line for line in database.iterdump() if '"console_looks"' not in line]

    before = kept()
    for path in ("/spend", "/people", "/policy", "/audit", "/setup", "/providers"):
        console.get(path)
    assert kept() == before
    with closing(read_database(weeks)) as database:
        assert looked_at(database) == {"providers"}


def test_lines_for_clients_have_the_address_that_was_given(console: ConsoleProcess) -> None:
    page = unescape(console.get("/setup?address=https://gateway.example").text)
    for line in (
        "ANTHROPIC_BASE_URL=https://gateway.example/anthropic\n",
        'base_url = "https://gateway.example/openai/v1"',
        "GOOGLE_GEMINI_BASE_URL=https://gateway.example/gemini\n",
        '"baseURL": "https://gateway.example/anthropic/v1"',
    ):
        assert line in page


def test_a_break_of_the_cache_is_marked_with_its_cause_and_what_it_cost(
    weeks: Path, tmp_path: Path
) -> None:
    database = tmp_path / "broken.db"
    database.write_bytes(weeks.read_bytes())
    with closing(open_database(database)) as changed:
        id, user, session, model = changed.execute(
            "SELECT id, initiator_id, session_id, model FROM interceptions"
            " WHERE session_id IS NOT NULL AND username = 'ada' ORDER BY started_at LIMIT 1"
        ).fetchone()
        changed.execute("DELETE FROM cache_turns WHERE session_id = ?", (session,))
        changed.execute(
            "INSERT INTO cache_turns (interception_id, user_id, session_id, agent_id, began, model,"
            " provider_name, credential_hint, ttl, prompt_tokens, kept_tokens, read_tokens,"
            " could_tokens, lost_tokens, cause, place, cost_nano_usd)"
            " VALUES (?, ?, ?, '', 0, ?, 'p', '', 300, 50000, 50000, 1000, 41000, 40000,"
            " 'message', 7, 180000000)",
            (id, user, session, model),
        )
    with ConsoleProcess(tmp_path, database) as console:
        page = console.get(f"/sessions/one?user={user}&session={session}").text
    told = " ".join(unescape(re.sub(r"<[^>]+>", "", page)).split())
    assert (
        "Cache break: message 7. 40.0k of 41.0k tokens were not read again, which cost $0.18."
        in told
    )
    assert "Cache breaks 1$0.18 for 40.0k tokens" in told
