"""Requests for AWS: in Bedrock's form or in Anthropic's, and always signed."""

from __future__ import annotations

import threading
from collections.abc import Callable

import requests

from aigateway.actors.codec.decoding import decode
from aigateway.actors.codec.headers import Headers, joined, values_of
from aigateway.actors.interception.bedrock_paths import InvokePath, invoked
from aigateway.actors.interception.headers import CENTRALIZED, Credential, mask
from aigateway.actors.providers.bedrock.counting import (
    COUNT_TOKENS,
    answerable,
    count_body,
    count_path,
    foundation_model,
)
from aigateway.actors.providers.bedrock.rewrite import (
    allowed_betas,
    invoke_path,
    model_behind,
    rewrite_body,
)
from aigateway.actors.providers.bedrock.signing import CHAIN_HINT, Signer
from aigateway.actors.providers.credentials import NoCredentials
from aigateway.actors.providers.key_command import KeyOfCommand
from aigateway.actors.providers.making import KEY_OF_COMMAND, KeptMaker, body_for, framed
from aigateway.actors.providers.request import UpstreamRequest, url_for
from aigateway.actors.upstream.errors import NotMade, NotSupported
from aigateway.actors.values.provider_config import ProviderConfig

__all__ = ["BedrockMaker", "standing_credential"]

_NOT_FOR_INVOKE = frozenset({"anthropic-beta", "anthropic-version", "content-encoding"})
"""Headers whose content travels in the body, or that say something of the client's body."""

_OF_SIGNATURES = frozenset({"x-amz-date", "x-amz-content-sha256"})
"""Headers that belong to a client's own signature."""


def standing_credential(config: ProviderConfig) -> Credential:
    """What may be said of the credential of a Bedrock provider before there is a signature."""
    assert config.bedrock is not None
    if config.key_command is not None:
        return KEY_OF_COMMAND
    shown = config.bedrock.bearer_token or config.bedrock.access_key
    return Credential((), CENTRALIZED, "", mask(shown) if shown else CHAIN_HINT)


class BedrockMaker(KeptMaker):
    """For Bedrock; see :class:`~aigateway.actors.providers.making.Maker`.

    Each request gets its signature when it is sent, so one that waited has a fresh one.
    """

    def __init__(self, config: ProviderConfig, noted: Callable[[str], None] | None = None) -> None:
        assert config.bedrock is not None
        self._config = config
        self._bedrock = config.bedrock
        self.standing = standing_credential(config)
        self.converted = config.bedrock.invokes
        self._signer: Signer | None = None
        self._token = None
        if config.key_command is not None:
            self._token = KeyOfCommand(config, config.bedrock.bearer_token, noted)
            self.keeper = self._token.keeper
        self._lock = threading.Lock()

    def make(
        self, request: UpstreamRequest, model: str, credential: Credential | None
    ) -> requests.PreparedRequest:
        """See :class:`~aigateway.actors.providers.making.Maker`.

        ``credential`` is not needed: the signature depends on what is signed.
        """
        del credential
        if self._bedrock.invokes:
            if (path := invoked(request.rest)) is not None:
                return self._native(request, path, model)
            if request.rest == COUNT_TOKENS:
                return self._count(request, model)
            return self._invoke(request, model)
        url = url_for(self._config, request.rest, request.query)
        body = body_for(self._config, request, model)
        return self.signed(request.method, url, request.headers, body)

    def _native(
        self, request: UpstreamRequest, path: InvokePath, model: str
    ) -> requests.PreparedRequest:
        """Of a client that speaks Bedrock's own API: its bytes, with another name in the path."""
        url = url_for(self._config, path.for_model(model or path.model), request.query)
        kept = [pair for pair in request.headers if pair[0].lower() not in _OF_SIGNATURES]
        return self.signed("POST", url, _typed(kept), request.body)

    def _invoke(self, request: UpstreamRequest, model: str) -> requests.PreparedRequest:
        computed = model_behind(self._bedrock, model, request.model)
        # Bedrock has one method for a call, whatever the client used, and knows no query.
        url = url_for(self._config, invoke_path(model, streaming=request.streaming))
        return self.signed("POST", url, _headers(request), _body(request, computed))

    def _count(self, request: UpstreamRequest, model: str) -> requests.PreparedRequest:
        computed = model_behind(self._bedrock, model, request.model)
        counted = foundation_model(computed)
        if counted is None:
            # By the client's name: an ARN names the account.
            said = f'AWS cannot count tokens for "{request.model}": it is not known what it is'
            raise NotSupported(said)
        url = url_for(self._config, count_path(counted))
        body = count_body(_body(request, computed))
        return self.signed("POST", url, _headers(request), body)

    def signed(
        self, method: str, url: str, headers: Headers, body: bytes
    ) -> requests.PreparedRequest:
        """A request with a signature.

        May wait for AWS credentials; raises NotMade when there are none.
        """
        token = self._bedrock.bearer_token if self._token is None else self._token.current()
        if token:
            return framed(method, url, headers, [("Authorization", f"Bearer {token}")], body)
        try:
            signature = self._ready_signer().signature(method, url, headers, body)
        except NoCredentials as ex:
            raise NotMade(f"create anthropic client: {ex}") from ex
        return framed(method, url, headers, signature, body)

    def close(self) -> None:
        """See :class:`~aigateway.actors.providers.making.Maker`."""
        with self._lock:
            super().close()

    def _ready_signer(self) -> Signer:
        """Raises NoCredentials."""
        with self._lock:
            if self._signer is None:
                self._signer = Signer(self._config)
                self.keeper = self._signer.keeper
            return self._signer


def _headers(request: UpstreamRequest) -> list[tuple[str, str]]:
    kept = [pair for pair in request.headers if pair[0].lower() not in _NOT_FOR_INVOKE]
    return _typed(kept)


def _typed(headers: list[tuple[str, str]]) -> list[tuple[str, str]]:
    if not values_of(headers, "content-type"):
        headers.append(("Content-Type", "application/json"))
    return headers


def _body(request: UpstreamRequest, computed: str) -> bytes:
    """The client's body for the model that AWS computes with."""
    betas = allowed_betas(values_of(request.headers, "anthropic-beta"), computed)
    body = decode(request.body, joined(request.headers, "content-encoding"))
    if request.rest == COUNT_TOKENS:
        body = answerable(body)
    return rewrite_body(body, model=computed, betas=betas)
