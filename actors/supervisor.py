"""The supervisor: starts the actors of one gateway worker, and restarts those that die.

Each role has a history of deaths.  The first restart is immediate, further ones wait
longer; too many within a window mean that restarting does not help, and the supervisor
gives up loudly: the process ends and gunicorn starts a new worker.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from datetime import UTC, datetime
from threading import Timer
from typing import Any

import pykka
import structlog
from attrs import Factory, define, frozen

from aigateway.actors.actor.base import Crash, GatewayActor, Inquiry, Watcher, ask_quietly
from aigateway.actors.actor.tree import ActorHistory, ActorTree, provider_role
from aigateway.actors.control.messages import ProvidersChanged, SubscribeProviders
from aigateway.actors.mcp.messages import GetMcpState, LeftOut
from aigateway.actors.plan import GatewayPlan
from aigateway.actors.providers.keypool import Rest
from aigateway.actors.providers.provider import Provider
from aigateway.actors.providers.request import GetProviderState, ProviderState, Retire
from aigateway.actors.recorder.custody import Custody
from aigateway.actors.recorder.messages import ControlPlaneChanged, GetSpoolStats
from aigateway.actors.recorder.recorder import Recorder
from aigateway.actors.values.provider_config import ProviderConfig

__all__ = ["ActorInfo", "ListActors", "RestartActor", "StopAll", "Supervisor"]

BACKOFF_FLOOR, BACKOFF_CEILING = 0.05, 5.0
"""Seconds before a restart, from the second death in a window on."""
WINDOW = 60.0
MAX_DEATHS = 12
"""Deaths of one role within ``WINDOW`` seconds after which the worker gives up."""
HOW = (
    "set CODER_AI_GATEWAY_ANTHROPIC_KEY or CODER_AI_GATEWAY_OPENAI_KEY, or"
    " CODER_AI_GATEWAY_PROVIDER_0_TYPE and _KEYS; or add providers in the Coder deployment"
)
"""What to do where there is no provider."""
MAX_LEFT_OUT = 50
"""Lines for tools that are not offered."""
SHOWN_RESTS = 20
"""Rests of one key that are listed."""
PATIENCE = 1.0
"""Seconds for an actor to say how it is."""
SWEEP_EVERY = 1.0
"""Seconds between looks for actors that died without a word."""
LANDING = 1.0
"""Seconds that coderd has at the end for its answers to what is in the air."""

log = structlog.get_logger("ai-gateway.supervisor")


@frozen
class ActorInfo:
    """One line of ``aigateway actors``."""

    role: str
    state: str
    restarts: int
    inbox: int
    last_error: str = ""
    detail: str = ""


@frozen
class ListActors(Inquiry[tuple[ActorInfo, ...]]):
    """Asked: answers a tuple of :class:`ActorInfo`."""


@frozen
class RestartActor(Inquiry[bool]):
    """Asked: restart one actor; answers True, or False for an unknown role.

    ``crash`` ends it as an error in its code would, for rehearsals.
    """

    role: str
    crash: bool = False


@frozen
class StopAll(Inquiry[None]):
    """Asked: stop all actors, the recorder last; answers None when they are gone."""


@frozen
class _Ended:
    role: str
    urn: str
    error: BaseException | None


@frozen
class _Start:
    role: str


@frozen
class _Sweep:
    pass


@define(eq=False)
class _Child:
    role: str
    start: Callable[[], pykka.ActorRef[Any]]
    ref: pykka.ActorRef[Any] | None = None
    restarts: int = 0
    deaths: deque[float] = Factory(deque)
    last_error: str = ""
    starting: bool = False
    crashed: bool = False
    """Whether the last one to fill the role died of an error."""


class Supervisor(GatewayActor):
    """Root of the actor tree of one gateway worker process."""

    def __init__(
        self,
        plan: GatewayPlan,
        tree: ActorTree,
        give_up: Callable[[str], None],
        watcher: Watcher | None = None,
    ) -> None:
        super().__init__("supervisor", watcher)
        self._plan = plan
        self._tree = tree
        self._give_up = give_up
        self._children: dict[str, _Child] = {}
        self._configs: dict[str, ProviderConfig] = {}
        self._sweeper: Timer | None = None
        self._stopping = False
        self._custody = Custody()

    def started(self) -> None:
        self._tree.keeping = self._custody
        self._add("control-plane", self._start_control_plane)
        self._add("recorder", self._start_recorder)
        if self._plan.start_mcp is not None:
            self._add("mcp", self._start_mcp)
        if self._plan.start_housekeeper is not None:
            self._add("housekeeper", self._start_housekeeper)
        if self._plan.start_reporter is not None:
            self._add("reporter", self._start_reporter)
        self._schedule_sweep()

    def release(self) -> None:
        if self._sweeper is not None:
            self._sweeper.cancel()
        self._stop_children()

    def receive(self, message: object) -> object:
        match message:
            case ProvidersChanged():
                self._providers_changed(message.providers)
            case _Ended():
                self._ended(message)
            case _Start():
                child = self._children.get(message.role)
                if child is not None and child.starting:
                    child.starting = False
                    self._start(child)
            case _Sweep():
                self._sweep()
            case ListActors():
                return self._list()
            case RestartActor():
                return self._restart(message)
            case StopAll():
                self._stop_children()
            case _:
                raise TypeError(f"supervisor: unknown message {type(message).__name__}")
        return None

    # -- children

    def _add(self, role: str, start: Callable[[], pykka.ActorRef[Any]]) -> _Child:
        child = self._children[role] = _Child(role, start)
        self._tree.note(role, ActorHistory())
        self._start(child)
        return child

    def _start(self, child: _Child) -> None:
        try:
            child.ref = child.start()
        except Exception as ex:
            child.ref = None
            self._after_death(child, ex)
            return
        self._tree.put(child.role, child.ref)
        if child.role == "control-plane":
            child.ref.tell(SubscribeProviders(self.actor_ref))
            recorder = self._tree.find("recorder")
            if recorder is not None and recorder.is_alive():
                changed = ControlPlaneChanged(replaced=True, crashed=child.crashed, plane=child.ref)
                recorder.tell(changed)

    def _start_control_plane(self) -> pykka.ActorRef[Any]:
        return self._plan.start_control_plane("control-plane", self._watch)

    def _start_recorder(self) -> pykka.ActorRef[Any]:
        return Recorder.start(
            "recorder",
            self._watch,
            tree=self._tree,
            folder=self._plan.state_dir,
            max_size=self._plan.spool_max_size,
            custody=self._custody,
        )

    def _start_mcp(self) -> pykka.ActorRef[Any]:
        assert self._plan.start_mcp is not None
        return self._plan.start_mcp("mcp", self._watch)

    def _start_housekeeper(self) -> pykka.ActorRef[Any]:
        assert self._plan.start_housekeeper is not None
        return self._plan.start_housekeeper("housekeeper", self._watch)

    def _start_reporter(self) -> pykka.ActorRef[Any]:
        assert self._plan.start_reporter is not None
        return self._plan.start_reporter("reporter", self._watch)

    def _watch(self, actor: GatewayActor, error: BaseException | None) -> None:
        # In the dying actor's own thread.
        if self.actor_ref.is_alive():
            self.actor_ref.tell(_Ended(actor.role, actor.actor_urn, error))

    def _ended(self, message: _Ended) -> None:
        child = self._children.get(message.role)
        if child is None or child.ref is None or child.ref.actor_urn != message.urn:
            return
        self._tree.remove(child.role, child.ref)
        child.ref = None
        if not self._stopping:
            self._after_death(child, message.error)

    def _after_death(self, child: _Child, error: BaseException | None) -> None:
        now = time.monotonic()
        child.restarts += 1
        child.crashed = error is not None
        if error is not None:
            child.last_error = f"{type(error).__name__}: {error}"
            child.deaths.append(now)
        self._tree.note(child.role, ActorHistory(child.restarts, child.last_error))
        while child.deaths and now - child.deaths[0] > WINDOW:
            child.deaths.popleft()
        deaths = len(child.deaths)
        if deaths > MAX_DEATHS:
            text = f"{child.role} died {deaths} times within {WINDOW:g} s: {child.last_error}"
            log.critical("giving up", reason=text)
            self._give_up(text)
            return
        delay = 0.0
        if deaths > 1:
            delay = min(BACKOFF_CEILING, BACKOFF_FLOOR * 2.0 ** (deaths - 2))
        log.log(
            40 if error is not None else 20,
            "actor ended, restarting it",
            role=child.role,
            error=child.last_error if error is not None else None,
            restarts=child.restarts,
            delay=delay,
        )
        child.starting = True
        self.later(delay, _Start(child.role))

    def _sweep(self) -> None:
        for child in list(self._children.values()):
            if child.ref is not None and not child.ref.is_alive():
                error = RuntimeError("ended without a word")
                self._ended(_Ended(child.role, child.ref.actor_urn, error))
        self._schedule_sweep()

    def _stop_children(self) -> None:
        self._stopping = True
        order = sorted(self._children, key=lambda role: _STOP_ORDER.get(role, 0))
        for role in order:
            ref = self._children[role].ref
            if role == "recorder":
                self._custody.wait_for_landing(LANDING)
            if ref is not None and ref.is_alive():
                ref.stop(timeout=5)
            self._tree.remove(role)
        self._children.clear()
        self._custody.close()

    # -- providers

    def _providers_changed(self, configs: tuple[ProviderConfig, ...]) -> None:
        new = {config.name: config for config in configs}
        for name in self._configs.keys() - new.keys():
            self._retire(name)
        changed = {name for name, config in new.items() if self._configs.get(name) != config}
        self._configs = new
        for name in sorted(changed):
            config = new[name]
            self._retire(name)
            if _serves(config):
                self._add(provider_role(name), self._provider_starter(config))
            elif config.enabled:
                _report_misconfigured(config)
        self._tree.replace_providers(configs)
        used = sorted(name for name, config in new.items() if _serves(config))
        log.info("providers in use", providers=used, changed=sorted(changed))
        if not new:
            log.warning(
                "no AI provider is configured, so every request is answered 404", way_out=HOW
            )
        elif not used and any(config.enabled for config in configs):
            log.warning("all enabled ai providers failed to build; only disabled providers remain")

    def _provider_starter(self, config: ProviderConfig) -> Callable[[], pykka.ActorRef[Any]]:
        def start() -> pykka.ActorRef[Any]:
            return Provider.start(
                provider_role(config.name),
                self._watch,
                config=config,
                limits=self._plan.limits,
                tree=self._tree,
            )

        return start

    def _retire(self, name: str) -> None:
        child = self._children.pop(provider_role(name), None)
        self._tree.forget(provider_role(name))
        if child is not None and child.ref is not None:
            self._tree.remove(child.role, child.ref)
            if child.ref.is_alive():
                child.ref.tell(Retire())

    # -- for operators

    def _restart(self, message: RestartActor) -> bool:
        child = self._children.get(message.role)
        if child is None or child.ref is None or not child.ref.is_alive():
            return False
        if message.crash:
            child.ref.tell(Crash())
        else:
            child.ref.stop(block=False)
        return True

    def _list(self) -> tuple[ActorInfo, ...]:
        infos = [ActorInfo("supervisor", "running", 0, self.actor_inbox.qsize())]  # type: ignore[attr-defined]
        for child in self._children.values():
            infos.extend(_describe(child))
        infos.extend(_idle(config) for config in self._configs.values() if not _serves(config))
        return tuple(infos)

    def _schedule_sweep(self) -> None:
        self._sweeper = self.later(SWEEP_EVERY, _Sweep())


_STOP_ORDER = {"control-plane": 1, "recorder": 2}
"""The control plane gives back what it has not sent, and the recorder writes that down."""


def _describe(child: _Child) -> list[ActorInfo]:
    ref = child.ref
    state = "running" if ref is not None and ref.is_alive() else "restarting"
    inbox = ref.actor_inbox.qsize() if ref is not None else 0  # type: ignore[attr-defined]
    detail = ""
    workers: list[ActorInfo] = []
    if ref is not None and state == "running":
        detail, workers = _say(child.role, ref)
    first = ActorInfo(child.role, state, child.restarts, inbox, child.last_error, detail)
    return [first, *workers]


def _say(role: str, ref: pykka.ActorRef[Any]) -> tuple[str, list[ActorInfo]]:
    """What an actor says of itself, and a line for each of those that it speaks for."""
    if role == "recorder":
        if (spooled := ask_quietly(ref, GetSpoolStats(), PATIENCE)) is not None:
            return f"spooled={spooled.depth} dead_letters={spooled.dead_letters}", []
    elif role == "mcp":
        if (tools := ask_quietly(ref, GetMcpState(), PATIENCE)) is not None:
            detail = (
                f"users={tools.users} sessions={tools.sessions} listeners={tools.listeners}"
                f" left_out={len(tools.left_out)}"
            )
            return detail, [_left_out(tool) for tool in tools.left_out[:MAX_LEFT_OUT]]
    elif role.startswith("provider/"):
        return _say_of_provider(role, ref)
    return "", []


def _say_of_provider(role: str, ref: pykka.ActorRef[Any]) -> tuple[str, list[ActorInfo]]:
    state = ask_quietly(ref, GetProviderState(), PATIENCE)
    if state is None:
        return "", []
    detail = (
        f"busy={state.busy} idle={state.idle} draining={state.draining} waiting={state.waiting}"
    )
    if state.sessions:
        detail += f" sessions={state.sessions}"
    workers = [
        ActorInfo(worker.role, worker.state, 0, 0, detail=f"exchanges={worker.exchanges}")
        for worker in state.workers
    ]
    return detail, [*_resting_keys(role, state), *workers]


def _serves(config: ProviderConfig) -> bool:
    return config.enabled and config.error is None


def _report_misconfigured(config: ProviderConfig) -> None:
    log.error(
        "skipping misconfigured ai provider",
        provider_name=config.name,
        provider_type=config.type,
        error=config.error,
        way_out=config.way_out,
    )


def _idle(config: ProviderConfig) -> ActorInfo:
    """A line for a provider that has no actor."""
    role = provider_role(config.name)
    if not config.enabled:
        return ActorInfo(role, "disabled", 0, 0)
    detail = f"{config.error}; {config.way_out}" if config.way_out else config.error or ""
    return ActorInfo(role, "error", 0, 0, detail=detail)


def _left_out(tool: LeftOut) -> ActorInfo:
    """A line for a tool that is not offered."""
    role = "/".join(["mcp", tool.server_id, *([tool.tool] if tool.tool else [])])
    where = f"{tool.where}: " if tool.where else ""
    return ActorInfo(role, "left out", 0, 0, detail=f"{where}{tool.reason}")


def _resting_keys(role: str, state: ProviderState) -> list[ActorInfo]:
    """A line for each rest of each key: for what, until when, why."""
    now = time.time()
    lines = []
    for key in state.keys:
        name = f"{role}/key {key.hint}"
        told = [_told(rest, now) for rest in key.rests[:SHOWN_RESTS]]
        if len(key.rests) > SHOWN_RESTS:
            told.append(f"{len(key.rests) - SHOWN_RESTS} more rests")
        lines += [ActorInfo(name, "resting", 0, 0, detail=detail) for detail in told]
    return lines


def _told(rest: Rest, now: float) -> str:
    until = datetime.fromtimestamp(now + rest.remaining, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    what = "everything" if rest.subject is None else str(rest.subject)
    return f"{what} until {until} ({rest.reason})"
