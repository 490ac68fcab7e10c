"""Google's own API through a real gateway: its SDK, its keys, its two kinds of stream."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests
from gateway_process import GatewayProcess, Upstream, wait_until
from google import genai
from google.genai import errors, types
from imitation_provider import (
    Close,
    ReceivedRequest,
    ScriptedProvider,
    answer,
    cut,
    imitate,
)
from raw_client import RawClient

PROMPT = "tell me about angels on pins"
MODEL = "gemini-imitation-large"
PATH = f"/v1beta/models/{MODEL}"
SSE = "text/event-stream"
KEY = "AIzaSyTheKeyOfTheGateway-0123456789abc"
OTHER_KEY = "AIzaSyAnotherKeyOfTheGateway-987654321"


def google(provider: ScriptedProvider, **more: Any) -> Upstream:
    return Upstream("gemini", provider.url, **{"key": KEY, **more})


@pytest.fixture(scope="module")
def backup() -> Iterator[ScriptedProvider]:
    with ScriptedProvider(otherwise=imitate()) as provider:
        yield provider


@pytest.fixture(scope="module")
def dumps(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("dumps")


@pytest.fixture(scope="module", params=["gevent", "gthread"])
def gateway(
    request: pytest.FixtureRequest,
    tmp_path_factory: pytest.TempPathFactory,
    provider: ScriptedProvider,
    backup: ScriptedProvider,
    dumps: Path,
) -> Iterator[GatewayProcess]:
    """``gemini`` and, with two keys, ``two``; ``listed`` has models; ``rescued`` falls back."""
    upstreams = [
        google(provider),
        google(provider, name="two", key="", extra={"KEYS": f"{KEY},{OTHER_KEY}"}),
        google(
            provider, name="listed", extra={"MODELS": f"{MODEL}, fast = {MODEL}, t = tunedModels/t"}
        ),
        google(provider, name="rescued", extra={"FALLBACK": "backup"}),
        google(backup, name="backup", key=OTHER_KEY),
        google(provider, name="resting"),
    ]
    options = ["--worker-class", request.param, "--ai-gateway-dump-dir", str(dumps)]
    with GatewayProcess(tmp_path_factory.mktemp("gw"), upstreams, options) as gateway:
        yield gateway


def client(url: str, key: str) -> genai.Client:
    return genai.Client(api_key=key, vertexai=False, http_options=types.HttpOptions(base_url=url))


@pytest.fixture
def pair(gateway: GatewayProcess, provider: ScriptedProvider) -> list[genai.Client]:
    """Google's SDK through the gateway, and without it."""
    return [client(f"{gateway.url}/gemini", gateway.key()), client(provider.url, "any")]


def ask(gateway: GatewayProcess, path: str, body: Any = None, **more: Any) -> requests.Response:
    """POST to a provider, or GET without a body."""
    headers = {"x-goog-api-key": gateway.key(more.pop("user", "alice")), **more.pop("headers", {})}
    return requests.request(
        more.pop("method", "POST" if body is not None else "GET"),
        f"{gateway.url}{path}",
        json=body,
        headers={name: value for name, value in headers.items() if value},
        timeout=30,
        **more,
    )


def said(text: str = PROMPT, **more: Any) -> dict[str, Any]:
    return {"contents": [{"role": "user", "parts": [{"text": text}]}], **more}


def dumped(found: Any) -> Any:
    """What the SDK read, without what differs from call to call."""
    return found.model_dump(exclude={"sdk_http_response"})


# -- Google's SDK


def test_an_answer_is_the_same_as_without_the_gateway(pair: list[genai.Client]) -> None:
    config = types.GenerateContentConfig(
        system_instruction="Be brief.",
        thinking_config=types.ThinkingConfig(include_thoughts=True),
    )
    through, without = (
        dumped(each.models.generate_content(model=MODEL, contents=PROMPT, config=config))
        for each in pair
    )
    assert through == without
    assert len(through["candidates"][0]["content"]["parts"]) == 2


