"""What the actors of this process are doing, readable without asking any of them.

An actor that hangs answers nothing, and those who asked it hang with it.  So each actor notes
what it has in hand where others may look.  Looking takes no lock: what is seen was true a
moment ago, which is all that a diagnosis needs.
"""

from __future__ import annotations

import threading
from typing import Literal, Protocol, TypeAlias

from attrs import frozen

__all__ = ["ActorActivity", "ActorState", "activities", "enlist", "strike_off"]

ActorState: TypeAlias = Literal["starting", "waiting", "working", "stopping"]


@frozen
class ActorActivity:
    """One actor at one moment."""

    role: str
    urn: str
    """Tells an actor from its successor in the same role."""
    thread: int
    """``threading.get_ident()`` in the actor's own thread; under gevent that is the ``id`` of
    its greenlet."""
    state: ActorState
    message: str = ""
    """The type of the message in hand, and nothing of what is in it."""
    since: float = 0.0
    """Monotonic time at which that message was taken; 0 without one."""
    inbox: int = 0
    """Messages that wait."""


class _Actor(Protocol):
    def activity(self, thread: int) -> ActorActivity: ...


_living: dict[int, _Actor] = {}


def enlist(actor: _Actor) -> None:
    """In the actor's own thread: it begins."""
    _living[threading.get_ident()] = actor


def strike_off() -> None:
    """In the actor's own thread: it has ended."""
    _living.pop(threading.get_ident(), None)


def activities() -> list[ActorActivity]:
    """All actors that have not ended, from any thread."""
    # Copied in one step that no other thread can come between.
    return [actor.activity(thread) for thread, actor in list(_living.items())]
