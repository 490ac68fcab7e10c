"""The base of every actor: what pykka leaves open, closed once.

pykka delivers messages; it does not say what happens to a message that carries its own
reply when the actor dies.  Here a message may have an attribute ``reply``, a :class:`Reply`
that the actor (or whoever it hands the message to) completes when the answer is known,
perhaps much later.  The actor never waits for it, the sender does.  This base promises
that no such reply is left open by a death: the message in hand and all messages that are
in the inbox, or come to it too late, get :class:`ActorDied`.

And each death is the actor's own.  Left to pykka, an error in an ``ask`` would leave an
actor alive in an unknown state, ``SystemExit`` or a gevent timeout in one actor would stop
all actors of the process, and an actor whose greenlet is killed between two messages would
count as alive for ever.  Here each of them ends that one actor, and its watcher hears of it.
"""

from __future__ import annotations

import contextlib
import queue
import threading
import time
from typing import Any, Protocol

import pykka

from aigateway.actors.actor.activity import ActorActivity, ActorState, enlist, strike_off
from aigateway.actors.actor.reply import Reply, complete, fail, new_reply

__all__ = [
    "ActorDied",
    "Crash",
    "GatewayActor",
    "Interrupted",
    "Probe",
    "Reply",
    "complete",
    "fail",
    "new_reply",
    "tell_quietly",
]


class ActorDied(Exception):
    """The actor that held a message died before it was answered.

    ``sent`` says whether the work may have been begun: then trying again may do it twice.
    ``in_hand`` says that it died while it handled this message, perhaps of it.
    """

    def __init__(self, message: str, *, sent: bool = False, in_hand: bool = False) -> None:
        super().__init__(message)
        self.sent = sent
        self.in_hand = in_hand


class CrashedOnRequest(RuntimeError):
    """An operator asked for this death."""


class Interrupted(RuntimeError):
    """Something that is no error (an exit, a timeout, a kill) was raised inside an actor."""


class Crash:
    """Told to any actor: die as an error in its code would let it die."""


class Probe:
    """Told to any actor: how long did this message wait in the inbox?

    ``reply`` gets the seconds.
    """

    __slots__ = ("reply", "sent_at")

    def __init__(self) -> None:
        self.reply: Reply[float] = Reply()
        self.sent_at = time.monotonic()


class _Watcher(Protocol):
    def __call__(self, actor: GatewayActor, error: BaseException | None) -> None: ...


def tell_quietly(ref: pykka.ActorRef[Any] | None, message: Any) -> bool:
    """Tell an actor that may be gone; say whether it was told."""
    if ref is None:
        return False
    try:
        ref.tell(message)
    except pykka.ActorDeadError:
        return False
    return True


class _Inbox:
    """Messages in the order in which they came, until the actor's death closes it.

    A sender may look whether the actor lives, and put its message only after the death; so
    whoever puts something into a closed inbox answers it.
    """

    __slots__ = ("_closed", "_queue", "empty", "get", "qsize")

    def __init__(self) -> None:
        self._queue: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._closed = ""
        self.get = self._queue.get
        self.empty = self._queue.empty
        self.qsize = self._queue.qsize

    def put(self, envelope: Any, /) -> None:
        self._queue.put(envelope)
        if self._closed:
            self._refuse()

    def close(self, reason: str) -> None:
        self._closed = reason
        self._refuse()

    def _refuse(self) -> None:
        while True:
            try:
                envelope = self._queue.get(block=False)
            except queue.Empty:
                return
            _fail_reply(envelope.message, self._closed)
            if envelope.reply_to is not None:
                error = pykka.ActorDeadError(self._closed)
                with contextlib.suppress(queue.Full):
                    envelope.reply_to.set_exception((type(error), error, None))


