"""The base of every actor, and the replies by which actors answer: what pykka leaves open, closed
once.

pykka delivers messages; it does not say what happens to a message that carries its own
reply when the actor dies.  Here a message may have an attribute ``reply``, a :class:`Reply`
that the actor (or the one that it hands the message to) completes when the answer is known,
perhaps much later.  The actor never waits for it, the sender does.  This base promises
that no such reply is left open by a death: the message in hand and all messages that are
in the inbox, or come to it too late, get :class:`ActorDied`.

A reply is set once.  Both ends may try, for example when the sender has waited long enough and
the answer comes at that very moment; then one of them is told that it came second.

And each death is the actor's own.  Left to pykka, an error in an ``ask`` would leave an
actor alive in an unknown state, ``SystemExit`` or a gevent timeout in one actor would stop
all actors of the process, and an actor whose greenlet is killed between two messages would
count as alive for ever.  Here each of them ends that one actor, and its watcher hears of it.

PERF: pykka's own future has a condition, three locks and a named tuple.  A request waits for
half a dozen answers, and each of them costs half as much this way.  And where threads are
greenlets, a lock with a timeout makes an exception, a timer and a context in Python for each
wait, which is more than all else that waiting for an answer costs.  There the event loop does
it: somebody waits for a :class:`Turn`, and somebody else gives it.
"""

from __future__ import annotations

import _thread
import contextlib
import queue
import sys
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Any, Generic, Protocol, TypeVar

import pykka

from aigateway.actors.actor.activity import ActorActivity, ActorState, enlist, strike_off

__all__ = [
    "ActorDied",
    "AlreadySet",
    "Inquiry",
    "Crash",
    "GatewayActor",
    "Interrupted",
    "Probe",
    "Question",
    "Reply",
    "Turn",
    "Watcher",
    "ask",
    "ask_quietly",
    "complete",
    "fail",
    "new_reply",
    "new_lock",
    "new_turn",
    "tell_quietly",
]


class Turn(Protocol):
    """Made by who will wait, in its own thread or greenlet."""

    def wait(self, timeout: float | None) -> None:
        """Return when :meth:`give` is or was called, or after ``timeout`` seconds."""

    def give(self) -> None:
        """End the wait.  From any thread, as often as one likes."""


class _ThreadTurn:
    """A lock that is held until it is given."""

    __slots__ = ("_lock",)

    def __init__(self) -> None:
        self._lock = _thread.allocate_lock()
        self._lock.acquire()

    def wait(self, timeout: float | None) -> None:
        self._lock.acquire(True, -1 if timeout is None else timeout)

    def give(self) -> None:
        try:
            self._lock.release()
        except RuntimeError:
            return


class _GreenletTurn:
    """Switches to the event loop, which switches back."""

    __slots__ = ("_given", "_hub", "_waiting")

    def __init__(self) -> None:
        self._hub = gevent.get_hub()
        self._given = False
        self._waiting: Any = None

    def wait(self, timeout: float | None) -> None:
        if self._given:
            return
        hub = self._hub
        self._waiting = gevent.getcurrent()
        try:
            if timeout is None:
                hub.switch()
            else:
                with hub.loop.timer(timeout) as timer:
                    timer.start(self._go_on)
                    hub.switch()
        finally:
            # What comes now, after a timeout or a kill, must not switch here any more.
            self._waiting = None

    def give(self) -> None:
        if self._given:
            return
        self._given = True
        hub = self._hub
        if _this_thread() == hub.thread_ident:
            hub.loop.run_callback(self._go_on)
        else:
            hub.loop.run_callback_threadsafe(self._go_on)

    def _go_on(self) -> None:
        waiting, self._waiting = self._waiting, None
        if waiting is not None:
            waiting.switch()


new_turn: Callable[[], Turn] = _ThreadTurn
"""Makes one; which kind is known when this module is imported, since gevent patches first."""
_greenlets = False
"""Whether threads are greenlets."""
new_lock: Callable[[], threading.Lock] = threading.Lock
"""Makes a lock for moments in which nobody waits for anything.

PERF: a greenlet that never waits is never interrupted by another one, so what keeps threads of the
system apart will do where those are greenlets, too; 0.3 us less than gevent's for each moment."""

