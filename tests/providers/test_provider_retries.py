"""Second tries: after which answers, how long after, and how often."""

from __future__ import annotations

import time

import pytest
from imitation_provider import Close, Reset, Stall, answer, error
from provider_rig import KEYS, OWN, PATIENCE, running, until

from aigateway.actors.actor.base import ActorDied
from aigateway.actors.providers.request import Opened


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
        monkeypatch.setattr("aigateway.actors.providers.pauses.FIRST_PAUSE", 0.2)
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
    monkeypatch.setattr("aigateway.actors.providers.pauses.MAX_PAUSED", 0)
    scripted_provider.play(answer("no", 500))
    with running(scripted_provider.url, max_retries=1) as rig:
        assert rig.call() == (500, b"no")
