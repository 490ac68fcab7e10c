"""A real gateway keeps its database in order while it serves."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from gateway_process import GatewayProcess, Upstream, message_of, wait_until
from imitation_provider import ScriptedProvider

from aigateway.actors.control.local.store import Store
from aigateway.actors.providers.recording import new_interception_id
from aigateway.actors.values.records import InterceptionBegun, InterceptionEnded, PromptUsage

DAY = 86_400


def put(path: Path, days: int, prompt: str) -> str:
    """Store a request of so many days ago."""
    at = time.time() - days * DAY
    start = InterceptionBegun(
        id=new_interception_id(), initiator_id="1", username="ada", api_key_id="k",
        provider="anthropic", provider_name="anthropic", model="m", client="c", user_agent="u",
        started_at=at,
    )  # fmt: skip
    said = PromptUsage(
        interception_id=start.id, msg_id="m", prompt=prompt, created_at=at, record_id="1"
    )
    store = Store(path, 5)
    store.write([start], [said, InterceptionEnded(id=start.id, ended_at=at + 1)])
    store.close()
    return start.id


@pytest.mark.parametrize("worker_class", ["gevent", "gthread"])
def test_old_records_go_and_new_prompts_become_searchable(
    tmp_path: Path, provider: ScriptedProvider, worker_class: str
) -> None:
    options = ["--retain-records-days", "30", "--worker-class", worker_class]
    with GatewayProcess(tmp_path, [Upstream("anthropic", provider.url)], options) as gateway:
        gateway.key()
        put(gateway.database, 31, "old words")
        kept = put(gateway.database, 1, "new words")
        wait_until(
            lambda: gateway.rows("SELECT id FROM interceptions") == [{"id": kept}],
            "the old records are gone",
        )
        wait_until(
            lambda: gateway.rows(
                "SELECT done FROM housekeeping WHERE task = 'search' AND done > 0"
            ),
            "the new prompt is in the index",
        )
        named = ("--local-db", str(gateway.database))
        found = gateway.command("sessions", "--search", "words", "--json", *named).stdout
        assert "new words" in found
        assert "old words" not in found
        actors = gateway.command("actors", "--runtime-dir", str(gateway.runtime_dir)).stdout
        assert "housekeeper" in actors
        wait_until(
            lambda: any(message_of(line) == "old records deleted" for line in gateway.logs()),
            "it is logged",
        )
