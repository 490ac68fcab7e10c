"""One user provokes everything by which a provider can refuse; the others do not notice."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import requests
from attrs import frozen
from gateway_process import GatewayProcess, Upstream, wait_until
from imitation_provider import (
    Close,
    ReceivedRequest,
    Reset,
    ScriptedProvider,
    Send,
    Steps,
    answer,
    chunk,
    head,
    imitate,
)

PATIENCE = 30.0
KEYS = tuple(f"sk-upstream-key-{number}-secret" for number in range(4))
OTHERS = 16
"""Users who work meanwhile."""

ANTHROPIC = {"type": "error", "error": {"type": "permission_error", "message": "not this model"}}
MODERATION = {"error": {"code": 403, "message": "flagged", "metadata": {"reasons": ["violence"]}}}
HTML = "<html><body><h1>403 Forbidden</h1>cloudflare</body></html>"
UNAUTHORIZED = {
    "type": "error",
    "error": {"type": "authentication_error", "message": "invalid x-api-key"},
    "request_id": "req_011",
}
LIMITED = {"type": "error", "error": {"type": "rate_limit_error", "message": "too many tokens"}}
QUOTA = {"error": {"type": "insufficient_quota", "message": "pay first", "code": "x"}}
SECRETS = {
    "error": {
        "message": "Rate limit for gpt in organization org-AbC123 (key sk-...Z9x4, proj_77aB) of "
        "arn:aws:bedrock:us-east-1:123456789012:model/m",
        "type": "tokens",
    }
}


@frozen
class Fault:
    """What the provider answers to whoever asks for it, and what the client is to see."""

    name: str
    status: int
    body: Any
    headers: tuple[tuple[str, str], ...] = ()
    content_type: str = "application/json"
    seen: int = 0
    """The client's status, where it is another one."""

    def steps(self) -> Steps:
        return answer(self.body, self.status, self.headers, content_type=self.content_type)

    @property
    def sent(self) -> bytes:
        return (self.body if isinstance(self.body, str) else json.dumps(self.body)).encode()


FAULTS = [
    Fault("permission", 403, ANTHROPIC),
    Fault("moderation", 403, MODERATION),
    Fault("cdn", 403, HTML, (("Server", "cloudflare"),), "text/html; charset=UTF-8"),
    Fault("unauthorized", 401, UNAUTHORIZED, (("request-id", "req_011"),), seen=502),
    Fault("limited-2s", 429, LIMITED, (("Retry-After", "2"),)),
    Fault("limited-no-retry", 429, QUOTA, (("x-should-retry", "false"),)),
    Fault("limited-a-day", 429, LIMITED, (("Retry-After", "86400"),)),
    Fault("limited-for-days", 429, LIMITED, (("Retry-After", "287441"),)),
    Fault("limited-fraction", 429, LIMITED, (("Retry-After", "1.5"),)),
    Fault("limited-ms", 429, LIMITED, (("retry-after-ms", "1500"),)),
    Fault("limited-date", 429, LIMITED, (("Retry-After", "Fri, 31 Dec 2100 23:59:59 GMT"),)),
    Fault("limited-unnamed", 429, LIMITED),
]
BY_NAME = {fault.name: fault for fault in FAULTS}


def provider_script(request: ReceivedRequest) -> Steps:
    """Faults for whom asks for a model, or with a query, of that name; else the imitation."""
    path, _, query = request.target.partition("?")
    name = query.removeprefix("fault=")
    if request.body and not name:
        name = str(json.loads(request.body).get("model", "")).partition(":")[0]
    fault = BY_NAME.get(name)
    if fault is not None:
        return fault.steps()
    if path.endswith(("/models", "/count_tokens")):
        return answer({"data": [], "input_tokens": 1})
    return IMITATION(request)


IMITATION = imitate()


def key_of(request: ReceivedRequest) -> str:
    bearer = request.header("Authorization") or ""
    return request.header("X-Api-Key") or bearer.removeprefix("Bearer ")


@contextmanager
def gateway_with(
    folder: Path, keys: tuple[str, ...], *options: str
) -> Iterator[tuple[GatewayProcess, ScriptedProvider]]:
    with ExitStack() as stack:
        provider = stack.enter_context(ScriptedProvider(otherwise=provider_script))
        several = {"KEYS": ",".join(keys)}
        upstreams = [
            Upstream("anthropic", provider.url, key="", extra=several),
            Upstream("openai", provider.url, key="", extra=several),
        ]
        yield stack.enter_context(GatewayProcess(folder, upstreams, options, workers=2)), provider


def ask(
    gateway: GatewayProcess, api: str, model: str, user: str, *, stream: bool
) -> requests.Response:
    paths = {
        "messages": "/anthropic/v1/messages",
        "chat": "/openai/v1/chat/completions",
        "responses": "/openai/v1/responses",
    }
    said = {"messages": [{"role": "user", "content": "hi"}]}
    if api == "responses":
        said = {"input": "hi"}
    return requests.post(
        gateway.url + paths[api],
        json={"model": model, "max_tokens": 9, "stream": stream, **said},
        headers={"Authorization": f"Bearer {gateway.key(user)}"},
        timeout=PATIENCE,
    )


