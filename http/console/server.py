"""The console's process: gunicorn with one worker, whose threads answer."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from gunicorn.app.base import BaseApplication
from gunicorn.workers.gthread import ThreadWorker

from aigateway.http.console.app import LIVE_PAGES, ConsoleApp, Sources, create_app
from aigateway.http.console.door import Door

__all__ = ["ConsoleServer", "ConsoleWorker"]

_ANSWERING: Final = 8
"""Threads beside those that live pages hold."""


class ConsoleWorker(ThreadWorker):  # type: ignore[misc]
    """Ends its streams when it is told to stop: else it would wait for them."""

    def handle_exit(self, sig: int, frame: Any) -> None:
        self._end_streams()
        super().handle_exit(sig, frame)

    def handle_quit(self, sig: int, frame: Any) -> None:
        self._end_streams()
        super().handle_quit(sig, frame)

    def _end_streams(self) -> None:
        app = self.app.callable
        if isinstance(app, ConsoleApp):
            app.pulses.stop()


class ConsoleServer(BaseApplication):  # type: ignore[misc]
    """Listens until it is stopped."""

    def __init__(
        self,
        address: str,
        sources: Sources,
        who: str,
        ready: Callable[[str, str], None],
        tls: tuple[str, str] | None = None,
    ) -> None:
        """``who`` opens the link; ``ready`` is called with the console's address and the link,
        which is empty where there is none; ``tls`` are the files of a certificate and its key."""
        self._address = address
        self._sources = sources
        self._door = Door(who=who)
        self._ready = ready
        self._tls = {"certfile": tls[0], "keyfile": tls[1]} if tls else {}
        super().__init__()

    def load_config(self) -> None:
        for name, value in {
            "bind": self._address,
            "workers": 1,
            "worker_class": ConsoleWorker,
            "threads": LIVE_PAGES + _ANSWERING,
            "keepalive": 30,
            "graceful_timeout": 10,
            "timeout": 60,
            "loglevel": "warning",
            "forwarder_headers": "",
            "limit_request_line": 8190,
            "control_socket_disable": True,
            "when_ready": self._when_ready,
            # Only what is behind --trusted-proxies is believed, and that is looked at later.
            "forwarded_allow_ips": "",
            **self._tls,
        }.items():
            if name in self.cfg.settings:
                self.cfg.set(name, value)

    def load(self) -> ConsoleApp:
        return create_app(self._sources, self._door)

    def _when_ready(self, server: Any) -> None:
        host, port = server.LISTENERS[0].sock.getsockname()[:2]
        shown = f"[{host}]" if ":" in host else host
        address = f"{'https' if self._tls else 'http'}://{shown}:{port}"
        reach = self._sources.reach
        link = f"{address}/sign-in?token={self._door.link_token}" if reach.local else ""
        self._ready(reach.origin or address, link)
