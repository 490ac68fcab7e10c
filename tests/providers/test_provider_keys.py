"""Which key a request is sent with, and what becomes of it when keys fail."""

from __future__ import annotations

import json
import threading

import pytest
from attrs import frozen
from imitation_provider import (
    ReceivedRequest,
    Reset,
    ScriptedProvider,
    Steps,
    WaitFor,
    answer,
    error,
    head,
)
from provider_rig import KEYS, OWN, PATIENCE, running

from aigateway.actors.interception.conversation import Affinity
from aigateway.actors.providers.request import Opened
from aigateway.actors.upstream.errors import UpstreamCut

FIRST_KEYS = Affinity("a")
"""A session that has the first of two keys."""
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
    ("status", "rests"),
    [(401, {"unauthorized": 1}), (403, {}), (429, {"rate_limited": 1})],
)
@pytest.mark.parametrize("framing", ["length", "chunked"])
def test_the_next_key_steps_in_on_the_same_connection(scripted_provider, status, rests, framing):
    refusal = answer({"error": "no"}, status, framing=framing)
    scripted_provider.otherwise = by_key({KEYS[0]: refusal, KEYS[1]: answer("ok")})
    with running(scripted_provider.url) as rig:
        opened = rig.open(affinity=FIRST_KEYS)
        assert opened.credential_hint == HINTS[1]
        assert rig.finish(opened) == b"ok"
        assert rig.call(affinity=FIRST_KEYS) == (200, b"ok")
        settled = rig.settle()
    # The second request knows better than to try the first key.
    assert keys_sent(scripted_provider) == [KEYS[0], KEYS[1], KEYS[1]]
    assert [request.connection for request in scripted_provider.requests] == [1, 1, 1]
    assert [key.state for key in settled.keys] == ["temporary" if rests else "valid", "valid"]
    counters = settled.counters
    assert counters.rests == rests
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


# -- no key is left


def test_the_providers_last_answer_is_the_clients_as_it_came(scripted_provider):
    first = answer("one", 429, [("X-A", "1")], content_type="text/plain")
    second = answer(
        b"two" * 40_000, 429, [("X-A", "2"), ("Retry-After", "86400")], content_type="text/plain"
    )
    scripted_provider.otherwise = by_key({KEYS[0]: first, KEYS[1]: second})
    with running(scripted_provider.url) as rig:
        opened = rig.open()
        assert opened.exchange.status == 429
        assert {("X-A", "2"), ("Retry-After", "86400")} <= set(opened.exchange.headers)
        assert (opened.credential_hint, opened.shared) == (HINTS[1], True)
        assert rig.finish(opened) == b"two" * 40_000
        counters = rig.settle().counters
    assert counters.exhaustions == {"rate_limited": 1}
    assert counters.keys_tried == {2: 1}


@pytest.mark.parametrize("framing", ["length", "chunked", "close"])
@pytest.mark.parametrize("status", [403, 429])
def test_a_refusal_of_the_only_key_is_the_clients_however_it_is_framed(
    scripted_provider, status, framing
):
    body = {"error": {"message": "no"}}
    scripted_provider.otherwise = answer(body, status, framing=framing)
    with running(scripted_provider.url, keys=KEYS[:1]) as rig:
        assert rig.call() == (status, json.dumps(body).encode())


def test_a_refusal_that_breaks_off_is_told_as_far_as_it_came(scripted_provider):
    scripted_provider.otherwise = [head(403, [("Content-Length", "10")]), b"half", Reset()]
    with running(scripted_provider.url, keys=KEYS[:1]) as rig:
        opened = rig.open()
        opened.exchange.set_quiet(PATIENCE)
        assert opened.exchange.read() == b"half"
        with pytest.raises(UpstreamCut):
            opened.exchange.read()
        rig.give_back(opened)


@frozen
class Bad:
    """Keys that are all refused."""

    name: str
    api: str
    type: str = "anthropic"


BAD = [Bad("of Anthropic's", "messages"), Bad("of Chat Completions", "chat-completions", "openai"),
       Bad("of Responses", "responses", "openai"), Bad("of a passed route", "", "openai"),
       Bad("of a passed route of Anthropic's", "")]  # fmt: skip


