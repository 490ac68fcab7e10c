"""The page for teams, from its first command to its last, on two gateways and PostgreSQL."""

from __future__ import annotations

import csv
import os
import re
import stat
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
import requests
from gateway_process import GatewayProcess, Upstream, wait_until
from imitation_provider import ScriptedProvider, imitate
from postgres_server import PASSWORD, postgres_server, without_password

from aigateway.actors.control.local.opening import open_address

PAGE = (Path(__file__).parents[2] / "docs" / "team.md").read_text(encoding="utf-8")
SECTIONS = re.split(r"^## ", PAGE, flags=re.MULTILINE)[1:]


@pytest.fixture
def environ(tmp_path: Path) -> Iterator[dict[str, str]]:
    """Where the page's commands find the program and the database."""
    program = tmp_path / "bin" / "aigateway"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m aigateway.http "$@"\n')
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    with postgres_server() as server:
        yield {
            "PATH": f"{program.parent}{os.pathsep}{os.environ['PATH']}",
            "CODER_AI_GATEWAY_LOCAL_DB": without_password(server.new_database()),
            "PGPASSWORD": PASSWORD,
        }


def follow(section: int, folder: Path, environ: dict[str, str]) -> str:
    """Give the commands of a section; what they print."""
    blocks = re.findall(r"^```sh\n(.*?)^```$", SECTIONS[section - 1], re.DOTALL | re.MULTILINE)
    assert blocks
    done = subprocess.run(
        ["/bin/sh", "-e"],
        input="\n".join(blocks),
        cwd=folder,
        env={**os.environ, **environ},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def refusal(gateway: GatewayProcess, key: str, model: str) -> str:
    """What a request is refused for; empty when it is answered."""
    answer = requests.post(
        f"{gateway.url}/anthropic/v1/messages",
        json={"model": model, "max_tokens": 9, "messages": [{"role": "user", "content": "hi"}]},
        headers={"X-Api-Key": key},
        timeout=30,
    )
    return "" if answer.ok else str(answer.json()["error"]["message"])


@pytest.mark.timeout(400)
def test_the_page_leads_to_two_gateways_with_three_groups(
    tmp_path: Path, environ: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PGPASSWORD", PASSWORD)
    assert "schema: version" in follow(1, tmp_path, environ)
    with ScriptedProvider(otherwise=imitate()) as provider:
        first, second = (
            GatewayProcess(
                tmp_path / name,
                [Upstream("anthropic", provider.url)],
                local=False,
                environ={"CODER_AI_GATEWAY_LOCAL": "true", **environ},
            )
            for name in ("first", "second")
        )
        with first, second:
            users = follow(3, tmp_path, environ)
            for name in ("alice", "bob", "carol", "dave", "engineering/ci"):
                assert name in users
            with open(tmp_path / "keys.csv", encoding="utf-8") as file:
                keys = {row["username"]: row["key"] for row in csv.DictReader(file)}
            for gateway in (first, second):
                assert refusal(gateway, keys["alice"], "claude-opus-5") == ""
            assert "Applied as version 1." in follow(4, tmp_path, environ)
            said = re.search(r"^the model .*$", PAGE, re.MULTILINE)
            assert said is not None
            for gateway in (first, second):
                wait_until(
                    lambda gateway=gateway: refusal(gateway, keys["alice"], "claude-opus-5"),
                    "the policy holds",
                    5,
                )
                assert refusal(gateway, keys["alice"], "claude-opus-5") == said[0]
                assert refusal(gateway, keys["alice"], "claude-sonnet-5") == ""
                assert refusal(gateway, keys["carol"], "claude-opus-5") == ""
                assert "groups.support.models" in refusal(gateway, keys["dave"], "claude-sonnet-5")
            shown = follow(5, tmp_path, environ)
            assert "Everything that was used has a price." in shown
            # Research's cap has been asked for, and a day's of those who asked.
            for told in ("research", "$1,500.00", "alice", "$20.00"):
                assert told in shown
            statement = re.search(r"^```sql\n(.*?)^```$", PAGE, re.DOTALL | re.MULTILINE)
            assert statement is not None
            with closing(open_address(environ["CODER_AI_GATEWAY_LOCAL_DB"])) as database:
                changes = database.execute(statement[1].strip().rstrip(";")).fetchall()
            actions = {action for _at, _who, action, *_ in changes}
            assert {"user.disable", "user.enable", "key.create", "policy.apply"} <= actions
            for gateway in (first, second):
                assert refusal(gateway, keys["bob"], "claude-sonnet-5") == ""
                assert refusal(gateway, keys["dave"], "claude-sonnet-5") == ""
