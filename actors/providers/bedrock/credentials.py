"""AWS credentials, kept fresh in the background.

Three sources, in this order: a role to assume (by STS, with the pair or the chain's
credentials), the pair of keys from the provider's settings, and AWS's own chain
(environment, profile, web identity, container, instance role).  All but a plain pair are
fetched and renewed by a thread of the keeper's own, long before they expire: a request finds
them ready, but for the first ones, which wait.
"""

from __future__ import annotations

import logging
import math
import threading
import time
from typing import Any, Protocol

import structlog
from attrs import field, frozen

from aigateway.actors.values.provider_config import BedrockConfig

__all__ = [
    "AwsKeys",
    "BotocoreMissing",
    "CredentialKeeper",
    "CredentialSource",
    "FixedKeys",
    "Keeper",
    "NoCredentials",
    "keeper_for",
]

BUDGET = 30.0
"""Seconds that a request may wait for the first credentials (as in the reference)."""
RENEW_EVERY = 60.0
"""Seconds between looks whether credentials are due; botocore renews them from 15 minutes
before their end on."""
RETRY_EVERY = 5.0
"""Seconds after which fetching is tried again when it failed."""

SESSION_NAME = "aigateway"
"""Of an assumed role; AWS's audit log shows it."""

log = structlog.get_logger("ai-gateway.bedrock")


class NoCredentials(Exception):
    """There is nothing to sign with now; the text says why."""


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


class Keeper(Protocol):
    """Has credentials ready."""

    def current(self, timeout: float = BUDGET) -> AwsKeys:
        """The credentials to sign with now; waits for the first ones, ``timeout`` seconds.

        Raises NoCredentials.
        """

    def renew(self, since: float) -> bool:
        """AWS refuses what was there at ``since`` (monotonic time): fetch again, without
        waiting for it.

        False: there is nothing newer to be had.
        """

    def close(self) -> None:
        """Stop renewing."""


class CredentialSource(Protocol):
    """Where a keeper's thread gets credentials from.  Both methods may block and raise."""

    def fetch(self) -> AwsKeys:
        """The newest credentials, renewed if they are due."""

    def expired(self) -> bool:
        """Whether those that were fetched last have lost their worth."""

    def forget(self) -> None:
        """Begin again with the next fetch, whatever is still valid by its own account."""


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

    def close(self) -> None:
        pass


class CredentialKeeper:
    """Fetches in a thread of its own and keeps what came.  Safe to use from many threads."""

    def __init__(
        self,
        source: CredentialSource,
        *,
        name: str = "",
        renew_every: float = RENEW_EVERY,
        retry_every: float = RETRY_EVERY,
    ) -> None:
        """``name`` is the provider's, for logs.  The thread starts with the first request."""
        self._source = source
        self._name = name
        self._renew_every = renew_every
        self._retry_every = retry_every
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._known = threading.Event()
        self._closed = threading.Event()
        self._keys: AwsKeys | None = None
        self._error = "no answer of the credential source"
        self._wake = threading.Event()
        self._fetched_at = -math.inf
        self._stale = False

    def current(self, timeout: float = BUDGET) -> AwsKeys:
        """See :class:`Keeper`."""
        if self._thread is None:
            self._start()
        if self._keys is None and not self._known.wait(timeout):
            raise NoCredentials(f"no AWS credentials within {timeout:g} s: {self._error}")
        keys = self._keys
        if keys is None:
            raise NoCredentials(self._error)
        return keys

    def renew(self, since: float) -> bool:
        """See :class:`Keeper`.  Many may say so of the same ones."""
        with self._lock:
            if self._fetched_at <= since and not self._stale:
                self._stale = True
                self._keys = None
                self._known.clear()
                self._wake.set()
        return True

    def close(self) -> None:
        self._closed.set()
        self._wake.set()

    def _start(self) -> None:
        with self._lock:
            if self._thread is None:
                self._thread = threading.Thread(
                    target=self._run, name=f"aws-credentials-{self._name}", daemon=True
                )
                self._thread.start()

    def _run(self) -> None:
        while not self._closed.is_set():
            self._wake.clear()
            if self._stale:
                self._source.forget()
            pause = self._renew_every if self._fetch() else self._retry_every
            self._known.set()
            self._wake.wait(pause)

    def _fetch(self) -> bool:
        try:
            keys = self._source.fetch()
        except Exception as ex:
            # botocore's errors have no common base, and those of its transport come too.
            self._error = str(ex) if isinstance(ex, NoCredentials) else f"{_fault(ex)}"
            if self._keys is not None and self._has_expired():
                self._keys = None
            log.warning(
                "cannot fetch AWS credentials",
                provider=self._name,
                error=self._error,
                still_valid=self._keys is not None,
            )
            self._stale = False
            return False
        with self._lock:
            self._keys, self._stale, self._fetched_at = keys, False, time.monotonic()
        return True

    def _has_expired(self) -> bool:
        try:
            return self._source.expired()
        except Exception:
            return True


def _fault(ex: Exception) -> str:
    return f"no AWS credentials found: {type(ex).__name__}: {ex}"


def keeper_for(config: BedrockConfig, region: str, *, name: str = "") -> Keeper:
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
