"""What one user has stored with a provider does not exist for another one."""

from __future__ import annotations

import gzip
import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests
from gateway_process import GatewayProcess, Upstream
from imitation_provider import ReceivedRequest, ScriptedProvider, Steps, WaitFor, answer, event
from imitation_provider import stream as streamed
from raw_client import RawClient

BASE = "/openai/v1"
ID = "resp_68b1a2c3"


def response(id: str, **more: Any) -> dict[str, Any]:
    usage = {"input_tokens": 1, "output_tokens": 1, "total_tokens": 2}
    return {"id": id, "object": "response", "status": "completed", "output": [], "usage": usage}


def script(request: ReceivedRequest) -> Steps:
    """Answers with the id that the prompt asks for."""
    asked = json.loads(request.body) if request.body.startswith(b"{") else {}
    given = str(asked.get("input", "resp_other"))
    if "conversations" in request.target and request.request_line.startswith("POST"):
        return answer({"id": "conv_1", "object": "conversation"}, encoding="gzip")
    return answer(response(given))


@pytest.fixture(scope="module")
def provider() -> Iterator[ScriptedProvider]:
    with ScriptedProvider(otherwise=script) as provider:
        yield provider


@pytest.fixture(scope="module", params=["gevent", "gthread"])
def gateway(
    request: pytest.FixtureRequest,
    tmp_path_factory: pytest.TempPathFactory,
    provider: ScriptedProvider,
) -> Iterator[GatewayProcess]:
    folder: Path = tmp_path_factory.mktemp("gateway")
    options = ["--worker-class", request.param]
    upstreams = [Upstream("openai", provider.url)]
    with GatewayProcess(folder, upstreams, options, workers=2) as gateway:
        yield gateway


def call(
    gateway: GatewayProcess, user: str, method: str, path: str, body: Any = None, **headers: str
) -> requests.Response:
    data = body if isinstance(body, bytes) else json.dumps(body) if body is not None else None
    return requests.request(
        method,
        f"{gateway.url}{BASE}{path}",
        data=data,
        headers={"Authorization": f"Bearer {gateway.key(user)}", **headers},
        timeout=30,
    )


def naming(id: str) -> list[tuple[str, str, Any, dict[str, str]]]:
    """Requests that name what is stored under ``id``."""
    ask = {"model": "m", "input": "resp_new"}
    conversation = {"conversation": {"id": id}}
    escaped = f'{{"model":"m","input":"x","previous\\u005fresponse_id":"{id}"}}'.encode()
    packed = gzip.compress(json.dumps({**ask, **conversation}).encode())
    twice = [
        f'{{"model":"m","input":"x",{members}}}'.encode()
        for members in (
            f'"previous_response_id":"{id}","previous_response_id":null',
            f'"previous_response_id":null,"previous_response_id":"{id}"',
            f'"conversation":"{id}","conversation":{{}}',
            f'"conversation":{{"id":"{id}","id":""}}',
        )
    ]
    return [
        ("GET", f"/responses/{id}", None, {}),
        ("GET", f"/responses/%{ord(id[0]):x}{id[1:]}", None, {}),
        ("GET", f"/responses/{id};x=1", None, {}),
        ("GET", f"/responses/{id}?stream=true", None, {}),
        ("DELETE", f"/responses/{id}", None, {}),
        ("POST", f"/responses/{id}/cancel", None, {}),
        ("GET", f"/responses/{id}/input_items?limit=1", None, {}),
        ("POST", "/responses/input_tokens", {**ask, "previous_response_id": id}, {}),
        ("POST", "/responses/compact", {**ask, "previous_response_id": id}, {}),
        ("POST", "/responses", {**ask, "previous_response_id": id}, {}),
        ("POST", "/responses", {**ask, "previous_response_id": id, "stream": True}, {}),
        ("POST", "/responses", {**ask, "conversation": id}, {}),
        ("POST", "/responses", {**ask, **conversation}, {}),
        ("POST", "/responses", escaped, {}),
        *(("POST", "/responses", body, {}) for body in twice),
        *(("POST", "/responses/input_tokens", body, {}) for body in twice),
        ("POST", "/responses", packed, {"Content-Encoding": "gzip"}),
        ("GET", f"/conversations/{id}", None, {}),
        ("POST", f"/conversations/{id}", {"metadata": {}}, {}),
        ("DELETE", f"/conversations/{id}", None, {}),
        ("GET", f"/conversations/{id}/items", None, {}),
    ]


