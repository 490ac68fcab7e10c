"""The providers that coderd configures, live.

With each session: load the providers once, or, where coderd can be watched (1.2), each time
the watch signals, which it also does at its beginning.  A load that fails is tried again and
leaves the set as it is; so does a session that ends.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from typing import Any, Final

import pykka
import structlog
from google.protobuf.message import DecodeError

from aigateway.actors.actor.base import tell_quietly
from aigateway.actors.control.call_counters import CallCounters
from aigateway.actors.control.coderd._alarms import Alarms, Backoff
from aigateway.actors.control.coderd._session import Session
from aigateway.actors.control.coderd._translation import names_given_twice, provider_configs
from aigateway.actors.control.coderd.wire import coderd_pb2 as pb
from aigateway.actors.control.messages import ProvidersChanged
from aigateway.actors.control.rpc_results import RpcAnswer, RpcResult, Run
from aigateway.actors.values.provider_config import ProviderConfig

__all__ = ["Finish", "ProviderFeed"]

log = structlog.get_logger("ai-gateway.coderd")

_GET_PROVIDERS: Final = "/proto.ProviderConfigurator/GetAIProviders"

Finish = Callable[[tuple[ProviderConfig, ...]], tuple[ProviderConfig, ...]]
"""Applies the gateway's own settings to providers that know only their own."""


class ProviderFeed:
    """Knows the set of providers and tells a subscriber of changes.

    Used in the actor's thread only.  With ``fixed`` providers coderd is not asked.
    """

    def __init__(
        self,
        run: Run,
        alarms: Alarms,
        counters: CallCounters,
        *,
        fixed: tuple[ProviderConfig, ...] | None,
        finish: Finish,
        timeout: float,
        backoff: Callable[[], Backoff] = Backoff,
    ) -> None:
        self._run = run
        self._alarms = alarms
        self._counters = counters
        self._fixed = fixed is not None
        self._known = fixed
        self._finish = finish
        self._timeout = timeout
        self._subscriber: pykka.ActorRef[Any] | None = None
        self._session: Session | None = None
        self._load_backoff = backoff()
        self._watch_backoff = backoff()
        self._loading = False
        self._stale = False
        self._signalled = False
        self._doubled: frozenset[str] = frozenset()
        self.tried_at = self.loaded_at = time.time() if self._fixed else 0.0
        """Unix times of the last attempt to load and of the last success; 0: none yet."""

    def subscribe(self, subscriber: pykka.ActorRef[Any]) -> None:
        self._subscriber = subscriber
        if self._known is not None:
            self._tell(self._known)

    def connected(self, session: Session) -> None:
        if self._fixed:
            return
        self._session = session
        self._loading = self._stale = False
        self._load_backoff.reset()
        self._watch_backoff.reset()
        if session.version.has_watch:
            self._watch_soon(session)
        elif session.version.has_providers:
            self._load(session)
        else:
            log.warning(
                "this coderd has no AI providers to give, configure "
                "CODER_AI_GATEWAY_PROVIDER_<N>_* here",
                api_version=str(session.version),
            )
            self._replace(())

    # -- loading

    def _load(self, session: Session) -> None:
        if self._session is not session:
            return
        if self._loading:
            # What is being loaded may be older than the signal.
            self._stale = True
            return
        self._loading = True
        self.tried_at = time.time()
        session.call(
            _GET_PROVIDERS,
            pb.GetAIProvidersRequest().SerializeToString(),
            self._timeout,
            partial(self._loaded, session, time.monotonic()),
        )

    def _loaded(self, session: Session, asked: float, outcome: RpcResult) -> None:
        self._counters.add(_GET_PROVIDERS, outcome, time.monotonic() - asked)
        if self._session is not session:
            return
        self._loading = False
        try:
            if not isinstance(outcome, RpcAnswer):
                raise DecodeError(outcome.text)
            response = pb.GetAIProvidersResponse.FromString(outcome.data)
            providers = provider_configs(response)
        except DecodeError as ex:
            self._failed_to_load(session, str(ex))
            return
        self._load_backoff.reset()
        first = self._known is None
        self._report_doubles(names_given_twice(response))
        self._replace(self._finish(providers))
        if first:
            log.info("loaded ai providers from coderd", provider_count=len(providers))
        else:
            log.debug("reloaded ai provider snapshot from watch signal")
        if self._stale:
            self._stale = False
            self._load(session)

    def _report_doubles(self, doubled: dict[str, str]) -> None:
        """Say once which providers are not taken because of their names."""
        for name in sorted(doubled.keys() - self._doubled):
            log.error(
                "skipping misconfigured ai provider",
                provider_name=name,
                provider_type=doubled[name],
                error="another provider has this name, and is used",
                way_out="rename one of them, among the AI providers of the Coder deployment",
            )
        self._doubled = frozenset(doubled)

    def _failed_to_load(self, session: Session, error: str) -> None:
        if session.ended:
            # The next session loads again.
            return
        if self._known is None:
            log.warning("failed to load ai providers, will retry", error=error)
        else:
            log.warning("failed to reload ai provider snapshot from watch signal", error=error)
        self._later(self._load_backoff, lambda: self._load(session))

    def _replace(self, providers: tuple[ProviderConfig, ...]) -> None:
        self.loaded_at = time.time()
        self.tried_at = self.tried_at or self.loaded_at
        if providers != self._known:
            self._known = providers
            self._tell(providers)

    def _tell(self, providers: tuple[ProviderConfig, ...]) -> None:
        tell_quietly(self._subscriber, ProvidersChanged(providers))

    # -- watching

    def _watch_soon(self, session: Session) -> None:
        self._later(self._watch_backoff, lambda: self._watch(session))

    def _watch(self, session: Session) -> None:
        if self._session is not session:
            return
        self._signalled = False
        session.watch(
            "/proto.ProviderConfigurator/WatchAIProviders",
            pb.WatchAIProvidersRequest().SerializeToString(),
            partial(self._changed, session),
            partial(self._watch_ended, session),
        )

    def _changed(self, session: Session) -> None:
        if self._session is session:
            self._signalled = True
            self._load(session)

    def _watch_ended(self, session: Session, outcome: RpcResult) -> None:
        if self._session is not session or session.ended:
            return
        error = "" if isinstance(outcome, RpcAnswer) else outcome.text
        log.warning("ai provider watch stream ended; reconnecting", error=error)
        if self._signalled:
            self._watch_backoff.reset()
        self._watch_soon(session)

    def _later(self, backoff: Backoff, action: Callable[[], None]) -> None:
        delay = backoff.next()
        self._alarms.at(time.monotonic() + delay, lambda: self._run(action))