class GatewayActor(pykka.ThreadingActor):
    """An actor with a role, whose death is told to its watcher and leaves no reply open.

    ``role`` names the actor in the tree ("recorder", "provider/anthropic", …) and outlives
    restarts.  Subclasses implement :meth:`receive`, and :meth:`release` to let go of what
    they own, which runs exactly once however the actor ends.
    """

    use_daemon_thread = True

    def __init__(self, role: str, watcher: _Watcher | None = None) -> None:
        super().__init__()
        self.role = role
        self._watcher = watcher
        self._died_of: BaseException | None = None
        self._released = False
        self._begun = False
        self._in_hand: tuple[str, float] | None = None

    # -- what subclasses provide

    def started(self) -> None:
        """Run in the actor's own thread before the first message."""

    def receive(self, message: Any) -> Any:
        """Handle one message; the return value answers an ``ask``."""
        raise NotImplementedError

    def handled(self) -> None:
        """Run after each message, those among them that :meth:`receive` never sees."""

    def release(self) -> None:
        """Let go of files, sockets and replies held in the actor's state."""

    # -- what they may use

    def later(self, delay: float, message: Any) -> threading.Timer:
        """Tell this actor ``message`` in ``delay`` seconds, unless the timer is cancelled."""
        timer = threading.Timer(delay, tell_quietly, (self.actor_ref, message))
        timer.daemon = True
        timer.name = f"{self.role} timer"
        timer.start()
        return timer

    # -- for those who look from outside, in their thread

    def activity(self, thread: int) -> ActorActivity:
        """What it does at this moment; ``thread`` is where it does it."""
        in_hand = self._in_hand
        state: ActorState = "waiting"
        if self._released:
            state = "stopping"
        elif not self._begun:
            state = "starting"
        elif in_hand is not None:
            state = "working"
        message, since = in_hand or ("", 0.0)
        inbox = self.actor_inbox.qsize()  # type: ignore[attr-defined]
        return ActorActivity(self.role, self.actor_urn, thread, state, message, since, inbox)

    # -- pykka's hooks

    @staticmethod
    def _create_actor_inbox() -> Any:
        return _Inbox()

    def on_start(self) -> None:
        try:
            self.started()
        except BaseException as ex:
            raise self._die(ex) from ex
        self._begun = True

    def on_receive(self, message: Any) -> Any:
        self._in_hand = (type(message).__name__, time.monotonic())
        try:
            if isinstance(message, Crash):
                raise CrashedOnRequest(self.role)
            answer = None
            if isinstance(message, Probe):
                complete(message.reply, time.monotonic() - message.sent_at)
            else:
                answer = self.receive(message)
            self.handled()
            return answer
        except BaseException as ex:
            _fail_reply(message, f"{self.role} died: {ex!r}", in_hand=True)
            error = self._die(ex)
            if error is ex:
                raise
            raise error from ex
        finally:
            self._in_hand = None

    def on_stop(self) -> None:
        self._finish()

    def _actor_loop(self) -> None:
        threading.current_thread().name = self.role
        enlist(self)
        try:
            super()._actor_loop()
        except BaseException as ex:
            # Raised where pykka does not look: while it waited for a message.
            self._die(ex)
        finally:
            strike_off()

    def _die(self, cause: BaseException) -> Exception:
        """End this actor, and no other; return what pykka is to be told."""
        error = cause if isinstance(cause, Exception) else Interrupted(f"{self.role}: {cause!r}")
        self._died_of = error
        pykka.ActorRegistry.unregister(self.actor_ref)
        self.actor_stopped.set()
        self._finish()
        return error

    def _finish(self) -> None:
        if self._released:
            return
        self._released = True
        try:
            self.release()
        except Exception:
            raise
        except BaseException as ex:
            raise Interrupted(f"{self.role}, letting go: {ex!r}") from ex
        finally:
            self.actor_inbox.close(f"{self.role} stopped")  # type: ignore[attr-defined]
            if self._watcher is not None:
                self._watcher(self, self._died_of)


def _fail_reply(message: Any, text: str, *, in_hand: bool = False) -> None:
    """Tell who waits for an answer to ``message``, which may know whether work was begun."""
    sent = bool(getattr(message, "sent", False))
    fail(getattr(message, "reply", None), ActorDied(text, sent=sent, in_hand=in_hand))
