"""The fallback: which requests another provider answers."""

from __future__ import annotations

from contextlib import ExitStack
from typing import Any

import pytest
from imitation_provider import Close, Reset, Stall, answer, error
from provider_rig import BREAKER, KEYS, OWN, PATIENCE, running

from aigateway.actors.tree import ActorTree


def with_fallback(tree: ActorTree, first: str, second: str, **settings: Any) -> Any:
    """Two providers, of which the second stands in for the first."""
    stack = ExitStack()
    one = running(first, tree=tree, fallback=("spare",), **settings)
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
    "nobody is left": {"then": ()},
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
        running(scripted_provider.url, tree=tree, fallback=("spare",)) as rig,
        running(other_provider.url, tree=tree, name="spare", **settings) as spare,
    ):
        tree.replace_providers((rig.config, spare.config))
        assert rig.refuse().provider_name == "anthropic"


def test_a_fallback_that_is_not_there_changes_nothing(scripted_provider):
    scripted_provider.refuse()
    for tree in (None, ActorTree()):
        with running(scripted_provider.url, tree=tree, fallback=("spare",)) as rig:
            assert rig.refuse().status == 502
    with running(scripted_provider.url, tree=ActorTree(), fallback=("anthropic",)) as rig:
        assert rig.refuse().status == 502


def test_a_dead_fallback_changes_nothing(scripted_provider, other_provider):
    scripted_provider.refuse()
    stack, rig, spare = with_fallback(ActorTree(), scripted_provider.url, other_provider.url)
    with stack:
        spare.ref.stop(timeout=PATIENCE)
        assert rig.refuse().provider_name == "anthropic"


def test_providers_that_fall_back_on_each_other_end_with_the_last_answer(
    scripted_provider, other_provider
):
    scripted_provider.otherwise = error(401)
    other_provider.otherwise = error(429, retry_after="9")
    tree = ActorTree()
    with (
        running(scripted_provider.url, tree=tree, fallback=("spare",)) as rig,
        running(other_provider.url, tree=tree, name="spare", fallback=("anthropic",)) as spare,
    ):
        tree.replace_providers((rig.config, spare.config))
        opened = rig.open()
        assert (opened.exchange.status, opened.provider_name) == (429, "spare")
        assert ("Retry-After", "9") in opened.exchange.headers
        rig.finish(opened)
        assert (rig.counters.fallbacks, spare.counters.fallbacks) == (1, 0)
    assert (len(scripted_provider.requests), len(other_provider.requests)) == (2, 2)
