"""``aigateway me``: whoever has a key sees what is theirs, over HTTP, and nothing of others."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from pathlib import Path
from subprocess import CompletedProcess, run
from urllib.parse import quote

import pytest
import requests
from attrs import frozen
from gateway_process import GatewayProcess, Upstream, wait_until
from imitation_provider import ScriptedProvider, imitate
from postgres_server import PASSWORD, postgres_server, without_password
from waiting import PATIENCE

from aigateway.actors.control.local.api_keys import create_key
from aigateway.actors.control.local.opening import open_address, read_address
from aigateway.actors.control.local.policies import apply

CAPPED = "everybody: {unpriced: allow, caps: [{usd: 1000, every: month, per: user}]}"
SESSION = "s/1+2"
"""Ids are the clients' own."""


@frozen
class Place:
    """A gateway that ada and bob have asked, each in a session of the same id."""

    gateway: GatewayProcess
    address: str
    keys: dict[str, str]

    def get(self, what: str, who: str = "ada", **query: str) -> requests.Response:
        return requests.get(
            f"{self.gateway.url}/api/me/v1/{what}",
            params=query,
            headers={"Authorization": f"Bearer {self.keys[who]}"},
            timeout=PATIENCE,
        )

    def me(
        self,
        *argv: str,
        key: str | None = "ada",
        stdin: str = "",
        environ: dict[str, str] | None = None,
    ) -> CompletedProcess[str]:
        told = {"AIGATEWAY_URL": self.gateway.url, "PATH": "/usr/bin", "COLUMNS": "200"}
        if key is not None:
            told["AIGATEWAY_KEY"] = self.keys[key]
        return run(
            [sys.executable, "-m", "aigateway.http", "me", *argv],
            env={**told, **(environ or {})}, input=stdin, capture_output=True, text=True,
            check=False,
        )  # fmt: skip


def ask(place: Place, who: str, prompt: str) -> None:
    body = {
        "model": f"model-of-{who}", "max_tokens": 5,
        "messages": [{"role": "user", "content": prompt}],
    }  # fmt: skip
    answered = requests.post(
        f"{place.gateway.url}/anthropic/v1/messages",
        json=body,
        headers={
            "X-Api-Key": place.keys[who],
            "User-Agent": "claude-cli/2.1",
            "X-Claude-Code-Session-Id": SESSION,
        },
        timeout=PATIENCE,
    )
    assert answered.status_code == 200, answered.text


@contextmanager
def gateway_at(gateway: GatewayProcess, address: str) -> Iterator[Place]:
    """With what ada and bob have asked."""
    with gateway:
        keys = {}
        with closing(open_address(address)) as database:
            for who in ("ada", "bob"):
                keys[who] = create_key(database, who).token
            apply(database, CAPPED, over=0, who="test")
        place = Place(gateway, address, keys)
        ask(place, "ada", "an apple pie")
        ask(place, "bob", "a zebra crossing")
        ask(place, "ada", "a second apple")

        def ended() -> bool:
            with closing(read_address(address)) as database:
                (count,) = database.execute(
                    "SELECT count(*) FROM interceptions WHERE ended_at IS NOT NULL"
                ).fetchone()
            return bool(count == 3)

        wait_until(ended, "all requests have ended")
        yield place


@pytest.fixture(scope="module", params=["gevent", "gthread", "postgresql"])
def place(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Place]:
    folder = tmp_path_factory.mktemp("gateway")
    with ScriptedProvider(otherwise=imitate()) as provider:
        upstreams = [Upstream("anthropic", provider.url)]
        if request.param != "postgresql":
            address = str(folder / "gateway.db")
            gateway = GatewayProcess(folder, upstreams, ["--worker-class", request.param])
            with gateway_at(gateway, address) as place:
                yield place
            return
        with postgres_server() as server:
            address = server.new_database()
            gateway = GatewayProcess(
                folder, upstreams, local=False,
                environ={
                    "CODER_AI_GATEWAY_LOCAL": "true",
                    "CODER_AI_GATEWAY_LOCAL_DB": without_password(address),
                    "PGPASSWORD": PASSWORD,
                },
            )  # fmt: skip
            with gateway_at(gateway, address) as place:
                yield place


def test_somebody_sees_their_own_sessions(place: Place) -> None:
    told = place.get("sessions").json()
    assert [each["session_id"] for each in told] == [SESSION]
    assert (told[0]["username"], told[0]["requests"]) == ("ada", 2)
    assert told[0]["models"] == ["model-of-ada"]
    assert place.get("sessions", model="model-of-bob").json() == []
    found = place.get(f"sessions/{quote(SESSION, safe='')}").json()
    turns = found["timeline"]["turns"]
    assert [turn["prompts"][0]["text"] for turn in turns] == ["an apple pie", "a second apple"]
    assert [each["excerpt"] for each in place.get("sessions", search="apple").json()]
    assert place.get("sessions", search="zebra").json() == []
    for what in ("sessions", f"sessions/{quote(SESSION, safe='')}", "usage"):
        assert "zebra" not in place.get(what).text
        assert "bob" not in place.get(what).text


