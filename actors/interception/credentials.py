"""Who is asking, and with whose key the provider is called.

A client proves who it is with a **Coder token**.  It calls the provider either with the
gateway's key (centralised) or with its own ("bring your own key", BYOK): then the Coder
token travels in a header of its own and the usual credential headers hold the client's key.
"""

from __future__ import annotations

import hmac
from typing import Literal, TypeAlias

from attrs import field, frozen

from aigateway.actors.codec.header_list import HeaderList, Headers, first_of, values_of
from aigateway.actors.codec.secret_names import holds
from aigateway.actors.interception.routes import ANTHROPIC_TYPES

__all__ = [
    "BYOK",
    "BYOK_HEADER",
    "CENTRALIZED",
    "REQUEST_ID_HEADER",
    "Credential",
    "Kind",
    "Presented",
    "byok_credential",
    "centralized",
    "extract",
    "mask",
    "same_secret",
]

Kind: TypeAlias = Literal["byok", "centralized"]

BYOK: Kind = "byok"
CENTRALIZED: Kind = "centralized"

BYOK_HEADER = "X-Coder-AI-Governance-Token"
"""Carries the Coder token when the client brings its own provider key."""

REQUEST_ID_HEADER = "X-Coder-AI-Governance-Request-Id"
"""The id that a proxy in front of the gateway gave the request, for logs."""


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
    ``X-Api-Key``.  In the first case the other two stay, since they hold the client's own key.
    No header stays that holds the Coder token, whatever its name.
    """
    request_id = first_of(headers, REQUEST_ID_HEADER)
    removed = {BYOK_HEADER.lower(), REQUEST_ID_HEADER.lower()}
    token = first_of(headers, BYOK_HEADER)
    byok = bool(token)
    if not byok:
        token = _bearer(headers) or first_of(headers, "x-api-key")
        removed |= {"authorization", "x-api-key"}
    if not token:
        return None
    remaining = HeaderList(
        [
            (name, value)
            for name, value in headers
            if name.lower() not in removed and not holds(value, token)
        ]
    )
    return Presented(token, byok, remaining, request_id)


def byok_credential(provider_type: str, headers: Headers) -> Credential | None:
    """Read the client's own provider key; ``None`` when it brought none.

    Anthropic's types take ``X-Api-Key`` before ``Authorization: Bearer``, all others only the
    latter.  ``headers`` are those that :func:`extract` left.
    """
    if provider_type in ANTHROPIC_TYPES and (key := first_of(headers, "x-api-key")):
        return Credential((("X-Api-Key", key),), BYOK, key, mask(key))
    token = _bearer(headers)
    if not token:
        return None
    return Credential((("Authorization", f"Bearer {token}"),), BYOK, token, mask(token))


def centralized(provider_type: str, key: str) -> Credential:
    """Make the credential for one of the gateway's own keys.

    Raises ``ValueError`` for Copilot, which is only ever called with the client's own token.
    """
    if provider_type == "copilot":
        raise ValueError("a copilot provider has no keys: clients bring their own token")
    if provider_type in ANTHROPIC_TYPES:
        return Credential((("X-Api-Key", key),), CENTRALIZED, key, mask(key))
    return Credential((("Authorization", f"Bearer {key}"),), CENTRALIZED, key, mask(key))


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


def same_secret(one: str, other: str) -> bool:
    """Compare two secrets in a time that does not tell where they differ."""
    return hmac.compare_digest(one.encode(), other.encode())


def _bearer(headers: Headers) -> str:
    """The token of the first ``Authorization`` header of the form ``Bearer <token>``."""
    for value in values_of(headers, "authorization"):
        fields = value.split()
        if len(fields) == 2 and fields[0].lower() == "bearer":
            return fields[1]
    return ""
