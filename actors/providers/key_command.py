"""Keys that do not last, as a command says them: a token of Entra ID for example.

The command is run when the settings are read, again before what it said ends, and when the provider
refuses that with a 401.  One run is for all requests of a process; those that met the refusal wait
for it.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import requests

from aigateway.actors.interception.headers import Credential, centralized
from aigateway.actors.providers.credentials import CredentialKeeper, Expiring, NoCredentials
from aigateway.actors.providers.making import KEY_OF_COMMAND, PlainMaker
from aigateway.actors.providers.request import UpstreamRequest
from aigateway.actors.providers.said_keys import (
    COMMAND_TIMEOUT,
    KeyCommandFailed,
    SaidKey,
    output_of,
    said_key,
)
from aigateway.actors.upstream.errors import KeyAway
from aigateway.actors.values.provider_config import KeyCommand, ProviderConfig

__all__ = ["CommandMaker", "KeyOfCommand"]

_SAME_AGAIN = 60.0
"""Seconds in which a command that has said a refused key again is not run: as long as a key rests
after a 401."""


class _Command(Expiring):
    """A source of keys for a keeper."""

    def __init__(self, command: KeyCommand) -> None:
        super().__init__(command.expires_at)
        self._command = command

    def fetch(self) -> SaidKey:
        """Run it.  Raises NoCredentials."""
        try:
            said = said_key(output_of(self._command.command), time.time())
        except KeyCommandFailed as ex:
            raise NoCredentials(f"{self._command.variable}: {ex}") from ex
        self.expires_at = said.expires_at
        return said

    def forget(self) -> None:
        """A command is asked again each time."""


class KeyOfCommand:
    """The key of one provider, as it is now.  Safe to use from many threads."""

    def __init__(
        self, config: ProviderConfig, first: str, noted: Callable[[str], None] | None = None
    ) -> None:
        """``first`` is what the command said when the settings were read; ``noted`` is told each
        that comes."""
        command = config.key_command
        assert command is not None
        source = _Command(command)
        self.keeper = CredentialKeeper(
            source,
            name=config.name,
            what="the provider's key",
            due=source.due,
            # An actor may be started again long after the settings were read.
            first=None if source.expired() or not first else SaidKey(first, command.expires_at),
            same_again=_SAME_AGAIN,
            noted=None if noted is None else lambda said: noted(said.key),
        )

    def current(self) -> str:
        """The key.  Waits for the command where there is none; raises KeyAway."""
        try:
            return self.keeper.current(COMMAND_TIMEOUT + 1.0).key
        except NoCredentials as ex:
            raise KeyAway(f"the provider's key cannot be had: {ex}") from ex


class CommandMaker(PlainMaker):
    """For providers whose key a command says; see :class:`~.making.Maker`."""

    def __init__(self, config: ProviderConfig, noted: Callable[[str], None] | None = None) -> None:
        super().__init__(config)
        self.standing = KEY_OF_COMMAND
        self._key = KeyOfCommand(config, next(iter(config.keys), ""), noted)
        self.keeper = self._key.keeper

    def make(
        self, request: UpstreamRequest, model: str, credential: Credential | None
    ) -> requests.PreparedRequest:
        """See :class:`~.making.Maker`."""
        if credential is self.standing:
            credential = centralized(self._config.type, self._key.current())
        return super().make(request, model, credential)
