"""The embedded control plane as the rest of the gateway sees it."""

from __future__ import annotations

import os
import shutil
import sqlite3
import threading
from pathlib import Path
from typing import Any

import pytest
from waiting import wait_until

from aigateway.actors.actor.base import ActorDied, Crash, new_reply
from aigateway.actors.control.local import store as store_module
from aigateway.actors.control.local.api_keys import NewApiKey, create_key, revoke_key
from aigateway.actors.control.local.schema import LocalDatabaseError, open_database
from aigateway.actors.control.messages import (
    Accepted,
    Authorize,
    Caller,
    Denied,
    GetMcpConfiguration,
    GetStatus,
    McpConfiguration,
    McpServer,
    ProvidersChanged,
    Spooled,
    Stored,
    StoreRecords,
    SubscribeProviders,
    Unavailable,
)
from aigateway.actors.values.provider_config import ProviderConfig

UNAUTHORIZED = Denied("unauthorized")


def count(database: sqlite3.Connection, table: str = "interceptions") -> int:
    return database.execute(f"SELECT count(*) FROM {table}").fetchone()[0]


# -- keys


def test_the_holder_of_a_key_is_known_by_name(plane: Any, key: NewApiKey) -> None:
    assert plane.authorize(key.token) == Caller(key.key.user_id, "ada", key.key.id)


@pytest.mark.parametrize(
    "token",
    ["", "-", "x", "no-such", "nosuchkeyx-0123456789012345678901", "ключ-тайна", "\ud800-\ud800"],
)
def test_an_unknown_key_is_refused(plane: Any, key: NewApiKey, token: str) -> None:
    assert plane.authorize(token) == UNAUTHORIZED


def test_the_right_id_with_a_wrong_secret_is_refused(plane: Any, key: NewApiKey) -> None:
    for token in (key.token[:-1], key.token + "x", key.key.id, key.key.id + "-", " " + key.token):
        assert plane.authorize(token) == UNAUTHORIZED


def test_the_stored_hash_is_not_a_key(plane: Any, key: NewApiKey, database: Any) -> None:
    (digest,) = database.execute("SELECT secret_sha256 FROM api_keys").fetchone()
    assert plane.authorize(f"{key.key.id}-{digest}") == UNAUTHORIZED


def test_a_revoked_key_is_refused_at_once(plane: Any, key: NewApiKey, database: Any) -> None:
    assert isinstance(plane.authorize(key.token), Caller)
    revoke_key(database, key.key.id)
    assert plane.authorize(key.token) == UNAUTHORIZED


def test_a_key_made_while_the_gateway_runs_is_good_at_once(plane: Any, database: Any) -> None:
    assert isinstance(plane.authorize(create_key(database, "eve").token), Caller)


def test_a_key_is_good_until_it_expires(start: Any, database: Any) -> None:
    now = [1_000_000.0]
    key = create_key(database, "ada", expires_in=60, now=now[0])
    plane = start(clock=lambda: now[0])
    now[0] += 59.999
    assert isinstance(plane.authorize(key.token), Caller)
    now[0] += 0.001
    assert plane.authorize(key.token) == UNAUTHORIZED


def test_a_key_that_many_present_at_one_moment_is_looked_up_once(start: Any, database: Any) -> None:
    ada, eve = create_key(database, "ada"), create_key(database, "eve")
    looking, go_on, moments = threading.Event(), threading.Event(), []

    def clock() -> float:
        moments.append(1)
        if len(moments) == 2:
            looking.set()
            assert go_on.wait(10)
        return 1_000_000.0

    plane = start(clock=clock)
    asked = [Authorize(key.token, new_reply()) for key in (ada, ada, eve, ada, eve)]
    plane.ref.tell(asked[0])
    assert looking.wait(10)
    for each in asked[1:]:
        plane.ref.tell(each)
    go_on.set()
    names = [each.reply.get(timeout=10).username for each in asked]
    assert names == ["ada", "ada", "eve", "ada", "eve"]
    # Its start, the one that came alone, and one for each of two keys.
    assert len(moments) == 4


