"""Steady load from clients that do what a load balancer does, and what became of each request."""

from __future__ import annotations

import http.client
import json
import select
import socket
import ssl
import threading
from itertools import count
from typing import Self

from attrs import field, frozen
from held import APIS, SHUTTING_DOWN, ask

__all__ = ["DeployLoad", "Outcome"]

APIS_ASKED = ("messages", "chat", "responses")
ENDS = {"messages": b"message_stop", "chat": b"[DONE]", "responses": b"response.completed"}


@frozen
class Outcome:
    """One request, seen from its client."""

    phase: str
    """What was going on when it began."""
    address: str
    """Who answered; empty: nobody."""
    port: int
    """The client's end of the connection."""
    interception_id: str
    problem: str
    """Empty: the answer came whole."""
    turned_away: tuple[str, ...]
    """By whom before that, and how; nothing had begun there."""


class _TurnedAway(Exception):
    """Another gateway can be asked: this one has not begun anything."""


@frozen
class DeployLoad:
    """Asks with ``clients`` threads, each one request after the other, while it is entered."""

    addresses: list[str]
    """``host:port`` of each gateway, in turn; who turns a request away is not the last asked."""
    key: str
    tls: ssl.SSLContext | None
    """None: plain HTTP."""
    clients: int = 8
    phases: list[str] = field(factory=lambda: ["start"])
    """The last one is now."""
    outcomes: list[Outcome] = field(factory=list)
    last_words: threading.Event = field(factory=threading.Event)
    """Set: who is turned away by all ends, and that is no failure."""
    _over: threading.Event = field(factory=threading.Event)
    _threads: list[threading.Thread] = field(factory=list)

    def __enter__(self) -> Self:
        for number in range(self.clients):
            thread = threading.Thread(target=_Client(self, number).run, daemon=True)
            self._threads.append(thread)
            thread.start()
        return self

    def __exit__(self, *raised: object) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join(60)

    @property
    def running(self) -> bool:
        return not self._over.is_set()

    @property
    def ended(self) -> bool:
        """Whether all clients have ended."""
        return not any(thread.is_alive() for thread in self._threads)

    @property
    def whole(self) -> list[Outcome]:
        return [one for one in list(self.outcomes) if not one.problem]

    @property
    def failed(self) -> list[Outcome]:
        return [one for one in list(self.outcomes) if one.problem]


class _Client:
    def __init__(self, load: DeployLoad, number: int) -> None:
        self._load = load
        self._number = number
        self._port = 0
        self._connections: dict[str, http.client.HTTPConnection] = {}

    def run(self) -> None:
        for number in count(self._number):
            if not self._load.running:
                break
            if number % 5 == 0:
                # Most requests are on kept connections, some on new ones.
                self._hang_up()
            if not self._one(number):
                break
        self._hang_up()

    def _hang_up(self) -> None:
        for connection in self._connections.values():
            connection.close()
        self._connections.clear()

    def _one(self, number: int) -> bool:
        load = self._load
        phase, addresses = load.phases[-1], list(load.addresses)
        turned_away: list[str] = []
        for step in range(len(addresses)):
            address = addresses[(number + step) % len(addresses)]
            try:
                interception_id, problem = self._ask(address, number)
            except _TurnedAway as ex:
                turned_away.append(f"{address}: {ex}")
                continue
            except (OSError, http.client.HTTPException) as ex:
                interception_id, problem = "", repr(ex)
                self._drop(address)
            outcome = Outcome(
                phase, address, self._port, interception_id, problem, tuple(turned_away)
            )
            load.outcomes.append(outcome)
            return True
        if load.last_words.is_set():
            return False
        problem = "; ".join(turned_away)
        load.outcomes.append(Outcome(phase, "", self._port, "", problem, tuple(turned_away)))
        return True

    def _ask(self, address: str, number: int) -> tuple[str, str]:
        """Returns the interception's id, and what is wrong with the answer."""
        api, streaming = _kind(number)
        before = self._connections.get(address)
        connection = self._connected(address)
        new = " on a new connection" if connection is not before else ""
        body = json.dumps(ask(api, stream=streaming, model="any"))
        headers = {"Authorization": f"Bearer {self._load.key}", "Content-Type": "application/json"}
        try:
            connection.request("POST", APIS[api], body, headers)
            answer = connection.getresponse()
        except (ConnectionError, http.client.RemoteDisconnected, ssl.SSLEOFError) as ex:
            self._drop(address)
            raise _TurnedAway(f"{ex!r}{new}") from ex
        data = answer.read()
        interception_id = answer.headers.get("X-AI-Gateway-Interception-Id", "")
        if answer.will_close:
            self._drop(address)
        if answer.status == 503 and SHUTTING_DOWN.encode() in data and not interception_id:
            raise _TurnedAway(f"503{new}")
        problem = ""
        if answer.status != 200:
            problem = f"{answer.status}: {data[:200]!r}"
        elif streaming and ENDS[api] not in data:
            problem = f"the stream is not whole: {data[-200:]!r}"
        return interception_id, problem

    def _drop(self, address: str) -> None:
        self._connections.pop(address).close()

    def _connected(self, address: str) -> http.client.HTTPConnection:
        connection = self._connections.get(address)
        if connection is not None and select.select([connection.sock], [], [], 0)[0]:
            # It was closed meanwhile.
            self._drop(address)
            connection = None
        if connection is None:
            host, port = address.split(":")
            connection = http.client.HTTPConnection(host, int(port), timeout=60)
            try:
                plain = socket.create_connection((host, int(port)), timeout=60)
                self._port = plain.getsockname()[1]
                tls = self._load.tls
                connection.sock = tls.wrap_socket(plain, server_hostname=host) if tls else plain
            except (ConnectionError, ssl.SSLEOFError) as ex:
                raise _TurnedAway(f"{ex!r} on a new connection") from ex
            self._connections[address] = connection
        self._port = connection.sock.getsockname()[1]
        return connection


def _kind(number: int) -> tuple[str, bool]:
    """API, and whether a stream is asked for."""
    return APIS_ASKED[number % 3], number % 2 == 0
