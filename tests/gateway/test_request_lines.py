"""Each request has one line in the log, an id by which it is found again, and honest times."""

from __future__ import annotations

import json
import re
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import requests
from gateway_process import GatewayProcess, Upstream, message_of, wait_until
from imitation_provider import (
    ScriptedProvider,
    Step,
    Tell,
    WaitFor,
    answer,
    cut,
    error,
    event,
    head,
    stream,
)
from raw_client import RawClient

ID = "X-AI-Gateway-Request-Id"
BODY = {"model": "claude-x", "max_tokens": 5, "messages": [{"role": "user", "content": "hi"}]}
PATH = "/anthropic/v1/messages"
MESSAGE = {
    "id": "msg_1",
    "type": "message",
    "role": "assistant",
    "model": "claude-x",
    "content": [{"type": "text", "text": "hello"}],
    "stop_reason": "end_turn",
    "usage": {"input_tokens": 3, "output_tokens": 2},
}
START = event({"type": "message_start", "message": MESSAGE}, name="message_start")
PING = event({"type": "ping"}, name="ping")
END = event({"type": "message_stop"}, name="message_stop")


def line_of(gateway: GatewayProcess, request_id: str) -> dict[str, Any]:
    """The fields of the one line about a request; more than one is a failure."""

    def found() -> list[dict[str, Any]]:
        return [
            line
            for line in gateway.logs()
            if message_of(line) == "request" and line["fields"].get("request_id") == request_id
        ]

    (line,) = wait_until(found, f"the line of {request_id}")
    assert line["level"] == "INFO"
    fields: dict[str, Any] = line["fields"]
    return fields


def post(gateway: GatewayProcess, path: str = PATH, **headers: str) -> requests.Response:
    return requests.post(
        f"{gateway.url}{path}",
        json=BODY,
        headers={"X-Api-Key": gateway.key(), **headers},
        timeout=30,
    )


def test_an_intercepted_request(any_gateway: GatewayProcess, provider: ScriptedProvider) -> None:
    provider.play(answer(MESSAGE))
    got = post(any_gateway)
    line = line_of(any_gateway, got.headers[ID])
    (row,) = any_gateway.rows(
        "SELECT * FROM interceptions WHERE id = ?", got.headers["X-AI-Gateway-Interception-Id"]
    )
    duration, overhead = line.pop("duration_ms"), line.pop("overhead_ms")
    assert 0 < overhead <= duration < 30_000
    assert line == {
        "request_id": got.headers[ID],
        "interception_id": row["id"],
        "user_id": row["initiator_id"],
        "method": "POST",
        "path": PATH,
        "provider": "anthropic",
        "model": "claude-x",
        "status": 200,
        "client_ip": "127.0.0.1",
        "outcome": "complete",
        "bytes": len(got.content),
    }


def test_behind_proxies_a_client_has_its_own_address_and_rate(
    tmp_path: Path, provider: ScriptedProvider
) -> None:
    options = ["--trusted-proxies", "127.0.0.0/8,10.0.0.0/8", "--ai-gateway-rate-limit", "1"]
    with GatewayProcess(tmp_path, [Upstream("anthropic", provider.url)], options) as gateway:

        def told(forwarded: str) -> tuple[int, dict[str, Any]]:
            headers = {"X-Forwarded-For": forwarded}
            got = requests.get(f"{gateway.url}{PATH}", headers=headers, timeout=30)
            return got.status_code, line_of(gateway, got.headers[ID])

        for number in range(1, 4):
            status, line = told(f"6.6.6.6, 192.0.2.{number}, 10.0.0.1")
            assert (status, line["client_ip"]) == (400, f"192.0.2.{number}")
            assert line["reason"] == "no_key"
        # However many addresses one client makes up, it is the same client.
        with ThreadPoolExecutor(10) as pool:
            seen = [*pool.map(lambda number: told(f"6.6.6.{number}, 192.0.2.9"), range(20))]
        assert "rate_limited" in {line["reason"] for _, line in seen}


