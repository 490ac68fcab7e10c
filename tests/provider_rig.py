"""A provider actor in front of a scripted provider, and short words for what tests do to it."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pykka
from attrs import define, field
from waiting import wait_until

from aigateway.actors.actor.base import Reply, new_reply
from aigateway.actors.actor.tree import ActorTree, provider_role
from aigateway.actors.interception.headers import BYOK, Credential
from aigateway.actors.providers.breaker import BreakerConfig
from aigateway.actors.providers.counters import Counters
from aigateway.actors.providers.provider import Provider, ProviderLimits
from aigateway.actors.providers.request import (
    Drain,
    GetProviderState,
    GiveBack,
    Opened,
    Perform,
    ProviderState,
    Refused,
    UpstreamRequest,
)
from aigateway.actors.upstream.errors import UpstreamError
from aigateway.actors.upstream.exchange import Exchange
from aigateway.actors.values.provider_config import ProviderConfig

ON_ITS_WAY = ("then", "deadline")
"""What a message says of a request beside the request itself."""

PATIENCE = 20.0
"""Seconds a test waits for what must come soon."""

KEYS = ("sk-first-0123456789abcd", "sk-second-123456789abcd", "sk-third-0123456789abcd")
OWN = Credential((("X-Api-Key", "sk-mine-0123456789abcdef"),), BYOK, "sk-mine", "sk-m...cdef")


def until(condition: Callable[[], Any], what: str = "the condition") -> Any:
    """Wait for a condition to hold, which is looked at often."""
    return wait_until(condition, what, PATIENCE)


def read_all(exchange: Exchange) -> bytes:
    """The rest of an answer."""
    exchange.set_quiet(PATIENCE)
    data = b""
    while piece := exchange.read():
        data += piece
    return data


@define
class Rig:
    """One provider actor."""

    config: ProviderConfig
    ref: pykka.ActorRef[Any]
    deaths: list[BaseException | None] = field(factory=list)

    def tell(self, **changes: Any) -> Reply[Opened | Refused]:
        """Ask for a request to be performed."""
        reply = new_reply()
        handed_on = {name: changes.pop(name) for name in ON_ITS_WAY if name in changes}
        request: dict[str, Any] = {
            "method": "POST",
            "headers": [("Content-Type", "application/json")],
            "body": b"{}",
            "rest": "/v1/messages",
            "provider": self.config.name,
            "route": "/v1/messages",
            "model": "m",
            "api": "messages",
            **changes,
        }
        self.ref.tell(Perform(request=UpstreamRequest(**request), reply=reply, **handed_on))
        return reply

    def perform(self, **changes: Any) -> Opened | Refused:
        return self.tell(**changes).get(timeout=PATIENCE)

    def open(self, **changes: Any) -> Opened:
        result = self.perform(**changes)
        assert isinstance(result, Opened), result
        return result

    def refuse(self, **changes: Any) -> Refused:
        result = self.perform(**changes)
        assert isinstance(result, Refused), result
        return result

    def call(self, **changes: Any) -> tuple[int, bytes]:
        """A whole call that is answered: status and body; the exchange is given back."""
        opened = self.open(**changes)
        return opened.exchange.status, self.finish(opened)

    def finish(self, opened: Opened) -> bytes:
        """Read the rest and give the exchange back, as the edge does."""
        try:
            return read_all(opened.exchange)
        except UpstreamError:
            opened.exchange.close()
            raise
        finally:
            self.give_back(opened)

    def give_back(self, opened: Opened) -> None:
        opened.provider.tell(GiveBack(opened.worker, opened.exchange))

    def drain(self, opened: Opened, recording: Any) -> None:
        opened.provider.tell(Drain(opened.worker, opened.exchange, recording))

    @property
    def state(self) -> ProviderState:
        state = self.ref.ask(GetProviderState(), timeout=PATIENCE)
        assert isinstance(state, ProviderState)
        return state

    @property
    def counters(self) -> Counters:
        return self.state.counters

    def settle(self) -> ProviderState:
        """The state once no exchange is out and nobody waits."""

        def settled() -> ProviderState | None:
            state = self.state
            moving = state.busy + state.draining + state.waiting + state.retrying
            return None if moving else state

        settled_state = until(settled, "the provider to settle")
        assert isinstance(settled_state, ProviderState)
        return settled_state


class FakeInterception:
    complete = False


class FakeRecording:
    """Stands for what records an answer; tells what it was told."""

    def __init__(self, last: bytes = b"", fails: bool = False) -> None:
        self.interception = FakeInterception()
        self.received = b""
        self.told: list[str] = []
        self.closed = threading.Event()
        self.begun = threading.Event()
        self._last = last
        self._fails = fails

    def data(self, arrived: bytes) -> bytes:
        self.begun.set()
        if self._fails:
            raise RuntimeError("a fault in the interception")
        self.received += arrived
        if self._last and self._last in self.received:
            self.interception.complete = True
        return arrived

    def end(self, *, framed: bool) -> bytes:
        self.told.append(f"end framed={framed}")
        return b""

    def lost_client(self) -> None:
        self.told.append("lost client")

    def close(self) -> None:
        self.told.append("close")
        self.closed.set()


def make_config(url: str, **changes: Any) -> ProviderConfig:
    """A provider of Anthropic's type with two keys, unless ``changes`` say otherwise."""
    settings: dict[str, Any] = {
        "name": "anthropic",
        "type": "anthropic",
        "base_url": url,
        "keys": KEYS[:2],
        "first_byte_timeout": PATIENCE,
        "connect_timeout": 5.0,
        "idle_timeout": PATIENCE,
        **changes,
    }
    return ProviderConfig(**settings)


BREAKER = BreakerConfig(failure_threshold=2, interval=60.0, timeout=60.0, max_requests=1)


@contextmanager
def running(
    url: str,
    *,
    limits: ProviderLimits | None = None,
    tree: ActorTree | None = None,
    dies: bool = False,
    **changes: Any,
) -> Iterator[Rig]:
    """A provider actor that is stopped at the end, found in ``tree`` if there is one.

    ``dies``: the test kills it.
    """
    config = make_config(url, **changes)
    deaths: list[BaseException | None] = []
    role = provider_role(config.name)
    ref = Provider.start(
        role,
        lambda _actor, error: deaths.append(error),
        config=config,
        limits=limits or ProviderLimits(),
        tree=tree,
    )
    if tree is not None:
        tree.put(role, ref)
    try:
        yield Rig(config, ref, deaths)
    finally:
        ref.stop(timeout=PATIENCE)
    assert dies or deaths == [None], f"the provider died: {deaths}"
