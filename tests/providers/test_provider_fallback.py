"""The fallback: which requests another provider answers."""

from __future__ import annotations

import threading
from contextlib import ExitStack
from typing import Any

import pytest
from imitation_provider import Close, Reset, Stall, Tell, WaitFor, answer, error, event, stream
from provider_rig import BREAKER, KEYS, OWN, PATIENCE, running

from aigateway.actors.actor.tree import ActorTree
from aigateway.actors.interception.conversation import Affinity


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


def test_an_open_circuit_is_bypassed_and_who_opens_it_is_rescued(scripted_provider, other_provider):
    scripted_provider.otherwise = error(503)
    other_provider.otherwise = answer("ok")
    urls = scripted_provider.url, other_provider.url
    stack, rig, _ = with_fallback(ActorTree(), *urls, breaker=BREAKER)
    with stack:
        assert [rig.call()[0] for _ in range(3)] == [200, 200, 200]
        assert rig.counters.fallback_reasons == {"error_status": 2, "circuit_open": 1}
    assert len(scripted_provider.requests) == 2


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


def test_who_does_not_begin_in_time_is_replaced_and_remembered(scripted_provider, other_provider):
    scripted_provider.otherwise = [Stall()]
    other_provider.otherwise = answer("ok")
    urls = scripted_provider.url, other_provider.url
    stack, rig, _ = with_fallback(ActorTree(), *urls, first_byte_timeout=0.03)
    with stack:
        opened = rig.open()
        assert rig.finish(opened) == b"ok"
        (abandoned,) = opened.abandoned
        assert (abandoned.provider, abandoned.model, abandoned.why) == ("anthropic", "m", "slow")
        assert abandoned.after_seconds >= 0.03


def test_on_time_alone_only_streams_go_elsewhere(scripted_provider, other_provider):
    late, begun = threading.Event(), threading.Event()
    slow = [Tell(begun), WaitFor(late), *answer({"content": "late"})]
    scripted_provider.otherwise = slow
    other_provider.otherwise = answer("ok")
    urls = scripted_provider.url, other_provider.url
    stack, rig, spare = with_fallback(ActorTree(), *urls, fallback_after=0.03)
    with stack:
        assert rig.call(streaming=True) == (200, b"ok")
        begun.clear()
        reply = rig.tell()
        assert begun.wait(PATIENCE)
        assert rig.call(streaming=True) == (200, b"ok")
        late.set()
        opened = reply.get(timeout=PATIENCE)
        assert rig.finish(opened) == b'{"content": "late"}'
        assert opened.provider_name == "anthropic"
        assert spare.settle().counters.attempts == 2


def test_zero_seconds_mean_never_on_time_alone(scripted_provider, other_provider):
    late = threading.Event()
    scripted_provider.play([WaitFor(late), *answer("ok", 404)])
    urls = scripted_provider.url, other_provider.url
    stack, rig, _ = with_fallback(ActorTree(), *urls, fallback_after=0)
    with stack:
        reply = rig.tell(streaming=True)
        scripted_provider.wait_for_request()
        late.set()
        opened = reply.get(timeout=PATIENCE)
        assert (opened.exchange.status, rig.finish(opened)) == (404, b"ok")


BOUND = Affinity("session", binding=True)


@pytest.mark.parametrize("changes", [{"credential": OWN}, {"affinity": BOUND}])
def test_what_belongs_to_one_account_gets_its_bad_answer(
    scripted_provider, other_provider, changes
):
    scripted_provider.play(error(503))
    scripted_provider.play(answer("<p>", content_type="text/html"))
    urls = scripted_provider.url, other_provider.url
    stack, rig, _ = with_fallback(ActorTree(), *urls, fallback_after=0.03)
    with stack:
        assert rig.call(**changes)[0] == 503
        assert rig.call(**changes) == (200, b"<p>")
    assert other_provider.requests == []


ERROR_EVENT = {"type": "error", "error": {"type": "overloaded_error", "message": "too busy"}}

REAL_ANSWERS: dict[str, tuple[Any, bool, int, bytes]] = {
    # What the first says, whether to a stream, and what the client is told after all failed.
    "a 500": (error(500, {"e": 1}), False, 500, b'{"e": 1}'),
    "a limit": (error(429, {"e": 2}), False, 429, b'{"e": 2}'),
    "an error event": (stream([event(ERROR_EVENT, "error")]), True, 529, b"too busy"),
}


@pytest.mark.parametrize(
    ("steps", "streaming", "status", "words"), REAL_ANSWERS.values(), ids=REAL_ANSWERS.keys()
)
def test_if_all_fail_the_last_real_answer_is_told(
    scripted_provider, other_provider, steps, streaming, status, words
):
    scripted_provider.otherwise = steps
    other_provider.refuse()
    urls = scripted_provider.url, other_provider.url
    stack, rig, _ = with_fallback(ActorTree(), *urls)
    with stack:
        refused = rig.refuse(streaming=streaming)
        assert (refused.status, refused.provider_name) == (status, "anthropic")
        assert words in (refused.body or b"")


def test_a_bad_beginning_is_relayed_as_it_came_where_nobody_can_stand_in(scripted_provider):
    whole = event(ERROR_EVENT, "error")
    scripted_provider.otherwise = stream([whole])
    with running(scripted_provider.url, tree=ActorTree(), fallback=("spare",)) as rig:
        assert rig.call(streaming=True) == (200, whole)


def test_an_error_event_is_tried_again_like_its_status(
    scripted_provider, other_provider, short_pauses
):
    scripted_provider.otherwise = stream([event(ERROR_EVENT, "error")])
    other_provider.otherwise = answer("ok")
    urls = scripted_provider.url, other_provider.url
    stack, rig, _ = with_fallback(ActorTree(), *urls, max_retries=2)
    with stack:
        assert rig.call(streaming=True) == (200, b"ok")
        assert rig.counters.retries == 2
        assert rig.counters.fallback_reasons == {"error_event": 1}


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