def test_a_stream_is_the_same_as_without_the_gateway(pair: list[genai.Client]) -> None:
    through, without = (
        [dumped(x) for x in each.models.generate_content_stream(model=MODEL, contents=PROMPT)]
        for each in pair
    )
    assert through == without
    assert len(through) > 5


def test_embeddings_are_recorded_and_priced(
    gateway: GatewayProcess, provider: ScriptedProvider
) -> None:
    usage = {"promptTokenCount": 8}
    provider.play(answer({"embeddings": [{"values": [0.5, 1]}], "usageMetadata": usage}))
    google = client(f"{gateway.url}/gemini", gateway.key())
    found = google.models.embed_content(model="gemini-embedding-001", contents=["a"])
    assert found.embeddings[0].values == [0.5, 1]  # type: ignore[index]
    sql = (
        "SELECT * FROM token_usages JOIN interceptions ON id = interception_id"
        " WHERE model = 'gemini-embedding-001'"
    )
    (row,) = wait_until(lambda: gateway.rows(sql), "the tokens are recorded")
    assert row["input_tokens"] == 8
    assert row["cost_nano_usd"] == 8 * 150
    # An older model tells no usage, and a list of models holds for embeddings too.
    provider.play(answer({"embedding": {"values": [0.5]}}))
    body = {"content": {"parts": [{"text": "a"}]}}
    old = ask(gateway, "/gemini/v1beta/models/gemini-embedding-001:embedContent", body)
    records = gateway.records(old.headers["X-AI-Gateway-Interception-Id"])
    assert records["token_usages"][0]["cost_nano_usd"] is None
    other = ask(gateway, "/listed/v1beta/models/gemini-embedding-001:embedContent", body)
    assert (other.status_code, other.json()["error"]["status"]) == (404, "NOT_FOUND")


def test_tools_are_called_and_their_results_correlated(
    pair: list[genai.Client], gateway: GatewayProcess
) -> None:
    asked: list[tuple[str, int]] = []

    def get_weather(city: str, days: int) -> str:
        """The weather of a city."""
        asked.append((city, days))
        return "Snow, then sun"

    chat = pair[0].chats.create(
        model=MODEL, config=types.GenerateContentConfig(tools=[get_weather])
    )
    reply = chat.send_message('Please use get_weather for "Turku" and 3 days')
    assert asked == [("Turku", 3)]
    assert "Snow, then sun" in (reply.text or "")
    sql = (
        "SELECT i.correlating_tool_call_id, t.tool, t.input FROM tool_usages t"
        " JOIN interceptions i ON i.correlating_tool_call_id = t.tool_call_id"
    )
    rows = wait_until(lambda: gateway.rows(sql), "the call is recorded")
    assert [(row["tool"], json.loads(row["input"])) for row in rows] == [
        ("get_weather", {"city": "Turku", "days": 3})
    ]


def test_what_is_cached_is_read_from_the_cache(
    pair: list[genai.Client], gateway: GatewayProcess
) -> None:
    cache = pair[0].caches.create(
        model=MODEL, config=types.CreateCachedContentConfig(contents=["a long text"], ttl="300s")
    )
    assert cache.name
    config = types.GenerateContentConfig(cached_content=cache.name)
    reply = pair[0].models.generate_content(model=MODEL, contents="cached?", config=config)
    assert reply.usage_metadata is not None
    assert reply.usage_metadata.cached_content_token_count == 5000
    sql = (
        "SELECT t.* FROM token_usages t JOIN user_prompts p USING (interception_id)"
        " WHERE p.prompt = 'cached?'"
    )
    [row] = wait_until(lambda: gateway.rows(sql), "the tokens are recorded")
    assert (row["cache_read_input_tokens"], row["input_tokens"]) == (5000, 1)
    assert pair[0].caches.get(name=cache.name).name == cache.name
    pair[0].caches.delete(name=cache.name)


def test_models_are_listed_and_tokens_counted_as_without_the_gateway(
    pair: list[genai.Client],
) -> None:
    for look in (
        lambda each: [dumped(x) for x in each.models.list()],
        lambda each: dumped(each.models.get(model=MODEL)),
        lambda each: each.models.count_tokens(model=MODEL, contents=PROMPT).total_tokens,
    ):
        through, without = map(look, pair)
        assert through == without
        assert through


