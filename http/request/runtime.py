"""The actors of this process, for the edge: start, stop, ask; and what is asked of them.

Requests wait in two places: for an actor's reply, and for bytes of an upstream's answer.
Both are noted here.  A process that has to end breaks them off in two steps:

- :meth:`Inflight.cut`: a request that reads an answer gets GatewayEnds, and one that waits
  for a reply gets :class:`Stopping`.  From there each request takes its usual way: an error event
  or an error answer, and its records to the disk.  Only the start of an interception is
  waited for: nobody could say whether it was recorded.
- :meth:`Inflight.let_go`: those do not wait any longer either.
"""

from __future__ import annotations

import math
import os
import threading
import time
from collections.abc import Callable
from typing import Any, TypeVar
from weakref import ref

import pykka
import structlog

from aigateway.actors.actor.base import (
    ActorDied,
    Question,
    Reply,
    ask,
    ask_quietly,
    fail,
    new_reply,
    tell_quietly,
)
from aigateway.actors.actor.tree import ActorTree
from aigateway.actors.control.messages import Begin, BeginAnswer, GetStatus, Status
from aigateway.actors.plan import GatewayPlan
from aigateway.actors.providers.recording import Recording
from aigateway.actors.recorder.messages import Flushed
from aigateway.actors.supervisor import StopAll, Supervisor
from aigateway.actors.upstream.exchange import Exchange
from aigateway.actors.values.caps import Hold
from aigateway.actors.values.records import InterceptionBegun

__all__ = ["STOPPING", "Inflight", "NoAnswer", "Runtime", "Stopping", "retry_after"]

STOPPING = "AI Gateway is shutting down"
"""What clients are told."""
SETTLING = 0.1
"""Seconds in which a dying actor is surely seen as dead."""
SUCCESSOR_WAIT = 5.0
"""Seconds to wait for an actor that is being restarted."""

log = structlog.get_logger("ai-gateway")

T = TypeVar("T")

_forks = 0
"""PERF: tells this process from its parents, as the process id does with a system call."""


def _count_fork() -> None:
    global _forks
    _forks += 1


os.register_at_fork(after_in_child=_count_fork)


class NoAnswer(Exception):
    """An actor died or kept silent; ``sent`` says whether the work may have been begun."""

    def __init__(self, message: str, *, sent: bool) -> None:
        super().__init__(message)
        self.sent = sent


class Stopping(Exception):
    """This process ends, and does not wait for an answer any more."""

    def __init__(self) -> None:
        super().__init__(STOPPING)


class Inflight:
    """Replies, answers and recordings of this process.  Safe to use from many threads."""

    def __init__(self) -> None:
        # Nobody needs a lock: who comes is noted first and looks then whether it is over, and the
        # one that ends it says so first and looks then who is there.
        self._replies: dict[int, tuple[Reply[Any], bool]] = {}
        # PERF: a WeakSet and a lock take 1 us more for each.
        self._exchanges: set[ref[Exchange]] = set()
        self._recordings: set[ref[Recording]] = set()
        self._cut = False
        self._let_go = False

    # -- noted by requests

    def expect(self, reply: Reply[Any], *, patient: bool = False) -> None:
        """Before somebody is asked: the answer will be waited for, until :meth:`forget`.

        ``patient`` waits are only broken off by :meth:`let_go`.  Raises Stopping.
        """
        # Noted first: the one that cuts says so first, and then looks here.
        self._replies[id(reply)] = (reply, patient)
        if self._let_go if patient else self._cut:
            self.forget(reply)
            raise Stopping

    def forget(self, reply: Reply[Any]) -> None:
        """The answer is there, or nobody waits for it any more."""
        self._replies.pop(id(reply), None)

    def hold(self, exchange: Exchange) -> None:
        """An answer is being read, by its request or by the one that it is given to later."""
        self._exchanges.add(ref(exchange, self._exchanges.discard))
        if self._cut:
            exchange.interrupt(STOPPING)

    def record(self, recording: Recording) -> None:
        """An interception has begun, and its end is to be recorded."""
        self._recordings.add(ref(recording, self._recordings.discard))

    # -- asked by who ends the process

    @property
    def recordings(self) -> int:
        """Interceptions whose end is not recorded yet, those drained after the client has
        left included."""
        return sum(not recording.closed for recording in _living(self._recordings))

    def cut(self) -> None:
        """Break off what is running, now and from now on."""
        self._cut = True
        self._break_off(patient=False)
        for exchange in _living(self._exchanges):
            exchange.interrupt(STOPPING)

    def let_go(self) -> None:
        """Wait for nothing any more."""
        self._let_go = True
        self._break_off(patient=True)

    def _break_off(self, *, patient: bool) -> None:
        for reply, is_patient in list(self._replies.values()):
            if patient or not is_patient:
                # An actor that answers now finds the reply taken, and lets go of what it holds.
                fail(reply, Stopping())


