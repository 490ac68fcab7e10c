"""Requests for Claude on Vertex AI: in Anthropic's form or in Vertex's own, with a token."""

from __future__ import annotations

from collections.abc import Callable

import msgspec
import requests

from aigateway.actors.codec.decoding import DecodingError, decode
from aigateway.actors.codec.headers import Headers, joined, values_of
from aigateway.actors.codec.reading import members, text
from aigateway.actors.codec.splice import add_member, delete_member, set_each
from aigateway.actors.interception.headers import CENTRALIZED, Credential
from aigateway.actors.interception.vertex_paths import (
    COUNTING,
    VertexPath,
    vertex_name,
    vertex_path,
)
from aigateway.actors.providers.credentials import NoCredentials
from aigateway.actors.providers.making import KeptMaker, framed
from aigateway.actors.providers.request import UpstreamRequest, url_for
from aigateway.actors.providers.vertex.tokens import tokens_of
from aigateway.actors.upstream.errors import KeyAway, NotSupported, Unsendable
from aigateway.actors.values.provider_config import ProviderConfig

__all__ = ["GOOGLE_CREDENTIAL", "VertexMaker"]

GOOGLE_CREDENTIAL = Credential((), CENTRALIZED, "", "<google credentials>")
"""What may be said of a token: it changes every hour."""
VERSION = b'"vertex-2023-10-16"'
"""The version of the request format, in the body's ``anthropic_version``."""

_MESSAGES = "/v1/messages"
_COUNT = "/v1/messages/count_tokens"
_OF_ANTHROPIC = frozenset({"anthropic-version", "content-encoding"})
"""Headers whose content goes into the body, or that say something of the client's body."""


class VertexMaker(KeptMaker):
    """See :class:`~aigateway.actors.providers.making.Maker`."""

    def __init__(self, config: ProviderConfig, noted: Callable[[str], None] | None = None) -> None:
        assert config.vertex is not None
        self._config = config
        self._vertex = config.vertex
        self.standing = GOOGLE_CREDENTIAL
        self.keeper = self._tokens = tokens_of(config, noted)

    def make(
        self, request: UpstreamRequest, model: str, credential: Credential | None
    ) -> requests.PreparedRequest:
        """See :class:`~aigateway.actors.providers.making.Maker`."""
        path = vertex_path(request.rest)
        headers, body = request.headers, request.body
        if path is None:
            path, body = self._of_anthropic(request, model)
            headers = [pair for pair in headers if pair[0].lower() not in _OF_ANTHROPIC]
        elif path.model == COUNTING:
            body = set_each(body, msgspec.json.encode(model), "model") if model else body
        elif model:
            path = VertexPath(model, path.streaming)
        if not values_of(headers, "content-type"):
            headers = [*headers, ("Content-Type", "application/json")]
        # APPSEC: Google takes methods and credentials from a query; no call here needs one.
        url = url_for(self._config, path.below(self._vertex.project, self._vertex.region))
        return framed("POST", url, headers, self._authorization(credential), body)

    def _of_anthropic(self, request: UpstreamRequest, model: str) -> tuple[VertexPath, bytes]:
        """The path of a request in Anthropic's form, and its body in Vertex's."""
        try:
            body = decode(request.body, joined(request.headers, "content-encoding"))
        except DecodingError as ex:
            raise Unsendable(f"the request's content coding cannot be read: {ex}") from ex
        fields = members(body)
        if request.rest == _COUNT:
            name = model or vertex_name(text(fields.get("model")) or "")
            body = set_each(body, msgspec.json.encode(name), "model")
            path = VertexPath(COUNTING)
        elif request.rest == _MESSAGES:
            body = delete_member(body, "model")
            path = VertexPath(model, request.streaming)
        else:
            raise NotSupported("Vertex AI has no such operation")
        if fields and "anthropic_version" not in fields:
            body = add_member(body, VERSION, "anthropic_version")
        return path, body

    def _authorization(self, credential: Credential | None) -> Headers:
        """The user's own token, or one of the gateway's.  May wait for it; raises KeyAway."""
        if credential is not None and credential is not self.standing:
            return credential.headers
        try:
            return [("Authorization", f"Bearer {self._tokens.current().key}")]
        except NoCredentials as ex:
            raise KeyAway(f"Google's token cannot be had: {ex}") from ex
