"""Second tries, the circuit breaker, and the fallback to another provider."""

from __future__ import annotations

import json
import threading
import time
from contextlib import ExitStack
from functools import partial
from typing import Any

import pytest
from imitation_provider import Close, Reset, ScriptedProvider, Stall, WaitFor, answer, error
from provider_rig import BREAKER, KEYS, OWN, PATIENCE, Rig, running, until

from aigateway.actors.actor import ActorDied
from aigateway.actors.providers.breaker import CircuitBreaker
from aigateway.actors.providers.config import BreakerConfig
from aigateway.actors.providers.messages import Opened, Refused
from aigateway.actors.tree import ActorTree


@pytest.fixture
def short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("aigateway.actors.providers.strategy.FIRST_PAUSE", 0.005)
    monkeypatch.setattr("aigateway.actors.providers.strategy.PAUSE_JITTER", 0.01)


@pytest.fixture
def other_provider():
    with ScriptedProvider() as provider:
        yield provider


# -- retries


@pytest.mark.parametrize("status", [408, 409, 500, 502, 503, 529])
@pytest.mark.parametrize("credential", [None, OWN], ids=["ours", "theirs"])
def test_an_answer_that_may_pass_is_tried_again(
    scripted_provider, short_pauses, status, credential
):
    scripted_provider.play(error(status))
    scripted_provider.play(error(status))
    scripted_provider.play(answer("ok"))
    with running(scripted_provider.url, max_retries=2) as rig:
        assert rig.call(credential=credential) == (200, b"ok")
        counters = rig.settle().counters
    assert (counters.attempts, counters.retries) == (3, 2)
    assert [request.connection for request in scripted_provider.requests] == [1, 1, 1]


def test_the_last_answer_goes_to_the_client(scripted_provider, short_pauses):
    scripted_provider.play(answer("first", 500))
    scripted_provider.play(answer("second", 503))
    with running(scripted_provider.url, max_retries=1) as rig:
        assert rig.call() == (503, b"second")
        assert rig.settle().counters.retries == 1


@pytest.mark.parametrize("status", [400, 401, 403, 404, 413, 422])
def test_other_answers_are_not_tried_again(scripted_provider, short_pauses, status):
    scripted_provider.play(answer("no", status))
    with running(scripted_provider.url, max_retries=2) as rig:
        assert rig.call(credential=OWN) == (status, b"no")


@pytest.mark.parametrize(
    "headers", [[("Retry-After", "61")], [("x-should-retry", "false")], [("Retry-After", "30")]]
)
def test_an_upstream_can_keep_from_being_asked_again(scripted_provider, short_pauses, headers):
    scripted_provider.play(answer("later", 503, headers))
    # Half a minute is more than this request may take.
    with running(scripted_provider.url, max_retries=2, first_byte_timeout=5.0) as rig:
        assert rig.call() == (503, b"later")


def test_retry_after_is_waited_for(scripted_provider):
    scripted_provider.play(answer("later", 503, [("retry-after-ms", "60")]))
    scripted_provider.play(answer("ok"))
    with running(scripted_provider.url, max_retries=1) as rig:
        began = time.monotonic()
        assert rig.call() == (200, b"ok")
        assert time.monotonic() - began >= 0.06


def test_an_upstream_that_comes_back_is_reached(scripted_provider, short_pauses, monkeypatch):
    scripted_provider.refuse()
    with running(scripted_provider.url, max_retries=1) as rig:
        refused = rig.refuse()
        assert (refused.status, refused.sent) == (502, False)
        assert "Connection refused" in refused.message
        assert rig.counters.retries == 1
        monkeypatch.setattr("aigateway.actors.providers.strategy.FIRST_PAUSE", 0.2)
        reply = rig.tell()
        until(lambda: rig.state.retrying == 1)
        scripted_provider.listen()
        scripted_provider.play(answer("ok"))
        opened = reply.get(timeout=PATIENCE)
        assert isinstance(opened, Opened)
        rig.finish(opened)
        counters = rig.settle().counters
    assert (counters.attempts, counters.unsent, counters.retries) == (4, 3, 2)