def test_the_sdk_understands_the_gateways_refusals(
    gateway: GatewayProcess, pair: list[genai.Client]
) -> None:
    stranger = client(f"{gateway.url}/gemini", "nobody-knows-this-key")
    with pytest.raises(errors.ClientError) as caught:
        stranger.models.generate_content(model=MODEL, contents=PROMPT)
    assert (caught.value.code, caught.value.status) == (403, "PERMISSION_DENIED")
    with pytest.raises(errors.ClientError, match="route not supported") as caught:
        list(pair[0].caches.list())
    assert (caught.value.code, caught.value.status) == (404, "NOT_FOUND")


def test_a_cut_stream_is_an_error_for_the_sdk(
    pair: list[genai.Client], provider: ScriptedProvider
) -> None:
    chunk = {"candidates": [{"content": {"parts": [{"text": "half"}]}}], "responseId": "r"}
    provider.play(cut([b"data: " + json.dumps(chunk).encode() + b"\r\n\r\n"], Close()))
    stream = pair[0].models.generate_content_stream(model=MODEL, contents=PROMPT)
    assert next(stream).text == "half"
    with pytest.raises(errors.ServerError) as caught:
        next(stream)
    assert caught.value.status == "INTERNAL"


# -- both kinds of stream


@pytest.mark.parametrize("method", [":streamGenerateContent", ":streamGenerateContent?alt=sse"])
def test_a_stream_comes_as_it_was_sent_and_is_recorded(
    gateway: GatewayProcess, provider: ScriptedProvider, method: str
) -> None:
    body = said(generationConfig={"thinkingConfig": {"includeThoughts": True}})
    through = ask(gateway, f"/gemini{PATH}{method}", body)
    direct = requests.post(
        f"{provider.url}{PATH}{method}", json=body, headers={"x-goog-api-key": "any"}, timeout=30
    )
    assert through.content == direct.content
    assert through.headers["content-type"] == direct.headers["content-type"]
    # A proxy in between is not to wait for its end.
    assert through.headers["x-accel-buffering"] == "no"
    found = gateway.records(through.headers["x-ai-gateway-interception-id"])
    assert (found["provider"], found["model"], found["error_type"]) == ("gemini", MODEL, None)
    assert found["credential_hint"] == "AIza...9abc"
    assert [each["prompt"] for each in found["user_prompts"]] == [PROMPT]
    assert "wants an answer" in found["model_thoughts"][0]["content"]
    [tokens] = found["token_usages"]
    assert json.loads(tokens["metadata"])["output_thinking"] > 0


def test_an_array_that_is_cut_is_not_closed(
    gateway: GatewayProcess, provider: ScriptedProvider
) -> None:
    sent = b'[{"candidates":[{"content":{"parts":[{"text":"half"}]}}]}\n'
    for script in (cut([sent + b',{"cand'], Close()), answer(sent + b"]", framing="chunked")):
        provider.play(script)
        with RawClient(gateway) as raw:
            raw.post(f"/gemini{PATH}:streamGenerateContent", said())
            reply = raw.answer()
        assert reply.body == sent.rstrip()
        assert not reply.ended
        found = gateway.records(reply.interception_id)
        assert found["error_type"] == "server_error"
        assert json.loads(found["token_usages"][0]["metadata"]) == {"usage_complete": False}


def test_a_blocked_prompt_is_recorded_as_a_failure(
    gateway: GatewayProcess, provider: ScriptedProvider
) -> None:
    blocked = {
        "promptFeedback": {"blockReason": "PROHIBITED_CONTENT"},
        "usageMetadata": {"promptTokenCount": 7, "totalTokenCount": 7},
    }
    provider.play(answer(blocked))
    reply = ask(gateway, f"/gemini{PATH}:generateContent", said())
    assert reply.json() == blocked
    found = gateway.records(reply.headers["x-ai-gateway-interception-id"])
    assert found["error_message"] == "the prompt was blocked: PROHIBITED_CONTENT"
    assert json.loads(found["metadata"]) == {"block_reason": "PROHIBITED_CONTENT"}
    assert found["token_usages"][0]["input_tokens"] == 7


