"""How the database file is made, recognised and refused."""

from __future__ import annotations

import os
import sqlite3
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from aigateway.actors.control.local.schema import (
    APPLICATION_ID,
    VERSION,
    LocalDatabaseError,
    open_database,
    read_database,
)
from aigateway.actors.values.records import timestamp

PUBLIC = {
    "interceptions": "id initiator_id username api_key_id provider provider_name model client"
    " client_session_id user_agent correlating_tool_call_id credential_kind credential_hint"
    " metadata started_at ended_at error_type error_message group_names project"
    " session_id agent_id parent_agent_id repository branch commit_hash",
    "token_usages": "interception_id msg_id input_tokens output_tokens cache_read_input_tokens"
    " cache_write_input_tokens metadata created_at cost_nano_usd price price_table",
    "user_prompts": "interception_id msg_id prompt metadata created_at",
    "tool_usages": "interception_id msg_id tool_call_id item_id server_url tool input injected"
    " invocation_error metadata created_at",
    "model_thoughts": "interception_id content metadata created_at",
    "model_answers": "interception_id msg_id content metadata created_at",
    "content_parts": "id interception_id place kind size content",
    "content_links": "id before part",
    "content_turns": "interception_id last",
    "cache_turns": "interception_id user_id session_id agent_id began model provider_name"
    " credential_hint parts ttl prompt_tokens kept_tokens read_tokens could_tokens lost_tokens"
    " cause place cost_nano_usd",
    "api_keys": "id secret_sha256 user_id username expires_at revoked_at created_at"
    " name group_id project rules last_used_at",
    "users": "id name created_at disabled_at",
    "groups": "id name created_at",
    "memberships": "user_id group_id created_at",
    "policies": "version document created_by created_at",
    "admin_keys": "id name secret_sha256 created_at revoked_at",
    "console_sessions": "secret_sha256 issuer subject name group_names id_token created_at"
    " expires_at",
    "audit": "id at who action subject before after",
}


@pytest.mark.parametrize("table", PUBLIC)
def test_tables_have_the_public_columns(database: sqlite3.Connection, table: str) -> None:
    columns = [row[1] for row in database.execute(f"PRAGMA table_info({table})")]
    assert [name for name in columns if name != "record_id"] == PUBLIC[table].split()


def test_a_new_database_is_in_wal_mode_and_marked_as_ours(database: sqlite3.Connection) -> None:
    assert database.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    assert database.execute("PRAGMA user_version").fetchone() == (VERSION,)
    assert database.execute("PRAGMA application_id").fetchone() == (APPLICATION_ID,)


def test_a_new_database_is_readable_by_its_owner_only(path: Path) -> None:
    connection = open_database(path)
    connection.execute("PRAGMA user_version = 1")
    for file in path.parent.glob("gateway.db*"):
        assert stat.S_IMODE(file.stat().st_mode) == 0o600
    connection.close()


def test_opening_again_keeps_what_is_there(path: Path) -> None:
    first = open_database(path)
    first.execute("INSERT INTO user_prompts VALUES ('i', 'm', 'p', '{}', 't', NULL)")
    first.close()
    second = open_database(path)
    assert second.execute("SELECT prompt FROM user_prompts").fetchall() == [("p",)]
    second.close()


def test_a_newer_database_is_refused(path: Path) -> None:
    connection = open_database(path)
    connection.execute(f"PRAGMA user_version = {VERSION + 1}")
    connection.close()
    for opener in (open_database, read_database):
        with pytest.raises(LocalDatabaseError, match=r"--local-db .* use a newer aigateway"):
            opener(path)


def test_another_programs_database_is_refused_and_left_alone(path: Path) -> None:
    connection = sqlite3.connect(path)
    connection.execute("CREATE TABLE theirs (x)")
    connection.commit()
    connection.close()
    before = path.read_bytes()
    with pytest.raises(LocalDatabaseError, match=r"--local-db .*another program's database"):
        open_database(path)
    assert path.read_bytes() == before


def test_a_file_that_is_no_database_is_refused(path: Path) -> None:
    path.write_text("this is a shopping list, " * 100)
    with pytest.raises(LocalDatabaseError, match=r"--local-db .*not a database"):
        open_database(path)


@pytest.mark.parametrize("place", ["no/such/folder/x.db", ".", "/proc/aigateway.db"])
def test_a_place_that_cannot_be_written_is_named(tmp_path: Path, place: str) -> None:
    with pytest.raises(LocalDatabaseError, match=r"--local-db .*give a file in a folder"):
        open_database(tmp_path / place)


def test_reading_makes_no_database(path: Path) -> None:
    with pytest.raises(LocalDatabaseError, match="no such file"):
        read_database(path)
    assert not path.exists()


def test_reading_an_empty_file_says_how_to_fill_it(path: Path) -> None:
    path.touch()
    with pytest.raises(LocalDatabaseError, match="aigateway keys create"):
        read_database(path)


def test_a_reader_cannot_write(path: Path) -> None:
    open_database(path).close()
    connection = read_database(path)
    with pytest.raises(sqlite3.OperationalError, match="readonly"):
        connection.execute("DELETE FROM api_keys")
    connection.close()


def test_names_with_characters_of_addresses_are_plain_files(tmp_path: Path) -> None:
    file = tmp_path / "a b?mode=memory#c%20.db"
    open_database(file).close()
    assert file.stat().st_size > 0
    read_database(file).close()


@contextmanager
def somebody_else() -> Iterator[None]:
    """Permissions do not stop root: become another user for a while."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


def test_a_read_only_file_is_refused(public_folder: Path) -> None:
    reason = r"--local-db .*: permission denied; give"
    with somebody_else(), pytest.raises(LocalDatabaseError, match=reason):
        open_database(public_folder / "gateway.db")


def test_a_file_that_became_read_only_is_refused(public_folder: Path) -> None:
    file = public_folder / "gateway.db"
    reader = read_database(file)
    reader.execute("SELECT count(*) FROM api_keys").fetchone()
    for companion in public_folder.glob("gateway.db-*"):
        companion.chmod(0o666)
    with somebody_else(), pytest.raises(LocalDatabaseError, match=r"--local-db .*readonly"):
        open_database(file, create=False)
    reader.close()


def test_a_locked_file_is_waited_for_no_longer_than_told(path: Path) -> None:
    locker = sqlite3.connect(path, isolation_level=None)
    locker.execute("BEGIN IMMEDIATE")
    with pytest.raises(LocalDatabaseError, match=r"--local-db .*locked"):
        open_database(path, patience=0.02)
    locker.close()


@pytest.fixture
def public_folder() -> Iterator[Path]:
    """A folder that everybody may read, with a database that nobody may write."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        open_database(folder / "gateway.db").close()
        (folder / "gateway.db").chmod(0o444)
        folder.chmod(0o755)
        yield folder


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "1970-01-01T00:00:00.000000Z"),
        (1_772_280_000.25, "2026-02-28T12:00:00.250000Z"),
        (1_772_279_999.9999999, "2026-02-28T12:00:00.000000Z"),
        (-0.5, "1969-12-31T23:59:59.500000Z"),
    ],
)
def test_times_are_rfc_3339_with_microseconds(seconds: float, text: str) -> None:
    assert timestamp(seconds) == text
