"""The signature of a request to AWS (Signature Version 4), by botocore."""

from __future__ import annotations

import contextlib

from aigateway.actors.codec.headers import Headers, first_of
from aigateway.actors.providers.bedrock.credentials import (
    AwsKeys,
    BotocoreMissing,
    keeper_for,
)
from aigateway.actors.providers.bedrock.models import stated_region
from aigateway.actors.providers.credentials import Keeper, NoCredentials
from aigateway.actors.values.provider_config import ProviderConfig

__all__ = ["CHAIN_HINT", "SERVICES", "Signer", "preload", "region_of", "sign"]

SERVICES = {"invoke-model": "bedrock", "mantle": "bedrock-mantle"}
"""The name of the service in a signature, by protocol."""

CHAIN_HINT = "<aws chain>"
"""Credential hint of credentials that are not in the settings."""


def preload() -> None:
    """Import botocore now, if it is installed.

    It takes a seventh of a second, in which no stream of the process moves on.
    """
    with contextlib.suppress(ImportError):
        import botocore.auth
        import botocore.session  # noqa: F401


def region_of(config: ProviderConfig) -> str:
    """The region to sign for: as configured, or in the address, or AWS's own settings.

    Raises NoCredentials when none of them says it.
    """
    if region := stated_region(config):
        return region
    try:
        from botocore.session import Session
    except ImportError as ex:
        raise BotocoreMissing from ex
    region = Session().get_config_variable("region")
    if not region:
        raise NoCredentials(
            "region required: the address does not name one, set BEDROCK_REGION or AWS_REGION"
        )
    return str(region)


def sign(
    keys: AwsKeys,
    *,
    region: str,
    service: str,
    method: str,
    url: str,
    headers: Headers,
    body: bytes,
) -> list[tuple[str, str]]:
    """The headers to add to a request so that AWS accepts it.  Raises BotocoreMissing.

    Of the request's own headers only Host and Content-Type are signed: a proxy may change
    the others.
    """
    try:
        from botocore.auth import SigV4Auth
        from botocore.awsrequest import AWSRequest
    except ImportError as ex:
        raise BotocoreMissing from ex
    content_type = first_of(headers, "content-type")
    signed = {"Content-Type": content_type} if content_type else {}
    request = AWSRequest(method=method, url=url, data=body, headers=signed)
    SigV4Auth(keys, service, region).add_auth(request)
    names = ("X-Amz-Date", "X-Amz-Security-Token", "Authorization")
    return [(name, request.headers[name]) for name in names if name in request.headers]


class Signer:
    """Signs the requests of one Bedrock provider.  Safe to use from many threads."""

    def __init__(self, config: ProviderConfig, keeper: Keeper[AwsKeys] | None = None) -> None:
        """Raises NoCredentials when no region is known."""
        assert config.bedrock is not None
        self.config = config
        self._region = region_of(config)
        self._service = SERVICES[config.bedrock.protocol or "invoke-model"]
        self.keeper = keeper or keeper_for(config.bedrock, self._region, name=config.name)

    def signature(
        self, method: str, url: str, headers: Headers, body: bytes
    ) -> list[tuple[str, str]]:
        """The headers that sign one request.  May wait for AWS; raises NoCredentials."""
        return sign(
            self.keeper.current(),
            region=self._region,
            service=self._service,
            method=method,
            url=url,
            headers=headers,
            body=body,
        )