# -- keys


@pytest.mark.parametrize("where", ["header", "query", "bearer"])
def test_the_users_key_goes_nowhere(
    gateway: GatewayProcess, provider: ScriptedProvider, dumps: Path, where: str
) -> None:
    key = gateway.key(f"user-of-{where}")
    headers = {"x-goog-api-key": key if where == "header" else ""}
    if where == "bearer":
        headers["Authorization"] = f"Bearer {key}"
    query = f"&key={key}" if where == "query" else ""
    for path, body in (
        (f"/gemini{PATH}:streamGenerateContent?alt=sse{query}", said()),
        (f"/gemini/v1beta/models?pageSize=5{query}", None),
        (f"/gemini/v1beta/nowhere?x=1{query}", None),
    ):
        reply = ask(gateway, path, body, headers=headers)
        assert reply.status_code == (404 if "nowhere" in path else 200)
        if reply.status_code == 200:
            sent: ReceivedRequest = provider.requests[-1]
            assert sent.header("x-goog-api-key") == KEY
            assert sent.header("authorization") is None
            assert "key=" not in sent.target
            assert "alt=sse" in sent.target or "pageSize=5" in sent.target
            assert key not in repr(sent)
    written = [gateway.log_file, gateway.folder / "stderr.txt", *dumps.rglob("*.txt")]
    assert len(written) > 2
    for file in written:
        assert key not in file.read_text()
        assert KEY not in file.read_text()


@pytest.mark.parametrize("where", ["header", "query"])
def test_a_user_may_bring_a_key_of_their_own(
    gateway: GatewayProcess, provider: ScriptedProvider, where: str
) -> None:
    own = "AIzaSyTheUsersOwnKey-000000000000000000"
    headers = {"X-Coder-AI-Governance-Token": gateway.key(), "x-goog-api-key": ""}
    query = ""
    if where == "header":
        headers["x-goog-api-key"] = own
    else:
        query = f"?key={own}"
    reply = ask(gateway, f"/gemini{PATH}:generateContent{query}", said(), headers=headers)
    assert reply.status_code == 200
    assert provider.requests[-1].header("x-goog-api-key") == own
    assert "key=" not in provider.requests[-1].target
    found = gateway.records(reply.headers["x-ai-gateway-interception-id"])
    assert (found["credential_kind"], found["credential_hint"]) == ("byok", "AIza...0000")


def google_error(status: int, name: str, *details: Any) -> dict[str, Any]:
    return {"error": {"code": status, "message": "No.", "status": name, "details": list(details)}}


INVALID = google_error(
    400,
    "INVALID_ARGUMENT",
    {"@type": "type.googleapis.com/google.rpc.ErrorInfo", "reason": "API_KEY_INVALID"},
)
LIMITED = google_error(
    429,
    "RESOURCE_EXHAUSTED",
    {"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": "77s"},
)


def test_a_key_that_google_does_not_know_is_passed_over(
    gateway: GatewayProcess, provider: ScriptedProvider
) -> None:
    provider.play(answer(INVALID, 400))
    reply = ask(gateway, f"/two{PATH}:generateContent", said("first key, second key"))
    assert reply.status_code == 200
    keys = [each.header("x-goog-api-key") for each in provider.requests[-2:]]
    assert sorted(map(str, keys)) == sorted([KEY, OTHER_KEY])


def test_a_client_does_not_hear_that_the_gateways_key_is_wrong_as_if_it_were_its_own(
    gateway: GatewayProcess, provider: ScriptedProvider
) -> None:
    provider.play(answer(INVALID, 400))
    reply = ask(gateway, f"/gemini{PATH}:generateContent", said())
    assert reply.status_code == 502
    told = reply.json()["error"]
    assert (told["code"], told["status"]) == (502, "INTERNAL")
    assert "does not accept the gateway's credential: INVALID_ARGUMENT: No." in told["message"]
    # What is wrong with a request itself goes to its client as it came.
    wrong = google_error(400, "INVALID_ARGUMENT")
    provider.play(answer(wrong, 400))
    reply = ask(gateway, f"/gemini{PATH}:generateContent", said())
    assert (reply.status_code, reply.json()) == (400, wrong)


