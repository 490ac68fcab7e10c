"""Whoever looks by a command at what users have said is in the audit log."""

from __future__ import annotations

import getpass
import json
import time
from contextlib import closing
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from aigateway.actors.control.local.audit import list_changes
from aigateway.actors.control.local.opening import open_address
from aigateway.actors.control.local.store import Store
from aigateway.actors.values.attribution import Attribution
from aigateway.actors.values.records import InterceptionBegun, InterceptionEnded, PromptUsage
from aigateway.http.cli import cli


@pytest.fixture
def database(tmp_path: Path) -> Path:
    """With a session of ada's and one of bob's."""
    path, long_ago = tmp_path / "local.db", time.time() - 1000
    with closing(open_address(str(path))), closing(Store(path, 5.0)) as store:
        for name in ("ada", "bob"):
            store.write(
                [
                    InterceptionBegun(
                        id=f"i-{name}", initiator_id=f"u-{name}", username=name, api_key_id="k",
                        provider="anthropic", provider_name="anthropic", model="m", client="c",
                        user_agent="a", started_at=long_ago,
                        attribution=Attribution(session_id=f"s-{name}"),
                    )
                ],
                [
                    PromptUsage(interception_id=f"i-{name}", msg_id="m",
                                prompt=f"an apple of {name}", created_at=long_ago),
                    InterceptionEnded(id=f"i-{name}", ended_at=long_ago + 1),
                ],
            )  # fmt: skip
    return path


def run(database: Path, *argv: str) -> Result:
    return CliRunner().invoke(cli, [*argv, "--local-db", str(database)])


def looks(database: Path) -> list[tuple[str, str, object]]:
    with closing(open_address(str(database))) as opened:
        found = list_changes(opened, 100)
    assert {each["who"] for each in found} <= {f"command line: {getpass.getuser()}"}
    return [(each["action"], each["subject"], each["after"]) for each in found]


@pytest.mark.parametrize(
    ("argv", "action", "subject", "after"),
    [
        (("session", "s-ada"), "look.session", "session s-ada of user ada", {"user_id": "u-ada"}),
        (("sessions",), "look.sessions", "first prompts of sessions of ada, bob",
         {"user_ids": ["u-ada", "u-bob"]}),
        (("sessions", "--user", "bob"), "look.sessions", "first prompts of sessions of bob",
         {"user_ids": ["u-bob"]}),
        (("sessions", "--search", "apple bob"), "look.search", "prompts and answers of bob",
         {"user_ids": ["u-bob"], "search": "apple bob"}),
        (("export", "--kind", "prompts"), "look.export", "prompts of all users",
         {"since": None, "until": None, "format": "jsonl"}),
        (("export", "--kind", "tools", "--format", "csv"), "look.export", "tools of all users",
         {"since": None, "until": None, "format": "csv"}),
        (("export", "--kind", "answers"), "look.export", "answers of all users",
         {"since": None, "until": None, "format": "jsonl"}),
        (("export", "--kind", "content"), "look.export", "content of all users",
         {"since": None, "until": None, "format": "jsonl"}),
        (("export", "--kind", "thoughts"), "look.export", "thoughts of all users",
         {"since": None, "until": None, "format": "jsonl"}),
    ],
)  # fmt: skip
@pytest.mark.parametrize("as_json", [True, False])
def test_a_look_is_noted(
    database: Path,
    argv: tuple[str, ...],
    action: str,
    subject: str,
    after: object,
    as_json: bool,
) -> None:
    if as_json and argv[0] != "export":
        argv = (*argv, "--json")
    result = run(database, *argv)
    assert result.exit_code == 0, result.output
    assert looks(database) == [(action, subject, after)]


@pytest.mark.parametrize(
    "argv",
    [
        ("sessions", "--user", "nobody"),
        ("sessions", "--search", "pear"),
        ("session", "s-nobody"),
        ("export", "--kind", "requests"),
        ("export", "--kind", "tokens"),
        ("export", "--kind", "caches"),
        ("usage",),
        ("keys", "list"),
        ("users", "list"),
    ],
)
def test_what_has_nothing_that_was_said_is_none(database: Path, argv: tuple[str, ...]) -> None:
    run(database, *argv)
    assert looks(database) == []


@pytest.mark.parametrize(
    "argv",
    [
        ("sessions",),
        ("session", "s-ada"),
        ("sessions", "--search", "apple"),
        ("export", "--kind", "prompts"),
    ],
)
def test_what_cannot_be_noted_is_not_shown(database: Path, argv: tuple[str, ...]) -> None:
    with closing(open_address(str(database))) as opened:
        opened.execute(
            "CREATE TRIGGER full BEFORE INSERT ON audit BEGIN SELECT raise(ABORT, 'full'); END"
        )
    result = run(database, *argv)
    assert result.exit_code == 1
    assert "cannot be noted" in result.output
    assert "apple" not in result.output


def test_a_list_of_many_users_names_some(database: Path) -> None:
    with closing(Store(database, 5.0)) as store:
        for number in range(30):
            store.write(
                [
                    InterceptionBegun(
                        id=f"i-{number}", initiator_id=f"u-{number}", username=f"user{number:02}",
                        api_key_id="k", provider="anthropic", provider_name="anthropic",
                        model="m", client="c", user_agent="a", started_at=time.time(),
                        attribution=Attribution(session_id="s"),
                    )
                ],
                [
                    PromptUsage(interception_id=f"i-{number}", msg_id="m", prompt="p",
                                created_at=time.time())
                ],
            )  # fmt: skip
    told = json.loads(run(database, "sessions", "--limit", "40", "--json").output)
    assert len(told) == 32
    ((_action, subject, after),) = looks(database)
    assert subject.endswith("user17 and 12 more")
    assert isinstance(after, dict)
    assert len(after["user_ids"]) == 32
