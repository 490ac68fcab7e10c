"""What a request's headers say, and which headers go on, in both directions.

Headers are sequences of name and value in the order in which they came; names are compared
without regard to case, and repeated headers stay repeated.

A client proves who it is with a **Coder token**.  It calls the provider either with the
gateway's key (centralised) or with its own ("bring your own key", BYOK): then the Coder
token travels in a header of its own and the usual credential headers hold the client's key.

Programs are told apart by the beginning of their ``User-Agent`` or by a header of their own.
Most name their session in a header; older Claude Code versions hide it in the request body.

Towards the provider the client's headers are kept but for those that belong to one hop
(RFC 9110, section 7.6.1), to the transport, to the client's credentials and accounts, to
proxies in between and to this gateway.  Towards the client everything is relayed but the
hop-by-hop headers, and what tells of the account when the key was the gateway's.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable
from functools import lru_cache, partial
from typing import Any, Literal, NamedTuple, TypeAlias
from urllib.parse import unquote_plus

import msgspec
from attrs import field

from aigateway.actors.codec.headers import (
    HeaderList,
    Headers,
    first_of,
    has_any,
    holds,
    is_secret_name,
    same_name,
    values_of,
    without_secret_cookies,
)
from aigateway.actors.interception.azure_paths import AZURE
from aigateway.actors.interception.identity_names import names_user
from aigateway.actors.interception.routes import GEMINI, VERTEX
from aigateway.actors.values.frozen import frozen
from aigateway.actors.values.provider_config import ANTHROPIC_TYPES

__all__ = [
    "ACCOUNT_HEADERS",
    "ACTOR_PREFIX",
    "AGENT_FIREWALL_SEQUENCE",
    "AGENT_FIREWALL_SESSION",
    "BYOK",
    "BYOK_HEADER",
    "CENTRALIZED",
    "DEFAULT_USER_AGENT",
    "GOOGLE_KEY_HEADER",
    "GOVERNANCE_PREFIX",
    "HOP_BY_HOP",
    "OWN_PREFIX",
    "REQUEST_ID_HEADER",
    "UNKNOWN",
    "AgentFirewall",
    "BadAgentFirewall",
    "Program",
    "Credential",
    "Kind",
    "Presented",
    "UnsafeHeader",
    "agent_firewall",
    "byok_credential",
    "centralized",
    "extract",
    "for_client",
    "for_upstream",
    "identify",
    "mask",
    "with_query_key",
    "without_account",
]


Kind: TypeAlias = Literal["byok", "centralized"]

BYOK: Kind = "byok"
CENTRALIZED: Kind = "centralized"

BYOK_HEADER = "X-Coder-AI-Governance-Token"
"""Carries the Coder token when the client brings its own provider key."""

AZURE_KEY_HEADER = "Api-Key"
"""Carries the key of a client of Azure's."""

GOOGLE_KEY_HEADER = "X-Goog-Api-Key"
"""Carries the key of a client of Google's; some put it into the query, as ``key``."""

REQUEST_ID_HEADER = "X-Coder-AI-Governance-Request-Id"
"""The id that a proxy in front of the gateway gave the request, for logs."""


_KEY_HEADERS = frozenset(
    {"authorization", "x-api-key", GOOGLE_KEY_HEADER.lower(), AZURE_KEY_HEADER.lower()}
)
_OWN_HEADERS = frozenset({BYOK_HEADER.lower(), REQUEST_ID_HEADER.lower()})
_TOKEN_HEADERS = _OWN_HEADERS | _KEY_HEADERS


@frozen
class Presented:
    """The Coder token of a request, taken out of its headers."""

    token: str = field(repr=False)
    byok: bool
    remaining_headers: Headers = field(repr=False)
    """The request's headers without the token.  With BYOK they hold the client's own key."""
    request_id: str = ""
    """The value of :data:`REQUEST_ID_HEADER`, or nothing."""


@frozen
class Credential:
    """What the provider is called with, and what may be said about it."""

    headers: Headers = field(repr=False)
    """Headers to set on the upstream request."""
    kind: Kind
    secret: str = field(repr=False)
    hint: str
    """The masked secret, for records and logs."""


