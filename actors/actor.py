"""The base of every actor: what pykka leaves open, closed once.

pykka delivers messages; it does not say what happens to a message that carries its own
reply when the actor dies.  Here a message may have an attribute ``reply``, a pykka future
that the actor (or whoever it hands the message to) completes when the answer is known,
perhaps much later.  The actor never waits for it, the sender does.  This base promises
that no such future is left open by a death: the message in hand and all messages still in
the inbox get :class:`ActorDied`.
"""

from __future__ import annotations

import queue
from typing import Any, Protocol, TypeVar

import pykka

__all__ = ["ActorDied", "Crash", "Future", "GatewayActor", "Reply", "complete", "fail", "new_reply"]

T = TypeVar("T")

Future = pykka.Future
Reply = pykka.ThreadingFuture


class ActorDied(Exception):
    """The actor that held a message died before it was answered.

    ``sent`` says whether the work may have been begun: then trying again may do it twice.
    """

    def __init__(self, message: str, *, sent: bool = False) -> None:
        super().__init__(message)
        self.sent = sent


class CrashedOnRequest(RuntimeError):
    """An operator asked for this death."""


class Crash:
    """Told to any actor: die as an error in its code would let it die."""


class _Watcher(Protocol):
    def __call__(self, actor: GatewayActor, error: BaseException | None) -> None: ...


def new_reply() -> Reply[Any]:
    """Make a future for the ``reply`` field of a message."""
    return pykka.ThreadingFuture()


def complete(reply: Future[T] | None, value: T) -> bool:
    """Set ``reply`` unless it was set already; say whether it was set now."""
    if reply is None:
        return False
    try:
        reply.set(value)
    except queue.Full:
        return False
    return True


def fail(reply: Future[Any] | None, error: BaseException) -> bool:
    """Make ``reply.get()`` raise ``error`` unless it was set already."""
    if reply is None:
        return False
    try:
        reply.set_exception((type(error), error, None))
    except queue.Full:
        return False
    return True


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

    # -- what subclasses provide

    def started(self) -> None:
        """Run in the actor's own thread before the first message."""

    def receive(self, message: Any) -> Any:
        """Handle one message; the return value answers an ``ask``."""
        raise NotImplementedError

    def release(self) -> None:
        """Let go of files, sockets and replies held in the actor's state."""

    # -- pykka's hooks

    def on_start(self) -> None:
        try:
            self.started()
        except Exception as ex:
            self._died_of = ex
            self._finish()
            raise

    def on_receive(self, message: Any) -> Any:
        try:
            if isinstance(message, Crash):
                raise CrashedOnRequest(self.role)
            return self.receive(message)
        except Exception as ex:
            # An exception in a `tell` stops a pykka actor for good; one in an `ask` goes to
            # the asker, who is not helped by an actor in an unknown state.
            self._died_of = ex
            _fail_reply(message, f"{self.role} died: {ex!r}")
            raise

    def on_failure(self, *_exc_info: Any) -> None:
        self._finish()

    def on_stop(self) -> None:
        self._finish()

    def _finish(self) -> None:
        if self._released:
            return
        self._released = True
        try:
            self.release()
        finally:
            self._drain_inbox()
            if self._watcher is not None:
                self._watcher(self, self._died_of)

    def _drain_inbox(self) -> None:
        """Answer what will not be handled any more.

        Asks are pykka's business (``ActorDeadError``); their envelopes are put back.
        """
        asks = []
        while not self.actor_inbox.empty():
            envelope = self.actor_inbox.get()
            if envelope.reply_to is not None:
                asks.append(envelope)
            _fail_reply(envelope.message, f"{self.role} stopped")
        for envelope in asks:
            self.actor_inbox.put(envelope)


def _fail_reply(message: Any, text: str) -> None:
    """Tell who waits for an answer to ``message``, which may know whether work was begun."""
    sent = bool(getattr(message, "sent", False))
    fail(getattr(message, "reply", None), ActorDied(text, sent=sent))
