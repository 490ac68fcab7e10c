"""SIGHUP: new settings and certificates for new requests, nothing cut."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests
import trustme
import yaml
from gateway_process import GatewayProcess, Upstream, message_of, wait_until
from imitation_provider import ScriptedProvider, WaitFor, imitate, stream
from test_lost_actors import DELTA, START, STOP


@pytest.fixture
def provider() -> Iterator[ScriptedProvider]:
    with ScriptedProvider(otherwise=imitate()) as provider:
        yield provider


def _ask(gateway: GatewayProcess, prompt: str = "hi", verify: str | bool = True) -> int:
    return requests.post(
        f"{gateway.url}/anthropic/v1/messages",
        json={"model": "m", "max_tokens": 9, "messages": [{"role": "user", "content": prompt}]},
        headers={"X-Api-Key": gateway.key()},
        timeout=30,
        verify=verify,
    ).status_code


def _hang_up(gateway: GatewayProcess) -> None:
    before = sum(message_of(line) == "providers in use" for line in gateway.logs())
    gateway.process.send_signal(signal.SIGHUP)
    wait_until(
        lambda: sum(message_of(line) == "providers in use" for line in gateway.logs()) > before,
        "a new worker serves",
    )


@pytest.mark.parametrize("worker_class", ["gevent", "gthread"])
def test_new_settings_hold_for_new_requests_while_a_stream_runs_on(
    tmp_path: Path, provider: ScriptedProvider, worker_class: str
) -> None:
    config = tmp_path / "gateway.yaml"
    config.write_text(yaml.safe_dump({"ai_gateway": {"max_body_size": "1MiB"}}))
    options = ["--config", str(config), "--worker-class", worker_class]
    gateway = GatewayProcess(tmp_path / "gw", [Upstream("anthropic", provider.url)], options)
    gateway.allowed_errors.append("reload failed")
    with gateway:
        go_on = threading.Event()
        provider.play(stream([START, WaitFor(go_on), DELTA, STOP]))
        with requests.post(
            f"{gateway.url}/anthropic/v1/messages",
            json={"model": "m", "stream": True, "messages": [{"role": "user", "content": "x"}]},
            headers={"X-Api-Key": gateway.key()},
            stream=True,
            timeout=30,
        ) as running:
            pieces = running.iter_content(None)
            received = next(pieces)
            assert _ask(gateway, "y" * 600_000) == 200
            changed = {"max_body_size": "500KiB", "worker_connections": 777}
            config.write_text(yaml.safe_dump({"ai_gateway": changed}))
            _hang_up(gateway)
            wait_until(lambda: _ask(gateway, "y" * 600_000) == 413, "the new limit holds")
            assert _ask(gateway) == 200
            go_on.set()
            received += b"".join(pieces)
        assert received.endswith(STOP)
        (line,) = [x for x in gateway.logs() if "change with a restart only" in message_of(x)]
        assert line["fields"]["settings"] == ["--worker-connections"]
        config.write_text("ai_gateway: {nonsense: 1}")
        _hang_up(gateway)
        (line,) = [x for x in gateway.logs() if message_of(x).startswith("reload failed")]
        assert 'unknown option "ai_gateway.nonsense"' in line["fields"]["error"]
        assert _ask(gateway) == 200


def _certificate(folder: Path, authority: trustme.CA) -> list[str]:
    issued = authority.issue_cert("127.0.0.1")
    issued.cert_chain_pems[0].write_to_path(folder / "tls.crt")
    issued.private_key_pem.write_to_path(folder / "tls.key")
    return ["--tls-cert-file", str(folder / "tls.crt"), "--tls-key-file", str(folder / "tls.key")]


def test_a_renewed_certificate_is_picked_up(tmp_path: Path, provider: ScriptedProvider) -> None:
    first, second = trustme.CA(), trustme.CA()
    trusted = [tmp_path / "first.pem", tmp_path / "second.pem"]
    for authority, path in zip((first, second), trusted, strict=True):
        authority.cert_pem.write_to_path(path)
    options = _certificate(tmp_path, first)
    gateway = GatewayProcess(tmp_path / "gw", [Upstream("anthropic", provider.url)], options)
    gateway.start(ready=False)
    try:
        gateway.url = gateway.url.replace("http:", "https:")
        assert wait_until(lambda: _ask(gateway, verify=str(trusted[0])) == 200, "it serves")
        _certificate(tmp_path, second)
        _hang_up(gateway)

        def renewed() -> bool:
            try:
                return _ask(gateway, verify=str(trusted[1])) == 200
            except requests.exceptions.SSLError:
                return False

        wait_until(renewed, "the new certificate is served")
        gateway.stop()
    finally:
        gateway.kill()


def test_a_bad_certificate_stops_the_start(tmp_path: Path, provider: ScriptedProvider) -> None:
    options = _certificate(tmp_path, trustme.CA())
    (tmp_path / "tls.key").write_text("no key")
    gateway = GatewayProcess(tmp_path / "gw", [Upstream("anthropic", provider.url)], options)
    with pytest.raises(AssertionError, match="serve: cannot use --tls-cert-file"):
        gateway.start()


@pytest.mark.parametrize("worker_class", ["gevent", "gthread"])
def test_many_hang_ups_make_one_reload_after_another_and_the_last_one_wins(
    tmp_path: Path, provider: ScriptedProvider, worker_class: str
) -> None:
    config = tmp_path / "gateway.yaml"

    def write(size: int) -> None:
        config.write_text(yaml.safe_dump({"ai_gateway": {"max_body_size": f"{size}KiB"}}))

    write(1000)
    options = ["--config", str(config), "--worker-class", worker_class]
    upstreams = [Upstream("anthropic", provider.url)]
    with GatewayProcess(tmp_path / "gw", upstreams, options, workers=2) as gateway:
        most = 0
        for number in range(20):
            write(500 - number)
            gateway.process.send_signal(signal.SIGHUP)
            # So that signals do not become one.
            assert _ask(gateway) == 200
            most = max(most, len(gateway.worker_pids()))
        write(100)
        gateway.process.send_signal(signal.SIGHUP)

        def settled() -> bool:
            nonlocal most
            most = max(most, len(gateway.worker_pids()))
            return _ask(gateway, "y" * 200_000) == 413 and len(gateway.worker_pids()) == 2

        wait_until(settled, "the last settings hold, in two workers")
        reloads = [x for x in gateway.logs() if message_of(x) == "settings reloaded"]
        # The first may wait for the workers of the start, or end among the signals.
        assert 1 <= len(reloads) <= 6
        # Those of before, those of now, and those of before that are about to end.
        assert most <= 6
        assert gateway.process.poll() is None
