"""Which paths below ``/<provider>`` are served, and where they lead.

A provider's routes are an allow list: a configured key may be an administrator's, so what
no client of a model needs is not passed on.  Copilot alone has none, since users bring their
own.  Three answers are possible: the request is intercepted (read, recorded, perhaps edited),
passed through as it is, or unknown.

Paths are compared **as they came on the wire**, percent-encoded.  A path that a later hop
could read differently (dot segments, empty segments, encoded slashes, dots, backslashes or
percent signs) is unknown here, whatever it would resolve to.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import lru_cache
from typing import Literal, TypeAlias
from urllib.parse import unquote, urlsplit

from attrs import frozen

from aigateway.actors.interception.azure_paths import (
    AZURE,
    AZURE_ROOT,
    azure_path,
    azure_url,
)
from aigateway.actors.interception.bedrock_paths import COUNT, invoked
from aigateway.actors.interception.gemini_paths import as_looked_at, model_path
from aigateway.actors.interception.vertex_paths import COUNTING, vertex_path
from aigateway.actors.values.provider_config import ANTHROPIC_TYPES, OPENAI_TYPES

__all__ = [
    "BEDROCK",
    "CHAT_COMPLETIONS",
    "COMPACTION",
    "CONVERSE",
    "GEMINI",
    "GEMINI_EMBEDDING",
    "MESSAGES",
    "MODEL_CALL",
    "MODERATION",
    "RESPONSES",
    "REST",
    "VERTEX",
    "Api",
    "Intercept",
    "InvalidBaseURL",
    "Passthrough",
    "resolve",
    "speaks_bedrock",
    "speaks_vertex",
    "upstream_url",
]

BEDROCK = "bedrock"
VERTEX = "vertex"
"""Provider types."""
REST = "/"
"""The route of a :class:`Passthrough` that no entry of its table names."""

Api: TypeAlias = Literal[
    "messages",
    "chat-completions",
    "responses",
    "compaction",
    "gemini",
    "gemini-embedding",
    "model-call",
    "moderation",
    "converse",
]

MESSAGES: Api = "messages"
CHAT_COMPLETIONS: Api = "chat-completions"
RESPONSES: Api = "responses"
COMPACTION: Api = "compaction"
"""Making a conversation of the Responses API shorter: a call of a model too."""
GEMINI: Api = "gemini"
"""Also the name of the provider type that speaks it."""
GEMINI_EMBEDDING: Api = "gemini-embedding"
MODEL_CALL: Api = "model-call"
"""A call of a model that is not a conversation: for embeddings, images, sound, ranks."""
MODERATION: Api = "moderation"
"""One that costs nothing."""
CONVERSE: Api = "converse"
"""AWS's API for the models of all makers."""


class InvalidBaseURL(ValueError):
    """A provider's base URL is not an absolute http(s) URL."""


@frozen
class Intercept:
    """The request is read and recorded as a call of ``api``."""

    api: Api
    route: str
    """The path below the provider's name, without the name of a model; labels metrics and keys
    the circuit breaker."""
    model: str = ""
    """The model, where the API has it in the path."""
    streaming: bool = False
    """Whether a stream is asked for, where the path says that."""
    bedrock: bool = False
    """Whether the path is one of Bedrock's own."""


@frozen
class Passthrough:
    """The request is relayed without being read."""

    route: str
    """The table's entry that matched, without the provider's route prefix; an entry that ends
    in ``/`` stands for its subtree, so this is safe as a metric label."""


@frozen
class _Table:
    """Routes of one kind of provider, all below ``prefix``."""

    prefix: str
    intercepted: Mapping[str, Api]
    exact: frozenset[str]
    subtrees: tuple[str, ...]
    rest: bool = False
    """Whether everything else is passed through."""


_ANTHROPIC = _Table(
    prefix="",
    intercepted={"/v1/messages": MESSAGES},
    exact=frozenset(
        {"/v1/models", "/v1/messages/count_tokens", "/v1/messages/batches", "/v1/files"}
    ),
    subtrees=("/v1/models/", "/v1/messages/batches/", "/v1/files/", "/api/event_logging/"),
)
_MODEL_CALLS: Mapping[str, Api] = {
    "/audio/speech": MODEL_CALL,
    "/audio/transcriptions": MODEL_CALL,
    "/audio/translations": MODEL_CALL,
    "/embeddings": MODEL_CALL,
    "/images/edits": MODEL_CALL,
    "/images/generations": MODEL_CALL,
    "/images/variations": MODEL_CALL,
    "/moderations": MODERATION,
    "/rerank": MODEL_CALL,
}
_OPENAI = _Table(
    prefix="/v1",
    intercepted={
        **_MODEL_CALLS,
        "/chat/completions": CHAT_COMPLETIONS,
        "/responses": RESPONSES,
        "/responses/compact": COMPACTION,
    },
    exact=frozenset({"/conversations", "/models", "/batches", "/files"}),
    subtrees=("/conversations/", "/models/", "/responses/", "/batches/", "/files/"),
)
_COPILOT = _Table(
    prefix="",
    intercepted={
        "/chat/completions": CHAT_COMPLETIONS,
        "/embeddings": MODEL_CALL,
        "/responses": RESPONSES,
        "/responses/compact": COMPACTION,
        "/v1/messages": MESSAGES,
    },
    exact=frozenset({"/models", "/_ping", "/auto"}),
    subtrees=("/models/", "/agents/", "/mcp/", "/.well-known/"),
    # Each user's own credential goes upstream, so there is nothing to protect from them.
    rest=True,
)
_TABLES: Mapping[str, _Table] = {
    **dict.fromkeys(ANTHROPIC_TYPES, _ANTHROPIC),
    **dict.fromkeys(OPENAI_TYPES, _OPENAI),
    "copilot": _COPILOT,
}

