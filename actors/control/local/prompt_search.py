"""Prompts by their words: SQLite's FTS5, PostgreSQL's own.

SQLite's index costs more than a prompt's row, so it is not written with each request but in
small steps afterwards (:func:`index_more`).  What it has not come to yet is looked through as it
is, so a search finds all.  PostgreSQL keeps its index by itself.
"""

from __future__ import annotations

import re
import sqlite3
from typing import Final, TypeAlias

from attrs import field, frozen

from aigateway.actors.control.local.schema import Database, transaction
from aigateway.actors.control.local.sessions import SessionFilter

__all__ = ["Hit", "index_again", "index_more", "phrases_of", "search_prompts", "unindexed"]

SEARCHED: Final = 16_384
"""Characters of a prompt that are searched; the schema says the same."""

_ROWS_AT_ONCE, _CHARACTERS_AT_ONCE = 100, 16_384
"""How much is indexed in one transaction, so that it holds up nobody for more than some ms."""

_EXCERPT: Final = 60
"""Characters of a prompt on either side of what was found."""

_PHRASE = re.compile(r'"([^"]*)"|([^\s"]+)')
_WORD = re.compile(r"[^\W_]+")
_TAIL = 2000
"""Prompts that are looked through as they are."""


@frozen
class Hit:
    """A prompt in which all was found."""

    session_id: str | None
    user_id: str
    username: str
    interception_id: str
    created_at: str
    """RFC 3339 in UTC."""
    excerpt: str = field(repr=False)


def phrases_of(text: str) -> list[str]:
    """What is sought: words, and what stands between quotes as it stands there."""
    found = (quoted or bare for quoted, bare in _PHRASE.findall(text))
    return [phrase for phrase in found if any(letter.isalnum() for letter in phrase)]


def search_prompts(connection: Database, text: str, wanted: SessionFilter, limit: int) -> list[Hit]:
    """Prompts that have all words and phrases of ``text``, the latest first, ``limit`` at most.

    ``wanted`` is about the requests that they came with.  Raises ValueError when there is no
    word in ``text``, and what :func:`~.sessions.find_sessions` raises.
    """
    phrases = phrases_of(text)
    if not phrases:
        raise ValueError("no word to search for")
    conditions, values = wanted.request_conditions()
    if isinstance(connection, sqlite3.Connection):
        rows = _in_sqlite(connection, phrases, conditions, values, limit)
    else:
        rows = _in_postgresql(connection, phrases, conditions, values, limit)
    return [
        Hit(session, user, name, id, at, _excerpt(prompt, phrases))
        for session, user, name, id, at, prompt in rows
    ]


_Row: TypeAlias = tuple[str | None, str, str, str, str, str]
_COLUMNS = "i.session_id, i.initiator_id, i.username, i.id, p.created_at"


def _in_sqlite(
    connection: sqlite3.Connection,
    phrases: list[str],
    conditions: list[str],
    values: list[str],
    limit: int,
) -> list[_Row]:
    query = " ".join(f'"{phrase}"' for phrase in phrases)
    also = "".join(f" AND {condition}" for condition in conditions)
    rows = connection.execute(
        f"""
        SELECT {_COLUMNS}, substr(p.prompt, 1, {SEARCHED})
        FROM prompt_search s
        JOIN user_prompts p ON p.rowid = s.rowid
        JOIN interceptions i ON i.id = p.interception_id
        WHERE prompt_search MATCH ? {also} ORDER BY s.rowid DESC LIMIT {int(limit)}
        """,
        (query, *values),
    ).fetchall()
    done = _done(connection)
    tail = connection.execute(
        f"""
        SELECT {_COLUMNS}, substr(p.prompt, 1, {SEARCHED})
        FROM user_prompts p JOIN interceptions i ON i.id = p.interception_id
        WHERE p.rowid > ? {also} ORDER BY p.rowid DESC LIMIT {_TAIL}
        """,
        (done, *values),
    )
    sought = [_words(phrase) for phrase in phrases]
    fresh = [row for row in tail if all(map(_words(row[-1]).__contains__, sought))]
    return [*fresh, *rows][:limit]


def _words(text: str) -> str:
    """The words of a text with a space around each, as an index takes them."""
    return f" {' '.join(_WORD.findall(text.casefold()))} "


