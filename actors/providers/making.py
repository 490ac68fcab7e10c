"""What goes over the wire for a client's request: address, credential, and what has to change.

A :class:`Maker` belongs to a provider and is used by its workers, from many threads.  It may
block: AWS credentials are waited for there.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Protocol

import msgspec
import requests

from aigateway.actors.codec.decoding import DecodingError, decode, encode
from aigateway.actors.codec.headers import Headers, joined
from aigateway.actors.codec.multipart import boundary_of, with_value
from aigateway.actors.codec.splice import add_member, find_member, set_each
from aigateway.actors.interception.azure_paths import (
    AZURE,
    AZURE_ROOT,
    AzurePath,
    azure_path,
    without_version,
)
from aigateway.actors.interception.gemini_paths import model_path, resource_name
from aigateway.actors.interception.headers import CENTRALIZED, Credential
from aigateway.actors.interception.routes import GEMINI
from aigateway.actors.providers.credentials import Keeper
from aigateway.actors.providers.request import UpstreamRequest, url_for
from aigateway.actors.upstream.errors import Unsendable
from aigateway.actors.upstream.kept import HeaderPairs, prepare
from aigateway.actors.values.provider_config import ProviderConfig

__all__ = [
    "KEY_OF_COMMAND",
    "NO_CREDENTIAL",
    "KeptMaker",
    "Maker",
    "PlainMaker",
    "body_for",
    "framed",
    "maker_for",
]

_FRAMED_METHODS = frozenset({"POST", "PUT", "PATCH"})

NO_CREDENTIAL = Credential((), CENTRALIZED, "", "")
"""Of a provider that wants no key."""
KEY_OF_COMMAND = Credential((), CENTRALIZED, "", "<key command>")
"""Of a provider whose key a command says: what may be said of it, since it changes."""


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

    @property
    def renewals(self) -> tuple[int, int]:
        """How often another standing credential has come, and how often none."""

    def close(self) -> None:
        """Nothing more will be made."""


class KeptMaker:
    """What makers share: a standing credential, and who renews it."""

    converted = False
    standing: Credential | None = None
    keeper: Keeper[object] | None = None
    """None: nobody does."""

    def renew(self, since: float) -> bool:
        """See :class:`Maker`."""
        return self.keeper is not None and self.keeper.renew(since)

    @property
    def renewals(self) -> tuple[int, int]:
        """See :class:`Maker`."""
        return self.keeper.renewals if self.keeper is not None else (0, 0)

    def close(self) -> None:
        """See :class:`Maker`."""
        if self.keeper is not None:
            self.keeper.close()


class PlainMaker(KeptMaker):
    """For providers that take a request as the client makes it, with a key in a header."""

    def __init__(self, config: ProviderConfig) -> None:
        self._config = config
        self.standing = NO_CREDENTIAL if config.no_key else None

    def make(
        self, request: UpstreamRequest, model: str, credential: Credential | None
    ) -> requests.PreparedRequest:
        """See :class:`Maker`."""
        rest, query = address_of(self._config, request, model)
        url = url_for(self._config, rest, query)
        added = () if credential is None else credential.headers
        body = body_for(self._config, request, model)
        return framed(request.method, url, request.headers, added, body)


def maker_for(config: ProviderConfig, noted: Callable[[str], None] | None = None) -> Maker:
    """The maker for a provider; ``noted`` is told keys that come while it runs."""
    # Each only where it is needed: most gateways never call AWS, and have keys that last.
    if config.bedrock is not None:
        from aigateway.actors.providers.bedrock.making import BedrockMaker

        return BedrockMaker(config, noted)
    if config.vertex is not None:
        from aigateway.actors.providers.vertex.making import VertexMaker

        return VertexMaker(config, noted)
    if config.key_command is not None:
        from aigateway.actors.providers.key_command import CommandMaker

        return CommandMaker(config, noted)
    return PlainMaker(config)


def body_for(config: ProviderConfig, request: UpstreamRequest, model: str) -> bytes:
    """The client's body, with the provider's name of the model where it goes by a list.

    Names that are written twice are all replaced: a provider that reads the first one must
    not be asked for another model than the one that was looked up.
    """
    deployment = _deployment(request)
    if deployment is not None and config.type == AZURE:
        return request.body
    if not model or (config.models is None and deployment is None):
        return request.body
    if config.type == GEMINI:
        if model_path(request.rest) is not None:
            return request.body
        # What is cached is cached for a model, by its whole name.
        model = resource_name(model)
    coding = joined(request.headers, "content-encoding")
    try:
        body = decode(request.body, coding) if coding else request.body
        if boundary := boundary_of(joined(request.headers, "content-type")):
            edited = with_value(body, boundary, "model", model.encode(), add=deployment is not None)
        else:
            name = msgspec.json.encode(model)
            edited = set_each(body, name, "model")
            if deployment is not None and find_member(edited, "model") is None:
                with contextlib.suppress(ValueError):
                    # What is not an object is the provider's to complain about.
                    edited = add_member(edited, name, "model")
        return encode(edited, coding) if edited != body else request.body
    except DecodingError as ex:
        raise Unsendable(f"the request's content coding cannot be read: {ex}") from ex


def address_of(config: ProviderConfig, request: UpstreamRequest, model: str) -> tuple[str, str]:
    """The client's path and query, with the provider's name of the model where it goes by a list
    and models are named there; of Azure's paths those that the provider has too."""
    if config.type == GEMINI and config.models:
        path = model_path(request.rest)
        rest = request.rest if path is None or not model else path.for_model(model)
        return rest, request.query
    if request.rest.startswith(AZURE_ROOT) and (azure := azure_path(request.rest)) is not None:
        if config.type != AZURE:
            return azure.rest, without_version(request.query)
        if azure.deployment and config.models is not None and model:
            return azure.for_deployment(model), request.query
    return request.rest, request.query


def _deployment(request: UpstreamRequest) -> AzurePath | None:
    """The path, where that names what answers."""
    if not request.rest.startswith(AZURE_ROOT):
        return None
    path = azure_path(request.rest)
    return path if path is not None and path.deployment else None


def framed(
    method: str, url: str, headers: Headers, added: Headers, body: bytes
) -> requests.PreparedRequest:
    """A request with the length of its body."""
    pairs = HeaderPairs(headers)
    pairs.extend(added)
    if body or method in _FRAMED_METHODS:
        pairs.append(("Content-Length", str(len(body))))
    return prepare(method, url, pairs, body)