_GENERATING = {"generateContent": False, "streamGenerateContent": True}
"""Gemini's methods by which a model answers, and whether that is a stream."""
_EMBEDDING = frozenset({"embedContent", "batchEmbedContents"})
_GEMINI_MODELS = frozenset({"/v1/models", "/v1alpha/models", "/v1beta/models"})
_GEMINI_CACHES = re.compile(r"/(?:v1|v1alpha|v1beta)/cachedContents(/[A-Za-z0-9._~-]+)?")

# CONNECT is not a path, and TRACE and TRACK make an upstream echo the request, key included.
_REFUSED_METHODS = frozenset({"CONNECT", "TRACE", "TRACK"})

# RFC 3986, section 3.3: the characters of a path, and of one percent-encoded byte.
_PATH = re.compile(r"/(?:[A-Za-z0-9._~!$&'()*+,;=:@/-]|%[0-9A-Fa-f]{2})*", re.ASCII)
# Slash, backslash, dot, percent and the control characters: each changes what a path means
# once it is decoded, or decoded twice.
_TREACHEROUS = re.compile(r"%(?:2[ef5]|5c|7f|[01][0-9a-f])", re.ASCII | re.IGNORECASE)
_UNSAFE_IN_QUERY = re.compile(r"[\x00-\x20\x7f#]")
_KEPT = 512
"""Of how many paths it is remembered what they lead to, and with their queries where that is.
Servers take no more than 8 KiB for both."""
_UNSAFE_IN_BASE = re.compile(r"[\x00-\x20\x7f]")


def speaks_bedrock(path: str) -> bool:
    """Whether a path below a provider's name, or a route, is one of Bedrock's own."""
    return path.startswith("/model/")


def speaks_vertex(path: str) -> bool:
    """Whether a path below a provider's name, or a route, is one of Vertex's own."""
    return path.startswith("/v1/projects/")


# PERF: nearly all requests have one of a few paths.
@lru_cache(maxsize=_KEPT)
def resolve(provider_type: str, method: str, rest: str) -> Intercept | Passthrough | None:
    """Say what happens to a request for ``/<provider><rest>``; ``None`` means 404.

    ``rest`` is the percent-encoded path below the provider's name, beginning with ``/`` and
    without the query.  Any method is accepted except those that are refused for every path
    (CONNECT, TRACE, TRACK).
    """
    if provider_type == GEMINI and _is_plain(rest):
        return _resolve_gemini(method.upper(), rest)
    if provider_type == AZURE and rest.startswith(AZURE_ROOT) and _is_plain(rest):
        return _resolve_azure(method, rest)
    if provider_type == BEDROCK and speaks_bedrock(rest):
        return _resolve_bedrock(method.upper(), rest)
    if provider_type == VERTEX and speaks_vertex(rest):
        return _resolve_vertex(method.upper(), rest)
    table = _TABLES.get(provider_type)
    if table is None or method.upper() in _REFUSED_METHODS or not _is_plain(rest):
        return None
    if not rest.startswith(table.prefix + "/"):
        return None
    path = rest.removeprefix(table.prefix)
    api = table.intercepted.get(path)
    if api is not None:
        return Intercept(api, rest)
    if path in table.exact:
        return Passthrough(path)
    if _as_servers_read(path) in table.intercepted:
        # Many servers take `/responses/` for `/responses`: passing it on would be a way round
        # the records.
        return None
    for subtree in table.subtrees:
        root = subtree.removesuffix("/")
        if path == root or path.startswith(subtree):
            return Passthrough(subtree)
    return Passthrough(REST) if table.rest else None


