"""What becomes of a call, and who is told."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

from attrs import field

from aigateway.actors.values.frozen import frozen

__all__ = ["RpcAnswer", "Failure", "RpcResult", "Refusal", "Run"]

Run = Callable[[Callable[[], None]], None]
"""Has something done in the owner's own thread, later."""


@frozen
class RpcAnswer:
    """What coderd answered."""

    data: bytes


@frozen
class Refusal:
    """coderd answered with an error; ``code`` is 0 when it has none."""

    text: str
    code: int = 0


@frozen
class Failure:
    """There is no answer, and whether coderd has acted on the call is not known."""

    text: str
    away: bool = True
    """False when coderd answers other calls, just not this one."""
    broken: bool = False
    """Only the call's stream broke; its session goes on, as far as is known."""
    silent: bool = False
    """The line stood still meanwhile, and may have swallowed the call or its answer."""
    sent: bool = field(default=True, eq=False)
    """False when the call never left: coderd has certainly not acted on it."""


RpcResult: TypeAlias = RpcAnswer | Refusal | Failure
