"""One worker process at one moment: its actors, its requests, and where all of it is.

Taken without asking any actor: what hangs must not keep the others from being seen.
"""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Collection, Iterable

import attrs
from attrs import frozen

from aigateway.actors.actor.activity import ActorActivity, activities
from aigateway.actors.actor.tree import ActorHistory, ActorTree
from aigateway.http.diagnosis.stacks import Executing, Process, Stack
from aigateway.http.request.inbound import Call

__all__ = ["ActorLine", "OtherLine", "RequestLine", "Snapshot", "oldest", "take"]

OLDEST = 20
"""Requests that are shown one by one."""
MOST_OTHERS = 40
"""Different stacks, beside those of actors, that are shown."""
NAMES = 3
"""Names that are given of threads with the same stack."""
LONGEST_TEXT = 300
"""Characters of what came from elsewhere: an error's text, a path, a model."""


@frozen
class ActorLine:
    """One actor, or a role that nobody fills at this moment."""

    role: str
    state: str
    """starting, waiting, working or stopping; ``restarting`` where there is none;
    ``replaced`` for one that finishes what it has begun while its successor works."""
    message: str
    """The type of the message in hand."""
    seconds: float
    """For how long it has had it."""
    inbox: int
    restarts: int
    last_error: str
    stack: int | None
    """Index into the snapshot's stacks."""


@frozen
class RequestLine:
    """One request that is being served."""

    seconds: float
    stage: str
    method: str
    path: str
    provider: str
    model: str
    request_id: str
    interception_id: str
    user: str
    client: str


@frozen
class OtherLine:
    """Threads or greenlets that are no actors and are all at the same place."""

    count: int
    kind: str
    names: tuple[str, ...]
    stack: int


@frozen
class Snapshot:
    """What :func:`take` saw."""

    pid: int
    server: str
    """The gunicorn worker class."""
    seconds: float
    """Since the actors were started."""
    actors: tuple[ActorLine, ...]
    requests: int
    stages: dict[str, int]
    """Requests by stage."""
    oldest: tuple[RequestLine, ...]
    executing: int
    """Threads and greenlets in all."""
    others: tuple[OtherLine, ...]
    left_out: int
    """Threads and greenlets that are not among them: there were too many different ones."""
    stacks: tuple[Stack, ...]
    """Each once, however many are there."""

    def as_dict(self) -> dict[str, object]:
        """For JSON."""
        return attrs.asdict(self)


def take(
    process: Process,
    tree: ActorTree,
    calls: Collection[Call],
    *,
    server: str,
    since: float,
) -> Snapshot:
    """Look at this process; ``since`` is the monotonic time at which its actors were started."""
    now = time.monotonic()
    found = {one.ident: one for one in process.executing()}
    stacks = _Stacks()
    histories = tree.histories()
    actors = []
    for activity in activities():
        its = found.get(activity.thread)
        stack = None if its is None else stacks.index(its.stack)
        actors.append(_actor(activity, tree, histories, now, stack))
    filled = {line.role for line in actors if line.state != "replaced"}
    actors += [
        ActorLine(role, "restarting", "", 0.0, 0, past.restarts, _short(past.last_error), None)
        for role, past in histories.items()
        if role not in filled
    ]
    threads = {activity.thread for activity in activities()}
    rest = [one for one in found.values() if one.ident not in threads]
    others, left_out = _others(rest, stacks)
    running = list(calls)
    return Snapshot(
        pid=os.getpid(),
        server=server,
        seconds=now - since,
        actors=tuple(sorted(actors, key=lambda line: _in_order(line.role))),
        requests=len(running),
        stages=dict(Counter(call.stage for call in running).most_common()),
        oldest=tuple(oldest(running, now)),
        executing=len(found),
        others=others,
        left_out=left_out,
        stacks=tuple(stacks.all),
    )


class _Stacks:
    def __init__(self) -> None:
        self.all: list[Stack] = []
        self._places: dict[Stack, int] = {}

    def index(self, stack: Stack) -> int:
        place = self._places.setdefault(stack, len(self.all))
        if place == len(self.all):
            self.all.append(stack)
        return place


def _actor(
    activity: ActorActivity,
    tree: ActorTree,
    histories: dict[str, ActorHistory],
    now: float,
    stack: int | None,
) -> ActorLine:
    past = histories.get(activity.role, ActorHistory())
    state: str = activity.state
    successor = tree.find(activity.role)
    if successor is not None and successor.actor_urn != activity.urn:
        state = "replaced"
    return ActorLine(
        activity.role,
        state,
        activity.message,
        max(0.0, now - activity.since) if activity.message else 0.0,
        activity.inbox,
        past.restarts,
        _short(past.last_error),
        stack,
    )


def _in_order(role: str) -> tuple[bool, list[tuple[int, str]]]:
    """The supervisor first; workers by their numbers."""
    parts = role.replace("-", "/").split("/")
    return role != "supervisor", [(len(part) * part.isdigit(), part) for part in parts]


def oldest(calls: Iterable[Call], now: float) -> list[RequestLine]:
    """Those of ``calls`` that run longest; ``now`` is a monotonic time."""
    first = sorted(calls, key=lambda call: call.began)[:OLDEST]
    return [
        RequestLine(
            now - call.began,
            call.stage,
            call.inbound.method,
            _short(call.inbound.shown_path),
            call.provider_name,
            _short(call.model),
            call.request_id,
            call.interception_id,
            call.caller.username if call.caller is not None else "",
            _short(call.client),
        )
        for call in first
    ]


def _others(rest: list[Executing], stacks: _Stacks) -> tuple[tuple[OtherLine, ...], int]:
    groups: dict[tuple[str, Stack], list[str]] = {}
    for one in rest:
        groups.setdefault((one.kind, one.stack), []).append(one.name)
    largest = sorted(groups.items(), key=lambda item: -len(item[1]))
    lines = []
    for (kind, stack), names in largest[:MOST_OTHERS]:
        named = tuple(sorted({name for name in names if name}))[:NAMES]
        lines.append(OtherLine(len(names), kind, named, stacks.index(stack)))
    return tuple(lines), sum(len(names) for _, names in largest[MOST_OTHERS:])


def _short(text: str) -> str:
    return text if len(text) <= LONGEST_TEXT else f"{text[:LONGEST_TEXT]}…"
