"""The whole demonstration: imitation provider, gateway, database and a user's key."""

from __future__ import annotations

import contextlib
import importlib.util
import secrets
import shutil
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Self

from aigateway.actors.control.local.api_keys import create_key
from aigateway.actors.control.local.schema import open_database
from aigateway.actors.values.records import timestamp
from aigateway.http.demo.gateway import GatewayProcess
from aigateway.http.demo.history import tell_history, tell_people
from aigateway.http.demo.imitation import HeardRequest
from aigateway.http.demo.records import RecordReader
from aigateway.http.demo.server import ImitationServer

__all__ = ["USERNAME", "Stage"]

USERNAME = "demo"


class Stage:
    """Builds everything in a temporary folder and takes it down again.

    ``delay`` is the pause before each event of the imitation's streams in seconds, ``listen``
    keeps what the imitation is asked, ``keep`` leaves the folder, ``pages`` adds two weeks of
    records and the console that shows them, where its extra is installed.  Enter it, then
    :meth:`open`.
    """

    def __init__(
        self,
        *,
        port: int = 0,
        workers: int = 1,
        delay: float = 0.0,
        listen: bool = False,
        keep: bool = False,
        pages: bool = False,
    ) -> None:
        self._options = (port, workers, delay)
        self._listen = listen
        self._keep = keep
        self._pages = pages and importlib.util.find_spec("jinja2") is not None
        self._exits = contextlib.ExitStack()
        self.folder = Path(tempfile.mkdtemp(prefix="aigateway-demo-"))
        self.provider_key = f"provider-{secrets.token_hex(12)}"
        """The key that the gateway has for the imitation; no client ever sees it."""
        self.own_key = f"direct-{secrets.token_hex(12)}"
        """A key to call the imitation directly."""
        self.user_key = ""
        self.console_link = ""
        """Signs a browser in; empty: there is no console."""
        self.heard: list[HeardRequest] = []
        """What the imitation was asked, when that is kept."""

    def open(self, given_up: Callable[[], bool] = lambda: False) -> None:
        """Start everything; returns early when ``given_up`` says so.

        Raises DemoFailed, LocalDatabaseError, OSError.
        """
        port, workers, delay = self._options
        database = self.folder / "records.db"
        with contextlib.closing(open_database(database)) as connection:
            self.user_key = create_key(connection, USERNAME).token
        began = time.time()
        if self._pages:
            tell_history(database, began)
            tell_people(database, began)
        keys = {self.provider_key, self.own_key}
        self.imitation = self._exits.enter_context(
            ImitationServer(
                keys=keys, delay=delay, heard=self.heard.append if self._listen else None
            )
        )
        self.gateway = self._exits.enter_context(
            GatewayProcess(
                self.folder,
                imitation=self.imitation.url,
                provider_key=self.provider_key,
                port=port,
                workers=workers,
                console=self._pages,
            )
        )
        self.records = self._exits.enter_context(RecordReader(database, timestamp(began)))
        self.gateway.wait_until_ready(given_up)
        if self._pages and self.gateway.url:
            self.console_link = self.gateway.wait_for_link(given_up)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_raised: object) -> None:
        try:
            self._exits.close()
        finally:
            if not self._keep:
                shutil.rmtree(self.folder, ignore_errors=True)