def test_a_request_that_is_passed_through(
    any_gateway: GatewayProcess, provider: ScriptedProvider
) -> None:
    provider.play(answer({"data": []}, headers=[("x-request-id", "the-provider's")]))
    got = requests.get(
        f"{any_gateway.url}/openai/v1/models?key=planted-in-a-query",
        headers={"Authorization": f"Bearer {any_gateway.key()}"},
        timeout=30,
    )
    # What the provider calls it is relayed beside.
    assert got.headers["x-request-id"] == "the-provider's"
    line = line_of(any_gateway, got.headers[ID])
    assert (line["path"], line["status"], line["outcome"]) == ("/openai/v1/models", 200, "complete")
    assert line["provider"] == "openai"
    assert not {"interception_id", "model"} & set(line)
    assert "planted-in-a-query" not in any_gateway.log_file.read_text()


def test_the_time_of_the_provider_is_no_overhead(
    any_gateway: GatewayProcess, provider: ScriptedProvider
) -> None:
    arrived, at_first, at_last = threading.Event(), threading.Event(), threading.Event()
    provider.play([Tell(arrived), WaitFor(at_first), *stream([START, WaitFor(at_last), END])])
    with ThreadPoolExecutor() as pool:
        asked = pool.submit(post, any_gateway)
        assert arrived.wait(30)
        # Time passes in which nothing but the provider is waited for.
        threading.Event().wait(0.3)
        at_first.set()
        threading.Event().wait(0.3)
        at_last.set()
        got = asked.result()
    line = line_of(any_gateway, got.headers[ID])
    assert line["duration_ms"] >= 590
    assert line["overhead_ms"] <= line["duration_ms"] - 590


REFUSALS = [
    pytest.param("/nobody/v1/x", {}, 404, id="unknown-provider"),
    pytest.param(PATH, {"X-Api-Key": "wrong"}, 403, id="wrong-key"),
    pytest.param(PATH, {"X-Api-Key": ""}, 400, id="no-key"),
]


@pytest.mark.parametrize(("path", "headers", "status"), REFUSALS)
def test_a_request_that_is_refused(
    any_gateway: GatewayProcess, path: str, headers: dict[str, str], status: int
) -> None:
    got = post(any_gateway, path, **headers)
    assert got.status_code == status
    line = line_of(any_gateway, got.headers[ID])
    assert (line["status"], line["outcome"], line["path"]) == (status, "refused", path)
    assert line["bytes"] == len(got.content)


@pytest.mark.parametrize(
    ("script", "status", "outcome"),
    [
        pytest.param(error(529), 529, "complete", id="the-provider-says-no"),
        pytest.param(cut([START]), 200, "cut", id="the-provider-breaks-off"),
    ],
)
def test_a_request_that_fails_at_the_provider(
    any_gateway: GatewayProcess,
    provider: ScriptedProvider,
    script: list[Step],
    status: int,
    outcome: str,
) -> None:
    provider.play(script)
    with RawClient(any_gateway) as client:
        client.post(PATH, {**BODY, "stream": True})
        got = client.answer()
    line = line_of(any_gateway, got.headers[ID.lower()])
    assert (line["status"], line["outcome"]) == (status, outcome)


def test_a_client_that_leaves_its_answer(
    any_gateway: GatewayProcess, provider: ScriptedProvider
) -> None:
    gone, logged = threading.Event(), threading.Event()
    provider.play(stream([START, WaitFor(gone), PING, WaitFor(logged), END]))
    client = RawClient(any_gateway)
    client.post(PATH, {**BODY, "stream": True}, **{"X-Request-Id": "left-its-answer"})
    client.read_until(b"message_start")
    client.reset()
    gone.set()
    assert line_of(any_gateway, "left-its-answer")["outcome"] == "left"
    logged.set()


def test_a_client_that_leaves_inside_its_request(any_gateway: GatewayProcess) -> None:
    client = RawClient(any_gateway)
    headers = {"X-Request-Id": "left-inside", "Content-Length": "100"}
    lines = [f"POST {PATH} HTTP/1.1", "Host: g", f"X-Api-Key: {any_gateway.key()}"]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    client.send("\r\n".join([*lines, "", "{"]).encode())
    client.close()
    line = line_of(any_gateway, "left-inside")
    assert (line["status"], line["outcome"]) == (400, "left")


def test_requests_that_find_no_place(tmp_path: Path, provider: ScriptedProvider) -> None:
    go_on, arrived = threading.Event(), threading.Event()
    options = ["--ai-gateway-max-concurrency", "1", "--queue-depth", "0"]
    gateway = GatewayProcess(tmp_path, [Upstream("anthropic", provider.url)], options)
    with gateway, ThreadPoolExecutor() as pool:
        provider.play([Tell(arrived), WaitFor(go_on), *answer(MESSAGE)])
        first = pool.submit(post, gateway)
        assert arrived.wait(30)
        refused = post(gateway)
        go_on.set()
        assert first.result().status_code == 200
        assert refused.status_code == 503
        line = line_of(gateway, refused.headers[ID])
        assert (line["status"], line["outcome"]) == (503, "refused")
        assert len([one for one in gateway.logs() if message_of(one) == "request"]) == 2