# -- what it is configured with


def test_providers_are_told_at_once(start: Any, database: Any) -> None:
    providers = (ProviderConfig(name="a", type="anthropic", base_url="https://a.example"),)
    plane = start(providers=providers)
    plane.ref.tell(SubscribeProviders(plane.listener))
    assert plane.listener.next() == ProvidersChanged(providers)


def test_every_user_gets_the_configured_mcp_servers(start: Any, database: Any) -> None:
    mcp = McpConfiguration((McpServer("m", "https://mcp.example"),))
    for plane, expected in ((start(mcp=mcp), mcp), (start(), McpConfiguration())):
        reply = new_reply()
        plane.ref.tell(GetMcpConfiguration("user", "token", reply))
        assert reply.get(timeout=10) == expected


def test_it_is_connected_and_says_to_what(plane: Any, path: Path) -> None:
    status = plane.ref.ask(GetStatus(), timeout=10)
    assert (status.connected, status.fatal) == (True, None)
    assert str(path) in status.detail


# -- records


def test_records_are_in_the_database_when_they_are_answered(
    plane: Any, database: Any, records: Any
) -> None:
    start = records.start()
    assert plane.store(start) == Accepted()
    assert count(database) == 1
    batch = (records.prompt(start.id), records.tokens(start.id), records.end(start.id))
    assert plane.store_records(*batch, first=7) == Stored(done=(7, 8, 9))
    assert count(database, "user_prompts") == count(database, "token_usages") == 1


