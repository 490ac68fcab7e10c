"""Which control plane the settings ask for, and how its actor is started."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pykka

from aigateway.actors.actor.base import Watcher
from aigateway.actors.actor.tree import ActorTree
from aigateway.actors.control.local.address import is_postgresql
from aigateway.actors.control.local.board import Worker
from aigateway.actors.control.local.cap_holders import Holder
from aigateway.actors.control.local.housekeeper import Housekeeper
from aigateway.actors.control.local.local import LocalControlPlane
from aigateway.actors.control.local.price_files import load_pricing
from aigateway.actors.control.local.reporter import Answer, Reporter
from aigateway.actors.control.local.retention import Retention
from aigateway.actors.control.messages import McpConfiguration, McpServer
from aigateway.actors.mcp.offering import BadPattern, ToolFilter
from aigateway.actors.mcp.shelf import ToolShelf, ToolTroubles
from aigateway.actors.plan import (
    StartControlPlane,
    StartHousekeeper,
    StartMcp,
    StartReporter,
)
from aigateway.actors.values.provider_config import ProviderConfig
from aigateway.http.settings import Settings, SettingsError
from aigateway.http.settings._proxies import proxy_for
from aigateway.http.settings.mcp_servers import YAML_KEY
from aigateway.http.settings.provider_build import configured_providers, finish_providers
from aigateway.http.settings.version import own_version

if TYPE_CHECKING:
    from aigateway.actors.control.coderd.dial import DialSettings

__all__ = [
    "control_plane_starter",
    "dial_settings",
    "housekeeper_starter",
    "mcp_starter",
    "reporter_starter",
]


def control_plane_starter(
    settings: Settings,
    *,
    on_fatal: Callable[[str], None],
    on_connected: Callable[[], None],
) -> StartControlPlane:
    """A function that starts the control plane actor.  Raises SettingsError.

    ``on_fatal`` is told why there will never be a connection, ``on_connected`` that there is
    one again.
    """
    providers = configured_providers(settings)
    if settings.local:
        return _local(settings, providers)
    return _coderd(settings, providers, on_fatal, on_connected)


def _local(settings: Settings, providers: tuple[ProviderConfig, ...]) -> StartControlPlane:
    mcp = _mcp_configuration(settings)
    pricing = load_pricing(settings.own_prices, providers)
    # It outlives an actor, whose successor goes on with what is reserved.
    holder = Holder()

    def start(role: str, watcher: Watcher) -> pykka.ActorRef[Any]:
        if is_postgresql(settings.local_db):
            # Only where it is needed.
            from aigateway.actors.control.local.shared import SharedControlPlane

            return SharedControlPlane.start(
                role,
                watcher,
                address=settings.local_db,
                providers=providers,
                mcp=mcp,
                pricing=pricing,
                max_wait=settings.max_wait,
                max_waiting=settings.max_waiting,
                holder=holder,
            )
        return LocalControlPlane.start(
            role,
            watcher,
            database=Path(settings.local_db),
            providers=providers,
            mcp=mcp,
            pricing=pricing,
            max_wait=settings.max_wait,
            holder=holder,
        )

    return start


def _mcp_configuration(settings: Settings) -> McpConfiguration:
    """The servers of the settings, their patterns tried."""
    for position, server in enumerate(settings.mcp_servers):
        try:
            ToolFilter(server.tool_allow_regex, server.tool_deny_regex)
        except BadPattern as ex:
            raise SettingsError(f"{YAML_KEY}[{position}] ({server.id}): {ex}") from ex
    return McpConfiguration(
        tuple(
            McpServer(
                id=server.id,
                url=server.url,
                token=server.token,
                tool_allow_regex=server.tool_allow_regex,
                tool_deny_regex=server.tool_deny_regex,
            )
            for server in settings.mcp_servers
        )
    )


def mcp_starter(
    settings: Settings, tree: ActorTree, shelf: ToolShelf, troubles: ToolTroubles
) -> StartMcp | None:
    """A function that starts the actor for injected tools; None when there can be none."""
    if settings.local and not settings.mcp_servers:
        return None

    def start(role: str, watcher: Watcher) -> pykka.ActorRef[Any]:
        # Only where it is needed: it brings an HTTP client.
        from aigateway.actors.mcp.tools import McpTools

        return McpTools.start(
            role,
            watcher,
            tree=tree,
            shelf=shelf,
            troubles=troubles,
            proxy_for=lambda url: proxy_for(url, settings.provider_environ),
        )

    return start


def housekeeper_starter(settings: Settings) -> StartHousekeeper | None:
    """A function that starts the actor that keeps the local database in order; None when there is
    none."""
    if not settings.local:
        return None
    retention = Retention(
        settings.retain_content_days or None, settings.retain_records_days or None
    )
    pricing = load_pricing(settings.own_prices, configured_providers(settings))

    def start(role: str, watcher: Watcher) -> pykka.ActorRef[Any]:
        return Housekeeper.start(
            role, watcher, address=settings.local_db, retention=retention, pricing=pricing
        )

    return start


def reporter_starter(
    settings: Settings, answer: Answer, address: Callable[[], str]
) -> StartReporter | None:
    """A function that starts the actor that shows consoles how this process is; None without a
    local database.  ``address`` is where the gateway listens, once it does."""
    if not settings.local:
        return None
    # It outlives an actor, whose successor is the same worker to those who look.
    itself = Holder()

    def start(role: str, watcher: Watcher) -> pykka.ActorRef[Any]:
        host = socket.gethostname()
        worker = Worker(
            id=itself.id,
            gateway=f"{host}:{os.getppid()}",
            host=host,
            address=address() or settings.http_address,
            pid=os.getpid(),
        )
        return Reporter.start(
            role, watcher, address=settings.local_db, worker=worker, answer=answer
        )

    return start


def dial_settings(settings: Settings) -> DialSettings:
    """Where the Coder deployment is and how to get there.  Raises DialError."""
    from aigateway.actors.control.coderd.dial import DialSettings
    from aigateway.actors.control.coderd.extra_headers import headers_of

    return DialSettings(
        url=settings.url,
        key=settings.gateway_key,
        build_version=f"v{own_version()}",
        headers=headers_of(settings.header),
        header_command=settings.header_command,
        ca_file=settings.client_tls_ca_file,
        cert_file=settings.client_tls_cert_file,
        key_file=settings.client_tls_key_file,
    )


def _coderd(
    settings: Settings,
    providers: tuple[ProviderConfig, ...],
    on_fatal: Callable[[str], None],
    on_connected: Callable[[], None],
) -> StartControlPlane:
    # Only where it is needed: protobuf and the wire cost memory.
    from aigateway.actors.control.coderd.connection import CoderdConnection, ConnectionSettings
    from aigateway.actors.control.coderd.dial import DialError

    try:
        connection = ConnectionSettings(
            dial=dial_settings(settings),
            stream_reuse=settings.coderd_stream_reuse,
            max_waiting=settings.max_waiting,
            max_wait=settings.max_wait,
        )
    except DialError as ex:
        raise SettingsError(f"configure Coder deployment connection: {ex}") from ex

    def start(role: str, watcher: Watcher) -> pykka.ActorRef[Any]:
        return CoderdConnection.start(
            role,
            watcher,
            connection,
            # Providers of the environment replace coderd's; both obey the same settings.
            providers=providers or None,
            finish_providers=lambda found: finish_providers(found, settings),
            on_fatal=on_fatal,
            on_connected=on_connected,
        )

    return start