def extract(headers: Headers) -> Presented | None:
    """Take the Coder token out of a request's headers; ``None`` when there is none.

    The token is searched in :data:`BYOK_HEADER`, then ``Authorization: Bearer``, then
    ``X-Api-Key``, then ``X-Goog-Api-Key``, then ``Api-Key``.  In the first case the others stay,
    since they hold the client's own key.
    No header stays that holds the Coder token, whatever its name.
    """
    request_id = first_of(headers, REQUEST_ID_HEADER)
    removed = _OWN_HEADERS
    token = first_of(headers, BYOK_HEADER)
    byok = bool(token)
    if not byok:
        token = (
            _bearer(headers)
            or first_of(headers, "x-api-key")
            or first_of(headers, GOOGLE_KEY_HEADER)
            or first_of(headers, AZURE_KEY_HEADER)
        )
        removed = _TOKEN_HEADERS
    if not token:
        return None
    # PERF: to look first whether it is there at all takes 2 us less for each request.  No
    # HeaderList: they are asked for one name or two, and an index of all takes 2 us more.
    remaining = [
        (name, value)
        for name, value in headers
        if name.lower() not in removed and not (token in value and holds(value, token))
    ]
    return Presented(token, byok, tuple(remaining), request_id)


def with_query_key(headers: Headers, query: str) -> Headers:
    """The headers with the key that a client of Google's put into the query (``?key=``), unless
    there is one among them."""
    if not query or first_of(headers, GOOGLE_KEY_HEADER):
        return headers
    for part in query.split("&"):
        name, _, value = part.partition("=")
        if unquote_plus(name) == "key" and value:
            return HeaderList([*headers, (GOOGLE_KEY_HEADER, unquote_plus(value))])
    return headers


def byok_credential(provider_type: str, headers: Headers) -> Credential | None:
    """Read the client's own provider key; ``None`` when it brought none.

    Anthropic's types take ``X-Api-Key`` before ``Authorization: Bearer``, Gemini's
    ``X-Goog-Api-Key``, Azure's ``Api-Key``, all others only the latter.  ``headers`` are those
    that :func:`extract` left.
    """
    name = _key_header(provider_type)
    if name and (key := first_of(headers, name)):
        return Credential(((name, key),), BYOK, key, mask(key))
    token = _bearer(headers)
    if not token:
        return None
    return Credential((("Authorization", f"Bearer {token}"),), BYOK, token, mask(token))


# PERF: each request is told of with the credential of the provider's first key; 1 us less.
@lru_cache(maxsize=256)
def centralized(provider_type: str, key: str) -> Credential:
    """Make the credential for one of the gateway's own keys.

    Raises ``ValueError`` for Copilot, which is only ever called with the client's own token.
    """
    if provider_type == "copilot":
        raise ValueError("a copilot provider has no keys: clients bring their own token")
    name = _key_header(provider_type)
    if name and not (provider_type == AZURE and _is_entra_token(key)):
        return Credential(((name, key),), CENTRALIZED, key, mask(key))
    return Credential((("Authorization", f"Bearer {key}"),), CENTRALIZED, key, mask(key))


def _key_header(provider_type: str) -> str:
    """The header in which a provider of this type takes a key; empty: as a bearer's token only."""
    if provider_type in ANTHROPIC_TYPES and provider_type != VERTEX:
        return "X-Api-Key"
    if provider_type == AZURE:
        return AZURE_KEY_HEADER
    return GOOGLE_KEY_HEADER if provider_type == GEMINI else ""


def _is_entra_token(key: str) -> bool:
    """Whether it is a token of Entra ID (a JWT), which Azure takes as a bearer's only."""
    return key.startswith("eyJ") and key.count(".") == 2


def mask(secret: str) -> str:
    """Shorten a secret so that its owner recognises it and nobody else can use it."""
    length = len(secret)
    if length >= 20:
        shown = 4
    elif length >= 10:
        shown = 2
    elif length >= 5:
        shown = 1
    else:
        return "..." if secret else ""
    return f"{secret[:shown]}...{secret[-shown:]}"


