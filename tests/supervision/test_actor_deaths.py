"""Every way an actor can end: nobody waits in vain, nobody else is touched."""

from __future__ import annotations

import threading
from typing import Any

import pykka
import pytest
from attrs import field, frozen

from aigateway.actors.actor.base import (
    ActorDied,
    Crash,
    GatewayActor,
    Interrupted,
    Reply,
    complete,
    fail,
    new_reply,
    tell_quietly,
)

pytestmark = pytest.mark.filterwarnings("default::pytest.PytestUnhandledThreadExceptionWarning")

PATIENCE = 10.0


@frozen
class Question:
    reply: Reply[Any] = field(eq=False)
    sent: bool = False


@frozen
class Raise:
    error: BaseException


@frozen
class Wait:
    entered: threading.Event
    go_on: threading.Event


class Worker(GatewayActor):
    """Does what it is told, and keeps the questions."""

    def __init__(self, role: str, watcher: Any = None, fails: BaseException | None = None) -> None:
        super().__init__(role, watcher)
        self._fails = fails
        self.kept: list[Question] = []
        self.releases = 0

    def started(self) -> None:
        if self._fails is not None:
            raise self._fails

    def receive(self, message: Any) -> Any:
        match message:
            case Question():
                self.kept.append(message)
            case Raise():
                raise message.error
            case Wait():
                message.entered.set()
                message.go_on.wait(PATIENCE)
            case "releases":
                return self.releases
        return None

    def release(self) -> None:
        self.releases += 1
        for question in self.kept:
            fail(question.reply, ActorDied("kept"))


class Deaths:
    """A watcher that can be waited for."""

    def __init__(self) -> None:
        self.heard: list[tuple[str, BaseException | None]] = []
        self._more = threading.Semaphore(0)

    def __call__(self, actor: GatewayActor, error: BaseException | None) -> None:
        assert isinstance(actor, Worker)
        assert actor.releases == 1
        self.heard.append((actor.role, error))
        self._more.release()

    def next(self) -> tuple[str, BaseException | None]:
        assert self._more.acquire(timeout=PATIENCE), "no death was heard of"
        return self.heard[-1]


@pytest.fixture
def deaths() -> Deaths:
    return Deaths()


ENDINGS = [ValueError("x"), SystemExit(1), KeyboardInterrupt(), GeneratorExit()]


@pytest.mark.parametrize("error", ENDINGS, ids=repr)
@pytest.mark.parametrize("how", ["tell", "ask"])
def test_an_error_ends_the_actor_however_the_message_came(
    deaths: Deaths, error: BaseException, how: str
) -> None:
    bystander = Worker.start("bystander")
    ref = Worker.start("worker", deaths)
    kept, behind = new_reply(), new_reply()
    ref.tell(Question(kept))
    if how == "tell":
        ref.tell(Raise(error))
    else:
        with pytest.raises((type(error), Interrupted)):
            ref.ask(Raise(error), timeout=PATIENCE)
    role, reason = deaths.next()
    assert role == "worker"
    assert reason is error or (isinstance(reason, Interrupted) and repr(error) in str(reason))
    assert not ref.is_alive()
    assert not tell_quietly(ref, Question(behind))
    with pytest.raises(ActorDied, match="kept"):
        kept.get(timeout=PATIENCE)
    assert bystander.ask("releases", timeout=PATIENCE) == 0
    bystander.stop()


def test_messages_behind_a_fatal_one_are_answered(deaths: Deaths) -> None:
    ref = Worker.start("worker", deaths)
    entered, go_on = threading.Event(), threading.Event()
    ref.tell(Wait(entered, go_on))
    assert entered.wait(PATIENCE)
    replies = [new_reply() for _ in range(3)]
    ref.tell(Raise(ValueError()))
    ref.tell(Question(replies[0]))
    ref.tell(Question(replies[1], sent=True))
    asked = ref.ask("releases", block=False)
    stopped = ref.ask(pykka.messages._ActorStop(), block=False)
    go_on.set()
    for reply, sent in zip(replies[:2], (False, True), strict=True):
        with pytest.raises(ActorDied) as caught:
            reply.get(timeout=PATIENCE)
        assert caught.value.sent is sent
    for future in (asked, stopped):
        with pytest.raises(pykka.ActorDeadError):
            future.get(timeout=PATIENCE)


