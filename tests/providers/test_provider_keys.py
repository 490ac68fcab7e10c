"""Which key a request is sent with, and what becomes of it when keys fail."""

from __future__ import annotations

import json
import threading

import pytest
from attrs import frozen
from imitation_provider import (
    ReceivedRequest,
    ScriptedProvider,
    Steps,
    WaitFor,
    answer,
    error,
    head,
)
from provider_rig import KEYS, OWN, PATIENCE, running

from aigateway.actors.providers.messages import Opened

HINTS = ("sk-f...abcd", "sk-s...abcd", "sk-t...abcd")


def by_key(answers: dict[str, Steps]):
    """A script that answers each key in its own way."""

    def script(request: ReceivedRequest) -> Steps:
        return answers[request.header("X-Api-Key") or ""]

    return script


def keys_sent(provider: ScriptedProvider) -> list[str | None]:
    return [request.header("X-Api-Key") for request in provider.requests]


def test_the_first_key_carries_the_load(scripted_provider):
    scripted_provider.otherwise = answer("ok")
    with running(scripted_provider.url, keys=KEYS) as rig:
        for _ in range(3):
            opened = rig.open()
            assert (opened.provider_name, opened.credential_hint) == ("anthropic", HINTS[0])
            rig.finish(opened)
        counters = rig.settle().counters
    assert keys_sent(scripted_provider) == [KEYS[0]] * 3
    assert (counters.attempts, counters.failovers, counters.keys_tried) == (3, 0, {1: 3})


@pytest.mark.parametrize(
    ("status", "state", "reason"),
    [
        (401, "permanent", "unauthorized"),
        (403, "permanent", "forbidden"),
        (429, "temporary", "rate_limited"),
    ],
)
@pytest.mark.parametrize("framing", ["length", "chunked"])
def test_the_next_key_steps_in_on_the_same_connection(
    scripted_provider, status, state, reason, framing
):
    refusal = answer({"error": "no"}, status, framing=framing)
    scripted_provider.otherwise = by_key({KEYS[0]: refusal, KEYS[1]: answer("ok")})
    with running(scripted_provider.url) as rig:
        opened = rig.open()
        assert opened.credential_hint == HINTS[1]
        assert rig.finish(opened) == b"ok"
        assert rig.call() == (200, b"ok")
        settled = rig.settle()
    # The second request knows better than to try the first key.
    assert keys_sent(scripted_provider) == [KEYS[0], KEYS[1], KEYS[1]]
    assert [request.connection for request in scripted_provider.requests] == [1, 1, 1]
    assert [key.state for key in settled.keys] == [state, "valid"]
    counters = settled.counters
    assert counters.key_transitions == {reason: 1}
    assert (counters.attempts, counters.failovers) == (3, 1)
    assert counters.keys_tried == {2: 1, 1: 1}
    assert counters.exhaustions == {}


def test_an_error_body_that_is_too_large_to_discard_costs_the_connection(scripted_provider):
    scripted_provider.otherwise = by_key(
        {KEYS[0]: answer(b"x" * 300_000, 401), KEYS[1]: answer("ok")}
    )
    with running(scripted_provider.url) as rig:
        assert rig.call() == (200, b"ok")
    assert [request.connection for request in scripted_provider.requests] == [1, 2]


def test_an_error_body_that_does_not_come_is_not_waited_for(scripted_provider, monkeypatch):
    monkeypatch.setattr("aigateway.actors.providers.worker.DISCARD_TIME", 0.05)
    gate = threading.Event()
    stalled = [head(429, [("Content-Length", "10")]), WaitFor(gate)]
    scripted_provider.otherwise = by_key({KEYS[0]: stalled, KEYS[1]: answer("ok")})
    with running(scripted_provider.url) as rig:
        assert rig.call() == (200, b"ok")
        gate.set()
    assert [request.connection for request in scripted_provider.requests] == [1, 2]


@pytest.mark.parametrize("status", [400, 404, 413, 422, 500, 503, 529])
def test_an_answer_that_is_not_about_the_key_is_the_clients(scripted_provider, status):
    scripted_provider.otherwise = error(status)
    with running(scripted_provider.url) as rig:
        assert rig.call() == (status, scripted_body(status))
        settled = rig.settle()
    assert len(scripted_provider.requests) == 1
    assert [key.state for key in settled.keys] == ["valid", "valid"]