ENDS = {"messages": "message_stop", "chat": "[DONE]", "responses": "response.completed"}


class Crowd:
    """Other users, each of whom asks once for every request of the troublemaker, meanwhile."""

    def __init__(self, gateway: GatewayProcess, pool: ThreadPoolExecutor) -> None:
        self._gateway = gateway
        self._pool = pool
        self._turn = 0
        for number in range(OTHERS):
            gateway.key(f"user{number}")

    def meanwhile(self, provoke: Callable[[], requests.Response]) -> requests.Response:
        """Returns the answer to the troublemaker; fails if anybody else notices anything."""
        self._turn += 1
        asked = [self._pool.submit(self._ask, number) for number in range(OTHERS)]
        got = provoke()
        assert [failure for each in asked if (failure := each.result(PATIENCE))] == []
        return got

    def _ask(self, number: int) -> str:
        """One request of one user; returns what is wrong with its answer."""
        api = ("messages", "chat", "responses")[number % 3]
        stream = (number + self._turn) % 2 == 0
        got = ask(self._gateway, api, "model-of-others", f"user{number}", stream=stream)
        if got.status_code != 200 or (stream and ENDS[api] not in got.text):
            return f"{api}: {got.status_code} {got.text[-300:]}"
        return ""


@contextmanager
def crowd_at_work(gateway: GatewayProcess) -> Iterator[Crowd]:
    with ThreadPoolExecutor(OTHERS) as pool:
        crowd = Crowd(gateway, pool)
        yield crowd
        # And afterwards.
        for _ in range(2):
            assert crowd.meanwhile(
                lambda: ask(gateway, "messages", "m", "troublemaker", stream=True)
            ).ok


def check(fault: Fault, got: requests.Response, api: str) -> None:
    assert got.status_code == (fault.seen or fault.status), (fault.name, api, got.text)
    if not fault.seen:
        assert got.content == fault.sent
        assert {(name, got.headers.get(name)) for name, _ in fault.headers} == set(fault.headers)
        assert got.headers["Content-Type"] == fault.content_type
        return
    assert got.headers["x-should-retry"] == "false"
    body = got.json()
    assert ("type" in body) is (api in ("messages", "/anthropic"))
    for word in ("authentication_error", "invalid x-api-key", "req_011"):
        assert word in body["error"]["message"]


PASSED = ["/anthropic/v1/models", "/openai/v1/models", "/anthropic/v1/messages/count_tokens"]


@pytest.mark.parametrize("keys", [KEYS[:1], KEYS], ids=["one key", "four keys"])
def test_what_one_user_provokes_no_other_notices(tmp_path: Path, keys: tuple[str, ...]) -> None:
    with gateway_with(tmp_path, keys) as (gateway, provider), crowd_at_work(gateway) as crowd:
        for number, (fault, api) in enumerate(product(FAULTS, ENDS)):
            # A model of its own, since rests are for models.
            model = f"{fault.name}:{api}"
            provoke = partial(ask, gateway, api, model, "troublemaker", stream=number % 2 == 0)
            check(fault, crowd.meanwhile(provoke), api)
        names = ("cdn", "permission", "unauthorized", "limited-a-day")
        for path, name in product(PASSED, names):
            provoke = partial(
                requests.request,
                "POST" if path.endswith("tokens") else "GET",
                f"{gateway.url}{path}?fault={name}",
                headers={"Authorization": f"Bearer {gateway.key('troublemaker')}"},
                timeout=PATIENCE,
            )
            check(BY_NAME[name], crowd.meanwhile(provoke), path.partition("/v1")[0])
    used = {key_of(request) for request in provider.requests}
    assert used == set(keys)


@pytest.mark.parametrize("keys", [KEYS[:1], KEYS], ids=["one key", "four keys"])
def test_a_rate_limit_ends_when_the_provider_says_and_is_for_its_model_alone(
    tmp_path: Path, keys: tuple[str, ...]
) -> None:
    with gateway_with(tmp_path, keys) as (gateway, provider), crowd_at_work(gateway) as crowd:
        ask_again = partial(ask, gateway, "messages", "limited-2s", "troublemaker", stream=False)
        first = crowd.meanwhile(ask_again)
        check(BY_NAME["limited-2s"], first, "messages")
        assert ask(gateway, "messages", "another", "troublemaker", stream=False).ok
        asked = [r for r in provider.requests if b"limited-2s" in r.body]
        assert len(asked) == len(keys), "each key was tried once"

        def asked_again() -> bool:
            got = crowd.meanwhile(ask_again)
            assert got.status_code == 429
            assert int(got.headers["Retry-After"]) <= 2
            return got.content == BY_NAME["limited-2s"].sent and first.content == got.content

        wait_until(asked_again, "the provider is asked again")


