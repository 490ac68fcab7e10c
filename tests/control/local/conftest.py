"""A database with a key in it, records to store, and someone who hears what became of them."""

from __future__ import annotations

import json
import queue
import sqlite3
from collections.abc import Callable, Iterator
from hashlib import sha256
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner, Result
from postgres_server import PostgresServer, postgres_server

from aigateway.actors.actor.base import new_reply
from aigateway.actors.control.local.api_keys import NewApiKey, create_key
from aigateway.actors.control.local.local import LocalControlPlane
from aigateway.actors.control.local.opening import open_address
from aigateway.actors.control.local.postgres_store import PostgresStore
from aigateway.actors.control.local.schema import Database, open_database
from aigateway.actors.control.local.store import Store
from aigateway.actors.control.messages import (
    Authorize,
    Begin,
    Spooled,
    Stored,
    StoreRecords,
)
from aigateway.actors.providers.recording import new_interception_id
from aigateway.actors.values.records import (
    ContentLink,
    ContentPart,
    InterceptionBegun,
    InterceptionEnded,
    ModelAnswer,
    ModelThought,
    PromptUsage,
    SentContent,
    TokenUsage,
    ToolUsage,
)

NOON = 1_772_280_000.0
"""2026-02-28T12:00:00Z"""


class Records:
    """Makes records that are plain except for what a test names."""

    def start(self, **changes: Any) -> InterceptionBegun:
        values = {
            "id": new_interception_id(),
            "initiator_id": "11111111-1111-4111-8111-111111111111",
            "username": "ada",
            "api_key_id": "keykeykeyk",
            "provider": "anthropic",
            "provider_name": "anthropic-eu",
            "model": "claude-x",
            "client": "Claude Code",
            "user_agent": "claude-cli/2.0",
            "started_at": NOON,
        }
        return InterceptionBegun(**(values | changes))

    def tokens(self, interception: str, **changes: Any) -> TokenUsage:
        values = {
            "interception_id": interception,
            "msg_id": "msg_1",
            "input_tokens": 10,
            "output_tokens": 5,
            "created_at": NOON + 1,
        }
        return TokenUsage(**(values | changes))

    def prompt(self, interception: str, **changes: Any) -> PromptUsage:
        values = {
            "interception_id": interception,
            "msg_id": "msg_1",
            "prompt": "why?",
            "created_at": NOON + 1,
        }
        return PromptUsage(**(values | changes))

    def tool(self, interception: str, **changes: Any) -> ToolUsage:
        values = {
            "interception_id": interception,
            "msg_id": "msg_1",
            "tool": "Bash",
            "input": '{"command":"ls"}',
            "created_at": NOON + 1,
        }
        return ToolUsage(**(values | changes))

    def thought(self, interception: str, **changes: Any) -> ModelThought:
        values = {
            "interception_id": interception,
            "content": "because",
            "created_at": NOON + 1,
        }
        return ModelThought(**(values | changes))

    def answer(self, interception: str, **changes: Any) -> ModelAnswer:
        values = {
            "interception_id": interception,
            "msg_id": "msg_1",
            "content": "it is done",
            "created_at": NOON + 1.75,
        }
        return ModelAnswer(**(values | changes))

    def sent(self, interception: str, *parts: Any, record_id: str = "sent") -> SentContent:
        """What was sent: messages as texts or as documents, each a part."""
        told, links, before = [], [], b""
        for place, part in enumerate(parts):
            text = json.dumps({"role": "user", "content": part} if isinstance(part, str) else part)
            name = sha256(text.encode()).digest()[:16]
            told.append(ContentPart(name, place, "message", len(text), text))
            link = sha256(before + name).digest()[:16]
            links.append(ContentLink(link, before, name))
            before = link
        return SentContent(
            interception_id=interception,
            created_at=NOON,
            parts=tuple(told),
            links=tuple(links),
            last=before,
            record_id=record_id,
        )

    def end(self, interception: str, **changes: Any) -> InterceptionEnded:
        return InterceptionEnded(**({"id": interception, "ended_at": NOON + 2} | changes))


