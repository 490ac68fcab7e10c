"""The circuit breaker of a provider: what opens a circuit, and what that means."""

from __future__ import annotations

import json
import threading
from functools import partial
from typing import Any

import pytest
from imitation_provider import Stall, WaitFor, answer, error
from provider_rig import BREAKER, OWN, PATIENCE, Rig, running, until

from aigateway.actors.providers.breaker import CircuitBreaker
from aigateway.actors.providers.request import Opened, Refused
from aigateway.actors.values.provider_config import BreakerConfig


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