def _bearer(headers: Headers) -> str:
    """The token of the first ``Authorization`` header of the form ``Bearer <token>``."""
    for value in values_of(headers, "authorization"):
        fields = value.split()
        if len(fields) == 2 and fields[0].lower() == "bearer":
            return fields[1]
    return ""


UNKNOWN = "Unknown"

BodyReader: TypeAlias = Callable[[], bytes]


@frozen
class Program:
    """The program that sent a request."""

    client: str
    """Its display name, or :data:`UNKNOWN`."""
    session_id: str | None = None
    """What the program calls the conversation, if it says."""


@frozen
class _Program:
    """How a program is recognised and where it names its session."""

    name: str
    user_agents: tuple[str, ...] = ()
    """Beginnings of its ``User-Agent``, in lower case."""
    originator: str = ""
    """Its exact ``originator`` header, if it sends one."""
    marker: str = ""
    """A header that only this program sends."""
    session_headers: tuple[str, ...] = ()
    """Headers that may name the session, the first that is not blank wins."""
    session_in_body: bool = False


# The first that matches wins.
_PROGRAMS = (
    # Mux renamed itself to Xum and kept its header.
    _Program("Xum", ("mux/", "xum/"), session_headers=("x-mux-workspace-id",)),
    _Program(
        "Claude Code",
        ("claude",),
        session_headers=("x-claude-code-session-id",),
        session_in_body=True,
    ),
    _Program("Codex", ("codex",), session_headers=("session-id", "session_id")),
    _Program("Gemini CLI", ("geminicli",)),
    _Program("Zed", ("zed/",)),
    _Program(
        "GitHub Copilot (VS Code)",
        ("githubcopilotchat/",),
        session_headers=("x-interaction-id",),
    ),
    _Program(
        "GitHub Copilot (CLI)",
        ("copilot/",),
        session_headers=("x-client-session-id",),
    ),
    _Program(
        "Kilo Code",
        ("kilo-code/",),
        originator="kilo-code",
        session_headers=("x-kilocode-taskid",),
    ),
    _Program("Roo Code", ("roo-code/",), originator="roo-code"),
    _Program("Coder Agents", ("coder-agents/",), session_headers=("x-coder-chat-id",)),
    _Program("Charm Crush", ("charm crush/", "charm-crush/")),
    _Program("Cursor", marker="x-cursor-client-version"),
    _Program(
        "OpenCode",
        ("opencode/",),
        session_headers=("x-opencode-session", "x-session-affinity"),
    ),
    _Program("Junie", ("junie:",)),
)

_USER_AGENTS = tuple(start for each in _PROGRAMS for start in each.user_agents)
_ORIGINATORS = frozenset(each.originator for each in _PROGRAMS if each.originator)
_MARKERS = frozenset(each.marker for each in _PROGRAMS if each.marker)

# user_<hash>_account_<id>_session_<uuid>
_SESSION_IN_USER_ID = re.compile(r"_session_(.+)\Z")


class _Metadata(msgspec.Struct):
    user_id: Any = None


class _Body(msgspec.Struct):
    metadata: _Metadata | None = None


# Broken JSON, bottomless nesting, and text that is not UTF-8.
_UNREADABLE = (msgspec.MsgspecError, RecursionError, UnicodeError)

_body_decoder = msgspec.json.Decoder(_Body)
_user_id_decoder = msgspec.json.Decoder(dict[str, Any])


def identify(headers: Headers, body_reader: BodyReader) -> Program:
    """Name the program and the session of a request.

    ``body_reader`` returns the request's body; it is called only when the session may stand
    there and nowhere else.  A body that cannot be read as JSON names no session; what
    ``body_reader`` itself raises is passed on.
    """
    user_agent = first_of(headers, "user-agent").lower()
    originator = first_of(headers, "originator")
    if not (
        user_agent.startswith(_USER_AGENTS)
        or originator in _ORIGINATORS
        or has_any(headers, _MARKERS)
    ):
        # PERF: 1.6 us less than asking for each of them.
        return Program(UNKNOWN)
    for program in _PROGRAMS:
        if (
            user_agent.startswith(program.user_agents)
            or (program.originator and program.originator == originator)
            or (program.marker and first_of(headers, program.marker))
        ):
            return Program(program.name, _session(program, headers, body_reader))
    return Program(UNKNOWN)