@pytest.mark.parametrize("steps", [[Close()], [Reset()], [b"HTTP/1.1 200 OK\r\n", Reset()]])
def test_a_request_that_may_have_been_seen_is_not_sent_again(
    scripted_provider, short_pauses, steps
):
    scripted_provider.play(steps)
    with running(scripted_provider.url, max_retries=3) as rig:
        refused = rig.refuse()
    assert (refused.status, refused.sent) == (502, True)
    assert len(scripted_provider.requests) == 1


def test_nothing_is_tried_again_unless_it_is_configured(scripted_provider):
    scripted_provider.play(answer("no", 503))
    with running(scripted_provider.url) as rig:
        assert rig.call() == (503, b"no")


def test_a_limited_key_is_waited_for_when_there_is_no_other(scripted_provider):
    scripted_provider.play(answer("slow down", 429, [("retry-after-ms", "20")]))
    scripted_provider.play(answer("ok"))
    with running(scripted_provider.url, max_retries=1, keys=KEYS[:1]) as rig:
        assert rig.call() == (200, b"ok")
        counters = rig.settle().counters
    assert counters.exhaustions == {}
    assert counters.keys_tried == {1: 2}


def test_an_answer_that_takes_too_long_is_given_up(scripted_provider, short_pauses):
    stall = Stall()
    scripted_provider.play([stall])
    with running(scripted_provider.url, first_byte_timeout=0.05, max_retries=2) as rig:
        refused = rig.refuse()
        assert (refused.status, refused.error_type) == (504, "timeout")
        assert stall.hangup.wait(PATIENCE)
        assert rig.settle().counters.attempts == 1


def test_a_request_whose_time_is_over_is_not_sent(scripted_provider):
    with running(scripted_provider.url) as rig:
        refused = rig.refuse(deadline=1.0)
        assert (refused.status, refused.sent) == (504, False)
        assert rig.counters.unsent == 1
    assert scripted_provider.requests == []


def test_a_stopped_provider_answers_those_who_wait_for_a_retry(scripted_provider):
    scripted_provider.play(error(500))
    with running(scripted_provider.url, max_retries=1) as rig:
        reply = rig.tell()
        until(lambda: rig.state.retrying == 1)
    with pytest.raises(ActorDied) as caught:
        reply.get(timeout=PATIENCE)
    assert caught.value.sent


def test_too_many_do_not_wait_for_a_retry(scripted_provider, monkeypatch):
    monkeypatch.setattr("aigateway.actors.providers.strategy.MAX_PAUSED", 0)
    scripted_provider.play(answer("no", 500))
    with running(scripted_provider.url, max_retries=1) as rig:
        assert rig.call() == (500, b"no")


# -- the circuit breaker


def test_an_open_circuit_turns_requests_away(scripted_provider):
    scripted_provider.otherwise = error(503)
    with running(scripted_provider.url, breaker=BREAKER) as rig:
        for _ in range(2):
            assert rig.call()[0] == 503
        refused = rig.refuse()
        assert (refused.status, refused.retry_after) == (503, 60)
        assert (refused.error_type, refused.sent) == ("overloaded", False)
        assert json.loads(refused.body or b"") == {
            "type": "error",
            "error": {"type": "overloaded_error", "message": "circuit breaker is open"},
        }
        # Each model has a circuit of its own; a passed-through request has none.
        assert rig.call(model="other")[0] == 503
        assert rig.call(route="", model="")[0] == 503
        state = rig.settle()
    assert len(scripted_provider.requests) == 4
    assert state.counters.trips == {("/v1/messages", "m"): 1}
    assert state.counters.rejects == {("/v1/messages", "m"): 1}
    circuits = {(circuit.route, circuit.model): circuit.state for circuit in state.circuits}
    assert circuits == {("/v1/messages", "m"): "open", ("/v1/messages", "other"): "closed"}


