"""Interceptions that wait to be recorded while the control plane is being restarted."""

from __future__ import annotations

from aigateway.actors.actor import ActorDied, complete, fail, tell_quietly
from aigateway.actors.coderd.messages import StoreInterception, Unavailable
from aigateway.actors.recorder.messages import Begin
from aigateway.actors.tree import ActorTree

__all__ = ["BEGIN_WAIT", "Begins"]

MAX_BEGINS = 1000
BEGIN_WAIT = 5.0
"""How many may wait, and for how long (seconds)."""

_RESTARTING = Unavailable("the control plane is being restarted")


class Begins:
    """Hands starts of interceptions to whoever is the control plane."""

    def __init__(self, tree: ActorTree) -> None:
        self._tree = tree
        self._waiting: list[tuple[float, Begin]] = []

    def begin(self, message: Begin, now: float) -> bool:
        """Hand it over, or keep it; True when somebody must call :meth:`refuse` later on."""
        control = self._tree.find("control-plane")
        if tell_quietly(control, StoreInterception(message.record, message.reply)):
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
