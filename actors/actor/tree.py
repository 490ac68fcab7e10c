"""Where actors are found: by role, never by a reference that was kept.

One tree per gateway worker process.  The Supervisor alone writes to it, but for the keys that
providers come to know.  Roles are
``control-plane``, ``recorder``, ``mcp`` and ``provider/<name>``.
"""

from __future__ import annotations

import threading
from typing import Any, Protocol

import pykka
from attrs import frozen

from aigateway.actors.values.provider_config import ProviderConfig

__all__ = ["ActorHistory", "ActorTree", "Keeping", "provider_role"]


def provider_role(name: str) -> str:
    """The role of the provider actor with this name."""
    return f"provider/{name}"


@frozen
class ActorHistory:
    """What has become of the actors that filled a role."""

    restarts: int = 0
    last_error: str = ""
    """What the last death was about."""


class Keeping(Protocol):
    """Whether records can be kept, readable without asking an actor."""

    @property
    def state(self) -> str:
        """How the disk for them is."""

    @property
    def refusing(self) -> bool:
        """Whether nothing new may begin."""

    @property
    def reason(self) -> str:
        """Why, for a person."""

    @property
    def lost(self) -> str:
        """What was lost at the end, for a person; empty when nothing was."""


class ActorTree:
    """Roles and who fills them now."""

    def __init__(self) -> None:
        self._refs: dict[str, pykka.ActorRef[Any]] = {}
        self._histories: dict[str, ActorHistory] = {}
        self._changed = threading.Condition()
        self._providers: dict[str, ProviderConfig] = {}
        self._fresh_keys: dict[str, tuple[str, ...]] = {}
        self.providers_loaded = False
        self.keeping: Keeping | None = None
        """None until actors are started."""

    def find(self, role: str) -> pykka.ActorRef[Any] | None:
        """Who fills this role now, or None while nobody does."""
        return self._refs.get(role)

    def filled(self) -> dict[str, pykka.ActorRef[Any]]:
        """All roles that somebody fills now."""
        return dict(self._refs)

    def wait_for(
        self, role: str, timeout: float, *, other_than: pykka.ActorRef[Any] | None = None
    ) -> pykka.ActorRef[Any] | None:
        """Like :meth:`find`, but wait up to ``timeout`` seconds for a (new) one."""

        def there() -> bool:
            ref = self._refs.get(role)
            return ref is not None and ref is not other_than and ref.is_alive()

        with self._changed:
            self._changed.wait_for(there, timeout)
        ref = self._refs.get(role)
        return None if ref is other_than else ref

    def provider_config(self, name: str) -> ProviderConfig | None:
        """The configuration of the provider with this name, running or not."""
        return self._providers.get(name)

    def wait_for_providers(self, timeout: float) -> bool:
        """Wait up to ``timeout`` seconds until the providers are known; False: they are not."""
        with self._changed:
            return self._changed.wait_for(lambda: self.providers_loaded, timeout)

    def provider_configs(self) -> tuple[ProviderConfig, ...]:
        return tuple(self._providers.values())

    def keys_of(self, config: ProviderConfig) -> tuple[str, ...]:
        """The keys that a provider is called with, or was a moment ago: what never is shown."""
        return (*config.keys, *self._fresh_keys.get(config.name, ()))

    def histories(self) -> dict[str, ActorHistory]:
        """By role, of all roles that there are, filled at this moment or not."""
        return dict(self._histories)

    # -- for providers

    def note_key(self, name: str, key: str) -> None:
        """A provider has another key.  The one before may still be on its way."""
        self._fresh_keys[name] = (*self._fresh_keys.get(name, ()), key)[-2:]

    # -- for the Supervisor

    def note(self, role: str, history: ActorHistory) -> None:
        """Keep a role's history where it can be read without asking the Supervisor."""
        self._histories[role] = history

    def forget(self, role: str) -> None:
        """There is no such role any more."""
        self._histories.pop(role, None)

    def put(self, role: str, ref: pykka.ActorRef[Any]) -> None:
        with self._changed:
            self._refs[role] = ref
            self._changed.notify_all()

    def remove(self, role: str, ref: pykka.ActorRef[Any] | None = None) -> None:
        """Take out a role, if ``ref`` is given only while this one fills it."""
        if ref is None or self._refs.get(role) is ref:
            self._refs.pop(role, None)

    def replace_providers(self, configs: tuple[ProviderConfig, ...]) -> None:
        """Swap the set of known providers in one step."""
        self._providers = {config.name: config for config in configs}
        if not self.providers_loaded:
            with self._changed:
                self.providers_loaded = True
                self._changed.notify_all()
