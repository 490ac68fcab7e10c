"""Interceptions that wait to be recorded while the control plane is being restarted."""

from __future__ import annotations

from collections.abc import Callable

from attrs import evolve

from aigateway.actors.actor.base import ActorDied, Reply, complete, fail, tell_quietly
from aigateway.actors.actor.tree import ActorTree
from aigateway.actors.control.messages import Begin, BeginAnswer, Unavailable

__all__ = ["BEGIN_WAIT", "Begins"]

MAX_BEGINS = 1000
BEGIN_WAIT = 5.0
"""How many may wait, and for how long (seconds)."""

_RESTARTING = Unavailable("the control plane is being restarted")


class _Handed(Reply[BeginAnswer]):
    """The reply of a start that is in the hands of a control plane: its death is no answer."""

    __slots__ = ("_again", "_begin")

    def __init__(self, begin: Begin, again: Callable[[Begin], bool]) -> None:
        super().__init__()
        self._begin, self._again = begin, again

    def set(self, value: BeginAnswer) -> None:
        # Raises AlreadySet: the control plane has to know that nobody waits any more.
        self._begin.reply.set(value)

    def set_error(self, error: BaseException) -> None:
        # Once: the next one may die of it too.
        once_more = isinstance(error, ActorDied) and not self._begin.again
        if not (once_more and self._again(evolve(self._begin, again=True))):
            fail(self._begin.reply, error)


class Begins:
    """Hands starts of interceptions to the present control plane; ``again`` is told, in any
    thread, of one that has to be begun once more, and says whether that will be done."""

    def __init__(self, tree: ActorTree, again: Callable[[Begin], bool]) -> None:
        self._tree = tree
        self._again = again
        self._waiting: list[tuple[float, Begin]] = []

    def begin(self, message: Begin, now: float) -> bool:
        """Hand it over, or keep it; True when somebody must call :meth:`refuse` later on."""
        control = self._tree.find("control-plane")
        reply = _Handed(message, self._again)
        handed = Begin(message.record, reply, again=message.again, hold=message.hold)
        if tell_quietly(control, handed):
            return False
        if len(self._waiting) >= MAX_BEGINS:
            complete(message.reply, _RESTARTING)
            return False
        self._waiting.append((now, message))
        return len(self._waiting) == 1

    def retry(self, now: float) -> bool:
        """There is a new control plane."""
        waiting, self._waiting = self._waiting, []
        for _, message in waiting:
            self.begin(message, now)
        return bool(self._waiting)

    def refuse(self, now: float) -> bool:
        """Answer those that have waited too long; True when others wait."""
        while self._waiting and now - self._waiting[0][0] >= BEGIN_WAIT:
            complete(self._waiting.pop(0)[1].reply, _RESTARTING)
        return bool(self._waiting)

    def close(self) -> None:
        """The recorder ends."""
        for _, message in self._waiting:
            fail(message.reply, ActorDied("the recorder stopped"))
        self._waiting.clear()
