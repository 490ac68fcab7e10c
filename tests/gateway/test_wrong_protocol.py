"""Clients that speak TLS where there is none, or none where there is, and probes by HEAD."""

from __future__ import annotations

import contextlib
import socket
import ssl
from pathlib import Path
from typing import Any

import pytest
import requests
import trustme
from gateway_process import GatewayProcess, Upstream, message_of, wait_until
from imitation_provider import ScriptedProvider


def _lines(gateway: GatewayProcess, text: str) -> list[dict[str, Any]]:
    return [line for line in gateway.logs() if text in message_of(line)]


def _address(gateway: GatewayProcess) -> tuple[str, int]:
    host, _, port = gateway.url.partition("://")[2].partition(":")
    return host, int(port)


def test_a_client_that_speaks_tls_to_a_plain_listener_is_named_once(
    any_gateway: GatewayProcess,
) -> None:
    context = ssl.create_default_context()
    for _ in range(3):
        with (
            socket.create_connection(_address(any_gateway), timeout=10) as plain,
            contextlib.suppress(OSError),
        ):
            context.wrap_socket(plain, server_hostname="localhost")
            pytest.fail("there is no TLS")
    told = wait_until(lambda: _lines(any_gateway, "a client speaks TLS"), "the log names it")
    # Each worker process tells it once.
    assert len(told) <= len(any_gateway.worker_pids())
    assert told[0]["level"] == "WARNING"
    assert told[0]["fields"]["client_ip"] == "127.0.0.1"
    assert requests.get(f"{any_gateway.url}/healthz", timeout=10).ok


@pytest.mark.parametrize("worker_class", ["gevent", "gthread"])
def test_a_client_that_speaks_plain_http_to_tls_is_named(
    tmp_path: Path, provider: ScriptedProvider, worker_class: str
) -> None:
    authority = trustme.CA()
    issued = authority.issue_cert("127.0.0.1")
    certificate, key, trusted = (tmp_path / name for name in ("tls.crt", "tls.key", "ca.pem"))
    issued.cert_chain_pems[0].write_to_path(certificate)
    issued.private_key_pem.write_to_path(key)
    authority.cert_pem.write_to_path(trusted)
    options = ["--tls-cert-file", str(certificate), "--tls-key-file", str(key)]
    options += ["--worker-class", worker_class]
    gateway = GatewayProcess(tmp_path / "gw", [Upstream("anthropic", provider.url)], options)
    gateway.start(ready=False)
    try:
        ready = f"{gateway.url.replace('http:', 'https:')}/readyz"
        wait_until(lambda: requests.get(ready, verify=str(trusted), timeout=10).ok, "it serves")
        with (
            socket.create_connection(_address(gateway), timeout=10) as plain,
            contextlib.suppress(ConnectionResetError),
        ):
            plain.sendall(b"GET /healthz HTTP/1.1\r\nHost: g\r\n\r\n")
            assert b"200 OK" not in plain.recv(1000)
        (told,) = wait_until(lambda: _lines(gateway, "a client speaks plain HTTP"), "it is named")
        assert told["fields"] == {"client_ip": "127.0.0.1"}
        gateway.stop()
    finally:
        gateway.kill()


def test_a_probe_by_head_is_one_line_on_debug(tmp_path: Path, provider: ScriptedProvider) -> None:
    upstreams = [Upstream("anthropic", provider.url)]
    with GatewayProcess(tmp_path, upstreams, ["--verbose"]) as gateway:
        got = requests.head(f"{gateway.url}/anthropic", timeout=10)
        assert got.status_code == 400
        name = got.headers["X-AI-Gateway-Request-Id"]

        def about() -> list[dict[str, Any]]:
            return [x for x in gateway.logs() if x["fields"].get("request_id") == name]

        (line,) = wait_until(about, "its line")
        assert (line["level"], message_of(line)) == ("DEBUG", "request")
        assert (line["fields"]["method"], line["fields"]["reason"]) == ("HEAD", "no_key")


def test_a_gateway_of_its_own_names_no_deployment(any_gateway: GatewayProcess) -> None:
    (line,) = _lines(any_gateway, "standalone AI Gateway listening")
    assert "coder_url" not in line["fields"]
