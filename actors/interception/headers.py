"""What happens to headers on their way through, in both directions.

Headers are sequences of name and value in the order in which they came; names are compared
without regard to case, and repeated headers stay repeated.

Towards the provider the client's headers are kept but for those that belong to one hop
(RFC 9110, section 7.6.1), to the transport, to the client's credentials and accounts, to
proxies in between and to this gateway.  Towards the client everything is relayed but the
hop-by-hop headers.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable
from functools import lru_cache
from typing import NamedTuple

from aigateway.actors.codec.header_list import Headers, values_of
from aigateway.actors.codec.secret_names import (
    is_secret_name,
    same_name,
    without_secret_cookies,
)
from aigateway.actors.interception.identity_names import names_user

__all__ = [
    "ACTOR_PREFIX",
    "AGENT_FIREWALL_SEQUENCE",
    "AGENT_FIREWALL_SESSION",
    "DEFAULT_USER_AGENT",
    "GOVERNANCE_PREFIX",
    "HOP_BY_HOP",
    "AgentFirewall",
    "BadAgentFirewall",
    "UnsafeHeader",
    "agent_firewall",
    "for_client",
    "for_upstream",
]

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

GOVERNANCE_PREFIX = "x-coder-ai-governance-"
"""Headers between the client and this gateway: the Coder token, the request id."""

ACTOR_PREFIX = "x-ai-bridge-actor"
"""Headers that tell a provider who is asking; a client may never send them."""

AGENT_FIREWALL_SESSION = "X-Coder-Agent-Firewall-Session-Id"
AGENT_FIREWALL_SEQUENCE = "X-Coder-Agent-Firewall-Sequence-Number"

DEFAULT_USER_AGENT = "aibridge"
"""Sent on passed-through requests whose client sent none; the reference's value."""

# The sender frames its own body and names its own target.  An upstream's answer to
# `Expect` would be awaited by nobody.
_TRANSPORT = frozenset({"host", "content-length", "expect"})
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
_OWN_PREFIXES = (GOVERNANCE_PREFIX, ACTOR_PREFIX, _FORWARDED_PREFIX)
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

_ALWAYS_REMOVED = HOP_BY_HOP | _TRANSPORT | _FORWARDED | _AGENT_FIREWALL | _COOKIE2
_INTERCEPTED_REMOVED = _ALWAYS_REMOVED | _ACCEPT_ENCODING

_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+", re.ASCII)
_INJECTION = re.compile(r"[\r\n\x00]")
_INT32_MAX = 2**31 - 1
_SEQUENCE = re.compile(r"[0-9]{1,10}", re.ASCII)
_UUID = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.ASCII | re.IGNORECASE)


class UnsafeHeader(ValueError):
    """A header could be read as more than one (CR, LF, NUL), or its name is no token.

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
    called with ``auth``, or with what whoever sends the request adds, and with nothing else.
    ``own_key`` says that this is the client's own key: only then go headers upstream that
    choose within its account (organisation, project, workspace), and such cookies as are no
    credential.  ``actor`` are the headers that name the user: values from a client under these
    names are removed, an entry with an empty value only removes, and none is added to a
    passed-through request.  What a sign-in proxy says of the user is removed too.  A name with
    underscores stands for the same name with hyphens: servers behind may not tell them apart.

    ``Accept-Encoding`` is removed from intercepted requests, whose answers are read here, and
    kept on passed-through ones.  ``Host``, ``Content-Length`` and ``Expect`` are removed from
    both: whoever sends the request frames it.

    A passed-through request gets a ``User-Agent`` if it has none, and with ``forwarded``
    ``X-Forwarded-For`` (``client_ip`` after the earlier values; none at all when ``client_ip``
    is no IP address), ``X-Forwarded-Host`` when ``host`` is given, and ``X-Forwarded-Proto``.

    Raises :class:`UnsafeHeader`.
    """
    removed = _ALWAYS_REMOVED if passthrough else _INTERCEPTED_REMOVED
    if not own_key:
        removed = removed | _ACCOUNT
    removed = (
        removed | {same_name(name) for name, _ in (*auth, *actor)} | _named_by_connection(headers)
    )
    sent = [
        (name, value)
        for name, value in headers
        if (key := same_name(name)) not in removed
        and not key.startswith(_OWN_PREFIXES)
        and not is_secret_name(name)
        and not names_user(name)
    ]
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


def for_client(headers: Headers) -> list[tuple[str, str]]:
    """Make the headers of the client's answer from the provider's.

    Everything is relayed as it came, cookies and lengths included, except the hop-by-hop
    headers.  Raises :class:`UnsafeHeader`.
    """
    removed = HOP_BY_HOP | _named_by_connection(headers)
    return _checked((name, value) for name, value in headers if name.lower() not in removed)


def agent_firewall(headers: Headers) -> AgentFirewall | None:
    """Read the agent firewall's two headers; ``None`` when neither is there.

    A header without a value counts as absent.  Raises :class:`BadAgentFirewall` when one is
    missing, repeated or malformed: the session must be a UUID, the sequence number a decimal
    from 0 to 2³¹-1.
    """
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
    return frozenset(
        same_name(option.strip())
        for value in values_of(headers, "connection")
        for option in value.split(",")
    )


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


def _checked(headers: Iterable[tuple[str, str]]) -> list[tuple[str, str]]:
    """The headers as a list, none of which can be taken for several."""
    checked = list(headers)
    for name, value in checked:
        _check_name(name)
        # PERF: nearly every value is printable, and then there is nothing to look for.
        if not value.isprintable() and _INJECTION.search(value):
            raise UnsafeHeader(f"header {name}: the value contains a line break or a NUL")
    return checked


# PERF: the same names come with every request.
@lru_cache(maxsize=512)
def _check_name(name: str) -> None:
    if not _TOKEN.fullmatch(name):
        raise UnsafeHeader("a header name contains characters that no header name may have")