def _session(program: _Program, headers: Headers, body_reader: BodyReader) -> str | None:
    for name in program.session_headers:
        if value := first_of(headers, name):
            return value
    return _session_in_body(body_reader()) if program.session_in_body else None


def _session_in_body(body: bytes) -> str | None:
    """The session that Claude Code put into ``metadata.user_id``."""
    try:
        metadata = _body_decoder.decode(body).metadata
    except _UNREADABLE:
        return None
    if metadata is None or not isinstance(metadata.user_id, str):
        return None
    try:
        parts = _user_id_decoder.decode(metadata.user_id)
    except _UNREADABLE:
        parts = {}
    if "session_id" in parts:
        session = parts["session_id"]
        return (session.strip() or None) if isinstance(session, str) else None
    found = _SESSION_IN_USER_ID.search(metadata.user_id)
    return (found[1].strip() or None) if found else None


HOP_BY_HOP = frozenset(
    {
        "connection",
        "keep-alive",
        "proxy-authenticate",
        "proxy-authorization",
        "proxy-connection",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
    }
)
"""Headers about one connection; those that ``Connection`` names come on top."""

ACCOUNT_HEADERS = frozenset(
    {
        "anthropic-organization-id",
        "anthropic-workspace-id",
        "openai-organization",
        "openai-project",
        "set-cookie",
        "set-cookie2",
    }
)
"""Headers of a provider's answer that are about the account, or would make all users of a
gateway one visitor of the provider."""

GOVERNANCE_PREFIX = "x-coder-ai-governance-"
"""Headers between the client and this gateway: the Coder token, the request id."""

ACTOR_PREFIX = "x-ai-bridge-actor"
"""Headers that tell a provider who is asking; a client may never send them."""

OWN_PREFIX = "x-ai-gateway-"
"""Headers by which a client tells this gateway something, such as its project."""

AGENT_FIREWALL_SESSION = "X-Coder-Agent-Firewall-Session-Id"
AGENT_FIREWALL_SEQUENCE = "X-Coder-Agent-Firewall-Sequence-Number"

DEFAULT_USER_AGENT = "aibridge"
"""Sent on passed-through requests whose client sent none; the reference's value."""

# The sender frames its own body and names its own target.  An upstream's answer to
# `Expect` would be awaited by nobody.
_TRANSPORT = frozenset({"host", "content-length", "expect"})
# By them a request has another method than the one that was looked at.
_METHODS = frozenset({"x-http-method", "x-http-method-override", "x-method-override"})
# Google answers with the fields that it names, which may be none of those that are recorded.
_FIELDS = frozenset({"x-goog-fieldmask"})
_ACCEPT_ENCODING = frozenset({"accept-encoding"})
_FORWARDED = frozenset(
    {
        "cf-connecting-ip",
        "cf-connecting-ipv6",
        "fastly-client-ip",
        "fly-client-ip",
        "forwarded",
        "true-client-ip",
        "x-client-ip",
        "x-cluster-client-ip",
        "x-envoy-external-address",
        "x-original-forwarded-for",
        "x-real-ip",
    }
)
"""By these proxies and networks in front of the gateway say who asked."""
_FORWARDED_PREFIX = "x-forwarded-"
_OWN_PREFIXES = (GOVERNANCE_PREFIX, ACTOR_PREFIX, OWN_PREFIX, _FORWARDED_PREFIX)
_AGENT_FIREWALL = frozenset({AGENT_FIREWALL_SESSION.lower(), AGENT_FIREWALL_SEQUENCE.lower()})
# They choose within the client's own account, and the provider refuses the gateway's key then.
# Cookies belong to that account too, or to whatever else lives at the gateway's address.
_ACCOUNT = frozenset(
    {
        "anthropic-organization-id",
        "anthropic-workspace-id",
        "chatgpt-account-id",
        "cookie",
        "openai-organization",
        "openai-project",
        "x-goog-user-project",
    }
)
_COOKIE2 = frozenset({"cookie2"})

