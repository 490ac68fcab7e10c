"""From a client's request to the interception that carries it, with injected tools or without."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from functools import partial
from typing import Final, TypeAlias

from attrs import evolve

from aigateway.actors.codec.decoding import (
    DecodingError,
    TooLarge,
    TooManyLayers,
    decode,
)
from aigateway.actors.codec.headers import Headers
from aigateway.actors.codec.multipart import NotMultipart
from aigateway.actors.codec.reading import NotJson
from aigateway.actors.interception._record_maker import ClientRequest
from aigateway.actors.interception.anthropic_messages import (
    MessagesInterception,
    read_messages_request,
)
from aigateway.actors.interception.chat import ChatInterception, read_chat_request
from aigateway.actors.interception.converse import ConverseInterception, read_converse_request
from aigateway.actors.interception.error_bodies import error_body
from aigateway.actors.interception.gemini import GeminiInterception, read_gemini_request
from aigateway.actors.interception.injected import InjectedInterception
from aigateway.actors.interception.injected_chat import InjectedChat
from aigateway.actors.interception.injected_messages import InjectedMessages
from aigateway.actors.interception.injected_responses import InjectedResponses
from aigateway.actors.interception.injection import Encodings, inject
from aigateway.actors.interception.interface import Interception, InvalidRequest
from aigateway.actors.interception.model_calls import (
    GeminiEmbeddingInterception,
    ModelCallInterception,
    ModerationInterception,
    read_model_call,
)
from aigateway.actors.interception.relay import Relay
from aigateway.actors.interception.responses import (
    CompactionInterception,
    ResponsesInterception,
    read_compaction_request,
    read_responses_request,
)
from aigateway.actors.interception.routes import (
    CHAT_COMPLETIONS,
    COMPACTION,
    CONVERSE,
    GEMINI,
    GEMINI_EMBEDDING,
    MESSAGES,
    MODEL_CALL,
    MODERATION,
    RESPONSES,
)
from aigateway.actors.values.tools import ToolSet

__all__ = ["INJECTABLE", "decoded", "open_interception", "with_tools"]

_WITH_TOOLS: dict[str, type[InjectedInterception]] = {
    each.api: each for each in (InjectedMessages, InjectedChat, InjectedResponses)
}
INJECTABLE = frozenset(_WITH_TOOLS)
"""The APIs into which tools are injected."""


def open_interception(
    api: str,
    *,
    id: str,
    body: bytes,
    content_encoding: str = "",
    headers: Headers = (),
    ask_usage: bool = True,
    model: str = "",
    streaming: bool = False,
) -> Relay:
    """Open the interception of one request to ``api``.

    An encoded body is read decoded and sent as it came.  ``headers`` are the client's: some
    programs say there who speaks.  ``ask_usage`` is false for a provider that refuses requests
    for a completion's usage.  ``model`` and ``streaming`` are what the path says, where the API
    has that there.  Raises :class:`InvalidRequest` for a body that is empty, neither JSON nor,
    where one may come, a form, does not decode (415 for more than two codings), or unpacks to
    more than 64 MiB or to far more than it is (413).
    """
    readable = decoded(api, body, content_encoding)
    try:
        if api == GEMINI:
            return GeminiInterception(
                *read_gemini_request(id, readable, body, headers, model=model, streaming=streaming)
            )
        made: _Maker
        if api == CHAT_COMPLETIONS:
            request, withholds, choices = read_chat_request(
                id, readable, body, content_encoding, headers, ask_usage=ask_usage
            )
            made = partial(ChatInterception, withholds=withholds, choices=choices)
        elif api in _OF_BODIES:
            read, made = _OF_BODIES[api]
            request = read(id, readable, body, headers)
        else:
            raise ValueError(f"unknown API {api!r}")
        if model:
            # Only where the path names the model it may say that a stream is asked for, too.
            request = evolve(request, model=model, streaming=streaming or request.streaming)
        return made(request)
    except NotJson as ex:
        wrong = "not valid JSON" if readable.strip() else "empty"
        raise _invalid(api, f"request body is {wrong}") from ex
    except NotMultipart as ex:
        raise _invalid(api, f"request body is not a valid form: {ex}") from ex


_Maker: TypeAlias = Callable[[ClientRequest], Relay]

_OF_BODIES: Final[
    Mapping[str, tuple[Callable[[str, bytes, bytes, Headers], ClientRequest], _Maker]]
] = {
    MESSAGES: (read_messages_request, MessagesInterception),
    RESPONSES: (read_responses_request, ResponsesInterception),
    COMPACTION: (read_compaction_request, CompactionInterception),
    CONVERSE: (read_converse_request, ConverseInterception),
    MODEL_CALL: (read_model_call, ModelCallInterception),
    MODERATION: (read_model_call, ModerationInterception),
    GEMINI_EMBEDDING: (read_model_call, GeminiEmbeddingInterception),
}


def with_tools(
    interception: Interception,
    tool_set: ToolSet,
    encodings: Encodings,
    *,
    content_encoding: str = "",
    max_rounds: int,
    without: Collection[str] = (),
) -> Interception:
    """The interception with these tools offered but those named in ``without``; the same one
    when there are none to offer."""
    if not isinstance(interception, Relay) or interception.refusal is not None:
        return interception
    kind = _WITH_TOOLS.get(interception.api)
    if kind is None:
        return interception
    body = interception.upstream_body()
    if content_encoding:
        body = decode(body, content_encoding)
    injected = inject(interception.api, body, tool_set, encodings, without)
    if injected is None:
        return interception
    return kind(interception, injected, content_encoding, max_rounds)


def decoded(dialect: str, body: bytes, content_encoding: str) -> bytes:
    """A request's body without its content coding.

    Raises :class:`InvalidRequest`, in the shape of ``dialect``, as :func:`open_interception`
    does.
    """
    if not content_encoding:
        return body
    try:
        return decode(body, content_encoding)
    except DecodingError as ex:
        raise _undecoded(dialect, content_encoding, ex) from ex


def _undecoded(api: str, content_encoding: str, error: DecodingError) -> InvalidRequest:
    match error:
        case TooManyLayers():
            return _invalid(api, f"request body is not decoded: {error}", 415)
        case TooLarge():
            status = 413
        case _:
            status = 400
    return _invalid(api, f"request body does not decode as {content_encoding}: {error}", status)


def _invalid(api: str, message: str, status: int = 400) -> InvalidRequest:
    return InvalidRequest(message, error_body(api, status, message), status)
