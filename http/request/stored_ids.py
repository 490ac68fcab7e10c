"""What one user has stored with a provider is no other user's, though they share its account.

Only the embedded control plane can be asked whose an id is: a Coder deployment has no call for
it.  Requests with a user's own key are not looked at, their account is their own.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import structlog

from aigateway.actors.codec.decoding import Decoder, DecodingError, decoder_for
from aigateway.actors.codec.headers import joined
from aigateway.actors.control.messages import (
    Accepted,
    Caller,
    CheckIds,
    NotYours,
    RememberIds,
    Unavailable,
)
from aigateway.actors.interception.stored_ids import created_id
from aigateway.actors.upstream.exchange import Exchange
from aigateway.actors.values.records import UsageRecord
from aigateway.http.metrics.reasons import Reason
from aigateway.http.request.answers import api_error
from aigateway.http.request.runtime import NoAnswer, Runtime, Stopping, retry_after

__all__ = ["CreatedId", "StoredIds"]

PATIENCE = 10.0
"""Seconds for the control plane to answer; its database may be locked for five."""
ANSWER_LIMIT = 1024 * 1024
"""Bytes of an answer that names what was made; real ones have a few hundred."""

log = structlog.get_logger("ai-gateway")


class StoredIds:
    """Asks the control plane whose an id is, and tells it."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime

    def check(self, caller: Caller, dialect: str, ids: Sequence[str]) -> None:
        """Raise the Answer for ids of which one is another user's: 404, as if it did not exist."""
        if not ids:
            return
        try:
            answer = self._runtime.ask(
                "control-plane",
                lambda reply: CheckIds(caller.user_id, tuple(ids), reply),
                PATIENCE,
            )
        except NoAnswer as ex:
            answer = Unavailable(str(ex))
        match answer:
            case NotYours(id=id):
                log.warning("another user's stored id", user_id=caller.user_id, id=id)
                text = f"No response or conversation with id {id!r} found."
                raise api_error(dialect, 404, text, reason=Reason.STORED_ID)
            case Unavailable():
                log.warning("cannot tell whose an id is", error=answer.message)
                seconds = retry_after(answer.retry_after)
                text = "cannot tell now whose this id is"
                raise api_error(
                    dialect, 503, text, reason=Reason.CONTROL_PLANE, retry_after=seconds
                )
            case _:
                pass

    def remember(self, caller: Caller, id: str) -> None:
        """Write down whose an id is; returns when that is done.  What fails is logged."""
        try:
            answer = self._runtime.ask(
                "control-plane", lambda reply: RememberIds(caller.user_id, (id,), reply), PATIENCE
            )
        except (NoAnswer, Stopping) as ex:
            answer = Unavailable(str(ex))
        if not isinstance(answer, Accepted):
            log.error("an id was not written down as its user's", id=id, error=answer.message)

    def watching(
        self, caller: Caller, observe: Callable[[list[UsageRecord]], None] | None
    ) -> Callable[[list[UsageRecord]], None]:
        """``observe``, and write down the ids of answers that records name.

        Records become known before the bytes that they were read from go to the client.
        """
        known: set[str] = set()

        def watch(found: list[UsageRecord]) -> None:
            for record in found:
                id = getattr(record, "msg_id", "")
                if id and id not in known:
                    known.add(id)
                    self.remember(caller, id)
            if observe is not None:
                observe(found)

        return watch


class CreatedId:
    """Reads the answer to a passed request that makes something, and writes its id down."""

    def __init__(self, stored: StoredIds, caller: Caller, exchange: Exchange) -> None:
        self._stored = stored
        self._caller = caller
        self._kept = bytearray()
        self._decoder: Decoder | None = None
        self._good = 200 <= exchange.status < 300
        try:
            self._decoder = decoder_for(joined(exchange.headers, "content-encoding"))
        except DecodingError:
            self._good = False

    def __call__(self, data: bytes, last: bool) -> None:
        """Bytes are about to go to the client; ``last``: the end too."""
        if not self._good:
            return
        try:
            self._kept += data if self._decoder is None else self._decoder.feed(data)
        except DecodingError:
            self._good = False
            return
        if len(self._kept) > ANSWER_LIMIT:
            self._good = False
        elif last and (id := created_id(bytes(self._kept))):
            self._stored.remember(self._caller, id)