def check_who_may(gateway: GatewayProcess, provider: ScriptedProvider, id: str) -> None:
    before = len(provider.requests)
    for method, path, body, headers in naming(id):
        got = call(gateway, "bob", method, path, body, **headers)
        assert got.status_code == 404, (method, path)
        assert got.json()["error"]["type"] == "invalid_request_error"
        assert id in got.json()["error"]["message"]
    assert len(provider.requests) == before
    for method, path, body, headers in naming(id):
        assert call(gateway, "alice", method, path, body, **headers).status_code == 200, path


def test_a_blocking_answer_is_its_users_from_then_on(
    gateway: GatewayProcess, provider: ScriptedProvider
) -> None:
    ask = {"model": "m", "input": ID}
    answer = call(gateway, "alice", "POST", "/responses", ask)
    assert answer.status_code == 200, answer.text
    assert answer.json()["id"] == ID
    check_who_may(gateway, provider, ID)


def test_a_conversation_is_its_makers_from_then_on(
    gateway: GatewayProcess, provider: ScriptedProvider
) -> None:
    assert call(gateway, "alice", "POST", "/conversations", {}).json()["id"] == "conv_1"
    check_who_may(gateway, provider, "conv_1")


def test_a_stream_is_its_users_before_its_last_event_is_relayed(
    gateway: GatewayProcess, provider: ScriptedProvider
) -> None:
    go_on = threading.Event()
    last = {"type": "response.completed", "response": response("resp_streamed")}
    provider.play(streamed([event(last, name="response.completed"), WaitFor(go_on)]))
    with RawClient(gateway, key=gateway.key("alice")) as client:
        client.post(f"{BASE}/responses", {"model": "m", "input": [], "stream": True})
        client.read_until(b"response.completed")
        assert call(gateway, "bob", "GET", "/responses/resp_streamed").status_code == 404
        go_on.set()
        assert client.answer().status == 200
    check_who_may(gateway, provider, "resp_streamed")


@pytest.mark.parametrize("id", ["resp_unknown", "resp_not_stored", "resp_own_key"])
def test_what_nobody_is_known_to_have_stored_passes(
    gateway: GatewayProcess, provider: ScriptedProvider, id: str
) -> None:
    if id == "resp_not_stored":
        ask = {"model": "m", "input": id, "store": False}
        assert call(gateway, "alice", "POST", "/responses", ask).status_code == 200
    own = {"X-Coder-AI-Governance-Token": gateway.key("alice"), "Authorization": "Bearer sk-own"}
    if id == "resp_own_key":
        got = call(gateway, "alice", "POST", "/responses", {"model": "m", "input": id}, **own)
        assert got.status_code == 200
    for method, path, body, headers in naming(id):
        assert call(gateway, "bob", method, path, body, **headers).status_code == 200, path


def test_a_users_own_key_sees_its_own_account(gateway: GatewayProcess) -> None:
    ask = {"model": "m", "input": "resp_alices"}
    assert call(gateway, "alice", "POST", "/responses", ask).status_code == 200
    own = {"X-Coder-AI-Governance-Token": gateway.key("bob"), "Authorization": "Bearer sk-own"}
    for method, path, body, headers in naming("resp_alices"):
        assert call(gateway, "bob", method, path, body, **headers, **own).status_code == 200
    assert call(gateway, "bob", "GET", "/responses/resp_alices").status_code == 404


@pytest.mark.parametrize(
    ("body", "coding", "status"),
    [
        (gzip.compress(b"") * 2000, "gzip", 413),
        (b"{}", "gzip, gzip, gzip", 415),
        (b"{}", "gzip", 400),
    ],
)
def test_a_body_in_which_no_id_can_be_looked_for_is_refused_like_that_of_a_recorded_request(
    gateway: GatewayProcess, body: bytes, coding: str, status: int
) -> None:
    for path in ("/responses", "/responses/input_tokens"):
        got = call(gateway, "alice", "POST", path, body, **{"Content-Encoding": coding})
        assert got.status_code == status, path
        assert got.json()["error"]["message"].startswith("request body ")
