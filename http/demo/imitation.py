"""A provider that imitates Anthropic's, OpenAI's and Google's APIs, without a network and a model.

:func:`answer` is a pure function: the same request has the same answer, to the byte.  What
it says is derived from the prompt, what it counts are words.  It behaves as asked for:

- tools: a prompt that names an offered tool, or says "use a tool", gets a call ("twice": two);
- thinking: a request that enables it gets a thought first;
- ``… 300 words …`` in a prompt gets an answer of that length;
- ``fail with 529`` gets that status in the API's error shape, ``fail midway`` an error event in
  the stream, ``break off`` a stream that ends in the middle of an event.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping
from typing import Any

from attrs import evolve, field, frozen

from aigateway.http.demo import _chat, _gemini, _messages, _responses
from aigateway.http.demo._question import (
    BadQuestion,
    ReadRequest,
    read_chat,
    read_gemini,
    read_messages,
    read_object,
    read_responses,
)
from aigateway.http.demo._reply import CREATED, identifier, reply_to
from aigateway.http.demo._sse import compact

__all__ = ["MODELS", "Imitated", "HeardRequest", "answer"]

MODELS = {
    "anthropic": ("claude-imitation-large", "claude-imitation-small"),
    "openai": ("gpt-imitation-large", "gpt-imitation-small"),
    "gemini": ("gemini-imitation-large", "gemini-imitation-small"),
}
"""What the model lists name; requests may name any model."""

_FAIL_WITH = re.compile(r"\bfail with (4\d\d|5\d\d)\b", re.IGNORECASE)
_FAIL_MIDWAY = re.compile(r"\bfail midway\b", re.IGNORECASE)
_BREAK_OFF = re.compile(r"\bbreak off\b", re.IGNORECASE)
_MAY_RETRY = (429, 503, 529)

Headers = tuple[tuple[str, str], ...]


@frozen
class HeardRequest:
    """A request without its transport; header names are lower case."""

    method: str
    path: str
    """Without the query."""
    headers: Mapping[str, str] = field(repr=False)
    body: bytes = field(default=b"", repr=False)
    query: str = ""

    @property
    def speaks_google(self) -> bool:
        """Google's paths have a version of their own, or the one of all."""
        return self.path.startswith("/v1beta/") or "x-goog-api-key" in self.headers

    @property
    def speaks_anthropic(self) -> bool:
        """The model lists of both APIs have the same path; the headers differ."""
        return "anthropic-version" in self.headers or "x-api-key" in self.headers

    @property
    def key(self) -> str:
        """The API key, or nothing."""
        scheme, _, token = self.headers.get("authorization", "").partition(" ")
        own = self.headers.get("x-api-key") or self.headers.get("x-goog-api-key")
        return own or (token if scheme.lower() == "bearer" else "")


@frozen
class Imitated:
    """What to send back: ``body`` whole, or ``events`` one by one."""

    status: int
    headers: Headers
    body: bytes = b""
    events: tuple[bytes, ...] | None = None
    breaks_off: bool = False
    """After the last event the connection breaks."""


def answer(request: HeardRequest, keys: Collection[str] | None = None) -> Imitated:
    """Answer a request; ``keys`` are the API keys that are known (None: any key is)."""
    read = _ROUTES.get(request.path)
    if not request.key or (keys is not None and request.key not in keys):
        return _error(request, 401, "this API key is not known to the imitation provider")
    if request.speaks_google:
        return _answer_google(request)
    if request.path == "/v1/models" or request.path.startswith("/v1/models/"):
        return _models(request)
    if read is None:
        return _error(request, 404, f"the imitation provider has no {request.path}")
    if request.method != "POST":
        return _error(request, 405, f"{request.path} takes POST, not {request.method}")
    try:
        return read(request)
    except BadQuestion as ex:
        return _error(request, 400, str(ex), param=ex.param)


def _json(status: int, value: object, headers: Headers = ()) -> Imitated:
    return Imitated(status, (("Content-Type", "application/json"), *headers), compact(value))


def _error(request: HeardRequest, status: int, message: str, param: str | None = None) -> Imitated:
    name = identifier(request.path, message)
    if request.speaks_google:
        told = _gemini.error(status, message)
        return _json(status, [told] if _wants_array(request) else told)
    retry = (("Retry-After", "1"),) if status in _MAY_RETRY else ()
    messages = request.path.startswith("/v1/messages")
    shape = _messages.error if messages or request.speaks_anthropic else _chat.error
    return _json(status, shape(status, message, name, param), (*_ids(request, name), *retry))


def _ids(request: HeardRequest, name: str) -> Headers:
    if request.path.startswith("/v1/messages"):
        return (("request-id", f"req_{name}"),)
    return (("x-request-id", f"req_{name}"), ("openai-version", "2020-10-01"))


def _models(request: HeardRequest) -> Imitated:
    family = "anthropic" if request.speaks_anthropic else "openai"
    entry = _anthropic_model if request.speaks_anthropic else _openai_model
    entries = [entry(name) for name in MODELS[family]]
    if request.path != "/v1/models":
        name = request.path.removeprefix("/v1/models/")
        if name not in MODELS[family]:
            return _error(request, 404, f"there is no model {name!r}")
        return _json(200, entry(name))
    if not request.speaks_anthropic:
        return _json(200, {"object": "list", "data": entries})
    ends = {"first_id": entries[0]["id"], "last_id": entries[-1]["id"]}
    return _json(200, {"data": entries, "has_more": False, **ends})


