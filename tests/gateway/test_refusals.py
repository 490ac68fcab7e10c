"""What the edge answers by itself."""

from __future__ import annotations

import gzip
import json
import socket
import time
from contextlib import closing
from pathlib import Path

import anthropic
import openai
import pytest
import requests
from gateway_process import GatewayProcess, Upstream, message_of
from imitation_provider import ScriptedProvider

from aigateway.actors.control.local.api_keys import create_key, revoke_key
from aigateway.actors.control.local.schema import open_database


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
    assert answer.status_code == 400
    assert answer.headers["Content-Type"] == "application/json"
    assert answer.json() == {
        "type": "error",
        "error": {"type": "invalid_request_error", "message": "no authentication key provided"},
    }
    assert requests.head(f"{any_gateway.url}/anthropic", timeout=10).status_code == 400


def test_where_the_path_names_no_api_a_refusal_is_a_text(any_gateway: GatewayProcess) -> None:
    answer = requests.post(f"{any_gateway.url}/x", data=b"{}", timeout=10)
    assert (answer.status_code, answer.text) == (400, "no authentication key provided\n")
    assert answer.headers["Content-Type"] == "text/plain; charset=utf-8"
    assert answer.headers["X-Content-Type-Options"] == "nosniff"


@pytest.mark.parametrize(
    "path",
    [
        "/anthropic/v1/messages",
        "/anthropic/v1/messages/count_tokens",
        "/anthropic/v1/models",
        "/api/v2/ai-gateway/anthropic/v1/messages",
        "/nobody/v1/messages",
        "/v1/messages",
        "/openai/v1/chat/completions",
        "/openai/v1/responses",
        "/openai/v1/models",
        "/api/v2/aibridge/openai/v1/responses/resp_1",
    ],
)
def test_an_unknown_token_is_refused_in_the_apis_shape(
    any_gateway: GatewayProcess, path: str
) -> None:
    answer = _post(any_gateway, path, b"{}", **{"X-Api-Key": "nobody-knows"})
    assert answer.status_code == 403
    error = answer.json()["error"]
    assert (error["type"], error["message"]) == ("permission_error", "unauthorized")
    claude = "openai" not in path
    assert (answer.json().get("type") == "error") is claude
    assert ("code" in error) is not claude


@pytest.mark.parametrize("name", ["anthropic", "nobody"])
@pytest.mark.parametrize("call", ["converse", "converse-stream"])
@pytest.mark.parametrize("model", ["m", "arn:aws:bedrock:us-east-1::profile%2Fm", "v1/messages"])
def test_a_refusal_of_converse_is_in_awss_shape(
    any_gateway: GatewayProcess, name: str, call: str, model: str
) -> None:
    path = f"/{name}/model/{model.replace('/', '%2F')}/{call}"
    answer = _post(any_gateway, path, b"{}", **{"X-Api-Key": "nobody-knows"})
    assert (answer.status_code, answer.json()) == (403, {"message": "unauthorized"})


def test_sdks_show_what_a_refusal_says(any_gateway: GatewayProcess) -> None:
    with (
        anthropic.Anthropic(
            base_url=f"{any_gateway.url}/anthropic", api_key="nobody-knows", max_retries=0
        ) as claude,
        pytest.raises(anthropic.PermissionDeniedError) as refused,
    ):
        claude.messages.create(
            model="m", max_tokens=5, messages=[{"role": "user", "content": "hi"}]
        )
    assert refused.value.body["error"]["message"] == "unauthorized"  # type: ignore[index]
    with (
        openai.OpenAI(
            base_url=f"{any_gateway.url}/openai/v1", api_key="nobody-knows", max_retries=0
        ) as gpt,
        pytest.raises(openai.PermissionDeniedError) as denied,
    ):
        gpt.responses.create(model="m", input="hi")
    assert denied.value.body["message"] == "unauthorized"  # type: ignore[index]


def test_the_log_says_which_key_was_refused_and_why(any_gateway: GatewayProcess) -> None:
    whole = any_gateway.key()
    key_id, _, secret = whole.partition("-")
    with closing(open_database(any_gateway.database)) as database:
        expired = create_key(database, "eve", expires_in=1, now=time.time() - 60)
        revoked = create_key(database, "rob")
        revoke_key(database, revoked.key.id)
    cases = [
        (f"{key_id}-{'x' * len(secret)}", "invalid key", key_id, ""),
        (f"{'x' * 10}-{secret}", "unknown key", "x" * 10, ""),
        (expired.token, "expired", expired.key.id, "eve"),
        (revoked.token, "revoked", revoked.key.id, "rob"),
        ("sk-ant-planted-secret", "unknown key", "", ""),
    ]
    for token, reason, shown, username in cases:
        _post(any_gateway, "/anthropic/v1/messages", b"{}", **{"X-Api-Key": token})
        lines = [x for x in any_gateway.logs() if "key authorization" in message_of(x)]
        fields = lines[-1]["fields"]
        assert (fields["reason"], fields["key_id"], fields["username"]) == (reason, shown, username)
        assert bool(fields["user_id"]) is bool(username)
    assert "planted" not in any_gateway.log_file.read_text()


@pytest.mark.parametrize("path", ["/", "/x", "/nobody/v1/embeddings"])
def test_an_unknown_route_is_404(any_gateway: GatewayProcess, path: str) -> None:
    answer = _post(any_gateway, path, b"{}")
    assert (answer.status_code, answer.text) == (404, f"route not supported: POST {path}\n")


@pytest.mark.parametrize("path", ["/nobody/v1/messages", "/openai/v1/fine_tuning/jobs"])
def test_an_unknown_route_of_an_api_is_404_in_its_shape(
    any_gateway: GatewayProcess, path: str
) -> None:
    answer = _post(any_gateway, path, b"{}")
    assert answer.status_code == 404
    assert answer.json()["error"]["message"] == f"route not supported: POST {path}"


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
    said = answer.json()["error"]["message"]
    assert said == f"route not supported: POST {path}; did you mean {likely}?"
    lines = [line for line in any_gateway.logs() if "wrong base" in message_of(line)]
    assert lines[-1]["fields"]["likely_path"] == likely


def test_without_any_provider_the_log_and_the_answers_say_so(tmp_path: Path) -> None:
    with GatewayProcess(tmp_path, []) as gateway:
        answer = _post(gateway, "/anthropic/v1/messages", b"{}")
        assert answer.status_code == 404
        said = answer.json()["error"]["message"]
        assert said.endswith("; no AI provider is configured")
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
    assert b"The maximum allowed request body size is 32MiB." in answer


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


@pytest.mark.parametrize("worker_class", ["gevent", "gthread"])
def test_a_local_database_that_is_away_is_named_and_no_deployment_is(
    tmp_path: Path, provider: ScriptedProvider, worker_class: str
) -> None:
    options = ["--worker-class", worker_class]
    gateway = GatewayProcess(tmp_path, [Upstream("anthropic", provider.url)], options)
    key = gateway.key()
    with gateway:
        with closing(open_database(gateway.database)) as database:
            database.execute("DROP TABLE api_keys")
        answer = requests.post(
            f"{gateway.url}/anthropic/v1/messages",
            json={"model": "claude-x", "max_tokens": 1, "messages": []},
            headers={"X-Api-Key": key},
            timeout=30,
        )
        assert answer.status_code == 503
        assert answer.headers["Retry-After"] == "1"
        assert answer.json()["error"]["message"] == "the gateway's database is not available"
        lines = [message_of(line) for line in gateway.logs()]
        assert "the gateway's database is not available" in lines
        assert "coderd" not in str(lines)
