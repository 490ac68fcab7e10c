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
from collections.abc import Callable, Mapping
from typing import Any

import structlog

from aigateway.http.settings.sockets import socket_path

__all__ = ["ControlSocket"]

MAX_LINE = 65536
IDLE = 5.0
"""Seconds that a client of the socket may take for its line."""

log = structlog.get_logger("ai-gateway")


class ControlSocket:
    """Serves one worker's actors to operators on this machine."""

    def __init__(
        self, folder: str, answer: Callable[[Mapping[str, Any]], Mapping[str, Any]]
    ) -> None:
        """``answer`` is asked what a client of the socket asks."""
        self._path = socket_path(folder, os.getpid())
        self._answer = answer
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
