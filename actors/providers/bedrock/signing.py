"""The signature of a request to AWS (Signature Version 4), by botocore."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator, Sequence
from typing import overload

from aigateway.actors.providers.bedrock.credentials import (
    AwsKeys,
    BotocoreMissing,
    Keeper,
    NoCredentials,
    keeper_for,
)
from aigateway.actors.providers.config import ProviderConfig
from aigateway.actors.providers.interception.credentials import CENTRALIZED, Credential, mask
from aigateway.actors.providers.interception.header_list import first_of
from aigateway.actors.providers.interception.interface import Headers

__all__ = ["SERVICES", "SignedHeaders", "Signer", "region_of", "sign"]

SERVICES = {"invoke-model": "bedrock", "mantle": "bedrock-mantle"}
"""The name of the service in a signature, by protocol."""

FRESH = 60.0
"""Seconds for which a signature is used again.  AWS takes it for five minutes."""

CHAIN_HINT = "<aws chain>"
"""Credential hint of credentials that are not in the settings."""

_REGION_IN_HOST = re.compile(r"[./]([a-z]{2,3}(?:-[a-z]+)+-\d)\.")


def region_of(config: ProviderConfig) -> str:
    """The region to sign for: as configured, or in the address, or AWS's own settings.

    Raises NoCredentials when none of them says it.
    """
    assert config.bedrock is not None
    if config.bedrock.region:
        return config.bedrock.region
    found = _REGION_IN_HOST.search(config.base_url)
    if found:
        return found[1]
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


class SignedHeaders(Sequence[tuple[str, str]]):
    """The headers of a signature, made anew when they are read long after they were made.

    A request that waited for its turn, or is sent again, must not carry an old signature.
    """

    def __init__(
        self,
        signature: Callable[[], list[tuple[str, str]]],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._signature = signature
        self._clock = clock
        self._made = clock()
        self._headers = signature()

    def _now(self) -> list[tuple[str, str]]:
        if self._clock() - self._made > FRESH:
            self._made = self._clock()
            self._headers = self._signature()
        return self._headers

    def __iter__(self) -> Iterator[tuple[str, str]]:
        return iter(self._now())

    def __len__(self) -> int:
        return len(self._headers)

    @overload
    def __getitem__(self, index: int) -> tuple[str, str]: ...

    @overload
    def __getitem__(self, index: slice) -> list[tuple[str, str]]: ...

    def __getitem__(self, index: int | slice) -> tuple[str, str] | list[tuple[str, str]]:
        return self._now()[index]


class Signer:
    """Signs the requests of one Bedrock provider.  Safe to use from many threads."""

    def __init__(self, config: ProviderConfig, keeper: Keeper | None = None) -> None:
        """Raises NoCredentials when no region is known."""
        assert config.bedrock is not None
        self.config = config
        self._region = region_of(config)
        self._service = SERVICES[config.bedrock.protocol or "invoke-model"]
        self._keeper = keeper or keeper_for(config.bedrock, self._region, name=config.name)
        own = config.bedrock.access_key
        self.hint = mask(own) if own else CHAIN_HINT

    def credential(self, method: str, url: str, headers: Headers, body: bytes) -> Credential:
        """The credential for one request.  May wait for AWS; raises NoCredentials."""
        keys = self._keeper.current()

        def signature() -> list[tuple[str, str]]:
            return sign(
                keys,
                region=self._region,
                service=self._service,
                method=method,
                url=url,
                headers=headers,
                body=body,
            )

        return Credential(SignedHeaders(signature), CENTRALIZED, keys.secret_key, self.hint)

    def close(self) -> None:
        """Stop renewing credentials."""
        self._keeper.close()
