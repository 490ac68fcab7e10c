"""Replies: what a message carries for an answer that may come much later.

The sender makes one, puts it into the message, and waits; whoever knows the answer sets it.
It is set once.  Both ends may try, for example when the sender has waited long enough and
the answer comes at that very moment; then one of them is told that it came second.

PERF: pykka's own future has a condition, three locks and a named tuple.  A request waits for
half a dozen answers, and each of them costs half as much this way.
"""

from __future__ import annotations

from typing import Any, Generic, TypeVar

import pykka

from aigateway.actors.actor.turns import Turn, new_turn

__all__ = ["AlreadySet", "Reply", "complete", "fail", "new_reply"]

T = TypeVar("T")


class AlreadySet(Exception):
    """A reply was set a second time."""


class Reply(Generic[T]):
    """An answer to come: a value, or an error."""

    __slots__ = ("_error", "_first", "_value", "_waiting", "known")

    def __init__(self) -> None:
        # Popped by whoever sets the reply; taking from a list is atomic.
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


def new_reply() -> Reply[Any]:
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
