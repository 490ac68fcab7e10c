"""Replies: set once, waited for by many."""

from __future__ import annotations

import _socket
import socket
import threading
import time
from functools import partial

import pykka
import pytest

from aigateway.actors.actor.base import AlreadySet, Reply, complete, fail, new_reply, new_turn
from aigateway.actors.upstream.waiting import waiter_for

PATIENCE = 10.0


class Wrong(Exception):
    pass


def in_threads(*actions) -> list[threading.Thread]:
    threads = [threading.Thread(target=action, daemon=True) for action in actions]
    for thread in threads:
        thread.start()
    return threads


def join(threads: list[threading.Thread]) -> None:
    for thread in threads:
        thread.join(PATIENCE)
        assert not thread.is_alive()


def claim(reply: Reply[int], number: int, won: list[int]) -> None:
    if complete(reply, number):
        won.append(number)


@pytest.mark.parametrize("value", ["yes", None, False])
def test_what_was_set_is_got_as_often_as_asked(value):
    reply = new_reply()
    assert complete(reply, value)
    assert reply.get(timeout=0) is value
    assert reply.get() is value


def test_an_error_is_raised_anew_each_time():
    reply = new_reply()
    error = Wrong("no")
    assert fail(reply, error)
    depths = []
    for _ in range(2):
        with pytest.raises(Wrong) as caught:
            reply.get(timeout=0)
        assert caught.value is error
        depths.append(len(caught.traceback))
    assert depths[0] == depths[1]


@pytest.mark.parametrize("timeout", [0, -1, 0.01])
def test_an_answer_that_does_not_come_in_time_is_a_timeout(timeout):
    reply = new_reply()
    with pytest.raises(pykka.Timeout):
        reply.get(timeout=timeout)
    # Waiting can go on.
    complete(reply, 1)
    assert reply.get(timeout=0) == 1


def test_the_second_answer_is_refused_and_changes_nothing():
    reply: Reply[int] = Reply()
    reply.set(1)
    with pytest.raises(AlreadySet):
        reply.set(2)
    with pytest.raises(AlreadySet):
        reply.set_error(Wrong())
    assert not complete(reply, 3)
    assert not fail(reply, Wrong())
    assert reply.get(timeout=0) == 1


def test_nobody_to_answer_is_no_error():
    assert not complete(None, 1)
    assert not fail(None, Wrong())


def test_all_who_wait_get_the_answer():
    reply = new_reply()
    got: list[int] = []
    threads = in_threads(*[lambda: got.append(reply.get(timeout=PATIENCE))] * 5)
    complete(reply, 7)
    join(threads)
    assert got == [7] * 5


def test_an_answer_at_the_moment_of_asking_is_not_missed():
    asked: list[Reply[int]] = [Reply() for _ in range(3000)]
    place = iter(asked)
    began = time.monotonic()
    threads = in_threads(lambda: [reply.set(1) for reply in place])
    assert all(reply.get(timeout=PATIENCE) == 1 for reply in asked)
    join(threads)
    # One that was missed would have been waited for.
    assert time.monotonic() - began < PATIENCE


def test_of_many_answers_at_once_one_counts():
    for _ in range(200):
        reply = new_reply()
        won: list[int] = []
        join(in_threads(*[partial(claim, reply, number, won) for number in range(4)]))
        assert won == [reply.get(timeout=0)]


def test_a_turn_may_be_given_before_it_is_waited_for_and_again_when_its_time_is_over():
    turn = new_turn()
    turn.give()
    began = time.monotonic()
    turn.wait(PATIENCE)
    assert time.monotonic() - began < PATIENCE
    late = new_turn()
    late.wait(0.01)
    late.give()
    late.give()


def test_plain_sockets_wait_by_themselves():
    one, other = socket.socketpair()
    with one, other:
        assert (waiter_for(one) is None) is isinstance(one, _socket.socket)
