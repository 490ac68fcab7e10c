"""Where a control plane sends its answers to one batch."""

from __future__ import annotations

from typing import Any

import pykka
from attrs import frozen

from aigateway.actors.coderd.messages import Stored

__all__ = ["Answer", "BatchRef"]


@frozen
class Answer:
    """What the control plane says about records of a batch."""

    batch: int
    stored: Stored


class BatchRef(pykka.ActorRef[Any]):
    """The recorder, told which batch is meant: a control plane that was replaced may still talk,
    of records that its successor has by now."""

    def __init__(self, recorder: pykka.Actor, batch: int) -> None:
        super().__init__(recorder)
        self._batch = batch

    def tell(self, message: Any) -> None:
        super().tell(Answer(self._batch, message))
