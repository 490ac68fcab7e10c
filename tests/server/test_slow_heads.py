"""Clients without a key that send their heads slowly, or nothing, cost the others no thread."""

from __future__ import annotations

import socket
import ssl
from contextlib import ExitStack
from pathlib import Path

import pytest
import requests
import trustme
from gateway_process import GatewayProcess, Upstream
from imitation_provider import ScriptedProvider, imitate
from raw_client import RawClient

ASK = {"model": "m", "max_tokens": 5, "messages": [{"role": "user", "content": "hi"}]}


def address(gateway: GatewayProcess) -> tuple[str, int]:
    host, port = gateway.url.partition("://")[2].split(":")
    return host, int(port)


@pytest.mark.parametrize("worker_class", ["gevent", "gthread"])
def test_heads_that_drip_hold_nobody_up(tmp_path: Path, worker_class: str) -> None:
    options = ["--worker-class", worker_class, "--threads", "4"]
    with (
        ScriptedProvider(otherwise=imitate()) as provider,
        GatewayProcess(tmp_path, [Upstream("anthropic", provider.url)], options) as gateway,
        ExitStack() as stack,
        requests.Session() as session,
    ):
        session.headers["X-Api-Key"] = gateway.key()
        url = f"{gateway.url}/anthropic/v1/messages"
        slow = []
        for number in range(20):
            if number % 2:
                client = stack.enter_context(socket.create_connection(address(gateway)))
            else:
                # Connections that were used before count as well.
                used = stack.enter_context(RawClient(gateway))
                used.post("/anthropic/v1/messages", ASK)
                assert used.answer().status == 200
                client = used._socket
            client.sendall(
                b"POST /anthropic/v1/messages HTTP/1.1\r\nHost: x\r\nX-A: "[: number * 3]
            )
            slow.append(client)
        for _ in range(5):
            assert session.post(url, json=ASK, timeout=20).status_code == 200
            for client in slow:
                client.sendall(b"P")
        # A head may come in pieces, and the next one behind it at once.
        with RawClient(gateway) as client:
            line = f"X-Api-Key: {gateway.key()}\r\n\r\n".encode()
            for piece in (b"GET /anthropic/v1/models HTTP/1.1\r", b"\nHost: x\r\n", line[:9]):
                client.send(piece)
                assert session.post(url, json=ASK, timeout=20).status_code == 200
            again = b"GET /anthropic/v1/models HTTP/1.1\r\nHost: x\r\n" + line
            client.send(line[9:] + again + again[:20])
            assert client.answer().status == 200
            assert client.answer().status == 200
            client.send(again[20:])
            assert client.answer().status == 200


def test_a_head_that_never_ends_is_answered_as_too_large(tmp_path: Path) -> None:
    with (
        GatewayProcess(tmp_path, [], ["--worker-class", "gthread"]) as gateway,
        RawClient(gateway) as client,
    ):
        client.send(b"GET / HTTP/1.1\r\n" + b"X-A: " + b"x" * 300_000)
        assert client.read_until(b"\r\n").startswith(b"HTTP/1.1 431 ")


def test_handshakes_that_drip_hold_nobody_up(tmp_path: Path) -> None:
    issued = trustme.CA().issue_cert("127.0.0.1")
    cert, key = tmp_path / "tls.crt", tmp_path / "tls.key"
    issued.cert_chain_pems[0].write_to_path(cert)
    issued.private_key_pem.write_to_path(key)
    options = ["--worker-class", "gthread", "--threads", "2"]
    options += ["--tls-cert-file", str(cert), "--tls-key-file", str(key)]
    gateway = GatewayProcess(tmp_path, [], options).start(ready=False)
    with ExitStack() as stack:
        stack.callback(gateway.kill)
        for _ in range(6):
            client = stack.enter_context(socket.create_connection(address(gateway)))
            client.sendall(b"\x16\x03\x01")
        context = ssl.create_default_context()
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        with (
            socket.create_connection(address(gateway), timeout=20) as plain,
            context.wrap_socket(plain, server_hostname="localhost") as tls,
        ):
            tls.sendall(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
            assert tls.recv(100).startswith(b"HTTP/1.1 200 ")
