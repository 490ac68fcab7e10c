"""Gateways that share a PostgreSQL database, which is killed while they serve."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
import requests
from gateway_process import GatewayProcess, Upstream, wait_until
from imitation_provider import ScriptedProvider, imitate
from load import Load
from postgres_server import PASSWORD, PostgresServer, postgres_server, without_password

from aigateway.actors.control.local.api_keys import create_key
from aigateway.actors.control.local.opening import open_address
from aigateway.actors.control.local.policies import apply

KILLS = 10
CAPPED = "everybody: {unpriced: allow, caps: [{usd: 1000, every: month}]}"


@pytest.fixture
def provider() -> Iterator[ScriptedProvider]:
    with ScriptedProvider(otherwise=imitate()) as provider:
        yield provider


@pytest.fixture
def server() -> Iterator[PostgresServer]:
    with postgres_server() as server:
        yield server


def gateway(
    folder: Path, provider: ScriptedProvider, address: str, *options: str, workers: int = 2
) -> GatewayProcess:
    """One that has the password from its environment, and the rest of the address as well."""
    return GatewayProcess(
        folder,
        [Upstream("anthropic", provider.url)],
        options,
        workers=workers,
        local=False,
        environ={
            "CODER_AI_GATEWAY_LOCAL": "true",
            "CODER_AI_GATEWAY_LOCAL_DB": without_password(address),
            "PGPASSWORD": PASSWORD,
        },
    )


def key_for(address: str, user: str) -> str:
    with closing(open_address(address)) as database:
        return create_key(database, user).token


def reserved(server: PostgresServer, address: str) -> int:
    """How many reservations there are, or calls that tills believe to be running."""
    with server.connect(address) as connection:
        row = connection.execute(
            "SELECT (SELECT count(*) FROM cap_holds) + (SELECT sum(abs(running)) FROM cap_tills)"
        ).fetchone()
    assert row is not None
    return int(str(row[0]))


def check_records(server: PostgresServer, address: str, load: Load) -> None:
    """What each client has seen is recorded: once, with its usage and its end."""
    seen = {one.interception_id for one in load.outcomes if not one.problem}
    assert len(seen) > KILLS

    def missing() -> set[str]:
        with server.connect(address) as connection:
            rows = connection.execute("SELECT id FROM interceptions WHERE ended_at IS NOT NULL")
            return seen - {str(id) for (id,) in rows}

    wait_until(lambda: not missing(), "all records are there", 60)
    with server.connect(address) as connection:
        usage = Counter(
            id for (id,) in connection.execute("SELECT interception_id FROM token_usages")
        )
        prompts = Counter(
            id for (id,) in connection.execute("SELECT interception_id FROM user_prompts")
        )
    assert {usage[id] for id in seen} == {1}
    assert set(usage.values()) == {1}
    assert set(prompts.values()) == {1}
    assert {prompts[id] for id in seen} == {1}


@pytest.mark.timeout(400)
@pytest.mark.parametrize("worker_class", ["gevent", "gthread"])
def test_a_database_killed_under_load_costs_no_record_and_hangs_no_request(
    tmp_path: Path, provider: ScriptedProvider, server: PostgresServer, worker_class: str
) -> None:
    address = server.new_database()
    options = ("--worker-class", worker_class, "--max-wait", "30s")
    first = gateway(tmp_path / "first", provider, address, *options)
    second = gateway(tmp_path / "second", provider, address, *options)
    with closing(open_address(address)) as database:
        apply(database, CAPPED, over=0, who="test")
    with first, second:
        key = key_for(address, "alice")
        with Load(first.url, key) as one, Load(second.url, key, outcomes=one.outcomes):
            for _ in range(KILLS):
                goal = len(one.outcomes) + 8
                wait_until(lambda goal=goal: len(one.outcomes) >= goal, "8 more answers", 60)
                server.kill()
                server.start()
        # Each waited until the database was back.
        assert one.failed == []
        check_records(server, address, one)
        wait_until(lambda: not reserved(server, address), "nothing is reserved", 60)
        for each in (first, second):
            text = each.log_file.read_text() + each.stderr()
            assert PASSWORD not in text
            assert "the local database is away" in text
            assert "the local database is back" in text


def test_a_database_that_stays_away_is_told_in_the_apis_shape_and_heals_by_itself(
    tmp_path: Path, provider: ScriptedProvider, server: PostgresServer
) -> None:
    address = server.new_database()
    with gateway(tmp_path, provider, address, "--max-wait", "1s", workers=1) as running:
        key = key_for(address, "alice")
        server.kill()

        def ask() -> requests.Response:
            return requests.post(
                f"{running.url}/anthropic/v1/messages",
                json={"model": "m", "max_tokens": 5, "messages": []},
                headers={"X-Api-Key": key},
                timeout=30,
            )

        began = time.monotonic()
        refused = ask()
        assert time.monotonic() - began >= 1
        assert refused.status_code == 503
        assert refused.headers["Retry-After"] == "1"
        assert refused.json()["type"] == "error"
        assert "database is not available" in refused.json()["error"]["message"]
        wait_until(lambda: not running.is_ready(), "it is not ready")
        assert "local database" in requests.get(f"{running.url}/readyz", timeout=5).text
        server.start()
        wait_until(running.is_ready, "it is ready again")
        assert ask().status_code == 200


def test_a_gateway_starts_before_its_database(
    tmp_path: Path, provider: ScriptedProvider, server: PostgresServer
) -> None:
    address = server.new_database()
    server.kill()
    running = gateway(tmp_path, provider, address, workers=1)
    running.start(ready=False)
    try:
        assert not running.is_ready()
        server.start()
        wait_until(running.is_ready, "it is ready")
    except BaseException:
        running.kill()
        raise
    running.stop()