def scripted_body(status: int) -> bytes:
    kind = {529: "overloaded_error"}.get(status, "api_error")
    detail = {"type": kind, "message": f"scripted {status}"}
    return json.dumps({"type": "error", "error": detail}).encode()


@frozen
class Bad:
    """A pool that has no key for a request."""

    name: str
    answers: dict[str, Steps]
    status: int
    message: str
    retry_after: int | None
    error_type: str
    kind: str
    sent: int
    api: str = "messages"


LIMITED = "all configured keys are rate-limited (retry after {})"
REJECTED = "all configured keys failed authentication"

BAD = [
    Bad("all limited", {KEYS[0]: error(429), KEYS[1]: error(429, retry_after="7")},
        429, LIMITED.format("7s"), 7, "rate_limited", "rate_limit_error", 2),
    Bad("all rejected", {KEYS[0]: error(401), KEYS[1]: error(403)},
        502, REJECTED, None, "unauthorized", "api_error", 2),
    Bad("one of each", {KEYS[0]: error(403), KEYS[1]: error(429)},
        429, LIMITED.format("1m0s"), 60, "rate_limited", "rate_limit_error", 2),
    Bad("all limited, of OpenAI's API", {KEYS[0]: error(429), KEYS[1]: error(429)},
        429, LIMITED.format("1m0s"), 60, "rate_limited", "rate_limit_error", 2, "responses"),
    Bad("all rejected, of OpenAI's API", {KEYS[0]: error(401), KEYS[1]: error(401)},
        502, REJECTED, None, "unauthorized", "api_error", 2, "chat-completions"),
]  # fmt: skip


@pytest.mark.parametrize("case", BAD, ids=lambda case: case.name)
def test_a_request_that_finds_no_key_is_answered_by_the_gateway(scripted_provider, case):
    scripted_provider.otherwise = by_key(case.answers)
    with running(scripted_provider.url) as rig:
        refused = rig.refuse(api=case.api)
        assert (refused.status, refused.message) == (case.status, case.message)
        assert (refused.retry_after, refused.error_type) == (case.retry_after, case.error_type)
        assert (refused.credential_hint, refused.provider_name) == (HINTS[1], "anthropic")
        assert refused.body is not None
        body = json.loads(refused.body)
        assert body["error"]["type"] == case.kind
        assert body["error"]["message"] == case.message
        assert ("type" in body) is (case.api == "messages")
        # From now on nothing is sent at all.
        again = rig.refuse()
        assert again.status == case.status
        assert not again.sent
        settled = rig.settle()
    assert len(scripted_provider.requests) == case.sent
    outcome = "auth_failed" if case.status == 502 else "rate_limited"
    assert settled.counters.exhaustions == {outcome: 2}
    assert settled.counters.keys_tried == {2: 1}
    assert (settled.idle, settled.busy) == (1, 0)


def test_a_key_comes_back_when_its_rest_is_over(scripted_provider):
    scripted_provider.play(answer("slow down", 429, [("retry-after-ms", "30")]))
    scripted_provider.otherwise = answer("ok")
    with running(scripted_provider.url, keys=KEYS[:1]) as rig:
        assert rig.refuse().retry_after == 1
        over = threading.Event()
        over.wait(0.04)
        assert rig.call() == (200, b"ok")


def test_the_type_shapes_the_error_when_the_api_is_not_told(scripted_provider):
    scripted_provider.otherwise = error(401)
    with running(scripted_provider.url, type="openai", name="openai") as rig:
        refused = rig.refuse(api="", rest="/v1/responses")
    assert refused.body is not None
    assert "type" not in json.loads(refused.body)
    assert scripted_provider.requests[0].header("Authorization") == f"Bearer {KEYS[0]}"
    # Below the base URL, which has the /v1 of this class.
    assert scripted_provider.requests[0].target == "/responses"


# -- a user's own key