def test_usage_and_caps_are_ones_own(place: Place) -> None:
    told = place.get("usage").json()
    assert [(row["group"], row["interceptions"]) for row in told["rows"]] == [(["model-of-ada"], 2)]
    by_user = place.get("usage", by="user,day", since="2026-01-01").json()
    assert [row["group"][0] for row in by_user["rows"]] == ["ada"]
    assert [(cap["scope"], cap["name"]) for cap in told["caps"]] == [("user", "ada")]
    assert place.get("usage", until="2026-01-01").json()["rows"] == []


def test_who_asks_is_told_as_whom(place: Place) -> None:
    told = place.get("user", "bob").json()
    assert told["name"] == "bob"
    assert place.keys["bob"].startswith(told["key"])


@pytest.mark.parametrize(
    ("what", "query", "status"),
    [
        ("sessions/other", {}, 404),
        ("sessions/", {}, 404),
        ("nothing", {}, 404),
        ("sessions", {"user": "bob"}, 400),
        ("sessions", {"owner": "bob"}, 400),
        ("usage", {"user": "bob"}, 400),
        ("usage", {"by": "initiator_id"}, 400),
        ("sessions", {"limit": "0"}, 400),
        ("sessions", {"limit": "1001"}, 400),
        ("sessions", {"since": "last year"}, 400),
        ("sessions", {"since": "0001-01-01T00:00:00+14:00"}, 400),
        ("sessions", {"search": "?!"}, 400),
        ("sessions", {"client": "a\0b"}, 400),
        ("sessions/a%00b", {}, 400),
    ],
)
def test_what_cannot_be_answered_is_told(
    place: Place, what: str, query: dict[str, str], status: int
) -> None:
    said = place.get(what, **query)
    assert said.status_code == status
    assert said.json()["message"]
    assert "zebra" not in said.text


def test_nobody_is_told_anything_without_a_key_that_is_good(place: Place) -> None:
    url = f"{place.gateway.url}/api/me/v1/sessions"
    assert requests.get(url, timeout=PATIENCE).status_code == 400
    wrong = {"Authorization": f"Bearer {place.keys['ada'][:-1]}x"}
    assert requests.get(url, headers=wrong, timeout=PATIENCE).status_code == 403
    good = {"X-Api-Key": place.keys["ada"]}
    assert requests.get(url, headers=good, timeout=PATIENCE).status_code == 200
    assert requests.post(url, headers=good, json={}, timeout=PATIENCE).status_code == 405


def test_many_who_ask_at_once_are_all_answered(place: Place) -> None:
    with ThreadPoolExecutor(12) as pool:
        said = list(pool.map(lambda _n: place.get("sessions"), range(24)))
    assert {each.status_code for each in said} == {200}


def test_the_command_shows_it(place: Place) -> None:
    listed = place.me("sessions")
    assert listed.returncode == 0, listed.stderr
    assert SESSION in listed.stdout
    assert "an apple pie" in listed.stdout
    one = place.me("session", SESSION)
    assert one.returncode == 0, one.stderr
    assert "a second apple" in one.stdout
    found = place.me("sessions", "--search", "second")
    assert "a second apple" in found.stdout
    used = place.me("usage", "--by", "model", "--since", "7d")
    assert used.returncode == 0, used.stderr
    assert "model-of-ada" in used.stdout
    assert "cap of this user ada, every month" in used.stdout
    for each in (listed, one, found, used):
        assert "zebra" not in each.stdout
        assert "bob" not in each.stdout
    for argv in (("sessions",), ("session", SESSION), ("usage",)):
        path = f"sessions/{quote(SESSION, safe='')}" if argv[0] == "session" else argv[0]
        assert json.loads(place.me(*argv, "--json").stdout) == place.get(path).json()


def test_the_key_is_in_the_environment_a_file_or_standard_input(
    place: Place, tmp_path: Path
) -> None:
    (tmp_path / "key").write_text(f"{place.keys['bob']}\n")
    for told in (
        place.me("sessions", "--key-file", str(tmp_path / "key"), key=None),
        place.me("sessions", "--key-file", "-", key=None, stdin=f" {place.keys['bob']}\n"),
        place.me("sessions", key="bob"),
    ):
        assert "zebra" in told.stdout, told.stderr
    missing = place.me("sessions", key=None)
    assert missing.returncode == 2
    assert "AIGATEWAY_KEY" in missing.stderr
    option = place.me("sessions", "--key", place.keys["bob"])
    assert option.returncode == 2
    wrong = place.me("sessions", environ={"AIGATEWAY_KEY": "wrong-key"})
    assert wrong.returncode == 1
    assert "answers 403" in wrong.stderr
    assert "wrong-key" not in wrong.stderr
    away = place.me("sessions", "--url", "http://127.0.0.1:1")
    assert away.returncode == 1
    assert "127.0.0.1:1" in away.stderr
    assert "Traceback" not in away.stderr
    unknown = place.me("session", "of-nobody")
    assert unknown.returncode == 1
    assert "no such session" in unknown.stderr