# As the schema has it; the question mark cannot stand here, which is a place for a value.
_INDEXED: Final = (
    f"to_tsvector('simple', translate(left(p.prompt, {SEARCHED}),"
    " '!\"#$%&''()*+,-./:;<=>@[\\]^_`{|}~' || chr(63), repeat(' ', 32)))"
)


_NO_WORD: Final = "[^[:alnum:]]"
_GAP: Final = f"{_NO_WORD}+"
"""What is between two words of a phrase, as a pattern of PostgreSQL's."""


def _in_postgresql(
    connection: Database,
    phrases: list[str],
    conditions: list[str],
    values: list[str],
    limit: int,
) -> list[_Row]:
    words = [_WORD.findall(phrase) for phrase in phrases]
    several = [_GAP.join(phrase) for phrase in words if len(phrase) > 1]
    conditions = [*(f"left(t.prompt, {SEARCHED}) ~* ?" for _ in several), *conditions]
    where = f"WHERE {' AND '.join(conditions)}" if conditions else ""
    # PERF: the index knows no phrases.  So places of prompts that have all the words come first, in
    # their order, and no more of the prompts are read than is needed.
    return connection.execute(
        f"""
        SELECT {_COLUMNS}, left(t.prompt, {SEARCHED})
        FROM (
            SELECT p.ctid AS place, p.interception_id, p.created_at
            FROM user_prompts p WHERE {_INDEXED} @@ plainto_tsquery('simple', ?)
            ORDER BY p.created_at DESC OFFSET 0
        ) p
        CROSS JOIN LATERAL (
            SELECT t.prompt FROM user_prompts t WHERE t.ctid = p.place OFFSET 0
        ) t
        JOIN interceptions i ON i.id = p.interception_id
        {where} ORDER BY p.created_at DESC LIMIT {int(limit)}
        """,
        (
            " ".join(word for phrase in words for word in phrase),
            *(f"(^|{_NO_WORD}){pattern}({_NO_WORD}|$)" for pattern in several),
            *values,
        ),
    ).fetchall()


def _excerpt(prompt: str, phrases: list[str]) -> str:
    """The prompt around the first thing that was found, in one line."""
    found = re.search("|".join(map(re.escape, phrases)), prompt, re.IGNORECASE)
    at = found.start() if found else 0
    start, end = max(0, at - _EXCERPT), at + 2 * _EXCERPT
    line = " ".join(prompt[start:end].split())
    return f"{'…' if start else ''}{line}{'…' if end < len(prompt) else ''}"


# -- SQLite's index


def _done(connection: sqlite3.Connection) -> int:
    row = connection.execute("SELECT done FROM housekeeping WHERE task = 'search'").fetchone()
    return int(row[0])


def unindexed(connection: Database) -> bool:
    """Whether :func:`index_more` has something to do."""
    if not isinstance(connection, sqlite3.Connection):
        return False
    (newest,) = connection.execute("SELECT coalesce(max(rowid), 0) FROM user_prompts").fetchone()
    return int(newest) > _done(connection)


def index_more(connection: Database) -> bool:
    """Take some more prompts into the index; says whether there may be others left."""
    if not isinstance(connection, sqlite3.Connection):
        return False
    with transaction(connection):
        done = _done(connection)
        last, characters, rows = done, 0, 0
        found = connection.execute(
            f"SELECT rowid, min(length(prompt), {SEARCHED}) FROM user_prompts"
            f" WHERE rowid > ? ORDER BY rowid LIMIT {_ROWS_AT_ONCE}",
            (done,),
        )
        for last, length in found:  # noqa: B007
            characters, rows = characters + length, rows + 1
            if characters >= _CHARACTERS_AT_ONCE:
                break
        if last > done:
            connection.execute(
                "INSERT INTO prompt_search (rowid, prompt)"
                " SELECT place, prompt FROM searched_prompts WHERE place > ? AND place <= ?",
                (done, last),
            )
            connection.execute("UPDATE housekeeping SET done = ? WHERE task = 'search'", (last,))
    return characters >= _CHARACTERS_AT_ONCE or rows == _ROWS_AT_ONCE


def index_again(connection: sqlite3.Connection) -> None:
    """Forget the index, so that all is taken into it again: SQLite may number rows again when a
    file is rewritten."""
    with transaction(connection):
        connection.execute("INSERT INTO prompt_search (prompt_search) VALUES ('delete-all')")
        connection.execute("UPDATE housekeeping SET done = 0 WHERE task = 'search'")