@pytest.mark.parametrize("method", ["generateContent", "streamGenerateContent"])
def test_a_key_rests_as_long_as_google_says(
    gateway: GatewayProcess, provider: ScriptedProvider, method: str
) -> None:
    path = f"/resting/v1beta/models/{method}-model:{method}"
    refusal = [LIMITED] if method == "streamGenerateContent" else LIMITED
    provider.play(answer(refusal, 429))
    assert ask(gateway, path, said()).json() == refusal
    asked = len(provider.requests)
    reply = ask(gateway, path, said())
    assert reply.status_code == 429
    assert 60 < int(reply.headers["retry-after"]) <= 77
    assert reply.json()["error"]["status"] == "RESOURCE_EXHAUSTED"
    assert len(provider.requests) == asked


# -- several providers


@pytest.mark.parametrize("method", ["generateContent", "streamGenerateContent?alt=sse"])
def test_another_provider_of_google_stands_in(
    gateway: GatewayProcess, provider: ScriptedProvider, backup: ScriptedProvider, method: str
) -> None:
    provider.play(answer(google_error(503, "UNAVAILABLE"), 503))
    reply = ask(gateway, f"/rescued{PATH}:{method}", said())
    assert reply.status_code == 200
    assert backup.requests[-1].header("x-goog-api-key") == OTHER_KEY
    found = gateway.records(reply.headers["x-ai-gateway-interception-id"])
    assert found["provider_name"] == "backup"


def test_an_array_that_begins_with_an_error_is_rescued_and_a_good_one_relayed(
    gateway: GatewayProcess, provider: ScriptedProvider, backup: ScriptedProvider
) -> None:
    path = f"{PATH}:streamGenerateContent"
    provider.play(answer([google_error(503, "UNAVAILABLE")], framing="chunked"))
    asked = len(backup.requests)
    rescued = ask(gateway, f"/rescued{path}", said())
    assert len(backup.requests) == asked + 1
    good = ask(gateway, f"/rescued{path}", said())
    assert len(backup.requests) == asked + 1
    assert rescued.content == good.content


def test_no_provider_of_another_api_stands_in(tmp_path: Path, provider: ScriptedProvider) -> None:
    upstreams = [
        google(provider, extra={"FALLBACK": "anthropic"}),
        Upstream("anthropic", provider.url, extra={"FALLBACK": "gemini"}),
    ]
    with GatewayProcess(tmp_path, upstreams) as gateway:
        gateway.allowed_errors += ["speaks another API", "misconfigured"]
        reply = ask(gateway, f"/gemini{PATH}:generateContent", said())
        assert reply.status_code == 503
        assert 'FALLBACK "anthropic" speaks another API' in reply.json()["error"]["message"]


# -- models


def test_a_list_of_models_is_told_in_googles_shape(gateway: GatewayProcess) -> None:
    listed = ask(gateway, "/listed/v1beta/models").json()
    assert [each["name"] for each in listed["models"]] == [
        f"models/{MODEL}",
        "models/fast",
        "models/t",
    ]
    assert "nextPageToken" not in listed
    one = ask(gateway, "/listed/v1/models/fast").json()
    assert one == listed["models"][1]
    assert ask(gateway, "/listed/v1beta/models/other").json()["error"]["status"] == "NOT_FOUND"


def test_a_model_is_asked_for_by_the_providers_name(
    gateway: GatewayProcess, provider: ScriptedProvider
) -> None:
    for method in ("generateContent", "countTokens"):
        reply = ask(gateway, f"/listed/v1beta/models/fast:{method}", said())
        assert reply.status_code == 200
        assert provider.requests[-1].target == f"{PATH}:{method}"
    provider.play(answer({"candidates": [{"finishReason": "STOP"}], "modelVersion": "t-001"}))
    reply = ask(gateway, "/listed/v1beta/models/t:generateContent", said())
    assert provider.requests[-1].target == "/v1beta/tunedModels/t:generateContent"
    found = gateway.records(reply.headers["x-ai-gateway-interception-id"])
    assert found["model"] == "t"
    cached = {"model": "models/fast", "contents": []}
    assert ask(gateway, "/listed/v1beta/cachedContents", cached).status_code == 200
    assert json.loads(provider.requests[-1].body)["model"] == f"models/{MODEL}"


