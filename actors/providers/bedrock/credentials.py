"""AWS credentials: a role, a pair of keys, or AWS's own chain.

Three sources, in this order: a role to assume (by STS, with the pair or the chain's
credentials), the pair of keys from the provider's settings, and AWS's own chain
(environment, profile, web identity, container, instance role).  All but a plain pair are
fetched and renewed in the background (:mod:`..credentials`).
"""

from __future__ import annotations

import logging
from typing import Any

from attrs import field, frozen

from aigateway.actors.providers.credentials import (
    BUDGET,
    CredentialKeeper,
    Keeper,
    NoCredentials,
)
from aigateway.actors.values.provider_config import BedrockConfig

__all__ = ["AwsKeys", "BotocoreMissing", "FixedKeys", "keeper_for"]

SESSION_NAME = "aigateway"
"""Of an assumed role; AWS's audit log shows it."""


class BotocoreMissing(NoCredentials):
    """The optional dependency is not installed."""

    def __init__(self) -> None:
        super().__init__("botocore is not installed, run: pip install 'aigateway[bedrock]'")


@frozen
class AwsKeys:
    """What a request is signed with."""

    access_key: str
    secret_key: str = field(repr=False)
    token: str | None = field(default=None, repr=False)


@frozen
class FixedKeys:
    """The keeper of a pair from the settings, which never changes."""

    keys: AwsKeys

    def current(self, timeout: float = BUDGET) -> AwsKeys:
        del timeout
        return self.keys

    def renew(self, since: float) -> bool:
        del since
        return False

    @property
    def renewals(self) -> tuple[int, int]:
        return 0, 0

    def close(self) -> None:
        pass


def keeper_for(config: BedrockConfig, region: str, *, name: str = "") -> Keeper[AwsKeys]:
    """The keeper for a provider's settings; starts nothing yet."""
    if config.access_key and not config.role_arn:
        return FixedKeys(AwsKeys(config.access_key, config.access_key_secret))
    return CredentialKeeper(_Botocore(config, region), name=name)


class _Botocore:
    """The role or the chain, by botocore."""

    def __init__(self, config: BedrockConfig, region: str) -> None:
        self._config = config
        self._region = region
        self._credentials: Any = None

    def fetch(self) -> AwsKeys:
        if self._credentials is None:
            self._credentials = self._load()
        frozen_keys = self._credentials.get_frozen_credentials()
        return AwsKeys(frozen_keys.access_key, frozen_keys.secret_key, frozen_keys.token)

    def expired(self) -> bool:
        refresh_needed = getattr(self._credentials, "refresh_needed", None)
        return refresh_needed is not None and bool(refresh_needed(0))

    def forget(self) -> None:
        self._credentials = None

    def _load(self) -> Any:
        try:
            from botocore.config import Config
            from botocore.credentials import (
                AssumeRoleCredentialFetcher,
                Credentials,
                DeferredRefreshableCredentials,
            )
            from botocore.session import Session
        except ImportError as ex:
            raise BotocoreMissing from ex
        # It reports each failure with a traceback; the keeper reports it in a line.
        logging.getLogger("botocore.credentials").setLevel(logging.ERROR)
        config = self._config
        session = Session()
        if config.access_key:
            own = Credentials(config.access_key, config.access_key_secret)
        else:
            own = session.get_credentials()
        if own is None:
            raise NoCredentials(
                "no AWS credentials found: neither the provider's settings nor AWS's chain "
                "(environment, profile, web identity, container, instance role) has any"
            )
        if not config.role_arn:
            return own

        def client(service: str, **keys: Any) -> Any:
            limits = Config(connect_timeout=5, read_timeout=10, retries={"max_attempts": 2})
            return session.create_client(service, region_name=self._region, config=limits, **keys)

        more = {"RoleSessionName": SESSION_NAME}
        if config.external_id:
            more["ExternalId"] = config.external_id
        fetcher = AssumeRoleCredentialFetcher(client, own, config.role_arn, extra_args=more)
        return DeferredRefreshableCredentials(fetcher.fetch_credentials, "sts-assume-role")