def _anthropic_model(name: str) -> dict[str, Any]:
    title = name.replace("-", " ").title()
    made = "2025-06-15T15:06:40Z"
    return {"type": "model", "id": name, "display_name": title, "created_at": made}


def _openai_model(name: str) -> dict[str, Any]:
    return {"id": name, "object": "model", "created": CREATED, "owned_by": "imitation"}


def _count(request: HeardRequest) -> Imitated:
    question = read_messages(request.body, needs_limit=False)
    return _json(200, {"input_tokens": question.input_tokens})


def _planned_failure(request: HeardRequest, question: ReadRequest) -> Imitated | None:
    if found := _FAIL_WITH.search(question.prompt):
        return _error(request, int(found[1]), f"the imitation fails with {found[1]}, as asked")
    if not question.stream and _FAIL_MIDWAY.search(question.prompt):
        return _error(request, 500, "the imitation fails, as asked")
    return None


def _streamed(
    request: HeardRequest,
    question: ReadRequest,
    events: tuple[bytes, ...],
    failure: Callable[[int], bytes],
) -> Imitated:
    headers = (
        ("Content-Type", "text/event-stream; charset=utf-8"),
        ("Cache-Control", "no-cache"),
        *_ids(request, identifier(question.api, question.prompt)),
    )
    middle = max(len(events) // 2, 1)
    if _FAIL_MIDWAY.search(question.prompt):
        return Imitated(200, headers, events=(*events[:middle], failure(middle)))
    if _BREAK_OFF.search(question.prompt):
        piece = events[middle][: len(events[middle]) // 2]
        return Imitated(200, headers, events=(*events[:middle], piece), breaks_off=True)
    return Imitated(200, headers, events=events)


def _answer_messages(request: HeardRequest) -> Imitated:
    question = read_messages(request.body)
    if failure := _planned_failure(request, question):
        return failure
    reply = reply_to(question)
    if not question.stream:
        return _json(200, _messages.blocking(question, reply), _ids(request, reply.id))
    events = tuple(_messages.events(question, reply))
    return _streamed(request, question, events, lambda _place: _messages.failure_event(reply))


def _answer_chat(request: HeardRequest) -> Imitated:
    question = read_chat(request.body)
    if failure := _planned_failure(request, question):
        return failure
    replies = [reply_to(question, choice) for choice in range(question.choices)]
    if not question.stream:
        return _json(200, _chat.blocking(question, replies), _ids(request, replies[0].id))
    events = tuple(_chat.events(question, replies))
    return _streamed(request, question, events, lambda _place: _chat.failure_event(replies[0]))


def _answer_responses(request: HeardRequest) -> Imitated:
    question = read_responses(request.body)
    if failure := _planned_failure(request, question):
        return failure
    reply = reply_to(question)
    if not question.stream:
        return _json(200, _responses.blocking(question, reply), _ids(request, reply.id))
    events = tuple(_responses.events(question, reply))
    return _streamed(
        request, question, events, lambda place: _responses.failure_event(reply, place)
    )


_GOOGLE = re.compile(r"/v1(?:beta)?/(models|cachedContents)(?:/([^/:]+))?(?::([A-Za-z]+))?")


def _wants_array(request: HeardRequest) -> bool:
    """Who does not ask for events gets a stream as one array, of errors too."""
    return request.path.endswith(":streamGenerateContent") and "alt=sse" not in request.query


def _answer_google(request: HeardRequest) -> Imitated:
    found = _GOOGLE.fullmatch(request.path)
    kind, name, method = found.groups() if found else ("", "", "")
    asked = (request.method, kind, bool(name), method)
    try:
        match asked:
            case ("GET", "models", False, None):
                return _json(200, {"models": [_gemini.model(each) for each in MODELS["gemini"]]})
            case ("GET", "models", True, None) if name in MODELS["gemini"]:
                return _json(200, _gemini.model(name))
            case ("POST", "models", True, "countTokens"):
                question = read_gemini(request.body, name, stream=False)
                return _json(200, {"totalTokens": question.input_tokens})
            case ("POST", "models", True, "generateContent" | "streamGenerateContent"):
                return _generate(request, name, stream=method == "streamGenerateContent")
            case ("POST", "cachedContents", False, None):
                return _json(
                    200, _gemini.cached(identifier(request.body), read_object(request.body))
                )
            case ("GET" | "PATCH", "cachedContents", True, None):
                return _json(200, _gemini.cached(name, {}))
            case ("DELETE", "cachedContents", True, None):
                return _json(200, {})
    except BadQuestion as ex:
        return _error(request, 400, str(ex))
    return _error(request, 404, f"the imitation provider has no {request.path}")


def _generate(request: HeardRequest, model: str, *, stream: bool) -> Imitated:
    question = read_gemini(request.body, model, stream=stream)
    if failure := _planned_failure(request, question):
        return failure
    reply = reply_to(question)
    if not stream:
        return _json(200, _gemini.blocking(question, reply))
    array = _wants_array(request)
    events = tuple(_gemini.events(question, reply, array=array))
    answer = _streamed(request, question, events, lambda _place: _gemini.failure_event(array=array))
    kind = "application/json; charset=UTF-8" if array else "text/event-stream"
    return evolve(answer, headers=(("Content-Type", kind),))


_ROUTES: Mapping[str, Callable[[HeardRequest], Imitated]] = {
    "/v1/messages": _answer_messages,
    "/v1/messages/count_tokens": _count,
    "/v1/chat/completions": _answer_chat,
    "/v1/responses": _answer_responses,
}
