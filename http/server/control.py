"""The control socket of a worker process: what ``aigateway actors`` talks to.

One unix socket per worker, ``worker-<pid>.sock`` in the runtime folder, readable by its
owner alone.  One JSON line in, one JSON line out.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import threading
from collections.abc import Collection

import attrs
import pykka
import structlog

from aigateway.actors.actor.base import ask
from aigateway.actors.recorder.messages import Redeliver
from aigateway.actors.supervisor import ListActors, RestartActor
from aigateway.http.diagnosis.serving import providers_now, requests_now
from aigateway.http.request.call import Call
from aigateway.http.request.runtime import Runtime
from aigateway.http.settings.sockets import socket_path

__all__ = ["ControlSocket"]

MAX_LINE = 65536
IDLE = 5.0
"""Seconds that a client of the socket may take for its line."""

log = structlog.get_logger("ai-gateway")


class ControlSocket:
    """Serves one worker's actors to operators on this machine."""

    def __init__(self, folder: str, runtime: Runtime, calls: Collection[Call]) -> None:
        """``calls`` are the requests that are being served."""
        self._path = socket_path(folder, os.getpid())
        self._runtime = runtime
        self._calls = calls
        self._listener: socket.socket | None = None

    def start(self) -> None:
        """Listen.  A folder that cannot be used is logged: the gateway serves without."""
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            self._path.unlink(missing_ok=True)
            listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            listener.bind(str(self._path))
            os.chmod(self._path, 0o600)
            listener.listen(16)
        except OSError as ex:
            log.warning(
                "no control socket, `aigateway actors` will not see this worker;"
                " check --runtime-dir",
                path=str(self._path),
                error=str(ex),
            )
            return
        self._listener = listener
        threading.Thread(target=self._accept, name="control-socket", daemon=True).start()

    def close(self) -> None:
        """Stop listening and remove the socket."""
        if self._listener is not None:
            listener, self._listener = self._listener, None
            with contextlib.suppress(OSError):
                listener.shutdown(socket.SHUT_RDWR)
            listener.close()
        with contextlib.suppress(OSError):
            self._path.unlink(missing_ok=True)

    def _accept(self) -> None:
        while (listener := self._listener) is not None:
            try:
                client, _ = listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        with client:
            client.settimeout(IDLE)
            try:
                with client.makefile("rb") as lines:
                    question = json.loads(lines.readline(MAX_LINE) or b"{}")
                client.sendall(json.dumps(self._answer(question)).encode() + b"\n")
            except (OSError, ValueError) as ex:
                log.debug("control socket", error=str(ex))

    def _answer(self, question: dict[str, object]) -> dict[str, object]:
        supervisor = self._runtime.supervisor
        if supervisor is None:
            return {"error": "this worker is stopping"}
        try:
            match question.get("command"):
                case "list":
                    infos = ask(supervisor, ListActors(), 5)
                    return {"pid": os.getpid(), "actors": [attrs.asdict(info) for info in infos]}
                case "restart":
                    restart = RestartActor(str(question["role"]), bool(question.get("crash")))
                    return {"pid": os.getpid(), "done": ask(supervisor, restart, 5)}
                case "redeliver":
                    recorder = self._runtime.tree.find("recorder")
                    count = 0 if recorder is None else ask(recorder, Redeliver(), 5)
                    return {"pid": os.getpid(), "records": count}
                case "requests":
                    return {"pid": os.getpid(), **requests_now(self._calls)}
                case "providers":
                    return {"pid": os.getpid(), "providers": providers_now(self._runtime.tree)}
                case "dial":
                    return {"pid": os.getpid(), "dialled": self._dial(str(question["provider"]))}
                case unknown:
                    return {"error": f"unknown command {unknown!r}"}
        except (pykka.ActorDeadError, pykka.Timeout) as ex:
            return {"error": f"the supervisor does not answer: {ex}"}

    def _dial(self, name: str) -> list[dict[str, object]]:
        """What comes of asking a provider for its models, with each of its keys."""
        # Later: what it imports is of no use to requests.
        from aigateway.http.diagnosis.dialling import dial_providers

        configs = [each for each in self._runtime.tree.provider_configs() if each.name == name]
        return [attrs.asdict(each) for each in dial_providers(configs, models=True)]