def test_what_waits_together_is_committed_together(
    start: Any, database: Any, records: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes: list[tuple[int, int]] = []
    write = store_module.Store.write

    def counted(self: Any, starts: Any, rest: Any, *more: Any) -> Any:
        sizes.append((len(starts), len(rest)))
        return write(self, starts, rest, *more)

    monkeypatch.setattr(store_module.Store, "write", counted)
    database.execute("BEGIN IMMEDIATE")
    plane = start()
    replies = [plane.store_later(records.start()) for _ in range(300)]
    for first in (0, 900, 1800):
        plane.send(*[records.tokens("i") for _ in range(900)], first=first)
    plane.ref.ask(GetStatus(), timeout=10)
    database.execute("COMMIT")
    assert {type(reply.get(timeout=10)) for reply in replies} == {Accepted}
    done = [seq for _ in range(3) for seq in plane.listener.next().done]
    assert done == list(range(2700))
    # The last ones are those that found the database unlocked.
    assert sizes[-3:] == [(256, 900), (44, 900), (0, 900)]


def test_each_sender_hears_of_its_own_records(plane: Any, database: Any, records: Any) -> None:
    known, unknown = records.start(), records.end("nobody")
    database.execute("BEGIN IMMEDIATE")
    plane.store_later(known)
    plane.send()
    plane.send(records.tokens("i"), unknown, first=10)
    plane.send(unknown, records.end(known.id), first=20)
    database.execute("COMMIT")
    reason = 'unknown interception "nobody"'
    assert plane.listener.next() == Stored()
    assert plane.listener.next() == Stored(done=(10,), rejected={11: reason})
    assert plane.listener.next() == Stored(done=(21,), rejected={20: reason})


def test_an_interception_that_cannot_be_stored_is_refused(plane: Any, records: Any) -> None:
    answer = plane.store(records.start(started_at=float("nan")))
    assert isinstance(answer, Denied)
    assert answer.status == 400


def test_a_sender_that_died_harms_nobody(plane: Any, records: Any) -> None:
    from pykka import ActorDeadError

    class Dead:
        def tell(self, message: Any) -> None:
            raise ActorDeadError("gone")

    plane.ref.tell(StoreRecords(((Spooled(1, records.tokens("i")),),), Dead()))
    plane.ref.tell(SubscribeProviders(Dead()))
    assert plane.store_records(records.tokens("i")) == Stored(done=(1,))
    assert plane.deaths == []


# -- a locked database


def test_writers_wait_for_a_lock_while_keys_are_looked_up(
    plane: Any, key: NewApiKey, database: Any, records: Any
) -> None:
    database.execute("BEGIN IMMEDIATE")
    pending = plane.store_later(records.start())
    for _ in range(20):
        assert isinstance(plane.authorize(key.token), Caller)
    database.execute("COMMIT")
    assert pending.get(timeout=10) == Accepted()


def test_a_database_that_stays_locked_means_ask_later(
    start: Any, database: Any, records: Any
) -> None:
    plane = start(lock_patience=0.05)
    database.execute("BEGIN IMMEDIATE")
    answer = plane.store(records.start())
    assert isinstance(answer, Unavailable)
    assert "database is locked" in answer.message
    stored = plane.store_records(records.tokens("i"), records.end("i"))
    assert (stored.done, stored.away, list(stored.retry)) == ((), True, [1, 2])
    assert not plane.ref.ask(GetStatus(), timeout=10).connected

    database.execute("COMMIT")
    assert plane.ref.ask(GetStatus(), timeout=10).connected
    assert plane.store(records.start()) == Accepted()


def test_a_look_up_that_meets_a_lock_is_tried_again(
    plane: Any, key: NewApiKey, monkeypatch: pytest.MonkeyPatch
) -> None:
    locked_times = iter(range(3))
    find_caller = store_module.Store.find_caller

    def locked_at_first(self: Any, token: str, now: float) -> Any:
        if next(locked_times, None) is not None:
            raise store_module.DatabaseBusy("database is locked")
        return find_caller(self, token, now)

    monkeypatch.setattr(store_module.Store, "find_caller", locked_at_first)
    assert isinstance(plane.authorize(key.token), Caller)


def test_a_look_up_that_stays_locked_means_ask_later(
    start: Any, key: NewApiKey, monkeypatch: pytest.MonkeyPatch
) -> None:
    def locked(self: Any, token: str, now: float) -> Any:
        raise store_module.DatabaseBusy("database is locked")

    plane = start(lock_patience=0.05)
    with monkeypatch.context() as patch:
        patch.setattr(store_module.Store, "find_caller", locked)
        assert isinstance(plane.authorize(key.token), Unavailable)
    assert isinstance(plane.authorize(key.token), Caller)


# -- a database in trouble


class Trouble:
    """Opens databases that obey a limit: pages at most, or no writing at all."""

    def __init__(self) -> None:
        self.pragma = ""
        self._opened: list[sqlite3.Connection] = []

    def open_database(self, *arguments: Any, **options: Any) -> sqlite3.Connection:
        connection = open_database(*arguments, **options)
        self._opened.append(connection)
        if self.pragma:
            connection.execute(self.pragma)
        return connection


@pytest.fixture
def trouble(monkeypatch: pytest.MonkeyPatch) -> Trouble:
    trouble = Trouble()
    monkeypatch.setattr(store_module, "open_database", trouble.open_database)
    return trouble


@pytest.mark.parametrize(
    ("pragma", "reason"),
    [("PRAGMA max_page_count = 1", "full"), ("PRAGMA query_only = ON", "readonly")],
)
def test_a_full_or_read_only_disk_is_survived(
    start: Any,
    key: NewApiKey,
    database: Any,
    records: Any,
    trouble: Trouble,
    pragma: str,
    reason: str,
) -> None:
    trouble.pragma = pragma
    plane = start()
    big = "x" * 100_000
    answer = plane.store(records.start(model=big))
    assert isinstance(answer, Unavailable)
    assert reason in answer.message
    assert isinstance(plane.authorize(key.token), Caller)
    stored = plane.store_records(records.prompt("i", prompt=big))
    assert stored.away
    assert reason in stored.retry[1]
    assert count(database) == 0

    trouble.pragma = ""
    # The connection that met the trouble was given up: this one is new.
    assert plane.store_records(records.prompt("i", prompt=big)) == Stored(done=(1,))
    assert plane.ref.ask(GetStatus(), timeout=10).connected
    assert plane.deaths == []


def test_a_database_that_was_taken_away_is_not_written_to(
    plane: Any, key: NewApiKey, database: Any, path: Path, records: Any, tmp_path: Path
) -> None:
    assert plane.store(records.start()) == Accepted()
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    database.close()
    for file in tmp_path.glob("gateway.db*"):
        shutil.move(file, elsewhere)
    answer = plane.store(records.start())
    assert isinstance(answer, Unavailable)
    assert "there is no such file" in answer.message
    assert isinstance(plane.authorize(key.token), Unavailable)
    assert not plane.ref.ask(GetStatus(), timeout=10).connected
    assert not path.exists()

    for file in elsewhere.iterdir():
        os.rename(file, tmp_path / file.name)
    assert plane.store(records.start()) == Accepted()
    assert isinstance(plane.authorize(key.token), Caller)
    again = sqlite3.connect(path)
    assert count(again) == 2
    again.close()


def test_a_lost_table_is_trouble_and_no_death(plane: Any, database: Any, records: Any) -> None:
    database.execute("DROP TABLE token_usages")
    stored = plane.store_records(records.tokens("i"))
    assert "no such table" in stored.retry[1]
    assert plane.store(records.start()) == Accepted()


# -- its own end


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_its_start_fails_with_the_reason(start: Any, path: Path) -> None:
    path.mkdir()
    plane = start()
    wait_until(lambda: bool(plane.deaths), "it dies", 10.0)
    assert isinstance(plane.deaths[0], LocalDatabaseError)
    assert "--local-db" in str(plane.deaths[0])


def test_a_database_that_cannot_be_opened_now_is_opened_later(
    start: Any, key: NewApiKey, database: Any, path: Path, records: Any
) -> None:
    database.close()
    elsewhere = sqlite3.connect(path, isolation_level=None)
    elsewhere.execute("PRAGMA locking_mode = EXCLUSIVE")
    elsewhere.execute("BEGIN EXCLUSIVE")
    plane = start()
    status = plane.ref.ask(GetStatus(), timeout=10)
    assert not status.connected
    assert "locked" in status.detail
    elsewhere.close()
    assert plane.ref.ask(GetStatus(), timeout=10).connected
    assert isinstance(plane.authorize(key.token), Caller)
    assert plane.store(records.start()) == Accepted()
    assert plane.deaths == []


def test_its_death_leaves_nobody_waiting(plane: Any, database: Any, records: Any) -> None:
    database.execute("BEGIN IMMEDIATE")
    reply = plane.store_later(records.start())
    plane.send(records.tokens("i"), first=5)
    plane.ref.ask(GetStatus(), timeout=10)
    plane.ref.tell(Crash())
    with pytest.raises(ActorDied):
        reply.get(timeout=10)
    answer = plane.listener.next()
    assert (list(answer.retry), answer.away) == ([5], True)
    wait_until(lambda: len(plane.deaths) == 1, "it dies", 10.0)
    database.execute("COMMIT")
    assert count(database) == 0


def test_its_death_leaves_no_look_up_waiting(
    start: Any, key: NewApiKey, monkeypatch: pytest.MonkeyPatch
) -> None:
    def locked(self: Any, token: str, now: float) -> Any:
        raise store_module.DatabaseBusy("database is locked")

    monkeypatch.setattr(store_module.Store, "find_caller", locked)
    plane = start(lock_patience=60)
    reply = plane.authorize_later(key.token)
    plane.ref.ask(GetStatus(), timeout=10)
    plane.ref.tell(Crash())
    with pytest.raises(ActorDied):
        reply.get(timeout=10)