@pytest.mark.parametrize("case", BAD, ids=lambda case: case.name)
def test_keys_that_are_all_refused_are_the_gateways_trouble_in_the_shape_of_the_api(
    scripted_provider, case
):
    said = {"error": {"type": "authentication_error", "message": "invalid x-api-key"}}
    scripted_provider.otherwise = answer(said, 401, [("x-request-id", "req_77")])
    route = "" if not case.api else "/v1/messages"
    with running(scripted_provider.url, type=case.type) as rig:
        refused = rig.refuse(api=case.api, route=route)
        assert (refused.status, refused.error_type) == (502, "unauthorized")
        assert ("x-should-retry", "false") in refused.headers
        assert (refused.credential_hint, refused.provider_name) == (HINTS[1], "anthropic")
        assert refused.body is not None
        body = json.loads(refused.body)
        assert body["error"]["type"] == "api_error"
        assert ("type" in body) is (case.type == "anthropic")
        for word in ("authentication_error", "invalid x-api-key", "req_77"):
            assert word in body["error"]["message"]
        # Resting keys are asked all the same.
        scripted_provider.otherwise = answer("ok")
        assert rig.call() == (200, b"ok")
        settled = rig.settle()
    assert len(scripted_provider.requests) == 3
    assert settled.counters.exhaustions == {"auth_failed": 1}
    assert [key.state for key in settled.keys] == ["valid", "temporary"]
    assert settled.busy == 0


@pytest.mark.parametrize("api", ["messages", "responses"])
def test_while_all_keys_rest_for_a_model_the_gateway_answers_for_it_alone(scripted_provider, api):
    scripted_provider.play(error(429, retry_after="7"))
    scripted_provider.otherwise = answer("ok")
    with running(scripted_provider.url, keys=KEYS[:1]) as rig:
        assert rig.call(model="m")[0] == 429
        refused = rig.refuse(model="m", api=api)
        assert (refused.status, refused.retry_after, refused.sent) == (429, 7, False)
        assert refused.message == "all configured keys are rate-limited (retry after 7s)"
        assert refused.body is not None
        body = json.loads(refused.body)
        assert body["error"]["type"] == "rate_limit_error"
        assert ("type" in body) is (api == "messages")
        assert rig.call(model="another") == (200, b"ok")
        assert rig.call(route="", passed="/v1/models") == (200, b"ok")
    assert len(scripted_provider.requests) == 3


def test_a_key_comes_back_when_its_rest_is_over(scripted_provider):
    scripted_provider.play(answer("slow down", 429, [("retry-after-ms", "30")]))
    scripted_provider.otherwise = answer("ok")
    with running(scripted_provider.url, keys=KEYS[:1]) as rig:
        assert rig.call() == (429, b"slow down")
        over = threading.Event()
        over.wait(0.04)
        assert rig.call() == (200, b"ok")


def test_no_rest_is_longer_than_configured(scripted_provider):
    scripted_provider.play(error(429, retry_after="287441"))
    scripted_provider.otherwise = answer("ok")
    with running(scripted_provider.url, keys=KEYS[:1], key_rest_max=0.05) as rig:
        assert rig.call()[0] == 429
        threading.Event().wait(0.06)
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


def test_a_success_ends_what_a_401_began(scripted_provider):
    scripted_provider.play(error(401))
    scripted_provider.otherwise = answer("ok")
    with running(scripted_provider.url, keys=KEYS[:1]) as rig:
        assert rig.refuse().status == 502
        assert [rest.reason for rest in rig.state.keys[0].rests] == ["unauthorized"]
        assert rig.call() == (200, b"ok")
        assert rig.state.keys[0].rests == ()


def test_requests_of_a_session_keep_their_key_and_sessions_share_the_keys(scripted_provider):
    scripted_provider.otherwise = answer("ok")
    with running(scripted_provider.url, keys=KEYS) as rig:
        used = {}
        for _ in range(3):
            for number in range(12):
                opened = rig.open(affinity=Affinity(f"session-{number}"))
                rig.finish(opened)
                used.setdefault(number, set()).add(opened.credential_hint)
        assert all(len(keys) == 1 for keys in used.values())
        assert set().union(*used.values()) == set(HINTS)


# -- a user's own key


@pytest.mark.parametrize("status", [401, 403, 429, 500])
def test_a_users_own_key_is_tried_once_and_its_answer_is_the_users(scripted_provider, status):
    scripted_provider.otherwise = answer("yours", status)
    with running(scripted_provider.url) as rig:
        opened = rig.open(credential=OWN)
        assert opened.credential_hint == OWN.hint
        assert (opened.exchange.status, rig.finish(opened)) == (status, b"yours")
        assert not opened.shared
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
    assert counters.rests == {"rate_limited": 1}
    assert (counters.attempts, counters.failovers) == (16, 8)
    assert counters.attempts == len(scripted_provider.requests)
    assert counters.keys_tried == {2: 8}
