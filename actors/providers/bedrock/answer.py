"""The interception of a call to Bedrock: Anthropic's, with the answer in AWS's clothes.

The answer is put into Anthropic's form as it arrives; whatever reads and relays Anthropic's
answers does the rest and never learns of AWS.  What has to be converted is known by the
answer's head: an event stream of frames, or an error.  Anything else passes as it is.
"""

from __future__ import annotations

from aigateway.actors.codec.decoding import Decoder, DecodingError, decoder_for
from aigateway.actors.codec.headers import Headers, joined
from aigateway.actors.codec.reading import members, text
from aigateway.actors.interception.error_bodies import error_body
from aigateway.actors.interception.interface import Interception, Outcome
from aigateway.actors.interception.outcomes import message_of
from aigateway.actors.interception.routes import MESSAGES
from aigateway.actors.providers.bedrock.eventstream import FrameReader, sse_event
from aigateway.actors.values.records import UsageRecord

__all__ = ["FRAMES", "BedrockInterception"]

FRAMES = "application/vnd.amazon.eventstream"
"""The content type of a stream of frames."""

_ERROR_LIMIT = 1024 * 1024
"""Bytes of an error answer that are read; of a longer one the rest is dropped."""

_ABOUT_THE_BODY = frozenset({"content-type", "content-length", "content-encoding"})


class BedrockInterception:
    """Wraps the interception of a Messages request whose answer comes from Bedrock."""

    def __init__(self, inner: Interception, model: str) -> None:
        """``model`` is the one that is asked for, and recorded, instead of the client's."""
        self._inner = inner
        self.id = inner.id
        self.model = model
        self.streaming = inner.streaming
        self.correlating_tool_call_id = inner.correlating_tool_call_id
        self.refusal = inner.refusal
        self.event_stream = False
        self._status = 0
        self._frames: FrameReader | None = None
        self._error: bytearray | None = None
        self._decoder: Decoder | None = None
        self._event = sse_event
        """Puts a frame into the form that is read."""

    def upstream_body(self) -> bytes:
        """The client's body; the sender rewrites it for the model."""
        return self._inner.upstream_body()

    # -- the head

    def begin_answer(self, status: int, headers: Headers) -> None:
        """The head of the upstream's answer has arrived."""
        self._status = status
        if status >= 300:
            self._error = bytearray()
        elif _content_type(headers) == FRAMES:
            self._frames = FrameReader()
        if self._converts:
            try:
                self._decoder = decoder_for(joined(headers, "content-encoding"))
            except DecodingError:
                self._decoder = None
        self._inner.begin_answer(status, self._shown_headers(headers))
        self.event_stream = self._inner.event_stream
        self.refusal = self._inner.refusal

    @property
    def _converts(self) -> bool:
        return self._frames is not None or self._error is not None

    def _shown_headers(self, headers: Headers) -> Headers:
        """The headers that fit what is read."""
        return self.answer_headers(headers)

    def answer_headers(self, headers: Headers) -> Headers:
        """The headers that fit what the client gets; call after :meth:`begin_answer`."""
        if not self._converts:
            return headers
        kind = "text/event-stream" if self._frames is not None else "application/json"
        kept = [(name, value) for name, value in headers if name.lower() not in _ABOUT_THE_BODY]
        return [("Content-Type", kind), *kept]

    # -- the body

    def receive_data(self, data: bytes, now: float) -> bytes:
        """Take what arrived; return what goes to the client now."""
        if not self._converts:
            return self._inner.receive_data(data, now)
        if self._inner.cut:
            return b""
        if self._decoder is not None:
            try:
                data = self._decoder.feed(data)
            except DecodingError as ex:
                return self._damaged(f"its content coding is broken: {ex}", now)
        if self._error is not None:
            self._error += data[: _ERROR_LIMIT - len(self._error)]
            return b""
        assert self._frames is not None
        out = b"".join(map(self._event, self._frames.feed(data)))
        relayed = self._inner.receive_data(out, now) if out else b""
        if self._frames.damage:
            relayed += self._damaged(self._frames.damage, now)
        return relayed

    def _damaged(self, reason: str, now: float) -> bytes:
        """End the answer: nothing that follows can be read."""
        return self._inner.receive_cut(f"the provider's answer is damaged: {reason}", now)

    def receive_end(self, now: float, *, framed: bool = True) -> bytes:
        """The upstream's body has ended; return the last bytes for the client."""
        out = self._whole_error(now)
        if self._frames is not None and self._frames.pending:
            framed = False
        return out + self._inner.receive_end(now, framed=framed)

    def _whole_error(self, now: float) -> bytes:
        if self._error is None:
            return b""
        return self._inner.receive_data(_anthropic_error(self._status, self._error), now)

    def receive_cut(self, reason: str, now: float, *, error_type: str = "server_error") -> bytes:
        """The upstream broke off; return an error event when a stream had begun."""
        out = self._whole_error(now)
        return out + self._inner.receive_cut(reason, now, error_type=error_type)

    def receive_lost_client(self, now: float) -> None:
        """The client has gone and the upstream will not be read to its end."""
        self._whole_error(now)
        self._inner.receive_lost_client(now)

    # -- what is known of it

    @property
    def cut(self) -> bool:
        """Never show the client a clean end."""
        return self._inner.cut

    @property
    def complete(self) -> bool:
        """The API's own last event, or a whole blocking body, has been seen."""
        return self._inner.complete

    @property
    def keepalives(self) -> bool | None:
        """Whether a silent stream's client is to be kept waiting."""
        return self._inner.keepalives

    @keepalives.setter
    def keepalives(self, wanted: bool | None) -> None:
        self._inner.keepalives = wanted

    def keepalive(self) -> bytes:
        """Bytes that keep a silent stream's client waiting, or nothing."""
        return self._inner.keepalive()

    def take_records(self) -> list[UsageRecord]:
        """Records that have become known since the last call."""
        return self._inner.take_records()

    def outcome(self) -> Outcome:
        """How it ended; meaningful after the last receive call."""
        return self._inner.outcome()

    def error_body(self, status: int, message: str) -> bytes:
        """A blocking error answer (application/json) in the API's own shape."""
        return self._inner.error_body(status, message)


def _content_type(headers: Headers) -> str:
    return joined(headers, "content-type").partition(";")[0].strip().lower()


def _anthropic_error(status: int, body: bytearray) -> bytes:
    """An error answer of AWS (``{"message": …}``) in Anthropic's shape."""
    fields = members(body)
    if "error" in fields:
        return bytes(body)
    said = text(fields.get("message")) or text(fields.get("Message"))
    return error_body(MESSAGES, status, said or message_of(status, body))
