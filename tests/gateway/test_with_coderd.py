"""The gateway as a part of a Coder deployment: the same tests against both coderds."""

from __future__ import annotations

import os
import signal
import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import anthropic
import openai
import pytest
import requests
from any_coderd import (
    ALICE_ID,
    USUAL,
    AnyCoderd,
    Start,
    all_ended,
    ask,
    doubled,
    interception_of,
    per_interception,
)
from gateway_process import GatewayProcess, message_of, wait_until
from imitation_provider import ScriptedProvider
from sdk_clients import closed_later


def test_sdk_clients_are_served_and_recorded(start: Start, coderd: AnyCoderd) -> None:
    key = coderd.add_alice()
    gateway = start()
    claude = closed_later(
        anthropic.Anthropic(base_url=f"{gateway.url}/anthropic", api_key=key, max_retries=0)
    )
    gpt = closed_later(
        openai.OpenAI(base_url=f"{gateway.url}/openai/v1", api_key=key, max_retries=0)
    )
    with claude.messages.stream(
        model="claude-sonnet-5", max_tokens=100, messages=[{"role": "user", "content": "hello"}]
    ) as running:
        message = running.get_final_message()
        first = running.response.headers["x-ai-gateway-interception-id"]
    raw = gpt.responses.with_raw_response.create(model="gpt-5", input="hello again")
    second = raw.headers["x-ai-gateway-interception-id"]
    wait_until(lambda: all_ended(coderd, [first, second]), "both are recorded")
    stored = coderd.stored()
    counts = per_interception(stored)
    assert counts[second] == USUAL
    assert counts[first] == USUAL
    begun = {one: fields for rpc, one, fields in stored if rpc == "RecordInterception"}
    assert begun[first]["initiator_id"] == ALICE_ID
    assert begun[first]["api_key_id"] == "alice"
    assert (begun[first]["provider"], begun[second]["provider"]) == ("anthropic", "openai")
    tokens = [fields for rpc, one, fields in stored if (rpc, one) == ("RecordTokenUsage", first)]
    assert {fields["msg_id"] for fields in tokens} == {message.id}
    prompts = {fields["prompt"] for rpc, _, fields in stored if rpc == "RecordPromptUsage"}
    assert prompts == {"hello", "hello again"}


def test_coderds_no_is_403(start: Start, coderd: AnyCoderd) -> None:
    key = coderd.add_alice()
    gateway = start()
    assert (ask(gateway, "nobody-knows").status_code) == 403
    coderd.set_budget(True, 1_500_000)
    answer = ask(gateway, key)
    assert answer.status_code == 403
    assert "AI budget of US$1.50 exceeded" in answer.text
    coderd.set_budget(False, None)
    assert ask(gateway, key).status_code == 200


def test_providers_come_from_coderd_and_change_live(
    start: Start, coderd: AnyCoderd, own_provider: ScriptedProvider
) -> None:
    key = coderd.add_alice()
    base = {"type": "anthropic", "enabled": True, "keys": ["sk-1"]}
    coderd.set_providers([{**base, "name": "one", "base_url": own_provider.url}])
    gateway = start(own_providers=False)
    headers = {"X-Api-Key": key}

    def status(name: str) -> int:
        url = f"{gateway.url}/{name}/v1/models"
        return requests.get(url, headers=headers, timeout=10).status_code

    assert status("one") == 200
    assert status("two") == 404
    coderd.set_providers(
        [
            {**base, "name": "one", "base_url": own_provider.url, "enabled": False},
            {**base, "name": "two", "base_url": own_provider.url},
        ]
    )
    wait_until(lambda: status("two") == 200, "the new provider serves")
    assert status("one") == 503


def test_a_killed_worker_loses_no_acknowledged_record(start: Start, coderd: AnyCoderd) -> None:
    key = coderd.add_alice()
    gateway = start()
    done: list[str] = []
    stop = threading.Event()

    def load() -> None:
        while not stop.is_set():
            try:
                answer = ask(gateway, key)
            except requests.RequestException:
                continue
            if answer.status_code == 200:
                done.append(interception_of(answer))

    with ThreadPoolExecutor(4) as pool:
        for _ in range(4):
            pool.submit(load)
        try:
            wait_until(lambda: len(done) > 20, "traffic flows")
            # From now on what is acknowledged is nowhere but on the worker's disk.
            coderd.hold("RecordPromptUsage")
            seen = len(done)
            wait_until(lambda: len(done) > seen + 20, "traffic flows, recorded or not")
            (victim,) = gateway.worker_pids()
            os.kill(victim, signal.SIGKILL)
            assert not all_ended(coderd, done)
            coderd.come_back()
            seen = len(done)
            wait_until(lambda: len(done) > seen + 40, "traffic flows again")
        finally:
            stop.set()
    wait_until(lambda: all_ended(coderd, done), "all records have arrived")
    counts = per_interception(coderd.stored())
    # Sent again: what was on its way when the worker died, as docs/coderd.md says.
    twice = [doubled(counts[one], USUAL) for one in done]
    assert max(twice) <= 1
    assert sum(twice) <= 32


def test_one_bad_record_is_set_aside_and_holds_up_nothing(start: Start, coderd: AnyCoderd) -> None:
    key = coderd.add_alice()
    gateway = start()
    gateway.allowed_errors.append("set aside")
    coderd.reject("RecordTokenUsage", 'failed to parse interception_id "x": for a test')
    first, second = interception_of(ask(gateway, key)), interception_of(ask(gateway, key))
    wait_until(lambda: all_ended(coderd, [first, second]), "both have ended")
    counts = per_interception(coderd.stored())
    assert counts[second] == USUAL
    assert counts[first] == USUAL - Counter(RecordTokenUsage=1)
    options = ["--runtime-dir", str(gateway.runtime_dir)]
    again = gateway.command("actors", *options, "redeliver")
    assert "1 records" in again.stdout
    wait_until(
        lambda: per_interception(coderd.stored())[first] == USUAL, "the record was sent again"
    )


def test_the_gateway_waits_for_a_coderd_that_is_not_there_yet(
    start: Start, coderd: AnyCoderd
) -> None:
    key = coderd.add_alice()
    coderd.refuse(503)
    gateway = start(ready=False)
    assert requests.get(f"{gateway.url}/healthz", timeout=5).status_code == 200
    assert requests.get(f"{gateway.url}/readyz", timeout=5).status_code == 503
    with ThreadPoolExecutor(1) as pool:
        parked = pool.submit(ask, gateway, key)
        coderd.come_back()
        assert parked.result().status_code == 200
    wait_until(gateway.is_ready, "the gateway is ready")


@pytest.mark.parametrize("status", [401, 403])
def test_a_refused_gateway_key_ends_the_gateway(
    start: Start, coderd: AnyCoderd, status: int
) -> None:
    coderd.refuse(status)
    gateway = start(ready=False, workers=2)
    assert gateway.process.wait(30) == 3
    assert "Refused for a test." in last_line(gateway)
    assert gateway.stderr().count("Booting worker") <= 3, "no restart loop"


def test_a_deleted_gateway_key_ends_the_gateway(start: Start, coderd: AnyCoderd) -> None:
    coderd.add_alice()
    gateway = start(workers=2)
    coderd.delete_key()
    assert gateway.process.wait(30) == 3
    assert "AI Gateway key invalid" in last_line(gateway)


def last_line(gateway: GatewayProcess) -> str:
    """Why the gateway ended, as the last line of its log says."""
    return message_of(gateway.logs()[-1])