@pytest.mark.parametrize(
    ("settings", "api", "body"),
    [
        ({"type": "openai"}, "chat-completions", {"error": {
            "message": "circuit breaker is open", "type": "server_error",
            "code": "service_unavailable"}}),
        ({"type": "bedrock"}, "messages", {"type": "error", "error": {
            "type": "api_error", "message": "circuit breaker is open",
            "code": "service_unavailable"}}),
    ],
)  # fmt: skip
def test_an_open_circuit_speaks_the_clients_language(scripted_provider, settings, api, body):
    scripted_provider.otherwise = error(503)
    with running(scripted_provider.url, breaker=BREAKER, **settings) as rig:
        for _ in range(2):
            rig.call(api=api)
        assert json.loads(rig.refuse(api=api).body or b"") == body


@pytest.mark.parametrize(
    ("status", "settings", "counts"),
    [
        (503, {}, True),
        (504, {}, True),
        (529, {}, True),
        (529, {"type": "openai"}, False),
        (500, {}, False),
        (502, {}, False),
        (429, {}, False),
        (400, {}, False),
    ],
)
def test_only_an_upstream_that_fails_opens_a_circuit(scripted_provider, status, settings, counts):
    scripted_provider.otherwise = error(status)
    with running(scripted_provider.url, breaker=BREAKER, **settings) as rig:
        for _ in range(2):
            rig.call(credential=OWN)
        result = rig.perform(credential=OWN)
        assert isinstance(result, Refused) is counts
        if isinstance(result, Opened):
            rig.finish(result)


def test_a_success_in_between_starts_the_count_again(scripted_provider):
    for status in (503, 200, 503, 200, 503, 503):
        scripted_provider.play(answer("x", status))
    with running(scripted_provider.url, breaker=BREAKER) as rig:
        for _ in range(6):
            rig.call()
        assert rig.refuse().status == 503


def test_the_gateways_own_timeouts_count_and_its_refusals_do_not(scripted_provider):
    scripted_provider.otherwise = [Stall()]
    with running(scripted_provider.url, breaker=BREAKER, first_byte_timeout=0.03) as rig:
        assert [rig.refuse().status for _ in range(3)] == [504, 504, 503]
        assert rig.counters.trips == {("/v1/messages", "m"): 1}
    scripted_provider.refuse()
    with running(scripted_provider.url, breaker=BREAKER) as rig:
        assert [rig.refuse().status for _ in range(4)] == [502] * 4


def test_one_success_closes_a_half_open_circuit(scripted_provider):
    breaker = BreakerConfig(failure_threshold=1, interval=60.0, timeout=0.03, max_requests=1)
    gate = threading.Event()
    scripted_provider.play(error(503))
    scripted_provider.play([WaitFor(gate), *answer("ok")])
    scripted_provider.otherwise = answer("ok")
    with running(scripted_provider.url, breaker=breaker) as rig:
        assert rig.call()[0] == 503
        assert rig.refuse().status == 503
        probe = until(lambda: _admitted(rig))
        # Only one may try while it is not known whether it works.
        assert rig.refuse().status == 503
        gate.set()
        opened = probe.get(timeout=PATIENCE)
        assert isinstance(opened, Opened)
        # The circuit is closed before anybody can have seen the answer.
        assert rig.call() == (200, b"ok")
        rig.finish(opened)
        assert rig.settle().circuits[0].state == "closed"


def _admitted(rig: Rig) -> Any:
    """The reply to a request that was let through, None while requests are rejected."""
    before = rig.counters.attempts
    reply = rig.tell()
    return reply if rig.counters.attempts > before else None


def test_a_probe_without_a_result_gives_its_place_back(scripted_provider):
    breaker = BreakerConfig(failure_threshold=1, interval=60.0, timeout=0.03, max_requests=1)
    scripted_provider.play(answer("x", 503, framing="close"))
    with running(scripted_provider.url, breaker=breaker) as rig:
        rig.call()
        scripted_provider.refuse()
        until(lambda: rig.perform().status == 502)
        # Refused by the upstream, not by the circuit, and again.
        assert rig.refuse().status == 502
        scripted_provider.listen()
        scripted_provider.otherwise = answer("ok")
        assert rig.call() == (200, b"ok")