_monkey = sys.modules.get("gevent.monkey")
if _monkey is not None and _monkey.is_module_patched("_thread"):
    import gevent

    _this_thread = _monkey.get_original("_thread", "get_ident")
    new_turn = _GreenletTurn
    new_lock = _monkey.get_original("_thread", "allocate_lock")
    _greenlets = True


T = TypeVar("T")


class AlreadySet(Exception):
    """A reply was set a second time."""


class Reply(Generic[T]):
    """An answer to come: a value, or an error."""

    __slots__ = ("_error", "_first", "_value", "_waiting", "known")

    def __init__(self) -> None:
        # Popped by the one that sets the reply; taking from a list is atomic.
        self._first = [True]
        self.known = False
        """Whether it was set."""
        self._value: T | None = None
        self._error: BaseException | None = None
        self._waiting: list[Turn] = []

    def get(self, timeout: float | None = None) -> T:
        """Wait for the answer, up to ``timeout`` seconds; raises the error if it is one.

        Raises pykka.Timeout when it does not come in time.
        """
        if not self.known:
            self._wait(timeout)
        if self._error is not None:
            # Without what an earlier ``get`` has added to it.
            raise self._error.with_traceback(None)
        return self._value  # type: ignore[return-value]

    def _wait(self, timeout: float | None) -> None:
        if timeout is None or timeout > 0:
            turn = new_turn()
            self._waiting.append(turn)
            # It may have been set before it could see that somebody waits.
            if not self.known:
                turn.wait(timeout)
        if not self.known:
            raise pykka.Timeout(f"{timeout} seconds")

    def set(self, value: T) -> None:
        """Give the answer.  Raises AlreadySet."""
        self._settle(value, None)

    def set_error(self, error: BaseException) -> None:
        """Let ``get`` raise ``error``.  Raises AlreadySet."""
        self._settle(None, error)

    def _settle(self, value: T | None, error: BaseException | None) -> None:
        try:
            self._first.pop()
        except IndexError:
            raise AlreadySet from None
        self._value, self._error = value, error
        self.known = True
        for turn in self._waiting:
            turn.give()


class Question(Protocol[T]):
    """A message that is told, and whose reply gets a ``T``."""

    @property
    def reply(self) -> Reply[T]: ...


def new_reply() -> Reply[T]:
    """Make one for the ``reply`` field of a message."""
    return Reply()


def complete(reply: Reply[T] | None, value: T) -> bool:
    """Set ``reply`` unless it was set already; say whether it was set now."""
    if reply is None:
        return False
    try:
        reply.set(value)
    except AlreadySet:
        return False
    return True


def fail(reply: Reply[Any] | None, error: BaseException) -> bool:
    """Make ``reply.get()`` raise ``error`` unless it was set already."""
    if reply is None:
        return False
    try:
        reply.set_error(error)
    except AlreadySet:
        return False
    return True


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


class Inquiry(Generic[T]):
    """The base of messages that are asked, not told: the actor answers a ``T`` at once."""

    __slots__ = ()


class Watcher(Protocol):
    """Is told of an actor's end, and of what it died of, if it did."""

    def __call__(self, actor: GatewayActor, error: BaseException | None, /) -> None: ...


def ask(ref: pykka.ActorRef[Any], question: Inquiry[T], timeout: float) -> T:
    """Wait up to ``timeout`` seconds for an answer.  Raises pykka's ActorDeadError and Timeout."""
    answer: T = ref.ask(question, block=True, timeout=timeout)
    return answer


def ask_quietly(ref: pykka.ActorRef[Any] | None, question: Inquiry[T], timeout: float) -> T | None:
    """Ask an actor that may be gone or busy; None when no answer comes in time."""
    if ref is not None:
        with contextlib.suppress(pykka.ActorDeadError, pykka.Timeout):
            return ask(ref, question, timeout)
    return None


