"""Where a control plane sends its answers to one batch."""

from __future__ import annotations

from typing import Any

import pykka
from attrs import frozen

from aigateway.actors.control.messages import Stored
from aigateway.actors.recorder._desk import Desk

__all__ = ["Answer", "BatchRef"]


@frozen
class Answer:
    """What the control plane says about records of a batch."""

    desk: Desk
    batch: int
    stored: Stored


class BatchRef(pykka.ActorRef[Any]):
    """The recorder, told which batch is meant: a control plane that was replaced may still talk,
    of records that its successor has by now."""

    def __init__(self, recorder: pykka.Actor, desk: Desk, batch: int) -> None:
        super().__init__(recorder)
        self._desk = desk
        self._batch = batch

    def tell(self, message: Any) -> None:
        super().tell(Answer(self._desk, self._batch, message))