def test_a_retried_request_counts_once(scripted_provider, short_pauses):
    scripted_provider.otherwise = error(503)
    with running(scripted_provider.url, breaker=BREAKER, max_retries=3) as rig:
        assert rig.call()[0] == 503
        assert rig.call()[0] == 503
        assert rig.refuse().status == 503
        assert rig.settle().counters.attempts == 8


def test_a_pool_without_keys_says_nothing_about_the_upstream(scripted_provider):
    scripted_provider.otherwise = error(401)
    with running(scripted_provider.url, breaker=BREAKER) as rig:
        assert [rig.refuse().status for _ in range(4)] == [502] * 4
        assert rig.settle().circuits[0].state == "closed"


def test_counts_of_forgotten_circuits_are_forgotten(scripted_provider, monkeypatch):
    few = partial(CircuitBreaker, max_circuits=2)
    monkeypatch.setattr("aigateway.actors.providers.strategy.CircuitBreaker", few)
    scripted_provider.otherwise = error(503)
    with running(scripted_provider.url, breaker=BREAKER) as rig:
        for model in "abcd":
            for _ in range(3):
                result = rig.perform(model=model)
                if isinstance(result, Opened):
                    rig.finish(result)
        counters = rig.settle().counters
    assert set(counters.trips) == set(counters.rejects) == {("/v1/messages", m) for m in "cd"}


# -- the fallback


def with_fallback(tree: ActorTree, first: str, second: str, **settings: Any) -> Any:
    """Two providers, of which the second stands in for the first."""
    stack = ExitStack()
    one = running(first, tree=tree, fallback="spare", **settings)
    two = running(second, tree=tree, name="spare", keys=(KEYS[2],))
    rigs = stack.enter_context(one), stack.enter_context(two)
    tree.replace_providers(tuple(rig.config for rig in rigs))
    return stack, *rigs


CASES = {
    "rejected keys": (error(401), {}),
    "limited keys": (error(429), {}),
    "a reset": ([Reset()], {}),
    "a closed connection": ([Close()], {}),
    "nonsense": ([b"SSH-2.0\r\n", Close()], {}),
}


@pytest.mark.parametrize(("steps", "settings"), CASES.values(), ids=CASES.keys())
def test_another_provider_steps_in(scripted_provider, other_provider, steps, settings):
    scripted_provider.otherwise = steps
    other_provider.otherwise = answer("from the spare")
    urls = scripted_provider.url, other_provider.url + "/base"
    stack, rig, spare = with_fallback(ActorTree(), *urls, **settings)
    with stack:
        opened = rig.open(query="beta=true", body=b'{"model":"m"}')
        assert (opened.provider_name, opened.credential_hint) == ("spare", "sk-t...abcd")
        assert rig.finish(opened) == b"from the spare"
        assert rig.settle().counters.fallbacks == 1
        assert spare.settle().counters.attempts == 1
    (request,) = other_provider.requests
    assert request.target == "/base/v1/messages?beta=true"
    assert request.header("Host") == f"127.0.0.1:{other_provider.port}"
    assert request.header("X-Api-Key") == KEYS[2]
    assert request.body == b'{"model":"m"}'


def test_an_upstream_that_is_down_is_replaced(scripted_provider, other_provider):
    scripted_provider.refuse()
    other_provider.otherwise = answer("ok")
    stack, rig, _ = with_fallback(ActorTree(), scripted_provider.url, other_provider.url)
    with stack:
        assert rig.call() == (200, b"ok")


def test_an_open_circuit_is_bypassed(scripted_provider, other_provider):
    scripted_provider.otherwise = error(503)
    other_provider.otherwise = answer("ok")
    urls = scripted_provider.url, other_provider.url
    stack, rig, _ = with_fallback(ActorTree(), *urls, breaker=BREAKER)
    with stack:
        # An answer is an answer: only the open circuit is a reason.
        assert [rig.call()[0] for _ in range(3)] == [503, 503, 200]


