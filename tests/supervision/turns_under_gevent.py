"""Turns, inboxes and waiting for bytes, which the event loop does where threads are greenlets.

Run by ``test_replies_under_gevent.py`` in a process of its own.
"""

from __future__ import annotations

import socket
from collections.abc import Iterator

import gevent
import pytest
from gevent.monkey import get_original

from aigateway.actors.actor.base import ActorDied, GatewayActor, Reply, Turn, new_turn
from aigateway.actors.upstream.waiting import waiter_for

PATIENCE = 10.0


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    one, other = socket.socketpair()
    with one, other:
        yield one, other


def waiting(turns: list[Turn], timeout: float | None) -> None:
    turns.append(new_turn())
    turns[0].wait(timeout)


@pytest.mark.parametrize("timeout", [None, PATIENCE])
def test_a_turn_is_given_from_a_thread_of_the_system(timeout: float | None) -> None:
    turns: list[Turn] = []
    waits = gevent.spawn(waiting, turns, timeout)
    # So that the loop has something to do: with nothing it would not wait.
    with gevent.Timeout(PATIENCE):
        gevent.sleep(0)
        get_original("_thread", "start_new_thread")(turns[0].give, ())
        waits.get()


def test_who_was_killed_while_it_waited_is_not_woken_elsewhere() -> None:
    turns: list[Turn] = []
    after: list[str] = []

    def wait_and_then_rest() -> None:
        try:
            waiting(turns, PATIENCE)
        except gevent.GreenletExit:
            with gevent.Timeout(0.05, False):
                gevent.sleep(PATIENCE)
                after.append("woken")

    rests = gevent.spawn(wait_and_then_rest)
    gevent.sleep(0)
    turns[0].give()
    rests.kill(block=False)
    rests.join(PATIENCE)
    assert rests.successful()
    assert not after


class Listener(GatewayActor):
    """Keeps what it is told behind its greenlet, and gives it to who asks."""

    def started(self) -> None:
        self.told: list[object] = [gevent.getcurrent()]

    def receive(self, message: object) -> object:
        self.told.append(message)
        return self.told


def test_messages_from_threads_of_the_system_are_taken_in_their_order() -> None:
    listener = Listener.start("listener")
    # It waits for its first message by now.
    gevent.sleep(0)

    def tell() -> None:
        for number in range(100):
            listener.tell(number)

    with gevent.Timeout(PATIENCE):
        get_original("_thread", "start_new_thread")(tell, ())
        while 99 not in (told := listener.ask("more")):
            gevent.sleep(0.001)
    assert [each for each in told if isinstance(each, int)] == list(range(100))
    assert listener.stop()


class Asked:
    def __init__(self) -> None:
        self.reply: Reply[None] = Reply()


def test_who_is_killed_while_it_waits_for_a_message_answers_what_comes() -> None:
    listener = Listener.start("listener")
    taker = listener.ask("who")[0]
    question = Asked()
    taker.kill(block=False)
    listener.tell(question)
    with pytest.raises(ActorDied):
        question.reply.get(PATIENCE)


def waiting_for_bytes(sock: socket.socket) -> gevent.Greenlet:
    wait = waiter_for(sock)
    assert wait is not None
    waits = gevent.spawn(wait)
    gevent.sleep(0)
    assert not waits.ready()
    return waits


def test_bytes_are_waited_for_and_left_where_they_are(pair) -> None:
    one, other = pair
    waits = waiting_for_bytes(one)
    other.sendall(b"x")
    waits.get(timeout=PATIENCE)
    assert one.recv(10) == b"x"


def test_who_waits_for_bytes_is_told_when_the_socket_is_closed(pair) -> None:
    one, _ = pair
    wait = waiter_for(one)
    waits = waiting_for_bytes(one)
    one.close()
    with pytest.raises(OSError, match=r"[Ff]ile descriptor"):
        waits.get(timeout=PATIENCE)
    with pytest.raises(OSError, match=r"[Ff]ile descriptor"):
        gevent.spawn(wait).get(timeout=PATIENCE)