def _resolve_gemini(method: str, rest: str) -> Intercept | Passthrough | None:
    """The same for Google's own API, where the method counts, and what is asked of a model
    stands behind its name.

    A list of all that is cached would be one of what everybody has cached.
    """
    path = model_path(rest)
    if path is not None and path.method in _GENERATING and method == "POST":
        route = f"/{path.version}/models/*:{path.method}"
        return Intercept(GEMINI, route, path.model, _GENERATING[path.method])
    if path is not None and path.method in _EMBEDDING and method == "POST":
        return Intercept(GEMINI_EMBEDDING, f"/{path.version}/models/*:{path.method}", path.model)
    if path is not None:
        asked = (method, path.method)
        if asked == ("POST", "countTokens"):
            return Passthrough("/models/*:countTokens")
        return Passthrough("/models/") if asked == ("GET", "") else None
    if method == "GET" and rest in _GEMINI_MODELS:
        return Passthrough("/models")
    cached = _GEMINI_CACHES.fullmatch(rest)
    if cached is None:
        return None
    if cached[1]:
        return Passthrough("/cachedContents/") if method in ("GET", "PATCH", "DELETE") else None
    return Passthrough("/cachedContents") if method == "POST" else None


def _resolve_vertex(method: str, rest: str) -> Intercept | Passthrough | None:
    """The same for Vertex's own paths."""
    path = vertex_path(rest)
    if path is None or method != "POST":
        return None
    if path.model == COUNTING:
        return None if path.streaming else Passthrough(path.route)
    return Intercept(MESSAGES, path.route, path.model, path.streaming)


def _resolve_bedrock(method: str, rest: str) -> Intercept | Passthrough | None:
    """The same for Bedrock's own API."""
    path = invoked(rest)
    if path is None or method != "POST":
        return None
    if path.call == COUNT:
        return Passthrough(path.route)
    api = CONVERSE if path.converses else MESSAGES
    return Intercept(api, path.route, path.model, path.streaming, bedrock=True)


def _resolve_azure(method: str, rest: str) -> Intercept | Passthrough | None:
    """The same for a path of Azure's own: it leads where OpenAI's path of that call does."""
    path = azure_path(rest)
    found = resolve(AZURE, method, path.rest) if path is not None else None
    if path is None or not isinstance(found, Intercept):
        # Of a deployment there is nothing but calls.
        return None if path is not None and path.deployment else found
    return Intercept(found.api, path.route, path.deployment)


def _as_servers_read(path: str) -> str:
    """The path without what some servers do not look at."""
    segments = [segment.partition(";")[0] for segment in unquote(path).split("/")]
    return "/".join(segments).rstrip("/").lower()


# PERF: each request asks for its address twice; they are few, and 1.4 us each.
@lru_cache(maxsize=_KEPT)
def upstream_url(provider_type: str, base_url: str, rest: str, query: str = "") -> str:
    """Join a provider's base URL with the path below the provider's name.

    The route prefix (``/v1`` for OpenAI's class) is dropped from ``rest``: the base URL of
    such a provider contains it.  ``query`` (without ``?``) is kept as it is, but for what Google
    would take for instructions, after the base URL's own query if that has one.  Raises
    :class:`InvalidBaseURL`, and ``ValueError`` for a path or query that cannot stand in a request
    line.
    """
    if not _PATH.fullmatch(rest) or _UNSAFE_IN_QUERY.search(query):
        raise ValueError("the request path or query contains characters that no URL may have")
    if query and provider_type == GEMINI:
        query = as_looked_at(query)
    front, own_query = _parts_of_base(base_url)
    if provider_type == AZURE:
        if "api-version=" in query:
            own_query = ""
        return _with_query(azure_url(front, rest), own_query, query)
    table = _TABLES.get(provider_type, _ANTHROPIC)
    path = rest
    if rest.startswith(table.prefix + "/"):
        path = rest.removeprefix(table.prefix)
    return _with_query(f"{front}{path}", own_query, query)


def _with_query(address: str, *queries: str) -> str:
    query = "&".join(filter(None, queries))
    return f"{address}?{query}" if query else address


@lru_cache(maxsize=256)
def _parts_of_base(base_url: str) -> tuple[str, str]:
    """What stands before a path, and the query.  Raises InvalidBaseURL."""
    try:
        base = urlsplit(base_url)
        port = base.port
    except ValueError as ex:
        raise InvalidBaseURL("invalid provider base URL") from ex
    if (
        base.scheme not in ("http", "https")
        or not base.hostname
        or port == 0
        or _UNSAFE_IN_BASE.search(base_url)
    ):
        raise InvalidBaseURL("invalid provider base URL")
    return f"{base.scheme}://{base.netloc}{base.path.rstrip('/')}", base.query


def _is_plain(path: str) -> bool:
    """Whether every hop reads this path the same way."""
    if not _PATH.fullmatch(path) or "//" in path or _TREACHEROUS.search(path):
        return False
    # Some servers drop `;parameters` before they look for dot segments.
    return all(segment.partition(";")[0] not in (".", "..") for segment in path.split("/"))
