"""``python -m bench.load.agents SPEC``: coding agents, each with a conversation that grows.

An agent sends all that was said so far, reads the streamed answer, thinks, and sends what has
become of it.  At the beginning the agents are spread evenly over the turns of their
conversations, so that every size is on its way at any time; an agent that has come to the end
begins again.

Each answer is held against what the imitation sends, byte by byte but for the times in it.
"""

from __future__ import annotations

import gc
import heapq
import itertools
import json
import os
import random
import select
import socket
import sys
from collections.abc import Callable
from pathlib import Path
from time import monotonic_ns
from typing import Any

import httptools

from bench.conversations import Conversation, conversation
from bench.load.driver import say
from bench.load.histogram import Histogram
from bench.load.spec import AgentsSpec
from bench.upstream.answers import answer_of_agents, is_complete, without_times

__all__ = ["AgentsDriver"]

_KINDS = 8
"""Conversations that differ; more agents share them."""
_RETRY_US = 500_000
"""Pause of an agent whose turn failed."""


def _now() -> int:
    """CLOCK_MONOTONIC in microseconds."""
    return monotonic_ns() // 1000


class _Agent:
    """One agent and its connection."""

    def __init__(self, driver: AgentsDriver, talk: Conversation, turn: int) -> None:
        self._driver = driver
        self._talk = talk
        self.turn = turn
        self.sock: socket.socket | None = None
        self.out = memoryview(b"")
        self.began = self.first = 0
        self.measured = False
        self._answered = False
        """Whether this connection has brought a whole answer."""
        self._parser: Any = None
        self._pieces: list[bytes] = []

    @property
    def busy(self) -> bool:
        return self.began != 0

    def ask(self, now: int) -> None:
        """Take the next turn."""
        driver = self._driver
        if driver.ending:
            return
        self.began, self.first = now, 0
        self.measured = driver.measuring
        driver.begun += 1
        body = self._talk.body(self.turn)
        self.out = memoryview(b"%bContent-Length: %d\r\n\r\n%b" % (driver.head, len(body), body))
        self._pieces = []
        self._parser = httptools.HttpResponseParser(self)
        if self.sock is None:
            self.sock = socket.socket()
            self.sock.setblocking(False)
            self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self.sock.connect_ex(("127.0.0.1", driver.spec.port))
            self._answered = False
            driver.watch(self, select.EPOLLIN | select.EPOLLOUT)
        else:
            self.write()

    def write(self) -> None:
        assert self.sock is not None
        try:
            sent = self.sock.send(self.out)
        except BlockingIOError:
            sent = 0
        except OSError as ex:
            self._broken(ex.strerror or "write error")
            return
        self.out = self.out[sent:]
        self._driver.watch(self, select.EPOLLIN | (select.EPOLLOUT if self.out else 0))

    def read(self) -> None:
        if self.sock is None:
            return
        try:
            data = self.sock.recv(262144)
        except BlockingIOError:
            return
        except OSError as ex:
            self._broken(ex.strerror or "read error")
            return
        if not data:
            self._broken("closed inside the answer" if self.first else "closed without an answer")
            return
        if not self.first:
            self.first = _now()
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError as ex:
            self._broken(f"not HTTP: {ex}")

    # -- told by the parser

    def on_body(self, data: bytes) -> None:
        self._pieces.append(data)

    def on_message_complete(self) -> None:
        now, driver = _now(), self._driver
        status = self._parser.get_status_code()
        if not self._parser.should_keep_alive():
            self._drop()
        if status != 200:
            self._failed(f"status {status}")
            return
        self._answered = True
        person, size = self._talk.persons[self.turn], self._talk.size(self.turn)
        driver.answered(self, b"".join(self._pieces), size, person, now)
        self.began = 0
        self.turn += 1
        if self.turn == self._talk.turns:
            self.turn = 0
        driver.at(now + driver.pause(), self.ask)

    # -- what goes wrong

    def _broken(self, reason: str) -> None:
        self._drop()
        if not self.busy:
            return
        if self._answered and not self.first:
            # A kept-alive connection was closed as we wrote: every client tries again.
            began, measured = self.began, self.measured
            self._driver.begun -= 1
            self.ask(began)
            self.measured = measured
            return
        self._failed(reason)

    def _failed(self, reason: str) -> None:
        self._driver.error(reason)
        self.began = 0
        self._driver.at(_now() + _RETRY_US, self.ask)

    def _drop(self) -> None:
        if self.sock is not None:
            self._driver.forget(self.sock)
            self.sock.close()
            self.sock = None


