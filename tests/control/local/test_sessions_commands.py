"""``aigateway sessions`` and ``aigateway session`` on the command line."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from aigateway.actors.control.local.opening import open_address
from aigateway.actors.control.local.postgres_store import PostgresStore
from aigateway.actors.control.local.store import Store
from aigateway.actors.values.attribution import Attribution
from aigateway.http.cli.session import command as session
from aigateway.http.cli.sessions import command as sessions

NOON = 1_772_280_000.0

Run = Callable[..., Result]
RESULT = {
    "type": "tool_result",
    "tool_use_id": "toolu_1",
    "content": "not there",
    "is_error": True,
}


@pytest.fixture
def run(address: str, records: Any, commands_on: Callable[[str], Run]) -> Run:
    """Run a command on a database with two sessions."""
    open_address(address).close()
    store = PostgresStore(address, 1, 10) if "://" in address else Store(address, 1)
    work = {"project": "shop", "repository": "git.example/acme/web", "branch": "fix/size"}
    first = records.start(attribution=Attribution("s-1", **work))
    helper = records.start(attribution=Attribution("s-1", "a-1"), started_at=NOON + 5)
    other = records.start(
        attribution=Attribution("s-2"), started_at=NOON + 100, username="bob", initiator_id="b"
    )
    same = records.start(attribution=Attribution("s-1"), username="bob", initiator_id="b")
    store.write(
        [first, helper, other, same],
        [
            records.prompt(first.id, prompt="make it fit\n\x1b[31mred", record_id="1"),
            records.thought(first.id, content="t" * 500, record_id="1"),
            records.tool(
                first.id, record_id="1", tool_call_id="toolu_1", invocation_error="no such tool"
            ),
            records.answer(first.id, content="fits\x1b[31m now", record_id="1"),
            records.tokens(first.id, input_tokens=12_345, record_id="1"),
            records.end(first.id),
            records.sent(helper.id, {"role": "user", "content": [RESULT]}),
            records.prompt(helper.id, prompt="look around", record_id="1"),
            records.tokens(helper.id, metadata={"iteration": "compaction"}, record_id="1"),
            records.end(helper.id, error_type="overloaded", error_message="too much"),
        ],
    )
    store.close()
    return commands_on(address)


def test_sessions_are_listed_with_what_they_were_for(run: Run) -> None:
    text = run(sessions).stdout
    lines = [line for line in text.splitlines() if "2026-02-28" in line]
    assert [line.split()[3] for line in lines] == ["s-2", "s-1", "s-1"]
    (ada,) = [line for line in lines if " ada " in line]
    assert "shop web fix/size" in ada
    assert "make it fit" in ada
    assert "12,365" in ada
    assert "\x1b" not in text


def test_filters_and_limits_reach_the_list(run: Run) -> None:
    def found(*arguments: str) -> list[tuple[str, str]]:
        rows = json.loads(run(sessions, "--json", *arguments).stdout)
        return [(row["username"], row["session_id"]) for row in rows]

    assert found("--limit", "1") == [("bob", "s-2")]
    assert found("--user", "ada") == [("ada", "s-1")]
    assert found("--project", "shop") == [("ada", "s-1")]
    assert found("--repository", "git.example/acme/web", "--branch", "fix/size") == [("ada", "s-1")]
    assert found("--since", "2026-02-28T12:01:00Z") == [("bob", "s-2")]
    assert found("--until", "2026-02-28T12:01:00Z", "--client", "Claude Code") != []
    assert found("--model", "nonesuch") == []
    assert "no such session" in run(sessions, "--model", "nonesuch").stdout


def test_prompts_are_searched(run: Run) -> None:
    text = run(sessions, "--search", "make fit").stdout
    assert "make it fit \\x1b[31mred" in text
    (hit,) = json.loads(run(sessions, "--search", "look", "--user", "ada", "--json").stdout)
    assert (hit["session_id"], hit["excerpt"]) == ("s-1", "look around")
    assert "no such prompt or answer" in run(sessions, "--search", "look", "--user", "bob").stdout
    assert run(sessions, "--search", "***").exit_code == 2


def test_a_session_is_shown_with_its_subagents_below_it(run: Run) -> None:
    lines = run(session, "s-1", "--user", "ada").stdout.splitlines()
    text = "\n".join(lines)
    assert "requests  2, 1 failed, 1 subagents" in text
    (turn,) = [line for line in lines if "12,345 in" in line and line.startswith("12:00:00")]
    assert "unpriced" in turn
    assert turn.endswith("2.0 s")
    for line in (
        "  prompt: make it fit \\x1b[31mred",
        f"  thought: {'t' * 160}…",
        '  tool: Bash {"command":"ls"}',
        "  tool failed: no such tool",
        "  tool result: 11 bytes, failed",
        "  answer: fits\\x1b[31m now",
        "subagent a-1",
        "      compaction: the provider has made the conversation shorter",
        "      prompt: look around",
        "      error: overloaded too much",
    ):
        assert line in lines
    assert lines.index("subagent a-1") < lines.index("      prompt: look around")
    full = run(session, "s-1", "--user", "ada", "--full").stdout
    assert f"    {'t' * 500}\n" in full
    assert "    make it fit\n    \\x1b[31mred\n" in full


def test_a_session_as_json_is_a_tree(run: Run) -> None:
    found = json.loads(run(session, "s-1", "--user", "ada", "--json").stdout)
    assert (found["session_id"], found["requests"]) == ("s-1", 2)
    (turn,) = found["timeline"]["turns"]
    assert turn["tools"][0]["input"] == '{"command":"ls"}'
    assert turn["tools"][0]["result_size"] == 11
    assert turn["answers"] == ["fits\x1b[31m now"]
    assert turn["tokens"]["input_tokens"] == 12_345
    (agent,) = found["timeline"]["agents"]
    assert (agent["id"], agent["turns"][0]["error_type"]) == ("a-1", "overloaded")


def test_whose_session_must_be_said_where_several_have_it(run: Run) -> None:
    result = run(session, "s-1")
    assert result.exit_code == 2
    assert "--user ada, bob" in result.stderr
    result = run(session, "s-3")
    assert result.exit_code == 1
    assert 'no session "s-3"' in result.stderr


def test_a_database_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    missing = str(tmp_path / "none.db")
    for arguments in (("--local-db", missing), ("s-1", "--local-db", missing)):
        command = sessions if len(arguments) == 2 else session
        result = CliRunner().invoke(command, arguments)
        assert result.exit_code == 1
        assert "there is no such file" in result.stderr