@pytest.mark.parametrize("status", [401, 403, 429, 500])
def test_a_users_own_key_is_tried_once_and_its_answer_is_the_users(scripted_provider, status):
    scripted_provider.otherwise = answer("yours", status)
    with running(scripted_provider.url) as rig:
        opened = rig.open(credential=OWN)
        assert opened.credential_hint == OWN.hint
        assert (opened.exchange.status, rig.finish(opened)) == (status, b"yours")
        settled = rig.settle()
    assert keys_sent(scripted_provider) == ["sk-mine-0123456789abcdef"]
    assert [key.state for key in settled.keys] == ["valid", "valid"]
    assert settled.counters.keys_tried == {}


def test_credentials_within_the_headers_stay_the_only_ones(scripted_provider):
    scripted_provider.otherwise = answer("ok")
    headers = [("Authorization", "Bearer own")]
    with running(scripted_provider.url) as rig:
        opened = rig.open(headers=headers, add_credential=False)
        assert opened.credential_hint == ""
        rig.finish(opened)
    (request,) = scripted_provider.requests
    assert request.header("Authorization") == "Bearer own"
    assert request.header("X-Api-Key") is None


@pytest.mark.parametrize("settings", [{}, {"type": "copilot", "keys": KEYS}])
def test_without_any_key_a_request_is_refused_but_for_the_users_own(scripted_provider, settings):
    scripted_provider.otherwise = answer("ok")
    with running(scripted_provider.url, **{"keys": (), **settings}) as rig:
        refused = rig.refuse()
        assert (refused.status, refused.error_type) == (502, "unauthorized")
        assert "has no key configured" in refused.message
        assert rig.call(credential=OWN) == (200, b"ok")


# -- a passed-through request


def test_a_passed_through_request_uses_the_pool_too(scripted_provider):
    scripted_provider.otherwise = by_key({KEYS[0]: error(401), KEYS[1]: answer("models")})
    with running(scripted_provider.url) as rig:
        changes = {"method": "GET", "rest": "/v1/models", "body": b"", "route": "", "model": ""}
        assert rig.call(**changes) == (200, b"models")
    assert [request.request_line for request in scripted_provider.requests] == [
        "GET /v1/models HTTP/1.1"
    ] * 2
    assert scripted_provider.requests[0].header("Content-Length") is None


def test_an_address_is_made_of_the_providers_own_the_path_and_the_query(scripted_provider):
    scripted_provider.otherwise = answer("ok")
    with running("http://elsewhere.example/x/", proxy=scripted_provider.url) as rig:
        assert rig.call(rest="/y", query="z")[0] == 200
    assert scripted_provider.requests[0].target == "http://elsewhere.example/x/y?z"


def test_a_path_that_cannot_be_sent_is_refused(scripted_provider):
    with running(scripted_provider.url) as rig:
        refused = rig.refuse(rest="/v1/ bad")
        assert (refused.status, refused.error_type) == (400, "bad_request")
        refused = rig.refuse(headers=[("X-A", "a\nb")])
        assert (refused.status, refused.sent) == (400, False)
        scripted_provider.play(answer("ok"))
        assert rig.call() == (200, b"ok")


# -- many requests at once


def test_keys_that_fail_under_load_cost_each_request_at_most_one_try_each(scripted_provider):
    """Requests that are under way with a failing key find the next one, all of them."""
    together = threading.Barrier(8)

    def refuse(_request: ReceivedRequest) -> Steps:
        together.wait(PATIENCE)
        return error(429)

    def script(request: ReceivedRequest) -> Steps:
        return refuse(request) if request.header("X-Api-Key") == KEYS[0] else answer("ok")

    scripted_provider.otherwise = script
    with running(scripted_provider.url) as rig:
        replies = [rig.tell() for _ in range(8)]
        opened = [reply.get(timeout=PATIENCE) for reply in replies]
        for result in opened:
            assert isinstance(result, Opened)
            assert result.credential_hint == HINTS[1]
            assert rig.finish(result) == b"ok"
        counters = rig.settle().counters
    assert counters.key_transitions == {"rate_limited": 1}
    assert (counters.attempts, counters.failovers) == (16, 8)
    assert counters.attempts == len(scripted_provider.requests)
    assert counters.keys_tried == {2: 8}
