"""Requests for Bedrock, made from requests for Anthropic's API."""

from __future__ import annotations

import contextlib
import threading

from attrs import evolve

from aigateway.actors.providers.bedrock.rewrite import (
    allowed_betas,
    invoke_path,
    replacement_model,
    rewrite_body,
)
from aigateway.actors.providers.bedrock.signing import CHAIN_HINT, Signer
from aigateway.actors.providers.config import ProviderConfig
from aigateway.actors.providers.interception.credentials import (
    CENTRALIZED,
    Credential,
    mask,
)
from aigateway.actors.providers.interception.decoding import decode
from aigateway.actors.providers.interception.header_list import values_of
from aigateway.actors.providers.interception.headers import CREDENTIAL_HEADERS
from aigateway.actors.providers.interception.interface import Headers
from aigateway.actors.providers.interception.routes import upstream_url
from aigateway.http.settings import Settings
from aigateway.http.upstream import Outgoing

__all__ = ["BedrockCalls", "invokes", "model_of", "preload", "stand_in_credential"]

_NOT_FOR_INVOKE = frozenset({"anthropic-beta", "anthropic-version", "content-encoding"})
"""Headers whose content travels in the body, or that say something of the client's body."""


def preload(settings: Settings) -> None:
    """Import botocore now if the settings have a Bedrock provider.

    It takes a seventh of a second, in which no stream of the process moves on.
    """
    if any("BEDROCK_" in name.upper() for name in settings.provider_environ):
        with contextlib.suppress(ImportError):
            import botocore.auth
            import botocore.session  # noqa: F401


def invokes(config: ProviderConfig | None) -> bool:
    """Whether this provider is called by Bedrock's own protocol, InvokeModel.

    The other one, ``mantle``, is Anthropic's API with a signature.
    """
    return (
        config is not None
        and config.bedrock is not None
        and config.bedrock.protocol in ("", "invoke-model")
    )


def model_of(config: ProviderConfig, requested: str) -> str:
    """The model that ``config``'s provider is asked for when a client asks for ``requested``."""
    if config.bedrock is None or not invokes(config):
        return requested
    return replacement_model(requested, config.bedrock)


def stand_in_credential(config: ProviderConfig) -> Credential:
    """What may be said of the credential before there is a signature."""
    assert config.bedrock is not None
    key = config.bedrock.access_key
    return Credential((), CENTRALIZED, "", mask(key) if key else CHAIN_HINT)


class BedrockCalls:
    """Makes and signs requests; keeps a signer for each provider."""

    def __init__(self) -> None:
        self._signers: dict[str, Signer] = {}
        self._lock = threading.Lock()

    def put(self, config: ProviderConfig, call: Outgoing, *, streaming: bool) -> Outgoing:
        """``call``, made for Anthropic's API, as ``config``'s provider is to get it.

        May wait for AWS credentials.  Raises NoCredentials.
        """
        if invokes(config):
            call = _as_invoke(config, call, streaming)
        return self.signed(config, call)

    def signed(self, config: ProviderConfig, call: Outgoing) -> Outgoing:
        """``call`` with a signature instead of any other credential.  Raises NoCredentials."""
        headers = [(n, value) for n, value in call.headers if n.lower() not in CREDENTIAL_HEADERS]
        signer = self._signer(config)
        credential = signer.credential(call.method, call.url, headers, call.body)
        return evolve(call, headers=headers, credential=credential)

    def _signer(self, config: ProviderConfig) -> Signer:
        signer = self._signers.get(config.name)
        if signer is not None and signer.config == config:
            return signer
        with self._lock:
            signer = self._signers.get(config.name)
            if signer is None or signer.config != config:
                if signer is not None:
                    signer.close()
                signer = self._signers[config.name] = Signer(config)
        return signer


def _as_invoke(config: ProviderConfig, call: Outgoing, streaming: bool) -> Outgoing:
    assert config.bedrock is not None
    model = model_of(config, call.model)
    betas = allowed_betas(values_of(call.headers, "anthropic-beta"), model)
    body = decode(call.body, ",".join(values_of(call.headers, "content-encoding")))
    return evolve(
        call,
        # Bedrock has one method for a call, whatever the client used, and knows no query.
        method="POST",
        url=upstream_url("bedrock", config.base_url, invoke_path(model, streaming=streaming)),
        headers=_with_content_type(
            [(name, value) for name, value in call.headers if name.lower() not in _NOT_FOR_INVOKE]
        ),
        body=rewrite_body(body, model=model, betas=betas),
        model=model,
    )


def _with_content_type(headers: Headers) -> Headers:
    if values_of(headers, "content-type"):
        return headers
    return [*headers, ("Content-Type", "application/json")]
