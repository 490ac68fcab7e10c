"""Steady load of blocking and streaming requests, and what became of each."""

from __future__ import annotations

import threading
from types import TracebackType
from typing import Self

import requests
from attrs import field, frozen

__all__ = ["Load", "Outcome"]


@frozen
class Outcome:
    """One request, seen from its client."""

    streaming: bool
    status: int
    interception_id: str
    problem: str
    """Empty: the answer came whole."""


@frozen
class Load:
    """Asks with ``clients`` threads, each one request after the other, while it is entered."""

    url: str
    key: str
    clients: int = 4
    outcomes: list[Outcome] = field(factory=list)
    _over: threading.Event = field(factory=threading.Event)
    _threads: list[threading.Thread] = field(factory=list)

    def __enter__(self) -> Self:
        for number in range(self.clients):
            thread = threading.Thread(target=self._run, args=(number % 2 == 1,), daemon=True)
            self._threads.append(thread)
            thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, ex: BaseException | None, tb: TracebackType | None
    ) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join(60)

    @property
    def failed(self) -> list[Outcome]:
        return [one for one in list(self.outcomes) if one.problem]

    def _run(self, streaming: bool) -> None:
        with requests.Session() as session:
            while not self._over.is_set():
                self.outcomes.append(ask(session, self.url, self.key, streaming=streaming))


def ask(session: requests.Session, url: str, key: str, *, streaming: bool) -> Outcome:
    """Send one request and read its answer to the end."""
    status, interception_id, problem = 0, "", ""
    try:
        with session.post(
            f"{url}/anthropic/v1/messages",
            json={
                "model": "m",
                "max_tokens": 50,
                "stream": streaming,
                "messages": [{"role": "user", "content": "hello"}],
            },
            headers={"X-Api-Key": key},
            stream=True,
            timeout=60,
        ) as answer:
            status = answer.status_code
            interception_id = answer.headers.get("X-AI-Gateway-Interception-Id", "")
            body = answer.content
        if status != 200:
            problem = f"{status}: {body[:200]!r}"
        elif streaming and b"event: message_stop" not in body:
            problem = f"the stream is not whole: {body[-200:]!r}"
    except requests.RequestException as ex:
        problem = repr(ex)
    return Outcome(streaming, status, interception_id, problem)