_ALWAYS_REMOVED = (
    HOP_BY_HOP | _TRANSPORT | _FORWARDED | _METHODS | _FIELDS | _AGENT_FIREWALL | _COOKIE2
)
_INTERCEPTED_REMOVED = _ALWAYS_REMOVED | _ACCEPT_ENCODING

_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+", re.ASCII)
_INJECTION = re.compile(r"[\r\n\x00]")
_INT32_MAX = 2**31 - 1
_SEQUENCE = re.compile(r"[0-9]{1,10}", re.ASCII)
_UUID = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.ASCII | re.IGNORECASE)


class UnsafeHeader(ValueError):
    """A header could be read as more than one (CR, LF, NUL), or its name is not a token.

    The text contains neither the value nor a name that is not a token.
    """


class BadAgentFirewall(ValueError):
    """The agent firewall headers are incomplete or not of their form; answered with 400."""

    def __init__(self) -> None:
        super().__init__("invalid agent firewall headers")


class AgentFirewall(NamedTuple):
    """Where in an agent firewall's session this request stands."""

    session_id: str
    """A UUID in lower case."""
    sequence: int
    """At least 0, within 32 bits."""


def for_upstream(
    headers: Headers,
    *,
    auth: Headers,
    actor: Headers,
    own_key: bool = False,
    passthrough: bool = False,
    forwarded: bool = False,
    client_ip: str = "",
    scheme: str = "http",
    host: str = "",
) -> list[tuple[str, str]]:
    """Make the headers of the upstream request from the client's.

    No credential of the client is among them, under whatever name it came: the provider is
    called with ``auth``, or with what the sender of the request adds, and with nothing else.
    ``own_key`` says that this is the client's own key: only then go headers upstream that
    choose within its account (organisation, project, workspace), and such cookies as are no
    credential.  ``actor`` are the headers that name the user: values from a client under these
    names are removed, an entry with an empty value only removes, and none is added to a
    passed-through request.  What a sign-in proxy says of the user is removed too.  A name with
    underscores stands for the same name with hyphens: servers behind may not tell them apart.

    ``Accept-Encoding`` is removed from intercepted requests, whose answers are read here, and
    kept on passed-through ones.  ``Host``, ``Content-Length`` and ``Expect`` are removed from
    both: the sender of the request frames it.

    A passed-through request gets a ``User-Agent`` if it has none, and with ``forwarded``
    ``X-Forwarded-For`` (``client_ip`` after the earlier values; none at all when ``client_ip``
    is no IP address), ``X-Forwarded-Host`` when ``host`` is given, and ``X-Forwarded-Proto``.

    Raises :class:`UnsafeHeader`.
    """
    travels = _TRAVELS[own_key, passthrough]
    sent = [header for header in headers if travels(header[0])]
    removed = _named_by_connection(headers).union([same_name(name) for name, _ in (*auth, *actor)])
    if removed:
        sent = [header for header in sent if same_name(header[0]) not in removed]
    if own_key:
        sent = without_secret_cookies(sent)
    if passthrough:
        if forwarded:
            sent.extend(_proxy_headers(headers, client_ip, scheme, host))
        if not any(same_name(name) == "user-agent" for name, _ in sent):
            sent.append(("User-Agent", DEFAULT_USER_AGENT))
    sent.extend(auth)
    if not passthrough:
        sent.extend((name, _as_sent(value)) for name, value in actor if value)
    return _checked(sent)


def _travels(name: str, own_key: bool, passthrough: bool) -> bool:
    """Whether a header of this name may go upstream, by the rules that are the same for all."""
    key = same_name(name)
    return not (
        key in (_ALWAYS_REMOVED if passthrough else _INTERCEPTED_REMOVED)
        or (key in _ACCOUNT and not own_key)
        or key.startswith(_OWN_PREFIXES)
        or is_secret_name(name)
        or names_user(name)
    )


