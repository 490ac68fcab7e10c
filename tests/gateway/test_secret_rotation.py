"""Keys of providers that change in their files while requests run."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest
import requests
import yaml
from gateway_process import GatewayProcess, message_of, wait_until
from imitation_provider import ScriptedProvider, imitate


@pytest.mark.parametrize("worker_class", ["gevent", "gthread"])
def test_a_key_is_rotated_under_load_without_a_restart_or_a_failed_request(
    tmp_path: Path, worker_class: str
) -> None:
    secret = tmp_path / "key"
    secret.write_text("sk-first-of-two")
    config = tmp_path / "gateway.yaml"
    with ScriptedProvider(otherwise=imitate()) as provider:
        listed = [{"type": "anthropic", "base_url": provider.url, "key_file": str(secret)}]
        config.write_text(yaml.safe_dump({"ai_gateway": {"providers": listed}}))
        options = ["--config", str(config), "--worker-class", worker_class]
        gateway = GatewayProcess(tmp_path / "gw", [], options)
        gateway.allowed_errors.append("reload failed")
        with gateway:
            main, stopped = gateway.process.pid, threading.Event()
            statuses: list[int] = []
            token = gateway.key()

            def ask() -> None:
                while not stopped.is_set():
                    answer = requests.post(
                        f"{gateway.url}/anthropic/v1/messages",
                        json={"model": "m", "max_tokens": 9, "messages": []},
                        headers={"X-Api-Key": token},
                        timeout=60,
                    )
                    statuses.append(answer.status_code)

            def came_with(key: str) -> bool:
                return provider.requests[-1].header("x-api-key") == key

            askers = [threading.Thread(target=ask) for _ in range(3)]
            for asker in askers:
                asker.start()
            try:
                wait_until(lambda: provider.requests and came_with("sk-first-of-two"), "begun")
                # What cannot be used changes nothing.
                secret.write_text("")
                wait_until(
                    lambda: any(message_of(x).startswith("reload failed") for x in gateway.logs()),
                    "an empty file was noticed",
                )
                new = tmp_path / "new"
                new.write_text("sk-second-of-two")
                os.replace(new, secret)
                wait_until(lambda: came_with("sk-second-of-two"), "the new key is used")
            finally:
                stopped.set()
                for asker in askers:
                    asker.join()
            assert set(statuses) == {200}
            assert gateway.process.pid == main
            assert "-of-two" not in "".join(map(str, gateway.logs()))
