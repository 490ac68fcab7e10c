"""A provider's refusal names an injected tool: that tool goes, the request and the others stay."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import requests
from gateway_process import GatewayProcess, Upstream, message_of
from imitation_provider import ScriptedProvider, answer, stream
from mcp_process import mcp_server
from round_answers import (
    completion,
    completion_chunks,
    message,
    message_stream,
    response,
    response_events,
)

from aigateway.actors.interception.tool_refusals import refused_tools

ODD_SERVER = Path(__file__).parents[1] / "mcp" / "mcp_odd_server.py"

# -- by themselves

INJECTED = ("bmcp_s_a", "bmcp_s_b", "bmcp_s_bc")
MESSAGES_REQUEST = {"tools": [{"name": "bmcp_s_a"}, {"name": "bmcp_s_b"}, {"name": "own"}]}
CHAT_REQUEST = {
    "tools": [
        {"type": "function", "function": {"name": name}}
        for name in ("own", "bmcp_s_a", "bmcp_s_b", "bmcp_s_bc")
    ]
}


def suspects(request: Any, refusal: Any) -> list[str]:
    body = refusal if isinstance(refusal, bytes) else json.dumps(refusal).encode()
    return sorted(refused_tools(json.dumps(request).encode(), body, INJECTED))


def of_anthropic(text: str) -> dict[str, Any]:
    return {"type": "error", "error": {"type": "invalid_request_error", "message": text}}


def of_openai(text: str, param: str | None = None) -> dict[str, Any]:
    return {"error": {"message": text, "type": "invalid_request_error", "param": param}}


def of_google(text: str) -> list[dict[str, Any]]:
    return [{"error": {"code": 400, "message": text, "status": "INVALID_ARGUMENT"}}]


@pytest.mark.parametrize(
    ("request_body", "refusal", "named"),
    [
        (MESSAGES_REQUEST, of_anthropic("tools.1.custom.input_schema: invalid"), ["bmcp_s_b"]),
        (MESSAGES_REQUEST, of_anthropic("tools.0.custom.name: too long"), ["bmcp_s_a"]),
        (MESSAGES_REQUEST, {"message": "tools.1.custom.input_schema: bad"}, ["bmcp_s_b"]),
        (MESSAGES_REQUEST, of_anthropic("tools.2.custom.input_schema: invalid"), []),
        (MESSAGES_REQUEST, of_anthropic("tools.3.custom.input_schema: invalid"), []),
        (MESSAGES_REQUEST, of_anthropic("messages.1.content.0: invalid"), []),
        (MESSAGES_REQUEST, of_anthropic("mytools.1: invalid"), []),
        (CHAT_REQUEST, of_openai("Invalid.", "tools[1].function.parameters"), ["bmcp_s_a"]),
        (CHAT_REQUEST, of_openai("Invalid 'tools[0].function.description'"), []),
        (CHAT_REQUEST, of_openai("Invalid schema for function 'bmcp_s_b': …"), ["bmcp_s_b"]),
        (CHAT_REQUEST, of_openai("Invalid schema for function 'bmcp_s_bc': …"), ["bmcp_s_bc"]),
        (CHAT_REQUEST, of_openai("Invalid schema for function 'own': …"), []),
        (
            CHAT_REQUEST,
            of_google("* GenerateContentRequest.tools[0].function_declarations[2].parameters: x"),
            ["bmcp_s_b"],
        ),
        (
            CHAT_REQUEST,
            of_google("Unknown name at 'tools[0].function_declarations[0].parameters'"),
            [],
        ),
        (
            CHAT_REQUEST,
            of_google(
                "at 'tools[0].functionDeclarations[1]'\nat 'tools[0].functionDeclarations[3]'"
            ),
            ["bmcp_s_a", "bmcp_s_bc"],
        ),
        (CHAT_REQUEST, {"detail": [{"loc": ["body", "tools", 2], "msg": "bad"}]}, ["bmcp_s_b"]),
        (
            CHAT_REQUEST,
            {"error": {"metadata": {"raw": json.dumps(of_openai("x", "tools[3].function"))}}},
            ["bmcp_s_bc"],
        ),
        (CHAT_REQUEST, {"error": {"input": "tools[1]"}}, []),
        (CHAT_REQUEST, b"<html>tools[1]</html>", []),
        (CHAT_REQUEST, b"", []),
        ({}, of_openai("tools[1]"), []),
    ],
)
def test_a_refusal_names_injected_tools_by_place_or_name(
    request_body: Any, refusal: Any, named: list[str]
) -> None:
    assert suspects(request_body, refusal) == named


# -- through the gateway


@pytest.fixture(scope="module")
def odd_url() -> Iterator[str]:
    with mcp_server(ODD_SERVER) as url:
        yield url


@contextmanager
def running(folder: Path, provider: ScriptedProvider, url: str) -> Iterator[GatewayProcess]:
    config = folder / "gateway.yaml"
    config.write_text(f"ai_gateway:\n  mcp_servers:\n    - {{id: odd, url: '{url}'}}\n")
    upstreams = [Upstream("anthropic", provider.url), Upstream("openai", provider.url)]
    options = ["--config", str(config), "--mcp-max-result-size", "1000"]
    with GatewayProcess(folder, upstreams, options) as gateway:
        yield gateway


@pytest.fixture
def provider() -> Iterator[ScriptedProvider]:
    with ScriptedProvider() as provider:
        yield provider


@pytest.fixture
def gateway(tmp_path: Path, provider: ScriptedProvider, odd_url: str) -> Iterator[GatewayProcess]:
    """One of its own for a test, since it remembers what was refused."""
    with running(tmp_path, provider, odd_url) as gateway:
        yield gateway


@pytest.fixture(scope="module")
def shared_provider() -> Iterator[ScriptedProvider]:
    with ScriptedProvider() as provider:
        yield provider


@pytest.fixture(scope="module")
def shared_gateway(
    tmp_path_factory: pytest.TempPathFactory, shared_provider: ScriptedProvider, odd_url: str
) -> Iterator[GatewayProcess]:
    """For tests in which no injected tool is refused."""
    with running(tmp_path_factory.mktemp("shared"), shared_provider, odd_url) as gateway:
        yield gateway


class Api:
    """How one API is asked, and how its provider answers and refuses."""

    def __init__(
        self, path: str, body: dict[str, Any], whole: Any, parts: Any, refusal: dict[str, Any]
    ) -> None:
        self.path, self.body, self.refusal = path, body, refusal
        self._whole, self._parts = whole, parts

    def answer(self, streaming: bool, *args: Any, **more: Any) -> Any:
        made = self._parts if streaming else self._whole
        return (stream if streaming else answer)(made(*args, **more))


ASKED = [{"role": "user", "content": "hi"}]
APIS = {
    "messages": Api(
        "anthropic/v1/messages",
        {"model": "claude-x", "max_tokens": 9, "messages": ASKED, "tools": [{"name": "own"}]},
        message,
        message_stream,
        of_anthropic("tools.2.custom.input_schema: JSON schema is invalid"),
    ),
    "chat": Api(
        "openai/v1/chat/completions",
        {"model": "gpt-x", "messages": ASKED, "tools": [{"function": {"name": "own"}}]},
        completion,
        completion_chunks,
        of_openai("Invalid schema for function 'bmcp_odd_search'", "tools[3].function.parameters"),
    ),
    "responses": Api(
        "openai/v1/responses",
        {"model": "gpt-x", "input": ASKED, "tools": [{"type": "function", "name": "own"}]},
        response,
        response_events,
        of_openai("Invalid schema for function 'bmcp_odd_search'", "tools[3].parameters"),
    ),
}
each_api = pytest.mark.parametrize("api", APIS.values(), ids=APIS.keys())
both = pytest.mark.parametrize("streaming", [True, False], ids=["stream", "blocking"])


def ask(gateway: GatewayProcess, api: Api, streaming: bool = False, **more: Any) -> Any:
    return requests.post(
        f"{gateway.url}/{api.path}",
        json={**api.body, "stream": streaming, **more},
        headers={"Authorization": f"Bearer {gateway.key()}"},
        timeout=30,
    )


def offered(request: Any) -> list[str]:
    tools = request.json().get("tools", [])
    return [tool.get("name") or tool["function"]["name"] for tool in tools]


@both
@each_api
def test_the_request_is_sent_again_without_the_tool_which_stays_out(
    gateway: GatewayProcess, provider: ScriptedProvider, api: Api, streaming: bool
) -> None:
    provider.play(answer(api.refusal, 400))
    provider.play(api.answer(streaming, "hello"))
    assert ask(gateway, api, streaming).status_code == 200
    first, second = map(offered, provider.requests)
    assert "bmcp_odd_search" in first
    assert set(first) - set(second) == {"bmcp_odd_search"}
    provider.play(api.answer(streaming, "hello"))
    assert ask(gateway, api, streaming).status_code == 200
    assert offered(provider.requests[2]) == second
    (told,) = [line for line in gateway.logs() if "refuses" in message_of(line)]
    assert told["fields"]["server"] == "odd"
    assert told["fields"]["tool"] == "search"
    folder = str(gateway.runtime_dir)
    listed = gateway.command("actors", "--json", "--runtime-dir", folder)
    assert listed.returncode == 0, listed.stderr
    (worker,) = json.loads(listed.stdout)
    lines = {actor["role"]: actor for actor in worker["actors"]}
    assert lines["mcp/odd/search"]["state"] == "left out"
    assert "schema" in lines["mcp/odd/search"]["detail"]
    assert "over 131072 bytes" in lines["mcp/odd/huge"]["detail"]


def test_another_provider_is_still_offered_the_tool(
    gateway: GatewayProcess, provider: ScriptedProvider
) -> None:
    provider.play(answer(APIS["chat"].refusal, 400))
    provider.play(APIS["chat"].answer(False, "hello"))
    ask(gateway, APIS["chat"])
    provider.play(APIS["messages"].answer(False, "hello"))
    ask(gateway, APIS["messages"])
    assert "bmcp_odd_search" in offered(provider.requests[2])


@both
def test_a_refusal_of_the_clients_own_tool_is_the_clients(
    shared_gateway: GatewayProcess, shared_provider: ScriptedProvider, streaming: bool
) -> None:
    refusal = of_openai("Invalid schema for function 'own'", "tools[0].function.parameters")
    before = len(shared_provider.requests)
    shared_provider.play(answer(refusal, 400, [("X-Theirs", "1")]))
    refused = ask(shared_gateway, APIS["chat"], streaming)
    assert (refused.status_code, refused.json()) == (400, refusal)
    assert refused.headers["X-Theirs"] == "1"
    assert len(shared_provider.requests) == before + 1


def test_a_tool_is_not_to_blame_if_the_request_is_refused_without_it_too(
    gateway: GatewayProcess, provider: ScriptedProvider
) -> None:
    """Else any user could take tools from all others."""
    echo = of_openai("Unknown tier: function 'bmcp_odd_search'", "service_tier")
    provider.play(answer(echo, 400))
    provider.play(answer(echo, 400))
    assert ask(gateway, APIS["chat"]).json() == echo
    provider.play(APIS["chat"].answer(False, "hello"))
    ask(gateway, APIS["chat"])
    assert "bmcp_odd_search" in offered(provider.requests[-1])


def test_however_many_tools_are_refused_the_request_gets_through(
    gateway: GatewayProcess, provider: ScriptedProvider
) -> None:
    names = ("big", "list_users", "search")
    for name in names:
        provider.play(answer(of_openai(f"Invalid schema for function 'bmcp_odd_{name}'"), 400))
    provider.play(APIS["chat"].answer(False, "hello"))
    assert ask(gateway, APIS["chat"]).status_code == 200
    last = provider.requests[-1].json()
    assert last["tools"] == APIS["chat"].body["tools"]
    assert "parallel_tool_calls" not in last


def holds(value: Any, wanted: Any) -> bool:
    """Whether a document holds a value, if only as JSON in a text."""
    if isinstance(value, str) and value.startswith(("{", "[")):
        value = json.loads(value)
    if value == wanted:
        return True
    if isinstance(value, dict):
        value = list(value.values())
    return isinstance(value, list) and any(holds(each, wanted) for each in value)


CALL = ("call_1", "bmcp_odd_list_users", {"top": 5, "filter_id": [1], "body": {"odata.type": "u"}})


@both
@each_api
def test_a_call_arrives_with_the_servers_own_keys(
    shared_gateway: GatewayProcess, shared_provider: ScriptedProvider, api: Api, streaming: bool
) -> None:
    shared_provider.play(api.answer(streaming, "Let me see.", [CALL], number=1))
    shared_provider.play(api.answer(streaming, "Done.", number=2))
    answered = ask(shared_gateway, api, streaming)
    assert answered.status_code == 200
    first, second = (request.body.decode() for request in shared_provider.requests[-2:])
    tool = next(t for t in json.loads(first)["tools"] if "list_users" in json.dumps(t))
    assert '"$top":' not in json.dumps(tool)
    expected = {"$top": 5, "filter[id]": [1], "body": {"@odata.type": "u"}}
    # The server answers with the arguments that it got.
    assert holds(json.loads(second), expected)
    records = shared_gateway.records(answered.headers["X-AI-Gateway-Interception-Id"])
    (used,) = records["tool_usages"]
    assert json.loads(used["input"]) == expected


def test_a_long_result_is_cut_and_an_empty_one_is_a_success(
    shared_gateway: GatewayProcess, shared_provider: ScriptedProvider
) -> None:
    api = APIS["messages"]
    calls = [("t1", "bmcp_odd_big", {"size": 5000}), ("t2", "bmcp_odd_search", {})]
    shared_provider.play(api.answer(False, "Let me see.", calls, number=1))
    shared_provider.play(api.answer(False, "Done.", number=2))
    ask(shared_gateway, api)
    long, empty = shared_provider.requests[-1].json()["messages"][-1]["content"]
    assert long["content"][0]["text"] == "é" * 500
    assert "1000 bytes of about" in long["content"][1]["text"]
    assert (empty["content"], empty["is_error"]) == ([], False)
