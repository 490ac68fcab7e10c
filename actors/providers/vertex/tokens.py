"""Google's access tokens, by google-auth: a file of a service account or of a workload identity, or
what the machine has (application default credentials, the metadata server)."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC
from importlib import import_module
from typing import Any

from aigateway.actors.providers.credentials import CredentialKeeper, Expiring, NoCredentials
from aigateway.actors.providers.said_keys import SaidKey
from aigateway.actors.values.provider_config import ProviderConfig

__all__ = ["tokens_of"]

_SCOPE = "https://www.googleapis.com/auth/cloud-platform"


def tokens_of(
    config: ProviderConfig, noted: Callable[[str], None] | None = None
) -> CredentialKeeper[SaidKey]:
    """The keeper of a provider's tokens; starts nothing yet.  ``noted`` is told each."""
    assert config.vertex is not None
    source = _Google(config.vertex.credentials_file)
    return CredentialKeeper(
        source,
        name=config.name,
        what="Google credentials",
        due=source.due,
        noted=None if noted is None else lambda said: noted(said.key),
    )


class _Google(Expiring):
    """A source of tokens."""

    def __init__(self, file: str) -> None:
        super().__init__()
        self._file = file
        self._credentials: Any = None

    def fetch(self) -> SaidKey:
        """A fresh token.  Raises NoCredentials and whatever google-auth does."""
        try:
            from google.auth.transport.requests import Request
        except ImportError as ex:
            said = "google-auth is not installed, run: pip install 'aigateway[vertex]'"
            raise NoCredentials(said) from ex
        if self._credentials is None:
            self._credentials = self._load()
        self._credentials.refresh(Request())
        expiry = self._credentials.expiry
        self.expires_at = None if expiry is None else expiry.replace(tzinfo=UTC).timestamp()
        return SaidKey(str(self._credentials.token), self.expires_at)

    def forget(self) -> None:
        """Read the file, or ask the machine, again."""
        self._credentials = None

    def _load(self) -> Any:
        if not self._file:
            return _module("google.auth").default(scopes=[_SCOPE])[0]
        with open(self._file, "rb") as file:
            info = json.load(file)
        kind = info.get("type")
        if kind == "service_account":
            account = _module("google.oauth2.service_account").Credentials
            return account.from_service_account_info(info, scopes=[_SCOPE])
        if kind == "external_account":
            # Another cloud's identity, or one in a file or at an address.
            of_aws = "environment_id" in info.get("credential_source", {})
            identity = _module(f"google.auth.{'aws' if of_aws else 'identity_pool'}").Credentials
            return identity.from_info(info, scopes=[_SCOPE])
        raise NoCredentials(
            f'"{self._file}" is neither of a service account nor of a workload identity'
        )


def _module(name: str) -> Any:
    """Of google-auth, which has no types."""
    return import_module(name)