def test_retries_come_before_the_fallback_but_a_resting_key_is_not_waited_for(
    scripted_provider, other_provider, short_pauses
):
    other_provider.otherwise = answer("ok")
    urls = scripted_provider.url, other_provider.url
    stack, rig, _ = with_fallback(ActorTree(), *urls, max_retries=1)
    with stack:
        scripted_provider.refuse()
        assert rig.call() == (200, b"ok")
        assert rig.counters.retries == 1
        scripted_provider.listen()
        scripted_provider.otherwise = error(429)
        assert rig.call() == (200, b"ok")
        assert rig.settle().counters.retries == 1


NOT_HANDED_ON: dict[str, dict[str, Any]] = {
    "the user's own key": {"credential": OWN},
    "credentials in the headers": {"add_credential": False},
    "passed through": {"route": "", "model": ""},
    "only a URL": {"rest": "", "url": "http://127.0.0.1:9/v1/messages"},
    "been there": {"visited": ("spare",)},
}


@pytest.mark.parametrize("changes", NOT_HANDED_ON.values(), ids=NOT_HANDED_ON.keys())
def test_some_requests_are_for_one_provider_only(scripted_provider, other_provider, changes):
    scripted_provider.refuse()
    stack, rig, _ = with_fallback(ActorTree(), scripted_provider.url, other_provider.url)
    with stack:
        refused = rig.refuse(**changes)
        assert (refused.status, refused.provider_name) == (502, "anthropic")
    assert other_provider.requests == []


def test_a_late_answer_is_not_asked_for_elsewhere(scripted_provider, other_provider):
    scripted_provider.otherwise = [Stall()]
    urls = scripted_provider.url, other_provider.url
    stack, rig, _ = with_fallback(ActorTree(), *urls, first_byte_timeout=0.03)
    with stack:
        assert rig.refuse().status == 504


@pytest.mark.parametrize("settings", [{"type": "openai"}, {"type": "copilot", "keys": ()}])
def test_a_provider_of_another_api_does_not_step_in(scripted_provider, other_provider, settings):
    tree = ActorTree()
    scripted_provider.refuse()
    with (
        running(scripted_provider.url, tree=tree, fallback="spare") as rig,
        running(other_provider.url, tree=tree, name="spare", **settings) as spare,
    ):
        tree.replace_providers((rig.config, spare.config))
        assert rig.refuse().provider_name == "anthropic"


def test_a_fallback_that_is_not_there_changes_nothing(scripted_provider):
    scripted_provider.refuse()
    for tree in (None, ActorTree()):
        with running(scripted_provider.url, tree=tree, fallback="spare") as rig:
            assert rig.refuse().status == 502
    with running(scripted_provider.url, tree=ActorTree(), fallback="anthropic") as rig:
        assert rig.refuse().status == 502


def test_a_dead_fallback_changes_nothing(scripted_provider, other_provider):
    scripted_provider.refuse()
    stack, rig, spare = with_fallback(ActorTree(), scripted_provider.url, other_provider.url)
    with stack:
        spare.ref.stop(timeout=PATIENCE)
        assert rig.refuse().provider_name == "anthropic"


def test_providers_that_fall_back_on_each_other_end_with_the_last_refusal(
    scripted_provider, other_provider
):
    scripted_provider.otherwise = error(401)
    other_provider.otherwise = error(429, retry_after="9")
    tree = ActorTree()
    with (
        running(scripted_provider.url, tree=tree, fallback="spare") as rig,
        running(other_provider.url, tree=tree, name="spare", fallback="anthropic") as spare,
    ):
        tree.replace_providers((rig.config, spare.config))
        refused = rig.refuse()
        assert (refused.status, refused.retry_after, refused.provider_name) == (429, 9, "spare")
        assert refused.sent
        assert (rig.counters.fallbacks, spare.counters.fallbacks) == (1, 0)
    assert (len(scripted_provider.requests), len(other_provider.requests)) == (2, 2)
