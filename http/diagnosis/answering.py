"""What a worker process answers about itself, and does when it is told to: the same for those who
ask through its socket and for consoles that ask through the database."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Mapping
from typing import Any, Final

import attrs
import pykka

from aigateway.actors.actor.base import ask
from aigateway.actors.recorder.messages import Redeliver
from aigateway.actors.supervisor import ListActors, RestartActor, Supervisor
from aigateway.http.diagnosis.dumps import dumped
from aigateway.http.diagnosis.serving import providers_now, requests_now
from aigateway.http.request.inbound import Call
from aigateway.http.request.runtime import Runtime

__all__ = ["Answering"]

_PATIENCE: Final = 5.0
"""Seconds for an actor to answer."""


class Answering:
    """Call it with a question.  It knows nothing before :meth:`serve`."""

    def __init__(self) -> None:
        self.address = ""
        """Where the gateway listens; empty before that is known."""
        self._runtime: Runtime | None = None
        self._calls: Collection[Call] = ()
        self._snapshot: Callable[[], Mapping[str, Any]] = dict

    def serve(
        self,
        runtime: Runtime,
        calls: Collection[Call],
        snapshot: Callable[[], Mapping[str, Any]],
        address: str,
    ) -> None:
        """``calls`` are the requests that are being served, ``snapshot`` what it does now."""
        self.address = address
        self._runtime, self._calls, self._snapshot = runtime, calls, snapshot

    def __call__(self, question: Mapping[str, Any]) -> Mapping[str, Any]:
        """What the worker says, as JSON can hold it; with ``error`` when it cannot."""
        runtime = self._runtime
        supervisor = None if runtime is None else runtime.supervisor
        if runtime is None or supervisor is None:
            return {"error": "this worker is stopping"}
        try:
            return {"pid": os.getpid(), **self._answer(question, runtime, supervisor)}
        except (pykka.ActorDeadError, pykka.Timeout) as ex:
            return {"error": f"the supervisor does not answer: {ex}"}

    def _answer(
        self,
        question: Mapping[str, Any],
        runtime: Runtime,
        supervisor: pykka.ActorRef[Supervisor],
    ) -> Mapping[str, Any]:
        match question.get("command"):
            case "list":
                found = [attrs.asdict(each) for each in ask(supervisor, ListActors(), _PATIENCE)]
                shown = _first(found, int(question.get("most") or len(found)))
                left_out = len(found) - len(shown)
                return {"actors": shown, **({"left_out": left_out} if left_out else {})}
            case "restart":
                restart = RestartActor(str(question["role"]), bool(question.get("crash")))
                return {"done": ask(supervisor, restart, _PATIENCE)}
            case "redeliver":
                recorder = runtime.tree.find("recorder")
                count = 0 if recorder is None else ask(recorder, Redeliver(), _PATIENCE)
                return {"records": count}
            case "requests":
                return requests_now(self._calls)
            case "providers":
                return {"providers": providers_now(runtime.tree)}
            case "trace":
                return self._snapshot()
            case "dump":
                folders = [config.dump_dir for config in runtime.tree.provider_configs()]
                return {"files": dumped(folders, str(question["id"]))}
            case "dial":
                return {"dialled": _dial(runtime, str(question["provider"]))}
            case unknown:
                return {"error": f"unknown command {unknown!r}"}


def _first(actors: list[dict[str, Any]], most: int) -> list[dict[str, Any]]:
    """At most so many, in their order: those that others work for come before these."""
    if len(actors) <= most:
        return actors
    left = most - sum(each["role"].count("/") < 2 for each in actors)
    shown = []
    for each in actors:
        if each["role"].count("/") >= 2:
            left -= 1
            if left < 0:
                continue
        shown.append(each)
    return shown


def _dial(runtime: Runtime, name: str) -> list[dict[str, object]]:
    """What comes of asking a provider for its models, with each of its keys."""
    # Later: what it imports is of no use to requests.
    from aigateway.http.diagnosis.dialling import dial_providers

    configs = [each for each in runtime.tree.provider_configs() if each.name == name]
    return [attrs.asdict(each) for each in dial_providers(configs, models=True)]