class Listener:
    """Stands in for the recorder: keeps what it is told."""

    def __init__(self) -> None:
        self._inbox: queue.Queue[Any] = queue.Queue()

    def tell(self, message: Any) -> None:
        self._inbox.put(message)

    def next(self) -> Any:
        return self._inbox.get(timeout=10)


class Driver:
    """A running LocalControlPlane and what tests do with it."""

    def __init__(self, path: Path, **options: Any) -> None:
        self.deaths: list[BaseException | None] = []
        self.ref = LocalControlPlane.start(
            "control-plane", lambda _actor, error: self.deaths.append(error), path, **options
        )
        self.listener = Listener()

    def authorize(self, token: str) -> Any:
        return self.authorize_later(token).get(timeout=10)

    def authorize_later(self, token: str) -> Any:
        reply = new_reply()
        self.ref.tell(Authorize(token, reply))
        return reply

    def store(self, record: InterceptionBegun) -> Any:
        return self.store_later(record).get(timeout=10)

    def store_later(self, record: InterceptionBegun) -> Any:
        reply = new_reply()
        self.ref.tell(Begin(record, reply))
        return reply

    def send(self, *records: Any, first: int = 1) -> None:
        batch = tuple(Spooled(first + n, record) for n, record in enumerate(records))
        self.ref.tell(StoreRecords((batch,) if batch else (), self.listener))

    def store_records(self, *records: Any, first: int = 1) -> Stored:
        self.send(*records, first=first)
        answer = self.listener.next()
        assert isinstance(answer, Stored)
        return answer


@pytest.fixture
def records() -> Records:
    return Records()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "gateway.db"


@pytest.fixture
def database(path: Path) -> Iterator[sqlite3.Connection]:
    """The database, open beside whatever else uses it."""
    connection = open_database(path)
    yield connection
    connection.close()


@pytest.fixture
def commands_on(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Callable[..., Result]]:
    """Makes what runs commands on a database; nothing but click's own exits is allowed."""

    def on(address: str) -> Callable[..., Result]:
        monkeypatch.setenv("CODER_AI_GATEWAY_LOCAL_DB", address)
        monkeypatch.delenv("CODER_CONFIG_PATH", raising=False)
        return invoke

    def invoke(command: click.Command, *arguments: str, **options: Any) -> Result:
        result = CliRunner().invoke(command, arguments, **options)
        assert result.exception is None or isinstance(result.exception, SystemExit)
        return result

    return on


@pytest.fixture(scope="session")
def postgres() -> Iterator[PostgresServer]:
    """A server for all tests that do not kill it."""
    with postgres_server() as server:
        yield server


@pytest.fixture(params=["sqlite", "postgresql"])
def address(request: pytest.FixtureRequest, path: Path) -> str:
    """A database of either kind, as --local-db names it."""
    if request.param == "sqlite":
        return str(path)
    server: PostgresServer = request.getfixturevalue("postgres")
    return server.new_database()


@pytest.fixture
def either(address: str) -> Iterator[Database]:
    """A database of either kind, open beside whatever else uses it."""
    database = open_address(address)
    yield database
    database.close()


@pytest.fixture
def store(address: str, either: Database) -> Iterator[Store | PostgresStore]:
    """What a gateway writes into :func:`either` with, without prices."""
    store = PostgresStore(address, 1, 10) if "://" in address else Store(address, 1)
    yield store
    store.close()


@pytest.fixture
def key(database: sqlite3.Connection) -> NewApiKey:
    return create_key(database, "ada")


@pytest.fixture
def start(path: Path) -> Iterator[Callable[..., Driver]]:
    drivers: list[Driver] = []

    def start_one(**options: Any) -> Driver:
        drivers.append(Driver(path, **options))
        return drivers[-1]

    yield start_one
    for driver in drivers:
        driver.ref.stop()


@pytest.fixture
def plane(start: Callable[..., Driver], database: sqlite3.Connection) -> Driver:
    return start()
