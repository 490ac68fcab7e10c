"""How keys are made and what is kept of them."""

from __future__ import annotations

import hashlib
import re
import uuid
from pathlib import Path

import pytest

from aigateway.actors.control.local.api_keys import create_key, list_keys, revoke_key
from aigateway.actors.control.local.schema import Database


@pytest.fixture
def database(either: Database) -> Database:
    return either


def test_a_key_has_the_shape_of_a_coder_token(database: Database) -> None:
    made = create_key(database, "ada")
    assert re.fullmatch(r"[A-Za-z0-9]{10}-[A-Za-z0-9]{22}", made.token)
    assert made.token.startswith(made.key.id + "-")


def test_only_the_hash_of_the_secret_is_stored(database: Database, path: Path) -> None:
    made = create_key(database, "ada")
    secret = made.token.split("-")[1]
    (digest,) = database.execute("SELECT secret_sha256 FROM api_keys").fetchone()
    assert digest == hashlib.sha256(secret.encode()).hexdigest()
    for file in path.parent.glob("gateway.db*"):
        assert secret.encode() not in file.read_bytes()
    assert secret not in repr(made)


def test_no_two_keys_are_alike(database: Database) -> None:
    assert len({create_key(database, "ada").token for _ in range(50)}) == 50


def test_the_same_name_has_always_the_same_user_id(database: Database) -> None:
    first, second, other = (create_key(database, name).key for name in ("ada", "ada", "eve"))
    assert first.user_id == second.user_id != other.user_id
    assert uuid.UUID(first.user_id).version == 5
    # Records of years depend on it.
    assert first.user_id == "74a3ed11-27bd-50bc-8e34-4f6b59d956fe"


def test_a_user_id_can_be_given(database: Database) -> None:
    given = "0C4B7D0E-0000-4000-8000-00000000ABCD"
    assert create_key(database, "ada", given).key.user_id == given.lower()


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (("",), "name is empty"),
        (("  ",), "name is empty"),
        (("a\nb",), "control characters"),
        (("ada", "me"), '"me" is no UUID'),
        (("ada", None, 0), "expired already"),
        (("ada", None, -1), "expired already"),
        (("ada", None, float("nan")), "expired already"),
        (("ada", None, 1e12), "year 9999"),
        (("ada", None, 1e30), "year 9999"),
    ],
)
def test_nonsense_makes_no_key(database: Database, arguments: tuple, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        create_key(database, *arguments)
    assert list_keys(database) == []


def test_keys_are_listed_with_their_state(database: Database) -> None:
    forever = create_key(database, "ada", now=1000).key
    short = create_key(database, "eve", expires_in=60, now=2000).key
    gone = create_key(database, "bob", now=3000).key
    assert revoke_key(database, gone.id, now=4000)
    listed = list_keys(database)
    assert [key.id for key in listed] == [forever.id, short.id, gone.id]
    assert [key.state(2059.9) for key in listed] == ["active", "active", "revoked"]
    assert [key.state(2060.0) for key in listed] == ["active", "expired", "revoked"]
    assert listed[1].expires_at == "1970-01-01T00:34:20.000000Z"


def test_revoking_twice_keeps_the_first_time(database: Database) -> None:
    key = create_key(database, "ada").key
    assert revoke_key(database, key.id, now=1)
    assert revoke_key(database, key.id, now=2)
    assert list_keys(database)[0].revoked_at == "1970-01-01T00:00:01.000000Z"


def test_revoking_an_unknown_key_says_so(database: Database) -> None:
    assert not revoke_key(database, "nosuchkeyx")