def tell_quietly(ref: pykka.ActorRef[Any] | None, message: object) -> bool:
    """Tell an actor that may be gone; say whether it was told."""
    if ref is None:
        return False
    try:
        ref.tell(message)
    except pykka.ActorDeadError:
        return False
    return True


class _GreenletQueue:
    """A queue for one who takes, where threads are greenlets: who waits switches to the event
    loop, which switches back.

    PERF: gevent's own queue makes a timeout, a waiter and a list of them for each message that is
    waited for.  A message costs 3.1 us this way and 6.3 that way.
    """

    __slots__ = ("_hub", "_messages", "_waiting", "_woken")

    def __init__(self) -> None:
        self._messages: deque[Any] = deque()
        self._hub: Any = None
        self._waiting: Any = None
        self._woken = False

    def qsize(self) -> int:
        return len(self._messages)

    def empty(self) -> bool:
        return not self._messages

    def put(self, message: object) -> None:
        # Who takes says first that it waits, and looks then.
        self._messages.append(message)
        if self._waiting is None or self._woken:
            return
        self._woken = True
        hub = self._hub
        if _this_thread() == hub.thread_ident:
            hub.loop.run_callback(self._wake)
        else:
            hub.loop.run_callback_threadsafe(self._wake)

    def get(self, block: bool = True) -> Any:
        messages = self._messages
        if not messages:
            if not block:
                raise queue.Empty
            self._hub = hub = gevent.get_hub()
            self._waiting = gevent.getcurrent()
            try:
                while not messages:
                    hub.switch()
            finally:
                self._waiting = None
        return messages.popleft()

    def _wake(self) -> None:
        self._woken = False
        if self._waiting is not None:
            self._waiting.switch()


class _Inbox:
    """Messages in the order in which they came, until the actor's death closes it.

    A sender may look whether the actor lives, and put its message only after the death; so
    a sender that puts something into a closed inbox answers it.
    """

    __slots__ = ("_closed", "_queue", "empty", "get", "qsize")

    def __init__(self) -> None:
        self._queue: Any = _GreenletQueue() if _greenlets else queue.SimpleQueue()
        self._closed = ""
        self.get = self._queue.get
        self.empty = self._queue.empty
        self.qsize = self._queue.qsize

    def put(self, envelope: object, /) -> None:
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


_PYKKAS_OWN = pykka.messages.__name__


class GatewayActor(pykka.ThreadingActor):
    """An actor with a role, whose death is told to its watcher and leaves no reply open.

    ``role`` names the actor in the tree ("recorder", "provider/anthropic", …) and outlives
    restarts.  Subclasses implement :meth:`receive`, and :meth:`release` to let go of what
    they own, which runs exactly once however the actor ends.
    """

    use_daemon_thread = True

    def __init__(self, role: str, watcher: Watcher | None = None) -> None:
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

    def receive(self, message: object) -> object:
        """Handle one message; the return value answers an ``ask``."""
        raise NotImplementedError

    def handled(self) -> None:
        """Run after each message, those among them that :meth:`receive` never sees."""

    def release(self) -> None:
        """Let go of files, sockets and replies held in the actor's state."""

    # -- what they may use

    def later(self, delay: float, message: object) -> threading.Timer:
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
    def _create_actor_inbox() -> _Inbox:
        return _Inbox()

    def on_start(self) -> None:
        try:
            self.started()
        except BaseException as ex:
            raise self._die(ex) from ex
        self._begun = True

    def _handle_receive(self, message: object) -> object:
        # PERF: pykka asks of each message whether it is one of its own four; 0.3 us.
        if type(message).__module__ != _PYKKAS_OWN:
            return self.on_receive(message)
        return super()._handle_receive(message)

    def on_receive(self, message: object) -> object:
        self._in_hand = (type(message).__name__, time.monotonic())
        try:
            if isinstance(message, Crash):
                raise CrashedOnRequest(self.role)
            answer: object = None
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


def _fail_reply(message: object, text: str, *, in_hand: bool = False) -> None:
    """Tell who waits for an answer to ``message``, which may know whether work was begun."""
    sent = bool(getattr(message, "sent", False))
    fail(getattr(message, "reply", None), ActorDied(text, sent=sent, in_hand=in_hand))