def test_another_model_is_not_asked_for(
    gateway: GatewayProcess, provider: ScriptedProvider
) -> None:
    asked = len(provider.requests)
    for path, body in (
        ("/models/other:generateContent", said()),
        ("/models/other:countTokens", said()),
        ("/cachedContents", {"model": "models/other", "contents": []}),
    ):
        reply = ask(gateway, f"/listed/v1beta{path}", body)
        assert reply.status_code == 404
        assert 'has no model "other"' in reply.json()["error"]["message"]
    assert len(provider.requests) == asked


# -- what users have cached


def test_what_one_user_has_cached_does_not_exist_for_another(
    gateway: GatewayProcess, provider: ScriptedProvider
) -> None:
    wanted = {"model": f"models/{MODEL}", "contents": [], "displayName": gateway.url}
    name = ask(gateway, "/gemini/v1beta/cachedContents", wanted, user="ada").json()["name"]
    asking = said("what is in it", cachedContent=name)
    escaped = {"cached_content": name, **said("what is in it")}
    for user, status in (("ada", 200), ("bob", 404)):
        asked = len(provider.requests)
        replies = [
            ask(gateway, f"/gemini/v1beta/{name}", user=user),
            ask(gateway, f"/gemini{PATH}:generateContent", asking, user=user),
            ask(gateway, f"/gemini{PATH}:generateContent", escaped, user=user),
            ask(gateway, f"/gemini/v1beta/{name}", user=user, method="DELETE"),
        ]
        assert [each.status_code for each in replies] == [status] * 4
        if status == 404:
            assert len(provider.requests) == asked
            assert all(each.json()["error"]["status"] == "NOT_FOUND" for each in replies)
    # Nobody sees what everybody has cached, however the method is told.
    assert ask(gateway, "/gemini/v1beta/cachedContents", user="ada").status_code == 404
    override = {"X-HTTP-Method-Override": "GET"}
    ask(gateway, "/gemini/v1beta/cachedContents", wanted, user="ada", headers=override)
    assert provider.requests[-1].header("x-http-method-override") is None


def test_a_query_does_not_make_another_request_of_the_one_that_was_looked_at(
    gateway: GatewayProcess, provider: ScriptedProvider
) -> None:
    """By Google's system parameters it could list what all have cached, or hide the tokens."""
    wanted = {"model": f"models/{MODEL}", "contents": [], "displayName": gateway.url}
    for path, body in (("/v1beta/cachedContents", wanted), (f"{PATH}:generateContent", said())):
        query = (
            "a=%20+&$httpMethod=GET&%24HttpMethod=GET&$httpHeaders=x%3Ay&$req=%7B%7D&$ct=text/plain"
            "&fields=candidates&%24fields=candidates&callback=f&$callback=f&prettyPrint=false"
        )
        mask = {"X-Goog-FieldMask": "candidates"}
        assert ask(gateway, f"/gemini{path}?{query}", body, headers=mask).status_code == 200
        assert provider.requests[-1].target == f"{path}?a=%20+&prettyPrint=false"
        assert provider.requests[-1].header("x-goog-fieldmask") is None


@pytest.mark.parametrize(
    ("path", "likely"),
    [
        (f"/gemini/models/{MODEL}:generateContent", f"/gemini/v1/models/{MODEL}:generateContent"),
        (f"/gemini/v1beta{PATH}:generateContent", f"/gemini{PATH}:generateContent"),
    ],
)
def test_a_wrong_base_address_of_gemini_is_answered_with_the_likely_one(
    tmp_path: Path, provider: ScriptedProvider, path: str, likely: str
) -> None:
    with GatewayProcess(tmp_path, [google(provider)]) as gateway:
        told = ask(gateway, path, said()).json()["error"]
    assert told["status"] == "NOT_FOUND"
    assert told["message"].endswith(f"did you mean {likely}?")
