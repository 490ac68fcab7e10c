"""Keys and certificates that change in their files while the gateway runs."""

from __future__ import annotations

import os
import ssl
import threading
from pathlib import Path

import pytest
import requests
import trustme
import yaml
from gateway_process import GatewayProcess, Upstream, message_of, wait_until
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


def test_a_renewed_certificate_is_served_as_soon_as_both_its_files_are_there(
    tmp_path: Path, provider: ScriptedProvider
) -> None:
    authority = trustme.CA()
    certificate, key = tmp_path / "tls.crt", tmp_path / "tls.key"

    def renew() -> str:
        issued = authority.issue_cert("127.0.0.1")
        _replace(certificate, issued.cert_chain_pems[0].bytes().decode())
        _replace(key, issued.private_key_pem.bytes().decode())
        return issued.cert_chain_pems[0].bytes().decode().strip()

    first = renew()
    options = ["--tls-cert-file", str(certificate), "--tls-key-file", str(key)]
    gateway = GatewayProcess(tmp_path / "gw", [Upstream("anthropic", provider.url)], options)
    gateway.allowed_errors.append("reload failed")  # between the two files, on a slow machine
    gateway.start(ready=False)
    try:
        host, _, port = gateway.url.removeprefix("http://").rpartition(":")

        def served() -> str:
            try:
                return ssl.get_server_certificate((host, int(port)), timeout=10).strip()
            except OSError:
                return ""

        wait_until(lambda: served() == first, "the first one is served")
        second = renew()
        wait_until(lambda: served() == second, "the renewed one is served")
        gateway.stop()
    finally:
        gateway.kill()


def _replace(path: Path, text: str) -> None:
    """As programs do that renew files."""
    new = path.with_suffix(".new")
    new.write_text(text)
    os.replace(new, path)