class AgentsDriver:
    """Runs one spec."""

    def __init__(self, spec: AgentsSpec) -> None:
        self.spec = spec
        self.head = Path(spec.head).read_bytes()
        self.ending = self.measuring = False
        self.begun = self.finished = self.persons = self.changed = self.broken = 0
        self.bytes_sent = 0
        self.errors: dict[str, int] = {}
        self._measured_turns = 0
        self._chance = random.Random(spec.seed)
        self._epoll = select.epoll()
        self._watched: dict[int, _Agent] = {}
        self._due: list[tuple[int, int, Callable[[int], None]]] = []
        self._order = itertools.count()
        self._expected = without_times(answer_of_agents(spec.events))
        kinds = range(min(_KINDS, spec.agents))
        self._talks = [
            conversation(
                spec.seed + kind,
                turns=spec.turns,
                first=spec.first_kb * 1000,
                last=spec.last_kb * 1000,
                model=spec.model,
            )
            for kind in kinds
        ]
        self._ttfb, self._whole = Histogram(), Histogram()
        self._by_size = [Histogram() for _ in range(spec.classes)]

    def run(self) -> dict[str, Any]:
        """Drive, and return the result."""
        spec = self.spec
        began = _now()
        agents = [
            _Agent(self, self._talks[n % len(self._talks)], n * spec.turns // spec.agents)
            for n in range(spec.agents)
        ]
        for number, agent in enumerate(agents):
            self.at(began + int(spec.ramp * 1e6 * number / spec.agents), agent.ask)
        self._until(began + int(spec.ramp * 1e6))
        say(phase="measuring")
        self.measuring, start = True, _now()
        self._until(start + int(spec.seconds * 1e6))
        self.measuring, measured = False, _now()
        say(phase="measured")
        self.ending = True
        self._until(measured + int(spec.grace * 1e6), lambda: not any(a.busy for a in agents))
        unfinished = [agent for agent in agents if agent.busy]
        now = _now()
        for agent in unfinished:
            if agent.measured and not agent.first:
                self._ttfb.add(now - agent.began)
        return self._result((measured - start) / 1e6, len(unfinished))

    def _until(self, deadline: int, over: Callable[[], bool] = lambda: False) -> None:
        due = self._due
        while (now := _now()) < deadline and not over():
            while due and due[0][0] <= now:
                heapq.heappop(due)[2](now)
            until = min(due[0][0] if due else deadline, deadline)
            if self.ending:
                until = min(until, now + 20_000)
            for fd, mask in self._epoll.poll(max(until - _now(), 0) / 1e6, 1024):
                agent = self._watched.get(fd)
                if agent is not None and mask & select.EPOLLOUT:
                    agent.write()
                if mask & ~select.EPOLLOUT and (agent := self._watched.get(fd)) is not None:
                    agent.read()

    # -- told by agents

    def answered(self, agent: _Agent, body: bytes, size: int, person: bool, now: int) -> None:
        self.finished += 1
        self.persons += person
        if self.measuring:
            self._measured_turns += 1
        if without_times(body) != self._expected:
            self.changed += 1
            self.broken += not is_complete(body, self.spec.events)
        if agent.measured:
            took = agent.first - agent.began
            self.bytes_sent += size
            self._ttfb.add(took)
            self._by_size[self._class_of(size)].add(took)
            self._whole.add(now - agent.began)

    def _class_of(self, size: int) -> int:
        low, high = self.spec.first_kb * 1000, self.spec.last_kb * 1000
        share = (size - low) / max(high - low, 1)
        return min(max(int(share * self.spec.classes), 0), self.spec.classes - 1)

    def pause(self) -> int:
        """Microseconds that an agent thinks, or its tools take: the mean of them is the spec's."""
        return int(self._chance.expovariate(1 / self.spec.think) * 1e6) if self.spec.think else 0

    def error(self, reason: str) -> None:
        self.errors[reason] = self.errors.get(reason, 0) + 1

    def at(self, when: int, callback: Callable[[int], None]) -> None:
        heapq.heappush(self._due, (when, next(self._order), callback))

    def watch(self, agent: _Agent, mask: int) -> None:
        assert agent.sock is not None
        fd = agent.sock.fileno()
        if fd in self._watched:
            self._epoll.modify(fd, mask)
        else:
            self._epoll.register(fd, mask)
        self._watched[fd] = agent

    def forget(self, sock: socket.socket) -> None:
        self._watched.pop(sock.fileno(), None)

    def _result(self, seconds: float, unfinished: int) -> dict[str, Any]:
        times = os.times()
        sizes = {f"ttfb_{n}": each.to_json() for n, each in enumerate(self._by_size)}
        return {
            "numbers": {
                "seconds": seconds,
                "turns_begun": self.begun,
                "turns": self.finished,
                "turns_measured": self._measured_turns,
                "turns_unfinished": unfinished,
                "persons": self.persons,
                "answers_changed": self.changed,
                "answers_broken": self.broken,
                "bytes_sent": self.bytes_sent,
                "driver_cpu": times.user + times.system,
            },
            "histograms": {"ttfb": self._ttfb.to_json(), "whole": self._whole.to_json(), **sizes},
            "errors": self.errors,
        }


def main() -> None:
    spec = AgentsSpec.from_json(json.loads(Path(sys.argv[1]).read_text()))
    driver = AgentsDriver(spec)
    gc.freeze()
    gc.disable()
    say(result=driver.run())


if __name__ == "__main__":
    main()