# PERF: the same names come with every request; asking four times for each takes 1.4 us more, and
# remembering them by three things instead of one 0.3.
_TRAVELS = {
    (own_key, passthrough): lru_cache(maxsize=1024)(
        partial(_travels, own_key=own_key, passthrough=passthrough)
    )
    for own_key in (False, True)
    for passthrough in (False, True)
}


def for_client(headers: Headers) -> list[tuple[str, str]]:
    """Make the headers of the client's answer from the provider's.

    Everything is relayed as it came, cookies and lengths included, except the hop-by-hop
    headers.  Raises :class:`UnsafeHeader`.
    """
    removed = HOP_BY_HOP.union(_named_by_connection(headers))
    return _checked([header for header in headers if header[0].lower() not in removed])


def without_account(headers: Headers) -> Headers:
    """The headers of an answer to the gateway's own key without those about its account."""
    kept = [header for header in headers if same_name(header[0]) not in ACCOUNT_HEADERS]
    # PERF: nearly all answers have none, and then what finds headers by their names is still there.
    return headers if len(kept) == len(headers) else HeaderList(kept)


def agent_firewall(headers: Headers) -> AgentFirewall | None:
    """Read the agent firewall's two headers; ``None`` when neither is there.

    A header without a value counts as absent.  Raises :class:`BadAgentFirewall` when one is
    missing, repeated or malformed: the session must be a UUID, the sequence number a decimal
    from 0 to 2³¹-1.
    """
    # PERF: nearly no request has them.
    if not has_any(headers, _AGENT_FIREWALL):
        return None
    sessions = [value for value in values_of(headers, AGENT_FIREWALL_SESSION) if value]
    sequences = [value for value in values_of(headers, AGENT_FIREWALL_SEQUENCE) if value]
    if not sessions and not sequences:
        return None
    if len(sessions) != 1 or len(sequences) != 1:
        raise BadAgentFirewall
    if not _UUID.fullmatch(sessions[0]) or not _SEQUENCE.fullmatch(sequences[0]):
        raise BadAgentFirewall
    sequence = int(sequences[0])
    if sequence > _INT32_MAX:
        raise BadAgentFirewall
    return AgentFirewall(sessions[0].lower(), sequence)


def _named_by_connection(headers: Headers) -> frozenset[str]:
    """Header names that ``Connection`` declares to be about this hop only."""
    values = values_of(headers, "connection")
    return _names_in(",".join(values)) if values else _NO_NAMES


_NO_NAMES: frozenset[str] = frozenset()


# PERF: there are a few such values.
@lru_cache(maxsize=64)
def _names_in(connection: str) -> frozenset[str]:
    return frozenset([same_name(option.strip()) for option in connection.split(",")])


def _proxy_headers(
    headers: Headers, client_ip: str, scheme: str, host: str
) -> list[tuple[str, str]]:
    """The headers by which a reverse proxy says whom it speaks for."""
    forwarded = []
    if _is_ip(client_ip):
        earlier = [value for value in values_of(headers, "x-forwarded-for") if value]
        forwarded.append(("X-Forwarded-For", ", ".join([*earlier, client_ip])))
    if host:
        forwarded.append(("X-Forwarded-Host", host))
    forwarded.append(("X-Forwarded-Proto", "https" if scheme == "https" else "http"))
    return forwarded


def _is_ip(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True


def _as_sent(value: str) -> str:
    """Text of an account as header text: UTF-8, one character for each byte."""
    return value.encode().decode("latin-1")


def _checked(headers: list[tuple[str, str]]) -> list[tuple[str, str]]:
    """The same headers, none of which can be taken for several."""
    for name, value in headers:
        _check_name(name)
        # PERF: nearly every value is printable, and then there is nothing to look for.
        if not value.isprintable() and _INJECTION.search(value):
            raise UnsafeHeader(f"header {name}: the value contains a line break or a NUL")
    return headers


# PERF: the same names come with every request.
@lru_cache(maxsize=512)
def _check_name(name: str) -> None:
    if not _TOKEN.fullmatch(name):
        raise UnsafeHeader("a header name contains characters that no header name may have")
