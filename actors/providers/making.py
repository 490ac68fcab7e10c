"""What goes over the wire when one provider is to answer a request.

A maker belongs to a provider and is used by its workers, from many threads.  It may block:
AWS credentials are waited for here.
"""

from __future__ import annotations

from typing import Protocol

import msgspec
import requests

from aigateway.actors.codec.decoding import DecodingError, decode, encode
from aigateway.actors.codec.headers import Headers, values_of
from aigateway.actors.codec.splice import set_each
from aigateway.actors.interception.headers import CENTRALIZED, Credential
from aigateway.actors.interception.routes import upstream_url
from aigateway.actors.providers.request import UpstreamRequest
from aigateway.actors.upstream.errors import Unsendable
from aigateway.actors.upstream.kept import HeaderPairs, prepare
from aigateway.actors.values.provider_config import ProviderConfig

__all__ = ["NO_CREDENTIAL", "Maker", "PlainMaker", "body_for", "framed", "maker_for", "url_for"]

_FRAMED_METHODS = frozenset({"POST", "PUT", "PATCH"})


NO_CREDENTIAL = Credential((), CENTRALIZED, "", "")
"""Of a provider that wants no key."""


class Maker(Protocol):
    """Makes requests for one provider."""

    standing: Credential | None
    """What every request is made with that brings no credential of its own, where that is not
    one of the provider's keys: what may be said of it."""
    converted: bool
    """Whether the answers have Bedrock's form and have to be put into Anthropic's."""

    def make(
        self, request: UpstreamRequest, model: str, credential: Credential | None
    ) -> requests.PreparedRequest:
        """The request as it is sent, whole.  May block.

        ``model`` is the provider's own name for the one that is asked for.

        Raises Unsendable when nobody could send it, and NotMade when it is this provider that
        cannot have it now.
        """

    def renew(self, since: float) -> bool:
        """Get the standing credential again, without waiting for it; False: there is no other.

        One that came after ``since`` (monotonic time), when what was refused was sent, is new.
        """

    def close(self) -> None:
        """Nothing more will be made."""


class PlainMaker:
    """For providers that take a request as the client makes it, with a key in a header."""

    converted = False

    def __init__(self, config: ProviderConfig) -> None:
        self._config = config
        self.standing: Credential | None = NO_CREDENTIAL if config.no_key else None

    def make(
        self, request: UpstreamRequest, model: str, credential: Credential | None
    ) -> requests.PreparedRequest:
        """See :class:`Maker`."""
        url = url_for(self._config, request.rest, request.query)
        added = () if credential is None else credential.headers
        body = body_for(self._config, request, model)
        return framed(request.method, url, request.headers, added, body)

    def renew(self, since: float) -> bool:
        """See :class:`Maker`."""
        return False

    def close(self) -> None:
        """See :class:`Maker`."""


def maker_for(config: ProviderConfig) -> Maker:
    """The maker for a provider."""
    if config.bedrock is None:
        return PlainMaker(config)
    # Only where it is needed: most gateways never call AWS.
    from aigateway.actors.providers.bedrock.making import BedrockMaker

    return BedrockMaker(config)


def body_for(config: ProviderConfig, request: UpstreamRequest, model: str) -> bytes:
    """The client's body, with the provider's name of the model where it goes by a list.

    Names that are written twice are all replaced: a provider that reads the first one must
    not be asked for another model than the one that was looked up.
    """
    if config.models is None or not model:
        return request.body
    coding = ",".join(values_of(request.headers, "content-encoding"))
    try:
        body = decode(request.body, coding) if coding else request.body
        edited = set_each(body, msgspec.json.encode(model), "model")
        return encode(edited, coding) if edited != body else request.body
    except DecodingError as ex:
        raise Unsendable(f"the request's content coding cannot be read: {ex}") from ex


def url_for(config: ProviderConfig, rest: str, query: str = "") -> str:
    """The provider's address for a path below its name; raises Unsendable for a bad one."""
    try:
        return upstream_url(config.type, config.base_url, rest, query)
    except ValueError as ex:
        raise Unsendable(str(ex)) from ex


def framed(
    method: str, url: str, headers: Headers, added: Headers, body: bytes
) -> requests.PreparedRequest:
    """A request with the length of its body."""
    pairs = HeaderPairs(headers)
    pairs.extend(added)
    if body or method in _FRAMED_METHODS:
        pairs.append(("Content-Length", str(len(body))))
    return prepare(method, url, pairs, body)