def test_a_message_that_comes_a_moment_too_late_is_answered(deaths: Deaths) -> None:
    ref = Worker.start("worker", deaths)
    ref.stop()
    deaths.next()
    # As if the sender had looked just before the death.
    ref.actor_stopped.clear()
    reply = new_reply()
    ref.tell(Question(reply))
    with pytest.raises(ActorDied):
        reply.get(timeout=PATIENCE)
    with pytest.raises(pykka.ActorDeadError):
        ref.ask("releases", timeout=PATIENCE)


def test_an_orderly_stop_is_heard_of_without_an_error(deaths: Deaths) -> None:
    ref = Worker.start("worker", deaths)
    assert ref.stop(timeout=PATIENCE)
    assert deaths.next() == ("worker", None)


@pytest.mark.parametrize("error", ENDINGS, ids=repr)
def test_an_actor_that_fails_to_start_is_heard_of(deaths: Deaths, error: BaseException) -> None:
    ref = Worker.start("worker", deaths, fails=error)
    deaths.next()
    assert not ref.is_alive()


def test_a_crash_on_request_is_a_death_like_any_other(deaths: Deaths) -> None:
    ref = Worker.start("worker", deaths)
    ref.tell(Crash())
    _, error = deaths.next()
    assert type(error).__name__ == "CrashedOnRequest"


@pytest.mark.parametrize("error", [ValueError("letting go"), SystemExit(3)], ids=repr)
def test_a_failure_to_let_go_does_not_hide_the_death(deaths: Deaths, error: BaseException) -> None:
    class Clumsy(Worker):
        def release(self) -> None:
            super().release()
            raise error

    for end in (Crash(), pykka.messages._ActorStop()):
        ref = Clumsy.start("worker", deaths)
        reply = new_reply()
        entered, go_on = threading.Event(), threading.Event()
        ref.tell(Wait(entered, go_on))
        assert entered.wait(PATIENCE)
        ref.tell(end)
        ref.tell(Question(reply))
        go_on.set()
        deaths.next()
        with pytest.raises(ActorDied):
            reply.get(timeout=PATIENCE)


def test_an_actor_killed_between_two_messages_is_heard_of(
    deaths: Deaths, monkeypatch: pytest.MonkeyPatch
) -> None:
    ref = Worker.start("worker", deaths)
    actor = ref._actor_weakref()
    assert actor is not None

    def killed(self: Any) -> None:
        raise GeneratorExit

    # What a killed greenlet looks like from inside: the wait for a message raises.
    monkeypatch.setattr(Worker, "_actor_loop_running", killed)
    victim = Worker.start("victim", deaths)
    assert deaths.next()[0] == "victim"
    assert not victim.is_alive()
    with pytest.raises(pykka.ActorDeadError):
        victim.ask("releases", timeout=PATIENCE)
    ref.stop()


def test_a_timer_tells_its_message_unless_it_is_cancelled() -> None:
    ref = Worker.start("worker")
    actor = ref._actor_weakref()
    assert actor is not None
    reply = new_reply()
    actor.later(60.0, Crash()).cancel()
    timer = actor.later(0.001, Question(reply))
    timer.join(PATIENCE)
    ref.stop(timeout=PATIENCE)
    with pytest.raises(ActorDied, match="kept"):
        reply.get(timeout=PATIENCE)
    # The actor has gone: the timer rings for nobody.
    actor.later(0.0, Crash()).join(PATIENCE)


def test_a_reply_is_set_once() -> None:
    reply = new_reply()
    assert complete(reply, 1)
    assert not complete(reply, 2)
    assert not fail(reply, ValueError())
    assert reply.get(timeout=1) == 1
    assert not complete(None, 1)
    assert not fail(None, ValueError())
