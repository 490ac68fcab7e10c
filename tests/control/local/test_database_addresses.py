"""Addresses of PostgreSQL: which are taken, and that no password of theirs is ever shown."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from gateway_process import free_port
from postgres_server import PASSWORD, PostgresServer

from aigateway.actors.control.local.address import (
    LocalDatabaseError,
    address_problem,
    is_postgresql,
    password_of,
    shown,
)
from aigateway.actors.control.local.opening import open_address
from aigateway.http.logs import secrets_of
from aigateway.http.settings import SettingsError, load


@pytest.mark.parametrize(
    ("address", "as_shown", "password"),
    [
        ("postgresql://u:hush-hush@h/d", "postgresql://u:****@h/d", "hush-hush"),
        ("postgres://u:hush%40hush@h:5/d?a=b", "postgres://u:****@h:5/d?a=b", "hush@hush"),
        ("postgresql:///d?host=/run/pg", "postgresql:///d?host=/run/pg", ""),
        ("postgresql://u@[::1]:5,h2:6/d", "postgresql://u@[::1]:5,h2:6/d", ""),
        ("postgresql://h/d?user=u&password=hush", "postgresql://h/d?user=u&password=****", "hush"),
        ("postgresql://h/d?sslpassword=hush&x=y", "postgresql://h/d?sslpassword=****&x=y", ""),
    ],
)
def test_an_address_is_taken_and_shown_without_its_password(
    address: str, as_shown: str, password: str
) -> None:
    assert is_postgresql(address)
    assert address_problem(address) == ""
    assert shown(address) == as_shown
    assert password_of(address) == password


@pytest.mark.parametrize(
    "address",
    [
        "postgresql://u:hu@sh@h/d",
        "postgresql://u:hu/sh@h/d",
        "postgresql://u:hu?sh@h/d",
        "postgresql://u:hu#sh@h/d",
        "postgresql://u:hu:sh@h/d",
        "postgresql://u:hu sh@h/d",
        "postgresql://u:hush@h",
        "postgresql:u:hush@h/d",
        "POSTGRESQL://u:hush@h/d",
    ],
)
def test_what_libpq_would_read_otherwise_is_refused_without_repeating_it(address: str) -> None:
    with pytest.raises(SettingsError) as caught:
        load({"local_db": address}, {}, require_coderd=False)
    assert "postgresql://" in str(caught.value) or "database's name" in str(caught.value)
    for part in ("hush", "sh@h", "hu@", "hu/", "hu?", "hu#"):
        assert part not in str(caught.value)
        assert part not in shown(address)


@pytest.mark.parametrize("path", ["gateway.db", "/srv/postgresql/x.db", "./postgresql:x.db"])
def test_a_path_is_a_path(path: str) -> None:
    assert not is_postgresql(path)
    assert shown(path) == path


def test_the_password_is_among_the_secrets_of_the_logs() -> None:
    settings = load(
        {"local_db": "postgresql://u:hush%40hush@h/d", "local": True}, {}, require_coderd=False
    )
    masked = secrets_of(settings).apply("the password hush@hush, or hush%40hush")
    assert masked == "the password ********, or ********"
    assert "hush" not in repr(settings)


@pytest.mark.parametrize("trouble", ["refused", "password", "database"])
def test_an_error_says_what_is_wrong_and_no_password(
    postgres: PostgresServer, trouble: str
) -> None:
    address, reason = {
        "refused": (f"postgresql://u:hush-hush@127.0.0.1:{free_port()}/d", "refused"),
        "password": (
            f"postgresql://postgres:hush-hush@127.0.0.1:{postgres.port}/postgres",
            "password authentication failed",
        ),
        "database": (postgres.address("nowhere"), '"nowhere" does not exist'),
    }[trouble]
    with pytest.raises(LocalDatabaseError, match=reason) as caught:
        open_address(address)
    for secret in ("hush", PASSWORD, "w%40rd"):
        assert secret not in str(caught.value)


def test_the_password_may_stand_in_a_file(
    postgres: PostgresServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    escaped = PASSWORD.replace("\\", "\\\\").replace(":", "\\:")
    file = tmp_path / "pgpass"
    file.write_text(f"127.0.0.1:{postgres.port}:*:postgres:{escaped}\n")
    file.chmod(0o600)
    name = postgres.new_database().rpartition("/")[2]
    monkeypatch.setenv("PGPASSFILE", str(file))
    open_address(f"postgresql://postgres@127.0.0.1:{postgres.port}/{name}").close()


def test_greenlets_go_on_while_one_waits_for_the_server(postgres: PostgresServer) -> None:
    program = """
from gevent import monkey
monkey.patch_all()
import sys, time, gevent
from aigateway.actors.control.local.postgres import ConnectionPool
ticks = 0
def tick():
    global ticks
    while True:
        ticks += 1
        time.sleep(0.01)
gevent.spawn(tick)
pool = ConnectionPool(sys.stdin.read(), 1)
with pool.connection(20) as database:
    before = ticks
    database.execute("SELECT pg_sleep(1)")
    print(ticks - before)
pool.close()
"""
    done = subprocess.run(
        [sys.executable, "-c", program],
        input=postgres.address(),
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert int(done.stdout) > 10