# -- ids


@pytest.mark.parametrize("given", ["r-1", "01a2157a-c0c9-7c8f-8757-2e474dcb5099", "a" * 128])
def test_an_id_that_came_with_the_request_is_kept(any_gateway: GatewayProcess, given: str) -> None:
    assert post(any_gateway, **{"X-Request-Id": given}).headers[ID] == given


@pytest.mark.parametrize("given", ["", "two words", "a" * 129, 'quo"te', "ünï"])
def test_an_id_that_is_none_is_replaced(any_gateway: GatewayProcess, given: str) -> None:
    with RawClient(any_gateway) as client:
        client.post(PATH, BODY, **{"X-Request-Id": given})
        assert re.fullmatch("[0-9a-f]{16}", client.answer().headers[ID.lower()])


def test_each_request_of_a_connection_has_an_id_of_its_own(any_gateway: GatewayProcess) -> None:
    with requests.Session() as session:
        ids = [
            session.get(f"{any_gateway.url}/nobody", headers={"X-Api-Key": "x"}).headers[ID]
            for _ in range(5)
        ]
    assert len(set(ids)) == 5


def test_what_else_is_logged_of_a_request_has_its_id(any_gateway: GatewayProcess) -> None:
    got = post(any_gateway, **{"X-Api-Key": "wrong", "X-Coder-AI-Governance-Request-Id": "p-7"})
    line_of(any_gateway, got.headers[ID])
    lines = [
        line for line in any_gateway.logs() if line["fields"].get("request_id") == got.headers[ID]
    ]
    assert [message_of(line) for line in lines] == ["key authorization check failed", "request"]
    assert lines[0]["fields"]["auth_mode"] == "centralized"
    assert lines[1]["fields"]["aibridgeproxy_id"] == "p-7"


def test_probes_have_no_line(any_gateway: GatewayProcess) -> None:
    before = len(any_gateway.logs())
    for path in ("/healthz", "/readyz"):
        assert ID not in requests.get(f"{any_gateway.url}{path}", timeout=30).headers
    assert len(any_gateway.logs()) == before


# -- forms


def test_all_forms_at_once_say_the_same(tmp_path: Path, provider: ScriptedProvider) -> None:
    provider.play(answer(MESSAGE))
    human, stackdriver = tmp_path / "human.log", tmp_path / "stackdriver.log"
    options = ["--log-human", str(human), "--log-stackdriver", str(stackdriver)]
    gateway = GatewayProcess(tmp_path / "gw", [Upstream("anthropic", provider.url)], options)
    with gateway:
        request_id = post(gateway).headers[ID]
        fields = line_of(gateway, request_id)
    (line,) = [
        entry
        for entry in map(json.loads, stackdriver.read_text().splitlines())
        if entry["message"] == "request"
    ]
    assert line["fields"] == fields
    assert (line["severity"], line["logger"]) == ("INFO", "ai-gateway")
    (text,) = [one for one in human.read_text().splitlines() if "ai-gateway: request  " in one]
    shown = dict(part.split("=", 1) for part in text.split("  ")[2:])
    assert shown == {name: str(value) for name, value in fields.items()} | {
        name: f"{fields[name]:.6g}" for name in ("duration_ms", "overhead_ms")
    }
    # Whoever starts and stops the workers logs into the same stream.
    for path in (human, stackdriver, gateway.log_file):
        assert "Booting worker with pid" in path.read_text()
    assert gateway.stderr() == ""


def test_a_request_for_a_head_alone_ends_like_any_other(
    any_gateway: GatewayProcess, provider: ScriptedProvider
) -> None:
    provider.play([head(200, [("Content-Length", "12")])])
    got = requests.head(
        any_gateway.url + "/anthropic/v1/models",
        headers={"X-Api-Key": any_gateway.key()},
        timeout=30,
    )
    assert (got.status_code, got.headers["Content-Length"]) == (200, "12")
    line = line_of(any_gateway, got.headers[ID])
    assert (line["outcome"], line["bytes"]) == ("complete", 0)