def _living(refs: set[ref[T]]) -> list[T]:
    """Those that are there still."""
    # Copied in one step that no other thread can come between.
    return [each for known in list(refs) if (each := known()) is not None]


class Runtime:
    """Owns the supervisor of this gateway worker process."""

    def __init__(
        self, plan: GatewayPlan, tree: ActorTree, *, give_up: Callable[[str], None]
    ) -> None:
        self.plan = plan
        self.tree = tree
        self.inflight = Inflight()
        self.draining = False
        """Set when the gateway is about to stop: new requests are refused."""
        self._give_up = give_up
        self._supervisor: pykka.ActorRef[Supervisor] | None = None
        self._begun_in = -1
        self._lock = threading.Lock()

    def start(self) -> None:
        """Start the actors, in the process that will serve; calling again does nothing.

        Actors must not cross a fork: their threads would not.
        """
        if self._begun_in == _forks:
            return
        with self._lock:
            if self._begun_in != _forks:
                self._supervisor = Supervisor.start(
                    self.plan, self.tree, self._give_up, self._supervisor_ended
                )
                self._begun_in = _forks

    def stop(self, flush_timeout: float, stop_timeout: float) -> None:
        """Flush the spool, then stop all actors; timeouts in seconds.

        What is not flushed stays on disk for the next start.
        """
        if self._begun_in != _forks or self._supervisor is None:
            return
        supervisor, self._supervisor = self._supervisor, None
        if flush_timeout:
            self._flush(flush_timeout)
        try:
            ask(supervisor, StopAll(), stop_timeout)
            supervisor.stop(timeout=1)
        except (pykka.ActorDeadError, pykka.Timeout) as ex:
            log.warning("actors did not stop in time", error=str(ex))

    def _flush(self, timeout: float) -> None:
        reply: Reply[bool] = new_reply()
        try:
            if not tell_quietly(self.tree.find("recorder"), Flushed(reply)):
                raise ActorDied("the recorder is being restarted")
            reply.get(timeout=timeout)
        except ActorDied as ex:
            log.warning("records stay in the spool for the next start", reason=str(ex))
        except pykka.Timeout:
            log.warning(
                "records stay in the spool for the next start",
                reason=f"they were not delivered within {timeout:g} s",
            )

    @property
    def supervisor(self) -> pykka.ActorRef[Supervisor] | None:
        return self._supervisor

    def actors(self) -> dict[str, pykka.ActorRef[Any]]:
        """All that are there now, by role, the supervisor among them."""
        actors = self.tree.filled()
        if self._supervisor is not None:
            actors["supervisor"] = self._supervisor
        return actors

    def ask(
        self,
        role: str,
        message: Callable[[Reply[T]], Question[T]],
        timeout: float,
        *,
        tries: int = 2,
        patient: bool = False,
    ) -> T:
        """Tell the actor in ``role`` a message with a reply and wait for the reply.

        A request that meets a dying actor is tried once more with its successor, if nothing
        was begun; ``patient`` as in :meth:`Inflight.expect`.  Raises NoAnswer, and Stopping when
        this process ends; never waits longer than ``timeout`` seconds and the time of a restart.
        """
        last: pykka.ActorRef[Any] | None = None
        for _ in range(tries):
            ref = self.tree.find(role)
            if ref is None or ref is last:
                ref = self._successor(role, last)
            if ref is None:
                break
            reply: Reply[T] = new_reply()
            self.inflight.expect(reply, patient=patient)
            try:
                ref.tell(message(reply))
                return reply.get(timeout=timeout)
            except pykka.ActorDeadError:
                last = ref
            except ActorDied as ex:
                if ex.sent:
                    raise NoAnswer(f"{role} died with the request in hand", sent=True) from ex
                last = ref
            except pykka.Timeout as ex:
                # An actor that answers now finds the reply taken, and lets go of what it holds.
                fail(reply, NoAnswer("nobody waits any more", sent=True))
                raise NoAnswer(f"{role} did not answer within {timeout:g} s", sent=True) from ex
            finally:
                self.inflight.forget(reply)
        raise NoAnswer(f"{role} is being restarted", sent=False)

    def begin(self, record: InterceptionBegun, hold: Hold | None, timeout: float) -> BeginAnswer:
        """Have it recorded that there is this interception.  Raises as :meth:`ask` does.

        PERF: the control plane is asked itself where nothing speaks against it; by the recorder
        it takes 5 us more.
        """
        tree, again = self.tree, False
        straight = tree.keeping is not None and not tree.keeping.refusing
        if straight and tree.find("recorder") and tree.find("control-plane"):
            try:
                return self.ask(
                    "control-plane",
                    lambda reply: Begin(record, reply, hold=hold),
                    timeout,
                    tries=1,
                    patient=True,
                )
            except NoAnswer as ex:
                if ex.sent:
                    raise
                # It died.  The recorder waits for its successor.
                again = True
        return self.ask(
            "recorder",
            lambda reply: Begin(record, reply, again=again, hold=hold),
            timeout,
            patient=True,
        )

    def _successor(self, role: str, last: pykka.ActorRef[Any] | None) -> pykka.ActorRef[Any] | None:
        """Who fills the role after ``last``; ``last`` itself when it was another that died.

        An actor tells of its death a moment before it counts as dead.
        """
        found = self.tree.wait_for(role, SETTLING, other_than=last)
        if found is None and last is not None and last.is_alive():
            return last
        return found or self.tree.wait_for(role, SUCCESSOR_WAIT, other_than=last)

    def status(self) -> Status:
        """State of the control plane; never raises, waits a second at most."""
        control = self.tree.find("control-plane")
        if control is None:
            return Status(False, "the control plane is being restarted")
        status = ask_quietly(control, GetStatus(), 1)
        return status or Status(False, "the control plane does not answer")

    def ready(self) -> bool:
        """Connected, the providers have been loaded once, and records can be kept."""
        return not self.why_not_ready()

    def why_not_ready(self) -> str:
        """In a few words; empty when it is ready."""
        if self.draining:
            return "shutting down"
        keeping = self.tree.keeping
        if keeping is not None and keeping.refusing:
            return keeping.reason
        if not self.tree.providers_loaded:
            return "the providers are not loaded yet"
        status = self.status()
        return "" if status.connected else status.detail or "the control plane is away"

    @property
    def disk(self) -> str:
        """How the disk of the state folder is, by the names of
        :class:`~aigateway.actors.recorder.spool.DiskState`."""
        return str(self.tree.keeping.state) if self.tree.keeping is not None else "ok"

    @property
    def lost(self) -> str:
        """What was lost when the actors were stopped; empty when nothing was."""
        return self.tree.keeping.lost if self.tree.keeping is not None else ""

    def wait_ready(self, timeout: float) -> bool:
        """Wait until :meth:`ready`, for tests and the demo."""
        deadline = time.monotonic() + timeout
        pause = threading.Event()
        while not self.ready():
            if time.monotonic() >= deadline:
                return False
            pause.wait(0.02)
        return True

    def _supervisor_ended(self, _actor: object, error: BaseException | None) -> None:
        if error is not None:
            self._give_up(f"the supervisor died: {error!r}")


def retry_after(seconds: float) -> int:
    """Whole seconds for a Retry-After header, at least 1."""
    return max(1, math.ceil(seconds))
