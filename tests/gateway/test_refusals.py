"""What the edge answers by itself."""

from __future__ import annotations

import gzip
import json
import socket
from pathlib import Path

import pytest
import requests
from gateway_process import GatewayProcess, message_of
from imitation_provider import ScriptedProvider


def _post(gateway: GatewayProcess, path: str, data: bytes, **headers: str) -> requests.Response:
    headers = {"X-Api-Key": gateway.key(), "Content-Type": "application/json", **headers}
    return requests.post(f"{gateway.url}{path}", data=data, headers=headers, timeout=10)


def _raw(gateway: GatewayProcess, request: bytes) -> bytes:
    """Send bytes and read until the gateway closes the connection."""
    host, port = gateway.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=10) as client:
        client.sendall(request)
        answer = b""
        while data := client.recv(65536):
            answer += data
    return answer


def test_probes_need_no_token(any_gateway: GatewayProcess) -> None:
    for path in ("/healthz", "/readyz"):
        answer = requests.get(f"{any_gateway.url}{path}", timeout=10)
        assert (answer.status_code, answer.content) == (200, b"")


def test_a_request_without_a_token_is_refused(any_gateway: GatewayProcess) -> None:
    answer = requests.post(f"{any_gateway.url}/anthropic/v1/messages", data=b"{}", timeout=10)
    assert (answer.status_code, answer.text) == (400, "no authentication key provided\n")
    assert answer.headers["Content-Type"] == "text/plain; charset=utf-8"
    assert answer.headers["X-Content-Type-Options"] == "nosniff"
    assert requests.head(f"{any_gateway.url}/anthropic", timeout=10).status_code == 400


def test_an_unknown_token_is_refused(any_gateway: GatewayProcess) -> None:
    answer = _post(any_gateway, "/anthropic/v1/messages", b"{}", **{"X-Api-Key": "nobody-knows"})
    assert (answer.status_code, answer.text) == (403, "unauthorized\n")


@pytest.mark.parametrize("path", ["/", "/nobody/v1/messages", "/openai/v1/embeddings", "/x"])
def test_an_unknown_route_is_404(any_gateway: GatewayProcess, path: str) -> None:
    answer = _post(any_gateway, path, b"{}")
    assert (answer.status_code, answer.text) == (404, f"route not supported: POST {path}\n")


@pytest.mark.parametrize(
    ("path", "likely"),
    [
        ("/v1/messages", "/anthropic/v1/messages"),
        ("/messages", "/anthropic/v1/messages"),
        ("/anthropic/v1/v1/messages", "/anthropic/v1/messages"),
        ("/anthropic/messages", "/anthropic/v1/messages"),
        ("/v1/chat/completions", "/openai/v1/chat/completions"),
        ("/openai/v1/v1/responses", "/openai/v1/responses"),
        ("/openai/chat/completions", "/openai/v1/chat/completions"),
    ],
)
def test_a_wrong_base_address_is_answered_with_the_likely_one(
    any_gateway: GatewayProcess, path: str, likely: str
) -> None:
    answer = _post(any_gateway, path, b"{}")
    assert answer.status_code == 404
    assert answer.text == f"route not supported: POST {path}; did you mean {likely}?\n"
    lines = [line for line in any_gateway.logs() if "wrong base" in message_of(line)]
    assert lines[-1]["fields"]["likely_path"] == likely


def test_without_any_provider_the_log_and_the_answers_say_so(tmp_path: Path) -> None:
    with GatewayProcess(tmp_path, []) as gateway:
        answer = _post(gateway, "/anthropic/v1/messages", b"{}")
        assert answer.status_code == 404
        assert answer.text.endswith("; no AI provider is configured\n")
        (line,) = [each for each in gateway.logs() if "no AI provider" in message_of(each)]
        assert "CODER_AI_GATEWAY_ANTHROPIC_KEY" in line["fields"]["way_out"]


@pytest.mark.parametrize("body", [b"", b"   ", b"{", b'{"model": 1', b"\xff\xfe"])
def test_a_body_that_is_no_json_is_refused_in_the_providers_shape(
    any_gateway: GatewayProcess, body: bytes
) -> None:
    claude = _post(any_gateway, "/anthropic/v1/messages", body)
    assert claude.status_code == 400
    assert claude.json()["type"] == "error"
    gpt = _post(any_gateway, "/openai/v1/chat/completions", body)
    assert gpt.status_code == 400
    assert gpt.json()["error"]["message"]


def test_a_body_over_the_limit_is_refused(any_gateway: GatewayProcess) -> None:
    head = (
        f"POST /anthropic/v1/messages HTTP/1.1\r\nHost: x\r\nX-Api-Key: {any_gateway.key()}\r\n"
        "Content-Length: 33554433\r\n\r\n"
    ).encode()
    answer = _raw(any_gateway, head)
    assert answer.startswith(b"HTTP/1.1 413 ")
    assert b"The maximum allowed request body size is 32MiB.\n" in answer


def test_an_encoded_body_is_read_and_sent_on_as_it_came(
    any_gateway: GatewayProcess, provider: ScriptedProvider
) -> None:
    plain = json.dumps(
        {"model": "claude-x", "max_tokens": 10, "messages": [{"role": "user", "content": "zip"}]}
    ).encode()
    body = gzip.compress(plain)
    answer = _post(any_gateway, "/anthropic/v1/messages", body, **{"Content-Encoding": "gzip"})
    found = any_gateway.records(answer.headers["X-AI-Gateway-Interception-Id"])
    assert found["model"] == "claude-x"
    assert provider.requests[-1].body == body


def test_a_websocket_upgrade_is_told_to_use_http(any_gateway: GatewayProcess) -> None:
    answer = requests.get(
        f"{any_gateway.url}/openai/v1/responses",
        headers={
            "Authorization": f"Bearer {any_gateway.key()}",
            "Connection": "Upgrade",
            "Upgrade": "websocket",
        },
        timeout=10,
    )
    assert answer.status_code == 426


def test_a_header_bomb_is_refused_without_a_traceback(any_gateway: GatewayProcess) -> None:
    bomb = b"GET /healthz HTTP/1.1\r\nHost: x\r\n" + b"X-A: b\r\n" * 5000 + b"\r\n"
    answer = _raw(any_gateway, bomb)
    assert answer.split(b" ")[1] in (b"400", b"431")
    assert b"Traceback" not in answer


def test_a_client_that_vanishes_inside_its_body_leaves_no_trace(
    any_gateway: GatewayProcess, provider: ScriptedProvider
) -> None:
    before = len(provider.requests)
    host, port = any_gateway.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=10) as client:
        client.sendall(
            f"POST /anthropic/v1/messages HTTP/1.1\r\nHost: x\r\nX-Api-Key: {any_gateway.key()}\r\n"
            'Content-Length: 1000\r\n\r\n{"model"'.encode()
        )
    assert requests.get(f"{any_gateway.url}/healthz", timeout=10).status_code == 200
    assert len(provider.requests) == before