def test_what_an_error_tells_of_the_account_stays_in_the_gateway(tmp_path: Path) -> None:
    headers = (
        ("openai-organization", "org-AbC123"),
        ("OpenAI-Project", "proj_77aB"),
        ("anthropic-organization-id", "0b7f…".encode().decode("latin-1")),
        ("Set-Cookie", "__cf_bm=x; path=/"),
        ("x-request-id", "req_5"),
    )
    secret = ("org-AbC123", "Z9x4", "proj_77aB", "123456789012", KEYS[0])
    said = json.dumps(SECRETS).replace("(key", f"(sent {KEYS[0]}, key")
    with gateway_with(tmp_path, KEYS[:1]) as (gateway, provider):
        for encoding in (None, "gzip", "br"):
            for status in (400, 403, 429, 500):
                error = answer(said, status, headers, encoding=encoding)
                provider.play(error, when=lambda request: b"leaky" in request.body)
                model = f"leaky-{status}-{encoding}"
                got = ask(gateway, "responses", model, "alice", stream=status == 400)
                assert got.status_code == status
                assert got.json()["error"]["type"] == "tokens"
                shown = got.text + repr(got.headers)
                assert [word for word in secret if word in shown] == []
                assert got.headers["x-request-id"] == "req_5"
                assert not got.cookies
                found = gateway.records(got.headers["X-AI-Gateway-Interception-Id"])
                assert [word for word in secret if word in str(found["error_message"])] == []
                own = got.headers["X-AI-Gateway-Request-Id"]
                logged = [line for line in gateway.logs() if own in json.dumps(line)]
                assert any("org-AbC123" in json.dumps(line) for line in logged)
        # Of answers that succeed only headers are kept back.
        whole = answer({"id": "resp_1", "note": "org-AbC123"}, 200, headers)
        provider.play(whole, when=lambda request: b"leaky" in request.body)
        got = ask(gateway, "responses", "leaky", "alice", stream=False)
        assert "org-AbC123" in got.text
        assert {name.lower() for name, _ in headers} & {n.lower() for n in got.headers} == {
            "x-request-id"
        }
        # And nothing is touched of what is told to a user's own key.
        provider.play(answer(said, 401, headers), when=lambda request: b"leaky" in request.body)
        got = requests.post(
            f"{gateway.url}/openai/v1/responses",
            json={"model": "leaky", "input": "hi"},
            headers={
                "X-Coder-AI-Governance-Token": gateway.key("alice"),
                "Authorization": "Bearer sk-mine-0123456789",
            },
            timeout=PATIENCE,
        )
        assert (got.status_code, got.text) == (401, said)
        assert got.headers["openai-organization"] == "org-AbC123"
        assert got.cookies["__cf_bm"] == "x"


def test_rests_are_seen_and_ended_by_operators(tmp_path: Path) -> None:
    with gateway_with(tmp_path, KEYS[:1]) as (gateway, _provider):
        ask(gateway, "messages", "limited-a-day:x", "alice", stream=False)
        ask(gateway, "messages", "unauthorized:x", "alice", stream=False)

        actors = ("actors", "--runtime-dir", str(gateway.runtime_dir))

        def resting() -> list[dict[str, Any]]:
            workers = json.loads(gateway.command(*actors, "--json").stdout)
            listed = [actor for worker in workers for actor in worker["actors"]]
            return [actor for actor in listed if actor["state"] == "resting"]

        details = {actor["detail"].partition(" until ")[0]: actor for actor in resting()}
        assert details.keys() == {"model limited-a-day:x", "everything"}
        limited, refused = details["model limited-a-day:x"], details["everything"]
        assert limited["role"] == "provider/anthropic/key sk-u...cret"
        assert limited["detail"].endswith("Z (rate_limited)")
        assert refused["detail"].endswith("Z (unauthorized)")
        assert gateway.command(*actors, "restart", "provider/anthropic").returncode == 0
        assert resting() == []


def test_an_error_that_breaks_off_never_looks_like_a_whole_one(tmp_path: Path) -> None:
    said = b'{"error":{"message":"org-ABCDEF12345'
    beginnings = [
        head(403, [("Content-Length", "500")]) + said,
        head(403, [("Transfer-Encoding", "chunked")]) + chunk(said),
    ]
    scripts = [[Send(begin), end] for begin, end in product(beginnings, (Close(), Reset()))]
    with gateway_with(tmp_path, KEYS[:1]) as (gateway, provider):
        for steps, api, stream in product(scripts, ENDS, (False, True)):
            provider.play(steps, when=lambda request: b"broken-off" in request.body)
            got = ask(gateway, api, "broken-off", "alice", stream=stream)
            assert got.status_code == 502
            assert ("type" in got.json()) is (api == "messages")
            assert "status 403 broke off" in got.json()["error"]["message"]
            assert "ABCDEF" not in got.text
        for steps, path in product(scripts, PASSED):
            provider.play(steps, when=lambda request: "broken-off" in request.target)
            got = requests.request(
                "POST" if path.endswith("tokens") else "GET",
                f"{gateway.url}{path}?broken-off",
                headers={"Authorization": f"Bearer {gateway.key('alice')}"},
                timeout=PATIENCE,
            )
            assert got.status_code == 502
            assert ("type" in got.json()) is path.startswith("/anthropic")
            assert "status 403 broke off" in got.json()["error"]["message"]
